/* What a bootstrap sends to the Runtime API, whole, in pieces, and wrong. */
#include "guest/agent/runtime_http.h"

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
