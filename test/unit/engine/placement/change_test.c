/* What changes: decisions against newer clusters, displacing, gangs, reservations, moving. */
#include "base/error.h"
#include "base/memory.h"

#include "engine/placement/placement.h"

#include "test/lib/test.h"
#include "test/unit/engine/placement/cluster.h"

static struct placement_request sized(const char *id, uint64_t memory, uint32_t priority)
{
    struct placement_request request = make_request(id);
    request.demand.amounts.of[PLACEMENT_MEMORY] = memory;
    request.demand.amounts.of[PLACEMENT_CPU_MILLI] = 100;
    request.priority = priority;
    return request;
}

static struct placement_decision decide_now(struct placement_cluster *cluster,
                                            const struct placement_request *request,
                                            uint64_t now_ms)
{
    struct placement_options options = make_options(PLACEMENT_BINPACK);
    struct placement_decision decision = {0};
    struct error err = {0};
    EXPECT(placement_decide(cluster, request, &options, now_ms, &decision, &err) == 0);
    return decision;
}

TEST(placement_change, two_deciders_conflict_and_the_second_is_told)
{
    struct placement_cluster *cluster = placement_cluster_new();
    struct placement_node node = make_node("n");
    struct error err = {0};
    add_node(cluster, &node);
    uint16_t port = 80;
    struct placement_request first = sized("a", GIB, 50), second = sized("b", GIB, 50);
    first.demand.ports = second.demand.ports = &port;
    first.demand.port_count = second.demand.port_count = 1;
    struct placement_decision one = decide_now(cluster, &first, 0);
    struct placement_decision two = decide_now(cluster, &second, 0);
    EXPECT(one.is_placed && two.is_placed);
    EXPECT(placement_commit(cluster, &first, &one, 0, &err) == 0);
    EXPECT(placement_check(cluster, &second, &two, 0, &err) == -ERROR_CONFLICT);
    EXPECT(strstr(err.text, "the port 80 is taken") != NULL);
    EXPECT(placement_commit(cluster, &second, &two, 0, &err) == -ERROR_CONFLICT);
    EXPECT(placement_cluster_allocation_count(cluster) == 1);
    /* The same one twice. */
    EXPECT(placement_commit(cluster, &first, &one, 0, &err) == -ERROR_CONFLICT);
    placement_decision_done(&two);

    /* Cordoned, shrunk, gone. */
    struct placement_request third = sized("c", 20 * GIB, 50);
    struct placement_decision three = decide_now(cluster, &third, 0);
    EXPECT(placement_cluster_set_state(cluster, "n", true, false, NULL, &err) == 0);
    EXPECT(placement_check(cluster, &third, &three, 0, &err) == -ERROR_CONFLICT);
    EXPECT(strstr(err.text, "cordoned") != NULL);
    node.capacity.of[PLACEMENT_MEMORY] = 16 * GIB;
    add_node(cluster, &node);
    EXPECT(placement_check(cluster, &third, &three, 0, &err) == -ERROR_CONFLICT);
    EXPECT(placement_cluster_remove_node(cluster, "n", &err) == 0);
    EXPECT(placement_check(cluster, &third, &three, 0, &err) == -ERROR_CONFLICT);
    EXPECT(placement_cluster_allocation_count(cluster) == 0);
    placement_decision_done(&one);
    placement_decision_done(&three);
    placement_cluster_free(cluster);
}

TEST(placement_change, the_smallest_set_of_the_least_important_is_displaced)
{
    struct placement_cluster *cluster = placement_cluster_new();
    struct placement_node node = make_node("n");
    add_node(cluster, &node);
    struct placement_request there[] = {sized("low1", 8 * GIB, 10), sized("low2", 8 * GIB, 10),
                                        sized("mid", 8 * GIB, 30), sized("high", 8 * GIB, 50)};
    for (size_t i = 0; i < 4; i++) {
        EXPECT_STRING(place(cluster, &there[i]), "n");
    }
    struct placement_request request = sized("new", 8 * GIB, 60);
    request.may_displace = false;
    EXPECT_STRING(place(cluster, &request), "");
    request.may_displace = true;
    EXPECT_STRING(place(cluster, &request), "n");
    EXPECT(last.victim_count == 1 && last.victims[0].priority == 10);
    EXPECT(strstr(last.victims[0].reason, "its own is 10") != NULL);
    EXPECT(placement_cluster_allocation_count(cluster) == 4);
    /* 16 GiB: the other low one and mid, not high; and not those who are as important. */
    request = sized("new2", 16 * GIB, 60);
    EXPECT_STRING(place(cluster, &request), "n");
    EXPECT(last.victim_count == 2 && last.victims[0].priority <= 30 &&
           last.victims[1].priority <= 30);
    request = sized("new3", 16 * GIB, 55);
    EXPECT_STRING(place(cluster, &request), "");
    expect_sound(cluster);
    placement_cluster_free(cluster);
}

