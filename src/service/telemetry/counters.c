/*
 * What is counted of the calls of a function: by version, so that two of them can be compared.
 *
 * What the counters were at the beginning of each of the last minutes is kept beside them: the
 * difference is the recent time.  Who counts first in a minute writes it down; so nothing has to
 * run when nobody calls, and a minute without a call has no moment of its own: the next one's is
 * the same.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/memory.h"

#include "service/telemetry/private.h"

/* Upper bounds in seconds: from a warm call to a slow one; from 5 ms on as OpenTelemetry advises.
 */
static const double bounds[TELEMETRY_BUCKETS - 1] = {
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075,
    0.1,    0.25,    0.5,    0.75,  1,      2.5,   5,    7.5,   10};
static const uint64_t memory_bounds[TELEMETRY_MEMORY_BUCKETS - 1] = {
    UINT64_C(1) << 18, UINT64_C(1) << 20, UINT64_C(1) << 22, UINT64_C(1) << 24,
    UINT64_C(1) << 26, UINT64_C(1) << 28, UINT64_C(1) << 30};

double telemetry_bound(size_t bucket)
{
    CHECK(bucket < TELEMETRY_BUCKETS - 1);
    return bounds[bucket];
}

uint64_t telemetry_bound_us(size_t bucket)
{
    return bucket < TELEMETRY_BUCKETS - 1 ? (uint64_t)(bounds[bucket] * 1e6 + 0.5) : 0;
}

uint64_t telemetry_memory_bound(size_t bucket)
{
    CHECK(bucket < TELEMETRY_MEMORY_BUCKETS - 1);
    return memory_bounds[bucket];
}

/* ---- A call ---- */

/* Its place; beyond the bound the last one's. */
static unsigned find_error(struct counters *counters, const char *type)
{
    unsigned at = 0;
    while (at < counters->error_count && strcmp(counters->errors[at].type, type) != 0) {
        at++;
    }
    if (at == counters->error_count && at < TELEMETRY_ERRORS_MAX) {
        snprintf(counters->errors[at].type, sizeof(counters->errors[at].type), "%s", type);
        counters->error_count++;
    } else if (at == counters->error_count) {
        snprintf(counters->errors[at].type, sizeof(counters->errors[at].type), "other");
    }
    return at;
}

/* The index of its bucket. */
static size_t observe(struct duration_histogram *histogram, uint64_t ns)
{
    double seconds = (double)ns / 1e9;
    size_t bucket = 0;
    while (bucket < TELEMETRY_BUCKETS - 1 && seconds > bounds[bucket]) {
        bucket++;
    }
    histogram->buckets[bucket]++;
    histogram->count++;
    histogram->sum_ns += ns;
    return bucket;
}

static void observe_memory(struct counters *counters, uint64_t bytes)
{
    size_t bucket = 0;
    while (bucket < TELEMETRY_MEMORY_BUCKETS - 1 && bytes > memory_bounds[bucket]) {
        bucket++;
    }
    counters->memory_buckets[bucket]++;
    counters->memory_count++;
    counters->memory_sum += bytes;
}

size_t counters_note(struct counters *counters, const struct telemetry_call *call)
{
    if (strcmp(call->end, "ok") == 0) {
        counters->successes[call->trigger]++;
    } else {
        counters->errors[find_error(counters, call->end)].count++;
    }
    counters->timeouts += strcmp(call->end, "timeout") == 0;
    if (call->has_run) {
        observe(&counters->run, call->run_ns);
        observe(&counters->queue, call->queue_ns);
        observe_memory(counters, call->memory_bytes);
    }
    if (call->has_run && call->is_cold) {
        counters->cold_starts++;
        observe(&counters->init, call->init_ns);
    }
    return observe(&counters->whole, call->duration_ns);
}

/* ---- Sums ---- */

static void add_histogram(struct duration_histogram *sum, const struct duration_histogram *added)
{
    for (size_t i = 0; i < TELEMETRY_BUCKETS; i++) {
        sum->buckets[i] += added->buckets[i];
    }
    sum->count += added->count;
    sum->sum_ns += added->sum_ns;
}

/* Where the sum has what the other has at `at`. */
static unsigned same_error(struct counters *sum, const struct counters *added, unsigned at)
{
    if (at < added->error_count) {
        return find_error(sum, added->errors[at].type);
    }
    memcpy(sum->errors[at].type, added->errors[at].type, sizeof(sum->errors[at].type));
    return at;
}

static void add_counters(struct counters *sum, const struct counters *added)
{
    for (size_t i = 0; i < TELEMETRY_TRIGGERS; i++) {
        sum->successes[i] += added->successes[i];
    }
    sum->timeouts += added->timeouts;
    sum->cold_starts += added->cold_starts;
    for (unsigned i = 0; i <= TELEMETRY_ERRORS_MAX; i++) {
        if (added->errors[i].count > 0) {
            sum->errors[same_error(sum, added, i)].count += added->errors[i].count;
        }
    }
    add_histogram(&sum->whole, &added->whole);
    add_histogram(&sum->run, &added->run);
    add_histogram(&sum->queue, &added->queue);
    add_histogram(&sum->init, &added->init);
    for (size_t i = 0; i < TELEMETRY_MEMORY_BUCKETS; i++) {
        sum->memory_buckets[i] += added->memory_buckets[i];
    }
    sum->memory_count += added->memory_count;
    sum->memory_sum += added->memory_sum;
}

