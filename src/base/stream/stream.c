/*
 * Streams on libuv handles.
 *
 * Nothing of the owner's is called from inside a call of the owner's: what is due then is posted
 * (`holds` counts those posts) and found by pump(), the one place that lends data and tells the
 * end.  The struct lives until libuv has closed the handle and the last post has run.
 */
#include "base/stream/stream.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "base/loop/loop.h"
#include "base/memory.h"
#include "base/stream/inside.h"

/* Who gets a few big pieces passes on a few big pieces. */
enum { READ_LEAST = 65536, RECORD_BYTES = 16384, WRITE_SMALL = 4096, WRITE_LARGE = 65536 };

static void pump(struct stream *stream);
static void post_pump(struct stream *stream);
static void watch(struct stream *stream);

/* Nothing more will come in. */
static bool is_over(const struct stream *stream)
{
    return stream->at_eof || stream->fault.kind != ERROR_NONE;
}

struct stream *stream_new(struct loop *loop, int family)
{
    struct stream *stream = NEW(struct stream);
    int r = family == AF_UNIX ? uv_pipe_init(loop_uv(loop), &stream->uv.pipe, 0)
                              : uv_tcp_init(loop_uv(loop), &stream->uv.tcp);
    CHECK(r == 0);
    stream->loop = loop;
    stream->uv.handle.data = stream;
    stream->write.data = stream;
    return stream;
}

/* ---- Closing ---- */

static void maybe_free(struct stream *stream)
{
    if (stream->is_closed && stream->holds == 0) {
        tls_session_free(stream->session);
        buffer_done(&stream->in);
        buffer_done(&stream->out);
        buffer_done(&stream->writing);
        free(stream);
    }
}

static void on_closed(uv_handle_t *handle)
{
    struct stream *stream = handle->data;
    stream->is_closed = true;
    maybe_free(stream);
}

void stream_close(struct stream *stream)
{
    if (stream == NULL) {
        return;
    }
    CHECK(!stream->closing);
    stream->closing = true;
    list_remove(&stream->link);
    uv_close(&stream->uv.handle, on_closed);
}

/* ---- Writing ---- */

static struct buffer *outgoing(struct stream *stream)
{
    return stream->session != NULL ? &stream->session->out : &stream->out;
}

size_t stream_waiting(const struct stream *stream)
{
    size_t sealed = stream->session != NULL ? stream->session->out.used : 0;
    return sealed + stream->out.used + stream->writing.used;
}

/*
 * The peer takes no more.  Why, it may have said in what is still to be read (an alert, an answer):
 * reading goes on to the end, which then is no good end.
 */
static void break_off(struct stream *stream, int status)
{
    stream->broken = status;
    outgoing(stream)->used = 0; /* what was appended goes with the write that ends it */
}

static void end_our_half(struct stream *stream)
{
    if (stream->shut && !stream->shut_sent && stream_waiting(stream) == 0) {
        stream->shut_sent = true;
        uv_shutdown(&stream->shutdown, &stream->uv.stream, NULL); /* fails when it is over anyway */
    }
}

static void on_written(uv_write_t *write, int status);

static void flush(struct stream *stream)
{
    struct buffer *out = outgoing(stream);
    if (stream->write_runs || stream->closing || out->used == 0) {
        return;
    }
    if (stream->broken < 0) {
        out->used = 0;
        return;
    }
    uv_buf_t bytes = uv_buf_init((char *)out->data, (unsigned)out->used);
    int wrote = uv_try_write(&stream->uv.stream, &bytes, 1);
    if (wrote < 0 && wrote != UV_EAGAIN) {
        break_off(stream, wrote);
        return;
    }
    size_t taken = wrote > 0 ? (size_t)wrote : 0;
    if (taken == out->used) {
        out->used = 0;
        loop_give_back(stream->loop, out);
        return;
    }
    struct buffer rest = *out;
    *out = stream->writing;
    out->used = 0;
    rest.used -= taken; /* counted only: it stays where it is */
    stream->writing = rest;
    bytes = uv_buf_init((char *)rest.data + taken, (unsigned)rest.used);
    stream->write_runs = true;
    int r = uv_write(&stream->write, &stream->uv.stream, &bytes, 1, on_written);
    if (r < 0) {
        stream->write_runs = false;
        stream->writing.used = 0;
        break_off(stream, r);
    }
}

