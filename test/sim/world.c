/* Time, events, the network, and what must be true at every moment. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"

#include "test/sim/sim.h"

enum event_kind { EVENT_TICK, EVENT_MESSAGE };

struct event {
    uint64_t at_us;
    uint64_t sequence;
    enum event_kind kind;
    int slot;
    uint64_t generation;
    unsigned tries;
    int from_slot;
    struct message *message; /* owned */
};

/* xorshift64*: the same everywhere, from a seed. */
uint64_t draw(struct world *world, uint64_t below)
{
    CHECK(below > 0);
    world->random ^= world->random >> 12;
    world->random ^= world->random << 25;
    world->random ^= world->random >> 27;
    return (world->random * UINT64_C(2685821657736338717) >> 11) % below;
}

bool chance(struct world *world, unsigned permille)
{
    return draw(world, 1000) < permille;
}

void trace(struct world *world, const struct sim_node *node, const char *format, ...)
{
    if (!world->is_traced) {
        return;
    }
    fprintf(stderr, "%10.3f %-3s ", (double)world->now_us / 1e6, node != NULL ? node->name : "");
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
}

void violated(struct world *world, const char *format, ...)
{
    if (world->is_failed) {
        return; /* what follows from the first says little */
    }
    world->is_failed = true;
    int used = snprintf(world->failure, sizeof(world->failure),
                        "at %.3f s: ", (double)world->now_us / 1e6);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(world->failure + used, sizeof(world->failure) - (size_t)used, format, arguments);
    va_end(arguments);
    trace(world, NULL, "VIOLATED %s", world->failure);
}

uint64_t boot_ms(const struct world *world, const struct sim_node *node)
{
    double passed_us = (double)(world->now_us - node->clock_at_us) * node->rate;
    return (node->clock_us + (uint64_t)passed_us) / 1000;
}

uint64_t wall_ms(const struct world *world, const struct sim_node *node)
{
    int64_t truth_ms = INT64_C(1800000000000) + (int64_t)(world->now_us / 1000);
    return (uint64_t)(truth_ms + node->wall_ms);
}

struct sim_node *node_with(struct world *world, uint64_t id)
{
    for (int i = 0; i < SIM_NODES; i++) {
        if (world->nodes[i].is_used && world->nodes[i].id == id && id != 0) {
            return &world->nodes[i];
        }
    }
    return NULL;
}

/* ---- Events: a binary heap ---- */

static bool is_before(const struct event *a, const struct event *b)
{
    return a->at_us != b->at_us ? a->at_us < b->at_us : a->sequence < b->sequence;
}

static void swap(struct event *a, struct event *b)
{
    struct event kept = *a;
    *a = *b;
    *b = kept;
}

static void push(struct world *world, struct event event)
{
    if (world->event_count == world->event_room) {
        world->event_room = world->event_room * 2 + 64;
        world->events = realloc(world->events, world->event_room * sizeof(*world->events));
        CHECK(world->events != NULL);
    }
    event.sequence = world->sequence++;
    size_t at = world->event_count++;
    world->events[at] = event;
    while (at > 0 && is_before(&world->events[at], &world->events[(at - 1) / 2])) {
        swap(&world->events[at], &world->events[(at - 1) / 2]);
        at = (at - 1) / 2;
    }
}

static struct event pop(struct world *world)
{
    struct event first = world->events[0];
    world->events[0] = world->events[--world->event_count];
    size_t at = 0;
    for (;;) {
        size_t least = at;
        for (size_t child = 2 * at + 1; child <= 2 * at + 2; child++) {
            if (child < world->event_count &&
                is_before(&world->events[child], &world->events[least])) {
                least = child;
            }
        }
        if (least == at) {
            return first;
        }
        swap(&world->events[at], &world->events[least]);
        at = least;
    }
}

void schedule_tick(struct world *world, struct sim_node *node)
{
    uint64_t after_us = SIM_TICK_MS * 900 + draw(world, SIM_TICK_MS * 200);
    push(world,
         (struct event){.at_us = world->now_us + after_us,
                        .kind = EVENT_TICK,
                        .slot = node->slot,
                        .generation = node->generation});
}

/* ---- The network ---- */

bool can_pass(const struct world *world, int from, int to)
{
    return from == to || world->cut_us[from][to] == 0;
}

static void free_message(struct message *message)
{
    free(message->entries);
    free(message);
}

