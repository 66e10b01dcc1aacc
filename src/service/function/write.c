/* Functions and versions as JSON: types Function, FunctionList, Version, VersionList. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/buffer.h"
#include "base/memory.h"

#include "service/function/parts.h"
#include "service/traffic/traffic.h"

struct writing {
    struct function_service *service;
    struct json_writer writer;
    bool is_whole; /* with what lists leave out */
};

static void write_here(struct function_service *service, struct json_writer *writer,
                       const struct local *local)
{
    if (local == NULL || local->target == NULL) {
        return;
    }
    json_write_field_string(writer, "tier", local->target->tier);
    json_write_field_u64(writer, "image_bytes", local->image_bytes);
    json_write_field_u64(writer, "snapshot_bytes", local->snapshot_bytes);
    if (local->optimize_ms > 0) {
        json_write_field_u64(writer, "optimize_ms", local->optimize_ms);
    }
    json_write_field_string(writer, "isolation",
                            vmm_isolation_text(instance_isolation(service->options.instances)));
}

static void write_version(const struct version_row *row, void *context)
{
    struct writing *writing = context;
    struct json_writer *writer = &writing->writer;
    struct function_config config;
    struct error err = {0};
    if (config_read(row->config, &config, &err) < 0) {
        function_config_defaults(&config);
    }
    json_write_begin_object(writer);
    json_write_field_u64(writer, "number", row->number);
    json_write_field_string(writer, "state", row->state);
    json_write_field_string(writer, "error", row->error);
    json_write_field_string(writer, "abi", row->abi);
    json_write_field_string(writer, "language", row->language);
    json_write_field_string(writer, "module", row->module);
    json_write_field_u64(writer, "module_bytes", row->module_bytes);
    if (strcmp(row->state, "building") != 0) {
        json_write_field_u64(writer, "build_ms", row->build_ms);
    }
    write_here(writing->service, writer, map_get(&writing->service->locals, row->key));
    holders_write(writing->service, writer, row->key);
    config_write(writer, &config);
    lacks_write(writing->service, row->key, &config, writer);
    json_write_field_time_ms(writer, "created_at", row->created_ms);
    json_write_end_object(writer);
    function_config_done(&config);
}

static bool write_alias(sqlite3_stmt *row, void *context)
{
    struct json_writer *writer = context;
    json_write_field_string(writer, (const char *)sqlite3_column_text(row, 0),
                            (const char *)sqlite3_column_text(row, 1));
    return true;
}

struct function_row {
    char name[64];
    uint64_t last_version;
    uint64_t created_ms;
};

struct function_rows {
    struct function_row *rows;
    size_t count;
};

static bool collect(sqlite3_stmt *row, void *context)
{
    struct function_rows *rows = context;
    rows->rows = memory_resize(rows->rows, (rows->count + 1) * sizeof(*rows->rows));
    struct function_row *function = &rows->rows[rows->count++];
    snprintf(function->name, sizeof(function->name), "%s",
             (const char *)sqlite3_column_text(row, 0));
    function->last_version = (uint64_t)sqlite3_column_int64(row, 1);
    function->created_ms = (uint64_t)sqlite3_column_int64(row, 2);
    return true;
}

