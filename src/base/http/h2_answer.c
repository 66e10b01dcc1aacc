/*
 * HTTP/2 as carrier of exchanges: what handlers read and say, on one stream.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/http/h2_server.h"

/* ---- The request's body ---- */

static void take_body(struct http_exchange *exchange)
{
    struct h2_stream *stream = exchange->stream;
    if (exchange->reading && exchange->expects_continue && !stream->remote_ended &&
        !exchange->begun) {
        struct h2_fields *fields = &stream->h2->fields;
        exchange->expects_continue = false;
        fields->count = 0;
        h2_fields_add(fields, text_of(":status", 7), text_of("100", 3));
        nghttp2_submit_headers(stream->h2->link.session, NGHTTP2_FLAG_NONE, stream->id, NULL,
                               fields->at, fields->count, NULL);
    }
    h2_stream_mark(stream);
    h2_server_touch(stream->h2);
}

static void cut_body(struct http_exchange *exchange)
{
    struct h2_stream *stream = exchange->stream;
    stream->is_cut = true;
    if (!stream->is_closed && !stream->h2->link.is_dead) {
        nghttp2_session_consume_connection(stream->h2->link.session, h2_stream_unread(stream));
    }
    h2_stream_drop(stream);
}

/* ---- The answer ---- */

static void begin(struct http_exchange *exchange, int status, uint64_t length)
{
    struct h2_stream *stream = exchange->stream;
    stream->status = status < 200 ? 500 : status; /* an interim answer cannot be the last */
    stream->length = length;
    stream->head_waits = true;
}

/* NOLINTNEXTLINE(readability-non-const-parameter): the type is nghttp2's. */
static ssize_t on_need_data(nghttp2_session *session, int32_t id, uint8_t *bytes, size_t length,
                            uint32_t *flags, nghttp2_data_source *source, void *context)
{
    struct h2_stream *stream = nghttp2_session_get_stream_user_data(session, id);
    size_t left = h2_stream_left(stream);
    size_t part = left < length ? left : length;
    (void)bytes;
    (void)source;
    (void)context;
    if (left == 0 && !stream->answer_ended) {
        return NGHTTP2_ERR_DEFERRED;
    }
    *flags |= NGHTTP2_DATA_FLAG_NO_COPY;
    stream->h2->out_bytes -= part;
    stream->write_since_ms = 0;
    if (part == left) {
        *flags |= stream->answer_ended ? NGHTTP2_DATA_FLAG_EOF : 0;
    }
    if (stream->exchange != NULL && stream->exchange->wants_drain) {
        h2_stream_mark(stream);
    }
    return (ssize_t)part;
}

static void submit_head(struct h2_stream *stream)
{
    struct h2_server *h2 = stream->h2;
    struct http_exchange *exchange = stream->exchange;
    struct h2_fields *fields = &h2->fields;
    char digits[TEXT_U64_SIZE];
    char length[TEXT_U64_SIZE];
    nghttp2_data_provider provider = {.source.ptr = &stream->out, .read_callback = on_need_data};
    size_t digit_count = text_write_u64((uint64_t)stream->status, digits);
    size_t length_count = text_write_u64(stream->length, length);
    stream->head_waits = false;
    exchange_date(h2->server);
    fields->count = 0;
    h2_fields_add(fields, text_of(":status", 7), text_of(digits, digit_count));
    h2_fields_add(fields, text_of("date", 4), text_of(h2->server->date, strlen(h2->server->date)));
    h2_fields_add_lines(fields, &exchange->answer_fields);
    if (!exchange->has_no_body && stream->length != UINT64_MAX) {
        h2_fields_add(fields, text_of("content-length", 14), text_of(length, length_count));
    }
    bool is_all = stream->answer_ended && h2_stream_left(stream) == 0;
    nghttp2_submit_response(h2->link.session, stream->id, fields->at, fields->count,
                            is_all ? NULL : &provider);
}

static void show(struct h2_stream *stream)
{
    if (stream->head_waits) {
        submit_head(stream);
    } else {
        nghttp2_session_resume_data(stream->h2->link.session, stream->id);
    }
}

/* A big piece goes into its frames from where it is, as far as the windows let it. */
static void send_lent(struct h2_stream *stream, const void *bytes, size_t length)
{
    h2_body_lend(&stream->out, bytes, length);
    show(stream);
    h2_server_pull(stream->h2);
    h2_body_keep(&stream->out);
}

static void write_body(struct http_exchange *exchange, const void *bytes, size_t length)
{
    struct h2_stream *stream = exchange->stream;
    bool may_go = !stream->is_closed && !stream->h2->link.is_dead;
    stream->h2->out_bytes += length;
    stream->answer_ended = exchange->ended; /* this is all of it */
    if (length >= WIRE_LENT_LEAST && may_go && h2_stream_left(stream) == 0) {
        send_lent(stream, bytes, length);
    } else {
        h2_body_append(&stream->out, bytes, length);
    }
    size_t share = H2_OUT_HIGH / stream->h2->stream_count;
    share = share > H2_OUT_LEAST ? share : H2_OUT_LEAST;
    size_t high = stream->h2->server->options.write_bytes_high;
    exchange->write_high = high < share ? high : share;
}

static void flush(struct http_exchange *exchange)
{
    struct h2_stream *stream = exchange->stream;
    struct h2_server *h2 = stream->h2;
    if (stream->is_closed || h2->link.is_dead) {
        return; /* it will be told */
    }
    show(stream);
    h2_server_touch(h2);
}

static void end(struct http_exchange *exchange)
{
    exchange->stream->answer_ended = true;
    flush(exchange);
}

static void abort_stream(struct http_exchange *exchange)
{
    struct h2_stream *stream = exchange->stream;
    struct h2_server *h2 = stream->h2;
    if (exchange->ended) {
        return;
    }
    stream->is_ours = true;
    if (stream->head_waits) {
        submit_head(stream);
    }
    if (!stream->is_closed && !h2->link.is_dead) {
        nghttp2_submit_rst_stream(h2->link.session, NGHTTP2_FLAG_NONE, stream->id,
                                  NGHTTP2_INTERNAL_ERROR);
    }
    nghttp2_session_consume_connection(h2->link.session, h2_stream_unread(stream));
    h2_stream_drop(stream);
    h2_stream_lose(stream);
    h2_server_touch(h2);
}

static size_t waiting(const struct http_exchange *exchange)
{
    return h2_stream_left(exchange->stream);
}

const struct exchange_carrier h2_carrier = {
    .take_body = take_body,
    .cut_body = cut_body,
    .begin = begin,
    .write = write_body,
    .flush = flush,
    .end = end,
    .abort = abort_stream,
    .waiting = waiting,
};
