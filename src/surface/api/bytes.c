/* Bytes in JSON: `body` where they are text, `body_base64` where they are not. */
#include <string.h>

#include "base/base64.h"

#include "surface/api/parts.h"

void api_write_bytes(struct json_writer *writer, const void *bytes, size_t length)
{
    if (text_is_utf8(bytes, length) && memchr(bytes, '\0', length) == NULL) {
        json_write_key(writer, "body");
        json_write_text(writer, bytes, length);
        return;
    }
    BUFFER_OWNED struct buffer text = {0};
    base64_write(&text, bytes, length);
    json_write_field_string(writer, "body_base64", buffer_string(&text));
}

int api_take_bytes(const json_t *value, struct buffer *ret_bytes, struct error *err)
{
    const json_t *body = json_object_get(value, "body");
    const json_t *encoded = json_object_get(value, "body_base64");
    if (json_is_string(body) && json_is_string(encoded)) {
        return error_set(err, ERROR_INVALID, "body or body_base64, not both");
    }
    if (json_is_string(body)) {
        buffer_append(ret_bytes, json_string_value(body), json_string_length(body));
        return 0;
    }
    if (!json_is_string(encoded)) {
        return 0;
    }
    return base64_read(json_string_value(encoded), json_string_length(encoded), ret_bytes)
        ? 0
        : error_set(err, ERROR_INVALID, "body_base64 is no base64 (RFC 4648, with padding)");
}
