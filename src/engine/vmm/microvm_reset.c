/*
 * Filling and resetting shells.
 *
 * A shell's memory is its own, anonymous, and stays mapped: attaching an image copies its non-zero
 * pages in, a reset zeroes what is there and copies the image's writable pages again.  No mapping
 * changes on this way, because those cost a fault per page afterwards.  What a call left beyond
 * that (pages it touched) is found with PAGEMAP_SCAN (Linux 6.7), else by reading
 * /proc/self/pagemap.
 *
 * Pages that calls used stay for the next call: to zero one costs a tenth of the fault that would
 * bring it back.  So that one large call does not make all later ones pay for zeroing, every
 * LOOK_EVERYth reset gives back all but KEEP_BYTES, and what is used still comes again.  An idle
 * instance keeps no more than that either (rest).
 */
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/check.h"
#include "base/error.h"
#include "base/memory.h"

#include "engine/vmm/microvm.h"

enum { KEEP_BYTES = 1 << 20, KEEP_BUSY_BYTES = 64 << 20, LOOK_EVERY = 16, REGIONS = 64 };

/* linux/fs.h of Linux 6.7; older headers lack it. */
struct scan_region {
    uint64_t start;
    uint64_t end;
    uint64_t categories;
};

struct scan_request {
    uint64_t size, flags, start, end, walk_end, vector, vector_length, pages_max;
    uint64_t inverted, mask, any_of, returned;
};

#define SCAN_IOCTL   _IOWR('f', 16, struct scan_request)
#define SCAN_PRESENT (UINT64_C(1) << 3)
#define SCAN_SWAPPED (UINT64_C(1) << 4)

struct washing {
    struct microvm_shell *shell;
    uint64_t keep_bytes; /* beyond this many, pages are given back instead of zeroed */
    uint64_t pages;
};

static void wash_range(struct washing *washing, uint64_t start, uint64_t end)
{
    uint64_t length = end - start;
    washing->pages += length / PAGE_BYTES;
    if (length <= washing->keep_bytes) {
        memset((void *)start, 0, length);
        washing->keep_bytes -= length;
        return;
    }
    uint64_t kept = washing->keep_bytes;
    memset((void *)start, 0, kept);
    madvise((void *)(start + kept), length - kept, MADV_DONTNEED);
    washing->keep_bytes = 0;
}

static int wash_by_scan(struct washing *washing, uint64_t start, uint64_t end)
{
    struct scan_region regions[REGIONS];
    while (start < end) {
        struct scan_request request = {
            .size = sizeof(request),
            .start = start,
            .end = end,
            .vector = (uint64_t)regions,
            .vector_length = REGIONS,
            .any_of = SCAN_PRESENT | SCAN_SWAPPED,
            .returned = SCAN_PRESENT,
        };
        int count = ioctl(washing->shell->host->pagemap_fd, SCAN_IOCTL, &request);
        if (count < 0) {
            return -1;
        }
        for (int i = 0; i < count; i++) {
            wash_range(washing, regions[i].start, regions[i].end);
        }
        start = request.walk_end > start ? request.walk_end : end;
    }
    return 0;
}

/* /proc/self/pagemap: one word per page, bit 63 present, bit 62 swapped. */
static int wash_by_pagemap(struct washing *washing, uint64_t start, uint64_t end)
{
    enum { BATCH = 512 };
    uint64_t words[BATCH];
    const uint64_t there = UINT64_C(3) << 62;
    for (uint64_t at = start; at < end; at += BATCH * PAGE_BYTES) {
        uint64_t pages = (end - at) / PAGE_BYTES < BATCH ? (end - at) / PAGE_BYTES : BATCH;
        ssize_t got =
            pread(washing->shell->host->pagemap_fd, words, pages * 8, (off_t)(at / PAGE_BYTES * 8));
        if (got != (ssize_t)(pages * 8)) {
            return -1;
        }
        for (uint64_t i = 0; i < pages; i++) {
            if (words[i] & there) {
                wash_range(washing, at + i * PAGE_BYTES, at + (i + 1) * PAGE_BYTES);
            }
        }
    }
    return 0;
}

/* Zero every page of a window's first `length` bytes that exists. */
static void wash(struct washing *washing, enum window window, uint64_t length)
{
    uint64_t start = (uint64_t)microvm_window(washing->shell, window);
    if (length == 0) {
        return;
    }
    uint64_t end = start + ((length + PAGE_BYTES - 1) & ~(uint64_t)(PAGE_BYTES - 1));
    if (washing->shell->host->pagemap_fd >= 0 &&
        (wash_by_scan(washing, start, end) == 0 || wash_by_pagemap(washing, start, end) == 0)) {
        return;
    }
    /* Neither can be had: give it all back. */
    washing->pages += (end - start) / PAGE_BYTES;
    madvise((void *)start, end - start, MADV_DONTNEED);
}

/* Bytes of the window that an image's content may have touched. */
static uint64_t image_extent(const struct vmm_image *image, enum window window)
{
    const struct microvm_shared *shared = image->backend;
    if (window != WINDOW_TEXT) {
        return image->class.bytes[window];
    }
    return shared != NULL ? shared->offset : image->info.text_bytes;
}

