/*
 * Files that are disks: made, grown, laid over each other, measured.
 *
 * A *layer* is one file, ID.raw or ID.qcow2 in the folder of all of them.  A qcow2 may lie over
 * another layer, which from then on nobody writes.  qemu-img and mke2fs do what is theirs to know:
 * children without a shell, in a jail that sees the folder and the system's programs alone.  The
 * key of an encrypted layer (LUKS inside qcow2) goes to them by standard input.
 *
 * What is being made is named ID.*.partial until it is whole: such a file never holds anything that
 * somebody has relied on, any other may.  Any thread but a loop's: these calls block.
 */
#ifndef ENGINE_VOLUME_VOLUME_H
#define ENGINE_VOLUME_VOLUME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct error;

enum { VOLUME_LAYERS_MAX = 16, VOLUME_KEY_MAX = 1024, VOLUME_LABEL_MAX = 16 };
#define VOLUME_BYTES_MIN (UINT64_C(1) << 20)
#define VOLUME_BYTES_MAX (UINT64_C(16) << 40)

enum volume_format { VOLUME_RAW, VOLUME_QCOW2 };
const char *volume_format_text(enum volume_format format);
bool volume_format_parse(const char *text, enum volume_format *ret_format);

/* The caller's. */
char *volume_path(const char *folder, const char *id, enum volume_format format);

struct volume_layer {
    const char *folder; /* absolute */
    const char *id;     /* hex digits */
    enum volume_format format;
    uint64_t size_bytes;  /* whole sectors */
    const char *below_id; /* the layer that it lies over; NULL: none */
    enum volume_format below_format;
    const void *key; /* of LUKS: VOLUME_QCOW2 only; NULL: not encrypted */
    size_t key_length;
    const char *label; /* of an empty ext4; NULL: the disk is empty */
};

/* Sizes that can be had: INVALID; FULL: it can never fit in the folder's file system, or that is
 * full now. */
int volume_check_size(const char *folder, uint64_t size_bytes, struct error *err);

/* Made before is success.  UNSUPPORTED: a program is missing; FULL, OS. */
int volume_make(const struct volume_layer *layer, struct error *err);

/* An empty ext4 in the file `path` of `folder`, which has its size; sparse.  `label`: at most
 * VOLUME_LABEL_MAX, NULL: none.  UNSUPPORTED: there is no mke2fs; FULL, OS. */
int volume_make_file_system(const char *folder, const char *path, const char *label,
                            struct error *err);

/* To size_bytes; that it is larger is an error, that it has it already is none. */
int volume_grow(const struct volume_layer *layer, struct error *err);

/* Layers below one another. */
struct volume_below {
    const char *id;
    enum volume_format format;
};

/*
 * Write what `layer` has into the one below, the first of all those that it lies on, which has its
 * content then.  Broken off, it is begun again: until the layer is removed it says the same as
 * before.  Nobody has either open.
 */
int volume_commit(const struct volume_layer *layer, const struct volume_below *below, size_t count,
                  struct error *err);

/*
 * Write what `layer` shows, with what it lies over, to `to` in its folder: raw, and sparse.  None
 * of them is encrypted, and nobody writes to any.  FULL, OS; what is there then is the caller's to
 * remove.
 */
int volume_flatten(const struct volume_layer *layer, const struct volume_below *below, size_t count,
                   const char *to, struct error *err);

/* One that is not there is success. */
int volume_remove(const char *folder, const char *id, enum volume_format format, struct error *err);

/* What it takes of the host's disk; 0: it is not there. */
uint64_t volume_used_bytes(const char *folder, const char *id, enum volume_format format);

/* Remove what was never finished, and tell of each layer's file. */
int volume_sweep(const char *folder, void (*on_layer)(const char *id, void *context), void *context,
                 struct error *err);

#endif
