/* What rules and strategies make of a small cluster. */
#include "engine/placement/placement.h"

#include "base/error.h"
#include "base/memory.h"

#include "test/lib/test.h"
#include "test/unit/engine/placement/cluster.h"

static struct placement_cluster *cluster_of(size_t nodes)
{
    struct placement_cluster *cluster = placement_cluster_new();
    add_nodes(cluster, nodes);
    return cluster;
}

static struct placement_rules *constrained(const char *line)
{
    MEMORY_OWNED char *json = memory_format("{\"constraints\": [\"%s\"]}", line);
    return make_rules(json);
}

/* How many nodes let a request with this constraint pass. */
static size_t passing(struct placement_cluster *cluster, const char *line)
{
    struct placement_request request = make_request("asked");
    struct placement_options options = make_options(PLACEMENT_BINPACK);
    struct error err = {0};
    request.rules = constrained(line);
    struct placement_decision decision = {0};
    EXPECT(placement_decide(cluster, &request, &options, 0, &decision, &err) == 0);
    size_t count = decision.is_placed ? decision.nodes_passed : 0;
    placement_decision_done(&decision);
    placement_rules_unref(request.rules);
    return count;
}

TEST(placement, constraints_see_names_places_labels_and_facts)
{
    struct placement_cluster *cluster = cluster_of(7);
    struct placement_node node = make_node("special");
    const struct placement_attribute attributes[] = {
        {"label.disk", "ssd"}, {"attr.cpu.cores", "16"}, {"attr.kernel", "6.1.0"}};
    node.zone = "a";
    node.region = "north";
    node.attributes = attributes;
    node.attribute_count = 3;
    add_node(cluster, &node);
    EXPECT(passing(cluster, "${node.name} = special") == 1);
    EXPECT(passing(cluster, "node.id != special") == 7);
    EXPECT(passing(cluster, "${node.name} regexp ^n[0-3]$") == 4);
    EXPECT(passing(cluster, "zone = a") == 4);
    EXPECT(passing(cluster, "zone != a") == 4);
    EXPECT(passing(cluster, "rack = r1") == 3);
    EXPECT(passing(cluster, "region is_set") == 1);
    EXPECT(passing(cluster, "region is_not_set") == 7);
    EXPECT(passing(cluster, "${label.disk} = ssd") == 1);
    EXPECT(passing(cluster, "${label.disk} != ssd") == 7);
    EXPECT(passing(cluster, "attr.cpu.cores >= 16") == 1);
    EXPECT(passing(cluster, "attr.kernel version >= 6, < 7") == 1);
    EXPECT(passing(cluster, "label.nobody = x") == 0);
    EXPECT(passing(cluster, "label.nobody is_not_set") == 8);
    EXPECT(passing(cluster, "node.name = nobody") == 0);
    expect_sound(cluster);
    placement_cluster_free(cluster);
}

TEST(placement, a_label_that_changes_is_seen_at_once)
{
    struct placement_cluster *cluster = cluster_of(3);
    EXPECT(passing(cluster, "label.disk = ssd") == 0);
    struct placement_attribute disk = {"label.disk", "ssd"};
    struct placement_node node = make_node("n1");
    node.attributes = &disk;
    node.attribute_count = 1;
    add_node(cluster, &node);
    EXPECT(passing(cluster, "label.disk = ssd") == 1);
    EXPECT(passing(cluster, "zone is_set") == 2); /* it was replaced, and has no zone now */
    disk.value = "hdd";
    add_node(cluster, &node);
    EXPECT(passing(cluster, "label.disk = ssd") == 0);
    struct error err = {0};
    EXPECT(placement_cluster_remove_node(cluster, "n1", &err) == 0);
    EXPECT(passing(cluster, "label.disk is_not_set") == 2);
    placement_cluster_free(cluster);
}

