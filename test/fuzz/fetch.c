/*
 * What a function may fetch: an entry of an allow-list, a URL, a Location seen from it and fields,
 * each up to a newline.
 *
 * Claims: no byte outside is read; what is refused is INVALID; a URL that is read is written so
 * that it is read the same, and so that curl reads the same scheme, host and port out of it; fields
 * have no ends of lines in them; an address that is not public is allowed by networks alone.
 */
#include "service/fetch/fetch.h"

#include <curl/curl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/error.h"

#include "service/fetch/allow.h"
#include "service/fetch/fields.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The next line as a copy of its own size, so that reading beyond it is seen. */
static struct text take_line(const uint8_t **data, size_t *size)
{
    const uint8_t *end = *size > 0 ? memchr(*data, '\n', *size) : NULL;
    size_t length = end != NULL ? (size_t)(end - *data) : *size;
    char *copy = malloc(length + (length == 0));
    CHECK(copy != NULL);
    memcpy(copy, length > 0 ? *data : (const uint8_t *)"", length);
    *data += length + (end != NULL);
    *size -= length + (end != NULL);
    return text_of(copy, length);
}

static void check_with_curl(const struct fetch_url *url, const char *string)
{
    CURLU *parsed = curl_url();
    char *host = NULL;
    char *port = NULL;
    char *scheme = NULL;
    char want[16];
    CHECK(parsed != NULL);
    CHECK(curl_url_set(parsed, CURLUPART_URL, string, CURLU_PATH_AS_IS | CURLU_DISALLOW_USER) ==
          CURLUE_OK);
    CHECK(curl_url_get(parsed, CURLUPART_HOST, &host, 0) == CURLUE_OK);
    CHECK(curl_url_get(parsed, CURLUPART_PORT, &port, CURLU_DEFAULT_PORT) == CURLUE_OK);
    CHECK(curl_url_get(parsed, CURLUPART_SCHEME, &scheme, 0) == CURLUE_OK);
    CHECK(strcmp(scheme, url->is_https ? "https" : "http") == 0);
    snprintf(want, sizeof(want), "%u", url->port);
    CHECK(strcmp(port, want) == 0);
    if (host[0] == '[') {
        struct fetch_address address;
        CHECK(fetch_address_parse(text_of(host + 1, strlen(host) - 2), &address));
        CHECK(url->is_address && memcmp(&address, &url->address, sizeof(address)) == 0);
    } else {
        CHECK(strcmp(host, url->host) == 0);
    }
    curl_free(host);
    curl_free(port);
    curl_free(scheme);
    curl_url_cleanup(parsed);
}

static void check_url(const struct fetch_url *url)
{
    BUFFER_OWNED struct buffer first = {0};
    BUFFER_OWNED struct buffer second = {0};
    struct fetch_url again;
    struct error err = {0};
    fetch_url_write(url, &first);
    const char *string = buffer_string(&first);
    CHECK(strlen(string) == first.used && url->target[0] == '/');
    check_with_curl(url, string);
    if (first.used > FETCH_URL_MAX) { /* encoded it is longer */
        return;
    }
    CHECK(fetch_url_parse(text_of(string, first.used), NULL, &again, &err) == 0);
    CHECK(fetch_url_is_same_origin(url, &again));
    fetch_url_write(&again, &second);
    CHECK(second.used == first.used && memcmp(second.data, first.data, first.used) == 0);
    fetch_url_done(&again);
}

static void check_rule(struct text entry, const struct fetch_url *url)
{
    struct fetch_rule rule;
    struct error err = {0};
    if (fetch_rule_parse(entry, &rule, &err) < 0) {
        CHECK(err.kind == ERROR_INVALID);
        return;
    }
    bool is_allowed = fetch_rules_have_url(&rule, 1, url);
    if (url->is_address) {
        bool is_special = fetch_address_special(&url->address) != NULL;
        CHECK(!is_special || !is_allowed || rule.kind == FETCH_RULE_NETWORK);
        CHECK(!is_allowed || fetch_rules_have_address(&rule, 1, url, &url->address));
    } else {
        CHECK(!is_allowed || rule.kind != FETCH_RULE_NETWORK);
    }
    CHECK(!is_allowed || rule.port == 0 || rule.port == url->port);
}

static void check_fields(struct text fields)
{
    BUFFER_OWNED struct buffer out = {0};
    struct error err = {0};
    if (fields_read(fields, &out, &err) < 0) {
        CHECK(err.kind == ERROR_INVALID);
        return;
    }
    CHECK(out.used == 0 || out.data[out.used - 1] == 0);
    CHECK(out.used == 0 || memchr(out.data, '\n', out.used) == NULL);
    CHECK(out.used == 0 || memchr(out.data, '\r', out.used) == NULL);
    CHECK(fields_find(&out, "Host").data == NULL);
    CHECK(fields_find(&out, "Content-Length").data == NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fetch_url url;
    struct fetch_url next;
    struct error err = {0};
    struct text entry = take_line(&data, &size);
    struct text text = take_line(&data, &size);
    struct text location = take_line(&data, &size);
    if (fetch_url_parse(text, NULL, &url, &err) == 0) {
        check_url(&url);
        check_rule(entry, &url);
        if (fetch_url_parse(location, &url, &next, &err) == 0) {
            check_url(&next);
            check_rule(entry, &next);
            fetch_url_done(&next);
        }
        fetch_url_done(&url);
    } else {
        CHECK(err.kind == ERROR_INVALID);
    }
    free((char *)(uintptr_t)entry.data);
    free((char *)(uintptr_t)text.data);
    free((char *)(uintptr_t)location.data);
    char *rest = malloc(size + (size == 0));
    CHECK(rest != NULL);
    memcpy(rest, data, size);
    check_fields(text_of(rest, size));
    free(rest);
    return 0;
}
