/* Streams, their records, and groups of consumers. */
#include "service/eventstream/eventstream.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/clock.h"
#include "base/memory.h"

#include "surface/api/parts.h"

enum { WAIT_MAX_MS = 20000, READ_DEFAULT = 100, READ_MAX = 1000 };

static struct eventstream_service *streams_of(const struct request *request)
{
    return request->api->options.streams;
}

/* ---- Streams ---- */

void api_stream_list(struct request *request)
{
    BUFFER_OWNED struct buffer body = {0};
    struct error err = {0};
    int r = eventstream_write_list(streams_of(request), request->project, &body, &err);
    api_answer_written(request, r, &body, &err);
}

void api_stream_get(struct request *request)
{
    BUFFER_OWNED struct buffer body = {0};
    struct error err = {0};
    int r = eventstream_write(streams_of(request), request->project, request->parameters[0], &body,
                              &err);
    api_answer_written(request, r, &body, &err);
}

static void on_changed(const struct error *error, void *context)
{
    if (error != NULL) {
        api_answer_error(context, error);
    } else {
        api_stream_get(context);
    }
}

static void on_deleted(const struct error *error, void *context)
{
    if (error != NULL) {
        api_answer_error(context, error);
    } else {
        api_answer_nothing(context);
    }
}

static void take_retention(const json_t *body, struct eventstream_settings *settings)
{
    const json_t *age = json_object_get(body, "retention_ms");
    const json_t *size = json_object_get(body, "retention_bytes");
    if (json_is_integer(age)) {
        settings->retention_ms = (uint64_t)json_integer_value(age);
    }
    if (json_is_integer(size)) {
        settings->retention_bytes = (uint64_t)json_integer_value(size);
    }
}

static void create(struct request *request, const json_t *body)
{
    struct eventstream_settings settings;
    const json_t *partitions = json_object_get(body, "partitions");
    eventstream_settings_init(&settings);
    take_retention(body, &settings);
    if (json_is_integer(partitions)) {
        json_int_t count = json_integer_value(partitions);
        settings.partitions = count <= EVENTSTREAM_PARTITIONS_MAX ? (unsigned)count : UINT32_MAX;
    }
    snprintf(request->parameters[0], sizeof(request->parameters[0]), "%.63s",
             api_body_text(body, "name"));
    eventstream_create(streams_of(request), request->project, api_body_text(body, "name"),
                       &settings, (struct eventstream_reply){on_changed, request});
}

void api_stream_create(struct request *request)
{
    api_body_read(request, "StreamCreate", create);
}

static void update(struct request *request, const json_t *body)
{
    struct eventstream_settings settings;
    struct error err = {0};
    if (eventstream_read_settings(streams_of(request), request->project, request->parameters[0],
                                  &settings, &err) < 0) {
        api_answer_error(request, &err);
        return;
    }
    take_retention(body, &settings);
    eventstream_update(streams_of(request), request->project, request->parameters[0], &settings,
                       (struct eventstream_reply){on_changed, request});
}

void api_stream_update(struct request *request)
{
    api_body_read(request, "StreamUpdate", update);
}

void api_stream_delete(struct request *request)
{
    eventstream_delete(streams_of(request), request->project, request->parameters[0],
                       (struct eventstream_reply){on_deleted, request});
}

/* ---- Appending ---- */

struct outgoing {
    struct eventstream_outgoing *records;
    struct buffer *bodies;
    char **attributes;
    size_t count;
};

static void outgoing_done(struct outgoing *outgoing)
{
    for (size_t i = 0; i < outgoing->count; i++) {
        buffer_done(&outgoing->bodies[i]);
        free(outgoing->attributes[i]);
    }
    free(outgoing->records);
    free(outgoing->bodies);
    free(outgoing->attributes);
}

