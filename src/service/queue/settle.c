/*
 * The end of a delivery: each receipt is judged by a command of its own, so that one that is of an
 * earlier delivery spoils no other; all of a request become one entry of the log.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/text.h"

#include "service/queue/parts.h"

/* ---- Parts of commands ---- */

void queue_add_promotion(struct store_command *command, uint64_t id)
{
    store_command_add(
        command,
        "UPDATE queue_message SET blocked = 0 WHERE id = (SELECT o.id FROM queue_message m CROSS "
        "JOIN queue_message o WHERE m.id = ? AND m.blocked = 0 AND o.queue = m.queue AND "
        "o.message_group = m.message_group AND o.id <> m.id ORDER BY o.id LIMIT 1)",
        "u", id);
}

struct store_command *queue_death(const struct queue_row *row, uint64_t id, uint64_t claimed,
                                  uint64_t now_ms)
{
    struct store_command *command = store_command_new();
    store_command_add_expecting(
        command, ERROR_CONFLICT, "the message was taken by somebody else",
        "UPDATE queue SET depth = depth + 1, bytes = bytes + m.size FROM (SELECT size FROM "
        "queue_message WHERE id = ? AND queue = ? AND claimed = ?) AS m WHERE number = ?",
        "uuuu", id, row->number, claimed, row->dead_letter);
    store_command_add(command,
                      "UPDATE queue SET depth = depth - 1, bytes = bytes - (SELECT size FROM "
                      "queue_message WHERE id = ?), died = died + 1 WHERE number = ?",
                      "uu", id, row->number);
    if (row->settings.is_fifo) {
        queue_add_promotion(command, id);
    }
    store_command_add(
        command,
        "UPDATE queue_message SET queue = ?, source = ?, claimed = 0, visible_ms = 0, entered_ms = "
        "?, blocked = (message_group IS NOT NULL AND EXISTS (SELECT 1 FROM queue_message o WHERE "
        "o.queue = ? AND o.message_group = queue_message.message_group)) WHERE id = ?",
        "uuuuu", row->dead_letter, row->number, now_ms, row->dead_letter, id);
    return command;
}

static const char stale[] = "the receipt is of an earlier delivery, or the message is gone: it was "
                            "received again, acknowledged, purged or has expired";

static struct store_command *acknowledgement(const struct queue_row *row, uint64_t id,
                                             uint64_t epoch)
{
    struct store_command *command = store_command_new();
    store_command_add_expecting(
        command, ERROR_CONFLICT, stale,
        "UPDATE queue SET depth = depth - 1, bytes = bytes - m.size, acked = acked + 1 FROM "
        "(SELECT size FROM queue_message WHERE id = ? AND queue = ? AND claimed = ?) AS m WHERE "
        "number = ?",
        "uuuu", id, row->number, epoch, row->number);
    if (row->settings.is_fifo) {
        queue_add_promotion(command, id);
    }
    store_command_add(command, "DELETE FROM queue_message WHERE id = ?", "u", id);
    return command;
}

/* `receives`: how many of those that count it counts for no more. */
static struct store_command *return_of(const struct queue_row *row, uint64_t id, uint64_t epoch,
                                       uint64_t receives, uint64_t delay_ms, uint64_t now_ms)
{
    struct store_command *command = store_command_new();
    store_command_add_expecting(command, ERROR_CONFLICT, stale,
                                "UPDATE queue_message SET claimed = 0, visible_ms = ?, receives = "
                                "receives - ? WHERE id = ? AND queue = ? AND claimed = ?",
                                "uuuuu", delay_ms > 0 ? now_ms + delay_ms : 0, receives, id,
                                row->number, epoch);
    /* Who waits for it hears of the row. */
    store_command_add(command, "UPDATE queue SET depth = depth WHERE number = ?", "u", row->number);
    return command;
}

static struct store_command *extension(const struct queue_row *row, uint64_t id, uint64_t epoch,
                                       uint64_t visible_ms)
{
    struct store_command *command = store_command_new();
    store_command_add_expecting(
        command, ERROR_CONFLICT, stale,
        "UPDATE queue_message SET visible_ms = ? WHERE id = ? AND queue = ? AND claimed = ?",
        "uuuu", visible_ms, id, row->number, epoch);
    return command;
}

static bool was_received_too_often(struct queue_service *service, const struct queue_row *row,
                                   uint64_t id)
{
    struct error err = {0};
    uint64_t receives = 0;
    if (row->dead_letter == 0 || row->settings.receives_max == 0) {
        return false;
    }
    store_query(service->options.store, &err, store_take_u64, &receives,
                "SELECT receives FROM queue_message WHERE id = ?", "u", id);
    return receives >= row->settings.receives_max;
}

/* ---- Settling ---- */

struct settlement {
    void (*done)(const struct error *error, const struct error *errors, size_t count,
                 void *context);
    void *context;
    size_t count;
    size_t left;
    struct error *errors;
    struct slot {
        struct settlement *settlement;
        bool dies;
    } slots[];
};

