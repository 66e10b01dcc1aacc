/*
 * Content-addressed blobs: modules, native images, kernels and root file systems on this node's
 * disk.
 *
 * Layout: FOLDER/ab/abcdef... (the name is the SHA-256 of the content, the folder its first two
 * digits).  A blob appears whole or not at all (written beside, fsync, renamed) and never changes.
 * Any thread.
 */
#ifndef ENGINE_IMAGE_IMAGE_H
#define ENGINE_IMAGE_IMAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/hash.h"

struct buffer;
struct error;
struct image_store;

/* Open (making) the folder, and remove what interrupted writers left.  End with
 * image_store_close(). */
int image_store_open(const char *folder, struct image_store **ret_store, struct error *err);
/* The same of a folder that other processes write into at the same time: what they have begun stays
 * for a day. */
int image_store_open_shared(const char *folder, struct image_store **ret_store, struct error *err);
void image_store_close(struct image_store *store);

/* Store bytes; storing what is there already is success.  ret_id is the hex digest. */
int image_put(struct image_store *store, const void *bytes, size_t length,
              char ret_id[HASH_TEXT_SIZE], struct error *err);

/* Store in pieces (an upload).  finish or abort ends the writer.  FULL: one of some megabytes and
 * more leaves FILE_RESERVE_BYTES (base/file.h) free. */
struct image_writer;
int image_writer_new(struct image_store *store, struct image_writer **ret_writer,
                     struct error *err);
int image_writer_add(struct image_writer *writer, const void *bytes, size_t length,
                     struct error *err);
/* Only this content: finish fails with CORRUPT, and keeps nothing, when it is another. */
void image_writer_expect(struct image_writer *writer, const char *id);
int image_writer_finish(struct image_writer *owned_writer, char ret_id[HASH_TEXT_SIZE],
                        uint64_t *ret_size_bytes, struct error *err);
void image_writer_abort(struct image_writer *owned_writer);

/*
 * Store the blob `id`, which comes from elsewhere: what an earlier writer had of it when it was
 * suspended (also before a restart, for a day) is kept, *ret_have bytes of it.  One writer at a
 * time per id.  Reads what there is: not for a loop's thread.  Its finish fails with CORRUPT, and
 * keeps nothing, when the content is not the one of that name.
 */
int image_writer_resume(struct image_store *store, const char *id, struct image_writer **ret_writer,
                        uint64_t *ret_have, struct error *err);
void image_writer_suspend(struct image_writer *owned_writer);

/* Where a blob is, for programs that want a path; the caller's.  It may be missing. */
char *image_path(struct image_store *store, const char *id);

/* Open read-only; the fd is the caller's.  Fails with NOT_FOUND, INVALID (no digest) or OS. */
int image_open(struct image_store *store, const char *id, int *ret_fd, uint64_t *ret_size_bytes,
               struct error *err);

/* Read whole, and compare with its name: CORRUPT, naming the file, when it was damaged. */
int image_read(struct image_store *store, const char *id, size_t size_max, struct buffer *buffer,
               struct error *err);

/*
 * Is its content what its name says?  Read whole the first time after the store was opened, and
 * when its file has changed since (size, times, inode); what this process has written itself, or
 * read so, is good.  CORRUPT: it was damaged, and is put aside as ID.damaged, so that it may be
 * stored or fetched again; NOT_FOUND, INVALID, OS.  Blocks.
 */
int image_verify(struct image_store *store, const char *id, struct error *err);

/* The same, but always read, from the disk and not from what the host remembers of it. */
int image_verify_again(struct image_store *store, const char *id, uint64_t *ret_size_bytes,
                       struct error *err);
/* Was it put aside, and has not come anew? */
bool image_is_put_aside(struct image_store *store, const char *id);

/* Is it the name of a blob: 64 digits? */
bool image_id_is_good(const char *id);
bool image_exists(struct image_store *store, const char *id);
int image_remove(struct image_store *store, const char *id, struct error *err);

/* Visit every blob; stops early when visit returns false. */
int image_each(struct image_store *store,
               bool (*visit)(const char *id, uint64_t size_bytes, void *context), void *context,
               struct error *err);

#endif
