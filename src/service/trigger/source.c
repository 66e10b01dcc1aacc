/* One running trigger: what waits, what is on its way, what is to be answered. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/random.h"

#include "service/destination/destination.h"
#include "service/trigger/parts.h"

enum { BATCH_BYTES_MAX = 4 << 20, START_FIRST_MS = 500, START_MOST_MS = 30000 };

void trigger_item_free(struct item *item)
{
    list_remove(&item->link);
    event_done(&item->event);
    free(item->order);
    free(item);
}

static void free_items(struct list *items)
{
    LIST_EACH(node, items)
    {
        trigger_item_free(LIST_ITEM(node, struct item, link));
    }
}

/* ---- Answers ---- */

static void end_when_drained(struct trigger_source *source);

static void tell_answers(void *context)
{
    struct trigger_source *source = context;
    struct list told;
    list_init(&told);
    while (!list_is_empty(&source->answers)) { /* those of now: telling one may bring others */
        struct item *item = LIST_FIRST(&source->answers, struct item, link);
        list_remove(&item->link);
        list_push_back(&told, &item->link);
    }
    while (!list_is_empty(&told)) {
        struct item *item = LIST_FIRST(&told, struct item, link);
        list_remove(&item->link);
        if (!item->is_cancelled && item->done != NULL) {
            item->done(item->outcome, item->reason.kind != ERROR_NONE ? &item->reason : NULL,
                       item->context);
        }
        trigger_item_free(item);
    }
    if (source->was_full && source->is_running && !source->is_draining &&
        trigger_room(source) > 0) {
        source->was_full = false;
        if (source->driver->resume != NULL) {
            source->driver->resume(source->driver_state);
        }
    }
    end_when_drained(source);
}

void trigger_answer(struct trigger_source *source, struct item *owned_item,
                    enum trigger_outcome outcome, const struct error *reason)
{
    list_remove(&owned_item->link);
    owned_item->outcome = outcome;
    owned_item->reason = reason != NULL ? *reason : (struct error){0};
    list_push_back(&source->answers, &owned_item->link);
    loop_timer_start(source->answer_timer, 0);
}

/* ---- From waiting to a batch ---- */

static bool order_is_busy(const struct trigger_source *source, const char *order)
{
    LIST_EACH(node, &source->batches)
    {
        const struct batch *batch = LIST_ITEM(node, struct batch, link);
        if (batch->order != NULL && strcmp(batch->order, order) == 0) {
            return true;
        }
    }
    return false;
}

static bool is_same_order(const char *a, const char *b)
{
    return a == b || (a != NULL && b != NULL && strcmp(a, b) == 0);
}

static struct item *first_free(const struct trigger_source *source)
{
    LIST_EACH(node, &source->pending)
    {
        struct item *item = LIST_ITEM(node, struct item, link);
        if (item->order == NULL || !order_is_busy(source, item->order)) {
            return item;
        }
    }
    return NULL;
}

/* Moves what goes with `first` to `taken`; returns how many. */
static size_t gather(struct trigger_source *source, struct item *first, struct list *taken)
{
    size_t count = 0;
    size_t bytes = 0;
    const char *order = first->order;
    struct list_node *at = &first->link;
    while (at != &source->pending.head && count < source->config.batch_size) {
        struct item *item = LIST_ITEM(at, struct item, link);
        at = at->next;
        if (!is_same_order(item->order, order)) {
            continue;
        }
        if (count > 0 && bytes + item->event.data.used > BATCH_BYTES_MAX) {
            break;
        }
        bytes += item->event.data.used;
        list_remove(&item->link);
        list_push_back(taken, &item->link);
        count++;
    }
    return count;
}

static size_t count_of_order(const struct trigger_source *source, const struct item *first)
{
    size_t count = 0;
    LIST_EACH(node, &source->pending)
    {
        count += is_same_order(LIST_ITEM(node, struct item, link)->order, first->order);
        if (count >= source->config.batch_size) {
            break;
        }
    }
    return count;
}

