/* Machines that move to another node. */
#include <string.h>

#include "base/memory.h"

#include "service/machine/machine.h"

#include "surface/api/parts.h"

static struct machine_service *service_of(const struct request *request)
{
    return request->api->options.machines;
}

/* ---- At the node that has it ---- */

static void migrate(struct request *request, const json_t *body)
{
    machine_migrate(service_of(request), request->project, request->parameters[0], body,
                    api_answer_begun, api_begin(request, request->parameters[0]));
}

void api_machine_migrate(struct request *request)
{
    if (!api_machine_is_elsewhere(request)) {
        api_body_read(request, "MachineMigrate", migrate);
    }
}

/* ---- At the one that is to have it ---- */

/* The node that asked is gone, or this one ends. */
static void on_gone(void *context)
{
    struct request *request = context;
    machine_arrival_cancel(request->state);
}

static void on_stop(struct request *request)
{
    on_gone(request);
}

static void on_arrived(const struct error *error, uint64_t index, void *context)
{
    struct request *request = context;
    request->stop = NULL;
    http_exchange_on(request->exchange, NULL, NULL, NULL);
    api_answer_done(error, index, request);
}

static void on_visit_gone(void *context)
{
    struct request *request = context;
    machine_visit_cancel(request->state);
}

static void on_visit_stop(struct request *request)
{
    on_visit_gone(request);
}

static void arrive(struct request *request, const json_t *body)
{
    if (json_object_get(body, "disk_bytes") != NULL) { /* it runs */
        request->state =
            machine_visit(service_of(request), request->project, request->parameters[0],
                          request->caller.node, body, on_arrived, request);
        request->stop = on_visit_stop;
        http_exchange_on(request->exchange, NULL, on_visit_gone, request);
        return;
    }
    request->state = machine_arrive(service_of(request), request->project, request->parameters[0],
                                    request->caller.node, body, on_arrived, request);
    request->stop = on_stop;
    http_exchange_on(request->exchange, NULL, on_gone, request);
}

void api_machine_arrive(struct request *request)
{
    api_body_read(request, "MachineArrival", arrive);
}
