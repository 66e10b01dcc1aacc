/* Answering a guest about folders: requests taken apart, handles, and what needs no path. */
#include "surface/cli/run_folders.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/memory.h"
#include "base/text.h"

#include "engine/vmm/hostfiles.h"

#include "surface/cli/run_private.h"

/* ---- Handles ---- */

struct run_folders *run_folders_new(void)
{
    struct run_folders *folders = NEW(struct run_folders);
    for (size_t i = 0; i < HANDLES_MAX; i++) {
        folders->handles[i].fd = -1;
    }
    return folders;
}

static int close_handle(struct run_folders *folders, uint64_t number)
{
    close(folders->handles[number].fd);
    folders->handles[number].fd = -1;
    buffer_done(&folders->handles[number].places);
    return 0;
}

void run_folders_free(struct run_folders *folders)
{
    if (folders == NULL) {
        return;
    }
    for (size_t i = 0; i < HANDLES_MAX; i++) {
        if (folders->handles[i].fd >= 0) {
            close_handle(folders, i);
        }
    }
    for (uint32_t i = 0; i < folders->count; i++) {
        free(folders->names[i]);
    }
    free(folders);
}

uint32_t run_folders_count(const struct run_folders *folders)
{
    return folders->count;
}

int handle_add(struct run_folders *folders, int fd, bool is_folder, bool is_fixed)
{
    for (int i = 0; i < HANDLES_MAX; i++) {
        if (folders->handles[i].fd < 0) {
            folders->handles[i] =
                (struct handle){.fd = fd, .is_folder = is_folder, .is_fixed = is_fixed};
            return i;
        }
    }
    return -1;
}

const struct handle *handle_of(const struct run_folders *folders, uint64_t number)
{
    return number < HANDLES_MAX && folders->handles[number].fd >= 0 ? &folders->handles[number]
                                                                    : NULL;
}

int run_folders_add(struct run_folders *folders, const char *text, struct error *err)
{
    size_t length = strlen(text);
    bool is_fixed = text_ends_with(text, ":ro");
    bool has_mode = (is_fixed || text_ends_with(text, ":rw")) && length > 3;
    MEMORY_OWNED char *host = memory_copy_text(text, has_mode ? length - 3 : length);
    char *separator = strstr(host, "::");
    const char *guest = separator != NULL ? separator + 2 : host;
    if (separator != NULL) {
        *separator = '\0';
    }
    if (host[0] == '\0' || guest[0] == '\0' || strlen(guest) > GUEST_PATH_MAX) {
        return error_set(err, ERROR_INVALID, "--dir %.100s is not HOST[::GUEST][:ro|:rw]", text);
    }
    if (folders->count == FOLDERS_MAX) {
        return error_set(err, ERROR_LIMIT, "more than %d --dir", FOLDERS_MAX);
    }
    int fd = open(host, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        return errno == ENOENT ? error_set(err, ERROR_NOT_FOUND, "--dir: %s does not exist", host)
                               : error_os(err, errno, "--dir: opening %s", host);
    }
    handle_add(folders, fd, true, is_fixed);
    folders->names[folders->count++] = memory_copy_string(guest);
    return 0;
}

/* ---- Error numbers ---- */

int hostfiles_error(int cause)
{
    static const struct {
        int ours;
        int wasi;
    } numbers[] = {
        {EACCES, 2},     {EAGAIN, 6},      {EBADF, 8},   {EBUSY, 10},     {EDQUOT, 19},
        {EEXIST, 20},    {EFBIG, 22},      {EINTR, 27},  {EINVAL, 28},    {EIO, 29},
        {EISDIR, 31},    {ELOOP, 32},      {EMFILE, 33}, {EMLINK, 34},    {ENAMETOOLONG, 37},
        {ENFILE, 41},    {ENOENT, 44},     {ENOMEM, 48}, {ENOSPC, 51},    {ENOTDIR, 54},
        {ENOTEMPTY, 55}, {EOPNOTSUPP, 58}, {ENXIO, 60},  {EOVERFLOW, 61}, {EPERM, 63},
        {EPIPE, 64},     {EROFS, 69},      {ESPIPE, 70}, {ESTALE, 72},    {ETXTBSY, 74},
        {EXDEV, 75},     {EILSEQ, 25},
    };
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
        if (numbers[i].ours == cause) {
            return -numbers[i].wasi;
        }
    }
    return HOSTCALL_EIO;
}

/* ---- What an open file or folder is asked ---- */

static int answer_read(const struct handle *handle, const struct question *question,
                       struct answer_bytes *answer)
{
    uint64_t length = question->numbers[2];
    length = length < HOSTFILES_BYTES_MAX ? length : HOSTFILES_BYTES_MAX;
    if (question->numbers[1] > INT64_MAX) {
        return -EINVAL;
    }
    uint8_t *room = buffer_reserve(answer->bytes, (size_t)length);
    ssize_t got = pread(handle->fd, room, (size_t)length, (off_t)question->numbers[1]);
    if (got < 0) {
        return -errno;
    }
    answer->bytes->used += (size_t)got;
    answer->number = (uint64_t)got;
    return 0;
}

