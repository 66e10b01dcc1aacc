/* HTTP that the tests play themselves: requests are made, answers are looked at. */
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/memory.h"

#include "engine/image/image.h"

#include "service/function/function.h"
#include "service/telemetry/telemetry.h"

#include "test/lib/test.h"
#include "test/unit/service/faked/fakes.h"

/* ---- HTTP ---- */

enum { SERVERS_MAX = 4 };

struct http_server {
    struct loop *loop;
    http_handler handler;
    void *context;
    struct http_exchange *open[64];
    void (*drained)(void *context);
    void *drain_context;
};

static pthread_mutex_t servers_lock = PTHREAD_MUTEX_INITIALIZER;
static struct http_server *servers[SERVERS_MAX]; /* each used by its own loop's thread */

/* The place of `server` is free, or NULL's is taken. */
static void servers_replace(struct http_server *before, struct http_server *after)
{
    pthread_mutex_lock(&servers_lock);
    for (unsigned i = 0; i < SERVERS_MAX; i++) {
        if (servers[i] == before) {
            servers[i] = after;
            break;
        }
    }
    pthread_mutex_unlock(&servers_lock);
}

static struct http_server *server_of(bool (*is_it)(const struct http_server *server,
                                                   const void *argument),
                                     const void *argument)
{
    struct http_server *found = NULL;
    pthread_mutex_lock(&servers_lock);
    for (unsigned i = 0; i < SERVERS_MAX && found == NULL; i++) {
        found = servers[i] != NULL && is_it(servers[i], argument) ? servers[i] : NULL;
    }
    pthread_mutex_unlock(&servers_lock);
    return found;
}

static bool server_is_current(const struct http_server *server, const void *argument)
{
    (void)argument;
    return loop_is_current(server->loop);
}

struct http_server_options http_server_defaults(void)
{
    return (struct http_server_options){0};
}

int http_server_new(struct loop *loop, const struct http_server_options *options,
                    http_handler handler, void *context, struct http_server **ret_server,
                    struct error *err)
{
    (void)options;
    (void)err;
    struct http_server *server = NEW(struct http_server);
    server->loop = loop;
    server->handler = handler;
    server->context = context;
    servers_replace(NULL, server);
    *ret_server = server;
    return 0;
}

int http_server_listen(struct http_server *server, const char *address, uint16_t *ret_port,
                       struct error *err)
{
    (void)server;
    (void)address;
    (void)err;
    *ret_port = 7480;
    return 0;
}

/* Nobody comes over TLS here. */
int http_server_listen_tls(struct http_server *server, const char *address, struct tls_context *tls,
                           const char *others,
                           void (*on_other)(struct stream *owned_stream, void *context),
                           void *context, uint16_t *ret_port, struct error *err)
{
    (void)server, (void)address, (void)tls, (void)others, (void)on_other, (void)context;
    (void)ret_port;
    return error_set(err, ERROR_UNSUPPORTED, "not in this test");
}

const struct tls_peer *http_exchange_certificate(const struct http_exchange *exchange)
{
    (void)exchange;
    return NULL;
}

bool http_exchange_can_upgrade(const struct http_exchange *exchange)
{
    (void)exchange;
    return false;
}

bool http_exchange_upgrade(struct http_exchange *exchange, const char *protocol)
{
    (void)exchange, (void)protocol;
    return false;
}

struct text http_exchange_protocol(const struct http_exchange *exchange)
{
    (void)exchange;
    return text_of(NULL, 0);
}

void http_exchange_converse(struct http_exchange *exchange, int status)
{
    http_exchange_begin(exchange, status, UINT64_MAX);
}

bool http_exchange_was_asked(const struct http_exchange *exchange)
{
    (void)exchange;
    return false;
}

bool http_exchange_is_tls(const struct http_exchange *exchange)
{
    (void)exchange;
    return false;
}

static bool exchange_is_over(const struct http_exchange *exchange)
{
    return exchange->has_ended || exchange->was_aborted || exchange->is_closed;
}

static void server_sweep(struct http_server *server)
{
    unsigned left = 0;
    for (unsigned i = 0; i < 64; i++) {
        if (server->open[i] != NULL && exchange_is_over(server->open[i])) {
            struct http_exchange *exchange = server->open[i];
            server->open[i] = NULL;
            http_exchange_unref(exchange);
        }
        left += server->open[i] != NULL;
    }
    if (left == 0 && server->drained != NULL) {
        void (*drained)(void *) = server->drained;
        server->drained = NULL;
        drained(server->drain_context);
    }
}

void fake_http_sweep(void)
{
    struct http_server *server = server_of(server_is_current, NULL);
    if (server != NULL) {
        server_sweep(server);
    }
}

void http_server_drain(struct http_server *server, uint64_t timeout_ms,
                       void (*drained)(void *context), void *context)
{
    server->drained = drained;
    server->drain_context = context;
    if (timeout_ms == 0) {
        server->drained = NULL;
        drained(context);
        return;
    }
    server_sweep(server);
}