static int take_record(const json_t *value, struct outgoing *outgoing, size_t place,
                       struct error *err)
{
    struct buffer *body = &outgoing->bodies[place];
    const json_t *attributes = json_object_get(value, "attributes");
    if (api_take_bytes(value, body, err) < 0) {
        return error_wrap(err, "record %zu", place);
    }
    outgoing->attributes[place] =
        json_object_size(attributes) > 0 ? json_dumps(attributes, JSON_COMPACT) : NULL;
    outgoing->records[place] = (struct eventstream_outgoing){
        .body = body->data,
        .length = body->used,
        .key = api_body_text(value, "key"),
        .content_type = api_body_text(value, "content_type"),
        .attributes = outgoing->attributes[place],
    };
    return 0;
}

static void on_appended(const struct error *error, const struct eventstream_place *places,
                        size_t count, void *context)
{
    BUFFER_OWNED struct buffer body = {0};
    struct request *request = context;
    struct json_writer w = json_writer_to(&body);
    if (error != NULL) {
        api_answer_error(request, error);
        return;
    }
    json_write_begin_object(&w);
    json_write_key(&w, "records");
    json_write_begin_array(&w);
    for (size_t i = 0; i < count; i++) {
        json_write_begin_object(&w);
        json_write_field_u64(&w, "partition", places[i].partition);
        json_write_field_u64(&w, "sequence", places[i].sequence);
        json_write_end_object(&w);
    }
    json_write_end_array(&w);
    json_write_end_object(&w);
    api_answer_json(request, request->status, &body);
}

static void append(struct request *request, const json_t *body)
{
    const json_t *values = json_object_get(body, "records");
    struct outgoing outgoing = {.count = json_array_size(values)};
    struct error err = {0};
    int r = 0;
    if (outgoing.count == 0 || outgoing.count > EVENTSTREAM_BATCH_MAX) {
        error_set(&err, ERROR_INVALID, "$.records has 1 to %d records", EVENTSTREAM_BATCH_MAX);
        api_answer_error(request, &err);
        return;
    }
    outgoing.records = memory_new(outgoing.count, sizeof(*outgoing.records));
    outgoing.bodies = memory_new(outgoing.count, sizeof(*outgoing.bodies));
    outgoing.attributes = memory_new(outgoing.count, sizeof(*outgoing.attributes));
    for (size_t i = 0; i < outgoing.count && r == 0; i++) {
        r = take_record(json_array_get(values, i), &outgoing, i, &err);
    }
    if (r < 0) {
        api_answer_error(request, &err);
    } else {
        eventstream_append(streams_of(request), request->project, request->parameters[0],
                           outgoing.records, outgoing.count, on_appended, request);
    }
    outgoing_done(&outgoing);
}

void api_stream_append(struct request *request)
{
    api_body_read(request, "StreamAppend", append);
}

/* ---- Reading ---- */

struct read {
    struct request *request;
    struct eventstream_wait *wait;
    struct eventstream_cursor cursor;
    bool is_of_one; /* partition */
    uint64_t limit;
};

static void write_record(const struct eventstream_record *record, void *context)
{
    struct json_writer *w = context;
    json_write_begin_object(w);
    json_write_field_u64(w, "partition", record->partition);
    json_write_field_u64(w, "sequence", record->sequence);
    json_write_field_time_ms(w, "time", record->time_ms);
    if (record->key != NULL) {
        json_write_field_string(w, "key", record->key);
    }
    api_write_bytes(w, record->body, record->length);
    json_write_field_string(w, "content_type", record->content_type);
    json_write_key(w, "attributes");
    json_write_raw(w, record->attributes, strlen(record->attributes));
    json_write_end_object(w);
}

/* Where to read on, as ?from takes it. */
static void write_cursor(struct json_writer *w, const struct eventstream_cursor *cursor)
{
    BUFFER_OWNED struct buffer text = {0};
    for (unsigned i = 0; i < cursor->count; i++) {
        buffer_append_format(&text, "%s%" PRIu64, i > 0 ? "," : "", cursor->next[i]);
    }
    json_write_field_string(w, "cursor", buffer_string(&text));
}

