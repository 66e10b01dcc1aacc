/* Volumes as people and Prometheus see them. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/buffer.h"
#include "base/json.h"
#include "base/memory.h"

#include "engine/store/store.h"

#include "service/volume/parts.h"

#define SELECT                                                                                    \
    "SELECT project, name, id, node, config, secret, size_bytes, layer, state, reason, machine, " \
    "path, read_only, created_ms, key, (SELECT count(*) FROM volume_snapshot WHERE volume = "     \
    "volume.key) FROM volume "

struct writing {
    struct volume_service *service;
    struct json_writer writer;
    size_t count;
};

static void write_text(struct json_writer *writer, const char *key, const char *text)
{
    if (text[0] != '\0') {
        json_write_field_string(writer, key, text);
    }
}

/* All that it lies on; what clones share is counted for each of them. */
static uint64_t used_bytes(struct volume_service *service, const char *layer)
{
    struct volume_link chain[VOLUME_LAYERS_MAX];
    size_t count = 0;
    uint64_t used = 0;
    struct error err = {0};
    if (volume_chain(service, layer, chain, &count, &err) < 0) {
        return 0;
    }
    for (size_t i = 0; i < count; i++) {
        used += volume_used_bytes(service->folder, chain[i].id, chain[i].format);
    }
    return used;
}

static void write_config(struct json_writer *writer, const json_t *config)
{
    MEMORY_OWNED char *from = NULL;
    write_text(writer, "format", json_text(config, "format"));
    write_text(writer, "filesystem", json_text(config, "filesystem"));
    if (json_text(config, "from_volume")[0] != '\0') {
        from = memory_format("%s@%s", json_text(config, "from_volume"),
                             json_text(config, "from_snapshot"));
        json_write_field_string(writer, "from", from);
    }
    for (size_t i = 0; i < VOLUME_RATES; i++) {
        uint64_t rate = json_u64(config, volume_rate_name(i));
        if (rate > 0) {
            json_write_field_u64(writer, volume_rate_name(i), rate);
        }
    }
}

static bool write_row(sqlite3_stmt *row, void *context)
{
    struct writing *writing = context;
    struct json_writer *writer = &writing->writer;
    JSON_OWNED json_t *config = NULL;
    struct error err = {0};
    bool has_machine = store_text(row, 10)[0] != '\0';
    writing->count++;
    json_write_begin_object(writer);
    json_write_field_string(writer, "name", store_text(row, 1));
    json_write_field_string(writer, "project", store_text(row, 0));
    json_write_field_string(writer, "id", store_text(row, 2));
    json_write_field_string(writer, "node", store_text(row, 3));
    json_write_field_string(writer, "state", store_text(row, 8));
    write_text(writer, "reason", store_text(row, 9));
    json_write_field_u64(writer, "size_bytes", (uint64_t)sqlite3_column_int64(row, 6));
    if (strcmp(store_text(row, 3), writing->service->node_name) == 0) {
        json_write_field_u64(writer, "used_bytes",
                             used_bytes(writing->service, store_text(row, 7)));
    }
    if (json_read(store_text(row, 4), strlen(store_text(row, 4)), &config, &err) == 0) {
        write_config(writer, config);
    }
    json_write_field_bool(writer, "encrypted", store_text(row, 5)[0] != '\0');
    write_text(writer, "secret", store_text(row, 5));
    write_text(writer, "machine", store_text(row, 10));
    write_text(writer, "path", store_text(row, 11));
    if (has_machine) {
        json_write_field_bool(writer, "read_only", sqlite3_column_int(row, 12) != 0);
    }
    json_write_field_u64(writer, "snapshots", (uint64_t)sqlite3_column_int64(row, 15));
    json_write_field_time_ms(writer, "created_at", (uint64_t)sqlite3_column_int64(row, 13));
    json_write_end_object(writer);
    return true;
}

