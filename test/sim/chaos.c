/* What happens to the nodes, and what people ask for meanwhile. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"

#include "test/sim/sim.h"

enum { MINUTE_US = 60000000, SECOND_US = 1000000, CLOCK_AT_START_US = 5 * SECOND_US };

/* ---- The beginning: one node, and others that join ---- */

static void set_clock(struct world *world, struct sim_node *node, uint64_t clock_us)
{
    node->clock_us = clock_us;
    node->clock_at_us = world->now_us;
    double swing = (double)draw(world, 2001) / 1000 - 1;
    node->rate = 1 + world->params.drift * swing;
}

static void put(struct sim_node *node, struct entry entry)
{
    CHECK(node->raft.length < 16);
    node->raft.log[node->raft.length++] = entry;
}

void chaos_begin(struct world *world)
{
    static const char *const domains[] = {"a", "b", "c", "a", "b", "c", "d", ""};
    for (int i = 0; i < SIM_NODES; i++) {
        struct sim_node *node = &world->nodes[i];
        node->slot = i;
        node->is_used = true;
        snprintf(node->name, sizeof(node->name), "n%d", i);
        snprintf(node->domain, sizeof(node->domain), "%s", domains[draw(world, SIM_NODES)]);
        node->id = world->next_id++;
        set_clock(world, node, CLOCK_AT_START_US + draw(world, MINUTE_US));
        node->wall_ms = (int64_t)draw(world, 200) - 100;
    }
    struct sim_node *first = &world->nodes[0];
    first->is_server = true;
    first->raft.log = calloc(SIM_LOG_MAX, sizeof(struct entry));
    CHECK(first->raft.log != NULL);
    struct config alone = {.voters = {first->id}, .count = 1};
    put(first, (struct entry){.kind = ENTRY_CONFIG, .config = alone});
    put(first, (struct entry){.kind = ENTRY_WANTED, .a = world->params.wanted});
    put(first, (struct entry){.kind = ENTRY_JOIN, .a = 0, .b = first->id});
    put(first, (struct entry){.kind = ENTRY_ROLE, .a = 0, .b = 1});
    for (uint64_t i = 0; i < SIM_RESOURCES; i++) {
        put(first, (struct entry){.kind = ENTRY_MOVE, .a = i, .c = first->id});
    }
    for (int i = 0; i < SIM_NODES; i++) {
        node_start(world, &world->nodes[i]);
    }
}

/* ---- Mishaps ---- */

void node_kill(struct world *world, struct sim_node *node)
{
    node->is_up = false;
    node->stopped_us = 0;
    if (node->broken_us == 0) {
        node->broken_us = world->now_us;
    }
}

static struct sim_node *any_node(struct world *world)
{
    return &world->nodes[draw(world, SIM_NODES)];
}

/* Short ones more often than long ones. */
static uint64_t some_time(struct world *world)
{
    static const uint64_t longest_us[] = {SECOND_US, 5 * SECOND_US, 20 * SECOND_US,
                                          2 * (uint64_t)MINUTE_US};
    if (world->params.is_narrow) {
        return LIVENESS_LOST_MS * 1000 - SECOND_US + draw(world, 4 * SECOND_US);
    }
    return draw(world, longest_us[draw(world, 4)]) + 1000;
}

static void restart(struct world *world, struct sim_node *node)
{
    if (world->params.may_reboot && chance(world, 300)) {
        set_clock(world, node, draw(world, CLOCK_AT_START_US) + 1000000); /* the machine, too */
    }
    trace(world, node, "starts");
    node_start(world, node);
}

/* May it go for good?  Not if nobody could decide anything without it, ever. */
static bool is_dispensable(const struct world *world, const struct sim_node *node)
{
    struct config configs[SIM_NODES + 1];
    size_t count = 0;
    for (int i = 0; i < SIM_NODES; i++) {
        if (world->nodes[i].change.id == node->id) {
            return false; /* it is about to be needed */
        }
        uint64_t index;
        configs[count++] = *raft_config(&world->nodes[i].raft, &index);
    }
    for (size_t i = 0; i < count; i++) {
        size_t left = 0;
        for (int j = 0; j < SIM_NODES; j++) {
            const struct sim_node *other = &world->nodes[j];
            left += other != node && !other->is_dead && config_has(&configs[i], other->id);
        }
        if (configs[i].count > 0 && left < configs[i].count / 2 + 1) {
            return false;
        }
    }
    return true;
}

static void kill_one(struct world *world)
{
    struct sim_node *node = any_node(world);
    if (!node->is_up) {
        return;
    }
    node_kill(world, node);
    size_t dead = 0;
    for (int i = 0; i < SIM_NODES; i++) {
        dead += world->nodes[i].is_dead;
    }
    if (world->params.may_die && dead < SIM_NODES / 3 && chance(world, 200) &&
        is_dispensable(world, node)) {
        node->is_dead = true;
        trace(world, node, "dies for good");
        return;
    }
    node->start_us = world->now_us + some_time(world);
    trace(world, node, "dies");
}

static void stop_one(struct world *world)
{
    struct sim_node *node = any_node(world);
    if (node->is_up && node->stopped_us <= world->now_us) {
        node->stopped_us = world->now_us + some_time(world);
        node->broken_us = world->now_us;
        trace(world, node, "is stopped for %.1f s",
              (double)(node->stopped_us - world->now_us) / 1e6);
    }
}

