/* Writing a machine as one file, step by step.  See package.h. */
#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"

#include "engine/image/image.h"

#include "service/machine/content.h"
#include "service/machine/package.h"

enum { PIECE = 1 << 20 };

struct entry {
    char *name;
    char *path; /* NULL: the manifest's text */
};

struct package_writer {
    struct archive *archive;
    struct buffer *out; /* of this step */
    char *manifest;
    struct entry entries[PACKAGE_ENTRIES_MAX];
    size_t count;
    size_t next;
    int fd; /* of the entry that is being written, or -1 */
    off_t at;
    off_t size;
    uint8_t *piece;
    uint8_t *zeros; /* instead of a piece of a hole */
    bool is_closed;
};

static la_ssize_t on_bytes(struct archive *archive, void *context, const void *bytes, size_t length)
{
    struct package_writer *writer = context;
    (void)archive;
    if (writer->out != NULL) {
        buffer_append(writer->out, bytes, length);
    }
    return (la_ssize_t)length;
}

static int fail(struct package_writer *writer, struct error *err)
{
    const char *text = archive_error_string(writer->archive);
    return error_set(err, ERROR_OS, "writing the archive: %.300s",
                     text != NULL ? text : "it failed");
}

static void add(struct package_writer *writer, char *owned_name, char *owned_path)
{
    if (writer->count < PACKAGE_ENTRIES_MAX) {
        writer->entries[writer->count++] = (struct entry){owned_name, owned_path};
    } else {
        free(owned_name);
        free(owned_path);
    }
}

static void add_content(struct package_writer *writer, const char *folder, const char *prefix)
{
    static const char *const names[] = {CONTENT_MANIFEST, "disk.raw",    "disk.qcow2",
                                        "base.raw",       CONTENT_BASE,  CONTENT_FIRMWARE,
                                        CONTENT_USER,     CONTENT_STATE, CONTENT_MEMORY};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        char *path = memory_format("%s/%s", folder, names[i]);
        if (file_exists(path)) {
            add(writer, memory_format("%s/%s", prefix, names[i]), path);
        } else {
            free(path);
        }
    }
    for (unsigned i = 0; i < CONTENT_VOLUMES_MAX; i++) {
        char name[24];
        content_volume_name(i, name);
        char *path = memory_format("%s/%s", folder, name);
        if (file_exists(path)) {
            add(writer, memory_format("%s/%s", prefix, name), path);
        } else {
            free(path);
        }
    }
}

static int add_blobs(struct package_writer *writer, const json_t *manifest,
                     struct image_store *images, struct error *err)
{
    size_t index = 0;
    json_t *blob = NULL;
    json_array_foreach(json_object_get(manifest, "blobs"), index, blob)
    {
        const char *id = json_string_value(blob);
        if (id == NULL || !image_exists(images, id)) {
            return error_set(err, ERROR_NOT_FOUND, "a part of its image is not on this node");
        }
        add(writer, memory_format("blobs/%s", id), image_path(images, id));
    }
    return 0;
}

int package_writer_new(const json_t *manifest, const char *content, const char *const *snapshots,
                       struct image_store *images, struct package_writer **ret_writer,
                       struct error *err)
{
    struct package_writer *writer = NEW(struct package_writer);
    size_t index = 0;
    json_t *snapshot = NULL;
    writer->fd = -1;
    writer->piece = memory_new(1, PIECE);
    writer->zeros = memory_new(1, PIECE);
    writer->manifest = json_dumps(manifest, JSON_INDENT(1));
    writer->archive = archive_write_new();
    archive_write_set_format_pax(writer->archive);
    archive_write_set_bytes_per_block(writer->archive, 0);
    if (archive_write_add_filter_zstd(writer->archive) !=
        ARCHIVE_OK) { /* or it would run zstd(1) */
        archive_write_free(writer->archive);
        writer->archive = archive_write_new();
        archive_write_set_format_pax(writer->archive);
        archive_write_set_bytes_per_block(writer->archive, 0);
    }
    add(writer, memory_copy_string("manifest.json"), NULL);
    int r = add_blobs(writer, manifest, images, err);
    if (content != NULL) {
        add_content(writer, content, "content");
    }
    json_array_foreach(json_object_get(manifest, "snapshots"), index, snapshot)
    {
        MEMORY_OWNED char *prefix =
            memory_format("snapshots/%s", json_string_value(json_object_get(snapshot, "name")));
        add_content(writer, snapshots[index], prefix);
    }
    if (r == 0 && archive_write_open(writer->archive, writer, NULL, on_bytes, NULL) != ARCHIVE_OK) {
        r = fail(writer, err);
    }
    if (r < 0) {
        package_writer_free(writer);
        return r;
    }
    *ret_writer = writer;
    return 0;
}

void package_writer_add(struct package_writer *writer, const char *name, const char *path)
{
    add(writer, memory_copy_string(name), memory_copy_string(path));
}

