/* Bodies in JSON, read whole and checked against their type before the handler sees them. */
#include <string.h>

#include "base/memory.h"

#include "surface/api/parts.h"

struct reading {
    struct request *request;
    const char *type;
    const char *too_large; /* what is said then; NULL: the bound of every body */
    int (*check)(const json_t *value, const char *type, struct error *err);
    void (*handle)(struct request *request, const json_t *body);
};

static void on_body(struct buffer *body, const struct error *error, void *context)
{
    struct reading *reading = context;
    struct request *request = reading->request;
    struct error err = {0};
    JSON_OWNED json_t *value = NULL;
    int r = 0;
    if (error != NULL && error->kind == ERROR_TOO_LARGE && reading->too_large != NULL) {
        r = error_set(&err, ERROR_TOO_LARGE, "%s", reading->too_large);
    } else if (error != NULL) {
        err = *error;
        r = -(int)err.kind;
    } else {
        r = json_read(body->data != NULL ? (const void *)body->data : "", body->used, &value, &err);
    }
    r = r < 0 ? r : reading->check(value, reading->type, &err);
    if (r < 0) {
        api_answer_error(request, &err);
    } else {
        reading->handle(request, value);
    }
    free(reading);
}

static void begin(struct request *request, struct reading reading)
{
    struct reading *copy = NEW(struct reading);
    *copy = reading;
    copy->request = request;
    http_exchange_read_all(request->exchange, API_BODY_MAX, on_body, copy);
}

void api_body_read(struct request *request, const char *type,
                   void (*handle)(struct request *request, const json_t *body))
{
    begin(request, (struct reading){.type = type, .check = api_type_check, .handle = handle});
}

void api_body_read_saying(struct request *request, const char *type, const char *too_large,
                          void (*handle)(struct request *request, const json_t *body))
{
    begin(request,
          (struct reading){
              .type = type, .too_large = too_large, .check = api_type_check, .handle = handle});
}

void api_message_read(struct request *request, const char *type,
                      void (*handle)(struct request *request, const json_t *body))
{
    begin(request,
          (struct reading){.type = type, .check = api_type_check_message, .handle = handle});
}

const char *api_body_text(const json_t *body, const char *key)
{
    return json_string_value(json_object_get(body, key));
}

int api_body_duration(const json_t *body, const char *key, uint64_t *ret_ms, struct error *err)
{
    const char *text = api_body_text(body, key);
    *ret_ms = 0;
    if (text != NULL && (!text_parse_duration_ms(text, ret_ms) || *ret_ms == 0)) {
        return error_set(err, ERROR_INVALID, "$.%s: \"%.32s\" is no time, for example 3h", key,
                         text);
    }
    return 0;
}
