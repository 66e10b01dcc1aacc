/*
 * Paths of a guest on this machine.
 *
 * Every path is resolved by openat2(2) with RESOLVE_BENEATH: the kernel refuses ".." above the
 * folder, absolute paths, and links to either.  Where a name is made, moved or removed, the folder
 * above it is opened so, and the last part, which is then a plain name without '/', is given to the
 * call: what is there is never followed.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/fd.h"
#include "base/text.h"

#include "surface/cli/run_folders.h"
#include "surface/cli/run_private.h"

enum { PATH_BYTES = 4096, NAME_BYTES = 256 };

enum { CREATES = 1, WANTS_FOLDER = 2, EXCLUSIVE = 4, TRUNCATES = 8 }; /* WASI's open flags */

/* ---- Resolving ---- */

/* As openat(2), beneath; or -errno. */
static int open_beneath(int fd, const char *path, uint64_t flags)
{
    struct open_how how = {.flags = flags | O_CLOEXEC,
                           .mode = flags & O_CREAT ? 0666 : 0,
                           .resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS};
    long opened = syscall(SYS_openat2, fd, path, &how, sizeof(how));
    if (opened < 0 && errno == EXDEV) {
        return -EPERM; /* it would have led out */
    }
    return opened < 0 ? -errno : (int)opened;
}

struct path {
    char bytes[PATH_BYTES + 1];
};

static int take_path(const struct question *question, int which, struct path *ret_path)
{
    const char *text = question->texts[which];
    uint32_t length = question->lengths[which];
    if (text == NULL || length == 0) {
        return -ENOENT;
    }
    if (length > PATH_BYTES) {
        return -ENAMETOOLONG;
    }
    if (memchr(text, '\0', length) != NULL) {
        return -EINVAL;
    }
    if (!text_is_utf8(text, length)) {
        return -EILSEQ;
    }
    memcpy(ret_path->bytes, text, length);
    ret_path->bytes[length] = '\0';
    return text[0] == '/' ? -EPERM : 0;
}

/* A name in an open folder. */
struct place {
    int fd; /* the caller closes it */
    char name[NAME_BYTES];
    bool wants_folder; /* a '/' stood behind it */
};

static void place_done(struct place *place)
{
    if (place->fd >= 0) {
        close(place->fd);
    }
}

#define PLACE_OWNED __attribute__((cleanup(place_done)))

static int find_place(const struct handle *handle, const struct question *question, int which,
                      struct place *ret_place)
{
    struct path path;
    int r = take_path(question, which, &path);
    if (r < 0) {
        return r;
    }
    size_t length = strlen(path.bytes);
    while (length > 1 && path.bytes[length - 1] == '/') {
        path.bytes[--length] = '\0';
        ret_place->wants_folder = true;
    }
    char *slash = strrchr(path.bytes, '/');
    const char *name = slash != NULL ? slash + 1 : path.bytes;
    if (strlen(name) >= NAME_BYTES) {
        return -ENAMETOOLONG;
    }
    snprintf(ret_place->name, sizeof(ret_place->name), "%s", name);
    if (strcmp(name, "..") == 0) {
        /* Not a name, under which Linux makes, moves and removes nothing; what leads out is
         * refused. */
        FD_OWNED int whole = open_beneath(handle->fd, path.bytes, O_PATH | O_DIRECTORY);
        if (whole < 0) {
            return whole;
        }
    }
    if (slash != NULL) {
        *slash = '\0';
    }
    r = open_beneath(handle->fd, slash != NULL ? path.bytes : ".", O_PATH | O_DIRECTORY);
    ret_place->fd = r;
    return r < 0 ? r : 0;
}

/* The kind of what has the name, without following; 0: nothing has. */
static mode_t kind_at(const struct place *place)
{
    struct stat status;
    return fstatat(place->fd, place->name, &status, AT_SYMLINK_NOFOLLOW) < 0
        ? 0
        : status.st_mode & S_IFMT;
}

static int find_free(const struct handle *handle, const struct question *question, int which,
                     bool is_folder, struct place *ret_place)
{
    int r = find_place(handle, question, which, ret_place);
    if (r == 0 && ret_place->wants_folder && !is_folder) {
        mode_t kind = kind_at(ret_place);
        r = kind == 0 ? -ENOENT : kind == S_IFDIR ? -EEXIST : -ENOTDIR;
    }
    return r == 0 && handle->is_fixed ? -EROFS : r;
}

/* ---- Opening ---- */

