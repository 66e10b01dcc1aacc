/*
 * Claims about function VMs.  Each is a function of the isolation, so that both back ends make the
 * same ones; where a back end cannot be had here, the test says so.
 */
#include "engine/vmm/vmm.h"

#include <libgen.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"

#include "test/lib/test.h"

enum { MEMORY_MAX = 16 << 20 };

/* One function, ready to be called, and what its last call did. */
struct bench {
    struct vmm *vmm;
    struct vmm_image *image;
    struct vmm_shell *shell;
    struct vmm_outcome outcome;
    struct buffer output;
    struct buffer log;
};

static const struct vmm_limits usual_limits = {
    .memory_bytes = MEMORY_MAX,
    .files_bytes = 1 << 20,
    .timeout_ms = 10000,
    .output_bytes_max = 1 << 20,
    .log_bytes_max = 4096,
};

static bool take_output(const void *bytes, size_t length, void *context)
{
    buffer_append(&((struct bench *)context)->output, bytes, length);
    return true;
}

static void take_log(const void *bytes, size_t length, void *context)
{
    buffer_append(&((struct bench *)context)->log, bytes, length);
}

/* The image test/guests built, beside this program. */
static void read_guest(const char *name, struct buffer *ret_elf)
{
    char self[PATH_MAX] = "";
    EXPECT(readlink("/proc/self/exe", self, sizeof(self) - 1) > 0);
    char path[PATH_MAX + 64];
    snprintf(path, sizeof(path), "%s/guests/%s.elf", dirname(self), name);
    struct error err = {0};
    int r = file_read(path, 64 << 20, ret_elf, &err);
    if (r == -ERROR_NOT_FOUND) {
        SKIP("the guest images were not built: tools/bootstrap run test");
    }
    EXPECT(r == 0);
}

static struct vmm *open_vmm(enum vmm_isolation isolation)
{
    struct vmm_options options = {.isolation = isolation, .kvm_fd = -1, .shells_max = 4};
    struct vmm *vmm = NULL;
    struct error err = {0};
    int r = vmm_open(&options, &vmm, &err);
    if (r == -ERROR_UNSUPPORTED) {
        SKIP(err.text);
    }
    EXPECT(r == 0);
    return vmm;
}

static struct vmm_image *make_image(struct vmm *vmm, const char *name,
                                    const struct vmm_limits *limits)
{
    BUFFER_OWNED struct buffer elf = {0};
    read_guest(name, &elf);
    struct vmm_image *image = NULL;
    struct error err = {0};
    int r = vmm_image_new(vmm, elf.data, elf.used, limits, NULL, &image, &err);
    if (r != 0) {
        fprintf(stderr, "%s: %s\n", name, err.text);
    }
    EXPECT(r == 0);
    return image;
}

static struct bench *bench_open(enum vmm_isolation isolation, const char *name,
                                const struct vmm_limits *limits)
{
    struct bench *bench = calloc(1, sizeof(*bench));
    struct error err = {0};
    bench->vmm = open_vmm(isolation);
    bench->image = make_image(bench->vmm, name, limits);
    struct vmm_image_info info;
    vmm_image_info(bench->image, &info);
    EXPECT(vmm_shell_new(bench->vmm, info.class_bytes, &bench->shell, &err) == 0);
    EXPECT(vmm_shell_attach(bench->shell, bench->image, &err) == 0);
    return bench;
}

static void bench_close(struct bench *bench)
{
    vmm_shell_free(bench->shell);
    vmm_image_unref(bench->image);
    vmm_close(bench->vmm);
    buffer_done(&bench->output);
    buffer_done(&bench->log);
    free(bench);
}

static void run(struct bench *bench, struct vmm_call *call)
{
    buffer_clear(&bench->output);
    buffer_clear(&bench->log);
    call->sink = (struct vmm_sink){.output = take_output, .log = take_log, .context = bench};
    vmm_shell_run(bench->shell, call, &bench->outcome);
}

