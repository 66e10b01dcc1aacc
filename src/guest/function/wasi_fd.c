/* WASI preview 1: what is done with descriptors. */
#include "engine/vmm/hostfiles.h"

#include "wasi.h"

/* Of all buffers of a list together. */
static u64 vectors_bytes(u32 vectors, u32 count)
{
    u64 total = 0;
    for (u32 k = 0; k < count; k++) {
        total += load32(vectors + 8ull * k + 4);
    }
    return total;
}

/* The list can be read or written: its bytes are counted in 32 bits. */
static bool vectors_fit(u32 vectors, u32 count)
{
    return count <= VECTORS_MAX && vectors_bytes(vectors, count) <= UINT32_MAX;
}

/* A file's bytes are counted in 63 bits, as Linux does it; in memory as in a folder of the host. */
static bool offset_fits(u64 offset, u32 vectors, u32 count)
{
    return offset <= INT64_MAX && vectors_bytes(vectors, count) <= INT64_MAX - offset;
}

/* For reading or writing at all: a folder is EISDIR, what was not opened for it EBADF. */
static u32 check_access(u32 fd, u32 right, u32 vectors, u32 count, struct descriptor **ret)
{
    u32 error = descriptor_check(fd, right, ret);
    if (*ret != NULL && (*ret)->file_kind == WASI_KIND_FOLDER) {
        return WASI_EISDIR;
    }
    if (error != WASI_OK) {
        return WASI_EBADF;
    }
    return vectors_fit(vectors, count) ? WASI_OK : WASI_EINVAL;
}

/* ---- Writing ---- */

static u32 write_stream(const struct descriptor *descriptor, u32 vectors, u32 count)
{
    u32 total = 0;
    for (u32 k = 0; k < count; k++) {
        u32 at = load32(vectors + 8ull * k);
        u32 length = load32(vectors + 8ull * k + 4);
        if (descriptor->kind == DESCRIPTOR_OUTPUT) {
            io_write_output(MEMORY + at, length);
        } else {
            io_write_log(MEMORY + at, length);
        }
        total += length;
    }
    return total;
}

static u32 write_part(const struct descriptor *descriptor, u64 offset, u32 flags, u32 at,
                      u32 length, u32 *ret_written)
{
    size_t written = 0;
    if (is_host(descriptor)) {
        return host_write(descriptor, offset, flags, MEMORY + at, length, ret_written);
    }
    u32 error = content_write(descriptor->node, offset, MEMORY + at, length, &written);
    *ret_written = (u32)written;
    return error;
}

u32 wasi_file_size(const struct descriptor *descriptor, u64 *ret_size)
{
    struct file_status status;
    if (is_host(descriptor)) {
        return host_size(descriptor, ret_size);
    }
    node_status(descriptor->node, &status);
    *ret_size = status.size;
    return WASI_OK;
}

/* From `offset` on, or at the end (WASI_FLAG_APPEND, where `offset` is that); an error only when
 * nothing was written. */
static u32 write_file(const struct descriptor *descriptor, u64 offset, u32 flags, u32 vectors,
                      u32 count, u32 *ret_total)
{
    u32 error = offset_fits(offset, vectors, count) ? WASI_OK : WASI_EINVAL;
    *ret_total = 0;
    for (u32 k = 0; k < count && error == WASI_OK; k++) {
        u32 length = load32(vectors + 8ull * k + 4);
        u32 written = 0;
        error = write_part(descriptor, offset + *ret_total, flags, load32(vectors + 8ull * k),
                           length, &written);
        *ret_total += written;
        if (written < length) {
            break;
        }
    }
    return *ret_total > 0 ? WASI_OK : error;
}

