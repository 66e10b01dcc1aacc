/*
 * Passing an exchange on: its request to a node, the node's answer to its client, both streamed and
 * held back by whoever is slower.
 *
 * A pass is over when three things are: the call, the request's body, and the telling.  The body is
 * read only when the connection to the node is there, so that until then another node can be asked.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/http/http.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "service/peer/inside.h"

enum { FIELDS_MAX = 320, TEXT_BYTES = 1000 };

struct peer_pass {
    struct peer_clients *clients;
    struct peer_client *client;
    struct http_exchange *exchange; /* a reference */
    struct http_call *call;         /* NULL: ended, or never begun */
    struct loop_timer *timer;
    struct peer_pass_events events;
    void *context;
    uint64_t timeout_ms;
    const char *upgrade; /* or NULL */
    bool takes_refusal;
    bool has_body;

    bool is_reading; /* the request's body: begun and not ended */
    bool was_read;   /* begun */
    bool was_sent;
    bool is_head;
    bool is_answered; /* whole */
    bool is_gone;     /* the client */
    bool is_cancelled;
    bool is_refused; /* by the node, before any function saw it */
    bool discards;
    bool is_ending; /* the end of the call is being told: it settles */
    struct error error;
};

/* ---- Fields ---- */

/* Those of one connection (RFC 9110, 7.6.1), and those that the cores write themselves. */
static bool is_of_connection(struct text name)
{
    static const struct text names[] = {
        TEXT_LITERAL("Connection"),
        TEXT_LITERAL("Keep-Alive"),
        TEXT_LITERAL("Proxy-Connection"),
        TEXT_LITERAL("Proxy-Authenticate"),
        TEXT_LITERAL("TE"),
        TEXT_LITERAL("Proxy-Authorization"),
        TEXT_LITERAL("Trailer"),
        TEXT_LITERAL("Transfer-Encoding"),
        TEXT_LITERAL("Upgrade"),
        TEXT_LITERAL("Content-Length"),
        TEXT_LITERAL("Expect"),
        TEXT_LITERAL("Host"),
        TEXT_LITERAL("Date"),
        TEXT_LITERAL("HTTP2-Settings"),
    };
    return text_is_among_ignoring_case(name, names, sizeof(names) / sizeof(names[0]));
}

/* What nodes say to each other is not for clients to say, nor for them to hear. */
bool peer_field_is_ours(struct text name)
{
    static const struct text names[] = {
        TEXT_LITERAL(PEER_FIELD_HOP),         TEXT_LITERAL(PEER_FIELD_FUNCTION),
        TEXT_LITERAL(PEER_FIELD_SCRIPT),      TEXT_LITERAL(PEER_FIELD_HOST),
        TEXT_LITERAL(PEER_FIELD_CLIENT),      TEXT_LITERAL(PEER_FIELD_DEADLINE),
        TEXT_LITERAL(PEER_FIELD_REFUSED),     TEXT_LITERAL(PEER_FIELD_FAILED),
        TEXT_LITERAL(PEER_FIELD_PATTERN),     TEXT_LITERAL(PEER_FIELD_USER),
        TEXT_LITERAL(PEER_FIELD_SCHEME),      TEXT_LITERAL(PEER_FIELD_SUBJECT),
        TEXT_LITERAL(PEER_FIELD_FINGERPRINT), TEXT_LITERAL(PEER_FIELD_STREAMS),
        TEXT_LITERAL(PEER_FIELD_WEBSOCKET),
    };
    size_t length = sizeof(PEER_FIELD_OURS) - 1;
    return name.length >= length && strncasecmp(name.data, PEER_FIELD_OURS, length) == 0 &&
        text_is_among_ignoring_case(name, names, sizeof(names) / sizeof(names[0]));
}

/* Connection: NAME, NAME makes more fields ones of the connection. */
static bool is_listed(struct text list, struct text name)
{
    while (list.length > 0) {
        const char *comma = memchr(list.data, ',', list.length);
        size_t length = comma != NULL ? (size_t)(comma - list.data) : list.length;
        struct text one = text_trim(text_of(list.data, length));
        if (one.length == name.length && strncasecmp(one.data, name.data, name.length) == 0) {
            return true;
        }
        size_t skip = length + (comma != NULL);
        list = text_of(list.data + skip, list.length - skip);
    }
    return false;
}

/* The owner says it itself. */
static bool is_replaced(const char *const *added, struct text name)
{
    for (size_t i = 0; added != NULL && added[i] != NULL; i++) {
        if (strncasecmp(added[i], name.data, name.length) == 0 && added[i][name.length] == ':') {
            return true;
        }
    }
    return false;
}

