/* Verbs about operations, the node and its events. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"

#include "surface/cli/private.h"

#define COUNT(list) (sizeof(list) / sizeof((list)[0]))

static void show_progress(const json_t *operation, uint64_t begin_ms)
{
    if (isatty(STDERR_FILENO)) {
        MEMORY_OWNED char *text = memory_copy_string(json_text(operation, "text"));
        fprintf(stderr, "\r\033[K%3d%% %.90s, %" PRIu64 " s",
                (int)json_integer_value(json_object_get(operation, "progress")),
                text_make_printable(text, false), (clock_monotonic_ms() - begin_ms) / 1000);
    }
}

/* What an operation that has ended says. */
static int judge(const json_t *operation, struct error *err)
{
    if (strcmp(json_text(operation, "state"), "succeeded") == 0) {
        return 0;
    }
    enum error_kind kind = error_kind_parse(json_text(operation, "error_code"));
    const char *text = json_text(operation, "error");
    return error_set(err, kind != ERROR_NONE ? kind : ERROR_CANCELLED, "%s",
                     text[0] != '\0' ? text : json_text(operation, "state"));
}

int patience_of(const struct arguments *arguments, uint64_t *ret_end_ms, struct error *err)
{
    const char *limit = flag_value(arguments, "timeout");
    uint64_t limit_ms = 0;
    if (limit != NULL && !text_parse_duration_ms(limit, &limit_ms)) {
        return error_set(err, ERROR_INVALID, "--timeout %.40s is no time (for example 30s)", limit);
    }
    uint64_t now_ms = clock_monotonic_ms();
    *ret_end_ms = limit != NULL && limit_ms < UINT64_MAX - now_ms ? now_ms + limit_ms : UINT64_MAX;
    return 0;
}

uint64_t patience_turn_ms(uint64_t end_ms, uint64_t most_ms)
{
    uint64_t now_ms = clock_monotonic_ms();
    uint64_t left_ms = end_ms > now_ms ? end_ms - now_ms : 1;
    return left_ms < most_ms ? left_ms : most_ms;
}

static int wait_until(const char *id, uint64_t end_ms, json_t **ret_operation, struct error *err)
{
    uint64_t turn_ms = isatty(STDERR_FILENO) ? 1000 : 60000;
    interrupt_says(memory_format("the node goes on with it: blixard operation wait %s", id));
    uint64_t begin_ms = clock_monotonic_ms();
    for (;;) {
        JSON_OWNED json_t *operation = NULL;
        MEMORY_OWNED char *rest =
            memory_format("/wait?timeout=%" PRIu64 "ms", patience_turn_ms(end_ms, turn_ms));
        MEMORY_OWNED char *target = request_target("operations", id, rest);
        int r = request_json("GET", target, NULL, &operation, err);
        if (r < 0) {
            return r;
        }
        const char *state = json_text(operation, "state");
        bool is_under_way = strcmp(state, "running") == 0 || strcmp(state, "pending") == 0;
        if (is_under_way && clock_monotonic_ms() < end_ms) {
            show_progress(operation, begin_ms);
            continue;
        }
        if (isatty(STDERR_FILENO)) {
            fprintf(stderr, "\r\033[K");
        }
        interrupt_says(NULL);
        if (is_under_way) {
            return error_set(err, ERROR_TIMEOUT,
                             "operation %s is still %s; the node goes on with it", id, state);
        }
        if (ret_operation != NULL) {
            *ret_operation = json_incref(operation);
        }
        return judge(operation, err);
    }
}

int operation_wait_for(const char *id, json_t **ret_operation, struct error *err)
{
    return wait_until(id, UINT64_MAX, ret_operation, err);
}

static const struct column facts[] = {
    {"id", "id", AS_TEXT},
    {"kind", "kind", AS_TEXT},
    {"resource", "resource", AS_TEXT},
    {"state", "state", AS_TEXT},
    {"progress", "progress", AS_TEXT},
    {"text", "text", AS_TEXT},
    {"error", "error", AS_TEXT},
    {"created", "created_at", AS_TEXT},
    {"updated", "updated_at", AS_TEXT},
};

static int get(const char *target, json_t **ret_document, const struct arguments *arguments,
               enum output *ret_output, struct error *err)
{
    int r = output_of(arguments, ret_output, err);
    return r < 0 ? r : request_json("GET", target, NULL, ret_document, err);
}

int verb_operation_list(const struct arguments *arguments, struct error *err)
{
    static const struct column columns[] = {
        {"ID", "id", AS_TEXT},       {"KIND", "kind", AS_TEXT},  {"RESOURCE", "resource", AS_TEXT},
        {"STATE", "state", AS_TEXT}, {"PHASE", "text", AS_TEXT}, {"UPDATED", "updated_at", AS_TEXT},
        {"ERROR", "error", AS_TEXT},
    };
    JSON_OWNED json_t *document = NULL;
    enum output output = OUTPUT_TABLE;
    int r = get("/v1/operations", &document, arguments, &output, err);
    if (r < 0) {
        return r;
    }
    if (output == OUTPUT_TABLE) {
        print_table(json_object_get(document, "operations"), columns, COUNT(columns));
    } else {
        print_document(document, output);
    }
    return 0;
}