static void on_written(uv_write_t *write, int status)
{
    struct stream *stream = write->data;
    stream->write_runs = false;
    stream->writing.used = 0;
    if (stream->closing) {
        return;
    }
    if (status < 0) {
        break_off(stream, status);
    }
    flush(stream);
    end_our_half(stream);
    if (stream_waiting(stream) == 0) {
        loop_give_back(stream->loop, &stream->writing);
        if (stream->state == STREAM_STARTED && stream->events.on_drained != NULL) {
            stream->events.on_drained(stream->context);
        }
    }
}

/* What the kernel takes straight from the writer need not be copied. */
static size_t write_at_once(struct stream *stream, const void *bytes, size_t length)
{
    if (stream_waiting(stream) > 0 || length == 0) {
        return 0;
    }
    uv_buf_t lent = {.base = (char *)(uintptr_t)bytes, .len = length};
    int wrote = uv_try_write(&stream->uv.stream, &lent, 1);
    return wrote > 0 ? (size_t)wrote : 0; /* failures are flush()'s to find */
}

/* Into records, and out in parts that the processor's cache still holds. */
static void seal(struct stream *stream, const uint8_t *bytes, size_t length)
{
    struct error error = {0};
    while (length > 0 && stream->broken == 0) {
        size_t part = length < 2 * WRITE_LARGE ? length : WRITE_LARGE;
        if (part > WRITE_SMALL) {
            loop_lend(stream->loop, &stream->session->out);
        }
        if (tls_session_write(stream->session, bytes, part, &error) < 0) {
            return; /* the session has failed before: reading tells */
        }
        bytes += part;
        length -= part;
        if (length > 0) {
            flush(stream);
        }
    }
}

/* What makes no full record yet stays in `out`. */
static void seal_full_records(struct stream *stream, const uint8_t *bytes, size_t length)
{
    struct buffer *out = &stream->out;
    if (out->used > 0 && out->used + length >= RECORD_BYTES) {
        size_t part = RECORD_BYTES - out->used;
        buffer_append(out, bytes, part);
        bytes += part;
        length -= part;
        seal(stream, out->data, out->used);
        out->used = 0;
    }
    size_t whole = out->used == 0 ? length - length % RECORD_BYTES : 0;
    seal(stream, bytes, whole);
    buffer_append(out, bytes + whole, length - whole);
}

void stream_append(struct stream *stream, const void *bytes, size_t length)
{
    CHECK(stream->state != STREAM_SHAKING && !stream->shut && !stream->closing);
    if (stream->session == NULL) {
        stream_write(stream, bytes, length);
    } else if (stream->broken == 0) {
        seal_full_records(stream, bytes, length);
    }
}

void stream_write(struct stream *stream, const void *bytes, size_t length)
{
    CHECK(stream->state != STREAM_SHAKING && !stream->shut && !stream->closing);
    if (stream->broken < 0) {
        stream->out.used = 0;
        return;
    }
    if (stream->session == NULL) {
        size_t taken = write_at_once(stream, bytes, length);
        buffer_append(&stream->out, (const uint8_t *)bytes + taken, length - taken);
    } else if (stream->out.used > 0) {
        seal_full_records(stream, bytes, length);
        seal(stream, stream->out.data, stream->out.used);
        buffer_done(&stream->out);
    } else {
        seal(stream, bytes, length);
    }
    flush(stream);
}

