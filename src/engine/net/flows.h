/*
 * How many bytes the machines of this host exchange with whom, as the kernel counts them.
 *
 * Beside the tables of rules.h, which are made anew at each change, there is one of family bridge
 * for counting alone.  At each tap it counts what is sent to and received from addresses that are
 * near: those of the networks, and of other hosts.  A peer is an element of a set of the machine's
 * own with room for NET_FLOW_PEERS_MAX; one that was silent for ten minutes goes.  So a machine
 * that speaks to a million addresses fills its own set and nobody else's, and costs what a look-up
 * costs; the world at large is not counted at all.
 *
 * Addresses are in host byte order.  What is not pure blocks for some milliseconds; any thread.
 */
#ifndef ENGINE_NET_FLOWS_H
#define ENGINE_NET_FLOWS_H

#include <stddef.h>
#include <stdint.h>

struct buffer;
struct error;
struct net_rules;

enum { NET_FLOW_PEERS_MAX = 128, NET_FLOW_NODES_MAX = 8192 };

struct net_flow {
    uint32_t address; /* of a machine of this host */
    uint32_t peer;
    uint64_t bytes; /* both ways, since the table was made or the peer was first seen */
};

/* The input of nft(8) that begins to count, from whatever was before.  Of `rules`, owner, segments
 * and ports matter; no ports: only the removal.  Pure.  LIMIT. */
int net_flows_render(const struct net_rules *rules, const uint32_t *nodes, size_t node_count,
                     struct buffer *out, struct error *err);

/* What was counted until now, and begin anew with these ports.  *ret_flows: free() it; also after
 * a failure of the second half, with what the first has found. */
int net_flows_restart(const struct net_rules *rules, const uint32_t *nodes, size_t node_count,
                      struct net_flow **ret_flows, size_t *ret_count, struct error *err);

/* What was counted until now: free() it.  None, when nothing is counted. */
int net_flows_read(const char *owner, struct net_flow **ret_flows, size_t *ret_count,
                   struct error *err);

/* The same of what nft says to "list table" as JSON.  Pure.  PROTOCOL. */
int net_flows_parse(const char *json, struct net_flow **ret_flows, size_t *ret_count,
                    struct error *err);

int net_flows_remove(const char *owner, struct error *err);

#endif
