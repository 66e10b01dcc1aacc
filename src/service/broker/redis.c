/*
 * Redis Streams: a consumer group (redis.io/docs/data-types/streams; XREADGROUP, XACK, XAUTOCLAIM).
 *
 * An entry is a list of fields.  Where it has a field `data`, that is the body and the others are
 * fields of the message; otherwise the body is all of them as a JSON object.
 */
#include <hiredis/hiredis.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/time.h>

#include "base/buffer.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/text.h"

#include "service/broker/private.h"
#include "service/broker/slots.h"

enum { DEFAULT_PORT = 6379, BLOCK_MS = 250, CONNECT_S = 5, ANSWER_S = 10, BATCH_MAX = 256 };

struct client {
    struct broker *broker;
    redisContext *redis;
    struct slots slots; /* ids, as texts */
    const char *stream;
    const char *group;
    uint64_t claim_after_ms;
    uint64_t claimed_ms;
    uint64_t lag_ms;
    bool has_read_own; /* what this consumer had before it was started again */
    char own_after[64];
    char claim_from[64];
};

/* NULL: the connection is no good any more. */
static redisReply *ask(struct client *client, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    redisReply *reply = redisvCommand(client->redis, format, arguments);
    va_end(arguments);
    return reply;
}

static bool is_error(const redisReply *reply)
{
    return reply == NULL || reply->type == REDIS_REPLY_ERROR;
}

static const char *why(const struct client *client, const redisReply *reply)
{
    return reply != NULL ? reply->str : client->redis->errstr;
}

/* ---- Connecting ---- */

static redisContext *dial(struct broker *broker)
{
    struct broker_url url;
    struct error err = {0};
    struct timeval patience = {.tv_sec = CONNECT_S};
    broker_url_parse(broker_text(broker, "url", ""), &url, &err);
    bool is_unix = strcmp(url.scheme, "unix") == 0;
    int port = is_unix ? 0 : (int)(url.port != 0 ? url.port : DEFAULT_PORT);
    redisContext *redis = is_unix ? redisConnectUnixWithTimeout(url.host, patience)
                                  : redisConnectWithTimeout(url.host, port, patience);
    if (redis == NULL || redis->err != 0) {
        broker_note_unreached(broker, &url, port, redis != NULL ? redis->errstr : "no memory");
        if (redis != NULL) {
            redisFree(redis);
        }
        return NULL;
    }
    patience.tv_sec = ANSWER_S;
    redisSetTimeout(redis, patience);
    return redis;
}

static bool log_in(struct client *client)
{
    struct broker *broker = client->broker;
    struct broker_url url;
    struct error err = {0};
    redisReply *reply = NULL;
    bool good = true;
    if (broker->password != NULL) {
        reply = broker->username != NULL
            ? ask(client, "AUTH %s %s", broker->username, broker->password)
            : ask(client, "AUTH %s", broker->password);
        good = !is_error(reply);
    }
    broker_url_parse(broker_text(broker, "url", ""), &url, &err);
    if (good && url.path[0] != '\0') {
        if (reply != NULL) {
            freeReplyObject(reply);
        }
        reply = ask(client, "SELECT %s", url.path);
        good = !is_error(reply);
    }
    if (!good) {
        broker_note_state(broker, false, "%s", why(client, reply));
    }
    if (reply != NULL) {
        freeReplyObject(reply);
    }
    return good;
}

static bool join_group(struct client *client)
{
    const char *from = broker_starts_with_all(client->broker) ? "0" : "$";
    redisReply *reply =
        ask(client, "XGROUP CREATE %s %s %s MKSTREAM", client->stream, client->group, from);
    bool good = !is_error(reply) || (reply != NULL && strncmp(reply->str, "BUSYGROUP", 9) == 0);
    if (!good) {
        broker_note_state(client->broker, false, "%s", why(client, reply));
    }
    if (reply != NULL) {
        freeReplyObject(reply);
    }
    return good;
}

/* ---- Messages ---- */

static bool is_held(const struct client *client, const char *id)
{
    for (unsigned i = 0; i < client->slots.size; i++) {
        if (client->slots.held[i] != NULL && strcmp(client->slots.held[i], id) == 0) {
            return true;
        }
    }
    return false;
}

static void acknowledge(struct client *client, const char *id)
{
    redisReply *reply = ask(client, "XACK %s %s %s", client->stream, client->group, id);
    if (reply != NULL) {
        freeReplyObject(reply);
    }
}

