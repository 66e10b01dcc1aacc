/* See cgi.h. */
#include "service/gateway/cgi.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/error.h"
#include "base/http/http.h"
#include "base/version.h"

/* ---- Names ---- */

/* Fields between two neighbours (RFC 9110, 7.6.1), and what the server answers itself. */
static const char *const hop_fields[] = {
    "connection",          "expect",           "keep-alive", "proxy-authenticate",
    "proxy-authorization", "proxy-connection", "te",         "trailer",
    "transfer-encoding",   "upgrade",          NULL,
};

/* Fields an answer's head cannot set: the server does, or they were for the gateway. */
static const char *const server_fields[] = {
    "content-length", "date", "status", "x-blixard-instance", "traceresponse", "x-request-id", NULL,
};

static const char *const meta_variables[] = {
    "AUTH_TYPE",
    "BLIXARD_REQUEST_ID",
    "BLIXARD_WEBSOCKET",
    "HTTPS",
    "REQUEST_SCHEME",
    "SSL_CLIENT_S_DN",
    "SSL_CLIENT_FINGERPRINT",
    "SSL_CLIENT_VERIFY", /* those of mod_ssl that servers agree on */
    "CONTENT_LENGTH",
    "CONTENT_TYPE",
    "GATEWAY_INTERFACE",
    "PATH_INFO",
    "PATH_TRANSLATED",
    "QUERY_STRING",
    "REMOTE_ADDR",
    "REMOTE_HOST",
    "REMOTE_IDENT",
    "REMOTE_USER",
    "REQUEST_METHOD",
    "REQUEST_URI",
    "SCRIPT_NAME",
    "SERVER_NAME",
    "SERVER_PORT",
    "SERVER_PROTOCOL",
    "SERVER_SOFTWARE",
    "TRACEPARENT",
    "TRACESTATE",
    NULL,
};

static bool is_listed(struct text name, const char *const *list)
{
    for (; *list != NULL; list++) {
        if (text_equal_ignoring_case(name, *list)) {
            return true;
        }
    }
    return false;
}

static bool texts_equal_ignoring_case(struct text a, struct text b)
{
    return a.length == b.length && strncasecmp(a.data, b.data, a.length) == 0;
}

