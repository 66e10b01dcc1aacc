/* One object: what is wanted, what is there, who else wants something of it. */
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/json.h"
#include "base/memory.h"

#include "service/manifest/parts.h"

/* ---- Fields by their paths: "cpus", "environment.PORT", "cors.origins" ---- */

static bool has_parts(const struct schema_field *field, const json_t *value)
{
    return field != NULL && (field->is.kind == SCHEMA_MAP || field->is.kind == SCHEMA_REF) &&
        json_is_object(value);
}

/* What a machine's node alone is to keep (user data) is known here by its digest. */
static void add_leaf(json_t *leaves, const char *path, json_t *value)
{
    if (strcmp(path, "user_data") == 0 && json_is_string(value)) {
        json_object_set_new(leaves, path, observe_digest(json_string_value(value)));
    } else {
        json_object_set(leaves, path, value);
    }
}

json_t *spec_leaves(const struct manifest_kind *kind, const json_t *spec)
{
    json_t *leaves = json_object();
    const char *key = NULL;
    const char *part = NULL;
    json_t *value = NULL;
    json_t *member = NULL;
    json_object_foreach((json_t *)(uintptr_t)spec, key, value)
    {
        if (!has_parts(schema_find(kind->create, key), value)) {
            add_leaf(leaves, key, value);
            continue;
        }
        json_object_foreach(value, part, member)
        {
            MEMORY_OWNED char *path = memory_format("%s.%s", key, part);
            json_object_set(leaves, path, member);
        }
    }
    return leaves;
}

json_t *spec_at(const json_t *spec, const char *path)
{
    size_t length = strcspn(path, ".");
    MEMORY_OWNED char *field = memory_copy_text(path, length);
    json_t *value = json_object_get(spec, field);
    return path[length] == '.' ? json_object_get(value, path + length + 1) : value;
}

void spec_set(json_t *spec, const char *path, json_t *value)
{
    size_t length = strcspn(path, ".");
    MEMORY_OWNED char *field = memory_copy_text(path, length);
    if (path[length] != '.') {
        json_object_set(spec, field, value);
        return;
    }
    json_t *inside = json_object_get(spec, field);
    if (!json_is_object(inside)) {
        json_object_set_new(spec, field, json_object());
        inside = json_object_get(spec, field);
    }
    json_object_set(inside, path + length + 1, value);
}

void spec_remove(json_t *spec, const char *path)
{
    size_t length = strcspn(path, ".");
    MEMORY_OWNED char *field = memory_copy_text(path, length);
    json_t *inside = json_object_get(spec, field);
    if (path[length] != '.') {
        json_object_del(spec, field);
        return;
    }
    json_object_del(inside, path + length + 1);
    if (json_object_size(inside) == 0) {
        json_object_del(spec, field);
    }
}

/* ---- Owners ---- */

static const json_t *own_row(const struct action *action, const char *owner)
{
    size_t index = 0;
    json_t *row = NULL;
    json_array_foreach(action->rows, index, row)
    {
        if (strcmp(json_text(row, "owner"), owner) == 0) {
            return row;
        }
    }
    return NULL;
}

static bool is_anothers(const struct action *action, const char *owner, const char *path)
{
    size_t index = 0;
    json_t *row = NULL;
    json_array_foreach(action->rows, index, row)
    {
        if (strcmp(json_text(row, "owner"), owner) != 0 &&
            json_object_get(json_object_get(row, "fields"), path) != NULL) {
            return true;
        }
    }
    return false;
}

static void find_conflicts(struct action *action, const char *owner, const char *path,
                           const json_t *want)
{
    size_t index = 0;
    json_t *row = NULL;
    json_array_foreach(action->rows, index, row)
    {
        json_t *field = json_object_get(json_object_get(row, "fields"), path);
        json_t *value = json_object_get(field, "value");
        if (field != NULL && strcmp(json_text(row, "owner"), owner) != 0 &&
            json_equal(value, want) != 1) {
            json_array_append_new(action->conflicts,
                                  json_pack("{s:s,s:O,s:O}", "path", path, "owner",
                                            json_object_get(row, "owner"), "value", value));
        }
    }
}

