#include <stdint.h>
#include <string.h>

#include "service/cluster/liveness.h"

#include "test/lib/test.h"

enum { ME = 1, SECOND = 2, THIRD = 3, WORKER = 9, REIGN = 7, START = 100000 };

static const uint64_t voters[] = {ME, SECOND, THIRD};

/* A leader and nodes without a network between: every beat is answered at once. */
struct scene {
    struct liveness_leader leader;
    struct liveness_node nodes[4];
    uint64_t index; /* of the leader's state, and of every node's that does not lag */
    uint64_t now_ms;
};

static struct scene *begin(size_t voter_count)
{
    static struct scene scene;
    memset(&scene, 0, sizeof(scene));
    scene.now_ms = START;
    scene.index = 50;
    const uint64_t ids[] = {ME, SECOND, THIRD, WORKER};
    for (size_t i = 0; i < 4; i++) {
        liveness_node_init(&scene.nodes[i], ids[i]);
    }
    liveness_leader_begin(&scene.leader, REIGN, START);
    liveness_leader_voters(&scene.leader, REIGN, voters, voter_count);
    liveness_leader_ready(&scene.leader, REIGN);
    return &scene;
}

static struct liveness_answer exchange(struct scene *scene, size_t which)
{
    struct liveness_beat beat;
    struct liveness_answer answer;
    liveness_beat(&scene->nodes[which], REIGN, scene->now_ms, &beat);
    liveness_hear(&scene->leader, &beat, scene->index, scene->now_ms, &answer);
    liveness_answered(&scene->nodes[which], &answer, scene->index);
    return answer;
}

/* `rounds` times half a second, in each of which the nodes of the mask beat. */
static void pass(struct scene *scene, unsigned rounds, unsigned mask)
{
    for (unsigned round = 0; round < rounds; round++) {
        scene->now_ms += LIVENESS_BEAT_MS;
        for (size_t i = 0; i < 4; i++) {
            if (mask & 1U << i) {
                exchange(scene, i);
            }
        }
    }
}

TEST(cluster_liveness, silence_becomes_suspicion_and_then_loss)
{
    struct scene *scene = begin(3);
    exchange(scene, 1);
    exchange(scene, 1); /* which says that it heard the first answer */
    struct {
        uint64_t silent_ms;
        enum cluster_health health;
    } cases[] = {
        {0, CLUSTER_HEALTHY},
        {LIVENESS_SUSPECT_MS - 1, CLUSTER_HEALTHY},
        {LIVENESS_SUSPECT_MS, CLUSTER_SUSPECT},
        {LIVENESS_LOST_MS - 1, CLUSTER_SUSPECT},
        {LIVENESS_LOST_MS, CLUSTER_LOST},
        {UINT64_C(1) << 40, CLUSTER_LOST},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint64_t now_ms = START + cases[i].silent_ms;
        EXPECT(liveness_judge(&scene->leader, SECOND, now_ms) == cases[i].health);
        EXPECT(liveness_silent(&scene->leader, SECOND, now_ms) == cases[i].silent_ms);
    }
    EXPECT(liveness_since(&scene->leader, SECOND) == START + LIVENESS_LOST_MS);
}

TEST(cluster_liveness, a_new_leader_loses_nobody_before_a_whole_lease)
{
    struct scene *scene = begin(3);
    EXPECT(liveness_silent(&scene->leader, WORKER, START) == UINT64_MAX);
    EXPECT(liveness_judge(&scene->leader, WORKER, START) == CLUSTER_HEALTHY);
    uint64_t last_ms = START + LIVENESS_LOST_MS - 1;
    EXPECT(liveness_judge(&scene->leader, WORKER, last_ms) == CLUSTER_SUSPECT);
    EXPECT(!liveness_may_move(&scene->leader, WORKER));
    EXPECT(liveness_judge(&scene->leader, WORKER, last_ms + 1) == CLUSTER_LOST);
    EXPECT(liveness_may_move(&scene->leader, WORKER));

    /* The same again: what the reign before knew is void. */
    liveness_leader_end(&scene->leader);
    EXPECT(!liveness_may_move(&scene->leader, WORKER));
    liveness_leader_begin(&scene->leader, REIGN + 2, last_ms + 2);
    EXPECT(liveness_judge(&scene->leader, WORKER, last_ms + 3) == CLUSTER_HEALTHY);
}

