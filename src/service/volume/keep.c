/*
 * What a machine has of volumes, kept with it: snapshots of all of them by one name, while the
 * machine stands still; and the way back, into the same volumes or into clones of them.
 *
 * Snapshots are rows, and so is what becomes of them: each of these is one command, of all volumes
 * or of none.  What is done about the rows is work.c's affair, as ever.
 */
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "base/loop/loop.h"
#include "base/memory.h"
#include "base/text.h"

#include "engine/store/store.h"

#include "service/volume/asking.h"
#include "service/volume/parts.h"

struct volume_keeping {
    struct volume_service *service;
    char *project;
    char *machine; /* name */
    char *snapshot;
    bool is_written;
    size_t unmade; /* volumes without a file for their next layer, and the command */
    volume_kept *made;
    size_t waiting; /* volumes that are being laid over, and the command */
    struct error error;
    volume_kept *done;
    void *context;
};

/* ---- Keeping ---- */

static void on_forgotten(const struct error *error, uint64_t index, void *context)
{
    struct volume_service *service = context;
    (void)index;
    service->pending--;
    if (error != NULL) {
        log_warn("volumes: snapshots that nobody needs are still there: %s", error->text);
    } else {
        volume_collect(service);
    }
}

#define HAS_NO_CLONE "NOT EXISTS (SELECT 1 FROM volume WHERE origin = volume_snapshot.layer)"

/* The name may be one that other volumes have a snapshot of as well (for-NAME). */
void volume_forget_kept(struct volume_service *service, const char *project, const char *machine,
                        const char *snapshot)
{
    struct store_command *command = store_command_new();
    if (volume_schema_is_there(service)) {
        store_command_add(command,
                          "DELETE FROM volume_snapshot WHERE name = ? AND volume IN (SELECT key "
                          "FROM volume WHERE project = ? AND machine = ?) AND " HAS_NO_CLONE,
                          "ttt", snapshot, project, machine);
    }
    service->pending++;
    store_propose(service->options.store, command, on_forgotten, service);
}

void volume_add_forget_kept(struct volume_service *service, const char *snapshot,
                            struct store_command *command)
{
    if (volume_schema_is_there(service)) {
        store_command_add(command, "DELETE FROM volume_snapshot WHERE name = ? AND " HAS_NO_CLONE,
                          "t", snapshot);
    }
}

void volume_tidy(struct volume_service *service)
{
    volume_collect(service);
}

static void end_one(struct volume_keeping *keeping)
{
    keeping->waiting--;
    if (keeping->waiting > 0) {
        return;
    }
    if (keeping->error.kind != ERROR_NONE && keeping->is_written) {
        volume_forget_kept(keeping->service, keeping->project, keeping->machine, keeping->snapshot);
    }
    keeping->done(keeping->error.kind != ERROR_NONE ? &keeping->error : NULL, keeping->context);
    free(keeping->project);
    free(keeping->machine);
    free(keeping->snapshot);
    free(keeping);
}

static void tell_made(struct volume_keeping *keeping)
{
    keeping->unmade--;
    if (keeping->unmade == 0) {
        keeping->made(NULL, keeping->context);
    }
}

void volume_tell_made(struct volume *volume)
{
    if (volume->keeping != NULL && volume->is_unmade) {
        volume->is_unmade = false;
        tell_made(volume->keeping);
    }
}

void volume_tell_keeping(struct volume *volume, const struct error *error)
{
    struct volume_keeping *keeping = volume->keeping;
    if (keeping == NULL) {
        return;
    }
    volume->keeping = NULL;
    if (volume->is_unmade) {
        volume->is_unmade = false;
        tell_made(keeping);
    }
    if (error != NULL && keeping->error.kind == ERROR_NONE) {
        keeping->error = *error;
        error_wrap(&keeping->error, "volume %s", volume->name);
    }
    end_one(keeping);
}

/* The rows are there, and have been read: what they lead to has begun, or has ended. */
static void on_rows_there(const struct error *error, uint64_t index, void *context)
{
    struct volume_keeping *keeping = context;
    struct volume_service *service = keeping->service;
    (void)index;
    service->pending--;
    keeping->is_written = error == NULL;
    if (error != NULL) {
        keeping->error = *error;
    }
    LIST_EACH(node, &service->volumes)
    {
        struct volume *volume = LIST_ITEM(node, struct volume, link);
        if (volume->keeping == keeping && (error != NULL || volume->state == VOLUME_READY)) {
            volume_tell_keeping(volume, error);
        }
    }
    tell_made(keeping);
}

