/*
 * Another name for a machine: its row, and in the same command all that names it.  Its folder, its
 * addresses and its control group are by its id, so one that runs does not notice.
 */
#include "service/machine/rename.h"

#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"

#include "engine/store/store.h"

#include "service/machine/parts.h"

struct renaming {
    struct machine *machine;
    char *name;
    char operation[OPERATION_ID_SIZE];
    machine_changed *done;
    void *context;
};

static void on_renamed(const struct error *error, uint64_t index, void *context)
{
    struct renaming *renaming = context;
    struct machine *machine = renaming->machine;
    (void)index;
    machine->is_busy = false;
    machine->service->pending--;
    if (error != NULL) {
        operation_drop(machine->service->options.operations, renaming->operation);
        renaming->done(error, NULL, NULL, NULL, renaming->context);
    } else {
        JSON_OWNED json_t *nothing = json_array();
        operation_succeed(machine->service->options.operations, renaming->operation, NULL);
        renaming->done(NULL, renaming->name, renaming->operation, nothing, renaming->context);
    }
    free(renaming->name);
    free(renaming);
    if (machine->is_gone) {
        machine_unref(machine);
    } else {
        machine_step(machine);
    }
}

/* The row first: whoever hears of the others finds the machine by its new name. */
static void add_row(struct store_command *command, const struct machine *machine, const char *was,
                    const json_t *config, const char *name)
{
    MEMORY_OWNED char *exists =
        memory_format("there is a machine %s already, or it was changed meanwhile", name);
    MEMORY_OWNED char *key = memory_format("%s/%s", machine->project, name);
    MEMORY_OWNED char *text = json_dumps(config, JSON_COMPACT | JSON_SORT_KEYS);
    store_command_add_expecting(
        command, ERROR_EXISTS, exists,
        "UPDATE machine SET key = ?1, name = ?2, revision = ?3, config = ?4 WHERE id = ?5 AND "
        "node = ?6 AND config = ?7 AND NOT EXISTS (SELECT 1 FROM machine WHERE key = ?1)",
        "ttrtttt", key, name, text, machine->id, machine->service->node_name, was);
    MEMORY_OWNED char *reason = memory_format("it was %s", machine->name);
    const struct machine_event event = {.project = machine->project,
                                        .machine = name,
                                        .machine_id = machine->id,
                                        .node = machine->service->node_name,
                                        .type = "vm.renamed",
                                        .state = machine_state_text(machine->state),
                                        .reason = reason};
    events_add(machine->service, command, &event);
}

struct reading {
    struct store_command *command;
    const struct machine *machine;
    const char *name;
    struct error error;
};

static bool replace(json_t *list, const char *old, const char *name)
{
    bool has_it = false;
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *word = json_string_value(json_array_get(list, i));
        if (word != NULL && strcmp(word, old) == 0) {
            json_array_set_new(list, i, json_string(name));
            has_it = true;
        }
    }
    return has_it;
}

/* A machine of the project: itself, or one that starts after it. */
static bool take_row(sqlite3_stmt *row, void *context)
{
    struct reading *reading = context;
    const struct machine *machine = reading->machine;
    const char *id = (const char *)sqlite3_column_text(row, 0);
    const char *was = (const char *)sqlite3_column_text(row, 1);
    bool is_own = strcmp(id, machine->id) == 0;
    JSON_OWNED json_t *config = NULL;
    if (json_read(was, strlen(was), &config, &reading->error) < 0) {
        return false;
    }
    if (is_own) {
        if (strcmp(json_text(config, "hostname"), machine->name) == 0) {
            json_object_set_new(config, "hostname", json_string(reading->name));
        }
        json_object_set_new(config, "name", json_string(reading->name));
        add_row(reading->command, machine, was, config, reading->name);
    } else if (replace(json_object_get(config, "after"), machine->name, reading->name)) {
        MEMORY_OWNED char *text = json_dumps(config, JSON_COMPACT | JSON_SORT_KEYS);
        store_command_add_expecting(
            reading->command, ERROR_CONFLICT,
            "a machine that starts after it was changed meanwhile: try again",
            "UPDATE machine SET config = ?, revision = ? WHERE id = ? AND config = ?", "trtt", text,
            id, was);
    }
    return true;
}

static int add_machines(struct store_command *command, const struct machine *machine,
                        const char *name, struct error *err)
{
    struct reading reading = {.command = command, .machine = machine, .name = name};
    int r = store_query(machine->service->options.store, err, take_row, &reading,
                        "SELECT id, config FROM machine WHERE project = ?1 ORDER BY id <> ?2, id",
                        "tt", machine->project, machine->id);
    if (r == 0 && reading.error.kind != ERROR_NONE) {
        *err = reading.error;
    }
    return r < 0 ? r : -(int)reading.error.kind;
}

static void add_others(struct store_command *command, const struct machine *machine,
                       const char *name)
{
    MEMORY_OWNED char *key = memory_format("%s/%s", machine->project, name);
    MEMORY_OWNED char *was = memory_format("machines/%s", machine->name);
    MEMORY_OWNED char *is = memory_format("machines/%s", name);
    if (state_has_health(machine->service)) { /* version 7 has these, too */
        store_command_add(command,
                          "UPDATE machine_snapshot SET key = ?1 || '/' || name, machine = ?2, "
                          "revision = ?3 WHERE machine_id = ?4",
                          "ttrt", key, name, machine->id);
        store_command_add(command,
                          "UPDATE volume SET machine = ?1, revision = ?2 WHERE project = ?3 AND "
                          "machine = ?4",
                          "trtt", name, machine->project, machine->name);
    }
    store_command_add(command,
                      "UPDATE operation SET resource = ?1 WHERE project = ?2 AND resource = ?3",
                      "ttt", is, machine->project, was);
}

static int check(const struct machine *machine, const json_t *update, struct error *err)
{
    const char *name = json_text(update, "name");
    MEMORY_OWNED char *node = NULL;
    struct error ignored = {0};
    if (!text_is_name(name)) {
        return error_set(err, ERROR_INVALID,
                         "\"%.64s\" is no name: 1 to 63 of a-z, 0-9 and '-', beginning with a "
                         "letter",
                         name);
    }
    if (json_object_size(update) > 1) {
        return error_set(err, ERROR_INVALID, "name stands alone: a machine is renamed by itself");
    }
    return machine_node(machine->service, machine->project, name, &node, &ignored) < 0
        ? 0
        : error_set(err, ERROR_EXISTS, "there is a machine %s already", name);
}

void rename_machine(struct machine *machine, const json_t *update, machine_changed *done,
                    void *context)
{
    struct machine_service *service = machine->service;
    const char *name = json_text(update, "name");
    struct error err = {0};
    if (check(machine, update, &err) < 0) {
        done(&err, NULL, NULL, NULL, context);
        return;
    }
    struct store_command *command = store_command_new();
    if (add_machines(command, machine, name, &err) < 0) {
        store_command_free(command);
        done(&err, NULL, NULL, NULL, context);
        return;
    }
    struct renaming *renaming = NEW(struct renaming);
    *renaming = (struct renaming){
        .machine = machine, .name = memory_copy_string(name), .done = done, .context = context};
    MEMORY_OWNED char *resource = memory_format("machines/%s", name);
    const struct operation_start start = {
        .kind = "machine.rename", .project = machine->project, .resource = resource};
    add_others(command, machine, name);
    operation_add(service->options.operations, command, &start, renaming->operation);
    machine->is_busy = true;
    service->pending++;
    store_propose(service->options.store, command, on_renamed, renaming);
}
