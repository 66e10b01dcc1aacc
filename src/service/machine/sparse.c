/* Large files with holes.  See sparse.h. */
#include "service/machine/sparse.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdbool.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/memory.h"

enum { PIECE = 1 << 20 };

/* ---- Copying ---- */

/* The next bytes that are no hole, from `at` on; false: there are none.  A file system without
 * SEEK_DATA has all of them. */
static bool find_data(int fd, off_t at, off_t size, off_t *ret_from, off_t *ret_to)
{
    off_t from = lseek(fd, at, SEEK_DATA);
    if (from < 0) {
        *ret_from = at;
        *ret_to = size;
        return errno != ENXIO && at < size;
    }
    off_t to = lseek(fd, from, SEEK_HOLE);
    *ret_from = from;
    *ret_to = to < 0 || to > size ? size : to;
    return from < size;
}

static int copy_range(int in, int out, off_t from, off_t to)
{
    MEMORY_OWNED uint8_t *piece = NULL;
    while (from < to) {
        size_t left = (size_t)(to - from < PIECE ? to - from : PIECE);
        off_t in_at = from;
        off_t out_at = from;
        ssize_t got = piece == NULL ? copy_file_range(in, &in_at, out, &out_at, left, 0) : -1;
        if (got < 0 &&
            (piece != NULL || errno == EXDEV || errno == EINVAL || errno == ENOSYS ||
             errno == EOPNOTSUPP)) {
            piece = piece != NULL ? piece : memory_new(1, PIECE);
            got = pread(in, piece, left, from);
            if (got > 0 && pwrite(out, piece, (size_t)got, from) != got) {
                return errno != 0 ? -errno : -EIO;
            }
        }
        if (got < 0 && errno != EINTR) {
            return -errno;
        }
        if (got == 0) {
            return -EIO; /* it has become shorter */
        }
        from += got > 0 ? got : 0;
    }
    return 0;
}

static int copy_data(int in, int out, off_t size)
{
    off_t at = 0;
    off_t from = 0;
    off_t to = 0;
    int r = ftruncate(out, size) < 0 ? -errno : 0;
    while (r == 0 && find_data(in, at, size, &from, &to)) {
        r = copy_range(in, out, from, to);
        at = to;
    }
    return r;
}

int sparse_copy(const char *from, const char *to, mode_t mode, struct error *err)
{
    struct stat status;
    FD_OWNED int in = open(from, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (in < 0 || fstat(in, &status) < 0) {
        return error_os(err, errno, "reading %s", from);
    }
    FD_OWNED int out = open(to, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (out < 0) {
        return error_os(err, errno, "making %s", to);
    }
    int r = ioctl(out, FICLONE, in) == 0 ? 0 : copy_data(in, out, status.st_size);
    if (r == 0 && fchmod(out, mode) < 0) {
        r = -errno;
    }
    if (r < 0) {
        unlink(to);
        return error_os(err, -r, "copying %s to %s", from, to);
    }
    return 0;
}

/* ---- Its name ---- */

static bool is_zero(const uint8_t *bytes, size_t length)
{
    return length == 0 || (bytes[0] == 0 && memcmp(bytes, bytes + 1, length - 1) == 0);
}

static int add_block(struct hash *hash, int fd, uint64_t number, uint8_t *block)
{
    uint64_t little = htole64(number);
    size_t used = 0;
    while (used < SPARSE_BLOCK) {
        ssize_t got =
            pread(fd, block + used, SPARSE_BLOCK - used, (off_t)(number * SPARSE_BLOCK + used));
        if (got < 0 && errno != EINTR) {
            return -errno;
        }
        if (got == 0) {
            break;
        }
        used += got > 0 ? (size_t)got : 0;
    }
    if (!is_zero(block, used)) {
        hash_add(hash, &little, sizeof(little));
        hash_add(hash, block, used);
    }
    return 0;
}

int sparse_digest(int fd, char ret_text[HASH_TEXT_SIZE], struct error *err)
{
    MEMORY_OWNED uint8_t *block = memory_new(1, SPARSE_BLOCK);
    struct stat status;
    off_t from = 0;
    off_t to = 0;
    uint64_t next = 0;
    if (fstat(fd, &status) < 0) {
        return error_os(err, errno, "examining a disk");
    }
    struct hash *hash = hash_new();
    uint64_t size = htole64((uint64_t)status.st_size);
    hash_add(hash, &size, sizeof(size));
    int r = 0;
    while (r == 0 && find_data(fd, (off_t)(next * SPARSE_BLOCK), status.st_size, &from, &to)) {
        uint64_t first = (uint64_t)from / SPARSE_BLOCK;
        uint64_t end = ((uint64_t)to + SPARSE_BLOCK - 1) / SPARSE_BLOCK;
        for (next = first < next ? next : first; r == 0 && next < end; next++) {
            r = add_block(hash, fd, next, block);
        }
    }
    hash_finish(hash, ret_text);
    return r < 0 ? error_os(err, -r, "reading a disk") : 0;
}

uint64_t sparse_usage(int fd)
{
    struct stat status;
    return fstat(fd, &status) == 0 ? (uint64_t)status.st_blocks * 512 : 0;
}