TEST(cluster_liveness, a_node_that_is_new_gets_its_time_however_long_the_reign)
{
    struct scene *scene = begin(1);
    pass(scene, 100, 1);
    EXPECT(liveness_judge(&scene->leader, WORKER, scene->now_ms) == CLUSTER_HEALTHY);
    scene->now_ms += LIVENESS_LOST_MS - 1;
    EXPECT(liveness_judge(&scene->leader, WORKER, scene->now_ms) == CLUSTER_SUSPECT);
    EXPECT(liveness_judge(&scene->leader, WORKER, scene->now_ms + 1) == CLUSTER_LOST);
}

TEST(cluster_liveness, a_lease_is_counted_from_the_sending_of_a_proven_beat)
{
    struct scene *scene = begin(1);
    uint64_t first_ms = scene->now_ms;
    EXPECT(!exchange(scene, 0).granted); /* no stamp came back yet */
    EXPECT(!liveness_holds(&scene->nodes[0], scene->now_ms));

    scene->now_ms += LIVENESS_BEAT_MS;
    EXPECT(exchange(scene, 0).granted);
    EXPECT(liveness_holds(&scene->nodes[0], first_ms + LIVENESS_HOLD_MS - 1));
    EXPECT(!liveness_holds(&scene->nodes[0], first_ms + LIVENESS_HOLD_MS));
    EXPECT(liveness_left(&scene->nodes[0], scene->now_ms) == LIVENESS_HOLD_MS - LIVENESS_BEAT_MS);
    EXPECT(liveness_left(&scene->nodes[0], first_ms + LIVENESS_HOLD_MS) == 0);
}

TEST(cluster_liveness, an_answer_that_comes_late_gives_no_more)
{
    struct scene *scene = begin(1);
    struct liveness_node *node = &scene->nodes[3];
    pass(scene, 1, 1);
    struct liveness_beat beat;
    struct liveness_answer answer;
    uint64_t sent_ms = scene->now_ms;
    liveness_beat(node, 0, sent_ms, &beat);
    scene->now_ms += 4000; /* it was under way */
    liveness_hear(&scene->leader, &beat, scene->index, scene->now_ms, &answer);
    pass(scene, 2, 1); /* the leader proves its stamps to itself */
    liveness_answered(node, &answer, scene->index);
    EXPECT(!liveness_holds(node, scene->now_ms)); /* not proven when it was answered */

    liveness_beat(node, 0, scene->now_ms, &beat);
    liveness_hear(&scene->leader, &beat, scene->index, scene->now_ms, &answer);
    EXPECT(answer.granted && answer.proven_ms > 0);
    liveness_answered(node, &answer, scene->index);
    EXPECT(node->until_ms == sent_ms + LIVENESS_HOLD_MS);

    liveness_answered(node, &answer, scene->index); /* twice is once */
    EXPECT(node->until_ms == sent_ms + LIVENESS_HOLD_MS);
}

TEST(cluster_liveness, a_leader_without_a_majority_proves_nothing)
{
    struct scene *scene = begin(3);
    pass(scene, 6, 1 | 8); /* itself and a worker: one vote of three */
    EXPECT(liveness_proven(&scene->leader) == 0);
    EXPECT(!liveness_holds(&scene->nodes[3], scene->now_ms));

    pass(scene, 3, 1 | 2 | 8);
    EXPECT(liveness_proven(&scene->leader) > START);
    EXPECT(liveness_holds(&scene->nodes[3], scene->now_ms));

    /* Cut off from the other voter, the leases end, though leader and worker hear each other. */
    uint64_t cut_ms = scene->now_ms;
    pass(scene, 2 * LIVENESS_HOLD_MS / LIVENESS_BEAT_MS, 1 | 8);
    EXPECT(!liveness_holds(&scene->nodes[3], cut_ms + LIVENESS_HOLD_MS));
    EXPECT(!liveness_holds(&scene->nodes[0], cut_ms + LIVENESS_HOLD_MS));
}