int volume_write(struct volume_service *service, const char *project, const char *name,
                 struct buffer *out, struct error *err)
{
    MEMORY_OWNED char *node = NULL;
    struct writing writing = {service, json_writer_to(out), 0};
    MEMORY_OWNED char *key = memory_format("%s/%s", project, name);
    int r = volume_node(service, project, name, &node, err);
    return r < 0 ? r
                 : store_query(service->options.store, err, write_row, &writing,
                               SELECT "WHERE key = ?", "t", key);
}

int volume_write_list(struct volume_service *service, const char *project, struct buffer *out,
                      struct error *err)
{
    struct writing writing = {service, json_writer_to(out), 0};
    json_write_begin_object(&writing.writer);
    json_write_key(&writing.writer, "volumes");
    json_write_begin_array(&writing.writer);
    int r = volume_schema_is_there(service)
        ? store_query(service->options.store, err, write_row, &writing,
                      SELECT "WHERE project = ? ORDER BY name", "t", project)
        : 0;
    json_write_end_array(&writing.writer);
    json_write_end_object(&writing.writer);
    return r;
}

/* ---- Snapshots ---- */

static bool write_snapshot(sqlite3_stmt *row, void *context)
{
    struct writing *writing = context;
    struct json_writer *writer = &writing->writer;
    json_write_begin_object(writer);
    json_write_field_string(writer, "name", store_text(row, 0));
    json_write_field_string(writer, "state", store_text(row, 1));
    json_write_field_u64(writer, "size_bytes", (uint64_t)sqlite3_column_int64(row, 2));
    json_write_field_u64(writer, "clones", (uint64_t)sqlite3_column_int64(row, 4));
    json_write_field_time_ms(writer, "created_at", (uint64_t)sqlite3_column_int64(row, 3));
    json_write_end_object(writer);
    return true;
}

int volume_snapshot_write_list(struct volume_service *service, const char *project,
                               const char *name, struct buffer *out, struct error *err)
{
    MEMORY_OWNED char *node = NULL;
    struct writing writing = {service, json_writer_to(out), 0};
    MEMORY_OWNED char *key = memory_format("%s/%s", project, name);
    int r = volume_node(service, project, name, &node, err);
    if (r < 0) {
        return r;
    }
    json_write_begin_object(&writing.writer);
    json_write_key(&writing.writer, "snapshots");
    json_write_begin_array(&writing.writer);
    r = store_query(service->options.store, err, write_snapshot, &writing,
                    "SELECT name, state, size_bytes, created_ms, (SELECT count(*) FROM volume "
                    "WHERE origin = volume_snapshot.layer) FROM volume_snapshot WHERE volume = ? "
                    "ORDER BY created_ms, name",
                    "t", key);
    json_write_end_array(&writing.writer);
    json_write_end_object(&writing.writer);
    return r;
}

/* ---- Metrics ---- */

void volume_write_metrics(struct volume_service *service, struct buffer *out)
{
    static const struct {
        const char *name;
        const char *help;
    } metrics[] = {
        {"blixard_volume_size_bytes", "What a volume of this node may hold."},
        {"blixard_volume_used_bytes", "What its layers take of the node's disk."},
        {"blixard_volume_attached", "Does a machine have it?"},
    };
    for (size_t m = 0; m < sizeof(metrics) / sizeof(metrics[0]); m++) {
        buffer_append_format(out, "# HELP %s %s\n# TYPE %s gauge\n", metrics[m].name,
                             metrics[m].help, metrics[m].name);
        LIST_EACH(node, &service->volumes)
        {
            const struct volume *volume = LIST_ITEM(node, struct volume, link);
            if (volume->is_gone) {
                continue;
            }
            const uint64_t values[] = {volume->size_bytes,
                                       m == 1 ? used_bytes(service, volume->layer) : 0,
                                       volume->machine[0] != '\0'};
            buffer_append_format(out, "%s{project=\"%s\",volume=\"%s\"} %" PRIu64 "\n",
                                 metrics[m].name, volume->project, volume->name, values[m]);
        }
    }
}
