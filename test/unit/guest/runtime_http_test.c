/* What a bootstrap sends to the Runtime API, whole, in pieces, and wrong. */
#include "guest/agent/runtime_http.h"

#include <stdio.h>
#include <string.h>

#include "test/lib/test.h"

static uint8_t bytes[65536];

static enum runtime_verdict read_text(const char *text, struct runtime_request *ret_request)
{
    memcpy(bytes, text, strlen(text));
    return runtime_http_read(bytes, strlen(text), ret_request);
}

TEST(runtime_http, a_request_is_whole_with_its_last_byte)
{
    static const char text[] =
        "POST /x HTTP/1.1\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\nabc";
    struct runtime_request request;
    for (size_t length = 0; length < sizeof(text) - 1; length++) {
        memcpy(bytes, text, length);
        EXPECT(runtime_http_read(bytes, length, &request) == RUNTIME_MORE);
    }
    EXPECT(request.expects_continue && request.head_length > 0);
    EXPECT(read_text(text, &request) == RUNTIME_WHOLE);
    EXPECT(request.is_post && strcmp(request.path, "/x") == 0 && request.body_length == 3);
    EXPECT(request.whole_length == sizeof(text) - 1);
}

TEST(runtime_http, chunks_are_put_together)
{
    static const char text[] = "POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
                               "3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nT: 1\r\n\r\nGET";
    struct runtime_request request;
    EXPECT(read_text(text, &request) == RUNTIME_WHOLE);
    EXPECT(request.body_length == 5 && memcmp(bytes + request.body_at, "abcde", 5) == 0);
    EXPECT(request.whole_length == sizeof(text) - 4);
}

TEST(runtime_http, what_is_wrong_is_bad_and_what_is_large_is_too_large)
{
    static const char *const bad[] = {
        "PUT /x HTTP/1.1\r\n\r\n",
        "GET x HTTP/1.1\r\n\r\n",
        "GET /x HTTP/2.0\r\n\r\n",
        "GET /x HTTP/1.1\r\nnonsense\r\n\r\n",
        "POST /x HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        "POST /x HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        "POST /x HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        "POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    };
    struct runtime_request request;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        EXPECT(read_text(bad[i], &request) == RUNTIME_BAD);
    }
    EXPECT(read_text("POST /x HTTP/1.1\r\nContent-Length: 6291457\r\n\r\n", &request) ==
           RUNTIME_TOO_LARGE);
    EXPECT(read_text("POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n600001\r\n",
                     &request) == RUNTIME_TOO_LARGE);
    memset(bytes, 'a', RUNTIME_HEAD_MAX);
    EXPECT(runtime_http_read(bytes, RUNTIME_HEAD_MAX, &request) == RUNTIME_TOO_LARGE);
}

TEST(runtime_http, an_id_is_found_in_its_path)
{
    char id[8];
    const char *path = "/2018-06-01/runtime/invocation/abc/response";
    EXPECT(runtime_http_path_id(path, "response", id, sizeof(id)) && strcmp(id, "abc") == 0);
    EXPECT(!runtime_http_path_id(path, "error", id, sizeof(id)));
    EXPECT(!runtime_http_path_id(path, "response", id, 3));
    EXPECT(!runtime_http_path_id("/2018-06-01/runtime/invocation//response", "response", id, 8));
}

/* ---- Bodies that are passed on as they come ---- */

static const char streamed_head[] =
    "POST /2018-06-01/runtime/invocation/a/response HTTP/1.1\r\nHost: x\r\n"
    "Lambda-Runtime-Function-Response-Mode: streaming\r\nContent-Type: text/plain\r\n"
    "Transfer-Encoding: chunked\r\n\r\n";

/* All of `body`, `step` bytes at a time; what came out in `out` (64 bytes). */
static enum runtime_verdict take_stream(struct runtime_stream *stream, const char *body,
                                        size_t step, char out[64])
{
    struct runtime_request request;
    char got[1024];
    size_t held = 0;
    size_t length = strlen(body);
    enum runtime_verdict verdict = RUNTIME_MORE;
    snprintf(got, sizeof(got), "%s", streamed_head);
    EXPECT(runtime_http_read((uint8_t *)got, strlen(got), &request) == RUNTIME_WHOLE);
    EXPECT(request.is_streaming && request.is_chunked);
    EXPECT(strcmp(request.content_type, "text/plain") == 0);
    EXPECT(request.whole_length == sizeof(streamed_head) - 1);
    runtime_stream_begin(&request, stream);
    out[0] = '\0';
    for (size_t at = 0; at < length && verdict == RUNTIME_MORE; at += step) {
        size_t now = length - at < step ? length - at : step;
        size_t used = 1;
        memcpy(got + held, body + at, now);
        held += now;
        while (verdict == RUNTIME_MORE && used > 0) {
            const uint8_t *piece;
            size_t piece_length;
            verdict =
                runtime_stream_take(stream, (uint8_t *)got, held, &used, &piece, &piece_length);
            strncat(out, (const char *)piece, piece_length);
            memmove(got, got + used, held - used);
            held -= used;
        }
    }
    return verdict;
}

TEST(runtime_http, a_streamed_body_is_the_same_however_it_is_cut)
{
    static const char body[] = "5\r\nhello\r\n7;x=1\r\n, world\r\n0\r\n"
                               "Lambda-Runtime-Function-Error-Type: Oops\r\n"
                               "Lambda-Runtime-Function-Error-Body: e30=\r\n\r\n";
    for (size_t step = 1; step < sizeof(body); step++) {
        struct runtime_stream stream;
        char out[64];
        EXPECT(take_stream(&stream, body, step, out) == RUNTIME_WHOLE);
        EXPECT(strcmp(out, "hello, world") == 0);
        EXPECT(strcmp(stream.error_type, "Oops") == 0);
        EXPECT(strcmp(stream.error_body, "e30=") == 0);
    }
}

TEST(runtime_http, a_streamed_body_without_sense_is_bad)
{
    static const char *const bodies[] = {"x\r\n", "5\r\nhellooo", "0\r\nno field\r\n\r\n",
                                         "\r\n\r\n"};
    for (size_t i = 0; i < sizeof(bodies) / sizeof(bodies[0]); i++) {
        struct runtime_stream stream;
        char out[64];
        EXPECT(take_stream(&stream, bodies[i], 64, out) == RUNTIME_BAD);
    }
}
