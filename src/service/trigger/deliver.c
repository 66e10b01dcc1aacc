/*
 * Deliveries.  A batch goes out in chunks (all of it, unless failures have halved them); what fails
 * stays in front, in its order, and is tried again; what is given up goes to the destination of
 * failures first, and is answered when that has taken it.
 */
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/random.h"

#include "service/destination/destination.h"
#include "service/gateway/gateway.h"
#include "service/gateway/invoke.h"
#include "service/telemetry/telemetry.h"
#include "service/trigger/parts.h"

enum {
    PUSHED_BACK_FIRST_MS = 50,
    PUSHED_BACK_TOLD = 5, /* times: from then on why is shown */
    PUSHED_BACK_MOST_MS = 5000,
    PUSHED_BACK_KEPT_MS = 10000, /* then the source has it again, if it can */
    SEND_MOST_MS = 30000,
};

/* ---- One request ---- */

static void add_line(const char *name, const char *value, void *context)
{
    struct delivery *delivery = context;
    if (delivery->line_count < GATEWAY_INVOKE_FIELDS_MAX) {
        delivery->lines[delivery->line_count++] = memory_format("%s: %s", name, value);
    }
}

void delivery_fill(struct delivery *delivery, const struct event *const *events, size_t count,
                   bool is_batch)
{
    if (is_batch) {
        add_line("Content-Type", EVENT_TYPE_BATCH, delivery);
        event_write_batch(events, count, &delivery->body);
        return;
    }
    event_write_fields(events[0], add_line, delivery);
    buffer_append(&delivery->body, events[0]->data.data, events[0]->data.used);
}

void delivery_done(struct delivery *delivery)
{
    for (size_t i = 0; i < delivery->line_count; i++) {
        free(delivery->lines[i]);
    }
    buffer_done(&delivery->body);
}

bool delivery_is_batch(const struct trigger_config *config, size_t count)
{
    return count > 1 || config->batch_size > 1;
}

struct gateway_invoke *delivery_send(
    const struct trigger_service *service, const struct delivery_from *from,
    const struct event *const *events, size_t count,
    void (*done)(const struct error *error, const struct gateway_result *result, void *context),
    void *context)
{
    struct delivery delivery = {0};
    struct gateway_origin origin = {0};
    const struct trigger_config *config = from->config;
    MEMORY_OWNED char *what = memory_format("trigger %s", from->name);
    if (config->pattern != NULL) {
        snprintf(origin.pattern, sizeof(origin.pattern), "%s", config->pattern);
    }
    delivery_fill(&delivery, events, count, delivery_is_batch(config, count));
    const struct gateway_invocation invocation = {
        .project = from->project,
        .name = config->function,
        .method = config->method,
        .path = config->path,
        .origin = config->pattern != NULL ? &origin : NULL,
        .fields = (const char *const *)delivery.lines,
        .body = delivery.body.data,
        .body_length = delivery.body.used,
        .timeout_ms = config->timeout_ms,
        .traceparent = event_get(events[0], "traceparent"),
        .caller = "trigger",
        .what = what,
        .trigger = strcmp(config->kind, "cron") == 0 ? TELEMETRY_TRIGGER_TIMER
            : strcmp(config->kind, "http") == 0      ? TELEMETRY_TRIGGER_HTTP
                                                     : TELEMETRY_TRIGGER_PUBSUB,
    };
    struct gateway_invoke *invoke =
        gateway_invoke_new(service->options.gateway, &invocation, done, context);
    delivery_done(&delivery);
    return invoke;
}

bool delivery_is_pushed_back(const struct error *error, const struct gateway_result *result)
{
    if (error != NULL) {
        return error->kind == ERROR_OVERLOADED || error->kind == ERROR_LIMIT ||
            (error->kind == ERROR_UNAVAILABLE && result != NULL && result->is_untouched);
    }
    return result->status == 503 || result->status == 429;
}

/* ---- Batches ---- */

static void deliver(struct batch *batch);
static void proceed(struct batch *batch);

static void free_outgoing(struct outgoing *outgoing)
{
    list_remove(&outgoing->link);
    event_done(&outgoing->event);
    free(outgoing);
}

