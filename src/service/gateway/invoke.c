/*
 * See invoke.h.  An invocation is one run on this node, or one or two calls of other nodes, one
 * after the other.  `done` is told from a callback of the loop, when everything has let go.
 */
#include "service/gateway/invoke.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/http/http.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "service/cluster/cluster.h"
#include "service/gateway/lane.h"
#include "service/telemetry/telemetry.h"

enum { FUNCTION_SIZE = 128, PROBLEM_BYTES_MAX = 65536, PIECE_BYTES = 65536 };

struct gateway_invoke {
    struct lane *lane;
    struct loop_timer *timer; /* tells an end that was known at once */
    void (*done)(const struct error *error, const struct gateway_result *result, void *context);
    void *context;

    /* The request. */
    char project[64];
    char *method;
    char *path; /* "/fn/NAME" and what follows; of a route: all of it */
    struct gateway_origin origin;
    char *query;
    size_t script_length;
    struct buffer field_text;
    const char *lines[GATEWAY_INVOKE_FIELDS_MAX + 1];
    size_t line_count;
    struct buffer body;
    size_t answer_bytes_max;
    uint64_t deadline_ms; /* on the loop's clock; 0: none */
    unsigned trigger;
    char caller[GATEWAY_CLIENT_SIZE];
    char request_id[GATEWAY_REQUEST_ID_MAX + 1];
    struct call_trace trace;

    /* Here. */
    struct instance_target *target;
    struct instance_call *call;
    struct buffer environment;
    size_t written;    /* of the body */
    bool is_too_large; /* what the function writes */

    /* There. */
    struct function_holders holders;
    struct peer_call *peer;
    unsigned tries;
    bool is_refused;
    char failed[32]; /* the kind of an answer that is no function's */

    /* The end. */
    char function[FUNCTION_SIZE];
    struct error error;
    bool is_untouched;
    int status;
    struct buffer answer;
    struct buffer answer_text; /* "Name\0value\0" of the fields */
    size_t answer_count;
};

/* ---- The end ---- */

static void invoke_free(struct gateway_invoke *invoke)
{
    struct lane *lane = invoke->lane;
    instance_target_unref(invoke->target);
    loop_timer_free(invoke->timer);
    free(invoke->method);
    free(invoke->path);
    free(invoke->query);
    buffer_done(&invoke->field_text);
    buffer_done(&invoke->body);
    buffer_done(&invoke->environment);
    buffer_done(&invoke->answer);
    buffer_done(&invoke->answer_text);
    free(invoke);
    lane_leave(lane);
}

/* invoke->function is NAME:VERSION, or "" when there is none. */
static void describe_function(struct gateway_invoke *invoke)
{
    size_t length = strcspn(invoke->function, ":");
    const char *number = invoke->function + length + 1;
    uint64_t version = 0;
    if (length > 0) {
        trace_bytes(&invoke->trace.span, "faas.name", text_of(invoke->function, length));
    }
    if (invoke->function[length] == ':' &&
        text_parse_u64(text_of(number, strlen(number)), &version)) {
        trace_text(&invoke->trace.span, "faas.version", number); /* text, as OpenTelemetry has it */
    }
}

static void end_span(struct gateway_invoke *invoke)
{
    struct telemetry *telemetry = invoke->lane->gateway->options.telemetry;
    trace_text(&invoke->trace.span, "faas.invocation_id", invoke->request_id);
    trace_text(&invoke->trace.span, "blixard.project", invoke->project);
    trace_text(&invoke->trace.span, "faas.trigger",
               telemetry_trigger_text((enum telemetry_trigger)invoke->trigger));
    describe_function(invoke);
    if (invoke->error.kind != ERROR_NONE) {
        trace_fail(&invoke->trace.span, error_kind_name(invoke->error.kind), invoke->error.text);
    } else {
        trace_number(&invoke->trace.span, "http.response.status_code", invoke->status);
        if (invoke->status >= 500) {
            trace_fail(&invoke->trace.span, "status", NULL);
        }
    }
    if (trace_is_wanted(telemetry, &invoke->trace.span)) {
        traced_write_parts(telemetry, &invoke->trace);
    }
    trace_end(telemetry, &invoke->trace.span);
}

