/*
 * Raft, as small as it can be: elections, the log, single changes of the configuration
 * (dissertation, 3 and 4), handing over.  No snapshots: logs are short here.  Voters that hear a
 * leader ignore who asks for their votes (4.2.3), or removed servers would never leave the others
 * alone.
 */
#include <stdlib.h>
#include <string.h>

#include "base/check.h"

#include "test/sim/sim.h"

void raft_forget(struct raft *raft)
{
    free(raft->log);
    *raft = (struct raft){0};
}

bool config_has(const struct config *config, uint64_t id)
{
    for (size_t i = 0; i < config->count; i++) {
        if (config->voters[i] == id) {
            return true;
        }
    }
    return false;
}

const struct config *raft_config(const struct raft *raft, uint64_t *ret_index)
{
    static const struct config none;
    for (size_t i = raft->length; i > 0; i--) {
        if (raft->log[i - 1].kind == ENTRY_CONFIG) {
            *ret_index = i;
            return &raft->log[i - 1].config;
        }
    }
    *ret_index = 0;
    return &none;
}

static uint64_t last_term(const struct raft *raft)
{
    return raft->length > 0 ? raft->log[raft->length - 1].term : 0;
}

static void store_entry(struct raft *raft, const struct entry *entry)
{
    if (raft->log == NULL) {
        raft->log = calloc(SIM_LOG_MAX, sizeof(*raft->log));
        CHECK(raft->log != NULL);
    }
    CHECK(raft->length < SIM_LOG_MAX);
    raft->log[raft->length++] = *entry;
}

static void set_deadline(struct world *world, struct sim_node *node)
{
    node->raft.deadline_ms = boot_ms(world, node) + SIM_ELECTION_MS + draw(world, SIM_ELECTION_MS);
}

void raft_restart(struct world *world, struct sim_node *node)
{
    struct raft *raft = &node->raft;
    raft->role = RAFT_FOLLOWER;
    raft->leader = 0;
    raft->commit = 0;
    raft->contact_ms = 0;
    raft->votes = 0;
    raft->peer_count = 0;
    set_deadline(world, node);
}

static void step_down(struct world *world, struct sim_node *node, uint64_t term)
{
    struct raft *raft = &node->raft;
    if (term > raft->term) {
        raft->term = term;
        raft->voted_for = 0;
    }
    if (raft->role != RAFT_FOLLOWER) {
        trace(world, node, "steps down in term %lu", (unsigned long)raft->term);
        raft->role = RAFT_FOLLOWER;
        raft->leader = 0;
        set_deadline(world, node);
    }
}

/* ---- The leader ---- */

static struct peer *find_peer(struct raft *raft, uint64_t id)
{
    for (size_t i = 0; i < raft->peer_count; i++) {
        if (raft->peers[i].id == id) {
            return &raft->peers[i];
        }
    }
    return NULL;
}

uint64_t raft_match(const struct raft *raft, uint64_t id)
{
    const struct peer *peer = find_peer((struct raft *)(uintptr_t)raft, id);
    return peer != NULL ? peer->match : 0;
}

static void add_peer(struct world *world, struct sim_node *node, uint64_t id)
{
    struct raft *raft = &node->raft;
    if (id != 0 && id != node->id && find_peer(raft, id) == NULL) {
        CHECK(raft->peer_count < SIM_MEMBERS_MAX + 1);
        raft->peers[raft->peer_count++] =
            (struct peer){.id = id, .next = raft->length + 1, .heard_ms = boot_ms(world, node)};
    }
}

static void follow_config(struct world *world, struct sim_node *node)
{
    struct raft *raft = &node->raft;
    uint64_t index;
    const struct config *config = raft_config(raft, &index);
    size_t kept = 0;
    for (size_t i = 0; i < raft->peer_count; i++) {
        uint64_t id = raft->peers[i].id;
        if (config_has(config, id) || config->standby == id) {
            raft->peers[kept++] = raft->peers[i];
        }
    }
    raft->peer_count = kept;
    for (size_t i = 0; i < config->count; i++) {
        add_peer(world, node, config->voters[i]);
    }
    add_peer(world, node, config->standby);
}

static void send_append(struct world *world, struct sim_node *node, const struct peer *peer)
{
    const struct raft *raft = &node->raft;
    struct message message = {
        .kind = MESSAGE_APPEND,
        .from = node->id,
        .to = peer->id,
        .term = raft->term,
        .index = peer->next - 1,
        .commit = raft->commit,
    };
    CHECK(message.index <= raft->length);
    message.index_term = message.index > 0 ? raft->log[message.index - 1].term : 0;
    message.count = raft->length - message.index;
    if (message.count > SIM_BATCH_MAX) {
        message.count = SIM_BATCH_MAX;
    }
    message.entries = message.count > 0 ? &raft->log[message.index] : NULL; /* copied by sending */
    send_message(world, node, &message);
}

static void send_appends(struct world *world, struct sim_node *node)
{
    for (size_t i = 0; i < node->raft.peer_count; i++) {
        send_append(world, node, &node->raft.peers[i]);
    }
    node->raft.heartbeat_ms = boot_ms(world, node) + SIM_HEARTBEAT_MS;
}