void stream_shutdown(struct stream *stream)
{
    CHECK(stream->state != STREAM_SHAKING && !stream->shut && !stream->closing);
    stream->shut = true;
    if (stream->session != NULL) {
        tls_session_end(stream->session);
    }
    flush(stream);
    end_our_half(stream);
}

void stream_refuse(struct stream *stream)
{
    CHECK(stream->state == STREAM_SHAKING);
    stream->is_refused = true;
    stream->shut = true;
    flush(stream);
    end_our_half(stream);
    watch(stream);
    if (is_over(stream)) {
        post_pump(stream);
    }
}

/* ---- Reading ---- */

static void on_allocate(uv_handle_t *handle, size_t suggested, uv_buf_t *ret_buffer)
{
    struct stream *stream = handle->data;
    struct buffer *in = stream->session != NULL ? &stream->session->in : &stream->in;
    (void)suggested;
    loop_lend(stream->loop, in);
    if (stream->session != NULL && in->used == 0) {
        /* What is left of a record that OpenSSL has begun makes more than what comes: see
         * read_records(). */
        in->used = stream->session->taken = RECORD_BYTES;
    }
    buffer_reserve(in, READ_LEAST);
    *ret_buffer = uv_buf_init((char *)in->data + in->used, (unsigned)(in->size - in->used));
}

static void on_read(uv_stream_t *uv, ssize_t got, const uv_buf_t *buffer)
{
    struct stream *stream = uv->data;
    struct buffer *in = stream->session != NULL ? &stream->session->in : &stream->in;
    (void)buffer;
    if (got > 0) {
        in->used += (size_t)got;
    } else if (got == UV_EOF) {
        stream->at_eof = true;
    } else if (got < 0) {
        error_set(&stream->fault, ERROR_UNAVAILABLE, "%s: %s", stream->address,
                  uv_strerror((int)got));
    }
    pump(stream);
}

static void watch(struct stream *stream)
{
    if (stream->closing) {
        return;
    }
    bool wanted = !stream->at_eof && stream->fault.kind == ERROR_NONE && !stream->ended &&
        (stream->state == STREAM_SHAKING || (stream->state == STREAM_STARTED && !stream->paused));
    if (wanted && !stream->reading) {
        uv_read_start(&stream->uv.stream, on_allocate, on_read);
    } else if (!wanted && stream->reading) {
        uv_read_stop(&stream->uv.stream);
    }
    stream->reading = wanted;
}

static void on_posted(void *argument)
{
    struct stream *stream = argument;
    stream->holds--;
    stream->pump_posted = false;
    if (!stream->closing) {
        pump(stream);
    }
    maybe_free(stream);
}

static void post_pump(struct stream *stream)
{
    if (!stream->pump_posted) {
        stream->pump_posted = true;
        stream->holds++;
        loop_post(stream->loop, on_posted, stream);
    }
}

/* ---- What was received ---- */

static bool may_lend(const struct stream *stream)
{
    return stream->state == STREAM_STARTED && !stream->closing && !stream->ended && !stream->paused;
}

static void tell_end(struct stream *stream, const struct error *error)
{
    stream->ended = true;
    watch(stream);
    stream->events.on_end(error, stream->context);
}

/* Nothing is left to be lent and nothing more will come. */
static void tell_end_of_input(struct stream *stream)
{
    struct error error = stream->fault;
    if (error.kind == ERROR_NONE && stream->broken < 0) {
        error_set(&error, ERROR_UNAVAILABLE, "%s: %s", stream->address,
                  uv_strerror(stream->broken));
    } else if (error.kind == ERROR_NONE && stream->session != NULL) {
        error_set(&error, ERROR_UNAVAILABLE, "%s: the connection was cut off", stream->address);
    }
    tell_end(stream, error.kind != ERROR_NONE ? &error : NULL);
}

