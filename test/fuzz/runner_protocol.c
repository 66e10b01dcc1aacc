/*
 * What a hostile runner may say to the daemon, on its control socket and on a slot with a call.
 *
 * The input is a row of messages: a byte for the socket, two for the length, the bytes.  Types,
 * sequence numbers and lengths come from the input as they are; frames that are nearly right are
 * what the corpus finds.  Claims: no byte outside is read, each call and each load ends exactly
 * once, what is passed on is within the frame, and the runner can be freed.
 */
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/check.h"

#include "engine/runner/private.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MESSAGES_MAX = 16 };

static unsigned call_ends;
static unsigned load_ends;
static uint64_t taken;
static struct runner_call *asked;

static void on_bytes(const void *bytes, size_t length, void *context)
{
    const uint8_t *at = bytes;
    (void)context;
    CHECK(length <= PROTOCOL_FRAME);
    for (size_t i = 0; i < length; i++) {
        taken += at[i];
    }
}

static void on_host(const void *bytes, size_t length, void *context)
{
    on_bytes(bytes, length < PROTOCOL_FRAME ? length : PROTOCOL_FRAME, context);
    CHECK(length <= 1 << 20);
    if (length % 2 == 0) {
        runner_call_answer(asked, bytes, length);
    }
}

static void on_end(const struct error *error, const struct runner_result *result, void *context)
{
    (void)context;
    CHECK((error == NULL) != (result == NULL));
    if (result != NULL) {
        CHECK(strnlen(result->reason, sizeof(result->reason)) < sizeof(result->reason));
    }
    call_ends++;
}

static void on_loaded(const struct error *error, const struct vmm_image_info *info, const char *log,
                      size_t log_length, void *context)
{
    CHECK((error == NULL) != (info == NULL));
    on_bytes(log, log_length, context);
    if (error != NULL) {
        CHECK(strnlen(error->text, sizeof(error->text)) < sizeof(error->text));
    }
    load_ends++;
}

static void turn(struct loop *loop)
{
    for (int i = 0; i < 4; i++) {
        uv_run(loop_uv(loop), UV_RUN_NOWAIT);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char id[] = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    struct error err = {0};
    struct loop *loop = NULL;
    int ends[2][2];
    CHECK(loop_new("fuzz", &loop, &err) == 0);
    for (int i = 0; i < 2; i++) {
        CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends[i]) == 0);
    }
    const struct runner_options options = {.project = "p", .slot_count = 1};
    const struct runner_events events = {0};
    const struct runner_call_events call_events = {
        .on_output = on_bytes, .on_log = on_bytes, .on_host = on_host, .on_end = on_end};
    const struct runner_invocation invocation = {.image_id = id};
    const struct vmm_limits limits = {0};
    struct runner *runner = runner_adopt(loop, &options, &events, ends[0][0], &ends[1][0]);
    call_ends = load_ends = 0;
    runner_load(runner, id, -1, &limits, on_loaded, NULL);
    asked = runner_invoke(runner, 0, &invocation, &call_events, NULL);
    for (int i = 0; i < MESSAGES_MAX && size >= 3; i++) {
        int fd = ends[data[0] & 1][1];
        size_t length = (size_t)(data[1] | data[2] << 8);
        data += 3;
        size -= 3;
        length = length < size ? length : size;
        ssize_t sent = send(fd, data, length, MSG_DONTWAIT | MSG_NOSIGNAL);
        (void)sent; /* it may have hung up already */
        data += length;
        size -= length;
        turn(loop);
    }
    runner_free(runner);
    turn(loop);
    CHECK(call_ends == 1 && load_ends == 1);
    loop_free(loop);
    close(ends[0][1]);
    close(ends[1][1]);
    return 0;
}
