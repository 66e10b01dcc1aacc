/*
 * Sending: all messages of a request are one command, and requests that come together are one
 * entry of the log.
 *
 * The id of a message is known when its command is applied: index * QUEUE_PLACES + place.  Of one
 * that may be a duplicate, the state says afterwards whether it is.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/text.h"

#include "service/queue/parts.h"

struct sending {
    struct queue_service *service;
    char key[QUEUE_KEY_SIZE];
    uint64_t number;
    void (*done)(const struct error *error, const struct queue_sent *sent, size_t count,
                 void *context);
    void *context;
    char **dedups; /* NULL: none */
    size_t count;
    struct queue_sent sent[];
};

static void sending_free(struct sending *sending)
{
    for (size_t i = 0; i < sending->count; i++) {
        free(sending->dedups[i]);
    }
    free(sending->dedups);
    free(sending);
}

/* ---- What may be sent ---- */

static int check_text(const char *what, const char *text, struct error *err)
{
    return text == NULL || (strlen(text) <= QUEUE_TEXT_MAX && text_is_printable(text))
        ? 0
        : error_set(err, ERROR_INVALID, "%s is at most %d bytes of printable text", what,
                    QUEUE_TEXT_MAX);
}

static int check(const struct queue_row *row, const struct queue_outgoing *message,
                 struct error *err)
{
    bool is_fifo = row->settings.is_fifo;
    if (message->length > QUEUE_BODY_MAX) {
        return error_set(err, ERROR_TOO_LARGE,
                         "a message has at most 256 KiB, this one has %zu bytes: send where its "
                         "content can be found",
                         message->length);
    }
    if (message->priority > QUEUE_PRIORITY_MAX) {
        return error_set(err, ERROR_INVALID, "a priority is 0 to 9");
    }
    if (message->delay_ms != QUEUE_DEFAULT && message->delay_ms > QUEUE_DELAY_MAX_MS) {
        return error_set(err, ERROR_INVALID, "a delay is at most 15 minutes");
    }
    if (is_fifo && message->priority > 0) {
        return error_set(err, ERROR_INVALID, "a FIFO queue has an order: it takes no priorities");
    }
    if (!is_fifo && message->group != NULL) {
        return error_set(err, ERROR_INVALID,
                         "groups are of FIFO queues: make one with `blixard queue create --fifo`");
    }
    int r = check_text("a group", message->group, err);
    r = r < 0 ? r : check_text("a dedup id", message->dedup, err);
    r = r < 0 ? r : check_text("a content type", message->content_type, err);
    return r < 0 || message->attributes == NULL
        ? r
        : json_check_attributes(message->attributes, QUEUE_ATTRIBUTES_MAX, err);
}

static int check_all(const struct queue_row *row, const struct queue_outgoing *messages,
                     size_t count, struct error *err)
{
    size_t bytes = 0;
    if (count == 0 || count > QUEUE_BATCH_MAX) {
        return error_set(err, ERROR_INVALID, "send 1 to %d messages at once", QUEUE_BATCH_MAX);
    }
    for (size_t i = 0; i < count; i++) {
        if (check(row, &messages[i], err) < 0) {
            return count > 1 ? error_wrap(err, "message %zu", i) : -(int)err->kind;
        }
        bytes += messages[i].length +
            (messages[i].attributes != NULL ? strlen(messages[i].attributes) : 0);
    }
    return count == 1 || bytes <= QUEUE_BATCH_BYTES
        ? 0
        : error_set(err, ERROR_TOO_LARGE, "a batch has at most 768 KiB: send it in parts");
}

/* ---- The command ---- */

#define INSERT                                                                                 \
    "INSERT INTO queue_message (id, queue, priority, visible_ms, claimed, blocked, receives, " \
    "sent_ms, entered_ms, size, message_group, dedup, content_type, attributes, body) "
#define IS_BLOCKED "EXISTS (SELECT 1 FROM queue_message WHERE queue = ? AND message_group = ?)"
#define IS_KNOWN   "EXISTS (SELECT 1 FROM queue_dedup WHERE queue = ? AND dedup = ?)"

