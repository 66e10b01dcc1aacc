/*
 * Folders of this machine for a module that `fn run` runs: WASI's file operations, asked for by the
 * guest (engine/vmm/hostcall.h, from HOSTCALL_FILES on) and done with the rights of the user.
 *
 * Whatever the guest asks, nothing above a folder it was given is reached: the kernel resolves
 * every path with RESOLVE_BENEATH.  Only files, folders and links are opened.
 */
#ifndef SURFACE_CLI_RUN_FOLDERS_H
#define SURFACE_CLI_RUN_FOLDERS_H

#include <stddef.h>
#include <stdint.h>

struct buffer;
struct error;
struct run_folders;

struct run_folders *run_folders_new(void);
void run_folders_free(struct run_folders *folders);

/* "HOST[::GUEST][:ro]".  NOT_FOUND, INVALID. */
int run_folders_add(struct run_folders *folders, const char *text, struct error *err);

uint32_t run_folders_count(const struct run_folders *folders);

/* For vmm_call.host, with the folders as its context. */
int run_folders_answer(const void *request, size_t length, uint64_t deadline_ns,
                       struct buffer *reply, void *folders);

#endif
