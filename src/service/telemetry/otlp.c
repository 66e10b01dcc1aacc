/* See otlp.h.  Field numbers are those of the .proto files. */
#include "service/telemetry/otlp.h"

#include <string.h>
#include <zlib.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/text.h"
#include "base/version.h"

#include "service/telemetry/trace_parts.h"

enum wire { WIRE_VARINT = 0, WIRE_64 = 1, WIRE_BYTES = 2, WIRE_32 = 5 };

enum { /* Span */
       SPAN_TRACE_ID = 1,
       SPAN_SPAN_ID = 2,
       SPAN_TRACE_STATE = 3,
       SPAN_PARENT_SPAN_ID = 4,
       SPAN_NAME = 5,
       SPAN_KIND = 6,
       SPAN_START = 7,
       SPAN_END = 8,
       SPAN_ATTRIBUTES = 9,
       SPAN_DROPPED_ATTRIBUTES = 10,
       SPAN_EVENTS = 11,
       SPAN_STATUS = 15,
       SPAN_FLAGS = 16,
       STATUS_MESSAGE = 2,
       STATUS_CODE = 3,
       STATUS_ERROR = 2,
       EVENT_TIME = 1,
       EVENT_NAME = 2,
       KEY_VALUE_KEY = 1,
       KEY_VALUE_VALUE = 2,
       VALUE_STRING = 1,
       VALUE_BOOL = 2,
       VALUE_INT = 3,
};

enum { /* what is around them */
       REQUEST_RESOURCE_SPANS = 1,
       RESOURCE_SPANS_RESOURCE = 1,
       RESOURCE_SPANS_SCOPE_SPANS = 2,
       RESOURCE_ATTRIBUTES = 1,
       SCOPE_SPANS_SCOPE = 1,
       SCOPE_SPANS_SPANS = 2,
       SCOPE_NAME = 1,
       SCOPE_VERSION = 2,
       RESPONSE_PARTIAL_SUCCESS = 1,
       PARTIAL_REJECTED = 1,
       PARTIAL_MESSAGE = 2,
};

/* ---- Writing ---- */

static void put_varint(struct buffer *out, uint64_t value)
{
    while (value >= 128) {
        buffer_append_byte(out, (uint8_t)(value | 128));
        value >>= 7;
    }
    buffer_append_byte(out, (uint8_t)value);
}

static void put_tag(struct buffer *out, unsigned field, enum wire wire)
{
    put_varint(out, field << 3 | (unsigned)wire);
}

static void put_number(struct buffer *out, unsigned field, uint64_t value)
{
    put_tag(out, field, WIRE_VARINT);
    put_varint(out, value);
}

static void put_fixed64(struct buffer *out, unsigned field, uint64_t value)
{
    put_tag(out, field, WIRE_64);
    buffer_append_u64(out, value);
}

static void put_bytes(struct buffer *out, unsigned field, const void *bytes, size_t length)
{
    put_tag(out, field, WIRE_BYTES);
    put_varint(out, length);
    buffer_append(out, bytes, length);
}

/* A string is UTF-8; what is not, which clients may have sent, is shown byte by byte. */
static void put_text(struct buffer *out, unsigned field, struct text text)
{
    put_bytes(out, field, text.data, text.length);
    if (text.length > 0 && !text_is_utf8(text.data, text.length)) {
        for (size_t i = out->used - text.length; i < out->used; i++) {
            out->data[i] = out->data[i] < 128 ? out->data[i] : '?';
        }
    }
}

static void put_string(struct buffer *out, unsigned field, const char *string)
{
    put_text(out, field, text_of(string, strlen(string)));
}

/* A message inside: its length is known when it is written. */
static void put_message(struct buffer *out, unsigned field, struct buffer *message)
{
    put_bytes(out, field, message->data, message->used);
    buffer_clear(message);
}

static void put_attribute(const struct trace_item *item, unsigned field, struct buffer *out)
{
    BUFFER_OWNED struct buffer value = {0};
    BUFFER_OWNED struct buffer pair = {0};
    if (item->type == TRACE_ITEM_TEXT) {
        put_text(&value, VALUE_STRING, item->value);
    } else if (item->type == TRACE_ITEM_FLAG) {
        put_number(&value, VALUE_BOOL, trace_item_number(item) != 0);
    } else {
        put_number(&value, VALUE_INT, (uint64_t)trace_item_number(item));
    }
    put_text(&pair, KEY_VALUE_KEY, item->key);
    put_message(&pair, KEY_VALUE_VALUE, &value);
    put_message(out, field, &pair);
}

