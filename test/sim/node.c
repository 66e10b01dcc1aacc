/* A node: what it applies, whom it tells that it lives, and what it does as an owner. */
#include <stdlib.h>
#include <string.h>

#include "base/check.h"

#include "test/sim/sim.h"

enum { FETCH_MS = 100, QUIET_MS = 1500, IDENTITY_MS = 1000 };

/* ---- The state ---- */

static void move(struct world *world, struct state *state, const struct entry *entry)
{
    if (state->owners[entry->a] == entry->b) {
        state->owners[entry->a] = entry->c;
        world->moves++;
    }
}

static void set_identity(struct state *state, uint64_t slot, uint64_t from, uint64_t to)
{
    if (!state->rows[slot].is_there || state->rows[slot].id != from) {
        return;
    }
    state->rows[slot].id = to;
    state->joined[slot] = to;
    for (size_t i = 0; i < SIM_RESOURCES; i++) {
        if (state->owners[i] == from) {
            state->owners[i] = to;
        }
    }
}

static void apply_row(struct state *state, const struct entry *entry)
{
    struct row *row = &state->rows[entry->a];
    if (entry->kind == ENTRY_JOIN) {
        if (!row->is_there && entry->b > state->joined[entry->a]) {
            *row = (struct row){.is_there = true, .id = entry->b};
            state->joined[entry->a] = entry->b;
        }
        return;
    }
    if (!row->is_there) {
        return;
    }
    if (entry->kind == ENTRY_ROLE) {
        row->is_server = entry->b != 0;
    } else if (entry->kind == ENTRY_WISH) {
        row->wish = (enum membership_wish)entry->b;
    } else if (entry->kind == ENTRY_LEAVE) {
        row->is_leaving = true;
    } else if (entry->kind == ENTRY_GONE && row->id == entry->b) {
        *row = (struct row){0};
    }
}

static void apply(struct world *world, struct sim_node *node, const struct entry *entry)
{
    struct state *state = &node->state;
    state->index++;
    bool is_refused = entry->reign != 0 && entry->reign != state->reign;
    if (is_refused) {
        world->moves_refused += entry->kind == ENTRY_MOVE;
    } else if (entry->kind == ENTRY_REIGN) {
        state->reign = entry->a > state->reign ? entry->a : state->reign;
    } else if (entry->kind == ENTRY_MOVE) {
        move(world, state, entry);
    } else if (entry->kind == ENTRY_WANTED) {
        state->wanted = (unsigned)entry->a;
    } else if (entry->kind == ENTRY_IDENTITY) {
        set_identity(state, entry->a, entry->b, entry->c);
    } else if (entry->kind == ENTRY_CONFIG) {
        state->config = entry->config;
    } else if (entry->kind != ENTRY_NOTHING) {
        apply_row(state, entry);
    }
    if (!is_refused && entry->kind == ENTRY_GONE && entry->a == (uint64_t)node->slot &&
        (entry->b == node->id || entry->b == node->old_id)) {
        node->is_removed = true;
    }
    leader_applied(world, node, state->index);
}

void node_advance(struct world *world, struct sim_node *node, const struct entry *log, uint64_t to)
{
    while (node->state.index < to && world->now_us >= node->lazy_us) {
        apply(world, node, &log[node->state.index]);
    }
}

/* ---- Following, for those that get no log from a leader ---- */

static bool gets_log(const struct world *world, const struct sim_node *node)
{
    uint64_t now_ms = boot_ms(world, node);
    return node->is_server &&
        (node->raft.role == RAFT_LEADER ||
         (node->raft.leader != 0 && now_ms - node->raft.contact_ms < QUIET_MS));
}

/* Somebody who may know more: who leads as far as is known, or anybody. */
static uint64_t somebody(struct world *world, struct sim_node *node)
{
    if (node->hint != 0 && node->hint != node->id && !chance(world, 100)) {
        return node->hint;
    }
    return world->nodes[draw(world, SIM_NODES)].id;
}

