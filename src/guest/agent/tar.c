/*
 * Trees, as tar archives (POSIX.1-2017, pax: a ustar header for each file, before it one of type
 * 'x' with records "LENGTH KEY=VALUE\n" for what a ustar header cannot hold).  Read too: the long
 * names of GNU tar (types L and K).
 *
 * An archive is unpacked below its folder and nowhere else: each name is opened one part at a time,
 * never through a symbolic link, and ".." is refused.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/file.h"

#include "guest/agent/private.h"

enum { BLOCK = 512, STEP = 65536, RECORDS_MAX = 65536, DEPTH_MAX = 64, NUMBER_MAX = 12 };

struct header {
    char name[100];
    char mode[8];
    char uid[8];
    char gid[8];
    char size[12];
    char mtime[12];
    char checksum[8];
    char type;
    char target[100];
    char magic[6];
    char version[2];
    char user[32];
    char group[32];
    char major[8];
    char minor[8];
    char prefix[155];
    char unused[12];
};
_Static_assert(sizeof(struct header) == BLOCK, "a tar header is a block");

struct archive {
    int fd;
    uint64_t count;
    uint64_t size;
    struct work *work;
};

static uint64_t padding(uint64_t size)
{
    return (BLOCK - size % BLOCK) % BLOCK;
}

/* ---- Writing ---- */

static void put_octal(char *place, size_t size, uint64_t value)
{
    for (size_t i = size - 1; i > 0; i--) {
        place[i - 1] = (char)('0' + (value & 7));
        value >>= 3;
    }
    place[size - 1] = '\0';
}

static int write_block(struct archive *archive, struct header *header, struct error *err)
{
    const uint8_t *bytes = (const uint8_t *)header;
    unsigned sum = 0;
    memset(header->checksum, ' ', sizeof(header->checksum));
    memcpy(header->magic, "ustar", 6);
    memcpy(header->version, "00", 2);
    for (size_t i = 0; i < BLOCK; i++) {
        sum += bytes[i];
    }
    put_octal(header->checksum, 7, sum);
    header->checksum[7] = ' ';
    return file_write_all(archive->fd, header, BLOCK) < 0 ? fail_os(err, errno, "sending") : 0;
}

static int write_padded(struct archive *archive, const void *bytes, size_t length,
                        struct error *err)
{
    static const char zeros[BLOCK];
    if (file_write_all(archive->fd, bytes, length) < 0 ||
        file_write_all(archive->fd, zeros, padding(length)) < 0) {
        return fail_os(err, errno, "sending");
    }
    return 0;
}

/* "LENGTH KEY=VALUE\n", where LENGTH counts itself. */
static void add_record(struct buffer *records, const char *key, const char *value)
{
    char text[NUMBER_MAX];
    size_t others = strlen(key) + strlen(value) + 3;
    size_t length = others + 1;
    while ((size_t)snprintf(text, sizeof(text), "%zu", length) + others != length) {
        length++;
    }
    buffer_append_format(records, "%s %s=%s\n", text, key, value);
}

static int write_records(struct archive *archive, const struct buffer *records, struct error *err)
{
    struct header header = {.type = 'x'};
    memcpy(header.name, "pax", 3);
    put_octal(header.mode, sizeof(header.mode), 0644);
    put_octal(header.size, sizeof(header.size), records->used);
    int r = write_block(archive, &header, err);
    return r < 0 ? r : write_padded(archive, records->data, records->used, err);
}

static char type_of(mode_t mode)
{
    return (char)(S_ISDIR(mode)        ? '5'
                      : S_ISLNK(mode)  ? '2'
                      : S_ISCHR(mode)  ? '3'
                      : S_ISBLK(mode)  ? '4'
                      : S_ISFIFO(mode) ? '6'
                                       : '0');
}

