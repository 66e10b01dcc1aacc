/* What this node is and how it does. */
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "base/version.h"

#include "engine/store/store.h"
#include "engine/vmm/vmm.h"

#include "service/fetch/fetch.h"
#include "service/forecast/forecast.h"
#include "service/function/function.h"
#include "service/instance/instance.h"
#include "service/machine/machine.h"
#include "service/nix/nix.h"
#include "service/placement/placement.h"
#include "service/queue/queue.h"
#include "service/quota/quota.h"
#include "service/route/route.h"
#include "service/telemetry/telemetry.h"
#include "service/traffic/traffic.h"
#include "service/trigger/trigger.h"
#include "service/volume/volume.h"

#include "surface/api/parts.h"

static void write_pool(const struct telemetry *telemetry, struct json_writer *writer)
{
    static const struct {
        const char *name;
        enum telemetry_metric metric;
    } counts[] = {
        {"queued", TELEMETRY_CALLS_QUEUED},         {"starts_warm", TELEMETRY_STARTS_WARM},
        {"starts_cold", TELEMETRY_STARTS_COLD},     {"warmed", TELEMETRY_INSTANCES_WARMED},
        {"cooled", TELEMETRY_INSTANCES_COOLED},     {"evicted", TELEMETRY_INSTANCES_EVICTED},
        {"recycled", TELEMETRY_INSTANCES_RECYCLED},
    };
    uint64_t instances = telemetry_get(telemetry, TELEMETRY_INSTANCES);
    uint64_t busy = telemetry_get(telemetry, TELEMETRY_INSTANCES_BUSY);
    json_write_begin_object(writer);
    json_write_field_u64(writer, "instances", instances);
    json_write_field_u64(writer, "busy", busy);
    json_write_field_u64(writer, "ready", instances > busy ? instances - busy : 0);
    for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
        json_write_field_u64(writer, counts[i].name, telemetry_get(telemetry, counts[i].metric));
    }
    json_write_end_object(writer);
}

static void on_described(const char *runners, void *context)
{
    struct request *request = context;
    const struct api *api = request->api;
    struct store_status status;
    struct error err = {0};
    uint64_t functions = 0;
    store_status(api->options.store, &status);
    store_query(api->options.store, &err, store_take_u64, &functions,
                "SELECT count(*) FROM function", "");
    BUFFER_OWNED struct buffer body = {0};
    struct json_writer writer = json_writer_to(&body);
    json_write_begin_object(&writer);
    json_write_field_string(&writer, "name", api->node_name);
    json_write_field_string(&writer, "version", blixard_version);
    json_write_field_string(&writer, "isolation",
                            vmm_isolation_text(instance_isolation(api->options.instances)));
    if (api->isolation_reason != NULL) {
        json_write_field_string(&writer, "isolation_reason", api->isolation_reason);
    }
    json_write_field_string(&writer, "api", api->own_host);
    json_write_field_string(&writer, "gateway", api->gateway_address);
    json_write_field_string(&writer, "data_folder", api->data_folder);
    json_write_field_u64(&writer, "store_index", status.index);
    json_write_field_u64(&writer, "store_term", status.term);
    json_write_field_u64(&writer, "functions", functions);
    json_write_key(&writer, "image_cache");
    function_write_image_cache(api->options.functions, &writer);
    json_write_key(&writer, "pool");
    write_pool(api->options.telemetry, &writer);
    json_write_key(&writer, "runners");
    json_write_raw(&writer, runners, strlen(runners));
    json_write_field_time_ms(&writer, "started_at", api->started_ms);
    json_write_end_object(&writer);
    api_answer_json(request, request->status, &body);
}

void api_node_get(struct request *request)
{
    instance_describe(request->api->options.instances, request->api->options.loop, on_described,
                      request);
}

static enum telemetry_format metrics_format(const struct request *request)
{
    static const char open_type[] = "application/openmetrics-text";
    struct text accept = http_exchange_field(request->exchange, "Accept");
    bool is_open = accept.length > 0 &&
        memmem(accept.data, accept.length, open_type, sizeof(open_type) - 1) != NULL;
    return is_open ? TELEMETRY_OPENMETRICS : TELEMETRY_PROMETHEUS;
}

/* With what had to be asked for. */
static void answer_metrics(struct request *request, const char *more)
{
    BUFFER_OWNED struct buffer body = {0};
    enum telemetry_format format = metrics_format(request);
    telemetry_write_metrics(request->api->options.telemetry, format, &body);
    if (request->api->options.triggers != NULL) {
        trigger_write_metrics(request->api->options.triggers, &body);
    }
    if (request->api->options.routes != NULL) {
        route_write_metrics(request->api->options.routes, format == TELEMETRY_OPENMETRICS, &body);
    }
    if (request->api->options.quotas != NULL) {
        quota_write_metrics(request->api->options.quotas, &body);
    }
    if (request->api->options.queues != NULL) {
        queue_write_metrics(request->api->options.queues, &body);
    }
    if (request->api->options.fetches != NULL) {
        fetch_write_metrics(request->api->options.fetches, format, &body);
    }
    if (request->api->options.nix != NULL) {
        nix_write_metrics(request->api->options.nix, format == TELEMETRY_OPENMETRICS, &body);
    }
    if (request->api->options.machines != NULL) {
        machine_write_metrics(request->api->options.machines, format == TELEMETRY_OPENMETRICS,
                              &body);
    }
    buffer_append_string(&body, more);
    if (request->api->options.traffic != NULL) {
        traffic_write_metrics(request->api->options.traffic, format == TELEMETRY_OPENMETRICS,
                              &body);
    }
    if (request->api->options.forecasts != NULL) {
        forecast_write_metrics(request->api->options.forecasts, &body);
    }
    if (request->api->options.placement != NULL) {
        placement_service_write_metrics(request->api->options.placement,
                                        format == TELEMETRY_OPENMETRICS, &body);
    }
    if (request->api->options.volumes != NULL) {
        volume_write_metrics(request->api->options.volumes, &body);
    }
    telemetry_write_end(format, &body);
    api_answer_text(request, 200,
                    format == TELEMETRY_OPENMETRICS
                        ? "application/openmetrics-text; version=1.0.0; charset=utf-8"
                        : "text/plain; version=0.0.4; charset=utf-8",
                    buffer_string(&body));
}

static void on_measured(const char *text, void *context)
{
    answer_metrics(context, text);
}

void api_metrics_get(struct request *request)
{
    struct machine_service *machines = request->api->options.machines;
    if (machines != NULL) {
        machine_measure(machines, metrics_format(request) == TELEMETRY_OPENMETRICS, on_measured,
                        request);
    } else {
        answer_metrics(request, "");
    }
}

void api_health_get(struct request *request)
{
    api_answer_text(request, 200, "text/plain; charset=utf-8", "ok\n");
}

void api_ready_get(struct request *request)
{
    const struct api *api = request->api;
    if (api->not_ready == NULL && !api->stopping) {
        api_answer_text(request, 200, "text/plain; charset=utf-8", "ready\n");
        return;
    }
    struct error err = {0};
    error_set(&err, ERROR_UNAVAILABLE, "%s",
              api->stopping ? "the node is stopping" : api->not_ready);
    api_answer_error(request, &err);
}

void api_openapi_get(struct request *request)
{
    BUFFER_OWNED struct buffer body = {0};
    api_write_openapi(&body);
    api_answer_json(request, request->status, &body);
}