void trigger_source_schedule(struct trigger_source *source)
{
    while (!source->is_draining && source->batch_count < source->config.concurrency_max) {
        struct item *first = first_free(source);
        if (first == NULL) {
            return;
        }
        uint64_t waited_ms = loop_now_ms(source->service->options.loop) - first->first_ms;
        uint64_t window_ms = source->config.batch_window_ms;
        if (window_ms > waited_ms && count_of_order(source, first) < source->config.batch_size) {
            loop_timer_start(source->window_timer, window_ms - waited_ms);
            return;
        }
        struct list taken;
        list_init(&taken);
        size_t count = gather(source, first, &taken);
        source->pending_count -= count;
        batch_start(source, &taken, count);
    }
}

static void on_window(void *context)
{
    trigger_source_schedule(context);
}

/* ---- What drivers call ---- */

const char *trigger_source_project(const struct trigger_source *source)
{
    return source->project;
}

const char *trigger_source_name(const struct trigger_source *source)
{
    return source->name;
}

const json_t *trigger_source_settings(const struct trigger_source *source)
{
    return source->config.settings;
}

uint64_t trigger_source_batch_size(const struct trigger_source *source)
{
    return source->config.batch_size;
}

/* One more of each batch waits ready, so that the function need not. */
uint64_t trigger_room(const struct trigger_source *source)
{
    uint64_t most = 2 * source->config.concurrency_max * source->config.batch_size;
    most = most < TRIGGER_ROOM_MAX ? most : TRIGGER_ROOM_MAX;
    uint64_t used = source->pending_count + source->flying;
    return source->is_draining || used >= most ? 0 : most - used;
}

static void refuse(struct trigger_source *source, struct item *item, const struct error *error)
{
    if (!source->driver->retries_itself) {
        batch_give_up(source, item, error);
        return;
    }
    source->counts.failed++;
    trigger_note_error(source, error);
    trigger_answer(source, item, TRIGGER_FAILED, error);
}

void trigger_push(struct trigger_source *source, const struct trigger_push *push)
{
    struct item *item = NEW(struct item);
    struct error err = {0};
    item->event = *push->event;
    *push->event = (struct event){0};
    item->order = push->order != NULL ? memory_copy_string(push->order) : NULL;
    item->done = push->done;
    item->context = push->context;
    item->first_ms = loop_now_ms(source->service->options.loop);
    if (source->is_draining) {
        trigger_answer(source, item, TRIGGER_RETURNED, NULL);
        return;
    }
    source->counts.seen++;
    trigger_count_soon(source);
    if (push->refusal != NULL) {
        refuse(source, item, push->refusal);
        return;
    }
    const struct trigger_config *config = &source->config;
    if (config->filter != NULL || config->transform != NULL) {
        json_t *document = event_document(&item->event);
        bool matches = config->filter == NULL || event_filter_match(config->filter, document, &err);
        int r = matches && config->transform != NULL
            ? event_template_apply(config->transform, document, &item->event, &err)
            : -(int)err.kind;
        json_decref(document);
        if (!matches && r == 0) {
            trigger_answer(source, item, TRIGGER_DELIVERED, NULL);
            return;
        }
        if (r < 0) {
            refuse(source, item, &err);
            return;
        }
    }
    source->counts.matched++;
    list_push_back(&source->pending, &item->link);
    source->pending_count++;
    if (source->config.batch_size > 1) {
        loop_timer_start(source->window_timer, 0); /* what is pushed in one turn goes together */
    } else {
        trigger_source_schedule(source);
    }
    source->was_full = trigger_room(source) == 0;
}

static bool mark_cancelled(struct list *items, const void *context)
{
    LIST_EACH(node, items)
    {
        struct item *item = LIST_ITEM(node, struct item, link);
        if (!item->is_cancelled && item->context == context) {
            item->is_cancelled = true;
            return true;
        }
    }
    return false;
}

bool trigger_cancel(struct trigger_source *source, const void *context)
{
    LIST_EACH(node, &source->pending)
    {
        struct item *item = LIST_ITEM(node, struct item, link);
        if (item->context == context) {
            source->pending_count--;
            trigger_item_free(item);
            return true;
        }
    }
    LIST_EACH(at, &source->batches)
    {
        struct batch *batch = LIST_ITEM(at, struct batch, link);
        if (mark_cancelled(&batch->ended, context)) {
            return true;
        }
        if (mark_cancelled(&batch->items, context)) {
            if (batch->count == 1 && !batch->is_sending && list_is_empty(&batch->ended)) {
                batch_drop(batch);
            }
            loop_timer_start(source->answer_timer, 0);
            trigger_source_schedule(source);
            return true;
        }
    }
    return mark_cancelled(&source->answers, context);
}

