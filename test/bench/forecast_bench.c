/*
 * forecast-bench [FOLDER]: replay arrivals against a pool that keeps instances warm by one rule or
 * another, and count what each rule costs.  FOLDER holds published traces
 * (AzureLLMInferenceTrace_conv.csv, openb_pod_list_default.csv); those that are not there are said
 * to be missing.  Prints one JSON object: for each series and rule the cold starts (calls that
 * found no instance), and the instance-seconds that were kept for nobody.
 *
 * Rules: keep-alive (an instance stays ten minutes after its last call), reactive (the 99th
 * percentile of the last hour's peaks), forecast (engine/forecast, which falls back to reactive),
 * and knows-all (the peak of the step that comes: what no rule can beat).
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/memory.h"

#include "engine/forecast/forecast.h"

enum { KEEP_ALIVE_S = 600, HOUR_S = 3600, DAY_S = 86400 };
static const double QUANTILE = 0.95;

struct call {
    double begin_s;
    double length_s;
};

struct series {
    const char *name;
    const char *told; /* what it is */
    uint64_t step_s;
    double judged_from_s; /* what is counted; before it, models learn */
    struct call *calls;   /* by time */
    size_t count;
    size_t size;
};

struct cost {
    uint64_t calls;
    uint64_t cold;
    double idle_s;
    double busy_s;
};

static void add_call(struct series *series, double begin_s, double length_s)
{
    if (series->count == series->size) {
        series->size = series->size > 0 ? 2 * series->size : 1024;
        series->calls = memory_resize(series->calls, series->size * sizeof(struct call));
    }
    series->calls[series->count++] = (struct call){begin_s, length_s};
}

static int compare_calls(const void *a, const void *b)
{
    const struct call *x = a;
    const struct call *y = b;
    return (x->begin_s > y->begin_s) - (x->begin_s < y->begin_s);
}

/* ---- Where calls come from ---- */

static double random_unit(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return (double)(*state >> 11) / 9007199254740992.0;
}

static bool read_llm(const char *folder, struct series *series)
{
    char path[4096];
    char line[256];
    snprintf(path, sizeof(path), "%s/AzureLLMInferenceTrace_conv.csv", folder);
    FILE *file = fopen(path, "re");
    if (file == NULL) {
        return false;
    }
    double origin_s = -1;
    while (fgets(line, sizeof(line), file) != NULL) {
        unsigned hour = 0;
        unsigned minute = 0;
        unsigned tokens = 0;
        double second = 0;
        if (sscanf(line, "%*u-%*u-%*u %u:%u:%lf,%*u,%u", &hour, &minute, &second, &tokens) == 4) {
            double at_s = hour * 3600.0 + minute * 60.0 + second;
            origin_s = origin_s < 0 ? at_s : origin_s;
            add_call(series, DAY_S + at_s, 0.2 + 0.02 * tokens);
        }
    }
    fclose(file);
    series->judged_from_s = DAY_S + origin_s + 1200;
    return series->count > 0;
}

static bool read_pods(const char *folder, struct series *series)
{
    char path[4096];
    char line[512];
    snprintf(path, sizeof(path), "%s/openb_pod_list_default.csv", folder);
    FILE *file = fopen(path, "re");
    if (file == NULL) {
        return false;
    }
    while (fgets(line, sizeof(line), file) != NULL) {
        char *field = line;
        for (int i = 0; i < 8 && field != NULL; i++) {
            field = strchr(field, ',');
            field = field != NULL ? field + 1 : NULL;
        }
        if (field != NULL && field[0] >= '1' && field[0] <= '9') { /* 0: before the trace began */
            add_call(series, strtod(field, NULL), 60);
        }
    }
    fclose(file);
    qsort(series->calls, series->count, sizeof(*series->calls), compare_calls);
    series->judged_from_s = series->count > 0 ? series->calls[0].begin_s + 28.0 * DAY_S : 0;
    return series->count > 0;
}

/* A function of an office: a wave by day, nothing at the weekend, a batch at 02:00. */
static bool make_office(const char *folder, struct series *series)
{
    uint64_t state = 88172645463325252U;
    (void)folder;
    for (uint64_t second = DAY_S; second < 22 * (uint64_t)DAY_S; second++) {
        double hour = (double)(second % DAY_S) / HOUR_S;
        bool is_weekend = second / DAY_S % 7 >= 5;
        double wave = hour > 7 && hour < 19 ? sin((hour - 7) / 12 * 3.14159265) : 0;
        double rate = is_weekend ? 0.001 : 0.001 + 4 * wave; /* calls a second */
        for (double left = rate; left > 0; left -= 1) {
            if (random_unit(&state) < (left < 1 ? left : 1)) {
                add_call(series, (double)second + random_unit(&state),
                         0.5 + 3 * random_unit(&state));
            }
        }
        if (second % DAY_S == 2 * HOUR_S) {
            for (int i = 0; i < 40; i++) {
                add_call(series, (double)second + random_unit(&state), 20);
            }
        }
    }
    qsort(series->calls, series->count, sizeof(*series->calls), compare_calls);
    series->judged_from_s = 15.0 * DAY_S;
    return true;
}

