/*
 * Counters, and what /metrics shows of them.
 *
 * Functions' metrics have the names of OpenTelemetry's conventions for functions, as Prometheus
 * writes them (faas.invoke_duration in seconds: faas_invoke_duration_seconds).  The labels are
 * faas_name, blixard_project and at most one more of few values; the number of functions is
 * bounded, and one that is deleted is forgotten.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/version.h"

#include "service/telemetry/private.h"
#include "service/telemetry/trace_parts.h"

static const struct {
    const char *name;
    const char *kind;
    const char *help;
} metric_table[TELEMETRY_METRIC_COUNT] = {
#define METRIC(name, kind, help) {#name, #kind, help},
#include "service/telemetry/metrics.def"
#undef METRIC
};

/* ---- Counting ---- */

void telemetry_add(struct telemetry *telemetry, enum telemetry_metric metric, uint64_t amount)
{
    atomic_fetch_add_explicit(&telemetry->metrics[metric], amount, memory_order_relaxed);
}

void telemetry_set(struct telemetry *telemetry, enum telemetry_metric metric, uint64_t value)
{
    atomic_store_explicit(&telemetry->metrics[metric], value, memory_order_relaxed);
}

uint64_t telemetry_get(const struct telemetry *telemetry, enum telemetry_metric metric)
{
    return atomic_load_explicit(&telemetry->metrics[metric], memory_order_relaxed);
}

const char *telemetry_trigger_text(enum telemetry_trigger trigger)
{
    static const char *const texts[TELEMETRY_TRIGGERS] = {"http", "pubsub", "datasource", "timer",
                                                          "other"};
    return texts[trigger];
}

static void forget(struct telemetry *telemetry, const char *key)
{
    struct function_metrics *metrics = map_remove(&telemetry->functions, key);
    if (metrics != NULL) {
        list_remove(&metrics->link);
        function_metrics_free(metrics);
    }
}

static void write_key(const char *project, const char *function, char ret_key[132])
{
    snprintf(ret_key, 132, "%s/%s", project, function);
}

uint64_t telemetry_minute(uint64_t now_ns)
{
    return now_ns / TELEMETRY_MINUTE_NS + 1;
}

const struct function_metrics *telemetry_look(struct telemetry *telemetry, const char *project,
                                              const char *function)
{
    char key[132];
    write_key(project, function, key);
    return map_get(&telemetry->functions, key);
}

static struct function_metrics *find_metrics(struct telemetry *telemetry, const char *project,
                                             const char *function, uint64_t now_ns)
{
    char key[132];
    write_key(project, function, key);
    struct function_metrics *metrics = map_get(&telemetry->functions, key);
    if (metrics != NULL) {
        list_remove(&metrics->link);
        list_push_front(&telemetry->recent_functions, &metrics->link);
        return metrics;
    }
    if (telemetry->functions.count >= TELEMETRY_FUNCTIONS_MAX) {
        char old_key[132];
        const struct function_metrics *old =
            LIST_ITEM(telemetry->recent_functions.head.previous, struct function_metrics, link);
        write_key(old->project, old->function, old_key);
        forget(telemetry, old_key);
        telemetry->forgot_ns = now_ns;
    }
    metrics = NEW(struct function_metrics);
    list_init(&metrics->versions);
    metrics->since_ns = telemetry->forgot_ns > 0 ? now_ns : 0;
    snprintf(metrics->project, sizeof(metrics->project), "%s", project);
    snprintf(metrics->function, sizeof(metrics->function), "%s", function);
    map_set(&telemetry->functions, key, metrics);
    list_push_front(&telemetry->recent_functions, &metrics->link);
    return metrics;
}

/* With the lock held. */
static bool is_gone(struct telemetry *telemetry, const char *project, const char *function)
{
    char key[132];
    write_key(project, function, key);
    return telemetry->gone.count > 0 && map_get(&telemetry->gone, key) != NULL;
}

bool telemetry_is_gone(struct telemetry *telemetry, const char *project, const char *function)
{
    if (atomic_load(&telemetry->gone_count) == 0) {
        return false;
    }
    pthread_mutex_lock(&telemetry->metrics_lock);
    bool is = is_gone(telemetry, project, function);
    pthread_mutex_unlock(&telemetry->metrics_lock);
    return is;
}

