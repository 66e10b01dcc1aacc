/*
 * One hop of a fetch as a transfer of curl's.
 *
 * Curl gets a URL that was put together from what was read, the addresses that were checked, and
 * neither proxies, cookies, .netrc nor redirects of its own.  Its sockets are checked once more
 * where they are made, and connections where they are used: that is what decides.
 */
#include <netinet/in.h>
#include <openssl/ssl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "base/check.h"
#include "base/http/http.h"
#include "base/memory.h"

#include "service/fetch/private.h"

/* Say why, for when curl has come back, and make it end. */
static void break_off(struct fetch *fetch, enum fetch_reason reason, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static void break_off(struct fetch *fetch, enum fetch_reason reason, const char *format, ...)
{
    va_list arguments;
    fetch->is_broken_off = true;
    fetch->reason = reason;
    va_start(arguments, format);
    vsnprintf(fetch->why, sizeof(fetch->why), format, arguments);
    va_end(arguments);
}

/* ---- Connections ---- */

static bool may_connect(struct fetch *fetch, const struct fetch_address *address, uint16_t port)
{
    char text[FETCH_ADDRESS_TEXT_SIZE];
    const char *refusal = fetch_refusal(fetch, address, port);
    if (refusal == NULL) {
        return true;
    }
    fetch_address_write(address, text);
    break_off(fetch, FETCH_NOT_ALLOWED, "%s is %s", text, refusal);
    return false;
}

static curl_socket_t on_socket(void *context, curlsocktype purpose, struct curl_sockaddr *address)
{
    struct fetch_address to;
    uint16_t port = 0;
    if (purpose != CURLSOCKTYPE_IPCXN || !fetch_address_of(&address->addr, &to, &port) ||
        !may_connect(context, &to, port)) {
        return CURL_SOCKET_BAD;
    }
    return socket(address->family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, address->protocol);
}

/* Also of connections that are used again. */
static int on_connected(void *context, char *address, char *local, int port, /* NOLINT: curl's */
                        int local_port)
{
    struct fetch_address to;
    (void)local;
    (void)local_port;
    struct fetch *fetch = context;
    bool is_good = fetch_address_parse(text_of(address, strlen(address)), &to) &&
        may_connect(fetch, &to, (uint16_t)port);
    if (is_good) {
        reached_begin(fetch, &to, (uint16_t)port);
        reached_count(fetch, fetch->body.used);
    }
    return is_good ? CURL_PREREQFUNC_OK : CURL_PREREQFUNC_ABORT;
}

static CURLcode on_tls(CURL *easy, void *tls, void *context)
{
    const struct fetch *fetch = context;
    (void)easy;
    SSL_CTX_set1_cert_store(tls, fetch->service->authorities);
    return CURLE_OK;
}

/* ---- The response's head ---- */

static bool is_redirect(int status)
{
    return status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
}

/* The value of a field of the head that has come, {NULL, 0}: none. */
static struct text head_field(const struct fetch *fetch, const char *name)
{
    struct text rest = text_of((const char *)fetch->head.data, fetch->head.used);
    while (rest.length > 0) {
        struct text found;
        struct text value;
        const char *end = memmem(rest.data, rest.length, "\r\n", 2);
        struct text line = text_of(rest.data, (size_t)(end - rest.data));
        if (fields_split(line, &found, &value) && text_equal_ignoring_case(found, name)) {
            return value;
        }
        rest = text_of(end + 2, rest.length - line.length - 2);
    }
    return text_of(NULL, 0);
}

static bool take_redirect(struct fetch *fetch, struct text location)
{
    struct error err = {0};
    if (fetch->redirects == FETCH_NO_REDIRECT) {
        break_off(fetch, FETCH_REDIRECT, "status %d leads elsewhere, which is not wanted",
                  fetch->head_status);
    } else if (fetch->hops == FETCH_REDIRECTS_MAX) {
        break_off(fetch, FETCH_REDIRECT, "more than %d redirects", (int)FETCH_REDIRECTS_MAX);
    } else if (fetch_url_parse(location, &fetch->url, &fetch->next, &err) < 0) {
        break_off(fetch, FETCH_REDIRECT, "status %d leads nowhere: %.160s", fetch->head_status,
                  err.text);
    } else {
        fetch->is_redirect = true;
        return true;
    }
    return false;
}

/* What curl has decoded is not as these fields say. */
static void remove_encoding(struct buffer *head)
{
    struct buffer kept = {0};
    struct text rest = text_of((const char *)head->data, head->used);
    while (rest.length > 0) {
        struct text name;
        struct text value;
        const char *end = memmem(rest.data, rest.length, "\r\n", 2);
        size_t length = (size_t)(end - rest.data) + 2;
        bool is_kept = !fields_split(text_of(rest.data, length - 2), &name, &value) ||
            (!text_equal_ignoring_case(name, "Content-Encoding") &&
             !text_equal_ignoring_case(name, "Content-Length"));
        if (is_kept) {
            buffer_append(&kept, rest.data, length);
        }
        rest = text_of(rest.data + length, rest.length - length);
    }
    buffer_done(head);
    *head = kept;
}

static bool finish_head(struct fetch *fetch)
{
    struct text location = head_field(fetch, "Location");
    struct text encoding = head_field(fetch, "Content-Encoding");
    if (fetch->redirects != FETCH_MANUAL && is_redirect(fetch->head_status) &&
        location.length > 0) {
        return take_redirect(fetch, location);
    }
    if (fetch->decodes && encoding.length > 0 && !text_equal_ignoring_case(encoding, "identity")) {
        remove_encoding(&fetch->head);
    }
    if (fetch->hops > 0) {
        buffer_append_string(&fetch->head, "Blixard-Url: ");
        fetch_url_write(&fetch->url, &fetch->head);
        buffer_append_string(&fetch->head, "\r\n");
    }
    fetch->has_head = true;
    fetch->status = fetch->head_status;
    fetch_note_change(fetch);
    return true;
}

static bool take_status(struct fetch *fetch, struct text line)
{
    const char *blank = memchr(line.data, ' ', line.length);
    uint64_t status = 0;
    buffer_clear(&fetch->head);
    if (blank == NULL || line.length - (size_t)(blank - line.data) < 4 ||
        !text_parse_u64(text_of(blank + 1, 3), &status) || status < 100 || status > 599 ||
        status == 101) {
        break_off(fetch, FETCH_PROTOCOL, "the answer begins with \"%.*s\"",
                  (int)(line.length < 80 ? line.length : 80), line.data);
        return false;
    }
    fetch->head_status = (int)status;
    return true;
}

static bool take_field(struct fetch *fetch, struct text line)
{
    struct text name;
    struct text value;
    if (line.data[0] == ' ' || line.data[0] == '\t') { /* a line that goes on (RFC 9112, 5.2) */
        value = text_trim(line);
        if (fetch->head.used > 0 && http_field_is_clean(text_of("a", 1), value)) {
            fetch->head.used -= 2;
            buffer_append_byte(&fetch->head, ' ');
            buffer_append(&fetch->head, value.data, value.length);
            buffer_append_string(&fetch->head, "\r\n");
        }
        return true;
    }
    if (!fields_split(line, &name, &value) || !http_field_is_clean(name, value)) {
        break_off(fetch, FETCH_PROTOCOL, "the answer has a field that is none");
        return false;
    }
    if (!fields_is_of_connection(name) && !text_equal_ignoring_case(name, "Blixard-Url")) {
        buffer_append(&fetch->head, name.data, name.length);
        buffer_append_string(&fetch->head, ": ");
        if (value.length > 0) {
            buffer_append(&fetch->head, value.data, value.length);
        }
        buffer_append_string(&fetch->head, "\r\n");
    }
    return true;
}

/* Heads of interim answers (1xx) come first, trailers last. */
bool transfer_take_line(struct fetch *fetch, const char *bytes, size_t length)
{
    struct text line = text_of(bytes, length);
    if (fetch->has_head || fetch->is_redirect) {
        return true;
    }
    fetch->head_bytes += length;
    if (fetch->head_bytes > FETCH_HEAD_BYTES_MAX) {
        break_off(fetch, FETCH_TOO_LARGE, "the head of the answer has more than %d bytes",
                  (int)FETCH_HEAD_BYTES_MAX);
        return false;
    }
    while (line.length > 0 && (bytes[line.length - 1] == '\n' || bytes[line.length - 1] == '\r')) {
        line.length--;
    }
    bool is_good = true;
    if (line.length == 0) {
        is_good = fetch->head_status < 200 || finish_head(fetch);
    } else if (line.length > 5 && memcmp(bytes, "HTTP/", 5) == 0) {
        is_good = take_status(fetch, line);
    } else {
        is_good = take_field(fetch, line);
    }
    return is_good;
}

static size_t on_header(char *bytes, size_t size, size_t count, void *context)
{
    return transfer_take_line(context, bytes, size * count) ? size * count : 0;
}

/* ---- Bodies ---- */

static size_t on_body(char *bytes, size_t size, size_t count, void *context)
{
    struct fetch *fetch = context;
    size_t length = size * count;
    if (fetch->is_redirect) {
        fetch->skipped_bytes += length;
        return fetch->skipped_bytes > SKIPPED_BYTES_MAX ? 0 : length;
    }
    if (fetch_is_full(fetch)) {
        fetch->is_paused = true;
        return CURL_WRITEFUNC_PAUSE;
    }
    if (length > fetch->service->body_bytes_max - fetch->received_bytes) {
        break_off(fetch, FETCH_TOO_LARGE,
                  "the body has more than %llu bytes (fetch_body_bytes_max)",
                  (unsigned long long)fetch->service->body_bytes_max);
        return 0;
    }
    reached_count(fetch, length);
    fetch->received_bytes += length;
    fetch->service->received_bytes += length;
    buffer_append(&fetch->received, bytes, length);
    fetch_note_change(fetch);
    return length;
}

/* ---- The request ---- */

static void add_lines(struct fetch *fetch)
{
    for (size_t at = 0; at < fetch->fields.used;) {
        char *line = (char *)fetch->fields.data + at;
        size_t length = strlen(line);
        bool is_empty = text_ends_with(line, ": ");
        if (is_empty) { /* with a colon and nothing behind it curl would leave one out */
            line[length - 2] = ';';
            line[length - 1] = '\0';
        }
        fetch->lines = curl_slist_append(fetch->lines, line);
        if (is_empty) {
            line[length - 2] = ':';
            line[length - 1] = ' ';
        }
        at += length + 1;
    }
    if (fields_find(&fetch->fields, "Content-Type").data == NULL) {
        fetch->lines = curl_slist_append(fetch->lines, "Content-Type:"); /* none of curl's own */
    }
    if (fields_find(&fetch->fields, "User-Agent").data == NULL) {
        fetch->lines = curl_slist_append(fetch->lines, "User-Agent: blixard/" BLIXARD_VERSION);
    }
    char text[TRACE_PARENT_SIZE];
    char line[TRACE_PARENT_SIZE + 16];
    trace_write_parent(&fetch->span.context, text);
    snprintf(line, sizeof(line), "traceparent: %s", text);
    fetch->lines = curl_slist_append(fetch->lines, line);
    fetch->lines = curl_slist_append(fetch->lines, "Expect:");
}

/* "HOST:PORT:ADDRESS,ADDRESS": curl asks nobody else. */
static void add_addresses(struct fetch *fetch, const struct fetch_address *addresses, size_t count)
{
    BUFFER_OWNED struct buffer line = {0};
    buffer_append_format(&line, "%s:%u:", fetch->url.host, fetch->url.port);
    for (size_t i = 0; i < count; i++) {
        char text[FETCH_ADDRESS_TEXT_SIZE];
        fetch_address_write(&addresses[i], text);
        buffer_append_format(&line, fetch_address_is_v4(&addresses[i]) ? "%s%s" : "%s[%s]",
                             i > 0 ? "," : "", text);
    }
    fetch->addresses = curl_slist_append(NULL, buffer_string(&line));
    curl_easy_setopt(fetch->easy, CURLOPT_RESOLVE, fetch->addresses);
}

static void set_method(struct fetch *fetch)
{
    CURL *easy = fetch->easy;
    bool is_head = strcmp(fetch->method, "HEAD") == 0;
    bool may_have_none = is_head || strcmp(fetch->method, "GET") == 0 ||
        strcmp(fetch->method, "OPTIONS") == 0 || strcmp(fetch->method, "DELETE") == 0;
    if (fetch->body.used > 0 || !may_have_none) {
        curl_easy_setopt(easy, CURLOPT_POST, 1L);
        curl_easy_setopt(easy, CURLOPT_POSTFIELDS,
                         fetch->body.used > 0 ? (const char *)fetch->body.data : "");
        curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)fetch->body.used);
    }
    curl_easy_setopt(easy, CURLOPT_NOBODY, is_head ? 1L : 0L);
    curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, fetch->method);
}

