/*
 * The kinds redis, nats, kafka, amqp and mqtt: messages of brokers (service/broker) as events.
 *
 * A message is an event of type `blixard.KIND.message` with the broker's id, the topic (stream,
 * queue, subject) as source, the key or routing key as subject, and its fields as extensions where
 * their names allow; one whose content type is application/cloudevents+json is the event it holds.
 * Messages of one Kafka key are delivered in order.  A message is acknowledged when it was
 * delivered or given up; what the function has no room for stays the broker's.
 */
#ifndef SERVICE_TRIGGER_BROKERS_H
#define SERVICE_TRIGGER_BROKERS_H

struct loop;
struct secret_service;
struct store;
struct trigger_service;

struct trigger_brokers;

/*
 * `password_secret` names a secret of the project: it is read when a connection is opened, and the
 * connection is opened anew when the secret has changed; messages that had no answer by then come
 * again.
 */
struct trigger_brokers_options {
    struct loop *loop;
    struct store *store;
    struct secret_service *secrets;
};

/* Add the kinds that this program was built with.  Before trigger_service_start(). */
struct trigger_brokers *trigger_brokers_add(struct trigger_service *service,
                                            const struct trigger_brokers_options *options);
/* After trigger_service_free(); waits for the clients' threads, some seconds at most. */
void trigger_brokers_free(struct trigger_brokers *brokers);

#endif
