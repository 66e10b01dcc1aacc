/* Accepting from HTTP: `Prefer: respond-async` (RFC 7240) and `Idempotency-Key`. */
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "base/http/http.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "service/event/event.h"
#include "service/gateway/gateway.h"
#include "service/gateway/invoke.h"
#include "service/invocation/parts.h"

struct serving {
    struct invocation_service *service;
    struct http_exchange *exchange;
    char project[64];
    char function[INVOCATION_TEXT_SIZE];
    char idempotency[INVOCATION_TEXT_SIZE];
    struct gateway_origin origin;
    char *path;
    char *query;
    char *method;
    struct buffer field_text;
    const char *fields[GATEWAY_INVOKE_FIELDS_MAX + 1];
    struct function_policy policy;
};

static void serving_end(struct serving *serving)
{
    http_exchange_unref(serving->exchange);
    buffer_done(&serving->field_text);
    free(serving->path);
    free(serving->query);
    free(serving->method);
    free(serving);
}

static void fail(struct serving *serving, const struct error *error)
{
    http_exchange_respond_error(serving->exchange, error, NULL);
    serving_end(serving);
}

static void on_created(const struct error *error, const char *id, bool is_repeated, void *context)
{
    struct serving *serving = context;
    struct error err = {0};
    BUFFER_OWNED struct buffer body = {0};
    if (error != NULL) {
        fail(serving, error);
        return;
    }
    if (invocation_write(serving->service, serving->project, id, &body, &err) < 0) {
        fail(serving, &err); /* it was kept for a very short time */
        return;
    }
    bool is_default = strcmp(serving->project, "default") == 0;
    MEMORY_OWNED char *location =
        memory_format("/v1/invocations/%s%s%s", id,
                      is_default ? "" : "?project=", is_default ? "" : serving->project);
    http_exchange_add_field(serving->exchange, "Location", location);
    http_exchange_add_field(serving->exchange, "Preference-Applied", "respond-async");
    http_exchange_add_field(serving->exchange, "X-Blixard-Invocation", id);
    http_exchange_add_field(serving->exchange, "Content-Type", "application/json");
    if (is_repeated) {
        http_exchange_add_field(serving->exchange, "Idempotent-Replayed", "true");
    }
    http_exchange_respond(serving->exchange, 202, body.data, body.used);
    serving_end(serving);
}

/* ---- CloudEvents: a function gets one in binary mode, however it came ---- */

struct lines {
    struct buffer text;
    size_t starts[GATEWAY_INVOKE_FIELDS_MAX];
    size_t count;
};

static void add_line(struct lines *lines, const char *name, const char *value)
{
    if (lines->count < GATEWAY_INVOKE_FIELDS_MAX) {
        lines->starts[lines->count++] = lines->text.used;
        buffer_append_format(&lines->text, "%s: %s", name, value);
        buffer_append_byte(&lines->text, '\0');
    }
}

static void on_event_field(const char *name, const char *value, void *context)
{
    add_line(context, name, value);
}

/* The media type of the request, without parameters. */
static bool is_of_type(const struct serving *serving, const char *type)
{
    struct text given = http_exchange_field(serving->exchange, "Content-Type");
    const char *semicolon = given.length > 0 ? memchr(given.data, ';', given.length) : NULL;
    given.length = semicolon != NULL ? (size_t)(semicolon - given.data) : given.length;
    return text_equal_ignoring_case(text_trim(given), type);
}

static int take_event(struct serving *serving, struct buffer *body, struct error *err)
{
    EVENT_OWNED struct event event = {0};
    struct lines lines = {0};
    int r = event_read(body->data != NULL ? (const void *)body->data : "", body->used, &event, err);
    if (r < 0) {
        return r;
    }
    event_write_fields(&event, on_event_field, &lines);
    for (size_t i = 0; serving->fields[i] != NULL; i++) {
        if (strncasecmp(serving->fields[i], "Content-Type:", 13) != 0 &&
            strncasecmp(serving->fields[i], "ce-", 3) != 0 &&
            lines.count < GATEWAY_INVOKE_FIELDS_MAX) {
            lines.starts[lines.count++] = lines.text.used;
            buffer_append(&lines.text, serving->fields[i], strlen(serving->fields[i]) + 1);
        }
    }
    buffer_done(&serving->field_text);
    serving->field_text = lines.text;
    for (size_t i = 0; i < lines.count; i++) {
        serving->fields[i] = (const char *)serving->field_text.data + lines.starts[i];
    }
    serving->fields[lines.count] = NULL;
    buffer_clear(body);
    buffer_append(body, event.data.data, event.data.used);
    return 0;
}

