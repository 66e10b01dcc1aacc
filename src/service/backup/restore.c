/*
 * A data folder out of a backup.  The file is somebody's input: names, order, sizes and sums are
 * checked, and nothing is unpacked but what we know.
 */
#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/random.h"
#include "base/text.h"

#include "engine/image/image.h"
#include "engine/store/store.h"

#include "service/backup/backup.h"
#include "service/backup/format.h"

enum { MANIFEST_MAX = 64 << 10, SUMS_MAX = 64 << 20, READ_BYTES = 256 << 10 };

static const uint64_t state_max = UINT64_C(4) << 30;

struct restore {
    const char *path;
    struct archive *archive;
    struct image_store *images;
    struct buffer state;
    struct buffer sums;     /* as computed */
    struct buffer expected; /* as the file has them */
    struct backup_info info;
    bool has_manifest;
    bool has_sums;
    struct error *err;
};

static int cut(const struct restore *restore)
{
    return error_set(restore->err, ERROR_CORRUPT,
                     "%s is cut or damaged: it does not end as a backup does", restore->path);
}

static int archive_failed(const struct restore *restore)
{
    const char *text = archive_error_string(restore->archive);
    return error_set(restore->err, ERROR_CORRUPT, "%s is cut or damaged: %s", restore->path,
                     text != NULL ? text : "not a tar file");
}

/* The whole of the current file. */
static int take_file(struct restore *restore, uint64_t size, uint64_t most, struct buffer *out)
{
    if (size > most) {
        return error_set(restore->err, ERROR_TOO_LARGE, "%s: a file in it is too large",
                         restore->path);
    }
    uint8_t *room = buffer_reserve(out, size);
    for (uint64_t done = 0; done < size;) {
        la_ssize_t got = archive_read_data(restore->archive, room + done, size - done);
        if (got <= 0) {
            return got < 0 ? archive_failed(restore) : cut(restore);
        }
        done += (uint64_t)got;
    }
    out->used += size;
    return 0;
}

static void add_sum(struct restore *restore, const char *digest, const char *name)
{
    buffer_append_format(&restore->sums, "%s  %s\n", digest, name);
}

static int take_manifest(struct restore *restore, uint64_t size)
{
    BUFFER_OWNED struct buffer text = {0};
    JSON_OWNED json_t *manifest = NULL;
    char digest[HASH_TEXT_SIZE];
    int r = take_file(restore, size, MANIFEST_MAX, &text);
    r = r < 0 ? r : json_read(text.data, text.used, &manifest, restore->err);
    if (r < 0) {
        return r;
    }
    json_int_t format = json_integer_value(json_object_get(manifest, "format"));
    const char *version = json_string_value(json_object_get(manifest, "blixard"));
    const char *created = json_string_value(json_object_get(manifest, "created_at"));
    json_int_t index = json_integer_value(json_object_get(manifest, "index"));
    if (format > BACKUP_FORMAT) {
        return error_set(
            restore->err, ERROR_UNSUPPORTED,
            "%s was written by Blixard %s, whose format is newer: restore with that one",
            restore->path, version != NULL ? version : "?");
    }
    if (format != BACKUP_FORMAT || index <= 0) {
        return error_set(restore->err, ERROR_INVALID, "%s is no backup of Blixard", restore->path);
    }
    snprintf(restore->info.version, sizeof(restore->info.version), "%s",
             version != NULL ? version : "");
    snprintf(restore->info.created_at, sizeof(restore->info.created_at), "%s",
             created != NULL ? created : "");
    restore->info.index = (uint64_t)index;
    restore->has_manifest = true;
    hash_bytes(text.data, text.used, digest);
    add_sum(restore, digest, BACKUP_MANIFEST);
    return 0;
}

static int take_state(struct restore *restore, uint64_t size)
{
    char digest[HASH_TEXT_SIZE];
    int r = take_file(restore, size, state_max, &restore->state);
    if (r < 0) {
        return r;
    }
    hash_bytes(restore->state.data, restore->state.used, digest);
    add_sum(restore, digest, BACKUP_STATE);
    restore->info.bytes += size;
    return 0;
}

