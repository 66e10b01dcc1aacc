/* Streams, their records, and groups of consumers. */
#include "service/eventstream/eventstream.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

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
    unsigned partition;
    uint64_t sequence;
    uint64_t limit;
};

struct writing {
    struct json_writer writer;
    uint64_t next;
};

static void write_record(const struct eventstream_record *record, void *context)
{
    struct writing *writing = context;
    struct json_writer *w = &writing->writer;
    json_write_begin_object(w);
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
    writing->next = record->sequence + 1;
}

static void finish_read(struct read *read)
{
    BUFFER_OWNED struct buffer body = {0};
    struct request *request = read->request;
    struct writing writing = {.writer = json_writer_to(&body), .next = read->sequence};
    struct error err = {0};
    uint64_t latest = 0;
    const char *name = request->parameters[0];
    http_exchange_on(request->exchange, NULL, NULL, NULL);
    request->stop = NULL;
    request->state = NULL;
    json_write_begin_object(&writing.writer);
    json_write_field_u64(&writing.writer, "partition", read->partition);
    json_write_key(&writing.writer, "records");
    json_write_begin_array(&writing.writer);
    int r = eventstream_read(streams_of(request), request->project, name, read->partition,
                             read->sequence, read->limit, write_record, &writing, &err);
    r = r < 0 ? r
              : eventstream_latest(streams_of(request), request->project, name, read->partition,
                                   &latest, &err);
    json_write_end_array(&writing.writer);
    json_write_field_u64(&writing.writer, "next", writing.next);
    json_write_field_u64(&writing.writer, "latest", latest);
    json_write_end_object(&writing.writer);
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

/* RFC 3339 in UTC, or milliseconds since 1970 behind an '@'. */
static bool parse_time(const char *text, uint64_t *ret_ms)
{
    struct tm parts = {0};
    if (text[0] == '@') {
        return text_parse_u64(text_of(text + 1, strlen(text + 1)), ret_ms);
    }
    const char *rest = strptime(text, "%Y-%m-%dT%H:%M:%S", &parts);
    double fraction = 0;
    if (rest != NULL && rest[0] == '.') {
        char *end = NULL;
        fraction = strtod(rest, &end);
        rest = end;
    }
    if (rest == NULL || strcmp(rest, "Z") != 0) {
        return false;
    }
    time_t seconds = timegm(&parts);
    *ret_ms = seconds >= 0 ? (uint64_t)seconds * 1000 + (uint64_t)(fraction * 1000 + 0.5) : 0;
    return seconds >= 0;
}

static int find_start(struct request *request, struct read *read, const char *from,
                      struct error *err)
{
    struct eventstream_service *streams = streams_of(request);
    const char *name = request->parameters[0];
    uint64_t time_ms = 0;
    if (strcmp(from, "LATEST") == 0) {
        return eventstream_latest(streams, request->project, name, read->partition, &read->sequence,
                                  err);
    }
    int r =
        eventstream_horizon(streams, request->project, name, read->partition, &read->sequence, err);
    if (r < 0 || strcmp(from, "TRIM_HORIZON") == 0) {
        return r;
    }
    if (text_parse_u64(text_of(from, strlen(from)), &read->sequence)) {
        return 0;
    }
    if (!parse_time(from, &time_ms)) {
        return error_set(err, ERROR_INVALID,
                         "?from=%s is a sequence, TRIM_HORIZON, LATEST or a time "
                         "(2026-01-31T12:00:00Z)",
                         from);
    }
    return eventstream_at_time(streams, request->project, name, read->partition, time_ms,
                               &read->sequence, err);
}

static int parse_read(struct request *request, struct read *read, uint64_t *ret_wait_ms,
                      struct error *err)
{
    char from[64] = "TRIM_HORIZON";
    char wait[32];
    struct text query = http_exchange_query(request->exchange);
    http_query_get(query, "from", from, sizeof(from));
    uint64_t partition = api_query_u64(request, "partition", 0);
    read->limit = api_query_u64(request, "limit", READ_DEFAULT);
    if (read->limit < 1 || read->limit > READ_MAX) {
        return error_set(err, ERROR_INVALID, "?limit is 1 to %d", READ_MAX);
    }
    if (http_query_get(query, "wait", wait, sizeof(wait)) &&
        (!text_parse_duration_ms(wait, ret_wait_ms) || *ret_wait_ms > WAIT_MAX_MS)) {
        return error_set(err, ERROR_INVALID, "?wait=%s is no time of at most 20s", wait);
    }
    read->partition = partition < UINT32_MAX ? (unsigned)partition : UINT32_MAX;
    return find_start(request, read, from, err);
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
                                 read->partition, read->sequence, wait_ms, on_wait_over, read);
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
