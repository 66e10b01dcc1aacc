/*
 * A server's connections, and HTTP/1.1 on them.
 *
 * A connection of HTTP/1.1 holds at most one exchange; the next request is parsed when the answer
 * of this one has ended and its body is off the wire, so pipelined answers keep their order by
 * construction. Its bytes travel over a handle of libuv's, read straight into `in` and written from
 * `out` (the product's hot path), or over a stream with TLS.
 */
#include "base/http/connection.h"

#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "base/error.h"
#include "base/http/mux.h"
#include "base/loop/loop.h"
#include "base/memory.h"

enum {
    READ_LEAST = 65536,
    IN_HIGH = 131072,
    DRAIN_MAX = 262144,
    LINGER_MS = 2000,
    LENT_LEAST = 16384
};

/* A peer that will say no more gets what is ready in this time; then it counts as gone. */
enum { EOF_MS = 1000 };

/* ---- Ending a connection ---- */

static void free_connection(void *argument)
{
    struct connection *connection = argument;
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
    server_release(server);
}

static void on_handle_closed(uv_handle_t *handle)
{
    free_connection(handle->data);
}

/* An answer that is not whole must not end as if it were: TLS then hears no notice of the end. */
static void close_stream(struct connection *connection, bool is_orderly)
{
    if (is_orderly && !connection->lingering) {
        stream_shutdown(connection->stream);
    }
    stream_close(connection->stream);
    loop_post(connection->server->loop, free_connection, connection);
}

void connection_close(struct connection *connection)
{
    if (connection->closing) {
        return;
    }
    connection->closing = true;
    struct http_exchange *exchange = connection->exchange;
    bool is_busy = exchange != NULL ||
        (connection->many != NULL && connection->many->count(connection->ends) > 0);
    bool is_orderly = !is_busy && connection_waiting(connection) == 0;
    if (connection->many != NULL) {
        connection->many->free(connection->ends);
        connection->many = NULL;
    }
    connection->exchange = NULL;
    bool must_reset = false;
    if (exchange != NULL) {
        /* Where only the end of the connection ends the answer, an orderly end would be a lie. */
        must_reset = exchange->begun && exchange->until_close && !exchange->ended;
        exchange_lose(exchange);
        exchange_release(exchange);
    }
    if (connection->stream != NULL) {
        close_stream(connection, is_orderly);
    } else if (!must_reset || connection->uv.handle.type != UV_TCP ||
               uv_tcp_close_reset(&connection->uv.tcp, on_handle_closed) < 0) {
        uv_close(&connection->uv.handle, on_handle_closed);
    }
}

/* ---- Writing ---- */

size_t connection_waiting(const struct connection *connection)
{
    return connection->out.used + connection->writing.used +
        (connection->stream != NULL ? stream_waiting(connection->stream) : 0);
}

static void note_progress(struct connection *connection)
{
    connection->write_progress_ms = loop_now_ms(connection->server->loop);
    connection->silent_since_ms = connection->write_progress_ms;
}