static void pump_clear(struct stream *stream)
{
    if (stream->in.used > 0) {
        stream->events.on_data(stream->in.data, stream->in.used, stream->context);
    }
    stream->in.used = 0;
    loop_give_back(stream->loop, &stream->in);
    if (may_lend(stream) && is_over(stream)) {
        tell_end_of_input(stream);
    }
}

/*
 * As many records as are there, deciphered to the beginning of `in`: that never reaches what
 * OpenSSL has not taken, as a record is longer than what it says, and a part of one that was taken
 * before has its room in front.  What the last of the calls said.
 */
static int read_records(struct stream *stream, size_t *ret_length, struct error *err)
{
    struct tls_session *session = stream->session;
    int r = 0;
    *ret_length = 0;
    loop_lend(stream->loop, &session->in);
    do {
        r = tls_session_read(session, session->in.data + *ret_length, RECORD_BYTES, err);
        *ret_length += r > 0 ? (size_t)r : 0;
        CHECK(*ret_length <= session->taken || session->taken == session->in.used);
    } while (r > 0 && *ret_length <= session->in.size - RECORD_BYTES);
    return r;
}

/* What OpenSSL took is forgotten; idle connections hold nothing. */
static void tidy(struct stream *stream)
{
    tls_session_tidy(stream->session);
    loop_give_back(stream->loop, &stream->session->in);
}

static void pump_session(struct stream *stream)
{
    while (may_lend(stream)) {
        struct error error = {0};
        size_t length = 0;
        int r = read_records(stream, &length, &error);
        if (length > 0) { /* what came after it is told by the next turn, again */
            stream->events.on_data(stream->session->in.data, length, stream->context);
        } else if (r == TLS_SESSION_WAITS) {
            if (is_over(stream)) {
                tell_end_of_input(stream);
            }
            break;
        } else if (r == TLS_SESSION_ENDED) {
            tell_end(stream, NULL);
        } else {
            flush(stream); /* the alert */
            error_wrap(&error, "%s", stream->address);
            tell_end(stream, &error);
        }
    }
    tidy(stream);
    flush(stream); /* what TLS itself had to answer */
}

static void become_ready(struct stream *stream)
{
    stream->state = STREAM_READY;
    watch(stream);
    stream->on_ready(stream, NULL, stream->ready_context);
}

static void take_protocol(struct stream *stream)
{
    const unsigned char *name = NULL;
    unsigned length = 0;
    SSL_get0_alpn_selected(stream->session->ssl, &name, &length);
    snprintf(stream->protocol, sizeof(stream->protocol), "%.*s", (int)length, (const char *)name);
}

static void pump_handshake(struct stream *stream)
{
    struct error error = {0};
    int r = tls_session_shake(stream->session, &error);
    tidy(stream);
    flush(stream);
    if (r > 0) {
        take_protocol(stream);
        become_ready(stream);
        return;
    }
    if (r == 0 && is_over(stream)) {
        r = error_set(&error, ERROR_UNAVAILABLE, "%s",
                      stream->at_eof ? "the connection was closed in the middle of the handshake"
                                     : stream->fault.text);
    }
    if (r < 0) {
        stream->on_ready(stream, &error, stream->ready_context);
    }
}

/* Nobody is interested any more in what a refused peer says, only in its end. */
static void pump_refused(struct stream *stream)
{
    stream->session->taken = stream->session->in.used;
    tidy(stream);
    if (is_over(stream)) {
        struct error error = {0};
        error_set(&error, ERROR_UNAVAILABLE, "the peer was refused");
        stream->on_ready(stream, &error, stream->ready_context);
    }
}

static void pump(struct stream *stream)
{
    if (stream->is_refused) {
        pump_refused(stream);
    } else if (stream->state == STREAM_SHAKING) {
        pump_handshake(stream);
    } else if (stream->session != NULL) {
        pump_session(stream);
    } else {
        pump_clear(stream);
    }
    watch(stream);
}

/* ---- Beginning ---- */

