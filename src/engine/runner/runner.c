/*
 * The daemon's side: processes, sockets, calls.
 *
 * All of it lives on one loop.  A runner's memory lasts until its poll handles are closed, its
 * calls until their on_end; both outlive the callbacks that end them.
 */
#include "engine/runner/runner.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/list.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "engine/jail/jail.h"
#include "engine/runner/private.h"

enum { KILL_AFTER_MS = 2000, PATIENCE_MS = 10000 };

/* Uids of runners, one per project: a range that no distribution gives out. */
static const uid_t uid_first = 2000000000;
enum { UID_COUNT = 100000000 };

struct loading {
    struct list_node link;
    char image_id[HASH_TEXT_SIZE];
    uint64_t time_ms;      /* what it may take */
    uint64_t answer_by_ms; /* of the first in the list: the runner loads one after the other */
    void (*done)(const struct error *error, const struct vmm_image_info *info, const char *log,
                 size_t log_length, void *context);
    void *context;
};

struct outgoing {
    struct list_node link;
    int fd; /* to send along, or -1 */
    size_t length;
    uint8_t bytes[];
};

/* ---- Ending ---- */

static void release(struct runner *runner)
{
    if (runner->open_handles > 0 || !runner->is_freed || runner->pid > 0 || runner->is_told) {
        return;
    }
    loop_timer_free(runner->reaper);
    loop_timer_free(runner->watchdog);
    free(runner->frame);
    free(runner);
}

static void on_handle_closed(uv_handle_t *handle)
{
    struct runner *runner = handle->data;
    runner->open_handles--;
    release(runner);
}

static void on_slot_closed(uv_handle_t *handle)
{
    struct slot *slot = handle->data;
    slot->runner->open_handles--;
    release(slot->runner);
}

static void finish_loadings(struct runner *runner, const struct error *error)
{
    LIST_EACH(node, &runner->loadings)
    {
        struct loading *loading = LIST_ITEM(node, struct loading, link);
        list_remove(node);
        loading->done(error, NULL, NULL, 0, loading->context);
        free(loading);
    }
}

/* Collect the process without waiting for it; again in a moment when it is not dead yet. */
static void reap(void *context)
{
    enum { EVERY_MS = 20 };
    struct runner *runner = context;
    int status = 0;
    pid_t got = runner->pid > 0 ? waitpid(runner->pid, &status, WNOHANG) : -1;
    if (got == 0) {
        runner->waited_ms += EVERY_MS;
        if (runner->waited_ms >= KILL_AFTER_MS) {
            kill(runner->pid, SIGKILL);
        }
        loop_timer_start(runner->reaper, EVERY_MS);
        return;
    }
    char reason[96];
    if (got > 0 && WIFSIGNALED(status)) {
        snprintf(reason, sizeof(reason), "killed by signal %d (%s)", WTERMSIG(status),
                 sigdescr_np(WTERMSIG(status)));
    } else {
        snprintf(reason, sizeof(reason), "ended with status %d",
                 got > 0 ? WEXITSTATUS(status) : -1);
    }
    runner->pid = -1;
    if (!runner->is_freed && runner->events.on_exit != NULL) {
        runner->is_told = true;
        runner->events.on_exit(runner, reason, runner->events.context);
        runner->is_told = false;
    }
    release(runner);
}

/* Everything in flight fails with `error`; the process is on its way out. */
static void end(struct runner *runner, const struct error *error)
{
    if (runner->is_over) {
        return;
    }
    runner->is_over = true;
    loop_timer_stop(runner->watchdog);
    uv_close((uv_handle_t *)&runner->control_poll, on_handle_closed);
    fd_close_slot(&runner->control_fd); /* the runner ends itself when it sees this */
    LIST_EACH(node, &runner->outbox)
    {
        struct outgoing *outgoing = LIST_ITEM(node, struct outgoing, link);
        list_remove(node);
        fd_close_slot(&outgoing->fd);
        free(outgoing);
    }
    for (unsigned i = 0; i < runner->slot_count; i++) {
        struct slot *slot = &runner->slots[i];
        uv_close((uv_handle_t *)&slot->poll, on_slot_closed);
        fd_close_slot(&slot->fd);
    }
    for (unsigned i = 0; i < runner->slot_count; i++) {
        runner_slot_finish(&runner->slots[i], error, NULL);
    }
    finish_loadings(runner, error);
    loop_timer_start(runner->reaper, 0);
}

