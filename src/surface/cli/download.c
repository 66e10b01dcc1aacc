/* Answers that become files: whole, or not at all. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/text.h"

#include "surface/cli/private.h"

enum { SHOW_EVERY_MS = 200 };

struct saving {
    int fd;
    int cause; /* errno of a failed write */
    bool shows;
    uint64_t shown_ms;
    uint64_t bytes;
};

static bool save(const void *bytes, size_t length, void *context)
{
    struct saving *saving = context;
    if (file_write_all(saving->fd, bytes, length) < 0) {
        saving->cause = errno;
        return false;
    }
    saving->bytes += length;
    if (saving->shows && clock_monotonic_ms() - saving->shown_ms >= SHOW_EVERY_MS) {
        saving->shown_ms = clock_monotonic_ms();
        char size[TEXT_SIZE_MAX];
        fprintf(stderr, "\r\033[K%s", text_write_size(saving->bytes, size));
    }
    return true;
}

int download_to(const char *target, int fd, const char *name, uint64_t *ret_bytes_or_null,
                struct error *err)
{
    struct saving saving = {.fd = fd, .shows = isatty(STDERR_FILENO) && !isatty(fd)};
    ANSWER_OWNED struct answer answer = {.on_data = save, .context = &saving};
    int r = request("GET", target, NULL, NULL, 0, &answer, err);
    if (saving.shows) {
        fprintf(stderr, "\r\033[K");
    }
    if (saving.cause != 0) {
        return error_os(err, saving.cause, "writing %s", name);
    }
    if (ret_bytes_or_null != NULL) {
        *ret_bytes_or_null = saving.bytes;
    }
    return r;
}

/* Beside it first. */
int download_file(const char *target, const char *path, uint64_t *ret_bytes, struct error *err)
{
    MEMORY_OWNED char *partial = memory_format("%s.partial", path);
    if (file_exists(path)) {
        return error_set(err, ERROR_EXISTS, "%s is there already: name another file", path);
    }
    FD_OWNED int fd = open(partial, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0) {
        return error_os(err, errno, "writing %s", partial);
    }
    interrupt_removes(partial);
    int r = download_to(target, fd, path, ret_bytes, err);
    if (r == 0 && (fsync(fd) < 0 || rename(partial, path) < 0)) {
        r = error_os(err, errno, "writing %s", path);
    }
    if (r < 0) {
        unlink(partial);
    }
    interrupt_keeps(partial);
    return r;
}
