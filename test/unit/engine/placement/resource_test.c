/* What nodes have, and how it is given. */
#include <string.h>

#include "base/error.h"
#include "base/memory.h"

#include "engine/placement/placement.h"

#include "test/lib/test.h"
#include "test/unit/engine/placement/cluster.h"

static int set(const struct placement_node *node)
{
    struct placement_cluster *cluster = placement_cluster_new();
    struct error err = {0};
    int r = placement_cluster_set_node(cluster, node, NULL, &err);
    EXPECT((r == 0) == (placement_cluster_node_count(cluster) == 1));
    placement_cluster_free(cluster);
    return r;
}

TEST(placement_resource, each_is_a_limit_and_the_last_one_of_it_can_be_had)
{
    for (enum placement_resource i = 0; i < PLACEMENT_RESOURCE_COUNT; i++) {
        struct placement_cluster *cluster = placement_cluster_new();
        struct placement_node node = make_node("n");
        for (size_t k = 0; k < PLACEMENT_RESOURCE_COUNT; k++) {
            node.capacity.of[k] = 1000;
            node.reserved.of[k] = 100;
        }
        add_node(cluster, &node);
        struct placement_request request = make_request("m");
        request.demand.amounts = (struct placement_amounts){0};
        request.demand.amounts.of[i] = i == PLACEMENT_SLOTS ? 900 : 901; /* it is one itself */
        EXPECT_STRING(place(cluster, &request), "");
        EXPECT(last.refused[PLACEMENT_RESOURCE] == 1 && last.lacking[i] == 1);
        char reason[64];
        snprintf(reason, sizeof(reason), "none of 1 nodes: 1 %s", placement_resource_name(i));
        EXPECT_STRING(last.reason, reason);
        request.demand.amounts.of[i]--;
        EXPECT_STRING(place(cluster, &request), "n");
        struct placement_request more = make_request("more");
        more.demand.amounts = (struct placement_amounts){0};
        more.demand.amounts.of[i] = i == PLACEMENT_SLOTS ? 0 : 1;
        EXPECT_STRING(place(cluster, &more), "");
        expect_sound(cluster);
        placement_cluster_free(cluster);
    }
}

TEST(placement_resource, overcommit_is_of_what_is_not_reserved)
{
    struct placement_cluster *cluster = placement_cluster_new();
    struct placement_node node = make_node("n");
    struct placement_usage usage;
    struct error err = {0};
    node.reserved.of[PLACEMENT_CPU_MILLI] = 2000;
    node.overcommit[PLACEMENT_CPU_MILLI] = 250;
    node.overcommit[PLACEMENT_MEMORY] = 50;
    add_node(cluster, &node);
    EXPECT(placement_cluster_usage(cluster, "n", &usage, &err) == 0);
    EXPECT(usage.limit.of[PLACEMENT_CPU_MILLI] == 15000);
    EXPECT(usage.limit.of[PLACEMENT_MEMORY] == 16 * GIB);
    /* A dedicated core is not overcommitted: two of the six leave ten of fifteen. */
    struct placement_request request = make_request("m");
    request.demand.amounts.of[PLACEMENT_CPU_MILLI] = 0;
    request.demand.dedicated_cores = 2;
    EXPECT_STRING(place(cluster, &request), "n");
    EXPECT(last.grant.core_count == 2 && last.grant.cores[0] == 2 && last.grant.cores[1] == 3);
    EXPECT(placement_cluster_usage(cluster, "n", &usage, &err) == 0);
    EXPECT(usage.used.of[PLACEMENT_CPU_MILLI] == 5000 && usage.cores_dedicated == 2);
    request = make_request("m2");
    request.demand.amounts.of[PLACEMENT_CPU_MILLI] = 10001;
    EXPECT_STRING(place(cluster, &request), "");
    request.demand.amounts.of[PLACEMENT_CPU_MILLI] = 10000;
    EXPECT_STRING(place(cluster, &request), "n");
    placement_cluster_free(cluster);
}

