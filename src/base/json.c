#include "base/json.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/text.h"

static void before_value(struct json_writer *writer)
{
    if (writer->needs_comma) {
        buffer_append_byte(writer->out, ',');
    }
    writer->needs_comma = true;
}

static void open_with(struct json_writer *writer, char bracket)
{
    before_value(writer);
    buffer_append_byte(writer->out, (uint8_t)bracket);
    writer->needs_comma = false;
}

static void close_with(struct json_writer *writer, char bracket)
{
    buffer_append_byte(writer->out, (uint8_t)bracket);
    writer->needs_comma = true;
}

void json_write_begin_object(struct json_writer *writer)
{
    open_with(writer, '{');
}

void json_write_end_object(struct json_writer *writer)
{
    close_with(writer, '}');
}

void json_write_begin_array(struct json_writer *writer)
{
    open_with(writer, '[');
}

void json_write_end_array(struct json_writer *writer)
{
    close_with(writer, ']');
}

static void append_escaped(struct buffer *out, uint8_t byte)
{
    switch (byte) {
    case '\0': /* most readers of JSON, ours among them, take no NUL */
        buffer_append_string(out, "\xef\xbf\xbd");
        break;
    case '"':
        buffer_append_string(out, "\\\"");
        break;
    case '\\':
        buffer_append_string(out, "\\\\");
        break;
    case '\n':
        buffer_append_string(out, "\\n");
        break;
    case '\r':
        buffer_append_string(out, "\\r");
        break;
    case '\t':
        buffer_append_string(out, "\\t");
        break;
    default:
        if (byte < 0x20 || byte == 0x7f) {
            buffer_append_format(out, "\\u%04x", byte);
        } else {
            buffer_append_byte(out, byte);
        }
    }
}

static void append_quoted(struct buffer *out, const char *text, size_t length)
{
    bool clean = text_is_utf8(text, length);
    buffer_append_byte(out, '"');
    for (size_t i = 0; i < length; i++) {
        uint8_t byte = (uint8_t)text[i];
        if (byte < 0x80 || clean) {
            append_escaped(out, byte);
            continue;
        }
        size_t step = 0;
        for (size_t n = 2; n <= 4 && n <= length - i && step == 0; n++) {
            step = text_is_utf8(text + i, n) ? n : 0;
        }
        if (step == 0) {
            buffer_append_string(out, "\xef\xbf\xbd");
        } else {
            buffer_append(out, text + i, step);
            i += step - 1;
        }
    }
    buffer_append_byte(out, '"');
}

void json_write_key(struct json_writer *writer, const char *key)
{
    before_value(writer);
    append_quoted(writer->out, key, strlen(key));
    buffer_append_byte(writer->out, ':');
    writer->needs_comma = false;
}

void json_write_string(struct json_writer *writer, const char *string)
{
    if (string == NULL) {
        json_write_null(writer);
        return;
    }
    json_write_text(writer, string, strlen(string));
}

void json_write_text(struct json_writer *writer, const char *text, size_t length)
{
    before_value(writer);
    append_quoted(writer->out, text, length);
}

void json_write_u64(struct json_writer *writer, uint64_t value)
{
    before_value(writer);
    buffer_append_decimal(writer->out, value);
}

void json_write_i64(struct json_writer *writer, int64_t value)
{
    before_value(writer);
    buffer_append_format(writer->out, "%" PRId64, value);
}

void json_write_double(struct json_writer *writer, double value)
{
    CHECK(isfinite(value));
    before_value(writer);
    buffer_append_format(writer->out, "%.6g", value);
}

void json_write_bool(struct json_writer *writer, bool value)
{
    before_value(writer);
    buffer_append_string(writer->out, value ? "true" : "false");
}

void json_write_null(struct json_writer *writer)
{
    before_value(writer);
    buffer_append_string(writer->out, "null");
}

void json_write_raw(struct json_writer *writer, const char *json, size_t length)
{
    before_value(writer);
    buffer_append(writer->out, json, length);
}

void json_write_members(struct json_writer *writer, const json_t *object)
{
    const char *key = NULL;
    json_t *value = NULL;
    json_object_foreach((json_t *)(uintptr_t)object, key, value)
    {
        char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
        json_write_key(writer, key);
        json_write_raw(writer, text, strlen(text));
        free(text);
    }
}

void json_write_field_string(struct json_writer *writer, const char *key, const char *string)
{
    json_write_key(writer, key);
    json_write_string(writer, string);
}

void json_write_field_u64(struct json_writer *writer, const char *key, uint64_t value)
{
    json_write_key(writer, key);
    json_write_u64(writer, value);
}

void json_write_field_double(struct json_writer *writer, const char *key, double value)
{
    json_write_key(writer, key);
    json_write_double(writer, value);
}

void json_write_field_bool(struct json_writer *writer, const char *key, bool value)
{
    json_write_key(writer, key);
    json_write_bool(writer, value);
}

void json_write_field_time_ms(struct json_writer *writer, const char *key, uint64_t real_ms)
{
    json_write_key(writer, key);
    if (real_ms == 0) {
        json_write_null(writer);
        return;
    }
    char text[CLOCK_TEXT_SIZE];
    clock_format_ms(real_ms, text);
    json_write_string(writer, text);
}

int json_read(const void *bytes, size_t length, json_t **ret_value, struct error *err)
{
    json_error_t problem;
    json_t *value = json_loadb(bytes, length, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &problem);
    if (value == NULL) {
        return error_set(err, ERROR_INVALID, "not valid JSON at line %d, column %d: %s",
                         problem.line, problem.column, problem.text);
    }
    *ret_value = value;
    return 0;
}

int json_check_attributes(const char *text, size_t length_max, struct error *err)
{
    JSON_OWNED json_t *value = NULL;
    const char *key = NULL;
    json_t *member = NULL;
    size_t length = strlen(text);
    if (length > length_max) {
        return error_set(err, ERROR_TOO_LARGE, "attributes are at most %zu KiB", length_max >> 10);
    }
    if (json_read(text, length, &value, err) < 0) {
        return error_wrap(err, "attributes");
    }
    json_object_foreach(value, key, member)
    {
        if (!json_is_string(member)) {
            return error_set(err, ERROR_INVALID, "attribute %.64s must be a string", key);
        }
    }
    return json_is_object(value) ? 0
                                 : error_set(err, ERROR_INVALID, "attributes are a JSON object");
}

const char *json_text(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text != NULL ? text : "";
}

uint64_t json_u64(const json_t *object, const char *key)
{
    json_int_t value = json_integer_value(json_object_get(object, key));
    return value > 0 ? (uint64_t)value : 0;
}

void json_set_u64(json_t *object, const char *key, uint64_t value)
{
    json_object_set_new(object, key, json_integer((json_int_t)(value & INT64_MAX)));
}
