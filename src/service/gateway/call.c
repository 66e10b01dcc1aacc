/* A call's way through the gateway: the request in, the run, the end.  See lane.h. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/http/http.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "service/gateway/lane.h"
#include "service/telemetry/telemetry.h"

/* ---- Recycling ---- */

struct call *lane_take_call(struct lane *lane)
{
    struct call *call = LIST_FIRST(&lane->free_calls, struct call, link);
    if (call != NULL) {
        list_remove(&call->link);
        lane->free_call_count--;
    } else {
        call = NEW(struct call);
        call->lane = lane;
    }
    lane->live++;
    return call;
}

void lane_leave(struct lane *lane)
{
    CHECK(lane->live > 0);
    lane->live--;
    if (lane->live == 0 && lane->is_closing) {
        lane_report_closed(lane);
    }
}

void call_forget_bytes(struct buffer *buffer)
{
    buffer_clear(buffer);
    if (buffer->size > GATEWAY_COLLECT_BYTES_MAX) {
        buffer_done(buffer);
    }
}

void lane_give_back_call(struct call *call)
{
    struct lane *lane = call->lane;
    lane_leave(lane);
    call_forget_bytes(&call->environment);
    call_forget_bytes(&call->input);
    call_forget_bytes(&call->output);
    if (lane->free_call_count < GATEWAY_CALLS_KEPT_MAX) {
        list_push_front(&lane->free_calls, &call->link);
        lane->free_call_count++;
        return;
    }
    buffer_done(&call->environment);
    buffer_done(&call->input);
    buffer_done(&call->output);
    free(call);
}

void call_settle(struct call *call)
{
    if (call->is_reading || call->is_related || call->is_answering || call->exchange == NULL) {
        return;
    }
    struct http_exchange *exchange = call->exchange;
    traced_end(call);
    call->exchange = NULL;
    http_exchange_on(exchange, NULL, NULL, NULL);
    http_exchange_unref(exchange);
    instance_target_unref(call->target);
    call->target = NULL;
    websocket_free(call);
    if (call->route != NULL) {
        http_route_leave(call->route, call->trace.status);
    }
    http_route_unref(call->route);
    call->route = NULL;
    lane_give_back_call(call);
}

/* ---- The run ---- */

static void on_output(const void *bytes, size_t length, void *context)
{
    answer_output(context, bytes, length);
}

static void on_writable(void *context)
{
    struct call *call = context;
    if (call->websocket != NULL) {
        websocket_writable(call);
    }
    if (call->is_reading) {
        http_exchange_resume(call->exchange);
    }
}

/* What is left of the body flows to nowhere. */
static void discard_body(struct call *call)
{
    call->discards = true;
    if (call->is_reading) {
        http_exchange_resume(call->exchange);
    }
}

static void on_run_end(const struct error *error, const struct instance_result *result,
                       void *context)
{
    struct call *call = context;
    call->is_running = false;
    answer_end(call, error, result);
    discard_body(call);
}

static void on_run_gone(void *context)
{
    struct call *call = context;
    call->is_related = false;
    call_settle(call);
}

static const struct instance_events run_events = {
    .on_output = on_output,
    .on_writable = on_writable,
    .on_end = on_run_end,
};

