/*
 * placement-bench [--json FILE] [--quick] [--data FOLDER] [PART...]: decisions of the placement
 * engine alone, in the thread's own CPU time.
 *
 *   speed     decide and commit, on one core, with constraints, affinities and spreads, in clusters
 *             of 1,000 to 10,000 nodes; how the cost of a decision grows
 *   sampling  what is lost by looking at a sample: the score, and how full the cluster becomes
 *   trace     packing and displacing on a real cluster's nodes and pods, against first-fit,
 *             best-fit, random, dot-product and FGD (FOLDER, or BLIXARD_TRACES, or ../shared/data)
 */
#include "test/bench/placement_bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"

#include "engine/placement/placement.h"

enum { RULE_KINDS = 4, JOB_MEMBERS = 20, PER_NODE = 10, RACK = 40 };

uint64_t draw(uint64_t *state, uint64_t below)
{
    *state += 0x9e3779b97f4a7c15ULL;
    uint64_t value = *state;
    value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9ULL;
    value = (value ^ (value >> 27)) * 0x94d049bb133111ebULL;
    value ^= value >> 31;
    return below > 0 ? value % below : value;
}

/* The thread's own time: others on the machine do not count. */
static uint64_t cpu_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static void must(int r, const struct error *err)
{
    if (r < 0) {
        fprintf(stderr, "%s\n", err->text);
        exit(1);
    }
}

/* ---- A cluster and what is to run on it ---- */

static void add_node(struct placement_cluster *cluster, size_t number)
{
    static const char *const zones[] = {"a", "b", "c"};
    static const uint64_t sizes[][2] = {{16, 64}, {32, 128}, {64, 256}, {32, 256}};
    static const char *const kernels[] = {"5.10.1", "6.1.0", "6.6.3"};
    char id[32], rack[32];
    snprintf(id, sizeof(id), "node-%zu", number);
    snprintf(rack, sizeof(rack), "rack-%zu", number / RACK);
    struct placement_attribute attributes[] = {
        {"label.disk", number % 5 < 3 ? "ssd" : "hdd"},
        {"attr.kernel", kernels[number / 7 % 3]},
    };
    const uint64_t *size = sizes[number / 3 % 4];
    struct placement_node node = {
        .id = id,
        .name = id,
        .region = "north",
        .zone = zones[number / RACK % 3],
        .rack = rack,
        .attributes = attributes,
        .attribute_count = 2,
        .capacity = {.of = {size[0] * 1000, size[1] * GIB, 2000 * GIB, 0, 0, 1000, 0}},
        .cost = (uint32_t)size[0],
        .is_ready = true,
        .is_eligible = true,
    };
    struct error err = {0};
    must(placement_cluster_set_node(cluster, &node, NULL, &err), &err);
}

static struct placement_rules *read_rules(const char *text)
{
    struct error err = {0};
    struct placement_rules *rules = NULL;
    JSON_OWNED json_t *value = NULL;
    must(json_read(text, strlen(text), &value, &err), &err);
    must(placement_rules_read(value, &rules, &err), &err);
    return rules;
}

struct work {
    struct placement_rules *rules[RULE_KINDS];
    uint64_t random;
    size_t made;
    char id[32], job[32];
};

static void work_init(struct work *work, uint64_t seed)
{
    static const char *const texts[RULE_KINDS] = {
        "{\"constraints\": [\"label.disk = ssd\"], \"spread\": [\"zone\"]}",
        ("{\"constraints\": [\"attr.kernel version >= 6\", \"distinct_hosts\"],"
         " \"affinities\": [\"50 zone = a\"]}"),
        "{\"spread\": [\"rack\"], \"affinities\": [\"-50 label.disk = hdd\"]}",
        "{\"constraints\": [\"attr.kernel regexp ^[56][.]\"], \"spread\": [\"zone a=50 b=30\"]}",
    };
    *work = (struct work){.random = seed};
    for (size_t i = 0; i < RULE_KINDS; i++) {
        work->rules[i] = read_rules(texts[i]);
    }
}

