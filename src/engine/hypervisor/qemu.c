/* The QEMU driver: how it is found, asked, saved and restored.  Its command line: qemu_order.c. */
#include "engine/hypervisor/qemu.h"

#include <stdio.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/json.h"
#include "base/loop/loop.h"
#include "base/memory.h"
#include "base/process.h"

#include "engine/hypervisor/qemu_live.h"
#include "engine/hypervisor/qemu_usb.h"
#include "engine/hypervisor/qemu_volume.h"
#include "engine/hypervisor/qmp.h"
#include "engine/hypervisor/share.h"

enum { VERSION_BYTES = 128 << 10, ASK_MS_MAX = 10000, POLL_EVERY_MS = 5 };

/* ---- Finding it ---- */

static bool ask(const char *program, const char *option, const char *value, struct buffer *out)
{
    struct error err = {0};
    struct process_result result = {0};
    const char *argv[] = {program, option, value, NULL};
    const struct process_options options = {
        .argv = argv, .output_max = VERSION_BYTES, .timeout_ms = ASK_MS_MAX};
    return process_run(&options, out, NULL, &result, &err) == 0 && result.exit_code == 0;
}

/* "QEMU emulator version 7.2.22 (Debian ...)". */
static void take_version(const char *text, char *ret_version, size_t size)
{
    const char *at = strstr(text, "version ");
    at = at != NULL ? at + strlen("version ") : "";
    snprintf(ret_version, size, "%.*s", (int)strcspn(at, " \n"), at);
}

static void find_shares(const char *program, struct hypervisor_driver_info *info)
{
    BUFFER_OWNED struct buffer devices = {0};
    MEMORY_OWNED char *daemon = share_find_program();
    const char *problem = "";
    if (daemon == NULL) {
        problem = "there is no virtiofsd (Debian: qemu-system-common)";
    } else if (geteuid() != 0) {
        problem = "virtiofsd needs a daemon that is root";
    } else if (!ask(program, "-device", "help", &devices) ||
               strstr(buffer_string(&devices), "\"vhost-user-fs-device\"") == NULL) {
        problem = "this QEMU has no vhost-user-fs-device";
    }
    info->can_share = problem[0] == '\0';
    snprintf(info->share_problem, sizeof(info->share_problem), "%s", problem);
}

/* With one NUMA node nothing has to be bound. */
static bool can_bind(const char *program)
{
    BUFFER_OWNED struct buffer options = {0};
    struct jail_numa nodes[2];
    return jail_read_numa("/sys", nodes, 2) > 1 &&
        ask(program, "-object", "memory-backend-ram,help", &options) &&
        strstr(buffer_string(&options), "host-nodes") != NULL;
}

/* Of a file that somebody else has opened. */
static bool can_pass_usb(const char *program)
{
    BUFFER_OWNED struct buffer options = {0};
    return ask(program, "-device", "usb-host,help", &options) &&
        strstr(buffer_string(&options), "hostdevice=") != NULL;
}

static void probe(const struct hypervisor_options *options, struct hypervisor_driver_info *info,
                  char **ret_program)
{
    BUFFER_OWNED struct buffer version = {0};
    BUFFER_OWNED struct buffer machines = {0};
    *ret_program = file_find_program("qemu-system-x86_64");
    if (*ret_program == NULL) {
        snprintf(info->problem, sizeof(info->problem),
                 "there is no qemu-system-x86_64 in PATH (Debian: qemu-system-x86)");
        return;
    }
    if (!ask(*ret_program, "--version", NULL, &version) ||
        !ask(*ret_program, "-machine", "help", &machines) ||
        strstr(buffer_string(&machines), "microvm") == NULL) {
        snprintf(info->problem, sizeof(info->problem), "%.120s has no machine type microvm",
                 *ret_program);
        return;
    }
    take_version(buffer_string(&version), info->version, sizeof(info->version));
    info->is_usable = true;
    snprintf(info->accelerator, sizeof(info->accelerator), "%s",
             options->kvm_boots_linux ? "kvm" : "tcg");
    if (!options->kvm_boots_linux) {
        snprintf(info->problem, sizeof(info->problem),
                 "no KVM that Linux boots on (%.120s): machines are emulated, and slow",
                 options->kvm_reason);
    }
    info->can_snapshot = true;
    info->can_clone = true;
    info->page_bytes_max = HYPERVISOR_PAGE_1G;
    info->can_bind_huge = can_bind(*ret_program);
    info->can_bind = info->can_bind_huge && geteuid() != 0; /* else the control group does */
    info->takes_qcow2 = true;
    info->can_rate_each = true;
    info->can_migrate = true;
    info->can_hotplug = true;
    info->has_user_network = true;
    info->has_pc = strstr(buffer_string(&machines), "q35") != NULL;
    info->can_pass_devices = info->has_pc;
    info->can_pass_usb = info->has_pc && can_pass_usb(*ret_program);
    info->has_cells = info->has_pc;
    find_shares(*ret_program, info);
}

