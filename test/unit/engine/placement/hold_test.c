/* Holding a node for one that waits. */
#include <stdio.h>
#include <string.h>

#include "base/error.h"

#include "test/lib/test.h"
#include "test/unit/engine/placement/cluster.h"

enum { AFTER_MS = 1000, SINCE_MS = 100, LATE_MS = SINCE_MS + AFTER_MS };

static const struct placement_hold_options options = {.after_ms = AFTER_MS, .holds_max = 4};

static struct placement_request make_sized(const char *id, uint64_t gib, uint64_t since_ms)
{
    struct placement_request request = make_request(id);
    request.demand.amounts.of[PLACEMENT_MEMORY] = gib * GIB;
    request.may_displace = false;
    request.since_ms = since_ms;
    return request;
}

static void fill(struct placement_cluster *cluster, const char *id, const char *node, uint64_t gib)
{
    struct placement_allocation allocation = {.request = make_sized(id, gib, 0), .node = node};
    struct error err = {0};
    EXPECT(placement_cluster_add(cluster, &allocation, &err) == 0);
}

static void empty(struct placement_cluster *cluster, const char *id)
{
    struct placement_change change;
    struct error err = {0};
    EXPECT(placement_cluster_remove(cluster, id, &change, &err) == 0);
}

/* One step of a hold, and what it says is done. */
static int advance(struct placement_cluster *cluster, const struct placement_request *request,
                   uint64_t now_ms, struct placement_hold *hold)
{
    struct placement_change change;
    struct error err = {0};
    int r = placement_hold_step(cluster, request, &options, now_ms, hold, &err);
    if (r == 1 && hold->node[0] != 0) {
        EXPECT(placement_cluster_hold(cluster, request, hold->node, &change, &err) == 0);
    } else if (r == 1) {
        placement_cluster_let_go(cluster, request->id, &change);
    }
    return r;
}

/*
 * Goal: who has waited long enough, and not a moment less, holds the node where least has to leave.
 * Method: two nodes of 32 GiB, with 20 and 12 of them used, and one of 28 GiB that waits.
 */
TEST(placement_hold, takes_the_node_where_the_least_has_to_leave)
{
    struct placement_cluster *cluster = placement_cluster_new();
    struct placement_request large = make_sized("large", 28, SINCE_MS);
    struct placement_hold hold = {0};
    add_nodes(cluster, 2);
    fill(cluster, "a", "n0", 20);
    fill(cluster, "b", "n1", 12);
    EXPECT(advance(cluster, &large, LATE_MS - 1, &hold) == 0);
    EXPECT(placement_cluster_hold_count(cluster) == 0);
    EXPECT(advance(cluster, &large, LATE_MS, &hold) == 1);
    EXPECT_STRING(placement_cluster_held_for(cluster, "n1"), "large");
    EXPECT_STRING(placement_cluster_holds_at(cluster, "large"), "n1");
    EXPECT(advance(cluster, &large, LATE_MS + 1, &hold) == 0);
    placement_cluster_free(cluster);
}

/*
 * Goal: those that came later, and are not more important, do not get what is held; all others do,
 * and so does who fits beside.
 * Method: a node of 32 GiB with 12 used, held for one of 18: 2 are over, beside it.
 */
TEST(placement_hold, keeps_out_who_came_later_and_fits_not_beside)
{
    struct placement_cluster *cluster = placement_cluster_new();
    struct placement_request large = make_sized("large", 18, SINCE_MS);
    struct placement_request small = make_sized("small", 3, 0);
    struct placement_change change;
    struct error err = {0};
    add_nodes(cluster, 1);
    fill(cluster, "a", "n0", 12);
    EXPECT(placement_cluster_hold(cluster, &large, "n0", &change, &err) == 0);
    EXPECT_STRING(place(cluster, &small), "");
    EXPECT(last.refused[PLACEMENT_HELD] == 1);
    EXPECT((last.wakes & PLACEMENT_WAKE_RESOURCES) != 0);
    small.since_ms = SINCE_MS + 1;
    EXPECT_STRING(place(cluster, &small), "");
    small.since_ms = SINCE_MS - 1;
    EXPECT_STRING(place(cluster, &small), "n0");
    empty(cluster, "small");
    small.since_ms = 0;
    small.priority = large.priority + 1;
    EXPECT_STRING(place(cluster, &small), "n0");
    empty(cluster, "small");
    struct placement_request tiny = make_sized("tiny", 2, 0);
    EXPECT_STRING(place(cluster, &tiny), "n0");
    EXPECT_STRING(place(cluster, &large), "n0");
    EXPECT(placement_cluster_hold_count(cluster) == 0); /* it is placed */
    placement_cluster_free(cluster);
}

/* Goal: letting go is told in the words by which those that were refused are woken. */
TEST(placement_hold, that_ends_wakes_who_was_kept_out)
{
    struct placement_cluster *cluster = placement_cluster_new();
    struct placement_request large = make_sized("large", 28, SINCE_MS);
    struct placement_request small = make_sized("small", 8, 0);
    struct placement_change change;
    struct error err = {0};
    add_nodes(cluster, 1);
    EXPECT(placement_cluster_hold(cluster, &large, "n0", &change, &err) == 0 && change.wakes == 0);
    EXPECT_STRING(place(cluster, &small), "");
    placement_cluster_let_go(cluster, "large", &change);
    EXPECT(placement_helps(cluster, &small, &last, &change));
    EXPECT_STRING(place(cluster, &small), "n0");
    placement_cluster_let_go(cluster, "large", &change);
    EXPECT(change.wakes == 0);
    placement_cluster_free(cluster);
}