static void add_answer_field(struct gateway_invoke *invoke, struct text name, struct text value)
{
    if (invoke->answer_count < GATEWAY_INVOKE_FIELDS_MAX) {
        invoke->answer_count++;
        buffer_append(&invoke->answer_text, name.data, name.length);
        buffer_append_byte(&invoke->answer_text, '\0');
        buffer_append(&invoke->answer_text, value.data, value.length);
        buffer_append_byte(&invoke->answer_text, '\0');
    }
}

static void tell(struct gateway_invoke *invoke)
{
    struct gateway_field fields[GATEWAY_INVOKE_FIELDS_MAX];
    char trace[TRACE_ID_SIZE];
    const char *at = (const char *)invoke->answer_text.data;
    for (size_t i = 0; i < invoke->answer_count; i++) {
        fields[i].name = text_of(at, strlen(at));
        at += strlen(at) + 1;
        fields[i].value = text_of(at, strlen(at));
        at += strlen(at) + 1;
    }
    trace_write_id(&invoke->trace.span.context, trace);
    end_span(invoke);
    const struct gateway_result result = {
        .status = invoke->error.kind == ERROR_NONE ? invoke->status : 0,
        .field_count = invoke->answer_count,
        .fields = fields,
        .body = invoke->answer.data,
        .body_length = invoke->answer.used,
        .request_id = invoke->request_id,
        .function = invoke->function,
        .trace = trace,
        .is_untouched = invoke->is_untouched,
    };
    if (invoke->done != NULL) {
        invoke->done(invoke->error.kind != ERROR_NONE ? &invoke->error : NULL, &result,
                     invoke->context);
    }
    invoke_free(invoke);
}

static void tell_later(struct gateway_invoke *invoke)
{
    loop_timer_start(invoke->timer, 0);
}

static void fail(struct gateway_invoke *invoke, const struct error *error, bool is_untouched)
{
    invoke->error = *error;
    invoke->is_untouched = is_untouched;
    invoke->answer_count = 0;
    buffer_clear(&invoke->answer);
    tell_later(invoke);
}

static uint64_t time_left(const struct gateway_invoke *invoke)
{
    uint64_t now_ms = loop_now_ms(invoke->lane->loop);
    if (invoke->deadline_ms == 0) {
        return UINT64_MAX;
    }
    return invoke->deadline_ms > now_ms ? invoke->deadline_ms - now_ms : 0;
}

/* ---- Here ---- */

static bool split_line(const char *line, struct text *ret_name, struct text *ret_value)
{
    const char *colon = strchr(line, ':');
    if (colon == NULL || colon == line) {
        return false;
    }
    *ret_name = text_of(line, (size_t)(colon - line));
    *ret_value = text_trim(text_of(colon + 1, strlen(colon + 1)));
    return http_field_is_clean(*ret_name, *ret_value);
}

static int write_environment(struct gateway_invoke *invoke, const char *traceparent,
                             struct error *err)
{
    const struct gateway *gateway = invoke->lane->gateway;
    struct cgi_field fields[GATEWAY_INVOKE_FIELDS_MAX];
    size_t count = 0;
    for (size_t i = 0; i < invoke->line_count; i++) {
        struct cgi_field *field = &fields[count];
        count += split_line(invoke->lines[i], &field->name, &field->value) &&
            !peer_field_is_ours(field->name);
    }
    struct pattern_match parameters = {0};
    if (invoke->origin.pattern[0] != '\0') {
        pattern_matches(invoke->origin.pattern, text_of(invoke->path, strlen(invoke->path)),
                        &parameters);
    }
    struct cgi_request request = {
        .method = text_of(invoke->method, strlen(invoke->method)),
        .path = text_of(invoke->path, strlen(invoke->path)),
        .query = text_of(invoke->query, strlen(invoke->query)),
        .script_length = invoke->script_length,
        .host = text_of("", 0),
        .protocol = "HTTP/1.1",
        .address = gateway->address,
        .port = gateway->port,
        .peer = invoke->caller,
        .request_id = invoke->request_id,
        .traceparent = traceparent,
        .has_body = true,
        .body_length = invoke->body.used,
        .fields = fields,
        .field_count = count,
        .environment = invoke->target->environment,
        .environment_length = invoke->target->environment_length,
        .user = invoke->origin.caller.user,
        .subject = invoke->origin.caller.subject,
        .fingerprint = invoke->origin.caller.fingerprint,
        .is_secure = invoke->origin.is_secure,
        .parameter_count = parameters.count,
    };
    for (size_t i = 0; i < parameters.count; i++) {
        request.parameters[i] =
            (struct cgi_field){parameters.parameters[i].name, parameters.parameters[i].value};
    }
    return cgi_write_environment(&request, VMM_ENV_MAX, &invoke->environment, err);
}