/* The guest's flags hold for this write: O_APPEND of the file would move others of it, too. */
static int linux_flags(uint64_t flags)
{
    enum { APPEND = 1, DSYNC = 2, RSYNC = 8, SYNC = 16 };
    return (flags & APPEND ? RWF_APPEND : 0) | (flags & DSYNC ? RWF_DSYNC : 0) |
        (flags & (RSYNC | SYNC) ? RWF_SYNC : 0);
}

static int answer_write(const struct handle *handle, const struct question *question,
                        struct answer_bytes *answer)
{
    const struct iovec part = {(void *)(uintptr_t)question->texts[0], question->lengths[0]};
    if (question->numbers[1] > INT64_MAX) {
        return -EINVAL;
    }
    ssize_t put = pwritev2(handle->fd, &part, 1, (off_t)question->numbers[1],
                           linux_flags(question->numbers[2]));
    answer->number = put < 0 ? 0 : (uint64_t)put;
    return put < 0 ? -errno : 0;
}

static uint8_t kind_of(mode_t mode)
{
    switch (mode & S_IFMT) {
    case S_IFBLK:
        return 1;
    case S_IFCHR:
        return 2;
    case S_IFDIR:
        return 3;
    case S_IFREG:
        return 4;
    case S_IFSOCK:
        return 6;
    case S_IFLNK:
        return 7;
    default:
        return 0;
    }
}

