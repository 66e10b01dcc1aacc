/*
 * wasm_inspect(): whatever the bytes, it ends, and what it accepts is within its limits; rewritten
 * for the tools that is the same module still, alone and linked with itself.
 */
#include <stdlib.h>

#include "base/buffer.h"
#include "base/error.h"

#include "engine/wasm/private.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

static void must(bool holds)
{
    if (!holds) {
        abort();
    }
}

static void check_rewritten(const uint8_t *bytes, size_t length,
                            const struct wasm_module_info *before)
{
    BUFFER_OWNED struct buffer named = {0};
    struct wasm_module_info after = {0};
    struct error err = {0};
    rewrite_names(bytes, length, WASM_FORM_FUNCTION, &named);
    must(wasm_inspect(named.data, named.used, &after, &err) == 0);
    must(after.abi == before->abi && after.function_count == before->function_count);
    must(after.assets_bytes == 0);
}

/* What it imports, it gives as well: "a" is the module itself. */
static void check_linked(const uint8_t *bytes, size_t length)
{
    const struct wasm_linked modules[] = {{"a", bytes, length}, {"", bytes, length}};
    struct link link = {0};
    struct error err = {0};
    if (link_read(modules, 2, &link, &err) == 0) {
        BUFFER_OWNED struct buffer renamed = {0};
        struct wasm_module_info info;
        rewrite_linked(bytes, length, link.units[1].imports, &renamed);
        must(inspect_form(renamed.data, renamed.used, WASM_FORM_LINKED, &info, &err) == 0);
    }
    link_done(&link);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    struct wasm_module_info info = {0};
    struct error err = {0};
    check_linked(bytes, length);
    if (wasm_inspect(bytes, length, &info, &err) < 0) {
        must(err.kind == ERROR_INVALID || err.kind == ERROR_UNSUPPORTED || err.kind == ERROR_LIMIT);
        must(err.text[0] != '\0');
        return 0;
    }
    must(info.size_bytes == length && info.function_count <= length);
    must(info.memory_bytes_initial <= UINT64_C(1) << 32);
    must(info.memory_bytes_max <= UINT64_C(1) << 32);
    check_rewritten(bytes, length, &info);
    return 0;
}