static void on_output(const void *bytes, size_t length, void *context)
{
    struct gateway_invoke *invoke = context;
    if (invoke->is_too_large || invoke->done == NULL) {
        return;
    }
    buffer_append(&invoke->answer, bytes, length);
    if (invoke->answer.used > invoke->answer_bytes_max + CGI_HEAD_BYTES_MAX) {
        invoke->is_too_large = true;
        instance_call_cancel(invoke->call);
    }
}

/* The body beyond its first piece. */
static void write_more(struct gateway_invoke *invoke)
{
    bool can_more = true;
    while (can_more && invoke->written < invoke->body.used) {
        size_t left = invoke->body.used - invoke->written;
        size_t length = left < PIECE_BYTES ? left : PIECE_BYTES;
        const uint8_t *piece = invoke->body.data + invoke->written;
        invoke->written += length;
        can_more = instance_call_write(invoke->call, piece, length);
    }
    if (can_more) {
        instance_call_finish_input(invoke->call);
        invoke->written = SIZE_MAX; /* once */
    }
}

static void on_writable(void *context)
{
    struct gateway_invoke *invoke = context;
    if (invoke->written != SIZE_MAX) {
        write_more(invoke);
    }
}

static void note_run(struct gateway_invoke *invoke, const char *end,
                     const struct instance_result *result)
{
    traced_note_run(invoke->lane->gateway->options.telemetry, &invoke->trace, invoke->target,
                    (enum telemetry_trigger)invoke->trigger, end, result);
}

/* Into the function's own log, where its author looks. */
static void log_failure(const struct gateway_invoke *invoke, const char *text)
{
    char line[ERROR_TEXT_MAX + 8];
    int length = snprintf(line, sizeof(line), "<3>%s\n", text);
    telemetry_log(invoke->lane->gateway->options.telemetry, invoke->target->project,
                  invoke->target->function, invoke->target->version, invoke->request_id,
                  &invoke->trace.span.context, line,
                  (size_t)length < sizeof(line) ? (size_t)length : sizeof(line) - 1);
}

static int read_answer(struct gateway_invoke *invoke, struct error *err)
{
    struct cgi_head head = {.status = 200};
    switch (cgi_parse_head(invoke->answer.data, invoke->answer.used, true, &head, err)) {
    case CGI_BAD:
        return -(int)err->kind;
    case CGI_HEAD:
        break;
    case CGI_BODY:
    case CGI_MORE:
        head = (struct cgi_head){.status = 200};
        break;
    }
    size_t length = invoke->answer.used - head.length;
    if (head.has_content_length && head.content_length != length) {
        return error_set(err, ERROR_PROTOCOL,
                         "the function announced %" PRIu64 " bytes and wrote %zu",
                         head.content_length, length);
    }
    if (length > invoke->answer_bytes_max) {
        return error_set(err, ERROR_TOO_LARGE, "the function's answer has more than %zu bytes",
                         invoke->answer_bytes_max);
    }
    for (size_t i = 0; i < head.field_count; i++) {
        if (!peer_field_is_ours(head.fields[i].name)) {
            add_answer_field(invoke, head.fields[i].name, head.fields[i].value);
        }
    }
    if (length > 0 && !head.has_content_type) {
        const char *type = cgi_guess_type(invoke->answer.data + head.length, length, true);
        add_answer_field(invoke, text_of("Content-Type", 12), text_of(type, strlen(type)));
    }
    buffer_consume(&invoke->answer, head.length);
    invoke->status = head.status;
    return 0;
}

