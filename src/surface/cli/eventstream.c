/* Verbs about streams of records. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/base64.h"
#include "base/http/http.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"

#include "surface/cli/payload.h"

#define COUNT(list) (sizeof(list) / sizeof((list)[0]))

enum { APPEND_AT_ONCE = 500, APPEND_BYTES = 512 << 10 };

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

enum { PAGE_MAX = 1000 };

struct reading {
    const struct arguments *arguments;
    enum output output;
    bool is_raw;
    bool follows;
    bool is_cut_off; /* nobody answers, which was told */
    uint64_t left;   /* records that are still wanted */
    char *cursor;    /* where to read on; NULL: at --from */
    json_t *records; /* of a document */
};

static int read_page(struct reading *reading, json_t **ret_document, struct error *err)
{
    const struct arguments *arguments = reading->arguments;
    BUFFER_OWNED struct buffer rest = {0};
    buffer_append_format(&rest, "/records?limit=%" PRIu64,
                         reading->left < PAGE_MAX ? reading->left : PAGE_MAX);
    request_add_query(&rest, "partition", flag_value(arguments, "partition"));
    request_add_query(&rest, "from",
                      reading->cursor != NULL ? reading->cursor : flag_value(arguments, "from"));
    request_add_query(&rest, "wait", reading->follows ? "20s" : flag_value(arguments, "wait"));
    MEMORY_OWNED char *target =
        request_target("streams", arguments->words[0], buffer_string(&rest));
    int r = request_json("GET", target, NULL, ret_document, err);
    if (r == 0) {
        free(reading->cursor);
        reading->cursor = memory_copy_string(json_text(*ret_document, "cursor"));
    }
    return r;
}

static void print_raw(const json_t *record)
{
    const char *text = json_string_value(json_object_get(record, "body"));
    const char *encoded = json_text(record, "body_base64");
    BUFFER_OWNED struct buffer bytes = {0};
    if (text != NULL) {
        buffer_append_string(&bytes, text);
    } else {
        base64_read(encoded, strlen(encoded), &bytes);
    }
    buffer_append_string(&bytes, "\n");
    fwrite(bytes.data, 1, bytes.used, stdout);
}

#define RECORD_FORMAT "%-24s  %9s  %8s  %-12s  %s\n"

static void print_row(json_t *record)
{
    uint64_t partition = json_u64(record, "partition");
    uint64_t sequence = json_u64(record, "sequence");
    const char *key = json_string_value(json_object_get(record, "key"));
    MEMORY_OWNED char *where = memory_format("%" PRIu64, partition);
    MEMORY_OWNED char *which = memory_format("%" PRIu64, sequence);
    payload_describe(record);
    printf(RECORD_FORMAT, json_text(record, "time"), where, which, key != NULL ? key : "-",
           json_text(record, "shown"));
}

static void show_record(const struct reading *reading, json_t *record)
{
    if (reading->is_raw) {
        print_raw(record);
    } else if (reading->output == OUTPUT_TABLE) {
        print_row(record);
    } else if (reading->follows) {
        char *text = json_dumps(record, JSON_COMPACT);
        puts(text);
        free(text);
    } else {
        json_array_append(reading->records, record);
    }
}

/* Who follows goes on when there is a node again, where it was. */
static bool tries_again(struct reading *reading, const struct error *error)
{
    const struct timespec pause = {.tv_sec = 1};
    if (!reading->follows || reading->cursor == NULL || error->kind != ERROR_UNAVAILABLE) {
        return false;
    }
    if (!reading->is_cut_off) {
        fprintf(stderr, "blixard: %s; trying again\n", error->text);
    }
    reading->is_cut_off = true;
    nanosleep(&pause, NULL);
    return true;
}

/* To the end, or for ever. */
static int read_pages(struct reading *reading, struct error *err)
{
    for (bool goes_on = true; goes_on;) {
        JSON_OWNED json_t *page = NULL;
        size_t index = 0;
        json_t *record = NULL;
        bool is_first = reading->cursor == NULL;
        int r = read_page(reading, &page, err);
        if (r < 0 && tries_again(reading, err)) {
            continue;
        }
        if (r < 0) {
            return r;
        }
        reading->is_cut_off = false;
        const json_t *records = json_object_get(page, "records");
        if (is_first && reading->output == OUTPUT_TABLE && !reading->is_raw) {
            printf(RECORD_FORMAT, "TIME", "PARTITION", "SEQUENCE", "KEY", "BODY");
        }
        json_array_foreach(records, index, record)
        {
            show_record(reading, record);
        }
        reading->left -= json_array_size(records);
        goes_on = print_flush() == 0 && reading->left > 0 &&
            (reading->follows || json_u64(page, "behind") > 0);
    }
    return 0;
}

static int parse_reading(struct reading *reading, struct error *err)
{
    const struct arguments *arguments = reading->arguments;
    const char *limit = flag_value(arguments, "limit");
    int r = output_of(arguments, &reading->output, err);
    reading->is_raw = flag_value(arguments, "raw") != NULL;
    reading->follows = flag_value(arguments, "follow") != NULL;
    if (r == 0 && limit != NULL &&
        (!text_parse_u64(text_of(limit, strlen(limit)), &reading->left) || reading->left == 0)) {
        return error_set(err, ERROR_INVALID, "--limit %.40s is no number of at least 1", limit);
    }
    if (r == 0 && reading->follows && flag_value(arguments, "wait") != NULL) {
        return error_set(err, ERROR_INVALID, "--follow waits for ever: what is --wait to do?");
    }
    if (r == 0 && reading->is_raw && flag_value(arguments, "output") != NULL) {
        return error_set(err, ERROR_INVALID, "--raw is an output of its own: without --output");
    }
    return r;
}

int verb_stream_read(const struct arguments *arguments, struct error *err)
{
    JSON_OWNED json_t *document = json_pack("{s:[]}", "records");
    struct reading reading = {.arguments = arguments,
                              .output = OUTPUT_TABLE,
                              .left = INT64_MAX,
                              .records = json_object_get(document, "records")};
    int r = parse_reading(&reading, err);
    r = r < 0 ? r : read_pages(&reading, err);
    if (r == 0 && reading.output != OUTPUT_TABLE && !reading.is_raw && !reading.follows) {
        json_object_set_new(document, "cursor", json_string(reading.cursor));
        print_document(document, reading.output);
    }
    free(reading.cursor);
    return r;
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
