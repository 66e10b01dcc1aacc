/* Snapshots: a name for the layer that was written until now. */
#include <stdio.h>
#include <string.h>

#include "base/buffer.h"
#include "base/clock.h"
#include "base/memory.h"
#include "base/random.h"
#include "base/text.h"

#include "engine/store/store.h"

#include "service/volume/asking.h"
#include "service/volume/parts.h"

/* ---- Making one ---- */

int volume_snapshot_check(struct volume_service *service, const struct volume *volume,
                          const char *snapshot, struct error *err)
{
    struct volume_link chain[VOLUME_LAYERS_MAX];
    size_t count = 0;
    MEMORY_OWNED char *there = NULL;
    MEMORY_OWNED char *key = memory_format("%s/%s", volume->key, snapshot);
    if (!text_is_name(snapshot)) {
        return error_set(err, ERROR_INVALID,
                         "\"%.64s\" is no name: 1 to 63 of a-z, 0-9 and '-', beginning with a "
                         "letter",
                         snapshot);
    }
    int r = volume_query_text(service, &there, err, "SELECT key FROM volume_snapshot WHERE key = ?",
                              key);
    if (r == 0 && there != NULL) {
        return error_set(err, ERROR_EXISTS, "volume %s has a snapshot %s already", volume->name,
                         snapshot);
    }
    r = r < 0 ? r : volume_chain(service, volume->layer, chain, &count, err);
    if (r == 0 && count >= VOLUME_LAYERS_MAX - 1) {
        return error_set(
            err, ERROR_LIMIT,
            "volume %s lies on %zu layers, which is as many as there may be: snapshots "
            "and clones add one each; copy it into a new volume",
            volume->name, count);
    }
    return r < 0 ? r : volume_check_size(service->folder, volume->size_bytes, err);
}

void volume_add_layer(struct store_command *command, const struct volume *volume, const char *layer,
                      const char *below, const char *state, uint64_t size_bytes)
{
    store_command_add(command,
                      "INSERT INTO volume_layer (key, node, format, below, created_ms, revision) "
                      "VALUES (?, ?, 'qcow2', ?, ?, ?)",
                      "tttur", layer, volume->service->node_name, below, clock_real_ms());
    store_command_add_expecting(
        command, ERROR_CONFLICT, "the volume was changed at the same moment: try it again",
        "UPDATE volume SET state = ?, next_layer = ?, next_size = nullif(?, 0), reason = NULL, "
        "revision = ? WHERE key = ? AND id = ? AND state = 'ready' AND layer = ?",
        "tturttt", state, layer, size_bytes, volume->key, volume->id, volume->layer);
}

void volume_add_snapshot(struct store_command *command, const struct volume *volume,
                         const char *snapshot)
{
    char layer[VOLUME_ID_SIZE];
    MEMORY_OWNED char *key = memory_format("%s/%s", volume->key, snapshot);
    random_hex(layer, VOLUME_ID_SIZE - 1);
    volume_add_layer(command, volume, layer, volume->layer, "laying", 0);
    store_command_add(command,
                      "INSERT INTO volume_snapshot (key, project, volume, name, layer, size_bytes, "
                      "state, created_ms, revision) VALUES (?, ?, ?, ?, ?, ?, 'creating', ?, ?)",
                      "tttttuur", key, volume->project, volume->key, snapshot, volume->layer,
                      volume->size_bytes, clock_real_ms());
}

void volume_snapshot_create(struct volume_service *service, const char *project, const char *name,
                            const char *snapshot, volume_begun *done, void *context)
{
    struct error err = {0};
    struct volume *volume = NULL;
    int r = volume_find_ready(service, project, name, &volume, &err);
    r = r < 0 ? r : volume_snapshot_check(service, volume, snapshot, &err);
    if (r < 0) {
        volume_refuse(service, &err, done, context);
        return;
    }
    struct store_command *command = store_command_new();
    volume_add_snapshot(command, volume, snapshot);
    const struct volume_question question = {
        .kind = "volume.snapshot", .project = project, .name = name, .asked = VOLUME_ASKED_WORK};
    volume_ask(service, command, &question, done, context);
}

/* ---- One that is there ---- */

struct row {
    char layer[VOLUME_ID_SIZE];
    uint64_t size_bytes;
    bool is_found;
};

static bool take(sqlite3_stmt *statement, void *context)
{
    struct row *row = context;
    row->is_found = true;
    snprintf(row->layer, sizeof(row->layer), "%s", (const char *)sqlite3_column_text(statement, 0));
    row->size_bytes = (uint64_t)sqlite3_column_int64(statement, 1);
    return false;
}

