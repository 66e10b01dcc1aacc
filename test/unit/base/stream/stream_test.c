/*
 * Streams in the clear and through TLS: both ends on one loop, turned until what is waited for has
 * come.
 */
#include <errno.h>
#include <netinet/in.h>
#include <openssl/ssl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/stream/inside.h"

#include "test/unit/base/stream/support.h"

enum { BIG = 24 << 20, PIECE = 100000 };

static struct authority authority;
static struct holder node;
static struct tls_context *server;
static struct tls_context *client;

static void make_contexts(void)
{
    authority_make(&authority);
    holder_make(&node, &authority, "node/1", true, true);
    server = context_make(&node, &authority, TLS_VERIFY_REQUIRED);
    client = context_make(&node, &authority, TLS_VERIFY_REQUIRED);
}

static void done_contexts(void)
{
    tls_context_unref(server);
    tls_context_unref(client);
    holder_done(&node);
    authority_done(&authority);
}

/* The same claims hold with and without TLS. */
#define TWICE(name)                                               \
    static void name(struct tls_context *, struct tls_context *); \
    TEST(stream, name##_in_the_clear)                             \
    {                                                             \
        name(NULL, NULL);                                         \
    }                                                             \
    TEST(stream, name##_through_tls)                              \
    {                                                             \
        make_contexts();                                          \
        name(server, client);                                     \
        done_contexts();                                          \
    }                                                             \
    static void name(struct tls_context *server_tls, struct tls_context *client_tls)

TWICE(carries_bytes_both_ways_and_ends_in_halves)
{
    struct pair pair;
    pair_begin(&pair, server_tls, NULL);
    pair_connect(&pair, &(struct stream_dial_options){.tls = client_tls});
    EXPECT(pair.client.stream != NULL);
    EXPECT(strncmp(stream_address(pair.server.stream), "127.0.0.1:", 10) == 0);
    EXPECT_STRING(stream_address(pair.client.stream), pair.address);
    EXPECT_STRING(stream_protocol(pair.client.stream), "");
    stream_write(pair.client.stream, "question", 8);
    stream_shutdown(pair.client.stream);
    RUN_UNTIL(&pair, pair.server.ended);
    EXPECT_STRING(buffer_string(&pair.server.heard), "question");
    EXPECT(pair.server.error.kind == ERROR_NONE && !pair.client.ended);
    stream_write(pair.server.stream, "ans", 3);
    stream_write(pair.server.stream, "wer", 3);
    RUN_UNTIL(&pair, pair.client.heard.used == 6);
    stream_shutdown(pair.server.stream);
    RUN_UNTIL(&pair, pair.client.ended);
    EXPECT_STRING(buffer_string(&pair.client.heard), "answer");
    EXPECT(pair.client.error.kind == ERROR_NONE);
    pair_end(&pair);
}

static void write_big(struct stream *stream)
{
    static uint8_t piece[PIECE];
    for (size_t at = 0; at < BIG; at += PIECE) {
        for (size_t i = 0; i < PIECE; i++) {
            piece[i] = (uint8_t)((at + i) * 2654435761U >> 24);
        }
        stream_write(stream, piece, at + PIECE < BIG ? PIECE : BIG - at);
    }
}

static void expect_big(const struct buffer *heard)
{
    EXPECT(heard->used == BIG);
    for (size_t i = 0; i < BIG; i++) {
        EXPECT(heard->data[i] == (uint8_t)(i * 2654435761U >> 24));
    }
}

/*
 * Goal: what was appended and then written arrives as it was, in order, and nothing of it waits.
 * Method: pieces around the length of a record and above, behind heads of a few bytes.
 */
TWICE(carries_what_is_put_together)
{
    static const size_t lengths[] = {1, 9, 16383, 16384, 16385, 65536, 131071, 131072, 262144};
    static uint8_t bytes[262144 + 9];
    struct pair pair;
    size_t said = 0;
    for (size_t i = 0; i < sizeof(bytes); i++) {
        bytes[i] = (uint8_t)(i * 2654435761U >> 24);
    }
    pair_begin(&pair, server_tls, NULL);
    pair_connect(&pair, &(struct stream_dial_options){.tls = client_tls});
    for (size_t i = 0; i < 2 * sizeof(lengths) / sizeof(lengths[0]); i++) {
        size_t length = lengths[i / 2];
        size_t end = i % 2 == 0 ? 0 : 9;
        stream_append(pair.client.stream, bytes, 9);
        stream_append(pair.client.stream, bytes + 9, length - end % length);
        stream_write(pair.client.stream, bytes + 9 + length - end % length, end % length);
        said += 9 + length;
        RUN_UNTIL(&pair, pair.server.heard_bytes == said);
        EXPECT(memcmp(pair.server.heard.data + said - 9 - length, bytes, 9 + length) == 0);
        EXPECT(stream_waiting(pair.client.stream) == 0);
    }
    pair_end(&pair);
}

/* Goal: a reader that pauses gets nothing meanwhile, holds its peer back, and loses nothing. */
TWICE(holds_back_for_a_reader_that_pauses)
{
    struct pair pair;
    pair_begin(&pair, server_tls, NULL);
    pair_connect(&pair, &(struct stream_dial_options){.tls = client_tls});
    pair.server.pause_after = 1;
    write_big(pair.client.stream);
    write_big(pair.server.stream); /* the other way at the same time */
    RUN_UNTIL(&pair, pair.server.heard_bytes > 0);
    size_t heard = pair.server.heard_bytes;
    RUN_UNTIL(&pair, pair.client.heard_bytes == BIG); /* its own way is free */
    EXPECT(pair.server.heard_bytes == heard);
    EXPECT(stream_waiting(pair.client.stream) > 0 && pair.client.drained == 0);
    for (size_t pauses = 0; pair.server.heard_bytes < BIG; pauses++) {
        heard = pair.server.heard_bytes;
        pair.server.pause_after = heard + 500000;
        stream_resume(pair.server.stream);
        EXPECT(pair.server.heard_bytes == heard); /* never from inside */
        RUN_UNTIL(&pair, pair.server.pause_after == 0 || pair.server.heard_bytes == BIG);
    }
    RUN_UNTIL(&pair, pair.client.drained > 0);
    EXPECT(stream_waiting(pair.client.stream) == 0);
    expect_big(&pair.server.heard);
    expect_big(&pair.client.heard);
    pair_end(&pair);
}

TWICE(ends_after_all_that_was_written)
{
    struct pair pair;
    pair_begin(&pair, server_tls, NULL);
    pair_connect(&pair, &(struct stream_dial_options){.tls = client_tls});
    pair.server.pause_after = 1;
    write_big(pair.client.stream);
    stream_shutdown(pair.client.stream);
    RUN_UNTIL(&pair, pair.server.heard_bytes > 0);
    stream_resume(pair.server.stream);
    RUN_UNTIL(&pair, pair.server.ended);
    EXPECT(pair.server.error.kind == ERROR_NONE);
    expect_big(&pair.server.heard);
    pair_end(&pair);
}

/*
 * Goal: whoever waits less for a peer than others do is told its end sooner.  Method: a reader that
 * never reads; without it the test would take half a minute, and is ended before.
 */
TWICE(gives_up_a_peer_that_confirms_nothing)
{
    struct pair pair;
    pair_begin(&pair, server_tls, NULL);
    pair_connect(&pair, &(struct stream_dial_options){.tls = client_tls});
    stream_set_dead(pair.client.stream, 100);
    pair.server.pause_after = 1;
    write_big(pair.client.stream);
    RUN_UNTIL(&pair, pair.client.ended);
    EXPECT(pair.client.error.kind == ERROR_UNAVAILABLE);
    pair_end(&pair);
}

static void on_quiet_data(const void *bytes, size_t length, void *context)
{
    struct stream **stream = context;
    (void)bytes, (void)length;
    EXPECT(*stream != NULL);
    stream_close(*stream);
    *stream = NULL;
}

static void on_quiet_end(const struct error *error, void *context)
{
    (void)error, (void)context;
    EXPECT(false);
}

static void take_closing(struct stream *stream, void *context)
{
    static const struct stream_events quiet = {on_quiet_data, NULL, on_quiet_end};
    struct stream **slot = context;
    *slot = stream;
    stream_start(stream, &quiet, slot);
}

/* Goal: after stream_close(), which comes from inside on_data, nothing is called any more. */
TWICE(is_quiet_once_closed)
{
    struct pair pair;
    struct error err = {0};
    struct stream *taken = NULL;
    pair_begin(&pair, server_tls, NULL);
    stream_listener_close(pair.listener);
    EXPECT(stream_listen(pair.loop, "127.0.0.1:0", server_tls, NULL, take_closing, &taken,
                         &pair.listener, &pair.port, &err) == 0);
    snprintf(pair.address, sizeof(pair.address), "127.0.0.1:%u", pair.port);
    pair_dial(&pair, &(struct stream_dial_options){.tls = client_tls});
    RUN_UNTIL(&pair, taken != NULL && pair.client.stream != NULL);
    write_big(pair.client.stream);
    RUN_UNTIL(&pair, pair.client.ended);
    EXPECT(taken == NULL && pair.client.error.kind == ERROR_UNAVAILABLE);
    stream_write(pair.client.stream, "x", 1); /* harmless */
    pair_end(&pair);
}

/* Goal: what was said before anybody listened is kept. */
TWICE(keeps_what_comes_before_the_start)
{
    struct pair pair;
    struct error err = {0};
    pair_begin(&pair, server_tls, NULL);
    pair_dial(&pair, &(struct stream_dial_options){.tls = client_tls});
    RUN_UNTIL(&pair, pair.client.stream != NULL);
    stream_write(pair.client.stream, "early", 5);
    RUN_UNTIL(&pair, pair.server.heard_bytes == 5);
    EXPECT_STRING(buffer_string(&pair.server.heard), "early");
    EXPECT(stream_listen(pair.loop, pair.address, server_tls, NULL, take_closing, NULL,
                         &(struct stream_listener *){NULL}, NULL, &err) == -ERROR_EXISTS);
    EXPECT(stream_listen(pair.loop, "somewhere:1", server_tls, NULL, take_closing, NULL,
                         &(struct stream_listener *){NULL}, NULL, &err) == -ERROR_INVALID);
    pair_end(&pair);
}

/* ---- Dialling ---- */

TEST(stream, dials_names_and_unix_sockets)
{
    struct pair pair;
    pair_begin(&pair, NULL, NULL);
    snprintf(pair.address, sizeof(pair.address), "localhost:%u", pair.port);
    pair_connect(&pair, NULL);
    EXPECT(pair.client.stream != NULL && stream_peer(pair.client.stream) == NULL);
    pair_hang_up(&pair);

    struct sockaddr_un path = {.sun_family = AF_UNIX};
    snprintf(path.sun_path, sizeof(path.sun_path), "%s/s", test_folder());
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    EXPECT(bind(listener, (struct sockaddr *)&path, sizeof(path)) == 0 && listen(listener, 1) == 0);
    snprintf(pair.address, sizeof(pair.address), "unix:%s", path.sun_path);
    pair_dial(&pair, NULL);
    RUN_UNTIL(&pair, pair.client.done);
    EXPECT_STRING(stream_address(pair.client.stream), "unix");
    int fd = accept(listener, NULL, NULL);
    EXPECT(send(fd, "hello", 5, 0) == 5);
    RUN_UNTIL(&pair, pair.client.heard_bytes == 5);
    close(fd);
    RUN_UNTIL(&pair, pair.client.ended);
    close(listener);
    pair_end(&pair);
}

static void expect_dial_fails(struct pair *pair, const char *address,
                              const struct stream_dial_options *options, enum error_kind kind)
{
    snprintf(pair->address, sizeof(pair->address), "%s", address);
    pair_dial(pair, options);
    RUN_UNTIL(pair, pair->client.done);
    EXPECT(pair->client.stream == NULL && pair->client.error.kind == kind);
    end_done(&pair->client);
}

TEST(stream, tells_why_a_dial_failed)
{
    struct pair pair;
    pair_begin(&pair, NULL, NULL);
    char closed[64];
    snprintf(closed, sizeof(closed), "127.0.0.1:%u", pair.port);
    stream_listener_close(pair.listener);
    pair.listener = NULL;
    uv_run(loop_uv(pair.loop), UV_RUN_NOWAIT);
    expect_dial_fails(&pair, "nonsense", NULL, ERROR_INVALID);
    expect_dial_fails(&pair, "a b:80", NULL, ERROR_INVALID);
    expect_dial_fails(&pair, "host:65536", NULL, ERROR_INVALID);
    expect_dial_fails(&pair, closed, NULL, ERROR_UNAVAILABLE);
    expect_dial_fails(&pair, "unix:/nowhere/at/all", NULL, ERROR_UNAVAILABLE);
    expect_dial_fails(&pair, "no-such-name.invalid:1", NULL, ERROR_UNAVAILABLE);
    pair_end(&pair);
}

static int plain_listener(char *ret_address, size_t size)
{
    struct sockaddr_in name = {.sin_family = AF_INET};
    socklen_t length = sizeof(name);
    name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    EXPECT(bind(fd, (struct sockaddr *)&name, sizeof(name)) == 0 && listen(fd, 8) == 0);
    EXPECT(getsockname(fd, (struct sockaddr *)&name, &length) == 0);
    snprintf(ret_address, size, "127.0.0.1:%u", ntohs(name.sin_port));
    return fd;
}

static void note_over(struct stream *stream, const struct error *error, void *context)
{
    bool *is_over = context;
    (void)error;
    EXPECT(stream == NULL);
    *is_over = true;
}

/* A peer that takes the connection and never says a word. */
TEST(stream, gives_up_a_handshake_in_time_and_when_it_is_cancelled)
{
    struct pair pair;
    char address[64];
    make_contexts();
    int fd = plain_listener(address, sizeof(address));
    pair_begin(&pair, NULL, NULL);
    expect_dial_fails(&pair, address,
                      &(struct stream_dial_options){.tls = client, .timeout_ms = 50},
                      ERROR_TIMEOUT);
    const struct stream_dial_options patient = {.tls = client};
    const char *const addresses[] = {address, "no-such-name.invalid:1"};
    for (int i = 0; i < 8; i++) { /* after so many turns: posted, looking up, shaking hands */
        bool is_over = false;
        struct stream_dial *dial =
            stream_dial(pair.loop, addresses[i % 2], &patient, note_over, &is_over);
        for (int turns = 0; turns < i / 2; turns++) {
            uv_run(loop_uv(pair.loop), UV_RUN_NOWAIT);
        }
        if (!is_over) {
            stream_dial_cancel(dial);
        }
    }
    close(fd);
    pair_end(&pair);
    done_contexts();
}

/* ---- What is not an end ---- */

/*
 * Goal: a TLS connection that is cut, which anybody on the way can do, is no end of what was said.
 * Method: the client goes without TLS's notice of the end: stream_close() sends none.
 */
TEST(stream, does_not_take_a_cut_for_an_end)
{
    struct pair pair;
    make_contexts();
    pair_begin(&pair, server, NULL);
    pair_connect(&pair, &(struct stream_dial_options){.tls = client});
    stream_write(pair.client.stream, "half a", 6);
    RUN_UNTIL(&pair, pair.server.heard_bytes == 6);
    stream_close(pair.client.stream);
    pair.client.stream = NULL;
    RUN_UNTIL(&pair, pair.server.ended);
    EXPECT(pair.server.error.kind == ERROR_UNAVAILABLE);
    pair_end(&pair);
    done_contexts();
}

static int dial_plain(uint16_t port)
{
    struct sockaddr_in name = {.sin_family = AF_INET, .sin_port = htons(port)};
    name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    EXPECT(connect(fd, (struct sockaddr *)&name, sizeof(name)) == 0);
    return fd;
}

/* Turn the loop until the peer has closed `fd`. */
static size_t wait_for_close(struct pair *pair, int fd)
{
    char bytes[4096];
    size_t heard = 0;
    for (;;) {
        ssize_t got = recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT);
        if (got == 0 || (got < 0 && errno != EAGAIN)) {
            return heard;
        }
        heard += got > 0 ? (size_t)got : 0;
        uv_run(loop_uv(pair->loop), UV_RUN_NOWAIT);
    }
}

TEST(stream, closes_on_garbage_instead_of_a_handshake)
{
    static const char *const rows[] = {"GET / HTTP/1.1\r\n\r\n",
                                       "\x16\x03\x01\xff\xff",
                                       "\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00",
                                       "\x17\x03\x03\x00\x01x",
                                       "\x15\x03\x03\x00\x02\x02\x28",
                                       "\x00"};
    struct pair pair;
    make_contexts();
    pair_begin(&pair, server, NULL);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        int fd = dial_plain(pair.port);
        size_t length = i == 1 || i == 2 ? 5 + (i == 2) * 5 : strlen(rows[i]) + (rows[i][0] == 0);
        EXPECT(send(fd, rows[i], length, MSG_NOSIGNAL) == (ssize_t)length);
        shutdown(fd, SHUT_WR);
        EXPECT(wait_for_close(&pair, fd) < 100);
        close(fd);
    }
    EXPECT(pair.accepted == 0);
    pair_connect(&pair, &(struct stream_dial_options){.tls = client});
    EXPECT(pair.accepted == 1);
    pair_end(&pair);
    done_contexts();
}

