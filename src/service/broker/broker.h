/*
 * Message brokers of others: take messages and acknowledge them.
 *
 *     redis   Redis Streams, a consumer group        libhiredis
 *     nats    NATS JetStream, a durable consumer     libnats
 *     kafka   Apache Kafka, a consumer group         librdkafka
 *     amqp    AMQP 0-9-1 (RabbitMQ), a queue         librabbitmq
 *     mqtt    MQTT 5, topic filters                  libmosquitto
 *
 * A broker that cannot be reached, or dies, is tried again for ever, at most 30 s apart; what was
 * not acknowledged is delivered again by it.  So a message is delivered at least once; one of MQTT
 * that comes with QoS 0, at most once.  MQTT's are acknowledged together, when all that were taken
 * are handled: beside one that takes long no more come than may be in flight.
 *
 * All calls on the loop's thread, which gets the events; the libraries' threads stay inside.  What
 * brokers send is input: sizes are bounded, texts checked.
 */
#ifndef SERVICE_BROKER_BROKER_H
#define SERVICE_BROKER_BROKER_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct broker;
struct error;
struct loop;

enum {
    BROKER_BODY_BYTES_MAX = 1 << 20, /* a larger one is told without it */
    BROKER_IN_FLIGHT_MAX = 10000,
};

/* Is it one of the kinds above, and compiled in? */
bool broker_kind_is_known(const char *kind);
bool broker_kind_is_here(const char *kind);

/*
 * The settings of a kind, an object:
 *
 *     all     url (without a password), in_flight: most messages that are not acknowledged (100)
 *     redis   redis://HOST:PORT/DB or unix:/PATH; stream, group ("blixard"), start: new | all,
 *             claim_after_ms: a message that another consumer has had so long is taken over (60000)
 *     nats    nats://HOST:PORT or tls://; subject, stream, durable ("blixard"), start: new | all,
 *             ack_wait_ms (60000)
 *     kafka   kafka://HOST:PORT,HOST:PORT or kafkas:// (TLS); topics: [NAME], group ("blixard"),
 *             start: new | all
 *     amqp    amqp://HOST:PORT/VHOST or amqps://; queue, which is there
 *     mqtt    mqtt://HOST:PORT or mqtts://; topics: [FILTER], qos (1; 2 is as 1), shared: group of
 *             subscribers that share the messages, retained: true: take retained messages (false),
 *             client_id (made of the name)
 *
 * INVALID names the key; UNSUPPORTED: this program was built without the library.
 */
int broker_check(const char *kind, const json_t *settings, struct error *err);

struct broker_message {
    uint64_t token; /* for the answer */
    const char *id; /* as the broker names it; the same when it is delivered again; mqtt and amqp
                     * without a message-id have none: one for each delivery */
    const char *source;   /* topic, stream, queue, subject */
    const char *subject;  /* of the message: key, topic, routing key; or NULL */
    const char *type;     /* content type, or NULL */
    const json_t *fields; /* headers, properties: strings; or NULL */
    const void *body;
    size_t length;
    size_t refused_bytes; /* how long the body was that is too large and not here, or 0 */
    uint64_t time_ms;     /* when it was sent; 0: not known */
    unsigned deliveries;  /* this one counted; 0: not known */
};

struct broker_events {
    /* A message, lent; answer it with broker_acknowledge() or broker_release(), at any time. */
    void (*on_message)(const struct broker_message *message, void *context);
    /* Connected, or why not (lent).  Only changes are told. */
    void (*on_state)(bool is_connected, const char *reason, void *context);
};

struct broker_options {
    const char *kind;
    const json_t *settings; /* checked; copied */
    const char *name;       /* this consumer among others of its group: stays the same */
    const char *username;   /* or NULL; copied, as is the next */
    const char *password;
};

/* Begin to connect.  Fails as broker_check(). */
int broker_open(struct loop *loop, const struct broker_options *options,
                const struct broker_events *events, void *context, struct broker **ret_broker,
                struct error *err);

/* No event comes after it; messages that were not answered are the broker's again.  Accepts NULL.
 */
void broker_close(struct broker *broker);

/* Wait until the threads of all that were closed have ended, which takes some seconds where a
 * server does not answer: before their loop is freed. */
void broker_settle(void);

/* It was handled: the broker may forget it. */
void broker_acknowledge(struct broker *broker, uint64_t token);

/* It was not: the broker delivers it again, sooner or later. */
void broker_release(struct broker *broker, uint64_t token);

/* While paused no new messages are asked for; some may be on their way. */
void broker_pause(struct broker *broker);
void broker_resume(struct broker *broker);

struct broker_status {
    bool is_connected;
    char reason[160]; /* why not, or "" */
    uint64_t taken;   /* messages */
    bool knows_lag;
    uint64_t lag; /* messages that are waiting at the broker, some seconds ago */
};
void broker_status(const struct broker *broker, struct broker_status *ret_status);

#endif
