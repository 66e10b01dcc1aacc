/*
 * A real cluster's nodes and pods (Alibaba cluster-trace-gpu-v2023), placed by Blixard and by
 * baselines.  The baselines are written here, on plain arrays, looking at every node:
 *
 *   first-fit    the first node with room
 *   random       any node with room
 *   best-fit     the least of CPU, memory and GPUs left, as shares of the largest node
 *   dot-product  the least product of what is free and what is wanted
 *   FGD          the least growth of fragmentation, knowing all pods of the trace beforehand
 *
 * All take the fullest GPU that has the share.  Source: "Beware of Fragmentation" (ATC 2023).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/error.h"
#include "base/file.h"
#include "base/memory.h"

#include "engine/placement/placement.h"

#include "test/bench/placement_bench.h"

enum {
    GPUS_MAX = 8,
    PODS_MAX = 20000,
    NODES_MAX = 4000,
    KINDS = 64, /* of pods that FGD knows */
    FIELDS = 12,
    AT_NODE_MAX = 512,
    HIGH = 70,
    LOW = 20,
    BYTES_MAX = 8 << 20,
};

struct pod {
    uint64_t cpu, memory_mib;
    uint32_t gpus, share; /* thousandths of each */
    char models[64];
    uint32_t priority;
    uint64_t created, deleted;
};

struct box { /* a node */
    uint64_t cpu, memory_mib, cpu_free, memory_free;
    uint32_t gpus, gpu_free[GPUS_MAX];
    char model[16];
    size_t pods[AT_NODE_MAX]; /* numbers of what is there */
    size_t pod_count;
};

struct trace {
    struct pod *pods;
    size_t pod_count;
    struct box *boxes;
    size_t box_count;
    uint64_t gpu_milli; /* of all */
    struct pod kinds[KINDS];
    double weights[KINDS];
    size_t kind_count;
};

enum policy { FIRST_FIT, RANDOM, BEST_FIT, DOT_PRODUCT, FGD, BLIXARD, BLIXARD_ALL, POLICIES };

static const char *const names[POLICIES] = {
    "first-fit", "random", "best-fit", "dot-product", "FGD", "Blixard", "Blixard, no sample"};

/* ---- Reading ---- */

static size_t split(char *line, char *fields[FIELDS])
{
    size_t count = 0;
    for (char *at = line; at != NULL && count < FIELDS; count++) {
        fields[count] = at;
        at = strchr(at, ',');
        if (at != NULL) {
            *at++ = 0;
        }
    }
    return count;
}

static uint64_t number(const char *text)
{
    return strtoull(text, NULL, 10);
}

static char *next_line(char **at)
{
    char *line = *at;
    if (line == NULL || *line == 0) {
        return NULL;
    }
    char *end = strchr(line, '\n');
    *at = end != NULL ? end + 1 : NULL;
    if (end != NULL) {
        *end = 0;
    }
    return line;
}

static bool read_file(const char *folder, const char *name, struct buffer *buffer)
{
    MEMORY_OWNED char *path = memory_format("%s/%s", folder, name);
    struct error err = {0};
    return file_read(path, BYTES_MAX, buffer, &err) == 0;
}

static bool read_boxes(struct trace *trace, const char *folder)
{
    BUFFER_OWNED struct buffer buffer = {0};
    if (!read_file(folder, "openb_node_list_all_node.csv", &buffer)) {
        return false;
    }
    buffer_append_byte(&buffer, 0);
    char *at = (char *)buffer.data, *fields[FIELDS];
    next_line(&at);
    for (char *line = next_line(&at); line != NULL; line = next_line(&at)) {
        if (split(line, fields) < 5 || trace->box_count == NODES_MAX) {
            return false;
        }
        struct box *box = &trace->boxes[trace->box_count++];
        box->cpu = box->cpu_free = number(fields[1]);
        box->memory_mib = box->memory_free = number(fields[2]);
        box->gpus = (uint32_t)number(fields[3]);
        box->gpus = box->gpus > GPUS_MAX ? GPUS_MAX : box->gpus;
        snprintf(box->model, sizeof(box->model), "%.15s", fields[4]);
        trace->gpu_milli += box->gpus * 1000;
        for (size_t i = 0; i < box->gpus; i++) {
            box->gpu_free[i] = 1000;
        }
    }
    return true;
}

