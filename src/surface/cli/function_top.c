/* `fn top`: what functions do, or the versions of one, as rates between two looks; nodes summed. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"

#include "surface/cli/figures.h"
#include "surface/cli/private.h"

#define COUNT(list) (sizeof(list) / sizeof((list)[0]))

/* A row that is being summed: a function, or a version. */
struct item {
    char *name;
    json_t *row;
    struct figures figures;
    double rates[3]; /* calls, errors, cold starts a second */
};

struct items {
    struct item *items;
    size_t count;
    bool is_of_versions;
};

static struct item *item_of(struct items *items, const char *name)
{
    size_t at = items->count;
    while (at > 0 && strcmp(items->items[at - 1].name, name) != 0) {
        at--;
    }
    if (at > 0) {
        return &items->items[at - 1];
    }
    items->items = memory_resize(items->items, (items->count + 1) * sizeof(*items->items));
    items->items[items->count] =
        (struct item){.name = memory_copy_string(name), .row = json_pack("{s:s}", "name", name)};
    return &items->items[items->count++];
}

static void add_states(json_t *row, const json_t *added)
{
    static const char *const states[] = {"running", "waiting", "idle"};
    for (size_t i = 0; i < COUNT(states); i++) {
        json_set_u64(row, states[i], json_u64(row, states[i]) + json_u64(added, states[i]));
    }
}

static const json_t *find(const json_t *list, const char *key, const json_t *wanted)
{
    size_t index = 0;
    const json_t *item = NULL;
    json_array_foreach(list, index, item)
    {
        if (json_equal(json_object_get(item, key), json_object_get(wanted, key))) {
            return item;
        }
    }
    return NULL;
}

/* Rates are a node's own: two nodes were not looked at in the same moment. */
static void add_between(struct item *item, const json_t *before, const json_t *now,
                        uint64_t elapsed_ms)
{
    FIGURES_OWNED struct figures between = {0};
    figures_add_between(&between, before, now);
    figures_add_between(&item->figures, before, now);
    const uint64_t counts[] = {between.calls, between.errors, between.cold_starts};
    for (size_t i = 0; i < COUNT(counts); i++) {
        item->rates[i] += (double)counts[i] * 1000 / (double)elapsed_ms;
    }
}

/* What was counted of a version, or (NULL) of all; of those for which there is no room any more
 * with what was counted of them while there was. */
static json_t *totals_of(const json_t *versions, const json_t *wanted_or_null, const json_t *now)
{
    json_t *totals = json_array();
    size_t index = 0;
    const json_t *version = NULL;
    json_array_foreach(versions, index, version)
    {
        json_t *total = json_object_get(version, "total");
        bool is_it = wanted_or_null == NULL ||
            json_u64(version, "version") == json_u64(wanted_or_null, "version") ||
            (json_u64(wanted_or_null, "version") == 0 && find(now, "version", version) == NULL);
        if (is_it && total != NULL) {
            json_array_append(totals, total);
        }
    }
    return totals;
}

static void add_versions(struct items *items, const json_t *then, const json_t *now,
                         uint64_t elapsed_ms)
{
    size_t index = 0;
    const json_t *version = NULL;
    json_array_foreach(now, index, version)
    {
        MEMORY_OWNED char *name = usage_version_name(json_u64(version, "version"));
        struct item *item = item_of(items, name);
        add_states(item->row, version);
        json_object_set(item->row, "version", json_object_get(version, "version"));
        if (elapsed_ms > 0) {
            JSON_OWNED json_t *before = totals_of(then, version, now);
            JSON_OWNED json_t *after = totals_of(now, version, now);
            add_between(item, before, after, elapsed_ms);
        }
    }
}

/* `elapsed_ms` 0: there was no look before. */
static void add_function(struct items *items, const json_t *before, const json_t *function,
                         uint64_t elapsed_ms)
{
    const json_t *then = json_object_get(before, "versions");
    const json_t *now = json_object_get(function, "versions");
    if (items->is_of_versions) {
        add_versions(items, then, now, elapsed_ms);
        return;
    }
    struct item *item = item_of(items, json_text(function, "name"));
    add_states(item->row, function);
    if (elapsed_ms > 0) {
        JSON_OWNED json_t *totals_then = totals_of(then, NULL, now);
        JSON_OWNED json_t *totals_now = totals_of(now, NULL, now);
        add_between(item, totals_then, totals_now, elapsed_ms);
    }
}

