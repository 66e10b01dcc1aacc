/*
 * Servers and connections on one loop.
 *
 * A connection holds at most one exchange; the next request is parsed when the answer of this one
 * has ended and its body is off the wire, so pipelined answers keep their order by construction.
 * Time limits are looked at by one timer per server: a connection's deadline is a number.
 */
#include <arpa/inet.h>
#include <errno.h>
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
#include "base/loop/loop.h"
#include "base/map.h"
#include "base/memory.h"

enum { READ_STEP = 65536, IN_HIGH = 131072, DRAIN_MAX = 262144, TICK_MS = 250, LINGER_MS = 2000 };

/* A peer that will say no more gets what is ready in this time; then it counts as gone. */
enum { EOF_MS = 1000 };

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

/* Addresses this process listens on: several of its loops may share one, another process may not.
 */
static pthread_mutex_t bound_lock = PTHREAD_MUTEX_INITIALIZER;
static struct map bound_addresses; /* text -> how often + 1 */

struct http_server_options http_server_defaults(void)
{
    return (struct http_server_options){
        .head_bytes_max = 65536,
        .field_count_max = 100,
        .target_bytes_max = 8192,
        .body_bytes_max = UINT64_C(64) << 20,
        .connections_max = 10000,
        .head_timeout_ms = 10000,
        .idle_timeout_ms = 75000,
        .body_timeout_ms = 30000,
        .write_timeout_ms = 30000,
        .write_bytes_high = 262144,
    };
}

/* ---- Ending a connection ---- */

static void drop_handle(struct http_server *server);

static void on_connection_closed(uv_handle_t *handle)
{
    struct connection *connection = handle->data;
    struct http_server *server = connection->server;
    list_remove(&connection->link);
    buffer_done(&connection->in);
    buffer_done(&connection->out);
    buffer_done(&connection->writing);
    if (connection->spare != NULL) {
        connection->spare->references = 1;
        exchange_release(connection->spare);
    }
    free(connection);
    server->counters.connections_open--;
    drop_handle(server);
}

void connection_close(struct connection *connection)
{
    if (connection->closing) {
        return;
    }
    connection->closing = true;
    struct http_exchange *exchange = connection->exchange;
    connection->exchange = NULL;
    bool must_reset = false;
    if (exchange != NULL) {
        /* Where only the end of the connection ends the answer, an orderly end would be a lie. */
        must_reset = exchange->begun && exchange->until_close && !exchange->ended;
        exchange_lose(exchange);
        exchange_release(exchange);
    }
    if (!must_reset || connection->uv.handle.type != UV_TCP ||
        uv_tcp_close_reset(&connection->uv.tcp, on_connection_closed) < 0) {
        uv_close(&connection->uv.handle, on_connection_closed);
    }
}

/* ---- Writing ---- */

size_t connection_waiting(const struct connection *connection)
{
    return connection->out.used + connection->writing.used;
}

static void on_written(uv_write_t *write, int status)
{
    struct connection *connection = write->data;
    connection->write_runs = false;
    connection->writing.used = 0;
    connection->write_progress_ms = loop_now_ms(connection->server->loop);
    connection->silent_since_ms = connection->write_progress_ms;
    if (connection->closing) {
        return;
    }
    if (status < 0) {
        connection_close(connection);
        return;
    }
    connection_flush(connection);
    if (connection->closing) {
        return;
    }
    struct http_exchange *exchange = connection->exchange;
    if (exchange != NULL && exchange->wants_drain && !exchange->ended &&
        connection_waiting(connection) <= connection->server->options.write_bytes_high / 2) {
        exchange->wants_drain = false;
        if (exchange->on_drain != NULL) {
            exchange->on_drain(exchange->context);
            return;
        }
    }
    connection_process(connection);
}

