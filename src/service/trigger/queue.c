/* Queues as sources of events: see queues.h. */
#include "service/queue/queue.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/json.h"
#include "base/list.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "service/event/event.h"
#include "service/trigger/driver.h"
#include "service/trigger/message.h"
#include "service/trigger/queues.h"

enum { WAIT_MS = 20000, RETRY_MS = 1000, RETURN_MS = 500, SETTLE_MAX = QUEUE_BATCH_MAX };

struct trigger_queues {
    struct trigger_driver driver;
    struct loop *loop;
    struct queue_service *queues;
};

enum { VERDICT_NONE, VERDICT_ACK, VERDICT_FAILED, VERDICT_RETURNED, VERDICTS };

struct feed {
    struct trigger_queues *owner;
    struct trigger_source *source;
    struct queue_receive *receive; /* or NULL */
    struct loop_timer *retry;      /* after something went wrong */
    struct loop_timer *extend;
    struct loop_timer *settle; /* answers of one turn are settled together */
    struct list items;         /* on their way */
    struct list answered;
    uint64_t visibility_ms;
};

struct item {
    struct list_node link;
    struct feed *feed;
    int verdict;
    uint64_t receives; /* of the message, with this one */
    char receipt[QUEUE_RECEIPT_SIZE];
};

static const char *queue_name(const struct feed *feed)
{
    return json_string_value(json_object_get(trigger_source_settings(feed->source), "queue"));
}

/* ---- Settling ---- */

static void on_settled(const struct error *error, const struct error *errors, size_t count,
                       void *context)
{
    /* What could not be settled is delivered again: at least once. */
    (void)error;
    (void)errors;
    (void)count;
    (void)context;
}

static void settle(struct feed *feed, enum queue_settling settling, struct item **items,
                   size_t count, uint64_t time_ms)
{
    const char *receipts[SETTLE_MAX];
    for (size_t i = 0; i < count; i++) {
        receipts[i] = items[i]->receipt;
    }
    if (count > 0) {
        queue_settle(feed->owner->queues, trigger_source_project(feed->source), queue_name(feed),
                     settling, receipts, count, time_ms, on_settled, NULL);
    }
}

static void settle_verdict(struct feed *feed, int verdict, enum queue_settling settling,
                           uint64_t time_ms)
{
    struct item *items[SETTLE_MAX];
    size_t count = 0;
    LIST_EACH(node, &feed->answered)
    {
        struct item *item = LIST_ITEM(node, struct item, link);
        if (item->verdict != verdict) {
            continue;
        }
        items[count++] = item;
        if (count == SETTLE_MAX) {
            settle(feed, settling, items, count, time_ms);
            count = 0;
        }
    }
    settle(feed, settling, items, count, time_ms);
}

/* Each comes again in its own time (a message that always fails would else be all that its function
 * does), but those that have failed as often come together: they may have been a batch. */
static void return_failed(struct feed *feed)
{
    LIST_EACH(node, &feed->answered)
    {
        struct item *items[SETTLE_MAX];
        size_t count = 0;
        uint64_t receives = LIST_ITEM(node, struct item, link)->receives;
        for (struct list_node *at = node; at != &feed->answered.head; at = at->next) {
            struct item *item = LIST_ITEM(at, struct item, link);
            if (item->verdict == VERDICT_FAILED && item->receives == receives &&
                count < SETTLE_MAX) {
                item->verdict = VERDICT_NONE;
                items[count++] = item;
            }
        }
        uint64_t delay_ms = trigger_retry_delay_ms(feed->source, receives);
        settle(feed, QUEUE_NACK, items, count,
               delay_ms < QUEUE_HIDDEN_MAX_MS ? delay_ms : QUEUE_HIDDEN_MAX_MS);
    }
}

static void settle_answered(struct feed *feed)
{
    settle_verdict(feed, VERDICT_ACK, QUEUE_ACK, 0);
    return_failed(feed);
    settle_verdict(feed, VERDICT_RETURNED, QUEUE_RETURN, RETURN_MS);
    LIST_EACH(node, &feed->answered)
    {
        list_remove(node);
        free(LIST_ITEM(node, struct item, link));
    }
}

static void on_settle_timer(void *context)
{
    settle_answered(context);
}

static void on_extend_timer(void *context)
{
    struct feed *feed = context;
    struct item *items[SETTLE_MAX];
    size_t count = 0;
    LIST_EACH(node, &feed->items)
    {
        items[count++] = LIST_ITEM(node, struct item, link);
        if (count == SETTLE_MAX) {
            settle(feed, QUEUE_EXTEND, items, count, feed->visibility_ms);
            count = 0;
        }
    }
    settle(feed, QUEUE_EXTEND, items, count, feed->visibility_ms);
    loop_timer_start(feed->extend, feed->visibility_ms / 3 + 1);
}

/* ---- Receiving ---- */

static void fetch(struct feed *feed);

static void on_done(enum trigger_outcome outcome, const struct error *reason, void *context)
{
    (void)reason;
    struct item *item = context;
    struct feed *feed = item->feed;
    item->verdict = outcome == TRIGGER_FAILED ? VERDICT_FAILED
        : outcome == TRIGGER_RETURNED         ? VERDICT_RETURNED
                                              : VERDICT_ACK;
    list_remove(&item->link);
    if (list_is_empty(&feed->answered)) {
        loop_timer_start(feed->settle, 0);
    }
    list_push_back(&feed->answered, &item->link);
}

