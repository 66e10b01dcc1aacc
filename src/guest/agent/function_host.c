/*
 * The function host: the AWS Lambda Runtime API (version 2018-06-01) on the loopback, for the one
 * program that it runs; invocations come over a unix socket, one at a time.
 *
 *   GET  /2018-06-01/runtime/invocation/next            waits for an invocation
 *   POST /2018-06-01/runtime/invocation/ID/response     its answer, streamed or not
 *   POST /2018-06-01/runtime/invocation/ID/error        or its error
 *   POST /2018-06-01/runtime/init/error                 it could not begin
 *
 * A process of its own, which outlives sessions with the machine's host: a clone of the machine
 * finds it as it was.  It reads without blocking, and writes blocking: who does not read what was
 * asked for hangs nobody but itself, and the machine's host ends it when its time is over.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"

#include "guest/agent/private.h"
#include "guest/agent/runtime_http.h"

enum { CLIENTS_MAX = 8, LOG_STEP = 16384, ID_SIZE = 160 };

struct client {
    int fd; /* -1: free */
    struct buffer in;
    bool waits; /* for the next invocation */
    bool was_told_to_continue;
    bool closes;
    struct runtime_stream *stream; /* of an answer that is passed on as it comes; NULL: none */
};

struct host {
    int tcp;
    int local;
    int signals;
    int output; /* of the program; -1: closed */
    pid_t child;
    char ended[160]; /* how; "": it runs */
    struct client clients[CLIENTS_MAX];
    int asker;           /* who waits for the beginning, or for the invocation's end; -1 */
    bool is_ready;       /* the program has asked for its first invocation */
    struct buffer asked; /* as it comes from the asker */
    bool is_whole;       /* the invocation is */
    bool is_given;       /* the program has it */
    bool is_streamed;    /* its answer is being passed on */
    size_t payload_at;   /* in `asked` */
    size_t payload_length;
    char id[ID_SIZE];
};

static struct host host;

/* ---- Speaking to who asked ---- */

static void say_to_asker(uint8_t what, const void *bytes, size_t length)
{
    BUFFER_OWNED struct buffer head = {0};
    if (host.asker < 0) {
        return;
    }
    buffer_append_byte(&head, what);
    buffer_append_u32(&head, (uint32_t)length);
    if (file_write_all(host.asker, head.data, head.used) == 0 && length > 0) {
        file_write_all(host.asker, bytes, length);
    }
}

/* What was written before goes first, which is what a pipe holds, and no more: a program that never
 * stops writing does not keep its answer back.  What nobody waits for is dropped. */
static void pass_output_on(void)
{
    enum { PIPE_BYTES = 65536 };
    uint8_t bytes[LOG_STEP];
    for (int step = 0; step < PIPE_BYTES / LOG_STEP && host.output >= 0; step++) {
        ssize_t got = read(host.output, bytes, sizeof(bytes));
        if (got > 0) {
            say_to_asker(HOST_SAYS_LOG, bytes, (size_t)got);
        } else if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
            return;
        } else {
            close(host.output);
            host.output = -1;
        }
    }
}

static void end_asker(uint8_t what, const void *bytes, size_t length)
{
    pass_output_on();
    say_to_asker(what, bytes, length);
    if (host.asker >= 0) {
        close(host.asker);
        host.asker = -1;
    }
    buffer_clear(&host.asked);
    host.is_whole = false;
    host.is_given = false;
    host.is_streamed = false;
    host.id[0] = '\0';
}

/* ---- The Runtime API ---- */

static void client_close(struct client *client)
{
    close(client->fd);
    buffer_done(&client->in);
    free(client->stream);
    *client = (struct client){.fd = -1};
}

static void reply(struct client *client, int status, const char *fields, const void *body,
                  size_t length)
{
    BUFFER_OWNED struct buffer out = {0};
    buffer_append_format(&out,
                         "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\n"
                         "Content-Length: %zu\r\n%s%s\r\n",
                         status, status < 300 ? "OK" : "Error", length, fields,
                         client->closes ? "Connection: close\r\n" : "");
    buffer_append(&out, body, length);
    fcntl(client->fd, F_SETFL, 0);
    if (file_write_all(client->fd, out.data, out.used) < 0 || client->closes) {
        client_close(client);
        return;
    }
    fcntl(client->fd, F_SETFL, O_NONBLOCK);
}

static void reply_text(struct client *client, int status, const char *json)
{
    reply(client, status, "", json, strlen(json));
}

