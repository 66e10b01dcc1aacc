/* Machines: life, and the steps from what is to what is wanted.  See machine.h. */
#include "service/machine/machine.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "engine/store/store.h"

#include "service/machine/arrive.h"
#include "service/machine/migrate.h"
#include "service/machine/parts.h"
#include "service/machine/snapshot.h"
#include "service/machine/volumes.h"
#include "service/volume/volume.h"

/* ---- Operations that wait for a machine ---- */

static void finish_operation(struct machine *machine, const struct error *error)
{
    char id[OPERATION_ID_SIZE];
    if (machine->operation[0] == '\0') {
        return;
    }
    snprintf(id, sizeof(id), "%s", machine->operation);
    machine->operation[0] = '\0';
    if (error != NULL) {
        operation_fail(machine->service->options.operations, id, error);
    } else {
        operation_succeed(machine->service->options.operations, id, NULL);
    }
}

void machine_fail_operation(struct machine *machine, const struct error *error)
{
    finish_operation(machine, error);
}

/* Nobody else will tell those who wait. */
void machine_leave_operation(struct machine *machine)
{
    struct error error = {0};
    error_set(&error, ERROR_CONFLICT, "machine %s was deleted, or is another node's by now",
              machine->name);
    finish_operation(machine, machine->desired == MACHINE_DESIRED_DELETED ? NULL : &error);
}

/* One that failed can be deleted all the same: that is still to come. */
void machine_tell_operation(struct machine *machine)
{
    struct error error = {0};
    if (machine->state == MACHINE_FAILED && machine->desired != MACHINE_DESIRED_DELETED) {
        enum error_kind kind = machine->damage != NULL ? ERROR_CORRUPT
            : machine->is_without_room                 ? ERROR_FULL
                                                       : ERROR_UNAVAILABLE;
        error_set(&error, kind, "machine %s: %s", machine->name, machine->reason);
        finish_operation(machine, &error);
    } else if (!machine->is_restarting && machine_is_settled(machine->desired, machine->state)) {
        finish_operation(machine, NULL);
    } else if (machine->operation[0] != '\0') {
        operation_progress(machine->service->options.operations, machine->operation, 50,
                           machine_state_text(machine->state));
    }
}

void machine_take_operation(struct machine *machine, const char *id)
{
    struct error error = {0};
    error_set(&error, ERROR_CONFLICT, "something else was asked of machine %s meanwhile",
              machine->name);
    finish_operation(machine, &error);
    snprintf(machine->operation, sizeof(machine->operation), "%s", id);
    machine_tell_operation(machine);
}

void machine_set_state(struct machine *machine, enum machine_state state, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(machine->reason, sizeof(machine->reason), format, arguments);
    va_end(arguments);
    if (machine->state != state || machine->reason[0] != '\0') {
        log_info("machine %s: %s%s%s", machine->key, machine_state_text(state),
                 machine->reason[0] != '\0' ? ": " : "", machine->reason);
    }
    enum machine_state before = machine->state;
    machine->state = state;
    machine->is_without_room = machine->is_without_room && state == MACHINE_FAILED;
    events_note_state(machine, before);
    state_publish(machine);
    machine_tell_operation(machine);
}

void machine_fail(struct machine *machine, const char *what, const struct error *error)
{
    machine->is_without_room = error->kind == ERROR_FULL;
    machine_set_state(machine, MACHINE_FAILED, "%s%.340s", what, error->text);
}

/* ---- Steps ---- */

void machine_unref(struct machine *machine)
{
    if (!machine->is_gone || machine->is_busy || machine->is_publishing || machine->held > 0) {
        return;
    }
    list_remove(&machine->link);
    loop_timer_free(machine->timer);
    health_end(machine);
    silence_end(machine);
    events_forget(machine, false);
    json_decref(machine->config);
    json_decref(machine->booted);
    free(machine->key);
    free(machine->project);
    free(machine->name);
    free(machine->panic);
    free(machine->folder);
    pin_free(machine);
    free(machine->damage);
    free(machine);
}

static void start_in_order(struct machine *machine)
{
    char reason[MACHINE_REASON_SIZE];
    machine->is_waiting = fence_waits(machine, reason, sizeof(reason)) ||
        draft_waits(machine, reason, sizeof(reason)) ||
        after_waits(machine, reason, sizeof(reason));
    if (!machine->is_waiting) {
        machine_run_start(machine);
    } else if (strcmp(machine->reason, reason) != 0) {
        machine_set_state(machine, MACHINE_STOPPED, "%s", reason);
    }
}

void machine_tell_others(struct machine *machine)
{
    LIST_EACH(node, &machine->service->machines)
    {
        struct machine *other = LIST_ITEM(node, struct machine, link);
        if (other != machine && other->is_waiting) {
            machine_step(other);
        }
    }
}