void telemetry_call(struct telemetry *telemetry, const struct telemetry_call *call)
{
    pthread_mutex_lock(&telemetry->metrics_lock);
    if (is_gone(telemetry, call->project, call->function)) {
        pthread_mutex_unlock(&telemetry->metrics_lock);
        return;
    }
    struct function_metrics *metrics =
        find_metrics(telemetry, call->project, call->function, call->ended_ns);
    struct version_metrics *version =
        version_metrics_find(metrics, call->version, telemetry_minute(call->ended_ns));
    size_t bucket = counters_note(&version->counters, call);
    if (call->trace != NULL && (call->trace->flags & TRACE_SAMPLED) != 0) {
        struct exemplar *exemplar = &metrics->exemplars[bucket];
        memcpy(exemplar->trace, call->trace->trace, sizeof(exemplar->trace));
        exemplar->time_ms = clock_real_ms();
        exemplar->value = (double)call->duration_ns / 1e9;
    }
    pthread_mutex_unlock(&telemetry->metrics_lock);
}

void telemetry_metrics_remove(struct telemetry *telemetry, const char *key)
{
    static char marker;
    pthread_mutex_lock(&telemetry->metrics_lock);
    forget(telemetry, key);
    if (telemetry->gone.count >= TELEMETRY_GONE_MAX) {
        map_done(&telemetry->gone);
        telemetry->gone = (struct map){0};
    }
    map_set(&telemetry->gone, key, &marker);
    atomic_store(&telemetry->gone_count, telemetry->gone.count);
    pthread_mutex_unlock(&telemetry->metrics_lock);
}

void telemetry_expect(struct telemetry *telemetry, const char *project, const char *function)
{
    if (telemetry_is_gone(telemetry, project, function)) {
        char key[132];
        write_key(project, function, key);
        pthread_mutex_lock(&telemetry->metrics_lock);
        map_remove(&telemetry->gone, key);
        atomic_store(&telemetry->gone_count, telemetry->gone.count);
        pthread_mutex_unlock(&telemetry->metrics_lock);
    }
}

void telemetry_metrics_done(struct telemetry *telemetry)
{
    LIST_EACH(node, &telemetry->recent_functions)
    {
        function_metrics_free(LIST_ITEM(node, struct function_metrics, link));
    }
    map_done(&telemetry->functions);
    map_done(&telemetry->gone);
}

/* ---- The text ---- */

void telemetry_write_head(enum telemetry_format format, const char *name, const char *kind,
                          const char *help, struct buffer *out)
{
    size_t length = strlen(name);
    static const char total[] = "_total";
    size_t suffix = sizeof(total) - 1;
    /* OpenMetrics names a family of counters without the suffix of its samples. */
    if (format == TELEMETRY_OPENMETRICS && strcmp(kind, "counter") == 0 && length > suffix &&
        strcmp(name + length - suffix, total) == 0) {
        length -= suffix;
    }
    buffer_append_format(out, "# HELP %.*s %s\n# TYPE %.*s %s\n", (int)length, name, help,
                         (int)length, name, kind);
}

void telemetry_write_end(enum telemetry_format format, struct buffer *out)
{
    if (format == TELEMETRY_OPENMETRICS) {
        buffer_append_string(out, "# EOF\n");
    }
}

static void write_plain(struct telemetry *telemetry, enum telemetry_format format,
                        struct buffer *out)
{
    for (int metric = 0; metric < TELEMETRY_METRIC_COUNT; metric++) {
        char name[96];
        bool is_counter = strcmp(metric_table[metric].kind, "counter") == 0;
        snprintf(name, sizeof(name), "blixard_%s%s", metric_table[metric].name,
                 is_counter ? "_total" : "");
        for (char *at = name; *at != '\0'; at++) {
            *at = *at >= 'A' && *at <= 'Z' ? (char)(*at - 'A' + 'a') : *at;
        }
        telemetry_write_head(format, name, metric_table[metric].kind, metric_table[metric].help,
                             out);
        buffer_append_format(out, "%s %" PRIu64 "\n", name,
                             atomic_load(&telemetry->metrics[metric]));
    }
}

/* A function as it was when somebody asked: calls do not wait until it is written. */
struct shown {
    char project[64];
    char function[64];
    struct counters sum;
    struct exemplar exemplars[TELEMETRY_BUCKETS];
};

struct writing {
    struct buffer *out;
    enum telemetry_format format;
    const char *name; /* of the family */
};

static void write_sample(const struct writing *writing, const struct shown *shown,
                         const char *suffix, const char *label, const char *value)
{
    buffer_append_format(writing->out, "%s%s{blixard_project=\"%s\",faas_name=\"%s\"",
                         writing->name, suffix, shown->project, shown->function);
    if (label != NULL) {
        buffer_append_format(writing->out, ",%s=\"%s\"", label, value);
    }
    buffer_append_string(writing->out, "} ");
}

static void write_count(const struct writing *writing, const struct shown *shown, const char *label,
                        const char *value, uint64_t count)
{
    write_sample(writing, shown, "", label, value);
    buffer_append_format(writing->out, "%" PRIu64 "\n", count);
}

