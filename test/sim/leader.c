/*
 * What a leader does: hears, judges, moves what lost nodes own, keeps the servers.  It is the way
 * that liveness.h and membership.h ask for; a leader that was deposed goes on with it until it
 * notices, late.
 */
#include <stdio.h>
#include <string.h>

#include "base/check.h"

#include "test/sim/sim.h"

enum {
    MOVE_AGAIN_MS = 1000,
    DECIDE_MS = 1000,
    NOTICE_LATE_MS = 1500,
    ADD_LIMIT_MS = 10000,
    TRANSFER_LIMIT_MS = 2000,
    PROPOSE_LIMIT_MS = 5000,
};

void propose(struct world *world, struct sim_node *node, const struct entry *entry)
{
    if (raft_append(world, node, entry) != 0) {
        return;
    }
    uint64_t leader = node->is_server && node->raft.leader != 0 ? node->raft.leader : node->hint;
    if (leader == 0 || leader == node->id) {
        return;
    }
    struct entry copy = *entry;
    struct message message = {
        .kind = MESSAGE_PROPOSE, .from = node->id, .to = leader, .count = 1, .entries = &copy};
    send_message(world, node, &message);
}

static bool leads(const struct sim_node *node)
{
    return node->is_server && node->raft.role == RAFT_LEADER;
}

/* It leads, and in the term for which it judges. */
static bool reigns(const struct sim_node *node)
{
    return leads(node) && node->reign_begun == node->raft.term;
}

/* ---- What is known of each node ---- */

static bool is_of_interest(const struct sim_node *node, uint64_t id)
{
    uint64_t index;
    const struct config *config = raft_config(&node->raft, &index);
    bool found = config_has(config, id) || config->standby == id;
    for (int i = 0; i < SIM_NODES; i++) {
        found = found || (node->state.rows[i].is_there && node->state.rows[i].id == id);
    }
    for (int i = 0; i < SIM_RESOURCES; i++) {
        found = found || node->state.owners[i] == id;
    }
    return found && id != 0;
}

static struct fact *fact_of(struct world *world, struct sim_node *node, uint64_t id)
{
    size_t kept = 0;
    for (size_t i = 0; i < node->fact_count; i++) {
        if (node->facts[i].id == id) {
            return &node->facts[i];
        }
    }
    for (size_t i = 0; i < node->fact_count; i++) {
        if (is_of_interest(node, node->facts[i].id)) {
            node->facts[kept++] = node->facts[i];
        } else {
            liveness_forget(node->leader, node->facts[i].id);
        }
    }
    node->fact_count = kept;
    CHECK(kept < sizeof(node->facts) / sizeof(node->facts[0]));
    node->facts[kept] = (struct fact){.id = id, .role_since_ms = boot_ms(world, node)};
    node->fact_count++;
    return &node->facts[kept];
}

static const struct row *row_of(const struct state *state, uint64_t id, int *ret_slot)
{
    for (int i = 0; i < SIM_NODES; i++) {
        if (state->rows[i].is_there && state->rows[i].id == id) {
            *ret_slot = i;
            return &state->rows[i];
        }
    }
    return NULL;
}

/* ---- The reign ---- */

static void begin_reign(struct world *world, struct sim_node *node)
{
    uint64_t now_ms = boot_ms(world, node);
    node->reign_begun = node->raft.term;
    node->end_ms = 0;
    node->fact_count = 0;
    node->change = (struct change){0};
    node->begun_ms = node->changed_ms = now_ms;
    liveness_leader_begin(node->leader, node->raft.term, now_ms);
    struct entry entry = {.kind = ENTRY_REIGN, .a = node->raft.term};
    node->reign_index = node->raft.length + 1; /* it may be applied before this returns */
    CHECK(raft_append(world, node, &entry) == node->reign_index);
}

/* Begin when it leads; end some time after it does no more. */
static void follow_raft(struct world *world, struct sim_node *node)
{
    if (leads(node) && node->reign_begun != node->raft.term) {
        begin_reign(world, node);
        return;
    }
    if (node->reign_begun == 0 || reigns(node)) {
        node->end_ms = 0;
        return;
    }
    uint64_t now_ms = boot_ms(world, node);
    if (node->end_ms == 0) {
        node->end_ms = now_ms + draw(world, NOTICE_LATE_MS) + 1;
    } else if (now_ms >= node->end_ms) {
        liveness_leader_end(node->leader);
        node->reign_begun = 0;
        node->end_ms = 0;
    }
}

