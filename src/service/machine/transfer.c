/*
 * Machines as files: exported from what they are now, imported as new ones.
 *
 * An import is unpacked in FOLDER/importing/ID, verified, and laid out whole in FOLDER/new/ID
 * (snapshots: new/ID.snapshots) before there are rows, as a clone is.  What a crash leaves is
 * removed at a later start.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/loop/loop.h"
#include "base/memory.h"
#include "base/random.h"
#include "base/text.h"

#include "engine/image/disk.h"
#include "engine/image/image.h"
#include "engine/store/store.h"

#include "service/machine/capture.h"
#include "service/machine/content.h"
#include "service/machine/migrate.h"
#include "service/machine/package.h"
#include "service/machine/snapshot.h"
#include "service/machine/sparse.h"
#include "service/machine/volumes.h"
#include "service/replica/replica.h"
#include "service/volume/volume.h"

enum { LIST_MAX = 64, TEXT_MAX = 8192, LOOK_MS = 2000 };

/* ---- Out ---- */

struct machine_export {
    struct machine_service *service;
    struct machine *machine; /* held */
    char *folder;            /* of its content, which is ours */
    char *snapshots[PACKAGE_SNAPSHOTS_MAX];
    size_t snapshot_count;
    json_t *manifest;
    struct package_writer *writer;
    char *volumes; /* the name of the snapshots that were kept for it, or NULL */
    struct error error;
    machine_exported *done;
    void *context;
};

static void remove_export(void *context)
{
    struct machine_export *export = context;
    struct error ignored = {0};
    package_writer_free(export->writer);
    file_remove_tree(export->folder, &ignored);
}

static void on_export_removed(void *context)
{
    struct machine_export *export = context;
    struct machine *machine = export->machine;
    if (export->volumes != NULL) {
        volume_forget_kept(export->service->options.volumes, machine->project, machine->name,
                           export->volumes);
    }
    free(export->volumes);
    export->service->pending--;
    machine->held--;
    machine_unref(machine);
    for (size_t i = 0; i < export->snapshot_count; i++) {
        free(export->snapshots[i]);
    }
    json_decref(export->manifest);
    free(export->folder);
    free(export);
}

void machine_export_free(struct machine_export *export)
{
    if (export != NULL) {
        loop_work(export->service->options.loop, remove_export, on_export_removed, export);
    }
}

uint64_t machine_export_usage(const struct machine_export *export)
{
    return package_writer_usage(export->writer);
}

int machine_export_step(struct machine_export *export, struct buffer *out, struct error *err)
{
    return package_writer_step(export->writer, out, err);
}

/* Those that the manifest names: see transfer_name_files(). */
static void transfer_add_files(struct machine_export *export)
{
    const struct volume_service *volumes = export->service->options.volumes;
    size_t index = 0;
    json_t *one = NULL;
    json_array_foreach(json_object_get(export->manifest, "layers"), index, one)
    {
        MEMORY_OWNED char *name = memory_format("layers/%s", json_text(one, "id"));
        MEMORY_OWNED char *path =
            volume_move_path(volumes, json_text(one, "of"), json_text(one, "format"));
        package_writer_add(export->writer, name, path);
    }
    json_array_foreach(json_object_get(export->manifest, "own"), index, one)
    {
        MEMORY_OWNED char *name = memory_format("own/%s", json_string_value(one));
        MEMORY_OWNED char *path =
            memory_format("%s/%s", export->machine->folder, json_string_value(one));
        package_writer_add(export->writer, name, path);
    }
}

static void on_content(const struct error *error, uint64_t bytes, void *context)
{
    struct machine_export *export = context;
    struct error err = {0};
    (void)bytes;
    if (error != NULL) {
        free(export->volumes); /* none was kept, or they were forgotten */
        export->volumes = NULL;
        export->done(error, NULL, export->context);
        machine_export_free(export);
        return;
    }
    if (package_writer_new(export->manifest, export->folder, (const char *const *)export->snapshots,
                           export->service->options.images, &export->writer, &err) < 0) {
        export->done(&err, NULL, export->context);
        machine_export_free(export);
        return;
    }
    transfer_add_files(export);
    export->done(NULL, export, export->context);
}

