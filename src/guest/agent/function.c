/* The server's side of functions: beginning their host, and handing it invocations. */
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/file.h"

#include "guest/agent/private.h"

#define TASK "/var/task"

static struct sockaddr_un local_address(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof(address.sun_path), "%s", HOST_SOCKET);
    return address;
}

static int connect_local(void)
{
    const struct sockaddr_un address = local_address();
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, (const struct sockaddr *)&address, sizeof(address)) < 0) {
        close(fd);
        fd = -1;
    }
    return fd;
}

static int listen_at(int family, const void *address, socklen_t length, int *ret_fd,
                     struct error *err)
{
    const int one = 1;
    FD_OWNED int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return fail_os(err, errno, "making a socket");
    }
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (bind(fd, address, length) < 0 || listen(fd, 8) < 0) {
        return fail_os(err, errno, "listening for the function's program");
    }
    *ret_fd = fd_take(&fd);
    return 0;
}

static int listen_all(int *ret_tcp, int *ret_local, struct error *err)
{
    const struct sockaddr_in loopback = {.sin_family = AF_INET,
                                         .sin_port = htons(HOST_PORT),
                                         .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    const struct sockaddr_un local = local_address();
    struct error ignored = {0};
    mkdir("/run/blixard", 0755);
    unlink(HOST_SOCKET);
    network_lo_up(&ignored); /* it is up in most machines */
    int r = listen_at(AF_UNIX, &local, sizeof(local), ret_local, err);
    return r < 0 ? r : listen_at(AF_INET, &loopback, sizeof(loopback), ret_tcp, err);
}

/* What a handler writes goes elsewhere; not being able to is no reason to fail. */
static void protect_code(void)
{
    if (mount(TASK, TASK, NULL, MS_BIND, NULL) == 0) {
        mount(NULL, TASK, NULL, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NODEV | MS_NOSUID, NULL);
    }
}

static int read_whole(int fd, void *bytes, size_t length, uint64_t deadline_ms, struct error *err)
{
    uint8_t *at = bytes;
    while (length > 0) {
        struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
        uint64_t now = now_ms();
        int left = deadline_ms == 0 ? -1 : now < deadline_ms ? (int)(deadline_ms - now) : 0;
        if (poll(&poll_fd, 1, left) == 0) {
            return error_set(err, ERROR_TIMEOUT,
                             "the program has not asked for its first invocation in time");
        }
        ssize_t got = read(fd, at, length);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            return error_set(err, ERROR_UNAVAILABLE, "the function's host has ended");
        }
        at += got;
        length -= (size_t)got;
    }
    return 0;
}

/* Pass on what the host says, up to its last word. */
static int relay(struct work *work, int fd, uint64_t deadline_ms, struct buffer *answer,
                 struct error *err)
{
    for (;;) {
        uint8_t head[5] = {0};
        BUFFER_OWNED struct buffer body = {0};
        int r = read_whole(fd, head, sizeof(head), deadline_ms, err);
        uint32_t length = (uint32_t)head[1] | (uint32_t)head[2] << 8 | (uint32_t)head[3] << 16 |
            (uint32_t)head[4] << 24;
        if (r == 0 && length > HOST_PIECE_MAX) {
            r = error_set(err, ERROR_PROTOCOL, "the function's host makes no sense");
        }
        r = r < 0 ? r : read_whole(fd, buffer_reserve(&body, length + 1), length, deadline_ms, err);
        if (r < 0) {
            return r;
        }
        body.used = length;
        if (head[0] == HOST_SAYS_ENDED) {
            return error_set(err, ERROR_UNAVAILABLE, "%s", buffer_string(&body));
        }
        if (head[0] == HOST_SAYS_STREAM) {
            BUFFER_OWNED struct buffer note = {0};
            agent_put_bytes(&note, AGENT_CONTENT_TYPE, body.data, length);
            work_note(work, &note);
            continue;
        }
        if (head[0] == HOST_SAYS_BROKEN) {
            agent_put_number(answer, AGENT_STATUS, 500);
            agent_put_bytes(answer, AGENT_BYTES, body.data, length);
            return 0;
        }
        int to = head[0] == HOST_SAYS_LOG ? STDERR_FILENO : work->out;
        if (length > 0 && file_write_all(to, body.data, length) < 0) {
            return fail_os(err, errno, "sending it");
        }
        if (head[0] != HOST_SAYS_LOG && head[0] != HOST_SAYS_PIECE) {
            agent_put_number(answer, AGENT_STATUS, head[0] == HOST_SAYS_ERROR ? 500 : 200);
            return 0;
        }
    }
}

int function_begin(struct work *work, struct buffer *answer, struct error *err)
{
    uint64_t timeout_ms = request_number(work->request, AGENT_TIMEOUT_MS, 60000);
    FD_OWNED int there = connect_local();
    if (there >= 0) {
        return error_set(err, ERROR_CONFLICT, "the machine has a function already");
    }
    FD_OWNED int tcp = -1;
    FD_OWNED int local = -1;
    int ends[2];
    int r = outside_begin(work->request, err); /* first: its process is to hold none of ours */
    r = r < 0 ? r : listen_all(&tcp, &local, err);
    if (r < 0) {
        return r;
    }
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0) {
        return fail_os(err, errno, "making a socket");
    }
    protect_code();
    pid_t pid = fork();
    if (pid == 0) {
        close(ends[0]);
        host_run(tcp, local, ends[1], work->request);
    }
    int number = errno;
    close(ends[1]);
    FD_OWNED int host = ends[0];
    if (pid < 0) {
        return fail_os(err, number, "making a process");
    }
    r = relay(work, host, now_ms() + (timeout_ms < 900000 ? timeout_ms : 900000), answer, err);
    if (r < 0) {
        kill(-pid, SIGKILL);
    } else {
        outside_note_begun();
    }
    return r;
}

/* ---- Invoking ---- */

static int read_payload(int in, struct buffer *payload, struct error *err)
{
    enum { STEP = 65536 };
    for (;;) {
        ssize_t got = read(in, buffer_reserve(payload, STEP), STEP);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            return got == 0 ? 0 : fail_os(err, errno, "receiving the payload");
        }
        payload->used += (size_t)got;
        if (payload->used > HOST_PIECE_MAX) {
            return error_set(err, ERROR_TOO_LARGE, "a payload has at most %d MiB",
                             HOST_PIECE_MAX >> 20);
        }
    }
}

int function_invoke(struct work *work, struct buffer *answer, struct error *err)
{
    BUFFER_OWNED struct buffer payload = {0};
    BUFFER_OWNED struct buffer head = {0};
    int r = read_payload(work->in, &payload, err);
    if (r < 0) {
        return r;
    }
    FD_OWNED int fd = connect_local();
    if (fd < 0) {
        return fail_os(err, errno, "the function's host");
    }
    /* The fields as they came (they were checked), then the payload; each behind its length. */
    buffer_append_u32(&head, (uint32_t)work->request.left);
    buffer_append(&head, work->request.at, work->request.left);
    buffer_append_u32(&head, (uint32_t)payload.used);
    if (file_write_all(fd, head.data, head.used) < 0 ||
        (payload.used > 0 && file_write_all(fd, payload.data, payload.used) < 0)) {
        return fail_os(err, errno, "asking the function's host");
    }
    return relay(work, fd, 0, answer, err);
}
