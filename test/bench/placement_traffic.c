/*
 * Who talks with whom: applications of six machines (two web, two api, a database, a cache), and
 * some that talk with another application as well.  What they exchange is drawn from a seed, and
 * known once they run; what goes over the network between nodes is what is measured.
 *
 *   created    placed one by one when nothing was learnt
 *   restarted  every machine is placed anew several times, in a random order, as after drains and
 *              losses, by the weight of the part `traffic`
 *   moved      rebalanced, batch after batch, until a plan has no moves
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"

#include "engine/placement/placement.h"

#include "test/bench/placement_bench.h"

enum { NODES = 200, APPLICATIONS = 700, MEMBERS = 6, TURNS = 2, TALKS = PLACEMENT_TALKS_MAX };

struct machine {
    char id[24];
    struct placement_talk talks[TALKS];
    size_t talk_count;
    struct placement_demand demand;
};

struct scene {
    struct placement_cluster *cluster;
    struct machine *machines;
    size_t count;
    uint64_t random;
};

static void must(int r, const struct error *err)
{
    if (r < 0) {
        fprintf(stderr, "placement-bench: %s\n", err->text);
        exit(1);
    }
}

/* Between them, the same at both. */
static void tie(struct scene *scene, size_t one, size_t other, double least, double most)
{
    double share = (double)draw(&scene->random, 1000) / 1000;
    uint64_t rate = (uint64_t)(least * pow(most / least, share));
    struct machine *ends[2] = {&scene->machines[one], &scene->machines[other]};
    if (one == other || ends[0]->talk_count == TALKS || ends[1]->talk_count == TALKS) {
        return;
    }
    for (size_t i = 0; i < 2; i++) {
        ends[i]->talks[ends[i]->talk_count++] =
            (struct placement_talk){.with = ends[1 - i]->id, .bytes_per_second = rate};
    }
}

static void scene_init(struct scene *scene, size_t applications, size_t nodes)
{
    static const uint64_t cpus[MEMBERS] = {1000, 1000, 2000, 2000, 4000, 1000};
    static const uint64_t memories[MEMBERS] = {2, 2, 4, 4, 16, 8};
    struct error err = {0};
    *scene = (struct scene){.random = 5, .count = applications * MEMBERS};
    scene->cluster = placement_cluster_new();
    scene->machines = memory_new(scene->count, sizeof(*scene->machines));
    for (size_t i = 0; i < nodes; i++) {
        char id[24];
        snprintf(id, sizeof(id), "n%zu", i);
        struct placement_node node = {.id = id,
                                      .name = id,
                                      .capacity = {.of = {64000, 192 * GIB, 2000 * GIB}},
                                      .is_ready = true,
                                      .is_eligible = true};
        must(placement_cluster_set_node(scene->cluster, &node, NULL, &err), &err);
    }
    for (size_t i = 0; i < scene->count; i++) {
        struct machine *machine = &scene->machines[i];
        snprintf(machine->id, sizeof(machine->id), "m%zu", i);
        machine->demand.amounts.of[PLACEMENT_CPU_MILLI] = cpus[i % MEMBERS];
        machine->demand.amounts.of[PLACEMENT_MEMORY] = memories[i % MEMBERS] * GIB;
    }
    for (size_t a = 0; a < applications; a++) {
        size_t first = a * MEMBERS;
        for (size_t w = 0; w < 2; w++) {
            for (size_t k = 0; k < 2; k++) {
                tie(scene, first + w, first + 2 + k, 50e3, 5e6);
            }
            tie(scene, first + 2 + w, first + 4, 100e3, 20e6);
            tie(scene, first + 2 + w, first + 5, 50e3, 10e6);
        }
        if (draw(&scene->random, 10) == 0) {
            tie(scene, first + 2, draw(&scene->random, scene->count), 50e3, 5e6);
        }
    }
}

static void scene_done(struct scene *scene)
{
    placement_cluster_free(scene->cluster);
    free(scene->machines);
}

static void place(struct scene *scene, struct machine *machine, bool is_learnt,
                  const struct placement_options *options)
{
    struct error err = {0};
    struct placement_decision decision = {0};
    struct placement_request request = {.id = machine->id,
                                        .demand = machine->demand,
                                        .priority = PLACEMENT_PRIORITY_DEFAULT,
                                        .may_be_moved = true,
                                        .talks = is_learnt ? machine->talks : NULL,
                                        .talk_count = is_learnt ? machine->talk_count : 0};
    must(placement_decide(scene->cluster, &request, options, 0, &decision, &err), &err);
    if (!decision.is_placed) {
        fprintf(stderr, "placement-bench: %s\n", decision.reason);
        exit(1);
    }
    must(placement_commit(scene->cluster, &request, &decision, 0, &err), &err);
    placement_decision_done(&decision);
}

static void create(struct scene *scene)
{
    struct placement_options options;
    struct error err = {0};
    placement_options_init(&options, PLACEMENT_BALANCED);
    for (size_t i = 0; i < scene->count; i++) {
        options.seed = i;
        place(scene, &scene->machines[i], false, &options);
    }
    for (size_t i = 0; i < scene->count; i++) {
        must(placement_cluster_set_talks(scene->cluster, scene->machines[i].id,
                                         scene->machines[i].talks, scene->machines[i].talk_count,
                                         &err),
             &err);
    }
}

