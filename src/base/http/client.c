/*
 * The client: calls to one address over connections that are kept and used again.
 *
 * A call holds a connection from its first byte to the end of the answer.  A connection that the
 * server closed in the meantime is found out by the first call that uses it; that call is sent
 * again once, on a new one, when nothing of an answer had come and its method and body allow it.
 */
#include "base/http/client.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/check.h"
#include "base/error.h"
#include "base/http/mux.h"
#include "base/loop/loop.h"
#include "base/memory.h"
#include "base/stream/stream.h"
#include "base/stream/tls.h"

enum { CONNECTIONS_MAX = 64, HEAD_BYTES_MAX = 65536, WRITE_HIGH = 262144, REQUEST_BYTES = 1024 };

static void process(struct client_connection *connection);
static void watch(struct client_connection *connection);

static void maybe_free(struct http_client *client)
{
    if (client->freed && client->connections == 0 && client->holds == 0) {
        tls_context_unref(client->options.tls);
        free(client->address);
        free(client->server_name);
        free(client->identity);
        free(client);
    }
}

/* ---- Connections ---- */

static void release_memory(struct client_connection *connection)
{
    if (connection->closing && connection->holds == 0) {
        buffer_done(&connection->in);
        buffer_done(&connection->out);
        free(connection);
    }
}

/* Not from inside client_drop(): a callback of the connection's may still be at work on it. */
static void on_dropped(void *argument)
{
    struct client_connection *connection = argument;
    struct http_client *client = connection->client;
    connection->holds--;
    release_memory(connection);
    client->connections--;
    if (!client->freed) {
        client_start_waiting(client);
    }
    maybe_free(client);
}

void client_drop(struct client_connection *connection)
{
    if (connection->closing) {
        return;
    }
    connection->closing = true;
    list_remove(&connection->link);
    client_unshare(connection);
    if (connection->dial != NULL) {
        connection->client->dialling--;
        stream_dial_cancel(connection->dial);
    }
    stream_close(connection->stream);
    connection->dial = NULL;
    connection->stream = NULL;
    connection->holds++;
    loop_post(connection->client->loop, on_dropped, connection);
}

void client_finish_call(struct http_call *call, const struct error *error)
{
    if (call->ended) {
        return;
    }
    call->ended = true;
    list_remove(&call->link);
    loop_timer_free(call->timer);
    call->events.on_end(call, error, call->context);
    buffer_done(&call->request);
    buffer_done(&call->streamed);
    buffer_done(&call->head_bytes);
    free(call);
}

/* The call is over; the connection is kept if it can be. */
static void release(struct client_connection *connection, bool keep, const struct error *error)
{
    struct http_call *call = connection->call;
    struct http_client *client = connection->client;
    connection->call = NULL;
    if (call != NULL) {
        call->connection = NULL;
    }
    if (keep && connection->in.used == 0 && !client->freed) {
        list_push_front(&client->idle, &connection->link);
        watch(connection);
    } else {
        client_drop(connection);
    }
    if (call != NULL) {
        client_finish_call(call, error);
    }
    if (!client->freed) {
        client_start_waiting(client);
    }
}

void client_repeat_call(struct http_call *call)
{
    call->connection = NULL;
    list_remove(&call->link);
    list_push_front(&call->client->waiting, &call->link);
}

/* The connection failed under its call: once more, or the end. */
static void fail_with(struct client_connection *connection, const struct error *error)
{
    struct http_call *call = connection->call;
    bool stale = connection->uses > 1 && call != NULL && !call->has_head &&
        connection->in.used == 0 && call->may_retry && !call->retried;
    if (stale) {
        connection->call = NULL;
        call->retried = true;
        client_repeat_call(call);
        client_drop(connection);
        client_start_waiting(call->client);
        return;
    }
    release(connection, false, error);
}

static void fail(struct client_connection *connection, enum error_kind kind, const char *what)
{
    struct error error = {0};
    error_set(&error, kind, "%s: %s", connection->client->address, what);
    fail_with(connection, &error);
}

/* ---- Bytes ---- */

