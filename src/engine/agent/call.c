/*
 * Calls: from the request to its answer, and the streams in between.
 *
 * A call is in its agent's list from when it is made until it is over.  What must be told from
 * outside of the caller's own calls (it could not begin; what was held while it was paused) is
 * posted.
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/memory.h"

#include "engine/agent/private.h"

/* The socket's queue: beyond this, input waits in its call. */
enum { WAITING_MAX = 4 * AGENT_PIECE_MAX, CREDIT_STEP = AGENT_WINDOW / 4 };

static void go_on(struct agent_call *call);

/* ---- The end ---- */

static void free_call(void *argument)
{
    struct agent_call *call = argument;
    buffer_done(&call->queue);
    buffer_done(&call->answer);
    for (int i = 0; i < AGENT_STREAMS; i++) {
        buffer_done(&call->flows[i].held);
    }
    free(call);
}

static void end_call(struct agent_call *call, const struct error *error,
                     const struct agent_result *result)
{
    CHECK(!call->is_over);
    CHECK((error == NULL) != (result == NULL));
    call->is_over = true;
    list_remove(&call->link);
    loop_timer_free(call->timer);
    call->timer = NULL;
    loop_post(call->agent->loop, free_call, call);
    if (call->done != NULL) {
        call->done(error, result, call->context);
    }
}

static void fail_call(struct agent_call *call, const struct error *cause)
{
    struct error error = *cause;
    error_wrap(&error, "%s", call->what);
    end_call(call, &error, NULL);
}

/*
 * Callbacks may make calls meanwhile, which are not among these, or close the agent, which then
 * ends the rest.  A call that was answered, and is only paused, needs no connection any more.
 */
void agent_calls_fail(struct agent *agent, const struct error *error)
{
    LIST_EACH(node, &agent->calls)
    {
        struct agent_call *call = LIST_ITEM(node, struct agent_call, link);
        if (!call->has_answer || agent->is_closed) {
            call->id = 0;
            list_remove(node);
            list_push_back(&agent->failing, node);
        }
    }
    while (!list_is_empty(&agent->failing)) {
        struct agent_call *call = LIST_FIRST(&agent->failing, struct agent_call, link);
        fail_call(call, call->early.kind != ERROR_NONE ? &call->early : error);
    }
}

static void set_cancelled(struct agent_call *call, struct error *ret_error)
{
    error_set(ret_error, call->is_late ? ERROR_TIMEOUT : ERROR_CANCELLED, "%s",
              call->is_late ? "no answer in time" : "cancelled");
}

static void cancel(struct agent_call *call)
{
    call->is_cancelled = true;
    call->is_input_over = true;
    buffer_clear(&call->queue);
    if (call->id != 0) {
        agent_send(call->agent, AGENT_CANCEL, AGENT_STREAM_IN, 0, call->id, NULL, 0);
    }
    loop_timer_start(call->timer, AGENT_RETRY_MS);
}

static void on_time(void *context)
{
    struct agent_call *call = context;
    struct error error = {0};
    if (!call->is_cancelled) {
        call->is_late = true;
        cancel(call);
        return;
    }
    set_cancelled(call, &error);
    fail_call(call, &error);
}

void agent_call_cancel(struct agent_call *call)
{
    CHECK(!call->is_over);
    if (!call->is_cancelled && call->early.kind == ERROR_NONE) {
        cancel(call);
    }
}

/* ---- Answers ---- */

static void finish(struct agent_call *call)
{
    struct agent_reader reader = agent_reader_of(call->answer.data, call->answer.used);
    struct agent_result result = {.round_trip_us = (clock_monotonic_ns() - call->began_ns) / 1000};
    struct error error = {0};
    struct agent_stat stat;
    uint64_t nonce = 0;
    MEMORY_OWNED struct agent_metrics *metrics = NULL;
    bool is_good = true;
    int r = agent_read_answer(reader, &result, &error);
    if (r == 0 && call->operation == AGENT_STAT) {
        is_good = agent_read_stat(reader, &stat);
        result.stat = &stat;
    } else if (r == 0 && call->operation == AGENT_METRICS) {
        metrics = NEW(struct agent_metrics);
        is_good = agent_read_metrics(reader, metrics);
        result.metrics = metrics;
    } else if (r == 0 && call->operation == AGENT_INFO) {
        is_good = agent_read_info(reader, &call->agent->info, &nonce);
        result.info = &call->agent->info;
    }
    if (r == 0 && !is_good) {
        r = error_set(&error, ERROR_PROTOCOL, "the agent's answer makes no sense");
    }
    if (r < 0 && call->is_late) {
        set_cancelled(call, &error);
    }
    if (r < 0) {
        fail_call(call, &error);
    } else {
        end_call(call, NULL, &result);
    }
}

