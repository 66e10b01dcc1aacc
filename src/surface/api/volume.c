/* Volumes.  What is done to one is done at its node: requests are passed on to it. */
#include "service/volume/volume.h"

#include <stdio.h>
#include <string.h>

#include "base/memory.h"

#include "service/machine/machine.h"

#include "surface/api/parts.h"

static struct volume_service *service_of(const struct request *request)
{
    return request->api->options.volumes;
}

static bool is_elsewhere(struct request *request)
{
    struct error err = {0};
    MEMORY_OWNED char *node = NULL;
    if (volume_node(service_of(request), request->project, request->parameters[0], &node, &err) <
        0) {
        if (!api_looks_again(request)) { /* it may be new */
            api_answer_error(request, &err);
        }
        return true;
    }
    return api_pass_to_node(request, node);
}

/* ---- Looking ---- */

void api_volume_list(struct request *request)
{
    BUFFER_OWNED struct buffer body = {0};
    struct error err = {0};
    int r = volume_write_list(service_of(request), request->project, &body, &err);
    api_answer_written(request, r, &body, &err);
}

void api_volume_get(struct request *request)
{
    BUFFER_OWNED struct buffer body = {0};
    struct error err = {0};
    if (!is_elsewhere(request)) {
        int r = volume_write(service_of(request), request->project, request->parameters[0], &body,
                             &err);
        api_answer_written(request, r, &body, &err);
    }
}

void api_volume_snapshot_list(struct request *request)
{
    BUFFER_OWNED struct buffer body = {0};
    struct error err = {0};
    int r = volume_snapshot_write_list(service_of(request), request->project,
                                       request->parameters[0], &body, &err);
    api_answer_written(request, r, &body, &err);
}

/* ---- Changing ---- */

static void create(struct request *request, const json_t *body)
{
    volume_create(service_of(request), request->project, body, api_answer_begun,
                  api_begin(request, api_body_text(body, "name")));
}

void api_volume_create(struct request *request)
{
    api_body_read(request, "VolumeCreate", create);
}

static void update(struct request *request, const json_t *body)
{
    const char *name = request->parameters[0];
    volume_update(service_of(request), request->project, name, body, api_answer_begun,
                  api_begin(request, name));
}

void api_volume_update(struct request *request)
{
    if (!is_elsewhere(request)) {
        api_body_read(request, "VolumeUpdate", update);
    }
}

void api_volume_delete(struct request *request)
{
    const char *name = request->parameters[0];
    if (!is_elsewhere(request)) {
        volume_delete(service_of(request), request->project, name, api_answer_begun,
                      api_begin(request, name));
    }
}

/* ---- Snapshots ---- */

static void take_snapshot(struct request *request, const json_t *body)
{
    const char *name = request->parameters[0];
    volume_snapshot_create(service_of(request), request->project, name, api_body_text(body, "name"),
                           api_answer_begun, api_begin(request, name));
}

void api_volume_snapshot_create(struct request *request)
{
    if (!is_elsewhere(request)) {
        api_body_read(request, "VolumeSnapshotCreate", take_snapshot);
    }
}

void api_volume_snapshot_delete(struct request *request)
{
    const char *name = request->parameters[0];
    if (!is_elsewhere(request)) {
        volume_snapshot_delete(service_of(request), request->project, name, request->parameters[1],
                               api_answer_begun, api_begin(request, name));
    }
}

void api_volume_snapshot_restore(struct request *request)
{
    const char *name = request->parameters[0];
    if (!is_elsewhere(request)) {
        volume_snapshot_restore(service_of(request), request->project, name, request->parameters[1],
                                api_answer_begun, api_begin(request, name));
    }
}

/* ---- Of machines ---- */

static void attach(struct request *request, const json_t *body)
{
    struct volume_use use = {.is_read_only = json_is_true(json_object_get(body, "read_only"))};
    const char *path = api_body_text(body, "path");
    const char *name = request->parameters[0];
    struct error err = {0};
    if (snprintf(use.name, sizeof(use.name), "%s", request->parameters[1]) >=
            (int)sizeof(use.name) ||
        snprintf(use.path, sizeof(use.path), "%s", path != NULL ? path : "") >=
            (int)sizeof(use.path)) {
        error_set(&err, ERROR_INVALID, "the volume's name or path is too long");
        api_answer_error(request, &err);
        return;
    }
    machine_volume_attach(request->api->options.machines, request->project, name, &use,
                          api_answer_begun, api_begin(request, name));
}

void api_machine_volume_put(struct request *request)
{
    if (!api_machine_is_elsewhere(request)) {
        api_body_read(request, "MachineVolume", attach);
    }
}

void api_machine_volume_delete(struct request *request)
{
    const char *name = request->parameters[0];
    if (!api_machine_is_elsewhere(request)) {
        machine_volume_detach(request->api->options.machines, request->project, name,
                              request->parameters[1], api_query_flag(request, "force", false),
                              api_answer_begun, api_begin(request, name));
    }
}