static void work_done(struct work *work)
{
    for (size_t i = 0; i < RULE_KINDS; i++) {
        placement_rules_unref(work->rules[i]);
    }
}

/* The texts are the work's, until the next one. */
static struct placement_request next_request(struct work *work)
{
    static const uint64_t cpus[] = {250, 500, 1000, 2000, 4000};
    static const uint64_t memories[] = {512, 1024, 2048, 4096, 8192, 16384};
    size_t job = work->made / JOB_MEMBERS;
    snprintf(work->id, sizeof(work->id), "m-%zu", work->made++);
    snprintf(work->job, sizeof(work->job), "job-%zu", job);
    return (struct placement_request){
        .id = work->id,
        .job = work->job,
        .rules = work->rules[job % RULE_KINDS],
        .demand = {.amounts = {.of = {cpus[draw(&work->random, 5)],
                                      memories[draw(&work->random, 6)] * MIB, 10 * GIB, 0, 0, 1,
                                      0}}},
        .priority = PLACEMENT_PRIORITY_DEFAULT,
        .is_displaceable = true,
        .may_be_moved = true,
    };
}

static struct placement_cluster *make_cluster(size_t nodes)
{
    struct placement_cluster *cluster = placement_cluster_new();
    for (size_t i = 0; i < nodes; i++) {
        add_node(cluster, i);
    }
    return cluster;
}

/* ---- Speed ---- */

static int by_value(const void *a, const void *b)
{
    uint64_t left = *(const uint64_t *)a, right = *(const uint64_t *)b;
    return left < right ? -1 : left > right;
}

struct speed {
    double per_second, p50_us, p99_us, most_us, looked;
    size_t placed, refused;
};

/* Each talks with so many that were placed before it, drawn at random. */
static struct speed measure_speed(size_t nodes, size_t count, size_t peers)
{
    struct placement_cluster *cluster = make_cluster(nodes);
    struct work work;
    work_init(&work, 7);
    struct placement_options options;
    placement_options_init(&options, PLACEMENT_BINPACK);
    uint64_t *times = memory_new(count, sizeof(*times)), all_ns = 0;
    struct speed speed = {0};
    struct error err = {0};
    for (size_t i = 0; i < count; i++) {
        struct placement_request request = next_request(&work);
        struct placement_decision decision = {0};
        char names[PLACEMENT_TALKS_MAX][32];
        struct placement_talk talks[PLACEMENT_TALKS_MAX];
        for (size_t k = 0; k < peers && i > 0; k++) {
            snprintf(names[k], sizeof(names[k]), "m-%zu", (size_t)draw(&work.random, i));
            talks[k] = (struct placement_talk){.with = names[k], .bytes_per_second = MIB};
        }
        request.talks = talks;
        request.talk_count = i > 0 ? peers : 0;
        options.seed = i;
        uint64_t begun = cpu_ns();
        must(placement_decide(cluster, &request, &options, 0, &decision, &err), &err);
        uint64_t decided = cpu_ns();
        if (decision.is_placed) {
            must(placement_commit(cluster, &request, &decision, 0, &err), &err);
        }
        all_ns += cpu_ns() - begun;
        times[i] = decided - begun;
        speed.placed += decision.is_placed;
        speed.looked += decision.nodes_looked;
        placement_decision_done(&decision);
    }
    qsort(times, count, sizeof(*times), by_value);
    speed.refused = count - speed.placed;
    speed.per_second = (double)count * 1e9 / (double)all_ns;
    speed.p50_us = (double)times[count / 2] / 1e3;
    speed.p99_us = (double)times[count * 99 / 100] / 1e3;
    speed.most_us = (double)times[count - 1] / 1e3;
    speed.looked /= (double)count;
    free(times);
    work_done(&work);
    placement_cluster_free(cluster);
    return speed;
}

