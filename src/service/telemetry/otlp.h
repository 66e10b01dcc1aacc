/*
 * Spans as OTLP, the OpenTelemetry protocol, in protobuf
 * (opentelemetry/proto/collector/trace/v1/trace_service.proto, version 1).  Pure.
 */
#ifndef SERVICE_TELEMETRY_OTLP_H
#define SERVICE_TELEMETRY_OTLP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/text.h"

struct buffer;
struct trace_record;

enum { OTLP_RETRY_AFTER_S_MAX = 3600 };

/* Append a Span as a field of ScopeSpans. */
void otlp_append_span(const struct trace_record *record, struct buffer *out);

/* Append the ExportTraceServiceRequest that holds these: one after the other, as above. */
void otlp_append_request(const char *node, const void *spans, size_t length, struct buffer *out);

/* Append these bytes as gzip. */
void otlp_append_packed(const void *bytes, size_t length, struct buffer *out);

/* Of an ExportTraceServiceResponse: how many spans were refused, and what is said of it (size
 * bytes).  False: it is none. */
bool otlp_read_response(const void *bytes, size_t length, uint64_t *ret_rejected, char *ret_text,
                        size_t size);

/* Seconds to wait by a field Retry-After, a number or a date: at most OTLP_RETRY_AFTER_S_MAX; 0
 * where it says nothing. */
uint64_t otlp_retry_after_s(struct text field, uint64_t now_s);

/* What a google.rpc.Status says, the body of any other answer than 2xx.  False: it is none. */
bool otlp_read_status(const void *bytes, size_t length, char *ret_text, size_t size);

#endif
