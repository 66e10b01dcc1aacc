/*
 * A server's end of HTTP/2, fed with bytes: libnghttp2 plays the client where it can; what no
 * client would send is put together here, frame by frame.  No sockets, no clock: time is told.
 */
#include <nghttp2/nghttp2.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/http/connection.h"
#include "base/http/h2.h"
#include "base/loop/loop.h"

#include "test/lib/test.h"

enum { STREAMS = 16, NOW = 1000 };

static struct loop *loop;
static struct http_server *server;
static struct h2_server *h2;
static struct buffer sent; /* by the server, not seen by the client yet */
static bool finished;
static size_t stuck; /* what the wire pretends to hold */
static unsigned handled;
static struct http_exchange *held;
static unsigned closed;
static enum error_kind body_fault;
static size_t taken;
static bool pauses;

/* ---- Handlers ---- */

static void tell_closed(void *context)
{
    http_exchange_unref(context);
    closed++;
}

static void end_echo(struct buffer *body, const struct error *error, void *context)
{
    struct http_exchange *exchange = context;
    if (error != NULL) {
        body_fault = error->kind;
        http_exchange_respond_error(exchange, error, NULL);
    } else {
        http_exchange_respond(exchange, 200, body->data, body->used);
    }
    http_exchange_unref(exchange);
}

static void copy_data(const void *bytes, size_t length, void *context)
{
    taken += length;
    if (!http_exchange_write(context, bytes, length) || pauses) {
        http_exchange_pause(context);
    }
}