static bool read_pods(struct trace *trace, const char *folder)
{
    BUFFER_OWNED struct buffer buffer = {0};
    if (!read_file(folder, "openb_pod_list_default.csv", &buffer)) {
        return false;
    }
    buffer_append_byte(&buffer, 0);
    char *at = (char *)buffer.data, *fields[FIELDS];
    next_line(&at);
    for (char *line = next_line(&at); line != NULL; line = next_line(&at)) {
        if (split(line, fields) < 10 || trace->pod_count == PODS_MAX) {
            return false;
        }
        struct pod *pod = &trace->pods[trace->pod_count++];
        *pod = (struct pod){
            .cpu = number(fields[1]),
            .memory_mib = number(fields[2]),
            .gpus = (uint32_t)number(fields[3]),
            .share = (uint32_t)number(fields[4]),
            .priority = strcmp(fields[6], "BE") == 0 ? LOW : HIGH,
            .created = number(fields[8]),
            .deleted = number(fields[9]),
        };
        snprintf(pod->models, sizeof(pod->models), "%.63s", fields[5]);
    }
    return true;
}

/* The kinds of pods, the most frequent ones. */
static void learn_kinds(struct trace *trace)
{
    for (size_t i = 0; i < trace->pod_count; i++) {
        const struct pod *pod = &trace->pods[i];
        size_t k = 0;
        while (k < trace->kind_count &&
               (trace->kinds[k].cpu != pod->cpu || trace->kinds[k].gpus != pod->gpus ||
                trace->kinds[k].memory_mib != pod->memory_mib ||
                trace->kinds[k].share != pod->share)) {
            k++;
        }
        if (pod->gpus > 0 && k < KINDS) {
            trace->kinds[k] = *pod;
            trace->weights[k] += 1.0 / (double)trace->pod_count;
            trace->kind_count = k == trace->kind_count ? k + 1 : trace->kind_count;
        }
    }
}

/* ---- Baselines ---- */

static bool model_suits(const struct pod *pod, const struct box *box)
{
    const char *at = pod->models;
    while (*at != 0) {
        size_t length = strcspn(at, "|");
        if (strlen(box->model) == length && memcmp(at, box->model, length) == 0) {
            return true;
        }
        at += length + (at[length] != 0);
    }
    return pod->models[0] == 0;
}

static bool gpus_suit(const struct pod *pod, const struct box *box)
{
    uint32_t suiting = 0;
    for (size_t i = 0; i < box->gpus; i++) {
        suiting += box->gpu_free[i] >= pod->share;
    }
    return pod->gpus == 0 || suiting >= pod->gpus;
}

static bool has_room(const struct pod *pod, const struct box *box)
{
    return box->cpu_free >= pod->cpu && box->memory_free >= pod->memory_mib &&
        gpus_suit(pod, box) && (pod->gpus == 0 || model_suits(pod, box));
}

/* The fullest GPUs that have the share; which ones, by bits. */
static uint32_t take(const struct pod *pod, struct box *box)
{
    uint32_t taken = 0;
    box->cpu_free -= pod->cpu;
    box->memory_free -= pod->memory_mib;
    for (uint32_t n = 0; n < pod->gpus; n++) {
        int best = -1;
        for (int i = 0; i < (int)box->gpus; i++) {
            if (!((taken >> i) & 1) && box->gpu_free[i] >= pod->share &&
                (best < 0 || box->gpu_free[i] < box->gpu_free[best])) {
                best = i;
            }
        }
        CHECK(best >= 0);
        box->gpu_free[best] -= pod->share;
        taken |= 1U << best;
    }
    return taken;
}

static void give(const struct pod *pod, struct box *box, uint32_t taken)
{
    box->cpu_free += pod->cpu;
    box->memory_free += pod->memory_mib;
    for (size_t i = 0; i < box->gpus; i++) {
        box->gpu_free[i] += (taken >> i) & 1 ? pod->share : 0;
    }
}

static double fragments(const struct trace *trace, const struct box *box)
{
    double sum = 0, all = 0;
    for (size_t i = 0; i < box->gpus; i++) {
        all += box->gpu_free[i];
    }
    for (size_t k = 0; k < trace->kind_count; k++) {
        double useless = 0;
        for (size_t i = 0; i < box->gpus; i++) {
            useless += box->gpu_free[i] < trace->kinds[k].share ? box->gpu_free[i] : 0;
        }
        sum += trace->weights[k] * (has_room(&trace->kinds[k], box) ? useless : all);
    }
    return sum;
}

