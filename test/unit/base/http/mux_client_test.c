/*
 * A client's end of the protocol between nodes against our own server's end, and against frames put
 * together by hand. No sockets, no clock.
 */
#include <endian.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/http/connection.h"
#include "base/http/mux.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "test/lib/test.h"

enum { NOW = 1000, BODY_BYTES = 3 << 20 };

static struct loop *loop;
static struct http_server *server;
static struct mux *served;
static struct mux *client;
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
    struct mux_call *call;
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
        mux_call_pause(trial->call);
    }
    if (trial->cancels) {
        mux_call_cancel(trial->call);
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
        bool go_on = mux_call_write(trial->call, lent, part);
        memset(lent, 0, part);
        free(lent);
        if (!go_on) {
            return;
        }
    }
    if (!trial->stays_open) {
        mux_call_finish(trial->call);
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
    static const struct mux_call_events events = {on_head, on_data, on_room, on_end};
    bool is_streaming = trial->upload > 0 || trial->stays_open;
    trial->call = mux_client_call(client, request, strlen(request), is_streaming, &events, trial);
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
    static const struct http_wire wire = {write_to_server, waiting, finish, write_to_server};
    static const struct http_wire server_wire = {write_to_client, waiting, server_finish,
                                                 write_to_client};
    struct error err = {0};
    struct http_server_options options = http_server_defaults();
    EXPECT(loop_new("mux", &loop, &err) == 0);
    EXPECT(http_server_new(loop, &options, serve, NULL, &server, &err) == 0);
    if (with_server) {
        served = mux_server_new(server, &server_wire, NULL, "10.0.0.1:1", NULL, NOW);
    }
    client = mux_client_new(loop, &wire, changed, NULL, 65536, NOW);
}

static void end(void)
{
    static const struct error gone = {.kind = ERROR_UNAVAILABLE};
    mux_client_free(client, &gone);
    mux_server_free(served);
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
    mux_flush(client, NOW);
    turn();
    while (to_server.used + to_client.used > 0) {
        struct buffer bytes = to_server;
        to_server = (struct buffer){0};
        if (served != NULL && bytes.used > 0) {
            mux_receive(served, bytes.data, bytes.used, NOW);
        }
        buffer_done(&bytes);
        bytes = to_client;
        to_client = (struct buffer){0};
        if (bytes.used > 0) {
            mux_receive(client, bytes.data, bytes.used, NOW);
        }
        buffer_done(&bytes);
        turn();
    }
}

/* ---- Against our server ---- */

TEST(mux_client, makes_calls_side_by_side)
{
    struct trial trials[3] = {0};
    begin(true);
    get(&trials[0], "/hold");
    get(&trials[1], "/one");
    call(&trials[2],
         "POST /two HTTP/1.1\r\nHost: two\r\nContent-Length: 4\r\n"
         "Connection: keep-alive\r\nX-Own: you\r\n\r\nbody");
    EXPECT(!mux_call_was_sent(trials[1].call) && to_server.used == 0);
    turn();
    EXPECT(mux_call_was_sent(trials[1].call) && trials[1].status == 0);
    talk();
    EXPECT(trials[1].ended && trials[1].kind == ERROR_NONE && trials[1].status == 201);
    EXPECT_STRING(buffer_string(&trials[1].data), "/one one mine");
    EXPECT_STRING(trials[1].own, "of the server");
    EXPECT_STRING(buffer_string(&trials[2].data), "/two two you");
    EXPECT(!trials[0].ended && mux_stream_count(client) == 1 && changes > 0);
    http_exchange_respond(held, 204, NULL, 0);
    http_exchange_unref(held);
    talk();
    EXPECT(trials[0].ended && trials[0].status == 204 && trials[0].kind == ERROR_NONE);
    buffer_done(&trials[1].data);
    buffer_done(&trials[2].data);
    end();
}

TEST(mux_client, streams_bodies_both_ways)
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
TEST(mux_client, what_was_lent_arrives_as_it_was)
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
            mux_call_resume(trial.call);
            talk();
        }
        EXPECT(trial.kind == ERROR_NONE && trial.data.used == BODY_BYTES);
        EXPECT(memcmp(trial.data.data, body, BODY_BYTES) == 0);
        buffer_done(&trial.data);
        end();
    }
}