static size_t waiting_bytes(const struct client_connection *connection)
{
    return connection->out.used +
        (connection->stream != NULL ? stream_waiting(connection->stream) : 0);
}

static void tell_room(struct client_connection *connection)
{
    struct http_call *call = connection->call;
    if (!connection->closing && call != NULL && call->is_streaming && !call->is_finished &&
        waiting_bytes(connection) == 0) {
        call->on_writable(call, call->context);
    }
}

static void on_room(void *argument)
{
    struct client_connection *connection = argument;
    connection->holds--;
    connection->tells_room = false;
    tell_room(connection);
    release_memory(connection);
}

static void flush(struct client_connection *connection)
{
    struct http_call *call = connection->call;
    if (connection->stream == NULL || connection->out.used == 0) {
        return;
    }
    call->was_sent = true;
    stream_write(connection->stream, connection->out.data, connection->out.used);
    connection->out.used = 0;
    if (call->is_streaming && !connection->tells_room && waiting_bytes(connection) == 0) {
        connection->tells_room = true; /* the kernel took all of it: nothing else will tell */
        connection->holds++;
        loop_post(connection->client->loop, on_room, connection);
    }
}

static void on_drained(void *context)
{
    tell_room(context);
}

static void on_data(const void *bytes, size_t length, void *context)
{
    struct client_connection *connection = context;
    if (connection->call == NULL) {
        client_drop(connection); /* nobody asked: it must not pass for the next call's answer */
        return;
    }
    buffer_append(&connection->in, bytes, length);
    process(connection);
}

static void on_end(const struct error *error, void *context)
{
    struct client_connection *connection = context;
    struct http_call *call = connection->call;
    if (call == NULL) {
        client_drop(connection);
    } else if (error != NULL) {
        fail_with(connection, error);
    } else if (call->has_head && call->until_close) {
        release(connection, false, NULL);
    } else {
        fail(connection, ERROR_UNAVAILABLE, "the connection was closed in the middle");
    }
}

/* Nobody listens while a call is paused; an idle connection listens for its end. */
static void watch(struct client_connection *connection)
{
    if (connection->stream == NULL) {
        return;
    }
    if (connection->call != NULL && connection->call->paused) {
        stream_pause(connection->stream);
    } else {
        stream_resume(connection->stream);
    }
}

/* ---- Answers ---- */

static bool take_head(struct client_connection *connection)
{
    struct http_call *call = connection->call;
    const struct parse_limits limits = {call->client->options.head_bytes_max, PARSE_FIELDS_MAX, 0};
    struct parse_head *head = &call->head;
    long length = parse_answer(connection->in.data, connection->in.used, &limits, head);
    if (length == 0) {
        return false;
    }
    if (length < 0) {
        fail(connection, ERROR_PROTOCOL, "the answer is not HTTP");
        return false;
    }
    if (head->status == 101) {
        fail(connection, ERROR_PROTOCOL, "the answer switches protocols unasked");
        return false;
    }
    if (head->status < 200) {
        buffer_consume(&connection->in, (size_t)length);
        return true;
    }
    /* The head's texts must outlive the input buffer. */
    call->head_bytes.used = 0;
    buffer_append(&call->head_bytes, connection->in.data, (size_t)length);
    parse_answer(call->head_bytes.data, call->head_bytes.used, &limits, head);
    buffer_consume(&connection->in, (size_t)length);
    call->has_head = true;
    bool none = call->is_head || head->status == 204 || head->status == 304;
    call->body = none                       ? BODY_NONE
        : head->is_chunked                  ? BODY_CHUNKED
        : head->has_length && !head->length ? BODY_NONE
                                            : BODY_LENGTH;
    call->until_close = call->body == BODY_LENGTH && !head->has_length;
    call->left = call->until_close ? UINT64_MAX : head->length;
    call->wants_close = head->wants_close || head->minor == 0 || call->until_close;
    loop_timer_stop(call->timer);
    if (call->events.on_head != NULL) {
        call->events.on_head(call, head->status, call->context);
    }
    return connection->call == call;
}

