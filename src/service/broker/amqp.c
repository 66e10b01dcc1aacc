/*
 * AMQP 0-9-1 (RabbitMQ): consume a queue that is there, with acknowledgement and a prefetch limit
 * (AMQP 0-9-1 specification, 1.8.3).
 */
#include <amqp.h>
#include <amqp_framing.h>
#include <amqp_ssl_socket.h>
#include <amqp_tcp_socket.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/time.h>

#include "base/clock.h"
#include "base/random.h"

#include "service/broker/private.h"
#include "service/broker/slots.h"

enum {
    PORT = 5672,
    TLS_PORT = 5671,
    CHANNEL = 1,
    FRAME_BYTES = 131072,
    WAIT_MS = 250,
    HEARTBEAT_S = 0
};

struct client {
    struct broker *broker;
    amqp_connection_state_t connection;
    struct slots slots; /* delivery tags; of a connection that is gone 0 */
    amqp_bytes_t queue;
    uint64_t lag_ms;
    char run_id[17]; /* delivery tags begin anew with each connection, these do not */
    uint64_t count;
};

struct held {
    uint64_t tag;
    bool is_too_large;
};

/* ---- Connecting ---- */

static const char *why_of(amqp_rpc_reply_t reply)
{
    if (reply.reply_type == AMQP_RESPONSE_LIBRARY_EXCEPTION) {
        return amqp_error_string2(reply.library_error);
    }
    if (reply.reply_type == AMQP_RESPONSE_SERVER_EXCEPTION) {
        if (reply.reply.id == AMQP_CHANNEL_CLOSE_METHOD) {
            return ((amqp_channel_close_t *)reply.reply.decoded)->reply_text.bytes;
        }
        if (reply.reply.id == AMQP_CONNECTION_CLOSE_METHOD) {
            return ((amqp_connection_close_t *)reply.reply.decoded)->reply_text.bytes;
        }
    }
    return reply.reply_type == AMQP_RESPONSE_NORMAL ? NULL : "the broker said no";
}

static bool good(struct client *client, amqp_rpc_reply_t reply, const char *what)
{
    const char *why = why_of(reply);
    if (why != NULL) {
        broker_note_state(client->broker, false, "%s: %.120s", what, why);
    }
    return why == NULL;
}

static bool open_socket(struct client *client, const struct broker_url *url)
{
    bool is_tls = strcmp(url->scheme, "amqps") == 0;
    struct timeval patience = {.tv_sec = 5};
    amqp_socket_t *socket =
        is_tls ? amqp_ssl_socket_new(client->connection) : amqp_tcp_socket_new(client->connection);
    if (socket == NULL) {
        broker_note_state(client->broker, false, "no memory");
        return false;
    }
    if (is_tls) {
        amqp_ssl_socket_set_verify_peer(socket, 1);
        amqp_ssl_socket_set_verify_hostname(socket, 1);
        amqp_ssl_socket_set_cacert(socket, "/etc/ssl/certs/ca-certificates.crt");
    }
    int port = (int)(url->port != 0 ? url->port : is_tls ? TLS_PORT : PORT);
    int r = amqp_socket_open_noblock(socket, url->host, port, &patience);
    if (r != AMQP_STATUS_OK) {
        broker_note_unreached(client->broker, url, port, amqp_error_string2(r));
    }
    return r == AMQP_STATUS_OK;
}

static bool begin(struct client *client)
{
    struct broker *broker = client->broker;
    struct broker_url url;
    struct error err = {0};
    struct timeval patience = {.tv_sec = 10};
    broker_url_parse(broker_text(broker, "url", ""), &url, &err);
    client->connection = amqp_new_connection();
    amqp_set_rpc_timeout(client->connection, &patience);
    if (!open_socket(client, &url)) {
        return false;
    }
    amqp_rpc_reply_t reply = amqp_login(client->connection, url.path[0] != '\0' ? url.path : "/", 0,
                                        FRAME_BYTES, HEARTBEAT_S, AMQP_SASL_METHOD_PLAIN,
                                        broker->username != NULL ? broker->username : "guest",
                                        broker->password != NULL ? broker->password : "guest");
    if (!good(client, reply, "logging in")) {
        return false;
    }
    amqp_channel_open(client->connection, CHANNEL);
    if (!good(client, amqp_get_rpc_reply(client->connection), "opening a channel")) {
        return false;
    }
    amqp_basic_qos(client->connection, CHANNEL, 0, (uint16_t)broker->in_flight_max, 0);
    if (!good(client, amqp_get_rpc_reply(client->connection), "limiting what is under way")) {
        return false;
    }
    amqp_basic_consume(client->connection, CHANNEL, client->queue, amqp_cstring_bytes(broker->name),
                       0, 0, 0, amqp_empty_table);
    return good(client, amqp_get_rpc_reply(client->connection), "consuming the queue");
}

