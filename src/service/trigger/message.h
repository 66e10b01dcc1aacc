/* Messages of queues, streams and brokers as events.  Private to the room. */
#ifndef SERVICE_TRIGGER_MESSAGE_H
#define SERVICE_TRIGGER_MESSAGE_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

struct event;

struct message_event {
    const char *id;
    const char *source;
    const char *type;         /* of the event */
    const char *subject;      /* or NULL */
    const char *content_type; /* or NULL */
    const void *body;
    size_t length;
    uint64_t time_ms;         /* 0: not known */
    const json_t *attributes; /* strings; or NULL */
};

/* *ret_event is filled: the event that the message is, or one around it.  Attributes become
 * extensions, in lower case and without what is neither a letter nor a digit. */
void message_to_event(const struct message_event *message, struct event *ret_event);

#endif
