/*
 * Listeners.  Peers that shake hands stand in a queue in the order they came: its head is the one
 * whose time is up first, and the one to go when there are too many.
 */
#include <errno.h>
#include <netinet/in.h>
#include <string.h>

#include "base/check.h"
#include "base/loop/loop.h"
#include "base/memory.h"
#include "base/stream/inside.h"

enum { BACKLOG = 512 };

struct stream_listener {
    struct loop *loop;
    uv_tcp_t tcp;
    int family;
    struct tls_context *tls;
    char *protocols;
    void (*on_stream)(struct stream *owned_stream, void *context);
    void *context;
    uint64_t handshake_ms;
    struct list shaking;
    size_t shaking_count;
    struct loop_timer *timer;
};

static void give_up(struct stream_listener *listener, struct stream *stream)
{
    CHECK(listener->shaking_count > 0);
    listener->shaking_count--;
    stream_close(stream);
}

static void on_ready(struct stream *stream, const struct error *error, void *context)
{
    struct stream_listener *listener = context;
    if (error == NULL) {
        list_remove(&stream->link);
        listener->shaking_count--;
        listener->on_stream(stream, listener->context);
    } else if (!stream->is_refused) {
        stream_refuse(stream);
    } else {
        give_up(listener, stream);
    }
}

static void watch_time(struct stream_listener *listener)
{
    const struct stream *first = LIST_FIRST(&listener->shaking, struct stream, link);
    if (first != NULL) {
        uint64_t now_ms = loop_now_ms(listener->loop);
        loop_timer_start(listener->timer,
                         first->deadline_ms > now_ms ? first->deadline_ms - now_ms : 0);
    }
}

static void on_time(void *context)
{
    struct stream_listener *listener = context;
    uint64_t now_ms = loop_now_ms(listener->loop);
    LIST_EACH(node, &listener->shaking)
    {
        struct stream *stream = LIST_ITEM(node, struct stream, link);
        if (stream->deadline_ms > now_ms) {
            break;
        }
        give_up(listener, stream);
    }
    watch_time(listener);
}

static int new_session(struct stream_listener *listener, struct tls_session **ret_session,
                       struct error *err)
{
    const struct tls_session_terms terms = {.is_server = true, .protocols = listener->protocols};
    *ret_session = NULL;
    return listener->tls != NULL ? tls_session_new(listener->tls, &terms, ret_session, err) : 0;
}

static void on_connect(uv_stream_t *uv, int status)
{
    struct stream_listener *listener = uv->data;
    if (status < 0) {
        return;
    }
    struct error error = {0};
    struct stream *stream = stream_new(listener->loop, listener->family);
    struct tls_session *session = NULL;
    if (uv_accept(uv, &stream->uv.stream) < 0 || new_session(listener, &session, &error) < 0) {
        stream_close(stream);
        return;
    }
    bool was_empty = list_is_empty(&listener->shaking);
    stream->deadline_ms = loop_now_ms(listener->loop) + listener->handshake_ms;
    list_push_back(&listener->shaking, &stream->link);
    if (++listener->shaking_count > STREAM_HANDSHAKES_MAX) {
        give_up(listener, LIST_FIRST(&listener->shaking, struct stream, link));
    }
    if (was_empty) {
        watch_time(listener);
    }
    stream_shake(stream, session, on_ready, listener);
}

static void on_closed(uv_handle_t *handle)
{
    struct stream_listener *listener = handle->data;
    tls_context_unref(listener->tls);
    free(listener->protocols);
    free(listener);
}

void stream_listener_close(struct stream_listener *listener)
{
    if (listener == NULL) {
        return;
    }
    LIST_EACH(node, &listener->shaking)
    {
        give_up(listener, LIST_ITEM(node, struct stream, link));
    }
    loop_timer_free(listener->timer);
    uv_close((uv_handle_t *)&listener->tcp, on_closed);
}

void stream_listener_hurry(struct stream_listener *listener, uint64_t handshake_ms)
{
    listener->handshake_ms = handshake_ms;
}

static int open_listener(struct stream_listener *listener, const char *text,
                         const struct stream_address *address, struct error *err)
{
    /* That the protocols are a list and the context works is found out now, not by each peer. */
    struct tls_session *trial = NULL;
    int r = new_session(listener, &trial, err);
    if (r < 0) {
        return r;
    }
    tls_session_free(trial);
    r = uv_tcp_bind(&listener->tcp, (const struct sockaddr *)&address->socket, 0);
    if (r == 0) {
        r = uv_listen((uv_stream_t *)&listener->tcp, BACKLOG, on_connect);
    }
    if (r == UV_EADDRINUSE) {
        return error_set(err, ERROR_EXISTS,
                         "%s is in use by another process: stop it, or choose another address",
                         text);
    }
    return r < 0 ? error_os(err, -r, "listening on %s", text) : 0;
}

static uint16_t bound_port(const struct stream_listener *listener)
{
    struct sockaddr_storage socket = {0};
    int length = sizeof(socket);
    int r = uv_tcp_getsockname(&listener->tcp, (struct sockaddr *)&socket, &length);
    CHECK(r == 0);
    return ntohs(socket.ss_family == AF_INET ? ((const struct sockaddr_in *)&socket)->sin_port
                                             : ((const struct sockaddr_in6 *)&socket)->sin6_port);
}

/* NOLINTNEXTLINE(readability-function-size): each of the nine is needed and means one thing. */
int stream_listen(struct loop *loop, const char *address, struct tls_context *tls_or_null,
                  const char *protocols,
                  void (*on_stream)(struct stream *owned_stream, void *context), void *context,
                  struct stream_listener **ret_listener, uint16_t *ret_port, struct error *err)
{
    struct stream_address parsed;
    int r = stream_address_parse(address, &parsed, err);
    if (r < 0) {
        return r;
    }
    if (parsed.is_unix || parsed.socket.ss_family == 0) {
        return error_set(err, ERROR_INVALID, "\"%s\" is not an IP address with a port", address);
    }
    struct stream_listener *listener = NEW(struct stream_listener);
    *listener = (struct stream_listener){.loop = loop,
                                         .family = parsed.socket.ss_family,
                                         .handshake_ms = STREAM_HANDSHAKE_MS,
                                         .on_stream = on_stream,
                                         .context = context};
    listener->tls = tls_or_null != NULL ? tls_context_ref(tls_or_null) : NULL;
    listener->protocols = protocols != NULL ? memory_copy_string(protocols) : NULL;
    list_init(&listener->shaking);
    listener->timer = loop_timer_new(loop, on_time, listener);
    uv_tcp_init(loop_uv(loop), &listener->tcp);
    listener->tcp.data = listener;
    r = open_listener(listener, address, &parsed, err);
    if (r < 0) {
        stream_listener_close(listener);
        return r;
    }
    if (ret_port != NULL) {
        *ret_port = bound_port(listener);
    }
    *ret_listener = listener;
    return 0;
}
