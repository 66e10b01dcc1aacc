/*
 * Requests of functions to their host.
 *
 * Claims: no byte outside is read; what is accepted has the parts of its operation, each inside the
 * request, one behind the other up to its end; a string taken from it ends.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/error.h"

#include "service/host/private.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    enum { NAME_MAX_HERE = 64 };
    struct host_request request;
    struct error err = {0};
    uint8_t *copy = malloc(size + 1); /* of its own size, so that reading beyond it is seen */
    CHECK(copy != NULL);
    memcpy(copy, data, size);
    if (host_request_read(copy, size, &request, &err) == 0) {
        const char *at = (const char *)copy + 8 + 4 * request.count;
        CHECK(request.operation > HOSTCALL_NONE && request.operation < HOSTCALL_COUNT);
        for (size_t i = 0; i < request.count; i++) {
            char *string = NULL;
            CHECK(request.parts[i].data == at);
            at += request.parts[i].length;
            if (host_request_string(&request, i, NAME_MAX_HERE, "part", &string, &err) == 0) {
                CHECK(strlen(string) == request.parts[i].length);
                CHECK(strlen(string) <= NAME_MAX_HERE);
                free(string);
            }
        }
        CHECK(at == (const char *)copy + size);
    } else {
        CHECK(err.kind == ERROR_INVALID || err.kind == ERROR_UNSUPPORTED);
    }
    free(copy);
    return 0;
}