/* There is room again for what is to be said. */
static void go_on_writing(struct connection *connection)
{
    connection_flush(connection);
    if (connection->closing) {
        return;
    }
    if (connection->many != NULL) {
        connection->many->flush(connection->ends, loop_now_ms(connection->server->loop));
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

static void on_written(uv_write_t *write, int status)
{
    struct connection *connection = write->data;
    connection->write_runs = false;
    connection->writing.used = 0;
    note_progress(connection);
    if (connection->closing) {
        return;
    }
    if (status < 0) {
        connection_close(connection);
        return;
    }
    go_on_writing(connection);
}

static void write_to_stream(struct connection *connection, const void *bytes, size_t length)
{
    if (stream_waiting(connection->stream) == 0) {
        note_progress(connection);
    }
    connection->server->counters.bytes_out += length;
    stream_write(connection->stream, bytes, length);
}

/* What libuv's handle does not take at once is lent to it. */
static void lend_rest(struct connection *connection)
{
    struct buffer rest = connection->out;
    connection->out = connection->writing;
    connection->out.used = 0;
    connection->writing = rest;
    uv_buf_t bytes = uv_buf_init((char *)rest.data, (unsigned)rest.used);
    connection->write.data = connection;
    connection->write_runs = true;
    connection->write_progress_ms = loop_now_ms(connection->server->loop);
    connection->write_left = rest.used;
    connection->server->counters.bytes_out += rest.used;
    if (uv_write(&connection->write, &connection->uv.stream, &bytes, 1, on_written) < 0) {
        connection->write_runs = false;
        connection_close(connection);
    }
}

void connection_flush(struct connection *connection)
{
    if (connection->write_runs || connection->out.used == 0 || connection->closing) {
        return;
    }
    if (connection->stream != NULL) {
        write_to_stream(connection, connection->out.data, connection->out.used);
        connection->out.used = 0;
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
    if (connection->out.used > 0) {
        lend_rest(connection);
    }
}

/* Failures are connection_flush()'s to find. */
static size_t write_at_once(struct connection *connection, const void *bytes, size_t length)
{
    struct buffer *out = &connection->out;
    size_t waiting = out->used;
    uv_buf_t lent[2] = {{.base = (char *)out->data, .len = waiting},
                        {.base = (char *)(uintptr_t)bytes, .len = length}};
    unsigned first = waiting == 0;
    int wrote = uv_try_write(&connection->uv.stream, lent + first, 2 - first);
    if (wrote <= 0) {
        return 0;
    }
    size_t of_out = (size_t)wrote < waiting ? (size_t)wrote : waiting;
    connection->server->counters.bytes_out += (uint64_t)wrote;
    connection->silent_since_ms = loop_now_ms(connection->server->loop);
    buffer_consume(out, of_out);
    return (size_t)wrote - of_out;
}

void connection_append(struct connection *connection, const void *bytes, size_t length)
{
    CHECK(connection->stream != NULL && connection->out.used == 0);
    if (!connection->closing) {
        connection->server->counters.bytes_out += length;
        stream_append(connection->stream, bytes, length);
    }
}

void connection_send(struct connection *connection, const void *bytes, size_t length)
{
    if (!connection->closing) {
        write_to_stream(connection, bytes, length);
    }
}

void connection_write(struct connection *connection, const void *bytes, size_t length)
{
    size_t taken = 0;
    bool is_large = length >= LENT_LEAST && !connection->write_runs && !connection->closing;
    if (is_large && connection->stream == NULL) {
        taken = write_at_once(connection, bytes, length);
    } else if (is_large && connection->out.used == 0) { /* else the two are one record */
        write_to_stream(connection, bytes, length);
        return;
    }
    buffer_append(&connection->out, (const uint8_t *)bytes + taken, length - taken);
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
    int is_h2 = connection_sounds_like_h2(connection);
    if (is_h2 >= 0) {
        if (is_h2 > 0) {
            connection_begin_h2(connection);
        }
        return false;
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
    if (connection->stream != NULL) {
        exchange_take_peer(exchange, connection->stream);
    } else {
        memcpy(exchange->peer, connection->peer, sizeof(exchange->peer));
    }
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

/* Read while there is somebody to take it; stop when it piles up (which HTTP/2 does not let it). */
static void watch_input(struct connection *connection)
{
    size_t head_bytes_max = connection->server->options.head_bytes_max;
    size_t high = head_bytes_max < IN_HIGH ? IN_HIGH : head_bytes_max + READ_LEAST;
    bool wanted = !connection->at_eof && (connection->lingering || connection->in.used < high);
    if (wanted == connection->reading || connection->closing) {
        return;
    }
    connection->reading = wanted;
    if (connection->stream != NULL && wanted) {
        stream_resume(connection->stream);
    } else if (connection->stream != NULL) {
        stream_pause(connection->stream);
    } else if (wanted) {
        uv_read_start(&connection->uv.stream, on_allocate, on_read);
    } else {
        uv_read_stop(&connection->uv.stream);
    }
}

static void watch_body(struct connection *connection)
{
    const struct http_exchange *exchange = connection->exchange;
    bool waits = exchange != NULL && !exchange->body_done && !exchange->paused &&
        (exchange->reading || exchange->ended) && connection->in.used == 0 &&
        exchange->body != BODY_RAW && !exchange->is_patient;
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
    if (connection->stream != NULL) {
        stream_shutdown(connection->stream);
    } else if (uv_shutdown(&connection->shutdown, &connection->uv.stream, NULL) < 0) {
        connection_close(connection);
        return;
    }
    watch_input(connection);
}

/* At the end of what the peer said: the rest of a request that is none will not come. */
static bool is_worth_finishing(struct connection *connection)
{
    if (connection->many != NULL) {
        connection->close_after =
            connection->close_after || connection->many->count(connection->ends) == 0;
    } else if (connection->exchange == NULL) {
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
    while (progress && !connection->closing && connection->many == NULL) {
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
    if (connection->many != NULL) {
        connection_process_many(connection);
    }
    connection->processing = false;
    loop_give_back(connection->server->loop, &connection->in);
    if (connection->closing) {
        return;
    }
    connection_flush(connection);
    if (connection->closing) {
        return;
    }
    if (connection->many == NULL && connection->exchange == NULL && connection->server->draining &&
        connection->in.used == 0) {
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
    struct buffer *in = &connection->in;
    (void)suggested;
    loop_lend(connection->server->loop, in);
    buffer_reserve(in, READ_LEAST);
    *ret_buffer = uv_buf_init((char *)in->data + in->used, (unsigned)(in->size - in->used));
}

/* `got` more bytes are in `in`. */
static void take_input(struct connection *connection, size_t got)
{
    connection->in.used = connection->lingering ? 0 : connection->in.used + got;
    connection->server->counters.bytes_in += got;
    if (connection->wait == WAIT_BODY) {
        set_wait(connection, WAIT_BODY, connection->server->options.body_timeout_ms);
    }
    connection_process(connection);
}

static void take_eof(struct connection *connection)
{
    bool is_needed = connection->exchange != NULL && connection->exchange->needs_client;
    if (connection->lingering || is_needed) {
        connection_close(connection);
        return;
    }
    connection->at_eof = true;
    connection->reading = false;
    connection->silent_since_ms = loop_now_ms(connection->server->loop);
    connection_process(connection);
}

static void on_read(uv_stream_t *stream, ssize_t got, const uv_buf_t *buffer)
{
    struct connection *connection = stream->data;
    (void)buffer;
    if (got > 0) {
        take_input(connection, (size_t)got);
    } else if (got == UV_EOF) {
        take_eof(connection);
    } else if (got < 0) {
        connection_close(connection);
    }
    loop_give_back(connection->server->loop, &connection->in);
}

static void on_stream_data(const void *bytes, size_t length, void *context)
{
    struct connection *connection = context;
    if (connection->many != NULL && !connection->lingering) {
        connection->server->counters.bytes_in += length;
        connection_receive_many(connection, bytes, length);
        return;
    }
    loop_lend(connection->server->loop, &connection->in);
    memcpy(buffer_reserve(&connection->in, length), bytes, length);
    take_input(connection, length);
}

static void on_stream_drained(void *context)
{
    struct connection *connection = context;
    note_progress(connection);
    go_on_writing(connection);
}

static void on_stream_end(const struct error *error, void *context)
{
    struct connection *connection = context;
    if (error == NULL) {
        take_eof(connection);
    } else {
        connection_close(connection); /* cut off: nothing of it can be believed to be whole */
    }
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

void connection_tick(struct connection *connection, uint64_t now_ms)
{
    if (connection->closing) {
        return; /* its stream is gone already */
    }
    size_t write_left = connection->stream != NULL
        ? stream_waiting(connection->stream)
        : uv_stream_get_write_queue_size(&connection->uv.stream);
    if (write_left != connection->write_left) {
        connection->write_left = write_left;
        connection->write_progress_ms = now_ms;
    }
    bool stuck = write_left > 0 &&
        now_ms - connection->write_progress_ms > connection->server->options.write_timeout_ms;
    bool gone = connection->at_eof && connection_waiting(connection) == 0 &&
        now_ms - connection->silent_since_ms > EOF_MS;
    if (stuck || gone) {
        connection_close(connection);
    } else if (connection->many != NULL && !connection->lingering) {
        connection->many->tick(connection->ends, now_ms);
    } else if (connection->deadline_ms != 0 && now_ms >= connection->deadline_ms) {
        connection->deadline_ms = 0;
        on_late(connection);
    }
}

/* ---- Draining ---- */

void connection_drain(struct connection *connection)
{
    if (connection->many != NULL) {
        connection->many->drain(connection->ends);
    } else if (connection->exchange == NULL && connection_waiting(connection) == 0) {
        connection_close(connection);
    } else if (connection->exchange == NULL || !connection->exchange->begun) {
        connection->close_after = true;
    }
}

/* ---- Beginning ---- */

static struct connection *new_connection(struct http_server *server)
{
    struct connection *connection = NEW(struct connection);
    connection->server = server;
    connection->wait = WAIT_NOTHING;
    list_push_back(&server->connections, &connection->link);
    server->handles++;
    server->counters.connections_accepted++;
    server->counters.connections_open++;
    return connection;
}

static void begin(struct connection *connection)
{
    struct http_server *server = connection->server;
    bool is_too_many = server->counters.connections_open > server->options.connections_max;
    if (connection->many != NULL && (is_too_many || server->draining)) {
        connection->many->drain(connection->ends);
    } else if (is_too_many || server->draining) {
        refuse(connection, 503);
        connection->is_cut = false; /* beyond the limit nobody lingers */
    }
    connection_process(connection);
}

static void describe_peer(struct connection *connection)
{
    struct sockaddr_storage socket = {0};
    int length = sizeof(socket);
    snprintf(connection->peer, sizeof(connection->peer), "unix");
    if (connection->uv.handle.type == UV_TCP &&
        uv_tcp_getpeername(&connection->uv.tcp, (struct sockaddr *)&socket, &length) == 0) {
        stream_address_format(&socket, connection->peer);
    }
}

void connection_accept(struct http_server *server, uv_stream_t *listener)
{
    struct connection *connection = new_connection(server);
    if (listener->type == UV_TCP) {
        uv_tcp_init(loop_uv(server->loop), &connection->uv.tcp);
    } else {
        uv_pipe_init(loop_uv(server->loop), &connection->uv.pipe, 0);
    }
    connection->uv.handle.data = connection;
    if (uv_accept(listener, &connection->uv.stream) < 0) {
        connection_close(connection);
        return;
    }
    if (listener->type == UV_TCP) {
        uv_tcp_nodelay(&connection->uv.tcp, 1);
    }
    describe_peer(connection);
    begin(connection);
}

void connection_adopt(struct http_server *server, struct stream *owned_stream)
{
    static const struct stream_events events = {on_stream_data, on_stream_drained, on_stream_end};
    struct connection *connection = new_connection(server);
    connection->stream = owned_stream;
    connection->reading = true;
    stream_start(owned_stream, &events, connection);
    if (strcmp(stream_protocol(owned_stream), "h2") == 0) {
        connection_begin_h2(connection);
    } else if (strcmp(stream_protocol(owned_stream), MUX_PROTOCOL) == 0) {
        connection_begin_mux(connection);
        if (stream_peer(owned_stream) == NULL) {
            connection_close(connection); /* a visitor, not a node */
            return;
        }
    }
    begin(connection);
}
