/*
 * Starting a machine, and what comes of it: boot, reboots, its end, the agent.
 *
 * A boot is watched: when the agent has not spoken within MACHINE_BOOT_MS the VMM is killed and
 * counts as one that failed.  A stop asks the agent, then the power button, and kills after stop_ms
 * of the options.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "service/machine/capture.h"
#include "service/machine/content.h"
#include "service/machine/devices.h"
#include "service/machine/kept.h"
#include "service/machine/migrate.h"
#include "service/machine/parts.h"
#include "service/machine/volumes.h"
#include "service/nix/nix.h"
#include "service/peer/peer.h"

static void arm(struct machine *machine, enum machine_timer what, uint64_t delay_ms);

/* ---- The end ---- */

/* A start that follows at once, or after a while. */
static void end(struct machine *machine, bool has_failed, bool cannot_go_on, const char *text)
{
    bool runs_again = machine_runs_again(machine->strategy, machine->desired, has_failed);
    machine->started_ms = 0;
    if (cannot_go_on && runs_again) { /* the next try would not fare better */
        runs_again = false;
    }
    if (machine->is_restarting && machine->desired != MACHINE_DESIRED_DELETED) {
        machine->is_restarting = false;
        machine_set_state(machine, MACHINE_STOPPED, "%s", "");
    } else if (runs_again) {
        machine->failures++;
        machine->restarts++;
        arm(machine, TIMER_BACKOFF, machine_backoff_ms(machine->failures));
        machine_set_state(machine, MACHINE_BACKOFF, "%.300s; it is started again in %" PRIu64 " s",
                          text, machine_backoff_ms(machine->failures) / 1000);
    } else {
        bool is_wanted = machine->desired == MACHINE_DESIRED_STOPPED ||
            machine->desired == MACHINE_DESIRED_DELETED;
        usb_release(machine);
        machine_set_state(machine, is_wanted || !has_failed ? MACHINE_STOPPED : MACHINE_FAILED,
                          "%s", is_wanted ? "" : text);
        if (!is_wanted) {
            state_want(machine, MACHINE_DESIRED_STOPPED);
        }
    }
    machine_step(machine);
}

static void close_all(struct machine *machine)
{
    capture_lose_vm(machine);
    agent_close(machine->agent);
    machine->agent = NULL;
    health_end(machine);
    silence_end(machine);
    hypervisor_free(machine->vm);
    machine->vm = NULL;
    usb_end(machine);
    change_lose_vm(machine);
    machine_volumes_gone(machine);
    waiting_look(machine);
    if (machine->timer != NULL) {
        loop_timer_stop(machine->timer);
    }
    machine->timer_for = TIMER_NONE;
    machine->stop_ms = MACHINE_STOP_MS_NODE;
}

void machine_run_detach(struct machine *machine)
{
    close_all(machine);
    migration_abandon(machine);
    peer_fetch_free(machine->fetch);
    if (machine->fetch != NULL) {
        machine->fetch = NULL;
        machine->is_busy = false;
    }
    if (machine->runner_fetch != NULL) {
        nix_fetch_free(machine->runner_fetch);
        machine->runner_fetch = NULL;
        machine->is_busy = false;
    }
}

bool machine_run_goes_on(const struct machine *machine)
{
    MEMORY_OWNED char *state =
        memory_format("%s/" CONTENT_RESUME "/" CONTENT_STATE, machine->folder);
    return file_exists(state);
}

static uint64_t boot_ms(const struct machine *machine)
{
    uint64_t asked_ms = json_u64(machine->config, "boot_timeout_ms");
    return asked_ms > 0 ? asked_ms : MACHINE_BOOT_MS;
}

/* What kernels say that have too little to boot with speaks of memory. */
static void tell_panic(const char *why, char *ret_text, size_t size)
{
    snprintf(ret_text, size, "the guest's kernel panicked as it booted%s%s%s",
             why[0] != '\0' ? ": " : "", why,
             strcasestr(why, "memory") != NULL ? "; give it more with `blixard vm resize --memory`"
                                               : "; see its console");
}

