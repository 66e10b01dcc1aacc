/*
 * Exchanges: one request and its answer.
 *
 * An exchange has one reference from the connection while it is the connection's current one, and
 * one from the handler.  `connection` is NULL as soon as the answer has ended or the client is
 * gone; from then on every call does nothing.
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

enum { WHOLE_FIRST = 4096 };

struct http_exchange *exchange_new(struct connection *connection)
{
    struct http_exchange *exchange = connection->spare;
    connection->spare = NULL;
    if (exchange == NULL) {
        exchange = NEW(struct http_exchange);
    }
    /* Keep the memory of buffers, forget everything else. */
    struct buffer bytes = exchange->bytes;
    struct buffer fields_out = exchange->answer_fields;
    struct parse_field *fields = exchange->fields;
    size_t field_size = exchange->field_size;
    bytes.used = fields_out.used = 0;
    *exchange = (struct http_exchange){
        .connection = connection,
        .loop = connection->server->loop,
        .references = 2,
        .bytes = bytes,
        .answer_fields = fields_out,
        .fields = fields,
        .field_size = field_size,
        .body_max = connection->server->options.body_bytes_max,
    };
    return exchange;
}

static void free_exchange(struct http_exchange *exchange)
{
    buffer_done(&exchange->bytes);
    buffer_done(&exchange->answer_fields);
    buffer_done(&exchange->whole);
    free(exchange->fields);
    free(exchange);
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

const char *http_exchange_peer(const struct http_exchange *exchange)
{
    return exchange->peer;
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
    if (exchange->connection != NULL) {
        exchange->connection->close_after = true;
        exchange->connection->is_cut = true;
    }
}

/* A piece of the body's content: to the reader, or nowhere when nobody wants it. */
static bool give(struct http_exchange *exchange, const void *bytes, size_t length)
{
    exchange->body_taken += length;
    if (exchange->body_taken > exchange->body_max) {
        exchange_end_body(exchange);
        exchange_fail_body(exchange, ERROR_TOO_LARGE, "the request's body is too large");
        return false;
    }
    if (length > 0 && exchange->reading && !exchange->body_told) {
        exchange->on_data(bytes, length, exchange->body_context);
    }
    return true;
}

static bool feed_length(struct http_exchange *exchange, struct buffer *in)
{
    size_t part = exchange->body_left < in->used ? (size_t)exchange->body_left : in->used;
    bool good = give(exchange, in->data, part);
    exchange->body_left -= part;
    if (exchange->connection != NULL) {
        buffer_consume(in, part);
    }
    if (exchange->body_left == 0) {
        exchange->body_done = true;
    }
    return good;
}

static bool feed_chunk(struct http_exchange *exchange, struct buffer *in)
{
    size_t used = 0;
    struct text data;
    int r = parse_chunk(&exchange->chunks, in->data, in->used, &used, &data);
    if (r < 0) {
        exchange_end_body(exchange);
        exchange_fail_body(exchange, ERROR_PROTOCOL, "the request's body is not well chunked");
        return false;
    }
    bool good = give(exchange, data.data, data.length);
    if (exchange->connection != NULL) {
        buffer_consume(in, used);
    }
    exchange->body_done = exchange->body_done || r == 1;
    return good;
}

/* Take what has been received, as far as it is wanted. */
void exchange_feed(struct http_exchange *exchange)
{
    struct connection *connection = exchange->connection;
    bool wanted = exchange->reading || exchange->ended;
    exchange->references++;
    while (connection != NULL && wanted && !exchange->paused && !exchange->body_done &&
           connection->in.used > 0) {
        bool good = exchange->body == BODY_LENGTH ? feed_length(exchange, &connection->in)
                                                  : feed_chunk(exchange, &connection->in);
        if (!good) {
            break;
        }
        connection = exchange->connection;
    }
    if (exchange->body_done && !exchange->paused) {
        tell_body_end(exchange, NULL);
    }
    exchange_release(exchange);
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
    struct connection *connection = exchange->connection;
    if (connection == NULL) {
        exchange_fail_body(exchange, ERROR_CANCELLED, "the client is gone");
        return;
    }
    if (exchange->body == BODY_LENGTH && exchange->body_length > exchange->body_max) {
        exchange_end_body(exchange);
        exchange_fail_body(exchange, ERROR_TOO_LARGE, "the request's body is too large");
        return;
    }
    if (exchange->expects_continue && !exchange->body_done && !exchange->begun) {
        static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";
        exchange->expects_continue = false;
        buffer_append(&connection->out, go_on, sizeof(go_on) - 1);
        connection_flush(connection);
    }
    connection_process(connection);
}

void http_exchange_pause(struct http_exchange *exchange)
{
    exchange->paused = true;
}

void http_exchange_resume(struct http_exchange *exchange)
{
    exchange->paused = false;
    if (exchange->connection != NULL) {
        connection_process(exchange->connection);
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

void http_exchange_add_field_text(struct http_exchange *exchange, struct text name,
                                  struct text value)
{
    CHECK(http_field_is_clean(name, value));
    if (exchange->begun) {
        return;
    }
    struct buffer *out = &exchange->answer_fields;
    buffer_append(out, name.data, name.length);
    buffer_append(out, ": ", 2);
    buffer_append(out, value.data, value.length);
    buffer_append(out, "\r\n", 2);
}

void http_exchange_add_field(struct http_exchange *exchange, const char *name, const char *value)
{
    http_exchange_add_field_text(exchange, text_of(name, strlen(name)),
                                 text_of(value, strlen(value)));
}

static void write_date(struct http_server *server, struct buffer *out)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME_COARSE, &now);
    if ((uint64_t)now.tv_sec != server->date_second) {
        struct tm parts;
        server->date_second = (uint64_t)now.tv_sec;
        gmtime_r(&now.tv_sec, &parts);
        strftime(server->date, sizeof(server->date), "%a, %d %b %Y %H:%M:%S GMT", &parts);
    }
    buffer_append_string(out, "Date: ");
    buffer_append_string(out, server->date);
    buffer_append(out, "\r\n", 2);
}

static void write_head(struct http_exchange *exchange, int status, uint64_t length)
{
    struct connection *connection = exchange->connection;
    struct buffer *out = &connection->out;
    buffer_append_format(out, "HTTP/1.1 %d %s\r\n", status, http_status_text(status));
    write_date(connection->server, out);
    buffer_append(out, exchange->answer_fields.data, exchange->answer_fields.used);
    exchange->has_no_body = status < 200 || status == 204 || status == 304;
    if (!exchange->has_no_body) {
        if (length != UINT64_MAX) {
            buffer_append_format(out, "Content-Length: %" PRIu64 "\r\n", length);
        } else if (exchange->minor >= 1) {
            exchange->is_chunked = true;
            buffer_append_string(out, "Transfer-Encoding: chunked\r\n");
        } else {
            exchange->until_close = true;
        }
    }
    if (exchange->until_close || connection->server->draining) {
        connection->close_after = true;
    }
    if (!exchange->body_done && !exchange->reading && exchange->expects_continue) {
        connection->close_after = true; /* its body may come or not: nobody can tell */
    }
    if (connection->close_after) {
        buffer_append_string(out, "Connection: close\r\n");
    } else if (exchange->minor == 0) {
        buffer_append_string(out, "Connection: keep-alive\r\n");
    }
    buffer_append(out, "\r\n", 2);
    exchange->begun = true;
    exchange->answer_left = length;
}

/* The connection is there until the loop's turn ends; the exchange may go with its last reference.
 */
static void finish(struct http_exchange *exchange)
{
    struct connection *connection = exchange->connection;
    exchange->ended = true;
    connection_flush(connection);
    connection_process(connection);
}

void http_exchange_respond(struct http_exchange *exchange, int status, const void *body,
                           size_t length)
{
    if (exchange->connection == NULL || exchange->begun) {
        return;
    }
    write_head(exchange, status, length);
    if (!exchange->is_head && !exchange->has_no_body) {
        buffer_append(&exchange->connection->out, body, length);
    }
    finish(exchange);
}

void http_exchange_begin(struct http_exchange *exchange, int status, uint64_t length)
{
    if (exchange->connection != NULL && !exchange->begun) {
        write_head(exchange, status, length);
        connection_flush(exchange->connection);
    }
}

bool http_exchange_write(struct http_exchange *exchange, const void *bytes, size_t length)
{
    struct connection *connection = exchange->connection;
    if (connection == NULL || !exchange->begun || exchange->ended || length == 0) {
        return true;
    }
    if (exchange->answer_left != UINT64_MAX && length > exchange->answer_left) {
        http_exchange_abort(exchange); /* more than was announced */
        return true;
    }
    if (exchange->answer_left != UINT64_MAX) {
        exchange->answer_left -= length;
    }
    exchange->references++; /* a failing flush takes the connection's */
    if (!exchange->is_head && !exchange->has_no_body) {
        if (exchange->is_chunked) {
            buffer_append_format(&connection->out, "%zx\r\n", length);
        }
        buffer_append(&connection->out, bytes, length);
        if (exchange->is_chunked) {
            buffer_append(&connection->out, "\r\n", 2);
        }
        connection_flush(connection);
    }
    bool room = exchange->connection == NULL ||
        connection_waiting(connection) <= connection->server->options.write_bytes_high;
    exchange->wants_drain = !room;
    exchange_release(exchange);
    return room;
}

void http_exchange_end(struct http_exchange *exchange)
{
    if (exchange->connection == NULL || !exchange->begun || exchange->ended) {
        return;
    }
    bool has_body = !exchange->is_head && !exchange->has_no_body;
    if (has_body && exchange->answer_left != UINT64_MAX && exchange->answer_left > 0) {
        http_exchange_abort(exchange); /* less than was announced: it must not look whole */
        return;
    }
    if (has_body && exchange->is_chunked) {
        buffer_append(&exchange->connection->out, "0\r\n\r\n", 5);
    }
    finish(exchange);
}

void http_exchange_abort(struct http_exchange *exchange)
{
    if (exchange->connection != NULL) {
        exchange->on_close = NULL; /* it knows */
        connection_close(exchange->connection);
    }
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

/* The connection is gone.  The connection's reference is the caller's to release. */
void exchange_lose(struct http_exchange *exchange)
{
    bool was_open = !exchange->ended;
    exchange->connection = NULL;
    if (!exchange->body_told && exchange->reading) {
        exchange_fail_body(exchange, ERROR_CANCELLED, "the client is gone");
    }
    if (was_open && exchange->on_close != NULL) {
        exchange->on_close(exchange->context);
    }
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
    if (status == 503 || status == 429) {
        http_exchange_add_field(exchange, "Retry-After", "1");
    }
    http_exchange_respond(exchange, status, body.data, body.used);
}
