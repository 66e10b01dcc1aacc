/* What the files of this room share: a request as it was read, and the session it belongs to. */
#ifndef SERVICE_HOST_PRIVATE_H
#define SERVICE_HOST_PRIVATE_H

#include <stdbool.h>

#include "base/error.h"
#include "base/list.h"
#include "base/text.h"

#include "engine/vmm/hostcall.h"

#include "service/host/host.h"
#include "service/instance/instance.h"
#include "service/telemetry/trace.h"

struct gateway_invoke;
struct host_fetches;

/* ---- A request, decoded (request.c) ---- */

struct host_request {
    enum hostcall operation;
    size_t count;
    struct text parts[HOSTCALL_PARTS_MAX]; /* into the bytes that were read */
    uint64_t numbers[HOSTCALL_PARTS_MAX];  /* of the parts that are numbers */
};

/* Pure.  UNSUPPORTED (no such operation), INVALID (not what that operation takes). */
int host_request_read(const void *bytes, size_t length, struct host_request *ret_request,
                      struct error *err);

/* A part as a string of at most `max` bytes without NUL: the caller frees it.  INVALID, which
 * names it as `what`. */
int host_request_string(const struct host_request *request, size_t part, size_t max,
                        const char *what, char **ret_string, struct error *err);

const char *host_operation_name(enum hostcall operation);

/* ---- Sessions ---- */

struct host_service {
    unsigned references; /* the owner's, one per session, one per question under way */
    struct loop *loop;
    struct telemetry *telemetry;
    struct kv_service *kv;
    struct queue_service *queues;
    struct eventstream_service *streams;
    struct fetch_service *fetches;
    struct secret_service *secrets;
    struct gateway *gateway; /* NULL: none now */
    struct list questions;
    uint64_t calls_max;
    bool is_over;
};

/* What one call has to do with its host. */
struct session {
    struct host_service *service;
    struct instance_call *call;
    struct instance_target *target; /* a reference */
    char request_id[129];
    struct trace_context trace;
    uint64_t deadline_ns;
    unsigned depth;
    uint64_t asked;
    uint64_t refused;             /* because it had asked too much */
    uint64_t opened_ns;           /* when it asked first */
    struct question *question;    /* under way; NULL: none */
    struct trace_span *spans;     /* HOST_SPANS_MAX, once there is one */
    struct host_fetches *fetches; /* once there was one */
};

/* One that is answered later.  It outlives its session when what it waits for cannot be broken
 * off. */
struct question {
    struct list_node link;
    struct host_service *service;
    struct session *session; /* NULL: nobody waits for it any more */
    struct gateway_invoke *invoke;
};

void host_service_unref(struct host_service *service);

struct question *question_new(struct session *session);
void question_free(struct question *question);

/* Milliseconds until the call's deadline, at least 1. */
uint64_t session_left_ms(const struct session *session);

/* What spans that begin now are below. */
struct trace_context session_trace(const struct session *session);

/* ---- Answers (answer.c) ---- */

void session_answer(struct session *session, uint64_t number, const void *bytes, size_t length);
void session_refuse(struct session *session, const struct error *error);

/* The same for what was answered later; the question is freed. */
void question_answer(struct question *question, uint64_t number, const void *bytes, size_t length);
void question_refuse(struct question *question, const struct error *error);

/* The number that stands for an error of this kind. */
int32_t host_status(enum error_kind kind);

/* ---- Operations: answer at once, or make a question ---- */

void host_invoke(struct session *session, const struct host_request *request);
void host_invoke_break_off(struct question *question);

void host_fetch(struct session *session, const struct host_request *request);
void host_fetch_wait(struct session *session, const struct host_request *request);
void host_fetch_take(struct session *session, const struct host_request *request);
void host_fetch_read(struct session *session, const struct host_request *request);
void host_fetch_close(struct session *session, const struct host_request *request);
/* All of the session's, and what it waits for. */
void host_fetches_close(struct session *session);

void host_kv_get(struct session *session, const struct host_request *request);
void host_kv_set(struct session *session, const struct host_request *request);
void host_kv_cas(struct session *session, const struct host_request *request);
void host_kv_delete(struct session *session, const struct host_request *request);
void host_kv_list(struct session *session, const struct host_request *request);
void host_queue_send(struct session *session, const struct host_request *request);
void host_stream_append(struct session *session, const struct host_request *request);

void host_secret_get(struct session *session, const struct host_request *request);

void host_span_begin(struct session *session, const struct host_request *request);
void host_span_attribute(struct session *session, const struct host_request *request);
void host_span_end(struct session *session, const struct host_request *request);
void host_spans_close(struct session *session);

#endif
