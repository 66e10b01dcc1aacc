/*
 * The connection to a machine's agent: dialling, sessions, and who gets which frame.
 *
 * QEMU's chardev takes one client at a time and buffers nothing for it; a connection says nothing
 * about whether the guest is there.  So a session is begun by RESET and counts from the HELLO that
 * carries its nonce; whatever ends it closes the connection too, except that a guest which begins
 * anew (HELLO with nonce 0) gets its RESET on the same one, unless one is on its way already.
 */
#include "engine/agent/agent.h"

#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "base/memory.h"
#include "base/random.h"

#include "engine/agent/private.h"

/* So many sessions may begin in AGENT_RETRY_MS; a guest that wants more waits. */
enum { RESETS_MAX = 4, RETRY_MS = 20, GREETING_MAX = 64, DIAL_MS = 5000 };
/* A guest that has just opened its port finds the RESET there that was sent while it booted: one
 * round trip less than another one takes.  Where the guest before it had read that, nobody answers.
 */
enum { AWAIT_MS = 250 };
/* A guest that says nothing is asked again, more and more seldom: it may never have had an agent.
 */
enum { PATIENCE_FIRST_MS = 5000, PATIENCE_LAST_MS = 300000 };

static void connect_now(void *context);

void agent_send(struct agent *agent, enum agent_frame_type type, enum agent_stream stream,
                uint16_t operation, uint32_t id, const void *payload, size_t length)
{
    CHECK(agent->stream != NULL);
    CHECK(length <= AGENT_FRAME_MAX - AGENT_HEAD_SIZE);
    const struct agent_frame_head head = {
        .type = (uint8_t)type, .stream = (uint8_t)stream, .operation = operation, .id = id};
    BUFFER_OWNED struct buffer bytes = {0};
    buffer_reserve(&bytes, length + length / 254 + 16);
    agent_frame_append(&bytes, &head, payload, length);
    stream_write(agent->stream, bytes.data, bytes.used);
}

/* ---- Sessions ---- */

static void begin_session(struct agent *agent)
{
    BUFFER_OWNED struct buffer body = {0};
    agent->nonce = random_u64() | 1; /* never 0, which is the guest's */
    agent->state = AGENT_RESETTING;
    agent->is_awaited = false;
    agent->last_id = 0;
    agent->resets++;
    loop_timer_start(agent->retry, agent->patience_ms);
    agent->patience_ms =
        agent->patience_ms * 2 < PATIENCE_LAST_MS ? agent->patience_ms * 2 : PATIENCE_LAST_MS;
    agent_put_number(&body, AGENT_NONCE, agent->nonce);
    agent_put_number(&body, AGENT_VERSION_MIN, AGENT_VERSION);
    agent_put_number(&body, AGENT_VERSION_MAX, AGENT_VERSION);
    stream_write(agent->stream, "", 1); /* the zero that ends what an earlier session left */
    agent_send(agent, AGENT_RESET, AGENT_STREAM_IN, 0, 0, body.data, body.used);
}

static bool may_begin(struct agent *agent)
{
    uint64_t now_ms = loop_now_ms(agent->loop);
    if (now_ms - agent->resets_since_ms >= AGENT_RETRY_MS) {
        agent->resets_since_ms = now_ms;
        agent->resets = 0;
    }
    return agent->resets < RESETS_MAX;
}

/* The connection stays; its calls, if there were any, end. */
static void end_session(struct agent *agent, const struct error *error)
{
    bool was_up = agent->state == AGENT_UP;
    agent->state = agent->stream != NULL ? AGENT_RESETTING : AGENT_CONNECTING;
    agent->nonce = 0;
    agent_calls_fail(agent, error);
    if (!agent->is_closed && was_up) {
        agent->events.on_down(error, agent->context);
    }
}

static void disconnect(struct agent *agent)
{
    stream_dial_cancel(agent->dial);
    stream_close(agent->stream);
    agent->dial = NULL;
    agent->stream = NULL;
    agent_receiver_reset(&agent->receiver);
    buffer_clear(&agent->greeting);
}

static void try_again(struct agent *agent, uint64_t delay_ms)
{
    if (!agent->is_closed) {
        loop_timer_start(agent->retry, delay_ms);
    }
}

void agent_break(struct agent *agent, const char *what)
{
    struct error error = {0};
    error_set(&error, ERROR_PROTOCOL, "the machine's agent broke the protocol: %s", what);
    disconnect(agent);
    end_session(agent, &error);
    try_again(agent, AGENT_RETRY_MS);
}