static int write_function(struct writing *writing, const char *project,
                          const struct function_row *row, struct error *err)
{
    struct function_service *service = writing->service;
    struct json_writer *writer = &writing->writer;
    char key[FUNCTION_KEY_SIZE];
    snprintf(key, sizeof(key), "%s/%s", project, row->name);
    uint64_t live = alias_of(service, project, row->name, "live");

    json_write_begin_object(writer);
    json_write_field_string(writer, "name", row->name);
    json_write_field_string(writer, "project", project);
    if (live > 0) {
        json_write_field_u64(writer, "live", live);
    }
    json_write_key(writer, "aliases");
    json_write_begin_object(writer);
    int r = store_query(
        service->options.store, err, write_alias, writer,
        aliases_have_weights(service)
            ? "SELECT name, iif((SELECT count(*) FROM alias_split s WHERE s.alias = a.key AND "
              "weight > 0) > 1, (SELECT group_concat(part, ' ') FROM (SELECT "
              "'v' || s.version || '=' || s.weight AS part FROM alias_split s WHERE s.alias = "
              "a.key AND weight > 0 ORDER BY s.version)), CAST(version AS TEXT)) FROM alias a "
              "WHERE function = ? ORDER BY name"
            : "SELECT name, CAST(version AS TEXT) FROM alias WHERE function = ? ORDER BY name",
        "t", key);
    json_write_end_object(writer);
    json_write_key(writer, "sticky");
    json_write_begin_object(writer);
    if (r == 0 && aliases_have_weights(service)) {
        r = store_query(service->options.store, err, write_alias, writer,
                        "SELECT name, sticky FROM alias WHERE function = ? AND sticky IS NOT NULL "
                        "ORDER BY name",
                        "t", key);
    }
    json_write_end_object(writer);
    if (service->gateway_url != NULL && strcmp(project, "default") == 0) {
        MEMORY_OWNED char *url = memory_format("%s/fn/%s", service->gateway_url, row->name);
        json_write_field_string(writer, "url", url);
    }
    struct version_row version;
    struct error none = {0};
    if (version_find(service, project, row->name, live > 0 ? live : row->last_version, &version,
                     &none) == 0) {
        json_write_key(writer, "version");
        write_version(&version, writing);
        version_row_done(&version);
    }
    if (writing->is_whole) {
        traffic_write_function(service->options.store, key, writer);
    }
    json_write_field_time_ms(writer, "created_at", row->created_ms);
    json_write_end_object(writer);
    return r;
}

int function_write_list(struct function_service *service, const char *project, struct buffer *out,
                        struct error *err)
{
    struct writing writing = {service, json_writer_to(out), false};
    struct function_rows rows = {0};
    int r = store_query(service->options.store, err, collect, &rows,
                        "SELECT name, last_version, created_ms FROM function WHERE project = ? "
                        "ORDER BY name",
                        "t", project);
    json_write_begin_object(&writing.writer);
    json_write_key(&writing.writer, "functions");
    json_write_begin_array(&writing.writer);
    for (size_t i = 0; r == 0 && i < rows.count; i++) {
        r = write_function(&writing, project, &rows.rows[i], err);
    }
    json_write_end_array(&writing.writer);
    json_write_end_object(&writing.writer);
    free(rows.rows);
    return r;
}

int function_write(struct function_service *service, const char *project, const char *name,
                   struct buffer *out, struct error *err)
{
    struct writing writing = {service, json_writer_to(out), true};
    struct function_rows rows = {0};
    uint64_t last = 0;
    int r = function_find(service, project, name, &last, err);
    r = r < 0 ? r
              : store_query(service->options.store, err, collect, &rows,
                            "SELECT name, last_version, created_ms FROM function WHERE project = ? "
                            "AND name = ?",
                            "tt", project, name);
    if (r == 0 && rows.count > 0) {
        r = write_function(&writing, project, &rows.rows[0], err);
    }
    free(rows.rows);
    return r;
}

int function_write_versions(struct function_service *service, const char *project, const char *name,
                            struct buffer *out, struct error *err)
{
    struct writing writing = {service, json_writer_to(out), false};
    uint64_t last = 0;
    int r = function_find(service, project, name, &last, err);
    if (r < 0) {
        return r;
    }
    char key[FUNCTION_KEY_SIZE];
    snprintf(key, sizeof(key), "%s/%s", project, name);
    json_write_begin_object(&writing.writer);
    json_write_key(&writing.writer, "versions");
    json_write_begin_array(&writing.writer);
    r = version_each(service, key, write_version, &writing, err);
    json_write_end_array(&writing.writer);
    json_write_end_object(&writing.writer);
    return r;
}

int function_write_version(struct function_service *service, const char *project, const char *name,
                           uint64_t version, struct buffer *out, struct error *err)
{
    struct writing writing = {service, json_writer_to(out), false};
    struct version_row row;
    int r = version_find(service, project, name, version, &row, err);
    if (r == 0) {
        write_version(&row, &writing);
        version_row_done(&row);
    }
    return r;
}
