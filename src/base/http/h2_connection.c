/*
 * A server's connections that speak HTTP/2: by ALPN with TLS, in the clear by prior knowledge
 * (RFC 9113, 3.3): the client's first bytes are those of no request of HTTP/1.1.
 */
#include <string.h>

#include "base/http/connection.h"
#include "base/http/h2.h"
#include "base/loop/loop.h"

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

void connection_begin_h2(struct connection *connection)
{
    static const struct h2_wire wire = {wire_write, wire_waiting, wire_finish, NULL};
    struct http_server *server = connection->server;
    connection->wait = WAIT_NOTHING;
    connection->deadline_ms = 0;
    connection->h2 = h2_server_new(server, &wire, connection, connection->peer, connection->stream,
                                   loop_now_ms(server->loop));
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

void connection_process_h2(struct connection *connection)
{
    if (connection->in.used > 0) {
        h2_server_receive(connection->h2, connection->in.data, connection->in.used,
                          loop_now_ms(connection->server->loop));
        connection->in.used = 0;
    }
}

void connection_receive_h2(struct connection *connection, const void *bytes, size_t length)
{
    connection->processing = true; /* who is called from here comes back to the end of it */
    h2_server_receive(connection->h2, bytes, length, loop_now_ms(connection->server->loop));
    connection->processing = false;
    connection_process(connection);
}