static uint64_t gpu_free(const struct box *box)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < box->gpus; i++) {
        sum += box->gpu_free[i];
    }
    return sum;
}

/* The lowest wins. */
static double price(const struct trace *trace, enum policy policy, const struct pod *pod,
                    struct box *box, uint64_t *random)
{
    const double cpu_most = 128000, memory_most = 1048576, gpu_most = 8000;
    double wanted = pod->gpus * pod->share;
    switch (policy) {
    case RANDOM:
        return (double)draw(random, 1 << 30);
    case BEST_FIT:
        return (double)(box->cpu_free - pod->cpu) / cpu_most +
            (double)(box->memory_free - pod->memory_mib) / memory_most +
            ((double)gpu_free(box) - wanted) / gpu_most;
    case DOT_PRODUCT:
        return (double)box->cpu_free / cpu_most * (double)pod->cpu / cpu_most +
            (double)box->memory_free / memory_most * (double)pod->memory_mib / memory_most +
            (double)gpu_free(box) / gpu_most * wanted / gpu_most;
    case FGD: {
        double before = fragments(trace, box);
        uint32_t taken = take(pod, box);
        double after = fragments(trace, box);
        give(pod, box, taken);
        return after - before;
    }
    case FIRST_FIT:
    case BLIXARD:
    case BLIXARD_ALL:
    case POLICIES:
        break;
    }
    return 0;
}

/* ---- A run: one policy, one cluster ---- */

struct run {
    const struct trace *trace;
    enum policy policy;
    struct box *boxes;
    uint32_t *taken; /* by pod number */
    int *where;      /* by pod number; -1: not placed */
    uint64_t random;
    struct placement_cluster *cluster; /* Blixard's */
    struct placement_options options;
    size_t victims;
    uint64_t victim_gpu_milli;
};

static void must(int r, const struct error *err)
{
    if (r < 0) {
        fprintf(stderr, "%s\n", err->text);
        exit(1);
    }
}

static void tell_nodes(struct run *run)
{
    for (size_t i = 0; i < run->trace->box_count; i++) {
        const struct box *box = &run->trace->boxes[i];
        char id[32];
        snprintf(id, sizeof(id), "%zu", i);
        struct placement_device device = {"gpu", box->model, box->gpus};
        struct placement_node node = {
            .id = id,
            .name = id,
            .capacity = {.of = {box->cpu, box->memory_mib * MIB, 0, 0, 0, 0, 0}},
            .devices = &device,
            .device_count = box->gpus > 0,
            .is_ready = true,
            .is_eligible = true,
        };
        struct error err = {0};
        must(placement_cluster_set_node(run->cluster, &node, NULL, &err), &err);
    }
}

static void run_init(struct run *run, const struct trace *trace, enum policy policy, size_t most,
                     uint64_t seed)
{
    *run = (struct run){.trace = trace, .policy = policy, .random = seed};
    run->boxes = memory_new(trace->box_count, sizeof(*run->boxes));
    memcpy(run->boxes, trace->boxes, trace->box_count * sizeof(*run->boxes));
    run->taken = memory_new(most, sizeof(*run->taken));
    run->where = memory_new(most, sizeof(*run->where));
    for (size_t i = 0; i < most; i++) {
        run->where[i] = -1;
    }
    if (policy == BLIXARD || policy == BLIXARD_ALL) {
        run->cluster = placement_cluster_new();
        tell_nodes(run);
        placement_options_init(&run->options, PLACEMENT_BINPACK);
        run->options.displaced_max = PLACEMENT_VICTIMS_MAX;
        if (policy == BLIXARD_ALL) {
            run->options.sample_max = 0;
        }
    }
}

static void run_done(struct run *run)
{
    free(run->boxes);
    free(run->taken);
    free(run->where);
    placement_cluster_free(run->cluster);
}

static void put(struct run *run, const struct pod *pod, size_t number_of, size_t at)
{
    struct box *box = &run->boxes[at];
    run->where[number_of] = (int)at;
    run->taken[number_of] = take(pod, box);
    CHECK(box->pod_count < AT_NODE_MAX);
    box->pods[box->pod_count++] = number_of;
}