static void wash_writable(struct microvm_shell *shell, struct washing *washing)
{
    wash(washing, WINDOW_DATA, shell->base.class.bytes[WINDOW_DATA]);
    /* All of it: the guest's tables map whole large pages, more than the stack has. */
    wash(washing, WINDOW_STACK, shell->base.class.bytes[WINDOW_STACK]);
    wash(washing, WINDOW_MEMORY, shell->memory_accessible);
    wash(washing, WINDOW_FILES, shell->files_accessible);
    /* Where the CPU reports traps, the guest can write too. */
    memset(shell->arena + MICROVM_TRAP_STACK, 0, PAGE_BYTES);
}

/*
 * The runtime wipes vector registers when a call begins, but that is the image's own code.  Between
 * two images the host does it: everything at its power-on value.
 */
static int clear_vector_registers(const struct microvm_shell *shell)
{
    enum { X87_CONTROL = 0x37f, VECTOR_CONTROL = 0x1f80, VECTOR_CONTROL_WORD = 6 };
    struct kvm_xsave state = {.region = {X87_CONTROL, [VECTOR_CONTROL_WORD] = VECTOR_CONTROL}};
    return ioctl(shell->vcpu_fd, KVM_SET_XSAVE, &state);
}

static void copy_runs(struct microvm_shell *shell, const struct vmm_image *image, bool with_text)
{
    for (size_t i = 0; i < image->run_count; i++) {
        const struct run *run = &image->runs[i];
        if (with_text || run->window != WINDOW_TEXT) {
            memcpy(microvm_window(shell, run->window) + run->offset, run->bytes, run->length);
        }
    }
}

int microvm_attach(struct vmm_shell *base, struct vmm_image *image, struct error *err)
{
    struct microvm_shell *shell = (struct microvm_shell *)base;
    struct washing washing = {.shell = shell, .keep_bytes = KEEP_BYTES};

    /* A new shell is clean, but for what its warming up made present: zero as well. */
    if (base->image != NULL) {
        wash(&washing, WINDOW_TEXT, image_extent(base->image, WINDOW_TEXT));
        wash_writable(shell, &washing);
        if (clear_vector_registers(shell) < 0) {
            return error_os(err, errno, "clearing a virtual CPU's vector registers");
        }
    }
    uint64_t memory = image != NULL ? image->info.memory_bytes : 0;
    /* An empty shell runs nothing: what stays mapped saves the next image its faults. */
    uint64_t mapped = image != NULL ? memory : MICROVM_WARM_MEMORY;
    if (microvm_set_memory(shell, mapped) < 0) {
        return error_os(err, errno, "sizing a function's memory");
    }
    if (image != NULL &&
        microvm_set_files(shell, image->info.files_bytes, image->limits.files_bytes) < 0) {
        return error_os(err, errno, "giving a function its files' memory");
    }
    if (microvm_map_shared(shell, image) < 0) {
        return error_os(err, errno, "giving a function its files");
    }
    if (image != NULL) {
        copy_runs(shell, image, true);
    }
    shell->memory_now = memory;
    return image != NULL || shell->is_warm ? 0 : microvm_warm_up(shell, err);
}

/* The image's own pages are kept whatever they are; `keep_bytes` are for the rest. */
static int reset(struct microvm_shell *shell, uint64_t keep_bytes, uint64_t *ret_pages,
                 struct error *err)
{
    const struct vmm_image *image = shell->base.image;
    CHECK(image != NULL);

    struct washing washing = {.shell = shell, .keep_bytes = keep_bytes + image->content_bytes};
    wash_writable(shell, &washing);
    if (microvm_set_memory(shell, image->info.memory_bytes) < 0) {
        return error_os(err, errno, "resetting a function's memory");
    }
    copy_runs(shell, image, false);
    shell->memory_now = image->info.memory_bytes;
    shell->has_more =
        washing.pages * PAGE_BYTES > KEEP_BYTES + image->content_bytes && keep_bytes > KEEP_BYTES;
    *ret_pages = washing.pages;
    return 0;
}

int microvm_reset(struct vmm_shell *base, uint64_t *ret_pages, struct error *err)
{
    struct microvm_shell *shell = (struct microvm_shell *)base;
    bool looks = ++shell->resets % LOOK_EVERY == 0;
    return reset(shell, looks ? KEEP_BYTES : KEEP_BUSY_BYTES, ret_pages, err);
}

/*
 * The next call resumes inside of functions whose return addresses are on the stack, where this one
 * has written its own: the stack is the snapshot's again.
 */
void microvm_keep(struct vmm_shell *base)
{
    struct microvm_shell *shell = (struct microvm_shell *)base;
    const struct vmm_image *image = base->image;
    for (size_t i = 0; i < image->run_count; i++) {
        const struct run *run = &image->runs[i];
        if (run->window == WINDOW_STACK) {
            memcpy(microvm_window(shell, run->window) + run->offset, run->bytes, run->length);
        }
    }
    shell->has_more = false; /* resting would reset it */
}

int microvm_rest(struct vmm_shell *base, struct error *err)
{
    struct microvm_shell *shell = (struct microvm_shell *)base;
    uint64_t ignored = 0;
    return shell->has_more ? reset(shell, KEEP_BYTES, &ignored, err) : 0;
}
