/* A call's way through the gateway: the request in, the run, the end.  See lane.h. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/http/http.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "service/function/function.h"
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

static void buffer_forget(struct buffer *buffer)
{
    buffer_clear(buffer);
    if (buffer->size > GATEWAY_COLLECT_BYTES_MAX) {
        buffer_done(buffer);
    }
}

void lane_give_back_call(struct call *call)
{
    struct lane *lane = call->lane;
    CHECK(lane->live > 0);
    lane->live--;
    if (lane->live == 0 && lane->is_closing) {
        lane_report_closed(lane);
    }
    buffer_forget(&call->environment);
    buffer_forget(&call->input);
    buffer_forget(&call->output);
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
    call->exchange = NULL;
    http_exchange_on(exchange, NULL, NULL, NULL);
    http_exchange_unref(exchange);
    instance_target_unref(call->target);
    call->target = NULL;
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
    for (size_t i = 0; i < count; i++) {
        http_exchange_field_at(exchange, i, &fields[i].name, &fields[i].value);
    }
    struct cgi_request request = {
        .method = http_exchange_method_text(exchange),
        .path = http_exchange_path(exchange),
        .query = http_exchange_query(exchange),
        .script_length = call->script_length,
        .host = http_exchange_field(exchange, "Host"),
        .protocol = http_exchange_minor_version(exchange) == 0 ? "HTTP/1.0" : "HTTP/1.1",
        .address = gateway->address,
        .port = gateway->port,
        .peer = http_exchange_peer(exchange),
        .request_id = call->request_id,
        .has_body = http_exchange_has_body(exchange),
        .body_length =
            input_continues ? http_exchange_body_length(exchange) : (uint64_t)call->input.used,
        .fields = fields,
        .field_count = count,
        .environment = call->target->environment,
        .environment_length = call->target->environment_length,
    };
    return cgi_write_environment(&request, VMM_ENV_MAX, &call->environment, err);
}

static void call_refuse(struct call *call, const struct error *error)
{
    answer_error(call, error, NULL);
    discard_body(call);
}

/* Run the function with the input collected so far. */
static void call_start(struct call *call, bool input_continues)
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
        .environment = (const char *)call->environment.data,
        .environment_length = call->environment.used,
        .input = call->input.data,
        .input_length = call->input.used,
        .input_continues = input_continues,
    };
    call->is_running = call->is_related = true;
    if (relay_start(&call->relay, &invocation, &err) < 0) {
        call->is_running = call->is_related = false;
        telemetry_call(call->lane->gateway->options.telemetry, call->target->project,
                       call->target->function, error_kind_name(err.kind), false,
                       clock_monotonic_ns() - call->started_ns);
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
    if (call->is_started) {
        if (!relay_write(&call->relay, bytes, length)) {
            http_exchange_pause(call->exchange);
        }
        return;
    }
    buffer_append(&call->input, bytes, length);
    if (call->input.used > GATEWAY_COLLECT_BYTES_MAX) {
        call_start(call, true);
    }
}

static void on_body_end(const struct error *error, void *context)
{
    struct call *call = context;
    call->is_reading = false;
    if (error == NULL) {
        if (!call->is_started) {
            call_start(call, false);
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

/* ---- The exchange ---- */

static void on_drain(void *context)
{
    struct call *call = context;
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
    struct lane *lane = call->lane;
    snprintf(call->request_id, sizeof(call->request_id), "%016" PRIx64 "%016" PRIx64,
             scramble(lane->id_seeds[0] + lane->id_count),
             scramble(lane->id_seeds[1] + lane->id_count));
    lane->id_count++;
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
    call->is_streaming = call->discards = false;
    call->is_answering = true;
    call->is_head = http_exchange_method(owned_exchange) == HTTP_HEAD;
    call->body_error.kind = ERROR_NONE;
    call->head_state = HEAD_UNKNOWN;
    call->body_sent = 0;
    call->started_ns = clock_monotonic_ns();
    choose_request_id(call);
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

static int check_body(const struct call *call, struct error *err)
{
    uint64_t max = call->lane->gateway->options.body_bytes_max;
    uint64_t length = http_exchange_body_length(call->exchange);
    if (http_exchange_has_body(call->exchange) && length != UINT64_MAX && length > max) {
        return error_set(err, ERROR_TOO_LARGE,
                         "the body has %" PRIu64 " bytes; at most %" PRIu64 " are taken", length,
                         max);
    }
    return 0;
}

void gateway_serve(struct gateway *gateway, struct http_exchange *owned_exchange,
                   const char *project, struct text name, struct text path)
{
    struct lane *lane = lane_of(gateway, http_exchange_loop(owned_exchange));
    CHECK(lane != NULL);

    struct error err = {0};
    struct call *call = lane_take_call(lane);
    call_begin(call, lane, owned_exchange);
    size_t whole = http_exchange_path(owned_exchange).length;
    CHECK(path.length <= whole);
    call->script_length = whole - path.length;

    if (function_route_find(gateway->options.functions, project, name, &call->target, &err) < 0 ||
        check_body(call, &err) < 0) {
        answer_error(call, &err, NULL);
        call_settle(call);
        return;
    }
    if (http_exchange_has_body(owned_exchange)) {
        call->is_reading = true;
        http_exchange_set_body_max(owned_exchange, gateway->options.body_bytes_max);
        http_exchange_read(owned_exchange, on_body, on_body_end, call);
        return;
    }
    call_start(call, false);
    call_settle(call);
}
