/*
 * What the function writes becomes an HTTP answer.
 *
 * Output is held for a moment: most functions end right after they wrote, and then the answer goes
 * out in one piece, with its length.  Otherwise it is streamed, chunked (or with the length that
 * the function announced).  Once the head is out, a failure can only be shown by breaking off.
 *
 * As with every CGI server, the output is the answer whatever the exit status is; only a function
 * that failed without a word is answered for (502).
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/http/http.h"
#include "base/loop/loop.h"

#include "service/gateway/lane.h"
#include "service/telemetry/telemetry.h"

/* ---- Fields of ours ---- */

enum { TIMING_SIZE = 160 };

static void append_duration(char text[TIMING_SIZE], const char *name, uint64_t ns)
{
    size_t used = strlen(text);
    uint64_t us = ns / 1000;
    snprintf(text + used, TIMING_SIZE - used, "%s%s;dur=%" PRIu64 ".%03u", used > 0 ? ", " : "",
             name, us / 1000, (unsigned)(us % 1000));
}

/* Milliseconds: in the queue, attaching the image (cold starts only), running, and all together. */
static void add_timing(struct call *call, const struct instance_result *result)
{
    char text[TIMING_SIZE] = "";
    if (result != NULL) {
        append_duration(text, "queue", result->queue_ns);
        if (result->run.cold) {
            append_duration(text, "cold", result->run.attach_ns);
        }
        append_duration(text, "run", result->run.run_ns);
    } else if (call->relay.has_place) {
        append_duration(text, "queue", call->relay.queue_ns);
    }
    append_duration(text, "total", clock_monotonic_ns() - call->started_ns);
    http_exchange_add_field(call->exchange, "Server-Timing", text);
}

static void add_own_fields(struct call *call, const struct instance_result *result)
{
    char node[GATEWAY_NODE_NAME_SIZE];
    http_exchange_add_field(call->exchange, "X-Request-Id", call->request_id);
    forward_own_name(call->lane->gateway, node);
    if (node[0] != '\0') {
        http_exchange_add_field(call->exchange, PEER_FIELD_NODE, node);
    }
    if (call->is_hop && !call->is_started) {
        http_exchange_add_field(call->exchange, PEER_FIELD_REFUSED, "1"); /* by no function seen */
    }
    char trace[TRACE_PARENT_SIZE];
    trace_write_parent(&call->trace.span.context, trace);
    http_exchange_add_field(call->exchange, "Traceresponse", trace);
    const char *instance = call->relay.has_place ? call->relay.instance : "";
    if (result != NULL && result->instance[0] != '\0') {
        instance = result->instance;
    }
    if (call->is_started && instance[0] != '\0') {
        http_exchange_add_field(call->exchange, "X-Blixard-Instance", instance);
        http_exchange_add_field(call->exchange, "X-Blixard-Isolation",
                                call->lane->gateway->isolation);
    }
    add_timing(call, result);
    if (call->route != NULL) {
        routed_add_cors(call->exchange, call->route);
    }
}

void answer_own_fields(struct call *call)
{
    add_own_fields(call, NULL);
}

/* The head's fields, and the type the body has at least. */
static int add_function_fields(struct call *call, struct text body, bool is_whole)
{
    bool has_head = call->head_state == HEAD_FOUND;
    for (size_t i = 0; has_head && i < call->head.field_count; i++) {
        struct text name = call->head.fields[i].name;
        /* What nodes say to each other is not for functions to say. */
        if (!peer_field_is_ours(name) && !routed_is_cors(call->route, name) &&
            !text_equal_ignoring_case(name, PEER_FIELD_NODE)) {
            http_exchange_add_field_text(call->exchange, name, call->head.fields[i].value);
        }
    }
    if (body.length > 0 && !(has_head && call->head.has_content_type)) {
        http_exchange_add_field(call->exchange, "Content-Type",
                                cgi_guess_type(body.data, body.length, is_whole));
    }
    return has_head ? call->head.status : 200;
}

/* ---- Ends ---- */

void answer_log_failure(const struct call *call, const char *text)
{
    if (call->target != NULL) {
        char line[ERROR_TEXT_MAX + 8];
        int length = snprintf(line, sizeof(line), "<3>%s\n", text);
        telemetry_log(call->lane->gateway->options.telemetry, call->target->project,
                      call->target->function, call->target->version, call->request_id,
                      &call->trace.span.context, line,
                      (size_t)length < sizeof(line) ? (size_t)length : sizeof(line) - 1);
    }
}

void answer_error(struct call *call, const struct error *error,
                  const struct instance_result *result_or_null)
{
    if (!call->is_answering) {
        return;
    }
    call->is_answering = false;
    if (call->is_streaming) {
        traced_note_error(call, error);
        http_exchange_abort(call->exchange);
        return;
    }
    traced_note_error(call, error);
    add_own_fields(call, result_or_null);
    if (call->is_hop) {
        http_exchange_add_field(call->exchange, PEER_FIELD_FAILED, error_kind_name(error->kind));
    }
    http_exchange_respond_error(call->exchange, error, call->request_id);
}