/* Goal: those who connect and say nothing are ended, the longest first, and keep nobody out. */
TEST(stream, ends_the_slowest_handshakes_when_there_are_too_many)
{
    enum { MANY = STREAM_HANDSHAKES_MAX + 8 };
    static int fds[MANY];
    struct pair pair;
    make_contexts();
    pair_begin(&pair, server, NULL);
    for (int i = 0; i < MANY; i++) {
        fds[i] = dial_plain(pair.port);
        uv_run(loop_uv(pair.loop), UV_RUN_NOWAIT);
    }
    for (int i = 0; i < 8; i++) {
        EXPECT(wait_for_close(&pair, fds[i]) == 0);
    }
    char byte;
    EXPECT(recv(fds[MANY - 1], &byte, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN);
    pair_connect(&pair, &(struct stream_dial_options){.tls = client});
    EXPECT(pair.accepted == 1);
    for (int i = 0; i < MANY; i++) {
        close(fds[i]);
    }
    pair_end(&pair);
    done_contexts();
}

TEST(stream, ends_handshakes_that_take_too_long)
{
    struct pair pair;
    make_contexts();
    pair_begin(&pair, server, NULL);
    stream_listener_hurry(pair.listener, 30);
    int silent = dial_plain(pair.port);
    int slow = dial_plain(pair.port);
    EXPECT(send(slow, "\x16\x03\x01\x02", 4, MSG_NOSIGNAL) == 4); /* so far so good */
    EXPECT(wait_for_close(&pair, silent) == 0 && wait_for_close(&pair, slow) == 0);
    close(silent);
    close(slow);
    pair_end(&pair);
    done_contexts();
}

/* Say `head`, then nothings, until the server ends the connection; how much it took. */
static size_t stuff(struct pair *pair, const void *head, size_t length)
{
    static const uint8_t nothing[4096];
    char answer[256];
    int fd = dial_plain(pair->port);
    size_t total = 0;
    EXPECT(send(fd, head, length, MSG_NOSIGNAL) == (ssize_t)length);
    while (recv(fd, answer, sizeof(answer), MSG_DONTWAIT) < 0 && errno == EAGAIN) {
        ssize_t sent = send(fd, nothing, sizeof(nothing), MSG_NOSIGNAL | MSG_DONTWAIT);
        total += sent > 0 ? (size_t)sent : 0;
        uv_run(loop_uv(pair->loop), UV_RUN_NOWAIT);
    }
    close(fd);
    return total;
}

/* Goal: a message that does not end is ended by us, before it is kept whole. */
TEST(stream, ends_handshakes_that_say_too_much)
{
    static uint8_t endless[5 + 16384] = "\x16\x03\x01\x40\x00\x01\xff\xff\xff\x03\x03";
    struct pair pair;
    make_contexts();
    pair_begin(&pair, server, NULL);
    EXPECT(stuff(&pair, endless, sizeof(endless)) < 1 << 20);
    EXPECT(stuff(&pair, "\x16\x03\x01\xff\xff", 5) < 1 << 20); /* a record that is too big */
    EXPECT(pair.accepted == 0);
    pair_end(&pair);
    done_contexts();
}

/* Goal: what TLS 1.3 left behind (renegotiation among it) is not spoken. */
TEST(stream, refuses_older_versions)
{
    struct pair pair;
    uint8_t alert[16];
    char *hello = NULL;
    make_contexts();
    pair_begin(&pair, server, NULL);
    SSL_CTX *old = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_max_proto_version(old, TLS1_2_VERSION);
    SSL *ssl = SSL_new(old);
    BIO *out = BIO_new(BIO_s_mem());
    SSL_set_bio(ssl, BIO_new(BIO_s_mem()), out);
    EXPECT(SSL_connect(ssl) < 0);
    long length = BIO_get_mem_data(out, &hello);
    int fd = dial_plain(pair.port);
    EXPECT(send(fd, hello, (size_t)length, MSG_NOSIGNAL) == length);
    ssize_t got;
    while ((got = recv(fd, alert, sizeof(alert), MSG_DONTWAIT)) < 0 && errno == EAGAIN) {
        uv_run(loop_uv(pair.loop), UV_RUN_NOWAIT);
    }
    EXPECT(got == 7 && alert[0] == 21 && alert[6] == SSL_AD_PROTOCOL_VERSION);
    EXPECT(wait_for_close(&pair, fd) == 0);
    close(fd);
    SSL_free(ssl);
    SSL_CTX_free(old);
    pair_end(&pair);
    done_contexts();
}

/* Garbage in the middle: the reader is told PROTOCOL, and given only what came before it. */
TEST(stream, refuses_garbage_after_the_handshake)
{
    struct pair pair;
    make_contexts();
    pair_begin(&pair, server, NULL);
    pair_connect(&pair, &(struct stream_dial_options){.tls = client});
    /* The client's socket, without its TLS: found by its number. */
    struct sockaddr_in name;
    int found = -1;
    for (int fd = 3; fd < 64 && found < 0; fd++) {
        socklen_t length = sizeof(name);
        if (getpeername(fd, (struct sockaddr *)&name, &length) == 0 && name.sin_family == AF_INET &&
            ntohs(name.sin_port) == pair.port) {
            found = fd;
        }
    }
    EXPECT(found >= 0);
    stream_write(pair.client.stream, "good", 4);
    EXPECT(send(found,
                "\x17\x03\x03\x00\x14"
                "zzzzzzzzzzzzzzzzzzzz",
                25, MSG_NOSIGNAL) == 25);
    RUN_UNTIL(&pair, pair.server.ended);
    EXPECT(pair.server.error.kind == ERROR_PROTOCOL && pair.server.heard_bytes == 4);
    RUN_UNTIL(&pair, pair.client.ended); /* by the alert */
    EXPECT(pair.client.error.kind == ERROR_PROTOCOL);
    pair_end(&pair);
    done_contexts();
}