void http_server_free(struct http_server *server)
{
    for (unsigned i = 0; i < 64; i++) {
        if (server->open[i] != NULL) {
            struct http_exchange *exchange = server->open[i];
            server->open[i] = NULL;
            if (!exchange_is_over(exchange)) {
                fake_hang_up(exchange);
            }
            http_exchange_unref(exchange);
        }
    }
    servers_replace(server, NULL);
    free(server);
}

void (*fake_handler)(struct http_exchange *owned_exchange);

struct http_exchange *fake_request(const struct fake_request *request)
{
    struct http_server *server = server_of(server_is_current, NULL);
    EXPECT(server != NULL);
    struct http_exchange *exchange = NEW(struct http_exchange);
    exchange->references = 3; /* the gateway's, the server's, the test's */
    exchange->loop = server->loop;
    exchange->request = *request;
    unsigned i = 0;
    while (server->open[i] != NULL) {
        i++;
        EXPECT(i < 64);
    }
    server->open[i] = exchange;
    if (fake_handler != NULL) {
        fake_handler(exchange);
    } else {
        server->handler(exchange, server->context);
    }
    return exchange;
}

struct http_exchange *fake_get(const char *path)
{
    return fake_request(&(struct fake_request){.path = path});
}

void fake_body(struct http_exchange *exchange, const void *bytes, size_t length)
{
    EXPECT(exchange->on_data != NULL && !exchange->is_paused);
    exchange->on_data(bytes, length, exchange->body_context);
}

void fake_body_end(struct http_exchange *exchange, const struct error *error)
{
    void (*on_end)(const struct error *, void *) = exchange->on_body_end;
    EXPECT(on_end != NULL);
    exchange->on_body_end = NULL;
    on_end(error, exchange->body_context);
}

void fake_hang_up(struct http_exchange *exchange)
{
    exchange->is_closed = true;
    if (exchange->on_body_end != NULL) {
        struct error error;
        error_set(&error, ERROR_CANCELLED, "the client went away");
        fake_body_end(exchange, &error);
    }
    if (exchange->on_close != NULL) {
        exchange->on_close(exchange->context);
    }
}

void fake_drain(struct http_exchange *exchange)
{
    exchange->is_slow = false;
    if (exchange->on_drain != NULL) {
        exchange->on_drain(exchange->context);
    }
}

const char *fake_field(const struct http_exchange *exchange, const char *name)
{
    static char value[512];
    size_t length = strlen(name);
    const char *at = (const char *)exchange->head.data;
    const char *end = at + exchange->head.used;
    while (at < end) {
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        if (strncasecmp(at, name, length) == 0 && at[length] == ':') {
            snprintf(value, sizeof(value), "%.*s", (int)(stop - at - (ssize_t)length - 2),
                     at + length + 2);
            return value;
        }
        at = stop + 1;
    }
    return "";
}

const char *fake_answer(struct http_exchange *exchange)
{
    return buffer_string(&exchange->body);
}

static bool server_is_elsewhere(const struct http_server *server, const void *argument)
{
    (void)argument;
    return server->loop != fake_loop;
}

struct loop *fake_other_loop(void)
{
    return server_of(server_is_elsewhere, NULL)->loop;
}

static struct text text_or_empty(const char *string)
{
    return string != NULL ? text_of(string, strlen(string)) : text_of("", 0);
}

enum http_method http_exchange_method(const struct http_exchange *exchange)
{
    const char *method = exchange->request.method;
    return method != NULL && strcmp(method, "HEAD") == 0 ? HTTP_HEAD : HTTP_GET;
}

struct text http_exchange_method_text(const struct http_exchange *exchange)
{
    return text_or_empty(exchange->request.method != NULL ? exchange->request.method : "GET");
}

struct text http_exchange_path(const struct http_exchange *exchange)
{
    return text_or_empty(exchange->request.path);
}

int http_exchange_minor_version(const struct http_exchange *exchange)
{
    (void)exchange;
    return 1;
}

struct text http_exchange_query(const struct http_exchange *exchange)
{
    return text_or_empty(exchange->request.query);
}

size_t http_exchange_field_count(const struct http_exchange *exchange)
{
    size_t count = 0;
    for (const char *const *field = exchange->request.fields; field != NULL && *field != NULL;
         field += 2) {
        count++;
    }
    return count;
}

void http_exchange_field_at(const struct http_exchange *exchange, size_t index,
                            struct text *ret_name, struct text *ret_value)
{
    *ret_name = text_or_empty(exchange->request.fields[2 * index]);
    *ret_value = text_or_empty(exchange->request.fields[2 * index + 1]);
}

