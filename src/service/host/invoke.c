/* Functions that call functions: by the gateway's door, within the caller's time. */
#include "service/gateway/invoke.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/memory.h"

#include "service/host/private.h"
#include "service/telemetry/telemetry.h"

enum { PART_NAME, PART_METHOD, PART_PATH, PART_FIELDS, PART_BODY, PART_TIMEOUT };

/* What a request is made of, as strings. */
struct wish {
    char *name;
    char *method;
    char *path;
    char *query; /* in `path` */
    char *text;  /* of the fields */
    const char *fields[GATEWAY_INVOKE_FIELDS_MAX + 1];
    char depth[48];
};

static void wish_done(struct wish *wish)
{
    free(wish->name);
    free(wish->method);
    free(wish->path);
    free(wish->text);
}

/* "Name: value" lines; ours is added, and nobody else's of that name. */
static int split_fields(struct wish *wish, unsigned depth, struct error *err)
{
    static const char ours[] = INSTANCE_DEPTH_FIELD ":";
    size_t count = 0;
    char *rest = NULL;
    for (char *line = strtok_r(wish->text, "\r\n", &rest); line != NULL;
         line = strtok_r(NULL, "\r\n", &rest)) {
        if (strncasecmp(line, ours, sizeof(ours) - 1) == 0) {
            continue;
        }
        if (count == GATEWAY_INVOKE_FIELDS_MAX - 1) {
            return error_set(err, ERROR_INVALID, "there are more than %d fields",
                             (int)GATEWAY_INVOKE_FIELDS_MAX - 1);
        }
        wish->fields[count++] = line;
    }
    snprintf(wish->depth, sizeof(wish->depth), INSTANCE_DEPTH_FIELD ": %u", depth);
    wish->fields[count] = wish->depth;
    return 0;
}

static int wish_read(const struct session *session, const struct host_request *request,
                     struct wish *wish, struct error *err)
{
    if (session->depth >= HOST_DEPTH_MAX) {
        return error_set(err, ERROR_LIMIT,
                         "functions have called functions %d deep: is this one calling itself?",
                         (int)HOST_DEPTH_MAX);
    }
    int r = host_request_string(request, PART_NAME, HOST_FUNCTION_MAX, "function's name",
                                &wish->name, err);
    r = r < 0 ? r : host_request_string(request, PART_METHOD, 32, "method", &wish->method, err);
    r = r < 0 ? r
              : host_request_string(request, PART_PATH, HOST_PATH_MAX, "path", &wish->path, err);
    r = r < 0 ? r
              : host_request_string(request, PART_FIELDS, HOST_FIELD_BYTES_MAX, "list of fields",
                                    &wish->text, err);
    if (r < 0) {
        return r;
    }
    char *mark = strchr(wish->path, '?');
    if (mark != NULL) {
        *mark = '\0';
        wish->query = mark + 1;
    }
    return split_fields(wish, session->depth + 1, err);
}

static void on_answer(const struct error *error, const struct gateway_result *result, void *context)
{
    struct question *question = context;
    question->invoke = NULL;
    if (error != NULL) {
        question_refuse(question, error);
        return;
    }
    BUFFER_OWNED struct buffer fields = {0};
    BUFFER_OWNED struct buffer answer = {0};
    for (size_t i = 0; i < result->field_count; i++) {
        const struct gateway_field *field = &result->fields[i];
        buffer_append(&fields, field->name.data, field->name.length);
        buffer_append(&fields, ": ", 2);
        buffer_append(&fields, field->value.data, field->value.length);
        buffer_append(&fields, "\r\n", 2);
    }
    buffer_append_u32(&answer, (uint32_t)result->status);
    buffer_append_u32(&answer, (uint32_t)fields.used);
    if (fields.used > 0) {
        buffer_append(&answer, fields.data, fields.used);
    }
    if (result->body_length > 0) {
        buffer_append(&answer, result->body, result->body_length);
    }
    question_answer(question, (uint64_t)result->status, answer.data, answer.used);
}

static void begin(struct session *session, const struct host_request *request,
                  const struct wish *wish)
{
    uint64_t timeout_ms = session_left_ms(session);
    uint64_t wanted_ms = request->numbers[PART_TIMEOUT];
    struct trace_context trace = session_trace(session);
    char traceparent[TRACE_PARENT_SIZE] = "";
    if (trace_context_is_set(&trace)) {
        trace_write_parent(&trace, traceparent);
    }
    struct gateway_invocation invocation = {
        .project = session->target->project,
        .name = wish->name,
        .method = wish->method[0] != '\0' ? wish->method : NULL,
        .path = wish->path,
        .query = wish->query,
        .fields = wish->fields,
        .body = request->parts[PART_BODY].data,
        .body_length = request->parts[PART_BODY].length,
        .timeout_ms = wanted_ms > 0 && wanted_ms < timeout_ms ? wanted_ms : timeout_ms,
        .traceparent = traceparent[0] != '\0' ? traceparent : NULL,
        .caller = session->target->function,
        .trigger = TELEMETRY_TRIGGER_OTHER,
    };
    struct question *question = question_new(session);
    question->invoke =
        gateway_invoke_new(session->service->gateway, &invocation, on_answer, question);
}

void host_invoke(struct session *session, const struct host_request *request)
{
    struct error err = {0};
    struct wish wish = {0};
    int r = wish_read(session, request, &wish, &err);
    if (r == 0 && session->service->gateway == NULL) {
        r = error_set(&err, ERROR_CANCELLED, "the node is stopping");
    }
    if (r < 0) {
        session_refuse(session, &err);
    } else {
        begin(session, request, &wish);
    }
    wish_done(&wish);
}

void host_invoke_break_off(struct question *question)
{
    gateway_invoke_free(question->invoke);
    question->invoke = NULL;
}
