/* Who is to have a copy. */
#include <stdio.h>
#include <string.h>

#include "service/replica/choose.h"

#include "test/lib/test.h"

#define NODE(text, place, ...)                                      \
    {                                                               \
        .name = (text), .domain = (place), .may = true, __VA_ARGS__ \
    }

static size_t chosen(const struct choose_node *nodes, size_t count)
{
    size_t sum = 0;
    for (size_t i = 0; i < count; i++) {
        sum += nodes[i].is_chosen;
    }
    return sum;
}

TEST(replica_choose, as_many_as_are_wanted_and_no_more)
{
    struct choose_node nodes[] = {NODE("a", "", .has = true), NODE("b", ""), NODE("c", ""),
                                  NODE("d", "")};
    choose(nodes, 4, "blob", 1);
    EXPECT(chosen(nodes, 4) == 0);
    choose(nodes, 4, "blob", 2);
    EXPECT(chosen(nodes, 4) == 1 && !nodes[0].is_chosen);
    choose(nodes, 4, "blob", 3);
    EXPECT(chosen(nodes, 4) == 2);
    choose(nodes, 4, "blob", 16);
    EXPECT(chosen(nodes, 4) == 3);
}

/* Each node looks at the others in another order, and none decides for another. */
TEST(replica_choose, the_order_does_not_matter)
{
    struct choose_node one[] = {NODE("a", "", .has = true), NODE("b", ""), NODE("c", "")};
    struct choose_node other[] = {NODE("c", ""), NODE("b", ""), NODE("a", "", .has = true)};
    for (int i = 0; i < 64; i++) {
        char blob[16];
        snprintf(blob, sizeof(blob), "%d", i);
        choose(one, 3, blob, 2);
        choose(other, 3, blob, 2);
        EXPECT(one[1].is_chosen == other[1].is_chosen && one[2].is_chosen == other[0].is_chosen);
    }
}

TEST(replica_choose, another_domain_goes_first)
{
    for (int i = 0; i < 64; i++) {
        char blob[16];
        struct choose_node nodes[] = {NODE("a", "east", .has = true), NODE("b", "east"),
                                      NODE("c", "east"), NODE("d", "west")};
        snprintf(blob, sizeof(blob), "%d", i);
        choose(nodes, 4, blob, 2);
        EXPECT(nodes[3].is_chosen && chosen(nodes, 4) == 1);
        choose(nodes, 4, blob, 3);
        EXPECT(nodes[3].is_chosen && chosen(nodes, 4) == 2);
    }
}

TEST(replica_choose, who_is_away_or_has_no_room_is_passed_over)
{
    struct choose_node nodes[] = {NODE("a", "", .has = true), NODE("b", ""), NODE("c", "")};
    nodes[0].may = false; /* its copy counts for nothing */
    choose(nodes, 3, "blob", 2);
    EXPECT(nodes[1].is_chosen && nodes[2].is_chosen && !nodes[0].is_chosen);
    nodes[1].cannot = true;
    choose(nodes, 3, "blob", 2);
    EXPECT(!nodes[1].is_chosen && nodes[2].is_chosen);
}

TEST(replica_choose, blobs_spread_over_the_nodes)
{
    size_t of[4] = {0};
    for (int i = 0; i < 400; i++) {
        char blob[16];
        struct choose_node nodes[] = {NODE("n1", ""), NODE("n2", ""), NODE("n3", ""),
                                      NODE("n4", "")};
        snprintf(blob, sizeof(blob), "%d", i);
        choose(nodes, 4, blob, 1);
        for (size_t k = 0; k < 4; k++) {
            of[k] += nodes[k].is_chosen;
        }
    }
    for (size_t k = 0; k < 4; k++) {
        EXPECT(of[k] > 60 && of[k] < 140);
    }
}