static void fetch(struct world *world, struct sim_node *node)
{
    uint64_t now_ms = boot_ms(world, node);
    if (now_ms < node->fetch_ms || gets_log(world, node) || world->now_us < node->lazy_us) {
        return;
    }
    node->fetch_ms = now_ms + FETCH_MS;
    struct message message = {.kind = MESSAGE_FETCH,
                              .from = node->id,
                              .to = somebody(world, node),
                              .index = node->state.index};
    send_message(world, node, &message);
}

static void on_fetch(struct world *world, struct sim_node *node, const struct message *message)
{
    const struct raft *raft = &node->raft;
    struct message answer = {.kind = MESSAGE_FETCHED,
                             .from = node->id,
                             .to = message->from,
                             .index = message->index,
                             .leader = node->is_server ? raft->leader : node->hint};
    if (node->is_server && raft->commit > message->index) {
        answer.count = raft->commit - message->index;
        answer.count = answer.count < SIM_BATCH_MAX ? answer.count : SIM_BATCH_MAX;
        answer.entries = &raft->log[message->index];
    }
    send_message(world, node, &answer);
}

static void on_fetched(struct world *world, struct sim_node *node, const struct message *message)
{
    if (message->leader != 0) {
        node->hint = message->leader;
    }
    for (size_t i = 0; i < message->count; i++) {
        if (message->index + i == node->state.index && world->now_us >= node->lazy_us) {
            apply(world, node, &message->entries[i]);
        }
    }
    if (message->count == SIM_BATCH_MAX) {
        node->fetch_ms = 0;
    }
}

/* ---- Beats ---- */

static void take_answer(struct world *world, struct sim_node *node, const struct message *message)
{
    uint64_t now_ms = boot_ms(world, node);
    const struct liveness_answer *answer = &message->answer;
    if (message->leader != 0) {
        node->hint = message->leader;
    }
    const struct liveness_kept *kept = &node->lease.kept[answer->sequence % LIVENESS_KEPT_MAX];
    if (kept->sequence == answer->sequence && answer->reign != 0) {
        node->clock =
            liveness_clock_estimate(wall_ms(world, node), message->real_ms, now_ms - kept->sent_ms);
    }
    uint64_t before_ms = node->lease.until_ms;
    liveness_answered(&node->lease, answer, node->state.index);
    world->grants += node->lease.until_ms > before_ms;
}

static void beat(struct world *world, struct sim_node *node)
{
    uint64_t now_ms = boot_ms(world, node);
    if (now_ms < node->beat_ms) {
        return;
    }
    node->beat_ms = now_ms + LIVENESS_BEAT_MS;
    struct message message = {
        .kind = MESSAGE_BEAT, .from = node->id, .is_server = node->is_server, .clock = node->clock};
    bool knows = node->is_server && node->raft.leader != 0;
    message.to = knows ? node->raft.leader : somebody(world, node);
    liveness_beat(&node->lease, node->is_server ? node->raft.term : 0, now_ms, &message.beat);
    if (message.to == node->id) {
        leader_hear(world, node, &message);
    } else {
        send_message(world, node, &message);
    }
}

/* ---- What its row says ---- */

static void become_server(struct world *world, struct sim_node *node)
{
    uint64_t id = world->next_id++;
    trace(world, node, "becomes a server: %lu, was %lu", (unsigned long)id,
          (unsigned long)node->id);
    raft_forget(&node->raft);
    raft_restart(world, node);
    node->old_id = node->id;
    node->id = id;
    node->is_server = true;
    liveness_node_init(&node->lease, id);
}

static void join(struct world *world, struct sim_node *node)
{
    uint64_t now_ms = boot_ms(world, node);
    if (now_ms >= node->join_ms) {
        node->join_ms = now_ms + IDENTITY_MS;
        struct entry entry = {.kind = ENTRY_JOIN, .a = (uint64_t)node->slot, .b = node->id};
        propose(world, node, &entry);
    }
}