static void on_end(const struct error *error, const struct instance_result *result, void *context)
{
    struct gateway_invoke *invoke = context;
    struct error err = {0};
    const char *end = NULL;
    invoke->call = NULL;
    if (error != NULL) {
        answer_take_instance_error(error, &err);
        end = error_kind_name(error->kind);
    } else {
        end = answer_judge_run(invoke->target, &result->run, invoke->answer.used > 0, &err);
    }
    if (invoke->is_too_large) {
        err = (struct error){0};
        error_set(&err, ERROR_TOO_LARGE, "the function's answer has more than %zu bytes",
                  invoke->answer_bytes_max);
    }
    if (err.kind == ERROR_NONE && invoke->done != NULL) {
        read_answer(invoke, &err);
    }
    note_run(invoke, end, error == NULL ? result : NULL);
    if (err.kind != ERROR_NONE) {
        log_failure(invoke, err.text);
        fail(invoke, &err, error != NULL && error->kind == ERROR_TIMEOUT);
        return;
    }
    tell(invoke);
}

static void run_here(struct gateway_invoke *invoke)
{
    static const struct instance_events events = {on_output, on_writable, on_end};
    struct error err = {0};
    char traceparent[TRACE_PARENT_SIZE];
    snprintf(invoke->function, sizeof(invoke->function), "%s:%" PRIu64, invoke->target->function,
             invoke->target->version);
    trace_write_parent(&invoke->trace.inner, traceparent);
    if (write_environment(invoke, traceparent, &err) < 0) {
        fail(invoke, &err, true);
        return;
    }
    bool continues = invoke->body.used > PIECE_BYTES;
    invoke->written = continues ? PIECE_BYTES : SIZE_MAX;
    struct instance_invocation invocation = {
        .target = invoke->target,
        .request_id = invoke->request_id,
        .trace = invoke->trace.inner,
        .environment = (const char *)invoke->environment.data,
        .environment_length = invoke->environment.used,
        .input = invoke->body.data,
        .input_length = continues ? PIECE_BYTES : invoke->body.used,
        .input_continues = continues,
    };
    uint64_t left_ms = time_left(invoke);
    if (left_ms < invoke->target->limits.timeout_ms) {
        invocation.timeout_ms = left_ms > 0 ? left_ms : 1;
    }
    invoke->trace.asked_ns = clock_monotonic_ns();
    invoke->call = instance_invoke(invoke->lane->gateway->options.instances, &invocation, &events,
                                   invoke, &err);
    if (invoke->call == NULL) {
        note_run(invoke, error_kind_name(err.kind), NULL);
        fail(invoke, &err, true);
    } else if (continues) {
        write_more(invoke);
    }
}

/* ---- There ---- */

static void ask_next(struct gateway_invoke *invoke);

static void on_peer_head(struct http_call *http, int status, void *context)
{
    struct gateway_invoke *invoke = context;
    struct text failed = http_call_field(http, PEER_FIELD_FAILED);
    invoke->status = status;
    invoke->is_refused = http_call_field(http, PEER_FIELD_REFUSED).data != NULL;
    snprintf(invoke->failed, sizeof(invoke->failed), "%.*s", (int)failed.length,
             failed.data != NULL ? failed.data : "");
    invoke->answer_count = 0;
    buffer_clear(&invoke->answer_text);
    for (size_t i = 0; i < http_call_field_count(http); i++) {
        struct text name;
        struct text value;
        http_call_field_at(http, i, &name, &value);
        if (!peer_field_is_ours(name) && http_field_is_clean(name, value)) {
            add_answer_field(invoke, name, value);
        }
    }
}

/* `detail` of a problem (RFC 9457), or all of it. */
static void read_problem(const struct gateway_invoke *invoke, struct buffer *answer,
                         struct error *err)
{
    json_t *problem = json_loadb((const char *)answer->data, answer->used, 0, NULL);
    const char *detail = json_string_value(json_object_get(problem, "detail"));
    enum error_kind kind = error_kind_parse(invoke->failed);
    kind = kind == ERROR_NONE ? ERROR_UNAVAILABLE : kind;
    error_set(err, kind, "%.300s", detail != NULL ? detail : error_kind_name(kind));
    json_decref(problem);
}