void volume_keep_now(struct volume_keeping *keeping)
{
    CHECK(keeping->unmade == 0);
    LIST_EACH(node, &keeping->service->volumes)
    {
        struct volume *volume = LIST_ITEM(node, struct volume, link);
        if (volume->keeping == keeping) {
            volume_work_go_on(volume);
        }
    }
    end_one(keeping);
}

static int each_of(struct volume_service *service, const char *project, const char *machine,
                   const char *snapshot, struct volume *ret_volumes[HYPERVISOR_VOLUMES_MAX],
                   size_t *ret_count, struct error *err)
{
    struct volume_attachment attachments[HYPERVISOR_VOLUMES_MAX];
    size_t count = volume_of_machine(service, project, machine, attachments);
    for (size_t i = 0; i < count; i++) {
        int r = volume_find_ready(service, project, attachments[i].use.name, &ret_volumes[i], err);
        r = r < 0 ? r : volume_snapshot_check(service, ret_volumes[i], snapshot, err);
        if (r < 0) {
            return r;
        }
    }
    *ret_count = count;
    return 0;
}

int volume_check_keep(struct volume_service *service, const char *project, const char *machine,
                      const char *snapshot, struct error *err)
{
    struct volume *volumes[HYPERVISOR_VOLUMES_MAX];
    size_t count = 0;
    return each_of(service, project, machine, snapshot, volumes, &count, err);
}

static void on_nothing(void *context)
{
    struct volume_keeping *keeping = context;
    keeping->service->pending--;
    tell_made(keeping);
}

struct volume_keeping *volume_keep(struct volume_service *service, const char *project,
                                   const char *machine, const char *snapshot, volume_kept *made,
                                   volume_kept *done, void *context)
{
    struct volume *volumes[HYPERVISOR_VOLUMES_MAX];
    size_t count = 0;
    struct volume_keeping *keeping = NEW(struct volume_keeping);
    *keeping = (struct volume_keeping){.service = service,
                                       .project = memory_copy_string(project),
                                       .machine = memory_copy_string(machine),
                                       .snapshot = memory_copy_string(snapshot),
                                       .waiting = 1,
                                       .unmade = 1,
                                       .made = made,
                                       .done = done,
                                       .context = context};
    service->pending++;
    if (each_of(service, project, machine, snapshot, volumes, &count, &keeping->error) < 0 ||
        count == 0) {
        loop_post(service->options.loop, on_nothing, keeping);
        return keeping;
    }
    struct store_command *command = store_command_new();
    for (size_t i = 0; i < count; i++) {
        volume_add_snapshot(command, volumes[i], snapshot);
        volumes[i]->keeping = keeping;
        volumes[i]->is_unmade = true;
        keeping->waiting++;
        keeping->unmade++;
    }
    store_propose(service->options.store, command, on_rows_there, keeping);
    return keeping;
}

void volume_describe_kept(struct volume_service *service, const char *project, const char *machine,
                          const char *snapshot, json_t *list)
{
    struct volume_attachment attachments[HYPERVISOR_VOLUMES_MAX];
    size_t count = volume_of_machine(service, project, machine, attachments);
    for (size_t i = 0; i < count; i++) {
        const struct volume_attachment *one = &attachments[i];
        const struct volume *volume = volume_find(service, project, one->use.name);
        json_array_append_new(
            list,
            json_pack("{s:s, s:s, s:i, s:s, s:b, s:I, s:s}", "name", one->use.name, "id", one->id,
                      "slot", (int)one->slot, "path", one->use.path, "read_only",
                      one->use.is_read_only, "size_bytes",
                      volume != NULL ? (json_int_t)volume->size_bytes : 0, "snapshot", snapshot));
    }
}

/* ---- The way back ---- */

struct kept {
    char layer[VOLUME_ID_SIZE];
    uint64_t size_bytes;
    bool is_found;
};

