/* cpio archives (newc) by libarchive: see initrd.h. */
#include "engine/image/initrd.h"

#include <archive.h>
#include <archive_entry.h>
#include <fts.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/text.h"

#include "engine/image/unpack.h"

enum { MODULE_BYTES_MAX = 32 << 20, PATH_SIZE = 1024 };

/* Each after those that it needs.  fuse and crc32c come before what Debian builds on them. */
static const char *const modules[] = {
    "virtio_ring",
    "virtio",
    "virtio_mmio",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "virtio_console",
    "virtio_blk",
    "scsi_common",
    "scsi_mod",
    "virtio_scsi",
    "crc-t10dif",
    "t10-pi",
    "sd_mod",
    "failover",
    "net_failover",
    "virtio_net",
    "virtio_balloon",
    "rng-core",
    "virtio-rng",
    "vsock",
    "vmw_vsock_virtio_transport_common",
    "vmw_vsock_virtio_transport",
    "crc16",
    "mbcache",
    "jbd2",
    "crc32c_generic",
    "ext4",
    "overlay",
    "squashfs",
    "libcrc32c",
    "netfs",
    "erofs",
    "cdrom",
    "isofs",
    "fuse",
    "virtiofs",
    "button",
    "evdev",
    "pvpanic",
    "pvpanic-mmio",
    "qemu_fw_cfg",
};
enum { MODULES = sizeof(modules) / sizeof(modules[0]) };

/* ---- Writing cpio ---- */

static ssize_t on_bytes(struct archive *archive, void *context, const void *bytes, size_t length)
{
    (void)archive;
    buffer_append(context, bytes, length);
    return (ssize_t)length;
}

static struct archive *begin(struct buffer *out)
{
    struct archive *archive = archive_write_new();
    archive_write_set_format_cpio_newc(archive);
    archive_write_set_bytes_per_block(archive, 0);
    archive_write_open(archive, out, NULL, on_bytes, NULL);
    return archive;
}

/* Everything has the same time and owner: the same input gives the same bytes. */
static void add(struct archive *archive, const char *path, mode_t mode, const void *bytes,
                size_t length)
{
    struct archive_entry *entry = archive_entry_new();
    archive_entry_set_pathname(entry, path);
    archive_entry_set_mode(entry, mode);
    archive_entry_set_nlink(entry, 1);
    archive_entry_set_size(entry, (la_int64_t)length);
    if (S_ISCHR(mode)) {
        archive_entry_set_rdevmajor(entry, 5);
        archive_entry_set_rdevminor(entry, 1);
    }
    archive_write_header(archive, entry);
    if (length > 0) {
        archive_write_data(archive, bytes, length);
    }
    archive_entry_free(entry);
}

static int finish(struct archive *archive, struct error *err)
{
    int r = archive_write_close(archive);
    if (r != ARCHIVE_OK) {
        error_set(err, ERROR_OS, "writing an initrd: %s", archive_error_string(archive));
    }
    archive_write_free(archive);
    return r == ARCHIVE_OK ? 0 : -(int)err->kind;
}

static void add_folders(struct archive *archive)
{
    static const char *const folders[] = {"dev", "proc",        "sys", "run",         "tmp",
                                          "etc", "etc/blixard", "lib", "lib/modules", "newroot"};
    for (size_t i = 0; i < sizeof(folders) / sizeof(folders[0]); i++) {
        add(archive, folders[i], S_IFDIR | 0755, NULL, 0);
    }
    add(archive, "dev/console", S_IFCHR | 0600, NULL, 0);
}

int initrd_add_agent(struct buffer *out, const void *agent, size_t length, struct error *err)
{
    struct archive *archive = begin(out);
    add_folders(archive);
    add(archive, "init", S_IFREG | 0755, agent, length);
    return finish(archive, err);
}

int initrd_add_entrypoint(struct buffer *out, const void *bytes, size_t length, struct error *err)
{
    struct archive *archive = begin(out);
    add(archive, "etc/blixard/entrypoint", S_IFREG | 0600, bytes, length);
    return finish(archive, err);
}

/* ---- Modules ---- */

struct found {
    char *paths[MODULES];
};

/* "virtio_net.ko", "virtio-rng.ko.xz": '-' and '_' are the same. */
static void take_file(struct found *found, const char *path, const char *name)
{
    const char *dot = strstr(name, ".ko");
    size_t length = dot != NULL ? (size_t)(dot - name) : 0;
    for (size_t i = 0; i < MODULES && length > 0; i++) {
        bool is_same = strlen(modules[i]) == length;
        for (size_t k = 0; k < length && is_same; k++) {
            char a = name[k] == '-' ? '_' : name[k];
            char b = modules[i][k] == '-' ? '_' : modules[i][k];
            is_same = a == b;
        }
        if (is_same && found->paths[i] == NULL) {
            found->paths[i] = memory_copy_string(path);
        }
    }
}

static int find_modules(const char *folder, struct found *ret_found, struct error *err)
{
    char *const roots[] = {(char *)(uintptr_t)folder, NULL};
    size_t count = 0;
    FTS *walk = fts_open(roots, FTS_PHYSICAL | FTS_NOCHDIR, NULL);
    for (FTSENT *entry = walk != NULL ? fts_read(walk) : NULL; entry != NULL;
         entry = fts_read(walk)) {
        if (entry->fts_info == FTS_F) {
            take_file(ret_found, entry->fts_path, entry->fts_name);
            count++;
        }
    }
    if (walk != NULL) {
        fts_close(walk);
    }
    return count > 0 ? 0 : error_set(err, ERROR_NOT_FOUND, "there are no modules in %s", folder);
}

static int add_module(struct archive *archive, const char *name, const char *path,
                      struct buffer *list, struct error *err)
{
    char target[PATH_SIZE];
    BUFFER_OWNED struct buffer packed = {0};
    BUFFER_OWNED struct buffer module = {0};
    snprintf(target, sizeof(target), "lib/modules/%s.ko", name);
    int r = file_read(path, MODULE_BYTES_MAX, &packed, err);
    if (r == 0 && !text_ends_with(path, ".ko")) {
        r = unpack_bytes(packed.data, packed.used, MODULE_BYTES_MAX, &module, err);
    }
    if (r < 0) {
        return error_wrap(err, "module %s", name);
    }
    const struct buffer *content = module.used > 0 ? &module : &packed;
    add(archive, target, S_IFREG | 0644, content->data, content->used);
    buffer_append_format(list, "/%s\n", target);
    return 0;
}

int initrd_add_modules(struct buffer *out, const char *folder, struct error *err)
{
    struct found found = {{NULL}};
    BUFFER_OWNED struct buffer list = {0};
    int r = find_modules(folder, &found, err);
    struct archive *archive = begin(out);
    add_folders(archive);
    for (size_t i = 0; i < MODULES; i++) {
        if (r == 0 && found.paths[i] != NULL) {
            r = add_module(archive, modules[i], found.paths[i], &list, err);
        }
        free(found.paths[i]);
    }
    add(archive, "etc/blixard/modules", S_IFREG | 0644, list.data, list.used);
    struct error ignored = {0};
    int closed = finish(archive, r < 0 ? &ignored : err);
    return r < 0 ? r : closed;
}
