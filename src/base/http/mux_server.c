/*
 * A server's end of the protocol between nodes: exchanges, each on a stream of its own.
 *
 * A stream lives until it is closed on the wire; its exchange, from a head that is good until then.
 */
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "base/error.h"
#include "base/http/connection.h"
#include "base/http/mux.h"
#include "base/loop/loop.h"
#include "base/memory.h"

/* What a connection's answers may hold back together, roughly, when the peer reads slowly: then
 * each of them holds less, and no request is begun. */
enum { OUT_HIGH = 4 << 20, OUT_LEAST = 16384, DRAIN_NOTICE_MS = 1000 };

/* The client's, and those that are closed and not gone yet. */
enum { STREAMS_MAX = 2 * MUX_STREAMS_MAX };

struct served {
    struct mux_stream stream;
    struct http_exchange *exchange; /* NULL: refused, or over */
    bool is_new;                    /* the handler has not seen it */
    uint64_t body_since_ms;         /* waits for the body's next piece since, or 0 */
    uint64_t write_since_ms;        /* the peer takes nothing since, or 0 */
    size_t write_left;              /* then */
};

struct server {
    struct mux mux;
    struct http_server *http;
    const struct stream *stream; /* or NULL */
    char peer[64];
    struct parse_limits limits;
    struct buffer scratch;
    size_t requests;
    bool has_waiting;        /* requests that are not begun until less is to be sent */
    uint64_t drain_since_ms; /* the peer was told that we will end, or 0 */
};

static struct server *server_of(const struct mux *mux)
{
    return (struct server *)(uintptr_t)mux;
}

static struct served *served_of(struct mux_stream *stream)
{
    return (struct served *)stream;
}

static struct mux_stream *stream_of(const struct http_exchange *exchange)
{
    return exchange->mux_stream;
}

/* ---- Requests ---- */

static void refuse(struct mux_stream *stream, int status)
{
    char head[96];
    int length = snprintf(head, sizeof(head), "HTTP/1.1 %d %s\r\nContent-Length: 0\r\n\r\n", status,
                          http_status_text(status));
    server_of(stream->mux)->http->counters.requests_refused++;
    stream->is_cut = true;
    mux_write_head(stream, head, (size_t)length);
    mux_write(stream, NULL, 0, true);
}

static void begin_request(struct server *server, struct served *served)
{
    struct http_server *http = server->http;
    http->counters.requests++;
    server->requests++;
    if (http->options.requests_per_connection_max > 0 &&
        server->requests >= http->options.requests_per_connection_max) {
        mux_server_drain(&server->mux);
    }
    http->handler(served->exchange, http->context);
    mux_mark(&served->stream);
}

static void take_request(struct server *server, struct served *served, const uint8_t *bytes,
                         size_t length)
{
    struct http_exchange *exchange = exchange_new(server->http, NULL);
    exchange->mux_stream = &served->stream;
    exchange->carrier = &mux_carrier;
    exchange_take_head(exchange, &server->http->head, bytes, length);
    if (server->stream != NULL) {
        exchange_take_peer(exchange, server->stream);
    } else {
        memcpy(exchange->peer, server->peer, sizeof(exchange->peer));
    }
    served->exchange = exchange;
    if (server->mux.out_bytes > OUT_HIGH) {
        served->is_new = server->has_waiting = true;
    } else {
        begin_request(server, served);
    }
}

static void on_head(struct mux *mux, struct mux_stream *stream_or_null, uint32_t id,
                    const uint8_t *bytes, size_t length, bool is_end)
{
    struct server *server = server_of(mux);
    const struct parse_head *head = &server->http->head;
    CHECK(stream_or_null == NULL);
    if (mux->stream_count >= STREAMS_MAX || mux->ends_when_idle) {
        mux_send_number(mux, MUX_RESET, id, MUX_REFUSED);
        return;
    }
    struct served *served = mux_stream_new(mux, sizeof(*served), id);
    long r = parse_request(bytes, length, &server->limits, &server->http->head);
    bool is_request = r == (long)length;
    bool has_length = is_request && !head->is_chunked;
    if (!mux_expect(&served->stream, has_length ? head->length : UINT64_MAX, is_end)) {
        return;
    }
    if (!is_request) {
        refuse(&served->stream, r < 0 ? (int)-r : 400);
    } else {
        take_request(server, served, bytes, length);
    }
}

static bool takes(const struct mux_stream *stream)
{
    const struct http_exchange *exchange = ((const struct served *)stream)->exchange;
    return exchange == NULL || ((exchange->reading || exchange->ended) && !exchange->paused);
}

