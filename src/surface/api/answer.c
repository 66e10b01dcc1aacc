/* Answers: every one says which request and which state of the store it belongs to. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

#include "engine/store/store.h"

#include "surface/api/parts.h"

void api_add_fields(struct request *request)
{
    char index[24];
    snprintf(index, sizeof(index), "%" PRIu64, store_index(request->api->options.store));
    http_exchange_add_field(request->exchange, "X-Blixard-Index", index);
    http_exchange_add_field(request->exchange, "X-Request-Id", request->id);
    http_exchange_add_field(request->exchange, "Cache-Control", "no-store");
    http_exchange_add_field(request->exchange, "X-Content-Type-Options", "nosniff");
}

void api_request_end(struct request *request)
{
    struct api *api = request->api;
    list_remove(&request->link);
    http_exchange_unref(request->exchange);
    free(request);
    if (api->stopping && list_is_empty(&api->requests) && api->drained) {
        loop_stop(api->options.loop);
    }
}

void api_answer_text(struct request *request, int status, const char *type, const char *text)
{
    api_add_fields(request);
    http_exchange_add_field(request->exchange, "Content-Type", type);
    http_exchange_respond(request->exchange, status, text, strlen(text));
    api_request_end(request);
}

void api_answer_json(struct request *request, int status, struct buffer *body)
{
    buffer_append_byte(body, '\n');
    api_answer_text(request, status, "application/json", buffer_string(body));
}

void api_answer_object(const json_t *object, void *context)
{
    BUFFER_OWNED struct buffer body = {0};
    struct request *request = context;
    struct json_writer writer = json_writer_to(&body);
    json_write_begin_object(&writer);
    json_write_members(&writer, object);
    json_write_end_object(&writer);
    api_answer_json(request, request->status, &body);
}

void api_answer_nothing(struct request *request)
{
    api_add_fields(request);
    http_exchange_respond(request->exchange, 204, NULL, 0);
    api_request_end(request);
}

void api_answer_error(struct request *request, const struct error *error)
{
    api_add_fields(request);
    if (error->kind == ERROR_UNAUTHENTICATED) {
        http_exchange_add_field(request->exchange, "WWW-Authenticate", "Bearer realm=\"blixard\"");
    }
    http_exchange_respond_error(request->exchange, error, request->id);
    api_request_end(request);
}

void api_answer_done(const struct error *error_or_null, uint64_t index, void *request)
{
    (void)index;
    if (error_or_null != NULL) {
        api_answer_error(request, error_or_null);
    } else {
        api_answer_nothing(request);
    }
}

struct beginning {
    struct request *request;
    char *name;
};

struct beginning *api_begin(struct request *request, const char *name)
{
    struct beginning *beginning = NEW(struct beginning);
    *beginning = (struct beginning){request, name != NULL ? memory_copy_string(name) : NULL};
    return beginning;
}

void api_answer_begun(const struct error *error, const char *operation, void *context)
{
    struct beginning *beginning = context;
    struct request *request = beginning->request;
    if (error != NULL) {
        api_answer_error(request, error);
    } else {
        BUFFER_OWNED struct buffer body = {0};
        struct json_writer writer = json_writer_to(&body);
        json_write_begin_object(&writer);
        if (beginning->name != NULL) {
            json_write_field_string(&writer, "name", beginning->name);
        }
        json_write_field_string(&writer, "operation", operation);
        json_write_end_object(&writer);
        api_answer_json(request, request->status, &body);
    }
    free(beginning->name);
    free(beginning);
}

void api_answer_written(struct request *request, int r, struct buffer *body, struct error *err)
{
    if (r < 0) {
        api_answer_error(request, err);
    } else {
        api_answer_json(request, request->status, body);
    }
}
