/* All messages of a queue: looking at them, removing them, bringing dead ones back. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "service/queue/parts.h"

enum { REDRIVE_AT_ONCE = 100 };

/* ---- Rows ---- */

static const char *text_at(sqlite3_stmt *row, int column)
{
    return (const char *)sqlite3_column_text(row, column);
}

void queue_take_message(sqlite3_stmt *row, struct queue_message *ret_message)
{
    uint64_t id = (uint64_t)sqlite3_column_int64(row, 0);
    uint64_t claimed = (uint64_t)sqlite3_column_int64(row, 1);
    const void *body = sqlite3_column_blob(row, 11);
    *ret_message = (struct queue_message){
        .id = id,
        .body = body != NULL ? body : "",
        .length = (size_t)sqlite3_column_bytes(row, 11),
        .content_type = text_at(row, 9) != NULL ? text_at(row, 9) : "application/octet-stream",
        .attributes = text_at(row, 10) != NULL ? text_at(row, 10) : "{}",
        .group = text_at(row, 7),
        .dedup = text_at(row, 8),
        .priority = (unsigned)sqlite3_column_int64(row, 2),
        .receives = (uint64_t)sqlite3_column_int64(row, 3),
        .sent_ms = (uint64_t)sqlite3_column_int64(row, 4),
        .source = text_at(row, 12),
        .died_ms = text_at(row, 12) != NULL ? (uint64_t)sqlite3_column_int64(row, 5) : 0,
        .visible_ms = (uint64_t)sqlite3_column_int64(row, 6),
    };
    if (claimed > 0) {
        snprintf(ret_message->receipt, sizeof(ret_message->receipt), "%" PRIu64 "-%" PRIu64, id,
                 claimed);
    }
}

/* ---- Looking ---- */

struct peek {
    void (*visit)(const struct queue_message *message, void *context);
    void *context;
};

static bool peek_row(sqlite3_stmt *row, void *context)
{
    const struct peek *peek = context;
    struct queue_message message;
    queue_take_message(row, &message);
    message.receipt[0] = '\0';
    peek->visit(&message, peek->context);
    return true;
}

int queue_peek(struct queue_service *service, const char *project, const char *name,
               const char *source, size_t max,
               void (*visit)(const struct queue_message *message, void *context), void *context,
               struct error *err)
{
    struct peek peek = {visit, context};
    struct queue_row row = {0};
    struct queue_row from = {0};
    int r = queue_find(service, project, name, &row, err);
    r = r < 0 || source == NULL ? r : queue_find(service, project, source, &from, err);
    if (r < 0) {
        return r;
    }
    return source != NULL
        ? store_query(service->options.store, err, peek_row, &peek,
                      "SELECT " QUEUE_MESSAGE_COLUMNS
                      " FROM queue_message m WHERE m.source = ? AND m.queue = ? "
                      "ORDER BY m.id LIMIT ?",
                      "uuu", from.number, row.number, (uint64_t)max)
        : store_query(service->options.store, err, peek_row, &peek,
                      "SELECT " QUEUE_MESSAGE_COLUMNS
                      " FROM queue_message m WHERE m.queue = ? ORDER BY m.entered_ms, m.id LIMIT ?",
                      "uu", row.number, (uint64_t)max);
}

/* ---- Removing ---- */

struct doomed {
    uint64_t ids[QUEUE_SWEEP];
    size_t count;
};

static bool take_doomed(sqlite3_stmt *row, void *context)
{
    struct doomed *doomed = context;
    doomed->ids[doomed->count++] = (uint64_t)sqlite3_column_int64(row, 0);
    return doomed->count < QUEUE_SWEEP;
}

#define FIRST                                                                                   \
    "SELECT id FROM queue_message WHERE queue = ? AND entered_ms <= ? ORDER BY entered_ms, id " \
    "LIMIT "

