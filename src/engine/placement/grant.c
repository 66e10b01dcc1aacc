/*
 * Which parts of a node a request would get: a NUMA node, cores, devices, ports.  The same search
 * answers whether there are enough (without a grant) and names them.
 */
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/memory.h"

#include "engine/placement/parts.h"

/* ---- NUMA nodes and cores ---- */

static bool numa_suits(const struct probe *probe, const struct numa *numa)
{
    const uint64_t *need = probe->need.of;
    return numa->cores_free >= probe->cores &&
        numa->memory - numa->memory_used >= need[PLACEMENT_MEMORY] &&
        numa->memory >= numa->memory_used &&
        numa->huge_2m >= numa->huge_2m_used + need[PLACEMENT_HUGE_2M] &&
        numa->huge_1g >= numa->huge_1g_used + need[PLACEMENT_HUGE_1G];
}

/* The tightest that suits; -1: none does. */
static int32_t numa_find(const struct probe *probe, const struct node *node)
{
    int32_t found = -1;
    for (size_t i = 0; i < node->numa_count; i++) {
        if (numa_suits(probe, &node->numa[i]) &&
            (found < 0 || node->numa[i].cores_free < node->numa[found].cores_free)) {
            found = (int32_t)i;
        }
    }
    return found;
}

/* Free ones from `first` to before `end`, until there are as many as are wanted. */
static size_t cores_take(const struct probe *probe, const struct node *node, uint32_t first,
                         uint32_t end, uint16_t *cores, size_t count)
{
    for (uint32_t core = first; core < end && count < probe->cores; core++) {
        if (((node->core_used[core / 64] >> (core % 64)) & 1) == 0) {
            cores[count++] = (uint16_t)core;
        }
    }
    return count;
}

static int by_number(const void *left, const void *right)
{
    return (int)*(const uint16_t *)left - (int)*(const uint16_t *)right;
}

/* No NUMA node has them all: of as few as can be, those that have most first. */
static size_t cores_take_few(const struct probe *probe, const struct node *node, uint16_t *cores)
{
    uint64_t seen = 0;
    size_t count = 0;
    while (count < probe->cores) {
        const struct numa *most = NULL;
        size_t at = 0;
        for (size_t i = 0; i < node->numa_count; i++) {
            const struct numa *numa = &node->numa[i];
            bool is_new = ((seen >> i) & 1) == 0;
            if (is_new && (most == NULL || numa->cores_free > most->cores_free)) {
                most = numa;
                at = i;
            }
        }
        if (most == NULL) {
            break;
        }
        seen |= 1ULL << at;
        count = cores_take(probe, node, most->core_first, most->core_first + most->core_count,
                           cores, count);
    }
    qsort(cores, count, sizeof(cores[0]), by_number);
    return count;
}

static void cores_name(const struct probe *probe, const struct node *node, int32_t numa,
                       struct placement_grant *grant)
{
    uint16_t *cores = memory_new(probe->cores, sizeof(*cores));
    uint32_t first = numa >= 0 ? node->numa[numa].core_first : 0;
    uint32_t end = numa >= 0 ? first + node->numa[numa].core_count : node->class->core_count;
    bool is_split =
        numa < 0 && node->numa_count > 1 && probe->request->demand.numa != PLACEMENT_NUMA_ANY;
    size_t count = is_split ? cores_take_few(probe, node, cores)
                            : cores_take(probe, node, first, end, cores, 0);
    CHECK(count == probe->cores);
    grant->cores = cores;
    grant->core_count = count;
}

/* Whether a NUMA node has it all: what the score and the reason tell of. */
bool numa_keeps_together(const struct probe *probe, const struct node *node)
{
    return numa_find(probe, node) >= 0;
}

static bool cores_find(const struct probe *probe, const struct node *node,
                       struct placement_grant *grant)
{
    enum placement_numa_policy policy = probe->request->demand.numa;
    int32_t numa = policy != PLACEMENT_NUMA_ANY ? numa_find(probe, node) : -1;
    if (policy == PLACEMENT_NUMA_STRICT && numa < 0) {
        return false;
    }
    if (numa < 0 && node->cores_free < probe->cores) {
        return false;
    }
    if (grant != NULL) {
        grant->numa = numa;
        if (probe->cores > 0) {
            cores_name(probe, node, numa, grant);
        }
    }
    return true;
}

