/*
 * Layers of an OCI image, laid over each other (OCI image-spec, layer.md): tar archives, packed or
 * not, of which each adds to, replaces and removes what those below it have.
 *
 * The tree is kept in memory, without the files' content, and written as one archive: nothing of
 * an image is a path of this machine before it has become one that leads nowhere else.  Not for
 * two threads at once.
 */
#ifndef ENGINE_IMAGE_LAYERS_H
#define ENGINE_IMAGE_LAYERS_H

#include <stddef.h>
#include <stdint.h>

struct error;
struct layers;

/* Most that an image may have: layers, names in it, bytes of its files. */
enum { LAYERS_MAX = 128, LAYERS_NAMES_MAX = 1000000 };
#define LAYERS_BYTES_MAX (UINT64_C(64) << 30)

struct layers *layers_new(void);
void layers_free(struct layers *layers); /* accepts NULL */

/*
 * Lay the archive at `path` over those before it.  It is read again by layers_write(), so it stays
 * where it is.  INVALID: it is no tar archive, or a name in it leads out of the root; TOO_LARGE.
 * Afterwards the layers are only good for being freed.
 */
int layers_add(struct layers *layers, const char *path, struct error *err);

/* The folder is there, with those above it.  INVALID: something else has the name. */
int layers_make_folder(struct layers *layers, const char *path, struct error *err);

/* Device nodes and sockets, which the guest's kernel makes itself, were left out. */
size_t layers_left_out(const struct layers *layers);

/*
 * Write all of it as one tar archive to `fd`: folders and links in the order of their names, then
 * files in the order of the layers, then their other names.  The same layers give the same bytes.
 */
int layers_write(struct layers *layers, int fd, struct error *err);

#endif
