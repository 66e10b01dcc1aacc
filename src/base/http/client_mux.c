/*
 * Connections that calls of a client share: those to nodes, when the server chose it (ALPN).
 *
 * A call is on a shared connection while call->stream is set.  What a server has certainly not
 * processed (a REFUSED stream, or one it never heard of) is asked again, when its body was given
 * whole.
 */
#include <string.h>

#include "base/check.h"
#include "base/error.h"
#include "base/http/client.h"
#include "base/http/mux.h"
#include "base/loop/loop.h"
#include "base/text.h"

enum { TICK_MS = 1000, REFUSALS_MAX = 3 };

/* ---- What calls are told ---- */

static void on_head(const struct parse_head *head, struct buffer *bytes, void *context)
{
    struct http_call *call = context;
    parse_copy(head, &call->head);
    buffer_done(&call->head_bytes);
    call->head_bytes = *bytes;
    *bytes = (struct buffer){0};
    call->has_head = true;
    loop_timer_stop(call->timer);
    if (call->events.on_head != NULL) {
        call->events.on_head(call, head->status, call->context);
    }
}

static void on_data(const void *bytes, size_t length, void *context)
{
    struct http_call *call = context;
    if (call->events.on_data != NULL) {
        call->events.on_data(call, bytes, length, call->context);
    }
}

static void on_room(void *context)
{
    struct http_call *call = context;
    call->on_writable(call, call->context);
}

/* A connection that had served others was perhaps gone before it heard of this call. */
static bool may_go_again(struct http_call *call, const struct error *error, bool untouched)
{
    if (call->client->freed || call->is_streaming || error->kind != ERROR_UNAVAILABLE) {
        return false;
    }
    if (untouched) {
        return ++call->refusals <= REFUSALS_MAX;
    }
    bool is_stale = call->connection->uses > 1 && mux_client_is_over(call->connection->mux) &&
        !call->has_head && call->may_retry && !call->retried;
    call->retried = call->retried || is_stale;
    return is_stale;
}

static void on_end(const struct error *error, bool untouched, void *context)
{
    struct http_call *call = context;
    struct http_client *client = call->client;
    call->stream = NULL;
    call->was_sent = call->was_sent || !untouched;
    if (error != NULL && may_go_again(call, error, untouched)) {
        client_repeat_call(call); /* begun by the next change() */
        return;
    }
    call->connection = NULL;
    if (error == NULL) {
        client_finish_call(call, NULL);
        return;
    }
    struct error told = *error;
    if (!text_starts_with(told.text, client->address)) { /* the connection's own says so */
        error_wrap(&told, "%s", client->address);
    }
    client_finish_call(call, &told);
}

void client_send_shared(struct client_connection *connection, struct http_call *call)
{
    static const struct mux_call_events events = {on_head, on_data, on_room, on_end};
    connection->uses++;
    call->connection = connection;
    call->stream = mux_client_call(connection->mux, call->request.data, call->request.used,
                                   call->is_streaming, &events, call);
    if (call->streamed.used > 0) {
        mux_call_write(call->stream, call->streamed.data, call->streamed.used);
        call->streamed.used = 0;
    }
    if (call->is_streaming && call->is_finished) {
        mux_call_finish(call->stream);
    }
    if (call->paused) {
        mux_call_pause(call->stream);
    }
}

struct client_connection *client_shared_with_room(struct http_client *client)
{
    LIST_EACH(node, &client->shared)
    {
        struct client_connection *connection = LIST_ITEM(node, struct client_connection, link);
        if (mux_client_has_room(connection->mux)) {
            return connection;
        }
    }
    return NULL;
}

/* ---- The wire ---- */

static void wire_write(const void *bytes, size_t length, void *context)
{
    struct client_connection *connection = context;
    stream_write(connection->stream, bytes, length);
}

static void wire_append(const void *bytes, size_t length, void *context)
{
    struct client_connection *connection = context;
    stream_append(connection->stream, bytes, length);
}

static size_t wire_waiting(void *context)
{
    struct client_connection *connection = context;
    return stream_waiting(connection->stream);
}

static void wire_finish(void *context)
{
    struct client_connection *connection = context;
    client_drop(connection);
}

static void change(void *context)
{
    struct client_connection *connection = context;
    if (!connection->client->freed) {
        client_start_waiting(connection->client);
    }
}

static void on_stream_data(const void *bytes, size_t length, void *context)
{
    struct client_connection *connection = context;
    mux_receive(connection->mux, bytes, length, loop_now_ms(connection->client->loop));
}

static void on_stream_drained(void *context)
{
    struct client_connection *connection = context;
    mux_flush(connection->mux, loop_now_ms(connection->client->loop));
}

static void on_stream_end(const struct error *error, void *context)
{
    struct client_connection *connection = context;
    struct error gone = {0};
    connection->is_cut = true;
    if (error == NULL) {
        error_set(&gone, ERROR_UNAVAILABLE, "the connection was closed in the middle");
    }
    mux_client_lose(connection->mux, error != NULL ? error : &gone);
}

/* ---- Time ---- */

/* Surplus connections, for more calls than one could take, end when they are not used. */
static void on_tick(void *context)
{
    struct http_client *client = context;
    uint64_t now_ms = loop_now_ms(client->loop);
    LIST_EACH(node, &client->shared)
    {
        if (client->freed) {
            return; /* by one of those told just now; its connections are gone after this turn */
        }
        struct client_connection *connection = LIST_ITEM(node, struct client_connection, link);
        bool is_first = client->shared.head.next == node;
        if (!is_first && mux_stream_count(connection->mux) == 0) {
            client_drop(connection);
        } else {
            mux_client_tick(connection->mux, now_ms);
        }
    }
    if (!client->freed && !list_is_empty(&client->shared)) {
        loop_timer_start(client->tick, TICK_MS);
    }
}

/* ---- Life ---- */

void client_share(struct client_connection *connection)
{
    static const struct http_wire wire = {wire_write, wire_waiting, wire_finish, wire_append};
    static const struct stream_events events = {on_stream_data, on_stream_drained, on_stream_end};
    struct http_client *client = connection->client;
    connection->mux = mux_client_new(client->loop, &wire, change, connection,
                                     client->options.head_bytes_max, loop_now_ms(client->loop));
    list_push_back(&client->shared, &connection->link);
    stream_start(connection->stream, &events, connection);
    if (client->tick == NULL) {
        client->tick = loop_timer_new(client->loop, on_tick, client);
    }
    loop_timer_start(client->tick, TICK_MS);
}

void client_unshare(struct client_connection *connection)
{
    struct mux *mux = connection->mux;
    if (mux != NULL) {
        connection->mux = NULL;
        mux_client_free(mux, NULL);
        if (!connection->is_cut) {
            stream_shutdown(connection->stream);
        }
    }
}
