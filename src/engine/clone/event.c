/* See event.h. */
#include "engine/clone/event.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/base64.h"
#include "base/buffer.h"
#include "base/error.h"
#include "base/json.h"
#include "base/text.h"

enum { NAME_MAX_BYTES = 128 };

const char *clone_event_variable(const char *environment, size_t length, const char *name)
{
    size_t name_length = strlen(name);
    for (size_t at = 0; at < length;) {
        const char *entry = environment + at;
        size_t entry_length = strnlen(entry, length - at);
        if (entry_length > name_length && strncmp(entry, name, name_length) == 0 &&
            entry[name_length] == '=') {
            return entry + name_length + 1;
        }
        at += entry_length + 1;
    }
    return NULL;
}

static const char *variable(const char *environment, size_t length, const char *name)
{
    const char *value = clone_event_variable(environment, length, name);
    return value != NULL ? value : "";
}

/* Calls by the API and from inside have no address of a client, or come by the API's path. */
bool clone_event_is_http(const char *environment, size_t length)
{
    const char *address = variable(environment, length, "REMOTE_ADDR");
    const char *script = variable(environment, length, "SCRIPT_NAME");
    bool has_address = strpbrk(address, ".:") != NULL || strcmp(address, "unix") == 0;
    size_t end = strlen(script);
    static const char tail[] = "/invocations";
    bool is_api = strncmp(script, "/v1/", 4) == 0 && end > sizeof(tail) &&
        strcmp(script + end - (sizeof(tail) - 1), tail) == 0;
    return has_address && !is_api;
}

/* ---- The event ---- */

/* HTTP_X_ONE -> x-one; CONTENT_TYPE and CONTENT_LENGTH are fields too. */
static bool field_name(const char *entry, char ret_name[NAME_MAX_BYTES])
{
    const char *equals = strchr(entry, '=');
    bool is_field = strncmp(entry, "HTTP_", 5) == 0;
    const char *from = is_field ? entry + 5 : entry;
    size_t length = equals != NULL ? (size_t)(equals - from) : 0;
    if ((!is_field && strncmp(entry, "CONTENT_TYPE=", 13) != 0 &&
         strncmp(entry, "CONTENT_LENGTH=", 15) != 0) ||
        length == 0 || length >= NAME_MAX_BYTES) {
        return false;
    }
    for (size_t i = 0; i < length; i++) {
        char c = from[i];
        ret_name[i] = (char)(c == '_' ? '-' : c >= 'A' && c <= 'Z' ? c + 32 : c);
    }
    ret_name[length] = '\0';
    return true;
}

/* Texts of a request may be any bytes; JSON's are UTF-8. */
static void write_field(struct json_writer *writer, const char *name, const char *value)
{
    size_t length = strlen(value);
    json_write_key(writer, name);
    if (text_is_utf8(value, length)) {
        json_write_string(writer, value);
        return;
    }
    BUFFER_OWNED struct buffer text = {0};
    for (size_t i = 0; i < length; i++) { /* taken for Latin-1 */
        unsigned char c = (unsigned char)value[i];
        if (c < 0x80) {
            buffer_append_byte(&text, c);
        } else {
            buffer_append_byte(&text, (uint8_t)(0xc0 | c >> 6));
            buffer_append_byte(&text, (uint8_t)(0x80 | (c & 0x3f)));
        }
    }
    json_write_string(writer, buffer_string(&text));
}

static void write_fields(struct json_writer *writer, const char *environment, size_t length)
{
    json_write_key(writer, "headers");
    json_write_begin_object(writer);
    for (size_t at = 0; at < length;) {
        const char *entry = environment + at;
        char name[NAME_MAX_BYTES];
        if (field_name(entry, name) && strcmp(name, "cookie") != 0) {
            write_field(writer, name, strchr(entry, '=') + 1);
        }
        at += strnlen(entry, length - at) + 1;
    }
    json_write_end_object(writer);
}

static void write_cookies(struct json_writer *writer, const char *cookies)
{
    if (cookies[0] == '\0') {
        return;
    }
    json_write_key(writer, "cookies");
    json_write_begin_array(writer);
    while (*cookies != '\0') {
        size_t length = strcspn(cookies, ";");
        struct text one = text_trim(text_of(cookies, length));
        if (one.length > 0 && text_is_utf8(one.data, one.length)) {
            json_write_text(writer, one.data, one.length);
        }
        cookies += length + (cookies[length] == ';');
    }
    json_write_end_array(writer);
}

