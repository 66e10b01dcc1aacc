/* Requests to the API of this node, which knows what everything takes. */
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"

#include "service/manifest/parts.h"

enum { ANSWER_BYTES_MAX = 64 << 20 };

struct ask {
    struct list_node link;
    struct manifest_service *service;
    struct http_call *call;
    struct buffer body;
    int status;
    bool is_too_large;
    ask_answered *answered;
    void *context;
};

static void on_head(struct http_call *call, int status, void *context)
{
    struct ask *ask = context;
    (void)call;
    ask->status = status;
}

static void on_data(struct http_call *call, const void *bytes, size_t length, void *context)
{
    struct ask *ask = context;
    if (length > ANSWER_BYTES_MAX - ask->body.used) {
        ask->is_too_large = true;
        http_call_cancel(call);
        return;
    }
    buffer_append(&ask->body, bytes, length);
}

/* What a problem says (RFC 9457). */
static void take_problem(int status, const json_t *answer, struct error *err)
{
    const char *detail = json_text(answer, "detail");
    enum error_kind kind = error_kind_parse(json_text(answer, "code"));
    error_set(err, kind != ERROR_NONE ? kind : ERROR_PROTOCOL, "%s",
              detail[0] != '\0' ? detail : http_status_text(status));
}

static void on_end(struct http_call *call, const struct error *error, void *context)
{
    struct ask *ask = context;
    struct error err = {0};
    JSON_OWNED json_t *answer = NULL;
    (void)call;
    list_remove(&ask->link);
    if (ask->is_too_large) {
        error_set(&err, ERROR_TOO_LARGE, "an answer is larger than %d bytes", ANSWER_BYTES_MAX);
    } else if (error != NULL) {
        err = *error;
    } else if (ask->body.used > 0 && ask->body.data[0] == '{') {
        json_read(ask->body.data, ask->body.used, &answer, &err);
    }
    if (err.kind == ERROR_NONE && ask->status >= 300) {
        take_problem(ask->status, answer, &err);
    }
    ask->answered(ask->status, answer, err.kind != ERROR_NONE ? &err : NULL, ask->context);
    buffer_done(&ask->body);
    free(ask);
}

struct ask *ask(struct manifest_service *service, const char *method, const char *target,
                const json_t *body, ask_answered *answered, void *context)
{
    static const struct http_call_events events = {on_head, on_data, on_end};
    static const char *const fields[] = {"Content-Type: application/json", NULL};
    struct ask *ask = NEW(struct ask);
    ask->service = service;
    ask->answered = answered;
    ask->context = context;
    list_push_back(&service->asks, &ask->link);
    MEMORY_OWNED char *text = body != NULL ? json_dumps(body, JSON_COMPACT) : NULL;
    ask->call = http_client_call(service->client, method, target, text != NULL ? fields : NULL,
                                 text, text != NULL ? strlen(text) : 0, &events, ask);
    return ask;
}

char *ask_target(const struct manifest_kind *kind, const char *project, const char *name)
{
    BUFFER_OWNED struct buffer target = {0};
    const char *colon = kind->way == WAY_ALIAS ? strchr(name, ':') : NULL;
    size_t length = colon != NULL ? (size_t)(colon - name) : strlen(name);
    buffer_append_format(&target, "/v1/%s/", kind->collection);
    http_percent_encode(&target, text_of(name, length));
    buffer_append_format(&target, "?project=%s", project);
    return buffer_take(&target);
}
