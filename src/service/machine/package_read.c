/* Reading a machine from one file, which may come from anywhere.  See package.h. */
#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
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
#include "base/text.h"

#include "engine/image/disk.h"
#include "engine/image/image.h"

#include "service/machine/content.h"
#include "service/machine/migrate.h"
#include "service/machine/package.h"
#include "service/machine/parts.h"

enum { MANIFEST_MAX = 1 << 20, BLOBS_MAX = 4, LAYER_ID_LENGTH = 16 };
#define FILE_MAX  (UINT64_C(64) << 40)
#define SMALL_MAX (UINT64_C(64) << 20) /* even a small archive may hold so much */

struct reading {
    struct archive *archive;
    const char *folder;
    struct image_store *images;
    json_t *manifest;
    uint64_t bytes_max;
    bool is_ours;   /* a node has made it, and bytes_max is what there is room for */
    uint64_t bytes; /* written so far */
    size_t entries;
};

static int fail(const struct reading *reading, struct error *err)
{
    const char *text = archive_error_string(reading->archive);
    MEMORY_OWNED char *copy = memory_copy_string(text != NULL ? text : "it cannot be read");
    return error_set(err, ERROR_CORRUPT, "it is no good archive of a machine: %.300s",
                     text_make_printable(copy, false));
}

static int take_bytes(struct reading *reading, size_t length, struct error *err)
{
    reading->bytes += length;
    if (reading->bytes <= reading->bytes_max) {
        return 0;
    }
    return reading->is_ours
        ? error_set(err, ERROR_FULL, "there is room for %" PRIu64 " MiB", reading->bytes_max >> 20)
        : error_set(err, ERROR_TOO_LARGE,
                    "the archive unpacks to more than %d times its size: that is no machine",
                    PACKAGE_RATIO_MAX);
}

/* ---- The manifest ---- */

static int check_snapshots(const json_t *list, struct error *err)
{
    size_t index = 0;
    json_t *snapshot = NULL;
    if (list != NULL && (!json_is_array(list) || json_array_size(list) > PACKAGE_SNAPSHOTS_MAX)) {
        return error_set(err, ERROR_CORRUPT, "manifest.json: too many snapshots");
    }
    json_array_foreach(list, index, snapshot)
    {
        const char *name = json_string_value(json_object_get(snapshot, "name"));
        if (name == NULL || !text_is_name(name)) {
            return error_set(err, ERROR_CORRUPT, "manifest.json: a snapshot has no good name");
        }
    }
    return 0;
}

bool package_is_own(const char *name)
{
    static const char *const names[] = {CONTENT_USER, CONTENT_FIRMWARE, SEED_FILE,    "booted",
                                        "grow",       "disk.raw",       "disk.qcow2", "base.raw",
                                        CONTENT_BASE, MIGRATION_STATE};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (strcmp(name, names[i]) == 0) {
            return true;
        }
    }
    return false;
}

static bool is_layer_id(const char *text)
{
    return text != NULL && strlen(text) == LAYER_ID_LENGTH &&
        strspn(text, "0123456789abcdef") == LAYER_ID_LENGTH;
}

static int check_parts(const json_t *manifest, struct error *err)
{
    const json_t *layers = json_object_get(manifest, "layers");
    const json_t *own = json_object_get(manifest, "own");
    size_t index = 0;
    json_t *one = NULL;
    bool is_good =
        json_array_size(layers) <= PACKAGE_LAYERS_MAX && json_array_size(own) <= PACKAGE_OWN_MAX;
    json_array_foreach(layers, index, one)
    {
        is_good = is_good && is_layer_id(json_string_value(json_object_get(one, "id"))) &&
            json_is_string(json_object_get(one, "format"));
    }
    json_array_foreach(own, index, one)
    {
        is_good = is_good && json_is_string(one) && package_is_own(json_string_value(one));
    }
    return is_good ? 0 : error_set(err, ERROR_CORRUPT, "manifest.json names files that cannot be");
}

