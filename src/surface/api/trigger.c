/* Triggers.  Those of kind http are routes: here one is translated to the other. */
#include "service/trigger/trigger.h"

#include <stdio.h>
#include <string.h>

#include "base/memory.h"

#include "service/event/event.h"
#include "service/route/route.h"

#include "surface/api/parts.h"

static struct trigger_service *service_of(const struct request *request)
{
    return request->api->options.triggers;
}

static struct route_service *routes_of(const struct request *request)
{
    return request->api->options.routes;
}

/* Is the one named in the path a route?  What is neither is the triggers' to say. */
static bool is_route(const struct request *request)
{
    const char *name = request->parameters[0];
    return !trigger_exists(service_of(request), request->project, name) &&
        route_exists(routes_of(request), request->project, name);
}

/* ---- Kind http ---- */

/* Of what other kinds have, what makes no sense where somebody waits for the answer. */
static int check_has_no_source(const json_t *spec, struct error *err)
{
    static const char *const others[] = {
        "batch_size",       "batch_window_ms", "retries",   "retry_delay_ms", "retry_delay_max_ms",
        "event_age_max_ms", "bisect",          "transform", "on_success",     "on_failure"};
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
        const json_t *value = json_object_get(spec, others[i]);
        if (value != NULL && !json_is_null(value) && !json_is_false(value)) {
            return error_set(err, ERROR_INVALID,
                             "$.%s: a trigger of kind http has none; its caller waits for the "
                             "answer, or sends Prefer: respond-async with what it wants",
                             others[i]);
        }
    }
    return 0;
}

/* A TriggerSpec as a RouteSet, of the shape that it must have. */
static int route_of(const json_t *spec, json_t **ret_set, struct error *err)
{
    json_t *settings = json_object_get(spec, "settings");
    json_t *set = json_is_object(settings) ? json_deep_copy(settings) : json_object();
    const char *key = NULL;
    json_t *value = NULL;
    int r = check_has_no_source(spec, err);
    json_object_foreach(set, key, value)
    {
        if (r == 0 && route_is_trigger_member(key)) {
            r = error_set(err, ERROR_INVALID, "$.settings.%s: it is $.%s", key, key);
        }
    }
    json_object_foreach((json_t *)(uintptr_t)spec, key, value)
    {
        if (route_is_trigger_member(key) && !json_is_null(value)) {
            json_object_set(set, key, value);
        }
    }
    r = r < 0 ? r : api_type_check(set, "RouteSet", err);
    if (r < 0) {
        json_decref(set);
        return r;
    }
    *ret_set = set;
    return 0;
}

/* The one named in the path, or, when it is made, in the body. */
static void write_one(struct request *request)
{
    BUFFER_OWNED struct buffer body = {0};
    struct json_writer writer = json_writer_to(&body);
    struct error err = {0};
    const char *name = request->parameters[0];
    int r = is_route(request)
        ? route_write_trigger(routes_of(request), request->project, name, &writer, &err)
        : trigger_write(service_of(request), request->project, name, &body, &err);
    api_answer_written(request, r, &body, &err);
}

static void on_changed(const struct error *error, void *context)
{
    struct request *request = context;
    if (error != NULL) {
        api_answer_error(request, error);
    } else {
        write_one(request);
    }
}

static void on_route_changed(const struct error *error, uint64_t index, void *context)
{
    (void)index;
    on_changed(error, context);
}

static void put(struct request *request, const json_t *body, bool replaces)
{
    const char *kind = api_body_text(body, "kind");
    const char *name = request->parameters[0];
    struct error err = {0};
    JSON_OWNED json_t *set = NULL;
    if (kind == NULL || strcmp(kind, "http") != 0) {
        trigger_put(service_of(request), request->project, name, body, replaces,
                    (struct trigger_reply){on_changed, request});
    } else if (route_of(body, &set, &err) < 0) {
        api_answer_error(request, &err);
    } else {
        route_set(routes_of(request), request->project, name, set, replaces, on_route_changed,
                  request);
    }
}

/* ---- Operations ---- */

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
    struct json_writer writer = json_writer_to(&body);
    struct error err = {0};
    json_write_begin_object(&writer);
    json_write_key(&writer, "triggers");
    json_write_begin_array(&writer);
    int r = trigger_write_all(service_of(request), request->project, &writer, &err);
    r = r < 0 ? r : route_write_triggers(routes_of(request), request->project, &writer, &err);
    json_write_end_array(&writer);
    json_write_end_object(&writer);
    api_answer_written(request, r, &body, &err);
}

void api_trigger_get(struct request *request)
{
    write_one(request);
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
    put(request, body, false);
}

void api_trigger_create(struct request *request)
{
    api_body_read(request, "TriggerSpec", create);
}

static void set(struct request *request, const json_t *body)
{
    put(request, body, true);
}