static void on_data(struct mux_stream *stream, const uint8_t *bytes, size_t length)
{
    struct served *served = served_of(stream);
    struct http_exchange *exchange = served->exchange;
    served->body_since_ms = 0;
    if (exchange != NULL && !exchange->body_done) {
        http_exchange_ref(exchange);
        exchange_give(exchange, bytes, length);
        exchange_release(exchange);
    }
}

static void lose(struct served *served)
{
    struct http_exchange *exchange = served->exchange;
    served->exchange = NULL;
    if (exchange != NULL) {
        exchange_drop(exchange, served->is_new);
    }
}

static void feed(struct served *served, struct http_exchange *exchange)
{
    struct mux_stream *stream = &served->stream;
    if (!takes(stream)) {
        return;
    }
    http_exchange_ref(exchange);
    mux_feed(stream);
    if (served->exchange == exchange && stream->in_ended && stream->in.used == 0) {
        exchange->body_done = true;
    }
    exchange_take_end(exchange);
    exchange_release(exchange);
}

static void drained(struct served *served)
{
    struct http_exchange *exchange = served->exchange;
    if (exchange->wants_drain && !exchange->ended &&
        mux_left(&served->stream) <= exchange->write_high / 2) {
        exchange->wants_drain = false;
        if (exchange->on_drain != NULL) {
            exchange->on_drain(exchange->context);
        }
    }
}

static void on_event(struct mux_stream *stream)
{
    struct served *served = served_of(stream);
    if (stream->is_closed) {
        lose(served);
        mux_stream_free(stream);
        return;
    }
    if (served->exchange != NULL) {
        feed(served, served->exchange);
    }
    if (served->exchange != NULL && !stream->is_closed) {
        drained(served);
    }
}

static void on_control(struct mux *mux, enum mux_kind kind)
{
    if (kind == MUX_PONG && server_of(mux)->drain_since_ms != 0) {
        mux->ends_when_idle = true; /* it has read our notice */
    }
}

/* A peer first reads what it asked for. */
static void on_turn(struct mux *mux)
{
    struct server *server = server_of(mux);
    if (!server->has_waiting || mux->out_bytes > OUT_HIGH / 2) {
        return;
    }
    server->has_waiting = false;
    LIST_EACH(node, &mux->streams)
    {
        struct served *served = LIST_ITEM(node, struct served, stream.link);
        if (served->is_new && !served->stream.is_closed) {
            served->is_new = false;
            begin_request(server, served);
        }
    }
}

static void on_dead(struct mux *mux)
{
    (void)mux;
}

static void free_server(struct mux *mux)
{
    mux_done(mux);
    buffer_done(&server_of(mux)->scratch);
    free(server_of(mux));
}

static const struct mux_end end = {
    .on_head = on_head,
    .takes = takes,
    .on_data = on_data,
    .on_event = on_event,
    .on_control = on_control,
    .on_turn = on_turn,
    .on_dead = on_dead,
    .free = free_server,
};

/* ---- As carrier of exchanges ---- */

static void take_body(struct http_exchange *exchange)
{
    struct mux_stream *stream = stream_of(exchange);
    if (exchange->reading && exchange->expects_continue && !stream->in_ended && !exchange->begun) {
        static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";
        exchange->expects_continue = false;
        mux_send(stream->mux, MUX_HEAD, 0, stream->id, go_on, sizeof(go_on) - 1);
    }
    mux_mark(stream);
    mux_touch(stream->mux);
}

static void cut_body(struct http_exchange *exchange)
{
    struct mux_stream *stream = stream_of(exchange);
    stream->is_cut = true;
}

static void begin_answer(struct http_exchange *exchange, int status, uint64_t length)
{
    struct mux_stream *stream = stream_of(exchange);
    struct server *server = server_of(stream->mux);
    struct buffer *out = &server->scratch;
    if (stream->is_closed) {
        return;
    }
    out->used = 0;
    exchange_write_head(exchange, server->http, status < 200 ? 500 : status, out);
    if (!exchange->has_no_body && length != UINT64_MAX) {
        buffer_append(out, "Content-Length: ", 16);
        buffer_append_decimal(out, length);
        buffer_append(out, "\r\n", 2);
    }
    buffer_append(out, "\r\n", 2);
    if (out->used > MUX_HEAD_BYTES) {
        mux_reset(stream, MUX_FAILED);
        return;
    }
    mux_write_head(stream, out->data, out->used);
}

