/*
 * A server's end of HTTP/2: many exchanges at a time on a connection, each on a stream of its own.
 *
 * A stream lives from its HEADERS until it is closed on the wire; its exchange, from a head that is
 * good until then.  The library's callbacks only note what happened (h2_stream_mark()); dispatch()
 * acts on it.  Windows follow the reader: what nobody has taken is not given back to the peer.
 */
#include "base/http/h2_server.h"

#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "base/error.h"
#include "base/loop/loop.h"
#include "base/memory.h"

enum { DRAIN_NOTICE_MS = 1000 };

/* What still comes of a request that was answered is taken, and dropped: clients there are that
 * look at no answer when its stream is reset (RFC 9113, 8.1).  So much, and so long. */
enum { LINGER_BYTES = 262144, LINGER_MS = 2000 };

void h2_stream_mark(struct h2_stream *stream)
{
    if (!list_contains_node(&stream->event)) {
        list_push_back(&stream->h2->dirty, &stream->event);
    }
}

void h2_stream_drop(struct h2_stream *stream)
{
    stream->in.used = stream->lent_length = 0;
    stream->lent = NULL;
}

static void keep_lent(struct h2_stream *stream)
{
    buffer_append(&stream->in, stream->lent, stream->lent_length);
    stream->lent = NULL;
    stream->lent_length = 0;
}

/* The last one: what was begun until now is still answered. */
static void say_goaway(struct h2_server *h2)
{
    if (!h2->goaway_sent && !h2->link.is_dead) {
        h2->goaway_sent = true;
        nghttp2_submit_goaway(h2->link.session, NGHTTP2_FLAG_NONE,
                              nghttp2_session_get_last_proc_stream_id(h2->link.session),
                              NGHTTP2_NO_ERROR, NULL, 0);
    }
}

/* ---- What the library reports ---- */

static struct h2_stream *stream_of(struct h2_server *h2, int32_t id)
{
    return nghttp2_session_get_stream_user_data(h2->link.session, id);
}

static int on_begin_frame(nghttp2_session *session, const nghttp2_frame_hd *frame, void *context)
{
    struct h2_server *h2 = context;
    (void)session;
    h2->frame_ms = h2->now_ms;
    if (frame->type != NGHTTP2_CONTINUATION) {
        h2->head_since_ms = frame->type == NGHTTP2_HEADERS ? h2->now_ms : 0;
    }
    return h2_guard_frame(&h2->guard, frame, h2->limits.head_bytes_max)
        ? 0
        : NGHTTP2_ERR_CALLBACK_FAILURE;
}

static int on_begin_headers(nghttp2_session *session, const nghttp2_frame *frame, void *context)
{
    struct h2_server *h2 = context;
    if (frame->hd.type != NGHTTP2_HEADERS || frame->headers.cat != NGHTTP2_HCAT_REQUEST) {
        return 0; /* trailers */
    }
    struct h2_stream *stream = NEW(struct h2_stream);
    stream->h2 = h2;
    stream->out.link = &h2->link;
    stream->id = frame->hd.stream_id;
    list_push_back(&h2->streams, &stream->link);
    h2->stream_count++;
    nghttp2_session_set_stream_user_data(session, stream->id, stream);
    h2_head_clear(&h2->head);
    return 0;
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name,
                     size_t name_length, const uint8_t *value, size_t value_length, uint8_t flags,
                     void *context)
{
    struct h2_server *h2 = context;
    (void)session;
    (void)flags;
    if (frame->hd.type == NGHTTP2_HEADERS && frame->headers.cat == NGHTTP2_HCAT_REQUEST) {
        h2_head_add(&h2->head, text_of((const char *)name, name_length),
                    text_of((const char *)value, value_length), &h2->limits);
    }
    return 0;
}

/* A request that is well-formed and cannot be: told.  The rest of it is not read. */
static void refuse(struct h2_stream *stream, int status)
{
    struct h2_server *h2 = stream->h2;
    char digits[16];
    int length = snprintf(digits, sizeof(digits), "%d", status);
    h2->fields.count = 0;
    h2_fields_add(&h2->fields, text_of(":status", 7), text_of(digits, (size_t)length));
    h2_fields_add(&h2->fields, text_of("content-length", 14), text_of("0", 1));
    stream->answer_ended = true;
    nghttp2_submit_response(h2->link.session, stream->id, h2->fields.at, h2->fields.count, NULL);
}

