/* What files hold: assets as they lie in the archive, others in blocks, holes where none was
 * written. */
#include <string.h>

#include "engine/vmm/assets.h"

#include "files_memory.h"

static const struct assets_node *asset_at(uint32_t node)
{
    return (const struct assets_node *)(files.assets + 1) + node;
}

/* ---- Where a block is ---- */

static uint32_t *number_at(uint32_t block, uint32_t index)
{
    return (uint32_t *)block_at(block) + index;
}

/* A slot below `*table`, which is made when `makes`; NULL: there is none. */
static uint32_t *below(uint32_t *table, uint32_t index, bool makes)
{
    if (*table == 0 && makes) {
        *table = block_take();
    }
    return *table != 0 ? number_at(*table, index) : NULL;
}

static uint32_t *slot_of(struct file *file, uint64_t number, bool makes)
{
    if (number < DIRECT_BLOCKS) {
        return &file->content.direct[number];
    }
    number -= DIRECT_BLOCKS;
    if (number < NUMBERS_PER_BLOCK) {
        return below(&file->content.indirect, (uint32_t)number, makes);
    }
    number -= NUMBERS_PER_BLOCK;
    uint32_t *table =
        below(&file->content.double_indirect, (uint32_t)(number / NUMBERS_PER_BLOCK), makes);
    return table != NULL ? below(table, number % NUMBERS_PER_BLOCK, makes) : NULL;
}

/* The block's content; NULL: a hole, or, when it is to be made, the end of memory. */
static uint8_t *block_of(struct file *file, uint64_t number, bool makes)
{
    uint32_t *slot = slot_of(file, number, makes);
    if (slot != NULL && *slot == 0 && makes) {
        *slot = block_take();
    }
    return slot != NULL && *slot != 0 ? block_at(*slot) : NULL;
}

/* ---- Reading ---- */

size_t content_read(uint32_t node, uint64_t offset, void *bytes, size_t length)
{
    struct file_status status;
    node_status(node, &status);
    if (offset >= status.size) {
        return 0;
    }
    size_t count = length < status.size - offset ? length : (size_t)(status.size - offset);
    if (node < TMP_NODE) {
        memcpy(bytes, (const uint8_t *)files.assets + asset_at(node)->at + offset, count);
        return count;
    }
    struct file *file = file_at(node);
    for (size_t done = 0; done < count;) {
        size_t at = (size_t)((offset + done) % BLOCK_BYTES);
        size_t part = BLOCK_BYTES - at < count - done ? BLOCK_BYTES - at : count - done;
        const uint8_t *block = block_of(file, (offset + done) / BLOCK_BYTES, false);
        if (block != NULL) {
            memcpy((uint8_t *)bytes + done, block + at, part);
        } else {
            memset((uint8_t *)bytes + done, 0, part);
        }
        done += part;
    }
    return count;
}

/* ---- Writing ---- */

static void note_change(struct file *file)
{
    file->modified_ns = file->changed_ns = files_now_ns();
}

uint32_t content_write(uint32_t node, uint64_t offset, const void *bytes, size_t length,
                       size_t *ret_written)
{
    size_t done = 0;
    *ret_written = 0;
    if (node_is_fixed(node)) {
        return WASI_EROFS;
    }
    if (length == 0) {
        return WASI_OK;
    }
    if (offset >= FILE_BYTES_MAX) {
        return WASI_EFBIG;
    }
    if (length > FILE_BYTES_MAX - offset) {
        length = (size_t)(FILE_BYTES_MAX - offset);
    }
    struct file *file = file_at(node);
    while (done < length) {
        size_t at = (size_t)((offset + done) % BLOCK_BYTES);
        size_t part = BLOCK_BYTES - at < length - done ? BLOCK_BYTES - at : length - done;
        uint8_t *block = block_of(file, (offset + done) / BLOCK_BYTES, true);
        if (block == NULL) {
            break;
        }
        memcpy(block + at, (const uint8_t *)bytes + done, part);
        done += part;
    }
    if (done == 0) {
        return WASI_ENOSPC;
    }
    if (offset + done > file->size) {
        file->size = offset + done;
    }
    note_change(file);
    *ret_written = done;
    return WASI_OK;
}

/* ---- Sizes ---- */

static void give_slot(uint32_t *slot)
{
    if (*slot != 0) {
        block_give(*slot);
        *slot = 0;
    }
}

/* Free what `*table`, whose first block is number `first`, holds from block `from` on. */
static void cut_table(uint32_t *table, uint64_t first, uint64_t from)
{
    if (*table == 0 || from >= first + NUMBERS_PER_BLOCK) {
        return;
    }
    for (uint64_t i = from > first ? from - first : 0; i < NUMBERS_PER_BLOCK; i++) {
        give_slot(number_at(*table, (uint32_t)i));
    }
    if (from <= first) {
        give_slot(table);
    }
}

/* Free all blocks from number `from` on. */
static void cut(struct file *file, uint64_t from)
{
    const uint64_t first = DIRECT_BLOCKS + NUMBERS_PER_BLOCK;
    uint32_t *twice = &file->content.double_indirect;
    for (uint64_t i = from; i < DIRECT_BLOCKS; i++) {
        give_slot(&file->content.direct[i]);
    }
    cut_table(&file->content.indirect, DIRECT_BLOCKS, from);
    if (*twice == 0) {
        return;
    }
    for (uint64_t i = 0; i < NUMBERS_PER_BLOCK; i++) {
        cut_table(number_at(*twice, (uint32_t)i), first + i * NUMBERS_PER_BLOCK, from);
    }
    if (from <= first) {
        give_slot(twice);
    }
}

void content_free(struct file *file)
{
    cut(file, 0);
    file->size = 0;
}

uint32_t content_resize(uint32_t node, uint64_t size)
{
    if (node_is_fixed(node)) {
        return WASI_EROFS;
    }
    if (size > FILE_BYTES_MAX) {
        return size > INT64_MAX ? WASI_EINVAL : WASI_EFBIG;
    }
    struct file *file = file_at(node);
    if (size < file->size) {
        cut(file, (size + BLOCK_BYTES - 1) / BLOCK_BYTES);
        uint8_t *last = size % BLOCK_BYTES != 0 ? block_of(file, size / BLOCK_BYTES, false) : NULL;
        if (last != NULL) {
            memset(last + size % BLOCK_BYTES, 0, BLOCK_BYTES - size % BLOCK_BYTES);
        }
    }
    file->size = size;
    note_change(file);
    return WASI_OK;
}

uint32_t content_allocate(uint32_t node, uint64_t offset, uint64_t length)
{
    if (length == 0) {
        return WASI_EINVAL;
    }
    if (node_is_fixed(node)) {
        return WASI_EROFS;
    }
    if (offset > FILE_BYTES_MAX || length > FILE_BYTES_MAX - offset) {
        return WASI_EFBIG;
    }
    struct file *file = file_at(node);
    for (uint64_t i = offset / BLOCK_BYTES; i <= (offset + length - 1) / BLOCK_BYTES; i++) {
        if (block_of(file, i, true) == NULL) {
            cut(file, (file->size + BLOCK_BYTES - 1) / BLOCK_BYTES); /* others have room still */
            return WASI_ENOSPC;
        }
    }
    if (offset + length > file->size) {
        file->size = offset + length;
        note_change(file);
    }
    return WASI_OK;
}

/* At most one block long. */
const char *link_target(uint32_t node, size_t *ret_length)
{
    struct file *file = file_at(node);
    *ret_length = (size_t)file->size;
    return (const char *)block_at(file->content.direct[0]);
}
