/*
 * Aliases: which versions get the calls, in which proportion, and what it was before.
 *
 * `alias.version` is the version with the most weight.  Once the state knows of weights (schema 4)
 * each alias has rows in alias_split: a weight above 0 gets calls, 0 was there before and is kept
 * callable for a rollback.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/memory.h"

#include "service/function/parts.h"

enum { HISTORY_MAX = 50 };

#define FORWARD "(? = 0 OR version < ?)"

static const char changed_meanwhile[] = "the function was changed at the same moment; retry";

bool aliases_have_weights(struct function_service *service)
{
    return store_schema_now(service->options.store) >= 4;
}

/* ---- Commands ---- */

static uint64_t heaviest(const struct function_alias *alias)
{
    size_t best = 0;
    for (size_t i = 1; i < alias->count; i++) {
        best = alias->parts[i].weight > alias->parts[best].weight ? i : best;
    }
    return alias->parts[best].version;
}

static void write_target(const struct function_alias *alias, struct buffer *out)
{
    struct json_writer writer = json_writer_to(out);
    json_write_begin_object(&writer);
    for (size_t i = 0; i < alias->count; i++) {
        char number[24];
        snprintf(number, sizeof(number), "%" PRIu64, alias->parts[i].version);
        json_write_field_u64(&writer, number, alias->parts[i].weight);
    }
    json_write_end_object(&writer);
}

/* What was there becomes what a rollback leads to. */
static void add_before(struct store_command *command, const char *key, uint64_t only_beyond)
{
    store_command_add(
        command,
        "INSERT INTO alias_history (alias, number, target, sticky, set_ms) SELECT key, 1, "
        "'{\"' || version || '\":100}', NULL, 0 FROM alias WHERE key = ? AND NOT EXISTS (SELECT "
        "1 "
        "FROM alias_history WHERE alias = ?)",
        "tt", key, key);
    store_command_add(command,
                      "DELETE FROM alias_split WHERE alias = ? AND weight = 0 AND EXISTS (SELECT 1 "
                      "FROM alias WHERE key = ? AND " FORWARD ")",
                      "ttuu", key, key, only_beyond, only_beyond);
    store_command_add(command,
                      "UPDATE alias_split SET weight = 0 WHERE alias = ? AND EXISTS (SELECT 1 FROM "
                      "alias WHERE key = ? AND " FORWARD ")",
                      "ttuu", key, key, only_beyond, only_beyond);
    store_command_add(command,
                      "INSERT INTO alias_split (alias, function, version, weight) SELECT key, "
                      "function, version, 0 FROM alias WHERE key = ? AND " FORWARD
                      " ON CONFLICT DO NOTHING",
                      "tuu", key, only_beyond, only_beyond);
}

static void add_after(struct store_command *command, const char *key,
                      const struct function_alias *alias)
{
    BUFFER_OWNED struct buffer target = {0};
    uint64_t main_version = heaviest(alias);
    for (size_t i = 0; i < alias->count; i++) {
        store_command_add(
            command,
            "INSERT INTO alias_split (alias, function, version, weight) SELECT key, function, ?, ? "
            "FROM alias WHERE key = ? AND version = ? ON CONFLICT DO UPDATE SET weight = "
            "excluded.weight",
            "uutu", alias->parts[i].version, (uint64_t)alias->parts[i].weight, key, main_version);
    }
    write_target(alias, &target);
    store_command_add(
        command,
        "INSERT INTO alias_history (alias, number, target, sticky, set_ms) SELECT key, (SELECT "
        "coalesce(max(number), 0) + 1 FROM alias_history WHERE alias = key), ?, ?, ? FROM alias "
        "WHERE key = ? AND version = ?",
        "ttutu", buffer_string(&target), alias->sticky[0] != '\0' ? alias->sticky : NULL,
        clock_real_ms(), key, main_version);
    store_command_add(command,
                      "DELETE FROM alias_history WHERE alias = ? AND number <= (SELECT max(number) "
                      "- ? FROM alias_history WHERE alias = ?)",
                      "tut", key, (uint64_t)HISTORY_MAX, key);
}

