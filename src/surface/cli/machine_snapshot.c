/* Verbs about snapshots of machines, and what begins from one. */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"

#include "surface/cli/private.h"

#define COUNT(list) (sizeof(list) / sizeof((list)[0]))

static const struct column columns[] = {
    {"NAME", "name", AS_TEXT},   {"MEMORY", "memory", AS_TEXT}, {"SIZE", "size_bytes", AS_BYTES},
    {"STATE", "state", AS_TEXT}, {"NODE", "node", AS_TEXT},     {"CREATED", "created_at", AS_TEXT},
};

/* The path of a snapshot, or (NULL) of all of a machine. */
static char *target_of(const char *machine, const char *snapshot)
{
    MEMORY_OWNED char *all = request_target("machines", machine, "/snapshots");
    return snapshot == NULL ? memory_copy_string(all) : request_target(all + 4, snapshot, "");
}

/* ---- Waiting ---- */

static int begin(const char *method, const char *target, const json_t *body, json_t **ret_reference,
                 struct error *err)
{
    return body != NULL ? request_send(method, target, body, ret_reference, err)
                        : request_json(method, target, NULL, ret_reference, err);
}

static int wait_for(const struct arguments *arguments, const json_t *reference, bool *ret_is_over,
                    struct error *err)
{
    const char *operation = json_string_value(json_object_get(reference, "operation"));
    *ret_is_over = flag_value(arguments, "no-wait") == NULL;
    if (operation == NULL) {
        return error_set(err, ERROR_PROTOCOL, "the answer names no operation");
    }
    return *ret_is_over
        ? operation_wait_for(operation, NULL, err)
        : print_done(arguments, (json_t *)(uintptr_t)reference, err, "%s", operation);
}

/* ---- Snapshots ---- */

/* The newest: of one whose name the node has chosen. */
static int get_newest(const char *machine, json_t **ret_snapshot, struct error *err)
{
    JSON_OWNED json_t *list = NULL;
    MEMORY_OWNED char *target = target_of(machine, NULL);
    int r = request_json("GET", target, NULL, &list, err);
    const json_t *snapshots = json_object_get(list, "snapshots");
    json_t *last = json_array_get(snapshots, json_array_size(snapshots) - 1);
    if (r == 0 && last == NULL) {
        return error_set(err, ERROR_NOT_FOUND, "the snapshot was deleted meanwhile");
    }
    *ret_snapshot = r == 0 ? json_incref(last) : NULL;
    return r;
}

int verb_vm_snapshot_create(const struct arguments *arguments, struct error *err)
{
    const char *machine = arguments->words[0];
    const char *name = arguments->word_count > 1 ? arguments->words[1] : NULL;
    JSON_OWNED json_t *body = json_object();
    JSON_OWNED json_t *reference = NULL;
    JSON_OWNED json_t *snapshot = NULL;
    MEMORY_OWNED char *target = target_of(machine, NULL);
    bool is_over = false;
    if (name != NULL) {
        json_object_set_new(body, "name", json_string(name));
    }
    if (flag_value(arguments, "memory") != NULL) {
        json_object_set_new(body, "memory", json_true());
    }
    if (flag_value(arguments, "disk-only") != NULL) {
        json_object_set_new(body, "disk_only", json_true());
    }
    int r = begin("POST", target, body, &reference, err);
    r = r < 0 ? r : wait_for(arguments, reference, &is_over, err);
    if (r < 0 || !is_over) {
        return r;
    }
    MEMORY_OWNED char *one = target_of(machine, name != NULL ? name : "-");
    r = name != NULL ? request_json("GET", one, NULL, &snapshot, err)
                     : get_newest(machine, &snapshot, err);
    return r < 0 ? r
                 : print_done(arguments, snapshot, err, "snapshot %s of machine %s is there",
                              json_string_value(json_object_get(snapshot, "name")), machine);
}

int verb_vm_snapshot_list(const struct arguments *arguments, struct error *err)
{
    MEMORY_OWNED char *target = target_of(arguments->words[0], NULL);
    return print_target(arguments, target, "snapshots", columns, COUNT(columns), err);
}