/* What is called by a timer, every three hours, twenty at once. */
static bool make_timer(const char *folder, struct series *series)
{
    uint64_t state = 2463534242U;
    (void)folder;
    for (uint64_t second = DAY_S; second < 15 * (uint64_t)DAY_S; second += 3 * HOUR_S) {
        for (int i = 0; i < 20; i++) {
            add_call(series, (double)second + 5 * random_unit(&state), 2 + 4 * random_unit(&state));
        }
    }
    qsort(series->calls, series->count, sizeof(*series->calls), compare_calls);
    series->judged_from_s = 8.0 * DAY_S;
    return true;
}

/* ---- The pool ---- */

struct pool {
    double *busy_until; /* of busy instances, a heap would be more than is needed */
    size_t busy;
    size_t size;
    double *idle_since; /* of idle ones, the one used last at the end */
    size_t idle;
    size_t idle_size;
};

static void pool_idle(struct pool *pool, double since_s)
{
    if (pool->idle == pool->idle_size) {
        pool->idle_size = pool->idle_size > 0 ? 2 * pool->idle_size : 64;
        pool->idle_since = memory_resize(pool->idle_since, pool->idle_size * sizeof(double));
    }
    pool->idle_since[pool->idle++] = since_s;
}

static void pool_end_calls(struct pool *pool, double now_s)
{
    for (size_t i = 0; i < pool->busy;) {
        if (pool->busy_until[i] <= now_s) {
            double ended_s = pool->busy_until[i];
            pool->busy_until[i] = pool->busy_until[--pool->busy];
            pool_idle(pool, ended_s);
        } else {
            i++;
        }
    }
}

static bool pool_call(struct pool *pool, const struct call *call, bool is_judged, struct cost *cost)
{
    bool is_cold = pool->idle == 0;
    if (!is_cold) {
        double since_s = pool->idle_since[--pool->idle];
        cost->idle_s += is_judged ? call->begin_s - since_s : 0;
    }
    if (pool->busy == pool->size) {
        pool->size = pool->size > 0 ? 2 * pool->size : 64;
        pool->busy_until = memory_resize(pool->busy_until, pool->size * sizeof(double));
    }
    pool->busy_until[pool->busy++] = call->begin_s + call->length_s;
    return is_cold;
}

/* Between steps: as many as are wanted, the busy ones counted. */
static void pool_set(struct pool *pool, size_t target, double now_s, bool is_judged,
                     struct cost *cost)
{
    while (pool->idle > 0 && pool->busy + pool->idle > target) {
        cost->idle_s += is_judged ? now_s - pool->idle_since[0] : 0;
        memmove(pool->idle_since, pool->idle_since + 1, --pool->idle * sizeof(double));
    }
    while (pool->busy + pool->idle < target) {
        pool_idle(pool, now_s);
    }
}

static void pool_expire(struct pool *pool, double now_s, bool is_judged, struct cost *cost)
{
    size_t kept = 0;
    for (size_t i = 0; i < pool->idle; i++) {
        if (now_s - pool->idle_since[i] >= KEEP_ALIVE_S) {
            cost->idle_s += is_judged ? KEEP_ALIVE_S : 0;
        } else {
            pool->idle_since[kept++] = pool->idle_since[i];
        }
    }
    pool->idle = kept;
}

enum rule { RULE_KEEP_ALIVE, RULE_REACTIVE, RULE_FORECAST, RULE_KNOWS_ALL, RULES };
static const char *const rule_names[] = {"keep-alive", "reactive", "forecast", "knows-all"};

/* Peaks of concurrency by step: what knows-all knows, and what is wanted without a pool. */
static double *peaks_of(const struct series *series, uint64_t first, size_t steps)
{
    double *peaks = memory_new(steps + 1, sizeof(double));
    struct pool pool = {0};
    struct cost unused = {0};
    size_t at = 0;
    for (size_t i = 0; i < steps; i++) {
        double end_s = (double)((first + i + 1) * series->step_s);
        pool_end_calls(&pool, end_s - (double)series->step_s);
        double peak = (double)pool.busy;
        while (at < series->count && series->calls[at].begin_s < end_s) {
            pool_end_calls(&pool, series->calls[at].begin_s);
            pool.idle = 0;
            pool_call(&pool, &series->calls[at++], false, &unused);
            peak = (double)pool.busy > peak ? (double)pool.busy : peak;
        }
        peaks[i] = peak;
    }
    free(pool.busy_until);
    free(pool.idle_since);
    return peaks;
}

static int compare_doubles(const void *a, const void *b)
{
    const double *x = a;
    const double *y = b;
    return (*x > *y) - (*x < *y);
}

static size_t reactive_target(const double *peaks, size_t now, uint64_t step_s)
{
    double sorted[HOUR_S];
    size_t count = HOUR_S / step_s;
    count = count < now ? count : now;
    if (count == 0) {
        return 0;
    }
    memcpy(sorted, peaks + now - count, count * sizeof(double));
    qsort(sorted, count, sizeof(double), compare_doubles);
    return (size_t)sorted[count - 1 - count / 100];
}