/* Some rest too, some do not: nobody may tell the difference. */
static void reset(struct bench *bench)
{
    static unsigned count;
    struct error err = {0};
    EXPECT(vmm_shell_reset(bench->shell, NULL, &err) == 0);
    if (++count % 3 == 0) {
        EXPECT(vmm_shell_rest(bench->shell, &err) == 0);
    }
}

/* Call with one argument and one input, then reset. */
static void call_with(struct bench *bench, const char *argument, const char *input)
{
    char arguments[64] = "function";
    size_t length = sizeof("function");
    if (argument != NULL) {
        snprintf(arguments + length, sizeof(arguments) - length, "%s", argument);
        length += strlen(argument) + 1;
    }
    struct vmm_call call = {
        .arguments = arguments,
        .arguments_length = length,
        .input = input,
        .input_length = input != NULL ? strlen(input) : 0,
    };
    run(bench, &call);
    reset(bench);
}

static void expect_fine(struct bench *bench, const char *argument, const char *input,
                        const char *output)
{
    call_with(bench, argument, input);
    if (bench->outcome.end != VMM_END_EXIT) {
        fprintf(stderr, "ended %d: %s\n", (int)bench->outcome.end, bench->outcome.reason);
    }
    EXPECT(bench->outcome.end == VMM_END_EXIT);
    EXPECT(bench->outcome.exit_code == 0);
    EXPECT_STRING(buffer_string(&bench->output), output);
}

/* Every claim below is made of both back ends. */
#define BOTH(name)                        \
    static void name(enum vmm_isolation); \
    TEST(vmm_microvm, name)               \
    {                                     \
        name(VMM_ISOLATION_MICROVM);      \
    }                                     \
    TEST(vmm_process, name)               \
    {                                     \
        name(VMM_ISOLATION_PROCESS);      \
    }                                     \
    static void name(enum vmm_isolation isolation)

/* ---- Calls ---- */

BOTH(answers_with_one_exit)
{
    struct bench *bench = bench_open(isolation, "echo", &usual_limits);
    for (int i = 0; i < 3; i++) {
        expect_fine(bench, NULL, "hello", "hello");
        EXPECT(bench->outcome.output_bytes == 5);
        if (isolation == VMM_ISOLATION_MICROVM) {
            EXPECT(bench->outcome.exits == 1);
        }
    }
    expect_fine(bench, NULL, "", "");
    bench_close(bench);
}

/* Goal: every length around the inline areas' bounds arrives whole. */
BOTH(carries_input_of_any_length)
{
    static const size_t lengths[] = {1,     4095,  4096,  4097,  12287, 12288,
                                     12289, 16383, 16384, 16385, 70000, 1 << 20};
    struct bench *bench = bench_open(isolation, "echo", &usual_limits);
    for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
        char *input = malloc(lengths[i]);
        for (size_t at = 0; at < lengths[i]; at++) {
            input[at] = (char)(at * 7 + at / 251);
        }
        struct vmm_call call = {.input = input, .input_length = lengths[i]};
        run(bench, &call);
        EXPECT(bench->outcome.end == VMM_END_EXIT);
        EXPECT(bench->output.used == lengths[i]);
        EXPECT(memcmp(bench->output.data, input, lengths[i]) == 0);
        reset(bench);
        free(input);
    }
    bench_close(bench);
}

struct pieces {
    int left;
    bool breaks;
};

static long next_piece(void *bytes, size_t length, uint64_t deadline_ns, void *context)
{
    (void)deadline_ns;
    struct pieces *pieces = context;
    if (pieces->left == 0) {
        return pieces->breaks ? -1 : 0;
    }
    pieces->left--;
    EXPECT(length >= 5);
    memcpy(bytes, "piece", 5);
    return 5;
}

