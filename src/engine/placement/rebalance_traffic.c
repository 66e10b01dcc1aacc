/*
 * Rebalancing, the other half: to where those are that one talks with.
 *
 * A move has to better the traffic part by traffic_min_percent.  It cannot be undone for evenness
 * at the next plan: nodes may not differ by more than the threshold after it, below which nothing
 * is moved for evenness, or where they do already, not by more than before.
 *
 * Candidates are found in one pass, and each is judged anew when it is its turn, those that gain
 * most first: one that others have just come to is not better off where they were.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/error.h"
#include "base/memory.h"

#include "engine/placement/rebalance.h"

enum { GRANTS_TRIED_MAX = 512, KIB = 1024 };

struct candidate {
    struct allocation *allocation;
    double gain;
};

struct better { /* where one would be better off */
    struct node *node;
    double gain; /* of the traffic part */
    double here, there;
};

static struct better find_better(const struct plan *plan, const struct allocation *allocation)
{
    struct tie ties[PLACEMENT_TALKS_MAX];
    double rate = 0;
    size_t count = ties_find(plan->cluster, &allocation->request, ties, &rate);
    double here = ties_score(ties, count, rate, allocation->node);
    struct better better = {.node = NULL};
    for (size_t i = 0; i < count; i++) {
        double gain = ties_score(ties, count, rate, ties[i].node) - here;
        if (ties[i].node == allocation->node) {
            better.here = ties[i].rate;
        } else if (gain > better.gain && is_open(ties[i].node)) {
            better.gain = gain;
            better.node = (struct node *)(uintptr_t)ties[i].node;
            better.there = ties[i].rate;
        }
    }
    return better;
}

static bool is_enough(const struct plan *plan, const struct better *better)
{
    return better->node != NULL && better->gain * 100 >= plan->options->traffic_min_percent;
}

static int by_gain(const void *a, const void *b)
{
    const struct candidate *x = a;
    const struct candidate *y = b;
    if (x->gain < y->gain || x->gain > y->gain) {
        return x->gain > y->gain ? -1 : 1;
    }
    return strcmp(x->allocation->id, y->allocation->id);
}

/* The best first; the caller frees the list. */
static struct candidate *find_candidates(const struct plan *plan, size_t *ret_count)
{
    struct candidate *list = NULL;
    size_t count = 0;
    size_t room = 0;
    for (size_t i = 0; i < plan->cluster->node_count; i++) {
        LIST_EACH(link, &plan->cluster->nodes[i]->allocations)
        {
            struct allocation *allocation = LIST_ITEM(link, struct allocation, at_node);
            if (allocation->request.talk_count == 0 || !may_move(plan, allocation)) {
                continue;
            }
            struct better better = find_better(plan, allocation);
            if (!is_enough(plan, &better)) {
                continue;
            }
            if (count == room) {
                room = room == 0 ? 64 : 2 * room;
                list = memory_resize(list, room * sizeof(*list));
            }
            list[count++] = (struct candidate){allocation, better.gain};
        }
    }
    if (count > 0) {
        qsort(list, count, sizeof(*list), by_gain);
    }
    *ret_count = count;
    return list;
}

/* Every filter, with the allocation away; and the parts of the node that it would get. */
static bool find_grant(struct plan *plan, struct allocation *allocation, const struct node *to,
                       struct placement_grant *ret_grant)
{
    struct probe probe;
    enum placement_filter lacking;
    unsigned which;
    struct error ignored;
    bool fits = false;
    allocation_detach(plan->cluster, allocation);
    if (probe_init(&probe, plan->cluster, &allocation->request, &plan->decide_options, &ignored) ==
        0) {
        fits = filter_node(&probe, to).filter == PLACEMENT_PASSED &&
            grant_find(&probe, to, ret_grant, &lacking, &which);
        probe_done(&probe);
    }
    allocation_attach(plan->cluster, allocation);
    return fits;
}

struct extremes { /* of how full open nodes are */
    double most, least;
};

static struct extremes find_extremes(const struct placement_cluster *cluster)
{
    struct extremes extremes = {0, 1};
    for (size_t i = 0; i < cluster->node_count; i++) {
        const struct node *node = cluster->nodes[i];
        if (is_open(node)) {
            extremes.most = fmax(extremes.most, fullness(node));
            extremes.least = fmin(extremes.least, fullness(node));
        }
    }
    return extremes;
}

/* At most so much would the nodes differ; nothing is changed. */
static double difference_after(const struct extremes *extremes, struct allocation *allocation,
                               struct node *to)
{
    struct node *from = allocation->node;
    struct allocation counted = *allocation; /* its amounts alone: parts are found when it moves */
    counted.grant = (struct placement_grant){.numa = -1};
    node_discharge(from, allocation);
    node_charge(to, &counted);
    double most = fmax(extremes->most, fullness(to));
    double least = is_open(from) ? fmin(extremes->least, fullness(from)) : extremes->least;
    node_discharge(to, &counted);
    node_charge(from, allocation);
    return most - least;
}

/* True: it moves. */
static bool try_one(struct plan *plan, const struct extremes *extremes,
                    struct allocation *allocation, size_t *tried)
{
    struct better better = find_better(plan, allocation);
    struct placement_grant grant = {.numa = -1};
    double threshold = plan->options->threshold_percent / 100.0;
    double limit = fmax(threshold, extremes->most - extremes->least);
    if (!is_enough(plan, &better) || difference_after(extremes, allocation, better.node) > limit ||
        ++*tried > GRANTS_TRIED_MAX || !find_grant(plan, allocation, better.node, &grant)) {
        return false;
    }
    struct placement_move *move = do_move(plan, allocation, better.node, &grant, better.gain);
    move->is_for_traffic = true;
    snprintf(move->reason, sizeof(move->reason),
             "it exchanges %.0f KiB/s with what is at %.40s, and %.0f KiB/s with what is at %.40s",
             better.there / KIB, move->to, better.here / KIB, move->from);
    grant_done(&grant);
    return true;
}

void rebalance_traffic(struct plan *plan)
{
    struct placement_rebalance *result = plan->result;
    struct extremes extremes = find_extremes(plan->cluster);
    size_t count = 0;
    size_t tried = 0;
    size_t moves = 0;
    struct candidate *list = find_candidates(plan, &count);
    for (size_t i = 0; i < count && result->move_count < plan->options->batch_max; i++) {
        if (try_one(plan, &extremes, list[i].allocation, &tried)) {
            extremes = find_extremes(plan->cluster);
            moves++;
        }
    }
    free(list);
    if (moves > 0) {
        size_t used = strlen(result->reason);
        result->spread_after = difference(plan->cluster);
        snprintf(result->reason + used, sizeof(result->reason) - used,
                 "; %zu move%s to whom %s with", moves, moves == 1 ? "s" : "",
                 moves == 1 ? "it talks" : "they talk");
    }
}
