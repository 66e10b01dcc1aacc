/* Rendezvous hashing: see ownership.h. */
#include "service/cluster/ownership.h"

#include <stdlib.h>

#include "base/memory.h"

#include "service/cluster/parts.h"

/* FNV-1a (Fowler, Noll, Vo), the same on every node: base/map's hash is seeded by the process. */
static uint64_t hash_of(const char *key)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    for (; *key != '\0'; key++) {
        hash = (hash ^ (unsigned char)*key) * UINT64_C(0x100000001b3);
    }
    return hash;
}

/* The finaliser of splitmix64 (Steele, Lea, Flood, 2014). */
static uint64_t weight_of(uint64_t key, uint64_t node)
{
    uint64_t value = key ^ (node * UINT64_C(0x9e3779b97f4a7c15));
    value = (value ^ (value >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    value = (value ^ (value >> 27)) * UINT64_C(0x94d049bb133111eb);
    return value ^ (value >> 31);
}

uint64_t ownership_pick(const char *key, const uint64_t *nodes, size_t count)
{
    uint64_t hash = hash_of(key);
    uint64_t best = 0;
    uint64_t best_weight = 0;
    for (size_t i = 0; i < count; i++) {
        uint64_t weight = weight_of(hash, nodes[i]);
        if (best == 0 || weight > best_weight || (weight == best_weight && nodes[i] > best)) {
            best = nodes[i];
            best_weight = weight;
        }
    }
    return best;
}

bool cluster_owns(struct cluster *cluster, const char *key)
{
    if (!cluster_is_owner(cluster)) {
        return false;
    }
    struct cluster_view *view = cluster_view_ref(cluster);
    uint64_t *live = memory_new(view->count + 1, sizeof(*live));
    size_t count = 0;
    for (size_t i = 0; i < view->count; i++) {
        if (view->nodes[i].is_self || view->nodes[i].health != CLUSTER_LOST) {
            live[count++] = view->nodes[i].id;
        }
    }
    bool owns = count == 0 || ownership_pick(key, live, count) == view->self_id;
    free(live);
    cluster_view_unref(view);
    return owns;
}
