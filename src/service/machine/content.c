/* The content of a machine as a folder.  See content.h. */
#include "service/machine/content.h"

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

#include "engine/hypervisor/template.h"

#include "service/machine/parts.h"
#include "service/machine/sparse.h"

enum { MANIFEST_BYTES_MAX = 1 << 20 };

static const char *const disk_names[] = {"disk.raw",   "disk.qcow2",     "base.raw",
                                         CONTENT_BASE, CONTENT_FIRMWARE, CONTENT_USER};
static const char *const memory_names[] = {CONTENT_STATE, CONTENT_MEMORY};
enum { DISK_NAMES = 6, MEMORY_NAMES = 2 };

static char *join(const char *folder, const char *name)
{
    return memory_format("%s/%s", folder, name);
}

static bool has(const char *folder, const char *name)
{
    MEMORY_OWNED char *path = join(folder, name);
    return file_exists(path);
}

static int sync_folder(const char *folder, struct error *err)
{
    FD_OWNED int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return fd >= 0 && fsync(fd) == 0 ? 0 : error_os(err, errno, "%s", folder);
}

void content_volume_name(unsigned slot, char ret_name[24])
{
    snprintf(ret_name, 24, "volume-%u.raw", slot);
}

bool content_is_file(const char *name)
{
    for (unsigned i = 0; i < CONTENT_VOLUMES_MAX; i++) {
        char volume[24];
        content_volume_name(i, volume);
        if (strcmp(name, volume) == 0) {
            return true;
        }
    }
    for (size_t i = 0; i < DISK_NAMES; i++) {
        if (strcmp(name, disk_names[i]) == 0) {
            return true;
        }
    }
    return strcmp(name, CONTENT_STATE) == 0 || strcmp(name, CONTENT_MEMORY) == 0;
}

/* ---- Making one ---- */

static int link_file(const char *from_folder, const char *from_name, const char *folder,
                     const char *name, struct error *err)
{
    MEMORY_OWNED char *from = join(from_folder, from_name);
    MEMORY_OWNED char *to = join(folder, name);
    return link(from, to) == 0 ? 0 : error_os(err, errno, "linking %s to %s", to, from);
}

static int copy_file(const char *from_folder, const char *name, const char *folder, mode_t mode,
                     struct error *err)
{
    MEMORY_OWNED char *from = join(from_folder, name);
    MEMORY_OWNED char *to = join(folder, name);
    return sparse_copy(from, to, mode, err);
}

int content_copy_disks(const char *machine_folder, const char *folder, struct error *err)
{
    int r = has(machine_folder, "initrd")
        ? link_file(machine_folder, "initrd", folder, "initrd", err)
        : 0;
    for (size_t i = 0; i < DISK_NAMES && r == 0; i++) {
        bool is_base =
            strcmp(disk_names[i], "base.raw") == 0 || strcmp(disk_names[i], CONTENT_BASE) == 0;
        bool is_secret = strcmp(disk_names[i], CONTENT_USER) == 0;
        if (has(machine_folder, disk_names[i])) {
            r = is_base
                ? link_file(machine_folder, disk_names[i], folder, disk_names[i], err)
                : copy_file(machine_folder, disk_names[i], folder, is_secret ? 0400 : 0444, err);
        }
    }
    return r;
}

static int seal_file(const char *folder, const char *name, json_t *files, uint64_t *bytes,
                     struct error *err)
{
    char digest[HASH_TEXT_SIZE];
    struct stat status;
    MEMORY_OWNED char *path = join(folder, name);
    FD_OWNED int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 || fstat(fd, &status) < 0 || fdatasync(fd) < 0) {
        return error_os(err, errno, "%s", path);
    }
    int r = sparse_digest(fd, digest, err);
    if (r == 0) {
        *bytes += sparse_usage(fd);
        json_array_append_new(files,
                              json_pack("{s:s, s:I, s:s}", "name", name, "size_bytes",
                                        (json_int_t)status.st_size, "digest", digest));
    }
    return r;
}

static int write_manifest(const char *folder, const json_t *manifest, struct error *err)
{
    MEMORY_OWNED char *path = join(folder, CONTENT_MANIFEST);
    MEMORY_OWNED char *text = json_dumps(manifest, JSON_INDENT(1));
    return file_write(path, text, strlen(text), 0600, err);
}

