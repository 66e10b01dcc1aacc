/*
 * Traces.  Each node keeps what was done on it: the parts are put together here, by ids alone, and
 * laid out in time by the clocks of the nodes.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"

#include "surface/cli/private.h"

enum { WIDTH_DEFAULT = 100, WIDTH_MAX = 200, NAME_WIDTH_MAX = 40, DEPTH_MAX = 32 };

static uint64_t number_in(const json_t *document, const char *name)
{
    return (uint64_t)json_integer_value(json_object_get(document, name));
}

static void format_ns(uint64_t ns, char *ret_text, size_t size)
{
    if (ns < 1000000) {
        snprintf(ret_text, size, "%" PRIu64 " us", ns / 1000);
    } else if (ns < UINT64_C(10000000000)) {
        snprintf(ret_text, size, "%.1f ms", (double)ns / 1e6);
    } else {
        snprintf(ret_text, size, "%.1f s", (double)ns / 1e9);
    }
}

/* ---- Asking ---- */

struct asking {
    char *path;       /* with its query */
    const char *list; /* the member with the rows */
    json_t *rows;
    bool may_be_absent; /* a node that has nothing of it is none that fails */
};

static int ask(const char *node, void *context, struct error *err)
{
    const struct asking *asking = context;
    BUFFER_OWNED struct buffer target = {0};
    JSON_OWNED json_t *document = NULL;
    buffer_append_string(&target, asking->path);
    request_add_query(&target, "node", node);
    int r = request_json("GET", buffer_string(&target), NULL, &document, err);
    if (r == -ERROR_NOT_FOUND && asking->may_be_absent) {
        return 0;
    }
    size_t index = 0;
    json_t *row = NULL;
    json_array_foreach(json_object_get(document, asking->list), index, row)
    {
        json_array_append(asking->rows, row);
    }
    return r;
}

static int compare(const void *a, const void *b)
{
    uint64_t left = number_in(*(json_t *const *)a, "start_us");
    uint64_t right = number_in(*(json_t *const *)b, "start_us");
    return (left > right) - (left < right);
}

/* ---- The list ---- */

static json_t *find(const json_t *rows, const char *id)
{
    size_t index = 0;
    json_t *row = NULL;
    json_array_foreach(rows, index, row)
    {
        if (strcmp(json_text(row, "id"), id) == 0) {
            return row;
        }
    }
    return NULL;
}

/* The part of another node: together they began when the first began. */
static void add_part(json_t *trace, const json_t *part)
{
    uint64_t start = number_in(trace, "start_us");
    uint64_t end = start + number_in(trace, "duration_us");
    uint64_t part_end = number_in(part, "start_us") + number_in(part, "duration_us");
    uint64_t spans = number_in(trace, "spans") + number_in(part, "spans");
    uint64_t errors = number_in(trace, "errors") + number_in(part, "errors");
    MEMORY_OWNED char *nodes =
        memory_format("%s, %s", json_text(trace, "node"), json_text(part, "node"));
    json_object_set_new(trace, "duration_us",
                        json_integer((json_int_t)((part_end > end ? part_end : end) - start)));
    json_object_set_new(trace, "spans", json_integer((json_int_t)spans));
    json_object_set_new(trace, "errors", json_integer((json_int_t)errors));
    json_object_set_new(trace, "node", json_string(nodes));
}

/* Newest first, and at most `most`. */
static json_t *join(const json_t *rows, uint64_t most)
{
    JSON_OWNED json_t *sorted = rows_sort(rows, compare);
    JSON_OWNED json_t *oldest_first = json_array();
    size_t index = 0;
    json_t *row = NULL;
    json_array_foreach(sorted, index, row)
    {
        json_t *known = find(oldest_first, json_text(row, "id"));
        if (known != NULL) {
            add_part(known, row);
        } else {
            json_array_append(oldest_first, row);
        }
    }
    json_t *joined = json_array();
    for (size_t i = json_array_size(oldest_first); i > 0 && json_array_size(joined) < most; i--) {
        json_array_append(joined, json_array_get(oldest_first, i - 1));
    }
    return joined;
}