BOTH(reads_what_comes_later)
{
    struct bench *bench = bench_open(isolation, "echo", &usual_limits);
    struct pieces pieces = {.left = 3};
    struct vmm_call call = {
        .input = "first", .input_length = 5, .read = next_piece, .read_context = &pieces};
    run(bench, &call);
    EXPECT(bench->outcome.end == VMM_END_EXIT);
    EXPECT_STRING(buffer_string(&bench->output), "firstpiecepiecepiece");
    reset(bench);

    pieces = (struct pieces){.left = 1, .breaks = true};
    run(bench, &call);
    EXPECT(bench->outcome.end == VMM_END_CANCELLED);
    reset(bench);
    expect_fine(bench, NULL, "again", "again");
    bench_close(bench);
}

/* Goal: WASI answers as its documentation says, to a program that asks with a libc. */
BOTH(is_a_wasi_system)
{
    struct bench *bench = bench_open(isolation, "wasi", &usual_limits);
    char environment[60000 + 64] = "NAME=value";
    size_t length = sizeof("NAME=value");
    memcpy(environment + length, "LONG=", 5);
    memset(environment + length + 5, 'x', 60000);
    length += 5 + 60000 + 1;
    struct vmm_call call = {
        .arguments = "wasi\0one",
        .arguments_length = sizeof("wasi\0one"),
        .environment = environment,
        .environment_length = length,
    };
    run(bench, &call);
    EXPECT_STRING(buffer_string(&bench->output), "fine\n");
    EXPECT(bench->outcome.exit_code == 0);
    bench_close(bench);
}

/* Goal: a function has files, as POSIX and WASI describe them, and none of another call. */
BOTH(has_files)
{
    struct bench *bench = bench_open(isolation, "files", &usual_limits);
    for (int i = 0; i < 3; i++) {
        struct vmm_call call = {0};
        run(bench, &call);
        EXPECT_STRING(buffer_string(&bench->output), "fine\n");
        reset(bench);
    }
    bench_close(bench);
}

/* Goal: files take what they may, and no more; without any, nothing at all is given. */
BOTH(files_have_a_limit)
{
    struct vmm_limits limits = usual_limits;
    limits.files_bytes = 8 << 20;
    struct bench *bench = bench_open(isolation, "files", &limits);
    struct vmm_call call = {.arguments = "files\0full", .arguments_length = sizeof("files\0full")};
    unsigned kib = 0;
    run(bench, &call);
    EXPECT(sscanf(buffer_string(&bench->output), "%u KiB, full", &kib) == 1);
    EXPECT(kib > 8000 && kib < 8192);
    bench_close(bench);

    limits.files_bytes = 0;
    bench = bench_open(isolation, "files", &limits);
    run(bench, &call);
    EXPECT_STRING(buffer_string(&bench->output), "0 KiB, Bad file descriptor\n");
    bench_close(bench);
}

BOTH(serves_handlers_of_the_sdk)
{
    struct bench *bench = bench_open(isolation, "handler", &usual_limits);
    struct vmm_image_info info;
    vmm_image_info(bench->image, &info);
    EXPECT(info.is_handler);
    for (int i = 0; i < 2; i++) {
        struct vmm_call call = {
            .environment = "REQUEST_METHOD=POST\0PATH_INFO=/a/b",
            .environment_length = sizeof("REQUEST_METHOD=POST\0PATH_INFO=/a/b"),
            .input = "body",
            .input_length = 4,
        };
        run(bench, &call);
        EXPECT(bench->outcome.end == VMM_END_EXIT);
        EXPECT_STRING(buffer_string(&bench->output),
                      "Status: 201\r\nContent-Type: text/plain\r\n\r\n"
                      "path /a/b (4), body body, call 1, initialised 1");
        EXPECT_STRING(buffer_string(&bench->log), "<4>greeted\n");
        reset(bench);
    }
    expect_fine(bench, NULL, "", "Status: 404\r\n\r\nno path");
    bench_close(bench);
}

/* ---- Nothing stays ---- */

/*
 * Goal: a call sees the snapshot and nothing of the calls before, but random bytes of its own.
 * Method: a program that marks globals, statics, heap and grown memory, called again and again.
 */