TEST(cluster_liveness, voters_in_a_later_term_prove_nothing_more)
{
    struct scene *scene = begin(3);
    pass(scene, 4, 15);
    uint64_t proven_ms = liveness_proven(&scene->leader);
    EXPECT(proven_ms > START);
    for (unsigned round = 0; round < 20; round++) {
        pass(scene, 1, 1 | 8);
        for (size_t i = 1; i < 3; i++) {
            struct liveness_beat beat;
            struct liveness_answer answer;
            liveness_beat(&scene->nodes[i], REIGN + 1, scene->now_ms, &beat);
            liveness_hear(&scene->leader, &beat, scene->index, scene->now_ms, &answer);
            liveness_answered(&scene->nodes[i], &answer, scene->index);
        }
        EXPECT(liveness_proven(&scene->leader) <= proven_ms + LIVENESS_BEAT_MS);
    }
    for (size_t i = 0; i < 4; i++) {
        EXPECT(!liveness_holds(&scene->nodes[i], scene->now_ms));
    }

    pass(scene, 3, 1 | 2 | 8); /* one of them was not elected, and is back */
    EXPECT(liveness_holds(&scene->nodes[3], scene->now_ms));
}

TEST(cluster_liveness, voters_of_another_term_are_not_asked)
{
    struct scene *scene = begin(3);
    pass(scene, 4, 1 | 2);
    uint64_t proven_ms = liveness_proven(&scene->leader);
    EXPECT(proven_ms > START);
    pass(scene, 4, 1); /* cut off; the others elect, and then leave it alone with itself */
    liveness_leader_voters(&scene->leader, REIGN + 1, voters, 1);
    EXPECT(liveness_proven(&scene->leader) == 0);
    EXPECT(!exchange(scene, 0).granted);
}

TEST(cluster_liveness, echoes_of_voters_are_counted_with_care)
{
    struct scene *scene = begin(3);
    struct liveness_answer answer;
    struct liveness_beat beats[] = {
        {.node = SECOND, .term = REIGN, .reign = REIGN, .echo_ms = UINT64_MAX}, /* of the future */
        {.node = SECOND, .term = REIGN - 1, .reign = REIGN, .echo_ms = START},
        {.node = SECOND, .term = REIGN, .reign = REIGN - 1, .echo_ms = START},
        {.node = WORKER, .term = REIGN, .reign = REIGN, .echo_ms = START},
    };
    pass(scene, 3, 1);
    for (size_t i = 0; i < sizeof(beats) / sizeof(beats[0]); i++) {
        liveness_hear(&scene->leader, &beats[i], scene->index, scene->now_ms, &answer);
        EXPECT(liveness_proven(&scene->leader) == 0);
    }
    beats[0].echo_ms = START;
    liveness_hear(&scene->leader, &beats[0], scene->index, scene->now_ms, &answer);
    EXPECT(liveness_proven(&scene->leader) == START);
}

TEST(cluster_liveness, nothing_is_granted_before_the_reign_is_written)
{
    struct scene *scene = begin(1);
    liveness_leader_begin(&scene->leader, REIGN + 1, START);
    EXPECT(liveness_judge(&scene->leader, WORKER, START) == CLUSTER_HEALTHY);
    liveness_leader_voters(&scene->leader, REIGN + 1, voters, 1);
    liveness_leader_ready(&scene->leader, REIGN); /* too late: of the reign before */
    for (uint64_t round = 0; round < 3; round++) {
        struct liveness_beat beat;
        struct liveness_answer answer;
        scene->now_ms += LIVENESS_BEAT_MS;
        liveness_beat(&scene->nodes[0], REIGN + 1, scene->now_ms, &beat);
        liveness_hear(&scene->leader, &beat, scene->index, scene->now_ms, &answer);
        liveness_answered(&scene->nodes[0], &answer, scene->index);
        EXPECT(answer.proven_ms == 0 || round > 0);
        EXPECT(!answer.granted);
    }
    EXPECT(liveness_judge(&scene->leader, WORKER, START + LIVENESS_LOST_MS) == CLUSTER_LOST);
    EXPECT(!liveness_may_move(&scene->leader, WORKER));
    liveness_leader_ready(&scene->leader, REIGN + 1);
    EXPECT(liveness_may_move(&scene->leader, WORKER));
}