void leader_applied(struct world *world, struct sim_node *node, uint64_t index)
{
    if (!reigns(node)) {
        return;
    }
    if (index == node->reign_index) {
        liveness_leader_ready(node->leader, node->reign_begun);
    }
    if (node->change.index == index) {
        node->change = (struct change){0};
        node->changed_ms = boot_ms(world, node);
    }
    for (size_t i = 0; i < node->fact_count; i++) {
        struct fact *fact = &node->facts[i];
        if (fact->ticket != 0 && fact->barrier == index) {
            liveness_readmit(node->leader, fact->id, fact->ticket);
            fact->ticket = 0;
            world->readmitted++;
        }
    }
}

static void begin_readmission(struct world *world, struct sim_node *node, struct fact *fact,
                              uint64_t ticket)
{
    struct entry entry = {.kind = ENTRY_NOTHING};
    uint64_t index = node->raft.length + 1;
    fact->ticket = ticket;
    fact->barrier = index;
    uint64_t id = fact->id;
    if (!reigns(node) || raft_append(world, node, &entry) == 0) {
        liveness_readmit_failed(node->leader, id, ticket);
    }
}

void leader_hear(struct world *world, struct sim_node *node, const struct message *message)
{
    struct message answer = {.kind = MESSAGE_ANSWER,
                             .from = node->id,
                             .to = message->from,
                             .real_ms = wall_ms(world, node),
                             .leader = node->is_server ? node->raft.leader : node->hint,
                             .answer = {.sequence = message->beat.sequence}};
    int slot;
    if (node->reign_begun != 0 && row_of(&node->state, message->from, &slot) != NULL) {
        struct fact *fact = fact_of(world, node, message->from);
        fact->is_server = message->is_server;
        fact->clock = message->clock;
        uint64_t index;
        const struct config *config = raft_config(&node->raft, &index);
        liveness_leader_voters(node->leader, node->raft.term, config->voters, config->count);
        struct liveness_beat beat = message->beat;
        beat.node = message->from;
        liveness_hear(node->leader, &beat, node->state.index, boot_ms(world, node), &answer.answer);
        if (answer.answer.ticket != 0) {
            begin_readmission(world, node, fact, answer.answer.ticket);
            answer.answer.ticket = 0;
        }
    }
    if (message->from == node->id) {
        node_receive(world, node, &answer);
    } else {
        send_message(world, node, &answer);
    }
}

/* ---- Moves ---- */

static uint64_t choose_healthy(struct world *world, struct sim_node *node)
{
    uint64_t found[SIM_NODES];
    size_t count = 0;
    for (int i = 0; i < SIM_NODES; i++) {
        const struct row *row = &node->state.rows[i];
        if (row->is_there && !row->is_leaving &&
            liveness_judge(node->leader, row->id, boot_ms(world, node)) == CLUSTER_HEALTHY) {
            found[count++] = row->id;
        }
    }
    return count > 0 ? found[draw(world, count)] : 0;
}

static void move_from(struct world *world, struct sim_node *node, uint64_t id)
{
    for (uint64_t i = 0; i < SIM_RESOURCES; i++) {
        bool is_early = is_machine(i) &&
            boot_ms(world, node) < liveness_since(node->leader, id) + CLUSTER_FENCED_MS;
        if (node->state.owners[i] != id || is_early) {
            continue;
        }
        struct entry entry = {.kind = ENTRY_MOVE,
                              .reign = node->reign_begun,
                              .a = i,
                              .b = id,
                              .c = choose_healthy(world, node)};
        if (entry.c != 0) {
            trace(world, node, "moves %lu from %lu to %lu", (unsigned long)i, (unsigned long)id,
                  (unsigned long)entry.c);
            propose(world, node, &entry);
        }
    }
}

static void judge(struct world *world, struct sim_node *node, uint64_t id)
{
    uint64_t now_ms = boot_ms(world, node);
    struct fact *fact = fact_of(world, node, id);
    enum cluster_health health = liveness_judge(node->leader, id, now_ms);
    if (health == CLUSTER_LOST && !fact->is_lost) {
        trace(world, node, "judges %lu lost", (unsigned long)id);
        world->lost++;
    }
    fact->is_lost = health == CLUSTER_LOST;
    if (liveness_may_move(node->leader, id) && now_ms >= fact->move_ms) {
        fact->move_ms = now_ms + MOVE_AGAIN_MS;
        move_from(world, node, id);
    }
}