/* Goal: a paused call takes no more than its window, and does not hold others up. */
TEST(mux_client, pauses_one_call_and_not_the_others)
{
    struct trial slow = {.upload = 3 << 20, .pauses = true};
    struct trial other = {0};
    begin(true);
    call(&slow, "POST /copy HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    talk();
    EXPECT(!slow.ended && slow.upload > 0 && slow.data.used <= MUX_STREAM_WINDOW);
    get(&other, "/other");
    talk();
    EXPECT(other.ended && other.kind == ERROR_NONE);
    while (!slow.ended) {
        mux_call_resume(slow.call);
        talk();
    }
    EXPECT(slow.kind == ERROR_NONE && slow.data.used == 3 << 20);
    buffer_done(&slow.data);
    buffer_done(&other.data);
    end();
}

TEST(mux_client, cancelled_calls_are_told_nothing)
{
    struct trial early = {0};
    struct trial waits = {0};
    struct trial late = {.upload = 1 << 20, .cancels = true};
    struct trial after = {0};
    begin(true);
    stuck = 1 << 20;
    get(&early, "/early");
    EXPECT(!mux_call_was_sent(early.call));
    mux_call_cancel(early.call);
    stuck = 0;
    get(&waits, "/hold");
    call(&late, "POST /copy HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    talk();
    mux_call_cancel(waits.call);
    get(&after, "/after");
    talk();
    EXPECT(!early.ended && !waits.ended && !late.ended && closed == 1);
    EXPECT(after.ended && after.kind == ERROR_NONE && mux_stream_count(client) == 0);
    EXPECT(mux_stream_count(served) == 0);
    buffer_done(&late.data);
    buffer_done(&after.data);
    end();
}

TEST(mux_client, a_request_that_is_none_is_refused)
{
    struct trial trial = {0};
    struct trial after = {0};
    begin(true);
    get(&trial, "no/slash");
    EXPECT(!trial.ended);
    talk();
    EXPECT(trial.ended && trial.status == 400);
    get(&after, "/after");
    talk();
    EXPECT(after.ended && after.status == 201);
    buffer_done(&trial.data);
    buffer_done(&after.data);
    end();
}

/* Goal: too long a head is the matter of its call, here and there. */
TEST(mux_client, a_head_that_is_too_long_is_refused)
{
    static const size_t lengths[] = {MUX_HEAD_BYTES / 2, MUX_HEAD_BYTES};
    for (size_t i = 0; i < 2; i++) {
        struct trial trial = {0};
        struct trial after = {0};
        BUFFER_OWNED struct buffer request = {0};
        begin(true);
        buffer_append_string(&request, "GET / HTTP/1.1\r\nHost: a\r\nX-Long: ");
        memset(buffer_reserve(&request, lengths[i]), 'x', lengths[i]);
        request.used += lengths[i];
        buffer_append_string(&request, "\r\n\r\n");
        call(&trial, buffer_string(&request));
        get(&after, "/after");
        talk();
        EXPECT(trial.ended && (i == 0 ? trial.status == 431 : trial.kind == ERROR_INVALID));
        EXPECT(after.ended && after.status == 201);
        buffer_done(&after.data);
        end();
    }
}

TEST(mux_client, a_server_that_drains_lets_calls_end_and_takes_no_more)
{
    struct trial trial = {0};
    begin(true);
    get(&trial, "/hold");
    talk();
    mux_server_drain(served);
    talk();
    EXPECT(mux_client_is_over(client) && !mux_client_has_room(client) && !trial.ended);
    http_exchange_respond(held, 200, "x", 1);
    http_exchange_unref(held);
    talk();
    EXPECT(trial.ended && trial.kind == ERROR_NONE && finished);
    buffer_done(&trial.data);
    end();
}

/* ---- Against frames ---- */

static void put_frame(struct buffer *out, uint8_t kind, uint8_t flags, uint32_t stream,
                      const void *payload, size_t length)
{
    buffer_append_u32(out, (uint32_t)length);
    buffer_append_u32(out, stream);
    buffer_append_byte(out, kind);
    buffer_append_byte(out, flags);
    buffer_append(out, "\0", 2);
    buffer_append(out, payload, length);
}

static void receive(uint8_t kind, uint8_t flags, uint32_t stream, const void *payload,
                    size_t length)
{
    BUFFER_OWNED struct buffer frame = {0};
    put_frame(&frame, kind, flags, stream, payload, length);
    turn(); /* what was called before goes out */
    mux_receive(client, frame.data, frame.used, NOW);
    turn();
}

static void receive_text(uint8_t kind, uint8_t flags, uint32_t stream, const char *text)
{
    receive(kind, flags, stream, text, strlen(text));
}

static void receive_number(uint8_t kind, uint32_t stream, uint32_t number)
{
    number = htole32(number);
    receive(kind, 0, stream, &number, sizeof(number));
}

static const char interim[] = "HTTP/1.1 100 Continue\r\n\r\n";
static const char fine[] = "HTTP/1.1 200 OK\r\n\r\n";
static const char chunked[] = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";

TEST(mux_client, opens_so_many_at_a_time)
{
    static struct trial trials[MUX_STREAMS_MAX + 1];
    begin(false);
    for (size_t i = 0; i < MUX_STREAMS_MAX; i++) {
        EXPECT(mux_client_has_room(client));
        get(&trials[i], "/");
    }
    EXPECT(!mux_client_has_room(client));
    receive_text(MUX_HEAD, 0, 1, interim);
    receive_text(MUX_HEAD, MUX_END, 1, fine);
    EXPECT(trials[0].ended && trials[0].status == 200 && mux_client_has_room(client));
    get(&trials[MUX_STREAMS_MAX], "/"); /* in the slot of the first one */
    receive_text(MUX_HEAD, MUX_END, MUX_STREAMS_MAX + 1, fine);
    EXPECT(trials[MUX_STREAMS_MAX].ended && trials[MUX_STREAMS_MAX].status == 200);
    end();
    EXPECT(trials[1].ended && trials[1].kind == ERROR_UNAVAILABLE && !trials[1].untouched);
}

TEST(mux_client, knows_what_a_server_has_not_processed)
{
    struct trial trials[4] = {0};
    begin(false);
    for (int i = 0; i < 3; i++) {
        get(&trials[i], "/");
    }
    receive_number(MUX_RESET, 2, MUX_REFUSED);
    EXPECT(trials[1].ended && trials[1].kind == ERROR_UNAVAILABLE && trials[1].untouched);
    receive_number(MUX_RESET, 3, MUX_FAILED);
    EXPECT(trials[2].ended && trials[2].kind == ERROR_UNAVAILABLE && !trials[2].untouched);
    receive(MUX_GOAWAY, 0, 0, NULL, 0);
    EXPECT(!trials[0].ended && mux_client_is_over(client) && !finished);
    receive_text(MUX_HEAD, 0, 1, fine);
    receive_text(MUX_DATA, MUX_END, 1, "abc");
    EXPECT(trials[0].ended && trials[0].kind == ERROR_NONE && trials[0].data.used == 3 && finished);
    buffer_done(&trials[0].data);
    end();
}

/* Goal: what is wrong with one answer is the matter of its call. */
TEST(mux_client, an_answer_that_is_none_is_a_protocol_error)
{
    static const char *const answers[] = {
        "HTTP/1.1 abc OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 101 Switching Protocols\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", /* and 3 come */
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n",
    };
    enum { COUNT = sizeof(answers) / sizeof(answers[0]) };
    struct trial trials[COUNT] = {0};
    struct trial last = {0};
    struct trial bare = {0};
    begin(false);
    for (uint32_t i = 0; i < COUNT; i++) {
        get(&trials[i], "/");
        receive_text(MUX_HEAD, 0, i + 1, answers[i]);
        receive_text(MUX_DATA, MUX_END, i + 1, "abc");
        EXPECT(trials[i].ended && trials[i].kind == ERROR_PROTOCOL);
        buffer_done(&trials[i].data);
    }
    get(&bare, "/");
    receive_text(MUX_HEAD, MUX_END, COUNT + 1, answers[COUNT - 1]); /* and nothing comes */
    EXPECT(bare.ended && bare.kind == ERROR_PROTOCOL && bare.status == 0);
    get(&last, "/");
    receive_text(MUX_HEAD, MUX_END, COUNT + 2, fine);
    EXPECT(last.ended && last.kind == ERROR_NONE && !finished);
    end();
}

/* Goal: what the protocol does not have ends the connection, and calls hear it. */
TEST(mux_client, what_is_no_frame_ends_the_connection)
{
    static const struct {
        uint8_t kind;
        uint8_t flags;
        uint32_t stream;
        size_t length;
    } frames[] = {
        {0, 0, 0, 0},          {8, 0, 0, 0},          {MUX_HEAD, 0, 1, 0},
        {MUX_HEAD, 0, 0, 9},   {MUX_HEAD, 0, 2, 9},   {MUX_HEAD, 2, 1, 9},
        {MUX_DATA, 0, 2, 1},   {MUX_DATA, 0, 0, 1},   {MUX_DATA, 0, 1, MUX_FRAME_BYTES + 1},
        {MUX_DATA, 0, 1, 0},   {MUX_CREDIT, 0, 1, 4}, /* more than it may owe */
        {MUX_CREDIT, 0, 0, 4}, {MUX_CREDIT, 0, 1, 3}, {MUX_RESET, 0, 1, 4},
        {MUX_PING, 0, 0, 1},   {MUX_PONG, 0, 1, 0},   {MUX_GOAWAY, 1, 0, 0},
    };
    static uint8_t payload[MUX_FRAME_BYTES + 1];
    memset(payload, 0xee, sizeof(payload));
    for (size_t i = 0; i < sizeof(frames) / sizeof(frames[0]); i++) {
        struct trial trial = {0};
        finished = false;
        begin(false);
        get(&trial, "/");
        receive(frames[i].kind, frames[i].flags, frames[i].stream, payload, frames[i].length);
        EXPECT(trial.ended && trial.kind == ERROR_PROTOCOL && finished);
        end();
    }
}

/* Goal: nobody sends more than he may, and what was cancelled gives its share back. */
TEST(mux_client, a_window_is_kept_to)
{
    static uint8_t piece[MUX_FRAME_BYTES];
    struct trial slow = {.pauses = true};
    struct trial trial = {0};
    begin(false);
    get(&slow, "/");
    receive_text(MUX_HEAD, 0, 1, fine);
    for (size_t sent = 0; sent < MUX_STREAM_WINDOW; sent += sizeof(piece)) {
        receive(MUX_DATA, 0, 1, piece, sizeof(piece));
    }
    EXPECT(!slow.ended && slow.data.used == sizeof(piece));
    mux_call_cancel(slow.call);
    for (uint32_t id = 2; id < 2 + 2 * MUX_WINDOW / MUX_STREAM_WINDOW; id++) {
        trial = (struct trial){0};
        get(&trial, "/");
        receive_text(MUX_HEAD, 0, id, fine);
        mux_call_cancel(trial.call);
        to_server.used = 0;
        for (size_t sent = 0; sent < MUX_STREAM_WINDOW; sent += sizeof(piece)) {
            receive(MUX_DATA, 0, id, piece, sizeof(piece)); /* it had not heard of it */
        }
    }
    EXPECT(!finished);
    trial = (struct trial){.pauses = true};
    get(&trial, "/");
    uint32_t id = 2 + 2 * MUX_WINDOW / MUX_STREAM_WINDOW;
    receive_text(MUX_HEAD, 0, id, fine);
    receive_text(MUX_DATA, 0, id, "first");
    for (size_t sent = 5; sent < MUX_STREAM_WINDOW; sent += sizeof(piece)) {
        receive(MUX_DATA, 0, id, piece, sizeof(piece));
    }
    EXPECT(trial.ended && trial.kind == ERROR_PROTOCOL && finished);
    buffer_done(&slow.data);
    buffer_done(&trial.data);
    end();
}

/* Goal: frames are the same however they are cut. */
TEST(mux_client, takes_bytes_as_they_come)
{
    for (size_t piece = 1; piece < 40; piece++) {
        struct trial trial = {0};
        BUFFER_OWNED struct buffer bytes = {0};
        begin(false);
        get(&trial, "/");
        turn();
        put_frame(&bytes, MUX_HEAD, 0, 1, interim, strlen(interim));
        put_frame(&bytes, MUX_HEAD, 0, 1, fine, strlen(fine));
        put_frame(&bytes, MUX_DATA, 0, 1, "one, ", 5);
        put_frame(&bytes, MUX_PING, 0, 0, NULL, 0);
        put_frame(&bytes, MUX_DATA, MUX_END, 1, "two", 3);
        for (size_t at = 0; at < bytes.used; at += piece) {
            size_t part = bytes.used - at < piece ? bytes.used - at : piece;
            mux_receive(client, bytes.data + at, part, NOW);
        }
        EXPECT(trial.ended && trial.kind == ERROR_NONE);
        EXPECT_STRING(buffer_string(&trial.data), "one, two");
        buffer_done(&trial.data);
        end();
    }
}

TEST(mux_client, an_answer_before_the_end_of_the_request_ends_both)
{
    struct trial trial = {.stays_open = true};
    begin(false);
    call(&trial, chunked);
    receive_text(MUX_HEAD, MUX_END, 1, fine);
    EXPECT(trial.ended && trial.kind == ERROR_NONE && mux_stream_count(client) == 0);
    end();
}

/* Goal: what was not sent when the server said its last is asked elsewhere. */
TEST(mux_client, what_was_not_sent_before_the_notice_never_is)
{
    struct trial sent = {0};
    struct trial late = {0};
    uint8_t notice[MUX_HEADER_BYTES] = {[8] = MUX_GOAWAY};
    begin(false);
    get(&sent, "/");
    turn();
    to_server.used = 0;
    get(&late, "/");
    mux_receive(client, notice, sizeof(notice), NOW);
    turn();
    EXPECT(to_server.used == 0 && late.ended && late.untouched);
    EXPECT(late.kind == ERROR_UNAVAILABLE && !sent.ended && !finished);
    receive_text(MUX_HEAD, MUX_END, 1, fine);
    EXPECT(sent.ended && sent.kind == ERROR_NONE && finished);
    end();
}

/* Goal: whoever has not read a whole answer yet is told, too, when the client goes. */
TEST(mux_client, a_whole_answer_that_waits_ends_with_the_client)
{
    static const struct error gone = {.kind = ERROR_UNAVAILABLE};
    struct trial trial = {.pauses = true};
    begin(false);
    get(&trial, "/");
    receive_text(MUX_HEAD, 0, 1, fine);
    receive_text(MUX_DATA, 0, 1, "one");
    receive_text(MUX_DATA, MUX_END, 1, "two");
    mux_client_lose(client, &gone);
    EXPECT(!trial.ended && !finished);
    end();
    EXPECT(trial.ended && trial.kind == ERROR_UNAVAILABLE && trial.data.used == 3);
    buffer_done(&trial.data);
}

/* Goal: there is no body before its head, not even an empty one, whether it is waited for or not.
 */
TEST(mux_client, a_body_before_its_head_is_a_protocol_error)
{
    static const char *const bodies[] = {"abc", ""};
    for (size_t i = 0; i < 8; i++) {
        struct trial trial = {.stays_open = (i & 1) != 0};
        begin(false);
        call(&trial, trial.stays_open ? chunked : "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        turn();
        if ((i & 2) != 0) {
            mux_call_pause(trial.call);
        }
        receive_text(MUX_DATA, MUX_END, 1, bodies[i >> 2]);
        EXPECT(trial.ended && trial.kind == ERROR_PROTOCOL && trial.data.used == 0);
        end();
    }
}

/* Goal: a server that is gone without a word is found out, and one that answers is kept. */
TEST(mux_client, asks_a_silent_server_for_a_sign_of_life)
{
    struct trial trial = {0};
    begin(false);
    get(&trial, "/");
    turn();
    to_server.used = 0;
    mux_client_tick(client, NOW + 4999);
    EXPECT(to_server.used == 0);
    mux_client_tick(client, NOW + 5000);
    EXPECT(to_server.used == MUX_HEADER_BYTES && to_server.data[8] == MUX_PING);
    receive(MUX_PONG, 0, 0, NULL, 0);
    mux_client_tick(client, NOW + 15000);
    EXPECT(!trial.ended && to_server.used == (size_t)2 * MUX_HEADER_BYTES);
    mux_client_tick(client, NOW + 24999);
    EXPECT(!trial.ended);
    mux_client_tick(client, NOW + 25000);
    EXPECT(trial.ended && trial.kind == ERROR_UNAVAILABLE && !trial.untouched && finished);
    end();
}