static int check(const struct hypervisor_driver_info *info, const struct hypervisor_spec *spec,
                 struct error *err)
{
    (void)info;
    if (spec->memory_bytes % (UINT64_C(1) << 20) != 0) {
        return error_set(err, ERROR_INVALID, "memory is whole MiB");
    }
    if ((spec->device_count > 0 || spec->has_usb) && spec->board != HYPERVISOR_Q35) {
        return error_set(err, ERROR_INVALID, "devices are on PCI: machine type q35");
    }
    return 0;
}

/* A guest's own power-off is 0, its panic 1 (-action panic=exit-failure): as is a failed start, for
 * which QEMU gives its reason. */
static enum hypervisor_end judge(const struct launch_exit *exit, bool has_panicked)
{
    (void)has_panicked;
    if (exit->signal == 0 && exit->code == 0) {
        return HYPERVISOR_END_SHUTDOWN;
    }
    return exit->signal == 0 && exit->code == 1 && exit->text[0] == '\0' ? HYPERVISOR_END_PANIC
                                                                         : HYPERVISOR_END_FAILED;
}

/* ---- Control ---- */

struct control;

/* One thing at a time that takes long: writing a state, reading one. */
struct transfer {
    bool is_saving;
    bool is_started;
    int fd;
    struct error failure; /* what became of it, once that is known */
    hypervisor_done done;
    void *context;
};

struct control {
    struct loop *loop;
    struct qmp *qmp;
    struct qemu_volumes *volumes;
    struct qemu_live *live;
    struct qemu_usb *usb;
    struct driver_events events;
    void *context;
    struct loop_timer *look;
    struct transfer transfer;
    bool is_transferring;
    bool is_looking;
};

struct asked {
    hypervisor_done done;
    void *context;
};

static void on_asked(const struct error *error, const json_t *result, void *context)
{
    const struct asked *asked = context;
    (void)result;
    asked->done(error, asked->context);
}

static void tell(struct control *control, const char *command, json_t *owned_arguments,
                 hypervisor_done done, void *context)
{
    struct asked *asked = NEW(struct asked);
    *asked = (struct asked){done, context};
    qmp_ask(control->qmp, command, owned_arguments, -1, on_asked, asked);
}

/* ---- What it says by itself ---- */

static void on_status(const struct error *error, const json_t *result, void *context)
{
    struct control *control = context;
    const char *status = json_string_value(json_object_get(result, "status"));
    if (error == NULL && status != NULL && strcmp(status, "io-error") == 0) {
        control->events.on_full(control->context); /* nothing else stops it so: werror=enospc */
    }
    if (error == NULL) {
        control->events.on_ready(json_is_true(json_object_get(result, "running")),
                                 control->context);
    }
}

static void on_qmp_ready(void *context)
{
    struct control *control = context;
    qmp_execute(control->qmp, "query-status", NULL, -1, on_status, control);
}

static enum hypervisor_end end_of(const json_t *data)
{
    static const struct {
        const char *reason; /* ShutdownCause of qapi/run-state.json */
        enum hypervisor_end end;
    } ends[] = {
        {"guest-shutdown", HYPERVISOR_END_SHUTDOWN}, {"guest-reset", HYPERVISOR_END_RESET},
        {"guest-panic", HYPERVISOR_END_PANIC},       {"host-qmp-quit", HYPERVISOR_END_KILLED},
        {"host-signal", HYPERVISOR_END_KILLED},
    };
    const char *reason = json_string_value(json_object_get(data, "reason"));
    for (size_t i = 0; reason != NULL && i < sizeof(ends) / sizeof(ends[0]); i++) {
        if (strcmp(reason, ends[i].reason) == 0) {
            return ends[i].end;
        }
    }
    return HYPERVISOR_END_FAILED;
}

static void on_transfer_event(struct control *control, const char *status);

