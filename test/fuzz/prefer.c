/*
 * A Prefer field (RFC 7240), as clients of asynchronous invocations send it.
 *
 * Claims: no byte outside is read; the texts end; what is refused is called INVALID.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/error.h"

#include "service/function/function.h"
#include "service/invocation/invocation.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct function_policy policy;
    struct error err = {0};
    bool is_async = false;
    char *copy = malloc(size + 1); /* exactly as long: what is behind it is noticed */
    memcpy(copy, data, size);
    function_policy_init(&policy);
    int r = invocation_read_preferences(text_of(copy, size), &policy, &is_async, &err);
    CHECK(r == 0 || r == -ERROR_INVALID);
    CHECK(memchr(policy.on_success, 0, sizeof(policy.on_success)) != NULL);
    CHECK(memchr(policy.on_failure, 0, sizeof(policy.on_failure)) != NULL);
    free(copy);
    return 0;
}
