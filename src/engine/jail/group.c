/*
 * Control groups: what a group of processes may use, and has used.  See jail.h.
 *
 * Under one group called "blixard" at the top, of version 2 (cgroup-v2.rst) where the controller is
 * there, else of version 1 (cgroup-v1/), which may have each controller at a place of its own.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/sched.h>
#include <mntent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/text.h"

#include "engine/jail/jail.h"

#define SLICE "blixard"

enum { PERIOD_US = 100000, FILE_BYTES_MAX = 64 << 10, VALUE_BYTES_MAX = 64 };
enum { MOMENT_NS = 5000000, MOMENTS_MAX = 400 };

/* The first ones limit, and are entered before there is anything to be limited; cpuset is set to
 * what runs: see pin.c.  People are told of those that every machine has. */
enum controller {
    CPU,
    MEMORY,
    PIDS,
    HUGETLB,
    CPUSET,
    CONTROLLERS,
    LIMITING = CPUSET,
    TOLD = HUGETLB
};
static const char *const names[CONTROLLERS] = {"cpu", "memory", "pids", "hugetlb", "cpuset"};

struct place {
    char *path; /* where the controller is mounted; NULL: nowhere */
    bool is_v2;
};

/* ---- Small files ---- */

static int write_value(const char *folder, const char *name, const char *value)
{
    MEMORY_OWNED char *path = memory_format("%s/%s", folder, name);
    FD_OWNED int fd = open(path, O_WRONLY | O_CLOEXEC);
    size_t length = strlen(value);
    return fd >= 0 && write(fd, value, length) == (ssize_t)length ? 0 : -1;
}

/* The number behind `key` in lines of "key number"; without a key the file's own. */
static uint64_t read_number(const char *folder, const char *name, const char *key)
{
    BUFFER_OWNED struct buffer text = {0};
    struct error ignored = {0};
    MEMORY_OWNED char *path = memory_format("%s/%s", folder, name);
    uint64_t value = 0;
    if (file_read(path, FILE_BYTES_MAX, &text, &ignored) < 0) {
        return 0;
    }
    const char *at = buffer_string(&text);
    size_t skip = key != NULL ? strlen(key) : 0;
    while (at != NULL && *at != '\0') {
        if (key == NULL || (strncmp(at, key, skip) == 0 && at[skip] == ' ')) {
            const char *number = at + skip + (key != NULL ? 1 : 0);
            text_parse_u64(text_of(number, strspn(number, "0123456789")), &value);
            return value;
        }
        at = strchr(at, '\n');
        at = at != NULL ? at + 1 : NULL;
    }
    return 0;
}

static bool has_word(const char *list, const char *word)
{
    size_t length = strlen(word);
    for (const char *at = list; *at != '\0'; at += strspn(at, " ,\n")) {
        size_t here = strcspn(at, " ,\n");
        if (here == length && strncmp(at, word, length) == 0) {
            return true;
        }
        at += here;
    }
    return false;
}

/* ---- Places ---- */

static bool unified_has(const char *path, const char *controller)
{
    BUFFER_OWNED struct buffer text = {0};
    struct error ignored = {0};
    MEMORY_OWNED char *file = memory_format("%s/cgroup.controllers", path);
    return file_read(file, FILE_BYTES_MAX, &text, &ignored) == 0 &&
        has_word(buffer_string(&text), controller);
}

static void take_mount(struct place places[CONTROLLERS], const struct mntent *entry)
{
    bool is_v2 = strcmp(entry->mnt_type, "cgroup2") == 0;
    if (!is_v2 && strcmp(entry->mnt_type, "cgroup") != 0) {
        return;
    }
    for (int i = 0; i < CONTROLLERS; i++) {
        bool has =
            is_v2 ? unified_has(entry->mnt_dir, names[i]) : has_word(entry->mnt_opts, names[i]);
        if (has && places[i].path == NULL) {
            places[i] = (struct place){memory_copy_string(entry->mnt_dir), is_v2};
        }
    }
}

