/*
 * Clones: machines made of another one's content, which goes on; with its memory they begin where
 * it is, and share that memory until they write.
 *
 * The content is captured once (or is a snapshot's), and laid out for each clone in FOLDER/new/ID,
 * whole, before there is a row; then all rows come in one command, and each folder is moved to its
 * place by disk.c.  What a crash leaves in new/ or cloning/ is removed at a later start.
 */
#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/loop/loop.h"
#include "base/memory.h"
#include "base/random.h"
#include "base/text.h"

#include "engine/hypervisor/template.h"
#include "engine/store/store.h"

#include "service/machine/capture.h"
#include "service/machine/content.h"
#include "service/machine/devices.h"
#include "service/machine/kept.h"
#include "service/machine/snapshot.h"
#include "service/machine/volumes.h"

enum { CLONES_MAX = 32, LEFT_AFTER_S = 24 * 3600 };

struct clone {
    char *name;
    char *key;
    char id[MACHINE_ID_SIZE];
    char operation[OPERATION_ID_SIZE];
    uid_t uid;
    json_t *volumes; /* clones that it has, or NULL: kept.h */
};

struct cloning {
    struct machine_service *service;
    struct machine *source; /* held */
    char *project;
    char *of; /* "web", "web@snap0": for people */
    enum capture_kind kind;
    bool is_kept;      /* snapshots of its volumes are there */
    bool is_captured;  /* the content is ours, and goes at the end */
    bool is_uncertain; /* the clones may still come to be: what they are made of stays */
    char *content;
    char *volumes; /* the name of the snapshots that are made for it, or NULL */
    json_t *config;
    struct clone clones[CLONES_MAX];
    size_t count;
    struct error error;
    machine_cloned *done;
    void *context;
};

static char *place_of(const struct machine_service *service, const char *id)
{
    return memory_format("%s/new/%s", service->folder, id);
}

/* ---- The end ---- */

static void remove_content(void *context)
{
    struct cloning *cloning = context;
    struct error ignored = {0};
    if (cloning->is_captured) {
        file_remove_tree(cloning->content, &ignored);
    }
    bool is_nobodys = cloning->error.kind != ERROR_NONE && !cloning->is_uncertain;
    for (size_t i = 0; i < cloning->count && is_nobodys; i++) {
        MEMORY_OWNED char *place = place_of(cloning->service, cloning->clones[i].id);
        file_remove_tree(place, &ignored);
    }
}

static void on_removed(void *context)
{
    struct cloning *cloning = context;
    struct machine *source = cloning->source;
    if (cloning->error.kind != ERROR_NONE && cloning->volumes != NULL && cloning->is_kept &&
        !cloning->is_uncertain) {
        volume_forget_kept(cloning->service->options.volumes, cloning->project, source->name,
                           cloning->volumes);
    }
    for (size_t i = 0; i < cloning->count; i++) {
        if (cloning->error.kind != ERROR_NONE) {
            operation_fail(cloning->service->options.operations, cloning->clones[i].operation,
                           &cloning->error);
        }
        free(cloning->clones[i].name);
        free(cloning->clones[i].key);
        json_decref(cloning->clones[i].volumes);
    }
    cloning->service->pending--;
    source->held--;
    machine_unref(source);
    json_decref(cloning->config);
    free(cloning->project);
    free(cloning->of);
    free(cloning->content);
    free(cloning->volumes);
    free(cloning);
}

static void end(struct cloning *cloning)
{
    loop_work(cloning->service->options.loop, remove_content, on_removed, cloning);
}

static void fail(struct cloning *cloning, const struct error *error)
{
    cloning->error = *error;
    log_warn("machine %s: it was not cloned: %s", cloning->source->key, error->text);
    end(cloning);
}

/* ---- Rows ---- */

/* False: the clones are not there. */
static bool take_rows(struct cloning *cloning)
{
    bool are_there = false;
    for (size_t i = 0; i < cloning->count; i++) {
        const struct clone *clone = &cloning->clones[i];
        struct machine *machine = state_find(cloning->service, cloning->project, clone->name);
        if (machine != NULL && strcmp(machine->id, clone->id) == 0) {
            are_there = true;
            machine_take_operation(machine, clone->operation);
        }
    }
    return are_there;
}

