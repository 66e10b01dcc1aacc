/* Life, and finding streams in the state. */
#include "service/eventstream/eventstream.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/text.h"

#include "service/eventstream/parts.h"

enum { SCHEMA_WITH_STREAMS = 4 };

#define COLUMNS "key, name, number, partitions, retention_ms, retention_bytes, created_ms, revision"

uint64_t eventstream_now_ms(const struct eventstream_service *service)
{
    return service->options.now_ms != NULL ? service->options.now_ms() : clock_real_ms();
}

/* ---- Rows ---- */

static uint64_t number_at(sqlite3_stmt *row, int column)
{
    return (uint64_t)sqlite3_column_int64(row, column);
}

static void take_row(sqlite3_stmt *row, struct stream_row *ret)
{
    *ret = (struct stream_row){
        .number = number_at(row, 2),
        .settings = {.partitions = (unsigned)number_at(row, 3),
                     .retention_ms = number_at(row, 4),
                     .retention_bytes = number_at(row, 5)},
        .created_ms = number_at(row, 6),
        .revision = number_at(row, 7),
    };
    snprintf(ret->key, sizeof(ret->key), "%s", (const char *)sqlite3_column_text(row, 0));
    snprintf(ret->name, sizeof(ret->name), "%s", (const char *)sqlite3_column_text(row, 1));
}

static bool take_one(sqlite3_stmt *row, void *context)
{
    take_row(row, context);
    return false;
}

static int check_schema(const struct eventstream_service *service, struct error *err)
{
    return store_schema_now(service->options.store) >= SCHEMA_WITH_STREAMS
        ? 0
        : error_set(err, ERROR_UNSUPPORTED,
                    "not all nodes of the cluster know streams yet: update the others");
}

int stream_find(struct eventstream_service *service, const char *project, const char *name,
                struct stream_row *ret_row, struct error *err)
{
    char key[EVENTSTREAM_SHORT_KEY_SIZE];
    struct stream_row row = {0};
    snprintf(key, sizeof(key), "%.63s/%.63s", project, name);
    int r = check_schema(service, err);
    r = r < 0 ? r
              : store_query(service->options.store, err, take_one, &row,
                            "SELECT " COLUMNS " FROM stream WHERE key = ?", "t", key);
    if (r == 0 && row.number == 0) {
        return error_set(err, ERROR_NOT_FOUND,
                         "there is no stream %.63s: see `blixard stream list`, or make it with "
                         "`blixard stream create %.63s`",
                         name, name);
    }
    *ret_row = row;
    return r;
}

struct rows {
    struct stream_row *rows;
    size_t count;
};

static bool collect(sqlite3_stmt *row, void *context)
{
    struct rows *rows = context;
    rows->rows = memory_resize(rows->rows, (rows->count + 1) * sizeof(*rows->rows));
    take_row(row, &rows->rows[rows->count++]);
    return true;
}

/* Rows are collected first: the visitor may ask the store again. */
int stream_each(struct eventstream_service *service, const char *project_or_null,
                void (*visit)(const struct stream_row *row, void *context), void *context,
                struct error *err)
{
    struct rows rows = {0};
    int r = check_schema(service, err);
    if (r == 0) {
        r = project_or_null != NULL
            ? store_query(service->options.store, err, collect, &rows,
                          "SELECT " COLUMNS " FROM stream WHERE key >= ? || '/' AND key < ? || '0' "
                          "ORDER BY key",
                          "tt", project_or_null, project_or_null)
            : store_query(service->options.store, err, collect, &rows,
                          "SELECT " COLUMNS " FROM stream ORDER BY key", "");
    }
    for (size_t i = 0; i < rows.count && r == 0; i++) {
        visit(&rows.rows[i], context);
    }
    free(rows.rows);
    return r;
}

static bool take_partition(sqlite3_stmt *row, void *context)
{
    struct partition_row *partition = context;
    *partition = (struct partition_row){
        .first = number_at(row, 0), .next = number_at(row, 1), .bytes = number_at(row, 2)};
    return false;
}

int partition_find(struct eventstream_service *service, const struct stream_row *row,
                   unsigned partition, struct partition_row *ret_row, struct error *err)
{
    *ret_row = (struct partition_row){0};
    if (partition >= row->settings.partitions) {
        return error_set(err, ERROR_NOT_FOUND, "stream %s has partitions 0 to %u, no %u", row->name,
                         row->settings.partitions - 1, partition);
    }
    return store_query(service->options.store, err, take_partition, ret_row,
                       "SELECT first_sequence, next_sequence, bytes FROM stream_partition WHERE "
                       "stream = ? AND partition = ?",
                       "uu", row->number, (uint64_t)partition);
}

static bool take_number(sqlite3_stmt *row, void *context)
{
    *(uint64_t *)context = number_at(row, 0);
    return false;
}