TEST(placement_change, one_victim_is_better_than_two_and_the_budget_holds)
{
    struct placement_cluster *cluster = placement_cluster_new();
    struct placement_node node = make_node("n");
    add_node(cluster, &node);
    struct placement_request there[] = {sized("a", 4 * GIB, 10), sized("b", 4 * GIB, 10),
                                        sized("c", 8 * GIB, 10), sized("d", 16 * GIB, 10)};
    for (size_t i = 0; i < 4; i++) {
        EXPECT_STRING(place(cluster, &there[i]), "n");
    }
    struct placement_request request = sized("new", 8 * GIB, 50);
    struct placement_decision decision = decide_now(cluster, &request, 0);
    EXPECT(decision.victim_count == 1);
    placement_decision_done(&decision);
    request = sized("big", 32 * GIB, 50);
    struct placement_options options = make_options(PLACEMENT_BINPACK);
    options.displaced_max = 3;
    EXPECT_STRING(place_by(cluster, &request, &options), "");
    options.displaced_max = 4;
    EXPECT_STRING(place_by(cluster, &request, &options), "n");
    EXPECT(last.victim_count == 4 && placement_cluster_allocation_count(cluster) == 1);
    placement_cluster_free(cluster);
}

TEST(placement_change, a_victim_that_is_gone_already_is_no_conflict)
{
    struct placement_cluster *cluster = placement_cluster_new();
    struct placement_node node = make_node("n");
    struct error err = {0};
    add_node(cluster, &node);
    struct placement_request low = sized("low", 30 * GIB, 10), new = sized("new", 30 * GIB, 50);
    EXPECT_STRING(place(cluster, &low), "n");
    struct placement_decision decision = decide_now(cluster, &new, 0);
    EXPECT(decision.victim_count == 1);
    EXPECT(placement_cluster_remove(cluster, "low", NULL, &err) == 0);
    EXPECT(placement_commit(cluster, &new, &decision, 0, &err) == 0);
    EXPECT(placement_cluster_allocation_count(cluster) == 1);
    placement_decision_done(&decision);
    placement_cluster_free(cluster);
}

TEST(placement_change, a_gang_is_placed_whole_or_not_at_all)
{
    struct placement_cluster *cluster = placement_cluster_new();
    struct placement_options options = make_options(PLACEMENT_BINPACK);
    struct placement_decision decisions[4] = {0};
    struct error err = {0};
    add_nodes(cluster, 3);
    struct placement_rules *rules = make_rules("{\"constraints\": [\"distinct_hosts\"]}");
    struct placement_request gang[4];
    static const char *const ids[] = {"g0", "g1", "g2", "g3"};
    for (size_t i = 0; i < 4; i++) {
        gang[i] = sized(ids[i], (i + 1) * GIB, 50);
        gang[i].rules = rules;
        gang[i].job = "gang";
    }
    EXPECT(placement_decide_gang(cluster, gang, 4, &options, 0, decisions, &err) == 0);
    for (size_t i = 0; i < 4; i++) {
        EXPECT(!decisions[i].is_placed && decisions[i].reason[0] != 0);
        EXPECT((decisions[i].wakes & PLACEMENT_WAKE_DISTINCT) != 0);
        placement_decision_done(&decisions[i]);
    }
    EXPECT(strstr(decisions[3].reason, "all or none, and g0 found no place") != NULL);
    EXPECT(placement_cluster_allocation_count(cluster) == 0);
    expect_sound(cluster);
    EXPECT(placement_decide_gang(cluster, gang, 3, &options, 0, decisions, &err) == 0);
    EXPECT(placement_cluster_allocation_count(cluster) == 0); /* nothing is committed yet */
    for (size_t i = 0; i < 3; i++) {
        EXPECT(decisions[i].is_placed);
        EXPECT(placement_commit(cluster, &gang[i], &decisions[i], 0, &err) == 0);
        placement_decision_done(&decisions[i]);
    }
    expect_sound(cluster);
    gang[1].id = "g0";
    EXPECT(placement_decide_gang(cluster, gang, 2, &options, 0, decisions, &err) == -ERROR_INVALID);
    placement_rules_unref(rules);
    placement_cluster_free(cluster);
}

