/* Disks and what is on them: finding, mounting, growing, holding still. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/file.h"
#include "base/memory.h"

#include "guest/agent/private.h"

#ifndef FIFREEZE
#define FIFREEZE _IOWR('X', 119, int)
#define FITHAW   _IOWR('X', 120, int)
#endif
#ifndef BLKGETSIZE64
#define BLKGETSIZE64 _IOR(0x12, 114, size_t)
#endif
#define EXT4_RESIZE _IOW('f', 16, uint64_t) /* linux/fs/ext4/ext4.h: EXT4_IOC_RESIZE_FS */

enum { LOOK_US = 5000, LOOKS_MAX = 1000 };

uint64_t disk_thaw_at_ms;

/* ---- What is mounted ---- */

/* Blanks and the like are octal in mountinfo. */
static void unescape(char *text)
{
    char *to = text;
    for (const char *at = text; *at != '\0'; at++) {
        bool is_code = at[0] == '\\' && at[1] >= '0' && at[1] <= '3' && at[2] >= '0' &&
            at[2] <= '7' && at[3] >= '0' && at[3] <= '7';
        *to++ = (char)(is_code ? (at[1] - '0') << 6 | (at[2] - '0') << 3 | (at[3] - '0') : *at);
        at += is_code ? 3 : 0;
    }
    *to = '\0';
}

/* "36 35 98:0 /root /path options... - type source options" */
static bool parse_mounted(char *line, struct mounted *mounted)
{
    char *parts[64];
    size_t count = 0;
    size_t dash = 0;
    char *rest = NULL;
    for (char *part = strtok_r(line, " ", &rest); part != NULL && count < 64;
         part = strtok_r(NULL, " ", &rest)) {
        dash = dash == 0 && count > 5 && strcmp(part, "-") == 0 ? count : dash;
        parts[count++] = part;
    }
    if (dash == 0 || dash + 2 >= count) {
        return false;
    }
    snprintf(mounted->path, sizeof(mounted->path), "%s", parts[4]);
    snprintf(mounted->file_system, sizeof(mounted->file_system), "%s", parts[dash + 1]);
    snprintf(mounted->source, sizeof(mounted->source), "%s", parts[dash + 2]);
    unescape(mounted->path);
    unescape(mounted->source);
    mounted->is_disk = strncmp(parts[2], "0:", 2) != 0; /* major 0 is no device */
    return true;
}

void mounted_each(bool (*visit)(const struct mounted *mounted, void *context), void *context)
{
    static struct mounted mounted;
    BUFFER_OWNED struct buffer bytes = {0};
    char *rest = NULL;
    read_file("/proc/self/mountinfo", &bytes);
    buffer_append_byte(&bytes, 0);
    for (char *line = strtok_r((char *)bytes.data, "\n", &rest); line != NULL;
         line = strtok_r(NULL, "\n", &rest)) {
        if (parse_mounted(line, &mounted) && !visit(&mounted, context)) {
            return;
        }
    }
}

struct search {
    const char *path;
    bool is_found;
    struct mounted mounted; /* the last one there: it covers those before it */
};

static bool look(const struct mounted *mounted, void *context)
{
    struct search *search = context;
    if (strcmp(mounted->path, search->path) == 0) {
        search->is_found = true;
        search->mounted = *mounted;
    }
    return true;
}

/* ---- Finding ---- */

/* Of SCSI disks: vital product data page 80h (SPC-4, 7.8.18), four bytes before the text. */
static void read_scsi_serial(const char *name, char *ret_text, size_t size)
{
    enum { HEAD = 4 };
    char path[512];
    BUFFER_OWNED struct buffer page = {0};
    snprintf(path, sizeof(path), "/sys/block/%.200s/device/vpd_pg80", name);
    read_file(path, &page);
    size_t length = page.used > HEAD && page.data[1] == 0x80 ? page.used - HEAD : 0;
    snprintf(ret_text, size, "%.*s", (int)length, length > 0 ? (const char *)page.data + HEAD : "");
}

/* A disk that was plugged in a moment ago has a name and a serial number before it can be opened,
 * and may read as if it were empty before its size is known. */
static bool is_ready(const char *name)
{
    char path[512];
    uint64_t size = 0;
    snprintf(path, sizeof(path), "/dev/%.200s", name);
    FD_OWNED int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    return fd >= 0 && ioctl(fd, BLKGETSIZE64, &size) == 0 && size > 0;
}

