/*
 * Who has asked for what: rows of `manifest`, one for each object and owner.
 *
 * `fields` is an object: path to {"value", "settled", "is_settled"}.  `value` is what the owner's
 * document said; `settled`, where it is another one, what could be seen of it afterwards (null:
 * nothing).
 */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/memory.h"

#include "engine/store/store.h"

#include "service/manifest/parts.h"

enum { MANIFEST_SCHEMA = 8 };

bool owners_are_kept(struct store *store)
{
    return store_schema_now(store) >= MANIFEST_SCHEMA;
}

/* ---- Reading ---- */

static bool take_row(sqlite3_stmt *row, void *context)
{
    json_t *rows = context;
    json_t *labels = json_loads(store_text(row, 1), 0, NULL);
    json_t *fields = json_loads(store_text(row, 2), 0, NULL);
    json_array_append_new(rows,
                          json_pack("{s:s,s:o,s:o,s:I}", "owner", store_text(row, 0), "labels",
                                    labels != NULL ? labels : json_object(), "fields",
                                    fields != NULL ? fields : json_object(), "revision",
                                    (json_int_t)sqlite3_column_int64(row, 3)));
    return true;
}

int owners_of(struct store *store, const struct action *action, json_t **ret_rows,
              struct error *err)
{
    json_t *rows = json_array();
    int r = owners_are_kept(store)
        ? store_query(store, err, take_row, rows,
                      "SELECT owner, labels, fields, revision FROM manifest WHERE project = ? AND "
                      "kind = ? AND name = ? ORDER BY owner",
                      "ttt", action->project, action->kind->name, action->name)
        : 0;
    if (r < 0) {
        json_decref(rows);
        return r;
    }
    *ret_rows = rows;
    return 0;
}

struct listing {
    const json_t *wanted; /* labels */
    json_t *objects;
};

static bool take_object(sqlite3_stmt *row, void *context)
{
    struct listing *listing = context;
    JSON_OWNED json_t *labels = json_loads(store_text(row, 2), 0, NULL);
    const char *name = NULL;
    json_t *value = NULL;
    json_object_foreach((json_t *)(uintptr_t)listing->wanted, name, value)
    {
        if (json_equal(json_object_get(labels, name), value) != 1) {
            return true;
        }
    }
    json_array_append_new(listing->objects,
                          json_pack("{s:s,s:s,s:s}", "kind", store_text(row, 0), "name",
                                    store_text(row, 1), "project", store_text(row, 3)));
    return true;
}

int owners_list(struct store *store, const struct manifest_set *set, json_t **ret_objects,
                struct error *err)
{
    struct listing listing = {set->labels, json_array()};
    int r = owners_are_kept(store)
        ? store_query(store, err, take_object, &listing,
                      "SELECT kind, name, labels, project FROM manifest WHERE owner = ? AND "
                      "project = ? ORDER BY kind, name",
                      "tt", set->owner, set->project)
        : 0;
    if (r < 0) {
        json_decref(listing.objects);
        return r;
    }
    *ret_objects = listing.objects;
    return 0;
}

/* ---- Writing ---- */

static json_t *fields_of(const struct action *action, const json_t *settled)
{
    json_t *fields = json_object();
    JSON_OWNED json_t *leaves = spec_leaves(action->kind, action->spec);
    const char *path = NULL;
    json_t *want = NULL;
    json_object_foreach(leaves, path, want)
    {
        json_t *have = spec_at(settled, path);
        json_t *field = json_pack("{s:O}", "value", want);
        if (!observe_equal(action->kind, path, have, want)) {
            json_object_set_new(field, "is_settled", json_true());
            json_object_set_new(field, "settled", have != NULL ? json_incref(have) : json_null());
        }
        json_object_set_new(fields, path, field);
    }
    return fields;
}

/* A conflict that was forced: the field is not the other's any more. */
static void add_losses(struct store_command *command, const struct action *action)
{
    size_t index = 0;
    json_t *conflict = NULL;
    json_array_foreach(action->conflicts, index, conflict)
    {
        size_t number = 0;
        json_t *row = NULL;
        json_array_foreach(action->rows, number, row)
        {
            if (strcmp(json_text(row, "owner"), json_text(conflict, "owner")) != 0) {
                continue;
            }
            json_object_del(json_object_get(row, "fields"), json_text(conflict, "path"));
            MEMORY_OWNED char *fields = json_dumps(json_object_get(row, "fields"), JSON_COMPACT);
            store_command_add(command,
                              "UPDATE manifest SET fields = ?, revision = ? WHERE project = ? AND "
                              "kind = ? AND name = ? AND owner = ?",
                              "trtttt", fields, action->project, action->kind->name, action->name,
                              json_text(row, "owner"));
        }
    }
}

void owners_add_applied(struct store_command *command, const struct action *action,
                        const char *owner, const json_t *settled)
{
    JSON_OWNED json_t *fields = fields_of(action, settled);
    MEMORY_OWNED char *fields_text = json_dumps(fields, JSON_COMPACT);
    MEMORY_OWNED char *labels = json_dumps(action->labels, JSON_COMPACT);
    MEMORY_OWNED char *key =
        memory_format("%s/%s/%s/%s", action->project, action->kind->name, action->name, owner);
    add_losses(command, action);
    if (action->what == ACTION_CREATE) { /* what others wanted of one that was there before */
        owners_add_gone(command, action);
    }
    store_command_add(command,
                      "INSERT INTO manifest (key, project, kind, name, owner, labels, fields, "
                      "applied_ms, revision) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key) "
                      "DO UPDATE SET labels = excluded.labels, fields = excluded.fields, "
                      "applied_ms = excluded.applied_ms, revision = excluded.revision",
                      "tttttttur", key, action->project, action->kind->name, action->name, owner,
                      labels, fields_text, clock_real_ms());
}

void owners_add_gone(struct store_command *command, const struct action *action)
{
    store_command_add(command, "DELETE FROM manifest WHERE project = ? AND kind = ? AND name = ?",
                      "ttt", action->project, action->kind->name, action->name);
}
