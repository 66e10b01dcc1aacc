/* Connections of a client that carry one call at a time: HTTP/1.1. */
#include <string.h>

#include "base/check.h"
#include "base/error.h"
#include "base/http/client.h"
#include "base/loop/loop.h"

static void fail(struct client_connection *connection, enum error_kind kind, const char *what)
{
    struct error error = {0};
    error_set(&error, kind, "%s: %s", connection->client->address, what);
    client_fail(connection, &error);
}

/* ---- Bytes ---- */

static size_t waiting_bytes(const struct client_connection *connection)
{
    return connection->out.used +
        (connection->stream != NULL ? stream_waiting(connection->stream) : 0);
}

static void tell_room(struct client_connection *connection)
{
    struct http_call *call = connection->call;
    if (!connection->closing && call != NULL && call->is_streaming && !call->is_finished &&
        waiting_bytes(connection) == 0) {
        call->on_writable(call, call->context);
    }
}

static void on_room(void *argument)
{
    struct client_connection *connection = argument;
    connection->holds--;
    connection->tells_room = false;
    tell_room(connection);
    client_free_memory(connection);
}

static void flush(struct client_connection *connection)
{
    struct http_call *call = connection->call;
    if (connection->stream == NULL || connection->out.used == 0) {
        return;
    }
    call->was_sent = true;
    stream_write(connection->stream, connection->out.data, connection->out.used);
    connection->out.used = 0;
    if (call->is_streaming && !connection->tells_room && waiting_bytes(connection) == 0) {
        connection->tells_room = true; /* the kernel took all of it: nothing else will tell */
        connection->holds++;
        loop_post(connection->client->loop, on_room, connection);
    }
}

static void on_drained(void *context)
{
    tell_room(context);
}

static void on_data(const void *bytes, size_t length, void *context)
{
    struct client_connection *connection = context;
    if (connection->call == NULL) {
        client_drop(connection); /* nobody asked: it must not pass for the next call's answer */
        return;
    }
    buffer_append(&connection->in, bytes, length);
    client_process(connection);
}

static void on_end(const struct error *error, void *context)
{
    struct client_connection *connection = context;
    struct http_call *call = connection->call;
    if (call == NULL) {
        client_drop(connection);
    } else if (error != NULL) {
        client_fail(connection, error);
    } else if (call->has_head && call->until_close) {
        client_release(connection, false, NULL);
    } else {
        fail(connection, ERROR_UNAVAILABLE, "the connection was closed in the middle");
    }
}

/* Nobody listens while a call is paused; an idle connection listens for its end. */
void client_watch(struct client_connection *connection)
{
    if (connection->stream == NULL) {
        return;
    }
    if (connection->call != NULL && connection->call->paused) {
        stream_pause(connection->stream);
    } else {
        stream_resume(connection->stream);
    }
}

/* ---- Answers ---- */

static bool take_head(struct client_connection *connection)
{
    struct http_call *call = connection->call;
    const struct parse_limits limits = {call->client->options.head_bytes_max, PARSE_FIELDS_MAX, 0};
    struct parse_head *head = &call->head;
    long length = parse_answer(connection->in.data, connection->in.used, &limits, head);
    if (length == 0) {
        return false;
    }
    if (length < 0) {
        fail(connection, ERROR_PROTOCOL, "the answer is not HTTP");
        return false;
    }
    if (head->status == 101) {
        fail(connection, ERROR_PROTOCOL, "the answer switches protocols unasked");
        return false;
    }
    if (head->status < 200) {
        buffer_consume(&connection->in, (size_t)length);
        return true;
    }
    /* The head's texts must outlive the input buffer. */
    call->head_bytes.used = 0;
    buffer_append(&call->head_bytes, connection->in.data, (size_t)length);
    parse_answer(call->head_bytes.data, call->head_bytes.used, &limits, head);
    buffer_consume(&connection->in, (size_t)length);
    call->has_head = true;
    bool none = call->is_head || head->status == 204 || head->status == 304;
    call->body = none                       ? BODY_NONE
        : head->is_chunked                  ? BODY_CHUNKED
        : head->has_length && !head->length ? BODY_NONE
                                            : BODY_LENGTH;
    call->until_close = call->body == BODY_LENGTH && !head->has_length;
    call->left = call->until_close ? UINT64_MAX : head->length;
    call->wants_close = head->wants_close || head->minor == 0 || call->until_close;
    loop_timer_stop(call->timer);
    if (call->events.on_head != NULL) {
        call->events.on_head(call, head->status, call->context);
    }
    return connection->call == call;
}