static int list(const struct arguments *arguments, json_t **ret_traces, struct error *err)
{
    BUFFER_OWNED struct buffer path = {0};
    JSON_OWNED json_t *names = NULL;
    JSON_OWNED json_t *rows = json_array();
    const char *count = flag_value(arguments, "count");
    uint64_t most = 100;
    if (count != NULL && (!text_parse_u64(text_of(count, strlen(count)), &most) || most == 0)) {
        return error_set(err, ERROR_INVALID, "--count %.40s is not a number above 0", count);
    }
    buffer_append_string(&path, "/v1/traces");
    request_add_query(&path, "function", flag_value(arguments, "function"));
    request_add_query(&path, "errors", flag_value(arguments, "errors"));
    request_add_query(&path, "slower_than", flag_value(arguments, "slower-than"));
    request_add_query(&path, "since", flag_value(arguments, "since"));
    request_add_query(&path, "count", count);
    struct asking asking = {.list = "traces", .rows = rows};
    int r = everywhere_nodes(flag_value(arguments, "node"), &names, err);
    if (r == 0) {
        asking.path = buffer_take(&path);
        r = everywhere_ask(names, ask, &asking, err);
        free(asking.path);
    }
    if (r == 0) {
        *ret_traces = join(rows, most);
    }
    return r;
}

static void format_durations(const json_t *traces)
{
    size_t index = 0;
    json_t *trace = NULL;
    json_array_foreach(traces, index, trace)
    {
        char text[32];
        format_ns(number_in(trace, "duration_us") * 1000, text, sizeof(text));
        json_object_set_new(trace, "took", json_string(text));
    }
}

int verb_trace_list(const struct arguments *arguments, struct error *err)
{
    static const struct column columns[] = {
        {"TRACE", "id", AS_TEXT},          {"NAME", "name", AS_TEXT},
        {"FUNCTION", "function", AS_TEXT}, {"STARTED", "start_at", AS_TEXT},
        {"TOOK", "took", AS_TEXT},         {"SPANS", "spans", AS_TEXT},
        {"ERRORS", "errors", AS_TEXT},     {"NODE", "node", AS_TEXT},
    };
    enum output output = OUTPUT_TABLE;
    JSON_OWNED json_t *traces = NULL;
    int r = output_of(arguments, &output, err);
    r = r < 0 ? r : list(arguments, &traces, err);
    if (r < 0) {
        return r;
    }
    if (output != OUTPUT_TABLE) {
        JSON_OWNED json_t *document = json_pack("{s:O}", "traces", traces);
        print_document(document, output);
        return 0;
    }
    format_durations(traces);
    print_table(traces, columns, sizeof(columns) / sizeof(columns[0]));
    return 0;
}

/* ---- The waterfall ---- */

struct waterfall {
    json_t *spans; /* by their beginning */
    uint64_t start_us;
    uint64_t whole_ns;
    int name_width;
    int node_width; /* 0: all on one node */
    int bar_width;
    const char *bar; /* one column of it */
};

static bool is_root(const struct waterfall *waterfall, const json_t *span)
{
    const char *parent = json_text(span, "parent");
    return parent[0] == '\0' || find(waterfall->spans, parent) == NULL;
}

/* Spans are input: that they are their own ancestors ends at DEPTH_MAX. */
static int depth_of(const struct waterfall *waterfall, const json_t *span)
{
    int depth = 0;
    while (depth < DEPTH_MAX && !is_root(waterfall, span)) {
        span = find(waterfall->spans, json_text(span, "parent"));
        depth++;
    }
    return depth;
}

static void print_bar(const struct waterfall *waterfall, const json_t *span)
{
    uint64_t whole_ns = waterfall->whole_ns > 0 ? waterfall->whole_ns : 1;
    uint64_t offset_ns = (number_in(span, "start_us") - waterfall->start_us) * 1000;
    uint64_t width = (uint64_t)waterfall->bar_width;
    uint64_t before = offset_ns * width / whole_ns;
    uint64_t until = (offset_ns + number_in(span, "duration_ns")) * width / whole_ns;
    before = before < width ? before : width - 1;
    until = until > before ? until : before + 1;
    for (uint64_t i = 0; i < width; i++) {
        fputs(i >= before && i < until ? waterfall->bar : " ", stdout);
    }
}

