/*
 * Holds: a node is kept for one that waits, so that smaller ones that came later do not pass it for
 * ever (the reservation of EASY backfilling, for machines whose end nobody knows).
 *
 * Where: first the node at which the least has to leave.  When nothing leaves there for one turn,
 * what is left there is of the kind that stays; then where those that would have to leave are the
 * youngest, since who has come last is the likeliest to go soon.  A node that nobody else can be
 * tried for rests for a turn, so that a request that never fits freezes nothing for good.
 */
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/error.h"
#include "base/memory.h"

#include "engine/placement/parts.h"

enum {
    MILLION = 1000000,
    LACKS_PARTS = MILLION / 1000, /* the sums suffice, and what is free does not fit together */
    AT_NODE_MAX = 1024,
    POOLS_KNOWN_MAX = 16,
};

/* ---- Who is kept out ---- */

/* Does the one that holds come before the request? */
static bool is_before(const struct allocation *hold, const struct placement_request *request)
{
    uint64_t since_ms = request->since_ms != 0 ? request->since_ms : UINT64_MAX;
    if (request->priority != hold->request.priority) {
        return request->priority < hold->request.priority && since_ms > hold->request.since_ms;
    }
    return since_ms > hold->request.since_ms ||
        (since_ms == hold->request.since_ms && strcmp(request->id, hold->id) > 0);
}

static bool ports_meet(const struct placement_demand *a, const struct placement_demand *b)
{
    for (size_t i = 0; i < a->port_count; i++) {
        for (size_t k = 0; k < b->port_count; k++) {
            if (a->ports[i] == b->ports[k]) {
                return true;
            }
        }
    }
    return false;
}

static uint32_t devices_of(const struct placement_demand *demand)
{
    uint32_t milli = 0;
    for (size_t i = 0; i < demand->device_count; i++) {
        uint32_t share = demand->devices[i].share;
        milli += demand->devices[i].count * (share == 0 ? PLACEMENT_SHARE_WHOLE : share);
    }
    return milli;
}

static bool fit_together(const struct probe *probe, const struct node *node,
                         const struct allocation *hold)
{
    const struct class *class = node->class;
    uint32_t held_cores = hold->request.demand.dedicated_cores;
    for (size_t i = 0; i < PLACEMENT_RESOURCE_COUNT; i++) {
        bool is_cpu = i == PLACEMENT_CPU_MILLI;
        uint64_t need = probe->need.of[i] + (is_cpu ? cores_cost(class, probe->cores) : 0);
        uint64_t held = hold->charged.of[i] + (is_cpu ? cores_cost(class, held_cores) : 0);
        if (need > 0 && held > 0 && node->used.of[i] + held + need > class->limit.of[i]) {
            return false;
        }
    }
    uint32_t held_devices = devices_of(&hold->request.demand);
    if (probe->cores > 0 && held_cores > 0 && node->cores_free < probe->cores + held_cores) {
        return false;
    }
    if (probe->devices > 0 && held_devices > 0 &&
        node->devices_used + probe->devices + held_devices > class->devices) {
        return false;
    }
    return !ports_meet(&probe->request->demand, &hold->request.demand);
}

bool hold_refuses(const struct probe *probe, const struct node *node)
{
    return node->hold != NULL && is_before(node->hold, probe->request) &&
        !fit_together(probe, node, node->hold);
}

/* ---- Being told ---- */

void hold_end(struct placement_cluster *cluster, struct node *node)
{
    if (node->hold != NULL) {
        map_remove(&cluster->holds, node->hold->id);
        allocation_free(cluster, node->hold);
        node->hold = NULL;
    }
}

int placement_cluster_hold(struct placement_cluster *cluster,
                           const struct placement_request *request, const char *node_id,
                           struct placement_change *ret_change, struct error *err)
{
    static const struct placement_grant none = {.numa = -1};
    int r = check_request(request, err);
    struct node *node = node_by_id(cluster, node_id);
    *ret_change = (struct placement_change){0};
    if (r < 0) {
        return r;
    }
    if (node == NULL) {
        return error_set(err, ERROR_NOT_FOUND, "node %s", node_id);
    }
    placement_cluster_let_go(cluster, request->id, ret_change);
    if (node->hold != NULL) {
        return error_set(err, ERROR_CONFLICT, "node %s is held for %s", node->name->text,
                         node->hold->id);
    }
    node->hold = allocation_new(cluster, request, &none, node);
    map_set(&cluster->holds, node->hold->id, node->hold);
    return 0;
}

void placement_cluster_let_go(struct placement_cluster *cluster, const char *id,
                              struct placement_change *ret_change)
{
    struct allocation *hold = map_get(&cluster->holds, id);
    *ret_change = (struct placement_change){0};
    if (hold != NULL) {
        ret_change->wakes = PLACEMENT_WAKE_RESOURCES;
        snprintf(ret_change->node, sizeof(ret_change->node), "%s", hold->node->id->text);
        hold_end(cluster, hold->node);
    }
}

