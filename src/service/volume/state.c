/* The rows of volumes and their layers: read when they change. */
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"

#include "engine/store/store.h"

#include "service/volume/parts.h"

#define COLUMNS                                                                                 \
    "key, project, name, id, config, secret, size_bytes, next_size, layer, next_layer, state, " \
    "machine"

static const char *const state_texts[] = {
    [VOLUME_CREATING] = "creating", [VOLUME_READY] = "ready",         [VOLUME_GROWING] = "growing",
    [VOLUME_LAYING] = "laying",     [VOLUME_RESTORING] = "restoring", [VOLUME_FAILED] = "failed",
};

const char *volume_state_text(enum volume_state state)
{
    return state_texts[state];
}

bool volume_state_parse(const char *text, enum volume_state *ret_state)
{
    for (int i = 0; i < VOLUME_STATES; i++) {
        if (strcmp(state_texts[i], text) == 0) {
            *ret_state = (enum volume_state)i;
            return true;
        }
    }
    return false;
}

bool volume_schema_is_there(struct volume_service *service)
{
    return store_schema_now(service->options.store) >= VOLUME_SCHEMA;
}

/* ---- Volumes of this node ---- */

static struct volume *find_key(struct volume_service *service, const char *key)
{
    LIST_EACH(node, &service->volumes)
    {
        struct volume *volume = LIST_ITEM(node, struct volume, link);
        if (!volume->is_gone && strcmp(volume->key, key) == 0) {
            return volume;
        }
    }
    return NULL;
}

struct volume *volume_find(struct volume_service *service, const char *project, const char *name)
{
    MEMORY_OWNED char *key = memory_format("%s/%s", project, name);
    return find_key(service, key);
}

static struct volume *new_volume(struct volume_service *service, sqlite3_stmt *row)
{
    struct volume *volume = NEW(struct volume);
    volume->service = service;
    volume->key = memory_copy_string(store_text(row, 0));
    volume->project = memory_copy_string(store_text(row, 1));
    volume->name = memory_copy_string(store_text(row, 2));
    snprintf(volume->id, sizeof(volume->id), "%s", store_text(row, 3));
    return volume;
}

static void fill(struct volume *volume, json_t *owned_config, sqlite3_stmt *row)
{
    json_decref(volume->config);
    volume->config = owned_config;
    snprintf(volume->secret, sizeof(volume->secret), "%s", store_text(row, 5));
    volume->size_bytes = (uint64_t)sqlite3_column_int64(row, 6);
    volume->next_size = (uint64_t)sqlite3_column_int64(row, 7);
    snprintf(volume->layer, sizeof(volume->layer), "%s", store_text(row, 8));
    snprintf(volume->next_layer, sizeof(volume->next_layer), "%s", store_text(row, 9));
    volume_state_parse(store_text(row, 10), &volume->state);
    snprintf(volume->machine, sizeof(volume->machine), "%s", store_text(row, 11));
}

static bool take_row(sqlite3_stmt *row, void *context)
{
    struct volume_service *service = context;
    struct volume *volume = find_key(service, store_text(row, 0));
    struct error err = {0};
    JSON_OWNED json_t *config = NULL;
    if (json_read(store_text(row, 4), strlen(store_text(row, 4)), &config, &err) < 0) {
        log_error("volume %s: %s", store_text(row, 0), err.text);
        return true;
    }
    if (volume != NULL && strcmp(volume->id, store_text(row, 3)) != 0) {
        volume->is_gone = true; /* deleted, and made anew */
        volume_unref(volume);
        volume = NULL;
    }
    if (volume == NULL) {
        volume = new_volume(service, row);
        list_push_back(&service->volumes, &volume->link);
    }
    fill(volume, json_incref(config), row);
    return true;
}

struct reading {
    struct volume_service *service;
    struct volume *volume;
};

static bool take_one(sqlite3_stmt *row, void *context)
{
    struct reading *reading = context;
    struct error ignored = {0};
    json_t *config = NULL;
    if (json_read(store_text(row, 4), strlen(store_text(row, 4)), &config, &ignored) == 0) {
        reading->volume = new_volume(reading->service, row);
        fill(reading->volume, config, row);
    }
    return false;
}

struct volume *volume_read_one(struct volume_service *service, const char *project,
                               const char *name)
{
    struct reading reading = {service, NULL};
    struct error ignored = {0};
    MEMORY_OWNED char *key = memory_format("%s/%s", project, name);
    if (volume_schema_is_there(service)) {
        store_query(service->options.store, &ignored, take_one, &reading,
                    "SELECT " COLUMNS " FROM volume WHERE key = ?", "t", key);
    }
    return reading.volume;
}

void volume_free_one(struct volume *volume)
{
    if (volume != NULL) {
        json_decref(volume->config);
        free(volume->key);
        free(volume->project);
        free(volume->name);
        free(volume);
    }
}

struct mark {
    const char *id;
    bool is_there;
};

static bool take_mark(sqlite3_stmt *row, void *context)
{
    struct mark *mark = context;
    mark->is_there = mark->is_there || strcmp(store_text(row, 0), mark->id) == 0;
    return true;
}

