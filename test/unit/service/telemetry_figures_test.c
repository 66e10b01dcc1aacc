/* Figures of functions: by version, of all time and of the last minutes. */
#include <stdio.h>
#include <string.h>

#include "base/buffer.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/memory.h"

#include "service/telemetry/telemetry.h"
#include "service/telemetry/trace.h"

#include "test/lib/test.h"

#define MINUTE_NS (UINT64_C(60) * 1000000000)

enum { VERSIONS_MAX = 32, FUNCTIONS_MAX = 1000 };

struct seen {
    size_t count;
    struct telemetry_figures figures[VERSIONS_MAX];
};

static struct telemetry *open_it(void)
{
    struct telemetry *telemetry = NULL;
    struct error err = {0};
    struct telemetry_options options = {.folder = test_folder()};
    EXPECT(telemetry_open(&options, &telemetry, &err) == 0);
    return telemetry;
}

/* The beginning of a minute an hour after the node has started. */
static uint64_t some_minute(void)
{
    return (clock_monotonic_ns() / MINUTE_NS + 60) * MINUTE_NS;
}

static void call(struct telemetry *telemetry, uint64_t version, const char *end, uint64_t ended_ns)
{
    telemetry_call(telemetry,
                   &(struct telemetry_call){.project = "p",
                                            .function = "f",
                                            .version = version,
                                            .ended_ns = ended_ns,
                                            .end = end,
                                            .duration_ns = version * 1000000,
                                            .has_run = strcmp(end, "overloaded") != 0,
                                            .is_cold = version == 1,
                                            .run_ns = 100000,
                                            .memory_bytes = 1000});
}

static void on_figures(const struct telemetry_figures *figures, void *context)
{
    struct seen *seen = context;
    EXPECT(seen->count < VERSIONS_MAX);
    EXPECT_STRING(figures->function, "f");
    seen->figures[seen->count++] = *figures;
}

static struct seen look(struct telemetry *telemetry, uint64_t now_ns)
{
    struct seen seen = {0};
    telemetry_each_figures(telemetry, "p", "f", now_ns, on_figures, &seen);
    return seen;
}

static const struct telemetry_figures *of(const struct seen *seen, uint64_t version)
{
    for (size_t i = 0; i < seen->count; i++) {
        if (seen->figures[i].version == version) {
            return &seen->figures[i];
        }
    }
    return NULL;
}

static uint64_t errors_of(const struct telemetry_counts *counts, const char *type)
{
    for (size_t i = 0; i <= TELEMETRY_ERRORS_MAX; i++) {
        if (strcmp(counts->errors[i].type, type) == 0) {
            return counts->errors[i].count;
        }
    }
    return 0;
}

TEST(telemetry_figures, two_versions_are_counted_apart)
{
    struct telemetry *telemetry = open_it();
    uint64_t now_ns = some_minute();
    call(telemetry, 1, "ok", now_ns);
    call(telemetry, 1, "ok", now_ns);
    call(telemetry, 1, "overloaded", now_ns);
    call(telemetry, 2, "trap", now_ns);
    struct seen seen = look(telemetry, now_ns);
    EXPECT(seen.count == 2);
    const struct telemetry_counts *one = &of(&seen, 1)->recent;
    const struct telemetry_counts *two = &of(&seen, 2)->recent;
    EXPECT(one->successes == 2 && one->cold_starts == 2 && errors_of(one, "overloaded") == 1);
    EXPECT(one->memory_count == 2 && one->memory_sum == 2000);
    EXPECT(two->successes == 0 && two->cold_starts == 0 && errors_of(two, "trap") == 1);
    EXPECT(telemetry_bound_us(3) == 1000 && telemetry_bound_us(4) == 2500);
    EXPECT(one->durations[3] == 3 && one->durations[4] == 0); /* a bound is within */
    EXPECT(two->durations[4] == 1 && two->runs[0] == 1);
    EXPECT(one->runs[0] == 2); /* one never ran */
    EXPECT(telemetry_bound_us(TELEMETRY_BUCKETS - 1) == 0);
    telemetry_close(telemetry);
}

