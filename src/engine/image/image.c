#include "engine/image/image.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/log.h"
#include "base/map.h"
#include "base/memory.h"
#include "base/random.h"
#include "base/text.h"

enum { ID_LENGTH = HASH_TEXT_SIZE - 1 };

static const char partial_prefix[] = "partial-";
static const char fetch_prefix[] = "fetch-"; /* then the id: of image_writer_resume() */

enum { FETCH_KEEP_SECONDS = 24 * 60 * 60, READ_BYTES = 1 << 16, ROOM_EVERY_BYTES = 4 << 20 };

static const char damaged_suffix[] = ".damaged"; /* of what image_verify() has put aside */

/* A file whose content was the right one when it looked like this. */
struct verified {
    dev_t device;
    ino_t inode;
    off_t size;
    struct timespec modified;
    struct timespec changed;
};

struct image_store {
    char *folder;
    int fd;
    pthread_mutex_t lock;    /* of `verified` */
    struct map verified;     /* struct verified, by id */
    pthread_mutex_t reading; /* one at a time is verified: the disk is what takes the time */
};

struct image_writer {
    struct image_store *store;
    struct hash *hash;
    int fd;
    uint64_t size_bytes;
    char name[sizeof(fetch_prefix) + ID_LENGTH];
    char wanted[HASH_TEXT_SIZE]; /* "": any content */
};

bool image_id_is_good(const char *id)
{
    return strlen(id) == ID_LENGTH && strspn(id, "0123456789abcdef") == ID_LENGTH;
}

/* "ab/abcdef..." */
static void blob_path(const char *id, char ret_path[ID_LENGTH + 4])
{
    snprintf(ret_path, ID_LENGTH + 4, "%.2s/%s", id, id);
}

static bool is_old(int folder_fd, const char *name)
{
    struct stat status;
    return fstatat(folder_fd, name, &status, AT_SYMLINK_NOFOLLOW) == 0 &&
        status.st_mtime + FETCH_KEEP_SECONDS < time(NULL);
}

/* What a writer that died had begun, but for what can be gone on with. */
static void remove_partial(int folder_fd, bool is_shared)
{
    DIR *folder = fdopendir(dup(folder_fd));
    if (folder == NULL) {
        return;
    }
    rewinddir(folder);
    for (struct dirent *entry = readdir(folder); entry != NULL; entry = readdir(folder)) {
        bool is_partial = text_starts_with(entry->d_name, partial_prefix);
        bool is_fetched = text_starts_with(entry->d_name, fetch_prefix);
        if ((is_partial && !is_shared) ||
            ((is_partial || is_fetched) && is_old(folder_fd, entry->d_name))) {
            unlinkat(folder_fd, entry->d_name, 0);
        }
    }
    closedir(folder);
}

static int open_store(const char *folder, bool is_shared, struct image_store **ret_store,
                      struct error *err)
{
    int r = file_make_folder(folder, 0700, err);
    if (r < 0) {
        return r;
    }
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        return error_os(err, errno, "opening %s", folder);
    }
    remove_partial(fd, is_shared);
    struct image_store *store = NEW(struct image_store);
    store->folder = memory_copy_string(folder);
    store->fd = fd;
    pthread_mutex_init(&store->lock, NULL);
    pthread_mutex_init(&store->reading, NULL);
    *ret_store = store;
    return 0;
}

int image_store_open(const char *folder, struct image_store **ret_store, struct error *err)
{
    return open_store(folder, false, ret_store, err);
}

int image_store_open_shared(const char *folder, struct image_store **ret_store, struct error *err)
{
    return open_store(folder, true, ret_store, err);
}

static void free_verified(const char *id, void *value, void *context)
{
    (void)id;
    (void)context;
    free(value);
}

void image_store_close(struct image_store *store)
{
    if (store != NULL) {
        map_each(&store->verified, free_verified, NULL);
        map_done(&store->verified);
        pthread_mutex_destroy(&store->lock);
        pthread_mutex_destroy(&store->reading);
        close(store->fd);
        free(store->folder);
        free(store);
    }
}

/* ---- What is known to be good ---- */

