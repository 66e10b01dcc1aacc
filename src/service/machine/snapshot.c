/*
 * Snapshots of machines: a row that says so from the beginning, files below
 * FOLDER/snapshots/MACHINE-ID/ID, and 'ready' when both are complete.  They do not change.
 */
#include "service/machine/snapshot.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/buffer.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/loop/loop.h"
#include "base/memory.h"
#include "base/random.h"
#include "base/text.h"

#include "engine/store/store.h"

#include "service/machine/capture.h"
#include "service/machine/volumes.h"
#include "service/volume/volume.h"

char *snapshot_folder_all(const struct machine_service *service, const char *machine_id)
{
    return memory_format("%s/snapshots/%s", service->folder, machine_id);
}

char *snapshot_folder(const struct machine_service *service, const char *machine_id, const char *id)
{
    return memory_format("%s/snapshots/%s/%s", service->folder, machine_id, id);
}

void snapshot_name_volumes(const char *id, char ret_name[VOLUME_KEPT_SIZE])
{
    snprintf(ret_name, VOLUME_KEPT_SIZE, VOLUME_KEPT_PREFIX "%.16s", id);
}

bool snapshot_is_known(struct machine_service *service)
{
    return store_schema_now(service->options.store) >= SNAPSHOT_SCHEMA;
}

static int check_known(struct machine_service *service, struct error *err)
{
    return snapshot_is_known(service)
        ? 0
        : error_set(err, ERROR_UNSUPPORTED, "not all nodes know snapshots yet: upgrade them first");
}

/* ---- Looking ---- */

struct looking {
    struct snapshot *snapshot;
    bool is_there;
};

static bool take_snapshot(sqlite3_stmt *row, void *context)
{
    struct looking *looking = context;
    struct snapshot *snapshot = looking->snapshot;
    looking->is_there = true;
    snprintf(snapshot->id, sizeof(snapshot->id), "%s", (const char *)sqlite3_column_text(row, 0));
    snprintf(snapshot->machine_id, sizeof(snapshot->machine_id), "%s",
             (const char *)sqlite3_column_text(row, 1));
    snapshot->is_ready = strcmp((const char *)sqlite3_column_text(row, 2), "ready") == 0;
    snapshot->has_memory = sqlite3_column_int(row, 3) != 0;
    return true;
}

static int look_up(struct machine_service *service, const struct machine *machine, const char *name,
                   struct snapshot *ret_snapshot, struct error *err)
{
    struct looking looking = {ret_snapshot, false};
    MEMORY_OWNED char *key = memory_format("%s/%s", machine->key, name);
    int r = check_known(service, err);
    r = r < 0 ? r
              : store_query(service->options.store, err, take_snapshot, &looking,
                            "SELECT id, machine_id, state, has_memory FROM machine_snapshot "
                            "WHERE key = ? AND machine_id = ?",
                            "tt", key, machine->id);
    return r < 0 || looking.is_there
        ? r
        : error_set(err, ERROR_NOT_FOUND,
                    "machine %s has no snapshot %.64s; see `blixard vm snapshot list %s`",
                    machine->name, name, machine->name);
}

int snapshot_find(struct machine_service *service, const struct machine *machine, const char *name,
                  struct snapshot *ret_snapshot, struct error *err)
{
    int r = look_up(service, machine, name, ret_snapshot, err);
    return r < 0 || ret_snapshot->is_ready
        ? r
        : error_set(err, ERROR_CONFLICT, "snapshot %s of machine %s is still being made", name,
                    machine->name);
}

#define SELECT                                                                               \
    "SELECT name, machine, id, node, state, has_memory, size_bytes, created_ms, (SELECT "    \
    "json_group_array(substr(volume, instr(volume, '/') + 1)) FROM volume_snapshot AS kept " \
    "WHERE kept.name = '" VOLUME_KEPT_PREFIX "' || machine_snapshot.id) FROM machine_snapshot "

struct writing {
    struct json_writer writer;
    size_t count;
};

static bool write_row(sqlite3_stmt *row, void *context)
{
    struct writing *writing = context;
    struct json_writer *writer = &writing->writer;
    writing->count++;
    json_write_begin_object(writer);
    json_write_field_string(writer, "name", (const char *)sqlite3_column_text(row, 0));
    json_write_field_string(writer, "machine", (const char *)sqlite3_column_text(row, 1));
    json_write_field_string(writer, "id", (const char *)sqlite3_column_text(row, 2));
    json_write_field_string(writer, "node", (const char *)sqlite3_column_text(row, 3));
    json_write_field_string(writer, "state", (const char *)sqlite3_column_text(row, 4));
    json_write_field_bool(writer, "memory", sqlite3_column_int(row, 5) != 0);
    json_write_key(writer, "volumes");
    json_write_raw(writer, store_text(row, 8), strlen(store_text(row, 8)));
    json_write_field_u64(writer, "size_bytes", (uint64_t)sqlite3_column_int64(row, 6));
    json_write_field_time_ms(writer, "created_at", (uint64_t)sqlite3_column_int64(row, 7));
    json_write_end_object(writer);
    return true;
}

