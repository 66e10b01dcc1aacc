/* URLs of requests.  See url.h. */
#include "service/fetch/url.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "base/error.h"

enum { NAME_MAX_BYTES = 253, LABEL_MAX = 63 };

/* ---- Hosts ---- */

/* Would another reader (RFC 3986's inet_aton, WHATWG's) take the last label for a number? */
static bool is_number_like(const char *label)
{
    if (label[0] == '0' && (label[1] == 'x' || label[1] == 'X')) {
        return label[2 + strspn(label + 2, "0123456789abcdefABCDEF")] == '\0';
    }
    return label[strspn(label, "0123456789")] == '\0';
}

/* May this be in a label, behind so many others? */
static bool is_of_label(unsigned char c, size_t before)
{
    bool is_letter = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    return before < LABEL_MAX && (is_letter || c == '_' || (c == '-' && before > 0));
}

bool fetch_host_is_name(struct text text, char ret_name[254])
{
    char name[NAME_MAX_BYTES + 1];
    size_t length =
        text.length > 0 && text.data[text.length - 1] == '.' ? text.length - 1 : text.length;
    size_t label = 0;
    if (length == 0 || length > NAME_MAX_BYTES) {
        return false;
    }
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)text.data[i];
        bool is_end = c == '.' && label > 0 && text.data[i - 1] != '-';
        if (!is_end && !is_of_label(c, label)) {
            return false;
        }
        label = is_end ? 0 : label + 1;
        name[i] = (char)(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
    }
    name[length] = '\0';
    const char *last = strrchr(name, '.');
    if (label == 0 || name[length - 1] == '-' || is_number_like(last != NULL ? last + 1 : name)) {
        return false;
    }
    memcpy(ret_name, name, length + 1);
    return true;
}

static bool take_host(struct text host, struct fetch_url *url)
{
    bool has_brackets = host.length > 2 && host.data[0] == '[' && host.data[host.length - 1] == ']';
    struct text bare = has_brackets ? text_of(host.data + 1, host.length - 2) : host;
    bool has_colon = bare.length > 0 && memchr(bare.data, ':', bare.length) != NULL;
    url->is_address = has_brackets == has_colon && fetch_address_parse(bare, &url->address);
    if (url->is_address) {
        char text[FETCH_ADDRESS_TEXT_SIZE];
        fetch_address_write(&url->address, text);
        memcpy(url->host, text, strlen(text) + 1);
        return true;
    }
    return !has_brackets && fetch_host_is_name(host, url->host);
}

/* "host", "host:port", "[v6]:port" */
static int take_authority(struct text authority, struct fetch_url *url, struct error *err)
{
    const char *colon =
        authority.length > 0 ? memrchr(authority.data, ':', authority.length) : NULL;
    const char *close =
        authority.length > 0 ? memrchr(authority.data, ']', authority.length) : NULL;
    struct text host = authority;
    uint64_t port = url->is_https ? 443 : 80;
    if (authority.length > 0 && memchr(authority.data, '@', authority.length) != NULL) {
        return error_set(err, ERROR_INVALID,
                         "the URL has a user in front of its host: send an Authorization header");
    }
    if (colon != NULL && (close == NULL || colon > close)) {
        host.length = (size_t)(colon - authority.data);
        struct text digits = text_of(colon + 1, authority.length - host.length - 1);
        if (digits.length > 0 && (!text_parse_u64(digits, &port) || port == 0 || port > 65535)) {
            return error_set(err, ERROR_INVALID, "the URL's port is not 1 to 65535");
        }
    }
    url->port = (uint16_t)port;
    if (!take_host(host, url)) {
        return error_set(err, ERROR_INVALID,
                         "the URL's host \"%.*s\" is neither a name (internationalised ones as "
                         "xn--...), nor four decimal numbers, nor IPv6 in brackets",
                         (int)(host.length < 80 ? host.length : 80), host.data);
    }
    return 0;
}

/* ---- Paths ---- */

/* RFC 3986, 5.2.4, of what ends before the query. */
static void remove_dots(struct buffer *path)
{
    struct buffer out = {0};
    const char *at = buffer_string(path);
    while (*at != '\0') {
        size_t length = strcspn(at + 1, "/") + 1; /* "/segment" */
        bool is_last = at[length] == '\0';
        if (length == 2 && at[1] == '.') {
            if (is_last) {
                buffer_append_byte(&out, '/');
            }
        } else if (length == 3 && at[1] == '.' && at[2] == '.') {
            while (out.used > 0 && out.data[--out.used] != '/') {
            }
            if (is_last) {
                buffer_append_byte(&out, '/');
            }
        } else {
            buffer_append(&out, at, length);
        }
        at += length;
    }
    if (out.used == 0) {
        buffer_append_byte(&out, '/');
    }
    buffer_done(path);
    *path = out;
}

static void append_encoded(struct buffer *out, struct text text)
{
    for (size_t i = 0; i < text.length; i++) {
        unsigned char c = (unsigned char)text.data[i];
        if (c >= 0x80 || c == '"' || c == '<' || c == '>' || c == '^' || c == '`' || c == '{' ||
            c == '|' || c == '}') {
            buffer_append_format(out, "%%%02X", c);
        } else {
            buffer_append_byte(out, c);
        }
    }
}

