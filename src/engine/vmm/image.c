/* Images and size classes: what is independent of how they run. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>

#include "base/check.h"
#include "base/error.h"
#include "base/memory.h"

#include "engine/vmm/private.h"

const uint64_t window_base[WINDOW_COUNT] = {
    [WINDOW_TEXT] = ABI_TEXT_BASE,   [WINDOW_DATA] = ABI_DATA_BASE,
    [WINDOW_STACK] = ABI_STACK_BASE, [WINDOW_MEMORY] = ABI_MEMORY_BASE,
    [WINDOW_FILES] = ABI_FILES_BASE,
};

/* On hosts that shadow page tables a slot costs 8 bytes per page: small functions get small ones.
 * Behind the data is the hole below the stack: 8 MiB at least, more than any frame steps over. */
static const struct {
    uint64_t text_mib;
    uint64_t data_mib;
} code_classes[] = {{4, 4}, {64, 56}};

static const uint64_t memory_classes_mib[] = {16, 64, 128, 256, 512, 1024, 2048, 4096};

enum {
    CODE_CLASS_COUNT = sizeof(code_classes) / sizeof(code_classes[0]),
    MEMORY_CLASS_COUNT = sizeof(memory_classes_mib) / sizeof(memory_classes_mib[0]),
    STACK_WINDOW_MIB = 2,
};

static struct size_class make_class(size_t code, size_t memory)
{
    return (struct size_class){{
        [WINDOW_TEXT] = MIB(code_classes[code].text_mib),
        [WINDOW_DATA] = MIB(code_classes[code].data_mib),
        [WINDOW_STACK] = MIB(STACK_WINDOW_MIB),
        [WINDOW_MEMORY] = MIB(memory_classes_mib[memory]),
        [WINDOW_FILES] = ABI_FILES_BYTES, /* of addresses; memory is given as it is asked for */
    }};
}

bool class_for(uint64_t text_bytes, uint64_t data_bytes, uint64_t memory_bytes,
               struct size_class *ret_class)
{
    for (size_t code = 0; code < CODE_CLASS_COUNT; code++) {
        for (size_t memory = 0; memory < MEMORY_CLASS_COUNT; memory++) {
            struct size_class class = make_class(code, memory);
            if (text_bytes <= class.bytes[WINDOW_TEXT] && data_bytes <= class.bytes[WINDOW_DATA] &&
                memory_bytes <= class.bytes[WINDOW_MEMORY]) {
                *ret_class = class;
                return true;
            }
        }
    }
    return false;
}

uint64_t class_total(const struct size_class *class)
{
    uint64_t total = 0;
    for (int window = 0; window < WINDOW_COUNT; window++) {
        total += class->bytes[window];
    }
    return total;
}

bool class_from_total(uint64_t total, struct size_class *ret_class)
{
    for (size_t code = 0; code < CODE_CLASS_COUNT; code++) {
        for (size_t memory = 0; memory < MEMORY_CLASS_COUNT; memory++) {
            struct size_class class = make_class(code, memory);
            if (class_total(&class) == total) {
                *ret_class = class;
                return true;
            }
        }
    }
    return false;
}

static bool is_zero(const uint8_t *page)
{
    uint64_t any = 0;
    for (size_t i = 0; i < PAGE_BYTES; i += 8) {
        uint64_t word;
        memcpy(&word, page + i, 8);
        any |= word;
    }
    return any == 0;
}

/* Add one page behind the others; a neighbour of the last run makes that longer. */
static void add_page(struct vmm_image *image, enum window window, uint64_t offset,
                     const uint8_t *bytes, uint64_t length)
{
    image->content = memory_resize(image->content, image->content_bytes + PAGE_BYTES);
    memset(image->content + image->content_bytes, 0, PAGE_BYTES);
    memcpy(image->content + image->content_bytes, bytes, length);
    image->content_bytes += PAGE_BYTES;

    struct run *last = image->run_count > 0 ? &image->runs[image->run_count - 1] : NULL;
    if (last != NULL && last->window == window && last->offset + last->length == offset) {
        last->length += PAGE_BYTES;
        return;
    }
    image->runs = memory_resize(image->runs, (image->run_count + 1) * sizeof(struct run));
    image->runs[image->run_count++] =
        (struct run){.window = window, .offset = offset, .length = PAGE_BYTES};
}

void image_add_pages(struct vmm_image *image, enum window window, uint64_t offset,
                     const uint8_t *bytes, uint64_t length)
{
    CHECK(offset % PAGE_BYTES == 0);

    for (uint64_t at = 0; at < length; at += PAGE_BYTES) {
        uint64_t part = length - at < PAGE_BYTES ? length - at : PAGE_BYTES;
        if (part < PAGE_BYTES || !is_zero(bytes + at)) {
            add_page(image, window, offset + at, bytes + at, part);
        }
    }
}

/* The content has stopped moving: runs can point into it. */
static void settle_runs(struct vmm_image *image)
{
    uint64_t at = 0;
    for (size_t i = 0; i < image->run_count; i++) {
        image->runs[i].bytes = image->content + at;
        at += image->runs[i].length;
    }
    CHECK(at == image->content_bytes);
    image->info.snapshot_bytes = image->content_bytes;
}

static int check_limits(const struct vmm_limits *limits, struct error *err)
{
    if (limits->memory_bytes > MIB(4096)) {
        return error_set(err, ERROR_INVALID, "a memory limit of %" PRIu64 " bytes is above 4 GiB",
                         limits->memory_bytes);
    }
    if (limits->files_bytes > ABI_FILES_BYTES) {
        return error_set(err, ERROR_INVALID,
                         "a limit of %" PRIu64 " bytes for files is above %d MiB",
                         limits->files_bytes, ABI_FILES_BYTES >> 20);
    }
    if (limits->timeout_ms == 0) {
        return error_set(err, ERROR_INVALID, "a time limit of 0 ms lets nothing run");
    }
    return 0;
}

int vmm_image_new(struct vmm *vmm, const void *elf, size_t length, const struct vmm_limits *limits,
                  const struct vmm_sink *sink, struct vmm_image **ret_image, struct error *err)
{
    struct elf_view view;
    int r = elf_read(elf, length, &view, err);
    if (r == 0) {
        r = check_limits(limits, err);
    }
    if (r < 0) {
        return r;
    }
    struct vmm_image *image = NEW(struct vmm_image);
    image->references = 1;
    image->vmm = vmm;
    image->limits = *limits;
    if (!class_for(view.text_bytes, view.data_end, limits->memory_bytes, &image->class)) {
        free(image);
        return error_set(err, ERROR_LIMIT, "the image is larger than any function VM");
    }
    r = vmm->backend->snapshot(image, &view, sink, err);
    if (r < 0) {
        vmm_image_unref(image);
        return r;
    }
    settle_runs(image);
    image->info.text_bytes = view.text_bytes;
    image->info.class_bytes = class_total(&image->class);
    *ret_image = image;
    return 0;
}

struct vmm_image *vmm_image_ref(struct vmm_image *image)
{
    atomic_fetch_add(&image->references, 1);
    return image;
}

void vmm_image_unref(struct vmm_image *image)
{
    if (image == NULL || atomic_fetch_sub(&image->references, 1) > 1) {
        return;
    }
    if (image->backend != NULL) {
        image->vmm->backend->forget(image);
    }
    free(image->runs);
    free(image->content);
    free(image);
}

void vmm_image_info(const struct vmm_image *image, struct vmm_image_info *ret_info)
{
    *ret_info = image->info;
}
