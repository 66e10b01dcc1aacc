/*
 * What carries many exchanges on a connection: a server's end of HTTP/2 fed with what follows the
 * preface, and both ends of the protocol between nodes.
 *
 * The first byte says how the rest is cut, the second which end hears it.  Claims: nothing is read
 * or freed twice; what goes out is whole frames; every exchange is told its end, every call ends
 * once.
 */
#include <endian.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/error.h"
#include "base/http/connection.h"
#include "base/http/h2.h"
#include "base/http/mux.h"
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
static struct mux_call *calls[CALLS];

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

static const struct http_wire wire = {wire_write, wire_waiting, wire_finish, NULL};

static void changed(void *context)
{
    (void)context;
}

static void check_h2_frames(void)
{
    size_t at = 0;
    while (at < sent.used) {
        CHECK(sent.used - at >= 9);
        size_t length =
            ((size_t)sent.data[at] << 16) + ((size_t)sent.data[at + 1] << 8) + sent.data[at + 2];
        CHECK(sent.used - at >= 9 + length);
        at += 9 + length;
    }
    sent.used = 0;
}

static void check_mux_frames(void)
{
    size_t at = 0;
    while (at < sent.used) {
        uint32_t length;
        CHECK(sent.used - at >= MUX_HEADER_BYTES);
        memcpy(&length, sent.data + at, sizeof(length));
        CHECK(sent.used - at - MUX_HEADER_BYTES >= le32toh(length));
        at += MUX_HEADER_BYTES + le32toh(length);
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

/* Pieces in memory of their own sizes. */
static void hear(void (*receive)(void *ends, const void *bytes, size_t length, uint64_t now_ms),
                 void (*tick)(void *ends, uint64_t now_ms), void *ends, const uint8_t *data,
                 size_t size, size_t step)
{
    uint64_t now_ms = 1;
    for (size_t at = 0; at < size; at += step) {
        size_t part = size - at < step ? size - at : step;
        uint8_t *piece = malloc(part);
        CHECK(piece != NULL);
        memcpy(piece, data + at, part);
        receive(ends, piece, part, now_ms);
        free(piece);
        if (at / step % 16 == 15) {
            let_go();
            now_ms += 1000;
            tick(ends, now_ms);
        }
        uv_run(loop_uv(loop), UV_RUN_NOWAIT);
    }
}

static void h2_hear(void *ends, const void *bytes, size_t length, uint64_t now_ms)
{
    h2_server_receive(ends, bytes, length, now_ms);
}

static void h2_tick(void *ends, uint64_t now_ms)
{
    h2_server_tick(ends, now_ms);
}

static void expect_nothing_left(void)
{
    uv_run(loop_uv(loop), UV_RUN_NOWAIT);
    CHECK(reading == 0 && held_count == 0);
}

static void try_h2(const uint8_t *data, size_t size, size_t step)
{
    struct h2_server *h2 = h2_server_new(server, &wire, NULL, "peer", NULL, 1);
    h2_server_receive(h2, h2_preface, H2_PREFACE_LENGTH, 1);
    hear(h2_hear, h2_tick, h2, data, size, step);
    h2_server_drain(h2);
    let_go();
    h2_server_tick(h2, UINT32_MAX);
    h2_server_free(h2);
    expect_nothing_left();
    check_h2_frames();
}

static void mux_hear(void *ends, const void *bytes, size_t length, uint64_t now_ms)
{
    mux_receive(ends, bytes, length, now_ms);
}

static void mux_tick(void *ends, uint64_t now_ms)
{
    mux_server_tick(ends, now_ms);
}

static void try_mux(const uint8_t *data, size_t size, size_t step)
{
    struct mux *mux = mux_server_new(server, &wire, NULL, "peer", NULL, 1);
    hear(mux_hear, mux_tick, mux, data, size, step);
    mux_server_drain(mux);
    let_go();
    mux_server_tick(mux, UINT32_MAX);
    mux_server_free(mux);
    expect_nothing_left();
    check_mux_frames();
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
    struct mux_call **call = context;
    mux_call_write(*call, "data", 4);
    mux_call_finish(*call);
}

static void on_end(const struct error *error, bool untouched, void *context)
{
    struct mux_call **call = context;
    CHECK(*call != NULL && open_calls > 0 && (error == NULL || error->kind != ERROR_NONE));
    CHECK(!(error == NULL && untouched));
    *call = NULL;
    open_calls--;
}

static void try_client(const uint8_t *data, size_t size, size_t step)
{
    static const struct mux_call_events events = {on_head, on_data, on_room, on_end};
    static const char get[] = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    static const char post[] = "POST /b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    const struct error gone = {.kind = ERROR_UNAVAILABLE};
    struct mux *mux = mux_client_new(loop, &wire, changed, NULL, 65536, 1);
    for (size_t i = 0; i < CALLS; i++) {
        open_calls++;
        calls[i] = i == 1 ? mux_client_call(mux, post, sizeof(post) - 1, true, &events, &calls[i])
                          : mux_client_call(mux, get, sizeof(get) - 1, false, &events, &calls[i]);
    }
    if (data[0] % 2 == 0) {
        uv_run(loop_uv(loop), UV_RUN_NOWAIT); /* else answers are there before questions */
    }
    for (size_t at = 0; at < size; at += step) {
        size_t part = size - at < step ? size - at : step;
        mux_receive(mux, data + at, part, 1);
        uv_run(loop_uv(loop), UV_RUN_NOWAIT);
        if (at / step == 3 && calls[2] != NULL) {
            mux_call_cancel(calls[2]);
            calls[2] = NULL;
            open_calls--;
        }
    }
    mux_client_tick(mux, 10000);
    mux_client_free(mux, &gone);
    uv_run(loop_uv(loop), UV_RUN_NOWAIT);
    CHECK(open_calls == 0);
    check_mux_frames();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (loop == NULL) {
        struct error err = {0};
        const struct http_server_options options = http_server_defaults();
        CHECK(loop_new("many", &loop, &err) == 0);
        CHECK(http_server_new(loop, &options, serve, NULL, &server, &err) == 0);
    }
    if (size < 3) {
        return 0;
    }
    size_t step = data[0] == 0 ? size : data[0];
    static void (*const ends[])(const uint8_t *data, size_t size,
                                size_t step) = {try_h2, try_client, try_mux};
    ends[data[1] % 3](data + 2, size - 2, step);
    return 0;
}
