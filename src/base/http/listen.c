/*
 * Where a server listens: TCP and unix sockets in the clear, and TLS by base/stream.
 */
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/check.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/http/connection.h"
#include "base/http/mux.h"
#include "base/loop/loop.h"
#include "base/map.h"
#include "base/memory.h"

struct listener {
    struct list_node link;
    struct http_server *server;
    union {
        uv_handle_t handle;
        uv_stream_t stream;
        uv_tcp_t tcp;
        uv_pipe_t pipe;
    } uv;
    char *path;  /* of a unix socket, to remove */
    char *bound; /* key in bound_addresses */
};

/* With TLS: what the peers speak is known once they have shaken hands. */
struct secure_listener {
    struct list_node link;
    struct http_server *server;
    struct stream_listener *listener;
    char *others;
    void (*on_other)(struct stream *owned_stream, void *context);
    void *context;
};

/* Addresses this process listens on: several of its loops may share one, another process may not.
 */
static pthread_mutex_t bound_lock = PTHREAD_MUTEX_INITIALIZER;
static struct map bound_addresses; /* text -> how often + 1 */

static void on_connect(uv_stream_t *stream, int status)
{
    const struct listener *listener = stream->data;
    if (status == 0) {
        connection_accept(listener->server, stream);
    }
}

static void on_listener_closed(uv_handle_t *handle)
{
    struct listener *listener = handle->data;
    struct http_server *server = listener->server;
    if (listener->bound != NULL) {
        pthread_mutex_lock(&bound_lock);
        uintptr_t count = (uintptr_t)map_remove(&bound_addresses, listener->bound);
        if (count > 1) {
            map_set(&bound_addresses, listener->bound, (void *)(count - 1));
        }
        pthread_mutex_unlock(&bound_lock);
    }
    free(listener->bound);
    free(listener->path);
    free(listener);
    server_release(server);
}

static void close_secure(struct secure_listener *listener)
{
    list_remove(&listener->link);
    stream_listener_close(listener->listener);
    free(listener->others);
    free(listener);
}

void server_close_listeners(struct http_server *server)
{
    LIST_EACH(node, &server->secure_listeners)
    {
        close_secure(LIST_ITEM(node, struct secure_listener, link));
    }
    LIST_EACH(node, &server->listeners)
    {
        struct listener *listener = LIST_ITEM(node, struct listener, link);
        list_remove(node);
        if (listener->path != NULL) {
            unlink(listener->path);
        }
        uv_close(&listener->uv.handle, on_listener_closed);
    }
}

static int in_use(const char *address, struct error *err)
{
    return error_set(err, ERROR_EXISTS,
                     "%s is in use by another process: stop it, or choose another address",
                     address);
}

/* Would another process's socket be in the way?  SO_REUSEPORT hides that. */
static int probe_tcp(const char *text, const struct stream_address *address, struct error *err)
{
    const int on = 1;
    socklen_t length = address->socket.ss_family == AF_INET ? sizeof(struct sockaddr_in)
                                                            : sizeof(struct sockaddr_in6);
    FD_OWNED int fd = socket(address->socket.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return error_os(err, errno, "listening on %s", text);
    }
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (bind(fd, (const struct sockaddr *)&address->socket, length) < 0) {
        return errno == EADDRINUSE ? in_use(text, err)
                                   : error_os(err, errno, "listening on %s", text);
    }
    return 0;
}

static uint16_t bound_port(const struct listener *listener)
{
    struct sockaddr_storage socket;
    int length = sizeof(socket);
    if (uv_tcp_getsockname(&listener->uv.tcp, (struct sockaddr *)&socket, &length) < 0) {
        return 0;
    }
    return ntohs(socket.ss_family == AF_INET ? ((struct sockaddr_in *)&socket)->sin_port
                                             : ((struct sockaddr_in6 *)&socket)->sin6_port);
}

static int bind_tcp(struct listener *listener, const char *text,
                    const struct stream_address *address, struct error *err)
{
    const int on = 1;
    int fd = -1;
    pthread_mutex_lock(&bound_lock);
    bool is_ours = map_get(&bound_addresses, text) != NULL;
    pthread_mutex_unlock(&bound_lock);
    int r = is_ours ? 0 : probe_tcp(text, address, err);
    if (r < 0) {
        return r;
    }
    if (uv_fileno(&listener->uv.handle, &fd) < 0 ||
        setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on)) < 0) {
        return error_os(err, errno, "listening on %s", text);
    }
    r = uv_tcp_bind(&listener->uv.tcp, (const struct sockaddr *)&address->socket, 0);
    if (r == 0) {
        r = uv_listen(&listener->uv.stream, 1024, on_connect);
    }
    if (r < 0) {
        return r == UV_EADDRINUSE ? in_use(text, err) : error_os(err, -r, "listening on %s", text);
    }
    pthread_mutex_lock(&bound_lock);
    uintptr_t count = (uintptr_t)map_get(&bound_addresses, text);
    map_set(&bound_addresses, text, (void *)(count + 1));
    pthread_mutex_unlock(&bound_lock);
    listener->bound = memory_copy_string(text);
    return 0;
}