static int copy_blob(struct restore *restore, struct image_writer *writer)
{
    uint8_t *bytes = memory_new(READ_BYTES, 1);
    la_ssize_t got = 0;
    int r = 0;
    while (r == 0 && (got = archive_read_data(restore->archive, bytes, READ_BYTES)) > 0) {
        r = image_writer_add(writer, bytes, (size_t)got, restore->err);
    }
    free(bytes);
    return r < 0 ? r : got < 0 ? archive_failed(restore) : 0;
}

/* A blob's name is its content's digest: what was damaged shows here. */
static int take_blob(struct restore *restore, const char *name)
{
    struct image_writer *writer = NULL;
    char id[HASH_TEXT_SIZE];
    uint64_t size = 0;
    int r = image_writer_new(restore->images, &writer, restore->err);
    if (r < 0) {
        return r;
    }
    r = copy_blob(restore, writer);
    if (r < 0) {
        image_writer_abort(writer);
        return r;
    }
    r = image_writer_finish(writer, id, &size, restore->err);
    if (r < 0) {
        return r;
    }
    if (strcmp(id, name + strlen(BACKUP_BLOBS)) != 0) {
        return error_set(restore->err, ERROR_CORRUPT,
                         "%s is damaged: the content of %.80s is not what its name says",
                         restore->path, name);
    }
    add_sum(restore, id, name);
    restore->info.blobs++;
    restore->info.bytes += size;
    return 0;
}

static int take_entry(struct restore *restore, struct archive_entry *entry)
{
    const char *name = archive_entry_pathname(entry);
    uint64_t size = (uint64_t)archive_entry_size(entry);
    bool is_first = !restore->has_manifest;
    if (name == NULL || archive_entry_filetype(entry) != AE_IFREG || restore->has_sums ||
        is_first != (strcmp(name, BACKUP_MANIFEST) == 0)) {
        return error_set(restore->err, ERROR_INVALID, "%s is no backup of Blixard", restore->path);
    }
    if (is_first) {
        return take_manifest(restore, size);
    }
    if (strcmp(name, BACKUP_STATE) == 0 && restore->state.used == 0) {
        return take_state(restore, size);
    }
    if (text_starts_with(name, BACKUP_BLOBS)) {
        return take_blob(restore, name);
    }
    if (strcmp(name, BACKUP_SUMS) == 0) {
        restore->has_sums = true;
        return take_file(restore, size, SUMS_MAX, &restore->expected);
    }
    return error_set(restore->err, ERROR_INVALID, "%s has a file that no backup has: %.80s",
                     restore->path, name);
}

static int unpack(struct restore *restore)
{
    int r = 0;
    while (r == 0) {
        struct archive_entry *entry = NULL;
        int next = archive_read_next_header(restore->archive, &entry);
        if (next == ARCHIVE_EOF) {
            break;
        }
        r = next == ARCHIVE_OK ? take_entry(restore, entry) : archive_failed(restore);
    }
    if (r < 0) {
        return r;
    }
    if (!restore->has_sums || restore->state.used == 0) {
        return cut(restore);
    }
    if (restore->expected.used != restore->sums.used ||
        memcmp(restore->expected.data, restore->sums.data, restore->sums.used) != 0) {
        return error_set(restore->err, ERROR_CORRUPT,
                         "%s is damaged: its SHA256SUMS are not those of its files", restore->path);
    }
    return 0;
}

/* ---- The folder ---- */

struct missing {
    struct image_store *images;
    char id[HASH_TEXT_SIZE];
};

static bool look_for_blob(sqlite3_stmt *row, void *context)
{
    struct missing *missing = context;
    const char *id = (const char *)sqlite3_column_text(row, 0);
    if (image_exists(missing->images, id)) {
        return true;
    }
    snprintf(missing->id, sizeof(missing->id), "%s", id);
    return false;
}

/*
 * The nodes of the cluster that was saved are no part of what is restored: their keys are in no
 * backup, and the authority's key cannot be opened without them.  One node comes of it, that makes
 * a cluster anew.
 */
