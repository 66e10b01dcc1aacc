/* Packing files into an archive (engine/vmm/assets.h), and telling whether one is whole. */
#include "engine/wasm/assets.h"

#include <inttypes.h>
#include <stdbool.h>
#include <string.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/error.h"
#include "base/map.h"
#include "base/memory.h"
#include "base/text.h"

#include "engine/vmm/abi.h"
#include "engine/vmm/assets.h"
#include "engine/wasm/private.h"

struct item {
    char *path; /* "/www/index.html"; the root's is "" */
    const char *name;
    bool is_folder;
    struct buffer content;
    struct item **items; /* of a folder */
    size_t item_count;
    uint32_t number; /* in the archive */
    uint32_t first;
};

struct wasm_assets {
    struct map items; /* by path */
    struct item *root;
    size_t count;
    size_t file_count;
    uint64_t bytes;
};

/* ---- Packing ---- */

static struct item *item_new(struct wasm_assets *assets, char *owned_path, bool is_folder)
{
    const char *slash = strrchr(owned_path, '/');
    struct item *item = NEW(struct item);
    item->path = owned_path;
    item->name = slash != NULL ? slash + 1 : owned_path;
    item->is_folder = is_folder;
    map_set(&assets->items, owned_path, item);
    assets->count++;
    return item;
}

struct wasm_assets *wasm_assets_new(void)
{
    struct wasm_assets *assets = NEW(struct wasm_assets);
    assets->root = item_new(assets, memory_copy_string(""), true);
    return assets;
}

static void item_free(const char *key, void *value, void *context)
{
    struct item *item = value;
    (void)key;
    (void)context;
    buffer_done(&item->content);
    free(item->items);
    free(item->path);
    free(item);
}

void wasm_assets_free(struct wasm_assets *assets)
{
    if (assets != NULL) {
        map_each(&assets->items, item_free, NULL);
        map_done(&assets->items);
        free(assets);
    }
}

size_t wasm_assets_count(const struct wasm_assets *assets)
{
    return assets->file_count;
}

static bool is_good_name(const char *name, size_t length)
{
    bool is_dots = name[0] == '.' && (length == 1 || (length == 2 && name[1] == '.'));
    return length > 0 && length <= ASSETS_NAME_MAX && !is_dots &&
        memchr(name, '/', length) == NULL && memchr(name, '\0', length) == NULL &&
        text_is_utf8(name, length);
}

/* An item that is not there yet, below `folder`. */
static int add_item(struct wasm_assets *assets, struct item *folder, const char *name,
                    size_t length, bool is_folder, struct item **ret_item, struct error *err)
{
    if (!folder->is_folder) {
        return error_set(err, ERROR_INVALID, "the asset %s is a file, not a folder", folder->path);
    }
    if (assets->count == ASSETS_NODES_MAX) {
        return error_set(err, ERROR_LIMIT, "there are more than %d assets", ASSETS_NODES_MAX);
    }
    char *path = memory_format("%s/%.*s", folder->path, (int)length, name);
    struct item *item = item_new(assets, path, is_folder);
    folder->items = memory_resize(folder->items, (folder->item_count + 1) * sizeof(void *));
    folder->items[folder->item_count++] = item;
    *ret_item = item;
    return 0;
}

/* One part of a path, below *folder, which becomes what it names. */
static int descend(struct wasm_assets *assets, struct item **folder, struct text part, bool is_last,
                   struct error *err)
{
    if (!is_good_name(part.data, part.length)) {
        return error_set(err, ERROR_INVALID, "\"%.*s\" cannot be the name of an asset",
                         (int)(part.length < 64 ? part.length : 64), part.data);
    }
    if (*folder == assets->root && text_equal(part, "tmp")) {
        return error_set(err, ERROR_INVALID, "/tmp is the function's own: no asset can be there");
    }
    MEMORY_OWNED char *path =
        memory_format("%s/%.*s", (*folder)->path, (int)part.length, part.data);
    struct item *item = map_get(&assets->items, path);
    if (item != NULL && is_last) {
        return error_set(err, ERROR_EXISTS, "there are two assets %s", path);
    }
    int r =
        item != NULL ? 0 : add_item(assets, *folder, part.data, part.length, !is_last, &item, err);
    if (r == 0) {
        *folder = item;
    }
    return r;
}

