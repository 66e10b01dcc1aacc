/*
 * What functions have done in the last minutes, and do now: summed over the nodes that answer.  Who
 * does not answer is named wherever the sum is shown.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"

#include "surface/cli/figures.h"
#include "surface/cli/private.h"

#define COUNT(list) (sizeof(list) / sizeof((list)[0]))

enum { VERSIONS_MAX = 64, WINDOW_MS = 300000 };

static const char *const states[] = {"running", "waiting", "idle"};

void usage_path(const char *name_or_null, struct buffer *out)
{
    buffer_append_string(out, "/v1/function-usage");
    request_add_query(out, "function", name_or_null);
}

char *usage_version_name(uint64_t number)
{
    return number > 0 ? memory_format("%" PRIu64, number) : memory_copy_string("older ones");
}

int usage_gather(const char *name_or_null, struct gathered *ret_gathered, struct error *err)
{
    BUFFER_OWNED struct buffer path = {0};
    usage_path(name_or_null, &path);
    return gather(NULL, buffer_string(&path), ret_gathered, err);
}

/* ---- Sums ---- */

struct version {
    uint64_t number;
    uint64_t states[COUNT(states)];
    struct figures figures;
};

struct sum {
    uint64_t states[COUNT(states)];
    struct figures figures;
    struct version *versions;
    size_t count;
};

static void add_states(uint64_t *sums, const json_t *added)
{
    for (size_t i = 0; i < COUNT(states); i++) {
        sums[i] += json_u64(added, states[i]);
    }
}

static struct version *version_of(struct sum *sum, uint64_t number)
{
    size_t at = 0;
    while (at < sum->count && sum->versions[at].number != number) {
        at++;
    }
    if (at < sum->count) {
        return &sum->versions[at];
    }
    sum->versions = memory_resize(sum->versions, (sum->count + 1) * sizeof(*sum->versions));
    sum->versions[sum->count] = (struct version){.number = number};
    return &sum->versions[sum->count++];
}

static void add_function(struct sum *sum, const json_t *function)
{
    size_t index = 0;
    const json_t *item = NULL;
    add_states(sum->states, function);
    json_array_foreach(json_object_get(function, "versions"), index, item)
    {
        struct version *version = version_of(sum, json_u64(item, "version"));
        add_states(version->states, item);
        figures_add(&version->figures, json_object_get(item, "recent"));
        figures_add(&sum->figures, json_object_get(item, "recent"));
    }
}

static void write_states(const uint64_t *sums, json_t *row)
{
    for (size_t i = 0; i < COUNT(states); i++) {
        json_set_u64(row, states[i], sums[i]);
    }
}

static int compare_versions(const void *a, const void *b)
{
    const struct version *one = a;
    const struct version *other = b;
    return (one->number > other->number) - (one->number < other->number);
}

static json_t *write_sum(struct sum *sum)
{
    json_t *usage = json_object();
    json_t *versions = json_array();
    if (sum->count > 1) {
        qsort(sum->versions, sum->count, sizeof(*sum->versions), compare_versions);
    }
    write_states(sum->states, usage);
    figures_write(&sum->figures, usage);
    figures_done(&sum->figures);
    for (size_t i = 0; i < sum->count; i++) {
        json_t *row = json_object();
        json_set_u64(row, "version", sum->versions[i].number);
        write_states(sum->versions[i].states, row);
        figures_write(&sum->versions[i].figures, row);
        figures_done(&sum->versions[i].figures);
        json_array_append_new(versions, row);
    }
    free(sum->versions);
    json_object_set_new(usage, "versions", versions);
    return usage;
}

json_t *usage_of(const struct gathered *gathered, const char *name)
{
    struct sum sum = {0};
    json_t *nodes = json_array();
    uint64_t window_ms = 0;
    const char *node = NULL;
    json_t *answer = NULL;
    json_object_foreach(gathered->answers, node, answer)
    {
        size_t index = 0;
        const json_t *function = NULL;
        json_array_foreach(json_object_get(answer, "functions"), index, function)
        {
            if (strcmp(json_text(function, "name"), name) == 0) {
                json_t *row = json_pack("{s:s}", "node", node);
                uint64_t ms = json_u64(function, "window_ms");
                json_set_u64(row, "window_ms", ms);
                json_array_append_new(nodes, row);
                window_ms = ms > window_ms ? ms : window_ms;
                add_function(&sum, function);
            }
        }
    }
    json_t *usage = write_sum(&sum);
    json_set_u64(usage, "window_ms", window_ms);
    json_object_set_new(usage, "nodes", nodes);
    json_object_set(usage, "silent", gathered->silent);
    return usage;
}

/* ---- For people ---- */

static void write_window(uint64_t ms, char *ret_text)
{
    text_write_time_ms(ms >= WINDOW_MS ? WINDOW_MS : ms / 1000 * 1000, ret_text);
}

