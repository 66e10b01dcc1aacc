/* Reading, and where groups are. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/text.h"

#include "service/eventstream/parts.h"

/* ---- Records ---- */

struct reading {
    void (*visit)(const struct eventstream_record *record, void *context);
    void *context;
    size_t max;
    size_t bytes;
    size_t count;
    unsigned partition; /* that is being read */
    uint64_t until_ms;  /* another one has a record of that time */
    uint64_t next;
    bool is_full;
};

static const char *text_at(sqlite3_stmt *row, int column, const char *otherwise)
{
    const char *text = (const char *)sqlite3_column_text(row, column);
    return text != NULL ? text : otherwise;
}

static bool read_row(sqlite3_stmt *row, void *context)
{
    struct reading *reading = context;
    const void *body = sqlite3_column_blob(row, 5);
    const struct eventstream_record record = {
        .partition = reading->partition,
        .sequence = (uint64_t)sqlite3_column_int64(row, 0),
        .time_ms = (uint64_t)sqlite3_column_int64(row, 1),
        .key = text_at(row, 2, NULL),
        .content_type = text_at(row, 3, "application/octet-stream"),
        .attributes = text_at(row, 4, "{}"),
        .body = body != NULL ? body : "",
        .length = (size_t)sqlite3_column_bytes(row, 5),
    };
    if (record.time_ms > reading->until_ms) {
        return false;
    }
    reading->bytes += record.length + strlen(record.attributes);
    reading->is_full = reading->count > 0 && reading->bytes > EVENTSTREAM_BATCH_BYTES;
    if (reading->is_full) {
        return false;
    }
    reading->next = record.sequence + 1;
    reading->is_full = ++reading->count == reading->max;
    reading->visit(&record, reading->context);
    return true;
}

/* Of a partition, from a sequence on, until another partition has something older. */
static int read_run(struct eventstream_service *service, const struct stream_row *row,
                    struct reading *reading, struct error *err)
{
    return store_query(service->options.store, err, read_row, reading,
                       "SELECT sequence, time_ms, record_key, content_type, attributes, body FROM "
                       "stream_record WHERE stream = ? AND partition = ? AND sequence >= ? ORDER "
                       "BY sequence LIMIT ?",
                       "uuuu", row->number, (uint64_t)reading->partition, reading->next,
                       (uint64_t)(reading->max - reading->count));
}

/* The time of the record that is next in a partition; NEVER: there is none. */
#define NEVER UINT64_MAX
static uint64_t time_of_next(struct eventstream_service *service, const struct stream_row *row,
                             unsigned partition, uint64_t sequence)
{
    struct error ignored = {0};
    uint64_t time_ms = NEVER;
    store_query(service->options.store, &ignored, store_take_u64, &time_ms,
                "SELECT time_ms FROM stream_record WHERE stream = ? AND partition = ? AND sequence "
                ">= ? ORDER BY sequence LIMIT 1",
                "uuu", row->number, (uint64_t)partition, sequence);
    return time_ms;
}

static int find_cursor(struct eventstream_service *service, const char *project, const char *name,
                       const struct eventstream_cursor *cursor, struct stream_row *ret_row,
                       struct error *err)
{
    struct partition_row ignored;
    int r = stream_find(service, project, name, ret_row, err);
    return r < 0 || cursor->count == 0
        ? r
        : partition_find(service, ret_row, cursor->first + cursor->count - 1, &ignored, err);
}

int eventstream_read(struct eventstream_service *service, const char *project, const char *name,
                     struct eventstream_cursor *cursor, size_t max,
                     void (*visit)(const struct eventstream_record *record, void *context),
                     void *context, struct error *err)
{
    struct stream_row row = {0};
    struct reading reading = {
        .visit = visit, .context = context, .max = max, .is_full = max == 0 || cursor->count == 0};
    uint64_t times[EVENTSTREAM_PARTITIONS_MAX] = {0};
    int r = find_cursor(service, project, name, cursor, &row, err);
    for (unsigned i = 0; r == 0 && i < cursor->count; i++) {
        struct partition_row bounds = {0};
        r = partition_find(service, &row, cursor->first + i, &bounds, err);
        cursor->next[i] = cursor->next[i] > bounds.first ? cursor->next[i] : bounds.first;
        times[i] = time_of_next(service, &row, cursor->first + i, cursor->next[i]);
    }
    while (r == 0 && !reading.is_full) {
        unsigned oldest = 0;
        reading.until_ms = NEVER;
        for (unsigned i = 1; i < cursor->count; i++) {
            bool is_older = times[i] < times[oldest];
            uint64_t other_ms = is_older ? times[oldest] : times[i];
            reading.until_ms = other_ms < reading.until_ms ? other_ms : reading.until_ms;
            oldest = is_older ? i : oldest;
        }
        if (times[oldest] == NEVER) {
            break;
        }
        reading.partition = cursor->first + oldest;
        reading.next = cursor->next[oldest];
        r = read_run(service, &row, &reading, err);
        cursor->next[oldest] = reading.next;
        times[oldest] = time_of_next(service, &row, reading.partition, reading.next);
    }
    return r;
}