void connection_flush(struct connection *connection)
{
    if (connection->write_runs || connection->out.used == 0 || connection->closing) {
        return;
    }
    struct http_server *server = connection->server;
    uv_buf_t bytes = uv_buf_init((char *)connection->out.data, (unsigned)connection->out.used);
    int wrote = uv_try_write(&connection->uv.stream, &bytes, 1);
    if (wrote < 0 && wrote != UV_EAGAIN) {
        connection_close(connection);
        return;
    }
    if (wrote > 0) {
        server->counters.bytes_out += (uint64_t)wrote;
        buffer_consume(&connection->out, (size_t)wrote);
        connection->silent_since_ms = loop_now_ms(server->loop);
    }
    if (connection->out.used == 0) {
        return;
    }
    struct buffer rest = connection->out;
    connection->out = connection->writing;
    connection->out.used = 0;
    connection->writing = rest;
    bytes = uv_buf_init((char *)rest.data, (unsigned)rest.used);
    connection->write.data = connection;
    connection->write_runs = true;
    connection->write_progress_ms = loop_now_ms(server->loop);
    connection->write_left = rest.used;
    server->counters.bytes_out += rest.used;
    if (uv_write(&connection->write, &connection->uv.stream, &bytes, 1, on_written) < 0) {
        connection->write_runs = false;
        connection_close(connection);
    }
}

/* ---- Requests ---- */

static void set_wait(struct connection *connection, int wait, uint64_t limit_ms)
{
    connection->wait = wait;
    connection->deadline_ms = limit_ms > 0 ? loop_now_ms(connection->server->loop) + limit_ms : 0;
}

/* A request that cannot be: told, and the connection ended by connection_process(). */
static void refuse(struct connection *connection, int status)
{
    struct http_server *server = connection->server;
    server->counters.requests_refused++;
    connection->close_after = true;
    buffer_append_format(&connection->out,
                         "HTTP/1.1 %d %s\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", status,
                         http_status_text(status));
    connection->in.used = 0;
    connection->is_cut = true;
    set_wait(connection, WAIT_NOTHING, server->options.write_timeout_ms);
}

static void describe_peer(const struct connection *connection, char *ret_text, size_t size)
{
    struct sockaddr_storage address;
    int length = sizeof(address);
    char host[INET6_ADDRSTRLEN] = "";
    snprintf(ret_text, size, "unix");
    if (connection->uv.handle.type != UV_TCP ||
        uv_tcp_getpeername(&connection->uv.tcp, (struct sockaddr *)&address, &length) < 0) {
        return;
    }
    if (address.ss_family == AF_INET) {
        const struct sockaddr_in *v4 = (const struct sockaddr_in *)&address;
        inet_ntop(AF_INET, &v4->sin_addr, host, sizeof(host));
        snprintf(ret_text, size, "%s:%u", host, ntohs(v4->sin_port));
    } else {
        const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)&address;
        inet_ntop(AF_INET6, &v6->sin6_addr, host, sizeof(host));
        snprintf(ret_text, size, "[%s]:%u", host, ntohs(v6->sin6_port));
    }
}

/* One head, when it is whole.  True: something was done. */
static bool take_head(struct connection *connection)
{
    struct http_server *server = connection->server;
    const struct http_server_options *options = &server->options;
    if (connection_waiting(connection) > options->write_bytes_high) {
        set_wait(connection, WAIT_NOTHING, 0); /* first it reads what it asked for */
        return false;
    }
    if (connection->in.used == 0) {
        if (connection->wait != WAIT_IDLE) {
            set_wait(connection, WAIT_IDLE, options->idle_timeout_ms);
        }
        return false;
    }
    if (connection->wait != WAIT_HEAD) {
        set_wait(connection, WAIT_HEAD, options->head_timeout_ms);
    }
    const struct parse_limits limits = {options->head_bytes_max, options->field_count_max,
                                        options->target_bytes_max};
    long length = parse_request(connection->in.data, connection->in.used, &limits, &server->head);
    if (length == 0) {
        return false;
    }
    if (length < 0) {
        refuse(connection, (int)-length);
        return false;
    }
    server->counters.requests++;
    connection->requests++;
    struct http_exchange *exchange = exchange_new(server, connection->spare);
    connection->spare = NULL;
    exchange->carrier = &h1_carrier;
    exchange->connection = connection;
    exchange_take_head(exchange, &server->head, connection->in.data, (size_t)length);
    describe_peer(connection, exchange->peer, sizeof(exchange->peer));
    buffer_consume(&connection->in, (size_t)length);
    connection->close_after = server->draining || server->head.wants_close ||
        (exchange->minor == 0 && !server->head.wants_keep_alive) ||
        (options->requests_per_connection_max > 0 &&
         connection->requests >= options->requests_per_connection_max);
    connection->exchange = exchange;
    set_wait(connection, WAIT_NOTHING, 0);
    server->handler(exchange, server->context);
    return !connection->closing;
}

