/*
 * Apache Kafka: a consumer group.  Offsets are committed up to the first message of a partition
 * that is not answered, so that nothing is lost and order within a partition can be kept.
 *
 * Source: librdkafka's INTRODUCTION.md, at-least-once consumers.
 */
#include <inttypes.h>
#include <librdkafka/rdkafka.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/clock.h"

#include "service/broker/private.h"
#include "service/broker/slots.h"

enum { POLL_MS = 200, METADATA_MS = 5000, SEEK_MS = 2000 };

/* Of a partition, as far as this consumer has had messages of it. */
struct progress {
    struct list_node link;
    char *topic;
    int32_t partition;
    int64_t next; /* after the last one that was given; or the first one that came back */
    bool has_moved;
    bool goes_back; /* to `next`: nothing is given until it has */
};

struct held {
    struct progress *progress;
    int64_t offset;
};

struct client {
    struct broker *broker;
    rd_kafka_t *kafka;
    struct slots slots; /* struct held */
    struct list progress;
    bool is_paused;
    bool is_connected;
    uint64_t looked_ms;
};

/* ---- Set-up ---- */

static bool set(rd_kafka_conf_t *conf, const char *name, const char *value, char *ret_why,
                size_t size)
{
    return rd_kafka_conf_set(conf, name, value, ret_why, size) == RD_KAFKA_CONF_OK;
}

static void on_error(rd_kafka_t *kafka, int code, const char *reason, void *opaque)
{
    (void)kafka;
    struct client *client = opaque;
    if (code == RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN || code == RD_KAFKA_RESP_ERR__AUTHENTICATION ||
        code == RD_KAFKA_RESP_ERR__TRANSPORT || code == RD_KAFKA_RESP_ERR__RESOLVE) {
        client->is_connected = false;
        broker_note_state(client->broker, false, "%s", reason);
    }
}

static rd_kafka_conf_t *configure(struct client *client, char *ret_why, size_t size)
{
    struct broker *broker = client->broker;
    const char *servers = strstr(broker_text(broker, "url", ""), "://") + 3;
    bool is_tls = strncmp(broker_text(broker, "url", ""), "kafkas:", 7) == 0;
    bool has_user = broker->username != NULL;
    const char *protocol =
        has_user ? (is_tls ? "sasl_ssl" : "sasl_plaintext") : (is_tls ? "ssl" : "plaintext");
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    bool good = set(conf, "bootstrap.servers", servers, ret_why, size) &&
        set(conf, "group.id", broker_text(broker, "group", "blixard"), ret_why, size) &&
        set(conf, "client.id", broker->name, ret_why, size) &&
        set(conf, "enable.auto.commit", "false", ret_why, size) &&
        set(conf, "enable.auto.offset.store", "false", ret_why, size) &&
        set(conf, "auto.offset.reset", broker_starts_with_all(broker) ? "earliest" : "latest",
            ret_why, size) &&
        set(conf, "fetch.message.max.bytes", "2097152", ret_why, size) &&
        set(conf, "queued.max.messages.kbytes", "16384", ret_why, size) &&
        set(conf, "session.timeout.ms", "10000", ret_why, size) && /* until another takes over */
        set(conf, "log_level", "2", ret_why, size) &&
        set(conf, "security.protocol", protocol, ret_why, size);
    if (good && has_user) {
        good = set(conf, "sasl.mechanisms", "PLAIN", ret_why, size) &&
            set(conf, "sasl.username", broker->username, ret_why, size) &&
            set(conf, "sasl.password", broker->password != NULL ? broker->password : "", ret_why,
                size);
    }
    if (!good) {
        rd_kafka_conf_destroy(conf);
        return NULL;
    }
    rd_kafka_conf_set_opaque(conf, client);
    rd_kafka_conf_set_error_cb(conf, on_error);
    return conf;
}