static bool is_alphanumeric(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

/* ---- The environment ---- */

/* A NUL inside would begin another variable. */
static void add_text(struct buffer *out, const char *name, struct text value)
{
    if (value.length > 0 && memchr(value.data, '\0', value.length) != NULL) {
        return;
    }
    buffer_append_string(out, name);
    buffer_append_byte(out, '=');
    buffer_append(out, value.data, value.length);
    buffer_append_byte(out, '\0');
}

static void add(struct buffer *out, const char *name, const char *value)
{
    add_text(out, name, text_of(value, strlen(value)));
}

static void add_number(struct buffer *out, const char *name, uint64_t value)
{
    char text[24];
    snprintf(text, sizeof(text), "%" PRIu64, value);
    add(out, name, text);
}

static void add_names(const struct cgi_request *request, struct buffer *out)
{
    struct text host = text_without_port(request->host);
    if (host.length == 0) {
        host = text_without_port(text_of(request->address, strlen(request->address)));
    }
    add_text(out, "SERVER_NAME", host);
    add_number(out, "SERVER_PORT", request->port);
    add_text(out, "REMOTE_ADDR", text_address(request->peer));
}

static int add_path_info(const struct cgi_request *request, struct buffer *out, struct error *err)
{
    struct text rest = text_of(request->path.data + request->script_length,
                               request->path.length - request->script_length);
    buffer_append_string(out, "PATH_INFO=");
    char *decoded = (char *)buffer_reserve(out, rest.length + 1);
    if (!http_percent_decode(rest, decoded, rest.length + 1)) {
        return error_set(err, ERROR_INVALID,
                         "the path is badly percent-encoded, or holds a zero byte");
    }
    out->used += strlen(decoded) + 1;
    return 0;
}

static void add_caller(const struct cgi_request *request, struct buffer *out)
{
    add(out, "REQUEST_SCHEME", request->is_secure ? "https" : "http");
    if (request->is_secure) {
        add(out, "HTTPS", "on");
    }
    if (request->is_websocket) {
        add(out, "BLIXARD_WEBSOCKET", "1");
        if (request->websocket_protocol != NULL && request->websocket_protocol[0] != '\0') {
            add(out, "BLIXARD_WEBSOCKET_PROTOCOL", request->websocket_protocol);
        }
    }
    if (request->subject != NULL && request->subject[0] != '\0') {
        add(out, "AUTH_TYPE", "CLIENT_CERT");
        add(out, "REMOTE_USER", request->subject);
        add(out, "SSL_CLIENT_VERIFY", "SUCCESS");
        add(out, "SSL_CLIENT_S_DN", request->subject);
        add(out, "SSL_CLIENT_FINGERPRINT", request->fingerprint);
    } else if (request->user != NULL && request->user[0] != '\0') {
        add(out, "AUTH_TYPE", "Bearer");
        add(out, "REMOTE_USER", request->user);
    }
}

/* Of a route's path. */
static int add_parameters(const struct cgi_request *request, struct buffer *out, struct error *err)
{
    for (size_t i = 0; i < request->parameter_count; i++) {
        struct text name = request->parameters[i].name;
        struct text value = request->parameters[i].value;
        buffer_append_string(out, "PATH_PARAM_");
        for (size_t k = 0; k < name.length; k++) {
            char c = name.data[k];
            buffer_append_byte(out, (uint8_t)(c >= 'a' && c <= 'z' ? c - 'a' + 'A' : c));
        }
        buffer_append_byte(out, '=');
        char *decoded = (char *)buffer_reserve(out, value.length + 1);
        if (!http_percent_decode(value, decoded, value.length + 1)) {
            return error_set(err, ERROR_INVALID, "the path is badly percent-encoded");
        }
        out->used += strlen(decoded) + 1;
    }
    return 0;
}

static bool is_named_by_connection(const struct cgi_request *request, struct text name)
{
    for (size_t i = 0; i < request->field_count; i++) {
        if (!text_equal_ignoring_case(request->fields[i].name, "connection")) {
            continue;
        }
        struct text list = request->fields[i].value;
        while (list.length > 0) {
            const char *comma = memchr(list.data, ',', list.length);
            size_t length = comma != NULL ? (size_t)(comma - list.data) : list.length;
            if (texts_equal_ignoring_case(text_trim(text_of(list.data, length)), name)) {
                return true;
            }
            size_t skip = comma != NULL ? length + 1 : length;
            list = text_of(list.data + skip, list.length - skip);
        }
    }
    return false;
}

static bool field_is_passed(const struct cgi_request *request, struct text name)
{
    for (size_t i = 0; i < name.length; i++) {
        if (!is_alphanumeric(name.data[i]) && name.data[i] != '-') {
            return false;
        }
    }
    return name.length > 0 && !is_listed(name, hop_fields) &&
        !text_equal_ignoring_case(name, "proxy") &&
        !text_equal_ignoring_case(name, "content-type") &&
        !text_equal_ignoring_case(name, "traceparent") &&
        !text_equal_ignoring_case(name, "content-length") && !is_named_by_connection(request, name);
}

static bool is_first_of_its_name(const struct cgi_request *request, size_t index)
{
    for (size_t i = 0; i < index; i++) {
        if (texts_equal_ignoring_case(request->fields[i].name, request->fields[index].name)) {
            return false;
        }
    }
    return true;
}

static void add_field(const struct cgi_request *request, size_t index, const char *prefix,
                      struct buffer *out)
{
    struct text name = request->fields[index].name;
    const char *joint = text_equal_ignoring_case(name, "cookie") ? "; " : ", ";
    size_t start = out->used;
    buffer_append_string(out, prefix);
    for (size_t i = 0; i < name.length; i++) {
        char c = name.data[i];
        c = c == '-' ? '_' : c;
        buffer_append_byte(out, (uint8_t)(c >= 'a' && c <= 'z' ? c - 'a' + 'A' : c));
    }
    buffer_append_byte(out, '=');
    for (size_t i = index; i < request->field_count; i++) {
        const struct cgi_field *field = &request->fields[i];
        if (!texts_equal_ignoring_case(field->name, name)) {
            continue;
        }
        if (i > index) {
            buffer_append_string(out, joint);
        }
        if (field->value.length > 0 && memchr(field->value.data, '\0', field->value.length)) {
            out->used = start;
            return;
        }
        buffer_append(out, field->value.data, field->value.length);
    }
    buffer_append_byte(out, '\0');
}

/* By both names that programs look for: that of the field, and that of the environment. */
static void add_trace(const struct cgi_request *request, struct buffer *out)
{
    if (request->traceparent == NULL) {
        return;
    }
    add(out, "HTTP_TRACEPARENT", request->traceparent);
    add(out, "TRACEPARENT", request->traceparent);
    for (size_t i = 0; i < request->field_count; i++) {
        if (text_equal_ignoring_case(request->fields[i].name, "tracestate")) {
            add_field(request, i, "", out);
            return;
        }
    }
}

static void add_fields(const struct cgi_request *request, struct buffer *out)
{
    for (size_t i = 0; i < request->field_count; i++) {
        struct text name = request->fields[i].name;
        if (is_first_of_its_name(request, i) && field_is_passed(request, name)) {
            add_field(request, i, "HTTP_", out);
        }
        if (text_equal_ignoring_case(name, "content-type") && is_first_of_its_name(request, i)) {
            add_text(out, "CONTENT_TYPE", request->fields[i].value);
        }
    }
}

/* The entry's own name decides; what is no NAME=value is skipped. */
static void add_own(const struct cgi_request *request, struct buffer *out)
{
    size_t at = 0;
    while (at < request->environment_length) {
        const char *entry = request->environment + at;
        size_t length = strnlen(entry, request->environment_length - at);
        const char *equals = memchr(entry, '=', length);
        at += length + 1;
        if (equals == NULL || equals == entry) {
            continue;
        }
        struct text name = text_of(entry, (size_t)(equals - entry));
        bool is_field = name.length >= 5 && strncasecmp(name.data, "HTTP_", 5) == 0;
        if (!is_field && !is_listed(name, meta_variables)) {
            buffer_append(out, entry, length);
            buffer_append_byte(out, '\0');
        }
    }
}

int cgi_write_environment(const struct cgi_request *request, size_t bytes_max, struct buffer *out,
                          struct error *err)
{
    CHECK(request->script_length <= request->path.length);

    size_t start = out->used;
    add(out, "GATEWAY_INTERFACE", "CGI/1.1");
    add(out, "SERVER_SOFTWARE", blixard_software);
    add(out, "SERVER_PROTOCOL", request->protocol);
    add_text(out, "REQUEST_METHOD", request->method);
    add_text(out, "SCRIPT_NAME", text_of(request->path.data, request->script_length));
    int r = add_path_info(request, out, err);
    if (r < 0) {
        return r;
    }
    add_text(out, "QUERY_STRING", request->query);
    buffer_append_string(out, "REQUEST_URI=");
    buffer_append(out, request->path.data, request->path.length);
    if (request->query.length > 0) {
        buffer_append_byte(out, '?');
        buffer_append(out, request->query.data, request->query.length);
    }
    buffer_append_byte(out, '\0');
    add_names(request, out);
    add_caller(request, out);
    r = add_parameters(request, out, err);
    if (r < 0) {
        return r;
    }
    add(out, "BLIXARD_REQUEST_ID", request->request_id);
    if (request->has_body && request->body_length != UINT64_MAX) {
        add_number(out, "CONTENT_LENGTH", request->body_length);
    }
    add_trace(request, out);
    add_fields(request, out);
    add_own(request, out);
    if (out->used - start > bytes_max) {
        return error_set(err, ERROR_TOO_LARGE,
                         "the request's header fields and the function's environment have %zu "
                         "bytes together; %zu are possible",
                         out->used - start, bytes_max);
    }
    return 0;
}

/* ---- The answer's head ---- */

/* RFC 9110, 5.6.2. */
static bool is_token(char c)
{
    return is_alphanumeric(c) || (c != '\0' && strchr("!#$%&'*+-.^_`|~", c) != NULL);
}

/* The length of the field name that `line` begins with, as far as it goes; 0: it begins with none.
 */
static size_t token_length(struct text line)
{
    size_t length = 0;
    while (length < line.length && length <= CGI_NAME_BYTES_MAX && is_token(line.data[length])) {
        length++;
    }
    return length <= CGI_NAME_BYTES_MAX ? length : 0;
}

/* Does it look like "Name: value"? */
static bool line_to_field(struct text line, struct cgi_field *ret_field)
{
    size_t name = token_length(line);
    if (name == 0 || name == line.length || line.data[name] != ':') {
        return false;
    }
    ret_field->name = text_of(line.data, name);
    ret_field->value = text_trim(text_of(line.data + name + 1, line.length - name - 1));
    return true;
}

/* May a line that is not complete still become a field, or the empty line? */
static bool line_may_become_field(struct text line)
{
    size_t name = token_length(line);
    if (name == line.length || (line.length == 1 && line.data[0] == '\r')) {
        return true;
    }
    return name > 0 && line.data[name] == ':';
}

static int read_status(struct text value, int *ret_status, struct error *err)
{
    bool is_number = value.length >= 3 && (value.length == 3 || value.data[3] == ' ');
    int status = 0;
    for (size_t i = 0; is_number && i < 3; i++) {
        is_number = value.data[i] >= '0' && value.data[i] <= '9';
        status = status * 10 + (value.data[i] - '0');
    }
    if (!is_number || status < 200 || status > 599) {
        return error_set(err, ERROR_PROTOCOL,
                         "the function answered with \"Status: %.*s\"; 200 to 599 are possible",
                         (int)(value.length < 40 ? value.length : 40), value.data);
    }
    *ret_status = status;
    return 0;
}

struct head_marks {
    bool has_status;
    bool has_location;
};

/* Take a field into the head: what steers the answer is read, what may pass is kept. */
static int take_field(struct cgi_head *head, struct head_marks *marks, struct cgi_field field,
                      struct error *err)
{
    if (text_equal_ignoring_case(field.name, "status")) {
        if (marks->has_status) {
            return error_set(err, ERROR_PROTOCOL, "the function answered with two Status fields");
        }
        marks->has_status = true;
        return read_status(field.value, &head->status, err);
    }
    if (text_equal_ignoring_case(field.name, "content-length")) {
        uint64_t length = 0;
        bool is_number = text_parse_u64(field.value, &length);
        if (!is_number || (head->has_content_length && head->content_length != length)) {
            return error_set(err, ERROR_PROTOCOL,
                             "the function answered with a Content-Length that is no number, or "
                             "with two different ones");
        }
        head->has_content_length = true;
        head->content_length = length;
        return 0;
    }
    bool is_type = text_equal_ignoring_case(field.name, "content-type");
    if (is_listed(field.name, hop_fields) || is_listed(field.name, server_fields) ||
        !http_field_is_clean(field.name, field.value) || (is_type && head->has_content_type)) {
        return 0;
    }
    if (head->field_count == CGI_FIELDS_MAX) {
        return error_set(err, ERROR_PROTOCOL,
                         "the function answered with more than %d header fields",
                         (int)CGI_FIELDS_MAX);
    }
    head->has_content_type |= is_type;
    marks->has_location |= text_equal_ignoring_case(field.name, "location");
    head->fields[head->field_count++] = field;
    return 0;
}

/* Find the end of the head: its length, or 0 with the verdict in *ret_verdict. */
static size_t find_head(const char *bytes, size_t length, bool is_whole,
                        enum cgi_verdict *ret_verdict)
{
    size_t limit = length < CGI_HEAD_BYTES_MAX ? length : CGI_HEAD_BYTES_MAX;
    size_t at = 0;
    *ret_verdict = CGI_BODY;
    while (at < limit) {
        const char *end = memchr(bytes + at, '\n', limit - at);
        if (end == NULL) {
            bool may = line_may_become_field(text_of(bytes + at, limit - at));
            *ret_verdict = may && !is_whole && length < CGI_HEAD_BYTES_MAX ? CGI_MORE : CGI_BODY;
            return 0;
        }
        struct text line = text_of(bytes + at, (size_t)(end - bytes) - at);
        if (line.length > 0 && line.data[line.length - 1] == '\r') {
            line.length--;
        }
        struct cgi_field field;
        if (line.length > 0 && !line_to_field(line, &field)) {
            return 0;
        }
        at = (size_t)(end - bytes) + 1;
        if (line.length == 0) {
            return at;
        }
    }
    *ret_verdict = is_whole || length >= CGI_HEAD_BYTES_MAX ? CGI_BODY : CGI_MORE;
    return 0;
}

/* Prose may begin with "Note: ..." and an empty line; a head names one of these. */
static bool steers(struct text name)
{
    return text_equal_ignoring_case(name, "content-type") ||
        text_equal_ignoring_case(name, "location") || text_equal_ignoring_case(name, "status");
}

enum cgi_verdict cgi_parse_head(const void *bytes, size_t length, bool is_whole,
                                struct cgi_head *ret_head, struct error *err)
{
    enum cgi_verdict verdict;
    size_t head_length = find_head(bytes, length, is_whole, &verdict);
    if (head_length == 0) {
        return verdict;
    }
    struct cgi_head *head = ret_head;
    struct head_marks marks = {0};
    bool is_head = false;
    int r = 0;
    head->status = 0;
    head->length = head_length;
    head->has_content_type = head->has_content_length = false;
    head->field_count = 0;
    for (const char *line = bytes, *end = line + head_length; line < end;) {
        const char *stop = memchr(line, '\n', (size_t)(end - line));
        CHECK(stop != NULL);
        struct text text = text_of(line, (size_t)(stop - line));
        if (text.length > 0 && text.data[text.length - 1] == '\r') {
            text.length--;
        }
        struct cgi_field field;
        line = stop + 1;
        if (!line_to_field(text, &field)) {
            continue; /* the empty line */
        }
        is_head |= steers(field.name);
        r = r < 0 ? r : take_field(head, &marks, field, err);
    }
    if (!is_head) {
        return CGI_BODY;
    }
    if (head->status == 0) {
        head->status = marks.has_location ? 302 : 200;
    }
    return r < 0 ? CGI_BAD : CGI_HEAD;
}

const char *cgi_guess_type(const void *bytes, size_t length, bool is_whole)
{
    const uint8_t *data = bytes;
    size_t cut = 0;
    /* A character has at most three bytes after its first. */
    while (!is_whole && cut < 3 && cut < length && (data[length - 1 - cut] & 0xC0) == 0x80) {
        cut++;
    }
    bool ends_cut = !is_whole && cut < length && data[length - 1 - cut] >= 0xC0;
    size_t checked = ends_cut ? length - cut - 1 : length;
    return text_is_utf8(bytes, checked) || text_is_utf8(bytes, length) ? "text/plain; charset=utf-8"
                                                                       : "application/octet-stream";
}
