/* Small clusters for tests: nodes and requests with few words. */
#ifndef TEST_UNIT_ENGINE_PLACEMENT_CLUSTER_H
#define TEST_UNIT_ENGINE_PLACEMENT_CLUSTER_H

#include "engine/placement/placement.h"

#define GIB (1ULL << 30)

/* A node of 8 CPUs, 32 GiB and 100 GiB of disk, named like its id, ready and eligible. */
struct placement_node make_node(const char *id);
void add_node(struct placement_cluster *cluster, const struct placement_node *node);
/* `count` of them, n0 and so on, in three zones (a, b, c) and racks of four. */
void add_nodes(struct placement_cluster *cluster, size_t count);

/* Of 1 CPU and 2 GiB, priority 50, that may be moved and displaced. */
struct placement_request make_request(const char *id);

/* From JSON; it has to be right.  The caller ends it. */
struct placement_rules *make_rules(const char *json);
/* The error's text, when it is refused as INVALID or LIMIT. */
const char *refused_rules(const char *json);

/* Decide and commit with the whole cluster looked at and no randomness; the node's id, or "" when
 * there is no place.  Lent until the next call. */
const char *place(struct placement_cluster *cluster, const struct placement_request *request);
const char *place_by(struct placement_cluster *cluster, const struct placement_request *request,
                     const struct placement_options *options);
struct placement_options make_options(enum placement_strategy strategy);
/* What the last place() decided (ended by the next one). */
extern struct placement_decision last;

/* Nothing is wrong with the cluster. */
void expect_sound(const struct placement_cluster *cluster);

#endif