/* A socket file that nobody answers on is left over; one that answers is somebody's. */
static int clear_path(const char *path, const char *text, struct error *err)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct stat status;
    snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
    if (lstat(path, &status) < 0) {
        return 0;
    }
    if (!S_ISSOCK(status.st_mode)) {
        return error_set(err, ERROR_EXISTS, "%s exists and is not a socket", path);
    }
    FD_OWNED int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0) {
        return in_use(text, err);
    }
    return unlink(path) < 0 ? error_os(err, errno, "removing %s", path) : 0;
}

/*
 * The file is born with the mode of the socket: nobody else can connect, not even for a moment, and
 * the mask of the process, which other threads make files with, is left alone.  -1 with errno.
 */
static int socket_bound_to(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd >= 0 &&
        (fchmod(fd, 0600) < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0)) {
        int saved = errno;
        fd_close_slot(&fd);
        errno = saved;
    }
    return fd;
}

static int bind_unix(struct listener *listener, const char *text,
                     const struct stream_address *address, struct error *err)
{
    int r = clear_path(address->path, text, err);
    if (r < 0) {
        return r;
    }
    int fd = socket_bound_to(address->path);
    if (fd < 0) {
        return error_os(err, errno, "listening on %s", text);
    }
    listener->path = memory_copy_string(address->path);
    r = uv_pipe_open(&listener->uv.pipe, fd);
    if (r < 0) {
        close(fd);
    } else {
        r = uv_listen(&listener->uv.stream, 1024, on_connect);
    }
    return r < 0 ? error_os(err, -r, "listening on %s", text) : 0;
}

int http_server_listen(struct http_server *server, const char *address, uint16_t *ret_port,
                       struct error *err)
{
    struct stream_address parsed;
    int r = stream_address_parse(address, &parsed, err);
    if (r < 0) {
        return r;
    }
    if (!parsed.is_unix && parsed.socket.ss_family == 0) {
        return error_set(err, ERROR_INVALID, "\"%s\" is not an IP address (nor localhost)",
                         parsed.host);
    }
    struct listener *listener = NEW(struct listener);
    listener->server = server;
    if (parsed.is_unix) {
        uv_pipe_init(loop_uv(server->loop), &listener->uv.pipe, 0);
    } else {
        uv_tcp_init_ex(loop_uv(server->loop), &listener->uv.tcp, parsed.socket.ss_family);
    }
    listener->uv.handle.data = listener;
    server->handles++;
    r = parsed.is_unix ? bind_unix(listener, address, &parsed, err)
                       : bind_tcp(listener, address, &parsed, err);
    if (r < 0) {
        uv_close(&listener->uv.handle, on_listener_closed);
        return r;
    }
    list_push_back(&server->listeners, &listener->link);
    if (ret_port != NULL) {
        *ret_port = parsed.is_unix ? 0 : bound_port(listener);
    }
    return 0;
}

/* ---- With TLS ---- */

static bool is_one_of(const char *name, const char *list)
{
    size_t length = strlen(name);
    for (const char *at = list; at != NULL && length > 0; at = strchr(at, ' ')) {
        at += *at == ' ';
        if (strncmp(at, name, length) == 0 && (at[length] == ' ' || at[length] == '\0')) {
            return true;
        }
    }
    return false;
}

static void on_stream(struct stream *stream, void *context)
{
    struct secure_listener *listener = context;
    if (is_one_of(stream_protocol(stream), listener->others)) {
        listener->on_other(stream, listener->context);
    } else {
        connection_adopt(listener->server, stream); /* or none was asked for: HTTP/1.1 */
    }
}

int http_server_listen_tls(struct http_server *server, const char *address, struct tls_context *tls,
                           const char *others,
                           void (*on_other)(struct stream *owned_stream, void *context),
                           void *context, uint16_t *ret_port, struct error *err)
{
    CHECK(tls != NULL && (others == NULL || on_other != NULL));
    struct secure_listener *listener = NEW(struct secure_listener);
    *listener =
        (struct secure_listener){.server = server, .on_other = on_other, .context = context};
    listener->others = others != NULL ? memory_copy_string(others) : NULL;
    MEMORY_OWNED char *protocols =
        memory_format("%sh2 http/1.1%s%s", server->options.is_for_nodes ? MUX_PROTOCOL " " : "",
                      others != NULL ? " " : "", others != NULL ? others : "");
    int r = stream_listen(server->loop, address, tls, protocols, on_stream, listener,
                          &listener->listener, ret_port, err);
    if (r < 0) {
        free(listener->others);
        free(listener);
        return r;
    }
    list_push_back(&server->secure_listeners, &listener->link);
    return 0;
}