TEST(placement_resource, numa_nodes_are_kept_together)
{
    struct placement_cluster *cluster = placement_cluster_new();
    struct placement_numa numa[2] = {{4, 16 * GIB, 0, 0}, {4, 16 * GIB, 0, 0}};
    struct placement_node node = make_node("n");
    node.numa = numa;
    node.numa_count = 2;
    add_node(cluster, &node);
    struct placement_request request = make_request("a");
    request.demand.amounts.of[PLACEMENT_CPU_MILLI] = 0;
    request.demand.numa = PLACEMENT_NUMA_STRICT;
    request.demand.dedicated_cores = 3;
    EXPECT_STRING(place(cluster, &request), "n");
    EXPECT(last.grant.numa == 0 && last.grant.cores[0] == 0);
    request.id = "b";
    EXPECT_STRING(place(cluster, &request), "n");
    EXPECT(last.grant.numa == 1 && last.grant.cores[0] == 4);
    /* Two cores are free, one in each. */
    request.id = "c";
    request.demand.dedicated_cores = 2;
    EXPECT_STRING(place(cluster, &request), "");
    EXPECT(last.refused[PLACEMENT_NUMA] == 1);
    request.demand.numa = PLACEMENT_NUMA_PREFERRED;
    EXPECT_STRING(place(cluster, &request), "n");
    EXPECT(last.grant.numa == -1 && last.grant.cores[0] == 3 && last.grant.cores[1] == 7);
    /* Memory of one NUMA node alone. */
    request = make_request("d");
    request.demand.amounts.of[PLACEMENT_CPU_MILLI] = 0;
    request.demand.amounts.of[PLACEMENT_MEMORY] = 15 * GIB;
    request.demand.numa = PLACEMENT_NUMA_STRICT;
    EXPECT_STRING(place(cluster, &request), "");
    expect_sound(cluster);
    /* A node that says nothing of its NUMA nodes is not strict's. */
    struct placement_node plain = make_node("plain");
    add_node(cluster, &plain);
    EXPECT_STRING(place(cluster, &request), "");
    EXPECT(last.refused[PLACEMENT_NUMA] == 2);
    placement_cluster_free(cluster);
}

/*
 * Goal: of nodes with room the one is chosen whose NUMA node has all of it, and the reason says so;
 * where none has, it says that.
 * Method: the fuller node, which binpack likes, has the cores in two NUMA nodes.
 */
TEST(placement_resource, a_numa_node_that_has_all_of_it_is_preferred)
{
    struct placement_cluster *cluster = placement_cluster_new();
    struct placement_numa split[2] = {{4, 16 * GIB, 0, 0}, {4, 16 * GIB, 0, 0}};
    struct placement_numa whole[2] = {{6, 16 * GIB, 0, 0}, {2, 16 * GIB, 0, 0}};
    static const uint16_t used[] = {0, 7};
    struct placement_node node = make_node("split");
    struct error err = {0};
    node.numa = split;
    node.numa_count = 2;
    add_node(cluster, &node);
    struct placement_node better = make_node("whole");
    better.numa = whole;
    better.numa_count = 2;
    add_node(cluster, &better);
    struct placement_allocation there = {.request = make_request("there"), .node = "split"};
    there.request.demand.amounts.of[PLACEMENT_CPU_MILLI] = 0;
    there.request.demand.dedicated_cores = 2;
    there.grant = (struct placement_grant){.cores = used, .core_count = 2, .numa = -1};
    EXPECT(placement_cluster_add(cluster, &there, &err) == 0);
    struct placement_request request = make_request("a");
    request.demand.amounts.of[PLACEMENT_CPU_MILLI] = 0;
    request.demand.dedicated_cores = 4;
    request.demand.numa = PLACEMENT_NUMA_PREFERRED;
    EXPECT_STRING(place(cluster, &request), "whole");
    EXPECT(last.parts[PLACEMENT_PART_NUMA] == 1 && last.grant.numa == 0);
    EXPECT(strstr(last.reason, "; all of it is of one NUMA node") != NULL);
    /* Three are free in each of the other one's: five are of both. */
    request.id = "b";
    request.demand.dedicated_cores = 5;
    EXPECT_STRING(place(cluster, &request), "split");
    EXPECT(last.parts[PLACEMENT_PART_NUMA] == -1 && last.grant.numa == -1);
    EXPECT(last.grant.cores[0] == 1 && last.grant.cores[2] == 3 && last.grant.cores[4] == 5);
    EXPECT(strstr(last.reason, "; no NUMA node has all of it: its cores are of 2") != NULL);
    /* Who asks for no cores is not told of NUMA nodes. */
    struct placement_request plain = make_request("c");
    plain.demand.amounts.of[PLACEMENT_CPU_MILLI] = 1;
    EXPECT(place(cluster, &plain)[0] != '\0');
    EXPECT(last.parts[PLACEMENT_PART_NUMA] == 0 && strstr(last.reason, "NUMA") == NULL);
    expect_sound(cluster);
    placement_cluster_free(cluster);
}

