/*
 * Server-sent events.  A reader that does not keep up is dropped when BEHIND_MAX bytes wait for it:
 * it comes back with Last-Event-ID.  A comment every HEARTBEAT_MS finds readers that are gone.
 */
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/memory.h"

#include "surface/api/parts.h"

enum { HEARTBEAT_MS = 15000, BEHIND_MAX = 1 << 20 };

struct stream {
    struct request *request;
    struct loop_timer *timer;
    size_t behind;
    bool is_behind;
    bool ended;
    void (*on_end)(void *context);
    void *context;
};

static void stream_free(struct stream *stream)
{
    struct request *request = stream->request;
    stream->on_end(stream->context);
    http_exchange_on(request->exchange, NULL, NULL, NULL);
    loop_timer_free(stream->timer);
    free(stream);
    api_request_end(request);
}

/* Not at once: whoever sends may be above us on the stack. */
static void end_soon(struct stream *stream)
{
    stream->ended = true;
    loop_timer_start(stream->timer, 0);
}

static void on_timer(void *context)
{
    struct stream *stream = context;
    if (stream->ended) {
        stream_free(stream);
        return;
    }
    loop_timer_start(stream->timer, HEARTBEAT_MS);
    http_exchange_write(stream->request->exchange, ":\n\n", 3);
}

static void on_drain(void *context)
{
    struct stream *stream = context;
    stream->is_behind = false;
    stream->behind = 0;
}

static void on_close(void *context)
{
    end_soon(context);
}

static void on_stop(struct request *request)
{
    struct stream *stream = request->state;
    if (!stream->ended) {
        http_exchange_end(request->exchange);
        end_soon(stream);
    }
}

struct stream *api_stream_begin(struct request *request, void (*on_end)(void *context),
                                void *context)
{
    struct stream *stream = NEW(struct stream);
    stream->request = request;
    stream->on_end = on_end;
    stream->context = context;
    stream->timer = loop_timer_new(request->api->options.loop, on_timer, stream);
    loop_timer_start(stream->timer, HEARTBEAT_MS);
    request->state = stream;
    request->stop = on_stop;
    api_add_fields(request);
    http_exchange_add_field(request->exchange, "Content-Type", "text/event-stream");
    http_exchange_on(request->exchange, on_drain, on_close, stream); /* it may be gone already */
    http_exchange_begin(request->exchange, 200, UINT64_MAX);
    if (http_exchange_method(request->exchange) == HTTP_HEAD) {
        http_exchange_end(request->exchange);
        end_soon(stream);
    } else {
        http_exchange_write(request->exchange, ":\n\n", 3);
    }
    return stream;
}

bool api_stream_send(struct stream *stream, const char *event_or_null, const char *id_or_null,
                     const char *data)
{
    if (stream->ended) {
        return false;
    }
    CHECK(strpbrk(data, "\r\n") == NULL);
    BUFFER_OWNED struct buffer text = {0};
    if (id_or_null != NULL) {
        buffer_append_format(&text, "id: %s\n", id_or_null);
    }
    if (event_or_null != NULL) {
        buffer_append_format(&text, "event: %s\n", event_or_null);
    }
    buffer_append_string(&text, "data: ");
    buffer_append_string(&text, data);
    buffer_append_string(&text, "\n\n");
    if (stream->is_behind && stream->behind + text.used > BEHIND_MAX) {
        http_exchange_abort(stream->request->exchange);
        end_soon(stream);
        return false;
    }
    stream->behind += text.used;
    if (!http_exchange_write(stream->request->exchange, text.data, text.used)) {
        stream->is_behind = true;
    } else if (!stream->is_behind) {
        stream->behind = 0;
    }
    return true;
}
