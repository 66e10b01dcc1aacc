/* The client against a guest that the test plays: what sessions, streams and ends are. */
#include "engine/agent/agent.h"

#include <signal.h>

#include "base/loop/loop.h"
#include "base/memory.h"

#include "test/lib/test.h"

struct scene {
    struct loop *loop;
    uv_pipe_t listener;
    uv_pipe_t *guest; /* the connection, or NULL */
    struct agent *agent;
    char path[96];
    unsigned connections;
    /* What the guest has heard. */
    struct agent_receiver receiver;
    uint64_t nonce;
    unsigned resets;
    unsigned counts[AGENT_FRAME_TYPES];
    uint32_t last_id;
    unsigned last_operation;
    uint64_t heard_bytes;
    uint64_t credit_bytes;
    /* What the daemon was told. */
    unsigned ups;
    unsigned downs;
    enum error_kind down_kind;
    struct agent_event event;
    unsigned events;
    unsigned ends;
    struct error error;
    struct agent_result result;
    struct agent_stat stat;
    int pid;
    struct buffer output;
    unsigned writables;
    bool closes_when_ended;
};

static struct scene scene;

struct sending {
    uv_write_t write;
    char *bytes;
};

static void on_sent(uv_write_t *write, int status)
{
    struct sending *sending = (struct sending *)write;
    (void)status;
    free(sending->bytes);
    free(sending);
}

static void say_bytes(const void *bytes, size_t length)
{
    struct sending *sending = NEW(struct sending);
    sending->bytes = memory_copy_text(bytes, length);
    uv_buf_t lent = uv_buf_init(sending->bytes, (unsigned)length);
    EXPECT(uv_write(&sending->write, (uv_stream_t *)scene.guest, &lent, 1, on_sent) == 0);
}

static void say(enum agent_frame_type type, enum agent_stream stream, uint32_t id,
                const void *payload, size_t length)
{
    const struct agent_frame_head head = {(uint8_t)type, (uint8_t)stream, 0, id};
    BUFFER_OWNED struct buffer out = {0};
    agent_frame_append(&out, &head, payload, length);
    say_bytes(out.data, out.used);
}

static void say_hello(uint64_t nonce, uint64_t version)
{
    BUFFER_OWNED struct buffer body = {0};
    agent_put_number(&body, AGENT_NONCE, nonce);
    agent_put_number(&body, AGENT_SPOKEN, version);
    agent_put_text(&body, AGENT_HOSTNAME, "w\x1b[2Jeb");
    agent_put_text(&body, AGENT_KERNEL, "6.1\xff");
    say(AGENT_HELLO, 0, 0, body.data, body.used);
}

static void answer(uint32_t id, enum error_kind kind, const char *text)
{
    BUFFER_OWNED struct buffer body = {0};
    agent_put_number(&body, AGENT_ERROR_KIND, kind);
    agent_put_text(&body, AGENT_ERROR_TEXT, text);
    say(AGENT_ANSWER, 0, id, body.data, body.used);
}

static void heard(const struct agent_frame *frame)
{
    struct agent_reader reader = agent_reader_of(frame->payload, frame->length);
    struct agent_field field;
    scene.counts[frame->head.type]++;
    if (frame->head.type == AGENT_RESET) {
        scene.resets++;
        while (agent_next(&reader, &field)) {
            scene.nonce = field.tag == AGENT_NONCE ? agent_field_number(&field) : scene.nonce;
        }
    } else if (frame->head.type == AGENT_REQUEST) {
        scene.last_id = frame->head.id;
        scene.last_operation = frame->head.operation;
    } else if (frame->head.type == AGENT_DATA) {
        scene.heard_bytes += frame->length;
    } else if (frame->head.type == AGENT_CREDIT) {
        scene.credit_bytes += agent_credit_read(frame);
    }
}

static void on_closed(uv_handle_t *handle)
{
    free(handle);
}

static void hang_up(void)
{
    if (scene.guest != NULL) {
        uv_close((uv_handle_t *)scene.guest, on_closed);
        scene.guest = NULL;
    }
}

static void on_allocate(uv_handle_t *handle, size_t suggested, uv_buf_t *ret_buffer)
{
    static char place[65536];
    (void)handle;
    (void)suggested;
    *ret_buffer = uv_buf_init(place, sizeof(place));
}

