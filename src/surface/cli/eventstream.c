/* Verbs about streams of records. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/http/http.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"

#include "surface/cli/payload.h"

#define COUNT(list) (sizeof(list) / sizeof((list)[0]))

enum { APPEND_AT_ONCE = 500, APPEND_BYTES = 512 << 10, READ_DEFAULT = 100 };

static const struct payload_flag settings[] = {
    {"partitions", "partitions", FLAG_COUNT},
    {"retention", "retention_ms", FLAG_DURATION},
    {"retention-bytes", "retention_bytes", FLAG_SIZE},
};

/* ---- Streams ---- */

int verb_stream_create(const struct arguments *arguments, struct error *err)
{
    JSON_OWNED json_t *body = json_pack("{s:s}", "name", arguments->words[0]);
    JSON_OWNED json_t *stream = NULL;
    int r = payload_take_flags(arguments, settings, COUNT(settings), body, err);
    r = r < 0 ? r : request_send("POST", "/v1/streams", body, &stream, err);
    return r < 0 ? r
                 : print_done(arguments, stream, err, "stream %s is there", arguments->words[0]);
}

int verb_stream_update(const struct arguments *arguments, struct error *err)
{
    JSON_OWNED json_t *body = json_object();
    JSON_OWNED json_t *stream = NULL;
    MEMORY_OWNED char *target = request_target("streams", arguments->words[0], "");
    int r = payload_take_flags(arguments, settings, COUNT(settings), body, err);
    if (r == 0 && json_object_size(body) == 0) {
        return error_set(err, ERROR_INVALID, "say what to change, for example --retention 7d");
    }
    r = r < 0 ? r : request_send("PATCH", target, body, &stream, err);
    return r < 0 ? r
                 : print_done(arguments, stream, err, "stream %s is changed", arguments->words[0]);
}

int verb_stream_delete(const struct arguments *arguments, struct error *err)
{
    MEMORY_OWNED char *target = request_target("streams", arguments->words[0], "");
    int r = request_json("DELETE", target, NULL, NULL, err);
    if (r < 0) {
        return r;
    }
    JSON_OWNED json_t *document = json_pack("{s:s}", "deleted", arguments->words[0]);
    return print_done(arguments, document, err, "deleted stream %s", arguments->words[0]);
}

static int get(const struct arguments *arguments, const char *target, json_t **ret_document,
               enum output *ret_output, struct error *err)
{
    *ret_output = OUTPUT_TABLE;
    int r = output_of(arguments, ret_output, err);
    r = r < 0 ? r : request_json("GET", target, NULL, ret_document, err);
    if (r == 0 && *ret_output != OUTPUT_TABLE) {
        print_document(*ret_document, *ret_output);
    }
    return r;
}

int verb_stream_list(const struct arguments *arguments, struct error *err)
{
    static const struct column columns[] = {
        {"STREAM", "name", AS_TEXT},          {"PARTITIONS", "count", AS_TEXT},
        {"RECORDS", "records", AS_TEXT},      {"SIZE", "bytes", AS_BYTES},
        {"RETENTION", "retention_ms", AS_MS}, {"MOST", "retention_bytes", AS_BYTES},
        {"CREATED", "created_at", AS_TEXT},
    };
    JSON_OWNED json_t *document = NULL;
    enum output output;
    int r = get(arguments, "/v1/streams", &document, &output, err);
    json_t *streams = json_object_get(document, "streams");
    size_t index = 0;
    json_t *stream = NULL;
    if (r < 0 || output != OUTPUT_TABLE) {
        return r;
    }
    json_array_foreach(streams, index, stream)
    {
        size_t count = json_array_size(json_object_get(stream, "partitions"));
        json_object_set_new(stream, "count", json_integer((json_int_t)count));
    }
    print_table(streams, columns, COUNT(columns));
    return 0;
}

