#include "base/process.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"

enum { EXIT_NO_EXEC = 127, READ_STEP = 16384, BEGIN_MS = 20000, TIDY_MS = 5000, TRIES = 3 };

/* The parent's ends, and the child's. */
struct pipes {
    int input[2];
    int output[2];
    int errors[2];
    int failed[2]; /* errno of a failed exec travels here; closed by a good one */
};

static void close_pair(int pair[2])
{
    fd_close_slot(&pair[0]);
    fd_close_slot(&pair[1]);
}

static void close_pipes(struct pipes *pipes)
{
    close_pair(pipes->input);
    close_pair(pipes->output);
    close_pair(pipes->errors);
    close_pair(pipes->failed);
}

static int open_pipes(struct pipes *pipes, struct error *err)
{
    *pipes = (struct pipes){{-1, -1}, {-1, -1}, {-1, -1}, {-1, -1}};
    if (pipe2(pipes->input, O_CLOEXEC) < 0 || pipe2(pipes->output, O_CLOEXEC) < 0 ||
        pipe2(pipes->errors, O_CLOEXEC) < 0 || pipe2(pipes->failed, O_CLOEXEC) < 0) {
        int cause = errno;
        close_pipes(pipes);
        return error_os(err, cause, "making pipes for a program");
    }
    return 0;
}

/* ---- The child: async-signal-safe calls only ---- */