static void on_qmp_event(const char *name, const json_t *data, void *context)
{
    struct control *control = context;
    const struct driver_events *events = &control->events;
    qemu_live_event(control->live, name, data);
    if (strcmp(name, "STOP") == 0) {
        events->on_paused(true, control->context);
    } else if (strcmp(name, "RESUME") == 0) {
        events->on_paused(false, control->context);
    } else if (strcmp(name, "RESET") == 0) {
        if (json_is_true(json_object_get(data, "guest"))) {
            events->on_reboot(control->context);
        }
    } else if (strcmp(name, "SHUTDOWN") == 0) {
        events->on_ending(end_of(data), control->context);
    } else if (strcmp(name, "BLOCK_IO_ERROR") == 0) {
        const char *action = json_string_value(json_object_get(data, "action"));
        if (action != NULL && strcmp(action, "stop") == 0) {
            events->on_full(control->context);
        }
    } else if (strcmp(name, "GUEST_PANICKED") == 0) {
        events->on_ending(HYPERVISOR_END_PANIC, control->context);
    } else if (strcmp(name, "MIGRATION") == 0 && control->is_transferring &&
               control->transfer.is_started) {
        on_transfer_event(control, json_string_value(json_object_get(data, "status")));
    } else {
        qemu_volumes_event(control->volumes, name, data);
    }
}

static void finish_transfer(struct control *control, const struct error *error)
{
    struct transfer transfer = control->transfer;
    if (!control->is_transferring) {
        return;
    }
    control->is_transferring = false;
    loop_timer_stop(control->look);
    fd_close_slot(&transfer.fd);
    transfer.done(error, transfer.context);
}

static void on_qmp_end(const struct error *error, void *context)
{
    struct control *control = context;
    finish_transfer(control, error);
    qemu_volumes_end(control->volumes, error);
    qemu_live_end(control->live, error);
    control->events.on_lost(error, control->context);
}

static void on_look(void *context);

static void *connect_control(struct loop *loop, const char *folder,
                             const struct driver_events *events, void *context, struct error *err)
{
    static const struct qmp_events qmp_events = {on_qmp_ready, on_qmp_event, on_qmp_end};
    int fd = -1;
    if (launch_connect(folder, QEMU_CONTROL_SOCKET, &fd, err) < 0) {
        return NULL;
    }
    struct control *control = NEW(struct control);
    control->loop = loop;
    control->events = *events;
    control->context = context;
    control->look = loop_timer_new(loop, on_look, control);
    control->qmp = qmp_open(loop, fd, &qmp_events, control);
    control->volumes = qemu_volumes_new(control->qmp);
    control->live = qemu_live_new(loop, control->qmp);
    control->usb = qemu_usb_new(control->qmp);
    return control;
}

static void disconnect(void *argument)
{
    struct control *control = argument;
    qmp_close(control->qmp);
    qemu_volumes_free(control->volumes);
    qemu_live_free(control->live);
    qemu_usb_free(control->usb);
    loop_timer_free(control->look);
    if (control->is_transferring) {
        fd_close_slot(&control->transfer.fd);
    }
    free(control);
}

static void pause_machine(void *argument, hypervisor_done done, void *context)
{
    tell(argument, "stop", NULL, done, context);
}

static void resume_machine(void *argument, hypervisor_done done, void *context)
{
    tell(argument, "cont", NULL, done, context);
}

static void reset_machine(void *argument, hypervisor_done done, void *context)
{
    tell(argument, "system_reset", NULL, done, context);
}

static void power_down(void *argument, hypervisor_done done, void *context)
{
    tell(argument, "system_powerdown", NULL, done, context);
}

static void balloon(void *argument, uint64_t bytes, hypervisor_done done, void *context)
{
    tell(argument, "balloon", json_pack("{s:I}", "value", (json_int_t)bytes), done, context);
}

/* The node's name is that of qemu_order.c. */
static void resize_disk(void *argument, size_t index, uint64_t bytes, hypervisor_done done,
                        void *context)
{
    tell(argument, "block_resize",
         json_pack("{s:o, s:I}", "node-name", json_sprintf("disk%zu", index), "size",
                   (json_int_t)bytes),
         done, context);
}

/* By the device's name of qemu_order.c.  All of its limits are to be given. */
static void throttle_disk(void *argument, size_t index, const struct hypervisor_rates *rates,
                          hypervisor_done done, void *context)
{
    tell(argument, "block_set_io_throttle",
         json_pack("{s:o, s:I, s:I, s:I, s:I, s:I, s:I}", "id", json_sprintf("blk%zu", index),
                   "bps", (json_int_t)rates->bytes.both, "bps_rd", (json_int_t)rates->bytes.reads,
                   "bps_wr", (json_int_t)rates->bytes.writes, "iops", (json_int_t)rates->iops.both,
                   "iops_rd", (json_int_t)rates->iops.reads, "iops_wr",
                   (json_int_t)rates->iops.writes),
         done, context);
}