/*
 * Goal: a node where nothing leaves is given up for the one whose machines came last, and something
 * that becomes free elsewhere is taken at once.
 * Method: n0 lacks least, by one old machine; those of n1 are newer than those of n2.
 */
TEST(placement_hold, goes_where_machines_go_when_nothing_leaves)
{
    struct placement_cluster *cluster = placement_cluster_new();
    struct placement_request large = make_sized("large", 28, SINCE_MS);
    struct placement_hold hold = {0};
    add_nodes(cluster, 3);
    fill(cluster, "old", "n0", 6);
    fill(cluster, "c", "n2", 24);
    fill(cluster, "b", "n1", 28);
    EXPECT(advance(cluster, &large, LATE_MS, &hold) == 1);
    EXPECT_STRING(hold.node, "n0");
    EXPECT(advance(cluster, &large, LATE_MS + AFTER_MS - 1, &hold) == 0);
    EXPECT(advance(cluster, &large, LATE_MS + AFTER_MS, &hold) == 1);
    EXPECT_STRING(hold.node, "n1");
    struct placement_hold fresh = {0};
    EXPECT(advance(cluster, &large, LATE_MS, &fresh) == 1);
    EXPECT_STRING(fresh.node, "n0");
    empty(cluster, "c");
    EXPECT(advance(cluster, &large, LATE_MS + 1, &fresh) == 1);
    EXPECT_STRING(fresh.node, "n2");
    placement_cluster_free(cluster);
}

/* Goal: where there is nothing else to try, the node is held every other turn alone. */
TEST(placement_hold, of_the_only_node_rests_every_other_turn)
{
    struct placement_cluster *cluster = placement_cluster_new();
    struct placement_request large = make_sized("large", 28, SINCE_MS);
    struct placement_hold hold = {0};
    add_nodes(cluster, 1);
    fill(cluster, "a", "n0", 20);
    EXPECT(advance(cluster, &large, LATE_MS, &hold) == 1);
    EXPECT_STRING(hold.node, "n0");
    EXPECT(advance(cluster, &large, LATE_MS + AFTER_MS, &hold) == 1);
    EXPECT_STRING(hold.node, "");
    EXPECT(placement_cluster_hold_count(cluster) == 0);
    EXPECT(advance(cluster, &large, LATE_MS + 2 * AFTER_MS - 1, &hold) == 0);
    EXPECT(advance(cluster, &large, LATE_MS + 2 * AFTER_MS, &hold) == 1);
    EXPECT_STRING(hold.node, "n0");
    placement_cluster_free(cluster);
}

/* Goal: a turn that began by a clock which was set back since begins anew, and does not last until
 * that moment comes again. */
TEST(placement_hold, does_not_wait_for_a_moment_that_was_before)
{
    enum { HOURS_MS = 6 * 3600 * 1000 };
    struct placement_cluster *cluster = placement_cluster_new();
    struct placement_request large = make_sized("large", 28, SINCE_MS);
    struct placement_hold hold = {0};
    add_nodes(cluster, 2);
    fill(cluster, "a", "n0", 20);
    fill(cluster, "b", "n1", 24);
    EXPECT(advance(cluster, &large, HOURS_MS, &hold) == 1);
    EXPECT_STRING(hold.node, "n0");
    EXPECT(advance(cluster, &large, LATE_MS, &hold) == 1 && hold.moved_ms == LATE_MS);
    EXPECT(advance(cluster, &large, LATE_MS + AFTER_MS - 1, &hold) == 0);
    EXPECT(advance(cluster, &large, LATE_MS + AFTER_MS, &hold) == 1);
    EXPECT_STRING(hold.node, "n1");
    placement_cluster_free(cluster);
}

/* Goal: neither more nodes than may be, nor more than half of a pool, and none that never fits. */
TEST(placement_hold, is_of_few_nodes_and_of_those_that_can_do)
{
    struct placement_cluster *cluster = placement_cluster_new();
    char ids[8][8];
    size_t held = 0;
    add_nodes(cluster, 5);
    for (size_t i = 0; i < 8; i++) {
        snprintf(ids[i], sizeof(ids[i]), "w%zu", i);
        struct placement_request waits = make_sized(ids[i], i == 0 ? 64 : 30, SINCE_MS);
        struct placement_hold hold = {0};
        held += advance(cluster, &waits, LATE_MS, &hold) == 1;
        EXPECT(i > 0 || hold.node[0] == 0);
    }
    EXPECT(held == 3 && placement_cluster_hold_count(cluster) == 3);
    struct error err = {0};
    EXPECT(placement_cluster_remove_node(cluster, placement_cluster_holds_at(cluster, "w1"),
                                         &err) == 0);
    EXPECT(placement_cluster_hold_count(cluster) == 2);
    placement_cluster_free(cluster);
}
