#include "service/telemetry/telemetry.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "base/memory.h"

#include "service/telemetry/private.h"
#include "service/telemetry/trace_parts.h"

enum { BYTES_MAX = 8 << 20, SEGMENTS = 4 };

/* Upper bounds in seconds: from a warm call to a slow one. */
static const double bounds[BUCKETS] = {0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01,
                                       0.025,  0.05,    0.1,    0.25,  1,      5,     30};

static const struct {
    const char *name;
    const char *kind;
    const char *help;
} metric_table[TELEMETRY_METRIC_COUNT] = {
#define METRIC(name, kind, help) {#name, #kind, help},
#include "service/telemetry/metrics.def"
#undef METRIC
};

int telemetry_open(const struct telemetry_options *options, struct telemetry **ret_telemetry,
                   struct error *err)
{
    int r = file_make_folder(options->folder, 0700, err);
    if (r < 0) {
        return r;
    }
    struct tracer *tracer = NULL;
    r = tracer_new(options, &tracer, err);
    if (r < 0) {
        return r;
    }
    struct telemetry *telemetry = NEW(struct telemetry);
    telemetry->tracer = tracer;
    uint64_t bytes_max =
        options->bytes_max_per_function > 0 ? options->bytes_max_per_function : BYTES_MAX;
    telemetry->folder = memory_copy_string(options->folder);
    telemetry->segment_bytes = bytes_max / SEGMENTS;
    list_init(&telemetry->queue);
    list_init(&telemetry->follows);
    pthread_mutex_init(&telemetry->lock, NULL);
    pthread_mutex_init(&telemetry->metrics_lock, NULL);
    pthread_cond_init(&telemetry->wake, NULL);
    pthread_cond_init(&telemetry->written, NULL);
    r = pthread_create(&telemetry->writer, NULL, telemetry_writer, telemetry);
    if (r != 0) {
        tracer_free(tracer);
        free(telemetry->folder);
        free(telemetry);
        return error_os(err, r, "starting the log writer");
    }
    *ret_telemetry = telemetry;
    return 0;
}

static void free_metrics(const char *key, void *value, void *context);

void telemetry_close(struct telemetry *telemetry)
{
    if (telemetry == NULL) {
        return;
    }
    pthread_mutex_lock(&telemetry->lock);
    telemetry->stop = true;
    pthread_cond_signal(&telemetry->wake);
    pthread_mutex_unlock(&telemetry->lock);
    pthread_join(telemetry->writer, NULL);
    CHECK(list_is_empty(&telemetry->follows));
    tracer_free(telemetry->tracer);
    telemetry_files_done(telemetry);
    map_each(&telemetry->functions, free_metrics, NULL);
    map_done(&telemetry->functions);
    pthread_mutex_destroy(&telemetry->lock);
    pthread_mutex_destroy(&telemetry->metrics_lock);
    pthread_cond_destroy(&telemetry->wake);
    pthread_cond_destroy(&telemetry->written);
    free(telemetry->folder);
    free(telemetry);
}

/* ---- Counting ---- */

void telemetry_add(struct telemetry *telemetry, enum telemetry_metric metric, uint64_t amount)
{
    atomic_fetch_add_explicit(&telemetry->metrics[metric], amount, memory_order_relaxed);
}

void telemetry_set(struct telemetry *telemetry, enum telemetry_metric metric, uint64_t value)
{
    atomic_store_explicit(&telemetry->metrics[metric], value, memory_order_relaxed);
}

static void free_value(const char *key, void *value, void *context)
{
    (void)key;
    (void)context;
    free(value);
}

static void free_metrics(const char *key, void *value, void *context)
{
    (void)key;
    (void)context;
    struct function_metrics *metrics = value;
    map_each(&metrics->ends, free_value, NULL);
    map_done(&metrics->ends);
    free(metrics);
}

static struct function_metrics *find_metrics(struct telemetry *telemetry, const char *project,
                                             const char *function)
{
    char key[132];
    snprintf(key, sizeof(key), "%s/%s", project, function);
    struct function_metrics *metrics = map_get(&telemetry->functions, key);
    if (metrics == NULL) {
        metrics = NEW(struct function_metrics);
        snprintf(metrics->project, sizeof(metrics->project), "%s", project);
        snprintf(metrics->function, sizeof(metrics->function), "%s", function);
        map_set(&telemetry->functions, key, metrics);
    }
    return metrics;
}

void telemetry_call(struct telemetry *telemetry, const char *project, const char *function,
                    const char *end, bool cold, uint64_t duration_ns)
{
    double seconds = (double)duration_ns / 1e9;
    pthread_mutex_lock(&telemetry->metrics_lock);
    struct function_metrics *metrics = find_metrics(telemetry, project, function);
    uint64_t *count = map_get(&metrics->ends, end);
    if (count == NULL) {
        count = NEW(uint64_t);
        map_set(&metrics->ends, end, count);
    }
    (*count)++;
    metrics->calls++;
    metrics->cold_starts += cold;
    metrics->duration_ns += duration_ns;
    size_t bucket = 0;
    while (bucket < BUCKETS && seconds > bounds[bucket]) {
        bucket++;
    }
    metrics->buckets[bucket]++;
    pthread_mutex_unlock(&telemetry->metrics_lock);
}