static void give(struct http_call *call, const void *bytes, size_t length)
{
    if (length > 0 && call->events.on_data != NULL) {
        call->events.on_data(call, bytes, length, call->context);
    }
}

/* Returns 1 when the body is complete, 0 to go on or wait, -1 when it failed. */
static int take_body(struct client_connection *connection)
{
    struct http_call *call = connection->call;
    struct buffer *in = &connection->in;
    if (call->body == BODY_NONE) {
        return 1;
    }
    if (in->used == 0) {
        return 0;
    }
    if (call->body == BODY_LENGTH) {
        size_t part = call->left < in->used ? (size_t)call->left : in->used;
        if (!call->until_close) {
            call->left -= part;
        }
        give(call, in->data, part);
        if (connection->call != call) {
            return 0;
        }
        buffer_consume(in, part);
        return call->left == 0;
    }
    size_t used = 0;
    struct text data;
    int r = parse_chunk(&call->chunks, in->data, in->used, &used, &data);
    if (r >= 0) {
        give(call, data.data, data.length);
    }
    if (connection->call != call) {
        return 0;
    }
    buffer_consume(in, used);
    return r;
}

static void process_input(struct client_connection *connection)
{
    while (!connection->closing && connection->call != NULL && !connection->call->paused) {
        struct http_call *call = connection->call;
        if (!call->has_head) {
            if (!take_head(connection)) {
                return;
            }
            continue;
        }
        size_t before = connection->in.used;
        int r = take_body(connection);
        if (connection->call != call) {
            return;
        }
        if (r < 0) {
            fail(connection, ERROR_PROTOCOL, "the answer is not well chunked");
            return;
        }
        if (r > 0) {
            bool keep = !call->wants_close && (!call->is_streaming || call->is_finished);
            release(connection, keep, NULL);
            return;
        }
        if (connection->in.used == before || connection->in.used == 0) {
            return;
        }
    }
}

/* A callback may resume its own call: the loop above goes on then, it does not begin again. */
static void process(struct client_connection *connection)
{
    if (!connection->processing) {
        connection->processing = true;
        process_input(connection);
        connection->processing = false;
    }
}

/* ---- Starting ---- */

static void append_body(const struct http_call *call, struct buffer *out, const void *bytes,
                        size_t length)
{
    if (call->is_chunked) {
        buffer_append_format(out, "%zx\r\n", length);
    }
    buffer_append(out, bytes, length);
    if (call->is_chunked) {
        buffer_append(out, "\r\n", 2);
    }
}

static void send_call(struct client_connection *connection)
{
    struct http_call *call = connection->call;
    connection->uses++;
    buffer_append(&connection->out, call->request.data, call->request.used);
    if (call->streamed.used > 0) {
        append_body(call, &connection->out, call->streamed.data, call->streamed.used);
        call->streamed.used = 0;
    }
    if (call->is_streaming && call->is_finished && call->is_chunked) {
        buffer_append(&connection->out, "0\r\n\r\n", 5);
    }
    watch(connection);
    flush(connection);
}

/* The first call that waits for the server to be reached speaks for those that share its way. */
static void fail_waiting(struct http_client *client, const struct error *error)
{
    while (!list_is_empty(&client->waiting)) {
        client_finish_call(LIST_FIRST(&client->waiting, struct http_call, link), error);
    }
}

static void on_dialled(struct stream *stream, const struct error *error, void *context)
{
    static const struct stream_events events = {on_data, on_drained, on_end};
    struct client_connection *connection = context;
    struct http_client *client = connection->client;
    struct http_call *call = connection->call;
    connection->dial = NULL;
    client->dialling--;
    if (error != NULL) {
        if (client->offers_mux && list_is_empty(&client->shared)) {
            fail_waiting(client, error);
        }
        fail_with(connection, error);
        return;
    }
    connection->stream = stream;
    client->lacks_mux = client->offers_mux && strcmp(stream_protocol(stream), MUX_PROTOCOL) != 0;
    if (client->offers_mux && !client->lacks_mux) {
        connection->call = NULL;
        client_share(connection);
        if (call != NULL) {
            client_send_shared(connection, call);
        }
    } else {
        stream_start(stream, &events, connection);
        if (call != NULL) {
            send_call(connection);
        }
    }
    client_start_waiting(client);
}

