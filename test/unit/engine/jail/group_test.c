/* Control groups: entered with limits that hold, counted, and gone afterwards. */
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/file.h"
#include "base/memory.h"

#include "engine/jail/jail.h"

#include "test/lib/test.h"

static const struct jail_group_limits limits = {
    .cpu_percent = 150, .memory_bytes = UINT64_C(256) << 20, .processes = 4};

static void name_of(char ret_name[48])
{
    snprintf(ret_name, 48, "test-%d", (int)getpid());
}

/* In the group: how many processes may be there besides this one? */
static int count_children(void)
{
    int count = 0;
    while (count < 10) {
        pid_t pid = fork();
        if (pid < 0) {
            break;
        }
        if (pid == 0) {
            pause();
        }
        count++;
    }
    return count;
}

TEST(jail_group, its_limit_of_processes_holds_and_it_leaves_nothing_behind)
{
    char text[96];
    char name[48];
    int ends[2];
    int count = 0;
    struct jail_group_usage usage = {0};
    if ((jail_group_probe(text, sizeof(text)) & JAIL_GROUP_PROCESSES) == 0) {
        SKIP(text);
    }
    name_of(name);
    EXPECT(pipe(ends) == 0 && prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        setpgid(0, 0);
        count =
            (jail_group_enter(name, &limits) & JAIL_GROUP_PROCESSES) != 0 ? count_children() : -1;
        ssize_t wrote = write(ends[1], &count, sizeof(count));
        pause();
        _exit(wrote == 0);
    }
    EXPECT(read(ends[0], &count, sizeof(count)) == (ssize_t)sizeof(count));
    EXPECT(count == 3);
    EXPECT(jail_group_read(name, &usage));
    EXPECT(usage.processes == 4);
    killpg(pid, SIGKILL);
    jail_group_remove(name); /* which they are only about to leave */
    EXPECT(!jail_group_read(name, &usage));
    EXPECT(waitpid(pid, NULL, 0) == pid);
    while (waitpid(-1, NULL, 0) > 0) { /* its children are ours by now */
    }
}

/* Goal: a child begins in each of the group's places. Method: it says where the kernel has it. */
TEST(jail_group, a_child_is_born_in_it)
{
    static const struct jail_group_limits all = {
        .cpu_percent = 150, .processes = 4, .bounds_huge_pages = true};
    char text[96];
    char name[48];
    char said[4096] = "";
    int ends[2];
    unsigned held = jail_group_probe(text, sizeof(text));
    if ((held & JAIL_GROUP_PROCESSES) == 0) {
        SKIP(text);
    }
    name_of(name);
    MEMORY_OWNED char *place = memory_format(":/blixard/%s\n", name);
    EXPECT(pipe(ends) == 0);
    pid_t pid = jail_group_fork(name, &all);
    if (pid == 0) {
        struct error err = {0};
        BUFFER_OWNED struct buffer own = {0};
        file_read("/proc/self/cgroup", sizeof(said) - 1, &own, &err);
        _exit(write(ends[1], own.data, own.used) != (ssize_t)own.used);
    }
    int status = -1;
    EXPECT(waitpid(pid, &status, 0) == pid && status == 0);
    EXPECT(read(ends[0], said, sizeof(said) - 1) > 0);
    int places = 0;
    for (const char *at = said; (at = strstr(at, place)) != NULL; at++) {
        places++;
    }
    EXPECT(places >= (strstr(text, "v2") != NULL ? 1 : 2)); /* version 1: each has its own */
    EXPECT(strstr(said, "0::/blixard/test-") != NULL || access("/sys/fs/cgroup/unified", F_OK) < 0);
    jail_group_remove(name);
}

TEST(jail_group, names_that_are_paths_are_refused)
{
    struct jail_group_usage usage;
    EXPECT(jail_group_enter("../x", &limits) == 0);
    EXPECT(jail_group_enter("", &limits) == 0);
    EXPECT(jail_group_enter("a/b", &limits) == 0);
    EXPECT(!jail_group_read("..", &usage));
    jail_group_remove("../blixard");
}

/* ---- Version 2 ---- */

static void put(const char *folder, const char *name, const char *text)
{
    struct error err = {0};
    MEMORY_OWNED char *path = memory_format("%s/%s", folder, name);
    EXPECT(file_write(path, text, strlen(text), 0600, &err) == 0);
}

static bool has(const char *folder, const char *name, const char *text)
{
    struct error err = {0};
    BUFFER_OWNED struct buffer content = {0};
    MEMORY_OWNED char *path = memory_format("%s/%s", folder, name);
    EXPECT(file_read(path, 4096, &content, &err) == 0);
    return strcmp(buffer_string(&content), text) == 0;
}

