/* What is to be done with an object, as requests of the API. */
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"

#include "service/manifest/parts.h"

static void add_call(json_t *calls, const char *method, const char *target, json_t *owned_body)
{
    json_t *call = json_pack("{s:s,s:s}", "method", method, "target", target);
    if (owned_body != NULL) {
        json_object_set_new(call, "body", owned_body);
    }
    json_array_append_new(calls, call);
}

char *calls_below(const struct action *action, const char *folder, const char *name)
{
    BUFFER_OWNED struct buffer target = {0};
    MEMORY_OWNED char *whole = ask_target(action->kind, action->project, action->name);
    size_t length = strcspn(whole, "?");
    buffer_append(&target, whole, length);
    buffer_append_format(&target, "/%s", folder);
    if (name != NULL) {
        buffer_append_byte(&target, '/');
        http_percent_encode(&target, text_of(name, strlen(name)));
    }
    buffer_append_string(&target, whole + length);
    return buffer_take(&target);
}

/* What is there, with what is wanted, and without what nobody wants any more. */
json_t *calls_whole(const struct action *action)
{
    json_t *whole = action->observed != NULL ? json_deep_copy(action->observed) : json_object();
    JSON_OWNED json_t *leaves = spec_leaves(action->kind, action->spec);
    const char *path = NULL;
    size_t index = 0;
    json_t *value = NULL;
    json_t *change = NULL;
    json_array_foreach(action->changes, index, change)
    {
        if (json_is_null(json_object_get(change, "after"))) {
            spec_remove(whole, json_text(change, "path"));
        }
    }
    json_object_foreach(leaves, path, value)
    {
        spec_set(whole, path, value);
    }
    return whole;
}

/* A new one has what its other owners want, too. */
json_t *calls_creation(const struct action *action)
{
    json_t *body = json_deep_copy(action->spec);
    const char *path = NULL;
    size_t index = 0;
    json_t *row = NULL;
    json_t *field = NULL;
    json_array_foreach(action->what == ACTION_REPLACE ? action->rows : NULL, index, row)
    {
        json_object_foreach(json_object_get(row, "fields"), path, field)
        {
            if (spec_at(body, path) == NULL && strcmp(path, "user_data") != 0) {
                spec_set(body, path, json_object_get(field, "value"));
            }
        }
    }
    json_object_set_new(body, "name", json_string(action->name));
    return body;
}

static void add_creation(json_t *calls, const struct action *action)
{
    json_t *body = calls_creation(action);
    bool is_field = schema_find(action->kind->create, "node") != NULL;
    const char *node = action->kind->has_node && !is_field ? json_text(body, "node") : "";
    BUFFER_OWNED struct buffer target = {0};
    buffer_append_format(&target, "/v1/%s?project=%s", action->kind->collection, action->project);
    if (node[0] != '\0') {
        buffer_append_string(&target, "&node=");
        http_percent_encode(&target, text_of(node, strlen(node)));
    }
    if (!is_field) {
        json_object_del(body, "node");
    }
    add_call(calls, "POST", buffer_string(&target), body);
}

/* ---- In place ---- */

/* NAME[:PATH][:ro] as a MachineVolume. */
static void add_volume(json_t *calls, const struct action *action, const char *text)
{
    size_t length = strcspn(text, ":");
    MEMORY_OWNED char *name = memory_copy_text(text, length);
    MEMORY_OWNED char *target = calls_below(action, "volumes", name);
    json_t *body = json_object();
    const char *rest = text + length;
    if (text_ends_with(rest, ":ro")) {
        json_object_set_new(body, "read_only", json_true());
    }
    if (rest[0] == ':' && strcmp(rest, ":ro") != 0) {
        size_t end = strcspn(rest + 1, ":");
        json_object_set_new(body, "path", json_stringn(rest + 1, end));
    }
    add_call(calls, "PUT", target, body);
}

static bool is_among(const json_t *list, const json_t *value)
{
    size_t index = 0;
    json_t *item = NULL;
    json_array_foreach(list, index, item)
    {
        if (json_equal(item, value) == 1) {
            return true;
        }
    }
    return false;
}

/* What goes is taken first: it may come again in another place. */
static void add_volumes(json_t *calls, const struct action *action, const json_t *change)
{
    const json_t *before = json_object_get(change, "before");
    const json_t *after = json_object_get(change, "after");
    size_t index = 0;
    json_t *item = NULL;
    json_array_foreach(before, index, item)
    {
        if (!is_among(after, item)) {
            MEMORY_OWNED char *name =
                memory_copy_text(json_string_value(item), strcspn(json_string_value(item), ":"));
            MEMORY_OWNED char *target = calls_below(action, "volumes", name);
            add_call(calls, "DELETE", target, NULL);
        }
    }
    json_array_foreach(after, index, item)
    {
        if (!is_among(before, item)) {
            add_volume(calls, action, json_string_value(item));
        }
    }
}

static void add_patch(json_t *calls, const struct action *action)
{
    MEMORY_OWNED char *target = ask_target(action->kind, action->project, action->name);
    json_t *body = json_object();
    size_t index = 0;
    json_t *change = NULL;
    json_array_foreach(action->changes, index, change)
    {
        const char *path = json_text(change, "path");
        if (strcmp(path, "volumes") == 0) {
            add_volumes(calls, action, change);
        } else {
            spec_set(body, path, json_object_get(change, "after"));
        }
    }
    if (json_object_size(body) > 0) {
        add_call(calls, "PATCH", target, body);
    } else {
        json_decref(body);
    }
}

/* ---- Groups ---- */

