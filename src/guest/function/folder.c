/*
 * Names.  A folder's entries are a list in the order they were made (so that reading a folder goes
 * on rightly while it changes); all names in memory are in one hash table too.
 */
#include <string.h>

#include "engine/vmm/assets.h"

#include "files_memory.h"

enum { COOKIE_SELF = 0, COOKIE_PARENT = 1, COOKIE_FIRST = 2 };

static const struct name tmp_name = {"tmp", 3};

/* ---- Assets ---- */

static const struct assets_node *asset_at(uint32_t node)
{
    return (const struct assets_node *)(files.assets + 1) + node;
}

static struct name asset_name(uint32_t node)
{
    const char *names = (const char *)asset_at(files.assets->node_count);
    return (struct name){names + asset_at(node)->name_at, asset_at(node)->name_length};
}

static uint32_t asset_count(uint32_t folder)
{
    return files.assets != NULL ? asset_at(folder)->count : 0;
}

static int compare(struct name a, struct name b)
{
    size_t common = a.length < b.length ? a.length : b.length;
    int order = memcmp(a.bytes, b.bytes, common);
    return order != 0 ? order : (a.length > b.length) - (a.length < b.length);
}

static uint32_t asset_find(uint32_t folder, struct name name)
{
    uint32_t count = asset_count(folder);
    uint32_t low = count > 0 ? asset_at(folder)->first : 0;
    uint32_t high = low + count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        int order = compare(asset_name(middle), name);
        if (order == 0) {
            return middle;
        }
        if (order < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return folder == ROOT_NODE && compare(name, tmp_name) == 0 ? TMP_NODE : NODE_NONE;
}

static uint32_t asset_parent(uint32_t folder)
{
    for (uint32_t i = folder; i-- > 0;) {
        const struct assets_node *other = asset_at(i);
        if (other->kind == ASSETS_FOLDER && folder >= other->first &&
            folder - other->first < other->count) {
            return i;
        }
    }
    return ROOT_NODE;
}

static bool asset_next(uint32_t folder, uint64_t cookie, struct folder_entry *ret_entry)
{
    uint32_t count = asset_count(folder);
    uint64_t index = cookie - COOKIE_FIRST;
    if (index < count) {
        ret_entry->node = asset_at(folder)->first + (uint32_t)index;
        ret_entry->name = asset_name(ret_entry->node);
    } else if (folder == ROOT_NODE && index == count) {
        ret_entry->node = TMP_NODE;
        ret_entry->name = tmp_name;
    } else {
        return false;
    }
    ret_entry->cookie_after = cookie + 1;
    return true;
}

/* ---- The hash table ---- */

static struct entry *entry_at(uint32_t unit)
{
    return unit_at(unit);
}

static struct name entry_name(const struct entry *entry)
{
    return (struct name){entry->name, entry->length};
}

static uint32_t entry_units(size_t name_length)
{
    return (uint32_t)((offsetof(struct entry, name) + name_length + UNIT_BYTES - 1) / UNIT_BYTES);
}

/* FNV-1a; NULL while there is no name at all. */
static uint32_t *bucket_of(uint32_t folder, struct name name)
{
    uint32_t hash = 2166136261u ^ folder;
    for (size_t i = 0; i < name.length; i++) {
        hash = (hash ^ (uint8_t)name.bytes[i]) * 16777619u;
    }
    hash ^= hash >> 15;
    return files.buckets != 0 ? (uint32_t *)block_at(files.buckets) + hash % BUCKETS : NULL;
}

static uint32_t entry_find(uint32_t folder, struct name name)
{
    const uint32_t *bucket = bucket_of(folder, name);
    uint32_t unit = bucket != NULL ? *bucket : 0;
    while (unit != 0) {
        const struct entry *entry = entry_at(unit);
        if (entry->folder == folder && compare(entry_name(entry), name) == 0) {
            break;
        }
        unit = entry->chain;
    }
    return unit;
}

static void unchain(uint32_t unit)
{
    const struct entry *entry = entry_at(unit);
    uint32_t *link = bucket_of(entry->folder, entry_name(entry));
    while (*link != unit) {
        link = &entry_at(*link)->chain;
    }
    *link = entry->chain;
}

/* ---- Looking ---- */

uint32_t folder_find(uint32_t folder, struct name name)
{
    if (folder < TMP_NODE) {
        return asset_find(folder, name);
    }
    uint32_t unit = entry_find(folder, name);
    return unit != 0 ? entry_at(unit)->node : NODE_NONE;
}

uint32_t folder_parent(uint32_t folder)
{
    if (folder == ROOT_NODE) {
        return ROOT_NODE;
    }
    return folder < TMP_NODE ? asset_parent(folder) : file_at(folder)->parent;
}

bool folder_is_empty(uint32_t folder)
{
    return folder >= TMP_NODE && file_at(folder)->folder.count == 0;
}

static bool memory_next(uint32_t folder, uint64_t cookie, struct folder_entry *ret_entry)
{
    uint32_t unit = file_at(folder)->folder.first;
    while (unit != 0 && entry_at(unit)->cookie < cookie) {
        unit = entry_at(unit)->next;
    }
    if (unit == 0) {
        return false;
    }
    const struct entry *entry = entry_at(unit);
    *ret_entry = (struct folder_entry){.name = entry_name(entry),
                                       .node = entry->node,
                                       .cookie_after = (uint64_t)entry->cookie + 1};
    return true;
}

bool folder_next(uint32_t folder, uint64_t cookie, struct folder_entry *ret_entry)
{
    static const char dots[] = "..";
    if (cookie <= COOKIE_PARENT) {
        *ret_entry = (struct folder_entry){
            .name = {dots, (size_t)cookie + 1},
            .node = cookie == COOKIE_SELF ? folder : folder_parent(folder),
            .cookie_after = cookie + 1,
        };
        return true;
    }
    return folder < TMP_NODE ? asset_next(folder, cookie, ret_entry)
                             : memory_next(folder, cookie, ret_entry);
}

/* ---- Changing ---- */

static void note_change(struct file *folder)
{
    folder->modified_ns = folder->changed_ns = files_now_ns();
}

/* Nothing changes but what is in memory, and not in a folder that is gone. */
static uint32_t check_folder(uint32_t folder)
{
    if (node_is_fixed(folder)) {
        return WASI_EROFS;
    }
    return file_at(folder)->is_gone ? WASI_ENOENT : WASI_OK;
}

/* A name for a node: memory is taken before anything changes. */
static uint32_t entry_make(uint32_t folder, struct name name, uint32_t node)
{
    if (files.buckets == 0) {
        files.buckets = block_take();
    }
    uint32_t unit = files.buckets != 0 ? units_take(entry_units(name.length)) : 0;
    if (unit == 0) {
        return WASI_ENOSPC;
    }
    struct entry *entry = entry_at(unit);
    struct file *file = file_at(folder);
    uint32_t *bucket = bucket_of(folder, name);
    file->folder.cookie =
        file->folder.cookie < COOKIE_FIRST ? COOKIE_FIRST : file->folder.cookie + 1;
    *entry = (struct entry){.node = node,
                            .folder = folder,
                            .before = file->folder.last,
                            .chain = *bucket,
                            .cookie = file->folder.cookie,
                            .length = (uint16_t)name.length};
    memcpy(entry->name, name.bytes, name.length);
    *bucket = unit;
    if (file->folder.last != 0) {
        entry_at(file->folder.last)->next = unit;
    } else {
        file->folder.first = unit;
    }
    file->folder.last = unit;
    file->folder.count++;
    note_change(file);
    return WASI_OK;
}

static void entry_end(uint32_t unit)
{
    struct entry *entry = entry_at(unit);
    struct file *file = file_at(entry->folder);
    unchain(unit);
    if (entry->before != 0) {
        entry_at(entry->before)->next = entry->next;
    } else {
        file->folder.first = entry->next;
    }
    if (entry->next != 0) {
        entry_at(entry->next)->before = entry->before;
    } else {
        file->folder.last = entry->before;
    }
    file->folder.count--;
    note_change(file);
    units_give(unit, entry_units(entry->length));
}

uint32_t folder_make(uint32_t folder, struct name name, uint8_t kind, uint32_t *ret_node)
{
    uint32_t error = check_folder(folder);
    if (error != WASI_OK) {
        return error;
    }
    uint32_t unit = units_take(2);
    if (unit == 0) {
        return WASI_ENOSPC;
    }
    uint32_t node = TMP_NODE + unit;
    error = entry_make(folder, name, node);
    if (error != WASI_OK) {
        units_give(unit, 2);
        return error;
    }
    struct file *file = file_at(node);
    uint64_t now_ns = files_now_ns();
    file->kind = kind;
    file->links = kind == WASI_KIND_FOLDER ? 2 : 1;
    file->parent = folder;
    file->accessed_ns = file->modified_ns = file->changed_ns = now_ns;
    file_at(folder)->links += kind == WASI_KIND_FOLDER;
    *ret_node = node;
    return WASI_OK;
}

uint32_t folder_make_link(uint32_t folder, struct name name, const char *target, size_t length)
{
    uint32_t node = NODE_NONE;
    size_t written = 0;
    if (length > BLOCK_BYTES) {
        return WASI_ENAMETOOLONG;
    }
    uint32_t error = folder_make(folder, name, WASI_KIND_LINK, &node);
    if (error != WASI_OK) {
        return error;
    }
    error = content_write(node, 0, target, length, &written);
    if (error != WASI_OK) {
        folder_remove(folder, name);
    }
    return error;
}

uint32_t folder_add(uint32_t folder, struct name name, uint32_t node)
{
    uint32_t error = check_folder(folder);
    if (error == WASI_OK) {
        error = entry_make(folder, name, node);
    }
    if (error == WASI_OK) {
        file_at(node)->links++;
        file_at(node)->changed_ns = files_now_ns();
    }
    return error;
}

/* A node has one name less; without any, and not held, its memory goes. */
static void lose_name(uint32_t node, uint32_t folder)
{
    struct file *file = file_at(node);
    if (file->kind == WASI_KIND_FOLDER) {
        file_at(folder)->links--;
        file->links = 0;
        file->parent = ROOT_NODE; /* that folder may end before this one, which may be held */
    } else {
        file->links--;
    }
    file->changed_ns = files_now_ns();
    if (file->links == 0) {
        file->is_gone = 1;
        node_hold(node);
        node_release(node);
    }
}

void folder_remove(uint32_t folder, struct name name)
{
    uint32_t unit = entry_find(folder, name);
    uint32_t node = entry_at(unit)->node;
    entry_end(unit);
    lose_name(node, folder);
}

uint32_t folder_move(uint32_t from, struct name old_name, uint32_t to, struct name new_name)
{
    uint32_t unit = entry_find(from, old_name);
    uint32_t node = entry_at(unit)->node;
    uint32_t replaced = folder_find(to, new_name);
    uint32_t error = check_folder(to);
    if (error != WASI_OK || replaced == node) {
        return error;
    }
    if (replaced != NODE_NONE) {
        entry_at(entry_find(to, new_name))->node = node;
        note_change(file_at(to));
    } else {
        error = entry_make(to, new_name, node);
        if (error != WASI_OK) {
            return error;
        }
    }
    entry_end(unit);
    struct file *file = file_at(node);
    if (file->kind == WASI_KIND_FOLDER) {
        file_at(from)->links--;
        file_at(to)->links++;
        file->parent = to;
    }
    file->changed_ns = files_now_ns();
    if (replaced != NODE_NONE) {
        lose_name(replaced, to);
    }
    return WASI_OK;
}