static uint64_t linux_flags(const uint64_t *numbers)
{
    static const uint64_t access[4] = {O_RDONLY, O_RDONLY, O_WRONLY, O_RDWR};
    uint64_t how = numbers[2];
    /* O_NONBLOCK: a pipe does not make us wait, it is refused below. */
    return access[numbers[3] & 3] | O_NONBLOCK | O_NOCTTY | (numbers[1] & 1 ? 0 : O_NOFOLLOW) |
        (how & CREATES ? O_CREAT : 0) | (how & WANTS_FOLDER ? O_DIRECTORY : 0) |
        (how & EXCLUSIVE ? O_EXCL : 0) | (how & TRUNCATES ? O_TRUNC : 0);
}

/* Of a folder that may not change. */
static int check_fixed(const struct handle *handle, const struct path *path,
                       const uint64_t *numbers)
{
    bool writes = (numbers[3] & 2) || (numbers[2] & TRUNCATES);
    if (!handle->is_fixed || (!writes && (numbers[2] & CREATES) == 0)) {
        return 0;
    }
    FD_OWNED int fd = open_beneath(handle->fd, path->bytes, O_PATH);
    return writes || fd < 0 ? -EROFS : 0;
}

/* Files and folders only. */
static int check_kind(int fd, mode_t *ret_kind)
{
    struct stat status;
    if (fstat(fd, &status) < 0) {
        return -errno;
    }
    *ret_kind = status.st_mode & S_IFMT;
    return *ret_kind == S_IFREG || *ret_kind == S_IFDIR ? 0 : -EOPNOTSUPP;
}

static int answer_open(struct run_folders *folders, const struct handle *handle,
                       const struct question *question, struct answer_bytes *answer)
{
    enum { KIND_FOLDER = 3, KIND_FILE = 4 };
    struct path path;
    mode_t kind = 0;
    int r = take_path(question, 0, &path);
    if (r == 0 && (question->numbers[2] & CREATES) && (question->numbers[2] & WANTS_FOLDER)) {
        r = -EINVAL;
    }
    if (r == 0) {
        r = check_fixed(handle, &path, question->numbers);
    }
    if (r < 0) {
        return r;
    }
    FD_OWNED int fd = open_beneath(handle->fd, path.bytes, linux_flags(question->numbers));
    if (fd < 0) {
        return fd;
    }
    r = check_kind(fd, &kind);
    if (r < 0) {
        return r;
    }
    int number = handle_add(folders, fd, kind == S_IFDIR, handle->is_fixed);
    if (number < 0) {
        return -EMFILE;
    }
    fd_take(&fd);
    answer->number = (uint64_t)number | (uint64_t)(kind == S_IFDIR ? KIND_FOLDER : KIND_FILE) << 32;
    return 0;
}

/* ---- Status ---- */

static int answer_status(const struct handle *handle, const struct question *question,
                         struct answer_bytes *answer)
{
    struct path path;
    int r = take_path(question, 0, &path);
    if (r < 0) {
        return r;
    }
    bool follows = question->numbers[1] & 1;
    FD_OWNED int fd = open_beneath(handle->fd, path.bytes, O_PATH | (follows ? 0 : O_NOFOLLOW));
    if (fd < 0) {
        return fd;
    }
    if (question->operation == HOSTFILES_PATH_STATUS) {
        return hostfiles_status(fd, answer);
    }
    return handle->is_fixed ? -EROFS : hostfiles_set_times(fd, question->numbers + 2);
}

/* What a path with a '/' at its end leads to is a folder, or is not there. */
static int no_link_behind(const struct handle *handle, const struct question *question)
{
    struct path path;
    int r = take_path(question, 0, &path);
    FD_OWNED int fd = r < 0 ? r : open_beneath(handle->fd, path.bytes, O_PATH | O_DIRECTORY);
    return fd < 0 ? fd : -EINVAL;
}

static int answer_readlink(const struct handle *handle, const struct question *question,
                           struct answer_bytes *answer)
{
    PLACE_OWNED struct place place = {.fd = -1};
    int r = find_place(handle, question, 0, &place);
    if (r == 0 && place.wants_folder) {
        r = no_link_behind(handle, question);
    }
    if (r < 0) {
        return r;
    }
    char *room = (char *)buffer_reserve(answer->bytes, PATH_BYTES);
    ssize_t length = readlinkat(place.fd, place.name, room, PATH_BYTES);
    if (length < 0) {
        return -errno;
    }
    answer->bytes->used += (size_t)length;
    answer->number = (uint64_t)length;
    return 0;
}

/* ---- Making, moving, removing ---- */

