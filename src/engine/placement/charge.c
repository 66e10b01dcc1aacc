/*
 * What an allocation takes of its node, and gives back.  An index that the node does not have (the
 * state may tell us of more than there is) is skipped in both, so that the sums come out even.
 */
#include <string.h>

#include "base/check.h"
#include "base/memory.h"

#include "engine/placement/parts.h"

/* A dedicated core is whole: where CPU is overcommitted, it weighs as much as all that would
 * otherwise share it. */
uint64_t cores_cost(const struct class *class, uint32_t cores)
{
    return (uint64_t)cores * 10 * class->cpu_percent;
}

/* ---- Ports ---- */

static size_t port_place(const struct node *node, uint16_t port)
{
    size_t low = 0, high = node->port_count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (node->ports[middle] < port) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

bool node_has_port(const struct node *node, uint16_t port)
{
    size_t at = port_place(node, port);
    return at < node->port_count && node->ports[at] == port;
}

/* The same port may be there twice, when the state says so. */
static void port_take(struct node *node, uint16_t port)
{
    if (node->port_count == node->port_room) {
        node->port_room = node->port_room != 0 ? node->port_room * 2 : 8;
        node->ports = memory_resize(node->ports, node->port_room * sizeof(uint16_t));
    }
    size_t at = port_place(node, port);
    memmove(node->ports + at + 1, node->ports + at, (node->port_count - at) * sizeof(uint16_t));
    node->ports[at] = port;
    node->port_count++;
}

static void port_give(struct node *node, uint16_t port)
{
    size_t at = port_place(node, port);
    CHECK(at < node->port_count && node->ports[at] == port);
    node->port_count--;
    memmove(node->ports + at, node->ports + at + 1, (node->port_count - at) * sizeof(uint16_t));
}

/* ---- Devices ---- */

static uint16_t share_of(const struct allocation *allocation, size_t demand)
{
    if (demand >= allocation->request.demand.device_count) {
        return 0;
    }
    uint32_t share = allocation->request.demand.devices[demand].share;
    return share == 0 ? PLACEMENT_SHARE_WHOLE : (uint16_t)share;
}

static void device_charge(struct node *node, const struct allocation *allocation, int by)
{
    for (size_t i = 0; i < allocation->grant.device_count; i++) {
        const struct placement_grant_device *device = &allocation->grant.devices[i];
        if (device->kind >= node->kind_count || device->index >= node->kinds[device->kind].count) {
            continue;
        }
        struct kind *kind = &node->kinds[device->kind];
        uint16_t *used = &kind->used_of[device->index];
        int change = by * (int)share_of(allocation, device->demand);
        bool was_whole = *used == 0;
        CHECK((int)*used + change >= 0);
        *used = (uint16_t)(*used + change);
        kind->used = (uint32_t)((int)kind->used + change);
        node->devices_used = (uint32_t)((int)node->devices_used + change);
        kind->whole = (uint16_t)(kind->whole + (*used == 0) - was_whole);
    }
}

/* ---- Cores and NUMA nodes ---- */

static struct numa *numa_of_core(struct node *node, uint32_t core)
{
    for (size_t i = 0; i < node->numa_count; i++) {
        struct numa *numa = &node->numa[i];
        if (core >= numa->core_first && core < numa->core_first + numa->core_count) {
            return numa;
        }
    }
    return NULL;
}

static void core_charge(struct node *node, uint32_t core, bool is_taken)
{
    uint64_t bit = 1ULL << (core % 64);
    bool was_taken = (node->core_used[core / 64] & bit) != 0;
    if (was_taken == is_taken) {
        return;
    }
    node->core_used[core / 64] ^= bit;
    struct numa *numa = numa_of_core(node, core);
    if (is_taken) {
        node->cores_free--;
    } else {
        node->cores_free++;
    }
    if (numa != NULL && is_taken) {
        numa->cores_free--;
    } else if (numa != NULL) {
        numa->cores_free++;
    }
}

static void cores_charge(struct node *node, const struct allocation *allocation, bool is_taken)
{
    for (size_t i = 0; i < allocation->grant.core_count; i++) {
        uint32_t core = allocation->grant.cores[i];
        bool is_systems = core < node->class->cores_reserved;
        if (core < node->class->core_count && !is_systems) {
            core_charge(node, core, is_taken);
        }
    }
}

static void numa_charge(struct node *node, const struct allocation *allocation, bool is_taken)
{
    int32_t which = allocation->grant.numa;
    if (which < 0 || (size_t)which >= node->numa_count) {
        return;
    }
    struct numa *numa = &node->numa[which];
    const uint64_t *of = allocation->request.demand.amounts.of;
    uint64_t sign = is_taken ? 1 : UINT64_MAX; /* -1 */
    numa->memory_used += sign * of[PLACEMENT_MEMORY];
    numa->huge_2m_used += sign * of[PLACEMENT_HUGE_2M];
    numa->huge_1g_used += sign * of[PLACEMENT_HUGE_1G];
}

/* ---- All ---- */

void node_charge(struct node *node, const struct allocation *allocation)
{
    uint32_t cores = allocation->request.demand.dedicated_cores;
    for (size_t i = 0; i < PLACEMENT_RESOURCE_COUNT; i++) {
        node->used.of[i] += allocation->charged.of[i];
    }
    node->used.of[PLACEMENT_CPU_MILLI] += cores_cost(node->class, cores);
    node->cores_dedicated += cores;
    cores_charge(node, allocation, true);
    numa_charge(node, allocation, true);
    device_charge(node, allocation, 1);
    for (size_t i = 0; i < allocation->grant.port_count; i++) {
        port_take(node, allocation->grant.ports[i]);
    }
}

void node_discharge(struct node *node, const struct allocation *allocation)
{
    uint32_t cores = allocation->request.demand.dedicated_cores;
    for (size_t i = 0; i < PLACEMENT_RESOURCE_COUNT; i++) {
        CHECK(node->used.of[i] >= allocation->charged.of[i]);
        node->used.of[i] -= allocation->charged.of[i];
    }
    node->used.of[PLACEMENT_CPU_MILLI] -= cores_cost(node->class, cores);
    node->cores_dedicated -= cores;
    cores_charge(node, allocation, false);
    numa_charge(node, allocation, false);
    device_charge(node, allocation, -1);
    for (size_t i = 0; i < allocation->grant.port_count; i++) {
        port_give(node, allocation->grant.ports[i]);
    }
}
