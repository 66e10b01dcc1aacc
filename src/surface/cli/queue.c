/* Verbs about queues. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"

#include "surface/cli/payload.h"

#define COUNT(list) (sizeof(list) / sizeof((list)[0]))

enum { SEND_AT_ONCE = 100, SEND_BYTES = 512 << 10 };

static const struct payload_flag settings[] = {
    {"visibility", "visibility_ms", FLAG_DURATION}, {"retention", "retention_ms", FLAG_DURATION},
    {"delay", "delay_ms", FLAG_DURATION},           {"dedup-window", "dedup_ms", FLAG_DURATION},
    {"max-depth", "max_depth", FLAG_COUNT},         {"max-bytes", "max_bytes", FLAG_SIZE},
    {"max-receives", "max_receives", FLAG_COUNT},   {"dead-letter", "dead_letter", FLAG_TEXT},
};

/* ---- Queues ---- */

int verb_queue_create(const struct arguments *arguments, struct error *err)
{
    JSON_OWNED json_t *body = json_pack("{s:s}", "name", arguments->words[0]);
    JSON_OWNED json_t *queue = NULL;
    int r = payload_take_flags(arguments, settings, COUNT(settings), body, err);
    if (flag_value(arguments, "fifo") != NULL) {
        json_object_set_new(body, "fifo", json_true());
    }
    r = r < 0 ? r : request_send("POST", "/v1/queues", body, &queue, err);
    return r < 0 ? r : print_done(arguments, queue, err, "queue %s is there", arguments->words[0]);
}

int verb_queue_update(const struct arguments *arguments, struct error *err)
{
    JSON_OWNED json_t *body = json_object();
    JSON_OWNED json_t *queue = NULL;
    MEMORY_OWNED char *target = request_target("queues", arguments->words[0], "");
    int r = payload_take_flags(arguments, settings, COUNT(settings), body, err);
    if (r == 0 && json_object_size(body) == 0) {
        return error_set(err, ERROR_INVALID, "say what to change, for example --visibility 2m");
    }
    r = r < 0 ? r : request_send("PATCH", target, body, &queue, err);
    return r < 0 ? r
                 : print_done(arguments, queue, err, "queue %s is changed", arguments->words[0]);
}

int verb_queue_delete(const struct arguments *arguments, struct error *err)
{
    MEMORY_OWNED char *target = request_target("queues", arguments->words[0], "");
    int r = request_json("DELETE", target, NULL, NULL, err);
    if (r < 0) {
        return r;
    }
    JSON_OWNED json_t *document = json_pack("{s:s}", "deleted", arguments->words[0]);
    return print_done(arguments, document, err, "deleted queue %s", arguments->words[0]);
}

int verb_queue_list(const struct arguments *arguments, struct error *err)
{
    static const struct column columns[] = {
        {"QUEUE", "name", AS_TEXT},
        {"FIFO", "fifo", AS_TEXT},
        {"DEPTH", "depth", AS_TEXT},
        {"READY", "ready", AS_TEXT},
        {"IN FLIGHT", "in_flight", AS_TEXT},
        {"DELAYED", "delayed", AS_TEXT},
        {"OLDEST", "oldest_age_ms", AS_TIME},
        {"DEAD", "dead", AS_TEXT},
        {"DEAD LETTERS", "dead_letter", AS_TEXT},
    };
    return print_target(arguments, "/v1/queues", "queues", columns, COUNT(columns), err);
}

int verb_queue_get(const struct arguments *arguments, struct error *err)
{
    static const struct column columns[] = {
        {"name", "name", AS_TEXT},
        {"FIFO", "fifo", AS_TEXT},
        {"depth", "depth", AS_TEXT},
        {"ready", "ready", AS_TEXT},
        {"in flight", "in_flight", AS_TEXT},
        {"delayed", "delayed", AS_TEXT},
        {"blocked", "blocked", AS_TEXT},
        {"size", "bytes", AS_BYTES},
        {"oldest", "oldest_age_ms", AS_TIME},
        {"dead", "dead", AS_TEXT},
        {"sent", "sent", AS_TEXT},
        {"acked", "acked", AS_TEXT},
        {"expired", "expired", AS_TEXT},
        {"died", "died", AS_TEXT},
        {"visibility", "visibility_ms", AS_MS},
        {"retention", "retention_ms", AS_MS},
        {"delay", "delay_ms", AS_MS},
        {"dedup window", "dedup_ms", AS_MS},
        {"max depth", "max_depth", AS_TEXT},
        {"max bytes", "max_bytes", AS_BYTES},
        {"max receives", "max_receives", AS_TEXT},
        {"dead letters", "dead_letter", AS_TEXT},
        {"created", "created_at", AS_TEXT},
    };
    MEMORY_OWNED char *target = request_target("queues", arguments->words[0], "");
    return print_target(arguments, target, NULL, columns, COUNT(columns), err);
}

/* ---- Sending ---- */

