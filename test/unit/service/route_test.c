/* Paths of routes, and token buckets. */
#include <stdio.h>
#include <string.h>

#include "base/error.h"

#include "service/route/limiter.h"
#include "service/route/pattern.h"

#include "test/lib/test.h"

static bool is_good(const char *pattern)
{
    struct error err = {0};
    return pattern_check(pattern, &err) == 0;
}

/* "name=value ..." of a match; "-" when there is none. */
static const char *match(const char *pattern, const char *path)
{
    static char text[256];
    struct pattern_match found;
    text[0] = '\0';
    if (!pattern_matches(pattern, text_of(path, strlen(path)), &found)) {
        return "-";
    }
    for (size_t i = 0; i < found.count; i++) {
        size_t used = strlen(text);
        snprintf(text + used, sizeof(text) - used, "%s%.*s=%.*s", i > 0 ? " " : "",
                 (int)found.parameters[i].name.length, found.parameters[i].name.data,
                 (int)found.parameters[i].value.length, found.parameters[i].value.data);
    }
    return text;
}

TEST(route, patterns_are_checked)
{
    EXPECT(is_good("/") && is_good("/users") && is_good("/users/{id}/posts/{rest...}"));
    EXPECT(is_good("/a%20b/c.d~e"));
    EXPECT(!is_good("") && !is_good("users") && !is_good("/users/{}") && !is_good("/{id"));
    EXPECT(!is_good("/{a...}/b") && !is_good("/{a}/{a}") && !is_good("/{1a}") &&
           !is_good("/{a-b}"));
    EXPECT(!is_good("/a b") && !is_good("/a?b") && !is_good("/{...}") && !is_good("/x{id}"));
    EXPECT(!is_good("/fn/hello") && !is_good("/fn"));
    EXPECT(!is_good("/{a}/{b}/{c}/{d}/{e}/{f}/{g}/{h}/{i}"));
}

TEST(route, patterns_match_segments)
{
    EXPECT_STRING(match("/", "/"), "");
    EXPECT_STRING(match("/users", "/users"), "");
    EXPECT_STRING(match("/users", "/users/"), "-");
    EXPECT_STRING(match("/users", "/user"), "-");
    EXPECT_STRING(match("/users/{id}", "/users/7"), "id=7");
    EXPECT_STRING(match("/users/{id}", "/users/"), "-");
    EXPECT_STRING(match("/users/{id}", "/users/7/x"), "-");
    EXPECT_STRING(match("/users/{id}/posts/{post}", "/users/7/posts/a%2Fb"), "id=7 post=a%2Fb");
    EXPECT_STRING(match("/files/{path...}", "/files/a/b/c"), "path=a/b/c");
    EXPECT_STRING(match("/files/{path...}", "/files/"), "path=");
    EXPECT_STRING(match("/files/{path...}", "/files"), "-");
    EXPECT_STRING(match("/{all...}", "/"), "all=");
}

TEST(route, text_is_asked_before_parameters)
{
    EXPECT(pattern_compare("/users/me", "/users/{id}") < 0);
    EXPECT(pattern_compare("/users/{id}", "/users/{rest...}") < 0);
    EXPECT(pattern_compare("/users/{id}/x", "/users/{id}") < 0);
    EXPECT(pattern_compare("/{a}", "/{b}") == 0);
}

TEST(route, a_bucket_lets_a_burst_in_and_then_so_many_a_second)
{
    struct route_limiter *limiter = limiter_new(10, 3, true);
    uint64_t wait_ms = 0;
    for (int i = 0; i < 3; i++) {
        EXPECT(limiter_admit(limiter, "a", 1000, &wait_ms));
    }
    EXPECT(!limiter_admit(limiter, "a", 1000, &wait_ms) && wait_ms == 100);
    EXPECT(limiter_admit(limiter, "b", 1000, &wait_ms));
    EXPECT(!limiter_admit(limiter, "a", 1099, &wait_ms));
    EXPECT(limiter_admit(limiter, "a", 1100, &wait_ms));
    EXPECT(!limiter_admit(limiter, "a", 1100, &wait_ms));
    EXPECT(limiter_admit(limiter, "a", 900000, &wait_ms)); /* full again, and not more than full */
    limiter_unref(limiter);
}

/* Threads read the clock before they have the lock. */
TEST(route, a_moment_is_refilled_once)
{
    struct route_limiter *limiter = limiter_new(10, 1, false);
    uint64_t wait_ms = 0;
    EXPECT(limiter_admit(limiter, "a", 1000, &wait_ms));
    EXPECT(!limiter_admit(limiter, "a", 1050, &wait_ms) && wait_ms == 50);
    EXPECT(!limiter_admit(limiter, "a", 1000, &wait_ms) && wait_ms == 50);
    EXPECT(!limiter_admit(limiter, "a", 1050, &wait_ms) && wait_ms == 50);
    limiter_unref(limiter);
}

TEST(route, one_bucket_for_all_where_the_route_is_limited)
{
    struct route_limiter *limiter = limiter_new(1, 1, false);
    uint64_t wait_ms = 0;
    EXPECT(limiter_admit(limiter, "a", 5, &wait_ms));
    EXPECT(!limiter_admit(limiter, "b", 5, &wait_ms) && wait_ms == 1000);
    limiter_unref(limiter);
}

TEST(route, so_many_clients_are_known_and_no_more)
{
    struct route_limiter *limiter = limiter_new(1, 2, true);
    uint64_t wait_ms = 0;
    char client[32];
    for (unsigned i = 0; i < 3 * LIMITER_CLIENTS_MAX; i++) {
        snprintf(client, sizeof(client), "c%u", i);
        EXPECT(limiter_admit(limiter, client, 1, &wait_ms));
    }
    limiter_unref(limiter);
}