static bool is_same_time(struct timespec a, struct timespec b)
{
    return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec;
}

static bool is_verified(struct image_store *store, const char *id, const struct stat *status)
{
    pthread_mutex_lock(&store->lock);
    const struct verified *one = map_get(&store->verified, id);
    bool is_good = one != NULL && one->device == status->st_dev && one->inode == status->st_ino &&
        one->size == status->st_size && is_same_time(one->modified, status->st_mtim) &&
        is_same_time(one->changed, status->st_ctim);
    pthread_mutex_unlock(&store->lock);
    return is_good;
}

static void note_verified(struct image_store *store, const char *id, const struct stat *status)
{
    pthread_mutex_lock(&store->lock);
    struct verified *one = map_get(&store->verified, id);
    if (one == NULL) {
        one = NEW(struct verified);
        map_set(&store->verified, id, one);
    }
    one->device = status->st_dev;
    one->inode = status->st_ino;
    one->size = status->st_size;
    one->modified = status->st_mtim;
    one->changed = status->st_ctim;
    pthread_mutex_unlock(&store->lock);
}

static void forget_verified(struct image_store *store, const char *id)
{
    pthread_mutex_lock(&store->lock);
    free(map_remove(&store->verified, id));
    pthread_mutex_unlock(&store->lock);
}

/* ---- Writing ---- */

