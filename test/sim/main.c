/*
 * sim-tests [--seed N] [--seeds COUNT] [--trace] [SCENARIO...]
 *
 * Runs each scenario with many seeds (or the one), and prints a line for each scenario.  A seed
 * that fails is named, and `--seed N --trace SCENARIO` shows what happened.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/check.h"

#include "test/sim/sim.h"

enum { SECOND_US = 1000000, STEP_US = 100000, PROCESSES = 2 };

/* How long everything has, after it healed, and how long there must be peace then. */
enum { CONVERGE_S = 240, REST_S = 60 };

struct scenario {
    const char *name;
    const char *claim;
    unsigned seeds;
    struct params params;
    void (*check)(struct world *world); /* during the chaos, often; may be NULL */
};

static void run_until(struct world *world, uint64_t until_us, void (*check)(struct world *world))
{
    while (world->now_us < until_us && !world->is_failed) {
        uint64_t next_us = world->now_us + STEP_US < until_us ? world->now_us + STEP_US : until_us;
        while (world_step(world, next_us)) {
        }
        world->now_us = next_us;
        chaos_step(world);
        if (check != NULL && !world->is_failed) {
            check(world);
        }
    }
}

/* ---- What must be so in the end ---- */

static const struct sim_node *find_leader(const struct world *world)
{
    const struct sim_node *found = NULL;
    for (int i = 0; i < SIM_NODES; i++) {
        const struct sim_node *node = &world->nodes[i];
        bool leads = node->is_up && node->is_server && node->raft.role == RAFT_LEADER;
        if (leads && (found == NULL || node->raft.term > found->raft.term)) {
            found = node;
        }
    }
    return found;
}

struct member {
    const struct sim_node *node;
    const struct row *row;
    bool votes;
};

static size_t list_pool(const struct world *world, const struct sim_node *leader,
                        struct member ret_members[SIM_NODES])
{
    size_t count = 0;
    for (int i = 0; i < SIM_NODES; i++) {
        const struct row *row = &leader->state.rows[i];
        if (row->is_there && world->nodes[i].is_up && !row->is_leaving &&
            row->wish != MEMBERSHIP_WANTED_WORKER) {
            ret_members[count++] =
                (struct member){&world->nodes[i], row, config_has(&leader->state.config, row->id)};
        }
    }
    return count;
}

static size_t servers_in(const struct member *members, size_t count, const char *domain)
{
    size_t found = 0;
    for (size_t i = 0; i < count; i++) {
        found += members[i].votes && strcmp(members[i].node->domain, domain) == 0;
    }
    return found;
}

/* No exchange of one server for another would spread them better. */
static void check_spread(struct world *world, const struct member *members, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        for (size_t j = 0; j < count; j++) {
            const struct member *in = &members[i];
            const struct member *out = &members[j];
            if (!in->votes || out->votes || in->row->wish != out->row->wish ||
                in->node->domain[0] == '\0') {
                continue;
            }
            size_t there =
                out->node->domain[0] == '\0' ? 0 : servers_in(members, count, out->node->domain);
            if (there + 1 < servers_in(members, count, in->node->domain)) {
                violated(world, "%s (%s) is a server, and %s (%s) is none", in->node->name,
                         in->node->domain, out->node->name, out->node->domain);
            }
        }
    }
}

static void check_members(struct world *world)
{
    const struct sim_node *leader = find_leader(world);
    if (leader == NULL) {
        violated(world, "nobody leads");
        return;
    }
    struct member members[SIM_NODES];
    size_t pool = list_pool(world, leader, members);
    size_t voters = 0;
    size_t asked_for = 0;
    for (size_t i = 0; i < pool; i++) {
        voters += members[i].votes;
        asked_for += !members[i].votes && members[i].row->wish == MEMBERSHIP_WANTED_SERVER;
    }
    size_t wanted = leader->state.wanted;
    size_t least = pool < wanted ? pool - (pool % 2 == 0 && pool > 0) : wanted;
    trace(world, leader, "%zu of %zu vote, %zu wanted", voters, pool, wanted);
    if (voters < least || voters > wanted ||
        (pool >= wanted && leader->state.config.count != wanted)) {
        violated(world, "%zu of %zu nodes are servers, %zu in all, %zu wanted", voters, pool,
                 leader->state.config.count, wanted);
    }
    for (size_t i = 0; i < pool; i++) {
        if (members[i].votes && members[i].row->wish == MEMBERSHIP_AUTO && asked_for > 0) {
            violated(world, "%s is a server, and one that a person wants is none",
                     members[i].node->name);
        }
    }
    if (pool > wanted) {
        check_spread(world, members, pool);
    }
}

