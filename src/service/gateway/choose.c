#include "service/gateway/choose.h"

#include <string.h>

#include "base/check.h"

enum { NEAR_FACTOR = 2, NEAR_US = 1000 };

enum choose_place choose_place_of(const struct cluster_node *self, const struct cluster_node *node)
{
    if (self->zone[0] == '\0' || strcmp(self->zone, node->zone) != 0) {
        return CHOOSE_ELSEWHERE;
    }
    return self->rack[0] != '\0' && strcmp(self->rack, node->rack) == 0 ? CHOOSE_SAME_RACK
                                                                        : CHOOSE_SAME_ZONE;
}

/* ---- How busy ---- */

static uint64_t calls_at(const struct choose_node *node)
{
    return (uint64_t)node->load.running + node->load.waiting + node->calls;
}

static bool is_less_busy(const struct choose_node *a, const struct choose_node *b)
{
    if (a->load.cpus == 0 || b->load.cpus == 0) {
        return a->calls < b->calls;
    }
    return calls_at(a) * b->load.cpus < calls_at(b) * a->load.cpus;
}

bool choose_is_relief(const struct cluster_load *own, const struct cluster_load *other)
{
    uint64_t here = (uint64_t)own->running + own->waiting;
    uint64_t there = other->running;
    return own->cpus > 0 && own->waiting >= own->cpus && other->cpus > 0 && other->waiting == 0 &&
        2 * there * own->cpus < here * other->cpus;
}

/* ---- Sets of nodes, a bit for each ---- */

static uint64_t living(const struct choose_node *nodes, size_t count)
{
    enum cluster_health best = CLUSTER_LOST;
    uint64_t set = 0;
    for (size_t i = 0; i < count; i++) {
        best = nodes[i].health < best ? nodes[i].health : best;
    }
    for (size_t i = 0; i < count; i++) {
        set |= (uint64_t)(nodes[i].health == best) << i;
    }
    return set;
}

static uint64_t near_of(const struct choose_node *nodes, size_t count, uint64_t living)
{
    enum choose_place place = CHOOSE_ELSEWHERE;
    uint64_t nearest_us = UINT64_MAX;
    uint64_t set = 0;
    for (size_t i = 0; i < count; i++) {
        place = (living >> i & 1) != 0 && nodes[i].place < place ? nodes[i].place : place;
    }
    for (size_t i = 0; i < count; i++) {
        bool is_in = (living >> i & 1) != 0 && nodes[i].place == place;
        nearest_us = is_in && nodes[i].rtt_us < nearest_us ? nodes[i].rtt_us : nearest_us;
    }
    uint64_t most_us = nearest_us < UINT64_MAX / NEAR_FACTOR - NEAR_US
        ? nearest_us * NEAR_FACTOR + NEAR_US
        : UINT64_MAX;
    for (size_t i = 0; i < count; i++) {
        bool is_in = (living >> i & 1) != 0 && nodes[i].place == place;
        set |= (uint64_t)(is_in && nodes[i].rtt_us <= most_us) << i;
    }
    return set;
}

/* The nth of a set, counted from 0. */
static size_t nth(uint64_t set, size_t n)
{
    for (; n > 0; n--) {
        set &= set - 1;
    }
    return (size_t)__builtin_ctzll(set);
}

static size_t draw_two(const struct choose_node *nodes, uint64_t set, uint64_t random)
{
    size_t size = (size_t)__builtin_popcountll(set);
    CHECK(size > 0);
    size_t first = nth(set, (size_t)(random % size));
    if (size == 1) {
        return first;
    }
    /* Another one: a step from 1 to size - 1 further. */
    size_t step = 1 + (size_t)((random / size) % (size - 1));
    size_t second = nth(set, ((size_t)(random % size) + step) % size);
    return is_less_busy(&nodes[second], &nodes[first]) ? second : first;
}

size_t choose_node(const struct choose_node *nodes, size_t count, uint64_t random)
{
    CHECK(count > 0 && count <= CHOOSE_NODES_MAX);
    uint64_t set = living(nodes, count);
    uint64_t near = near_of(nodes, count, set);
    size_t chosen = draw_two(nodes, near, random);
    if (nodes[chosen].load.cpus == 0 || nodes[chosen].load.waiting == 0 || near == set) {
        return chosen;
    }
    size_t further = draw_two(nodes, set, random >> 32);
    bool has_room = nodes[further].load.cpus > 0 && nodes[further].load.waiting == 0;
    return has_room ? further : chosen;
}
