/*
 * A server on a loop of its own, spoken to through plain sockets: what goes out and comes in is
 * written here byte by byte.  Reads wait for bytes or the end, never for time.
 */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/http/http.h"
#include "base/loop/loop.h"

#include "test/lib/test.h"

enum { BIG = 8 << 20, PIECE = 16384 };

static struct loop *loop;
static struct http_server *server;
static uint16_t port;
static sem_t reached;  /* a handler got where the test waits for it */
static sem_t closed;   /* on_close or a body's failure was told */
static sem_t drained_; /* the server is */
static atomic_size_t written;
static struct http_exchange *held;
static pthread_t finisher;

/* ---- Handlers ---- */

static void end_echo(struct buffer *body, const struct error *error, void *context)
{
    struct http_exchange *exchange = context;
    if (error != NULL) {
        http_exchange_respond_error(exchange, error, NULL);
        sem_post(&closed);
    } else {
        http_exchange_respond(exchange, 200, body->data, body->used);
    }
    http_exchange_unref(exchange);
}

static void copy_data(const void *bytes, size_t length, void *context)
{
    struct http_exchange *exchange = context;
    atomic_fetch_add(&written, length);
    if (!http_exchange_write(exchange, bytes, length)) {
        http_exchange_pause(exchange);
    }
}

static void copy_end(const struct error *error, void *context)
{
    struct http_exchange *exchange = context;
    if (error == NULL) {
        http_exchange_end(exchange);
    } else {
        http_exchange_abort(exchange);
        sem_post(&closed);
    }
    http_exchange_unref(exchange);
}

static void copy_more(void *context)
{
    http_exchange_resume(context);
}

static void write_big(void *context)
{
    static const char piece[PIECE] = {'x'};
    while (atomic_load(&written) < BIG) {
        atomic_fetch_add(&written, PIECE);
        if (!http_exchange_write(context, piece, PIECE)) {
            sem_post(&reached);
            return; /* until on_drain */
        }
    }
    http_exchange_end(context);
    http_exchange_unref(context);
}

static void tell_closed(void *context)
{
    http_exchange_unref(context);
    sem_post(&closed);
}

static void answer_later(void *argument)
{
    http_exchange_respond(argument, 200, "later", 5);
    http_exchange_unref(argument);
}

static void *post_answer(void *argument)
{
    http_exchange_post(argument, answer_later, argument);
    return NULL;
}

/* "!" ends it; all else comes back. */
static void raw_data(const void *bytes, size_t length, void *context)
{
    copy_data(bytes, length, context);
    if (memchr(bytes, '!', length) != NULL) {
        http_exchange_end(context);
    }
}

static void raw_end(const struct error *error, void *context)
{
    (void)context;
    EXPECT(error != NULL && error->kind == ERROR_CANCELLED); /* there is no good end of it */
    sem_post(&closed);
}

static void raw_gone(void *context)
{
    (void)context;
    sem_post(&reached);
}

static void upgrade(struct http_exchange *exchange)
{
    http_exchange_on(exchange, copy_more, raw_gone, exchange);
    if (http_exchange_upgrade(exchange, "echo")) {
        EXPECT(!http_exchange_can_upgrade(exchange));
        http_exchange_read(exchange, raw_data, raw_end, exchange);
    } else {
        http_exchange_respond(exchange, 426, NULL, 0);
    }
    http_exchange_unref(exchange);
}

static void serve(struct http_exchange *exchange, void *context)
{
    struct text path = http_exchange_path(exchange);
    (void)context;
    if (text_equal(path, "/echo")) {
        http_exchange_read_all(exchange, 1 << 20, end_echo, exchange);
    } else if (text_equal(path, "/copy")) {
        http_exchange_on(exchange, copy_more, NULL, exchange);
        http_exchange_begin(exchange, 200, UINT64_MAX);
        http_exchange_read(exchange, copy_data, copy_end, exchange);
    } else if (text_equal(path, "/big")) {
        http_exchange_on(exchange, write_big, tell_closed, exchange);
        http_exchange_begin(exchange, 200, UINT64_MAX);
        write_big(exchange);
    } else if (text_equal(path, "/upgrade")) {
        upgrade(exchange);
    } else if (text_equal(path, "/hold")) {
        held = exchange;
        http_exchange_on(exchange, NULL, tell_closed, exchange);
        sem_post(&reached);
    } else if (text_equal(path, "/later")) {
        EXPECT(pthread_create(&finisher, NULL, post_answer, exchange) == 0);
        pthread_detach(finisher);
    } else if (text_equal(path, "/broken")) {
        http_exchange_begin(exchange, 200, UINT64_MAX);
        http_exchange_write(exchange, "half", 4);
        http_exchange_abort(exchange);
        http_exchange_unref(exchange);
    } else { /* what it is, without its body */
        BUFFER_OWNED struct buffer answer = {0};
        struct text query = http_exchange_query(exchange);
        buffer_append_format(&answer, "%.*s?%.*s", (int)path.length, path.data, (int)query.length,
                             query.data);
        http_exchange_respond(exchange, 200, answer.data, answer.used);
        http_exchange_unref(exchange);
    }
}

