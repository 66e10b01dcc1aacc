/* Snapshots of machines, machines restored and cloned: at the machine's node, which has the files.
 */
#include <string.h>

#include "base/memory.h"

#include "service/machine/machine.h"

#include "surface/api/parts.h"

static struct machine_service *service_of(const struct request *request)
{
    return request->api->options.machines;
}

/* ---- Looking: rows, which every node has ---- */

void api_machine_snapshot_list(struct request *request)
{
    BUFFER_OWNED struct buffer body = {0};
    struct error err = {0};
    int r = machine_snapshot_write_list(service_of(request), request->project,
                                        request->parameters[0], &body, &err);
    api_answer_written(request, r, &body, &err);
}

void api_machine_snapshot_get(struct request *request)
{
    BUFFER_OWNED struct buffer body = {0};
    struct error err = {0};
    int r = machine_snapshot_write(service_of(request), request->project, request->parameters[0],
                                   request->parameters[1], &body, &err);
    api_answer_written(request, r, &body, &err);
}

/* ---- Changing ---- */

static void create(struct request *request, const json_t *body)
{
    machine_snapshot_create(service_of(request), request->project, request->parameters[0], body,
                            api_answer_begun, api_begin(request, request->parameters[0]));
}

void api_machine_snapshot_create(struct request *request)
{
    if (!api_machine_is_elsewhere(request)) {
        api_body_read(request, "SnapshotCreate", create);
    }
}

void api_machine_snapshot_delete(struct request *request)
{
    if (!api_machine_is_elsewhere(request)) {
        machine_snapshot_delete(service_of(request), request->project, request->parameters[0],
                                request->parameters[1], api_answer_done, request);
    }
}

static void restore(struct request *request, const json_t *body)
{
    machine_snapshot_restore(service_of(request), request->project, request->parameters[0], body,
                             api_answer_begun, api_begin(request, request->parameters[0]));
}

void api_machine_restore(struct request *request)
{
    if (!api_machine_is_elsewhere(request)) {
        api_body_read(request, "MachineRestore", restore);
    }
}

void api_answer_machines_begun(const struct error *error, const char *const *names,
                               const char *const *operations, size_t count, void *context)
{
    struct request *request = context;
    if (error != NULL) {
        api_answer_error(request, error);
        return;
    }
    BUFFER_OWNED struct buffer body = {0};
    struct json_writer writer = json_writer_to(&body);
    json_write_begin_object(&writer);
    json_write_key(&writer, "machines");
    json_write_begin_array(&writer);
    for (size_t i = 0; i < count; i++) {
        json_write_begin_object(&writer);
        json_write_field_string(&writer, "name", names[i]);
        json_write_field_string(&writer, "operation", operations[i]);
        json_write_end_object(&writer);
    }
    json_write_end_array(&writer);
    json_write_end_object(&writer);
    api_answer_json(request, request->status, &body);
}

static void clone_one(struct request *request, const json_t *body)
{
    machine_clone(service_of(request), request->project, request->parameters[0], body,
                  api_answer_machines_begun, request);
}

void api_machine_clone(struct request *request)
{
    if (!api_machine_is_elsewhere(request)) {
        api_body_read(request, "MachineClone", clone_one);
    }
}
