/*
 * MQTT 5 (OASIS, mqtt-v5.0): topic filters, also shared (4.8.2), with a session that the broker
 * keeps for a day while this client is away.
 *
 * The library acknowledges a message as it reads it, before anybody has it.  But a library that is
 * told that threads use it only puts what it has to say into a queue, for mosquitto_loop_write(),
 * which is not called while one of the messages that were read has no good answer: then all of
 * them are acknowledged together.  The broker sends no more than that meanwhile (receive maximum),
 * and what was not acknowledged it sends again to the next connection.
 *
 * What cannot wait for the queue is written past it: pings, and, at the end, an acknowledgement
 * each for those that were answered beside others that were not.
 *
 * Subscriptions are of QoS 1 at most.  With QoS 2 a message comes to light only when the library
 * has said that it keeps it (PUBREC), and what it keeps ends with the process.
 */
#include <errno.h>
#include <inttypes.h>
#include <mosquitto.h>
#include <mqtt_protocol.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "base/buffer.h"
#include "base/clock.h"
#include "base/memory.h"
#include "base/random.h"

#include "service/broker/private.h"

enum {
    PORT = 1883,
    TLS_PORT = 8883,
    KEEP_ALIVE_S = 60,
    LEAVE_MS = 1000,
    SESSION_S = 24 * 60 * 60,
    QOS_MAX = 2,
    QOS_HELD_MAX = 1,
    UNHELD = UINT16_MAX, /* the place of a message that is not acknowledged; no place is so high */
    PACKET_BYTES_MAX = 16 << 20 /* the server keeps from us what is larger, and tells nobody */
};

enum answer { ANSWER_NONE, ANSWER_ACKNOWLEDGED, ANSWER_RELEASED };

/* One that is to be acknowledged. */
struct held {
    uint16_t id; /* its packet's */
    enum answer answer;
};

struct client {
    struct broker *broker;
    struct mosquitto *mosquitto;
    uint64_t connection; /* which one: a token is of one connection alone */
    struct held *held;   /* as they came, since acknowledgements were last written */
    unsigned count;
    unsigned open;     /* of them have no answer */
    bool has_released; /* one, so that this connection acknowledges no more */
    bool is_writing;   /* a part of what is queued has been written */
    bool has_heard;    /* from the broker, since the last ping */
    uint64_t ping_ms;  /* when the next one is due */
    uint64_t ping_every_ms;
    char run_id[17];
    uint64_t message_count;
    bool is_subscribed;
    bool is_refused;
};

/* ---- Answers ---- */

static uint64_t token_of(const struct client *client, unsigned place)
{
    return client->connection << 16 | place;
}

static void answer(struct client *client, uint64_t place, enum answer what)
{
    if (place < client->count) {
        client->held[place].answer = what;
        client->has_released = client->has_released || what == ANSWER_RELEASED;
        client->open--;
    }
}

static void take_verdicts(struct client *client)
{
    uint64_t token = 0;
    bool is_acknowledged = false;
    while (broker_next_verdict(client->broker, &token, &is_acknowledged)) {
        if (token >> 16 == client->connection) { /* else the broker sends it again */
            answer(client, token & UINT16_MAX,
                   is_acknowledged ? ANSWER_ACKNOWLEDGED : ANSWER_RELEASED);
        }
    }
}

/* Past the library's queue: between its packets. */
static bool write_past(struct client *client, const void *data, size_t length)
{
    SSL *ssl = mosquitto_ssl_get(client->mosquitto);
    if (client->is_writing) {
        return false;
    }
    return ssl != NULL
        ? SSL_write(ssl, data, (int)length) == (int)length
        : send(mosquitto_socket(client->mosquitto), data, length, MSG_NOSIGNAL) == (ssize_t)length;
}

/* All that is queued, if all that it acknowledges is answered well. */
static bool write_queued(struct client *client)
{
    if (client->open > 0 || client->has_released) {
        return true;
    }
    if (mosquitto_want_write(client->mosquitto) &&
        mosquitto_loop_write(client->mosquitto, 1) != MOSQ_ERR_SUCCESS) {
        return false;
    }
    client->is_writing = mosquitto_want_write(client->mosquitto);
    client->count = client->is_writing ? client->count : 0;
    return true;
}

/* A broker that lives has answered the last ping. */
static bool ping(struct client *client)
{
    static const uint8_t request[] = {CMD_PINGREQ, 0};
    struct pollfd fd = {.fd = mosquitto_socket(client->mosquitto), .events = POLLIN};
    uint64_t now_ms = clock_monotonic_ms();
    if (now_ms < client->ping_ms) {
        return true;
    }
    if (!client->has_heard && poll(&fd, 1, 0) == 0) {
        broker_note_state(client->broker, false, "the broker does not answer");
        return false;
    }
    client->has_heard = false;
    client->ping_ms = now_ms + client->ping_every_ms;
    return client->is_writing || write_past(client, request, sizeof(request));
}