/* Off is what would make curl look at anything but what it was given. */
static void set_limits(CURL *easy)
{
    curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(easy, CURLOPT_REDIR_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L);
    curl_easy_setopt(easy, CURLOPT_PROXY, "");
    curl_easy_setopt(easy, CURLOPT_NOPROXY, "*");
    curl_easy_setopt(easy, CURLOPT_NETRC, (long)CURL_NETRC_IGNORED);
    curl_easy_setopt(easy, CURLOPT_DISALLOW_USERNAME_IN_URL, 1L);
    curl_easy_setopt(easy, CURLOPT_PATH_AS_IS, 1L);
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_NOPROGRESS, 1L);
    curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, (long)CONNECT_MS);
    curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_2TLS);
    curl_easy_setopt(easy, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    curl_easy_setopt(easy, CURLOPT_SSL_VERIFYPEER, 1L);
    curl_easy_setopt(easy, CURLOPT_SSL_VERIFYHOST, 2L);
    curl_easy_setopt(easy, CURLOPT_CAINFO, NULL);
    curl_easy_setopt(easy, CURLOPT_CAPATH, NULL);
}

static void set_calls(struct fetch *fetch)
{
    CURL *easy = fetch->easy;
    curl_easy_setopt(easy, CURLOPT_PRIVATE, fetch);
    curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, fetch->curl_text);
    curl_easy_setopt(easy, CURLOPT_OPENSOCKETFUNCTION, on_socket);
    curl_easy_setopt(easy, CURLOPT_OPENSOCKETDATA, fetch);
    curl_easy_setopt(easy, CURLOPT_PREREQFUNCTION, on_connected);
    curl_easy_setopt(easy, CURLOPT_PREREQDATA, fetch);
    curl_easy_setopt(easy, CURLOPT_SSL_CTX_FUNCTION, on_tls);
    curl_easy_setopt(easy, CURLOPT_SSL_CTX_DATA, fetch);
    curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(easy, CURLOPT_HEADERDATA, fetch);
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, fetch);
}

