/* What names a secret: versions of functions ("secrets" of their settings), and triggers. */
#include <string.h>

#include "base/json.h"
#include "base/memory.h"

#include "service/secret/private.h"

enum { SAID_MAX = 5 };

struct looking {
    struct secret_uses *uses;
    const char *name;
    size_t skip; /* of a key: the project's name and the slash */
};

static void add_use(struct secret_uses *uses, char *owned_text)
{
    if (json_array_size(uses->names) < SECRET_USES_MAX) {
        json_array_append_new(uses->names, json_string(owned_text));
    }
    free(owned_text);
}

static bool has_value(const json_t *map, const char *name)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)map, key, value)
    {
        const char *text = json_string_value(value);
        if (text != NULL && strcmp(text, name) == 0) {
            return true;
        }
    }
    return false;
}

static uint64_t later(uint64_t one, sqlite3_int64 other)
{
    return other > 0 && (uint64_t)other > one ? (uint64_t)other : one;
}

static json_t *read_settings(sqlite3_stmt *row)
{
    json_t *settings = NULL;
    struct error ignored = {0};
    const char *text = (const char *)sqlite3_column_text(row, 1);
    return text != NULL && json_read(text, strlen(text), &settings, &ignored) == 0 ? settings
                                                                                   : NULL;
}

static bool look_at_version(sqlite3_stmt *row, void *context)
{
    const struct looking *looking = context;
    const char *key = (const char *)sqlite3_column_text(row, 0) + looking->skip;
    const char *slash = strchr(key, '/');
    JSON_OWNED json_t *settings = read_settings(row);
    looking->uses->newest_version =
        later(looking->uses->newest_version, sqlite3_column_int64(row, 2));
    if (slash != NULL && has_value(json_object_get(settings, "secrets"), looking->name)) {
        add_use(looking->uses,
                memory_format("function %.*s version %s", (int)(slash - key), key, slash + 1));
    }
    return true;
}

static bool look_at_trigger(sqlite3_stmt *row, void *context)
{
    const struct looking *looking = context;
    const char *key = (const char *)sqlite3_column_text(row, 0) + looking->skip;
    JSON_OWNED json_t *settings = read_settings(row);
    const char *named = json_string_value(
        json_object_get(json_object_get(settings, "settings"), "password_secret"));
    looking->uses->newest_trigger =
        later(looking->uses->newest_trigger, sqlite3_column_int64(row, 2));
    if (named != NULL && strcmp(named, looking->name) == 0) {
        add_use(looking->uses, memory_format("trigger %s", key));
    }
    return true;
}

/* Before there were volumes, none had a key. */
bool secret_can_be_key(const struct secret_service *service)
{
    enum { VOLUMES_SINCE = 7 };
    return store_schema_now(service->store) >= VOLUMES_SINCE;
}

static bool look_at_volume(sqlite3_stmt *row, void *context)
{
    const struct looking *looking = context;
    add_use(looking->uses, memory_format("volume %s", (const char *)sqlite3_column_text(row, 0)));
    return true;
}

static int find_volumes(struct secret_service *service, const char *project,
                        struct looking *looking, struct error *err)
{
    return secret_can_be_key(service)
        ? store_query(service->store, err, look_at_volume, looking,
                      "SELECT name FROM volume WHERE project = ? AND secret = ? ORDER BY name",
                      "tt", project, looking->name)
        : 0;
}

int secret_check_no_key(struct secret_service *service, const char *project, const char *name,
                        struct error *err)
{
    struct secret_uses uses = {.names = json_array()};
    struct looking looking = {&uses, name, 0};
    int r = find_volumes(service, project, &looking, err);
    const char *first = json_string_value(json_array_get(uses.names, 0));
    if (r == 0 && first != NULL) {
        r = error_set(err, ERROR_CONFLICT,
                      "secret %s is the key of %s, which another value would not open", name,
                      first);
    }
    secret_uses_done(&uses);
    return r;
}

/* Keys of a project are PROJECT/...; '0' comes behind '/'. */
int secret_find_uses(struct secret_service *service, const char *project, const char *name,
                     struct secret_uses *ret_uses, struct error *err)
{
    MEMORY_OWNED char *from = memory_format("%s/", project);
    MEMORY_OWNED char *to = memory_format("%s0", project);
    struct looking looking = {ret_uses, name, strlen(project) + 1};
    *ret_uses = (struct secret_uses){.names = json_array()};
    int r = store_query(service->store, err, look_at_version, &looking,
                        "SELECT key, config, revision FROM version WHERE key > ? AND key < ? "
                        "ORDER BY function, number",
                        "tt", from, to);
    r = r < 0 ? r
              : store_query(service->store, err, look_at_trigger, &looking,
                            "SELECT key, config, revision FROM trigger_row WHERE key > ? AND "
                            "key < ? ORDER BY key",
                            "tt", from, to);
    return r < 0 ? r : find_volumes(service, project, &looking, err);
}

int secret_refuse_used(const struct secret_uses *uses, const char *name, struct error *err)
{
    BUFFER_OWNED struct buffer text = {0};
    size_t count = json_array_size(uses->names);
    for (size_t i = 0; i < count && i < SAID_MAX; i++) {
        buffer_append_format(&text, "%s%s", i > 0 ? ", " : "",
                             json_string_value(json_array_get(uses->names, i)));
    }
    return error_set(err, ERROR_CONFLICT,
                     "secret %s is used by %s%s; delete those first, or let them name another",
                     name, buffer_string(&text), count > SAID_MAX ? " and others" : "");
}

void secret_uses_done(struct secret_uses *uses)
{
    json_decref(uses->names);
    uses->names = NULL;
}
