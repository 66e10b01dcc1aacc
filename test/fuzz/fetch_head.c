/*
 * The head of an answer, as a server that a function asked sends it: how redirects are meant and
 * whether bodies are decoded, then lines.
 *
 * Claims: no byte outside is read; what is kept are "Name: value" lines without other ends of lines
 * in them, none of the connection's; they are bounded; a redirect leads to a URL; what is broken
 * off says why.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/http/http.h"

#include "service/fetch/private.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_kept(const struct fetch *fetch)
{
    struct text rest = fetch_fields(fetch);
    CHECK(rest.length <= FETCH_HEAD_BYTES_MAX + 3 * FETCH_URL_MAX + 512);
    while (rest.length > 0) {
        struct text name;
        struct text value;
        const char *end = memmem(rest.data, rest.length, "\r\n", 2);
        CHECK(end != NULL);
        struct text line = text_of(rest.data, (size_t)(end - rest.data));
        CHECK(fields_split(line, &name, &value) && http_field_is_clean(name, value));
        CHECK(!fields_is_of_connection(name));
        rest = text_of(end + 2, rest.length - line.length - 2);
    }
}

static void done(struct fetch *fetch)
{
    list_remove(&fetch->change);
    fetch_url_done(&fetch->url);
    fetch_url_done(&fetch->next);
    buffer_done(&fetch->head);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct fetch_service service;
    struct fetch fetch = {.service = &service};
    struct error err = {0};
    if (size == 0) {
        return 0;
    }
    list_init(&service.changed);
    service.is_telling = true; /* nobody is told */
    fetch.redirects = (enum fetch_redirects)(data[0] % 3);
    fetch.decodes = (data[0] & 4) != 0;
    fetch.hops = data[0] >> 4;
    CHECK(fetch_url_parse(text_of("http://a.example/b/c?d", 22), NULL, &fetch.url, &err) == 0);
    data++;
    size--;
    while (size > 0) {
        const uint8_t *end = memchr(data, '\n', size);
        size_t length = end != NULL ? (size_t)(end - data) + 1 : size;
        char *line = malloc(length); /* of its own size, so that reading beyond it is seen */
        CHECK(line != NULL);
        memcpy(line, data, length);
        bool is_good = transfer_take_line(&fetch, line, length);
        free(line);
        data += length;
        size -= length;
        if (!is_good) {
            CHECK(fetch.is_broken_off && fetch.why[0] != '\0' && !fetch.has_head);
            done(&fetch);
            return 0;
        }
    }
    CHECK(!fetch.has_head || (fetch.status >= 200 && fetch.status <= 599));
    CHECK(!fetch.is_redirect || fetch.next.target != NULL);
    if (fetch.has_head) {
        check_kept(&fetch);
    }
    done(&fetch);
    return 0;
}
