/*
 * A request as a span, with what it waited for below it.
 *
 * What is noted on the way costs a few stores.  The spans are made when the call is over, and those
 * of the waiting only when this request is kept for itself; that the function was told of a span
 * below this one before is why that one's id is made at the beginning.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/http/http.h"

#include "service/cluster/cluster.h"
#include "service/gateway/lane.h"
#include "service/telemetry/telemetry.h"

static struct telemetry *telemetry_of(const struct call *call)
{
    return call->lane->gateway->options.telemetry;
}

/* The client's field, when there is one: two do not make a trace. */
static struct trace_context parent_of(const struct http_exchange *exchange)
{
    struct trace_context parent = {0};
    struct text given = http_exchange_field(exchange, "traceparent");
    unsigned count = 0;
    for (size_t i = 0; given.data != NULL && i < http_exchange_field_count(exchange); i++) {
        struct text name;
        struct text value;
        http_exchange_field_at(exchange, i, &name, &value);
        count += text_equal_ignoring_case(name, "traceparent");
    }
    if (count == 1) {
        trace_read_parent(given, &parent);
    }
    return parent;
}

void traced_begin(struct call *call)
{
    struct call_trace *trace = &call->trace;
    struct trace_start start = {
        .name = "request",
        .kind = TRACE_SERVER,
        .parent = parent_of(call->exchange),
        .start_ns = call->started_ns,
    };
    trace->has_parent = trace_context_is_set(&start.parent);
    if (trace->has_parent) {
        start.state = http_exchange_field(call->exchange, "tracestate");
    }
    trace_begin(telemetry_of(call), &trace->span, &start);
    trace->inner = trace_child(&trace->span.context);
    trace->asked_ns = 0;
    trace->has_result = trace->is_cold = false;
    trace->status = 0;
    trace->end[0] = '\0';
}

void traced_note_run(struct telemetry *telemetry, struct call_trace *trace,
                     const struct instance_target *target, enum telemetry_trigger trigger,
                     const char *end, const struct instance_result *result)
{
    snprintf(trace->end, sizeof(trace->end), "%s", end);
    if (result != NULL) {
        trace->has_result = true;
        trace->is_cold = result->run.cold;
        trace->queue_ns = result->queue_ns;
        trace->attach_ns = result->run.attach_ns;
        trace->run_ns = result->run.run_ns;
    }
    const uint64_t now_ns = clock_monotonic_ns();
    telemetry_call(telemetry,
                   &(struct telemetry_call){
                       .project = target->project,
                       .function = target->function,
                       .version = target->version,
                       .ended_ns = now_ns,
                       .trigger = trigger,
                       .end = trace->end,
                       .duration_ns = now_ns - trace->span.start_ns,
                       .has_run = trace->has_result,
                       .is_cold = trace->is_cold,
                       .queue_ns = trace->queue_ns,
                       .init_ns = trace->attach_ns,
                       .run_ns = trace->run_ns,
                       .memory_bytes = result != NULL ? result->run.memory_bytes : 0,
                       .trace = &trace->span.context,
                   });
}

void traced_note_status(struct call *call, int status)
{
    call->trace.status = status;
}

void traced_note_error(struct call *call, const struct error *error)
{
    call->trace.status = error_kind_http(error->kind);
    if (call->trace.status >= 500 && !call->trace.span.is_error) {
        trace_fail(&call->trace.span, error_kind_name(error->kind), error->text);
    }
}

void traced_forwarded(struct call *call, uint64_t node, uint64_t started_ns,
                      const struct error *error_or_null)
{
    struct trace_span span;
    struct cluster_view *view = peer_view(call->lane->peers);
    const struct cluster_node *to = view != NULL ? cluster_view_find(view, node) : NULL;
    trace_begin(telemetry_of(call), &span,
                &(struct trace_start){.name = "forward",
                                      .kind = TRACE_CLIENT,
                                      .parent = call->trace.span.context,
                                      .own = call->trace.inner,
                                      .start_ns = started_ns});
    trace_text(&span, "peer.service", to != NULL ? to->name : "");
    if (error_or_null != NULL) {
        trace_fail(&span, error_kind_name(error_or_null->kind), error_or_null->text);
    }
    trace_end(telemetry_of(call), &span);
    if (view != NULL) {
        cluster_view_unref(view);
    }
}

