/*
 * A client's end of the protocol between nodes: calls side by side, each on a stream of its own.
 *
 * What a call does goes out in the same turn of the loop; what it is told comes from the loop.  A
 * call that was cancelled is gone for who made it, and its stream is closed at once.
 */
#include <string.h>

#include "base/check.h"
#include "base/error.h"
#include "base/http/mux.h"
#include "base/loop/loop.h"
#include "base/memory.h"

enum {
    OUT_HIGH = 262144,
    SILENCE_MS = 5000,       /* then the server is asked */
    SIGN_OF_LIFE_MS = 10000, /* to answer in */
};

struct mux_call {
    struct mux_stream stream;
    struct mux_call_events events;
    void *context;
    bool is_head; /* its answer has no body, whatever its head says */
    bool is_streaming;
    bool is_cancelled;
    bool is_paused;
    bool is_bad; /* the request is none */
    bool wants_room;
};

struct client {
    struct mux mux;
    void (*changed)(void *context);
    struct parse_limits limits;
    struct parse_head head; /* scratch */
    struct error error;     /* what calls end with when the connection is lost */
    bool has_changed;
};

static struct client *client_of(const struct mux *mux)
{
    return (struct client *)(uintptr_t)mux;
}

static struct mux_call *call_of(struct mux_stream *stream)
{
    return (struct mux_call *)stream;
}

/* ---- What the server says ---- */

static uint64_t body_length(const struct mux_call *call, const struct parse_head *head)
{
    if (call->is_head || head->status == 204 || head->status == 304) {
        return 0;
    }
    return head->has_length ? head->length : UINT64_MAX;
}

static void on_head(struct mux *mux, struct mux_stream *stream, uint32_t id, const uint8_t *bytes,
                    size_t length, bool is_end)
{
    struct client *client = client_of(mux);
    struct parse_head *head = &client->head;
    (void)id;
    if (stream == NULL) {
        return; /* it was cancelled */
    }
    struct mux_call *call = call_of(stream);
    BUFFER_OWNED struct buffer own = {0};
    buffer_append(&own, bytes, length);
    long r = parse_answer(own.data, own.used, &client->limits, head);
    if (r != (long)length || stream->has_head || head->status == 101 ||
        (head->status < 200 && is_end)) {
        mux_reset(stream, MUX_MALFORMED);
        return;
    }
    if (head->status < 200) {
        return; /* interim answers are not shown */
    }
    if (mux_expect(stream, body_length(call, head), is_end)) {
        call->events.on_head(head, &own, call->context);
    }
}

static bool takes(const struct mux_stream *stream)
{
    return !((const struct mux_call *)stream)->is_paused;
}

static void on_data(struct mux_stream *stream, const uint8_t *bytes, size_t length)
{
    struct mux_call *call = call_of(stream);
    call->events.on_data(bytes, length, call->context);
}

static void on_control(struct mux *mux, enum mux_kind kind)
{
    struct client *client = client_of(mux);
    if (kind != MUX_GOAWAY) {
        return;
    }
    client->has_changed = true;
    mux->ends_when_idle = true;
    LIST_EACH(node, &mux->streams)
    {
        struct mux_stream *stream = LIST_ITEM(node, struct mux_stream, link);
        if (!stream->head_sent) { /* it would come too late, perhaps to a server that is gone */
            mux_close(stream, MUX_REFUSED);
        }
    }
}

/* ---- Acting on it ---- */

static void fill_error(const struct mux_call *call, struct error *ret_error)
{
    switch (call->stream.code) {
    case MUX_MALFORMED:
        error_set(ret_error, ERROR_PROTOCOL, "the answer is not HTTP");
        return;
    case MUX_REFUSED:
        error_set(ret_error, ERROR_UNAVAILABLE, "the server takes no calls now");
        return;
    case MUX_UNWANTED:
    case MUX_CANCELLED:
    case MUX_FAILED:
    case MUX_CODES:
        error_set(ret_error, ERROR_UNAVAILABLE, "the answer was broken off");
        return;
    }
}