static bool take_kept(sqlite3_stmt *row, void *context)
{
    struct kept *kept = context;
    kept->is_found = true;
    snprintf(kept->layer, sizeof(kept->layer), "%s", store_text(row, 0));
    kept->size_bytes = (uint64_t)sqlite3_column_int64(row, 1);
    return false;
}

static int find_kept(struct volume_service *service, const struct volume *volume,
                     const char *snapshot, struct kept *ret_kept, struct error *err)
{
    MEMORY_OWNED char *key = memory_format("%s/%s", volume->key, snapshot);
    int r = store_query(service->options.store, err, take_kept, ret_kept,
                        "SELECT layer, size_bytes FROM volume_snapshot WHERE key = ? AND state = "
                        "'ready'",
                        "t", key);
    return r < 0 || ret_kept->is_found
        ? r
        : error_set(err, ERROR_NOT_FOUND,
                    "what volume %s held then is not there any more: restore the machine's disk "
                    "alone (--disk-only)",
                    volume->name);
}

/* The very volume, and at this machine. */
static int find_own(struct volume_service *service, const char *project, const char *machine,
                    const json_t *entry, struct volume **ret_volume, struct error *err)
{
    const char *name = json_text(entry, "name");
    struct volume *volume = volume_find(service, project, name);
    if (volume == NULL || strcmp(volume->id, json_text(entry, "id")) != 0) {
        return error_set(err, ERROR_CONFLICT,
                         "the snapshot is of the machine with volume %.63s, which is not there any "
                         "more: take its disk alone (--disk-only)",
                         name);
    }
    if (strcmp(volume->machine, machine) != 0) {
        return error_set(err, ERROR_CONFLICT,
                         "the snapshot is of the machine with volume %s, which it does not have "
                         "now: `blixard volume attach %s %s`, or take its disk alone (--disk-only)",
                         name, name, machine);
    }
    if (volume->state != VOLUME_READY || volume->is_busy) {
        return error_set(err, ERROR_CONFLICT, "volume %s is busy: try it again in a moment", name);
    }
    *ret_volume = volume;
    return 0;
}

static bool has_slot(const json_t *list, const char *name, unsigned slot)
{
    size_t index = 0;
    json_t *entry = NULL;
    json_array_foreach(list, index, entry)
    {
        if (json_u64(entry, "slot") == slot && strcmp(json_text(entry, "name"), name) != 0) {
            return true;
        }
    }
    return false;
}

int volume_check_return(struct volume_service *service, const char *project, const char *machine,
                        const json_t *list, struct error *err)
{
    struct volume_attachment now[HYPERVISOR_VOLUMES_MAX];
    size_t count = volume_of_machine(service, project, machine, now);
    size_t index = 0;
    json_t *entry = NULL;
    for (size_t i = 0; i < count; i++) {
        if (has_slot(list, now[i].use.name, now[i].slot)) {
            return error_set(err, ERROR_CONFLICT,
                             "volume %s is where another one was then: detach it and attach it "
                             "again once the machine is restored",
                             now[i].use.name);
        }
    }
    json_array_foreach(list, index, entry)
    {
        struct volume *volume = NULL;
        struct kept kept = {0};
        int r = find_own(service, project, machine, entry, &volume, err);
        r = r < 0 ? r : find_kept(service, volume, json_text(entry, "snapshot"), &kept, err);
        if (r < 0) {
            return r;
        }
    }
    return 0;
}

int volume_add_return(struct volume_service *service, const char *project, const char *machine,
                      const json_t *list, struct store_command *command, struct error *err)
{
    size_t index = 0;
    json_t *entry = NULL;
    json_array_foreach(list, index, entry)
    {
        struct volume *volume = NULL;
        struct kept kept = {0};
        int r = find_own(service, project, machine, entry, &volume, err);
        r = r < 0 ? r : find_kept(service, volume, json_text(entry, "snapshot"), &kept, err);
        if (r < 0) {
            return r;
        }
        volume_add_layer(command, volume, json_text(entry, "layer"), kept.layer, "restoring",
                         kept.size_bytes);
        store_command_add(command, "UPDATE volume SET slot = ? WHERE key = ? AND machine = ?",
                          "utt", json_u64(entry, "slot"), volume->key, machine);
    }
    return 0;
}

/* ---- Clones ---- */

