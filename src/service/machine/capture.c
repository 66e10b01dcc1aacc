/* Taking the content of a machine.  See capture.h. */
#include "service/machine/capture.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "service/machine/content.h"
#include "service/machine/devices.h"
#include "service/machine/parts.h"
#include "service/machine/volumes.h"
#include "service/volume/volume.h"

/* The guest thaws itself after so long: a copy that took longer is of no use. */
enum { THAW_AFTER_MS = 120000 };

enum phase {
    PHASE_PREPARING, /* files for what its volumes write from then on; it runs */
    PHASE_STOPPING,  /* by the agent, or the VMM */
    PHASE_KEEPING,   /* volumes */
    PHASE_SAVING,
    PHASE_COPYING,
    PHASE_GOING_ON,
    PHASE_SEALING
};

struct capture {
    struct machine *machine;
    enum capture_kind kind;
    enum phase phase;
    char *folder;
    char *source;  /* the machine's folder */
    char *volumes; /* the name of their snapshots, or NULL */
    struct volume_keeping *keeping;
    bool has_kept; /* they are there */
    bool carries;  /* what they held goes into the content */
    struct volume_carry *carry;
    json_t *about;
    int fd; /* the state with memory */
    bool was_running;
    bool has_lost_vm;
    uint64_t begun_ms;
    uint64_t bytes;
    struct error error;
    capture_done *done;
    void *context;
};

static const struct hypervisor_driver_info *driver_of(const struct machine *machine)
{
    const struct hypervisor *hypervisor = machine->service->options.hypervisor;
    const char *driver = json_text(machine->config, "driver");
    for (size_t i = 0; i < hypervisor_driver_count(hypervisor); i++) {
        const struct hypervisor_driver_info *info = hypervisor_driver_at(hypervisor, i);
        if (driver[0] != '\0' ? strcmp(info->name, driver) == 0 : info->is_usable) {
            return info;
        }
    }
    return NULL;
}

int capture_check(const struct machine *machine, enum capture_kind kind, struct error *err)
{
    const struct hypervisor_driver_info *driver = driver_of(machine);
    bool is_alive = machine_state_is_alive(machine->state);
    if (runner_refuse(machine->config, "be kept in a snapshot, cloned or exported", err) < 0) {
        return -(int)err->kind;
    }
    if (machine->capture != NULL || machine->restore != NULL || machine->migration != NULL ||
        machine->is_busy) {
        return error_set(err, ERROR_CONFLICT,
                         "something else is being done to machine %s: try again in a moment",
                         machine->name);
    }
    if (machine->state == MACHINE_STOPPED || machine->state == MACHINE_FAILED ||
        machine->state == MACHINE_BACKOFF) {
        return kind == CAPTURE_DISK
            ? 0
            : error_set(err, ERROR_CONFLICT,
                        "machine %s is %s and has no memory: take its disk alone (--disk-only)",
                        machine->name, machine_state_text(machine->state));
    }
    if (!is_alive || machine->vm == NULL || machine->state == MACHINE_STARTING ||
        machine->state == MACHINE_STOPPING) {
        return error_set(err, ERROR_CONFLICT, "machine %s is %s: wait until it runs or is stopped",
                         machine->name, machine_state_text(machine->state));
    }
    if (kind == CAPTURE_MEMORY &&
        shares_refuse(machine->config, "kept with its memory (--disk-only keeps the disk)", err) <
            0) {
        return -(int)err->kind;
    }
    if (kind == CAPTURE_MEMORY &&
        devices_refuse(machine->config, "kept with its memory (--disk-only keeps the disk)", err) <
            0) {
        return -(int)err->kind;
    }
    if (kind == CAPTURE_MEMORY && (driver == NULL || !driver->can_snapshot)) {
        return error_set(err, ERROR_UNSUPPORTED,
                         "%s does not keep the memory of machines this way: take the disk alone "
                         "(--disk-only, --cold)",
                         driver != NULL ? driver->name : "its driver");
    }
    JSON_OWNED json_t *booted = change_booted_config(machine);
    if (kind == CAPTURE_MEMORY && driver->huge_problem[0] != '\0' &&
        machine_config_page_bytes(booted) > 0) {
        return error_set(err, ERROR_UNSUPPORTED,
                         "%s: take the disk alone (--disk-only, --cold), or have the machine "
                         "without huge pages",
                         driver->huge_problem);
    }
    if (kind == CAPTURE_DISK && machine->state == MACHINE_PAUSED) {
        return error_set(err, ERROR_CONFLICT,
                         "machine %s is paused and cannot write down what it holds in memory: "
                         "resume it, or take its memory too (--memory)",
                         machine->name);
    }
    if (kind == CAPTURE_DISK && (machine->agent == NULL || !agent_is_up(machine->agent))) {
        return error_set(err, ERROR_UNAVAILABLE,
                         "the agent in machine %s does not answer, so its disk cannot be frozen: "
                         "take its memory too (--memory), or stop it",
                         machine->name);
    }
    return 0;
}

