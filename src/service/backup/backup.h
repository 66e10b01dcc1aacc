/*
 * Backups: the state and the modules it names, at one moment, while the node runs.
 *
 * A backup is a tar file that standard tools read:
 *
 *     manifest.json   format, version of Blixard, index of the state, when it was taken
 *     state.sqlite    the state, a SQLite database
 *     blobs/DIGEST    each uploaded module, named by its SHA-256
 *     SHA256SUMS      of all before it, as sha256sum(1) writes and checks them; a file without it
 * is cut
 *
 * Native images are not in it: they are made again from the modules.
 */
#ifndef SERVICE_BACKUP_BACKUP_H
#define SERVICE_BACKUP_BACKUP_H

#include <stdint.h>

struct backup_writer;
struct buffer;
struct error;
struct image_store;
struct loop;
struct store;

/* The modules that the state names and that are not on this node: other nodes have them.  The
 * store's loop thread. */
int backup_missing_each(struct store *store, struct image_store *images,
                        void (*visit)(const char *module, void *context), void *context,
                        struct error *err);

/*
 * Take the state as it is now, and hold the modules it names, so that deleting a function meanwhile
 * does no harm.  The store's loop thread.  CORRUPT when a module is missing on this node.
 */
int backup_writer_new(struct store *store, struct image_store *images,
                      struct backup_writer **ret_writer, struct error *err);

/* Append the next piece (about a megabyte) to *out.  Returns 1 while there is more, 0 at the end.
 * One thread at a time, any. */
int backup_writer_step(struct backup_writer *writer, struct buffer *out, struct error *err);
void backup_writer_free(struct backup_writer *writer);

struct backup_info {
    uint64_t index; /* of the state that was saved */
    uint64_t blobs;
    uint64_t bytes; /* of the state and the blobs */
    char created_at[40];
    char version[40]; /* of the Blixard that took it */
};

/*
 * Make a data folder out of a backup.  The folder must not exist, or be empty; it appears whole or
 * not at all.  Blocks by running the loop.  Fails with EXISTS, INVALID (no backup), CORRUPT (what
 * is damaged or missing), UNSUPPORTED (of a newer Blixard), FULL, OS.
 */
int backup_restore(struct loop *loop, const char *path, const char *data_folder,
                   struct backup_info *ret_info, struct error *err);

#endif