int eventstream_begin(struct eventstream_service *service, const char *project, const char *name,
                      enum eventstream_start start, uint64_t time_ms,
                      struct eventstream_cursor *cursor, struct error *err)
{
    struct stream_row row = {0};
    int r = find_cursor(service, project, name, cursor, &row, err);
    if (r == 0 && cursor->count == 0) {
        cursor->first = 0;
        cursor->count = row.settings.partitions;
    }
    for (unsigned i = 0; r == 0 && i < cursor->count; i++) {
        struct partition_row bounds = {0};
        r = partition_find(service, &row, cursor->first + i, &bounds, err);
        switch (start) {
        case EVENTSTREAM_OLDEST:
            cursor->next[i] = bounds.first;
            break;
        case EVENTSTREAM_LATEST:
            cursor->next[i] = bounds.next;
            break;
        case EVENTSTREAM_SINCE:
            cursor->next[i] =
                stream_search(service, &row, cursor->first + i, &bounds, "time_ms", time_ms);
            break;
        }
    }
    return r;
}

static int bounds_of(struct eventstream_service *service, const char *project, const char *name,
                     unsigned partition, struct stream_row *ret_row,
                     struct partition_row *ret_bounds, struct error *err)
{
    int r = stream_find(service, project, name, ret_row, err);
    return r < 0 ? r : partition_find(service, ret_row, partition, ret_bounds, err);
}

/* ---- Groups ---- */

static int checkpoint_of(struct eventstream_service *service, const struct stream_row *row,
                         const char *group, unsigned partition, uint64_t *ret_sequence,
                         struct error *err)
{
    *ret_sequence = 0;
    return store_query(service->options.store, err, store_take_u64, ret_sequence,
                       "SELECT sequence FROM stream_checkpoint WHERE stream = ? AND name = ? AND "
                       "partition = ?",
                       "utu", row->number, group, (uint64_t)partition);
}

int eventstream_checkpoint(struct eventstream_service *service, const char *project,
                           const char *name, const char *group, unsigned partition,
                           uint64_t *ret_sequence, struct error *err)
{
    struct stream_row row = {0};
    struct partition_row bounds;
    int r = bounds_of(service, project, name, partition, &row, &bounds, err);
    return r < 0 ? r : checkpoint_of(service, &row, group, partition, ret_sequence, err);
}

static int check_group(const char *group, struct error *err)
{
    return text_is_name(group)
        ? 0
        : error_set(err, ERROR_INVALID,
                    "a group's name is 1 to 63 of a-z, 0-9 and '-', beginning with a letter");
}

int eventstream_add_group(struct eventstream_service *service, const char *project,
                          const char *name, const char *group, struct store_command *command,
                          struct error *err)
{
    struct stream_row row = {0};
    struct error missing = {0};
    int r = check_group(group, err);
    if (r < 0) {
        return r;
    }
    if (stream_find(service, project, name, &row, &missing) < 0) {
        if (missing.kind == ERROR_NOT_FOUND) {
            return 0;
        }
        *err = missing;
        return -(int)missing.kind;
    }
    MEMORY_OWNED char *key = memory_format("%s/%s", row.key, group);
    store_command_add(
        command,
        "INSERT OR IGNORE INTO stream_checkpoint (key, stream, name, partition, sequence, "
        "updated_ms, revision) SELECT ? || '/' || partition, stream, ?, partition, next_sequence - "
        "1, ?, ? FROM stream_partition WHERE stream = ?",
        "tturu", key, group, eventstream_now_ms(service), row.number);
    return 0;
}