/* ---- Output ---- */

static void give_credit(struct agent_call *call, enum agent_stream stream)
{
    struct agent_flow *flow = &call->flows[stream];
    if (flow->credit < CREDIT_STEP || flow->has_ended || call->id == 0) {
        return;
    }
    uint8_t bytes[4];
    for (int i = 0; i < 4; i++) {
        bytes[i] = (uint8_t)(flow->credit >> (8 * i));
    }
    flow->window += flow->credit;
    flow->credit = 0;
    agent_send(call->agent, AGENT_CREDIT, stream, 0, call->id, bytes, sizeof(bytes));
}

static void give_output(struct agent_call *call, enum agent_stream stream, const void *bytes,
                        size_t length)
{
    call->flows[stream].credit += length;
    if (!call->is_cancelled && call->events.on_output != NULL) {
        call->events.on_output(stream, bytes, length, call->context);
    }
    if (!call->is_over) {
        give_credit(call, stream);
    }
}

/* The end of a stream is told behind the last of it. */
static void tell_end(struct agent_call *call, enum agent_stream stream)
{
    struct agent_flow *flow = &call->flows[stream];
    if (flow->has_ended && !flow->is_end_told && flow->held.used == 0 && !call->is_cancelled) {
        flow->is_end_told = true;
        if (call->events.on_output_end != NULL) {
            call->events.on_output_end(stream, call->context);
        }
    }
}

static bool is_holding(const struct agent_call *call)
{
    return call->flows[AGENT_STREAM_OUT].held.used > 0 ||
        call->flows[AGENT_STREAM_ERR].held.used > 0;
}

static void take_data(struct agent_call *call, const struct agent_frame *frame)
{
    enum agent_stream stream = (enum agent_stream)frame->head.stream;
    struct agent_flow *flow = &call->flows[stream];
    if (stream == AGENT_STREAM_IN || flow->has_ended || frame->length > flow->window ||
        frame->length > AGENT_PIECE_MAX) {
        agent_break(call->agent, "it sent more than it may");
        return;
    }
    flow->window -= frame->length;
    if (call->is_paused || is_holding(call)) {
        buffer_append(&flow->held, frame->payload, frame->length);
    } else if (frame->length > 0) {
        give_output(call, stream, frame->payload, frame->length);
    }
}

/* What is held, in pieces; the caller may pause again in between. */
static void give_held(struct agent_call *call)
{
    for (int i = AGENT_STREAM_OUT; i < AGENT_STREAMS; i++) {
        if (call->is_over || call->is_paused || call->flows[i].held.used == 0) {
            continue;
        }
        struct buffer held = call->flows[i].held;
        call->flows[i].held = (struct buffer){0};
        give_output(call, (enum agent_stream)i, held.data, held.used);
        buffer_done(&held);
        if (!call->is_over) {
            tell_end(call, (enum agent_stream)i);
        }
    }
    if (!call->is_over && call->has_answer && !is_holding(call)) {
        finish(call);
    }
}

/* ---- Notes and the rest ---- */

static void take_note(struct agent_call *call, const struct agent_frame *frame)
{
    struct agent_reader reader = agent_reader_of(frame->payload, frame->length);
    struct agent_stat stat;
    struct agent_field field;
    uint64_t pid = 0;
    if (call->operation == AGENT_GET && call->events.on_stat != NULL) {
        if (agent_read_stat(reader, &stat)) {
            call->events.on_stat(&stat, call->context);
        }
        return;
    }
    while (agent_next(&reader, &field)) {
        if (field.tag == AGENT_CONTENT_TYPE && call->events.on_streamed != NULL &&
            !call->is_cancelled) {
            char type[128] = "";
            agent_read_text(&field, type, sizeof(type));
            call->events.on_streamed(type, call->context);
            return;
        }
        if (field.tag == AGENT_TARGET && call->operation == AGENT_FUNCTION_TUNNEL) {
            char target[300] = "";
            agent_read_text(&field, target, sizeof(target));
            if (!call->is_cancelled) {
                call->events.on_tunnel(target, call->context);
            }
            return;
        }
        pid = field.tag == AGENT_PID ? agent_field_number(&field) : pid;
    }
    if (pid > 0 && pid <= INT32_MAX && call->events.on_started != NULL && !call->is_cancelled) {
        call->events.on_started((int)pid, call->context);
    }
}

