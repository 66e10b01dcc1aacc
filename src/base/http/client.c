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

enum { CONNECTIONS_MAX = 64, HEAD_BYTES_MAX = 65536, REQUEST_BYTES = 1024 };

/* What is kept for calls to come: so many, each with buffers of so much. */
enum { SPARE_CALLS = 64, SPARE_BYTES = 8192 };

static void free_call(struct http_call *call)
{
    buffer_done(&call->request);
    buffer_done(&call->streamed);
    free(call);
}

static void maybe_free(struct http_client *client)
{
    if (client->freed && client->connections == 0 && client->holds == 0) {
        while (!list_is_empty(&client->spare)) {
            struct http_call *call = LIST_FIRST(&client->spare, struct http_call, link);
            list_remove(&call->link);
            free_call(call);
        }
        tls_context_unref(client->options.tls);
        free(client->address);
        free(client->server_name);
        free(client->identity);
        free(client);
    }
}

/* ---- Connections ---- */

void client_free_memory(struct client_connection *connection)
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
    client_free_memory(connection);
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
    struct http_client *client = call->client;
    call->ended = true;
    list_remove(&call->link);
    loop_timer_free(call->timer);
    client->holds++; /* whoever is told may free it */
    call->events.on_end(call, error, call->context);
    buffer_done(&call->head_bytes);
    if (client->spare_count < SPARE_CALLS && call->request.size <= SPARE_BYTES &&
        call->streamed.size <= SPARE_BYTES) {
        client->spare_count++;
        list_push_front(&client->spare, &call->link);
    } else {
        free_call(call);
    }
    client->holds--;
    maybe_free(client);
}

/* The call is over; the connection is kept if it can be. */
void client_release(struct client_connection *connection, bool keep, const struct error *error)
{
    struct http_call *call = connection->call;
    struct http_client *client = connection->client;
    connection->call = NULL;
    if (call != NULL) {
        call->connection = NULL;
    }
    if (keep && connection->in.used == 0 && !client->freed) {
        list_push_front(&client->idle, &connection->link);
        client_watch(connection);
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
void client_fail(struct client_connection *connection, const struct error *error)
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
    client_release(connection, false, error);
}

/* ---- Starting ---- */

/* The first call that waits for the server to be reached speaks for those that share its way. */
static void fail_waiting(struct http_client *client, const struct error *error)
{
    while (!list_is_empty(&client->waiting)) {
        client_finish_call(LIST_FIRST(&client->waiting, struct http_call, link), error);
    }
}

static void on_dialled(struct stream *stream, const struct error *error, void *context)
{
    struct client_connection *connection = context;
    struct http_client *client = connection->client;
    struct http_call *call = connection->call;
    connection->dial = NULL;
    client->dialling--;
    if (error != NULL) {
        if (client->offers_mux && list_is_empty(&client->shared)) {
            fail_waiting(client, error);
        }
        client_fail(connection, error);
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
        client_start_alone(connection);
        if (call != NULL) {
            client_send(connection);
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
            client_send(connection);
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
        client_release(call->connection, false, error);
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
    list_init(&client->spare);
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

/* All but its head, which is large, is cleared. */
static struct http_call *take_memory(struct http_client *client)
{
    struct buffer request = {0};
    struct buffer streamed = {0};
    struct http_call *call = LIST_FIRST(&client->spare, struct http_call, link);
    if (call != NULL) {
        list_remove(&call->link);
        client->spare_count--;
        request = call->request;
        streamed = call->streamed;
        request.used = streamed.used = 0;
    } else {
        call = memory_resize(NULL, sizeof(*call));
    }
    memset(call, 0, offsetof(struct http_call, head));
    call->request = request;
    call->streamed = streamed;
    return call;
}

static struct http_call *new_call(struct http_client *client, const char *method,
                                  const char *target, const char *const *fields,
                                  const struct http_call_events *events, void *context)
{
    struct http_call *call = take_memory(client);
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
        at = mempcpy(at, *fields, length);
        at[0] = '\r';
        at[1] = '\n';
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

bool http_call_write(struct http_call *call, const void *bytes, size_t length)
{
    CHECK(call->is_streaming && !call->is_finished);
    if (call->stream != NULL) {
        return mux_call_write(call->stream, bytes, length);
    }
    if (call->connection != NULL && call->connection->stream != NULL) {
        return client_write(call->connection, bytes, length);
    }
    buffer_append(&call->streamed, bytes, length); /* how it is framed will be known then */
    return call->streamed.used < CLIENT_WRITE_HIGH;
}

void http_call_finish(struct http_call *call)
{
    CHECK(call->is_streaming && !call->is_finished);
    call->is_finished = true;
    if (call->stream != NULL) {
        mux_call_finish(call->stream);
    } else if (call->connection != NULL && call->connection->stream != NULL) {
        client_finish_body(call->connection);
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
        client_watch(call->connection);
    }
}

void http_call_resume(struct http_call *call)
{
    call->paused = false;
    if (call->stream != NULL) {
        mux_call_resume(call->stream);
    } else if (call->connection != NULL) {
        client_watch(call->connection);
        client_process(call->connection);
    }
}

void http_call_cancel(struct http_call *call)
{
    struct error error = {0};
    error_set(&error, ERROR_CANCELLED, "cancelled");
    break_off(call, &error);
}