/* ---- The end ---- */

int capture_check_volumes(const struct machine *machine, const char *snapshot, struct error *err)
{
    struct volume_service *volumes = machine->service->options.volumes;
    if (machine->plugging != NULL || !list_is_empty(&machine->changes)) {
        return error_set(err, ERROR_CONFLICT,
                         "a volume of machine %s comes or goes: try again in a moment",
                         machine->name);
    }
    return volume_check_keep(volumes, machine->project, machine->name, snapshot, err);
}

static void seal(void *context)
{
    struct capture *capture = context;
    struct error ignored = {0};
    MEMORY_OWNED char *whole = memory_format("%s/" CONTENT_WHOLE, capture->folder);
    unlink(whole);
    if (capture->error.kind == ERROR_NONE && capture->carry != NULL) {
        volume_carry_write(capture->carry, capture->folder, &capture->error);
    }
    if (capture->error.kind == ERROR_NONE) {
        content_seal(capture->folder, capture->about, &capture->bytes, &capture->error);
    }
    if (capture->error.kind != ERROR_NONE) {
        file_remove_tree(capture->folder, &ignored);
    }
}

static void on_sealed(void *context)
{
    struct capture *capture = context;
    struct machine *machine = capture->machine;
    machine->capture = NULL;
    if (capture->error.kind != ERROR_NONE && capture->has_kept) {
        volume_forget_kept(machine->service->options.volumes, machine->project, machine->name,
                           capture->volumes);
    }
    capture->done(capture->error.kind != ERROR_NONE ? &capture->error : NULL, capture->bytes,
                  capture->context);
    fd_close_slot(&capture->fd);
    volume_carry_free(capture->carry);
    json_decref(capture->about);
    free(capture->folder);
    free(capture->source);
    free(capture->volumes);
    free(capture);
    machine->held--;
    machine_unref(machine);
}

static void finish(struct capture *capture)
{
    const struct machine *machine = capture->machine;
    capture->phase = PHASE_SEALING;
    if (capture->carries && capture->error.kind == ERROR_NONE) {
        volume_carry_new(machine->service->options.volumes, machine->project,
                         json_object_get(capture->about, "volumes"), &capture->carry,
                         &capture->error);
    }
    loop_work(capture->machine->service->options.loop, seal, on_sealed, capture);
}

static void on_stamped(const struct error *error, void *context)
{
    struct capture *capture = context;
    if (error != NULL) {
        capture->error = *error;
    }
    finish(capture);
}

bool capture_holds_still(const struct machine *machine)
{
    return machine->capture != NULL && machine->capture->phase != PHASE_PREPARING &&
        machine->capture->phase != PHASE_SEALING;
}

bool capture_keeps_volumes(const struct machine *machine)
{
    return machine->capture != NULL && machine->capture->phase == PHASE_KEEPING;
}

/* The machine does what it is to do; what is left is ours alone. */
static void let_go(void *context)
{
    struct capture *capture = context;
    struct machine *machine = capture->machine;
    capture->phase = PHASE_SEALING;
    machine->is_busy = false;
    if (!machine->is_gone) {
        machine_run_note_full(machine); /* it may have come to that meanwhile */
        machine_volumes_settled(machine);
        machine_step(machine);
    }
    if (capture->error.kind == ERROR_NONE && capture->kind == CAPTURE_MEMORY) {
        const struct stamping stamping = {.fd = capture->fd,
                                          .folder = capture->folder,
                                          .volumes = json_object_get(capture->about, "volumes")};
        boot_stamp(machine, &stamping, on_stamped, capture);
    } else {
        finish(capture);
    }
}

/* ---- Going on ---- */

