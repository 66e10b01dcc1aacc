/* Making, changing and deleting queues. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/text.h"

#include "service/queue/parts.h"

#define SECOND_MS UINT64_C(1000)
#define DAY_MS    (24 * 3600 * SECOND_MS)

enum { RECEIVES_WITH_DEAD_LETTERS = 5 };

void queue_settings_init(struct queue_settings *settings)
{
    *settings = (struct queue_settings){
        .visibility_ms = 30 * SECOND_MS,
        .retention_ms = 4 * DAY_MS,
        .dedup_ms = 300 * SECOND_MS,
        .depth_max = 100000,
        .bytes_max = UINT64_C(256) << 20,
    };
}

/* ---- What may be ---- */

static int check_range(const char *what, uint64_t value, uint64_t least, uint64_t most,
                       const char *text, struct error *err)
{
    return value >= least && value <= most
        ? 0
        : error_set(err, ERROR_INVALID, "%s is %s, not %" PRIu64, what, text, value);
}

static int check(const char *name, const struct queue_settings *s, struct error *err)
{
    if (!text_is_name(name)) {
        return error_set(err, ERROR_INVALID,
                         "a queue's name is 1 to 63 of a-z, 0-9 and '-', beginning with a letter");
    }
    if (s->receives_max > 0 && s->dead_letter == NULL) {
        return error_set(err, ERROR_INVALID,
                         "with max_receives goes dead_letter, the queue for what was received too "
                         "often: nothing is thrown away");
    }
    const struct {
        const char *name;
        uint64_t value, least, most;
        const char *text;
    } rules[] = {
        {"visibility_ms", s->visibility_ms, 1, QUEUE_HIDDEN_MAX_MS, "1 ms to 12 hours"},
        {"retention_ms", s->retention_ms, SECOND_MS, 14 * DAY_MS, "1 second to 14 days"},
        {"delay_ms", s->delay_ms, 0, QUEUE_DELAY_MAX_MS, "at most 15 minutes"},
        {"dedup_ms", s->dedup_ms, 0, 3600 * SECOND_MS, "at most 1 hour"},
        {"max_depth", s->depth_max, 1, 10000000, "1 to 10 million messages"},
        {"max_bytes", s->bytes_max, 1 << 20, UINT64_C(16) << 30, "1 MiB to 16 GiB"},
        {"max_receives", s->receives_max, 0, 1000, "at most 1000"},
    };
    for (size_t i = 0; i < sizeof(rules) / sizeof(rules[0]); i++) {
        int r = check_range(rules[i].name, rules[i].value, rules[i].least, rules[i].most,
                            rules[i].text, err);
        if (r < 0) {
            return r;
        }
    }
    return 0;
}

/* The queue for dead letters: there, of the same kind, and without one of its own. */
static int find_dead_letter(struct queue_service *service, const char *project, const char *name,
                            const struct queue_settings *settings, uint64_t *ret_number,
                            struct error *err)
{
    struct queue_row row = {0};
    *ret_number = 0;
    if (settings->dead_letter == NULL) {
        return 0;
    }
    if (strcmp(settings->dead_letter, name) == 0) {
        return error_set(err, ERROR_INVALID, "a queue cannot take its own dead letters");
    }
    int r = queue_find(service, project, settings->dead_letter, &row, err);
    if (r < 0) {
        return error_wrap(err, "dead_letter");
    }
    if (row.settings.is_fifo != settings->is_fifo) {
        return error_set(err, ERROR_INVALID,
                         "dead_letter: of a FIFO queue it is a FIFO queue, of another it is none");
    }
    if (row.dead_letter != 0) {
        return error_set(err, ERROR_INVALID,
                         "dead_letter: %s has a dead-letter queue itself, where dead letters would "
                         "get lost from sight",
                         row.name);
    }
    *ret_number = row.number;
    return 0;
}

static uint64_t receives_max_of(const struct queue_settings *settings)
{
    return settings->receives_max == 0 && settings->dead_letter != NULL ? RECEIVES_WITH_DEAD_LETTERS
                                                                        : settings->receives_max;
}

static bool is_same(const struct queue_row *row, const struct queue_settings *settings,
                    uint64_t dead_letter)
{
    const struct queue_settings *s = &row->settings;
    return s->is_fifo == settings->is_fifo && s->visibility_ms == settings->visibility_ms &&
        s->retention_ms == settings->retention_ms && s->delay_ms == settings->delay_ms &&
        s->dedup_ms == settings->dedup_ms && s->depth_max == settings->depth_max &&
        s->bytes_max == settings->bytes_max && s->receives_max == receives_max_of(settings) &&
        row->dead_letter == dead_letter;
}

/* ---- Commands ---- */

static void on_written(const struct error *error, uint64_t index, void *context)
{
    struct queue_reply *reply = context;
    (void)index;
    reply->done(error, reply->context);
    free(reply);
}

static void propose(struct queue_service *service, struct store_command *owned_command,
                    struct queue_reply reply)
{
    struct queue_reply *kept = NEW(struct queue_reply);
    *kept = reply;
    store_propose(service->options.store, owned_command, on_written, kept);
}

/* As it was when it was looked at: nobody deletes it or gives it one of its own meanwhile. */
static void add_dead_letter_check(struct store_command *command, uint64_t number)
{
    if (number != 0) {
        store_command_add_expecting(
            command, ERROR_CONFLICT, "the dead-letter queue was changed at the same moment",
            "UPDATE queue SET depth = depth WHERE number = ? AND dead_letter IS NULL", "u", number);
    }
}