void api_trigger_set(struct request *request)
{
    api_body_read(request, "TriggerSpec", set);
}

static void check(struct request *request, const json_t *body)
{
    const char *kind = api_body_text(body, "kind");
    const char *name = request->parameters[0];
    struct error err = {0};
    JSON_OWNED json_t *set = NULL;
    int r = 0;
    if (kind == NULL || strcmp(kind, "http") != 0) {
        r = trigger_check(service_of(request), request->project, name, body, &err);
    } else {
        r = route_of(body, &set, &err);
        r = r < 0 ? r : route_check(routes_of(request), request->project, name, set, &err);
    }
    if (r < 0) {
        api_answer_error(request, &err);
    } else {
        api_answer_nothing(request);
    }
}

void api_trigger_check(struct request *request)
{
    api_body_read(request, "TriggerSpec", check);
}

static void update(struct request *request, const json_t *body)
{
    const char *name = request->parameters[0];
    bool is_paused = json_is_true(json_object_get(body, "paused"));
    if (is_route(request)) {
        route_set_paused(routes_of(request), request->project, name, is_paused, on_route_changed,
                         request);
    } else {
        trigger_pause(service_of(request), request->project, name, is_paused,
                      (struct trigger_reply){on_changed, request});
    }
}

void api_trigger_update(struct request *request)
{
    api_body_read(request, "TriggerUpdate", update);
}

void api_trigger_delete(struct request *request)
{
    if (is_route(request)) {
        route_delete(routes_of(request), request->project, request->parameters[0], api_answer_done,
                     request);
    } else {
        trigger_delete(service_of(request), request->project, request->parameters[0],
                       (struct trigger_reply){on_deleted, request});
    }
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

/* POST, as events are sent, where the route takes it. */
static const char *method_of(const json_t *methods)
{
    static const char usual[] = "POST";
    for (size_t i = 0; i < json_array_size(methods); i++) {
        if (strcmp(json_string_value(json_array_get(methods, i)), usual) == 0) {
            return usual;
        }
    }
    return json_array_size(methods) > 0 ? json_string_value(json_array_get(methods, 0)) : usual;
}

/* What a test of a route is: the route, and a request that is its.  The path is asked for where it
 * cannot be known. */
static int test_of_route(struct request *request, struct event *event, json_t **ret_spec,
                         struct error *err)
{
    BUFFER_OWNED struct buffer text = {0};
    struct json_writer writer = json_writer_to(&text);
    JSON_OWNED json_t *spec = NULL;
    char path[API_PARAMETER_SIZE] = "";
    int r = route_write_trigger(routes_of(request), request->project, request->parameters[0],
                                &writer, err);
    r = r < 0 ? r : json_read(text.data, text.used, &spec, err);
    if (r < 0) {
        return r;
    }
    MEMORY_OWNED char *pattern = memory_copy_string(json_text(spec, "path"));
    const json_t *methods = json_object_get(json_object_get(spec, "settings"), "methods");
    MEMORY_OWNED char *method = memory_copy_string(method_of(methods));
    http_query_get(http_exchange_query(request->exchange), "path", path, sizeof(path));
    struct pattern_match match;
    const char *at = path[0] != '\0' ? path : pattern;
    if (strchr(at, '{') != NULL || !pattern_matches(pattern, text_of(at, strlen(at)), &match)) {
        return error_set(err, ERROR_INVALID,
                         "say the request's path, one that fits %.200s: blixard trigger test %s "
                         "--path PATH (?path=)",
                         pattern, request->parameters[0]);
    }
    json_object_set_new(spec, "path", json_string(at));
    json_object_set_new(spec, "settings",
                        json_pack("{s:s, s:s}", "method", method, "pattern", pattern));
    r = event_set(event, "method", method, err);
    r = r < 0 ? r : event_set(event, "path", at, err);
    *ret_spec = r < 0 ? NULL : json_incref(spec);
    return r;
}

static void on_event(struct buffer *body, const struct error *error, void *context)
{
    struct request *request = context;
    struct event event = {0};
    struct error err = error != NULL ? *error : (struct error){0};
    JSON_OWNED json_t *spec = NULL;
    int r = error != NULL
        ? -(int)error->kind
        : event_read(body->data != NULL ? (const void *)body->data : "", body->used, &event, &err);
    r = r < 0 || !is_route(request) ? r : test_of_route(request, &event, &spec, &err);
    if (r < 0) {
        event_done(&event);
        api_answer_error(request, &err);
        return;
    }
    request->stop = on_stop;
    request->state =
        trigger_test_new(service_of(request), request->project, request->parameters[0], spec,
                         &event, api_query_flag(request, "deliver", true), on_tested, request);
}

void api_trigger_test(struct request *request)
{
    http_exchange_read_all(request->exchange, 2 * API_BODY_MAX, on_event, request);
}