static int write_header(struct archive *archive, const char *name, const char *target,
                        const struct stat *status, struct error *err)
{
    enum { OCTAL_11 = 33, OCTAL_7 = 21 };
    BUFFER_OWNED struct buffer records = {0};
    struct header header = {.type = type_of(status->st_mode)};
    uint64_t size = S_ISREG(status->st_mode) ? (uint64_t)status->st_size : 0;
    char text[64];
    snprintf(text, sizeof(text), "%lld.%09ld", (long long)status->st_mtim.tv_sec,
             status->st_mtim.tv_nsec);
    if (status->st_mtim.tv_sec < 0) { /* a fraction would count the wrong way */
        snprintf(text, sizeof(text), "%lld", (long long)status->st_mtim.tv_sec);
    }
    add_record(&records, "mtime", text);
    if (strlen(name) > sizeof(header.name)) {
        add_record(&records, "path", name);
    }
    if (strlen(target) > sizeof(header.target)) {
        add_record(&records, "linkpath", target);
    }
    if (size >> OCTAL_11 != 0) {
        snprintf(text, sizeof(text), "%llu", (unsigned long long)size);
        add_record(&records, "size", text);
    }
    if (status->st_uid >> OCTAL_7 != 0) {
        snprintf(text, sizeof(text), "%u", (unsigned)status->st_uid);
        add_record(&records, "uid", text);
    }
    if (status->st_gid >> OCTAL_7 != 0) {
        snprintf(text, sizeof(text), "%u", (unsigned)status->st_gid);
        add_record(&records, "gid", text);
    }
    memcpy(header.name, name, strnlen(name, sizeof(header.name)));
    memcpy(header.target, target, strnlen(target, sizeof(header.target)));
    put_octal(header.mode, sizeof(header.mode), status->st_mode & 07777);
    put_octal(header.uid, sizeof(header.uid), status->st_uid);
    put_octal(header.gid, sizeof(header.gid), status->st_gid);
    put_octal(header.size, sizeof(header.size), size);
    put_octal(header.mtime, sizeof(header.mtime),
              status->st_mtim.tv_sec > 0 ? (uint64_t)status->st_mtim.tv_sec : 0);
    put_octal(header.major, sizeof(header.major), major(status->st_rdev));
    put_octal(header.minor, sizeof(header.minor), minor(status->st_rdev));
    int r = write_records(archive, &records, err);
    return r < 0 ? r : write_block(archive, &header, err);
}

/* As many bytes as the header has said: one that shrinks meanwhile is filled up with zeros. */
static int write_content(struct archive *archive, int fd, uint64_t size, struct error *err)
{
    static uint8_t bytes[STEP];
    uint64_t left = size;
    while (left > 0) {
        size_t wanted = left < sizeof(bytes) ? (size_t)left : sizeof(bytes);
        ssize_t got = read(fd, bytes, wanted);
        if (got < 0) {
            return fail_os(err, errno, "reading");
        }
        if (got == 0) {
            memset(bytes, 0, wanted);
            got = (ssize_t)wanted;
        }
        if (file_write_all(archive->fd, bytes, (size_t)got) < 0) {
            return fail_os(err, errno, "sending");
        }
        left -= (uint64_t)got;
    }
    archive->size += size;
    memset(bytes, 0, BLOCK);
    return file_write_all(archive->fd, bytes, padding(size)) < 0 ? fail_os(err, errno, "sending")
                                                                 : 0;
}

static int pack_at(struct archive *archive, int folder, const char *entry, const char *name,
                   unsigned depth, struct error *err);

static int pack_folder(struct archive *archive, int fd, const char *name, unsigned depth,
                       struct error *err)
{
    DIR *folder = fdopendir(dup(fd));
    int r = 0;
    const struct dirent *entry = NULL;
    if (folder == NULL) {
        return fail_os(err, errno, "reading %s", name);
    }
    while (r == 0 && (entry = readdir(folder)) != NULL) {
        char inner[TEXT_MAX];
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) {
            continue;
        }
        int length = snprintf(inner, sizeof(inner), "%s/%s", name, entry->d_name);
        if (length < 0 || (size_t)length >= sizeof(inner)) {
            r = error_set(err, ERROR_LIMIT, "%s: the name is too long", name);
        } else {
            r = pack_at(archive, fd, entry->d_name, inner, depth + 1, err);
        }
    }
    closedir(folder);
    return r;
}

