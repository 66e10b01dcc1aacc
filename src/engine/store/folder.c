/*
 * FOLDER/format is JSON: {"format": 1, "node": "<hex id>", "check": "<hex CRC of `1 <hex id>`>"}.
 * It is written last, once: a folder that has it is complete.
 *
 * FOLDER/acknowledged holds the index up to which commands were acknowledged, at most a moment ago.
 * Two slots, 4096 bytes apart, are written in turn, so that a crash leaves one: u32 magic, u32 CRC
 * of the index, u64 index; little-endian.  libraft drops what it cannot read from the end of its
 * log without a word (it may be a write that a crash tore); by this file we know whether it may.
 */
#include "engine/store/folder.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>
#include <zlib.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/random.h"

enum { FORMAT = 1, FORMAT_MAX = 4096, SLOTS = 2, SLOT_STEP = 4096 };

static const uint32_t mark_magic = 0x4b584c42; /* "BLXK" */

struct mark {
    uint32_t magic;
    uint32_t crc;
    uint64_t index;
};

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

/* ---- What was acknowledged ---- */

static uint32_t mark_crc(uint64_t index)
{
    return (uint32_t)crc32(0, (const Bytef *)&index, sizeof(index));
}

int folder_mark(struct folder *folder, uint64_t index, struct error *err)
{
    CHECK(folder->mark_fd >= 0);
    struct mark mark = {.magic = mark_magic, .crc = mark_crc(index), .index = index};
    off_t at = (off_t)(folder->mark_count % SLOTS) * SLOT_STEP;
    if (pwrite(folder->mark_fd, &mark, sizeof(mark), at) != (ssize_t)sizeof(mark) ||
        fdatasync(folder->mark_fd) < 0) {
        return error_os(err, errno, "writing %s/acknowledged", folder->path);
    }
    folder->mark_count++;
    folder->marked = index;
    return 0;
}

static int open_marks(struct folder *folder, bool is_new, struct error *err)
{
    MEMORY_OWNED char *path = memory_format("%s/acknowledged", folder->path);
    FD_OWNED int fd = open(path, O_RDWR | O_CLOEXEC | (is_new ? O_CREAT : 0), 0600);
    if (fd < 0 && errno == ENOENT) {
        return error_set(err, ERROR_CORRUPT, "%s is missing: restore a backup", path);
    }
    if (fd < 0) {
        return error_os(err, errno, "opening %s", path);
    }
    folder->mark_fd = fd_take(&fd);
    if (is_new) {
        int r = folder_mark(folder, 0, err);
        return r < 0 ? r : folder_mark(folder, 0, err);
    }
    bool found = false;
    for (int slot = 0; slot < SLOTS; slot++) {
        struct mark mark = {0};
        ssize_t got = pread(folder->mark_fd, &mark, sizeof(mark), (off_t)slot * SLOT_STEP);
        if (got == (ssize_t)sizeof(mark) && mark.magic == mark_magic &&
            mark.crc == mark_crc(mark.index) && (!found || mark.index > folder->marked)) {
            found = true;
            folder->marked = mark.index;
            folder->mark_count = (uint64_t)slot + 1; /* the other one is written next */
        }
    }
    if (!found) {
        return error_set(err, ERROR_CORRUPT, "%s is damaged: restore a backup", path);
    }
    return 0;
}

/* ---- Format ---- */

static uint32_t format_check(const char *node)
{
    char text[64];
    int length = snprintf(text, sizeof(text), "%d %.32s", FORMAT, node);
    return (uint32_t)crc32(0, (const Bytef *)text, (uInt)length);
}

static int write_format(const struct folder *folder, struct error *err)
{
    char node[17];
    snprintf(node, sizeof(node), "%016" PRIx64, folder->node_id);
    MEMORY_OWNED char *path = memory_format("%s/format", folder->path);
    MEMORY_OWNED char *text =
        memory_format("{\"format\": %d, \"node\": \"%s\", \"check\": \"%08" PRIx32 "\"}\n", FORMAT,
                      node, format_check(node));
    return file_write(path, text, strlen(text), 0600, err);
}

static int damaged(const struct folder *folder, struct error *err)
{
    return error_set(err, ERROR_CORRUPT, "%s/format is damaged: restore a backup", folder->path);
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
    const char *check = json_string_value(json_object_get(format, "check"));
    if (version < 1) {
        return damaged(folder, err);
    }
    if (version > FORMAT) {
        return error_set(
            err, ERROR_UNSUPPORTED,
            "%s was written by a newer Blixard (format %lld, this one knows %d): upgrade",
            folder->path, (long long)version, FORMAT);
    }
    char expected[16];
    snprintf(expected, sizeof(expected), "%08" PRIx32, format_check(node != NULL ? node : ""));
    if (node == NULL || check == NULL || strcmp(check, expected) != 0) {
        return damaged(folder, err);
    }
    folder->node_id = strtoull(node, NULL, 16);
    return folder->node_id != 0 ? 0 : damaged(folder, err);
}

static int read_format(struct folder *folder, bool *ret_is_new, struct error *err)
{
    BUFFER_OWNED struct buffer text = {0};
    MEMORY_OWNED char *path = memory_format("%s/format", folder->path);
    int r = file_read(path, FORMAT_MAX, &text, err);
    *ret_is_new = r == -ERROR_NOT_FOUND;
    if (*ret_is_new) {
        folder->node_id = folder->node_id != 0 ? folder->node_id : (random_u64() >> 1 | 1);
        return 0;
    }
    return r < 0 ? r : parse_format(folder, &text, err);
}