static void finish_read(struct read *read)
{
    BUFFER_OWNED struct buffer body = {0};
    struct request *request = read->request;
    struct json_writer w = json_writer_to(&body);
    struct error err = {0};
    struct eventstream_cursor *cursor = &read->cursor;
    const char *name = request->parameters[0];
    http_exchange_on(request->exchange, NULL, NULL, NULL);
    request->stop = NULL;
    request->state = NULL;
    json_write_begin_object(&w);
    json_write_key(&w, "records");
    json_write_begin_array(&w);
    int r = eventstream_read(streams_of(request), request->project, name, cursor, read->limit,
                             write_record, &w, &err);
    json_write_end_array(&w);
    write_cursor(&w, cursor);
    struct eventstream_cursor latest = *cursor;
    r = r < 0 ? r
              : eventstream_begin(streams_of(request), request->project, name, EVENTSTREAM_LATEST,
                                  0, &latest, &err);
    uint64_t behind = 0;
    for (unsigned i = 0; i < latest.count; i++) {
        behind += latest.next[i] > cursor->next[i] ? latest.next[i] - cursor->next[i] : 0;
    }
    json_write_field_u64(&w, "behind", behind);
    if (read->is_of_one) {
        json_write_field_u64(&w, "partition", cursor->first);
        json_write_field_u64(&w, "next", cursor->next[0]);
        json_write_field_u64(&w, "latest", latest.next[0]);
    }
    json_write_end_object(&w);
    free(read);
    api_answer_written(request, r, &body, &err);
}

static void on_wait_over(void *context)
{
    struct read *read = context;
    read->wait = NULL;
    finish_read(read);
}

static void on_stop(struct request *request)
{
    struct read *read = request->state;
    eventstream_wait_free(read->wait);
    finish_read(read);
}

static void after_close(void *argument)
{
    finish_read(argument);
}

/* Not from inside: the connection is being closed. */
static void on_close(void *context)
{
    struct read *read = context;
    eventstream_wait_free(read->wait);
    read->request->stop = NULL;
    loop_post(read->request->api->options.loop, after_close, read);
}

/* RFC 3339, milliseconds since 1970 behind an '@', or how long ago. */
static bool parse_time(const char *text, uint64_t *ret_ms)
{
    uint64_t now_ms = clock_real_ms();
    uint64_t ago_ms = 0;
    if (text[0] == '@') {
        return text_parse_u64(text_of(text + 1, strlen(text + 1)), ret_ms);
    }
    if (text_parse_duration_ms(text, &ago_ms)) {
        *ret_ms = now_ms > ago_ms ? now_ms - ago_ms : 0;
        return true;
    }
    return clock_read_ms(text, NULL, ret_ms);
}

/* A sequence, or one for each partition.  False: it is none of both. */
static bool parse_sequences(const char *text, uint64_t *ret_sequences, unsigned *ret_count)
{
    unsigned count = 0;
    for (;;) {
        size_t length = strcspn(text, ",");
        if (count == EVENTSTREAM_PARTITIONS_MAX ||
            !text_parse_u64(text_of(text, length), &ret_sequences[count++])) {
            return false;
        }
        if (text[length] == '\0') {
            *ret_count = count;
            return true;
        }
        text += length + 1;
    }
}

/* `cursor` is at the end. */
static int take_sequences(struct eventstream_cursor *cursor, const uint64_t *sequences,
                          unsigned count, struct error *err)
{
    if (count != cursor->count) {
        return error_set(err, ERROR_INVALID,
                         "a sequence is one of a partition: say which one with ?partition, or give "
                         "the cursor of a read, which has one for each of the %u",
                         cursor->count);
    }
    for (unsigned i = 0; i < count; i++) {
        if (sequences[i] > cursor->next[i]) {
            return error_set(err, ERROR_INVALID,
                             "?from: partition %u ends at %" PRIu64 ", there is no %" PRIu64 " yet",
                             cursor->first + i, cursor->next[i] - 1, sequences[i]);
        }
    }
    memcpy(cursor->next, sequences, count * sizeof(*sequences));
    return 0;
}