static void batch_free(struct batch *batch)
{
    LIST_EACH(node, &batch->items)
    {
        trigger_item_free(LIST_ITEM(node, struct item, link));
    }
    LIST_EACH(node, &batch->ended)
    {
        trigger_item_free(LIST_ITEM(node, struct item, link));
    }
    LIST_EACH(node, &batch->outbox)
    {
        free_outgoing(LIST_ITEM(node, struct outgoing, link));
    }
    gateway_invoke_free(batch->invoke);
    loop_timer_free(batch->timer);
    free(batch->order);
    free(batch);
}

static void leave_source(struct batch *batch)
{
    struct trigger_source *source = batch->source;
    list_remove(&batch->link);
    source->batch_count--;
    source->flying -= batch->count;
    batch->source = NULL;
}

void batch_hurry(struct batch *batch)
{
    if (batch->invoke == NULL && !batch->is_sending) {
        loop_timer_start(batch->timer, 0);
    }
}

void batch_drop(struct batch *batch)
{
    leave_source(batch);
    if (batch->is_sending) {
        batch->is_dropped = true; /* the destination answers later */
        gateway_invoke_free(batch->invoke);
        batch->invoke = NULL;
        loop_timer_stop(batch->timer);
        return;
    }
    batch_free(batch);
}

static uint64_t with_jitter(uint64_t delay_ms)
{
    return delay_ms / 2 + random_u64() % (delay_ms / 2 + 1);
}

static uint64_t doubled(uint64_t first_ms, unsigned times, uint64_t most_ms)
{
    uint64_t delay_ms = first_ms << (times < 20 ? times : 20);
    return delay_ms < most_ms ? delay_ms : most_ms;
}

uint64_t trigger_retry_delay_ms(const struct trigger_source *source, uint64_t attempts)
{
    const struct trigger_config *config = &source->config;
    unsigned times = attempts > 1 ? (unsigned)(attempts < 64 ? attempts - 1 : 63) : 0;
    return with_jitter(doubled(config->retry_delay_ms, times, config->retry_delay_max_ms));
}

/* One whose source is to end waits for nothing. */
static void wait_with(struct batch *batch, uint64_t delay_ms)
{
    loop_timer_start(batch->timer, batch->source->is_draining ? 0 : delay_ms);
}

/* ---- To destinations ---- */

static void on_sent(const struct error *error, void *context)
{
    struct batch *batch = context;
    batch->is_sending = false;
    if (batch->is_dropped) {
        batch_free(batch);
        return;
    }
    if (error == NULL) {
        batch->send_failures = 0;
        free_outgoing(LIST_FIRST(&batch->outbox, struct outgoing, link));
        proceed(batch);
        return;
    }
    trigger_note_error(batch->source, error);
    wait_with(batch, with_jitter(doubled(500, batch->send_failures, SEND_MOST_MS)));
    batch->send_failures++;
}

static void send_first(struct batch *batch)
{
    const struct outgoing *outgoing = LIST_FIRST(&batch->outbox, struct outgoing, link);
    batch->is_sending = true;
    destination_send(batch->source->service->options.destinations, batch->source->project,
                     outgoing->destination, &outgoing->event, on_sent, batch);
}

static void put_out(struct batch *batch, const char *destination, const struct event *event)
{
    struct outgoing *outgoing = NEW(struct outgoing);
    outgoing->destination = destination;
    event_copy(&outgoing->event, event);
    list_push_back(&batch->outbox, &outgoing->link);
}

/* The event as it was, and why it goes there, in extensions. */
static void put_out_failed(struct batch *batch, struct item *item, const struct error *reason)
{
    const struct trigger_source *source = batch->source;
    struct error ignored = {0};
    char text[256];
    char attempts[16];
    if (source->config.on_failure == NULL || source->service->options.destinations == NULL) {
        return;
    }
    snprintf(text, sizeof(text), "%.255s", reason->text);
    text_make_printable(text, false);
    snprintf(attempts, sizeof(attempts), "%u", item->attempts);
    event_set(&item->event, "blixardtrigger", source->name, &ignored);
    event_set(&item->event, "blixarderror", text, &ignored);
    event_set(&item->event, "blixardattempts", attempts, &ignored);
    put_out(batch, source->config.on_failure, &item->event);
}