uint64_t package_writer_usage(const struct package_writer *writer)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < writer->count; i++) {
        struct stat status;
        const char *path = writer->entries[i].path;
        bytes += path != NULL && stat(path, &status) == 0 ? (uint64_t)status.st_blocks * 512 : 0;
    }
    return bytes;
}

void package_writer_free(struct package_writer *writer)
{
    if (writer == NULL) {
        return;
    }
    writer->out = NULL;
    archive_write_free(writer->archive);
    fd_close_slot(&writer->fd);
    for (size_t i = 0; i < writer->count; i++) {
        free(writer->entries[i].name);
        free(writer->entries[i].path);
    }
    free(writer->manifest);
    free(writer->piece);
    free(writer->zeros);
    free(writer);
}

/* ---- Steps ---- */

/* libarchive wants to know what is no hole, and is then given all of it, holes as zeros. */
static void add_sparse(struct archive_entry *entry, int fd, off_t size)
{
    off_t from = lseek(fd, 0, SEEK_DATA);
    if (from < 0 && errno == ENXIO && size > 0) {
        archive_entry_sparse_add_entry(entry, size, 0);
    }
    while (from >= 0) {
        off_t to = lseek(fd, from, SEEK_HOLE);
        to = to < 0 ? size : to;
        if (from == 0 && to >= size) {
            break; /* there are none */
        }
        archive_entry_sparse_add_entry(entry, from, to - from);
        from = lseek(fd, to, SEEK_DATA);
    }
}

static int begin_entry(struct package_writer *writer, const struct entry *what, struct error *err)
{
    struct stat status = {.st_size = (off_t)strlen(writer->manifest)};
    if (what->path != NULL) {
        writer->fd = open(what->path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        if (writer->fd < 0 || fstat(writer->fd, &status) < 0) {
            return error_os(err, errno, "reading %s", what->path);
        }
    }
    struct archive_entry *entry = archive_entry_new();
    archive_entry_set_pathname(entry, what->name);
    archive_entry_set_mode(entry, S_IFREG | 0644);
    archive_entry_set_size(entry, status.st_size);
    archive_entry_set_mtime(entry, status.st_mtime, 0);
    if (writer->fd >= 0) {
        add_sparse(entry, writer->fd, status.st_size);
    }
    writer->at = 0;
    writer->size = status.st_size;
    int r = archive_write_header(writer->archive, entry) < ARCHIVE_WARN ? fail(writer, err) : 0;
    archive_entry_free(entry);
    if (r == 0 && what->path == NULL &&
        archive_write_data(writer->archive, writer->manifest, strlen(writer->manifest)) < 0) {
        r = fail(writer, err);
    }
    return r;
}

/* What is a hole from here on is not read: libarchive drops the zeros that it is given instead. */
static int skip_hole(struct package_writer *writer, struct error *err)
{
    off_t data = lseek(writer->fd, writer->at, SEEK_DATA);
    off_t end = data >= 0 ? data : errno == ENXIO ? writer->size : writer->at;
    while (writer->at < end && writer->at < writer->size) {
        off_t left = end - writer->at;
        size_t length = left < PIECE ? (size_t)left : PIECE;
        if (archive_write_data(writer->archive, writer->zeros, length) < 0) {
            return fail(writer, err);
        }
        writer->at += (off_t)length;
    }
    return 0;
}

static int write_piece(struct package_writer *writer, struct error *err)
{
    int r = skip_hole(writer, err);
    off_t left = writer->size - writer->at;
    if (r < 0 || left <= 0) {
        return r;
    }
    size_t length = left < PIECE ? (size_t)left : PIECE;
    ssize_t got = pread(writer->fd, writer->piece, length, writer->at);
    if (got < 0) {
        return errno == EINTR ? 0 : error_os(err, errno, "reading a disk");
    }
    if (got == 0) {
        return error_set(err, ERROR_CORRUPT, "a file became shorter while it was read");
    }
    if (archive_write_data(writer->archive, writer->piece, (size_t)got) < 0) {
        return fail(writer, err);
    }
    writer->at += got;
    return 0;
}

static int step(struct package_writer *writer, struct error *err)
{
    if (writer->fd >= 0 && writer->at < writer->size) {
        return write_piece(writer, err);
    }
    fd_close_slot(&writer->fd);
    if (writer->next < writer->count) {
        return begin_entry(writer, &writer->entries[writer->next++], err);
    }
    writer->is_closed = true;
    return archive_write_close(writer->archive) == ARCHIVE_OK ? 0 : fail(writer, err);
}

int package_writer_step(struct package_writer *writer, struct buffer *out, struct error *err)
{
    enum { TURNS = 256 }; /* holes bring nothing to send: do not come back for each of them */
    int r = 0;
    writer->out = out;
    for (int i = 0; i < TURNS && r == 0 && !writer->is_closed && out->used < PIECE; i++) {
        r = step(writer, err);
    }
    writer->out = NULL;
    return r < 0 ? r : !writer->is_closed;
}