static void print_why(const json_t *span)
{
    const json_t *attributes = json_object_get(span, "attributes");
    const char *type = json_text(attributes, "error.type");
    const char *error = json_text(span, "error");
    if (strcmp(json_text(span, "status"), "error") == 0) {
        size_t length = strlen(type);
        if (strncmp(error, type, length) == 0 && error[length] == ':') {
            type = ""; /* the text begins with it */
        }
        MEMORY_OWNED char *printable = memory_copy_string(error);
        printf("  %s%s%s", type, type[0] != '\0' && error[0] != '\0' ? ": " : "",
               text_make_printable(printable, false));
    }
}

static void print_span(const struct waterfall *waterfall, const json_t *span, int depth)
{
    char took[32];
    MEMORY_OWNED char *name = memory_copy_string(json_text(span, "name"));
    int indent = 2 * depth < waterfall->name_width - 8 ? 2 * depth : waterfall->name_width - 8;
    int room = waterfall->name_width - indent;
    format_ns(number_in(span, "duration_ns"), took, sizeof(took));
    text_make_printable(name, false);
    printf("%*s%-*.*s ", indent, "", room, room, name);
    if (waterfall->node_width > 0) {
        printf("%-*s ", waterfall->node_width, json_text(span, "node"));
    }
    print_bar(waterfall, span);
    printf(" %10s", took);
    print_why(span);
    putchar('\n');
}

static void print_tree(const struct waterfall *waterfall, const char *parent, int depth)
{
    for (size_t i = 0; i < json_array_size(waterfall->spans) && depth < DEPTH_MAX; i++) {
        const json_t *span = json_array_get(waterfall->spans, i);
        bool is_child =
            depth == 0 ? is_root(waterfall, span) : strcmp(json_text(span, "parent"), parent) == 0;
        if (is_child) {
            print_span(waterfall, span, depth);
            print_tree(waterfall, json_text(span, "id"), depth + 1);
        }
    }
}

static int terminal_width(void)
{
    struct winsize size = {0};
    if (isatty(STDOUT_FILENO) == 0 || ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) < 0 ||
        size.ws_col < 60) {
        return WIDTH_DEFAULT;
    }
    return size.ws_col < WIDTH_MAX ? size.ws_col : WIDTH_MAX;
}

static bool speaks_utf8(void)
{
    static const char *const names[] = {"LC_ALL", "LC_CTYPE", "LANG"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        const char *value = getenv(names[i]);
        if (value != NULL && value[0] != '\0') {
            return strstr(value, "UTF-8") != NULL || strstr(value, "utf8") != NULL;
        }
    }
    return false;
}

static void measure(struct waterfall *waterfall)
{
    uint64_t end_ns = 0;
    const json_t *first = json_array_get(waterfall->spans, 0);
    bool has_several = false;
    size_t index = 0;
    json_t *span = NULL;
    waterfall->start_us = number_in(first, "start_us");
    json_array_foreach(waterfall->spans, index, span)
    {
        uint64_t span_end_ns = (number_in(span, "start_us") - waterfall->start_us) * 1000 +
            number_in(span, "duration_ns");
        int name = 2 * depth_of(waterfall, span) + (int)strlen(json_text(span, "name"));
        int node = (int)strlen(json_text(span, "node"));
        end_ns = span_end_ns > end_ns ? span_end_ns : end_ns;
        has_several = has_several || strcmp(json_text(span, "node"), json_text(first, "node")) != 0;
        waterfall->name_width = name > waterfall->name_width ? name : waterfall->name_width;
        waterfall->node_width = node > waterfall->node_width ? node : waterfall->node_width;
    }
    waterfall->whole_ns = end_ns;
    waterfall->node_width = has_several ? waterfall->node_width : 0;
    if (waterfall->name_width > NAME_WIDTH_MAX) {
        waterfall->name_width = NAME_WIDTH_MAX;
    }
    waterfall->bar_width = terminal_width() - waterfall->name_width - waterfall->node_width - 24;
    waterfall->bar_width = waterfall->bar_width > 20 ? waterfall->bar_width : 20;
    waterfall->bar = speaks_utf8() ? "\xe2\x96\x88" : "=";
}

