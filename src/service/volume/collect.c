/*
 * Layers that nothing names any more: found in the state, removed as files, then as rows.
 *
 * The row is the proof that the file may go; it goes last, so that a node that dies in between goes
 * on.  Nothing can come to name such a layer again: what is laid over is found by the names of
 * volumes and snapshots.
 */
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "engine/store/store.h"

#include "service/volume/parts.h"

enum { COLLECT_MAX = 64 }; /* at a time */

struct collection {
    struct volume_service *service;
    struct volume_link layers[COLLECT_MAX];
    size_t count;
    bool is_removed[COLLECT_MAX];
    struct error error;
};

#define UNNAMED                                                                                \
    "NOT EXISTS (SELECT 1 FROM volume WHERE layer = volume_layer.key OR next_layer = "         \
    "volume_layer.key) AND NOT EXISTS (SELECT 1 FROM volume_snapshot WHERE layer = "           \
    "volume_layer.key) AND NOT EXISTS (SELECT 1 FROM volume_layer AS over WHERE over.below = " \
    "volume_layer.key)"

static bool take(sqlite3_stmt *row, void *context)
{
    struct collection *collection = context;
    struct volume_link *layer = &collection->layers[collection->count];
    snprintf(layer->id, sizeof(layer->id), "%s", (const char *)sqlite3_column_text(row, 0));
    if (volume_format_parse((const char *)sqlite3_column_text(row, 1), &layer->format)) {
        collection->count++;
    }
    return collection->count < COLLECT_MAX;
}

static void remove_files(void *context)
{
    struct collection *collection = context;
    for (size_t i = 0; i < collection->count; i++) {
        const struct volume_link *layer = &collection->layers[i];
        struct error error = {0};
        collection->is_removed[i] =
            volume_remove(collection->service->folder, layer->id, layer->format, &error) == 0;
        if (!collection->is_removed[i]) {
            collection->error = error;
        }
    }
}

static void on_rows(const struct error *error, uint64_t index, void *context)
{
    struct volume_service *service = context;
    (void)index;
    service->pending--;
    service->is_collecting = false;
    if (service->is_over) {
        return;
    }
    if (error != NULL) {
        service->collects_again = true;
        loop_timer_start(service->retry, VOLUME_RETRY_MS);
    } else {
        volume_collect(service); /* what was below them, or has come since */
    }
}

static void on_removed(void *context)
{
    struct collection *collection = context;
    struct volume_service *service = collection->service;
    struct store_command *command = store_command_new();
    size_t count = 0;
    for (size_t i = 0; i < collection->count; i++) {
        if (collection->is_removed[i]) {
            store_command_add(command, "DELETE FROM volume_layer WHERE key = ? AND " UNNAMED, "t",
                              collection->layers[i].id);
            count++;
        }
    }
    if (collection->error.kind != ERROR_NONE) {
        log_warn("volumes: %s", collection->error.text);
    }
    free(collection);
    if (count == 0) {
        store_command_free(command);
        service->is_collecting = false;
        return;
    }
    service->pending++;
    store_propose(service->options.store, command, on_rows, service);
}

void volume_collect(struct volume_service *service)
{
    struct error err = {0};
    if (service->is_over || !volume_schema_is_there(service)) {
        return;
    }
    service->collects_again = service->is_collecting;
    if (service->is_collecting) {
        return;
    }
    struct collection *collection = NEW(struct collection);
    collection->service = service;
    int r = store_query(service->options.store, &err, take, collection,
                        "SELECT key, format FROM volume_layer WHERE node = ? AND " UNNAMED, "t",
                        service->node_name);
    if (r < 0 || collection->count == 0) {
        free(collection);
        if (r == 0) {
            volume_merge(service);
        }
        return;
    }
    service->is_collecting = true;
    loop_work(service->options.loop, remove_files, on_removed, collection);
}
