/*
 * Disks that bring their own boot loader, as files: raw, and qcow2 (docs/interop/qcow2.txt of
 * QEMU).
 *
 * Whoever uploads one chooses every byte of it.  The head of a qcow2 file may name other files of
 * the host (a backing file, a data file), which a guest could then read: such ones are refused
 * here, before any program opens them.  Any thread; nothing is kept.
 */
#ifndef ENGINE_IMAGE_DISK_H
#define ENGINE_IMAGE_DISK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct error;

enum { DISK_HEAD_BYTES = 4096 };

struct disk_image {
    const char *format;  /* "raw" or "qcow2" */
    uint64_t size_bytes; /* that the guest sees */
};

/* What a file of `file_bytes` is that begins so (DISK_HEAD_BYTES, or all).  INVALID: no disk that
 * boots, another format; UNSUPPORTED: it is encrypted, or needs other files. */
int disk_image_parse(const uint8_t *head, size_t length, uint64_t file_bytes,
                     struct disk_image *ret_image, struct error *err);
int disk_image_read(const char *path, struct disk_image *ret_image, struct error *err);

/* What a machine wrote over a disk, made by another node: whatever it says lies below is not asked,
 * but its data is to be in it.  CORRUPT; a file that is no qcow2 is one. */
int disk_overlay_check(const char *path, struct error *err);

/* Have qemu-img look at every table of a qcow2 file, confined; blocks.  CORRUPT, UNSUPPORTED: there
 * is no qemu-img. */
int disk_image_check(const char *path, struct error *err);

/* Unpack gzip, xz, zstd and the like to a new file, sparse where there are zeros; *ret_is_packed is
 * false, and nothing made, when it is not packed.  TOO_LARGE, INVALID, FULL, OS. */
int disk_image_unpack(const char *from, const char *to, uint64_t most, bool *ret_is_packed,
                      struct error *err);

#endif
