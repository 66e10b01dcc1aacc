/* The cluster: what it is told of allocations, and what it can say of itself. */
#include <string.h>

#include "base/check.h"
#include "base/error.h"
#include "base/memory.h"

#include "engine/placement/parts.h"

struct placement_cluster *placement_cluster_new(void)
{
    struct placement_cluster *cluster = NEW(struct placement_cluster);
    list_init(&cluster->reservations);
    cluster->id_name = word_get(cluster, "node.id");
    cluster->name_name = word_get(cluster, "node.name");
    return cluster;
}

void placement_cluster_free(struct placement_cluster *cluster)
{
    if (cluster == NULL) {
        return;
    }
    struct error ignored;
    while (cluster->node_count > 0) {
        placement_cluster_remove_node(cluster, cluster->nodes[cluster->node_count - 1]->id->text,
                                      &ignored);
    }
    shapes_clear(cluster);
    habits_done(cluster);
    word_unref(cluster, cluster->id_name);
    word_unref(cluster, cluster->name_name);
    CHECK(cluster->allocations.count == 0 && cluster->words.count == 0);
    map_done(&cluster->words);
    map_done(&cluster->nodes_by_id);
    map_done(&cluster->nodes_by_name);
    map_done(&cluster->classes_by_key);
    map_done(&cluster->allocations);
    map_done(&cluster->holds);
    map_done(&cluster->jobs);
    map_done(&cluster->groups);
    map_done(&cluster->shapes);
    free(cluster->nodes);
    free(cluster->classes);
    free(cluster->choices);
    free(cluster);
}

/* ---- Allocations ---- */

static int check_grant(const struct placement_allocation *allocation, struct error *err)
{
    const struct placement_grant *grant = &allocation->grant;
    if (grant->port_count > PLACEMENT_PORTS_MAX || grant->core_count > PLACEMENT_CORES_MAX ||
        grant->device_count > (size_t)PLACEMENT_DEVICE_KINDS_MAX * PLACEMENT_DEVICES_MAX) {
        return error_set(err, ERROR_LIMIT, "%s was given more than there can be",
                         allocation->request.id);
    }
    return 0;
}

int placement_cluster_add(struct placement_cluster *cluster,
                          const struct placement_allocation *allocation, struct error *err)
{
    int r = check_request(&allocation->request, err);
    r = r < 0 ? r : check_grant(allocation, err);
    if (r < 0) {
        return r;
    }
    struct node *node = node_by_id(cluster, allocation->node);
    if (node == NULL) {
        return error_set(err, ERROR_NOT_FOUND, "node %s",
                         allocation->node != NULL ? allocation->node : "");
    }
    if (allocation_find(cluster, allocation->request.id) != NULL) {
        return error_set(err, ERROR_EXISTS, "%s is placed already", allocation->request.id);
    }
    if (cluster->allocation_count == PLACEMENT_ALLOCATIONS_MAX) {
        return error_set(err, ERROR_LIMIT, "a cluster runs at most %d", PLACEMENT_ALLOCATIONS_MAX);
    }
    struct allocation *hold = map_get(&cluster->holds, allocation->request.id);
    if (hold != NULL) {
        hold_end(cluster, hold->node);
    }
    struct allocation *added =
        allocation_new(cluster, &allocation->request, &allocation->grant, node);
    added->expires_ms = allocation->expires_ms;
    if (added->expires_ms != 0) {
        list_push_back(&cluster->reservations, &added->in_reservations);
    }
    map_set(&cluster->allocations, added->id, added);
    cluster->allocation_count++;
    allocation_attach(cluster, added);
    habit_learn(cluster, &added->request.demand);
    return 0;
}

static void change_of(const struct allocation *allocation, struct placement_change *ret_change)
{
    *ret_change = (struct placement_change){.wakes = PLACEMENT_WAKE_RESOURCES};
    snprintf(ret_change->node, sizeof(ret_change->node), "%s", allocation->node->id->text);
    if (allocation->job != NULL) {
        ret_change->wakes |= PLACEMENT_WAKE_DISTINCT;
        snprintf(ret_change->job, sizeof(ret_change->job), "%s", allocation->job->name);
    }
    if (allocation->group != NULL) {
        ret_change->wakes |= PLACEMENT_WAKE_GROUP;
        snprintf(ret_change->group, sizeof(ret_change->group), "%s", allocation->group->name);
    }
    if (allocation->expires_ms != 0) {
        ret_change->wakes |= PLACEMENT_WAKE_RESERVATION;
    }
}