static uint64_t nanoseconds(struct timespec time)
{
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

int hostfiles_status(int fd, struct answer_bytes *answer)
{
    struct stat status;
    if (fstat(fd, &status) < 0) {
        return -errno;
    }
    buffer_append_u64(answer->bytes, status.st_dev);
    buffer_append_u64(answer->bytes, status.st_ino);
    buffer_append_u64(answer->bytes, kind_of(status.st_mode));
    buffer_append_u64(answer->bytes, status.st_nlink);
    buffer_append_u64(answer->bytes, (uint64_t)status.st_size);
    buffer_append_u64(answer->bytes, nanoseconds(status.st_atim));
    buffer_append_u64(answer->bytes, nanoseconds(status.st_mtim));
    buffer_append_u64(answer->bytes, nanoseconds(status.st_ctim));
    return 0;
}

/* `numbers`: accessed, modified, which. */
int hostfiles_set_times(int fd, const uint64_t *numbers)
{
    struct timespec times[2];
    for (int i = 0; i < 2; i++) {
        bool is_set = numbers[2] >> (2 * i) & 1;
        bool is_now = numbers[2] >> (2 * i) & 2;
        times[i] = (struct timespec){.tv_sec = (time_t)(numbers[i] / 1000000000),
                                     .tv_nsec = is_set ? (long)(numbers[i] % 1000000000)
                                         : is_now      ? UTIME_NOW
                                                       : UTIME_OMIT};
    }
    return utimensat(fd, "", times, AT_EMPTY_PATH) < 0 ? -errno : 0;
}

/* False: so many entries of it were not read. */
static bool find_entries(const struct handle *handle, uint64_t number)
{
    uint64_t place = 0;
    if (number > handle->places.used / sizeof(place)) {
        return false;
    }
    if (number > 0) {
        memcpy(&place, handle->places.data + (number - 1) * sizeof(place), sizeof(place));
    }
    return lseek(handle->fd, (off_t)place, SEEK_SET) >= 0;
}

/* Behind `number` entries. */
static void note_entry(struct handle *handle, uint64_t number, uint64_t place)
{
    size_t at = (size_t)(number - 1) * sizeof(place);
    if (at == handle->places.used) {
        buffer_append_u64(&handle->places, place);
    } else {
        memcpy(handle->places.data + at, &place, sizeof(place));
    }
}

static int answer_readdir(struct handle *handle, const struct question *question,
                          struct answer_bytes *answer)
{
    enum { LINUX_BYTES = 32768, HEAD_BYTES = 24 };
    static const uint8_t kinds[16] = {
        [DT_BLK] = 1, [DT_CHR] = 2, [DT_DIR] = 3, [DT_REG] = 4, [DT_SOCK] = 6, [DT_LNK] = 7};
    char bytes[LINUX_BYTES] __attribute__((aligned(8)));
    uint64_t room = question->numbers[2];
    room = room < HOSTFILES_BYTES_MAX ? room : HOSTFILES_BYTES_MAX;
    uint64_t number = question->numbers[1];
    if (!find_entries(handle, number)) {
        return -EINVAL;
    }
    size_t begin = answer->bytes->used;
    while (answer->bytes->used - begin < room) {
        long got = syscall(SYS_getdents64, handle->fd, bytes, sizeof(bytes));
        if (got < 0) {
            return -errno;
        }
        for (long at = 0; at < got && answer->bytes->used - begin < room;) {
            const struct dirent64 *entry = (const struct dirent64 *)(bytes + at);
            size_t length = strlen(entry->d_name);
            note_entry(handle, ++number, (uint64_t)entry->d_off);
            buffer_append_u64(answer->bytes, number);
            buffer_append_u64(answer->bytes, entry->d_ino);
            buffer_append_u32(answer->bytes, (uint32_t)length);
            buffer_append_u32(answer->bytes, kinds[entry->d_type & 15]);
            buffer_append(answer->bytes, entry->d_name, length);
            at += entry->d_reclen;
        }
        if (got == 0) {
            break;
        }
    }
    if (answer->bytes->used - begin > room) {
        answer->bytes->used = begin + (size_t)room; /* a cut-off entry is asked for again */
    }
    answer->number = answer->bytes->used - begin;
    return 0;
}

static int answer_allocate(const struct handle *handle, const uint64_t *numbers)
{
    if (numbers[2] == 0 || numbers[1] > INT64_MAX || numbers[2] > INT64_MAX) {
        return -EINVAL;
    }
    return -posix_fallocate(handle->fd, (off_t)numbers[1], (off_t)numbers[2]);
}

/* On an open handle, without a path. */
static int answer_open(struct run_folders *folders, const struct handle *handle,
                       const struct question *question, struct answer_bytes *answer)
{
    const uint64_t *numbers = question->numbers;
    switch (question->operation) {
    case HOSTFILES_CLOSE:
        return close_handle(folders, numbers[0]);
    case HOSTFILES_READ:
        return answer_read(handle, question, answer);
    case HOSTFILES_WRITE:
        return answer_write(handle, question, answer);
    case HOSTFILES_STATUS:
        return hostfiles_status(handle->fd, answer);
    case HOSTFILES_SET_SIZE:
        return numbers[1] > INT64_MAX                      ? -EINVAL
            : ftruncate(handle->fd, (off_t)numbers[1]) < 0 ? -errno
                                                           : 0;
    case HOSTFILES_SET_TIMES:
        return handle->is_fixed ? -EROFS : hostfiles_set_times(handle->fd, numbers + 1);
    case HOSTFILES_ALLOCATE:
        return answer_allocate(handle, numbers);
    case HOSTFILES_SYNC:
        return (numbers[1] != 0 ? fdatasync(handle->fd) : fsync(handle->fd)) < 0 ? -errno : 0;
    case HOSTFILES_READDIR:
        return handle->is_folder ? answer_readdir(&folders->handles[numbers[0]], question, answer)
                                 : -ENOTDIR;
    default:
        return hostfiles_path(folders, handle, question, answer);
    }
}

/* ---- Requests ---- */

static uint32_t take_u32(const uint8_t *at)
{
    uint32_t value;
    memcpy(&value, at, sizeof(value));
    return value;
}

static unsigned numbers_of(uint32_t operation)
{
    static const uint8_t counts[] = {
#define HOSTFILES(name, numbers) numbers,
        HOSTFILES_TABLE(HOSTFILES)
#undef HOSTFILES
    };
    return operation >= HOSTCALL_FILES && operation < HOSTFILES_END
        ? counts[operation - HOSTCALL_FILES]
        : 0;
}

/* Operation, count, lengths, then the parts: all of it, and nothing more. */
bool question_read(const void *request, size_t length, struct question *ret_question)
{
    const uint8_t *bytes = request;
    struct question question = {0};
    if (length < 8) {
        return false;
    }
    question.operation = take_u32(bytes);
    uint32_t count = take_u32(bytes + 4);
    unsigned numbers = numbers_of(question.operation);
    if (numbers == 0 || count == 0 || count > 3 || length - 8 < count * 4u ||
        take_u32(bytes + 8) != numbers * 8) {
        return false;
    }
    size_t at = 8 + count * 4;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t part = take_u32(bytes + 8 + i * 4);
        if (part > length - at) {
            return false;
        }
        if (i == 0) {
            memcpy(question.numbers, bytes + at, part);
        } else {
            question.texts[i - 1] = (const char *)bytes + at;
            question.lengths[i - 1] = part;
        }
        at += part;
    }
    *ret_question = question;
    return at == length;
}

static int answer_preopen(struct run_folders *folders, uint64_t index, struct answer_bytes *answer)
{
    if (index >= folders->count) {
        return -EBADF;
    }
    answer->number = index;
    buffer_append_string(answer->bytes, folders->names[index]);
    return 0;
}

int run_folders_answer(const void *request, size_t length, uint64_t deadline_ns,
                       struct buffer *reply, void *context)
{
    struct run_folders *folders = context;
    struct question question;
    struct hostcall_reply head = {.status = HOSTCALL_ENOSYS};
    struct answer_bytes answer = {.bytes = reply};
    (void)deadline_ns;
    buffer_append(reply, &head, sizeof(head));
    if (question_read(request, length, &question)) {
        const struct handle *handle = handle_of(folders, question.numbers[0]);
        int r = question.operation == HOSTFILES_PREOPEN
            ? answer_preopen(folders, question.numbers[0], &answer)
            : handle == NULL ? -EBADF
                             : answer_open(folders, handle, &question, &answer);
        head.status = r < 0 ? hostfiles_error(-r) : 0;
        head.number = answer.number;
    }
    if (head.status != 0) {
        reply->used = sizeof(head);
    }
    memcpy(reply->data, &head, sizeof(head));
    return 0;
}
