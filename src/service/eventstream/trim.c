/*
 * What goes by itself: records beyond the retention, and what deleted streams have left.  Once a
 * second the leader goes over all partitions, and then over what was deleted; each command removes
 * EVENTSTREAM_TRIM records at most, and the next one goes on where it has ended, so that a stream
 * that is written without a pause does not keep the others from being trimmed.  Where one partition
 * had more than that, it goes over them again at once.
 */
#include <stdio.h>
#include <string.h>

#include "service/eventstream/parts.h"

enum { TICK_MS = 1000 };

struct look {
    struct eventstream_service *service;
    struct store_command *command; /* NULL: nothing is to be done */
    uint64_t left;                 /* records that it may remove still */
    uint64_t now_ms;
};

struct edge {
    uint64_t cut; /* first sequence that stays */
    uint64_t bytes;
    uint64_t excess;
};

static bool take_size(sqlite3_stmt *row, void *context)
{
    struct edge *edge = context;
    if (edge->bytes >= edge->excess) {
        return false;
    }
    edge->bytes += (uint64_t)sqlite3_column_int64(row, 1);
    edge->cut = (uint64_t)sqlite3_column_int64(row, 0) + 1;
    return true;
}

/* Where a partition is to begin: as many go as are too much, at most `left`. */
static uint64_t cut_of(struct look *look, const struct stream_row *row, unsigned partition,
                       const struct partition_row *bounds)
{
    struct error err = {0};
    uint64_t share = row->settings.retention_bytes / row->settings.partitions;
    uint64_t cut = bounds->first;
    if (look->now_ms > row->settings.retention_ms) {
        cut = stream_search(look->service, row, partition, bounds, "time_ms",
                            look->now_ms - row->settings.retention_ms);
    }
    if (bounds->bytes > share) {
        struct edge edge = {.cut = bounds->first, .excess = bounds->bytes - share};
        store_query(look->service->options.store, &err, take_size, &edge,
                    "SELECT sequence, size FROM stream_record WHERE stream = ? AND partition = ? "
                    "ORDER BY sequence LIMIT ?",
                    "uuu", row->number, (uint64_t)partition, look->left);
        cut = edge.cut > cut ? edge.cut : cut;
    }
    return cut < bounds->first + look->left ? cut : bounds->first + look->left;
}

static void remove_records(struct look *look, uint64_t number, unsigned partition, uint64_t first,
                           uint64_t cut)
{
    look->command = look->command != NULL ? look->command : store_command_new();
    look->left -= cut - first;
    store_command_add(look->command,
                      "UPDATE stream_partition SET first_sequence = ?, bytes = bytes - m.size FROM "
                      "(SELECT coalesce(sum(size), 0) AS size FROM stream_record WHERE stream = ? "
                      "AND partition = ? AND sequence < ?) AS m WHERE stream = ? AND partition = ? "
                      "AND first_sequence < ?",
                      "uuuuuuu", cut, number, (uint64_t)partition, cut, number, (uint64_t)partition,
                      cut);
    store_command_add(
        look->command,
        "DELETE FROM stream_record WHERE stream = ? AND partition = ? AND sequence < ?", "uuu",
        number, (uint64_t)partition, cut);
}

static void go_on_at(struct eventstream_service *service, const char *key, unsigned partition)
{
    snprintf(service->trim_key, sizeof(service->trim_key), "%s", key);
    service->trim_partition = partition;
}

static void look_at(const struct stream_row *row, void *context)
{
    struct look *look = context;
    struct eventstream_service *service = look->service;
    int order = strcmp(row->key, service->trim_key);
    unsigned begin = order == 0 ? service->trim_partition : 0;
    if (order < 0 || look->left == 0) {
        return;
    }
    for (unsigned i = begin; i < row->settings.partitions; i++) {
        struct partition_row bounds;
        struct error err = {0};
        if (look->left == 0) {
            go_on_at(service, row->key, i);
            return;
        }
        if (partition_find(service, row, i, &bounds, &err) < 0 || bounds.first == bounds.next) {
            continue;
        }
        uint64_t cut = cut_of(look, row, i, &bounds);
        if (cut > bounds.first) {
            remove_records(look, row->number, i, bounds.first, cut);
            service->is_behind = service->is_behind || look->left == 0;
        }
    }
    go_on_at(service, row->key, row->settings.partitions);
}

struct trash {
    uint64_t number;
    uint64_t partitions;
};

static bool take_trash(sqlite3_stmt *row, void *context)
{
    struct trash *trash = context;
    trash->number = (uint64_t)sqlite3_column_int64(row, 0);
    trash->partitions = (uint64_t)sqlite3_column_int64(row, 1);
    return false;
}

static void look_at_trash(struct look *look)
{
    struct store *store = look->service->options.store;
    struct trash trash = {0};
    struct error err = {0};
    store_query(store, &err, take_trash, &trash,
                "SELECT number, partitions FROM stream_trash ORDER BY number LIMIT 1", "");
    bool has_records = false;
    for (unsigned i = 0; i < trash.partitions && !has_records; i++) {
        uint64_t first = 0;
        store_query(store, &err, store_take_u64, &first,
                    "SELECT sequence FROM stream_record WHERE stream = ? AND partition = ? ORDER "
                    "BY sequence LIMIT 1",
                    "uu", trash.number, (uint64_t)i);
        has_records = first > 0;
        if (has_records) {
            remove_records(look, trash.number, i, first, first + look->left);
        }
    }
    if (trash.number > 0 && !has_records) {
        look->command = look->command != NULL ? look->command : store_command_new();
        store_command_add(look->command, "DELETE FROM stream_trash WHERE number = ?", "u",
                          trash.number);
    }
    look->service->is_behind = look->service->is_behind || trash.number > 0;
}

static void trim(struct eventstream_service *service);

static void on_trimmed(const struct error *error, uint64_t index, void *context)
{
    struct eventstream_service *service = context;
    (void)index;
    service->is_trimming = false;
    if (service->is_stopping) {
        return;
    }
    if (error == NULL && (service->is_behind || service->trim_key[0] != '\0')) {
        trim(service);
    } else {
        loop_timer_start(service->tick, TICK_MS);
    }
}

static void trim(struct eventstream_service *service)
{
    struct look look = {
        .service = service, .left = EVENTSTREAM_TRIM, .now_ms = eventstream_now_ms(service)};
    struct store_status status;
    struct error err = {0};
    bool begins = service->trim_key[0] == '\0';
    store_status(service->options.store, &status);
    service->is_behind = service->is_behind && !begins;
    if (status.is_leader && status.ready && stream_each(service, NULL, look_at, &look, &err) == 0 &&
        look.left > 0) {
        look_at_trash(&look);
        go_on_at(service, "", 0); /* that was all */
    }
    if (look.command == NULL) {
        loop_timer_start(service->tick, TICK_MS);
        return;
    }
    service->is_trimming = true;
    store_propose(service->options.store, look.command, on_trimmed, service);
}

static void on_tick(void *context)
{
    struct eventstream_service *service = context;
    if (!service->is_trimming) {
        trim(service);
    }
}

void eventstream_trim_start(struct eventstream_service *service)
{
    service->tick = loop_timer_new(service->options.loop, on_tick, service);
    loop_timer_start(service->tick, TICK_MS);
}