static void judge_all(struct world *world, struct sim_node *node)
{
    for (int i = 0; i < SIM_NODES; i++) {
        if (node->state.rows[i].is_there) {
            judge(world, node, node->state.rows[i].id);
        }
    }
    uint64_t index;
    const struct config config = *raft_config(&node->raft, &index);
    for (size_t i = 0; i < config.count; i++) {
        judge(world, node, config.voters[i]);
    }
    for (int i = 0; i < SIM_RESOURCES; i++) {
        if (node->state.owners[i] != 0) {
            judge(world, node, node->state.owners[i]); /* it may have no row any more */
        }
    }
}

/* ---- Membership ---- */

static enum membership_role role_of(const struct config *config, const struct fact *fact,
                                    const struct row *row)
{
    if (config_has(config, fact->id)) {
        return MEMBERSHIP_VOTER;
    }
    if (config->standby == fact->id) {
        return MEMBERSHIP_STANDBY;
    }
    if (row == NULL || !row->is_server) {
        return MEMBERSHIP_WORKER;
    }
    return fact->is_server ? MEMBERSHIP_WAITING : MEMBERSHIP_ENLISTED;
}

static void describe(struct world *world, struct sim_node *node, uint64_t id,
                     const struct config *config, struct membership_node *ret_node)
{
    uint64_t now_ms = boot_ms(world, node);
    int slot = 0;
    const struct row *row = row_of(&node->state, id, &slot);
    struct fact *fact = fact_of(world, node, id);
    enum membership_role role = role_of(config, fact, row);
    if (role != fact->role) {
        fact->role = role;
        fact->role_since_ms = now_ms;
    }
    enum cluster_health health = liveness_judge(node->leader, id, now_ms);
    *ret_node = (struct membership_node){
        .id = id,
        .name = row != NULL ? world->nodes[slot].name : "(removed)",
        .role = role,
        .wish = row != NULL ? row->wish : MEMBERSHIP_AUTO,
        .health = health,
        .health_since_ms = liveness_since(node->leader, id),
        .role_since_ms = fact->role_since_ms,
        .is_leader = id == node->id,
        .is_leaving = row == NULL || row->is_leaving,
        .failure_domain = row != NULL ? world->nodes[slot].domain : "",
        .schema = 1,
        .lag = id == node->id ? 0 : node->raft.length - raft_match(&node->raft, id),
    };
}

static struct config with(struct config config, uint64_t id)
{
    CHECK(config.count < SIM_MEMBERS_MAX);
    config.standby = 0;
    config.voters[config.count++] = id;
    return config;
}

static struct config without(const struct config *config, uint64_t id)
{
    struct config after = {.standby = config->standby == id ? 0 : config->standby};
    for (size_t i = 0; i < config->count; i++) {
        if (config->voters[i] != id) {
            after.voters[after.count++] = config->voters[i];
        }
    }
    return after;
}

static void append_config(struct world *world, struct sim_node *node, const struct config *config,
                          bool is_last)
{
    struct entry entry = {.kind = ENTRY_CONFIG, .config = *config};
    if (is_last) {
        node->change.index = node->raft.length + 1;
    }
    raft_append(world, node, &entry);
}

static void set_role(struct world *world, struct sim_node *node, uint64_t id, bool is_server)
{
    int slot = SIM_NOWHERE;
    if (row_of(&node->state, id, &slot) == NULL) {
        node->change = (struct change){0};
        return;
    }
    struct entry entry = {
        .kind = ENTRY_ROLE, .reign = node->reign_begun, .a = (uint64_t)slot, .b = is_server};
    node->change.index = node->raft.length + 1;
    raft_append(world, node, &entry);
}