/* Of all bytes, those that go from node to node. */
static double remote_share(const struct scene *scene)
{
    double all = 0, remote = 0;
    for (size_t i = 0; i < scene->count; i++) {
        const struct machine *machine = &scene->machines[i];
        const char *here = placement_cluster_where(scene->cluster, machine->id);
        for (size_t k = 0; k < machine->talk_count; k++) {
            const char *there = placement_cluster_where(scene->cluster, machine->talks[k].with);
            all += (double)machine->talks[k].bytes_per_second;
            remote += strcmp(here, there) != 0 ? (double)machine->talks[k].bytes_per_second : 0;
        }
    }
    return remote / all;
}

struct extremes {
    double least, most;
};

static void look_at(const struct placement_usage *usage, void *context)
{
    struct extremes *extremes = context;
    double cpu =
        (double)usage->used.of[PLACEMENT_CPU_MILLI] / (double)usage->limit.of[PLACEMENT_CPU_MILLI];
    double memory =
        (double)usage->used.of[PLACEMENT_MEMORY] / (double)usage->limit.of[PLACEMENT_MEMORY];
    double full = cpu > memory ? cpu : memory;
    extremes->most = full > extremes->most ? full : extremes->most;
    extremes->least = full < extremes->least ? full : extremes->least;
}

static void report(const struct scene *scene, const char *name, size_t moves,
                   struct json_writer *out)
{
    struct extremes extremes = {1, 0};
    double share = remote_share(scene);
    placement_cluster_each(scene->cluster, look_at, &extremes);
    printf("%-34s %9.1f %8.0f %8.0f %8zu\n", name, share * 100, extremes.least * 100,
           extremes.most * 100, moves);
    fflush(stdout);
    json_write_begin_object(out);
    json_write_field_string(out, "name", name);
    json_write_field_double(out, "remote_share", share);
    json_write_field_double(out, "emptiest", extremes.least);
    json_write_field_double(out, "fullest", extremes.most);
    json_write_field_u64(out, "moves", moves);
    json_write_end_object(out);
}

static void restart_all(struct scene *scene, const struct placement_options *options)
{
    struct error err = {0};
    struct placement_options with = *options;
    for (size_t i = 0; i < scene->count * TURNS; i++) {
        struct machine *machine = &scene->machines[draw(&scene->random, scene->count)];
        with.seed = i;
        must(placement_cluster_remove(scene->cluster, machine->id, NULL, &err), &err);
        place(scene, machine, true, &with);
    }
}

static size_t rebalance_all(struct scene *scene, uint32_t traffic_percent)
{
    struct error err = {0};
    size_t moves = 0;
    struct placement_rebalance_options options = {.threshold_percent = 20,
                                                  .batch_max = PLACEMENT_MOVES_MAX,
                                                  .gain_min_percent = 5,
                                                  .traffic_min_percent = traffic_percent};
    placement_options_init(&options.options, PLACEMENT_BALANCED);
    for (bool goes_on = true; goes_on;) {
        struct placement_rebalance plan = {0};
        must(placement_rebalance(scene->cluster, &options, 0, &plan, &err), &err);
        for (size_t i = 0; i < plan.move_count; i++) {
            const struct placement_move *move = &plan.moves[i];
            struct machine *machine = &scene->machines[strtoul(move->id + 1, NULL, 10)];
            struct placement_allocation allocation = {
                .request = {.id = machine->id,
                            .demand = machine->demand,
                            .priority = PLACEMENT_PRIORITY_DEFAULT,
                            .may_be_moved = true,
                            .talks = machine->talks,
                            .talk_count = machine->talk_count},
                .node = move->to,
                .grant = {.numa = -1}};
            must(placement_cluster_remove(scene->cluster, move->id, NULL, &err), &err);
            must(placement_cluster_add(scene->cluster, &allocation, &err), &err);
        }
        moves += plan.move_count;
        goes_on = plan.move_count > 0 && moves < 10 * scene->count;
        free(plan.moves);
    }
    return moves;
}

void traffic_measure(bool is_quick, struct json_writer *out)
{
    static const struct {
        const char *name;
        enum placement_strategy strategy;
        uint32_t weight; /* UINT32_MAX: the strategy's */
    } ways[] = {{"restarted, traffic 0", PLACEMENT_BALANCED, 0},
                {"restarted, balanced", PLACEMENT_BALANCED, UINT32_MAX},
                {"restarted, binpack", PLACEMENT_BINPACK, UINT32_MAX},
                {"restarted, data-local", PLACEMENT_DATA_LOCAL, UINT32_MAX}};
    size_t applications = is_quick ? APPLICATIONS / 10 : APPLICATIONS;
    size_t nodes = is_quick ? NODES / 10 : NODES;
    struct scene scene;
    printf("\n%zu applications of %d machines on %zu nodes: bytes that go from node to node\n",
           applications, MEMBERS, nodes);
    printf("%-34s %9s %8s %8s %8s\n", "", "remote %", "emptiest", "fullest", "moves");
    json_write_key(out, "traffic");
    json_write_begin_array(out);
    scene_init(&scene, applications, nodes);
    create(&scene);
    report(&scene, "created", 0, out);
    size_t moves = rebalance_all(&scene, 0);
    report(&scene, "rebalanced for evenness alone", moves, out);
    moves = rebalance_all(&scene, 30);
    report(&scene, "rebalanced for traffic, too", moves, out);
    scene_done(&scene);
    for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
        struct placement_options options;
        placement_options_init(&options, ways[i].strategy);
        if (ways[i].weight != UINT32_MAX) {
            options.weights[PLACEMENT_PART_TRAFFIC] = ways[i].weight;
        }
        scene_init(&scene, applications, nodes);
        create(&scene);
        restart_all(&scene, &options);
        report(&scene, ways[i].name, 0, out);
        scene_done(&scene);
    }
    json_write_end_array(out);
}
