/* ISO 9660 images of a few files, with Rock Ridge names: what a guest is given to read.  By
 * libarchive; any thread; nothing is kept. */
#ifndef ENGINE_IMAGE_ISO_H
#define ENGINE_IMAGE_ISO_H

#include <stddef.h>

struct buffer;
struct error;

struct iso_file {
    const char *name;
    const void *bytes;
    size_t length;
    unsigned mode; /* 0644 */
};

/* Append an image with that label; the same files make the same bytes but for the volume's dates.
 */
int iso_write(const char *label, const struct iso_file *files, size_t count, struct buffer *out,
              struct error *err);

#endif
