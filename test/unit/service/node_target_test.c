/* Which node is to have a machine that leaves another. */
#include <string.h>

#include "service/node/parts.h"

#include "test/lib/test.h"

#define GIB (UINT64_C(1) << 30)

static struct target_node node_of(const char *name, uint64_t limit, uint64_t used)
{
    return (struct target_node){.name = name,
                                .takes_work = true,
                                .pool = "default",
                                .memory_limit = limit,
                                .memory_used = used,
                                .has_driver = true};
}

static const struct target_wish wish = {"default", GIB, "old"};

TEST(target, is_the_node_with_the_most_memory_left)
{
    char why[256];
    const struct target_node nodes[] = {node_of("old", 99 * GIB, 0), node_of("a", 8 * GIB, 4 * GIB),
                                        node_of("b", 16 * GIB, 4 * GIB), node_of("c", 2 * GIB, 0)};
    EXPECT(node_pick_target(nodes, 4, &wish, why, sizeof(why)) == 2);
}

TEST(target, is_none_that_is_full_to_the_byte)
{
    char why[256];
    struct target_node nodes[] = {node_of("a", 4 * GIB, 3 * GIB), node_of("b", 4 * GIB, 5 * GIB)};
    EXPECT(node_pick_target(nodes, 2, &wish, why, sizeof(why)) == 0);
    nodes[0].memory_used++;
    EXPECT(node_pick_target(nodes, 2, &wish, why, sizeof(why)) == -1);
    EXPECT(strstr(why, "a has too little memory left, b has too little") != NULL);
}

TEST(target, takes_work_is_of_the_pool_and_has_the_driver)
{
    char why[256];
    struct target_node nodes[] = {node_of("a", 0, 0), node_of("b", 0, 0), node_of("c", 0, 0)};
    nodes[0].takes_work = false;
    nodes[1].pool = "build";
    nodes[2].has_driver = false;
    EXPECT(node_pick_target(nodes, 3, &wish, why, sizeof(why)) == -1);
    EXPECT(strcmp(why, "a takes no work, b is of another pool, c has no such driver") == 0);
}

TEST(target, is_one_that_is_to_be_avoided_when_there_is_no_other)
{
    char why[256];
    struct target_node nodes[] = {node_of("a", 64 * GIB, 0), node_of("b", 4 * GIB, 0)};
    nodes[0].is_avoided = true;
    EXPECT(node_pick_target(nodes, 2, &wish, why, sizeof(why)) == 1);
    EXPECT(node_pick_target(nodes, 1, &wish, why, sizeof(why)) == 0);
}

/* Goal: however many nodes say no, the reason ends inside its room. */
TEST(target, has_a_reason_that_fits)
{
    char why[64];
    struct target_node nodes[20];
    for (int i = 0; i < 20; i++) {
        nodes[i] = node_of("a-node-with-a-name", 1, 1);
    }
    EXPECT(node_pick_target(nodes, 20, &wish, why, sizeof(why)) == -1);
    EXPECT(strlen(why) == sizeof(why) - 1);
}