TEST(placement, an_impossible_constraint_says_how_many_nodes_refused_it)
{
    struct placement_cluster *cluster = cluster_of(3);
    struct placement_request request = make_request("m");
    request.rules = constrained("label.disk = ssd");
    EXPECT_STRING(place(cluster, &request), "");
    EXPECT(last.refused[PLACEMENT_CONSTRAINT] == 3);
    EXPECT_STRING(last.reason, "none of 3 nodes: 3 constraint");
    EXPECT(last.wakes == (PLACEMENT_WAKE_NODE | PLACEMENT_WAKE_ATTRIBUTES));
    placement_rules_unref(request.rules);
    placement_cluster_free(cluster);
}

TEST(placement, an_empty_cluster_has_no_place)
{
    struct placement_cluster *cluster = placement_cluster_new();
    struct placement_request request = make_request("m");
    EXPECT_STRING(place(cluster, &request), "");
    EXPECT_STRING(last.reason, "there are no nodes");
    EXPECT(last.wakes == PLACEMENT_WAKE_NODE);
    placement_cluster_free(cluster);
}

TEST(placement, distinct_hosts_and_property_count_the_job)
{
    struct placement_cluster *cluster = cluster_of(6);
    struct placement_rules *hosts = constrained("distinct_hosts");
    struct placement_rules *zones = constrained("zone distinct_property 2");
    for (int i = 0; i < 7; i++) {
        char id[16];
        snprintf(id, sizeof(id), "h%d", i);
        struct placement_request request = make_request(id);
        request.rules = hosts;
        request.job = "p/hosts";
        EXPECT((place(cluster, &request)[0] != 0) == (i < 6));
        snprintf(id, sizeof(id), "z%d", i);
        request.rules = zones;
        request.job = "p/zones";
        EXPECT((place(cluster, &request)[0] != 0) == (i < 6));
    }
    EXPECT(last.refused[PLACEMENT_DISTINCT] == 6);
    EXPECT((last.wakes & PLACEMENT_WAKE_DISTINCT) != 0);
    /* Others are not counted. */
    struct placement_request other = make_request("other");
    other.rules = hosts;
    other.job = "p/other";
    EXPECT(place(cluster, &other)[0] != 0);
    /* One leaves, and there is room again. */
    struct error err = {0};
    EXPECT(placement_cluster_remove(cluster, "h3", NULL, &err) == 0);
    struct placement_request request = make_request("h7");
    request.rules = hosts;
    request.job = "p/hosts";
    EXPECT(place(cluster, &request)[0] != 0);
    expect_sound(cluster);
    placement_rules_unref(hosts);
    placement_rules_unref(zones);
    placement_cluster_free(cluster);
}

TEST(placement, affinities_pull_and_push)
{
    struct placement_cluster *cluster = cluster_of(6);
    struct placement_request request = make_request("pull");
    request.rules = make_rules("{\"affinities\": [\"100 zone = c\"]}");
    place(cluster, &request);
    EXPECT(strcmp(last.node, "n2") == 0 || strcmp(last.node, "n5") == 0);
    EXPECT(last.parts[PLACEMENT_PART_AFFINITY] == 1);
    placement_rules_unref(request.rules);

    request = make_request("push");
    request.rules = make_rules("{\"affinities\": [\"-100 zone = a\", \"-100 zone = b\"]}");
    place(cluster, &request);
    EXPECT(strcmp(last.node, "n2") == 0 || strcmp(last.node, "n5") == 0);
    EXPECT(last.parts[PLACEMENT_PART_AFFINITY] == 0);
    placement_rules_unref(request.rules);

    request = make_request("named");
    request.rules = make_rules("{\"affinities\": [\"100 node.name = n4\", \"-10 zone = b\"]}");
    EXPECT_STRING(place(cluster, &request), "n4");
    placement_rules_unref(request.rules);

    /* Only a wish: where it cannot be, it goes elsewhere. */
    request = make_request("wish");
    request.rules = make_rules("{\"affinities\": [\"100 zone = nowhere\"]}");
    EXPECT(place(cluster, &request)[0] != 0);
    placement_rules_unref(request.rules);
    placement_cluster_free(cluster);
}

static unsigned zone_of(const char *id)
{
    return (unsigned)(id[1] - '0') % 3;
}

