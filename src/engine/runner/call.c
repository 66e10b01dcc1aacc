/*
 * The daemon's side: slots, and the calls that run on them.
 *
 * A call lasts until its on_end.  Its owner may end the whole runner from any of its callbacks, so
 * after each of them the call is looked for again.
 */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "base/check.h"
#include "base/memory.h"

#include "engine/runner/private.h"
#include "engine/runner/runner.h"
#include "engine/vmm/abi.h"

/* ---- Slots ---- */

void runner_slot_finish(struct slot *slot, const struct error *error,
                        const struct runner_result *result)
{
    struct runner_call *call = slot->call;
    if (call == NULL) {
        return;
    }
    slot->call = NULL;
    buffer_done(&call->queue);
    buffer_done(&call->replies);
    buffer_done(&call->question);
    call->events.on_end(error, result, call->context);
    free(call);
}

static void take_end(struct slot *slot, ssize_t got)
{
    struct runner *runner = slot->runner;
    struct runner_call *call = slot->call;
    struct frame_end head;
    if (got < (ssize_t)sizeof(head)) {
        runner_end_broken(runner, "a short message");
        return;
    }
    memcpy(&head, runner->frame, sizeof(head));
    if (head.output_length > PROTOCOL_PIECE || head.log_length > PROTOCOL_PIECE ||
        (size_t)got != sizeof(head) + head.output_length + head.log_length ||
        head.result.end > VMM_END_BROKEN) {
        runner_end_broken(runner, "a message of a wrong length");
        return;
    }
    head.result.reason[sizeof(head.result.reason) - 1] = '\0';
    const uint8_t *output = runner->frame + sizeof(head);
    if (head.output_length > 0) {
        call->events.on_output(output, head.output_length, call->context);
    }
    if (head.log_length > 0 && slot->call == call) {
        call->events.on_log(output + head.output_length, head.log_length, call->context);
    }
    runner_slot_finish(slot, NULL, &head.result); /* unless a callback ended the runner */
}

/* A piece of a question: nothing is kept that is more than it said. */
static void take_host(struct slot *slot, ssize_t got)
{
    struct runner_call *call = slot->call;
    struct frame_host head;
    if (got < (ssize_t)sizeof(head)) {
        runner_end_broken(slot->runner, "a short message");
        return;
    }
    memcpy(&head, slot->runner->frame, sizeof(head));
    size_t piece = (size_t)got - sizeof(head);
    bool goes_on = call->question.used > 0;
    if (call->is_asking || head.length > ABI_HOST_BYTES_MAX ||
        piece >
            head.length - (call->question.used < head.length ? call->question.used : head.length) ||
        (piece == 0 && head.length > 0) || (goes_on && head.number != call->question_number)) {
        runner_end_broken(slot->runner, "a question that cannot be");
        return;
    }
    call->question_number = head.number;
    buffer_append(&call->question, slot->runner->frame + sizeof(head), piece);
    if (call->question.used < head.length) {
        return;
    }
    call->is_asking = true;
    BUFFER_OWNED struct buffer question = call->question; /* the call may end by it */
    call->question = (struct buffer){0};
    if (call->events.on_host != NULL) {
        call->events.on_host(question.data, question.used, call->context);
    } else {
        runner_call_answer(call, NULL, 0);
    }
}

static void take_frame(struct slot *slot, ssize_t got)
{
    struct runner *runner = slot->runner;
    struct frame head;
    if (got < (ssize_t)sizeof(head)) {
        runner_end_broken(runner, "a short message");
        return;
    }
    memcpy(&head, runner->frame, sizeof(head));
    struct runner_call *call = slot->call;
    if (call == NULL || head.sequence != call->sequence) {
        runner_end_broken(runner, "an answer nobody asked for");
        return;
    }
    const uint8_t *bytes = runner->frame + sizeof(head);
    size_t length = (size_t)got - sizeof(head);
    switch (head.type) {
    case FRAME_OUTPUT:
        call->events.on_output(bytes, length, call->context);
        return;
    case FRAME_LOG:
        call->events.on_log(bytes, length, call->context);
        return;
    case FRAME_HOST:
        take_host(slot, got);
        return;
    case FRAME_END:
        take_end(slot, got);
        return;
    default:
        runner_end_broken(runner, "an unknown message");
    }
}

