/*
 * Traces: what was done for one request, where, in which order, and how long each step took.
 *
 * A trace is a tree of spans.  It crosses processes as W3C Trace Context (traceparent, tracestate);
 * ids come from the kernel's random numbers.  A span is a value of the caller's: it is begun, told
 * attributes and events, and ended, on any thread, by one thread at a time.  Nothing here fails:
 * what has no room is left out and counted.
 *
 *     struct trace_span span;
 *     struct trace_start start = {.name = "deliver", .parent = trace_parent_of(traceparent)};
 *     trace_begin(telemetry, &span, &start);
 *     trace_text(&span, "messaging.system", "blixard");
 *     ... trace_write_parent(&span.context, text) goes to whom it calls ...
 *     trace_fail(&span, "timeout", err.text);
 *     trace_end(telemetry, &span);
 *
 * What is kept.  The head decides once, where a trace begins: TELEMETRY's traces_per_second, then
 * trace_sample_percent of the others; the verdict travels as the "sampled" flag, and that of a
 * caller is obeyed.  The tail decides again where a node's part of a trace ends: a span with an
 * error, or one that took longer than trace_slow_ms, makes its node keep what it has of that trace
 * although it was not sampled.
 *
 * Cost.  Nothing here locks or allocates but the first span of a thread.  An ended span is copied
 * to the buffer of its thread, which another thread empties; one that nobody could ask for (not
 * sampled, no error, not slow, without a parent) is not even copied.
 */
#ifndef SERVICE_TELEMETRY_TRACE_H
#define SERVICE_TELEMETRY_TRACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/text.h"

struct buffer;
struct telemetry;

/* ---- Context: who one is in which trace (W3C Trace Context, level 1) ---- */

enum {
    TRACE_ID_SIZE = 33,      /* 32 hex digits and a NUL */
    TRACE_SPAN_ID_SIZE = 17, /* 16 */
    TRACE_PARENT_SIZE = 56,  /* "00-TRACE-SPAN-FLAGS" */
    TRACE_SAMPLED = 1,
};

/* All zero: none. */
struct trace_context {
    uint8_t trace[16];
    uint8_t span[8];
    uint8_t flags;
};

static inline bool trace_context_is_set(const struct trace_context *context)
{
    uint64_t halves[2];
    __builtin_memcpy(halves, context->trace, sizeof(halves));
    return (halves[0] | halves[1]) != 0;
}

/* Of a traceparent field; false, and none, when it is not well-formed.  Later versions than 00 are
 * read as the specification says. */
bool trace_read_parent(struct text traceparent, struct trace_context *ret_context);

/* The same in one expression; NULL, and what is malformed, is none. */
struct trace_context trace_parent_of(const char *traceparent_or_null);

void trace_write_parent(const struct trace_context *context, char ret_text[TRACE_PARENT_SIZE]);
void trace_write_id(const struct trace_context *context, char ret_text[TRACE_ID_SIZE]);

/* 32 hex digits, lower or upper case, not all zero. */
bool trace_read_id(const char *text, uint8_t ret_trace[16]);

/* May it be passed on?  At most 512 bytes of printable ASCII: nobody here looks into it. */
bool trace_state_is_fine(struct text tracestate);

/* ---- Spans ---- */

enum trace_kind { /* as OpenTelemetry numbers them */
                  TRACE_INTERNAL = 1,
                  TRACE_SERVER = 2,
                  TRACE_CLIENT = 3,
                  TRACE_PRODUCER = 4,
                  TRACE_CONSUMER = 5,
};

enum {
    TRACE_BYTES_MAX = 1008, /* attributes and events of a span together */
    TRACE_NAME_MAX = 63,    /* longer ones are cut */
    TRACE_VALUE_MAX = 255,  /* texts longer than this are cut */
};

/* To be written by this door alone; `context` may be read. */
struct trace_span {
    struct trace_context context;
    uint8_t parent[8]; /* zero: the trace begins here */
    uint8_t kind;
    bool is_error;
    bool is_open;
    uint16_t used;     /* of bytes */
    uint16_t dropped;  /* attributes and events without room */
    uint64_t start_ns; /* on the monotonic clock */
    char name[TRACE_NAME_MAX + 1];
    uint8_t bytes[TRACE_BYTES_MAX];
};

struct trace_start {
    const char *name;            /* few different ones: "GET /fn/hello", not ids */
    enum trace_kind kind;        /* 0: internal */
    struct trace_context parent; /* none: a trace begins */
    struct text state;           /* the tracestate that came with it; lent, may be empty */
    uint64_t start_ns;           /* clock_monotonic_ns() when it began; 0: now */
    struct trace_context own; /* from trace_child(), when it was told to others before; or none */
};

/* `telemetry` NULL: there is a context, and nothing is kept. */
void trace_begin(struct telemetry *telemetry, struct trace_span *span,
                 const struct trace_start *start);

/* A context below `parent`, for a span that will be written down later (trace_start.own). */
struct trace_context trace_child(const struct trace_context *parent);

/* Keys are literals, by OpenTelemetry's conventions ("http.route", "faas.trigger"). */
void trace_text(struct trace_span *span, const char *key, const char *value);
void trace_bytes(struct trace_span *span, const char *key, struct text value);
void trace_number(struct trace_span *span, const char *key, int64_t value);
void trace_flag(struct trace_span *span, const char *key, bool value);

/* Something that happened at a moment in it. */
void trace_event(struct trace_span *span, const char *name);

/* It failed: `type` for machines ("timeout", error_kind_name()), `text` for people or NULL. */
void trace_fail(struct trace_span *span, const char *type, const char *text_or_null);

/* The span is over, and gone. */
void trace_end(struct telemetry *telemetry, struct trace_span *span);
/* The same, when it was over at another time (monotonic). */
void trace_end_at(struct telemetry *telemetry, struct trace_span *span, uint64_t end_ns);

/* Would a span that ends now be kept for itself?  For who can save the work of its children. */
bool trace_is_wanted(const struct telemetry *telemetry, const struct trace_span *span);

/* Another name, known later. */
void trace_rename(struct trace_span *span, const char *name);

/* Forget a span that was begun. */
void trace_drop(struct trace_span *span);

/* ---- What is kept on this node ---- */

struct trace_filter {
    const char *project;  /* NULL: any */
    const char *function; /* NULL: any */
    bool errors_only;
    uint64_t slower_than_ns;
    uint64_t since_ms; /* real time; 0: whenever */
    size_t count_max;  /* the newest; 0: 100 */
};

/* Append a JSON array of type TraceSummary, the newest first.  Any thread. */
void trace_write_list(struct telemetry *telemetry, const struct trace_filter *filter,
                      struct buffer *out);

/* Append a JSON array of type Span: all that is known here of a trace that has to do with the
 * project (NULL: any); false: nothing is. */
bool trace_write_spans(struct telemetry *telemetry, const char *project, const uint8_t trace[16],
                       struct buffer *out);

#endif