static const char full[] =
    "the queue is at its limit: nothing was taken; receive from it, or raise "
    "max_depth or max_bytes with `blixard queue update`";

static uint64_t size_of(const struct queue_outgoing *message)
{
    return message->length + (message->attributes != NULL ? strlen(message->attributes) : 0);
}

static uint64_t visible_at(const struct queue_row *row, const struct queue_outgoing *message,
                           uint64_t now_ms)
{
    uint64_t delay_ms =
        message->delay_ms == QUEUE_DEFAULT ? row->settings.delay_ms : message->delay_ms;
    return delay_ms > 0 ? now_ms + delay_ms : 0;
}

static void add_plain(struct store_command *command, const struct queue_row *row,
                      const struct queue_outgoing *message, size_t place, uint64_t now_ms)
{
    const char *body = message->length > 0 ? message->body : "";
    uint64_t visible_ms = visible_at(row, message, now_ms);
    if (row->settings.is_fifo) {
        const char *group = message->group != NULL ? message->group : "";
        store_command_add(command,
                          INSERT "VALUES (? * 1024 + ?, ?, 0, ?, 0, " IS_BLOCKED
                                 ", 0, ?, ?, ?, ?, NULL, ?, ?, ?)",
                          "ruuuutuuutttb", (uint64_t)place, row->number, visible_ms, row->number,
                          group, now_ms, now_ms, size_of(message), group, message->content_type,
                          message->attributes, body, message->length);
        return;
    }
    store_command_add(
        command, INSERT "VALUES (? * 1024 + ?, ?, ?, ?, 0, 0, 0, ?, ?, ?, NULL, NULL, ?, ?, ?)",
        "ruuuuuuuttb", (uint64_t)place, row->number, (uint64_t)message->priority, visible_ms,
        now_ms, now_ms, size_of(message), message->content_type, message->attributes, body,
        message->length);
}

/* One that may have been sent before, which is decided when the command is applied. */
static void add_once(struct store_command *command, const struct queue_row *row,
                     const struct queue_outgoing *message, size_t place, uint64_t now_ms)
{
    const char *body = message->length > 0 ? message->body : "";
    const char *group = message->group != NULL ? message->group : "";
    uint64_t size = size_of(message);
    store_command_add(command,
                      "DELETE FROM queue_dedup WHERE queue = ? AND dedup = ? AND expires_ms <= ?",
                      "utu", row->number, message->dedup, now_ms);
    store_command_add_expecting(
        command, ERROR_LIMIT, full,
        "UPDATE queue SET depth = depth + d.n, bytes = bytes + d.n * ?, sent = sent + d.n FROM "
        "(SELECT NOT " IS_KNOWN " AS n) AS d WHERE number = ? AND (d.n = 0 OR (depth + 1 <= "
        "depth_max AND bytes + ? <= bytes_max))",
        "uutuu", size, row->number, message->dedup, row->number, size);
    store_command_add(command,
                      INSERT "SELECT ? * 1024 + ?, ?, ?, ?, 0, ? AND " IS_BLOCKED
                             ", 0, ?, ?, ?, iif(?, ?, NULL), ?, ?, ?, ? WHERE NOT " IS_KNOWN,
                      "ruuuuiutuuuittttbut", (uint64_t)place, row->number,
                      (uint64_t)message->priority, visible_at(row, message, now_ms),
                      (int64_t)row->settings.is_fifo, row->number, group, now_ms, now_ms, size,
                      (int64_t)row->settings.is_fifo, group, message->dedup, message->content_type,
                      message->attributes, body, message->length, row->number, message->dedup);
    store_command_add(command,
                      "INSERT OR IGNORE INTO queue_dedup (queue, dedup, message, expires_ms) "
                      "VALUES (?, ?, ? * 1024 + ?, ?)",
                      "utruu", row->number, message->dedup, (uint64_t)place,
                      now_ms + row->settings.dedup_ms);
}