static bool find_serial(const char *serial, char *ret_device, size_t size)
{
    DIR *folder = opendir("/sys/block");
    const struct dirent *entry = NULL;
    bool is_found = false;
    while (folder != NULL && !is_found && (entry = readdir(folder)) != NULL) {
        char path[512];
        char text[64];
        snprintf(path, sizeof(path), "/sys/block/%s/serial", entry->d_name);
        read_line(path, text, sizeof(text));
        if (text[0] == '\0') {
            read_scsi_serial(entry->d_name, text, sizeof(text));
        }
        if (text[0] != '\0' && strcmp(text, serial) == 0 && is_ready(entry->d_name)) {
            snprintf(ret_device, size, "/dev/%.200s", entry->d_name);
            is_found = true;
        }
    }
    if (folder != NULL) {
        closedir(folder);
    }
    return is_found;
}

/* A VMM that gives disks no serial numbers of ours (Firecracker) says in which order they are:
 * blixard.disks=NAME,NAME. */
static bool find_in_order(const char *serial, char *ret_device, size_t size)
{
    const char *list = boot_option("disks");
    for (char letter = 'a'; list != NULL && *list != '\0' && letter <= 'z'; letter++) {
        size_t length = strcspn(list, ",");
        if (length == strlen(serial) && strncmp(list, serial, length) == 0) {
            snprintf(ret_device, size, "/dev/vd%c", letter);
            return file_exists(ret_device);
        }
        list += length + (list[length] == ',' ? 1 : 0);
    }
    return false;
}

static bool has_at(int fd, off_t offset, const void *magic, size_t length)
{
    char bytes[16];
    return pread(fd, bytes, length, offset) == (ssize_t)length && memcmp(bytes, magic, length) == 0;
}

/* By what its makers write where; "" when it is none of these. */
static void find_file_system(const char *device, char *ret_name, size_t size)
{
    static const struct {
        const char *name;
        off_t offset;
        const char *magic;
        size_t length;
    } rows[] = {
        {"ext4", 1080, "\x53\xef", 2},   {"erofs", 1024, "\xe2\xe1\xf5\xe0", 4},
        {"squashfs", 0, "hsqs", 4},      {"xfs", 0, "XFSB", 4},
        {"btrfs", 65600, "_BHRfS_M", 8}, {"iso9660", 32769, "CD001", 5},
        {"vfat", 82, "FAT32   ", 8},     {"vfat", 54, "FAT1", 4},
    };
    FD_OWNED int fd = open(device, O_RDONLY | O_CLOEXEC);
    ret_name[0] = '\0';
    for (size_t i = 0; fd >= 0 && i < sizeof(rows) / sizeof(rows[0]); i++) {
        if (has_at(fd, rows[i].offset, rows[i].magic, rows[i].length)) {
            snprintf(ret_name, size, "%s", rows[i].name);
            return;
        }
    }
}

int disk_find(const char *source, struct disk_source *ret_source, struct error *err)
{
    struct disk_source found = {0};
    if (strncmp(source, "tag:", 4) == 0) {
        snprintf(found.device, sizeof(found.device), "%s", source + 4);
        snprintf(found.file_system, sizeof(found.file_system), "virtiofs");
    } else if (strcmp(source, "tmpfs") == 0) {
        snprintf(found.device, sizeof(found.device), "tmpfs");
        snprintf(found.file_system, sizeof(found.file_system), "tmpfs");
    } else if (strncmp(source, "serial:", 7) == 0) {
        if (!find_serial(source + 7, found.device, sizeof(found.device)) &&
            !find_in_order(source + 7, found.device, sizeof(found.device))) {
            return error_set(err, ERROR_NOT_FOUND, "the machine has no disk with serial \"%s\"",
                             source + 7);
        }
    } else if (source[0] == '/') {
        snprintf(found.device, sizeof(found.device), "%s", source);
        if (!file_exists(source)) {
            return error_set(err, ERROR_NOT_FOUND, "the machine has no %s", source);
        }
    } else {
        return error_set(err, ERROR_INVALID,
                         "\"%s\" is no source: give serial:NAME, tag:NAME, tmpfs or /dev/NAME",
                         source);
    }
    *ret_source = found;
    return 0;
}

/* ---- Mounting ---- */

/* Options that are flags of mount(2); the others are the file system's. */
static unsigned long take_flags(const char *options, struct buffer *ret_others)
{
    static const struct {
        const char *name;
        unsigned long flag;
    } rows[] = {{"ro", MS_RDONLY},       {"rw", 0},
                {"noatime", MS_NOATIME}, {"relatime", MS_RELATIME},
                {"nosuid", MS_NOSUID},   {"nodev", MS_NODEV},
                {"noexec", MS_NOEXEC},   {"sync", MS_SYNCHRONOUS},
                {"dirsync", MS_DIRSYNC}, {"nodiratime", MS_NODIRATIME},
                {"defaults", 0}};
    char copy[TEXT_MAX];
    char *rest = NULL;
    unsigned long flags = 0;
    snprintf(copy, sizeof(copy), "%s", options);
    for (char *part = strtok_r(copy, ",", &rest); part != NULL; part = strtok_r(NULL, ",", &rest)) {
        bool is_flag = false;
        for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
            if (strcmp(rows[i].name, part) == 0) {
                flags |= rows[i].flag;
                is_flag = true;
            }
        }
        if (!is_flag) {
            buffer_append_format(ret_others, "%s%s", ret_others->used > 0 ? "," : "", part);
        }
    }
    return flags;
}