static bool take_one(sqlite3_stmt *row, void *context)
{
    struct machine_export *export = context;
    if (export->snapshot_count < PACKAGE_SNAPSHOTS_MAX) {
        export->snapshots[export->snapshot_count++] = snapshot_folder(
            export->service, export->machine->id, (const char *)sqlite3_column_text(row, 1));
        json_array_append_new(json_object_get(export->manifest, "snapshots"),
                              json_pack("{s:s, s:b, s:I}", "name",
                                        (const char *)sqlite3_column_text(row, 0), "has_memory",
                                        sqlite3_column_int(row, 2), "created_ms",
                                        (json_int_t)sqlite3_column_int64(row, 3)));
    }
    return true;
}

static json_t *describe(const struct machine *machine)
{
    json_t *manifest =
        json_pack("{s:s, s:i, s:s, s:O, s:[], s:[], s:I}", "format", "blixard-machine", "version",
                  1, "name", machine->name, "config", machine->config, "snapshots", "blobs",
                  "created_ms", (json_int_t)clock_real_ms());
    for (size_t i = 0; i < REPLICA_PARTS; i++) {
        const char *id = json_text(machine->config, replica_parts[i]);
        if (id[0] != '\0') {
            json_array_append_new(json_object_get(manifest, "blobs"), json_string(id));
        }
    }
    return manifest;
}

static struct machine_export *new_export(struct machine *machine, bool with_snapshots,
                                         machine_exported *done, void *context)
{
    struct error err = {0};
    char id[MACHINE_ID_SIZE];
    struct machine_service *service = machine->service;
    struct machine_export *export = NEW(struct machine_export);
    random_hex(id, MACHINE_ID_SIZE - 1);
    *export = (struct machine_export){.service = service,
                                      .machine = machine,
                                      .folder = memory_format("%s/cloning/%s", service->folder, id),
                                      .manifest = describe(machine),
                                      .done = done,
                                      .context = context};
    machine->held++;
    service->pending++;
    if (with_snapshots && snapshot_is_known(service)) {
        store_query(
            service->options.store, &err, take_one, export,
            "SELECT name, id, has_memory, created_ms FROM machine_snapshot WHERE machine_id "
            "= ? AND state = 'ready' ORDER BY created_ms",
            "t", machine->id);
    }
    return export;
}

void machine_export(struct machine_service *service, const char *project, const char *name,
                    bool with_snapshots, bool with_volumes, machine_exported *done, void *context)
{
    struct error err = {0};
    struct machine *machine = NULL;
    int r = request_find(service, project, name, &machine, &err);
    r = r < 0 ? r : capture_check(machine, CAPTURE_DISK, &err);
    bool has_volumes = r == 0 && with_volumes && machine_volumes_are_there(machine);
    if (has_volumes) {
        r = volume_carry_check(service->options.volumes, project, name, &err);
        r = r < 0 ? r : capture_check_volumes(machine, "export-0", &err);
    }
    if (r < 0) {
        done(&err, NULL, context);
        return;
    }
    struct machine_export *export = new_export(machine, with_snapshots, done, context);
    if (has_volumes) {
        char id[9];
        random_hex(id, sizeof(id) - 1);
        export->volumes = memory_format("export-%s", id);
    }
    capture_begin(machine, CAPTURE_DISK, export->folder, export->volumes, on_content, export);
    if (has_volumes) {
        capture_carry_volumes(machine);
    }
}

/* ---- To another node ---- */

/* Of its folder.  What a VMM that runs writes in goes by that; what a start makes anew stays. */
static const struct {
    const char *name;
    unsigned kinds; /* of transfer_kind, as bits */
} own_files[] = {
#define ALWAYS (1U << TRANSFER_STOPPED | 1U << TRANSFER_RUNNING | 1U << TRANSFER_STILL)
#define QUIET  (1U << TRANSFER_STOPPED | 1U << TRANSFER_STILL)
#define BEGUN  (1U << TRANSFER_RUNNING | 1U << TRANSFER_STILL)
    {"grow", ALWAYS},       {"booted", BEGUN},
    {CONTENT_USER, ALWAYS}, {CONTENT_FIRMWARE, ALWAYS},
    {SEED_FILE, BEGUN},     {"disk.raw", QUIET},
    {"disk.qcow2", QUIET},  {"base.raw", QUIET},
    {CONTENT_BASE, QUIET},  {MIGRATION_STATE, 1U << TRANSFER_STILL},
#undef ALWAYS
#undef QUIET
#undef BEGUN
};

