/* Disks as files: see disk.h. */
#include "engine/image/disk.h"

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
#include "base/memory.h"
#include "base/process.h"
#include "base/text.h"

#include "engine/jail/jail.h"

enum {
    SECTOR = 512,
    PIECE_BYTES = 1 << 20,
    CHECK_MS = 600000,
    NOBODY = 65534,
    CORRUPT_STATUS = 2, /* of qemu-img check */
    LEAKED_STATUS = 3,  /* clusters that nobody uses: no harm */
};

/* The head of qcow2, big endian. */
enum {
    QCOW2_VERSION = 4,
    QCOW2_BACKING = 8,
    QCOW2_SIZE = 24,
    QCOW2_CRYPT = 32,
    QCOW2_INCOMPATIBLE = 72,
    QCOW2_HEAD_BYTES = 104,
};
enum { INCOMPATIBLE_DIRTY = 1, INCOMPATIBLE_CORRUPT = 2, INCOMPATIBLE_DATA_FILE = 4 };
#define INCOMPATIBLE_KNOWN UINT64_C(0x1f) /* and the kind of packing, and extended L2 entries */
#define DISK_BYTES_MAX     (UINT64_C(64) << 40)

static uint64_t big_endian(const uint8_t *at, size_t length)
{
    uint64_t value = 0;
    for (size_t i = 0; i < length; i++) {
        value = value << 8 | at[i];
    }
    return value;
}

static int parse_qcow2(const uint8_t *head, size_t length, struct disk_image *ret_image,
                       struct error *err)
{
    if (length < QCOW2_HEAD_BYTES) {
        return error_set(err, ERROR_INVALID, "the qcow2 file ends within its head");
    }
    uint64_t version = big_endian(head + QCOW2_VERSION, 4);
    uint64_t size = big_endian(head + QCOW2_SIZE, 8);
    uint64_t incompatible = version >= 3 ? big_endian(head + QCOW2_INCOMPATIBLE, 8) : 0;
    if (version != 2 && version != 3) {
        return error_set(err, ERROR_UNSUPPORTED, "qcow2 of version %u is not known",
                         (unsigned)version);
    }
    if (big_endian(head + QCOW2_BACKING, 8) != 0) {
        return error_set(err, ERROR_UNSUPPORTED,
                         "the qcow2 file has a backing file: `qemu-img convert -O qcow2` makes one "
                         "that stands alone");
    }
    if ((incompatible & INCOMPATIBLE_DATA_FILE) != 0) {
        return error_set(err, ERROR_UNSUPPORTED,
                         "the qcow2 file has its data in another file: `qemu-img convert -O qcow2` "
                         "makes one that stands alone");
    }
    if (big_endian(head + QCOW2_CRYPT, 4) != 0) {
        return error_set(err, ERROR_UNSUPPORTED, "the qcow2 file is encrypted");
    }
    if ((incompatible & (INCOMPATIBLE_DIRTY | INCOMPATIBLE_CORRUPT)) != 0 ||
        (incompatible & ~INCOMPATIBLE_KNOWN) != 0) {
        return error_set(err, ERROR_INVALID,
                         "the qcow2 file was not closed in order, is damaged, or too new "
                         "(`qemu-img check -r all` repairs some)");
    }
    if (size < SECTOR || size > DISK_BYTES_MAX) {
        return error_set(err, ERROR_INVALID, "the qcow2 file says it is a disk of %llu bytes",
                         (unsigned long long)size);
    }
    *ret_image = (struct disk_image){"qcow2", size};
    return 0;
}

/* Formats that qemu-img can turn into one that we take. */
static const char *other_format(const uint8_t *head, size_t length)
{
    static const struct {
        size_t at;
        const char *bytes;
        const char *name;
    } others[] = {
        {0, "KDMV", "VMDK"},    {0, "# Disk DescriptorFile", "VMDK"}, {0, "vhdxfile", "VHDX"},
        {0, "conectix", "VHD"}, {64, "\x7f\x10\xda\xbe", "VDI"},      {0, "QED", "QED"},
    };
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
        size_t have = strlen(others[i].bytes);
        if (length >= others[i].at + have &&
            memcmp(head + others[i].at, others[i].bytes, have) == 0) {
            return others[i].name;
        }
    }
    return NULL;
}

int disk_image_parse(const uint8_t *head, size_t length, uint64_t file_bytes,
                     struct disk_image *ret_image, struct error *err)
{
    if (length >= 4 && memcmp(head, "QFI\xfb", 4) == 0) {
        return parse_qcow2(head, length, ret_image, err);
    }
    const char *other = other_format(head, length);
    if (other != NULL) {
        return error_set(err, ERROR_UNSUPPORTED,
                         "it is a disk in %s format: `qemu-img convert -O qcow2`", other);
    }
    /* A boot sector, or the protective one before a GPT. */
    if (length < SECTOR || head[510] != 0x55 || head[511] != 0xaa) {
        return error_set(err, ERROR_INVALID,
                         "it is no disk that boots: neither qcow2, nor raw with a boot sector");
    }
    if (file_bytes > DISK_BYTES_MAX) {
        return error_set(err, ERROR_INVALID, "the disk is larger than 64 TiB");
    }
    *ret_image = (struct disk_image){"raw", file_bytes / SECTOR * SECTOR};
    return 0;
}