int machine_snapshot_write(struct machine_service *service, const char *project, const char *name,
                           const char *snapshot, struct buffer *out, struct error *err)
{
    struct writing writing = {json_writer_to(out), 0};
    MEMORY_OWNED char *key = memory_format("%s/%s/%s", project, name, snapshot);
    int r = check_known(service, err);
    r = r < 0 ? r
              : store_query(service->options.store, err, write_row, &writing,
                            SELECT "WHERE key = ?", "t", key);
    return r < 0 || writing.count > 0
        ? r
        : error_set(err, ERROR_NOT_FOUND,
                    "machine %.64s has no snapshot %.64s; see `blixard vm snapshot list %.64s`",
                    name, snapshot, name);
}

int machine_snapshot_write_list(struct machine_service *service, const char *project,
                                const char *name, struct buffer *out, struct error *err)
{
    struct writing writing = {json_writer_to(out), 0};
    MEMORY_OWNED char *node = NULL;
    int r = machine_node(service, project, name, &node, err);
    json_write_begin_object(&writing.writer);
    json_write_key(&writing.writer, "snapshots");
    json_write_begin_array(&writing.writer);
    if (r == 0 && snapshot_is_known(service)) {
        r = store_query(service->options.store, err, write_row, &writing,
                        SELECT "WHERE project = ? AND machine = ? ORDER BY created_ms, name", "tt",
                        project, name);
    }
    json_write_end_array(&writing.writer);
    json_write_end_object(&writing.writer);
    return r;
}

/* ---- Making ---- */

struct taking {
    struct machine_service *service;
    struct machine *machine; /* held */
    enum capture_kind kind;
    char *name;
    char *folder;
    char volumes[VOLUME_KEPT_SIZE]; /* the name of their snapshots; "": they are not kept */
    char id[MACHINE_ID_SIZE];
    char operation[OPERATION_ID_SIZE];
    machine_begun *done;
    void *context;
};

static void end_taking(struct taking *taking)
{
    struct machine *machine = taking->machine;
    taking->service->pending--;
    machine->held--;
    machine_unref(machine);
    free(taking->name);
    free(taking->folder);
    free(taking);
}

static void on_end_written(const struct error *error, uint64_t index, void *context)
{
    struct taking *taking = context;
    (void)index;
    if (error != NULL) {
        log_warn("machine %s: snapshot %s: %s", taking->machine->key, taking->name, error->text);
        operation_fail(taking->service->options.operations, taking->operation, error);
    }
    end_taking(taking);
}

static void on_captured(const struct error *error, uint64_t bytes, void *context)
{
    struct taking *taking = context;
    struct machine_service *service = taking->service;
    struct store_command *command = store_command_new();
    if (error != NULL) {
        log_warn("machine %s: snapshot %s: %s", taking->machine->key, taking->name, error->text);
        operation_fail(service->options.operations, taking->operation, error);
        store_command_add(command, "DELETE FROM machine_snapshot WHERE id = ?", "t", taking->id);
    } else {
        store_command_add_expecting(command, ERROR_NOT_FOUND, "the machine was deleted meanwhile",
                                    "UPDATE machine_snapshot SET state = 'ready', size_bytes = ?, "
                                    "revision = ? WHERE id = ?",
                                    "urt", bytes, taking->id);
        operation_add_success(service->options.operations, command, taking->operation, NULL);
    }
    store_propose(service->options.store, command, on_end_written, taking);
}

static void on_row_there(const struct error *error, uint64_t index, void *context)
{
    struct taking *taking = context;
    struct machine_service *service = taking->service;
    struct error err = {0};
    (void)index;
    if (!operation_tell(service->options.operations, taking->operation, error, taking->done,
                        taking->context)) {
        end_taking(taking);
        return;
    }
    if (taking->machine->is_gone) {
        error_set(&err, ERROR_NOT_FOUND, "the machine was deleted meanwhile");
        on_captured(&err, 0, taking);
    } else if (capture_check(taking->machine, taking->kind, &err) < 0) {
        on_captured(&err, 0, taking);
    } else {
        capture_begin(taking->machine, taking->kind, taking->folder,
                      taking->volumes[0] != '\0' ? taking->volumes : NULL, on_captured, taking);
    }
}

