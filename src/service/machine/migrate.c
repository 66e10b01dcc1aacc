/*
 * A machine goes to another node: how, whether it may, and what all ways have in common; cold.c is
 * the one without its memory, live.c that with it.
 */
#include "service/machine/migrate.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "engine/image/image.h"
#include "engine/store/store.h"

#include "service/cluster/cluster.h"
#include "service/machine/devices.h"
#include "service/machine/snapshot.h"
#include "service/machine/volumes.h"
#include "service/peer/peer.h"
#include "service/volume/volume.h"

enum {
    TIMEOUT_MS = 3600000,
    TIMEOUT_MAX_MS = 7 * 24 * 3600000,
    STEPS_AT_ONCE = 64, /* of packing, a megabyte each: then the loop is told */
    ANSWER_BYTES_MAX = 16384,
    FORGET_MS = 30000,
    ASK_MS = 30000,
    DOWNTIME_MS = 300, /* as QEMU has it */
    DOWNTIME_MAX_MS = 60000,
};

/* ---- The end ---- */

static void release_volumes(struct migration *migration)
{
    struct machine *machine = migration->machine;
    if (migration->holds_volumes) { /* without which it was not started meanwhile */
        migration->holds_volumes = false;
        volume_move_hold(migration->service->options.volumes, machine->project, machine->name,
                         false);
        machine_step(machine);
    }
}

static void free_migration(struct migration *migration)
{
    struct machine *machine = migration->machine;
    migration->service->pending--;
    release_volumes(migration);
    loop_timer_free(migration->timer);
    free(migration->files);
    free(migration->result);
    free(migration);
    machine->held--;
    machine_unref(machine);
}

static void clean_up(void *context)
{
    struct migration *migration = context;
    const struct machine *machine = migration->machine;
    struct machine_service *service = migration->service;
    if (migration->writer != NULL) {
        image_writer_abort(migration->writer);
    }
    if (migration->blob[0] != '\0') {
        migration_remove_archive(service, migration->blob);
    }
    MEMORY_OWNED char *mark = memory_format("%s/" MIGRATION_MARK, machine->folder);
    MEMORY_OWNED char *state = memory_format("%s/" MIGRATION_STATE, machine->folder);
    struct error ignored = {0};
    unlink(state);
    if (migration->error.kind == ERROR_NONE) {
        hypervisor_end(machine->folder);
    } else if (migration->is_marked && !service->is_over) { /* else for the next start */
        file_remove_tree(mark, &ignored);
    }
    if (migration->error.kind == ERROR_NONE) {
        MEMORY_OWNED char *snapshots = snapshot_folder_all(service, machine->id);
        for (size_t i = 0; i < migration->file_count; i++) {
            const struct volume_file *file = &migration->files[i];
            if (file->copy[0] == '\0') {
                volume_move_remove(service->options.volumes, file->id, file->format);
            }
        }
        migration_remove_folder(service, snapshots);
        migration_remove_folder(service, machine->folder); /* with the mark: last */
    }
}

static void on_forgotten(const struct error *error, int status, struct buffer *answer,
                         void *context)
{
    (void)error; /* what is left there is replaced when the machine is sent again */
    (void)status;
    (void)answer;
    (void)context;
}

/* Not when there are none: an older node would not know the word. */
static void add_copies(const struct migration *migration, json_t *body)
{
    JSON_OWNED json_t *copies = json_object();
    for (size_t i = 0; i < migration->file_count; i++) {
        const struct volume_file *file = &migration->files[i];
        if (file->copy[0] != '\0') {
            json_object_set_new(copies, file->id, json_string(file->copy));
        }
    }
    if (json_object_size(copies) > 0) {
        json_object_set(body, "copies", copies);
    }
}