static int pack_open(struct archive *archive, int folder, const char *entry, const char *name,
                     const struct stat *status, unsigned depth, struct error *err)
{
    FD_OWNED int fd =
        openat(folder, entry, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
    if (fd < 0) {
        return fail_os(err, errno, "opening %s", name);
    }
    int r = write_header(archive, name, "", status, err);
    if (r < 0) {
        return r;
    }
    archive->count++;
    return S_ISDIR(status->st_mode) ? pack_folder(archive, fd, name, depth, err)
                                    : write_content(archive, fd, (uint64_t)status->st_size, err);
}

static int pack_at(struct archive *archive, int folder, const char *entry, const char *name,
                   unsigned depth, struct error *err)
{
    struct stat status;
    char target[TEXT_MAX] = "";
    if (depth > DEPTH_MAX) {
        return error_set(err, ERROR_LIMIT, "%s: more than %d folders in each other", name,
                         DEPTH_MAX);
    }
    if (fstatat(folder, entry, &status, AT_SYMLINK_NOFOLLOW) < 0) {
        /* Gone since the folder was read: files come and go in a machine that runs. */
        return errno == ENOENT && depth > 0 ? 0 : fail_os(err, errno, "examining %s", name);
    }
    if (S_ISSOCK(status.st_mode)) {
        return 0;
    }
    if (S_ISREG(status.st_mode) || S_ISDIR(status.st_mode)) {
        return pack_open(archive, folder, entry, name, &status, depth, err);
    }
    if (S_ISLNK(status.st_mode)) {
        ssize_t length = readlinkat(folder, entry, target, sizeof(target) - 1);
        target[length > 0 ? length : 0] = '\0';
    }
    archive->count++;
    return write_header(archive, name, target, &status, err);
}

int tar_pack(struct work *work, struct buffer *answer, struct error *err)
{
    static const char end[2 * BLOCK];
    char path[TEXT_MAX];
    char copy[TEXT_MAX];
    struct archive archive = {.fd = work->out, .work = work};
    int r = request_text(work->request, AGENT_PATH, NULL, path, err);
    if (r < 0) {
        return r;
    }
    snprintf(copy, sizeof(copy), "%s", path);
    const char *name = basename(copy); /* "/" has no better one than "." */
    r = pack_at(&archive, AT_FDCWD, path, strcmp(name, "/") == 0 ? "." : name, 0, err);
    if (r == 0 && file_write_all(work->out, end, sizeof(end)) < 0) {
        r = fail_os(err, errno, "sending");
    }
    agent_put_number(answer, AGENT_COUNT, archive.count);
    agent_put_number(answer, AGENT_SIZE, archive.size);
    return r;
}

/* ---- Reading ---- */

struct entry {
    char name[TEXT_MAX];
    char target[TEXT_MAX];
    char type;
    mode_t mode;
    uid_t uid;
    gid_t gid;
    uint64_t size;
    struct timespec mtime;
    dev_t device;
};

/* What a pax or GNU header has said about the entry that follows. */
struct said {
    char name[TEXT_MAX];
    char target[TEXT_MAX];
    bool has_size, has_mtime, has_uid, has_gid;
    uint64_t size, uid, gid;
    struct timespec mtime;
};

/* All of it, or how much there was until the end. */
static int read_all(struct archive *archive, void *bytes, size_t length, size_t *ret_got,
                    struct error *err)
{
    *ret_got = 0;
    while (*ret_got < length) {
        ssize_t got = read(archive->fd, (char *)bytes + *ret_got, length - *ret_got);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got < 0) {
            return fail_os(err, errno, "receiving");
        }
        if (got == 0) {
            break;
        }
        *ret_got += (size_t)got;
    }
    return 0;
}

static int cut_short(struct error *err)
{
    return error_set(err, ERROR_INVALID, "the archive ends in the middle");
}

/* Octal, or base 256 with the top bit set, as GNU tar has it for what is too big. */
static uint64_t number_of(const char *field, size_t size)
{
    uint64_t value = 0;
    if (((unsigned char)field[0] & 0x80) != 0) {
        for (size_t i = 1; i < size; i++) {
            value = value << 8 | (unsigned char)field[i];
        }
        return value;
    }
    for (size_t i = 0; i < size && field[i] != '\0'; i++) {
        if (field[i] >= '0' && field[i] <= '7') {
            value = value << 3 | (uint64_t)(field[i] - '0');
        }
    }
    return value;
}

static void text_from(char ret_text[TEXT_MAX], const char *field, size_t size)
{
    size_t length = strnlen(field, size < TEXT_MAX - 1 ? size : TEXT_MAX - 1);
    memcpy(ret_text, field, length);
    ret_text[length] = '\0';
}

static bool has_good_sum(const struct header *header)
{
    const unsigned char *bytes = (const unsigned char *)header;
    uint64_t sum = 0;
    for (size_t i = 0; i < BLOCK; i++) {
        bool is_sum = i >= offsetof(struct header, checksum) && i < offsetof(struct header, type);
        sum += is_sum ? ' ' : bytes[i];
    }
    return sum == number_of(header->checksum, sizeof(header->checksum));
}