static bool subscribe(struct client *client)
{
    size_t i = 0;
    json_t *topic = NULL;
    rd_kafka_topic_partition_list_t *topics = rd_kafka_topic_partition_list_new(4);
    json_array_foreach(json_object_get(client->broker->settings, "topics"), i, topic)
    {
        rd_kafka_topic_partition_list_add(topics, json_string_value(topic), RD_KAFKA_PARTITION_UA);
    }
    rd_kafka_resp_err_t r = rd_kafka_subscribe(client->kafka, topics);
    rd_kafka_topic_partition_list_destroy(topics);
    if (r != RD_KAFKA_RESP_ERR_NO_ERROR) {
        broker_note_state(client->broker, false, "%s", rd_kafka_err2str(r));
    }
    return r == RD_KAFKA_RESP_ERR_NO_ERROR;
}

static bool begin(struct client *client)
{
    char reason[256] = "";
    rd_kafka_conf_t *conf = configure(client, reason, sizeof(reason));
    client->kafka =
        conf != NULL ? rd_kafka_new(RD_KAFKA_CONSUMER, conf, reason, sizeof(reason)) : NULL;
    if (client->kafka == NULL) {
        broker_note_state(client->broker, false, "%s", reason);
        return false;
    }
    rd_kafka_poll_set_consumer(client->kafka);
    return subscribe(client);
}

/* ---- Messages ---- */

static struct progress *progress_of(struct client *client, const char *topic, int32_t partition)
{
    LIST_EACH(node, &client->progress)
    {
        struct progress *progress = LIST_ITEM(node, struct progress, link);
        if (progress->partition == partition && strcmp(progress->topic, topic) == 0) {
            return progress;
        }
    }
    struct progress *progress = NEW(struct progress);
    progress->topic = memory_copy_string(topic);
    progress->partition = partition;
    list_push_back(&client->progress, &progress->link);
    return progress;
}

static json_t *fields_of(const rd_kafka_message_t *message, const char **ret_type, char *type,
                         size_t size)
{
    json_t *fields = json_object();
    rd_kafka_headers_t *headers = NULL;
    if (rd_kafka_message_headers(message, &headers) != RD_KAFKA_RESP_ERR_NO_ERROR) {
        return fields;
    }
    const char *name = NULL;
    const void *value = NULL;
    size_t length = 0;
    for (size_t i = 0;
         rd_kafka_header_get_all(headers, i, &name, &value, &length) == RD_KAFKA_RESP_ERR_NO_ERROR;
         i++) {
        if (strcasecmp(name, "content-type") == 0 && length < size) {
            memcpy(type, value, length);
            type[length] = '\0';
            *ret_type = type;
        } else {
            broker_add_field(fields, name, value != NULL ? value : "", length);
        }
    }
    return fields;
}

static void give(struct client *client, struct progress *progress,
                 const rd_kafka_message_t *message)
{
    const char *topic = progress->topic;
    char id[320];
    char type[128];
    char key[512];
    struct broker_message given = {
        .id = id,
        .source = topic,
        .body = message->payload,
        .length = message->len,
    };
    snprintf(id, sizeof(id), "%.250s-%" PRId32 "-%" PRId64, topic, message->partition,
             message->offset);
    if (message->key != NULL && message->key_len < sizeof(key)) {
        memcpy(key, message->key, message->key_len);
        key[message->key_len] = '\0';
        given.subject = key;
    }
    rd_kafka_timestamp_type_t kind;
    int64_t time_ms = rd_kafka_message_timestamp(message, &kind);
    given.time_ms = time_ms > 0 ? (uint64_t)time_ms : 0;
    json_t *fields = fields_of(message, &given.type, type, sizeof(type));
    struct held *held = NEW(struct held);
    *held = (struct held){.progress = progress, .offset = message->offset};
    given.token = slots_put(&client->slots, held);
    progress->next = message->offset + 1;
    broker_give(client->broker, &given, fields);
}

/* ---- Answers ---- */

