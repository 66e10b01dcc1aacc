/*
 * Files of a function are not copied into its instances: the pages that hold nothing else are one
 * memory object of the image, mapped into each arena that has it, read-only.
 *
 * What is mapped costs a fault for each page that is read first, what is copied costs the copy at
 * each attach and its memory in each instance: so it is only done for what is large.  The mapping
 * stays when an arena gets the same image again, and changes with it otherwise.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/check.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/memory.h"

#include "engine/vmm/microvm.h"

enum { SHARED_LEAST = 128 << 10 };

static uint64_t page_up(uint64_t value)
{
    return (value + PAGE_BYTES - 1) & ~(uint64_t)(PAGE_BYTES - 1);
}

/* Nothing can write to it any more, whoever has it. */
static int make_object(const uint8_t *bytes, uint64_t length)
{
    FD_OWNED int fd = memfd_create("blixard-files", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    uint64_t written = 0;
    if (fd < 0 || ftruncate(fd, (off_t)page_up(length)) < 0) {
        return -1;
    }
    while (written < length) {
        ssize_t count = pwrite(fd, bytes + written, length - written, (off_t)written);
        if (count <= 0) {
            return -1;
        }
        written += (uint64_t)count;
    }
    int seals = F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL;
    return fcntl(fd, F_ADD_SEALS, seals) < 0 ? -1 : fd_take(&fd);
}

void microvm_share(struct vmm_image *image, const struct elf_view *elf)
{
    static atomic_uint_fast64_t ids;
    uint64_t offset = page_up(elf->files_at);
    if (elf->files_at == 0 || offset >= elf->text_bytes ||
        elf->text_bytes - offset < SHARED_LEAST) {
        return;
    }
    int fd = make_object(elf->text + offset, elf->text_bytes - offset);
    if (fd < 0) {
        return; /* copied, then */
    }
    struct microvm_shared *shared = NEW(struct microvm_shared);
    *shared = (struct microvm_shared){
        .id = ++ids, .fd = fd, .offset = offset, .bytes = page_up(elf->text_bytes - offset)};
    image->backend = shared;
}

void microvm_forget(struct vmm_image *image)
{
    struct microvm_shared *shared = image->backend;
    close(shared->fd);
    free(shared);
    image->backend = NULL;
}

/* What every arena is made of; see make_arena(). */
static int unmap(struct microvm_shell *shell)
{
    uint8_t *at = microvm_window(shell, WINDOW_TEXT) + shell->shared_offset;
    if (mmap(at, shell->shared_bytes, PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED) {
        return -1;
    }
    madvise(at, shell->shared_bytes, MADV_NOHUGEPAGE);
    madvise(at, shell->shared_bytes, MADV_DONTFORK);
    shell->shared_id = 0;
    return 0;
}

int microvm_map_shared(struct microvm_shell *shell, const struct vmm_image *image_or_null)
{
    const struct microvm_shared *shared = image_or_null != NULL ? image_or_null->backend : NULL;
    uint64_t wanted = shared != NULL ? shared->id : 0;
    if (shell->shared_id == wanted) {
        return 0;
    }
    if (shell->shared_id != 0 && unmap(shell) < 0) {
        return -1;
    }
    if (shared == NULL) {
        return 0;
    }
    CHECK(shared->offset + shared->bytes <= shell->base.class.bytes[WINDOW_TEXT]);
    uint8_t *at = microvm_window(shell, WINDOW_TEXT) + shared->offset;
    /* Private: a shared one of a sealed object is refused by older kernels, and nothing writes. */
    if (mmap(at, shared->bytes, PROT_READ, MAP_PRIVATE | MAP_FIXED, shared->fd, 0) == MAP_FAILED) {
        return -1;
    }
    madvise(at, shared->bytes, MADV_DONTFORK);
    shell->shared_id = shared->id;
    shell->shared_offset = shared->offset;
    shell->shared_bytes = shared->bytes;
    return 0;
}