static void copy_end(const struct error *error, void *context)
{
    struct http_exchange *exchange = context;
    body_fault = error != NULL ? error->kind : ERROR_NONE;
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

static void write_big(void *context)
{
    static const char piece[16384] = {'x'};
    while (taken < (8U << 20)) {
        taken += sizeof(piece);
        if (!http_exchange_write(context, piece, sizeof(piece))) {
            return;
        }
    }
    http_exchange_end(context);
    http_exchange_unref(context);
}

static void describe(struct http_exchange *exchange)
{
    BUFFER_OWNED struct buffer answer = {0};
    struct text path = http_exchange_path(exchange);
    struct text query = http_exchange_query(exchange);
    struct text host = http_exchange_field(exchange, "Host");
    struct text cookie = http_exchange_field(exchange, "Cookie");
    buffer_append_format(&answer, "%.*s %.*s?%.*s %.*s %.*s %s", (int)exchange->method.length,
                         exchange->method.data, (int)path.length, path.data, (int)query.length,
                         query.data, (int)host.length, host.data, (int)cookie.length, cookie.data,
                         http_exchange_peer(exchange));
    http_exchange_add_field(exchange, "X-Answer", "  yes ");
    http_exchange_add_field(exchange, "Keep-Alive", "timeout=5");
    http_exchange_respond(exchange, 200, answer.data, answer.used);
    http_exchange_unref(exchange);
}

static void serve(struct http_exchange *exchange, void *context)
{
    struct text path = http_exchange_path(exchange);
    (void)context;
    handled++;
    if (text_equal(path, "/echo")) {
        http_exchange_read_all(exchange, 1 << 20, end_echo, exchange);
    } else if (text_equal(path, "/copy")) {
        held = exchange;
        http_exchange_on(exchange, copy_more, NULL, exchange);
        http_exchange_begin(exchange, 200, UINT64_MAX);
        http_exchange_read(exchange, copy_data, copy_end, exchange);
    } else if (text_equal(path, "/big")) {
        held = exchange;
        http_exchange_on(exchange, write_big, tell_closed, exchange);
        http_exchange_begin(exchange, 200, UINT64_MAX);
        write_big(exchange);
    } else if (text_equal(path, "/hold")) {
        held = exchange;
        http_exchange_on(exchange, NULL, tell_closed, exchange);
    } else if (text_equal(path, "/broken")) {
        http_exchange_begin(exchange, 200, UINT64_MAX);
        http_exchange_write(exchange, "half", 4);
        http_exchange_abort(exchange);
        http_exchange_unref(exchange);
    } else if (text_equal(path, "/none")) {
        http_exchange_begin(exchange, 204, UINT64_MAX);
        http_exchange_end(exchange);
        http_exchange_unref(exchange);
    } else if (text_equal(path, "/million")) {
        static const char million[1000000] = {'m'};
        http_exchange_respond(exchange, 200, million, sizeof(million));
        http_exchange_unref(exchange);
    } else if (text_equal(path, "/free")) {
        http_exchange_on(exchange, NULL, tell_closed, exchange);
        h2_server_free(h2);
        h2 = NULL;
    } else {
        describe(exchange);
    }
}

/* ---- The wire ---- */

static void wire_write(const void *bytes, size_t length, void *context)
{
    (void)context;
    buffer_append(&sent, bytes, length);
}

static size_t wire_waiting(void *context)
{
    (void)context;
    return stuck;
}

static void wire_finish(void *context)
{
    (void)context;
    EXPECT(!finished);
    finished = true;
}

static void begin_with(const struct http_server_options *options)
{
    static const struct http_wire wire = {wire_write, wire_waiting, wire_finish, NULL};
    struct error err = {0};
    EXPECT(loop_new("h2", &loop, &err) == 0);
    EXPECT(http_server_new(loop, options, serve, NULL, &server, &err) == 0);
    h2 = h2_server_new(server, &wire, NULL, "10.0.0.1:1", NULL, NOW);
}

static void begin(void)
{
    struct http_server_options options = http_server_defaults();
    begin_with(&options);
}

static void end(void)
{
    h2_server_free(h2);
    h2 = NULL;
    http_server_free(server);
    loop_free(loop);
    buffer_done(&sent);
}

/* ---- A client ---- */

struct answer {
    int status;
    struct buffer body;
    size_t fields;
    char field[64]; /* x-answer */
    uint64_t length;
    bool has_connection_field;
    bool is_closed;
    uint32_t code;
};

static nghttp2_session *client;
static struct answer answers[STREAMS * 2];
static unsigned interim;
static uint32_t goaway;
static bool has_goaway;

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name,
                     size_t name_length, const uint8_t *value, size_t value_length, uint8_t flags,
                     void *context)
{
    struct answer *answer = &answers[frame->hd.stream_id];
    struct text field = text_of((const char *)name, name_length);
    (void)session;
    (void)flags;
    (void)context;
    answer->fields++;
    if (text_equal(field, ":status")) {
        answer->status = (int)strtol((const char *)value, NULL, 10);
        interim += answer->status < 200;
    } else if (text_equal(field, "x-answer")) {
        snprintf(answer->field, sizeof(answer->field), "%.*s", (int)value_length, value);
    } else if (text_equal(field, "content-length")) {
        EXPECT(text_parse_u64(text_of((const char *)value, value_length), &answer->length));
    }
    answer->has_connection_field = answer->has_connection_field || text_equal(field, "keep-alive");
    return 0;
}

static int on_data(nghttp2_session *session, uint8_t flags, int32_t id, const uint8_t *bytes,
                   size_t length, void *context)
{
    (void)session;
    (void)flags;
    (void)context;
    buffer_append(&answers[id].body, bytes, length);
    return 0;
}

static int on_close(nghttp2_session *session, int32_t id, uint32_t code, void *context)
{
    (void)session;
    (void)context;
    answers[id].is_closed = true;
    answers[id].code = code;
    return 0;
}

static int on_frame(nghttp2_session *session, const nghttp2_frame *frame, void *context)
{
    (void)session;
    (void)context;
    if (frame->hd.type == NGHTTP2_GOAWAY) {
        has_goaway = true;
        goaway = frame->goaway.error_code;
    }
    return 0;
}

static void begin_client(bool reads)
{
    nghttp2_session_callbacks *callbacks;
    nghttp2_option *option;
    EXPECT(nghttp2_session_callbacks_new(&callbacks) == 0 && nghttp2_option_new(&option) == 0);
    nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_close);
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame);
    nghttp2_option_set_no_auto_window_update(option, !reads);
    EXPECT(nghttp2_session_client_new2(&client, callbacks, NULL, option) == 0);
    nghttp2_session_callbacks_del(callbacks);
    nghttp2_option_del(option);
    EXPECT(nghttp2_submit_settings(client, NGHTTP2_FLAG_NONE, NULL, 0) == 0);
}