/* What the function has answered, as an event of its own. */
static void put_out_answer(struct batch *batch, const struct gateway_result *result)
{
    const struct trigger_source *source = batch->source;
    char id[128];
    char origin[160];
    const char *type = NULL;
    MEMORY_OWNED char *owned_type = NULL;
    if (source->config.on_success == NULL || source->service->options.destinations == NULL) {
        return;
    }
    for (size_t i = 0; i < result->field_count; i++) {
        if (text_equal_ignoring_case(result->fields[i].name, "Content-Type")) {
            owned_type =
                memory_copy_text(result->fields[i].value.data, result->fields[i].value.length);
            type = owned_type;
        }
    }
    EVENT_OWNED struct event event = {0};
    snprintf(id, sizeof(id), "%s", result->request_id);
    snprintf(origin, sizeof(origin), "/functions/%s", source->config.function);
    size_t length = result->body_length < EVENT_BYTES_MAX ? result->body_length : EVENT_BYTES_MAX;
    event_init(&event, id, origin, "blixard.function.succeeded", type, result->body, length);
    const struct item *first = LIST_FIRST(&batch->items, struct item, link);
    struct error ignored = {0};
    event_set(&event, "blixardtrigger", source->name, &ignored);
    event_set(&event, "causeid", event_get(&first->event, "id"), &ignored);
    put_out(batch, source->config.on_success, &event);
}

/* ---- What came of a chunk ---- */

static void finish(struct batch *batch, struct item *item, enum trigger_outcome outcome,
                   const struct error *reason)
{
    batch->count--;
    batch->source->flying--;
    item->outcome = outcome;
    item->reason = reason != NULL ? *reason : (struct error){0};
    list_remove(&item->link);
    list_push_back(&batch->ended, &item->link);
}

/* Not before the destinations have what is theirs: a kill in between would lose it. */
static void answer_ended(struct batch *batch)
{
    while (!list_is_empty(&batch->ended)) {
        struct item *item = LIST_FIRST(&batch->ended, struct item, link);
        struct error reason = item->reason;
        trigger_answer(batch->source, item, item->outcome,
                       reason.kind != ERROR_NONE ? &reason : NULL);
    }
}

static bool is_given_up(const struct batch *batch, const struct item *item)
{
    const struct trigger_config *config = &batch->source->config;
    uint64_t age_ms = loop_now_ms(batch->source->service->options.loop) - item->first_ms;
    return item->attempts > config->retries ||
        (config->event_age_max_ms > 0 && age_ms >= config->event_age_max_ms);
}

static void end_dead(struct batch *batch, struct item *item, const struct error *reason)
{
    batch->source->counts.dead++;
    put_out_failed(batch, item, reason);
    finish(batch, item, TRIGGER_DEAD, reason);
}

/* True: it stays in the batch. */
static bool fail_item(struct batch *batch, struct item *item, const struct error *reason)
{
    struct trigger_source *source = batch->source;
    item->attempts++;
    source->counts.failed++;
    trigger_note_error(source, reason);
    if (source->driver->retries_itself) {
        finish(batch, item, TRIGGER_FAILED, reason);
        return false;
    }
    if (!is_given_up(batch, item)) {
        return true;
    }
    end_dead(batch, item, reason);
    return false;
}

static bool names(const json_t *failure, const struct event *event)
{
    const char *id = event_get(event, "id");
    const char *listed = json_string_value(json_object_get(failure, "itemIdentifier"));
    return listed != NULL && id != NULL && strcmp(listed, id) == 0;
}

bool delivery_has_failed(const json_t *failures, const struct event *event)
{
    size_t index = 0;
    json_t *failure = NULL;
    json_array_foreach(failures, index, failure)
    {
        if (names(failure, event)) {
            return true;
        }
    }
    return false;
}

static bool is_delivered(const struct event *const *events, size_t count, const json_t *failure)
{
    for (size_t i = 0; i < count; i++) {
        if (names(failure, events[i])) {
            return true;
        }
    }
    return false;
}