BOTH(starts_every_call_from_the_snapshot)
{
    struct bench *bench = bench_open(isolation, "state", &usual_limits);
    char first[256] = "";
    char random[64] = "";
    for (int i = 0; i < 5; i++) {
        call_with(bench, NULL, NULL);
        EXPECT(bench->outcome.end == VMM_END_EXIT);
        if (i == 0) {
            snprintf(first, sizeof(first), "%s", buffer_string(&bench->output));
            EXPECT(strstr(first, "global 7 marks 0 grown 0") != NULL);
            EXPECT(strstr(first, "constructed 1") != NULL);
        }
        EXPECT_STRING(buffer_string(&bench->output), first);
        EXPECT(bench->log.used == 16);
        EXPECT(strcmp(buffer_string(&bench->log), random) != 0);
        snprintf(random, sizeof(random), "%s", buffer_string(&bench->log));
    }
    bench_close(bench);
}

/*
 * Goal: hostile code cannot hand anything to the next call, of this function or another.
 * Method: fill all memory the guest can reach, x87, SSE, AVX, AVX-512, mask registers and flags
 * with a mark; then look for it everywhere.
 */
TEST(vmm_microvm, keeps_no_mark_of_a_hostile_call)
{
    struct bench *bench = bench_open(VMM_ISOLATION_MICROVM, "hostile", &usual_limits);
    for (int i = 0; i < 3; i++) {
        call_with(bench, NULL, "M");
        EXPECT(bench->outcome.end == VMM_END_EXIT);
        expect_fine(bench, NULL, "L", "looked 0000000000000000\n");
    }
    bench_close(bench);
}

TEST(vmm_microvm, keeps_no_mark_for_the_next_image)
{
    struct bench *bench = bench_open(VMM_ISOLATION_MICROVM, "hostile", &usual_limits);
    struct vmm_image *other = make_image(bench->vmm, "hostile", &usual_limits);
    struct error err = {0};
    struct vmm_call call = {.input = "M", .input_length = 1};
    run(bench, &call);
    EXPECT(bench->outcome.end == VMM_END_EXIT);
    EXPECT(vmm_shell_attach(bench->shell, other, &err) == 0);
    expect_fine(bench, NULL, "L", "looked 0000000000000000\n");

    run(bench, &call);
    EXPECT(vmm_shell_attach(bench->shell, NULL, &err) == 0);
    EXPECT(vmm_shell_attach(bench->shell, other, &err) == 0);
    expect_fine(bench, NULL, "L", "looked 0000000000000000\n");
    vmm_image_unref(other);
    bench_close(bench);
}

TEST(vmm_microvm, keeps_no_segment_base)
{
    struct bench *bench = bench_open(VMM_ISOLATION_MICROVM, "hostile", &usual_limits);
    call_with(bench, NULL, "B");
    if (bench->outcome.end == VMM_END_TRAP) {
        SKIP("this CPU does not let guests set segment bases");
    }
    expect_fine(bench, NULL, "S", "gs 0000000000000000\nfs 0000000000000000\n");
    bench_close(bench);
}

/*
 * Goal: no instruction and no lie to the host gains anything; the shell is as good as new after.
 * Method: each attempt of guests/hostile.c, then an honest call.
 */
TEST(vmm_microvm, survives_every_hostile_attempt)
{
    static const char attempts[] = "abcdefghijklmnopqrstuvwxyz0123456";
    struct bench *bench = bench_open(VMM_ISOLATION_MICROVM, "hostile", &usual_limits);
    for (const char *which = attempts; *which != '\0'; which++) {
        const char input[2] = {*which, '\0'};
        call_with(bench, NULL, input);
        bool is_contained = bench->outcome.end == VMM_END_TRAP ||
            (bench->outcome.end == VMM_END_EXIT && *which == '4');
        if (!is_contained || strncmp(bench->outcome.reason, "trap: ", 6) != 0) {
            fprintf(stderr, "attempt %c: end %d, %s, %s\n", *which, (int)bench->outcome.end,
                    bench->outcome.reason, buffer_string(&bench->output));
        }
        EXPECT(is_contained);
        expect_fine(bench, NULL, "!", "fine 0000000000000000\n");
    }
    bench_close(bench);
}

