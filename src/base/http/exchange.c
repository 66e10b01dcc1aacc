/*
 * Exchanges: one request and its answer, whatever carries them.
 *
 * An exchange has one reference from what carries it, and one from the handler.  `carrier` is NULL
 * as soon as the answer has ended or the client is gone; from then on every call does nothing.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/check.h"
#include "base/error.h"
#include "base/http/connection.h"
#include "base/json.h"
#include "base/loop/loop.h"
#include "base/memory.h"
#include "base/stream/tls.h"

enum { FLUSH_BYTES = 16384 };

static void drop_certificate(struct http_exchange *exchange)
{
    if (exchange->certificate != NULL) {
        tls_chain_unref(exchange->certificate->chain);
        free(exchange->certificate);
    }
}

struct http_exchange *exchange_new(struct http_server *server, struct http_exchange *spare)
{
    struct http_exchange *exchange = spare != NULL ? spare : NEW(struct http_exchange);
    /* Keep the memory of buffers, forget everything else. */
    struct buffer bytes = exchange->bytes;
    struct buffer fields_out = exchange->answer_fields;
    struct parse_field *fields = exchange->fields;
    size_t field_size = exchange->field_size;
    bytes.used = fields_out.used = 0;
    drop_certificate(exchange);
    *exchange = (struct http_exchange){
        .loop = server->loop,
        .references = 2,
        .bytes = bytes,
        .answer_fields = fields_out,
        .fields = fields,
        .field_size = field_size,
        .body_max = server->options.body_bytes_max,
        .write_high = server->options.write_bytes_high,
    };
    return exchange;
}

static void free_exchange(struct http_exchange *exchange)
{
    buffer_done(&exchange->bytes);
    buffer_done(&exchange->answer_fields);
    buffer_done(&exchange->whole);
    free(exchange->fields);
    drop_certificate(exchange);
    free(exchange);
}

void exchange_part(struct http_exchange *exchange)
{
    exchange->carrier = NULL;
    exchange->connection = NULL;
    exchange->stream = NULL;
    exchange->mux_stream = NULL;
}

void exchange_release(struct http_exchange *exchange)
{
    CHECK(exchange->references > 0);
    if (--exchange->references > 0) {
        return;
    }
    free_exchange(exchange);
}

/* Texts of the head, moved to point into our own copy. */
static struct text moved(const struct http_exchange *exchange, struct text text,
                         const uint8_t *bytes)
{
    return text_of((const char *)exchange->bytes.data + ((const uint8_t *)text.data - bytes),
                   text.length);
}

static void take_target(struct http_exchange *exchange, struct text target)
{
    struct text authority = parse_authority(target);
    if (authority.data != NULL) {
        const char *end = target.data + target.length;
        target.data = authority.data + authority.length;
        target.length = (size_t)(end - target.data);
    }
    const char *mark = target.length > 0 ? memchr(target.data, '?', target.length) : NULL;
    size_t length = mark != NULL ? (size_t)(mark - target.data) : target.length;
    exchange->path = text_of(target.data, length);
    exchange->query = mark != NULL ? text_of(mark + 1, target.length - length - 1)
                                   : text_of(target.data + length, 0);
    if (length == 0 || target.data[0] == '*') {
        exchange->path = text_of("/", 1); /* "http://host?query", "OPTIONS *" */
    }
}

void exchange_take_head(struct http_exchange *exchange, const struct parse_head *head,
                        const uint8_t *bytes, size_t length)
{
    buffer_append(&exchange->bytes, bytes, length);
    if (exchange->field_size < head->field_count) {
        exchange->field_size = head->field_count + 16;
        exchange->fields =
            memory_resize(exchange->fields, exchange->field_size * sizeof(struct parse_field));
    }
    for (size_t i = 0; i < head->field_count; i++) {
        exchange->fields[i] = (struct parse_field){moved(exchange, head->fields[i].name, bytes),
                                                   moved(exchange, head->fields[i].value, bytes)};
    }
    exchange->field_count = head->field_count;
    exchange->method = moved(exchange, head->method, bytes);
    take_target(exchange, moved(exchange, head->target, bytes));
    exchange->protocol =
        head->protocol.length > 0 ? moved(exchange, head->protocol, bytes) : text_of(NULL, 0);
    exchange->minor = head->minor;
    exchange->is_head = text_equal(exchange->method, "HEAD");
    exchange->expects_continue = head->expects_continue && head->minor >= 1;
    exchange->body = head->is_chunked          ? BODY_CHUNKED
        : head->has_length && head->length > 0 ? BODY_LENGTH
                                               : BODY_NONE;
    exchange->body_length = head->is_chunked ? UINT64_MAX : head->length;
    exchange->body_left = exchange->body == BODY_LENGTH ? head->length : 0;
    exchange->body_done = exchange->body == BODY_NONE;
}