static void print_waterfall(const json_t *rows)
{
    char took[32];
    JSON_OWNED json_t *spans = rows_sort(rows, compare);
    struct waterfall waterfall = {.name_width = 16, .spans = spans};
    const json_t *first = json_array_get(spans, 0);
    size_t count = json_array_size(spans);
    measure(&waterfall);
    format_ns(waterfall.whole_ns, took, sizeof(took));
    printf("trace    %s\nstarted  %s\ntook     %s, %zu span%s\n\n", json_text(first, "trace"),
           json_text(first, "start_at"), took, count, count == 1 ? "" : "s");
    print_tree(&waterfall, "", 0);
}

/* ---- Showing one ---- */

int trace_complete_id(const json_t *names, const char *wanted, char ret_id[CLI_TRACE_ID_SIZE],
                      struct error *err)
{
    size_t length = strlen(wanted);
    if (length >= CLI_TRACE_ID_SIZE) {
        return error_set(err, ERROR_INVALID, "%.80s is no trace id of 32 hex digits", wanted);
    }
    if (length == CLI_TRACE_ID_SIZE - 1) {
        snprintf(ret_id, CLI_TRACE_ID_SIZE, "%s", wanted);
        return 0;
    }
    JSON_OWNED json_t *rows = json_array();
    char path[] = "/v1/traces?count=10000";
    struct asking asking = {.path = path, .list = "traces", .rows = rows};
    int r = everywhere_ask(names, ask, &asking, err);
    size_t index = 0;
    json_t *row = NULL;
    ret_id[0] = '\0';
    json_array_foreach(rows, index, row)
    {
        const char *id = json_text(row, "id");
        if (!text_starts_with(id, wanted) || strcmp(id, ret_id) == 0) {
            continue;
        }
        if (ret_id[0] != '\0') {
            return error_set(err, ERROR_INVALID, "the ids of several traces begin with %s", wanted);
        }
        snprintf(ret_id, CLI_TRACE_ID_SIZE, "%s", id);
    }
    if (r == 0 && ret_id[0] == '\0') {
        return error_set(err, ERROR_NOT_FOUND,
                         "no trace that is kept begins with %.40s (see `blixard trace list`)",
                         wanted);
    }
    return r;
}

int verb_trace_show(const struct arguments *arguments, struct error *err)
{
    enum output output = OUTPUT_TABLE;
    JSON_OWNED json_t *names = NULL;
    JSON_OWNED json_t *rows = json_array();
    char wanted[CLI_TRACE_ID_SIZE];
    const char *node = flag_value(arguments, "node");
    int r = output_of(arguments, &output, err);
    r = r < 0 ? r : everywhere_nodes(node, &names, err);
    r = r < 0 ? r : trace_complete_id(names, arguments->words[0], wanted, err);
    if (r < 0) {
        return r;
    }
    MEMORY_OWNED char *path = request_target("traces", wanted, "");
    struct asking asking = {
        .path = path, .list = "spans", .rows = rows, .may_be_absent = node == NULL};
    r = everywhere_ask(names, ask, &asking, err);
    if (r == 0 && json_array_size(rows) == 0) {
        return error_set(err, ERROR_NOT_FOUND,
                         "nothing is kept of trace %.40s: it was not sampled, neither failed nor "
                         "was slow, or newer ones have taken its place (see `blixard trace list`)",
                         wanted);
    }
    if (r == 0 && output != OUTPUT_TABLE) {
        JSON_OWNED json_t *document = json_pack("{s:O}", "spans", rows);
        print_document(document, output);
    } else if (r == 0) {
        print_waterfall(rows);
    }
    return r;
}
