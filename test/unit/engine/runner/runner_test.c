/*
 * The daemon's side against peers that are no runner of ours (runner_adopt), and against the real
 * program, killed.
 */
#include "engine/runner/runner.h"

#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/file.h"
#include "base/loop/loop.h"

#include "engine/runner/private.h"

#include "test/lib/test.h"

static const char id[] = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
static const struct vmm_limits limits = {.memory_bytes = 16 << 20,
                                         .timeout_ms = 20000,
                                         .output_bytes_max = 1 << 20,
                                         .log_bytes_max = 4096};

/* One runner with what it said last. */
struct scene {
    struct loop *loop;
    struct runner *runner;
    int control; /* the peer's ends */
    int slot;
    unsigned ends;
    unsigned loads;
    unsigned exits;
    bool failed;
    bool ends_runner_on_output;
    uint64_t patience_ms;
    enum vmm_end end;
    char text[sizeof(((struct error *)0)->text)];
    char reason[128];
    struct buffer output;
};

static void on_output(const void *bytes, size_t length, void *context)
{
    struct scene *scene = context;
    buffer_append(&scene->output, bytes, length);
    if (scene->ends_runner_on_output) {
        runner_free(scene->runner);
        scene->runner = NULL;
    }
}

static void on_log(const void *bytes, size_t length, void *context)
{
    (void)bytes, (void)length;
    EXPECT(((struct scene *)context)->runner != NULL); /* not after the end */
}

static void on_end(const struct error *error, const struct runner_result *result, void *context)
{
    struct scene *scene = context;
    scene->ends++;
    scene->failed = error != NULL;
    scene->end = error == NULL ? result->end : VMM_END_BROKEN;
    snprintf(scene->text, sizeof(scene->text), "%s", error != NULL ? error->text : result->reason);
}

static void on_loaded(const struct error *error, const struct vmm_image_info *info, const char *log,
                      size_t log_length, void *context)
{
    struct scene *scene = context;
    (void)info, (void)log, (void)log_length;
    scene->loads++;
    scene->failed = error != NULL;
    snprintf(scene->text, sizeof(scene->text), "%s", error != NULL ? error->text : "");
}

static void on_exit_told(struct runner *runner, const char *reason, void *context)
{
    struct scene *scene = context;
    (void)runner;
    scene->exits++;
    snprintf(scene->reason, sizeof(scene->reason), "%s", reason);
}

static const struct runner_call_events call_events = {
    .on_output = on_output, .on_log = on_log, .on_end = on_end};

static void invoke(struct scene *scene, unsigned slot, const char *input)
{
    const struct runner_invocation invocation = {
        .image_id = id, .environment = "", .input = input, .input_length = strlen(input)};
    runner_invoke(scene->runner, slot, &invocation, &call_events, scene);
}

static void until(struct scene *scene, const unsigned *counter, unsigned wanted)
{
    while (*counter < wanted) {
        uv_run(loop_uv(scene->loop), UV_RUN_ONCE);
    }
}

/* ---- Peers that lie ---- */

static void adopt(struct scene *scene)
{
    struct error err = {0};
    int control[2];
    int slot[2];
    EXPECT(loop_new("test", &scene->loop, &err) == 0);
    EXPECT(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, control) == 0);
    EXPECT(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, slot) == 0);
    const struct runner_options options = {
        .project = "p", .slot_count = 1, .patience_ms = scene->patience_ms};
    const struct runner_events events = {.on_exit = on_exit_told, .context = scene};
    scene->runner = runner_adopt(scene->loop, &options, &events, control[0], &slot[0]);
    scene->control = control[1];
    scene->slot = slot[1];
}

static void leave(struct scene *scene)
{
    if (scene->runner != NULL) {
        runner_free(scene->runner);
    }
    loop_free(scene->loop);
    close(scene->control);
    close(scene->slot);
    buffer_done(&scene->output);
}

static void say(int fd, const void *bytes, size_t length)
{
    EXPECT(send(fd, bytes, length, MSG_NOSIGNAL) == (ssize_t)length);
}