/* What was not known when it was proposed shows now, or may come later. */
static void on_current(const struct error *error, void *context)
{
    struct cloning *cloning = context;
    if (error == NULL && take_rows(cloning)) {
        cloning->error = (struct error){0};
        end(cloning);
        return;
    }
    cloning->is_uncertain = true;
    const struct error unknown = cloning->error;
    fail(cloning, &unknown);
}

static void on_rows_there(const struct error *error, uint64_t index, void *context)
{
    struct cloning *cloning = context;
    (void)index;
    if (error != NULL && error->kind == ERROR_UNKNOWN_OUTCOME) {
        cloning->error = *error;
        store_barrier(cloning->service->options.store, on_current, cloning);
    } else if (error != NULL) {
        fail(cloning, error);
    } else {
        take_rows(cloning);
        end(cloning);
    }
}

/* It is in the same networks and groups, with addresses of its own. */
static void take_networks(json_t *config)
{
    size_t index = 0;
    json_t *network = NULL;
    json_array_foreach(json_object_get(config, "networks"), index, network)
    {
        json_object_del(network, "was_mac");
        if (json_object_get(network, "mac") != NULL) { /* what its guest has until it is renewed */
            json_object_set(network, "was_mac", json_object_get(network, "mac"));
        }
        json_object_del(network, "mac");
        json_object_del(network, "address");
    }
}

/* Ports of the node are the source's. */
static int add_clone(struct store_command *command, const struct cloning *cloning,
                     const struct clone *clone, struct error *err)
{
    JSON_OWNED json_t *config = json_deep_copy(cloning->config);
    json_object_set_new(config, "name", json_string(clone->name));
    json_object_set_new(config, "hostname", json_string(clone->name));
    json_object_set_new(config, "origin", json_string(cloning->of));
    if (volume_add_clones(cloning->service->options.volumes, cloning->project, clone->name,
                          clone->volumes, command, err) < 0) {
        return -(int)err->kind;
    }
    json_object_del(config, "publish");
    take_networks(config);
    MEMORY_OWNED char *text = json_dumps(config, JSON_COMPACT | JSON_SORT_KEYS);
    MEMORY_OWNED char *exists = memory_format("there is a machine %s already", clone->name);
    store_command_add_expecting(
        command, ERROR_EXISTS, exists,
        "INSERT INTO machine (key, project, name, id, node, config, desired, state, restarts, "
        "created_ms, revision) SELECT ?1, ?2, ?3, ?4, ?5, ?6, 'running', 'creating', 0, ?7, ?8 "
        "WHERE NOT EXISTS (SELECT 1 FROM machine WHERE key = ?1)",
        "ttttttur", clone->key, cloning->project, clone->name, clone->id,
        cloning->service->node_name, text, clock_real_ms());
    MEMORY_OWNED char *origin = memory_format("a clone of %s", cloning->of);
    const struct machine_event event = {.project = cloning->project,
                                        .machine = clone->name,
                                        .machine_id = clone->id,
                                        .node = cloning->service->node_name,
                                        .type = "vm.created",
                                        .state = machine_state_text(MACHINE_CREATING),
                                        .reason = origin};
    events_add(cloning->service, command, &event);
    draft_add_claim(cloning->service, command, clone->id, config);
    settings_add_quota(cloning->service, command, cloning->project, NULL, config);
    return network_add_leases(cloning->service->options.networks, command, cloning->project,
                              clone->id, json_object_get(config, "networks"), err);
}

/* ---- Content ---- */