static void transfer_name_files(const struct machine *machine, enum transfer_kind kind,
                                json_t *manifest, const struct volume_file *files, size_t count)
{
    json_t *layers = json_array();
    json_t *own = json_array();
    for (size_t i = 0; i < count; i++) {
        if (kind != TRANSFER_RUNNING || !files[i].is_written) {
            json_array_append_new(layers,
                                  json_pack("{s:s, s:s, s:s}", "id", volume_move_name(&files[i]),
                                            "of", files[i].id, "format", files[i].format));
        }
    }
    for (size_t i = 0; i < sizeof(own_files) / sizeof(own_files[0]); i++) {
        MEMORY_OWNED char *path = memory_format("%s/%s", machine->folder, own_files[i].name);
        if ((own_files[i].kinds & 1U << kind) != 0 && file_exists(path)) {
            json_array_append_new(own, json_string(own_files[i].name));
        }
    }
    json_object_set_new(manifest, "layers", layers);
    json_object_set_new(manifest, "own", own);
}

void transfer_pack(struct machine *machine, enum transfer_kind kind,
                   const struct volume_file *files, size_t count, machine_exported *done,
                   void *context)
{
    struct error err = {0};
    struct machine_export *export = new_export(machine, true, done, context);
    json_t *manifest = export->manifest;
    transfer_name_files(machine, kind, manifest, files, count);
    json_object_set_new(manifest, "blobs", json_array()); /* fetched for themselves */
    json_object_set_new(manifest, "is_part", json_true());
    if (package_writer_new(manifest, NULL, (const char *const *)export->snapshots,
                           machine->service->options.images, &export->writer, &err) < 0) {
        done(&err, NULL, context);
        machine_export_free(export);
        return;
    }
    transfer_add_files(export);
    done(NULL, export, context);
}

/* ---- In ---- */

struct import {
    struct machine_service *service;
    char *project;
    char *name; /* "": as it was called */
    char *blob; /* the archive: it goes at the end */
    char id[MACHINE_ID_SIZE];
    char operation[OPERATION_ID_SIZE];
    char *folder;    /* unpacked */
    char *prepared;  /* laid out */
    char *snapshots; /* the same, of them */
    json_t *manifest;
    json_t *config;
    json_t *volumes; /* see volume_carried_read(); NULL: none */
    char (*snapshot_ids)[MACHINE_ID_SIZE];
    uint64_t *snapshot_bytes;
    struct error error;
    struct loop_timer *look; /* at how far it is, by `fd`, which the thread has opened */
    atomic_int fd;           /* -1: not yet */
    uint64_t size_bytes;
    machine_begun *done;
    void *context;
};

static void remove_volumes(const struct import *import)
{
    size_t index = 0;
    json_t *one = NULL;
    json_array_foreach(import->volumes, index, one)
    {
        volume_move_remove(import->service->options.volumes, json_text(one, "layer"), "raw");
    }
}

static void clean_up(void *context)
{
    struct import *import = context;
    struct error ignored = {0};
    if (import->error.kind != ERROR_NONE) {
        remove_volumes(import);
        file_remove_tree(import->prepared, &ignored);
        file_remove_tree(import->snapshots, &ignored);
    }
    file_remove_tree(import->folder, &ignored);
    image_remove(import->service->options.images, import->blob, &ignored);
}

static void on_cleaned_up(void *context)
{
    struct import *import = context;
    if (import->error.kind != ERROR_NONE) {
        log_warn("a machine was not imported: %s", import->error.text);
        operation_fail(import->service->options.operations, import->operation, &import->error);
    }
    import->service->pending--;
    json_decref(import->manifest);
    json_decref(import->config);
    json_decref(import->volumes);
    free(import->project);
    free(import->name);
    free(import->blob);
    free(import->folder);
    free(import->prepared);
    free(import->snapshots);
    free(import->snapshot_ids);
    free(import->snapshot_bytes);
    free(import);
}