static const struct payload_flag message_flags[] = {
    {"group", "group", FLAG_TEXT},
    {"dedup", "dedup", FLAG_TEXT},
    {"delay", "delay_ms", FLAG_DURATION},
    {"priority", "priority", FLAG_COUNT},
};

int verb_queue_send(const struct arguments *arguments, struct error *err)
{
    BUFFER_OWNED struct buffer input = {0};
    JSON_OWNED json_t *accepted = json_array();
    MEMORY_OWNED char *target = request_target("queues", arguments->words[0], "/messages");
    int r = payload_read(arguments, &input, err);
    const struct payload_batch batch = {
        .target = target,
        .member = "messages",
        .done = "messages were accepted",
        .count_max = SEND_AT_ONCE,
        .bytes_max = SEND_BYTES,
        .flags = message_flags,
        .flag_count = COUNT(message_flags),
    };
    r = r < 0 ? r : payload_send_all(arguments, &batch, &input, accepted, err);
    if (r < 0) {
        return r;
    }
    JSON_OWNED json_t *document = json_pack("{s:O}", "messages", accepted);
    const json_t *first = json_array_get(accepted, 0);
    const char *id = json_string_value(json_object_get(first, "id"));
    if (json_array_size(accepted) != 1) {
        return print_done(arguments, document, err, "sent %zu messages", json_array_size(accepted));
    }
    return json_is_true(json_object_get(first, "duplicate"))
        ? print_done(arguments, document, err, "%s was sent before: nothing was added", id)
        : print_done(arguments, document, err, "sent %s", id);
}

/* ---- Receiving ---- */

static const struct column message_columns[] = {
    {"ID", "id", AS_TEXT},
    {"RECEIPT", "receipt", AS_TEXT},
    {"RECEIVES", "receives", AS_TEXT},
    {"SENT", "sent_at", AS_TEXT},
    {"GROUP", "group", AS_TEXT},
    {"BODY", "shown", AS_TEXT},
};

static const struct column looked_columns[] = {
    {"ID", "id", AS_TEXT},        {"RECEIVES", "receives", AS_TEXT}, {"SENT", "sent_at", AS_TEXT},
    {"DIED", "died_at", AS_TEXT}, {"GROUP", "group", AS_TEXT},       {"BODY", "shown", AS_TEXT},
};

static void print_messages(json_t *document, enum output output, const struct column *columns,
                           unsigned count)
{
    json_t *messages = json_object_get(document, "messages");
    size_t index = 0;
    json_t *message = NULL;
    if (output != OUTPUT_TABLE) {
        print_document(document, output);
        return;
    }
    json_array_foreach(messages, index, message)
    {
        payload_describe(message);
    }
    print_table(messages, columns, count);
}

static int settle_words(const struct arguments *arguments, const char *rest, json_t *body,
                        const char *done, struct error *err)
{
    JSON_OWNED json_t *answer = NULL;
    MEMORY_OWNED char *target = request_target("queues", arguments->words[0], rest);
    json_t *receipts = json_array();
    json_object_set_new(body, "receipts", receipts);
    for (unsigned i = 1; i < arguments->word_count; i++) {
        json_array_append_new(receipts, json_string(arguments->words[i]));
    }
    int r = request_send("POST", target, body, &answer, err);
    if (r < 0) {
        return r;
    }
    const json_t *failed = json_object_get(answer, "failed");
    size_t index = 0;
    json_t *failure = NULL;
    json_array_foreach(failed, index, failure)
    {
        fprintf(stderr, "%s: %s\n", json_string_value(json_object_get(failure, "receipt")),
                json_string_value(json_object_get(failure, "error")));
    }
    r = print_done(arguments, answer, err, "%s %" PRIu64, done,
                   (uint64_t)json_integer_value(json_object_get(answer, "settled")));
    if (r == 0 && json_array_size(failed) > 0) {
        return error_set(err, ERROR_CONFLICT, "%zu of the receipts were refused",
                         json_array_size(failed));
    }
    return r;
}

static int ack_received(const char *name, const json_t *document, struct error *err)
{
    JSON_OWNED json_t *body = json_object();
    MEMORY_OWNED char *target = request_target("queues", name, "/ack");
    json_t *receipts = json_array();
    size_t index = 0;
    json_t *message = NULL;
    json_object_set_new(body, "receipts", receipts);
    json_array_foreach(json_object_get(document, "messages"), index, message)
    {
        json_array_append(receipts, json_object_get(message, "receipt"));
    }
    return json_array_size(receipts) > 0 ? request_send("POST", target, body, NULL, err) : 0;
}

