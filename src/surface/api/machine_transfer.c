/* Machines as files: sent as they are made, and made of what was uploaded. */
#include <string.h>

#include "base/memory.h"

#include "service/machine/machine.h"

#include "surface/api/parts.h"

static struct machine_service *service_of(const struct request *request)
{
    return request->api->options.machines;
}

/* ---- Out ---- */

static int step(void *context, struct buffer *out, struct error *err)
{
    return machine_export_step(context, out, err);
}

static void end(void *context)
{
    machine_export_free(context);
}

struct waiting {
    struct request *request;
    bool is_gone; /* the client, or the node stops */
};

static void on_gone(void *context)
{
    struct waiting *waiting = context;
    waiting->is_gone = true;
}

static void on_stop(struct request *request)
{
    on_gone(request->state);
}

static void on_exported(const struct error *error, struct machine_export *export, void *context)
{
    struct waiting waiting = *(struct waiting *)context;
    struct request *request = waiting.request;
    free(context);
    http_exchange_on(request->exchange, NULL, NULL, NULL);
    request->stop = NULL;
    if (error != NULL) {
        api_answer_error(request, error);
        return;
    }
    if (waiting.is_gone) {
        machine_export_free(export);
        http_exchange_abort(request->exchange);
        api_request_end(request);
        return;
    }
    MEMORY_OWNED char *file_name = memory_format("%s.blixard", request->parameters[0]);
    const struct api_pieces pieces = {.step = step,
                                      .end = end,
                                      .context = export,
                                      .type = "application/octet-stream",
                                      .file_name = file_name,
                                      .what = "an export"};
    api_pieces_send(request, &pieces);
}

void api_machine_export(struct request *request)
{
    if (api_machine_is_elsewhere(request)) {
        return;
    }
    struct waiting *waiting = NEW(struct waiting);
    *waiting = (struct waiting){request, false};
    request->state = waiting;
    request->stop = on_stop;
    http_exchange_on(request->exchange, NULL, on_gone, waiting);
    machine_export(service_of(request), request->project, request->parameters[0],
                   api_query_flag(request, "snapshots", false),
                   api_query_flag(request, "volumes", false), on_exported, waiting);
}

/* ---- In ---- */

static void import(struct request *request, const json_t *body)
{
    machine_import(service_of(request), request->project, body, api_answer_begun,
                   api_begin(request, NULL));
}

void api_machine_import(struct request *request)
{
    api_body_read(request, "MachineImport", import);
}