static uint64_t delay_us(struct world *world)
{
    uint64_t delay = world->params.delay_us / 2 + draw(world, world->params.delay_us + 1);
    return chance(world, 10) ? delay + draw(world, world->params.delay_rare_us + 1) : delay;
}

void send_message(struct world *world, const struct sim_node *from, const struct message *message)
{
    const struct sim_node *to = node_with(world, message->to);
    if (to == NULL || chance(world, world->params.loss_permille)) {
        return;
    }
    struct message *copy = malloc(sizeof(*copy));
    CHECK(copy != NULL);
    *copy = *message;
    if (message->count > 0) {
        copy->entries = malloc(message->count * sizeof(*copy->entries));
        CHECK(copy->entries != NULL);
        memcpy(copy->entries, message->entries, message->count * sizeof(*copy->entries));
    }
    push(world,
         (struct event){.at_us = world->now_us + delay_us(world),
                        .kind = EVENT_MESSAGE,
                        .slot = to->slot,
                        .generation = to->generation,
                        .from_slot = from->slot,
                        .message = copy});
}

/* A connection that is cut loses what is under way, or delivers it once it is there again. */
static bool is_held_up(struct world *world, struct event *event)
{
    enum { TRIES_MAX = 4, AGAIN_US = 500000 };
    if (can_pass(world, event->from_slot, event->slot)) {
        return false;
    }
    if (event->tries++ < TRIES_MAX && chance(world, 700)) {
        event->at_us = world->now_us + draw(world, AGAIN_US);
        push(world, *event);
    } else {
        free_message(event->message);
    }
    return true;
}

static void deliver(struct world *world, struct sim_node *node, struct event *event)
{
    if (is_held_up(world, event)) {
        return;
    }
    if (node->id == event->message->to) {
        node_receive(world, node, event->message);
    }
    free_message(event->message);
}

bool world_step(struct world *world, uint64_t until_us)
{
    if (world->is_failed || world->event_count == 0 || world->events[0].at_us > until_us) {
        return false;
    }
    struct event event = pop(world);
    world->now_us = event.at_us;
    struct sim_node *node = &world->nodes[event.slot];
    bool is_gone = !node->is_up || event.generation != node->generation;
    if (!is_gone && node->stopped_us > world->now_us) {
        event.at_us = node->stopped_us; /* all that came meanwhile, in the order in which it came */
        push(world, event);
    } else if (is_gone && event.message != NULL) {
        free_message(event.message);
    } else if (!is_gone && event.kind == EVENT_MESSAGE) {
        deliver(world, node, &event);
    } else if (!is_gone) {
        node_tick(world, node);
        schedule_tick(world, node);
    }
    return true;
}

void world_init(struct world *world, uint64_t seed, const struct params *params, bool is_traced)
{
    memset(world, 0, sizeof(*world));
    world->seed = seed;
    world->random = (seed + 1) * UINT64_C(0x9e3779b97f4a7c15);
    world->params = *params;
    world->is_traced = is_traced;
    world->now_us = 1;
    world->next_id = 1;
    world->committed = calloc(SIM_LOG_MAX, sizeof(*world->committed));
    CHECK(world->committed != NULL);
    for (int i = 0; i < 20; i++) {
        (void)draw(world, 2);
    }
}

void world_done(struct world *world)
{
    for (size_t i = 0; i < world->event_count; i++) {
        if (world->events[i].message != NULL) {
            free_message(world->events[i].message);
        }
    }
    for (int i = 0; i < SIM_NODES; i++) {
        free(world->nodes[i].raft.log);
        free(world->nodes[i].leader);
    }
    free(world->events);
    free(world->committed);
}

/* ---- What must be true ---- */

static bool is_same_config(const struct config *a, const struct config *b)
{
    bool is_same = a->count == b->count && a->standby == b->standby;
    for (size_t i = 0; is_same && i < a->count; i++) {
        is_same = a->voters[i] == b->voters[i];
    }
    return is_same;
}

static bool is_same_entry(const struct entry *a, const struct entry *b)
{
    return a->kind == b->kind && a->term == b->term && a->reign == b->reign && a->a == b->a &&
        a->b == b->b && a->c == b->c && is_same_config(&a->config, &b->config);
}