int image_writer_new(struct image_store *store, struct image_writer **ret_writer, struct error *err)
{
    struct image_writer *writer = NEW(struct image_writer);
    writer->store = store;
    snprintf(writer->name, sizeof(writer->name), "%s", partial_prefix);
    random_hex(writer->name + strlen(writer->name), 16);
    writer->fd = openat(store->fd, writer->name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (writer->fd < 0) {
        int cause = errno;
        free(writer);
        return error_os(err, cause, "writing into %s", store->folder);
    }
    writer->hash = hash_new();
    *ret_writer = writer;
    return 0;
}

int image_writer_add(struct image_writer *writer, const void *bytes, size_t length,
                     struct error *err)
{
    if ((writer->size_bytes + length) / ROOM_EVERY_BYTES != writer->size_bytes / ROOM_EVERY_BYTES &&
        file_check_room(writer->store->folder, err) < 0) {
        return -(int)err->kind;
    }
    if (file_write_all(writer->fd, bytes, length) < 0) {
        int cause = errno;
        return cause == ENOSPC && file_check_room(writer->store->folder, err) < 0
            ? -(int)err->kind
            : error_os(err, cause, "writing into %s", writer->store->folder);
    }
    hash_add(writer->hash, bytes, length);
    writer->size_bytes += length;
    return 0;
}

/* The bytes are whole: make them safe, then visible. */
static int publish(struct image_writer *writer, const char *id, struct error *err)
{
    char path[ID_LENGTH + 4];
    char sub[3] = {id[0], id[1], '\0'};
    int root = writer->store->fd;
    blob_path(id, path);
    struct stat status;
    if (fstatat(root, path, &status, AT_SYMLINK_NOFOLLOW) == 0 &&
        is_verified(writer->store, id, &status)) {
        unlinkat(root, writer->name, 0);
        return 0;
    } /* else what is there may be damaged: this is not */
    /* Readable where it is handed out to a process of another user: the folder is closed. */
    if ((mkdirat(root, sub, 0700) < 0 && errno != EEXIST) || fchmod(writer->fd, 0444) < 0 ||
        fsync(writer->fd) < 0 || renameat(root, writer->name, root, path) < 0) {
        return error_os(err, errno, "storing %s in %s", path, writer->store->folder);
    }
    FD_OWNED int sub_fd = openat(root, sub, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (sub_fd < 0 || fsync(sub_fd) < 0 || fsync(root) < 0) {
        return error_os(err, errno, "storing %s in %s", path, writer->store->folder);
    }
    char aside[sizeof(path) + sizeof(damaged_suffix)];
    snprintf(aside, sizeof(aside), "%s%s", path, damaged_suffix);
    unlinkat(root, aside, 0);
    if (fstat(writer->fd, &status) == 0) {
        note_verified(writer->store, id, &status);
    }
    return 0;
}

void image_writer_expect(struct image_writer *writer, const char *id)
{
    CHECK(image_id_is_good(id));
    snprintf(writer->wanted, sizeof(writer->wanted), "%s", id);
}

int image_writer_finish(struct image_writer *owned_writer, char ret_id[HASH_TEXT_SIZE],
                        uint64_t *ret_size_bytes, struct error *err)
{
    struct image_writer *writer = owned_writer;
    char id[HASH_TEXT_SIZE];
    hash_finish(writer->hash, id);
    writer->hash = NULL;
    int r = 0;
    if (writer->wanted[0] != '\0' && strcmp(writer->wanted, id) != 0) {
        r = error_set(err, ERROR_CORRUPT, "what came as blob %s is something else", writer->wanted);
    }
    r = r < 0 ? r : publish(writer, id, err);
    if (r == 0) {
        memcpy(ret_id, id, sizeof(id));
        if (ret_size_bytes != NULL) {
            *ret_size_bytes = writer->size_bytes;
        }
        close(writer->fd);
        free(writer);
        return 0;
    }
    image_writer_abort(writer);
    return r;
}

void image_writer_abort(struct image_writer *owned_writer)
{
    struct image_writer *writer = owned_writer;
    if (writer->hash != NULL) {
        char unused[HASH_TEXT_SIZE];
        hash_finish(writer->hash, unused);
    }
    unlinkat(writer->store->fd, writer->name, 0);
    close(writer->fd);
    free(writer);
}

/* Go through what there is, to know its digest so far. */
static int take_up(struct image_writer *writer, struct error *err)
{
    uint8_t piece[READ_BYTES];
    for (;;) {
        ssize_t got = read(writer->fd, piece, sizeof(piece));
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            return got == 0 ? 0 : error_os(err, errno, "reading %s", writer->name);
        }
        hash_add(writer->hash, piece, (size_t)got);
        writer->size_bytes += (uint64_t)got;
    }
}

int image_writer_resume(struct image_store *store, const char *id, struct image_writer **ret_writer,
                        uint64_t *ret_have, struct error *err)
{
    if (!image_id_is_good(id)) {
        return error_set(err, ERROR_INVALID, "\"%.80s\" is not a blob's name", id);
    }
    struct image_writer *writer = NEW(struct image_writer);
    writer->store = store;
    snprintf(writer->name, sizeof(writer->name), "%s%s", fetch_prefix, id);
    snprintf(writer->wanted, sizeof(writer->wanted), "%s", id);
    writer->fd = openat(store->fd, writer->name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (writer->fd < 0) {
        int cause = errno;
        free(writer);
        return error_os(err, cause, "writing into %s", store->folder);
    }
    writer->hash = hash_new();
    int r = take_up(writer, err);
    if (r < 0) {
        image_writer_abort(writer);
        return r;
    }
    *ret_writer = writer;
    *ret_have = writer->size_bytes;
    return 0;
}

void image_writer_suspend(struct image_writer *owned_writer)
{
    struct image_writer *writer = owned_writer;
    char unused[HASH_TEXT_SIZE];
    hash_finish(writer->hash, unused);
    close(writer->fd);
    free(writer);
}

int image_put(struct image_store *store, const void *bytes, size_t length,
              char ret_id[HASH_TEXT_SIZE], struct error *err)
{
    struct image_writer *writer = NULL;
    int r = image_writer_new(store, &writer, err);
    if (r < 0) {
        return r;
    }
    r = image_writer_add(writer, bytes, length, err);
    if (r < 0) {
        image_writer_abort(writer);
        return r;
    }
    return image_writer_finish(writer, ret_id, NULL, err);
}

/* ---- Reading ---- */

char *image_path(struct image_store *store, const char *id)
{
    char path[ID_LENGTH + 4];
    CHECK(image_id_is_good(id));
    blob_path(id, path);
    return memory_format("%s/%s", store->folder, path);
}

int image_open(struct image_store *store, const char *id, int *ret_fd, uint64_t *ret_size_bytes,
               struct error *err)
{
    if (!image_id_is_good(id)) {
        return error_set(err, ERROR_INVALID, "\"%.80s\" is not a blob's name: 64 hex digits are",
                         id);
    }
    char path[ID_LENGTH + 4];
    blob_path(id, path);
    FD_OWNED int fd = openat(store->fd, path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 && errno == ENOENT) {
        return error_set(err, ERROR_NOT_FOUND, "there is no blob %s", id);
    }
    struct stat status;
    if (fd < 0 || fstat(fd, &status) < 0) {
        return error_os(err, errno, "opening blob %s", id);
    }
    if (ret_size_bytes != NULL) {
        *ret_size_bytes = (uint64_t)status.st_size;
    }
    *ret_fd = fd_take(&fd);
    return 0;
}

static int read_whole(int fd, const char *id, struct buffer *buffer, uint64_t size,
                      struct error *err)
{
    uint8_t *at = buffer_reserve(buffer, size);
    uint64_t used = 0;
    while (used < size) {
        ssize_t got = read(fd, at + used, size - used);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got < 0) {
            return error_os(err, errno, "reading blob %s", id);
        }
        if (got == 0) {
            break; /* shorter than it said: the digest will not agree */
        }
        used += (uint64_t)got;
    }
    buffer->used += used;
    return 0;
}

int image_read(struct image_store *store, const char *id, size_t size_max, struct buffer *buffer,
               struct error *err)
{
    FD_OWNED int fd = -1;
    uint64_t size = 0;
    int r = image_open(store, id, &fd, &size, err);
    if (r < 0) {
        return r;
    }
    if (size > size_max) {
        return error_set(err, ERROR_TOO_LARGE, "blob %s is larger than %zu bytes", id, size_max);
    }
    size_t before = buffer->used;
    r = read_whole(fd, id, buffer, size, err);
    if (r < 0) {
        return r;
    }
    char actual[HASH_TEXT_SIZE];
    hash_bytes(buffer->data + before, buffer->used - before, actual);
    if (strcmp(actual, id) != 0) {
        buffer->used = before;
        return error_set(
            err, ERROR_CORRUPT,
            "the file %s/%.2s/%s is damaged: its content does not match its name; remove "
            "it and deploy again",
            store->folder, id, id);
    }
    return 0;
}

/* Its digest as it is now. */
static int digest_of(int fd, const char *id, char ret_id[HASH_TEXT_SIZE], struct error *err)
{
    uint8_t piece[READ_BYTES];
    struct hash *hash = hash_new();
    ssize_t got = 0;
    while ((got = read(fd, piece, sizeof(piece))) > 0 || (got < 0 && errno == EINTR)) {
        hash_add(hash, piece, got > 0 ? (size_t)got : 0);
    }
    int cause = errno;
    hash_finish(hash, ret_id);
    return got == 0 ? 0 : error_os(err, cause, "reading blob %s", id);
}

static int put_aside(struct image_store *store, const char *id, struct error *err)
{
    char path[ID_LENGTH + 4];
    char aside[sizeof(path) + sizeof(damaged_suffix)];
    blob_path(id, path);
    snprintf(aside, sizeof(aside), "%s%s", path, damaged_suffix);
    forget_verified(store, id);
    if (renameat(store->fd, path, store->fd, aside) < 0) {
        return error_os(err, errno, "moving the damaged %s/%s away", store->folder, path);
    }
    log_error("%s/%s is damaged: its content is not what its name says; it is now %s%s",
              store->folder, path, path, damaged_suffix);
    return error_set(err, ERROR_CORRUPT,
                     "blob %.16s... was damaged on this node's disk (it is put aside as "
                     "%.2s/%.8s...%s)",
                     id, id, id, damaged_suffix);
}

static int compare(struct image_store *store, const char *id, int fd, const struct stat *status,
                   struct error *err)
{
    struct stat after;
    char actual[HASH_TEXT_SIZE];
    int r = digest_of(fd, id, actual, err);
    if (r < 0) {
        return r;
    }
    if (strcmp(actual, id) != 0) {
        return put_aside(store, id, err);
    }
    if (fstat(fd, &after) == 0 && is_same_time(after.st_mtim, status->st_mtim)) {
        note_verified(store, id, status);
    }
    return 0;
}

static int open_known(struct image_store *store, const char *id, int *ret_fd,
                      struct stat *ret_status, struct error *err)
{
    FD_OWNED int fd = -1;
    int r = image_open(store, id, &fd, NULL, err);
    if (r < 0) {
        return r;
    }
    if (fstat(fd, ret_status) < 0) {
        return error_os(err, errno, "looking at blob %s", id);
    }
    *ret_fd = fd_take(&fd);
    return 0;
}

static int verify(struct image_store *store, const char *id, struct error *err)
{
    FD_OWNED int fd = -1;
    struct stat status;
    int r = open_known(store, id, &fd, &status, err);
    return r < 0 || is_verified(store, id, &status) ? r : compare(store, id, fd, &status, err);
}

int image_verify(struct image_store *store, const char *id, struct error *err)
{
    pthread_mutex_lock(&store->reading);
    int r = verify(store, id, err);
    pthread_mutex_unlock(&store->reading);
    return r;
}

/* Without the lock: nobody who starts a machine waits for it. */
int image_verify_again(struct image_store *store, const char *id, uint64_t *ret_size_bytes,
                       struct error *err)
{
    FD_OWNED int fd = -1;
    struct stat status;
    int r = open_known(store, id, &fd, &status, err);
    if (r < 0) {
        return r;
    }
    *ret_size_bytes = (uint64_t)status.st_size;
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    return compare(store, id, fd, &status, err);
}

bool image_is_put_aside(struct image_store *store, const char *id)
{
    char path[ID_LENGTH + 4];
    char aside[sizeof(path) + sizeof(damaged_suffix)];
    blob_path(id, path);
    snprintf(aside, sizeof(aside), "%s%s", path, damaged_suffix);
    return !image_exists(store, id) && faccessat(store->fd, aside, F_OK, 0) == 0;
}

bool image_exists(struct image_store *store, const char *id)
{
    char path[ID_LENGTH + 4];
    if (!image_id_is_good(id)) {
        return false;
    }
    blob_path(id, path);
    return faccessat(store->fd, path, F_OK, 0) == 0;
}

int image_remove(struct image_store *store, const char *id, struct error *err)
{
    char path[ID_LENGTH + 4];
    if (!image_id_is_good(id)) {
        return error_set(err, ERROR_INVALID, "\"%.80s\" is not a blob's name", id);
    }
    forget_verified(store, id);
    blob_path(id, path);
    if (unlinkat(store->fd, path, 0) < 0 && errno != ENOENT) {
        return error_os(err, errno, "removing blob %s", id);
    }
    return 0;
}

/* The blobs of one sub-folder; false: the visitor has seen enough. */
static bool each_in(int root, const char *sub,
                    bool (*visit)(const char *id, uint64_t size_bytes, void *context),
                    void *context)
{
    int fd = openat(root, sub, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *folder = fd >= 0 ? fdopendir(fd) : NULL;
    if (folder == NULL) {
        return true;
    }
    bool go_on = true;
    for (struct dirent *entry = readdir(folder); entry != NULL && go_on; entry = readdir(folder)) {
        struct stat status;
        if (image_id_is_good(entry->d_name) && fstatat(fd, entry->d_name, &status, 0) == 0) {
            go_on = visit(entry->d_name, (uint64_t)status.st_size, context);
        }
    }
    closedir(folder);
    return go_on;
}

int image_each(struct image_store *store,
               bool (*visit)(const char *id, uint64_t size_bytes, void *context), void *context,
               struct error *err)
{
    int fd = openat(store->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *folder = fd >= 0 ? fdopendir(fd) : NULL;
    if (folder == NULL) {
        return error_os(err, errno, "reading %s", store->folder);
    }
    bool go_on = true;
    for (struct dirent *entry = readdir(folder); entry != NULL && go_on; entry = readdir(folder)) {
        if (strlen(entry->d_name) == 2 && entry->d_name[0] != '.') {
            go_on = each_in(store->fd, entry->d_name, visit, context);
        }
    }
    closedir(folder);
    return 0;
}