static void on_read(uv_stream_t *uv, ssize_t got, const uv_buf_t *buffer)
{
    const uint8_t *bytes = (const uint8_t *)buffer->base;
    size_t length = got > 0 ? (size_t)got : 0;
    struct agent_frame frame;
    while (agent_receive(&scene.receiver, &bytes, &length, &frame)) {
        heard(&frame);
    }
    if (got < 0 && uv == (uv_stream_t *)scene.guest) {
        hang_up();
    }
}

static void on_connection(uv_stream_t *listener, int status)
{
    EXPECT(status == 0 && scene.guest == NULL);
    scene.connections++;
    scene.guest = NEW(uv_pipe_t);
    agent_receiver_reset(&scene.receiver);
    EXPECT(uv_pipe_init(listener->loop, scene.guest, 0) == 0);
    EXPECT(uv_accept(listener, (uv_stream_t *)scene.guest) == 0);
    EXPECT(uv_read_start((uv_stream_t *)scene.guest, on_allocate, on_read) == 0);
}

static void on_up(const struct agent_info *info, void *context)
{
    EXPECT(context == &scene && agent_is_up(scene.agent));
    EXPECT_STRING(info->hostname, "w?[2Jeb");
    EXPECT_STRING(info->kernel, "6.1?");
    scene.ups++;
}

static void on_down(const struct error *error, void *context)
{
    (void)context;
    scene.downs++;
    scene.down_kind = error->kind;
}

static void on_event(const struct agent_event *event, void *context)
{
    (void)context;
    scene.event = *event;
    scene.events++;
}

static void on_done(const struct error *error, const struct agent_result *result, void *context)
{
    (void)context;
    EXPECT((error == NULL) != (result == NULL));
    scene.ends++;
    scene.error = error != NULL ? *error : (struct error){0};
    scene.result = result != NULL ? *result : (struct agent_result){0};
    if (result != NULL && result->stat != NULL) {
        scene.stat = *result->stat;
    }
    if (scene.closes_when_ended) {
        scene.closes_when_ended = false;
        agent_close(scene.agent);
        scene.agent = NULL;
    }
}

static void on_started(int pid, void *context)
{
    (void)context;
    scene.pid = pid;
}

static void on_output(enum agent_stream stream, const void *bytes, size_t length, void *context)
{
    (void)context;
    EXPECT(stream == AGENT_STREAM_OUT && scene.ends == 0);
    buffer_append(&scene.output, bytes, length);
}

static void on_writable(void *context)
{
    (void)context;
    scene.writables++;
}

static const struct agent_call_events call_events = {.on_started = on_started,
                                                     .on_output = on_output,
                                                     .on_writable = on_writable,
                                                     .on_end = on_done};

#define RUN_UNTIL(condition)                      \
    while (!(condition)) {                        \
        uv_run(loop_uv(scene.loop), UV_RUN_ONCE); \
    }

static void begin(uint32_t vsock_port)
{
    static const struct agent_events events = {on_up, on_down, on_event};
    struct error err = {0};
    signal(SIGPIPE, SIG_IGN);
    snprintf(scene.path, sizeof(scene.path), "%s/agent", test_folder());
    EXPECT(loop_new("agent", &scene.loop, &err) == 0);
    EXPECT(uv_pipe_init(loop_uv(scene.loop), &scene.listener, 0) == 0);
    EXPECT(uv_pipe_bind(&scene.listener, scene.path) == 0);
    EXPECT(uv_listen((uv_stream_t *)&scene.listener, 4, on_connection) == 0);
    const struct agent_options options = {.path = scene.path, .vsock_port = vsock_port};
    EXPECT(agent_open(scene.loop, &options, &events, &scene, &scene.agent, &err) == 0);
}

static void begin_up(void)
{
    begin(0);
    RUN_UNTIL(scene.resets == 1);
    say_hello(scene.nonce, AGENT_VERSION);
    RUN_UNTIL(scene.ups == 1);
}

static void end(void)
{
    agent_close(scene.agent);
    hang_up();
    uv_close((uv_handle_t *)&scene.listener, NULL);
    loop_free(scene.loop);
    buffer_done(&scene.receiver.held);
    buffer_done(&scene.output);
}

