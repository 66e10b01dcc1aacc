/*
 * What is asked of machines that have no node yet: nobody runs them, so that whoever is asked
 * writes what becomes of their rows.  A command that meets one which was placed meanwhile fails
 * with CONFLICT, and is asked for again at its node.
 */
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"

#include "engine/store/store.h"

#include "service/machine/parts.h"
#include "service/machine/snapshot.h"
#include "service/volume/volume.h"

struct unplaced {
    char id[MACHINE_ID_SIZE];
    char *was; /* its settings, as the row has them */
    bool is_pending;
};

static bool take_row(sqlite3_stmt *row, void *context)
{
    struct unplaced *unplaced = context;
    snprintf(unplaced->id, sizeof(unplaced->id), "%s", store_text(row, 0));
    unplaced->was = memory_copy_string(store_text(row, 1));
    unplaced->is_pending = store_text(row, 2)[0] == '\0';
    return false;
}

static bool find(struct machine_service *service, const char *project, const char *name,
                 struct unplaced *ret_unplaced)
{
    struct error ignored = {0};
    MEMORY_OWNED char *key = memory_format("%s/%s", project, name);
    return store_query(service->options.store, &ignored, take_row, ret_unplaced,
                       "SELECT id, config, node FROM machine WHERE key = ?", "t", key) == 0 &&
        ret_unplaced->is_pending;
}

/* ---- Started, stopped, deleted ---- */

struct acting {
    struct machine_service *service;
    char operation[OPERATION_ID_SIZE];
    machine_begun *done;
    void *context;
};

static void on_acted(const struct error *error, uint64_t index, void *context)
{
    struct acting *acting = context;
    struct machine_service *service = acting->service;
    (void)index;
    service->pending--;
    if (operation_tell(service->options.operations, acting->operation, error, acting->done,
                       acting->context)) {
        operation_succeed(service->options.operations, acting->operation, NULL);
    }
    free(acting);
}

static void add_deletion(struct machine_service *service, struct store_command *command,
                         const char *project, const char *name, const char *id)
{
    snapshot_add_forget(service, command, id);
    volume_add_detachment(service->options.volumes, project, name, NULL, command);
    store_command_add_expecting(command, ERROR_CONFLICT,
                                "the machine was placed at this moment: try again",
                                "DELETE FROM machine WHERE id = ? AND node = ''", "t", id);
}

bool unplaced_act(struct machine_service *service, const char *project, const char *name,
                  const char *action, machine_begun *done, void *context)
{
    struct unplaced unplaced = {0};
    struct error err = {0};
    bool deletes = strcmp(action, "delete") == 0;
    bool starts = strcmp(action, "start") == 0;
    bool is_it = find(service, project, name, &unplaced);
    free(unplaced.was);
    if (!is_it) {
        return false;
    }
    if (!deletes && !starts && strcmp(action, "stop") != 0 && strcmp(action, "kill") != 0) {
        error_set(&err, ERROR_CONFLICT,
                  "machine %s waits for room: there is nothing to %.32s (`blixard placement "
                  "explain %s`)",
                  name, action, name);
        machine_answer(service, &err, done, NULL, context);
        return true;
    }
    struct acting *acting = NEW(struct acting);
    *acting = (struct acting){.service = service, .done = done, .context = context};
    struct store_command *command = store_command_new();
    MEMORY_OWNED char *resource = memory_format("machines/%s", name);
    MEMORY_OWNED char *kind = memory_format("machine.%s", action);
    const struct operation_start start = {.kind = kind, .project = project, .resource = resource};
    operation_add(service->options.operations, command, &start, acting->operation);
    if (deletes) {
        add_deletion(service, command, project, name, unplaced.id);
    } else {
        store_command_add_expecting(
            command, ERROR_CONFLICT, "the machine was placed at this moment: try again",
            "UPDATE machine SET desired = ?, revision = ? WHERE id = ? AND node = ''", "trt",
            starts ? "running" : "stopped", unplaced.id);
    }
    service->pending++;
    store_propose(service->options.store, command, on_acted, acting);
    return true;
}

/* ---- Changed ---- */

struct changing {
    struct machine_service *service;
    char *name;
    char operation[OPERATION_ID_SIZE];
    machine_changed *done;
    void *context;
};

static void on_changed(const struct error *error, uint64_t index, void *context)
{
    struct changing *changing = context;
    struct machine_service *service = changing->service;
    JSON_OWNED json_t *nothing = json_array();
    (void)index;
    service->pending--;
    if (error != NULL) {
        operation_drop(service->options.operations, changing->operation);
        changing->done(error, NULL, NULL, NULL, changing->context);
    } else {
        changing->done(NULL, changing->name, changing->operation, nothing, changing->context);
        operation_succeed(service->options.operations, changing->operation, NULL);
    }
    free(changing->name);
    free(changing);
}

static int merge(const struct unplaced *unplaced, const json_t *update, json_t **ret_changed,
                 struct error *err)
{
    JSON_OWNED json_t *config = NULL;
    int r = json_object_get(update, "name") != NULL
        ? error_set(err, ERROR_CONFLICT,
                    "the machine waits for room: it is renamed when it has a "
                    "node")
        : json_read(unplaced->was, strlen(unplaced->was), &config, err);
    return r < 0 ? r : change_merge(config, update, ret_changed, err);
}

bool unplaced_update(struct machine_service *service, const char *project, const char *name,
                     const json_t *update, machine_changed *done, void *context)
{
    struct unplaced unplaced = {0};
    struct error err = {0};
    JSON_OWNED json_t *changed = NULL;
    bool is_it = find(service, project, name, &unplaced);
    MEMORY_OWNED char *was = unplaced.was;
    if (!is_it) {
        return false;
    }
    if (merge(&unplaced, update, &changed, &err) < 0) {
        done(&err, NULL, NULL, NULL, context);
        return true;
    }
    MEMORY_OWNED char *text = json_dumps(changed, JSON_COMPACT | JSON_SORT_KEYS);
    struct changing *changing = NEW(struct changing);
    *changing = (struct changing){
        .service = service, .name = memory_copy_string(name), .done = done, .context = context};
    struct store_command *command = store_command_new();
    MEMORY_OWNED char *resource = memory_format("machines/%s", name);
    const struct operation_start start = {
        .kind = "machine.update", .project = project, .resource = resource};
    operation_add(service->options.operations, command, &start, changing->operation);
    store_command_add_expecting(
        command, ERROR_CONFLICT, "the machine was changed or placed meanwhile: try again",
        "UPDATE machine SET config = ?, revision = ? WHERE id = ? AND node = '' AND config = ?",
        "trtt", text, unplaced.id, was);
    draft_add_claim(service, command, unplaced.id, changed);
    JSON_OWNED json_t *before = json_loads(was, 0, NULL);
    settings_add_quota(service, command, project, before, changed);
    service->pending++;
    store_propose(service->options.store, command, on_changed, changing);
    return true;
}
