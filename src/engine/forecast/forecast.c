/* One series: who said what of the next step, who was right, who is believed.  See forecast.h. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/memory.h"

#include "engine/forecast/parts.h"

enum { DAY_MS = 86400000 };

static const char *const model_names[] = {
    [FORECAST_REACTIVE] = "reactive",
    [FORECAST_SEASONAL] = "seasonal",
    [FORECAST_REGRESSION] = "regression",
};

const char *forecast_model_name(enum forecast_model model)
{
    return model_names[model];
}

struct forecaster *forecaster_new(uint64_t step_ms, double quantile)
{
    CHECK(step_ms > 0 && DAY_MS % step_ms == 0 && DAY_MS / step_ms <= FORECAST_SLOTS_MAX);
    CHECK(quantile >= 0.5 && quantile <= 0.999);
    struct forecaster *forecaster = NEW(struct forecaster);
    forecaster->step_ms = step_ms;
    forecaster->quantile = quantile;
    forecaster->day_slots = (size_t)(DAY_MS / step_ms);
    forecaster->week_slots = 7 * forecaster->day_slots / WEEK_BIN_STEPS + 1;
    forecaster->values_count = 2 * forecaster->day_slots + forecaster->week_slots;
    forecaster->visits_count = forecaster->day_slots + forecaster->week_slots;
    forecaster->values = memory_new(forecaster->values_count, sizeof(float));
    forecaster->visits = memory_new(forecaster->visits_count, sizeof(uint8_t));
    forecaster->past = forecaster->values;
    forecaster->day = forecaster->past + forecaster->day_slots;
    forecaster->week = forecaster->day + forecaster->day_slots;
    forecaster->day_visits = forecaster->visits;
    forecaster->week_visits = forecaster->visits + forecaster->day_slots;
    regression_begin(&forecaster->knows.regression);
    return forecaster;
}

void forecaster_free(struct forecaster *forecaster)
{
    if (forecaster != NULL) {
        free(forecaster->values);
        free(forecaster->visits);
        free(forecaster);
    }
}

double forecaster_value(const struct forecaster *forecaster, size_t back)
{
    const struct knowledge *knows = &forecaster->knows;
    if (back >= knows->known) {
        return 0;
    }
    return (double)forecaster->past[(knows->last - back) % forecaster->day_slots];
}

static int compare_floats(const void *a, const void *b)
{
    const float *x = a;
    const float *y = b;
    return (*x > *y) - (*x < *y);
}

/* The 99th percentile of the last hour, as a pool has it that learns from its own load. */
static double reactive_high(const struct forecaster *forecaster)
{
    const struct knowledge *knows = &forecaster->knows;
    float sorted[HOUR_STEPS_MAX];
    size_t count = forecaster->day_slots / 24;
    count = count < knows->known ? count : knows->known;
    if (count == 0) {
        return 0;
    }
    for (size_t i = 0; i < count; i++) {
        sorted[i] = (float)forecaster_value(forecaster, i);
    }
    qsort(sorted, count, sizeof(*sorted), compare_floats);
    return (double)sorted[count - 1 - count / 100];
}

static void say(struct forecaster *forecaster)
{
    struct knowledge *knows = &forecaster->knows;
    double expected = seasonal_expected(forecaster, 1);
    struct forecast_point *next = knows->next;
    next[FORECAST_REACTIVE].expected = forecaster_value(forecaster, 0);
    next[FORECAST_REACTIVE].high = reactive_high(forecaster);
    next[FORECAST_SEASONAL].expected = expected;
    next[FORECAST_SEASONAL].high = expected + seasonal_margin(forecaster);
    next[FORECAST_REGRESSION].expected = expected;
    next[FORECAST_REGRESSION].high = regression_high(forecaster, expected);
}

static double pinball(double quantile, double said, double was)
{
    double over = was - said;
    return over > 0 ? quantile * over : (quantile - 1) * over;
}