static void end_call(struct mux_call *call)
{
    struct client *client = client_of(call->stream.mux);
    struct error error = {0};
    bool is_whole = call->stream.in_ended && !client->mux.is_freed;
    bool untouched = !call->stream.head_sent;
    if (call->is_bad) {
        error_set(&error, ERROR_INVALID, "the request's head is longer than %d bytes",
                  MUX_HEAD_BYTES);
    } else if (!is_whole && client->mux.is_dead) {
        error = client->error;
    } else if (!is_whole) {
        fill_error(call, &error);
        untouched = untouched || call->stream.code == MUX_REFUSED;
    }
    client->has_changed = true;
    mux_stream_free(&call->stream);
    if (!call->is_cancelled) { /* it is there until nobody is at work */
        call->events.on_end(error.kind != ERROR_NONE ? &error : NULL, untouched, call->context);
    }
}

static void on_event(struct mux_stream *stream)
{
    struct mux_call *call = call_of(stream);
    if (!call->is_cancelled && !stream->mux->is_freed) {
        mux_feed(stream);
    }
    if (call->wants_room && mux_left(stream) == 0 && !stream->out_ended && !stream->is_closed) {
        call->wants_room = false;
        call->events.on_room(call->context);
    }
    bool is_told = stream->in.used == 0 && takes(stream);
    if (stream->in_ended && is_told && !stream->is_closed && !stream->out_ended) {
        mux_reset(stream, MUX_UNWANTED); /* it does not want the rest of the body */
    }
    bool waits = stream->in_ended && !is_told && !call->is_cancelled && !stream->mux->is_freed;
    if (stream->is_closed && !waits) {
        end_call(call);
    }
}

static void on_turn(struct mux *mux)
{
    struct client *client = client_of(mux);
    while (client->has_changed && !mux->is_freed) {
        client->has_changed = false;
        client->changed(mux->context);
    }
}

static void set_error(struct client *client, const struct error *error)
{
    if (client->error.kind == ERROR_NONE) {
        client->error = *error;
    }
}

static void on_dead(struct mux *mux)
{
    struct client *client = client_of(mux);
    struct error error = {0};
    error_set(&error, mux->ends_when_idle ? ERROR_UNAVAILABLE : ERROR_PROTOCOL,
              mux->ends_when_idle ? "the server has ended the connection"
                                  : "the answer is not HTTP");
    set_error(client, &error);
    client->has_changed = true;
}

static void free_client(struct mux *mux)
{
    mux_done(mux);
    free(client_of(mux));
}

static const struct mux_end end = {
    .on_head = on_head,
    .takes = takes,
    .on_data = on_data,
    .on_event = on_event,
    .on_control = on_control,
    .on_turn = on_turn,
    .on_dead = on_dead,
    .free = free_client,
};

/* ---- Calls ---- */

/* Its head's length, or 0: the text has none that may be sent.  What it says is for the server. */
static size_t request_head_length(const void *request, size_t length)
{
    const char *end_of_head = memmem(request, length, "\r\n\r\n", 4);
    size_t head_length =
        end_of_head != NULL ? (size_t)(end_of_head - (const char *)request) + 4 : 0;
    return head_length <= MUX_HEAD_BYTES ? head_length : 0;
}

struct mux_call *mux_client_call(struct mux *mux, const void *request, size_t length,
                                 bool is_streaming, const struct mux_call_events *events,
                                 void *context)
{
    CHECK(mux_client_has_room(mux));
    struct mux_call *call = mux_stream_new(mux, sizeof(*call), ++mux->last_id);
    struct mux_stream *stream = &call->stream;
    call->events = *events;
    call->context = context;
    call->is_streaming = call->wants_room = is_streaming;
    size_t head_length = request_head_length(request, length);
    if (mux->stream_count == 1) {
        mux->alive_ms = mux->now_ms; /* nobody was asked for anything before */
    }
    if (head_length == 0) {
        call->is_bad = true;
        mux_close(stream, MUX_MALFORMED);
    } else {
        call->is_head = head_length > 5 && memcmp(request, "HEAD ", 5) == 0;
        mux_write_head(stream, request, head_length);
        mux_write(stream, (const uint8_t *)request + head_length, length - head_length,
                  !is_streaming);
    }
    if (is_streaming) {
        mux_mark(stream);
    }
    mux_touch(mux);
    return call;
}