static void reset_signals(void)
{
    struct sigaction action = {.sa_handler = SIG_DFL};
    for (int signal = 1; signal < NSIG; signal++) {
        sigaction(signal, &action, NULL);
    }
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

__attribute__((noreturn)) static void give_up(int failed_fd, int cause)
{
    ssize_t wrote = write(failed_fd, &cause, sizeof(cause));
    (void)wrote;
    _exit(EXIT_NO_EXEC);
}

__attribute__((noreturn)) static void become(const struct process_options *options,
                                             const char *path, const struct pipes *pipes)
{
    enum { FAILED_FD = 3 };
    setpgid(0, 0);
    reset_signals();
    int input = options->input_path == NULL ? pipes->input[0]
                                            : open(options->input_path, O_RDONLY | O_CLOEXEC);
    if (input < 0 || dup2(input, STDIN_FILENO) < 0 || dup2(pipes->output[1], STDOUT_FILENO) < 0 ||
        dup2(pipes->errors[1], STDERR_FILENO) < 0) {
        give_up(pipes->failed[1], errno);
    }
    int failed_fd = pipes->failed[1];
    if (failed_fd != FAILED_FD && dup3(failed_fd, FAILED_FD, O_CLOEXEC) < 0) {
        give_up(failed_fd, errno);
    }
    close_range(FAILED_FD + 1, ~0U, 0);
    if (options->folder != NULL && chdir(options->folder) < 0) {
        give_up(FAILED_FD, errno);
    }
    if (options->prepare != NULL && options->prepare(options->prepare_context) != 0) {
        give_up(FAILED_FD, EPERM);
    }
    const char *const *environment =
        options->envp != NULL ? options->envp : (const char *const *)environ;
    execve(path, (char *const *)(uintptr_t)options->argv, (char *const *)(uintptr_t)environment);
    give_up(FAILED_FD, errno);
}

/* ---- The parent ---- */

struct flow {
    const struct process_options *options;
    struct pipes *pipes;
    struct buffer *output;
    struct buffer *errors;
    size_t input_used;
    uint64_t deadline_ms; /* 0: none */
    bool timed_out;
    bool cancelled;
};

static void feed(struct flow *flow)
{
    const char *at = (const char *)flow->options->input + flow->input_used;
    ssize_t wrote =
        write(flow->pipes->input[1], at, flow->options->input_length - flow->input_used);
    if (wrote > 0) {
        flow->input_used += (size_t)wrote;
    }
    bool is_closed = wrote < 0 && errno != EAGAIN && errno != EINTR; /* it does not read any more */
    if (is_closed || flow->input_used == flow->options->input_length) {
        fd_close_slot(&flow->pipes->input[1]);
    }
}

static void drain(struct flow *flow, int *fd, struct buffer *buffer)
{
    char bytes[READ_STEP];
    ssize_t got = read(*fd, bytes, sizeof(bytes));
    if (got < 0 && (errno == EINTR || errno == EAGAIN)) {
        return;
    }
    if (got <= 0) {
        fd_close_slot(fd);
        return;
    }
    if (buffer != NULL && buffer->used < flow->options->output_max) {
        size_t left = flow->options->output_max - buffer->used;
        buffer_append(buffer, bytes, (size_t)got < left ? (size_t)got : left);
    }
}

enum { LOOK_EVERY_MS = 100 };

static int time_left(const struct flow *flow)
{
    uint64_t left_ms = INT32_MAX;
    if (flow->deadline_ms != 0) {
        uint64_t now_ms = clock_monotonic_ms();
        left_ms = flow->deadline_ms > now_ms ? flow->deadline_ms - now_ms : 0;
    }
    if (flow->options->cancel != NULL && left_ms > LOOK_EVERY_MS) {
        return LOOK_EVERY_MS;
    }
    return left_ms >= INT32_MAX ? -1 : (int)left_ms;
}

/* Must the program be ended? */
static bool is_over(struct flow *flow)
{
    flow->cancelled =
        flow->options->cancel != NULL && __atomic_load_n(flow->options->cancel, __ATOMIC_RELAXED);
    flow->timed_out = flow->deadline_ms != 0 && clock_monotonic_ms() >= flow->deadline_ms;
    return flow->cancelled || flow->timed_out;
}

/* Move bytes until both outputs are closed, or it is too late. */
static void pump(struct flow *flow)
{
    struct pipes *pipes = flow->pipes;
    while (pipes->output[0] >= 0 || pipes->errors[0] >= 0) {
        struct pollfd polled[3] = {
            {.fd = pipes->output[0], .events = POLLIN},
            {.fd = pipes->errors[0], .events = POLLIN},
            {.fd = pipes->input[1], .events = POLLOUT},
        };
        int count = poll(polled, 3, time_left(flow));
        if (is_over(flow)) {
            return;
        }
        if (count < 0) {
            CHECK(errno == EINTR);
            continue;
        }
        if (polled[0].revents != 0) {
            drain(flow, &pipes->output[0], flow->output);
        }
        if (polled[1].revents != 0) {
            drain(flow, &pipes->errors[0], flow->errors);
        }
        if (polled[2].revents != 0) {
            feed(flow);
        }
    }
}

/* The program may close its outputs and go on: the clock still counts. */
static void reap(struct flow *flow, pid_t pid, int *ret_status, struct rusage *ret_usage)
{
    FD_OWNED int fd = pidfd_open(pid, 0);
    struct pollfd polled = {.fd = fd, .events = POLLIN};
    while (fd >= 0 && !flow->timed_out && !flow->cancelled &&
           poll(&polled, 1, time_left(flow)) <= 0 && !is_over(flow)) {
    }
    if (flow->cancelled) { /* it may tidy up */
        kill(-pid, SIGTERM);
        poll(&polled, 1, TIDY_MS);
    }
    if (flow->timed_out || flow->cancelled) {
        kill(-pid, SIGKILL);
    }
    while (wait4(pid, ret_status, 0, ret_usage) < 0) {
        CHECK(errno == EINTR);
    }
    kill(-pid, SIGKILL); /* what it may have left behind in its group */
}

static int check_exec(int failed_fd, const char *name, struct error *err)
{
    int cause = 0;
    ssize_t got = read(failed_fd, &cause, sizeof(cause));
    return got == (ssize_t)sizeof(cause) ? error_os(err, cause, "starting %s", name) : 0;
}

static int supervise(struct flow *flow, pid_t pid, uint64_t begin_ms,
                     struct process_result *ret_result, struct error *err)
{
    struct pipes *pipes = flow->pipes;
    fcntl(pipes->input[1], F_SETFL, O_NONBLOCK);
    if (flow->options->input_length == 0) {
        fd_close_slot(&pipes->input[1]);
    }
    pump(flow);

    int status = 0;
    struct rusage usage = {0};
    reap(flow, pid, &status, &usage);
    int r = check_exec(pipes->failed[0], flow->options->argv[0], err);
    if (r < 0) {
        return r;
    }
    *ret_result = (struct process_result){
        .exit_code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status),
        .timed_out = flow->timed_out,
        .cancelled = flow->cancelled,
        .max_rss_kib = (uint64_t)usage.ru_maxrss,
        .wall_ms = clock_monotonic_ms() - begin_ms,
    };
    return 0;
}

