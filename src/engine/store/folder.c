/*
 * FOLDER/format is JSON: {"format": 1, "node": "<hex id>", "last_index": N}.  last_index is written
 * at an orderly end and set to 0 at the next start, because from then on only the log itself knows.
 */
#include "engine/store/folder.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/random.h"

enum { FORMAT = 1, FORMAT_MAX = 4096 };

static int lock(struct folder *folder, struct error *err)
{
    MEMORY_OWNED char *path = memory_format("%s/lock", folder->path);
    FD_OWNED int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) {
        return error_os(err, errno, "opening %s", path);
    }
    if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
        char pid[32] = "";
        ssize_t got = read(fd, pid, sizeof(pid) - 1);
        pid[got > 0 ? got : 0] = '\0';
        pid[strcspn(pid, "\n")] = '\0';
        return error_set(err, ERROR_EXISTS,
                         "the data folder %s is in use by another daemon (process %s): stop it, or "
                         "choose another folder",
                         folder->path, pid[0] != '\0' ? pid : "unknown");
    }
    char text[32];
    int length = snprintf(text, sizeof(text), "%ld\n", (long)getpid());
    if (ftruncate(fd, 0) < 0 || pwrite(fd, text, (size_t)length, 0) != length) {
        return error_os(err, errno, "writing %s", path);
    }
    folder->lock_fd = fd_take(&fd);
    return 0;
}

static int write_format(const struct folder *folder, uint64_t last_index, struct error *err)
{
    MEMORY_OWNED char *path = memory_format("%s/format", folder->path);
    MEMORY_OWNED char *text = memory_format("{\"format\": %d, \"node\": \"%016" PRIx64
                                            "\", \"last_index\": %" PRIu64 "}\n",
                                            FORMAT, folder->node_id, last_index);
    return file_write(path, text, strlen(text), 0600, err);
}

static int damaged(const struct folder *folder, struct error *err)
{
    return error_set(err, ERROR_CORRUPT,
                     "%s/format is damaged: restore it from a copy of the folder, or start with an "
                     "empty folder",
                     folder->path);
}

static int parse_format(struct folder *folder, const struct buffer *text, struct error *err)
{
    JSON_OWNED json_t *format = NULL;
    struct error problem = {0};
    if (json_read(text->data, text->used, &format, &problem) < 0) {
        return damaged(folder, err);
    }
    const char *node = json_string_value(json_object_get(format, "node"));
    json_int_t version = json_integer_value(json_object_get(format, "format"));
    char *end = NULL;
    if (node == NULL || version < 1) {
        return damaged(folder, err);
    }
    if (version > FORMAT) {
        return error_set(
            err, ERROR_UNSUPPORTED,
            "%s was written by a newer Blixard (format %lld, this one knows %d): upgrade",
            folder->path, (long long)version, FORMAT);
    }
    folder->node_id = strtoull(node, &end, 16);
    folder->last_index = (uint64_t)json_integer_value(json_object_get(format, "last_index"));
    return *end == '\0' && folder->node_id != 0 ? 0 : damaged(folder, err);
}

static int read_format(struct folder *folder, struct error *err)
{
    BUFFER_OWNED struct buffer text = {0};
    MEMORY_OWNED char *path = memory_format("%s/format", folder->path);
    int r = file_read(path, FORMAT_MAX, &text, err);
    if (r == -ERROR_NOT_FOUND) {
        MEMORY_OWNED char *log = memory_format("%s/metadata1", folder->path);
        if (file_exists(log)) {
            return error_set(
                err, ERROR_CORRUPT,
                "%s has a log but no file \"format\": restore it from a copy of the folder",
                folder->path);
        }
        folder->node_id = random_u64() >> 1 | 1;
        return write_format(folder, 0, err);
    }
    if (r == 0) {
        r = parse_format(folder, &text, err);
    }
    return r;
}

int folder_open(const char *path, struct folder *ret_folder, struct error *err)
{
    struct folder folder = {.lock_fd = -1, .path = memory_copy_string(path)};
    int r = file_make_folder(path, 0700, err);
    if (r == 0) {
        r = lock(&folder, err);
    }
    if (r == 0) {
        r = read_format(&folder, err);
    }
    if (r < 0) {
        folder_close(&folder);
        return r;
    }
    *ret_folder = folder;
    return 0;
}

int folder_note_end(struct folder *folder, uint64_t last_index, struct error *err)
{
    folder->last_index = last_index;
    return write_format(folder, last_index, err);
}

void folder_close(struct folder *folder)
{
    fd_close_slot(&folder->lock_fd);
    free(folder->path);
    folder->path = NULL;
}