static void write_successes(const struct writing *writing, const struct shown *shown)
{
    for (int trigger = 0; trigger < TELEMETRY_TRIGGERS; trigger++) {
        if (trigger == TELEMETRY_TRIGGER_HTTP || shown->sum.successes[trigger] > 0) {
            write_count(writing, shown, "faas_trigger",
                        telemetry_trigger_text((enum telemetry_trigger)trigger),
                        shown->sum.successes[trigger]);
        }
    }
}

static void write_errors(const struct writing *writing, const struct shown *shown)
{
    for (unsigned i = 0; i <= TELEMETRY_ERRORS_MAX; i++) {
        if (shown->sum.errors[i].count > 0) {
            write_count(writing, shown, "error_type", shown->sum.errors[i].type,
                        shown->sum.errors[i].count);
        }
    }
}

static void write_timeouts(const struct writing *writing, const struct shown *shown)
{
    write_count(writing, shown, NULL, NULL, shown->sum.timeouts);
}

static void write_cold_starts(const struct writing *writing, const struct shown *shown)
{
    write_count(writing, shown, NULL, NULL, shown->sum.cold_starts);
}

static void write_exemplar(const struct writing *writing, const struct exemplar *exemplar)
{
    if (writing->format == TELEMETRY_OPENMETRICS && exemplar != NULL && exemplar->time_ms != 0) {
        char id[TRACE_ID_SIZE];
        struct trace_context context = {0};
        memcpy(context.trace, exemplar->trace, sizeof(context.trace));
        trace_write_id(&context, id);
        buffer_append_format(writing->out, " # {trace_id=\"%s\"} %.9g %.3f", id, exemplar->value,
                             (double)exemplar->time_ms / 1e3);
    }
    buffer_append_byte(writing->out, '\n');
}

static void write_durations(const struct writing *writing, const struct shown *shown,
                            const struct duration_histogram *histogram,
                            const struct exemplar *exemplars)
{
    uint64_t total = 0;
    for (size_t i = 0; i < TELEMETRY_BUCKETS; i++) {
        char bound[32] = "+Inf";
        if (i < TELEMETRY_BUCKETS - 1) {
            snprintf(bound, sizeof(bound), "%g", telemetry_bound(i));
        }
        total += histogram->buckets[i];
        write_sample(writing, shown, "_bucket", "le", bound);
        buffer_append_format(writing->out, "%" PRIu64, total);
        write_exemplar(writing, exemplars != NULL ? &exemplars[i] : NULL);
    }
    write_sample(writing, shown, "_sum", NULL, NULL);
    buffer_append_format(writing->out, "%.9f\n", (double)histogram->sum_ns / 1e9);
    write_sample(writing, shown, "_count", NULL, NULL);
    buffer_append_format(writing->out, "%" PRIu64 "\n", histogram->count);
}

static void write_whole(const struct writing *writing, const struct shown *shown)
{
    write_durations(writing, shown, &shown->sum.whole, shown->exemplars);
}

static void write_run(const struct writing *writing, const struct shown *shown)
{
    write_durations(writing, shown, &shown->sum.run, NULL);
}

static void write_queue(const struct writing *writing, const struct shown *shown)
{
    write_durations(writing, shown, &shown->sum.queue, NULL);
}

static void write_init(const struct writing *writing, const struct shown *shown)
{
    write_durations(writing, shown, &shown->sum.init, NULL);
}

static void write_memory(const struct writing *writing, const struct shown *shown)
{
    uint64_t total = 0;
    for (size_t i = 0; i < TELEMETRY_MEMORY_BUCKETS; i++) {
        char bound[32] = "+Inf";
        if (i < TELEMETRY_MEMORY_BUCKETS - 1) {
            snprintf(bound, sizeof(bound), "%" PRIu64, telemetry_memory_bound(i));
        }
        total += shown->sum.memory_buckets[i];
        write_sample(writing, shown, "_bucket", "le", bound);
        buffer_append_format(writing->out, "%" PRIu64 "\n", total);
    }
    write_sample(writing, shown, "_sum", NULL, NULL);
    buffer_append_format(writing->out, "%" PRIu64 "\n", shown->sum.memory_sum);
    write_sample(writing, shown, "_count", NULL, NULL);
    buffer_append_format(writing->out, "%" PRIu64 "\n", shown->sum.memory_count);
}