static void take_record(struct said *said, const char *key, const char *value)
{
    if (strcmp(key, "path") == 0) {
        text_from(said->name, value, TEXT_MAX);
    } else if (strcmp(key, "linkpath") == 0) {
        text_from(said->target, value, TEXT_MAX);
    } else if (strcmp(key, "size") == 0) {
        said->has_size = true;
        said->size = strtoull(value, NULL, 10);
    } else if (strcmp(key, "uid") == 0) {
        said->has_uid = true;
        said->uid = strtoull(value, NULL, 10);
    } else if (strcmp(key, "gid") == 0) {
        said->has_gid = true;
        said->gid = strtoull(value, NULL, 10);
    } else if (strcmp(key, "mtime") == 0) {
        char *end = NULL;
        said->has_mtime = true;
        said->mtime = (struct timespec){.tv_sec = strtoll(value, &end, 10)};
        long scale = 100000000;
        for (const char *at = *end == '.' ? end + 1 : ""; *at >= '0' && *at <= '9'; at++) {
            said->mtime.tv_nsec += (*at - '0') * scale;
            scale /= 10;
        }
    }
}

static int take_records(struct said *said, char *bytes, size_t length, struct error *err)
{
    while (length > 0) {
        char *end = NULL;
        uint64_t count = strtoull(bytes, &end, 10); /* there is a NUL behind the last */
        char *equals = *end == ' ' ? memchr(end, '=', length - (size_t)(end - bytes)) : NULL;
        bool is_good = equals != NULL && count <= length && count > (uint64_t)(equals - bytes) &&
            bytes[count - 1] == '\n';
        if (!is_good) {
            return error_set(err, ERROR_INVALID, "the archive has a bad pax header");
        }
        *equals = '\0';
        bytes[count - 1] = '\0';
        take_record(said, end + 1, equals + 1);
        bytes += count;
        length -= count;
    }
    return 0;
}

/* The content of a header that is about the next entry, in memory. */
static int take_said(struct archive *archive, const struct header *header, struct said *said,
                     struct error *err)
{
    uint64_t size = number_of(header->size, sizeof(header->size));
    size_t got = 0;
    if (size > RECORDS_MAX) {
        return error_set(err, ERROR_LIMIT, "the archive has a header of %llu bytes",
                         (unsigned long long)size);
    }
    static char bytes[RECORDS_MAX + BLOCK + 1];
    size_t padded = ((size_t)size + BLOCK - 1) / BLOCK * BLOCK;
    int r = read_all(archive, bytes, padded, &got, err);
    if (r < 0 || got < padded) {
        return r < 0 ? r : cut_short(err);
    }
    bytes[size] = '\0';
    if (header->type == 'L') {
        text_from(said->name, bytes, size + 1);
    } else if (header->type == 'K') {
        text_from(said->target, bytes, size + 1);
    } else if (header->type == 'x') {
        r = take_records(said, bytes, (size_t)size, err);
    }
    return r;
}

static void make_entry(const struct header *header, const struct said *said, struct entry *entry)
{
    char name[TEXT_MAX];
    char prefix[TEXT_MAX];
    text_from(name, header->name, sizeof(header->name));
    text_from(prefix, header->prefix, sizeof(header->prefix));
    bool is_ustar = memcmp(header->magic, "ustar\0", 6) == 0; /* not GNU's "ustar  " */
    if (is_ustar && prefix[0] != '\0') {
        snprintf(entry->name, sizeof(entry->name), "%.155s/%.100s", prefix, name);
    } else {
        snprintf(entry->name, sizeof(entry->name), "%s", name);
    }
    text_from(entry->target, header->target, sizeof(header->target));
    if (said->name[0] != '\0') {
        snprintf(entry->name, sizeof(entry->name), "%s", said->name);
    }
    if (said->target[0] != '\0') {
        snprintf(entry->target, sizeof(entry->target), "%s", said->target);
    }
    entry->type = header->type;
    entry->mode = (mode_t)number_of(header->mode, sizeof(header->mode)) & 07777;
    entry->uid = (uid_t)(said->has_uid ? said->uid : number_of(header->uid, sizeof(header->uid)));
    entry->gid = (gid_t)(said->has_gid ? said->gid : number_of(header->gid, sizeof(header->gid)));
    entry->size = said->has_size ? said->size : number_of(header->size, sizeof(header->size));
    entry->mtime = said->mtime;
    if (!said->has_mtime) {
        entry->mtime.tv_sec = (time_t)number_of(header->mtime, sizeof(header->mtime));
    }
    entry->device = makedev((unsigned)number_of(header->major, sizeof(header->major)),
                            (unsigned)number_of(header->minor, sizeof(header->minor)));
    /* Old archives name a folder by the slash behind it. */
    size_t length = strlen(entry->name);
    if (length > 0 && entry->name[length - 1] == '/' && (entry->type == '0' || entry->type == 0)) {
        entry->type = '5';
    }
}