static void end_client(void)
{
    nghttp2_session_del(client);
    for (size_t i = 0; i < sizeof(answers) / sizeof(answers[0]); i++) {
        buffer_done(&answers[i].body);
    }
}

/* Both talk until neither has anything to say. */
static void talk(void)
{
    bool goes_on = true;
    while (goes_on) {
        const uint8_t *bytes;
        ssize_t length = nghttp2_session_mem_send(client, &bytes);
        EXPECT(length >= 0);
        if (length > 0 && h2 != NULL) {
            h2_server_receive(h2, bytes, (size_t)length, NOW);
        }
        uv_run(loop_uv(loop), UV_RUN_NOWAIT);
        goes_on = length > 0 || sent.used > 0;
        if (sent.used > 0) {
            EXPECT(nghttp2_session_mem_recv(client, sent.data, sent.used) == (ssize_t)sent.used);
            sent.used = 0;
        }
    }
}

struct upload {
    size_t left;
    bool stays_open;
};

static ssize_t give_upload(nghttp2_session *session, int32_t id, uint8_t *bytes, size_t length,
                           uint32_t *flags, nghttp2_data_source *source, void *context)
{
    struct upload *upload = source->ptr;
    size_t part = upload->left < length ? upload->left : length;
    (void)session;
    (void)id;
    (void)context;
    if (part == 0 && upload->stays_open) {
        return NGHTTP2_ERR_DEFERRED;
    }
    for (size_t i = 0; i < part; i++) {
        bytes[i] = (uint8_t)('a' + (upload->left - i) % 26);
    }
    upload->left -= part;
    if (upload->left == 0 && !upload->stays_open) {
        *flags |= NGHTTP2_DATA_FLAG_EOF;
    }
    return (ssize_t)part;
}

#define FIELD(name_text, value_text)                                                 \
    {                                                                                \
        .name = (uint8_t *)(uintptr_t)(name_text), .namelen = strlen(name_text),     \
        .value = (uint8_t *)(uintptr_t)(value_text), .valuelen = strlen(value_text), \
    }

static int32_t ask(const char *method, const char *path, struct upload *upload)
{
    const nghttp2_nv fields[] = {
        FIELD(":method", method), FIELD(":scheme", "http"), FIELD(":authority", "one.example"),
        FIELD(":path", path),     FIELD("cookie", "a=1"),   FIELD("cookie", "b=2"),
    };
    nghttp2_data_provider provider = {.source.ptr = upload, .read_callback = give_upload};
    int32_t id = nghttp2_submit_request(client, NULL, fields, sizeof(fields) / sizeof(fields[0]),
                                        upload != NULL ? &provider : NULL, NULL);
    EXPECT(id > 0 && (size_t)id < sizeof(answers) / sizeof(answers[0]));
    return id;
}

static bool is_upload(const struct buffer *body, size_t length)
{
    for (size_t i = 0; i < body->used; i++) {
        if (body->data[i] != 'a' + (length - i) % 26) {
            return false;
        }
    }
    return body->used == length;
}

/* ---- What a client does ---- */

TEST(h2_server, answers_many_at_a_time)
{
    struct upload uploads[3] = {{0, false}, {5, false}, {300000, false}};
    int32_t ids[3];
    begin();
    begin_client(true);
    int32_t waits = ask("GET", "/hold", NULL);
    for (int i = 0; i < 3; i++) {
        ids[i] = ask("POST", "/echo", &uploads[i]);
    }
    int32_t plain = ask("GET", "/some?thing", NULL);
    talk();
    EXPECT(answers[ids[0]].status == 200 && answers[ids[0]].body.used == 0);
    EXPECT(is_upload(&answers[ids[1]].body, 5));
    EXPECT(is_upload(&answers[ids[2]].body, 300000));
    EXPECT(answers[ids[2]].is_closed && answers[ids[2]].code == NGHTTP2_NO_ERROR);
    EXPECT_STRING(buffer_string(&answers[plain].body),
                  "GET /some?thing one.example a=1; b=2 10.0.0.1:1");
    EXPECT_STRING(answers[plain].field, "yes");
    EXPECT(!answers[plain].has_connection_field);
    EXPECT(answers[plain].length == answers[plain].body.used);
    EXPECT(!answers[waits].is_closed && h2_server_streams(h2) == 1);
    http_exchange_respond(held, 200, "now", 3);
    http_exchange_unref(held);
    talk();
    EXPECT_STRING(buffer_string(&answers[waits].body), "now");
    EXPECT(h2_server_streams(h2) == 0 && closed == 0);
    end_client();
    end();
}