static void end_import(struct import *import)
{
    loop_work(import->service->options.loop, clean_up, on_cleaned_up, import);
}

static void on_rows_there(const struct error *error, uint64_t index, void *context)
{
    struct import *import = context;
    (void)index;
    if (error != NULL) {
        import->error = *error;
    }
    end_import(import);
}

static void add_snapshot_row(struct store_command *command, const struct import *import,
                             size_t index)
{
    const json_t *one = json_array_get(json_object_get(import->manifest, "snapshots"), index);
    const char *name = json_text(one, "name");
    MEMORY_OWNED char *key = memory_format("%s/%s/%s", import->project, import->name, name);
    store_command_add(command,
                      "INSERT INTO machine_snapshot (key, project, machine, machine_id, name, id, "
                      "node, state, has_memory, size_bytes, created_ms, revision) VALUES (?, ?, ?, "
                      "?, ?, ?, ?, 'ready', ?, ?, ?, ?)",
                      "tttttttuuur", key, import->project, import->name, import->id, name,
                      import->snapshot_ids[index], import->service->node_name,
                      (uint64_t)json_is_true(json_object_get(one, "has_memory")),
                      import->snapshot_bytes[index], json_u64(one, "created_ms"));
}

static void write_rows(struct import *import)
{
    struct store_command *command = store_command_new();
    MEMORY_OWNED char *key = memory_format("%s/%s", import->project, import->name);
    MEMORY_OWNED char *text = json_dumps(import->config, JSON_COMPACT | JSON_SORT_KEYS);
    MEMORY_OWNED char *exists =
        memory_format("there is a machine %s already: give another name (--name)", import->name);
    store_command_add(command, "INSERT OR IGNORE INTO project (key, created_ms) VALUES (?, ?)",
                      "tu", import->project, clock_real_ms());
    store_command_add_expecting(
        command, ERROR_EXISTS, exists,
        "INSERT INTO machine (key, project, name, id, node, config, desired, state, restarts, "
        "created_ms, revision) SELECT ?1, ?2, ?3, ?4, ?5, ?6, 'stopped', 'creating', 0, ?7, ?8 "
        "WHERE NOT EXISTS (SELECT 1 FROM machine WHERE key = ?1)",
        "ttttttur", key, import->project, import->name, import->id, import->service->node_name,
        text, clock_real_ms());
    const struct machine_event event = {.project = import->project,
                                        .machine = import->name,
                                        .machine_id = import->id,
                                        .node = import->service->node_name,
                                        .type = "vm.created",
                                        .state = machine_state_text(MACHINE_CREATING),
                                        .reason = "imported"};
    events_add(import->service, command, &event);
    draft_add_claim(import->service, command, import->id, import->config);
    settings_add_quota(import->service, command, import->project, NULL, import->config);
    bool is_renamed = strcmp(import->name, json_text(import->manifest, "name")) != 0;
    if (volume_carried_add(import->service->options.volumes, import->project, import->name,
                           is_renamed, import->volumes, command, &import->error) < 0) {
        store_command_free(command);
        end_import(import);
        return;
    }
    for (size_t i = 0; i < json_array_size(json_object_get(import->manifest, "snapshots")); i++) {
        add_snapshot_row(command, import, i);
    }
    MEMORY_OWNED char *result = memory_format("{\"name\":\"%s\"}", import->name);
    operation_add_success(import->service->options.operations, command, import->operation, result);
    store_propose(import->service->options.store, command, on_rows_there, import);
}

/* ---- What it is to be ---- */

static bool is_value(const json_t *value)
{
    size_t index = 0;
    json_t *one = NULL;
    if (json_is_string(value)) {
        return json_string_length(value) <= TEXT_MAX && text_is_printable(json_string_value(value));
    }
    json_array_foreach(value, index, one)
    {
        if (!json_is_string(one) || !is_value(one)) {
            return false;
        }
    }
    return json_is_integer(value) || json_is_boolean(value) ||
        (json_is_array(value) && json_array_size(value) <= LIST_MAX);
}