/* Some nodes apply nothing, or write nothing, for a few seconds. */
static void lag_some(struct world *world)
{
    uint64_t until_us = world->now_us + draw(world, 6 * SECOND_US);
    uint64_t which = draw(world, UINT64_C(1) << SIM_NODES);
    bool is_disk = chance(world, 600);
    trace(world, NULL, "%s of %02lx lag for %.1f s", is_disk ? "disks" : "states",
          (unsigned long)which, (double)(until_us - world->now_us) / 1e6);
    for (int i = 0; i < SIM_NODES; i++) {
        struct sim_node *node = &world->nodes[i];
        if ((which >> i & 1) == 0) {
            continue;
        }
        if (is_disk && node->is_server && world->now_us >= node->disk_us) {
            node->disk_us = until_us;
            node->disk_index = node->raft.length;
        } else if (!is_disk) {
            node->lazy_us = until_us;
        }
    }
}

static void cut(struct world *world, int from, int to, uint64_t until_us)
{
    if (world->cut_us[from][to] == 0) {
        world->cut_us[from][to] = world->now_us;
    }
    if (until_us > world->join_us[from][to]) {
        world->join_us[from][to] = until_us;
    }
}

/* Some against the others; one direction only, now and then. */
static void cut_some(struct world *world)
{
    uint64_t until_us = world->now_us + some_time(world);
    uint64_t side = chance(world, 500) ? UINT64_C(1) << draw(world, SIM_NODES)
                                       : draw(world, UINT64_C(1) << SIM_NODES);
    bool is_one_way = chance(world, 300);
    bool is_one_link = chance(world, 200);
    int only = (int)draw(world, SIM_NODES);
    trace(world, NULL, "cut %02lx%s for %.1f s", (unsigned long)side, is_one_way ? " one way" : "",
          (double)(until_us - world->now_us) / 1e6);
    for (int i = 0; i < SIM_NODES; i++) {
        for (int j = 0; j < SIM_NODES; j++) {
            bool is_between = (side >> i & 1) != (side >> j & 1);
            bool is_outward = (side >> i & 1) != 0;
            bool is_meant = !is_one_link || i == only || j == only;
            if (is_between && is_meant && (is_outward || !is_one_way)) {
                cut(world, i, j, until_us);
            }
        }
    }
}

static void ask(struct world *world)
{
    struct sim_node *node = any_node(world);
    struct entry entry = {.a = draw(world, SIM_NODES)};
    switch (draw(world, 6)) {
    case 0:
        entry.kind = ENTRY_LEAVE;
        break;
    case 1:
        entry.kind = ENTRY_WANTED;
        entry.a = draw(world, 3) * 2 + 1;
        break;
    case 2:
    case 3:
        entry.kind = ENTRY_WISH;
        entry.b = draw(world, 3);
        break;
    default:
        break; /* something that concerns nobody here */
    }
    propose(world, node, &entry);
}

/* A node that was removed is wiped by a person, and joins as a new one. */
static void wipe(struct world *world, struct sim_node *node)
{
    raft_forget(&node->raft);
    node->is_server = false;
    node->is_removed = false;
    node->has_joined = false;
    node->old_id = 0;
    node->id = world->next_id++;
    trace(world, node, "is wiped, and is %lu now", (unsigned long)node->id);
    node_start(world, node);
}

/* What was to happen by now. */
static void catch_up(struct world *world)
{
    for (int i = 0; i < SIM_NODES; i++) {
        struct sim_node *node = &world->nodes[i];
        if (!node->is_up && !node->is_dead && world->now_us >= node->start_us) {
            restart(world, node);
        }
        if (node->is_up && node->is_removed && node->stopped_us <= world->now_us &&
            chance(world, 20)) {
            wipe(world, node);
        }
        for (int j = 0; j < SIM_NODES; j++) {
            if (world->cut_us[i][j] != 0 && world->now_us >= world->join_us[i][j]) {
                world->cut_us[i][j] = 0;
            }
        }
    }
}

static void mishap(struct world *world)
{
    const struct params *params = &world->params;
    if (params->may_lag && chance(world, 500)) {
        lag_some(world);
        return;
    }
    switch (draw(world, 10)) {
    case 0:
    case 1:
        if (params->may_die || params->may_reboot) {
            kill_one(world);
        }
        break;
    case 2:
    case 3:
        if (params->may_stop) {
            stop_one(world);
        }
        break;
    case 4:
    case 5:
    case 6:
        if (params->may_cut) {
            cut_some(world);
        }
        break;
    case 7:
        /* Wall clocks jump; nothing may depend on them. */
        any_node(world)->wall_ms = (int64_t)draw(world, 20000) - 10000;
        break;
    default:
        if (params->may_ask) {
            ask(world);
        }
        break;
    }
}

void chaos_step(struct world *world)
{
    catch_up(world);
    if (!world->is_calm && world->params.mishap_us > 0 && world->now_us >= world->mishap_us) {
        world->mishap_us = world->now_us + draw(world, 2 * world->params.mishap_us) + 1;
        mishap(world);
    }
}

void chaos_heal(struct world *world)
{
    trace(world, NULL, "all heals");
    world->is_calm = true;
    world->params.loss_permille = 0;
    world->params.delay_rare_us = 0;
    memset(world->join_us, 0, sizeof(world->join_us));
    for (int i = 0; i < SIM_NODES; i++) {
        world->nodes[i].start_us = 0;
        world->nodes[i].wall_ms = 0;
        world->nodes[i].lazy_us = world->nodes[i].disk_us = 0;
        if (world->nodes[i].stopped_us > world->now_us) {
            world->nodes[i].stopped_us = world->now_us;
        }
    }
    catch_up(world);
}
