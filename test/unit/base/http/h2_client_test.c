/*
 * A client's end of HTTP/2 against our own server's end, and against frames put together by hand.
 * No sockets, no clock.
 */
#include <nghttp2/nghttp2.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/http/connection.h"
#include "base/http/h2.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "test/lib/test.h"

enum { NOW = 1000, BODY_BYTES = 3 << 20 };

static struct loop *loop;
static struct http_server *server;
static struct h2_server *h2_server;
static struct h2_client *client;
static struct buffer to_server;
static struct buffer to_client;
static size_t stuck;
static bool finished;
static unsigned changes;
static struct http_exchange *held;
static unsigned closed;

/* ---- Both wires ---- */

static void write_to_server(const void *bytes, size_t length, void *context)
{
    (void)context;
    buffer_append(&to_server, bytes, length);
}

static void write_to_client(const void *bytes, size_t length, void *context)
{
    (void)context;
    buffer_append(&to_client, bytes, length);
}

static size_t waiting(void *context)
{
    (void)context;
    return stuck;
}

static void finish(void *context)
{
    (void)context;
    finished = true;
}

static void server_finish(void *context)
{
    (void)context;
}

static void changed(void *context)
{
    (void)context;
    changes++;
}

/* ---- The server's handler ---- */

static void copy_data(const void *bytes, size_t length, void *context)
{
    if (!http_exchange_write(context, bytes, length)) {
        http_exchange_pause(context);
    }
}

static void copy_end(const struct error *error, void *context)
{
    struct http_exchange *exchange = context;
    if (error == NULL) {
        http_exchange_end(exchange);
    } else {
        http_exchange_abort(exchange);
    }
    http_exchange_unref(exchange);
}

static void copy_more(void *context)
{
    http_exchange_resume(context);
}

static void tell_closed(void *context)
{
    http_exchange_unref(context);
    closed++;
}

static void serve(struct http_exchange *exchange, void *context)
{
    struct text path = http_exchange_path(exchange);
    (void)context;
    if (text_equal(path, "/copy")) {
        http_exchange_on(exchange, copy_more, NULL, exchange);
        http_exchange_begin(exchange, 200, UINT64_MAX);
        http_exchange_read(exchange, copy_data, copy_end, exchange);
    } else if (text_equal(path, "/hold")) {
        held = exchange;
        http_exchange_on(exchange, NULL, tell_closed, exchange);
    } else {
        struct text host = http_exchange_field(exchange, "host");
        struct text own = http_exchange_field(exchange, "x-own");
        BUFFER_OWNED struct buffer answer = {0};
        buffer_append_format(&answer, "%.*s %.*s %.*s", (int)path.length, path.data,
                             (int)host.length, host.data, (int)own.length, own.data);
        http_exchange_add_field(exchange, "X-Own", "of the server");
        http_exchange_respond(exchange, 201, answer.data, answer.used);
        http_exchange_unref(exchange);
    }
}

/* ---- Calls ---- */

static uint8_t body[BODY_BYTES]; /* none of its bytes is where another one could be */

static void fill_body(void)
{
    for (size_t i = 0; i < BODY_BYTES; i++) {
        body[i] = (uint8_t)(i * 31 + (i >> 12));
    }
}

struct trial {
    struct h2_call *call;
    size_t upload; /* bytes of a streamed body to give */
    size_t piece;  /* so many at once, or 0: 10,000 */
    size_t given;
    bool stays_open; /* and no end */
    bool pauses;
    bool cancels; /* at its first data */
    int status;
    char own[32];
    struct buffer data;
    bool ended;
    enum error_kind kind;
    bool untouched;
};

static void on_head(const struct parse_head *head, struct buffer *bytes, void *context)
{
    struct trial *trial = context;
    struct text own = parse_find(head, "X-Own");
    EXPECT(bytes->used > 0 && trial->status == 0);
    trial->status = head->status;
    snprintf(trial->own, sizeof(trial->own), "%.*s", (int)own.length, own.data);
}

static void on_data(const void *bytes, size_t length, void *context)
{
    struct trial *trial = context;
    buffer_append(&trial->data, bytes, length);
    if (trial->pauses) {
        h2_call_pause(trial->call);
    }
    if (trial->cancels) {
        h2_call_cancel(trial->call);
        trial->call = NULL;
    }
}