static void take_request(struct h2_stream *stream)
{
    struct h2_server *h2 = stream->h2;
    struct http_server *server = h2->server;
    int r = h2_head_request(&h2->head, !stream->remote_ended, &h2->limits, &server->head);
    if (r == -1) {
        nghttp2_submit_rst_stream(h2->link.session, NGHTTP2_FLAG_NONE, stream->id,
                                  NGHTTP2_PROTOCOL_ERROR);
        return;
    }
    if (r < 0) {
        refuse(stream, -r);
        return;
    }
    /* By default a long answer would go before all that were asked for after it. */
    const nghttp2_extpri in_turns = {.urgency = NGHTTP2_EXTPRI_DEFAULT_URGENCY, .inc = 1};
    nghttp2_session_change_extpri_stream_priority(h2->link.session, stream->id, &in_turns, 1);
    struct http_exchange *exchange = exchange_new(server, NULL);
    exchange->stream = stream;
    exchange->carrier = &h2_carrier;
    exchange_take_head(exchange, &server->head, h2->head.bytes.data, h2->head.bytes.used);
    if (h2->stream != NULL) {
        exchange_take_peer(exchange, h2->stream);
    } else {
        memcpy(exchange->peer, h2->peer, sizeof(exchange->peer));
    }
    stream->exchange = exchange;
    stream->is_new = stream->was_taken = true;
    h2_stream_mark(stream);
}