/* The path and query that `rest` is, seen from `from`. */
static void take_target(struct text rest, const struct fetch_url *from, struct fetch_url *url)
{
    BUFFER_OWNED struct buffer path = {0};
    const char *mark = rest.length > 0 ? memchr(rest.data, '?', rest.length) : NULL;
    struct text query =
        mark != NULL ? text_of(mark, rest.length - (size_t)(mark - rest.data)) : text_of("", 0);
    rest.length -= query.length;
    if (rest.length > 0 && rest.data[0] == '/') {
        append_encoded(&path, rest);
    } else if (from == NULL) {
        buffer_append_byte(&path, '/');
    } else {
        size_t length = strcspn(from->target, "?");
        bool is_same = rest.length == 0;
        const char *slash = memrchr(from->target, '/', length);
        buffer_append(&path, from->target, is_same ? length : (size_t)(slash - from->target) + 1);
        append_encoded(&path, rest);
        if (is_same && query.length == 0) {
            buffer_append_string(&path, from->target + length);
        }
    }
    if (from != NULL && memchr(path.data, '?', path.used) == NULL) {
        remove_dots(&path);
    }
    append_encoded(&path, query);
    url->target = buffer_take(&path);
}

/* ---- Whole ---- */

static bool take_scheme(struct text *rest, struct fetch_url *url)
{
    static const char *const schemes[] = {"http:", "https:"};
    for (int i = 0; i < 2; i++) {
        size_t length = strlen(schemes[i]);
        if (rest->length >= length &&
            text_equal_ignoring_case(text_of(rest->data, length), schemes[i])) {
            url->is_https = i == 1;
            *rest = text_of(rest->data + length, rest->length - length);
            return true;
        }
    }
    return false;
}

static bool has_scheme(struct text text)
{
    for (size_t i = 0; i < text.length; i++) {
        unsigned char c = (unsigned char)text.data[i];
        if (c == ':') {
            return i > 0;
        }
        if (isalnum(c) == 0 && c != '+' && c != '-' && c != '.') {
            return false;
        }
    }
    return false;
}

static int check_characters(struct text text, struct error *err)
{
    if (text.length == 0 || text.length > FETCH_URL_MAX) {
        return error_set(err, ERROR_INVALID, "a URL has 1 to %d bytes", (int)FETCH_URL_MAX);
    }
    for (size_t i = 0; i < text.length; i++) {
        unsigned char c = (unsigned char)text.data[i];
        if (c <= ' ' || c == 0x7f || c == '\\') {
            return error_set(err, ERROR_INVALID,
                             "the URL has a blank, a control character or a backslash in it: "
                             "percent-encode it");
        }
    }
    return 0;
}

int fetch_url_parse(struct text text, const struct fetch_url *from, struct fetch_url *ret_url,
                    struct error *err)
{
    struct fetch_url url = {0};
    int r = check_characters(text, err);
    if (r < 0) {
        return r;
    }
    const char *fragment = memchr(text.data, '#', text.length);
    struct text rest =
        text_of(text.data, fragment != NULL ? (size_t)(fragment - text.data) : text.length);
    bool is_absolute = take_scheme(&rest, &url);
    if (!is_absolute && (from == NULL || has_scheme(rest))) {
        return error_set(err, ERROR_INVALID, "the URL is not http://... or https://...");
    }
    if (!is_absolute) {
        url.is_https = from->is_https;
    }
    bool has_authority = rest.length >= 2 && rest.data[0] == '/' && rest.data[1] == '/';
    if (is_absolute && !has_authority) {
        return error_set(err, ERROR_INVALID, "the URL has no host");
    }
    if (has_authority) {
        size_t length = 2;
        while (length < rest.length && rest.data[length] != '/' && rest.data[length] != '?') {
            length++;
        }
        r = take_authority(text_of(rest.data + 2, length - 2), &url, err);
        rest = text_of(rest.data + length, rest.length - length);
    } else {
        url.is_address = from->is_address;
        url.address = from->address;
        url.port = from->port;
        memcpy(url.host, from->host, sizeof(url.host));
    }
    if (r < 0) {
        return r;
    }
    take_target(rest, has_authority ? NULL : from, &url);
    *ret_url = url;
    return 0;
}

void fetch_url_done(struct fetch_url *url)
{
    free(url->target);
    *url = (struct fetch_url){0};
}

void fetch_url_write_authority(const struct fetch_url *url, struct buffer *out)
{
    bool has_brackets = url->is_address && strchr(url->host, ':') != NULL;
    buffer_append_format(out, has_brackets ? "[%s]" : "%s", url->host);
    if (url->port != (url->is_https ? 443 : 80)) {
        buffer_append_format(out, ":%u", url->port);
    }
}

void fetch_url_write(const struct fetch_url *url, struct buffer *out)
{
    buffer_append_string(out, url->is_https ? "https://" : "http://");
    fetch_url_write_authority(url, out);
    buffer_append_string(out, url->target);
}

bool fetch_url_is_same_origin(const struct fetch_url *a, const struct fetch_url *b)
{
    return a->is_https == b->is_https && a->port == b->port && strcmp(a->host, b->host) == 0;
}
