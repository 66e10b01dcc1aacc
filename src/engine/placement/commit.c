/* Decisions against a newer cluster: do they still hold, and what of them is done. */
#include <string.h>

#include "base/check.h"
#include "base/error.h"

#include "engine/placement/parts.h"

static bool devices_hold(const struct probe *probe, const struct node *node,
                         const struct placement_grant *grant)
{
    for (size_t i = 0; i < grant->device_count; i++) {
        const struct placement_grant_device *device = &grant->devices[i];
        if (device->demand >= probe->want_count || device->kind >= node->kind_count) {
            return false;
        }
        const struct kind *kind = &node->kinds[device->kind];
        uint32_t share = probe->wants[device->demand].share;
        if (kind->class_name != probe->wants[device->demand].class_name ||
            device->index >= kind->count ||
            kind->used_of[device->index] + share > PLACEMENT_SHARE_WHOLE) {
            return false;
        }
    }
    return true;
}

bool grant_holds(const struct probe *probe, const struct node *node,
                 const struct placement_grant *grant)
{
    for (size_t i = 0; i < grant->port_count; i++) {
        if (node_has_port(node, grant->ports[i])) {
            return false;
        }
    }
    for (size_t i = 0; i < grant->core_count; i++) {
        uint32_t core = grant->cores[i];
        if (core >= node->class->core_count || ((node->core_used[core / 64] >> (core % 64)) & 1)) {
            return false;
        }
    }
    if (grant->numa >= 0) {
        if ((size_t)grant->numa >= node->numa_count) {
            return false;
        }
        const struct numa *numa = &node->numa[grant->numa];
        const uint64_t *need = probe->need.of;
        if (numa->memory < numa->memory_used + need[PLACEMENT_MEMORY] ||
            numa->huge_2m < numa->huge_2m_used + need[PLACEMENT_HUGE_2M] ||
            numa->huge_1g < numa->huge_1g_used + need[PLACEMENT_HUGE_1G]) {
            return false;
        }
    }
    return devices_hold(probe, node, grant);
}

/* The allocations that end for the decision, and are still there: victims and the reservation. */
static size_t find_ending(struct placement_cluster *cluster,
                          const struct placement_request *request,
                          const struct placement_decision *decision,
                          struct allocation *ret_ending[PLACEMENT_VICTIMS_MAX + 1])
{
    size_t count = 0;
    for (size_t i = 0; i < decision->victim_count && i < PLACEMENT_VICTIMS_MAX; i++) {
        struct allocation *victim = allocation_find(cluster, decision->victims[i].id);
        if (victim != NULL && victim->is_attached) {
            ret_ending[count++] = victim;
        }
    }
    struct allocation *reservation =
        decision->takes_reservation ? allocation_find(cluster, request->reservation) : NULL;
    if (reservation != NULL && reservation->is_attached && reservation->expires_ms != 0) {
        ret_ending[count++] = reservation;
    }
    return count;
}

static int check_node_still(struct placement_cluster *cluster,
                            const struct placement_request *request,
                            const struct placement_decision *decision, const struct node *node,
                            struct error *err)
{
    struct probe probe;
    int r = probe_init(&probe, cluster, request, NULL, err);
    if (r < 0) {
        return r;
    }
    char reason[PLACEMENT_REASON_MAX];
    struct refusal refusal = filter_node(&probe, node);
    if (refusal.filter != PLACEMENT_PASSED) {
        refusal_text(&probe, node, refusal, reason);
        r = error_set(err, ERROR_CONFLICT, "node %s has changed: %s", node->name->text, reason);
    } else if (!grant_holds(&probe, node, &decision->grant)) {
        r = error_set(err, ERROR_CONFLICT,
                      "node %s has changed: a port, core or device was given to another",
                      node->name->text);
    }
    probe_done(&probe);
    return r;
}

int placement_check(struct placement_cluster *cluster, const struct placement_request *request,
                    const struct placement_decision *decision, uint64_t now_ms, struct error *err)
{
    CHECK(decision->is_placed);
    reservations_lapse(cluster, now_ms);
    const struct node *node = node_by_id(cluster, decision->node);
    if (node == NULL) {
        return error_set(err, ERROR_CONFLICT, "node %s is gone", decision->node_name);
    }
    if (allocation_find(cluster, request->id) != NULL) {
        return error_set(err, ERROR_CONFLICT, "%s was placed meanwhile", request->id);
    }
    struct allocation *ending[PLACEMENT_VICTIMS_MAX + 1];
    size_t count = find_ending(cluster, request, decision, ending);
    for (size_t i = 0; i < count; i++) {
        allocation_detach(cluster, ending[i]);
    }
    int r = check_node_still(cluster, request, decision, node, err);
    for (size_t i = count; i > 0; i--) {
        allocation_attach(cluster, ending[i - 1]);
    }
    return r;
}

