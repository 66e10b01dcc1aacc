/* Queues and their messages. */
#include "service/queue/queue.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"

#include "surface/api/parts.h"

enum { WAIT_MAX_MS = 20000, PEEK_DEFAULT = 20, PEEK_MAX = 256, PEEK_BYTES = 4 << 20 };

static struct queue_service *queues_of(const struct request *request)
{
    return request->api->options.queues;
}

/* ---- Queues ---- */

void api_queue_list(struct request *request)
{
    BUFFER_OWNED struct buffer body = {0};
    struct error err = {0};
    int r = queue_write_list(queues_of(request), request->project, &body, &err);
    api_answer_written(request, r, &body, &err);
}

void api_queue_get(struct request *request)
{
    BUFFER_OWNED struct buffer body = {0};
    struct error err = {0};
    int r = queue_write(queues_of(request), request->project, request->parameters[0], &body, &err);
    api_answer_written(request, r, &body, &err);
}

struct change {
    struct request *request;
    char name[64];
};

static void on_changed(const struct error *error, void *context)
{
    struct change *change = context;
    struct request *request = change->request;
    snprintf(request->parameters[0], sizeof(request->parameters[0]), "%s", change->name);
    free(change);
    if (error != NULL) {
        api_answer_error(request, error);
    } else {
        api_queue_get(request);
    }
}

static void take_settings(const json_t *body, struct queue_settings *settings)
{
    const struct {
        const char *name;
        uint64_t *value;
    } numbers[] = {
        {"visibility_ms", &settings->visibility_ms}, {"retention_ms", &settings->retention_ms},
        {"delay_ms", &settings->delay_ms},           {"dedup_ms", &settings->dedup_ms},
        {"max_depth", &settings->depth_max},         {"max_bytes", &settings->bytes_max},
        {"max_receives", &settings->receives_max},
    };
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
        const json_t *value = json_object_get(body, numbers[i].name);
        if (json_is_integer(value)) {
            *numbers[i].value = (uint64_t)json_integer_value(value);
        }
    }
}

static struct queue_reply reply_to(struct request *request, const char *name)
{
    struct change *change = NEW(struct change);
    change->request = request;
    snprintf(change->name, sizeof(change->name), "%.63s", name);
    return (struct queue_reply){on_changed, change};
}

static void create(struct request *request, const json_t *body)
{
    struct queue_settings settings;
    const char *name = api_body_text(body, "name");
    queue_settings_init(&settings);
    take_settings(body, &settings);
    settings.is_fifo = json_is_true(json_object_get(body, "fifo"));
    settings.dead_letter = api_body_text(body, "dead_letter");
    queue_create(queues_of(request), request->project, name, &settings, reply_to(request, name));
}

void api_queue_create(struct request *request)
{
    api_body_read(request, "QueueCreate", create);
}

static void update(struct request *request, const json_t *body)
{
    struct queue_settings settings;
    struct error err = {0};
    const char *name = request->parameters[0];
    if (queue_read_settings(queues_of(request), request->project, name, &settings, &err) < 0) {
        api_answer_error(request, &err);
        return;
    }
    MEMORY_OWNED char *former = (char *)(uintptr_t)settings.dead_letter;
    (void)former; /* freed at the end: the settings may point to it until then */
    const char *dead_letter = api_body_text(body, "dead_letter");
    if (dead_letter != NULL) {
        settings.dead_letter = dead_letter[0] != '\0' ? dead_letter : NULL;
        settings.receives_max = settings.dead_letter != NULL ? settings.receives_max : 0;
    }
    take_settings(body, &settings);
    queue_update(queues_of(request), request->project, name, &settings, reply_to(request, name));
}

void api_queue_update(struct request *request)
{
    api_body_read(request, "QueueUpdate", update);
}

static void on_deleted(const struct error *error, void *context)
{
    struct request *request = context;
    if (error != NULL) {
        api_answer_error(request, error);
    } else {
        api_answer_nothing(request);
    }
}

void api_queue_delete(struct request *request)
{
    queue_delete(queues_of(request), request->project, request->parameters[0],
                 (struct queue_reply){on_deleted, request});
}

/* ---- Sending ---- */

struct outgoing {
    struct queue_outgoing *messages;
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
    free(outgoing->messages);
    free(outgoing->bodies);
    free(outgoing->attributes);
}