TEST(cluster_liveness, a_node_that_does_not_hear_counts_as_silent)
{
    struct scene *scene = begin(1);
    pass(scene, 3, 1 | 8);
    uint64_t deaf_ms = scene->now_ms;
    uint64_t echo_ms = scene->nodes[3].stamp_ms;
    struct liveness_answer answer = {0};
    while (scene->now_ms < deaf_ms + LIVENESS_LOST_MS + LIVENESS_SUSPECT_MS) {
        struct liveness_beat beat = {.node = WORKER, .reign = REIGN, .echo_ms = echo_ms};
        pass(scene, 1, 1);
        liveness_hear(&scene->leader, &beat, scene->index, scene->now_ms, &answer);
        EXPECT(answer.granted == (scene->now_ms - deaf_ms < LIVENESS_SUSPECT_MS));
        EXPECT(answer.stamp_ms == scene->now_ms); /* it is told that it is one, when it hears */
    }
    EXPECT(liveness_judge(&scene->leader, WORKER, scene->now_ms) == CLUSTER_LOST);
}

TEST(cluster_liveness, a_lost_node_is_barred_until_it_is_readmitted)
{
    struct scene *scene = begin(1);
    pass(scene, 3, 1 | 8);
    pass(scene, LIVENESS_LOST_MS / LIVENESS_BEAT_MS, 1);
    EXPECT(liveness_judge(&scene->leader, WORKER, scene->now_ms) == CLUSTER_LOST);
    EXPECT(liveness_may_move(&scene->leader, WORKER));

    EXPECT(exchange(scene, 3).ticket == 0); /* it may be deaf */
    EXPECT(liveness_may_move(&scene->leader, WORKER));
    struct liveness_answer back = exchange(scene, 3);
    EXPECT(!back.granted && back.ticket != 0);
    EXPECT(!liveness_may_move(&scene->leader, WORKER));
    EXPECT(liveness_judge(&scene->leader, WORKER, scene->now_ms) == CLUSTER_HEALTHY);
    EXPECT(!liveness_may_move(&scene->leader, WORKER));
    EXPECT(exchange(scene, 3).ticket == 0); /* one barrier is enough */

    liveness_readmit_failed(&scene->leader, WORKER, back.ticket);
    struct liveness_answer again = exchange(scene, 3);
    EXPECT(!again.granted && again.ticket != 0 && again.ticket != back.ticket);
    liveness_readmit(&scene->leader, WORKER, back.ticket); /* the wrong one */
    EXPECT(!exchange(scene, 3).granted);
    liveness_readmit(&scene->leader, WORKER, again.ticket);
    EXPECT(exchange(scene, 3).granted);
}

TEST(cluster_liveness, a_barrier_from_before_another_loss_readmits_nobody)
{
    struct scene *scene = begin(1);
    pass(scene, 2, 1 | 8);
    scene->now_ms += LIVENESS_LOST_MS;
    EXPECT(liveness_judge(&scene->leader, WORKER, scene->now_ms) == CLUSTER_LOST);
    exchange(scene, 3);
    uint64_t ticket = exchange(scene, 3).ticket;
    scene->now_ms += LIVENESS_LOST_MS;
    EXPECT(liveness_judge(&scene->leader, WORKER, scene->now_ms) == CLUSTER_LOST);
    EXPECT(liveness_may_move(&scene->leader, WORKER));
    liveness_readmit(&scene->leader, WORKER, ticket);
    EXPECT(liveness_may_move(&scene->leader, WORKER));
    EXPECT(!exchange(scene, 3).granted);
}