TEST(placement_change, a_gang_displaces_each_victim_once)
{
    struct placement_cluster *cluster = placement_cluster_new();
    struct placement_options options = make_options(PLACEMENT_BINPACK);
    struct placement_decision decisions[2] = {0};
    struct error err = {0};
    add_nodes(cluster, 2);
    struct placement_request low0 = sized("low0", 30 * GIB, 10), low1 = sized("low1", 30 * GIB, 10);
    place(cluster, &low0);
    place(cluster, &low1);
    struct placement_request gang[2] = {sized("g0", 20 * GIB, 50), sized("g1", 20 * GIB, 50)};
    EXPECT(placement_decide_gang(cluster, gang, 2, &options, 0, decisions, &err) == 0);
    EXPECT(decisions[0].victim_count == 1 && decisions[1].victim_count == 1);
    EXPECT(strcmp(decisions[0].victims[0].id, decisions[1].victims[0].id) != 0);
    EXPECT(placement_cluster_allocation_count(cluster) == 2);
    for (size_t i = 0; i < 2; i++) {
        EXPECT(placement_commit(cluster, &gang[i], &decisions[i], 0, &err) == 0);
        placement_decision_done(&decisions[i]);
    }
    EXPECT(placement_cluster_where(cluster, "low0") == NULL);
    expect_sound(cluster);
    placement_cluster_free(cluster);
}

static void note(const char *id, const struct placement_change *change, void *context)
{
    EXPECT((change->wakes & PLACEMENT_WAKE_RESERVATION) != 0);
    snprintf(context, 64, "%s", id);
}

TEST(placement_change, reservations_count_until_they_expire)
{
    struct placement_cluster *cluster = placement_cluster_new();
    struct placement_node node = make_node("n");
    struct error err = {0};
    add_node(cluster, &node);
    struct placement_request held = sized("held", 20 * GIB, 50);
    struct placement_decision decision = decide_now(cluster, &held, 0);
    EXPECT(placement_reserve(cluster, &held, &decision, 0, 1000, &err) == 0);
    placement_decision_done(&decision);

    struct placement_request other = sized("other", 20 * GIB, 50);
    decision = decide_now(cluster, &other, 999);
    EXPECT(!decision.is_placed && decision.wake_ms == 1000);
    EXPECT((decision.wakes & PLACEMENT_WAKE_RESERVATION) != 0);
    placement_decision_done(&decision);

    /* Whoever has the reservation takes its place. */
    struct placement_request mine = sized("mine", 25 * GIB, 50);
    mine.reservation = "held";
    decision = decide_now(cluster, &mine, 999);
    EXPECT(decision.is_placed && decision.takes_reservation);
    EXPECT(placement_check(cluster, &mine, &decision, 999, &err) == 0);
    placement_decision_done(&decision);

    decision = decide_now(cluster, &other, 1000);
    EXPECT(decision.is_placed);
    placement_decision_done(&decision);
    /* A clock that goes back does not bring it back. */
    decision = decide_now(cluster, &other, 500);
    EXPECT(decision.is_placed);
    placement_decision_done(&decision);
    char id[64] = "";
    placement_cluster_expire(cluster, 1000, note, id);
    EXPECT_STRING(id, "held");
    EXPECT(placement_cluster_allocation_count(cluster) == 0);
    placement_cluster_free(cluster);
}