bool mux_call_write(struct mux_call *call, const void *bytes, size_t length)
{
    CHECK(call->is_streaming && !call->stream.out_ended);
    if (call->stream.is_closed) {
        return true; /* it will be told */
    }
    call->wants_room = true;
    mux_write(&call->stream, bytes, length, false);
    return mux_left(&call->stream) < OUT_HIGH;
}

void mux_call_finish(struct mux_call *call)
{
    CHECK(call->is_streaming && !call->stream.out_ended);
    mux_write(&call->stream, NULL, 0, true);
}

bool mux_call_was_sent(const struct mux_call *call)
{
    return call->stream.head_sent;
}

void mux_call_pause(struct mux_call *call)
{
    call->is_paused = true;
}

void mux_call_resume(struct mux_call *call)
{
    call->is_paused = false;
    mux_mark(&call->stream);
    mux_touch(call->stream.mux);
}

void mux_call_cancel(struct mux_call *call)
{
    struct mux *mux = call->stream.mux;
    call->is_cancelled = true;
    call->wants_room = false;
    mux_reset(&call->stream, MUX_CANCELLED);
    mux_mark(&call->stream);
    mux_touch(mux);
}

/* ---- Time ---- */

static void lose(struct mux *mux, const char *what)
{
    struct error error = {0};
    error_set(&error, ERROR_UNAVAILABLE, "%s", what);
    set_error(client_of(mux), &error);
    mux_die(mux);
}

void mux_client_tick(struct mux *mux, uint64_t now_ms)
{
    mux->now_ms = now_ms;
    if (mux->is_dead) {
        return;
    }
    if (mux->asked_ms != 0 && now_ms - mux->asked_ms >= SIGN_OF_LIFE_MS) {
        lose(mux, "the server gives no sign of life");
    } else if (mux->asked_ms == 0 && now_ms - mux->alive_ms >= SILENCE_MS) {
        mux->asked_ms = now_ms;
        mux_send(mux, MUX_PING, 0, 0, NULL, 0);
    }
    mux_run(mux);
}

/* ---- Life ---- */

struct mux *mux_client_new(struct loop *loop, const struct http_wire *wire,
                           void (*changed)(void *context), void *context, size_t head_bytes_max,
                           uint64_t now_ms)
{
    struct client *client = NEW(struct client);
    mux_begin(&client->mux, &end, loop, wire, context, now_ms);
    client->changed = changed;
    client->limits = (struct parse_limits){head_bytes_max, PARSE_FIELDS_MAX, 0};
    return &client->mux;
}

void mux_client_lose(struct mux *mux, const struct error *error)
{
    set_error(client_of(mux), error);
    mux_die(mux);
    mux_run(mux);
}

bool mux_client_is_over(const struct mux *mux)
{
    return mux->is_dead || mux->ends_when_idle || mux->is_freed || mux->last_id == UINT32_MAX;
}

bool mux_client_has_room(const struct mux *mux)
{
    return !mux_client_is_over(mux) && mux->stream_count < MUX_STREAMS_MAX;
}

void mux_client_free(struct mux *mux, const struct error *error_or_null)
{
    if (mux == NULL || mux->is_freed) {
        return;
    }
    struct error cancelled = {0};
    error_set(&cancelled, ERROR_CANCELLED, "cancelled");
    mux->depth++;
    if (error_or_null == NULL) {
        mux_pump(mux); /* what was cancelled is still said */
    }
    mux->depth--;
    set_error(client_of(mux), error_or_null != NULL ? error_or_null : &cancelled);
    mux->is_freed = true;
    LIST_EACH(node, &mux->streams)
    {
        mux_mark(LIST_ITEM(node, struct mux_stream, link)); /* those that wait for a reader, too */
    }
    mux_die(mux);
    mux_run(mux);
}