/* Goal: a message that is not right ends the runner with its calls, and nothing else. */
static void expect_broken(bool on_control, const void *bytes, size_t length, const char *text)
{
    struct scene scene = {0};
    adopt(&scene);
    invoke(&scene, 0, "");
    say(on_control ? scene.control : scene.slot, bytes, length);
    until(&scene, &scene.exits, 1);
    EXPECT(scene.ends == 1 && scene.failed);
    EXPECT_STRING(scene.text, text);
    leave(&scene);
}

TEST(runner_protocol, breaks_off_with_who_lies)
{
    struct frame_end end = {.frame = {FRAME_END, 1}, .output_length = 1};
    expect_broken(false, "abc", 3, "the runner sent a short message");
    expect_broken(false, &end, sizeof(end) - 1, "the runner sent a short message");
    expect_broken(false, &end, sizeof(end), "the runner sent a message of a wrong length");
    end.output_length = UINT32_MAX;
    end.log_length = 1;
    expect_broken(false, &end, sizeof(end), "the runner sent a message of a wrong length");
    end.output_length = end.log_length = 0;
    end.result.end = VMM_END_BROKEN + 1;
    expect_broken(false, &end, sizeof(end), "the runner sent a message of a wrong length");
    end.frame.sequence = 2;
    expect_broken(false, &end, sizeof(end), "the runner sent an answer nobody asked for");
    end.frame = (struct frame){99, 1};
    expect_broken(false, &end, sizeof(end), "the runner sent an unknown message");

    struct frame_hello hello = {.frame = {FRAME_HELLO, 0}, .version = 0, .size = 1};
    expect_broken(true, &hello, sizeof(hello),
                  "the runner sent a greeting of another build; blixard and blixard-runner must be "
                  "installed together");
    expect_broken(true, &hello, sizeof(hello) - 1, "the runner sent a greeting of another build");
    expect_broken(true, "a", 1, "the runner sent an unknown control message");
    struct frame_loaded loaded = {.frame = {FRAME_LOADED, 0}, .log_length = 1};
    expect_broken(true, &loaded, sizeof(loaded), "the runner sent a message of a wrong length");
    loaded.log_length = 0;
    loaded.error.kind = ERROR_KIND_COUNT;
    expect_broken(true, &loaded, sizeof(loaded), "the runner sent a message of a wrong length");
}

TEST(runner_protocol, ends_calls_of_a_peer_that_hangs_up)
{
    struct scene scene = {0};
    adopt(&scene);
    invoke(&scene, 0, "");
    runner_load(scene.runner, id, -1, &limits, on_loaded, &scene);
    shutdown(scene.control, SHUT_RDWR);
    until(&scene, &scene.exits, 1);
    EXPECT(scene.ends == 1 && scene.loads == 1);
    EXPECT_STRING(scene.text, "the runner died");
    leave(&scene);
}

/* Goal: what a silent runner was asked ends all the same, a call and a load alike. */
TEST(runner_protocol, gives_up_a_peer_that_never_answers)
{
    for (int what = 0; what < 2; what++) {
        struct scene scene = {.patience_ms = 5};
        struct vmm_limits short_limits = limits;
        short_limits.timeout_ms = 1;
        adopt(&scene);
        if (what == 0) {
            const struct runner_invocation invocation = {
                .image_id = id, .environment = "", .input = "", .timeout_ms = 1};
            runner_invoke(scene.runner, 0, &invocation, &call_events, &scene);
            until(&scene, &scene.ends, 1);
        } else {
            runner_load(scene.runner, id, -1, &short_limits, on_loaded, &scene);
            until(&scene, &scene.loads, 1);
        }
        EXPECT(scene.failed);
        EXPECT_STRING(scene.text, "the runner does not answer");
        leave(&scene);
    }
}

