/* Fields and methods.  See fields.h. */
#include "service/fetch/fields.h"

#include <string.h>

#include "base/error.h"
#include "base/http/http.h"

#include "service/fetch/fetch.h"

static bool is_one_of(struct text name, const char *const *names)
{
    for (; *names != NULL; names++) {
        if (text_equal_ignoring_case(name, *names)) {
            return true;
        }
    }
    return false;
}

bool fields_is_of_connection(struct text name)
{
    static const char *const names[] = {
        "Connection",
        "Keep-Alive",
        "Proxy-Authenticate",
        "Proxy-Authorization",
        "Proxy-Connection",
        "TE",
        "Trailer",
        "Transfer-Encoding",
        "Upgrade",
        "HTTP2-Settings",
        NULL,
    };
    return is_one_of(name, names);
}

/* Framing and addressing: what is sent is what was understood. */
static bool is_ours(struct text name)
{
    static const char *const names[] = {"Host", "Content-Length", "Expect", "traceparent", NULL};
    return fields_is_of_connection(name) || is_one_of(name, names);
}

int fields_check_method(struct text method, struct error *err)
{
    static const char *const never[] = {"CONNECT", "TRACE", "TRACK", NULL};
    if (method.length == 0 || method.length > FETCH_METHOD_MAX ||
        !http_field_is_clean(method, text_of("", 0))) {
        return error_set(err, ERROR_INVALID, "a method is a word of at most %d letters",
                         (int)FETCH_METHOD_MAX);
    }
    if (is_one_of(method, never)) {
        return error_set(err, ERROR_INVALID, "the method %.*s is not for functions",
                         (int)method.length, method.data);
    }
    return 0;
}

bool fields_split(struct text line, struct text *ret_name, struct text *ret_value)
{
    const char *colon = line.length > 0 ? memchr(line.data, ':', line.length) : NULL;
    if (colon == NULL) {
        return false;
    }
    *ret_name = text_of(line.data, (size_t)(colon - line.data));
    *ret_value = text_trim(text_of(colon + 1, line.length - ret_name->length - 1));
    return true;
}

/* Up to the next CR LF; the last line may have none. */
static struct text next_line(struct text *rest)
{
    const char *end = memmem(rest->data, rest->length, "\r\n", 2);
    struct text line = text_of(rest->data, end != NULL ? (size_t)(end - rest->data) : rest->length);
    size_t used = line.length + (end != NULL ? 2 : 0);
    *rest = text_of(rest->data + used, rest->length - used);
    return line;
}

int fields_read(struct text fields, struct buffer *out, struct error *err)
{
    struct text rest = fields;
    size_t count = 0;
    while (rest.length > 0) {
        struct text name;
        struct text value;
        struct text line = next_line(&rest);
        if (!fields_split(line, &name, &value) || !http_field_is_clean(name, value)) {
            return error_set(err, ERROR_INVALID,
                             "field %zu is not \"Name: value\" without control characters in it",
                             count + 1);
        }
        if (++count > FETCH_FIELDS_MAX) {
            return error_set(err, ERROR_INVALID, "there are more than %d fields",
                             (int)FETCH_FIELDS_MAX);
        }
        if (!is_ours(name)) {
            buffer_append(out, name.data, name.length);
            buffer_append(out, ": ", 2);
            if (value.length > 0) {
                buffer_append(out, value.data, value.length);
            }
            buffer_append_byte(out, 0);
        }
    }
    return 0;
}

struct text fields_find(const struct buffer *fields, const char *name)
{
    for (size_t at = 0; at < fields->used;) {
        const char *line = (const char *)fields->data + at;
        size_t length = strlen(line);
        struct text found;
        struct text value;
        if (fields_split(text_of(line, length), &found, &value) &&
            text_equal_ignoring_case(found, name)) {
            return value;
        }
        at += length + 1;
    }
    return text_of(NULL, 0);
}
