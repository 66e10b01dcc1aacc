/* Messages of brokers as events: see brokers.h. */
#include "service/trigger/brokers.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/json.h"
#include "base/list.h"
#include "base/loop/loop.h"
#include "base/memory.h"
#include "base/text.h"

#include "engine/store/store.h"

#include "service/broker/broker.h"
#include "service/event/event.h"
#include "service/secret/secret.h"
#include "service/trigger/driver.h"
#include "service/trigger/message.h"

enum { KINDS = 5 };

static const char *const kinds[KINDS] = {"redis", "nats", "kafka", "amqp", "mqtt"};

struct kind {
    struct trigger_brokers *owner;
    struct trigger_driver driver;
};

struct trigger_brokers {
    struct trigger_brokers_options options;
    struct kind kinds[KINDS];
    struct list feeds;
    struct store_watch *secrets;
    struct loop_timer *reopen; /* what a changed secret is the password of */
};

/* A running trigger. */
struct feed {
    struct list_node link;
    struct trigger_source *source;
    const struct kind *kind;
    struct broker *broker;
    unsigned generation; /* of the connection: what came by an earlier one has no answer there */
    bool is_stale;       /* its password has changed */
    bool is_paused;
    char text[192];
    struct list messages; /* that have no answer yet */
};

/* A message that is on its way. */
struct message {
    struct list_node link;
    struct feed *feed;
    unsigned generation;
    uint64_t token;
};

/* ---- Settings ---- */

/* "a,b" is as good as ["a", "b"]. */
static json_t *list_of(const char *text)
{
    json_t *list = json_array();
    while (*text != '\0') {
        size_t length = strcspn(text, ",");
        json_array_append_new(list, json_stringn(text, length));
        text += length;
        text += *text == ',';
    }
    return list;
}

/* Those of the broker are all but who we are there. */
static json_t *without_credentials(const json_t *settings)
{
    json_t *rest = json_copy((json_t *)(uintptr_t)settings);
    const json_t *topics = json_object_get(rest, "topics");
    if (json_is_string(topics)) {
        json_object_set_new(rest, "topics", list_of(json_string_value(topics)));
    }
    json_object_del(rest, "username");
    json_object_del(rest, "password_secret");
    return rest;
}

static int check_kind(const char *kind, const json_t *settings, struct error *err)
{
    const json_t *username = json_object_get(settings, "username");
    const json_t *secret = json_object_get(settings, "password_secret");
    if (secret != NULL && (!json_is_string(secret) || !text_is_name(json_string_value(secret)))) {
        return error_set(err, ERROR_INVALID,
                         "password_secret must be the name of a secret (blixard secret set NAME)");
    }
    if (username != NULL && (!json_is_string(username) || json_string_length(username) == 0)) {
        return error_set(err, ERROR_INVALID, "username must be a text");
    }
    json_t *rest = without_credentials(settings);
    int r = broker_check(kind, rest, err);
    json_decref(rest);
    return r;
}