/* A disk with its own boot loader: looked at as one that is uploaded is. */
static int take_whole(const struct import *import, json_t *config, struct error *err)
{
    struct disk_image image = {0};
    MEMORY_OWNED char *path =
        image_path(import->service->options.images, json_text(config, "disk"));
    json_object_del(config, "kernel");
    int r = disk_image_read(path, &image, err);
    if (r == 0 && settings_board(config) != HYPERVISOR_Q35) {
        r = error_set(err, ERROR_CORRUPT, "manifest.json: a disk that boots needs a q35");
    }
    if (r == 0) {
        json_object_set_new(config, "disk_format", json_string(image.format));
        json_object_set_new(config, "disk_size_bytes", json_integer((json_int_t)image.size_bytes));
    }
    return r;
}

/* Of what an archive says only these, each looked at; ports and networks are of another node. */
static int take_settings(const struct import *import, const json_t *given, json_t *config,
                         struct error *err)
{
    for (const struct machine_setting *setting = machine_settings; setting->key != NULL;
         setting++) {
        json_t *value =
            (setting->flags & SETTING_TRAVELS) != 0 ? json_object_get(given, setting->key) : NULL;
        if (value != NULL && !is_value(value)) {
            return error_set(err, ERROR_CORRUPT, "manifest.json: %s makes no sense", setting->key);
        }
        if (value != NULL) {
            json_object_set(config, setting->key, value);
        }
    }
    for (size_t i = 0; i < REPLICA_PARTS; i++) {
        const char *id = json_text(config, replica_parts[i]);
        if (id[0] != '\0' && !image_id_is_good(id)) {
            return error_set(err, ERROR_CORRUPT, "manifest.json: %s makes no sense",
                             replica_parts[i]);
        }
    }
    json_object_set_new(config, "name", json_string(import->name));
    return 0;
}

/* A snapshot's are the machine's own when it is restored, or a clone's. */
static int check_snapshot_config(const struct import *import, const json_t *manifest,
                                 struct error *err)
{
    JSON_OWNED json_t *config = json_object();
    JSON_OWNED json_t *complete = NULL;
    int r = take_settings(import, json_object_get(manifest, "config"), config, err);
    r = r < 0 ? r : settings_complete(config, &complete, err);
    return r < 0 ? error_wrap(err, "a snapshot") : 0;
}

static int take_config(struct import *import, struct error *err)
{
    JSON_OWNED json_t *config = json_object();
    if (take_settings(import, json_object_get(import->manifest, "config"), config, err) < 0) {
        return -(int)err->kind;
    }
    bool is_whole = json_text(config, "disk")[0] != '\0';
    for (size_t i = 0; i < REPLICA_PARTS; i++) {
        const char *id = json_text(config, replica_parts[i]);
        bool is_there = image_exists(import->service->options.images, id);
        if ((id[0] != '\0' || (i == 0 && !is_whole)) && !is_there) {
            return error_set(err, ERROR_CORRUPT, "the archive has no %s", replica_parts[i]);
        }
    }
    char *none = NULL; /* it is no setting of an archive's */
    json_object_set_new(config, "origin", json_string("import"));
    int r = is_whole ? take_whole(import, config, err) : 0;
    r = r < 0 ? r : seed_take_settings(config, &none, err);
    return r < 0 ? r : settings_complete(config, &import->config, err);
}

static uint64_t usage_of(const json_t *manifest, const char *folder)
{
    size_t index = 0;
    json_t *file = NULL;
    uint64_t bytes = 0;
    json_array_foreach(json_object_get(manifest, "files"), index, file)
    {
        MEMORY_OWNED char *path = memory_format("%s/%s", folder, json_text(file, "name"));
        FD_OWNED int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        bytes += fd >= 0 ? sparse_usage(fd) : 0;
    }
    return bytes;
}

