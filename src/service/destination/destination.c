#include "service/destination/destination.h"

#include <string.h>

#include "base/check.h"
#include "base/error.h"
#include "base/list.h"
#include "base/loop/loop.h"
#include "base/memory.h"
#include "base/text.h"

#include "service/event/event.h"
#include "service/gateway/invoke.h"
#include "service/telemetry/telemetry.h"

#define FUNCTION "function"

enum { SCHEMES_MAX = 8, NAME_MAX_BYTES = 140, FIELDS_MAX = GATEWAY_INVOKE_FIELDS_MAX };

struct destination_service {
    struct loop *loop;
    struct gateway *gateway;
    struct list calls;
    struct {
        const char *name;
        destination_send_function *send;
        void *state;
    } schemes[SCHEMES_MAX];
    unsigned scheme_count;
};

/* A call of a function, or an error that is told later. */
struct call {
    struct list_node link;
    struct gateway_invoke *invoke;
    struct loop_timer *timer;
    struct error error;
    destination_done *done;
    void *context;
};

static void call_free(struct call *call)
{
    list_remove(&call->link);
    gateway_invoke_free(call->invoke);
    loop_timer_free(call->timer);
    free(call);
}

static void tell_error(void *context)
{
    struct call *call = context;
    destination_done *done = call->done;
    void *done_context = call->context;
    struct error error = call->error;
    call_free(call);
    done(&error, done_context);
}

static struct call *call_new(struct destination_service *service, destination_done *done,
                             void *context)
{
    struct call *call = NEW(struct call);
    call->done = done;
    call->context = context;
    list_push_back(&service->calls, &call->link);
    return call;
}

static void fail_later(struct destination_service *service, const struct error *error,
                       destination_done *done, void *context)
{
    struct call *call = call_new(service, done, context);
    call->error = *error;
    call->timer = loop_timer_new(service->loop, tell_error, call);
    loop_timer_start(call->timer, 0);
}

/* ---- Functions ---- */

static void on_answered(const struct error *error, const struct gateway_result *result,
                        void *context)
{
    struct call *call = context;
    destination_done *done = call->done;
    void *done_context = call->context;
    struct error problem = error != NULL ? *error : (struct error){0};
    if (error == NULL && (result->status < 200 || result->status > 299)) {
        error_set(&problem, ERROR_TRAP, "%s answered %d", result->function, result->status);
    }
    call->invoke = NULL; /* it is over */
    call_free(call);
    done(problem.kind != ERROR_NONE ? &problem : NULL, done_context);
}

struct lines {
    char *lines[FIELDS_MAX + 1];
    size_t count;
};

static void add_line(const char *name, const char *value, void *context)
{
    struct lines *lines = context;
    if (lines->count < FIELDS_MAX) {
        lines->lines[lines->count++] = memory_format("%s: %s", name, value);
    }
}

static void send_to_function(const char *project, const char *name, const struct event *event,
                             destination_done *done, void *context, void *state)
{
    struct destination_service *service = state;
    struct error err = {0};
    if (service->gateway == NULL) {
        error_set(&err, ERROR_UNAVAILABLE, "this node has no gateway");
        fail_later(service, &err, done, context);
        return;
    }
    struct lines lines = {0};
    event_write_fields(event, add_line, &lines);
    const struct gateway_invocation invocation = {
        .project = project,
        .name = name,
        .fields = (const char *const *)lines.lines,
        .body = event->data.data,
        .body_length = event->data.used,
        .traceparent = event_get(event, "traceparent"),
        .caller = "destination",
        .what = "destination",
        .trigger = TELEMETRY_TRIGGER_OTHER,
    };
    struct call *call = call_new(service, done, context);
    call->invoke = gateway_invoke_new(service->gateway, &invocation, on_answered, call);
    for (size_t i = 0; i < lines.count; i++) {
        free(lines.lines[i]);
    }
}

/* ---- The service ---- */

struct destination_service *destination_service_new(struct loop *loop, struct gateway *gateway)
{
    struct destination_service *service = NEW(struct destination_service);
    service->loop = loop;
    service->gateway = gateway;
    list_init(&service->calls);
    destination_add(service, FUNCTION, send_to_function, service);
    return service;
}

void destination_service_free(struct destination_service *service)
{
    if (service == NULL) {
        return;
    }
    LIST_EACH(node, &service->calls)
    {
        struct call *call = LIST_ITEM(node, struct call, link);
        error_set(&call->error, ERROR_CANCELLED, "this node ends");
        tell_error(call);
    }
    free(service);
}

void destination_add(struct destination_service *service, const char *scheme,
                     destination_send_function *send, void *state)
{
    CHECK(service->scheme_count < SCHEMES_MAX);
    service->schemes[service->scheme_count].name = scheme;
    service->schemes[service->scheme_count].send = send;
    service->schemes[service->scheme_count++].state = state;
}

static int find(const struct destination_service *service, const char *text, unsigned *ret_index)
{
    const char *colon = strchr(text, ':');
    for (unsigned i = 0; colon != NULL && i < service->scheme_count; i++) {
        if (text_equal(text_of(text, (size_t)(colon - text)), service->schemes[i].name)) {
            *ret_index = i;
            return 0;
        }
    }
    return -1;
}

int destination_check(const struct destination_service *service, const char *text,
                      struct error *err)
{
    unsigned index = 0;
    const char *colon = strchr(text, ':');
    if (find(service, text, &index) < 0 || strlen(text) > NAME_MAX_BYTES) {
        return error_set(err, ERROR_INVALID,
                         "\"%.80s\" is no destination; it is function:NAME, queue:NAME or "
                         "stream:NAME",
                         text);
    }
    size_t length = strcspn(colon + 1, ":");
    MEMORY_OWNED char *name = memory_copy_text(colon + 1, length);
    const char *alias = colon[1 + length] == ':' ? colon + 2 + length : NULL;
    bool may_have_alias = strcmp(service->schemes[index].name, FUNCTION) == 0;
    uint64_t number = 0;
    bool is_alias = alias == NULL ||
        (may_have_alias &&
         (text_is_name(alias) || text_parse_u64(text_of(alias, strlen(alias)), &number)));
    if (!text_is_name(name) || !is_alias) {
        return error_set(err, ERROR_INVALID, "\"%.80s\" is no destination: \"%.64s\" is no %s",
                         text, is_alias ? name : alias,
                         is_alias             ? "name"
                             : may_have_alias ? "alias or version"
                                              : "part of a name");
    }
    return 0;
}

void destination_send(struct destination_service *service, const char *project, const char *text,
                      const struct event *event, destination_done *done, void *context)
{
    unsigned index = 0;
    struct error err = {0};
    if (find(service, text, &index) < 0) {
        error_set(&err, ERROR_UNSUPPORTED, "this node does not know the destination \"%.80s\"",
                  text);
        fail_later(service, &err, done, context);
        return;
    }
    service->schemes[index].send(project, strchr(text, ':') + 1, event, done, context,
                                 service->schemes[index].state);
}