/* Goal: a call counts as recent until five minutes after its own, with and without others since. */
TEST(telemetry_figures, the_recent_time_ends_to_the_minute)
{
    for (int calls_between = 0; calls_between < 2; calls_between++) {
        struct telemetry *telemetry = open_it();
        uint64_t begin_ns = some_minute();
        call(telemetry, 1, "ok", begin_ns + MINUTE_NS - 1); /* the last moment of its minute */
        for (uint64_t minute = 1; minute <= 5 && calls_between; minute++) {
            call(telemetry, 1, "trap", begin_ns + minute * MINUTE_NS);
        }
        struct seen seen = look(telemetry, begin_ns + 6 * MINUTE_NS - 1);
        EXPECT(of(&seen, 1)->recent.successes == 1 && of(&seen, 1)->total.successes == 1);
        EXPECT(errors_of(&of(&seen, 1)->recent, "trap") == (calls_between ? 5 : 0));
        EXPECT(of(&seen, 1)->window_ms == 359999); /* in whole milliseconds */
        seen = look(telemetry, begin_ns + 6 * MINUTE_NS);
        EXPECT(of(&seen, 1)->recent.successes == 0 && of(&seen, 1)->total.successes == 1);
        EXPECT(errors_of(&of(&seen, 1)->recent, "trap") == (calls_between ? 5 : 0));
        EXPECT(of(&seen, 1)->window_ms == 300000);
        seen = look(telemetry, begin_ns + 600 * MINUTE_NS);
        EXPECT(errors_of(&of(&seen, 1)->recent, "trap") == 0);
        EXPECT(of(&seen, 1)->recent.durations[3] == 0 && of(&seen, 1)->recent.memory_sum == 0);
        telemetry_close(telemetry);
    }
}

/* Two threads may end calls in another order than they note them. */
TEST(telemetry_figures, a_call_of_a_minute_that_is_over_counts_still)
{
    struct telemetry *telemetry = open_it();
    uint64_t begin_ns = some_minute();
    call(telemetry, 1, "ok", begin_ns + MINUTE_NS);
    call(telemetry, 1, "ok", begin_ns + MINUTE_NS - 1);
    struct seen seen = look(telemetry, begin_ns + MINUTE_NS);
    EXPECT(of(&seen, 1)->recent.successes == 2);
    seen = look(telemetry, begin_ns + 7 * MINUTE_NS);
    EXPECT(of(&seen, 1)->recent.successes == 0 && of(&seen, 1)->total.successes == 2);
    telemetry_close(telemetry);
}

TEST(telemetry_figures, the_recent_time_begins_when_the_node_does)
{
    struct telemetry *telemetry = open_it();
    uint64_t now_ns = clock_monotonic_ns() + MINUTE_NS;
    call(telemetry, 1, "ok", now_ns);
    struct seen seen = look(telemetry, now_ns);
    EXPECT(of(&seen, 1)->window_ms >= 60000 && of(&seen, 1)->window_ms < 70000);
    EXPECT(telemetry_window_ms(telemetry, now_ns) == of(&seen, 1)->window_ms);
    EXPECT(telemetry_window_ms(telemetry, 0) == 0);
    EXPECT(look(telemetry, 0).count == 1); /* a clock that stands at its beginning */
    telemetry_close(telemetry);
}

/* Goal: with more versions than there is room for, no call is lost, and none counts as recent
 * longer than it is.
 * Method: 30 versions, six a minute, then all of them again. */