static void give(struct http_call *call, const void *bytes, size_t length)
{
    if (length > 0 && call->events.on_data != NULL) {
        call->events.on_data(call, bytes, length, call->context);
    }
}

/* Returns 1 when the body is complete, 0 to go on or wait, -1 when it failed. */
static int take_body(struct client_connection *connection)
{
    struct http_call *call = connection->call;
    struct buffer *in = &connection->in;
    if (call->body == BODY_NONE) {
        return 1;
    }
    if (in->used == 0) {
        return 0;
    }
    if (call->body == BODY_LENGTH) {
        size_t part = call->left < in->used ? (size_t)call->left : in->used;
        if (!call->until_close) {
            call->left -= part;
        }
        give(call, in->data, part);
        if (connection->call != call) {
            return 0;
        }
        buffer_consume(in, part);
        return call->left == 0;
    }
    size_t used = 0;
    struct text data;
    int r = parse_chunk(&call->chunks, in->data, in->used, &used, &data);
    if (r >= 0) {
        give(call, data.data, data.length);
    }
    if (connection->call != call) {
        return 0;
    }
    buffer_consume(in, used);
    return r;
}

static void process_input(struct client_connection *connection)
{
    while (!connection->closing && connection->call != NULL && !connection->call->paused) {
        struct http_call *call = connection->call;
        if (!call->has_head) {
            if (!take_head(connection)) {
                return;
            }
            continue;
        }
        size_t before = connection->in.used;
        int r = take_body(connection);
        if (connection->call != call) {
            return;
        }
        if (r < 0) {
            fail(connection, ERROR_PROTOCOL, "the answer is not well chunked");
            return;
        }
        if (r > 0) {
            bool keep = !call->wants_close && (!call->is_streaming || call->is_finished);
            client_release(connection, keep, NULL);
            return;
        }
        if (connection->in.used == before || connection->in.used == 0) {
            return;
        }
    }
}

/* A callback may resume its own call: the loop above goes on then, it does not begin again. */
void client_process(struct client_connection *connection)
{
    if (!connection->processing) {
        connection->processing = true;
        process_input(connection);
        connection->processing = false;
    }
}

/* ---- Requests ---- */

static void append_body(const struct http_call *call, struct buffer *out, const void *bytes,
                        size_t length)
{
    if (call->is_chunked) {
        buffer_append_format(out, "%zx\r\n", length);
    }
    buffer_append(out, bytes, length);
    if (call->is_chunked) {
        buffer_append(out, "\r\n", 2);
    }
}

void client_send(struct client_connection *connection)
{
    struct http_call *call = connection->call;
    connection->uses++;
    buffer_append(&connection->out, call->request.data, call->request.used);
    if (call->streamed.used > 0) {
        append_body(call, &connection->out, call->streamed.data, call->streamed.used);
        call->streamed.used = 0;
    }
    if (call->is_streaming && call->is_finished && call->is_chunked) {
        buffer_append(&connection->out, "0\r\n\r\n", 5);
    }
    client_watch(connection);
    flush(connection);
}

void client_start_alone(struct client_connection *connection)
{
    static const struct stream_events events = {on_data, on_drained, on_end};
    stream_start(connection->stream, &events, connection);
}

bool client_write(struct client_connection *connection, const void *bytes, size_t length)
{
    if (length > 0) {
        append_body(connection->call, &connection->out, bytes, length);
    }
    flush(connection);
    return waiting_bytes(connection) < CLIENT_WRITE_HIGH;
}

void client_finish_body(struct client_connection *connection)
{
    buffer_append(&connection->out, "0\r\n\r\n", connection->call->is_chunked ? 5 : 0);
    flush(connection);
}