TEST(h2_server, answers_without_bodies)
{
    begin();
    begin_client(true);
    int32_t head = ask("HEAD", "/x", NULL);
    int32_t none = ask("GET", "/none", NULL);
    int32_t star = ask("OPTIONS", "*", NULL);
    talk();
    EXPECT(answers[head].status == 200 && answers[head].body.used == 0);
    EXPECT(answers[head].length > 0 && answers[head].is_closed);
    EXPECT(answers[none].status == 204 && answers[none].is_closed && answers[none].code == 0);
    EXPECT(answers[star].status == 200 && answers[star].is_closed);
    end_client();
    end();
}

TEST(h2_server, copies_while_it_reads)
{
    enum { LENGTH = 3 << 20 };
    struct upload upload = {LENGTH, false};
    begin();
    begin_client(true);
    int32_t id = ask("POST", "/copy", &upload);
    talk();
    EXPECT(answers[id].is_closed && answers[id].code == 0 && body_fault == ERROR_NONE);
    EXPECT(is_upload(&answers[id].body, LENGTH));
    end_client();
    end();
}

/*
 * Goal: bodies that come in large pieces, several frames of several streams in each, reach their
 * readers whole and in order.
 * Method: all that a client has to say at first, given at once and cut where no frame ends.
 */
TEST(h2_server, reads_many_frames_at_once)
{
    enum { LENGTH = 30000, STEPS = 3 };
    static const size_t steps[STEPS] = {SIZE_MAX, 20001, 100};
    for (size_t i = 0; i < STEPS; i++) {
        struct upload uploads[2] = {{LENGTH, false}, {LENGTH, false}};
        BUFFER_OWNED struct buffer said = {0};
        const uint8_t *bytes;
        ssize_t length;
        begin();
        begin_client(true);
        int32_t first = ask("POST", "/copy", &uploads[0]);
        int32_t second = ask("POST", "/echo", &uploads[1]);
        while ((length = nghttp2_session_mem_send(client, &bytes)) > 0) {
            buffer_append(&said, bytes, (size_t)length);
        }
        EXPECT(uploads[0].left == 0 && uploads[1].left == 0);
        for (size_t at = 0; at < said.used;) {
            size_t part = said.used - at < steps[i] ? said.used - at : steps[i];
            h2_server_receive(h2, said.data + at, part, NOW);
            at += part;
        }
        talk();
        EXPECT(answers[first].is_closed && is_upload(&answers[first].body, LENGTH));
        EXPECT(answers[second].is_closed && is_upload(&answers[second].body, LENGTH));
        end_client();
        end();
    }
}

/*
 * Goal: who does not read is not sent more than a window; who reads again gets the rest.
 */
TEST(h2_server, a_paused_reader_holds_the_client_back)
{
    enum { LENGTH = 1 << 20 };
    struct upload upload = {LENGTH, false};
    begin();
    begin_client(true);
    pauses = true;
    int32_t id = ask("POST", "/copy", &upload);
    talk();
    EXPECT(LENGTH - upload.left <= H2_STREAM_WINDOW + 65535 && upload.left > 0);
    int32_t other = ask("GET", "/", NULL);
    talk();
    EXPECT(answers[other].is_closed);
    pauses = false;
    http_exchange_resume(held);
    talk();
    EXPECT(answers[id].is_closed && is_upload(&answers[id].body, LENGTH));
    end_client();
    end();
}