/* ---- Saving and restoring: a migration to and from a file ---- */

/* Of a transfer's commands only a failure is of interest. */
static void on_step(const struct error *error, const json_t *result, void *context)
{
    (void)result;
    if (error != NULL) {
        finish_transfer(context, error);
    }
}

static void on_started(const struct error *error, const json_t *result, void *context)
{
    struct control *control = context;
    (void)result;
    if (error != NULL) {
        finish_transfer(control, error);
    } else {
        control->transfer.is_started = true;
        loop_timer_start(control->look, POLL_EVERY_MS);
    }
}

/* A state is told to be written, or not to be, a moment before the machine may go on: until then
 * "cont" is refused. */
static void on_settled(const struct error *error, const json_t *result, void *context)
{
    struct control *control = context;
    const char *status = json_string_value(json_object_get(result, "status"));
    control->is_looking = false;
    if (!control->is_transferring || !control->transfer.is_started) {
        return;
    }
    if (status != NULL && strcmp(status, "finish-migrate") == 0) {
        loop_timer_start(control->look, POLL_EVERY_MS);
    } else {
        struct error failure = control->transfer.failure;
        finish_transfer(control, failure.kind != ERROR_NONE ? &failure : error);
    }
}

/* QEMU says of a failed write that it failed: where it goes knows why. */
static bool is_full(int fd)
{
    enum { LEAST_BYTES = 1 << 20 };
    struct statvfs status;
    return fstatvfs(fd, &status) == 0 && (uint64_t)status.f_bavail * status.f_frsize < LEAST_BYTES;
}

static void note_failure(struct transfer *transfer, const char *text)
{
    if (transfer->is_saving && is_full(transfer->fd)) {
        error_set(&transfer->failure, ERROR_FULL,
                  "the machine's state could not be written: no space is left on the disk of its "
                  "node.  Delete something, or give it more room");
    } else {
        error_set(&transfer->failure, transfer->is_saving ? ERROR_OS : ERROR_CORRUPT,
                  "the machine's state could not be %s: %.300s",
                  transfer->is_saving ? "written" : "read",
                  text != NULL ? text : "the VMM does not say why");
    }
}

static void on_migration(const struct error *error, const json_t *result, void *context)
{
    struct control *control = context;
    control->is_looking = false;
    const char *status = json_string_value(json_object_get(result, "status"));
    struct transfer *transfer = &control->transfer;
    if (!control->is_transferring || !transfer->is_started) {
        return; /* it was asked of another one */
    }
    bool has_failed =
        status != NULL && (strcmp(status, "failed") == 0 || strcmp(status, "cancelled") == 0);
    if (has_failed && transfer->failure.kind == ERROR_NONE) {
        note_failure(transfer, json_string_value(json_object_get(result, "error-desc")));
    }
    if (error != NULL) {
        finish_transfer(control, error);
    } else if (has_failed || (status != NULL && strcmp(status, "completed") == 0)) {
        control->is_looking = true;
        qmp_execute(control->qmp, "query-status", NULL, -1, on_settled, control);
    } else {
        loop_timer_start(control->look, POLL_EVERY_MS);
    }
}

/* One question at a time: an answer about one transfer is not taken for the next one's. */
static void look(struct control *control)
{
    loop_timer_stop(control->look);
    if (control->is_looking) {
        return;
    }
    control->is_looking = true;
    qmp_execute(control->qmp, "query-migrate", NULL, -1, on_migration, control);
}

static void on_look(void *context)
{
    look(context);
}

/* Who has read a state to its end says so when the machine may go on; who has written one, before
 * (process_incoming_migration_bh() in migration/migration.c). */
static void on_transfer_event(struct control *control, const char *status)
{
    bool is_there = status != NULL && strcmp(status, "completed") == 0;
    bool is_begun =
        status != NULL && (strcmp(status, "setup") == 0 || strcmp(status, "active") == 0);
    if (is_there && !control->transfer.is_saving) {
        finish_transfer(control, NULL);
    } else if (!is_begun) {
        look(control);
    }
}

static void step(struct control *control, const char *command, json_t *owned_arguments, int fd)
{
    qmp_execute(control->qmp, command, owned_arguments, fd, on_step, control);
}