/* A batch stays one: the function gets all of it, once it is known to be one. */
static int check_batch(const struct buffer *body, struct error *err)
{
    struct event *events = NULL;
    size_t count = 0;
    int r = event_read_batch(body->data != NULL ? (const void *)body->data : "", body->used,
                             &events, &count, err);
    for (size_t i = 0; r == 0 && i < count; i++) {
        event_done(&events[i]);
    }
    free(events);
    return r;
}

/* One in binary mode is given as it came: what has any of the four attributes has them all. */
static int check_fields(const struct serving *serving, const struct buffer *body, struct error *err)
{
    static const struct text required[] = {
        {"ce-specversion", 14}, {"ce-id", 5}, {"ce-source", 9}, {"ce-type", 7}};
    EVENT_OWNED struct event event = {0};
    bool is_event = false;
    for (size_t i = 0; serving->fields[i] != NULL; i++) {
        const char *field = serving->fields[i];
        size_t length = strcspn(field, ":");
        struct text name = text_of(field, length);
        struct text value = text_of(field + length, strlen(field + length));
        value.data += value.length > 0;
        value.length -= value.length > 0;
        is_event = is_event ||
            text_is_among_ignoring_case(name, required, sizeof(required) / sizeof(required[0]));
        if (event_read_field(&event, name, text_trim(value), err) < 0) {
            return is_event ? -(int)err->kind : 0;
        }
    }
    return is_event ? event_read_body(&event, body->data, body->used, err) : 0;
}

static int take_events(struct serving *serving, struct buffer *body, struct error *err)
{
    if (is_of_type(serving, EVENT_TYPE_STRUCTURED)) {
        return take_event(serving, body, err);
    }
    return is_of_type(serving, EVENT_TYPE_BATCH) ? check_batch(body, err)
                                                 : check_fields(serving, body, err);
}

/* ---- Accepting ---- */

static void on_body(struct buffer *body, const struct error *error, void *context)
{
    struct serving *serving = context;
    if (error != NULL && error->kind == ERROR_TOO_LARGE) {
        struct error err = {0};
        error_set(&err, ERROR_TOO_LARGE,
                  "an asynchronous invocation takes at most %d bytes; call the function without "
                  "Prefer: respond-async, or put the data elsewhere",
                  (int)INVOCATION_BODY_MAX);
        fail(serving, &err);
        return;
    }
    if (error != NULL) {
        fail(serving, error);
        return;
    }
    struct error err = {0};
    if (take_events(serving, body, &err) < 0) {
        fail(serving, &err);
        return;
    }
    const struct invocation_request request = {
        .project = serving->project,
        .function = serving->function,
        .method = serving->method,
        .path = serving->path,
        .origin = &serving->origin,
        .query = serving->query,
        .fields = serving->fields,
        .body = body->data,
        .body_length = body->used,
        .idempotency = serving->idempotency[0] != '\0' ? serving->idempotency : NULL,
        .policy = &serving->policy,
    };
    invocation_create(serving->service, &request, on_created, serving);
}

/* Those of the connection, and those that were for us, do not reach the function. */
static bool is_for_function(struct text name)
{
    static const char *const others[] = {
        "Connection",
        "Content-Length",
        "Expect",
        "Host",
        "Idempotency-Key",
        "Keep-Alive",
        "Prefer",
        "Proxy-Authorization",
        "TE",
        "Trailer",
        "Transfer-Encoding",
        "Upgrade",
        "X-Request-Id",
        /* What lets a client in is not to be kept in the state. */
        "Authorization",
        "Cookie",
    };
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
        if (text_equal_ignoring_case(name, others[i])) {
            return false;
        }
    }
    return name.length < 11 || strncasecmp(name.data, "X-Blixard-", 10) != 0;
}

