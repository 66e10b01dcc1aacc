/* What is done by path: the checks and errors of open(2), mkdir(2), link(2), rename(2) and so on.
 */
#include "path.h"

static uint32_t find(struct path path, bool follows, struct place *ret_place)
{
    return path_find(path.start, path.bytes, path.length,
                     follows ? LAST_LINK_FOLLOWED : LAST_LINK_ASKED, ret_place);
}

/* A link is what has the name, whatever it leads to: "l/" removes no folder behind it. */
static uint32_t find_name(struct path path, struct place *ret_place)
{
    return path_find(path.start, path.bytes, path.length, LAST_LINK_NAMED, ret_place);
}

/* A name that is free, for what is to be made there; a folder's may end with '/'. */
static uint32_t find_free(struct path path, bool is_folder, struct place *ret_place)
{
    while (is_folder && path.length > 1 && path.bytes[path.length - 1] == '/') {
        path.length--;
    }
    uint32_t error = find_name(path, ret_place);
    if (error != WASI_OK) {
        return error;
    }
    if (ret_place->node != NODE_NONE) {
        return WASI_EEXIST;
    }
    return ret_place->wants_folder && !is_folder ? WASI_ENOENT : WASI_OK;
}

/* ---- Opening ---- */

static uint32_t create(const struct place *place, uint32_t flags, uint32_t *ret_node)
{
    if ((flags & WASI_OPEN_CREATE) == 0) {
        return WASI_ENOENT;
    }
    return place->wants_folder ? WASI_EISDIR
                               : folder_make(place->folder, place->name, WASI_KIND_FILE, ret_node);
}

/* What is to be made if it is not there is a file, so a '/' behind its name is wrong even if it is.
 */
static uint32_t refuse_slash(struct path path)
{
    struct place place;
    while (path.length > 1 && path.bytes[path.length - 1] == '/') {
        path.length--;
    }
    uint32_t error = find(path, false, &place);
    return error != WASI_OK ? error : WASI_EISDIR;
}

static uint32_t open_file(uint32_t node, uint32_t flags, bool writes)
{
    bool changes = writes || (flags & WASI_OPEN_TRUNCATE);
    if (flags & WASI_OPEN_DIRECTORY) {
        return WASI_ENOTDIR;
    }
    if (changes && node_is_fixed(node)) {
        return WASI_EROFS;
    }
    return flags & WASI_OPEN_TRUNCATE ? content_resize(node, 0) : WASI_OK;
}

uint32_t path_open(struct path path, bool follows, uint32_t flags, bool writes, uint32_t *ret_node)
{
    struct place place;
    bool is_exclusive = (flags & WASI_OPEN_CREATE) && (flags & WASI_OPEN_EXCLUSIVE);
    if ((flags & WASI_OPEN_CREATE) && (flags & WASI_OPEN_DIRECTORY)) {
        return WASI_EINVAL;
    }
    if ((flags & WASI_OPEN_CREATE) && path.length > 0 && path.bytes[path.length - 1] == '/') {
        return refuse_slash(path);
    }
    uint32_t error = find(path, follows && !is_exclusive, &place);
    if (error != WASI_OK) {
        return error;
    }
    if (place.node == NODE_NONE) {
        return create(&place, flags, ret_node);
    }
    if (is_exclusive) {
        return WASI_EEXIST;
    }
    uint8_t kind = node_kind(place.node);
    if (kind == WASI_KIND_LINK) {
        return flags & WASI_OPEN_DIRECTORY ? WASI_ENOTDIR : WASI_ELOOP;
    }
    if (kind == WASI_KIND_FILE) {
        error = open_file(place.node, flags, writes);
    } else if (writes || (flags & (WASI_OPEN_CREATE | WASI_OPEN_TRUNCATE))) {
        error = WASI_EISDIR;
    }
    *ret_node = place.node;
    return error;
}

/* ---- Making ---- */

uint32_t path_make_folder(struct path path)
{
    struct place place;
    uint32_t ignored;
    uint32_t error = find_free(path, true, &place);
    return error != WASI_OK ? error
                            : folder_make(place.folder, place.name, WASI_KIND_FOLDER, &ignored);
}