/* ---- Differences ---- */

/* What a change of this takes. */
static const char *effect_of(const struct manifest_kind *kind, const char *path)
{
    static const char *const restarts[] = {"cpus",
                                           "memory_bytes",
                                           "cpu_limit_percent",
                                           "publish",
                                           "disk_iops",
                                           "disk_bandwidth",
                                           "disk_read_iops",
                                           "disk_write_iops",
                                           "disk_read_bandwidth",
                                           "disk_write_bandwidth"};
    MEMORY_OWNED char *field = memory_copy_text(path, strcspn(path, "."));
    bool is_machine = strcmp(kind->name, "Machine") == 0;
    for (size_t i = 0; is_machine && i < sizeof(restarts) / sizeof(restarts[0]); i++) {
        if (strcmp(restarts[i], field) == 0) {
            return "restart";
        }
    }
    if ((kind->way != WAY_PATCH && kind->way != WAY_ONCE) ||
        schema_find(kind->update, field) != NULL || (is_machine && strcmp(field, "volumes") == 0)) {
        return "";
    }
    return "replace";
}

static void add_change(struct action *action, const char *path, json_t *before, json_t *after)
{
    json_t *change = json_pack("{s:s,s:s}", "path", path, "effect",
                               action->observed != NULL ? effect_of(action->kind, path) : "");
    json_object_set_new(change, "before", before != NULL ? json_incref(before) : json_null());
    json_object_set_new(change, "after", after != NULL ? json_incref(after) : json_null());
    json_array_append_new(action->changes, change);
}

/* What became of the value when it was applied is still so. */
static bool is_settled(const struct action *action, const json_t *field, const char *path,
                       const json_t *want, const json_t *have)
{
    const json_t *settled = json_object_get(field, "settled");
    if (field == NULL || json_equal(json_object_get(field, "value"), want) != 1) {
        return false;
    }
    return json_object_get(field, "is_settled") != NULL &&
        observe_equal(action->kind, path, have, json_is_null(settled) ? NULL : settled);
}

static bool is_same(const struct action *action, const json_t *row, const char *path,
                    const json_t *want)
{
    const json_t *have = spec_at(action->observed, path);
    const json_t *field = json_object_get(json_object_get(row, "fields"), path);
    if (action->kind->has_node && strcmp(path, "node") == 0) {
        return true; /* where it is made; it may go elsewhere by itself */
    }
    if (!observe_can_see(action->kind, path)) {
        return field == NULL || json_equal(json_object_get(field, "value"), want) == 1;
    }
    return observe_equal(action->kind, path, have, want) ||
        is_settled(action, field, path, want, have);
}

static void compare_wanted(struct action *action, const json_t *leaves, const json_t *row,
                           const char *owner)
{
    const char *path = NULL;
    json_t *want = NULL;
    json_object_foreach((json_t *)(uintptr_t)leaves, path, want)
    {
        if (action->observed != NULL) {
            find_conflicts(action, owner, path, want);
        }
        if (action->observed == NULL || !is_same(action, row, path, want)) {
            add_change(action, path, spec_at(action->observed, path), want);
        }
    }
}

/* What the owner wanted before, and does not any more: nobody's, or another's alone. */
static void compare_released(struct action *action, const json_t *leaves, const json_t *row,
                             const char *owner)
{
    const char *path = NULL;
    json_t *field = NULL;
    bool is_whole = action->kind->way == WAY_PUT || action->kind->way == WAY_FUNCTION ||
        action->kind->way == WAY_ALIAS;
    json_object_foreach(json_object_get(row, "fields"), path, field)
    {
        if (json_object_get(leaves, path) != NULL) {
            continue;
        }
        json_array_append_new(action->released, json_string(path));
        json_t *have = spec_at(action->observed, path);
        const struct schema_field *type = schema_find(action->kind->create, path);
        JSON_OWNED json_t *reset = is_whole ? json_null() : kind_reset(action->kind, path);
        bool must_stay = reset == NULL || (type != NULL && type->always);
        bool is_reset = have == NULL ||
            (reset != NULL && !json_is_null(reset) &&
             observe_equal(action->kind, path, have, reset));
        if (!is_reset && !must_stay && !is_anothers(action, owner, path)) {
            add_change(action, path, have, json_is_null(reset) ? NULL : reset);
        }
    }
}