/* The log is one: or what follows proves nothing. */
void note_committed(struct world *world, const struct sim_node *node, uint64_t index,
                    const struct entry *entry)
{
    if (index > world->committed_count) {
        CHECK(index == world->committed_count + 1 && index <= SIM_LOG_MAX);
        world->committed[world->committed_count++] = *entry;
    } else if (!is_same_entry(&world->committed[index - 1], entry)) {
        violated(world, "%s commits another entry %lu", node->name, (unsigned long)index);
    }
}

void note_elected(struct world *world, const struct sim_node *node, uint64_t term)
{
    if (term >= SIM_LOG_MAX) {
        violated(world, "term %lu: elections without end", (unsigned long)term);
    } else if (world->leader_of_term[term] != 0) {
        violated(world, "%s is the second leader of term %lu", node->name, (unsigned long)term);
    } else {
        world->leader_of_term[term] = node->id;
    }
    world->elections++;
}

/*
 * A node has just found that it may act as the owner.  What it does then ends within the time that
 * it has for stopping, by its own clock.
 */
void note_act(struct world *world, const struct sim_node *node, size_t resource)
{
    uint64_t actor = (uint64_t)node->slot + 1;
    if (world->actor[resource] != actor && world->actor[resource] != 0 &&
        world->now_us < world->act_end_us[resource]) {
        violated(world, "%s and %s both act as owners of resource %zu", node->name,
                 world->nodes[world->actor[resource] - 1].name, resource);
    }
    world->actor[resource] = actor;
    world->act_end_us[resource] = world->now_us + (uint64_t)(LIVENESS_STOP_MS * 1000 / node->rate);
    world->acts++;
}

/*
 * A machine runs at the node, or is started there.  Its monitor ends it CLUSTER_FENCE_MS after the
 * lease, and has LIVENESS_STOP_MS for it, whatever becomes of the daemon.
 */
void note_machine(struct world *world, const struct sim_node *node, size_t resource)
{
    for (int i = 0; i < SIM_NODES; i++) {
        if (i != node->slot && world->now_us < world->vmm_end_us[resource][i]) {
            violated(world, "machine %zu runs at %s and at %s", resource, node->name,
                     world->nodes[i].name);
        }
    }
    uint64_t left_ms =
        node->lease.until_ms + CLUSTER_FENCE_MS + LIVENESS_STOP_MS - boot_ms(world, node);
    world->vmm_end_us[resource][node->slot] =
        world->now_us + (uint64_t)((double)left_ms * 1000 / node->rate);
}

/* The node has seen that it is another one's, and ended what ran of it. */
void note_reconciled(struct world *world, const struct sim_node *node, size_t resource)
{
    world->vmm_end_us[resource][node->slot] = 0;
}

/* Was it there for the leader not long ago: as long as a leader cannot know better? */
static bool was_there(struct world *world, const struct sim_node *leader, uint64_t id)
{
    uint64_t blind_us = (LIVENESS_SUSPECT_MS + 4000) * 1000 + world->params.delay_rare_us;
    const struct sim_node *node = node_with(world, id);
    if (node == NULL) {
        return false; /* it has become another */
    }
    const uint64_t since_us[] = {node->broken_us, world->cut_us[node->slot][leader->slot],
                                 world->cut_us[leader->slot][node->slot]};
    for (size_t i = 0; i < 3; i++) {
        if (since_us[i] != 0 && world->now_us - since_us[i] > blind_us) {
            return false;
        }
    }
    return true;
}

/* The leader takes a step of membership. */
void note_step(struct world *world, const struct sim_node *leader,
               const struct membership_decision *decision, const struct config *after)
{
    world->actions++;
    world->last_action_us = world->now_us;
    const struct sim_node *whom = node_with(world, decision->id);
    snprintf(world->last_action, sizeof(world->last_action), "%s %s",
             membership_action_text(decision->action), whom != NULL ? whom->name : "?");
    trace(world, leader, "%s: %.120s", world->last_action, decision->reason);
    /* One that was stopped itself has heard all that came meanwhile as if it were new. */
    enum { SETTLED_US = 10000000 };
    if (after == NULL || world->now_us < leader->stopped_us + SETTLED_US) {
        return;
    }
    size_t there = 0;
    for (size_t i = 0; i < after->count; i++) {
        there += was_there(world, leader, after->voters[i]);
    }
    if (there < after->count / 2 + 1) {
        violated(world, "%s makes it %zu servers, of which %zu are there (%s)", leader->name,
                 after->count, there, world->last_action);
    }
}