static void check_owners(struct world *world)
{
    const struct sim_node *leader = find_leader(world);
    for (size_t i = 0; leader != NULL && i < SIM_RESOURCES; i++) {
        const struct sim_node *owner = node_with(world, leader->state.owners[i]);
        if (owner == NULL || !owner->is_up) {
            violated(world, "resource %zu is left with %lu, which is gone", i,
                     (unsigned long)leader->state.owners[i]);
        } else if (!liveness_holds(&owner->lease, boot_ms(world, owner))) {
            violated(world, "%s is well and has no lease", owner->name);
        }
    }
}

/* The leader names the one whose wall clock is wrong, and nobody else; itself as well. */
static void check_clocks(struct world *world, const struct sim_node *wrong)
{
    const struct sim_node *leader = find_leader(world);
    struct liveness_clock clocks[SIM_NODES] = {0};
    size_t known = 0;
    for (int i = 0; leader != NULL && i < SIM_NODES; i++) {
        for (size_t j = 0; j < leader->fact_count; j++) {
            if (leader->state.rows[i].is_there && world->nodes[i].is_up &&
                leader->facts[j].id == leader->state.rows[i].id) {
                clocks[i] = leader->facts[j].clock;
                known += clocks[i].is_known;
            }
        }
    }
    for (int i = 0; i < SIM_NODES && known >= 3; i++) {
        bool is_named = liveness_clock_wrong(clocks, SIM_NODES, (size_t)i) != 0;
        if (clocks[i].is_known && is_named != (&world->nodes[i] == wrong)) {
            violated(world, "%s has a clock that is %s, and it is not seen", world->nodes[i].name,
                     is_named ? "right" : "wrong");
        }
    }
}

static void check_end(struct world *world)
{
    uint64_t healed_us = world->now_us;
    run_until(world, healed_us + (uint64_t)CONVERGE_S * SECOND_US, NULL);
    struct sim_node *wrong = &world->nodes[draw(world, SIM_NODES)];
    wrong->wall_ms = 3000;
    uint64_t elections = world->elections;
    run_until(world, world->now_us + (uint64_t)REST_S * SECOND_US, NULL);
    if (world->is_failed) {
        return;
    }
    if (world->last_action_us > healed_us + (uint64_t)CONVERGE_S * SECOND_US) {
        violated(world, "still changing the servers: %s", world->last_action);
    }
    if (world->elections > elections) {
        violated(world, "elections without a reason");
    }
    check_members(world);
    check_owners(world);
    check_clocks(world, wrong);
}

/* ---- Scenarios ---- */

/* Once there are servers, and all is well, nothing whatever is done. */
static void check_calm(struct world *world)
{
    enum { SETTLED_S = 120 };
    if (world->now_us < (uint64_t)SETTLED_S * SECOND_US) {
        return;
    }
    if (world->lost > 0 || world->moves > SIM_RESOURCES * (SIM_NODES + 1) ||
        world->last_action_us > (uint64_t)SETTLED_S * SECOND_US) {
        violated(world, "all is well, and yet: %lu lost, last change %s",
                 (unsigned long)world->lost, world->last_action);
    }
    if (world->expired > 0 && world->expired_seen == 0) {
        world->expired_seen = world->expired;
    } else if (world->expired_seen != 0 && world->expired != world->expired_seen) {
        violated(world, "all is well, and a lease ended");
    }
}