TEST(agent, begins_a_session_and_asks)
{
    begin_up();
    agent_stat(scene.agent, "/etc", false, on_done, NULL);
    RUN_UNTIL(scene.last_operation == AGENT_STAT);
    BUFFER_OWNED struct buffer body = {0};
    agent_put_number(&body, AGENT_KIND, 040000);
    agent_put_number(&body, AGENT_MODE, 0170755);
    agent_put_number(&body, AGENT_SIZE, 4096);
    say(AGENT_ANSWER, 0, scene.last_id, body.data, body.used);
    RUN_UNTIL(scene.ends == 1);
    EXPECT(scene.error.kind == ERROR_NONE && scene.stat.kind == 040000);
    EXPECT(scene.stat.mode == 0755 && scene.stat.size_bytes == 4096);
    agent_ping(scene.agent, 0, on_done, NULL);
    RUN_UNTIL(scene.last_operation == AGENT_PING);
    answer(scene.last_id, ERROR_NOT_FOUND, "no such thing");
    RUN_UNTIL(scene.ends == 2);
    EXPECT(scene.error.kind == ERROR_NOT_FOUND);
    EXPECT_STRING(scene.error.text, "ping: no such thing");
    end();
}

TEST(agent, fails_calls_while_it_is_not_up)
{
    begin(0);
    agent_ping(scene.agent, 0, on_done, NULL);
    EXPECT(scene.ends == 0);
    RUN_UNTIL(scene.ends == 1);
    EXPECT(scene.error.kind == ERROR_UNAVAILABLE);
    agent_freeze(scene.agent, 0, on_done, NULL);
    RUN_UNTIL(scene.ends == 2);
    EXPECT(scene.error.kind == ERROR_INVALID);
    end();
}

TEST(agent, takes_only_the_hello_of_its_own_session)
{
    begin(0);
    RUN_UNTIL(scene.resets == 1);
    say_bytes("garbage\x01\x02", 9);
    say_bytes("", 1);
    say_hello(scene.nonce + 1, AGENT_VERSION);
    answer(1, ERROR_NONE, "");
    say_hello(scene.nonce, AGENT_VERSION);
    RUN_UNTIL(scene.ups == 1);
    EXPECT(scene.downs == 0 && scene.connections == 1);
    end();
}

/* Goal: a guest that was booted again gets a new session, and what ran in the old one has ended. */
TEST(agent, begins_anew_with_a_guest_that_does)
{
    begin_up();
    uint64_t nonce = scene.nonce;
    agent_ping(scene.agent, 0, on_done, NULL);
    RUN_UNTIL(scene.last_operation == AGENT_PING);
    say_hello(0, AGENT_VERSION);
    RUN_UNTIL(scene.resets == 2);
    EXPECT(scene.nonce != nonce && scene.downs == 1 && scene.ends == 1);
    EXPECT(scene.error.kind == ERROR_UNAVAILABLE && !agent_is_up(scene.agent));
    answer(scene.last_id, ERROR_NONE, "late");
    say_hello(scene.nonce, AGENT_VERSION);
    RUN_UNTIL(scene.ups == 2);
    EXPECT(scene.ends == 1 && scene.connections == 1);
    end();
}

/* Goal: a boot costs one round trip.  Method: the guest finds what was sent before it was there. */
TEST(agent, waits_for_what_a_guest_that_has_begun_will_read)
{
    begin(0);
    RUN_UNTIL(scene.resets == 1);
    uint64_t nonce = scene.nonce;
    say_hello(0, AGENT_VERSION);
    say_hello(nonce, AGENT_VERSION);
    RUN_UNTIL(scene.ups == 1);
    EXPECT(scene.resets == 1 && scene.downs == 0);
    end();
}

/* Goal: one that will not read it gets another.  Method: no answer comes; and a third beginning. */
TEST(agent, asks_again_a_guest_that_has_begun_and_does_not_answer)
{
    begin(0);
    RUN_UNTIL(scene.resets == 1);
    say_hello(0, AGENT_VERSION);
    RUN_UNTIL(scene.resets == 2);
    say_hello(0, AGENT_VERSION);
    say_hello(0, AGENT_VERSION);
    RUN_UNTIL(scene.resets == 3);
    say_hello(scene.nonce, AGENT_VERSION);
    RUN_UNTIL(scene.ups == 1);
    end();
}

