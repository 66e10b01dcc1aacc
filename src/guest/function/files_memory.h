/* The files' memory: blocks, and pieces of blocks for nodes and names.  Private to files*.c. */
#ifndef GUEST_FUNCTION_FILES_MEMORY_H
#define GUEST_FUNCTION_FILES_MEMORY_H

#include "files.h"

enum {
    UNIT_BYTES = 64,
    UNITS_PER_BLOCK = BLOCK_BYTES / UNIT_BYTES,
    UNITS_MAX = 5, /* the largest piece: an entry with a name of 255 bytes */
    DIRECT_BLOCKS = 10,
    NUMBERS_PER_BLOCK = BLOCK_BYTES / 4,
    BUCKETS = NUMBERS_PER_BLOCK,
};

/* A node.  Block and unit numbers of 0 mean none: the first block is never given out. */
struct file {
    uint8_t kind;
    uint8_t is_gone; /* no name is left */
    uint16_t zero;
    uint32_t links;
    uint32_t holds;
    uint32_t parent; /* of a folder: a node */
    uint64_t size;
    uint64_t accessed_ns;
    uint64_t modified_ns;
    uint64_t changed_ns;
    union {
        struct {
            uint32_t direct[DIRECT_BLOCKS];
            uint32_t indirect; /* a block of block numbers */
            uint32_t double_indirect;
        } content;
        struct {
            uint32_t first; /* entries, as units */
            uint32_t last;
            uint32_t count;
            uint32_t folders; /* among them */
            uint32_t cookie;  /* of the last entry that was made */
        } folder;
    };
};
_Static_assert(sizeof(struct file) <= 2 * UNIT_BYTES, "a piece of two units");

/* A name in a folder. */
struct entry {
    uint32_t node;
    uint32_t folder;
    uint32_t next; /* in the folder, by cookie */
    uint32_t before;
    uint32_t chain; /* in the bucket of its hash */
    uint32_t cookie;
    uint16_t length;
    char name[];
};

struct files {
    const struct assets_head *assets;
    uint8_t *memory;
    uint64_t provided;   /* bytes */
    uint32_t blocks;     /* given out ever, from block 1 on */
    uint32_t free_block; /* a list through their first words */
    uint32_t buckets;    /* a block of entries, by hash; 0: there is no name yet */
    uint32_t unit_at;    /* where the next piece comes from, and how much is left there */
    uint32_t units_left;
    uint32_t free_units[UNITS_MAX + 1]; /* lists of pieces, by length */
};

extern struct files files;
extern struct file files_tmp; /* TMP_NODE: there is one without any memory */

/* Zeroed; 0: memory has ended. */
uint32_t block_take(void);
void block_give(uint32_t block);

/* `count` units, zeroed; 0: memory has ended. */
uint32_t units_take(uint32_t count);
void units_give(uint32_t unit, uint32_t count);

static inline uint8_t *block_at(uint32_t block)
{
    return files.memory + (uint64_t)block * BLOCK_BYTES;
}

static inline void *unit_at(uint32_t unit)
{
    return files.memory + (uint64_t)unit * UNIT_BYTES;
}

/* Of a node in memory. */
static inline struct file *file_at(uint32_t node)
{
    return node == TMP_NODE ? &files_tmp : unit_at(node - TMP_NODE);
}

/* Everything that a file or link keeps goes back. */
void content_free(struct file *file);

#endif