/* One node is down for 20 of every 60 seconds: no reason to give its place to another. */
static void check_flapping(struct world *world)
{
    enum { PERIOD_S = 60, DOWN_S = 20, SETTLED_S = 120 };
    uint64_t second = world->now_us / SECOND_US;
    if (second < SETTLED_S) {
        return;
    }
    if (world->flapping == NULL) {
        const struct sim_node *leader = find_leader(world);
        for (int i = 0; leader != NULL && i < SIM_NODES; i++) {
            if (config_has(&leader->state.config, world->nodes[i].id)) {
                world->flapping = &world->nodes[i];
            }
        }
        return;
    }
    struct sim_node *node = world->flapping;
    if (second % PERIOD_S < DOWN_S && node->is_up) {
        node_kill(world, node);
        node->start_us = (second - second % PERIOD_S + DOWN_S) * SECOND_US;
    }
    if (world->last_action_us > (uint64_t)SETTLED_S * SECOND_US) {
        violated(world, "a node that comes and goes leads to: %s", world->last_action);
    }
}

static const struct scenario scenarios[] = {
    {
        .name = "calm",
        .claim = "where all is well nothing is done",
        .seeds = 10,
        .params = {.delay_us = 2000,
                   .drift = 0.01,
                   .chaos_us = 300 * (uint64_t)SECOND_US,
                   .wanted = 3,
                   .steps_down = true},
        .check = check_calm,
    },
    {
        .name = "flapping",
        .claim = "a node that comes and goes keeps its place",
        .seeds = 10,
        .params = {.delay_us = 2000,
                   .drift = 0.01,
                   .chaos_us = 400 * (uint64_t)SECOND_US,
                   .wanted = 3,
                   .steps_down = true},
        .check = check_flapping,
    },
    {
        .name = "network",
        .claim = "cut, slow and lossy networks",
        .seeds = 80,
        .params = {.delay_us = 10000,
                   .delay_rare_us = 3 * SECOND_US,
                   .loss_permille = 20,
                   .drift = 0.01,
                   .chaos_us = 240 * (uint64_t)SECOND_US,
                   .mishap_us = 4 * SECOND_US,
                   .wanted = 3,
                   .may_cut = true},
    },
    {
        .name = "stopped",
        .claim = "processes that stop for a while and do not know it",
        .seeds = 80,
        .params = {.delay_us = 10000,
                   .delay_rare_us = SECOND_US,
                   .drift = 0.01,
                   .chaos_us = 240 * (uint64_t)SECOND_US,
                   .mishap_us = 2 * SECOND_US,
                   .wanted = 3,
                   .steps_down = true,
                   .may_stop = true,
                   .may_cut = true},
    },
    {
        .name = "lagging",
        .claim = "nodes that come back just when they are given up, slow disks, late states",
        .seeds = 160,
        .params = {.delay_us = 4000,
                   .drift = 0.01,
                   .chaos_us = 300 * (uint64_t)SECOND_US,
                   .mishap_us = 2 * SECOND_US,
                   .wanted = 3,
                   .may_stop = true,
                   .may_cut = true,
                   .may_lag = true,
                   .is_narrow = true},
    },
    {
        .name = "everything",
        .claim = "crashes, reboots, deaths, partitions, pauses, and people who ask for things",
        .seeds = 160,
        .params = {.delay_us = 10000,
                   .delay_rare_us = 2 * SECOND_US,
                   .loss_permille = 10,
                   .drift = 0.01,
                   .chaos_us = 300 * (uint64_t)SECOND_US,
                   .mishap_us = 2 * SECOND_US,
                   .wanted = 5,
                   .may_die = true,
                   .may_stop = true,
                   .may_cut = true,
                   .may_ask = true,
                   .may_reboot = true},
    },
};

/* ---- Seeds ---- */