void transfer_begin(struct fetch *fetch, const struct fetch_address *addresses, size_t count)
{
    BUFFER_OWNED struct buffer url = {0};
    fetch->easy = curl_easy_init();
    fetch->share = curl_share_init();
    CHECK(fetch->easy != NULL && fetch->share != NULL);
    curl_share_setopt(fetch->share, CURLSHOPT_SHARE, CURL_LOCK_DATA_DNS);
    curl_easy_setopt(fetch->easy, CURLOPT_SHARE, fetch->share);
    set_limits(fetch->easy);
    set_calls(fetch);
    fetch_url_write(&fetch->url, &url);
    curl_easy_setopt(fetch->easy, CURLOPT_URL, buffer_string(&url));
    if (count > 0) {
        add_addresses(fetch, addresses, count);
    }
    set_method(fetch);
    add_lines(fetch);
    curl_easy_setopt(fetch->easy, CURLOPT_HTTPHEADER, fetch->lines);
    fetch->decodes = fields_find(&fetch->fields, "Accept-Encoding").data == NULL;
    if (fetch->decodes) {
        curl_easy_setopt(fetch->easy, CURLOPT_ACCEPT_ENCODING, "");
    }
    client_add(fetch->client, fetch->easy);
}

void transfer_end(struct fetch *fetch)
{
    if (fetch->lookup != NULL) {
        resolve_abandon(fetch->lookup);
        fetch->lookup = NULL;
    }
    if (fetch->easy != NULL) {
        client_remove(fetch->client, fetch->easy);
        curl_easy_cleanup(fetch->easy);
        curl_share_cleanup(fetch->share);
        fetch->easy = NULL;
        fetch->share = NULL;
    }
    curl_slist_free_all(fetch->lines);
    curl_slist_free_all(fetch->addresses);
    fetch->lines = NULL;
    fetch->addresses = NULL;
    fetch->is_paused = false;
}