TEST(agent, connects_again_when_it_is_cut_off)
{
    begin_up();
    agent_ping(scene.agent, 0, on_done, NULL);
    RUN_UNTIL(scene.last_operation == AGENT_PING);
    hang_up();
    RUN_UNTIL(scene.resets == 2);
    EXPECT(scene.connections == 2 && scene.downs == 1 && scene.ends == 1);
    EXPECT(scene.error.kind == ERROR_UNAVAILABLE);
    say_hello(scene.nonce, AGENT_VERSION);
    RUN_UNTIL(scene.ups == 2);
    end();
}

TEST(agent, says_that_it_cannot_speak_to_another_version)
{
    begin(0);
    RUN_UNTIL(scene.resets == 1);
    say_hello(scene.nonce, 0);
    RUN_UNTIL(scene.downs == 1);
    EXPECT(scene.down_kind == ERROR_UNSUPPORTED && scene.ups == 0);
    end();
}

TEST(agent, asks_a_hybrid_vsock_for_the_port)
{
    begin(AGENT_VSOCK_PORT);
    RUN_UNTIL(scene.receiver.held.used > 0);
    buffer_append_byte(&scene.receiver.held, 0);
    EXPECT_STRING((char *)scene.receiver.held.data, "CONNECT 1024\n");
    agent_receiver_reset(&scene.receiver);
    say_bytes("OK 10737", 8);
    say_bytes("41824\n", 6);
    RUN_UNTIL(scene.resets == 1);
    say_hello(scene.nonce, AGENT_VERSION);
    RUN_UNTIL(scene.ups == 1);
    end();
}

/* ---- Streams ---- */

static struct agent_call *begin_exec(bool has_input)
{
    static const char *const arguments[] = {"cat", NULL};
    const struct agent_exec exec = {.arguments = arguments, .has_input = has_input};
    struct agent_call *call = agent_exec(scene.agent, &exec, &call_events, NULL);
    RUN_UNTIL(scene.last_operation == AGENT_EXEC);
    return call;
}

TEST(agent, runs_a_program_to_its_end)
{
    begin_up();
    begin_exec(false);
    BUFFER_OWNED struct buffer body = {0};
    agent_put_number(&body, AGENT_PID, 42);
    say(AGENT_NOTE, 0, scene.last_id, body.data, body.used);
    say(AGENT_DATA, AGENT_STREAM_OUT, scene.last_id, "hello", 5);
    say(AGENT_END, AGENT_STREAM_OUT, scene.last_id, NULL, 0);
    buffer_clear(&body);
    agent_put_number(&body, AGENT_EXIT_CODE, 3);
    say(AGENT_ANSWER, 0, scene.last_id, body.data, body.used);
    RUN_UNTIL(scene.ends == 1);
    EXPECT(scene.pid == 42 && scene.result.exit.exit_code == 3 && scene.error.kind == 0);
    EXPECT_STRING(buffer_string(&scene.output), "hello");
    end();
}

/* Goal: no more than the window goes out before the guest has given some of it back. */
TEST(agent, sends_no_more_than_the_window)
{
    static const uint8_t bytes[AGENT_WINDOW];
    const uint8_t credit[4] = {0, 0, 2, 0}; /* 131072 */
    begin_up();
    struct agent_call *call = begin_exec(true);
    agent_call_write(call, bytes, sizeof(bytes));
    EXPECT(!agent_call_write(call, bytes, 1000));
    agent_call_finish_input(call);
    RUN_UNTIL(scene.heard_bytes == AGENT_WINDOW);
    agent_ping(scene.agent, 0, on_done, NULL);
    RUN_UNTIL(scene.last_operation == AGENT_PING);
    EXPECT(scene.heard_bytes == AGENT_WINDOW && scene.counts[AGENT_END] == 0);
    say(AGENT_CREDIT, AGENT_STREAM_IN, scene.last_id - 1, credit, 4);
    RUN_UNTIL(scene.heard_bytes >= AGENT_WINDOW + 1000);
    say(AGENT_CREDIT, AGENT_STREAM_IN, scene.last_id - 1, credit, 4);
    RUN_UNTIL(scene.counts[AGENT_END] == 1);
    end();
}