/* ---- Frame ---- */

static struct http_server_options quick(void)
{
    struct http_server_options options = http_server_defaults();
    options.head_timeout_ms = options.idle_timeout_ms = options.body_timeout_ms = 60000;
    options.write_timeout_ms = 60000;
    return options;
}

static void begin(struct http_server_options options)
{
    struct error err = {0};
    EXPECT(sem_init(&reached, 0, 0) == 0 && sem_init(&closed, 0, 0) == 0);
    EXPECT(sem_init(&drained_, 0, 0) == 0);
    EXPECT(loop_new("server", &loop, &err) == 0);
    EXPECT(http_server_new(loop, &options, serve, NULL, &server, &err) == 0);
    EXPECT(http_server_listen(server, "127.0.0.1:0", &port, &err) == 0);
    EXPECT(loop_start(loop, &err) == 0);
}

static void free_server(void *argument)
{
    (void)argument;
    http_server_free(server);
    loop_stop(loop);
}

static void end(void)
{
    loop_post(loop, free_server, NULL);
    loop_join(loop);
    loop_free(loop);
}

static int dial(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int small = 65536; /* so that back-pressure begins soon */
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
    EXPECT(connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0);
    return fd;
}

static void say(int fd, const char *text)
{
    size_t length = strlen(text);
    EXPECT(send(fd, text, length, MSG_NOSIGNAL) == (ssize_t)length);
}

/* Read until `mark` has come `count` times. */
static char *hear(int fd, const char *mark, size_t count)
{
    static char bytes[65536];
    size_t used = 0;
    for (;;) {
        size_t seen = 0;
        bytes[used] = '\0';
        for (const char *at = bytes; (at = strstr(at, mark)) != NULL; at++) {
            seen++;
        }
        if (seen >= count) {
            return bytes;
        }
        ssize_t got = recv(fd, bytes + used, sizeof(bytes) - 1 - used, 0);
        if (got <= 0) {
            fprintf(stderr, "ended (%zd) before \"%s\":\n%s\n", got, mark, bytes);
        }
        EXPECT(got > 0);
        used += (size_t)got;
    }
}

/* All of it, to the orderly end. */
static char *hear_all(int fd)
{
    static char bytes[65536];
    size_t used = 0;
    ssize_t got;
    while ((got = recv(fd, bytes + used, sizeof(bytes) - 1 - used, 0)) > 0) {
        used += (size_t)got;
    }
    EXPECT(got == 0);
    bytes[used] = '\0';
    close(fd);
    return bytes;
}

static void expect_refusal(const char *request, const char *answer)
{
    int fd = dial();
    say(fd, request);
    char *heard = hear_all(fd);
    if (strncmp(heard, answer, strlen(answer)) != 0) {
        fprintf(stderr, "%s\n--- got\n%s\n", request, heard);
    }
    EXPECT(strncmp(heard, answer, strlen(answer)) == 0);
    EXPECT(strstr(heard, "Connection: close\r\n") != NULL);
}

#define GET(path)  "GET " path " HTTP/1.1\r\nHost: a\r\n\r\n"
#define POST(path) "POST " path " HTTP/1.1\r\nHost: a\r\n"

/* ---- Claims ---- */

