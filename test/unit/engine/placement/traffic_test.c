/* Talkers: who is put near whom, and who is moved there. */
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

#include "../../../lib/test.h"
#include "cluster.h"

#define MIB (UINT64_C(1) << 20)

static struct placement_cluster *world(size_t nodes)
{
    struct placement_cluster *cluster = placement_cluster_new();
    add_nodes(cluster, nodes);
    return cluster;
}

static void put(struct placement_cluster *cluster, const char *id, const char *node)
{
    struct error err = {0};
    const struct placement_allocation allocation = {
        .request = make_request(id), .node = node, .grant.numa = -1};
    EXPECT(placement_cluster_add(cluster, &allocation, &err) == 0);
}

static void learn(struct placement_cluster *cluster, const char *id, const char *with,
                  uint64_t rate)
{
    struct error err = {0};
    const struct placement_talk talk = {.with = with, .bytes_per_second = rate};
    EXPECT(placement_cluster_set_talks(cluster, id, &talk, 1, &err) == 0);
}

static struct placement_rebalance plan_of(struct placement_cluster *cluster, uint32_t percent)
{
    struct error err = {0};
    struct placement_rebalance plan = {0};
    const struct placement_rebalance_options options = {
        .options = make_options(PLACEMENT_BALANCED),
        .threshold_percent = 40,
        .batch_max = 16,
        .gain_min_percent = 5,
        .traffic_min_percent = percent,
    };
    EXPECT(placement_rebalance(cluster, &options, 0, &plan, &err) == 0);
    return plan;
}

TEST(placement_traffic, who_talks_much_is_put_where_the_other_is)
{
    struct placement_cluster *cluster = world(4);
    put(cluster, "db", "n3");
    struct placement_request request = make_request("web");
    const struct placement_talk talks[] = {{.with = "db", .bytes_per_second = 8 * MIB},
                                           {.node = "n1", .bytes_per_second = MIB},
                                           {.with = "gone", .bytes_per_second = 900 * MIB},
                                           {.with = "web", .bytes_per_second = 900 * MIB}};
    request.talks = talks;
    request.talk_count = 4;
    struct placement_options options = make_options(PLACEMENT_DATA_LOCAL);
    EXPECT_STRING(place_by(cluster, &request, &options), "n3");
    EXPECT(last.parts[PLACEMENT_PART_TRAFFIC] > 0.79 && last.parts[PLACEMENT_PART_TRAFFIC] < 0.81);
    expect_sound(cluster);
    placement_cluster_free(cluster);
}

/* Goal: a few bytes hold nobody.  Method: the emptiest node by "spread", against 1 KiB/s. */
TEST(placement_traffic, who_hardly_talks_goes_where_there_is_room)
{
    struct placement_cluster *cluster = world(2);
    struct placement_options options = make_options(PLACEMENT_SPREAD);
    put(cluster, "db", "n0");
    put(cluster, "other", "n0");
    struct placement_request request = make_request("web");
    struct placement_talk talk = {.with = "db", .bytes_per_second = 1024};
    request.talks = &talk;
    request.talk_count = 1;
    EXPECT_STRING(place_by(cluster, &request, &options), "n1");
    request.id = "web2";
    talk.bytes_per_second = 64 * MIB;
    EXPECT_STRING(place_by(cluster, &request, &options), "n0");
    options.weights[PLACEMENT_PART_TRAFFIC] = 0;
    request.id = "web3";
    EXPECT_STRING(place_by(cluster, &request, &options), "n1");
    placement_cluster_free(cluster);
}

/* Goal: a node that the sample would leave out is looked at for who is there. */
TEST(placement_traffic, the_others_node_is_among_those_that_are_looked_at)
{
    struct placement_cluster *cluster = world(600);
    put(cluster, "db", "n597");
    struct placement_request request = make_request("web");
    const struct placement_talk talk = {.with = "db", .bytes_per_second = 64 * MIB};
    request.talks = &talk;
    request.talk_count = 1;
    struct placement_options options = make_options(PLACEMENT_SPREAD);
    options.weights[PLACEMENT_PART_TRAFFIC] = 400;
    options.sample_max = 4;
    EXPECT_STRING(place_by(cluster, &request, &options), "n597");
    placement_cluster_free(cluster);
}

TEST(placement_traffic, what_does_not_fit_there_goes_elsewhere)
{
    struct placement_cluster *cluster = world(2);
    struct placement_options options = make_options(PLACEMENT_DATA_LOCAL);
    put(cluster, "db", "n0");
    struct placement_request request = make_request("web");
    const struct placement_talk talk = {.with = "db", .bytes_per_second = 64 * MIB};
    request.talks = &talk;
    request.talk_count = 1;
    request.demand.amounts.of[PLACEMENT_MEMORY] = 31 * GIB;
    EXPECT_STRING(place_by(cluster, &request, &options), "n1");
    placement_cluster_free(cluster);
}

