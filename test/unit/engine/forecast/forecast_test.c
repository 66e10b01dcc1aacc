#include "engine/forecast/forecast.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "base/error.h"

#include "engine/forecast/parts.h"

#include "test/lib/test.h"

enum { DAY_STEPS = 96, STEP_MS = 86400000 / DAY_STEPS };

static double random_unit(uint64_t *state)
{
    *state = *state * 6364136223846793005U + 1442695040888963407U;
    return (double)(*state >> 11) / 9007199254740992.0;
}

/* Twenty at six in the morning, nothing else. */
static double timer_of(uint64_t step)
{
    return step % DAY_STEPS == 24 ? 20 : 0;
}

static void feed(struct forecaster *forecaster, uint64_t from, uint64_t to)
{
    for (uint64_t step = from; step < to; step++) {
        forecaster_observe(forecaster, step, timer_of(step));
    }
}

TEST(forecast, p2_is_near_the_quantile_of_all)
{
    enum { COUNT = 20000 };
    uint64_t state = 7;
    struct p2 p2 = {0};
    for (int i = 0; i < COUNT; i++) {
        p2_add(&p2, 0.9, random_unit(&state));
    }
    EXPECT(fabs(p2_value(&p2) - 0.9) < 0.01);
}

TEST(forecast, p2_of_few_and_of_equal_values)
{
    struct p2 p2 = {0};
    EXPECT(p2_value(&p2) == 0);
    p2_add(&p2, 0.5, 3);
    EXPECT(p2_value(&p2) == 3);
    for (int i = 0; i < 1000; i++) {
        p2_add(&p2, 0.5, 3);
    }
    EXPECT(p2_value(&p2) == 3);
}

TEST(forecast, what_comes_each_day_is_there_before_it_comes)
{
    struct forecaster *forecaster = forecaster_new(STEP_MS, 0.95);
    struct forecast_point point;
    feed(forecaster, DAY_STEPS, 9 * DAY_STEPS + 24); /* the next step is six o'clock */
    EXPECT(forecaster_next(forecaster, &point));
    EXPECT(point.high > 15);
    forecaster_observe(forecaster, 9 * DAY_STEPS + 24, 20);
    EXPECT(forecaster_next(forecaster, &point));
    EXPECT(point.high < 1); /* and gone when it is over; who reacts keeps it for an hour */
    forecaster_free(forecaster);
}

TEST(forecast, nothing_is_believed_at_first)
{
    struct forecaster *forecaster = forecaster_new(STEP_MS, 0.95);
    struct forecast_point point;
    EXPECT(!forecaster_next(forecaster, &point));
    EXPECT(point.high == 0);
    for (uint64_t step = 100; step < 100 + FORECAST_TRUSTED_STEPS - 1; step++) {
        forecaster_observe(forecaster, step, 5);
        EXPECT(!forecaster_next(forecaster, &point));
    }
    EXPECT(point.high == 5);
    forecaster_free(forecaster);
}

/* Rare, and without any order: nobody can look ahead, and what is said must not be worse than
 * what was done before. */
TEST(forecast, the_believed_one_is_never_the_worse)
{
    struct forecaster *forecaster = forecaster_new(STEP_MS, 0.95);
    struct forecast_report report;
    uint64_t state = 99;
    for (uint64_t step = 1; step < 30 * DAY_STEPS; step++) {
        forecaster_observe(forecaster, step,
                           random_unit(&state) < 0.03 ? 50 * random_unit(&state) : 0);
        forecaster_report(forecaster, &report);
        EXPECT(report.loss[report.model] <= report.loss[FORECAST_REACTIVE]);
    }
    EXPECT(report.steps == 30 * DAY_STEPS - 1);
    EXPECT(report.coverage > 0.5 && report.coverage <= 1);
    forecaster_free(forecaster);
}

TEST(forecast, errors_and_coverage_are_those_of_a_week_of_days)
{
    struct forecaster *forecaster = forecaster_new(STEP_MS, 0.9);
    struct forecast_report report;
    uint64_t state = 3;
    for (uint64_t step = 1; step < 28 * DAY_STEPS; step++) {
        double wave = 10 + 8 * sin((double)step / DAY_STEPS * 6.283185307);
        forecaster_observe(forecaster, step, wave + random_unit(&state));
    }
    forecaster_report(forecaster, &report);
    EXPECT(report.model != FORECAST_REACTIVE);
    EXPECT(report.error < 0.6); /* the noise alone is 0.25 */
    EXPECT(fabs(report.coverage - 0.9) < 0.06);
    EXPECT(fabs(report.scale - 10.5) < 3);
    forecaster_free(forecaster);
}

TEST(forecast, ahead_is_a_day_as_days_were)
{
    struct forecaster *forecaster = forecaster_new(STEP_MS, 0.95);
    struct forecast_point points[DAY_STEPS];
    feed(forecaster, DAY_STEPS, 12 * DAY_STEPS);
    forecaster_ahead(forecaster, DAY_STEPS, points);
    for (size_t i = 0; i < DAY_STEPS; i++) {
        EXPECT(points[i].high >= points[i].expected);
        EXPECT(i == 24 ? points[i].expected > 10 : points[i].expected < 2);
    }
    forecaster_free(forecaster);
}

