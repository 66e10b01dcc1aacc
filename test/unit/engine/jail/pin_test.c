/* Processes that run on some CPUs alone: by their group's cpuset, and thread by thread. */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "base/memory.h"

#include "engine/jail/jail.h"

#include "test/lib/test.h"

static void *wait_for_ever(void *context)
{
    pid_t own = gettid();
    ssize_t wrote = write(*(int *)context, &own, sizeof(own));
    pause();
    return wrote > 0 ? NULL : context;
}

/* A process with a second thread. */
static pid_t begin(pid_t *ret_thread)
{
    int ends[2];
    EXPECT(pipe(ends) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, wait_for_ever, &ends[1]) == 0) {
            pause();
        }
        _exit(1);
    }
    close(ends[1]);
    EXPECT(read(ends[0], ret_thread, sizeof(*ret_thread)) == (ssize_t)sizeof(*ret_thread));
    close(ends[0]);
    return pid;
}

static void end(pid_t pid)
{
    kill(pid, SIGKILL);
    EXPECT(waitpid(pid, NULL, 0) == pid);
}

/* The last CPU that this process may run on, and how many there are. */
static int last_cpu(int *ret_count)
{
    cpu_set_t set;
    int last = 0;
    EXPECT(sched_getaffinity(0, sizeof(set), &set) == 0);
    *ret_count = CPU_COUNT(&set);
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        last = CPU_ISSET(cpu, &set) ? cpu : last;
    }
    return last;
}

static bool runs_on(pid_t pid, int cpu)
{
    cpu_set_t set;
    EXPECT(sched_getaffinity(pid, sizeof(set), &set) == 0);
    return CPU_COUNT(&set) == 1 && CPU_ISSET(cpu, &set);
}

static bool is_of_node(pid_t pid, const char *node)
{
    char path[48];
    char line[256];
    bool is_it = false;
    snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
    FILE *file = fopen(path, "re");
    while (file != NULL && fgets(line, sizeof(line), file) != NULL) {
        if (strncmp(line, "Mems_allowed_list:", 18) == 0) {
            line[strcspn(line, "\n")] = '\0';
            is_it = strcmp(line + 18 + strspn(line + 18, " \t"), node) == 0;
        }
    }
    if (file != NULL) {
        fclose(file);
    }
    return is_it;
}

/* Where no group can be had (its name is none), every thread is told. */
TEST(jail_pin, all_threads_run_where_they_are_told_without_a_group)
{
    struct jail_pinned pinned = {JAIL_PIN_GROUP, true};
    struct error err = {0};
    int count = 0;
    char cpus[16];
    int cpu = last_cpu(&count);
    if (count < 2) {
        SKIP("this machine has one CPU");
    }
    snprintf(cpus, sizeof(cpus), "%d", cpu);
    pid_t thread = 0;
    pid_t pid = begin(&thread);
    const struct jail_place place = {.cpus = cpus, .nodes = "0"};
    EXPECT(jail_pin("no/group", pid, &place, &pinned, &err) == 0);
    EXPECT(pinned.how == JAIL_PIN_THREADS && !pinned.is_bound);
    EXPECT(runs_on(pid, cpu));
    EXPECT(thread != pid && runs_on(thread, cpu));
    end(pid);
}

TEST(jail_pin, a_group_keeps_what_is_in_it_from_other_cpus)
{
    struct jail_pinned pinned = {JAIL_PIN_THREADS, false};
    struct error err = {0};
    int count = 0;
    char cpus[16];
    char name[32];
    int cpu = last_cpu(&count);
    if (count < 2) {
        SKIP("this machine has one CPU");
    }
    snprintf(cpus, sizeof(cpus), "%d", cpu);
    snprintf(name, sizeof(name), "pin-%d", (int)getpid());
    pid_t thread = 0;
    pid_t pid = begin(&thread);
    const struct jail_place place = {.cpus = cpus, .nodes = "0"};
    EXPECT(jail_pin(name, pid, &place, &pinned, &err) == 0);
    if (pinned.how != JAIL_PIN_GROUP) {
        end(pid);
        SKIP("this machine lets us have no cpuset");
    }
    EXPECT(runs_on(pid, cpu));
    cpu_set_t all; /* what it asks for itself does not help it */
    CPU_ZERO(&all);
    for (int i = 0; i < CPU_SETSIZE; i++) {
        CPU_SET(i, &all);
    }
    EXPECT(sched_setaffinity(thread, sizeof(all), &all) == 0);
    EXPECT(runs_on(pid, cpu) && runs_on(thread, cpu));
    EXPECT(pinned.is_bound && is_of_node(pid, "0"));
    const struct jail_place unbound = {.cpus = cpus};
    EXPECT(jail_pin(name, pid, &unbound, &pinned, &err) == 0 && !pinned.is_bound);
    const struct jail_place nowhere = {.cpus = cpus, .nodes = "1000"}; /* which is not there */
    EXPECT(jail_pin(name, pid, &nowhere, &pinned, &err) == 0);
    EXPECT(pinned.how == JAIL_PIN_GROUP && !pinned.is_bound && runs_on(thread, cpu));
    end(pid);
    jail_group_remove(name);
}

TEST(jail_pin, what_is_no_list_of_cpus_is_refused)
{
    static const char *const wrong[] = {"",   "a",  "1,",  ",1",         "2-1",
                                        "1-", "-1", "0 1", "0,99999999", "0x1"};
    struct jail_pinned pinned = {JAIL_PIN_GROUP, true};
    pid_t thread = 0;
    pid_t pid = begin(&thread);
    size_t refused = 0;
    size_t count = sizeof(wrong) / sizeof(wrong[0]);
    for (size_t i = 0; i < count; i++) {
        struct error err = {0};
        const struct jail_place place = {.cpus = wrong[i]};
        const struct jail_place nodes = {.cpus = "0", .nodes = wrong[i]};
        refused += jail_pin("no/group", pid, &place, &pinned, &err) == -ERROR_INVALID &&
            jail_pin("no/group", pid, &nodes, &pinned, &err) == -ERROR_INVALID &&
            jail_pin_thread(pid, wrong[i], &err) == -ERROR_INVALID;
    }
    end(pid);
    EXPECT(refused == count);
}

TEST(jail_pin, a_thread_runs_elsewhere_than_the_others)
{
    struct jail_pinned pinned = {JAIL_PIN_GROUP, true};
    struct error err = {0};
    int count = 0;
    char last[16];
    int cpu = last_cpu(&count);
    if (count < 2 || cpu == 0) {
        SKIP("this machine has one CPU");
    }
    snprintf(last, sizeof(last), "%d", cpu);
    MEMORY_OWNED char *both = memory_format("%s,0", last);
    pid_t thread = 0;
    pid_t pid = begin(&thread);
    const struct jail_place place = {.cpus = both};
    EXPECT(jail_pin("no/group", pid, &place, &pinned, &err) == 0);
    EXPECT(jail_pin_thread(thread, last, &err) == 0 && jail_pin_thread(pid, "0", &err) == 0);
    EXPECT(runs_on(thread, cpu) && runs_on(pid, 0));
    end(pid);
    EXPECT(jail_pin_thread(thread, last, &err) == 0); /* it is gone: nothing is left to be done */
}