static const struct {
    const char *name;
    const char *kind;
    const char *help;
    void (*write)(const struct writing *writing, const struct shown *shown);
} families[] = {
    {"faas_invocations_total", "counter", "Invocations that succeeded, by what triggered them.",
     write_successes},
    {"faas_errors_total", "counter", "Invocations that failed, by what failed.", write_errors},
    {"faas_timeouts_total", "counter", "Invocations that ran into their timeout.", write_timeouts},
    {"faas_coldstarts_total", "counter", "Invocations for which an instance was started.",
     write_cold_starts},
    {"faas_invoke_duration_seconds", "histogram", "How long the function's own code ran.",
     write_run},
    {"faas_init_duration_seconds", "histogram", "How long starting an instance took.", write_init},
    {"faas_mem_usage_bytes", "histogram", "Linear memory at the end of an invocation.",
     write_memory},
    {"blixard_function_duration_seconds", "histogram",
     "Duration of invocations, from the request to the end of the answer.", write_whole},
    {"blixard_function_queue_seconds", "histogram", "How long invocations waited for an instance.",
     write_queue},
};

static size_t take_shown(struct telemetry *telemetry, struct shown **ret_shown)
{
    size_t count = 0;
    pthread_mutex_lock(&telemetry->metrics_lock);
    struct shown *shown = memory_new(telemetry->functions.count + 1, sizeof(*shown));
    LIST_EACH(node, &telemetry->recent_functions)
    {
        const struct function_metrics *metrics = LIST_ITEM(node, struct function_metrics, link);
        memcpy(shown[count].project, metrics->project, sizeof(metrics->project));
        memcpy(shown[count].function, metrics->function, sizeof(metrics->function));
        memcpy(shown[count].exemplars, metrics->exemplars, sizeof(metrics->exemplars));
        function_metrics_sum(metrics, &shown[count].sum);
        count++;
    }
    pthread_mutex_unlock(&telemetry->metrics_lock);
    *ret_shown = shown;
    return count;
}

static void write_functions(struct telemetry *telemetry, enum telemetry_format format,
                            struct buffer *out)
{
    struct shown *shown = NULL;
    size_t count = take_shown(telemetry, &shown);
    for (size_t i = 0; i < sizeof(families) / sizeof(families[0]); i++) {
        const struct writing writing = {.out = out, .format = format, .name = families[i].name};
        telemetry_write_head(format, families[i].name, families[i].kind, families[i].help, out);
        for (size_t j = 0; j < count; j++) {
            families[i].write(&writing, &shown[j]);
        }
    }
    free(shown);
}

static void write_traces(struct telemetry *telemetry, enum telemetry_format format,
                         struct buffer *out)
{
    struct tracer *tracer = telemetry->tracer;
    pthread_mutex_lock(&tracer->lock);
    size_t kept = tracer->kept_count;
    size_t bytes = tracer->kept_bytes;
    pthread_mutex_unlock(&tracer->lock);
    telemetry_write_head(format, "blixard_traces_kept", "gauge", "Traces kept on this node.", out);
    buffer_append_format(out, "blixard_traces_kept %zu\n", kept);
    telemetry_write_head(format, "blixard_traces_kept_bytes", "gauge", "Memory for them.", out);
    buffer_append_format(out, "blixard_traces_kept_bytes %zu\n", bytes);
    telemetry_write_head(format, "blixard_spans_dropped_total", "counter",
                         "Spans for which there was no room.", out);
    buffer_append_format(out, "blixard_spans_dropped_total %" PRIu64 "\n",
                         atomic_load(&tracer->dropped));
}

static void write_process(enum telemetry_format format, struct buffer *out)
{
    struct rusage usage = {0};
    getrusage(RUSAGE_SELF, &usage);
    double cpu = (double)usage.ru_utime.tv_sec + (double)usage.ru_utime.tv_usec / 1e6 +
        (double)usage.ru_stime.tv_sec + (double)usage.ru_stime.tv_usec / 1e6;
    telemetry_write_head(format, "process_cpu_seconds_total", "counter", "CPU time of the daemon.",
                         out);
    buffer_append_format(out, "process_cpu_seconds_total %.3f\n", cpu);

    struct error ignored = {0};
    BUFFER_OWNED struct buffer text = {0};
    unsigned long pages = 0;
    if (file_read("/proc/self/statm", 4096, &text, &ignored) == 0 &&
        sscanf(buffer_string(&text), "%*u %lu", &pages) == 1) {
        telemetry_write_head(format, "process_resident_memory_bytes", "gauge",
                             "Resident memory of the daemon.", out);
        buffer_append_format(out, "process_resident_memory_bytes %lu\n",
                             pages * (unsigned long)sysconf(_SC_PAGESIZE));
    }
}

void telemetry_write_metrics(struct telemetry *telemetry, enum telemetry_format format,
                             struct buffer *out)
{
    telemetry_write_head(format, "blixard_build_info", "gauge", "The version that runs.", out);
    buffer_append_format(out, "blixard_build_info{version=\"%s\"} 1\n", blixard_version);
    write_plain(telemetry, format, out);
    write_functions(telemetry, format, out);
    write_traces(telemetry, format, out);
    write_process(format, out);
}