static int digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0'
        : c >= 'a' && c <= 'f'  ? c - 'a' + 10
        : c >= 'A' && c <= 'F'  ? c - 'A' + 10
                                : -1;
}

static void decode(const char *text, size_t length, struct buffer *out)
{
    for (size_t i = 0; i < length; i++) {
        int high = text[i] == '%' && i + 2 < length ? digit(text[i + 1]) : -1;
        int low = high >= 0 ? digit(text[i + 2]) : -1;
        if (low >= 0 && high * 16 + low != 0) {
            buffer_append_byte(out, (uint8_t)(high * 16 + low));
            i += 2;
        } else {
            buffer_append_byte(out, (uint8_t)(text[i] == '+' ? ' ' : text[i]));
        }
    }
}

/* Of one name, values are joined by commas: at the end, as they may be very many. */
static void write_joined(struct json_writer *writer, const char *name, const json_t *values)
{
    BUFFER_OWNED struct buffer text = {0};
    const json_t *value;
    size_t i;
    json_array_foreach(values, i, value)
    {
        buffer_append_string(&text, i > 0 ? "," : "");
        buffer_append(&text, json_string_value(value), json_string_length(value));
    }
    json_write_key(writer, name);
    json_write_text(writer, buffer_string(&text), text.used);
}

/* What is no UTF-8 is left out. */
static json_t *read_query(const char *query)
{
    json_t *all = json_object();
    while (*query != '\0') {
        size_t length = strcspn(query, "&");
        size_t equals = strcspn(query, "=&");
        BUFFER_OWNED struct buffer name = {0};
        BUFFER_OWNED struct buffer value = {0};
        decode(query, equals, &name);
        if (equals < length) {
            decode(query + equals + 1, length - equals - 1, &value);
        }
        const char *key = buffer_string(&name);
        json_t *owned = json_string(buffer_string(&value));
        if (owned != NULL && key[0] != '\0' && json_object_get(all, key) == NULL) {
            json_object_set_new(all, key, json_array());
        }
        json_array_append_new(key[0] != '\0' ? json_object_get(all, key) : NULL, owned);
        query += length + (query[length] == '&');
    }
    return all;
}

static void write_query(struct json_writer *writer, const char *query)
{
    JSON_OWNED json_t *all = read_query(query);
    const char *name;
    json_t *values;
    if (json_object_size(all) == 0) {
        return;
    }
    json_write_key(writer, "queryStringParameters");
    json_write_begin_object(writer);
    json_object_foreach(all, name, values)
    {
        write_joined(writer, name, values);
    }
    json_write_end_object(writer);
}

static void write_body(struct json_writer *writer, const void *body, size_t length)
{
    bool is_text =
        text_is_utf8(body, length) && (length == 0 || memchr(body, '\0', length) == NULL);
    if (length > 0) {
        BUFFER_OWNED struct buffer text = {0};
        if (is_text) {
            buffer_append(&text, body, length);
        } else {
            base64_write(&text, body, length);
        }
        json_write_key(writer, "body");
        json_write_text(writer, buffer_string(&text), text.used);
    }
    json_write_field_bool(writer, "isBase64Encoded", !is_text);
}

/* "/hello/a?b" below "/hello" -> "/a", as it was sent. */
static void raw_path(const char *uri, const char *script, struct buffer *out)
{
    size_t length = strcspn(uri, "?");
    size_t skip = strncmp(uri, script, strlen(script)) == 0 ? strlen(script) : 0;
    skip = skip <= length ? skip : 0;
    buffer_append(out, uri + skip, length - skip);
    if (out->used == 0) {
        buffer_append_byte(out, '/');
    }
}

static void write_context(struct json_writer *writer, const char *environment, size_t length,
                          const char *path, uint64_t now_ms)
{
    char date[64];
    struct tm parts;
    time_t seconds = (time_t)(now_ms / 1000);
    gmtime_r(&seconds, &parts);
    strftime(date, sizeof(date), "%d/%b/%Y:%H:%M:%S +0000", &parts);
    const char *domain = variable(environment, length, "SERVER_NAME");
    json_write_key(writer, "requestContext");
    json_write_begin_object(writer);
    json_write_field_string(writer, "accountId", "anonymous");
    json_write_field_string(writer, "apiId", "blixard");
    write_field(writer, "domainName", domain);
    json_write_key(writer, "domainPrefix");
    size_t prefix = strcspn(domain, ".");
    json_write_text(writer, text_is_utf8(domain, prefix) ? domain : "",
                    text_is_utf8(domain, prefix) ? prefix : 0);
    json_write_key(writer, "http");
    json_write_begin_object(writer);
    write_field(writer, "method", variable(environment, length, "REQUEST_METHOD"));
    write_field(writer, "path", path);
    write_field(writer, "protocol", variable(environment, length, "SERVER_PROTOCOL"));
    write_field(writer, "sourceIp", variable(environment, length, "REMOTE_ADDR"));
    write_field(writer, "userAgent", variable(environment, length, "HTTP_USER_AGENT"));
    json_write_end_object(writer);
    write_field(writer, "requestId", variable(environment, length, "BLIXARD_REQUEST_ID"));
    json_write_field_string(writer, "routeKey", "$default");
    json_write_field_string(writer, "stage", "$default");
    json_write_field_string(writer, "time", date);
    json_write_field_u64(writer, "timeEpoch", now_ms);
    json_write_end_object(writer);
}

