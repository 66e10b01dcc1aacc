/* Private to the room: the data folder's lock, its format, and what was acknowledged. */
#ifndef ENGINE_STORE_FOLDER_H
#define ENGINE_STORE_FOLDER_H

#include <stdbool.h>
#include <stdint.h>

struct error;

struct folder {
    int lock_fd;
    int mark_fd;
    uint64_t node_id;
    uint64_t marked;     /* index that is known to have been acknowledged */
    uint64_t mark_count; /* marks written; says which slot is next */
    char *path;
};

/*
 * Lock FOLDER/lock, read or make FOLDER/format and FOLDER/acknowledged, look whether the log's
 * files are ones that libraft can be given.  A new one gets `new_node_id` (0: a random one), or is
 * CORRUPT when it must exist.  EXISTS names the other process, CORRUPT the file.
 */
int folder_open(const char *path, uint64_t new_node_id, bool must_exist, struct folder *ret_folder,
                struct error *err);

/* Remove libraft's files, and what was marked of them: this node keeps no log any more. */
int folder_drop_log(struct folder *folder, struct error *err);

/* Begin a log anew, under an id that never was a server's. */
int folder_renew(struct folder *folder, uint64_t node_id, struct error *err);

/*
 * Write durably that `index` was acknowledged, so that a log which lost it is noticed at the next
 * start.  Any thread, one at a time.
 */
int folder_mark(struct folder *folder, uint64_t index, struct error *err);
void folder_close(struct folder *folder);

/*
 * Whether each batch of an open segment (a file of libraft) lies inside the file.  A file that ends
 * inside a batch makes libraft 0.15 free memory twice.  CORRUPT names the file.
 */
int segment_check(const char *path, struct error *err);

#endif