/* A disk that cannot be written and was in use when it was kept, as a power cut leaves it: its
 * journal cannot be replayed, and what is there can be read all the same. */
static int mount_without_journal(const struct disk_source *source, const char *path,
                                 unsigned long flags, struct buffer *others)
{
    static const char *const rows[][2] = {{"ext4", "noload"}, {"xfs", "norecovery"}};
    for (size_t i = 0; (flags & MS_RDONLY) != 0 && i < sizeof(rows) / sizeof(rows[0]); i++) {
        if (strcmp(source->file_system, rows[i][0]) == 0) {
            say("%s cannot be written: it is mounted without replaying its journal",
                source->device);
            buffer_append_format(others, "%s%s", others->used > 0 ? "," : "", rows[i][1]);
            return mount(source->device, path, source->file_system, flags, buffer_string(others));
        }
    }
    return -1;
}

int disk_mount_at(const char *source, const char *path, const char *file_system,
                  const char *options, bool is_read_only, struct error *err)
{
    BUFFER_OWNED struct buffer others = {0};
    struct disk_source found = {0};
    int r = disk_find(source, &found, err);
    if (r < 0) {
        return r;
    }
    if (file_system[0] != '\0') {
        snprintf(found.file_system, sizeof(found.file_system), "%s", file_system);
    } else if (found.file_system[0] == '\0') {
        find_file_system(found.device, found.file_system, sizeof(found.file_system));
    }
    if (found.file_system[0] == '\0') {
        return error_set(err, ERROR_UNSUPPORTED, "%s holds no file system that is known here",
                         found.device);
    }
    struct search search = {.path = path};
    mounted_each(look, &search);
    if (search.is_found && strcmp(search.mounted.source, found.device) == 0 &&
        strcmp(search.mounted.file_system, found.file_system) == 0) {
        return 0;
    }
    unsigned long flags = take_flags(options, &others) | (is_read_only ? MS_RDONLY : 0);
    if (mount(found.device, path, found.file_system, flags, buffer_string(&others)) < 0 &&
        (errno != EROFS || mount_without_journal(&found, path, flags, &others) < 0)) {
        return fail_os(err, errno, "mounting %s (%s)", found.device, found.file_system);
    }
    return 0;
}

int disk_mount_when_there(const char *source, const char *path, const char *file_system,
                          const char *options, bool is_read_only, struct error *err)
{
    for (int i = 0; i < LOOKS_MAX; i++) {
        int r = disk_mount_at(source, path, file_system, options, is_read_only, err);
        if (r != -ERROR_NOT_FOUND || strncmp(source, "/", 1) == 0) {
            return r;
        }
        usleep(LOOK_US);
    }
    return -(int)err->kind;
}

int disk_mount(struct work *work, struct buffer *answer, struct error *err)
{
    char source[TEXT_MAX];
    char path[TEXT_MAX];
    char file_system[TEXT_MAX];
    char options[TEXT_MAX];
    uint64_t flags = request_number(work->request, AGENT_FLAGS, 0);
    (void)answer;
    int r = request_text(work->request, AGENT_SOURCE, NULL, source, err);
    if (r == 0) {
        r = request_text(work->request, AGENT_PATH, NULL, path, err);
    }
    if (r == 0) {
        r = request_text(work->request, AGENT_FILE_SYSTEM, "", file_system, err);
    }
    if (r == 0) {
        r = request_text(work->request, AGENT_OPTIONS, "", options, err);
    }
    if (r == 0 && (flags & AGENT_FLAG_MAKE_FOLDERS) != 0) {
        r = file_make_folder(path, 0755, err);
    }
    if (r != 0) {
        return r;
    }
    return disk_mount_when_there(source, path, file_system, options,
                                 (flags & AGENT_FLAG_READ_ONLY) != 0, err);
}

