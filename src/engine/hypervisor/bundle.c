/* A state's files as one stream: see bundle.h. */
#include "engine/hypervisor/bundle.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/memory.h"

enum { PIECE_BYTES = 1 << 20, BLOCK_BYTES = 4096, MAGIC_BYTES = 8 };
static const char magic[MAGIC_BYTES + 1] = "BLXSTATE";

static int open_folder(const char *path, int *ret_fd, struct error *err)
{
    *ret_fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    return *ret_fd >= 0 ? 0 : error_os(err, errno, "opening %s", path);
}

/* ---- Writing ---- */

/* A file that grows, with holes where what is written is zero; or, where nobody can seek, a
 * stream. */
struct sink {
    int fd;
    bool is_stream;
    uint64_t at;
};

static struct sink sink_of(int fd)
{
    struct stat status;
    bool is_file = fstat(fd, &status) == 0 && S_ISREG(status.st_mode);
    return (struct sink){.fd = fd, .is_stream = !is_file};
}

static ssize_t put_block(const struct sink *sink, const uint8_t *bytes, size_t length)
{
    static const uint8_t zeros[BLOCK_BYTES];
    if (sink->is_stream) {
        return file_write_all(sink->fd, bytes, length) < 0 ? -1 : (ssize_t)length;
    }
    return memcmp(bytes, zeros, length) != 0 ? pwrite(sink->fd, bytes, length, (off_t)sink->at)
                                             : (ssize_t)length;
}

static int put_bytes(struct sink *sink, const void *bytes, size_t length, struct error *err)
{
    for (size_t done = 0; done < length;) {
        size_t left = length - done < BLOCK_BYTES ? length - done : BLOCK_BYTES;
        ssize_t put = put_block(sink, (const uint8_t *)bytes + done, left);
        if (put < 0 && errno != EINTR) {
            return error_os(err, errno, "writing the state");
        }
        sink->at += put > 0 ? (uint64_t)put : 0;
        done += put > 0 ? (size_t)put : 0;
    }
    return 0;
}

static int put_head(struct sink *sink, const char *name, uint64_t size, struct error *err)
{
    BUFFER_OWNED struct buffer head = {0};
    buffer_append_u32(&head, (uint32_t)strlen(name));
    buffer_append_string(&head, name);
    buffer_append_u64(&head, size);
    return put_bytes(sink, head.data, head.used, err);
}

static int put_end(struct sink *sink, struct error *err)
{
    static const uint8_t end[4];
    int r = put_bytes(sink, end, sizeof(end), err);
    return r < 0 || sink->is_stream || ftruncate(sink->fd, (off_t)sink->at) == 0
        ? r
        : error_os(err, errno, "writing the state");
}

/* As long as it was when it was looked at. */
static int send_content(int from, uint64_t size, const char *name, struct sink *sink,
                        struct error *err)
{
    MEMORY_OWNED char *piece = memory_new(1, PIECE_BYTES);
    while (size > 0) {
        ssize_t got = read(from, piece, size < PIECE_BYTES ? (size_t)size : PIECE_BYTES);
        if (got <= 0) {
            return got < 0 ? error_os(err, errno, "reading %s", name)
                           : error_set(err, ERROR_CORRUPT, "%s shrinks while it is read", name);
        }
        if (put_bytes(sink, piece, (size_t)got, err) < 0) {
            return -(int)err->kind;
        }
        size -= (uint64_t)got;
    }
    return 0;
}

static int send_file(int folder, const char *name, struct sink *sink, struct error *err)
{
    struct stat state;
    FD_OWNED int from = openat(folder, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (from < 0 || fstat(from, &state) < 0) {
        return error_os(err, errno, "opening %s, which the VMM was to write", name);
    }
    if (!S_ISREG(state.st_mode)) {
        return error_set(err, ERROR_CORRUPT, "%s, which the VMM was to write, is no file", name);
    }
    int r = put_head(sink, name, (uint64_t)state.st_size, err);
    r = r < 0 ? r : send_content(from, (uint64_t)state.st_size, name, sink, err);
    unlinkat(folder, name, 0);
    return r;
}

int bundle_write(const char *folder, const char *const *names, int fd, struct error *err)
{
    struct sink sink = sink_of(fd);
    FD_OWNED int place = -1;
    int r = open_folder(folder, &place, err);
    r = r < 0 ? r : put_bytes(&sink, magic, MAGIC_BYTES, err);
    for (size_t i = 0; r == 0 && names[i] != NULL; i++) {
        r = send_file(place, names[i], &sink, err);
    }
    return r < 0 ? r : put_end(&sink, err);
}

/* ---- Reading ---- */

static int take_bytes(int fd, void *bytes, size_t length, struct error *err)
{
    uint8_t *at = bytes;
    while (length > 0) {
        ssize_t got = read(fd, at, length);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            return got < 0 ? error_os(err, errno, "reading the state")
                           : error_set(err, ERROR_CORRUPT, "the state ends too early");
        }
        at += got;
        length -= (size_t)got;
    }
    return 0;
}

