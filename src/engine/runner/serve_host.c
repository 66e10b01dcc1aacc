/*
 * Questions of a function, on the slot's thread: to the daemon in pieces, then wait.
 *
 * The wait ends with the answer, at the call's deadline, or by a cancellation, which comes as WAKE
 * on the socket (nothing else could interrupt a wait where there is no watchdog).  The daemon sends
 * no input while it has a question; what it sent before is kept, and is no more than a socket
 * holds.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "base/check.h"
#include "base/clock.h"

#include "engine/runner/serve.h"

bool serve_host_is_over(struct slot *slot, uint64_t deadline_ns)
{
    return atomic_load(&slot->cancelled) || clock_monotonic_ns() >= deadline_ns;
}

/* False: the call is over. */
static bool send_question(struct slot *slot, const uint8_t *bytes, size_t length,
                          uint64_t deadline_ns)
{
    struct frame_host head = {
        .frame = {.type = FRAME_HOST, .sequence = slot->sequence},
        .number = ++slot->question_number,
        .length = (uint32_t)length,
    };
    size_t sent = 0;
    do {
        size_t part = length - sent < PROTOCOL_PIECE ? length - sent : PROTOCOL_PIECE;
        struct iovec parts[2] = {{&head, sizeof(head)}, {(void *)(uintptr_t)(bytes + sent), part}};
        while (send_frame(slot->fd, parts, 2) < 0) {
            if (errno != EINTR) {
                leave(0);
            }
            if (serve_host_is_over(slot, deadline_ns)) {
                return false;
            }
        }
        sent += part;
    } while (sent < length);
    return true;
}

static void keep_input(struct slot *slot, size_t length)
{
    buffer_append_u32(&slot->early, (uint32_t)length);
    buffer_append(&slot->early, slot->heard, length);
}

bool serve_host_took(struct slot *slot)
{
    uint32_t length = 0;
    if (slot->early.used == 0) {
        return false;
    }
    memcpy(&length, slot->early.data, sizeof(length));
    CHECK(length >= sizeof(struct frame) && length <= PROTOCOL_FRAME);
    memcpy(slot->piece, slot->early.data + sizeof(length), length);
    buffer_consume(&slot->early, sizeof(length) + length);
    struct frame head;
    memcpy(&head, slot->piece, sizeof(head));
    slot->input_ended = head.type == FRAME_INPUT_END;
    slot->piece_used = sizeof(head);
    slot->piece_length = length;
    return true;
}

/* What the daemon says now; true: the answer is whole. */
static bool take_heard(struct slot *slot, size_t length, struct buffer *reply)
{
    struct frame_host head = {0};
    memcpy(&head, slot->heard, length < sizeof(head) ? length : sizeof(head));
    if (length < sizeof(head.frame)) {
        leave(1);
    }
    if (head.frame.sequence != slot->sequence) {
        return false;
    }
    if (head.frame.type == FRAME_INPUT || head.frame.type == FRAME_INPUT_END) {
        keep_input(slot, length);
        return false;
    }
    if (head.frame.type == FRAME_WAKE) {
        atomic_store(&slot->cancelled, true);
        return false;
    }
    if (head.frame.type != FRAME_HOST_REPLY || length < sizeof(head) ||
        head.number != slot->question_number) {
        return false;
    }
    buffer_append(reply, slot->heard + sizeof(head), length - sizeof(head));
    return reply->used >= head.length;
}

void serve_host_wait(const struct slot *slot, uint64_t deadline_ns)
{
    uint64_t now_ns = clock_monotonic_ns();
    uint64_t left_ns = deadline_ns > now_ns ? deadline_ns - now_ns : 0;
    struct timespec left = {.tv_sec = (time_t)(left_ns / 1000000000),
                            .tv_nsec = (long)(left_ns % 1000000000)};
    struct pollfd item = {.fd = slot->fd, .events = POLLIN};
    ppoll(&item, 1, &left, NULL);
}

int serve_host(const void *request, size_t length, uint64_t deadline_ns, struct buffer *reply,
               void *context)
{
    struct slot *slot = context;
    uint8_t *output = slot->answer + sizeof(struct frame_end);
    /* What was written so far is seen while the function waits. */
    if (slot->output_length > 0 && !flush_piece(slot, FRAME_OUTPUT, output, &slot->output_length)) {
        return -1;
    }
    if (!send_question(slot, request, length, deadline_ns)) {
        return -1;
    }
    while (!serve_host_is_over(slot, deadline_ns)) {
        ssize_t got = recv(slot->fd, slot->heard, PROTOCOL_FRAME, MSG_DONTWAIT);
        if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) {
            leave(0);
        }
        if (got < 0) {
            serve_host_wait(slot, deadline_ns);
        } else if (take_heard(slot, (size_t)got, reply)) {
            return 0;
        }
    }
    return -1;
}