static int forget_cluster(struct restore *restore, struct store *store)
{
    static const char *const statements[] = {
        "DELETE FROM client",
        "DELETE FROM join_token",
        "DELETE FROM removed_node",
        "DELETE FROM holder",
        "DELETE FROM node",
        "DELETE FROM cluster",
        "UPDATE operation SET node = NULL WHERE node IS NOT NULL",
    };
    struct store_command *command = store_command_new();
    for (size_t i = 0; i < sizeof(statements) / sizeof(statements[0]); i++) {
        store_command_add(command, statements[i], "");
    }
    return store_write(store, command, restore->err);
}

/* Opened as the daemon will: the state is there, and each module that it names. */
static int check_folder(struct restore *restore, struct loop *loop, const char *store_folder)
{
    struct store *store = NULL;
    struct missing missing = {.images = restore->images};
    const struct store_options options = {.folder = store_folder};
    int r = store_open(loop, &options, &store, restore->err);
    if (r < 0) {
        return r;
    }
    r = store_query(store, restore->err, look_for_blob, &missing,
                    "SELECT DISTINCT module FROM version", "");
    if (r == 0 && missing.id[0] != '\0') {
        r = error_set(restore->err, ERROR_CORRUPT, "%s lacks the module %s", restore->path,
                      missing.id);
    }
    if (r == 0 && store_index(store) <= restore->info.index) {
        r = error_set(restore->err, ERROR_CORRUPT, "%s: the state did not come to be",
                      restore->path);
    }
    r = r < 0 ? r : forget_cluster(restore, store);
    store_close(store);
    return r;
}

static int build_folder(struct restore *restore, struct loop *loop, const char *folder)
{
    MEMORY_OWNED char *images = memory_format("%s/images", folder);
    MEMORY_OWNED char *store = memory_format("%s/store", folder);
    int r = file_make_folder(folder, 0700, restore->err);
    r = r < 0 ? r : image_store_open(images, &restore->images, restore->err);
    if (r < 0) {
        return r;
    }
    r = unpack(restore);
    r = r < 0 ? r
              : store_seed(loop, store, restore->state.data, restore->state.used,
                           restore->info.index, restore->err);
    r = r < 0 ? r : check_folder(restore, loop, store);
    image_store_close(restore->images);
    return r;
}

/* Beside it first; then in its place. */
static int restore_beside(struct restore *restore, struct loop *loop, const char *data_folder)
{
    char suffix[9];
    random_hex(suffix, 8);
    MEMORY_OWNED char *beside = memory_format("%s.restoring-%s", data_folder, suffix);
    int r = build_folder(restore, loop, beside);
    if (r == 0 && rename(beside, data_folder) < 0) {
        r = errno == ENOTEMPTY || errno == EEXIST
            ? error_set(restore->err, ERROR_EXISTS,
                        "%s is not empty: move it away first, or restore into another folder",
                        data_folder)
            : error_os(restore->err, errno, "putting %s in its place", data_folder);
    }
    if (r < 0) {
        struct error ignored = {0};
        file_remove_tree(beside, &ignored);
    }
    return r;
}

static int check_target(const char *data_folder, struct error *err)
{
    if (rmdir(data_folder) < 0 && errno != ENOENT) {
        return errno == ENOTEMPTY || errno == EEXIST
            ? error_set(err, ERROR_EXISTS,
                        "%s is not empty: move it away first, or restore into another folder",
                        data_folder)
            : error_os(err, errno, "restoring into %s", data_folder);
    }
    return 0;
}

int backup_restore(struct loop *loop, const char *path, const char *data_folder,
                   struct backup_info *ret_info, struct error *err)
{
    struct restore restore = {.path = path, .err = err};
    int r = check_target(data_folder, err);
    if (r < 0) {
        return r;
    }
    restore.archive = archive_read_new();
    archive_read_support_format_tar(restore.archive);
    if (archive_read_open_filename(restore.archive, path, READ_BYTES) != ARCHIVE_OK) {
        int cause = archive_errno(restore.archive);
        r = cause == ENOENT ? error_set(err, ERROR_NOT_FOUND, "there is no file %s", path)
                            : archive_failed(&restore);
    }
    r = r < 0 ? r : restore_beside(&restore, loop, data_folder);
    archive_read_free(restore.archive);
    buffer_done(&restore.state);
    buffer_done(&restore.sums);
    buffer_done(&restore.expected);
    *ret_info = restore.info;
    return r;
}
