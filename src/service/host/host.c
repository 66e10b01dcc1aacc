/* Sessions, and which operation answers which question.  See host.h. */
#include "service/host/host.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/memory.h"

#include "service/host/private.h"
#include "service/telemetry/telemetry.h"

/* ---- Life ---- */

static struct host_service *service_ref(struct host_service *service)
{
    service->references++;
    return service;
}

void host_service_unref(struct host_service *service)
{
    CHECK(service->references > 0);
    service->references--;
    if (service->references == 0) {
        free(service);
    }
}

void host_set_gateway(struct host_service *service, struct gateway *gateway)
{
    service->gateway = gateway;
}

void host_unset_gateway(struct host_service *service)
{
    struct error err = {0};
    error_set(&err, ERROR_CANCELLED, "the node is stopping");
    service->gateway = NULL;
    LIST_EACH(node, &service->questions)
    {
        struct question *question = LIST_ITEM(node, struct question, link);
        if (question->invoke != NULL) {
            host_invoke_break_off(question);
            question_refuse(question, &err);
        }
    }
}

void host_service_free(struct host_service *service)
{
    if (service != NULL) {
        service->is_over = true;
        host_service_unref(service);
    }
}

/* ---- Questions that are answered later ---- */

struct question *question_new(struct session *session)
{
    CHECK(session->question == NULL);
    struct question *question = NEW(struct question);
    question->service = service_ref(session->service);
    question->session = session;
    session->question = question;
    list_push_back(&session->service->questions, &question->link);
    return question;
}

void question_free(struct question *question)
{
    if (question->session != NULL) {
        question->session->question = NULL;
    }
    list_remove(&question->link);
    host_service_unref(question->service);
    free(question);
}

/* ---- What is known of the call ---- */

uint64_t session_left_ms(const struct session *session)
{
    uint64_t now_ns = clock_monotonic_ns();
    uint64_t left_ms =
        session->deadline_ns > now_ns ? (session->deadline_ns - now_ns) / 1000000 : 0;
    return left_ms > 0 ? left_ms : 1;
}

static void answer_nothing(struct session *session, const struct host_request *request)
{
    (void)request;
    session_answer(session, 0, NULL, 0);
}

static void answer_metadata(struct session *session, const struct host_request *request)
{
    const struct instance_target *target = session->target;
    struct error err = {0};
    struct trace_context context = session_trace(session);
    char text[TRACE_PARENT_SIZE] = "";
    const char *fact = text;
    switch (request->numbers[0]) {
    case HOSTCALL_FACT_PROJECT:
        fact = target->project;
        break;
    case HOSTCALL_FACT_FUNCTION:
        fact = target->function;
        break;
    case HOSTCALL_FACT_VERSION:
        snprintf(text, sizeof(text), "%" PRIu64, target->version);
        break;
    case HOSTCALL_FACT_REQUEST_ID:
        fact = session->request_id;
        break;
    case HOSTCALL_FACT_TRACEPARENT:
        if (trace_context_is_set(&context)) {
            trace_write_parent(&context, text);
        }
        break;
    default:
        error_set(&err, ERROR_INVALID, "there is no fact %" PRIu64, request->numbers[0]);
        session_refuse(session, &err);
        return;
    }
    session_answer(session, 0, fact, strlen(fact));
}

/* ---- Dispatch ---- */

