/* Reading functions, versions and aliases out of the store. */
#include <stdio.h>
#include <string.h>

#include "base/memory.h"

#include "service/function/parts.h"

#define VERSION_COLUMNS                                                                  \
    "key, number, state, error, language, abi, config, module, module_bytes, build_ms, " \
    "created_ms, "                                                                       \
    "EXISTS (SELECT 1 FROM alias a WHERE a.function = version.function AND a.version = number)"
/* Once the state knows of weights: what was there before a change is kept callable, too. */
#define VERSION_COLUMNS_SPLIT                                                                      \
    VERSION_COLUMNS " OR EXISTS (SELECT 1 FROM alias_split s WHERE s.function = version.function " \
                    "AND s.version = number)"

enum { NAMES_MAX = 1024 };

static const char *column(sqlite3_stmt *row, int index)
{
    return (const char *)sqlite3_column_text(row, index);
}

static char *copy(sqlite3_stmt *row, int index)
{
    const char *value = column(row, index);
    return value != NULL ? memory_copy_string(value) : NULL;
}

static void take_version(sqlite3_stmt *row, struct version_row *ret)
{
    *ret = (struct version_row){
        .number = (uint64_t)sqlite3_column_int64(row, 1),
        .error = copy(row, 3),
        .language = copy(row, 4),
        .abi = copy(row, 5),
        .config = copy(row, 6),
        .module_bytes = (uint64_t)sqlite3_column_int64(row, 8),
        .build_ms = (uint64_t)sqlite3_column_int64(row, 9),
        .created_ms = (uint64_t)sqlite3_column_int64(row, 10),
        .has_alias = sqlite3_column_int64(row, 11) != 0,
    };
    snprintf(ret->key, sizeof(ret->key), "%s", column(row, 0));
    snprintf(ret->state, sizeof(ret->state), "%s", column(row, 2));
    snprintf(ret->module, sizeof(ret->module), "%s", column(row, 7));
}

void version_row_done(struct version_row *row)
{
    free(row->error);
    free(row->language);
    free(row->abi);
    free(row->config);
    *row = (struct version_row){0};
}

/* Rows are collected first: the visitor may ask the store again. */
struct version_rows {
    struct version_row *rows;
    size_t count;
};

static bool collect(sqlite3_stmt *row, void *context)
{
    struct version_rows *rows = context;
    rows->rows = memory_resize(rows->rows, (rows->count + 1) * sizeof(*rows->rows));
    take_version(row, &rows->rows[rows->count++]);
    return true;
}

int version_each(struct function_service *service, const char *function_key,
                 void (*visit)(const struct version_row *row, void *context), void *context,
                 struct error *err)
{
    struct version_rows rows = {0};
    bool has_weights = aliases_have_weights(service);
    int r = function_key != NULL
        ? store_query(service->options.store, err, collect, &rows,
                      has_weights ? "SELECT " VERSION_COLUMNS_SPLIT
                                    " FROM version WHERE function = ? ORDER BY number DESC"
                                  : "SELECT " VERSION_COLUMNS
                                    " FROM version WHERE function = ? ORDER BY number DESC",
                      "t", function_key)
        : store_query(service->options.store, err, collect, &rows,
                      has_weights ? "SELECT " VERSION_COLUMNS_SPLIT " FROM version ORDER BY key"
                                  : "SELECT " VERSION_COLUMNS " FROM version ORDER BY key",
                      "");
    for (size_t i = 0; i < rows.count; i++) {
        if (r == 0) {
            visit(&rows.rows[i], context);
        }
        version_row_done(&rows.rows[i]);
    }
    free(rows.rows);
    return r;
}

static bool take_one(sqlite3_stmt *row, void *context)
{
    take_version(row, context);
    return false;
}

int version_find(struct function_service *service, const char *project, const char *name,
                 uint64_t number, struct version_row *ret_row, struct error *err)
{
    uint64_t last = 0;
    int r = function_find(service, project, name, &last, err);
    if (r < 0) {
        return r;
    }
    char key[FUNCTION_KEY_SIZE];
    snprintf(key, sizeof(key), "%s/%s/%llu", project, name, (unsigned long long)number);
    struct version_row row = {0};
    r = store_query(service->options.store, err, take_one, &row,
                    "SELECT " VERSION_COLUMNS " FROM version WHERE key = ?", "t", key);
    if (r == 0 && row.key[0] == '\0') {
        return error_set(err, ERROR_NOT_FOUND,
                         number > 0 && number <= last
                             ? "function %s has no version %llu any more; the newest was %llu"
                             : "function %s has no version %llu; the newest is %llu",
                         name, (unsigned long long)number, (unsigned long long)last);
    }
    *ret_row = row;
    return r;
}

