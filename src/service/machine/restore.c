/*
 * Restoring: a snapshot is verified, and tried, and laid out beside the machine, which goes on
 * until then.  Its VMM is ended, what was laid out takes the place of its content in one rename
 * (content.h), and it goes on from there.  What fails before the rename leaves it as it was.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "engine/store/store.h"

#include "service/machine/content.h"
#include "service/machine/kept.h"
#include "service/machine/snapshot.h"
#include "service/machine/volumes.h"

struct restore {
    struct machine_service *service;
    struct machine *machine; /* held */
    char *content;           /* the snapshot */
    char *restoring;         /* laid out */
    bool with_memory;
    bool runs_afterwards;
    bool waits_for_end; /* of the VMM */
    json_t *manifest;
    json_t *volumes; /* that become what they were, or NULL: kept.h */
    json_t *config;  /* that it has afterwards */
    bool is_claimed; /* what that takes beyond what it has now is counted already */
    bool is_disk_only;
    uid_t uid;
    char id[MACHINE_ID_SIZE];
    char operation[OPERATION_ID_SIZE];
    struct error error;
    machine_begun *done;
    void *context;
};

static void free_restore(struct restore *restore)
{
    struct machine *machine = restore->machine;
    machine->restore = NULL;
    machine->held--;
    restore->service->pending--;
    json_decref(restore->manifest);
    json_decref(restore->volumes);
    json_decref(restore->config);
    free(restore->content);
    free(restore->restoring);
    free(restore);
    machine_unref(machine);
}

/* ---- Failing ---- */

static void clean_up(void *context)
{
    struct restore *restore = context;
    struct error ignored = {0};
    file_remove_tree(restore->restoring, &ignored);
}

static void on_cleaned_up(void *context)
{
    struct restore *restore = context;
    log_warn("machine %s: it was not restored: %s", restore->machine->key, restore->error.text);
    operation_fail(restore->service->options.operations, restore->operation, &restore->error);
    free_restore(restore);
}

static void give_up(struct restore *restore)
{
    struct machine *machine = restore->machine;
    if (restore->is_claimed && !machine->is_gone) {
        struct store_command *command = store_command_new();
        draft_add_claim(restore->service, command, machine->id, machine->config);
        store_propose(restore->service->options.store, command, NULL, NULL);
    }
    loop_work(restore->service->options.loop, clean_up, on_cleaned_up, restore);
}

/* ---- The other content ---- */

static void on_row_written(const struct error *error, uint64_t index, void *context)
{
    struct restore *restore = context;
    struct machine *machine = restore->machine;
    (void)index;
    machine->is_busy = false;
    if (error != NULL) {
        restore->error = *error;
        operation_fail(restore->service->options.operations, restore->operation, error);
    } else if (!machine->is_gone) {
        machine->failures = 0;
        machine_take_operation(machine, restore->operation);
    }
    if (!machine->is_gone) {
        machine_set_state(machine, MACHINE_STOPPED, "%s", "");
        machine_volumes_settled(machine); /* they begin to become it; the machine waits */
    }
    free_restore(restore);
    if (!machine->is_gone) {
        machine_step(machine);
    }
}

static void write_row(struct restore *restore)
{
    struct machine *machine = restore->machine;
    MEMORY_OWNED char *text = json_dumps(restore->config, JSON_COMPACT | JSON_SORT_KEYS);
    struct store_command *command = store_command_new();
    store_command_add_expecting(
        command, ERROR_CONFLICT, "the machine was deleted meanwhile",
        "UPDATE machine SET config = ?, desired = ?, revision = ? WHERE key = ? AND id = ? AND "
        "desired <> 'deleted'",
        "ttrtt", text, restore->runs_afterwards ? "running" : "stopped", machine->key, machine->id);
    struct error err = {0};
    if (volume_add_return(machine->service->options.volumes, machine->project, machine->name,
                          restore->volumes, command, &err) < 0) {
        store_command_free(command);
        on_row_written(&err, 0, restore);
        return;
    }
    events_add_of(machine, command, "vm.restored", "");
    draft_add_claim(restore->service, command, machine->id, restore->config);
    store_propose(restore->service->options.store, command, on_row_written, restore);
}

static void swap(void *context)
{
    struct restore *restore = context;
    const char *folder = restore->machine->folder;
    MEMORY_OWNED char *incoming = memory_format("%s/" CONTENT_INCOMING, folder);
    if (content_take_incoming(folder, &restore->error) < 0) {
        return; /* of an earlier restore */
    }
    if (rename(restore->restoring, incoming) < 0) {
        error_os(&restore->error, errno, "moving %s", restore->restoring);
        return;
    }
    content_take_incoming(folder, &restore->error);
}

