/* Control groups: entered with limits that hold, counted, and gone afterwards. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

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
    EXPECT(waitpid(pid, NULL, 0) == pid);
    while (waitpid(-1, NULL, 0) > 0) { /* its children are ours by now */
    }
    jail_group_remove(name);
    EXPECT(!jail_group_read(name, &usage));
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