static void add_one_removal(struct store_command *command, uint64_t number, uint64_t id,
                            bool is_expiry)
{
    store_command_add(
        command,
        "UPDATE queue SET depth = depth - 1, bytes = bytes - m.size, expired = "
        "expired + ? FROM (SELECT size FROM queue_message WHERE id = ? AND queue = ?) "
        "AS m WHERE number = ?",
        "iuuu", (int64_t)is_expiry, id, number, number);
    queue_add_promotion(command, id);
    store_command_add(command, "DELETE FROM queue_message WHERE id = ? AND queue = ?", "uu", id,
                      number);
}

struct store_command *queue_removal(struct queue_service *service, uint64_t number, bool is_fifo,
                                    uint64_t entered_ms, bool is_expiry, size_t *ret_count)
{
    struct doomed doomed = {.count = 0};
    struct error err = {0};
    store_query(service->options.store, &err, take_doomed, &doomed, FIRST "?", "uuu", number,
                entered_ms, (uint64_t)QUEUE_SWEEP);
    *ret_count = doomed.count;
    if (doomed.count == 0) {
        return NULL;
    }
    struct store_command *command = store_command_new();
    if (is_fifo) { /* one after the other: each lets the next one of its group go on */
        for (size_t i = 0; i < doomed.count; i++) {
            add_one_removal(command, number, doomed.ids[i], is_expiry);
        }
        return command;
    }
    store_command_add(command,
                      "UPDATE queue SET depth = depth - m.n, bytes = bytes - m.size, expired = "
                      "expired + m.n * ? FROM (SELECT count(*) AS n, coalesce(sum(size), 0) AS "
                      "size FROM queue_message WHERE id IN (" FIRST "?)) AS m WHERE number = ?",
                      "iuuuu", (int64_t)is_expiry, number, entered_ms, (uint64_t)doomed.count,
                      number);
    store_command_add(command, "DELETE FROM queue_message WHERE id IN (" FIRST "?)", "uuu", number,
                      entered_ms, (uint64_t)doomed.count);
    return command;
}

/* ---- In steps ---- */

struct steps {
    struct queue_service *service;
    struct queue_row row;
    uint64_t now_ms; /* when it began */
    uint64_t max;
    uint64_t count;
    uint64_t after_id;
    size_t left; /* of this step */
    struct error error;
    void (*done)(const struct error *error, uint64_t count, void *context);
    void *context;
};

static void end_steps(struct steps *steps)
{
    steps->done(steps->error.kind != ERROR_NONE ? &steps->error : NULL, steps->count,
                steps->context);
    free(steps);
}

static void on_refused(const struct error *error, void *context)
{
    struct steps *steps = context;
    if (error != NULL) {
        steps->error = *error;
    }
    end_steps(steps);
}

static struct steps *
steps_new(struct queue_service *service, const char *project, const char *name,
          void (*done)(const struct error *error, uint64_t count, void *context), void *context)
{
    struct error err = {0};
    struct steps *steps = NEW(struct steps);
    steps->service = service;
    steps->now_ms = queue_now_ms(service);
    steps->done = done;
    steps->context = context;
    if (queue_find(service, project, name, &steps->row, &err) == 0) {
        return steps;
    }
    queue_refuse(service, &err, (struct queue_reply){on_refused, steps});
    return NULL;
}

static void purge_on(struct steps *steps);

static void on_removed(const struct error *error, uint64_t index, void *context)
{
    struct steps *steps = context;
    (void)index;
    if (error != NULL) {
        on_refused(error, steps);
        return;
    }
    steps->count += steps->left;
    purge_on(steps);
}

static void purge_on(struct steps *steps)
{
    struct store_command *command =
        queue_removal(steps->service, steps->row.number, steps->row.settings.is_fifo, steps->now_ms,
                      false, &steps->left);
    if (command == NULL) {
        queue_refuse(steps->service, NULL, (struct queue_reply){on_refused, steps});
        return;
    }
    store_propose(steps->service->options.store, command, on_removed, steps);
}

