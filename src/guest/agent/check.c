/* Does a service serve?  Asked from inside, where no network is in between. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"

#include "guest/agent/private.h"

/* A line of /proc/net/tcp: "0: 0100007F:1F90 00000000:0000 0A ..."; 0A is TCP_LISTEN.  Those that
 * listen come first, and behind them there may be any number of others. */
static bool listens_in(const char *path, unsigned port)
{
    char line[256];
    bool listens = false;
    FILE *file = fopen(path, "re");
    while (file != NULL && !listens && fgets(line, sizeof(line), file) != NULL) {
        unsigned found = 0;
        unsigned state = 0;
        listens =
            sscanf(line, " %*d: %*[0-9A-Fa-f]:%x %*[0-9A-Fa-f]:%*x %x", &found, &state) == 2 &&
            found == port && state == 10;
    }
    if (file != NULL) {
        fclose(file);
    }
    return listens;
}

static int wait_for(int fd, short events, uint64_t deadline_ms, struct error *err)
{
    struct pollfd poll_fd = {.fd = fd, .events = events};
    uint64_t now = now_ms();
    int r = now < deadline_ms ? poll(&poll_fd, 1, (int)(deadline_ms - now)) : 0;
    return r > 0 ? 0 : error_set(err, ERROR_TIMEOUT, "no answer in time");
}

static int connect_to(const char *address, unsigned port, uint64_t deadline_ms, int *ret_fd,
                      struct error *err)
{
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port)};
    bool is_v4 = inet_pton(AF_INET, address, &v4.sin_addr) == 1;
    if (!is_v4 && inet_pton(AF_INET6, address, &v6.sin6_addr) != 1) {
        return error_set(err, ERROR_INVALID, "\"%s\" is no IP address", address);
    }
    FD_OWNED int fd =
        socket(is_v4 ? AF_INET : AF_INET6, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return fail_os(err, errno, "making a socket");
    }
    int r = connect(fd, is_v4 ? (struct sockaddr *)&v4 : (struct sockaddr *)&v6,
                    is_v4 ? sizeof(v4) : sizeof(v6));
    int number = r < 0 ? errno : 0;
    if (number == EINPROGRESS) {
        socklen_t length = sizeof(number);
        r = wait_for(fd, POLLOUT, deadline_ms, err);
        if (r < 0) {
            return r;
        }
        getsockopt(fd, SOL_SOCKET, SO_ERROR, &number, &length);
    }
    if (number != 0) {
        return fail_plain(err, number);
    }
    *ret_fd = fd_take(&fd);
    return 0;
}

/* The status line is enough. */
static int ask_http(int fd, const char *address, unsigned port, const char *path,
                    uint64_t deadline_ms, unsigned *ret_status, struct error *err)
{
    enum { LINE_MAX_BYTES = 1024 };
    BUFFER_OWNED struct buffer request = {0};
    char line[LINE_MAX_BYTES] = "";
    size_t used = 0;
    bool is_v6 = strchr(address, ':') != NULL;
    buffer_append_format(&request,
                         "GET %s HTTP/1.1\r\nHost: %s%s%s:%u\r\nUser-Agent: blixard-agent\r\n"
                         "Accept: */*\r\nConnection: close\r\n\r\n",
                         path, is_v6 ? "[" : "", address, is_v6 ? "]" : "", port);
    if (send(fd, request.data, request.used, MSG_NOSIGNAL) != (ssize_t)request.used) {
        return fail_os(err, errno, "asking");
    }
    while (used < sizeof(line) - 1 && memchr(line, '\n', used) == NULL) {
        int r = wait_for(fd, POLLIN, deadline_ms, err);
        if (r < 0) {
            return r;
        }
        ssize_t got = recv(fd, line + used, sizeof(line) - 1 - used, 0);
        if (got < 0 && errno != EAGAIN) {
            return fail_os(err, errno, "hearing the answer");
        }
        if (got == 0) {
            break;
        }
        used += got > 0 ? (size_t)got : 0;
    }
    line[used] = '\0';
    if (sscanf(line, "HTTP/%*u.%*u %3u", ret_status) != 1) {
        return error_set(err, ERROR_UNAVAILABLE, "the answer is no HTTP");
    }
    return 0;
}

static bool is_path(const char *path)
{
    if (path[0] != '/') {
        return false;
    }
    for (; *path != '\0'; path++) {
        if ((unsigned char)*path <= ' ' || *path == 0x7f) {
            return false;
        }
    }
    return true;
}

int check_service(struct work *work, struct buffer *answer, struct error *err)
{
    char address[TEXT_MAX];
    char path[TEXT_MAX];
    unsigned status = 0;
    uint64_t kind = request_number(work->request, AGENT_CHECK_KIND, AGENT_CHECK_KINDS);
    uint64_t port = request_number(work->request, AGENT_PORT_NUMBER, 0);
    uint64_t timeout_ms = request_number(work->request, AGENT_TIMEOUT_MS, 5000);
    int r = request_text(work->request, AGENT_ADDRESS, "127.0.0.1", address, err);
    if (r == 0) {
        r = request_text(work->request, AGENT_PATH, "/", path, err);
    }
    if (r == 0 && (kind >= AGENT_CHECK_KINDS || port == 0 || port > UINT16_MAX || !is_path(path))) {
        r = error_set(err, ERROR_INVALID, "a check is of a port from 1 to 65535, and of a path");
    }
    if (r < 0) {
        return r;
    }
    if (kind == AGENT_CHECK_LISTEN) {
        bool listens = listens_in("/proc/net/tcp", (unsigned)port) ||
            listens_in("/proc/net/tcp6", (unsigned)port);
        return listens ? 0 : error_set(err, ERROR_UNAVAILABLE, "nothing listens");
    }
    uint64_t deadline_ms = now_ms() + (timeout_ms < 600000 ? timeout_ms : 600000);
    FD_OWNED int fd = -1;
    r = connect_to(address, (unsigned)port, deadline_ms, &fd, err);
    if (r == 0 && kind == AGENT_CHECK_HTTP) {
        r = ask_http(fd, address, (unsigned)port, path, deadline_ms, &status, err);
        agent_put_number(answer, AGENT_STATUS, status);
    }
    if (r == 0 && kind == AGENT_CHECK_HTTP && (status < 200 || status > 399)) {
        r = error_set(err, ERROR_UNAVAILABLE, "it answers with status %u", status);
    }
    return r;
}