/* The answer is out and the request's body is off the wire: the exchange is over. */
static bool finish_exchange(struct connection *connection)
{
    struct http_exchange *exchange = connection->exchange;
    bool too_much = !exchange->body_done && exchange->body_taken > DRAIN_MAX;
    if (!exchange->ended || (!exchange->body_done && !connection->close_after && !too_much)) {
        return false;
    }
    if (!exchange->body_done) {
        exchange_end_body(exchange);
    }
    set_wait(connection, WAIT_NOTHING, 0);
    connection->exchange = NULL;
    exchange_part(exchange);
    buffer_done(&exchange->whole);
    if (!exchange->body_told && exchange->reading) {
        exchange_fail_body(exchange, ERROR_CANCELLED, "the answer has ended");
    }
    if (exchange->references == 1 && connection->spare == NULL && !connection->closing) {
        connection->spare = exchange; /* used again for the next request */
    } else {
        exchange_release(exchange);
    }
    return true;
}

static void on_read(uv_stream_t *stream, ssize_t got, const uv_buf_t *buffer);
static void on_allocate(uv_handle_t *handle, size_t suggested, uv_buf_t *ret_buffer);

/* Read while there is somebody to take it; stop when it piles up. */
static void watch_input(struct connection *connection)
{
    size_t head_bytes_max = connection->server->options.head_bytes_max;
    size_t high = head_bytes_max < IN_HIGH ? IN_HIGH : head_bytes_max + READ_STEP;
    bool wanted = !connection->at_eof && (connection->lingering || connection->in.used < high);
    if (wanted == connection->reading || connection->closing) {
        return;
    }
    connection->reading = wanted;
    if (wanted) {
        uv_read_start(&connection->uv.stream, on_allocate, on_read);
    } else {
        uv_read_stop(&connection->uv.stream);
    }
}

static void watch_body(struct connection *connection)
{
    const struct http_exchange *exchange = connection->exchange;
    bool waits = exchange != NULL && !exchange->body_done && !exchange->paused &&
        (exchange->reading || exchange->ended) && connection->in.used == 0;
    if (waits && connection->wait != WAIT_BODY) {
        set_wait(connection, WAIT_BODY, connection->server->options.body_timeout_ms);
    } else if (!waits && connection->wait == WAIT_BODY) {
        set_wait(connection, WAIT_NOTHING, 0);
    }
}

/*
 * All is said.  Closing while the peer still sends would have its kernel reset the connection and
 * lose our answer: half-close, then drop what comes (RFC 9112, 9.6).
 */
static void end_connection(struct connection *connection)
{
    if (!connection->is_cut && connection->in.used == 0) {
        connection_close(connection);
        return;
    }
    connection->lingering = true;
    connection->in.used = 0;
    set_wait(connection, WAIT_NOTHING, LINGER_MS);
    if (uv_shutdown(&connection->shutdown, &connection->uv.stream, NULL) < 0) {
        connection_close(connection);
        return;
    }
    watch_input(connection);
}

/* At the end of what the peer said: the rest of a request that is none will not come. */
static bool is_worth_finishing(struct connection *connection)
{
    if (connection->exchange == NULL) {
        connection->in.used = 0;
        connection->close_after = true;
    } else if (!connection->exchange->body_done && connection->in.used == 0) {
        connection_close(connection);
    }
    return !connection->closing;
}