static void judge(struct forecaster *forecaster, double value)
{
    struct knowledge *knows = &forecaster->knows;
    double keep = pow(0.5, 1 / (double)forecaster->day_slots);
    knows->weight = knows->weight * keep + 1;
    for (int i = 0; i < FORECAST_MODELS; i++) {
        const struct forecast_point *said = &knows->next[i];
        knows->loss[i] = knows->loss[i] * keep + pinball(forecaster->quantile, said->high, value);
        knows->error[i] = knows->error[i] * keep + fabs(value - said->expected);
        knows->within[i] = knows->within[i] * keep + (value <= said->high);
    }
    double gain = knows->steps < forecaster->day_slots ? 1 / (1 + (double)knows->steps)
                                                       : 1 / (double)forecaster->day_slots;
    knows->scale += gain * (value - knows->scale);
}

static void forget_what_was_said(struct forecaster *forecaster)
{
    struct knowledge *knows = &forecaster->knows;
    knows->known = 0;
    knows->seasonal.error = 0;
    knows->seasonal.trend = 0;
}

/* By a day and less it is waited for; more than that, and the clock was wrong before. */
static bool is_over(const struct forecaster *forecaster, uint64_t step)
{
    uint64_t last = forecaster->knows.last;
    return step <= last && (step == 0 || last - step <= forecaster->day_slots);
}

void forecaster_observe(struct forecaster *forecaster, uint64_t step, double value)
{
    struct knowledge *knows = &forecaster->knows;
    if (is_over(forecaster, step) || !(value >= 0) || !isfinite((float)value)) {
        return;
    }
    bool follows = knows->steps > 0 && step == knows->last + 1;
    if (!follows) {
        forget_what_was_said(forecaster);
        knows->last = step - 1;
    }
    double expected =
        follows ? knows->next[FORECAST_SEASONAL].expected : seasonal_expected(forecaster, 1);
    if (follows) {
        judge(forecaster, value);
        regression_learn(forecaster, value, knows->next[FORECAST_REGRESSION].high);
    }
    seasonal_learn(forecaster, step, value, expected);
    knows->last = step;
    knows->steps++;
    forecaster->past[step % forecaster->day_slots] = (float)value;
    knows->known += knows->known < forecaster->day_slots;
    say(forecaster);
}

static enum forecast_model believed(const struct forecaster *forecaster)
{
    const struct knowledge *knows = &forecaster->knows;
    enum forecast_model best = FORECAST_REACTIVE;
    for (int i = 1; i < FORECAST_MODELS && knows->steps >= FORECAST_TRUSTED_STEPS; i++) {
        best = knows->loss[i] < knows->loss[best] ? (enum forecast_model)i : best;
    }
    return best;
}

bool forecaster_next(const struct forecaster *forecaster, struct forecast_point *ret)
{
    const struct knowledge *knows = &forecaster->knows;
    enum forecast_model model = believed(forecaster);
    *ret = knows->next[model];
    return model != FORECAST_REACTIVE;
}

void forecaster_ahead(const struct forecaster *forecaster, size_t count,
                      struct forecast_point *ret_points)
{
    double margin = seasonal_margin(forecaster);
    CHECK(count <= 7 * forecaster->day_slots);
    for (size_t i = 0; i < count; i++) {
        double expected = seasonal_expected(forecaster, i + 1);
        ret_points[i] = (struct forecast_point){.expected = expected, .high = expected + margin};
    }
}

size_t forecaster_past(const struct forecaster *forecaster, size_t count, double *ret_values)
{
    const struct knowledge *knows = &forecaster->knows;
    count = count < knows->known ? count : knows->known;
    for (size_t i = 0; i < count; i++) {
        ret_values[i] = forecaster_value(forecaster, count - 1 - i);
    }
    return count;
}

uint64_t forecaster_last(const struct forecaster *forecaster)
{
    const struct knowledge *knows = &forecaster->knows;
    return knows->last;
}

void forecaster_report(const struct forecaster *forecaster, struct forecast_report *ret)
{
    const struct knowledge *knows = &forecaster->knows;
    double weight = knows->weight > 0 ? knows->weight : 1;
    enum forecast_model model = believed(forecaster);
    *ret = (struct forecast_report){
        .steps = knows->steps,
        .model = model,
        .error = knows->error[model] / weight,
        .scale = knows->scale,
        .coverage = knows->within[model] / weight,
    };
    for (int i = 0; i < FORECAST_MODELS; i++) {
        ret->loss[i] = knows->loss[i] / weight;
    }
}