static void drop(struct run *run, const struct pod *pod, size_t number_of)
{
    if (run->where[number_of] < 0) {
        return;
    }
    if (run->cluster != NULL) {
        char id[32];
        struct error err = {0};
        snprintf(id, sizeof(id), "%zu", number_of);
        must(placement_cluster_remove(run->cluster, id, NULL, &err), &err);
    }
    struct box *box = &run->boxes[run->where[number_of]];
    give(pod, box, run->taken[number_of]);
    run->where[number_of] = -1;
    for (size_t i = 0; i < box->pod_count; i++) {
        if (box->pods[i] == number_of) {
            box->pods[i] = box->pods[--box->pod_count];
            return;
        }
    }
}

/* Blixard keeps its own books; ours follow, to be counted in the same way. */
static void follow(struct run *run, const struct pod *pod, size_t number_of,
                   const struct placement_decision *decision, const struct pod *const *placed)
{
    for (size_t i = 0; i < decision->victim_count; i++) {
        size_t victim = (size_t)number(decision->victims[i].id);
        struct placement_cluster *cluster = run->cluster;
        run->cluster = NULL; /* it has removed the victim itself */
        run->victims++;
        run->victim_gpu_milli += placed[victim]->gpus * placed[victim]->share;
        drop(run, placed[victim], victim);
        run->cluster = cluster;
    }
    struct box *box = &run->boxes[number(decision->node)];
    run->where[number_of] = (int)(box - run->boxes);
    uint32_t taken = 0;
    for (size_t i = 0; i < decision->grant.device_count; i++) {
        taken |= 1U << decision->grant.devices[i].index;
        box->gpu_free[decision->grant.devices[i].index] -= pod->share;
    }
    run->taken[number_of] = taken;
    box->cpu_free -= pod->cpu;
    box->memory_free -= pod->memory_mib;
    CHECK(box->pod_count < AT_NODE_MAX);
    box->pods[box->pod_count++] = number_of;
}

static bool place_blixard(struct run *run, const struct pod *pod, size_t number_of,
                          const struct pod *const *placed, bool may_displace)
{
    char id[32];
    snprintf(id, sizeof(id), "%zu", number_of);
    struct placement_device_demand device = {"gpu", pod->models, pod->gpus, pod->share};
    struct placement_request request = {
        .id = id,
        .demand = {.amounts = {.of = {pod->cpu, pod->memory_mib * MIB, 0, 0, 0, 0, 0}},
                   .devices = &device,
                   .device_count = pod->gpus > 0},
        .priority = pod->priority,
        .may_displace = may_displace,
        .is_displaceable = true,
    };
    struct placement_decision decision = {0};
    struct error err = {0};
    run->options.seed = number_of;
    must(placement_decide(run->cluster, &request, &run->options, 0, &decision, &err), &err);
    bool is_placed = decision.is_placed;
    if (is_placed) {
        must(placement_commit(run->cluster, &request, &decision, 0, &err), &err);
        follow(run, pod, number_of, &decision, placed);
    }
    placement_decision_done(&decision);
    return is_placed;
}

static bool place_baseline(struct run *run, const struct pod *pod, size_t number_of)
{
    size_t found = SIZE_MAX;
    double lowest = 0;
    for (size_t i = 0; i < run->trace->box_count; i++) {
        struct box *box = &run->boxes[i];
        if (!has_room(pod, box)) {
            continue;
        }
        double own = price(run->trace, run->policy, pod, box, &run->random);
        if (found == SIZE_MAX || own < lowest) {
            found = i;
            lowest = own;
        }
        if (run->policy == FIRST_FIT) {
            break;
        }
    }
    if (found != SIZE_MAX) {
        put(run, pod, number_of, found);
    }
    return found != SIZE_MAX;
}

/* The low ones at a node go, the latest first, until there is room; 0: that does not help. */
static size_t evict(struct run *run, const struct pod *pod, struct box *box,
                    const struct pod *const *placed, bool for_real)
{
    struct box copy = *box;
    size_t count = 0;
    for (size_t i = copy.pod_count; i > 0 && !has_room(pod, &copy); i--) {
        size_t victim = copy.pods[i - 1];
        if (placed[victim]->priority == LOW) {
            give(placed[victim], &copy, run->taken[victim]);
            count++;
            if (for_real) {
                run->victims++;
                run->victim_gpu_milli += placed[victim]->gpus * placed[victim]->share;
                drop(run, placed[victim], victim);
            }
        }
    }
    return has_room(pod, &copy) ? count : 0;
}

