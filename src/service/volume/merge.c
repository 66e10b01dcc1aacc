/*
 * Layers that only one other lies over, and that nobody names any more (their snapshot was
 * deleted): what lies over them is written into them and takes their place no more, so that
 * deleting a snapshot gives its room back, and a volume does not lie deeper with each that it ever
 * had.
 *
 * It is done while no machine has any of the volumes open that lie on the two.  Broken off, it is
 * begun again: as long as the upper layer is there it says the same as before (volume_commit()).
 */
#include <stdio.h>
#include <string.h>

#include "base/buffer.h"
#include "base/log.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "engine/store/store.h"

#include "service/volume/parts.h"

struct merge {
    struct volume_service *service;
    struct volume_link over;
    struct volume_link below;
    struct volume_link chain[VOLUME_LAYERS_MAX]; /* of `over` and all that it lies on */
    size_t chain_count;
    struct buffer key;
    struct loop_timer *timer; /* NULL: it was known each time whether it was written */
    bool is_found;
    struct error error;
};

#define PAIRS                                                                                      \
    "SELECT over.key, over.format, below.key, below.format FROM volume_layer AS over JOIN "        \
    "volume_layer AS below ON below.key = over.below WHERE over.node = ? AND (SELECT count(*) "    \
    "FROM volume_layer AS other WHERE other.below = below.key) = 1 AND NOT EXISTS (SELECT 1 FROM " \
    "volume_snapshot WHERE layer = below.key) AND NOT EXISTS (SELECT 1 FROM volume WHERE layer = " \
    "below.key OR next_layer = below.key OR next_layer = over.key)"

/* ---- Who lies on it ---- */

static bool lies_on(struct volume *volume, const char *layer)
{
    struct volume_link chain[VOLUME_LAYERS_MAX];
    size_t count = 0;
    struct error err = {0};
    if (volume->is_gone || volume_chain(volume->service, volume->layer, chain, &count, &err) < 0) {
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        if (strcmp(chain[i].id, layer) == 0) {
            return true;
        }
    }
    return false;
}

static bool is_idle(struct volume *volume)
{
    struct hypervisor_vm *vm = NULL;
    struct agent *agent = NULL;
    return volume->state == VOLUME_READY && !volume->is_busy &&
        volume_look(volume, &vm, &agent) == VOLUME_MACHINE_OFF;
}

/* All of them are idle, and one of them has the key; nobody at all is a case for volume_collect().
 */
static bool can_merge(struct merge *merge, struct volume **ret_volume)
{
    *ret_volume = NULL;
    LIST_EACH(node, &merge->service->volumes)
    {
        struct volume *volume = LIST_ITEM(node, struct volume, link);
        if (lies_on(volume, merge->over.id)) {
            if (!is_idle(volume)) {
                return false;
            }
            *ret_volume = volume;
        }
    }
    return *ret_volume != NULL;
}

static void hold(struct merge *merge)
{
    LIST_EACH(node, &merge->service->volumes)
    {
        struct volume *volume = LIST_ITEM(node, struct volume, link);
        volume->is_merging = lies_on(volume, merge->over.id);
        volume->is_busy = volume->is_busy || volume->is_merging;
    }
}

/* Whoever was held: rows name other layers by now, and may be gone. */
static void let_go(struct merge *merge)
{
    LIST_EACH(node, &merge->service->volumes)
    {
        struct volume *volume = LIST_ITEM(node, struct volume, link);
        if (volume->is_merging) {
            volume->is_merging = false;
            volume->is_busy = false;
            volume_unref(volume);
        }
    }
}

static bool take_pair(sqlite3_stmt *row, void *context)
{
    struct merge *merge = context;
    struct volume *volume = NULL;
    struct error err = {0};
    snprintf(merge->over.id, VOLUME_ID_SIZE, "%s", (const char *)sqlite3_column_text(row, 0));
    snprintf(merge->below.id, VOLUME_ID_SIZE, "%s", (const char *)sqlite3_column_text(row, 2));
    bool is_known =
        volume_format_parse((const char *)sqlite3_column_text(row, 1), &merge->over.format) &&
        volume_format_parse((const char *)sqlite3_column_text(row, 3), &merge->below.format);
    buffer_wipe(&merge->key);
    merge->key = (struct buffer){0};
    merge->is_found = is_known && merge->over.format == VOLUME_QCOW2 && can_merge(merge, &volume) &&
        volume_read_key(volume, &merge->key, &err) == 0 &&
        volume_chain(merge->service, merge->over.id, merge->chain, &merge->chain_count, &err) ==
            0 &&
        merge->chain_count > 1;
    return !merge->is_found;
}

