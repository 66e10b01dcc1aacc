/*
 * The client on a loop of its own; the test plays the server, byte by byte, on a plain socket.
 */
#include <netinet/in.h>
#include <pthread.h>
#include <semaphore.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/http/http.h"
#include "base/loop/loop.h"

#include "test/lib/test.h"

static struct loop *loop;
static struct http_client *client;
static int listener;
static sem_t ended;

/* One call and what came of it. */
struct trial {
    const char *method;
    const char *target;
    const char *body;
    struct http_call *call;
    int status;
    size_t fields;
    struct buffer data;
    enum error_kind kind;
    bool cancel_at_once;
};

static void on_head(struct http_call *call, int status, void *context)
{
    struct trial *trial = context;
    trial->status = status;
    trial->fields = http_call_field_count(call);
    for (size_t i = 0; i < trial->fields; i++) {
        struct text name, value;
        http_call_field_at(call, i, &name, &value);
        EXPECT(i > 0 || text_equal_ignoring_case(name, "Content-Length") ||
               text_equal_ignoring_case(name, "Transfer-Encoding"));
    }
}

/* Pausing and resuming inside must not give the same bytes again. */
static void on_data(struct http_call *call, const void *bytes, size_t length, void *context)
{
    struct trial *trial = context;
    http_call_pause(call);
    http_call_resume(call);
    buffer_append(&trial->data, bytes, length);
}

static void on_end(struct http_call *call, const struct error *error, void *context)
{
    struct trial *trial = context;
    (void)call;
    trial->kind = error != NULL ? error->kind : ERROR_NONE;
    sem_post(&ended);
}

static const struct http_call_events events = {on_head, on_data, on_end};

static void start(void *argument)
{
    struct trial *trial = argument;
    trial->call = http_client_call(client, trial->method, trial->target, NULL, trial->body,
                                   trial->body != NULL ? strlen(trial->body) : 0, &events, trial);
    if (trial->cancel_at_once) {
        http_call_cancel(trial->call);
    }
}

static void begin(uint64_t answer_timeout_ms)
{
    struct error err = {0};
    char address[64];
    struct sockaddr_in name = {.sin_family = AF_INET};
    socklen_t length = sizeof(name);
    name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    EXPECT(bind(listener, (struct sockaddr *)&name, sizeof(name)) == 0);
    EXPECT(listen(listener, 8) == 0);
    EXPECT(getsockname(listener, (struct sockaddr *)&name, &length) == 0);
    snprintf(address, sizeof(address), "127.0.0.1:%u", ntohs(name.sin_port));
    EXPECT(sem_init(&ended, 0, 0) == 0);
    EXPECT(loop_new("client", &loop, &err) == 0);
    const struct http_client_options options = {.answer_timeout_ms = answer_timeout_ms,
                                                .connections_max = 2};
    EXPECT(http_client_new(loop, address, &options, &client, &err) == 0);
    EXPECT(loop_start(loop, &err) == 0);
}

static void free_client(void *argument)
{
    (void)argument;
    http_client_free(client);
    loop_stop(loop);
}

static void end(void)
{
    loop_post(loop, free_client, NULL);
    loop_join(loop);
    loop_free(loop);
    close(listener);
}

static void done(struct trial *trial)
{
    buffer_done(&trial->data);
}

static int take(void)
{
    int fd = accept(listener, NULL, NULL);
    EXPECT(fd >= 0);
    return fd;
}

/* Read until the request's head (and `body`) has come. */
static char *hear(int fd, const char *last)
{
    static char bytes[4096];
    size_t used = 0;
    do {
        ssize_t got = recv(fd, bytes + used, sizeof(bytes) - 1 - used, 0);
        EXPECT(got > 0);
        used += (size_t)got;
        bytes[used] = '\0';
    } while (strstr(bytes, last) == NULL);
    return bytes;
}

static void say(int fd, const char *text)
{
    EXPECT(send(fd, text, strlen(text), MSG_NOSIGNAL) == (ssize_t)strlen(text));
}

