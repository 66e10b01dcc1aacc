/*
 * A connection to the host: frames in and out, sessions.
 *
 * A virtio-serial port is one connection for the whole life of the machine, whose other end comes
 * and goes: read(2) then gives 0 and poll(2) POLLHUP, over and over.  It is left out of poll for a
 * while each time, and the kernel is asked for SIGIO when somebody comes (drivers/char/
 * virtio_console.c sends it on every change), so that a host that connects is not kept waiting.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <termios.h>
#include <unistd.h>

#include "base/memory.h"

#include "guest/agent/private.h"

enum {
    OUT_MAX = 8 * AGENT_PIECE_MAX,
    RETRY_FIRST_MS = 10,
    RETRY_LAST_MS = 500,
    GIVE_UP_MS = 500,
    READ_STEP = 65536
};

struct link *link_new(const char *port, int fd)
{
    struct link *link = NEW(struct link);
    link->port = port;
    link->fd = fd;
    link->retry_ms = RETRY_FIRST_MS;
    list_init(&link->jobs);
    return link;
}

static void end_session(struct link *link)
{
    LIST_EACH(node, &link->jobs)
    {
        job_abandon(LIST_ITEM(node, struct job, node));
    }
    link->has_session = false;
    link->has_lost = link->has_lost || link->unheard > 0;
    link->unheard = 0;
    buffer_done(&link->out);
}

void link_free(struct link *link)
{
    end_session(link);
    if (link->fd >= 0) {
        close(link->fd);
    }
    buffer_done(&link->receiver.held);
    list_remove(&link->node);
    free(link);
}

bool link_is_full(const struct link *link)
{
    return link->out.used >= OUT_MAX;
}

/* ---- Out ---- */

void link_send(struct link *link, enum agent_frame_type type, enum agent_stream stream, uint32_t id,
               const void *payload, size_t length)
{
    const struct agent_frame_head head = {
        .type = (uint8_t)type, .stream = (uint8_t)stream, .id = id};
    agent_frame_append(&link->out, &head, payload, length);
}

void link_answer(struct link *link, uint32_t id, const struct error *error,
                 const struct buffer *fields)
{
    BUFFER_OWNED struct buffer answer = {0};
    agent_put_number(&answer, AGENT_ERROR_KIND, error != NULL ? error->kind : ERROR_NONE);
    if (error != NULL) {
        agent_put_number(&answer, AGENT_ERROR_NUMBER, (uint64_t)error->os_errno);
        agent_put_text(&answer, AGENT_ERROR_TEXT, error->text);
    } else if (fields != NULL) {
        buffer_append(&answer, fields->data, fields->used);
    }
    link_send(link, AGENT_ANSWER, AGENT_STREAM_IN, id, answer.data, answer.used);
}

bool link_event(struct list *links, const struct buffer *fields)
{
    bool is_sent = false;
    LIST_EACH(node, links)
    {
        struct link *link = LIST_ITEM(node, struct link, node);
        if (link->has_session && !link_is_full(link)) {
            link_send(link, AGENT_EVENT, AGENT_STREAM_IN, 0, fields->data, fields->used);
            link->unheard++;
            is_sent = true;
        }
    }
    return is_sent;
}

static void say_hello(struct link *link, uint64_t nonce, unsigned spoken)
{
    BUFFER_OWNED struct buffer fields = {0};
    info_put(&fields, nonce, spoken);
    buffer_append_byte(&link->out, 0);
    link_send(link, AGENT_HELLO, AGENT_STREAM_IN, 0, fields.data, fields.used);
}

/* ---- The port's other end ---- */

/*
 * That a host has gone, or come, the kernel learns by another queue than what it sends: the RESET
 * of the next one may be read while the port still looks, or looks again, as if nobody were there.
 * So what is to be sent is kept for a while; a host that stays away is given up.
 */
static void lose(struct link *link, uint64_t now)
{
    if (link->port == NULL) {
        end_session(link);
        link->is_gone = true;
        return;
    }
    if (!link->is_hung_up) {
        link->retry_ms = RETRY_FIRST_MS;
        link->hung_up_at_ms = now;
        fcntl(link->fd, F_SETOWN, getpid());
        fcntl(link->fd, F_SETFL, O_NONBLOCK | O_ASYNC);
    } else if (now - link->hung_up_at_ms >= GIVE_UP_MS) {
        end_session(link);
        agent_receiver_reset(&link->receiver);
    }
    link->is_hung_up = true;
    link->retry_at_ms = now + link->retry_ms;
    link->retry_ms = link->retry_ms * 2 < RETRY_LAST_MS ? link->retry_ms * 2 : RETRY_LAST_MS;
}

