/* What a bootstrap may send: no byte outside is read, and what is whole lies inside. */
#include "guest/agent/runtime_http.h"

#include <stdlib.h>
#include <string.h>

#include "base/check.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

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
        CHECK(request.body_at + request.body_length <= request.whole_length);
        CHECK(request.body_length <= RUNTIME_BODY_MAX);
        (void)runtime_http_path_id(request.path, "response", id, sizeof(id));
    }
    free(copy);
    return 0;
}