static void on_resumed(const struct error *error, void *context)
{
    struct capture *capture = context;
    struct machine *machine = capture->machine;
    if (error != NULL && capture->error.kind == ERROR_NONE && !capture->has_lost_vm) {
        capture->error = *error;
    }
    if (error != NULL && !capture->has_lost_vm && machine->state == MACHINE_RUNNING) {
        /* It stands still, whatever else went wrong before: told, and then resumed anew. */
        machine_set_state(machine, MACHINE_PAUSED, "it did not go on after a snapshot: %.300s",
                          error->text);
    }
    let_go(capture);
}

static void on_thawed(const struct error *error, const struct agent_result *result, void *context)
{
    struct capture *capture = context;
    bool is_late = clock_monotonic_ms() - capture->begun_ms >= THAW_AFTER_MS;
    (void)result;
    if (capture->error.kind == ERROR_NONE && (error != NULL || is_late)) {
        error_set(&capture->error, ERROR_TIMEOUT,
                  "the disk was not still for as long as it was copied (%.200s): stop the machine, "
                  "or take its memory too (--memory)",
                  is_late ? "it took too long" : error->text);
    }
    let_go(capture);
}

static void go_on(struct capture *capture)
{
    struct machine *machine = capture->machine;
    capture->phase = PHASE_GOING_ON;
    if (!capture->was_running || capture->has_lost_vm || machine->vm == NULL) {
        let_go(capture);
    } else if (capture->kind == CAPTURE_MEMORY) {
        hypervisor_resume(machine->vm, on_resumed, capture);
    } else {
        agent_thaw(machine->agent, on_thawed, capture);
    }
}

static void copy(void *context)
{
    struct capture *capture = context;
    content_copy_disks(capture->source, capture->folder, &capture->error);
}

static void on_copied(void *context)
{
    go_on(context);
}

static void begin_copy(struct capture *capture)
{
    capture->phase = PHASE_COPYING;
    loop_work(capture->machine->service->options.loop, copy, on_copied, capture);
}

/* ---- Standing still ---- */

static void on_saved(const struct error *error, void *context)
{
    struct capture *capture = context;
    if (error != NULL) {
        capture->error = *error;
        go_on(capture);
        return;
    }
    begin_copy(capture);
}

static void save(struct capture *capture);

/* It stands still, and what it has of volumes is safe. */
static void take(struct capture *capture)
{
    if (capture->error.kind != ERROR_NONE) {
        go_on(capture);
    } else if (capture->kind == CAPTURE_MEMORY) {
        save(capture);
    } else {
        begin_copy(capture);
    }
}

static void on_kept(const struct error *error, void *context)
{
    struct capture *capture = context;
    if (error != NULL && capture->error.kind == ERROR_NONE) {
        capture->error = *error;
    }
    capture->has_kept = error == NULL;
    take(capture);
}

static void keep(struct capture *capture)
{
    const struct machine *machine = capture->machine;
    struct volume_service *volumes = machine->service->options.volumes;
    if (capture->volumes == NULL) {
        take(capture);
        return;
    }
    capture->phase = PHASE_KEEPING;
    volume_describe_kept(volumes, machine->project, machine->name, capture->volumes,
                         json_object_get(capture->about, "volumes"));
    volume_keep_now(capture->keeping);
}

/* Not stopped: its volumes are waited for all the same. */
static void on_stopped(const struct error *error, void *context)
{
    struct capture *capture = context;
    if (error != NULL) {
        capture->error = *error;
    }
    keep(capture);
}

static void on_frozen(const struct error *error, const struct agent_result *result, void *context)
{
    struct capture *capture = context;
    (void)result;
    if (error != NULL) {
        capture->error = *error;
        capture->has_lost_vm = true; /* nothing to thaw: the guest does it by itself */
    }
    keep(capture);
}

static void save(struct capture *capture)
{
    MEMORY_OWNED char *path = memory_format("%s/" CONTENT_WHOLE, capture->folder);
    capture->fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    int lent = capture->fd >= 0 ? fcntl(capture->fd, F_DUPFD_CLOEXEC, 3) : -1;
    if (lent < 0) {
        error_os(&capture->error, errno, "making %s", path);
        go_on(capture);
        return;
    }
    capture->phase = PHASE_SAVING;
    hypervisor_save(capture->machine->vm, lent, false, on_saved, capture);
}

