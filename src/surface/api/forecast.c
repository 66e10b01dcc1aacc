/* What is foreseen: of functions, machines, and the node. */
#include "service/forecast/forecast.h"

#include "base/buffer.h"
#include "base/error.h"
#include "base/json.h"

#include "surface/api/parts.h"

typedef int write_forecast(struct request *request, uint64_t hours, struct json_writer *writer,
                           struct error *err);

static void answer(struct request *request, write_forecast *write)
{
    BUFFER_OWNED struct buffer body = {0};
    struct error err = {0};
    struct json_writer writer = json_writer_to(&body);
    uint64_t hours = api_query_u64(request, "hours", 24);
    int r = 0;
    if (hours < 1 || hours > FORECAST_HOURS_MAX) {
        r = error_set(&err, ERROR_INVALID, "?hours is 1 to %d", FORECAST_HOURS_MAX);
    }
    r = r < 0 ? r : write(request, hours, &writer, &err);
    api_answer_written(request, r, &body, &err);
}

static int write_function(struct request *request, uint64_t hours, struct json_writer *writer,
                          struct error *err)
{
    return forecast_write_function(request->api->options.forecasts, request->project,
                                   request->parameters[0], hours, writer, err);
}

static int write_machine(struct request *request, uint64_t hours, struct json_writer *writer,
                         struct error *err)
{
    return forecast_write_machine(request->api->options.forecasts, request->project,
                                  request->parameters[0], hours, writer, err);
}

static int write_node(struct request *request, uint64_t hours, struct json_writer *writer,
                      struct error *err)
{
    return forecast_write_node(request->api->options.forecasts, hours, writer, err);
}

void api_function_forecast(struct request *request)
{
    answer(request, write_function);
}

void api_machine_forecast(struct request *request)
{
    if (!api_machine_is_elsewhere(request)) {
        answer(request, write_machine);
    }
}

void api_node_forecast(struct request *request)
{
    answer(request, write_node);
}
