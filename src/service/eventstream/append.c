/*
 * Appending.  A record's sequence is decided when its command is applied; where this command's
 * records have come to lie is found by its index, which never decreases in a partition.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/hash.h"
#include "base/json.h"
#include "base/random.h"
#include "base/text.h"

#include "service/eventstream/parts.h"

struct appending {
    struct eventstream_service *service;
    struct stream_row row;
    void (*done)(const struct error *error, const struct eventstream_place *places, size_t count,
                 void *context);
    void *context;
    size_t count;
    struct eventstream_place places[];
};

unsigned eventstream_partition_of(const char *key, unsigned partitions)
{
    return (unsigned)(hash_stable(key) % partitions);
}

/* ---- What may be appended ---- */

static int check_text(const char *what, const char *text, struct error *err)
{
    return text == NULL || (strlen(text) <= EVENTSTREAM_KEY_MAX && text_is_printable(text))
        ? 0
        : error_set(err, ERROR_INVALID, "%s is at most %d bytes of printable text", what,
                    EVENTSTREAM_KEY_MAX);
}

static uint64_t size_of(const struct eventstream_outgoing *record)
{
    return record->length + (record->key != NULL ? strlen(record->key) : 0) +
        (record->content_type != NULL ? strlen(record->content_type) : 0) +
        (record->attributes != NULL ? strlen(record->attributes) : 0);
}

static int check(const struct eventstream_outgoing *records, size_t count, struct error *err)
{
    uint64_t bytes = 0;
    int r = 0;
    if (count == 0 || count > EVENTSTREAM_BATCH_MAX) {
        return error_set(err, ERROR_INVALID, "append 1 to %d records at once",
                         EVENTSTREAM_BATCH_MAX);
    }
    for (size_t i = 0; i < count && r == 0; i++) {
        bytes += size_of(&records[i]);
        if (records[i].length > EVENTSTREAM_BODY_MAX) {
            return error_set(err, ERROR_TOO_LARGE,
                             "record %zu: a record has at most 256 KiB, this one has %zu bytes: "
                             "append where its content can be found",
                             i, records[i].length);
        }
        r = check_text("a key", records[i].key, err);
        r = r < 0 ? r : check_text("a content type", records[i].content_type, err);
        if (r == 0 && records[i].attributes != NULL) {
            r = json_check_attributes(records[i].attributes, EVENTSTREAM_ATTRIBUTES_MAX, err);
        }
    }
    if (r < 0) {
        return r;
    }
    return count == 1 || bytes <= EVENTSTREAM_BATCH_BYTES
        ? 0
        : error_set(err, ERROR_TOO_LARGE, "a batch has at most 768 KiB: append it in parts");
}

/* ---- The command ---- */

static const char full[] =
    "the stream is written faster than it is trimmed: nothing was taken; try "
    "again, or raise retention_bytes";

static void add_record(struct store_command *command, const struct stream_row *row,
                       unsigned partition, uint64_t offset,
                       const struct eventstream_outgoing *record, uint64_t now_ms)
{
    store_command_add(
        command,
        "INSERT INTO stream_record (stream, partition, sequence, command, time_ms, size, "
        "record_key, content_type, attributes, body) SELECT stream, partition, next_sequence + ?, "
        "?, max(last_ms, ?), ?, ?, ?, ?, ? FROM stream_partition WHERE stream = ? AND partition = "
        "?",
        "uruutttbuu", offset, now_ms, size_of(record) + EVENTSTREAM_OVERHEAD, record->key,
        record->content_type, record->attributes, record->length > 0 ? record->body : "",
        record->length, row->number, (uint64_t)partition);
}

static struct store_command *command_of(const struct appending *appending,
                                        const struct eventstream_outgoing *records, uint64_t now_ms)
{
    struct store_command *command = store_command_new();
    const struct stream_row *row = &appending->row;
    for (unsigned partition = 0; partition < row->settings.partitions; partition++) {
        uint64_t count = 0;
        uint64_t bytes = 0;
        for (size_t i = 0; i < appending->count; i++) {
            if (appending->places[i].partition == partition) {
                add_record(command, row, partition, count, &records[i], now_ms);
                count++;
                bytes += size_of(&records[i]) + EVENTSTREAM_OVERHEAD;
            }
        }
        if (count > 0) {
            store_command_add_expecting(
                command, ERROR_LIMIT, full,
                "UPDATE stream_partition SET next_sequence = next_sequence + ?, bytes = bytes + ?, "
                "last_ms = max(last_ms, ?) WHERE stream = ? AND partition = ? AND bytes < ?",
                "uuuuuu", count, bytes, now_ms, row->number, (uint64_t)partition,
                2 * (row->settings.retention_bytes / row->settings.partitions));
        }
    }
    return command;
}

/* ---- The answer ---- */

static void on_written(const struct error *error, uint64_t index, void *context)
{
    struct appending *appending = context;
    const struct stream_row *row = &appending->row;
    uint64_t next[EVENTSTREAM_PARTITIONS_MAX] = {0};
    for (size_t i = 0; error == NULL && i < appending->count; i++) {
        struct eventstream_place *place = &appending->places[i];
        struct partition_row bounds;
        struct error err = {0};
        if (next[place->partition] == 0 &&
            partition_find(appending->service, row, place->partition, &bounds, &err) == 0) {
            next[place->partition] =
                stream_search(appending->service, row, place->partition, &bounds, "command", index);
        }
        place->sequence = next[place->partition]++;
    }
    appending->done(error, error == NULL ? appending->places : NULL,
                    error == NULL ? appending->count : 0, appending->context);
    free(appending);
}

static void on_refused(const struct error *error, void *context)
{
    on_written(error, 0, context);
}

void eventstream_append(struct eventstream_service *service, const char *project, const char *name,
                        const struct eventstream_outgoing *records, size_t count,
                        void (*done)(const struct error *error,
                                     const struct eventstream_place *places, size_t count,
                                     void *context),
                        void *context)
{
    struct error err = {0};
    size_t room = count <= EVENTSTREAM_BATCH_MAX ? count : 0;
    struct appending *appending =
        memory_new(1, sizeof(*appending) + room * sizeof(appending->places[0]));
    appending->service = service;
    appending->done = done;
    appending->context = context;
    appending->count = room;
    int r = stream_find(service, project, name, &appending->row, &err);
    r = r < 0 ? r : check(records, count, &err);
    if (r < 0) {
        eventstream_answer(service, &err, (struct eventstream_reply){on_refused, appending});
        return;
    }
    unsigned partitions = appending->row.settings.partitions;
    uint64_t any = random_u64();
    for (size_t i = 0; i < count; i++) {
        appending->places[i].partition = records[i].key != NULL
            ? eventstream_partition_of(records[i].key, partitions)
            : (unsigned)((any + i) % partitions);
    }
    store_propose(service->options.store,
                  command_of(appending, records, eventstream_now_ms(service)), on_written,
                  appending);
}