TEST(http_client, uses_connections_again)
{
    begin(0);
    struct trial first = {.method = "GET", .target = "/a"};
    struct trial second = {.method = "POST", .target = "/b", .body = "hi"};
    struct trial third = {.method = "HEAD", .target = "/c"};
    loop_post(loop, start, &first);
    int fd = take();
    EXPECT(strncmp(hear(fd, "\r\n\r\n"), "GET /a HTTP/1.1\r\nHost: 127.0.0.1:", 33) == 0);
    say(fd, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none");
    sem_wait(&ended);
    EXPECT(first.status == 200 && first.kind == ERROR_NONE && first.fields == 1);
    EXPECT_STRING(buffer_string(&first.data), "one");
    loop_post(loop, start, &second);
    EXPECT(strstr(hear(fd, "\r\n\r\nhi"), "Content-Length: 2\r\n") != NULL);
    say(fd,
        "HTTP/1.1 201 Made\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n");
    sem_wait(&ended);
    EXPECT(second.status == 201);
    EXPECT_STRING(buffer_string(&second.data), "abc");
    loop_post(loop, start, &third);
    hear(fd, "HEAD /c");
    say(fd, "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n");
    sem_wait(&ended);
    EXPECT(third.status == 200 && third.kind == ERROR_NONE && third.data.used == 0);
    close(fd);
    done(&first);
    done(&second);
    end();
}

/* Goal: a kept connection that died is no failure of what may be sent twice, and one of POST. */
TEST(http_client, sends_again_what_a_stale_connection_lost)
{
    begin(0);
    for (int i = 0; i < 2; i++) {
        struct trial first = {.method = "GET", .target = "/a"};
        struct trial second = {.method = i == 0 ? "GET" : "POST", .target = "/b"};
        loop_post(loop, start, &first);
        int fd = take();
        hear(fd, "\r\n\r\n");
        say(fd, "HTTP/1.1 204 None\r\n\r\n");
        sem_wait(&ended);
        EXPECT(first.status == 204);
        loop_post(loop, start, &second);
        hear(fd, " /b HTTP");
        close(fd);
        if (i == 0) {
            fd = take();
            hear(fd, "GET /b HTTP");
            say(fd, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
        sem_wait(&ended);
        EXPECT(second.kind == (i == 0 ? ERROR_NONE : ERROR_UNAVAILABLE));
        if (i == 0) {
            char byte;
            EXPECT(recv(fd, &byte, 1, 0) == 0); /* told to close, it does */
            close(fd);
        }
    }
    end();
}

TEST(http_client, reports_answers_that_are_none)
{
    static const struct {
        const char *answer;
        enum error_kind kind;
    } rows[] = {
        {"", ERROR_UNAVAILABLE},
        {"HTTP/1.1 200 OK\r\n", ERROR_UNAVAILABLE},
        {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhal", ERROR_UNAVAILABLE},
        {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", ERROR_UNAVAILABLE},
        {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", ERROR_PROTOCOL},
        {"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", ERROR_PROTOCOL},
        {"HTTP/1.1 101 Switching Protocols\r\n\r\n", ERROR_PROTOCOL},
        {"SSH-2.0-OpenSSH\r\n\r\n", ERROR_PROTOCOL},
        {"HTTP/1.1 200 OK\r\n\r\nto the end", ERROR_NONE},
    };
    begin(0);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct trial trial = {.method = "GET", .target = "/"};
        loop_post(loop, start, &trial);
        int fd = take();
        hear(fd, "\r\n\r\n");
        say(fd, rows[i].answer);
        shutdown(fd, SHUT_WR);
        sem_wait(&ended);
        EXPECT(trial.kind == rows[i].kind);
        close(fd);
        done(&trial);
    }
    end();
}

/* Goal: bytes that came before the question never pass for its answer. */
TEST(http_client, drops_connections_that_answer_unasked)
{
    begin(0);
    struct trial first = {.method = "GET", .target = "/a"};
    struct trial second = {.method = "GET", .target = "/b"};
    loop_post(loop, start, &first);
    int fd = take();
    hear(fd, "\r\n\r\n");
    say(fd, "HTTP/1.1 204 None\r\n\r\n");
    sem_wait(&ended);
    say(fd, "HTTP/1.1 299 Forged\r\nContent-Length: 0\r\n\r\n");
    char byte;
    EXPECT(recv(fd, &byte, 1, 0) <= 0);
    close(fd);
    loop_post(loop, start, &second);
    fd = take();
    hear(fd, "GET /b");
    say(fd, "HTTP/1.1 204 None\r\n\r\n");
    sem_wait(&ended);
    EXPECT(second.status == 204);
    close(fd);
    end();
}

TEST(http_client, ends_calls_that_are_late_cancelled_bad_or_refused)
{
    begin(50);
    struct trial late = {.method = "GET", .target = "/"};
    loop_post(loop, start, &late);
    sem_wait(&ended);
    EXPECT(late.kind == ERROR_TIMEOUT);
    struct trial cancelled = {.method = "GET", .target = "/", .cancel_at_once = true};
    loop_post(loop, start, &cancelled);
    sem_wait(&ended);
    EXPECT(cancelled.kind == ERROR_CANCELLED);
    struct trial bad = {.method = "GET", .target = "/a HTTP/1.1\r\nX: y"};
    loop_post(loop, start, &bad);
    sem_wait(&ended);
    EXPECT(bad.kind == ERROR_INVALID);
    shutdown(listener, SHUT_RDWR);
    close(listener);
    listener = -1;
    struct trial refused = {.method = "GET", .target = "/"};
    loop_post(loop, start, &refused);
    sem_wait(&ended);
    EXPECT(refused.kind == ERROR_UNAVAILABLE);
    end();
}

/* Running, waiting for a connection, and not begun: each is told once when the client goes. */
TEST(http_client, tells_every_call_when_it_is_freed)
{
    begin(0);
    struct trial trials[4];
    for (int i = 0; i < 4; i++) {
        trials[i] = (struct trial){.method = "GET", .target = "/"};
        loop_post(loop, start, &trials[i]);
    }
    int one = take();
    int two = take();
    hear(one, "\r\n\r\n");
    hear(two, "\r\n\r\n");
    struct trial fresh = {.method = "GET", .target = "/"};
    loop_post(loop, start, &fresh);
    end();
    for (int i = 0; i < 5; i++) {
        EXPECT(sem_trywait(&ended) == 0);
    }
    EXPECT(trials[0].kind == ERROR_CANCELLED && trials[3].kind == ERROR_CANCELLED);
    EXPECT(fresh.kind == ERROR_CANCELLED && sem_trywait(&ended) != 0);
    close(one);
    close(two);
}
