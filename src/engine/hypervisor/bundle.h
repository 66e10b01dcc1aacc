/*
 * Several files as one stream: "BLXSTATE", and for each file its name's length (u32,
 * little-endian), the name, its size (u64) and its bytes; a name of no length ends it.
 *
 * Both block.  The folder is a VMM's scratch: what lies in it is not followed, and has to be a
 * plain file.
 */
#ifndef ENGINE_HYPERVISOR_BUNDLE_H
#define ENGINE_HYPERVISOR_BUNDLE_H

#include <stdint.h>

struct error;

/* Write `names` (NULL at the end) from a folder to fd, and remove them there; with holes where
 * there are zeros if fd is an empty file.  CORRUPT: one of them is no plain file; FULL, OS. */
int bundle_write(const char *folder, const char *const *names, int fd, struct error *err);

/* And back, new files that belong to the folder's owner.  CORRUPT: it is not these files, in this
 * order, or ends early. */
int bundle_read(int fd, const char *folder, const char *const *names, struct error *err);

/* Nothing is kept of it: as bundle_read(). */
int bundle_check(int fd, const char *const *names, struct error *err);

/* Into two empty files, with holes where there are zeros: `apart` (NULL: there is none) as it is,
 * the rest as one stream.  All fds are lent.  As bundle_read(). */
int bundle_split(int fd, const char *const *names, const char *apart, int rest_fd, int apart_fd,
                 uint64_t *ret_apart_bytes, struct error *err);

/* They are not wanted any more in that folder. */
void bundle_remove(const char *folder, const char *const *names);

#endif