void migration_tell_target(struct migration *migration, json_t *owned_more, uint64_t timeout_ms,
                           void (*done)(const struct error *error, int status,
                                        struct buffer *answer, void *context))
{
    const struct machine *machine = migration->machine;
    bool is_wanted = owned_more != NULL;
    JSON_OWNED json_t *object = is_wanted ? owned_more : json_object();
    json_object_set_new(object, "id", json_string(machine->id));
    if (is_wanted) {
        json_object_set_new(object, "operation", json_string(migration->operation));
        json_object_set_new(object, "blob_bytes", json_integer((json_int_t)migration->blob_bytes));
        json_object_set_new(object, "bytes", json_integer((json_int_t)migration->file_bytes));
        add_copies(migration, object);
    }
    MEMORY_OWNED char *body = json_dumps(object, JSON_COMPACT);
    MEMORY_OWNED char *target =
        memory_format("/v1/peer/machines/%s?project=%s", machine->name, machine->project);
    const struct peer_request request = {.node = migration->node,
                                         .method = "POST",
                                         .target = target,
                                         .body = body,
                                         .body_length = strlen(body),
                                         .answer_bytes_max = ANSWER_BYTES_MAX,
                                         .timeout_ms = timeout_ms};
    /* Of "forget it" nobody waits for the answer. */
    migration->call = peer_call_new(migration->service->options.peers, &request, done,
                                    is_wanted ? migration : NULL);
}

void migration_finish(struct migration *migration)
{
    struct machine *machine = migration->machine;
    struct machine_service *service = migration->service;
    bool is_good = migration->error.kind == ERROR_NONE;
    if (is_good && (migration->is_live || migration->runs_after)) {
        /* Not before the old copy is gone: it may come back at once. */
        operation_succeed(service->options.operations, migration->operation, migration->result);
    } else if (!is_good) {
        operation_fail(service->options.operations, migration->operation, &migration->error);
    }
    /* Not after a switch was proposed, which may come true although its answer was lost. */
    if (!is_good && migration->was_announced && !migration->is_switching && !service->is_over) {
        migration_tell_target(migration, NULL, FORGET_MS, on_forgotten);
    }
    machine->migration = NULL;
    if (!machine->is_gone) {
        machine_set_state(machine, machine->state, "%s", "");
        machine_step(machine);
    }
    free_migration(migration);
}

static void on_cleaned_up(void *context)
{
    struct migration *migration = context;
    const struct machine *machine = migration->machine;
    struct machine_service *service = migration->service;
    bool is_good = migration->error.kind == ERROR_NONE;
    service->migrations[is_good ? 0 : 1]++;
    service->migrated_bytes += is_good ? migration->bytes : 0;
    if (is_good) {
        log_info("machine %s: moved to node %s (%" PRIu64 " MiB)", machine->key, migration->target,
                 migration->bytes >> 20);
    } else {
        log_warn("machine %s: not moved to node %s: %s", machine->key, migration->target,
                 migration->error.text);
    }
    if (is_good && migration->runs_after) {
        release_volumes(migration);
        cold_await(migration);
    } else {
        migration_finish(migration);
    }
}

void migration_end(struct migration *migration)
{
    loop_timer_stop(migration->timer);
    operation_on_cancel(migration->service->options.operations, migration->operation, NULL, NULL);
    loop_work(migration->service->options.loop, clean_up, on_cleaned_up, migration);
}

/* What waits for the other node ends now; work on files ends soon by itself. */
void migration_give_up(struct migration *migration, int kind, const char *text)
{
    if (migration->is_switching || migration->is_given_up) {
        return;
    }
    migration->is_given_up = true;
    if (migration->error.kind == ERROR_NONE) {
        error_set(&migration->error, kind, "%s", text);
    }
    if (migration->export != NULL || migration->is_packing || migration->is_marking) {
        return; /* a thread has it: what follows looks at is_given_up */
    }
    if (migration->is_stopping) {
        cold_give_up(migration);
    } else if (migration->live != NULL) {
        live_give_up(migration);
    } else if (migration->call != NULL) {
        peer_call_free(migration->call);
        migration->call = NULL;
        migration_end(migration);
    }
}

void migration_abandon(struct machine *machine)
{
    struct migration *migration = machine->migration;
    if (migration != NULL && machine->service->is_over) {
        cold_wait_no_more(migration);
    }
    if (migration != NULL) {
        migration_give_up(migration, ERROR_CANCELLED, "the node ends");
    }
}