static bool is_named(const redisReply *text, const char *name)
{
    return text->len == strlen(name) && strncasecmp(text->str, name, text->len) == 0;
}

/* An entry: [id, [name, value, ...]]; one that was deleted meanwhile has nil instead. */
static void give(struct client *client, const redisReply *entry)
{
    if (entry->type != REDIS_REPLY_ARRAY || entry->elements != 2 ||
        entry->element[0]->type != REDIS_REPLY_STRING || is_held(client, entry->element[0]->str)) {
        return;
    }
    const char *id = entry->element[0]->str;
    const redisReply *list = entry->element[1];
    if (list->type != REDIS_REPLY_ARRAY) {
        acknowledge(client, id);
        return;
    }
    BUFFER_OWNED struct buffer body = {0};
    const redisReply *data = NULL;
    json_t *fields = json_object();
    struct broker_message message = {.id = id, .source = client->stream};
    for (size_t i = 0; i + 1 < list->elements; i += 2) {
        const redisReply *name = list->element[i];
        const redisReply *value = list->element[i + 1];
        if (name->type != REDIS_REPLY_STRING || value->type != REDIS_REPLY_STRING) {
            continue;
        }
        if (is_named(name, "data")) {
            data = value;
        } else if (is_named(name, "content-type")) {
            message.type = value->str;
        } else {
            broker_add_field(fields, name->str, value->str, value->len);
        }
    }
    if (data != NULL) {
        message.body = data->str;
        message.length = data->len;
    } else {
        struct json_writer writer = json_writer_to(&body);
        json_write_begin_object(&writer);
        for (size_t i = 0; i + 1 < list->elements; i += 2) {
            const redisReply *value = list->element[i + 1];
            if (list->element[i]->type == REDIS_REPLY_STRING && value->type == REDIS_REPLY_STRING) {
                json_write_key(&writer, list->element[i]->str);
                json_write_text(&writer, value->str, value->len);
            }
        }
        json_write_end_object(&writer);
        message.body = body.data;
        message.length = body.used;
        message.type = "application/json";
        json_object_clear(fields);
    }
    uint64_t time_ms = 0;
    if (text_parse_u64(text_of(id, strcspn(id, "-")), &time_ms)) {
        message.time_ms = time_ms;
    }
    message.token = slots_put(&client->slots, memory_copy_string(id));
    broker_give(client->broker, &message, fields);
}

/* More than were asked for are no Redis's. */
static void give_all(struct client *client, const redisReply *entries)
{
    size_t count = entries->type == REDIS_REPLY_ARRAY ? entries->elements : 0;
    for (size_t i = 0; i < count && !slots_are_full(&client->slots); i++) {
        give(client, entries->element[i]);
    }
}

/* [[stream, entries]], or nil when there is nothing new. */
static bool read_some(struct client *client, unsigned room)
{
    bool is_own = !client->has_read_own;
    redisReply *reply = is_own
        ? ask(client, "XREADGROUP GROUP %s %s COUNT %u STREAMS %s %s", client->group,
              client->broker->name, room, client->stream, client->own_after)
        : ask(client, "XREADGROUP GROUP %s %s COUNT %u BLOCK %d STREAMS %s >", client->group,
              client->broker->name, room, BLOCK_MS, client->stream);
    bool good = !is_error(reply);
    if (!good) {
        broker_note_state(client->broker, false, "%s", why(client, reply));
    } else if (reply->type == REDIS_REPLY_ARRAY && reply->elements == 1 &&
               reply->element[0]->type == REDIS_REPLY_ARRAY && reply->element[0]->elements == 2) {
        const redisReply *entries = reply->element[0]->element[1];
        give_all(client, entries);
        if (is_own && entries->type == REDIS_REPLY_ARRAY && entries->elements > 0) {
            const redisReply *last = entries->element[entries->elements - 1];
            const redisReply *id = last->elements > 0 ? last->element[0] : last;
            client->has_read_own = id->type != REDIS_REPLY_STRING; /* it is no Redis */
            snprintf(client->own_after, sizeof(client->own_after), "%s",
                     client->has_read_own ? "0" : id->str);
        } else {
            client->has_read_own = true;
        }
    } else if (is_own) {
        client->has_read_own = true;
    }
    if (reply != NULL) {
        freeReplyObject(reply);
    }
    return good;
}

