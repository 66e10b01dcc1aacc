/* Allocations: copies of what we were told, and whether they count. */
#include <string.h>

#include "base/check.h"
#include "base/memory.h"

#include "engine/placement/parts.h"

static void *copy_of(const void *items, size_t count, size_t size)
{
    void *copy = NULL;
    if (count > 0) {
        copy = memory_new(count, size);
        memcpy(copy, items, count * size);
    }
    return copy;
}

void grant_copy(struct placement_grant *to, const struct placement_grant *from)
{
    *to = *from;
    to->ports = copy_of(from->ports, from->port_count, sizeof(*from->ports));
    to->cores = copy_of(from->cores, from->core_count, sizeof(*from->cores));
    to->devices = copy_of(from->devices, from->device_count, sizeof(*from->devices));
}

static void free_const(const void *memory)
{
    free((void *)(uintptr_t)memory);
}

void grant_done(struct placement_grant *grant)
{
    free_const(grant->ports);
    free_const(grant->cores);
    free_const(grant->devices);
    *grant = (struct placement_grant){.numa = -1};
}

static void demand_copy(struct placement_demand *to, const struct placement_demand *from)
{
    *to = *from;
    to->ports = copy_of(from->ports, from->port_count, sizeof(*from->ports));
    struct placement_device_demand *devices =
        copy_of(from->devices, from->device_count, sizeof(*from->devices));
    for (size_t i = 0; i < from->device_count; i++) {
        devices[i].class_name = memory_copy_string(from->devices[i].class_name);
        devices[i].models =
            memory_copy_string(from->devices[i].models != NULL ? from->devices[i].models : "");
    }
    to->devices = devices;
}

static void demand_done(struct placement_demand *demand)
{
    for (size_t i = 0; i < demand->device_count; i++) {
        free_const(demand->devices[i].class_name);
        free_const(demand->devices[i].models);
    }
    free_const(demand->devices);
    free_const(demand->ports);
}

static void copy_request(struct allocation *allocation, const struct placement_request *request)
{
    struct placement_request *copy = &allocation->request;
    *copy = *request;
    copy->id = allocation->id;
    copy->rules = placement_rules_ref(request->rules);
    demand_copy(&copy->demand, &request->demand);
    copy->job = allocation->job != NULL ? allocation->job->name : NULL;
    copy->group.name = allocation->group != NULL ? allocation->group->name : NULL;
    copy->group.over = allocation->over != NULL ? allocation->over->text : NULL;
    copy->hints = NULL;
    copy->hint_count = 0;
    talks_copy(copy, request->talks, request->talk_count);
    copy->avoid = NULL;
    copy->avoid_count = 0;
    copy->reservation = NULL;
}

struct allocation *allocation_new(struct placement_cluster *cluster,
                                  const struct placement_request *request,
                                  const struct placement_grant *grant, struct node *node)
{
    struct allocation *allocation = NEW(struct allocation);
    allocation->id = memory_copy_string(request->id);
    allocation->node = node;
    allocation->serial = ++cluster->allocation_serial;
    allocation->job = crowd_get(&cluster->jobs, request->job);
    allocation->group = crowd_get(&cluster->groups, request->group.name);
    allocation->in_job.of = allocation->in_group.of = allocation;
    const char *over = request->group.over;
    allocation->over = over != NULL && over[0] != 0 ? word_get(cluster, over) : NULL;
    copy_request(allocation, request);
    grant_copy(&allocation->grant, grant);
    allocation->charged = request->demand.amounts;
    allocation->charged.of[PLACEMENT_SLOTS]++;
    return allocation;
}

void allocation_free(struct placement_cluster *cluster, struct allocation *allocation)
{
    CHECK(!allocation->is_attached);
    list_remove(&allocation->in_reservations);
    crowd_unref(cluster, &cluster->jobs, allocation->job);
    crowd_unref(cluster, &cluster->groups, allocation->group);
    word_unref(cluster, allocation->over);
    placement_rules_unref(allocation->request.rules);
    demand_done(&allocation->request.demand);
    talks_done(&allocation->request);
    grant_done(&allocation->grant);
    free(allocation->id);
    free(allocation);
}

struct allocation *allocation_find(const struct placement_cluster *cluster, const char *id)
{
    return id != NULL ? map_get(&cluster->allocations, id) : NULL;
}

void allocation_attach(struct placement_cluster *cluster, struct allocation *allocation)
{
    CHECK(!allocation->is_attached);
    struct node *node = allocation->node;
    allocation->is_attached = true;
    list_push_back(&node->allocations, &allocation->at_node);
    node->allocation_count++;
    node_charge(node, allocation);
    node_order(node);
    if (allocation->request.is_displaceable && allocation->request.priority < node->lowest) {
        node->lowest = (uint8_t)allocation->request.priority;
    }
    crowd_join(cluster, allocation->job, &allocation->in_job);
    crowd_join(cluster, allocation->group, &allocation->in_group);
}

static uint8_t lowest_at(const struct node *node)
{
    uint8_t lowest = UINT8_MAX;
    LIST_EACH(link, &node->allocations)
    {
        const struct allocation *allocation = LIST_ITEM(link, struct allocation, at_node);
        if (allocation->request.is_displaceable && allocation->request.priority < lowest) {
            lowest = (uint8_t)allocation->request.priority;
        }
    }
    return lowest;
}

void allocation_detach(struct placement_cluster *cluster, struct allocation *allocation)
{
    CHECK(allocation->is_attached);
    struct node *node = allocation->node;
    crowd_leave(cluster, allocation->job, &allocation->in_job);
    crowd_leave(cluster, allocation->group, &allocation->in_group);
    list_remove(&allocation->at_node);
    node->allocation_count--;
    node_discharge(node, allocation);
    node_order(node);
    if (allocation->request.is_displaceable && allocation->request.priority == node->lowest) {
        node->lowest = lowest_at(node);
    }
    allocation->is_attached = false;
}
