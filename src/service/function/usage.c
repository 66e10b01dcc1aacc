/*
 * What functions do on this node: ends of calls as service/telemetry has counted them, and how it
 * stands with their calls and instances now.
 */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"

#include "service/function/parts.h"
#include "service/telemetry/telemetry.h"

struct usage {
    json_t *document;
    json_t *functions; /* name: its FunctionUsage, which is the document's */
    struct instance_target **targets;
    size_t count;
    const char *project;
    const char *name; /* NULL: all */
    function_used *done;
    void *context;
};

static void add_u64(json_t *object, const char *key, uint64_t value)
{
    json_set_u64(object, key, json_u64(object, key) + value);
}

/* ---- What was counted ---- */

static json_t *durations_of(const struct telemetry_counts *counts)
{
    json_t *durations = json_array();
    uint64_t above_us = 0;
    for (size_t i = 0; i < TELEMETRY_BUCKETS; i++) {
        uint64_t bound_us = telemetry_bound_us(i);
        if (counts->durations[i] > 0 || counts->runs[i] > 0) {
            json_t *bucket = json_object();
            json_set_u64(bucket, "above_us", above_us);
            if (bound_us > 0) {
                json_set_u64(bucket, "at_most_us", bound_us);
            }
            json_set_u64(bucket, "calls", counts->durations[i]);
            json_set_u64(bucket, "runs", counts->runs[i]);
            json_array_append_new(durations, bucket);
        }
        above_us = bound_us;
    }
    return durations;
}

static json_t *figures_of(const struct telemetry_counts *counts)
{
    uint64_t calls = 0;
    uint64_t runs = 0;
    json_t *errors = json_array();
    json_t *figures = json_object();
    for (size_t i = 0; i < TELEMETRY_BUCKETS; i++) {
        calls += counts->durations[i];
        runs += counts->runs[i];
    }
    for (size_t i = 0; i <= TELEMETRY_ERRORS_MAX; i++) {
        if (counts->errors[i].count > 0) {
            json_t *error = json_pack("{s:s}", "reason", counts->errors[i].type);
            json_set_u64(error, "calls", counts->errors[i].count);
            json_array_append_new(errors, error);
        }
    }
    json_set_u64(figures, "calls", calls);
    json_object_set_new(figures, "errors", errors);
    json_set_u64(figures, "cold_starts", counts->cold_starts);
    json_set_u64(figures, "warm_starts",
                 runs > counts->cold_starts ? runs - counts->cold_starts : 0);
    json_object_set_new(figures, "durations", durations_of(counts));
    json_set_u64(figures, "memory_bytes_sum", counts->memory_sum);
    json_set_u64(figures, "memory_calls", counts->memory_count);
    return figures;
}

static json_t *version_of(const json_t *function, uint64_t number)
{
    json_t *versions = json_object_get(function, "versions");
    size_t index = 0;
    json_t *version = NULL;
    json_array_foreach(versions, index, version)
    {
        if (json_u64(version, "version") == number) {
            return version;
        }
    }
    version = json_object();
    json_set_u64(version, "version", number);
    json_set_u64(version, "running", 0);
    json_set_u64(version, "waiting", 0);
    json_set_u64(version, "idle", 0);
    json_array_append_new(versions, version);
    return version;
}

static void add_figures(const struct telemetry_figures *figures, void *context)
{
    const struct usage *usage = context;
    json_t *function = json_object_get(usage->functions, figures->function);
    if (function != NULL) {
        json_t *version = version_of(function, figures->version);
        json_set_u64(function, "window_ms", figures->window_ms);
        json_object_set_new(version, "total", figures_of(&figures->total));
        json_object_set_new(version, "recent", figures_of(&figures->recent));
    }
}

/* ---- How it stands ---- */

