/*
 * An empty root: a tmpfs over some folder that exists everywhere, bind mounts in it, pivot_root(2).
 *
 * Sources are opened before anything is mounted, because the tmpfs may hide them.
 */
#include "engine/jail/root.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/fd.h"

/* sys/mount.h and linux/mount.h cannot be included together. */
int mount(const char *source, const char *target, const char *type, unsigned long flags,
          const void *data);
int umount2(const char *target, int flags);

enum { MOUNTS_MAX = 112, PATH_BYTES = 512 };
enum {
    FLAG_BIND = 4096,
    FLAG_REC = 16384,
    FLAG_PRIVATE = 1 << 18,
    FLAG_NOSUID = 2,
    FLAG_DETACH = 2
};

static const char new_root[] = "/tmp";

static const struct jail_mount devices[] = {
    {"/dev/null", "/dev/null", true, true},
    {"/dev/zero", "/dev/zero", true, true},
    {"/dev/urandom", "/dev/urandom", true, true},
};

/* Every folder above `path`, and `path` itself as folder or empty file. */
static int make_target(char *path, bool is_folder)
{
    for (char *at = path + 1; *at != '\0'; at++) {
        if (*at == '/') {
            *at = '\0';
            int r = mkdir(path, 0755);
            *at = '/';
            if (r < 0 && errno != EEXIST) {
                return -1;
            }
        }
    }
    if (is_folder) {
        return mkdir(path, 0755) < 0 && errno != EEXIST ? -1 : 0;
    }
    if (access(path, F_OK) == 0) { /* in what was mounted before, and cannot be written */
        return 0;
    }
    FD_OWNED int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    return fd < 0 ? -1 : 0;
}

/* The whole tree below, so that no mount in it stays writable. */
static int make_read_only(const char *target)
{
    struct mount_attr attributes = {.attr_set =
                                        MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV};
    return (int)syscall(SYS_mount_setattr, AT_FDCWD, target, AT_RECURSIVE, &attributes,
                        sizeof(attributes));
}

static int bind_one(const struct jail_mount *mount_wanted, int source_fd)
{
    char source[64];
    char target[PATH_BYTES];
    struct stat status;
    snprintf(source, sizeof(source), "/proc/self/fd/%d", source_fd);
    int length = snprintf(target, sizeof(target), "%s%s", new_root, mount_wanted->target);
    if (length >= (int)sizeof(target)) {
        errno = ENAMETOOLONG;
        return -1;
    }
    if (fstat(source_fd, &status) < 0 || make_target(target, S_ISDIR(status.st_mode)) < 0 ||
        mount(source, target, NULL, FLAG_BIND | FLAG_REC, NULL) < 0) {
        return -1;
    }
    return mount_wanted->writable ? 0 : make_read_only(target);
}

static int bind_all(const struct jail_mount *mounts, size_t count, const int *fds)
{
    for (size_t i = 0; i < count; i++) {
        if (fds[i] >= 0 && bind_one(&mounts[i], fds[i]) < 0) {
            return -1;
        }
    }
    return 0;
}

static int open_sources(const struct jail_mount *mounts, size_t count, int *ret_fds)
{
    for (size_t i = 0; i < count; i++) {
        ret_fds[i] = open(mounts[i].source, O_PATH | O_CLOEXEC);
        if (ret_fds[i] < 0 && !mounts[i].optional) {
            return -1;
        }
    }
    return 0;
}

static int swap_roots(void)
{
    /* The old root ends up on top of the new one and is taken off: pivot_root(2), "pivot_root(".",
     * ".")" */
    if (chdir(new_root) < 0 || syscall(SYS_pivot_root, ".", ".") < 0 ||
        umount2(".", FLAG_DETACH) < 0 || chdir("/") < 0) {
        return -1;
    }
    return 0;
}

int root_replace(const struct jail_mount *mounts, size_t count)
{
    int fds[MOUNTS_MAX];
    int device_fds[sizeof(devices) / sizeof(devices[0])];
    const size_t device_count = sizeof(devices) / sizeof(devices[0]);
    if (count > MOUNTS_MAX) {
        errno = E2BIG;
        return -1;
    }
    if (open_sources(mounts, count, fds) < 0 ||
        open_sources(devices, device_count, device_fds) < 0 ||
        mount(NULL, "/", NULL, FLAG_REC | FLAG_PRIVATE, NULL) < 0 ||
        mount("tmpfs", new_root, "tmpfs", FLAG_NOSUID, "mode=755,size=64m") < 0) {
        return -1;
    }
    if (bind_all(mounts, count, fds) < 0 ||
        (count > 0 && bind_all(devices, device_count, device_fds) < 0)) {
        return -1;
    }
    for (size_t i = 0; i < count; i++) {
        if (fds[i] >= 0) {
            close(fds[i]);
        }
    }
    for (size_t i = 0; i < device_count; i++) {
        if (device_fds[i] >= 0) {
            close(device_fds[i]);
        }
    }
    return swap_roots();
}
