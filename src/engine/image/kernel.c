/* Kernels: from a bzImage to the ELF file in it.  See initrd.h. */
#include <archive.h>
#include <archive_entry.h>
#include <elf.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "base/buffer.h"
#include "base/error.h"

#include "engine/image/initrd.h"
#include "engine/image/unpack.h"

/* Offsets in the setup header (boot.rst, "The Real-Mode Kernel Header"). */
enum {
    SETUP_SECTORS = 0x1f1,
    MAGIC = 0x202,
    VERSION = 0x206,
    VERSION_TEXT = 0x20e,
    PAYLOAD_OFFSET = 0x248,
    PAYLOAD_LENGTH = 0x24c,
    HEADER_END = 0x250,
    SECTOR = 512,
};
enum { KERNEL_BYTES_MAX = 512 << 20, PIECE_BYTES = 64 << 10 };

int unpack_bytes(const void *bytes, size_t length, size_t most, struct buffer *out,
                 struct error *err)
{
    size_t before = out->used;
    struct archive_entry *entry = NULL;
    struct archive *archive = archive_read_new();
    archive_read_support_filter_all(archive);
    archive_read_support_format_raw(archive);
    bool is_good = archive_read_open_memory(archive, bytes, length) == ARCHIVE_OK &&
        archive_read_next_header(archive, &entry) == ARCHIVE_OK &&
        archive_filter_count(archive) > 1;
    la_ssize_t got = is_good ? 1 : 0;
    while (got > 0 && out->used - before <= most) {
        got = archive_read_data(archive, buffer_reserve(out, PIECE_BYTES), PIECE_BYTES);
        out->used += got > 0 ? (size_t)got : 0;
    }
    archive_read_free(archive);
    if (out->used - before > most) {
        out->used = before;
        return error_set(err, ERROR_TOO_LARGE, "unpacked it has more than %zu bytes", most);
    }
    return out->used > before
        ? 0
        : error_set(err, ERROR_INVALID, "it is packed in a way that is not known, or damaged");
}

static uint32_t u32_at(const uint8_t *bytes, size_t offset)
{
    return (uint32_t)bytes[offset] | (uint32_t)bytes[offset + 1] << 8 |
        (uint32_t)bytes[offset + 2] << 16 | (uint32_t)bytes[offset + 3] << 24;
}

static bool is_elf(const void *bytes, size_t length)
{
    return length > sizeof(Elf64_Ehdr) && memcmp(bytes, ELFMAG, SELFMAG) == 0;
}

static bool is_bzimage(const uint8_t *bytes, size_t length)
{
    return length > HEADER_END && memcmp(bytes + MAGIC, "HdrS", 4) == 0 &&
        (bytes[VERSION] | bytes[VERSION + 1] << 8) >= 0x208;
}

void kernel_version(const void *bytes, size_t length, char *ret_version, size_t size)
{
    const uint8_t *kernel = bytes;
    size_t at = is_bzimage(kernel, length)
        ? (size_t)(kernel[VERSION_TEXT] | kernel[VERSION_TEXT + 1] << 8) + SECTOR
        : length;
    size_t used = 0;
    while (at < length && kernel[at] > ' ' && kernel[at] < 127 && used + 1 < size) {
        ret_version[used++] = (char)kernel[at++];
    }
    ret_version[used] = '\0';
}

int kernel_unpack(const void *bytes, size_t length, struct buffer *out, struct error *err)
{
    const uint8_t *kernel = bytes;
    size_t before = out->used;
    if (is_elf(bytes, length)) {
        buffer_append(out, bytes, length);
        return 0;
    }
    if (!is_bzimage(kernel, length)) {
        return error_set(err, ERROR_INVALID, "it is neither a bzImage nor an ELF file");
    }
    uint64_t sectors = kernel[SETUP_SECTORS] != 0 ? kernel[SETUP_SECTORS] : 4;
    uint64_t from = (sectors + 1) * SECTOR + u32_at(kernel, PAYLOAD_OFFSET);
    uint64_t size = u32_at(kernel, PAYLOAD_LENGTH);
    if (from > length || size < 4 || size > length - from) {
        return error_set(err, ERROR_INVALID,
                         "the kernel in the bzImage is not where its head says");
    }
    /* The last four bytes are the size that it has unpacked. */
    int r = unpack_bytes(kernel + from, (size_t)size - 4, KERNEL_BYTES_MAX, out, err);
    if (r == 0 && !is_elf(out->data + before, out->used - before)) {
        return error_set(err, ERROR_INVALID, "what is in the bzImage is no ELF file");
    }
    return r < 0 ? error_wrap(err, "the kernel") : 0;
}