static void on_room(void *context)
{
    struct trial *trial = context;
    size_t piece = trial->piece > 0 ? trial->piece : 10000;
    while (trial->upload > 0) {
        size_t part = trial->upload < piece ? trial->upload : piece;
        /* Lent: what is read of it after the call is not the body. */
        uint8_t *lent = memory_resize(NULL, part);
        memcpy(lent, body + trial->given, part);
        trial->upload -= part;
        trial->given += part;
        bool go_on = h2_call_write(trial->call, lent, part);
        memset(lent, 0, part);
        free(lent);
        if (!go_on) {
            return;
        }
    }
    if (!trial->stays_open) {
        h2_call_finish(trial->call);
    }
}

static void on_end(const struct error *error, bool untouched, void *context)
{
    struct trial *trial = context;
    EXPECT(!trial->ended);
    trial->ended = true;
    trial->kind = error != NULL ? error->kind : ERROR_NONE;
    trial->untouched = untouched;
    trial->call = NULL;
}

static void call(struct trial *trial, const char *request)
{
    static const struct h2_call_events events = {on_head, on_data, on_room, on_end};
    bool is_streaming = trial->upload > 0 || trial->stays_open;
    trial->call = h2_client_call(client, request, strlen(request), is_streaming, &events, trial);
}

static void get(struct trial *trial, const char *path)
{
    char request[256];
    snprintf(request, sizeof(request), "GET %s HTTP/1.1\r\nHost: one\r\nX-Own: mine\r\n\r\n", path);
    call(trial, request);
}

static void begin(bool with_server)
{
    fill_body();
    static const struct h2_wire wire = {write_to_server, waiting, finish, write_to_server};
    static const struct h2_wire server_wire = {write_to_client, waiting, server_finish, NULL};
    struct error err = {0};
    struct http_server_options options = http_server_defaults();
    EXPECT(loop_new("h2", &loop, &err) == 0);
    EXPECT(http_server_new(loop, &options, serve, NULL, &server, &err) == 0);
    if (with_server) {
        h2_server = h2_server_new(server, &server_wire, NULL, "10.0.0.1:1", NULL, NOW);
    }
    client = h2_client_new(loop, &wire, changed, NULL, 65536, "https", NOW);
}

static void end(void)
{
    static const struct error gone = {.kind = ERROR_UNAVAILABLE};
    h2_client_free(client, &gone);
    h2_server_free(h2_server);
    http_server_free(server);
    loop_free(loop);
    buffer_done(&to_client);
    buffer_done(&to_server);
}

static void turn(void)
{
    uv_run(loop_uv(loop), UV_RUN_NOWAIT);
}

static void talk(void)
{
    h2_client_flush(client, NOW);
    turn();
    while (to_server.used + to_client.used > 0) {
        struct buffer bytes = to_server;
        to_server = (struct buffer){0};
        if (h2_server != NULL && bytes.used > 0) {
            h2_server_receive(h2_server, bytes.data, bytes.used, NOW);
        }
        buffer_done(&bytes);
        bytes = to_client;
        to_client = (struct buffer){0};
        if (bytes.used > 0) {
            h2_client_receive(client, bytes.data, bytes.used, NOW);
        }
        buffer_done(&bytes);
        turn();
    }
}

/* ---- Against our server ---- */

TEST(h2_client, makes_calls_side_by_side)
{
    struct trial trials[3] = {0};
    begin(true);
    get(&trials[0], "/hold");
    get(&trials[1], "/one");
    call(&trials[2],
         "POST /two HTTP/1.1\r\nHost: two\r\nContent-Length: 4\r\n"
         "Connection: keep-alive\r\nX-Own: you\r\n\r\nbody");
    EXPECT(!h2_call_was_sent(trials[1].call) && to_server.used == 0);
    turn();
    EXPECT(h2_call_was_sent(trials[1].call) && trials[1].status == 0);
    talk();
    EXPECT(trials[1].ended && trials[1].kind == ERROR_NONE && trials[1].status == 201);
    EXPECT_STRING(buffer_string(&trials[1].data), "/one one mine");
    EXPECT_STRING(trials[1].own, "of the server");
    EXPECT_STRING(buffer_string(&trials[2].data), "/two two you");
    EXPECT(!trials[0].ended && h2_client_calls(client) == 1 && changes > 0);
    http_exchange_respond(held, 204, NULL, 0);
    http_exchange_unref(held);
    talk();
    EXPECT(trials[0].ended && trials[0].status == 204 && trials[0].kind == ERROR_NONE);
    buffer_done(&trials[1].data);
    buffer_done(&trials[2].data);
    end();
}