TEST(placement_change, taking_a_reservation_commits_as_one)
{
    struct placement_cluster *cluster = placement_cluster_new();
    struct placement_node node = make_node("n");
    struct error err = {0};
    add_node(cluster, &node);
    struct placement_request held = sized("held", 20 * GIB, 50), mine = sized("mine", 30 * GIB, 50);
    struct placement_decision decision = decide_now(cluster, &held, 0);
    EXPECT(placement_reserve(cluster, &held, &decision, 0, 1000, &err) == 0);
    placement_decision_done(&decision);
    mine.reservation = "held";
    decision = decide_now(cluster, &mine, 0);
    EXPECT(placement_commit(cluster, &mine, &decision, 0, &err) == 0);
    placement_decision_done(&decision);
    EXPECT(placement_cluster_allocation_count(cluster) == 1);
    EXPECT(placement_cluster_where(cluster, "held") == NULL);
    /* A node that goes takes reservations with it, lapsed ones too. */
    held = sized("held2", GIB, 50);
    decision = decide_now(cluster, &held, 0);
    EXPECT(placement_reserve(cluster, &held, &decision, 0, 10, &err) == 0);
    placement_decision_done(&decision);
    decision = decide_now(cluster, &held, 20);
    placement_decision_done(&decision);
    EXPECT(placement_cluster_remove_node(cluster, "n", &err) == 0);
    EXPECT(placement_cluster_allocation_count(cluster) == 0);
    placement_cluster_free(cluster);
}

/* One that is on its way keeps room, and is of its job, until it has come or does not. */
TEST(placement_change, who_is_refused_by_what_expires_is_woken_by_its_end)
{
    struct placement_cluster *cluster = placement_cluster_new();
    struct placement_node node = make_node("n");
    struct error err = {0};
    struct placement_rules *rules =
        make_rules("{\"constraints\": [{\"operator\": \"distinct_hosts\"}]}");
    add_node(cluster, &node);
    struct placement_request held = sized("held", GIB, 50), other = sized("other", GIB, 50);
    held.job = other.job = "job";
    held.rules = other.rules = rules;
    struct placement_decision decision = decide_now(cluster, &held, 0);
    EXPECT(placement_reserve(cluster, &held, &decision, 0, 1000, &err) == 0);
    placement_decision_done(&decision);
    decision = decide_now(cluster, &other, 999);
    EXPECT(!decision.is_placed && decision.refused[PLACEMENT_DISTINCT] == 1);
    EXPECT(decision.wake_ms == 1000);
    placement_decision_done(&decision);
    decision = decide_now(cluster, &other, 1000);
    EXPECT(decision.is_placed);
    placement_decision_done(&decision);
    placement_cluster_free(cluster);
    placement_rules_unref(rules);
}

/* Goal: what is blocked is woken by what can help it, and by nothing else. */
TEST(placement_change, only_what_can_help_helps)
{
    struct placement_cluster *cluster = placement_cluster_new();
    struct placement_change change;
    struct error err = {0};
    add_nodes(cluster, 3);
    struct placement_request big0 = sized("big0", 30 * GIB, 50), big1 = sized("big1", 30 * GIB, 50);
    struct placement_request big2 = sized("big2", 30 * GIB, 50), tiny = sized("tiny", GIB, 50);
    place(cluster, &big0);
    place(cluster, &big1);
    place(cluster, &big2);
    place(cluster, &tiny);
    struct placement_request request = sized("new", 20 * GIB, 50);
    request.may_displace = false;
    request.rules = make_rules("{\"constraints\": [\"node.id != n0\"]}");
    struct placement_decision blocked = decide_now(cluster, &request, 0);
    EXPECT(!blocked.is_placed);
    /* Too little, at whichever node. */
    EXPECT(placement_cluster_remove(cluster, "tiny", &change, &err) == 0);
    EXPECT(!placement_helps(cluster, &request, &blocked, &change));
    /* Enough, but at a node that the rules forbid. */
    static const char *const bigs[] = {"big0", "big1", "big2"};
    for (size_t i = 0; i < 3; i++) {
        bool is_forbidden = strcmp(placement_cluster_where(cluster, bigs[i]), "n0") == 0;
        EXPECT(placement_cluster_remove(cluster, bigs[i], &change, &err) == 0);
        EXPECT(placement_helps(cluster, &request, &blocked, &change) == !is_forbidden);
    }
    /* A new node. */
    struct placement_node node = make_node("n9");
    EXPECT(placement_cluster_set_node(cluster, &node, &change, &err) == 0);
    EXPECT(placement_helps(cluster, &request, &blocked, &change));
    /* The same again changes nothing. */
    EXPECT(placement_cluster_set_node(cluster, &node, &change, &err) == 0);
    EXPECT(change.wakes == 0);
    placement_decision_done(&blocked);
    placement_rules_unref(request.rules);
    placement_cluster_free(cluster);
}