int placement_reserve(struct placement_cluster *cluster, const struct placement_request *request,
                      const struct placement_decision *decision, uint64_t now_ms,
                      uint64_t expires_ms, struct error *err)
{
    int r = placement_check(cluster, request, decision, now_ms, err);
    if (r < 0) {
        return r;
    }
    struct allocation *ending[PLACEMENT_VICTIMS_MAX + 1];
    size_t count = find_ending(cluster, request, decision, ending);
    for (size_t i = 0; i < count; i++) {
        r = placement_cluster_remove(cluster, ending[i]->id, NULL, err);
        CHECK(r == 0);
    }
    struct placement_allocation allocation = {
        .request = *request,
        .node = decision->node,
        .grant = decision->grant,
        .expires_ms = expires_ms,
    };
    return placement_cluster_add(cluster, &allocation, err);
}

int placement_commit(struct placement_cluster *cluster, const struct placement_request *request,
                     const struct placement_decision *decision, uint64_t now_ms, struct error *err)
{
    return placement_reserve(cluster, request, decision, now_ms, 0, err);
}

/* ---- Cores of what is there ---- */

static int find_cores(struct placement_cluster *cluster, struct allocation *allocation,
                      struct error *err)
{
    struct probe probe;
    struct placement_grant grant = {.numa = -1};
    int r = probe_init(&probe, cluster, &allocation->request, NULL, err);
    if (r < 0) {
        return r;
    }
    bool found = grant_cores(&probe, allocation->node, &grant);
    probe_done(&probe);
    if (!found) {
        return error_set(err, ERROR_LIMIT, "node %s has no %u cores free",
                         allocation->node->name->text, allocation->request.demand.dedicated_cores);
    }
    free((void *)(uintptr_t)allocation->grant.cores);
    allocation->grant.cores = grant.cores;
    allocation->grant.core_count = grant.core_count;
    allocation->grant.numa = grant.numa;
    return 0;
}

int placement_cluster_give_cores(struct placement_cluster *cluster, const char *id,
                                 const uint16_t **ret_cores, size_t *ret_count, struct error *err)
{
    struct allocation *allocation = allocation_find(cluster, id);
    int r = 0;
    if (allocation == NULL || !allocation->is_attached) {
        return error_set(err, ERROR_NOT_FOUND, "%s is not placed", id);
    }
    if (allocation->grant.core_count != allocation->request.demand.dedicated_cores) {
        allocation_detach(cluster, allocation);
        r = find_cores(cluster, allocation, err);
        allocation_attach(cluster, allocation);
    }
    if (r == 0) {
        *ret_cores = allocation->grant.cores;
        *ret_count = allocation->grant.core_count;
    }
    return r;
}

/* ---- What can help ---- */

static bool node_helps(struct placement_cluster *cluster, const struct placement_request *request,
                       const struct node *node)
{
    struct probe probe;
    struct error ignored;
    if (probe_init(&probe, cluster, request, NULL, &ignored) < 0) {
        return false;
    }
    struct refusal refusal = filter_node(&probe, node);
    bool may_displace = request->may_displace && node->lowest < request->priority &&
        class_may_have_room(&probe, node->class);
    probe_done(&probe);
    return refusal.filter == PLACEMENT_PASSED ||
        (refusal.filter >= PLACEMENT_RESOURCE && may_displace);
}

bool placement_helps(struct placement_cluster *cluster, const struct placement_request *request,
                     const struct placement_decision *blocked,
                     const struct placement_change *change)
{
    uint32_t wakes = change->wakes & blocked->wakes;
    const char *job = request->job != NULL ? request->job : "";
    const char *group = request->group.name != NULL ? request->group.name : "";
    if ((wakes & PLACEMENT_WAKE_DISTINCT) != 0 && job[0] != 0 &&
        (change->job[0] == 0 || strcmp(change->job, job) == 0)) {
        return true;
    }
    if ((wakes & PLACEMENT_WAKE_GROUP) != 0 && group[0] != 0 &&
        (change->group[0] == 0 || strcmp(change->group, group) == 0)) {
        return true;
    }
    const struct node *node = node_by_id(cluster, change->node);
    uint32_t at_node = wakes & ~(uint32_t)(PLACEMENT_WAKE_DISTINCT | PLACEMENT_WAKE_GROUP);
    return at_node != 0 && node != NULL && node_helps(cluster, request, node);
}