static void report_speed(bool is_quick, struct json_writer *out)
{
    static const size_t sizes[][2] = {{1000, 0}, {2000, 0}, {5000, 0}, {10000, 0}, {5000, 8}};
    printf("decide and commit, one core, %d rule sets (constraints, affinities, spread)\n",
           RULE_KINDS);
    printf("%8s %12s %9s %9s %9s %9s %8s %6s\n", "nodes", "placements/s", "p50 us", "p99 us",
           "max us", "looked at", "refused", "peers");
    json_write_key(out, "speed");
    json_write_begin_array(out);
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        struct speed speed =
            measure_speed(sizes[i][0], is_quick ? 2000 : sizes[i][0] * PER_NODE, sizes[i][1]);
        printf("%8zu %12.0f %9.1f %9.1f %9.1f %9.1f %8zu %6zu\n", sizes[i][0], speed.per_second,
               speed.p50_us, speed.p99_us, speed.most_us, speed.looked, speed.refused, sizes[i][1]);
        fflush(stdout);
        json_write_begin_object(out);
        json_write_field_u64(out, "nodes", sizes[i][0]);
        json_write_field_u64(out, "peers", sizes[i][1]);
        json_write_field_double(out, "placements_per_second", speed.per_second);
        json_write_field_double(out, "p50_us", speed.p50_us);
        json_write_field_double(out, "p99_us", speed.p99_us);
        json_write_field_double(out, "max_us", speed.most_us);
        json_write_field_double(out, "nodes_looked_at", speed.looked);
        json_write_field_u64(out, "refused", speed.refused);
        json_write_end_object(out);
    }
    json_write_end_array(out);
}

/* ---- What sampling loses ---- */

struct loss {
    double score_mean, score_most; /* of the best possible, in hundredths */
    double filled;                 /* share of CPU that is used when the first one is refused */
    double per_second;
};

static double used_share(const struct placement_cluster *cluster);

static struct loss measure_loss(size_t nodes, uint32_t sample, size_t compare_every)
{
    struct placement_cluster *cluster = make_cluster(nodes);
    struct work work;
    work_init(&work, 11);
    struct placement_options options, whole;
    placement_options_init(&options, PLACEMENT_BINPACK);
    whole = options;
    options.sample_max = sample;
    whole.sample_max = 0;
    whole.band_percent = 0;
    struct loss loss = {0};
    struct error err = {0};
    uint64_t all_ns = 0;
    size_t compared = 0, made = 0;
    for (bool is_full = false; !is_full; made++) {
        struct placement_request request = next_request(&work);
        struct placement_decision decision = {0}, best = {0};
        options.seed = made;
        uint64_t begun = cpu_ns();
        must(placement_decide(cluster, &request, &options, 0, &decision, &err), &err);
        all_ns += cpu_ns() - begun;
        is_full = !decision.is_placed;
        if (!is_full && made % compare_every == 0) {
            must(placement_decide(cluster, &request, &whole, 0, &best, &err), &err);
            double lost = 100 * (best.score - decision.score);
            loss.score_mean += lost;
            loss.score_most = lost > loss.score_most ? lost : loss.score_most;
            compared++;
        }
        if (!is_full) {
            must(placement_commit(cluster, &request, &decision, 0, &err), &err);
        }
        placement_decision_done(&decision);
        placement_decision_done(&best);
    }
    loss.score_mean /= compared > 0 ? (double)compared : 1;
    loss.per_second = (double)made * 1e9 / (double)all_ns;
    loss.filled = used_share(cluster);
    work_done(&work);
    placement_cluster_free(cluster);
    return loss;
}

struct sums {
    double used, limit;
};

static void add_usage(const struct placement_usage *usage, void *context)
{
    struct sums *sums = context;
    sums->used += (double)usage->used.of[PLACEMENT_MEMORY];
    sums->limit += (double)usage->limit.of[PLACEMENT_MEMORY];
}

