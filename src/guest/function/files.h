/*
 * The file system inside a function: `/`, read-only, from the module's assets; `/tmp`, in memory,
 * private and as new at each request, as all memory is.
 *
 * A *node* is a number: below TMP_NODE it counts the archive's nodes (engine/vmm/assets.h; 0 is
 * the root, also when there is no archive), TMP_NODE is the folder /tmp, and what is above lies in
 * the files' memory, which grows by whole blocks and has a limit.
 *
 * This is pure: what it needs of the world are the two functions at the end.  Results are error
 * numbers of WASI.
 */
#ifndef GUEST_FUNCTION_FILES_H
#define GUEST_FUNCTION_FILES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "wasi_types.h"

struct assets_head;

#define NODE_NONE UINT32_MAX
#define ROOT_NODE 0u
#define TMP_NODE  0x10000u

enum {
    NAME_MAX_BYTES = 255,
    PATH_MAX_BYTES = 4096,
    BLOCK_BYTES = 4096,
};

/* Files reach to here: what three levels of blocks can say. */
#define FILE_BYTES_MAX (UINT64_C(1) << 32)

struct file_status {
    uint64_t device;
    uint64_t number;
    uint64_t links;
    uint64_t size;
    uint64_t accessed_ns;
    uint64_t modified_ns;
    uint64_t changed_ns;
    uint8_t kind; /* WASI_KIND_* */
};

/* Begin with the archive (or NULL) and memory at `memory`, of which nothing is provided yet. */
void files_begin(const struct assets_head *assets, uint8_t *memory);

/* ---- nodes: node.c ---- */

uint8_t node_kind(uint32_t node);
bool node_is_fixed(uint32_t node); /* an asset: nothing of it changes */
void node_status(uint32_t node, struct file_status *ret_status);
uint32_t node_set_times(uint32_t node, uint64_t accessed_ns, uint64_t modified_ns);

/* A descriptor stands for it: it lives on without a name. */
void node_hold(uint32_t node);
void node_release(uint32_t node);

/* ---- content: content.c; of WASI_KIND_FILE ---- */

/* Up to the end of the file. */
size_t content_read(uint32_t node, uint64_t offset, void *bytes, size_t length);

/* *ret_written may be less than `length` when memory ends. */
uint32_t content_write(uint32_t node, uint64_t offset, const void *bytes, size_t length,
                       size_t *ret_written);
uint32_t content_resize(uint32_t node, uint64_t size);
uint32_t content_allocate(uint32_t node, uint64_t offset, uint64_t length);

/* A symbolic link's target; the node's. */
const char *link_target(uint32_t node, size_t *ret_length);

/* ---- folders: folder.c ---- */

struct name {
    const char *bytes;
    size_t length; /* 1 to NAME_MAX_BYTES; not "." nor "..", no '/' */
};

uint32_t folder_find(uint32_t folder, struct name name); /* NODE_NONE: there is none */

/* The folder of a folder; the root's is itself. */
uint32_t folder_parent(uint32_t folder);
bool folder_is_empty(uint32_t folder);

struct folder_entry {
    struct name name;
    uint32_t node;
    uint64_t cookie_after;
};

/* The first entry at or behind `cookie` (0: from the start; "." and ".." come first). */
bool folder_next(uint32_t folder, uint64_t cookie, struct folder_entry *ret_entry);

/* A new file, folder or (with `target`) symbolic link.  The name is free. */
uint32_t folder_make(uint32_t folder, struct name name, uint8_t kind, uint32_t *ret_node);
uint32_t folder_make_link(uint32_t folder, struct name name, const char *target, size_t length);

/* One more name for a node, which is no folder. */
uint32_t folder_add(uint32_t folder, struct name name, uint32_t node);

/* Take a name away; a folder is empty by then. */
void folder_remove(uint32_t folder, struct name name);

/* Give a node another name, in the place of what had it.  Kinds and circles were checked. */
uint32_t folder_move(uint32_t from, struct name old_name, uint32_t to, struct name new_name);

/* ---- what the surroundings provide ---- */

/* Are the first `bytes` of the files' memory there now, zero where they are new? */
bool files_provide(uint64_t bytes);
uint64_t files_now_ns(void); /* real time */
void files_host_close(uint32_t handle);

#endif
