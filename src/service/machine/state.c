/* The rows of machines: read when they change, written by their node. */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "engine/store/store.h"

#include "service/machine/parts.h"

enum { RETRY_MS = 1000 };

#define COLUMNS "key, project, name, id, config, desired, state, reason, restarts, started_ms"

bool state_has_health(const struct machine_service *service)
{
    enum { SCHEMA_WITH_HEALTH = 7 };
    return store_schema_now(service->options.store) >= SCHEMA_WITH_HEALTH;
}

bool state_has_runners(const struct machine_service *service)
{
    enum { SCHEMA_WITH_RUNNERS = 9 };
    return store_schema_now(service->options.store) >= SCHEMA_WITH_RUNNERS;
}

struct machine *state_find(struct machine_service *service, const char *project, const char *name)
{
    LIST_EACH(node, &service->machines)
    {
        struct machine *machine = LIST_ITEM(node, struct machine, link);
        if (!machine->is_gone && strcmp(machine->project, project) == 0 &&
            strcmp(machine->name, name) == 0) {
            return machine;
        }
    }
    return NULL;
}

struct machine *state_find_id(struct machine_service *service, const char *id)
{
    LIST_EACH(node, &service->machines)
    {
        struct machine *machine = LIST_ITEM(node, struct machine, link);
        if (!machine->is_gone && strcmp(machine->id, id) == 0) {
            return machine;
        }
    }
    return NULL;
}

/* ---- Reading ---- */

static struct machine *new_machine(struct machine_service *service, sqlite3_stmt *row)
{
    struct machine *machine = NEW(struct machine);
    machine->stop_ms = MACHINE_STOP_MS_NODE;
    machine->service = service;
    machine->is_new = true;
    machine->key = memory_copy_string(store_text(row, 0));
    machine->project = memory_copy_string(store_text(row, 1));
    machine->name = memory_copy_string(store_text(row, 2));
    snprintf(machine->id, sizeof(machine->id), "%s", store_text(row, 3));
    machine->folder = memory_format("%s/%s", service->folder, machine->id);
    machine_state_parse(store_text(row, 6), &machine->state);
    snprintf(machine->reason, sizeof(machine->reason), "%.380s", store_text(row, 7));
    machine->restarts = (uint64_t)sqlite3_column_int64(row, 8);
    machine->started_ms = (uint64_t)sqlite3_column_int64(row, 9);
    list_init(&machine->changes);
    list_init(&machine->news);
    list_push_back(&service->machines, &machine->link);
    return machine;
}

/* It is called otherwise from now on. */
static void take_name(struct machine *machine, sqlite3_stmt *row)
{
    log_info("machine %s is %s now", machine->key, store_text(row, 0));
    free(machine->key);
    free(machine->name);
    machine->key = memory_copy_string(store_text(row, 0));
    machine->name = memory_copy_string(store_text(row, 2));
}

/* What others may write: settings and what is wanted.  The state is ours alone. */
static bool take_row(sqlite3_stmt *row, void *context)
{
    struct machine_service *service = context;
    struct machine *machine = state_find_id(service, store_text(row, 3));
    struct error err = {0};
    JSON_OWNED json_t *config = NULL;
    if (json_read(store_text(row, 4), strlen(store_text(row, 4)), &config, &err) < 0) {
        log_error("machine %s: %s", store_text(row, 0), err.text);
        return true;
    }
    if (machine == NULL) {
        machine = new_machine(service, row);
    } else if (strcmp(machine->key, store_text(row, 0)) != 0) {
        take_name(machine, row);
    }
    json_decref(machine->config);
    machine->config = config;
    config = NULL;
    machine_strategy_parse(json_text(machine->config, "strategy"), &machine->strategy);
    machine_desired_parse(store_text(row, 5), &machine->desired);
    return true;
}