int disk_image_read(const char *path, struct disk_image *ret_image, struct error *err)
{
    uint8_t head[DISK_HEAD_BYTES];
    struct stat status;
    FD_OWNED int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &status) < 0) {
        return error_os(err, errno, "%s", path);
    }
    ssize_t got = S_ISREG(status.st_mode) ? pread(fd, head, sizeof(head), 0) : 0;
    if (got < 0) {
        return error_os(err, errno, "reading %s", path);
    }
    return disk_image_parse(head, (size_t)got, (uint64_t)status.st_size, ret_image, err);
}

int disk_overlay_check(const char *path, struct error *err)
{
    uint8_t head[QCOW2_HEAD_BYTES];
    FD_OWNED int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    ssize_t got = fd >= 0 ? pread(fd, head, sizeof(head), 0) : -1;
    if (got < 0) {
        return error_os(err, errno, "reading %s", path);
    }
    bool is_ours = got == QCOW2_HEAD_BYTES && memcmp(head, "QFI\xfb", 4) == 0 &&
        big_endian(head + QCOW2_VERSION, 4) == 3 && big_endian(head + QCOW2_CRYPT, 4) == 0 &&
        (big_endian(head + QCOW2_INCOMPATIBLE, 8) &
         (INCOMPATIBLE_DATA_FILE | ~INCOMPATIBLE_KNOWN)) == 0;
    return is_ours ? 0 : error_set(err, ERROR_CORRUPT, "%s is no disk that a machine writes", path);
}

/* ---- Checking ---- */

int disk_image_check(const char *path, struct error *err)
{
    const struct jail_mount mounts[] = {
        JAIL_PROGRAM_MOUNTS,
        {path, "/disk", false, false},
    };
    struct jail_options jail = {
        .mounts = mounts,
        .mount_count = sizeof(mounts) / sizeof(mounts[0]),
        .uid = NOBODY,
        .gid = NOBODY,
        .filter = JAIL_FILTER_TOOL,
        .cpu_seconds_max = CHECK_MS / 1000,
        .memory_bytes_max = UINT64_C(4) << 30,
        .file_bytes_max = 1,
        .process_max = 64,
    };
    const char *argv[] = {"qemu-img", "check", "-q", "-f", "qcow2", "/disk", NULL};
    const char *environment[] = {"PATH=/usr/bin:/bin:/run/current-system/sw/bin", "LC_ALL=C", NULL};
    BUFFER_OWNED struct buffer said = {0};
    struct process_result result = {0};
    const struct process_options options = {.argv = argv,
                                            .envp = environment,
                                            .output_max = 512,
                                            .timeout_ms = CHECK_MS,
                                            .prepare = jail_prepare,
                                            .prepare_context = &jail};
    int r = process_run(&options, &said, &said, &result, err);
    if (r < 0 && err->kind == ERROR_NOT_FOUND) {
        return error_set(err, ERROR_UNSUPPORTED,
                         "this node has no qemu-img (Debian: qemu-utils), which qcow2 files need");
    }
    if (r == 0 && result.exit_code != 0 && result.exit_code != LEAKED_STATUS) {
        const char *text = text_make_printable((char *)(uintptr_t)buffer_string(&said), false);
        return error_set(err, ERROR_CORRUPT, "qemu-img check: %.300s",
                         text[0] != '\0'        ? text
                             : result.timed_out ? "it took too long"
                                                : "it ended without a word");
    }
    return r;
}

/* ---- Unpacking ---- */

static bool is_zero(const uint8_t *bytes, size_t length)
{
    return length == 0 || (bytes[0] == 0 && memcmp(bytes, bytes + 1, length - 1) == 0);
}

static int copy_content(struct archive *archive, int fd, uint64_t most, struct error *err)
{
    uint64_t total = 0;
    MEMORY_OWNED uint8_t *piece = memory_new(1, PIECE_BYTES);
    for (;;) {
        la_ssize_t got = archive_read_data(archive, piece, PIECE_BYTES);
        if (got < 0) {
            return error_set(err, ERROR_INVALID, "it is packed, and damaged: %.200s",
                             archive_error_string(archive));
        }
        size_t length = (size_t)got;
        if (length == 0) {
            return ftruncate(fd, (off_t)total) == 0 ? 0 : error_os(err, errno, "unpacking");
        }
        if (length > most - total) {
            return error_set(err, ERROR_TOO_LARGE, "unpacked it has more than %llu bytes",
                             (unsigned long long)most);
        }
        if (!is_zero(piece, length) && pwrite(fd, piece, length, (off_t)total) != (ssize_t)length) {
            return error_os(err, errno, "unpacking");
        }
        total += length;
    }
}

int disk_image_unpack(const char *from, const char *to, uint64_t most, bool *ret_is_packed,
                      struct error *err)
{
    struct archive_entry *entry = NULL;
    struct archive *archive = archive_read_new();
    archive_read_support_filter_all(archive);
    archive_read_support_format_raw(archive);
    int r = 0;
    bool is_packed = archive_read_open_filename(archive, from, PIECE_BYTES) == ARCHIVE_OK &&
        archive_read_next_header(archive, &entry) == ARCHIVE_OK &&
        archive_filter_count(archive) > 1;
    if (is_packed) {
        FD_OWNED int fd = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        r = fd < 0 ? error_os(err, errno, "making %s", to) : copy_content(archive, fd, most, err);
    }
    archive_read_free(archive);
    *ret_is_packed = is_packed;
    return r;
}