static void advance_commit(struct world *world, struct sim_node *node, uint64_t to)
{
    struct raft *raft = &node->raft;
    CHECK(to <= raft->length);
    while (raft->commit < to) {
        raft->commit++;
        note_committed(world, node, raft->commit, &raft->log[raft->commit - 1]);
    }
    node_advance(world, node, raft->log, raft->commit);
}

static void count_replicas(struct world *world, struct sim_node *node)
{
    struct raft *raft = &node->raft;
    uint64_t index;
    const struct config *config = raft_config(raft, &index);
    for (uint64_t at = raft->length; at > raft->commit && raft->log[at - 1].term == raft->term;
         at--) {
        size_t have = 0;
        for (size_t i = 0; i < config->count; i++) {
            have += config->voters[i] == node->id || raft_match(raft, config->voters[i]) >= at;
        }
        if (have >= config->count / 2 + 1) {
            advance_commit(world, node, at);
            return;
        }
    }
}

uint64_t raft_append(struct world *world, struct sim_node *node, const struct entry *entry)
{
    struct raft *raft = &node->raft;
    if (!node->is_server || raft->role != RAFT_LEADER || raft->length == SIM_LOG_MAX) {
        return 0;
    }
    struct entry mine = *entry;
    mine.term = raft->term;
    store_entry(raft, &mine);
    uint64_t index = raft->length;
    if (entry->kind == ENTRY_CONFIG) {
        follow_config(world, node);
    }
    send_appends(world, node);
    count_replicas(world, node);
    return index;
}

void raft_hand_over(struct world *world, struct sim_node *node, uint64_t id)
{
    struct message message = {
        .kind = MESSAGE_LEAD_NOW, .from = node->id, .to = id, .term = node->raft.term};
    send_message(world, node, &message);
}

static void lead(struct world *world, struct sim_node *node)
{
    struct raft *raft = &node->raft;
    trace(world, node, "leads in term %lu", (unsigned long)raft->term);
    note_elected(world, node, raft->term);
    raft->role = RAFT_LEADER;
    raft->leader = node->id;
    raft->peer_count = 0;
    follow_config(world, node);
    send_appends(world, node);
}

/* A leader that hears no majority gives up, as far as it can tell by its own clock. */
static void count_contacts(struct world *world, struct sim_node *node)
{
    struct raft *raft = &node->raft;
    uint64_t index;
    const struct config *config = raft_config(raft, &index);
    size_t heard = config_has(config, node->id);
    for (size_t i = 0; i < raft->peer_count; i++) {
        heard += config_has(config, raft->peers[i].id) &&
            boot_ms(world, node) - raft->peers[i].heard_ms < 2 * SIM_ELECTION_MS;
    }
    if (heard < config->count / 2 + 1) {
        step_down(world, node, raft->term);
    }
}

/* ---- Elections ---- */

static void count_votes(struct world *world, struct sim_node *node)
{
    struct raft *raft = &node->raft;
    uint64_t index;
    const struct config *config = raft_config(raft, &index);
    size_t votes = 0;
    for (size_t i = 0; i < raft->votes; i++) {
        votes += config_has(config, raft->voted[i]);
    }
    if (votes >= config->count / 2 + 1) {
        lead(world, node);
    }
}

static void stand_for_election(struct world *world, struct sim_node *node, bool by_request)
{
    struct raft *raft = &node->raft;
    uint64_t index;
    const struct config *config = raft_config(raft, &index);
    set_deadline(world, node);
    if (!config_has(config, node->id)) {
        raft->leader = 0; /* one that is none of the servers cannot know who leads */
        return;
    }
    raft->term++;
    raft->role = RAFT_CANDIDATE;
    raft->leader = 0;
    raft->voted_for = node->id;
    raft->voted[0] = node->id;
    raft->votes = 1;
    for (size_t i = 0; i < config->count; i++) {
        if (config->voters[i] != node->id) {
            struct message message = {
                .kind = MESSAGE_VOTE_ASKED,
                .from = node->id,
                .to = config->voters[i],
                .term = raft->term,
                .index = raft->length,
                .index_term = last_term(raft),
                .yes = by_request,
            };
            send_message(world, node, &message);
        }
    }
    count_votes(world, node);
}

static void on_vote_asked(struct world *world, struct sim_node *node, const struct message *message)
{
    struct raft *raft = &node->raft;
    uint64_t now_ms = boot_ms(world, node);
    bool hears_leader = raft->role == RAFT_LEADER ||
        (raft->leader != 0 && now_ms - raft->contact_ms < SIM_ELECTION_MS);
    if (hears_leader && !message->yes) {
        return;
    }
    if (message->term > raft->term) {
        step_down(world, node, message->term);
    }
    bool is_new_enough = message->index_term > last_term(raft) ||
        (message->index_term == last_term(raft) && message->index >= raft->length);
    bool is_free = raft->voted_for == 0 || raft->voted_for == message->from;
    bool granted = message->term == raft->term && is_free && is_new_enough;
    if (granted) {
        raft->voted_for = message->from;
        set_deadline(world, node);
    }
    struct message answer = {.kind = MESSAGE_VOTE,
                             .from = node->id,
                             .to = message->from,
                             .term = raft->term,
                             .yes = granted};
    send_message(world, node, &answer);
}

