/*
 * Which triggers run here.  Rows, the picture of the cluster and the lease are looked at again when
 * they change; what is to run is started, what is not is drained.
 */
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"

#include "service/cluster/cluster.h"
#include "service/trigger/parts.h"

uint64_t trigger_now_ms(const struct trigger_service *service)
{
    return service->options.now_ms != NULL ? service->options.now_ms() : clock_real_ms();
}

const struct added_driver *trigger_driver_find(const struct trigger_service *service,
                                               const char *kind)
{
    for (unsigned i = 0; i < service->driver_count; i++) {
        if (strcmp(service->drivers[i].driver->kind, kind) == 0) {
            return &service->drivers[i];
        }
    }
    return NULL;
}

void trigger_driver_add(struct trigger_service *service, const struct trigger_driver *driver,
                        void *context)
{
    CHECK(service->driver_count < TRIGGER_DRIVERS_MAX);
    CHECK(!service->is_started);
    service->drivers[service->driver_count++] = (struct added_driver){driver, context};
}

/* ---- Reconciling ---- */

struct row {
    char key[TRIGGER_KEY_SIZE];
    char project[64];
    char name[64];
    uint64_t revision;
    bool is_paused;
    char *config;
};

struct rows {
    struct row *rows;
    size_t count;
};

static const char *column(sqlite3_stmt *row, int index)
{
    return (const char *)sqlite3_column_text(row, index);
}

static bool take_row(sqlite3_stmt *statement, void *context)
{
    struct rows *rows = context;
    if ((rows->count & (rows->count - 1)) == 0) {
        rows->rows = memory_resize(rows->rows, (rows->count * 2 + 1) * sizeof(*rows->rows));
    }
    struct row *row = &rows->rows[rows->count++];
    *row = (struct row){
        .revision = (uint64_t)sqlite3_column_int64(statement, 3),
        .is_paused = sqlite3_column_int64(statement, 4) != 0,
        .config = memory_copy_string(column(statement, 5)),
    };
    snprintf(row->key, sizeof(row->key), "%s", column(statement, 0));
    snprintf(row->project, sizeof(row->project), "%s", column(statement, 1));
    snprintf(row->name, sizeof(row->name), "%s", column(statement, 2));
    return true;
}

#define SELECT "SELECT key, project, name, revision, paused, config FROM trigger_row"

static bool owns(const struct trigger_service *service, const char *key)
{
    char full[TRIGGER_KEY_SIZE + 16];
    snprintf(full, sizeof(full), "trigger/%s", key);
    return service->options.cluster == NULL || cluster_owns(service->options.cluster, full);
}

static bool is_dying(const struct trigger_service *service, const char *key)
{
    LIST_EACH(node, &service->dying)
    {
        if (strcmp(LIST_ITEM(node, struct trigger_source, link)->key, key) == 0) {
            return true;
        }
    }
    return false;
}

static void begin_source(struct trigger_service *service, const struct row *row)
{
    struct trigger_config config = {0};
    struct error err = {0};
    json_t *document = NULL;
    int r = json_read(row->config, strlen(row->config), &document, &err);
    r = r < 0 ? r : trigger_config_read(document, &config, &err);
    json_decref(document);
    const struct added_driver *driver = r == 0 ? trigger_driver_find(service, config.kind) : NULL;
    if (driver == NULL) {
        log_warn("trigger %s: %s", row->key, r < 0 ? err.text : "its kind is not known here");
        trigger_config_done(&config);
        return;
    }
    struct trigger_source *source = trigger_source_new(service, row->key, row->project, row->name,
                                                       row->revision, &config, driver);
    map_set(&service->sources, row->key, source);
    trigger_source_start(source);
}

/* `row` NULL: there is none any more. */
static void reconcile_one(struct trigger_service *service, const char *key, const struct row *row)
{
    struct trigger_source *source = map_get(&service->sources, key);
    bool is_wanted = row != NULL && !row->is_paused && owns(service, key);
    if (source != NULL && (!is_wanted || source->revision != row->revision)) {
        map_remove(&service->sources, key);
        trigger_source_drain(source);
        source = NULL;
    }
    if (source == NULL && is_wanted && !is_dying(service, key)) {
        begin_source(service, row);
    }
}

static void reconcile_rows(struct trigger_service *service, const struct rows *rows)
{
    for (size_t i = 0; i < rows->count; i++) {
        reconcile_one(service, rows->rows[i].key, &rows->rows[i]);
        free(rows->rows[i].config);
    }
    free(rows->rows);
}