/* ---- The request ---- */

enum http_method http_exchange_method(const struct http_exchange *exchange)
{
    for (int method = 0; method < HTTP_OTHER; method++) {
        if (text_equal(exchange->method, http_method_text((enum http_method)method))) {
            return (enum http_method)method;
        }
    }
    return HTTP_OTHER;
}

struct text http_exchange_method_text(const struct http_exchange *exchange)
{
    return exchange->method;
}

int http_exchange_minor_version(const struct http_exchange *exchange)
{
    return exchange->minor;
}

struct text http_exchange_path(const struct http_exchange *exchange)
{
    return exchange->path;
}

struct text http_exchange_query(const struct http_exchange *exchange)
{
    return exchange->query;
}

struct text http_exchange_field(const struct http_exchange *exchange, const char *name)
{
    for (size_t i = 0; i < exchange->field_count; i++) {
        if (text_equal_ignoring_case(exchange->fields[i].name, name)) {
            return exchange->fields[i].value;
        }
    }
    return text_of(NULL, 0);
}

size_t http_exchange_field_count(const struct http_exchange *exchange)
{
    return exchange->field_count;
}

void http_exchange_field_at(const struct http_exchange *exchange, size_t index,
                            struct text *ret_name, struct text *ret_value)
{
    CHECK(index < exchange->field_count);
    *ret_name = exchange->fields[index].name;
    *ret_value = exchange->fields[index].value;
}

void exchange_take_peer(struct http_exchange *exchange, const struct stream *stream)
{
    const struct tls_peer *peer = stream_peer(stream);
    snprintf(exchange->peer, sizeof(exchange->peer), "%s", stream_address(stream));
    exchange->is_tls = true;
    exchange->was_asked = stream_asked(stream);
    if (peer != NULL) { /* the exchange may outlive the stream */
        exchange->certificate = NEW(struct tls_peer);
        *exchange->certificate = *peer;
        tls_chain_ref(peer->chain);
    }
}

const char *http_exchange_peer(const struct http_exchange *exchange)
{
    return exchange->peer;
}

const struct tls_peer *http_exchange_certificate(const struct http_exchange *exchange)
{
    return exchange->certificate;
}

bool http_exchange_was_asked(const struct http_exchange *exchange)
{
    return exchange->was_asked;
}

bool http_exchange_is_tls(const struct http_exchange *exchange)
{
    return exchange->is_tls;
}

bool http_exchange_has_body(const struct http_exchange *exchange)
{
    return exchange->body != BODY_NONE;
}

uint64_t http_exchange_body_length(const struct http_exchange *exchange)
{
    return exchange->body_length;
}

void http_exchange_set_body_max(struct http_exchange *exchange, uint64_t bytes_max)
{
    exchange->body_max = bytes_max;
}

/* ---- Its body ---- */

static void tell_body_end(struct http_exchange *exchange, const struct error *error)
{
    if (exchange->reading && !exchange->body_told) {
        exchange->body_told = true;
        exchange->on_body_end(error, exchange->body_context);
    }
}

void exchange_fail_body(struct http_exchange *exchange, int kind, const char *text)
{
    struct error error = {0};
    error_set(&error, (enum error_kind)kind, "%s", text);
    exchange->body_fault = (enum error_kind)kind;
    exchange->paused = false;
    tell_body_end(exchange, &error);
}

void exchange_end_body(struct http_exchange *exchange)
{
    exchange->body_done = true;
    if (exchange->carrier != NULL) {
        exchange->carrier->cut_body(exchange);
    }
}

static void refuse_rest(struct http_exchange *exchange)
{
    char text[96];
    snprintf(text, sizeof(text), "the request's body is larger than %" PRIu64 " bytes",
             exchange->body_max);
    exchange_end_body(exchange);
    exchange_fail_body(exchange, ERROR_TOO_LARGE, text);
}