void migration_yield(struct machine *machine)
{
    const struct migration *migration = machine->migration;
    enum machine_desired needed = migration->is_live || migration->runs_after
        ? MACHINE_DESIRED_RUNNING
        : MACHINE_DESIRED_STOPPED;
    if (machine->desired == needed) {
        return;
    }
    migration_give_up(machine->migration, ERROR_CONFLICT,
                      "something else was asked of the machine meanwhile; it is where it was");
}

static void on_cancel(void *context)
{
    migration_give_up(context, ERROR_CANCELLED, "it was cancelled; the machine is where it was");
}

static void on_timeout(void *context)
{
    cold_wait_no_more(context);
    migration_give_up(context, ERROR_TIMEOUT,
                      "it took too long (--timeout); the machine is where it was");
}

/* ---- Switching ---- */

void migration_add_event(const struct migration *migration, struct store_command *command,
                         enum machine_state state)
{
    const struct machine *machine = migration->machine;
    MEMORY_OWNED char *from = memory_format("from %s", migration->service->node_name);
    const struct machine_event event = {.project = machine->project,
                                        .machine = machine->name,
                                        .machine_id = machine->id,
                                        .node = migration->target,
                                        .type = "vm.migrated",
                                        .state = machine_state_text(state),
                                        .reason = from};
    events_add(migration->service, command, &event);
}

void migration_add_belongings(const struct migration *migration, struct store_command *command)
{
    const struct machine *machine = migration->machine;
    store_command_add_expecting(
        command, ERROR_UNAVAILABLE, "its target is drained meanwhile; it is where it was",
        "UPDATE node SET revision = revision WHERE key = ? AND duty NOT IN ('draining', 'drained')",
        "t", migration->target);
    store_command_add(command,
                      "UPDATE machine_snapshot SET node = ?, revision = ? WHERE machine_id = ?",
                      "trt", migration->target, machine->id);
    volume_move_add(migration->service->options.volumes, machine->project, machine->name,
                    migration->target, migration->files, migration->file_count, command);
}

/* ---- Sending ---- */

void migration_take_problem(const struct migration *migration, int status,
                            const struct buffer *answer, struct error *err)
{
    JSON_OWNED json_t *problem = NULL;
    struct error ignored = {0};
    json_read(answer->data, answer->used, &problem, &ignored);
    enum error_kind kind = error_kind_parse(json_text(problem, "code"));
    if (kind == ERROR_NONE) {
        error_set(err, ERROR_PROTOCOL, "the other node answered %d", status);
    } else {
        error_set(err, kind, "%.400s", json_text(problem, "detail"));
    }
    if (kind == ERROR_FULL) {
        migration_name_full(migration, migration->target, err);
    }
}

void migration_name_full(const struct migration *migration, const char *node, struct error *err)
{
    const char *what = strcmp(node, migration->target) == 0 ? "it" : "what is packed of it";
    error_wrap(err, "node %s has no room for %s; the machine is where it was", node, what);
}

/* ---- Asking ---- */

static enum transfer_kind kind_of(const struct migration *migration)
{
    return !migration->is_live   ? TRANSFER_STOPPED
        : migration->is_snapshot ? TRANSFER_STILL
                                 : TRANSFER_RUNNING;
}

static void on_counted(const struct error *error, struct machine_export *export, void *context)
{
    struct migration *migration = context;
    if (error != NULL) {
        migration->error = *error;
        return;
    }
    migration->file_bytes = machine_export_usage(export);
    machine_export_free(export);
}

static void on_asked(const struct error *error, int status, struct buffer *answer, void *context)
{
    struct migration *migration = context;
    const struct machine *machine = migration->machine;
    migration->call = NULL;
    if (error != NULL) {
        migration->error = *error;
    } else if (status >= 300) {
        migration_take_problem(migration, status, answer, &migration->error);
    } else if (migration->is_snapshot &&
               (machine->vm == NULL || machine->state != MACHINE_RUNNING)) {
        error_set(&migration->error, ERROR_CONFLICT, "machine %s has ended", machine->name);
    }
    if (migration->error.kind != ERROR_NONE) {
        migration_end(migration);
    } else {
        migration->on_welcome(migration);
    }
}