/* A failure that is of none of the events may be any of them: then all have failed. */
static void check_failures(const struct event *const *events, size_t count, const json_t *failures,
                           struct error *reason)
{
    bool is_good = failures == NULL || json_is_array(failures) || json_is_null(failures);
    size_t index = 0;
    json_t *failure = NULL;
    json_array_foreach(failures, index, failure)
    {
        is_good = is_good && is_delivered(events, count, failure);
    }
    if (!is_good) {
        error_set(reason, ERROR_TRAP,
                  "batchItemFailures of the answer name what is no event of the batch");
    }
}

json_t *delivery_failures(const struct trigger_config *config, const struct event *const *events,
                          size_t count, const struct gateway_result *result, struct error *reason)
{
    JSON_OWNED json_t *answer = NULL;
    struct error ignored = {0};
    if (!delivery_is_batch(config, count) || result->body_length == 0 ||
        json_read(result->body, result->body_length, &answer, &ignored) < 0) {
        return NULL;
    }
    json_t *failures = json_object_get(answer, "batchItemFailures");
    check_failures(events, count, failures, reason);
    return json_incref(failures);
}

/* `reason` NULL: those not in `failures` (may be NULL) went well.  Returns how many stay. */
static unsigned settle(struct batch *batch, const json_t *failures, const struct error *reason)
{
    struct trigger_source *source = batch->source;
    struct error listed = {0};
    unsigned staying = 0;
    size_t left = batch->delivering;
    error_set(&listed, ERROR_TRAP, DELIVERY_LISTED);
    LIST_EACH(node, &batch->items)
    {
        struct item *item = LIST_ITEM(node, struct item, link);
        if (left-- == 0) {
            break;
        }
        if (reason != NULL || delivery_has_failed(failures, &item->event)) {
            staying += fail_item(batch, item, reason != NULL ? reason : &listed);
        } else {
            source->counts.delivered++;
            finish(batch, item, TRIGGER_DELIVERED, NULL);
        }
    }
    return staying;
}

/* The first ones; the caller frees the array. */
static const struct event **events_of(const struct batch *batch, size_t count)
{
    const struct event **events = memory_new(count, sizeof(void *));
    size_t index = 0;
    LIST_EACH(node, &batch->items)
    {
        if (index == count) {
            break;
        }
        events[index++] = &LIST_ITEM(node, struct item, link)->event;
    }
    return events;
}

/* Halves are tried at once, and no attempt is counted: events beside one that fails would be given
 * up with it before it is found. */
static void bisect(struct batch *batch, const struct error *reason)
{
    batch->source->counts.failed += batch->delivering;
    trigger_note_error(batch->source, reason);
    batch->chunk = batch->delivering / 2;
}

static void return_all(struct batch *batch, const struct error *reason)
{
    LIST_EACH(node, &batch->items)
    {
        finish(batch, LIST_ITEM(node, struct item, link), TRIGGER_RETURNED, reason);
    }
}

static void push_back(struct batch *batch, const struct error *reason)
{
    struct trigger_source *source = batch->source;
    uint64_t now_ms = loop_now_ms(source->service->options.loop);
    if (batch->pushed_back++ == 0) {
        batch->pushed_back_ms = now_ms;
    }
    if (batch->pushed_back == PUSHED_BACK_TOLD && reason->kind == ERROR_UNAVAILABLE) {
        trigger_note_error(source, reason); /* this does not pass: a secret that is missing */
    }
    if (source->driver->retries_itself && now_ms - batch->pushed_back_ms > PUSHED_BACK_KEPT_MS) {
        return_all(batch, reason);
        proceed(batch);
        return;
    }
    wait_with(
        batch,
        with_jitter(doubled(PUSHED_BACK_FIRST_MS, batch->pushed_back - 1, PUSHED_BACK_MOST_MS)));
}