static void on_swapped(void *context)
{
    struct restore *restore = context;
    struct machine *machine = restore->machine;
    if (restore->error.kind == ERROR_NONE) {
        write_row(restore);
        return;
    }
    machine->is_busy = false;
    if (!machine->is_gone) {
        machine_set_state(machine, MACHINE_STOPPED, "%s", "");
        machine_step(machine);
    }
    give_up(restore);
}

static void begin_swap(struct restore *restore)
{
    restore->machine->is_busy = true;
    loop_work(restore->service->options.loop, swap, on_swapped, restore);
}

bool restore_takes_end(struct machine *machine)
{
    struct restore *restore = machine->restore;
    if (restore == NULL || !restore->waits_for_end) {
        return false;
    }
    restore->waits_for_end = false;
    machine->started_ms = 0;
    machine->is_restarting = false;
    begin_swap(restore);
    return true;
}

/* ---- Before ---- */

static void on_tried(const struct error *error, void *context)
{
    struct restore *restore = context;
    struct machine *machine = restore->machine;
    if (error != NULL) {
        restore->error = *error;
    } else if (machine->is_gone || machine->service->is_over || machine->is_busy) {
        error_set(&restore->error, ERROR_CONFLICT,
                  "something else is being done to the machine: try again in a moment");
    }
    if (restore->error.kind != ERROR_NONE) {
        give_up(restore);
    } else if (machine->vm != NULL) {
        restore->waits_for_end = true;
        machine_run_kill(machine);
    } else {
        begin_swap(restore);
    }
}

/* What a guest's memory and disk depend on is as it was, too; names and ports stay. */
static json_t *merge(const struct restore *restore)
{
    static const char *const keys[] = {
        "cpus",   "memory_bytes", "disk_bytes",      "kernel",       "initrd",   "root",
        "disk",   "disk_format",  "disk_size_bytes", "machine_type", "firmware", "root_format",
        "driver", "image",        "cmdline",         "huge_pages",   "cells"};
    const json_t *then = json_object_get(restore->manifest, "config");
    json_t *config = json_deep_copy(restore->machine->config);
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
        json_t *value = json_object_get(then, keys[i]);
        if (value != NULL) {
            json_object_set(config, keys[i], value);
        } else {
            json_object_del(config, keys[i]);
        }
    }
    return config;
}

static void try(struct restore *restore)
{
    if (restore->error.kind == ERROR_NONE && restore->with_memory) {
        boot_try(restore->machine, restore->content, restore->manifest, on_tried, restore);
    } else {
        on_tried(NULL, restore);
    }
}

static void on_claimed(const struct error *error, uint64_t index, void *context)
{
    struct restore *restore = context;
    (void)index;
    restore->is_claimed = error == NULL;
    if (error != NULL) {
        restore->error = *error;
    }
    try(restore);
}

/* The larger of what it has and will have: until it is restored it has that. */
static json_t *larger_of(const json_t *before, const json_t *after)
{
    static const char *const keys[] = {"cpus", "memory_bytes", "disk_bytes"};
    json_t *larger = json_deep_copy(after);
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
        if (json_u64(before, keys[i]) > json_u64(after, keys[i])) {
            json_object_set(larger, keys[i], json_object_get(before, keys[i]));
        }
    }
    return larger;
}

/* What it takes of its project's quota is asked for while all is as it was: behind the rename there
 * is no way back. */
static void claim(struct restore *restore)
{
    struct machine *machine = restore->machine;
    JSON_OWNED json_t *larger = larger_of(machine->config, restore->config);
    struct store_command *command = store_command_new();
    draft_add_claim(restore->service, command, machine->id, larger);
    settings_add_quota(restore->service, command, machine->project, machine->config, larger);
    store_propose(restore->service->options.store, command, on_claimed, restore);
}

static void on_verified(void *context)
{
    struct restore *restore = context;
    const struct machine *machine = restore->machine;
    if (restore->error.kind == ERROR_NONE) {
        volume_check_return(restore->service->options.volumes, machine->project, machine->name,
                            restore->volumes, &restore->error);
    }
    if (restore->error.kind == ERROR_NONE) {
        restore->config = merge(restore);
        claim(restore);
    } else {
        try(restore);
    }
}

