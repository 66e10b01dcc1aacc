/* Figures of several nodes: sums, percentiles, what came between two looks. */
#include "surface/cli/figures.h"

#include <string.h>

#include "base/error.h"
#include "base/json.h"

#include "test/lib/test.h"

static json_t *read_it(const char *text)
{
    json_t *value = NULL;
    struct error err = {0};
    EXPECT(json_read(text, strlen(text), &value, &err) == 0);
    return value;
}

static void add_text(struct figures *figures, const char *text)
{
    JSON_OWNED json_t *added = read_it(text);
    figures_add(figures, added);
}

static uint64_t percentile(const struct figures *figures, double part)
{
    uint64_t us = 0;
    bool is_more = false;
    EXPECT(figures_percentile(figures, part, false, &us, &is_more));
    EXPECT(!is_more);
    return us;
}

TEST(figures, percentiles_are_between_the_bounds_of_their_bucket)
{
    FIGURES_OWNED struct figures figures = {0};
    uint64_t us = 0;
    bool is_more = false;
    EXPECT(!figures_percentile(&figures, 0.5, false, &us, &is_more)); /* none of no calls */
    add_text(&figures,
             "{\"calls\": 100, \"durations\": ["
             "{\"above_us\": 0, \"at_most_us\": 100, \"calls\": 50, \"runs\": 0},"
             "{\"above_us\": 1000, \"at_most_us\": 2000, \"calls\": 50, \"runs\": 0}]}");
    EXPECT(percentile(&figures, 0.25) == 50);
    EXPECT(percentile(&figures, 0.5) == 100);
    EXPECT(percentile(&figures, 0.75) == 1500);
    EXPECT(percentile(&figures, 1) == 2000);
    EXPECT(!figures_percentile(&figures, 0.5, true, &us, &is_more)); /* nothing ran */
}

/* Goal: what took longer than the last bound is not said to have taken so long. */
TEST(figures, beyond_the_last_bound_it_is_more)
{
    FIGURES_OWNED struct figures figures = {0};
    JSON_OWNED json_t *row = json_object();
    char text[FIGURES_TEXT_SIZE];
    add_text(&figures,
             "{\"calls\": 4, \"durations\": ["
             "{\"above_us\": 500, \"at_most_us\": 1000, \"calls\": 3, \"runs\": 4},"
             "{\"above_us\": 10000000, \"calls\": 1, \"runs\": 0}]}");
    figures_write(&figures, row);
    EXPECT_STRING(figures_write_time(row, "p50", text), "833 us");
    EXPECT_STRING(figures_write_time(row, "p99", text), ">10 s");
    EXPECT(json_is_true(json_object_get(row, "p99_us_is_more")));
    EXPECT(json_object_get(row, "p50_us_is_more") == NULL);
    EXPECT_STRING(figures_write_time(row, "run_p99", text), "995 us");
    EXPECT_STRING(figures_write_time(row, "nothing", text), "-");
}

/* Nodes of another release may have other bounds. */
TEST(figures, nodes_are_summed_whatever_their_bounds)
{
    FIGURES_OWNED struct figures figures = {0};
    JSON_OWNED json_t *row = json_object();
    add_text(&figures,
             "{\"calls\": 3, \"errors\": [{\"reason\": \"trap\", \"calls\": 1}],"
             "\"cold_starts\": 1, \"warm_starts\": 2, \"memory_bytes_sum\": 300,"
             "\"memory_calls\": 3, \"durations\": ["
             "{\"above_us\": 100, \"at_most_us\": 200, \"calls\": 2, \"runs\": 3},"
             "{\"above_us\": 200, \"at_most_us\": 400, \"calls\": 1, \"runs\": 0}]}");
    add_text(&figures,
             "{\"calls\": 3, \"errors\": [{\"reason\": \"timeout\", \"calls\": 1},"
             "{\"reason\": \"trap\", \"calls\": 1}], \"cold_starts\": 0, \"warm_starts\": 1,"
             "\"memory_bytes_sum\": 500, \"memory_calls\": 1, \"durations\": ["
             "{\"above_us\": 0, \"at_most_us\": 200, \"calls\": 1, \"runs\": 0},"
             "{\"above_us\": 100, \"at_most_us\": 200, \"calls\": 2, \"runs\": 1}]}");
    figures_add(&figures, NULL);
    EXPECT(figures.bucket_count == 3);
    EXPECT(figures.buckets[0].above_us == 0 && figures.buckets[0].calls == 1);
    EXPECT(figures.buckets[1].above_us == 100 && figures.buckets[1].calls == 4);
    EXPECT(figures.buckets[1].runs == 4);
    EXPECT(figures.buckets[2].above_us == 200 && figures.buckets[2].calls == 1);
    figures_write(&figures, row);
    EXPECT(json_u64(row, "calls") == 6 && figures.errors == 3);
    EXPECT(json_array_size(json_object_get(row, "errors")) == 2);
    EXPECT(json_u64(row, "cold_starts") == 1 && json_u64(row, "warm_starts") == 3);
    EXPECT(json_u64(row, "memory_bytes") == 200);
}

#define ONE "{\"above_us\": 0, \"at_most_us\": 100, \"calls\": "

TEST(figures, between_two_looks_is_what_came_since)
{
    FIGURES_OWNED struct figures figures = {0};
    JSON_OWNED json_t *before = read_it(
        "[{\"calls\": 5, \"errors\": [{\"reason\": \"trap\", \"calls\": 2}], \"cold_starts\": 1,"
        "\"durations\": [" ONE "5, \"runs\": 5}]}, {\"calls\": 1, \"durations\": []}]");
    JSON_OWNED json_t *now =
        read_it("[{\"calls\": 9, \"errors\": [{\"reason\": \"trap\", \"calls\": 2},"
                "{\"reason\": \"timeout\", \"calls\": 1}], \"cold_starts\": 1,"
                "\"durations\": [" ONE "9, \"runs\": 8}]}]");
    figures_add_between(&figures, before, now);
    EXPECT(figures.calls == 3 && figures.errors == 1 && figures.cold_starts == 0);
    EXPECT(figures.buckets[0].calls == 4 && figures.buckets[0].runs == 3);
    EXPECT(json_object_size(figures.reasons) == 1 && json_u64(figures.reasons, "timeout") == 1);
}

TEST(figures, a_node_that_began_anew_counts_from_there)
{
    FIGURES_OWNED struct figures figures = {0};
    JSON_OWNED json_t *before = read_it("[{\"calls\": 50, \"cold_starts\": 3}]");
    JSON_OWNED json_t *now = read_it("[{\"calls\": 2, \"cold_starts\": 1}]");
    figures_add_between(&figures, before, now);
    EXPECT(figures.calls == 2 && figures.cold_starts == 1);
}

/* Goal: an answer with more bounds than there is room for writes nowhere else. */
TEST(figures, bounds_are_bounded)
{
    FIGURES_OWNED struct figures figures = {0};
    for (int i = 0; i < 2 * FIGURES_BUCKETS_MAX; i++) {
        JSON_OWNED json_t *added =
            json_pack("{s:i, s:[{s:i, s:i, s:i, s:i}]}", "calls", 1, "durations", "above_us", i,
                      "at_most_us", i + 1, "calls", 1, "runs", 1);
        figures_add(&figures, added);
    }
    EXPECT(figures.bucket_count == FIGURES_BUCKETS_MAX && figures.calls == 128);
}
