/* WASI preview 1: what is done by path, below an open folder. */
#include "engine/vmm/hostfiles.h"

#include "path.h"
#include "wasi.h"

/* The folder that a path begins at: it is one, and has the rights. */
static u32 begin(u32 fd, u32 rights, u32 path, u32 length, struct path *ret_path)
{
    const struct descriptor *descriptor = descriptor_get(fd);
    if (descriptor == NULL) {
        return WASI_EBADF;
    }
    if (descriptor->file_kind != WASI_KIND_FOLDER) {
        return WASI_ENOTDIR;
    }
    *ret_path = (struct path){
        .start = descriptor->node, .bytes = (const char *)MEMORY + path, .length = length};
    return (descriptor->rights & rights) == rights ? WASI_OK : WASI_ENOTCAPABLE;
}

/* Rights that make no sense for what is opened are not given; those the folder cannot pass on are
 * refused. */
static u32 open_node(const struct descriptor *folder, u32 node, bool is_folder, u32 base,
                     u32 inheriting, u32 flags, u32 *ret_fd)
{
    const struct descriptor opened = {
        .kind = folder->kind,
        .file_kind = is_folder ? WASI_KIND_FOLDER : WASI_KIND_FILE,
        .flags = (uint16_t)flags,
        .node = node,
        .rights = base & (is_folder ? WASI_RIGHTS_FOLDER : WASI_RIGHTS_FILE),
        .rights_inheriting = inheriting & folder->rights_inheriting,
    };
    return descriptor_add(&opened, ret_fd);
}

/* ---- On the host ---- */

static const u64 no_numbers[4];

static bool starts_on_host(u32 fd)
{
    return is_host(descriptor_get(fd));
}

/* An operation with one path and up to four more numbers. */
static u32 host_path(u32 operation, struct path path, const u64 numbers[4])
{
    const struct host_question question = {
        .operation = operation,
        .numbers = {path.start, numbers[0], numbers[1], numbers[2], numbers[3]},
        .texts = {path.bytes},
        .lengths = {(u32)path.length},
    };
    return path.length > PATH_MAX_BYTES ? WASI_ENAMETOOLONG : host_ask(&question, NULL);
}

static u32 host_paths(u32 operation, struct path path, u64 number, u64 other, const char *second,
                      size_t second_length)
{
    const struct host_question question = {
        .operation = operation,
        .numbers = {path.start, number, other},
        .texts = {path.bytes, second},
        .lengths = {(u32)path.length, (u32)second_length},
    };
    bool fits = path.length <= PATH_MAX_BYTES && second_length <= PATH_MAX_BYTES;
    return fits ? host_ask(&question, NULL) : WASI_ENAMETOOLONG;
}

static u32 host_open(struct path path, u32 lookup, u32 how, u32 rights, u32 *ret_handle,
                     bool *ret_is_folder)
{
    u64 opened = 0;
    u64 access = (rights & WASI_RIGHT_READ ? 1 : 0) | (rights & WASI_RIGHT_WRITE ? 2 : 0);
    const struct host_question question = {
        .operation = HOSTFILES_OPEN,
        .numbers = {path.start, lookup & WASI_FOLLOW, how, access},
        .texts = {path.bytes},
        .lengths = {(u32)path.length},
    };
    u32 error = path.length > PATH_MAX_BYTES ? WASI_ENAMETOOLONG : host_ask(&question, &opened);
    *ret_handle = (u32)opened;
    *ret_is_folder = opened >> 32 == WASI_KIND_FOLDER;
    return error;
}

/* What the folder lets be opened, and how. */
static u32 check_open(const struct descriptor *folder, u32 how, u32 wanted)
{
    if ((how & WASI_OPEN_TRUNCATE) && (folder->rights & WASI_RIGHT_PATH_SET_SIZE) == 0) {
        return WASI_EPERM;
    }
    return wanted & ~folder->rights_inheriting ? WASI_ENOTCAPABLE : WASI_OK;
}