static int write_environment(struct call *call, bool input_continues, struct error *err)
{
    struct http_exchange *exchange = call->exchange;
    const struct gateway *gateway = call->lane->gateway;
    struct cgi_field fields[GATEWAY_REQUEST_FIELDS_MAX];
    size_t count = http_exchange_field_count(exchange);
    if (count > GATEWAY_REQUEST_FIELDS_MAX) {
        return error_set(err, ERROR_TOO_LARGE, "the request has more than %d header fields",
                         (int)GATEWAY_REQUEST_FIELDS_MAX);
    }
    struct text host = http_exchange_field(exchange, call->is_hop ? PEER_FIELD_HOST : "Host");
    char traceparent[TRACE_PARENT_SIZE];
    trace_write_parent(&call->trace.inner, traceparent);
    size_t kept = 0;
    for (size_t i = 0; i < count; i++) {
        struct cgi_field *field = &fields[kept];
        http_exchange_field_at(exchange, i, &field->name, &field->value);
        if (text_equal_ignoring_case(field->name, "Host")) {
            field->value = host; /* as the client said it, not the other node */
            kept += host.data != NULL;
        } else {
            /* A state whose parent cannot be read belongs to nobody's trace. */
            kept += !peer_field_is_ours(field->name) &&
                (call->trace.has_parent || !text_equal_ignoring_case(field->name, "tracestate"));
        }
    }
    struct pattern_match parameters = {0};
    if (call->pattern[0] != '\0') {
        pattern_matches(call->pattern, http_exchange_path(exchange), &parameters);
    }
    struct cgi_request request = {
        .method = call->is_websocket ? text_of("GET", 3) : http_exchange_method_text(exchange),
        .path = http_exchange_path(exchange),
        .query = http_exchange_query(exchange),
        .script_length = call->script_length,
        .user = call->caller.user,
        .subject = call->caller.subject,
        .fingerprint = call->caller.fingerprint,
        .is_secure = call->is_secure,
        .is_websocket = call->is_websocket,
        .websocket_protocol = call->is_websocket ? call->terms.protocol : "",
        .host = host.data != NULL ? host : text_of("", 0),
        .protocol = http_exchange_minor_version(exchange) == 0 ? "HTTP/1.0" : "HTTP/1.1",
        .address = gateway->address,
        .port = call->is_secure && gateway->tls_port != 0 ? gateway->tls_port : gateway->port,
        .peer = call->client[0] != '\0' ? call->client : http_exchange_peer(exchange),
        .request_id = call->request_id,
        .traceparent = traceparent,
        .has_body = http_exchange_has_body(exchange),
        .body_length =
            input_continues ? http_exchange_body_length(exchange) : (uint64_t)call->input.used,
        .fields = fields,
        .field_count = kept,
        .environment = call->target->environment,
        .environment_length = call->target->environment_length,
        .parameter_count = parameters.count,
    };
    for (size_t i = 0; i < parameters.count; i++) {
        request.parameters[i] =
            (struct cgi_field){parameters.parameters[i].name, parameters.parameters[i].value};
    }
    return cgi_write_environment(&request, VMM_ENV_MAX, &call->environment, err);
}

static void call_refuse(struct call *call, const struct error *error)
{
    answer_error(call, error, NULL);
    discard_body(call);
}

void call_begin_run(struct call *call, bool input_continues)
{
    struct error err = {0};
    call->is_started = true;
    if (write_environment(call, input_continues, &err) < 0) {
        call_refuse(call, &err);
        return;
    }
    struct instance_invocation invocation = {
        .target = call->target,
        .request_id = call->request_id,
        .trace = call->trace.inner,
        .environment = (const char *)call->environment.data,
        .environment_length = call->environment.used,
        .input = call->input.data,
        .input_length = call->input.used,
        .input_continues = input_continues,
    };
    uint64_t left_ms = call_time_left(call);
    if (left_ms < call->target->limits.timeout_ms) {
        invocation.timeout_ms = left_ms > 0 ? left_ms : 1;
    }
    call->is_running = call->is_related = true;
    call->trace.asked_ns = clock_monotonic_ns();
    if (relay_start(&call->relay, &invocation, &err) < 0) {
        call->is_running = call->is_related = false;
        traced_note_run(call->lane->gateway->options.telemetry, &call->trace, call->target,
                        TELEMETRY_TRIGGER_HTTP, error_kind_name(err.kind), NULL);
        call_refuse(call, &err);
    }
}

/* ---- The request's body ---- */

static void on_body(const void *bytes, size_t length, void *context)
{
    struct call *call = context;
    if (call->discards) {
        return;
    }
    if (call->websocket != NULL) {
        websocket_received(call, bytes, length);
        return;
    }
    if (call->is_started) {
        if (!relay_write(&call->relay, bytes, length)) {
            http_exchange_pause(call->exchange);
        }
        return;
    }
    buffer_append(&call->input, bytes, length);
    if (call->input.used > GATEWAY_COLLECT_BYTES_MAX) {
        call_begin_run(call, true);
    }
}