static void find_places(struct place places[CONTROLLERS])
{
    char text[8192];
    struct mntent entry;
    FILE *mounts = setmntent("/proc/self/mounts", "re");
    memset(places, 0, CONTROLLERS * sizeof(places[0]));
    while (mounts != NULL && getmntent_r(mounts, &entry, text, sizeof(text)) != NULL) {
        take_mount(places, &entry);
    }
    if (mounts != NULL) {
        endmntent(mounts);
    }
}

static void free_places(struct place places[CONTROLLERS])
{
    for (int i = 0; i < CONTROLLERS; i++) {
        free(places[i].path);
    }
}

static bool is_name(const char *name)
{
    size_t length = strlen(name);
    return length > 0 && length <= 64 &&
        strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-") == length;
}

/* A group below the slice; a controller of version 2 is handed down on the way. */
static char *open_group(const struct place *place, enum controller controller, const char *name)
{
    MEMORY_OWNED char *slice = memory_format("%s/" SLICE, place->path);
    char *folder = memory_format("%s/%s", slice, name);
    char word[16];
    snprintf(word, sizeof(word), "+%s", names[controller]);
    bool is_good = mkdir(slice, 0755) == 0 || errno == EEXIST;
    if (is_good && place->is_v2) {
        write_value(place->path, "cgroup.subtree_control", word);
        is_good = write_value(slice, "cgroup.subtree_control", word) == 0;
    }
    if (!is_good || (mkdir(folder, 0755) < 0 && errno != EEXIST)) {
        free(folder);
        return NULL;
    }
    return folder;
}

/* ---- Making, entering ---- */

/* What is promised is bounded as well as what is taken: beyond that a mapping is refused, and
 * nobody is killed.  The kernel may have no pages of a size, or (before 5.7) count no promises. */
static int bound_pages(const char *folder, bool is_v2, const char *size, uint64_t bytes)
{
    static const char *const kinds[] = {".rsvd", ""};
    char value[VALUE_BYTES_MAX];
    int r = 0;
    snprintf(value, sizeof(value), "%" PRIu64, bytes);
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]) && r == 0; i++) {
        MEMORY_OWNED char *name =
            memory_format("hugetlb.%s%s.%s", size, kinds[i], is_v2 ? "max" : "limit_in_bytes");
        r = write_value(folder, name, value) < 0 && errno != ENOENT ? -1 : 0;
    }
    return r;
}

/* 0: nothing to be limited. */
static int set_limit(const char *folder, bool is_v2, enum controller controller,
                     const struct jail_group_limits *limits)
{
    char value[VALUE_BYTES_MAX];
    uint64_t quota_us = (uint64_t)limits->cpu_percent * (PERIOD_US / 100);
    switch (controller) {
    case CPU:
        snprintf(value, sizeof(value), "%" PRIu64 "%s", quota_us, is_v2 ? " 100000" : "");
        return limits->cpu_percent == 0
            ? 0
            : write_value(folder, is_v2 ? "cpu.max" : "cpu.cfs_quota_us", value);
    case MEMORY:
        snprintf(value, sizeof(value), "%" PRIu64, limits->memory_bytes);
        return limits->memory_bytes == 0
            ? 0
            : write_value(folder, is_v2 ? "memory.max" : "memory.limit_in_bytes", value);
    case PIDS:
        snprintf(value, sizeof(value), "%u", limits->processes);
        return limits->processes == 0 ? 0 : write_value(folder, "pids.max", value);
    case HUGETLB:
        return bound_pages(folder, is_v2, "2MB", limits->huge_2m_bytes) < 0
            ? -1
            : bound_pages(folder, is_v2, "1GB", limits->huge_1g_bytes);
    case CPUSET:
    case CONTROLLERS:
        break;
    }
    return 0;
}