static bool send_input(struct slot *slot, enum frame_type type, const void *bytes, size_t length)
{
    struct frame head = {.type = type, .sequence = slot->call->sequence};
    struct iovec parts[2] = {{&head, sizeof(head)}, {(void *)(uintptr_t)bytes, length}};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
    return sendmsg(slot->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0 || errno != EAGAIN;
}

/* Queued: type, length, bytes, one after the other.  False: the socket is full. */
static bool flush_queue(struct slot *slot, struct buffer *queue)
{
    while (queue->used > 0) {
        uint32_t words[2];
        memcpy(words, queue->data, sizeof(words));
        if (!send_input(slot, (enum frame_type)words[0], queue->data + sizeof(words), words[1])) {
            return false;
        }
        buffer_consume(queue, sizeof(words) + words[1]);
    }
    return true;
}

static void flush_input(struct slot *slot)
{
    struct runner_call *call = slot->call;
    if (!flush_queue(slot, &call->replies) || call->is_asking || !flush_queue(slot, &call->queue)) {
        return;
    }
    if (call->wants_writable) {
        call->wants_writable = false;
        call->events.on_writable(call->context);
    }
}

static void on_slot(uv_poll_t *poll, int status, int events)
{
    struct slot *slot = poll->data;
    struct runner *runner = slot->runner;
    if (status < 0) {
        runner_end_dead(runner);
        return;
    }
    if ((events & UV_WRITABLE) && slot->call != NULL) {
        flush_input(slot);
    }
    if ((events & (UV_READABLE | UV_DISCONNECT)) && !runner->is_over) {
        ssize_t got = recv(slot->fd, runner->frame, PROTOCOL_FRAME, MSG_DONTWAIT);
        if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) {
            runner_end_dead(runner);
            return;
        }
        if (got > 0) {
            take_frame(slot, got);
        }
    }
    if (!runner->is_over) {
        runner_slot_watch(slot);
    }
}

void runner_slot_watch(struct slot *slot)
{
    const struct runner_call *call = slot->call;
    int events = call != NULL && call->paused ? 0 : UV_READABLE;
    bool has_more =
        call != NULL && (call->replies.used > 0 || (call->queue.used > 0 && !call->is_asking));
    events |= has_more ? UV_WRITABLE : 0;
    int r = events != 0 ? uv_poll_start(&slot->poll, events, on_slot) : uv_poll_stop(&slot->poll);
    CHECK(r == 0);
}

/* ---- Calls ---- */

bool runner_slot_is_idle(const struct runner *runner, unsigned slot)
{
    return runner->slots[slot].call == NULL;
}

void runner_warm(struct runner *runner, unsigned slot_index, const char *image_id_or_null)
{
    if (runner->driver != NULL) {
        runner->driver->warm(runner, slot_index, image_id_or_null);
        return;
    }
    CHECK(!runner->is_over);
    CHECK(slot_index < runner->slot_count && runner->slots[slot_index].call == NULL);

    struct frame_warm warm = {.frame = {.type = FRAME_WARM}};
    if (image_id_or_null != NULL) {
        memcpy(warm.image_id, image_id_or_null, HASH_TEXT_SIZE);
    }
    /* The slot may still be at an earlier one; should its socket be full, the next call does it. */
    ssize_t sent =
        send(runner->slots[slot_index].fd, &warm, sizeof(warm), MSG_NOSIGNAL | MSG_DONTWAIT);
    (void)sent;
}

static void send_invoke(struct slot *slot, const struct runner_invocation *invocation)
{
    struct frame_invoke head = {
        .frame = {.type = FRAME_INVOKE, .sequence = slot->sequence},
        .timeout_ms = invocation->timeout_ms,
        .environment_length = (uint32_t)invocation->environment_length,
        .input_length = (uint32_t)invocation->input_length,
        .input_continues = invocation->input_continues,
        .keeps_memory = invocation->keeps_memory,
        .is_last = invocation->is_last,
    };
    memcpy(head.image_id, invocation->image_id, HASH_TEXT_SIZE);
    struct iovec parts[3] = {
        {&head, sizeof(head)},
        {(void *)(uintptr_t)invocation->environment, invocation->environment_length},
        {(void *)(uintptr_t)invocation->input, invocation->input_length},
    };
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = 3};
    /* The slot is idle, so its socket is empty: it takes a frame.  A dead peer shows by polling. */
    ssize_t sent = sendmsg(slot->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    (void)sent;
}

struct runner_call *runner_invoke(struct runner *runner, unsigned slot_index,
                                  const struct runner_invocation *invocation,
                                  const struct runner_call_events *events, void *context)
{
    if (runner->driver != NULL) {
        return runner->driver->invoke(runner, slot_index, invocation, events, context);
    }
    CHECK(!runner->is_over);
    CHECK(slot_index < runner->slot_count);
    CHECK(invocation->environment_length <= VMM_ENV_MAX);

    struct slot *slot = &runner->slots[slot_index];
    CHECK(slot->call == NULL);
    struct runner_call *call = NEW(struct runner_call);
    call->runner = runner;
    call->slot = slot_index;
    call->sequence = ++slot->sequence == 0 ? ++slot->sequence : slot->sequence;
    call->events = *events;
    call->context = context;
    if (invocation->timeout_ms > 0) {
        call->answer_by_ms =
            loop_now_ms(runner->loop) + invocation->timeout_ms + runner->patience_ms;
    }
    slot->call = call;

    /* More than a frame holds goes in pieces. */
    struct runner_invocation first = *invocation;
    size_t rest = 0;
    if (first.input_length > PROTOCOL_PIECE) {
        rest = first.input_length - PROTOCOL_PIECE;
        first.input_length = PROTOCOL_PIECE;
        first.input_continues = true;
    }
    send_invoke(slot, &first);
    if (rest > 0) {
        runner_call_write(call, (const uint8_t *)invocation->input + PROTOCOL_PIECE, rest);
        if (!invocation->input_continues) {
            runner_call_finish_input(call);
        }
    }
    return call;
}