/* First-fit and random take the first (a random) node where it helps, others the fewest victims. */
static bool displace_baseline(struct run *run, const struct pod *pod, size_t number_of,
                              const struct pod *const *placed)
{
    size_t found = SIZE_MAX, fewest = SIZE_MAX;
    size_t start = run->policy == RANDOM ? draw(&run->random, run->trace->box_count) : 0;
    for (size_t n = 0; n < run->trace->box_count; n++) {
        size_t i = (start + n) % run->trace->box_count;
        size_t count = evict(run, pod, &run->boxes[i], placed, false);
        if (count > 0 && count < fewest) {
            found = i;
            fewest = count;
            if (run->policy == FIRST_FIT || run->policy == RANDOM) {
                break;
            }
        }
    }
    if (found == SIZE_MAX) {
        return false;
    }
    evict(run, pod, &run->boxes[found], placed, true);
    put(run, pod, number_of, found);
    return true;
}

static bool place(struct run *run, const struct pod *pod, size_t number_of,
                  const struct pod *const *placed, bool may_displace)
{
    if (run->cluster != NULL) {
        return place_blixard(run, pod, number_of, placed, may_displace);
    }
    return place_baseline(run, pod, number_of) ||
        (may_displace && pod->priority == HIGH && displace_baseline(run, pod, number_of, placed));
}

static double gpu_used_share(const struct run *run)
{
    uint64_t is_free = 0;
    for (size_t i = 0; i < run->trace->box_count; i++) {
        is_free += gpu_free(&run->boxes[i]);
    }
    return 1 - (double)is_free / (double)run->trace->gpu_milli;
}

/* ---- Filling: pods of the trace, drawn at random, until more was wanted than there is ---- */

struct filling {
    double used_at_100, used_at_120; /* share of GPUs, when so much of them was asked for */
    size_t victims, high_refused;
    double victim_gpus;
};

static struct filling fill(const struct trace *trace, enum policy policy, uint64_t seed,
                           bool may_displace)
{
    struct filling filling = {0};
    struct run run;
    const struct pod **placed = memory_new(PODS_MAX * 2, sizeof(*placed));
    run_init(&run, trace, policy, PODS_MAX * 2, seed);
    uint64_t random = seed, asked = 0;
    for (size_t i = 0; i < PODS_MAX * 2 && asked < trace->gpu_milli * 12 / 10; i++) {
        const struct pod *pod = &trace->pods[draw(&random, trace->pod_count)];
        placed[i] = pod;
        bool was_below = asked < trace->gpu_milli;
        asked += pod->gpus * pod->share;
        bool is_placed = place(&run, pod, i, placed, may_displace);
        filling.high_refused += !is_placed && pod->priority == HIGH;
        if (was_below && asked >= trace->gpu_milli) {
            filling.used_at_100 = gpu_used_share(&run);
        }
    }
    filling.used_at_120 = gpu_used_share(&run);
    filling.victims = run.victims;
    filling.victim_gpus = (double)run.victim_gpu_milli / 1000;
    run_done(&run);
    free(placed);
    return filling;
}

/* ---- Replaying: as pods came and went ---- */

struct event {
    uint64_t at;
    size_t pod;
    bool is_end;
};

static int by_time(const void *left, const void *right)
{
    const struct event *a = left, *b = right;
    if (a->at != b->at) {
        return a->at < b->at ? -1 : 1;
    }
    if (a->is_end != b->is_end) {
        return a->is_end ? -1 : 1;
    }
    return a->pod < b->pod ? -1 : 1;
}

struct replay {
    double boxes_mean; /* that are in use, over time */
    size_t refused;
};

static struct replay replay(const struct trace *trace, enum policy policy)
{
    struct replay result = {0};
    struct run run;
    size_t count = trace->pod_count * 2;
    struct event *events = memory_new(count, sizeof(*events));
    const struct pod **placed = memory_new(trace->pod_count, sizeof(*placed));
    for (size_t i = 0; i < trace->pod_count; i++) {
        placed[i] = &trace->pods[i];
        events[2 * i] = (struct event){trace->pods[i].created, i, false};
        events[2 * i + 1] = (struct event){trace->pods[i].deleted, i, true};
    }
    qsort(events, count, sizeof(*events), by_time);
    run_init(&run, trace, policy, trace->pod_count, 1);
    double box_seconds = 0;
    for (size_t i = 0; i < count; i++) {
        const struct pod *pod = &trace->pods[events[i].pod];
        if (events[i].is_end) {
            drop(&run, pod, events[i].pod);
        } else {
            result.refused += !place(&run, pod, events[i].pod, placed, false);
        }
        if (i + 1 < count && events[i + 1].at > events[i].at) {
            size_t used = 0;
            for (size_t k = 0; k < trace->box_count; k++) {
                used += run.boxes[k].pod_count > 0;
            }
            box_seconds += (double)used * (double)(events[i + 1].at - events[i].at);
        }
    }
    result.boxes_mean = box_seconds / (double)(events[count - 1].at - events[0].at);
    run_done(&run);
    free(events);
    free(placed);
    return result;
}

