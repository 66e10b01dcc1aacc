/*
 * Spans of a function: below the run's own, the newest open one being the parent of the next.  What
 * is open when the call ends, ends then.
 */
#include <inttypes.h>

#include "base/memory.h"

#include "service/host/private.h"

struct trace_context session_trace(const struct session *session)
{
    for (size_t i = HOST_SPANS_MAX; session->spans != NULL && i > 0; i--) {
        if (session->spans[i - 1].is_open) {
            return session->spans[i - 1].context;
        }
    }
    return session->trace;
}

/* Behind all that are open, so that the last is the innermost. */
static size_t find_room(const struct session *session)
{
    size_t room = HOST_SPANS_MAX;
    while (room > 0 && !session->spans[room - 1].is_open) {
        room--;
    }
    return room;
}

static struct trace_span *find_open(struct session *session, uint64_t which, struct error *err)
{
    if (session->spans != NULL && which < HOST_SPANS_MAX && session->spans[which].is_open) {
        return &session->spans[which];
    }
    error_set(err, ERROR_NOT_FOUND, "there is no open span %" PRIu64, which);
    return NULL;
}

void host_span_begin(struct session *session, const struct host_request *request)
{
    struct error err = {0};
    MEMORY_OWNED char *name = NULL;
    int r = host_request_string(request, 0, TRACE_NAME_MAX, "span's name", &name, &err);
    if (r == 0 && name[0] == '\0') {
        r = error_set(&err, ERROR_INVALID, "a span has a name");
    }
    if (r == 0 && session->spans == NULL) {
        session->spans = memory_new(HOST_SPANS_MAX, sizeof(struct trace_span));
    }
    size_t which = r == 0 ? find_room(session) : 0;
    if (r == 0 && which == HOST_SPANS_MAX) {
        r = error_set(&err, ERROR_LIMIT, "%d spans are open already", (int)HOST_SPANS_MAX);
    }
    if (r < 0) {
        session_refuse(session, &err);
        return;
    }
    struct trace_span *span = &session->spans[which];
    trace_begin(session->service->telemetry, span,
                &(struct trace_start){.name = name, .parent = session_trace(session)});
    trace_text(span, "blixard.project", session->target->project);
    trace_text(span, "faas.name", session->target->function);
    session_answer(session, which, NULL, 0);
}

/* Keys are kept by the span in their own copy. */
void host_span_attribute(struct session *session, const struct host_request *request)
{
    struct error err = {0};
    MEMORY_OWNED char *key = NULL;
    struct trace_span *span = find_open(session, request->numbers[0], &err);
    if (span == NULL ||
        host_request_string(request, 1, TRACE_NAME_MAX, "attribute's name", &key, &err) < 0) {
        session_refuse(session, &err);
        return;
    }
    trace_bytes(span, key, request->parts[2]);
    session_answer(session, 0, NULL, 0);
}

void host_span_end(struct session *session, const struct host_request *request)
{
    struct error err = {0};
    MEMORY_OWNED char *failure = NULL;
    struct trace_span *span = find_open(session, request->numbers[0], &err);
    if (span == NULL ||
        host_request_string(request, 1, TRACE_VALUE_MAX, "reason", &failure, &err) < 0) {
        session_refuse(session, &err);
        return;
    }
    if (failure[0] != '\0') {
        trace_fail(span, "error", failure);
    }
    trace_end(session->service->telemetry, span);
    session_answer(session, 0, NULL, 0);
}

void host_spans_close(struct session *session)
{
    for (size_t i = 0; session->spans != NULL && i < HOST_SPANS_MAX; i++) {
        if (session->spans[i].is_open) {
            trace_end(session->service->telemetry, &session->spans[i]);
        }
    }
    free(session->spans);
    session->spans = NULL;
}