/* ---- All places of one group ---- */

/* Where a controller has this group, whether it is there or not. */
struct seat {
    enum controller controller;
    const struct place *place;
    char *folder;
};

static void each_seat_of(const struct place places[CONTROLLERS], const char *name,
                         void (*visit)(const struct seat *seat, void *context), void *context)
{
    for (int i = 0; i < CONTROLLERS && is_name(name); i++) {
        if (places[i].path != NULL) {
            MEMORY_OWNED char *folder = memory_format("%s/" SLICE "/%s", places[i].path, name);
            const struct seat seat = {(enum controller)i, &places[i], folder};
            visit(&seat, context);
        }
    }
}

static void each_seat(const char *name, void (*visit)(const struct seat *seat, void *context),
                      void *context)
{
    struct place places[CONTROLLERS];
    find_places(places);
    each_seat_of(places, name, visit, context);
    free_places(places);
}

struct entering {
    const char *name;
    const struct jail_group_limits *limits;
    bool was_born_there; /* in version 2 */
    int born_in;         /* its folder, before; -1: none */
    unsigned achieved;
};

static bool make_seat(const struct seat *seat, const struct entering *entering)
{
    if (seat->controller >= LIMITING ||
        (seat->controller == HUGETLB && !entering->limits->bounds_huge_pages)) {
        return false;
    }
    MEMORY_OWNED char *folder = open_group(seat->place, seat->controller, entering->name);
    return folder != NULL &&
        set_limit(folder, seat->place->is_v2, seat->controller, entering->limits) == 0;
}

/*
 * A whole process moves under a lock that the kernel gives after a grace period, which on a busy
 * host is some fifteen milliseconds.  A thread that moves itself takes none, and has a file for it
 * in version 1; in version 2 one has to be born where it belongs.
 */
static void enter(const struct seat *seat, void *context)
{
    struct entering *entering = context;
    bool is_v2 = seat->place->is_v2;
    bool is_there = is_v2 && entering->was_born_there && seat->controller < LIMITING;
    if (is_there ||
        (make_seat(seat, entering) &&
         write_value(seat->folder, is_v2 ? "cgroup.procs" : "tasks", "0") == 0)) {
        entering->achieved |= 1U << seat->controller;
    }
}