static int on_frame(nghttp2_session *session, const nghttp2_frame *frame, void *context)
{
    struct h2_server *h2 = context;
    (void)session;
    h2->head_since_ms = 0;
    if (frame->hd.type == NGHTTP2_PING && (frame->hd.flags & NGHTTP2_FLAG_ACK) != 0 &&
        h2->drain_since_ms != 0) {
        say_goaway(h2); /* it has read our notice */
        return 0;
    }
    if (frame->hd.type != NGHTTP2_HEADERS && frame->hd.type != NGHTTP2_DATA) {
        return 0;
    }
    bool is_end = (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0;
    if (frame->hd.type == NGHTTP2_DATA && !is_end && frame->hd.length == frame->data.padlen &&
        !h2_guard_empty(&h2->guard)) {
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    }
    struct h2_stream *stream = stream_of(h2, frame->hd.stream_id);
    if (stream == NULL) {
        return 0;
    }
    stream->remote_ended = stream->remote_ended || is_end;
    if (frame->hd.type == NGHTTP2_HEADERS && frame->headers.cat == NGHTTP2_HCAT_REQUEST) {
        take_request(stream);
    } else if (is_end) {
        h2_stream_mark(stream);
    }
    return 0;
}

static int on_invalid_frame(nghttp2_session *session, const nghttp2_frame *frame, int code,
                            void *context)
{
    struct h2_server *h2 = context;
    (void)session;
    (void)frame;
    (void)code;
    h2->head_since_ms = 0;
    return 0;
}

/* False: that was enough. */
static bool drop_data(struct h2_stream *stream, size_t length)
{
    nghttp2_session *session = stream->h2->link.session;
    stream->dropped += length;
    if (stream->dropped <= LINGER_BYTES) {
        nghttp2_session_consume(session, stream->id, length);
        return true;
    }
    nghttp2_session_consume_connection(session, length);
    return false;
}

static void end_request(struct h2_stream *stream)
{
    nghttp2_submit_rst_stream(stream->h2->link.session, NGHTTP2_FLAG_NONE, stream->id,
                              NGHTTP2_NO_ERROR);
}

static int on_data(nghttp2_session *session, uint8_t flags, int32_t id, const uint8_t *bytes,
                   size_t length, void *context)
{
    struct h2_server *h2 = context;
    struct h2_stream *stream = stream_of(h2, id);
    (void)flags;
    if (stream != NULL && stream->end_sent) {
        if (!drop_data(stream, length)) {
            end_request(stream);
        }
        return 0;
    }
    if (stream == NULL || stream->exchange == NULL || stream->is_cut) {
        nghttp2_session_consume_connection(session, length); /* and the stream's runs dry */
        return 0;
    }
    if (h2_stream_unread(stream) == 0) {
        stream->lent = bytes; /* until act() */
        stream->lent_length = length;
        h2->has_lent = length >= WIRE_LENT_LEAST;
    } else {
        keep_lent(stream);
        buffer_append(&stream->in, bytes, length);
    }
    stream->body_since_ms = 0;
    h2_stream_mark(stream);
    return h2->has_lent ? NGHTTP2_ERR_PAUSE : 0;
}

static int on_stream_close(nghttp2_session *session, int32_t id, uint32_t code, void *context)
{
    struct h2_server *h2 = context;
    struct h2_stream *stream = stream_of(h2, id);
    (void)code;
    h2->head_since_ms = 0;
    if (stream == NULL) {
        return 0;
    }
    stream->is_closed = true;
    nghttp2_session_consume_connection(session, h2_stream_unread(stream));
    h2_stream_drop(stream);
    h2_stream_mark(stream);
    bool is_fault = !stream->is_ours && (!stream->end_sent || !stream->was_taken);
    if (!stream->was_taken) {
        h2->server->counters.requests_refused++;
    }
    return is_fault && !h2_guard_fault(&h2->guard) ? NGHTTP2_ERR_CALLBACK_FAILURE : 0;
}

static int on_frame_sent(nghttp2_session *session, const nghttp2_frame *frame, void *context)
{
    struct h2_server *h2 = context;
    (void)session;
    h2->guard.data_sent += frame->hd.type == NGHTTP2_DATA;
    if (frame->hd.type == NGHTTP2_RST_STREAM &&
        frame->rst_stream.error_code == NGHTTP2_REFUSED_STREAM) { /* more than it may open */
        return h2_guard_fault(&h2->guard) ? 0 : NGHTTP2_ERR_CALLBACK_FAILURE;
    }
    if ((frame->hd.type != NGHTTP2_HEADERS && frame->hd.type != NGHTTP2_DATA) ||
        (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) == 0) {
        return 0;
    }
    struct h2_stream *stream = stream_of(h2, frame->hd.stream_id);
    if (stream != NULL) {
        stream->end_sent = true;
    }
    return 0;
}

/* A head that the library does not send: too large, perhaps. */
static int on_frame_not_sent(nghttp2_session *session, const nghttp2_frame *frame, int code,
                             void *context)
{
    struct h2_server *h2 = context;
    (void)code;
    struct h2_stream *stream =
        frame->hd.type == NGHTTP2_HEADERS ? stream_of(h2, frame->hd.stream_id) : NULL;
    if (stream != NULL) {
        stream->is_ours = true;
        nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, stream->id, NGHTTP2_INTERNAL_ERROR);
    }
    return 0;
}

/* ---- Acting on it ---- */

void h2_stream_lose(struct h2_stream *stream)
{
    struct http_exchange *exchange = stream->exchange;
    bool is_new = stream->is_new;
    stream->exchange = NULL;
    stream->is_new = false;
    if (exchange != NULL) {
        exchange_drop(exchange, is_new);
    }
}

static void free_stream(struct h2_stream *stream)
{
    list_remove(&stream->link);
    list_remove(&stream->event);
    stream->h2->stream_count--;
    stream->h2->out_bytes -= h2_stream_left(stream);
    buffer_done(&stream->in);
    h2_body_done(&stream->out);
    free(stream);
}

