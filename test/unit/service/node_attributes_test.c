/* What a node says that it has. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"

#include "engine/jail/jail.h"

#include "service/node/parts.h"

#include "test/lib/test.h"

static void put(const char *root, const char *path, const char *text)
{
    char folder[512];
    struct error err = {0};
    snprintf(folder, sizeof(folder), "%s/%s", root, path);
    for (char *at = folder + strlen(root) + 1; (at = strchr(at, '/')) != NULL; at++) {
        *at = '\0';
        mkdir(folder, 0700);
        *at = '/';
    }
    EXPECT(file_write(folder, text, strlen(text), 0600, &err) == 0);
}

static json_t *look(const char *root)
{
    const struct node_pages others = {.taken = {5, 0}};
    const struct node_options options = {
        .data_folder = "/tmp",
        .kvm = "none",
        .region = "north",
        .zone = "a\"b",
        .rack = "",
        .reserved_memory_bytes = 7,
        .overcommit_cpu_percent = 400,
    };
    const struct attributes_roots roots = {root, root};
    BUFFER_OWNED struct buffer text = {0};
    json_t *found = NULL;
    struct error err = {0};
    attributes_write(&options, &roots, &others, &text);
    EXPECT(json_read(buffer_string(&text), text.used, &found, &err) == 0);
    return found;
}

static uint64_t count_of(const json_t *found, const char *list, const char *name)
{
    size_t index = 0;
    json_t *item = NULL;
    json_array_foreach(json_object_get(found, list), index, item)
    {
        if (strcmp(json_text(item, "name"), name) == 0) {
            return json_u64(item, "count");
        }
    }
    return 0;
}

/*
 * Goal: what /proc and /sys say is counted by class, and a line that makes no sense counts as none.
 * Method: a folder in their place.
 */
