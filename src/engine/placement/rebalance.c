/*
 * Rebalancing: from the fullest node to where there is more room, move by move, as long as the two
 * differ by more than the threshold and a move makes them more alike; then to where those are that
 * one talks with (rebalance_traffic.c).
 *
 * How full a node is, is the share of its scarcer of CPU and memory.  The plan is made on the
 * cluster itself, by moving allocations for now; all is taken back at the end.
 */
#include "engine/placement/rebalance.h"

#include <string.h>

#include "base/check.h"
#include "base/error.h"
#include "base/memory.h"

enum { TRIED_AT_NODE_MAX = 32, FULL_NODES_TRIED_MAX = 16 };

double fullness(const struct node *node)
{
    return 1 - node_free_share(node);
}

bool is_open(const struct node *node)
{
    return node->is_ready && node->is_eligible;
}

double difference(const struct placement_cluster *cluster)
{
    double most = 0, least = 1;
    size_t count = 0;
    for (size_t i = 0; i < cluster->node_count; i++) {
        const struct node *node = cluster->nodes[i];
        if (is_open(node)) {
            double full = fullness(node);
            most = full > most ? full : most;
            least = full < least ? full : least;
            count++;
        }
    }
    return count > 1 ? most - least : 0;
}

/* The fullest open nodes, the fullest first. */
static size_t find_full(const struct placement_cluster *cluster,
                        struct node *ret_nodes[FULL_NODES_TRIED_MAX])
{
    size_t count = 0;
    for (size_t i = 0; i < cluster->node_count; i++) {
        struct node *node = cluster->nodes[i];
        if (!is_open(node)) {
            continue;
        }
        size_t at = count < FULL_NODES_TRIED_MAX ? count++ : FULL_NODES_TRIED_MAX;
        if (at == FULL_NODES_TRIED_MAX) {
            if (fullness(node) <= fullness(ret_nodes[at - 1])) {
                continue;
            }
            at--;
        }
        while (at > 0 && fullness(ret_nodes[at - 1]) < fullness(node)) {
            ret_nodes[at] = ret_nodes[at - 1];
            at--;
        }
        ret_nodes[at] = node;
    }
    return count;
}

/* How much more alike the two nodes would be; the allocation is away from both. */
static double gain_of(double from_before, const struct node *from, struct node *to,
                      struct allocation *allocation)
{
    double to_before = fullness(to);
    node_charge(to, allocation);
    double to_after = fullness(to);
    node_discharge(to, allocation);
    double before = from_before - to_before;
    double after = fullness(from) - to_after;
    return before - (after < 0 ? -after : after);
}

/* Where would it go?  The allocation is detached meanwhile.  A negative gain: nowhere. */
static double try_move(struct plan *plan, struct allocation *allocation,
                       struct placement_decision *ret_decision)
{
    struct node *from = allocation->node;
    double from_before = fullness(from), gain = -1;
    struct error ignored;
    allocation_detach(plan->cluster, allocation);
    int r = decide_one(plan->cluster, &allocation->request, &plan->decide_options, plan->now_ms,
                       ret_decision, &ignored);
    if (r == 0 && ret_decision->is_placed) {
        struct node *to = node_by_id(plan->cluster, ret_decision->node);
        /* What it has been given here are not the parts that it gets there. */
        struct placement_grant had = allocation->grant;
        allocation->grant = ret_decision->grant;
        gain = to != from ? gain_of(from_before, from, to, allocation) : -1;
        allocation->grant = had;
    }
    allocation_attach(plan->cluster, allocation);
    return gain;
}

static void tell_evening(struct placement_move *move, const struct node *from,
                         const struct node *to)
{
    snprintf(move->reason, sizeof(move->reason),
             "%.40s is %.0f %% full and %.40s %.0f %%: the difference shrinks by %.0f %%",
             from->name->text, fullness(from) * 100, to->name->text, fullness(to) * 100,
             move->gain * 100);
}

struct placement_move *do_move(struct plan *plan, struct allocation *allocation, struct node *to,
                               const struct placement_grant *grant, double gain)
{
    struct node *from = allocation->node;
    struct placement_move *move = &plan->result->moves[plan->result->move_count++];
    *move = (struct placement_move){.gain = gain};
    snprintf(move->id, sizeof(move->id), "%s", allocation->id);
    snprintf(move->from, sizeof(move->from), "%s", from->id->text);
    snprintf(move->to, sizeof(move->to), "%s", to->id->text);
    plan->moved[plan->moved_count++] = (struct moved){allocation, from, allocation->grant};
    allocation_detach(plan->cluster, allocation);
    allocation->grant = (struct placement_grant){.numa = -1};
    grant_copy(&allocation->grant, grant);
    allocation->node = to;
    allocation_attach(plan->cluster, allocation);
    return move;
}

static bool was_moved(const struct plan *plan, const struct allocation *allocation)
{
    for (size_t i = 0; i < plan->moved_count; i++) {
        if (plan->moved[i].allocation == allocation) {
            return true;
        }
    }
    return false;
}

bool may_move(const struct plan *plan, const struct allocation *allocation)
{
    const struct placement_rebalance_options *options = plan->options;
    return allocation->request.may_be_moved && allocation->expires_ms == 0 &&
        !was_moved(plan, allocation) &&
        (options->may_move == NULL || options->may_move(allocation->id, options->context));
}

