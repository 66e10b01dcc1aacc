/*
 * What a hostile guest may say to the daemon, while calls of each kind run.
 *
 * The input is a row of frames: type, stream, id (which call), two bytes of length, the payload.
 * Type 0 is bytes as they are, outside of any frame; a HELLO without payload is a good one of the
 * running session.  Claims: no byte outside is read, each call ends exactly once, texts have an
 * end and nothing a terminal obeys, and the agent can be closed at any time.
 */
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/check.h"
#include "base/text.h"

#include "engine/agent/private.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { FRAMES_MAX = 24, CALLS = 7 };

static struct loop *loop;
static struct agent *agent;
static struct agent_call *input_call;
static int listener;
static char path[64];
static unsigned ends;
static uint64_t taken;

static void look(const char *text, size_t size)
{
    CHECK(strnlen(text, size) < size);
    CHECK(text_is_printable(text));
}

static void on_up(const struct agent_info *info, void *context)
{
    (void)context;
    look(info->hostname, sizeof(info->hostname));
    look(info->problem, sizeof(info->problem));
}

static void on_down(const struct error *error, void *context)
{
    (void)context;
    look(error->text, sizeof(error->text));
}

static void on_event(const struct agent_event *event, void *context)
{
    (void)context;
    CHECK(event->kind > 0 && event->kind < AGENT_EVENT_KINDS);
}

static void look_at_metrics(const struct agent_metrics *metrics)
{
    CHECK(metrics->disk_count <= AGENT_DISKS_MAX && metrics->link_count <= AGENT_LINKS_MAX);
    CHECK(metrics->mounted_count <= AGENT_MOUNTED_MAX);
    for (unsigned i = 0; i < metrics->disk_count; i++) {
        look(metrics->disks[i].serial, sizeof(metrics->disks[i].serial));
    }
    for (unsigned i = 0; i < metrics->mounted_count; i++) {
        look(metrics->mounted[i].path, sizeof(metrics->mounted[i].path));
    }
}

static void on_done(const struct error *error, const struct agent_result *result, void *context)
{
    CHECK((error == NULL) != (result == NULL));
    if (error != NULL) {
        CHECK(error->kind < ERROR_KIND_COUNT);
        look(error->text, sizeof(error->text));
    } else if (result->metrics != NULL) {
        look_at_metrics(result->metrics);
    } else if (result->stat != NULL) {
        look(result->stat->target, sizeof(result->stat->target));
    }
    if (context == &input_call) {
        input_call = NULL;
    }
    ends++;
}

static void on_stat(const struct agent_stat *stat, void *context)
{
    (void)context;
    look(stat->target, sizeof(stat->target));
}

static void on_output(enum agent_stream stream, const void *bytes, size_t length, void *context)
{
    const uint8_t *at = bytes;
    (void)context;
    CHECK(stream < AGENT_STREAMS && length > 0 && length <= AGENT_WINDOW);
    for (size_t i = 0; i < length; i++) {
        taken += at[i];
    }
}

static void on_writable(void *context)
{
    (void)context;
    taken++;
}

static void turn(void)
{
    for (int i = 0; i < 4; i++) {
        uv_run(loop_uv(loop), UV_RUN_NOWAIT);
    }
}

static void say(int fd, const struct agent_frame_head *head, const uint8_t *payload, size_t length)
{
    BUFFER_OWNED struct buffer out = {0};
    BUFFER_OWNED struct buffer hello = {0};
    if (head->type == 0) {
        buffer_append(&out, payload, length);
    } else if (head->type == AGENT_HELLO && length == 0) {
        agent_put_number(&hello, AGENT_NONCE, agent->nonce);
        agent_frame_append(&out, head, hello.data, hello.used);
    } else {
        agent_frame_append(&out, head, payload, length);
    }
    ssize_t sent = send(fd, out.data, out.used, MSG_DONTWAIT | MSG_NOSIGNAL);
    (void)sent; /* it may have been hung up on already */
    turn();
}

static void begin_calls(void)
{
    static const char *const arguments[] = {"cat", NULL};
    static uint8_t input[AGENT_WINDOW / 2];
    const struct agent_exec exec = {.arguments = arguments, .has_input = true};
    const struct agent_call_events events = {
        .on_stat = on_stat, .on_output = on_output, .on_writable = on_writable, .on_end = on_done};
    input_call = agent_exec(agent, &exec, &events, &input_call);
    agent_call_write(input_call, input, sizeof(input));
    agent_get(agent, "/etc/passwd", &events, NULL);
    agent_call_pause(agent_pack(agent, "/etc", &events, NULL));
    agent_stat(agent, "/etc", false, on_done, NULL);
    agent_metrics(agent, 0, on_done, NULL);
    agent_info(agent, 0, on_done, NULL);
    agent_call_cancel(agent_ping(agent, 0, on_done, NULL));
}

static int begin(void)
{
    static const struct agent_events events = {on_up, on_down, on_event};
    const struct agent_options options = {.path = path};
    struct error err = {0};
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(path, sizeof(path), "/tmp/fuzz-agent-%d", (int)getpid());
    unlink(path);
    snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
    listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(bind(listener, (struct sockaddr *)&address, sizeof(address)) == 0);
    CHECK(listen(listener, 8) == 0);
    CHECK(loop_new("fuzz", &loop, &err) == 0);
    CHECK(agent_open(loop, &options, &events, NULL, &agent, &err) == 0);
    while (agent->state != AGENT_RESETTING) {
        uv_run(loop_uv(loop), UV_RUN_ONCE);
    }
    return accept4(listener, NULL, NULL, SOCK_CLOEXEC);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct agent_frame_head hello = {.type = AGENT_HELLO};
    int fd = begin();
    CHECK(fd >= 0);
    ends = 0;
    say(fd, &hello, NULL, 0);
    CHECK(agent_is_up(agent));
    begin_calls();
    for (int i = 0; i < FRAMES_MAX && size >= 5; i++) {
        const struct agent_frame_head head = {.type = data[0] % (AGENT_FRAME_TYPES + 1),
                                              .stream = data[1] % (AGENT_STREAMS + 1),
                                              .id = data[2] % (CALLS + 2)};
        size_t length = (size_t)(data[3] | data[4] << 8);
        data += 5;
        size -= 5;
        length = length < size ? length : size;
        say(fd, &head, data, length);
        data += length;
        size -= length;
    }
    if (size % 2 == 1 && input_call != NULL) {
        agent_call_finish_input(input_call);
        turn();
    }
    agent_close(agent);
    CHECK(ends == CALLS);
    turn();
    loop_free(loop);
    close(fd);
    close(listener); /* with whatever connected meanwhile */
    return 0;
}