int verb_stream_get(const struct arguments *arguments, struct error *err)
{
    static const struct column facts[] = {
        {"name", "name", AS_TEXT},
        {"records", "records", AS_TEXT},
        {"size", "bytes", AS_BYTES},
        {"retention", "retention_ms", AS_MS},
        {"most", "retention_bytes", AS_BYTES},
        {"created", "created_at", AS_TEXT},
    };
    static const struct column partitions[] = {
        {"PARTITION", "partition", AS_TEXT}, {"FIRST", "first", AS_TEXT}, {"NEXT", "next", AS_TEXT},
        {"RECORDS", "records", AS_TEXT},     {"SIZE", "bytes", AS_BYTES},
    };
    static const struct column groups[] = {{"GROUP", "name", AS_TEXT}, {"LAG", "lag", AS_TEXT}};
    JSON_OWNED json_t *document = NULL;
    enum output output;
    MEMORY_OWNED char *target = request_target("streams", arguments->words[0], "");
    int r = get(arguments, target, &document, &output, err);
    if (r < 0 || output != OUTPUT_TABLE) {
        return r;
    }
    print_facts(document, facts, COUNT(facts));
    putchar('\n');
    print_table(json_object_get(document, "partitions"), partitions, COUNT(partitions));
    if (json_array_size(json_object_get(document, "groups")) > 0) {
        putchar('\n');
        print_table(json_object_get(document, "groups"), groups, COUNT(groups));
    }
    return 0;
}

/* ---- Appending ---- */

static const struct payload_flag record_flags[] = {{"key", "key", FLAG_TEXT}};

int verb_stream_append(const struct arguments *arguments, struct error *err)
{
    BUFFER_OWNED struct buffer input = {0};
    JSON_OWNED json_t *places = json_array();
    MEMORY_OWNED char *target = request_target("streams", arguments->words[0], "/records");
    int r = payload_read(arguments, &input, err);
    const struct payload_batch batch = {
        .target = target,
        .member = "records",
        .done = "records were appended",
        .count_max = APPEND_AT_ONCE,
        .bytes_max = APPEND_BYTES,
        .flags = record_flags,
        .flag_count = COUNT(record_flags),
    };
    r = r < 0 ? r : payload_send_all(arguments, &batch, &input, places, err);
    if (r < 0) {
        return r;
    }
    JSON_OWNED json_t *document = json_pack("{s:O}", "records", places);
    const json_t *first = json_array_get(places, 0);
    if (json_array_size(places) != 1) {
        return print_done(arguments, document, err, "appended %zu records",
                          json_array_size(places));
    }
    return print_done(arguments, document, err,
                      "appended at partition %" PRIu64 ", sequence %" PRIu64,
                      (uint64_t)json_integer_value(json_object_get(first, "partition")),
                      (uint64_t)json_integer_value(json_object_get(first, "sequence")));
}

/* ---- Reading ---- */

/* What the node says of one partition; its records say which it is, too. */
static int read_partition(const struct arguments *arguments, const char *partition,
                          json_t **ret_document, struct error *err)
{
    static const char *const names[] = {"from", "limit", "wait"};
    BUFFER_OWNED struct buffer target = {0};
    MEMORY_OWNED char *path = request_target("streams", arguments->words[0], "/records");
    buffer_append_string(&target, path);
    request_add_query(&target, "partition", partition);
    for (size_t i = 0; i < COUNT(names); i++) {
        request_add_query(&target, names[i], flag_value(arguments, names[i]));
    }
    int r = request_json("GET", buffer_string(&target), NULL, ret_document, err);
    size_t index = 0;
    json_t *record = NULL;
    json_array_foreach(json_object_get(*ret_document, "records"), index, record)
    {
        json_object_set(record, "partition", json_object_get(*ret_document, "partition"));
    }
    return r;
}

static int compare(const void *a, const void *b)
{
    const json_t *left = *(json_t *const *)a;
    const json_t *right = *(json_t *const *)b;
    int by_time = strcmp(json_text(left, "time"), json_text(right, "time"));
    uint64_t l = json_u64(left, "partition");
    uint64_t r = json_u64(right, "partition");
    if (l == r) {
        l = json_u64(left, "sequence");
        r = json_u64(right, "sequence");
    }
    return by_time != 0 ? by_time : (l > r) - (l < r);
}

/* The first --limit records of all partitions, by their times. */
static int read_partitions(const struct arguments *arguments, size_t count, json_t **ret_document,
                           struct error *err)
{
    const char *limit = flag_value(arguments, "limit");
    uint64_t most = READ_DEFAULT;
    JSON_OWNED json_t *all = json_array();
    int r = 0;
    if (limit != NULL && !text_parse_u64(text_of(limit, strlen(limit)), &most)) {
        return error_set(err, ERROR_INVALID, "--limit %.40s is no number", limit);
    }
    for (size_t i = 0; i < count && r == 0; i++) {
        JSON_OWNED json_t *document = NULL;
        MEMORY_OWNED char *partition = memory_format("%zu", i);
        r = read_partition(arguments, partition, &document, err);
        json_array_extend(all, json_object_get(document, "records"));
    }
    json_t *sorted = rows_sort(all, compare);
    while (json_array_size(sorted) > most) {
        json_array_remove(sorted, json_array_size(sorted) - 1);
    }
    *ret_document = json_pack("{s:o}", "records", sorted);
    return r;
}

