/* Secrets: a value comes in as a body, and goes out to nobody but other nodes' key. */
#include "service/secret/secret.h"

#include <string.h>

#include "surface/api/parts.h"

static struct secret_service *service_of(const struct request *request)
{
    return request->api->options.secrets;
}

/* ---- Looking ---- */

void api_secret_list(struct request *request)
{
    BUFFER_OWNED struct buffer body = {0};
    struct error err = {0};
    int r = secret_write_list(service_of(request), request->project, &body, &err);
    api_answer_written(request, r, &body, &err);
}

void api_secret_get(struct request *request)
{
    BUFFER_OWNED struct buffer body = {0};
    struct error err = {0};
    int r =
        secret_write(service_of(request), request->project, request->parameters[0], &body, &err);
    api_answer_written(request, r, &body, &err);
}

/* ---- Changing ---- */

static void on_set(const struct error *error, uint64_t index, void *context)
{
    (void)index;
    if (error != NULL) {
        api_answer_error(context, error);
    } else {
        api_secret_get(context);
    }
}

static void on_value(struct buffer *body, const struct error *error, void *context)
{
    struct request *request = context;
    if (error != NULL) {
        api_answer_error(request, error);
    } else {
        secret_set(service_of(request), request->project, request->parameters[0], body->data,
                   body->used, on_set, request);
    }
    if (body != NULL && body->data != NULL) {
        explicit_bzero(body->data, body->size);
    }
}

void api_secret_set(struct request *request)
{
    http_exchange_read_all(request->exchange, SECRET_VALUE_MAX, on_value, request);
}

void api_secret_delete(struct request *request)
{
    secret_delete(service_of(request), request->project, request->parameters[0], api_answer_done,
                  request);
}

/* ---- Peers ---- */

void api_secrets_key_get(struct request *request)
{
    uint8_t key[SECRET_KEY_BYTES];
    struct error err = {0};
    if (secret_give_key(service_of(request), key, &err) < 0) {
        api_answer_error(request, &err);
        return;
    }
    api_add_fields(request);
    http_exchange_add_field(request->exchange, "Content-Type", "application/octet-stream");
    http_exchange_add_field(request->exchange, "Cache-Control", "no-store");
    http_exchange_respond(request->exchange, request->status, key, sizeof(key));
    explicit_bzero(key, sizeof(key));
    api_request_end(request);
}