u32 WASI(fd_write)(instance i, u32 fd, u32 vectors, u32 count, u32 written)
{
    (void)i;
    struct descriptor *descriptor;
    u32 total = 0;
    u32 error = check_access(fd, WASI_RIGHT_WRITE, vectors, count, &descriptor);
    if (error != WASI_OK) {
        return error;
    }
    if (is_stream(descriptor)) {
        store32(written, write_stream(descriptor, vectors, count));
        return WASI_OK;
    }
    if (descriptor->flags & WASI_FLAG_APPEND) {
        error = wasi_file_size(descriptor, &descriptor->position);
    }
    if (error != WASI_OK) {
        return error;
    }
    error = write_file(descriptor, descriptor->position, descriptor->flags, vectors, count, &total);
    if (error == WASI_OK) {
        descriptor->position += total;
        store32(written, total);
    }
    return error;
}

u32 WASI(fd_pwrite)(instance i, u32 fd, u32 vectors, u32 count, u64 offset, u32 written)
{
    (void)i;
    struct descriptor *descriptor;
    u32 total = 0;
    u32 error = check_access(fd, WASI_RIGHT_WRITE, vectors, count, &descriptor);
    if (error == WASI_OK && is_stream(descriptor)) {
        error = WASI_ESPIPE;
    }
    if (error == WASI_OK && (descriptor->rights & WASI_RIGHT_SEEK) == 0) {
        error = WASI_ENOTCAPABLE;
    }
    if (error == WASI_OK) {
        u32 flags = descriptor->flags & ~(u32)WASI_FLAG_APPEND; /* the offset counts */
        error = write_file(descriptor, offset, flags, vectors, count, &total);
    }
    if (error == WASI_OK) {
        store32(written, total);
    }
    return error;
}

/* ---- Reading ---- */

/* From input, or a file from `offset` on; a short read ends it, as with readv(2). */
static u32 read_vectors(const struct descriptor *descriptor, u64 offset, u32 vectors, u32 count,
                        u32 *ret_total)
{
    u32 total = 0;
    u32 error = offset_fits(offset, vectors, count) ? WASI_OK : WASI_EINVAL;
    for (u32 k = 0; k < count && error == WASI_OK; k++) {
        u32 at = load32(vectors + 8ull * k);
        u32 length = load32(vectors + 8ull * k + 4);
        if (length == 0) {
            continue;
        }
        u32 got = 0;
        if (is_host(descriptor)) {
            error = host_read(descriptor, offset + total, MEMORY + at, length, &got);
        } else if (is_stream(descriptor)) {
            got = (u32)io_read(MEMORY + at, length);
        } else {
            got = (u32)content_read(descriptor->node, offset + total, MEMORY + at, length);
        }
        total += got;
        if (got < length) {
            break;
        }
    }
    *ret_total = total;
    return total > 0 ? WASI_OK : error;
}

u32 WASI(fd_read)(instance i, u32 fd, u32 vectors, u32 count, u32 read)
{
    (void)i;
    struct descriptor *descriptor;
    u32 error = check_access(fd, WASI_RIGHT_READ, vectors, count, &descriptor);
    u32 total = 0;
    if (error == WASI_OK) {
        error = read_vectors(descriptor, descriptor->position, vectors, count, &total);
    }
    if (error == WASI_OK) {
        descriptor->position += total;
        store32(read, total);
    }
    return error;
}

u32 WASI(fd_pread)(instance i, u32 fd, u32 vectors, u32 count, u64 offset, u32 read)
{
    (void)i;
    struct descriptor *descriptor;
    u32 error = check_access(fd, WASI_RIGHT_READ, vectors, count, &descriptor);
    if (error == WASI_OK && is_stream(descriptor)) {
        error = WASI_ESPIPE;
    }
    if (error == WASI_OK && (descriptor->rights & WASI_RIGHT_SEEK) == 0) {
        error = WASI_ENOTCAPABLE;
    }
    u32 total = 0;
    if (error == WASI_OK) {
        error = read_vectors(descriptor, offset, vectors, count, &total);
    }
    if (error == WASI_OK) {
        store32(read, total);
    }
    return error;
}

/* ---- Position ---- */