TEST(cluster_liveness, a_lease_waits_for_its_index)
{
    struct scene *scene = begin(1);
    struct liveness_node *node = &scene->nodes[3];
    pass(scene, 2, 1);
    /* A node that is always a little behind, while the leader's state goes on with every beat. */
    for (unsigned round = 0; round < 20; round++) {
        scene->now_ms += LIVENESS_BEAT_MS;
        exchange(scene, 0);
        struct liveness_beat beat;
        struct liveness_answer answer;
        uint64_t lagging = scene->index - (round < 5 ? 0 : 1);
        liveness_beat(node, 0, scene->now_ms, &beat);
        liveness_hear(&scene->leader, &beat, scene->index, scene->now_ms, &answer);
        liveness_answered(node, &answer, lagging);
        scene->index++;
        EXPECT(liveness_holds(node, scene->now_ms) == (round > 0));
    }
    /* One that stays behind loses it, whatever it is told. */
    uint64_t stuck = scene->index - 1;
    for (unsigned round = 0; round < 20; round++) {
        scene->now_ms += LIVENESS_BEAT_MS;
        exchange(scene, 0);
        struct liveness_beat beat;
        struct liveness_answer answer;
        liveness_beat(node, 0, scene->now_ms, &beat);
        liveness_hear(&scene->leader, &beat, scene->index, scene->now_ms, &answer);
        liveness_answered(node, &answer, stuck);
        EXPECT(answer.granted);
    }
    EXPECT(!liveness_holds(node, scene->now_ms));
    liveness_applied(node, scene->index);
    EXPECT(liveness_holds(node, scene->now_ms));
}

TEST(cluster_liveness, stamps_of_another_leader_mean_nothing)
{
    struct scene *scene = begin(1);
    struct liveness_node *node = &scene->nodes[3];
    pass(scene, 3, 1 | 8);
    uint64_t until_ms = node->until_ms;
    EXPECT(until_ms > 0);

    /* The next leader's clock is far ahead: by it, all stamps of the last one are proven. */
    struct liveness_beat beat;
    liveness_beat(node, 0, scene->now_ms + 3000, &beat);
    struct liveness_answer answer = {.sequence = beat.sequence,
                                     .reign = REIGN + 1,
                                     .stamp_ms = START * 10,
                                     .proven_ms = START * 10 - 1,
                                     .index = 1,
                                     .granted = true};
    liveness_answered(node, &answer, scene->index);
    EXPECT(node->until_ms == until_ms);

    answer.reign = REIGN; /* and then an old answer of the last one */
    liveness_answered(node, &answer, scene->index);
    EXPECT(node->reign == REIGN + 1 && node->until_ms == until_ms);
}

TEST(cluster_liveness, answers_to_nothing_are_ignored)
{
    struct liveness_node node;
    liveness_node_init(&node, WORKER);
    struct liveness_answer answer = {.reign = 1, .stamp_ms = 1, .proven_ms = 9, .granted = true};
    liveness_answered(&node, &answer, 0);
    answer.sequence = 33;
    liveness_answered(&node, &answer, 0);
    EXPECT(!liveness_holds(&node, 1) && node.reign == 0);
}

TEST(cluster_liveness, more_nodes_than_there_is_room_for_get_nothing)
{
    struct scene *scene = begin(1);
    pass(scene, 3, 1);
    struct liveness_answer answer;
    for (uint64_t i = 1; i < LIVENESS_NODES_MAX; i++) {
        struct liveness_beat beat = {.node = 1000 + i, .reign = REIGN, .echo_ms = scene->now_ms};
        liveness_hear(&scene->leader, &beat, scene->index, scene->now_ms, &answer);
        EXPECT(answer.granted);
    }
    exchange(scene, 3);
    EXPECT(!exchange(scene, 3).granted);
    EXPECT(liveness_judge(&scene->leader, WORKER, scene->now_ms + LIVENESS_LOST_MS) ==
           CLUSTER_SUSPECT);
    liveness_forget(&scene->leader, 1001);
    exchange(scene, 3);
    EXPECT(exchange(scene, 3).granted);
}

/* xorshift64*, and often a value that is next to another. */
static uint64_t odd_value(uint64_t *state, uint64_t near)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    uint64_t value = *state * UINT64_C(2685821657736338717) >> 3;
    const uint64_t values[] = {0, 1, near - 1, near, near + 1, UINT64_MAX, UINT64_MAX - 1, value};
    return values[value % 8];
}

