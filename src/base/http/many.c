/*
 * A server's connections that carry many exchanges at a time: HTTP/2, by ALPN with TLS, in the
 * clear by prior knowledge (RFC 9113, 3.3): the client's first bytes are those of no request of
 * HTTP/1.1; and those of nodes.
 */
#include <string.h>

#include "base/http/connection.h"
#include "base/http/h2.h"
#include "base/http/mux.h"
#include "base/loop/loop.h"

/* ---- The wire ---- */

static void wire_write(const void *bytes, size_t length, void *context)
{
    struct connection *connection = context;
    connection_write(connection, bytes, length);
    connection_flush(connection);
}

static size_t wire_waiting(void *context)
{
    return connection_waiting(context);
}

/* connection_process() ends it when all is written; the peer may still say what nobody reads. */
static void wire_finish(void *context)
{
    struct connection *connection = context;
    connection->close_after = true;
    connection->is_cut = true;
    connection_process(connection);
}

static void nodes_append(const void *bytes, size_t length, void *context)
{
    connection_append(context, bytes, length);
}

static void nodes_write(const void *bytes, size_t length, void *context)
{
    connection_send(context, bytes, length);
}

static const struct http_wire wire = {wire_write, wire_waiting, wire_finish, NULL};
static const struct http_wire nodes_wire = {nodes_write, wire_waiting, wire_finish, nodes_append};

static uint64_t begin(struct connection *connection, const struct multiplexer *many)
{
    connection->wait = WAIT_NOTHING;
    connection->deadline_ms = 0;
    connection->many = many;
    return loop_now_ms(connection->server->loop);
}

/* ---- HTTP/2 ---- */

static void h2_receive(void *ends, const void *bytes, size_t length, uint64_t now_ms)
{
    h2_server_receive(ends, bytes, length, now_ms);
}

static void h2_flush(void *ends, uint64_t now_ms)
{
    (void)now_ms;
    h2_server_flush(ends);
}

static void h2_tick(void *ends, uint64_t now_ms)
{
    h2_server_tick(ends, now_ms);
}

static void h2_drain(void *ends)
{
    h2_server_drain(ends);
}

static size_t h2_count(const void *ends)
{
    return h2_server_streams(ends);
}

static void h2_free(void *ends)
{
    h2_server_free(ends);
}

void connection_begin_h2(struct connection *connection)
{
    static const struct multiplexer h2 = {h2_receive, h2_flush, h2_tick,
                                          h2_drain,   h2_count, h2_free};
    uint64_t now_ms = begin(connection, &h2);
    connection->ends = h2_server_new(connection->server, &wire, connection, connection->peer,
                                     connection->stream, now_ms);
}

int connection_sounds_like_h2(const struct connection *connection)
{
    size_t used = connection->in.used;
    size_t length = used < H2_PREFACE_LENGTH ? used : H2_PREFACE_LENGTH;
    if (connection->stream != NULL || connection->requests > 0 ||
        memcmp(connection->in.data, h2_preface, length) != 0) {
        return -1;
    }
    return used >= H2_PREFACE_LENGTH;
}

/* ---- Between nodes ---- */

static void nodes_receive(void *ends, const void *bytes, size_t length, uint64_t now_ms)
{
    mux_receive(ends, bytes, length, now_ms);
}

static void nodes_flush(void *ends, uint64_t now_ms)
{
    mux_flush(ends, now_ms);
}

static void nodes_tick(void *ends, uint64_t now_ms)
{
    mux_server_tick(ends, now_ms);
}

static void nodes_drain(void *ends)
{
    mux_server_drain(ends);
}

static size_t nodes_count(const void *ends)
{
    return mux_stream_count(ends);
}

static void nodes_free(void *ends)
{
    mux_server_free(ends);
}

void connection_begin_mux(struct connection *connection)
{
    static const struct multiplexer nodes = {nodes_receive, nodes_flush, nodes_tick,
                                             nodes_drain,   nodes_count, nodes_free};
    uint64_t now_ms = begin(connection, &nodes);
    connection->ends = mux_server_new(connection->server, &nodes_wire, connection, connection->peer,
                                      connection->stream, now_ms);
}

/* ---- What was received ---- */

void connection_process_many(struct connection *connection)
{
    if (connection->in.used > 0) {
        connection->many->receive(connection->ends, connection->in.data, connection->in.used,
                                  loop_now_ms(connection->server->loop));
        connection->in.used = 0;
    }
}

void connection_receive_many(struct connection *connection, const void *bytes, size_t length)
{
    connection->processing = true; /* who is called from here comes back to the end of it */
    connection->many->receive(connection->ends, bytes, length,
                              loop_now_ms(connection->server->loop));
    connection->processing = false;
    connection_process(connection);
}