static void lay_out(void *context)
{
    struct cloning *cloning = context;
    JSON_OWNED json_t *manifest = NULL;
    struct error *err = &cloning->error;
    int r = content_open(cloning->content, false, &manifest, err);
    if (r == 0 && cloning->kind == CAPTURE_MEMORY) {
        r = restore_check_driver(cloning->service, manifest, err);
    }
    const struct content_use any = {.with_memory = cloning->kind == CAPTURE_MEMORY,
                                    .origin = json_text(manifest, "machine_id"),
                                    .has_raw_disks =
                                        restore_has_raw_disks(cloning->service, manifest)};
    for (size_t i = 0; i < cloning->count && r == 0; i++) {
        struct content_use use = any;
        MEMORY_OWNED char *place = place_of(cloning->service, cloning->clones[i].id);
        use.uid = cloning->clones[i].uid;
        r = kept_begin(json_object_get(manifest, "volumes"), cloning->clones[i].name,
                       &cloning->clones[i].volumes, err);
        use.volumes = cloning->clones[i].volumes;
        r = r < 0 ? r : content_lay_out(cloning->content, place, &use, err);
    }
    if (r == 0) {
        cloning->config = json_deep_copy(json_object_get(manifest, "config"));
    }
}

static void on_laid_out(void *context)
{
    struct cloning *cloning = context;
    if (cloning->error.kind != ERROR_NONE) {
        log_warn("machine %s: it was not cloned: %s", cloning->source->key, cloning->error.text);
        end(cloning);
        return;
    }
    struct store_command *command = store_command_new();
    struct error err = {0};
    int r = 0;
    for (size_t i = 0; i < cloning->count && r == 0; i++) {
        r = add_clone(command, cloning, &cloning->clones[i], &err);
    }
    if (r < 0) {
        store_command_free(command);
        fail(cloning, &err);
        return;
    }
    store_propose(cloning->service->options.store, command, on_rows_there, cloning);
}

static void on_captured(const struct error *error, uint64_t bytes, void *context)
{
    struct cloning *cloning = context;
    (void)bytes;
    if (error != NULL) {
        fail(cloning, error);
        return;
    }
    cloning->is_kept = true;
    loop_work(cloning->service->options.loop, lay_out, on_laid_out, cloning);
}

static void begin(struct cloning *cloning)
{
    struct error err = {0};
    struct machine *source = cloning->source;
    if (!cloning->is_captured) {
        loop_work(cloning->service->options.loop, lay_out, on_laid_out, cloning);
    } else if (source->is_gone) {
        error_set(&err, ERROR_NOT_FOUND, "the machine was deleted meanwhile");
        fail(cloning, &err);
    } else if (capture_check(source, cloning->kind, &err) < 0) {
        fail(cloning, &err);
    } else {
        capture_begin(source, cloning->kind, cloning->content, cloning->volumes, on_captured,
                      cloning);
    }
}

static void on_begun(const struct error *error, uint64_t index, void *context)
{
    struct cloning *cloning = context;
    const char *names[CLONES_MAX];
    const char *operations[CLONES_MAX];
    (void)index;
    for (size_t i = 0; i < cloning->count; i++) {
        names[i] = cloning->clones[i].name;
        operations[i] = cloning->clones[i].operation;
        if (error != NULL) {
            operation_drop(cloning->service->options.operations, cloning->clones[i].operation);
        }
    }
    cloning->done(error, names, operations, cloning->count, cloning->context);
    if (error != NULL) {
        cloning->is_captured = false;
        cloning->count = 0;
        end(cloning);
        return;
    }
    begin(cloning);
}

/* ---- Asking ---- */

static int check_names(struct machine_service *service, const char *project, const json_t *body,
                       uint64_t *ret_count, struct error *err)
{
    const char *name = json_text(body, "name");
    uint64_t count = json_u64(body, "count");
    *ret_count = count > 0 ? count : 1;
    int r = error_check_range("count", *ret_count, 1, CLONES_MAX, err);
    for (uint64_t i = 1; i <= *ret_count && r == 0; i++) {
        MEMORY_OWNED char *one =
            count > 0 ? memory_format("%s-%" PRIu64, name, i) : memory_copy_string(name);
        if (!text_is_name(one)) {
            r = error_set(err, ERROR_INVALID,
                          "\"%.64s\" is no name: 1 to 63 of a-z, 0-9 and '-', beginning with a "
                          "letter",
                          one);
        } else if (state_find(service, project, one) != NULL) {
            r = error_set(err, ERROR_EXISTS, "there is a machine %s already", one);
        }
    }
    return r;
}

