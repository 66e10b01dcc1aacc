/*
 * Forecasts of one series from its own history: how much is wanted in the next steps, and how sure
 * that is.  Pure: no clock, no thread, no file; one owner at a time.
 *
 * A series is one number a step: the most calls of a function that ran at once in a minute, the
 * cores that a machine used.  Three models look at each step before it is told to them:
 *
 *   reactive    the 99th percentile of the last hour: what a pool does that does not look ahead
 *   seasonal    exponential smoothing with a damped trend, a season of a day and one of a week
 *               (error-correction form, with the autocorrelation of errors: Taylor, "Short-term
 *               electricity demand forecasting using double seasonal exponential smoothing", JORS
 *               2003); above it the quantile of its own errors (P-square: Jain and Chlamtac, "The
 *               P2 algorithm for dynamic calculation of quantiles and histograms without storing
 *               observations", CACM 1985)
 *   regression  the quantile itself as a linear function of what was (the last steps, the same time
 *               yesterday, what `seasonal` says), by gradient descent on the pinball loss (Koenker
 *               and Bassett, "Regression quantiles", Econometrica 1978)
 *
 * They are judged by the pinball loss, newer steps counting more: what is wanted beyond the
 * forecast costs q, what was forecast in vain 1 - q.  The best is believed.  While `reactive` is
 * the best, nothing is known of the future, and forecaster_next() says so: who asks does what it
 * did before.
 */
#ifndef ENGINE_FORECAST_FORECAST_H
#define ENGINE_FORECAST_FORECAST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buffer;
struct error;
struct forecaster;

enum forecast_model {
    FORECAST_REACTIVE,
    FORECAST_SEASONAL,
    FORECAST_REGRESSION,
    FORECAST_MODELS,
};

enum {
    FORECAST_SLOTS_MAX = 8640,      /* steps of a day */
    FORECAST_TRUSTED_STEPS = 120,   /* before so many nothing is believed but `reactive` */
    FORECAST_ENCODED_MAX = 4 << 20, /* bytes of forecaster_write() */
};

/* One step. */
struct forecast_point {
    double expected;
    double high; /* in `quantile` of all steps it is no more than this */
};

/* What became of the forecasts, newer steps counting more (a weight of a half after a day). */
struct forecast_report {
    uint64_t steps;               /* that were seen */
    enum forecast_model model;    /* that is believed */
    double loss[FORECAST_MODELS]; /* mean pinball loss a step; the reactive one's is the measure */
    double error;                 /* mean of |what was - expected| of the believed */
    double scale;                 /* mean of what was */
    double coverage; /* part of the steps that stayed within the believed `high`, 0..1 */
};

/* `step_ms`: a divisor of a day, at least a day / FORECAST_SLOTS_MAX.  `quantile`: within
 * 0.5..0.999. */
struct forecaster *forecaster_new(uint64_t step_ms, double quantile);
void forecaster_free(struct forecaster *forecaster);

/*
 * What was in step number `step` (since 1970, UTC), at least 0.  Steps that were left out are not
 * known: nothing is learnt from them.  A step that is not after the last one is ignored (a clock
 * that was set back), unless it is more than a day before: then the clock was wrong until now, and
 * it begins anew but for the seasons, as it does after a gap.
 */
void forecaster_observe(struct forecaster *forecaster, uint64_t step, double value);

/* Of the step after the last: true when a model is believed that looks ahead; `ret` is filled
 * anyway. */
bool forecaster_next(const struct forecaster *forecaster, struct forecast_point *ret);

/* Of the next `count` steps, for people and for plans: what `seasonal` says, at most a week. */
void forecaster_ahead(const struct forecaster *forecaster, size_t count,
                      struct forecast_point *ret_points);

/* The last `count` (at most a day) values seen, the oldest first; returns how many there are. */
size_t forecaster_past(const struct forecaster *forecaster, size_t count, double *ret_values);

void forecaster_report(const struct forecaster *forecaster, struct forecast_report *ret);

/* The number of the last step seen; 0: none. */
uint64_t forecaster_last(const struct forecaster *forecaster);

const char *forecast_model_name(enum forecast_model model);

/* Everything it knows, to be kept over a restart; INVALID: not written by forecaster_write(), or
 * for another step or quantile. */
void forecaster_write(const struct forecaster *forecaster, struct buffer *buffer);
int forecaster_read(struct forecaster *forecaster, const void *bytes, size_t length,
                    struct error *err);

#endif
