/*
 * HTTP over TLS: a server and its peers on one loop, turned until what is waited for has come.
 */
#include "base/http/http.h"
#include "base/memory.h"

#include "test/unit/base/stream/support.h"

enum { BIG = 8 << 20, PIECE = 100000 };

static struct authority authority;
static struct holder node;
static struct holder visitor;
static struct tls_context *server_tls;
static struct tls_context *visitor_tls;
static struct tls_context *bare_tls;
static struct loop *loop;
static struct http_server *server;
static char address[64];
static struct http_exchange *held;
static struct stream *other;

#define TURN_UNTIL(condition)               \
    while (!(condition)) {                  \
        uv_run(loop_uv(loop), UV_RUN_ONCE); \
    }

/* ---- The server ---- */

static void end_echo(struct buffer *body, const struct error *error, void *context)
{
    struct http_exchange *exchange = context;
    EXPECT(error == NULL);
    http_exchange_respond(exchange, 200, body->data, body->used);
    http_exchange_unref(exchange);
}

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

static void serve(struct http_exchange *exchange, void *context)
{
    struct text path = http_exchange_path(exchange);
    const struct tls_peer *peer = http_exchange_certificate(exchange);
    (void)context;
    EXPECT(http_exchange_is_tls(exchange));
    EXPECT(strncmp(http_exchange_peer(exchange), "127.0.0.1:", 10) == 0);
    if (text_equal(path, "/echo")) {
        http_exchange_read_all(exchange, 1 << 20, end_echo, exchange);
        return;
    }
    if (text_equal(path, "/copy")) {
        http_exchange_on(exchange, copy_more, NULL, exchange);
        http_exchange_begin(exchange, 200, UINT64_MAX);
        http_exchange_read(exchange, copy_data, copy_end, exchange);
        return;
    }
    if (text_equal(path, "/hold")) {
        held = exchange;
        return;
    }
    if (text_equal(path, "/cut") || text_equal(path, "/whole")) {
        http_exchange_begin(exchange, 200, UINT64_MAX);
        http_exchange_write(exchange, "some", 4);
        if (text_equal(path, "/cut")) {
            http_exchange_abort(exchange);
        } else {
            http_exchange_end(exchange);
        }
    } else {
        const char *name = peer != NULL ? peer->identity : "nobody";
        http_exchange_respond(exchange, 200, name, strlen(name));
    }
    http_exchange_unref(exchange);
}

static void take_other(struct stream *stream, void *context)
{
    (void)context;
    other = stream;
}

static void begin(enum tls_verify verify, size_t connections_max)
{
    struct error err = {0};
    uint16_t port;
    authority_make(&authority);
    holder_make(&node, &authority, "node/1", true, true);
    holder_make(&visitor, &authority, "client/ann", false, true);
    server_tls = context_make(&node, &authority, verify);
    visitor_tls = context_make(&visitor, &authority, TLS_VERIFY_REQUIRED);
    bare_tls = context_make(NULL, &authority, TLS_VERIFY_PIN);
    struct http_server_options options = http_server_defaults();
    options.connections_max = connections_max;
    EXPECT(loop_new("http", &loop, &err) == 0);
    EXPECT(http_server_new(loop, &options, serve, NULL, &server, &err) == 0);
    EXPECT(http_server_listen_tls(server, "127.0.0.1:0", server_tls, "store/1 else", take_other,
                                  NULL, &port, &err) == 0);
    snprintf(address, sizeof(address), "127.0.0.1:%u", port);
}

static void end(void)
{
    http_server_free(server);
    loop_free(loop);
    tls_context_unref(server_tls);
    tls_context_unref(visitor_tls);
    tls_context_unref(bare_tls);
    holder_done(&node);
    holder_done(&visitor);
    authority_done(&authority);
}

/* ---- Calls ---- */

struct trial {
    int status;
    bool ended;
    bool was_sent;
    enum error_kind kind;
    struct buffer data;
    size_t to_send; /* of a streamed body */
    size_t pauses;
};

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
}

static const struct http_call_events events = {on_head, on_data, on_end};