/* --partition, or the only one there is; otherwise all. */
static int read_records(const struct arguments *arguments, json_t **ret_document, struct error *err)
{
    const char *partition = flag_value(arguments, "partition");
    const char *from = flag_value(arguments, "from");
    JSON_OWNED json_t *stream = NULL;
    uint64_t sequence = 0;
    if (partition != NULL) {
        return read_partition(arguments, partition, ret_document, err);
    }
    MEMORY_OWNED char *target = request_target("streams", arguments->words[0], "");
    int r = request_json("GET", target, NULL, &stream, err);
    size_t count = json_array_size(json_object_get(stream, "partitions"));
    bool is_of_one = flag_value(arguments, "wait") != NULL ||
        (from != NULL && text_parse_u64(text_of(from, strlen(from)), &sequence));
    if (r == 0 && count > 1 && is_of_one) {
        return error_set(err, ERROR_INVALID,
                         "a sequence, and --wait, are of one partition: say which, --partition 0 "
                         "to %zu",
                         count - 1);
    }
    if (r < 0) {
        return r;
    }
    return count == 1 ? read_partition(arguments, "0", ret_document, err)
                      : read_partitions(arguments, count, ret_document, err);
}

int verb_stream_read(const struct arguments *arguments, struct error *err)
{
    static const struct column columns[] = {
        {"PARTITION", "partition", AS_TEXT}, {"SEQUENCE", "sequence", AS_TEXT},
        {"TIME", "time", AS_TEXT},           {"KEY", "key", AS_TEXT},
        {"BODY", "shown", AS_TEXT},
    };
    JSON_OWNED json_t *document = NULL;
    enum output output = OUTPUT_TABLE;
    size_t index = 0;
    json_t *record = NULL;
    int r = output_of(arguments, &output, err);
    r = r < 0 ? r : read_records(arguments, &document, err);
    if (r < 0) {
        return r;
    }
    if (output != OUTPUT_TABLE) {
        print_document(document, output);
        return 0;
    }
    json_array_foreach(json_object_get(document, "records"), index, record)
    {
        payload_describe(record);
    }
    print_table(json_object_get(document, "records"), columns, COUNT(columns));
    return 0;
}

/* ---- Groups ---- */

static int show_group(const struct arguments *arguments, const char *target, struct error *err)
{
    static const struct column columns[] = {
        {"PARTITION", "partition", AS_TEXT},
        {"SEQUENCE", "sequence", AS_TEXT},
        {"LAG", "lag", AS_TEXT},
    };
    JSON_OWNED json_t *document = NULL;
    enum output output;
    int r = get(arguments, target, &document, &output, err);
    if (r == 0 && output == OUTPUT_TABLE) {
        print_table(json_object_get(document, "checkpoints"), columns, COUNT(columns));
    }
    return r;
}

int verb_stream_checkpoint(const struct arguments *arguments, struct error *err)
{
    static const struct payload_flag flags[] = {
        {"partition", "partition", FLAG_COUNT},
        {"sequence", "sequence", FLAG_COUNT},
        {"expected", "expected", FLAG_COUNT},
    };
    BUFFER_OWNED struct buffer rest = {0};
    JSON_OWNED json_t *body = json_pack("{s:i}", "partition", 0);
    JSON_OWNED json_t *group = NULL;
    buffer_append_string(&rest, "/groups/");
    http_percent_encode(&rest, text_of(arguments->words[1], strlen(arguments->words[1])));
    MEMORY_OWNED char *target =
        request_target("streams", arguments->words[0], buffer_string(&rest));
    if (flag_value(arguments, "forget") != NULL) {
        int r = request_json("DELETE", target, NULL, NULL, err);
        JSON_OWNED json_t *done = json_pack("{s:s}", "forgotten", arguments->words[1]);
        return r < 0 ? r : print_done(arguments, done, err, "forgot %s", arguments->words[1]);
    }
    if (flag_value(arguments, "sequence") == NULL) {
        return show_group(arguments, target, err);
    }
    int r = payload_take_flags(arguments, flags, COUNT(flags), body, err);
    r = r < 0 ? r : request_send("PUT", target, body, &group, err);
    return r < 0 ? r
                 : print_done(arguments, group, err, "%s is done with %s of partition %" PRIu64,
                              arguments->words[1], flag_value(arguments, "sequence"),
                              (uint64_t)json_integer_value(json_object_get(body, "partition")));
}