struct text http_exchange_field(const struct http_exchange *exchange, const char *name)
{
    for (size_t i = 0; i < http_exchange_field_count(exchange); i++) {
        struct text found, value;
        http_exchange_field_at(exchange, i, &found, &value);
        if (text_equal_ignoring_case(found, name)) {
            return value;
        }
    }
    return text_of(NULL, 0);
}

const char *http_exchange_peer(const struct http_exchange *exchange)
{
    (void)exchange;
    return "127.0.0.1:4711";
}

bool http_exchange_has_body(const struct http_exchange *exchange)
{
    return exchange->request.has_body;
}

uint64_t http_exchange_body_length(const struct http_exchange *exchange)
{
    return exchange->request.body_length;
}

void http_exchange_set_body_max(struct http_exchange *exchange, uint64_t bytes_max)
{
    exchange->body_max = bytes_max;
}

void http_exchange_read(struct http_exchange *exchange,
                        void (*on_data)(const void *bytes, size_t length, void *context),
                        void (*on_end)(const struct error *error, void *context), void *context)
{
    exchange->on_data = on_data;
    exchange->on_body_end = on_end;
    exchange->body_context = context;
}

void http_exchange_pause(struct http_exchange *exchange)
{
    exchange->is_paused = true;
}

void http_exchange_resume(struct http_exchange *exchange)
{
    exchange->is_paused = false;
}

void http_exchange_add_field(struct http_exchange *exchange, const char *name, const char *value)
{
    buffer_append_format(&exchange->head, "%s: %s\n", name, value);
}

void http_exchange_add_field_text(struct http_exchange *exchange, struct text name,
                                  struct text value)
{
    buffer_append_format(&exchange->head, "%.*s: %.*s\n", (int)name.length, name.data,
                         (int)value.length, value.data);
}

void http_exchange_respond(struct http_exchange *exchange, int status, const void *body,
                           size_t length)
{
    if (exchange->is_closed) {
        return;
    }
    EXPECT(!exchange->has_begun);
    exchange->has_begun = exchange->has_ended = true;
    exchange->status = status;
    exchange->length = length;
    buffer_append(&exchange->body, body, length);
}

void http_exchange_respond_error(struct http_exchange *exchange, const struct error *error,
                                 const char *request_id)
{
    (void)request_id;
    exchange->error = *error;
    http_exchange_respond(exchange, error_kind_http(error->kind), error->text, strlen(error->text));
}

void http_exchange_begin(struct http_exchange *exchange, int status, uint64_t length)
{
    if (exchange->is_closed) {
        return;
    }
    EXPECT(!exchange->has_begun);
    exchange->has_begun = true;
    exchange->status = status;
    exchange->length = length;
}

bool http_exchange_write(struct http_exchange *exchange, const void *bytes, size_t length)
{
    if (exchange->is_closed) {
        return true;
    }
    EXPECT(exchange->has_begun && !exchange->has_ended && !exchange->was_aborted);
    buffer_append(&exchange->body, bytes, length);
    exchange->writes++;
    return !exchange->is_slow;
}

void http_exchange_end(struct http_exchange *exchange)
{
    if (!exchange->is_closed) {
        EXPECT(exchange->has_begun && !exchange->has_ended && !exchange->was_aborted);
        exchange->has_ended = true;
    }
}

bool http_exchange_has_begun(const struct http_exchange *exchange)
{
    return exchange->has_begun;
}

void http_exchange_abort(struct http_exchange *exchange)
{
    EXPECT(!exchange->has_ended);
    exchange->was_aborted = true;
}

void http_exchange_on(struct http_exchange *exchange, void (*on_drain)(void *context),
                      void (*on_close)(void *context), void *context)
{
    exchange->on_drain = on_drain;
    exchange->on_close = on_close;
    exchange->context = context;
}

void http_exchange_unref(struct http_exchange *exchange)
{
    EXPECT(exchange->references > 0);
    if (--exchange->references == 0) {
        buffer_done(&exchange->head);
        buffer_done(&exchange->body);
        free(exchange);
    }
}

struct loop *http_exchange_loop(const struct http_exchange *exchange)
{
    return exchange->loop;
}

bool http_field_is_clean(struct text name, struct text value)
{
    return name.length > 0 && (value.length == 0 || memchr(value.data, '\r', value.length) == NULL);
}

bool http_percent_decode(struct text text, char *ret_text, size_t size)
{
    size_t used = 0;
    for (size_t i = 0; i < text.length; i++) {
        char c = text.data[i];
        if (c == '%') {
            char digits[3] = {0};
            char *end = digits;
            if (i + 2 < text.length) {
                memcpy(digits, text.data + i + 1, 2);
                c = (char)strtol(digits, &end, 16);
                i += 2;
            }
            if (end != digits + 2 || c == '\0') {
                return false;
            }
        }
        EXPECT(used + 1 < size);
        ret_text[used++] = c;
    }
    ret_text[used] = '\0';
    return true;
}