static void connect_new(struct http_client *client, struct http_call *call)
{
    const struct stream_dial_options options = {
        .tls = client->options.tls,
        .protocols = client->offers_mux   ? MUX_PROTOCOL " http/1.1"
            : client->options.tls != NULL ? "http/1.1"
                                          : NULL,
        .server_name = client->server_name,
        .identity = client->identity,
    };
    struct client_connection *connection = NEW(struct client_connection);
    connection->client = client;
    connection->call = call;
    call->connection = connection;
    client->connections++;
    client->dialling++;
    connection->dial = stream_dial(client->loop, client->address, &options, on_dialled, connection);
}

/* May this call have a connection of its own, or does it wait for one that is shared? */
static bool may_connect(const struct http_client *client)
{
    bool will_share = client->offers_mux && !client->lacks_mux && client->dialling > 0;
    return !will_share && client->connections < client->options.connections_max;
}

void client_start_waiting(struct http_client *client)
{
    while (!list_is_empty(&client->waiting)) {
        struct http_call *call = LIST_FIRST(&client->waiting, struct http_call, link);
        struct client_connection *connection =
            LIST_FIRST(&client->idle, struct client_connection, link);
        struct client_connection *shared = client_shared_with_room(client);
        if (shared == NULL && connection != NULL && call->retried) {
            client_drop(connection); /* as old as the one that failed it */
            continue;
        }
        if (shared == NULL && connection == NULL && !may_connect(client)) {
            return;
        }
        list_remove(&call->link);
        list_push_back(&client->running, &call->link);
        if (shared != NULL) {
            client_send_shared(shared, call);
        } else if (connection == NULL) {
            connect_new(client, call);
        } else {
            list_remove(&connection->link);
            connection->call = call;
            call->connection = connection;
            send_call(connection);
        }
    }
}

static void break_off(struct http_call *call, const struct error *error)
{
    if (call->stream != NULL) {
        call->was_sent = http_call_was_sent(call);
        mux_call_cancel(call->stream);
        call->stream = NULL;
        call->connection = NULL;
        client_finish_call(call, error);
    } else if (call->connection != NULL) {
        release(call->connection, false, error);
    } else {
        client_finish_call(call, error);
    }
}

static void on_timeout(void *context)
{
    struct http_call *call = context;
    struct error error = {0};
    error_set(&error, ERROR_TIMEOUT, "%s: no answer in time", call->client->address);
    break_off(call, &error);
}

static void take_options(struct http_client *client, const struct http_client_options *options)
{
    client->options = *options;
    if (options->tls != NULL) {
        tls_context_ref(options->tls);
    }
    if (options->server_name != NULL) {
        client->server_name = memory_copy_string(options->server_name);
    }
    if (options->identity != NULL) {
        client->identity = memory_copy_string(options->identity);
    }
}

int http_client_new(struct loop *loop, const char *address,
                    const struct http_client_options *options, struct http_client **ret_client,
                    struct error *err)
{
    struct stream_address parsed;
    int r = stream_address_parse(address, &parsed, err);
    if (r < 0) {
        return r;
    }
    struct http_client *client = NEW(struct http_client);
    client->loop = loop;
    client->address = memory_copy_string(address);
    client->is_unix = parsed.is_unix;
    if (options != NULL) {
        take_options(client, options);
    }
    if (client->options.connections_max == 0) {
        client->options.connections_max = CONNECTIONS_MAX;
    }
    if (client->options.head_bytes_max == 0) {
        client->options.head_bytes_max = HEAD_BYTES_MAX;
    }
    client->offers_mux = client->options.is_to_node && client->options.tls != NULL;
    list_init(&client->idle);
    list_init(&client->shared);
    list_init(&client->fresh);
    list_init(&client->waiting);
    list_init(&client->running);
    *ret_client = client;
    return 0;
}