void migration_ask(struct migration *migration, void (*done)(struct migration *migration))
{
    const struct machine *machine = migration->machine;
    migration->on_welcome = done;
    transfer_pack(migration->machine, kind_of(migration), migration->files, migration->file_count,
                  on_counted, migration);
    if (migration->error.kind != ERROR_NONE) {
        migration_end(migration);
        return;
    }
    MEMORY_OWNED char *text = memory_format("node %s is asked", migration->target);
    operation_progress(migration->service->options.operations, migration->operation, 2, text);
    json_t *body = json_pack("{s:b}", "is_question", 1);
    if (migration->is_snapshot) {
        migration->file_bytes += json_u64(machine->config, "memory_bytes");
        json_object_set_new(body, "vmm", live_vmm(machine));
    }
    migration_tell_target(migration, body, ASK_MS, on_asked);
}

/* ---- Packing ---- */

static void pack(void *context)
{
    struct migration *migration = context;
    struct machine_service *service = migration->service;
    struct error *err = &migration->error;
    int r = migration->is_marked ? 0 : migration_write_mark(migration, err);
    migration->is_marked = true;
    r = r < 0 || migration->writer != NULL
        ? r
        : image_writer_new(service->options.images, &migration->writer, err);
    for (int i = 0; i < STEPS_AT_ONCE && r == 0 && !migration->is_packed; i++) {
        BUFFER_OWNED struct buffer piece = {0};
        int more = machine_export_step(migration->export, &piece, err);
        r = more < 0 ? more : image_writer_add(migration->writer, piece.data, piece.used, err);
        migration->bytes += piece.used;
        migration->is_packed = more == 0;
    }
    if (r == 0 && migration->is_packed) {
        struct image_writer *writer = migration->writer;
        migration->writer = NULL;
        if (image_writer_finish(writer, migration->blob, &migration->blob_bytes, err) < 0) {
            migration->blob[0] = '\0';
        } else {
            free(migration_mark(service, migration->blob));
        }
    }
}

static void end_packing(struct migration *migration)
{
    if (migration->error.kind == ERROR_FULL) {
        migration_name_full(migration, migration->service->node_name, &migration->error);
    }
    migration->is_packing = false;
    migration->on_packed(migration);
}

static void on_worked(void *context)
{
    struct migration *migration = context;
    bool is_good = migration->error.kind == ERROR_NONE && !migration->is_given_up;
    if (is_good && !migration->is_packed) {
        MEMORY_OWNED char *text = memory_format("%" PRIu64 " MiB packed", migration->bytes >> 20);
        operation_progress(migration->service->options.operations, migration->operation, 25, text);
        loop_work(migration->service->options.loop, pack, on_worked, migration);
        return;
    }
    machine_export_free(migration->export);
    migration->export = NULL;
    end_packing(migration);
}

static void on_exported(const struct error *error, struct machine_export *export, void *context)
{
    struct migration *migration = context;
    if (error != NULL && migration->error.kind == ERROR_NONE) {
        migration->error = *error;
    }
    if (export != NULL && migration->is_given_up) {
        machine_export_free(export);
        export = NULL;
    }
    if (export == NULL) {
        end_packing(migration);
        return;
    }
    migration->export = export;
    migration->file_bytes = machine_export_usage(export);
    loop_work(migration->service->options.loop, pack, on_worked, migration);
}

void migration_pack(struct migration *migration, void (*done)(struct migration *migration))
{
    migration->on_packed = done;
    migration->is_packing = true;
    transfer_pack(migration->machine, kind_of(migration), migration->files, migration->file_count,
                  on_exported, migration);
}

/* ---- Beginning ---- */

int migration_check_busy(const struct machine *machine, struct error *err)
{
    struct machine_service *service = machine->service;
    if (machine->capture != NULL || machine->restore != NULL || machine->migration != NULL ||
        machine->plugging != NULL || machine->is_busy || machine->held > 0) {
        return error_set(err, ERROR_CONFLICT,
                         "something else is being done to machine %s: try again in a moment",
                         machine->name);
    }
    return volume_move_check(service->options.volumes, machine->project, machine->name, err);
}