void connection_process(struct connection *connection)
{
    if (connection->processing || connection->closing || connection->lingering) {
        return; /* the loop below goes on */
    }
    connection->processing = true;
    bool progress = true;
    while (progress && !connection->closing) {
        if (connection->exchange != NULL) {
            h1_feed(connection->exchange);
            progress =
                !connection->closing && connection->exchange != NULL && finish_exchange(connection);
        } else if (connection->close_after) {
            break;
        } else {
            progress = take_head(connection);
        }
    }
    connection->processing = false;
    if (connection->closing) {
        return;
    }
    connection_flush(connection);
    if (connection->closing) {
        return;
    }
    if (connection->exchange == NULL && connection->server->draining && connection->in.used == 0) {
        connection->close_after = true;
    }
    if (connection->at_eof && !is_worth_finishing(connection)) {
        return;
    }
    if (connection->exchange == NULL && connection->close_after) {
        if (connection_waiting(connection) == 0) {
            end_connection(connection);
        }
        return;
    }
    watch_body(connection);
    watch_input(connection);
}

/* ---- Reading ---- */

static void on_allocate(uv_handle_t *handle, size_t suggested, uv_buf_t *ret_buffer)
{
    struct connection *connection = handle->data;
    (void)suggested;
    *ret_buffer = uv_buf_init((char *)buffer_reserve(&connection->in, READ_STEP), READ_STEP);
}

static void on_read(uv_stream_t *stream, ssize_t got, const uv_buf_t *buffer)
{
    struct connection *connection = stream->data;
    (void)buffer;
    if (got == 0) {
        return;
    }
    if (got == UV_EOF && !connection->lingering) {
        connection->at_eof = true;
        connection->reading = false;
        connection->silent_since_ms = loop_now_ms(connection->server->loop);
        connection_process(connection);
        return;
    }
    if (got < 0) {
        connection_close(connection);
        return;
    }
    connection->in.used = connection->lingering ? 0 : connection->in.used + (size_t)got;
    connection->server->counters.bytes_in += (uint64_t)got;
    if (connection->wait == WAIT_BODY) {
        set_wait(connection, WAIT_BODY, connection->server->options.body_timeout_ms);
    }
    connection_process(connection);
}

/* ---- Time ---- */

static void on_late(struct connection *connection)
{
    struct http_exchange *exchange = connection->exchange;
    switch (connection->wait) {
    case WAIT_HEAD:
        refuse(connection, 408);
        connection_process(connection);
        return;
    case WAIT_BODY:
        exchange_end_body(exchange);
        connection->processing = true; /* what is lent to the reader stays while it is told */
        exchange_fail_body(exchange, ERROR_TIMEOUT, "the request's body came too slowly");
        connection->processing = false;
        connection_process(connection);
        return;
    case WAIT_IDLE:
    case WAIT_NOTHING:
        connection_close(connection);
        return;
    }
}

static void on_tick(void *context)
{
    struct http_server *server = context;
    uint64_t now_ms = loop_now_ms(server->loop);
    LIST_EACH(node, &server->connections)
    {
        struct connection *connection = LIST_ITEM(node, struct connection, link);
        size_t write_left = uv_stream_get_write_queue_size(&connection->uv.stream);
        if (write_left != connection->write_left) {
            connection->write_left = write_left;
            connection->write_progress_ms = now_ms;
        }
        bool stuck = connection->write_runs &&
            now_ms - connection->write_progress_ms > server->options.write_timeout_ms;
        if (connection->closing) {
            continue;
        }
        bool gone = connection->at_eof && connection_waiting(connection) == 0 &&
            now_ms - connection->silent_since_ms > EOF_MS;
        if (stuck || gone) {
            connection_close(connection);
        } else if (connection->deadline_ms != 0 && now_ms >= connection->deadline_ms) {
            connection->deadline_ms = 0;
            on_late(connection);
        }
    }
    if (server->freed) {
        return; /* by one of those told just now */
    }
    if (server->draining && server->drained != NULL && now_ms >= server->drain_deadline_ms) {
        LIST_EACH(node, &server->connections)
        {
            connection_close(LIST_ITEM(node, struct connection, link));
        }
    }
    uint64_t every = TICK_MS;
    const uint64_t limits[] = {server->options.head_timeout_ms, server->options.body_timeout_ms,
                               server->options.idle_timeout_ms, server->options.write_timeout_ms};
    for (size_t i = 0; i < sizeof(limits) / sizeof(limits[0]); i++) {
        every = limits[i] / 4 + 1 < every ? limits[i] / 4 + 1 : every;
    }
    loop_timer_start(server->tick, every);
}