int verb_vm_snapshot_show(const struct arguments *arguments, struct error *err)
{
    static const struct column facts[] = {
        {"name", "name", AS_TEXT},          {"machine", "machine", AS_TEXT},
        {"memory", "memory", AS_TEXT},      {"size", "size_bytes", AS_BYTES},
        {"state", "state", AS_TEXT},        {"node", "node", AS_TEXT},
        {"created", "created_at", AS_TEXT}, {"id", "id", AS_TEXT},
    };
    MEMORY_OWNED char *target = target_of(arguments->words[0], arguments->words[1]);
    return print_target(arguments, target, NULL, facts, COUNT(facts), err);
}

int verb_vm_snapshot_delete(const struct arguments *arguments, struct error *err)
{
    MEMORY_OWNED char *target = target_of(arguments->words[0], arguments->words[1]);
    JSON_OWNED json_t *done = json_pack("{s:s}", "deleted", arguments->words[1]);
    int r = request_json("DELETE", target, NULL, NULL, err);
    return r < 0 ? r
                 : print_done(arguments, done, err, "snapshot %s of machine %s is deleted",
                              arguments->words[1], arguments->words[0]);
}

/* ---- What begins from one ---- */

int verb_vm_restore(const struct arguments *arguments, struct error *err)
{
    const char *machine = arguments->words[0];
    JSON_OWNED json_t *body = json_pack("{s:s}", "snapshot", arguments->words[1]);
    JSON_OWNED json_t *reference = NULL;
    JSON_OWNED json_t *document = NULL;
    MEMORY_OWNED char *target = request_target("machines", machine, "/restore");
    MEMORY_OWNED char *one = request_target("machines", machine, "");
    bool is_over = false;
    if (flag_value(arguments, "disk-only") != NULL) {
        json_object_set_new(body, "disk_only", json_true());
    }
    int r = begin("POST", target, body, &reference, err);
    r = r < 0 ? r : wait_for(arguments, reference, &is_over, err);
    if (r < 0 || !is_over) {
        return r;
    }
    r = request_json("GET", one, NULL, &document, err);
    return r < 0 ? r
                 : print_done(arguments, document, err, "machine %s is as it was in snapshot %s",
                              machine, arguments->words[1]);
}

static int wait_for_all(const json_t *machines, struct error *err)
{
    size_t index = 0;
    json_t *machine = NULL;
    json_array_foreach(machines, index, machine)
    {
        const char *name = json_string_value(json_object_get(machine, "name"));
        const char *operation = json_string_value(json_object_get(machine, "operation"));
        if (name == NULL || operation == NULL) {
            return error_set(err, ERROR_PROTOCOL, "the answer names no operation");
        }
        if (operation_wait_for(operation, NULL, err) < 0) {
            return error_wrap(err, "%s", name);
        }
    }
    return 0;
}

int verb_vm_clone(const struct arguments *arguments, struct error *err)
{
    const char *count = flag_value(arguments, "count");
    const char *snapshot = flag_value(arguments, "snapshot");
    JSON_OWNED json_t *body = json_pack("{s:s}", "name", arguments->words[1]);
    JSON_OWNED json_t *reference = NULL;
    MEMORY_OWNED char *target = request_target("machines", arguments->words[0], "/clones");
    uint64_t number = 0;
    if (count != NULL && (!text_parse_u64(text_of(count, strlen(count)), &number) || number == 0)) {
        return error_set(err, ERROR_INVALID, "--count %.20s is no number from 1 on", count);
    }
    if (count != NULL) {
        json_object_set_new(body, "count", json_integer((json_int_t)number));
    }
    if (snapshot != NULL) {
        json_object_set_new(body, "snapshot", json_string(snapshot));
    }
    if (flag_value(arguments, "cold") != NULL) {
        json_object_set_new(body, "cold", json_true());
    }
    int r = begin("POST", target, body, &reference, err);
    json_t *machines = json_object_get(reference, "machines");
    if (r == 0 && flag_value(arguments, "no-wait") == NULL) {
        r = wait_for_all(machines, err);
    }
    if (r < 0) {
        return r;
    }
    return count != NULL
        ? print_done(arguments, reference, err, "machines %s-1 to %s-%s %s", arguments->words[1],
                     arguments->words[1], count,
                     flag_value(arguments, "no-wait") != NULL ? "are being made" : "are running")
        : print_done(arguments, reference, err, "machine %s %s", arguments->words[1],
                     flag_value(arguments, "no-wait") != NULL ? "is being made" : "is running");
}