int disk_unmount(struct work *work, struct buffer *answer, struct error *err)
{
    char path[TEXT_MAX];
    uint64_t flags = request_number(work->request, AGENT_FLAGS, 0);
    (void)answer;
    int r = request_text(work->request, AGENT_PATH, NULL, path, err);
    if (r < 0) {
        return r;
    }
    if (umount2(path, UMOUNT_NOFOLLOW | ((flags & AGENT_FLAG_LAZY) != 0 ? MNT_DETACH : 0)) < 0) {
        return errno == EINVAL ? error_set(err, ERROR_NOT_FOUND, "nothing is mounted there")
                               : fail_os(err, errno, "unmounting");
    }
    return 0;
}

/* ---- Growing ---- */

/* A disk that was made larger is so when its driver has heard of it. */
static int find_size(int disk, uint64_t at_least, uint64_t *ret_size)
{
    for (int i = 0; i < LOOKS_MAX; i++) {
        if (ioctl(disk, BLKGETSIZE64, ret_size) < 0) {
            return -1;
        }
        if (*ret_size >= at_least) {
            break;
        }
        usleep(LOOK_US);
    }
    return 0;
}

int disk_grow(struct work *work, struct buffer *answer, struct error *err)
{
    char path[TEXT_MAX];
    struct statvfs status;
    uint64_t size = 0;
    int r = request_text(work->request, AGENT_PATH, NULL, path, err);
    if (r < 0) {
        return r;
    }
    struct search search = {.path = path};
    mounted_each(look, &search);
    if (search.is_found && strcmp(search.mounted.file_system, "overlay") == 0) {
        search = (struct search){.path = ROOT_WRITABLE}; /* what is written goes to that disk */
        mounted_each(look, &search);
    }
    if (!search.is_found || !search.mounted.is_disk) {
        return error_set(err, ERROR_NOT_FOUND, "no disk is mounted there");
    }
    if (strcmp(search.mounted.file_system, "ext4") != 0) {
        return error_set(err, ERROR_UNSUPPORTED, "%s cannot be grown by the agent: ext4 can",
                         search.mounted.file_system);
    }
    FD_OWNED int disk = open(search.mounted.source, O_RDONLY | O_CLOEXEC);
    FD_OWNED int fd = open(search.mounted.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (disk < 0 || fd < 0 ||
        find_size(disk, request_number(work->request, AGENT_SIZE, 0), &size) < 0 ||
        fstatvfs(fd, &status) < 0) {
        return fail_os(err, errno, "examining %s", search.mounted.source);
    }
    uint64_t blocks = size / status.f_bsize;
    if (ioctl(fd, EXT4_RESIZE, &blocks) < 0) {
        return fail_os(err, errno, "growing %s", search.mounted.source);
    }
    agent_put_number(answer, AGENT_SIZE, size);
    return 0;
}

/* ---- Holding still ---- */

struct frozen {
    char paths[64][256]; /* of every disk's file systems, in the order they were mounted */
    unsigned count;
};

static bool note_disk(const struct mounted *mounted, void *context)
{
    struct frozen *frozen = context;
    if (mounted->is_disk && strlen(mounted->path) < sizeof(frozen->paths[0])) {
        snprintf(frozen->paths[frozen->count], sizeof(frozen->paths[0]), "%.255s", mounted->path);
        frozen->count++;
    }
    return frozen->count < sizeof(frozen->paths) / sizeof(frozen->paths[0]);
}

static int switch_one(const char *path, unsigned long what)
{
    FD_OWNED int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOATIME);
    return fd < 0 ? -1 : ioctl(fd, what, 0);
}

uint64_t disk_thaw_now(void)
{
    static struct frozen frozen;
    uint64_t count = 0;
    frozen.count = 0;
    mounted_each(note_disk, &frozen);
    for (unsigned i = 0; i < frozen.count; i++) {
        count += switch_one(frozen.paths[i], FITHAW) == 0;
    }
    return count;
}

int disk_sync(struct work *work, struct buffer *answer, struct error *err)
{
    (void)work;
    (void)answer;
    (void)err;
    sync();
    return 0;
}

/* The last that was mounted first: what is inside another one before that one. */
int disk_freeze(struct work *work, struct buffer *answer, struct error *err)
{
    static struct frozen frozen;
    uint64_t count = 0;
    (void)work;
    sync();
    frozen.count = 0;
    mounted_each(note_disk, &frozen);
    for (unsigned i = frozen.count; i > 0; i--) {
        const char *path = frozen.paths[i - 1];
        if (switch_one(path, FIFREEZE) == 0) {
            count++;
        } else if (errno != EBUSY && errno != EOPNOTSUPP && errno != EROFS) {
            int number = errno;
            disk_thaw_now();
            return fail_os(err, number, "freezing %s", path);
        }
    }
    agent_put_number(answer, AGENT_COUNT, count);
    return 0;
}
