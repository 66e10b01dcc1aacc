/*
 * HTTP/2: a server's end fed with what follows the preface, a client's with what a server says.
 *
 * The first byte says how the rest is cut, the second which end hears it.  Claims: nothing is read
 * or freed twice; what goes out is whole frames; every exchange is told its end, every call ends
 * once.
 */
#include "base/http/h2.h"

#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/error.h"
#include "base/http/connection.h"
#include "base/loop/loop.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { HELD_MAX = 512, CALLS = 3 };

static struct loop *loop;
static struct http_server *server;
static struct buffer sent;
static struct http_exchange *held[HELD_MAX];
static size_t held_count;
static size_t reading;
static size_t open_calls;
static struct h2_call *calls[CALLS];

/* ---- The wire ---- */

static void wire_write(const void *bytes, size_t length, void *context)
{
    (void)context;
    buffer_append(&sent, bytes, length);
}

static size_t wire_waiting(void *context)
{
    (void)context;
    return sent.used > 262144 ? sent.used : 0;
}

static void wire_finish(void *context)
{
    (void)context;
}

static void changed(void *context)
{
    (void)context;
}

static void check_frames(size_t skipped)
{
    size_t at = skipped;
    while (at < sent.used) {
        CHECK(sent.used - at >= 9);
        size_t length =
            ((size_t)sent.data[at] << 16) + ((size_t)sent.data[at + 1] << 8) + sent.data[at + 2];
        CHECK(sent.used - at >= 9 + length);
        at += 9 + length;
    }
    sent.used = 0;
}

/* ---- The server ---- */

static void end_echo(struct buffer *body, const struct error *error, void *context)
{
    struct http_exchange *exchange = context;
    reading--;
    if (error != NULL) {
        http_exchange_respond_error(exchange, error, NULL);
    } else {
        http_exchange_respond(exchange, 200, body->data, body->used);
    }
    http_exchange_unref(exchange);
}

static void copy_data(const void *bytes, size_t length, void *context)
{
    http_exchange_write(context, bytes, length);
}

static void copy_end(const struct error *error, void *context)
{
    struct http_exchange *exchange = context;
    reading--;
    if (error == NULL) {
        http_exchange_end(exchange);
    } else {
        http_exchange_abort(exchange);
    }
    http_exchange_unref(exchange);
}

static void serve(struct http_exchange *exchange, void *context)
{
    struct text path = http_exchange_path(exchange);
    (void)context;
    CHECK(path.length > 0 && path.data[0] == '/' &&
          parse_is_host(http_exchange_field(exchange, "host")));
    for (size_t i = 0; i < http_exchange_field_count(exchange); i++) {
        struct text name;
        struct text value;
        http_exchange_field_at(exchange, i, &name, &value);
        CHECK(parse_is_token(name) && parse_is_value(value));
    }
    switch (path.length > 1 ? path.data[1] : 'e') {
    case 'e':
        reading++;
        http_exchange_read_all(exchange, 1000, end_echo, exchange);
        return;
    case 'c':
        reading++;
        http_exchange_begin(exchange, 200, UINT64_MAX);
        http_exchange_read(exchange, copy_data, copy_end, exchange);
        return;
    case 'h':
        if (held_count < HELD_MAX) {
            held[held_count++] = exchange;
            return;
        }
        break;
    case 'a':
        http_exchange_begin(exchange, 200, 5);
        http_exchange_abort(exchange);
        break;
    default:
        http_exchange_respond(exchange, 200, "x", 1);
        break;
    }
    http_exchange_unref(exchange);
}

static void let_go(void)
{
    for (size_t i = 0; i < held_count; i++) {
        http_exchange_respond(held[i], 200, "held", 4);
        http_exchange_unref(held[i]);
    }
    held_count = 0;
}

