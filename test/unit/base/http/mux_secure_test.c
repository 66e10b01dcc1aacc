/*
 * Calls between nodes over TLS, clients and servers as the product has them, on one loop; and
 * servers by hand that choose what ours does not.
 */
#include "base/http/http.h"
#include "base/http/mux.h"

#include "test/unit/base/stream/support.h"

enum { BIG = 8 << 20, PIECE = 100000, CALLS = 300 };

static struct authority authority;
static struct holder node;
static struct holder visitor;
static struct tls_context *server_tls;
static struct tls_context *visitor_tls;
static struct loop *loop;
static struct http_server *server;
static struct http_client *client;
static char address[64];
static struct http_exchange *held[CALLS];
static size_t held_count;
static size_t closed;

#define TURN_UNTIL(condition)               \
    while (!(condition)) {                  \
        uv_run(loop_uv(loop), UV_RUN_ONCE); \
    }

/* ---- The server ---- */

static void copy_data(const void *bytes, size_t length, void *context)
{
    if (!http_exchange_write(context, bytes, length)) {
        http_exchange_pause(context);
    }
}

static void copy_more(void *context)
{
    http_exchange_resume(context);
}

static void copy_end(const struct error *error, void *context)
{
    EXPECT(error == NULL);
    http_exchange_end(context);
    http_exchange_unref(context);
}

static void note_closed(void *context)
{
    (void)context;
    closed++;
}

static void serve(struct http_exchange *exchange, void *context)
{
    struct text path = http_exchange_path(exchange);
    const struct tls_peer *peer = http_exchange_certificate(exchange);
    (void)context;
    EXPECT(http_exchange_is_tls(exchange) && peer != NULL);
    EXPECT(strncmp(http_exchange_peer(exchange), "127.0.0.1:", 10) == 0);
    if (text_equal(path, "/copy")) {
        http_exchange_on(exchange, copy_more, NULL, exchange);
        http_exchange_begin(exchange, 200, UINT64_MAX);
        http_exchange_read(exchange, copy_data, copy_end, exchange);
    } else if (text_equal(path, "/hold")) {
        EXPECT(held_count < CALLS);
        http_exchange_on(exchange, NULL, note_closed, NULL);
        held[held_count++] = exchange;
    } else {
        http_exchange_respond(exchange, 200, peer->identity, strlen(peer->identity));
        http_exchange_unref(exchange);
    }
}

static void let_go(void)
{
    for (size_t i = 0; i < held_count; i++) {
        http_exchange_respond(held[i], 200, "late", 4);
        http_exchange_unref(held[i]);
    }
    held_count = 0;
}

static void begin_contexts(void)
{
    struct error err = {0};
    authority_make(&authority);
    holder_make(&node, &authority, "node/1", true, true);
    holder_make(&visitor, &authority, "client/ann", false, true);
    server_tls = context_make(&node, &authority, TLS_VERIFY_REQUIRED);
    visitor_tls = context_make(&visitor, &authority, TLS_VERIFY_REQUIRED);
    EXPECT(loop_new("http", &loop, &err) == 0);
}

static void begin_client(uint64_t answer_timeout_ms)
{
    struct error err = {0};
    const struct http_client_options options = {.tls = visitor_tls,
                                                .identity = "spiffe://test/node/1",
                                                .is_to_node = true,
                                                .answer_timeout_ms = answer_timeout_ms};
    EXPECT(http_client_new(loop, address, &options, &client, &err) == 0);
}

static void begin(uint64_t answer_timeout_ms)
{
    struct error err = {0};
    struct http_server_options options = http_server_defaults();
    uint16_t port;
    options.is_for_nodes = true;
    begin_contexts();
    EXPECT(http_server_new(loop, &options, serve, NULL, &server, &err) == 0);
    EXPECT(http_server_listen_tls(server, "127.0.0.1:0", server_tls, NULL, NULL, NULL, &port,
                                  &err) == 0);
    snprintf(address, sizeof(address), "127.0.0.1:%u", port);
    begin_client(answer_timeout_ms);
}

static void end(void)
{
    http_client_free(client);
    http_server_free(server);
    loop_free(loop);
    tls_context_unref(server_tls);
    tls_context_unref(visitor_tls);
    holder_done(&node);
    holder_done(&visitor);
    authority_done(&authority);
}

