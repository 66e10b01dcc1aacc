/*
 * forecast-seed FILE PROJECT FUNCTION PEAK: a file of forecasts as a node writes it that has seen
 * nine days on which PEAK calls at once came for a quarter of an hour from this time of the day,
 * and none at other times.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/memory.h"

#include "service/forecast/parts.h"

enum { STEP_MS = 60000, DAY_STEPS = 1440, DAYS = 9, WAVE_STEPS = 15 };

int main(int argc, char **argv)
{
    char key[SERIES_KEY_MAX];
    if (argc != 5) {
        fprintf(stderr, "forecast-seed FILE PROJECT FUNCTION PEAK\n");
        return 64;
    }
    struct forecast_service service = {.options.step_ms = STEP_MS, .path = argv[1]};
    uint64_t now = clock_real_ms() / STEP_MS;
    snprintf(key, sizeof(key), "f/%s/%s", argv[2], argv[3]);
    struct series *series = series_find(&service, key, true);
    for (uint64_t step = now - (uint64_t)DAYS * DAY_STEPS; step < now; step++) {
        uint64_t away = (now - step) % DAY_STEPS;
        bool is_wave = away == 0 || away > DAY_STEPS - WAVE_STEPS;
        forecaster_observe(series->forecaster, step, is_wave ? strtod(argv[4], NULL) : 0);
    }
    series->seen = now - 1;
    forecast_file_write(&service);
    series_free(series);
    map_done(&service.series);
    return 0;
}