static int check_way(const struct migration *migration, const struct machine *machine,
                     struct error *err)
{
    if (runner_refuse(machine->config, "move to another node", err) < 0) {
        return -(int)err->kind;
    }
    int r = migration->is_live ? live_check(machine, migration->is_snapshot, err)
                               : cold_check(machine, err);
    return r < 0
        ? r
        : devices_check(machine->service, machine->config, machine->id, migration->target, err);
}

/* Without a word about it, one that runs moves while it runs. */
static int choose_way(struct migration *migration, const struct machine *machine,
                      const json_t *body, struct error *err)
{
    const json_t *live = json_object_get(body, "live");
    const struct hypervisor_driver_info *driver = hypervisor_driver_info(
        machine->service->options.hypervisor, json_text(machine->config, "driver"));
    bool is_snapshot = json_is_true(json_object_get(body, "snapshot"));
    bool runs = machine->state == MACHINE_RUNNING;
    bool is_automatic = live == NULL && runs && !driver->can_migrate && driver->can_snapshot;
    migration->is_snapshot = is_snapshot || is_automatic;
    migration->is_live = migration->is_snapshot || (live != NULL ? json_is_true(live) : runs);
    if (is_snapshot && live != NULL) {
        return error_set(err, ERROR_INVALID, "live and snapshot exclude each other");
    }
    migration->downtime_ms = json_u64(body, "downtime_ms");
    migration->downtime_ms = migration->downtime_ms > 0 ? migration->downtime_ms : DOWNTIME_MS;
    migration->bytes_per_second = json_u64(body, "bytes_per_second");
    if (migration->downtime_ms > DOWNTIME_MAX_MS) {
        return error_set(err, ERROR_INVALID, "downtime_ms is at most %d", DOWNTIME_MAX_MS);
    }
    if (migration->bytes_per_second > INT64_MAX) {
        return error_set(err, ERROR_INVALID, "bytes_per_second is too large");
    }
    return check_way(migration, machine, err);
}

static int choose_node(const struct machine_service *service, const char *name,
                       struct migration *migration, struct error *err)
{
    const struct cluster_node *found = NULL;
    struct cluster_view *view = peer_view(service->options.peers);
    for (size_t i = 0; view != NULL && i < view->count && found == NULL; i++) {
        const struct cluster_node *node = &view->nodes[i];
        bool fits = name[0] != '\0'
            ? strcmp(node->name, name) == 0
            : !node->is_self && node->health == CLUSTER_HEALTHY && node->duty == CLUSTER_ACTIVE;
        found = fits ? node : NULL;
    }
    int r = 0;
    if (strcmp(name, service->node_name) == 0) {
        r = error_set(err, ERROR_INVALID, "the machine is on node %.63s already", name);
    } else if (found == NULL) {
        r = name[0] != '\0'
            ? error_set(err, ERROR_NOT_FOUND, "there is no node %.63s", name)
            : error_set(err, ERROR_UNAVAILABLE, "there is no other healthy node that takes work");
    } else if (found->health == CLUSTER_LOST) {
        r = error_set(err, ERROR_UNAVAILABLE, "node %.63s is lost", name);
    } else if (found->duty == CLUSTER_DRAINING || found->duty == CLUSTER_DRAINED) {
        r = error_set(err, ERROR_CONFLICT, "node %.63s is %s", name,
                      cluster_duty_text(found->duty));
    } else {
        migration->node = found->id;
        snprintf(migration->target, sizeof(migration->target), "%s", found->name);
    }
    if (view != NULL) {
        cluster_view_unref(view);
    }
    return r;
}

static void hold_volumes(struct migration *migration)
{
    const struct machine *machine = migration->machine;
    struct volume_service *volumes = migration->service->options.volumes;
    if (volume_move_files(volumes, machine->project, machine->name, &migration->files,
                          &migration->file_count, &migration->error) == 0 &&
        volume_move_divide(volumes, machine->project, machine->name, migration->files,
                           migration->file_count, &migration->error) == 0) {
        migration->holds_volumes = true;
        volume_move_hold(volumes, machine->project, machine->name, true);
    }
}

