/* The models behind forecast.h.  Private to the room. */
#ifndef ENGINE_FORECAST_PARTS_H
#define ENGINE_FORECAST_PARTS_H

#include "engine/forecast/forecast.h"

enum {
    HOUR_STEPS_MAX = FORECAST_SLOTS_MAX / 24,
    WEEK_BIN_STEPS =
        5, /* the week's season is coarser than the day's: it has few visits to learn from */
    REGRESSION_INPUTS = 8,
};

/* One quantile of all that was told, in five numbers (P-square). */
struct p2 {
    uint64_t count;
    double height[5];
    double position[5];
    double wanted[5];
};

void p2_add(struct p2 *p2, double quantile, double value);
double p2_value(const struct p2 *p2);

struct seasonal {
    double level;
    double trend;
    double error;    /* the last one */
    double variance; /* of errors, and how they go with the one before: their correlation */
    double covariance;
    struct p2 errors[2]; /* begun anew in turn, so that what was long ago is forgotten */
    uint64_t errors_age;
};

struct regression {
    double weight[REGRESSION_INPUTS];
    double squares[REGRESSION_INPUTS]; /* of gradients: the step is shorter where much was learnt */
};

/* All that is kept but the arrays; without a pointer, so that it can be written as it is. */
struct knowledge {
    uint64_t last; /* step; 0: none */
    uint64_t steps;
    uint64_t known; /* of the past without a gap, up to the last */
    double scale;   /* mean of the values */
    struct seasonal seasonal;
    struct regression regression;
    /* What was said of the step after the last, and what `regression` said it from. */
    struct forecast_point next[FORECAST_MODELS];
    double inputs[REGRESSION_INPUTS];
    /* Sums, older steps counting less. */
    double weight;
    double loss[FORECAST_MODELS];
    double error[FORECAST_MODELS];
    double within[FORECAST_MODELS];
};

struct forecaster {
    uint64_t step_ms;
    double quantile;
    size_t day_slots;
    size_t week_slots;
    struct knowledge knows;
    /* Two blocks: values[] holds past, day and week; visits[] those of day and week. */
    size_t values_count;
    size_t visits_count;
    float *values;
    uint8_t *visits;
    float *past; /* of the last day, a ring by step */
    float *day;  /* a slot of the day each */
    float *week; /* a bin of WEEK_BIN_STEPS each */
    uint8_t *day_visits;
    uint8_t *week_visits;
};

/* The value `back` steps before the last one (0: the last); 0 where it is not known. */
double forecaster_value(const struct forecaster *forecaster, size_t back);

double seasonal_expected(const struct forecaster *forecaster, size_t ahead);
double seasonal_margin(const struct forecaster *forecaster);
void seasonal_learn(struct forecaster *forecaster, uint64_t step, double value, double expected);

void regression_begin(struct regression *regression);
double regression_high(struct forecaster *forecaster, double expected);
void regression_learn(struct forecaster *forecaster, double value, double said);

#endif