TEST(cluster_liveness, whatever_is_said_nothing_breaks_and_no_lease_is_longer)
{
    struct scene *scene = begin(3);
    struct liveness_node *node = &scene->nodes[1];
    uint64_t state = 99;
    for (unsigned round = 0; round < 200000; round++) {
        scene->now_ms += odd_value(&state, 0) % 1000;
        struct liveness_beat beat = {.node = odd_value(&state, SECOND),
                                     .sequence = odd_value(&state, node->sequence),
                                     .term = odd_value(&state, REIGN),
                                     .reign = odd_value(&state, REIGN),
                                     .echo_ms = odd_value(&state, scene->now_ms)};
        struct liveness_answer answer;
        liveness_hear(&scene->leader, &beat, odd_value(&state, 50), scene->now_ms, &answer);
        EXPECT(liveness_proven(&scene->leader) <= scene->now_ms);
        (void)liveness_judge(&scene->leader, beat.node, scene->now_ms);

        struct liveness_beat own;
        liveness_beat(node, REIGN, scene->now_ms, &own);
        answer = (struct liveness_answer){.sequence = odd_value(&state, own.sequence),
                                          .reign = odd_value(&state, node->reign),
                                          .stamp_ms = odd_value(&state, node->stamp_ms),
                                          .proven_ms = odd_value(&state, node->stamp_ms),
                                          .index = odd_value(&state, 50),
                                          .granted = round % 3 != 0};
        liveness_answered(node, &answer, 50);
        EXPECT(node->until_ms <= scene->now_ms + LIVENESS_HOLD_MS);
        EXPECT(liveness_left(node, scene->now_ms) <= LIVENESS_HOLD_MS);
        if (round % 1000 == 0) { /* or the greatest reign of all ends it */
            liveness_node_init(node, SECOND);
        }
    }
}

static struct liveness_clock at(int64_t offset_ms, uint64_t error_ms)
{
    return (struct liveness_clock){.is_known = true, .offset_ms = offset_ms, .error_ms = error_ms};
}

TEST(cluster_liveness, the_offset_of_a_clock_is_half_a_round_trip_uncertain)
{
    struct liveness_clock clock = liveness_clock_estimate(10000, 9000, 201);
    EXPECT(clock.is_known && clock.offset_ms == 900 && clock.error_ms == 101);
    EXPECT(liveness_clock_estimate(0, UINT64_MAX, 0).offset_ms < 0);
    EXPECT(liveness_clock_estimate(UINT64_MAX, 0, UINT64_MAX).offset_ms > 0);
}

TEST(cluster_liveness, the_clock_that_differs_from_most_is_wrong)
{
    /* The leader's is clocks[0]. */
    struct liveness_clock leader_wrong[] = {at(0, 0), at(2000, 5), at(2010, 5), {0}};
    EXPECT(liveness_clock_wrong(leader_wrong, 4, 0) == -2000);
    EXPECT(liveness_clock_wrong(leader_wrong, 4, 1) == 0);
    EXPECT(liveness_clock_wrong(leader_wrong, 4, 3) == 0);

    struct liveness_clock other_wrong[] = {at(0, 0), at(10, 5), at(-700, 5)};
    EXPECT(liveness_clock_wrong(other_wrong, 3, 0) == 0);
    EXPECT(liveness_clock_wrong(other_wrong, 3, 2) == -700);

    struct liveness_clock halves[] = {at(0, 0), at(3600000, 5), at(4, 5), at(3600010, 5)};
    EXPECT(liveness_clock_wrong(halves, 4, 0) == 0);
    EXPECT(liveness_clock_wrong(halves, 4, 1) == 3600000);
    EXPECT(liveness_clock_wrong(halves, 4, 2) == 0);
    EXPECT(liveness_clock_wrong(halves, 4, 3) == 3600010);

    struct liveness_clock two[] = {at(0, 0), at(501, 0)};
    EXPECT(liveness_clock_wrong(two, 2, 1) == 501);
    EXPECT(liveness_clock_wrong(two, 2, 0) == 0);
    two[1].offset_ms = 500;
    EXPECT(liveness_clock_wrong(two, 2, 1) == 0);
    two[1] = at(900, 400); /* that is not certain */
    EXPECT(liveness_clock_wrong(two, 2, 1) == 0);
}