static void on_census(const struct instance_census *census, size_t count, void *context)
{
    struct usage *usage = context;
    for (size_t i = 0; i < count; i++) {
        const struct instance_target *target = usage->targets[i];
        const struct instance_census *row = &census[i];
        json_t *function = json_object_get(usage->functions, target->function);
        if (function != NULL && row->running + row->waiting + row->idle > 0) {
            json_t *version = version_of(function, target->version);
            json_set_u64(version, "running", row->running);
            json_set_u64(version, "waiting", row->waiting);
            json_set_u64(version, "idle", row->idle);
            add_u64(function, "running", row->running);
            add_u64(function, "waiting", row->waiting);
            add_u64(function, "idle", row->same_as == i ? row->idle : 0);
        }
        instance_target_unref(usage->targets[i]);
    }
    usage->done(usage->document, usage->context);
    json_decref(usage->functions);
    json_decref(usage->document);
    free(usage->targets);
    free(usage);
}

static void collect_target(const char *key, void *value, void *context)
{
    struct usage *usage = context;
    const struct local *local = value;
    struct instance_target *target = local->target;
    (void)key;
    if (target != NULL && strcmp(target->project, usage->project) == 0 &&
        (usage->name == NULL || strcmp(target->function, usage->name) == 0)) {
        usage->targets[usage->count++] = instance_target_ref(target);
    }
}

static int compare_targets(const void *a, const void *b)
{
    const struct instance_target *one = *(struct instance_target *const *)a;
    const struct instance_target *other = *(struct instance_target *const *)b;
    int r = strcmp(one->function, other->function);
    return r != 0 ? r : (one->version > other->version) - (one->version < other->version);
}

static void take_targets(const struct function_service *service, struct usage *usage)
{
    usage->targets = memory_new(service->locals.count + 1, sizeof(struct instance_target *));
    map_each(&service->locals, collect_target, usage);
    qsort(usage->targets, usage->count, sizeof(struct instance_target *), compare_targets);
}

/* ---- All of it ---- */

struct naming {
    struct usage *usage;
    uint64_t window_ms;
};

static bool add_function(sqlite3_stmt *row, void *context)
{
    const struct naming *naming = context;
    const char *name = (const char *)sqlite3_column_text(row, 0);
    json_t *function = json_pack("{s:s}", "name", name);
    json_set_u64(function, "window_ms", naming->window_ms);
    json_set_u64(function, "running", 0);
    json_set_u64(function, "waiting", 0);
    json_set_u64(function, "idle", 0);
    json_object_set_new(function, "versions", json_array());
    json_object_set(naming->usage->functions, name, function);
    json_array_append_new(json_object_get(naming->usage->document, "functions"), function);
    return true;
}

static int name_functions(struct function_service *service, const struct naming *naming,
                          struct error *err)
{
    const struct usage *usage = naming->usage;
    uint64_t last = 0;
    if (usage->name == NULL) {
        return store_query(service->options.store, err, add_function, (void *)(uintptr_t)naming,
                           "SELECT name FROM function WHERE project = ? ORDER BY name", "t",
                           usage->project);
    }
    int r = function_find(service, usage->project, usage->name, &last, err);
    return r < 0 ? r
                 : store_query(service->options.store, err, add_function, (void *)(uintptr_t)naming,
                               "SELECT name FROM function WHERE project = ? AND name = ?", "tt",
                               usage->project, usage->name);
}

int function_usage(struct function_service *service, const char *project, const char *name_or_null,
                   function_used *done, void *context, struct error *err)
{
    uint64_t now_ns = clock_monotonic_ns();
    struct telemetry *telemetry = service->options.telemetry;
    struct usage *usage = NEW(struct usage);
    *usage = (struct usage){.document = json_pack("{s:s, s:I, s:[]}", "node",
                                                  service->options.node_name, "measured_ms",
                                                  (json_int_t)(now_ns / 1000000), "functions"),
                            .functions = json_object(),
                            .project = project,
                            .name = name_or_null,
                            .done = done,
                            .context = context};
    const struct naming naming = {usage, telemetry_window_ms(telemetry, now_ns)};
    int r = name_functions(service, &naming, err);
    if (r < 0) {
        json_decref(usage->functions);
        json_decref(usage->document);
        free(usage);
        return r;
    }
    telemetry_each_figures(telemetry, project, name_or_null, now_ns, add_figures, usage);
    take_targets(service, usage);
    usage->project = usage->name = NULL; /* lent */
    instance_take_census(service->options.instances, usage->targets, usage->count,
                         service->options.loop, on_census, usage);
    return 0;
}