static void on_vote(struct world *world, struct sim_node *node, const struct message *message)
{
    struct raft *raft = &node->raft;
    if (message->term > raft->term) {
        step_down(world, node, message->term);
    }
    if (raft->role != RAFT_CANDIDATE || message->term != raft->term || !message->yes) {
        return;
    }
    for (size_t i = 0; i < raft->votes; i++) {
        if (raft->voted[i] == message->from) {
            return;
        }
    }
    if (raft->votes < SIM_MEMBERS_MAX) {
        raft->voted[raft->votes++] = message->from;
        count_votes(world, node);
    }
}

/* ---- Followers ---- */

static bool take_entries(struct world *world, struct sim_node *node, const struct message *message)
{
    struct raft *raft = &node->raft;
    bool matches = message->index <= raft->length &&
        (message->index == 0 || raft->log[message->index - 1].term == message->index_term);
    if (!matches) {
        return false;
    }
    for (size_t i = 0; i < message->count; i++) {
        uint64_t index = message->index + 1 + i;
        if (index <= raft->length && raft->log[index - 1].term != message->entries[i].term) {
            if (index <= raft->commit) {
                violated(world, "%s loses entry %lu, which was committed", node->name,
                         (unsigned long)index);
                return false;
            }
            raft->length = index - 1;
        }
        if (index > raft->length) {
            store_entry(raft, &message->entries[i]);
        }
    }
    return true;
}

static uint64_t on_disk(const struct world *world, const struct sim_node *node, uint64_t index)
{
    return world->now_us < node->disk_us && index > node->disk_index ? node->disk_index : index;
}

static void on_append(struct world *world, struct sim_node *node, const struct message *message)
{
    struct raft *raft = &node->raft;
    struct message answer = {.kind = MESSAGE_APPENDED, .from = node->id, .to = message->from};
    if (message->term >= raft->term) {
        step_down(world, node, message->term);
        raft->leader = message->from;
        raft->contact_ms = boot_ms(world, node);
        set_deadline(world, node);
        answer.yes = take_entries(world, node, message);
    }
    answer.term = raft->term;
    uint64_t matches = message->index + message->count;
    answer.index = answer.yes ? on_disk(world, node, matches) : raft->length;
    if (answer.yes) {
        uint64_t commit = message->commit < matches ? message->commit : matches;
        if (commit > raft->commit) {
            advance_commit(world, node, commit);
        }
    }
    send_message(world, node, &answer);
}

static void on_appended(struct world *world, struct sim_node *node, const struct message *message)
{
    struct raft *raft = &node->raft;
    if (message->term > raft->term) {
        step_down(world, node, message->term);
    }
    struct peer *peer = find_peer(raft, message->from);
    if (raft->role != RAFT_LEADER || message->term != raft->term || peer == NULL) {
        return;
    }
    peer->heard_ms = boot_ms(world, node);
    if (message->yes && message->index <= peer->match) {
        peer->next = peer->match + 1;
        return; /* nothing new: the next heartbeat will do */
    }
    if (message->yes) {
        peer->match = message->index;
        peer->next = peer->match + 1;
        count_replicas(world, node);
    } else {
        peer->next = message->index + 1 < peer->next ? message->index + 1 : peer->next - 1;
        peer->next = peer->next > peer->match ? peer->next : peer->match + 1;
    }
    if (peer->next <= raft->length) {
        send_append(world, node, peer);
    }
}

void raft_receive(struct world *world, struct sim_node *node, const struct message *message)
{
    if (!node->is_server) {
        return;
    }
    switch ((int)message->kind) {
    case MESSAGE_VOTE_ASKED:
        on_vote_asked(world, node, message);
        break;
    case MESSAGE_VOTE:
        on_vote(world, node, message);
        break;
    case MESSAGE_APPEND:
        on_append(world, node, message);
        break;
    case MESSAGE_APPENDED:
        on_appended(world, node, message);
        break;
    default:
        CHECK(message->kind == MESSAGE_LEAD_NOW);
        if (message->term == node->raft.term && node->raft.role == RAFT_FOLLOWER) {
            stand_for_election(world, node, true);
        }
        break;
    }
}

void raft_tick(struct world *world, struct sim_node *node)
{
    struct raft *raft = &node->raft;
    if (!node->is_server) {
        return;
    }
    node_advance(world, node, raft->log, raft->commit);
    uint64_t now_ms = boot_ms(world, node);
    if (raft->role == RAFT_LEADER && world->params.steps_down) {
        count_contacts(world, node);
    }
    if (raft->role == RAFT_LEADER && now_ms >= raft->heartbeat_ms) {
        send_appends(world, node);
    } else if (raft->role != RAFT_LEADER && now_ms >= raft->deadline_ms) {
        stand_for_election(world, node, false);
    }
}