int wasm_assets_add(struct wasm_assets *assets, const char *path, const void *bytes, size_t length,
                    struct error *err)
{
    struct item *item = assets->root;
    unsigned depth = 0;
    const char *at = path + (path[0] == '/');
    for (bool is_last = false; !is_last; depth++) {
        size_t part = strcspn(at, "/");
        is_last = at[part] == '\0';
        int r = depth < ASSETS_DEPTH_MAX
            ? descend(assets, &item, text_of(at, part), is_last, err)
            : error_set(err, ERROR_LIMIT, "it lies deeper than %d folders", ASSETS_DEPTH_MAX);
        if (r < 0) {
            return error_wrap(err, "asset %.200s", path);
        }
        at += part + 1;
    }
    assets->bytes += length;
    if (assets->bytes > ABI_WINDOW_BYTES) {
        return error_set(err, ERROR_LIMIT, "the assets are larger than %d MiB",
                         ABI_WINDOW_BYTES >> 20);
    }
    buffer_append(&item->content, bytes, length);
    assets->file_count++;
    return 0;
}

/* Names of one folder differ, and none holds a NUL: the order of their bytes. */
static int compare(const void *a, const void *b)
{
    return strcmp((*(struct item *const *)a)->name, (*(struct item *const *)b)->name);
}

/* All items, breadth first, numbered. */
static struct item **order(const struct wasm_assets *assets)
{
    struct item **list = memory_new(assets->count, sizeof(void *));
    size_t used = 0;
    list[used++] = assets->root;
    for (size_t i = 0; i < used; i++) {
        struct item *item = list[i];
        item->number = (uint32_t)i;
        item->first = (uint32_t)used;
        if (item->item_count > 0) {
            qsort(item->items, item->item_count, sizeof(void *), compare);
            memcpy(list + used, item->items, item->item_count * sizeof(void *));
            used += item->item_count;
        }
    }
    CHECK(used == assets->count);
    return list;
}

static uint64_t align(uint64_t at)
{
    return (at + ASSETS_ALIGNMENT - 1) & ~(uint64_t)(ASSETS_ALIGNMENT - 1);
}

static void pack(const struct wasm_assets *assets, struct buffer *archive)
{
    struct item **list = order(assets);
    struct assets_node *nodes = memory_new(assets->count, sizeof(nodes[0]));
    uint32_t names = 0;
    for (size_t i = 0; i < assets->count; i++) {
        nodes[i].name_at = names;
        nodes[i].name_length = (uint16_t)strlen(list[i]->name);
        nodes[i].kind = list[i]->is_folder ? ASSETS_FOLDER : ASSETS_FILE;
        names += nodes[i].name_length;
    }
    uint64_t at = align(sizeof(struct assets_head) + assets->count * sizeof(nodes[0]) + names);
    for (size_t i = 0; i < assets->count; i++) {
        if (list[i]->is_folder) {
            nodes[i].first = list[i]->first;
            nodes[i].count = (uint32_t)list[i]->item_count;
        } else {
            nodes[i].at = at;
            nodes[i].length = list[i]->content.used;
            at = align(at + nodes[i].length);
        }
    }
    const struct assets_head head = {.magic = ASSETS_MAGIC,
                                     .node_count = (uint32_t)assets->count,
                                     .names_bytes = names,
                                     .total_bytes = at};
    size_t before = archive->used;
    memset(buffer_reserve(archive, at), 0, at);
    buffer_append(archive, &head, sizeof(head));
    buffer_append(archive, nodes, assets->count * sizeof(nodes[0]));
    for (size_t i = 0; i < assets->count; i++) {
        buffer_append(archive, list[i]->name, nodes[i].name_length);
    }
    for (size_t i = 0; i < assets->count; i++) {
        if (nodes[i].length > 0) {
            memcpy(archive->data + before + nodes[i].at, list[i]->content.data, nodes[i].length);
        }
    }
    archive->used = before + at;
    free(nodes);
    free(list);
}

/* ---- Checking ---- */

static int broken(struct error *err, const char *what, uint32_t node)
{
    return error_set(err, ERROR_INVALID, "the module's assets are damaged: %s (node %" PRIu32 ")",
                     what, node);
}

struct checking {
    const struct assets_head *head;
    const uint8_t *names;
    uint64_t contents_at; /* places before it are the archive's own */
    uint32_t next;        /* where the next folder's nodes begin */
    uint32_t root_count;  /* nodes in the root */
};

static int check_place(const struct checking *checking, const struct assets_node *node,
                       uint32_t number, struct error *err)
{
    if (node->kind == ASSETS_FOLDER) {
        return node->first == checking->next && node->first > number &&
                node->count <= checking->head->node_count - node->first && node->at == 0 &&
                node->length == 0
            ? 0
            : broken(err, "a folder's content is not where it belongs", number);
    }
    uint64_t total = checking->head->total_bytes;
    return node->kind == ASSETS_FILE && number > 0 && node->first == 0 && node->count == 0 &&
            node->at % ASSETS_ALIGNMENT == 0 && node->at >= checking->contents_at &&
            node->at <= total && node->length <= total - node->at
        ? 0
        : broken(err, "a file's content is not where it belongs", number);
}