bool grant_cores(const struct probe *probe, const struct node *node,
                 struct placement_grant *ret_grant)
{
    *ret_grant = (struct placement_grant){.numa = -1};
    return cores_find(probe, node, ret_grant);
}

/* ---- Devices ---- */

bool kind_is_of(const struct want *want, const struct kind *kind)
{
    if (kind->class_name != want->class_name) {
        return false;
    }
    for (size_t i = 0; i < want->model_count; i++) {
        if (want->models[i] == kind->model) {
            return true;
        }
    }
    return want->any_model;
}

/* How many of the kind have the share free. */
static uint32_t kind_free(const struct want *want, const struct kind *kind)
{
    if (want->share == PLACEMENT_SHARE_WHOLE) {
        return kind->whole;
    }
    uint32_t count = 0;
    for (uint32_t i = 0; i < kind->count; i++) {
        count += kind->used_of[i] + want->share <= PLACEMENT_SHARE_WHOLE;
    }
    return count;
}

/* All of a want are of one kind: the one that is scarcest and has enough. */
static int kind_find(const struct want *want, const struct kind *kinds, size_t count)
{
    int found = -1;
    uint32_t found_free = UINT32_MAX;
    for (size_t i = 0; i < count; i++) {
        if (!kind_is_of(want, &kinds[i])) {
            continue;
        }
        uint32_t free_count = kind_free(want, &kinds[i]);
        if (free_count >= want->count && free_count < found_free) {
            found = (int)i;
            found_free = free_count;
        }
    }
    return found;
}

/* The fullest that still has the share, so that whole ones stay whole. */
static uint16_t device_pick(const struct want *want, const struct kind *kind)
{
    int found = -1;
    for (uint16_t i = 0; i < kind->count; i++) {
        if (kind->used_of[i] + want->share <= PLACEMENT_SHARE_WHOLE &&
            (found < 0 || kind->used_of[i] > kind->used_of[found])) {
            found = i;
        }
    }
    CHECK(found >= 0);
    return (uint16_t)found;
}

static void kind_use(struct kind *kind, uint16_t index, uint16_t share)
{
    kind->whole = (uint16_t)(kind->whole - (kind->used_of[index] == 0));
    kind->used_of[index] = (uint16_t)(kind->used_of[index] + share);
}

/* The first that has the share and is not taken; there is one. */
static uint16_t device_other(const struct want *want, const struct kind *kind, const bool *taken)
{
    uint16_t other = 0;
    while (taken[other] || kind->used_of[other] + want->share > PLACEMENT_SHARE_WHOLE) {
        other++;
        CHECK(other < kind->count);
    }
    return other;
}

/* Several shares of one demand are of as many devices. */
static void devices_take(const struct want *want, size_t number, struct kind *kinds, int found,
                         struct placement_grant_device *ret_devices)
{
    bool taken[PLACEMENT_DEVICES_MAX] = {false};
    struct kind *kind = &kinds[found];
    for (uint16_t k = 0; k < want->count; k++) {
        uint16_t index = device_pick(want, kind);
        index = taken[index] ? device_other(want, kind, taken) : index;
        taken[index] = true;
        kind_use(kind, index, want->share);
        ret_devices[k] = (struct placement_grant_device){(uint16_t)number, (uint16_t)found, index};
    }
}

/* Give each want its devices, in `kinds`, which are changed. */
static bool devices_assign(const struct probe *probe, struct kind *kinds, size_t kind_count,
                           struct placement_grant_device *ret_devices, unsigned *ret_which)
{
    size_t count = 0;
    for (size_t i = 0; i < probe->want_count; i++) {
        const struct want *want = &probe->wants[i];
        int found = want->class_name != NULL ? kind_find(want, kinds, kind_count) : -1;
        if (found < 0) {
            *ret_which = (unsigned)i;
            return false;
        }
        devices_take(want, i, kinds, found, &ret_devices[count]);
        count += want->count;
    }
    return true;
}