static void take_answer(struct agent_call *call, const struct agent_frame *frame)
{
    if (call->has_answer) {
        agent_break(call->agent, "it answered twice");
        return;
    }
    call->has_answer = true;
    call->is_input_over = true;
    call->id = 0; /* nothing more about it goes out */
    loop_timer_stop(call->timer);
    buffer_append(&call->answer, frame->payload, frame->length);
    if (!is_holding(call) || call->is_cancelled) {
        finish(call);
    }
}

static void take_credit(struct agent_call *call, const struct agent_frame *frame)
{
    uint64_t credit = agent_credit_read(frame);
    if (frame->head.stream != AGENT_STREAM_IN || credit > AGENT_WINDOW - call->window) {
        agent_break(call->agent, "it gave back more than it got");
        return;
    }
    call->window += credit;
    go_on(call);
}

/* An answered call is in the list while its caller has paused it: it has no id any more, and what
 * comes about it is ignored like what comes about those that are gone. */
static struct agent_call *find_call(struct agent *agent, uint32_t id)
{
    LIST_EACH(node, &agent->calls)
    {
        struct agent_call *call = LIST_ITEM(node, struct agent_call, link);
        if (call->id == id) {
            return call;
        }
    }
    return NULL;
}

void agent_call_take(struct agent *agent, const struct agent_frame *frame)
{
    struct agent_call *call = frame->head.id != 0 ? find_call(agent, frame->head.id) : NULL;
    if (call == NULL) {
        return;
    }
    if (frame->head.type == AGENT_DATA) {
        take_data(call, frame);
    } else if (frame->head.type == AGENT_NOTE) {
        take_note(call, frame);
    } else if (frame->head.type == AGENT_ANSWER) {
        take_answer(call, frame);
    } else if (frame->head.type == AGENT_CREDIT) {
        take_credit(call, frame);
    } else if (frame->head.type == AGENT_END && frame->head.stream == AGENT_STREAM_IN) {
        call->is_input_over = true; /* nobody reads it any more */
        buffer_clear(&call->queue);
    } else if (frame->head.type == AGENT_END) {
        call->flows[frame->head.stream].has_ended = true;
        tell_end(call, (enum agent_stream)frame->head.stream);
    } else {
        agent_break(agent, "it sent what is the host's to say");
    }
}

/* ---- Input ---- */

static void go_on(struct agent_call *call)
{
    struct agent *agent = call->agent;
    if (call->id == 0 || call->is_input_over) {
        call->queue.used = 0;
    }
    while (call->queue.used > 0 && call->window > 0 &&
           stream_waiting(agent->stream) < WAITING_MAX) {
        size_t length = call->queue.used < AGENT_PIECE_MAX ? call->queue.used : AGENT_PIECE_MAX;
        length = length < call->window ? length : call->window;
        agent_send(agent, AGENT_DATA, AGENT_STREAM_IN, 0, call->id, call->queue.data, length);
        call->window -= length;
        buffer_consume(&call->queue, length);
    }
    if (call->queue.used == 0 && call->is_input_finished && !call->is_input_over && call->id != 0) {
        call->is_input_over = true;
        agent_send(agent, AGENT_END, AGENT_STREAM_IN, 0, call->id, NULL, 0);
    }
    if (call->wants_writable && call->queue.used == 0 && !call->is_cancelled) {
        call->wants_writable = false;
        if (call->events.on_writable != NULL) {
            call->events.on_writable(call->context);
        }
    }
}

void agent_calls_go_on(struct agent *agent)
{
    size_t count = 0;
    LIST_EACH(node, &agent->calls)
    {
        count++;
    }
    /* Each once and the first one last next time.  Callbacks may change the list. */
    for (; count > 0 && !list_is_empty(&agent->calls); count--) {
        struct agent_call *call = LIST_FIRST(&agent->calls, struct agent_call, link);
        list_remove(&call->link);
        list_push_back(&agent->calls, &call->link);
        if (call->queue.used > 0) {
            go_on(call);
        }
    }
}

static void on_posted(void *argument)
{
    struct agent_call *call = argument;
    call->is_posted = false;
    if (call->is_over) {
        return;
    }
    if (call->early.kind != ERROR_NONE) {
        fail_call(call, &call->early);
        return;
    }
    go_on(call);
    if (!call->is_over && !call->is_paused) {
        give_held(call);
    }
}