static void on_answer(const struct error *error, int status, struct buffer *answer, void *context)
{
    struct gateway_invoke *invoke = context;
    struct error err = {0};
    bool was_sent = peer_call_was_sent(invoke->peer);
    invoke->peer = NULL;
    bool is_untouched = (error != NULL && !was_sent) || (error == NULL && invoke->is_refused);
    if (error != NULL) {
        err = *error;
    } else if (invoke->failed[0] != '\0') {
        read_problem(invoke, answer, &err);
    }
    if (err.kind == ERROR_NONE) {
        invoke->status = status;
        buffer_append(&invoke->answer, answer->data, answer->used);
        tell(invoke);
    } else if (is_untouched && time_left(invoke) > 0 &&
               ((invoke->tries < FORWARD_TRIES_MAX && invoke->holders.count > 0) ||
                invoke->target != NULL)) {
        invoke->error = err; /* kept, if nobody else is there */
        ask_next(invoke);
    } else {
        fail(invoke, &err, is_untouched);
    }
}

enum { OWN_LINES = 12, LINE_SIZE = 640 };

/* What the other node is told of it, at most five lines. */
static size_t write_origin(const struct gateway_origin *origin, char (*lines)[LINE_SIZE])
{
    const char *const fields[][2] = {
        {PEER_FIELD_PATTERN, origin->pattern},
        {PEER_FIELD_USER, origin->caller.user},
        {PEER_FIELD_SUBJECT, origin->caller.subject},
        {PEER_FIELD_FINGERPRINT, origin->caller.fingerprint},
        {PEER_FIELD_SCHEME, origin->is_secure ? "https" : ""},
    };
    size_t count = 0;
    for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
        if (fields[i][1][0] != '\0') {
            snprintf(lines[count++], LINE_SIZE, "%s: %s", fields[i][0], fields[i][1]);
        }
    }
    return count;
}

static void ask(struct gateway_invoke *invoke, uint64_t node)
{
    char own[OWN_LINES][LINE_SIZE];
    const char *lines[GATEWAY_INVOKE_FIELDS_MAX + OWN_LINES + 1] = {0};
    char traceparent[TRACE_PARENT_SIZE];
    size_t count = 0;
    uint64_t most_ms = invoke->holders.timeout_ms > 0 ? 2 * invoke->holders.timeout_ms
                                                      : (uint64_t)GATEWAY_DEADLINE_MAX_MS;
    uint64_t left_ms = time_left(invoke);
    left_ms = left_ms < most_ms ? left_ms : most_ms;
    trace_write_parent(&invoke->trace.span.context, traceparent);
    snprintf(own[count++], LINE_SIZE, PEER_FIELD_HOP ": 1");
    snprintf(own[count++], LINE_SIZE, PEER_FIELD_FUNCTION ": %s/%s", invoke->project,
             invoke->function);
    snprintf(own[count++], LINE_SIZE, PEER_FIELD_SCRIPT ": %zu", invoke->script_length);
    snprintf(own[count++], LINE_SIZE, PEER_FIELD_CLIENT ": %s", invoke->caller);
    snprintf(own[count++], LINE_SIZE, PEER_FIELD_DEADLINE ": %" PRIu64, left_ms);
    snprintf(own[count++], LINE_SIZE, "X-Request-Id: %s", invoke->request_id);
    snprintf(own[count++], LINE_SIZE, "traceparent: %s", traceparent);
    count += write_origin(&invoke->origin, own + count);
    for (size_t i = 0; i < count; i++) {
        lines[i] = own[i];
    }
    for (size_t i = 0; i < invoke->line_count; i++) {
        struct text name;
        struct text value;
        if (split_line(invoke->lines[i], &name, &value) && !peer_field_is_ours(name) &&
            !text_equal_ignoring_case(name, "traceparent")) {
            lines[count++] = invoke->lines[i];
        }
    }
    MEMORY_OWNED char *target =
        memory_format("%s%s%s", invoke->path, invoke->query[0] != '\0' ? "?" : "", invoke->query);
    const struct peer_request request = {
        .node = node,
        .method = invoke->method,
        .target = target,
        .fields = lines,
        .body = invoke->body.data,
        .body_length = invoke->body.used,
        .answer_bytes_max = invoke->answer_bytes_max > PROBLEM_BYTES_MAX ? invoke->answer_bytes_max
                                                                         : PROBLEM_BYTES_MAX,
        .timeout_ms = left_ms + FORWARD_GRACE_MS,
        .on_head = on_peer_head,
    };
    telemetry_add(invoke->lane->gateway->options.telemetry, TELEMETRY_CALLS_FORWARDED, 1);
    invoke->is_refused = false;
    invoke->failed[0] = '\0';
    invoke->peer = peer_call_new(invoke->lane->peers, &request, on_answer, invoke);
}

