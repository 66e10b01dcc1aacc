/* A socket that goes on at another node.  See peer.h. */
#include "base/stream/stream.h"

#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "base/http/http.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "service/peer/inside.h"

/* A server ends a body that is silent for longer. */
enum { LIFE_EVERY_MS = 5000, WAITING_MAX = 1 << 20 };

struct peer_stream {
    struct peer_clients *clients;
    struct peer_client *client;
    struct http_call *call;
    struct stream *socket;
    struct loop_timer *timer;
    struct peer_stream_events events;
    void *context;
    int status;
    bool is_open;
    bool is_finished; /* our half */
    bool is_full;
    bool is_paused; /* the answer */
    bool is_freed;
    struct error error;
};

static void destroy(struct peer_stream *stream)
{
    stream_close(stream->socket);
    loop_timer_free(stream->timer);
    if (stream->client != NULL) {
        peer_client_leave(stream->clients, stream->client);
    }
    free(stream);
}

void peer_stream_free(struct peer_stream *stream)
{
    if (stream == NULL || stream->is_freed) {
        return;
    }
    stream->is_freed = true;
    loop_timer_stop(stream->timer);
    if (stream->call != NULL) {
        http_call_cancel(stream->call); /* the end destroys it, now or later */
    } else {
        destroy(stream);
    }
}

/* ---- The socket ---- */

static void send_frame(struct peer_stream *stream, const void *bytes, size_t length)
{
    const uint8_t head[PEER_FRAME_HEAD] = {(uint8_t)(length >> 24), (uint8_t)(length >> 16),
                                           (uint8_t)(length >> 8), (uint8_t)length};
    bool has_room = http_call_write(stream->call, head, sizeof(head));
    has_room = length == 0 ? has_room : http_call_write(stream->call, bytes, length);
    if (!has_room && !stream->is_full) {
        stream->is_full = true;
        stream_pause(stream->socket);
    }
}

static void on_socket_data(const void *bytes, size_t length, void *context)
{
    struct peer_stream *stream = context;
    const uint8_t *at = bytes;
    while (length > 0 && stream->call != NULL && !stream->is_finished) {
        size_t piece = length < PEER_FRAME_MAX ? length : PEER_FRAME_MAX;
        send_frame(stream, at, piece);
        at += piece;
        length -= piece;
    }
}

static void on_socket_drained(void *context)
{
    struct peer_stream *stream = context;
    if (stream->is_paused && stream->call != NULL) {
        stream->is_paused = false;
        http_call_resume(stream->call);
    }
}

static void on_socket_end(const struct error *error, void *context)
{
    struct peer_stream *stream = context;
    (void)error;
    if (stream->call != NULL && !stream->is_finished) {
        stream->is_finished = true;
        http_call_finish(stream->call);
    }
}

static void on_timer(void *context)
{
    struct peer_stream *stream = context;
    if (stream->call == NULL) { /* it could not begin */
        stream->events.on_end(&stream->error, stream->context);
        return;
    }
    if (stream->is_open && !stream->is_finished && !stream->is_full) {
        send_frame(stream, NULL, 0);
    }
    loop_timer_start(stream->timer, LIFE_EVERY_MS);
}

/* ---- The call ---- */

static void on_writable(struct http_call *call, void *context)
{
    static const struct stream_events events = {on_socket_data, on_socket_drained, on_socket_end};
    struct peer_stream *stream = context;
    (void)call;
    if (stream->is_freed) {
        return;
    }
    if (!stream->is_open) {
        stream->is_open = true;
        stream_start(stream->socket, &events, stream);
        send_frame(stream, NULL, 0);
    } else if (stream->is_full) {
        stream->is_full = false;
        stream_resume(stream->socket);
    }
}

static void on_head(struct http_call *call, int status, void *context)
{
    struct peer_stream *stream = context;
    (void)call;
    stream->status = status;
    if (status < 300 && !stream->is_freed) {
        stream->events.on_open(stream->context);
    }
}

static void on_data(struct http_call *call, const void *bytes, size_t length, void *context)
{
    struct peer_stream *stream = context;
    if (stream->is_freed || stream->status >= 300) {
        return;
    }
    stream_write(stream->socket, bytes, length);
    if (stream_waiting(stream->socket) > WAITING_MAX && !stream->is_paused) {
        stream->is_paused = true;
        http_call_pause(call);
    }
}

static void on_call_end(struct http_call *call, const struct error *error, void *context)
{
    struct peer_stream *stream = context;
    (void)call;
    stream->call = NULL;
    if (stream->is_freed) {
        destroy(stream);
        return;
    }
    loop_timer_stop(stream->timer);
    stream_shutdown(stream->socket);
    if (error != NULL) {
        peer_name_error(stream->client, error, &stream->error);
    } else if (stream->status >= 300) {
        error_set(&stream->error, ERROR_UNAVAILABLE, "node %s answered %d", stream->client->name,
                  stream->status);
    }
    stream->events.on_end(stream->error.kind != ERROR_NONE ? &stream->error : NULL,
                          stream->context);
}

struct peer_stream *peer_stream_new(struct peer_clients *clients, uint64_t node, const char *target,
                                    int owned_fd, const struct peer_stream_events *events,
                                    void *context)
{
    static const struct http_call_events call_events = {on_head, on_data, on_call_end};
    struct peer_stream *stream = NEW(struct peer_stream);
    stream->clients = clients;
    stream->socket = stream_adopt(clients->loop, owned_fd);
    stream->events = *events;
    stream->context = context;
    stream->timer = loop_timer_new(clients->loop, on_timer, stream);
    if (peer_client_enter(clients, node, &stream->client, &stream->error) < 0) {
        loop_timer_start(stream->timer, 0);
        return stream;
    }
    loop_timer_start(stream->timer, LIFE_EVERY_MS);
    stream->call = http_client_call_streaming(stream->client->http, "POST", target, NULL,
                                              UINT64_MAX, on_writable, &call_events, stream);
    return stream;
}