static void on_vm_exit(const struct hypervisor_exit *exit, void *context)
{
    struct machine *machine = context;
    struct hypervisor_exit told = *exit;
    char reason[MACHINE_REASON_SIZE];
    snprintf(reason, sizeof(reason), "%s", health_reason(machine));
    bool was_stopping = machine->state == MACHINE_STOPPING;
    bool was_unhealthy = machine->is_unhealthy;
    bool was_boot_late = machine->is_boot_late;
    MEMORY_OWNED char *panic = machine->panic;
    machine->panic = NULL;
    machine->is_unhealthy = false;
    machine->is_boot_late = false;
    close_all(machine);
    if (restore_takes_end(machine) || cold_takes_end(machine)) {
        return;
    }
    if (machine->volumes_problem[0] != '\0') {
        told.end = HYPERVISOR_END_FAILED;
        snprintf(told.text, sizeof(told.text), "%s", machine->volumes_problem);
        machine->volumes_problem[0] = '\0';
    }
    bool has_failed = told.end == HYPERVISOR_END_PANIC || told.end == HYPERVISOR_END_FAILED ||
        (told.end == HYPERVISOR_END_KILLED && !was_stopping);
    bool cannot_go_on = told.end == HYPERVISOR_END_FAILED && machine_run_goes_on(machine);
    if (was_unhealthy) {
        has_failed = true;
        snprintf(told.text, sizeof(told.text), "it was unhealthy: %.300s", reason);
    } else if (panic != NULL && told.end == HYPERVISOR_END_KILLED) {
        has_failed = true;
        tell_panic(panic, told.text, sizeof(told.text));
    } else if (was_boot_late && told.end == HYPERVISOR_END_KILLED) {
        snprintf(told.text, sizeof(told.text),
                 "its agent had not spoken within %" PRIu64
                 " s of its start: see its console, and whether it has enough memory",
                 boot_ms(machine) / 1000);
    }
    if (machine->has_program_ended && !was_stopping && !has_failed) {
        has_failed = program_judge(machine, told.text, sizeof(told.text));
    }
    if (was_stopping && !has_failed && machine->desired == MACHINE_DESIRED_RUNNING) {
        machine->is_restarting = true; /* it was told to, and is wanted again meanwhile */
    }
    end(machine, has_failed, cannot_go_on, told.text);
}

/* ---- Timers ---- */

static uint64_t stop_ms(const struct machine *machine)
{
    return machine->stop_ms != MACHINE_STOP_MS_NODE ? machine->stop_ms
                                                    : machine->service->options.stop_ms;
}

/* Until it has ended. */
static void kill_vm(struct machine *machine)
{
    hypervisor_kill(machine->vm);
    arm(machine, TIMER_STOP, machine->service->options.stop_ms);
}

static void on_timer(void *context)
{
    struct machine *machine = context;
    enum machine_timer what = machine->timer_for;
    machine->timer_for = TIMER_NONE;
    switch (what) {
    case TIMER_NONE:
        break;
    case TIMER_BOOT:
        if (machine->was_found || json_text(machine->config, "disk")[0] != '\0') {
            machine->started_ms = machine->started_ms > 0 ? machine->started_ms : clock_real_ms();
            machine_set_state(machine, MACHINE_RUNNING, "its agent does not answer");
            machine_step(machine);
            break;
        }
        log_warn("machine %s: its agent has not spoken within %" PRIu64 " s", machine->key,
                 boot_ms(machine) / 1000);
        machine->is_boot_late = true;
        kill_vm(machine);
        break;
    case TIMER_STOP:
        log_warn("machine %s: it has not gone down within %" PRIu64 " ms", machine->key,
                 stop_ms(machine));
        kill_vm(machine);
        break;
    case TIMER_BACKOFF:
        if (machine->state == MACHINE_BACKOFF) { /* else somebody has asked for it meanwhile */
            machine_set_state(machine, MACHINE_STOPPED, "%s", machine->reason);
        }
        machine_step(machine);
        break;
    case TIMER_PREPARE:
        machine_step(machine);
        break;
    case TIMER_ROOM:
        if (full_has_room(machine)) {
            machine_step(machine);
        } else {
            arm(machine, TIMER_ROOM, MACHINE_ROOM_MS);
        }
        break;
    case TIMER_STEADY:
        if (health_of(machine) == MACHINE_HEALTH_NONE ||
            health_of(machine) == MACHINE_HEALTH_HEALTHY) {
            machine->failures = 0;
        } else {
            arm(machine, TIMER_STEADY, MACHINE_STEADY_MS);
        }
        break;
    }
}

