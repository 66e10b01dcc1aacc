/*
 * A machine as one file: a pax tar archive, packed by zstd where libarchive has it, which tar(1)
 * reads.  Holes of disks are no part of it.
 *
 *   manifest.json          {"format": "blixard-machine", "version": 1, "name", "config",
 * "snapshots":
 *                          [{"name", "has_memory", "created_ms"}...], "blobs": [ID...]}: the first
 *   blobs/ID               kernel, modules and root, or the disk, of its image, named by their
 *                          SHA-256
 *   content/FILE           see content.h; with a manifest that has digests.  Volumes are there as
 *                          volume-N.raw, and described by that manifest's "volumes"
 *   snapshots/NAME/FILE    the same, for each snapshot
 *
 * One that goes to another node has more, named in the manifest:
 *
 *   layers/ID              "layers": files of its volumes
 *   own/FILE               "own": files of its folder, of those that package_is_own() knows
 *
 * and, with "is_part", no content: that goes another way, or is among its own files.
 *
 * An archive comes from anywhere: only these names are taken, each once, only plain files, no more
 * of them and no larger than a machine can have, and no more bytes than PACKAGE_RATIO_MAX times
 * those of the archive (zeros do not count, as they are not written).  Nothing is believed before
 * its digest was compared.  Blocks; any thread.
 */
#ifndef SERVICE_MACHINE_PACKAGE_H
#define SERVICE_MACHINE_PACKAGE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buffer;
struct error;
struct image_store;

enum {
    PACKAGE_SNAPSHOTS_MAX = 64,
    PACKAGE_LAYERS_MAX = 512,
    PACKAGE_OWN_MAX = 12,
    PACKAGE_ENTRIES_MAX = 32 + PACKAGE_SNAPSHOTS_MAX * 8 + PACKAGE_LAYERS_MAX + PACKAGE_OWN_MAX,
    PACKAGE_RATIO_MAX = 1000
};

bool package_is_own(const char *name);

/* ---- Writing ---- */

struct package_writer;

/* `manifest` is taken as it is, with its blobs; the content's folder (NULL: it has none), and the
 * snapshots' in their order, stay as they are while it lasts.  NOT_FOUND: a blob is not here. */
int package_writer_new(const json_t *manifest, const char *content, const char *const *snapshots,
                       struct image_store *images, struct package_writer **ret_writer,
                       struct error *err);
/* A file more, which the manifest names, and stays as it is; before the first step. */
void package_writer_add(struct package_writer *writer, const char *name, const char *path);
/* What all of its files take on disk. */
uint64_t package_writer_usage(const struct package_writer *writer);
/* Append the next piece to *out, a megabyte or so, or less, or nothing.  1: there is more; 0: that
 * was all. */
int package_writer_step(struct package_writer *writer, struct buffer *out, struct error *err);
void package_writer_free(struct package_writer *writer); /* accepts NULL */

/* ---- Reading ---- */

/*
 * Unpack what `fd` reads below `folder`, which is made: content/, snapshots/NAME/, verified,
 * layers/ and own/; blobs go to `images`.  `room_bytes`: another node of ours has made it, and
 * what is in it may be so much, however well it was packed; 0: it comes from anywhere.
 * *ret_manifest is the caller's.  CORRUPT (it is cut,
 * damaged or no such archive), UNSUPPORTED (of a later version), TOO_LARGE, FULL.  On failure the
 * folder is the caller's to remove.
 */
int package_read(int fd, const char *folder, struct image_store *images, uint64_t room_bytes,
                 json_t **ret_manifest, struct error *err);

#endif
