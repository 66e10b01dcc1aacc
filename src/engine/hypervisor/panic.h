/*
 * Inside engine/hypervisor: what a kernel that panics says of it on its console,
 *
 *   Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)
 *
 * (panic(), kernel/panic.c of Linux).  The log of a console goes on over many boots, and a second
 * file takes the place of one that is full: a mark tells where a boot begins in it.
 */
#ifndef ENGINE_HYPERVISOR_PANIC_H
#define ENGINE_HYPERVISOR_PANIC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { PANIC_SIZE = 160 };

struct panic_mark {
    uint64_t inode; /* of the log then; 0: the whole log counts */
    uint64_t bytes; /* that it had */
};

/* Where the log of the machine in `folder` ends now. */
struct panic_mark panic_mark_now(const char *folder);

/* Whether a kernel has panicked since; of what, printable and perhaps "".  Reads the last 64 KiB of
 * each log at most; blocks as reading a file does. */
bool panic_since(const char *folder, const struct panic_mark *mark, char ret_why[PANIC_SIZE]);

#endif