static void drop_if_missing(struct volume_service *service, struct volume *volume)
{
    struct mark mark = {.id = volume->id};
    struct error err = {0};
    int r = store_query(service->options.store, &err, take_mark, &mark,
                        "SELECT id FROM volume WHERE key = ? AND node = ?", "tt", volume->key,
                        service->node_name);
    if (r == 0 && !mark.is_there && !volume->is_gone) {
        volume->is_gone = true;
        volume_unref(volume);
    }
}

void volume_load(struct volume_service *service, const char *key_or_null)
{
    struct error err = {0};
    if (!volume_schema_is_there(service)) {
        return;
    }
    int r = key_or_null == NULL
        ? store_query(service->options.store, &err, take_row, service,
                      "SELECT " COLUMNS " FROM volume WHERE node = ? ORDER BY created_ms", "t",
                      service->node_name)
        : store_query(service->options.store, &err, take_row, service,
                      "SELECT " COLUMNS " FROM volume WHERE node = ? AND key = ?", "tt",
                      service->node_name, key_or_null);
    if (r < 0) {
        log_error("reading volumes: %s", err.text);
        return;
    }
    LIST_EACH(node, &service->volumes)
    {
        struct volume *volume = LIST_ITEM(node, struct volume, link);
        if (key_or_null == NULL || strcmp(volume->key, key_or_null) == 0) {
            drop_if_missing(service, volume);
        }
    }
}

/* ---- Looking up ---- */

static bool take_text(sqlite3_stmt *row, void *context)
{
    char **text = context;
    if (sqlite3_column_type(row, 0) != SQLITE_NULL) {
        *text = memory_copy_string(store_text(row, 0));
    }
    return false;
}

int volume_query_text(struct volume_service *service, char **ret_text, struct error *err,
                      const char *sql, const char *key)
{
    *ret_text = NULL;
    return volume_schema_is_there(service)
        ? store_query(service->options.store, err, take_text, ret_text, sql, "t", key)
        : 0;
}

int volume_node(struct volume_service *service, const char *project, const char *name,
                char **ret_node, struct error *err)
{
    MEMORY_OWNED char *key = memory_format("%s/%s", project, name);
    int r = volume_query_text(service, ret_node, err, "SELECT node FROM volume WHERE key = ?", key);
    return r < 0 || *ret_node != NULL
        ? r
        : error_set(err, ERROR_NOT_FOUND,
                    "there is no volume %.64s in project %s; see `blixard volume list`", name,
                    project);
}

int volume_find_ready(struct volume_service *service, const char *project, const char *name,
                      struct volume **ret_volume, struct error *err)
{
    MEMORY_OWNED char *node = NULL;
    int r = volume_node(service, project, name, &node, err);
    if (r < 0) {
        return r;
    }
    struct volume *volume = volume_find(service, project, name);
    if (volume == NULL) {
        return error_set(err, ERROR_UNAVAILABLE, "volume %s is on node %s", name, node);
    }
    if (volume->state != VOLUME_READY || volume->is_busy) {
        return error_set(err, ERROR_CONFLICT, "volume %s is %s: try it again when that has ended",
                         name,
                         volume->state != VOLUME_READY ? volume_state_text(volume->state) : "busy");
    }
    *ret_volume = volume;
    return 0;
}

/* ---- Layers ---- */

struct found {
    struct volume_link layer;
    bool is_found;
};

static bool take_layer(sqlite3_stmt *row, void *context)
{
    struct found *found = context;
    found->is_found = volume_format_parse(store_text(row, 1), &found->layer.format);
    snprintf(found->layer.id, sizeof(found->layer.id), "%s", store_text(row, 0));
    snprintf(found->layer.below, sizeof(found->layer.below), "%s", store_text(row, 2));
    return false;
}

int volume_find_link(struct volume_service *service, const char *id, struct volume_link *ret_layer,
                     struct error *err)
{
    struct found found = {0};
    int r = store_query(service->options.store, err, take_layer, &found,
                        "SELECT key, format, below FROM volume_layer WHERE key = ?", "t", id);
    if (r == 0 && !found.is_found) {
        return error_set(err, ERROR_NOT_FOUND, "layer %s is not in the state", id);
    }
    *ret_layer = found.layer;
    return r;
}

int volume_chain(struct volume_service *service, const char *id,
                 struct volume_link ret_layers[VOLUME_LAYERS_MAX], size_t *ret_count,
                 struct error *err)
{
    size_t count = 0;
    int r = 0;
    for (const char *at = id; at[0] != '\0'; at = ret_layers[count++].below) {
        if (count == VOLUME_LAYERS_MAX) {
            return error_set(err, ERROR_CORRUPT, "a volume lies on more than %d layers",
                             VOLUME_LAYERS_MAX);
        }
        r = volume_find_link(service, at, &ret_layers[count], err);
        if (r < 0) {
            return r;
        }
    }
    *ret_count = count;
    return r;
}