/* ---- Output ---- */

static struct text held_body(const struct call *call)
{
    if (call->output.used == 0) {
        return text_of("", 0);
    }
    size_t head = call->head_state == HEAD_FOUND ? call->head.length : 0;
    return text_of((const char *)call->output.data + head, call->output.used - head);
}

/* Find out whether the output begins with a head.  False: it has a bad one, and was answered for.
 */
static bool read_head(struct call *call, bool is_whole)
{
    struct error err = {0};
    if (call->head_state != HEAD_UNKNOWN) {
        return true;
    }
    switch (cgi_parse_head(call->output.data, call->output.used, is_whole, &call->head, &err)) {
    case CGI_MORE:
        return true;
    case CGI_HEAD:
        call->head_state = HEAD_FOUND;
        return true;
    case CGI_BODY:
        call->head_state = HEAD_ABSENT;
        return true;
    case CGI_BAD:
        answer_log_failure(call, err.text);
        answer_error(call, &err, NULL);
        return false;
    }
    CHECK_UNREACHABLE();
}

static void write_body(struct call *call, const void *bytes, size_t length)
{
    uint64_t announced = call->head_state == HEAD_FOUND && call->head.has_content_length
        ? call->head.content_length
        : UINT64_MAX;
    if (length > announced - call->body_sent && !call->is_head) {
        struct error err;
        error_set(&err, ERROR_PROTOCOL,
                  "the function writes more than the %" PRIu64 " bytes it announced", announced);
        answer_log_failure(call, err.text);
        answer_error(call, &err, NULL);
        relay_cancel(&call->relay);
        return;
    }
    call->body_sent += length;
    if (!http_exchange_write(call->exchange, bytes, length)) {
        relay_pause(&call->relay);
    }
}

static void begin_stream(struct call *call)
{
    list_remove(&call->held_link);
    struct text body = held_body(call);
    bool has_length = call->head_state == HEAD_FOUND && call->head.has_content_length;
    add_own_fields(call, NULL);
    int status = add_function_fields(call, body, false);
    traced_note_status(call, status);
    if (call->route != NULL) {
        cache_forget(call->lane->gateway->cache, call, status);
    }
    http_exchange_begin(call->exchange, status,
                        has_length ? call->head.content_length : UINT64_MAX);
    call->is_streaming = true;
    if (body.length > 0) {
        write_body(call, body.data, body.length);
    }
    buffer_clear(&call->output);
}

void answer_flush_held(struct call *call)
{
    list_remove(&call->held_link);
    if (call->is_answering && !call->is_streaming && call->head_state != HEAD_UNKNOWN) {
        begin_stream(call);
    }
}

static void hold(struct call *call)
{
    struct lane *lane = call->lane;
    if (list_contains_node(&call->held_link)) {
        return;
    }
    call->held_ms = loop_now_ms(lane->loop);
    list_push_back(&lane->held, &call->held_link);
    if (!lane->hold_timer_runs) {
        lane->hold_timer_runs = true;
        loop_timer_start(lane->hold_timer, GATEWAY_HOLD_MS);
    }
}

void answer_output(struct call *call, const void *bytes, size_t length)
{
    if (!call->is_answering) {
        return;
    }
    if (call->websocket != NULL) {
        websocket_output(call, bytes, length);
        return;
    }
    if (call->is_streaming) {
        write_body(call, bytes, length);
        return;
    }
    /* The head points into the output, which may move. */
    if (call->head_state == HEAD_FOUND) {
        const uint8_t *before = call->output.data;
        buffer_append(&call->output, bytes, length);
        if (call->output.data != before) {
            call->head_state = HEAD_UNKNOWN;
        }
    } else {
        buffer_append(&call->output, bytes, length);
    }
    if (!read_head(call, false)) {
        relay_cancel(&call->relay);
        return;
    }
    if (call->head_state != HEAD_UNKNOWN && call->output.used > GATEWAY_HOLD_BYTES_MAX) {
        begin_stream(call);
    } else {
        hold(call);
    }
}

/* ---- The end of the run ---- */

/* What a timer may be early by, and a wait may have taken of the function's own timeout. */
enum { TIMEOUT_SLACK_MS = 50 };

/* Its own limit, or a nearer one: the route's, the trigger's, or the deadline of whoever called. */
static void judge_timeout(const struct instance_target *target, const struct runner_result *run,
                          struct error *err)
{
    uint64_t ran_ms = run->run_ns / 1000000;
    if (ran_ms > 0 && ran_ms + TIMEOUT_SLACK_MS < target->limits.timeout_ms) {
        error_set(err, ERROR_TIMEOUT,
                  "the function was ended after %" PRIu64 " ms: the call had no more time (the "
                  "function's own timeout is %" PRIu64 " ms)",
                  ran_ms, target->limits.timeout_ms);
    } else {
        error_set(err, ERROR_TIMEOUT, "the function ran longer than its timeout of %" PRIu64 " ms",
                  target->limits.timeout_ms);
    }
}