/* A guest that goes on from another one's memory is that one until its agent has told it better. */
static int check_identity(const struct machine *source, bool is_captured, struct error *err)
{
    const struct hypervisor_driver_info *driver = hypervisor_driver_info(
        source->service->options.hypervisor, json_text(source->config, "driver"));
    bool has_none = json_is_true(json_object_get(source->config, "without_agent"));
    bool is_silent =
        is_captured && (source->agent == NULL || agent_last_info(source->agent) == NULL);
    if (driver->clone_problem[0] != '\0') {
        return error_set(err, ERROR_UNSUPPORTED, "%s: clone its disk alone (--cold)",
                         driver->clone_problem);
    }
    return has_none || is_silent
        ? error_set(err, ERROR_CONFLICT,
                    "machine %s has no agent that answers: a clone with its memory would have its "
                    "name and addresses; clone its disk alone (--cold)",
                    source->name)
        : 0;
}

/* Clones of its volumes, too. */
static int check_volumes(const struct machine *source, const char *snapshot, const json_t *body,
                         struct error *err)
{
    struct volume_service *volumes = source->service->options.volumes;
    uint64_t count = json_u64(body, "count");
    JSON_OWNED json_t *list = json_array();
    size_t index = 0;
    json_t *entry = NULL;
    MEMORY_OWNED char *last = count > 0
        ? memory_format("%s-%" PRIu64, json_text(body, "name"), count)
        : memory_copy_string(json_text(body, "name"));
    volume_describe_kept(volumes, source->project, source->name, snapshot, list);
    int r = capture_check_volumes(source, snapshot, err);
    json_array_foreach(list, index, entry)
    {
        r = r < 0 ? r : volume_name_clone(volumes, source->project, last, entry, err);
    }
    return r;
}

/* From a snapshot, or from what the machine is now. */
static int choose(struct machine_service *service, struct machine *source, const json_t *body,
                  struct cloning *cloning, struct error *err)
{
    const char *name = json_text(body, "snapshot");
    bool is_cold = json_is_true(json_object_get(body, "cold"));
    struct snapshot snapshot = {0};
    if (name[0] == '\0') {
        char id[MACHINE_ID_SIZE];
        bool has_memory = machine_state_is_alive(source->state);
        random_hex(id, MACHINE_ID_SIZE - 1);
        cloning->is_captured = true;
        cloning->kind = has_memory && !is_cold ? CAPTURE_MEMORY : CAPTURE_DISK;
        cloning->content = memory_format("%s/cloning/%s", service->folder, id);
        cloning->of = memory_copy_string(source->name);
        int failure = capture_check(source, cloning->kind, err);
        if (failure == 0 && machine_volumes_are_there(source)) {
            cloning->volumes = memory_format("for-%s", json_text(body, "name"));
            failure = check_volumes(source, cloning->volumes, body, err);
        }
        return failure < 0 || cloning->kind == CAPTURE_DISK ? failure
                                                            : check_identity(source, true, err);
    }
    int r = snapshot_find(service, source, name, &snapshot, err);
    if (r == 0) {
        cloning->kind = snapshot.has_memory && !is_cold ? CAPTURE_MEMORY : CAPTURE_DISK;
        cloning->content = snapshot_folder(service, snapshot.machine_id, snapshot.id);
        cloning->of = memory_format("%s@%s", source->name, name);
        r = cloning->kind == CAPTURE_DISK ? 0 : check_identity(source, false, err);
    }
    return r;
}

static void add_operation(struct cloning *cloning, struct store_command *command,
                          const json_t *body, size_t index)
{
    struct clone *clone = &cloning->clones[index];
    const char *name = json_text(body, "name");
    clone->name = json_u64(body, "count") > 0 ? memory_format("%s-%zu", name, index + 1)
                                              : memory_copy_string(name);
    clone->key = memory_format("%s/%s", cloning->project, clone->name);
    random_hex(clone->id, MACHINE_ID_SIZE - 1);
    clone->uid = disk_uid_of(clone->id);
    MEMORY_OWNED char *resource = memory_format("machines/%s", clone->name);
    const struct operation_start start = {
        .kind = "machine.clone", .project = cloning->project, .resource = resource};
    operation_add(cloning->service->options.operations, command, &start, clone->operation);
}