/* ---- Callbacks: on our thread, from mosquitto_loop_read() ---- */

static void on_connect(struct mosquitto *mosquitto, void *context, int code, int flags,
                       const mosquitto_property *properties)
{
    (void)flags;
    struct client *client = context;
    struct broker *broker = client->broker;
    uint16_t keep_alive_s = 0;
    if (code != 0) {
        client->is_refused = true;
        broker_note_state(broker, false, "%s", mosquitto_reason_string(code));
        return;
    }
    mosquitto_property_read_int16(properties, MQTT_PROP_SERVER_KEEP_ALIVE, &keep_alive_s, false);
    if (keep_alive_s > 0) {
        client->ping_every_ms = (uint64_t)keep_alive_s * 1000 / 2;
        client->ping_ms = clock_monotonic_ms() + client->ping_every_ms;
    }
    const uint64_t qos = broker_number(broker, "qos", QOS_HELD_MAX);
    const json_t *retained = json_object_get(broker->settings, "retained");
    int options =
        json_is_true(retained) ? MQTT_SUB_OPT_RETAIN_AS_PUBLISHED : MQTT_SUB_OPT_SEND_RETAIN_NEVER;
    const char *shared = broker_text(broker, "shared", NULL);
    size_t i = 0;
    json_t *topic = NULL;
    json_array_foreach(json_object_get(broker->settings, "topics"), i, topic)
    {
        MEMORY_OWNED char *filter = shared != NULL
            ? memory_format("$share/%s/%s", shared, json_string_value(topic))
            : memory_copy_string(json_string_value(topic));
        mosquitto_subscribe_v5(mosquitto, NULL, filter,
                               qos < QOS_HELD_MAX ? (int)qos : QOS_HELD_MAX, options, NULL);
    }
}

static void on_subscribe(struct mosquitto *mosquitto, void *context, int id, int count,
                         const int *granted, const mosquitto_property *properties)
{
    (void)mosquitto;
    (void)id;
    (void)properties;
    struct client *client = context;
    for (int i = 0; i < count; i++) {
        if (granted[i] > QOS_MAX) {
            client->is_refused = true;
            broker_note_state(client->broker, false, "a subscription was refused: %s",
                              mosquitto_reason_string(granted[i]));
            return;
        }
    }
    client->is_subscribed = true;
    broker_note_state(client->broker, true, "%s", "");
}

static void on_disconnect(struct mosquitto *mosquitto, void *context, int code,
                          const mosquitto_property *properties)
{
    (void)mosquitto;
    (void)properties;
    struct client *client = context;
    if (code != 0 && !client->is_refused) {
        broker_note_state(client->broker, false, "the connection was lost");
    }
}

static json_t *fields_of(const mosquitto_property *properties, char **ret_type)
{
    json_t *fields = json_object();
    char *name = NULL;
    char *value = NULL;
    bool skips = false;
    const mosquitto_property *at = properties;
    mosquitto_property_read_string(properties, MQTT_PROP_CONTENT_TYPE, ret_type, false);
    while ((at = mosquitto_property_read_string_pair(at, MQTT_PROP_USER_PROPERTY, &name, &value,
                                                     skips)) != NULL) {
        broker_add_field(fields, name, value, strlen(value));
        free(name);
        free(value);
        skips = true;
    }
    return fields;
}

/* Where it stands among those that are held; false: the broker sends too many. */
static bool hold(struct client *client, const struct mosquitto_message *message,
                 unsigned *ret_place)
{
    *ret_place = UNHELD;
    if (message->qos != QOS_HELD_MAX) {
        return true;
    }
    if (client->count == client->broker->in_flight_max) {
        broker_note_state(client->broker, false, "the broker sends more than it may");
        client->is_refused = true;
        return false;
    }
    client->held[client->count] = (struct held){.id = (uint16_t)message->mid};
    client->open++;
    *ret_place = client->count++;
    return true;
}

/* A session keeps filters that the settings had once: which, only the broker knows. */
static bool is_asked_for(const struct client *client, const char *topic)
{
    size_t i = 0;
    json_t *filter = NULL;
    json_array_foreach(json_object_get(client->broker->settings, "topics"), i, filter)
    {
        bool matches = false;
        mosquitto_topic_matches_sub(json_string_value(filter), topic, &matches);
        if (matches) {
            return true;
        }
    }
    return false;
}

