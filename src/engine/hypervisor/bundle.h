/*
 * Several files as one stream: "BLXSTATE", and for each file its name's length (u32,
 * little-endian), the name, its size (u64) and its bytes; a name of no length ends it.
 *
 * Both block.  The folder is a VMM's scratch: what lies in it is not followed, and has to be a
 * plain file.
 */
#ifndef ENGINE_HYPERVISOR_BUNDLE_H
#define ENGINE_HYPERVISOR_BUNDLE_H

struct error;

/* Write `names` (NULL at the end) from a folder to fd, and remove them there.  CORRUPT: one of them
 * is no plain file; FULL, OS. */
int bundle_write(const char *folder, const char *const *names, int fd, struct error *err);

/* And back, new files that belong to the folder's owner.  CORRUPT: it is not these files, in this
 * order, or ends early. */
int bundle_read(int fd, const char *folder, const char *const *names, struct error *err);

#endif