static int64_t first_held(const struct client *client, const struct progress *progress)
{
    int64_t first = progress->next;
    for (unsigned i = 0; i < client->slots.size; i++) {
        const struct held *held = client->slots.held[i];
        if (held != NULL && held->progress == progress && held->offset < first) {
            first = held->offset;
        }
    }
    return first;
}

static void commit(struct client *client, bool waits)
{
    rd_kafka_topic_partition_list_t *offsets = rd_kafka_topic_partition_list_new(4);
    LIST_EACH(node, &client->progress)
    {
        struct progress *progress = LIST_ITEM(node, struct progress, link);
        if (progress->has_moved) {
            progress->has_moved = false;
            rd_kafka_topic_partition_list_add(offsets, progress->topic, progress->partition)
                ->offset = first_held(client, progress);
        }
    }
    if (offsets->cnt > 0) {
        rd_kafka_commit(client->kafka, offsets, waits ? 0 : 1);
    }
    rd_kafka_topic_partition_list_destroy(offsets);
}

/* What is delivered again, with all that follows it.  False: what follows may still come first. */
static bool go_back(struct client *client, const struct progress *progress)
{
    rd_kafka_topic_partition_list_t *back = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_list_add(back, progress->topic, progress->partition)->offset =
        progress->next;
    rd_kafka_error_t *error = rd_kafka_seek_partitions(client->kafka, back, SEEK_MS);
    /* With another error the partition is another consumer's by now. */
    bool is_late = error != NULL && rd_kafka_error_code(error) == RD_KAFKA_RESP_ERR__TIMED_OUT;
    if (error != NULL) {
        rd_kafka_error_destroy(error);
    }
    rd_kafka_topic_partition_list_destroy(back);
    return !is_late;
}

static void take_verdicts(struct client *client)
{
    uint64_t token = 0;
    bool is_acknowledged = false;
    while (broker_next_verdict(client->broker, &token, &is_acknowledged)) {
        struct held *held = slots_take(&client->slots, token);
        struct progress *progress = held->progress;
        if (is_acknowledged) {
            progress->has_moved = true;
        } else if (held->offset < progress->next) { /* else it is behind one that came back */
            progress->next = held->offset;
            progress->goes_back = true;
        }
        free(held);
    }
    LIST_EACH(node, &client->progress)
    {
        struct progress *progress = LIST_ITEM(node, struct progress, link);
        if (progress->goes_back && !broker_is_stopping(client->broker)) {
            progress->goes_back = !go_back(client, progress);
        }
    }
}

/* ---- Life ---- */

/* Messages stop, membership of the group goes on. */
static void pause_when_full(struct client *client)
{
    bool is_full = broker_room(client->broker) == 0;
    if (is_full == client->is_paused) {
        return;
    }
    rd_kafka_topic_partition_list_t *assigned = NULL;
    if (rd_kafka_assignment(client->kafka, &assigned) == RD_KAFKA_RESP_ERR_NO_ERROR) {
        if (is_full) {
            rd_kafka_pause_partitions(client->kafka, assigned);
        } else {
            rd_kafka_resume_partitions(client->kafka, assigned);
        }
        client->is_paused = is_full;
        rd_kafka_topic_partition_list_destroy(assigned);
    }
}

/* What the library remembers of the partitions: no sign of a broker that lives. */
static void note_lag(struct client *client)
{
    rd_kafka_topic_partition_list_t *assigned = NULL;
    if (rd_kafka_assignment(client->kafka, &assigned) != RD_KAFKA_RESP_ERR_NO_ERROR) {
        return;
    }
    uint64_t lag = 0;
    bool is_known = assigned->cnt > 0 &&
        rd_kafka_position(client->kafka, assigned) == RD_KAFKA_RESP_ERR_NO_ERROR;
    for (int i = 0; is_known && i < assigned->cnt; i++) {
        const rd_kafka_topic_partition_t *at = &assigned->elems[i];
        int64_t low = 0;
        int64_t high = 0;
        is_known = rd_kafka_get_watermark_offsets(client->kafka, at->topic, at->partition, &low,
                                                  &high) == RD_KAFKA_RESP_ERR_NO_ERROR;
        int64_t from = at->offset >= 0 ? at->offset : high; /* nothing was read of it yet */
        lag += is_known && high > from ? (uint64_t)(high - from) : 0;
    }
    if (is_known) {
        broker_note_lag(client->broker, lag);
    }
    rd_kafka_topic_partition_list_destroy(assigned);
}

