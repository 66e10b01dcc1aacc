/*
 * Dialling: look the name up, try its addresses in turn, shake hands.
 *
 * Each address gets its share of the time that is left, so that one that swallows packets does not
 * take the time of the others.  A peer that answers and is not who it should be ends the dial:
 * another address of the same name would not make that good.
 */
#include <netinet/in.h>
#include <string.h>

#include "base/check.h"
#include "base/loop/loop.h"
#include "base/memory.h"
#include "base/stream/inside.h"

enum { TIMEOUT_MS = 10000, ADDRESSES_MAX = 8 };

struct stream_dial {
    struct loop *loop;
    char *text;
    struct stream_address address;
    struct sockaddr_storage found[ADDRESSES_MAX];
    size_t found_count;
    size_t next;
    uv_getaddrinfo_t lookup;
    bool is_looking_up;
    struct tls_context *tls;
    char *protocols;
    char *server_name;
    char *identity;
    struct stream *stream; /* being connected */
    struct loop_timer *timer;
    uint64_t deadline_ms;
    void (*done)(struct stream *owned_stream, const struct error *error, void *context);
    void *context;
    bool is_over;
    unsigned holds; /* the first post, the look-up */
};

static void try_next(struct stream_dial *dial);

static void maybe_free(struct stream_dial *dial)
{
    if (!dial->is_over || dial->holds > 0) {
        return;
    }
    tls_context_unref(dial->tls);
    free(dial->text);
    free(dial->protocols);
    free(dial->server_name);
    free(dial->identity);
    free(dial);
}

/* No callback of libuv's or a stream's finds the dial afterwards. */
static void stop(struct stream_dial *dial)
{
    CHECK(!dial->is_over);
    dial->is_over = true;
    loop_timer_free(dial->timer);
    dial->timer = NULL;
    if (dial->is_looking_up) {
        uv_cancel((uv_req_t *)&dial->lookup);
    }
    stream_close(dial->stream);
    dial->stream = NULL;
}

static void finish(struct stream_dial *dial, struct stream *stream, struct error *error)
{
    if (error != NULL) {
        error_wrap(error, "%s", dial->text);
    }
    dial->holds++;
    stop(dial);
    dial->done(stream, error, dial->context);
    dial->holds--;
    maybe_free(dial);
}

void stream_dial_cancel(struct stream_dial *dial)
{
    if (dial != NULL) {
        stop(dial);
        maybe_free(dial);
    }
}

/* One address did not work: the next, or the end. */
static void fail(struct stream_dial *dial, struct error *error)
{
    bool may_go_on = error->kind == ERROR_UNAVAILABLE || error->kind == ERROR_TIMEOUT;
    if (!may_go_on || dial->next >= dial->found_count) {
        finish(dial, NULL, error);
        return;
    }
    stream_close(dial->stream);
    dial->stream = NULL;
    try_next(dial);
}

static void on_time(void *context)
{
    struct stream_dial *dial = context;
    struct error error = {0};
    error_set(&error, ERROR_TIMEOUT, "%s",
              dial->is_looking_up ? "the name was not found in time" : "no answer in time");
    fail(dial, &error);
}

static void on_ready(struct stream *stream, const struct error *error, void *context)
{
    struct stream_dial *dial = context;
    if (error != NULL) {
        struct error copy = *error;
        fail(dial, &copy);
        return;
    }
    dial->stream = NULL;
    finish(dial, stream, NULL);
}

static void on_connected(uv_connect_t *request, int status)
{
    struct stream *stream = request->data;
    if (stream->closing) {
        return; /* and the dial may be gone */
    }
    struct stream_dial *dial = stream->ready_context;
    struct error error = {0};
    struct tls_session *session = NULL;
    const struct tls_session_terms terms = {
        .protocols = dial->protocols, .server_name = dial->server_name, .identity = dial->identity};
    if (status < 0) {
        error_set(&error, ERROR_UNAVAILABLE, "%s", uv_strerror(status));
        fail(dial, &error);
    } else if (dial->tls != NULL && tls_session_new(dial->tls, &terms, &session, &error) < 0) {
        fail(dial, &error);
    } else {
        stream_shake(stream, session, on_ready, dial);
    }
}

static struct stream *new_stream(struct stream_dial *dial, int family)
{
    dial->stream = stream_new(dial->loop, family);
    dial->stream->connect.data = dial->stream;
    dial->stream->ready_context = dial;
    return dial->stream;
}

