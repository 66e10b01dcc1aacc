/* Streams of a machine that comes from another node while it runs: see peer_stream of service/peer.
 */
#include <string.h>

#include "base/memory.h"
#include "base/stream/stream.h"

#include "service/machine/machine.h"
#include "service/peer/peer.h"

#include "surface/api/parts.h"

enum { WAITING_MAX = 1 << 20 };

struct visit_stream {
    struct request *request;
    struct stream *socket;
    struct buffer held;
    bool is_full;   /* the answer */
    bool is_paused; /* the body */
    bool is_over;
    bool is_ending; /* which may end the body, at once */
    bool input_is_over;
};

static void release(struct visit_stream *stream)
{
    if (stream->is_over && stream->input_is_over && !stream->is_ending) {
        buffer_done(&stream->held);
        free(stream);
    }
}

/* Last of all: it may be gone afterwards. */
static void end(struct visit_stream *stream)
{
    struct request *request = stream->request;
    stream->is_over = stream->is_ending = true;
    http_exchange_on(request->exchange, NULL, NULL, NULL);
    request->stop = NULL;
    stream_close(stream->socket);
    if (!stream->input_is_over && stream->is_paused) {
        http_exchange_resume(request->exchange); /* to nowhere */
    }
    http_exchange_end(request->exchange);
    api_request_end(request);
    stream->is_ending = false;
    release(stream);
}

/* ---- From the socket ---- */

static void on_socket_data(const void *bytes, size_t length, void *context)
{
    struct visit_stream *stream = context;
    if (!http_exchange_write(stream->request->exchange, bytes, length)) {
        stream->is_full = true;
        stream_pause(stream->socket);
    }
}

static void on_socket_drained(void *context)
{
    struct visit_stream *stream = context;
    if (stream->is_paused && !stream->input_is_over) {
        stream->is_paused = false;
        http_exchange_resume(stream->request->exchange);
    }
}

static void on_socket_end(const struct error *error, void *context)
{
    (void)error;
    end(context);
}

/* ---- From the node ---- */

static void on_drain(void *context)
{
    struct visit_stream *stream = context;
    if (stream->is_full) {
        stream->is_full = false;
        stream_resume(stream->socket);
    }
}

static void on_close(void *context)
{
    end(context);
}

static void on_stop(struct request *request)
{
    end(request->state);
}

static void on_body(const void *bytes, size_t length, void *context)
{
    struct visit_stream *stream = context;
    if (stream->is_over) {
        return;
    }
    buffer_append(&stream->held, bytes, length);
    while (stream->held.used >= PEER_FRAME_HEAD) {
        const uint8_t *at = stream->held.data;
        size_t size =
            (size_t)at[0] << 24 | (size_t)at[1] << 16 | (size_t)at[2] << 8 | (size_t)at[3];
        if (size > PEER_FRAME_MAX) {
            end(stream);
            return;
        }
        if (stream->held.used < PEER_FRAME_HEAD + size) {
            break;
        }
        if (size > 0) {
            stream_write(stream->socket, at + PEER_FRAME_HEAD, size);
        }
        buffer_consume(&stream->held, PEER_FRAME_HEAD + size);
    }
    if (stream_waiting(stream->socket) > WAITING_MAX && !stream->is_paused) {
        stream->is_paused = true;
        http_exchange_pause(stream->request->exchange);
    }
}

static void on_body_end(const struct error *error, void *context)
{
    struct visit_stream *stream = context;
    stream->input_is_over = true;
    if (stream->is_over) {
        release(stream);
    } else if (error != NULL) {
        end(stream);
    } else {
        stream_shutdown(stream->socket);
    }
}

void api_machine_visit(struct request *request)
{
    static const struct stream_events events = {on_socket_data, on_socket_drained, on_socket_end};
    struct error err = {0};
    int fd = -1;
    if (machine_visit_stream(request->api->options.machines, request->project,
                             request->parameters[0], request->caller.node, request->parameters[1],
                             &fd, &err) < 0) {
        api_answer_error(request, &err);
        return;
    }
    struct visit_stream *stream = NEW(struct visit_stream);
    stream->request = request;
    stream->socket = stream_adopt(request->api->options.loop, fd);
    request->state = stream;
    request->stop = on_stop;
    http_exchange_on(request->exchange, on_drain, on_close, stream);
    http_exchange_set_body_max(request->exchange, UINT64_MAX);
    api_add_fields(request);
    http_exchange_begin(request->exchange, request->status, UINT64_MAX);
    stream_start(stream->socket, &events, stream);
    http_exchange_read(request->exchange, on_body, on_body_end, stream);
}
