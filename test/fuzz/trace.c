/*
 * trace_read_parent() and otlp_read_response(): whatever clients and collectors say.  A context
 * that was read and is written again is the same; what a collector says is printable and bounded.
 */
#include "service/telemetry/trace.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "service/telemetry/otlp.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

static void must(bool holds)
{
    if (!holds) {
        abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    struct trace_context context;
    bool is_read = trace_read_parent(text_of((const char *)bytes, length), &context);
    must(is_read == trace_context_is_set(&context));
    if (is_read) {
        char text[TRACE_PARENT_SIZE];
        struct trace_context again;
        trace_write_parent(&context, text);
        must(trace_read_parent(text_of(text, strlen(text)), &again));
        must(memcmp(&context, &again, sizeof(context)) == 0);
    }
    char said[40];
    uint64_t rejected = 0;
    otlp_read_response(bytes, length, &rejected, said, sizeof(said));
    must(strnlen(said, sizeof(said)) < sizeof(said) && text_is_printable(said));
    must(!trace_state_is_fine(text_of((const char *)bytes, length)) || length <= 512);
    return 0;
}
