/*
 * Preemption: who has to go, so that the request has room.
 *
 * At a node, all that may be displaced is taken away; where that makes room, as much as possible is
 * put back, the most important first.  What is left out is a set of which none can be spared, and
 * its highest priority is as low as it can be.  If one alone would do, one alone it is.  Of all
 * nodes that were looked at (DISPLACE_FOUND_MAX) the one is taken whose victims are least
 * important, then fewest, then smallest.
 */
#include <string.h>

#include "base/check.h"
#include "base/memory.h"

#include "engine/placement/parts.h"

enum { AT_NODE_MAX = 1024 };

struct cost {
    uint32_t priority; /* the highest among the victims */
    size_t count;
    uint64_t memory;
};

struct victims {
    struct allocation *items[PLACEMENT_VICTIMS_MAX];
    size_t count;
    struct cost cost;
};

static bool is_cheaper(const struct cost *a, const struct cost *b)
{
    if (a->priority != b->priority) {
        return a->priority < b->priority;
    }
    return a->count != b->count ? a->count < b->count : a->memory < b->memory;
}

/* The most important first; of equals the larger, as it is the harder one to start again. */
static int by_importance(const void *left, const void *right)
{
    const struct allocation *a = *(struct allocation *const *)left;
    const struct allocation *b = *(struct allocation *const *)right;
    if (a->request.priority != b->request.priority) {
        return a->request.priority > b->request.priority ? -1 : 1;
    }
    uint64_t a_memory = a->charged.of[PLACEMENT_MEMORY];
    uint64_t b_memory = b->charged.of[PLACEMENT_MEMORY];
    if (a_memory != b_memory) {
        return a_memory > b_memory ? -1 : 1;
    }
    return strcmp(a->id, b->id);
}

static size_t gather(const struct probe *probe, const struct node *node,
                     struct allocation **ret_items)
{
    size_t count = 0;
    LIST_EACH(link, &node->allocations)
    {
        struct allocation *allocation = LIST_ITEM(link, struct allocation, at_node);
        if (allocation->request.is_displaceable && count < AT_NODE_MAX &&
            allocation->request.priority + probe->options->priority_gap <=
                probe->request->priority) {
            ret_items[count++] = allocation;
        }
    }
    if (count > 1) {
        qsort(ret_items, count, sizeof(struct allocation *), by_importance);
    }
    return count;
}

static bool has_room(const struct probe *probe, const struct node *node)
{
    return filter_room(probe, node).filter == PLACEMENT_PASSED;
}

/* The one that suffices alone, no more important than `priority`; the least important first. */
static struct allocation *find_single(const struct probe *probe, struct node *node,
                                      struct allocation *const *items, size_t count,
                                      uint32_t priority)
{
    for (size_t i = count; i > 0; i--) {
        struct allocation *one = items[i - 1];
        if (one->request.priority > priority) {
            return NULL;
        }
        node_discharge(node, one);
        bool suffices = has_room(probe, node);
        node_charge(node, one);
        if (suffices) {
            return one;
        }
    }
    return NULL;
}

static void add(struct victims *victims, struct allocation *allocation)
{
    CHECK(victims->count < PLACEMENT_VICTIMS_MAX);
    victims->items[victims->count++] = allocation;
    if (allocation->request.priority > victims->cost.priority) {
        victims->cost.priority = allocation->request.priority;
    }
    victims->cost.count++;
    victims->cost.memory += allocation->charged.of[PLACEMENT_MEMORY];
}

/* Which of the items have to go; the node is as before afterwards.  0: nothing helps. */
static size_t mark_victims(const struct probe *probe, struct node *node,
                           struct allocation *const *items, size_t count, bool *ret_goes)
{
    size_t going = 0;
    for (size_t i = 0; i < count; i++) {
        node_discharge(node, items[i]);
    }
    bool is_possible = has_room(probe, node);
    for (size_t i = 0; i < count; i++) {
        node_charge(node, items[i]);
        ret_goes[i] = is_possible && !has_room(probe, node);
        if (ret_goes[i]) {
            node_discharge(node, items[i]);
            going++;
        }
    }
    for (size_t i = 0; i < count; i++) {
        if (ret_goes[i]) {
            node_charge(node, items[i]);
        }
    }
    return going;
}

/* False: no set within the budget makes room. */
static bool find_victims(const struct probe *probe, struct node *node, struct victims *ret_victims)
{
    struct allocation *items[AT_NODE_MAX];
    bool goes[AT_NODE_MAX];
    size_t count = gather(probe, node, items);
    size_t going = mark_victims(probe, node, items, count, goes);
    struct victims victims = {.count = 0};
    uint32_t priority = 0;
    for (size_t i = 0; i < count; i++) {
        if (goes[i] && items[i]->request.priority > priority) {
            priority = items[i]->request.priority;
        }
    }
    struct allocation *single = going > 1 ? find_single(probe, node, items, count, priority) : NULL;
    if (single != NULL) {
        add(&victims, single);
    } else if (going <= PLACEMENT_VICTIMS_MAX) {
        for (size_t i = 0; i < count; i++) {
            if (goes[i]) {
                add(&victims, items[i]);
            }
        }
    }
    *ret_victims = victims;
    return victims.count > 0 && victims.count <= probe->options->displaced_max;
}

static void tell(const struct probe *probe, const struct node *node, const struct victims *victims,
                 struct placement_decision *decision)
{
    decision->victims = memory_new(victims->count, sizeof(*decision->victims));
    decision->victim_count = victims->count;
    for (size_t i = 0; i < victims->count; i++) {
        const struct allocation *allocation = victims->items[i];
        struct placement_victim *victim = &decision->victims[i];
        victim->priority = allocation->request.priority;
        snprintf(victim->id, sizeof(victim->id), "%s", allocation->id);
        snprintf(victim->reason, sizeof(victim->reason),
                 "makes room at %.40s for %.64s of priority %u; its own is %u", node->name->text,
                 probe->request->id, probe->request->priority, victim->priority);
    }
    snprintf(decision->reason, sizeof(decision->reason),
             "no node has room; at %.64s %zu of priority %u and below make room", node->name->text,
             victims->count, victims->cost.priority);
}

static void grant_after(const struct probe *probe, struct node *node, const struct victims *victims,
                        struct placement_decision *decision)
{
    enum placement_filter lacking;
    unsigned which;
    for (size_t i = 0; i < victims->count; i++) {
        node_discharge(node, victims->items[i]);
    }
    bool found = grant_find(probe, node, &decision->grant, &lacking, &which);
    CHECK(found);
    for (size_t i = 0; i < victims->count; i++) {
        node_charge(node, victims->items[i]);
    }
}

struct node *find_displaceable(const struct probe *probe, struct node *const *nodes, size_t count,
                               struct placement_decision *decision)
{
    struct node *chosen = NULL;
    struct victims best = {.count = 0};
    size_t found = 0;
    for (size_t i = 0; i < count && found < DISPLACE_FOUND_MAX; i++) {
        struct victims victims;
        if (chosen != NULL && nodes[i]->lowest > best.cost.priority) {
            continue; /* whoever had to go here would be more important */
        }
        if (!find_victims(probe, nodes[i], &victims)) {
            continue;
        }
        found++;
        if (chosen == NULL || is_cheaper(&victims.cost, &best.cost)) {
            chosen = nodes[i];
            best = victims;
        }
    }
    if (chosen != NULL) {
        grant_after(probe, chosen, &best, decision);
        tell(probe, chosen, &best, decision);
    }
    return chosen;
}