TEST(telemetry_figures, versions_without_room_are_summed)
{
    struct telemetry *telemetry = open_it();
    BUFFER_OWNED struct buffer out = {0};
    uint64_t begin_ns = some_minute();
    uint64_t now_ns = begin_ns;
    char kind[16];
    for (uint64_t i = 0; i < 60; i++) {
        now_ns = begin_ns + i * MINUTE_NS / 6;
        snprintf(kind, sizeof(kind), "kind%d", (int)(i % 40));
        call(telemetry, 1 + i % 30, i % 2 == 0 ? "ok" : kind, now_ns);
        struct seen seen = look(telemetry, now_ns);
        uint64_t total = 0;
        uint64_t recent = 0;
        uint64_t runs = 0;
        for (size_t j = 0; j < seen.count; j++) {
            const struct telemetry_figures *figures = &seen.figures[j];
            for (size_t k = 0; k < TELEMETRY_BUCKETS; k++) {
                total += figures->total.durations[k];
                recent += figures->recent.durations[k];
                runs += figures->recent.runs[k];
            }
        }
        uint64_t minute = i / 6;
        uint64_t first = minute > 5 ? minute - 5 : 0;
        EXPECT(total == i + 1);
        EXPECT(recent == i + 1 - 6 * first && runs == recent);
        EXPECT(seen.count <= 13 && (seen.count < 13 || of(&seen, 0) != NULL));
    }
    struct seen seen = look(telemetry, now_ns);
    uint64_t errors = 0;
    for (size_t i = 0; i <= TELEMETRY_ERRORS_MAX; i++) {
        errors += of(&seen, 0)->total.errors[i].count;
    }
    EXPECT(of(&seen, 0)->total.successes + errors == 48); /* twelve are counted apart */
    telemetry_write_metrics(telemetry, TELEMETRY_PROMETHEUS, &out);
    EXPECT(strstr(buffer_string(&out),
                  "\nblixard_function_duration_seconds_count{blixard_project=\"p\",faas_name="
                  "\"f\"} 60\n") != NULL);
    EXPECT(strstr(buffer_string(&out),
                  "\nfaas_invocations_total{blixard_project=\"p\",faas_name=\"f\",faas_trigger="
                  "\"http\"} 30\n") != NULL);
    telemetry_close(telemetry);
}

/* Goal: who was forgotten is not said to have been idle. */
TEST(telemetry_figures, what_was_forgotten_is_not_in_the_recent_time)
{
    struct telemetry *telemetry = open_it();
    uint64_t begin_ns = some_minute();
    call(telemetry, 1, "ok", begin_ns);
    for (int i = 0; i < FUNCTIONS_MAX; i++) {
        char name[32];
        snprintf(name, sizeof(name), "other%d", i);
        telemetry_call(telemetry,
                       &(struct telemetry_call){.project = "p",
                                                .function = name,
                                                .ended_ns = begin_ns + 4 * MINUTE_NS,
                                                .end = "ok"});
    }
    EXPECT(look(telemetry, begin_ns + 5 * MINUTE_NS).count == 0);
    EXPECT(telemetry_window_ms(telemetry, begin_ns + 5 * MINUTE_NS) == 60000);
    call(telemetry, 1, "ok", begin_ns + 5 * MINUTE_NS);
    struct seen seen = look(telemetry, begin_ns + 6 * MINUTE_NS);
    EXPECT(of(&seen, 1)->window_ms == 60000);
    telemetry_close(telemetry);
}

static void count_one(const struct telemetry_figures *figures, void *context)
{
    (void)figures;
    (*(size_t *)context)++;
}

TEST(telemetry_figures, a_project_sees_its_own_and_what_is_deleted_is_gone)
{
    struct telemetry *telemetry = open_it();
    struct error err = {0};
    size_t count = 0;
    uint64_t now_ns = some_minute();
    call(telemetry, 1, "ok", now_ns);
    call(telemetry, 2, "ok", now_ns);
    telemetry_call(telemetry,
                   &(struct telemetry_call){
                       .project = "other", .function = "f", .ended_ns = now_ns, .end = "ok"});
    telemetry_each_figures(telemetry, "p", NULL, now_ns, count_one, &count);
    EXPECT(count == 2);
    telemetry_each_figures(telemetry, "nobody", NULL, now_ns, count_one, &count);
    EXPECT(count == 2);
    EXPECT(telemetry_remove(telemetry, "p", "f", &err) == 0);
    telemetry_each_figures(telemetry, "p", NULL, now_ns, count_one, &count);
    EXPECT(count == 2);
    telemetry_close(telemetry);
}