/* The reason a dead process gives is known at once most of the time. */
void runner_end_dead(struct runner *runner)
{
    struct error error = {0};
    siginfo_t info = {0};
    error_set(&error, ERROR_UNAVAILABLE, "the runner died");
    if (runner->pid > 0 &&
        waitid(P_PID, (id_t)runner->pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
        info.si_pid == runner->pid && info.si_code != CLD_EXITED) {
        error_set(&error, ERROR_UNAVAILABLE, "the runner died: killed by signal %d",
                  info.si_status);
    }
    end(runner, &error);
}

void runner_end_broken(struct runner *runner, const char *what)
{
    struct error error = {0};
    error_set(&error, ERROR_PROTOCOL, "the runner sent %s", what);
    if (runner->pid > 0) { /* -1 would be everybody */
        kill(runner->pid, SIGKILL);
    }
    end(runner, &error);
}

/* ---- A runner that is alive and does not answer ---- */

static bool is_stuck(const struct runner *runner)
{
    uint64_t now_ms = loop_now_ms(runner->loop);
    const struct loading *loading = LIST_FIRST(&runner->loadings, struct loading, link);
    if (loading != NULL && now_ms >= loading->answer_by_ms) {
        return true;
    }
    for (unsigned i = 0; i < runner->slot_count; i++) {
        const struct runner_call *call = runner->slots[i].call;
        if (call != NULL && !call->paused && call->answer_by_ms > 0 &&
            now_ms >= call->answer_by_ms) {
            return true;
        }
    }
    return false;
}

/* Timeouts are the runner's to keep; this one is for when it does not. */
static void on_watchdog(void *context)
{
    struct runner *runner = context;
    if (!is_stuck(runner)) {
        loop_timer_start(runner->watchdog, runner->patience_ms);
        return;
    }
    struct error error = {0};
    error_set(&error, ERROR_UNAVAILABLE, "the runner does not answer");
    if (runner->pid > 0) {
        kill(runner->pid, SIGKILL);
    }
    end(runner, &error);
}

static void expect_loading(struct runner *runner)
{
    struct loading *first = LIST_FIRST(&runner->loadings, struct loading, link);
    if (first != NULL) {
        first->answer_by_ms = loop_now_ms(runner->loop) + first->time_ms + runner->patience_ms;
    }
}

/* ---- Control ---- */

static void watch_control(struct runner *runner);

void runner_post(struct runner *runner, const void *bytes, size_t length, int fd)
{
    if (runner->is_over) {
        return;
    }
    if (list_is_empty(&runner->outbox) && fd_send(runner->control_fd, bytes, length, fd) >= 0) {
        return;
    }
    struct outgoing *outgoing = memory_new(1, sizeof(*outgoing) + length);
    outgoing->fd = fd >= 0 ? fcntl(fd, F_DUPFD_CLOEXEC, 3) : -1;
    outgoing->length = length;
    memcpy(outgoing->bytes, bytes, length);
    list_push_back(&runner->outbox, &outgoing->link);
    watch_control(runner);
}

static void flush_outbox(struct runner *runner)
{
    LIST_EACH(node, &runner->outbox)
    {
        struct outgoing *outgoing = LIST_ITEM(node, struct outgoing, link);
        if (fd_send(runner->control_fd, outgoing->bytes, outgoing->length, outgoing->fd) < 0) {
            return;
        }
        list_remove(node);
        fd_close_slot(&outgoing->fd);
        free(outgoing);
    }
}

static void take_hello(struct runner *runner, ssize_t got)
{
    struct frame_hello hello;
    if (got != sizeof(hello)) {
        runner_end_broken(runner, "a greeting of another build");
        return;
    }
    memcpy(&hello, runner->frame, sizeof(hello));
    if (hello.version != PROTOCOL_VERSION || hello.size != sizeof(struct frame_end)) {
        runner_end_broken(
            runner,
            "a greeting of another build; blixard and blixard-runner must be installed "
            "together");
        return;
    }
    jail_describe(hello.jail, runner->jail, sizeof(runner->jail));
    runner->has_greeted = true;
}

static void take_loaded(struct runner *runner, ssize_t got)
{
    struct frame_loaded answer;
    if (got < (ssize_t)sizeof(answer)) {
        runner_end_broken(runner, "a short message");
        return;
    }
    memcpy(&answer, runner->frame, sizeof(answer));
    if ((size_t)got != sizeof(answer) + answer.log_length ||
        answer.error.kind >= ERROR_KIND_COUNT) {
        runner_end_broken(runner, "a message of a wrong length");
        return;
    }
    answer.image_id[sizeof(answer.image_id) - 1] = '\0';
    answer.error.text[sizeof(answer.error.text) - 1] = '\0';
    LIST_EACH(node, &runner->loadings)
    {
        struct loading *loading = LIST_ITEM(node, struct loading, link);
        if (strcmp(loading->image_id, answer.image_id) == 0) {
            bool good = answer.error.kind == ERROR_NONE;
            list_remove(node);
            expect_loading(runner);
            loading->done(good ? NULL : &answer.error, good ? &answer.info : NULL,
                          (const char *)runner->frame + sizeof(answer), answer.log_length,
                          loading->context);
            free(loading);
            return;
        }
    }
}

static void on_control(uv_poll_t *poll, int status, int events)
{
    struct runner *runner = poll->data;
    if (status < 0) {
        runner_end_dead(runner);
        return;
    }
    if (events & UV_WRITABLE) {
        flush_outbox(runner);
        watch_control(runner);
    }
    if ((events & (UV_READABLE | UV_DISCONNECT)) == 0) {
        return;
    }
    ssize_t got = recv(runner->control_fd, runner->frame, PROTOCOL_FRAME, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
        return;
    }
    if (got <= 0) {
        runner_end_dead(runner);
        return;
    }
    struct frame head = {0};
    memcpy(&head, runner->frame, (size_t)got < sizeof(head) ? (size_t)got : sizeof(head));
    if (head.type == FRAME_HELLO && !runner->has_greeted) {
        take_hello(runner, got);
    } else if (head.type == FRAME_LOADED) {
        take_loaded(runner, got);
    } else {
        runner_end_broken(runner, "an unknown control message");
    }
}

static void watch_control(struct runner *runner)
{
    int events = UV_READABLE | (list_is_empty(&runner->outbox) ? 0 : UV_WRITABLE);
    int r = uv_poll_start(&runner->control_poll, events, on_control);
    CHECK(r == 0);
}

/* ---- Starting ---- */

static uid_t uid_of(const char *project)
{
    return uid_first + (uid_t)(hash_stable(project) % UID_COUNT);
}

/* Between fork and exec: descriptors 3.. as protocol.h has them. */
__attribute__((noreturn)) static void become(const char *program, char *const *argv, const int *fds,
                                             unsigned count)
{
    static char *const environment[] = {(char *)(uintptr_t) "PATH=/usr/bin:/bin", NULL};
    int high[RUNNER_SLOTS_MAX + 2];
    /* First out of the way of each other, then into place. */
    for (unsigned i = 0; i < count; i++) {
        high[i] = fcntl(fds[i], F_DUPFD, 100 + (int)count);
        if (high[i] < 0) {
            _exit(71);
        }
    }
    for (unsigned i = 0; i < count; i++) {
        if (dup2(high[i], PROTOCOL_CONTROL_FD + (int)i) < 0) {
            _exit(71);
        }
    }
    close_range(PROTOCOL_CONTROL_FD + count, ~0U, 0);
    int null_fd = open("/dev/null", O_RDWR);
    dup2(null_fd, STDIN_FILENO);
    dup2(null_fd, STDOUT_FILENO);
    if (null_fd > STDERR_FILENO) {
        close(null_fd);
    }
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    setsid(); /* a terminal's Ctrl-C is for the daemon, which ends its runners itself */
    execve(program, argv, environment);
    _exit(127);
}

static int open_sockets(struct runner *runner, int *child_fds, struct error *err)
{
    const int size = PROTOCOL_SOCKET_BUFFER;
    for (unsigned i = 0; i <= runner->slot_count; i++) {
        int ends[2];
        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0) {
            return error_os(err, errno, "making a socket for a runner");
        }
        for (int end = 0; end < 2; end++) {
            setsockopt(ends[end], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
            setsockopt(ends[end], SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
        }
        if (i == 0) {
            runner->control_fd = ends[0];
            child_fds[0] = ends[1];
        } else {
            runner->slots[i - 1].fd = ends[0];
            child_fds[i + 1] = ends[1];
        }
    }
    return 0;
}

static void close_all(int *fds, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        fd_close_slot(&fds[i]);
    }
}

static int spawn(struct runner *runner, const struct runner_options *options, int *child_fds,
                 struct error *err)
{
    MEMORY_OWNED char *program = options->program != NULL ? memory_copy_string(options->program)
                                                          : file_find_companion("blixard-runner");
    if (program == NULL || !file_exists(program)) {
        return error_set(
            err, ERROR_NOT_FOUND,
            "blixard-runner is not beside blixard nor in PATH: install it, or say where "
            "it is");
    }
    uid_t uid = options->uid != 0 ? options->uid : uid_of(options->project);
    MEMORY_OWNED char *slots = memory_format("%u", options->slot_count);
    MEMORY_OWNED char *uid_text = memory_format("%u", geteuid() == 0 ? uid : 0);
    MEMORY_OWNED char *memory =
        memory_format("%llu", (unsigned long long)options->memory_bytes_max);
    char *const argv[] = {(char *)(uintptr_t) "blixard-runner",
                          slots,
                          (char *)(uintptr_t)vmm_isolation_text(options->isolation),
                          uid_text,
                          memory,
                          (char *)(uintptr_t)options->project,
                          NULL};
    bool is_microvm = options->isolation == VMM_ISOLATION_MICROVM;
    child_fds[1] = open(is_microvm ? "/dev/kvm" : "/dev/null", O_RDWR | O_CLOEXEC);
    if (child_fds[1] < 0) {
        return error_os(err, errno, "opening /dev/kvm");
    }
    runner->pid = fork();
    if (runner->pid < 0) {
        return error_os(err, errno, "starting a runner");
    }
    if (runner->pid == 0) {
        become(program, argv, child_fds, options->slot_count + 2);
    }
    return 0;
}

static void open_handles(struct runner *runner)
{
    uv_loop_t *uv = loop_uv(runner->loop);
    int r = uv_poll_init(uv, &runner->control_poll, runner->control_fd);
    CHECK(r == 0);
    runner->control_poll.data = runner;
    runner->open_handles = 1 + runner->slot_count;
    for (unsigned i = 0; i < runner->slot_count; i++) {
        struct slot *slot = &runner->slots[i];
        r = uv_poll_init(uv, &slot->poll, slot->fd);
        CHECK(r == 0);
        slot->poll.data = slot;
        runner_slot_watch(slot);
    }
    watch_control(runner);
}

static struct runner *make(struct loop *loop, const struct runner_options *options,
                           const struct runner_events *events)
{
    CHECK(options->slot_count >= 1 && options->slot_count <= RUNNER_SLOTS_MAX);

    struct runner *runner = NEW(struct runner);
    runner->loop = loop;
    runner->events = *events;
    runner->isolation = options->isolation;
    runner->slot_count = options->slot_count;
    runner->patience_ms = options->patience_ms > 0 ? options->patience_ms : PATIENCE_MS;
    runner->pid = -1;
    runner->control_fd = -1;
    snprintf(runner->jail, sizeof(runner->jail), "starting");
    list_init(&runner->loadings);
    list_init(&runner->outbox);
    for (unsigned i = 0; i < runner->slot_count; i++) {
        runner->slots[i] = (struct slot){.runner = runner, .index = i, .fd = -1};
    }
    return runner;
}

static void begin(struct runner *runner)
{
    runner->frame = memory_new(1, PROTOCOL_FRAME);
    runner->reaper = loop_timer_new(runner->loop, reap, runner);
    runner->watchdog = loop_timer_new(runner->loop, on_watchdog, runner);
    loop_timer_start(runner->watchdog, runner->patience_ms);
    open_handles(runner);
}

int runner_start(struct loop *loop, const struct runner_options *options,
                 const struct runner_events *events, struct runner **ret_runner, struct error *err)
{
    struct runner *runner = make(loop, options, events);
    int child_fds[RUNNER_SLOTS_MAX + 2];
    for (unsigned i = 0; i < RUNNER_SLOTS_MAX + 2; i++) {
        child_fds[i] = -1;
    }
    int r = open_sockets(runner, child_fds, err);
    if (r == 0) {
        r = spawn(runner, options, child_fds, err);
    }
    close_all(child_fds, RUNNER_SLOTS_MAX + 2);
    if (r < 0) {
        fd_close_slot(&runner->control_fd);
        for (unsigned i = 0; i < runner->slot_count; i++) {
            fd_close_slot(&runner->slots[i].fd);
        }
        free(runner);
        return r;
    }
    begin(runner);
    *ret_runner = runner;
    return 0;
}

struct runner *runner_adopt(struct loop *loop, const struct runner_options *options,
                            const struct runner_events *events, int owned_control_fd,
                            const int *owned_slot_fds)
{
    struct runner *runner = make(loop, options, events);
    runner->control_fd = owned_control_fd;
    for (unsigned i = 0; i < runner->slot_count; i++) {
        runner->slots[i].fd = owned_slot_fds[i];
    }
    begin(runner);
    return runner;
}

void runner_free(struct runner *runner)
{
    if (runner->driver != NULL) {
        runner->driver->free(runner);
        return;
    }
    struct error error = {0};
    CHECK(!runner->is_freed);
    runner->is_freed = true;
    if (runner->is_over) {
        release(runner);
        return;
    }
    error_set(&error, ERROR_CANCELLED, "the runner is being ended");
    end(runner, &error);
}

pid_t runner_pid(const struct runner *runner)
{
    if (runner->driver != NULL) {
        return 0;
    }
    return runner->pid;
}

enum vmm_isolation runner_isolation(const struct runner *runner)
{
    if (runner->driver != NULL) {
        return runner->driver->isolation;
    }
    return runner->isolation;
}

const char *runner_jail_text(const struct runner *runner)
{
    if (runner->driver != NULL) {
        return runner->driver->name;
    }
    return runner->jail;
}

/* ---- Images ---- */

void runner_load(struct runner *runner, const char *image_id, int elf_fd,
                 const struct vmm_limits *limits,
                 void (*done)(const struct error *error, const struct vmm_image_info *info,
                              const char *log, size_t log_length, void *context),
                 void *context)
{
    CHECK(strlen(image_id) == HASH_TEXT_SIZE - 1);

    struct frame_load request = {.frame = {.type = FRAME_LOAD}, .limits = *limits};
    struct loading *loading = NEW(struct loading);
    memcpy(request.image_id, image_id, HASH_TEXT_SIZE);
    memcpy(loading->image_id, image_id, HASH_TEXT_SIZE);
    loading->done = done;
    loading->context = context;
    loading->time_ms = limits->timeout_ms;
    list_push_back(&runner->loadings, &loading->link);
    if (LIST_FIRST(&runner->loadings, struct loading, link) == loading) {
        expect_loading(runner);
    }
    runner_post(runner, &request, sizeof(request), elf_fd);
    if (runner->is_over) {
        struct error error = {0};
        error_set(&error, ERROR_UNAVAILABLE, "the runner died");
        finish_loadings(runner, &error);
    }
}

void runner_load_with(struct runner *runner, const char *image_id, int fd,
                      const struct vmm_limits *limits, const char *settings,
                      void (*done)(const struct error *error, const struct vmm_image_info *info,
                                   const char *log, size_t log_length, void *context),
                      void *context)
{
    if (runner->driver != NULL) {
        runner->driver->load(runner, image_id, fd, limits, settings, done, context);
        return;
    }
    runner_load(runner, image_id, fd, limits, done, context);
}

void runner_unload(struct runner *runner, const char *image_id)
{
    if (runner->driver != NULL) {
        runner->driver->unload(runner, image_id);
        return;
    }
    struct frame_unload request = {.frame = {.type = FRAME_UNLOAD}};
    memcpy(request.image_id, image_id, HASH_TEXT_SIZE);
    runner_post(runner, &request, sizeof(request), -1);
}