/* A namespace in which the list of mounts is that text. */
static void be_where(const char *mounts)
{
    if (geteuid() != 0 || unshare(CLONE_NEWNS) < 0) {
        SKIP("mount namespaces are root's");
    }
    EXPECT(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0);
    put(test_folder(), "mounts", mounts);
    MEMORY_OWNED char *path = memory_format("%s/mounts", test_folder());
    if (mount(path, "/proc/self/mounts", NULL, MS_BIND, NULL) < 0) {
        SKIP("the list of mounts cannot be covered");
    }
}

/*
 * Goal: what is written to version 2, and read of it, is as cgroup-v2.rst says.
 * Method: files that are called as there; a kernel that has the controllers in version 1 gives
 * version 2 none of them.
 */
TEST(jail_group, of_version_2_has_its_files_in_their_words)
{
    static const char *const files[] = {"cgroup.procs", "cpu.max",         "memory.max",
                                        "pids.max",     "hugetlb.2MB.max", "hugetlb.2MB.rsvd.max"};
    const struct jail_group_limits pages = {.bounds_huge_pages = true, .huge_2m_bytes = 4 << 20};
    struct jail_group_usage usage = {0};
    char text[96];
    MEMORY_OWNED char *top = memory_format("%s/unified", test_folder());
    MEMORY_OWNED char *slice = memory_format("%s/blixard", top);
    MEMORY_OWNED char *group = memory_format("%s/web-1", slice);
    MEMORY_OWNED char *probe = memory_format("%s/probe-%d", slice, (int)getpid());
    MEMORY_OWNED char *mounts =
        memory_format("none / ext4 rw 0 0\nnone %s cgroup2 rw,nsdelegate 0 0\n", top);
    EXPECT(mkdir(top, 0700) == 0 && mkdir(slice, 0700) == 0 && mkdir(group, 0700) == 0);
    EXPECT(mkdir(probe, 0700) == 0);
    put(top, "cgroup.controllers", "cpuset cpu io memory hugetlb pids\n");
    put(top, "cgroup.subtree_control", "");
    put(slice, "cgroup.subtree_control", "");
    put(probe, "cgroup.procs", "");
    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
        put(group, files[i], "");
    }
    be_where(mounts);
    EXPECT(jail_group_probe(text, sizeof(text)) ==
           (JAIL_GROUP_CPU | JAIL_GROUP_MEMORY | JAIL_GROUP_PROCESSES));
    EXPECT_STRING(text, "cpu, memory, pids (cgroup v2)");
    EXPECT(jail_group_enter("web-1", &limits) ==
           (JAIL_GROUP_CPU | JAIL_GROUP_MEMORY | JAIL_GROUP_PROCESSES));
    EXPECT(has(group, "cpu.max", "150000 100000"));
    EXPECT(has(group, "memory.max", "268435456"));
    EXPECT(has(group, "pids.max", "4"));
    EXPECT(has(group, "cgroup.procs", "0"));
    EXPECT(has(group, "hugetlb.2MB.max", "")); /* nobody has said how many */
    EXPECT((jail_group_enter("web-1", &pages) & JAIL_GROUP_HUGE_PAGES) != 0);
    EXPECT(has(group, "hugetlb.2MB.max", "4194304"));
    put(group, "cgroup.procs", "");
    pid_t pid = jail_group_fork("web-1", &limits); /* nobody can be born in a folder */
    if (pid == 0) {
        _exit(0);
    }
    EXPECT(waitpid(pid, NULL, 0) == pid);
    EXPECT(has(group, "cgroup.procs", "0"));
    EXPECT(has(group, "hugetlb.2MB.rsvd.max", "4194304"));
    put(group, "cpu.stat", "usage_usec 9000000\nnr_throttled 3\nthrottled_usec 5000\n");
    put(group, "memory.current", "1048576\n");
    put(group, "memory.events", "low 0\nhigh 0\nmax 7\noom 2\noom_kill 1\noom_group_kill 0\n");
    put(group, "pids.current", "3\n");
    EXPECT(jail_group_read("web-1", &usage));
    EXPECT(usage.throttled_ms == 5 && usage.memory_bytes == 1048576 && usage.kills == 1);
    EXPECT(usage.memory_bytes_max == 268435456 && usage.processes == 3);
}

/* Goal: a hierarchy of version 2 that has no controllers, as beside version 1, is passed over. */
TEST(jail_group, version_2_without_controllers_is_passed_over)
{
    char before[96];
    char after[96];
    MEMORY_OWNED char *top = memory_format("%s/unified", test_folder());
    if (geteuid() != 0 || unshare(CLONE_NEWNS) < 0) {
        SKIP("mount namespaces are root's");
    }
    unsigned achieved = jail_group_probe(before, sizeof(before));
    if (achieved == 0 || strstr(before, "v1") == NULL) {
        SKIP("there is no version 1");
    }
    EXPECT(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0);
    EXPECT(mkdir(top, 0700) == 0);
    if (mount("none", top, "cgroup2", 0, NULL) < 0) {
        SKIP("version 2 cannot be mounted");
    }
    EXPECT(jail_group_probe(after, sizeof(after)) == achieved);
    EXPECT_STRING(after, before);
    EXPECT(umount(top) == 0);
}