/* ---- What comes ---- */

static void take_hello(struct agent *agent, const struct agent_frame *frame)
{
    struct agent_info info;
    uint64_t nonce = 0;
    if (!agent_read_info(agent_reader_of(frame->payload, frame->length), &info, &nonce)) {
        agent_break(agent, "its HELLO makes no sense");
        return;
    }
    if (nonce == 0 && agent->state == AGENT_RESETTING && agent->nonce != 0 && !agent->is_awaited) {
        agent->is_awaited = true;
        loop_timer_start(agent->retry, AWAIT_MS);
        return;
    }
    if (nonce == 0) {
        struct error error = {0};
        error_set(&error, ERROR_UNAVAILABLE, "the machine's agent began anew");
        end_session(agent, &error);
        if (agent->is_closed || agent->stream == NULL) {
            return;
        }
        if (may_begin(agent)) {
            begin_session(agent);
        } else {
            try_again(agent, AGENT_RETRY_MS);
        }
        return;
    }
    if (nonce != agent->nonce || agent->state != AGENT_RESETTING) {
        return; /* of an earlier session */
    }
    if (info.version == 0) {
        struct error error = {0};
        error_set(&error, ERROR_UNSUPPORTED,
                  "the machine's agent (%s) does not speak version %d of the protocol: boot the "
                  "machine with an agent of this release",
                  info.program, AGENT_VERSION);
        agent->nonce = 0;
        loop_timer_stop(agent->retry);
        agent->events.on_down(&error, agent->context);
        return;
    }
    agent->info = info;
    agent->state = AGENT_UP;
    agent->patience_ms = PATIENCE_FIRST_MS;
    loop_timer_stop(agent->retry);
    agent->events.on_up(&agent->info, agent->context);
}

static void take_frame(struct agent *agent, const struct agent_frame *frame)
{
    struct agent_event event;
    if (frame->head.type == AGENT_HELLO) {
        take_hello(agent, frame);
    } else if (agent->state != AGENT_UP) {
        return; /* the rest of an earlier session */
    } else if (frame->head.type == AGENT_EVENT) {
        if (stream_waiting(agent->stream) < AGENT_PIECE_MAX) { /* one that reads none gets none */
            agent_send(agent, AGENT_CREDIT, AGENT_STREAM_IN, 0, 0, NULL, 0);
        }
        if (agent->events.on_event != NULL &&
            agent_read_event(agent_reader_of(frame->payload, frame->length), &event)) {
            agent->events.on_event(&event, agent->context);
        }
    } else {
        agent_call_take(agent, frame);
    }
}

/* "OK 1073741824\n", or the end of the connection.  What is behind it is the stream's. */
static bool take_greeting(struct agent *agent, const uint8_t **bytes, size_t *length)
{
    while (*length > 0) {
        uint8_t byte = **bytes;
        (*bytes)++;
        (*length)--;
        if (byte == '\n') {
            buffer_string(&agent->greeting);
            if (strncmp((const char *)agent->greeting.data, "OK ", 3) == 0) {
                begin_session(agent);
                return true;
            }
            break;
        }
        if (agent->greeting.used >= GREETING_MAX) {
            break;
        }
        buffer_append_byte(&agent->greeting, byte);
    }
    if (*length > 0 || agent->greeting.used >= GREETING_MAX) {
        agent_break(agent, "its vsock does not say OK");
    }
    return false;
}

static void on_data(const void *data, size_t length, void *context)
{
    struct agent *agent = context;
    const uint8_t *bytes = data;
    const struct stream *stream = agent->stream;
    struct agent_frame frame;
    if (agent->state == AGENT_GREETING && !take_greeting(agent, &bytes, &length)) {
        return;
    }
    while (agent->stream == stream && agent_receive(&agent->receiver, &bytes, &length, &frame)) {
        take_frame(agent, &frame);
    }
}

static void on_drained(void *context)
{
    agent_calls_go_on(context);
}

static void on_end(const struct error *cause, void *context)
{
    struct agent *agent = context;
    struct error error = {0};
    error_set(&error, ERROR_UNAVAILABLE, "the connection to the machine's agent was lost%s%s",
              cause != NULL ? ": " : "", cause != NULL ? cause->text : "");
    bool was_up = agent->state == AGENT_UP;
    disconnect(agent);
    end_session(agent, &error);
    if (was_up) {
        agent->retry_ms = agent->first_retry_ms;
    }
    try_again(agent, agent->retry_ms);
}