static void on_body_end(const struct error *error, void *context)
{
    struct call *call = context;
    call->is_reading = false;
    if (call->websocket != NULL) {
        websocket_body_ended(call);
    } else if (error == NULL) {
        if (!call->is_started) {
            call_begin_run(call, false);
        } else if (call->is_running) {
            relay_finish_input(&call->relay);
        }
    } else if (call->is_running) {
        call->body_error = *error; /* told when the run has ended */
        relay_cancel(&call->relay);
    } else {
        answer_error(call, error, NULL);
    }
    call_settle(call);
}

void call_read(struct call *call)
{
    call->is_reading = true;
    http_exchange_read(call->exchange, on_body, on_body_end, call);
}

/* ---- The exchange ---- */

static void on_drain(void *context)
{
    struct call *call = context;
    if (call->websocket != NULL) {
        websocket_drained(call);
    }
    if (call->is_running) {
        relay_resume(&call->relay);
    }
}

static void on_close(void *context)
{
    struct call *call = context;
    call->is_answering = false;
    call->discards = true;
    if (call->is_running) {
        relay_cancel(&call->relay);
    }
    call_settle(call);
}

/*
 * The finaliser of splitmix64 (Steele, Lea, Flood, 2014): one to one, so that counting up never
 * gives the same twice, and ids that differ in every digit.  No system call per request.
 */