/* Has `right`, and is no stream. */
static u32 check_file(u32 fd, u32 right, u32 on_stream, struct descriptor **ret_descriptor)
{
    u32 error = descriptor_check(fd, right, ret_descriptor);
    return *ret_descriptor != NULL && is_stream(*ret_descriptor) ? on_stream : error;
}

/* The same of what has a position: a folder has none. */
static u32 check_position(u32 fd, u32 right, struct descriptor **ret_descriptor)
{
    u32 error = check_file(fd, right, WASI_ESPIPE, ret_descriptor);
    bool is_folder = *ret_descriptor != NULL && (*ret_descriptor)->file_kind == WASI_KIND_FOLDER;
    return is_folder ? WASI_EBADF : error;
}

u32 WASI(fd_seek)(instance i, u32 fd, u64 offset, u32 whence, u32 result)
{
    (void)i;
    enum { FROM_START, FROM_HERE, FROM_END };
    struct descriptor *descriptor;
    bool only_tells = offset == 0 && whence == FROM_HERE;
    if (whence > FROM_END) {
        return WASI_EINVAL;
    }
    u32 error = check_position(fd, only_tells ? WASI_RIGHT_TELL : WASI_RIGHT_SEEK, &descriptor);
    if (error == WASI_ENOTCAPABLE && only_tells) {
        error = descriptor_check(fd, WASI_RIGHT_SEEK, &descriptor); /* that one implies it */
    }
    if (error != WASI_OK) {
        return error;
    }
    u64 from = whence == FROM_HERE ? descriptor->position : 0;
    error = whence == FROM_END ? wasi_file_size(descriptor, &from) : WASI_OK;
    if (error != WASI_OK) {
        return error;
    }
    u64 position = from + offset;
    if (position > INT64_MAX || ((int64_t)offset > 0 && position < from)) {
        return WASI_EINVAL;
    }
    descriptor->position = position;
    store64(result, position);
    return WASI_OK;
}

u32 WASI(fd_tell)(instance i, u32 fd, u32 result)
{
    (void)i;
    struct descriptor *descriptor;
    u32 error = check_position(fd, WASI_RIGHT_TELL, &descriptor);
    if (error == WASI_OK) {
        store64(result, descriptor->position);
    }
    return error;
}

/* ---- Opened how, and what it is ---- */

static u32 ask_number(u32 operation, const struct descriptor *descriptor, u64 number)
{
    const struct host_question question = {.operation = operation,
                                           .numbers = {descriptor->node, number}};
    return host_ask(&question, NULL);
}

u32 WASI(fd_fdstat_get)(instance i, u32 fd, u32 result)
{
    (void)i;
    const struct descriptor *descriptor = descriptor_get(fd);
    if (descriptor == NULL) {
        return WASI_EBADF;
    }
    memset(MEMORY + result, 0, 24);
    MEMORY[result] = descriptor->file_kind;
    memcpy(MEMORY + result + 2, &descriptor->flags, sizeof(descriptor->flags));
    store64((u64)result + 8, descriptor->rights);
    store64((u64)result + 16, descriptor->rights_inheriting);
    return WASI_OK;
}

u32 WASI(fd_fdstat_set_flags)(instance i, u32 fd, u32 flags)
{
    (void)i;
    struct descriptor *descriptor;
    if (flags > WASI_FLAGS_ALL) {
        return WASI_EINVAL;
    }
    u32 error = descriptor_check(fd, WASI_RIGHT_SET_FLAGS, &descriptor);
    if (error == WASI_OK) {
        descriptor->flags = (uint16_t)flags;
    }
    return error;
}

/* Rights are only ever given up. */
u32 WASI(fd_fdstat_set_rights)(instance i, u32 fd, u64 base, u64 inheriting)
{
    (void)i;
    struct descriptor *descriptor = descriptor_get(fd);
    if (descriptor == NULL) {
        return WASI_EBADF;
    }
    if ((base & ~(u64)descriptor->rights) || (inheriting & ~(u64)descriptor->rights_inheriting)) {
        return WASI_ENOTCAPABLE;
    }
    descriptor->rights = (u32)base;
    descriptor->rights_inheriting = (u32)inheriting;
    return WASI_OK;
}

