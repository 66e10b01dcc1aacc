/*
 * Which of several nodes gets a call.  Pure.
 *
 * Those that live go before those that may not; among them, of the nearest (those not much further
 * away than the very nearest) two are drawn, and the one with fewer calls of ours under way gets
 * it: nearly as good as knowing the load of all, and no herd runs to one node (Mitzenmacher, "The
 * Power of Two Choices in Randomized Load Balancing", 2001).
 */
#ifndef SERVICE_GATEWAY_CHOOSE_H
#define SERVICE_GATEWAY_CHOOSE_H

#include <stddef.h>
#include <stdint.h>

#include "service/cluster/cluster.h"

struct choose_node {
    enum cluster_health health;
    uint64_t rtt_us; /* 0: unknown, which counts as near */
    unsigned calls;
};

/* The index of the chosen one; `count` is not 0. */
size_t choose_node(const struct choose_node *nodes, size_t count, uint64_t random);

#endif