/* A piece of the body's content: to the reader, or nowhere when nobody wants it. */
bool exchange_give(struct http_exchange *exchange, const void *bytes, size_t length)
{
    exchange->body_taken += length;
    if (exchange->body_taken > exchange->body_max) {
        refuse_rest(exchange);
        return false;
    }
    if (length > 0 && exchange->reading && !exchange->body_told) {
        exchange->on_data(bytes, length, exchange->body_context);
    }
    return true;
}

void exchange_take_end(struct http_exchange *exchange)
{
    if (exchange->body_done && !exchange->paused) {
        tell_body_end(exchange, NULL);
    }
}

void http_exchange_read(struct http_exchange *exchange,
                        void (*on_data)(const void *bytes, size_t length, void *context),
                        void (*on_end)(const struct error *error, void *context), void *context)
{
    CHECK(!exchange->reading);
    exchange->reading = true;
    exchange->on_data = on_data;
    exchange->on_body_end = on_end;
    exchange->body_context = context;
    if (exchange->carrier == NULL) {
        exchange_fail_body(exchange, ERROR_CANCELLED, "the client is gone");
        return;
    }
    if (exchange->body == BODY_LENGTH && exchange->body_length > exchange->body_max) {
        refuse_rest(exchange);
        return;
    }
    exchange->carrier->take_body(exchange);
}

void http_exchange_pause(struct http_exchange *exchange)
{
    exchange->paused = true;
}

void http_exchange_resume(struct http_exchange *exchange)
{
    exchange->paused = false;
    if (exchange->carrier != NULL) {
        exchange->carrier->take_body(exchange);
    } else if (exchange->body_done) {
        tell_body_end(exchange, NULL);
    }
}

static void keep_whole(const void *bytes, size_t length, void *context)
{
    struct http_exchange *exchange = context;
    buffer_append(&exchange->whole, bytes, length);
}

static void end_whole(const struct error *error, void *context)
{
    struct http_exchange *exchange = context;
    exchange->on_whole(&exchange->whole, error, exchange->whole_context);
}

void http_exchange_read_all(struct http_exchange *exchange, uint64_t bytes_max,
                            void (*on_end)(struct buffer *body, const struct error *error,
                                           void *context),
                            void *context)
{
    exchange->on_whole = on_end;
    exchange->whole_context = context;
    exchange->body_max = bytes_max;
    http_exchange_read(exchange, keep_whole, end_whole, exchange);
}

/* ---- The answer ---- */

static void add_clean(struct http_exchange *exchange, struct text name, struct text value)
{
    if (exchange->begun) {
        return;
    }
    struct buffer *out = &exchange->answer_fields;
    size_t length = name.length + 2 + value.length + 2;
    char *at = (char *)buffer_reserve(out, length);
    at = mempcpy(mempcpy(at, name.data, name.length), ": ", 2);
    at = mempcpy(at, value.data, value.length);
    at[0] = '\r';
    at[1] = '\n';
    out->used += length;
}

void http_exchange_add_field_text(struct http_exchange *exchange, struct text name,
                                  struct text value)
{
    CHECK(http_field_is_clean(name, value));
    add_clean(exchange, name, value);
}

void http_exchange_add_field_of(struct http_exchange *exchange, const struct http_call *call,
                                size_t index)
{
    struct text name, value;
    http_call_field_at(call, index, &name, &value);
    add_clean(exchange, name, value);
}

void http_exchange_add_field(struct http_exchange *exchange, const char *name, const char *value)
{
    http_exchange_add_field_text(exchange, text_of(name, strlen(name)),
                                 text_of(value, strlen(value)));
}

void exchange_date(struct http_server *server)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME_COARSE, &now);
    if ((uint64_t)now.tv_sec != server->date_second) {
        struct tm parts;
        server->date_second = (uint64_t)now.tv_sec;
        gmtime_r(&now.tv_sec, &parts);
        strftime(server->date, sizeof(server->date), "%a, %d %b %Y %H:%M:%S GMT", &parts);
    }
}

void exchange_write_head(const struct http_exchange *exchange, struct http_server *server,
                         int status, struct buffer *out)
{
    exchange_date(server);
    buffer_append(out, "HTTP/1.1 ", 9);
    buffer_append_decimal(out, (uint64_t)status);
    buffer_append_byte(out, ' ');
    buffer_append_string(out, http_status_text(status));
    buffer_append(out, "\r\nDate: ", 8);
    buffer_append_string(out, server->date);
    buffer_append(out, "\r\n", 2);
    buffer_append(out, exchange->answer_fields.data, exchange->answer_fields.used);
}

