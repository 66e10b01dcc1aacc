/* Names, numbers and codings of HTTP. */
#include <stdio.h>
#include <string.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/error.h"
#include "base/http/connection.h"

const char *http_method_text(enum http_method method)
{
    static const char *const texts[HTTP_METHOD_COUNT] = {"GET",   "HEAD",   "POST",    "PUT",
                                                         "PATCH", "DELETE", "OPTIONS", "OTHER"};
    CHECK(method < HTTP_METHOD_COUNT);
    return texts[method];
}

const char *http_status_text(int status)
{
    static const struct {
        int status;
        const char *text;
    } table[] = {
        {100, "Continue"},
        {101, "Switching Protocols"},
        {200, "OK"},
        {201, "Created"},
        {202, "Accepted"},
        {204, "No Content"},
        {206, "Partial Content"},
        {301, "Moved Permanently"},
        {302, "Found"},
        {303, "See Other"},
        {304, "Not Modified"},
        {307, "Temporary Redirect"},
        {308, "Permanent Redirect"},
        {400, "Bad Request"},
        {401, "Unauthorized"},
        {403, "Forbidden"},
        {404, "Not Found"},
        {405, "Method Not Allowed"},
        {406, "Not Acceptable"},
        {408, "Request Timeout"},
        {409, "Conflict"},
        {410, "Gone"},
        {411, "Length Required"},
        {412, "Precondition Failed"},
        {413, "Content Too Large"},
        {414, "URI Too Long"},
        {415, "Unsupported Media Type"},
        {417, "Expectation Failed"},
        {421, "Misdirected Request"},
        {422, "Unprocessable Content"},
        {426, "Upgrade Required"},
        {429, "Too Many Requests"},
        {431, "Request Header Fields Too Large"},
        {499, "Client Closed Request"},
        {500, "Internal Server Error"},
        {501, "Not Implemented"},
        {502, "Bad Gateway"},
        {503, "Service Unavailable"},
        {504, "Gateway Timeout"},
        {505, "HTTP Version Not Supported"},
        {507, "Insufficient Storage"},
    };
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        if (table[i].status == status) {
            return table[i].text;
        }
    }
    return "Status";
}

bool http_field_is_clean(struct text name, struct text value)
{
    return parse_is_token(name) && parse_is_value(value);
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    if (c >= 'a' && c <= 'f') {
        return c - 'a' + 10;
    }
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static bool decode(struct text text, bool is_form, char *ret_text, size_t size)
{
    size_t used = 0;
    for (size_t i = 0; i < text.length; i++) {
        int c = (uint8_t)text.data[i];
        if (c == '%') {
            if (text.length - i < 3) {
                return false;
            }
            int high = hex_value(text.data[i + 1]);
            int low = hex_value(text.data[i + 2]);
            if (high < 0 || low < 0) {
                return false;
            }
            c = high * 16 + low;
            i += 2;
        } else if (c == '+' && is_form) {
            c = ' ';
        }
        if (c == 0 || used + 1 >= size) {
            return false;
        }
        ret_text[used++] = (char)c;
    }
    if (size == 0) {
        return false;
    }
    ret_text[used] = '\0';
    return true;
}

bool http_percent_decode(struct text text, char *ret_text, size_t size)
{
    return decode(text, false, ret_text, size);
}

bool http_form_decode(struct text text, char *ret_text, size_t size)
{
    return decode(text, true, ret_text, size);
}

void http_percent_encode(struct buffer *out, struct text text)
{
    static const char unreserved[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~";
    for (size_t i = 0; i < text.length; i++) {
        char c = text.data[i];
        if (c != '\0' && strchr(unreserved, c) != NULL) {
            buffer_append_byte(out, (uint8_t)c);
        } else {
            buffer_append_format(out, "%%%02X", (uint8_t)c);
        }
    }
}

bool http_query_get(struct text query, const char *name, char *ret_value, size_t size)
{
    while (query.length > 0) {
        const char *amp = memchr(query.data, '&', query.length);
        struct text pair =
            text_of(query.data, amp != NULL ? (size_t)(amp - query.data) : query.length);
        const char *equals = memchr(pair.data, '=', pair.length);
        size_t name_length = equals != NULL ? (size_t)(equals - pair.data) : pair.length;
        char decoded[128];
        if (decode(text_of(pair.data, name_length), true, decoded, sizeof(decoded)) &&
            strcmp(decoded, name) == 0) {
            struct text value = equals != NULL ? text_of(equals + 1, pair.length - name_length - 1)
                                               : text_of(pair.data, 0);
            return decode(value, true, ret_value, size);
        }
        size_t used = pair.length + (amp != NULL);
        query.data += used;
        query.length -= used;
    }
    return false;
}