void http_client_free(struct http_client *client)
{
    if (client == NULL) {
        return;
    }
    client->freed = true;
    client->holds++; /* until we are through */
    struct list *const calls[] = {&client->fresh, &client->waiting, &client->running};
    for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
        while (!list_is_empty(calls[i])) { /* what is told may cancel others */
            http_call_cancel(LIST_FIRST(calls[i], struct http_call, link));
        }
    }
    struct list *const connections[] = {&client->idle, &client->shared};
    for (size_t i = 0; i < sizeof(connections) / sizeof(connections[0]); i++) {
        LIST_EACH(node, connections[i])
        {
            client_drop(LIST_ITEM(node, struct client_connection, link));
        }
    }
    loop_timer_free(client->tick);
    client->tick = NULL;
    client->holds--;
    maybe_free(client);
}

static bool is_idempotent(const char *method)
{
    static const char *const methods[] = {"GET", "HEAD", "PUT", "DELETE", "OPTIONS"};
    for (size_t i = 0; i < sizeof(methods) / sizeof(methods[0]); i++) {
        if (strcmp(methods[i], method) == 0) {
            return true;
        }
    }
    return false;
}

static struct http_call *new_call(struct http_client *client, const char *method,
                                  const char *target, const char *const *fields,
                                  const struct http_call_events *events, void *context)
{
    struct http_call *call = memory_resize(NULL, sizeof(*call));
    memset(call, 0, offsetof(struct http_call, head)); /* which is large */
    parse_clear(&call->head);
    call->client = client;
    call->events = *events;
    call->context = context;
    call->is_head = strcmp(method, "HEAD") == 0;
    bool has_host = false;
    CHECK(parse_is_token(text_of(method, strlen(method))));
    call->is_bad = target[0] == '\0';
    for (const char *at = target; *at != '\0'; at++) {
        call->is_bad = call->is_bad || (unsigned char)*at <= 0x20 || *at == 0x7f;
    }
    buffer_reserve(&call->request, REQUEST_BYTES);
    buffer_append_string(&call->request, method);
    buffer_append_byte(&call->request, ' ');
    buffer_append_string(&call->request, target);
    buffer_append(&call->request, " HTTP/1.1\r\n", 11);
    for (; fields != NULL && *fields != NULL; fields++) {
        size_t length = strlen(*fields);
        CHECK(memchr(*fields, '\r', length) == NULL && memchr(*fields, '\n', length) == NULL);
        has_host = has_host || ((**fields | 0x20) == 'h' && strncasecmp(*fields, "host:", 5) == 0);
        char *at = (char *)buffer_reserve(&call->request, length + 2);
        memcpy(mempcpy(at, *fields, length), "\r\n", 2);
        call->request.used += length + 2;
    }
    if (!has_host) {
        const char *host = client->is_unix ? "localhost" : client->address;
        buffer_append(&call->request, "Host: ", 6);
        buffer_append_string(&call->request, host);
        buffer_append(&call->request, "\r\n", 2);
    }
    return call;
}

static void start_fresh(void *argument)
{
    struct http_client *client = argument;
    while (!list_is_empty(&client->fresh)) {
        struct http_call *call = LIST_FIRST(&client->fresh, struct http_call, link);
        if (call->is_bad) {
            struct error error = {0};
            error_set(&error, ERROR_INVALID,
                      "the target is empty or has a blank or control character: percent-encode it");
            client_finish_call(call, &error);
            continue;
        }
        list_remove(&call->link);
        list_push_back(&client->waiting, &call->link);
    }
    if (!client->freed) {
        client_start_waiting(client);
    }
    client->holds--;
    maybe_free(client);
}

/* Events come later, never from inside; until then the call may be cancelled. */
static void start(struct http_call *call)
{
    struct http_client *client = call->client;
    if (client->options.answer_timeout_ms > 0) {
        call->timer = loop_timer_new(client->loop, on_timeout, call);
        loop_timer_start(call->timer, client->options.answer_timeout_ms);
    }
    list_push_back(&client->fresh, &call->link);
    client->holds++;
    loop_post(client->loop, start_fresh, client);
}