static void write_body(struct http_exchange *exchange, const void *bytes, size_t length)
{
    struct mux_stream *stream = stream_of(exchange);
    mux_write(stream, bytes, length, exchange->ended);
    size_t share = OUT_HIGH / stream->mux->stream_count;
    share = share > OUT_LEAST ? share : OUT_LEAST;
    size_t high = server_of(stream->mux)->http->options.write_bytes_high;
    exchange->write_high = high < share ? high : share;
}

static void flush(struct http_exchange *exchange)
{
    mux_touch(stream_of(exchange)->mux);
}

static void end_answer(struct http_exchange *exchange)
{
    struct mux_stream *stream = stream_of(exchange);
    if (!stream->out_ended) {
        mux_write(stream, NULL, 0, true);
    }
    mux_touch(stream->mux);
}

static void abort_answer(struct http_exchange *exchange)
{
    struct mux_stream *stream = stream_of(exchange);
    if (exchange->ended) {
        return;
    }
    mux_pump(stream->mux); /* what was said before is heard */
    mux_reset(stream, MUX_FAILED);
    lose(served_of(stream));
    mux_touch(stream->mux);
}

static size_t waiting(const struct http_exchange *exchange)
{
    return mux_left(stream_of(exchange));
}

const struct exchange_carrier mux_carrier = {
    .take_body = take_body,
    .cut_body = cut_body,
    .begin = begin_answer,
    .write = write_body,
    .flush = flush,
    .end = end_answer,
    .abort = abort_answer,
    .waiting = waiting,
};

/* ---- Time ---- */

static void look_at(struct served *served, uint64_t now_ms)
{
    struct mux_stream *stream = &served->stream;
    const struct http_server_options *options = &server_of(stream->mux)->http->options;
    struct http_exchange *exchange = served->exchange;
    bool waits = exchange != NULL && !stream->in_ended && !exchange->body_done &&
        exchange->reading && !exchange->paused && !exchange->is_patient;
    if (limit_is_over(&served->body_since_ms, waits, now_ms, options->body_timeout_ms)) {
        exchange_end_body(exchange);
        exchange_fail_body(exchange, ERROR_TIMEOUT, "the request's body came too slowly");
    }
    size_t left = mux_left(stream);
    bool is_stuck = left > 0 && left == served->write_left;
    served->write_left = left;
    if (limit_is_over(&served->write_since_ms, is_stuck, now_ms, options->write_timeout_ms)) {
        mux_reset(stream, MUX_CANCELLED);
    }
}

void mux_server_tick(struct mux *mux, uint64_t now_ms)
{
    struct server *server = server_of(mux);
    const struct http_server_options *options = &server->http->options;
    CHECK(mux->depth == 0);
    mux->now_ms = now_ms;
    if (mux->is_dead) {
        return;
    }
    mux->depth++;
    LIST_EACH(node, &mux->streams)
    {
        look_at(LIST_ITEM(node, struct served, stream.link), now_ms);
    }
    bool is_idle = mux->stream_count == 0 && options->idle_timeout_ms > 0 &&
        now_ms - mux->alive_ms >= options->idle_timeout_ms;
    if (is_idle) {
        mux_server_drain(mux);
    }
    if (server->drain_since_ms != 0 && now_ms - server->drain_since_ms >= DRAIN_NOTICE_MS) {
        mux->ends_when_idle = true;
    }
    mux->depth--;
    mux_run(mux);
}

void mux_server_drain(struct mux *mux)
{
    struct server *server = server_of(mux);
    if (mux->is_dead || server->drain_since_ms != 0) {
        return;
    }
    server->drain_since_ms = mux->now_ms;
    mux_send(mux, MUX_GOAWAY, 0, 0, NULL, 0);
    mux_send(mux, MUX_PING, 0, 0, NULL, 0);
    mux_touch(mux);
}

/* ---- Life ---- */

struct mux *mux_server_new(struct http_server *http, const struct http_wire *wire, void *context,
                           const char *peer, const struct stream *stream_or_null, uint64_t now_ms)
{
    const struct http_server_options *options = &http->options;
    struct server *server = NEW(struct server);
    mux_begin(&server->mux, &end, http->loop, wire, context, now_ms);
    server->mux.is_server = true;
    server->http = http;
    server->stream = stream_or_null;
    server->limits = (struct parse_limits){options->head_bytes_max, options->field_count_max,
                                           options->target_bytes_max};
    snprintf(server->peer, sizeof(server->peer), "%s", peer);
    return &server->mux;
}

void mux_server_free(struct mux *mux)
{
    if (mux == NULL || mux->is_freed) {
        return;
    }
    mux->is_freed = true;
    mux_die(mux);
    mux_run(mux);
}
