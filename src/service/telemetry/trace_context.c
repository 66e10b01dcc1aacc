/*
 * W3C Trace Context, level 1 (https://www.w3.org/TR/trace-context-1/): "00-TRACE-SPAN-FLAGS" in
 * lower-case hex.  A version above 00 is read by its first four fields; ff is none.
 */
#include <string.h>

#include "service/telemetry/trace.h"

enum { VERSION_0_LENGTH = 55, STATE_MAX = 512 };

static int digit_of(char c, bool takes_upper)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    if (c >= 'a' && c <= 'f') {
        return c - 'a' + 10;
    }
    return takes_upper && c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static bool read_hex(const char *text, size_t bytes, bool takes_upper, uint8_t *ret_bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        int high = digit_of(text[2 * i], takes_upper);
        int low = high < 0 ? -1 : digit_of(text[2 * i + 1], takes_upper);
        if (low < 0) {
            return false;
        }
        ret_bytes[i] = (uint8_t)(high * 16 + low);
    }
    return true;
}

static char *write_hex(char *out, const uint8_t *bytes, size_t count)
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < count; i++) {
        *out++ = digits[bytes[i] >> 4];
        *out++ = digits[bytes[i] & 15];
    }
    return out;
}

static bool is_zero(const uint8_t *bytes, size_t count)
{
    uint8_t all = 0;
    for (size_t i = 0; i < count; i++) {
        all |= bytes[i];
    }
    return all == 0;
}

bool trace_read_parent(struct text traceparent, struct trace_context *ret_context)
{
    const char *at = traceparent.data;
    uint8_t version = 0;
    struct trace_context context = {0};
    *ret_context = context;
    if (traceparent.length < VERSION_0_LENGTH || !read_hex(at, 1, false, &version) ||
        version == 0xff) {
        return false;
    }
    bool has_right_end =
        traceparent.length == VERSION_0_LENGTH || (version > 0 && at[VERSION_0_LENGTH] == '-');
    if (!has_right_end || at[2] != '-' || at[35] != '-' || at[52] != '-' ||
        !read_hex(at + 3, 16, false, context.trace) || !read_hex(at + 36, 8, false, context.span) ||
        !read_hex(at + 53, 1, false, &context.flags) || is_zero(context.trace, 16) ||
        is_zero(context.span, 8)) {
        return false;
    }
    context.flags &= TRACE_SAMPLED; /* what the others mean is not known */
    *ret_context = context;
    return true;
}

struct trace_context trace_parent_of(const char *traceparent_or_null)
{
    struct trace_context context = {0};
    if (traceparent_or_null != NULL) {
        trace_read_parent(text_of(traceparent_or_null, strlen(traceparent_or_null)), &context);
    }
    return context;
}

void trace_write_parent(const struct trace_context *context, char ret_text[TRACE_PARENT_SIZE])
{
    char *at = ret_text;
    memcpy(at, "00-", 3);
    at = write_hex(at + 3, context->trace, 16);
    *at++ = '-';
    at = write_hex(at, context->span, 8);
    *at++ = '-';
    at = write_hex(at, &context->flags, 1);
    *at = '\0';
}

void trace_write_id(const struct trace_context *context, char ret_text[TRACE_ID_SIZE])
{
    *write_hex(ret_text, context->trace, 16) = '\0';
}

bool trace_read_id(const char *text, uint8_t ret_trace[16])
{
    return strlen(text) == TRACE_ID_SIZE - 1 && read_hex(text, 16, true, ret_trace) &&
        !is_zero(ret_trace, 16);
}

bool trace_state_is_fine(struct text tracestate)
{
    bool is_fine = tracestate.length <= STATE_MAX;
    for (size_t i = 0; is_fine && i < tracestate.length; i++) {
        is_fine = tracestate.data[i] >= ' ' && tracestate.data[i] < 0x7f;
    }
    return is_fine;
}
