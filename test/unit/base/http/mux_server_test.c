/*
 * A server's end of the protocol between nodes, against frames put together by hand.  No sockets,
 * no clock.
 */
#include <endian.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/http/connection.h"
#include "base/http/mux.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "test/lib/test.h"

enum { NOW = 1000 };

static struct loop *loop;
static struct http_server *server;
static struct mux *served;
static struct buffer said;
static struct buffer heard;
static size_t stuck;
static bool finished;
static struct http_exchange *held;
static unsigned closed;
static unsigned requests;
static enum error_kind body_error;
static bool body_ended;
static struct text answer_at_once;

/* ---- The wire ---- */

static void write_to(const void *bytes, size_t length, void *context)
{
    (void)context;
    buffer_append(&said, bytes, length);
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

/* ---- The handler ---- */

static void on_data(const void *bytes, size_t length, void *context)
{
    (void)context;
    buffer_append(&heard, bytes, length);
}

static void on_body_end(const struct error *error, void *context)
{
    (void)context;
    body_ended = true;
    body_error = error != NULL ? error->kind : ERROR_NONE;
}

static void on_close(void *context)
{
    (void)context;
    closed++;
}

/* What is done with an exchange is each test's. */
static void serve(struct http_exchange *exchange, void *context)
{
    (void)context;
    requests++;
    held = exchange;
    http_exchange_on(exchange, NULL, on_close, NULL);
    if (http_exchange_has_body(exchange)) {
        http_exchange_read(exchange, on_data, on_body_end, NULL);
    }
    if (answer_at_once.length > 0) {
        http_exchange_respond(exchange, 200, answer_at_once.data, answer_at_once.length);
    }
}

static void begin(const struct http_server_options *options)
{
    static const struct http_wire wire = {write_to, waiting, finish, write_to};
    struct error err = {0};
    EXPECT(loop_new("mux", &loop, &err) == 0);
    EXPECT(http_server_new(loop, options, serve, NULL, &server, &err) == 0);
    served = mux_server_new(server, &wire, NULL, "10.0.0.1:1", NULL, NOW);
    finished = false;
}

static void let_go(void)
{
    http_exchange_unref(held);
    held = NULL;
}

static void end(void)
{
    mux_server_free(served);
    http_server_free(server);
    loop_free(loop);
    buffer_done(&said);
    buffer_done(&heard);
}

static void turn(void)
{
    uv_run(loop_uv(loop), UV_RUN_NOWAIT);
}

/* ---- Frames ---- */

static void say(uint8_t kind, uint8_t flags, uint32_t stream, const void *payload, size_t length)
{
    BUFFER_OWNED struct buffer frame = {0};
    buffer_append_u32(&frame, (uint32_t)length);
    buffer_append_u32(&frame, stream);
    buffer_append_byte(&frame, kind);
    buffer_append_byte(&frame, flags);
    buffer_append(&frame, "\0", 2);
    buffer_append(&frame, payload, length);
    mux_receive(served, frame.data, frame.used, NOW);
    turn();
}

static void ask(uint8_t flags, uint32_t stream, const char *method, const char *fields)
{
    BUFFER_OWNED struct buffer head = {0};
    buffer_append_format(&head, "%s / HTTP/1.1\r\nHost: a\r\n%s\r\n", method, fields);
    say(MUX_HEAD, flags, stream, head.data, head.used);
}

/* The first frame that was said, and is forgotten: its payload, which lives until the next one. */
static struct text expect_frame(uint8_t kind, uint8_t flags, uint32_t stream)
{
    static uint8_t payload[MUX_FRAME_BYTES];
    uint32_t numbers[2];
    turn();
    EXPECT(said.used >= MUX_HEADER_BYTES);
    memcpy(numbers, said.data, sizeof(numbers));
    size_t length = le32toh(numbers[0]);
    EXPECT(said.data[8] == kind && said.data[9] == flags && le32toh(numbers[1]) == stream);
    EXPECT(length <= sizeof(payload) && said.used >= MUX_HEADER_BYTES + length);
    memcpy(payload, said.data + MUX_HEADER_BYTES, length);
    buffer_consume(&said, MUX_HEADER_BYTES + length);
    return text_of((const char *)payload, length);
}

static void expect_reset(uint32_t stream, enum mux_code code)
{
    uint32_t number;
    struct text payload = expect_frame(MUX_RESET, 0, stream);
    EXPECT(payload.length == sizeof(number));
    memcpy(&number, payload.data, sizeof(number));
    EXPECT(le32toh(number) == code);
}

static void expect_head(uint8_t flags, uint32_t stream, const char *line)
{
    struct text head = expect_frame(MUX_HEAD, flags, stream);
    EXPECT(text_starts_with(head.data, line));
}

/* ---- Exchanges ---- */

TEST(mux_server, answers_and_bodies_have_their_frames)
{
    const struct http_server_options options = http_server_defaults();
    begin(&options);
    ask(MUX_END, 1, "GET", "");
    http_exchange_respond(held, 200, "body", 4);
    let_go();
    expect_head(0, 1, "HTTP/1.1 200 OK\r\nDate: ");
    struct text body = expect_frame(MUX_DATA, MUX_END, 1);
    EXPECT(text_equal(body, "body"));
    ask(0, 7, "POST", "Content-Length: 5\r\nExpect: 100-continue\r\n");
    expect_head(0, 7, "HTTP/1.1 100 ");
    say(MUX_DATA, 0, 7, "he", 2);
    EXPECT(!body_ended && heard.used == 2);
    say(MUX_DATA, MUX_END, 7, "llo", 3);
    EXPECT(body_ended && body_error == ERROR_NONE);
    EXPECT_STRING(buffer_string(&heard), "hello");
    http_exchange_respond(held, 204, NULL, 0);
    let_go();
    expect_head(MUX_END, 7, "HTTP/1.1 204 ");
    EXPECT(said.used == 0 && mux_stream_count(served) == 0 && closed == 0);
    end();
}

/* Goal: a body is as long as its head says. */
TEST(mux_server, a_body_of_another_length_is_refused)
{
    const struct http_server_options options = http_server_defaults();
    begin(&options);
    ask(0, 1, "POST", "Content-Length: 2\r\n");
    say(MUX_DATA, 0, 1, "abc", 3);
    expect_reset(1, MUX_MALFORMED);
    EXPECT(closed == 1 && body_ended && body_error == ERROR_CANCELLED);
    let_go();
    ask(0, 2, "POST", "Content-Length: 2\r\n");
    say(MUX_DATA, MUX_END, 2, "a", 1);
    expect_reset(2, MUX_MALFORMED);
    let_go();
    ask(MUX_END, 3, "POST", "Content-Length: 2\r\n");
    expect_reset(3, MUX_MALFORMED);
    EXPECT(requests == 2 && closed == 2 && !finished);
    end();
}

TEST(mux_server, heads_that_are_none_are_refused)
{
    const struct http_server_options options = http_server_defaults();
    begin(&options);
    say(MUX_HEAD, MUX_END, 1, "GET / HTTP/1.1\r\n\r\n", 18); /* no Host */
    expect_head(MUX_END, 1, "HTTP/1.1 400 ");
    say(MUX_HEAD, MUX_END, 2, "GET / HTTP/1.1\r\nHost: a\r\n", 25); /* no end */
    expect_head(MUX_END, 2, "HTTP/1.1 400 ");
    say(MUX_HEAD, 0, 3, "GET / HTTP/1.1\r\nHost: a\r\n\r\nmore", 31);
    expect_head(MUX_END, 3, "HTTP/1.1 400 ");
    expect_reset(3, MUX_UNWANTED); /* of its body */
    EXPECT(requests == 0 && said.used == 0 && !finished);
    say(MUX_HEAD, MUX_END, 3, "GET / HTTP/1.1\r\nHost: a\r\n\r\n", 27); /* a number that was */
    EXPECT(finished);
    end();
}

/* Goal: an answer that was begun is never taken for a whole one. */
TEST(mux_server, what_was_said_before_it_broke_off_is_heard)
{
    const struct http_server_options options = http_server_defaults();
    begin(&options);
    ask(MUX_END, 1, "GET", "");
    http_exchange_begin(held, 200, 5);
    http_exchange_write(held, "abc", 3);
    http_exchange_abort(held);
    let_go();
    expect_head(0, 1, "HTTP/1.1 200 ");
    EXPECT(text_equal(expect_frame(MUX_DATA, 0, 1), "abc"));
    expect_reset(1, MUX_FAILED);
    EXPECT(mux_stream_count(served) == 0 && closed == 0);
    end();
}

TEST(mux_server, who_goes_away_is_told_of)
{
    const uint32_t cancelled = htole32(MUX_CANCELLED);
    const struct http_server_options options = http_server_defaults();
    begin(&options);
    ask(MUX_END, 1, "GET", "");
    say(MUX_RESET, 0, 1, &cancelled, sizeof(cancelled));
    EXPECT(closed == 1 && mux_stream_count(served) == 0);
    http_exchange_respond(held, 200, "late", 4);
    let_go();
    turn();
    EXPECT(said.used == 0);
    ask(MUX_END, 2, "GET", "");
    mux_server_free(served);
    served = NULL;
    EXPECT(closed == 2);
    let_go();
    end();
}

TEST(mux_server, a_body_that_is_too_large_is_not_read_on)
{
    static uint8_t piece[MUX_FRAME_BYTES];
    struct http_server_options options = http_server_defaults();
    options.body_bytes_max = 1000;
    begin(&options);
    ask(0, 1, "POST", "Transfer-Encoding: chunked\r\n");
    for (size_t sent = 0; sent < MUX_STREAM_WINDOW; sent += sizeof(piece)) {
        say(MUX_DATA, 0, 1, piece, sizeof(piece));
    }
    EXPECT(body_ended && body_error == ERROR_TOO_LARGE && heard.used == 0);
    EXPECT(said.used == 0); /* no credit */
    http_exchange_respond(held, 413, NULL, 0);
    let_go();
    expect_head(MUX_END, 1, "HTTP/1.1 413 ");
    expect_reset(1, MUX_UNWANTED);
    EXPECT(!finished);
    end();
}

/* Goal: what is read is given back, of the stream and of the connection. */
TEST(mux_server, credit_follows_the_reader)
{
    static uint8_t piece[MUX_FRAME_BYTES];
    const struct http_server_options options = http_server_defaults();
    begin(&options);
    ask(0, 1, "POST", "Transfer-Encoding: chunked\r\n");
    http_exchange_pause(held);
    for (size_t sent = 0; sent < MUX_STREAM_WINDOW; sent += sizeof(piece)) {
        say(MUX_DATA, 0, 1, piece, sizeof(piece));
    }
    EXPECT(said.used == 0 && heard.used == 0);
    http_exchange_resume(held);
    struct text credit = expect_frame(MUX_CREDIT, 0, 1);
    EXPECT(memcmp(credit.data, "\0\0\x10\0", 4) == 0 && heard.used == MUX_STREAM_WINDOW);
    size_t of_connection = 0;
    for (size_t sent = MUX_STREAM_WINDOW; sent < MUX_WINDOW; sent += sizeof(piece)) {
        say(MUX_DATA, 0, 1, piece, sizeof(piece));
        while (said.used > 0) {
            of_connection += said.data[4] == 0;
            buffer_consume(&said, MUX_HEADER_BYTES + 4);
        }
    }
    EXPECT(of_connection == 2 && !finished);
    http_exchange_abort(held);
    let_go();
    end();
}

/* Goal: a request without a body is whole before its handler is asked, who may answer at once. */
TEST(mux_server, a_large_answer_at_once_ends_a_whole_request)
{
    static const uint8_t body[65536];
    const struct http_server_options options = http_server_defaults();
    begin(&options);
    answer_at_once = text_of((const char *)body, sizeof(body));
    ask(MUX_END, 1, "POST", "Transfer-Encoding: chunked\r\n");
    answer_at_once = (struct text){0};
    let_go();
    expect_head(0, 1, "HTTP/1.1 200 ");
    EXPECT(expect_frame(MUX_DATA, MUX_END, 1).length == sizeof(body));
    EXPECT(said.used == 0 && mux_stream_count(served) == 0 && closed == 0);
    end();
}

/* ---- Time ---- */

TEST(mux_server, a_body_that_stops_is_a_timeout)
{
    struct http_server_options options = http_server_defaults();
    options.body_timeout_ms = 5000;
    begin(&options);
    ask(0, 1, "POST", "Content-Length: 2\r\n");
    mux_server_tick(served, NOW + 1);
    mux_server_tick(served, NOW + 5000);
    EXPECT(!body_ended);
    mux_server_tick(served, NOW + 5001);
    EXPECT(body_ended && body_error == ERROR_TIMEOUT);
    http_exchange_respond(held, 408, NULL, 0);
    let_go();
    end();
}

TEST(mux_server, a_peer_that_takes_nothing_is_left)
{
    static uint8_t body[2 * MUX_STREAM_WINDOW];
    struct http_server_options options = http_server_defaults();
    options.write_timeout_ms = 5000;
    begin(&options);
    ask(MUX_END, 1, "GET", "");
    http_exchange_respond(held, 200, body, sizeof(body));
    turn();
    mux_server_tick(served, NOW + 1);
    mux_server_tick(served, NOW + 2);
    mux_server_tick(served, NOW + 5001);
    EXPECT(mux_stream_count(served) == 1);
    mux_server_tick(served, NOW + 5002);
    EXPECT(mux_stream_count(served) == 0 && closed == 0); /* it had answered */
    let_go();
    end();
}

/* Goal: a peer that asks and reads nothing does not fill the memory. */
TEST(mux_server, what_waits_for_a_full_wire_is_bounded)
{
    const struct http_server_options options = http_server_defaults();
    begin(&options);
    stuck = 1 << 20;
    for (uint32_t i = 0; i < 4 << 20 && !finished; i++) {
        uint8_t ping[MUX_HEADER_BYTES] = {[8] = MUX_PING};
        mux_receive(served, ping, sizeof(ping), NOW);
    }
    EXPECT(finished && said.used == 0);
    stuck = 0;
    end();
}

/* Goal: who reads slowly is not answered more by asking more. */
TEST(mux_server, a_peer_first_reads_what_it_asked_for)
{
    enum { WHOLE = 3 * MUX_STREAM_WINDOW, ASKED = 4 };
    static uint8_t body[WHOLE];
    const uint32_t credit = htole32(MUX_STREAM_WINDOW);
    const struct http_server_options options = http_server_defaults();
    begin(&options);
    for (uint32_t i = 1; i <= ASKED; i++) {
        ask(MUX_END, i, "GET", "");
        if (requests == i) {
            http_exchange_respond(held, 200, body, sizeof(body));
            let_go();
        }
    }
    EXPECT(requests == 3); /* 2 MiB wait of each */
    for (uint32_t i = 1; i <= 3; i++) {
        say(MUX_CREDIT, 0, i, &credit, sizeof(credit));
    }
    EXPECT(requests == 3);
    say(MUX_CREDIT, 0, 1, &credit, sizeof(credit));
    EXPECT(requests == ASKED && mux_stream_count(served) == 3);
    let_go();
    end();
    EXPECT(closed == 1);
}

TEST(mux_server, drains_when_the_peer_has_heard_of_it)
{
    const struct http_server_options options = http_server_defaults();
    begin(&options);
    mux_server_drain(served);
    expect_frame(MUX_GOAWAY, 0, 0);
    expect_frame(MUX_PING, 0, 0);
    ask(MUX_END, 1, "GET", ""); /* it was on its way */
    EXPECT(requests == 1);
    say(MUX_PONG, 0, 0, NULL, 0);
    EXPECT(!finished);
    ask(MUX_END, 2, "GET", "");
    expect_reset(2, MUX_REFUSED);
    http_exchange_respond(held, 200, NULL, 0);
    let_go();
    expect_head(MUX_END, 1, "HTTP/1.1 200 ");
    EXPECT(finished);
    end();
}