static void give(struct client *client)
{
    struct agent_reader request = agent_reader_of(host.asked.data + 4, host.payload_at - 8);
    char trace[256];
    char arn[512];
    struct error ignored = {0};
    BUFFER_OWNED struct buffer fields = {0};
    char text[TEXT_MAX];
    snprintf(trace, sizeof(trace), "%.255s",
             request_text(request, AGENT_TRACE, "", text, &ignored) == 0 ? text : "");
    snprintf(arn, sizeof(arn), "%.511s",
             request_text(request, AGENT_ARN, "", text, &ignored) == 0 ? text : "");
    buffer_append_format(&fields,
                         "Lambda-Runtime-Aws-Request-Id: %s\r\n"
                         "Lambda-Runtime-Deadline-Ms: %" PRIu64 "\r\n"
                         "Lambda-Runtime-Invoked-Function-Arn: %s\r\n",
                         host.id, request_number(request, AGENT_DEADLINE_MS, 0), arn);
    if (trace[0] != '\0') {
        buffer_append_format(&fields, "Lambda-Runtime-Trace-Id: %s\r\n", trace);
    }
    host.is_given = true;
    client->waits = false;
    reply(client, 200, buffer_string(&fields), host.asked.data + host.payload_at,
          host.payload_length);
}

static void give_when_possible(void)
{
    for (unsigned i = 0; i < CLIENTS_MAX && host.is_whole && !host.is_given; i++) {
        if (host.clients[i].fd >= 0 && host.clients[i].waits) {
            give(&host.clients[i]);
        }
    }
}

static const char accepted[] = "{\"status\":\"OK\"}";

static void take_end(struct client *client, const char *id, uint8_t what, const uint8_t *body,
                     size_t length)
{
    if (!host.is_given || host.is_streamed || strcmp(id, host.id) != 0) {
        reply_text(client, 400,
                   "{\"errorType\":\"InvalidRequestID\",\"errorMessage\":\"no such invocation "
                   "runs\"}");
        return;
    }
    end_asker(what, body, length);
    reply_text(client, 202, accepted);
}

/* ---- Answers that are passed on as they come ---- */

static void tell_to_continue(struct client *client, const struct runtime_request *request)
{
    static const char text[] = "HTTP/1.1 100 Continue\r\n\r\n";
    if (request->head_length > 0 && request->expects_continue && !client->was_told_to_continue) {
        client->was_told_to_continue = true;
        ssize_t sent = send(client->fd, text, sizeof(text) - 1, MSG_NOSIGNAL);
        (void)sent;
    }
}

static void begin_stream(struct client *client, const char *id,
                         const struct runtime_request *request)
{
    if (!host.is_given || host.is_streamed || strcmp(id, host.id) != 0) {
        client->closes = true; /* what follows is a body that nobody takes */
        reply_text(client, 400,
                   "{\"errorType\":\"InvalidRequestID\",\"errorMessage\":\"no such invocation "
                   "runs\"}");
        return;
    }
    client->stream = memory_new(1, sizeof(*client->stream));
    runtime_stream_begin(request, client->stream);
    host.is_streamed = true;
    tell_to_continue(client, request);
    say_to_asker(HOST_SAYS_STREAM, request->content_type, strlen(request->content_type));
}

static void end_stream(struct client *client)
{
    const struct runtime_stream *stream = client->stream;
    BUFFER_OWNED struct buffer error = {0};
    bool has_failed = stream->error_type[0] != '\0' || stream->error_body[0] != '\0';
    if (has_failed) {
        buffer_append(&error, stream->error_type, strlen(stream->error_type) + 1);
        buffer_append(&error, stream->error_body, strlen(stream->error_body));
    }
    free(client->stream);
    client->stream = NULL;
    end_asker(has_failed ? HOST_SAYS_BROKEN : HOST_SAYS_ANSWER, error.data, error.used);
    reply_text(client, 202, accepted);
}

/* A program that ends, or closes its connection, in the middle of an answer has failed. */
static void break_stream(struct client *client)
{
    static const char error[] = "Runtime.TruncatedResponse\0";
    if (client->stream != NULL) {
        end_asker(HOST_SAYS_BROKEN, error, sizeof(error) - 1);
    }
}

static void take_stream(struct client *client)
{
    enum runtime_verdict verdict = RUNTIME_MORE;
    size_t used = 1;
    while (client->stream != NULL && verdict == RUNTIME_MORE && used > 0) {
        const uint8_t *piece;
        size_t length;
        verdict = runtime_stream_take(client->stream, client->in.data, client->in.used, &used,
                                      &piece, &length);
        if (length > 0) {
            say_to_asker(HOST_SAYS_PIECE, piece, length);
        }
        buffer_consume(&client->in, used);
    }
    if (verdict == RUNTIME_WHOLE) {
        end_stream(client);
    } else if (verdict != RUNTIME_MORE) {
        break_stream(client);
        client_close(client);
    }
}