int content_seal(const char *folder, const json_t *about, uint64_t *ret_bytes, struct error *err)
{
    JSON_OWNED json_t *manifest = json_deep_copy(about);
    json_t *files = json_array();
    uint64_t bytes = 0;
    int r = 0;
    json_object_set_new(manifest, "format", json_integer(CONTENT_FORMAT));
    json_object_set_new(manifest, "files", files);
    for (size_t i = 0; i < DISK_NAMES && r == 0; i++) {
        r = has(folder, disk_names[i]) ? seal_file(folder, disk_names[i], files, &bytes, err) : 0;
    }
    for (size_t i = 0; i < MEMORY_NAMES && r == 0; i++) {
        r = has(folder, memory_names[i]) ? seal_file(folder, memory_names[i], files, &bytes, err)
                                         : 0;
    }
    for (unsigned i = 0; i < CONTENT_VOLUMES_MAX && r == 0; i++) {
        char volume[24];
        content_volume_name(i, volume);
        r = has(folder, volume) ? seal_file(folder, volume, files, &bytes, err) : 0;
    }
    r = r < 0 ? r : write_manifest(folder, manifest, err);
    if (r == 0) {
        *ret_bytes = bytes;
    }
    return r;
}

/* ---- Reading one ---- */

static int check_file(const char *folder, const json_t *file, bool deep, struct error *err)
{
    char digest[HASH_TEXT_SIZE];
    struct stat status;
    const char *name = json_string_value(json_object_get(file, "name"));
    const char *wanted = json_string_value(json_object_get(file, "digest"));
    json_int_t size = json_integer_value(json_object_get(file, "size_bytes"));
    if (name == NULL || wanted == NULL || !content_is_file(name)) {
        return error_set(err, ERROR_CORRUPT, "%s: the manifest names a file that cannot be",
                         folder);
    }
    MEMORY_OWNED char *path = join(folder, name);
    FD_OWNED int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 || fstat(fd, &status) < 0) {
        return error_set(err, ERROR_CORRUPT, "%s is missing or cannot be read (%s)", path,
                         strerrordesc_np(errno));
    }
    if (status.st_size != size) {
        return error_set(err, ERROR_CORRUPT, "%s has %lld bytes, and had %lld", path,
                         (long long)status.st_size, (long long)size);
    }
    bool is_looked_at = deep || strcmp(name, CONTENT_STATE) == 0;
    int r = is_looked_at ? sparse_digest(fd, digest, err) : 0;
    if (r == 0 && is_looked_at && strcmp(digest, wanted) != 0) {
        return error_set(err, ERROR_CORRUPT,
                         "%s was damaged: its content is not what it was when it was made", path);
    }
    return r;
}

int content_open(const char *folder, bool deep, json_t **ret_manifest, struct error *err)
{
    BUFFER_OWNED struct buffer text = {0};
    JSON_OWNED json_t *manifest = NULL;
    MEMORY_OWNED char *path = join(folder, CONTENT_MANIFEST);
    size_t index = 0;
    json_t *file = NULL;
    int r = file_read(path, MANIFEST_BYTES_MAX, &text, err);
    if (r == 0 && json_read(text.data, text.used, &manifest, err) < 0) {
        return error_set(err, ERROR_CORRUPT, "%s is no JSON", path);
    }
    if (r < 0) {
        return r;
    }
    if (json_integer_value(json_object_get(manifest, "format")) != CONTENT_FORMAT) {
        return error_set(err, ERROR_UNSUPPORTED, "%s is of another Blixard's format", path);
    }
    const json_t *files = json_object_get(manifest, "files");
    if (json_array_size(files) == 0 || json_array_size(files) > CONTENT_FILES_MAX ||
        !json_is_object(json_object_get(manifest, "config"))) {
        return error_set(err, ERROR_CORRUPT, "%s lists no files", path);
    }
    json_array_foreach(files, index, file)
    {
        if (check_file(folder, file, deep, err) < 0) {
            return -(int)err->kind;
        }
    }
    *ret_manifest = manifest;
    manifest = NULL;
    return 0;
}

static bool names_file(const json_t *manifest, const char *name)
{
    size_t index = 0;
    json_t *file = NULL;
    json_array_foreach(json_object_get(manifest, "files"), index, file)
    {
        const char *other = json_string_value(json_object_get(file, "name"));
        if (other != NULL && strcmp(other, name) == 0) {
            return true;
        }
    }
    return false;
}

bool content_has_memory(const json_t *manifest)
{
    return names_file(manifest, CONTENT_STATE);
}

/* ---- Beginning from one ---- */