static void post(struct agent_call *call)
{
    if (!call->is_posted) {
        call->is_posted = true;
        loop_post(call->agent->loop, on_posted, call);
    }
}

bool agent_call_write(struct agent_call *call, const void *bytes, size_t length)
{
    CHECK(!call->is_over && call->has_input && !call->is_input_finished);
    if (call->is_input_over || call->is_cancelled || call->early.kind != ERROR_NONE) {
        return true; /* dropped: the end is on its way */
    }
    buffer_append(&call->queue, bytes, length);
    call->wants_writable = false; /* not from inside this call */
    go_on(call);
    call->wants_writable = call->queue.used > 0;
    return call->queue.used == 0;
}

void agent_call_finish_input(struct agent_call *call)
{
    CHECK(!call->is_over && call->has_input && !call->is_input_finished);
    call->is_input_finished = true;
    call->wants_writable = false; /* there is nothing more to be written */
    go_on(call);
}

void agent_call_pause(struct agent_call *call)
{
    CHECK(!call->is_over);
    call->is_paused = true;
}

void agent_call_resume(struct agent_call *call)
{
    CHECK(!call->is_over);
    call->is_paused = false;
    post(call);
}

/* ---- Control ---- */

void agent_call_signal(struct agent_call *call, int signal)
{
    CHECK(!call->is_over);
    BUFFER_OWNED struct buffer body = {0};
    agent_put_number(&body, AGENT_SIGNAL, (uint64_t)signal);
    if (call->id != 0) {
        agent_send(call->agent, AGENT_CONTROL, AGENT_STREAM_IN, 0, call->id, body.data, body.used);
    }
}

void agent_call_resize(struct agent_call *call, unsigned rows, unsigned columns)
{
    CHECK(!call->is_over);
    BUFFER_OWNED struct buffer body = {0};
    agent_put_number(&body, AGENT_ROWS, rows);
    agent_put_number(&body, AGENT_COLUMNS, columns);
    if (call->id != 0) {
        agent_send(call->agent, AGENT_CONTROL, AGENT_STREAM_IN, 0, call->id, body.data, body.used);
    }
}

/* ---- The beginning ---- */

static void refuse(struct agent_call *call, const struct error *early, size_t length)
{
    unsigned open = 0;
    LIST_EACH(node, &call->agent->calls)
    {
        open++;
    }
    if (early != NULL) {
        call->early = *early;
    } else if (!agent_is_up(call->agent)) {
        error_set(&call->early, ERROR_UNAVAILABLE, "the machine's agent does not answer");
    } else if (open > AGENT_REQUESTS_MAX) {
        error_set(&call->early, ERROR_LIMIT, "%d requests to this machine's agent run already",
                  AGENT_REQUESTS_MAX);
    } else if (length > AGENT_FRAME_MAX - AGENT_HEAD_SIZE) {
        error_set(&call->early, ERROR_TOO_LARGE, "%zu bytes are more than a request's %d", length,
                  AGENT_FRAME_MAX - AGENT_HEAD_SIZE);
    }
}

struct agent_call *agent_call_begin(struct agent *agent, const struct agent_call_terms *terms,
                                    const struct buffer *body, const struct error *early,
                                    const char *what, ...)
{
    CHECK(loop_is_mine(agent->loop));
    CHECK(!agent->is_closed);
    struct agent_call *call = NEW(struct agent_call);
    va_list arguments;
    va_start(arguments, what);
    vsnprintf(call->what, sizeof(call->what), what, arguments);
    va_end(arguments);
    call->agent = agent;
    call->operation = terms->operation;
    if (terms->events != NULL) {
        call->events = *terms->events;
        call->done = terms->events->on_end;
    } else {
        call->done = terms->done;
    }
    call->context = terms->context;
    call->has_input = terms->has_input;
    call->began_ns = clock_monotonic_ns();
    call->window = AGENT_WINDOW;
    for (int i = 0; i < AGENT_STREAMS; i++) {
        call->flows[i].window = AGENT_WINDOW;
    }
    call->timer = loop_timer_new(agent->loop, on_time, call);
    list_push_back(&agent->calls, &call->link);
    refuse(call, early, body->used);
    if (call->early.kind != ERROR_NONE) {
        post(call);
        return call;
    }
    call->id = ++agent->last_id;
    agent_send(agent, AGENT_REQUEST, AGENT_STREAM_IN, (uint16_t)terms->operation, call->id,
               body->data, body->used);
    if (terms->timeout_ms > 0) {
        loop_timer_start(call->timer, terms->timeout_ms);
    }
    return call;
}