int verb_queue_receive(const struct arguments *arguments, struct error *err)
{
    static const struct payload_flag flags[] = {
        {"max", "max", FLAG_COUNT},
        {"wait", "wait", FLAG_TEXT},
        {"visibility", "visibility_ms", FLAG_DURATION},
    };
    JSON_OWNED json_t *body = json_object();
    JSON_OWNED json_t *document = NULL;
    enum output output = OUTPUT_TABLE;
    MEMORY_OWNED char *target = request_target("queues", arguments->words[0], "/receive");
    int r = output_of(arguments, &output, err);
    r = r < 0 ? r : payload_take_flags(arguments, flags, COUNT(flags), body, err);
    r = r < 0 ? r : request_send("POST", target, body, &document, err);
    if (r == 0 && flag_value(arguments, "ack") != NULL) {
        r = ack_received(arguments->words[0], document, err);
    }
    if (r == 0) {
        print_messages(document, output, message_columns, COUNT(message_columns));
    }
    return r;
}

int verb_queue_ack(const struct arguments *arguments, struct error *err)
{
    JSON_OWNED json_t *body = json_object();
    return settle_words(arguments, "/ack", body, "acknowledged", err);
}

int verb_queue_nack(const struct arguments *arguments, struct error *err)
{
    static const struct payload_flag flags[] = {{"delay", "delay_ms", FLAG_DURATION}};
    JSON_OWNED json_t *body = json_object();
    int r = payload_take_flags(arguments, flags, 1, body, err);
    return r < 0 ? r : settle_words(arguments, "/nack", body, "returned", err);
}

int verb_queue_extend(const struct arguments *arguments, struct error *err)
{
    static const struct payload_flag flags[] = {{"visibility", "visibility_ms", FLAG_DURATION}};
    JSON_OWNED json_t *body = json_pack("{s:i}", "visibility_ms", 30000);
    int r = payload_take_flags(arguments, flags, 1, body, err);
    return r < 0 ? r : settle_words(arguments, "/extend", body, "extended", err);
}

/* ---- All messages ---- */

static int print_count(const struct arguments *arguments, json_t *answer, const char *done,
                       struct error *err)
{
    const char *problem = json_string_value(json_object_get(answer, "error"));
    uint64_t count = json_u64(answer, "count");
    int r = print_done(arguments, answer, err, "%s %" PRIu64 " message%s", done, count,
                       count == 1 ? "" : "s");
    return r == 0 && problem != NULL ? error_set(err, ERROR_LIMIT, "%s", problem) : r;
}

int verb_queue_purge(const struct arguments *arguments, struct error *err)
{
    JSON_OWNED json_t *answer = NULL;
    MEMORY_OWNED char *target = request_target("queues", arguments->words[0], "/purge");
    int r = request_json("POST", target, NULL, &answer, err);
    return r < 0 ? r : print_count(arguments, answer, "removed", err);
}

int verb_queue_redrive(const struct arguments *arguments, struct error *err)
{
    static const struct payload_flag flags[] = {{"max", "max", FLAG_COUNT}};
    JSON_OWNED json_t *body = json_object();
    JSON_OWNED json_t *answer = NULL;
    MEMORY_OWNED char *target = request_target("queues", arguments->words[0], "/redrive");
    int r = payload_take_flags(arguments, flags, 1, body, err);
    r = r < 0 ? r : request_send("POST", target, body, &answer, err);
    return r < 0 ? r : print_count(arguments, answer, "brought back", err);
}

static int look(const struct arguments *arguments, const char *queue, const char *source,
                struct error *err)
{
    const char *limit = flag_value(arguments, "limit");
    JSON_OWNED json_t *document = NULL;
    enum output output = OUTPUT_TABLE;
    uint64_t number = 20;
    if (limit != NULL && !text_parse_u64(text_of(limit, strlen(limit)), &number)) {
        return error_set(err, ERROR_INVALID, "--limit %.40s is not a number", limit);
    }
    MEMORY_OWNED char *rest =
        memory_format("/messages?limit=%" PRIu64 "%s%s", number, source != NULL ? "&source=" : "",
                      source != NULL ? source : "");
    MEMORY_OWNED char *target = request_target("queues", queue, rest);
    int r = output_of(arguments, &output, err);
    r = r < 0 ? r : request_json("GET", target, NULL, &document, err);
    if (r == 0) {
        print_messages(document, output, looked_columns, COUNT(looked_columns));
    }
    return r;
}

int verb_queue_messages(const struct arguments *arguments, struct error *err)
{
    return look(arguments, arguments->words[0], NULL, err);
}

int verb_queue_dead_letters(const struct arguments *arguments, struct error *err)
{
    JSON_OWNED json_t *queue = NULL;
    const char *name = arguments->words[0];
    MEMORY_OWNED char *target = request_target("queues", name, "");
    int r = request_json("GET", target, NULL, &queue, err);
    const char *dead = json_string_value(json_object_get(queue, "dead_letter"));
    if (r == 0 && dead == NULL) {
        return error_set(err, ERROR_NOT_FOUND,
                         "queue %s has no dead-letter queue: give it one with `blixard queue "
                         "update %s --dead-letter QUEUE`",
                         name, name);
    }
    return r < 0 ? r : look(arguments, dead, name, err);
}
