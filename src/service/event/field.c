/*
 * The HTTP protocol binding's binary mode: attributes as fields.
 *
 * Values are percent-encoded (3.1.3.2): space, ", %, and what is not printable ASCII, byte by byte
 * of its UTF-8.  Reading, quotes around a value are taken off, as older writers put them.
 */
#include <string.h>
#include <strings.h>

#include "base/error.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"

#include "service/event/parts.h"

static int hex_of(char digit)
{
    if (digit >= '0' && digit <= '9') {
        return digit - '0';
    }
    char lower = (char)(digit | 0x20);
    return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

static void decode(struct text value, struct buffer *out)
{
    bool is_quoted =
        value.length >= 2 && value.data[0] == '"' && value.data[value.length - 1] == '"';
    size_t end = value.length - (is_quoted ? 1 : 0);
    for (size_t i = is_quoted ? 1 : 0; i < end; i++) {
        if (is_quoted && value.data[i] == '\\' && i + 1 < end) {
            i++;
        } else if (value.data[i] == '%' && i + 2 < end + 0 && hex_of(value.data[i + 1]) >= 0 &&
                   hex_of(value.data[i + 2]) >= 0) {
            buffer_append_byte(
                out, (uint8_t)(hex_of(value.data[i + 1]) * 16 + hex_of(value.data[i + 2])));
            i += 2;
            continue;
        }
        buffer_append_byte(out, (uint8_t)value.data[i]);
    }
}

int event_read_field(struct event *event, struct text name, struct text value, struct error *err)
{
    char attribute[72];
    BUFFER_OWNED struct buffer text = {0};
    if (name.length == 12 && strncasecmp(name.data, "content-type", 12) == 0) {
        snprintf(attribute, sizeof(attribute), "datacontenttype");
        buffer_append(&text, value.data, value.length);
    } else if (name.length > 3 && strncasecmp(name.data, "ce-", 3) == 0) {
        if (name.length - 3 >= sizeof(attribute) || value.length > 3 * EVENT_ATTRIBUTE_BYTES_MAX) {
            return error_set(err, ERROR_TOO_LARGE, "the field of an attribute is too long");
        }
        for (size_t i = 3; i < name.length; i++) {
            char c = name.data[i];
            attribute[i - 3] = (char)(c >= 'A' && c <= 'Z' ? c | 0x20 : c);
        }
        attribute[name.length - 3] = '\0';
        decode(value, &text);
    } else {
        return 0;
    }
    json_t *string = json_stringn(text.used > 0 ? (const char *)text.data : "", text.used);
    if (string == NULL) {
        return error_set(err, ERROR_INVALID, "attribute \"%s\" is not UTF-8", attribute);
    }
    if (strcmp(attribute, "datacontenttype") == 0 && text.used == 0) {
        json_decref(string);
        return 0;
    }
    return event_put(event, attribute, string, err);
}

int event_read_body(struct event *event, const void *body, size_t length, struct error *err)
{
    int r = event_check(event, err);
    if (r == 0 && length > EVENT_BYTES_MAX) {
        r = error_set(err, ERROR_TOO_LARGE, "the data of an event are at most %d bytes",
                      EVENT_BYTES_MAX);
    }
    if (r < 0) {
        event_done(event);
        return r;
    }
    event->has_data = length > 0;
    if (length > 0) {
        buffer_append(&event->data, body, length);
    }
    return 0;
}

static void encode(const char *text, struct buffer *out)
{
    for (const unsigned char *at = (const unsigned char *)text; *at != '\0'; at++) {
        if (*at <= ' ' || *at == '"' || *at == '%' || *at >= 0x7f) {
            buffer_append_format(out, "%%%02X", *at);
        } else {
            buffer_append_byte(out, *at);
        }
    }
}

void event_write_fields(const struct event *event,
                        void (*field)(const char *name, const char *value, void *context),
                        void *context)
{
    const char *name = NULL;
    json_t *value = NULL;
    json_object_foreach(event->attributes, name, value)
    {
        BUFFER_OWNED struct buffer plain = {0};
        BUFFER_OWNED struct buffer encoded = {0};
        if (strcmp(name, "datacontenttype") == 0) {
            field("Content-Type", json_string_value(value), context);
            continue;
        }
        MEMORY_OWNED char *full = memory_format("ce-%s", name);
        event_append_value(&plain, value);
        encode(buffer_string(&plain), &encoded);
        field(full, buffer_string(&encoded), context);
    }
    if (event_get(event, "datacontenttype") == NULL && event->data.used > 0) {
        JSON_OWNED json_t *data = event_data_as_json(event);
        field("Content-Type", data != NULL ? "application/json" : "application/octet-stream",
              context);
    }
}