static int take_message(const json_t *value, struct outgoing *outgoing, size_t place,
                        struct error *err)
{
    struct queue_outgoing *message = &outgoing->messages[place];
    struct buffer *body = &outgoing->bodies[place];
    const json_t *attributes = json_object_get(value, "attributes");
    const json_t *delay = json_object_get(value, "delay_ms");
    json_int_t priority = json_integer_value(json_object_get(value, "priority"));
    if (api_take_bytes(value, body, err) < 0) {
        return error_wrap(err, "message %zu", place);
    }
    outgoing->attributes[place] =
        json_object_size(attributes) > 0 ? json_dumps(attributes, JSON_COMPACT) : NULL;
    *message = (struct queue_outgoing){
        .body = body->data,
        .length = body->used,
        .content_type = api_body_text(value, "content_type"),
        .attributes = outgoing->attributes[place],
        .group = api_body_text(value, "group"),
        .dedup = api_body_text(value, "dedup"),
        .delay_ms = json_is_integer(delay) ? (uint64_t)json_integer_value(delay) : QUEUE_DEFAULT,
        .priority = priority <= QUEUE_PRIORITY_MAX ? (unsigned)priority : QUEUE_PRIORITY_MAX + 1,
    };
    return 0;
}

static void on_sent(const struct error *error, const struct queue_sent *sent, size_t count,
                    void *context)
{
    BUFFER_OWNED struct buffer body = {0};
    struct request *request = context;
    struct json_writer w = json_writer_to(&body);
    if (error != NULL) {
        api_answer_error(request, error);
        return;
    }
    json_write_begin_object(&w);
    json_write_key(&w, "messages");
    json_write_begin_array(&w);
    for (size_t i = 0; i < count; i++) {
        char id[24];
        snprintf(id, sizeof(id), "%" PRIu64, sent[i].id);
        json_write_begin_object(&w);
        json_write_field_string(&w, "id", id);
        json_write_field_bool(&w, "duplicate", sent[i].is_duplicate);
        json_write_end_object(&w);
    }
    json_write_end_array(&w);
    json_write_end_object(&w);
    api_answer_json(request, request->status, &body);
}

static void send_all(struct request *request, const json_t *body)
{
    const json_t *values = json_object_get(body, "messages");
    struct outgoing outgoing = {.count = json_array_size(values)};
    struct error err = {0};
    int r = 0;
    if (outgoing.count == 0 || outgoing.count > QUEUE_BATCH_MAX) {
        error_set(&err, ERROR_INVALID, "$.messages has 1 to %d messages", QUEUE_BATCH_MAX);
        api_answer_error(request, &err);
        return;
    }
    outgoing.messages = memory_new(outgoing.count, sizeof(*outgoing.messages));
    outgoing.bodies = memory_new(outgoing.count, sizeof(*outgoing.bodies));
    outgoing.attributes = memory_new(outgoing.count, sizeof(*outgoing.attributes));
    for (size_t i = 0; i < outgoing.count && r == 0; i++) {
        r = take_message(json_array_get(values, i), &outgoing, i, &err);
    }
    if (r < 0) {
        api_answer_error(request, &err);
    } else {
        queue_send(queues_of(request), request->project, request->parameters[0], outgoing.messages,
                   outgoing.count, on_sent, request);
    }
    outgoing_done(&outgoing);
}

void api_queue_send(struct request *request)
{
    api_body_read_saying(request, "QueueSend",
                         "a message has at most 256 KiB, and all that are sent at once 768 KiB: "
                         "send fewer at a time, or where their content can be found",
                         send_all);
}

/* ---- Messages ---- */

static void write_message(struct json_writer *w, const struct queue_message *message)
{
    char id[24];
    snprintf(id, sizeof(id), "%" PRIu64, message->id);
    json_write_begin_object(w);
    json_write_field_string(w, "id", id);
    if (message->receipt[0] != '\0') {
        json_write_field_string(w, "receipt", message->receipt);
    }
    api_write_bytes(w, message->body, message->length);
    json_write_field_string(w, "content_type", message->content_type);
    json_write_key(w, "attributes");
    json_write_raw(w, message->attributes, strlen(message->attributes));
    if (message->group != NULL) {
        json_write_field_string(w, "group", message->group);
    }
    json_write_field_u64(w, "priority", message->priority);
    json_write_field_u64(w, "receives", message->receives);
    json_write_field_time_ms(w, "sent_at", message->sent_ms);
    if (message->died_ms > 0) {
        json_write_field_string(w, "source", message->source);
        json_write_field_time_ms(w, "died_at", message->died_ms);
    }
    json_write_end_object(w);
}