static void arm(struct machine *machine, enum machine_timer what, uint64_t delay_ms)
{
    if (machine->timer == NULL) {
        machine->timer = loop_timer_new(machine->service->options.loop, on_timer, machine);
    }
    machine->timer_for = what;
    loop_timer_start(machine->timer, delay_ms);
}

/* Nodes that have just met do not have the key of their stores yet, and one that has the image or
 * the runner may just be starting. */
void machine_run_prepare_later(struct machine *machine, const char *what, const char *why)
{
    uint64_t wait_ms = machine_backoff_ms(++machine->tries);
    arm(machine, TIMER_PREPARE, wait_ms);
    machine_set_state(machine, MACHINE_CREATING,
                      "its %s is not here yet: %.300s; it is asked for again in %" PRIu64 " s",
                      what, why, wait_ms / 1000);
    machine_step(machine); /* it may have been deleted meanwhile */
}

void machine_run_remove_later(struct machine *machine, const char *why)
{
    machine_set_state(machine, MACHINE_STOPPED, "it is deleted in a moment: %.300s", why);
    arm(machine, TIMER_BACKOFF, machine_backoff_ms(1));
}

bool machine_run_waits_to_prepare(const struct machine *machine)
{
    return machine->timer_for == TIMER_PREPARE;
}

/* ---- The agent ---- */

static void on_agent_set(const struct error *error, const struct agent_result *result,
                         void *context)
{
    const struct machine *machine = context;
    (void)result;
    if (error != NULL && error->kind != ERROR_CANCELLED && machine->state == MACHINE_RUNNING) {
        log_warn("machine %s: its agent: %s", machine->key, error->text);
    }
}

static void set_network(struct machine *machine)
{
    struct nics_guest guest;
    struct error err = {0};
    if (nics_describe_guest(machine, &guest, &err) < 0) {
        log_warn("machine %s: %s", machine->key, err.text);
        return;
    }
    agent_network(machine->agent, &guest.network, on_agent_set, machine);
}

static bool has_gone_on(const struct machine *machine)
{
    MEMORY_OWNED char *used =
        memory_format("%s/" CONTENT_RESUME "/" CONTENT_STATE ".used", machine->folder);
    return file_exists(used);
}

static void on_renewed(struct machine *machine);

static void shut_down(struct machine *machine);

static void on_thawed(const struct error *error, const struct agent_result *result, void *context)
{
    const struct machine *machine = context;
    if (error == NULL && result->count > 0) {
        log_info("machine %s: %" PRIu64 " file systems stood still since its node ended: they are "
                 "thawed",
                 machine->key, result->count);
    }
    on_agent_set(error, result, context);
}