static uint64_t accepted(void)
{
    struct http_server_counters counters;
    http_server_counters(server, &counters);
    return counters.connections_accepted;
}

/* ---- Calls ---- */

struct trial {
    struct http_call *call;
    int status;
    bool ended;
    bool was_sent;
    enum error_kind kind;
    struct buffer data;
    size_t to_send; /* of a streamed body */
    size_t pauses;
    bool frees; /* the client, when it ends */
};

static size_t ended;

static void on_head(struct http_call *call, int status, void *context)
{
    struct trial *trial = context;
    EXPECT(http_call_was_sent(call));
    trial->status = status;
}

static void on_data(struct http_call *call, const void *bytes, size_t length, void *context)
{
    struct trial *trial = context;
    buffer_append(&trial->data, bytes, length);
    if (++trial->pauses % 16 == 0) {
        http_call_pause(call);
        http_call_resume(call);
    }
}

static void on_end(struct http_call *call, const struct error *error, void *context)
{
    struct trial *trial = context;
    trial->ended = true;
    trial->was_sent = http_call_was_sent(call);
    trial->kind = error != NULL ? error->kind : ERROR_NONE;
    ended++;
    if (trial->frees) {
        struct http_client *gone = client;
        client = NULL;
        http_client_free(gone);
    }
}

static const struct http_call_events events = {on_head, on_data, on_end};

static void start(struct trial *trial, const char *method, const char *target)
{
    trial->call = http_client_call(client, method, target, NULL, NULL, 0, &events, trial);
}

static void on_writable(struct http_call *call, void *context)
{
    static uint8_t piece[PIECE];
    struct trial *trial = context;
    while (trial->to_send > 0) {
        size_t length = trial->to_send < PIECE ? trial->to_send : PIECE;
        for (size_t i = 0; i < length; i++) {
            piece[i] = (uint8_t)((BIG - trial->to_send + i) * 2654435761U >> 24);
        }
        trial->to_send -= length;
        if (!http_call_write(call, piece, length)) {
            return;
        }
    }
    http_call_finish(call);
}

static void expect_whole(struct trial *trial, const char *text)
{
    EXPECT(trial->ended && trial->kind == ERROR_NONE && trial->status == 200 && trial->was_sent);
    EXPECT_STRING(buffer_string(&trial->data), text);
    buffer_done(&trial->data);
}

TEST(mux_secure, calls_share_a_connection)
{
    struct trial trials[50] = {0};
    struct trial big = {.to_send = BIG};
    begin(0);
    http_client_call_streaming(client, "POST", "/copy", NULL, UINT64_MAX, on_writable, &events,
                               &big);
    for (size_t i = 0; i < 50; i++) {
        start(&trials[i], i % 2 == 0 ? "GET" : "POST", "/");
    }
    TURN_UNTIL(ended == 51);
    for (size_t i = 0; i < 50; i++) {
        expect_whole(&trials[i], "spiffe://test/client/ann");
    }
    EXPECT(big.kind == ERROR_NONE && big.data.used == BIG);
    for (size_t i = 0; i < BIG; i++) {
        EXPECT(big.data.data[i] == (uint8_t)(i * 2654435761U >> 24));
    }
    EXPECT(accepted() == 1);
    buffer_done(&big.data);
    end();
}

/* A body written before there is a connection is framed as that connection wants it. */
TEST(mux_secure, a_body_may_be_written_at_once)
{
    struct trial trial = {0};
    begin(0);
    trial.call = http_client_call_streaming(client, "POST", "/copy", NULL, UINT64_MAX, on_writable,
                                            &events, &trial);
    http_call_write(trial.call, "early", 5);
    http_call_finish(trial.call);
    TURN_UNTIL(ended == 1);
    expect_whole(&trial, "early");
    end();
}

static uint64_t bytes_in(void)
{
    struct http_server_counters counters;
    http_server_counters(server, &counters);
    return counters.bytes_in;
}

/* Goal: a node's body does not wait at its sender for whoever will read it.  Method: nobody does.
 */