static void transfer(struct control *control, bool is_saving, int owned_fd, bool without_memory,
                     hypervisor_done done, void *context)
{
    CHECK(!control->is_transferring);
    control->transfer =
        (struct transfer){.is_saving = is_saving, .fd = owned_fd, .done = done, .context = context};
    control->is_transferring = true;
    step(control, "migrate-set-capabilities",
         json_pack("{s:[{s:s, s:b}, {s:s, s:b}]}", "capabilities", "capability", "x-ignore-shared",
                   "state", without_memory, "capability", "events", "state", 1),
         -1);
    if (is_saving) {
        step(control, "migrate-set-parameters",
             json_pack("{s:I}", "max-bandwidth", (json_int_t)10 << 30), -1);
        step(control, "stop", NULL, -1);
    }
    step(control, "getfd", json_pack("{s:s}", "fdname", "state"), owned_fd);
    qmp_execute(control->qmp, is_saving ? "migrate" : "migrate-incoming",
                json_pack("{s:s}", "uri", "fd:state"), -1, on_started, control);
}

static void save(void *argument, int owned_fd, bool without_memory, hypervisor_done done,
                 void *context)
{
    transfer(argument, true, owned_fd, without_memory, done, context);
}

static void load(void *argument, int owned_fd, bool without_memory, hypervisor_done done,
                 void *context)
{
    transfer(argument, false, owned_fd, without_memory, done, context);
}

/* ---- To another VMM: qemu_live.c ---- */

static void leave(void *argument, const struct hypervisor_leaving *leaving,
                  const struct hypervisor_leaving_events *events, void *context)
{
    const struct control *control = argument;
    qemu_live_leave(control->live, leaving, events, context);
}

static void stay(void *argument, hypervisor_done done, void *context)
{
    struct control *control = argument;
    qemu_live_abandon(control->live);
    tell(control, "cont", NULL, done, context);
}

static void receive(void *argument, const struct hypervisor_moving *disks, size_t disk_count,
                    int disk_listener, int state_fd,
                    const struct hypervisor_receiving_events *events, void *context)
{
    const struct control *control = argument;
    qemu_live_receive(control->live, disks, disk_count, disk_listener, state_fd, events, context);
}

/* As it does by itself when it has read a state, which is before the machine runs. */
static void announce(void *argument)
{
    const struct control *control = argument;
    qmp_execute(
        control->qmp, "announce-self",
        json_pack("{s:i, s:i, s:i, s:i}", "initial", 20, "max", 400, "rounds", 6, "step", 60), -1,
        NULL, NULL);
}

/* ---- Volumes: qemu_volume.c ---- */

static void set_usb(void *argument, const struct hypervisor_usb *devices, size_t count,
                    struct hypervisor_usb_set *ret_set, hypervisor_done done, void *context)
{
    const struct control *control = argument;
    qemu_usb_set(control->usb, devices, count, ret_set, done, context);
}

static void attach_volume(void *argument, const struct hypervisor_volume *volume,
                          hypervisor_done done, void *context)
{
    const struct control *control = argument;
    qemu_volume_attach(control->volumes, volume, done, context);
}

static void detach_volume(void *argument, const char *id, const char *const *layers,
                          size_t layer_count, hypervisor_done done, void *context)
{
    const struct control *control = argument;
    qemu_volume_detach(control->volumes, id, layers, layer_count, done, context);
}

static void resize_volume(void *argument, const char *id, uint64_t bytes, hypervisor_done done,
                          void *context)
{
    const struct control *control = argument;
    qemu_volume_resize(control->volumes, id, bytes, done, context);
}

static void throttle_volume(void *argument, const char *id, const struct hypervisor_rates *rates,
                            hypervisor_done done, void *context)
{
    const struct control *control = argument;
    qemu_volume_throttle(control->volumes, id, rates, done, context);
}

static void lay_over(void *argument, const char *id, const char *below,
                     const struct hypervisor_layer *layer, hypervisor_done done, void *context)
{
    const struct control *control = argument;
    qemu_volume_lay_over(control->volumes, id, below, layer, done, context);
}

const struct driver driver_qemu = {
    .name = "qemu",
    .probe = probe,
    .check = check,
    .make_order = qemu_make_order,
    .judge = judge,
    .connect = connect_control,
    .disconnect = disconnect,
    .pause = pause_machine,
    .resume = resume_machine,
    .reset = reset_machine,
    .power_down = power_down,
    .balloon = balloon,
    .resize_disk = resize_disk,
    .throttle_disk = throttle_disk,
    .save = save,
    .load = load,
    .leave = leave,
    .stay = stay,
    .receive = receive,
    .announce = announce,
    .set_usb = set_usb,
    .attach_volume = attach_volume,
    .detach_volume = detach_volume,
    .resize_volume = resize_volume,
    .throttle_volume = throttle_volume,
    .lay_over = lay_over,
};