static void found(struct link *link)
{
    if (link->is_hung_up) {
        link->is_hung_up = false;
        fcntl(link->fd, F_SETFL, O_NONBLOCK);
    }
}

static void open_port(struct link *link, uint64_t now)
{
    link->fd = open(link->port, O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
    if (link->fd < 0) {
        link->retry_at_ms = now + link->retry_ms;
        link->retry_ms = link->retry_ms * 2 < RETRY_LAST_MS ? link->retry_ms * 2 : RETRY_LAST_MS;
        return;
    }
    struct termios terminal;
    if (tcgetattr(link->fd, &terminal) == 0) { /* a serial line or a pty in place of the port */
        cfmakeraw(&terminal);
        tcsetattr(link->fd, TCSANOW, &terminal);
    }
    link->retry_at_ms = 0;
    link->retry_ms = RETRY_FIRST_MS;
    say_hello(link, 0, AGENT_VERSION);
}

/* ---- In ---- */

static void begin_session(struct link *link, const struct agent_frame *frame)
{
    struct agent_reader request = agent_reader_of(frame->payload, frame->length);
    uint64_t nonce = request_number(request, AGENT_NONCE, 0);
    uint64_t least = request_number(request, AGENT_VERSION_MIN, 0);
    uint64_t most = request_number(request, AGENT_VERSION_MAX, 0);
    bool is_spoken = least <= AGENT_VERSION && most >= AGENT_VERSION;
    if (frame->head.id != 0 || nonce == 0) {
        return;
    }
    end_session(link);
    link->has_session = is_spoken;
    say_hello(link, nonce, is_spoken ? AGENT_VERSION : 0);
}

static void take_frame(struct link *link, const struct agent_frame *frame)
{
    if (frame->head.type == AGENT_RESET) {
        begin_session(link, frame);
        return;
    }
    if (link->has_session && frame->head.id == 0 && frame->head.type == AGENT_CREDIT) {
        link->unheard -= link->unheard > 0;
    }
    if (!link->has_session || frame->head.id == 0) {
        return;
    }
    if (frame->head.type == AGENT_REQUEST) {
        request_begin(link, frame);
        return;
    }
    struct job *job = job_find(link, frame->head.id);
    if (job == NULL) {
        return;
    }
    if (frame->head.type == AGENT_DATA || frame->head.type == AGENT_END) {
        job_take_data(job, frame);
    } else if (frame->head.type == AGENT_CREDIT) {
        job_take_credit(job, frame);
    } else if (frame->head.type == AGENT_CONTROL) {
        job_control(job, agent_reader_of(frame->payload, frame->length));
    } else if (frame->head.type == AGENT_CANCEL) {
        job_cancel(job);
    }
}

static void read_some(struct link *link, uint64_t now)
{
    static uint8_t bytes[READ_STEP];
    ssize_t got = read(link->fd, bytes, sizeof(bytes));
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
        return;
    }
    if (got <= 0) {
        lose(link, now);
        return;
    }
    const uint8_t *at = bytes;
    size_t left = (size_t)got;
    struct agent_frame frame;
    found(link);
    while (agent_receive(&link->receiver, &at, &left, &frame)) {
        take_frame(link, &frame);
    }
}

static void write_some(struct link *link, uint64_t now)
{
    while (link->out.used > 0) {
        size_t length = link->out.used < AGENT_PIECE_MAX ? link->out.used : AGENT_PIECE_MAX;
        ssize_t wrote = write(link->fd, link->out.data, length);
        if (wrote < 0 && errno == EINTR) {
            continue;
        }
        if (wrote < 0 && errno != EAGAIN) {
            lose(link, now);
        }
        if (wrote <= 0) {
            return;
        }
        buffer_consume(&link->out, (size_t)wrote);
    }
}

short link_wants(const struct link *link, uint64_t now)
{
    if (link->fd < 0 || (link->is_hung_up && now < link->retry_at_ms)) {
        return 0;
    }
    return (short)((link->out.used < (size_t)4 * OUT_MAX ? POLLIN : 0) |
                   (link->out.used > 0 ? POLLOUT : 0));
}

void link_ready(struct link *link, short events, uint64_t now)
{
    if (link->fd < 0) {
        if (now >= link->retry_at_ms) {
            open_port(link, now);
        }
        return;
    }
    if (link->is_hung_up && (events == 0 || now < link->retry_at_ms)) {
        return;
    }
    if ((events & POLLIN) != 0) {
        read_some(link, now);
    } else if ((events & (POLLHUP | POLLERR | POLLNVAL)) != 0) {
        lose(link, now);
        return;
    } else if (link->is_hung_up) {
        found(link);
    }
    /* Answers go out at once, without another turn of poll. */
    if (!link->is_hung_up && !link->is_gone) {
        write_some(link, now);
    }
}
