/* Is what we are told possible?  Nodes and requests come from others. */
#include <string.h>

#include "base/error.h"
#include "base/text.h"

#include "engine/placement/parts.h"

/* More than any machine has: a node that says more is mistaken, or lies. */
static const uint64_t most[PLACEMENT_RESOURCE_COUNT] = {
    [PLACEMENT_CPU_MILLI] = (uint64_t)PLACEMENT_CORES_MAX * 4 * 1000,
    [PLACEMENT_MEMORY] = 1ULL << 47,  /* 128 TiB */
    [PLACEMENT_DISK] = 1ULL << 54,    /* 16 PiB */
    [PLACEMENT_HUGE_2M] = 1ULL << 26, /* 128 TiB */
    [PLACEMENT_HUGE_1G] = 1ULL << 17,
    [PLACEMENT_ADDRESSES] = 1ULL << 32,
    [PLACEMENT_SLOTS] = 1ULL << 20,
};

enum { OVERCOMMIT_MAX = 2000 };

static int check_text(const char *what, const char *text, bool needed, struct error *err)
{
    size_t length = text != NULL ? strlen(text) : 0;
    if (length == 0 && needed) {
        return error_set(err, ERROR_INVALID, "%s is missing", what);
    }
    if (length > PLACEMENT_ID_MAX || (length > 0 && !text_is_printable(text))) {
        return error_set(err, ERROR_INVALID,
                         "%s is at most %d bytes of UTF-8 without control characters", what,
                         PLACEMENT_ID_MAX);
    }
    return 0;
}

static int check_amounts(const char *what, const struct placement_amounts *amounts,
                         struct error *err)
{
    for (enum placement_resource i = 0; i < PLACEMENT_RESOURCE_COUNT; i++) {
        if (amounts->of[i] > most[i]) {
            return error_set(err, ERROR_INVALID, "%s: %llu of %s is more than there can be (%llu)",
                             what, (unsigned long long)amounts->of[i], placement_resource_name(i),
                             (unsigned long long)most[i]);
        }
    }
    return 0;
}

static int check_sizes(const struct placement_node *node, struct error *err)
{
    int r = check_amounts("capacity", &node->capacity, err);
    if (r < 0) {
        return r;
    }
    for (enum placement_resource i = 0; i < PLACEMENT_RESOURCE_COUNT; i++) {
        if (node->reserved.of[i] > node->capacity.of[i]) {
            return error_set(err, ERROR_INVALID, "reserved %s is above its capacity",
                             placement_resource_name(i));
        }
        bool may_be_over = i == PLACEMENT_CPU_MILLI || i == PLACEMENT_MEMORY || i == PLACEMENT_DISK;
        uint32_t percent = node->overcommit[i];
        if (percent > (may_be_over ? OVERCOMMIT_MAX : 100)) {
            return error_set(err, ERROR_INVALID, "overcommit of %s: at most %d percent, not %u",
                             placement_resource_name(i), may_be_over ? OVERCOMMIT_MAX : 100,
                             percent);
        }
    }
    return 0;
}

static int check_numa(const struct placement_node *node, struct error *err)
{
    uint64_t cores = 0, memory = 0, huge_2m = 0, huge_1g = 0;
    if (node->numa_count > PLACEMENT_NUMA_MAX) {
        return error_set(err, ERROR_LIMIT, "a node has at most %d NUMA nodes", PLACEMENT_NUMA_MAX);
    }
    for (size_t i = 0; i < node->numa_count; i++) {
        cores += node->numa[i].cores;
        memory += node->numa[i].memory_bytes <= most[PLACEMENT_MEMORY] ? node->numa[i].memory_bytes
                                                                       : UINT64_MAX / 32;
        huge_2m += node->numa[i].huge_2m <= most[PLACEMENT_HUGE_2M] ? node->numa[i].huge_2m
                                                                    : UINT64_MAX / 32;
        huge_1g += node->numa[i].huge_1g <= most[PLACEMENT_HUGE_1G] ? node->numa[i].huge_1g
                                                                    : UINT64_MAX / 32;
    }
    if (cores > PLACEMENT_CORES_MAX || cores * 1000 > node->capacity.of[PLACEMENT_CPU_MILLI] ||
        memory > node->capacity.of[PLACEMENT_MEMORY] ||
        huge_2m > node->capacity.of[PLACEMENT_HUGE_2M] ||
        huge_1g > node->capacity.of[PLACEMENT_HUGE_1G]) {
        return error_set(err, ERROR_INVALID, "the NUMA nodes have more than the whole node");
    }
    return 0;
}

static int check_devices(const struct placement_node *node, struct error *err)
{
    if (node->device_count > PLACEMENT_DEVICE_KINDS_MAX) {
        return error_set(err, ERROR_LIMIT, "a node has at most %d kinds of devices",
                         PLACEMENT_DEVICE_KINDS_MAX);
    }
    for (size_t i = 0; i < node->device_count; i++) {
        const struct placement_device *device = &node->devices[i];
        int r = check_text("a device's class", device->class_name, true, err);
        r = r < 0 ? r : check_text("a device's model", device->model, false, err);
        if (r < 0) {
            return r;
        }
        if (device->count > PLACEMENT_DEVICES_MAX) {
            return error_set(err, ERROR_INVALID, "at most %d devices of one kind, not %u",
                             PLACEMENT_DEVICES_MAX, device->count);
        }
    }
    return 0;
}