static double used_share(const struct placement_cluster *cluster)
{
    struct sums sums = {0};
    placement_cluster_each(cluster, add_usage, &sums);
    return sums.used / sums.limit;
}

static void report_loss(bool is_quick, struct json_writer *out)
{
    static const uint32_t samples[] = {8, 32, 96, 256, 0};
    size_t nodes = is_quick ? 300 : 1000;
    printf("\nsampling, %zu nodes, placed until the first is refused\n", nodes);
    printf("%8s %18s %18s %12s %14s\n", "sample", "score lost, mean", "score lost, max",
           "memory used", "decisions/s");
    json_write_key(out, "sampling");
    json_write_begin_array(out);
    for (size_t i = 0; i < sizeof(samples) / sizeof(samples[0]); i++) {
        struct loss loss = measure_loss(nodes, samples[i], 50);
        char name[16];
        snprintf(name, sizeof(name), "%u", samples[i]);
        printf("%8s %17.2f%% %17.2f%% %11.1f%% %14.0f\n", samples[i] == 0 ? "all" : name,
               loss.score_mean, loss.score_most, loss.filled * 100, loss.per_second);
        fflush(stdout);
        json_write_begin_object(out);
        json_write_field_u64(out, "sample", samples[i]);
        json_write_field_double(out, "score_lost_mean_percent", loss.score_mean);
        json_write_field_double(out, "score_lost_max_percent", loss.score_most);
        json_write_field_double(out, "memory_used_share", loss.filled);
        json_write_field_double(out, "decisions_per_second", loss.per_second);
        json_write_end_object(out);
    }
    json_write_end_array(out);
}

/* ---- All ---- */

static void report_trace(const char *folder, bool is_quick, struct json_writer *out)
{
    const char *why = NULL;
    json_write_key(out, "trace");
    if (!trace_measure(folder, is_quick, out, &why)) {
        printf("\ntrace: not measured: %s\n", why);
        json_write_begin_object(out);
        json_write_field_string(out, "lacking", why);
        json_write_end_object(out);
    }
}

int main(int argc, char **argv)
{
    const char *json_path = NULL, *folder = getenv("BLIXARD_TRACES");
    bool is_quick = false, is_named = false, wants[4] = {false};
    static const char *const parts[] = {"speed", "sampling", "trace", "traffic"};
    folder = folder != NULL ? folder : "../shared/data";
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--quick") == 0) {
            is_quick = true;
        } else if (strcmp(argv[i], "--json") == 0 && i + 1 < argc) {
            json_path = argv[++i];
        } else if (strcmp(argv[i], "--data") == 0 && i + 1 < argc) {
            folder = argv[++i];
        } else {
            size_t part = 0;
            while (part < 4 && strcmp(argv[i], parts[part]) != 0) {
                part++;
            }
            if (part == 4) {
                fprintf(stderr,
                        "usage: placement-bench [--json FILE] [--quick] [--data FOLDER] "
                        "[speed] [sampling] [trace] [traffic]\n");
                return 64;
            }
            is_named = wants[part] = true;
        }
    }
    BUFFER_OWNED struct buffer json = {0};
    struct json_writer out = json_writer_to(&json);
    struct error err = {0};
    json_write_begin_object(&out);
    if (!is_named || wants[0]) {
        report_speed(is_quick, &out);
    }
    if (!is_named || wants[1]) {
        report_loss(is_quick, &out);
    }
    if (!is_named || wants[2]) {
        report_trace(folder, is_quick, &out);
    }
    if (!is_named || wants[3]) {
        traffic_measure(is_quick, &out);
    }
    json_write_end_object(&out);
    if (json_path != NULL) {
        must(file_write(json_path, json.data, json.used, 0644, &err), &err);
    }
    return 0;
}