/* ---- Listening ---- */

static void on_connect(uv_stream_t *stream, int status)
{
    struct listener *listener = stream->data;
    struct http_server *server = listener->server;
    if (status < 0) {
        return;
    }
    struct connection *connection = NEW(struct connection);
    connection->server = server;
    connection->wait = WAIT_NOTHING;
    if (stream->type == UV_TCP) {
        uv_tcp_init(loop_uv(server->loop), &connection->uv.tcp);
    } else {
        uv_pipe_init(loop_uv(server->loop), &connection->uv.pipe, 0);
    }
    connection->uv.handle.data = connection;
    list_push_back(&server->connections, &connection->link);
    server->handles++;
    server->counters.connections_accepted++;
    server->counters.connections_open++;
    if (uv_accept(stream, &connection->uv.stream) < 0) {
        connection_close(connection);
        return;
    }
    if (stream->type == UV_TCP) {
        uv_tcp_nodelay(&connection->uv.tcp, 1);
    }
    if (server->counters.connections_open > server->options.connections_max || server->draining) {
        refuse(connection, 503);
        connection->is_cut = false; /* beyond the limit nobody lingers */
    }
    connection_process(connection);
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
    drop_handle(server);
}

static void close_listeners(struct http_server *server)
{
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
static int probe_tcp(const char *text, const struct http_address *address, struct error *err)
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

static int bind_tcp(struct listener *listener, const char *text, const struct http_address *address,
                    struct error *err)
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
                     const struct http_address *address, struct error *err)
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
    struct http_address parsed;
    int r = http_address_parse(address, &parsed, err);
    if (r < 0) {
        return r;
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

/* ---- Life ---- */

int http_server_new(struct loop *loop, const struct http_server_options *options,
                    http_handler handler, void *context, struct http_server **ret_server,
                    struct error *err)
{
    (void)err;
    struct http_server *server = NEW(struct http_server);
    server->loop = loop;
    server->options = *options;
    server->handler = handler;
    server->context = context;
    list_init(&server->listeners);
    list_init(&server->connections);
    server->tick = loop_timer_new(loop, on_tick, server);
    on_tick(server);
    *ret_server = server;
    return 0;
}

/* A handle of the server's is gone: perhaps it was the last.  `drained` may free the server. */
static void drop_handle(struct http_server *server)
{
    if (server->handles == 1 && server->draining && server->drained != NULL) {
        void (*drained)(void *context) = server->drained;
        server->drained = NULL;
        drained(server->drained_context);
    }
    server->handles--;
    if (server->freed && server->handles == 0) {
        free(server);
    }
}

static void on_drain_post(void *argument)
{
    struct http_server *server = argument;
    drop_handle(server);
}

void http_server_drain(struct http_server *server, uint64_t timeout_ms,
                       void (*drained)(void *context), void *context)
{
    CHECK(!server->draining);
    server->draining = true;
    server->drained = drained;
    server->drained_context = context;
    server->drain_deadline_ms = loop_now_ms(server->loop) + timeout_ms;
    close_listeners(server);
    LIST_EACH(node, &server->connections)
    {
        struct connection *connection = LIST_ITEM(node, struct connection, link);
        if (connection->exchange == NULL && connection_waiting(connection) == 0) {
            connection_close(connection);
        } else if (connection->exchange == NULL || !connection->exchange->begun) {
            connection->close_after = true;
        }
    }
    server->handles++; /* the post's */
    loop_post(server->loop, on_drain_post, server);
}

void http_server_free(struct http_server *server)
{
    if (server == NULL) {
        return;
    }
    server->drained = NULL;
    server->freed = true;
    server->handles++; /* until we are through */
    close_listeners(server);
    LIST_EACH(node, &server->connections)
    {
        connection_close(LIST_ITEM(node, struct connection, link));
    }
    loop_timer_free(server->tick);
    server->tick = NULL;
    drop_handle(server);
}

void http_server_counters(const struct http_server *server, struct http_server_counters *ret)
{
    *ret = server->counters;
}
