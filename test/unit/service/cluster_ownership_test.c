/* To whom keys belong. */
#include <stdio.h>

#include "service/cluster/ownership.h"

#include "test/lib/test.h"

enum { KEYS = 3000 };

static uint64_t owner_of(unsigned number, const uint64_t *nodes, size_t count)
{
    char key[32];
    snprintf(key, sizeof(key), "trigger/default/t%u", number);
    return ownership_pick(key, nodes, count);
}

TEST(ownership, nobody_owns_where_nobody_lives)
{
    EXPECT(ownership_pick("key", NULL, 0) == 0);
}

TEST(ownership, keys_are_spread_evenly_whatever_the_order_of_the_nodes)
{
    const uint64_t nodes[] = {1, 2, 3};
    const uint64_t turned[] = {3, 1, 2};
    unsigned owned[4] = {0};
    for (unsigned i = 0; i < KEYS; i++) {
        uint64_t owner = owner_of(i, nodes, 3);
        EXPECT(owner == owner_of(i, turned, 3));
        owned[owner]++;
    }
    for (unsigned node = 1; node <= 3; node++) {
        EXPECT(owned[node] > KEYS / 4 && owned[node] < KEYS / 2);
    }
}

TEST(ownership, only_the_keys_of_a_node_that_goes_move)
{
    const uint64_t all[] = {11, 22, 33, 44};
    const uint64_t rest[] = {11, 22, 44};
    for (unsigned i = 0; i < KEYS; i++) {
        uint64_t before = owner_of(i, all, 4);
        EXPECT(before == 33 || owner_of(i, rest, 3) == before);
    }
}
