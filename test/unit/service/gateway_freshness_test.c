/* What fields say about keeping answers. */
#include <string.h>

#include "service/gateway/freshness.h"

#include "test/lib/test.h"

static struct text text(const char *string)
{
    return text_of(string, strlen(string));
}

enum { NOW_S = 1788256800 }; /* Tue, 01 Sep 2026 10:00:00 GMT */

/* Seconds that are left, or -1. */
static long life(const char *control, const char *expires, const char *age, bool is_private)
{
    const struct freshness_answer answer = {.cache_control = text(control),
                                            .expires = text(expires),
                                            .age = text(age),
                                            .date = text(""),
                                            .is_private = is_private};
    uint64_t life_s = 0;
    uint64_t age_s = 0;
    return freshness_life(&answer, NOW_S, &life_s, &age_s) ? (long)(life_s - age_s) : -1;
}

TEST(gateway_freshness, an_answer_lives_as_long_as_it_says)
{
    static const struct {
        const char *control;
        const char *expires;
        const char *age;
        long life;
        long private_life;
    } cases[] = {
        {"max-age=60", "", "", 60, -1},
        {"Max-Age=\"60\", foo=\"a, s-maxage=5\"", "", "", 60, -1},
        {"foo=\"\\\", private\", max-age=60", "", "", 60, -1},
        {"max-age=60, max-age=5", "", "", 60, -1},
        {"max-age=60, s-maxage=0", "", "", -1, -1},
        {"max-age=5, s-maxage=60", "", "", 60, 60},
        {"max-age=60, public", "", "10", 50, 50},
        {"must-revalidate, max-age=60", "", "59", 1, 1},
        {"max-age=60", "", "60", -1, -1},
        {"max-age=fast", "Tue, 01 Sep 2026 10:01:00 GMT", "", -1, -1},
        {"max-age=60, private=\"x, y\"", "", "", -1, -1},
        {"max-age=60, no-cache=\"x\"", "", "", -1, -1},
        {"", "Tue, 01 Sep 2026 10:01:00 GMT", "", 60, -1},
        {"public", "Tuesday, 01-Sep-26 10:01:00 GMT", "", 60, 60},
        {"", "Tue Sep  1 10:00:01 2026", "", 1, -1},
        {"", "Tue, 01 Sep 2026 10:00:00 GMT", "", -1, -1},
        {"", "0", "", -1, -1},
        {"", "", "", -1, -1},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        EXPECT(life(cases[i].control, cases[i].expires, cases[i].age, false) == cases[i].life);
        EXPECT(life(cases[i].control, cases[i].expires, cases[i].age, true) ==
               cases[i].private_life);
    }
}

TEST(gateway_freshness, a_request_says_what_it_wants_of_a_cache)
{
    struct freshness_wish wish;
    freshness_read_wish(text("max-age=0, min-fresh=7 , only-if-cached"), text("no-cache"), &wish);
    EXPECT(!wish.is_anew && !wish.is_not_kept && wish.is_only_if_cached);
    EXPECT(wish.age_max_s == 0 && wish.left_min_s == 7);
    freshness_read_wish(text(""), text("no-cache"), &wish);
    EXPECT(wish.is_anew && !wish.is_not_kept && wish.age_max_s == UINT64_MAX);
    freshness_read_wish(text("no-store"), text(""), &wish);
    EXPECT(wish.is_anew && wish.is_not_kept && !wish.is_only_if_cached);
}

TEST(gateway_freshness, tags_are_compared_whole_and_weakly)
{
    EXPECT(freshness_lists_tag(text("\"a\", W/\"b,c\""), text("\"b,c\"")));
    EXPECT(freshness_lists_tag(text("\"a\""), text("W/\"a\"")));
    EXPECT(freshness_lists_tag(text(" * "), text("\"a\"")));
    EXPECT(!freshness_lists_tag(text("\"ab\""), text("\"a\"")));
    EXPECT(!freshness_lists_tag(text("\"a, b\""), text("b")));
    EXPECT(!freshness_lists_tag(text("\"a\""), text("")));
    EXPECT(!freshness_lists_tag(text(""), text("\"a\"")));
}