static int check_manifest(const json_t *manifest, struct error *err)
{
    const char *format = json_string_value(json_object_get(manifest, "format"));
    const char *name = json_string_value(json_object_get(manifest, "name"));
    const json_t *blobs = json_object_get(manifest, "blobs");
    if (format == NULL || strcmp(format, "blixard-machine") != 0) {
        return error_set(err, ERROR_CORRUPT, "the archive is not one of a machine");
    }
    if (json_integer_value(json_object_get(manifest, "version")) != 1) {
        return error_set(err, ERROR_UNSUPPORTED, "the archive is of a later Blixard's version");
    }
    if (name == NULL || !text_is_name(name) ||
        !json_is_object(json_object_get(manifest, "config")) || !json_is_array(blobs) ||
        json_array_size(blobs) > BLOBS_MAX) {
        return error_set(err, ERROR_CORRUPT, "manifest.json does not describe a machine");
    }
    int r = check_snapshots(json_object_get(manifest, "snapshots"), err);
    return r < 0 ? r : check_parts(manifest, err);
}

static int read_manifest(struct reading *reading, struct error *err)
{
    BUFFER_OWNED struct buffer text = {0};
    const void *bytes = NULL;
    size_t length = 0;
    la_int64_t at = 0;
    int r = 0;
    while ((r = archive_read_data_block(reading->archive, &bytes, &length, &at)) == ARCHIVE_OK) {
        if (text.used + length > MANIFEST_MAX) {
            return error_set(err, ERROR_TOO_LARGE, "manifest.json is too large");
        }
        buffer_append(&text, bytes, length);
    }
    if (r != ARCHIVE_EOF) {
        return fail(reading, err);
    }
    if (json_read(text.data, text.used, &reading->manifest, err) < 0) {
        return error_set(err, ERROR_CORRUPT, "manifest.json is no JSON");
    }
    return check_manifest(reading->manifest, err);
}

/* ---- Files ---- */

static bool is_zero(const uint8_t *bytes, size_t length)
{
    return length == 0 || (bytes[0] == 0 && memcmp(bytes, bytes + 1, length - 1) == 0);
}

static int write_part(int fd, const uint8_t *bytes, size_t length, uint64_t at)
{
    for (size_t written = 0; written < length;) {
        ssize_t wrote = pwrite(fd, bytes + written, length - written, (off_t)(at + written));
        if (wrote < 0 && errno != EINTR) {
            return -errno;
        }
        written += wrote > 0 ? (size_t)wrote : 0;
    }
    return 0;
}

/* Zeros stay holes, whatever the archive has of them, and take no room: a disk that was filled with
 * them packs to next to nothing, and is no bomb. */
static int write_block(struct reading *reading, int fd, const uint8_t *bytes, size_t length,
                       uint64_t at, struct error *err)
{
    enum { GRAIN = 65536 };
    for (size_t done = 0; done < length;) {
        size_t part = length - done < GRAIN ? length - done : GRAIN;
        if (!is_zero(bytes + done, part)) {
            if (take_bytes(reading, part, err) < 0) {
                return -(int)err->kind;
            }
            int r = write_part(fd, bytes + done, part, at + done);
            if (r < 0) {
                return error_os(err, -r, "writing what is in the archive");
            }
        }
        done += part;
    }
    return 0;
}

static int read_file(struct reading *reading, uint64_t size, const char *path, struct error *err)
{
    const void *bytes = NULL;
    size_t length = 0;
    la_int64_t at = 0;
    int got = 0;
    mode_t mode = text_ends_with(path, "/" CONTENT_USER) ? 0400 : 0444;
    FD_OWNED int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, mode);
    if (fd < 0 && errno == EEXIST) {
        return error_set(err, ERROR_CORRUPT, "the archive has one file twice");
    }
    if (fd < 0 || ftruncate(fd, (off_t)size) < 0) {
        return error_os(err, errno, "making %s", path);
    }
    while ((got = archive_read_data_block(reading->archive, &bytes, &length, &at)) == ARCHIVE_OK) {
        if (at < 0 || (uint64_t)at > size || length > size - (uint64_t)at) {
            return error_set(err, ERROR_CORRUPT, "a file of the archive is longer than it says");
        }
        if (write_block(reading, fd, bytes, length, (uint64_t)at, err) < 0) {
            return -(int)err->kind;
        }
    }
    if (got != ARCHIVE_EOF) {
        return fail(reading, err);
    }
    /* As template_make_memory() has it: the VMM opens it for writing. */
    bool is_memory = text_ends_with(path, "/" CONTENT_MEMORY);
    return !is_memory || fchmod(fd, geteuid() == 0 ? 0666 : 0600) == 0
        ? 0
        : error_os(err, errno, "making %s", path);
}

