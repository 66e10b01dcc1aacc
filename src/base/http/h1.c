/*
 * HTTP/1.1 as carrier of exchanges: one at a time per connection, bodies framed by their length, by
 * chunks or by the end of the connection.
 */
#include <inttypes.h>

#include "base/check.h"
#include "base/http/connection.h"

/* ---- The request's body ---- */

static bool feed_length(struct http_exchange *exchange, struct buffer *in)
{
    size_t part = exchange->body_left < in->used ? (size_t)exchange->body_left : in->used;
    bool good = exchange_give(exchange, in->data, part);
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
    bool good = exchange_give(exchange, data.data, data.length);
    if (exchange->connection != NULL) {
        buffer_consume(in, used);
    }
    exchange->body_done = exchange->body_done || r == 1;
    return good;
}

static bool feed_raw(struct http_exchange *exchange, struct buffer *in)
{
    size_t length = in->used;
    bool good = exchange_give(exchange, in->data, length);
    if (exchange->connection != NULL) {
        buffer_consume(in, length);
    }
    return good;
}

static bool feed(struct http_exchange *exchange, struct buffer *in)
{
    switch (exchange->body) {
    case BODY_LENGTH:
        return feed_length(exchange, in);
    case BODY_RAW:
        return feed_raw(exchange, in);
    case BODY_NONE:
    case BODY_CHUNKED:
        return feed_chunk(exchange, in);
    }
    CHECK_UNREACHABLE();
}

/* Take what has been received, as far as it is wanted. */
void h1_feed(struct http_exchange *exchange)
{
    struct connection *connection = exchange->connection;
    bool wanted = exchange->reading || exchange->ended;
    exchange->references++;
    while (connection != NULL && wanted && !exchange->paused && !exchange->body_done &&
           connection->in.used > 0) {
        if (!feed(exchange, &connection->in)) {
            break;
        }
        connection = exchange->connection;
    }
    exchange_take_end(exchange);
    exchange_release(exchange);
}

/* "Expect: 100-continue" is answered when reading begins. */
static void take_body(struct http_exchange *exchange)
{
    struct connection *connection = exchange->connection;
    if (exchange->reading && exchange->expects_continue && !exchange->body_done &&
        !exchange->begun) {
        static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";
        exchange->expects_continue = false;
        buffer_append(&connection->out, go_on, sizeof(go_on) - 1);
        connection_flush(connection);
    }
    connection_process(connection);
}

static void cut_body(struct http_exchange *exchange)
{
    exchange->connection->close_after = true;
    exchange->connection->is_cut = true;
}

/* ---- The answer ---- */

static void begin(struct http_exchange *exchange, int status, uint64_t length)
{
    struct connection *connection = exchange->connection;
    struct http_server *server = connection->server;
    struct buffer *out = &connection->out;
    exchange_write_head(exchange, server, status, out);
    if (exchange->upgrade != NULL) {
        buffer_append_format(out, "Upgrade: %s\r\nConnection: Upgrade\r\n\r\n", exchange->upgrade);
        connection->close_after = true;
        return;
    }
    if (!exchange->has_no_body) {
        if (length != UINT64_MAX) {
            buffer_append(out, "Content-Length: ", 16);
            buffer_append_decimal(out, length);
            buffer_append(out, "\r\n", 2);
        } else if (exchange->minor >= 1) {
            exchange->is_chunked = true;
            buffer_append_string(out, "Transfer-Encoding: chunked\r\n");
        } else {
            exchange->until_close = true;
        }
    }
    if (exchange->until_close || server->draining) {
        connection->close_after = true;
    }
    if (!exchange->body_done && !exchange->reading && exchange->expects_continue) {
        connection->close_after = true; /* its body may come or not: nobody can tell */
    }
    if (status == 426) {
        buffer_append_string(out, "Connection: Upgrade\r\n"); /* of its Upgrade: RFC 9110, 7.8 */
    }
    if (connection->close_after) {
        buffer_append_string(out, "Connection: close\r\n");
    } else if (exchange->minor == 0) {
        buffer_append_string(out, "Connection: keep-alive\r\n");
    }
    buffer_append(out, "\r\n", 2);
}

static void write_body(struct http_exchange *exchange, const void *bytes, size_t length)
{
    struct buffer *out = &exchange->connection->out;
    if (exchange->is_chunked) {
        buffer_append_format(out, "%zx\r\n", length);
    }
    connection_write(exchange->connection, bytes, length);
    if (exchange->is_chunked) {
        buffer_append(out, "\r\n", 2);
    }
}

static void flush(struct http_exchange *exchange)
{
    connection_flush(exchange->connection);
}

/* The connection is there until the loop's turn ends; the exchange may go with its last reference.
 */
static void end(struct http_exchange *exchange)
{
    struct connection *connection = exchange->connection;
    if (exchange->is_chunked && !exchange->is_head) {
        buffer_append(&connection->out, "0\r\n\r\n", 5);
    }
    connection_flush(connection);
    connection_process(connection);
}

static void abort_connection(struct http_exchange *exchange)
{
    connection_close(exchange->connection);
}

static size_t waiting(const struct http_exchange *exchange)
{
    return connection_waiting(exchange->connection);
}

const struct exchange_carrier h1_carrier = {
    .take_body = take_body,
    .cut_body = cut_body,
    .begin = begin,
    .write = write_body,
    .flush = flush,
    .end = end,
    .abort = abort_connection,
    .waiting = waiting,
    .flush_is_dear = true,
};
