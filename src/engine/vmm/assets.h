/*
 * The files that a function carries with it: an archive behind its text, mounted at `/`.
 *
 *     head       struct assets_head
 *     nodes      struct assets_node, the first one the root; breadth first: the nodes in a folder
 *                stand together, in the order of their names' bytes, and folders' contents stand in
 *                the order of the folders
 *     names      one behind the other, without NULs
 *     contents   of the files, each at a multiple of 16
 *
 * Numbers are little-endian, places count from the head.  The archive is checked by engine/wasm
 * before anything is linked with it; the guest trusts it.
 */
#ifndef ENGINE_VMM_ASSETS_H
#define ENGINE_VMM_ASSETS_H

#include <stdint.h>

#define ASSETS_MAGIC 0x31415842 /* "BXA1" */

enum { ASSETS_FOLDER = 3, ASSETS_FILE = 4 }; /* as WASI numbers file types */

enum {
    ASSETS_NODES_MAX = 65536,
    ASSETS_NAME_MAX = 255,
    ASSETS_DEPTH_MAX = 32,
    ASSETS_ALIGNMENT = 16,
};

struct assets_head {
    uint32_t magic;
    uint32_t node_count; /* 0: there are no assets */
    uint32_t names_bytes;
    uint32_t zero;
    uint64_t total_bytes;
    uint64_t zero_too;
};

struct assets_node {
    uint32_t name_at; /* in the names */
    uint16_t name_length;
    uint8_t kind; /* ASSETS_* */
    uint8_t zero;
    uint32_t first; /* FOLDER: number of its first node, and how many there are */
    uint32_t count;
    uint64_t at; /* FILE: its content */
    uint64_t length;
};

_Static_assert(sizeof(struct assets_head) == 32 && sizeof(struct assets_node) == 32, "no holes");

#endif
