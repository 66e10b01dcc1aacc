/*
 * What a function wrote to standard error.  Each node keeps what was written on it: without --node
 * all of them are asked, by way of the one that the command talks to.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"

#include "surface/cli/private.h"

/* What is asked for. */
struct wanted {
    const char *function;
    uint64_t tail;
    const char *trace; /* NULL: any */
};

static char *target_of(const struct wanted *wanted, const char *node, bool follow)
{
    BUFFER_OWNED struct buffer target = {0};
    MEMORY_OWNED char *path = request_target("functions", wanted->function, "/logs");
    buffer_append_format(&target, "%s?tail=%" PRIu64, path, wanted->tail);
    request_add_query(&target, "trace", wanted->trace);
    request_add_query(&target, "follow", follow ? "true" : NULL);
    request_add_query(&target, "node", node);
    return buffer_take(&target);
}

/* ---- Lines ---- */

static int node_width; /* 0: the lines do not say where they come from */

static void print_line(const json_t *line, const char *node)
{
    if (node_width > 0) {
        printf("%-*s ", node_width, node);
    }
    printf("%s %-5s %.8s %s\n", json_text(line, "time"), json_text(line, "level"),
           json_text(line, "request_id"), json_text(line, "text"));
}

static void print_json_line(const json_t *line, const char *node)
{
    JSON_OWNED json_t *with_node = json_copy((json_t *)(uintptr_t)line);
    json_object_set_new(with_node, "node", json_string(node));
    char *text = json_dumps(with_node, JSON_COMPACT);
    puts(text);
    free(text);
}

static int compare(const void *a, const void *b)
{
    const json_t *left = *(json_t *const *)a;
    const json_t *right = *(json_t *const *)b;
    int by_time = strcmp(json_text(left, "time"), json_text(right, "time"));
    int by_node = strcmp(json_text(left, "node"), json_text(right, "node"));
    json_int_t earlier = json_integer_value(json_object_get(left, "sequence"));
    json_int_t later = json_integer_value(json_object_get(right, "sequence"));
    return by_time != 0 ? by_time : by_node != 0 ? by_node : (earlier > later) - (earlier < later);
}

/* The last `tail` of all, by the clocks of the nodes that wrote them. */
static json_t *merge(const json_t *lines, uint64_t tail)
{
    JSON_OWNED json_t *sorted = rows_sort(lines, compare);
    size_t count = json_array_size(sorted);
    json_t *merged = json_array();
    for (size_t i = count > tail ? count - tail : 0; i < count; i++) {
        json_array_append(merged, json_array_get(sorted, i));
    }
    return merged;
}

/* ---- What there is ---- */

struct reading {
    const struct wanted *wanted;
    json_t *lines;
};

static int read_node(const char *node, void *context, struct error *err)
{
    const struct reading *reading = context;
    JSON_OWNED json_t *document = NULL;
    MEMORY_OWNED char *target = target_of(reading->wanted, node, false);
    int r = request_json("GET", target, NULL, &document, err);
    if (r < 0) {
        return r;
    }
    size_t index = 0;
    json_t *line = NULL;
    json_array_foreach(json_object_get(document, "lines"), index, line)
    {
        json_object_set_new(line, "node", json_string(node));
        json_array_append(reading->lines, line);
    }
    return 0;
}

static int show(const struct wanted *wanted, const json_t *names, enum output output,
                struct error *err)
{
    JSON_OWNED json_t *lines = json_array();
    struct reading reading = {.wanted = wanted, .lines = lines};
    int r = everywhere_ask(names, read_node, &reading, err);
    if (r < 0) {
        return r;
    }
    json_t *merged = merge(lines, wanted->tail);
    JSON_OWNED json_t *document = json_pack("{s:o}", "lines", merged);
    if (output != OUTPUT_TABLE) {
        print_document(document, output);
        return 0;
    }
    size_t index = 0;
    json_t *line = NULL;
    json_array_foreach(merged, index, line)
    {
        print_line(line, json_text(line, "node"));
    }
    return 0;
}

/* ---- What comes ---- */

static int follow(const struct wanted *wanted, const json_t *names, enum output output,
                  struct error *err)
{
    size_t count = json_array_size(names);
    struct event_source *sources = memory_new(count + 1, sizeof(struct event_source));
    for (size_t i = 0; i < count; i++) {
        const char *name = json_string_value(json_array_get(names, i));
        sources[i] = (struct event_source){target_of(wanted, name, true), name};
    }
    int r = request_events_of_all(sources, count,
                                  output == OUTPUT_TABLE ? print_line : print_json_line, err);
    for (size_t i = 0; i < count; i++) {
        free(sources[i].target);
    }
    free(sources);
    return r;
}

int verb_fn_logs(const struct arguments *arguments, struct error *err)
{
    JSON_OWNED json_t *names = NULL;
    enum output output = OUTPUT_TABLE;
    const char *tail = flag_value(arguments, "tail");
    const char *trace = flag_value(arguments, "trace");
    char id[CLI_TRACE_ID_SIZE];
    struct wanted wanted = {
        .function = arguments->words[0], .tail = 100, .trace = trace != NULL ? id : NULL};
    if (tail != NULL && !text_parse_u64(text_of(tail, strlen(tail)), &wanted.tail)) {
        return error_set(err, ERROR_INVALID, "--tail %.40s is not a number", tail);
    }
    int r = output_of(arguments, &output, err);
    r = r < 0 ? r : everywhere_nodes(flag_value(arguments, "node"), &names, err);
    r = r < 0 || trace == NULL ? r : trace_complete_id(names, trace, id, err);
    if (r < 0) {
        return r;
    }
    for (size_t i = 0; json_array_size(names) > 1 && i < json_array_size(names); i++) {
        int length = (int)json_string_length(json_array_get(names, i));
        node_width = length > node_width ? length : node_width;
    }
    return flag_value(arguments, "follow") != NULL ? follow(&wanted, names, output, err)
                                                   : show(&wanted, names, output, err);
}
