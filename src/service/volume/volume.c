/* Volumes: life, and the step from what a row says to what is done about it.  See volume.h. */
#include "service/volume/volume.h"

#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "engine/store/store.h"

#include "service/volume/parts.h"

void volume_unref(struct volume *volume)
{
    if (!volume->is_gone || volume->is_busy) {
        return;
    }
    list_remove(&volume->link);
    volume_free_one(volume);
}

void volume_finish(struct volume *volume, const struct error *error)
{
    char id[OPERATION_ID_SIZE];
    volume_tell_keeping(volume, error);
    if (volume->operation[0] == '\0') {
        return;
    }
    snprintf(id, sizeof(id), "%s", volume->operation);
    volume->operation[0] = '\0';
    if (error != NULL) {
        operation_fail(volume->service->options.operations, id, error);
    } else {
        operation_succeed(volume->service->options.operations, id, NULL);
    }
}

/* ---- Machines ---- */

enum volume_machine_state volume_look(struct volume *volume, struct hypervisor_vm **ret_vm,
                                      struct agent **ret_agent)
{
    const struct volume_machines *machines = &volume->service->machines;
    *ret_vm = NULL;
    *ret_agent = NULL;
    if (volume->machine[0] == '\0') {
        return VOLUME_MACHINE_OFF;
    }
    return machines->look == NULL
        ? VOLUME_MACHINE_BETWEEN
        : machines->look(volume->project, volume->machine, ret_vm, ret_agent, machines->context);
}

void volume_tell_free(struct volume *volume)
{
    const struct volume_machines *machines = &volume->service->machines;
    if (machines->on_free != NULL && volume->machine[0] != '\0' && !volume->service->is_over) {
        machines->on_free(volume->project, volume->machine, machines->context);
    }
}

bool volume_is_busy(struct volume_service *service, const char *project, const char *machine)
{
    LIST_EACH(node, &service->volumes)
    {
        const struct volume *volume = LIST_ITEM(node, struct volume, link);
        if (!volume->is_gone && volume->is_busy && strcmp(volume->project, project) == 0 &&
            strcmp(volume->machine, machine) == 0) {
            return true;
        }
    }
    return false;
}

void volume_machine_changed(struct volume_service *service, const char *project,
                            const char *machine)
{
    bool is_off = false;
    LIST_EACH(node, &service->volumes)
    {
        struct volume *volume = LIST_ITEM(node, struct volume, link);
        struct hypervisor_vm *vm = NULL;
        struct agent *agent = NULL;
        if (volume->is_gone || strcmp(volume->project, project) != 0 ||
            strcmp(volume->machine, machine) != 0) {
            continue;
        }
        enum volume_machine_state state = volume_look(volume, &vm, &agent);
        if (state != VOLUME_MACHINE_ON) {
            volume_work_abandon(volume);
        }
        is_off = is_off || state == VOLUME_MACHINE_OFF;
        volume_step(volume);
    }
    if (is_off) {
        volume_collect(service); /* what a VMM had open */
    }
}

static void step_all(struct volume_service *service)
{
    LIST_EACH(node, &service->volumes)
    {
        volume_step(LIST_ITEM(node, struct volume, link));
    }
}

void volume_set_machines(struct volume_service *service, const struct volume_machines *machines)
{
    service->machines = machines != NULL ? *machines : (struct volume_machines){0};
    if (machines != NULL) {
        step_all(service);
    }
}

/* ---- Steps ---- */

void volume_step(struct volume *volume)
{
    struct hypervisor_vm *vm = NULL;
    struct agent *agent = NULL;
    if (volume->is_busy || volume->is_gone || volume->service->is_over) {
        return;
    }
    if (volume->state == VOLUME_READY || volume->state == VOLUME_FAILED) {
        return;
    }
    /* It begins when the machine has got to where it is going: volume_machine_changed(). */
    if (volume->state != VOLUME_CREATING &&
        volume_look(volume, &vm, &agent) == VOLUME_MACHINE_BETWEEN) {
        return;
    }
    volume_work_begin(volume);
}

static void on_changed(const struct store_event *event, void *context)
{
    struct volume_service *service = context;
    if (service->is_over) {
        return;
    }
    volume_load(service, event->operation == 'R' ? NULL : event->key);
    LIST_EACH(node, &service->volumes)
    {
        struct volume *volume = LIST_ITEM(node, struct volume, link);
        if (event->operation == 'R' || strcmp(volume->key, event->key) == 0) {
            volume_step(volume);
        }
    }
}

/* What could not be written, for want of a leader, is tried again. */
static void on_retry(void *context)
{
    struct volume_service *service = context;
    step_all(service);
    if (service->collects_again) {
        volume_collect(service);
    }
}

/* ---- Life ---- */

static void on_file(const char *id, void *context)
{
    struct volume_service *service = context;
    struct volume_link layer;
    struct error err = {0};
    if (!volume_schema_is_there(service) || volume_find_link(service, id, &layer, &err) < 0) {
        log_warn("volumes: %s/%s.* is of no volume that the state knows; it is left alone",
                 service->folder, id);
    }
}

int volume_service_new(const struct volume_options *options, struct volume_service **ret_service,
                       struct error *err)
{
    if (file_make_folder(options->folder, 0700, err) < 0) {
        return -(int)err->kind;
    }
    struct volume_service *service = NEW(struct volume_service);
    service->options = *options;
    service->folder = memory_copy_string(options->folder);
    service->node_name = memory_copy_string(options->node_name);
    list_init(&service->volumes);
    service->retry = loop_timer_new(options->loop, on_retry, service);
    service->watch = store_watch_new(options->store, "volume", on_changed, service);
    int r = volume_sweep(service->folder, on_file, service, err);
    if (r < 0) {
        volume_service_free(service);
        return r;
    }
    volume_load(service, NULL);
    step_all(service);
    volume_collect(service);
    *ret_service = service;
    return 0;
}

void volume_service_free(struct volume_service *service)
{
    if (service == NULL) {
        return;
    }
    service->is_over = true;
    store_watch_free(service->watch);
    LIST_EACH(node, &service->volumes)
    {
        volume_work_abandon(LIST_ITEM(node, struct volume, link));
    }
    store_settle(service->options.store);
    bool waits = true;
    while (waits) {
        waits = service->pending > 0 || service->is_collecting;
        LIST_EACH(node, &service->volumes)
        {
            waits = waits || LIST_ITEM(node, struct volume, link)->is_busy;
        }
        if (waits) {
            uv_run(loop_uv(service->options.loop), UV_RUN_ONCE);
        }
    }
    LIST_EACH(node, &service->volumes)
    {
        struct volume *volume = LIST_ITEM(node, struct volume, link);
        volume->is_gone = true;
        volume_unref(volume);
    }
    loop_timer_free(service->retry);
    free(service->folder);
    free(service->node_name);
    free(service);
}