struct names {
    char *names[NAMES_MAX];
    size_t count;
};

static bool collect_name(sqlite3_stmt *row, void *context)
{
    struct names *names = context;
    names->names[names->count++] = copy(row, 0);
    return names->count < NAMES_MAX;
}

static int not_found(struct function_service *service, const char *project, const char *name,
                     struct error *err)
{
    struct names names = {0};
    struct error ignored = {0};
    store_query(service->options.store, &ignored, collect_name, &names,
                "SELECT name FROM function WHERE project = ? ORDER BY name", "t", project);
    const char *nearest = text_nearest(name, (const char *const *)names.names, names.count);
    int r = nearest != NULL
        ? error_set(err, ERROR_NOT_FOUND, "there is no function %.80s; did you mean %s?", name,
                    nearest)
        : error_set(err, ERROR_NOT_FOUND, "there is no function %.80s in project %.80s", name,
                    project);
    for (size_t i = 0; i < names.count; i++) {
        free(names.names[i]);
    }
    return r;
}

struct number {
    bool found;
    uint64_t value;
};

static bool take_number(sqlite3_stmt *row, void *context)
{
    *(struct number *)context = (struct number){true, (uint64_t)sqlite3_column_int64(row, 0)};
    return false;
}

int function_find(struct function_service *service, const char *project, const char *name,
                  uint64_t *ret_last_version, struct error *err)
{
    struct number number = {0};
    int r = store_query(service->options.store, err, take_number, &number,
                        "SELECT last_version FROM function WHERE project = ? AND name = ?", "tt",
                        project, name);
    if (r == 0 && !number.found) {
        return not_found(service, project, name, err);
    }
    *ret_last_version = number.value;
    return r;
}

bool module_is_used(struct function_service *service, const char *module)
{
    struct number number = {0};
    struct error err = {0};
    int r = store_query(service->options.store, &err, take_number, &number,
                        "SELECT count(*) FROM version WHERE module = ?", "t", module);
    return r < 0 || number.value > 0;
}

uint64_t alias_of(struct function_service *service, const char *project, const char *name,
                  const char *alias)
{
    struct number number = {0};
    struct error err = {0};
    char key[FUNCTION_KEY_SIZE];
    snprintf(key, sizeof(key), "%s/%s/%s", project, name, alias);
    store_query(service->options.store, &err, take_number, &number,
                "SELECT version FROM alias WHERE key = ?", "t", key);
    return number.value;
}

static bool take_builder(sqlite3_stmt *row, void *context)
{
    struct builder *builder = context;
    snprintf(builder->operation, sizeof(builder->operation), "%s", column(row, 0));
    builder->node = (uint64_t)sqlite3_column_int64(row, 1);
    builder->is_running = strcmp(column(row, 2), "running") == 0;
    return false;
}

bool builder_of(struct function_service *service, const struct version_row *row,
                struct builder *ret_builder)
{
    struct error err = {0};
    char project[FUNCTION_KEY_SIZE];
    char name[FUNCTION_KEY_SIZE];
    *ret_builder = (struct builder){0};
    project_of(row->key, project, name, sizeof(project));
    MEMORY_OWNED char *resource =
        memory_format("functions/%s/versions/%llu", name, (unsigned long long)row->number);
    store_query(service->options.store, &err, take_builder, ret_builder,
                "SELECT key, node, state FROM operation WHERE project = ? AND resource = ? ORDER "
                "BY state = 'running' DESC, created_ms DESC, key LIMIT 1",
                "tt", project, resource);
    return ret_builder->operation[0] != '\0';
}

/* The first two parts of PROJECT/NAME/... */
void project_of(const char *key, char *ret_project, char *ret_name, size_t size)
{
    size_t project_length = strcspn(key, "/");
    const char *name = key + project_length + (key[project_length] == '/');
    snprintf(ret_project, size, "%.*s", (int)project_length, key);
    snprintf(ret_name, size, "%.*s", (int)strcspn(name, "/"), name);
}