struct refusal {
    machine_cloned *done;
    void *context;
};

static void on_refused(const struct error *error, const char *operation, void *context)
{
    struct refusal refusal = *(struct refusal *)context;
    (void)operation;
    free(context);
    refusal.done(error, NULL, NULL, 0, refusal.context);
}

void machine_clone(struct machine_service *service, const char *project, const char *source,
                   const json_t *body, machine_cloned *done, void *context)
{
    struct error err = {0};
    struct machine *machine = NULL;
    uint64_t count = 0;
    struct cloning *cloning = NEW(struct cloning);
    int r = request_find(service, project, source, &machine, &err);
    r = r < 0 ? r : runner_refuse(machine->config, "be cloned", &err);
    r = r < 0 ? r : devices_refuse(machine->config, "cloned", &err);
    r = r < 0 ? r : check_names(service, project, body, &count, &err);
    r = r < 0 ? r : choose(service, machine, body, cloning, &err);
    if (r < 0) {
        struct refusal *refusal = NEW(struct refusal);
        *refusal = (struct refusal){done, context};
        free(cloning->content);
        free(cloning->volumes);
        free(cloning->of);
        free(cloning);
        machine_answer(service, &err, on_refused, NULL, refusal);
        return;
    }
    cloning->service = service;
    cloning->source = machine;
    cloning->project = memory_copy_string(project);
    cloning->count = count;
    cloning->done = done;
    cloning->context = context;
    machine->held++;
    service->pending++;
    struct store_command *command = store_command_new();
    for (size_t i = 0; i < count; i++) {
        add_operation(cloning, command, body, i);
    }
    store_propose(service->options.store, command, on_begun, cloning);
}

/* ---- After a start of the node ---- */

/* Each entry of a folder; one that is not there has none. */
static void each_entry(const char *path, void (*visit)(const char *entry, void *context),
                       void *context)
{
    DIR *folder = opendir(path);
    const struct dirent *entry = NULL;
    while (folder != NULL && (entry = readdir(folder)) != NULL) {
        if (entry->d_name[0] != '.') {
            MEMORY_OWNED char *one = memory_format("%s/%s", path, entry->d_name);
            visit(one, context);
        }
    }
    if (folder != NULL) {
        closedir(folder);
    }
}

static void sweep_template(const char *path, void *context)
{
    (void)context;
    template_sweep(path);
}

static void sweep_snapshots(const char *of_a_machine, void *context)
{
    each_entry(of_a_machine, sweep_template, context);
}

/* What was laid out for a restore that did not come to its end. */
static void sweep_machine(const char *machine, void *context)
{
    (void)context;
    struct error ignored = {0};
    MEMORY_OWNED char *restoring = memory_format("%s/restoring", machine);
    file_remove_tree(restoring, &ignored);
}

/* A machine's own (an import has ID.snapshots beside it) waits to be taken, however long its node
 * was away. */
static void sweep_new(const char *path, void *context)
{
    struct error ignored = {0};
    struct stat status;
    const char *name = strrchr(path, '/') + 1;
    MEMORY_OWNED char *id = memory_copy_text(name, strcspn(name, "."));
    if (state_find_id(context, id) == NULL && stat(path, &status) == 0 &&
        (uint64_t)status.st_mtime + LEFT_AFTER_S < clock_real_ms() / 1000) {
        file_remove_tree(path, &ignored);
    }
}

void clone_sweep_new(struct machine_service *service)
{
    MEMORY_OWNED char *fresh = memory_format("%s/new", service->folder);
    each_entry(fresh, sweep_new, service);
}

void clone_sweep(struct machine_service *service)
{
    struct error ignored = {0};
    MEMORY_OWNED char *snapshots = memory_format("%s/snapshots", service->folder);
    MEMORY_OWNED char *cloning = memory_format("%s/cloning", service->folder);
    each_entry(snapshots, sweep_snapshots, NULL);
    each_entry(cloning, sweep_template, NULL);
    file_remove_tree(cloning, &ignored);
    each_entry(service->folder, sweep_machine, NULL);
}