static void put_event(const struct trace_record *record, const struct trace_item *item,
                      struct buffer *out)
{
    BUFFER_OWNED struct buffer event = {0};
    put_fixed64(&event, EVENT_TIME, record->start_ns + (uint64_t)trace_item_number(item));
    put_text(&event, EVENT_NAME, item->key);
    put_message(out, SPAN_EVENTS, &event);
}

static void put_items(const struct trace_record *record, struct buffer *out, struct text *ret_error)
{
    size_t offset = 0;
    struct trace_item item;
    while (trace_next_item(record, &offset, &item)) {
        switch (item.type) {
        case TRACE_ITEM_TEXT:
        case TRACE_ITEM_NUMBER:
        case TRACE_ITEM_FLAG:
            put_attribute(&item, SPAN_ATTRIBUTES, out);
            break;
        case TRACE_ITEM_EVENT:
            put_event(record, &item, out);
            break;
        case TRACE_ITEM_STATE:
            put_text(out, SPAN_TRACE_STATE, item.value);
            break;
        case TRACE_ITEM_ERROR:
            *ret_error = item.value;
            break;
        }
    }
}

void otlp_append_span(const struct trace_record *record, struct buffer *out)
{
    static const uint8_t none[8];
    BUFFER_OWNED struct buffer span = {0};
    struct text error = {"", 0};
    put_bytes(&span, SPAN_TRACE_ID, record->context.trace, sizeof(record->context.trace));
    put_bytes(&span, SPAN_SPAN_ID, record->context.span, sizeof(record->context.span));
    if (memcmp(record->parent, none, sizeof(none)) != 0) {
        put_bytes(&span, SPAN_PARENT_SPAN_ID, record->parent, sizeof(record->parent));
    }
    put_string(&span, SPAN_NAME, record->name);
    put_number(&span, SPAN_KIND, record->kind);
    put_fixed64(&span, SPAN_START, record->start_ns);
    put_fixed64(&span, SPAN_END, record->start_ns + record->duration_ns);
    put_items(record, &span, &error);
    if (record->dropped > 0) {
        put_number(&span, SPAN_DROPPED_ATTRIBUTES, record->dropped);
    }
    if (record->is_error) {
        BUFFER_OWNED struct buffer status = {0};
        if (error.length > 0) {
            put_text(&status, STATUS_MESSAGE, error);
        }
        put_number(&status, STATUS_CODE, STATUS_ERROR);
        put_message(&span, SPAN_STATUS, &status);
    }
    put_tag(&span, SPAN_FLAGS, WIRE_32);
    buffer_append_u32(&span, record->context.flags);
    put_message(out, SCOPE_SPANS_SPANS, &span);
}

static void put_resource_attribute(struct buffer *out, const char *key, const char *value)
{
    const struct trace_item item = {.type = TRACE_ITEM_TEXT,
                                    .key = text_of(key, strlen(key)),
                                    .value = text_of(value, strlen(value))};
    put_attribute(&item, RESOURCE_ATTRIBUTES, out);
}

void otlp_append_request(const char *node, const void *spans, size_t length, struct buffer *out)
{
    BUFFER_OWNED struct buffer resource = {0};
    BUFFER_OWNED struct buffer scope = {0};
    BUFFER_OWNED struct buffer scope_spans = {0};
    BUFFER_OWNED struct buffer resource_spans = {0};
    put_resource_attribute(&resource, "service.name", "blixard");
    put_resource_attribute(&resource, "service.version", blixard_version);
    put_resource_attribute(&resource, "service.instance.id", node);
    put_resource_attribute(&resource, "host.name", node);
    put_string(&scope, SCOPE_NAME, "blixard");
    put_string(&scope, SCOPE_VERSION, blixard_version);
    put_message(&scope_spans, SCOPE_SPANS_SCOPE, &scope);
    buffer_append(&scope_spans, spans, length);
    put_message(&resource_spans, RESOURCE_SPANS_RESOURCE, &resource);
    put_message(&resource_spans, RESOURCE_SPANS_SCOPE_SPANS, &scope_spans);
    put_message(out, REQUEST_RESOURCE_SPANS, &resource_spans);
}