static int take_number(int fd, size_t bytes, uint64_t *ret_value, struct error *err)
{
    uint8_t text[8] = {0};
    int r = take_bytes(fd, text, bytes, err);
    *ret_value = 0;
    for (size_t i = 0; i < bytes; i++) {
        *ret_value |= (uint64_t)text[i] << (8 * i);
    }
    return r;
}

/* Its name has to be the one that is expected. */
static int take_head(int fd, const char *name, uint64_t *ret_size, struct error *err)
{
    char text[64];
    uint64_t length = 0;
    int r = take_number(fd, 4, &length, err);
    if (r == 0 && (length != strlen(name) || length > sizeof(text))) {
        return error_set(err, ERROR_CORRUPT, "the state has no %s where it should be", name);
    }
    r = r < 0 ? r : take_bytes(fd, text, (size_t)length, err);
    if (r == 0 && memcmp(text, name, (size_t)length) != 0) {
        return error_set(err, ERROR_CORRUPT, "the state has no %s where it should be", name);
    }
    return r < 0 || length == 0 ? r : take_number(fd, 8, ret_size, err);
}

/* `sink` may be NULL: it is only passed over. */
static int take_content(int fd, struct sink *sink, uint64_t size, struct error *err)
{
    MEMORY_OWNED uint8_t *piece = memory_new(1, PIECE_BYTES);
    while (size > 0) {
        size_t length = size < PIECE_BYTES ? (size_t)size : PIECE_BYTES;
        int r = take_bytes(fd, piece, length, err);
        r = r < 0 || sink == NULL ? r : put_bytes(sink, piece, length, err);
        if (r < 0) {
            return r;
        }
        size -= length;
    }
    return 0;
}

static int take_magic(int fd, struct error *err)
{
    char text[MAGIC_BYTES];
    int r = take_bytes(fd, text, sizeof(text), err);
    return r < 0 || memcmp(text, magic, sizeof(text)) == 0
        ? r
        : error_set(err, ERROR_CORRUPT, "it is no state of this VMM");
}

static int take_file(int fd, int folder, const char *name, struct error *err)
{
    struct stat owner;
    uint64_t size = 0;
    int r = take_head(fd, name, &size, err);
    if (r < 0) {
        return r;
    }
    unlinkat(folder, name, 0);
    FD_OWNED int to =
        openat(folder, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (to < 0 || fstat(folder, &owner) < 0 || fchown(to, owner.st_uid, owner.st_gid) < 0) {
        return error_os(err, errno, "making %s", name);
    }
    struct sink sink = {.fd = to};
    r = take_content(fd, &sink, size, err);
    return r < 0 || ftruncate(to, (off_t)sink.at) == 0 ? r
                                                       : error_os(err, errno, "writing %s", name);
}

int bundle_read(int fd, const char *folder, const char *const *names, struct error *err)
{
    uint64_t ignored = 0;
    FD_OWNED int place = -1;
    int r = open_folder(folder, &place, err);
    r = r < 0 ? r : take_magic(fd, err);
    for (size_t i = 0; r == 0 && names[i] != NULL; i++) {
        r = take_file(fd, place, names[i], err);
    }
    return r < 0 ? r : take_head(fd, "", &ignored, err);
}

int bundle_check(int fd, const char *const *names, struct error *err)
{
    uint64_t size = 0;
    int r = take_magic(fd, err);
    for (size_t i = 0; r == 0 && names[i] != NULL; i++) {
        r = take_head(fd, names[i], &size, err);
        r = r < 0 ? r : take_content(fd, NULL, size, err);
    }
    return r < 0 ? r : take_head(fd, "", &size, err);
}

/* ---- Taking apart ---- */

int bundle_split(int fd, const char *const *names, const char *apart, int rest_fd, int apart_fd,
                 uint64_t *ret_apart_bytes, struct error *err)
{
    struct sink rest = {.fd = rest_fd};
    uint64_t size = 0;
    *ret_apart_bytes = 0;
    int r = take_magic(fd, err);
    r = r < 0 ? r : put_bytes(&rest, magic, MAGIC_BYTES, err);
    for (size_t i = 0; r == 0 && names[i] != NULL; i++) {
        r = take_head(fd, names[i], &size, err);
        if (r == 0 && apart != NULL && strcmp(names[i], apart) == 0) {
            struct sink memory = {.fd = apart_fd};
            r = take_content(fd, &memory, size, err);
            if (r == 0 && ftruncate(apart_fd, (off_t)size) < 0) {
                r = error_os(err, errno, "writing the memory");
            }
            *ret_apart_bytes = size;
        } else if (r == 0) {
            r = put_head(&rest, names[i], size, err);
            r = r < 0 ? r : take_content(fd, &rest, size, err);
        }
    }
    r = r < 0 ? r : take_head(fd, "", &size, err);
    return r < 0 ? r : put_end(&rest, err);
}

void bundle_remove(const char *folder, const char *const *names)
{
    FD_OWNED int place = open(folder, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    for (size_t i = 0; place >= 0 && names[i] != NULL; i++) {
        unlinkat(place, names[i], 0);
    }
}
