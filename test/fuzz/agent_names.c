/* What a guest's program may ask the agent's names: no byte outside is read or written. */
#include <stdlib.h>
#include <string.h>

#include "base/check.h"

#include "guest/agent/names.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct names names;
    uint8_t *copy = malloc(size + 1);
    uint8_t *answer = malloc(NAMES_ANSWER_MAX);
    CHECK(copy != NULL && answer != NULL);
    memcpy(copy, data, size);
    size_t length = names_answer(&names, copy, size, answer);
    CHECK(length <= NAMES_ANSWER_MAX && (length == 0 || length >= 12));
    CHECK(names.count <= NAMES_MAX);
    for (size_t i = 0; i < names.count; i++) {
        CHECK(names_find(&names, NAMES_FIRST + (uint32_t)i + 1) != NULL);
    }
    names.count = names.count > 16 ? 0 : names.count;
    free(copy);
    free(answer);
    return 0;
}