static int take_snapshots(struct import *import, struct error *err)
{
    const json_t *list = json_object_get(import->manifest, "snapshots");
    size_t index = 0;
    json_t *one = NULL;
    import->snapshot_ids = memory_new(json_array_size(list) + 1, MACHINE_ID_SIZE);
    import->snapshot_bytes = memory_new(json_array_size(list) + 1, sizeof(uint64_t));
    if (json_array_size(list) > 0 && file_make_folder(import->snapshots, 0711, err) < 0) {
        return -(int)err->kind;
    }
    json_array_foreach(list, index, one)
    {
        JSON_OWNED json_t *manifest = NULL;
        random_hex(import->snapshot_ids[index], MACHINE_ID_SIZE - 1);
        MEMORY_OWNED char *from =
            memory_format("%s/snapshots/%s", import->folder, json_text(one, "name"));
        MEMORY_OWNED char *to =
            memory_format("%s/%s", import->snapshots, import->snapshot_ids[index]);
        if (content_open(from, false, &manifest, err) < 0 ||
            check_snapshot_config(import, manifest, err) < 0) {
            return -(int)err->kind;
        }
        json_object_set_new(one, "has_memory", json_boolean(content_has_memory(manifest)));
        import->snapshot_bytes[index] = usage_of(manifest, from);
        if (rename(from, to) < 0) {
            return error_os(err, errno, "moving %s", from);
        }
    }
    return 0;
}

/* Before there are rows: a file that none names harms nobody. */
static int place_volumes(struct import *import, const char *content, struct error *err)
{
    uint64_t sizes[HYPERVISOR_VOLUMES_MAX] = {0};
    JSON_OWNED json_t *manifest = NULL;
    size_t index = 0;
    json_t *one = NULL;
    char file[24];
    _Static_assert((int)CONTENT_VOLUMES_MAX == (int)HYPERVISOR_VOLUMES_MAX, "one for each slot");
    int r = content_open(content, false, &manifest, err);
    for (unsigned i = 0; i < HYPERVISOR_VOLUMES_MAX && r == 0; i++) {
        struct stat status;
        content_volume_name(i, file);
        MEMORY_OWNED char *path = memory_format("%s/%s", content, file);
        sizes[i] = lstat(path, &status) == 0 ? (uint64_t)status.st_size : 0;
    }
    r = r < 0
        ? r
        : volume_carried_read(json_object_get(manifest, "volumes"), sizes, &import->volumes, err);
    json_array_foreach(import->volumes, index, one)
    {
        content_volume_name((unsigned)json_u64(one, "slot"), file);
        MEMORY_OWNED char *path = memory_format("%s/%s", content, file);
        if (r == 0 && chmod(path, 0600) < 0) {
            r = error_os(err, errno, "%s", path);
        }
        r = r < 0 ? r
                  : volume_move_take(import->service->options.volumes, json_text(one, "layer"),
                                     "raw", path, err);
    }
    return r;
}

/* Nothing that is stored here is broken: what was sent is. */
static void blame_archive(struct error *err)
{
    if (err->kind == ERROR_CORRUPT) {
        err->kind = ERROR_UNSUPPORTED;
    }
}

static void unpack(void *context)
{
    struct import *import = context;
    struct error *err = &import->error;
    const struct content_use use = {.uid = disk_uid_of(import->id)};
    MEMORY_OWNED char *content = memory_format("%s/content", import->folder);
    int fd = -1;
    int r =
        image_open(import->service->options.images, import->blob, &fd, &import->size_bytes, err);
    atomic_store(&import->fd, fd);
    if (r < 0) {
        return;
    }
    r = package_read(fd, import->folder, import->service->options.images, 0, &import->manifest,
                     err);
    if (r == 0 && json_is_true(json_object_get(import->manifest, "is_part"))) {
        r = error_set(err, ERROR_CORRUPT, "the archive is a part of a machine that moves");
    }
    if (r == 0 && import->name[0] == '\0') {
        free(import->name);
        import->name = memory_copy_string(json_text(import->manifest, "name"));
    }
    r = r < 0 ? r : take_config(import, err);
    r = r < 0 ? r : content_lay_out(content, import->prepared, &use, err);
    r = r < 0 ? r : place_volumes(import, content, err);
    if (r == 0) {
        take_snapshots(import, err);
    }
    blame_archive(err);
}

