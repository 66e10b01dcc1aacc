/*
 * Blocks and pieces of blocks.  Memory is asked for in growing steps; what was given back is zeroed
 * when it is taken again, for new memory is zero already.
 */
#include "files_memory.h"

#include <string.h>

struct files files;
struct file files_tmp = {.kind = WASI_KIND_FOLDER, .links = 2, .parent = ROOT_NODE};

enum { STEP_BYTES = 64 << 10 };

void files_begin(const struct assets_head *assets, uint8_t *memory)
{
    files = (struct files){.assets = assets};
    files.memory = memory;
    files_tmp = (struct file){.kind = WASI_KIND_FOLDER, .links = 2, .parent = ROOT_NODE};
}

/* As much again as there is, or, near the limit, no more than is needed. */
static bool provide(uint64_t bytes)
{
    uint64_t wanted = files.provided < STEP_BYTES ? STEP_BYTES : files.provided * 2;
    if (bytes <= files.provided) {
        return true;
    }
    if (wanted < bytes || !files_provide(wanted)) {
        wanted = (bytes + STEP_BYTES - 1) / STEP_BYTES * STEP_BYTES;
        if (!files_provide(wanted)) {
            return false;
        }
    }
    files.provided = wanted;
    return true;
}

uint32_t block_take(void)
{
    uint32_t block = files.free_block;
    if (block != 0) {
        memcpy(&files.free_block, block_at(block), sizeof(files.free_block));
        memset(block_at(block), 0, BLOCK_BYTES);
        return block;
    }
    block = files.blocks + 1;
    if (!provide((uint64_t)(block + 1) * BLOCK_BYTES)) {
        return 0;
    }
    files.blocks = block;
    return block;
}

void block_give(uint32_t block)
{
    memcpy(block_at(block), &files.free_block, sizeof(files.free_block));
    files.free_block = block;
}

uint32_t units_take(uint32_t count)
{
    uint32_t unit = files.free_units[count];
    if (unit != 0) {
        memcpy(&files.free_units[count], unit_at(unit), sizeof(unit));
        memset(unit_at(unit), 0, (size_t)count * UNIT_BYTES);
        return unit;
    }
    if (files.units_left < count) {
        uint32_t block = block_take();
        if (block == 0) {
            return 0;
        }
        if (files.units_left > 0) {
            units_give(files.unit_at, files.units_left);
        }
        files.unit_at = block * UNITS_PER_BLOCK;
        files.units_left = UNITS_PER_BLOCK;
    }
    unit = files.unit_at;
    files.unit_at += count;
    files.units_left -= count;
    return unit;
}

void units_give(uint32_t unit, uint32_t count)
{
    memcpy(unit_at(unit), &files.free_units[count], sizeof(unit));
    files.free_units[count] = unit;
}