u32 WASI(fd_filestat_get)(instance i, u32 fd, u32 result)
{
    (void)i;
    struct descriptor *descriptor;
    u32 error = descriptor_check(fd, WASI_RIGHT_STATUS, &descriptor);
    if (error != WASI_OK) {
        return error;
    }
    struct file_status status = {.kind = descriptor->file_kind};
    if (is_host(descriptor)) {
        const struct host_question question = {.operation = HOSTFILES_STATUS,
                                               .numbers = {descriptor->node},
                                               .room = MEMORY + result,
                                               .size = 64};
        return host_ask(&question, NULL);
    }
    if (!is_stream(descriptor)) {
        node_status(descriptor->node, &status);
    }
    store_status(result, &status);
    return WASI_OK;
}

u32 WASI(fd_filestat_set_size)(instance i, u32 fd, u64 size)
{
    (void)i;
    struct descriptor *descriptor;
    u32 error = check_file(fd, WASI_RIGHT_SET_SIZE, WASI_ENOTCAPABLE, &descriptor);
    if (error != WASI_OK) {
        return error;
    }
    return is_host(descriptor) ? ask_number(HOSTFILES_SET_SIZE, descriptor, size)
                               : content_resize(descriptor->node, size);
}

bool wasi_times_are_good(u32 which)
{
    return which <= 15 && (which & 3) != 3 && (which & 12) != 12;
}

u32 wasi_set_times(u32 node, u64 accessed_ns, u64 modified_ns, u32 which)
{
    struct file_status status;
    u64 now_ns = io_clock_ns(0);
    node_status(node, &status);
    return node_set_times(node,
                          which & WASI_SET_ATIM           ? accessed_ns
                              : which & WASI_SET_ATIM_NOW ? now_ns
                                                          : status.accessed_ns,
                          which & WASI_SET_MTIM           ? modified_ns
                              : which & WASI_SET_MTIM_NOW ? now_ns
                                                          : status.modified_ns);
}

u32 WASI(fd_filestat_set_times)(instance i, u32 fd, u64 accessed, u64 modified, u32 which)
{
    (void)i;
    struct descriptor *descriptor;
    if (!wasi_times_are_good(which)) {
        return WASI_EINVAL;
    }
    u32 error = check_file(fd, WASI_RIGHT_SET_TIMES, WASI_ENOTCAPABLE, &descriptor);
    if (error == WASI_OK && is_host(descriptor)) {
        const struct host_question question = {
            .operation = HOSTFILES_SET_TIMES,
            .numbers = {descriptor->node, accessed, modified, which}};
        return host_ask(&question, NULL);
    }
    return error == WASI_OK ? wasi_set_times(descriptor->node, accessed, modified, which) : error;
}

u32 WASI(fd_advise)(instance i, u32 fd, u64 offset, u64 length, u32 advice)
{
    (void)i;
    enum { ADVICES = 6 };
    struct descriptor *descriptor;
    if (advice >= ADVICES) {
        return WASI_EINVAL;
    }
    u32 error = check_file(fd, WASI_RIGHT_ADVISE, WASI_ESPIPE, &descriptor);
    if (error == WASI_OK && ((int64_t)offset < 0 || (int64_t)length < 0)) {
        error = WASI_EINVAL;
    }
    return error; /* memory needs none */
}

u32 WASI(fd_allocate)(instance i, u32 fd, u64 offset, u64 length)
{
    (void)i;
    struct descriptor *descriptor;
    u32 error = check_file(fd, WASI_RIGHT_ALLOCATE, WASI_ENOTCAPABLE, &descriptor);
    if (error == WASI_OK && is_host(descriptor)) {
        const struct host_question question = {.operation = HOSTFILES_ALLOCATE,
                                               .numbers = {descriptor->node, offset, length}};
        return host_ask(&question, NULL);
    }
    return error == WASI_OK ? content_allocate(descriptor->node, offset, length) : error;
}