/* A peer that is dead is found out in half a minute, whether something is on its way (the user
 * timeout; else it would be a quarter of an hour) or not (keep-alive). */
static void tune(struct stream *stream)
{
    int fd = -1;
    snprintf(stream->address, sizeof(stream->address), "unix");
    if (stream->uv.handle.type != UV_TCP || uv_fileno(&stream->uv.handle, &fd) < 0) {
        return;
    }
    static const struct {
        int level, name, value;
    } rows[] = {
        {IPPROTO_TCP, TCP_NODELAY, 1},   {SOL_SOCKET, SO_KEEPALIVE, 1},
        {IPPROTO_TCP, TCP_KEEPIDLE, 15}, {IPPROTO_TCP, TCP_KEEPINTVL, 5},
        {IPPROTO_TCP, TCP_KEEPCNT, 3},   {IPPROTO_TCP, TCP_USER_TIMEOUT, STREAM_DEAD_MS},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        setsockopt(fd, rows[i].level, rows[i].name, &rows[i].value, sizeof(int));
    }
    struct sockaddr_storage socket = {0};
    int length = sizeof(socket);
    uv_tcp_getpeername(&stream->uv.tcp, (struct sockaddr *)&socket, &length);
    stream_address_format(&socket, stream->address);
}

void stream_set_dead(struct stream *stream, unsigned dead_ms)
{
    int fd = -1;
    CHECK(dead_ms > 0);
    if (stream->uv.handle.type == UV_TCP && uv_fileno(&stream->uv.handle, &fd) == 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &dead_ms, sizeof(dead_ms));
    }
}

void stream_shake(struct stream *stream, struct tls_session *owned_session,
                  void (*on_ready)(struct stream *stream, const struct error *error, void *context),
                  void *context)
{
    tune(stream);
    stream->session = owned_session;
    stream->on_ready = on_ready;
    stream->ready_context = context;
    if (owned_session == NULL) {
        become_ready(stream);
        return;
    }
    watch(stream);
    if (!owned_session->is_server) {
        pump(stream);
    }
}

struct stream *stream_adopt(struct loop *loop, int owned_fd)
{
    struct stream *stream = stream_new(loop, AF_UNIX);
    CHECK(uv_pipe_open(&stream->uv.pipe, owned_fd) == 0);
    tune(stream);
    stream->state = STREAM_READY;
    return stream;
}

void stream_start(struct stream *stream, const struct stream_events *events, void *context)
{
    CHECK(stream->state == STREAM_READY && !stream->closing);
    CHECK(events->on_data != NULL && events->on_end != NULL);
    stream->state = STREAM_STARTED;
    stream->events = *events;
    stream->context = context;
    watch(stream);
    if (stream->session != NULL) {
        post_pump(stream);
    }
}

void stream_pause(struct stream *stream)
{
    stream->paused = true;
    watch(stream);
}

void stream_resume(struct stream *stream)
{
    if (!stream->paused || stream->closing) {
        return;
    }
    stream->paused = false;
    watch(stream);
    bool keeps = stream->session != NULL &&
        (stream->session->in.used > stream->session->taken ||
         SSL_has_pending(stream->session->ssl));
    if (stream->state == STREAM_STARTED && !stream->ended && (keeps || is_over(stream))) {
        post_pump(stream);
    }
}

/* ---- Who it is ---- */

const struct tls_peer *stream_peer(const struct stream *stream)
{
    return stream->session != NULL && stream->session->has_peer ? &stream->session->peer : NULL;
}

bool stream_asked(const struct stream *stream)
{
    return stream->session != NULL &&
        (SSL_get_verify_mode(stream->session->ssl) & SSL_VERIFY_PEER) != 0;
}

const char *stream_protocol(const struct stream *stream)
{
    return stream->protocol;
}

const char *stream_address(const struct stream *stream)
{
    return stream->address;
}

struct loop *stream_loop(const struct stream *stream)
{
    return stream->loop;
}