TEST(mux_secure, a_node_may_send_ahead)
{
    struct trial trial = {.to_send = MUX_STREAM_WINDOW};
    begin(0);
    http_client_call_streaming(client, "POST", "/hold", NULL, UINT64_MAX, on_writable, &events,
                               &trial);
    TURN_UNTIL(bytes_in() > MUX_STREAM_WINDOW);
    EXPECT(held_count == 1 && !trial.ended);
    let_go();
    TURN_UNTIL(ended == 1);
    expect_whole(&trial, "late");
    end();
}

TEST(mux_secure, opens_another_connection_only_beyond_what_the_server_allows)
{
    static struct trial trials[CALLS];
    begin(0);
    for (size_t i = 0; i < CALLS; i++) {
        start(&trials[i], "GET", "/hold");
    }
    TURN_UNTIL(held_count >= MUX_STREAMS_MAX);
    TURN_UNTIL(held_count == CALLS);
    EXPECT(accepted() > 1 && accepted() < 5);
    let_go();
    TURN_UNTIL(ended == CALLS);
    for (size_t i = 0; i < CALLS; i++) {
        expect_whole(&trials[i], "late");
    }
    end();
}

TEST(mux_secure, what_is_late_or_cancelled_leaves_the_connection_to_others)
{
    struct trial late = {0};
    struct trial cancelled = {0};
    struct trial other = {0};
    begin(100);
    start(&late, "GET", "/hold");
    start(&cancelled, "GET", "/hold");
    TURN_UNTIL(held_count == 2);
    http_call_cancel(cancelled.call);
    EXPECT(cancelled.ended && cancelled.kind == ERROR_CANCELLED && cancelled.was_sent);
    TURN_UNTIL(late.ended && closed == 2);
    EXPECT(late.kind == ERROR_TIMEOUT);
    start(&other, "GET", "/");
    TURN_UNTIL(other.ended);
    expect_whole(&other, "spiffe://test/client/ann");
    EXPECT(accepted() == 1);
    let_go();
    end();
}

TEST(mux_secure, a_client_may_be_freed_when_it_is_told)
{
    struct trial first = {.frees = true};
    struct trial second = {0};
    begin(0);
    start(&second, "GET", "/hold");
    start(&first, "GET", "/");
    TURN_UNTIL(ended == 2);
    EXPECT(second.kind == ERROR_CANCELLED && client == NULL);
    buffer_done(&first.data);
    TURN_UNTIL(closed == 1);
    let_go();
    end();
}

static void note(void *context)
{
    *(bool *)context = true;
}

TEST(mux_secure, a_server_drains_under_a_client_that_goes_elsewhere)
{
    struct trial held_call = {0};
    struct trial next = {0};
    bool drained = false;
    begin(0);
    start(&held_call, "GET", "/hold");
    TURN_UNTIL(held_count == 1);
    http_server_drain(server, 60000, note, &drained);
    start(&next, "GET", "/"); /* until it hears of it, the server answers */
    TURN_UNTIL(next.ended);
    EXPECT(!held_call.ended && !drained);
    buffer_done(&next.data);
    let_go();
    TURN_UNTIL(held_call.ended && drained);
    expect_whole(&held_call, "late");
    end();
}

TEST(mux_secure, a_server_that_is_gone_is_told_apart_from_one_that_never_was)
{
    struct trial during = {0};
    struct trial after[3] = {0};
    begin(0);
    start(&during, "POST", "/hold");
    TURN_UNTIL(held_count == 1);
    http_server_free(server);
    server = NULL;
    TURN_UNTIL(during.ended);
    EXPECT(during.kind == ERROR_UNAVAILABLE && during.was_sent);
    for (size_t i = 0; i < 3; i++) {
        start(&after[i], "POST", "/");
    }
    TURN_UNTIL(ended == 4);
    for (size_t i = 0; i < 3; i++) {
        EXPECT(after[i].kind == ERROR_UNAVAILABLE && !after[i].was_sent);
    }
    let_go();
    end();
}

/* ---- Servers by hand ---- */

static struct stream_listener *listener;
static struct end *hands[2];
static size_t hand_count;

static void on_hand_data(const void *bytes, size_t length, void *context)
{
    buffer_append(&((struct end *)context)->heard, bytes, length);
}

static void on_hand_end(const struct error *error, void *context)
{
    (void)error;
    ((struct end *)context)->ended = true;
}