TEST(placement, spread_is_even_without_targets_and_follows_them_with)
{
    struct placement_cluster *cluster = cluster_of(9);
    struct placement_rules *even = make_rules("{\"spread\": [\"zone\"]}");
    struct placement_rules *aimed = make_rules("{\"spread\": [\"zone a=50 b=30\"]}");
    unsigned count[3] = {0}, wanted[3] = {0};
    for (int i = 0; i < 10; i++) {
        char id[16];
        snprintf(id, sizeof(id), "e%d", i);
        struct placement_request request = make_request(id);
        request.job = "even";
        request.rules = even;
        count[zone_of(place(cluster, &request))]++;
        snprintf(id, sizeof(id), "t%d", i);
        request.job = "aimed";
        request.rules = aimed;
        wanted[zone_of(place(cluster, &request))]++;
    }
    EXPECT(count[0] >= 3 && count[1] >= 3 && count[2] >= 3);
    EXPECT(wanted[0] == 5 && wanted[1] == 3 && wanted[2] == 2);
    placement_rules_unref(even);
    placement_rules_unref(aimed);
    placement_cluster_free(cluster);
}

TEST(placement, groups_keep_apart_and_together)
{
    struct placement_cluster *cluster = cluster_of(3);
    struct placement_group apart = {"p/apart", PLACEMENT_GROUP_SPREAD, PLACEMENT_STRICT, NULL};
    struct placement_group together = {"p/one", PLACEMENT_GROUP_COMPACT, PLACEMENT_STRICT, "zone"};
    struct placement_group loose = {"p/loose", PLACEMENT_GROUP_SPREAD, PLACEMENT_PERMISSIVE, NULL};
    char first[64] = "";
    for (int i = 0; i < 4; i++) {
        char id[16];
        snprintf(id, sizeof(id), "a%d", i);
        struct placement_request request = make_request(id);
        request.group = apart;
        EXPECT((place(cluster, &request)[0] != 0) == (i < 3));
        snprintf(id, sizeof(id), "l%d", i);
        request = make_request(id);
        request.group = loose;
        EXPECT(place(cluster, &request)[0] != 0);
        EXPECT((last.parts[PLACEMENT_PART_GROUP] < 1) == (i == 3));
        snprintf(id, sizeof(id), "o%d", i);
        request = make_request(id);
        request.group = together;
        request.demand.amounts.of[PLACEMENT_CPU_MILLI] = 1500;
        const char *node = place(cluster, &request);
        if (i == 0) {
            snprintf(first, sizeof(first), "%s", node);
        }
        /* Three fit beside the others; the zone is the node here, and full then. */
        EXPECT(i == 3 || strcmp(node, first) == 0);
        EXPECT(i < 3 || node[0] == 0);
    }
    EXPECT(last.refused[PLACEMENT_GROUP] == 2);
    expect_sound(cluster);
    placement_cluster_free(cluster);
}

TEST(placement, taints_and_pools_keep_out_what_does_not_ask_for_them)
{
    struct placement_cluster *cluster = placement_cluster_new();
    struct placement_taint gpu = {"gpu", "yes", PLACEMENT_NO_SCHEDULE};
    struct placement_taint slow = {"slow", "", PLACEMENT_PREFER_NO_SCHEDULE};
    struct placement_node tainted = make_node("tainted"), poor = make_node("slow");
    struct placement_node other = make_node("other");
    tainted.taints = &gpu;
    poor.taints = &slow;
    tainted.taint_count = poor.taint_count = 1;
    other.pool = "batch";
    add_node(cluster, &tainted);
    add_node(cluster, &other);

    struct placement_request request = make_request("m0");
    EXPECT_STRING(place(cluster, &request), "");
    EXPECT(last.refused[PLACEMENT_TAINT] == 1 && last.refused[PLACEMENT_POOL] == 1);
    EXPECT(last.wakes == (PLACEMENT_WAKE_NODE | PLACEMENT_WAKE_TAINTS | PLACEMENT_WAKE_ATTRIBUTES));

    request.rules = make_rules("{\"tolerations\": [\"gpu=yes\"]}");
    EXPECT_STRING(place(cluster, &request), "tainted");
    placement_rules_unref(request.rules);
    request = make_request("m1");
    request.rules = make_rules("{\"pool\": \"batch\"}");
    EXPECT_STRING(place(cluster, &request), "other");
    placement_rules_unref(request.rules);

    /* What is only not preferred is taken when there is nothing else. */
    add_node(cluster, &poor);
    request = make_request("m2");
    EXPECT_STRING(place(cluster, &request), "slow");
    struct placement_node plain = make_node("plain");
    add_node(cluster, &plain);
    request = make_request("m3");
    EXPECT_STRING(place(cluster, &request), "plain");
    placement_cluster_free(cluster);
}

