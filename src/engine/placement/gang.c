/*
 * Gangs: each member is decided in a cluster where the ones before it are placed, the largest
 * first; then all of that is taken back.
 */
#include <string.h>

#include "base/check.h"
#include "base/error.h"
#include "base/memory.h"

#include "engine/placement/parts.h"

struct member_order {
    size_t index;
    double size;
};

struct gang {
    struct placement_cluster *cluster;
    struct allocation **tentative; /* placed for now */
    size_t tentative_count;
    struct allocation **ending; /* victims and reservations, away for now */
    size_t ending_count;
};

static int largest_first(const void *left, const void *right)
{
    const struct member_order *a = left, *b = right;
    if (a->size != b->size) {
        return a->size > b->size ? -1 : 1;
    }
    return a->index < b->index ? -1 : 1;
}

/* Devices before all, as they are the scarcest; then memory. */
static double size_of(const struct placement_request *request)
{
    double devices = 0;
    for (size_t i = 0; i < request->demand.device_count; i++) {
        devices += request->demand.devices[i].count;
    }
    return devices * 1e18 + (double)request->demand.amounts.of[PLACEMENT_MEMORY] +
        1e6 * (double)request->demand.amounts.of[PLACEMENT_CPU_MILLI] +
        1e9 * request->demand.dedicated_cores;
}

static void end_for_now(struct gang *gang, const char *id)
{
    struct allocation *allocation = allocation_find(gang->cluster, id);
    CHECK(allocation != NULL);
    allocation_detach(gang->cluster, allocation);
    gang->ending[gang->ending_count++] = allocation;
}

static void place_for_now(struct gang *gang, const struct placement_request *request,
                          const struct placement_decision *decision)
{
    for (size_t i = 0; i < decision->victim_count; i++) {
        end_for_now(gang, decision->victims[i].id);
    }
    if (decision->takes_reservation) {
        end_for_now(gang, request->reservation);
    }
    struct placement_request copy = *request;
    copy.is_displaceable = false; /* by its own gang */
    struct node *node = node_by_id(gang->cluster, decision->node);
    struct allocation *allocation = allocation_new(gang->cluster, &copy, &decision->grant, node);
    allocation_attach(gang->cluster, allocation);
    gang->tentative[gang->tentative_count++] = allocation;
}

static void take_back(struct gang *gang)
{
    while (gang->tentative_count > 0) {
        struct allocation *allocation = gang->tentative[--gang->tentative_count];
        allocation_detach(gang->cluster, allocation);
        allocation_free(gang->cluster, allocation);
    }
    while (gang->ending_count > 0) {
        allocation_attach(gang->cluster, gang->ending[--gang->ending_count]);
    }
}

static int run(struct gang *gang, const struct placement_request *requests,
               const struct member_order *order, size_t count,
               const struct placement_options *options, uint64_t now_ms,
               struct placement_decision *decisions, size_t *ret_failed, struct error *err)
{
    *ret_failed = SIZE_MAX;
    for (size_t i = 0; i < count; i++) {
        size_t index = order[i].index;
        int r =
            decide_one(gang->cluster, &requests[index], options, now_ms, &decisions[index], err);
        if (r < 0) {
            return error_wrap(err, "%s", requests[index].id);
        }
        if (!decisions[index].is_placed) {
            *ret_failed = index;
            return 0;
        }
        place_for_now(gang, &requests[index], &decisions[index]);
    }
    return 0;
}

/* None is placed; the others wait for what the one waits for. */
static void fail_all(const struct placement_request *requests, size_t count, size_t failed,
                     struct placement_decision *decisions)
{
    for (size_t i = 0; i < count; i++) {
        if (i == failed) {
            continue;
        }
        placement_decision_done(&decisions[i]);
        decisions[i] = (struct placement_decision){
            .grant.numa = -1,
            .wakes = decisions[failed].wakes,
            .wake_ms = decisions[failed].wake_ms,
        };
        snprintf(decisions[i].reason, sizeof(decisions[i].reason),
                 "all or none, and %.40s found no place: %.120s", requests[failed].id,
                 decisions[failed].reason);
    }
}

static int check_ids(const struct placement_request *requests, size_t count, struct error *err)
{
    struct map seen = {0};
    int r = 0;
    for (size_t i = 0; i < count && r == 0; i++) {
        static char mark;
        if (requests[i].id != NULL && map_set(&seen, requests[i].id, &mark) != NULL) {
            r = error_set(err, ERROR_INVALID, "%s is twice in the gang", requests[i].id);
        }
    }
    map_done(&seen);
    return r;
}

int placement_decide_gang(struct placement_cluster *cluster,
                          const struct placement_request *requests, size_t count,
                          const struct placement_options *options, uint64_t now_ms,
                          struct placement_decision *ret_decisions, struct error *err)
{
    int r = check_options(options, err);
    if (r == 0 && (count == 0 || count > PLACEMENT_GANG_MAX)) {
        r = error_set(err, ERROR_LIMIT, "a gang has 1 to %d members", PLACEMENT_GANG_MAX);
    }
    r = r < 0 ? r : check_ids(requests, count, err);
    if (r < 0) {
        return r;
    }
    struct gang gang = {
        .cluster = cluster,
        .tentative = memory_new(count, sizeof(struct allocation *)),
        .ending = memory_new(count * (PLACEMENT_VICTIMS_MAX + 1), sizeof(struct allocation *)),
    };
    struct member_order *order = memory_new(count, sizeof(*order));
    for (size_t i = 0; i < count; i++) {
        order[i] = (struct member_order){i, size_of(&requests[i])};
        ret_decisions[i] = (struct placement_decision){.grant.numa = -1};
    }
    qsort(order, count, sizeof(*order), largest_first);
    size_t failed;
    r = run(&gang, requests, order, count, options, now_ms, ret_decisions, &failed, err);
    take_back(&gang);
    if (r < 0) {
        for (size_t i = 0; i < count; i++) {
            placement_decision_done(&ret_decisions[i]);
        }
    } else if (failed != SIZE_MAX) {
        fail_all(requests, count, failed, ret_decisions);
    }
    free(order);
    free(gang.tentative);
    free(gang.ending);
    return r;
}
