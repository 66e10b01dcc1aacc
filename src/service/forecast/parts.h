/* Series, shared by the room's files. */
#ifndef SERVICE_FORECAST_PARTS_H
#define SERVICE_FORECAST_PARTS_H

#include "base/map.h"

#include "engine/forecast/forecast.h"

#include "service/forecast/forecast.h"

struct instance_target;
struct loop_timer;

struct series {
    struct forecaster *forecaster;
    char *key;        /* "f/PROJECT/NAME", "m/ID", "n/" */
    double noted;     /* in the step that is under way */
    uint64_t seen;    /* the last step with more than nothing */
    unsigned missing; /* steps at whose end there was no such function */
    /* Of a machine, and of the node: CPU time when it was looked at. */
    uint64_t cpu_ms;
    uint64_t cpu_at_ms; /* monotonic; 0: never */
    /* Of a function: what its instances were told. */
    struct instance_target *target; /* a reference; NULL: nothing */
};

struct forecast_service {
    struct forecast_service_options options;
    char *path;
    struct map series;
    struct loop_timer *timer;
    uint64_t step;            /* that is under way; 0: none yet */
    struct forecast_ask *ask; /* loads were asked for */
    uint64_t written_ms;
    uint64_t peak_millis; /* as the state has it */
    uint64_t peak_at_ms;  /* when it was written, monotonic; 0: not yet */
};

enum { SERIES_KEY_MAX = 256 };
static const double FORECAST_QUANTILE = 0.95;

/* By its key; made when `is_wanted`. */
struct series *series_find(struct forecast_service *service, const char *key, bool is_wanted);
void series_free(struct series *series);

/* cpu.c: what machines and the node use, and what the node says of itself. */
void cpu_sample(struct forecast_service *service);
void cpu_publish(struct forecast_service *service);

void forecast_file_read(struct forecast_service *service);
void forecast_file_write(struct forecast_service *service);

#endif