TEST(placement_traffic, more_than_the_bound_is_refused)
{
    struct placement_cluster *cluster = world(1);
    struct placement_options options = make_options(PLACEMENT_BALANCED);
    struct placement_talk talks[PLACEMENT_TALKS_MAX + 1] = {{.with = "db"}};
    struct placement_decision decision = {0};
    struct placement_request request = make_request("web");
    struct error err = {0};
    put(cluster, "db", "n0");
    request.talks = talks;
    request.talk_count = PLACEMENT_TALKS_MAX + 1;
    EXPECT(placement_decide(cluster, &request, &options, 0, &decision, &err) == -ERROR_LIMIT);
    EXPECT(placement_cluster_set_talks(cluster, "db", talks, PLACEMENT_TALKS_MAX + 1, &err) ==
           -ERROR_LIMIT);
    EXPECT(placement_cluster_set_talks(cluster, "no", talks, 1, &err) == -ERROR_NOT_FOUND);
    request.talk_count = PLACEMENT_TALKS_MAX;
    EXPECT(placement_decide(cluster, &request, &options, 0, &decision, &err) == 0);
    placement_decision_done(&decision);
    placement_cluster_free(cluster);
}

/* Goal: of two that talk across nodes one moves, once, and then both stay. */
TEST(placement_traffic, rebalancing_brings_talkers_together_and_stops)
{
    struct placement_cluster *cluster = world(3);
    put(cluster, "web", "n0");
    put(cluster, "db", "n1");
    put(cluster, "quiet", "n2");
    learn(cluster, "web", "db", 8 * MIB);
    learn(cluster, "db", "web", 8 * MIB);
    learn(cluster, "quiet", "db", 2048);
    struct placement_rebalance plan = plan_of(cluster, 30);
    EXPECT(plan.move_count == 1 && plan.moves[0].is_for_traffic && plan.moves[0].gain > 0.8);
    EXPECT(strstr(plan.moves[0].reason, "it exchanges 8192 KiB/s with what is at n") != NULL);
    EXPECT_STRING(placement_cluster_where(cluster, "web"), "n0"); /* it is a plan */
    const char *moved = plan.moves[0].id;
    const char *to = strcmp(moved, "web") == 0 ? "n1" : "n0";
    EXPECT(strcmp(moved, "quiet") != 0);
    EXPECT_STRING(plan.moves[0].to, to);
    struct error err = {0};
    EXPECT(placement_cluster_remove(cluster, moved, NULL, &err) == 0);
    put(cluster, moved, to);
    learn(cluster, moved, strcmp(moved, "web") == 0 ? "db" : "web", 8 * MIB);
    struct placement_rebalance then = plan_of(cluster, 30);
    EXPECT(then.move_count == 0);
    free(then.moves);
    free(plan.moves);
    expect_sound(cluster);
    placement_cluster_free(cluster);
}

/* Goal: evenness goes first: what would make the nodes differ by more than the threshold stays. */
TEST(placement_traffic, rebalancing_does_not_make_a_heap_of_talkers)
{
    struct placement_cluster *cluster = world(2);
    char ids[8][8];
    for (size_t i = 0; i < 8; i++) {
        snprintf(ids[i], sizeof(ids[i]), "m%zu", i);
        put(cluster, ids[i], i % 2 == 0 ? "n0" : "n1");
    }
    for (size_t i = 1; i < 8; i++) { /* all with the first one */
        learn(cluster, ids[i], ids[0], 64 * MIB);
    }
    struct placement_rebalance plan = plan_of(cluster, 30);
    /* Of eight CPUs: 4 and 4, and 5 and 3 is within two fifths; 6 and 2 is not. */
    EXPECT(plan.move_count == 1);
    EXPECT(plan.spread_after <= 0.4);
    free(plan.moves);
    plan = plan_of(cluster, 0); /* nothing is moved for that */
    EXPECT(plan.move_count == 0);
    free(plan.moves);
    EXPECT(placement_cluster_node_count(cluster) == 2);
    expect_sound(cluster);
    placement_cluster_free(cluster);
}

/* Goal: rules hold, and so does who may not be moved. */
TEST(placement_traffic, rebalancing_keeps_the_rules)
{
    struct placement_cluster *cluster = world(2);
    struct error err = {0};
    struct placement_rules *rules = make_rules("{\"constraints\": [\"${node.name} = n0\"]}");
    struct placement_allocation web = {
        .request = make_request("web"), .node = "n0", .grant.numa = -1};
    web.request.rules = rules;
    EXPECT(placement_cluster_add(cluster, &web, &err) == 0);
    put(cluster, "db", "n1");
    learn(cluster, "web", "db", 64 * MIB);
    struct placement_rebalance plan = plan_of(cluster, 30);
    EXPECT(plan.move_count == 0);
    free(plan.moves);
    placement_rules_unref(rules);
    placement_cluster_free(cluster);
}
