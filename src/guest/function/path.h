/*
 * Paths below a folder: found, and what is done by them.
 *
 * A path never leads out of the folder it starts at: ".." above it, absolute paths and links to
 * such are refused with EPERM, more than LINKS_MAX links with ELOOP.
 */
#ifndef GUEST_FUNCTION_PATH_H
#define GUEST_FUNCTION_PATH_H

#include "files.h"

enum { LINKS_MAX = 40, HEIGHT_MAX = 1024 };

/* Where a path leads. */
struct place {
    uint32_t node;   /* NODE_NONE: a name that is free */
    uint32_t folder; /* that has the name; NODE_NONE: the path names no name (".", "a/..") */
    struct name name;
    char name_bytes[NAME_MAX_BYTES];
    bool wants_folder; /* ends with '/' */
};

/* What a link is that comes last. */
enum last_link {
    LAST_LINK_NAMED,    /* a name, which is to be made, moved or removed; "l/" is ENOTDIR */
    LAST_LINK_ASKED,    /* itself, but "l/" is the folder that it leads to */
    LAST_LINK_FOLLOWED, /* what it leads to */
};

/*
 * Find.  Only the last part may be missing.  Fails with ENOENT, ENOTDIR, ELOOP, EPERM,
 * ENAMETOOLONG, EILSEQ (not UTF-8), EINVAL (a NUL).
 */
uint32_t path_find(uint32_t start, const char *path, size_t length, enum last_link last_link,
                   struct place *ret_place);

struct path {
    uint32_t start;
    const char *bytes;
    size_t length;
};

/* As open(2): `flags` are WASI_OPEN_*. */
uint32_t path_open(struct path path, bool follows, uint32_t flags, bool writes, uint32_t *ret_node);
uint32_t path_make_folder(struct path path);
uint32_t path_make_link(const char *target, size_t target_length, struct path path);
uint32_t path_link(struct path from, struct path to);
uint32_t path_rename(struct path from, struct path to);
uint32_t path_remove_folder(struct path path);
uint32_t path_unlink(struct path path);

#endif
