#include "engine/jail/jail.h"

#include <cap-ng.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"

#include "engine/jail/filter.h"
#include "engine/jail/root.h"

static const struct {
    unsigned bit;
    const char *text;
} parts[] = {
    {JAIL_NAMESPACES, "namespaces"},     {JAIL_ROOT, "root of its own"},
    {JAIL_UID, "user of its own"},       {JAIL_CAPABILITIES, "dropped capabilities"},
    {JAIL_FILTER, "system call filter"}, {JAIL_LIMITS, "limits"},
};

/* ---- Namespaces ---- */

static int write_text(const char *path, const char *text)
{
    FD_OWNED int fd = open(path, O_WRONLY | O_CLOEXEC);
    ssize_t length = (ssize_t)strlen(text);
    return fd >= 0 && write(fd, text, (size_t)length) == length ? 0 : -1;
}

/* The caller's own uid and gid, as themselves: the one mapping an ordinary user may make. */
static int map_self(uid_t uid, gid_t gid)
{
    char text[64];
    if (write_text("/proc/self/setgroups", "deny") < 0) {
        return -1;
    }
    snprintf(text, sizeof(text), "%u %u 1\n", uid, uid);
    if (write_text("/proc/self/uid_map", text) < 0) {
        return -1;
    }
    snprintf(text, sizeof(text), "%u %u 1\n", gid, gid);
    return write_text("/proc/self/gid_map", text);
}

static bool enter_namespaces(const struct jail_options *options)
{
    uid_t uid = geteuid();
    gid_t gid = getegid();
    int flags = CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP;
    flags |= options->network ? 0 : CLONE_NEWNET;
    flags |= options->keep_filesystem ? 0 : CLONE_NEWNS;
    flags |= options->new_pid ? CLONE_NEWPID : 0;
    if (uid == 0) {
        return unshare(flags) == 0;
    }
    return unshare(flags | CLONE_NEWUSER) == 0 && map_self(uid, gid) == 0;
}

/* ---- Privileges ---- */

static bool drop_bounding_set(void)
{
    capng_clear(CAPNG_SELECT_BOUNDS);
    return capng_apply(CAPNG_SELECT_BOUNDS) == 0;
}

static bool take_uid(uid_t uid, gid_t gid)
{
    return setgroups(0, NULL) == 0 && setresgid(gid, gid, gid) == 0 &&
        setresuid(uid, uid, uid) == 0;
}

static bool drop_capabilities(void)
{
    capng_clear(CAPNG_SELECT_BOTH);
    return capng_apply(CAPNG_SELECT_CAPS) == 0;
}

static bool limit(int resource, uint64_t most)
{
    struct rlimit value = {.rlim_cur = most, .rlim_max = most};
    struct rlimit now;
    if (most == 0) {
        return true;
    }
    if (getrlimit(resource, &now) == 0 && now.rlim_max < most) {
        value.rlim_cur = value.rlim_max = now.rlim_max;
    }
    return setrlimit(resource, &value) == 0;
}

/* The kernel pins a guest's memory while a device may write in it, and counts that as locked. */
static bool raise_locked(uint64_t bytes)
{
    struct rlimit limit;
    if (bytes == 0 || (getrlimit(RLIMIT_MEMLOCK, &limit) == 0 && limit.rlim_cur >= bytes)) {
        return true;
    }
    limit = (struct rlimit){bytes, bytes > limit.rlim_max ? bytes : limit.rlim_max};
    return setrlimit(RLIMIT_MEMLOCK, &limit) == 0;
}

/* At the first limit there is SIGXCPU, which tells what happened; at the second SIGKILL. */
static bool limit_cpu(uint64_t seconds_max)
{
    const struct rlimit value = {.rlim_cur = seconds_max, .rlim_max = seconds_max + 1};
    struct rlimit now;
    bool is_lower =
        getrlimit(RLIMIT_CPU, &now) == 0 && now.rlim_max < value.rlim_max; /* as it was begun */
    return seconds_max == 0 || is_lower || setrlimit(RLIMIT_CPU, &value) == 0;
}

static bool set_limits(const struct jail_options *options)
{
    /* AddressSanitizer's shadow alone takes terabytes of addresses. */
#ifdef __SANITIZE_ADDRESS__
    const bool sanitized = true;
#else
    const bool sanitized = false;
#endif
    const struct rlimit no_core = {0, 0};
    return setrlimit(RLIMIT_CORE, &no_core) == 0 && limit_cpu(options->cpu_seconds_max) &&
        limit(RLIMIT_AS, sanitized ? 0 : options->memory_bytes_max) &&
        limit(RLIMIT_FSIZE, options->file_bytes_max) && limit(RLIMIT_NPROC, options->process_max) &&
        raise_locked(options->locked_bytes_max);
}