static void add_rules(json_t *calls, const struct action *action)
{
    static const char *const keys[] = {"direction", "allow", "peer"};
    const json_t *before = json_object_get(action->observed, "rules");
    const json_t *after = json_object_get(action->spec, "rules");
    MEMORY_OWNED char *target = calls_below(action, "rules", NULL);
    size_t index = 0;
    json_t *rule = NULL;
    json_array_foreach(after, index, rule)
    {
        if (!is_among(before, rule)) {
            add_call(calls, "POST", target, json_incref(rule));
        }
    }
    json_array_foreach(before, index, rule)
    {
        BUFFER_OWNED struct buffer query = {0};
        buffer_append_string(&query, target);
        for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
            const char *value = json_text(rule, keys[i]);
            buffer_append_format(&query, "&%s=", keys[i]);
            http_percent_encode(&query, text_of(value, strlen(value)));
        }
        if (!is_among(after, rule)) {
            add_call(calls, "DELETE", buffer_string(&query), NULL);
        }
    }
}

/* ---- Nodes ---- */

static json_t *find_by(const json_t *list, const char *key, const char *name)
{
    size_t index = 0;
    json_t *item = NULL;
    json_array_foreach(list, index, item)
    {
        if (strcmp(json_text(item, key), name) == 0) {
            return item;
        }
    }
    return NULL;
}

/* Taints by their keys, windows by their names: each is an object of the API below the node. */
static void add_named(json_t *calls, const struct action *action, const json_t *change,
                      const char *folder, const char *key)
{
    const json_t *before = json_object_get(change, "before");
    const json_t *after = json_object_get(change, "after");
    size_t index = 0;
    json_t *item = NULL;
    json_array_foreach(after, index, item)
    {
        json_t *have = find_by(before, key, json_text(item, key));
        if (have == NULL || !observe_contains(have, item)) {
            MEMORY_OWNED char *target = calls_below(action, folder, json_text(item, key));
            json_t *body = json_copy(item);
            json_object_del(body, key);
            add_call(calls, "PUT", target, body);
        }
    }
    json_array_foreach(before, index, item)
    {
        if (find_by(after, key, json_text(item, key)) == NULL) {
            MEMORY_OWNED char *target = calls_below(action, folder, json_text(item, key));
            add_call(calls, "DELETE", target, NULL);
        }
    }
}

static void add_node(json_t *calls, const struct action *action)
{
    MEMORY_OWNED char *target = ask_target(action->kind, action->project, action->name);
    json_t *body = json_object();
    size_t index = 0;
    json_t *change = NULL;
    json_array_foreach(action->changes, index, change)
    {
        const char *path = json_text(change, "path");
        json_t *after = json_object_get(change, "after");
        if (strncmp(path, "labels.", 7) == 0) {
            MEMORY_OWNED char *label = calls_below(action, "labels", path + 7);
            bool goes = json_is_null(after);
            add_call(calls, goes ? "DELETE" : "PUT", label,
                     goes ? NULL : json_pack("{s:O}", "value", after));
        } else if (strcmp(path, "taints") == 0) {
            add_named(calls, action, change, "taints", "key");
        } else if (strcmp(path, "windows") == 0) {
            add_named(calls, action, change, "windows", "name");
        } else {
            json_object_set(body, path, after);
        }
    }
    if (json_object_size(body) > 0) {
        add_call(calls, "PATCH", target, body);
    } else {
        json_decref(body);
    }
}

/* ---- All ---- */

static void add_making(json_t *calls, const struct action *action)
{
    MEMORY_OWNED char *target = ask_target(action->kind, action->project, action->name);
    MEMORY_OWNED char *versions = calls_below(action, "versions", NULL);
    MEMORY_OWNED char *alias = action->kind->way == WAY_ALIAS
        ? calls_below(action, "aliases", strchr(action->name, ':') + 1)
        : NULL;
    bool is_new = action->what != ACTION_UPDATE;
    switch (action->kind->way) {
    case WAY_PATCH:
    case WAY_ONCE:
        if (is_new) {
            add_creation(calls, action);
        } else {
            add_patch(calls, action);
        }
        break;
    case WAY_PUT:
        add_call(calls, "PUT", target, calls_whole(action));
        break;
    case WAY_FUNCTION:
        add_call(calls, "POST", versions, calls_whole(action));
        break;
    case WAY_ALIAS:
        add_call(calls, "PUT", alias, json_incref(action->spec));
        break;
    case WAY_GROUP:
        if (is_new) {
            MEMORY_OWNED char *groups =
                memory_format("/v1/%s?project=%s", action->kind->collection, action->project);
            add_call(calls, "POST", groups, json_pack("{s:s}", "name", action->name));
        }
        add_rules(calls, action);
        break;
    case WAY_NODE:
        add_node(calls, action);
        break;
    case WAY_REFERENCE:
        break;
    }
}

json_t *calls_of(const struct action *action)
{
    json_t *calls = json_array();
    MEMORY_OWNED char *target = ask_target(action->kind, action->project, action->name);
    if (action->what == ACTION_DELETE && action->kind->way == WAY_ALIAS) {
        MEMORY_OWNED char *alias = calls_below(action, "aliases", strchr(action->name, ':') + 1);
        add_call(calls, "DELETE", alias, NULL);
    } else if (action->what == ACTION_DELETE || action->what == ACTION_REPLACE) {
        add_call(calls, "DELETE", target, NULL);
    }
    if (action->what == ACTION_CREATE || action->what == ACTION_UPDATE ||
        action->what == ACTION_REPLACE) {
        add_making(calls, action);
    }
    return calls;
}
