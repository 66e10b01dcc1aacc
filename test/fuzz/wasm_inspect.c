/* wasm_inspect(): whatever the bytes, it ends, and what it accepts is within its limits. */
#include <stdlib.h>

#include "base/error.h"

#include "engine/wasm/wasm.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

static void must(bool holds)
{
    if (!holds) {
        abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    struct wasm_module_info info = {0};
    struct error err = {0};
    if (wasm_inspect(bytes, length, &info, &err) < 0) {
        must(err.kind == ERROR_INVALID || err.kind == ERROR_UNSUPPORTED || err.kind == ERROR_LIMIT);
        must(err.text[0] != '\0');
        return 0;
    }
    must(info.size_bytes == length && info.function_count <= length);
    must(info.memory_bytes_initial <= UINT64_C(1) << 32);
    must(info.memory_bytes_max <= UINT64_C(1) << 32);
    return 0;
}