int restore_check_driver(const struct machine_service *service, const json_t *manifest,
                         struct error *err)
{
    const struct hypervisor *hypervisor = service->options.hypervisor;
    const char *driver = json_text(manifest, "driver");
    const char *version = json_text(manifest, "driver_version");
    for (size_t i = 0; i < hypervisor_driver_count(hypervisor); i++) {
        const struct hypervisor_driver_info *info = hypervisor_driver_at(hypervisor, i);
        if (strcmp(info->name, driver) == 0 && strcmp(info->version, version) == 0) {
            return 0;
        }
    }
    return error_set(err, ERROR_UNSUPPORTED,
                     "its memory was written by %.40s %.60s, which this node does not have any "
                     "more: take its disk alone (--disk-only)",
                     driver, version);
}

bool restore_has_raw_disks(const struct machine_service *service, const json_t *manifest)
{
    const char *driver = json_text(json_object_get(manifest, "config"), "driver");
    return !hypervisor_driver_info(service->options.hypervisor, driver)->takes_qcow2;
}

static void verify(void *context)
{
    struct restore *restore = context;
    struct content_use use = {.with_memory = restore->with_memory, .uid = restore->uid};
    struct error *err = &restore->error;
    int r = content_open(restore->content, true, &restore->manifest, err);
    const char *origin = json_text(restore->manifest, "machine_id");
    use.has_raw_disks = r == 0 && restore_has_raw_disks(restore->service, restore->manifest);
    if (strcmp(origin, restore->id) != 0) {
        use.origin = origin; /* of an archive: the guest believes to be the one it was made of */
    }
    if (r == 0 && restore->with_memory) {
        r = restore_check_driver(restore->service, restore->manifest, err);
    }
    r = r < 0 ? r : file_remove_tree(restore->restoring, err);
    if (r == 0 && !restore->is_disk_only) {
        r = kept_begin(json_object_get(restore->manifest, "volumes"), NULL, &restore->volumes, err);
        use.volumes = restore->volumes;
    }
    if (r == 0) {
        content_lay_out(restore->content, restore->restoring, &use, err);
    }
}

static void on_begun(const struct error *error, uint64_t index, void *context)
{
    struct restore *restore = context;
    (void)index;
    if (!operation_tell(restore->service->options.operations, restore->operation, error,
                        restore->done, restore->context)) {
        free_restore(restore);
        return;
    }
    operation_progress(restore->service->options.operations, restore->operation, 10, "verifying");
    loop_work(restore->service->options.loop, verify, on_verified, restore);
}

static int check(const struct machine *machine, struct error *err)
{
    bool is_good = machine->state == MACHINE_STOPPED || machine->state == MACHINE_RUNNING ||
        machine->state == MACHINE_PAUSED || machine->state == MACHINE_FAILED ||
        machine->state == MACHINE_BACKOFF;
    if (machine->capture != NULL || machine->restore != NULL || machine->migration != NULL ||
        machine->is_busy || !is_good) {
        return error_set(err, ERROR_CONFLICT,
                         "something else is being done to machine %s (%s): try again in a moment",
                         machine->name, machine_state_text(machine->state));
    }
    return 0;
}

void machine_snapshot_restore(struct machine_service *service, const char *project,
                              const char *name, const json_t *body, machine_begun *done,
                              void *context)
{
    struct error err = {0};
    struct machine *machine = NULL;
    struct snapshot snapshot = {0};
    int r = request_find(service, project, name, &machine, &err);
    r = r < 0 ? r : snapshot_find(service, machine, json_text(body, "snapshot"), &snapshot, &err);
    r = r < 0 ? r : check(machine, &err);
    if (r < 0) {
        machine_answer(service, &err, done, NULL, context);
        return;
    }
    bool is_disk_only = json_is_true(json_object_get(body, "disk_only"));
    struct restore *restore = NEW(struct restore);
    *restore =
        (struct restore){.service = service,
                         .machine = machine,
                         .content = snapshot_folder(service, snapshot.machine_id, snapshot.id),
                         .restoring = memory_format("%s/restoring", machine->folder),
                         .with_memory = snapshot.has_memory && !is_disk_only,
                         .is_disk_only = is_disk_only,
                         .uid = disk_uid(machine),
                         .done = done,
                         .context = context};
    snprintf(restore->id, sizeof(restore->id), "%s", machine->id);
    restore->runs_afterwards = restore->with_memory || machine->desired == MACHINE_DESIRED_RUNNING;
    machine->restore = restore;
    machine->held++;
    service->pending++;
    MEMORY_OWNED char *resource = memory_format("machines/%s", name);
    const struct operation_start start = {
        .kind = "machine.restore", .project = project, .resource = resource};
    struct store_command *command = store_command_new();
    operation_add(service->options.operations, command, &start, restore->operation);
    store_propose(service->options.store, command, on_begun, restore);
}
