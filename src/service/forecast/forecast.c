/* Steps: what was, what comes, and telling the instances.  See forecast.h. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "base/loop/loop.h"
#include "base/memory.h"
#include "base/text.h"

#include "service/forecast/parts.h"
#include "service/function/function.h"
#include "service/instance/instance.h"

/* A function that was not there at the end of so many steps was deleted; a node that begins does
 * not know yet what there is. */
enum { MISSING_STEPS = 5 };

enum { TICKS_PER_STEP = 6, WRITE_EVERY_MS = 3600000, DAY_MS = 86400000 };

/* So little above a whole number is no reason for one instance more. */
static const double SLACK = 0.25;

const char *forecast_step_refused(uint64_t step_ms)
{
    if (step_ms < FORECAST_STEP_MIN_MS || step_ms > FORECAST_STEP_MAX_MS) {
        return "a step is from 10s to 1h";
    }
    return DAY_MS % step_ms != 0 ? "a day is no whole number of such steps" : NULL;
}

/* ---- Series ---- */

static void forget_expected(struct forecast_service *service, struct series *series)
{
    if (series->target != NULL) {
        instance_expect(service->options.instances, series->target, false, 0);
        instance_target_unref(series->target);
        series->target = NULL;
    }
}

void series_free(struct series *series)
{
    if (series->target != NULL) {
        instance_target_unref(series->target);
    }
    forecaster_free(series->forecaster);
    free(series->key);
    free(series);
}

static void drop(struct forecast_service *service, struct series *series)
{
    forget_expected(service, series);
    map_remove(&service->series, series->key);
    series_free(series);
}

static void find_oldest(const char *key, void *value, void *context)
{
    struct series *series = value;
    struct series **oldest = context;
    (void)key;
    if (*oldest == NULL || series->seen < (*oldest)->seen) {
        *oldest = series;
    }
}

struct series *series_find(struct forecast_service *service, const char *key, bool is_wanted)
{
    struct series *series = map_get(&service->series, key);
    if (series != NULL || !is_wanted || strlen(key) >= SERIES_KEY_MAX) {
        return series;
    }
    if (service->series.count >= FORECAST_SERIES_MAX) {
        struct series *oldest = NULL;
        map_each(&service->series, find_oldest, &oldest);
        drop(service, oldest);
    }
    series = NEW(struct series);
    series->forecaster = forecaster_new(service->options.step_ms, FORECAST_QUANTILE);
    series->key = memory_copy_string(key);
    map_set(&service->series, series->key, series);
    return series;
}

/* ---- What comes ---- */

static unsigned instances_for(double high)
{
    double count = ceil(high - SLACK);
    return count < 0 ? 0 : count > 1e6 ? 1000000 : (unsigned)count;
}

/*
 * Tell the instances of a function what the step needs that begins, or is under way; and, when it
 * ends soon, the next one.  False: there is no such function any more.
 */
static bool expect(struct forecast_service *service, struct series *series, bool ends_soon)
{
    struct forecast_point now;
    struct forecast_point then[2];
    struct instance_target *target = NULL;
    struct error err = {0};
    const char *project = series->key + strlen("f/");
    const char *slash = strchr(project, '/');
    if (!forecaster_next(series->forecaster, &now)) {
        forget_expected(service, series);
        return true;
    }
    MEMORY_OWNED char *owner = memory_copy_text(project, (size_t)(slash - project));
    int r = function_route_find(service->options.functions, owner,
                                text_of(slash + 1, strlen(slash + 1)), &target, &err);
    if (r < 0) {
        forget_expected(service, series);
        return r != -ERROR_NOT_FOUND;
    }
    forecaster_ahead(series->forecaster, 2, then);
    double high = ends_soon && then[1].high > now.high ? then[1].high : now.high;
    if (series->target != target) { /* the alias has moved */
        forget_expected(service, series);
        series->target = instance_target_ref(target);
    }
    instance_expect(service->options.instances, target, true, instances_for(high));
    instance_target_unref(target);
    return true;
}

struct walk {
    struct forecast_service *service;
    uint64_t ended; /* the step that did; 0: none */
    bool ends_soon;
    struct series *gone;
};

