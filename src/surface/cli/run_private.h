/* What run_folders.c and run_paths.c share. */
#ifndef SURFACE_CLI_RUN_PRIVATE_H
#define SURFACE_CLI_RUN_PRIVATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"

#include "engine/vmm/hostfiles.h"

enum { HANDLES_MAX = 1024, FOLDERS_MAX = 16, GUEST_PATH_MAX = 255 };

struct handle {
    int fd; /* -1: free */
    bool is_folder;
    bool is_fixed; /* of a folder that was given read-only */
    /* u64 each: where Linux reads on behind the entries read so far.  The guest is told their
     * number, which seekdir() takes: a `long` of 32 bits, too small for places of ext4. */
    struct buffer places;
};

struct run_folders {
    struct handle handles[HANDLES_MAX]; /* the first `count` are what was given */
    char *names[FOLDERS_MAX];
    uint32_t count;
};

struct question {
    uint32_t operation; /* enum hostfiles */
    uint64_t numbers[HOSTFILES_NUMBERS_MAX];
    const char *texts[2];
    uint32_t lengths[2];
};

struct answer_bytes {
    uint64_t number;
    struct buffer *bytes; /* appended to */
};

bool question_read(const void *request, size_t length, struct question *ret_question);

/* The number of a new handle, which owns fd; -1: there are too many. */
int handle_add(struct run_folders *folders, int fd, bool is_folder, bool is_fixed);
const struct handle *handle_of(const struct run_folders *folders, uint64_t number);

/* What follows returns 0 or -errno. */
int hostfiles_status(int fd, struct answer_bytes *answer);
int hostfiles_set_times(int fd, const uint64_t *numbers);

/* Operations with paths, below the folder of `handle`. */
int hostfiles_path(struct run_folders *folders, const struct handle *handle,
                   const struct question *question, struct answer_bytes *answer);

/* errno -> WASI's number, negative. */
int hostfiles_error(int cause);

#endif