static char *name_of_clone(const json_t *entry, const char *machine)
{
    return memory_format("%s-%s", json_text(entry, "name"), machine);
}

int volume_name_clone(struct volume_service *service, const char *project, const char *machine,
                      json_t *entry, struct error *err)
{
    MEMORY_OWNED char *name = name_of_clone(entry, machine);
    if (!text_is_name(name)) {
        return error_set(err, ERROR_INVALID,
                         "the clone of volume %.63s would be called %.130s, which is too long: "
                         "give the machine a shorter name",
                         json_text(entry, "name"), name);
    }
    if (service != NULL) {
        MEMORY_OWNED char *node = NULL;
        struct error missing = {0};
        if (volume_node(service, project, name, &node, &missing) == 0) {
            return error_set(err, ERROR_EXISTS,
                             "the clone of volume %.63s would be called %s, and there is one "
                             "already",
                             json_text(entry, "name"), name);
        }
    }
    json_object_set(entry, "of", json_object_get(entry, "name"));
    json_object_set_new(entry, "name", json_string(name));
    return 0;
}

/* As volume_create() does of a snapshot, with the machine that has it from the beginning. */
static int add_clone(struct volume_service *service, const char *project, const char *machine,
                     const json_t *entry, struct store_command *command, struct error *err)
{
    const char *name = json_text(entry, "name");
    const char *layer = json_text(entry, "layer");
    struct volume *source = volume_find(service, project, json_text(entry, "of"));
    struct kept kept = {0};
    if (source == NULL) {
        return error_set(
            err, ERROR_NOT_FOUND,
            "volume %.63s, which the machine had, is not there: restore its disk alone "
            "(--disk-only), and clone what it is then",
            json_text(entry, "of"));
    }
    int r = find_kept(service, source, json_text(entry, "snapshot"), &kept, err);
    if (r < 0) {
        return r;
    }
    JSON_OWNED json_t *config = json_deep_copy(source->config);
    MEMORY_OWNED char *key = memory_format("%s/%s", project, name);
    MEMORY_OWNED char *exists = memory_format("there is a volume %s already", name);
    json_object_set_new(config, "name", json_string(name));
    json_object_set_new(config, "format", json_string("qcow2"));
    json_object_set_new(config, "from_volume", json_string(source->name));
    json_object_set(config, "from_snapshot", json_object_get(entry, "snapshot"));
    json_object_del(config, "encrypt"); /* its key is the other one's */
    MEMORY_OWNED char *text = json_dumps(config, JSON_COMPACT | JSON_SORT_KEYS);
    uint64_t now_ms = clock_real_ms();
    store_command_add_expecting(
        command, ERROR_EXISTS, exists,
        "INSERT INTO volume (key, project, name, id, node, config, secret, size_bytes, layer, "
        "origin, state, machine, slot, path, read_only, created_ms, revision) SELECT ?1, ?2, ?3, "
        "?4, ?5, ?6, nullif(?7, ''), ?8, ?9, ?10, 'creating', ?11, ?12, nullif(?13, ''), ?14, ?15, "
        "?16 WHERE NOT EXISTS (SELECT 1 FROM volume WHERE key = ?1)",
        "tttttttutttutuur", key, project, name, json_text(entry, "id"), service->node_name, text,
        source->secret, kept.size_bytes, layer, kept.layer, machine, json_u64(entry, "slot"),
        json_text(entry, "path"), (uint64_t)json_is_true(json_object_get(entry, "read_only")),
        now_ms);
    store_command_add_expecting(command, ERROR_CONFLICT, "the snapshot was deleted meanwhile",
                                "INSERT INTO volume_layer (key, node, format, below, created_ms, "
                                "revision) SELECT ?, ?, 'qcow2', ?, ?, ? WHERE EXISTS (SELECT 1 "
                                "FROM volume_snapshot WHERE layer = ?3)",
                                "tttur", layer, service->node_name, kept.layer, now_ms);
    return 0;
}

int volume_add_clones(struct volume_service *service, const char *project, const char *machine,
                      const json_t *list, struct store_command *command, struct error *err)
{
    size_t index = 0;
    json_t *entry = NULL;
    json_array_foreach(list, index, entry)
    {
        int r = add_clone(service, project, machine, entry, command, err);
        if (r < 0) {
            return r;
        }
    }
    return 0;
}