static void look_whether_over(struct settlement *settlement)
{
    if (settlement->left == 0) {
        settlement->done(NULL, settlement->errors, settlement->count, settlement->context);
        free(settlement->errors);
        free(settlement);
    }
}

static void on_settled(const struct error *error, uint64_t index, void *context)
{
    const struct slot *slot = context;
    struct settlement *settlement = slot->settlement;
    struct error *own = &settlement->errors[slot - settlement->slots];
    (void)index;
    if (error != NULL && slot->dies && error->kind == ERROR_CONFLICT) {
        error_set(own, ERROR_CONFLICT, "%s", stale);
    } else if (error != NULL) {
        *own = *error;
    }
    settlement->left--;
    look_whether_over(settlement);
}

static bool parse_receipt(const char *receipt, uint64_t *ret_id, uint64_t *ret_epoch)
{
    const char *dash = strchr(receipt, '-');
    return dash != NULL && text_parse_u64(text_of(receipt, (size_t)(dash - receipt)), ret_id) &&
        text_parse_u64(text_of(dash + 1, strlen(dash + 1)), ret_epoch) && *ret_epoch > 0;
}

static struct store_command *command_for(struct queue_service *service, const struct queue_row *row,
                                         enum queue_settling settling, uint64_t id, uint64_t epoch,
                                         uint64_t time_ms, bool *ret_dies)
{
    uint64_t now_ms = queue_now_ms(service);
    switch (settling) {
    case QUEUE_ACK:
        return acknowledgement(row, id, epoch);
    case QUEUE_NACK:
        *ret_dies = was_received_too_often(service, row, id);
        return *ret_dies ? queue_death(row, id, epoch, now_ms)
                         : return_of(row, id, epoch, 0, time_ms, now_ms);
    case QUEUE_RETURN:
        return return_of(row, id, epoch, 1, time_ms, now_ms);
    case QUEUE_EXTEND:
        return extension(row, id, epoch, now_ms + time_ms);
    }
    CHECK(false);
    return NULL;
}

struct refusal {
    void (*done)(const struct error *error, const struct error *errors, size_t count,
                 void *context);
    void *context;
};

static void on_refused(const struct error *error, void *context)
{
    struct refusal *refusal = context;
    refusal->done(error, NULL, 0, refusal->context);
    free(refusal);
}

static int check(enum queue_settling settling, size_t count, uint64_t time_ms, struct error *err)
{
    if (count == 0 || count > QUEUE_BATCH_MAX) {
        return error_set(err, ERROR_INVALID, "settle 1 to %d receipts at once", QUEUE_BATCH_MAX);
    }
    if ((settling == QUEUE_NACK || settling == QUEUE_RETURN) && time_ms > QUEUE_HIDDEN_MAX_MS) {
        return error_set(err, ERROR_INVALID, "a delay is at most 12 hours");
    }
    if (settling == QUEUE_EXTEND && (time_ms < 1 || time_ms > QUEUE_HIDDEN_MAX_MS)) {
        return error_set(err, ERROR_INVALID, "a visibility timeout is 1 ms to 12 hours");
    }
    return 0;
}

static void settle_all(struct queue_service *service, const struct queue_row *row,
                       enum queue_settling settling, const char *const *receipts, uint64_t time_ms,
                       struct settlement *settlement)
{
    for (size_t i = 0; i < settlement->count; i++) {
        uint64_t id = 0;
        uint64_t epoch = 0;
        if (!parse_receipt(receipts[i], &id, &epoch)) {
            error_set(&settlement->errors[i], ERROR_INVALID,
                      "%.60s is no receipt: it is what `receive` gave", receipts[i]);
            settlement->left--;
            continue;
        }
        settlement->slots[i].settlement = settlement;
        struct store_command *command =
            command_for(service, row, settling, id, epoch, time_ms, &settlement->slots[i].dies);
        store_propose(service->options.store, command, on_settled, &settlement->slots[i]);
    }
}

static void on_all_bad(const struct error *error, void *context)
{
    (void)error;
    look_whether_over(context);
}

void queue_settle(struct queue_service *service, const char *project, const char *name,
                  enum queue_settling settling, const char *const *receipts, size_t count,
                  uint64_t time_ms,
                  void (*done)(const struct error *error, const struct error *errors, size_t count,
                               void *context),
                  void *context)
{
    struct error err = {0};
    struct queue_row row = {0};
    int r = check(settling, count, time_ms, &err);
    r = r < 0 ? r : queue_find(service, project, name, &row, &err);
    if (r < 0) {
        struct refusal *refusal = NEW(struct refusal);
        *refusal = (struct refusal){done, context};
        queue_refuse(service, &err, (struct queue_reply){on_refused, refusal});
        return;
    }
    struct settlement *settlement =
        memory_new(1, sizeof(*settlement) + count * sizeof(settlement->slots[0]));
    settlement->errors = memory_new(count, sizeof(struct error));
    settlement->done = done;
    settlement->context = context;
    settlement->count = settlement->left = count;
    settle_all(service, &row, settling, receipts, time_ms, settlement);
    if (settlement->left == 0) {
        queue_refuse(service, NULL, (struct queue_reply){on_all_bad, settlement});
    }
}