/* ---- Messages ---- */

static void add_header(json_t *fields, const amqp_table_entry_t *entry)
{
    char name[128];
    char number[32];
    if (entry->key.len >= sizeof(name)) {
        return;
    }
    memcpy(name, entry->key.bytes, entry->key.len);
    name[entry->key.len] = '\0';
    switch (entry->value.kind) {
    case AMQP_FIELD_KIND_UTF8:
        broker_add_field(fields, name, entry->value.value.bytes.bytes,
                         entry->value.value.bytes.len);
        return;
    case AMQP_FIELD_KIND_BOOLEAN:
        snprintf(number, sizeof(number), "%s", entry->value.value.boolean ? "true" : "false");
        break;
    case AMQP_FIELD_KIND_I32:
        snprintf(number, sizeof(number), "%" PRId32, entry->value.value.i32);
        break;
    case AMQP_FIELD_KIND_I64:
        snprintf(number, sizeof(number), "%" PRId64, entry->value.value.i64);
        break;
    default:
        return;
    }
    broker_add_field(fields, name, number, strlen(number));
}

static char *text_copy(amqp_bytes_t bytes)
{
    return memory_copy_text(bytes.bytes != NULL ? bytes.bytes : "", bytes.len);
}

static void give(struct client *client, const amqp_envelope_t *envelope)
{
    const amqp_basic_properties_t *facts = &envelope->message.properties;
    json_t *fields = json_object();
    MEMORY_OWNED char *key = text_copy(envelope->routing_key);
    MEMORY_OWNED char *type =
        facts->_flags & AMQP_BASIC_CONTENT_TYPE_FLAG ? text_copy(facts->content_type) : NULL;
    MEMORY_OWNED char *own_id =
        facts->_flags & AMQP_BASIC_MESSAGE_ID_FLAG ? text_copy(facts->message_id) : NULL;
    MEMORY_OWNED char *id = own_id != NULL && own_id[0] != '\0'
        ? memory_copy_string(own_id)
        : memory_format("%s-%" PRIu64, client->run_id, ++client->count);
    if (facts->_flags & AMQP_BASIC_HEADERS_FLAG) {
        for (int i = 0; i < facts->headers.num_entries; i++) {
            add_header(fields, &facts->headers.entries[i]);
        }
    }
    if (facts->_flags & AMQP_BASIC_CORRELATION_ID_FLAG) {
        broker_add_field(fields, "correlation-id", facts->correlation_id.bytes,
                         facts->correlation_id.len);
    }
    struct held *held = NEW(struct held);
    held->tag = envelope->delivery_tag;
    struct broker_message message = {
        .token = slots_put(&client->slots, held),
        .id = id,
        .source = broker_text(client->broker, "queue", ""),
        .subject = key,
        .type = type,
        .body = envelope->message.body.bytes,
        .length = envelope->message.body.len,
        .time_ms = facts->_flags & AMQP_BASIC_TIMESTAMP_FLAG ? facts->timestamp * 1000 : 0,
        .deliveries = envelope->redelivered ? 2 : 1,
    };
    held->is_too_large = message.length > BROKER_BODY_BYTES_MAX;
    broker_give(client->broker, &message, fields);
}

static void take_verdicts(struct client *client)
{
    uint64_t token = 0;
    bool is_acknowledged = false;
    while (broker_next_verdict(client->broker, &token, &is_acknowledged)) {
        struct held *held = slots_take(&client->slots, token);
        if (held->tag != 0 && client->connection != NULL && is_acknowledged && held->is_too_large) {
            amqp_basic_reject(client->connection, CHANNEL, held->tag, 0); /* to its dead letters */
        } else if (held->tag != 0 && client->connection != NULL && is_acknowledged) {
            amqp_basic_ack(client->connection, CHANNEL, held->tag, 0);
        } else if (held->tag != 0 && client->connection != NULL) {
            amqp_basic_nack(client->connection, CHANNEL, held->tag, 0, 1);
        }
        free(held);
    }
}

