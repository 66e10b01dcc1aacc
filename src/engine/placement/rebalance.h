/* What the two halves of rebalancing share.  Of the room alone. */
#ifndef ENGINE_PLACEMENT_REBALANCE_H
#define ENGINE_PLACEMENT_REBALANCE_H

#include "engine/placement/parts.h"

struct moved {
    struct allocation *allocation;
    struct node *from;
    struct placement_grant grant; /* that it had there */
};

struct plan {
    struct placement_cluster *cluster;
    const struct placement_rebalance_options *options;
    struct placement_options decide_options;
    uint64_t now_ms;
    struct moved *moved;
    size_t moved_count;
    struct placement_rebalance *result;
    struct error *err;
};

double fullness(const struct node *node); /* of the scarcer of CPU and memory, 0 to 1 */
bool is_open(const struct node *node);
/* Of the fullest and the emptiest open node. */
double difference(const struct placement_cluster *cluster);
bool may_move(const struct plan *plan, const struct allocation *allocation);
/* Move it for now.  Its row of the plan; `reason` is still to be said. */
struct placement_move *do_move(struct plan *plan, struct allocation *allocation, struct node *to,
                               const struct placement_grant *grant, double gain);

/* rebalance_traffic.c: what is left of the batch. */
void rebalance_traffic(struct plan *plan);

#endif