static struct store_command *command_of(const struct queue_row *row,
                                        const struct queue_outgoing *messages, size_t count,
                                        uint64_t now_ms)
{
    struct store_command *command = store_command_new();
    uint64_t plain = 0;
    uint64_t bytes = 0;
    for (size_t i = 0; i < count; i++) {
        plain += messages[i].dedup == NULL;
        bytes += messages[i].dedup == NULL ? size_of(&messages[i]) : 0;
    }
    if (plain > 0) {
        store_command_add_expecting(command, ERROR_LIMIT, full,
                                    "UPDATE queue SET depth = depth + ?, bytes = bytes + ?, sent = "
                                    "sent + ? WHERE number = ? AND depth + ? <= depth_max AND "
                                    "bytes + ? <= bytes_max",
                                    "uuuuuu", plain, bytes, plain, row->number, plain, bytes);
    }
    for (size_t i = 0; i < count; i++) {
        if (messages[i].dedup != NULL) {
            add_once(command, row, &messages[i], i, now_ms);
        } else {
            add_plain(command, row, &messages[i], i, now_ms);
        }
    }
    return command;
}

/* ---- The answer ---- */

static void name_sent(struct sending *sending, uint64_t index)
{
    for (size_t i = 0; i < sending->count; i++) {
        struct error err = {0};
        uint64_t id = index * QUEUE_PLACES + i;
        uint64_t known = id;
        if (sending->dedups[i] != NULL) {
            store_query(sending->service->options.store, &err, store_take_u64, &known,
                        "SELECT message FROM queue_dedup WHERE queue = ? AND dedup = ?", "ut",
                        sending->number, sending->dedups[i]);
        }
        sending->sent[i] = (struct queue_sent){.id = known, .is_duplicate = known != id};
    }
}

static void on_written(const struct error *error, uint64_t index, void *context)
{
    struct sending *sending = context;
    struct queue_row row = {0};
    struct error gone = {0};
    if (error == NULL) {
        name_sent(sending, index);
        sending->done(NULL, sending->sent, sending->count, sending->context);
    } else if (error->kind == ERROR_LIMIT &&
               queue_find_key(sending->service, sending->key, &row, &gone) < 0) {
        sending->done(&gone, NULL, 0, sending->context); /* deleted meanwhile */
    } else {
        bool is_no_room = error->kind == ERROR_LIMIT || error->kind == ERROR_TOO_LARGE;
        sending->service->refused += is_no_room ? sending->count : 0;
        sending->done(error, NULL, 0, sending->context);
    }
    sending_free(sending);
}

static void on_refused(const struct error *error, void *context)
{
    on_written(error, 0, context);
}

void queue_send(struct queue_service *service, const char *project, const char *name,
                const struct queue_outgoing *messages, size_t count,
                void (*done)(const struct error *error, const struct queue_sent *sent, size_t count,
                             void *context),
                void *context)
{
    struct error err = {0};
    struct queue_row row = {0};
    size_t room = count <= QUEUE_BATCH_MAX ? count : 0;
    struct sending *sending = memory_new(1, sizeof(*sending) + room * sizeof(sending->sent[0]));
    sending->service = service;
    sending->count = room;
    sending->dedups = memory_new(room + 1, sizeof(char *));
    sending->done = done;
    sending->context = context;
    int r = queue_find(service, project, name, &row, &err);
    r = r < 0 ? r : check_all(&row, messages, count, &err);
    if (r < 0) {
        queue_refuse(service, &err, (struct queue_reply){on_refused, sending});
        return;
    }
    sending->number = row.number;
    memcpy(sending->key, row.key, sizeof(row.key));
    for (size_t i = 0; i < count; i++) {
        sending->dedups[i] =
            messages[i].dedup != NULL ? memory_copy_string(messages[i].dedup) : NULL;
    }
    store_propose(service->options.store, command_of(&row, messages, count, queue_now_ms(service)),
                  on_written, sending);
}