/* Why a run that ended badly is no answer; `end` for the metrics. */
const char *answer_judge_run(const struct instance_target *target, const struct runner_result *run,
                             bool has_output, struct error *err)
{
    switch (run->end) {
    case VMM_END_EXIT:
        if (run->exit_code != 0 && !has_output) {
            error_set(err, ERROR_TRAP,
                      "the function ended with exit code %" PRIu32 " and wrote no answer",
                      run->exit_code);
        }
        return run->exit_code == 0 ? "ok" : "error";
    case VMM_END_TRAP:
        error_set(err, ERROR_TRAP, "%s", run->reason);
        return "trap";
    case VMM_END_TIMEOUT:
        judge_timeout(target, run, err);
        return "timeout";
    case VMM_END_OUTPUT:
        error_set(err, ERROR_TRAP,
                  "the function wrote more than its output_bytes_max of %" PRIu64 " bytes",
                  target->limits.output_bytes_max);
        return "output";
    case VMM_END_CANCELLED:
        error_set(err, ERROR_UNAVAILABLE, "the call was broken off");
        return "cancelled";
    case VMM_END_BROKEN:
        error_set(err, ERROR_UNAVAILABLE, "the instance failed: %s", run->reason);
        return "broken";
    }
    CHECK_UNREACHABLE();
}

static void end_stream(struct call *call)
{
    bool has_length = call->head_state == HEAD_FOUND && call->head.has_content_length;
    if (has_length && call->body_sent != call->head.content_length && !call->is_head) {
        answer_log_failure(call, "the function wrote less than the Content-Length it announced");
        http_exchange_abort(call->exchange);
    } else {
        http_exchange_end(call->exchange);
    }
    call->is_answering = false;
}

static void respond_whole(struct call *call, const struct instance_result *result)
{
    if (!read_head(call, true)) {
        return;
    }
    struct text body = held_body(call);
    bool has_length = call->head_state == HEAD_FOUND && call->head.has_content_length;
    /* To HEAD a function may announce a body it does not write. */
    bool is_announced = call->is_head && has_length && body.length == 0;
    if (has_length && body.length != call->head.content_length && !is_announced) {
        struct error err;
        error_set(&err, ERROR_PROTOCOL, "the function announced %" PRIu64 " bytes and wrote %zu",
                  call->head.content_length, body.length);
        answer_log_failure(call, err.text);
        answer_error(call, &err, result);
        return;
    }
    add_own_fields(call, result);
    int status = add_function_fields(call, body, true);
    if (call->route != NULL) {
        cache_forget(call->lane->gateway->cache, call, status);
    }
    if (call->route != NULL && call->route->caches) {
        cache_keep(call->lane->gateway->cache, call, status, body);
    }
    traced_note_status(call, status);
    call->is_answering = false;
    if (is_announced) {
        http_exchange_begin(call->exchange, status, call->head.content_length);
        http_exchange_end(call->exchange);
    } else {
        http_exchange_respond(call->exchange, status, body.data, body.length);
    }
}

/* Why a call did not run is the function's or the node's affair: never a 4xx, which would blame the
 * request. */
void answer_take_instance_error(const struct error *error, struct error *err)
{
    *err = *error;
    if (error_kind_http(error->kind) < 500) {
        err->kind = error->kind == ERROR_CANCELLED ? ERROR_UNAVAILABLE : ERROR_TRAP;
    }
}

void answer_end(struct call *call, const struct error *error, const struct instance_result *result)
{
    struct error err = {0};
    const char *end;
    list_remove(&call->held_link);
    if (error != NULL) {
        answer_take_instance_error(error, &err);
        end = error_kind_name(error->kind);
    } else {
        end = answer_judge_run(call->target, &result->run,
                               call->output.used > 0 || call->is_streaming, &err);
    }
    traced_note_run(call->lane->gateway->options.telemetry, &call->trace, call->target,
                    TELEMETRY_TRIGGER_HTTP, end, error == NULL ? result : NULL);
    if (err.kind != ERROR_NONE) {
        traced_note_error(call, &err);
    }
    if (!call->is_answering) {
        return; /* the client went away, or something was wrong before */
    }
    if (call->websocket != NULL) {
        websocket_run_ended(call, err.kind != ERROR_NONE ? &err : NULL);
        return;
    }
    if (call->body_error.kind != ERROR_NONE) {
        answer_error(call, &call->body_error, result);
    } else if (err.kind != ERROR_NONE) {
        answer_log_failure(call, err.text);
        answer_error(call, &err, result);
    } else if (call->is_streaming) {
        end_stream(call);
    } else {
        respond_whole(call, result);
    }
}