/* ---- Connecting ---- */

static void on_dialled(struct stream *stream, const struct error *error, void *context)
{
    static const struct stream_events events = {on_data, on_drained, on_end};
    struct agent *agent = context;
    agent->dial = NULL;
    uint64_t doubled_ms = agent->retry_ms * 2;
    if (error != NULL) {
        agent->retry_ms = doubled_ms < AGENT_RETRY_MS ? doubled_ms : AGENT_RETRY_MS;
        try_again(agent, agent->retry_ms);
        return;
    }
    agent->stream = stream;
    stream_start(stream, &events, agent);
    if (agent->vsock_port != 0) {
        char line[32];
        int length = snprintf(line, sizeof(line), "CONNECT %u\n", (unsigned)agent->vsock_port);
        agent->state = AGENT_GREETING;
        agent->retry_ms = doubled_ms < AGENT_RETRY_MS ? doubled_ms : AGENT_RETRY_MS;
        stream_write(stream, line, (size_t)length);
    } else {
        begin_session(agent);
    }
}

static void connect_now(void *context)
{
    struct agent *agent = context;
    const struct stream_dial_options options = {.timeout_ms = DIAL_MS};
    if (agent->stream != NULL && stream_waiting(agent->stream) > 0) {
        loop_timer_start(agent->retry, PATIENCE_FIRST_MS); /* nobody reads: one RESET is enough */
        return;
    }
    if (agent->stream != NULL) {
        (void)may_begin(agent);
        begin_session(agent);
        return;
    }
    agent->state = AGENT_CONNECTING;
    agent->dial = stream_dial(agent->loop, agent->address, &options, on_dialled, agent);
}

int agent_open(struct loop *loop, const struct agent_options *options,
               const struct agent_events *events, void *context, struct agent **ret_agent,
               struct error *err)
{
    CHECK(loop_is_mine(loop));
    CHECK(events->on_up != NULL && events->on_down != NULL);
    MEMORY_OWNED char *address = memory_format("unix:%s", options->path);
    struct stream_address parsed;
    int r = stream_address_parse(address, &parsed, err);
    if (r < 0) {
        return r;
    }
    struct agent *agent = NEW(struct agent);
    agent->loop = loop;
    agent->events = *events;
    agent->context = context;
    agent->address = address;
    address = NULL;
    agent->vsock_port = options->vsock_port;
    agent->first_retry_ms = options->retry_ms > 0 ? options->retry_ms : RETRY_MS;
    agent->retry_ms = agent->first_retry_ms;
    agent->patience_ms = PATIENCE_FIRST_MS;
    agent->retry = loop_timer_new(loop, connect_now, agent);
    agent->resets_since_ms = loop_now_ms(loop);
    list_init(&agent->calls);
    list_init(&agent->failing);
    connect_now(agent);
    *ret_agent = agent;
    return 0;
}

static void free_agent(void *argument)
{
    struct agent *agent = argument;
    CHECK(list_is_empty(&agent->calls));
    buffer_done(&agent->receiver.held);
    buffer_done(&agent->greeting);
    free(agent->address);
    free(agent);
}

void agent_close(struct agent *agent)
{
    if (agent == NULL) {
        return;
    }
    CHECK(!agent->is_closed);
    struct error error = {0};
    agent->is_closed = true;
    agent->state = AGENT_CONNECTING; /* it is not up for those whose calls end by this */
    disconnect(agent);
    loop_timer_free(agent->retry);
    agent->retry = NULL;
    error_set(&error, ERROR_CANCELLED, "the machine's agent is not spoken to any more");
    agent_calls_fail(agent, &error);
    loop_post(agent->loop, free_agent, agent);
}

void agent_forsake(struct agent *agent)
{
    struct error error = {0};
    CHECK(agent->state == AGENT_UP && !agent->is_closed);
    error_set(&error, ERROR_UNAVAILABLE, "the machine's agent does not answer any more");
    end_session(agent, &error);
    try_again(agent, AGENT_RETRY_MS);
}

bool agent_is_up(const struct agent *agent)
{
    return agent->state == AGENT_UP;
}

const struct agent_info *agent_last_info(const struct agent *agent)
{
    return agent->state == AGENT_UP ? &agent->info : NULL;
}