static void begin(struct http_exchange *exchange, int status, uint64_t length)
{
    exchange->has_no_body = status < 200 || status == 204 || status == 304;
    exchange->answer_left = length;
    exchange->carrier->begin(exchange, status, length);
    exchange->begun = true;
}

static bool sends_body(const struct http_exchange *exchange)
{
    return !exchange->is_head && !exchange->has_no_body;
}

static void flush_posted(void *argument)
{
    struct http_exchange *exchange = argument;
    exchange->flush_is_posted = false;
    if (exchange->carrier != NULL) {
        exchange->carrier->flush(exchange);
    }
    exchange_release(exchange);
}

/* A head and the little that follows it at once are one write. */
static void flush(struct http_exchange *exchange)
{
    const struct exchange_carrier *carrier = exchange->carrier;
    if (!carrier->flush_is_dear || carrier->waiting(exchange) >= FLUSH_BYTES) {
        carrier->flush(exchange);
    } else if (!exchange->flush_is_posted) {
        exchange->flush_is_posted = true;
        exchange->references++;
        loop_post(exchange->loop, flush_posted, exchange);
    }
}

void http_exchange_respond(struct http_exchange *exchange, int status, const void *body,
                           size_t length)
{
    if (exchange->carrier == NULL || exchange->begun) {
        return;
    }
    begin(exchange, status, length);
    exchange->ended = true; /* before it is written: the carrier may end it with its last byte */
    if (sends_body(exchange) && length > 0) {
        exchange->carrier->write(exchange, body, length);
    }
    exchange->carrier->end(exchange);
}

void http_exchange_begin(struct http_exchange *exchange, int status, uint64_t length)
{
    if (exchange->carrier != NULL && !exchange->begun) {
        begin(exchange, status, length);
        flush(exchange);
    }
}

bool http_exchange_write(struct http_exchange *exchange, const void *bytes, size_t length)
{
    if (exchange->carrier == NULL || !exchange->begun || exchange->ended || length == 0) {
        return true;
    }
    if (exchange->answer_left != UINT64_MAX && length > exchange->answer_left) {
        http_exchange_abort(exchange); /* more than was announced */
        return true;
    }
    if (exchange->answer_left != UINT64_MAX) {
        exchange->answer_left -= length;
    }
    exchange->references++; /* a failing flush takes the carrier's */
    if (sends_body(exchange)) {
        exchange->carrier->write(exchange, bytes, length);
        flush(exchange);
    }
    bool room =
        exchange->carrier == NULL || exchange->carrier->waiting(exchange) <= exchange->write_high;
    exchange->wants_drain = !room;
    exchange_release(exchange);
    return room;
}

void http_exchange_end(struct http_exchange *exchange)
{
    if (exchange->carrier == NULL || !exchange->begun || exchange->ended) {
        return;
    }
    if (sends_body(exchange) && exchange->answer_left != UINT64_MAX && exchange->answer_left > 0) {
        http_exchange_abort(exchange); /* less than was announced: it must not look whole */
        return;
    }
    exchange->ended = true;
    exchange->carrier->end(exchange);
}

struct text http_exchange_protocol(const struct http_exchange *exchange)
{
    return exchange->protocol;
}

bool http_exchange_can_upgrade(const struct http_exchange *exchange)
{
    if (exchange->protocol.length > 0) {
        return exchange->carrier != NULL && !exchange->begun && !exchange->reading;
    }
    return exchange->carrier == &h1_carrier && exchange->minor >= 1 && !exchange->begun &&
        exchange->body == BODY_NONE && !exchange->reading;
}

void http_exchange_converse(struct http_exchange *exchange, int status)
{
    exchange->is_patient = true;
    exchange->body_max = UINT64_MAX;
    http_exchange_begin(exchange, status, UINT64_MAX);
}

void http_exchange_need_client(struct http_exchange *exchange)
{
    exchange->needs_client = true;
}

bool http_exchange_upgrade(struct http_exchange *exchange, const char *protocol)
{
    if (!http_exchange_can_upgrade(exchange)) {
        return false;
    }
    if (exchange->protocol.length > 0) {
        http_exchange_converse(exchange, 200);
        return true;
    }
    exchange->upgrade = protocol;
    begin(exchange, 101, UINT64_MAX);
    exchange->upgrade = NULL;
    exchange->has_no_body = false;
    exchange->until_close = true; /* only the end of the connection ends it */
    exchange->body = BODY_RAW;
    exchange->body_done = false;
    exchange->body_length = exchange->body_max = UINT64_MAX;
    exchange->carrier->flush(exchange);
    return true;
}

