/* elf_read(): whatever the bytes, it refuses them or describes parts that lie inside them. */
#include <stdlib.h>

#include "base/error.h"

#include "engine/vmm/private.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

static void must(bool holds)
{
    if (!holds) {
        abort();
    }
}

static volatile uint8_t seen;

static void read_all(const uint8_t *part, uint64_t length)
{
    for (uint64_t i = 0; i < length; i++) {
        seen = part[i];
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    struct elf_view view = {0};
    struct error err = {0};
    int r = elf_read(bytes, length, &view, &err);
    if (r < 0) {
        must(err.kind == ERROR_INVALID || err.kind == ERROR_LIMIT);
        return 0;
    }
    read_all(view.text, view.text_bytes);
    if (view.data_bytes > 0) {
        read_all(view.data, view.data_bytes);
    }
    must(view.text_bytes <= ABI_WINDOW_BYTES && view.data_end <= ABI_WINDOW_BYTES);
    must(view.data_bytes <= view.data_end - (ABI_IMAGE_DATA - ABI_DATA_BASE));
    must(view.entry >= ABI_TEXT_BASE && view.entry - ABI_TEXT_BASE < view.text_bytes);
    return 0;
}