TEST(http_server, keeps_connections_and_answers_pipelines_in_order)
{
    begin(quick());
    int fd = dial();
    say(fd, GET("/one"));
    EXPECT(strstr(hear(fd, "/one?", 1), "HTTP/1.1 200 OK\r\n") != NULL);
    say(fd, GET("/later") GET("/two?q") POST("/echo") "Content-Length: 4\r\n\r\nbody" GET("/3"));
    char *heard = hear(fd, "/3?", 1);
    const char *later = strstr(heard, "\r\n\r\nlater");
    const char *two = strstr(heard, "/two?q");
    const char *body = strstr(heard, "\r\n\r\nbody");
    EXPECT(later != NULL && two != NULL && body != NULL && later < two && two < body);
    close(fd);
    end();
}

TEST(http_server, takes_targets_apart)
{
    begin(quick());
    int fd = dial();
    say(fd, "GET http://a?x=/y HTTP/1.1\r\nHost: a\r\n\r\n");
    hear(fd, "\r\n\r\n/?x=/y", 1);
    say(fd, "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n");
    hear(fd, "\r\n\r\n/?", 1);
    say(fd, "GET http://A/p?q HTTP/1.1\r\nHost: a\r\n\r\n");
    hear(fd, "\r\n\r\n/p?q", 1);
    close(fd);
    end();
}