static void write_http(const char *environment, size_t length, const void *body, size_t body_length,
                       uint64_t now_ms, struct buffer *out)
{
    struct json_writer writer = json_writer_to(out);
    BUFFER_OWNED struct buffer path = {0};
    const char *query = variable(environment, length, "QUERY_STRING");
    raw_path(variable(environment, length, "REQUEST_URI"),
             variable(environment, length, "SCRIPT_NAME"), &path);
    json_write_begin_object(&writer);
    json_write_field_string(&writer, "version", "2.0");
    json_write_field_string(&writer, "routeKey", "$default");
    write_field(&writer, "rawPath", buffer_string(&path));
    write_field(&writer, "rawQueryString", query);
    write_cookies(&writer, variable(environment, length, "HTTP_COOKIE"));
    write_fields(&writer, environment, length);
    write_query(&writer, query);
    write_context(&writer, environment, length, buffer_string(&path), now_ms);
    write_body(&writer, body, body_length);
    json_write_end_object(&writer);
}

void clone_event_write(const char *environment, size_t length, const void *body, size_t body_length,
                       uint64_t now_ms, struct buffer *out)
{
    JSON_OWNED json_t *value = NULL;
    struct error ignored = {0};
    if (clone_event_is_http(environment, length)) {
        write_http(environment, length, body, body_length, now_ms, out);
    } else if (body_length == 0) {
        buffer_append_string(out, "null");
    } else if (json_read(body, body_length, &value, &ignored) == 0) {
        buffer_append(out, body, body_length);
    } else {
        BUFFER_OWNED struct buffer text = {0};
        struct json_writer writer = json_writer_to(out);
        if (text_is_utf8(body, body_length) && memchr(body, '\0', body_length) == NULL) {
            buffer_append(&text, body, body_length);
        } else {
            base64_write(&text, body, body_length);
        }
        json_write_text(&writer, buffer_string(&text), text.used);
    }
}

/* ---- The answer ---- */

static bool is_clean(const char *text)
{
    for (; *text != '\0'; text++) {
        if ((unsigned char)*text < ' ' && *text != '\t') {
            return false;
        }
    }
    return true;
}

static void append_field(struct buffer *out, const char *name, const json_t *value)
{
    char number[40];
    const char *text = json_string_value(value);
    if (json_is_integer(value)) {
        snprintf(number, sizeof(number), "%lld", (long long)json_integer_value(value));
        text = number;
    } else if (json_is_boolean(value)) {
        text = json_is_true(value) ? "true" : "false";
    }
    bool is_name = name[0] != '\0' && strpbrk(name, ": \t") == NULL && is_clean(name);
    /* The gateway has them of the body that it sends. */
    if (text != NULL && is_name && is_clean(text) &&
        !text_equal_ignoring_case(text_of(name, strlen(name)), "status")) {
        buffer_append_format(out, "%s: %s\r\n", name, text);
    }
}

static void append_fields(const json_t *answer, const char *type, struct buffer *out)
{
    const char *name;
    const json_t *value;
    bool has_type = false;
    size_t i;
    json_object_foreach((json_t *)(uintptr_t)json_object_get(answer, "headers"), name, value)
    {
        has_type |= text_equal_ignoring_case(text_of(name, strlen(name)), "content-type");
        if (!text_equal_ignoring_case(text_of(name, strlen(name)), "content-length")) {
            append_field(out, name, value);
        }
    }
    json_array_foreach(json_object_get(answer, "cookies"), i, value)
    {
        append_field(out, "Set-Cookie", value);
    }
    if (!has_type) {
        buffer_append_format(out, "Content-Type: %s\r\n", type);
    }
}