TEST(agent, tells_when_more_can_be_written)
{
    static const uint8_t bytes[AGENT_WINDOW + 10];
    const uint8_t credit[4] = {0, 0, 1, 0};
    begin_up();
    struct agent_call *call = begin_exec(true);
    EXPECT(!agent_call_write(call, bytes, sizeof(bytes)));
    RUN_UNTIL(scene.heard_bytes == AGENT_WINDOW);
    EXPECT(scene.writables == 0);
    say(AGENT_CREDIT, AGENT_STREAM_IN, scene.last_id, credit, 4);
    RUN_UNTIL(scene.writables == 1);
    EXPECT(agent_call_write(call, bytes, 10));
    end();
}

/* Goal: what comes while a call is paused is kept, in order, before its end; and is given back. */
TEST(agent, holds_output_while_paused)
{
    static const uint8_t bytes[AGENT_PIECE_MAX];
    begin_up();
    struct agent_call *call = begin_exec(false);
    agent_call_pause(call);
    for (int i = 0; i < AGENT_WINDOW / AGENT_PIECE_MAX; i++) {
        say(AGENT_DATA, AGENT_STREAM_OUT, scene.last_id, bytes, sizeof(bytes));
    }
    answer(scene.last_id, ERROR_NONE, "");
    agent_ping(scene.agent, 0, on_done, NULL);
    RUN_UNTIL(scene.last_operation == AGENT_PING);
    answer(scene.last_id, ERROR_NONE, "");
    RUN_UNTIL(scene.ends == 1);
    EXPECT(scene.output.used == 0);
    scene.ends = 0;
    agent_call_resume(call);
    EXPECT(scene.output.used == 0);
    RUN_UNTIL(scene.ends == 1);
    EXPECT(scene.output.used == AGENT_WINDOW && scene.error.kind == ERROR_NONE);
    end();
}

TEST(agent, gives_back_what_was_consumed)
{
    static const uint8_t bytes[AGENT_PIECE_MAX];
    begin_up();
    begin_exec(false);
    for (int i = 0; i < AGENT_WINDOW / AGENT_PIECE_MAX; i++) {
        say(AGENT_DATA, AGENT_STREAM_OUT, scene.last_id, bytes, sizeof(bytes));
    }
    RUN_UNTIL(scene.credit_bytes == AGENT_WINDOW);
    EXPECT(scene.output.used == AGENT_WINDOW);
    end();
}

TEST(agent, cancels)
{
    begin_up();
    struct agent_call *call = begin_exec(false);
    agent_call_cancel(call);
    say(AGENT_DATA, AGENT_STREAM_OUT, scene.last_id, "late", 4);
    RUN_UNTIL(scene.counts[AGENT_CANCEL] == 1);
    EXPECT(scene.ends == 0);
    answer(scene.last_id, ERROR_CANCELLED, "killed");
    RUN_UNTIL(scene.ends == 1);
    EXPECT(scene.error.kind == ERROR_CANCELLED && scene.output.used == 0);
    end();
}

/* Goal: a guest that does not answer is not waited for longer than was said. */
TEST(agent, ends_late_calls_by_itself)
{
    begin_up();
    agent_ping(scene.agent, 1, on_done, NULL);
    RUN_UNTIL(scene.counts[AGENT_CANCEL] == 1);
    RUN_UNTIL(scene.ends == 1);
    EXPECT(scene.error.kind == ERROR_TIMEOUT && agent_is_up(scene.agent));
    agent_freeze(scene.agent, 1, on_done, NULL); /* it has thawed by then */
    RUN_UNTIL(scene.counts[AGENT_CANCEL] == 2);
    RUN_UNTIL(scene.ends == 2);
    EXPECT(scene.error.kind == ERROR_TIMEOUT && agent_is_up(scene.agent));
    const struct agent_put put = {.path = "/etc/machine-id", .timeout_ms = 1};
    const struct agent_call_events events = {.on_end = on_done};
    agent_put(scene.agent, &put, &events, NULL);
    RUN_UNTIL(scene.counts[AGENT_CANCEL] == 3);
    RUN_UNTIL(scene.ends == 3);
    EXPECT(scene.error.kind == ERROR_TIMEOUT && agent_is_up(scene.agent));
    end();
}