void alias_add(struct function_service *service, struct store_command *command,
               const char *function, const char *name, const struct function_alias *alias,
               bool only_forward)
{
    char key[FUNCTION_KEY_SIZE];
    uint64_t main_version = heaviest(alias);
    bool has_weights = aliases_have_weights(service);
    snprintf(key, sizeof(key), "%s/%s", function, name);
    CHECK(has_weights || alias->count == 1);
    if (has_weights) {
        add_before(command, key, only_forward ? main_version : 0);
    }
    if (only_forward) {
        store_command_add(command,
                          "INSERT INTO alias (key, function, name, version, revision) VALUES (?, "
                          "?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET version = excluded.version, "
                          "revision = excluded.revision WHERE version < excluded.version",
                          "tttur", key, function, name, main_version);
    } else {
        store_command_add_expecting(
            command, ERROR_CONFLICT, changed_meanwhile,
            "INSERT INTO alias (key, function, name, version, revision) SELECT ?, function, ?, "
            "number, ? FROM version WHERE function = ? AND number = ? AND state = 'ready' ON "
            "CONFLICT (key) DO UPDATE SET version = excluded.version, revision = excluded.revision",
            "ttrtu", key, name, function, main_version);
    }
    for (size_t i = 0; !only_forward && alias->count > 1 && i < alias->count; i++) {
        store_command_add_expecting(
            command, ERROR_CONFLICT, changed_meanwhile,
            "UPDATE version SET revision = ? WHERE function = ? AND number = ? AND state = 'ready'",
            "rtu", function, alias->parts[i].version);
    }
    if (has_weights) {
        store_command_add(command, "UPDATE alias SET sticky = ? WHERE key = ? AND version = ?",
                          "ttu", alias->sticky[0] != '\0' ? alias->sticky : NULL, key,
                          main_version);
        add_after(command, key, alias);
    }
}

/* ---- Setting ---- */

struct pointing {
    struct function_service *service;
    void (*done)(const struct error *error, uint64_t index, void *context);
    void *context;
};

static void on_pointed(const struct error *error, uint64_t index, void *context)
{
    struct pointing *pointing = context;
    routes_mark_stale(pointing->service);
    routes_refresh(pointing->service);
    pointing->done(error, index, pointing->context);
    free(pointing);
}

static struct pointing *
pointing_new(struct function_service *service,
             void (*done)(const struct error *error, uint64_t index, void *context), void *context)
{
    struct pointing *pointing = NEW(struct pointing);
    *pointing = (struct pointing){service, done, context};
    return pointing;
}

static int check_version(struct function_service *service, const char *project, const char *name,
                         uint64_t version, struct error *err)
{
    struct version_row row;
    int r = version_find(service, project, name, version, &row, err);
    if (r < 0) {
        return r;
    }
    if (strcmp(row.state, "ready") != 0) {
        r = error_set(err, ERROR_CONFLICT,
                      "version %" PRIu64 " of %s is %s; an alias points to a ready version only",
                      version, name, row.state);
    }
    version_row_done(&row);
    return r;
}

static int check_parts(struct function_service *service, const char *project, const char *name,
                       const struct function_alias *alias, struct error *err)
{
    if (alias->count == 0 || alias->count > FUNCTION_SPLIT_MAX) {
        return error_set(err, ERROR_INVALID, "an alias points to 1 to %d versions",
                         FUNCTION_SPLIT_MAX);
    }
    for (size_t i = 0; i < alias->count; i++) {
        const struct function_part *part = &alias->parts[i];
        if (part->weight < 1 || part->weight > FUNCTION_WEIGHT_MAX) {
            return error_set(err, ERROR_INVALID,
                             "version %" PRIu64 " has weight %u; a weight is 1 to %d",
                             part->version, part->weight, FUNCTION_WEIGHT_MAX);
        }
        for (size_t j = 0; j < i; j++) {
            if (alias->parts[j].version == part->version) {
                return error_set(err, ERROR_INVALID, "version %" PRIu64 " is named twice",
                                 part->version);
            }
        }
        int r = check_version(service, project, name, part->version, err);
        if (r < 0) {
            return r;
        }
    }
    return 0;
}