static void on_message(struct mosquitto *mosquitto, void *context,
                       const struct mosquitto_message *message,
                       const mosquitto_property *properties)
{
    (void)mosquitto;
    struct client *client = context;
    struct broker *broker = client->broker;
    char id[64];
    char *type = NULL;
    unsigned place = 0;
    if (!hold(client, message, &place)) {
        client->has_released = true;
        return;
    }
    if (!is_asked_for(client, message->topic)) {
        answer(client, place, ANSWER_ACKNOWLEDGED);
        return;
    }
    while (broker_room(broker) == 0 && !broker_is_stopping(broker)) {
        broker_wait(broker,
                    client->ping_every_ms); /* it came with another, or with the connection */
        take_verdicts(client);
        ping(client);
    }
    if (broker_is_stopping(broker)) {
        return; /* it stays without an answer */
    }
    json_t *fields = fields_of(properties, &type);
    if (message->retain) {
        broker_add_field(fields, "mqtt-retained", "true", 4);
    }
    snprintf(id, sizeof(id), "%s-%" PRIu64, client->run_id, ++client->message_count);
    struct broker_message given = {
        .token = token_of(client, place),
        .id = id,
        .source = message->topic,
        .subject = message->topic,
        .type = type,
        .body = message->payload,
        .length = (size_t)message->payloadlen,
    };
    broker_give(broker, &given, fields);
    free(type);
}

/* ---- Life ---- */

static bool begin(struct client *client)
{
    struct broker *broker = client->broker;
    struct broker_url url;
    struct error err = {0};
    broker_url_parse(broker_text(broker, "url", ""), &url, &err);
    bool is_tls = strcmp(url.scheme, "mqtts") == 0;
    MEMORY_OWNED char *id = memory_copy_string(broker_text(broker, "client_id", broker->name));
    client->connection++;
    client->count = client->open = 0;
    client->has_released = client->is_writing = client->has_heard = false;
    client->is_subscribed = client->is_refused = false;
    client->ping_every_ms = KEEP_ALIVE_S * 1000 / 2;
    client->ping_ms = clock_monotonic_ms() + client->ping_every_ms;
    client->mosquitto = mosquitto_new(id, false, client);
    if (client->mosquitto == NULL) {
        broker_note_state(broker, false, "no memory");
        return false;
    }
    mosquitto_int_option(client->mosquitto, MOSQ_OPT_PROTOCOL_VERSION, MQTT_PROTOCOL_V5);
    mosquitto_threaded_set(client->mosquitto, true); /* it writes only when it is told to */
    mosquitto_connect_v5_callback_set(client->mosquitto, on_connect);
    mosquitto_subscribe_v5_callback_set(client->mosquitto, on_subscribe);
    mosquitto_disconnect_v5_callback_set(client->mosquitto, on_disconnect);
    mosquitto_message_v5_callback_set(client->mosquitto, on_message);
    if (broker->username != NULL) {
        mosquitto_username_pw_set(client->mosquitto, broker->username, broker->password);
    }
    if (is_tls) {
        mosquitto_tls_set(client->mosquitto, NULL, "/etc/ssl/certs", NULL, NULL, NULL);
    }
    mosquitto_property *properties = NULL;
    mosquitto_property_add_int32(&properties, MQTT_PROP_SESSION_EXPIRY_INTERVAL, SESSION_S);
    mosquitto_property_add_int16(&properties, MQTT_PROP_RECEIVE_MAXIMUM,
                                 (uint16_t)broker->in_flight_max);
    mosquitto_property_add_int32(&properties, MQTT_PROP_MAXIMUM_PACKET_SIZE, PACKET_BYTES_MAX);
    int port = (int)(url.port != 0 ? url.port : is_tls ? TLS_PORT : PORT);
    int r = mosquitto_connect_bind_v5(client->mosquitto, url.host, port, KEEP_ALIVE_S, NULL,
                                      properties);
    mosquitto_property_free_all(&properties);
    if (r != MOSQ_ERR_SUCCESS) {
        broker_note_unreached(broker, &url, port,
                              r == MOSQ_ERR_ERRNO     ? strerror(errno)
                                  : r == MOSQ_ERR_EAI ? "there is no such host"
                                                      : mosquitto_strerror(r));
    }
    return r == MOSQ_ERR_SUCCESS;
}

/* What the socket is waited for. */
static short wanted(const struct client *client)
{
    if (client->is_writing) {
        return POLLOUT;
    }
    bool has_place = client->count < client->broker->in_flight_max && !client->has_released;
    bool has_room = !client->is_subscribed || broker_room(client->broker) > 0;
    return has_place && has_room ? POLLIN : 0;
}

/* A connection that has given one back goes when the others are answered and there is room: so the
 * broker sends that one again. */