/* It goes down first; one that only begins to run has nothing to lose.  False: it is not so far. */
static bool restart(struct machine *machine)
{
    if (machine->state == MACHINE_RUNNING) {
        machine_run_shut_down(machine);
    } else if (machine->state == MACHINE_STARTING && !machine->was_found) {
        machine_run_kill(machine);
    } else {
        return false;
    }
    return true;
}

void machine_step(struct machine *machine)
{
    if (machine->migration != NULL) {
        migration_yield(machine);
    }
    bool is_ending = machine_state_is_alive(machine->state) && machine->vm == NULL;
    if (machine->is_busy || machine->migration != NULL || machine->is_gone ||
        machine->service->is_over || is_ending) {
        return;
    }
    if (machine->is_restarting && restart(machine)) {
        return;
    }
    switch (machine_decide(machine->desired, machine->state)) {
    case MACHINE_DO_NOTHING:
        break;
    case MACHINE_DO_PREPARE:
        if (!machine_run_waits_to_prepare(machine)) {
            disk_prepare(machine);
        }
        break;
    case MACHINE_DO_START:
        if (!machine_volumes_are_busy(machine)) { /* else it is stepped again */
            start_in_order(machine);
        }
        break;
    case MACHINE_DO_PAUSE:
        machine_run_pause(machine);
        break;
    case MACHINE_DO_RESUME:
        machine_run_resume(machine);
        break;
    case MACHINE_DO_SHUT_DOWN:
        machine_run_shut_down(machine);
        break;
    case MACHINE_DO_KILL:
        machine_run_kill(machine);
        break;
    case MACHINE_DO_SETTLE:
        loop_timer_stop(machine->timer);
        machine_set_state(machine, MACHINE_STOPPED, "%s", "");
        break;
    case MACHINE_DO_REMOVE:
        disk_remove(machine);
        break;
    }
}

static void recover(struct machine *machine);

static void on_changed(const struct store_event *event, void *context)
{
    struct machine_service *service = context;
    if (service->is_over) {
        return;
    }
    state_load(service, event->operation == 'R' ? NULL : event->key);
    LIST_EACH(node, &service->machines)
    {
        struct machine *machine = LIST_ITEM(node, struct machine, link);
        bool is_new = machine->is_new;
        machine->is_new = false;
        if (is_new && machine_state_is_alive(machine->state)) { /* it came running */
            recover(machine);
        } else if (event->operation == 'R' || machine->is_waiting ||
                   strcmp(machine->key, event->key) == 0) {
            machine_step(machine);
        }
    }
}

static void on_retry(void *context)
{
    struct machine_service *service = context;
    LIST_EACH(node, &service->machines)
    {
        struct machine *machine = LIST_ITEM(node, struct machine, link);
        if (machine->is_dirty) {
            state_publish(machine);
        }
    }
}

/* ---- Answers that come later ---- */

struct answer {
    struct machine_service *service;
    struct error error;
    machine_begun *begun;
    machine_done *done;
    void *context;
};

static void on_answer(void *argument)
{
    struct answer *answer = argument;
    answer->service->pending--;
    if (answer->begun != NULL) {
        answer->begun(&answer->error, NULL, answer->context);
    } else {
        answer->done(&answer->error, 0, answer->context);
    }
    free(answer);
}

void machine_answer(struct machine_service *service, const struct error *error,
                    machine_begun *begun, machine_done *done, void *context)
{
    struct answer *answer = NEW(struct answer);
    *answer = (struct answer){service, *error, begun, done, context};
    service->pending++;
    loop_post(service->options.loop, on_answer, answer);
}

/* ---- After a start of the node ---- */

static void on_settled(const struct error *error, void *context)
{
    struct machine *machine = context;
    machine->is_busy = false;
    if (error == NULL && !machine->is_gone) {
        MEMORY_OWNED char *mark = memory_format("%s/" MIGRATION_MARK, machine->folder);
        struct error ignored = {0};
        MEMORY_OWNED char *state = memory_format("%s/" MIGRATION_STATE, machine->folder);
        file_remove_tree(mark, &ignored);
        file_remove_tree(state, &ignored);
        if (machine_state_is_alive(machine->state)) {
            machine->was_leaving = true;
            /* It was going down to be moved, and is wanted running. */
            machine->is_restarting =
                machine->state == MACHINE_STOPPING && machine->desired == MACHINE_DESIRED_RUNNING;
            machine_run_attach(machine);
        } else {
            machine_step(machine);
        }
    } else if (machine->is_gone) {
        migration_sweep_left(machine->service);
    }
    machine_unref(machine);
}