static int own(const char *folder, const char *name, uid_t uid, struct error *err)
{
    MEMORY_OWNED char *path = join(folder, name);
    return geteuid() != 0 || lchown(path, uid, uid) == 0
        ? 0
        : error_os(err, errno, "giving %s to its machine", path);
}

/* Where the file system shares blocks, it takes no space (sparse_copy()). */
static int lay_out_copy(const char *content, const char *folder, const struct content_use *use,
                        json_t *files, struct error *err)
{
    int r = copy_file(content, "disk.raw", folder, 0600, err);
    json_array_append_new(files, json_string("disk.raw"));
    return r < 0 ? r : own(folder, "disk.raw", use->uid, err);
}

static uint64_t raw_size(const char *path)
{
    struct stat status;
    return stat(path, &status) == 0 ? (uint64_t)status.st_size : 0;
}

/* What its guest sees, of qcow2's header; 0: it has none. */
static uint64_t overlay_size(const char *path)
{
    enum { SIZE_AT = 24, HEADER = 32 };
    static const uint8_t magic[] = {'Q', 'F', 'I', 0xfb};
    uint8_t header[HEADER];
    uint64_t size = 0;
    FD_OWNED int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || read(fd, header, HEADER) != HEADER || memcmp(header, magic, sizeof(magic)) != 0) {
        return 0;
    }
    for (size_t i = SIZE_AT; i < HEADER; i++) {
        size = size << 8 | header[i];
    }
    return size;
}

uint64_t content_disk_size(const char *folder)
{
    MEMORY_OWNED char *raw = memory_format("%s/disk.raw", folder);
    MEMORY_OWNED char *overlay = memory_format("%s/disk.qcow2", folder);
    return file_exists(overlay) ? overlay_size(overlay) : raw_size(raw);
}

/* Over a disk that is linked, and read by whoever begins from it. */
static int lay_out_over(const char *content, const char *disk, const char *base, const char *folder,
                        const struct content_use *use, json_t *files, struct error *err)
{
    const char *format = strrchr(base, '.') + 1;
    MEMORY_OWNED char *overlay = join(folder, "disk.qcow2");
    uint64_t size = content_disk_size(content);
    int r = size > 0 ? link_file(content, disk, folder, base, err)
                     : error_set(err, ERROR_CORRUPT, "%s/%s is no disk", content, disk);
    r = r < 0 ? r : template_make_overlay(overlay, base, format, size, err);
    json_array_append_new(files, json_string(base));
    json_array_append_new(files, json_string("disk.qcow2"));
    return r < 0 ? r : own(folder, "disk.qcow2", use->uid, err);
}

/* One that is laid over such a disk already is copied: it has what was written since, and nothing
 * is laid over ever more. */
static int lay_out_overlay(const char *content, const char *base, const char *folder,
                           const struct content_use *use, json_t *files, struct error *err)
{
    int r = copy_file(content, "disk.qcow2", folder, 0600, err);
    r = r < 0 ? r : own(folder, "disk.qcow2", use->uid, err);
    r = r < 0 ? r : link_file(content, base, folder, base, err);
    json_array_append_new(files, json_string("disk.qcow2"));
    json_array_append_new(files, json_string(base));
    return r;
}

static int lay_out_disk(const char *content, const char *folder, const struct content_use *use,
                        json_t *files, struct error *err)
{
    if (has(content, "disk.raw")) {
        return use->has_raw_disks
            ? lay_out_copy(content, folder, use, files, err)
            : lay_out_over(content, "disk.raw", "base.raw", folder, use, files, err);
    }
    const char *base = has(content, "base.raw") ? "base.raw"
        : has(content, CONTENT_BASE)            ? CONTENT_BASE
                                                : NULL;
    return base != NULL
        ? lay_out_overlay(content, base, folder, use, files, err)
        : lay_out_over(content, "disk.qcow2", CONTENT_BASE, folder, use, files, err);
}

/* What is not a disk, and still the machine's own. */
static int lay_out_settings(const char *content, const char *folder, const struct content_use *use,
                            json_t *files, struct error *err)
{
    static const char *const names[] = {CONTENT_FIRMWARE, CONTENT_USER};
    int r = 0;
    for (size_t i = 0; i < 2 && r == 0; i++) {
        if (has(content, names[i])) {
            r = copy_file(content, names[i], folder, 0600, err);
            json_array_append_new(files, json_string(names[i]));
        }
    }
    return r < 0 || !has(folder, CONTENT_FIRMWARE) ? r
                                                   : own(folder, CONTENT_FIRMWARE, use->uid, err);
}