uint32_t path_make_link(const char *target, size_t target_length, struct path path)
{
    struct place place;
    if (target_length == 0) {
        return WASI_ENOENT;
    }
    if (target[0] == '/') {
        return WASI_EPERM;
    }
    for (size_t i = 0; i < target_length; i++) {
        if (target[i] == '\0') {
            return WASI_EINVAL;
        }
    }
    uint32_t error = find_free(path, false, &place);
    return error != WASI_OK ? error
                            : folder_make_link(place.folder, place.name, target, target_length);
}

uint32_t path_link(struct path from, struct path to)
{
    struct place source;
    struct place target;
    uint32_t error = find(from, false, &source);
    if (error != WASI_OK) {
        return error;
    }
    if (source.node == NODE_NONE) {
        return WASI_ENOENT;
    }
    error = find_free(to, false, &target);
    if (error != WASI_OK) {
        return error;
    }
    if (node_kind(source.node) == WASI_KIND_FOLDER) {
        return WASI_EPERM;
    }
    if (node_is_fixed(source.node) && !node_is_fixed(target.folder)) {
        return WASI_EXDEV;
    }
    return folder_add(target.folder, target.name, source.node);
}

/* ---- Renaming ---- */

/* Does `folder` lie in `above`, or is it that? */
static bool is_below(uint32_t folder, uint32_t above)
{
    while (folder != above && folder > TMP_NODE) {
        folder = folder_parent(folder);
    }
    return folder == above;
}

static uint32_t check_replaced(const struct place *source, const struct place *target)
{
    bool is_folder = node_kind(source->node) == WASI_KIND_FOLDER;
    if (target->node == NODE_NONE) {
        return target->wants_folder && !is_folder ? WASI_ENOTDIR : WASI_OK;
    }
    bool replaces_folder = node_kind(target->node) == WASI_KIND_FOLDER;
    if (is_folder && !replaces_folder) {
        return WASI_ENOTDIR;
    }
    if (!is_folder && replaces_folder) {
        return WASI_EISDIR;
    }
    return replaces_folder && !folder_is_empty(target->node) ? WASI_ENOTEMPTY : WASI_OK;
}

uint32_t path_rename(struct path from, struct path to)
{
    struct place source;
    struct place target;
    uint32_t error = find_name(from, &source);
    if (error == WASI_OK) {
        error = find_name(to, &target);
    }
    if (error != WASI_OK) {
        return error;
    }
    if (source.folder == NODE_NONE || target.folder == NODE_NONE) {
        return WASI_EBUSY;
    }
    if (source.node == NODE_NONE) {
        return WASI_ENOENT;
    }
    if (node_is_fixed(source.folder) || node_is_fixed(target.folder)) {
        return WASI_EROFS;
    }
    if (source.node == target.node) {
        return WASI_OK;
    }
    error = check_replaced(&source, &target);
    if (error != WASI_OK) {
        return error;
    }
    if (node_kind(source.node) == WASI_KIND_FOLDER && is_below(target.folder, source.node)) {
        return WASI_EINVAL;
    }
    return folder_move(source.folder, source.name, target.folder, target.name);
}

/* ---- Removing ---- */

uint32_t path_remove_folder(struct path path)
{
    struct place place;
    uint32_t error = find_name(path, &place);
    if (error != WASI_OK) {
        return error;
    }
    if (place.node == NODE_NONE) {
        return WASI_ENOENT;
    }
    if (node_kind(place.node) != WASI_KIND_FOLDER) {
        return WASI_ENOTDIR;
    }
    if (place.folder == NODE_NONE) {
        return WASI_EINVAL;
    }
    if (node_is_fixed(place.folder)) {
        return WASI_EROFS;
    }
    if (!folder_is_empty(place.node)) {
        return WASI_ENOTEMPTY;
    }
    folder_remove(place.folder, place.name);
    return WASI_OK;
}

uint32_t path_unlink(struct path path)
{
    struct place place;
    uint32_t error = find_name(path, &place);
    if (error != WASI_OK) {
        return error;
    }
    if (place.node == NODE_NONE) {
        return WASI_ENOENT;
    }
    if (node_kind(place.node) == WASI_KIND_FOLDER) {
        return WASI_EISDIR;
    }
    if (node_is_fixed(place.folder)) {
        return WASI_EROFS;
    }
    folder_remove(place.folder, place.name);
    return WASI_OK;
}
