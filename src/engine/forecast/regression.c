/* A quantile as a linear function of what was, by gradient descent on the pinball loss. */
#include <math.h>

#include "engine/forecast/parts.h"

static const double PACE = 0.02;
static const double LEAST_SCALE = 1e-9;

enum input {
    INPUT_ONE,
    INPUT_LAST,
    INPUT_PEAK,      /* of the last ten steps */
    INPUT_MEAN,      /* of the last hour */
    INPUT_HOUR,      /* the peak of the last hour */
    INPUT_YESTERDAY, /* around this time */
    INPUT_EXPECTED,  /* what `seasonal` says */
    INPUT_MARGIN,
};

void regression_begin(struct regression *regression)
{
    *regression = (struct regression){0};
    regression->weight[INPUT_EXPECTED] = 1;
    regression->weight[INPUT_MARGIN] = 1;
}

static double peak_of(const struct forecaster *forecaster, size_t back, size_t count)
{
    double peak = 0;
    for (size_t i = 0; i < count; i++) {
        double value = forecaster_value(forecaster, back + i);
        peak = value > peak ? value : peak;
    }
    return peak;
}

static double mean_of(const struct forecaster *forecaster, size_t count)
{
    double sum = 0;
    for (size_t i = 0; i < count; i++) {
        sum += forecaster_value(forecaster, i);
    }
    return count > 0 ? sum / (double)count : 0;
}

double regression_high(struct forecaster *forecaster, double expected)
{
    double *inputs = forecaster->knows.inputs;
    double scale = peak_of(forecaster, 0, forecaster->day_slots);
    size_t hour = forecaster->day_slots / 24;
    double high = 0;
    scale = scale > LEAST_SCALE ? scale : LEAST_SCALE; /* all inputs are about one */
    inputs[INPUT_ONE] = 1;
    inputs[INPUT_LAST] = forecaster_value(forecaster, 0) / scale;
    inputs[INPUT_PEAK] = peak_of(forecaster, 0, 10) / scale;
    inputs[INPUT_MEAN] = mean_of(forecaster, hour) / scale;
    inputs[INPUT_HOUR] = peak_of(forecaster, 0, hour) / scale;
    inputs[INPUT_YESTERDAY] = peak_of(forecaster, forecaster->day_slots - 3, 3) / scale;
    inputs[INPUT_EXPECTED] = expected / scale;
    inputs[INPUT_MARGIN] = seasonal_margin(forecaster) / scale;
    for (size_t i = 0; i < REGRESSION_INPUTS; i++) {
        high += inputs[i] * forecaster->knows.regression.weight[i];
    }
    high *= scale;
    return high > expected ? high : expected;
}

void regression_learn(struct forecaster *forecaster, double value, double said)
{
    struct regression *regression = &forecaster->knows.regression;
    double slope = value > said ? forecaster->quantile : forecaster->quantile - 1;
    for (size_t i = 0; i < REGRESSION_INPUTS; i++) {
        double gradient = slope * forecaster->knows.inputs[i];
        regression->squares[i] += gradient * gradient;
        if (regression->squares[i] > 0) {
            regression->weight[i] += PACE * gradient / sqrt(regression->squares[i]);
        }
    }
}