const char *placement_cluster_holds_at(const struct placement_cluster *cluster, const char *id)
{
    const struct allocation *hold = map_get(&cluster->holds, id);
    return hold != NULL ? hold->node->id->text : NULL;
}

const char *placement_cluster_held_for(const struct placement_cluster *cluster, const char *node_id)
{
    const struct node *node = node_by_id(cluster, node_id);
    return node != NULL && node->hold != NULL ? node->hold->id : NULL;
}

size_t placement_cluster_hold_count(const struct placement_cluster *cluster)
{
    return cluster->holds.count;
}

/* ---- How much has to leave ---- */

static bool could_be_there(const struct probe *probe, const struct node *node)
{
    return (node->hold == NULL || strcmp(node->hold->id, probe->request->id) == 0) &&
        filter_state(node).filter == PLACEMENT_PASSED &&
        filter_class(probe, node->class).filter == PLACEMENT_PASSED &&
        filter_rules(probe, node).filter == PLACEMENT_PASSED &&
        class_may_have_room(probe, node->class);
}

/* The largest share of what the node has, in millionths; 0: it fits. */
static uint32_t lacking_at(const struct probe *probe, const struct node *node)
{
    const struct class *class = node->class;
    uint32_t most = 0;
    for (size_t i = 0; i < PLACEMENT_RESOURCE_COUNT; i++) {
        uint64_t cores = i == PLACEMENT_CPU_MILLI ? cores_cost(class, probe->cores) : 0;
        uint64_t all = node->used.of[i] + probe->need.of[i] + cores, limit = class->limit.of[i];
        if (all > limit) {
            double share = (double)(all - limit) / ((double)limit + 1) * MILLION;
            uint32_t millionths = share < 1 ? 1 : share < UINT32_MAX ? (uint32_t)share : UINT32_MAX;
            most = millionths > most ? millionths : most;
        }
    }
    enum placement_filter lacking = PLACEMENT_PASSED;
    unsigned which = 0;
    if (most == 0) {
        grant_find(probe, node, NULL, &lacking, &which);
    }
    return lacking != PLACEMENT_PASSED ? LACKS_PARTS : most;
}

static int by_age(const void *a, const void *b)
{
    const struct allocation *x = *(struct allocation *const *)a;
    const struct allocation *y = *(struct allocation *const *)b;
    return x->serial != y->serial ? (x->serial > y->serial ? -1 : 1) : 0;
}

/* Those that came last go first: which one is the oldest that has to?  0: nobody's going helps. */
static uint64_t oldest_to_leave(const struct probe *probe, struct node *node)
{
    struct allocation *items[AT_NODE_MAX];
    size_t count = 0, gone = 0;
    LIST_EACH(link, &node->allocations)
    {
        if (count < AT_NODE_MAX) {
            items[count++] = LIST_ITEM(link, struct allocation, at_node);
        }
    }
    if (count > 1) {
        qsort(items, count, sizeof(struct allocation *), by_age);
    }
    while (gone < count && lacking_at(probe, node) > 0) {
        node_discharge(node, items[gone++]);
    }
    bool fits = lacking_at(probe, node) == 0;
    for (size_t i = gone; i > 0; i--) {
        node_charge(node, items[i - 1]);
    }
    return !fits ? 0 : gone > 0 ? items[gone - 1]->serial : UINT64_MAX;
}

/* ---- Where ---- */

struct finding {
    const struct probe *probe;
    const struct placement_hold_options *options;
    const char *but; /* id of a node, or NULL */
    bool is_by_age;
};

struct counting {
    const struct finding *finding;
    const struct word *pool;
    size_t held;
};

static void count_hold(const char *id, void *value, void *context)
{
    struct counting *counting = context;
    const struct allocation *hold = value;
    counting->held += hold->node->class->pool == counting->pool &&
        strcmp(id, counting->finding->probe->request->id) != 0;
}

/* Are as many held of the pool as may be?  Its own one does not count. */
static bool pool_is_full(const struct finding *finding, const struct word *pool)
{
    const struct placement_cluster *cluster = finding->probe->cluster;
    struct counting counting = {.finding = finding, .pool = pool};
    size_t nodes = 0;
    if (cluster->holds.count == 0) {
        return finding->options->holds_max == 0;
    }
    map_each(&cluster->holds, count_hold, &counting);
    for (size_t i = 0; i < cluster->class_room; i++) {
        const struct class *class = cluster->classes[i];
        nodes += class != NULL && class->pool == pool ? class->node_count : 0;
    }
    return counting.held >= finding->options->holds_max || counting.held >= (nodes + 1) / 2;
}

