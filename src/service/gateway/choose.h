/*
 * Which of several nodes gets a call.  Pure.
 *
 * Those that live go before those that may not; among them those of the same rack, then those of
 * the same zone; among them, of the nearest (those not much further away than the very nearest) two
 * are drawn, and the less busy gets it: nearly as good as choosing the least busy of all, and no
 * herd runs to one node (Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing",
 * 2001).  Where that one has calls waiting two of all that live are drawn, and one that has none
 * waiting gets it.
 *
 * How busy: calls that run and wait there, as the node has told (service/cluster), and ours that
 * are under way and may not be in that yet, for each of its CPUs.  Where one of two has told
 * nothing lately, ours alone are compared.
 */
#ifndef SERVICE_GATEWAY_CHOOSE_H
#define SERVICE_GATEWAY_CHOOSE_H

#include <stddef.h>
#include <stdint.h>

#include "service/cluster/cluster.h"

enum { CHOOSE_NODES_MAX = 64 };

enum choose_place { CHOOSE_SAME_RACK, CHOOSE_SAME_ZONE, CHOOSE_ELSEWHERE };

struct choose_node {
    enum cluster_health health;
    enum choose_place place; /* as seen from here */
    uint64_t rtt_us;         /* 0: unknown, which counts as near */
    unsigned calls;          /* of ours, under way */
    struct cluster_load load;
};

/* Where `node` is, as seen from `self`: one that does not say its zone is elsewhere. */
enum choose_place choose_place_of(const struct cluster_node *self, const struct cluster_node *node);

/* The index of the chosen one; `count` is 1 to CHOOSE_NODES_MAX. */
size_t choose_node(const struct choose_node *nodes, size_t count, uint64_t random);

/* Has this node so many calls waiting that one more is better off at `other`, which has none
 * waiting and is less than half as busy? */
bool choose_is_relief(const struct cluster_load *own, const struct cluster_load *other);

#endif
