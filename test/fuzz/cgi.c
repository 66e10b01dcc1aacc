/*
 * The CGI head of an answer, and the environment of a request made of the same bytes.
 *
 * Claims: no byte outside is read; the verdict in pieces is the verdict of the whole; what passes
 * is clean; the environment is a row of NAME=value, each with its NUL, without HTTP_PROXY.
 */
#include "service/gateway/cgi.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/error.h"
#include "base/http/http.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void try_head(const uint8_t *data, size_t size)
{
    static struct cgi_head head;
    struct error err = {0};
    enum cgi_verdict whole = cgi_parse_head(data, size, true, &head, &err);
    CHECK(whole != CGI_MORE);
    if (whole == CGI_HEAD) {
        CHECK(head.length <= size && head.length <= CGI_HEAD_BYTES_MAX);
        CHECK(head.status >= 200 && head.status <= 599);
        for (size_t i = 0; i < head.field_count; i++) {
            CHECK(http_field_is_clean(head.fields[i].name, head.fields[i].value));
        }
    }
    /* A copy of its own size, so that reading beyond the piece is seen. */
    size_t half = size / 2;
    uint8_t *piece = malloc(half + 1);
    CHECK(piece != NULL);
    memcpy(piece, data, half);
    enum cgi_verdict early = cgi_parse_head(piece, half, false, &head, &err);
    CHECK_IMPLIES(early == CGI_HEAD, whole == CGI_HEAD);
    CHECK_IMPLIES(early == CGI_BAD, whole == CGI_BAD);
    CHECK_IMPLIES(early == CGI_BODY, whole == CGI_BODY);
    free(piece);
    (void)cgi_guess_type(data, size, size % 2 == 0);
}

/* Lines become fields ("name:value"), the first one the path and query. */
static void try_environment(const uint8_t *data, size_t size)
{
    struct cgi_field fields[16];
    size_t count = 0;
    const char *at = (const char *)data;
    const char *end = at + size;
    const char *stop = size > 0 ? memchr(at, '\n', size) : NULL;
    if (stop == NULL) {
        return;
    }
    struct cgi_request request = {
        .method = text_of("GET", 3),
        .path = text_of(at, (size_t)(stop - at)),
        .host = text_of(at, (size_t)(stop - at)),
        .protocol = "HTTP/1.1",
        .address = "[::1]:7480",
        .peer = "[::1]:1",
        .request_id = "id",
        .fields = fields,
        .environment = stop,
        .environment_length = (size_t)(end - stop),
    };
    while (count < 16 && stop + 1 < end) {
        at = stop + 1;
        stop = memchr(at, '\n', (size_t)(end - at));
        if (stop == NULL) {
            break;
        }
        const char *colon = memchr(at, ':', (size_t)(stop - at));
        if (colon != NULL) {
            fields[count].name = text_of(at, (size_t)(colon - at));
            fields[count++].value = text_of(colon + 1, (size_t)(stop - colon) - 1);
        }
    }
    request.field_count = count;
    BUFFER_OWNED struct buffer out = {0};
    struct error err = {0};
    if (cgi_write_environment(&request, 65536, &out, &err) < 0) {
        return;
    }
    CHECK(out.used > 0 && out.data[out.used - 1] == '\0');
    for (const char *entry = (const char *)out.data, *last = entry + out.used; entry < last;
         entry += strlen(entry) + 1) {
        CHECK(strchr(entry, '=') != NULL && entry[0] != '=');
        CHECK(strncmp(entry, "HTTP_PROXY=", 11) != 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    try_head(data, size);
    try_environment(data, size);
    return 0;
}
