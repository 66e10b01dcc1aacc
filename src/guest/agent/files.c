/* Single files. */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/file.h"

#include "guest/agent/private.h"

enum { STEP = 65536 };

static void put_stat(struct buffer *answer, const struct stat *status)
{
    agent_put_number(answer, AGENT_KIND, status->st_mode & S_IFMT);
    agent_put_number(answer, AGENT_MODE, status->st_mode & 07777);
    agent_put_number(answer, AGENT_USER, status->st_uid);
    agent_put_number(answer, AGENT_GROUP, status->st_gid);
    agent_put_number(answer, AGENT_SIZE, (uint64_t)status->st_size);
    agent_put_number(answer, AGENT_MTIME_NS,
                     (uint64_t)status->st_mtim.tv_sec * 1000000000 +
                         (uint64_t)status->st_mtim.tv_nsec);
}

int file_stat(struct work *work, struct buffer *answer, struct error *err)
{
    char path[TEXT_MAX];
    char target[TEXT_MAX];
    struct stat status;
    uint64_t flags = request_number(work->request, AGENT_FLAGS, 0);
    int r = request_text(work->request, AGENT_PATH, NULL, path, err);
    if (r < 0) {
        return r;
    }
    bool follows = (flags & AGENT_FLAG_FOLLOW) != 0;
    if ((follows ? stat(path, &status) : lstat(path, &status)) < 0) {
        return fail_plain(err, errno);
    }
    put_stat(answer, &status);
    if (S_ISLNK(status.st_mode)) {
        ssize_t length = readlink(path, target, sizeof(target));
        agent_put_bytes(answer, AGENT_TARGET, target, length > 0 ? (size_t)length : 0);
    }
    return 0;
}

int file_get(struct work *work, struct buffer *answer, struct error *err)
{
    static uint8_t bytes[STEP];
    char path[TEXT_MAX];
    struct stat status;
    uint64_t total = 0;
    int r = request_text(work->request, AGENT_PATH, NULL, path, err);
    if (r < 0) {
        return r;
    }
    FD_OWNED int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0 || fstat(fd, &status) < 0) {
        return fail_plain(err, errno);
    }
    if (S_ISDIR(status.st_mode)) {
        return error_set(err, ERROR_INVALID, "it is a folder (--recursive copies one)");
    }
    if (!S_ISREG(status.st_mode)) {
        return error_set(err, ERROR_INVALID, "it is no regular file");
    }
    BUFFER_OWNED struct buffer note = {0};
    put_stat(&note, &status);
    work_note(work, &note);
    for (;;) {
        ssize_t got = read(fd, bytes, sizeof(bytes));
        if (got < 0) {
            return fail_plain(err, errno);
        }
        if (got == 0) {
            agent_put_number(answer, AGENT_SIZE, total);
            return 0;
        }
        if (file_write_all(work->out, bytes, (size_t)got) < 0) {
            return fail_os(err, errno, "sending it");
        }
        total += (uint64_t)got;
    }
}

/* ---- Writing: beside it, and then in its place, so that it is there whole or not at all ---- */

static char beside[TEXT_MAX + 32];

static void on_term(int number)
{
    (void)number;
    unlink(beside);
    _exit(EXIT_FAILURE);
}

static int take_content(int in, int fd, uint64_t *ret_total, struct error *err)
{
    static uint8_t bytes[STEP];
    for (;;) {
        ssize_t got = read(in, bytes, sizeof(bytes));
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got < 0) {
            return fail_os(err, errno, "receiving it");
        }
        if (got == 0) {
            return 0;
        }
        if (file_write_all(fd, bytes, (size_t)got) < 0) {
            return fail_plain(err, errno);
        }
        *ret_total += (uint64_t)got;
    }
}

static int settle(int fd, struct agent_reader request, struct error *err)
{
    uint64_t mtime_ns = request_number(request, AGENT_MTIME_NS, 0);
    struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_nsec = UTIME_OMIT}};
    if (mtime_ns != 0) {
        int64_t signed_ns = (int64_t)mtime_ns;
        times[1].tv_sec = (time_t)(signed_ns / 1000000000 - (signed_ns % 1000000000 < 0));
        times[1].tv_nsec = (long)((signed_ns % 1000000000 + 1000000000) % 1000000000);
    }
    /* The owner first: a change of it takes set-user-id bits away. */
    if (fchown(fd, (uid_t)request_number(request, AGENT_USER, 0),
               (gid_t)request_number(request, AGENT_GROUP, 0)) < 0 ||
        fchmod(fd, (mode_t)(request_number(request, AGENT_MODE, 0644) & 07777)) < 0 ||
        futimens(fd, times) < 0 || fsync(fd) < 0) {
        return fail_plain(err, errno);
    }
    return 0;
}

static int make_parents(const char *path, struct error *err)
{
    char copy[TEXT_MAX];
    snprintf(copy, sizeof(copy), "%s", path);
    return file_make_folder(dirname(copy), 0755, err);
}

int file_put(struct work *work, struct buffer *answer, struct error *err)
{
    char path[TEXT_MAX];
    struct stat status;
    uint64_t total = 0;
    uint64_t flags = request_number(work->request, AGENT_FLAGS, 0);
    int r = request_text(work->request, AGENT_PATH, NULL, path, err);
    bool is_there = r == 0 && stat(path, &status) == 0;
    if (is_there && S_ISDIR(status.st_mode)) {
        r = error_set(err, ERROR_INVALID,
                      "it is a folder: with a / behind it, the file goes into it");
    }
    if (r == 0 &&
        (path[0] == '\0' || path[strlen(path) - 1] == '/' ||
         (is_there && !S_ISREG(status.st_mode)))) {
        r = error_set(err, ERROR_INVALID, "there is something that is no regular file");
    }
    if (r == 0 && (flags & AGENT_FLAG_MAKE_FOLDERS) != 0) {
        r = make_parents(path, err);
    }
    if (r < 0) {
        return r;
    }
    signal(SIGTERM, on_term); /* the request was cancelled */
    snprintf(beside, sizeof(beside), "%s.blixard-%d", path, (int)getpid());
    FD_OWNED int fd = open(beside, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0) {
        return fail_plain(err, errno);
    }
    r = take_content(work->in, fd, &total, err);
    if (r == 0) {
        r = settle(fd, work->request, err);
    }
    if (r == 0) {
        bool replaces = (flags & AGENT_FLAG_NO_REPLACE) == 0;
        int renamed = replaces ? rename(beside, path) : link(beside, path);
        r = renamed < 0 ? fail_plain(err, errno) : 0;
    }
    unlink(beside); /* which the rename has taken away when all went well */
    agent_put_number(answer, AGENT_SIZE, total);
    return r;
}
