/*
 * The NUMA nodes of this machine, as the kernel tells of them in sysfs (sysfs-devices-node,
 * numa(7)): folders SYS/devices/system/node/nodeN with a list of CPUs and a meminfo; and its huge
 * pages (sysfs-kernel-mm-hugepages): SYS/kernel/mm/hugepages/hugepages-NkB.  See jail.h.
 */
#include <ctype.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/text.h"

#include "engine/jail/jail.h"

enum { FILE_BYTES_MAX = 65536, KIB_2M = 2048, KIB_1G = 1048576 };

/* "Node 0 MemFree:   1234 kB" */
static uint64_t bytes_of(const char *meminfo, const char *key)
{
    const char *at = strstr(meminfo, key);
    return at != NULL ? strtoull(at + strlen(key), NULL, 10) << 10 : 0;
}

/* What files take is given up where somebody wants it; shared memory among it is not. */
static void read_memory(const char *folder, struct jail_numa *numa)
{
    BUFFER_OWNED struct buffer text = {0};
    struct error ignored = {0};
    MEMORY_OWNED char *path = memory_format("%s/meminfo", folder);
    if (file_read(path, FILE_BYTES_MAX, &text, &ignored) < 0) {
        return;
    }
    const char *meminfo = buffer_string(&text);
    uint64_t files = bytes_of(meminfo, " FilePages:");
    uint64_t shared = bytes_of(meminfo, " Shmem:");
    numa->memory_bytes = bytes_of(meminfo, " MemTotal:");
    numa->free_bytes = bytes_of(meminfo, " MemFree:") + (files > shared ? files - shared : 0);
}

static uint64_t read_pages(const char *folder, unsigned size_kib, const char *what)
{
    BUFFER_OWNED struct buffer text = {0};
    struct error ignored = {0};
    MEMORY_OWNED char *path =
        memory_format("%s/hugepages/hugepages-%ukB/%s_hugepages", folder, size_kib, what);
    return file_read(path, FILE_BYTES_MAX, &text, &ignored) == 0
        ? strtoull(buffer_string(&text), NULL, 10)
        : 0;
}

static bool read_cpus(const char *folder, struct jail_numa *numa)
{
    BUFFER_OWNED struct buffer text = {0};
    struct error ignored = {0};
    MEMORY_OWNED char *path = memory_format("%s/cpulist", folder);
    if (file_read(path, FILE_BYTES_MAX, &text, &ignored) < 0) {
        return false;
    }
    snprintf(numa->cpus, sizeof(numa->cpus), "%.*s", (int)strcspn(buffer_string(&text), "\n"),
             buffer_string(&text));
    text_make_printable(numa->cpus, false);
    return true;
}

/* "node12" */
static bool read_number(const char *name, unsigned *ret_number)
{
    char *end = NULL;
    if (strncmp(name, "node", 4) != 0 || !isdigit((unsigned char)name[4])) {
        return false;
    }
    unsigned long number = strtoul(name + 4, &end, 10);
    *ret_number = (unsigned)number;
    return *end == '\0' && number < JAIL_NUMA_NUMBER_MAX;
}

static int by_number(const void *left, const void *right)
{
    const struct jail_numa *a = left;
    const struct jail_numa *b = right;
    return a->number < b->number ? -1 : a->number > b->number;
}

size_t jail_read_numa(const char *sys, struct jail_numa *ret_nodes, size_t max)
{
    MEMORY_OWNED char *path = memory_format("%s/devices/system/node", sys);
    DIR *folder = opendir(path);
    const struct dirent *entry = NULL;
    size_t count = 0;
    while (folder != NULL && count < max &&
           (entry = readdir(folder)) != NULL) { /* NOLINT(concurrency-mt-unsafe): our own DIR */
        struct jail_numa numa = {0};
        MEMORY_OWNED char *node = memory_format("%s/%s", path, entry->d_name);
        if (read_number(entry->d_name, &numa.number) && read_cpus(node, &numa)) {
            read_memory(node, &numa);
            numa.huge_2m = read_pages(node, KIB_2M, "nr");
            numa.huge_1g = read_pages(node, KIB_1G, "nr");
            numa.huge_2m_free = read_pages(node, KIB_2M, "free");
            numa.huge_1g_free = read_pages(node, KIB_1G, "free");
            ret_nodes[count++] = numa;
        }
    }
    if (folder != NULL) {
        closedir(folder);
    }
    if (count > 0) {
        qsort(ret_nodes, count, sizeof(ret_nodes[0]), by_number);
    }
    return count;
}

struct jail_huge jail_read_huge(const char *sys, uint64_t page_bytes)
{
    unsigned size_kib = (unsigned)(page_bytes >> 10);
    MEMORY_OWNED char *mm = memory_format("%s/kernel/mm", sys);
    uint64_t free_count = read_pages(mm, size_kib, "free");
    uint64_t promised = read_pages(mm, size_kib, "resv");
    return (struct jail_huge){.count = read_pages(mm, size_kib, "nr"),
                              .free = free_count > promised ? free_count - promised : 0};
}
