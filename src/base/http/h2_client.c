/*
 * A client's connection of HTTP/2: calls side by side, each on a stream of its own.
 *
 * As in h2_server.c the library's callbacks only note what happened.  What a call does goes out
 * in the same turn of the loop; what it is told comes from the loop.  A call that was cancelled
 * stays, deaf, until its stream is closed.
 */
#include <string.h>

#include "base/check.h"
#include "base/error.h"
#include "base/http/h2.h"
#include "base/list.h"
#include "base/loop/loop.h"
#include "base/memory.h"

enum {
    OUT_HIGH = 262144,
    STREAMS_AT_FIRST = 100,  /* until the server has said how many (RFC 9113, 6.5.2) */
    SILENCE_MS = 5000,       /* then it is asked */
    SIGN_OF_LIFE_MS = 10000, /* to answer in */
};

struct h2_call {
    struct list_node link;  /* in calls */
    struct list_node event; /* in dirty */
    struct h2_client *h2;
    int32_t id;
    struct h2_call_events events;
    void *context;
    struct parse_head *head; /* came, and was not told yet */
    struct buffer head_bytes;
    struct buffer in;
    const uint8_t *lent; /* what is being received, instead of `in`; or NULL */
    size_t lent_length;
    struct h2_body out;
    bool is_streaming;
    bool is_finished; /* its body is whole */
    bool is_paused;
    bool is_cancelled;
    bool is_bad; /* the request is none */
    bool wants_room;
    bool was_sent;
    bool has_head;
    bool remote_ended;
    bool is_closed;
    bool is_lost; /* with the connection */
    uint32_t code;
};

struct h2_client {
    struct loop *loop;
    struct h2_link link;
    void (*changed)(void *context);
    const char *scheme;
    struct parse_limits limits;
    struct list calls;
    struct list dirty;
    size_t call_count;
    struct h2_head head;
    struct h2_fields fields; /* scratch */
    struct parse_head scratch;
    struct h2_guard guard;
    struct error error; /* what calls end with when the connection is lost */
    uint64_t now_ms;
    uint64_t alive_ms; /* the last sign of life */
    uint64_t asked_ms; /* for one, or 0 */
    unsigned depth;
    bool has_lent; /* what was received is to be looked at before more is */
    bool has_settings;
    bool has_changed;
    bool has_goaway;
    bool is_posted;
    bool is_finished;
    bool is_freed;
};

static void mark(struct h2_call *call)
{
    if (!list_contains_node(&call->event)) {
        list_push_back(&call->h2->dirty, &call->event);
    }
}

/* Of the answer, what the call was not told. */
static size_t in_left(const struct h2_call *call)
{
    return call->in.used + call->lent_length;
}

static void keep_lent(struct h2_call *call)
{
    buffer_append(&call->in, call->lent, call->lent_length);
    call->lent = NULL;
    call->lent_length = 0;
}

static void drop_in(struct h2_call *call)
{
    call->in.used = call->lent_length = 0;
    call->lent = NULL;
}

/* ---- What the library reports ---- */

static struct h2_call *call_of(struct h2_client *h2, int32_t id)
{
    return nghttp2_session_get_stream_user_data(h2->link.session, id);
}

static int on_begin_frame(nghttp2_session *session, const nghttp2_frame_hd *frame, void *context)
{
    struct h2_client *h2 = context;
    (void)session;
    return h2_guard_frame(&h2->guard, frame, h2->limits.head_bytes_max)
        ? 0
        : NGHTTP2_ERR_CALLBACK_FAILURE;
}

static int on_begin_headers(nghttp2_session *session, const nghttp2_frame *frame, void *context)
{
    struct h2_client *h2 = context;
    (void)session;
    (void)frame;
    h2_head_clear(&h2->head);
    return 0;
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name,
                     size_t name_length, const uint8_t *value, size_t value_length, uint8_t flags,
                     void *context)
{
    struct h2_client *h2 = context;
    (void)session;
    (void)frame;
    (void)flags;
    h2_head_add(&h2->head, text_of((const char *)name, name_length),
                text_of((const char *)value, value_length), &h2->limits);
    return 0;
}