static void begin_list(struct json_writer *w)
{
    json_write_begin_object(w);
    json_write_key(w, "messages");
    json_write_begin_array(w);
}

static void end_list(struct json_writer *w)
{
    json_write_end_array(w);
    json_write_end_object(w);
}

static void peek_one(const struct queue_message *message, void *context)
{
    struct json_writer *w = context;
    if (w->out->used < PEEK_BYTES) {
        write_message(w, message);
    }
}

void api_queue_peek(struct request *request)
{
    BUFFER_OWNED struct buffer body = {0};
    struct json_writer w = json_writer_to(&body);
    struct error err = {0};
    char source[64];
    uint64_t limit = api_query_u64(request, "limit", PEEK_DEFAULT);
    struct text query = http_exchange_query(request->exchange);
    bool has_source = http_query_get(query, "source", source, sizeof(source));
    begin_list(&w);
    int r = queue_peek(queues_of(request), request->project, request->parameters[0],
                       has_source ? source : NULL, limit < PEEK_MAX ? limit : PEEK_MAX, peek_one,
                       &w, &err);
    end_list(&w);
    api_answer_written(request, r, &body, &err);
}

/* ---- Receiving ---- */

static void on_received(const struct error *error, const struct queue_message *messages,
                        size_t count, void *context)
{
    BUFFER_OWNED struct buffer body = {0};
    struct json_writer w = json_writer_to(&body);
    struct request *request = context;
    http_exchange_on(request->exchange, NULL, NULL, NULL);
    request->stop = NULL;
    request->state = NULL;
    if (error != NULL) {
        api_answer_error(request, error);
        return;
    }
    begin_list(&w);
    for (size_t i = 0; i < count; i++) {
        write_message(&w, &messages[i]);
    }
    end_list(&w);
    api_answer_json(request, request->status, &body);
}

/* Who asked is gone, or the API ends: what would come is nobody's, and stays in the queue. */
static void leave(struct request *request)
{
    queue_receive_free(request->state);
    on_received(NULL, NULL, 0, request);
}

static void after_close(void *argument)
{
    on_received(NULL, NULL, 0, argument);
}

/* Not from inside: the connection is being closed. */
static void on_close(void *context)
{
    struct request *request = context;
    queue_receive_free(request->state);
    request->state = NULL;
    request->stop = NULL;
    loop_post(request->api->options.loop, after_close, request);
}

static void receive(struct request *request, const json_t *body)
{
    const json_t *max = json_object_get(body, "max");
    const json_t *visibility = json_object_get(body, "visibility_ms");
    const char *wait = api_body_text(body, "wait");
    struct error err = {0};
    struct queue_receive_options options = {.max = 1, .visibility_ms = QUEUE_DEFAULT};
    if (json_is_integer(max)) {
        options.max = (size_t)json_integer_value(max);
    }
    if (json_is_integer(visibility)) {
        options.visibility_ms = (uint64_t)json_integer_value(visibility);
    }
    if (options.max < 1 || options.max > QUEUE_BATCH_MAX) {
        error_set(&err, ERROR_INVALID, "$.max is 1 to %d", QUEUE_BATCH_MAX);
    } else if (options.visibility_ms != QUEUE_DEFAULT &&
               (options.visibility_ms < 1 || options.visibility_ms > 12 * 3600000)) {
        error_set(&err, ERROR_INVALID, "$.visibility_ms is 1 to 43200000 (12 hours)");
    } else if (wait != NULL &&
               (!text_parse_duration_ms(wait, &options.wait_ms) || options.wait_ms > WAIT_MAX_MS)) {
        error_set(&err, ERROR_INVALID, "$.wait: \"%.32s\" is no time of at most 20s", wait);
    }
    if (err.kind != ERROR_NONE) {
        api_answer_error(request, &err);
        return;
    }
    request->state = queue_receive_new(queues_of(request), request->project, request->parameters[0],
                                       &options, on_received, request);
    request->stop = leave;
    http_exchange_need_client(request->exchange); /* a message is not for one who is gone */
    http_exchange_on(request->exchange, NULL, on_close, request);
}

void api_queue_receive(struct request *request)
{
    api_body_read(request, "QueueReceive", receive);
}

/* ---- Settling ---- */