TEST(placement_change, a_taint_or_label_that_changes_wakes_who_waits_for_it)
{
    struct placement_cluster *cluster = placement_cluster_new();
    struct placement_taint taint = {"gpu", "", PLACEMENT_NO_SCHEDULE};
    struct placement_node node = make_node("n");
    struct placement_change change;
    struct error err = {0};
    node.taints = &taint;
    node.taint_count = 1;
    add_node(cluster, &node);
    struct placement_request tainted = sized("t", GIB, 50), labelled = sized("l", GIB, 50);
    struct placement_decision blocked = decide_now(cluster, &tainted, 0);
    node.taint_count = 0;
    EXPECT(placement_cluster_set_node(cluster, &node, &change, &err) == 0);
    EXPECT(change.wakes == PLACEMENT_WAKE_TAINTS);
    EXPECT(placement_helps(cluster, &tainted, &blocked, &change));
    placement_decision_done(&blocked);
    labelled.rules = make_rules("{\"constraints\": [\"label.disk = ssd\"]}");
    blocked = decide_now(cluster, &labelled, 0);
    EXPECT(!placement_helps(cluster, &labelled, &blocked, &change));
    struct placement_attribute label = {"label.disk", "hdd"};
    node.attributes = &label;
    node.attribute_count = 1;
    EXPECT(placement_cluster_set_node(cluster, &node, &change, &err) == 0);
    EXPECT(!placement_helps(cluster, &labelled, &blocked, &change));
    label.value = "ssd";
    EXPECT(placement_cluster_set_node(cluster, &node, &change, &err) == 0);
    EXPECT(placement_helps(cluster, &labelled, &blocked, &change));
    placement_decision_done(&blocked);
    placement_rules_unref(labelled.rules);
    placement_cluster_free(cluster);
}

struct explained {
    size_t passed, refused;
    char best[64];
    double score;
    char reason[PLACEMENT_REASON_MAX];
};

static void take_note(const struct placement_verdict *verdict, void *context)
{
    struct explained *explained = context;
    if (verdict->filter != PLACEMENT_PASSED) {
        explained->refused++;
        snprintf(explained->reason, sizeof(explained->reason), "%s", verdict->reason);
        return;
    }
    if (explained->passed++ == 0 || verdict->score > explained->score) {
        explained->score = verdict->score;
        snprintf(explained->best, sizeof(explained->best), "%s", verdict->node_name);
    }
}

TEST(placement_change, explaining_agrees_with_deciding_also_for_what_runs)
{
    struct placement_cluster *cluster = placement_cluster_new();
    struct placement_options options = make_options(PLACEMENT_BINPACK);
    struct error err = {0};
    add_nodes(cluster, 6);
    struct placement_request request = sized("m", 30 * GIB, 50);
    request.job = "m";
    request.rules = make_rules("{\"constraints\": [\"zone != b\", \"distinct_hosts\"]}");
    for (int turn = 0; turn < 2; turn++) {
        struct explained explained = {0};
        EXPECT(placement_explain(cluster, &request, &options, 0, take_note, &explained, &err) == 0);
        EXPECT(explained.passed == 4 && explained.refused == 2);
        EXPECT_STRING(explained.reason, "${node.zone} != b: here it is \"b\"");
        if (turn == 0) {
            struct placement_decision decision = decide_now(cluster, &request, 0);
            EXPECT(decision.score == explained.score);
            EXPECT(placement_commit(cluster, &request, &decision, 0, &err) == 0);
            placement_decision_done(&decision);
        }
    }
    struct placement_request other = sized("other", 30 * GIB, 50);
    struct explained explained = {0};
    EXPECT(placement_explain(cluster, &other, &options, 0, take_note, &explained, &err) == 0);
    EXPECT(explained.refused == 1);
    EXPECT_STRING(explained.reason,
                  "not enough: 30 GiB of memory wanted, 2 GiB of memory free of 32 GiB of memory");
    placement_rules_unref(request.rules);
    placement_cluster_free(cluster);
}

