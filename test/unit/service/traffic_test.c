/* Rates of who talks with whom: what they forget, what they keep, and when they are news. */
#include <stdio.h>
#include <string.h>

#include "service/traffic/learn.h"

#include "../../lib/test.h"

enum { MINUTE = 60000 };

static uint64_t rate(const struct learner *learner, const char *subject, const char *peer)
{
    struct learnt top[LEARN_PAIRS_MAX];
    size_t count = learn_top(learner, subject, top, LEARN_PAIRS_MAX);
    for (size_t i = 0; i < count; i++) {
        if (strcmp(top[i].peer, peer) == 0) {
            return top[i].bytes_per_second;
        }
    }
    return 0;
}

TEST(traffic_learn, a_rate_is_right_from_the_first_step_on_and_forgets)
{
    struct learner learner = {.memory_ms = 10 * MINUTE};
    EXPECT(rate(&learner, "machine a", "machine b") == 0);
    for (int i = 0; i < 3; i++) {
        learn_add(&learner, "machine a", "machine b", 60 * 4000);
        learn_add(&learner, "machine a", "machine b", 60 * 2000);
        learn_step(&learner, MINUTE);
        uint64_t now = rate(&learner, "machine a", "machine b");
        EXPECT(now >= 5999 && now <= 6000);
    }
    for (int i = 0; i < 7; i++) { /* e^-0.7, and what there was before counts for less */
        learn_step(&learner, MINUTE);
    }
    uint64_t later = rate(&learner, "machine a", "machine b");
    EXPECT(later > 1000 && later < 3000);
    for (int i = 0; i < 200; i++) {
        learn_step(&learner, MINUTE);
    }
    EXPECT(rate(&learner, "machine a", "machine b") == 0);
    EXPECT(learner.subjects.count == 0);
    learner_done(&learner);
}

/* Goal: who speaks to everybody costs no more, and loses none of those that matter. */
TEST(traffic_learn, memory_is_bounded_and_the_great_ones_stay)
{
    struct learner learner = {.memory_ms = 10 * MINUTE};
    char peer[32];
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 5000; i++) {
            snprintf(peer, sizeof(peer), "machine %d", i);
            learn_add(&learner, "machine a", peer, 10000);
        }
        learn_add(&learner, "machine a", "machine big", 600000000);
        learn_step(&learner, MINUTE);
    }
    struct learnt top[8];
    EXPECT(learn_top(&learner, "machine a", top, 8) == 8);
    EXPECT_STRING(top[0].peer, "machine big");
    EXPECT(top[0].bytes_per_second > 9900000);
    for (int i = 0; i < LEARN_SUBJECTS_MAX + 10; i++) {
        snprintf(peer, sizeof(peer), "machine s%d", i);
        learn_add(&learner, peer, "machine b", 1);
    }
    EXPECT(learner.subjects.count == LEARN_SUBJECTS_MAX);
    learner_done(&learner);
}

TEST(traffic_learn, what_is_little_is_nothing)
{
    struct learner learner = {.memory_ms = MINUTE};
    learn_add(&learner, "machine a", "machine b", 60 * (LEARN_RATE_LEAST - 1));
    learn_add(&learner, "machine a", "machine c", 60 * (LEARN_RATE_LEAST + 1));
    learn_step(&learner, MINUTE);
    EXPECT(rate(&learner, "machine a", "machine b") == 0);
    EXPECT(rate(&learner, "machine a", "machine c") >= LEARN_RATE_LEAST);
    learn_step(&learner, 0); /* no time: nothing is divided by it */
    learn_forget(&learner, "machine a");
    learn_forget(&learner, "machine a");
    EXPECT(rate(&learner, "machine a", "machine c") == 0);
    learner_done(&learner);
}

TEST(traffic_learn, news_is_twice_half_or_somebody_else)
{
    const struct learnt said[] = {{"machine b", 1000}, {"machine c", 200}, {"machine d", 20}};
    struct learnt now[] = {{"machine b", 1900}, {"machine c", 210}, {"machine d", 60}};
    EXPECT(!learn_is_news(said, 3, said, 3));
    EXPECT(!learn_is_news(said, 3, now, 3)); /* d is less than a tenth */
    now[0].bytes_per_second = 2000;
    EXPECT(learn_is_news(said, 3, now, 3));
    now[0].bytes_per_second = 501;
    EXPECT(!learn_is_news(said, 3, now, 3));
    now[0].bytes_per_second = 500;
    EXPECT(learn_is_news(said, 3, now, 3));
    now[0] = (struct learnt){"machine e", 1000};
    EXPECT(learn_is_news(said, 3, now, 3));
    EXPECT(learn_is_news(said, 3, now, 0) && learn_is_news(said, 0, now, 3));
    EXPECT(!learn_is_news(said, 0, now, 0));
    EXPECT(!learn_is_news(said, 3, said, 2)); /* d went */
}