/* ---- The end ---- */

static void write_part(struct telemetry *telemetry, const struct call_trace *trace,
                       const char *name, uint64_t start_ns, uint64_t duration_ns)
{
    struct trace_span span;
    trace_begin(
        telemetry, &span,
        &(struct trace_start){.name = name, .parent = trace->span.context, .start_ns = start_ns});
    trace_end_at(telemetry, &span, start_ns + duration_ns);
}

void traced_write_parts(struct telemetry *telemetry, const struct call_trace *trace)
{
    if (!trace->has_result) {
        return;
    }
    uint64_t at_ns = trace->asked_ns;
    write_part(telemetry, trace, "queue", at_ns, trace->queue_ns);
    at_ns += trace->queue_ns;
    if (trace->is_cold) {
        write_part(telemetry, trace, "cold start", at_ns, trace->attach_ns);
        at_ns += trace->attach_ns;
    }
    struct trace_span run;
    trace_begin(
        telemetry, &run,
        &(struct trace_start){
            .name = "run", .parent = trace->span.context, .own = trace->inner, .start_ns = at_ns});
    trace_text(&run, "blixard.end", trace->end);
    if (strcmp(trace->end, "ok") != 0) {
        trace_fail(&run, trace->end, NULL);
    }
    trace_end_at(telemetry, &run, at_ns + trace->run_ns);
}

static void name_span(const struct call *call, struct trace_span *span)
{
    struct text method = http_exchange_method_text(call->exchange);
    const char *function = call->function[0] != '\0' ? call->function : "?";
    if (call->target != NULL) {
        function = call->target->function;
    }
    char name[TRACE_NAME_MAX + 1];
    snprintf(name, sizeof(name), "%.*s /fn/%.*s", (int)(method.length < 16 ? method.length : 16),
             method.data, (int)strcspn(function, ":"), function);
    trace_rename(span, name);
}

static void describe_request(const struct call *call, struct trace_span *span)
{
    trace_bytes(span, "http.request.method", http_exchange_method_text(call->exchange));
    trace_bytes(span, "url.path", http_exchange_path(call->exchange));
    const char *peer = call->client[0] != '\0' ? call->client : http_exchange_peer(call->exchange);
    trace_bytes(span, "client.address", text_address(peer));
    trace_text(span, "faas.trigger", "http");
    trace_text(span, "faas.invocation_id", call->request_id);
}

static void describe_function(const struct call *call, struct trace_span *span)
{
    trace_text(span, "blixard.project", call->project);
    if (call->target != NULL) {
        trace_text(span, "faas.name", call->target->function);
        char version[24]; /* text, as OpenTelemetry has it */
        snprintf(version, sizeof(version), "%" PRIu64, (uint64_t)call->target->version);
        trace_text(span, "faas.version", version);
    } else if (call->function[0] != '\0') {
        trace_bytes(span, "faas.name", text_of(call->function, strcspn(call->function, ":")));
    }
    if (call->trace.has_result) {
        trace_flag(span, "faas.coldstart", call->trace.is_cold);
        trace_text(span, "faas.instance", call->relay.instance);
    }
}

void traced_end(struct call *call)
{
    struct call_trace *trace = &call->trace;
    struct telemetry *telemetry = telemetry_of(call);
    bool has_ended_badly = trace->end[0] != '\0' && strcmp(trace->end, "ok") != 0;
    if (!trace->span.is_error && (has_ended_badly || trace->status >= 500)) {
        trace_fail(&trace->span, has_ended_badly ? trace->end : "status", NULL);
    }
    if (!trace_is_wanted(telemetry, &trace->span)) {
        trace_end(telemetry, &trace->span);
        return;
    }
    traced_write_parts(telemetry, trace);
    name_span(call, &trace->span);
    describe_request(call, &trace->span);
    describe_function(call, &trace->span);
    if (trace->status > 0) {
        trace_number(&trace->span, "http.response.status_code", trace->status);
    }
    trace_end(telemetry, &trace->span);
}