static int copy_blob(struct reading *reading, struct image_writer *writer, struct error *err)
{
    const void *bytes = NULL;
    size_t length = 0;
    la_int64_t at = 0;
    uint64_t next = 0;
    int got = 0;
    int r = 0;
    while (r == 0 &&
           (got = archive_read_data_block(reading->archive, &bytes, &length, &at)) == ARCHIVE_OK) {
        r = take_bytes(reading, length, err);
        if (r == 0 && (uint64_t)at != next) {
            r = error_set(err, ERROR_CORRUPT, "a part of the image has holes");
        }
        next += length;
        r = r < 0 ? r : image_writer_add(writer, bytes, length, err);
    }
    return r < 0 || got == ARCHIVE_EOF ? r : fail(reading, err);
}

static int read_blob(struct reading *reading, const char *id, struct error *err)
{
    struct image_writer *writer = NULL;
    char got[HASH_TEXT_SIZE];
    if (image_exists(reading->images, id)) {
        return archive_read_data_skip(reading->archive) == ARCHIVE_OK ? 0 : fail(reading, err);
    }
    int r = image_writer_new(reading->images, &writer, err);
    if (r < 0) {
        return r;
    }
    image_writer_expect(writer, id);
    r = copy_blob(reading, writer, err);
    if (r < 0) {
        image_writer_abort(writer);
        return r;
    }
    return image_writer_finish(writer, got, NULL, err);
}

/* ---- Names ---- */

static bool is_listed(const json_t *list, const char *member, const char *name)
{
    size_t index = 0;
    json_t *one = NULL;
    json_array_foreach(list, index, one)
    {
        const char *text = json_string_value(member != NULL ? json_object_get(one, member) : one);
        if (text != NULL && strcmp(text, name) == 0) {
            return true;
        }
    }
    return false;
}

static bool is_content_name(const char *name)
{
    return content_is_file(name) || strcmp(name, CONTENT_MANIFEST) == 0;
}

/* Of "content/FILE" and the like: the path it gets; NULL: there is no such. */
static char *place_of(const struct reading *reading, const char *name)
{
    static const char content[] = "content/";
    static const char snapshots[] = "snapshots/";
    bool is_part =
        (text_starts_with(name, "layers/") &&
         is_listed(json_object_get(reading->manifest, "layers"), "id", name + strlen("layers/"))) ||
        (text_starts_with(name, "own/") &&
         is_listed(json_object_get(reading->manifest, "own"), NULL, name + strlen("own/")));
    if (is_part) {
        return memory_format("%s/%s", reading->folder, name);
    }
    if (text_starts_with(name, content)) {
        return is_content_name(name + sizeof(content) - 1)
            ? memory_format("%s/%s", reading->folder, name)
            : NULL;
    }
    const char *rest = name + sizeof(snapshots) - 1;
    const char *slash = text_starts_with(name, snapshots) ? strchr(rest, '/') : NULL;
    if (slash == NULL || !is_content_name(slash + 1)) {
        return NULL;
    }
    MEMORY_OWNED char *snapshot = memory_copy_text(rest, (size_t)(slash - rest));
    return is_listed(json_object_get(reading->manifest, "snapshots"), "name", snapshot)
        ? memory_format("%s/%s", reading->folder, name)
        : NULL;
}

static int read_entry(struct reading *reading, struct archive_entry *entry, struct error *err)
{
    const char *given = archive_entry_pathname(entry);
    MEMORY_OWNED char *name = memory_copy_string(given != NULL ? given : "");
    la_int64_t size = archive_entry_size(entry);
    bool is_plain = archive_entry_filetype(entry) == AE_IFREG &&
        archive_entry_hardlink(entry) == NULL && archive_entry_size_is_set(entry);
    if (!is_plain || size < 0 || (uint64_t)size > FILE_MAX ||
        ++reading->entries > PACKAGE_ENTRIES_MAX) {
        return error_set(err, ERROR_CORRUPT, "the archive has what no machine has: %.100s",
                         text_make_printable(name, false));
    }
    if (reading->manifest == NULL) {
        return strcmp(name, "manifest.json") == 0
            ? read_manifest(reading, err)
            : error_set(err, ERROR_CORRUPT, "the archive is not one of a machine");
    }
    if (text_starts_with(name, "blobs/") &&
        is_listed(json_object_get(reading->manifest, "blobs"), NULL, name + 6) &&
        image_id_is_good(name + 6)) {
        return read_blob(reading, name + 6, err);
    }
    MEMORY_OWNED char *path = place_of(reading, name);
    if (path == NULL) {
        return error_set(err, ERROR_CORRUPT, "the archive has what no machine has: %.100s",
                         text_make_printable(name, false));
    }
    MEMORY_OWNED char *folder = memory_copy_text(path, (size_t)(strrchr(path, '/') - path));
    int r = file_make_folder(folder, 0711, err);
    return r < 0 ? r : read_file(reading, (uint64_t)size, path, err);
}