/* Asked of node after node: those of a pool mostly follow each other, and pools are few. */
struct pools {
    const struct word *known[POOLS_KNOWN_MAX];
    bool is_full[POOLS_KNOWN_MAX];
    size_t count;
};

static bool pools_are_full(const struct finding *finding, const struct word *pool,
                           struct pools *pools)
{
    size_t at = 0;
    while (at < pools->count && pools->known[at] != pool) {
        at++;
    }
    if (at == pools->count) {
        at = at < POOLS_KNOWN_MAX ? at : 0;
        pools->count = at + 1 > pools->count ? at + 1 : pools->count;
        pools->known[at] = pool;
        pools->is_full[at] = pool_is_full(finding, pool);
    }
    return pools->is_full[at];
}

/* What is better is less. */
static uint64_t weigh(const struct finding *finding, struct node *node)
{
    return finding->is_by_age ? UINT64_MAX - oldest_to_leave(finding->probe, node)
                              : lacking_at(finding->probe, node);
}

static struct node *find_node(const struct finding *finding)
{
    struct placement_cluster *cluster = finding->probe->cluster;
    struct pools pools = {.count = 0};
    struct node *best = NULL;
    uint64_t least = UINT64_MAX;
    for (size_t i = 0; i < cluster->node_count; i++) {
        struct node *node = cluster->nodes[i];
        if ((finding->but != NULL && strcmp(node->id->text, finding->but) == 0) ||
            pools_are_full(finding, node->class->pool, &pools) ||
            !could_be_there(finding->probe, node)) {
            continue;
        }
        uint64_t weight = weigh(finding, node);
        bool is_better = weight < least ||
            (weight == least && best != NULL && strcmp(node->name->text, best->name->text) < 0);
        if (is_better && weight < UINT64_MAX) {
            best = node;
            least = weight;
        }
    }
    return best;
}

static void take(const struct probe *probe, const struct node *node, uint64_t now_ms,
                 struct placement_hold *hold)
{
    hold->node[0] = 0;
    if (node != NULL) {
        snprintf(hold->node, sizeof(hold->node), "%s", node->id->text);
    }
    hold->lacking = node != NULL ? lacking_at(probe, node) : 0;
    hold->moved_ms = now_ms;
}

/* It has a node, and may keep it; false: another one is to be found. */
static bool keep(const struct finding *finding, const struct node *node, uint64_t now_ms,
                 struct placement_hold *hold)
{
    uint32_t lacking = lacking_at(finding->probe, node);
    bool has_left = lacking < hold->lacking;
    if (hold->turns == 0) { /* something better may have become free */
        const struct node *best = find_node(finding);
        if (best != NULL && best != node && lacking_at(finding->probe, best) < lacking) {
            take(finding->probe, best, now_ms, hold);
            return true;
        }
    }
    if (has_left) {
        hold->moved_ms = now_ms;
    }
    hold->lacking = lacking;
    return has_left || now_ms < hold->moved_ms + finding->options->after_ms;
}

static void step(struct finding *finding, uint64_t now_ms, struct placement_hold *hold)
{
    struct node *node = node_by_id(finding->probe->cluster, hold->node);
    bool has_node = node != NULL && could_be_there(finding->probe, node);
    bool rests = hold->node[0] == 0 && hold->turns > 0 &&
        now_ms < hold->moved_ms + finding->options->after_ms;
    if (rests || (has_node && keep(finding, node, now_ms, hold))) {
        return;
    }
    if (has_node) { /* nothing has left for a turn */
        hold->turns++;
        finding->but = node->id->text;
    }
    finding->is_by_age = hold->turns > 0;
    node = find_node(finding);
    if (node != NULL || has_node || hold->node[0] != 0) {
        take(finding->probe, node, now_ms, hold);
    }
}

int placement_hold_step(struct placement_cluster *cluster, const struct placement_request *request,
                        const struct placement_hold_options *options, uint64_t now_ms,
                        struct placement_hold *hold, struct error *err)
{
    struct probe probe;
    struct placement_hold before = *hold;
    bool is_due = options->after_ms != 0 && request->since_ms != 0 &&
        now_ms >= request->since_ms + options->after_ms;
    if (!is_due) {
        *hold = (struct placement_hold){0};
        return before.node[0] != 0 || before.turns != 0;
    }
    int r = probe_init(&probe, cluster, request, NULL, err);
    if (r < 0) {
        return r;
    }
    struct finding finding = {.probe = &probe, .options = options};
    if (hold->moved_ms > now_ms) { /* by a clock that was set back since: its turn begins now */
        hold->moved_ms = now_ms;
    }
    step(&finding, now_ms, hold);
    probe_done(&probe);
    return strcmp(hold->node, before.node) != 0 || hold->lacking != before.lacking ||
        hold->moved_ms != before.moved_ms || hold->turns != before.turns;
}