static void serve_request(struct client *client, const struct runtime_request *request)
{
    char id[ID_SIZE];
    const uint8_t *body = client->in.data + request->body_at;
    size_t length = request->body_length;
    client->closes = request->closes;
    client->was_told_to_continue = false;
    if (!request->is_post && strcmp(request->path, "/2018-06-01/runtime/invocation/next") == 0) {
        client->waits = true;
        if (!host.is_ready) {
            host.is_ready = true;
            end_asker(HOST_SAYS_READY, NULL, 0);
        }
    } else if (request->is_post && request->is_streaming &&
               runtime_http_path_id(request->path, "response", id, sizeof(id))) {
        begin_stream(client, id, request);
    } else if (request->is_streaming) {
        client->closes = true; /* its body was not read */
        reply_text(client, 400,
                   "{\"errorType\":\"BadRequest\",\"errorMessage\":\"only a response is "
                   "streamed\"}");
    } else if (request->is_post &&
               runtime_http_path_id(request->path, "response", id, sizeof(id))) {
        take_end(client, id, HOST_SAYS_ANSWER, body, length);
    } else if (request->is_post && runtime_http_path_id(request->path, "error", id, sizeof(id))) {
        take_end(client, id, HOST_SAYS_ERROR, body, length);
    } else if (request->is_post && strcmp(request->path, "/2018-06-01/runtime/init/error") == 0) {
        if (!host.is_ready) {
            end_asker(HOST_SAYS_ERROR, body, length);
        }
        reply_text(client, 202, accepted);
    } else {
        reply_text(client, 404,
                   "{\"errorType\":\"NotFound\",\"errorMessage\":\"the Runtime API has no such "
                   "path\"}");
    }
}

static void take_requests(struct client *client)
{
    while (client->fd >= 0 && client->in.used > 0 && !client->waits) {
        if (client->stream != NULL) {
            take_stream(client);
            if (client->stream != NULL) {
                return;
            }
            continue;
        }
        struct runtime_request request;
        enum runtime_verdict verdict =
            runtime_http_read(client->in.data, client->in.used, &request);
        if (verdict == RUNTIME_MORE) {
            tell_to_continue(client, &request);
            return;
        }
        if (verdict != RUNTIME_WHOLE) {
            client->closes = true;
            reply_text(client, verdict == RUNTIME_BAD ? 400 : 413,
                       verdict == RUNTIME_BAD
                           ? "{\"errorType\":\"BadRequest\",\"errorMessage\":\"no such HTTP\"}"
                           : "{\"errorType\":\"RequestEntityTooLarge\",\"errorMessage\":\"a "
                             "payload has at most 6 MiB\"}");
            return;
        }
        serve_request(client, &request);
        if (client->fd >= 0) {
            buffer_consume(&client->in, request.whole_length);
        }
        if (client->fd >= 0 && client->stream != NULL && client->stream->left == 0 &&
            !client->stream->is_chunked) {
            end_stream(client); /* an empty one */
        }
    }
}

static void client_ready(struct client *client)
{
    enum { STEP = 65536 };
    ssize_t got = recv(client->fd, buffer_reserve(&client->in, STEP), STEP, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
        return;
    }
    if (got <= 0 || client->in.used > (size_t)RUNTIME_BODY_MAX * 4) {
        break_stream(client);
        client_close(client);
        return;
    }
    client->in.used += (size_t)got;
    take_requests(client);
    give_when_possible();
}