static void follow_row(struct world *world, struct sim_node *node)
{
    const struct row *row = &node->state.rows[node->slot];
    if (!row->is_there) {
        if (!node->has_joined) {
            join(world, node);
        }
        return;
    }
    node->has_joined = node->has_joined || row->id == node->id;
    if (row->is_server && !node->is_server && row->id == node->id) {
        become_server(world, node);
    }
    bool is_member =
        config_has(&node->state.config, node->id) || node->state.config.standby == node->id;
    if (!row->is_server && node->is_server && row->id == node->id && !is_member) {
        trace(world, node, "becomes a worker");
        raft_forget(&node->raft);
        node->is_server = false;
    }
    uint64_t now_ms = boot_ms(world, node);
    if (node->is_server && row->id == node->old_id && row->id != node->id &&
        now_ms >= node->identity_ms) {
        node->identity_ms = now_ms + IDENTITY_MS;
        struct entry entry = {
            .kind = ENTRY_IDENTITY, .a = (uint64_t)node->slot, .b = node->old_id, .c = node->id};
        propose(world, node, &entry);
    }
}

static void act(struct world *world, struct sim_node *node)
{
    for (size_t i = 0; i < SIM_RESOURCES; i++) {
        if (node->state.owners[i] != node->id) {
            if (is_machine(i) && liveness_holds(&node->lease, boot_ms(world, node))) {
                note_reconciled(world, node, i);
            }
            continue;
        }
        liveness_applied(&node->lease, node->state.index);
        if (liveness_holds(&node->lease, boot_ms(world, node))) {
            note_act(world, node, i);
            if (is_machine(i)) {
                note_machine(world, node, i);
            }
        } else {
            world->expired++;
        }
    }
}

/* ---- Its life ---- */

void node_start(struct world *world, struct sim_node *node)
{
    node->is_up = true;
    node->broken_us = 0;
    node->generation++;
    node->state = (struct state){0};
    node->reign_begun = 0;
    node->change = (struct change){0};
    node->fact_count = 0;
    node->clock = (struct liveness_clock){0};
    node->beat_ms = node->fetch_ms = node->identity_ms = node->join_ms = node->decided_ms = 0;
    node->hint = 0;
    node->end_ms = 0;
    if (node->leader == NULL) {
        node->leader = calloc(1, sizeof(*node->leader));
        CHECK(node->leader != NULL);
    }
    memset(node->leader, 0, sizeof(*node->leader));
    liveness_node_init(&node->lease, node->id);
    raft_restart(world, node);
    schedule_tick(world, node);
}

void node_tick(struct world *world, struct sim_node *node)
{
    node->broken_us = 0; /* it runs */
    act(world, node);    /* first of all: a node that was stopped does not know it yet */
    raft_tick(world, node);
    fetch(world, node);
    follow_row(world, node);
    beat(world, node);
    leader_tick(world, node);
    act(world, node);
}

static void on_propose(struct world *world, struct sim_node *node, const struct message *message)
{
    enum { HOPS_MAX = 5 };
    if (raft_append(world, node, &message->entries[0]) == 0 && node->raft.leader != 0 &&
        node->raft.leader != node->id && message->index < HOPS_MAX) {
        struct message again = *message;
        again.index++;
        again.to = node->raft.leader;
        send_message(world, node, &again);
    }
}

void node_receive(struct world *world, struct sim_node *node, const struct message *message)
{
    switch (message->kind) {
    case MESSAGE_PROPOSE:
        on_propose(world, node, message);
        break;
    case MESSAGE_FETCH:
        on_fetch(world, node, message);
        break;
    case MESSAGE_FETCHED:
        on_fetched(world, node, message);
        break;
    case MESSAGE_BEAT:
        leader_hear(world, node, message);
        break;
    case MESSAGE_ANSWER:
        take_answer(world, node, message);
        break;
    case MESSAGE_VOTE_ASKED:
    case MESSAGE_VOTE:
    case MESSAGE_APPEND:
    case MESSAGE_APPENDED:
    case MESSAGE_LEAD_NOW:
        raft_receive(world, node, message);
        break;
    }
}