static void ask_next(struct gateway_invoke *invoke)
{
    uint64_t node =
        invoke->tries < FORWARD_TRIES_MAX ? forward_take_node(invoke->lane, &invoke->holders) : 0;
    invoke->tries++;
    if (node != 0) {
        invoke->error.kind = ERROR_NONE;
        ask(invoke, node);
        return;
    }
    struct error err = invoke->error;
    if (invoke->target != NULL) { /* nobody took it */
        invoke->error.kind = ERROR_NONE;
        invoke->answer_count = 0;
        buffer_clear(&invoke->answer_text);
        run_here(invoke);
        return;
    }
    if (err.kind == ERROR_NONE) {
        error_set(&err, ERROR_UNAVAILABLE,
                  "function %s cannot run on this node yet, and no node that can run it is there",
                  invoke->function);
    }
    fail(invoke, &err, true);
}

/* ---- Beginning ---- */

static struct text field_of(const void *context, const char *wanted)
{
    const struct gateway_invoke *invoke = context;
    for (size_t i = 0; i < invoke->line_count; i++) {
        struct text name;
        struct text value;
        if (split_line(invoke->lines[i], &name, &value) && text_equal_ignoring_case(name, wanted)) {
            return value;
        }
    }
    return text_of(NULL, 0);
}

static void place(struct gateway_invoke *invoke, const char *name)
{
    struct error err = {0};
    struct function_service *functions = invoke->lane->gateway->options.functions;
    char picked[FUNCTION_PICKED_SIZE];
    const struct function_pick pick = {
        .random = lane_random(invoke->lane), .field = field_of, .context = invoke};
    struct text text =
        function_route_pick(functions, invoke->project, text_of(name, strlen(name)), &pick, picked);
    int r = function_route_find(functions, invoke->project, text, &invoke->target, &err);
    bool is_passed_on = r == 0
        ? forward_is_for_others(invoke->lane, invoke->project, text, &invoke->holders)
        : r == -ERROR_UNAVAILABLE &&
            function_route_elsewhere(functions, invoke->project, text, &invoke->holders);
    if (is_passed_on) {
        snprintf(invoke->function, sizeof(invoke->function), "%.*s:%" PRIu64,
                 (int)strcspn(name, ":"), name, invoke->holders.version);
        ask_next(invoke);
    } else if (r == 0) {
        run_here(invoke);
    } else {
        fail(invoke, &err, true);
    }
}

static int copy_fields(struct gateway_invoke *invoke, const char *const *fields, struct error *err)
{
    for (size_t i = 0; fields != NULL && fields[i] != NULL; i++) {
        struct text name;
        struct text value;
        if (i == GATEWAY_INVOKE_FIELDS_MAX) {
            return error_set(err, ERROR_TOO_LARGE, "a call has at most %d fields",
                             (int)GATEWAY_INVOKE_FIELDS_MAX);
        }
        if (!split_line(fields[i], &name, &value)) {
            return error_set(err, ERROR_INVALID, "\"%.80s\" is no field", fields[i]);
        }
        invoke->line_count++;
        buffer_append(&invoke->field_text, fields[i], strlen(fields[i]) + 1);
    }
    const char *line = (const char *)invoke->field_text.data;
    for (size_t i = 0; i < invoke->line_count; i++) {
        invoke->lines[i] = line;
        line += strlen(line) + 1;
    }
    return 0;
}