/* By how much of the archive was read. */
static void on_look(void *context)
{
    struct import *import = context;
    int fd = atomic_load(&import->fd);
    off_t at = fd >= 0 ? lseek(fd, 0, SEEK_CUR) : 0;
    if (at > 0 && import->size_bytes > 0) {
        unsigned percent = 10 + (unsigned)((uint64_t)at * 80 / import->size_bytes);
        operation_progress(import->service->options.operations, import->operation,
                           percent < 90 ? percent : 90, "unpacking and verifying");
    }
    loop_timer_start(import->look, LOOK_MS);
}

static void on_unpacked(void *context)
{
    struct import *import = context;
    int fd = atomic_exchange(&import->fd, -1);
    loop_timer_free(import->look);
    if (fd >= 0) {
        close(fd);
    }
    if (import->error.kind == ERROR_NONE) {
        write_rows(import);
    } else {
        end_import(import);
    }
}

static void on_begun(const struct error *error, uint64_t index, void *context)
{
    struct import *import = context;
    (void)index;
    if (!operation_tell(import->service->options.operations, import->operation, error, import->done,
                        import->context)) {
        import->service->pending--;
        free(import->project);
        free(import->name);
        free(import->blob);
        free(import->folder);
        free(import->prepared);
        free(import->snapshots);
        free(import);
        return;
    }
    operation_progress(import->service->options.operations, import->operation, 10,
                       "unpacking and verifying");
    import->look = loop_timer_new(import->service->options.loop, on_look, import);
    loop_timer_start(import->look, LOOK_MS);
    loop_work(import->service->options.loop, unpack, on_unpacked, import);
}

/* An import takes its archive with it: what others have is none. */
static int check_unused(const struct machine_service *service, const char *blob, struct error *err)
{
    bool is_used = false;
    int r = needed_by_rows(service, blob, &is_used, err);
    return r < 0 || !is_used
        ? r
        : error_set(err, ERROR_CONFLICT,
                    "blob %.64s is a part of an image or function, and no archive of a machine",
                    blob);
}

void machine_import(struct machine_service *service, const char *project, const json_t *body,
                    machine_begun *done, void *context)
{
    struct error err = {0};
    const char *name = json_text(body, "name");
    const char *blob = json_text(body, "blob");
    int r = 0;
    if (name[0] != '\0' && !text_is_name(name)) {
        r = error_set(&err, ERROR_INVALID,
                      "\"%.64s\" is no name: 1 to 63 of a-z, 0-9 and '-', beginning with a letter",
                      name);
    } else if (name[0] != '\0' && state_find(service, project, name) != NULL) {
        r = error_set(&err, ERROR_EXISTS, "there is a machine %s already", name);
    } else if (!image_id_is_good(blob) || !image_exists(service->options.images, blob)) {
        r = error_set(&err, ERROR_NOT_FOUND,
                      "there is no blob %.64s on this node: upload the archive first", blob);
    } else if (!snapshot_is_known(service)) {
        r = error_set(&err, ERROR_UNSUPPORTED, "not all nodes know this yet: upgrade them first");
    } else {
        r = check_unused(service, blob, &err);
    }
    if (r < 0) {
        machine_answer(service, &err, done, NULL, context);
        return;
    }
    struct import *import = NEW(struct import);
    *import = (struct import){.service = service,
                              .project = memory_copy_string(project),
                              .name = memory_copy_string(name),
                              .blob = memory_copy_string(blob),
                              .fd = -1,
                              .done = done,
                              .context = context};
    random_hex(import->id, MACHINE_ID_SIZE - 1);
    import->folder = memory_format("%s/cloning/%s", service->folder, import->id);
    import->prepared = memory_format("%s/new/%s", service->folder, import->id);
    import->snapshots = memory_format("%s.snapshots", import->prepared);
    service->pending++;
    const struct operation_start start = {
        .kind = "machine.import", .project = project, .resource = "machines"};
    struct store_command *command = store_command_new();
    operation_add(service->options.operations, command, &start, import->operation);
    store_propose(service->options.store, command, on_begun, import);
}