static uint64_t errors_in(const json_t *row)
{
    uint64_t errors = 0;
    size_t index = 0;
    const json_t *error = NULL;
    json_array_foreach(json_object_get(row, "errors"), index, error)
    {
        errors += json_u64(error, "calls");
    }
    return errors;
}

/* "12 (1.0 %)" */
static char *format_errors(const json_t *row)
{
    uint64_t errors = errors_in(row);
    uint64_t calls = json_u64(row, "calls");
    return errors > 0 && calls > 0
        ? memory_format("%" PRIu64 " (%.3g %%)", errors, 100.0 * (double)errors / (double)calls)
        : memory_format("%" PRIu64, errors);
}

void usage_add_texts(json_t *row)
{
    static const char *const names[] = {"p50", "p99", "run_p50", "run_p99"};
    char text[FIGURES_TEXT_SIZE];
    for (size_t i = 0; i < COUNT(names); i++) {
        json_object_set_new(row, names[i], json_string(figures_write_time(row, names[i], text)));
    }
    MEMORY_OWNED char *errors = format_errors(row);
    json_object_set_new(row, "failed", json_string(errors));
}

/* The recent time, and whose of it: what began later is said, too. */
void usage_print_window(const json_t *usage)
{
    char text[TEXT_SIZE_MAX];
    BUFFER_OWNED struct buffer line = {0};
    const json_t *nodes = json_object_get(usage, "nodes");
    size_t index = 0;
    const json_t *node = NULL;
    write_window(json_u64(usage, "window_ms"), text);
    buffer_append_format(&line, "of the last %s", text);
    json_array_foreach(nodes, index, node)
    {
        char own[TEXT_SIZE_MAX];
        write_window(json_u64(node, "window_ms"), own);
        if (strcmp(own, text) != 0) {
            buffer_append_format(&line, "; %s: %s", json_text(node, "node"), own);
        }
    }
    if (json_array_size(nodes) > 1) {
        buffer_append_format(&line, "; of %zu nodes", json_array_size(nodes));
    }
    MEMORY_OWNED char *whole = buffer_take(&line);
    print_fact("figures", whole);
    json_array_foreach(json_object_get(usage, "silent"), index, node)
    {
        MEMORY_OWNED char *silent =
            memory_format("%s: %s", json_text(node, "node"), json_text(node, "reason"));
        print_fact("not counted", silent);
    }
}

static void print_errors(const json_t *usage)
{
    BUFFER_OWNED struct buffer line = {0};
    MEMORY_OWNED char *sum = format_errors(usage);
    size_t index = 0;
    const json_t *error = NULL;
    buffer_append_string(&line, sum);
    json_array_foreach(json_object_get(usage, "errors"), index, error)
    {
        buffer_append_format(&line, "%s%s %" PRIu64, index == 0 ? ": " : ", ",
                             json_text(error, "reason"), json_u64(error, "calls"));
    }
    MEMORY_OWNED char *whole = buffer_take(&line);
    print_fact("errors", whole);
}

static void print_times(const json_t *usage, const char *title, const char *median,
                        const char *slow)
{
    char one[FIGURES_TEXT_SIZE];
    char other[FIGURES_TEXT_SIZE];
    if (json_u64(usage, "calls") > 0) {
        MEMORY_OWNED char *text =
            memory_format("p50 %s, p99 %s", figures_write_time(usage, median, one),
                          figures_write_time(usage, slow, other));
        print_fact(title, text);
    }
}

static void print_now(const json_t *usage)
{
    uint64_t running = json_u64(usage, "running");
    MEMORY_OWNED char *now = memory_format("%" PRIu64 " running, %" PRIu64 " waiting", running,
                                           json_u64(usage, "waiting"));
    MEMORY_OWNED char *instances =
        memory_format("%" PRIu64 " busy, %" PRIu64 " idle", running, json_u64(usage, "idle"));
    print_fact("calls now", now);
    print_fact("instances", instances);
}

/* "3", or "v7=90 v8=10": its versions with their weights. */
static json_t *parts_of(const char *target)
{
    json_t *parts = json_array();
    while (*target != '\0' && json_array_size(parts) < VERSIONS_MAX) {
        size_t length = strcspn(target, " ");
        const char *equals = memchr(target, '=', length);
        const char *digits = target + (*target == 'v');
        const char *end = equals != NULL ? equals : target + length;
        uint64_t number = 0;
        uint64_t weight = 1;
        if (text_parse_u64(text_of(digits, (size_t)(end - digits)), &number) &&
            (equals == NULL ||
             text_parse_u64(text_of(equals + 1, (size_t)(target + length - equals - 1)),
                            &weight))) {
            json_t *part = json_object();
            json_set_u64(part, "version", number);
            json_set_u64(part, "weight", weight);
            json_array_append_new(parts, part);
        }
        target += length + (target[length] == ' ');
    }
    return parts;
}