static uint64_t scramble(uint64_t value)
{
    value = (value ^ (value >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    value = (value ^ (value >> 27)) * UINT64_C(0x94d049bb133111eb);
    return value ^ (value >> 31);
}

uint64_t lane_random(struct lane *lane)
{
    lane->id_count++;
    return scramble(lane->id_seeds[0] + lane->id_count);
}

void lane_make_id(struct lane *lane, char ret_id[GATEWAY_REQUEST_ID_MAX + 1])
{
    enum { DIGITS = 32 }; /* GATEWAY_REQUEST_ID_MAX is more */
    static const char digits[] = "0123456789abcdef";
    uint64_t half = 0;
    for (size_t i = 0; i < DIGITS; i++, half <<= 4) {
        if (i % 16 == 0) {
            half = scramble(lane->id_seeds[i / 16] + lane->id_count);
        }
        ret_id[i] = digits[half >> 60];
    }
    ret_id[DIGITS] = '\0';
    lane->id_count++;
}

/* Taken from the client when it is harmless, else made. */
static void choose_request_id(struct call *call)
{
    struct text given = http_exchange_field(call->exchange, "X-Request-Id");
    bool is_fine = given.length > 0 && given.length <= GATEWAY_REQUEST_ID_MAX;
    for (size_t i = 0; is_fine && i < given.length; i++) {
        is_fine = given.data[i] > ' ' && given.data[i] < 0x7f && given.data[i] != '"' &&
            given.data[i] != '\\';
    }
    if (is_fine) {
        memcpy(call->request_id, given.data, given.length);
        call->request_id[given.length] = '\0';
        return;
    }
    lane_make_id(call->lane, call->request_id);
}

/* How long the answer may take, as the client or another node says. */
static void take_deadline(struct call *call)
{
    uint64_t left_ms = 0;
    struct text given = http_exchange_field(call->exchange, PEER_FIELD_DEADLINE);
    call->deadline_ms = 0;
    if (given.length > 0 && text_parse_u64(given, &left_ms) && left_ms <= GATEWAY_DEADLINE_MAX_MS) {
        call->deadline_ms = loop_now_ms(call->lane->loop) + left_ms + 1;
    }
}

/* Who waits for half a second must not wait for half a minute because the node could not read it.
 */
static int check_deadline(const struct call *call, struct error *err)
{
    uint64_t left_ms = 0;
    struct text given = http_exchange_field(call->exchange, PEER_FIELD_DEADLINE);
    if (given.length == 0 || text_parse_u64(given, &left_ms)) {
        return 0;
    }
    return error_set(err, ERROR_INVALID,
                     PEER_FIELD_DEADLINE " is a number of milliseconds, such as 500, not \"%.*s\"",
                     (int)(given.length < 40 ? given.length : 40), given.data);
}

uint64_t call_time_left(const struct call *call)
{
    uint64_t now_ms = loop_now_ms(call->lane->loop);
    if (call->deadline_ms == 0) {
        return UINT64_MAX;
    }
    return call->deadline_ms > now_ms ? call->deadline_ms - now_ms : 0;
}

static void call_begin(struct call *call, struct lane *lane, struct http_exchange *owned_exchange)
{
    call->exchange = owned_exchange;
    call->relay.instances = lane->gateway->options.instances;
    call->relay.home = lane->loop;
    call->relay.events = &run_events;
    call->relay.on_gone = on_run_gone;
    call->relay.context = call;
    call->relay.has_place = false;
    call->is_reading = call->is_started = call->is_running = call->is_related = false;
    call->is_streaming = call->discards = call->is_hop = call->streams = false;
    call->is_websocket = false;
    call->is_answering = true;
    call->is_head = http_exchange_method(owned_exchange) == HTTP_HEAD;
    call->body_error.kind = ERROR_NONE;
    call->head_state = HEAD_UNKNOWN;
    call->body_sent = 0;
    call->client[0] = call->function[0] = call->pattern[0] = '\0';
    call->caller = (struct gateway_caller){0};
    call->is_secure = http_exchange_is_tls(owned_exchange);
    call->tries = 0;
    call->started_ns = clock_monotonic_ns();
    choose_request_id(call);
    take_deadline(call);
    traced_begin(call);
    http_exchange_on(owned_exchange, on_drain, on_close, call);
}

static struct lane *lane_of(struct gateway *gateway, const struct loop *loop)
{
    for (unsigned i = 0; i < gateway->lane_count; i++) {
        if (gateway->lanes[i].loop == loop) {
            return &gateway->lanes[i];
        }
    }
    return NULL;
}

static uint64_t body_bytes_max(const struct call *call)
{
    uint64_t max = call->lane->gateway->options.body_bytes_max;
    uint64_t own = call->route != NULL ? call->route->body_bytes_max : 0;
    return own > 0 && own < max ? own : max;
}

static int check_request(const struct call *call, struct error *err)
{
    int r = check_deadline(call, err);
    uint64_t max = body_bytes_max(call);
    uint64_t length = http_exchange_body_length(call->exchange);
    if (r == 0 && http_exchange_has_body(call->exchange) && length != UINT64_MAX && length > max) {
        return error_set(err, ERROR_TOO_LARGE,
                         "the body has %" PRIu64 " bytes; at most %" PRIu64 " are taken", length,
                         max);
    }
    return r;
}

static struct call *take_call(struct gateway *gateway, struct http_exchange *owned_exchange)
{
    struct lane *lane = lane_of(gateway, http_exchange_loop(owned_exchange));
    CHECK(lane != NULL);
    struct call *call = lane_take_call(lane);
    call_begin(call, lane, owned_exchange);
    return call;
}

static void call_fail(struct call *call, const struct error *error)
{
    answer_error(call, error, NULL);
    call_settle(call);
}

/* The target is found: read the body, run. */
static void call_run(struct call *call)
{
    struct error err = {0};
    struct http_exchange *exchange = call->exchange;
    if (check_request(call, &err) < 0) {
        call_fail(call, &err);
        return;
    }
    if (http_exchange_has_body(exchange)) {
        call->is_reading = true;
        http_exchange_set_body_max(exchange, body_bytes_max(call));
        if (call->streams) {
            call_begin_run(call, true);
        }
        call_read(call);
        return;
    }
    call_begin_run(call, false);
    call_settle(call);
}

/* To whoever has it, as this version of it. */
static void call_forward(struct call *call, struct text name)
{
    struct error err = {0};
    struct text plain = name;
    const char *colon = memchr(name.data, ':', name.length);
    if (colon != NULL) {
        plain.length = (size_t)(colon - name.data);
    }
    CHECK(plain.length + 1 + TEXT_U64_SIZE < sizeof(call->function)); /* such a function exists */
    char *at = mempcpy(mempcpy(call->function, plain.data, plain.length), ":", 1);
    at[text_write_u64(call->holders.version, at)] = '\0';
    if (check_request(call, &err) < 0) {
        call_fail(call, &err);
    } else {
        forward_begin(call);
    }
}

/* To that node, or nowhere: it finds out which version it is. */
static void call_forward_to(struct call *call, const char *project, struct text name, uint64_t node)
{
    struct error err = {0};
    int length =
        snprintf(call->function, sizeof(call->function), "%.*s", (int)name.length, name.data);
    call->holders = (struct function_holders){.count = 1, .nodes = {node}};
    snprintf(call->project, sizeof(call->project), "%s", project);
    if (length < 0 || (size_t)length >= sizeof(call->function)) {
        error_set(&err, ERROR_NOT_FOUND, "there is no function of so long a name");
        call_fail(call, &err);
    } else if (check_request(call, &err) < 0) {
        call_fail(call, &err);
    } else {
        forward_begin(call);
    }
}

/* It was to be passed on, and nobody took it. */
void call_run_after_all(struct call *call)
{
    call->function[0] = '\0';
    http_exchange_on(call->exchange, on_drain, on_close, call);
    if (call->is_websocket) {
        websocket_serve(call);
    } else {
        call_run(call);
    }
}

static struct text field_of(const void *context, const char *name)
{
    return http_exchange_field(context, name);
}

/* Here, or at any node that can; `is_here`: here, or nowhere. */
static void call_place(struct call *call, const char *project, struct text name, bool is_here)
{
    struct error err = {0};
    struct function_service *functions = call->lane->gateway->options.functions;
    snprintf(call->project, sizeof(call->project), "%s", project);
    char picked[FUNCTION_PICKED_SIZE];
    const struct function_pick pick = {
        .random = lane_random(call->lane), .field = field_of, .context = call->exchange};
    name = function_route_pick(functions, project, name, &pick, picked);
    int r = function_route_find(functions, project, name, &call->target, &err);
    if (r == -ERROR_UNAVAILABLE && !is_here &&
        function_route_elsewhere(functions, project, name, &call->holders)) {
        call_forward(call, name);
    } else if (r < 0) {
        call_fail(call, &err);
    } else if (!call->is_websocket && call->route != NULL && call->route->caches &&
               cache_answer(call->lane->gateway->cache, call)) {
        call_settle(call);
    } else if (!is_here && forward_is_for_others(call->lane, project, name, &call->holders)) {
        call_forward(call, name);
    } else if (call->is_websocket) {
        websocket_serve(call);
    } else {
        call_run(call);
    }
}

void call_serve_route(struct gateway *gateway, struct http_exchange *owned_exchange,
                      struct http_route *owned_route, const struct gateway_caller *caller)
{
    struct call *call = take_call(gateway, owned_exchange);
    call->script_length = 0;
    call->route = owned_route;
    call->streams = owned_route->streams;
    snprintf(call->pattern, sizeof(call->pattern), "%s", owned_route->path);
    call->caller = *caller;
    if (owned_route->timeout_ms > 0 && owned_route->timeout_ms < call_time_left(call)) {
        call->deadline_ms = loop_now_ms(call->lane->loop) + owned_route->timeout_ms;
    }
    call->is_websocket = owned_route->is_websocket;
    if (call->is_websocket && !websocket_agree(call)) {
        call_settle(call);
        return;
    }
    call_place(call, owned_route->project,
               text_of(owned_route->function, strlen(owned_route->function)), false);
}

void gateway_serve(struct gateway *gateway, struct http_exchange *owned_exchange,
                   const char *project, struct text name, struct text path,
                   const char *node_or_null)
{
    struct call *call = take_call(gateway, owned_exchange);
    size_t whole = http_exchange_path(owned_exchange).length;
    uint64_t node = 0;
    bool is_here = false;
    CHECK(path.length <= whole);
    call->script_length = whole - path.length;
    if (node_or_null != NULL && !forward_find_node(gateway, node_or_null, &node, &is_here)) {
        struct error err;
        error_set(&err, ERROR_NOT_FOUND, "there is no node %.80s", node_or_null);
        call_fail(call, &err);
    } else if (node_or_null != NULL && !is_here) {
        call_forward_to(call, project, name, node);
    } else {
        call_place(call, project, name, is_here);
    }
}

/* One that does not fit is none. */
static void take_hop_text(const struct call *call, const char *field, char *ret_text, size_t size)
{
    struct text text = http_exchange_field(call->exchange, field);
    if (text.length > 0 && text.length < size) {
        snprintf(ret_text, size, "%.*s", (int)text.length, text.data);
    }
}

/* What the other node says of the request. */
static int read_hop(struct call *call, struct text *ret_function, struct error *err)
{
    uint64_t script = 0;
    struct text client = http_exchange_field(call->exchange, PEER_FIELD_CLIENT);
    struct text length = http_exchange_field(call->exchange, PEER_FIELD_SCRIPT);
    *ret_function = http_exchange_field(call->exchange, PEER_FIELD_FUNCTION);
    if (ret_function->length == 0 ||
        memchr(ret_function->data, '/', ret_function->length) == NULL || length.length == 0 ||
        !text_parse_u64(length, &script) || script > http_exchange_path(call->exchange).length ||
        client.length >= GATEWAY_CLIENT_SIZE) {
        return error_set(err, ERROR_INVALID, "what another node passed on is malformed");
    }
    call->script_length = (size_t)script;
    snprintf(call->client, sizeof(call->client), "%.*s", (int)client.length,
             client.length > 0 ? client.data : "");
    struct text pattern = http_exchange_field(call->exchange, PEER_FIELD_PATTERN);
    if (pattern.length > 0 && pattern.length < sizeof(call->pattern)) {
        snprintf(call->pattern, sizeof(call->pattern), "%.*s", (int)pattern.length, pattern.data);
        if (pattern_check(call->pattern, err) < 0) {
            return -(int)err->kind;
        }
    }
    struct gateway_caller *caller = &call->caller;
    take_hop_text(call, PEER_FIELD_USER, caller->user, sizeof(caller->user));
    take_hop_text(call, PEER_FIELD_SUBJECT, caller->subject, sizeof(caller->subject));
    take_hop_text(call, PEER_FIELD_FINGERPRINT, caller->fingerprint, sizeof(caller->fingerprint));
    call->is_secure =
        text_equal_ignoring_case(http_exchange_field(call->exchange, PEER_FIELD_SCHEME), "https");
    call->streams = http_exchange_field(call->exchange, PEER_FIELD_STREAMS).length > 0;
    struct text terms = http_exchange_field(call->exchange, PEER_FIELD_WEBSOCKET);
    call->is_websocket = terms.length > 0;
    if (call->is_websocket && !websocket_read_terms(terms, &call->terms)) {
        return error_set(err, ERROR_INVALID, "what another node says of a WebSocket is malformed");
    }
    return 0;
}

void gateway_serve_hop(struct gateway *gateway, struct http_exchange *owned_exchange)
{
    struct call *call = take_call(gateway, owned_exchange);
    struct error err = {0};
    struct text function;
    call->is_hop = true;
    if (read_hop(call, &function, &err) < 0) {
        call_fail(call, &err);
        return;
    }
    const char *slash = memchr(function.data, '/', function.length);
    size_t length = (size_t)(slash - function.data);
    char project[64];
    snprintf(project, sizeof(project), "%.*s", (int)length, function.data);
    call_place(call, project, text_of(slash + 1, function.length - length - 1), true);
}