/* Returns whether it went well. */
static bool run_seed(const struct scenario *scenario, uint64_t seed, bool is_traced)
{
    struct world *world = malloc(sizeof(*world));
    CHECK(world != NULL);
    world_init(world, seed, &scenario->params, is_traced);
    world->params.steps_down = scenario->params.steps_down || seed % 2 == 0;
    chaos_begin(world);
    run_until(world, scenario->params.chaos_us, scenario->check);
    chaos_heal(world);
    check_end(world);
    if (is_traced) {
        fprintf(stderr,
                "%lu acts, %lu without a lease, %lu grants, %lu lost, %lu readmitted, %lu moves, "
                "%lu refused, %lu elections, %lu steps\n",
                world->acts, world->expired, world->grants, world->lost, world->readmitted,
                world->moves, world->moves_refused, world->elections, world->actions);
    }
    bool is_good = !world->is_failed;
    if (!is_good) {
        printf("%s: seed %lu: %s\n", scenario->name, (unsigned long)seed, world->failure);
        fflush(stdout);
    }
    world_done(world);
    free(world);
    return is_good;
}

/* In a few processes of their own: a CHECK that fails is a failure of some seed, not of all. */
static bool run_seeds(const struct scenario *scenario, uint64_t first, uint64_t count)
{
    pid_t children[PROCESSES];
    fflush(stdout);
    for (uint64_t i = 0; i < PROCESSES; i++) {
        children[i] = fork();
        if (children[i] == 0) {
            bool is_good = true;
            for (uint64_t seed = first + i; seed < first + count; seed += PROCESSES) {
                is_good = run_seed(scenario, seed, false) && is_good;
            }
            exit(is_good ? EXIT_SUCCESS : EXIT_FAILURE);
        }
    }
    bool is_good = true;
    for (uint64_t i = 0; i < PROCESSES; i++) {
        int status = 0;
        waitpid(children[i], &status, 0);
        is_good = is_good && WIFEXITED(status) && WEXITSTATUS(status) == EXIT_SUCCESS;
    }
    return is_good;
}

struct request {
    bool has_seed, is_traced;
    uint64_t seed, seeds;
    char *const *names;
    int name_count;
};

static bool parse(int argc, char **argv, struct request *ret_request)
{
    *ret_request = (struct request){.seeds = 0};
    int at = 1;
    for (; at < argc && strncmp(argv[at], "--", 2) == 0; at++) {
        if (strcmp(argv[at], "--trace") == 0) {
            ret_request->is_traced = true;
        } else if (strcmp(argv[at], "--seed") == 0 && at + 1 < argc) {
            ret_request->has_seed = true;
            ret_request->seed = strtoull(argv[++at], NULL, 10);
        } else if (strcmp(argv[at], "--seeds") == 0 && at + 1 < argc) {
            ret_request->seeds = strtoull(argv[++at], NULL, 10);
        } else {
            return false;
        }
    }
    ret_request->names = argv + at;
    ret_request->name_count = argc - at;
    return true;
}

static bool is_asked_for(const struct request *request, const char *name)
{
    for (int i = 0; i < request->name_count; i++) {
        if (strcmp(request->names[i], name) == 0) {
            return true;
        }
    }
    return request->name_count == 0;
}

int main(int argc, char **argv)
{
    struct request request;
    if (!parse(argc, argv, &request)) {
        fprintf(stderr, "usage: sim-tests [--seed N] [--seeds COUNT] [--trace] [SCENARIO...]\n");
        return 64;
    }
    unsigned passed = 0;
    unsigned failed = 0;
    for (size_t i = 0; i < sizeof(scenarios) / sizeof(scenarios[0]); i++) {
        const struct scenario *scenario = &scenarios[i];
        if (!is_asked_for(&request, scenario->name)) {
            continue;
        }
        uint64_t seeds = request.seeds != 0 ? request.seeds : scenario->seeds;
        bool is_good = request.has_seed ? run_seed(scenario, request.seed, request.is_traced)
                                        : run_seeds(scenario, 1, seeds);
        printf("%s %s: %s\n", is_good ? "ok" : "not ok", scenario->name, scenario->claim);
        fflush(stdout);
        passed += is_good;
        failed += !is_good;
    }
    printf("%u passed, %u failed, 0 skipped\n", passed, failed);
    return failed == 0 && passed > 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
