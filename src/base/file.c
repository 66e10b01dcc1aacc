#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/memory.h"
#include "base/random.h"

int file_read(const char *path, size_t size_max, struct buffer *buffer, struct error *err)
{
    FD_OWNED int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT) {
        return error_set(err, ERROR_NOT_FOUND, "%s does not exist", path);
    }
    if (fd < 0) {
        return error_os(err, errno, "opening %s", path);
    }
    size_t total = 0;
    for (;;) {
        enum { STEP = 65536 };
        ssize_t got = read(fd, buffer_reserve(buffer, STEP), STEP);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got < 0) {
            return error_os(err, errno, "reading %s", path);
        }
        if (got == 0) {
            return 0;
        }
        total += (size_t)got;
        if (total > size_max) {
            return error_set(err, ERROR_TOO_LARGE, "%s is larger than %zu bytes", path, size_max);
        }
        buffer->used += (size_t)got;
    }
}

int file_write_all(int fd, const void *bytes, size_t length)
{
    const char *at = bytes;
    while (length > 0) {
        ssize_t wrote = write(fd, at, length);
        if (wrote < 0 && errno == EINTR) {
            continue;
        }
        if (wrote < 0) {
            return -1;
        }
        at += wrote;
        length -= (size_t)wrote;
    }
    return 0;
}

static int sync_folder_of(const char *path)
{
    MEMORY_OWNED char *folder = memory_copy_string(path);
    char *slash = strrchr(folder, '/');
    if (slash == folder) {
        slash[1] = '\0';
    } else if (slash != NULL) {
        *slash = '\0';
    }
    FD_OWNED int fd = open(slash != NULL ? folder : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return fd < 0 ? -1 : fsync(fd);
}

static int write_beside(const char *path, const void *bytes, size_t length, mode_t mode)
{
    FD_OWNED int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
    if (fd < 0) {
        return -1;
    }
    return file_write_all(fd, bytes, length) < 0 ? -1 : fsync(fd);
}

int file_write(const char *path, const void *bytes, size_t length, mode_t mode, struct error *err)
{
    char suffix[9];
    random_hex(suffix, 8);
    MEMORY_OWNED char *beside = memory_format("%s.%s.tmp", path, suffix);

    if (write_beside(beside, bytes, length, mode) < 0 || rename(beside, path) < 0 ||
        sync_folder_of(path) < 0) {
        int cause = errno;
        unlink(beside);
        return error_os(err, cause, "writing %s", path);
    }
    return 0;
}

int file_make_folder(const char *path, mode_t mode, struct error *err)
{
    if (path[0] == '\0') {
        return error_set(err, ERROR_INVALID, "the path of a folder is empty");
    }
    MEMORY_OWNED char *partial = memory_copy_string(path);
    for (char *at = partial + 1;; at++) {
        if (*at != '/' && *at != '\0') {
            continue;
        }
        char end = *at;
        *at = '\0';
        if (mkdir(partial, mode) < 0 && errno != EEXIST) {
            return error_os(err, errno, "making folder %s", partial);
        }
        if (end == '\0') {
            break;
        }
        *at = end;
    }
    struct stat status;
    if (stat(path, &status) < 0) {
        return error_os(err, errno, "examining %s", path);
    }
    if (!S_ISDIR(status.st_mode)) {
        return error_set(err, ERROR_INVALID, "%s is not a folder", path);
    }
    return 0;
}

static int remove_one(const char *path, const struct stat *status, int kind, struct FTW *walk)
{
    (void)status;
    (void)kind;
    (void)walk;
    return remove(path);
}

int file_remove_tree(const char *path, struct error *err)
{
    if (nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS) < 0 && errno != ENOENT) {
        return error_os(err, errno, "removing %s", path);
    }
    return 0;
}

bool file_exists(const char *path)
{
    return access(path, F_OK) == 0;
}

static uint64_t free_bytes_of(const char *folder)
{
    struct statvfs status;
    return statvfs(folder, &status) == 0 ? (uint64_t)status.f_bavail * status.f_frsize : UINT64_MAX;
}

uint64_t file_room(const char *folder)
{
    uint64_t free_bytes = free_bytes_of(folder);
    return free_bytes == UINT64_MAX       ? UINT64_MAX
        : free_bytes > FILE_RESERVE_BYTES ? free_bytes - FILE_RESERVE_BYTES
                                          : 0;
}

int file_check_room(const char *folder, struct error *err)
{
    uint64_t free_bytes = free_bytes_of(folder);
    return free_bytes >= FILE_RESERVE_BYTES
        ? 0
        : error_set(err, ERROR_FULL,
                    "the disk that holds %s is full (%" PRIu64 " MiB are left, of which Blixard "
                    "keeps %" PRIu64 " MiB): delete something, or give it more room",
                    folder, free_bytes >> 20, FILE_RESERVE_BYTES >> 20);
}

/* In the folders of `path`, which are parted by colons. */
static char *find_in(const char *path, const char *name)
{
    while (path != NULL && *path != '\0') {
        size_t length = strcspn(path, ":");
        struct stat status;
        char *candidate = memory_format("%.*s/%s", (int)length, path, name);
        if (length > 0 && stat(candidate, &status) == 0 && S_ISREG(status.st_mode) &&
            access(candidate, X_OK) == 0) {
            return candidate;
        }
        free(candidate);
        path += length + (path[length] == ':');
    }
    return NULL;
}

char *file_find_program(const char *name)
{
    char *found = find_in(getenv("PATH"), name);
    return found != NULL ? found : find_in("/usr/local/sbin:/usr/sbin:/sbin", name);
}

char *file_find_companion(const char *name)
{
    static const char *const places[] = {"", "../libexec/blixard/"};
    char self[4096];
    ssize_t length = readlink("/proc/self/exe", self, sizeof(self) - 1);
    for (size_t i = 0; length > 0 && i < sizeof(places) / sizeof(places[0]); i++) {
        self[length] = '\0';
        const char *slash = strrchr(self, '/');
        char *path = memory_format("%.*s/%s%s", (int)(slash != NULL ? slash - self : 0), self,
                                   places[i], name);
        if (file_exists(path)) {
            return path;
        }
        free(path);
    }
    return file_find_program(name);
}