TEST(placement, nodes_that_are_not_ready_or_cordoned_get_nothing)
{
    struct placement_cluster *cluster = cluster_of(2);
    struct placement_change change;
    struct error err = {0};
    EXPECT(placement_cluster_set_state(cluster, "n0", true, false, &change, &err) == 0);
    EXPECT(change.wakes == 0);
    EXPECT(placement_cluster_set_state(cluster, "n1", false, true, &change, &err) == 0);
    struct placement_request request = make_request("m");
    EXPECT_STRING(place(cluster, &request), "");
    EXPECT_STRING(last.reason, "none of 2 nodes: 1 not-ready, 1 cordoned");
    EXPECT(placement_cluster_set_state(cluster, "n0", true, true, &change, &err) == 0);
    EXPECT(change.wakes == PLACEMENT_WAKE_NODE && strcmp(change.node, "n0") == 0);
    EXPECT_STRING(place(cluster, &request), "n0");
    EXPECT(placement_cluster_set_state(cluster, "n9", true, true, NULL, &err) == -ERROR_NOT_FOUND);
    placement_cluster_free(cluster);
}

/* Goal: each strategy does what its name says, on the same two nodes. */
TEST(placement, strategies_differ)
{
    static const char *const expected[PLACEMENT_STRATEGY_COUNT] = {
        [PLACEMENT_BINPACK] = "full",     [PLACEMENT_SPREAD] = "empty",
        [PLACEMENT_BALANCED] = "empty",   [PLACEMENT_LEAST_COST] = "cheap",
        [PLACEMENT_DATA_LOCAL] = "local",
    };
    for (enum placement_strategy strategy = 0; strategy < PLACEMENT_STRATEGY_COUNT; strategy++) {
        struct placement_cluster *cluster = placement_cluster_new();
        static const char *const names[] = {"full", "empty", "cheap", "local"};
        for (size_t i = 0; i < 4; i++) {
            struct placement_node node = make_node(names[i]);
            node.cost = i == 2 ? 1 : 10;
            add_node(cluster, &node);
            struct placement_request there = make_request(names[i]);
            there.demand.amounts.of[PLACEMENT_CPU_MILLI] = i == 0 ? 5000 : i == 1 ? 0 : 1000;
            there.demand.amounts.of[PLACEMENT_MEMORY] = i == 0 ? 20 * GIB : i == 1 ? 0 : GIB;
            struct placement_allocation allocation = {
                .request = there, .node = names[i], .grant.numa = -1};
            struct error err = {0};
            EXPECT(placement_cluster_add(cluster, &allocation, &err) == 0);
        }
        struct placement_hint hint = {"local", GIB};
        struct placement_request request = make_request("m");
        request.hints = strategy == PLACEMENT_DATA_LOCAL ? &hint : NULL;
        request.hint_count = strategy == PLACEMENT_DATA_LOCAL;
        struct placement_options options = make_options(strategy);
        EXPECT_STRING(place_by(cluster, &request, &options), expected[strategy]);
        enum placement_strategy parsed;
        struct error err = {0};
        EXPECT(placement_strategy_parse(placement_strategy_name(strategy), &parsed, &err) == 0);
        EXPECT(parsed == strategy);
        placement_cluster_free(cluster);
    }
}

