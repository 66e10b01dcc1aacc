/* Root file systems: see rootfs.h. */
#include "engine/image/rootfs.h"

#include <archive.h>
#include <archive_entry.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <locale.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/process.h"
#include "base/text.h"

enum { PIECE_BYTES = 1 << 20, TOOL_MS = 1800000 };

/* The same for everybody, so that equal roots are equal blobs. */
static const char uuid[] = "b11ca4d0-0000-4000-8000-000000000001";

/* ---- Unpacking ---- */

static bool is_of_kernel(const char *path)
{
    static const char *const prefixes[] = {"boot/", "lib/modules/", "usr/lib/modules/"};
    path += strncmp(path, "./", 2) == 0 ? 2 : 0;
    for (size_t i = 0; i < sizeof(prefixes) / sizeof(prefixes[0]); i++) {
        if (text_starts_with(path, prefixes[i])) {
            return true;
        }
    }
    return false;
}

static int copy_content(struct archive *from, struct archive *to)
{
    const void *bytes = NULL;
    size_t length = 0;
    la_int64_t offset = 0;
    int r = archive_read_data_block(from, &bytes, &length, &offset);
    while (r == ARCHIVE_OK) {
        if (archive_write_data_block(to, bytes, length, offset) < ARCHIVE_OK) {
            return ARCHIVE_FATAL;
        }
        r = archive_read_data_block(from, &bytes, &length, &offset);
    }
    return r == ARCHIVE_EOF ? ARCHIVE_OK : r;
}

/* Names of the archive are below the working folder, hard links too. */
static int unpack_entry(struct archive *from, struct archive *to, struct archive_entry *entry,
                        bool kernel_only)
{
    const char *path = archive_entry_pathname(entry);
    bool is_file = archive_entry_filetype(entry) == AE_IFREG;
    if (path == NULL || (kernel_only && (!is_file || !is_of_kernel(path)))) {
        return ARCHIVE_OK;
    }
    int r = archive_write_header(to, entry);
    if (r >= ARCHIVE_WARN && archive_entry_size(entry) > 0) {
        r = copy_content(from, to);
    }
    return r < ARCHIVE_WARN ? r : archive_write_finish_entry(to);
}

static int unpack_all(struct archive *from, struct archive *to, bool kernel_only, size_t *ret_count,
                      struct error *err)
{
    struct archive_entry *entry = NULL;
    int r = archive_read_next_header(from, &entry);
    while (r == ARCHIVE_OK || r == ARCHIVE_WARN) {
        if (unpack_entry(from, to, entry, kernel_only) < ARCHIVE_WARN) {
            int number = archive_errno(to);
            return error_os(err, number, "unpacking %.200s: %.200s", archive_entry_pathname(entry),
                            archive_error_string(to) != NULL ? archive_error_string(to)
                                                             : "the archive is damaged");
        }
        (*ret_count)++;
        r = archive_read_next_header(from, &entry);
    }
    return r == ARCHIVE_EOF ? 0
                            : error_set(err, ERROR_INVALID, "it is no good archive: %.300s",
                                        archive_error_string(from));
}

static int with_folder(const char *folder, int *ret_before, struct error *err)
{
    *ret_before = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (*ret_before < 0 || chdir(folder) < 0) {
        return error_os(err, errno, "going to %s", folder);
    }
    return 0;
}

int rootfs_unpack(const char *archive, const char *folder, bool kernel_only, struct error *err)
{
    int flags = ARCHIVE_EXTRACT_PERM | ARCHIVE_EXTRACT_TIME | ARCHIVE_EXTRACT_SECURE_NODOTDOT |
        ARCHIVE_EXTRACT_SECURE_SYMLINKS | ARCHIVE_EXTRACT_SECURE_NOABSOLUTEPATHS;
    if (geteuid() == 0 && !kernel_only) {
        flags |= ARCHIVE_EXTRACT_OWNER | ARCHIVE_EXTRACT_XATTR;
    }
    size_t count = 0;
    MEMORY_OWNED char *path = realpath(archive, NULL);
    FD_OWNED int before = -1;
    int r = path == NULL ? error_os(err, errno, "%s", archive) : with_folder(folder, &before, err);
    if (r < 0) {
        return r;
    }
    struct archive *from = archive_read_new();
    struct archive *to = archive_write_disk_new();
    archive_read_support_filter_all(from);
    archive_read_support_format_tar(from);
    archive_write_disk_set_options(to, flags);
    /* In the C locale libarchive has no names that are not ASCII, and would leave them out. */
    locale_t utf8 = newlocale(LC_CTYPE_MASK, "C.UTF-8", (locale_t)0);
    locale_t old_locale = uselocale(utf8);
    r = archive_read_open_filename(from, path, PIECE_BYTES) == ARCHIVE_OK
        ? unpack_all(from, to, kernel_only, &count, err)
        : error_set(err, ERROR_INVALID, "%.300s", archive_error_string(from));
    archive_read_free(from);
    archive_write_free(to);
    uselocale(old_locale);
    if (utf8 != (locale_t)0) {
        freelocale(utf8);
    }
    if (fchdir(before) < 0 && r == 0) {
        r = error_os(err, errno, "going back");
    }
    return r < 0 ? error_wrap(err, "%.200s", archive) : 0;
}