/* ---- Doing it ---- */

static void commit(void *context)
{
    struct merge *merge = context;
    const struct volume_layer layer = {
        .folder = merge->service->folder,
        .id = merge->over.id,
        .format = merge->over.format,
        .key = merge->key.used > 0 ? merge->key.data : NULL,
        .key_length = merge->key.used,
    };
    struct volume_below below[VOLUME_LAYERS_MAX];
    for (size_t i = 1; i < merge->chain_count; i++) {
        below[i - 1] = (struct volume_below){merge->chain[i].id, merge->chain[i].format};
    }
    volume_commit(&layer, below, merge->chain_count - 1, &merge->error);
}

static void end(struct merge *merge, bool goes_on)
{
    struct volume_service *service = merge->service;
    service->is_collecting = false;
    loop_timer_free(merge->timer);
    buffer_wipe(&merge->key);
    free(merge);
    LIST_EACH(node, &service->volumes)
    {
        struct volume *volume = LIST_ITEM(node, struct volume, link);
        volume_tell_free(volume);
        volume_step(volume);
    }
    if (goes_on) {
        volume_collect(service);
    }
}

static void write_rows(struct merge *merge);

static void on_retry(void *context)
{
    write_rows(context);
}

/* Until it is certain nobody writes to the upper one: a command that comes to be late would put
 * the lower one in its place.  The command may be repeated. */
static void on_written(const struct error *error, uint64_t index, void *context)
{
    struct merge *merge = context;
    struct volume_service *service = merge->service;
    (void)index;
    service->pending--;
    if (error != NULL) {
        log_warn("volumes: merging: %s", error->text);
        if (error->kind == ERROR_UNKNOWN_OUTCOME && merge->timer == NULL) {
            merge->timer = loop_timer_new(service->options.loop, on_retry, merge);
        }
        if (merge->timer != NULL && !service->is_over) {
            loop_timer_start(merge->timer, VOLUME_RETRY_MS);
            return;
        }
    }
    let_go(merge);
    end(merge, error == NULL);
}

static void write_rows(struct merge *merge)
{
    const char *over = merge->over.id;
    const char *below = merge->below.id;
    struct store_command *command = store_command_new();
    store_command_add(command, "UPDATE volume_snapshot SET layer = ?, revision = ? WHERE layer = ?",
                      "trt", below, over);
    store_command_add(command, "UPDATE volume_layer SET below = ?, revision = ? WHERE below = ?",
                      "trt", below, over);
    store_command_add(command, "UPDATE volume SET origin = ?, revision = ? WHERE origin = ?", "trt",
                      below, over);
    store_command_add(command, "UPDATE volume SET layer = ?, revision = ? WHERE layer = ?", "trt",
                      below, over);
    merge->service->pending++;
    store_propose(merge->service->options.store, command, on_written, merge);
}

static void on_committed(void *context)
{
    struct merge *merge = context;
    if (merge->error.kind != ERROR_NONE || merge->service->is_over) {
        if (merge->error.kind != ERROR_NONE) {
            log_warn("volumes: merging: %s", merge->error.text);
        }
        let_go(merge);
        end(merge, false);
        return;
    }
    write_rows(merge);
}

void volume_merge(struct volume_service *service)
{
    struct merge *merge = NEW(struct merge);
    struct error err = {0};
    merge->service = service;
    int r =
        store_query(service->options.store, &err, take_pair, merge, PAIRS, "t", service->node_name);
    if (r < 0 || !merge->is_found) {
        buffer_wipe(&merge->key);
        free(merge);
        return;
    }
    service->is_collecting = true;
    hold(merge);
    loop_work(service->options.loop, commit, on_committed, merge);
}
