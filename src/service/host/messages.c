/* Messages to queues and records to streams of the project.  The trace goes with them. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/buffer.h"
#include "base/json.h"
#include "base/memory.h"

#include "service/eventstream/eventstream.h"
#include "service/host/private.h"
#include "service/queue/queue.h"

/* What both have. */
struct message {
    char *name;
    char *key; /* of a record; group of a message */
    char *type;
    char *attributes;
};

static void message_done(struct message *message)
{
    free(message->name);
    free(message->key);
    free(message->type);
    free(message->attributes);
}

/* The attributes with the traceparent, when there is one and they do not have one. */
static int add_trace(const struct session *session, struct message *message, struct error *err)
{
    struct trace_context trace = session_trace(session);
    char traceparent[TRACE_PARENT_SIZE];
    JSON_OWNED json_t *all = NULL;
    const char *given = message->attributes[0] != '\0' ? message->attributes : "{}";
    int r = json_read(given, strlen(given), &all, err);
    if (r < 0 || !json_is_object(all)) {
        return error_set(err, ERROR_INVALID, "the attributes are no JSON object of strings");
    }
    if (trace_context_is_set(&trace) && json_object_get(all, "traceparent") == NULL) {
        trace_write_parent(&trace, traceparent);
        json_object_set_new(all, "traceparent", json_string(traceparent));
    }
    char *text = json_dumps(all, JSON_COMPACT);
    free(message->attributes);
    message->attributes = text != NULL ? text : memory_copy_string("{}");
    return 0;
}

static int read_message(const struct session *session, const struct host_request *request,
                        size_t key, size_t type, struct message *message, struct error *err)
{
    int r = host_request_string(request, 0, HOST_FUNCTION_MAX, "name", &message->name, err);
    r = r < 0 ? r
              : host_request_string(request, key, EVENTSTREAM_KEY_MAX, "key", &message->key, err);
    r = r < 0
        ? r
        : host_request_string(request, type, QUEUE_TEXT_MAX, "content type", &message->type, err);
    r = r < 0 ? r
              : host_request_string(request, type + 1, QUEUE_ATTRIBUTES_MAX, "list of attributes",
                                    &message->attributes, err);
    return r < 0 ? r : add_trace(session, message, err);
}

static const char *or_null(const char *text)
{
    return text[0] != '\0' ? text : NULL;
}

static void on_sent(const struct error *error, const struct queue_sent *sent, size_t count,
                    void *context)
{
    char id[32];
    if (error != NULL || count == 0) {
        struct error none = {.kind = ERROR_UNAVAILABLE};
        question_refuse(context, error != NULL ? error : &none);
        return;
    }
    int length = snprintf(id, sizeof(id), "%" PRIu64, sent[0].id);
    question_answer(context, sent[0].id, id, (size_t)length);
}

void host_queue_send(struct session *session, const struct host_request *request)
{
    enum { BODY = 1, TYPE = 2, GROUP = 4, DELAY = 5, PRIORITY = 6 };
    struct error err = {0};
    struct message message = {0};
    int r = read_message(session, request, GROUP, TYPE, &message, &err);
    if (r == 0 && request->numbers[PRIORITY] > QUEUE_PRIORITY_MAX) {
        r = error_set(&err, ERROR_INVALID, "a priority is 0 to %d", (int)QUEUE_PRIORITY_MAX);
    }
    if (r < 0) {
        session_refuse(session, &err);
    } else {
        const struct queue_outgoing outgoing = {
            .body = request->parts[BODY].data,
            .length = request->parts[BODY].length,
            .content_type = or_null(message.type),
            .attributes = message.attributes,
            .group = or_null(message.key),
            .delay_ms = request->numbers[DELAY] > 0 ? request->numbers[DELAY] : QUEUE_DEFAULT,
            .priority = (unsigned)request->numbers[PRIORITY],
        };
        queue_send(session->service->queues, session->target->project, message.name, &outgoing, 1,
                   on_sent, question_new(session));
    }
    message_done(&message);
}

static void on_appended(const struct error *error, const struct eventstream_place *places,
                        size_t count, void *context)
{
    if (error != NULL || count == 0) {
        struct error none = {.kind = ERROR_UNAVAILABLE};
        question_refuse(context, error != NULL ? error : &none);
        return;
    }
    uint32_t partition = places[0].partition;
    question_answer(context, places[0].sequence, &partition, sizeof(partition));
}

void host_stream_append(struct session *session, const struct host_request *request)
{
    enum { KEY = 1, BODY = 2, TYPE = 3 };
    struct error err = {0};
    struct message message = {0};
    if (read_message(session, request, KEY, TYPE, &message, &err) < 0) {
        session_refuse(session, &err);
    } else {
        const struct eventstream_outgoing record = {
            .body = request->parts[BODY].data,
            .length = request->parts[BODY].length,
            .key = or_null(message.key),
            .content_type = or_null(message.type),
            .attributes = message.attributes,
        };
        eventstream_append(session->service->streams, session->target->project, message.name,
                           &record, 1, on_appended, question_new(session));
    }
    message_done(&message);
}
