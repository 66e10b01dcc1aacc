/* What the file system wants of its surroundings, and the archive behind the text. */
#include "engine/vmm/assets.h"

#include "wasi.h"

/* The last of the text (link.ld): engine/wasm replaces it where a module has assets. */
const struct assets_head guest_assets
    __attribute__((section(".assets"), used)) = {.magic = ASSETS_MAGIC};

void wasi_begin(void)
{
    /* It is not what the compiler sees. */
    const struct assets_head *assets = &guest_assets;
    __asm__("" : "+r"(assets));
    files_begin(assets->node_count > 0 ? assets : NULL, (uint8_t *)ABI_FILES_BASE);
    descriptors_begin();
}

bool files_provide(uint64_t bytes)
{
    return host_call(ABI_CALL_FILES, bytes, 0, 0) == 0;
}

uint64_t files_now_ns(void)
{
    return io_clock_ns(0);
}