static struct store_command *checkpoint_command(struct eventstream_service *service,
                                                const struct stream_row *row, const char *group,
                                                unsigned partition, uint64_t sequence,
                                                uint64_t expected)
{
    struct store_command *command = store_command_new();
    uint64_t now_ms = eventstream_now_ms(service);
    MEMORY_OWNED char *key = memory_format("%s/%s/%u", row->key, group, partition);
    if (expected == 0) {
        store_command_add(command,
                          "INSERT OR IGNORE INTO stream_checkpoint (key, stream, name, partition, "
                          "sequence, updated_ms, revision) SELECT ?, number, ?, ?, 0, ?, ? FROM "
                          "stream WHERE number = ?",
                          "ttuuru", key, group, (uint64_t)partition, now_ms, row->number);
    }
    store_command_add_expecting(
        command, ERROR_CONFLICT,
        "the checkpoint is not what was expected: another consumer of the group has moved it",
        "UPDATE stream_checkpoint SET sequence = ?, updated_ms = ?, revision = ? WHERE stream = ? "
        "AND name = ? AND partition = ? AND sequence = ?",
        "uurutuu", sequence, now_ms, row->number, group, (uint64_t)partition, expected);
    return command;
}

void eventstream_set_checkpoint(struct eventstream_service *service, const char *project,
                                const char *name, const char *group, unsigned partition,
                                uint64_t sequence, uint64_t expected,
                                struct eventstream_reply reply)
{
    struct error err = {0};
    struct stream_row row = {0};
    struct partition_row bounds;
    int r = bounds_of(service, project, name, partition, &row, &bounds, &err);
    r = r < 0 ? r : check_group(group, &err);
    if (r == 0 && sequence >= bounds.next) {
        r = error_set(&err, ERROR_INVALID,
                      "partition %u ends at %" PRIu64 ": nobody is done with %" PRIu64, partition,
                      bounds.next - 1, sequence);
    }
    if (r < 0) {
        eventstream_answer(service, &err, reply);
        return;
    }
    eventstream_propose(
        service, checkpoint_command(service, &row, group, partition, sequence, expected), reply);
}

void eventstream_forget_group(struct eventstream_service *service, const char *project,
                              const char *name, const char *group, struct eventstream_reply reply)
{
    struct error err = {0};
    struct stream_row row = {0};
    if (stream_find(service, project, name, &row, &err) < 0) {
        eventstream_answer(service, &err, reply);
        return;
    }
    struct store_command *command = store_command_new();
    store_command_add_expecting(command, ERROR_NOT_FOUND, "there is no such group",
                                "DELETE FROM stream_checkpoint WHERE stream = ? AND name = ?", "ut",
                                row.number, group);
    eventstream_propose(service, command, reply);
}

static uint64_t lag_of(const struct partition_row *bounds, uint64_t checkpoint)
{
    uint64_t done = checkpoint + 1 > bounds->first ? checkpoint + 1 : bounds->first;
    return bounds->next > done ? bounds->next - done : 0;
}

int eventstream_lag(struct eventstream_service *service, const char *project, const char *name,
                    const char *group, uint64_t *ret_lag, struct error *err)
{
    struct stream_row row = {0};
    int r = stream_find(service, project, name, &row, err);
    *ret_lag = 0;
    for (unsigned i = 0; r == 0 && i < row.settings.partitions; i++) {
        struct partition_row bounds;
        uint64_t checkpoint = 0;
        r = partition_find(service, &row, i, &bounds, err);
        r = r < 0 ? r : checkpoint_of(service, &row, group, i, &checkpoint, err);
        *ret_lag += lag_of(&bounds, checkpoint);
    }
    return r;
}

/* ---- How they are doing ---- */

struct names {
    char names[256][EVENTSTREAM_NAME_SIZE];
    size_t count;
};

static bool take_name(sqlite3_stmt *row, void *context)
{
    struct names *names = context;
    snprintf(names->names[names->count++], EVENTSTREAM_NAME_SIZE, "%s",
             (const char *)sqlite3_column_text(row, 0));
    return names->count < 256;
}

struct writing {
    struct eventstream_service *service;
    struct json_writer writer;
    int r;
    struct error *err;
};

