/* What a bootstrap may send: no byte outside is read, and what is whole lies inside. */
#include "guest/agent/runtime_http.h"

#include <stdlib.h>
#include <string.h>

#include "base/check.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void take_stream(const uint8_t *bytes, size_t length, const struct runtime_request *request)
{
    struct runtime_stream *stream = malloc(sizeof(*stream));
    size_t used = 1;
    CHECK(stream != NULL);
    runtime_stream_begin(request, stream);
    for (enum runtime_verdict verdict = RUNTIME_MORE; verdict == RUNTIME_MORE && used > 0;) {
        const uint8_t *piece = NULL;
        size_t piece_length = 0;
        verdict = runtime_stream_take(stream, bytes, length, &used, &piece, &piece_length);
        CHECK(used <= length && piece_length <= used);
        CHECK(piece_length == 0 || (piece >= bytes && piece + piece_length <= bytes + length));
        bytes += used;
        length -= used;
    }
    free(stream);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct runtime_request request;
    char id[32];
    uint8_t *copy = malloc(size + 1);
    CHECK(copy != NULL);
    memcpy(copy, data, size);
    enum runtime_verdict verdict = runtime_http_read(copy, size, &request);
    if (verdict == RUNTIME_WHOLE) {
        CHECK(request.whole_length <= size && request.head_length > 0);
    }
    if (verdict == RUNTIME_WHOLE && request.is_streaming) {
        take_stream(copy + request.whole_length, size - request.whole_length, &request);
    } else if (verdict == RUNTIME_WHOLE) {
        CHECK(request.body_at + request.body_length <= request.whole_length);
        CHECK(request.body_length <= RUNTIME_BODY_MAX);
        (void)runtime_http_path_id(request.path, "response", id, sizeof(id));
    }
    free(copy);
    return 0;
}