/* ---- Questions to the host ---- */

struct host {
    unsigned asked;
    size_t answer_length; /* 0: "pong..!" */
    bool breaks;
};

static int answer_host(const void *request, size_t length, uint64_t deadline_ns,
                       struct buffer *reply, void *context)
{
    struct host *host = context;
    host->asked++;
    EXPECT(deadline_ns > 0);
    EXPECT(length == 4 || length == 2);
    EXPECT(memcmp(request, "ping", length) == 0);
    EXPECT(reply->used == 0);
    if (host->breaks) {
        return -1;
    }
    if (host->answer_length > 0) {
        memset(buffer_reserve(reply, host->answer_length), 'x', host->answer_length);
        reply->used = host->answer_length;
    } else {
        buffer_append_string(reply, "pong..!");
    }
    return 0;
}

static void ask(struct bench *bench, struct host *host, const char *how)
{
    struct vmm_call call = {.input = how, .input_length = 1, .host_context = host};
    call.host = host != NULL ? answer_host : NULL;
    run(bench, &call);
    reset(bench);
}

/* Goal: a question in parts arrives as one, its answer goes where it was wanted, and the rest can
 * be read on; without anybody to answer, and before the snapshot, the function is told so. */
BOTH(asks_the_host)
{
    struct bench *bench = bench_open(isolation, "asks", &usual_limits);
    struct host host = {0};
    for (int i = 0; i < 2; i++) {
        ask(bench, &host, "W");
        EXPECT(bench->outcome.end == VMM_END_EXIT);
        EXPECT_STRING(buffer_string(&bench->output), "7pong.2.!0");
    }
    EXPECT(host.asked == 2);
    ask(bench, &host, "E");
    EXPECT_STRING(buffer_string(&bench->output), "-2");
    ask(bench, NULL, "W");
    EXPECT(strncmp(buffer_string(&bench->output), "-1", 2) == 0);
    bench_close(bench);
}

BOTH(bounds_questions_and_answers)
{
    struct bench *bench = bench_open(isolation, "asks", &usual_limits);
    struct host host = {.answer_length = (1 << 20) + 1};
    ask(bench, &host, "W");
    EXPECT(strncmp(buffer_string(&bench->output), "-3", 2) == 0);
    ask(bench, &host, "L");
    EXPECT_STRING(buffer_string(&bench->output), "-3");
    EXPECT(host.asked == 1);
    bench_close(bench);
}

/* Goal: whatever a question points to, it is a trap like any other, and the next call is fine. */
BOTH(refuses_questions_that_point_elsewhere)
{
    struct bench *bench = bench_open(isolation, "asks", &usual_limits);
    struct host host = {0};
    for (const char *how = "abcdefghi"; *how != '\0'; how++) {
        ask(bench, &host, how);
        if (bench->outcome.end != VMM_END_TRAP) {
            fprintf(stderr, "question %c: end %d\n", *how, (int)bench->outcome.end);
        }
        EXPECT(bench->outcome.end == VMM_END_TRAP);
        EXPECT_STRING(bench->outcome.reason, "trap: out of bounds memory access");
        ask(bench, &host, "W");
        EXPECT_STRING(buffer_string(&bench->output), "7pong.2.!0");
    }
    bench_close(bench);
}

BOTH(ends_questions_without_end)
{
    struct bench *bench = bench_open(isolation, "asks", &usual_limits);
    struct host host = {0};
    struct vmm_call call = {.input = "R",
                            .input_length = 1,
                            .host = answer_host,
                            .host_context = &host,
                            .timeout_ms = 30000};
    host.breaks = true;
    run(bench, &call);
    EXPECT(bench->outcome.end == VMM_END_CANCELLED);
    EXPECT(host.asked == 1);
    reset(bench);
    host.breaks = false;
    call.timeout_ms = 40;
    run(bench, &call);
    EXPECT(bench->outcome.end == VMM_END_TIMEOUT);
    reset(bench);
    bench_close(bench);
}