/* Has it come to its exec, or to why it did not? */
static bool has_begun(const struct process_options *options, const struct pipes *pipes)
{
    struct pollfd polled = {.fd = pipes->failed[0], .events = POLLIN};
    uint64_t limit_ms = options->begin_ms > 0 ? options->begin_ms : BEGIN_MS;
    uint64_t end_ms = clock_monotonic_ms() + limit_ms;
    uint64_t now_ms = 0;
    while ((now_ms = clock_monotonic_ms()) < end_ms) {
        int count = poll(&polled, 1, (int)(end_ms - now_ms));
        if (count > 0) {
            return true;
        }
        CHECK(count == 0 || errno == EINTR);
    }
    return false;
}

static void end_unbegun(pid_t pid, struct pipes *pipes)
{
    kill(-pid, SIGKILL);
    kill(pid, SIGKILL);
    while (waitpid(pid, NULL, 0) < 0) {
        CHECK(errno == EINTR);
    }
    close_pipes(pipes);
}

/* A child that is at its program, or has told why not.  One that gets input may be reading that
 * already: it is not waited for. */
static int begin(const struct process_options *options, const char *path, struct pipes *pipes,
                 pid_t *ret_pid, struct error *err)
{
    for (int i = 0; i < TRIES; i++) {
        if (open_pipes(pipes, err) < 0) {
            return -(int)err->kind;
        }
        pid_t pid = fork();
        if (pid < 0) {
            int cause = errno;
            close_pipes(pipes);
            return error_os(err, cause, "starting %s", options->argv[0]);
        }
        if (pid == 0) {
            become(options, path, pipes);
        }
        setpgid(pid, pid); /* both sides, so that neither has to wait for the other */
        fd_close_slot(&pipes->input[0]);
        fd_close_slot(&pipes->output[1]);
        fd_close_slot(&pipes->errors[1]);
        fd_close_slot(&pipes->failed[1]);
        if (options->input_length > 0 || has_begun(options, pipes)) {
            *ret_pid = pid;
            return 0;
        }
        log_warn("%s stood still before it began: it is begun anew", options->argv[0]);
        end_unbegun(pid, pipes);
    }
    return error_set(err, ERROR_TIMEOUT, "starting %s: it stands still before it begins",
                     options->argv[0]);
}

int process_run(const struct process_options *options, struct buffer *output, struct buffer *errors,
                struct process_result *ret_result, struct error *err)
{
    CHECK(options->argv[0] != NULL);

    const char *name = options->argv[0];
    MEMORY_OWNED char *path =
        strchr(name, '/') != NULL ? memory_copy_string(name) : file_find_program(name);
    if (path == NULL) {
        return error_set(err, ERROR_NOT_FOUND, "the program %s is not installed", name);
    }
    struct pipes pipes;
    pid_t pid = 0;
    uint64_t begin_ms = clock_monotonic_ms();
    int r = begin(options, path, &pipes, &pid, err);
    if (r < 0) {
        return r;
    }
    struct flow flow = {
        .options = options,
        .pipes = &pipes,
        .output = output,
        .errors = errors,
        .deadline_ms = options->timeout_ms > 0 ? begin_ms + options->timeout_ms : 0,
    };
    r = supervise(&flow, pid, begin_ms, ret_result, err);
    close_pipes(&pipes);
    return r;
}