static void step_series(const char *key, void *value, void *context)
{
    struct walk *walk = context;
    struct series *series = value;
    const struct forecast_service *service = walk->service;
    uint64_t forget_steps = (uint64_t)FORECAST_FORGET_DAYS * DAY_MS / service->options.step_ms;
    if (walk->ended > 0) {
        forecaster_observe(series->forecaster, walk->ended, series->noted);
        series->seen = series->noted > 0 || series->seen == 0 ? walk->ended : series->seen;
        series->noted = 0;
        if (series->seen + forget_steps < walk->ended) {
            walk->gone = series;
            return;
        }
    }
    if (key[0] != 'f') {
        return;
    }
    if (expect(walk->service, series, walk->ends_soon)) {
        series->missing = 0;
    } else if (walk->ended > 0 && ++series->missing == MISSING_STEPS) {
        walk->gone = series;
    }
}

static void step_all(struct forecast_service *service, uint64_t ended, bool ends_soon)
{
    struct walk walk = {.service = service, .ended = ended, .ends_soon = ends_soon};
    map_each(&service->series, step_series, &walk);
    if (walk.gone != NULL) { /* one at a time is enough */
        drop(service, walk.gone);
    }
}

/* ---- What was ---- */

static void begin_tick(struct forecast_service *service)
{
    loop_timer_start(service->timer, service->options.step_ms / TICKS_PER_STEP);
}

/* What was asked for, and may come when the service has ended. */
struct forecast_ask {
    struct forecast_service *service;
};

static void note_loads(struct forecast_service *service, const struct instance_load *loads,
                       size_t count)
{
    for (size_t i = 0; i < count; i++) {
        char key[SERIES_KEY_MAX];
        snprintf(key, sizeof(key), "f/%s/%s", loads[i].project, loads[i].function);
        struct series *series = series_find(service, key, loads[i].peak > 0);
        if (series != NULL && (double)loads[i].peak > series->noted) {
            series->noted = (double)loads[i].peak;
        }
    }
}

static void on_loads(const struct instance_load *loads, size_t count, void *context)
{
    struct forecast_ask *ask = context;
    struct forecast_service *service = ask->service;
    free(ask);
    if (service == NULL) {
        return;
    }
    service->ask = NULL;
    note_loads(service, loads, count);
    uint64_t ended = service->step;
    service->step = clock_real_ms() / service->options.step_ms;
    step_all(service, ended, false);
    cpu_publish(service);
    if (clock_monotonic_ms() - service->written_ms >= WRITE_EVERY_MS) {
        forecast_file_write(service);
        service->written_ms = clock_monotonic_ms();
    }
    begin_tick(service);
}

static void on_tick(void *context)
{
    struct forecast_service *service = context;
    uint64_t now_ms = clock_real_ms();
    uint64_t step_ms = service->options.step_ms;
    cpu_sample(service);
    if (now_ms / step_ms != service->step) {
        service->ask = NEW(struct forecast_ask);
        service->ask->service = service;
        instance_take_load(service->options.instances, service->options.loop, on_loads,
                           service->ask);
        return;
    }
    step_all(service, 0, step_ms - now_ms % step_ms <= step_ms / TICKS_PER_STEP);
    begin_tick(service);
}

/* ---- Life ---- */

struct forecast_service *forecast_service_new(const struct forecast_service_options *options)
{
    struct forecast_service *service = NEW(struct forecast_service);
    CHECK(forecast_step_refused(options->step_ms) == NULL);
    service->options = *options;
    service->path = memory_copy_string(options->path);
    service->options.path = service->path;
    service->timer = loop_timer_new(options->loop, on_tick, service);
    service->step = clock_real_ms() / options->step_ms;
    service->written_ms = clock_monotonic_ms();
    forecast_file_read(service);
    step_all(service, 0, false);
    begin_tick(service);
    return service;
}

static void free_series(const char *key, void *value, void *context)
{
    (void)key;
    (void)context;
    series_free(value);
}

void forecast_service_free(struct forecast_service *service)
{
    if (service == NULL) {
        return;
    }
    if (service->ask != NULL) {
        service->ask->service = NULL;
    }
    loop_timer_free(service->timer);
    forecast_file_write(service);
    map_each(&service->series, free_series, NULL);
    map_done(&service->series);
    free(service->path);
    free(service);
}
