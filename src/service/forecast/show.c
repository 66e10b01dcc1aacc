/* Forecasts as JSON and as metrics. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/json.h"
#include "base/memory.h"

#include "engine/store/store.h"

#include "service/forecast/parts.h"

static void write_past(const struct series *series, size_t count, uint64_t step_ms,
                       struct json_writer *writer)
{
    double *past = memory_new(count + 1, sizeof(*past));
    size_t known = forecaster_past(series->forecaster, count, past);
    uint64_t first = forecaster_last(series->forecaster) + 1 - known;
    for (size_t i = 0; i < known; i++) {
        json_write_begin_object(writer);
        json_write_field_time_ms(writer, "begin", (first + i) * step_ms);
        json_write_field_double(writer, "was", past[i]);
        json_write_end_object(writer);
    }
    free(past);
}

static void write_ahead(const struct series *series, size_t count, uint64_t step_ms,
                        struct json_writer *writer)
{
    struct forecast_point *ahead = memory_new(count + 1, sizeof(*ahead));
    uint64_t first = forecaster_last(series->forecaster) + 1;
    forecaster_ahead(series->forecaster, count, ahead);
    for (size_t i = 0; i < count; i++) {
        json_write_begin_object(writer);
        json_write_field_time_ms(writer, "begin", (first + i) * step_ms);
        json_write_field_double(writer, "expected", ahead[i].expected);
        json_write_field_double(writer, "high", ahead[i].high);
        json_write_end_object(writer);
    }
    free(ahead);
}

static void write_series(const struct forecast_service *service, const struct series *series,
                         const char *name, const char *unit, uint64_t hours,
                         struct json_writer *writer)
{
    const uint64_t step_ms = service->options.step_ms;
    struct forecast_point next;
    struct forecast_report report;
    size_t count = (size_t)(hours * 3600000 / step_ms);
    bool is_believed = forecaster_next(series->forecaster, &next);
    forecaster_report(series->forecaster, &report);
    json_write_begin_object(writer);
    json_write_field_string(writer, "name", name);
    json_write_field_string(writer, "node", service->options.node_name);
    json_write_field_string(writer, "unit", unit);
    json_write_field_u64(writer, "step_ms", step_ms);
    json_write_field_u64(writer, "steps", report.steps);
    json_write_field_time_ms(writer, "until", (forecaster_last(series->forecaster) + 1) * step_ms);
    json_write_field_string(writer, "model", forecast_model_name(report.model));
    json_write_field_bool(writer, "is_used", is_believed);
    json_write_field_double(writer, "next", next.high);
    json_write_field_double(writer, "quantile", FORECAST_QUANTILE);
    json_write_field_double(writer, "coverage", report.coverage);
    json_write_field_double(writer, "mean", report.scale);
    json_write_field_double(writer, "error", report.error);
    json_write_key(writer, "loss");
    json_write_begin_object(writer);
    for (int i = 0; i < FORECAST_MODELS; i++) {
        json_write_field_double(writer, forecast_model_name((enum forecast_model)i),
                                report.loss[i]);
    }
    json_write_end_object(writer);
    json_write_key(writer, "points");
    json_write_begin_array(writer);
    write_past(series, count, step_ms, writer);
    write_ahead(series, count, step_ms, writer);
    json_write_end_array(writer);
    json_write_end_object(writer);
}

int forecast_write_function(struct forecast_service *service, const char *project, const char *name,
                            uint64_t hours, struct json_writer *writer, struct error *err)
{
    char key[SERIES_KEY_MAX];
    snprintf(key, sizeof(key), "f/%s/%s", project, name);
    const struct series *series = series_find(service, key, false);
    if (series == NULL || forecaster_last(series->forecaster) == 0) {
        return error_set(err, ERROR_NOT_FOUND,
                         "function %.80s was not called at node %.80s yet, or only this minute",
                         name, service->options.node_name);
    }
    write_series(service, series, name, "calls at once", hours, writer);
    return 0;
}

static bool take_id(sqlite3_stmt *row, void *context)
{
    snprintf(context, SERIES_KEY_MAX, "m/%s", store_text(row, 0));
    return false;
}

int forecast_write_machine(struct forecast_service *service, const char *project, const char *name,
                           uint64_t hours, struct json_writer *writer, struct error *err)
{
    char key[SERIES_KEY_MAX] = "";
    int r =
        store_query(service->options.store, err, take_id, key,
                    "SELECT id FROM machine WHERE project = ? AND name = ?", "tt", project, name);
    if (r < 0) {
        return r;
    }
    const struct series *series = series_find(service, key, false);
    if (series == NULL || forecaster_last(series->forecaster) == 0) {
        return error_set(err, ERROR_NOT_FOUND,
                         "machine %.80s did not run at node %.80s yet, or only this minute", name,
                         service->options.node_name);
    }
    write_series(service, series, name, "cores", hours, writer);
    return 0;
}

int forecast_write_node(struct forecast_service *service, uint64_t hours,
                        struct json_writer *writer, struct error *err)
{
    const struct series *series = series_find(service, "n/", false);
    if (series == NULL || forecaster_last(series->forecaster) == 0) {
        return error_set(err, ERROR_NOT_FOUND, "node %.80s is up for less than a minute",
                         service->options.node_name);
    }
    write_series(service, series, service->options.node_name, "cores", hours, writer);
    return 0;
}

/* ---- Metrics ---- */

struct metric {
    struct buffer *out;
    const char *name;
    double (*value)(const struct series *series);
};

static double next_of(const struct series *series)
{
    struct forecast_point next;
    forecaster_next(series->forecaster, &next);
    return next.high;
}

static double error_of(const struct series *series)
{
    struct forecast_report report;
    forecaster_report(series->forecaster, &report);
    return report.error;
}

static double coverage_of(const struct series *series)
{
    struct forecast_report report;
    forecaster_report(series->forecaster, &report);
    return report.coverage;
}

static double used_of(const struct series *series)
{
    struct forecast_point next;
    return forecaster_next(series->forecaster, &next) ? 1 : 0;
}

static void write_metric(const char *key, void *value, void *context)
{
    const struct metric *metric = context;
    const char *project = key + strlen("f/");
    const char *slash = strchr(project, '/');
    if (key[0] == 'f' && slash != NULL) {
        buffer_append_format(metric->out, "%s{project=\"%.*s\",function=\"%s\"} %.6g\n",
                             metric->name, (int)(slash - project), project, slash + 1,
                             metric->value(value));
    }
}

void forecast_write_metrics(struct forecast_service *service, struct buffer *out)
{
    static const struct {
        const char *name;
        const char *help;
        double (*value)(const struct series *series);
    } gauges[] = {
        {"blixard_function_forecast", "Calls at once that are foreseen for this step.", next_of},
        {"blixard_function_forecast_error", "Mean distance of what was expected from what was.",
         error_of},
        {"blixard_function_forecast_coverage_ratio",
         "Part of the steps that stayed within what was foreseen; 0.95 is aimed at.", coverage_of},
        {"blixard_function_forecast_used",
         "1 where instances are kept by the forecast, 0 where they are kept by the last hour.",
         used_of},
    };
    for (size_t i = 0; i < sizeof(gauges) / sizeof(gauges[0]) && service->series.count > 0; i++) {
        struct metric metric = {out, gauges[i].name, gauges[i].value};
        buffer_append_format(out, "# HELP %s %s\n# TYPE %s gauge\n", metric.name, gauges[i].help,
                             metric.name);
        map_each(&service->series, write_metric, &metric);
    }
}
