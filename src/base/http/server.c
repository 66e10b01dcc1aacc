/*
 * Servers: their options, their clock and their end.
 *
 * Time limits are looked at by one timer per server: a connection's deadline is a number.
 */
#include "base/check.h"
#include "base/error.h"
#include "base/http/connection.h"
#include "base/loop/loop.h"
#include "base/memory.h"

enum { TICK_MS = 250 };

struct http_server_options http_server_defaults(void)
{
    return (struct http_server_options){
        .head_bytes_max = 65536,
        .field_count_max = 100,
        .target_bytes_max = 8192,
        .body_bytes_max = UINT64_C(64) << 20,
        .connections_max = 10000,
        .head_timeout_ms = 10000,
        .idle_timeout_ms = 75000,
        .body_timeout_ms = 30000,
        .write_timeout_ms = 30000,
        .write_bytes_high = 262144,
    };
}

/* ---- Time ---- */

static void on_tick(void *context)
{
    struct http_server *server = context;
    uint64_t now_ms = loop_now_ms(server->loop);
    LIST_EACH(node, &server->connections)
    {
        connection_tick(LIST_ITEM(node, struct connection, link), now_ms);
    }
    if (server->freed) {
        return; /* by one of those told just now */
    }
    if (server->draining && server->drained != NULL && now_ms >= server->drain_deadline_ms) {
        LIST_EACH(node, &server->connections)
        {
            connection_close(LIST_ITEM(node, struct connection, link));
        }
    }
    uint64_t every = TICK_MS;
    const uint64_t limits[] = {server->options.head_timeout_ms, server->options.body_timeout_ms,
                               server->options.idle_timeout_ms, server->options.write_timeout_ms};
    for (size_t i = 0; i < sizeof(limits) / sizeof(limits[0]); i++) {
        every = limits[i] / 4 + 1 < every ? limits[i] / 4 + 1 : every;
    }
    loop_timer_start(server->tick, every);
}

/* ---- Life ---- */

int http_server_new(struct loop *loop, const struct http_server_options *options,
                    http_handler handler, void *context, struct http_server **ret_server,
                    struct error *err)
{
    (void)err;
    struct http_server *server = NEW(struct http_server);
    server->loop = loop;
    server->options = *options;
    server->handler = handler;
    server->context = context;
    list_init(&server->listeners);
    list_init(&server->secure_listeners);
    list_init(&server->connections);
    server->tick = loop_timer_new(loop, on_tick, server);
    on_tick(server);
    *ret_server = server;
    return 0;
}

/* What the server waited for is gone: perhaps it was the last.  `drained` may free the server. */
void server_release(struct http_server *server)
{
    if (server->handles == 1 && server->draining && server->drained != NULL) {
        void (*drained)(void *context) = server->drained;
        server->drained = NULL;
        drained(server->drained_context);
    }
    server->handles--;
    if (server->freed && server->handles == 0) {
        free(server);
    }
}

static void on_drain_post(void *argument)
{
    struct http_server *server = argument;
    server_release(server);
}

void http_server_drain(struct http_server *server, uint64_t timeout_ms,
                       void (*drained)(void *context), void *context)
{
    CHECK(!server->draining);
    server->draining = true;
    server->drained = drained;
    server->drained_context = context;
    server->drain_deadline_ms = loop_now_ms(server->loop) + timeout_ms;
    server_close_listeners(server);
    LIST_EACH(node, &server->connections)
    {
        connection_drain(LIST_ITEM(node, struct connection, link));
    }
    server->handles++; /* the post's */
    loop_post(server->loop, on_drain_post, server);
}

void http_server_free(struct http_server *server)
{
    if (server == NULL) {
        return;
    }
    server->drained = NULL;
    server->freed = true;
    server->handles++; /* until we are through */
    server_close_listeners(server);
    LIST_EACH(node, &server->connections)
    {
        connection_close(LIST_ITEM(node, struct connection, link));
    }
    loop_timer_free(server->tick);
    server->tick = NULL;
    server_release(server);
}

void http_server_counters(const struct http_server *server, struct http_server_counters *ret)
{
    *ret = server->counters;
}