#define CHECK_OF(name)                                                 \
    static int check_##name(const json_t *settings, struct error *err) \
    {                                                                  \
        return check_kind(#name, settings, err);                       \
    }
CHECK_OF(redis)
CHECK_OF(nats)
CHECK_OF(kafka)
CHECK_OF(amqp)
CHECK_OF(mqtt)

/* ---- Messages ---- */

static void update_pause(struct feed *feed)
{
    bool is_full = trigger_room(feed->source) == 0;
    if (is_full && !feed->is_paused) {
        broker_pause(feed->broker);
    } else if (!is_full && feed->is_paused) {
        broker_resume(feed->broker);
    }
    feed->is_paused = is_full;
}

static void on_done(enum trigger_outcome outcome, const struct error *reason, void *context)
{
    (void)reason;
    struct message *message = context;
    struct feed *feed = message->feed;
    if (message->generation != feed->generation) {
        /* It is the broker's again, and comes once more. */
    } else if (outcome == TRIGGER_DELIVERED || outcome == TRIGGER_DEAD) {
        broker_acknowledge(feed->broker, message->token);
    } else {
        broker_release(feed->broker, message->token);
    }
    list_remove(&message->link);
    free(message);
    update_pause(feed);
}

static void make_event(const struct feed *feed, const struct broker_message *message,
                       struct event *event)
{
    char type[64];
    MEMORY_OWNED char *source = memory_format("/%s/%s", feed->kind->driver.kind,
                                              message->source != NULL ? message->source : "");
    snprintf(type, sizeof(type), "blixard.%s.message", feed->kind->driver.kind);
    const struct message_event whole = {
        .id = message->id,
        .source = source,
        .type = type,
        .subject = message->subject,
        .content_type = message->type,
        .body = message->body,
        .length = message->length,
        .time_ms = message->time_ms,
        .attributes = message->fields,
    };
    message_to_event(&whole, event);
}

static void on_message(const struct broker_message *message, void *context)
{
    struct feed *feed = context;
    EVENT_OWNED struct event event = {0};
    bool is_ordered = strcmp(feed->kind->driver.kind, "kafka") == 0 && message->subject != NULL;
    struct message *pushed = NEW(struct message);
    pushed->feed = feed;
    pushed->generation = feed->generation;
    pushed->token = message->token;
    list_push_back(&feed->messages, &pushed->link);
    make_event(feed, message, &event);
    struct error refusal = {0};
    if (message->refused_bytes > 0) {
        error_set(&refusal, ERROR_TOO_LARGE, "a message of %zu bytes, where %d are the most",
                  message->refused_bytes, BROKER_BODY_BYTES_MAX);
    }
    const struct trigger_push push = {
        .event = &event,
        .refusal = refusal.kind != ERROR_NONE ? &refusal : NULL,
        .order = is_ordered ? message->subject : NULL,
        .done = on_done,
        .context = pushed,
    };
    trigger_push(feed->source, &push);
    update_pause(feed);
}

static void on_state(bool is_connected, const char *reason, void *context)
{
    struct feed *feed = context;
    trigger_source_problem(feed->source, is_connected ? NULL : reason);
}

/* ---- Life ---- */

static const char *secret_of(const struct trigger_source *source)
{
    return json_string_value(json_object_get(trigger_source_settings(source), "password_secret"));
}

static int read_password(const struct feed *feed, struct buffer *ret_password, struct error *err)
{
    const char *secret = secret_of(feed->source);
    int r = secret == NULL
        ? 0
        : secret_read(feed->kind->owner->options.secrets, trigger_source_project(feed->source),
                      secret, ret_password, err);
    if (r < 0) {
        return error_wrap(err, "password_secret");
    }
    return secret == NULL || memchr(ret_password->data, '\0', ret_password->used) == NULL
        ? 0
        : error_set(err, ERROR_INVALID, "password_secret: secret %s holds a NUL", secret);
}

static int open_broker(struct feed *feed, struct broker **ret_broker, struct error *err)
{
    static const struct broker_events events = {.on_message = on_message, .on_state = on_state};
    const json_t *settings = trigger_source_settings(feed->source);
    BUFFER_WIPED struct buffer password = {0};
    int r = read_password(feed, &password, err);
    if (r < 0) {
        return r;
    }
    JSON_OWNED json_t *rest = without_credentials(settings);
    MEMORY_OWNED char *name = memory_format("blixard-%s-%s", trigger_source_project(feed->source),
                                            trigger_source_name(feed->source));
    const struct broker_options options = {
        .kind = feed->kind->driver.kind,
        .settings = rest,
        .name = name,
        .username = json_string_value(json_object_get(settings, "username")),
        .password = password.used > 0 ? buffer_string(&password) : NULL,
    };
    return broker_open(feed->kind->owner->options.loop, &options, &events, feed, ret_broker, err);
}

static int start(struct trigger_source *source, void *context, void **ret_state, struct error *err)
{
    const struct kind *kind = context;
    struct feed *feed = NEW(struct feed);
    feed->source = source;
    feed->kind = kind;
    list_init(&feed->messages);
    int r = open_broker(feed, &feed->broker, err);
    if (r < 0) {
        free(feed);
        return r;
    }
    list_push_back(&kind->owner->feeds, &feed->link);
    *ret_state = feed;
    return 0;
}

/* As long as the new password cannot be had, the connection with the old one stays. */
static void reopen(struct feed *feed)
{
    struct broker *broker = NULL;
    struct error err = {0};
    if (open_broker(feed, &broker, &err) < 0) {
        trigger_source_problem(feed->source, err.text);
        return;
    }
    broker_close(feed->broker);
    feed->broker = broker;
    feed->generation++;
    feed->is_paused = false;
    update_pause(feed);
}

static void on_reopen(void *context)
{
    struct trigger_brokers *brokers = context;
    LIST_EACH(node, &brokers->feeds)
    {
        struct feed *feed = LIST_ITEM(node, struct feed, link);
        if (feed->is_stale) {
            feed->is_stale = false;
            reopen(feed);
        }
    }
}

static bool is_password_of(const struct feed *feed, const char *key)
{
    const char *project = trigger_source_project(feed->source);
    const char *secret = secret_of(feed->source);
    size_t length = strlen(project);
    return secret != NULL && strncmp(key, project, length) == 0 && key[length] == '/' &&
        strcmp(key + length + 1, secret) == 0;
}

/* The command is still being told of.  After a snapshot nobody knows what has changed. */
static void on_secret(const struct store_event *event, void *context)
{
    struct trigger_brokers *brokers = context;
    LIST_EACH(node, &brokers->feeds)
    {
        struct feed *feed = LIST_ITEM(node, struct feed, link);
        if (event->operation == 'R' ? secret_of(feed->source) != NULL
                                    : is_password_of(feed, event->key)) {
            feed->is_stale = true;
            loop_timer_start(brokers->reopen, 0);
        }
    }
}

static void stop(void *state)
{
    struct feed *feed = state;
    list_remove(&feed->link);
    broker_close(feed->broker); /* what has no answer is the broker's again */
    LIST_EACH(node, &feed->messages)
    {
        free(LIST_ITEM(node, struct message, link));
    }
    free(feed);
}

static void resume(void *state)
{
    update_pause(state);
}

static bool lag(void *state, uint64_t *ret_lag)
{
    const struct feed *feed = state;
    struct broker_status status;
    broker_status(feed->broker, &status);
    *ret_lag = status.lag;
    return status.knows_lag;
}

static const char *describe(void *state)
{
    struct feed *feed = state;
    struct broker_status status;
    broker_status(feed->broker, &status);
    snprintf(feed->text, sizeof(feed->text), "%s%s",
             status.is_connected ? "connected" : "not connected: ",
             status.is_connected ? "" : status.reason);
    return feed->text;
}

struct trigger_brokers *trigger_brokers_add(struct trigger_service *service,
                                            const struct trigger_brokers_options *options)
{
    static int (*const checks[KINDS])(const json_t *settings, struct error *err) = {
        check_redis, check_nats, check_kafka, check_amqp, check_mqtt};
    struct trigger_brokers *brokers = NEW(struct trigger_brokers);
    brokers->options = *options;
    list_init(&brokers->feeds);
    brokers->secrets = store_watch_new(options->store, "secret", on_secret, brokers);
    brokers->reopen = loop_timer_new(options->loop, on_reopen, brokers);
    for (size_t i = 0; i < KINDS; i++) {
        struct kind *kind = &brokers->kinds[i];
        kind->owner = brokers;
        kind->driver = (struct trigger_driver){
            .kind = kinds[i],
            .check = checks[i],
            .start = start,
            .stop = stop,
            .resume = resume,
            .lag = lag,
            .describe = describe,
        };
        if (broker_kind_is_here(kinds[i])) {
            trigger_driver_add(service, &kind->driver, kind);
        }
    }
    return brokers;
}

void trigger_brokers_free(struct trigger_brokers *brokers)
{
    if (brokers != NULL) {
        store_watch_free(brokers->secrets);
        loop_timer_free(brokers->reopen);
        broker_settle();
        free(brokers);
    }
}