static int lay_out_memory(const char *content, const char *folder, const struct content_use *use,
                          json_t *files, struct error *err)
{
    MEMORY_OWNED char *resume = join(folder, CONTENT_RESUME);
    MEMORY_OWNED char *origin = join(resume, CONTENT_ORIGIN);
    int r = file_make_folder(resume, 0711, err);
    for (size_t i = 0; i < MEMORY_NAMES && r == 0; i++) {
        bool is_needed = strcmp(memory_names[i], CONTENT_STATE) == 0;
        r = is_needed || has(content, memory_names[i])
            ? link_file(content, memory_names[i], resume, memory_names[i], err)
            : 0;
    }
    if (r == 0 && use->origin != NULL) {
        r = file_write(origin, use->origin, strlen(use->origin), 0600, err);
    }
    if (r == 0 && use->volumes != NULL) {
        MEMORY_OWNED char *path = join(resume, CONTENT_VOLUMES);
        MEMORY_OWNED char *text = json_dumps(use->volumes, JSON_COMPACT);
        r = file_write(path, text, strlen(text), 0600, err);
    }
    json_array_append_new(files, json_string(CONTENT_RESUME));
    return r;
}

int content_lay_out(const char *content, const char *folder, const struct content_use *use,
                    struct error *err)
{
    JSON_OWNED json_t *manifest = json_pack("{s:[]}", "files");
    json_t *files = json_object_get(manifest, "files");
    int r = file_make_folder(folder, 0711, err);
    if (r == 0) {
        r = lay_out_disk(content, folder, use, files, err);
    }
    r = r < 0 ? r : lay_out_settings(content, folder, use, files, err);
    if (r == 0 && use->with_memory && has(content, "initrd")) {
        r = link_file(content, "initrd", folder, "initrd", err);
    }
    if (r == 0 && use->with_memory) {
        r = lay_out_memory(content, folder, use, files, err);
    }
    r = r < 0 ? r : write_manifest(folder, manifest, err);
    return r < 0 ? r : sync_folder(folder, err);
}

/* ---- Taking it over ---- */

static bool is_listed(const json_t *files, const char *name)
{
    size_t index = 0;
    json_t *file = NULL;
    json_array_foreach(files, index, file)
    {
        const char *other = json_string_value(file);
        if (other != NULL && strcmp(other, name) == 0) {
            return true;
        }
    }
    return false;
}

/* What is listed and not in `incoming` any more was moved before the crash. */
static int take_one(const char *incoming, const char *folder, const char *name, bool is_new,
                    struct error *err)
{
    MEMORY_OWNED char *from = join(incoming, name);
    MEMORY_OWNED char *to = join(folder, name);
    if (is_new && !file_exists(from)) {
        return 0;
    }
    int r = file_remove_tree(to, err);
    if (r == 0 && is_new && rename(from, to) < 0) {
        r = error_os(err, errno, "moving %s to %s", from, to);
    }
    return r;
}

int content_take_incoming(const char *machine_folder, struct error *err)
{
    BUFFER_OWNED struct buffer text = {0};
    JSON_OWNED json_t *manifest = NULL;
    MEMORY_OWNED char *incoming = join(machine_folder, CONTENT_INCOMING);
    MEMORY_OWNED char *path = join(incoming, CONTENT_MANIFEST);
    if (!file_exists(incoming)) {
        return 0;
    }
    int r = file_read(path, MANIFEST_BYTES_MAX, &text, err);
    if (r < 0 && err->kind == ERROR_NOT_FOUND) {
        *err = (struct error){0};
        return file_remove_tree(incoming, err); /* all was moved: the manifest goes last */
    }
    r = r < 0 ? r : json_read(text.data, text.used, &manifest, err);
    const json_t *files = json_object_get(manifest, "files");
    for (size_t i = 0; i < DISK_NAMES && r == 0; i++) {
        bool is_new = is_listed(files, disk_names[i]);
        /* Snapshots of before it was kept do not have it. */
        if (is_new || strcmp(disk_names[i], CONTENT_USER) != 0) {
            r = take_one(incoming, machine_folder, disk_names[i], is_new, err);
        }
    }
    r = r < 0
        ? r
        : take_one(incoming, machine_folder, CONTENT_RESUME, is_listed(files, CONTENT_RESUME), err);
    r = r < 0 ? r : sync_folder(machine_folder, err);
    if (r == 0 && unlink(path) < 0) {
        r = error_os(err, errno, "removing %s", path);
    }
    return r < 0 ? r : file_remove_tree(incoming, err);
}