/* The client's fields and the owner's as lines, which point into `text`. */
static void collect_fields(const struct http_exchange *exchange, const char *const *added,
                           const char *lines[FIELDS_MAX + 1], struct buffer *text)
{
    struct text listed = http_exchange_field(exchange, "Connection");
    size_t starts[FIELDS_MAX];
    size_t count = 0;
    buffer_reserve(text, TEXT_BYTES);
    for (size_t i = 0; i < http_exchange_field_count(exchange) && count < FIELDS_MAX - 16; i++) {
        struct text name, value;
        http_exchange_field_at(exchange, i, &name, &value);
        if (is_of_connection(name) || peer_field_is_ours(name) || is_listed(listed, name) ||
            is_replaced(added, name)) {
            continue;
        }
        starts[count++] = text->used;
        buffer_append(text, name.data, name.length);
        buffer_append_string(text, ": ");
        buffer_append(text, value.data, value.length);
        buffer_append_byte(text, '\0');
    }
    for (size_t i = 0; i < count; i++) {
        lines[i] = (const char *)text->data + starts[i];
    }
    for (size_t i = 0; added != NULL && added[i] != NULL && count < FIELDS_MAX; i++) {
        lines[count++] = added[i];
    }
    lines[count] = NULL;
}

/* ---- The end ---- */

static void pass_end(struct peer_pass *pass)
{
    void (*on_end)(const struct error *, bool, void *) = pass->events.on_end;
    struct error error = pass->error;
    void *context = pass->context;
    bool is_untouched = !pass->was_read && (pass->is_refused || !pass->was_sent) && !pass->is_gone;
    http_exchange_on(pass->exchange, NULL, NULL, NULL);
    http_exchange_unref(pass->exchange);
    if (pass->client != NULL) {
        peer_client_leave(pass->clients, pass->client);
    }
    loop_timer_free(pass->timer);
    free(pass);
    on_end(error.kind != ERROR_NONE ? &error : NULL, is_untouched, context);
}

static void settle(struct peer_pass *pass)
{
    if (pass->call == NULL && !pass->is_reading && !pass->is_ending) {
        pass_end(pass);
    }
}

/* The first cause is the one that is told. */
static void note_error(struct peer_pass *pass, const struct error *error)
{
    if (pass->error.kind != ERROR_NONE || pass->is_answered) {
        return;
    }
    if (pass->client != NULL) {
        peer_name_error(pass->client, error, &pass->error);
    } else {
        pass->error = *error;
    }
}

static void cancel(struct peer_pass *pass)
{
    pass->is_cancelled = true;
    if (pass->call != NULL) {
        http_call_cancel(pass->call); /* on_call_end(), now or later */
    }
}

/* What is left of the body flows to nowhere. */
static void discard_body(struct peer_pass *pass)
{
    pass->discards = true;
    if (pass->is_reading) {
        http_exchange_resume(pass->exchange);
    }
}

/* ---- The request's body ---- */

static void on_body(const void *bytes, size_t length, void *context)
{
    struct peer_pass *pass = context;
    if (pass->discards || pass->call == NULL) {
        return;
    }
    if (!http_call_write(pass->call, bytes, length)) {
        http_exchange_pause(pass->exchange);
    }
}

static void on_body_end(const struct error *error, void *context)
{
    struct peer_pass *pass = context;
    pass->is_reading = false;
    if (pass->call != NULL && !pass->is_cancelled) {
        if (error == NULL) {
            http_call_finish(pass->call);
            return;
        }
        if (pass->error.kind == ERROR_NONE) {
            pass->error = *error; /* the client's, not the node's */
        }
        cancel(pass);
        return; /* the end of the call settles */
    }
    settle(pass);
}

static void read_body(struct peer_pass *pass)
{
    pass->was_read = pass->is_reading = true;
    http_exchange_read(pass->exchange, on_body, on_body_end, pass);
}

static void on_writable(struct http_call *call, void *context)
{
    struct peer_pass *pass = context;
    (void)call;
    if (!pass->was_read && pass->upgrade == NULL) {
        read_body(pass);
    } else if (pass->is_reading) {
        http_exchange_resume(pass->exchange);
    }
}

/* ---- The answer ---- */

static uint64_t length_of(const struct http_call *call)
{
    uint64_t length = UINT64_MAX;
    struct text value = http_call_field(call, "Content-Length");
    return value.length > 0 && text_parse_u64(value, &length) ? length : UINT64_MAX;
}

static void on_head(struct http_call *call, int status, void *context)
{
    struct peer_pass *pass = context;
    loop_timer_stop(pass->timer);
    if (pass->is_cancelled) {
        return;
    }
    if (pass->takes_refusal && http_call_field(call, PEER_FIELD_REFUSED).data != NULL) {
        pass->is_refused = true;
        return;
    }
    pass->is_head = true;
    struct text listed = http_call_field(call, "Connection");
    for (size_t i = 0; i < http_call_field_count(call); i++) {
        struct text name, value;
        http_call_field_at(call, i, &name, &value);
        if (!is_of_connection(name) && !peer_field_is_ours(name) && !is_listed(listed, name)) {
            http_exchange_add_field_of(pass->exchange, call, i);
        }
    }
    if (pass->events.on_head != NULL) {
        pass->events.on_head(status, pass->context);
    }
    if (pass->upgrade != NULL && status == 200) {
        http_exchange_upgrade(pass->exchange, pass->upgrade);
        read_body(pass);
        return;
    }
    bool has_none = status == 204 || status == 304;
    http_exchange_begin(pass->exchange, status, has_none ? 0 : length_of(call));
}

