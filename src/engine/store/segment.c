/*
 * An open segment of libraft's log, "open-N", of which only the extents are checked here.
 *
 * Format 1, little-endian: u64 format (1; 0: nothing was written yet), then batches: u32 CRC of the
 * header, u32 CRC of the data; the header: u64 count (0: no further batch), and per entry u64 term,
 * u8 type, 3 bytes unused, u32 size; then the data of the entries.  Contents are libraft's to
 * check.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/check.h"
#include "base/error.h"
#include "base/fd.h"

#include "engine/store/folder.h"

enum { FORMAT_BYTES = 8, PREAMBLE_BYTES = 16, ENTRY_BYTES = 16, ENTRIES_MAX = 1 << 20 };

struct segment {
    const char *path;
    int fd;
    uint64_t size;
};

static int cut(const struct segment *segment, struct error *err)
{
    return error_set(err, ERROR_CORRUPT,
                     "%s is damaged: it ends inside an entry of the log; restore the folder from a "
                     "copy",
                     segment->path);
}

static int read_at(const struct segment *segment, uint64_t at, void *ret_bytes, size_t length,
                   struct error *err)
{
    if (at > segment->size || length > segment->size - at) {
        return cut(segment, err);
    }
    ssize_t got = pread(segment->fd, ret_bytes, length, (off_t)at);
    if (got < 0) {
        return error_os(err, errno, "reading %s", segment->path);
    }
    return (size_t)got == length ? 0 : cut(segment, err);
}

/* Move *at behind the batch; *ret_count is 0 at the end of what was written. */
static int skip_batch(const struct segment *segment, uint64_t *at, uint64_t *ret_count,
                      struct error *err)
{
    uint8_t preamble[PREAMBLE_BYTES];
    int r = read_at(segment, *at, preamble, sizeof(preamble), err);
    if (r < 0) {
        return r;
    }
    uint64_t count = 0;
    memcpy(&count, preamble + 8, sizeof(count));
    if (count > ENTRIES_MAX) {
        count = 0; /* libraft compares the header's CRC before it believes this number */
    }
    uint64_t next = *at + PREAMBLE_BYTES + count * ENTRY_BYTES;
    for (uint64_t i = 0; i < count; i++) {
        uint32_t size = 0;
        r = read_at(segment, *at + PREAMBLE_BYTES + i * ENTRY_BYTES + 12, &size, sizeof(size), err);
        if (r < 0) {
            return r;
        }
        next += size;
    }
    *at = next;
    *ret_count = count;
    return next <= segment->size ? 0 : cut(segment, err);
}

int segment_check(const char *path, struct error *err)
{
    FD_OWNED int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return error_os(err, errno, "opening %s", path);
    }
    struct stat status;
    if (fstat(fd, &status) < 0) {
        return error_os(err, errno, "examining %s", path);
    }
    struct segment segment = {.path = path, .fd = fd, .size = (uint64_t)status.st_size};
    uint64_t at = FORMAT_BYTES;
    uint64_t count = 1;
    int r = 0;
    while (r == 0 && count > 0 && at < segment.size) {
        r = skip_batch(&segment, &at, &count, err);
    }
    CHECK(r < 0 || count == 0 || at >= segment.size);
    return r;
}
