/* Private to the room: the data folder's lock, its format, and what was known at the last end. */
#ifndef ENGINE_STORE_FOLDER_H
#define ENGINE_STORE_FOLDER_H

#include <stdint.h>

struct error;

struct folder {
    int lock_fd;
    uint64_t node_id;
    uint64_t last_index; /* of the log at the last orderly end; 0: unknown */
    char *path;
};

/* Lock FOLDER/lock, read or make FOLDER/format.  EXISTS names the other process. */
int folder_open(const char *path, struct folder *ret_folder, struct error *err);

/* The log index at an orderly end, so that a log that lost its tail is noticed at the next start.
 */
int folder_note_end(struct folder *folder, uint64_t last_index, struct error *err);
void folder_close(struct folder *folder);

#endif