static void on_agent_up(const struct agent_info *info, void *context)
{
    struct machine *machine = context;
    if (machine->state == MACHINE_STOPPING) { /* it was asked when nobody heard it */
        shut_down(machine);
        return;
    }
    if (identity_is_borrowed(machine)) {
        identity_renew(machine, on_renewed);
        return;
    }
    if (machine->was_found) { /* whoever was holding it still is not there any more */
        agent_thaw(machine->agent, on_thawed, machine);
    }
    agent_set_time(machine->agent, 0, on_agent_set, machine);
    if (has_gone_on(machine)) { /* what it draws was drawn before */
        agent_reseed(machine->agent, on_agent_set, machine);
    }
    if (json_text(machine->config, "disk")[0] == '\0') {
        set_network(machine); /* a whole distribution does that itself, as its seed says */
    }
    keys_add(machine);
    if (info->init == AGENT_INIT_RESCUE) {
        log_warn("machine %s: it is in rescue: %s", machine->key, info->problem);
    }
    machine->was_found = false;
    machine_volumes_mount(machine);
    change_settle_guest(machine, has_gone_on(machine));
    health_begin(machine);
    silence_watch(machine);
    waiting_look(machine);
    if (machine->state == MACHINE_STARTING) {
        machine->started_ms = machine->started_ms > 0 ? machine->started_ms : clock_real_ms();
        arm(machine, TIMER_STEADY, MACHINE_STEADY_MS);
        machine_set_state(machine, MACHINE_RUNNING, "%s",
                          info->init == AGENT_INIT_RESCUE ? info->problem : "");
        machine_step(machine);
    } else if (machine->state == MACHINE_RUNNING && machine->reason[0] != '\0' &&
               machine->migration ==
                   NULL) { /* by its reason a move knows that nothing came between */
        machine_set_state(machine, MACHINE_RUNNING, "%s", "");
    }
}

/* A session goes on that has just begun: its identity is its own now. */
static void on_renewed(struct machine *machine)
{
    const struct agent_info *info = machine->agent != NULL ? agent_last_info(machine->agent) : NULL;
    if (info != NULL) {
        on_agent_up(info, machine);
    }
}

static void on_agent_down(const struct error *error, void *context)
{
    const struct machine *machine = context;
    log_info("machine %s: its agent is gone: %s", machine->key, error->text);
}

static void on_agent_event(const struct agent_event *event, void *context)
{
    struct machine *machine = context;
    if (event->kind == AGENT_EVENT_ENTRYPOINT_ENDED) {
        program_note_end(machine, event);
    }
}

static const struct hypervisor_driver_info *driver_of(const struct machine *machine)
{
    return hypervisor_driver_info(machine->service->options.hypervisor,
                                  json_text(machine->config, "driver"));
}

static void open_agent(struct machine *machine)
{
    static const struct agent_events events = {on_agent_up, on_agent_down, on_agent_event};
    MEMORY_OWNED char *path = memory_format("%s/" HYPERVISOR_AGENT_SOCKET, machine->folder);
    const struct hypervisor_driver_info *driver = driver_of(machine);
    const struct agent_options options = {
        .path = path, .vsock_port = driver->agent_by_vsock ? AGENT_VSOCK_PORT : 0};
    struct error err = {0};
    if (agent_open(machine->service->options.loop, &options, &events, machine, &machine->agent,
                   &err) < 0) {
        log_error("machine %s: %s", machine->key, err.text);
    }
}

/* ---- The VMM ---- */

static void on_ordered(const struct error *error, void *context)
{
    struct machine *machine = context;
    if (error != NULL) {
        log_warn("machine %s: %s", machine->key, error->text);
    }
}

/* A whole disk may be without an agent, or start it late: then it counts as running all the same,
 * and for one that is known to have none, at once. */
static void begin_boot(struct machine *machine)
{
    if (json_is_true(json_object_get(machine->config, "without_agent"))) {
        machine->started_ms = machine->started_ms > 0 ? machine->started_ms : clock_real_ms();
        arm(machine, TIMER_STEADY, MACHINE_STEADY_MS);
        machine_set_state(machine, MACHINE_RUNNING, "%s", "");
        machine_step(machine);
    } else {
        arm(machine, TIMER_BOOT, boot_ms(machine));
    }
}

static void on_started(void *context)
{
    struct machine *machine = context;
    if (machine->was_leaving) {
        machine->was_leaving = false;
        live_stay(machine, on_ordered, machine);
    }
    machine_volumes_plug(machine);
    usb_watch(machine);
    change_settle_vm(machine);
    pin_apply(machine);
    if (!runner_is(machine->config) && machine->agent == NULL) {
        open_agent(machine);
    }
    if (machine->state == MACHINE_STARTING) {
        begin_boot(machine);
    } else if (machine->state == MACHINE_STOPPING) {
        arm(machine, TIMER_STOP, machine->service->options.stop_ms);
    }
}