static void write_group(struct writing *writing, const struct stream_row *row, const char *group)
{
    struct json_writer *w = &writing->writer;
    uint64_t lag = 0;
    json_write_begin_object(w);
    json_write_field_string(w, "name", group);
    json_write_key(w, "checkpoints");
    json_write_begin_array(w);
    for (unsigned i = 0; writing->r == 0 && i < row->settings.partitions; i++) {
        struct partition_row bounds;
        uint64_t sequence = 0;
        writing->r = partition_find(writing->service, row, i, &bounds, writing->err);
        if (writing->r == 0) {
            writing->r = checkpoint_of(writing->service, row, group, i, &sequence, writing->err);
        }
        json_write_begin_object(w);
        json_write_field_u64(w, "partition", i);
        json_write_field_u64(w, "sequence", sequence);
        json_write_field_u64(w, "lag", writing->r == 0 ? lag_of(&bounds, sequence) : 0);
        json_write_end_object(w);
        lag += writing->r == 0 ? lag_of(&bounds, sequence) : 0;
    }
    json_write_end_array(w);
    json_write_field_u64(w, "lag", lag);
    json_write_end_object(w);
}

static void write_partitions(struct writing *writing, const struct stream_row *row)
{
    struct json_writer *w = &writing->writer;
    uint64_t records = 0;
    uint64_t bytes = 0;
    json_write_key(w, "partitions");
    json_write_begin_array(w);
    for (unsigned i = 0; writing->r == 0 && i < row->settings.partitions; i++) {
        struct partition_row bounds;
        writing->r = partition_find(writing->service, row, i, &bounds, writing->err);
        json_write_begin_object(w);
        json_write_field_u64(w, "partition", i);
        json_write_field_u64(w, "first", bounds.first);
        json_write_field_u64(w, "next", bounds.next);
        json_write_field_u64(w, "records", bounds.next - bounds.first);
        json_write_field_u64(w, "bytes", bounds.bytes);
        json_write_end_object(w);
        records += bounds.next - bounds.first;
        bytes += bounds.bytes;
    }
    json_write_end_array(w);
    json_write_field_u64(w, "records", records);
    json_write_field_u64(w, "bytes", bytes);
}

static void write_stream(const struct stream_row *row, void *context)
{
    struct writing *writing = context;
    struct json_writer *w = &writing->writer;
    struct names groups = {.count = 0};
    json_write_begin_object(w);
    json_write_field_string(w, "name", row->name);
    json_write_field_u64(w, "retention_ms", row->settings.retention_ms);
    json_write_field_u64(w, "retention_bytes", row->settings.retention_bytes);
    write_partitions(writing, row);
    json_write_key(w, "groups");
    json_write_begin_array(w);
    if (writing->r == 0) {
        writing->r = store_query(writing->service->options.store, writing->err, take_name, &groups,
                                 "SELECT DISTINCT name FROM stream_checkpoint WHERE stream = ? "
                                 "ORDER BY name LIMIT 256",
                                 "u", row->number);
    }
    for (size_t i = 0; i < groups.count; i++) {
        write_group(writing, row, groups.names[i]);
    }
    json_write_end_array(w);
    json_write_field_time_ms(w, "created_at", row->created_ms);
    json_write_end_object(w);
}

int eventstream_write(struct eventstream_service *service, const char *project, const char *name,
                      struct buffer *out, struct error *err)
{
    struct stream_row row = {0};
    struct writing writing = {.service = service, .writer = json_writer_to(out), .err = err};
    int r = stream_find(service, project, name, &row, err);
    if (r < 0) {
        return r;
    }
    write_stream(&row, &writing);
    return writing.r;
}

int eventstream_write_group(struct eventstream_service *service, const char *project,
                            const char *name, const char *group, struct buffer *out,
                            struct error *err)
{
    struct stream_row row = {0};
    struct writing writing = {.service = service, .writer = json_writer_to(out), .err = err};
    uint64_t count = 0;
    int r = stream_find(service, project, name, &row, err);
    r = r < 0 ? r
              : store_query(service->options.store, err, store_take_u64, &count,
                            "SELECT count(*) FROM stream_checkpoint WHERE stream = ? AND name = ?",
                            "ut", row.number, group);
    if (r == 0 && count == 0) {
        return error_set(err, ERROR_NOT_FOUND,
                         "stream %s has no group %.63s: its first checkpoint makes it", row.name,
                         group);
    }
    if (r < 0) {
        return r;
    }
    write_group(&writing, &row, group);
    return writing.r;
}

int eventstream_write_list(struct eventstream_service *service, const char *project,
                           struct buffer *out, struct error *err)
{
    struct writing writing = {.service = service, .writer = json_writer_to(out), .err = err};
    json_write_begin_object(&writing.writer);
    json_write_key(&writing.writer, "streams");
    json_write_begin_array(&writing.writer);
    int r = stream_each(service, project, write_stream, &writing, err);
    json_write_end_array(&writing.writer);
    json_write_end_object(&writing.writer);
    return r < 0 ? r : writing.r;
}