/* The number behind the last "snapN"; and no more than SNAPSHOTS_MAX. */
static int choose_name(struct machine_service *service, const struct machine *machine,
                       const json_t *create, char **ret_name, struct error *err)
{
    const char *given = json_text(create, "name");
    uint64_t count = 0;
    uint64_t next = 0;
    int r =
        store_query(service->options.store, err, store_take_u64, &count,
                    "SELECT count(*) FROM machine_snapshot WHERE machine_id = ?", "t", machine->id);
    r = r < 0 ? r
              : store_query(service->options.store, err, store_take_u64, &next,
                            "SELECT coalesce(max(CAST(substr(name, 5) AS INTEGER)) + 1, 0) FROM "
                            "machine_snapshot WHERE machine_id = ? AND name GLOB 'snap[0-9]*'",
                            "t", machine->id);
    if (r == 0 && count >= SNAPSHOTS_MAX) {
        return error_set(err, ERROR_LIMIT, "machine %s has %d snapshots: delete some",
                         machine->name, SNAPSHOTS_MAX);
    }
    if (r == 0 && given[0] != '\0' && !text_is_name(given)) {
        return error_set(err, ERROR_INVALID,
                         "\"%.64s\" is no name: 1 to 63 of a-z, 0-9 and '-', beginning with a "
                         "letter",
                         given);
    }
    if (r == 0) {
        *ret_name =
            given[0] != '\0' ? memory_copy_string(given) : memory_format("snap%" PRIu64, next);
    }
    return r;
}

static int choose_kind(const struct machine *machine, const json_t *create,
                       enum capture_kind *ret_kind, struct error *err)
{
    bool wants_memory = json_is_true(json_object_get(create, "memory"));
    bool wants_disk = json_is_true(json_object_get(create, "disk_only"));
    if (wants_memory && wants_disk) {
        return error_set(err, ERROR_INVALID, "either memory or disk_only, not both");
    }
    bool has_memory = machine_state_is_alive(machine->state);
    *ret_kind = wants_memory || (has_memory && !wants_disk) ? CAPTURE_MEMORY : CAPTURE_DISK;
    return capture_check(machine, *ret_kind, err);
}

static void add_row(struct store_command *command, const struct taking *taking, uint64_t now_ms)
{
    const struct machine *machine = taking->machine;
    MEMORY_OWNED char *key = memory_format("%s/%s", machine->key, taking->name);
    MEMORY_OWNED char *exists =
        memory_format("machine %s has a snapshot %s already", machine->name, taking->name);
    store_command_add_expecting(
        command, ERROR_EXISTS, exists,
        "INSERT INTO machine_snapshot (key, project, machine, machine_id, name, id, node, state, "
        "has_memory, size_bytes, created_ms, revision) SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, "
        "'creating', ?8, 0, ?9, ?10 WHERE NOT EXISTS (SELECT 1 FROM machine_snapshot WHERE key = "
        "?1)",
        "tttttttuur", key, machine->project, machine->name, machine->id, taking->name, taking->id,
        taking->service->node_name, (uint64_t)(taking->kind == CAPTURE_MEMORY), now_ms);
}

void machine_snapshot_create(struct machine_service *service, const char *project, const char *name,
                             const json_t *create, machine_begun *done, void *context)
{
    struct error err = {0};
    struct machine *machine = NULL;
    enum capture_kind kind = CAPTURE_DISK;
    char *snapshot = NULL;
    int r = request_find(service, project, name, &machine, &err);
    r = r < 0 ? r : check_known(service, &err);
    r = r < 0 ? r : choose_kind(machine, create, &kind, &err);
    bool has_volumes = r == 0 && machine_volumes_are_there(machine) &&
        !json_is_true(json_object_get(create, "disk_only"));
    r = r < 0 || !has_volumes ? r : capture_check_volumes(machine, VOLUME_KEPT_PREFIX "0", &err);
    r = r < 0 ? r : choose_name(service, machine, create, &snapshot, &err);
    if (r < 0) {
        machine_answer(service, &err, done, NULL, context);
        return;
    }
    struct taking *taking = NEW(struct taking);
    *taking = (struct taking){.service = service,
                              .machine = machine,
                              .kind = kind,
                              .name = snapshot,
                              .done = done,
                              .context = context};
    random_hex(taking->id, MACHINE_ID_SIZE - 1);
    taking->folder = snapshot_folder(service, machine->id, taking->id);
    if (has_volumes) {
        snapshot_name_volumes(taking->id, taking->volumes);
    }
    machine->held++;
    MEMORY_OWNED char *resource = memory_format("machines/%s/snapshots/%s", name, snapshot);
    const struct operation_start start = {
        .kind = "machine.snapshot", .project = project, .resource = resource};
    struct store_command *command = store_command_new();
    add_row(command, taking, clock_real_ms());
    operation_add(service->options.operations, command, &start, taking->operation);
    service->pending++;
    store_propose(service->options.store, command, on_row_there, taking);
}

/* ---- Deleting ---- */