void trigger_source_problem(struct trigger_source *source, const char *text_or_null)
{
    const char *text = text_or_null != NULL ? text_or_null : "";
    if (text[0] != '\0' && source->problem[0] == '\0') {
        log_warn("trigger %s: %s", source->key, text);
    }
    snprintf(source->problem, sizeof(source->problem), "%s", text);
}

/* ---- Life ---- */

static void start_driver(void *context)
{
    struct trigger_source *source = context;
    struct error err = {0};
    int r = source->driver->check(source->config.settings, &err);
    r = r < 0 ? r
              : source->driver->start(source, source->driver_context, &source->driver_state, &err);
    if (r == 0) {
        source->is_running = true;
        source->start_failures = 0;
        trigger_source_problem(source, NULL);
        return;
    }
    trigger_source_problem(source, err.text);
    uint64_t delay_ms = START_FIRST_MS << (source->start_failures < 6 ? source->start_failures : 6);
    source->start_failures++;
    loop_timer_start(source->start_timer, delay_ms < START_MOST_MS ? delay_ms : START_MOST_MS);
}

struct trigger_source *trigger_source_new(struct trigger_service *service, const char *key,
                                          const char *project, const char *name, uint64_t revision,
                                          struct trigger_config *owned_config,
                                          const struct added_driver *driver)
{
    struct trigger_source *source = NEW(struct trigger_source);
    source->service = service;
    source->key = memory_copy_string(key);
    snprintf(source->project, sizeof(source->project), "%s", project);
    snprintf(source->name, sizeof(source->name), "%s", name);
    source->revision = revision;
    source->config = *owned_config;
    *owned_config = (struct trigger_config){0};
    source->driver = driver->driver;
    source->driver_context = driver->context;
    list_init(&source->pending);
    list_init(&source->answers);
    list_init(&source->batches);
    source->answer_timer = loop_timer_new(service->options.loop, tell_answers, source);
    source->window_timer = loop_timer_new(service->options.loop, on_window, source);
    source->start_timer = loop_timer_new(service->options.loop, start_driver, source);
    return source;
}

void trigger_source_start(struct trigger_source *source)
{
    start_driver(source);
}

void trigger_source_free(struct trigger_source *source)
{
    if (source->is_running) {
        source->is_running = false;
        source->driver->stop(source->driver_state);
    }
    list_remove(&source->link);
    LIST_EACH(node, &source->batches)
    {
        batch_drop(LIST_ITEM(node, struct batch, link));
    }
    free_items(&source->pending);
    free_items(&source->answers);
    loop_timer_free(source->answer_timer);
    loop_timer_free(source->window_timer);
    loop_timer_free(source->start_timer);
    trigger_config_done(&source->config);
    free(source->key);
    free(source);
}

static void end_when_drained(struct trigger_source *source)
{
    if (source->is_draining && list_is_empty(&source->batches) && list_is_empty(&source->answers)) {
        struct trigger_service *service = source->service;
        char key[TRIGGER_KEY_SIZE];
        snprintf(key, sizeof(key), "%s", source->key);
        trigger_counts_write(source);
        trigger_source_free(source);
        trigger_touch(service, key);
    }
}

void trigger_source_drain(struct trigger_source *source)
{
    CHECK(!source->is_draining);
    source->is_draining = true;
    list_push_back(&source->service->dying, &source->link);
    while (!list_is_empty(&source->pending)) {
        struct item *item = LIST_FIRST(&source->pending, struct item, link);
        source->pending_count--;
        trigger_answer(source, item, TRIGGER_RETURNED, NULL);
    }
    LIST_EACH(node, &source->batches)
    {
        batch_hurry(LIST_ITEM(node, struct batch, link));
    }
    loop_timer_start(source->answer_timer, 0); /* it ends from there */
}