static void feed(struct h2_stream *stream)
{
    struct http_exchange *exchange = stream->exchange;
    bool wanted = exchange->reading || exchange->ended;
    if (!wanted || exchange->paused) {
        return;
    }
    http_exchange_ref(exchange);
    if (h2_stream_unread(stream) > 0 && !exchange->body_done) {
        const uint8_t *bytes = stream->lent != NULL ? stream->lent : stream->in.data;
        size_t length = h2_stream_unread(stream);
        h2_stream_drop(stream); /* given back to the peer below, whatever the reader does */
        exchange_give(exchange, bytes, length);
        if (!stream->h2->link.is_dead && !stream->is_closed) {
            nghttp2_session_consume(stream->h2->link.session, stream->id, length);
        }
    }
    /* Paused inside: the end waits, too. */
    if (stream->exchange != NULL && stream->remote_ended) {
        exchange->body_done = true;
    }
    exchange_take_end(exchange);
    exchange_release(exchange);
}

static void begin_request(struct h2_stream *stream)
{
    struct h2_server *h2 = stream->h2;
    struct http_server *server = h2->server;
    stream->is_new = false;
    server->counters.requests++;
    h2->requests++;
    if (server->options.requests_per_connection_max > 0 &&
        h2->requests >= server->options.requests_per_connection_max) {
        h2_server_drain(h2);
    }
    server->handler(stream->exchange, server->context);
}

static void drained(struct h2_stream *stream)
{
    struct http_exchange *exchange = stream->exchange;
    if (exchange->wants_drain && !exchange->ended &&
        h2_stream_left(stream) <= exchange->write_high / 2) {
        exchange->wants_drain = false;
        if (exchange->on_drain != NULL) {
            exchange->on_drain(exchange->context);
        }
    }
}

static void act(struct h2_stream *stream)
{
    if (stream->is_closed) {
        h2_stream_lose(stream);
        free_stream(stream);
        return;
    }
    if (stream->is_new && stream->h2->out_bytes > H2_OUT_HIGH) {
        stream->h2->has_waiting = true;
        keep_lent(stream);
        return;
    }
    if (stream->is_new) {
        begin_request(stream);
    }
    if (stream->exchange != NULL) {
        feed(stream);
    }
    keep_lent(stream);
    if (stream->exchange != NULL) {
        drained(stream);
    }
}

static void close_streams(struct h2_server *h2)
{
    LIST_EACH(node, &h2->streams)
    {
        struct h2_stream *stream = LIST_ITEM(node, struct h2_stream, link);
        stream->is_closed = true;
        h2_stream_mark(stream);
    }
}

static void die(struct h2_server *h2, uint32_t code)
{
    h2_link_die(&h2->link, code);
    close_streams(h2);
}

static void pull(struct h2_server *h2)
{
    int r = h2_link_pull(&h2->link);
    if (r < 0) {
        die(h2, h2_code_of(r));
    }
}

void h2_server_pull(struct h2_server *h2)
{
    h2_server_touch(h2); /* what is found on the way is acted upon later */
    h2->depth++;
    pull(h2);
    h2->depth--;
}

static void free_now(struct h2_server *h2)
{
    h2_link_done(&h2->link);
    h2_head_done(&h2->head);
    free(h2->fields.at);
    free(h2);
}

/* Those that had to wait, when there is room again. */
static void mark_waiting(struct h2_server *h2)
{
    if (!h2->has_waiting || h2->out_bytes > H2_OUT_HIGH / 2) {
        return;
    }
    h2->has_waiting = false;
    LIST_EACH(node, &h2->streams)
    {
        struct h2_stream *stream = LIST_ITEM(node, struct h2_stream, link);
        if (stream->is_new) {
            h2_stream_mark(stream);
        }
    }
}

static void act_on_all(struct h2_server *h2)
{
    while (!list_is_empty(&h2->dirty)) {
        struct h2_stream *stream = LIST_FIRST(&h2->dirty, struct h2_stream, event);
        list_remove(&stream->event);
        act(stream);
    }
}

static bool is_over(const struct h2_server *h2)
{
    return h2->link.is_dead ||
        (!nghttp2_session_want_read(h2->link.session) &&
         !nghttp2_session_want_write(h2->link.session));
}