/* Cores of one NUMA node, and memory for which it is too small: as few as can be, and said. */
TEST(placement_resource, memory_that_no_numa_node_has_is_told_apart)
{
    struct placement_cluster *cluster = placement_cluster_new();
    struct placement_numa numa[2] = {{2, 16 * GIB, 0, 0}, {6, 16 * GIB, 0, 0}};
    struct placement_node node = make_node("n");
    node.numa = numa;
    node.numa_count = 2;
    add_node(cluster, &node);
    struct placement_request request = make_request("a");
    request.demand.amounts.of[PLACEMENT_CPU_MILLI] = 0;
    request.demand.amounts.of[PLACEMENT_MEMORY] = 20 * GIB;
    request.demand.dedicated_cores = 3;
    request.demand.numa = PLACEMENT_NUMA_PREFERRED;
    EXPECT_STRING(place(cluster, &request), "n");
    EXPECT(last.grant.numa == -1 && last.grant.cores[0] == 2 && last.grant.cores[2] == 4);
    EXPECT(strstr(last.reason, "which has too little memory for it") != NULL);
    placement_cluster_free(cluster);
}

TEST(placement_resource, devices_are_shared_until_they_are_full)
{
    struct placement_cluster *cluster = placement_cluster_new();
    struct placement_device devices[] = {{"gpu", "T4", 2}, {"gpu", "A100", 1}, {"usb", "", 1}};
    struct placement_node node = make_node("n");
    node.devices = devices;
    node.device_count = 3;
    node.capacity.of[PLACEMENT_CPU_MILLI] = 100000;
    add_node(cluster, &node);
    struct placement_device_demand half = {"gpu", "T4|V100", 1, 600};
    struct placement_request request = make_request("a");
    request.demand.devices = &half;
    request.demand.device_count = 1;
    EXPECT_STRING(place(cluster, &request), "n");
    EXPECT(last.grant.devices[0].kind == 0 && last.grant.devices[0].index == 0);
    /* 400 are left of the first: a smaller share goes there, another 600 to the second. */
    half.share = 400;
    request.id = "b";
    place(cluster, &request);
    EXPECT(last.grant.devices[0].index == 0);
    half.share = 600;
    request.id = "c";
    place(cluster, &request);
    EXPECT(last.grant.devices[0].index == 1);
    request.id = "d";
    EXPECT_STRING(place(cluster, &request), "");
    EXPECT(last.refused[PLACEMENT_DEVICE] == 1);
    half.models = NULL;
    EXPECT_STRING(place(cluster, &request), "n");
    EXPECT(last.grant.devices[0].kind == 1);
    half = (struct placement_device_demand){"gpu", "H100", 1, 0};
    request.id = "e";
    EXPECT_STRING(place(cluster, &request), "");
    half = (struct placement_device_demand){"fpga", NULL, 1, 0};
    EXPECT_STRING(place(cluster, &request), "");
    half = (struct placement_device_demand){"usb", NULL, 1, 0};
    EXPECT_STRING(place(cluster, &request), "n");
    expect_sound(cluster);
    /* All go, and all is free again. */
    static const char *const ids[] = {"a", "b", "c", "d", "e"};
    struct error err = {0};
    for (size_t i = 0; i < 5; i++) {
        EXPECT(placement_cluster_remove(cluster, ids[i], NULL, &err) == 0);
    }
    half = (struct placement_device_demand){"gpu", NULL, 2, 0};
    EXPECT_STRING(place(cluster, &request), "n");
    EXPECT(last.grant.device_count == 2 && last.grant.devices[1].kind == 0);
    placement_cluster_free(cluster);
}

TEST(placement_resource, two_demands_do_not_get_the_same_device)
{
    struct placement_cluster *cluster = placement_cluster_new();
    struct placement_device devices[] = {{"gpu", "T4", 2}};
    struct placement_node node = make_node("n");
    node.devices = devices;
    node.device_count = 1;
    add_node(cluster, &node);
    struct placement_device_demand demands[] = {{"gpu", "T4", 1, 0}, {"gpu", NULL, 2, 300}};
    struct placement_request request = make_request("a");
    request.demand.devices = demands;
    request.demand.device_count = 2;
    EXPECT_STRING(place(cluster, &request), "");
    demands[1].count = 1;
    EXPECT_STRING(place(cluster, &request), "n");
    EXPECT(last.grant.devices[0].index != last.grant.devices[1].index);
    placement_cluster_free(cluster);
}

