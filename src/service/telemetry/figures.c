/*
 * The counters for whoever looks at one function, or at a few: as numbers, of all time and of the
 * last minutes.
 *
 * The lock that calls take is held for as long as copying one function takes.
 */
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

#include "service/telemetry/private.h"

enum { NAME_SIZE = 64, FIGURES_MAX = TELEMETRY_VERSIONS_MAX + 1 };

/* ---- How far back ---- */

static uint64_t first_minute(uint64_t now_ns)
{
    uint64_t minute = telemetry_minute(now_ns);
    return minute > TELEMETRY_WINDOW_MINUTES ? minute - TELEMETRY_WINDOW_MINUTES : 1;
}

/* Nothing is known of what was before `since_ns`. */
static uint64_t window_ms(const struct telemetry *telemetry, uint64_t since_ns, uint64_t now_ns)
{
    uint64_t begin_ns = (first_minute(now_ns) - 1) * TELEMETRY_MINUTE_NS;
    begin_ns = begin_ns < telemetry->opened_ns ? telemetry->opened_ns : begin_ns;
    begin_ns = begin_ns < since_ns ? since_ns : begin_ns;
    return now_ns > begin_ns ? (now_ns - begin_ns) / 1000000 : 0;
}

uint64_t telemetry_window_ms(struct telemetry *telemetry, uint64_t now_ns)
{
    pthread_mutex_lock(&telemetry->metrics_lock);
    uint64_t ms = window_ms(telemetry, telemetry->forgot_ns, now_ns);
    pthread_mutex_unlock(&telemetry->metrics_lock);
    return ms;
}

/* ---- One function ---- */

/* What came between: all of it, where `before` is zeroed. */
static void subtract(const struct counters *counters, const struct moment *before,
                     struct telemetry_counts *ret_counts)
{
    *ret_counts = (struct telemetry_counts){
        .cold_starts = counters->cold_starts - before->cold_starts,
        .memory_sum = counters->memory_sum - before->memory_sum,
        .memory_count = counters->memory_count - before->memory_count,
    };
    for (size_t i = 0; i < TELEMETRY_TRIGGERS; i++) {
        ret_counts->successes += counters->successes[i];
    }
    ret_counts->successes -= before->successes;
    size_t used = 0;
    for (size_t i = 0; i <= TELEMETRY_ERRORS_MAX; i++) {
        uint64_t count = counters->errors[i].count - before->errors[i];
        if (count > 0) {
            ret_counts->errors[used] = counters->errors[i];
            ret_counts->errors[used++].count = count;
        }
    }
    for (size_t i = 0; i < TELEMETRY_BUCKETS; i++) {
        ret_counts->durations[i] = counters->whole.buckets[i] - before->whole[i];
        ret_counts->runs[i] = counters->run.buckets[i] - before->run[i];
    }
}

static void fill(const struct version_metrics *version, uint64_t now_ns,
                 struct telemetry_figures *ret_figures)
{
    static const struct moment beginning;
    struct moment before;
    version_metrics_at(version, first_minute(now_ns), &before);
    ret_figures->version = version->version;
    subtract(&version->counters, &beginning, &ret_figures->total);
    subtract(&version->counters, &before, &ret_figures->recent);
}

static size_t take(struct telemetry *telemetry, const char *project, const char *function,
                   uint64_t now_ns, struct telemetry_figures ret_figures[FIGURES_MAX])
{
    size_t count = 0;
    pthread_mutex_lock(&telemetry->metrics_lock);
    const struct function_metrics *metrics = telemetry_look(telemetry, project, function);
    if (metrics != NULL) {
        LIST_EACH(node, &metrics->versions)
        {
            fill(LIST_ITEM(node, struct version_metrics, link), now_ns, &ret_figures[count++]);
        }
        if (metrics->older != NULL) {
            fill(metrics->older, now_ns, &ret_figures[count++]);
        }
        uint64_t ms = window_ms(telemetry, metrics->since_ns, now_ns);
        for (size_t i = 0; i < count; i++) {
            ret_figures[i].function = function;
            ret_figures[i].window_ms = ms;
        }
    }
    pthread_mutex_unlock(&telemetry->metrics_lock);
    return count;
}

/* ---- All of a project ---- */

static size_t take_names(struct telemetry *telemetry, const char *project,
                         char (**ret_names)[NAME_SIZE])
{
    size_t count = 0;
    pthread_mutex_lock(&telemetry->metrics_lock);
    char(*names)[NAME_SIZE] = memory_new(telemetry->functions.count + 1, sizeof(*names));
    LIST_EACH(node, &telemetry->recent_functions)
    {
        const struct function_metrics *metrics = LIST_ITEM(node, struct function_metrics, link);
        if (strcmp(metrics->project, project) == 0) {
            memcpy(names[count++], metrics->function, NAME_SIZE);
        }
    }
    pthread_mutex_unlock(&telemetry->metrics_lock);
    *ret_names = names;
    return count;
}

void telemetry_each_figures(struct telemetry *telemetry, const char *project,
                            const char *function_or_null, uint64_t now_ns,
                            void (*visit)(const struct telemetry_figures *figures, void *context),
                            void *context)
{
    char(*names)[NAME_SIZE] = NULL;
    size_t count = function_or_null == NULL ? take_names(telemetry, project, &names) : 1;
    struct telemetry_figures *figures = memory_new(FIGURES_MAX, sizeof(*figures));
    for (size_t i = 0; i < count; i++) {
        const char *name = function_or_null != NULL ? function_or_null : names[i];
        size_t versions = take(telemetry, project, name, now_ns, figures);
        for (size_t j = 0; j < versions; j++) {
            visit(&figures[j], context);
        }
    }
    free(figures);
    free(names);
}