TEST(http_server, answers_head_http_1_0_and_close)
{
    begin(quick());
    int fd = dial();
    say(fd, "HEAD /x HTTP/1.1\r\nHost: a\r\n\r\n" GET("/y"));
    char *heard = hear(fd, "/y?", 1);
    EXPECT(strstr(heard, "Content-Length: 3\r\n") != NULL && strstr(heard, "/x?") == NULL);
    say(fd, "GET /z HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    EXPECT(strstr(hear_all(fd), "Connection: close\r\n") != NULL);

    fd = dial();
    say(fd, "GET /old HTTP/1.0\r\n\r\n");
    EXPECT(strstr(hear_all(fd), "/old?") != NULL);
    fd = dial();
    say(fd, "GET /old HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    EXPECT(strstr(hear(fd, "/old?", 1), "Connection: keep-alive\r\n") != NULL);
    say(fd, "POST /copy HTTP/1.0\r\nContent-Length: 2\r\n\r\nhi");
    char *copy = hear_all(fd);
    EXPECT(strstr(copy, "chunked") == NULL && strstr(copy, "\r\n\r\nhi") != NULL);

    fd = dial(); /* a truncated answer that only its end would end must not look whole */
    say(fd, "GET /broken HTTP/1.0\r\n\r\n");
    char rest[256];
    ssize_t got;
    while ((got = recv(fd, rest, sizeof(rest), 0)) > 0) {
    }
    EXPECT(got < 0 && errno == ECONNRESET);
    close(fd);
    end();
}

TEST(http_server, decodes_chunks_and_continues_when_expected)
{
    begin(quick());
    int fd = dial();
    say(fd, POST("/echo") "Transfer-Encoding: chunked\r\n\r\n5;a\r\nhello\r\n");
    say(fd, "7\r\n there!\r\n0\r\nT: u\r\n\r\n");
    hear(fd, "\r\n\r\nhello there!", 1);
    say(fd, POST("/echo") "Expect: 100-continue\r\nContent-Length: 2\r\n\r\n");
    hear(fd, "HTTP/1.1 100 Continue\r\n\r\n", 1);
    say(fd, "ok");
    hear(fd, "\r\n\r\nok", 1);
    /* Nobody reads it: no 100, and whether the body comes cannot be known, so the end. */
    say(fd, POST("/x") "Expect: 100-continue\r\nContent-Length: 2\r\n\r\n");
    char *heard = hear_all(fd);
    EXPECT(strstr(heard, "100 Continue") == NULL && strstr(heard, "Connection: close") != NULL);
    end();
}

TEST(http_server, refuses_with_the_status_that_says_why)
{
    struct http_server_options options = quick();
    options.head_bytes_max = 256;
    options.field_count_max = 4;
    options.target_bytes_max = 32;
    options.body_bytes_max = 8;
    begin(options);
    char head[1024];
    expect_refusal("GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 400 ");
    expect_refusal("GET / HTTP/2.0\r\nHost: a\r\n\r\n", "HTTP/1.1 505 ");
    expect_refusal(POST("/") "Transfer-Encoding: gzip\r\n\r\n", "HTTP/1.1 501 ");
    expect_refusal(POST("/") "Expect: x\r\n\r\n", "HTTP/1.1 417 ");
    expect_refusal(POST("/") "a:b\r\na:b\r\na:b\r\na:b\r\n\r\n", "HTTP/1.1 431 ");
    snprintf(head, sizeof(head), "GET /%032d HTTP/1.1\r\nHost: a\r\n\r\n", 0);
    expect_refusal(head, "HTTP/1.1 414 ");
    snprintf(head, sizeof(head), POST("/") "a: %0300d\r\n\r\n", 0);
    expect_refusal(head, "HTTP/1.1 431 ");
    expect_refusal(POST("/copy") "Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
                                 "0\r\n\r\n",
                   "HTTP/1.1 200 ");
    int fd = dial(); /* a body beyond the limit is broken off, with the answer begun */
    say(fd, POST("/copy") "Content-Length: 9\r\n\r\n123456789");
    EXPECT(strstr(hear(fd, "\r\n\r\n", 1), "200 OK") != NULL);
    sem_wait(&closed);
    close(fd);
    fd = dial(); /* and so is one that is not well chunked */
    say(fd, POST("/echo") "Transfer-Encoding: chunked\r\n\r\nz\r\n");
    EXPECT(strncmp(hear_all(fd), "HTTP/1.1 400 ", 13) == 0);
    end();
}

/* Goal: what a handler says of its answer in one turn, a head, pieces and the end, is one write. */
TEST(http_server, says_in_one_write_what_is_said_at_once)
{
    struct { /* the kernel's, of which libc knows the beginning */
        struct tcp_info old;
        uint64_t rates[2], bytes[2];
        uint32_t segments[2], unsent_bytes, rtt_us, data_segments_in;
    } info;
    socklen_t length = sizeof(info);
    begin(quick());
    int fd = dial();
    say(fd,
        POST("/copy") "Transfer-Encoding: chunked\r\n\r\n"
                      "3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n");
    EXPECT(strstr(hear(fd, "\r\n0\r\n\r\n", 1), "200 OK") != NULL);
    EXPECT(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length) == 0);
    EXPECT(info.data_segments_in == 1);
    close(fd);
    end();
}

/* Goal: the answer arrives although the client is in the middle of a body nobody wants. */
TEST(http_server, answers_before_the_end_of_a_large_body)
{
    begin(quick());
    int fd = dial();
    static const char piece[PIECE];
    say(fd, POST("/echo") "Content-Length: 50000000\r\n\r\n");
    for (int i = 0; i < 64; i++) { /* 1 MiB: more than any buffer between */
        EXPECT(send(fd, piece, sizeof(piece), MSG_NOSIGNAL) == PIECE);
    }
    char *heard = hear_all(fd);
    EXPECT(strncmp(heard, "HTTP/1.1 413 ", 13) == 0);
    end();
}

/* Goal: a reader that does not read holds the writer back; then all of it comes. */
TEST(http_server, waits_for_slow_readers)
{
    begin(quick());
    int fd = dial();
    say(fd, GET("/big"));
    sem_wait(&reached);
    EXPECT(atomic_load(&written) < BIG);
    static char bytes[PIECE];
    size_t total = 0;
    ssize_t got;
    while (total < BIG && (got = recv(fd, bytes, sizeof(bytes), 0)) > 0) {
        total += (size_t)got;
    }
    EXPECT(total >= BIG && atomic_load(&written) == BIG);
    close(fd);
    end();
}

/* Send until the server takes no more; how much it took. */
static size_t stuff(int fd, const char *bytes, size_t length, size_t max)
{
    size_t total = 0;
    struct timeval limit = {.tv_usec = 300000};
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
    while (total < max) {
        ssize_t sent = send(fd, bytes, length, MSG_NOSIGNAL);
        if (sent <= 0) {
            EXPECT(errno == EAGAIN);
            break;
        }
        total += (size_t)sent;
    }
    return total;
}

TEST(http_server, does_not_hoard_what_it_echoes)
{
    struct http_server_options options = quick();
    options.body_bytes_max = UINT64_MAX;
    begin(options);
    int fd = dial();
    static char bytes[PIECE];
    say(fd, POST("/copy") "Content-Length: 1000000000\r\n\r\n");
    EXPECT(stuff(fd, bytes, sizeof(bytes), 100 << 20) < 30 << 20);
    EXPECT(atomic_load(&written) < 16 << 20);
    close(fd); /* in the middle: the body's reader is told */
    sem_wait(&closed);
    end();
}

TEST(http_server, does_not_hoard_answers_to_pipelines)
{
    begin(quick());
    int fd = dial();
    static char bytes[PIECE];
    size_t used = 0;
    while (used + sizeof(GET("/a")) < sizeof(bytes)) {
        used += (size_t)snprintf(bytes + used, sizeof(bytes) - used, "%s", GET("/a"));
    }
    EXPECT(stuff(fd, bytes, used, 100 << 20) < 30 << 20);
    close(fd);
    end();
}

TEST(http_server, ends_what_is_too_slow)
{
    struct http_server_options options = quick();
    options.head_timeout_ms = options.idle_timeout_ms = options.body_timeout_ms = 30;
    options.write_timeout_ms = 100;
    begin(options);
    int fd = dial();
    EXPECT_STRING(hear_all(fd), ""); /* idle */
    expect_refusal("GET / HT", "HTTP/1.1 408 ");
    fd = dial();
    say(fd, POST("/echo") "Content-Length: 5\r\n\r\nhal");
    EXPECT(strncmp(hear_all(fd), "HTTP/1.1 408 ", 13) == 0);
    sem_wait(&closed);
    fd = dial(); /* answered, and the rest of its body never comes */
    say(fd, POST("/x") "Content-Length: 5\r\n\r\nhal");
    EXPECT(strstr(hear_all(fd), "/x?") != NULL);
    fd = dial(); /* reads nothing */
    say(fd, GET("/big"));
    sem_wait(&reached);
    sem_wait(&closed);
    close(fd);
    end();
}

TEST(http_server, tells_handlers_that_the_client_is_gone)
{
    begin(quick());
    int fd = dial();
    say(fd, GET("/hold"));
    sem_wait(&reached);
    close(fd);
    sem_wait(&closed);
    fd = dial();
    say(fd, GET("/broken"));
    char *heard = hear_all(fd);
    EXPECT(strstr(heard, "0\r\n\r\n") == NULL); /* never whole */
    fd = dial();
    say(fd, GET("/hold"));
    sem_wait(&reached);
    end(); /* the server's end is the client's */
    EXPECT(sem_trywait(&closed) == 0);
    close(fd);
}

TEST(http_server, changes_to_another_protocol)
{
    struct http_server_options options = quick();
    options.body_timeout_ms = 1; /* nobody waits for it */
    begin(options);
    int fd = dial();
    say(fd, GET("/upgrade") "early"); /* behind the request */
    char *heard = hear(fd, "early", 1);
    EXPECT(strstr(heard, "HTTP/1.1 101 Switching Protocols\r\n") == heard);
    EXPECT(strstr(heard, "Upgrade: echo\r\nConnection: Upgrade\r\n\r\nearly") != NULL);
    EXPECT(strstr(heard, "Content-Length") == NULL && strstr(heard, "chunked") == NULL);
    say(fd, GET("/no-request"));
    hear(fd, "/no-request", 1);
    say(fd, "bye!");
    EXPECT_STRING(hear_all(fd), "bye!");
    sem_wait(&closed);
    EXPECT(sem_trywait(&reached) != 0); /* it was ended, not lost */

    fd = dial();
    say(fd, GET("/upgrade"));
    hear(fd, "\r\n\r\n", 1);
    close(fd);
    sem_wait(&reached);
    sem_wait(&closed);

    expect_refusal("GET /upgrade HTTP/1.0\r\n\r\n", "HTTP/1.1 426 ");
    fd = dial();
    say(fd, POST("/upgrade") "Content-Length: 2\r\n\r\nhi");
    hear(fd, "HTTP/1.1 426 ", 1);
    close(fd);
    end();
}

/* What `nc -N` does: all is said, and the end of saying with it. */
TEST(http_server, answers_who_will_say_no_more)
{
    begin(quick());
    int fd = dial();
    say(fd, GET("/1") GET("/later") POST("/echo") "Content-Length: 4\r\n\r\nbody" GET("/4"));
    EXPECT(shutdown(fd, SHUT_WR) == 0);
    char *heard = hear_all(fd);
    EXPECT(strstr(heard, "/1?") != NULL && strstr(heard, "later") != NULL);
    EXPECT(strstr(heard, "body") != NULL && strstr(heard, "/4?") != NULL);

    fd = dial();
    say(fd, GET("/1") "GET /2 HTTP/1.1\r\nHo");
    EXPECT(shutdown(fd, SHUT_WR) == 0);
    heard = hear_all(fd);
    EXPECT(strstr(heard, "/1?") != NULL && strstr(heard, "/2?") == NULL);

    fd = dial();
    say(fd, POST("/echo") "Content-Length: 5\r\n\r\nbody");
    EXPECT(shutdown(fd, SHUT_WR) == 0);
    EXPECT_STRING(hear_all(fd), "");

    fd = dial();
    say(fd, GET("/big"));
    EXPECT(shutdown(fd, SHUT_WR) == 0);
    static char piece[65536];
    size_t heard_of_big = 0;
    for (ssize_t got; (got = recv(fd, piece, sizeof(piece), 0)) > 0;) {
        heard_of_big += (size_t)got;
    }
    EXPECT(heard_of_big > BIG);
    close(fd);
    end();
}

static void free_drained(void *context)
{
    (void)context;
    http_server_free(server);
    server = NULL;
    sem_post(&drained_);
}

static void drain(void *argument)
{
    (void)argument;
    http_server_drain(server, 30000, free_drained, NULL);
    sem_post(&reached);
}

TEST(http_server, drains_what_is_in_flight)
{
    begin(quick());
    int idle = dial();
    say(idle, GET("/x"));
    hear(idle, "/x?", 1);
    int fd = dial();
    say(fd, GET("/hold"));
    sem_wait(&reached);
    loop_post(loop, drain, NULL);
    sem_wait(&reached);
    EXPECT_STRING(hear_all(idle), "");
    EXPECT(sem_trywait(&drained_) != 0);
    loop_post(loop, answer_later, held);
    char *heard = hear_all(fd);
    EXPECT(strstr(heard, "Connection: close\r\n") != NULL && strstr(heard, "later") != NULL);
    sem_wait(&drained_);
    end();
}

/* Goal: an answer whose handler is done, but whose reader is slow, is not cut by a drain. */
TEST(http_server, drains_what_is_still_being_written)
{
    begin(quick());
    int fd = dial();
    say(fd, GET("/big"));
    sem_wait(&reached);
    loop_post(loop, drain, NULL);
    sem_wait(&reached);
    static char bytes[PIECE];
    size_t total = 0;
    ssize_t got;
    char last[5] = "";
    while ((got = recv(fd, bytes, sizeof(bytes), 0)) > 0) {
        total += (size_t)got;
        if (got >= 5) {
            memcpy(last, bytes + got - 5, 5);
        }
    }
    EXPECT(got == 0 && total > BIG && memcmp(last, "0\r\n\r\n", 5) == 0);
    close(fd);
    sem_wait(&drained_);
    end();
}

TEST(http_server, listens_on_unix_sockets_and_refuses_beyond_its_connections)
{
    struct http_server_options options = quick();
    options.connections_max = 1;
    begin(options);
    int fd = dial();
    say(fd, GET("/x"));
    hear(fd, "/x?", 1);
    expect_refusal("", "HTTP/1.1 503 ");
    close(fd);
    end();

    struct error err = {0};
    char address[128];
    struct sockaddr_un path = {.sun_family = AF_UNIX};
    snprintf(path.sun_path, sizeof(path.sun_path), "%s/socket", test_folder());
    snprintf(address, sizeof(address), "unix:%s", path.sun_path);
    EXPECT(loop_new("server", &loop, &err) == 0);
    options = quick();
    EXPECT(http_server_new(loop, &options, serve, NULL, &server, &err) == 0);
    EXPECT(http_server_listen(server, address, NULL, &err) == 0);
    EXPECT(http_server_listen(server, address, NULL, &err) == -ERROR_EXISTS);
    EXPECT(http_server_listen(server, "nowhere", NULL, &err) == -ERROR_INVALID);
    EXPECT(loop_start(loop, &err) == 0);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    EXPECT(connect(fd, (struct sockaddr *)&path, sizeof(path)) == 0);
    say(fd, GET("/unix"));
    hear(fd, "/unix?", 1);
    close(fd);
    end();
    EXPECT(access(path.sun_path, F_OK) != 0);
}