static void collect_key(const char *key, void *value, void *context)
{
    (void)value;
    struct map *gone = context;
    map_set(gone, key, gone);
}

struct looking {
    struct trigger_service *service;
    struct map *keys;
};

static void look_at_key(const char *key, void *value, void *context)
{
    struct trigger_service *service = context;
    struct rows rows = {0};
    struct error err = {0};
    (void)value;
    int r = store_query(service->options.store, &err, take_row, &rows, SELECT " WHERE key = ?", "t",
                        key);
    if (r == 0 && rows.count == 0) {
        reconcile_one(service, key, NULL);
    }
    reconcile_rows(service, &rows);
}

static void reconcile(void *context)
{
    struct trigger_service *service = context;
    struct map keys = service->changed;
    struct error err = {0};
    service->changed = (struct map){0};
    if (service->is_stopping) {
        map_done(&keys);
        return;
    }
    if (service->looks_at_all) {
        struct rows rows = {0};
        service->looks_at_all = false;
        map_each(&service->sources, collect_key, &keys);
        if (store_query(service->options.store, &err, take_row, &rows, SELECT, "") < 0) {
            log_error("triggers cannot be read: %s", err.text);
        }
        for (size_t i = 0; i < rows.count; i++) {
            map_remove(&keys, rows.rows[i].key);
        }
        reconcile_rows(service, &rows);
    }
    map_each(&keys, look_at_key, service); /* also those that are gone */
    map_done(&keys);
}

void trigger_touch(struct trigger_service *service, const char *key_or_null)
{
    if (!service->is_started || service->is_stopping) {
        return;
    }
    if (key_or_null == NULL) {
        service->looks_at_all = true;
    } else {
        map_set(&service->changed, key_or_null, service);
    }
    loop_timer_start(service->reconcile, 0);
}

static void on_changed(const struct store_event *event, void *context)
{
    trigger_touch(context, event->operation == 'R' ? NULL : event->key);
}

static void on_view(void *context)
{
    trigger_touch(context, NULL);
}

static void on_lease(bool holds, void *context)
{
    (void)holds;
    trigger_touch(context, NULL);
}

static void flush(void *context)
{
    trigger_counts_flush(context);
}

/* ---- Life ---- */

int trigger_service_new(const struct trigger_options *options, struct trigger_service **ret_service,
                        struct error *err)
{
    (void)err;
    struct trigger_service *service = NEW(struct trigger_service);
    service->options = *options;
    list_init(&service->dying);
    list_init(&service->tests);
    service->reconcile = loop_timer_new(options->loop, reconcile, service);
    service->flush = loop_timer_new(options->loop, flush, service);
    service->cron = trigger_cron_new(service);
    *ret_service = service;
    return 0;
}

void trigger_service_start(struct trigger_service *service)
{
    static const struct cluster_events events = {.on_view = on_view, .on_lease = on_lease};
    service->is_started = true;
    service->watch = store_watch_new(service->options.store, "trigger_row", on_changed, service);
    if (service->options.cluster != NULL) {
        service->listener = cluster_listen(service->options.cluster, &events, service);
    }
    trigger_touch(service, NULL);
}

static void end_source(const char *key, void *value, void *context)
{
    (void)key;
    (void)context;
    trigger_source_free(value);
}

void trigger_service_stop(struct trigger_service *service)
{
    if (service->is_stopping) {
        return;
    }
    service->is_stopping = true;
    loop_timer_stop(service->reconcile);
    loop_timer_stop(service->flush);
    if (service->is_started) {
        trigger_counts_flush(service);
        store_watch_free(service->watch);
        if (service->listener != NULL) {
            cluster_unlisten(service->listener);
        }
    }
    map_each(&service->sources, end_source, NULL);
    map_done(&service->sources);
    LIST_EACH(node, &service->dying)
    {
        trigger_source_free(LIST_ITEM(node, struct trigger_source, link));
    }
    map_done(&service->changed);
}

void trigger_service_free(struct trigger_service *service)
{
    if (service == NULL) {
        return;
    }
    trigger_service_stop(service);
    store_settle(service->options.store);
    CHECK(list_is_empty(&service->tests));
    trigger_cron_free(service->cron);
    loop_timer_free(service->reconcile);
    loop_timer_free(service->flush);
    free(service);
}
