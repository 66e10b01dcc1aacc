/* A node's part of requests and instances. */
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

#include "service/quota/parts.h"

#include "test/lib/test.h"

static void put(struct quota_shares *shares, uint64_t requests, uint64_t instances, unsigned nodes)
{
    struct quota_row row = {.project = "shop"};
    row.has[QUOTA_REQUESTS] = true;
    row.limits[QUOTA_REQUESTS] = requests;
    row.has[QUOTA_INSTANCES] = true;
    row.limits[QUOTA_INSTANCES] = instances;
    shares_begin(shares);
    shares_put(shares, &row, nodes);
    shares_end(shares);
}

static unsigned taken(struct quota_shares *shares, unsigned asked, uint64_t now_ms)
{
    unsigned count = 0;
    for (unsigned i = 0; i < asked; i++) {
        struct error err = {0};
        int r = shares_take(shares, "shop", now_ms, &err);
        EXPECT(r == 0 || (r == -ERROR_QUOTA_EXCEEDED && strstr(err.text, "shop") != NULL));
        count += r == 0;
    }
    return count;
}

TEST(quota, a_node_lets_its_part_of_a_second_in)
{
    struct quota_shares *shares = shares_new();
    put(shares, 30, 1, 3);
    EXPECT(taken(shares, 50, 1000) == 10);
    EXPECT(taken(shares, 50, 1000) == 0);
    EXPECT(taken(shares, 50, 1500) == 5);
    EXPECT(taken(shares, 50, 60000) == 10); /* what was not asked for is not saved up */
    EXPECT(shares_refused(shares, "shop") == 40 + 50 + 45 + 40);
    shares_free(shares);
}

TEST(quota, a_part_below_one_a_second_is_let_in_now_and_then)
{
    struct quota_shares *shares = shares_new();
    put(shares, 1, 1, 4);
    EXPECT(taken(shares, 5, 1000) == 1);
    EXPECT(taken(shares, 5, 4999) == 0);
    EXPECT(taken(shares, 5, 5000) == 1);
    shares_free(shares);
}

TEST(quota, none_is_none)
{
    struct quota_shares *shares = shares_new();
    put(shares, 0, 1, 1);
    EXPECT(taken(shares, 5, 100000) == 0);
    shares_free(shares);
}

/* A clock that goes back gives nothing, and takes nothing. */
TEST(quota, a_clock_that_goes_back_is_no_time)
{
    struct quota_shares *shares = shares_new();
    put(shares, 10, 1, 1);
    EXPECT(taken(shares, 20, 5000) == 10);
    EXPECT(taken(shares, 20, 1000) == 0);
    EXPECT(taken(shares, 20, 5100) == 1);
    shares_free(shares);
}

TEST(quota, a_change_takes_effect_at_once_and_fills_no_bucket)
{
    struct quota_shares *shares = shares_new();
    put(shares, 10, 1, 1);
    EXPECT(taken(shares, 20, 1000) == 10);
    put(shares, 1000, 1, 1);
    EXPECT(taken(shares, 20, 1000) == 0);
    put(shares, 2, 1, 1);
    EXPECT(taken(shares, 20, 9000) == 2);
    shares_begin(shares); /* it is gone */
    shares_end(shares);
    EXPECT(taken(shares, 20, 9000) == 20);
    shares_free(shares);
}

TEST(quota, instances_are_divided_and_rounded_up)
{
    struct quota_shares *shares = shares_new();
    put(shares, 1, 10, 3);
    EXPECT(shares_instances(shares, "shop") == 4);
    put(shares, 1, 1, 3);
    EXPECT(shares_instances(shares, "shop") == 1);
    EXPECT(shares_instances(shares, "other") == 0);
    shares_free(shares);
}
