/*
 * On which CPUs a VMM runs: see hypervisor.h.
 *
 * The threads of vCPUs are known by the names that VMMs give them (QEMU with debug-threads=on,
 * Firecracker, Cloud Hypervisor).  QEMU would also say by QMP; but a name is there for all of them,
 * for who finds a VMM again, and a guest that has taken its VMM over can thereby only name threads
 * of its own.
 */
#include <ctype.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/text.h"

#include "engine/hypervisor/driver.h"
#include "engine/hypervisor/launch.h"

enum { STATUS_BYTES_MAX = 16384, THREADS_MAX = 4096, CPUS_MAX = 1024 };

/* What is before and behind the number. */
static const struct {
    const char *before;
    const char *after;
    bool is_all; /* nothing follows */
} names[] = {
    {"CPU ", "/", false},   /* QEMU: "CPU 0/KVM", "CPU 0/TCG" */
    {"fc_vcpu ", "", true}, /* Firecracker */
    {"vcpu", "", true},     /* Cloud Hypervisor */
};

static bool read_name(const char *name, unsigned *ret_vcpu)
{
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        size_t before = strlen(names[i].before);
        if (strncmp(name, names[i].before, before) != 0 || !isdigit((unsigned char)name[before])) {
            continue;
        }
        char *end = NULL;
        unsigned long number = strtoul(name + before, &end, 10);
        bool is_it = names[i].is_all ? *end == '\0' : strncmp(end, names[i].after, 1) == 0;
        if (is_it && number < CPUS_MAX) {
            *ret_vcpu = (unsigned)number;
            return true;
        }
    }
    return false;
}

/* ---- Its threads ---- */

struct thread {
    pid_t id;
    bool is_vcpu;
    unsigned vcpu;
};

static void look_at(pid_t pid, struct thread *thread)
{
    BUFFER_OWNED struct buffer text = {0};
    struct error ignored = {0};
    MEMORY_OWNED char *path = memory_format("/proc/%d/task/%d/comm", (int)pid, (int)thread->id);
    if (file_read(path, STATUS_BYTES_MAX, &text, &ignored) == 0) {
        MEMORY_OWNED char *name =
            memory_copy_text(buffer_string(&text), strcspn(buffer_string(&text), "\n"));
        thread->is_vcpu = read_name(name, &thread->vcpu);
    }
}

static int by_vcpu(const void *left, const void *right)
{
    const struct thread *a = left;
    const struct thread *b = right;
    if (a->is_vcpu != b->is_vcpu) {
        return a->is_vcpu ? -1 : 1;
    }
    return a->vcpu < b->vcpu ? -1 : a->vcpu > b->vcpu;
}

/* The caller's; vCPUs first, ascending. */
static struct thread *list_threads(pid_t pid, size_t *ret_count)
{
    struct thread *threads = memory_new(THREADS_MAX, sizeof(*threads));
    MEMORY_OWNED char *path = memory_format("/proc/%d/task", (int)pid);
    DIR *tasks = opendir(path);
    const struct dirent *entry = NULL;
    size_t count = 0;
    while (tasks != NULL && count < THREADS_MAX &&
           (entry = readdir(tasks)) != NULL) { /* NOLINT(concurrency-mt-unsafe): our own DIR */
        struct thread thread = {.id = (pid_t)strtol(entry->d_name, NULL, 10)};
        if (thread.id > 0) {
            look_at(pid, &thread);
            threads[count++] = thread;
        }
    }
    if (tasks != NULL) {
        closedir(tasks);
    }
    if (count > 0) {
        qsort(threads, count, sizeof(threads[0]), by_vcpu);
    }
    *ret_count = count;
    return threads;
}

/* ---- Pinning ---- */

/* "2-3,8" as numbers. */
static size_t read_list(const char *list, unsigned *ret_numbers, size_t max)
{
    size_t count = 0;
    unsigned long first = 0;
    unsigned long last = 0;
    while (text_take_range(&list, &first, &last)) {
        for (unsigned long i = first; i <= last && count < max; i++) {
            ret_numbers[count++] = (unsigned)i;
        }
    }
    return count;
}

/* Those that are made meanwhile are of threads that were told by then, or are found by the second
 * round. */