static bool any_effect(const struct action *action, const char *effect)
{
    size_t index = 0;
    json_t *change = NULL;
    json_array_foreach(action->changes, index, change)
    {
        if (strcmp(json_text(change, "effect"), effect) == 0) {
            return true;
        }
    }
    return false;
}

static bool is_row_as_wanted(const struct action *action, const json_t *row, const json_t *leaves)
{
    const char *path = NULL;
    json_t *want = NULL;
    const json_t *fields = json_object_get(row, "fields");
    if (row == NULL || json_equal(json_object_get(row, "labels"), action->labels) != 1 ||
        json_object_size(fields) != json_object_size(leaves)) {
        return false;
    }
    json_object_foreach((json_t *)(uintptr_t)leaves, path, want)
    {
        if (json_equal(json_object_get(json_object_get(fields, path), "value"), want) != 1) {
            return false;
        }
    }
    return true;
}

static enum action_what judge(const struct action *action)
{
    bool must_be_there = action->kind->way == WAY_REFERENCE || action->kind->way == WAY_NODE;
    if (action->observed == NULL) {
        return must_be_there ? ACTION_MISSING : ACTION_CREATE;
    }
    if (json_array_size(action->changes) == 0) {
        return ACTION_NONE;
    }
    return any_effect(action, "replace") ? ACTION_REPLACE : ACTION_UPDATE;
}

int action_decide(struct action *action, const char *owner, struct error *err)
{
    CHECK(action->rows != NULL && action->changes == NULL);
    action->changes = json_array();
    action->conflicts = json_array();
    action->released = json_array();
    if (action->spec == NULL) {
        bool stays = action->kind->way == WAY_REFERENCE || action->kind->way == WAY_NODE;
        action->what = action->observed != NULL && !stays ? ACTION_DELETE : ACTION_NONE;
        action->adopts = action->what == ACTION_NONE && json_array_size(action->rows) > 0;
        return 0;
    }
    JSON_OWNED json_t *leaves = spec_leaves(action->kind, action->spec);
    const json_t *own = own_row(action, owner);
    const json_t *row = action->observed != NULL ? own : NULL;
    if (action->kind->way == WAY_ONCE && action->observed == NULL &&
        is_row_as_wanted(action, own, leaves)) {
        return 0; /* it was made, and has ended by itself */
    }
    compare_wanted(action, leaves, row, owner);
    compare_released(action, leaves, row, owner);
    action->what = judge(action);
    action->adopts = action->what == ACTION_NONE && !is_row_as_wanted(action, row, leaves);
    return action->what == ACTION_CREATE || action->what == ACTION_REPLACE
        ? spec_check_whole(action->kind, action->spec, action->place, err)
        : 0;
}

const char *action_text(enum action_what what)
{
    static const char *const texts[] = {
        [ACTION_NONE] = "none",       [ACTION_CREATE] = "create", [ACTION_UPDATE] = "update",
        [ACTION_REPLACE] = "replace", [ACTION_DELETE] = "delete", [ACTION_MISSING] = "missing",
    };
    return texts[what];
}

void action_done(struct action *action)
{
    free(action->name);
    free(action->project);
    free(action->place);
    json_decref(action->labels);
    json_decref(action->spec);
    json_decref(action->observed);
    json_decref(action->rows);
    json_decref(action->changes);
    json_decref(action->conflicts);
    json_decref(action->released);
    json_decref(action->lacks);
    json_decref(action->placement);
    *action = (struct action){0};
}