void otlp_append_packed(const void *bytes, size_t length, struct buffer *out)
{
    enum { GZIP = 16, MEMORY_LEVEL = 8 };
    z_stream stream = {.next_in = (Bytef *)(uintptr_t)bytes, .avail_in = (uInt)length};
    CHECK(length <= UINT32_MAX / 2);
    CHECK(deflateInit2(&stream, Z_BEST_SPEED, Z_DEFLATED, MAX_WBITS + GZIP, MEMORY_LEVEL,
                       Z_DEFAULT_STRATEGY) == Z_OK);
    uLong most = deflateBound(&stream, length);
    stream.next_out = buffer_reserve(out, most);
    stream.avail_out = (uInt)most;
    CHECK(deflate(&stream, Z_FINISH) == Z_STREAM_END);
    out->used += stream.total_out;
    deflateEnd(&stream);
}

/* ---- Reading an answer, which is input ---- */

struct reader {
    const uint8_t *at;
    size_t left;
};

static bool take_varint(struct reader *reader, uint64_t *ret_value)
{
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 64 && reader->left > 0; shift += 7) {
        uint8_t byte = *reader->at++;
        reader->left--;
        value |= (uint64_t)(byte & 127) << shift;
        if ((byte & 128) == 0) {
            *ret_value = value;
            return true;
        }
    }
    return false;
}

struct answer_field {
    uint64_t number;
    enum wire wire;
    uint64_t value;
    const uint8_t *bytes;
};

static bool take_field(struct reader *reader, struct answer_field *ret_field)
{
    uint64_t tag = 0;
    if (!take_varint(reader, &tag)) {
        return false;
    }
    *ret_field = (struct answer_field){.number = tag >> 3, .wire = (enum wire)(tag & 7)};
    size_t size = ret_field->wire == WIRE_64 ? 8 : 4;
    switch (ret_field->wire) {
    case WIRE_VARINT:
        return take_varint(reader, &ret_field->value);
    case WIRE_BYTES:
        if (!take_varint(reader, &ret_field->value) || ret_field->value > reader->left) {
            return false;
        }
        size = (size_t)ret_field->value;
        break;
    case WIRE_64:
    case WIRE_32:
        if (size > reader->left) {
            return false;
        }
        break;
    default:
        return false; /* groups, which nobody writes any more */
    }
    ret_field->bytes = reader->at;
    reader->at += size;
    reader->left -= size;
    return true;
}

/* ExportTracePartialSuccess is a number and a text, and so is google.rpc.Status. */
static bool read_partial(struct reader reader, uint64_t *ret_number, char *ret_text, size_t size)
{
    struct answer_field field;
    while (reader.left > 0) {
        if (!take_field(&reader, &field)) {
            return false;
        }
        if (field.number == PARTIAL_REJECTED && field.wire == WIRE_VARINT) {
            *ret_number = field.value;
        } else if (field.number == PARTIAL_MESSAGE && field.wire == WIRE_BYTES) {
            size_t length = field.value < size - 1 ? (size_t)field.value : size - 1;
            memcpy(ret_text, field.bytes, length);
            ret_text[length] = '\0';
            text_make_printable(ret_text, false);
            bool is_text = text_is_utf8(ret_text, strlen(ret_text));
            for (char *at = ret_text; !is_text && *at != '\0'; at++) {
                *at = (unsigned char)*at < 0x80 ? *at : '?'; /* or a character that was cut */
            }
        }
    }
    return true;
}

bool otlp_read_response(const void *bytes, size_t length, uint64_t *ret_rejected, char *ret_text,
                        size_t size)
{
    struct reader reader = {.at = bytes, .left = length};
    struct answer_field field;
    *ret_rejected = 0;
    ret_text[0] = '\0';
    while (reader.left > 0) {
        if (!take_field(&reader, &field)) {
            return false;
        }
        if (field.number == RESPONSE_PARTIAL_SUCCESS && field.wire == WIRE_BYTES &&
            !read_partial((struct reader){.at = field.bytes, .left = (size_t)field.value},
                          ret_rejected, ret_text, size)) {
            return false;
        }
    }
    return true;
}

bool otlp_read_status(const void *bytes, size_t length, char *ret_text, size_t size)
{
    uint64_t code = 0;
    ret_text[0] = '\0';
    return read_partial((struct reader){.at = bytes, .left = length}, &code, ret_text, size);
}

uint64_t otlp_retry_after_s(struct text field, uint64_t now_s)
{
    uint64_t seconds = 0;
    uint64_t date_s = 0;
    if (!text_parse_u64(field, &seconds) && clock_read_http_date(field, &date_s)) {
        seconds = date_s > now_s ? date_s - now_s : 0;
    }
    return seconds < OTLP_RETRY_AFTER_S_MAX ? seconds : OTLP_RETRY_AFTER_S_MAX;
}
