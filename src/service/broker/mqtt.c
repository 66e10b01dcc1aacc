/*
 * MQTT 5 (OASIS, mqtt-v5.0): topic filters, also shared (4.8.2), with a session that the broker
 * keeps for a day while this client is away.
 *
 * The library acknowledges a message when it has read it, before it is given: see broker.h.
 */
#include <errno.h>
#include <inttypes.h>
#include <mosquitto.h>
#include <mqtt_protocol.h>
#include <stdio.h>
#include <string.h>

#include "base/random.h"

#include "service/broker/private.h"
#include "service/broker/slots.h"

enum {
    PORT = 1883,
    TLS_PORT = 8883,
    KEEP_ALIVE_S = 600,
    LOOP_MS = 250,
    SESSION_S = 24 * 60 * 60,
    QOS_MAX = 2,
    PACKET_BYTES_MAX = 16 << 20 /* the server keeps from us what is larger, and tells nobody */
};

struct client {
    struct broker *broker;
    struct mosquitto *mosquitto;
    struct slots slots; /* nothing, but that it is there */
    char run_id[17];
    uint64_t count;
    bool is_refused;
};

static char mark;

/* ---- Callbacks: on our thread, from mosquitto_loop() ---- */

static void on_connect(struct mosquitto *mosquitto, void *context, int code, int flags,
                       const mosquitto_property *properties)
{
    (void)flags;
    (void)properties;
    struct client *client = context;
    struct broker *broker = client->broker;
    if (code != 0) {
        client->is_refused = true;
        broker_note_state(broker, false, "%s", mosquitto_reason_string(code));
        return;
    }
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
        mosquitto_subscribe_v5(mosquitto, NULL, filter, (int)broker_number(broker, "qos", 1),
                               options, NULL);
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

static void on_message(struct mosquitto *mosquitto, void *context,
                       const struct mosquitto_message *message,
                       const mosquitto_property *properties)
{
    (void)mosquitto;
    struct client *client = context;
    struct broker *broker = client->broker;
    char id[64];
    char *type = NULL;
    json_t *fields = fields_of(properties, &type);
    if (message->retain) {
        broker_add_field(fields, "mqtt-retained", "true", 4);
    }
    while (broker_room(broker) == 0 && !broker_is_stopping(broker)) {
        uint64_t token = 0; /* the broker's packets wait in the socket meanwhile */
        bool is_acknowledged = false;
        broker_wait(broker, 1000);
        while (broker_next_verdict(broker, &token, &is_acknowledged)) {
            slots_take(&client->slots, token);
        }
    }
    if (broker_is_stopping(broker)) {
        json_decref(fields);
        free(type);
        return;
    }
    snprintf(id, sizeof(id), "%s-%" PRIu64, client->run_id, ++client->count);
    struct broker_message given = {
        .token = slots_put(&client->slots, &mark),
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
    client->is_refused = false;
    client->mosquitto = mosquitto_new(id, false, client);
    if (client->mosquitto == NULL) {
        broker_note_state(broker, false, "no memory");
        return false;
    }
    mosquitto_int_option(client->mosquitto, MOSQ_OPT_PROTOCOL_VERSION, MQTT_PROTOCOL_V5);
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
        broker_note_state(broker, false, "%s",
                          r == MOSQ_ERR_ERRNO ? strerror(errno) : mosquitto_strerror(r));
    }
    return r == MOSQ_ERR_SUCCESS;
}

static void serve(struct client *client)
{
    uint64_t token = 0;
    bool is_acknowledged = false;
    int r = MOSQ_ERR_SUCCESS;
    while (r == MOSQ_ERR_SUCCESS && !client->is_refused && !broker_is_stopping(client->broker)) {
        while (broker_next_verdict(client->broker, &token, &is_acknowledged)) {
            slots_take(&client->slots, token);
        }
        r = mosquitto_loop(client->mosquitto, LOOP_MS, 1);
    }
    if (broker_is_stopping(client->broker)) {
        mosquitto_disconnect_v5(client->mosquitto, 0, NULL);
    }
}

static void end_nothing(void *what)
{
    (void)what;
}

static void run(struct broker *broker)
{
    struct client client = {.broker = broker};
    uint64_t delay_ms = 0;
    mosquitto_lib_init();
    random_hex(client.run_id, 16);
    slots_init(&client.slots, broker->in_flight_max);
    while (!broker_is_stopping(broker)) {
        if (begin(&client)) {
            delay_ms = 0;
            serve(&client);
        }
        if (client.mosquitto != NULL) {
            mosquitto_destroy(client.mosquitto);
            client.mosquitto = NULL;
        }
        broker_back_off(broker, &delay_ms);
    }
    slots_done(&client.slots, end_nothing);
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
