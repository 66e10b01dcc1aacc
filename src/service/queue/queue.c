/* Life, and finding queues in the state. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"

#include "service/queue/parts.h"

enum { SCHEMA_WITH_QUEUES = 4 };

#define COLUMNS                                                                             \
    "key, name, number, fifo, visibility_ms, retention_ms, delay_ms, dedup_ms, depth_max, " \
    "bytes_max, receives_max, dead_letter, depth, bytes, sent, acked, expired, died, "      \
    "created_ms, revision"

uint64_t queue_now_ms(const struct queue_service *service)
{
    return service->options.now_ms != NULL ? service->options.now_ms() : clock_real_ms();
}

/* ---- Rows ---- */

static uint64_t number_at(sqlite3_stmt *row, int column)
{
    return (uint64_t)sqlite3_column_int64(row, column);
}

static void take_row(sqlite3_stmt *row, struct queue_row *ret)
{
    *ret = (struct queue_row){
        .number = number_at(row, 2),
        .settings = {.is_fifo = number_at(row, 3) != 0,
                     .visibility_ms = number_at(row, 4),
                     .retention_ms = number_at(row, 5),
                     .delay_ms = number_at(row, 6),
                     .dedup_ms = number_at(row, 7),
                     .depth_max = number_at(row, 8),
                     .bytes_max = number_at(row, 9),
                     .receives_max = number_at(row, 10)},
        .dead_letter = number_at(row, 11),
        .depth = number_at(row, 12),
        .bytes = number_at(row, 13),
        .sent = number_at(row, 14),
        .acked = number_at(row, 15),
        .expired = number_at(row, 16),
        .died = number_at(row, 17),
        .created_ms = number_at(row, 18),
        .revision = number_at(row, 19),
    };
    snprintf(ret->key, sizeof(ret->key), "%s", (const char *)sqlite3_column_text(row, 0));
    snprintf(ret->name, sizeof(ret->name), "%s", (const char *)sqlite3_column_text(row, 1));
}

static bool take_one(sqlite3_stmt *row, void *context)
{
    take_row(row, context);
    return false;
}

static int check_schema(const struct queue_service *service, struct error *err)
{
    if (store_schema_now(service->options.store) < SCHEMA_WITH_QUEUES) {
        return error_set(err, ERROR_UNSUPPORTED,
                         "not all nodes of the cluster know queues yet: update the others");
    }
    return 0;
}

int queue_find_key(struct queue_service *service, const char *key, struct queue_row *ret_row,
                   struct error *err)
{
    struct queue_row row = {0};
    int r = check_schema(service, err);
    r = r < 0 ? r
              : store_query(service->options.store, err, take_one, &row,
                            "SELECT " COLUMNS " FROM queue WHERE key = ?", "t", key);
    if (r == 0 && row.number == 0) {
        const char *name = strchr(key, '/');
        return error_set(err, ERROR_NOT_FOUND,
                         "there is no queue %s: see `blixard queue list`, or make it with "
                         "`blixard queue create %s`",
                         name != NULL ? name + 1 : key, name != NULL ? name + 1 : key);
    }
    *ret_row = row;
    return r;
}

int queue_find(struct queue_service *service, const char *project, const char *name,
               struct queue_row *ret_row, struct error *err)
{
    char key[QUEUE_KEY_SIZE];
    snprintf(key, sizeof(key), "%.63s/%.63s", project, name);
    return queue_find_key(service, key, ret_row, err);
}

bool queue_find_number(struct queue_service *service, uint64_t number, struct queue_row *ret_row)
{
    struct error err = {0};
    *ret_row = (struct queue_row){0};
    return number != 0 &&
        store_query(service->options.store, &err, take_one, ret_row,
                    "SELECT " COLUMNS " FROM queue WHERE number = ?", "u", number) == 0 &&
        ret_row->number != 0;
}

struct rows {
    struct queue_row *rows;
    size_t count;
};

static bool collect(sqlite3_stmt *row, void *context)
{
    struct rows *rows = context;
    if ((rows->count & (rows->count - 1)) == 0) {
        size_t size = rows->count > 0 ? 2 * rows->count : 1;
        rows->rows = memory_resize(rows->rows, size * sizeof(*rows->rows));
    }
    take_row(row, &rows->rows[rows->count++]);
    return true;
}

/* Rows are collected first: the visitor may ask the store again. */
int queue_each(struct queue_service *service, const char *project_or_null,
               void (*visit)(const struct queue_row *row, void *context), void *context,
               struct error *err)
{
    struct rows rows = {0};
    int r = check_schema(service, err);
    if (r == 0) {
        r = project_or_null != NULL
            ? store_query(service->options.store, err, collect, &rows,
                          "SELECT " COLUMNS " FROM queue WHERE key >= ? || '/' AND key < ? || '0' "
                          "ORDER BY key",
                          "tt", project_or_null, project_or_null)
            : store_query(service->options.store, err, collect, &rows,
                          "SELECT " COLUMNS " FROM queue ORDER BY key", "");
    }
    for (size_t i = 0; i < rows.count && r == 0; i++) {
        visit(&rows.rows[i], context);
    }
    free(rows.rows);
    return r;
}

/* ---- Late answers ---- */

struct late {
    struct error error;
    struct queue_reply reply;
};

static void tell_late(void *argument)
{
    struct late *late = argument;
    late->reply.done(late->error.kind != ERROR_NONE ? &late->error : NULL, late->reply.context);
    free(late);
}

void queue_refuse(struct queue_service *service, const struct error *error,
                  struct queue_reply reply)
{
    struct late *late = NEW(struct late);
    late->error = error != NULL ? *error : (struct error){0};
    late->reply = reply;
    loop_post(service->options.loop, tell_late, late);
}

/* ---- Life ---- */

static void on_changed(const struct store_event *event, void *context)
{
    queue_wake(context, event->operation == 'R' ? NULL : event->key);
}

int queue_service_new(const struct queue_options *options, struct queue_service **ret_service,
                      struct error *err)
{
    (void)err;
    struct queue_service *service = NEW(struct queue_service);
    service->options = *options;
    list_init(&service->claims);
    service->watch = store_watch_new(options->store, "queue", on_changed, service);
    queue_sweep_start(service);
    *ret_service = service;
    return 0;
}

void queue_service_stop(struct queue_service *service)
{
    service->is_stopping = true;
    loop_timer_stop(service->tick);
    queue_end_lanes(service);
}

void queue_service_free(struct queue_service *service)
{
    if (service == NULL) {
        return;
    }
    queue_service_stop(service);
    store_settle(service->options.store);
    loop_flush(service->options.loop);
    store_settle(service->options.store);
    loop_flush(service->options.loop);
    CHECK(list_is_empty(&service->claims));
    CHECK(service->lanes.count == 0);
    map_done(&service->lanes);
    store_watch_free(service->watch);
    loop_timer_free(service->tick);
    free(service);
}