/* ---- Traps ---- */

/* Goal: each failure has its precise name, and the shell serves the next call. */
BOTH(names_every_trap)
{
    static const struct {
        const char *what;
        const char *reason;
    } cases[] = {
        {"beyond", "trap: out of bounds memory access"},
        {"far", "trap: out of bounds memory access"},
        {"read", "trap: out of bounds memory access"},
        {"stack", "trap: call stack exhausted"},
        {"divide", "trap: integer divide by zero"},
        {"overflow", "trap: integer overflow"},
        {"convert", "trap: invalid conversion to integer"},
        {"unreachable", "trap: unreachable"},
        {"indirect", "trap: indirect call type mismatch"},
        {"undefined", "trap: indirect call type mismatch"}, /* as wasm2c alone has it */
        {"abort", "trap: unreachable"},
    };
    struct bench *bench = bench_open(isolation, "trap", &usual_limits);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        call_with(bench, cases[i].what, NULL);
        if (strcmp(bench->outcome.reason, cases[i].reason) != 0) {
            fprintf(stderr, "%s:\n", cases[i].what);
        }
        EXPECT_STRING(bench->outcome.reason, cases[i].reason);
        EXPECT(bench->outcome.end == VMM_END_TRAP);
        expect_fine(bench, NULL, NULL, "fine\n");
    }
    bench_close(bench);
}

BOTH(passes_the_exit_status_on)
{
    struct bench *bench = bench_open(isolation, "trap", &usual_limits);
    call_with(bench, "else", NULL);
    EXPECT(bench->outcome.end == VMM_END_EXIT);
    EXPECT(bench->outcome.exit_code == 42);
    bench_close(bench);
}

/* ---- Limits ---- */

/* Goal: loops, loops of host calls, and sleep all end in time, and the shell goes on. */
BOTH(ends_what_takes_too_long)
{
    static const char *const endless[] = {"loop", "calls", "sleep"};
    struct bench *bench = bench_open(isolation, "trap", &usual_limits);
    for (size_t i = 0; i < sizeof(endless) / sizeof(endless[0]); i++) {
        char arguments[64];
        int length = snprintf(arguments, sizeof(arguments), "trap%c%s", '\0', endless[i]);
        struct vmm_call call = {
            .arguments = arguments, .arguments_length = (size_t)length + 1, .timeout_ms = 60};
        uint64_t begin_ms = clock_monotonic_ms();
        run(bench, &call);
        EXPECT(bench->outcome.end == VMM_END_TIMEOUT);
        EXPECT(clock_monotonic_ms() - begin_ms >= 59);
        EXPECT(clock_monotonic_ms() - begin_ms < 5000);
        reset(bench);
        expect_fine(bench, NULL, NULL, "fine\n");
    }
    bench_close(bench);
}

BOTH(bounds_output_and_log)
{
    struct vmm_limits limits = usual_limits;
    limits.output_bytes_max = 50000;
    limits.log_bytes_max = 1000;
    struct bench *bench = bench_open(isolation, "trap", &limits);
    call_with(bench, "output", NULL);
    EXPECT(bench->outcome.end == VMM_END_OUTPUT);
    EXPECT(bench->output.used <= 50000);

    call_with(bench, "log", NULL);
    EXPECT(bench->outcome.end == VMM_END_EXIT);
    EXPECT(bench->log.used >= 1000 && bench->log.used < 1200);
    EXPECT(strstr(buffer_string(&bench->log), "dropped") != NULL);
    expect_fine(bench, NULL, NULL, "fine\n");
    bench_close(bench);
}