u32 WASI(path_open)(instance i, u32 fd, u32 lookup, u32 path, u32 length, u32 how, u64 base,
                    u64 inheriting, u32 flags, u32 result)
{
    (void)i;
    struct path place;
    u32 node = NODE_NONE;
    u32 opened = 0;
    u32 wanted = (u32)base & WASI_RIGHTS_INHERITED;
    if (lookup > WASI_FOLLOW || how > WASI_OPEN_ALL || flags > WASI_FLAGS_ALL) {
        return WASI_EINVAL;
    }
    u32 needed = WASI_RIGHT_PATH_OPEN | (how & WASI_OPEN_CREATE ? WASI_RIGHT_CREATE_FILE : 0);
    u32 error = begin(fd, needed, path, length, &place);
    if (error != WASI_OK) {
        return error;
    }
    const struct descriptor folder = *descriptor_get(fd);
    error = check_open(&folder, how, wanted);
    if (error != WASI_OK) {
        return error;
    }
    bool is_folder = false;
    if (is_host(&folder)) {
        error = host_open(place, lookup, how, wanted, &node, &is_folder);
    } else {
        error = path_open(place, lookup & WASI_FOLLOW, how, wanted & WASI_RIGHT_WRITE, &node);
        is_folder = error == WASI_OK && node_kind(node) == WASI_KIND_FOLDER;
    }
    if (error == WASI_OK) {
        error = open_node(&folder, node, is_folder, wanted, (u32)inheriting, flags, &opened);
        if (error != WASI_OK && is_host(&folder)) {
            files_host_close(node);
        }
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
    if (error == WASI_OK && starts_on_host(fd)) {
        return host_path(HOSTFILES_MAKE_FOLDER, place, no_numbers);
    }
    return error == WASI_OK ? path_make_folder(place) : error;
}

/* ---- Status ---- */

static u32 find_node(struct path place, u32 lookup, u32 *ret_node)
{
    struct place found;
    enum last_link last = lookup & WASI_FOLLOW ? LAST_LINK_FOLLOWED : LAST_LINK_ASKED;
    u32 error = path_find(place.start, place.bytes, place.length, last, &found);
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
    struct path place;
    struct file_status status;
    if (lookup > WASI_FOLLOW) {
        return WASI_EINVAL;
    }
    u32 error = begin(fd, WASI_RIGHT_PATH_STATUS, path, length, &place);
    if (error == WASI_OK && starts_on_host(fd)) {
        const struct host_question question = {
            .operation = HOSTFILES_PATH_STATUS,
            .numbers = {place.start, lookup & WASI_FOLLOW},
            .texts = {place.bytes},
            .lengths = {length},
            .room = MEMORY + result,
            .size = 64,
        };
        return length > PATH_MAX_BYTES ? WASI_ENAMETOOLONG : host_ask(&question, NULL);
    }
    if (error == WASI_OK) {
        error = find_node(place, lookup, &node);
    }
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
    struct path place;
    if (lookup > WASI_FOLLOW || !wasi_times_are_good(which)) {
        return WASI_EINVAL;
    }
    u32 error = begin(fd, WASI_RIGHT_PATH_SET_TIMES, path, length, &place);
    if (error == WASI_OK && starts_on_host(fd)) {
        const u64 numbers[4] = {lookup & WASI_FOLLOW, accessed, modified, which};
        return host_path(HOSTFILES_PATH_SET_TIMES, place, numbers);
    }
    if (error == WASI_OK) {
        error = find_node(place, lookup, &node);
    }
    return error == WASI_OK ? wasi_set_times(node, accessed, modified, which) : error;
}

/* ---- Links ---- */

u32 WASI(path_link)(instance i, u32 fd, u32 lookup, u32 path, u32 length, u32 to, u32 to_path,
                    u32 to_length)
{
    (void)i;
    struct path source;
    struct path target;
    if (lookup > WASI_FOLLOW) {
        return WASI_EINVAL;
    }
    u32 error = begin(fd, WASI_RIGHT_LINK_SOURCE, path, length, &source);
    if (error == WASI_OK) {
        error = begin(to, WASI_RIGHT_LINK_TARGET, to_path, to_length, &target);
    }
    if (error == WASI_OK && starts_on_host(fd) != starts_on_host(to)) {
        return WASI_EXDEV;
    }
    if (error == WASI_OK && (lookup & WASI_FOLLOW) != 0) {
        return WASI_EINVAL; /* nobody does it: what a link leads to may be another file by then */
    }
    if (error == WASI_OK && starts_on_host(fd)) {
        return host_paths(HOSTFILES_LINK, source, 0, target.start, target.bytes, target.length);
    }
    return error == WASI_OK ? path_link(source, target) : error;
}

u32 WASI(path_symlink)(instance i, u32 target, u32 target_length, u32 fd, u32 path, u32 length)
{
    (void)i;
    struct path place;
    u32 error = begin(fd, WASI_RIGHT_SYMLINK, path, length, &place);
    if (error == WASI_OK && starts_on_host(fd)) {
        return host_paths(HOSTFILES_SYMLINK, place, 0, 0, (const char *)MEMORY + target,
                          target_length);
    }
    return error == WASI_OK ? path_make_link((const char *)MEMORY + target, target_length, place)
                            : error;
}

u32 WASI(path_readlink)(instance i, u32 fd, u32 path, u32 length, u32 bytes, u32 size, u32 used)
{
    (void)i;
    u32 node = NODE_NONE;
    struct path place;
    u32 error = begin(fd, WASI_RIGHT_READLINK, path, length, &place);
    if (error == WASI_OK && starts_on_host(fd)) {
        u64 whole = 0;
        const struct host_question question = {
            .operation = HOSTFILES_READLINK,
            .numbers = {place.start},
            .texts = {place.bytes},
            .lengths = {length},
            .room = MEMORY + bytes,
            .size = size,
        };
        error = length > PATH_MAX_BYTES ? WASI_ENAMETOOLONG : host_ask(&question, &whole);
        if (error == WASI_OK) {
            store32(used, whole < size ? (u32)whole : size);
        }
        return error;
    }
    if (error == WASI_OK) {
        error = find_node(place, 0, &node);
    }
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
    if (error == WASI_OK && starts_on_host(fd) != starts_on_host(to)) {
        return WASI_EXDEV;
    }
    if (error == WASI_OK && starts_on_host(fd)) {
        return host_paths(HOSTFILES_RENAME, source, target.start, 0, target.bytes, target.length);
    }
    return error == WASI_OK ? path_rename(source, target) : error;
}

u32 WASI(path_remove_directory)(instance i, u32 fd, u32 path, u32 length)
{
    (void)i;
    struct path place;
    u32 error = begin(fd, WASI_RIGHT_REMOVE_DIRECTORY, path, length, &place);
    if (error == WASI_OK && starts_on_host(fd)) {
        return host_path(HOSTFILES_REMOVE_FOLDER, place, no_numbers);
    }
    return error == WASI_OK ? path_remove_folder(place) : error;
}

u32 WASI(path_unlink_file)(instance i, u32 fd, u32 path, u32 length)
{
    (void)i;
    struct path place;
    u32 error = begin(fd, WASI_RIGHT_UNLINK_FILE, path, length, &place);
    if (error == WASI_OK && starts_on_host(fd)) {
        return host_path(HOSTFILES_UNLINK, place, no_numbers);
    }
    return error == WASI_OK ? path_unlink(place) : error;
}