static void queue_frame(struct runner_call *call, struct buffer *queue, enum frame_type type,
                        const void *bytes, size_t length)
{
    uint32_t words[2] = {type, (uint32_t)length};
    buffer_append(queue, words, sizeof(words));
    buffer_append(queue, bytes, length);
    runner_slot_watch(&call->runner->slots[call->slot]);
}

/* In order, and not while the slot waits for an answer: it would have to keep it. */
static bool may_send_input(const struct runner_call *call)
{
    return call->queue.used == 0 && call->replies.used == 0 && !call->is_asking;
}

bool runner_call_write(struct runner_call *call, const void *bytes, size_t length)
{
    if (call->driver != NULL) {
        return call->driver->write(call, bytes, length);
    }
    struct slot *slot = &call->runner->slots[call->slot];
    const uint8_t *at = bytes;
    while (length > 0) {
        size_t part = length < PROTOCOL_PIECE ? length : PROTOCOL_PIECE;
        if (!may_send_input(call) || !send_input(slot, FRAME_INPUT, at, part)) {
            queue_frame(call, &call->queue, FRAME_INPUT, at, part);
        }
        at += part;
        length -= part;
    }
    call->wants_writable = call->queue.used > 0;
    return call->queue.used == 0;
}

void runner_call_finish_input(struct runner_call *call)
{
    if (call->driver != NULL) {
        call->driver->finish_input(call);
        return;
    }
    struct slot *slot = &call->runner->slots[call->slot];
    if (!may_send_input(call) || !send_input(slot, FRAME_INPUT_END, NULL, 0)) {
        queue_frame(call, &call->queue, FRAME_INPUT_END, NULL, 0);
    }
}

void runner_call_answer(struct runner_call *call, const void *reply, size_t length)
{
    CHECK(call->is_asking);
    CHECK(length <= ABI_HOST_BYTES_MAX);
    struct slot *slot = &call->runner->slots[call->slot];
    const uint8_t *at = reply;
    size_t left = length;
    call->is_asking = false;
    do {
        const uint32_t words[2] = {call->question_number, (uint32_t)length};
        BUFFER_OWNED struct buffer piece = {0};
        size_t part = left < PROTOCOL_PIECE ? left : PROTOCOL_PIECE;
        buffer_append(&piece, words, sizeof(words));
        if (part > 0) {
            buffer_append(&piece, at, part);
            at += part;
            left -= part;
        }
        if (call->replies.used > 0 || !send_input(slot, FRAME_HOST_REPLY, piece.data, piece.used)) {
            queue_frame(call, &call->replies, FRAME_HOST_REPLY, piece.data, piece.used);
        }
    } while (left > 0);
    runner_slot_watch(slot); /* input that was held back goes on */
}

void runner_call_pause(struct runner_call *call)
{
    if (call->driver != NULL) {
        call->driver->pause(call);
        return;
    }
    call->paused = true;
    runner_slot_watch(&call->runner->slots[call->slot]);
}

void runner_call_resume(struct runner_call *call)
{
    if (call->driver != NULL) {
        call->driver->resume(call);
        return;
    }
    call->paused = false;
    uint64_t soonest_ms = loop_now_ms(call->runner->loop) + call->runner->patience_ms;
    if (call->answer_by_ms > 0 && call->answer_by_ms < soonest_ms) {
        call->answer_by_ms = soonest_ms; /* the end may be in the socket already */
    }
    runner_slot_watch(&call->runner->slots[call->slot]);
}

void runner_call_cancel(struct runner_call *call)
{
    if (call->driver != NULL) {
        call->driver->cancel(call);
        return;
    }
    struct frame_cancel request = {.frame = {.type = FRAME_CANCEL, .sequence = call->sequence},
                                   .slot = call->slot};
    runner_call_resume(call); /* what it still says must be read for its end to be seen */
    /* A full socket wakes it as well. */
    send_input(&call->runner->slots[call->slot], FRAME_WAKE, NULL, 0);
    runner_post(call->runner, &request, sizeof(request), -1);
}
