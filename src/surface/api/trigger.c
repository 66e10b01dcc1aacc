/* Triggers. */
#include "service/trigger/trigger.h"

#include <stdio.h>
#include <string.h>

#include "service/event/event.h"

#include "surface/api/parts.h"

static struct trigger_service *service_of(const struct request *request)
{
    return request->api->options.triggers;
}

/* The one named in the path, or, when it is made, in the body. */
static void write_one(struct request *request, const char *name)
{
    BUFFER_OWNED struct buffer body = {0};
    struct error err = {0};
    int r = trigger_write(service_of(request), request->project, name, &body, &err);
    api_answer_written(request, r, &body, &err);
}

static void on_changed(const struct error *error, void *context)
{
    struct request *request = context;
    if (error != NULL) {
        api_answer_error(request, error);
    } else {
        write_one(request, request->parameters[0]);
    }
}

static void on_deleted(const struct error *error, void *context)
{
    struct request *request = context;
    if (error != NULL) {
        api_answer_error(request, error);
    } else {
        api_answer_nothing(request);
    }
}

void api_trigger_list(struct request *request)
{
    BUFFER_OWNED struct buffer body = {0};
    struct error err = {0};
    int r = trigger_write_list(service_of(request), request->project, &body, &err);
    api_answer_written(request, r, &body, &err);
}

void api_trigger_get(struct request *request)
{
    write_one(request, request->parameters[0]);
}

static void create(struct request *request, const json_t *body)
{
    const char *name = api_body_text(body, "name");
    struct error err = {0};
    if (name == NULL || !text_is_name(name)) {
        error_set(&err, ERROR_INVALID, "$.name is missing or no name: 1 to 63 of a-z, 0-9 and '-'");
        api_answer_error(request, &err);
        return;
    }
    snprintf(request->parameters[0], sizeof(request->parameters[0]), "%s", name);
    trigger_put(service_of(request), request->project, name, body, false,
                (struct trigger_reply){on_changed, request});
}

void api_trigger_create(struct request *request)
{
    api_body_read(request, "TriggerSpec", create);
}

static void set(struct request *request, const json_t *body)
{
    trigger_put(service_of(request), request->project, request->parameters[0], body, true,
                (struct trigger_reply){on_changed, request});
}

void api_trigger_set(struct request *request)
{
    api_body_read(request, "TriggerSpec", set);
}

static void update(struct request *request, const json_t *body)
{
    trigger_pause(service_of(request), request->project, request->parameters[0],
                  json_is_true(json_object_get(body, "paused")),
                  (struct trigger_reply){on_changed, request});
}

void api_trigger_update(struct request *request)
{
    api_body_read(request, "TriggerUpdate", update);
}

void api_trigger_delete(struct request *request)
{
    trigger_delete(service_of(request), request->project, request->parameters[0],
                   (struct trigger_reply){on_deleted, request});
}

/* ---- Testing ---- */

static void on_stop(struct request *request)
{
    struct error err = {0};
    trigger_test_free(request->state);
    error_set(&err, ERROR_UNAVAILABLE, "the node is shutting down");
    request->stop = NULL;
    api_answer_error(request, &err);
}

static void on_tested(const struct error *error, struct buffer *document, void *context)
{
    struct request *request = context;
    request->stop = NULL;
    if (error != NULL) {
        api_answer_error(request, error);
    } else {
        api_answer_json(request, request->status, document);
    }
}

static void on_event(struct buffer *body, const struct error *error, void *context)
{
    struct request *request = context;
    struct event event = {0};
    struct error err = error != NULL ? *error : (struct error){0};
    char deliver[8] = "";
    int r = error != NULL
        ? -(int)error->kind
        : event_read(body->data != NULL ? (const void *)body->data : "", body->used, &event, &err);
    if (r < 0) {
        api_answer_error(request, &err);
        return;
    }
    http_query_get(http_exchange_query(request->exchange), "deliver", deliver, sizeof(deliver));
    request->stop = on_stop;
    request->state = trigger_test_new(service_of(request), request->project, request->parameters[0],
                                      &event, strcmp(deliver, "false") != 0, on_tested, request);
}

void api_trigger_test(struct request *request)
{
    http_exchange_read_all(request->exchange, 2 * API_BODY_MAX, on_event, request);
}
