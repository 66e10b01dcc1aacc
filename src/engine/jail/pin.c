/* On which CPUs a process runs: by its control group, or thread by thread.  See jail.h. */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/error.h"
#include "base/memory.h"

#include "engine/jail/jail.h"

/* "0-3,8"; false: it is no such list, or names CPUs that there cannot be. */
static bool read_list(const char *text, cpu_set_t *ret_set)
{
    CPU_ZERO(ret_set);
    while (*text != '\0') {
        char *end = NULL;
        if (!isdigit((unsigned char)*text)) {
            return false;
        }
        unsigned long first = strtoul(text, &end, 10);
        unsigned long last = first;
        if (*end == '-' && isdigit((unsigned char)end[1])) {
            last = strtoul(end + 1, &end, 10);
        }
        if (last < first || last >= CPU_SETSIZE || (*end != ',' && *end != '\0') ||
            (*end == ',' && end[1] == '\0')) {
            return false;
        }
        for (unsigned long cpu = first; cpu <= last; cpu++) {
            CPU_SET(cpu, ret_set);
        }
        text = *end == ',' ? end + 1 : end;
    }
    return CPU_COUNT(ret_set) > 0;
}

static size_t set_all(DIR *tasks, const cpu_set_t *set, int *ret_errno)
{
    size_t count = 0;
    const struct dirent *entry = NULL;
    while ((entry = readdir(tasks)) != NULL) { /* NOLINT(concurrency-mt-unsafe): our own DIR */
        pid_t thread = (pid_t)strtol(entry->d_name, NULL, 10);
        if (thread > 0 && sched_setaffinity(thread, sizeof(*set), set) < 0 && errno != ESRCH) {
            *ret_errno = errno;
            return 0;
        }
        count += thread > 0;
    }
    return count;
}

/* Twice: threads that were made meanwhile are of threads that were set by then, or are found. */
static int set_threads(pid_t pid, const cpu_set_t *set, struct error *err)
{
    MEMORY_OWNED char *path = memory_format("/proc/%d/task", (int)pid);
    for (int i = 0; i < 2; i++) {
        int problem = ESRCH;
        DIR *tasks = opendir(path);
        size_t count = tasks != NULL ? set_all(tasks, set, &problem) : 0;
        if (tasks != NULL) {
            closedir(tasks);
        }
        if (count == 0) {
            return error_os(err, problem, "setting the CPUs of process %d", (int)pid);
        }
    }
    return 0;
}

static bool is_list(const char *text)
{
    cpu_set_t set;
    return read_list(text, &set);
}

int jail_pin(const char *group, pid_t pid, const struct jail_place *place,
             struct jail_pinned *ret_pinned, struct error *err)
{
    cpu_set_t set;
    CHECK(pid > 1);
    if (!read_list(place->cpus, &set)) {
        return error_set(err, ERROR_INVALID, "\"%.80s\" is no list of CPUs", place->cpus);
    }
    if (place->nodes != NULL && !is_list(place->nodes)) {
        return error_set(err, ERROR_INVALID, "\"%.80s\" is no list of NUMA nodes", place->nodes);
    }
    struct jail_pinned pinned = {JAIL_PIN_GROUP, false};
    if (jail_group_set_place(group, pid, place, &pinned.is_bound)) {
        *ret_pinned = pinned;
        return 0;
    }
    int r = set_threads(pid, &set, err);
    if (r == 0) {
        *ret_pinned = (struct jail_pinned){JAIL_PIN_THREADS, false};
    }
    return r;
}

int jail_pin_thread(pid_t thread, const char *cpus, struct error *err)
{
    cpu_set_t set;
    CHECK(thread > 0);
    if (!read_list(cpus, &set)) {
        return error_set(err, ERROR_INVALID, "\"%.80s\" is no list of CPUs", cpus);
    }
    return sched_setaffinity(thread, sizeof(set), &set) == 0 || errno == ESRCH
        ? 0
        : error_os(err, errno, "setting the CPUs of thread %d", (int)thread);
}