struct settling {
    struct request *request;
    json_t *receipts;
};

static void write_failure(struct json_writer *w, const char *receipt, const struct error *error)
{
    json_write_begin_object(w);
    json_write_field_string(w, "receipt", receipt);
    json_write_field_string(w, "error", error->text);
    json_write_field_string(w, "error_code", error_kind_name(error->kind));
    json_write_end_object(w);
}

static void on_settled(const struct error *error, const struct error *errors, size_t count,
                       void *context)
{
    BUFFER_OWNED struct buffer body = {0};
    struct json_writer w = json_writer_to(&body);
    struct settling *settling = context;
    struct request *request = settling->request;
    JSON_OWNED json_t *receipts = settling->receipts;
    uint64_t failed = 0;
    free(settling);
    if (error != NULL || (count == 1 && errors[0].kind != ERROR_NONE)) {
        api_answer_error(request, error != NULL ? error : &errors[0]);
        return;
    }
    json_write_begin_object(&w);
    json_write_key(&w, "failed");
    json_write_begin_array(&w);
    for (size_t i = 0; i < count; i++) {
        if (errors[i].kind != ERROR_NONE) {
            write_failure(&w, json_string_value(json_array_get(receipts, i)), &errors[i]);
            failed++;
        }
    }
    json_write_end_array(&w);
    json_write_field_u64(&w, "settled", count - failed);
    json_write_end_object(&w);
    api_answer_json(request, request->status, &body);
}

static void settle(struct request *request, const json_t *body, enum queue_settling settling,
                   const char *time)
{
    const json_t *values = json_object_get(body, "receipts");
    const char *receipts[QUEUE_BATCH_MAX];
    size_t count = json_array_size(values);
    struct error err = {0};
    if (count == 0 || count > QUEUE_BATCH_MAX) {
        error_set(&err, ERROR_INVALID, "$.receipts has 1 to %d receipts", QUEUE_BATCH_MAX);
    }
    for (size_t i = 0; i < count && err.kind == ERROR_NONE; i++) {
        receipts[i] = json_string_value(json_array_get(values, i));
        if (receipts[i] == NULL) {
            error_set(&err, ERROR_INVALID, "$.receipts[%zu] must be a string", i);
        }
    }
    if (err.kind != ERROR_NONE) {
        api_answer_error(request, &err);
        return;
    }
    struct settling *kept = NEW(struct settling);
    kept->request = request;
    kept->receipts = json_deep_copy(values);
    queue_settle(queues_of(request), request->project, request->parameters[0], settling, receipts,
                 count,
                 time != NULL ? (uint64_t)json_integer_value(json_object_get(body, time)) : 0,
                 on_settled, kept);
}

static void ack(struct request *request, const json_t *body)
{
    settle(request, body, QUEUE_ACK, NULL);
}

static void nack(struct request *request, const json_t *body)
{
    settle(request, body, QUEUE_NACK, "delay_ms");
}

static void extend(struct request *request, const json_t *body)
{
    settle(request, body, QUEUE_EXTEND, "visibility_ms");
}

void api_queue_ack(struct request *request)
{
    api_body_read(request, "QueueSettle", ack);
}

void api_queue_nack(struct request *request)
{
    api_body_read(request, "QueueSettle", nack);
}

void api_queue_extend(struct request *request)
{
    api_body_read(request, "QueueSettle", extend);
}

/* ---- All of them ---- */

/* What was done before it went wrong is told, too. */
static void on_count(const struct error *error, uint64_t count, void *context)
{
    BUFFER_OWNED struct buffer body = {0};
    struct json_writer w = json_writer_to(&body);
    struct request *request = context;
    if (error != NULL && count == 0) {
        api_answer_error(request, error);
        return;
    }
    json_write_begin_object(&w);
    json_write_field_u64(&w, "count", count);
    if (error != NULL) {
        json_write_field_string(&w, "error", error->text);
    }
    json_write_end_object(&w);
    api_answer_json(request, request->status, &body);
}

void api_queue_purge(struct request *request)
{
    queue_purge(queues_of(request), request->project, request->parameters[0], on_count, request);
}

static void redrive(struct request *request, const json_t *body)
{
    queue_redrive(queues_of(request), request->project, request->parameters[0],
                  (uint64_t)json_integer_value(json_object_get(body, "max")), on_count, request);
}

void api_queue_redrive(struct request *request)
{
    api_body_read(request, "QueueRedrive", redrive);
}