/* The reason says how many are lacking, and what sets them aside. */
TEST(placement_change, lacking_huge_pages_are_told_with_what_to_do)
{
    struct placement_cluster *cluster = placement_cluster_new();
    struct placement_options options = make_options(PLACEMENT_BINPACK);
    struct placement_node node = make_node("n");
    struct explained explained = {0};
    struct error err = {0};
    node.capacity.of[PLACEMENT_HUGE_2M] = 100;
    add_node(cluster, &node);
    struct placement_request first = make_request("first");
    first.demand.amounts = (struct placement_amounts){0};
    first.demand.amounts.of[PLACEMENT_HUGE_2M] = 60;
    EXPECT_STRING(place(cluster, &first), "n");
    struct placement_request second = make_request("second");
    second.demand.amounts = first.demand.amounts;
    EXPECT_STRING(place(cluster, &second), "");
    EXPECT(placement_explain(cluster, &second, &options, 0, take_note, &explained, &err) == 0);
    EXPECT_STRING(explained.reason,
                  "not enough huge pages of 2MiB: 60 wanted, 40 free of 100; 20 more would do "
                  "(sysctl vm.nr_hugepages)");
    placement_cluster_free(cluster);
}

TEST(placement_change, what_runs_may_stay_until_a_taint_or_label_says_otherwise)
{
    struct placement_cluster *cluster = placement_cluster_new();
    struct placement_attribute label = {"label.disk", "ssd"};
    struct placement_node node = make_node("n");
    enum placement_filter filter;
    uint32_t leave_s;
    char reason[PLACEMENT_REASON_MAX];
    struct error err = {0};
    node.attributes = &label;
    node.attribute_count = 1;
    add_node(cluster, &node);
    struct placement_request request = sized("m", 30 * GIB, 50);
    request.rules = make_rules("{\"constraints\": [\"label.disk = ssd\", \"distinct_hosts\"],"
                               " \"tolerations\": [\"down:NoExecute:300\"]}");
    request.job = "m";
    EXPECT_STRING(place(cluster, &request), "n");
    EXPECT(placement_may_stay(cluster, "m", &filter, &leave_s, reason, &err) == 0);
    EXPECT(filter == PLACEMENT_PASSED && leave_s == UINT32_MAX);

    struct placement_taint taint = {"gpu", "", PLACEMENT_NO_SCHEDULE};
    node.taints = &taint;
    node.taint_count = 1;
    add_node(cluster, &node);
    EXPECT(placement_may_stay(cluster, "m", &filter, &leave_s, reason, &err) == 0);
    EXPECT(filter == PLACEMENT_PASSED && leave_s == UINT32_MAX);
    taint.effect = PLACEMENT_NO_EXECUTE;
    add_node(cluster, &node);
    EXPECT(placement_may_stay(cluster, "m", &filter, &leave_s, reason, &err) == 0);
    EXPECT(filter == PLACEMENT_TAINT && leave_s == 0);
    snprintf(taint.key, sizeof(taint.key), "down");
    add_node(cluster, &node);
    EXPECT(placement_may_stay(cluster, "m", &filter, &leave_s, reason, &err) == 0);
    EXPECT(filter == PLACEMENT_PASSED && leave_s == 300);
    label.value = "hdd";
    add_node(cluster, &node);
    EXPECT(placement_may_stay(cluster, "m", &filter, &leave_s, reason, &err) == 0);
    EXPECT(filter == PLACEMENT_CONSTRAINT);
    EXPECT(placement_may_stay(cluster, "x", &filter, &leave_s, reason, &err) == -ERROR_NOT_FOUND);
    placement_rules_unref(request.rules);
    placement_cluster_free(cluster);
}