static int copy_request(struct gateway_invoke *invoke, const struct gateway_invocation *wanted,
                        struct error *err)
{
    const char *path = wanted->path != NULL ? wanted->path : "";
    int length = (int)strcspn(wanted->name, ":");
    if (strlen(wanted->project) >= sizeof(invoke->project) || strlen(wanted->name) > 127) {
        return error_set(err, ERROR_NOT_FOUND, "there is no function of so long a name");
    }
    snprintf(invoke->project, sizeof(invoke->project), "%s", wanted->project);
    invoke->method = memory_copy_string(wanted->method != NULL ? wanted->method : "POST");
    invoke->query = memory_copy_string(wanted->query != NULL ? wanted->query : "");
    if (wanted->origin != NULL) {
        invoke->origin = *wanted->origin;
    }
    bool is_routed = invoke->origin.pattern[0] != '\0';
    invoke->path = is_routed ? memory_copy_string(path)
                             : memory_format("/fn/%.*s%s", length, wanted->name, path);
    invoke->script_length = is_routed ? 0 : 4 + (size_t)length;
    if ((path[0] != '\0' && path[0] != '/') || strpbrk(path, " ?#\r\n") != NULL ||
        strpbrk(invoke->query, " #\r\n") != NULL || strpbrk(invoke->method, " \r\n:") != NULL) {
        return error_set(err, ERROR_INVALID, "the path or the query of a call is malformed");
    }
    buffer_append(&invoke->body, wanted->body, wanted->body_length);
    return copy_fields(invoke, wanted->fields, err);
}

static void on_timer(void *context)
{
    tell(context);
}

struct gateway_invoke *gateway_invoke_new(
    struct gateway *gateway, const struct gateway_invocation *invocation,
    void (*done)(const struct error *error, const struct gateway_result *result, void *context),
    void *context)
{
    struct gateway_invoke *invoke = NEW(struct gateway_invoke);
    struct lane *lane = &gateway->lanes[0];
    CHECK(loop_is_mine(lane->loop));
    invoke->lane = lane;
    lane->live++;
    invoke->timer = loop_timer_new(lane->loop, on_timer, invoke);
    invoke->done = done;
    invoke->context = context;
    invoke->trigger = invocation->trigger;
    invoke->answer_bytes_max = invocation->answer_bytes_max > 0
        ? invocation->answer_bytes_max
        : (size_t)GATEWAY_INVOKE_ANSWER_DEFAULT;
    invoke->deadline_ms =
        invocation->timeout_ms > 0 ? loop_now_ms(lane->loop) + invocation->timeout_ms : 0;
    snprintf(invoke->caller, sizeof(invoke->caller), "%s",
             invocation->caller != NULL ? invocation->caller : "blixard");
    if (invocation->request_id != NULL) {
        snprintf(invoke->request_id, sizeof(invoke->request_id), "%s", invocation->request_id);
    } else {
        lane_make_id(lane, invoke->request_id);
    }
    trace_begin(gateway->options.telemetry, &invoke->trace.span,
                &(struct trace_start){
                    .name = invocation->what != NULL ? invocation->what : "invoke",
                    .kind = invocation->trigger == TELEMETRY_TRIGGER_PUBSUB ? TRACE_CONSUMER : 0,
                    .parent = trace_parent_of(invocation->traceparent)});
    invoke->trace.inner = trace_child(&invoke->trace.span.context);
    struct error err = {0};
    if (copy_request(invoke, invocation, &err) < 0) {
        fail(invoke, &err, true);
    } else {
        place(invoke, invocation->name);
    }
    return invoke;
}

void gateway_invoke_free(struct gateway_invoke *invoke)
{
    if (invoke == NULL) {
        return;
    }
    invoke->done = NULL;
    if (invoke->call != NULL) {
        instance_call_cancel(invoke->call); /* on_end() frees */
        return;
    }
    if (invoke->peer != NULL) {
        peer_call_free(invoke->peer);
    }
    trace_drop(&invoke->trace.span);
    invoke_free(invoke);
}
