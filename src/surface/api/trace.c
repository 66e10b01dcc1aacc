/* Traces that this node keeps. */
#include "service/telemetry/trace.h"

#include <string.h>

#include "base/clock.h"

#include "surface/api/parts.h"

enum { COUNT_MAX = 10000, NS_PER_MS = 1000000 };

static int read_filter(struct request *request, struct trace_filter *filter, struct error *err)
{
    uint64_t since_ms = api_query_ms(request, "since", 0);
    uint64_t count = api_query_u64(request, "count", 100);
    if (count < 1 || count > COUNT_MAX) {
        return error_set(err, ERROR_INVALID, "?count is 1 to %d", COUNT_MAX);
    }
    filter->errors_only = api_query_flag(request, "errors", false);
    filter->slower_than_ns = api_query_ms(request, "slower_than", 0) * NS_PER_MS;
    uint64_t now_ms = clock_real_ms();
    filter->since_ms = since_ms > 0 && since_ms < now_ms ? now_ms - since_ms : 0;
    filter->count_max = count;
    return 0;
}

void api_trace_list(struct request *request)
{
    char function[64];
    BUFFER_OWNED struct buffer body = {0};
    struct error err = {0};
    struct trace_filter filter = {.project = request->project};
    if (http_query_get(http_exchange_query(request->exchange), "function", function,
                       sizeof(function))) {
        filter.function = function;
    }
    int r = read_filter(request, &filter, &err);
    if (r == 0) {
        buffer_append_string(&body, "{\"traces\":");
        trace_write_list(request->api->options.telemetry, &filter, &body);
        buffer_append_string(&body, "}");
    }
    api_answer_written(request, r, &body, &err);
}

void api_trace_get(struct request *request)
{
    uint8_t trace[16];
    BUFFER_OWNED struct buffer body = {0};
    struct error err = {0};
    int r = 0;
    buffer_append_string(&body, "{\"spans\":");
    if (!trace_read_id(request->parameters[0], trace)) {
        r = error_set(&err, ERROR_INVALID, "%.80s is no trace id of 32 hex digits",
                      request->parameters[0]);
    } else if (!trace_write_spans(request->api->options.telemetry, request->project, trace,
                                  &body)) {
        r = error_set(
            &err, ERROR_NOT_FOUND,
            "nothing is kept of trace %s here: it was not sampled, neither failed nor was "
            "slow, or newer ones have taken its place",
            request->parameters[0]);
    }
    buffer_append_string(&body, "}");
    api_answer_written(request, r, &body, &err);
}