TEST(placement_resource, ports_are_given_once)
{
    struct placement_cluster *cluster = placement_cluster_new();
    struct placement_node node = make_node("n");
    node.port_first = 100;
    node.port_last = 103;
    add_node(cluster, &node);
    uint16_t wanted[] = {80, 101};
    struct placement_request request = make_request("a");
    request.demand.ports = wanted;
    request.demand.port_count = 2;
    request.demand.any_ports = 2;
    EXPECT_STRING(place(cluster, &request), "n");
    EXPECT(last.grant.port_count == 4 && last.grant.ports[2] == 100 && last.grant.ports[3] == 102);
    request = make_request("b");
    request.demand.ports = wanted;
    request.demand.port_count = 1;
    EXPECT_STRING(place(cluster, &request), "");
    EXPECT(last.refused[PLACEMENT_PORT] == 1);
    request = make_request("c");
    request.demand.any_ports = 2;
    EXPECT_STRING(place(cluster, &request), "");
    request.demand.any_ports = 1;
    EXPECT_STRING(place(cluster, &request), "n");
    EXPECT(last.grant.ports[0] == 103);
    uint16_t twice[] = {7, 7};
    request.demand.ports = twice;
    request.demand.port_count = 2;
    struct placement_options options = make_options(PLACEMENT_BINPACK);
    struct placement_decision decision = {0};
    struct error err = {0};
    EXPECT(placement_decide(cluster, &request, &options, 0, &decision, &err) == -ERROR_INVALID);
    placement_cluster_free(cluster);
}

/* A node says what it has; what no machine has is not believed. */
TEST(placement_resource, a_node_that_lies_about_its_size_is_refused)
{
    struct placement_node node = make_node("n");
    EXPECT(set(&node) == 0);
    node.capacity.of[PLACEMENT_MEMORY] = UINT64_MAX;
    EXPECT(set(&node) == -ERROR_INVALID);
    node = make_node("n");
    node.capacity.of[PLACEMENT_CPU_MILLI] = 1ULL << 40;
    EXPECT(set(&node) == -ERROR_INVALID);
    node = make_node("n");
    node.reserved.of[PLACEMENT_DISK] = 101 * GIB;
    EXPECT(set(&node) == -ERROR_INVALID);
    node = make_node("n");
    node.overcommit[PLACEMENT_CPU_MILLI] = 1000000;
    EXPECT(set(&node) == -ERROR_INVALID);
    node = make_node("n");
    node.overcommit[PLACEMENT_ADDRESSES] = 200;
    EXPECT(set(&node) == -ERROR_INVALID);
    struct placement_numa numa[2] = {{4, 1ULL << 63, 0, 0}, {4, 1ULL << 63, 0, 0}};
    node = make_node("n");
    node.numa = numa;
    node.numa_count = 2;
    EXPECT(set(&node) == -ERROR_INVALID);
    struct placement_device device = {"gpu", "T4", 1000000};
    node = make_node("n");
    node.devices = &device;
    node.device_count = 1;
    EXPECT(set(&node) == -ERROR_INVALID);
}

TEST(placement_resource, labels_are_bounded_and_have_no_newlines)
{
    enum { MANY = 10000 };
    struct placement_attribute *labels = memory_new(MANY, sizeof(*labels));
    char(*names)[32] = memory_new(MANY, sizeof(*names));
    for (size_t i = 0; i < MANY; i++) {
        snprintf(names[i], sizeof(names[i]), "label.l%zu", i);
        labels[i] = (struct placement_attribute){names[i], "x"};
    }
    struct placement_node node = make_node("n");
    node.attributes = labels;
    node.attribute_count = MANY;
    EXPECT(set(&node) == -ERROR_LIMIT);
    node.attribute_count = PLACEMENT_ATTRIBUTES_MAX;
    EXPECT(set(&node) == 0);
    node.attribute_count = 2;
    labels[1].value = "a\nb";
    EXPECT(set(&node) == -ERROR_INVALID);
    labels[1] = (struct placement_attribute){"label.a\nb", "x"};
    EXPECT(set(&node) == -ERROR_INVALID);
    labels[1] = labels[0];
    EXPECT(set(&node) == -ERROR_INVALID);
    labels[1] = (struct placement_attribute){"disk", "x"};
    EXPECT(set(&node) == -ERROR_INVALID);
    node = make_node("");
    EXPECT(set(&node) == -ERROR_INVALID);
    free(labels);
    free(names);
}

