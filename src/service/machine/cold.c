/*
 * A machine goes to another node without its memory: it is stopped, or is stopped for it.
 *
 *   asking     would the other node take it (arrive.c)?  Until it has said so nothing is stopped
 *   stopping   one that is wanted running goes down in order; its row goes on wanting it running
 *   packing    its disk, volumes and snapshots, as they lie there
 *   sending    the other node fetches that archive, verifies it and lays it out
 *   switching  one command makes the machine the other node's
 *   removing   what is here goes, or, where something failed, what is there
 *   starting   of one that ran: until it does there
 *
 * The row's node is who may start it, and only the switch changes that: it expects that the row is
 * this node's, that of the machine is wanted what was, that it still has the reason that it got
 * when it stood, and that the operation runs here still.  While machine->migration is set, this
 * node starts nothing of it.  A node that was restarted in the middle (FOLDER/leaving), or that has
 * no answer to its proposal, first writes another reason (migration_settle()), and only then starts
 * what is wanted running.  So whoever dies when, the machine is one node's: this one's before the
 * command, the other's after it.  The other node says that it is ready only when all is on its
 * disk, and this node removes nothing before the command is applied.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "engine/store/store.h"

#include "service/machine/content.h"
#include "service/machine/devices.h"
#include "service/machine/migrate.h"
#include "service/machine/volumes.h"

enum { START_MS = MACHINE_BOOT_MS + 60000 }; /* so long the operation waits for it to run there */

/* ---- May it? ---- */

static bool is_down(const struct machine *machine)
{
    return machine->vm == NULL &&
        (machine->state == MACHINE_STOPPED || machine->state == MACHINE_BACKOFF ||
         machine->state == MACHINE_FAILED);
}

/* One that is to go on from a memory would lose that. */
int cold_check(const struct machine *machine, struct error *err)
{
    MEMORY_OWNED char *state =
        memory_format("%s/" CONTENT_RESUME "/" CONTENT_STATE, machine->folder);
    MEMORY_OWNED char *incoming = memory_format("%s/" CONTENT_INCOMING, machine->folder);
    bool is_up = machine->desired == MACHINE_DESIRED_RUNNING && machine->vm != NULL &&
        (machine->state == MACHINE_RUNNING || machine->state == MACHINE_STARTING);
    bool is_wanted =
        machine->desired == MACHINE_DESIRED_RUNNING || machine->desired == MACHINE_DESIRED_STOPPED;
    if (!is_wanted || (!is_up && !is_down(machine))) {
        return error_set(err, ERROR_CONFLICT,
                         "machine %s is %s, and moves when it runs or is stopped: `blixard vm stop "
                         "%s`",
                         machine->name, machine_state_text(machine->state), machine->name);
    }
    if (file_exists(state) || file_exists(incoming)) {
        return error_set(err, ERROR_CONFLICT,
                         "machine %s goes on from a snapshot when it is started, which does not "
                         "move: start it and stop it first",
                         machine->name);
    }
    return migration_check_busy(machine, err);
}

/* ---- Starting there ---- */

struct seen {
    bool is_starting; /* it is wanted running there, and neither runs nor has failed */
};

static bool take_row(sqlite3_stmt *row, void *context)
{
    struct seen *seen = context;
    enum machine_state state = MACHINE_RUNNING;
    machine_state_parse(store_text(row, 0), &state);
    seen->is_starting = strcmp(store_text(row, 1), "running") == 0 && state != MACHINE_RUNNING &&
        state != MACHINE_FAILED && state != MACHINE_BACKOFF;
    return false;
}

static void finish(void *context)
{
    struct migration *migration = context;
    store_watch_free(migration->watch);
    migration->watch = NULL;
    migration_finish(migration);
}

void cold_wait_no_more(struct migration *migration)
{
    if (migration->watch != NULL && !migration->has_started) {
        migration->has_started = true;
        loop_post(migration->service->options.loop, finish, migration);
    }
}

static void look(struct migration *migration)
{
    struct seen seen = {0};
    struct error err = {0};
    store_query(migration->service->options.store, &err, take_row, &seen,
                "SELECT state, desired FROM machine WHERE id = ? AND node = ?", "tt",
                migration->machine->id, migration->target);
    if (!seen.is_starting) {
        cold_wait_no_more(migration);
    }
}

static void on_row(const struct store_event *event, void *context)
{
    (void)event;
    look(context);
}

void cold_await(struct migration *migration)
{
    struct machine_service *service = migration->service;
    MEMORY_OWNED char *text = memory_format("starting at node %s", migration->target);
    operation_progress(service->options.operations, migration->operation, 90, text);
    loop_timer_start(migration->timer, START_MS);
    migration->watch = store_watch_new(service->options.store, "machine", on_row, migration);
    look(migration);
    if (service->is_over) {
        cold_wait_no_more(migration);
    }
}

/* ---- Switching ---- */

static void on_settled(const struct error *error, void *context)
{
    struct migration *migration = context;
    if (error == NULL) {
        migration->is_switching = false; /* with the error of the switch */
    } else if (error->kind == ERROR_CONFLICT) {
        migration->error = (struct error){0};
    } else { /* the next start goes on with it: nothing is touched */
        migration->is_marked = false;
    }
    migration_end(migration);
}

static void on_switched(const struct error *error, uint64_t index, void *context)
{
    struct migration *migration = context;
    (void)index;
    if (error != NULL) {
        migration->error = *error;
        migration_settle(migration->machine, on_settled, migration);
    } else {
        migration_end(migration);
    }
}