static void try_next(struct stream_dial *dial)
{
    CHECK(dial->next < dial->found_count && dial->stream == NULL);
    uint64_t now_ms = loop_now_ms(dial->loop);
    uint64_t left_ms = dial->deadline_ms > now_ms ? dial->deadline_ms - now_ms : 0;
    loop_timer_start(dial->timer, left_ms / (dial->found_count - dial->next));
    const struct sockaddr_storage *socket = &dial->found[dial->next++];
    struct stream *stream = new_stream(dial, socket->ss_family);
    int r = uv_tcp_connect(&stream->connect, &stream->uv.tcp, (const struct sockaddr *)socket,
                           on_connected);
    if (r < 0) {
        struct error error = {0};
        error_set(&error, ERROR_UNAVAILABLE, "%s", uv_strerror(r));
        fail(dial, &error);
    }
}

static void on_found(uv_getaddrinfo_t *request, int status, struct addrinfo *list)
{
    struct stream_dial *dial = request->data;
    dial->holds--;
    dial->is_looking_up = false;
    for (const struct addrinfo *at = list; at != NULL && dial->found_count < ADDRESSES_MAX;
         at = at->ai_next) {
        if (at->ai_addrlen <= sizeof(dial->found[0]) &&
            (at->ai_family == AF_INET || at->ai_family == AF_INET6)) {
            memcpy(&dial->found[dial->found_count++], at->ai_addr, at->ai_addrlen);
        }
    }
    uv_freeaddrinfo(list);
    if (dial->is_over) {
        maybe_free(dial);
        return;
    }
    if (dial->found_count == 0) {
        struct error error = {0};
        error_set(&error, ERROR_UNAVAILABLE, "looking up the name: %s",
                  status < 0 ? uv_strerror(status) : "no address");
        finish(dial, NULL, &error);
        return;
    }
    try_next(dial);
}

static void look_up(struct stream_dial *dial)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG};
    char port[8];
    snprintf(port, sizeof(port), "%u", dial->address.port);
    dial->lookup.data = dial;
    loop_timer_start(dial->timer, dial->deadline_ms - loop_now_ms(dial->loop));
    int r = uv_getaddrinfo(loop_uv(dial->loop), &dial->lookup, on_found, dial->address.host, port,
                           &hints);
    if (r < 0) {
        struct error error = {0};
        error_set(&error, ERROR_UNAVAILABLE, "looking up the name: %s", uv_strerror(r));
        finish(dial, NULL, &error);
        return;
    }
    dial->is_looking_up = true;
    dial->holds++;
}

static void begin(void *argument)
{
    struct stream_dial *dial = argument;
    struct error error = {0};
    dial->holds--;
    if (dial->is_over) {
        maybe_free(dial);
        return;
    }
    if (stream_address_parse(dial->text, &dial->address, &error) < 0) {
        finish(dial, NULL, &error);
    } else if (dial->address.is_unix) {
        struct stream *stream = new_stream(dial, AF_UNIX);
        loop_timer_start(dial->timer, dial->deadline_ms - loop_now_ms(dial->loop));
        uv_pipe_connect(&stream->connect, &stream->uv.pipe, dial->address.path, on_connected);
    } else if (dial->address.socket.ss_family != 0) {
        dial->found[0] = dial->address.socket;
        dial->found_count = 1;
        try_next(dial);
    } else {
        look_up(dial);
    }
}

static char *copy_or_null(const char *text)
{
    return text != NULL ? memory_copy_string(text) : NULL;
}

struct stream_dial *
stream_dial(struct loop *loop, const char *address, const struct stream_dial_options *options,
            void (*done)(struct stream *owned_stream, const struct error *error, void *context),
            void *context)
{
    static const struct stream_dial_options none;
    const struct stream_dial_options *use = options != NULL ? options : &none;
    struct stream_dial *dial = NEW(struct stream_dial);
    dial->loop = loop;
    dial->text = memory_copy_string(address);
    dial->tls = use->tls != NULL ? tls_context_ref(use->tls) : NULL;
    dial->protocols = copy_or_null(use->protocols);
    dial->server_name = copy_or_null(use->server_name);
    dial->identity = copy_or_null(use->identity);
    dial->done = done;
    dial->context = context;
    dial->timer = loop_timer_new(loop, on_time, dial);
    dial->deadline_ms = loop_now_ms(loop) + (use->timeout_ms > 0 ? use->timeout_ms : TIMEOUT_MS);
    dial->holds = 1;
    loop_post(loop, begin, dial);
    return dial;
}