BOTH(bounds_memory)
{
    struct bench *bench = bench_open(isolation, "trap", &usual_limits);
    char pages[32];
    snprintf(pages, sizeof(pages), "%d\n", MEMORY_MAX / 65536);
    expect_fine(bench, "memory", NULL, pages);
    EXPECT(bench->outcome.memory_bytes == MEMORY_MAX);
    /* And again: what was grown has been given back. */
    expect_fine(bench, "memory", NULL, pages);
    bench_close(bench);
}

BOTH(refuses_a_module_larger_than_its_limit)
{
    struct vmm *vmm = open_vmm(isolation);
    struct vmm_limits limits = usual_limits;
    limits.memory_bytes = 65536;
    BUFFER_OWNED struct buffer elf = {0};
    read_guest("state", &elf);
    struct vmm_image *image = NULL;
    struct error err = {0};
    EXPECT(vmm_image_new(vmm, elf.data, elf.used, &limits, NULL, &image, &err) == -ERROR_TRAP);
    EXPECT(strstr(err.text, "limit") != NULL);
    EXPECT(image == NULL);
    vmm_close(vmm);
}

/* ---- Interruption ---- */

struct waiting {
    struct vmm_shell *shell;
    pthread_t thread;
    int pipe[2];
};

static void *interrupt_when_asked(void *context)
{
    struct waiting *waiting = context;
    char byte;
    EXPECT(read(waiting->pipe[0], &byte, 1) == 1);
    vmm_shell_interrupt(waiting->shell);
    return NULL;
}

/* The guest asks for input: it runs.  From now on it can be interrupted. */
static long tell_that_it_runs(void *bytes, size_t length, uint64_t deadline_ns, void *context)
{
    (void)deadline_ns;
    struct waiting *waiting = context;
    (void)length;
    EXPECT(write(waiting->pipe[1], "x", 1) == 1);
    memcpy(bytes, "x", 1);
    return 1;
}

static bool take_nothing(const void *bytes, size_t length, void *context)
{
    (void)bytes;
    (void)length;
    (void)context;
    return true;
}

BOTH(can_be_interrupted_by_another_thread)
{
    struct vmm_limits limits = usual_limits;
    limits.output_bytes_max = UINT64_MAX / 2;
    struct bench *bench = bench_open(isolation, "echo", &limits);
    /* Each of them at another moment of the guest's talk with its host. */
    for (int i = 0; i < 50; i++) {
        struct waiting waiting = {.shell = bench->shell};
        EXPECT(pipe(waiting.pipe) == 0);
        EXPECT(pthread_create(&waiting.thread, NULL, interrupt_when_asked, &waiting) == 0);
        struct vmm_call call = {
            .read = tell_that_it_runs,
            .read_context = &waiting,
            .sink = {.output = take_nothing},
        };
        vmm_shell_run(bench->shell, &call, &bench->outcome);
        EXPECT(bench->outcome.end == VMM_END_CANCELLED);
        pthread_join(waiting.thread, NULL);
        close(waiting.pipe[0]);
        close(waiting.pipe[1]);
        reset(bench);
    }

    /* An interruption between calls means none of them. */
    vmm_shell_interrupt(bench->shell);
    expect_fine(bench, NULL, "next", "next");
    bench_close(bench);
}

/* ---- Shells and images ---- */

BOTH(moves_from_image_to_image)
{
    struct bench *bench = bench_open(isolation, "echo", &usual_limits);
    struct vmm_image *state = make_image(bench->vmm, "state", &usual_limits);
    struct error err = {0};
    for (int i = 0; i < 3; i++) {
        expect_fine(bench, NULL, "here", "here");
        EXPECT(vmm_shell_attach(bench->shell, state, &err) == 0);
        call_with(bench, NULL, NULL);
        EXPECT(strstr(buffer_string(&bench->output), "global 7 marks 0 grown 0") != NULL);
        EXPECT(vmm_shell_attach(bench->shell, bench->image, &err) == 0);
    }
    vmm_image_unref(state);
    bench_close(bench);
}