static void on_answered(const struct error *error, const struct gateway_result *result,
                        void *context)
{
    struct batch *batch = context;
    struct trigger_source *source = batch->source;
    struct error reason = error != NULL ? *error : (struct error){0};
    batch->invoke = NULL;
    if (error == NULL && (result->status < 200 || result->status > 299)) {
        error_set(&reason, ERROR_TRAP, "%s answered %d %s", result->function, result->status,
                  "(success is 2xx)");
    }
    if (delivery_is_pushed_back(error, result)) {
        push_back(batch, &reason);
        return;
    }
    MEMORY_OWNED const struct event **events = events_of(batch, batch->delivering);
    JSON_OWNED json_t *failures = reason.kind == ERROR_NONE
        ? delivery_failures(&source->config, events, batch->delivering, result, &reason)
        : NULL;
    batch->pushed_back = 0;
    source->counts.last_ms = trigger_now_ms(source->service);
    trigger_count_soon(source);
    unsigned staying = 0;
    if (reason.kind != ERROR_NONE && source->config.bisects && batch->delivering > 1) {
        bisect(batch, &reason);
    } else if (reason.kind != ERROR_NONE) {
        staying = settle(batch, NULL, &reason);
    } else {
        put_out_answer(batch, result);
        staying = settle(batch, failures, NULL);
        batch->chunk *= batch->chunk < batch->count ? 2 : 1; /* what it was halved for is behind */
    }
    batch->delivering = 0;
    if (staying > 0) {
        const struct item *first = LIST_FIRST(&batch->items, struct item, link);
        batch->retry_delay_ms = trigger_retry_delay_ms(source, first->attempts);
    }
    proceed(batch);
}

/* What failed goes to its destination before anything else of the batch goes out. */
static void proceed(struct batch *batch)
{
    struct trigger_source *source = batch->source;
    if (!list_is_empty(&batch->outbox)) {
        send_first(batch);
        return;
    }
    answer_ended(batch);
    if (batch->retry_delay_ms > 0) {
        wait_with(batch, batch->retry_delay_ms);
        batch->retry_delay_ms = 0;
        return;
    }
    if (batch->count > 0) {
        deliver(batch);
        return;
    }
    leave_source(batch);
    batch_free(batch);
    if (source->is_draining) {
        loop_timer_start(source->answer_timer, 0);
    }
    trigger_source_schedule(source);
}

/* It has waited: to try again, for room, or for a destination.  Where the source is to end, all is
 * the source's again, and what a destination was to hear of is delivered, and told, once more. */
static void on_timer(void *context)
{
    struct batch *batch = context;
    if (batch->source->is_draining) {
        LIST_EACH(node, &batch->outbox)
        {
            free_outgoing(LIST_ITEM(node, struct outgoing, link));
        }
        LIST_EACH(node, &batch->ended)
        {
            LIST_ITEM(node, struct item, link)->outcome = TRIGGER_RETURNED;
        }
        return_all(batch, NULL);
    }
    proceed(batch);
}

static void deliver(struct batch *batch)
{
    struct trigger_source *source = batch->source;
    size_t count = batch->chunk < batch->count ? batch->chunk : batch->count;
    MEMORY_OWNED const struct event **events = events_of(batch, count);
    batch->delivering = count;
    const struct delivery_from from = {source->project, source->name, &source->config};
    batch->invoke = delivery_send(source->service, &from, events, count, on_answered, batch);
}

static struct batch *batch_new(struct trigger_source *source, struct list *items, size_t count)
{
    struct batch *batch = NEW(struct batch);
    const struct item *first = LIST_FIRST(items, struct item, link);
    batch->source = source;
    batch->order = first->order != NULL ? memory_copy_string(first->order) : NULL;
    list_init(&batch->items);
    list_init(&batch->ended);
    list_init(&batch->outbox);
    LIST_EACH(node, items)
    {
        list_remove(node);
        list_push_back(&batch->items, node);
    }
    batch->count = batch->chunk = count;
    batch->timer = loop_timer_new(source->service->options.loop, on_timer, batch);
    list_push_back(&source->batches, &batch->link);
    source->batch_count++;
    source->flying += count;
    return batch;
}

void batch_start(struct trigger_source *source, struct list *items, size_t count)
{
    deliver(batch_new(source, items, count));
}

void batch_give_up(struct trigger_source *source, struct item *owned_item,
                   const struct error *reason)
{
    struct list items;
    list_init(&items);
    list_push_back(&items, &owned_item->link);
    struct batch *batch = batch_new(source, &items, 1);
    source->counts.failed++;
    trigger_note_error(source, reason);
    end_dead(batch, owned_item, reason);
    proceed(batch);
}