/* Who has the image has all of it, however many others do: it outweighs some load there. */
TEST(placement, copies_of_its_data_make_no_node_less_local)
{
    struct placement_cluster *cluster = cluster_of(5);
    struct placement_hint hints[] = {{"n1", GIB}, {"n2", GIB}, {"n3", GIB}, {"n4", GIB}};
    struct placement_request request = make_request("m");
    struct placement_options options = make_options(PLACEMENT_SPREAD);
    struct error err = {0};
    for (size_t i = 0; i < 4; i++) {
        struct placement_allocation allocation = {
            .request = make_request(hints[i].node), .node = hints[i].node, .grant.numa = -1};
        allocation.request.demand.amounts.of[PLACEMENT_CPU_MILLI] = 2000;
        allocation.request.demand.amounts.of[PLACEMENT_MEMORY] = 8 * GIB;
        EXPECT(placement_cluster_add(cluster, &allocation, &err) == 0);
    }
    EXPECT_STRING(place_by(cluster, &request, &options), "n0");
    EXPECT(placement_cluster_remove(cluster, "m", NULL, &err) == 0);
    request.hints = hints;
    request.hint_count = 4;
    EXPECT(strcmp(place_by(cluster, &request, &options), "n0") != 0);
    placement_cluster_free(cluster);
}

TEST(placement, load_and_failures_repel)
{
    struct placement_cluster *cluster = cluster_of(3);
    struct error err = {0};
    EXPECT(placement_cluster_set_load(cluster, "n0", 8000, 0, &err) == 0);
    const char *avoid = "n1";
    struct placement_request request = make_request("m");
    request.avoid = &avoid;
    request.avoid_count = 1;
    EXPECT_STRING(place(cluster, &request), "n2");
    placement_cluster_free(cluster);
}

/* Goal: a sample decides as well as the whole, and nothing is refused that has a place.
 * Method: 600 nodes, of which one has room. */
TEST(placement, a_sample_does_not_overlook_the_only_place)
{
    struct placement_cluster *cluster = cluster_of(600);
    struct placement_options options;
    placement_options_init(&options, PLACEMENT_BINPACK);
    for (int i = 0; i < 599; i++) {
        char id[16];
        snprintf(id, sizeof(id), "f%d", i);
        struct placement_request request = make_request(id);
        request.demand.amounts.of[PLACEMENT_MEMORY] = 31 * GIB;
        options.seed = (uint64_t)i;
        EXPECT(place_by(cluster, &request, &options)[0] != 0);
    }
    struct placement_request request = make_request("last");
    request.demand.amounts.of[PLACEMENT_MEMORY] = 20 * GIB;
    EXPECT(place_by(cluster, &request, &options)[0] != 0);
    EXPECT(last.nodes_passed == 1);
    request = make_request("none");
    request.may_displace = false;
    request.demand.amounts.of[PLACEMENT_MEMORY] = 20 * GIB;
    EXPECT_STRING(place_by(cluster, &request, &options), "");
    EXPECT(last.refused[PLACEMENT_RESOURCE] == 600);
    EXPECT_STRING(last.reason, "none of 600 nodes: 600 memory");
    expect_sound(cluster);
    placement_cluster_free(cluster);
}

TEST(placement, the_same_seed_chooses_the_same_and_others_differ)
{
    struct placement_cluster *cluster = cluster_of(300);
    struct placement_options options;
    placement_options_init(&options, PLACEMENT_SPREAD);
    struct placement_request request = make_request("m");
    struct error err = {0};
    char first[PLACEMENT_ID_MAX + 1] = "";
    unsigned different = 0;
    for (unsigned i = 0; i < 40; i++) {
        struct placement_decision decision = {0};
        options.seed = i / 2;
        EXPECT(placement_decide(cluster, &request, &options, 0, &decision, &err) == 0);
        EXPECT(decision.is_placed);
        if (i % 2 == 1) {
            EXPECT_STRING(decision.node, first);
        } else {
            different += i > 0 && strcmp(first, decision.node) != 0;
        }
        snprintf(first, sizeof(first), "%s", decision.node);
        placement_decision_done(&decision);
    }
    EXPECT(different > 10);
    placement_cluster_free(cluster);
}