/* ---- All of it ---- */

static int check_content(const char *folder, struct error *err)
{
    static const char *const overlays[] = {"disk.qcow2", CONTENT_BASE};
    json_t *manifest = NULL;
    int r = content_open(folder, true, &manifest, err);
    json_decref(manifest);
    for (size_t i = 0; i < sizeof(overlays) / sizeof(overlays[0]) && r == 0; i++) {
        MEMORY_OWNED char *overlay = memory_format("%s/%s", folder, overlays[i]);
        r = file_exists(overlay) ? disk_overlay_check(overlay, err) : 0;
    }
    return r;
}

static int verify_parts(const struct reading *reading, struct error *err)
{
    static const char *const keys[] = {"layers", "own"};
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
        size_t index = 0;
        json_t *one = NULL;
        json_array_foreach(json_object_get(reading->manifest, keys[i]), index, one)
        {
            const json_t *name = i == 0 ? json_object_get(one, "id") : one;
            MEMORY_OWNED char *path =
                memory_format("%s/%s/%s", reading->folder, keys[i], json_string_value(name));
            if (!file_exists(path)) {
                return error_set(err, ERROR_CORRUPT, "the archive lacks %s/%s", keys[i],
                                 json_string_value(name));
            }
        }
    }
    return 0;
}

static int verify(const struct reading *reading, struct error *err)
{
    size_t index = 0;
    json_t *one = NULL;
    MEMORY_OWNED char *content = memory_format("%s/content", reading->folder);
    if (reading->manifest == NULL) {
        return error_set(err, ERROR_CORRUPT, "the archive is empty");
    }
    json_array_foreach(json_object_get(reading->manifest, "blobs"), index, one)
    {
        const char *id = json_string_value(one);
        if (id == NULL || !image_id_is_good(id) || !image_exists(reading->images, id)) {
            return error_set(err, ERROR_CORRUPT, "a part of the image is not in the archive");
        }
    }
    bool is_part = json_is_true(json_object_get(reading->manifest, "is_part"));
    int r = is_part ? 0 : check_content(content, err);
    r = r < 0 ? r : verify_parts(reading, err);
    json_array_foreach(json_object_get(reading->manifest, "snapshots"), index, one)
    {
        MEMORY_OWNED char *folder = memory_format("%s/snapshots/%s", reading->folder,
                                                  json_string_value(json_object_get(one, "name")));
        r = r < 0 ? r : check_content(folder, err);
    }
    if (r < 0 && err->kind == ERROR_NOT_FOUND) {
        return error_set(err, ERROR_CORRUPT, "the archive is cut: files are missing at its end");
    }
    return r;
}

int package_read(int fd, const char *folder, struct image_store *images, uint64_t room_bytes,
                 json_t **ret_manifest, struct error *err)
{
    struct reading reading = {.folder = folder, .images = images, .is_ours = room_bytes > 0};
    struct archive_entry *entry = NULL;
    struct stat status;
    if (fstat(fd, &status) < 0) {
        return error_os(err, errno, "reading the archive");
    }
    uint64_t most = (uint64_t)status.st_size * PACKAGE_RATIO_MAX;
    reading.bytes_max = room_bytes > 0 ? room_bytes : most > SMALL_MAX ? most : SMALL_MAX;
    reading.archive = archive_read_new();
    archive_read_support_format_tar(reading.archive);
    archive_read_support_filter_zstd(reading.archive);
    int r = file_make_folder(folder, 0711, err);
    if (r == 0 && archive_read_open_fd(reading.archive, fd, 1 << 16) != ARCHIVE_OK) {
        r = fail(&reading, err);
    }
    int next = ARCHIVE_OK;
    while (r == 0 && (next = archive_read_next_header(reading.archive, &entry)) >= ARCHIVE_WARN &&
           next != ARCHIVE_EOF) {
        r = read_entry(&reading, entry, err);
    }
    if (r == 0 && next != ARCHIVE_EOF) {
        r = fail(&reading, err);
    }
    r = r < 0 ? r : verify(&reading, err);
    archive_read_free(reading.archive);
    if (r == 0) {
        *ret_manifest = reading.manifest;
    } else {
        json_decref(reading.manifest);
    }
    return r;
}