/* ---- The log's files ---- */

struct log_files {
    bool has_log;
    bool has_metadata;
};

static int look_at_file(const struct folder *folder, const char *name, struct log_files *files,
                        struct error *err)
{
    static const char open_segment[] = "open-";
    bool is_open = strncmp(name, open_segment, strlen(open_segment)) == 0;
    bool is_closed = strspn(name, "0123456789") == 16 && name[16] == '-';
    files->has_metadata |= strcmp(name, "metadata1") == 0 || strcmp(name, "metadata2") == 0;
    files->has_log |= is_open || is_closed || strncmp(name, "snapshot-", 9) == 0;
    if (is_open) {
        MEMORY_OWNED char *path = memory_format("%s/%s", folder->path, name);
        return segment_check(path, err);
    }
    return 0;
}

static int look_at_files(const struct folder *folder, struct log_files *ret_files,
                         struct error *err)
{
    DIR *list = opendir(folder->path);
    if (list == NULL) {
        return error_os(err, errno, "reading %s", folder->path);
    }
    int r = 0;
    for (struct dirent *entry = readdir(list); entry != NULL && r == 0; entry = readdir(list)) {
        r = look_at_file(folder, entry->d_name, ret_files, err);
    }
    closedir(list);
    return r;
}

static int check_log(const struct folder *folder, bool is_new, struct error *err)
{
    struct log_files files = {0};
    int r = look_at_files(folder, &files, err);
    if (r < 0) {
        return r;
    }
    if (is_new && (files.has_log || files.has_metadata)) {
        return error_set(err, ERROR_CORRUPT,
                         "%s has a log but no file \"format\": restore a backup", folder->path);
    }
    if (files.has_log && !files.has_metadata) {
        return error_set(
            err, ERROR_CORRUPT,
            "%s has a log but no file \"metadata1\" or \"metadata2\": restore a backup",
            folder->path);
    }
    return 0;
}

static int read_folder(struct folder *folder, bool must_exist, struct error *err)
{
    bool is_new = false;
    int r = read_format(folder, &is_new, err);
    if (r == 0 && is_new && must_exist) {
        return error_set(err, ERROR_CORRUPT,
                         "the log in %s is gone: a server that forgot what it voted for must not "
                         "come back; remove this node from the cluster and let it join anew",
                         folder->path);
    }
    if (r == 0) {
        r = check_log(folder, is_new, err);
    }
    if (r == 0) {
        r = open_marks(folder, is_new, err);
    }
    if (r == 0 && is_new) {
        r = write_format(folder, err);
    }
    return r;
}

/* ---- Other roles ---- */

static bool is_of_log(const char *name)
{
    static const char *const begins[] = {"open-", "snapshot-", "metadata"};
    for (size_t i = 0; i < sizeof(begins) / sizeof(begins[0]); i++) {
        if (strncmp(name, begins[i], strlen(begins[i])) == 0) {
            return true;
        }
    }
    return strspn(name, "0123456789") == 16 && name[16] == '-';
}

static int reset_marks(struct folder *folder, struct error *err)
{
    int r = folder_mark(folder, 0, err);
    return r < 0 ? r : folder_mark(folder, 0, err);
}

int folder_drop_log(struct folder *folder, struct error *err)
{
    int r = reset_marks(folder, err);
    DIR *list = opendir(folder->path);
    if (r == 0 && list == NULL) {
        return error_os(err, errno, "reading %s", folder->path);
    }
    for (struct dirent *entry = list != NULL ? readdir(list) : NULL; entry != NULL && r == 0;
         entry = readdir(list)) {
        if (is_of_log(entry->d_name) && unlinkat(dirfd(list), entry->d_name, 0) < 0) {
            r = error_os(err, errno, "removing %s/%s", folder->path, entry->d_name);
        }
    }
    if (r == 0 && fsync(dirfd(list)) < 0) {
        r = error_os(err, errno, "writing %s", folder->path);
    }
    if (list != NULL) {
        closedir(list);
    }
    return r;
}

int folder_renew(struct folder *folder, uint64_t node_id, struct error *err)
{
    CHECK(node_id != 0);
    int r = folder_drop_log(folder, err);
    folder->node_id = node_id;
    return r < 0 ? r : write_format(folder, err);
}

int folder_open(const char *path, uint64_t new_node_id, bool must_exist, struct folder *ret_folder,
                struct error *err)
{
    struct folder folder = {
        .lock_fd = -1, .mark_fd = -1, .node_id = new_node_id, .path = memory_copy_string(path)};
    int r = file_make_folder(path, 0700, err);
    if (r == 0) {
        r = lock(&folder, err);
    }
    if (r == 0) {
        r = read_folder(&folder, must_exist, err);
    }
    if (r < 0) {
        folder_close(&folder);
        return r;
    }
    *ret_folder = folder;
    return 0;
}

void folder_close(struct folder *folder)
{
    fd_close_slot(&folder->mark_fd);
    fd_close_slot(&folder->lock_fd);
    free(folder->path);
    folder->path = NULL;
}