static void on_data(struct http_call *call, const void *bytes, size_t length, void *context)
{
    struct peer_pass *pass = context;
    if (pass->is_head && !pass->is_cancelled &&
        !http_exchange_write(pass->exchange, bytes, length)) {
        http_call_pause(call);
    }
}

static void on_call_end(struct http_call *call, const struct error *error, void *context)
{
    struct peer_pass *pass = context;
    pass->was_sent = pass->was_sent || http_call_was_sent(call);
    pass->call = NULL;
    pass->is_ending = true; /* the end of an exchange that is a connection ends its body */
    loop_timer_stop(pass->timer);
    if (pass->is_refused && error == NULL) {
        struct error err;
        error_set(&err, ERROR_UNAVAILABLE, "it cannot run the function any more");
        note_error(pass, &err);
    } else if (error != NULL) {
        note_error(pass, error);
        if (pass->is_head) {
            http_exchange_abort(pass->exchange);
        }
    } else {
        pass->is_answered = true;
        http_exchange_end(pass->exchange);
    }
    discard_body(pass);
    pass->is_ending = false;
    if (pass->is_reading) {
        return;
    }
    if (error == NULL && !pass->is_cancelled) {
        pass_end(pass);
    } else {
        loop_timer_start(pass->timer, 0); /* whoever cancels may be above us */
    }
}

/* ---- Life ---- */

static void on_drain(void *context)
{
    struct peer_pass *pass = context;
    if (pass->call != NULL && !pass->is_cancelled) {
        http_call_resume(pass->call);
    }
}

static void on_close(void *context)
{
    struct peer_pass *pass = context;
    pass->is_gone = true;
    if (pass->error.kind == ERROR_NONE && !pass->is_answered) {
        error_set(&pass->error, ERROR_CANCELLED, "the client went away");
    }
    cancel(pass);
}

static void on_timer(void *context)
{
    struct peer_pass *pass = context;
    if (pass->call != NULL) {
        struct error err;
        error_set(&err, ERROR_TIMEOUT, "no answer within %" PRIu64 " ms", pass->timeout_ms);
        note_error(pass, &err);
        cancel(pass);
    } else {
        settle(pass);
    }
}

void peer_pass_cancel(struct peer_pass *pass)
{
    if (pass->error.kind == ERROR_NONE && !pass->is_answered) {
        error_set(&pass->error, ERROR_CANCELLED, "cancelled");
    }
    cancel(pass);
}

static void begin(struct peer_pass *pass, const struct peer_passing *passing)
{
    static const struct http_call_events events = {on_head, on_data, on_call_end};
    const char *lines[FIELDS_MAX + 1];
    BUFFER_OWNED struct buffer text = {0};
    struct text method_text = http_exchange_method_text(pass->exchange);
    MEMORY_OWNED char *method = pass->upgrade != NULL
        ? memory_copy_string("POST")
        : memory_copy_text(method_text.data, method_text.length);
    collect_fields(pass->exchange, passing->fields, lines, &text);
    if (passing->timeout_ms > 0) {
        loop_timer_start(pass->timer, passing->timeout_ms);
    }
    pass->call = pass->has_body
        ? http_client_call_streaming(
              pass->client->http, method, passing->target, lines,
              pass->upgrade != NULL ? UINT64_MAX : http_exchange_body_length(pass->exchange),
              on_writable, &events, pass)
        : http_client_call(pass->client->http, method, passing->target, lines, NULL, 0, &events,
                           pass);
}

struct peer_pass *peer_pass_new(struct peer_clients *clients, struct http_exchange *exchange,
                                const struct peer_passing *passing,
                                const struct peer_pass_events *events, void *context)
{
    struct peer_pass *pass = NEW(struct peer_pass);
    pass->clients = clients;
    pass->exchange = http_exchange_ref(exchange);
    pass->events = *events;
    pass->context = context;
    pass->timeout_ms = passing->timeout_ms;
    pass->takes_refusal = passing->takes_refusal;
    pass->upgrade = passing->upgrade;
    pass->has_body = passing->upgrade != NULL || http_exchange_has_body(exchange);
    pass->timer = loop_timer_new(clients->loop, on_timer, pass);
    http_exchange_on(exchange, on_drain, on_close, pass);
    if (peer_client_enter(clients, passing->node, &pass->client, &pass->error) < 0) {
        loop_timer_start(pass->timer, 0);
    } else {
        begin(pass, passing);
    }
    return pass;
}