static int pin_threads(pid_t pid, const struct hypervisor_place *place, struct error *err)
{
    unsigned cpus[CPUS_MAX];
    size_t cpu_count = read_list(place->cpus, cpus, CPUS_MAX);
    int r = 0;
    for (int round = 0; round < 2 && cpu_count > 0; round++) {
        size_t count = 0;
        MEMORY_OWNED struct thread *threads = list_threads(pid, &count);
        bool are_known = count > 0 && threads[0].is_vcpu;
        for (size_t i = 0; i < count && r == 0; i++) {
            char own[16];
            const char *others =
                are_known && place->others[0] != '\0' ? place->others : place->cpus;
            snprintf(own, sizeof(own), "%u", cpus[threads[i].vcpu % cpu_count]);
            r = jail_pin_thread(threads[i].id, threads[i].is_vcpu ? own : others, err);
        }
    }
    return r;
}

static uint64_t resident_bytes(pid_t pid)
{
    BUFFER_OWNED struct buffer text = {0};
    struct error ignored = {0};
    MEMORY_OWNED char *path = memory_format("/proc/%d/statm", (int)pid);
    if (file_read(path, STATUS_BYTES_MAX, &text, &ignored) < 0) {
        return 0;
    }
    const char *second = strchr(buffer_string(&text), ' ');
    return second != NULL ? strtoull(second, NULL, 10) * (uint64_t)sysconf(_SC_PAGESIZE) : 0;
}

static uint64_t free_in(const struct jail_numa *numa, uint64_t page_bytes)
{
    return page_bytes == HYPERVISOR_PAGE_2M ? numa->huge_2m_free * page_bytes
        : page_bytes == HYPERVISOR_PAGE_1G  ? numa->huge_1g_free * page_bytes
                                            : numa->free_bytes;
}

bool pin_has_room(const char *nodes, uint64_t bytes, uint64_t page_bytes)
{
    unsigned wanted[JAIL_NUMA_MAX];
    size_t wanted_count = read_list(nodes, wanted, JAIL_NUMA_MAX);
    MEMORY_OWNED struct jail_numa *all = memory_new(JAIL_NUMA_MAX, sizeof(*all));
    size_t count = jail_read_numa("/sys", all, JAIL_NUMA_MAX);
    uint64_t room = 0;
    size_t found = 0;
    for (size_t i = 0; i < count; i++) {
        for (size_t k = 0; k < wanted_count; k++) {
            if (all[i].number == wanted[k]) {
                room += free_in(&all[i], page_bytes);
                found++;
            }
        }
    }
    return found == count || bytes <= room;
}

struct hypervisor_pages hypervisor_read_pages(uint64_t page_bytes)
{
    struct jail_huge huge = jail_read_huge("/sys", page_bytes);
    return (struct hypervisor_pages){.count = huge.count, .free = huge.free};
}

char *pin_memory_words(const char *nodes)
{
    BUFFER_OWNED struct buffer words = {0};
    unsigned numbers[JAIL_NUMA_MAX];
    size_t count = read_list(nodes, numbers, JAIL_NUMA_MAX);
    for (size_t i = 0; i < count; i++) {
        buffer_append_format(&words, ",host-nodes=%u", numbers[i]);
    }
    buffer_append_string(&words, ",policy=bind");
    return memory_copy_string(buffer_string(&words));
}

/* A number that is told as a member of JSON. */
static bool says_number(const char *text, const char *member, unsigned number)
{
    MEMORY_OWNED char *word = memory_format("\"%s\":%u", member, number);
    size_t length = strlen(word);
    const char *at = strstr(text, word);
    while (at != NULL && isdigit((unsigned char)at[length])) {
        at = strstr(at + length, word);
    }
    return at != NULL;
}

/* By the words that it was begun with: all nodes of its memory, or each one of a cell's. */
static bool has_bound_itself(const char *folder, const char *nodes)
{
    BUFFER_OWNED struct buffer text = {0};
    struct error ignored = {0};
    unsigned numbers[JAIL_NUMA_MAX];
    size_t count = read_list(nodes, numbers, JAIL_NUMA_MAX);
    MEMORY_OWNED char *path = memory_format("%s/" LAUNCH_FILE, folder);
    MEMORY_OWNED char *words = pin_memory_words(nodes);
    if (file_read(path, LAUNCH_BYTES_MAX, &text, &ignored) < 0) {
        return false;
    }
    bool has_each = count > 0;
    for (size_t i = 0; i < count; i++) {
        MEMORY_OWNED char *word = memory_format(",host-nodes=%u,policy=bind", numbers[i]);
        has_each = has_each &&
            (strstr(buffer_string(&text), word) != NULL ||
             says_number(buffer_string(&text), PIN_ZONE_NODE, numbers[i]));
    }
    return has_each || strstr(buffer_string(&text), words) != NULL;
}