/* It was to go on from a state, and the daemon ended before it did: that state is good still. */
static void take_back(struct machine *machine)
{
    MEMORY_OWNED char *state =
        memory_format("%s/" CONTENT_RESUME "/" CONTENT_STATE, machine->folder);
    MEMORY_OWNED char *used = memory_format("%s.used", state);
    if (rename(used, state) == 0) {
        log_info("machine %s: it begins to go on anew", machine->key);
    }
    hypervisor_kill(machine->vm);
}

bool machine_run_note_full(struct machine *machine)
{
    bool is_full = full_note(machine);
    if (is_full) {
        arm(machine, TIMER_ROOM, MACHINE_ROOM_MS);
    }
    return is_full;
}

static void on_paused(bool is_paused, void *context)
{
    struct machine *machine = context;
    machine->stills += is_paused ? 1 : 0;
    if (machine->migration != NULL) {
        return; /* for the switch */
    }
    if (is_paused && machine->is_coming) { /* nobody is to see it stand still */
        machine_run_resume(machine);
        return;
    }
    if (!is_paused) {
        machine->is_coming = false;
        visit_resumed(machine);
        hypervisor_announce(machine->vm);
        network_announce(machine->service->options.networks, machine->id);
    }
    if (is_paused && machine->state == MACHINE_STARTING && !machine->was_found &&
        !machine->is_busy) {
        take_back(machine);
        return;
    }
    bool runs = machine->state == MACHINE_RUNNING ||
        (machine->state == MACHINE_STARTING && machine->was_found);
    if (is_paused && runs && !machine->is_busy && !machine_run_note_full(machine)) {
        machine_set_state(machine, MACHINE_PAUSED, "%s", "");
    } else if (!is_paused && machine->state == MACHINE_PAUSED && !machine->is_busy) {
        machine_set_state(machine, MACHINE_RUNNING, "%s", "");
    }
    machine_step(machine);
}

/* It would boot and panic until the time for a boot is over. */
static void end_panicked(struct machine *machine, const char *why)
{
    log_warn("machine %s: its kernel panicked as it booted: %s", machine->key, why);
    free(machine->panic);
    machine->panic = memory_copy_string(why);
    kill_vm(machine);
}

static void on_reboot(void *context)
{
    struct machine *machine = context;
    const char *panic = hypervisor_panic(machine->vm);
    bool was_found = machine->was_found;
    machine->was_found = false;
    kept_forget(machine);
    if (panic != NULL && machine->state == MACHINE_STARTING && !was_found) {
        end_panicked(machine, panic);
        return;
    }
    log_info("machine %s: the guest reboots", machine->key);
    if (machine->state == MACHINE_RUNNING) {
        machine->restarts++;
        machine->started_ms = 0;
        health_end(machine);
        machine_set_state(machine, MACHINE_STARTING, "%s%s",
                          panic != NULL ? "the guest's kernel panicked, and it rebooted: "
                                        : "the guest rebooted",
                          panic != NULL ? panic : "");
        begin_boot(machine);
    }
}

static const struct hypervisor_events vm_events = {on_started, on_paused, on_reboot, on_vm_exit};

/* ---- Starting ---- */

struct starting {
    struct machine *machine;
    json_t *config; /* a copy: settings may be read anew meanwhile */
    json_t *cells;  /* of one that boots; then those that it has, or NULL */
    struct buffer program;
    bool has_damage; /* its image does */
    struct error error;
};