static int check_node(struct checking *checking, const struct assets_node *node, uint32_t number,
                      struct error *err)
{
    uint32_t names = checking->head->names_bytes;
    if (node->name_at > names || node->name_length > names - node->name_at || node->zero != 0) {
        return broken(err, "a name is not where it belongs", number);
    }
    const char *name = (const char *)checking->names + node->name_at;
    if (number == 0 ? node->name_length != 0 || node->kind != ASSETS_FOLDER
                    : !is_good_name(name, node->name_length)) {
        return broken(err, "a name is bad", number);
    }
    bool is_in_root = number > 0 && number <= checking->root_count;
    if (is_in_root && text_equal(text_of(name, node->name_length), "tmp")) {
        return broken(err, "/tmp is the function's own", number);
    }
    int r = check_place(checking, node, number, err);
    if (r == 0 && node->kind == ASSETS_FOLDER) {
        checking->next += node->count;
        checking->root_count = number == 0 ? node->count : checking->root_count;
    }
    return r;
}

static void take_node(const uint8_t *nodes, uint32_t number, struct assets_node *ret_node)
{
    memcpy(ret_node, nodes + number * sizeof(*ret_node), sizeof(*ret_node));
}

/* Are the names in a folder in their order, and none twice? */
static int check_order(const struct checking *checking, const uint8_t *nodes, uint32_t folder,
                       struct error *err)
{
    struct assets_node node;
    struct assets_node before;
    take_node(nodes, folder, &node);
    for (uint32_t i = node.first + 1; i < node.first + node.count; i++) {
        struct assets_node after;
        take_node(nodes, i - 1, &before);
        take_node(nodes, i, &after);
        size_t common =
            before.name_length < after.name_length ? before.name_length : after.name_length;
        int order =
            memcmp(checking->names + before.name_at, checking->names + after.name_at, common);
        if (order > 0 || (order == 0 && before.name_length >= after.name_length)) {
            return broken(err, "names are not in their order", i);
        }
    }
    return 0;
}

int wasm_assets_check(const void *bytes, size_t length, struct error *err)
{
    struct assets_head head;
    if (length < sizeof(head)) {
        return broken(err, "they are too short", 0);
    }
    memcpy(&head, bytes, sizeof(head));
    if (head.magic != ASSETS_MAGIC || head.total_bytes != length ||
        length % ASSETS_ALIGNMENT != 0 || length > ABI_WINDOW_BYTES || head.node_count == 0 ||
        head.node_count > ASSETS_NODES_MAX || head.zero != 0 || head.zero_too != 0) {
        return broken(err, "their head is not that of an archive", 0);
    }
    uint64_t names_at = sizeof(head) + head.node_count * (uint64_t)sizeof(struct assets_node);
    if (names_at > length || head.names_bytes > length - names_at) {
        return broken(err, "they end too early", 0);
    }
    const uint8_t *nodes = (const uint8_t *)bytes + sizeof(head);
    struct checking checking = {.head = &head,
                                .names = (const uint8_t *)bytes + names_at,
                                .contents_at = names_at + head.names_bytes,
                                .next = 1};
    int r = 0;
    for (uint32_t i = 0; i < head.node_count && r == 0; i++) {
        struct assets_node node;
        take_node(nodes, i, &node);
        r = check_node(&checking, &node, i, err);
    }
    if (r == 0 && checking.next != head.node_count) {
        r = broken(err, "a node is in no folder", checking.next);
    }
    for (uint32_t i = 0; i < head.node_count && r == 0; i++) {
        r = check_order(&checking, nodes, i, err);
    }
    return r;
}

/* ---- In a module ---- */

int wasm_assets_attach(const struct wasm_assets *assets, const void *module, size_t length,
                       struct buffer *ret_module, struct error *err)
{
    struct section_view assets_before;
    BUFFER_OWNED struct buffer archive = {0};
    int r = assets_find(module, length, &assets_before, err);
    if (r < 0) {
        return r;
    }
    pack(assets, &archive);
    assets_remove(module, length, &assets_before, ret_module);
    if (assets->file_count > 0) {
        buffer_append_byte(ret_module, 0);
        rewrite_append_leb(ret_module, 1 + strlen(ASSETS_SECTION) + archive.used);
        rewrite_append_leb(ret_module, strlen(ASSETS_SECTION));
        buffer_append_string(ret_module, ASSETS_SECTION);
        buffer_append(ret_module, archive.data, archive.used);
    }
    return 0;
}
