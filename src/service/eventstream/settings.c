/* Making, changing and deleting streams. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/text.h"

#include "service/eventstream/parts.h"

#define HOUR_MS UINT64_C(3600000)

void eventstream_settings_init(struct eventstream_settings *settings)
{
    *settings = (struct eventstream_settings){
        .partitions = 4, .retention_ms = 24 * HOUR_MS, .retention_bytes = UINT64_C(64) << 20};
}

static int check(const char *name, const struct eventstream_settings *s, struct error *err)
{
    if (!text_is_name(name)) {
        return error_set(err, ERROR_INVALID,
                         "a stream's name is 1 to 63 of a-z, 0-9 and '-', beginning with a letter");
    }
    if (s->partitions < 1 || s->partitions > EVENTSTREAM_PARTITIONS_MAX) {
        return error_set(err, ERROR_INVALID, "a stream has 1 to %d partitions",
                         EVENTSTREAM_PARTITIONS_MAX);
    }
    if (s->retention_ms < 1000 || s->retention_ms > 365 * 24 * HOUR_MS) {
        return error_set(err, ERROR_INVALID,
                         "retention_ms is 1 second to 365 days, not %" PRIu64 " ms",
                         s->retention_ms);
    }
    if (s->retention_bytes < 1 << 20 || s->retention_bytes > UINT64_C(64) << 30) {
        return error_set(err, ERROR_INVALID, "retention_bytes is 1 MiB to 64 GiB, not %" PRIu64,
                         s->retention_bytes);
    }
    return 0;
}

static struct store_command *creation(struct eventstream_service *service, const char *project,
                                      const char *name, const struct eventstream_settings *s)
{
    struct store_command *command = store_command_new();
    uint64_t now_ms = eventstream_now_ms(service);
    char key[EVENTSTREAM_SHORT_KEY_SIZE];
    snprintf(key, sizeof(key), "%.63s/%.63s", project, name);
    store_command_add(command, "INSERT OR IGNORE INTO project (key, created_ms) VALUES (?, ?)",
                      "tu", project, now_ms);
    store_command_add_expecting(
        command, ERROR_EXISTS, "the stream was made at the same moment",
        "INSERT OR IGNORE INTO stream (key, project, name, number, partitions, retention_ms, "
        "retention_bytes, created_ms, revision) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        "tttruuuur", key, project, name, (uint64_t)s->partitions, s->retention_ms,
        s->retention_bytes, now_ms);
    for (unsigned i = 0; i < s->partitions; i++) {
        char partition[EVENTSTREAM_SHORT_KEY_SIZE + 12];
        snprintf(partition, sizeof(partition), "%s/%u", key, i);
        store_command_add(command,
                          "INSERT INTO stream_partition (key, stream, partition) VALUES (?, ?, ?)",
                          "tru", partition, (uint64_t)i);
    }
    return command;
}

void eventstream_create(struct eventstream_service *service, const char *project, const char *name,
                        const struct eventstream_settings *settings, struct eventstream_reply reply)
{
    struct error err = {0};
    struct error none = {0};
    struct stream_row row = {0};
    int r = check(name, settings, &err);
    if (r < 0) {
        eventstream_answer(service, &err, reply);
        return;
    }
    r = stream_find(service, project, name, &row, &none);
    if (r == -ERROR_NOT_FOUND) {
        eventstream_propose(service, creation(service, project, name, settings), reply);
        return;
    }
    const struct eventstream_settings *s = &row.settings;
    if (r < 0) {
        err = none;
    } else if (s->partitions != settings->partitions || s->retention_ms != settings->retention_ms ||
               s->retention_bytes != settings->retention_bytes) {
        error_set(&err, ERROR_EXISTS,
                  "the stream %s exists with other settings: see `blixard stream update`", name);
    }
    eventstream_answer(service, &err, reply);
}

void eventstream_update(struct eventstream_service *service, const char *project, const char *name,
                        const struct eventstream_settings *settings, struct eventstream_reply reply)
{
    struct error err = {0};
    struct stream_row row = {0};
    int r = check(name, settings, &err);
    r = r < 0 ? r : stream_find(service, project, name, &row, &err);
    if (r == 0 && row.settings.partitions != settings->partitions) {
        r = error_set(&err, ERROR_INVALID,
                      "a stream keeps its partitions: with others, keys would change their place");
    }
    if (r < 0) {
        eventstream_answer(service, &err, reply);
        return;
    }
    struct store_command *command = store_command_new();
    store_command_add_expecting(
        command, ERROR_CONFLICT, "the stream was changed at the same moment",
        "UPDATE stream SET retention_ms = ?, retention_bytes = ?, revision "
        "= ? WHERE number = ? AND revision = ?",
        "uuruu", settings->retention_ms, settings->retention_bytes, row.number, row.revision);
    eventstream_propose(service, command, reply);
}

void eventstream_delete(struct eventstream_service *service, const char *project, const char *name,
                        struct eventstream_reply reply)
{
    struct error err = {0};
    struct stream_row row = {0};
    if (stream_find(service, project, name, &row, &err) < 0) {
        eventstream_answer(service, &err, reply);
        return;
    }
    struct store_command *command = store_command_new();
    store_command_add_expecting(command, ERROR_NOT_FOUND, "the stream is gone",
                                "DELETE FROM stream WHERE number = ?", "u", row.number);
    store_command_add(command, "DELETE FROM stream_partition WHERE stream = ?", "u", row.number);
    store_command_add(command, "DELETE FROM stream_checkpoint WHERE stream = ?", "u", row.number);
    store_command_add(command, "INSERT INTO stream_trash (number, partitions) VALUES (?, ?)", "uu",
                      row.number, (uint64_t)row.settings.partitions);
    eventstream_propose(service, command, reply);
}

int eventstream_read_settings(struct eventstream_service *service, const char *project,
                              const char *name, struct eventstream_settings *ret_settings,
                              struct error *err)
{
    struct stream_row row = {0};
    int r = stream_find(service, project, name, &row, err);
    if (r == 0) {
        *ret_settings = row.settings;
    }
    return r;
}