/* Goal: a node that turns out smaller keeps what it runs, and gets nothing new. */
TEST(placement_resource, a_node_that_shrank_gets_nothing_new)
{
    struct placement_cluster *cluster = placement_cluster_new();
    struct placement_node node = make_node("n");
    struct placement_usage usage;
    struct error err = {0};
    add_node(cluster, &node);
    struct placement_request request = make_request("a");
    request.demand.amounts.of[PLACEMENT_MEMORY] = 20 * GIB;
    EXPECT_STRING(place(cluster, &request), "n");
    node.capacity.of[PLACEMENT_MEMORY] = 10 * GIB;
    add_node(cluster, &node);
    EXPECT(placement_cluster_usage(cluster, "n", &usage, &err) == 0);
    EXPECT(usage.is_overcommitted && usage.allocation_count == 1);
    request = make_request("b");
    request.demand.amounts = (struct placement_amounts){0};
    EXPECT_STRING(place(cluster, &request), "");
    EXPECT(placement_cluster_remove(cluster, "a", NULL, &err) == 0);
    EXPECT_STRING(place(cluster, &request), "n");
    placement_cluster_free(cluster);
}

TEST(placement_resource, devices_that_often_asked_sizes_need_are_kept_usable)
{
    struct placement_cluster *cluster = placement_cluster_new();
    struct placement_device devices = {"gpu", "T4", 2};
    struct placement_node gpu = make_node("gpu"), plain = make_node("plain");
    gpu.devices = &devices;
    gpu.device_count = 1;
    add_node(cluster, &gpu);
    add_node(cluster, &plain);
    struct placement_device_demand whole = {"gpu", NULL, 1, 0};
    struct placement_request request = make_request("habit");
    request.demand.devices = &whole;
    request.demand.device_count = 1;
    request.demand.amounts.of[PLACEMENT_CPU_MILLI] = 4000;
    EXPECT_STRING(place(cluster, &request), "gpu");
    /* It would fill the node more, but then its second GPU could not be used any more. */
    request = make_request("cpu");
    request.demand.amounts.of[PLACEMENT_CPU_MILLI] = 2000;
    EXPECT_STRING(place(cluster, &request), "plain");
    placement_cluster_free(cluster);
}

static void add_owner(struct placement_cluster *cluster, const char *id, const uint16_t *cores,
                      size_t count)
{
    struct error err = {0};
    struct placement_allocation allocation = {.request = make_request(id), .node = "n"};
    allocation.request.demand.amounts.of[PLACEMENT_CPU_MILLI] = 0;
    allocation.request.demand.dedicated_cores = 2;
    allocation.request.demand.numa = PLACEMENT_NUMA_PREFERRED;
    allocation.grant = (struct placement_grant){.cores = cores, .core_count = count, .numa = -1};
    EXPECT(placement_cluster_add(cluster, &allocation, &err) == 0);
}

TEST(placement_resource, what_came_without_cores_is_given_some_that_are_free)
{
    struct placement_cluster *cluster = placement_cluster_new();
    struct placement_numa numa[2] = {{3, 16 * GIB, 0, 0}, {3, 16 * GIB, 0, 0}};
    struct placement_node node = make_node("n");
    static const uint16_t known[] = {1, 3};
    const uint16_t *cores = NULL;
    size_t count = 0;
    struct error err = {0};
    node.numa = numa;
    node.numa_count = 2;
    add_node(cluster, &node);
    add_owner(cluster, "known", known, 2);
    add_owner(cluster, "new", NULL, 0);
    add_owner(cluster, "third", NULL, 0);
    add_owner(cluster, "late", NULL, 0);
    EXPECT(placement_cluster_give_cores(cluster, "known", &cores, &count, &err) == 0);
    EXPECT(count == 2 && cores[0] == 1 && cores[1] == 3);
    EXPECT(placement_cluster_give_cores(cluster, "new", &cores, &count, &err) == 0);
    EXPECT(count == 2 && cores[0] == 0 && cores[1] == 2); /* of one NUMA node */
    EXPECT(placement_cluster_give_cores(cluster, "third", &cores, &count, &err) == 0);
    EXPECT(count == 2 && cores[0] == 4 && cores[1] == 5);
    EXPECT(placement_cluster_give_cores(cluster, "new", &cores, &count, &err) == 0);
    EXPECT(count == 2 && cores[0] == 0 && cores[1] == 2); /* and keeps them */
    EXPECT(placement_cluster_give_cores(cluster, "late", &cores, &count, &err) == -ERROR_LIMIT);
    EXPECT(placement_cluster_give_cores(cluster, "nobody", &cores, &count, &err) ==
           -ERROR_NOT_FOUND);
    EXPECT(placement_cluster_remove(cluster, "known", NULL, &err) == 0);
    EXPECT(placement_cluster_give_cores(cluster, "late", &cores, &count, &err) == 0);
    EXPECT(count == 2 && cores[0] == 1 && cores[1] == 3);
    placement_cluster_free(cluster);
}