/* The folder that holds `name`, made where it is missing, and the last part of the name; "" when
 * that is the folder everything is unpacked to. */
static int enter(int root, char *name, const char **ret_last, int *ret_fd, struct error *err)
{
    FD_OWNED int fd = fcntl(root, F_DUPFD_CLOEXEC, 3);
    char *rest = NULL;
    char *part = strtok_r(name, "/", &rest);
    *ret_last = "";
    for (; part != NULL; part = strtok_r(NULL, "/", &rest)) {
        if (strcmp(part, ".") == 0) {
            continue;
        }
        if (strcmp(part, "..") == 0) {
            return error_set(err, ERROR_INVALID, "the archive has a name with \"..\"");
        }
        if ((*ret_last)[0] != '\0') {
            if (mkdirat(fd, *ret_last, 0755) < 0 && errno != EEXIST) {
                return fail_os(err, errno, "making folder %s", *ret_last);
            }
            int next = openat(fd, *ret_last, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
            if (next < 0) {
                return fail_os(err, errno, "entering %s", *ret_last);
            }
            close(fd);
            fd = next;
        }
        *ret_last = part;
    }
    *ret_fd = fd_take(&fd);
    return 0;
}

static int skip(struct archive *archive, uint64_t length, struct error *err)
{
    static char bytes[STEP];
    while (length > 0) {
        size_t got = 0;
        size_t step = length < sizeof(bytes) ? (size_t)length : sizeof(bytes);
        int r = read_all(archive, bytes, step, &got, err);
        if (r < 0 || got < step) {
            return r < 0 ? r : cut_short(err);
        }
        length -= step;
    }
    return 0;
}

static int take_file(struct archive *archive, int folder, const char *last,
                     const struct entry *entry, struct error *err)
{
    static char bytes[STEP];
    unlinkat(folder, last, 0);
    FD_OWNED int fd =
        openat(folder, last, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0) {
        return fail_os(err, errno, "creating %s", entry->name);
    }
    for (uint64_t left = entry->size; left > 0;) {
        size_t got = 0;
        size_t step = left < sizeof(bytes) ? (size_t)left : sizeof(bytes);
        int r = read_all(archive, bytes, step, &got, err);
        if (r < 0 || got < step) {
            return r < 0 ? r : cut_short(err);
        }
        if (file_write_all(fd, bytes, step) < 0) {
            return fail_os(err, errno, "writing %s", entry->name);
        }
        left -= step;
    }
    archive->size += entry->size;
    return skip(archive, padding(entry->size), err);
}

/* A link to a file of the archive: both names are below the folder. */
static int take_link(int root, int folder, const char *last, const struct entry *entry,
                     struct error *err)
{
    char target[TEXT_MAX];
    const char *from = "";
    int from_folder = -1;
    snprintf(target, sizeof(target), "%s", entry->target);
    int r = enter(root, target, &from, &from_folder, err);
    if (r < 0) {
        return r;
    }
    unlinkat(folder, last, 0);
    r = linkat(from_folder, from, folder, last, 0);
    int number = errno;
    close(from_folder);
    return r < 0 ? fail_os(err, number, "linking %s", entry->name) : 0;
}

static int take_special(int folder, const char *last, const struct entry *entry, struct error *err)
{
    int r = 0;
    if (entry->type == '5') {
        struct stat status;
        r = mkdirat(folder, last, 0700);
        bool is_there = r < 0 && errno == EEXIST &&
            fstatat(folder, last, &status, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(status.st_mode);
        return r == 0 || is_there ? 0 : fail_os(err, errno, "making folder %s", entry->name);
    }
    unlinkat(folder, last, 0);
    if (entry->type == '2') {
        r = symlinkat(entry->target, folder, last);
    } else if (entry->type == '3' || entry->type == '4') {
        r = mknodat(folder, last, (entry->type == '3' ? S_IFCHR : S_IFBLK) | 0600, entry->device);
    } else if (entry->type == '6') {
        r = mkfifoat(folder, last, 0600);
    } else {
        return error_set(err, ERROR_UNSUPPORTED, "%s: tar's type '%c'", entry->name, entry->type);
    }
    return r < 0 ? fail_os(err, errno, "making %s", entry->name) : 0;
}

static int settle(struct archive *archive, int folder, const char *last, const struct entry *entry,
                  struct error *err)
{
    struct agent_reader request = archive->work->request;
    bool is_owned = (request_number(request, AGENT_FLAGS, 0) & AGENT_FLAG_OWN) != 0;
    uid_t uid = is_owned ? (uid_t)request_number(request, AGENT_USER, 0) : entry->uid;
    gid_t gid = is_owned ? (gid_t)request_number(request, AGENT_GROUP, 0) : entry->gid;
    const struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, entry->mtime};
    if (fchownat(folder, last, uid, gid, AT_SYMLINK_NOFOLLOW) < 0 ||
        (entry->type != '2' && fchmodat(folder, last, entry->mode, 0) < 0) ||
        utimensat(folder, last, times, AT_SYMLINK_NOFOLLOW) < 0) {
        return fail_os(err, errno, "settling %s", entry->name);
    }
    return 0;
}

static int take_entry(struct archive *archive, int root, const struct entry *entry,
                      struct error *err)
{
    char name[TEXT_MAX];
    const char *last = "";
    FD_OWNED int folder = -1;
    bool is_file = entry->type == '0' || entry->type == '\0' || entry->type == '7';
    snprintf(name, sizeof(name), "%s", entry->name);
    int r = enter(root, name, &last, &folder, err);
    if (r < 0) {
        return r;
    }
    if (last[0] == '\0') { /* "./": the folder itself, which stays as it is */
        return is_file ? error_set(err, ERROR_INVALID, "the archive has a file without a name") : 0;
    }
    if (is_file) {
        r = take_file(archive, folder, last, entry, err);
    } else if (entry->type == '1') {
        return take_link(root, folder, last, entry, err); /* settled with what it links to */
    } else {
        r = take_special(folder, last, entry, err);
    }
    return r < 0 ? r : settle(archive, folder, last, entry, err);
}

static bool is_empty(const struct header *header)
{
    static const struct header none;
    return memcmp(header, &none, BLOCK) == 0;
}

static int take_entries(struct archive *archive, int root, struct error *err)
{
    struct said said = {0};
    for (;;) {
        struct header header;
        struct entry entry;
        size_t got = 0;
        int r = read_all(archive, &header, sizeof(header), &got, err);
        if (r == 0 && got > 0 && got < sizeof(header)) {
            r = cut_short(err);
        }
        if (r < 0 || got == 0 || is_empty(&header)) {
            return r;
        }
        if (!has_good_sum(&header)) {
            return error_set(err, ERROR_INVALID, "that is no tar archive");
        }
        if (header.type == 'x' || header.type == 'g' || header.type == 'L' || header.type == 'K') {
            r = take_said(archive, &header, &said, err);
        } else {
            make_entry(&header, &said, &entry);
            said = (struct said){0};
            r = take_entry(archive, root, &entry, err);
            archive->count += r == 0;
        }
        if (r < 0) {
            return r;
        }
    }
}

int tar_unpack(struct work *work, struct buffer *answer, struct error *err)
{
    static char rest[STEP];
    char path[TEXT_MAX];
    struct archive archive = {.fd = work->in, .work = work};
    int r = request_text(work->request, AGENT_PATH, NULL, path, err);
    if (r == 0) {
        r = file_make_folder(path, 0755, err);
    }
    if (r < 0) {
        return r;
    }
    FD_OWNED int root = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (root < 0) {
        return fail_os(err, errno, "opening %s", path);
    }
    r = take_entries(&archive, root, err);
    while (r == 0 && read(work->in, rest, sizeof(rest)) > 0) {
        /* Archives are filled up with zeros behind their end. */
    }
    agent_put_number(answer, AGENT_COUNT, archive.count);
    agent_put_number(answer, AGENT_SIZE, archive.size);
    return r == 0 || archive.count == 0
        ? r
        : error_wrap(err, "%.200s has a part of it, which stays (%" PRIu64 " files and folders)",
                     path, (uint64_t)archive.count);
}