static void push(struct feed *feed, const struct queue_message *message)
{
    struct error ignored = {0};
    EVENT_OWNED struct event event = {0};
    JSON_OWNED json_t *attributes = NULL;
    struct item *item = NEW(struct item);
    MEMORY_OWNED char *id = memory_format("%s-%" PRIu64, queue_name(feed), message->id);
    MEMORY_OWNED char *source = memory_format("/queues/%s", queue_name(feed));
    if (message->attributes != NULL) {
        json_read(message->attributes, strlen(message->attributes), &attributes, &ignored);
    }
    const struct message_event whole = {
        .id = id,
        .source = source,
        .type = "blixard.queue.message",
        .subject = message->group,
        .content_type = message->content_type,
        .body = message->body,
        .length = message->length,
        .time_ms = message->sent_ms,
        .attributes = attributes,
    };
    message_to_event(&whole, &event);
    item->feed = feed;
    item->receives = message->receives;
    memcpy(item->receipt, message->receipt, sizeof(item->receipt));
    list_push_back(&feed->items, &item->link);
    /* No order: of a group the queue gives one at a time, and those of many are a batch together.
     */
    const struct trigger_push pushed = {
        .event = &event,
        .done = on_done,
        .context = item,
    };
    trigger_push(feed->source, &pushed);
}

static void on_received(const struct error *error, const struct queue_message *messages,
                        size_t count, void *context)
{
    struct feed *feed = context;
    feed->receive = NULL;
    if (error != NULL) {
        trigger_source_problem(feed->source, error->text);
        loop_timer_start(feed->retry, RETRY_MS);
        return;
    }
    trigger_source_problem(feed->source, NULL);
    for (size_t i = 0; i < count; i++) {
        push(feed, &messages[i]);
    }
    fetch(feed);
}

static void fetch(struct feed *feed)
{
    uint64_t room = trigger_room(feed->source);
    if (feed->receive != NULL || room == 0) {
        return;
    }
    const struct queue_receive_options options = {
        .max = room < QUEUE_BATCH_MAX ? room : QUEUE_BATCH_MAX,
        .wait_ms = WAIT_MS,
        .visibility_ms = QUEUE_DEFAULT,
    };
    feed->receive = queue_receive_new(feed->owner->queues, trigger_source_project(feed->source),
                                      queue_name(feed), &options, on_received, feed);
}

static void on_retry_timer(void *context)
{
    fetch(context);
}

/* ---- The driver ---- */

static int check(const json_t *settings, struct error *err)
{
    const char *key = NULL;
    json_t *value = NULL;
    json_object_foreach((json_t *)(uintptr_t)settings, key, value)
    {
        if (strcmp(key, "queue") != 0) {
            return error_set(err, ERROR_INVALID, "a queue trigger has no setting \"%.40s\": queue",
                             key);
        }
    }
    return json_is_string(json_object_get(settings, "queue"))
        ? 0
        : error_set(err, ERROR_INVALID, "a queue trigger needs the setting \"queue\": its name");
}

static int start(struct trigger_source *source, void *context, void **ret_state, struct error *err)
{
    struct trigger_queues *owner = context;
    struct queue_settings settings;
    const char *name = json_string_value(json_object_get(trigger_source_settings(source), "queue"));
    int r =
        queue_read_settings(owner->queues, trigger_source_project(source), name, &settings, err);
    if (r < 0) {
        return r;
    }
    free((char *)(uintptr_t)settings.dead_letter);
    struct feed *feed = NEW(struct feed);
    feed->owner = owner;
    feed->source = source;
    feed->visibility_ms = settings.visibility_ms;
    feed->retry = loop_timer_new(owner->loop, on_retry_timer, feed);
    feed->extend = loop_timer_new(owner->loop, on_extend_timer, feed);
    feed->settle = loop_timer_new(owner->loop, on_settle_timer, feed);
    list_init(&feed->items);
    list_init(&feed->answered);
    loop_timer_start(feed->extend, feed->visibility_ms / 3 + 1);
    fetch(feed);
    *ret_state = feed;
    return 0;
}

/* What is on its way becomes visible again when its time is over. */
static void stop(void *state)
{
    struct feed *feed = state;
    queue_receive_free(feed->receive);
    settle_answered(feed);
    LIST_EACH(node, &feed->items)
    {
        free(LIST_ITEM(node, struct item, link));
    }
    loop_timer_free(feed->retry);
    loop_timer_free(feed->extend);
    loop_timer_free(feed->settle);
    free(feed);
}

static void resume(void *state)
{
    fetch(state);
}

static bool lag(void *state, uint64_t *ret_lag)
{
    const struct feed *feed = state;
    struct queue_status status;
    struct error ignored = {0};
    if (queue_read_status(feed->owner->queues, trigger_source_project(feed->source),
                          queue_name(feed), &status, &ignored) < 0) {
        return false;
    }
    *ret_lag = status.ready + status.blocked;
    return true;
}

struct trigger_queues *trigger_queues_add(struct trigger_service *service, struct loop *loop,
                                          struct queue_service *queues)
{
    struct trigger_queues *owner = NEW(struct trigger_queues);
    owner->loop = loop;
    owner->queues = queues;
    owner->driver = (struct trigger_driver){
        .kind = "queue",
        .retries_itself = true,
        .check = check,
        .start = start,
        .stop = stop,
        .resume = resume,
        .lag = lag,
    };
    trigger_driver_add(service, &owner->driver, owner);
    return owner;
}

void trigger_queues_free(struct trigger_queues *queues)
{
    free(queues);
}