static int find(struct volume_service *service, const struct volume *volume, const char *snapshot,
                struct row *ret_row, struct error *err)
{
    MEMORY_OWNED char *key = memory_format("%s/%s", volume->key, snapshot);
    int r = store_query(service->options.store, err, take, ret_row,
                        "SELECT layer, size_bytes FROM volume_snapshot WHERE key = ?", "t", key);
    return r < 0 || ret_row->is_found
        ? r
        : error_set(err, ERROR_NOT_FOUND,
                    "volume %s has no snapshot %.64s; see `blixard volume snapshot list %s`",
                    volume->name, snapshot, volume->name);
}

static int check_clones(struct volume_service *service, const struct row *row, const char *snapshot,
                        struct error *err)
{
    BUFFER_OWNED struct buffer names = {0};
    int r = volume_names(service, &names, err,
                         "SELECT name FROM volume WHERE origin = ? ORDER BY name", row->layer);
    return r < 0 || names.used == 0
        ? r
        : error_set(err, ERROR_CONFLICT, "snapshot %s has clones: %.300s; delete them first",
                    snapshot, buffer_string(&names));
}

/* What a snapshot of a machine needs. */
static int check_machines(struct volume_service *service, const char *snapshot, struct error *err)
{
    MEMORY_OWNED char *of = NULL;
    int r = volume_query_text(service, &of, err,
                              "SELECT machine || ' ' || name FROM machine_snapshot WHERE "
                              "'" VOLUME_KEPT_PREFIX "' || id = ?",
                              snapshot);
    return r < 0 || of == NULL
        ? r
        : error_set(err, ERROR_CONFLICT,
                    "it belongs to a snapshot of a machine, and goes with that: `blixard vm "
                    "snapshot delete %s`",
                    of);
}

/* The file stays as long as something lies over it. */
void volume_snapshot_delete(struct volume_service *service, const char *project, const char *name,
                            const char *snapshot, volume_begun *done, void *context)
{
    struct error err = {0};
    struct volume *volume = NULL;
    struct row row = {0};
    int r = volume_find_ready(service, project, name, &volume, &err);
    r = r < 0 ? r : find(service, volume, snapshot, &row, &err);
    r = r < 0 ? r : check_machines(service, snapshot, &err);
    r = r < 0 ? r : check_clones(service, &row, snapshot, &err);
    if (r < 0) {
        volume_refuse(service, &err, done, context);
        return;
    }
    struct store_command *command = store_command_new();
    MEMORY_OWNED char *key = memory_format("%s/%s", volume->key, snapshot);
    store_command_add_expecting(
        command, ERROR_CONFLICT, "the snapshot was cloned or deleted at the same moment",
        "DELETE FROM volume_snapshot WHERE key = ?1 AND NOT EXISTS (SELECT 1 FROM volume WHERE "
        "origin = ?2)",
        "tt", key, row.layer);
    const struct volume_question question = {.kind = "volume.snapshot.delete",
                                             .project = project,
                                             .name = name,
                                             .asked = VOLUME_ASKED_REMOVAL};
    volume_ask(service, command, &question, done, context);
}

static int check_restore(struct volume *volume, struct error *err)
{
    struct hypervisor_vm *vm = NULL;
    struct agent *agent = NULL;
    return volume_look(volume, &vm, &agent) == VOLUME_MACHINE_OFF
        ? 0
        : error_set(err, ERROR_CONFLICT,
                    "machine %s runs with volume %s: stop it, or detach the volume, before what is "
                    "in it becomes something else",
                    volume->machine, volume->name);
}

void volume_snapshot_restore(struct volume_service *service, const char *project, const char *name,
                             const char *snapshot, volume_begun *done, void *context)
{
    struct error err = {0};
    struct volume *volume = NULL;
    struct row row = {0};
    char layer[VOLUME_ID_SIZE];
    int r = volume_find_ready(service, project, name, &volume, &err);
    r = r < 0 ? r : find(service, volume, snapshot, &row, &err);
    r = r < 0 ? r : check_restore(volume, &err);
    if (r < 0) {
        volume_refuse(service, &err, done, context);
        return;
    }
    struct store_command *command = store_command_new();
    random_hex(layer, VOLUME_ID_SIZE - 1);
    volume_add_layer(command, volume, layer, row.layer, "restoring", row.size_bytes);
    const struct volume_question question = {
        .kind = "volume.restore", .project = project, .name = name, .asked = VOLUME_ASKED_WORK};
    volume_ask(service, command, &question, done, context);
}