BOTH(refuses_what_is_no_image)
{
    struct vmm *vmm = open_vmm(isolation);
    struct vmm_image *image = NULL;
    struct error err = {0};
    EXPECT(vmm_image_new(vmm, "", 0, &usual_limits, NULL, &image, &err) == -ERROR_INVALID);
    EXPECT(vmm_image_new(vmm, "\0asm\1\0\0\0", 8, &usual_limits, NULL, &image, &err) ==
           -ERROR_INVALID);
    struct vmm_limits limits = usual_limits;
    limits.timeout_ms = 0;
    BUFFER_OWNED struct buffer elf = {0};
    read_guest("echo", &elf);
    EXPECT(vmm_image_new(vmm, elf.data, elf.used, &limits, NULL, &image, &err) < 0);
    limits = usual_limits;
    limits.memory_bytes = (UINT64_C(4) << 30) + 65536;
    EXPECT(vmm_image_new(vmm, elf.data, elf.used, &limits, NULL, &image, &err) < 0);
    EXPECT(image == NULL);
    vmm_close(vmm);
}

/*
 * Goal: memory grows up to a limit that is far beyond what a VM is first given, again and again.
 * Method: grow by single pages up to the limit; mark and look on the way (guests/state.c does).
 */
TEST(vmm_microvm, grows_to_its_limit_in_every_call)
{
    struct vmm_limits limits = usual_limits;
    limits.memory_bytes = UINT64_C(300) << 20;
    struct bench *bench = bench_open(VMM_ISOLATION_MICROVM, "trap", &limits);
    for (int i = 0; i < 2; i++) {
        expect_fine(bench, "memory", NULL, "4800\n");
        call_with(bench, "beyond", NULL);
        EXPECT_STRING(bench->outcome.reason, "trap: out of bounds memory access");
        call_with(bench, "far", NULL);
        EXPECT_STRING(bench->outcome.reason, "trap: out of bounds memory access");
    }
    bench_close(bench);
}

/* Goal: the largest class works, and its bound is exact. */
TEST(vmm_microvm, has_4_gib)
{
    struct vmm_limits limits = usual_limits;
    limits.memory_bytes = UINT64_C(4) << 30;
    struct bench *bench = bench_open(VMM_ISOLATION_MICROVM, "trap", &limits);
    expect_fine(bench, NULL, NULL, "fine\n");
    call_with(bench, "far", NULL);
    EXPECT_STRING(bench->outcome.reason, "trap: out of bounds memory access");
    bench_close(bench);
}

static long most_resident_kib(void)
{
    struct rusage usage;
    EXPECT(getrusage(RUSAGE_SELF, &usage) == 0);
    return usage.ru_maxrss;
}

/*
 * Goal: an image holds what its initialisation wrote, and making it takes no more memory than that.
 * Method: a program that begins with 4 GiB, and writes to little of them.
 */
BOTH(looks_at_no_memory_that_nobody_wrote)
{
    struct vmm_limits limits = usual_limits;
    limits.memory_bytes = UINT64_C(4) << 30;
    long before_kib = most_resident_kib();
    struct bench *bench = bench_open(isolation, "vast", &limits);
    struct vmm_image_info info;
    vmm_image_info(bench->image, &info);
    EXPECT(info.memory_bytes == UINT64_C(4) << 30);
    EXPECT(info.snapshot_bytes < UINT64_C(4) << 20);
    EXPECT(most_resident_kib() - before_kib < 512 * 1024);
    call_with(bench, NULL, "it lives");
    EXPECT_STRING(buffer_string(&bench->output), "it lives");
    bench_close(bench);
}

TEST(vmm, probe_tells_why)
{
    struct vmm_probe probe;
    vmm_probe(&probe);
    EXPECT(probe.kvm_usable == (probe.kvm_reason[0] == '\0'));
    EXPECT(!probe.kvm_usable || (probe.kvm_exists && probe.kvm_accessible));
    EXPECT_STRING(vmm_isolation_text(VMM_ISOLATION_MICROVM), "microvm");
    EXPECT_STRING(vmm_isolation_text(VMM_ISOLATION_PROCESS), "process");
}
