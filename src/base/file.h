/* Whole files and folders. */
#ifndef BASE_FILE_H
#define BASE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct buffer;
struct error;

/* Append the whole file to *buffer.  Fails with NOT_FOUND, TOO_LARGE (more than size_max) or OS. */
int file_read(const char *path, size_t size_max, struct buffer *buffer, struct error *err);

/*
 * Replace `path` so that after a crash it holds either the old content or the new: written beside
 * it, fsync, rename, fsync of the folder.  Fails with FULL, DENIED or OS and leaves nothing behind.
 */
int file_write(const char *path, const void *bytes, size_t length, mode_t mode, struct error *err);

/* write(2) until all is written.  Returns 0 or -1 with errno. */
int file_write_all(int fd, const void *bytes, size_t length);

/* mkdir -p.  The folders it makes get `mode`; those that exist are left as they are. */
int file_make_folder(const char *path, mode_t mode, struct error *err);

/* rm -rf, without following symbolic links.  Missing is success. */
int file_remove_tree(const char *path, struct error *err);

bool file_exists(const char *path);

/* What large files (volumes, images, uploads) leave free beside them: a full disk stops the
 * daemon's own state as well. */
#define FILE_RESERVE_BYTES (UINT64_C(128) << 20)

/* FULL, saying what to do: of the file system that holds `folder` less than that is free.  What
 * cannot be asked counts as enough. */
int file_check_room(const char *folder, struct error *err);
/* What is free beside that; UINT64_MAX: it cannot be asked. */
uint64_t file_room(const char *folder);

/*
 * The path of program `name` in $PATH, or where a system keeps what root runs (which Debian leaves
 * out of the others' PATH: mke2fs works for everybody), as memory the caller frees, or NULL.
 */
char *file_find_program(const char *name);

/* The same of a program that comes with this one: beside it, as it was built, in
 * ../libexec/blixard, as it was installed, or in $PATH. */
char *file_find_companion(const char *name);

#endif