TEST(runner_protocol, may_be_freed_by_what_it_said)
{
    struct scene scene = {.ends_runner_on_output = true};
    struct {
        struct frame_end end;
        char rest[2];
    } message = {{.frame = {FRAME_END, 1}, .output_length = 1, .log_length = 1}, "ol"};
    adopt(&scene);
    invoke(&scene, 0, "");
    say(scene.slot, &message, offsetof(__typeof__(message), rest) + 2);
    until(&scene, &scene.ends, 1);
    EXPECT(scene.failed && scene.runner == NULL);
    EXPECT(scene.output.used == 1);
    leave(&scene);
}

/* ---- The real program ---- */

static void start(struct scene *scene, unsigned slots)
{
    char self[PATH_MAX] = "";
    char program[PATH_MAX + 64];
    char guest[PATH_MAX + 64];
    struct error err = {0};
    EXPECT(readlink("/proc/self/exe", self, sizeof(self) - 1) > 0);
    const char *folder = dirname(self);
    snprintf(program, sizeof(program), "%s/../blixard-runner", folder);
    snprintf(guest, sizeof(guest), "%s/guests/echo.elf", folder);
    if (!file_exists(guest)) {
        SKIP("the guest images were not built: tools/bootstrap run test");
    }
    const struct vmm_options sandbox = {
        .isolation = VMM_ISOLATION_PROCESS, .kvm_fd = -1, .shells_max = 1};
    struct vmm *vmm = NULL;
    if (vmm_open(&sandbox, &vmm, &err) < 0) {
        SKIP(err.text);
    }
    vmm_close(vmm);
    EXPECT(loop_new("test", &scene->loop, &err) == 0);
    const struct runner_options options = {.program = program,
                                           .project = "p",
                                           .isolation = VMM_ISOLATION_PROCESS,
                                           .slot_count = slots};
    const struct runner_events events = {.on_exit = on_exit_told, .context = scene};
    EXPECT(runner_start(scene->loop, &options, &events, &scene->runner, &err) == 0);
    scene->control = scene->slot = -1;
    int fd = open(guest, O_RDONLY | O_CLOEXEC);
    EXPECT(fd >= 0);
    runner_load(scene->runner, id, fd, &limits, on_loaded, scene);
    until(scene, &scene->loads, 1);
    EXPECT(!scene->failed);
    close(fd);
}

TEST(runner, serves_on_all_64_slots)
{
    struct scene scene = {0};
    start(&scene, RUNNER_SLOTS_MAX);
    for (unsigned i = 0; i < RUNNER_SLOTS_MAX; i++) {
        invoke(&scene, i, "x");
        EXPECT(!runner_slot_is_idle(scene.runner, i));
    }
    until(&scene, &scene.ends, RUNNER_SLOTS_MAX);
    EXPECT(!scene.failed && scene.end == VMM_END_EXIT);
    leave(&scene);
}

TEST(runner, fails_its_calls_when_killed)
{
    struct scene scene = {0};
    start(&scene, 2);
    EXPECT(kill(runner_pid(scene.runner), SIGSTOP) == 0); /* so that the call is in flight */
    invoke(&scene, 0, "x");
    EXPECT(kill(runner_pid(scene.runner), SIGKILL) == 0);
    until(&scene, &scene.exits, 1);
    EXPECT(scene.ends == 1 && scene.failed);
    EXPECT(strncmp(scene.text, "the runner died", 15) == 0);
    EXPECT_STRING(scene.reason, "killed by signal 9 (Killed)");
    leave(&scene);
}

TEST(runner, names_an_image_it_does_not_have)
{
    struct scene scene = {0};
    start(&scene, 1);
    runner_unload(scene.runner, id);
    runner_load(scene.runner, id, 0, &limits, on_loaded, &scene); /* no image: standard input */
    until(&scene, &scene.loads, 2);
    EXPECT(scene.failed);
    invoke(&scene, 0, "x");
    until(&scene, &scene.ends, 1);
    EXPECT(!scene.failed && scene.end == VMM_END_BROKEN);
    EXPECT_STRING(scene.text, "the image is not loaded in this runner");
    leave(&scene);
}