TEST(attributes, of_a_node_are_what_its_system_says)
{
    char root[] = "/tmp/attributes-XXXXXX";
    struct error err = {0};
    EXPECT(mkdtemp(root) != NULL);
    put(root, "meminfo", "MemTotal:       2048 kB\nMemFree: 1 kB\n");
    put(root, "devices/system/node/node0/cpulist", "0-1\n");
    put(root, "devices/system/node/node0/meminfo", "Node 0 MemTotal:       1024 kB\n");
    put(root, "kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "12\n");
    put(root, "bus/pci/devices/0000:00:01.0/class", "0x030200\n");
    put(root, "bus/pci/devices/0000:00:02.0/class", "0x020000\n");
    put(root, "bus/pci/devices/0000:00:02.0/sriov_totalvfs", "8\n");
    put(root, "bus/pci/devices/0000:00:03.0/class", "nonsense\n");
    JSON_OWNED json_t *found = look(root);
    EXPECT(json_u64(found, "memory_bytes") == 2048 << 10);
    const json_t *numa = json_array_get(json_object_get(found, "numa"), 0);
    EXPECT(strcmp(json_text(numa, "cpus"), "0-1") == 0);
    EXPECT(json_u64(numa, "memory_bytes") == 1024 << 10);
    EXPECT(count_of(found, "hugepages", "2048kB") == 12);
    EXPECT(json_u64(json_array_get(json_object_get(found, "hugepages"), 0), "others") == 5);
    EXPECT(count_of(found, "devices", "gpu") == 1);
    EXPECT(count_of(found, "devices", "network") == 1);
    EXPECT(count_of(found, "devices", "sriov-function") == 8);
    EXPECT(json_array_size(json_object_get(found, "devices")) == 3);
    EXPECT(json_u64(json_object_get(found, "reserved"), "memory_bytes") == 7);
    EXPECT(strcmp(json_text(json_object_get(found, "topology"), "zone"), "a\"b") == 0);
    EXPECT(file_remove_tree(root, &err) == 0);
}

/*
 * Goal: NUMA nodes are told with the kernel's numbers, in their order, with their hugepages; one
 * with memory alone has no CPUs; what is no node is none.
 * Method: the tree of a machine with two sockets and a node between that has memory alone.
 */
TEST(attributes, of_two_sockets_are_two_numa_nodes)
{
    char root[] = "/tmp/attributes-XXXXXX";
    struct error err = {0};
    EXPECT(mkdtemp(root) != NULL);
    put(root, "devices/system/node/node3/cpulist", "2-3,6-7\n");
    put(root, "devices/system/node/node3/meminfo",
        "Node 3 MemTotal: 2048 kB\nNode 3 MemFree: 512 kB\nNode 3 FilePages: 256 kB\n"
        "Node 3 Shmem: 64 kB\n");
    put(root, "devices/system/node/node3/hugepages/hugepages-2048kB/nr_hugepages", "3\n");
    put(root, "devices/system/node/node3/hugepages/hugepages-1048576kB/nr_hugepages", "2\n");
    put(root, "devices/system/node/node3/hugepages/hugepages-1048576kB/free_hugepages", "1\n");
    put(root, "devices/system/node/node0/cpulist", "0-1,4-5\n");
    put(root, "devices/system/node/node0/meminfo", "Node 0 MemTotal: 1024 kB\n");
    put(root, "devices/system/node/node12/cpulist", "\n");
    put(root, "devices/system/node/node12/meminfo", "Node 12 MemTotal: 4096 kB\n");
    put(root, "devices/system/node/node1x/cpulist", "9\n");
    put(root, "devices/system/node/node99999/cpulist", "9\n");
    put(root, "devices/system/node/node/cpulist", "9\n");
    put(root, "devices/system/node/node5/meminfo", "Node 5 MemTotal: 1 kB\n");
    JSON_OWNED json_t *found = look(root);
    const json_t *list = json_object_get(found, "numa");
    EXPECT(json_array_size(list) == 3);
    EXPECT(json_u64(json_array_get(list, 0), "number") == 0);
    EXPECT(json_u64(json_array_get(list, 1), "number") == 3);
    EXPECT(json_u64(json_array_get(list, 2), "number") == 12);
    EXPECT(strcmp(json_text(json_array_get(list, 1), "cpus"), "2-3,6-7") == 0);
    EXPECT(count_of(json_array_get(list, 1), "hugepages", "2048kB") == 3);
    EXPECT(count_of(json_array_get(list, 1), "hugepages", "1048576kB") == 2);
    EXPECT(json_array_size(json_object_get(json_array_get(list, 0), "hugepages")) == 0);
    EXPECT(strcmp(json_text(json_array_get(list, 2), "cpus"), "") == 0);
    struct jail_numa nodes[2];
    EXPECT(jail_read_numa(root, nodes, 2) == 2); /* no more than there is room for */
    struct jail_numa all[4];
    EXPECT(jail_read_numa(root, all, 4) == 3);
    EXPECT(all[1].huge_1g_free == 1 && all[1].huge_2m_free == 0);
    EXPECT(all[1].free_bytes == (512 + 256 - 64) << 10 && all[1].memory_bytes == 2048 << 10);
    EXPECT(file_remove_tree(root, &err) == 0);
}

/*
 * Goal: a huge page that was promised is not free, and those that machines of this node have are
 * not somebody else's.
 * Method: ten of which three are in use and two promised, with no machine.
 */
TEST(attributes, of_huge_pages_are_what_others_have)
{
    char root[] = "/tmp/attributes-XXXXXX";
    struct error err = {0};
    const struct node_options alone = {0};
    EXPECT(mkdtemp(root) != NULL);
    put(root, "kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "10\n");
    put(root, "kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "7\n");
    put(root, "kernel/mm/hugepages/hugepages-2048kB/resv_hugepages", "2\n");
    struct jail_huge huge = jail_read_huge(root, UINT64_C(2) << 20);
    EXPECT(huge.count == 10 && huge.free == 5);
    struct jail_huge none = jail_read_huge(root, UINT64_C(1) << 30);
    EXPECT(none.count == 0 && none.free == 0);
    struct node_pages others = attributes_read_pages(&alone, root);
    EXPECT(others.set_aside[0] == 10 && others.taken[0] == 5);
    EXPECT(others.set_aside[1] == 0 && others.taken[1] == 0);
    EXPECT(file_remove_tree(root, &err) == 0);
}

TEST(attributes, are_there_where_the_system_says_nothing)
{
    JSON_OWNED json_t *found = look("/nonexistent");
    EXPECT(json_u64(found, "cpus") >= 1);
    EXPECT(json_u64(found, "memory_bytes") == 0);
    EXPECT(json_array_size(json_object_get(found, "numa")) == 0);
}