/* An interim answer is not shown, neither are trailers. */
static void take_head(struct h2_call *call)
{
    struct h2_client *h2 = call->h2;
    if (call->has_head) {
        return;
    }
    int r = h2_head_answer(&h2->head, !call->remote_ended, &h2->scratch);
    if (r < 0) {
        nghttp2_submit_rst_stream(h2->link.session, NGHTTP2_FLAG_NONE, call->id,
                                  NGHTTP2_PROTOCOL_ERROR);
    }
    if (r < 0 || h2->scratch.status < 200) {
        return;
    }
    call->has_head = true;
    call->head = memory_resize(NULL, sizeof(struct parse_head));
    parse_copy(&h2->scratch, call->head);
    call->head_bytes = h2->head.bytes;
    h2->head.bytes = (struct buffer){0};
    mark(call);
}

static int on_frame(nghttp2_session *session, const nghttp2_frame *frame, void *context)
{
    struct h2_client *h2 = context;
    (void)session;
    switch (frame->hd.type) {
    case NGHTTP2_SETTINGS:
        h2->has_settings = h2->has_settings || (frame->hd.flags & NGHTTP2_FLAG_ACK) == 0;
        h2->has_changed = true;
        return 0;
    case NGHTTP2_GOAWAY:
        h2->has_goaway = h2->has_changed = true;
        return 0;
    case NGHTTP2_DATA:
    case NGHTTP2_HEADERS:
        break;
    default:
        return 0;
    }
    struct h2_call *call = call_of(h2, frame->hd.stream_id);
    bool is_end = (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0;
    if (frame->hd.type == NGHTTP2_DATA && !is_end && frame->hd.length == frame->data.padlen &&
        !h2_guard_empty(&h2->guard)) {
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    }
    if (call == NULL || call->is_cancelled) {
        return 0;
    }
    call->remote_ended = call->remote_ended || is_end;
    if (frame->hd.type == NGHTTP2_HEADERS) {
        take_head(call);
    }
    if (is_end && !call->is_finished) { /* it does not want the rest of the body */
        nghttp2_submit_rst_stream(h2->link.session, NGHTTP2_FLAG_NONE, call->id, NGHTTP2_NO_ERROR);
    }
    return 0;
}

static int on_data(nghttp2_session *session, uint8_t flags, int32_t id, const uint8_t *bytes,
                   size_t length, void *context)
{
    struct h2_client *h2 = context;
    struct h2_call *call = call_of(h2, id);
    (void)flags;
    if (call == NULL || call->is_cancelled) {
        nghttp2_session_consume_connection(session, length);
        return 0;
    }
    if (in_left(call) == 0) {
        call->lent = bytes; /* until act() */
        call->lent_length = length;
        h2->has_lent = length >= H2_LENT_LEAST;
    } else {
        keep_lent(call);
        buffer_append(&call->in, bytes, length);
    }
    mark(call);
    return h2->has_lent ? NGHTTP2_ERR_PAUSE : 0;
}

static int on_stream_close(nghttp2_session *session, int32_t id, uint32_t code, void *context)
{
    struct h2_client *h2 = context;
    struct h2_call *call = call_of(h2, id);
    if (call != NULL) {
        call->is_closed = true;
        call->code = code;
        nghttp2_session_consume_connection(session, in_left(call)); /* it may be read later */
        mark(call);
    }
    return 0;
}

static int on_frame_sent(nghttp2_session *session, const nghttp2_frame *frame, void *context)
{
    struct h2_client *h2 = context;
    (void)session;
    h2->guard.data_sent += frame->hd.type == NGHTTP2_DATA;
    struct h2_call *call =
        frame->hd.type == NGHTTP2_HEADERS ? call_of(h2, frame->hd.stream_id) : NULL;
    if (call != NULL) {
        call->was_sent = true;
    }
    return 0;
}

/* NOLINTNEXTLINE(readability-non-const-parameter): the type is nghttp2's. */
static ssize_t on_need_data(nghttp2_session *session, int32_t id, uint8_t *bytes, size_t length,
                            uint32_t *flags, nghttp2_data_source *source, void *context)
{
    struct h2_call *call = call_of(context, id);
    size_t left = h2_body_left(&call->out);
    size_t part = left < length ? left : length;
    (void)session;
    (void)bytes;
    (void)source;
    if (call->is_cancelled || (left == 0 && !call->is_finished)) {
        return NGHTTP2_ERR_DEFERRED;
    }
    *flags |= NGHTTP2_DATA_FLAG_NO_COPY;
    if (part == left) {
        *flags |= call->is_finished ? NGHTTP2_DATA_FLAG_EOF : 0;
        call->wants_room = !call->is_finished;
        mark(call);
    }
    return (ssize_t)part;
}

/* ---- Acting on it ---- */

static void free_call(struct h2_call *call)
{
    struct h2_client *h2 = call->h2;
    list_remove(&call->link);
    list_remove(&call->event);
    h2->call_count--;
    h2->has_changed = true;
    free(call->head);
    buffer_done(&call->head_bytes);
    buffer_done(&call->in);
    h2_body_done(&call->out);
    free(call);
}

static void fill_error(const struct h2_call *call, struct error *ret_error)
{
    switch (call->code) {
    case NGHTTP2_PROTOCOL_ERROR:
    case NGHTTP2_FLOW_CONTROL_ERROR:
    case NGHTTP2_COMPRESSION_ERROR:
    case NGHTTP2_FRAME_SIZE_ERROR:
        error_set(ret_error, ERROR_PROTOCOL, "the answer is not HTTP");
        break;
    case NGHTTP2_REFUSED_STREAM:
        error_set(ret_error, ERROR_UNAVAILABLE, "the server takes no calls now");
        break;
    default:
        error_set(ret_error, ERROR_UNAVAILABLE, "the answer was broken off (%s)",
                  nghttp2_http2_strerror(call->code));
        break;
    }
}

static void end_call(struct h2_call *call)
{
    struct error error = {0};
    struct h2_call_events events = call->events;
    void *context = call->context;
    bool is_whole = call->remote_ended && call->has_head;
    bool is_mute = call->is_cancelled;
    bool untouched = !call->was_sent;
    if (call->is_bad) {
        error_set(&error, ERROR_INVALID, "the request is not HTTP: its target, a name or a value");
    } else if (call->is_lost) {
        error = call->h2->error;
    } else if (!is_whole) {
        fill_error(call, &error);
        untouched = untouched || call->code == NGHTTP2_REFUSED_STREAM;
    }
    free_call(call);
    if (!is_mute) {
        events.on_end(error.kind != ERROR_NONE ? &error : NULL, untouched, context);
    }
}

static void tell_head(struct h2_call *call)
{
    struct parse_head *head = call->head;
    call->head = NULL;
    call->events.on_head(head, &call->head_bytes, call->context);
    free(head);
}

static void tell_data(struct h2_call *call)
{
    struct h2_client *h2 = call->h2;
    const uint8_t *bytes = call->lent != NULL ? call->lent : call->in.data;
    size_t length = in_left(call);
    drop_in(call); /* given back to the server below, whatever the call does */
    call->events.on_data(bytes, length, call->context);
    if (!call->is_closed && !h2->link.is_dead) {
        nghttp2_session_consume(h2->link.session, call->id, length);
    }
}

/* The call is there while it is told: cancelling only makes it deaf. */
static void act(struct h2_call *call)
{
    bool is_whole = call->remote_ended && call->has_head;
    if (call->head != NULL && !call->is_cancelled && !call->is_lost) {
        tell_head(call);
    }
    if (in_left(call) > 0 && !call->is_cancelled && !call->is_paused && !call->is_lost) {
        tell_data(call);
    }
    keep_lent(call);
    if (call->wants_room && h2_body_left(&call->out) == 0 && !call->is_finished &&
        !call->is_closed && !call->is_cancelled) {
        call->wants_room = false;
        call->events.on_room(call->context);
    }
    bool waits = call->is_paused && is_whole && !call->is_cancelled && !call->is_lost;
    if (call->is_closed && !waits) {
        end_call(call);
    }
}

static void act_on_all(struct h2_client *h2)
{
    while (!list_is_empty(&h2->dirty)) {
        struct h2_call *call = LIST_FIRST(&h2->dirty, struct h2_call, event);
        list_remove(&call->event);
        act(call);
    }
}

static void lose_calls(struct h2_client *h2)
{
    LIST_EACH(node, &h2->calls)
    {
        struct h2_call *call = LIST_ITEM(node, struct h2_call, link);
        /* What has come whole is worth telling. */
        call->is_lost = !(call->remote_ended && call->has_head) || h2->is_freed;
        call->is_closed = true;
        mark(call);
    }
}

static void die(struct h2_client *h2, uint32_t code, enum error_kind kind, const char *what)
{
    if (h2->error.kind == ERROR_NONE) {
        error_set(&h2->error, kind, "%s", what);
    }
    h2_link_die(&h2->link, code);
    h2->has_changed = true;
    lose_calls(h2);
}

static void pull(struct h2_client *h2)
{
    int r = h2_link_pull(&h2->link);
    if (r < 0) {
        die(h2, h2_code_of(r), ERROR_PROTOCOL, nghttp2_strerror(r));
    }
}

static bool is_over(const struct h2_client *h2)
{
    return h2->link.is_dead ||
        (!nghttp2_session_want_read(h2->link.session) &&
         !nghttp2_session_want_write(h2->link.session));
}

static void free_now(struct h2_client *h2)
{
    CHECK(list_is_empty(&h2->calls));
    h2_link_done(&h2->link);
    h2_head_done(&h2->head);
    free(h2->fields.at);
    free(h2);
}

static void tell_change(struct h2_client *h2)
{
    if (h2->has_changed && !h2->is_freed) {
        h2->has_changed = false;
        h2->changed(h2->link.context);
    }
}

static void run(struct h2_client *h2)
{
    if (h2->depth > 0) {
        return;
    }
    h2->depth++;
    do {
        act_on_all(h2);
        tell_change(h2);
        pull(h2);
    } while (!list_is_empty(&h2->dirty) || (h2->has_changed && !h2->is_freed));
    if (!h2->is_freed && !h2->is_finished && is_over(h2)) {
        if (!h2->link.is_dead) {
            die(h2, NGHTTP2_NO_ERROR, ERROR_UNAVAILABLE, "the server has ended the connection");
        }
        act_on_all(h2);
        tell_change(h2);
        if (!h2->is_freed && h2->call_count == 0) {
            h2->is_finished = true;
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
    struct h2_client *h2 = argument;
    h2->is_posted = false;
    run(h2);
}

/*
 * A call did something: when whoever did it has returned, what can go out goes, and what has to be
 * told is told.  A head, a body and its end that come one after the other are then one write.
 */
static void touch(struct h2_client *h2)
{
    if (h2->depth == 0 && !h2->is_posted) {
        h2->is_posted = true;
        loop_post(h2->loop, run_posted, h2);
    }
}

/* ---- Calls ---- */

/* False: the text is no request. */
static bool fill_fields(struct h2_client *h2, const void *request, size_t length,
                        size_t *ret_head_length)
{
    const struct parse_limits limits = {SIZE_MAX / 2, PARSE_FIELDS_MAX, SIZE_MAX};
    struct h2_fields *fields = &h2->fields;
    long head_length = parse_request(request, length, &limits, &h2->scratch);
    if (head_length <= 0) {
        return false;
    }
    *ret_head_length = (size_t)head_length;
    fields->count = 0;
    h2_fields_add(fields, text_of(":method", 7), h2->scratch.method);
    h2_fields_add(fields, text_of(":scheme", 7), text_of(h2->scheme, strlen(h2->scheme)));
    h2_fields_add(fields, text_of(":authority", 10), parse_find(&h2->scratch, "host"));
    h2_fields_add(fields, text_of(":path", 5), h2->scratch.target);
    for (size_t i = 0; i < h2->scratch.field_count; i++) {
        const struct parse_field *field = &h2->scratch.fields[i];
        if (!text_equal_ignoring_case(field->name, "host") &&
            !text_equal_ignoring_case(field->name, "te") && !h2_is_of_connection(field->name)) {
            h2_fields_add(fields, field->name, field->value); /* the library makes it lower case */
        }
    }
    return true;
}

static void submit(struct h2_call *call, const void *request, size_t length)
{
    struct h2_client *h2 = call->h2;
    size_t head_length = 0;
    call->is_bad = !fill_fields(h2, request, length, &head_length);
    if (!call->is_bad) {
        h2_body_append(&call->out, (const uint8_t *)request + head_length, length - head_length);
        bool has_body = call->is_streaming || h2_body_left(&call->out) > 0;
        nghttp2_data_provider provider = {.source.ptr = &call->out, .read_callback = on_need_data};
        call->id = nghttp2_submit_request(h2->link.session, NULL, h2->fields.at, h2->fields.count,
                                          has_body ? &provider : NULL, call);
    }
    if (call->is_bad || call->id < 0) {
        call->is_closed = true;
        call->code = NGHTTP2_REFUSED_STREAM; /* no numbers are left: another connection has some */
        mark(call);
    }
}

struct h2_call *h2_client_call(struct h2_client *h2, const void *request, size_t length,
                               bool is_streaming, const struct h2_call_events *events,
                               void *context)
{
    CHECK(h2_client_has_room(h2));
    struct h2_call *call = NEW(struct h2_call);
    call->h2 = h2;
    call->out.link = &h2->link;
    call->events = *events;
    call->context = context;
    call->is_streaming = is_streaming;
    call->is_finished = !is_streaming;
    call->wants_room = is_streaming;
    list_push_back(&h2->calls, &call->link);
    h2->call_count++;
    if (h2->call_count == 1) {
        h2->alive_ms = h2->now_ms; /* nobody was asked for anything before */
    }
    submit(call, request, length);
    if (is_streaming) {
        mark(call);
    }
    touch(h2);
    return call;
}

static void go_on_sending(struct h2_call *call)
{
    if (!call->is_closed && !call->is_cancelled && !call->h2->link.is_dead) {
        nghttp2_session_resume_data(call->h2->link.session, call->id);
        touch(call->h2);
    }
}

/* A big piece goes into its frames from where it is, as far as the windows let it. */
static void send_lent(struct h2_call *call, const void *bytes, size_t length)
{
    struct h2_client *h2 = call->h2;
    h2_body_lend(&call->out, bytes, length);
    go_on_sending(call);
    h2->depth++;
    pull(h2);
    h2->depth--;
    h2_body_keep(&call->out);
}

bool h2_call_write(struct h2_call *call, const void *bytes, size_t length)
{
    CHECK(call->is_streaming && !call->is_finished);
    if (call->is_closed || call->is_cancelled) {
        return true; /* it will be told */
    }
    call->wants_room = true;
    if (length >= H2_LENT_LEAST && h2_body_left(&call->out) == 0) {
        send_lent(call, bytes, length);
    } else {
        h2_body_append(&call->out, bytes, length);
        go_on_sending(call);
    }
    return h2_body_left(&call->out) < OUT_HIGH;
}

void h2_call_finish(struct h2_call *call)
{
    CHECK(call->is_streaming && !call->is_finished);
    call->is_finished = true;
    go_on_sending(call);
}

bool h2_call_was_sent(const struct h2_call *call)
{
    return call->was_sent;
}

void h2_call_pause(struct h2_call *call)
{
    call->is_paused = true;
}

void h2_call_resume(struct h2_call *call)
{
    call->is_paused = false;
    mark(call);
    touch(call->h2);
}

void h2_call_cancel(struct h2_call *call)
{
    struct h2_client *h2 = call->h2;
    call->is_cancelled = true;
    call->is_paused = false;
    if (call->is_closed || h2->link.is_dead) {
        call->is_closed = true;
    } else {
        nghttp2_session_consume_connection(h2->link.session, in_left(call));
        nghttp2_submit_rst_stream(h2->link.session, NGHTTP2_FLAG_NONE, call->id, NGHTTP2_CANCEL);
    }
    drop_in(call);
    mark(call);
    touch(h2);
}

/* ---- Time ---- */

void h2_client_tick(struct h2_client *h2, uint64_t now_ms)
{
    h2->now_ms = now_ms;
    if (h2->link.is_dead) {
        return;
    }
    h2->depth++;
    h2_guard_tick(&h2->guard, now_ms);
    if (h2->asked_ms != 0 && now_ms - h2->asked_ms >= SIGN_OF_LIFE_MS) {
        die(h2, NGHTTP2_NO_ERROR, ERROR_UNAVAILABLE, "the server gives no sign of life");
    } else if (h2->asked_ms == 0 && now_ms - h2->alive_ms >= SILENCE_MS) {
        h2->asked_ms = now_ms;
        nghttp2_submit_ping(h2->link.session, NGHTTP2_FLAG_NONE, NULL);
    }
    h2->depth--;
    run(h2);
}

static void note_life(struct h2_client *h2, uint64_t now_ms)
{
    h2->now_ms = h2->alive_ms = now_ms;
    h2->asked_ms = 0;
}

/* ---- Life ---- */

static nghttp2_session *new_session(struct h2_client *h2)
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
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_stream_close);
    nghttp2_session_callbacks_set_on_frame_send_callback(callbacks, on_frame_sent);
    h2_body_set_callbacks(callbacks);
    nghttp2_option_set_no_auto_window_update(option, 1);
    nghttp2_option_set_no_closed_streams(option, 1);
    nghttp2_option_set_peer_max_concurrent_streams(option, STREAMS_AT_FIRST);
    CHECK(nghttp2_session_client_new2(&session, callbacks, h2, option) == 0);
    nghttp2_option_del(option);
    nghttp2_session_callbacks_del(callbacks);
    return session;
}

struct h2_client *h2_client_new(struct loop *loop, const struct h2_wire *wire,
                                void (*changed)(void *context), void *context,
                                size_t head_bytes_max, const char *scheme, uint64_t now_ms)
{
    struct h2_client *h2 = NEW(struct h2_client);
    h2->loop = loop;
    h2->link.wire = *wire;
    h2->link.context = context;
    h2->changed = changed;
    h2->scheme = scheme;
    h2->now_ms = h2->alive_ms = h2->guard.since_ms = now_ms;
    h2->limits = (struct parse_limits){head_bytes_max, PARSE_FIELDS_MAX, 0};
    list_init(&h2->calls);
    list_init(&h2->dirty);
    h2->link.session = new_session(h2);
    const nghttp2_settings_entry settings[] = {
        {NGHTTP2_SETTINGS_ENABLE_PUSH, 0},
        {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, H2_NODE_STREAM_WINDOW},
        {NGHTTP2_SETTINGS_MAX_FRAME_SIZE, H2_FRAME_BYTES},
        {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, (uint32_t)head_bytes_max},
        {NGHTTP2_SETTINGS_NO_RFC7540_PRIORITIES, 1},
    };
    nghttp2_submit_settings(h2->link.session, NGHTTP2_FLAG_NONE, settings,
                            sizeof(settings) / sizeof(settings[0]));
    nghttp2_session_set_local_window_size(h2->link.session, NGHTTP2_FLAG_NONE, 0, H2_NODE_WINDOW);
    return h2;
}

void h2_client_receive(struct h2_client *h2, const void *bytes, size_t length, uint64_t now_ms)
{
    CHECK(h2->depth == 0);
    note_life(h2, now_ms);
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
            die(h2, h2_code_of((int)took), ERROR_PROTOCOL, "the answer is not HTTP");
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

void h2_client_flush(struct h2_client *h2, uint64_t now_ms)
{
    note_life(h2, now_ms);
    run(h2);
}

void h2_client_lose(struct h2_client *h2, const struct error *error)
{
    if (h2->error.kind == ERROR_NONE) {
        h2->error = *error;
    }
    h2->link.is_dead = h2->has_changed = true;
    lose_calls(h2);
    run(h2);
}

bool h2_client_is_over(const struct h2_client *h2)
{
    return h2->link.is_dead || h2->has_goaway || h2->is_freed ||
        !nghttp2_session_check_request_allowed(h2->link.session);
}

bool h2_client_has_room(const struct h2_client *h2)
{
    uint32_t most = h2->has_settings
        ? nghttp2_session_get_remote_settings(h2->link.session,
                                              NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS)
        : STREAMS_AT_FIRST;
    return !h2_client_is_over(h2) && h2->call_count < most && h2->call_count < H2_STREAMS_MAX;
}

size_t h2_client_calls(const struct h2_client *h2)
{
    return h2->call_count;
}

void h2_client_free(struct h2_client *h2, const struct error *error)
{
    if (h2 == NULL || h2->is_freed) {
        return;
    }
    h2->depth++;
    if (error == NULL) {
        pull(h2); /* what was cancelled is still said */
        h2_link_die(&h2->link, NGHTTP2_NO_ERROR);
        error_set(&h2->error, ERROR_CANCELLED, "cancelled");
    } else if (h2->error.kind == ERROR_NONE) {
        h2->error = *error;
    }
    h2->depth--;
    h2->link.is_dead = h2->is_freed = true;
    lose_calls(h2);
    run(h2);
}