static void (*const operations[HOSTCALL_COUNT])(struct session *session,
                                                const struct host_request *request) = {
    [HOSTCALL_FLUSH] = answer_nothing,
    [HOSTCALL_METADATA] = answer_metadata,
    [HOSTCALL_KV_GET] = host_kv_get,
    [HOSTCALL_KV_SET] = host_kv_set,
    [HOSTCALL_KV_CAS] = host_kv_cas,
    [HOSTCALL_KV_DELETE] = host_kv_delete,
    [HOSTCALL_KV_LIST] = host_kv_list,
    [HOSTCALL_QUEUE_SEND] = host_queue_send,
    [HOSTCALL_STREAM_APPEND] = host_stream_append,
    [HOSTCALL_INVOKE] = host_invoke,
    [HOSTCALL_SPAN_BEGIN] = host_span_begin,
    [HOSTCALL_SPAN_ATTRIBUTE] = host_span_attribute,
    [HOSTCALL_SPAN_END] = host_span_end,
    [HOSTCALL_FETCH] = host_fetch,
    [HOSTCALL_FETCH_WAIT] = host_fetch_wait,
    [HOSTCALL_FETCH_TAKE] = host_fetch_take,
    [HOSTCALL_FETCH_READ] = host_fetch_read,
    [HOSTCALL_FETCH_CLOSE] = host_fetch_close,
    [HOSTCALL_SECRET_GET] = host_secret_get,
};

/* Calls that live long, and speak to somebody all the time, ask more than others. */
static const uint64_t period_ns = UINT64_C(30) * 1000 * 1000 * 1000;

/* Who goes on asking after he was told that it is enough is ended: each question costs the loop. */
static int admit(struct session *session, struct error *err)
{
    const struct host_service *service = session->service;
    uint64_t periods = (clock_monotonic_ns() - session->opened_ns) / period_ns;
    if (session->asked >= service->calls_max * (periods + 1)) {
        if (++session->refused == HOST_REFUSED_MAX) {
            instance_call_cancel(session->call);
        }
        return error_set(err, ERROR_LIMIT,
                         "this call has asked its host %" PRIu64
                         " times; that is all it may (host_calls_max in each 30 s)",
                         session->asked);
    }
    session->asked++;
    return service->is_over ? error_set(err, ERROR_CANCELLED, "the node is stopping") : 0;
}

static void ask(void *argument, const void *bytes, size_t length)
{
    struct session *session = argument;
    struct host_request request;
    struct error err = {0};
    telemetry_add(session->service->telemetry, TELEMETRY_HOST_CALLS, 1);
    if (admit(session, &err) < 0 || host_request_read(bytes, length, &request, &err) < 0) {
        session_refuse(session, &err);
    } else if (operations[request.operation] == NULL) {
        error_set(&err, ERROR_UNSUPPORTED, "this node does not have %s",
                  host_operation_name(request.operation));
        session_refuse(session, &err);
    } else {
        operations[request.operation](session, &request);
    }
}

/* ---- Sessions ---- */

static void *open_session(const struct instance_caller *caller, struct instance_call *call,
                          void *context)
{
    struct session *session = NEW(struct session);
    session->service = service_ref(context);
    session->call = call;
    session->target = instance_target_ref((struct instance_target *)(uintptr_t)caller->target);
    snprintf(session->request_id, sizeof(session->request_id), "%s", caller->request_id);
    session->trace = caller->trace;
    session->deadline_ns = caller->deadline_ns;
    session->opened_ns = clock_monotonic_ns();
    session->depth = caller->depth;
    return session;
}

static void close_session(void *argument)
{
    struct session *session = argument;
    struct question *question = session->question;
    if (question != NULL) {
        question->session = NULL;
        if (question->invoke != NULL) {
            host_invoke_break_off(question);
            question_free(question);
        }
    }
    host_fetches_close(session);
    host_spans_close(session);
    instance_target_unref(session->target);
    host_service_unref(session->service);
    free(session);
}

struct host_service *host_service_new(const struct host_options *options)
{
    CHECK(options->calls_max > 0);
    struct host_service *service = NEW(struct host_service);
    service->references = 1;
    service->loop = options->loop;
    service->telemetry = options->telemetry;
    service->kv = options->kv;
    service->queues = options->queues;
    service->streams = options->streams;
    service->fetches = options->fetches;
    service->secrets = options->secrets;
    service->calls_max = options->calls_max;
    list_init(&service->questions);
    const struct instance_host host = {
        .open = open_session, .ask = ask, .close = close_session, .context = service};
    instance_set_host(options->instances, &host);
    return service;
}