static json_t *row_of_version(const json_t *rows, uint64_t number)
{
    size_t index = 0;
    json_t *row = NULL;
    json_array_foreach(rows, index, row)
    {
        if (json_u64(row, "version") == number) {
            return row;
        }
    }
    return NULL;
}

/* The parts of an alias as rows of versions, with what is known of them; each also without. */
json_t *usage_alias_rows(const json_t *usage, const char *target)
{
    JSON_OWNED json_t *parts = parts_of(target);
    json_t *rows = json_array();
    uint64_t sum = 0;
    size_t index = 0;
    const json_t *part = NULL;
    json_array_foreach(parts, index, part)
    {
        sum += json_u64(part, "weight");
    }
    json_array_foreach(parts, index, part)
    {
        uint64_t number = json_u64(part, "version");
        const json_t *known = row_of_version(json_object_get(usage, "versions"), number);
        const struct figures none = {0};
        const uint64_t nothing[COUNT(states)] = {0};
        json_t *row = known != NULL ? json_deep_copy(known) : json_object();
        if (known == NULL) {
            json_set_u64(row, "version", number);
            write_states(nothing, row);
            figures_write(&none, row);
        }
        json_object_set(row, "weight", json_object_get(part, "weight"));
        if (sum > 0) {
            json_object_set_new(row, "share_percent",
                                json_real(100.0 * (double)json_u64(part, "weight") / (double)sum));
        }
        json_array_append_new(rows, row);
    }
    return rows;
}

static void name_version(json_t *row)
{
    MEMORY_OWNED char *name = usage_version_name(json_u64(row, "version"));
    json_object_set_new(row, "name", json_string(name));
    usage_add_texts(row);
}

static void add_share(json_t *row)
{
    const json_t *percent = json_object_get(row, "share_percent");
    MEMORY_OWNED char *text = percent != NULL ? memory_format("%.3g %%", json_number_value(percent))
                                              : memory_copy_string("-");
    json_object_set_new(row, "share", json_string(text));
}

void usage_print_versions(const json_t *rows)
{
    static const struct column columns[] = {
        {"VERSION", "name", AS_TEXT},      {"SHARE", "share", AS_TEXT},
        {"CALLS", "calls", AS_TEXT},       {"ERRORS", "failed", AS_TEXT},
        {"P50", "p50", AS_TEXT},           {"P99", "p99", AS_TEXT},
        {"OWN P50", "run_p50", AS_TEXT},   {"OWN P99", "run_p99", AS_TEXT},
        {"COLD", "cold_starts", AS_TEXT},  {"RUNNING", "running", AS_TEXT},
        {"WAITING", "waiting", AS_TEXT},   {"IDLE", "idle", AS_TEXT},
        {"HAS", "memory_bytes", AS_BYTES},
    };
    size_t index = 0;
    json_t *row = NULL;
    json_array_foreach(rows, index, row)
    {
        name_version(row);
        add_share(row);
    }
    print_table(rows, columns, COUNT(columns));
}

/* Those that `live` points to, and the others that were called. */
static json_t *all_rows(const json_t *usage, const char *live)
{
    json_t *rows = usage_alias_rows(usage, live);
    size_t index = 0;
    const json_t *row = NULL;
    json_array_foreach(json_object_get(usage, "versions"), index, row)
    {
        if (row_of_version(rows, json_u64(row, "version")) == NULL) {
            json_array_append_new(rows, json_deep_copy(row));
        }
    }
    return rows;
}

void usage_print(const json_t *usage, const char *live)
{
    char text[TEXT_SIZE_MAX];
    JSON_OWNED json_t *rows = all_rows(usage, live);
    uint64_t calls = json_u64(usage, "calls");
    uint64_t window_ms = json_u64(usage, "window_ms");
    usage_print_window(usage);
    MEMORY_OWNED char *rate =
        memory_format("%" PRIu64 " (%.3g/s)", calls,
                      window_ms > 0 ? (double)calls * 1000 / (double)window_ms : 0.0);
    print_fact("calls", rate);
    print_errors(usage);
    print_times(usage, "duration", "p50", "p99");
    print_times(usage, "own code", "run_p50", "run_p99");
    MEMORY_OWNED char *starts =
        memory_format("%" PRIu64 " warm, %" PRIu64 " cold", json_u64(usage, "warm_starts"),
                      json_u64(usage, "cold_starts"));
    print_fact("starts", starts);
    print_now(usage);
    if (json_object_get(usage, "memory_bytes") != NULL) {
        text_write_size(json_u64(usage, "memory_bytes"), text);
        print_fact("instance has", text);
    }
    if (json_array_size(rows) > 1) {
        putchar('\n');
        usage_print_versions(rows);
    }
}