TEST(h2_client, streams_bodies_both_ways)
{
    struct trial trial = {.upload = BODY_BYTES};
    begin(true);
    call(&trial, "POST /copy HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    talk();
    EXPECT(trial.ended && trial.kind == ERROR_NONE && trial.data.used == BODY_BYTES);
    EXPECT(memcmp(trial.data.data, body, BODY_BYTES) == 0);
    buffer_done(&trial.data);
    end();
}

/*
 * Goal: big pieces, which go into frames from where they are, arrive as they were: within a window,
 * beyond it, at a wire that is full, behind small ones, and to a call that pauses.
 * Method: pieces around the sizes at which something changes, in memory that is gone afterwards.
 */
TEST(h2_client, what_was_lent_arrives_as_it_was)
{
    static const size_t pieces[] = {16383, 16384, 16385, 65536, 65537, 262144, 262145, BODY_BYTES};
    for (size_t i = 0; i < 2 * sizeof(pieces) / sizeof(pieces[0]); i++) {
        struct trial trial = {.upload = BODY_BYTES, .piece = pieces[i / 2], .pauses = i % 2 == 1};
        begin(true);
        call(&trial, "POST /copy HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
        stuck = trial.pauses ? 1 << 20 : 0;
        turn();
        stuck = 0;
        talk();
        while (!trial.ended) {
            EXPECT(trial.pauses && trial.data.used <= trial.given);
            h2_call_resume(trial.call);
            talk();
        }
        EXPECT(trial.kind == ERROR_NONE && trial.data.used == BODY_BYTES);
        EXPECT(memcmp(trial.data.data, body, BODY_BYTES) == 0);
        buffer_done(&trial.data);
        end();
    }
}

/* Goal: both ends take, and then send, frames longer than those that every peer must take. */
TEST(h2_client, frames_are_as_long_as_the_peer_takes)
{
    struct trial trial = {.upload = 40000, .piece = 40000, .stays_open = true};
    begin(true);
    call(&trial, "POST /hold HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    turn(); /* the server has not said what it takes */
    size_t longest = 0;
    for (size_t at = H2_PREFACE_LENGTH; at + 9 <= to_server.used;) {
        size_t length = (size_t)to_server.data[at] << 16 | (size_t)to_server.data[at + 1] << 8 |
            to_server.data[at + 2];
        longest = length > longest ? length : longest;
        at += 9 + length;
    }
    EXPECT(longest == 16384);
    talk();
    struct trial again = {.upload = 40000, .piece = 40000, .stays_open = true};
    call(&again, "POST /none HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    turn();
    bool found = false;
    for (size_t at = 0; at + 9 <= to_server.used && !found; at++) {
        found = memcmp(to_server.data + at, "\x00\x9c\x40\x00\x00", 5) == 0; /* DATA of 40,000 */
    }
    EXPECT(found);
    http_exchange_respond(held, 204, NULL, 0);
    http_exchange_unref(held);
    talk();
    buffer_done(&again.data);
    end();
}

/*
 * Goal: what is said once does not take the place of what will be said again.
 * Method: the table of an encoder before and after.
 */
TEST(h2_client, a_value_that_is_another_one_each_time_is_not_kept_in_the_table)
{
    struct h2_fields fields = {0};
    nghttp2_hd_deflater *deflater = NULL;
    uint8_t block[256];
    EXPECT(nghttp2_hd_deflate_new(&deflater, 4096) == 0);
    size_t empty = nghttp2_hd_deflate_get_dynamic_table_size(deflater);
    h2_fields_add(&fields, text_of("Traceparent", 11), text_of("00-1-2-01", 9));
    h2_fields_add(&fields, text_of("x-request-id", 12), text_of("7", 1));
    EXPECT(nghttp2_hd_deflate_hd(deflater, block, sizeof(block), fields.at, fields.count) > 0);
    EXPECT(nghttp2_hd_deflate_get_dynamic_table_size(deflater) == empty);
    fields.count = 0;
    h2_fields_add(&fields, text_of("x-request-ids", 13), text_of("7", 1));
    EXPECT(nghttp2_hd_deflate_hd(deflater, block, sizeof(block), fields.at, fields.count) > 0);
    EXPECT(nghttp2_hd_deflate_get_dynamic_table_size(deflater) > empty);
    nghttp2_hd_deflate_del(deflater);
    free(fields.at);
}

/* Goal: a paused call takes no more than its window, and does not hold others up. */
TEST(h2_client, pauses_one_call_and_not_the_others)
{
    struct trial slow = {.upload = 3 << 20, .pauses = true};
    struct trial other = {0};
    begin(true);
    call(&slow, "POST /copy HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    talk();
    EXPECT(!slow.ended && slow.upload > 0 && slow.data.used <= H2_NODE_STREAM_WINDOW);
    get(&other, "/other");
    talk();
    EXPECT(other.ended && other.kind == ERROR_NONE);
    while (!slow.ended) {
        h2_call_resume(slow.call);
        talk();
    }
    EXPECT(slow.kind == ERROR_NONE && slow.data.used == 3 << 20);
    buffer_done(&slow.data);
    buffer_done(&other.data);
    end();
}

TEST(h2_client, cancelled_calls_are_told_nothing)
{
    struct trial early = {0};
    struct trial waits = {0};
    struct trial late = {.upload = 1 << 20, .cancels = true};
    struct trial after = {0};
    begin(true);
    stuck = 1 << 20;
    get(&early, "/early");
    EXPECT(!h2_call_was_sent(early.call));
    h2_call_cancel(early.call);
    stuck = 0;
    get(&waits, "/hold");
    call(&late, "POST /copy HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    talk();
    h2_call_cancel(waits.call);
    get(&after, "/after");
    talk();
    EXPECT(!early.ended && !waits.ended && !late.ended && closed == 1);
    EXPECT(after.ended && after.kind == ERROR_NONE && h2_client_calls(client) == 0);
    EXPECT(h2_server_streams(h2_server) == 0);
    buffer_done(&late.data);
    buffer_done(&after.data);
    end();
}

TEST(h2_client, a_request_that_is_none_ends_as_invalid)
{
    struct trial trial = {0};
    begin(true);
    get(&trial, "no/slash");
    EXPECT(!trial.ended);
    talk();
    EXPECT(trial.ended && trial.kind == ERROR_INVALID && trial.untouched);
    end();
}

TEST(h2_client, a_server_that_drains_lets_calls_end_and_takes_no_more)
{
    struct trial trial = {0};
    begin(true);
    get(&trial, "/hold");
    talk();
    h2_server_drain(h2_server);
    talk();
    EXPECT(h2_client_is_over(client) && !h2_client_has_room(client) && !trial.ended);
    http_exchange_respond(held, 200, "x", 1);
    http_exchange_unref(held);
    talk();
    EXPECT(trial.ended && trial.kind == ERROR_NONE && finished);
    buffer_done(&trial.data);
    end();
}

/* ---- Against frames ---- */

static void receive(uint8_t type, uint8_t flags, uint32_t stream, const void *payload,
                    size_t length)
{
    BUFFER_OWNED struct buffer frame = {0};
    const uint8_t head[] = {0, (uint8_t)(length >> 8), (uint8_t)length, type, flags, 0,
                            0, (uint8_t)(stream >> 8), (uint8_t)stream};
    buffer_append(&frame, head, sizeof(head));
    buffer_append(&frame, payload, length);
    turn(); /* what was called before goes out */
    h2_client_receive(client, frame.data, frame.used, NOW);
    turn();
}

static void greet(uint8_t streams_max)
{
    const uint8_t settings[] = {0, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, 0, 0, 0, streams_max};
    receive(NGHTTP2_SETTINGS, 0, 0, settings, sizeof(settings));
}

static const uint8_t status_200[] = {0x88};
static const uint8_t status_100[] = {0x08, 3, '1', '0', '0'};

TEST(h2_client, opens_no_more_than_the_server_allows)
{
    struct trial trials[3] = {0};
    begin(false);
    greet(2);
    EXPECT(h2_client_has_room(client));
    get(&trials[0], "/");
    get(&trials[1], "/");
    EXPECT(!h2_client_has_room(client));
    receive(NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS, 1, status_100, sizeof(status_100));
    receive(NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS | NGHTTP2_FLAG_END_STREAM, 1, status_200, 1);
    EXPECT(trials[0].ended && trials[0].status == 200 && h2_client_has_room(client));
    end();
    EXPECT(trials[1].ended && trials[1].kind == ERROR_UNAVAILABLE && !trials[1].untouched);
}

/* What a GOAWAY does not count, the server has not seen (RFC 9113, 6.8). */
TEST(h2_client, knows_what_a_server_has_not_processed)
{
    static const uint8_t goaway[] = {0, 0, 0, 1, 0, 0, 0, 0};
    static const uint8_t refused[] = {0, 0, 0, NGHTTP2_REFUSED_STREAM};
    static const uint8_t cancelled[] = {0, 0, 0, NGHTTP2_CANCEL};
    struct trial trials[4] = {0};
    begin(false);
    greet(100);
    for (int i = 0; i < 4; i++) {
        get(&trials[i], "/");
    }
    receive(NGHTTP2_RST_STREAM, 0, 3, refused, sizeof(refused));
    EXPECT(trials[1].ended && trials[1].kind == ERROR_UNAVAILABLE && trials[1].untouched);
    receive(NGHTTP2_RST_STREAM, 0, 5, cancelled, sizeof(cancelled));
    EXPECT(trials[2].ended && trials[2].kind == ERROR_UNAVAILABLE && !trials[2].untouched);
    receive(NGHTTP2_GOAWAY, 0, 0, goaway, sizeof(goaway));
    EXPECT(trials[3].ended && trials[3].untouched);
    EXPECT(!trials[0].ended && h2_client_is_over(client) && !finished);
    receive(NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS, 1, status_200, 1);
    receive(NGHTTP2_DATA, NGHTTP2_FLAG_END_STREAM, 1, "abc", 3);
    EXPECT(trials[0].ended && trials[0].kind == ERROR_NONE && trials[0].data.used == 3 && finished);
    buffer_done(&trials[0].data);
    end();
}

TEST(h2_client, an_answer_that_is_none_is_a_protocol_error)
{
    static const uint8_t nothing[] = {0x08, 3, 'a', 'b', 'c'};
    static const uint8_t long_one[] = {0x88, 0x0f, 0x0d, 1, '5'}; /* content-length: 5 */
    struct trial trials[3] = {0};
    begin(false);
    greet(100);
    for (int i = 0; i < 3; i++) {
        get(&trials[i], "/");
    }
    receive(NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS, 1, nothing, sizeof(nothing));
    EXPECT(trials[0].ended && trials[0].kind == ERROR_PROTOCOL);
    receive(NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS, 3, long_one, sizeof(long_one));
    receive(NGHTTP2_DATA, NGHTTP2_FLAG_END_STREAM, 3, "abc", 3);
    EXPECT(trials[1].ended && trials[1].kind == ERROR_PROTOCOL);
    h2_client_receive(client, "HTTP/1.1 400 Bad Request\r\n\r\n", 28, NOW);
    EXPECT(trials[2].ended && trials[2].kind != ERROR_NONE && finished);
    buffer_done(&trials[1].data);
    end();
}

TEST(h2_client, an_answer_before_the_end_of_the_request_ends_both)
{
    struct trial trial = {.stays_open = true};
    begin(false);
    greet(100);
    call(&trial, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    receive(NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS | NGHTTP2_FLAG_END_STREAM, 1, status_200, 1);
    EXPECT(trial.ended && trial.kind == ERROR_NONE && h2_client_calls(client) == 0);
    end();
}

/* Goal: a server that is gone without a word is found out, and one that answers is kept. */
TEST(h2_client, asks_a_silent_server_for_a_sign_of_life)
{
    struct trial trial = {0};
    begin(false);
    greet(100);
    get(&trial, "/");
    turn();
    to_server.used = 0;
    h2_client_tick(client, NOW + 4999);
    EXPECT(to_server.used == 0);
    h2_client_tick(client, NOW + 5000);
    EXPECT(to_server.used == 17 && to_server.data[3] == NGHTTP2_PING);
    receive(NGHTTP2_PING, NGHTTP2_FLAG_ACK, 0, "\0\0\0\0\0\0\0\0", 8);
    h2_client_tick(client, NOW + 15000);
    EXPECT(!trial.ended && to_server.used == 34);
    h2_client_tick(client, NOW + 24999);
    EXPECT(!trial.ended);
    h2_client_tick(client, NOW + 25000);
    EXPECT(trial.ended && trial.kind == ERROR_UNAVAILABLE && !trial.untouched && finished);
    end();
}
