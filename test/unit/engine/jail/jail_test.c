/*
 * The promises of jail.h, seen from inside: a child enters, looks, and its exit status is a bit for
 * each promise that is broken.
 */
#include "engine/jail/jail.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"

#include "test/lib/test.h"

enum { INSIDE_UID = 2000000123, NOT_ENTERED = 99 };

/* The wait status of a child that enters and then runs `look`. */
static int inside(const struct jail_options *options, int (*look)(unsigned achieved))
{
    pid_t pid = fork();
    EXPECT(pid >= 0);
    if (pid == 0) {
        struct error err = {0};
        unsigned achieved = 0;
        if (jail_enter(options, &achieved, &err) < 0) {
            fprintf(stderr, "%s\n", err.text);
            _exit(NOT_ENTERED);
        }
        _exit(look(achieved));
    }
    int status = 0;
    EXPECT(waitpid(pid, &status, 0) == pid);
    return status;
}

static void expect_nothing_broken(int status)
{
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        fprintf(stderr, "wait status %x\n", (unsigned)status);
    }
    EXPECT(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void need_root(void)
{
    if (geteuid() != 0) {
        SKIP("needs root");
    }
}

static int look_at_privileges(unsigned achieved)
{
    int broken = 0;
    broken |= (achieved & (JAIL_UID | JAIL_CAPABILITIES)) != (JAIL_UID | JAIL_CAPABILITIES);
    broken |= (prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1) << 1;
    broken |= (getuid() != INSIDE_UID || geteuid() != INSIDE_UID || getgid() != INSIDE_UID) << 2;
    broken |= (getgroups(0, NULL) != 0) << 3;
    broken |= (setuid(0) == 0) << 4;
    for (int capability = 0; capability < 40; capability++) {
        broken |= (prctl(PR_CAPBSET_READ, capability, 0, 0, 0) == 1) << 5;
    }
    struct rlimit core;
    broken |= (getrlimit(RLIMIT_CORE, &core) < 0 || core.rlim_max != 0) << 6;
    return broken;
}

TEST(jail, leaves_no_privilege)
{
    need_root();
    const struct jail_options options = {.uid = INSIDE_UID, .gid = INSIDE_UID};
    expect_nothing_broken(inside(&options, look_at_privileges));
}

/* How many entries a folder has, but for itself and its parent; -1: none such. */
static int count_entries(const char *path)
{
    DIR *folder = opendir(path);
    int count = -2;
    if (folder == NULL) {
        return -1;
    }
    while (readdir(folder) != NULL) {
        count++;
    }
    closedir(folder);
    return count;
}

static int look_at_empty_root(unsigned achieved)
{
    int broken = (achieved & JAIL_ROOT) == 0;
    broken |= (count_entries("/") != 0) << 1;
    broken |= (access("/proc/self", F_OK) == 0) << 2;
    broken |= (mkdir("/new", 0700) == 0) << 3;
    return broken;
}

TEST(jail, shows_an_empty_root_that_cannot_be_filled)
{
    need_root();
    const struct jail_options options = {.uid = INSIDE_UID, .gid = INSIDE_UID};
    expect_nothing_broken(inside(&options, look_at_empty_root));
}

static int look_at_mounts(unsigned achieved)
{
    (void)achieved;
    int broken = access("/seen/file", F_OK) != 0;
    broken |= (open("/seen/file", O_WRONLY | O_CLOEXEC) >= 0 || errno != EROFS) << 1;
    broken |= (open("/work/file", O_WRONLY | O_CLOEXEC) < 0) << 2;
    broken |= (access("/none", F_OK) == 0 || access("/etc", F_OK) == 0) << 3;
    return broken;
}

TEST(jail, shows_what_was_asked_for_and_writes_where_it_may)
{
    need_root();
    char file[512];
    snprintf(file, sizeof(file), "%s/file", test_folder());
    int fd = open(file, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
    EXPECT(fd >= 0);
    close(fd);
    const struct jail_mount mounts[] = {
        {test_folder(), "/seen", false, false},
        {test_folder(), "/work", true, false},
        {"/there/is/no/such", "/none", false, true},
        {file, "/seen/file", false, false}, /* where nothing can be made any more */
    };
    const struct jail_options options = {.mounts = mounts, .mount_count = 4};
    expect_nothing_broken(inside(&options, look_at_mounts));
}

/* A datagram to oneself over loopback needs an interface that is up. */
static int look_at_network(unsigned achieved)
{
    int broken = (achieved & JAIL_NAMESPACES) == 0;
    char name[256] = "";
    broken |= (sethostname("inside", 6) == 0) << 1; /* no capability any more */
    broken |= (gethostname(name, sizeof(name)) < 0) << 2;
    return broken;
}

TEST(jail, has_namespaces_and_no_power_in_them)
{
    need_root();
    const struct jail_options options = {.uid = INSIDE_UID, .gid = INSIDE_UID};
    expect_nothing_broken(inside(&options, look_at_network));
}

static int make_socket(unsigned achieved)
{
    (void)achieved;
    return socket(AF_INET, SOCK_STREAM, 0) >= 0 || errno != EPERM;
}

TEST(jail, tools_have_no_sockets)
{
    const struct jail_options options = {.keep_filesystem = true, .filter = JAIL_FILTER_TOOL};
    expect_nothing_broken(inside(&options, make_socket));
}

static int open_a_file(unsigned achieved)
{
    (void)achieved;
    return open("/", O_RDONLY | O_CLOEXEC) >= 0 || errno != EACCES;
}

static int fork_once(unsigned achieved)
{
    (void)achieved;
    return fork() < 0;
}

static int make_socket_again(unsigned achieved)
{
    (void)make_socket(achieved);
    return 0;
}

TEST(jail, runners_open_nothing)
{
    const struct jail_options options = {.keep_filesystem = true, .filter = JAIL_FILTER_RUNNER};
    expect_nothing_broken(inside(&options, open_a_file));
}

static int make_folder(unsigned achieved)
{
    (void)achieved;
    return mkdir("/there/is/no/such", 0700) == 0;
}

TEST(jail, runners_die_of_what_is_not_theirs)
{
    static int (*const deeds[])(unsigned) = {make_folder, fork_once, make_socket_again};
    const struct jail_options options = {.keep_filesystem = true, .filter = JAIL_FILTER_RUNNER};
    for (size_t i = 0; i < sizeof(deeds) / sizeof(deeds[0]); i++) {
        int status = inside(&options, deeds[i]);
        if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGSYS) {
            fprintf(stderr, "deed %zu: wait status %x\n", i, (unsigned)status);
        }
        EXPECT(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS);
    }
}

TEST(jail, says_what_is_missing)
{
    char text[160];
    jail_describe(JAIL_FULL, text, sizeof(text));
    EXPECT_STRING(text, "full");
    jail_describe(JAIL_FULL & ~(unsigned)(JAIL_UID | JAIL_FILTER), text, sizeof(text));
    EXPECT_STRING(text, "no user of its own, no system call filter");
    char small[8];
    jail_describe(0, small, sizeof(small));
    EXPECT_STRING(small, "no name");
}