/* What may move from a node; attaching changes its list, so they are gathered first. */
static size_t find_movable(const struct plan *plan, const struct node *node,
                           struct allocation *ret_items[TRIED_AT_NODE_MAX])
{
    size_t count = 0;
    LIST_EACH(link, &node->allocations)
    {
        struct allocation *allocation = LIST_ITEM(link, struct allocation, at_node);
        if (count < TRIED_AT_NODE_MAX && may_move(plan, allocation)) {
            ret_items[count++] = allocation;
        }
    }
    return count;
}

/* The best move from the node, if one is good enough. */
static bool move_from(struct plan *plan, struct node *node)
{
    struct allocation *items[TRIED_AT_NODE_MAX], *best = NULL;
    size_t count = find_movable(plan, node, items);
    double best_gain = plan->options->gain_min_percent / 100.0;
    struct placement_decision best_decision = {0};
    for (size_t i = 0; i < count; i++) {
        struct placement_decision decision = {0};
        double gain = try_move(plan, items[i], &decision);
        if (gain > 0 && gain >= best_gain && (best == NULL || gain > best_gain)) {
            placement_decision_done(&best_decision);
            best_decision = decision;
            best = items[i];
            best_gain = gain;
        } else {
            placement_decision_done(&decision);
        }
    }
    if (best != NULL) {
        struct node *to = node_by_id(plan->cluster, best_decision.node);
        struct placement_move told = {.gain = best_gain};
        tell_evening(&told, node, to); /* as they are before */
        struct placement_move *move = do_move(plan, best, to, &best_decision.grant, best_gain);
        memcpy(move->reason, told.reason, sizeof(move->reason));
    }
    placement_decision_done(&best_decision);
    return best != NULL;
}

static bool move_once(struct plan *plan)
{
    struct node *full[FULL_NODES_TRIED_MAX];
    size_t count = find_full(plan->cluster, full);
    for (size_t i = 0; i < count; i++) {
        if (move_from(plan, full[i])) {
            return true;
        }
    }
    return false;
}

static void take_back(struct plan *plan)
{
    while (plan->moved_count > 0) {
        struct moved *moved = &plan->moved[--plan->moved_count];
        allocation_detach(plan->cluster, moved->allocation);
        grant_done(&moved->allocation->grant);
        moved->allocation->grant = moved->grant;
        moved->allocation->node = moved->from;
        allocation_attach(plan->cluster, moved->allocation);
    }
}

static void even_out(struct plan *plan)
{
    struct placement_rebalance *result = plan->result;
    double threshold = plan->options->threshold_percent / 100.0;
    result->spread_before = result->spread_after = difference(plan->cluster);
    if (result->spread_before <= threshold) {
        snprintf(result->reason, sizeof(result->reason),
                 "the fullest and the emptiest node differ by %.0f %%, and the threshold is %u %%",
                 result->spread_before * 100, plan->options->threshold_percent);
        return;
    }
    while (result->move_count < plan->options->batch_max && result->spread_after > threshold &&
           move_once(plan)) {
        result->spread_after = difference(plan->cluster);
    }
    snprintf(
        result->reason, sizeof(result->reason),
        result->move_count == 0
            ? "the fullest and the emptiest node differ by %.0f %%, and no move is allowed and "
              "good enough (%.0f %%)"
            : "the difference of the fullest and the emptiest node goes from %.0f %% to %.0f "
              "%%",
        result->spread_before * 100,
        result->move_count == 0 ? (double)plan->options->gain_min_percent
                                : result->spread_after * 100);
}

int placement_rebalance(struct placement_cluster *cluster,
                        const struct placement_rebalance_options *options, uint64_t now_ms,
                        struct placement_rebalance *ret_plan, struct error *err)
{
    int r = check_options(&options->options, err);
    if (r < 0) {
        return r;
    }
    if (options->threshold_percent > 100 || options->gain_min_percent > 100 ||
        options->traffic_min_percent > 100 || options->batch_max > PLACEMENT_MOVES_MAX) {
        return error_set(err, ERROR_INVALID,
                         "rebalancing: percentages up to 100, and at most %d moves",
                         PLACEMENT_MOVES_MAX);
    }
    reservations_lapse(cluster, now_ms);
    *ret_plan = (struct placement_rebalance){
        .moves = memory_new(PLACEMENT_MOVES_MAX, sizeof(struct placement_move)),
    };
    struct plan plan = {
        .cluster = cluster,
        .options = options,
        .decide_options = options->options,
        .now_ms = now_ms,
        .moved = memory_new(PLACEMENT_MOVES_MAX, sizeof(struct moved)),
        .result = ret_plan,
        .err = err,
    };
    /* To where there is room, whatever new ones are packed by; and nobody is displaced for it. */
    plan.decide_options.strategy = PLACEMENT_SPREAD;
    plan.decide_options.may_displace = false;
    even_out(&plan);
    if (options->traffic_min_percent > 0) {
        rebalance_traffic(&plan);
    }
    take_back(&plan);
    free(plan.moved);
    return 0;
}
