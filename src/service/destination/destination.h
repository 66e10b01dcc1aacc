/*
 * Destinations: where an event goes when something has succeeded or failed.
 *
 *     function:NAME[:ALIAS]   a call of a function of the project, in CloudEvents binary mode
 *     queue:NAME              a message, a structured event
 *     stream:NAME             a record, a structured event; its key is the event's subject
 *
 * For triggers and asynchronous invocations.  `function` is there always; other schemes are added
 * by whoever has them.  Main loop thread.
 */
#ifndef SERVICE_DESTINATION_DESTINATION_H
#define SERVICE_DESTINATION_DESTINATION_H

struct destination_service;
struct error;
struct event;
struct eventstream_service;
struct gateway;
struct loop;
struct queue_service;

/* `gateway` NULL: `function` is UNAVAILABLE. */
struct destination_service *destination_service_new(struct loop *loop, struct gateway *gateway);
/* Calls under way are broken off: CANCELLED. */
void destination_service_free(struct destination_service *service);

/* error NULL: the event was accepted, durably where the destination is durable. */
typedef void destination_done(const struct error *error, void *context);

/*
 * `send` gets NAME as `name` and calls `done` later, once.  The event is lent for the call.
 */
typedef void destination_send_function(const char *project, const char *name,
                                       const struct event *event, destination_done *done,
                                       void *context, void *state);
void destination_add(struct destination_service *service, const char *scheme,
                     destination_send_function *send, void *state);

/* `queue` and `stream`. */
void destination_add_stored(struct destination_service *service, struct queue_service *queues,
                            struct eventstream_service *streams);

/* Is the text SCHEME:NAME, with a scheme that is known here?  INVALID. */
int destination_check(const struct destination_service *service, const char *text,
                      struct error *err);

/* Once; NOT_FOUND, LIMIT, UNAVAILABLE, TRAP (a function that did not answer 2xx) and the like.
 * `done` later, once. */
void destination_send(struct destination_service *service, const char *project, const char *text,
                      const struct event *event, destination_done *done, void *context);

#endif