/* By its id: one that was renamed is there. */
static void drop_if_missing(struct machine_service *service, struct machine *machine)
{
    bool is_there = false;
    struct error err = {0};
    int r = store_query(service->options.store, &err, store_take_any, &is_there,
                        "SELECT 1 FROM machine WHERE id = ? AND node = ?", "tt", machine->id,
                        service->node_name);
    if (r == 0 && !is_there && !machine->is_gone) {
        machine->is_gone = true;
        bool has_moved = machine->migration != NULL;
        machine_run_detach(machine);
        machine_leave_operation(machine);
        if (!has_moved) {
            fence_leave(machine);
        }
        machine_unref(machine);
    }
}

void state_load(struct machine_service *service, const char *key_or_null)
{
    struct error err = {0};
    int r = key_or_null == NULL
        ? store_query(service->options.store, &err, take_row, service,
                      "SELECT " COLUMNS " FROM machine WHERE node = ? ORDER BY created_ms", "t",
                      service->node_name)
        : store_query(service->options.store, &err, take_row, service,
                      "SELECT " COLUMNS " FROM machine WHERE node = ? AND key = ?", "tt",
                      service->node_name, key_or_null);
    if (r < 0) {
        log_error("reading machines: %s", err.text);
    }
    LIST_EACH(node, &service->machines)
    {
        struct machine *machine = LIST_ITEM(node, struct machine, link);
        if (key_or_null == NULL || strcmp(machine->key, key_or_null) == 0) {
            drop_if_missing(service, machine);
        }
    }
}

/* ---- Writing ---- */

static void on_published(const struct error *error, uint64_t index, void *context)
{
    struct machine *machine = context;
    struct machine_service *service = machine->service;
    (void)index;
    machine->is_publishing = false;
    service->pending--;
    if (error == NULL || error->kind == ERROR_CONFLICT) {
        events_forget(machine, true);
    }
    if (error != NULL && error->kind != ERROR_CONFLICT) {
        machine->is_dirty = true;
        if (!service->is_over) {
            loop_timer_start(service->retry, RETRY_MS);
        }
    } else if (machine->is_dirty && !service->is_over) {
        state_publish(machine);
    }
    machine_unref(machine);
}

void state_publish(struct machine *machine)
{
    struct machine_service *service = machine->service;
    machine->is_dirty = machine->is_publishing;
    if (machine->is_publishing || machine->is_gone) {
        return;
    }
    struct store_command *command = store_command_new();
    store_command_add_expecting(
        command, ERROR_CONFLICT, "the machine is another node's",
        "UPDATE machine SET state = ?, reason = nullif(?, ''), restarts = ?, started_ms = "
        "nullif(?, 0), revision = ? WHERE id = ? AND node = ?",
        "ttuurtt", machine_state_text(machine->state), machine->reason, machine->restarts,
        machine->started_ms, machine->id, service->node_name);
    if (state_has_health(service)) {
        store_command_add(
            command,
            "UPDATE machine SET health = nullif(?, ''), health_reason = nullif(?, '') "
            "WHERE id = ? AND node = ?",
            "tttt", machine_health_text(health_of(machine)), health_reason(machine), machine->id,
            service->node_name);
    }
    if (state_has_runners(service)) {
        store_command_add(command,
                          "UPDATE machine SET booted_runner = nullif(?, '') WHERE id = ? AND node "
                          "= ?",
                          "ttt", runner_booted(machine), machine->id, service->node_name);
    }
    events_add_news(machine, command);
    machine->is_publishing = true;
    service->pending++;
    store_propose(service->options.store, command, on_published, machine);
}

static void on_wanted(const struct error *error, uint64_t index, void *context)
{
    struct machine_service *service = context;
    (void)index;
    service->pending--;
    if (error != NULL) {
        log_warn("what is wanted of a machine could not be written: %s", error->text);
    }
}

/* It is so here at once: what the machine does next does not wait for the log. */
void state_want(struct machine *machine, enum machine_desired desired)
{
    struct machine_service *service = machine->service;
    struct store_command *command = store_command_new();
    store_command_add(
        command, "UPDATE machine SET desired = ?, revision = ? WHERE id = ? AND desired = ?",
        "trtt", machine_desired_text(desired), machine->id, machine_desired_text(machine->desired));
    machine->desired = desired;
    service->pending++;
    store_propose(service->options.store, command, on_wanted, service);
}