static void take_client(void)
{
    int fd = accept4(host.tcp, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    for (unsigned i = 0; i < CLIENTS_MAX && fd >= 0; i++) {
        if (host.clients[i].fd < 0) {
            host.clients[i].fd = fd;
            return;
        }
    }
    if (fd >= 0) {
        close(fd);
    }
}

/* ---- Invocations ---- */

static uint32_t number_at(size_t at)
{
    const uint8_t *bytes = host.asked.data + at;
    return (uint32_t)bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 |
        (uint32_t)bytes[3] << 24;
}

static void end_with_text(const char *text)
{
    end_asker(HOST_SAYS_ENDED, text, strlen(text));
}

/* The server is who asks; its lengths are checked because both may be of different releases. */
static void look_at_asked(void)
{
    struct error ignored = {0};
    char text[TEXT_MAX] = "";
    uint32_t head = host.asked.used >= 4 ? number_at(0) : 0;
    if (head > AGENT_FRAME_MAX) {
        end_with_text("the invocation makes no sense");
        return;
    }
    if (host.asked.used < 8 + (size_t)head) {
        return;
    }
    host.payload_at = 8 + (size_t)head;
    host.payload_length = number_at(4 + head);
    if (host.asked.used - host.payload_at < host.payload_length) {
        return;
    }
    request_text(agent_reader_of(host.asked.data + 4, head), AGENT_REQUEST_ID, "none", text,
                 &ignored);
    snprintf(host.id, sizeof(host.id), "%.*s", ID_SIZE - 1, text);
    host.is_whole = true;
    give_when_possible();
}

static void asker_ready(void)
{
    enum { STEP = 65536 };
    ssize_t got = recv(host.asker, buffer_reserve(&host.asked, STEP), STEP, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
        return;
    }
    if (got <= 0) { /* it has given up: the answer will be nobody's */
        close(host.asker);
        host.asker = -1;
        if (!host.is_whole) { /* the next one's begins anew */
            buffer_clear(&host.asked);
        }
        return;
    }
    host.asked.used += (size_t)got;
    if (!host.is_whole && host.is_ready) {
        look_at_asked();
    }
}

static void take_asker(void)
{
    int fd = accept4(host.local, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0) {
        return;
    }
    pass_output_on(); /* said between invocations: nobody's */
    if (host.asker >= 0 || host.is_whole) {
        close(fd);
        return;
    }
    host.asker = fd;
    if (host.ended[0] != '\0') {
        end_with_text(host.ended);
    }
}

/* ---- The program ---- */

static void reap(void)
{
    struct signalfd_siginfo info;
    int status = 0;
    pid_t pid;
    while (read(host.signals, &info, sizeof(info)) == sizeof(info)) {
    }
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        if (pid != host.child) {
            continue;
        }
        if (WIFSIGNALED(status)) {
            snprintf(host.ended, sizeof(host.ended),
                     "the handler's process was killed by signal %d%s", WTERMSIG(status),
                     WTERMSIG(status) == SIGKILL ? " (out of memory?)" : "");
        } else {
            snprintf(host.ended, sizeof(host.ended), "the handler's process ended with status %d",
                     WEXITSTATUS(status));
        }
        end_with_text(host.ended);
    }
}

static _Noreturn void become(struct agent_reader request, int output)
{
    struct error error = {0};
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    int null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    dup2(null_fd, STDIN_FILENO);
    dup2(output, STDOUT_FILENO);
    dup2(output, STDERR_FILENO);
    exec_become(request, false, &error);
    dprintf(STDERR_FILENO, "%s\n", error.text);
    _exit(127);
}

static bool begin_program(struct agent_reader request)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0) {
        return false;
    }
    host.child = fork();
    if (host.child == 0) {
        become(request, ends[1]);
    }
    close(ends[1]);
    host.output = ends[0];
    fcntl(host.output, F_SETFL, O_NONBLOCK);
    return host.child > 0;
}

/* ---- The loop ---- */

static void turn(void)
{
    enum { FIXED = 5 };
    struct pollfd polls[FIXED + CLIENTS_MAX];
    const int fixed[FIXED] = {host.signals, host.tcp, host.local, host.output, host.asker};
    for (unsigned i = 0; i < FIXED + CLIENTS_MAX; i++) {
        polls[i] = (struct pollfd){.fd = i < FIXED ? fixed[i] : host.clients[i - FIXED].fd,
                                   .events = POLLIN};
    }
    poll(polls, FIXED + CLIENTS_MAX, -1);
    if (polls[3].revents != 0) {
        pass_output_on();
    }
    for (unsigned i = 0; i < CLIENTS_MAX; i++) {
        if (polls[FIXED + i].revents != 0 && host.clients[i].fd == polls[FIXED + i].fd) {
            client_ready(&host.clients[i]);
        }
    }
    if (polls[4].revents != 0 && host.asker == polls[4].fd) {
        asker_ready();
    }
    if (polls[0].revents != 0) {
        reap();
    }
    if (polls[1].revents != 0) {
        take_client();
    }
    if (polls[2].revents != 0) {
        take_asker();
    }
}

_Noreturn void host_run(int tcp, int local, int first, struct agent_reader request)
{
    sigset_t signals;
    setsid();
    signal(SIGPIPE, SIG_IGN);
    /* The agent's streams are not held open by what outlives their request. */
    int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int fd = 0; fd <= 2; fd++) {
        dup2(null_fd, fd);
    }
    close(3); /* the request's result */
    sigemptyset(&signals);
    sigaddset(&signals, SIGCHLD);
    sigprocmask(SIG_SETMASK, &signals, NULL);
    host = (struct host){.tcp = tcp, .local = local, .asker = first, .output = -1, .child = -1};
    host.signals = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
    for (unsigned i = 0; i < CLIENTS_MAX; i++) {
        host.clients[i].fd = -1;
    }
    if (host.signals < 0 || !begin_program(request)) {
        end_with_text("the handler's process could not be made");
        _exit(EXIT_FAILURE);
    }
    for (;;) {
        turn();
    }
}