static int collect_fields(struct serving *serving, struct error *err)
{
    size_t starts[GATEWAY_INVOKE_FIELDS_MAX];
    size_t count = 0;
    for (size_t i = 0; i < http_exchange_field_count(serving->exchange); i++) {
        struct text name;
        struct text value;
        http_exchange_field_at(serving->exchange, i, &name, &value);
        if (!is_for_function(name)) {
            continue;
        }
        if (count == GATEWAY_INVOKE_FIELDS_MAX || serving->field_text.used > 16384) {
            return error_set(err, ERROR_TOO_LARGE,
                             "an asynchronous invocation keeps at most %d fields of 16 KiB",
                             (int)GATEWAY_INVOKE_FIELDS_MAX);
        }
        starts[count++] = serving->field_text.used;
        buffer_append_format(&serving->field_text, "%.*s: %.*s", (int)name.length, name.data,
                             (int)value.length, value.data);
        buffer_append_byte(&serving->field_text, '\0');
    }
    for (size_t i = 0; i < count; i++) {
        serving->fields[i] = (const char *)serving->field_text.data + starts[i];
    }
    return 0;
}

static int read_key(struct serving *serving, struct error *err)
{
    struct text key = http_exchange_field(serving->exchange, "Idempotency-Key");
    bool is_good =
        key.length < sizeof(serving->idempotency) && !(key.data != NULL && key.length == 0);
    for (size_t i = 0; is_good && i < key.length; i++) {
        is_good = key.data[i] > ' ' && key.data[i] < 0x7f;
    }
    if (!is_good) {
        return error_set(err, ERROR_INVALID, "Idempotency-Key is 1 to %d visible ASCII characters",
                         INVOCATION_TEXT_SIZE - 1);
    }
    snprintf(serving->idempotency, sizeof(serving->idempotency), "%.*s", (int)key.length,
             key.length > 0 ? key.data : "");
    return 0;
}

static int read_all_preferences(struct serving *serving, struct error *err)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < http_exchange_field_count(serving->exchange); i++) {
        struct text name;
        struct text value;
        bool is_async = false;
        http_exchange_field_at(serving->exchange, i, &name, &value);
        if (text_equal_ignoring_case(name, "Prefer")) {
            r = invocation_read_preferences(value, &serving->policy, &is_async, err);
        }
    }
    return r;
}

bool invocation_is_wanted(const struct http_exchange *exchange)
{
    bool is_wanted = false;
    if (http_exchange_field(exchange, "Prefer").data == NULL) {
        return false;
    }
    for (size_t i = 0; !is_wanted && i < http_exchange_field_count(exchange); i++) {
        struct text name;
        struct text value;
        struct function_policy policy;
        struct error ignored = {0};
        http_exchange_field_at(exchange, i, &name, &value);
        if (text_equal_ignoring_case(name, "Prefer")) {
            invocation_read_preferences(value, &policy, &is_wanted, &ignored);
        }
    }
    return is_wanted;
}

void invocation_serve(struct invocation_service *service, struct http_exchange *owned_exchange,
                      const char *project, struct text name, struct text path,
                      const struct gateway_origin *origin_or_null)
{
    struct serving *serving = NEW(struct serving);
    struct error err = {0};
    struct text query = http_exchange_query(owned_exchange);
    struct text method = http_exchange_method_text(owned_exchange);
    CHECK(http_exchange_loop(owned_exchange) == service->options.loop);
    serving->service = service;
    serving->exchange = owned_exchange;
    if (origin_or_null != NULL) {
        serving->origin = *origin_or_null;
    }
    snprintf(serving->project, sizeof(serving->project), "%s", project);
    snprintf(serving->function, sizeof(serving->function), "%.*s", (int)name.length, name.data);
    function_read_policy(service->options.functions, project, serving->function, &serving->policy);
    serving->path = memory_copy_text(path.length > 0 ? path.data : "", path.length);
    serving->query = memory_copy_text(query.length > 0 ? query.data : "", query.length);
    serving->method = memory_copy_text(method.data, method.length);
    int r = name.length >= sizeof(serving->function)
        ? error_set(&err, ERROR_NOT_FOUND, "there is no function of so long a name")
        : 0;
    r = r < 0 ? r : read_key(serving, &err);
    r = r < 0 ? r : read_all_preferences(serving, &err);
    r = r < 0 ? r : collect_fields(serving, &err);
    if (r < 0) {
        fail(serving, &err);
        return;
    }
    http_exchange_read_all(owned_exchange, INVOCATION_BODY_MAX, on_body, serving);
}