/* What carries the agent is written anew at each start: it is of this very release. */
static void write_files(void *context)
{
    struct starting *starting = context;
    const struct machine *machine = starting->machine;
    const json_t *config = starting->config;
    MEMORY_OWNED char *initrd = memory_format("%s/initrd", machine->folder);
    MEMORY_OWNED char *resume = memory_format("%s/" CONTENT_RESUME, machine->folder);
    MEMORY_OWNED char *mark = memory_format("%s/" MIGRATION_MARK, machine->folder);
    unlink(mark); /* of a move that did not come to be */
    if (starting->error.kind == ERROR_NONE && !runner_is(config) &&
        disk_verify_image(machine->service, config, &starting->error) < 0) {
        starting->has_damage =
            starting->error.kind == ERROR_CORRUPT || starting->error.kind == ERROR_NOT_FOUND;
    }
    int r = starting->error.kind == ERROR_NONE
        ? content_take_incoming(machine->folder, &starting->error)
        : -(int)starting->error.kind;
    bool goes_on = machine_run_goes_on(machine);
    if (r == 0 && !goes_on) {
        r = file_remove_tree(resume, &starting->error); /* of an earlier life */
    }
    if (r == 0 && !runner_is(config) && json_text(config, "disk")[0] == '\0' &&
        !(goes_on && file_exists(initrd))) { /* which the guest has read long ago */
        r = disk_write_initrd(machine, json_text(config, "initrd"), &starting->program,
                              &starting->error);
    }
    if (goes_on) {
        json_decref(starting->cells);
        starting->cells = json_deep_copy(json_object_get(config, "cells"));
    }
    r = r < 0 ? r
              : change_prepare(machine->folder, config, goes_on, starting->cells, &starting->error);
    if (r == 0 && seed_is_wanted(config)) {
        seed_write(machine, config, &starting->error);
    }
    if (starting->error.kind == ERROR_FULL) {
        file_check_room(machine->folder, &starting->error); /* says what to do */
    }
}

static void on_network(const struct error *error_or_null, void *context)
{
    struct machine *machine = context;
    struct error error = error_or_null != NULL ? *error_or_null : (struct error){0};
    machine->is_busy = false;
    if (machine->is_gone || machine->service->is_over) {
        machine_unref(machine);
        return;
    }
    if (error.kind == ERROR_NONE) {
        machine->vm = boot_start(machine, &vm_events, &error);
    }
    if (error.kind != ERROR_NONE) {
        if (machine->desired == MACHINE_DESIRED_STOPPED) { /* meanwhile */
            machine_set_state(machine, MACHINE_STOPPED, "%s", "");
        } else {
            machine_fail(machine, "", &error);
        }
    }
    machine_step(machine); /* something else may be wanted by now */
}

static void on_files(void *context)
{
    struct starting *starting = context;
    struct machine *machine = starting->machine;
    struct error error = starting->error;
    bool has_damage = starting->has_damage;
    change_begin(machine, starting->cells);
    json_decref(starting->cells);
    buffer_done(&starting->program);
    json_decref(starting->config);
    free(starting);
    if (has_damage && !machine->is_gone && !machine->service->is_over) {
        machine->is_busy = false;
        disk_replace_image(machine, &error);
        machine_step(machine);
        return;
    }
    if (error.kind != ERROR_NONE || machine->is_gone || machine->service->is_over) {
        on_network(&error, machine);
    } else {
        network_settle(machine->service->options.networks, machine->id, on_network, machine);
    }
}

void machine_run_start(struct machine *machine)
{
    struct error refusal = {0};
    if (limits_check_memory(machine, &refusal) < 0) {
        machine_fail(machine, "", &refusal);
        return;
    }
    struct starting *starting = NEW(struct starting);
    starting->machine = machine;
    starting->config = json_deep_copy(machine->config);
    starting->cells = cells_lay_out(machine);
    change_begin(machine, NULL);
    machine->has_program_ended = false;
    program_encode(machine->config, &starting->program, &starting->error);
    machine_set_state(machine, MACHINE_STARTING, "%s", "");
    fence_prepare(machine);
    machine->is_busy = true;
    loop_work(machine->service->options.loop, write_files, on_files, starting);
}

void machine_run_attach(struct machine *machine)
{
    change_recall(machine);
    machine->vm = hypervisor_attach(machine->service->options.hypervisor, driver_of(machine)->name,
                                    machine->folder, &vm_events, machine);
}

/* ---- Stopping, pausing ---- */

/* A guest without an agent that listens may still obey its power button; the timer has the last
 * word. */