/* ---- Entering ---- */

static int replace_root(const struct jail_options *options, unsigned *achieved, struct error *err)
{
    char folder[4096];
    bool has_folder = getcwd(folder, sizeof(folder)) != NULL;
    if (root_replace(options->mounts, options->mount_count) < 0) {
        return error_os(err, errno, "making the root of a jail");
    }
    *achieved |= JAIL_ROOT;
    if (has_folder && chdir(folder) < 0 && errno != ENOENT) {
        return error_os(err, errno, "going back to %s in a jail", folder);
    }
    return 0;
}

static int drop_privileges(const struct jail_options *options, unsigned *achieved,
                           struct error *err)
{
    bool is_root = getuid() == 0;
    if (is_root && !drop_bounding_set()) {
        return error_set(err, ERROR_OS, "dropping the capability bounding set failed");
    }
    if (is_root && options->uid != 0) {
        if (!take_uid(options->uid, options->gid)) {
            return error_os(err, errno, "becoming user %u", options->uid);
        }
        *achieved |= JAIL_UID;
    }
    if (!is_root || options->uid != 0) {
        if (!drop_capabilities()) {
            return error_set(err, ERROR_OS, "dropping capabilities failed");
        }
        *achieved |= JAIL_CAPABILITIES;
    }
    return 0;
}

int jail_enter(const struct jail_options *options, unsigned *ret_achieved, struct error *err)
{
    unsigned achieved = 0;
    if (set_limits(options)) {
        achieved |= JAIL_LIMITS;
    }
    if (enter_namespaces(options)) {
        achieved |= JAIL_NAMESPACES;
        if (!options->keep_filesystem) {
            int r = replace_root(options, &achieved, err);
            if (r < 0) {
                return r;
            }
        }
    }
    int r = drop_privileges(options, &achieved, err);
    if (r < 0) {
        return r;
    }
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) {
        return error_os(err, errno, "renouncing new privileges");
    }
    if (options->filter != JAIL_FILTER_NONE) {
        r = filter_load(options->filter);
        if (r < 0) {
            return error_os(err, -r, "loading the system call filter");
        }
        achieved |= JAIL_FILTER;
    }
    *ret_achieved = achieved;
    return 0;
}

void jail_open(void)
{
    filter_prepare_tools();
}

int jail_prepare(void *options)
{
    struct error err = {0};
    unsigned achieved = 0;
    if (jail_enter(options, &achieved, &err) < 0) {
        ssize_t wrote = write(STDERR_FILENO, err.text, strlen(err.text));
        (void)wrote;
        return -1;
    }
    return 0;
}

void jail_describe(unsigned achieved, char *ret_text, size_t size)
{
    if ((achieved & JAIL_FULL) == JAIL_FULL) {
        snprintf(ret_text, size, "full");
        return;
    }
    size_t used = 0;
    ret_text[0] = '\0';
    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]) && used < size; i++) {
        if ((achieved & parts[i].bit) == 0) {
            used += (size_t)snprintf(ret_text + used, size - used, "%sno %s", used > 0 ? ", " : "",
                                     parts[i].text);
        }
    }
}

/* In a child, because there is no way back. */
unsigned jail_probe(void)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0) {
        return 0;
    }
    pid_t pid = fork();
    if (pid == 0) {
        struct jail_options options = {
            .uid = 65534, .gid = 65534, .filter = JAIL_FILTER_TOOL, .cpu_seconds_max = 10};
        struct error err = {0};
        unsigned achieved = 0;
        int r = jail_enter(&options, &achieved, &err);
        ssize_t wrote = write(ends[1], &achieved, sizeof(achieved));
        _exit(r == 0 && wrote == (ssize_t)sizeof(achieved) ? 0 : 1);
    }
    close(ends[1]);
    unsigned achieved = 0;
    if (pid < 0 || read(ends[0], &achieved, sizeof(achieved)) != (ssize_t)sizeof(achieved)) {
        achieved = 0;
    }
    close(ends[0]);
    if (pid > 0) {
        waitpid(pid, NULL, 0);
    }
    return achieved;
}