void queue_purge(struct queue_service *service, const char *project, const char *name,
                 void (*done)(const struct error *error, uint64_t count, void *context),
                 void *context)
{
    struct steps *steps = steps_new(service, project, name, done, context);
    if (steps != NULL) {
        purge_on(steps);
    }
}

/* ---- Dead letters ---- */

static void redrive_on(struct steps *steps);

static void on_brought(const struct error *error, uint64_t index, void *context)
{
    struct steps *steps = context;
    (void)index;
    steps->count += error == NULL;
    if (error != NULL && error->kind != ERROR_CONFLICT) { /* that one is somebody's meanwhile */
        steps->error = *error;
    }
    if (--steps->left > 0) {
        return;
    }
    if (steps->error.kind != ERROR_NONE) {
        end_steps(steps);
    } else {
        redrive_on(steps);
    }
}

/* After one that found no room none comes, also where it would fit: their order stays. */
static struct store_command *return_from_dead(const struct steps *steps, uint64_t id,
                                              uint64_t before)
{
    uint64_t number = steps->row.number;
    struct store_command *command = store_command_new();
    store_command_add_expecting(command, ERROR_CONFLICT, "the dead letter is gone",
                                "UPDATE queue SET depth = depth - 1, bytes = bytes - m.size FROM "
                                "(SELECT queue, size FROM queue_message WHERE id = ? AND source = "
                                "? AND visible_ms <= ?) AS m WHERE number = m.queue",
                                "uuu", id, number, steps->now_ms);
    store_command_add_expecting(
        command, ERROR_LIMIT,
        "the queue is at its limit: the other dead letters stay where they are",
        "UPDATE queue SET depth = depth + 1, bytes = bytes + m.size FROM (SELECT size FROM "
        "queue_message WHERE id = ?) AS m WHERE number = ? AND depth < depth_max AND bytes + "
        "m.size <= bytes_max AND NOT EXISTS (SELECT 1 FROM queue_message b WHERE b.id = ? AND "
        "b.source = ? AND b.visible_ms <= ?)",
        "uuuuu", id, number, before, number, steps->now_ms);
    if (steps->row.settings.is_fifo) {
        queue_add_promotion(command, id);
    }
    store_command_add(
        command,
        "UPDATE queue_message SET queue = ?, source = NULL, claimed = 0, visible_ms = 0, receives "
        "= 0, entered_ms = ?, blocked = (message_group IS NOT NULL AND EXISTS (SELECT 1 FROM "
        "queue_message o WHERE o.queue = ? AND o.message_group = queue_message.message_group)) "
        "WHERE id = ?",
        "uuuu", number, steps->now_ms, number, id);
    return command;
}

static void redrive_on(struct steps *steps)
{
    struct doomed found = {.count = 0};
    struct error err = {0};
    uint64_t most = REDRIVE_AT_ONCE;
    if (steps->max > 0 && steps->max - steps->count < most) {
        most = steps->max - steps->count;
    }
    store_query(steps->service->options.store, &err, take_doomed, &found,
                "SELECT id FROM queue_message WHERE source = ? AND id > ? AND visible_ms <= ? "
                "ORDER BY id LIMIT ?",
                "uuuu", steps->row.number, steps->after_id, steps->now_ms, most);
    if (found.count == 0) {
        queue_refuse(steps->service, NULL, (struct queue_reply){on_refused, steps});
        return;
    }
    steps->left = found.count;
    steps->after_id = found.ids[found.count - 1];
    for (size_t i = 0; i < found.count; i++) {
        store_propose(steps->service->options.store,
                      return_from_dead(steps, found.ids[i], i > 0 ? found.ids[i - 1] : 0),
                      on_brought, steps);
    }
}

void queue_redrive(struct queue_service *service, const char *project, const char *name,
                   uint64_t max,
                   void (*done)(const struct error *error, uint64_t count, void *context),
                   void *context)
{
    struct steps *steps = steps_new(service, project, name, done, context);
    if (steps != NULL) {
        steps->max = max;
        redrive_on(steps);
    }
}