/* Do what there is to do, until there is nothing.  Whoever is called from in here may come back. */
static void run(struct h2_server *h2)
{
    if (h2->depth > 0) {
        return;
    }
    h2->depth++;
    do {
        act_on_all(h2);
        pull(h2);
        mark_waiting(h2);
    } while (!list_is_empty(&h2->dirty));
    if (!h2->is_freed && !h2->is_finished && is_over(h2)) {
        h2->is_finished = h2->link.is_dead = true;
        close_streams(h2);
        act_on_all(h2);
        if (!h2->is_freed) {
            h2->link.wire.finish(h2->link.context);
        }
    }
    h2->depth--;
    if (h2->is_freed && !h2->is_posted) {
        free_now(h2);
    }
}

static void run_posted(void *argument)
{
    struct h2_server *h2 = argument;
    h2->is_posted = false;
    run(h2);
}

/* Once per turn of the loop: a head, a body and its end are one write. */
void h2_server_touch(struct h2_server *h2)
{
    if (h2->depth == 0 && !h2->is_posted) { /* else run() sees to it */
        h2->is_posted = true;
        loop_post(h2->server->loop, run_posted, h2);
    }
}

/* ---- Time ---- */

static void look_at(struct h2_stream *stream)
{
    struct h2_server *h2 = stream->h2;
    const struct http_server_options *options = &h2->server->options;
    struct http_exchange *exchange = stream->exchange;
    bool waits_for_body = exchange != NULL && !stream->remote_ended && !exchange->body_done &&
        exchange->reading && !exchange->paused && !exchange->is_patient && stream->in.used == 0;
    if (limit_is_over(&stream->body_since_ms, waits_for_body, h2->now_ms,
                      options->body_timeout_ms)) {
        exchange_end_body(exchange);
        exchange_fail_body(exchange, ERROR_TIMEOUT, "the request's body came too slowly");
    }
    if (limit_is_over(&stream->linger_since_ms, stream->end_sent && !stream->is_closed, h2->now_ms,
                      LINGER_MS)) {
        end_request(stream);
    }
    if (limit_is_over(&stream->write_since_ms, h2_stream_left(stream) > 0 && !stream->head_waits,
                      h2->now_ms, options->write_timeout_ms) &&
        !stream->is_closed) {
        stream->write_since_ms = 0;
        nghttp2_submit_rst_stream(h2->link.session, NGHTTP2_FLAG_NONE, stream->id, NGHTTP2_CANCEL);
    }
}

void h2_server_tick(struct h2_server *h2, uint64_t now_ms)
{
    const struct http_server_options *options = &h2->server->options;
    CHECK(h2->depth == 0);
    h2->now_ms = now_ms;
    if (h2->link.is_dead) {
        return;
    }
    h2->depth++;
    h2_guard_tick(&h2->guard, now_ms);
    LIST_EACH(node, &h2->streams)
    {
        look_at(LIST_ITEM(node, struct h2_stream, link));
    }
    bool is_idle = h2->stream_count == 0 && options->idle_timeout_ms > 0 &&
        now_ms - h2->frame_ms >= options->idle_timeout_ms;
    bool has_notice = h2->drain_since_ms != 0 && now_ms - h2->drain_since_ms >= DRAIN_NOTICE_MS;
    if (h2->head_since_ms != 0 && options->head_timeout_ms > 0 &&
        now_ms - h2->head_since_ms >= options->head_timeout_ms) {
        die(h2, NGHTTP2_NO_ERROR);
    } else if (is_idle || has_notice) {
        say_goaway(h2);
    }
    h2->depth--;
    run(h2);
}

/* ---- Life ---- */

static nghttp2_session *new_session(struct h2_server *h2)
{
    nghttp2_session_callbacks *callbacks = NULL;
    nghttp2_option *option = NULL;
    nghttp2_session *session = NULL;
    CHECK(nghttp2_session_callbacks_new(&callbacks) == 0 && nghttp2_option_new(&option) == 0);
    nghttp2_session_callbacks_set_on_begin_frame_callback(callbacks, on_begin_frame);
    nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, on_begin_headers);
    nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
    nghttp2_session_callbacks_set_on_invalid_header_callback(callbacks, h2_refuse_field);
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame);
    nghttp2_session_callbacks_set_on_invalid_frame_recv_callback(callbacks, on_invalid_frame);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_stream_close);
    nghttp2_session_callbacks_set_on_frame_send_callback(callbacks, on_frame_sent);
    nghttp2_session_callbacks_set_on_frame_not_send_callback(callbacks, on_frame_not_sent);
    h2_body_set_callbacks(callbacks);
    nghttp2_option_set_no_auto_window_update(option, 1);
    nghttp2_option_set_no_closed_streams(option, 1);
    nghttp2_option_set_max_send_header_block_length(option, 4 * h2->limits.head_bytes_max);
    CHECK(nghttp2_session_server_new2(&session, callbacks, h2, option) == 0);
    nghttp2_option_del(option);
    nghttp2_session_callbacks_del(callbacks);
    return session;
}