static size_t target_of(enum rule rule, struct forecaster *forecaster, const double *peaks,
                        size_t step, uint64_t step_s)
{
    struct forecast_point point;
    size_t reactive = reactive_target(peaks, step, step_s);
    switch (rule) {
    case RULE_KNOWS_ALL:
        return (size_t)peaks[step];
    case RULE_FORECAST:
        return forecaster_next(forecaster, &point) ? (size_t)ceil(point.high - 0.25) : reactive;
    default:
        return reactive;
    }
}

static struct cost replay(const struct series *series, enum rule rule, const double *peaks,
                          uint64_t first, size_t steps, struct forecast_report *ret_report)
{
    struct forecaster *forecaster = forecaster_new(series->step_s * 1000, QUANTILE);
    struct pool pool = {0};
    struct cost cost = {0};
    size_t at = 0;
    for (size_t i = 0; i < steps; i++) {
        double begin_s = (double)((first + i) * series->step_s);
        bool is_judged = begin_s >= series->judged_from_s;
        pool_end_calls(&pool, begin_s);
        if (rule == RULE_KEEP_ALIVE) {
            pool_expire(&pool, begin_s, is_judged, &cost);
        } else {
            pool_set(&pool, target_of(rule, forecaster, peaks, i, series->step_s), begin_s,
                     is_judged, &cost);
        }
        while (at < series->count && series->calls[at].begin_s < begin_s + (double)series->step_s) {
            const struct call *call = &series->calls[at++];
            pool_end_calls(&pool, call->begin_s);
            bool is_cold = pool_call(&pool, call, is_judged, &cost);
            cost.calls += is_judged;
            cost.cold += is_judged && is_cold;
            cost.busy_s += is_judged ? call->length_s : 0;
        }
        forecaster_observe(forecaster, first + i, peaks[i]);
    }
    forecaster_report(forecaster, ret_report);
    forecaster_free(forecaster);
    free(pool.busy_until);
    free(pool.idle_since);
    return cost;
}

static void measure(struct series *series, bool is_last)
{
    uint64_t first = (uint64_t)series->calls[0].begin_s / series->step_s;
    size_t steps =
        (size_t)((uint64_t)series->calls[series->count - 1].begin_s / series->step_s - first + 1);
    double *peaks = peaks_of(series, first, steps);
    printf("  {\"name\": \"%s\", \"what\": \"%s\", \"step_s\": %" PRIu64
           ", \"calls\": %zu, \"rules\": [\n",
           series->name, series->told, series->step_s, series->count);
    struct forecast_report report = {0};
    for (int rule = 0; rule < RULES; rule++) {
        uint64_t begin_ns = clock_monotonic_ns();
        struct cost cost = replay(series, (enum rule)rule, peaks, first, steps, &report);
        printf("    {\"rule\": \"%s\", \"judged\": %" PRIu64 ", \"cold\": %" PRIu64
               ", \"idle_s\": %.0f, \"busy_s\": %.0f, \"replay_ms\": %.0f}%s\n",
               rule_names[rule], cost.calls, cost.cold, cost.idle_s, cost.busy_s,
               (double)(clock_monotonic_ns() - begin_ns) / 1e6, rule + 1 < RULES ? "," : "");
    }
    printf("  ], \"model\": \"%s\", \"coverage\": %.3f, \"loss\": {\"reactive\": %.4f, "
           "\"seasonal\": %.4f, "
           "\"regression\": %.4f}}%s\n",
           forecast_model_name(report.model), report.coverage, report.loss[FORECAST_REACTIVE],
           report.loss[FORECAST_SEASONAL], report.loss[FORECAST_REGRESSION], is_last ? "" : ",");
    free(peaks);
    free(series->calls);
}

int main(int argc, char **argv)
{
    const char *folder = argc > 1 ? argv[1] : ".";
    static const struct {
        struct series series;
        bool (*fill)(const char *folder, struct series *series);
    } all[] = {
        {{.name = "llm",
          .told = "AzureLLMInferenceTrace_conv: an hour of requests, 0.2 s and 20 ms a token each",
          .step_s = 10},
         read_llm},
        {{.name = "pods",
          .told = "openb_pod_list_default: 150 days of submissions, a minute each",
          .step_s = 600},
         read_pods},
        {{.name = "office",
          .told = "made: a wave by day, none at weekends, 40 at 02:00; judged in the third week",
          .step_s = 60},
         make_office},
        {{.name = "timer",
          .told = "made: 20 calls every three hours; judged in the second week",
          .step_s = 60},
         make_timer},
    };
    enum { COUNT = sizeof(all) / sizeof(all[0]) };
    struct series series[COUNT];
    size_t count = 0;
    for (size_t i = 0; i < COUNT; i++) {
        series[count] = all[i].series;
        if (all[i].fill(folder, &series[count])) {
            count++;
        } else {
            fprintf(stderr, "forecast-bench: %s is not in %s\n", all[i].series.told, folder);
        }
    }
    printf("{\"series\": [\n");
    for (size_t i = 0; i < count; i++) {
        measure(&series[i], i + 1 == count);
    }
    printf("]}\n");
    return 0;
}