static int compare_items(const void *a, const void *b)
{
    const struct item *one = a;
    const struct item *other = b;
    uint64_t number = json_u64(one->row, "version");
    uint64_t other_number = json_u64(other->row, "version");
    return number != other_number ? (number > other_number) - (number < other_number)
                                  : strcmp(one->name, other->name);
}

static json_t *rows_of(struct items *items)
{
    static const char *const names[] = {"calls_per_second", "errors_per_second",
                                        "cold_starts_per_second"};
    json_t *rows = json_array();
    if (items->count > 1) {
        qsort(items->items, items->count, sizeof(*items->items), compare_items);
    }
    for (size_t i = 0; i < items->count; i++) {
        struct item *item = &items->items[i];
        figures_write(&item->figures, item->row);
        for (size_t j = 0; j < COUNT(names); j++) {
            json_object_set_new(item->row, names[j], json_real(item->rates[j]));
        }
        json_array_append_new(rows, item->row);
        figures_done(&item->figures);
        free(item->name);
    }
    free(items->items);
    return rows;
}

/* `context`: the function whose versions are wanted; NULL: all functions. */
static json_t *compare(const json_t *before, const json_t *now, const void *context)
{
    struct items items = {.is_of_versions = context != NULL};
    const char *node = NULL;
    json_t *answer = NULL;
    json_object_foreach((json_t *)(uintptr_t)now, node, answer)
    {
        const json_t *then = json_object_get(before, node);
        uint64_t now_ms = json_u64(answer, "measured_ms");
        uint64_t then_ms = json_u64(then, "measured_ms");
        size_t index = 0;
        const json_t *function = NULL;
        json_array_foreach(json_object_get(answer, "functions"), index, function)
        {
            add_function(&items, find(json_object_get(then, "functions"), "name", function),
                         function, then != NULL && now_ms > then_ms ? now_ms - then_ms : 0);
        }
    }
    return rows_of(&items);
}

static void add_texts(json_t *row)
{
    static const char *const rates[][2] = {{"calls_per_second", "calls/s"},
                                           {"errors_per_second", "errors/s"},
                                           {"cold_starts_per_second", "cold/s"}};
    usage_add_texts(row);
    for (size_t i = 0; i < COUNT(rates); i++) {
        MEMORY_OWNED char *text =
            memory_format("%.1f", json_number_value(json_object_get(row, rates[i][0])));
        json_object_set_new(row, rates[i][1], json_string(text));
    }
}

int verb_fn_top(const struct arguments *arguments, struct error *err)
{
    const char *name = arguments->word_count > 0 ? arguments->words[0] : NULL;
    const struct column columns[] = {
        {name != NULL ? "VERSION" : "NAME", "name", AS_TEXT},
        {"CALLS/S", "calls/s", AS_TEXT},
        {"ERRORS/S", "errors/s", AS_TEXT},
        {"COLD/S", "cold/s", AS_TEXT},
        {"P50", "p50", AS_TEXT},
        {"P99", "p99", AS_TEXT},
        {"OWN P50", "run_p50", AS_TEXT},
        {"OWN P99", "run_p99", AS_TEXT},
        {"RUNNING", "running", AS_TEXT},
        {"WAITING", "waiting", AS_TEXT},
        {"IDLE", "idle", AS_TEXT},
        {"HAS", "memory_bytes", AS_BYTES},
    };
    static const struct top_order orders[] = {
        {"name", NULL},
        {"calls", "calls_per_second"},
        {"errors", "errors_per_second"},
        {"cold", "cold_starts_per_second"},
        {"p50", "p50_us"},
        {"p99", "p99_us"},
        {"running", "running"},
        {"waiting", "waiting"},
        {"idle", "idle"},
        {"memory", "memory_bytes"},
        {NULL, NULL},
    };
    BUFFER_OWNED struct buffer path = {0};
    usage_path(name, &path);
    const struct top top = {
        .path = buffer_string(&path),
        .member = name != NULL ? "versions" : "functions",
        .compare = compare,
        .context = name,
        .add_texts = add_texts,
        .columns = columns,
        .column_count = COUNT(columns),
        .orders = orders,
    };
    return top_run(arguments, &top, err);
}