u32 WASI(fd_sync)(instance i, u32 fd)
{
    (void)i;
    struct descriptor *descriptor;
    u32 error = check_file(fd, WASI_RIGHT_SYNC, WASI_EINVAL, &descriptor);
    return error == WASI_OK && is_host(descriptor) ? ask_number(HOSTFILES_SYNC, descriptor, 0)
                                                   : error;
}

u32 WASI(fd_datasync)(instance i, u32 fd)
{
    (void)i;
    struct descriptor *descriptor;
    u32 error = check_file(fd, WASI_RIGHT_DATASYNC, WASI_EINVAL, &descriptor);
    return error == WASI_OK && is_host(descriptor) ? ask_number(HOSTFILES_SYNC, descriptor, 1)
                                                   : error;
}

u32 WASI(fd_close)(instance i, u32 fd)
{
    (void)i;
    return descriptor_close(fd);
}

/* As dup2(2) and a close of `fd`: `to` is one that was open. */
u32 WASI(fd_renumber)(instance i, u32 fd, u32 to)
{
    (void)i;
    return descriptor_renumber(fd, to);
}

/* ---- Folders ---- */

u32 WASI(fd_prestat_get)(instance i, u32 fd, u32 result)
{
    (void)i;
    u32 length = 0;
    for (const char *name = descriptor_preopen(fd); name[length] != '\0';) {
        length++;
    }
    if (length == 0) {
        return WASI_EBADF;
    }
    store32(result, 0); /* a folder, the only kind */
    store32((u64)result + 4, length);
    return WASI_OK;
}

u32 WASI(fd_prestat_dir_name)(instance i, u32 fd, u32 path, u32 size)
{
    (void)i;
    u32 length = 0;
    const char *name = descriptor_preopen(fd);
    while (name[length] != '\0') {
        length++;
    }
    if (length == 0) {
        return WASI_EBADF;
    }
    if (size < length) {
        return WASI_ENAMETOOLONG;
    }
    memcpy(MEMORY + path, name, length);
    return WASI_OK;
}

/* Copy as much as there is room for; a cut-off entry fills the buffer, and is asked for again. */
static u32 put(u32 bytes, u32 size, u32 used, const void *from, u32 length)
{
    u32 count = length < size - used ? length : size - used;
    memcpy(MEMORY + (u64)bytes + used, from, count);
    return used + count;
}

u32 WASI(fd_readdir)(instance i, u32 fd, u32 bytes, u32 size, u64 cookie, u32 result)
{
    (void)i;
    struct descriptor *descriptor;
    struct folder_entry entry;
    u32 used = 0;
    u32 error = check_file(fd, WASI_RIGHT_READDIR, WASI_ENOTDIR, &descriptor);
    if (error != WASI_OK) {
        return error;
    }
    if (descriptor->file_kind != WASI_KIND_FOLDER) {
        return WASI_ENOTDIR;
    }
    if (is_host(descriptor)) {
        u64 filled = 0;
        const struct host_question question = {.operation = HOSTFILES_READDIR,
                                               .numbers = {descriptor->node, cookie, size},
                                               .room = MEMORY + bytes,
                                               .size = size};
        error = host_ask(&question, &filled);
        if (error == WASI_OK) {
            store32(result, (u32)filled);
        }
        return error;
    }
    while (used < size && folder_next(descriptor->node, cookie, &entry)) {
        struct {
            u64 next;
            u64 number;
            u32 name_length;
            u32 kind;
        } head = {entry.cookie_after, (u64)entry.node + 1, (u32)entry.name.length,
                  node_kind(entry.node)};
        used = put(bytes, size, used, &head, sizeof(head));
        used = put(bytes, size, used, entry.name.bytes, (u32)entry.name.length);
        cookie = entry.cookie_after;
    }
    store32(result, used);
    return WASI_OK;
}
