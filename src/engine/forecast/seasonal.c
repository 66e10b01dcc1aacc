/* Exponential smoothing with two seasons, in the form that corrects its errors.  See forecast.h. */
#include <math.h>

#include "engine/forecast/parts.h"

static const double LEVEL_GAIN = 0.01;
static const double TREND_GAIN = 0.001;
static const double TREND_DAMPING = 0.98;
static const double SEASON_GAIN_LEAST = 0.2; /* of a slot that was visited often */
static const double ERROR_GAIN = 0.01;       /* of what is known of errors */
static const double CORRELATION_MOST = 0.95;

static size_t day_slot(const struct forecaster *forecaster, uint64_t step)
{
    return (size_t)(step % forecaster->day_slots);
}

static size_t week_slot(const struct forecaster *forecaster, uint64_t step)
{
    return (size_t)(step % (7 * forecaster->day_slots)) / WEEK_BIN_STEPS;
}

static double correlation(const struct seasonal *seasonal)
{
    if (seasonal->variance <= 0) {
        return 0;
    }
    double is = seasonal->covariance / seasonal->variance;
    return is < 0 ? 0 : is > CORRELATION_MOST ? CORRELATION_MOST : is;
}

double seasonal_expected(const struct forecaster *forecaster, size_t ahead)
{
    const struct seasonal *seasonal = &forecaster->knows.seasonal;
    uint64_t step = forecaster->knows.last + ahead;
    double damping = (1 - pow(TREND_DAMPING, (double)ahead)) / (1 - TREND_DAMPING);
    double value = seasonal->level + seasonal->trend * TREND_DAMPING * damping +
        (double)forecaster->day[day_slot(forecaster, step)] +
        (double)forecaster->week[week_slot(forecaster, step)] +
        seasonal->error * pow(correlation(seasonal), (double)ahead);
    return value > 0 ? value : 0;
}

/* The older of the two knows more. */
double seasonal_margin(const struct forecaster *forecaster)
{
    const struct p2 *errors = forecaster->knows.seasonal.errors;
    double margin = p2_value(errors[0].count >= errors[1].count ? &errors[0] : &errors[1]);
    return margin > 0 ? margin : 0;
}

/* A slot that was seen seldom takes much of what it sees. */
static void season_learn(float *season, uint8_t *visits, size_t slot, double error, double part)
{
    double gain = 1 / (1.5 + (double)visits[slot]);
    gain = gain < SEASON_GAIN_LEAST ? SEASON_GAIN_LEAST : gain;
    season[slot] += (float)(gain * part * error);
    visits[slot] += visits[slot] < UINT8_MAX;
}

static void learn_error(struct forecaster *forecaster, double error)
{
    struct seasonal *seasonal = &forecaster->knows.seasonal;
    seasonal->variance += ERROR_GAIN * (error * error - seasonal->variance);
    seasonal->covariance += ERROR_GAIN * (error * seasonal->error - seasonal->covariance);
    if (seasonal->errors_age % forecaster->day_slots == 0) {
        size_t turn = seasonal->errors_age / forecaster->day_slots % 2;
        seasonal->errors[turn] = (struct p2){0};
    }
    seasonal->errors_age++;
    p2_add(&seasonal->errors[0], forecaster->quantile, error);
    p2_add(&seasonal->errors[1], forecaster->quantile, error);
}

void seasonal_learn(struct forecaster *forecaster, uint64_t step, double value, double expected)
{
    struct seasonal *seasonal = &forecaster->knows.seasonal;
    /* What the level and the seasons did not know, whatever was carried over from the last error.
     */
    double raw = value -
        (seasonal->level + TREND_DAMPING * seasonal->trend +
         (double)forecaster->day[day_slot(forecaster, step)] +
         (double)forecaster->week[week_slot(forecaster, step)]);
    double level_gain =
        forecaster->knows.steps < 100 ? 1 / (1 + (double)forecaster->knows.steps) : LEVEL_GAIN;
    learn_error(forecaster, value - expected);
    seasonal->trend *= TREND_DAMPING;
    seasonal->level += seasonal->trend + level_gain * raw;
    seasonal->trend += TREND_GAIN * LEVEL_GAIN * raw;
    season_learn(forecaster->day, forecaster->day_visits, day_slot(forecaster, step), raw, 0.8);
    season_learn(forecaster->week, forecaster->week_visits, week_slot(forecaster, step), raw,
                 0.2 / WEEK_BIN_STEPS);
    seasonal->error = raw;
}