static void perform(struct world *world, struct sim_node *node, const struct config *config,
                    const struct membership_decision *decision)
{
    uint64_t now_ms = boot_ms(world, node);
    struct config after = *config;
    node->change = (struct change){
        .action = decision->action, .id = decision->id, .deadline_ms = now_ms + PROPOSE_LIMIT_MS};
    switch (decision->action) {
    case MEMBERSHIP_NONE:
        break;
    case MEMBERSHIP_ENLIST:
    case MEMBERSHIP_DISMISS:
        note_step(world, node, decision, NULL);
        set_role(world, node, decision->id, decision->action == MEMBERSHIP_ENLIST);
        break;
    case MEMBERSHIP_ADD:
        after = with(after, decision->id);
        note_step(world, node, decision, &after);
        node->change.deadline_ms = now_ms + ADD_LIMIT_MS;
        if (config->standby != decision->id) {
            after = *config;
            after.standby = decision->id;
            append_config(world, node, &after, false);
        }
        break;
    case MEMBERSHIP_REMOVE:
        after = without(config, decision->id);
        note_step(world, node, decision, &after);
        append_config(world, node, &after, true);
        break;
    case MEMBERSHIP_TRANSFER:
        note_step(world, node, decision, NULL);
        node->change.deadline_ms = now_ms + TRANSFER_LIMIT_MS;
        raft_hand_over(world, node, decision->id);
        break;
    }
}

static void decide(struct world *world, struct sim_node *node, const struct config *config,
                   bool is_settled)
{
    struct membership_node nodes[SIM_NODES * 2];
    struct membership_input input = {
        .nodes = nodes,
        .wanted = node->state.wanted,
        .is_changing = node->change.action != MEMBERSHIP_NONE || !is_settled,
        .begun_ms = node->begun_ms,
        .changed_ms = node->changed_ms,
        .schema = 1,
        .lost_grace_ms = MEMBERSHIP_LOST_GRACE_MS,
        .now_ms = boot_ms(world, node),
    };
    for (int i = 0; i < SIM_NODES; i++) {
        if (node->state.rows[i].is_there) {
            describe(world, node, node->state.rows[i].id, config, &nodes[input.count++]);
        }
    }
    for (size_t i = 0; i <= config->count; i++) {
        uint64_t id = i < config->count ? config->voters[i] : config->standby;
        int slot;
        if (id != 0 && row_of(&node->state, id, &slot) == NULL) {
            CHECK(input.count < sizeof(nodes) / sizeof(nodes[0]));
            describe(world, node, id, config, &nodes[input.count++]);
        }
    }
    struct membership_decision decision;
    membership_decide(&input, &decision);
    if (decision.action == MEMBERSHIP_NONE && strcmp(decision.reason, node->reason) != 0) {
        snprintf(node->reason, sizeof(node->reason), "%s", decision.reason);
        trace(world, node, "nothing: %s", node->reason);
    }
    if (decision.action != MEMBERSHIP_NONE) {
        perform(world, node, config, &decision);
    }
}

/* One that is leaving and has no part in the configuration any more loses its row. */
static void delete_rows(struct world *world, struct sim_node *node, const struct config *config)
{
    for (uint64_t i = 0; i < SIM_NODES; i++) {
        const struct row *row = &node->state.rows[i];
        if (row->is_there && row->is_leaving && !config_has(config, row->id) &&
            config->standby != row->id) {
            struct entry entry = {
                .kind = ENTRY_GONE, .reign = node->reign_begun, .a = i, .b = row->id};
            raft_append(world, node, &entry);
        }
    }
}

/* A change goes on, or has taken too long. */
static void follow_change(struct world *world, struct sim_node *node, const struct config *config,
                          bool is_settled)
{
    struct change *change = &node->change;
    uint64_t now_ms = boot_ms(world, node);
    if (change->action == MEMBERSHIP_ADD && change->index == 0 && is_settled &&
        config->standby == change->id &&
        raft_match(&node->raft, change->id) + 1 >= node->raft.length) {
        struct config after = with(*config, change->id);
        append_config(world, node, &after, true);
    } else if (change->action != MEMBERSHIP_NONE && now_ms >= change->deadline_ms && is_settled) {
        *change = (struct change){0};
        node->changed_ms = now_ms;
    }
}

void leader_tick(struct world *world, struct sim_node *node)
{
    follow_raft(world, node);
    if (node->reign_begun == 0) {
        return;
    }
    judge_all(world, node);
    uint64_t now_ms = boot_ms(world, node);
    if (!reigns(node) || !node->leader->is_ready || now_ms < node->decided_ms) {
        return;
    }
    node->decided_ms = now_ms + DECIDE_MS / 2 + draw(world, DECIDE_MS);
    uint64_t index;
    const struct config config = *raft_config(&node->raft, &index);
    bool is_settled = index <= node->raft.commit;
    follow_change(world, node, &config, is_settled);
    if (is_settled && node->change.action == MEMBERSHIP_NONE) {
        delete_rows(world, node, &config);
        decide(world, node, &config, is_settled);
    }
}