static struct http_client *client_new(struct tls_context *tls, const char *identity)
{
    struct error err = {0};
    struct http_client *client = NULL;
    char text[64];
    snprintf(text, sizeof(text), "%s", identity);
    const struct http_client_options options = {
        .tls = tls, .identity = text, .server_name = "localhost"};
    EXPECT(http_client_new(loop, address, &options, &client, &err) == 0);
    memset(text, 'x', sizeof(text)); /* it has a copy */
    return client;
}

static struct trial call(struct http_client *client, const char *target, const char *body)
{
    struct trial trial = {0};
    http_client_call(client, body != NULL ? "POST" : "GET", target, NULL, body,
                     body != NULL ? strlen(body) : 0, &events, &trial);
    TURN_UNTIL(trial.ended);
    return trial;
}

static void expect_answer(struct trial trial, const char *text)
{
    EXPECT(trial.kind == ERROR_NONE && trial.status == 200 && trial.was_sent);
    EXPECT_STRING(buffer_string(&trial.data), text);
    buffer_done(&trial.data);
}

TEST(http_secure, knows_who_asks)
{
    struct http_server_counters counters;
    begin(TLS_VERIFY_OPTIONAL, 10);
    struct http_client *ann = client_new(visitor_tls, "spiffe://test/node/1");
    struct http_client *nobody = client_new(bare_tls, "spiffe://test/node/1");
    expect_answer(call(ann, "/", NULL), "spiffe://test/client/ann");
    expect_answer(call(nobody, "/", NULL), "nobody");
    expect_answer(call(ann, "/echo", "a body"), "a body");
    expect_answer(call(ann, "/", NULL), "spiffe://test/client/ann");
    http_server_counters(server, &counters);
    EXPECT(counters.connections_accepted == 2 && counters.requests == 4);
    http_client_free(ann);
    http_client_free(nobody);
    end();
}