struct h2_server *h2_server_new(struct http_server *server, const struct http_wire *wire,
                                void *context, const char *peer,
                                const struct stream *stream_or_null, uint64_t now_ms)
{
    const struct http_server_options *options = &server->options;
    struct h2_server *h2 = NEW(struct h2_server);
    h2->server = server;
    h2->link.wire = *wire;
    h2->link.context = context;
    h2->stream = stream_or_null;
    h2->now_ms = h2->frame_ms = h2->head_since_ms = now_ms;
    h2->guard.since_ms = now_ms;
    h2->limits = (struct parse_limits){options->head_bytes_max, options->field_count_max,
                                       options->target_bytes_max};
    snprintf(h2->peer, sizeof(h2->peer), "%s", peer);
    list_init(&h2->streams);
    list_init(&h2->dirty);
    h2->link.session = new_session(h2);
    const nghttp2_settings_entry settings[] = {
        {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, H2_STREAMS_MAX},
        {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, H2_STREAM_WINDOW},
        {NGHTTP2_SETTINGS_MAX_FRAME_SIZE, H2_FRAME_BYTES},
        {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, (uint32_t)options->head_bytes_max},
        {NGHTTP2_SETTINGS_NO_RFC7540_PRIORITIES, 1},
        {NGHTTP2_SETTINGS_ENABLE_CONNECT_PROTOCOL, 1},
    };
    nghttp2_submit_settings(h2->link.session, NGHTTP2_FLAG_NONE, settings,
                            sizeof(settings) / sizeof(settings[0]));
    nghttp2_session_set_local_window_size(h2->link.session, NGHTTP2_FLAG_NONE, 0, H2_WINDOW);
    return h2;
}

void h2_server_receive(struct h2_server *h2, const void *bytes, size_t length, uint64_t now_ms)
{
    CHECK(h2->depth == 0);
    h2->now_ms = now_ms;
    if (h2->link.is_dead) {
        return;
    }
    h2->depth++;
    h2_guard_tick(&h2->guard, now_ms);
    const uint8_t *at = bytes;
    do {
        h2->has_lent = false;
        ssize_t took = nghttp2_session_mem_recv(h2->link.session, at, length);
        if (took < 0) {
            die(h2, h2_code_of((int)took));
            break;
        }
        at += took;
        length -= (size_t)took;
        if (h2->has_lent) {
            act_on_all(h2);
        }
    } while (h2->has_lent && !h2->link.is_dead); /* without more, too: what follows a body's end */
    h2->depth--;
    run(h2);
}

void h2_server_flush(struct h2_server *h2)
{
    run(h2);
}

void h2_server_drain(struct h2_server *h2)
{
    if (h2->link.is_dead || h2->drain_since_ms != 0) {
        return;
    }
    h2->drain_since_ms = h2->now_ms;
    if (h2->stream_count == 0) {
        say_goaway(h2);
    } else {
        nghttp2_submit_shutdown_notice(h2->link.session);
        nghttp2_submit_ping(h2->link.session, NGHTTP2_FLAG_NONE, NULL);
    }
    h2_server_touch(h2);
}

size_t h2_server_streams(const struct h2_server *h2)
{
    return h2->stream_count;
}

void h2_server_free(struct h2_server *h2)
{
    if (h2 == NULL || h2->is_freed) {
        return;
    }
    h2->link.is_dead = h2->is_freed = true;
    close_streams(h2);
    run(h2);
}