/* What a consumer has had for too long: it died, or gave it back.  [next, entries, deleted]. */
static bool claim_some(struct client *client, unsigned room)
{
    uint64_t now_ms = clock_monotonic_ms();
    if (now_ms - client->claimed_ms < client->claim_after_ms / 2) {
        return true;
    }
    redisReply *reply =
        ask(client, "XAUTOCLAIM %s %s %s %" PRIu64 " %s COUNT %u", client->stream, client->group,
            client->broker->name, client->claim_after_ms, client->claim_from, room);
    bool good = !is_error(reply);
    if (good && reply->type == REDIS_REPLY_ARRAY && reply->elements >= 2 &&
        reply->element[0]->type == REDIS_REPLY_STRING) {
        snprintf(client->claim_from, sizeof(client->claim_from), "%s", reply->element[0]->str);
        give_all(client, reply->element[1]);
    }
    bool is_through = !good || strcmp(client->claim_from, "0-0") == 0;
    client->claimed_ms = is_through ? now_ms : client->claimed_ms;
    if (!good) {
        broker_note_state(client->broker, false, "%s", why(client, reply));
    }
    if (reply != NULL) {
        freeReplyObject(reply);
    }
    return good;
}

/* XINFO GROUPS: a list of name-value lists; `lag` since Redis 7. */
static void note_lag(struct client *client)
{
    uint64_t now_ms = clock_monotonic_ms();
    if (now_ms - client->lag_ms < LAG_EVERY_MS) {
        return;
    }
    client->lag_ms = now_ms;
    redisReply *reply = ask(client, "XINFO GROUPS %s", client->stream);
    for (size_t i = 0; !is_error(reply) && reply->type == REDIS_REPLY_ARRAY && i < reply->elements;
         i++) {
        const redisReply *facts = reply->element[i];
        bool is_ours = false;
        for (size_t k = 0; facts->type == REDIS_REPLY_ARRAY && k + 1 < facts->elements; k += 2) {
            const redisReply *value = facts->element[k + 1];
            if (is_named(facts->element[k], "name")) {
                is_ours =
                    value->type == REDIS_REPLY_STRING && strcmp(value->str, client->group) == 0;
            } else if (is_ours && is_named(facts->element[k], "lag") &&
                       value->type == REDIS_REPLY_INTEGER && value->integer >= 0) {
                broker_note_lag(client->broker, (uint64_t)value->integer);
            }
        }
    }
    if (reply != NULL) {
        freeReplyObject(reply);
    }
}

static void take_verdicts(struct client *client)
{
    uint64_t token = 0;
    bool is_acknowledged = false;
    while (broker_next_verdict(client->broker, &token, &is_acknowledged)) {
        char *id = slots_take(&client->slots, token);
        if (is_acknowledged && client->redis->err == 0) {
            acknowledge(client, id);
        }
        free(id);
    }
}

/* Until the connection breaks or the end. */
static void serve(struct client *client)
{
    bool good = true;
    while (good && !broker_is_stopping(client->broker)) {
        take_verdicts(client);
        unsigned room = broker_room(client->broker);
        room = room > BATCH_MAX ? BATCH_MAX : room;
        if (room == 0) {
            broker_wait(client->broker, 1000);
            continue;
        }
        good = claim_some(client, room);
        room = broker_room(client->broker);
        good = good && (room == 0 || read_some(client, room > BATCH_MAX ? BATCH_MAX : room));
        if (good) {
            note_lag(client);
        }
    }
    take_verdicts(client);
}

static void run(struct broker *broker)
{
    struct client client = {
        .broker = broker,
        .stream = broker_text(broker, "stream", ""),
        .group = broker_text(broker, "group", "blixard"),
        .claim_after_ms = broker_number(broker, "claim_after_ms", 60000),
        .claim_from = "0-0",
    };
    uint64_t delay_ms = 0;
    slots_init(&client.slots, broker->in_flight_max);
    while (!broker_is_stopping(broker)) {
        client.redis = dial(broker);
        if (client.redis != NULL) {
            client.has_read_own = false;
            snprintf(client.own_after, sizeof(client.own_after), "0");
            if (log_in(&client) && join_group(&client)) {
                broker_note_state(broker, true, "%s", "");
                delay_ms = 0;
                serve(&client);
            }
            redisFree(client.redis);
        }
        broker_back_off(broker, &delay_ms);
    }
    slots_done(&client.slots, free);
}

static const char *const schemes[] = {"redis", "unix", NULL};
static const char *const keys[] = {"stream", "group", "start", "claim_after_ms", NULL};
static const char *const needed[] = {"stream", NULL};

const struct broker_kind broker_redis = {
    .name = "redis", .schemes = schemes, .keys = keys, .needed = needed, .run = run};