void queue_create(struct queue_service *service, const char *project, const char *name,
                  const struct queue_settings *settings, struct queue_reply reply)
{
    struct error err = {0};
    struct error none = {0};
    struct queue_row row = {0};
    uint64_t dead_letter = 0;
    int r = check(name, settings, &err);
    r = r < 0 ? r : find_dead_letter(service, project, name, settings, &dead_letter, &err);
    if (r == 0 && queue_find(service, project, name, &row, &none) == 0) {
        if (!is_same(&row, settings, dead_letter)) {
            error_set(&err, ERROR_EXISTS,
                      "the queue %s exists with other settings: see `blixard queue update`", name);
        }
        queue_refuse(service, &err, reply);
        return;
    }
    if (r == 0 && none.kind != ERROR_NOT_FOUND) {
        err = none;
        r = -1;
    }
    if (r < 0) {
        queue_refuse(service, &err, reply);
        return;
    }
    struct store_command *command = store_command_new();
    char key[QUEUE_KEY_SIZE];
    snprintf(key, sizeof(key), "%.63s/%.63s", project, name);
    uint64_t now_ms = queue_now_ms(service);
    add_dead_letter_check(command, dead_letter);
    store_command_add(command, "INSERT OR IGNORE INTO project (key, created_ms) VALUES (?, ?)",
                      "tu", project, now_ms);
    store_command_add_expecting(
        command, ERROR_EXISTS, "the queue was made at the same moment",
        "INSERT OR IGNORE INTO queue (key, project, name, number, fifo, visibility_ms, "
        "retention_ms, delay_ms, dedup_ms, depth_max, bytes_max, receives_max, dead_letter, "
        "created_ms, revision) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, nullif(?, 0), ?, ?)",
        "tttriuuuuuuuuur", key, project, name, (int64_t)settings->is_fifo, settings->visibility_ms,
        settings->retention_ms, settings->delay_ms, settings->dedup_ms, settings->depth_max,
        settings->bytes_max, receives_max_of(settings), dead_letter, now_ms);
    propose(service, command, reply);
}

void queue_update(struct queue_service *service, const char *project, const char *name,
                  const struct queue_settings *settings, struct queue_reply reply)
{
    struct error err = {0};
    struct queue_row row = {0};
    uint64_t dead_letter = 0;
    int r = check(name, settings, &err);
    r = r < 0 ? r : queue_find(service, project, name, &row, &err);
    if (r == 0 && row.settings.is_fifo != settings->is_fifo) {
        r = error_set(&err, ERROR_INVALID,
                      "a queue is FIFO or not from its beginning: make another one");
    }
    r = r < 0 ? r : find_dead_letter(service, project, name, settings, &dead_letter, &err);
    if (r < 0) {
        queue_refuse(service, &err, reply);
        return;
    }
    struct store_command *command = store_command_new();
    add_dead_letter_check(command, dead_letter);
    store_command_add_expecting(
        command, ERROR_CONFLICT,
        dead_letter != 0 ? "the queue was changed at the same moment, or takes the dead letters "
                           "of another itself"
                         : "the queue was changed at the same moment",
        "UPDATE queue SET visibility_ms = ?, retention_ms = ?, delay_ms = ?, dedup_ms = ?, "
        "depth_max = ?, bytes_max = ?, receives_max = ?, dead_letter = nullif(?, 0), revision = ? "
        "WHERE number = ? AND revision = ? AND (? = 0 OR NOT EXISTS (SELECT 1 FROM queue o WHERE "
        "o.dead_letter = queue.number))",
        "uuuuuuuuruuu", settings->visibility_ms, settings->retention_ms, settings->delay_ms,
        settings->dedup_ms, settings->depth_max, settings->bytes_max, receives_max_of(settings),
        dead_letter, row.number, row.revision, dead_letter);
    propose(service, command, reply);
}

void queue_delete(struct queue_service *service, const char *project, const char *name,
                  struct queue_reply reply)
{
    struct error err = {0};
    struct queue_row row = {0};
    if (queue_find(service, project, name, &row, &err) < 0) {
        queue_refuse(service, &err, reply);
        return;
    }
    struct store_command *command = store_command_new();
    store_command_add_expecting(
        command, ERROR_CONFLICT,
        "the queue takes the dead letters of another, or is gone: let that one go first",
        "DELETE FROM queue WHERE number = ? AND NOT EXISTS (SELECT 1 FROM queue o WHERE "
        "o.dead_letter = ?)",
        "uu", row.number, row.number);
    store_command_add(command, "INSERT INTO queue_trash (number) VALUES (?)", "u", row.number);
    propose(service, command, reply);
}

int queue_read_settings(struct queue_service *service, const char *project, const char *name,
                        struct queue_settings *ret_settings, struct error *err)
{
    struct queue_row row = {0};
    struct queue_row dead = {0};
    int r = queue_find(service, project, name, &row, err);
    if (r < 0) {
        return r;
    }
    *ret_settings = row.settings;
    if (queue_find_number(service, row.dead_letter, &dead)) {
        ret_settings->dead_letter = memory_copy_string(dead.name);
    }
    return 0;
}