TEST(forecast, clocks_jump_and_hours_are_missing)
{
    struct forecaster *forecaster = forecaster_new(STEP_MS, 0.95);
    struct forecast_point point;
    struct forecast_report report;
    double past[DAY_STEPS];
    feed(forecaster, DAY_STEPS, 8 * DAY_STEPS);
    forecaster_observe(forecaster, 7 * DAY_STEPS, 1000); /* back: ignored */
    forecaster_observe(forecaster, 0, 1000);
    forecaster_observe(forecaster, 8 * DAY_STEPS - 1, 1000);
    forecaster_observe(forecaster, 8 * DAY_STEPS, -1); /* no such values */
    forecaster_observe(forecaster, 8 * DAY_STEPS, NAN);
    forecaster_observe(forecaster, 8 * DAY_STEPS, INFINITY);
    EXPECT(forecaster_last(forecaster) == 8 * DAY_STEPS - 1);
    /* A daemon that was down for hours, and one for years: the seasons are still known. */
    feed(forecaster, 8 * DAY_STEPS + 10, 8 * DAY_STEPS + 24);
    EXPECT(forecaster_past(forecaster, DAY_STEPS, past) == 14);
    EXPECT(forecaster_next(forecaster, &point) && point.high > 15);
    feed(forecaster, 2000 * DAY_STEPS, 2000 * DAY_STEPS + 24);
    forecaster_next(forecaster, &point);
    forecaster_report(forecaster, &report);
    EXPECT(isfinite(point.high) && point.high < 1000 && isfinite(report.error));
    forecaster_free(forecaster);
}

/* A node whose clock was years ahead for a moment is not without forecasts for years. */
TEST(forecast, a_clock_that_was_wrong_is_not_believed_for_ever)
{
    struct forecaster *forecaster = forecaster_new(STEP_MS, 0.95);
    struct forecast_point point;
    double past[DAY_STEPS];
    feed(forecaster, DAY_STEPS, 8 * DAY_STEPS);
    forecaster_observe(forecaster, 3000 * DAY_STEPS, 2);
    EXPECT(forecaster_last(forecaster) == 3000 * DAY_STEPS);
    feed(forecaster, 8 * DAY_STEPS, 8 * DAY_STEPS + 24);
    EXPECT(forecaster_last(forecaster) == 8 * DAY_STEPS + 23);
    EXPECT(forecaster_past(forecaster, DAY_STEPS, past) == 24);
    EXPECT(forecaster_next(forecaster, &point) && point.high > 15);
    forecaster_observe(forecaster, 8 * DAY_STEPS + 24, 1e300); /* no float has that */
    EXPECT(forecaster_last(forecaster) == 8 * DAY_STEPS + 23);
    forecaster_free(forecaster);
}

TEST(forecast, past_is_the_oldest_first)
{
    struct forecaster *forecaster = forecaster_new(STEP_MS, 0.95);
    double past[DAY_STEPS];
    EXPECT(forecaster_past(forecaster, DAY_STEPS, past) == 0);
    for (uint64_t step = 1; step <= 3 * DAY_STEPS; step++) {
        forecaster_observe(forecaster, step, (double)step);
    }
    EXPECT(forecaster_past(forecaster, 2, past) == 2);
    EXPECT(past[0] == 3 * DAY_STEPS - 1 && past[1] == 3 * DAY_STEPS);
    EXPECT(forecaster_past(forecaster, DAY_STEPS, past) == DAY_STEPS);
    EXPECT(past[0] == 2 * DAY_STEPS + 1);
    forecaster_free(forecaster);
}

TEST(forecast, what_was_written_says_the_same)
{
    struct forecaster *one = forecaster_new(STEP_MS, 0.95);
    struct forecaster *two = forecaster_new(STEP_MS, 0.95);
    struct forecaster *other = forecaster_new(STEP_MS / 2, 0.95);
    struct buffer BUFFER_OWNED buffer = {0};
    struct forecast_point a;
    struct forecast_point b;
    struct error err = {0};
    feed(one, DAY_STEPS, 9 * DAY_STEPS + 24);
    forecaster_write(one, &buffer);
    EXPECT(buffer.used <= FORECAST_ENCODED_MAX);
    EXPECT(forecaster_read(other, buffer.data, buffer.used, &err) == -ERROR_INVALID);
    EXPECT(forecaster_read(two, buffer.data, buffer.used - 1, &err) == -ERROR_INVALID);
    EXPECT(forecaster_read(two, buffer.data, buffer.used, &err) == 0);
    EXPECT(forecaster_next(one, &a) == forecaster_next(two, &b));
    EXPECT(memcmp(&a, &b, sizeof(a)) == 0);
    feed(one, 9 * DAY_STEPS + 24, 10 * DAY_STEPS);
    feed(two, 9 * DAY_STEPS + 24, 10 * DAY_STEPS);
    forecaster_next(one, &a);
    forecaster_next(two, &b);
    EXPECT(memcmp(&a, &b, sizeof(a)) == 0);
    buffer.data[buffer.used / 2] ^= 1;
    EXPECT(forecaster_read(two, buffer.data, buffer.used, &err) == -ERROR_INVALID);
    forecaster_free(one);
    forecaster_free(two);
    forecaster_free(other);
}