TEST(h2_server, a_slow_client_holds_the_handler_back)
{
    begin();
    begin_client(false);
    int32_t id = ask("GET", "/big", NULL);
    talk();
    size_t high = server->options.write_bytes_high;
    EXPECT(taken <= high + 65535 + 2 * 16384 && answers[id].body.used == 65535);
    size_t read = 0;
    while (!answers[id].is_closed) {
        size_t part = answers[id].body.used - read;
        EXPECT(part > 0);
        read += part;
        EXPECT(nghttp2_session_consume(client, id, part) == 0);
        talk();
    }
    EXPECT(answers[id].body.used == 8 << 20 && closed == 0);
    end_client();
    end();
}

/*
 * Goal: many answers that nobody reads do not hold as much each as one alone, and requests beyond
 * wait until some is read; then all are answered.
 */
TEST(h2_server, a_slow_client_does_not_hold_more_by_asking_more)
{
    enum { LENGTH = 1000000, REQUESTS = 12 };
    int32_t ids[REQUESTS];
    begin();
    begin_client(false);
    for (int i = 0; i < REQUESTS; i++) {
        ids[i] = ask("GET", "/million", NULL);
    }
    talk();
    EXPECT(handled == 5);
    size_t read[REQUESTS] = {0};
    for (bool goes_on = true; goes_on;) {
        goes_on = false;
        for (int i = 0; i < REQUESTS; i++) {
            size_t part = answers[ids[i]].body.used - read[i];
            read[i] += part;
            goes_on = goes_on || part > 0;
            EXPECT(nghttp2_session_consume(client, ids[i], part) == 0);
        }
        talk();
    }
    for (int i = 0; i < REQUESTS; i++) {
        EXPECT(answers[ids[i]].is_closed && answers[ids[i]].body.used == LENGTH);
    }
    EXPECT(handled == REQUESTS && h2_server_streams(h2) == 0);
    end_client();
    end();
}

/* The wire that is full is not filled further. */
TEST(h2_server, a_full_wire_holds_the_handler_back)
{
    begin();
    begin_client(true);
    stuck = 1 << 20;
    int32_t id = ask("GET", "/big", NULL);
    talk();
    EXPECT(sent.used == 0 && answers[id].status == 0);
    EXPECT(taken <= server->options.write_bytes_high + 16384);
    stuck = 0;
    h2_server_flush(h2);
    talk();
    EXPECT(answers[id].is_closed && answers[id].body.used == 8 << 20);
    end_client();
    end();
}

TEST(h2_server, tells_who_broke_off)
{
    begin();
    begin_client(true);
    int32_t broken = ask("GET", "/broken", NULL);
    int32_t hold = ask("GET", "/hold", NULL);
    talk();
    EXPECT(answers[broken].is_closed && answers[broken].code == NGHTTP2_INTERNAL_ERROR);
    EXPECT(closed == 0);
    nghttp2_submit_rst_stream(client, NGHTTP2_FLAG_NONE, hold, NGHTTP2_CANCEL);
    talk();
    EXPECT(closed == 1 && h2_server_streams(h2) == 0);
    struct upload upload = {10, true};
    int32_t copy = ask("POST", "/copy", &upload);
    talk();
    EXPECT(answers[copy].body.used == 10);
    nghttp2_submit_rst_stream(client, NGHTTP2_FLAG_NONE, copy, NGHTTP2_CANCEL);
    talk();
    EXPECT(body_fault == ERROR_CANCELLED && h2_server_streams(h2) == 0);
    end_client();
    end();
}

TEST(h2_server, may_be_freed_by_a_handler)
{
    begin();
    begin_client(true);
    ask("GET", "/hold", NULL);
    ask("GET", "/free", NULL);
    ask("GET", "/hold", NULL);
    talk();
    EXPECT(h2 == NULL && closed == 2 && handled == 2);
    end_client();
    end();
}