/* Only an answer says that there is a broker. */
static void ask_broker(struct client *client, int wait_ms)
{
    const struct rd_kafka_metadata *metadata = NULL;
    rd_kafka_resp_err_t r = rd_kafka_metadata(client->kafka, 0, NULL, &metadata, wait_ms);
    client->is_connected = r == RD_KAFKA_RESP_ERR_NO_ERROR;
    if (client->is_connected) {
        rd_kafka_metadata_destroy(metadata);
        broker_note_state(client->broker, true, "%s", "");
    } else {
        broker_note_state(client->broker, false, "%s", rd_kafka_err2str(r));
    }
}

static void look(struct client *client)
{
    uint64_t now_ms = clock_monotonic_ms();
    uint64_t every_ms = client->is_connected ? LAG_EVERY_MS : RETRY_FIRST_MS;
    if (now_ms - client->looked_ms < every_ms) {
        return;
    }
    client->looked_ms = now_ms;
    if (client->is_connected) {
        note_lag(client);
    } else {
        ask_broker(client, POLL_MS);
    }
}

static void take(struct client *client, const rd_kafka_message_t *message)
{
    struct progress *progress =
        progress_of(client, rd_kafka_topic_name(message->rkt), message->partition);
    if (progress->goes_back) {
        return; /* it comes again, after what is gone back for */
    }
    if (broker_room(client->broker) > 0) {
        give(client, progress, message);
    } else { /* it was on its way when the partitions were paused */
        progress->next = message->offset;
        progress->goes_back = true;
    }
}

static void serve(struct client *client)
{
    ask_broker(client, METADATA_MS);
    while (!broker_is_stopping(client->broker)) {
        take_verdicts(client);
        commit(client, false);
        pause_when_full(client);
        rd_kafka_message_t *message = rd_kafka_consumer_poll(client->kafka, POLL_MS);
        if (message != NULL && message->err == RD_KAFKA_RESP_ERR_NO_ERROR) {
            take(client, message);
        } else if (message != NULL) {
            client->is_connected = false;
            broker_note_state(client->broker, false, "%s", rd_kafka_message_errstr(message));
        }
        if (message != NULL) {
            rd_kafka_message_destroy(message);
        }
        look(client);
    }
    take_verdicts(client);
    commit(client, true);
}

static void run(struct broker *broker)
{
    struct client client = {.broker = broker};
    uint64_t delay_ms = 0;
    list_init(&client.progress);
    slots_init(&client.slots, broker->in_flight_max);
    while (!broker_is_stopping(broker)) {
        if (begin(&client)) {
            serve(&client); /* the library connects again by itself */
        }
        if (client.kafka != NULL) {
            rd_kafka_consumer_close(client.kafka);
            rd_kafka_destroy(client.kafka);
            client.kafka = NULL;
        }
        broker_back_off(broker, &delay_ms);
    }
    slots_done(&client.slots, free);
    while (!list_is_empty(&client.progress)) {
        struct progress *progress = LIST_FIRST(&client.progress, struct progress, link);
        list_remove(&progress->link);
        free(progress->topic);
        free(progress);
    }
}

static const char *const schemes[] = {"kafka", "kafkas", NULL};
static const char *const keys[] = {"topics", "group", "start", NULL};
static const char *const needed[] = {"topics", NULL};

const struct broker_kind broker_kafka = {
    .name = "kafka", .schemes = schemes, .keys = keys, .needed = needed, .run = run};