static int find_start(struct request *request, struct eventstream_cursor *cursor, const char *from,
                      struct error *err)
{
    uint64_t sequences[EVENTSTREAM_PARTITIONS_MAX];
    unsigned count = 0;
    uint64_t time_ms = 0;
    enum eventstream_start start = EVENTSTREAM_SINCE;
    if (strcasecmp(from, "TRIM_HORIZON") == 0) {
        start = EVENTSTREAM_OLDEST;
    } else if (strcasecmp(from, "LATEST") == 0 || parse_sequences(from, sequences, &count)) {
        start = EVENTSTREAM_LATEST;
    } else if (!parse_time(from, &time_ms)) {
        return error_set(
            err, ERROR_INVALID,
            "?from=%.80s is none of TRIM_HORIZON, LATEST, a time (2026-01-31T12:00:00Z), "
            "how long ago (10m), and a partition's sequence",
            from);
    }
    int r = eventstream_begin(streams_of(request), request->project, request->parameters[0], start,
                              time_ms, cursor, err);
    return r < 0 || count == 0 ? r : take_sequences(cursor, sequences, count, err);
}

static int parse_read(struct request *request, struct read *read, uint64_t *ret_wait_ms,
                      struct error *err)
{
    enum { NUMBERS_SIZE = EVENTSTREAM_PARTITIONS_MAX * 21 };
    char from[NUMBERS_SIZE] = "TRIM_HORIZON";
    char wait[32];
    struct text query = http_exchange_query(request->exchange);
    http_query_get(query, "from", from, sizeof(from));
    uint64_t partition = api_query_u64(request, "partition", UINT64_MAX);
    read->limit = api_query_u64(request, "limit", READ_DEFAULT);
    if (read->limit < 1 || read->limit > READ_MAX) {
        return error_set(err, ERROR_INVALID, "?limit is 1 to %d", READ_MAX);
    }
    if (http_query_get(query, "wait", wait, sizeof(wait)) &&
        (!text_parse_duration_ms(wait, ret_wait_ms) || *ret_wait_ms > WAIT_MAX_MS)) {
        return error_set(err, ERROR_INVALID, "?wait=%s is no time of at most 20s", wait);
    }
    if (partition != UINT64_MAX) {
        read->is_of_one = true;
        read->cursor.first = partition < INT32_MAX ? (unsigned)partition : INT32_MAX;
        read->cursor.count = 1;
    }
    return find_start(request, &read->cursor, from, err);
}

void api_stream_read(struct request *request)
{
    struct error err = {0};
    uint64_t wait_ms = 0;
    struct read *read = NEW(struct read);
    read->request = request;
    if (parse_read(request, read, &wait_ms, &err) < 0) {
        free(read);
        api_answer_error(request, &err);
    } else if (wait_ms == 0) {
        finish_read(read);
    } else {
        request->state = read;
        request->stop = on_stop;
        http_exchange_on(request->exchange, NULL, on_close, read);
        read->wait =
            eventstream_wait_new(streams_of(request), request->project, request->parameters[0],
                                 &read->cursor, wait_ms, on_wait_over, read);
    }
}

/* ---- Groups ---- */

void api_checkpoint_list(struct request *request)
{
    BUFFER_OWNED struct buffer body = {0};
    struct error err = {0};
    int r = eventstream_write_group(streams_of(request), request->project, request->parameters[0],
                                    request->parameters[1], &body, &err);
    api_answer_written(request, r, &body, &err);
}

static void on_checkpoint(const struct error *error, void *context)
{
    if (error != NULL) {
        api_answer_error(context, error);
    } else {
        api_checkpoint_list(context);
    }
}

static void set_checkpoint(struct request *request, const json_t *body)
{
    json_int_t partition = json_integer_value(json_object_get(body, "partition"));
    eventstream_set_checkpoint(streams_of(request), request->project, request->parameters[0],
                               request->parameters[1],
                               partition < UINT32_MAX ? (unsigned)partition : UINT32_MAX,
                               (uint64_t)json_integer_value(json_object_get(body, "sequence")),
                               (uint64_t)json_integer_value(json_object_get(body, "expected")),
                               (struct eventstream_reply){on_checkpoint, request});
}

void api_checkpoint_set(struct request *request)
{
    api_body_read(request, "StreamCheckpoint", set_checkpoint);
}

void api_group_delete(struct request *request)
{
    eventstream_forget_group(streams_of(request), request->project, request->parameters[0],
                             request->parameters[1],
                             (struct eventstream_reply){on_deleted, request});
}