static const char *memory_of(const char *folder, const struct hypervisor_place *place, bool fits,
                             const struct jail_pinned *pinned)
{
    if (place->nodes == NULL || place->nodes[0] == '\0') {
        return "";
    }
    if (pinned->is_bound) {
        return "bound";
    }
    if (has_bound_itself(folder, place->nodes)) {
        return HYPERVISOR_BOUND_ITSELF;
    }
    return !fits                        ? "its NUMA nodes have not so much free"
        : pinned->how == JAIL_PIN_GROUP ? "the kernel refuses"
                                        : "no cpuset can be had";
}

int hypervisor_pin(const char *folder, const struct hypervisor_place *place,
                   struct hypervisor_pinned *ret_pinned, struct error *err)
{
    struct jail_pinned pinned = {JAIL_PIN_THREADS, false};
    pid_t pid = 0;
    const char *name = strrchr(folder, '/');
    bool is_apart = place->is_own && place->others[0] != '\0';
    if (!launch_is_alive(folder, NULL, &pid) || pid <= 1) {
        return error_set(err, ERROR_NOT_FOUND, "no VMM runs in %s", folder);
    }
    /* What it has already may be of these nodes, or moves there. */
    uint64_t has = resident_bytes(pid);
    bool has_nodes = place->nodes != NULL && place->nodes[0] != '\0';
    uint64_t wants = place->memory_bytes > has ? place->memory_bytes - has : 0;
    if (place->page_bytes > 0) { /* no part of these is resident, and all of them move, or none */
        wants = has_nodes && has_bound_itself(folder, place->nodes) ? 0 : place->memory_bytes;
    }
    bool fits = has_nodes && pin_has_room(place->nodes, wants, place->page_bytes);
    MEMORY_OWNED char *all =
        memory_format("%s%s%s", place->cpus, is_apart ? "," : "", is_apart ? place->others : "");
    const struct jail_place where = {.cpus = all, .nodes = fits ? place->nodes : NULL};
    int r = jail_pin(name != NULL ? name + 1 : folder, pid, &where, &pinned, err);
    r = r < 0 || !place->is_own ? r : pin_threads(pid, place, err);
    if (r == 0) {
        ret_pinned->how = pinned.how == JAIL_PIN_GROUP ? "cpuset" : "affinity";
        ret_pinned->memory = memory_of(folder, place, fits, &pinned);
    }
    return r;
}

/* ---- As the kernel has it ---- */

/* "Cpus_allowed_list:\t0-1" */
static bool take_line(const char *status, const char *key, char *ret_text, size_t size)
{
    const char *line = strstr(status, key);
    if (line == NULL) {
        return false;
    }
    line += strlen(key);
    line += strspn(line, " \t");
    snprintf(ret_text, size, "%.*s", (int)strcspn(line, "\n"), line);
    return true;
}

static bool read_status(pid_t pid, pid_t thread, struct buffer *out)
{
    struct error ignored = {0};
    MEMORY_OWNED char *path = memory_format("/proc/%d/task/%d/status", (int)pid, (int)thread);
    return file_read(path, STATUS_BYTES_MAX, out, &ignored) == 0;
}

bool hypervisor_read_standing(const char *folder, struct hypervisor_standing *ret_standing)
{
    BUFFER_OWNED struct buffer first = {0};
    size_t count = 0;
    pid_t pid = 0;
    *ret_standing = (struct hypervisor_standing){0};
    if (!launch_is_alive(folder, NULL, &pid) || pid <= 0 || !read_status(pid, pid, &first) ||
        !take_line(buffer_string(&first), "\nCpus_allowed_list:", ret_standing->cpus,
                   sizeof(ret_standing->cpus))) {
        return false;
    }
    take_line(buffer_string(&first), "\nMems_allowed_list:", ret_standing->nodes,
              sizeof(ret_standing->nodes));
    MEMORY_OWNED struct thread *threads = list_threads(pid, &count);
    for (size_t i = 0; i < count && threads[i].is_vcpu; i++) {
        BUFFER_OWNED struct buffer status = {0};
        size_t at = ret_standing->vcpu_count;
        if (at < HYPERVISOR_VCPUS_SHOWN && read_status(pid, threads[i].id, &status) &&
            take_line(buffer_string(&status), "\nCpus_allowed_list:", ret_standing->vcpus[at].cpus,
                      sizeof(ret_standing->vcpus[at].cpus))) {
            ret_standing->vcpus[at].number = threads[i].vcpu;
            ret_standing->vcpu_count++;
        }
    }
    return true;
}