static void try_server(const uint8_t *data, size_t size, size_t step)
{
    static const struct h2_wire wire = {wire_write, wire_waiting, wire_finish, NULL};
    struct h2_server *h2 = h2_server_new(server, &wire, NULL, "peer", NULL, 1);
    uint64_t now_ms = 1;
    h2_server_receive(h2, h2_preface, H2_PREFACE_LENGTH, now_ms);
    for (size_t at = 0; at < size; at += step) {
        size_t part = size - at < step ? size - at : step;
        uint8_t *piece = malloc(part); /* in memory of its own size */
        CHECK(piece != NULL);
        memcpy(piece, data + at, part);
        h2_server_receive(h2, piece, part, now_ms);
        free(piece);
        if (at / step % 16 == 15) {
            let_go();
            now_ms += 1000;
            h2_server_tick(h2, now_ms);
        }
        uv_run(loop_uv(loop), UV_RUN_NOWAIT);
    }
    h2_server_drain(h2);
    let_go();
    h2_server_tick(h2, now_ms + 100000);
    h2_server_free(h2);
    uv_run(loop_uv(loop), UV_RUN_NOWAIT);
    CHECK(reading == 0 && held_count == 0);
    check_frames(0);
}

/* ---- The client ---- */

static void on_head(const struct parse_head *head, struct buffer *bytes, void *context)
{
    (void)context;
    CHECK(head->status >= 200 && head->status <= 999 && bytes->used > 0);
}

static void on_data(const void *bytes, size_t length, void *context)
{
    (void)context;
    CHECK(bytes != NULL && length > 0);
}

static void on_room(void *context)
{
    struct h2_call **call = context;
    h2_call_write(*call, "data", 4);
    h2_call_finish(*call);
}

static void on_end(const struct error *error, bool untouched, void *context)
{
    struct h2_call **call = context;
    CHECK(*call != NULL && open_calls > 0 && (error == NULL || error->kind != ERROR_NONE));
    CHECK(!(error == NULL && untouched));
    *call = NULL;
    open_calls--;
}

static void try_client(const uint8_t *data, size_t size, size_t step)
{
    static const struct h2_wire wire = {wire_write, wire_waiting, wire_finish, NULL};
    static const struct h2_call_events events = {on_head, on_data, on_room, on_end};
    static const char get[] = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    static const char post[] = "POST /b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    const struct error gone = {.kind = ERROR_UNAVAILABLE};
    struct h2_client *h2 = h2_client_new(loop, &wire, changed, NULL, 65536, "https", 1);
    for (size_t i = 0; i < CALLS; i++) {
        open_calls++;
        calls[i] = i == 1 ? h2_client_call(h2, post, sizeof(post) - 1, true, &events, &calls[i])
                          : h2_client_call(h2, get, sizeof(get) - 1, false, &events, &calls[i]);
    }
    for (size_t at = 0; at < size; at += step) {
        size_t part = size - at < step ? size - at : step;
        h2_client_receive(h2, data + at, part, 1);
        uv_run(loop_uv(loop), UV_RUN_NOWAIT);
        if (at / step == 3 && calls[2] != NULL) {
            h2_call_cancel(calls[2]);
            calls[2] = NULL;
            open_calls--;
        }
    }
    h2_client_tick(h2, 10000);
    h2_client_free(h2, &gone);
    uv_run(loop_uv(loop), UV_RUN_NOWAIT);
    CHECK(open_calls == 0);
    check_frames(H2_PREFACE_LENGTH);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (loop == NULL) {
        struct error err = {0};
        const struct http_server_options options = http_server_defaults();
        CHECK(loop_new("h2", &loop, &err) == 0);
        CHECK(http_server_new(loop, &options, serve, NULL, &server, &err) == 0);
    }
    if (size < 3) {
        return 0;
    }
    size_t step = data[0] == 0 ? size : data[0];
    if (data[1] % 2 == 0) {
        try_server(data + 2, size - 2, step);
    } else {
        try_client(data + 2, size - 2, step);
    }
    return 0;
}