static void append_body(const json_t *answer, struct buffer *out)
{
    const json_t *body = json_object_get(answer, "body");
    const char *text = json_string_value(body);
    size_t length = json_string_length(body);
    if (text != NULL && json_is_true(json_object_get(answer, "isBase64Encoded")) &&
        base64_read(text, length, out)) {
        return;
    }
    if (text != NULL) {
        buffer_append(out, text, length);
    } else if (body != NULL && !json_is_null(body)) {
        char *owned = json_dumps(body, JSON_COMPACT | JSON_ENCODE_ANY);
        buffer_append_string(out, owned != NULL ? owned : "");
        free(owned);
    }
}

static const char json_head[] = "Content-Type: application/json\r\n\r\n";

void clone_event_write_answer(bool is_http, const void *answer, size_t length, struct buffer *out)
{
    JSON_OWNED json_t *value = NULL;
    struct error ignored = {0};
    bool is_json = length > 0 && json_read(answer, length, &value, &ignored) == 0;
    const json_t *status = json_object_get(value, "statusCode");
    if (!is_json) {
        buffer_append_string(out,
                             length == 0 ? "Content-Type: application/json\r\n\r\n"
                                         : "Content-Type: text/plain\r\n\r\n");
        buffer_append(out, answer, length);
    } else if (is_http && json_is_integer(status)) {
        buffer_append_format(out, "Status: %lld\r\n", (long long)json_integer_value(status));
        append_fields(value, "application/json", out);
        buffer_append_string(out, "\r\n");
        append_body(value, out);
    } else if (is_http && json_is_string(value)) {
        buffer_append_string(out, json_head);
        buffer_append(out, json_string_value(value), json_string_length(value));
    } else {
        buffer_append_string(out, json_head);
        buffer_append(out, answer, length);
    }
}

/* ---- Answers in pieces ---- */

void clone_event_write_head(const char *content_type, struct buffer *out)
{
    bool is_said = content_type[0] != '\0' && is_clean(content_type);
    buffer_append_format(out, "Content-Type: %s\r\n\r\n",
                         is_said ? content_type : "application/octet-stream");
}

int clone_event_take_prelude(bool is_http, const void *begun, size_t length, struct buffer *out,
                             size_t *ret_taken, struct error *err)
{
    static const char zeros[8] = {0};
    JSON_OWNED json_t *prelude = NULL;
    const char *end = memmem(begun, length, zeros, sizeof(zeros));
    if (end == NULL) {
        return length <= CLONE_EVENT_PRELUDE_MAX
            ? 1
            : error_set(err, ERROR_TOO_LARGE,
                        "the streamed answer has no eight zeros in its first 64 KiB");
    }
    size_t used = (size_t)(end - (const char *)begun);
    if (json_read(begun, used, &prelude, err) < 0 || !json_is_object(prelude)) {
        return error_set(err, ERROR_INVALID,
                         "the streamed answer does not begin with a JSON object");
    }
    const json_t *status = json_object_get(prelude, "statusCode");
    if (is_http && json_is_integer(status)) {
        buffer_append_format(out, "Status: %lld\r\n", (long long)json_integer_value(status));
    }
    append_fields(prelude, "application/octet-stream", out);
    buffer_append_string(out, "\r\n");
    *ret_taken = used + sizeof(zeros);
    return 0;
}

void clone_event_failure_text(const void *failure, size_t length, char *ret_text, size_t size)
{
    const char *type = failure;
    size_t type_length = strnlen(type, length);
    size_t at = type_length < length ? type_length + 1 : length;
    BUFFER_OWNED struct buffer json = {0};
    if (at < length && base64_read(type + at, length - at, &json) && json.used > 0) {
        clone_event_error_text(json.data, json.used, ret_text, size);
        return;
    }
    snprintf(ret_text, size, "%.*s", (int)(type_length < size ? type_length : size), type);
    text_make_printable(ret_text, false);
}

void clone_event_error_text(const void *json, size_t length, char *ret_text, size_t size)
{
    JSON_OWNED json_t *value = NULL;
    struct error ignored = {0};
    if (length == 0 || json_read(json, length, &value, &ignored) < 0 || !json_is_object(value)) {
        snprintf(ret_text, size, "%.*s", (int)(length < size ? length : size), (const char *)json);
    } else {
        const char *type = json_string_value(json_object_get(value, "errorType"));
        const char *message = json_string_value(json_object_get(value, "errorMessage"));
        snprintf(ret_text, size, "%s%s%s", type != NULL ? type : "",
                 type != NULL && message != NULL ? ": " : "", message != NULL ? message : "");
    }
    text_make_printable(ret_text, false);
}