/* On a copy of the node's counts, since one want may take what the next one needs. */
static bool devices_find(const struct probe *probe, const struct node *node,
                         struct placement_grant *grant, unsigned *ret_which)
{
    if (probe->want_count == 1 && grant == NULL) {
        *ret_which = 0;
        return probe->wants[0].class_name != NULL &&
            kind_find(&probe->wants[0], node->kinds, node->kind_count) >= 0;
    }
    struct kind kinds[PLACEMENT_DEVICE_KINDS_MAX];
    uint16_t used[PLACEMENT_DEVICE_KINDS_MAX][PLACEMENT_DEVICES_MAX];
    size_t total = 0;
    for (size_t i = 0; i < node->kind_count; i++) {
        kinds[i] = node->kinds[i];
        memcpy(used[i], kinds[i].used_of, kinds[i].count * sizeof(used[i][0]));
        kinds[i].used_of = used[i];
    }
    for (size_t i = 0; i < probe->want_count; i++) {
        total += probe->wants[i].count;
    }
    struct placement_grant_device *devices = memory_new(total + 1, sizeof(*devices));
    bool found = devices_assign(probe, kinds, node->kind_count, devices, ret_which);
    if (!found || grant == NULL) {
        free(devices);
        return found;
    }
    grant->devices = devices;
    grant->device_count = total;
    return true;
}

/* ---- Ports ---- */

static bool is_asked_for(const struct placement_demand *demand, uint32_t port)
{
    for (size_t i = 0; i < demand->port_count; i++) {
        if (demand->ports[i] == port) {
            return true;
        }
    }
    return false;
}

static bool ports_find(const struct probe *probe, const struct node *node,
                       struct placement_grant *grant, unsigned *ret_which)
{
    const struct placement_demand *demand = &probe->request->demand;
    for (size_t i = 0; i < demand->port_count; i++) {
        if (node_has_port(node, demand->ports[i])) {
            *ret_which = (unsigned)i;
            return false;
        }
    }
    uint16_t ports[PLACEMENT_PORTS_MAX];
    size_t count = demand->port_count, total = demand->port_count + demand->any_ports;
    if (demand->port_count > 0) {
        memcpy(ports, demand->ports, demand->port_count * sizeof(ports[0]));
    }
    for (uint32_t port = node->class->port_first; port <= node->class->port_last && count < total;
         port++) {
        if (!node_has_port(node, (uint16_t)port) && !is_asked_for(demand, port)) {
            ports[count++] = (uint16_t)port;
        }
    }
    if (count < total) {
        *ret_which = (unsigned)demand->port_count;
        return false;
    }
    if (grant != NULL) {
        uint16_t *copy = memory_new(total, sizeof(*copy));
        memcpy(copy, ports, total * sizeof(*copy));
        grant->ports = copy;
        grant->port_count = total;
    }
    return true;
}

bool grant_find(const struct probe *probe, const struct node *node,
                struct placement_grant *ret_grant, enum placement_filter *ret_lacking,
                unsigned *ret_which)
{
    const struct placement_demand *demand = &probe->request->demand;
    struct placement_grant grant = {.numa = -1};
    struct placement_grant *out = ret_grant != NULL ? &grant : NULL;
    *ret_lacking = PLACEMENT_PASSED;
    *ret_which = 0;
    if ((probe->cores > 0 || demand->numa != PLACEMENT_NUMA_ANY) && !cores_find(probe, node, out)) {
        *ret_lacking = PLACEMENT_NUMA;
    } else if (probe->want_count > 0 && !devices_find(probe, node, out, ret_which)) {
        *ret_lacking = PLACEMENT_DEVICE;
    } else if (demand->port_count + demand->any_ports > 0 &&
               !ports_find(probe, node, out, ret_which)) {
        *ret_lacking = PLACEMENT_PORT;
    }
    if (*ret_lacking != PLACEMENT_PASSED) {
        grant_done(&grant);
        return false;
    }
    if (ret_grant != NULL) {
        *ret_grant = grant;
    }
    return true;
}