TEST(http_secure, sends_nothing_to_who_it_does_not_trust)
{
    begin(TLS_VERIFY_REQUIRED, 10);
    struct http_client *wary = client_new(visitor_tls, "spiffe://test/node/2");
    struct http_client *nobody = client_new(bare_tls, "spiffe://test/node/1");
    struct trial trial = call(wary, "/", NULL);
    EXPECT(trial.kind == ERROR_DENIED && !trial.was_sent);
    trial = call(nobody, "/", NULL); /* the server wants to know who it is */
    EXPECT(trial.kind == ERROR_DENIED && trial.status == 0);
    http_client_free(wary);
    http_client_free(nobody);
    end();
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

TEST(http_secure, streams_both_ways)
{
    begin(TLS_VERIFY_REQUIRED, 10);
    struct http_client *client = client_new(visitor_tls, "spiffe://test/node/1");
    struct trial trial = {.to_send = BIG};
    http_client_call_streaming(client, "POST", "/copy", NULL, UINT64_MAX, on_writable, &events,
                               &trial);
    TURN_UNTIL(trial.ended);
    EXPECT(trial.kind == ERROR_NONE && trial.data.used == BIG);
    for (size_t i = 0; i < BIG; i++) {
        EXPECT(trial.data.data[i] == (uint8_t)(i * 2654435761U >> 24));
    }
    buffer_done(&trial.data);
    http_client_free(client);
    end();
}

/* ---- By hand ---- */

static void on_hand_data(const void *bytes, size_t length, void *context)
{
    buffer_append(&((struct end *)context)->heard, bytes, length);
}

static void on_hand_end(const struct error *error, void *context)
{
    struct end *hand = context;
    hand->ended = true;
    if (error != NULL) {
        hand->error = *error;
    }
}

static void on_dialled(struct stream *stream, const struct error *error, void *context)
{
    static const struct stream_events hand_events = {on_hand_data, NULL, on_hand_end};
    struct end *hand = context;
    EXPECT(error == NULL);
    hand->stream = stream;
    stream_start(stream, &hand_events, hand);
}

static struct end *dial(const char *protocols, const char *text)
{
    struct end *hand = NEW(struct end);
    stream_dial(loop, address,
                &(struct stream_dial_options){.tls = visitor_tls, .protocols = protocols},
                on_dialled, hand);
    TURN_UNTIL(hand->stream != NULL);
    stream_write(hand->stream, text, strlen(text));
    return hand;
}

static void hang_up(struct end *hand)
{
    end_done(hand);
    free(hand);
}

/* Goal: where only the connection's end ends the answer, TLS tells a whole one from a cut one. */
TEST(http_secure, does_not_end_a_broken_answer_in_order)
{
    begin(TLS_VERIFY_REQUIRED, 10);
    struct end *hand = dial("http/1.1", "GET /whole HTTP/1.0\r\n\r\n");
    TURN_UNTIL(hand->ended);
    EXPECT(hand->error.kind == ERROR_NONE);
    EXPECT(strstr(buffer_string(&hand->heard), "\r\n\r\nsome") != NULL);
    hang_up(hand);
    hand = dial(NULL, "GET /cut HTTP/1.0\r\n\r\n");
    TURN_UNTIL(hand->ended);
    EXPECT(hand->error.kind == ERROR_UNAVAILABLE);
    hang_up(hand);
    hand = dial("http/1.1", "nonsense\r\n\r\n");
    TURN_UNTIL(hand->ended);
    EXPECT(hand->error.kind == ERROR_NONE);
    EXPECT(strncmp(buffer_string(&hand->heard), "HTTP/1.1 400 ", 13) == 0);
    hang_up(hand);
    end();
}

TEST(http_secure, hands_other_protocols_over)
{
    begin(TLS_VERIFY_REQUIRED, 10);
    struct end store = {.keeps = true};
    static const struct stream_events other_events = {on_hand_data, NULL, on_hand_end};
    struct end *hand = dial("store/1", "hello");
    TURN_UNTIL(other != NULL);
    EXPECT_STRING(stream_protocol(other), "store/1");
    EXPECT_STRING(stream_peer(other)->identity, "spiffe://test/client/ann");
    store.stream = other;
    stream_start(other, &other_events, &store);
    TURN_UNTIL(store.heard.used == 5);
    struct http_server_counters counters;
    http_server_counters(server, &counters);
    EXPECT(counters.connections_accepted == 0);
    http_server_free(server); /* it is no concern of the server's any more */
    server = NULL;
    stream_write(other, "you", 3);
    TURN_UNTIL(hand->heard.used == 3);
    hang_up(hand);
    end_done(&store);
    end();
}

static void note(void *context)
{
    *(bool *)context = true;
}

TEST(http_secure, drains_and_keeps_to_its_limit)
{
    begin(TLS_VERIFY_REQUIRED, 2);
    struct end *idle = dial("http/1.1", "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    TURN_UNTIL(idle->heard.used > 0);
    struct end *busy = dial("http/1.1", "GET /hold HTTP/1.1\r\nHost: x\r\n\r\n");
    TURN_UNTIL(held != NULL);
    struct end *third = dial("http/1.1", "");
    TURN_UNTIL(third->ended);
    EXPECT(strncmp(buffer_string(&third->heard), "HTTP/1.1 503 ", 13) == 0);
    bool drained = false;
    http_server_drain(server, 60000, note, &drained);
    TURN_UNTIL(idle->ended);
    EXPECT(idle->error.kind == ERROR_NONE && !busy->ended && !drained);
    http_exchange_respond(held, 200, "late", 4);
    http_exchange_unref(held);
    TURN_UNTIL(busy->ended && drained);
    EXPECT(busy->error.kind == ERROR_NONE);
    EXPECT(strstr(buffer_string(&busy->heard), "\r\n\r\nlate") != NULL);
    hang_up(idle);
    hang_up(busy);
    hang_up(third);
    end();
}

/* What is in flight when the server goes is cut off, never ended. */
TEST(http_secure, goes_with_what_is_in_flight)
{
    begin(TLS_VERIFY_REQUIRED, 10);
    struct end *hand = dial("http/1.1", "GET /hold HTTP/1.1\r\nHost: x\r\n\r\n");
    TURN_UNTIL(held != NULL);
    http_server_free(server);
    server = NULL;
    TURN_UNTIL(hand->ended);
    EXPECT(hand->error.kind == ERROR_UNAVAILABLE);
    http_exchange_respond(held, 200, "late", 4); /* to nobody */
    EXPECT_STRING(http_exchange_certificate(held)->identity, "spiffe://test/client/ann");
    http_exchange_unref(held);
    hang_up(hand);
    end();
}