static bool note_lag(struct client *client)
{
    uint64_t now_ms = clock_monotonic_ms();
    if (now_ms - client->lag_ms < LAG_EVERY_MS) {
        return true;
    }
    client->lag_ms = now_ms;
    amqp_queue_declare_ok_t *facts = amqp_queue_declare(client->connection, CHANNEL, client->queue,
                                                        1, 0, 0, 0, amqp_empty_table);
    if (facts != NULL) {
        broker_note_lag(client->broker, facts->message_count);
    }
    return good(client, amqp_get_rpc_reply(client->connection), "asking for the queue's length");
}

/* A frame that is no message: the channel or the connection was closed, or a consumer cancelled. */
static bool take_other(struct client *client)
{
    amqp_frame_t frame;
    struct timeval none = {0};
    int r = amqp_simple_wait_frame_noblock(client->connection, &frame, &none);
    if (r == AMQP_STATUS_TIMEOUT) {
        return true;
    }
    bool is_close = r != AMQP_STATUS_OK ||
        (frame.frame_type == AMQP_FRAME_METHOD && frame.payload.method.id != AMQP_BASIC_ACK_METHOD);
    if (is_close) {
        broker_note_state(client->broker, false, "the broker closed the channel");
    }
    return !is_close;
}

static bool take_one(struct client *client)
{
    amqp_envelope_t envelope;
    struct timeval patience = {.tv_usec = WAIT_MS * 1000};
    amqp_maybe_release_buffers(client->connection);
    amqp_rpc_reply_t reply = amqp_consume_message(client->connection, &envelope, &patience, 0);
    if (reply.reply_type == AMQP_RESPONSE_NORMAL) {
        give(client, &envelope);
        amqp_destroy_envelope(&envelope);
        return true;
    }
    if (reply.reply_type == AMQP_RESPONSE_LIBRARY_EXCEPTION &&
        reply.library_error == AMQP_STATUS_TIMEOUT) {
        return note_lag(client);
    }
    if (reply.reply_type == AMQP_RESPONSE_LIBRARY_EXCEPTION &&
        reply.library_error == AMQP_STATUS_UNEXPECTED_STATE) {
        return take_other(client);
    }
    return good(client, reply, "consuming");
}

static void serve(struct client *client)
{
    bool is_good = true;
    while (is_good && !broker_is_stopping(client->broker)) {
        take_verdicts(client);
        if (broker_room(client->broker) == 0) {
            broker_wait(client->broker, 1000);
        } else {
            is_good = take_one(client);
        }
    }
    take_verdicts(client);
}

static void end(struct client *client)
{
    for (unsigned i = 0; i < client->slots.size; i++) {
        struct held *held = client->slots.held[i];
        if (held != NULL) {
            held->tag = 0; /* tags are of a channel */
        }
    }
    if (client->connection != NULL) {
        amqp_destroy_connection(client->connection);
        client->connection = NULL;
    }
}

static void run(struct broker *broker)
{
    struct client client = {.broker = broker,
                            .queue = amqp_cstring_bytes(broker_text(broker, "queue", ""))};
    uint64_t delay_ms = 0;
    slots_init(&client.slots, broker->in_flight_max);
    random_hex(client.run_id, 16);
    while (!broker_is_stopping(broker)) {
        if (begin(&client)) {
            broker_note_state(broker, true, "%s", "");
            delay_ms = 0;
            serve(&client);
        }
        end(&client);
        broker_back_off(broker, &delay_ms);
        take_verdicts(&client);
    }
    slots_done(&client.slots, free);
}

static const char *const schemes[] = {"amqp", "amqps", NULL};
static const char *const keys[] = {"queue", NULL};
static const char *const needed[] = {"queue", NULL};

const struct broker_kind broker_amqp = {
    .name = "amqp", .schemes = schemes, .keys = keys, .needed = needed, .run = run};
