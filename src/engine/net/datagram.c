/* UDP sockets of a bridge: see datagram.h. */
#include "engine/net/datagram.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/check.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/loop/loop.h"
#include "base/memory.h"

struct datagram_watch {
    uv_poll_t poll;
    int fd;
    void (*readable)(int fd, void *context);
    void *context;
};

int datagram_bind(const char *bridge, uint32_t address, uint16_t port, int *ret_fd,
                  struct error *err)
{
    const int yes = 1;
    const struct sockaddr_in at = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(address)};
    FD_OWNED int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0 ||
        setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, bridge, (socklen_t)strlen(bridge)) < 0 ||
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes)) < 0 ||
        setsockopt(fd, SOL_SOCKET, SO_BROADCAST, &yes, sizeof(yes)) < 0) {
        return error_os(err, errno, "a socket of the bridge %s", bridge);
    }
    if (bind(fd, (const struct sockaddr *)&at, sizeof(at)) < 0) {
        return errno == EADDRINUSE
            ? error_set(err, ERROR_UNAVAILABLE,
                        "UDP port %u of the bridge %s is in use by another program", port, bridge)
            : error_os(err, errno, "taking UDP port %u of the bridge %s", port, bridge);
    }
    *ret_fd = fd_take(&fd);
    return 0;
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
    struct datagram_watch *watch = poll->data;
    (void)status; /* an error of the socket is read from it */
    (void)events;
    watch->readable(watch->fd, watch->context);
}

struct datagram_watch *datagram_watch(struct loop *loop, int owned_fd,
                                      void (*readable)(int fd, void *context), void *context)
{
    struct datagram_watch *watch = NEW(struct datagram_watch);
    watch->fd = owned_fd;
    watch->readable = readable;
    watch->context = context;
    watch->poll.data = watch;
    CHECK(uv_poll_init(loop_uv(loop), &watch->poll, owned_fd) == 0);
    CHECK(uv_poll_start(&watch->poll, UV_READABLE, on_poll) == 0);
    return watch;
}

int datagram_fd(const struct datagram_watch *watch)
{
    return watch->fd;
}

static void on_closed(uv_handle_t *handle)
{
    struct datagram_watch *watch = handle->data;
    close(watch->fd);
    free(watch);
}

void datagram_unwatch(struct datagram_watch *watch)
{
    if (watch != NULL) {
        uv_poll_stop(&watch->poll);
        uv_close((uv_handle_t *)&watch->poll, on_closed);
    }
}