TEST(placement_change, rebalancing_moves_what_may_and_helps)
{
    struct placement_cluster *cluster = placement_cluster_new();
    struct error err = {0};
    struct placement_node node = make_node("full");
    add_node(cluster, &node);
    static const char *const ids[] = {"m0", "m1", "m2", "m3", "m4", "m5"};
    for (size_t i = 0; i < 6; i++) {
        struct placement_request request = sized(ids[i], 5 * GIB, 50);
        request.may_be_moved = i != 0;
        EXPECT_STRING(place(cluster, &request), "full");
    }
    struct placement_node empty = make_node("empty");
    add_node(cluster, &empty);
    struct placement_rebalance_options options = {
        .options = make_options(PLACEMENT_BINPACK),
        .threshold_percent = 20,
        .batch_max = 16,
        .gain_min_percent = 5,
    };
    struct placement_rebalance plan = {0};
    EXPECT(placement_rebalance(cluster, &options, 0, &plan, &err) == 0);
    EXPECT(plan.move_count == 3 && plan.spread_before > 0.9 && plan.spread_after < 0.2);
    for (size_t i = 0; i < plan.move_count; i++) {
        EXPECT(strcmp(plan.moves[i].id, "m0") != 0);
        EXPECT_STRING(plan.moves[i].from, "full");
        EXPECT_STRING(plan.moves[i].to, "empty");
        EXPECT(plan.moves[i].gain > 0.05);
        EXPECT_STRING(placement_cluster_where(cluster, plan.moves[i].id), "full");
    }
    free(plan.moves);
    options.batch_max = 1;
    EXPECT(placement_rebalance(cluster, &options, 0, &plan, &err) == 0);
    EXPECT(plan.move_count == 1);
    free(plan.moves);
    options.threshold_percent = 99;
    EXPECT(placement_rebalance(cluster, &options, 0, &plan, &err) == 0);
    EXPECT(plan.move_count == 0 && strstr(plan.reason, "threshold") != NULL);
    free(plan.moves);
    EXPECT(placement_cluster_set_state(cluster, "empty", true, false, NULL, &err) == 0);
    options.threshold_percent = 20;
    EXPECT(placement_rebalance(cluster, &options, 0, &plan, &err) == 0);
    EXPECT(plan.move_count == 0);
    free(plan.moves);
    expect_sound(cluster);
    placement_cluster_free(cluster);
}

TEST(placement_change, what_is_asked_wrongly_is_refused)
{
    struct placement_cluster *cluster = placement_cluster_new();
    struct placement_options options = make_options(PLACEMENT_BINPACK);
    struct placement_decision decision = {0};
    struct error err = {0};
    add_nodes(cluster, 1);
    struct placement_request request = sized("m", GIB, 101);
    EXPECT(placement_decide(cluster, &request, &options, 0, &decision, &err) == -ERROR_INVALID);
    request = sized("", GIB, 50);
    EXPECT(placement_decide(cluster, &request, &options, 0, &decision, &err) == -ERROR_INVALID);
    request = sized("a\nb", GIB, 50);
    EXPECT(placement_decide(cluster, &request, &options, 0, &decision, &err) == -ERROR_INVALID);
    request = sized("m", UINT64_MAX, 50);
    EXPECT(placement_decide(cluster, &request, &options, 0, &decision, &err) == -ERROR_INVALID);
    request = sized("m", GIB, 50);
    request.group = (struct placement_group){"g", PLACEMENT_GROUP_SPREAD, PLACEMENT_STRICT, "disk"};
    EXPECT(placement_decide(cluster, &request, &options, 0, &decision, &err) == -ERROR_INVALID);
    request = sized("m", GIB, 50);
    options.weights[PLACEMENT_PART_FIT] = 1001;
    EXPECT(placement_decide(cluster, &request, &options, 0, &decision, &err) == -ERROR_INVALID);
    struct placement_allocation allocation = {.request = request, .node = "n9", .grant.numa = -1};
    EXPECT(placement_cluster_add(cluster, &allocation, &err) == -ERROR_NOT_FOUND);
    allocation.node = "n0";
    EXPECT(placement_cluster_add(cluster, &allocation, &err) == 0);
    EXPECT(placement_cluster_add(cluster, &allocation, &err) == -ERROR_EXISTS);
    struct placement_node twin = make_node("n1");
    twin.name = "n0";
    EXPECT(placement_cluster_set_node(cluster, &twin, NULL, &err) == -ERROR_EXISTS);
    placement_cluster_free(cluster);
}
