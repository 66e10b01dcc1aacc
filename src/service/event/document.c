/* The JSON event format: structured and batch. */
#include <openssl/evp.h>
#include <string.h>

#include "base/error.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"

#include "service/event/parts.h"

/* ---- Base64 (RFC 4648, with padding) ---- */

static json_t *encode_base64(const struct buffer *data)
{
    MEMORY_OWNED unsigned char *text = memory_new(data->used / 3 * 4 + 5, 1);
    int length = EVP_EncodeBlock(text, data->data != NULL ? data->data : text, (int)data->used);
    return json_stringn((const char *)text, (size_t)length);
}

static int decode_base64(const char *text, size_t length, struct buffer *out, struct error *err)
{
    static const char alphabet[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    size_t digits = strspn(text, alphabet);
    size_t padding = length - digits;
    bool is_good = length % 4 == 0 && padding <= 2 && strspn(text + digits, "=") == padding &&
        strlen(text) == length;
    if (!is_good) {
        return error_set(err, ERROR_INVALID, "data_base64 is no base64");
    }
    if (length > 0) {
        int r =
            EVP_DecodeBlock(buffer_reserve(out, length), (const unsigned char *)text, (int)length);
        out->used += r > 0 ? (size_t)r - padding : 0;
    }
    return 0;
}

/* ---- Reading ---- */

static int take_data(const json_t *data, struct event *event)
{
    const char *type = event_get(event, "datacontenttype");
    event->has_data = true;
    if (json_is_string(data) && !event_type_is_json(type)) {
        buffer_append(&event->data, json_string_value(data), json_string_length(data));
        return 0;
    }
    char *text = json_dumps(data, JSON_COMPACT | JSON_ENCODE_ANY);
    buffer_append_string(&event->data, text != NULL ? text : "null");
    free(text);
    return 0;
}

static int read_document(const json_t *document, struct event *event, struct error *err)
{
    const char *name = NULL;
    json_t *value = NULL;
    if (!json_is_object(document)) {
        return error_set(err, ERROR_INVALID, "an event is a JSON object");
    }
    json_object_foreach((json_t *)(uintptr_t)document, name, value)
    {
        if (strcmp(name, "data") == 0 || strcmp(name, "data_base64") == 0 || json_is_null(value)) {
            continue;
        }
        int r = event_put(event, name, json_incref(value), err);
        if (r < 0) {
            return r;
        }
    }
    const json_t *data = json_object_get(document, "data");
    const json_t *binary = json_object_get(document, "data_base64");
    if (data != NULL && binary != NULL) {
        return error_set(err, ERROR_INVALID, "an event has data or data_base64, not both");
    }
    if (binary != NULL && !json_is_string(binary)) {
        return error_set(err, ERROR_INVALID, "data_base64 is to be a string");
    }
    int r = event_check(event, err);
    if (r == 0 && data != NULL) {
        r = take_data(data, event);
    }
    if (r == 0 && binary != NULL) {
        event->has_data = true;
        r = decode_base64(json_string_value(binary), json_string_length(binary), &event->data, err);
    }
    if (r == 0 && event->data.used > EVENT_BYTES_MAX) {
        return error_set(err, ERROR_TOO_LARGE, "the data of an event are at most %d bytes",
                         EVENT_BYTES_MAX);
    }
    return r;
}

int event_read_document(const json_t *document, struct event *ret_event, struct error *err)
{
    struct event event = {0};
    int r = read_document(document, &event, err);
    if (r < 0) {
        event_done(&event);
    }
    *ret_event = event;
    return r;
}

int event_read(const void *bytes, size_t length, struct event *ret_event, struct error *err)
{
    JSON_OWNED json_t *document = NULL;
    *ret_event = (struct event){0};
    if (length > 2 * EVENT_BYTES_MAX) {
        return error_set(err, ERROR_TOO_LARGE, "an event is at most %d bytes", EVENT_BYTES_MAX);
    }
    int r = json_read(bytes, length, &document, err);
    return r < 0 ? r : event_read_document(document, ret_event, err);
}

int event_read_batch(const void *bytes, size_t length, struct event **ret_events, size_t *ret_count,
                     struct error *err)
{
    JSON_OWNED json_t *document = NULL;
    *ret_events = NULL;
    *ret_count = 0;
    if (length > EVENT_BATCH_BYTES_MAX) {
        return error_set(err, ERROR_TOO_LARGE, "a batch is at most %d bytes",
                         EVENT_BATCH_BYTES_MAX);
    }
    int r = json_read(bytes, length, &document, err);
    if (r < 0) {
        return r;
    }
    size_t count = json_array_size(document);
    if (!json_is_array(document) || count > EVENT_BATCH_MAX) {
        return error_set(err, json_is_array(document) ? ERROR_TOO_LARGE : ERROR_INVALID,
                         "a batch is a JSON array of at most %d events", EVENT_BATCH_MAX);
    }
    struct event *events = memory_new(count + 1, sizeof(*events));
    for (size_t i = 0; r == 0 && i < count; i++) {
        r = event_read_document(json_array_get(document, i), &events[i], err);
        if (r < 0) {
            error_wrap(err, "event %zu of the batch", i + 1);
        }
    }
    if (r < 0) {
        for (size_t i = 0; i < count; i++) {
            event_done(&events[i]);
        }
        free(events);
        return r;
    }
    *ret_events = events;
    *ret_count = count;
    return 0;
}

/* ---- Writing ---- */

/* JSON that jansson can keep: others are told as text or base64. */
json_t *event_data_as_json(const struct event *event)
{
    json_error_t problem;
    return event->data.used > 0 ? json_loadb((const char *)event->data.data, event->data.used,
                                             JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, &problem)
                                : NULL;
}

json_t *event_document(const struct event *event)
{
    json_t *document = json_copy(event->attributes);
    const char *type = event_get(event, "datacontenttype");
    if (!event->has_data) {
        return document;
    }
    json_t *data = event_type_is_json(type) ? event_data_as_json(event) : NULL;
    const char *text = event->data.used > 0 ? (const char *)event->data.data : "";
    if (data == NULL && !(event_type_is_json(type)) && text_is_utf8(text, event->data.used)) {
        data = json_stringn(text, event->data.used);
    }
    if (data != NULL) {
        json_object_set_new(document, "data", data);
    } else {
        json_object_set_new(document, "data_base64", encode_base64(&event->data));
    }
    return document;
}

void event_write(const struct event *event, struct buffer *out)
{
    JSON_OWNED json_t *document = event_document(event);
    char *text = json_dumps(document, JSON_COMPACT);
    buffer_append_string(out, text != NULL ? text : "{}");
    free(text);
}

void event_write_batch(const struct event *const *events, size_t count, struct buffer *out)
{
    buffer_append_byte(out, '[');
    for (size_t i = 0; i < count; i++) {
        if (i > 0) {
            buffer_append_byte(out, ',');
        }
        event_write(events[i], out);
    }
    buffer_append_byte(out, ']');
}