static int check_sticky(const char *sticky, struct error *err)
{
    static const char token[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.!#$%&'*+^`|~";
    const char *colon = strchr(sticky, ':');
    size_t length = colon != NULL ? (size_t)(colon - sticky) : 0;
    bool is_known = (length == 6 && strncmp(sticky, "header", 6) == 0) ||
        (length == 6 && strncmp(sticky, "cookie", 6) == 0);
    if (sticky[0] != '\0' &&
        (!is_known || colon[1] == '\0' || colon[1 + strspn(colon + 1, token)] != '\0')) {
        return error_set(err, ERROR_INVALID,
                         "sticky is \"%.80s\"; it must be header:NAME or cookie:NAME", sticky);
    }
    return 0;
}

void function_set_alias(struct function_service *service, const char *project, const char *name,
                        const char *alias_name, const struct function_alias *alias,
                        void (*done)(const struct error *error, uint64_t index, void *context),
                        void *context)
{
    struct error err = {0};
    char function[FUNCTION_KEY_SIZE];
    int r = name_check("function", name, &err);
    r = r < 0 ? r : name_check("alias", alias_name, &err);
    r = r < 0 ? r : check_parts(service, project, name, alias, &err);
    r = r < 0 ? r : check_sticky(alias->sticky, &err);
    if (r == 0 && (alias->count > 1 || alias->sticky[0] != '\0') &&
        !aliases_have_weights(service)) {
        r = error_set(&err, ERROR_UNAVAILABLE,
                      "weights are known when every node of the cluster runs this version");
    }
    if (r < 0) {
        done(&err, 0, context);
        return;
    }
    snprintf(function, sizeof(function), "%s/%s", project, name);
    struct store_command *command = store_command_new();
    alias_add(service, command, function, alias_name, alias, false);
    store_propose(service->options.store, command, on_pointed,
                  pointing_new(service, done, context));
}

/* ---- Going back ---- */

struct past {
    struct function_alias alias;
    unsigned rows;
    bool is_bad;
};

void alias_read_target(const char *json, const char *sticky, struct function_alias *ret_alias)
{
    const char *version;
    json_t *weight;
    JSON_OWNED json_t *object = json_loads(json, 0, NULL);
    *ret_alias = (struct function_alias){0};
    snprintf(ret_alias->sticky, sizeof(ret_alias->sticky), "%s", sticky != NULL ? sticky : "");
    json_object_foreach(object, version, weight)
    {
        struct function_part *part = &ret_alias->parts[ret_alias->count];
        if (ret_alias->count < FUNCTION_SPLIT_MAX &&
            text_parse_u64(text_of(version, strlen(version)), &part->version)) {
            part->weight = (unsigned)json_integer_value(weight);
            ret_alias->count++;
        }
    }
}

static bool take_past(sqlite3_stmt *row, void *context)
{
    struct past *past = context;
    past->rows++;
    if (past->rows == 2) {
        alias_read_target((const char *)sqlite3_column_text(row, 0),
                          (const char *)sqlite3_column_text(row, 1), &past->alias);
    }
    return past->rows < 2;
}

/* Versions of the past may be gone: that is told by what it was, not by what there is. */
static int check_past(struct function_service *service, const char *project, const char *name,
                      const char *alias_name, const struct function_alias *past, struct error *err)
{
    for (size_t i = 0; i < past->count; i++) {
        struct version_row row;
        struct error ignored = {0};
        uint64_t number = past->parts[i].version;
        int r = version_find(service, project, name, number, &row, &ignored);
        if (r == -ERROR_NOT_FOUND) {
            return error_set(err, ERROR_CONFLICT,
                             "%s:%s pointed to version %" PRIu64
                             " before, which was deleted; blixard fn alias set points it elsewhere",
                             name, alias_name, number);
        }
        if (r == 0) {
            version_row_done(&row);
        }
    }
    return 0;
}

void function_rollback_alias(struct function_service *service, const char *project,
                             const char *name, const char *alias_name,
                             void (*done)(const struct error *error, uint64_t index, void *context),
                             void *context)
{
    struct error err = {0};
    struct past past = {0};
    uint64_t last = 0;
    char key[FUNCTION_KEY_SIZE];
    snprintf(key, sizeof(key), "%s/%s/%s", project, name, alias_name);
    int r = name_check("function", name, &err);
    r = r < 0 ? r : name_check("alias", alias_name, &err);
    r = r < 0 ? r : function_find(service, project, name, &last, &err);
    if (r == 0 && aliases_have_weights(service)) {
        r = store_query(service->options.store, &err, take_past, &past,
                        "SELECT target, sticky FROM alias_history WHERE alias = ? ORDER BY number "
                        "DESC",
                        "t", key);
    }
    if (r == 0 && past.rows == 0 && aliases_have_weights(service)) {
        r = error_set(&err, ERROR_NOT_FOUND, "%s has no alias %.63s", name, alias_name);
    } else if (r == 0 && past.alias.count == 0) {
        r = error_set(&err, ERROR_CONFLICT, "%s:%s has not pointed anywhere else before", name,
                      alias_name);
    }
    r = r < 0 ? r : check_past(service, project, name, alias_name, &past.alias, &err);
    if (r < 0) {
        done(&err, 0, context);
        return;
    }
    function_set_alias(service, project, name, alias_name, &past.alias, done, context);
}

void function_delete_alias(struct function_service *service, const char *project, const char *name,
                           const char *alias_name,
                           void (*done)(const struct error *error, uint64_t index, void *context),
                           void *context)
{
    struct error err = {0};
    uint64_t last = 0;
    char key[FUNCTION_KEY_SIZE];
    snprintf(key, sizeof(key), "%s/%s/%s", project, name, alias_name);
    int r = name_check("function", name, &err);
    r = r < 0 ? r : name_check("alias", alias_name, &err);
    r = r < 0 ? r : function_find(service, project, name, &last, &err);
    if (r == 0 && strcmp(alias_name, "live") == 0) {
        r = error_set(&err, ERROR_CONFLICT,
                      "live is what callers get; point it elsewhere, or delete the function");
    }
    if (r < 0) {
        done(&err, 0, context);
        return;
    }
    struct store_command *command = store_command_new();
    if (aliases_have_weights(service)) {
        store_command_add(command, "DELETE FROM alias_split WHERE alias = ?", "t", key);
        store_command_add(command, "DELETE FROM alias_history WHERE alias = ?", "t", key);
    }
    store_command_add_expecting(command, ERROR_NOT_FOUND, "there is no such alias",
                                "DELETE FROM alias WHERE key = ?", "t", key);
    store_propose(service->options.store, command, on_pointed,
                  pointing_new(service, done, context));
}

/* ---- Looking ---- */

/* "7", or "v7=90 v8=10". */
static void write_text(const struct function_alias *alias, struct buffer *out)
{
    for (size_t i = 0; i < alias->count; i++) {
        if (alias->count == 1) {
            buffer_append_format(out, "%" PRIu64, alias->parts[i].version);
        } else {
            buffer_append_format(out, "%sv%" PRIu64 "=%u", i > 0 ? " " : "",
                                 alias->parts[i].version, alias->parts[i].weight);
        }
    }
}

static bool write_past(sqlite3_stmt *row, void *context)
{
    struct json_writer *writer = context;
    struct function_alias alias;
    BUFFER_OWNED struct buffer text = {0};
    const char *sticky = (const char *)sqlite3_column_text(row, 2);
    alias_read_target((const char *)sqlite3_column_text(row, 1), sticky, &alias);
    write_text(&alias, &text);
    json_write_begin_object(writer);
    json_write_field_u64(writer, "number", (uint64_t)sqlite3_column_int64(row, 0));
    json_write_field_string(writer, "target", buffer_string(&text));
    if (sticky != NULL) {
        json_write_field_string(writer, "sticky", sticky);
    }
    json_write_field_time_ms(writer, "set_at", (uint64_t)sqlite3_column_int64(row, 3));
    json_write_end_object(writer);
    return true;
}

int function_write_alias_history(struct function_service *service, const char *project,
                                 const char *name, const char *alias_name, struct buffer *out,
                                 struct error *err)
{
    struct json_writer writer = json_writer_to(out);
    uint64_t last = 0;
    char key[FUNCTION_KEY_SIZE];
    snprintf(key, sizeof(key), "%s/%s/%s", project, name, alias_name);
    int r = function_find(service, project, name, &last, err);
    if (r == 0 && alias_of(service, project, name, alias_name) == 0) {
        r = error_set(err, ERROR_NOT_FOUND, "%s has no alias %.63s", name, alias_name);
    }
    if (r < 0) {
        return r;
    }
    json_write_begin_object(&writer);
    json_write_key(&writer, "history");
    json_write_begin_array(&writer);
    if (aliases_have_weights(service)) {
        r = store_query(service->options.store, err, write_past, &writer,
                        "SELECT number, target, sticky, set_ms FROM alias_history WHERE alias = ? "
                        "ORDER BY number DESC",
                        "t", key);
    }
    json_write_end_array(&writer);
    json_write_end_object(&writer);
    return r;
}
