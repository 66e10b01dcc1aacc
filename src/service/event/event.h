/*
 * Events: CloudEvents 1.0, what triggers, queues and asynchronous calls hand to functions.
 *
 * An event is a set of attributes (id, source, type, specversion and others, extensions too) and
 * bytes of data.  It is read from and written as
 *
 *     structured   application/cloudevents+json, one JSON object
 *     batch        application/cloudevents-batch+json, an array of them
 *     binary       HTTP fields ce-NAME (percent-encoded) and Content-Type; the body is the data
 *
 * Required attributes are checked when an event is read; names are 1 to 20 of a-z and 0-9, `time`
 * is RFC 3339.  Data are kept as bytes: as they came in binary mode, as compact JSON from `data` of
 * a structured event, decoded from `data_base64`.  A `data` that is a string under a content type
 * that is no JSON is the text itself (JSON event format, 3.1.1).
 *
 * Pure: no clock, no file, any thread.  What is read is foreign: bounded and fuzzed.
 *
 * Sources: CloudEvents 1.0.2: specification, JSON event format, HTTP protocol binding; CloudEvents
 * SQL expression language 1.0; Amazon EventBridge User Guide, event patterns.
 */
#ifndef SERVICE_EVENT_EVENT_H
#define SERVICE_EVENT_EVENT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/text.h"

struct error;

enum {
    EVENT_BYTES_MAX = 1 << 20, /* of one event's data, and of a structured event */
    EVENT_ATTRIBUTES_MAX = 64, /* with extensions */
    EVENT_ATTRIBUTE_BYTES_MAX = 8192,
    EVENT_BATCH_MAX = 1000, /* events of a batch */
    EVENT_BATCH_BYTES_MAX = 6 << 20,
    EVENT_FILTER_BYTES_MAX = 16 << 10,
    EVENT_FILTER_STEPS_MAX = 8 << 20, /* some tens of ms: nothing else happens meanwhile */
    EVENT_TEMPLATE_BYTES_MAX = 64 << 10,
};

#define EVENT_TYPE_STRUCTURED "application/cloudevents+json"
#define EVENT_TYPE_BATCH      "application/cloudevents-batch+json"

/* A zeroed one is to be filled by one of the functions below; end it with event_done(). */
struct event {
    json_t *attributes; /* object: name -> string, integer or boolean; datacontenttype too */
    struct buffer data;
    bool has_data;
};

void event_done(struct event *event); /* may be called twice */
#define EVENT_OWNED __attribute__((cleanup(event_done)))

/* Make one: the required attributes and a content type (NULL: none).  Texts and data are copied. */
void event_init(struct event *event, const char *id, const char *source, const char *type,
                const char *content_type, const void *data, size_t length);
void event_copy(struct event *event, const struct event *from);

/* Set an attribute that is text; NULL removes it.  INVALID: such a name or text is not allowed. */
int event_set(struct event *event, const char *name, const char *text, struct error *err);
void event_set_time(struct event *event, uint64_t real_ms);         /* `time` */
const char *event_get(const struct event *event, const char *name); /* NULL: absent, or no text */

/* ---- Reading: on failure *ret is empty.  INVALID names the attribute; TOO_LARGE. ---- */

int event_read(const void *bytes, size_t length, struct event *ret_event, struct error *err);
/* *ret_events is the caller's: event_done() each, free(). */
int event_read_batch(const void *bytes, size_t length, struct event **ret_events, size_t *ret_count,
                     struct error *err);
/* From an object that was parsed already (lent). */
int event_read_document(const json_t *document, struct event *ret_event, struct error *err);

/* Binary mode: tell every field of a request, then the body; what is no ce-* or Content-Type is
 * passed over. */
int event_read_field(struct event *event, struct text name, struct text value, struct error *err);
int event_read_body(struct event *event, const void *body, size_t length, struct error *err);

/* ---- Writing ---- */

void event_write(const struct event *event, struct buffer *out);
void event_write_batch(const struct event *const *events, size_t count, struct buffer *out);
/* Each field of binary mode, lent: "ce-id", ..., "Content-Type".  The body is event->data. */
void event_write_fields(const struct event *event,
                        void (*field)(const char *name, const char *value, void *context),
                        void *context);

/* The event as filters and templates see it: attributes as members, and `data`: JSON when it is
 * JSON, a string when it is UTF-8, else absent beside `data_base64`.  The caller's. */
json_t *event_document(const struct event *event);

/* ---- Filters ---- */

/*
 * Text that begins with '{' is a JSON pattern (an object; an array lists what is accepted):
 *
 *     {"type": ["order.created"], "data": {"total": [{"numeric": [">", 100, "<=", 500]}]}}
 *     values: scalars, {"prefix": s}, {"suffix": s}, {"equals-ignore-case": s}, {"wildcard": s},
 *     {"anything-but": scalar | [scalars] | {"prefix": s} | {"suffix": s}},
 *     {"numeric": [op, n, ...]}, {"exists": bool}; {"$or": [pattern, ...]}
 *
 * other text is CESQL:
 *
 *     type LIKE 'order.%' AND (data.total * 2 > 100 OR NOT EXISTS region OR region IN ('eu', 'us'))
 *     = != <> < <= > >= + - * / % ; functions: LENGTH CONCAT CONCAT_WS LOWER UPPER TRIM LEFT RIGHT
 *     SUBSTRING ABS INT BOOL STRING IS_INT IS_BOOL; `data.a.b` reads into JSON data (an extension)
 *
 * In a pattern what is missing fits {"exists": false} alone.  In CESQL it makes unknown what is
 * asked of it, under NOT and beside OR, too, unless that side is not looked at; unknown does not
 * match.  INVALID says where: "filter, at 12: ...".
 */
struct event_filter;
int event_filter_parse(const char *text, struct event_filter **ret_filter, struct error *err);
void event_filter_free(struct event_filter *filter); /* accepts NULL */
/* False with TOO_LARGE: it would take more than EVENT_FILTER_STEPS_MAX; otherwise *err stays. */
bool event_filter_match(const struct event_filter *filter, const json_t *document,
                        struct error *err);

/* ---- Templates ---- */

/*
 * A JSON template makes new data.  A string that is one reference as a whole, "$.data.x" or
 * "{{ .data.x }}", becomes the value, of whatever type (null when it is absent); in other strings
 * each {{ .PATH }} is replaced by the value's text.  "$" is all of the event; a step is .name,
 * ['name'] or [N]; "$$" at the beginning writes a '$'.
 * A template that is no JSON is text; its result is text/plain.
 */
struct event_template;
int event_template_parse(const char *text, struct event_template **ret_template, struct error *err);
void event_template_free(struct event_template *template); /* accepts NULL */
/* Replaces the data and their content type.  TOO_LARGE. */
int event_template_apply(const struct event_template *template, const json_t *document,
                         struct event *event, struct error *err);

#endif
