/* WASI preview 1: what is done by path, below an open folder. */
#include "path.h"
#include "wasi.h"

/* The folder that a path begins at: it is one, and has the rights. */
static u32 begin(u32 fd, u32 rights, u32 path, u32 length, struct path *ret_path)
{
    const struct descriptor *descriptor = descriptor_get(fd);
    if (descriptor == NULL) {
        return WASI_EBADF;
    }
    if (is_stream(descriptor) || node_kind(descriptor->node) != WASI_KIND_FOLDER) {
        return WASI_ENOTDIR;
    }
    *ret_path = (struct path){
        .start = descriptor->node, .bytes = (const char *)MEMORY + path, .length = length};
    return (descriptor->rights & rights) == rights ? WASI_OK : WASI_ENOTCAPABLE;
}

/* Rights that make no sense for what is opened are not given; those the folder cannot pass on are
 * refused. */
static u32 open_node(const struct descriptor *folder, u32 node, u32 base, u32 inheriting, u32 flags,
                     u32 *ret_fd)
{
    bool is_folder = node_kind(node) == WASI_KIND_FOLDER;
    const struct descriptor opened = {
        .kind = DESCRIPTOR_NODE,
        .flags = (uint16_t)flags,
        .node = node,
        .rights = base & (is_folder ? WASI_RIGHTS_FOLDER : WASI_RIGHTS_FILE),
        .rights_inheriting = inheriting & folder->rights_inheriting,
    };
    return descriptor_add(&opened, ret_fd);
}

u32 WASI(path_open)(instance i, u32 fd, u32 lookup, u32 path, u32 length, u32 how, u64 base,
                    u64 inheriting, u32 flags, u32 result)
{
    (void)i;
    struct path place;
    u32 node = NODE_NONE;
    u32 opened = 0;
    u32 needed = WASI_RIGHT_PATH_OPEN | (how & WASI_OPEN_CREATE ? WASI_RIGHT_CREATE_FILE : 0) |
        (how & WASI_OPEN_TRUNCATE ? WASI_RIGHT_PATH_SET_SIZE : 0);
    u32 error = begin(fd, needed, path, length, &place);
    if (error != WASI_OK) {
        return error;
    }
    const struct descriptor folder = *descriptor_get(fd);
    u32 wanted = (u32)base & WASI_RIGHTS_INHERITED;
    if (wanted & ~folder.rights_inheriting) {
        return WASI_ENOTCAPABLE;
    }
    if (how > 15 || flags > WASI_FLAGS_ALL) {
        return WASI_EINVAL;
    }
    error = path_open(place, lookup & WASI_FOLLOW, how, wanted & WASI_RIGHT_WRITE, &node);
    if (error == WASI_OK) {
        error = open_node(&folder, node, wanted, (u32)inheriting, flags, &opened);
    }
    if (error == WASI_OK) {
        store32(result, opened);
    }
    return error;
}

u32 WASI(path_create_directory)(instance i, u32 fd, u32 path, u32 length)
{
    (void)i;
    struct path place;
    u32 error = begin(fd, WASI_RIGHT_CREATE_DIRECTORY, path, length, &place);
    return error == WASI_OK ? path_make_folder(place) : error;
}

/* ---- Status ---- */

static u32 find_node(u32 fd, u32 right, u32 lookup, u32 path, u32 length, u32 *ret_node)
{
    struct path place;
    struct place found;
    u32 error = begin(fd, right, path, length, &place);
    if (error == WASI_OK) {
        error = path_find(place.start, place.bytes, place.length, lookup & WASI_FOLLOW, &found);
    }
    if (error == WASI_OK) {
        *ret_node = found.node;
        error = found.node == NODE_NONE ? WASI_ENOENT : WASI_OK;
    }
    return error;
}

u32 WASI(path_filestat_get)(instance i, u32 fd, u32 lookup, u32 path, u32 length, u32 result)
{
    (void)i;
    u32 node = NODE_NONE;
    struct file_status status;
    u32 error = find_node(fd, WASI_RIGHT_PATH_STATUS, lookup, path, length, &node);
    if (error == WASI_OK) {
        node_status(node, &status);
        store_status(result, &status);
    }
    return error;
}

u32 WASI(path_filestat_set_times)(instance i, u32 fd, u32 lookup, u32 path, u32 length,
                                  u64 accessed, u64 modified, u32 which)
{
    (void)i;
    u32 node = NODE_NONE;
    u32 error = find_node(fd, WASI_RIGHT_PATH_SET_TIMES, lookup, path, length, &node);
    return error == WASI_OK ? wasi_set_times(node, accessed, modified, which) : error;
}

/* ---- Links ---- */

u32 WASI(path_link)(instance i, u32 fd, u32 lookup, u32 path, u32 length, u32 to, u32 to_path,
                    u32 to_length)
{
    (void)i;
    struct path source;
    struct path target;
    u32 error = begin(fd, WASI_RIGHT_LINK_SOURCE, path, length, &source);
    if (error == WASI_OK) {
        error = begin(to, WASI_RIGHT_LINK_TARGET, to_path, to_length, &target);
    }
    return error == WASI_OK ? path_link(source, lookup & WASI_FOLLOW, target) : error;
}

u32 WASI(path_symlink)(instance i, u32 target, u32 target_length, u32 fd, u32 path, u32 length)
{
    (void)i;
    struct path place;
    u32 error = begin(fd, WASI_RIGHT_SYMLINK, path, length, &place);
    return error == WASI_OK ? path_make_link((const char *)MEMORY + target, target_length, place)
                            : error;
}

u32 WASI(path_readlink)(instance i, u32 fd, u32 path, u32 length, u32 bytes, u32 size, u32 used)
{
    (void)i;
    u32 node = NODE_NONE;
    u32 error = find_node(fd, WASI_RIGHT_READLINK, 0, path, length, &node);
    if (error != WASI_OK) {
        return error;
    }
    if (node_kind(node) != WASI_KIND_LINK) {
        return WASI_EINVAL;
    }
    size_t target_length = 0;
    const char *target = link_target(node, &target_length);
    u32 count = target_length < size ? (u32)target_length : size;
    memcpy(MEMORY + bytes, target, count);
    store32(used, count);
    return WASI_OK;
}

/* ---- Moving and removing ---- */

u32 WASI(path_rename)(instance i, u32 fd, u32 path, u32 length, u32 to, u32 to_path, u32 to_length)
{
    (void)i;
    struct path source;
    struct path target;
    u32 error = begin(fd, WASI_RIGHT_RENAME_SOURCE, path, length, &source);
    if (error == WASI_OK) {
        error = begin(to, WASI_RIGHT_RENAME_TARGET, to_path, to_length, &target);
    }
    return error == WASI_OK ? path_rename(source, target) : error;
}

u32 WASI(path_remove_directory)(instance i, u32 fd, u32 path, u32 length)
{
    (void)i;
    struct path place;
    u32 error = begin(fd, WASI_RIGHT_REMOVE_DIRECTORY, path, length, &place);
    return error == WASI_OK ? path_remove_folder(place) : error;
}

u32 WASI(path_unlink_file)(instance i, u32 fd, u32 path, u32 length)
{
    (void)i;
    struct path place;
    u32 error = begin(fd, WASI_RIGHT_UNLINK_FILE, path, length, &place);
    return error == WASI_OK ? path_unlink(place) : error;
}