static void find_birthplace(const struct seat *seat, void *context)
{
    struct entering *entering = context;
    if (seat->place->is_v2 && make_seat(seat, entering) && entering->born_in < 0) {
        entering->born_in = open(seat->folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
    }
}

pid_t jail_group_fork(const char *name, const struct jail_group_limits *limits)
{
    struct entering entering = {name, limits, false, -1, 0};
    struct place places[CONTROLLERS];
    find_places(places);
    each_seat_of(places, name, find_birthplace, &entering);
    FD_OWNED int born_in = entering.born_in;
    struct clone_args how = {
        .flags = CLONE_INTO_CGROUP, .exit_signal = SIGCHLD, .cgroup = (uint64_t)born_in};
    pid_t pid = born_in >= 0 ? (pid_t)syscall(SYS_clone3, &how, sizeof(how)) : -1;
    entering.was_born_there = pid >= 0;
    pid = pid >= 0 ? pid : fork(); /* before Linux 5.7, or where it is not allowed */
    if (pid == 0) {
        each_seat_of(places, name, enter, &entering);
    }
    free_places(places);
    return pid;
}

unsigned jail_group_enter(const char *name, const struct jail_group_limits *limits)
{
    struct entering entering = {name, limits, false, -1, 0};
    each_seat(name, enter, &entering);
    return entering.achieved;
}

/* One that starts others meanwhile is met again: by the kernel at once, or in a few rounds. */
static void kill_all(const char *folder)
{
    enum { ROUNDS = 16 };
    for (int round = 0; round < ROUNDS; round++) {
        BUFFER_OWNED struct buffer text = {0};
        struct error ignored = {0};
        MEMORY_OWNED char *path = memory_format("%s/cgroup.procs", folder);
        if (file_read(path, FILE_BYTES_MAX, &text, &ignored) < 0 || text.used == 0) {
            return;
        }
        char *end = NULL;
        for (const char *at = buffer_string(&text); *at != '\0'; at = end + (*end == '\n')) {
            long pid = strtol(at, &end, 10);
            if (end == at) {
                return;
            }
            if (pid > 1 && pid != (long)getpid()) {
                kill((pid_t)pid, SIGKILL);
            }
        }
    }
}

static void kill_seat(const struct seat *seat, void *context)
{
    (void)context;
    if (!seat->place->is_v2 || write_value(seat->folder, "cgroup.kill", "1") < 0) {
        kill_all(seat->folder);
    }
}

void jail_group_kill(const char *name)
{
    each_seat(name, kill_seat, NULL);
}

/* Who was killed is in it until the kernel has done with him. */
static void remove_seat(const struct seat *seat, void *context)
{
    const struct timespec moment = {.tv_nsec = MOMENT_NS};
    for (int *moments = context; rmdir(seat->folder) < 0 && errno == EBUSY && *moments > 0;) {
        nanosleep(&moment, NULL);
        (*moments)--;
    }
}

void jail_group_remove(const char *name)
{
    int moments = MOMENTS_MAX;
    each_seat(name, remove_seat, &moments);
}

struct reading {
    struct jail_group_usage usage;
    bool is_there;
};

static void read_seat(const struct seat *seat, void *context)
{
    struct reading *reading = context;
    struct jail_group_usage *usage = &reading->usage;
    const char *folder = seat->folder;
    bool is_v2 = seat->place->is_v2;
    reading->is_there = reading->is_there || (seat->controller < LIMITING && file_exists(folder));
    switch (seat->controller) {
    case CPU:
        usage->throttled_ms = is_v2 ? read_number(folder, "cpu.stat", "throttled_usec") / 1000
                                    : read_number(folder, "cpu.stat", "throttled_time") / 1000000;
        break;
    case MEMORY:
        usage->memory_bytes =
            read_number(folder, is_v2 ? "memory.current" : "memory.usage_in_bytes", NULL);
        usage->memory_bytes_max =
            read_number(folder, is_v2 ? "memory.max" : "memory.limit_in_bytes", NULL);
        usage->kills =
            read_number(folder, is_v2 ? "memory.events" : "memory.oom_control", "oom_kill");
        break;
    case PIDS:
        usage->processes = read_number(folder, "pids.current", NULL);
        break;
    case HUGETLB:
    case CPUSET:
    case CONTROLLERS:
        break;
    }
}

bool jail_group_read(const char *name, struct jail_group_usage *ret_usage)
{
    struct reading reading = {.is_there = false};
    if (!is_name(name)) {
        return false;
    }
    each_seat(name, read_seat, &reading);
    *ret_usage = reading.usage;
    return reading.is_there;
}

/* ---- CPUs, and where memory is ---- */

/* In version 1 a group has no CPUs and no memory until it is told which. */
static bool take_over(const char *from, const char *to, const char *name)
{
    BUFFER_OWNED struct buffer text = {0};
    struct error ignored = {0};
    MEMORY_OWNED char *path = memory_format("%s/%s", from, name);
    MEMORY_OWNED char *own = memory_format("%s/%s", to, name);
    if (file_read(own, FILE_BYTES_MAX, &text, &ignored) == 0 &&
        buffer_string(&text)[strspn(buffer_string(&text), " \n")] != '\0') {
        return true;
    }
    buffer_clear(&text);
    return file_read(path, FILE_BYTES_MAX, &text, &ignored) == 0 &&
        write_value(to, name, buffer_string(&text)) == 0;
}

/* Those of the slice: "\n" is what version 2 calls all that it has. */
static bool unbind(const struct place *place, const char *slice, const char *folder)
{
    BUFFER_OWNED struct buffer text = {0};
    struct error ignored = {0};
    MEMORY_OWNED char *path = memory_format("%s/cpuset.mems", slice);
    if (place->is_v2) {
        return write_value(folder, "cpuset.mems", "\n") == 0;
    }
    return file_read(path, FILE_BYTES_MAX, &text, &ignored) == 0 &&
        write_value(folder, "cpuset.mems", buffer_string(&text)) == 0;
}

/* Version 1 leaves memory where it is unless it is told to move it; version 2 always moves it. */
static bool set_nodes(const struct place *place, const char *slice, const char *folder,
                      const char *nodes, bool *ret_is_bound)
{
    *ret_is_bound = nodes != NULL &&
        (place->is_v2 || write_value(folder, "cpuset.memory_migrate", "1") == 0) &&
        write_value(folder, "cpuset.mems", nodes) == 0;
    return *ret_is_bound || unbind(place, slice, folder) || place->is_v2;
}

static bool set_place(const struct place *place, const char *folder, pid_t pid,
                      const struct jail_place *wanted, bool *ret_is_bound)
{
    char number[16];
    MEMORY_OWNED char *slice = memory_format("%s/" SLICE, place->path);
    snprintf(number, sizeof(number), "%d", (int)pid);
    bool is_good = place->is_v2 ||
        (take_over(place->path, slice, "cpuset.mems") &&
         take_over(place->path, slice, "cpuset.cpus"));
    return is_good && set_nodes(place, slice, folder, wanted->nodes, ret_is_bound) &&
        write_value(folder, "cpuset.cpus", wanted->cpus) == 0 &&
        write_value(folder, "cgroup.procs", number) == 0;
}

bool jail_group_set_place(const char *name, pid_t pid, const struct jail_place *wanted,
                          bool *ret_is_bound)
{
    struct place places[CONTROLLERS];
    bool is_set = false;
    if (!is_name(name)) {
        return false;
    }
    find_places(places);
    MEMORY_OWNED char *folder =
        places[CPUSET].path != NULL ? open_group(&places[CPUSET], CPUSET, name) : NULL;
    if (folder != NULL) {
        is_set = set_place(&places[CPUSET], folder, pid, wanted, ret_is_bound);
        if (!is_set && !places[CPUSET].is_v2) {
            rmdir(folder); /* it is of nothing else there */
        }
    }
    free_places(places);
    return is_set;
}

/* ---- What can be had ---- */

static bool can_write(const char *folder)
{
    MEMORY_OWNED char *path = memory_format("%s/cgroup.procs", folder);
    return access(path, W_OK) == 0;
}

unsigned jail_group_probe(char *ret_text, size_t size)
{
    struct place places[CONTROLLERS];
    char name[32];
    unsigned achieved = 0;
    bool is_v2 = false;
    size_t used = 0;
    snprintf(name, sizeof(name), "probe-%d", (int)getpid());
    find_places(places);
    for (int i = 0; i < TOLD; i++) {
        MEMORY_OWNED char *folder =
            places[i].path != NULL ? open_group(&places[i], (enum controller)i, name) : NULL;
        if (folder != NULL && can_write(folder)) {
            achieved |= 1U << i;
            is_v2 = is_v2 || places[i].is_v2;
            used += (size_t)snprintf(ret_text + used, size - used, "%s%s", used > 0 ? ", " : "",
                                     names[i]);
        }
    }
    free_places(places);
    jail_group_remove(name);
    if (achieved == 0) {
        snprintf(ret_text, size, "none: %s",
                 geteuid() == 0 ? "no control groups can be made here"
                                : "control groups are root's, or of whom they are delegated to");
    } else {
        snprintf(ret_text + used, size - used, " (cgroup v%d)", is_v2 ? 2 : 1);
    }
    return achieved;
}
