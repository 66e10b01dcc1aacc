/* Queues and streams as destinations: a structured event is a message or a record. */
#include <string.h>

#include "base/buffer.h"
#include "base/memory.h"

#include "service/destination/destination.h"
#include "service/event/event.h"
#include "service/eventstream/eventstream.h"
#include "service/queue/queue.h"

struct sending {
    destination_done *done;
    void *context;
};

static struct sending *sending_new(destination_done *done, void *context)
{
    struct sending *sending = NEW(struct sending);
    *sending = (struct sending){done, context};
    return sending;
}

static void sending_end(struct sending *sending, const struct error *error)
{
    struct sending ended = *sending;
    free(sending);
    ended.done(error, ended.context);
}

/* The trace goes on where the message is taken; the caller's to free, or NULL. */
static char *attributes_of(const struct event *event)
{
    const char *parent = event_get(event, "traceparent");
    json_t *attributes = parent != NULL ? json_pack("{s:s}", "traceparent", parent) : NULL;
    char *text = attributes != NULL ? json_dumps(attributes, JSON_COMPACT) : NULL;
    json_decref(attributes);
    return text;
}

static void on_queued(const struct error *error, const struct queue_sent *sent, size_t count,
                      void *context)
{
    (void)sent;
    (void)count;
    sending_end(context, error);
}

static void send_to_queue(const char *project, const char *name, const struct event *event,
                          destination_done *done, void *context, void *state)
{
    BUFFER_OWNED struct buffer body = {0};
    MEMORY_OWNED char *attributes = attributes_of(event);
    event_write(event, &body);
    const struct queue_outgoing message = {
        .body = body.data,
        .length = body.used,
        .content_type = EVENT_TYPE_STRUCTURED,
        .attributes = attributes,
        .delay_ms = QUEUE_DEFAULT,
    };
    queue_send(state, project, name, &message, 1, on_queued, sending_new(done, context));
}

static void on_appended(const struct error *error, const struct eventstream_place *places,
                        size_t count, void *context)
{
    (void)places;
    (void)count;
    sending_end(context, error);
}

/* What is about one thing stays in order. */
static void send_to_stream(const char *project, const char *name, const struct event *event,
                           destination_done *done, void *context, void *state)
{
    BUFFER_OWNED struct buffer body = {0};
    MEMORY_OWNED char *attributes = attributes_of(event);
    const char *subject = event_get(event, "subject");
    event_write(event, &body);
    const struct eventstream_outgoing record = {
        .body = body.data,
        .length = body.used,
        .key = subject != NULL && strlen(subject) < EVENTSTREAM_KEY_MAX ? subject : NULL,
        .content_type = EVENT_TYPE_STRUCTURED,
        .attributes = attributes,
    };
    eventstream_append(state, project, name, &record, 1, on_appended, sending_new(done, context));
}

void destination_add_stored(struct destination_service *service, struct queue_service *queues,
                            struct eventstream_service *streams)
{
    destination_add(service, "queue", send_to_queue, queues);
    destination_add(service, "stream", send_to_stream, streams);
}