TEST(h2_server, answers_an_early_end_of_a_request_nobody_reads)
{
    struct upload upload = {100000, true};
    begin();
    begin_client(true);
    int32_t id = ask("POST", "/any", &upload);
    talk();
    EXPECT(answers[id].status == 200 && upload.left == 0 && !answers[id].is_closed);
    h2_server_tick(h2, NOW + 1);
    h2_server_tick(h2, NOW + 2001);
    talk();
    EXPECT(answers[id].is_closed);
    EXPECT(answers[id].code == NGHTTP2_NO_ERROR && h2_server_streams(h2) == 0);
    end_client();
    end();
}

TEST(h2_server, drains_what_is_in_flight)
{
    begin();
    begin_client(true);
    int32_t hold = ask("GET", "/hold", NULL);
    talk();
    h2_server_drain(h2);
    talk();
    EXPECT(has_goaway && goaway == NGHTTP2_NO_ERROR && !finished);
    http_exchange_respond(held, 200, "last", 4);
    http_exchange_unref(held);
    talk();
    EXPECT_STRING(buffer_string(&answers[hold].body), "last");
    EXPECT(finished);
    end_client();
    end();
}

TEST(h2_server, an_idle_connection_drains_at_once)
{
    begin();
    begin_client(true);
    talk();
    h2_server_drain(h2);
    talk();
    EXPECT(finished && has_goaway && goaway == NGHTTP2_NO_ERROR);
    end_client();
    end();
}

TEST(h2_server, ends_after_its_number_of_requests)
{
    struct http_server_options options = http_server_defaults();
    options.requests_per_connection_max = 2;
    begin_with(&options);
    begin_client(true);
    for (int i = 0; i < 2; i++) {
        ask("GET", "/", NULL);
        talk();
    }
    EXPECT(handled == 2 && finished && has_goaway && goaway == NGHTTP2_NO_ERROR);
    end_client();
    end();
}

/* ---- Limits of size and time ---- */

TEST(h2_server, refuses_a_body_that_is_too_large)
{
    struct upload upload = {2 << 20, false};
    begin();
    begin_client(true);
    int32_t id = ask("POST", "/echo", &upload);
    talk();
    EXPECT(body_fault == ERROR_TOO_LARGE && answers[id].status == 413 && answers[id].is_closed);
    int32_t next = ask("GET", "/", NULL);
    talk();
    EXPECT(answers[next].status == 200);
    end_client();
    end();
}

TEST(h2_server, a_body_that_stops_is_a_timeout)
{
    struct upload upload = {10, true};
    begin();
    begin_client(true);
    int32_t id = ask("POST", "/echo", &upload);
    talk();
    h2_server_tick(h2, NOW);
    h2_server_tick(h2, NOW + server->options.body_timeout_ms - 1);
    EXPECT(body_fault == ERROR_NONE);
    h2_server_tick(h2, NOW + server->options.body_timeout_ms);
    talk();
    EXPECT(body_fault == ERROR_TIMEOUT && answers[id].status == 408);
    end_client();
    end();
}

TEST(h2_server, a_client_that_takes_nothing_is_left)
{
    begin();
    begin_client(false);
    int32_t id = ask("GET", "/big", NULL);
    talk();
    uint64_t limit_ms = server->options.write_timeout_ms;
    h2_server_tick(h2, NOW + 1);
    h2_server_tick(h2, NOW + limit_ms);
    EXPECT(closed == 0);
    h2_server_tick(h2, NOW + 1 + limit_ms);
    talk();
    EXPECT(closed == 1 && answers[id].code == NGHTTP2_CANCEL && h2_server_streams(h2) == 0);
    end_client();
    end();
}

TEST(h2_server, an_idle_connection_ends)
{
    begin();
    begin_client(true);
    ask("GET", "/", NULL);
    talk();
    h2_server_tick(h2, NOW + server->options.idle_timeout_ms - 1);
    EXPECT(!finished);
    h2_server_tick(h2, NOW + server->options.idle_timeout_ms);
    EXPECT(finished);
    end_client();
    end();
}

TEST(h2_server, a_client_that_says_nothing_is_left)
{
    begin();
    h2_server_tick(h2, NOW + server->options.head_timeout_ms - 1);
    EXPECT(!finished);
    h2_server_tick(h2, NOW + server->options.head_timeout_ms);
    EXPECT(finished);
    end();
}