static int make_folder(const struct handle *handle, const struct question *question)
{
    PLACE_OWNED struct place place = {.fd = -1};
    int r = find_free(handle, question, 0, true, &place);
    if (r == 0 && mkdirat(place.fd, place.name, 0777) < 0) {
        r = -errno;
    }
    return r;
}

static int make_symlink(const struct handle *handle, const struct question *question)
{
    struct path target;
    PLACE_OWNED struct place place = {.fd = -1};
    int r = take_path(question, 1, &target);
    if (r == 0) {
        r = find_free(handle, question, 0, false, &place);
    }
    if (r == 0 && symlinkat(target.bytes, place.fd, place.name) < 0) {
        r = -errno;
    }
    return r;
}

static int make_link(const struct run_folders *folders, const struct handle *handle,
                     const struct question *question)
{
    const struct handle *to = handle_of(folders, question->numbers[2]);
    PLACE_OWNED struct place source = {.fd = -1};
    PLACE_OWNED struct place target = {.fd = -1};
    if (to == NULL) {
        return -EBADF;
    }
    if (question->numbers[1] & 1) {
        return -EINVAL; /* a link that was followed could lead anywhere by now */
    }
    int r = find_place(handle, question, 0, &source);
    if (r == 0 && source.wants_folder) {
        mode_t kind = kind_at(&source);
        r = kind == 0 ? -ENOENT : kind == S_IFDIR ? 0 : -ENOTDIR;
    }
    if (r == 0) {
        r = find_free(to, question, 1, false, &target);
    }
    if (r == 0 && handle->is_fixed) {
        r = -EROFS; /* what is written to by the new name is the old file */
    }
    if (r == 0 && linkat(source.fd, source.name, target.fd, target.name, 0) < 0) {
        r = -errno;
    }
    return r;
}

static int move(const struct run_folders *folders, const struct handle *handle,
                const struct question *question)
{
    const struct handle *to = handle_of(folders, question->numbers[1]);
    PLACE_OWNED struct place source = {.fd = -1};
    PLACE_OWNED struct place target = {.fd = -1};
    if (to == NULL) {
        return -EBADF;
    }
    int r = find_place(handle, question, 0, &source);
    if (r == 0) {
        r = find_place(to, question, 1, &target);
    }
    mode_t kind = r == 0 ? kind_at(&source) : 0;
    if (r == 0 && (source.wants_folder || target.wants_folder) && kind != 0 && kind != S_IFDIR) {
        r = -ENOTDIR;
    }
    if (r == 0 && (handle->is_fixed || to->is_fixed)) {
        r = -EROFS;
    }
    if (r == 0 && renameat(source.fd, source.name, target.fd, target.name) < 0) {
        r = -errno;
    }
    return r;
}

static int take_away(const struct handle *handle, const struct question *question)
{
    PLACE_OWNED struct place place = {.fd = -1};
    bool is_folder = question->operation == HOSTFILES_REMOVE_FOLDER;
    int r = find_place(handle, question, 0, &place);
    if (r == 0 && !is_folder && place.wants_folder) {
        mode_t kind = kind_at(&place);
        r = kind == 0 ? -ENOENT : kind == S_IFDIR ? -EISDIR : -ENOTDIR;
    }
    if (r == 0 && handle->is_fixed) {
        r = -EROFS;
    }
    if (r == 0 && unlinkat(place.fd, place.name, is_folder ? AT_REMOVEDIR : 0) < 0) {
        r = -errno;
    }
    return r;
}

int hostfiles_path(struct run_folders *folders, const struct handle *handle,
                   const struct question *question, struct answer_bytes *answer)
{
    if (!handle->is_folder) {
        return -ENOTDIR;
    }
    switch (question->operation) {
    case HOSTFILES_OPEN:
        return answer_open(folders, handle, question, answer);
    case HOSTFILES_PATH_STATUS:
    case HOSTFILES_PATH_SET_TIMES:
        return answer_status(handle, question, answer);
    case HOSTFILES_MAKE_FOLDER:
        return make_folder(handle, question);
    case HOSTFILES_LINK:
        return make_link(folders, handle, question);
    case HOSTFILES_SYMLINK:
        return make_symlink(handle, question);
    case HOSTFILES_READLINK:
        return answer_readlink(handle, question, answer);
    case HOSTFILES_RENAME:
        return move(folders, handle, question);
    case HOSTFILES_REMOVE_FOLDER:
    case HOSTFILES_UNLINK:
        return take_away(handle, question);
    default:
        return -ENOSYS;
    }
}
