/* Large files with holes: copied as they are, and named by their content.  Blocks; any thread. */
#ifndef SERVICE_MACHINE_SPARSE_H
#define SERVICE_MACHINE_SPARSE_H

#include <stdint.h>
#include <sys/types.h>

#include "base/hash.h"

struct error;

/*
 * Copy `from` to `to`, which is made: sharing its blocks where the file system can
 * (ioctl_ficlone(2)), else what is no hole.  On failure nothing is left.  EXISTS, FULL, OS.
 */
int sparse_copy(const char *from, const char *to, mode_t mode, struct error *err);

/*
 * The SHA-256 of its size and, for each block of SPARSE_BLOCK bytes that is not all zero, of the
 * block's number (u64, little-endian) and its bytes: the same wherever holes are.
 */
enum { SPARSE_BLOCK = 65536 };
int sparse_digest(int fd, char ret_text[HASH_TEXT_SIZE], struct error *err);

/* Bytes that a file takes on disk. */
uint64_t sparse_usage(int fd);

#endif