/* ---- Prometheus text format 0.0.4 ---- */

static void write_head(struct buffer *out, const char *name, const char *kind, const char *help)
{
    buffer_append_format(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind);
}

static void write_plain(struct telemetry *telemetry, struct buffer *out)
{
    for (int metric = 0; metric < TELEMETRY_METRIC_COUNT; metric++) {
        char name[96];
        bool is_counter = strcmp(metric_table[metric].kind, "counter") == 0;
        snprintf(name, sizeof(name), "blixard_%s%s", metric_table[metric].name,
                 is_counter ? "_total" : "");
        for (char *at = name; *at != '\0'; at++) {
            *at = *at >= 'A' && *at <= 'Z' ? (char)(*at - 'A' + 'a') : *at;
        }
        write_head(out, name, metric_table[metric].kind, metric_table[metric].help);
        buffer_append_format(out, "%s %" PRIu64 "\n", name,
                             atomic_load(&telemetry->metrics[metric]));
    }
}

struct writing {
    struct buffer *out;
    const struct function_metrics *metrics;
    int part;
};

static void write_end(const char *end, void *value, void *context)
{
    const struct writing *writing = context;
    buffer_append_format(writing->out,
                         "blixard_function_calls_total{project=\"%s\",function=\"%s\",end=\"%s\"} "
                         "%" PRIu64 "\n",
                         writing->metrics->project, writing->metrics->function, end,
                         *(uint64_t *)value);
}

static void write_histogram(const struct function_metrics *metrics, struct buffer *out)
{
    uint64_t total = 0;
    for (size_t i = 0; i <= BUCKETS; i++) {
        char bound[32];
        total += metrics->buckets[i];
        if (i < BUCKETS) {
            snprintf(bound, sizeof(bound), "%g", bounds[i]);
        } else {
            snprintf(bound, sizeof(bound), "+Inf");
        }
        buffer_append_format(
            out,
            "blixard_function_duration_seconds_bucket{project=\"%s\",function=\"%s\","
            "le=\"%s\"} %" PRIu64 "\n",
            metrics->project, metrics->function, bound, total);
    }
    buffer_append_format(
        out,
        "blixard_function_duration_seconds_sum{project=\"%s\",function=\"%s\"} %.9f\n"
        "blixard_function_duration_seconds_count{project=\"%s\",function=\"%s\"} "
        "%" PRIu64 "\n",
        metrics->project, metrics->function, (double)metrics->duration_ns / 1e9, metrics->project,
        metrics->function, metrics->calls);
}

static void write_function(const char *key, void *value, void *context)
{
    struct writing *writing = context;
    (void)key;
    writing->metrics = value;
    if (writing->part == 0) {
        map_each(&writing->metrics->ends, write_end, writing);
    } else if (writing->part == 1) {
        buffer_append_format(writing->out,
                             "blixard_function_cold_starts_total{project=\"%s\",function=\"%s\"} "
                             "%" PRIu64 "\n",
                             writing->metrics->project, writing->metrics->function,
                             writing->metrics->cold_starts);
    } else {
        write_histogram(writing->metrics, writing->out);
    }
}

static void write_process(struct buffer *out)
{
    struct rusage usage = {0};
    getrusage(RUSAGE_SELF, &usage);
    double cpu = (double)usage.ru_utime.tv_sec + (double)usage.ru_utime.tv_usec / 1e6 +
        (double)usage.ru_stime.tv_sec + (double)usage.ru_stime.tv_usec / 1e6;
    write_head(out, "process_cpu_seconds_total", "counter", "CPU time of the daemon.");
    buffer_append_format(out, "process_cpu_seconds_total %.3f\n", cpu);

    struct error ignored = {0};
    BUFFER_OWNED struct buffer text = {0};
    unsigned long pages = 0;
    if (file_read("/proc/self/statm", 4096, &text, &ignored) == 0 &&
        sscanf(buffer_string(&text), "%*u %lu", &pages) == 1) {
        write_head(out, "process_resident_memory_bytes", "gauge", "Resident memory of the daemon.");
        buffer_append_format(out, "process_resident_memory_bytes %lu\n",
                             pages * (unsigned long)sysconf(_SC_PAGESIZE));
    }
}

void telemetry_write_metrics(struct telemetry *telemetry, struct buffer *out)
{
    static const struct {
        const char *name;
        const char *kind;
        const char *help;
    } families[] = {
        {"blixard_function_calls_total", "counter", "Calls that ended, by how they ended."},
        {"blixard_function_cold_starts_total", "counter",
         "Calls for which an instance was started."},
        {"blixard_function_duration_seconds", "histogram",
         "Duration of calls, from request to end."},
    };
    write_plain(telemetry, out);
    pthread_mutex_lock(&telemetry->metrics_lock);
    for (int part = 0; part < 3; part++) {
        struct writing writing = {.out = out, .part = part};
        write_head(out, families[part].name, families[part].kind, families[part].help);
        map_each(&telemetry->functions, write_function, &writing);
    }
    pthread_mutex_unlock(&telemetry->metrics_lock);
    write_process(out);
}