void http_exchange_abort(struct http_exchange *exchange)
{
    if (exchange->carrier == NULL) {
        return;
    }
    exchange->on_close = NULL; /* it knows */
    exchange->references++;    /* a failing flush takes the carrier's */
    if (exchange->flush_is_posted) {
        exchange->carrier->flush(exchange); /* what was said before is heard */
    }
    if (exchange->carrier != NULL) {
        exchange->carrier->abort(exchange);
    }
    exchange_release(exchange);
}

bool http_exchange_has_begun(const struct http_exchange *exchange)
{
    return exchange->begun;
}

void http_exchange_on(struct http_exchange *exchange, void (*on_drain)(void *context),
                      void (*on_close)(void *context), void *context)
{
    exchange->on_drain = on_drain;
    exchange->on_close = on_close;
    exchange->context = context;
}

/* The carrier is gone.  Its reference is the caller's to release. */
void exchange_lose(struct http_exchange *exchange)
{
    bool was_open = !exchange->ended;
    exchange_part(exchange);
    if (!exchange->body_told && exchange->reading) {
        exchange_fail_body(exchange, ERROR_CANCELLED, "the client is gone");
    }
    if (was_open && exchange->on_close != NULL) {
        exchange->on_close(exchange->context);
    }
}

bool limit_is_over(uint64_t *since_ms, bool holds, uint64_t now_ms, uint64_t limit_ms)
{
    if (!holds || *since_ms == 0) {
        *since_ms = holds ? now_ms : 0;
    }
    return holds && limit_ms > 0 && now_ms - *since_ms >= limit_ms;
}

void exchange_drop(struct http_exchange *exchange, bool is_new)
{
    if (is_new) {
        exchange_release(exchange);
    }
    if (exchange->ended) {
        exchange_part(exchange);
        if (!exchange->body_told && exchange->reading) {
            exchange_fail_body(exchange, ERROR_CANCELLED, "the answer has ended");
        }
    } else {
        exchange_lose(exchange);
    }
    exchange_release(exchange);
}

/* ---- References and threads ---- */

struct http_exchange *http_exchange_ref(struct http_exchange *exchange)
{
    exchange->references++;
    return exchange;
}

void http_exchange_unref(struct http_exchange *exchange)
{
    exchange_release(exchange);
}

void http_exchange_post(struct http_exchange *exchange, void (*call)(void *argument),
                        void *argument)
{
    loop_post(exchange->loop, call, argument);
}

struct loop *http_exchange_loop(const struct http_exchange *exchange)
{
    return exchange->loop;
}

/* ---- Errors ---- */

void http_exchange_respond_error(struct http_exchange *exchange, const struct error *error,
                                 const char *request_id)
{
    int status = error_kind_http(error->kind);
    if (error->kind == exchange->body_fault) { /* the client's own, not of somebody behind us */
        status = error->kind == ERROR_PROTOCOL ? 400 : error->kind == ERROR_TIMEOUT ? 408 : status;
    }
    BUFFER_OWNED struct buffer body = {0};
    struct json_writer writer = json_writer_to(&body);
    json_write_begin_object(&writer);
    json_write_field_string(&writer, "type", "about:blank");
    json_write_field_string(&writer, "title", error_kind_text(error->kind));
    json_write_field_u64(&writer, "status", (uint64_t)status);
    json_write_field_string(&writer, "detail", error->text);
    json_write_field_string(&writer, "code", error_kind_name(error->kind));
    json_write_field_bool(&writer, "retryable", error_kind_retry(error->kind));
    if (request_id != NULL) {
        json_write_field_string(&writer, "instance", request_id);
    }
    json_write_end_object(&writer);
    buffer_append_byte(&body, '\n');
    http_exchange_add_field(exchange, "Content-Type", "application/problem+json");
    const struct buffer *fields = &exchange->answer_fields;
    bool says_when =
        fields->used > 0 && memmem(fields->data, fields->used, "Retry-After:", 12) != NULL;
    if ((status == 503 || status == 429) && !says_when) {
        http_exchange_add_field(exchange, "Retry-After", "1");
    }
    http_exchange_respond(exchange, status, body.data, body.used);
}
