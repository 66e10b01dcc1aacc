/* Decompressing, by libarchive: gzip, xz, lz4, zstd, bzip2, and what else it knows. */
#ifndef ENGINE_IMAGE_UNPACK_H
#define ENGINE_IMAGE_UNPACK_H

#include <stddef.h>

struct buffer;
struct error;

/* Append what is packed in `bytes`; TOO_LARGE beyond `most`, INVALID: it is not packed, or damaged
 * before anything came out.  Bytes behind its end are left alone. */
int unpack_bytes(const void *bytes, size_t length, size_t most, struct buffer *out,
                 struct error *err);

#endif