static bool is_at_end(const struct client *client)
{
    return client->has_released && client->open == 0 && broker_room(client->broker) > 0;
}

static bool wait_and_read(struct client *client)
{
    int socket = mosquitto_socket(client->mosquitto);
    short events = wanted(client);
    uint64_t now_ms = clock_monotonic_ms();
    uint64_t wait_ms = client->ping_ms > now_ms ? client->ping_ms - now_ms : 0;
    short ready =
        socket >= 0 ? broker_wait_socket(client->broker, socket, events, wait_ms) : POLLHUP;
    if (ready == 0 || ready == POLLOUT) {
        return true;
    }
    if (socket < 0 || events != POLLIN) { /* no message is lost that was not read */
        broker_note_state(client->broker, false, "the connection was lost");
        return false;
    }
    client->has_heard = true;
    return mosquitto_loop_read(client->mosquitto, 1) == MOSQ_ERR_SUCCESS;
}

static void serve(struct client *client)
{
    bool is_good = true;
    while (is_good && !client->is_refused && !broker_is_stopping(client->broker)) {
        take_verdicts(client);
        is_good =
            write_queued(client) && ping(client) && !is_at_end(client) && wait_and_read(client);
    }
    take_verdicts(client);
}

/* The broker ends a connection when it has read our end of it.  Were it ended here while the broker
 * still sends, the broker would not read the last of what it was told. */
static void await_end(int socket)
{
    struct pollfd fd = {.fd = socket, .events = POLLIN};
    char unread[4096];
    uint64_t end_ms = clock_monotonic_ms() + LEAVE_MS;
    uint64_t now_ms = 0;
    shutdown(socket, SHUT_WR);
    while ((now_ms = clock_monotonic_ms()) < end_ms && poll(&fd, 1, (int)(end_ms - now_ms)) > 0 &&
           recv(socket, unread, sizeof(unread), 0) > 0) {
    }
}

/* Acknowledge what was answered well and is not told of yet, each by itself. */
static void leave(struct client *client)
{
    static const uint8_t disconnect[] = {CMD_DISCONNECT, 0};
    BUFFER_OWNED struct buffer last = {0};
    for (unsigned i = 0; i < client->count; i++) {
        const struct held *held = &client->held[i];
        const uint8_t packet[] = {CMD_PUBACK, 2, (uint8_t)(held->id >> 8), (uint8_t)held->id};
        if (held->answer == ANSWER_ACKNOWLEDGED) {
            buffer_append(&last, packet, sizeof(packet));
        }
    }
    buffer_append(&last, disconnect, sizeof(disconnect));
    int socket = mosquitto_socket(client->mosquitto);
    if (socket >= 0 && write_past(client, last.data, last.used)) {
        await_end(socket);
    }
}

static void run(struct broker *broker)
{
    struct client client = {.broker = broker};
    uint64_t delay_ms = 0;
    mosquitto_lib_init();
    random_hex(client.run_id, 16);
    client.held = memory_new(broker->in_flight_max, sizeof(*client.held));
    while (!broker_is_stopping(broker)) {
        if (begin(&client)) {
            delay_ms = 0;
            serve(&client);
            leave(&client);
        }
        if (client.mosquitto != NULL) {
            mosquitto_destroy(client.mosquitto);
            client.mosquitto = NULL;
        }
        broker_back_off(broker, &delay_ms);
    }
    free(client.held);
    mosquitto_lib_cleanup();
}

static int check(const json_t *settings, struct error *err)
{
    size_t i = 0;
    json_t *topic = NULL;
    if (json_integer_value(json_object_get(settings, "qos")) > QOS_MAX) {
        return error_set(err, ERROR_INVALID, "qos must be 0, 1 or 2");
    }
    json_array_foreach(json_object_get(settings, "topics"), i, topic)
    {
        if (mosquitto_sub_topic_check(json_string_value(topic)) != MOSQ_ERR_SUCCESS) {
            return error_set(err, ERROR_INVALID, "\"%.80s\" is no topic filter",
                             json_string_value(topic));
        }
    }
    const char *shared = json_string_value(json_object_get(settings, "shared"));
    return shared == NULL || strpbrk(shared, "/+#") == NULL
        ? 0
        : error_set(err, ERROR_INVALID, "shared \"%.40s\" has one of / + #", shared);
}

static const char *const schemes[] = {"mqtt", "mqtts", NULL};
static const char *const keys[] = {"topics", "qos", "shared", "retained", "client_id", NULL};
static const char *const needed[] = {"topics", NULL};

const struct broker_kind broker_mqtt = {
    .name = "mqtt", .schemes = schemes, .keys = keys, .needed = needed, .check = check, .run = run};