/* ---- Folders ---- */

/* A hole is read as zeroes: a tar archive has none. */
static int copy_bytes(struct archive *from, struct archive *to)
{
    MEMORY_OWNED uint8_t *piece = memory_new(1, PIECE_BYTES);
    la_ssize_t got = archive_read_data(from, piece, PIECE_BYTES);
    while (got > 0) {
        if (archive_write_data(to, piece, (size_t)got) != got) {
            return ARCHIVE_FATAL;
        }
        got = archive_read_data(from, piece, PIECE_BYTES);
    }
    return got < 0 ? ARCHIVE_FATAL : ARCHIVE_OK;
}

static int copy_tree(struct archive *to, const char *folder, struct error *err)
{
    struct archive *from = archive_read_disk_new();
    int r = 0;
    archive_read_disk_set_standard_lookup(from);
    if (archive_read_disk_open(from, folder) != ARCHIVE_OK) {
        r = error_set(err, ERROR_NOT_FOUND, "%.300s", archive_error_string(from));
    }
    size_t skip = strlen(folder);
    while (r == 0) {
        struct archive_entry *entry = archive_entry_new();
        int got = archive_read_next_header2(from, entry);
        if (got == ARCHIVE_EOF) {
            archive_entry_free(entry);
            break;
        }
        archive_read_disk_descend(from);
        MEMORY_OWNED char *name =
            memory_format(".%s", got >= ARCHIVE_WARN ? archive_entry_pathname(entry) + skip : "");
        archive_entry_set_pathname(entry, name);
        bool is_good = got >= ARCHIVE_WARN && archive_write_header(to, entry) >= ARCHIVE_WARN &&
            (archive_entry_size(entry) == 0 || copy_bytes(from, to) == ARCHIVE_OK);
        if (!is_good) {
            const char *text = archive_error_string(got < ARCHIVE_WARN ? from : to);
            r = error_set(err, ERROR_OS, "copying %.200s: %.200s", name,
                          text != NULL ? text : "it cannot be read");
        }
        archive_entry_free(entry);
    }
    archive_read_free(from);
    return r;
}

int rootfs_overlay(const char *from, const char *folder, struct error *err)
{
    FD_OWNED int before = -1;
    MEMORY_OWNED char *path = realpath(from, NULL);
    int r = path == NULL ? error_os(err, errno, "%s", from) : with_folder(folder, &before, err);
    if (r < 0) {
        return r;
    }
    struct archive *to = archive_write_disk_new();
    archive_write_disk_set_options(to,
                                   ARCHIVE_EXTRACT_PERM | ARCHIVE_EXTRACT_TIME |
                                       ARCHIVE_EXTRACT_SECURE_NODOTDOT | ARCHIVE_EXTRACT_UNLINK);
    r = copy_tree(to, path, err);
    archive_write_free(to);
    if (fchdir(before) < 0 && r == 0) {
        r = error_os(err, errno, "going back");
    }
    return r;
}

int rootfs_archive(const char *folder, int fd, struct error *err)
{
    struct archive *to = archive_write_new();
    archive_write_set_format_pax_restricted(to);
    int r = archive_write_open_fd(to, fd) == ARCHIVE_OK
        ? copy_tree(to, folder, err)
        : error_set(err, ERROR_OS, "%.300s", archive_error_string(to));
    if (archive_write_close(to) != ARCHIVE_OK && r == 0) {
        r = error_set(err, ERROR_OS, "writing an archive: %.300s", archive_error_string(to));
    }
    archive_write_free(to);
    return r;
}