/* It may be said at this moment that it is another node's. */
static bool settle_if_it_was_leaving(struct machine *machine)
{
    MEMORY_OWNED char *mark = memory_format("%s/" MIGRATION_MARK, machine->folder);
    if (!file_exists(mark)) {
        return false;
    }
    machine->is_busy = true;
    migration_settle(machine, on_settled, machine);
    return true;
}

static void find_again(struct machine *machine)
{
    visit_adopt(machine);
    if (!settle_if_it_was_leaving(machine)) {
        machine_run_attach(machine);
    }
}

/* What the state says was running is looked for; what is not there any more has ended. */
static void recover(struct machine *machine)
{
    bool has_begun = hypervisor_is_alive(machine->folder);
    if (!machine_state_is_alive(machine->state) && has_begun) {
        /* The daemon was killed before it could write that it had started it. */
        log_warn("machine %s: it runs, which the state does not say", machine->key);
        machine->state = MACHINE_RUNNING;
    }
    if (machine->state == MACHINE_PREPARING) {
        machine->state = MACHINE_CREATING;
    } else if (machine->state == MACHINE_DELETING ||
               (machine->state == MACHINE_STARTING && !has_begun)) {
        machine->state = MACHINE_STOPPED; /* the daemon ended before it had started it: again */
    } else if (machine_state_is_alive(machine->state)) {
        MEMORY_OWNED char *arrived = arrival_folder(machine->service, machine->id);
        machine->is_coming = machine->state == MACHINE_RUNNING && file_exists(arrived);
        machine->was_found = machine->state == MACHINE_RUNNING && !machine->is_coming;
        if (machine->was_found) {
            machine_set_state(machine, MACHINE_STARTING, "found again by its node");
        }
        find_again(machine);
        return;
    } else if (machine->state == MACHINE_BACKOFF) {
        machine->state = MACHINE_STOPPED;
    }
    if (!settle_if_it_was_leaving(machine)) {
        machine_step(machine);
    }
}

int machine_service_new(const struct machine_options *options, struct machine_service **ret_service,
                        struct error *err)
{
    if (file_make_folder(options->folder, 0700, err) < 0) {
        return -(int)err->kind;
    }
    struct machine_service *service = NEW(struct machine_service);
    service->options = *options;
    service->folder = memory_copy_string(options->folder);
    service->agent = options->agent != NULL ? memory_copy_string(options->agent)
                                            : file_find_companion("blixard-agent");
    service->node_name = memory_copy_string(options->node_name);
    list_init(&service->machines);
    list_init(&service->arrivals);
    list_init(&service->visits);
    list_init(&service->waiting);
    list_init(&service->pulls);
    list_init(&service->verifications);
    service->retry = loop_timer_new(options->loop, on_retry, service);
    service->watch = store_watch_new(options->store, "machine", on_changed, service);
    if (store_schema_now(options->store) >= 6) {
        state_load(service, NULL);
    }
    clone_sweep(service);
    seed_sweep(service);
    pulls_sweep(service);
    snapshot_recover(service);
    migration_sweep(service);
    migration_sweep_left(service);
    arrival_sweep(service);
    LIST_EACH(node, &service->machines)
    {
        struct machine *machine = LIST_ITEM(node, struct machine, link);
        machine->is_new = false;
        recover(machine);
    }
    machine_volumes_open(service);
    *ret_service = service;
    return fence_open(service, err);
}

void machine_service_free(struct machine_service *service)
{
    if (service == NULL) {
        return;
    }
    service->is_over = true;
    volume_set_machines(service->options.volumes, NULL);
    store_watch_free(service->watch);
    LIST_EACH(node, &service->machines)
    {
        machine_run_detach(LIST_ITEM(node, struct machine, link));
    }
    waiting_end(service);
    arrivals_abandon(service);
    visits_abandon(service);
    pulls_abandon(service);
    verifications_abandon(service);
    arrival_sweep_end(service);
    store_settle(service->options.store);
    bool waits = true;
    while (waits) {
        waits = service->pending > 0;
        LIST_EACH(node, &service->machines)
        {
            const struct machine *machine = LIST_ITEM(node, struct machine, link);
            waits = waits || machine->is_busy || machine->held > 0;
        }
        if (waits) {
            uv_run(loop_uv(service->options.loop), UV_RUN_ONCE);
        }
    }
    LIST_EACH(node, &service->machines)
    {
        struct machine *machine = LIST_ITEM(node, struct machine, link);
        machine->is_gone = true;
        machine_unref(machine);
    }
    fence_close(service);
    loop_timer_free(service->retry);
    free(service->folder);
    free(service->agent);
    free(service->node_name);
    free(service);
}