static void forget(struct placement_cluster *cluster, struct allocation *allocation)
{
    if (allocation->is_attached) {
        allocation_detach(cluster, allocation);
    }
    map_remove(&cluster->allocations, allocation->id);
    cluster->allocation_count--;
    allocation_free(cluster, allocation);
}

int placement_cluster_remove(struct placement_cluster *cluster, const char *id,
                             struct placement_change *ret_change, struct error *err)
{
    struct allocation *allocation = allocation_find(cluster, id);
    if (allocation == NULL) {
        return error_set(err, ERROR_NOT_FOUND, "%s is not placed", id);
    }
    if (ret_change != NULL) {
        change_of(allocation, ret_change);
    }
    forget(cluster, allocation);
    return 0;
}

/* What has expired stops to count, and is kept until placement_cluster_expire() tells of it.
 * Returns when the next one does; 0: none. */
uint64_t reservations_lapse(struct placement_cluster *cluster, uint64_t now_ms)
{
    uint64_t next_ms = 0;
    LIST_EACH(link, &cluster->reservations)
    {
        struct allocation *allocation = LIST_ITEM(link, struct allocation, in_reservations);
        if (!allocation->is_attached) {
            continue;
        }
        if (allocation->expires_ms <= now_ms) {
            allocation_detach(cluster, allocation);
        } else if (next_ms == 0 || allocation->expires_ms < next_ms) {
            next_ms = allocation->expires_ms;
        }
    }
    return next_ms;
}

void placement_cluster_expire(struct placement_cluster *cluster, uint64_t now_ms,
                              void (*each)(const char *id, const struct placement_change *change,
                                           void *context),
                              void *context)
{
    reservations_lapse(cluster, now_ms);
    LIST_EACH(link, &cluster->reservations)
    {
        struct allocation *allocation = LIST_ITEM(link, struct allocation, in_reservations);
        if (allocation->is_attached) {
            continue;
        }
        struct placement_change change;
        change_of(allocation, &change);
        char id[PLACEMENT_ID_MAX + 1];
        snprintf(id, sizeof(id), "%s", allocation->id);
        forget(cluster, allocation);
        if (each != NULL) {
            each(id, &change, context);
        }
    }
}

/* ---- What there is ---- */

size_t placement_cluster_node_count(const struct placement_cluster *cluster)
{
    return cluster->node_count;
}

size_t placement_cluster_allocation_count(const struct placement_cluster *cluster)
{
    return cluster->allocation_count;
}

const char *placement_cluster_where(const struct placement_cluster *cluster, const char *id)
{
    const struct allocation *allocation = allocation_find(cluster, id);
    return allocation != NULL ? allocation->node->id->text : NULL;
}

static struct placement_usage usage_of(const struct node *node)
{
    return (struct placement_usage){
        .id = node->id->text,
        .name = node->name->text,
        .is_ready = node->is_ready,
        .is_eligible = node->is_eligible,
        .limit = node->class->limit,
        .used = node->used,
        .cores_dedicated = node->cores_dedicated,
        .devices_milli = node->class->devices,
        .devices_used_milli = node->devices_used,
        .allocation_count = node->allocation_count,
        .is_overcommitted = node->is_over,
    };
}

int placement_cluster_usage(const struct placement_cluster *cluster, const char *id,
                            struct placement_usage *ret_usage, struct error *err)
{
    const struct node *node = node_by_id(cluster, id);
    if (node == NULL) {
        return error_set(err, ERROR_NOT_FOUND, "node %s", id);
    }
    *ret_usage = usage_of(node);
    return 0;
}

void placement_cluster_each(const struct placement_cluster *cluster,
                            void (*visit)(const struct placement_usage *usage, void *context),
                            void *context)
{
    for (size_t i = 0; i < cluster->node_count; i++) {
        struct placement_usage usage = usage_of(cluster->nodes[i]);
        visit(&usage, context);
    }
}

void placement_cluster_each_at(const struct placement_cluster *cluster, const char *id,
                               void (*visit)(const char *id, uint32_t priority, void *context),
                               void *context)
{
    const struct node *node = node_by_id(cluster, id);
    if (node != NULL) {
        LIST_EACH(link, &node->allocations)
        {
            const struct allocation *allocation = LIST_ITEM(link, struct allocation, at_node);
            visit(allocation->id, allocation->request.priority, context);
        }
    }
}
