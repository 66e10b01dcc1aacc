/*
 * What is asked of machines that have no node yet, or not any more: nobody runs them, so that
 * whoever is asked writes what becomes of their rows.  A command that meets one which was placed
 * meanwhile, or whose node is back, fails with CONFLICT, and is asked for again at its node.
 */
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"

#include "engine/store/store.h"

#include "service/cluster/cluster.h"
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

static void add_belongings(struct machine_service *service, struct store_command *command,
                           const char *project, const char *name, const char *id)
{
    snapshot_add_forget(service, command, id);
    volume_add_detachment(service->options.volumes, project, name, NULL, command);
}

static void propose(struct machine_service *service, struct store_command *command,
                    const struct operation_start *start, machine_begun *done, void *context)
{
    struct acting *acting = NEW(struct acting);
    *acting = (struct acting){.service = service, .done = done, .context = context};
    operation_add(service->options.operations, command, start, acting->operation);
    service->pending++;
    store_propose(service->options.store, command, on_acted, acting);
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
    struct store_command *command = store_command_new();
    MEMORY_OWNED char *resource = memory_format("machines/%s", name);
    MEMORY_OWNED char *kind = memory_format("machine.%s", action);
    const struct operation_start start = {.kind = kind, .project = project, .resource = resource};
    if (deletes) {
        add_belongings(service, command, project, name, unplaced.id);
        store_command_add_expecting(
            command, ERROR_CONFLICT, "the machine was placed at this moment: try again",
            "DELETE FROM machine WHERE id = ? AND node = ''", "t", unplaced.id);
    } else {
        store_command_add_expecting(
            command, ERROR_CONFLICT, "the machine was placed at this moment: try again",
            "UPDATE machine SET desired = ?, revision = ? WHERE id = ? AND node = ''", "trt",
            starts ? "running" : "stopped", unplaced.id);
    }
    propose(service, command, &start, done, context);
    return true;
}

/* ---- On a node that is lost ---- */

struct stranded {
    char id[MACHINE_ID_SIZE];
    char node[64];
    bool starts_anew; /* on another node, by itself */
};

static bool take_stranded(sqlite3_stmt *row, void *context)
{
    struct stranded *stranded = context;
    snprintf(stranded->id, sizeof(stranded->id), "%s", store_text(row, 0));
    snprintf(stranded->node, sizeof(stranded->node), "%.63s", store_text(row, 1));
    stranded->starts_anew = sqlite3_column_int(row, 2) != 0;
    return false;
}

static int find_stranded(struct machine_service *service, const char *project, const char *name,
                         struct stranded *ret_stranded, struct error *err)
{
    MEMORY_OWNED char *key = memory_format("%s/%s", project, name);
    int r = store_query(service->options.store, err, take_stranded, ret_stranded,
                        "SELECT id, node, desired = 'running' AND coalesce(config ->> "
                        "'$.node_loss', '') = 'restart-fresh' FROM machine WHERE key = ?",
                        "t", key);
    return r < 0 || ret_stranded->id[0] != '\0'
        ? r
        : error_set(err, ERROR_NOT_FOUND, "there is no machine %.64s in project %s", name, project);
}

void machine_explain_lost(struct machine_service *service, const char *project, const char *name,
                          struct error *err)
{
    struct stranded stranded = {0};
    struct error ignored = {0};
    struct error lost = *err;
    find_stranded(service, project, name, &stranded, &ignored);
    error_set(err, lost.kind,
              "machine %.64s: its %.200s: %s; `blixard vm delete %.64s --force` "
              "gives it up",
              name, lost.text,
              stranded.starts_anew ? "it starts anew elsewhere, once nothing of it can run there"
                                   : "it can be used again when that is back",
              name);
}

/* UNAVAILABLE; *ret_reign 0: there is no such node any more. */
static int check_lost(const struct machine_service *service, const char *node, uint64_t *ret_reign,
                      struct error *err)
{
    struct cluster_view *view = cluster_view_ref(service->options.cluster);
    const struct cluster_node *found = cluster_view_find_name(view, node);
    bool is_there = found != NULL;
    *ret_reign = 0;
    bool is_lost = is_there && cluster_may_move(service->options.cluster, found->id, ret_reign);
    cluster_view_unref(view);
    return is_lost || !is_there
        ? 0
        : error_set(err, ERROR_UNAVAILABLE,
                    "whoever leads does not say yet that node %.63s is lost: try again", node);
}

void machine_give_up(struct machine_service *service, const char *project, const char *name,
                     machine_begun *done, void *context)
{
    struct stranded stranded = {0};
    struct error err = {0};
    uint64_t reign = 0;
    int r = find_stranded(service, project, name, &stranded, &err);
    r = r < 0 ? r : check_lost(service, stranded.node, &reign, &err);
    if (r < 0) {
        machine_answer(service, &err, done, NULL, context);
        return;
    }
    struct store_command *command = store_command_new();
    MEMORY_OWNED char *resource = memory_format("machines/%s", name);
    const struct operation_start start = {
        .kind = "machine.delete", .project = project, .resource = resource};
    const struct machine_event event = {.project = project,
                                        .machine = name,
                                        .machine_id = stranded.id,
                                        .node = stranded.node,
                                        .type = "vm.deleted",
                                        .state = "",
                                        .reason = "its node is lost, and it was given up"};
    add_belongings(service, command, project, name, stranded.id);
    store_command_add(command, "DELETE FROM machine_move WHERE key = ?", "t", stranded.id);
    store_command_add_expecting(
        command, ERROR_CONFLICT, "the node is back, or another one leads: try again",
        "DELETE FROM machine WHERE id = ?1 AND node = ?2 AND (EXISTS (SELECT 1 FROM cluster WHERE "
        "reign = ?3) OR ?3 = 0 AND NOT EXISTS (SELECT 1 FROM node WHERE key = ?2))",
        "ttu", stranded.id, stranded.node, reign);
    events_add(service, command, &event);
    propose(service, command, &start, done, context);
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
