/* See outside.h: engine/clone's tunnels are service/fetch's. */
#include "main/outside.h"

#include <string.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/memory.h"

#include "service/fetch/fetch.h"

enum { PIECE = 65536 };

struct connection {
    struct clone_tunnel *tunnel;
    struct fetch *fetch;
    bool is_full;    /* the guest takes no more for now */
    bool is_waiting; /* the other end took no more: it is told when it does */
};

static void pass_on(struct connection *connection)
{
    struct fetch *fetch = connection->fetch;
    while (!connection->is_full && fetch_waiting(fetch) > 0) {
        BUFFER_OWNED struct buffer piece = {0};
        fetch_take(fetch, PIECE, &piece);
        connection->is_full = !clone_tunnel_write(connection->tunnel, piece.data, piece.used);
    }
    if (connection->is_waiting && !fetch_tunnel_is_full(fetch)) {
        connection->is_waiting = false;
        clone_tunnel_drained(connection->tunnel);
    }
    if (fetch_waiting(fetch) == 0 && fetch_is_over(fetch)) {
        struct error error = {0};
        const struct error *why = fetch_error(fetch);
        if (why != NULL) {
            error = *why;
        }
        clone_tunnel_end(connection->tunnel, why != NULL ? &error : NULL); /* and closes it */
    }
}

static void on_change(void *context)
{
    pass_on(context);
}

static void *open_one(const struct clone_outside *outside, const char *target,
                      struct clone_tunnel *tunnel, void *context, struct error *err)
{
    struct fetch_service *service = *(struct fetch_service **)context;
    MEMORY_OWNED char *url = memory_format("https://%s/", target);
    const struct fetch_request request = {.project = outside->project,
                                          .function = outside->function,
                                          .version = outside->version,
                                          .allow = outside->allow,
                                          .allow_length = outside->allow_length,
                                          .url = text_of(url, strlen(url)),
                                          .timeout_ms = outside->timeout_ms,
                                          .trace = trace_parent_of(outside->trace)};
    if (service == NULL) {
        error_set(err, ERROR_UNAVAILABLE, "this node is starting or stopping");
        return NULL;
    }
    struct connection *connection = NEW(struct connection);
    connection->tunnel = tunnel;
    connection->fetch = fetch_tunnel_new(service, &request, on_change, connection, err);
    if (connection->fetch == NULL) {
        free(connection);
        return NULL;
    }
    return connection;
}

static bool write_one(void *context, const void *bytes, size_t length)
{
    struct connection *connection = context;
    connection->is_waiting = !fetch_tunnel_write(connection->fetch, bytes, length);
    return !connection->is_waiting;
}

static void finish_one(void *context)
{
    const struct connection *connection = context;
    fetch_tunnel_finish(connection->fetch);
}

static void resume_one(void *context)
{
    struct connection *connection = context;
    connection->is_full = false;
    pass_on(connection);
}

static void close_one(void *context)
{
    struct connection *connection = context;
    fetch_free(connection->fetch);
    free(connection);
}

struct clone_tunnel_driver outside_driver(struct fetch_service **place)
{
    return (struct clone_tunnel_driver){.open = open_one,
                                        .write = write_one,
                                        .finish = finish_one,
                                        .resume = resume_one,
                                        .close = close_one,
                                        .context = (void *)place};
}