/* ---- File systems ---- */

static int run_tool(const char *const *argv, const char *package, const char *input,
                    struct error *err)
{
    BUFFER_OWNED struct buffer said = {0};
    struct process_result result = {0};
    const struct process_options options = {
        .argv = argv, .output_max = 1024, .timeout_ms = TOOL_MS, .input_path = input};
    int r = process_run(&options, NULL, &said, &result, err);
    if (r < 0 && err->kind == ERROR_NOT_FOUND) {
        return error_set(err, ERROR_UNSUPPORTED, "there is no %s (Debian: %s)", argv[0], package);
    }
    if (r == 0 && result.exit_code != 0) {
        return error_set(err, ERROR_OS, "%s: %.400s", argv[0],
                         text_make_printable((char *)(uintptr_t)buffer_string(&said), false));
    }
    return r;
}

int rootfs_make_erofs(const char *folder, const char *path, struct error *err)
{
    const char *argv[] = {"mkfs.erofs", "-T0", "-U", uuid, "-zlz4", path, folder, NULL};
    return run_tool(argv, "erofs-utils", NULL, err);
}

/* Without a packing around it, which sqfstar does not know. */
static int write_plain(const char *archive, int fd, struct error *err)
{
    struct archive_entry *entry = NULL;
    struct archive *from = archive_read_new();
    archive_read_support_filter_all(from);
    archive_read_support_format_raw(from);
    bool is_good = archive_read_open_filename(from, archive, PIECE_BYTES) == ARCHIVE_OK &&
        archive_read_next_header(from, &entry) == ARCHIVE_OK &&
        archive_read_data_into_fd(from, fd) == ARCHIVE_OK;
    if (!is_good) {
        error_set(err, ERROR_INVALID, "%.200s: %.200s", archive,
                  archive_error_string(from) != NULL ? archive_error_string(from)
                                                     : "it cannot be read");
    }
    archive_read_free(from);
    return is_good ? 0 : -(int)err->kind;
}

int rootfs_make_squashfs(const char *archive, const char *path, struct error *err)
{
    MEMORY_OWNED char *plain = memory_format("%s.tar", path);
    FD_OWNED int fd = open(plain, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    /* The archive's own "./" is passed over: / would be this user's, and of this moment. */
    const char *argv[] = {"sqfstar",    "-comp",      "lz4",       "-mkfs-time", "0",
                          "-root-time", "0",          "-root-uid", "0",          "-root-gid",
                          "0",          "-root-mode", "755",       "-quiet",     "-no-progress",
                          path,         NULL};
    if (fd < 0) {
        return error_os(err, errno, "making %s", plain);
    }
    int r = write_plain(archive, fd, err);
    r = r < 0 ? r : run_tool(argv, "squashfs-tools", plain, err);
    unlink(plain);
    return r;
}

/* ---- Kernels ---- */

int rootfs_find_kernel(const char *folder, char **ret_kernel, char **ret_modules, struct error *err)
{
    static const char prefix[] = "vmlinuz-";
    static const char *const places[] = {"lib/modules", "usr/lib/modules"};
    MEMORY_OWNED char *boot = memory_format("%s/boot", folder);
    MEMORY_OWNED char *best = NULL;
    DIR *list = opendir(boot);
    for (struct dirent *entry = list != NULL ? readdir(list) : NULL; entry != NULL;
         entry = readdir(list)) {
        const char *version = entry->d_name + sizeof(prefix) - 1;
        if (text_starts_with(entry->d_name, prefix) &&
            (best == NULL || strverscmp(version, best) > 0)) {
            free(best);
            best = memory_copy_string(version);
        }
    }
    if (list != NULL) {
        closedir(list);
    }
    if (best == NULL) {
        return error_set(err, ERROR_NOT_FOUND,
                         "there is no kernel in it, boot/vmlinuz-*: give one with --kernel and "
                         "--modules");
    }
    for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
        MEMORY_OWNED char *modules = memory_format("%s/%s/%s", folder, places[i], best);
        if (file_exists(modules)) {
            *ret_modules = memory_copy_string(modules);
            *ret_kernel = memory_format("%s/%s%s", boot, prefix, best);
            return 0;
        }
    }
    return error_set(err, ERROR_NOT_FOUND, "kernel %s has no lib/modules/%s in it", best, best);
}