struct deleting {
    struct machine_service *service;
    struct snapshot snapshot;
    char *folder;
    struct error error;
    machine_done *done;
    void *context;
};

static void remove_files(void *context)
{
    struct deleting *deleting = context;
    file_remove_tree(deleting->folder, &deleting->error);
}

static void on_deleted(const struct error *error, uint64_t index, void *context)
{
    struct deleting *deleting = context;
    deleting->service->pending--;
    volume_tidy(deleting->service->options.volumes);
    deleting->done(error, index, deleting->context);
    free(deleting->folder);
    free(deleting);
}

/* The row goes last: what is left of one that could not be removed can be deleted again. */
static void on_files_removed(void *context)
{
    struct deleting *deleting = context;
    if (deleting->error.kind != ERROR_NONE) {
        on_deleted(&deleting->error, 0, deleting);
        return;
    }
    struct store_command *command = store_command_new();
    char volumes[VOLUME_KEPT_SIZE];
    snapshot_name_volumes(deleting->snapshot.id, volumes);
    volume_add_forget_kept(deleting->service->options.volumes, volumes, command);
    store_command_add(command, "DELETE FROM machine_snapshot WHERE id = ?", "t",
                      deleting->snapshot.id);
    store_propose(deleting->service->options.store, command, on_deleted, deleting);
}

void machine_snapshot_delete(struct machine_service *service, const char *project, const char *name,
                             const char *snapshot, machine_done *done, void *context)
{
    struct error err = {0};
    struct machine *machine = NULL;
    struct snapshot found;
    int r = request_find(service, project, name, &machine, &err);
    r = r < 0 ? r : look_up(service, machine, snapshot, &found, &err);
    if (r == 0 && !found.is_ready && machine->capture != NULL) {
        r = error_set(&err, ERROR_CONFLICT, "snapshot %s is still being made", snapshot);
    }
    if (r < 0) {
        machine_answer(service, &err, NULL, done, context);
        return;
    }
    struct deleting *deleting = NEW(struct deleting);
    *deleting =
        (struct deleting){.service = service, .snapshot = found, .done = done, .context = context};
    deleting->folder = snapshot_folder(service, found.machine_id, found.id);
    service->pending++;
    loop_work(service->options.loop, remove_files, on_files_removed, deleting);
}

struct forgetting {
    struct machine_service *service;
    struct store_command *command;
};

static bool forget_volumes(sqlite3_stmt *row, void *context)
{
    const struct forgetting *forgetting = context;
    char volumes[VOLUME_KEPT_SIZE];
    snapshot_name_volumes(store_text(row, 0), volumes);
    volume_add_forget_kept(forgetting->service->options.volumes, volumes, forgetting->command);
    return true;
}

void snapshot_add_forget(struct machine_service *service, struct store_command *command,
                         const char *machine_id)
{
    struct error ignored = {0};
    struct forgetting forgetting = {service, command};
    if (snapshot_is_known(service)) {
        store_query(service->options.store, &ignored, forget_volumes, &forgetting,
                    "SELECT id FROM machine_snapshot WHERE machine_id = ?", "t", machine_id);
        store_command_add(command, "DELETE FROM machine_snapshot WHERE machine_id = ?", "t",
                          machine_id);
    }
}

/* ---- After a start of the node ---- */

static bool remove_unfinished(sqlite3_stmt *row, void *context)
{
    struct machine_service *service = context;
    struct error ignored = {0};
    MEMORY_OWNED char *folder = snapshot_folder(service, (const char *)sqlite3_column_text(row, 0),
                                                (const char *)sqlite3_column_text(row, 1));
    file_remove_tree(folder, &ignored);
    return true;
}

static void on_recovered(const struct error *error, uint64_t index, void *context)
{
    struct machine_service *service = context;
    (void)index;
    service->pending--;
    if (error != NULL) {
        log_warn("snapshots that were interrupted are still listed: %s", error->text);
    } else if (!service->is_over) {
        volume_tidy(service->options.volumes);
        clone_sweep_new(service); /* what was written before this is here now */
    }
}

void snapshot_recover(struct machine_service *service)
{
    struct error err = {0};
    if (!snapshot_is_known(service)) {
        return;
    }
    store_query(service->options.store, &err, remove_unfinished, service,
                "SELECT machine_id, id FROM machine_snapshot WHERE node = ? AND state = 'creating'",
                "t", service->node_name);
    struct store_command *command = store_command_new();
    struct forgetting forgetting = {service, command};
    store_query(service->options.store, &err, forget_volumes, &forgetting,
                "SELECT id FROM machine_snapshot WHERE node = ? AND state = 'creating'", "t",
                service->node_name);
    store_command_add(command, "DELETE FROM machine_snapshot WHERE node = ? AND state = 'creating'",
                      "t", service->node_name);
    service->pending++;
    store_propose(service->options.store, command, on_recovered, service);
}
