/*
 * The kinds queue and stream: this cluster's own queues and streams as sources of events.
 *
 *     queue   settings: queue.  A message is acknowledged when it was delivered; one that failed
 * goes back, and to the dead-letter queue when the queue says so.  While a function runs its
 *             messages stay hidden.  Messages of one group are delivered in order.
 *     stream  settings: stream, group (the trigger's name), start: new (default) | all.  Records of
 * one key are delivered in order, those of different ones beside each other; each partition has its
 * checkpoint, behind the first record that is not answered.  The framework retries, and gives up as
 * the trigger says.
 *
 * An event is of type blixard.queue.message or blixard.stream.record, with attributes as
 * extensions; what is application/cloudevents+json is the event it holds.  Main loop thread.
 */
#ifndef SERVICE_TRIGGER_QUEUES_H
#define SERVICE_TRIGGER_QUEUES_H

struct event;
struct eventstream_service;
struct loop;
struct queue_service;
struct trigger_service;

/* Before trigger_service_start(); the services outlive the triggers. */
struct trigger_queues;
struct trigger_queues *trigger_queues_add(struct trigger_service *service, struct loop *loop,
                                          struct queue_service *queues);
void trigger_queues_free(struct trigger_queues *queues);

struct trigger_streams;
struct trigger_streams *trigger_streams_add(struct trigger_service *service, struct loop *loop,
                                            struct eventstream_service *streams);
void trigger_streams_free(struct trigger_streams *streams);

#endif
