/*
 * Who does the work that belongs to a key: one of the live nodes, the same one wherever it is
 * asked.
 *
 * Rendezvous hashing (Thaler and Ravishankar, "Using name-based mappings to increase hit rates",
 * 1998): when a node comes or goes, only the keys that it gains or had move.  Pure.
 */
#ifndef SERVICE_CLUSTER_OWNERSHIP_H
#define SERVICE_CLUSTER_OWNERSHIP_H

#include <stddef.h>
#include <stdint.h>

/* The one of `nodes` (ids, in any order) to which `key` belongs; 0 when there is none. */
uint64_t ownership_pick(const char *key, const uint64_t *nodes, size_t count);

#endif
