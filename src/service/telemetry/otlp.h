/*
 * Spans as OTLP, the OpenTelemetry protocol, in protobuf
 * (opentelemetry/proto/collector/trace/v1/trace_service.proto, version 1).  Pure.
 */
#ifndef SERVICE_TELEMETRY_OTLP_H
#define SERVICE_TELEMETRY_OTLP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buffer;
struct trace_record;

/* Append a Span as a field of ScopeSpans. */
void otlp_append_span(const struct trace_record *record, struct buffer *out);

/* Append the ExportTraceServiceRequest that holds these: one after the other, as above. */
void otlp_append_request(const char *node, const void *spans, size_t length, struct buffer *out);

/* Of an ExportTraceServiceResponse: how many spans were refused, and what is said of it (size
 * bytes).  False: it is none. */
bool otlp_read_response(const void *bytes, size_t length, uint64_t *ret_rejected, char *ret_text,
                        size_t size);

#endif