uint64_t stream_search(struct eventstream_service *service, const struct stream_row *row,
                       unsigned partition, const struct partition_row *bounds, const char *column,
                       uint64_t least)
{
    uint64_t low = bounds->first;
    uint64_t high = bounds->next;
    MEMORY_OWNED char *sql = memory_format(
        "SELECT %s FROM stream_record WHERE stream = ? AND partition = ? AND sequence = ?", column);
    while (low < high) {
        uint64_t middle = low + (high - low) / 2;
        uint64_t value = 0;
        struct error err = {0};
        store_query(service->options.store, &err, take_number, &value, sql, "uuu", row->number,
                    (uint64_t)partition, middle);
        if (value >= least) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return low;
}

/* ---- Answers ---- */

struct late {
    struct error error;
    struct eventstream_reply reply;
};

static void tell_late(void *argument)
{
    struct late *late = argument;
    late->reply.done(late->error.kind != ERROR_NONE ? &late->error : NULL, late->reply.context);
    free(late);
}

void eventstream_answer(struct eventstream_service *service, const struct error *error,
                        struct eventstream_reply reply)
{
    struct late *late = NEW(struct late);
    late->error = error != NULL ? *error : (struct error){0};
    late->reply = reply;
    loop_post(service->options.loop, tell_late, late);
}

static void on_written(const struct error *error, uint64_t index, void *context)
{
    struct eventstream_reply *reply = context;
    (void)index;
    reply->done(error, reply->context);
    free(reply);
}

void eventstream_propose(struct eventstream_service *service, struct store_command *owned_command,
                         struct eventstream_reply reply)
{
    struct eventstream_reply *kept = NEW(struct eventstream_reply);
    *kept = reply;
    store_propose(service->options.store, owned_command, on_written, kept);
}

/* ---- Waiting ---- */

struct eventstream_wait {
    struct list_node link;
    struct eventstream_service *service;
    char project[EVENTSTREAM_NAME_SIZE];
    char name[EVENTSTREAM_NAME_SIZE];
    char key[EVENTSTREAM_SHORT_KEY_SIZE + 1]; /* what those of its partitions begin with */
    struct eventstream_cursor cursor;
    bool is_changed;
    struct loop_timer *timer;
    void (*done)(void *context);
    void *context;
};

void eventstream_wait_free(struct eventstream_wait *wait)
{
    if (wait != NULL) {
        list_remove(&wait->link);
        loop_timer_free(wait->timer);
        free(wait);
    }
}

static void on_wait_over(void *context)
{
    struct eventstream_wait *wait = context;
    void (*done)(void *context) = wait->done;
    void *argument = wait->context;
    eventstream_wait_free(wait);
    done(argument);
}

/* Something is there, or the stream is gone or another one. */
static bool is_over(const struct eventstream_wait *wait)
{
    struct eventstream_cursor oldest = wait->cursor;
    struct eventstream_cursor latest = wait->cursor;
    struct eventstream_service *service = wait->service;
    struct error ignored = {0};
    if (service->is_stopping ||
        eventstream_begin(service, wait->project, wait->name, EVENTSTREAM_OLDEST, 0, &oldest,
                          &ignored) < 0 ||
        eventstream_begin(service, wait->project, wait->name, EVENTSTREAM_LATEST, 0, &latest,
                          &ignored) < 0) {
        return true;
    }
    for (unsigned i = 0; i < latest.count; i++) {
        uint64_t end = latest.next[i];
        uint64_t next = wait->cursor.next[i];
        if (next > end || (end > next && end > oldest.next[i])) {
            return true;
        }
    }
    return false;
}

static void on_wake(void *context)
{
    struct eventstream_service *service = context;
    LIST_EACH(node, &service->waits)
    {
        struct eventstream_wait *wait = LIST_ITEM(node, struct eventstream_wait, link);
        if (wait->is_changed && is_over(wait)) {
            loop_timer_start(wait->timer, 0);
        }
        wait->is_changed = false;
    }
}

/* The command is still being told of: what it has changed is read after it.  Partitions change also
 * when they are trimmed, which ends no wait. */
static void on_changed(const struct store_event *event, void *context)
{
    struct eventstream_service *service = context;
    LIST_EACH(node, &service->waits)
    {
        struct eventstream_wait *wait = LIST_ITEM(node, struct eventstream_wait, link);
        if (event->operation == 'R' || strncmp(event->key, wait->key, strlen(wait->key)) == 0) {
            wait->is_changed = true;
            loop_timer_start(service->wake, 0);
        }
    }
}

struct eventstream_wait *eventstream_wait_new(struct eventstream_service *service,
                                              const char *project, const char *name,
                                              const struct eventstream_cursor *cursor,
                                              uint64_t wait_ms, void (*done)(void *context),
                                              void *context)
{
    struct eventstream_wait *wait = NEW(struct eventstream_wait);
    wait->service = service;
    snprintf(wait->project, sizeof(wait->project), "%s", project);
    snprintf(wait->name, sizeof(wait->name), "%s", name);
    snprintf(wait->key, sizeof(wait->key), "%.63s/%.63s/", project, name);
    wait->cursor = *cursor;
    wait->done = done;
    wait->context = context;
    wait->timer = loop_timer_new(service->options.loop, on_wait_over, wait);
    list_push_back(&service->waits, &wait->link);
    loop_timer_start(wait->timer, is_over(wait) ? 0 : wait_ms);
    return wait;
}

/* ---- Life ---- */

int eventstream_service_new(const struct eventstream_options *options,
                            struct eventstream_service **ret_service, struct error *err)
{
    (void)err;
    struct eventstream_service *service = NEW(struct eventstream_service);
    service->options = *options;
    list_init(&service->waits);
    service->wake = loop_timer_new(options->loop, on_wake, service);
    service->watch = store_watch_new(options->store, "stream_partition", on_changed, service);
    eventstream_trim_start(service);
    *ret_service = service;
    return 0;
}

void eventstream_service_stop(struct eventstream_service *service)
{
    service->is_stopping = true;
    loop_timer_stop(service->tick);
    while (!list_is_empty(&service->waits)) {
        on_wait_over(LIST_FIRST(&service->waits, struct eventstream_wait, link));
    }
}

void eventstream_service_free(struct eventstream_service *service)
{
    if (service == NULL) {
        return;
    }
    eventstream_service_stop(service);
    store_settle(service->options.store);
    loop_flush(service->options.loop);
    store_watch_free(service->watch);
    loop_timer_free(service->wake);
    loop_timer_free(service->tick);
    free(service);
}