/* What waits for it to stand still. */
static void keep_all_the_same(void *context)
{
    keep(context);
}

/* The agent's calls end by themselves; what was asked of the VMM does not. */
void capture_lose_vm(struct machine *machine)
{
    struct capture *capture = machine->capture;
    if (capture == NULL || capture->has_lost_vm || capture->phase == PHASE_SEALING) {
        return;
    }
    bool is_early = capture->phase < PHASE_COPYING; /* its state is not written */
    bool is_others = capture->phase == PHASE_COPYING || capture->phase == PHASE_KEEPING ||
        capture->phase == PHASE_PREPARING;
    capture->has_lost_vm = true;
    if (capture->kind == CAPTURE_MEMORY && is_early) {
        error_set(&capture->error, ERROR_UNAVAILABLE, "machine %s has ended meanwhile",
                  machine->name);
    }
    if (capture->kind == CAPTURE_MEMORY && !is_others) {
        loop_post(machine->service->options.loop,
                  capture->phase == PHASE_STOPPING ? keep_all_the_same : let_go, capture);
    }
}

/* With memory, the VMM does so by itself as it writes its state; before that for its volumes. */
static void stop(struct capture *capture)
{
    struct machine *machine = capture->machine;
    capture->phase = PHASE_STOPPING;
    if (!capture->was_running) {
        keep(capture);
    } else if (capture->kind == CAPTURE_DISK) {
        capture->begun_ms = clock_monotonic_ms();
        agent_freeze(machine->agent, THAW_AFTER_MS, on_frozen, capture);
    } else if (capture->volumes != NULL) {
        hypervisor_pause(machine->vm, on_stopped, capture);
    } else {
        keep(capture);
    }
}

/* Whatever became of the machine meanwhile, its volumes are waited for. */
static void on_made(const struct error *error, void *context)
{
    struct capture *capture = context;
    const struct machine *machine = capture->machine;
    bool is_there = machine->vm != NULL && machine->agent != NULL;
    (void)error;
    if (capture->was_running && (capture->has_lost_vm || !is_there)) {
        if (capture->error.kind == ERROR_NONE) {
            error_set(&capture->error, ERROR_UNAVAILABLE, "machine %s has ended meanwhile",
                      machine->name);
        }
        capture->has_lost_vm = true;
        keep(capture);
    } else {
        stop(capture);
    }
}

void capture_carry_volumes(struct machine *machine)
{
    CHECK(machine->capture != NULL && machine->capture->volumes != NULL);
    machine->capture->carries = true;
}

static json_t *describe(const struct machine *machine, enum capture_kind kind)
{
    json_t *config =
        kind == CAPTURE_MEMORY ? change_booted_config(machine) : json_deep_copy(machine->config);
    const struct hypervisor_driver_info *info = driver_of(machine);
    const char *driver = info != NULL ? info->name : "";
    const char *version = info != NULL ? info->version : "";
    return json_pack("{s:s, s:s, s:o, s:s, s:s, s:I, s:[]}", "machine_id", machine->id, "machine",
                     machine->name, "config", config, "driver", driver, "driver_version", version,
                     "created_ms", (json_int_t)clock_real_ms(), "volumes");
}

void capture_begin(struct machine *machine, enum capture_kind kind, const char *folder,
                   const char *volumes, capture_done *done, void *context)
{
    struct capture *capture = NEW(struct capture);
    CHECK(machine->capture == NULL && !machine->is_busy);
    *capture = (struct capture){.machine = machine,
                                .kind = kind,
                                .folder = memory_copy_string(folder),
                                .source = memory_copy_string(machine->folder),
                                .about = describe(machine, kind),
                                .volumes = volumes != NULL ? memory_copy_string(volumes) : NULL,
                                .fd = -1,
                                .was_running = machine->state == MACHINE_RUNNING,
                                .begun_ms = clock_monotonic_ms(),
                                .done = done,
                                .context = context};
    machine->capture = capture;
    machine->is_busy = true;
    machine->held++;
    if (file_make_folder(folder, 0711, &capture->error) < 0 ||
        file_check_room(folder, &capture->error) < 0) {
        loop_post(machine->service->options.loop, let_go, capture);
    } else if (volumes != NULL) {
        capture->keeping = volume_keep(machine->service->options.volumes, machine->project,
                                       machine->name, volumes, on_made, on_kept, capture);
    } else {
        stop(capture);
    }
}