/* ---- All ---- */

static void report(const struct trace *trace, enum policy policy, unsigned seeds,
                   struct json_writer *out)
{
    struct filling mean = {0};
    for (unsigned i = 1; i <= seeds; i++) {
        struct filling one = fill(trace, policy, i, false);
        struct filling displacing = fill(trace, policy, i, true);
        mean.used_at_100 += one.used_at_100 / seeds;
        mean.used_at_120 += one.used_at_120 / seeds;
        mean.victims += displacing.victims;
        mean.victim_gpus += displacing.victim_gpus / seeds;
        mean.high_refused += displacing.high_refused;
    }
    struct replay replayed = replay(trace, policy);
    double victims = (double)mean.victims / seeds, refused = (double)mean.high_refused / seeds;
    printf("%-19s %10.2f%% %10.2f%% %12.1f %8zu %10.0f %12.0f %13.0f\n", names[policy],
           mean.used_at_100 * 100, mean.used_at_120 * 100, replayed.boxes_mean, replayed.refused,
           victims, mean.victim_gpus, refused);
    fflush(stdout);
    json_write_begin_object(out);
    json_write_field_string(out, "policy", names[policy]);
    json_write_field_double(out, "gpu_used_share_at_100", mean.used_at_100);
    json_write_field_double(out, "gpu_used_share_at_120", mean.used_at_120);
    json_write_field_double(out, "replay_nodes_in_use_mean", replayed.boxes_mean);
    json_write_field_u64(out, "replay_refused", replayed.refused);
    json_write_field_double(out, "victims", victims);
    json_write_field_double(out, "victim_gpus", mean.victim_gpus);
    json_write_field_double(out, "high_priority_refused", refused);
    json_write_end_object(out);
}

static void use_a_part(struct trace *trace)
{
    enum { BOXES = 1300, BOXES_USED = 60, PODS_USED = 500 };
    /* From behind, where the nodes with GPUs are. */
    if (trace->box_count > BOXES) {
        memmove(trace->boxes, trace->boxes + BOXES, BOXES_USED * sizeof(*trace->boxes));
        trace->box_count = BOXES_USED;
    }
    trace->pod_count = trace->pod_count < PODS_USED ? trace->pod_count : PODS_USED;
    trace->gpu_milli = 0;
    for (size_t i = 0; i < trace->box_count; i++) {
        trace->gpu_milli += trace->boxes[i].gpus * 1000;
    }
}

bool trace_measure(const char *folder, bool is_quick, struct json_writer *out, const char **ret_why)
{
    struct trace trace = {
        .pods = memory_new(PODS_MAX, sizeof(struct pod)),
        .boxes = memory_new(NODES_MAX, sizeof(struct box)),
    };
    bool is_there = read_boxes(&trace, folder) && read_pods(&trace, folder);
    *ret_why = "the trace's openb_*.csv are not in the folder that BLIXARD_TRACES names";
    if (is_there && is_quick) {
        use_a_part(&trace);
    }
    if (is_there) {
        learn_kinds(&trace);
        printf("\ntrace, %zu nodes, %.0f GPUs, %zu pods; filling: one seed\n", trace.box_count,
               (double)trace.gpu_milli / 1000, trace.pod_count);
        printf("%-19s %11s %11s %12s %8s %10s %12s %13s\n", "", "GPUs used,", "GPUs used,",
               "replay:", "replay:", "displaced", "displaced", "high priority");
        printf("%-19s %11s %11s %12s %8s %10s %12s %13s\n", "", "100% asked", "120% asked",
               "nodes in use", "refused", "pods", "GPUs", "refused");
        json_write_begin_array(out);
        for (enum policy policy = 0; policy < POLICIES; policy++) {
            report(&trace, policy, 1, out);
        }
        json_write_end_array(out);
    }
    free(trace.pods);
    free(trace.boxes);
    return is_there;
}