static void on_shut_down(const struct error *error, const struct agent_result *result,
                         void *context)
{
    struct machine *machine = context;
    (void)result;
    if (error != NULL && machine->vm != NULL && error->kind != ERROR_CANCELLED) {
        log_info("machine %s: its agent does not shut it down (%s); its power button is pressed",
                 machine->key, error->text);
        hypervisor_power_down(machine->vm, on_ordered, machine);
    }
}

static void shut_down(struct machine *machine)
{
    agent_shutdown(machine->agent,
                   driver_of(machine)->ends_by_reboot ? AGENT_POWER_REBOOT : AGENT_POWER_OFF, 0,
                   on_shut_down, machine);
}

void machine_run_shut_down(struct machine *machine)
{
    machine_set_state(machine, MACHINE_STOPPING, "%s", "");
    arm(machine, TIMER_STOP, stop_ms(machine));
    if (machine->agent != NULL) {
        shut_down(machine);
    } else {
        hypervisor_power_down(machine->vm, on_ordered, machine);
    }
}

void machine_run_take_patience(struct machine *machine, uint64_t patience_ms)
{
    machine->stop_ms = machine_state_is_alive(machine->state) ? patience_ms : MACHINE_STOP_MS_NODE;
    if (patience_ms != MACHINE_STOP_MS_NODE && machine->state == MACHINE_STOPPING &&
        machine->timer_for == TIMER_STOP) {
        arm(machine, TIMER_STOP, patience_ms);
    }
}

/* The exit follows. */
void machine_run_kill(struct machine *machine)
{
    if (machine->state != MACHINE_STOPPING) {
        machine_set_state(machine, MACHINE_STOPPING, "%s", "");
    }
    if (machine->vm != NULL) {
        kill_vm(machine);
    }
}

/* What its VMM refuses is told, and not wanted any more: it is as it was. */
static void on_pause_answered(const struct error *error_or_null, void *context)
{
    struct machine *machine = context;
    if (error_or_null == NULL || machine->state != MACHINE_RUNNING ||
        machine->desired != MACHINE_DESIRED_PAUSED) {
        on_ordered(error_or_null, machine);
        return;
    }
    struct error error = *error_or_null;
    error_wrap(&error, "machine %s was not paused, and runs on", machine->name);
    on_ordered(&error, machine);
    state_want(machine, MACHINE_DESIRED_RUNNING);
    machine_fail_operation(machine, &error);
}

static void on_resume_answered(const struct error *error_or_null, void *context)
{
    struct machine *machine = context;
    on_ordered(error_or_null, machine);
    if (error_or_null == NULL || machine->state != MACHINE_PAUSED || machine->migration != NULL) {
        return;
    }
    struct error error = *error_or_null;
    error_wrap(&error, "machine %s does not go on, and is paused still", machine->name);
    if (machine->desired == MACHINE_DESIRED_STOPPED || machine->is_restarting) {
        machine_run_kill(machine); /* it cannot go down in order */
    } else if (machine->desired == MACHINE_DESIRED_RUNNING) {
        state_want(machine, MACHINE_DESIRED_PAUSED);
        machine_fail_operation(machine, &error);
        machine_set_state(machine, MACHINE_PAUSED, "%.380s", error_or_null->text);
    }
}

/* on_paused() follows. */
void machine_run_pause(struct machine *machine)
{
    hypervisor_pause(machine->vm, on_pause_answered, machine);
}

void machine_run_resume(struct machine *machine)
{
    if (machine->timer_for == TIMER_ROOM &&
        (machine->desired == MACHINE_DESIRED_STOPPED || machine->is_restarting)) {
        /* It goes down in order if there is room by now; else it is killed when its time is over:
         * nobody waits for room who wants it to end. */
        machine_run_shut_down(machine);
        hypervisor_resume(machine->vm, on_ordered, machine);
        return;
    }
    if (machine->timer_for == TIMER_ROOM) {
        return; /* it is tried again when there is room */
    }
    hypervisor_resume(machine->vm, on_resume_answered, machine);
}