/* The operation of one that was stopped ends with the command; else when it runs. */
static void switch_over(struct migration *migration)
{
    struct machine_service *service = migration->service;
    const struct machine *machine = migration->machine;
    struct store_command *command = store_command_new();
    migration->is_switching = true;
    operation_on_cancel(service->options.operations, migration->operation, NULL, NULL);
    log_info("machine %s: all of it is at node %s, too; the log is asked whose it is", machine->key,
             migration->target);
    store_command_add_expecting(
        command, ERROR_CONFLICT,
        "something else was asked of the machine meanwhile; it is where it was",
        "UPDATE machine SET node = ?1, state = 'creating', reason = NULL, revision = ?2 WHERE key "
        "= ?3 AND id = ?4 AND node = ?5 AND desired = ?6 AND reason = ?7 AND EXISTS (SELECT 1 FROM "
        "operation WHERE key = ?8 AND state = 'running') AND (SELECT count(*) FROM volume WHERE "
        "project = ?9 AND machine = ?10) = ?11",
        "trttttttttu", migration->target, machine->key, machine->id, service->node_name,
        migration->runs_after ? "running" : "stopped", migration->reason, migration->operation,
        machine->project, machine->name, (uint64_t)machine_volumes_count(machine));
    migration_add_belongings(migration, command);
    machine_add_devices(service, command, machine->id, machine->config, migration->target);
    migration_add_event(migration, command, MACHINE_CREATING);
    if (!migration->runs_after) {
        operation_add_success(service->options.operations, command, migration->operation, NULL);
    }
    store_propose(service->options.store, command, on_switched, migration);
}

/* ---- Sending ---- */

static void on_sent(const struct error *error, int status, struct buffer *answer, void *context)
{
    struct migration *migration = context;
    migration->call = NULL;
    if (error != NULL) {
        migration->error = *error;
    } else if (status >= 300) {
        migration_take_problem(migration, status, answer, &migration->error);
    }
    if (migration->error.kind != ERROR_NONE) {
        migration_end(migration);
        return;
    }
    switch_over(migration);
}

static void send_archive(struct migration *migration)
{
    MEMORY_OWNED char *text = memory_format("node %s fetches and verifies %" PRIu64 " MiB",
                                            migration->target, migration->bytes >> 20);
    operation_progress(migration->service->options.operations, migration->operation, 50, text);
    migration->was_announced = true;
    migration_tell_target(migration, json_pack("{s:s}", "blob", migration->blob),
                          migration->timeout_ms, on_sent);
}

static void on_packed(struct migration *migration)
{
    if (migration->error.kind == ERROR_NONE && !migration->is_given_up) {
        send_archive(migration);
    } else {
        migration_end(migration);
    }
}

/* ---- Stopping ---- */

/* It stands, and has a reason of this move's. */
static void pack(struct migration *migration)
{
    machine_set_state(migration->machine, MACHINE_STOPPED, "%s", migration->reason);
    operation_progress(migration->service->options.operations, migration->operation, 20,
                       "packing it");
    migration_pack(migration, on_packed);
}

bool cold_takes_end(struct machine *machine)
{
    struct migration *migration = machine->migration;
    if (migration == NULL || !migration->is_stopping) {
        return false;
    }
    migration->is_stopping = false;
    machine->started_ms = 0;
    machine->is_restarting = false;
    machine->volumes_problem[0] = '\0';
    if (migration->is_given_up) {
        machine_set_state(machine, MACHINE_STOPPED, "%s", "");
        migration_end(migration);
    } else {
        pack(migration);
    }
    return true;
}

/* What was begun is not taken back: it is started again once it is down. */
void cold_give_up(struct migration *migration)
{
    if (migration->is_stopping && migration->machine->vm == NULL) { /* this node ends */
        migration->is_stopping = false;
        migration_end(migration);
    }
}

static void stop(struct migration *migration)
{
    struct machine *machine = migration->machine;
    migration->is_stopping = true;
    operation_progress(migration->service->options.operations, migration->operation, 10,
                       "stopping it");
    if (machine->state == MACHINE_STARTING && !machine->was_found) {
        machine_run_kill(machine);
    } else {
        machine_run_shut_down(machine);
    }
}

static void mark(void *context)
{
    struct migration *migration = context;
    const struct machine *machine = migration->machine;
    if (content_disk_size(machine->folder) == 0) {
        error_set(&migration->error, ERROR_CORRUPT, "machine %s has no disk", machine->name);
    } else {
        migration_write_mark(migration, &migration->error);
    }
}

static void on_marked(void *context)
{
    struct migration *migration = context;
    struct machine *machine = migration->machine;
    migration->is_marking = false;
    migration->is_marked = true;
    if (migration->error.kind == ERROR_NONE && machine->vm == NULL && !is_down(machine)) {
        error_set(&migration->error, ERROR_CONFLICT, "something else was done to machine %s",
                  machine->name);
    }
    if (migration->error.kind != ERROR_NONE || migration->is_given_up) {
        migration_end(migration);
    } else if (machine->vm != NULL) {
        stop(migration);
    } else {
        pack(migration);
    }
}

void cold_begin(struct migration *migration)
{
    snprintf(migration->reason, sizeof(migration->reason), "moving to node %s", migration->target);
    migration->is_marking = true;
    loop_work(migration->service->options.loop, mark, on_marked, migration);
}