void function_metrics_sum(const struct function_metrics *metrics, struct counters *ret_sum)
{
    *ret_sum = (struct counters){0};
    LIST_EACH(node, &metrics->versions)
    {
        add_counters(ret_sum, &LIST_ITEM(node, struct version_metrics, link)->counters);
    }
    if (metrics->older != NULL) {
        add_counters(ret_sum, &metrics->older->counters);
    }
}

/* ---- Moments ---- */

static void take_moment(const struct counters *counters, uint64_t minute, struct moment *ret_moment)
{
    *ret_moment = (struct moment){
        .minute = minute,
        .cold_starts = counters->cold_starts,
        .memory_count = counters->memory_count,
        .memory_sum = counters->memory_sum,
    };
    for (size_t i = 0; i < TELEMETRY_TRIGGERS; i++) {
        ret_moment->successes += counters->successes[i];
    }
    for (size_t i = 0; i <= TELEMETRY_ERRORS_MAX; i++) {
        ret_moment->errors[i] = counters->errors[i].count;
    }
    memcpy(ret_moment->whole, counters->whole.buckets, sizeof(ret_moment->whole));
    memcpy(ret_moment->run, counters->run.buckets, sizeof(ret_moment->run));
}

static struct moment *place_of(struct version_metrics *version, uint64_t minute)
{
    return &version->moments[minute % TELEMETRY_MOMENTS];
}

/* A call that began to end before another one counts in that one's minute. */
static void begin_minute(struct version_metrics *version, uint64_t minute)
{
    if (minute > version->minute) {
        take_moment(&version->counters, minute, place_of(version, minute));
        version->minute = minute;
    }
}

/* What the counters were when that minute began. */
void version_metrics_at(const struct version_metrics *version, uint64_t minute,
                        struct moment *ret_moment)
{
    for (; minute <= version->minute; minute++) {
        const struct moment *moment = &version->moments[minute % TELEMETRY_MOMENTS];
        if (moment->minute == minute) {
            *ret_moment = *moment;
            return;
        }
    }
    take_moment(&version->counters, minute, ret_moment);
}

/* ---- Versions for which there is no room ---- */

static void add_moment(struct moment *sum, const struct moment *added, const unsigned *errors)
{
    sum->successes += added->successes;
    sum->cold_starts += added->cold_starts;
    for (size_t i = 0; i <= TELEMETRY_ERRORS_MAX; i++) {
        sum->errors[errors[i]] += added->errors[i];
    }
    for (size_t i = 0; i < TELEMETRY_BUCKETS; i++) {
        sum->whole[i] += added->whole[i];
        sum->run[i] += added->run[i];
    }
    sum->memory_count += added->memory_count;
    sum->memory_sum += added->memory_sum;
}

/* The moments are made anew, all of the last minutes, so that those of the two are the same. */
static void add_version(struct version_metrics *older, const struct version_metrics *version,
                        uint64_t minute)
{
    struct moment moments[TELEMETRY_MOMENTS] = {0};
    unsigned errors[TELEMETRY_ERRORS_MAX + 1];
    uint64_t first = minute > TELEMETRY_WINDOW_MINUTES ? minute - TELEMETRY_WINDOW_MINUTES : 1;
    for (unsigned i = 0; i <= TELEMETRY_ERRORS_MAX; i++) {
        bool is_used = version->counters.errors[i].count > 0;
        errors[i] = is_used ? same_error(&older->counters, &version->counters, i) : i;
    }
    for (uint64_t at = first; at <= minute; at++) {
        struct moment added;
        struct moment *sum = &moments[at - first];
        version_metrics_at(older, at, sum);
        version_metrics_at(version, at, &added);
        add_moment(sum, &added, errors);
        sum->minute = at;
    }
    for (uint64_t at = first; at <= minute; at++) {
        *place_of(older, at) = moments[at - first];
    }
    older->minute = minute;
    add_counters(&older->counters, &version->counters);
}

/* The one that was called longest ago gives its place up. */
static struct version_metrics *take_oldest(struct function_metrics *metrics, uint64_t minute)
{
    struct version_metrics *version =
        LIST_ITEM(metrics->versions.head.previous, struct version_metrics, link);
    if (metrics->older == NULL) {
        metrics->older = NEW(struct version_metrics);
    }
    minute = version->minute > minute ? version->minute : minute;
    minute = metrics->older->minute > minute ? metrics->older->minute : minute;
    add_version(metrics->older, version, minute);
    list_remove(&version->link);
    metrics->version_count--;
    memset(version, 0, sizeof(*version));
    return version;
}

struct version_metrics *version_metrics_find(struct function_metrics *metrics, uint64_t number,
                                             uint64_t minute)
{
    struct version_metrics *version = NULL;
    LIST_EACH(node, &metrics->versions)
    {
        version = LIST_ITEM(node, struct version_metrics, link);
        if (version->version == number) {
            break;
        }
        version = NULL;
    }
    if (version == NULL) {
        version = metrics->version_count < TELEMETRY_VERSIONS_MAX ? NEW(struct version_metrics)
                                                                  : take_oldest(metrics, minute);
        version->version = number;
        metrics->version_count++;
    }
    if (metrics->versions.head.next != &version->link) {
        list_remove(&version->link);
        list_push_front(&metrics->versions, &version->link);
    }
    begin_minute(version, minute);
    return version;
}

void function_metrics_free(struct function_metrics *metrics)
{
    LIST_EACH(node, &metrics->versions)
    {
        free(LIST_ITEM(node, struct version_metrics, link));
    }
    free(metrics->older);
    free(metrics);
}