static void on_row_there(const struct error *error, uint64_t index, void *context)
{
    struct migration *migration = context;
    struct machine_service *service = migration->service;
    struct machine *machine = migration->machine;
    (void)index;
    if (!operation_tell(service->options.operations, migration->operation, error, migration->done,
                        migration->context)) {
        free_migration(migration);
        return;
    }
    machine->held--; /* by this migration alone, that is */
    if (machine->is_gone || service->is_over) {
        error_set(&migration->error, ERROR_CANCELLED, "the machine or its node is gone");
    } else if (check_way(migration, machine, &migration->error) == 0) {
        hold_volumes(migration);
    }
    machine->held++;
    if (migration->error.kind != ERROR_NONE) {
        operation_fail(service->options.operations, migration->operation, &migration->error);
        free_migration(migration);
        return;
    }
    operation_on_cancel(service->options.operations, migration->operation, on_cancel, migration);
    loop_timer_start(migration->timer, migration->timeout_ms);
    machine->migration = migration;
    migration->runs_after = !migration->is_live && machine->desired == MACHINE_DESIRED_RUNNING;
    if (migration->is_live && !migration->is_snapshot) {
        live_begin(migration); /* nothing stands still before the other node is ready */
    } else {
        migration_ask(migration, migration->is_live ? live_begin : cold_begin);
    }
}

void machine_migrate(struct machine_service *service, const char *project, const char *name,
                     const json_t *body, machine_begun *done, void *context)
{
    struct error err = {0};
    struct machine *machine = NULL;
    struct migration *migration = NEW(struct migration);
    uint64_t timeout_ms = json_u64(body, "timeout_ms");
    int r = request_find(service, project, name, &machine, &err);
    r = r < 0 ? r : choose_node(service, json_text(body, "to"), migration, &err);
    r = r < 0 ? r : choose_way(migration, machine, body, &err);
    if (r == 0 && timeout_ms > TIMEOUT_MAX_MS) {
        r = error_set(&err, ERROR_INVALID, "timeout_ms is at most a week");
    } else if (r == 0 && !snapshot_is_known(service)) {
        r = error_set(&err, ERROR_UNSUPPORTED, "not all nodes know this yet: upgrade them first");
    }
    if (r < 0) {
        free(migration);
        machine_answer(service, &err, done, NULL, context);
        return;
    }
    migration->service = service;
    migration->machine = machine;
    migration->timeout_ms = timeout_ms > 0 ? timeout_ms : TIMEOUT_MS;
    migration->timer = loop_timer_new(service->options.loop, on_timeout, migration);
    migration->done = done;
    migration->context = context;
    machine->held++;
    service->pending++;
    MEMORY_OWNED char *resource = memory_format("machines/%s", name);
    const struct operation_start start = {
        .kind = "machine.migrate", .project = project, .resource = resource};
    struct store_command *command = store_command_new();
    operation_add(service->options.operations, command, &start, migration->operation);
    store_propose(service->options.store, command, on_row_there, migration);
}

/* ---- Facts ---- */

void migration_write_metrics(struct machine_service *service, bool is_openmetrics,
                             struct buffer *out)
{
    static const char *const results[] = {"moved", "failed"};
    const char *ending = is_openmetrics ? "" : "_total";
    buffer_append_format(out,
                         "# HELP blixard_machine_migrations%s Machines moved away from this node, "
                         "and those that were not.\n# TYPE blixard_machine_migrations%s counter\n",
                         ending, ending);
    for (int i = 0; i < 2; i++) {
        buffer_append_format(out, "blixard_machine_migrations_total{result=\"%s\"} %" PRIu64 "\n",
                             results[i], service->migrations[i]);
    }
    buffer_append_format(out,
                         "# HELP blixard_machine_migrated_bytes%s Sent with machines that moved.\n"
                         "# TYPE blixard_machine_migrated_bytes%s counter\n"
                         "blixard_machine_migrated_bytes_total %" PRIu64 "\n",
                         ending, ending, service->migrated_bytes);
}
