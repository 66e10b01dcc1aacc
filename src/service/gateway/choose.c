#include "service/gateway/choose.h"

#include "base/check.h"

enum { NEAR_FACTOR = 2, NEAR_US = 1000 };

/* The index of the nth that is near enough, counted from 0. */
static size_t nth(const struct choose_node *nodes, size_t count, enum cluster_health health,
                  uint64_t rtt_us_max, size_t n)
{
    for (size_t i = 0; i < count; i++) {
        if (nodes[i].health == health && nodes[i].rtt_us <= rtt_us_max) {
            if (n == 0) {
                return i;
            }
            n--;
        }
    }
    CHECK_UNREACHABLE();
}

size_t choose_node(const struct choose_node *nodes, size_t count, uint64_t random)
{
    CHECK(count > 0);
    enum cluster_health best = nodes[0].health;
    uint64_t nearest_us = UINT64_MAX;
    size_t near = 0;
    for (size_t i = 0; i < count; i++) {
        best = nodes[i].health < best ? nodes[i].health : best;
    }
    for (size_t i = 0; i < count; i++) {
        if (nodes[i].health == best && nodes[i].rtt_us < nearest_us) {
            nearest_us = nodes[i].rtt_us;
        }
    }
    uint64_t most_us = nearest_us < UINT64_MAX / NEAR_FACTOR - NEAR_US
        ? nearest_us * NEAR_FACTOR + NEAR_US
        : UINT64_MAX;
    for (size_t i = 0; i < count; i++) {
        near += nodes[i].health == best && nodes[i].rtt_us <= most_us;
    }
    CHECK(near > 0); /* the nearest is near */
    CHECK(near > 0); /* the nearest of the best is one */
    size_t first = nth(nodes, count, best, most_us, (size_t)(random % near));
    if (near == 1) {
        return first;
    }
    /* Another one: a step from 1 to near - 1 further. */
    size_t step = 1 + (size_t)((random / near) % (near - 1));
    size_t second = nth(nodes, count, best, most_us, ((size_t)(random % near) + step) % near);
    return nodes[second].calls < nodes[first].calls ? second : first;
}