static int check_attributes(const struct placement_node *node, struct error *err)
{
    if (node->attribute_count > PLACEMENT_ATTRIBUTES_MAX) {
        return error_set(err, ERROR_LIMIT, "a node has at most %d labels and attributes, not %zu",
                         PLACEMENT_ATTRIBUTES_MAX, node->attribute_count);
    }
    for (size_t i = 0; i < node->attribute_count; i++) {
        const char *name = node->attributes[i].name;
        bool is_label = text_starts_with(name, "label.");
        if (!is_label && !text_starts_with(name, "attr.")) {
            return error_set(err, ERROR_INVALID, "an attribute is label.NAME or attr.NAME");
        }
        int r = placement_check_name(strchr(name, '.') + 1, err);
        r = r < 0 ? r : placement_check_value(node->attributes[i].value, err);
        if (r < 0) {
            return r;
        }
    }
    if (node->taint_count > PLACEMENT_TAINTS_MAX) {
        return error_set(err, ERROR_LIMIT, "a node has at most %d taints, not %zu",
                         PLACEMENT_TAINTS_MAX, node->taint_count);
    }
    for (size_t i = 0; i < node->taint_count; i++) {
        int r = placement_check_name(node->taints[i].key, err);
        r = r < 0 ? r : placement_check_value(node->taints[i].value, err);
        if (r < 0) {
            return r;
        }
        if (node->taints[i].effect == PLACEMENT_ANY_EFFECT) {
            return error_set(err, ERROR_INVALID, "the taint %s has no effect", node->taints[i].key);
        }
    }
    return 0;
}

int check_node(const struct placement_node *node, struct error *err)
{
    int r = check_text("the node's id", node->id, true, err);
    r = r < 0 ? r : check_text("the node's name", node->name, true, err);
    r = r < 0 ? r : check_text("pool", node->pool, false, err);
    r = r < 0 ? r : check_text("region", node->region, false, err);
    r = r < 0 ? r : check_text("zone", node->zone, false, err);
    r = r < 0 ? r : check_text("rack", node->rack, false, err);
    r = r < 0 ? r : check_sizes(node, err);
    r = r < 0 ? r : check_numa(node, err);
    r = r < 0 ? r : check_devices(node, err);
    r = r < 0 ? r : check_attributes(node, err);
    if (r == 0 && node->port_first > node->port_last) {
        r = error_set(err, ERROR_INVALID, "the ports %u to %u are none", node->port_first,
                      node->port_last);
    }
    return r;
}

static int check_demand(const struct placement_demand *demand, struct error *err)
{
    int r = check_amounts("the request", &demand->amounts, err);
    if (r < 0) {
        return r;
    }
    if (demand->dedicated_cores > PLACEMENT_CORES_MAX) {
        return error_set(err, ERROR_INVALID, "at most %d dedicated cores", PLACEMENT_CORES_MAX);
    }
    if (demand->device_count > PLACEMENT_DEVICE_KINDS_MAX ||
        demand->port_count > PLACEMENT_PORTS_MAX || demand->any_ports > PLACEMENT_PORTS_MAX ||
        demand->port_count + demand->any_ports > PLACEMENT_PORTS_MAX) {
        return error_set(err, ERROR_LIMIT, "a request has at most %d ports and %d kinds of devices",
                         PLACEMENT_PORTS_MAX, PLACEMENT_DEVICE_KINDS_MAX);
    }
    for (size_t i = 0; i < demand->device_count; i++) {
        const struct placement_device_demand *device = &demand->devices[i];
        r = check_text("a device's class", device->class_name, true, err);
        if (r < 0) {
            return r;
        }
        if (device->count == 0 || device->count > PLACEMENT_DEVICES_MAX ||
            device->share > PLACEMENT_SHARE_WHOLE) {
            return error_set(err, ERROR_INVALID,
                             "devices are 1 to %d, and of each 1 to %d thousandths",
                             PLACEMENT_DEVICES_MAX, PLACEMENT_SHARE_WHOLE);
        }
        if (device->models != NULL && strlen(device->models) > PLACEMENT_VALUE_MAX) {
            return error_set(err, ERROR_INVALID, "the list of models is too long");
        }
    }
    for (size_t i = 0; i < demand->port_count; i++) {
        if (demand->ports[i] == 0) {
            return error_set(err, ERROR_INVALID, "0 is no port");
        }
        for (size_t k = 0; k < i; k++) {
            if (demand->ports[i] == demand->ports[k]) {
                return error_set(err, ERROR_INVALID, "the port %u is asked for twice",
                                 demand->ports[i]);
            }
        }
    }
    return 0;
}

int check_request(const struct placement_request *request, struct error *err)
{
    int r = check_text("the id", request->id, true, err);
    r = r < 0 ? r : check_text("the job", request->job, false, err);
    r = r < 0 ? r : check_text("the placement group", request->group.name, false, err);
    r = r < 0 ? r : check_text("the placement group's attribute", request->group.over, false, err);
    r = r < 0 ? r : check_demand(&request->demand, err);
    if (r < 0) {
        return r;
    }
    if (request->priority > PLACEMENT_PRIORITY_MAX) {
        return error_set(err, ERROR_INVALID, "a priority is 0 to %d, not %u",
                         PLACEMENT_PRIORITY_MAX, request->priority);
    }
    if (request->hint_count > PLACEMENT_HINTS_MAX || request->avoid_count > PLACEMENT_HINTS_MAX) {
        return error_set(err, ERROR_LIMIT, "at most %d hints and nodes to avoid",
                         PLACEMENT_HINTS_MAX);
    }
    if (request->talk_count > PLACEMENT_TALKS_MAX) {
        return error_set(err, ERROR_LIMIT, "at most %d others that it talks with",
                         PLACEMENT_TALKS_MAX);
    }
    return 0;
}