/* Goal: a guest that is given up keeps nobody waiting, is asked again, and may come back. */
TEST(agent, ends_what_was_asked_of_a_guest_that_is_given_up)
{
    begin_up();
    uint64_t nonce = scene.nonce;
    agent_ping(scene.agent, 0, on_done, NULL);
    RUN_UNTIL(scene.last_operation == AGENT_PING);
    agent_forsake(scene.agent);
    RUN_UNTIL(scene.ends == 1 && scene.downs == 1);
    EXPECT(scene.error.kind == ERROR_UNAVAILABLE && !agent_is_up(scene.agent));
    RUN_UNTIL(scene.resets == 2);
    EXPECT(scene.nonce != nonce && scene.connections == 1);
    say_hello(scene.nonce, AGENT_VERSION);
    RUN_UNTIL(scene.ups == 2);
    end();
}

TEST(agent, may_be_closed_from_the_end_of_a_call)
{
    begin_up();
    for (int i = 0; i < 5; i++) {
        agent_ping(scene.agent, 0, on_done, NULL);
    }
    scene.closes_when_ended = true;
    RUN_UNTIL(scene.counts[AGENT_REQUEST] == 5);
    say_hello(0, AGENT_VERSION);
    RUN_UNTIL(scene.ends == 5);
    EXPECT(scene.agent == NULL && scene.downs == 0);
    end();
}

TEST(agent, refuses_more_than_so_many_at_a_time)
{
    begin_up();
    for (int i = 0; i <= AGENT_REQUESTS_MAX; i++) {
        agent_ping(scene.agent, 0, on_done, NULL);
    }
    RUN_UNTIL(scene.ends == 1);
    EXPECT(scene.error.kind == ERROR_LIMIT);
    end();
}

/* ---- Hostile guests ---- */

static void expect_broken(void)
{
    RUN_UNTIL(scene.downs == 1);
    EXPECT(scene.down_kind == ERROR_PROTOCOL);
    EXPECT(scene.error.kind == ERROR_PROTOCOL && scene.ends == 1);
    RUN_UNTIL(scene.resets == 2);
    end();
}

TEST(agent, breaks_off_a_guest_that_sends_more_than_the_window)
{
    static const uint8_t bytes[AGENT_PIECE_MAX];
    begin_up();
    struct agent_call *call = begin_exec(false);
    agent_call_pause(call);
    for (int i = 0; i <= AGENT_WINDOW / AGENT_PIECE_MAX; i++) {
        say(AGENT_DATA, AGENT_STREAM_OUT, scene.last_id, bytes, sizeof(bytes));
    }
    expect_broken();
}

TEST(agent, breaks_off_a_guest_that_gives_back_more_than_it_got)
{
    begin_up();
    begin_exec(true);
    say(AGENT_CREDIT, AGENT_STREAM_IN, scene.last_id, "\1\0\0\0", 4);
    expect_broken();
}

TEST(agent, breaks_off_a_guest_that_asks)
{
    begin_up();
    begin_exec(true);
    say(AGENT_REQUEST, 0, scene.last_id, NULL, 0);
    expect_broken();
}

TEST(agent, breaks_off_a_guest_whose_hello_is_nonsense)
{
    begin_up();
    begin_exec(true);
    say(AGENT_HELLO, 0, 0, "abc", 3);
    expect_broken();
}

TEST(agent, does_not_begin_sessions_as_fast_as_a_guest_wants)
{
    begin_up();
    for (int i = 0; i < 1000; i++) {
        say_hello(0, AGENT_VERSION);
    }
    agent_ping(scene.agent, 0, on_done, NULL);
    RUN_UNTIL(scene.resets == 5);
    EXPECT(scene.downs == 1 && scene.connections == 1);
    end();
}

TEST(agent, passes_over_events_it_does_not_know)
{
    begin_up();
    BUFFER_OWNED struct buffer body = {0};
    agent_put_number(&body, AGENT_EVENT_KIND, 999);
    say(AGENT_EVENT, 0, 0, body.data, body.used);
    buffer_clear(&body);
    agent_put_number(&body, AGENT_EVENT_KIND, AGENT_EVENT_ENTRYPOINT_ENDED);
    agent_put_number(&body, AGENT_SIGNAL, 9);
    say(AGENT_EVENT, 0, 0, body.data, body.used);
    RUN_UNTIL(scene.events == 1);
    EXPECT(scene.event.kind == AGENT_EVENT_ENTRYPOINT_ENDED && scene.event.signal == 9);
    EXPECT(scene.event.exit_code == -1);
    RUN_UNTIL(scene.counts[AGENT_CREDIT] == 2); /* both are acknowledged */
    end();
}