static void append_length(struct http_call *call, uint64_t length)
{
    buffer_append(&call->request, "Content-Length: ", 16);
    buffer_append_decimal(&call->request, length);
    buffer_append(&call->request, "\r\n", 2);
}

struct http_call *http_client_call(struct http_client *client, const char *method,
                                   const char *target, const char *const *fields, const void *body,
                                   size_t body_length, const struct http_call_events *events,
                                   void *context)
{
    struct http_call *call = new_call(client, method, target, fields, events, context);
    if (body_length > 0 || (strcmp(method, "GET") != 0 && !call->is_head)) {
        append_length(call, body_length);
    }
    buffer_append(&call->request, "\r\n", 2);
    buffer_append(&call->request, body, body_length);
    call->may_retry = is_idempotent(method);
    start(call);
    return call;
}

struct http_call *
http_client_call_streaming(struct http_client *client, const char *method, const char *target,
                           const char *const *fields, uint64_t length,
                           void (*on_writable)(struct http_call *call, void *context),
                           const struct http_call_events *events, void *context)
{
    struct http_call *call = new_call(client, method, target, fields, events, context);
    call->is_streaming = true;
    call->on_writable = on_writable;
    call->is_chunked = length == UINT64_MAX;
    if (call->is_chunked) {
        buffer_append_string(&call->request, "Transfer-Encoding: chunked\r\n\r\n");
    } else {
        append_length(call, length);
        buffer_append(&call->request, "\r\n", 2);
    }
    start(call);
    return call;
}

static bool has_own_stream(const struct http_call *call)
{
    return call->connection != NULL && call->connection->stream != NULL;
}

bool http_call_write(struct http_call *call, const void *bytes, size_t length)
{
    CHECK(call->is_streaming && !call->is_finished);
    if (call->stream != NULL) {
        return mux_call_write(call->stream, bytes, length);
    }
    if (!has_own_stream(call)) {
        buffer_append(&call->streamed, bytes, length); /* how it is framed will be known then */
        return call->streamed.used < WRITE_HIGH;
    }
    if (length > 0) {
        append_body(call, &call->connection->out, bytes, length);
    }
    flush(call->connection);
    return waiting_bytes(call->connection) < WRITE_HIGH;
}

void http_call_finish(struct http_call *call)
{
    CHECK(call->is_streaming && !call->is_finished);
    call->is_finished = true;
    if (call->stream != NULL) {
        mux_call_finish(call->stream);
    } else if (has_own_stream(call)) {
        buffer_append(&call->connection->out, "0\r\n\r\n", call->is_chunked ? 5 : 0);
        flush(call->connection);
    }
}

bool http_call_was_sent(const struct http_call *call)
{
    return call->was_sent || (call->stream != NULL && mux_call_was_sent(call->stream));
}

struct text http_call_field(const struct http_call *call, const char *name)
{
    return parse_find(&call->head, name);
}

size_t http_call_field_count(const struct http_call *call)
{
    return call->head.field_count;
}

void http_call_field_at(const struct http_call *call, size_t index, struct text *ret_name,
                        struct text *ret_value)
{
    CHECK(index < call->head.field_count);
    *ret_name = call->head.fields[index].name;
    *ret_value = call->head.fields[index].value;
}

void http_call_pause(struct http_call *call)
{
    call->paused = true;
    if (call->stream != NULL) {
        mux_call_pause(call->stream);
    } else if (call->connection != NULL) {
        watch(call->connection);
    }
}

void http_call_resume(struct http_call *call)
{
    call->paused = false;
    if (call->stream != NULL) {
        mux_call_resume(call->stream);
    } else if (call->connection != NULL) {
        watch(call->connection);
        process(call->connection);
    }
}

void http_call_cancel(struct http_call *call)
{
    struct error error = {0};
    error_set(&error, ERROR_CANCELLED, "cancelled");
    break_off(call, &error);
}
