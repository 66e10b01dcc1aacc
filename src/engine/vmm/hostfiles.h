/*
 * What a guest asks of folders of the host (hostcall.h; only `blixard fn run` answers): operations
 * HOSTCALL_FILES + ..., with one part of numbers (u64 each), then up to two parts of bytes.
 *
 * The reply's status is 0 or an error of WASI, negative.  Handles are the host's numbers of what is
 * open; each descriptor of the guest has one of its own.
 */
#ifndef ENGINE_VMM_HOSTFILES_H
#define ENGINE_VMM_HOSTFILES_H

#include "engine/vmm/hostcall.h"

/* HOSTFILES(name, numbers): how many numbers.  h: handle. */
#define HOSTFILES_TABLE(HOSTFILES)                                                               \
    HOSTFILES(PREOPEN, 1)        /* index -> number: h; bytes: the guest's path for it */        \
    HOSTFILES(OPEN, 4)           /* h, follows, WASI_OPEN_*, 1 reads | 2 writes; */              \
                                 /* path -> number: h | kind << 32 */                            \
    HOSTFILES(CLOSE, 1)          /* h */                                                         \
    HOSTFILES(READ, 3)           /* h, offset, length -> bytes */                                \
    HOSTFILES(WRITE, 3)          /* h, offset, WASI_FLAG_* (APPEND: not at the offset, but at */ \
                                 /* the end); bytes -> number: written */                        \
    HOSTFILES(STATUS, 1)         /* h -> bytes: WASI's filestat */                               \
    HOSTFILES(PATH_STATUS, 2)    /* h, follows; path -> bytes: WASI's filestat */                \
    HOSTFILES(SET_SIZE, 2)       /* h, bytes */                                                  \
    HOSTFILES(SET_TIMES, 4)      /* h, accessed, modified, which */                              \
    HOSTFILES(PATH_SET_TIMES, 5) /* h, follows, accessed, modified, which; path */               \
    HOSTFILES(ALLOCATE, 3)       /* h, offset, length */                                         \
    HOSTFILES(SYNC, 2)           /* h, only data */                                              \
    HOSTFILES(READDIR, 3)        /* h, cookie, room -> bytes: WASI's dirents */                  \
    HOSTFILES(MAKE_FOLDER, 1)    /* h; path */                                                   \
    HOSTFILES(LINK, 3)           /* h, follows, h of the new; path, new path */                  \
    HOSTFILES(SYMLINK, 1)        /* h; path, target */                                           \
    HOSTFILES(READLINK, 1)       /* h; path -> bytes */                                          \
    HOSTFILES(RENAME, 2)         /* h, h of the new; path, new path */                           \
    HOSTFILES(REMOVE_FOLDER, 1)  /* h; path */                                                   \
    HOSTFILES(UNLINK, 1)         /* h; path */

enum hostfiles {
    HOSTFILES_BEFORE = HOSTCALL_FILES - 1,
#define HOSTFILES(name, numbers) HOSTFILES_##name,
    HOSTFILES_TABLE(HOSTFILES)
#undef HOSTFILES
        HOSTFILES_END,
};

enum {
    HOSTFILES_NUMBERS_MAX = 5,
    HOSTFILES_BYTES_MAX = 256 << 10, /* read or written at once */
};

#endif