int verb_operation_get(const struct arguments *arguments, struct error *err)
{
    JSON_OWNED json_t *document = NULL;
    enum output output = OUTPUT_TABLE;
    MEMORY_OWNED char *target = request_target("operations", arguments->words[0], "");
    int r = get(target, &document, arguments, &output, err);
    if (r < 0) {
        return r;
    }
    if (output == OUTPUT_TABLE) {
        print_facts(document, facts, COUNT(facts));
    } else {
        print_document(document, output);
    }
    return 0;
}

int verb_operation_wait(const struct arguments *arguments, struct error *err)
{
    JSON_OWNED json_t *document = NULL;
    enum output output = OUTPUT_TABLE;
    uint64_t end_ms = 0;
    int r = output_of(arguments, &output, err);
    r = r < 0 ? r : patience_of(arguments, &end_ms, err);
    r = r < 0 ? r : wait_until(arguments->words[0], end_ms, &document, err);
    if (document != NULL && output != OUTPUT_TABLE) {
        print_document(document, output);
    } else if (document != NULL) {
        print_facts(document, facts, COUNT(facts));
    }
    return r;
}

int verb_operation_cancel(const struct arguments *arguments, struct error *err)
{
    const char *id = arguments->words[0];
    MEMORY_OWNED char *target = request_target("operations", id, "");
    int r = request_json("DELETE", target, NULL, NULL, err);
    if (r < 0) {
        return r;
    }
    JSON_OWNED json_t *document = json_pack("{s:s}", "cancelled", id);
    return print_done(arguments, document, err, "cancelled %s", id);
}

void node_print_runners(const json_t *node)
{
    static const struct column columns[] = {
        {"RUNNER", "pid", AS_TEXT},          {"PROJECT", "project", AS_TEXT},
        {"ISOLATION", "isolation", AS_TEXT}, {"JAIL", "jail", AS_TEXT},
        {"SLOTS", "slots", AS_TEXT},         {"BUSY", "busy", AS_TEXT},
        {"IMAGES", "images", AS_TEXT},
    };
    const json_t *runners = json_object_get(node, "runners");
    if (json_array_size(runners) > 0) {
        putchar('\n');
        print_table(runners, columns, COUNT(columns));
    }
}

int verb_node_show(const struct arguments *arguments, struct error *err)
{
    static const struct column columns[] = {
        {"name", "name", AS_TEXT},
        {"version", "version", AS_TEXT},
        {"isolation", "isolation", AS_TEXT},
        {"why", "isolation_reason", AS_TEXT},
        {"API", "api", AS_TEXT},
        {"gateway", "gateway", AS_TEXT},
        {"data", "data_folder", AS_TEXT},
        {"index", "store_index", AS_TEXT},
        {"term", "store_term", AS_TEXT},
        {"functions", "functions", AS_TEXT},
        {"images", "image_cache.images", AS_TEXT},
        {"images take", "image_cache.bytes", AS_BYTES},
        {"at most", "image_cache.bytes_max", AS_BYTES},
        {"evicted", "image_cache.evictions", AS_TEXT},
        {"instances", "pool.instances", AS_TEXT},
        {"ready", "pool.ready", AS_TEXT},
        {"busy", "pool.busy", AS_TEXT},
        {"warm starts", "pool.starts_warm", AS_TEXT},
        {"cold starts", "pool.starts_cold", AS_TEXT},
        {"started", "started_at", AS_TEXT},
    };
    JSON_OWNED json_t *document = NULL;
    enum output output = OUTPUT_TABLE;
    if (arguments->word_count > 0) {
        return cluster_show_node(arguments, arguments->words[0], err);
    }
    int r = get("/v1/node", &document, arguments, &output, err);
    if (r < 0) {
        return r;
    }
    if (output != OUTPUT_TABLE) {
        print_document(document, output);
        return 0;
    }
    print_facts(document, columns, COUNT(columns));
    node_print_runners(document);
    return 0;
}

static void print_event(const json_t *event, const char *label)
{
    (void)label;
    char *text = json_dumps(event, JSON_COMPACT);
    puts(text);
    free(text);
}

int verb_events(const struct arguments *arguments, struct error *err)
{
    const char *index = flag_value(arguments, "index");
    uint64_t number = 0;
    if (index != NULL && !text_parse_u64(text_of(index, strlen(index)), &number)) {
        return error_set(err, ERROR_INVALID, "--index %.40s is not a number", index);
    }
    MEMORY_OWNED char *resume = memory_format("/v1/events?index=%" PRIu64, number);
    return request_events(index != NULL ? resume : "/v1/events", print_event, err);
}