static void on_stream(struct stream *stream, void *context)
{
    static const struct stream_events hand_events = {on_hand_data, NULL, on_hand_end};
    (void)context;
    EXPECT(hand_count < 2);
    struct end *hand = calloc(1, sizeof(*hand));
    EXPECT(hand != NULL);
    hand->stream = stream;
    hands[hand_count++] = hand;
    stream_start(stream, &hand_events, hand);
}

static void begin_by_hand(const char *protocols)
{
    struct error err = {0};
    uint16_t port;
    begin_contexts();
    EXPECT(stream_listen(loop, "127.0.0.1:0", server_tls, protocols, on_stream, NULL, &listener,
                         &port, &err) == 0);
    snprintf(address, sizeof(address), "127.0.0.1:%u", port);
    begin_client(0);
}

static void end_by_hand(void)
{
    for (size_t i = 0; i < hand_count; i++) {
        end_done(hands[i]);
        free(hands[i]);
    }
    stream_listener_close(listener);
    end();
}

TEST(mux_secure, speaks_what_the_server_chooses)
{
    struct trial trials[2] = {0};
    static const char answer[] = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nold";
    begin_by_hand("http/1.1");
    start(&trials[0], "GET", "/one");
    start(&trials[1], "GET", "/two");
    for (size_t i = 0; i < 2; i++) {
        TURN_UNTIL(hand_count > i && hands[i]->heard.used > 0);
        EXPECT(strncmp(buffer_string(&hands[i]->heard), "GET /", 5) == 0);
        stream_write(hands[i]->stream, answer, strlen(answer));
    }
    TURN_UNTIL(ended == 2);
    expect_whole(&trials[0], "old");
    expect_whole(&trials[1], "old");
    end_by_hand();
}

/* Goal: even a POST goes again when the server says that it did not look at it. */
TEST(mux_secure, goes_again_when_nobody_has_processed_it)
{
    static const char refused[] = "\4\0\0\0\1\0\0\0\4\0\0\0\2\0\0\0";
    static const char head[] = "\x13\0\0\0\1\0\0\0\1\1\0\0HTTP/1.1 200 OK\r\n\r\n";
    struct trial trial = {0};
    begin_by_hand(MUX_PROTOCOL);
    start(&trial, "POST", "/");
    TURN_UNTIL(hand_count == 1 && hands[0]->heard.used > MUX_HEADER_BYTES);
    size_t once = hands[0]->heard.used;
    stream_write(hands[0]->stream, refused, sizeof(refused) - 1);
    TURN_UNTIL(hands[0]->heard.used == 2 * once);
    EXPECT(!trial.ended && hands[0]->heard.data[once + 4] == 2);
    stream_write(hands[0]->stream, "\0\0\0\0\0\0\0\0\7\0\0\0", 12); /* GOAWAY */
    stream_write(hands[0]->stream, refused, 4);
    stream_write(hands[0]->stream, "\2\0\0\0", 4);
    stream_write(hands[0]->stream, refused + 8, 8);
    TURN_UNTIL(hand_count == 2 && hands[1]->heard.used == once);
    stream_write(hands[1]->stream, head, sizeof(head) - 1);
    TURN_UNTIL(trial.ended);
    EXPECT(trial.kind == ERROR_NONE && trial.status == 200 && trial.was_sent);
    end_by_hand();
}

/* Goal: only who shows a certificate is a node. */
TEST(mux_secure, visitors_do_not_speak_it)
{
    struct error err = {0};
    struct trial trial = {0};
    struct http_server_options options = http_server_defaults();
    uint16_t port;
    options.is_for_nodes = true;
    begin_contexts();
    tls_context_unref(server_tls);
    server_tls = context_make(&node, &authority, TLS_VERIFY_OPTIONAL);
    tls_context_unref(visitor_tls);
    visitor_tls = context_make(NULL, &authority, TLS_VERIFY_REQUIRED);
    EXPECT(http_server_new(loop, &options, serve, NULL, &server, &err) == 0);
    EXPECT(http_server_listen_tls(server, "127.0.0.1:0", server_tls, NULL, NULL, NULL, &port,
                                  &err) == 0);
    snprintf(address, sizeof(address), "127.0.0.1:%u", port);
    begin_client(0);
    start(&trial, "GET", "/");
    TURN_UNTIL(trial.ended);
    EXPECT(trial.kind == ERROR_UNAVAILABLE);
    end();
}
