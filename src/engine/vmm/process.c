/*
 * Function VMs without KVM: the host's side of the process sandbox (process.h).
 *
 * The windows of a child are in a memfd that the shell has mapped too, so the host fills and reads
 * them in place; a child may write while we look, so each number of the call block is read once,
 * then checked.  After a call the child is ended and its memfd with it; the next one is made and
 * waits, filled, before the next call comes.
 */
#include "engine/vmm/process.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/memory.h"

struct process_host {
    pthread_mutex_t lock; /* one request to the zygote at a time */
    int zygote_socket;
    pid_t zygote_pid;
    unsigned shells; /* under the lock */
    unsigned shells_max;
};

struct process_shell {
    struct vmm_shell base;
    struct process_host *host;
    pthread_mutex_t lock; /* of what an interruption from another thread looks at */
    bool is_running;
    bool is_interrupted;
    bool is_building;
    int socket; /* of the child; -1: there is none */
    pid_t pid;
    int memory_fd;   /* while an image is made, else -1 */
    uint8_t *memory; /* all windows */
    uint64_t memory_bytes;
    uint64_t bytes[WINDOW_COUNT];
    uint64_t memory_now; /* linear memory */
    uint64_t files_now;  /* of files' memory: what was asked for */
};

enum verdict { GO_ON, OVER, READY };
enum { EXITS_AT_A_STRETCH = 64 };

static uint8_t *window_at(const struct process_shell *shell, enum window window)
{
    uint64_t at = 0;
    for (int i = 0; i < (int)window; i++) {
        at += shell->bytes[i];
    }
    return shell->memory + at;
}

static struct abi_block *block_of(const struct process_shell *shell)
{
    return (struct abi_block *)window_at(shell, WINDOW_DATA);
}

/* ---- The zygote ---- */

static int ask_zygote(struct process_host *host, struct zygote_request *request, const int *fds,
                      struct error *err)
{
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(2 * sizeof(int))];
    } control = {0};
    struct iovec piece = {.iov_base = request, .iov_len = sizeof(*request)};
    struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1};
    if (fds != NULL) {
        message.msg_control = &control;
        message.msg_controllen = sizeof(control);
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(2 * sizeof(int));
        memcpy(CMSG_DATA(header), fds, 2 * sizeof(int));
    }
    struct zygote_reply reply = {.pid = -EPIPE};
    pthread_mutex_lock(&host->lock);
    ssize_t got = sendmsg(host->zygote_socket, &message, MSG_NOSIGNAL);
    while (got >= 0) {
        got = recv(host->zygote_socket, &reply, sizeof(reply), 0);
        if (got >= 0 || errno != EINTR) {
            break;
        }
        got = 0;
    }
    pthread_mutex_unlock(&host->lock);
    if (got != (ssize_t)sizeof(reply) || reply.pid < 0) {
        return error_os(err, reply.pid < 0 ? -reply.pid : EPIPE, "asking for a process sandbox");
    }
    return reply.pid;
}

/* The addresses of a guest must be free here, as they will be in all children. */
static int check_addresses(struct error *err)
{
    const struct {
        uint64_t base;
        uint64_t bytes;
    } ranges[] = {{ABI_TEXT_BASE, ABI_FILES_BASE + ABI_FILES_BYTES - ABI_TEXT_BASE},
                  {ABI_MEMORY_BASE, MIB(8192)}};
    for (size_t i = 0; i < sizeof(ranges) / sizeof(ranges[0]); i++) {
        void *at = mmap((void *)ranges[i].base, ranges[i].bytes, PROT_NONE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
        if (at != MAP_FAILED) {
            munmap(at, ranges[i].bytes);
        }
        if (at != (void *)ranges[i].base) {
            return error_set(err, ERROR_UNSUPPORTED,
                             "the addresses of a function are taken in this process");
        }
    }
    return 0;
}

static int backend_open(struct vmm *vmm, const struct vmm_options *options, struct error *err)
{
    int ends[2];
    int r = check_addresses(err);
    if (r < 0) {
        return r;
    }
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0) {
        return error_os(err, errno, "making the zygote's socket");
    }
    pid_t pid = fork();
    if (pid == 0) {
        zygote_main(ends[1]);
    }
    close(ends[1]);
    if (pid < 0) {
        int cause = errno;
        close(ends[0]);
        return error_os(err, cause, "forking the zygote of process sandboxes");
    }
    struct process_host *host = NEW(struct process_host);
    pthread_mutex_init(&host->lock, NULL);
    host->zygote_socket = ends[0];
    host->zygote_pid = pid;
    host->shells_max = options->shells_max;
    vmm->state = host;
    return 0;
}

static void backend_close(struct vmm *vmm)
{
    struct process_host *host = vmm->state;
    close(host->zygote_socket);
    while (waitpid(host->zygote_pid, NULL, 0) < 0 && errno == EINTR) {
    }
    pthread_mutex_destroy(&host->lock);
    free(host);
}

/* ---- Children ---- */

static void end_child(struct process_shell *shell)
{
    if (shell->socket >= 0) {
        struct error err = {0};
        struct zygote_request end = {.wish = ZYGOTE_END, .pid = shell->pid};
        ask_zygote(shell->host, &end, NULL, &err); /* without a zygote no child lives */
        close(shell->socket);
        shell->socket = -1;
    }
    fd_close_slot(&shell->memory_fd);
    if (shell->memory != NULL) {
        munmap(shell->memory, shell->memory_bytes);
        shell->memory = NULL;
    }
}

static int map_memory(struct process_shell *shell, const struct vmm_image *image, int *ret_fd,
                      struct error *err)
{
    FD_OWNED int fd = memfd_create("function", MFD_CLOEXEC);
    shell->memory_bytes = 0;
    for (int window = 0; window < WINDOW_COUNT; window++) {
        shell->bytes[window] = image->class.bytes[window];
        if (window == WINDOW_STACK) {
            shell->bytes[window] = ABI_STACK_BYTES;
        } else if (window == WINDOW_MEMORY) {
            shell->bytes[window] = image->limits.memory_bytes & ~UINT64_C(65535);
        } else if (window == WINDOW_FILES) {
            shell->bytes[window] = image->limits.files_bytes & ~UINT64_C(65535);
        }
        shell->memory_bytes += shell->bytes[window];
    }
    if (fd < 0 || ftruncate(fd, (off_t)shell->memory_bytes) < 0) {
        return error_os(err, errno, "making the memory of a process sandbox");
    }
    void *memory = mmap(NULL, shell->memory_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED) {
        return error_os(err, errno, "mapping the memory of a process sandbox");
    }
    shell->memory = memory;
    *ret_fd = fd_take(&fd);
    return 0;
}

/* A child for `image` that begins at `registers` when it is told to. */
static int start_child(struct process_shell *shell, const struct vmm_image *image,
                       const struct registers *registers, struct error *err)
{
    FD_OWNED int memory_fd = -1;
    int ends[2];
    end_child(shell);
    int r = map_memory(shell, image, &memory_fd, err);
    if (r < 0) {
        return r;
    }
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0) {
        end_child(shell);
        return error_os(err, errno, "making the socket of a process sandbox");
    }
    shell->memory_now = image->info.memory_bytes;
    shell->files_now = image->info.files_bytes;
    struct zygote_request request = {
        .wish = ZYGOTE_SPAWN, .memory_accessible = shell->memory_now, .registers = *registers};
    memcpy(request.bytes, shell->bytes, sizeof(request.bytes));
    r = ask_zygote(shell->host, &request, (const int[2]){memory_fd, ends[1]}, err);
    close(ends[1]);
    if (r < 0) {
        close(ends[0]);
        end_child(shell);
        return r;
    }
    shell->pid = r;
    shell->socket = ends[0];
    for (size_t i = 0; i < image->run_count; i++) {
        const struct run *run = &image->runs[i];
        memcpy(window_at(shell, run->window) + run->offset, run->bytes, run->length);
    }
    shell->memory_fd = shell->is_building ? fd_take(&memory_fd) : -1;
    return 0;
}

/* ---- Serving a call ---- */

static uint8_t *translate(const struct process_shell *shell, uint64_t address, uint64_t length)
{
    for (int window = WINDOW_DATA; window < WINDOW_COUNT; window++) {
        uint64_t base = window_base[window];
        uint64_t bytes = window == WINDOW_MEMORY ? shell->memory_now
            : window == WINDOW_FILES             ? shell->files_now
                                                 : shell->bytes[window];
        if (address >= base && address - base <= bytes && length <= bytes - (address - base)) {
            return window_at(shell, (enum window)window) + (address - base);
        }
    }
    return NULL;
}

static bool take_inline(struct process_shell *shell, struct call_state *state, bool with_output)
{
    return call_inline(state, block_of(shell), with_output);
}

static enum verdict out_of_bounds(struct call_state *state)
{
    call_end(state, VMM_END_TRAP, "trap: out of bounds memory access");
    return OVER;
}

static bool is_cancelled(struct process_shell *shell, struct call_state *state)
{
    pthread_mutex_lock(&shell->lock);
    bool is_interrupted = shell->is_interrupted;
    pthread_mutex_unlock(&shell->lock);
    if (is_interrupted) {
        call_end(state, VMM_END_CANCELLED, "cancelled");
    }
    return is_interrupted;
}

static bool must_stop(struct process_shell *shell, struct call_state *state)
{
    if (is_cancelled(shell, state)) {
        return true;
    }
    if (clock_monotonic_ns() < state->deadline_ns) {
        return false;
    }
    take_inline(shell, state, false);
    char text[64];
    snprintf(text, sizeof(text), "timed out after %" PRIu64 " ms",
             state->call->timeout_ms > 0 ? state->call->timeout_ms : state->limits->timeout_ms);
    call_end(state, VMM_END_TIMEOUT, text);
    return true;
}

/* The socket has failed: an interruption has shut it, or the child is gone for the reason given. */
static enum verdict gone(struct process_shell *shell, struct call_state *state, enum vmm_end end,
                         const char *reason)
{
    if (!is_cancelled(shell, state)) {
        call_end(state, end, reason);
    }
    return OVER;
}

/* Until the child says something or `until_ns` is there; an interruption shuts the socket. */
static bool wait_until(struct process_shell *shell, uint64_t until_ns)
{
    uint64_t now_ns = clock_monotonic_ns();
    uint64_t left_ns = until_ns > now_ns ? until_ns - now_ns : 0;
    struct timespec left = {.tv_sec = (time_t)(left_ns / 1000000000),
                            .tv_nsec = (long)(left_ns % 1000000000)};
    struct pollfd item = {.fd = shell->socket, .events = POLLIN};
    return ppoll(&item, 1, &left, NULL) > 0;
}

static uint64_t sleep_for(struct process_shell *shell, const struct call_state *state, uint64_t ns)
{
    uint64_t now_ns = clock_monotonic_ns();
    uint64_t left_ns = state->deadline_ns > now_ns ? state->deadline_ns - now_ns : 0;
    wait_until(shell, now_ns + (ns < left_ns ? ns : left_ns));
    return 0;
}

static uint64_t grow(struct process_shell *shell, uint64_t pages)
{
    uint64_t wanted = pages * UINT64_C(65536);
    if (pages > 65536 || wanted > shell->bytes[WINDOW_MEMORY] || wanted < shell->memory_now) {
        return 1;
    }
    shell->memory_now = wanted;
    return 0;
}

static uint64_t grow_files(struct process_shell *shell, uint64_t bytes)
{
    if (bytes > shell->bytes[WINDOW_FILES]) {
        return 1;
    }
    shell->files_now = bytes > shell->files_now ? bytes : shell->files_now;
    return 0;
}

static enum verdict serve_write(struct process_shell *shell, struct call_state *state,
                                const uint64_t arguments[3], uint64_t *ret_result)
{
    const uint8_t *bytes = translate(shell, arguments[1], arguments[2]);
    if (bytes == NULL || (arguments[0] != 1 && arguments[0] != 2)) {
        return out_of_bounds(state);
    }
    *ret_result = arguments[2];
    if (arguments[0] == 2) {
        call_log(state, bytes, arguments[2]);
        return GO_ON;
    }
    return call_output(state, bytes, arguments[2]) ? GO_ON : OVER;
}

static enum verdict serve_read(struct process_shell *shell, struct call_state *state,
                               const uint64_t arguments[3], uint64_t *ret_result)
{
    uint64_t length = arguments[1] < MIB(1) ? arguments[1] : MIB(1);
    uint8_t *bytes = translate(shell, arguments[0], length);
    if (bytes == NULL) {
        return out_of_bounds(state);
    }
    long got = call_input(state, bytes, length);
    *ret_result = (uint64_t)got;
    return got < 0 ? OVER : GO_ON;
}

static uint8_t *translate_for_host(const void *shell, uint64_t address, uint64_t length)
{
    return translate(shell, address, length);
}

static enum verdict serve_host(struct process_shell *shell, struct call_state *state, uint64_t call,
                               const uint64_t arguments[3], uint64_t *ret_result)
{
    const struct guest_memory memory = {.translate = translate_for_host, .shell = shell};
    bool goes_on = call == ABI_CALL_HOST ? call_host(state, &memory, arguments[0], ret_result)
        : call == ABI_CALL_TEXT          ? call_text(state, &memory, arguments, ret_result)
                                         : call_host_more(state, &memory, arguments, ret_result);
    return goes_on ? GO_ON : OVER;
}

static enum verdict serve(struct process_shell *shell, struct call_state *state)
{
    volatile struct abi_block *block = block_of(shell);
    const uint64_t arguments[3] = {block->arguments[0], block->arguments[1], block->arguments[2]};
    enum verdict verdict = GO_ON;
    uint64_t result = 0;
    uint64_t call = block->call;
    char text[96];
    switch (call) {
    case ABI_CALL_READY:
        if (!shell->is_building) {
            call_end(state, VMM_END_TRAP, "trap: illegal call to the host");
            return OVER;
        }
        take_inline(shell, state, false);
        return READY;
    case ABI_CALL_EXIT:
        state->outcome->exit_code = (uint32_t)arguments[0];
        if (take_inline(shell, state, true)) {
            call_end(state, VMM_END_EXIT, "");
        }
        return OVER;
    case ABI_CALL_TRAP:
        take_inline(shell, state, true);
        snprintf(text, sizeof(text), "trap: %s", trap_text(arguments[0]));
        call_end(state, VMM_END_TRAP, text);
        return OVER;
    case ABI_CALL_WRITE:
        verdict = serve_write(shell, state, arguments, &result);
        break;
    case ABI_CALL_READ:
        verdict = serve_read(shell, state, arguments, &result);
        break;
    case ABI_CALL_CLOCK:
        result = arguments[0] == 0 ? clock_real_ns() : clock_monotonic_ns();
        break;
    case ABI_CALL_GROW:
        result = grow(shell, arguments[0]);
        break;
    case ABI_CALL_SLEEP:
        call_waits(state, arguments[0]);
        result = sleep_for(shell, state, arguments[0]);
        break;
    case ABI_CALL_FILES:
        result = grow_files(shell, arguments[0]);
        break;
    case ABI_CALL_NULL:
        break;
    case ABI_CALL_HOST:
    case ABI_CALL_HOST_MORE:
    case ABI_CALL_TEXT:
        verdict = serve_host(shell, state, call, arguments, &result);
        break;
    default:
        call_end(state, VMM_END_TRAP, "trap: illegal call to the host");
        return OVER;
    }
    block->result = result;
    return verdict;
}

static bool answer(struct process_shell *shell, const struct registers *recovery)
{
    const struct child_answer word = {.memory_accessible = shell->memory_now,
                                      .recovery = *recovery};
    return send(shell->socket, &word, sizeof(word), MSG_DONTWAIT | MSG_NOSIGNAL) ==
        (ssize_t)sizeof(word);
}

static const struct registers nowhere;

/* A guest that wants to go on after a trap does: where it said, which may be anywhere of its own.
 */
static bool recovers(struct process_shell *shell, enum abi_trap trap)
{
    const volatile struct abi_block *block = block_of(shell);
    const struct registers registers = {
        .rdi = trap, .rsp = block->recovery_stack, .rip = block->recovery};
    return registers.rip != 0 && trap != ABI_TRAP_NONE && !shell->is_building &&
        answer(shell, &registers);
}

/* Two processes that do nothing but answer each other, as for a guest that reads the clock in a
 * loop, can keep a processor from all others for as long as they like: the scheduler of Linux 6.18
 * runs the one that was just woken next, where sessions are its groups (autogroup).  Now and then
 * there is a moment in which neither can run. */
static void let_others_run(struct process_shell *shell, const struct call_state *state)
{
    if (state->outcome->exits % EXITS_AT_A_STRETCH == 0) {
        wait_until(shell, clock_monotonic_ns() + 1000);
    }
}

/* One note of the child, from its arrival to our answer. */
static enum verdict step(struct process_shell *shell, struct call_state *state,
                         struct registers *ret_registers)
{
    struct child_note note;
    bool is_there = wait_until(shell, state->deadline_ns);
    if (must_stop(shell, state)) {
        return OVER;
    }
    if (!is_there) {
        return GO_ON;
    }
    ssize_t got = recv(shell->socket, &note, sizeof(note), MSG_DONTWAIT | MSG_TRUNC);
    if (got < 0 && (errno == EINTR || errno == EAGAIN)) {
        return GO_ON;
    }
    if (got != (ssize_t)sizeof(note)) {
        /* Its filter ended it, or it said nothing that we know. */
        take_inline(shell, state, true);
        return gone(shell, state, VMM_END_TRAP, "trap: illegal instruction");
    }
    state->outcome->exits++;
    if (note.kind != NOTE_CALL &&
        recovers(shell, trap_of_fault((unsigned)note.vector, note.address))) {
        return GO_ON;
    }
    if (note.kind != NOTE_CALL) {
        char text[160];
        trap_describe_fault((unsigned)note.vector, note.address, note.registers.rip, text,
                            sizeof(text));
        take_inline(shell, state, true);
        return gone(shell, state, VMM_END_TRAP, text);
    }
    *ret_registers = note.registers;
    enum verdict verdict = serve(shell, state);
    if (verdict == GO_ON && must_stop(shell, state)) {
        return OVER;
    }
    let_others_run(shell, state);
    if (verdict == GO_ON && !answer(shell, &nowhere)) {
        return gone(shell, state, VMM_END_TRAP, "trap: illegal instruction");
    }
    return verdict;
}

static void set_running(struct process_shell *shell, bool is_running)
{
    pthread_mutex_lock(&shell->lock);
    shell->is_running = is_running;
    shell->is_interrupted = false;
    pthread_mutex_unlock(&shell->lock);
}

static enum verdict enter(struct process_shell *shell, struct call_state *state,
                          struct registers *ret_registers)
{
    uint64_t begin_ns = clock_monotonic_ns();
    uint64_t limit_ms = state->limits->timeout_ms;
    if (state->call->timeout_ms > 0 && state->call->timeout_ms < limit_ms) {
        limit_ms = state->call->timeout_ms;
    }
    state->deadline_ns = begin_ns + limit_ms * 1000000;
    state->input_taken =
        state->call->input_length < ABI_INPUT_BYTES ? state->call->input_length : ABI_INPUT_BYTES;
    struct abi_block *block = block_of(shell);
    block_fill(block, state);
    block->gate = (uint64_t)process_gate;
    block->cpu = (__builtin_cpu_supports("avx") ? ABI_CPU_AVX : 0) |
        (__builtin_cpu_supports("avx512f") ? ABI_CPU_AVX512 : 0);
    block->deadline_ns = state->deadline_ns;

    set_running(shell, true);
    enum verdict verdict = call_is_cancelled(state) ? OVER : GO_ON;
    if (verdict == GO_ON && !answer(shell, &nowhere)) {
        verdict = gone(shell, state, VMM_END_BROKEN, "the process sandbox has ended");
    }
    while (verdict == GO_ON) {
        verdict = step(shell, state, ret_registers);
    }
    set_running(shell, false);
    state->outcome->run_ns = clock_monotonic_ns() - begin_ns;
    state->outcome->memory_bytes = shell->memory_now;
    return verdict;
}

/* ---- The back end ---- */

static int shell_new(struct vmm *vmm, const struct size_class *class, struct vmm_shell **ret_shell,
                     struct error *err)
{
    struct process_host *host = vmm->state;
    pthread_mutex_lock(&host->lock);
    bool is_full = host->shells_max > 0 && host->shells >= host->shells_max;
    host->shells += !is_full;
    pthread_mutex_unlock(&host->lock);
    if (is_full) {
        return error_set(err, ERROR_LIMIT, "there are %u process sandboxes already",
                         host->shells_max);
    }
    struct process_shell *shell = NEW(struct process_shell);
    shell->base.vmm = vmm;
    shell->base.class = *class;
    shell->host = host;
    shell->socket = -1;
    shell->memory_fd = -1;
    pthread_mutex_init(&shell->lock, NULL);
    *ret_shell = &shell->base;
    return 0;
}

static void shell_free(struct vmm_shell *base)
{
    struct process_shell *shell = (struct process_shell *)base;
    end_child(shell);
    pthread_mutex_lock(&shell->host->lock);
    shell->host->shells--;
    pthread_mutex_unlock(&shell->host->lock);
    pthread_mutex_destroy(&shell->lock);
    free(shell);
}

static int attach(struct vmm_shell *base, struct vmm_image *image, struct error *err)
{
    struct process_shell *shell = (struct process_shell *)base;
    if (image == NULL) {
        end_child(shell);
        return 0;
    }
    return start_child(shell, image, &image->registers, err);
}

static int reset(struct vmm_shell *base, uint64_t *ret_pages, struct error *err)
{
    *ret_pages = 0; /* all are new */
    return attach(base, base->image, err);
}

static void run(struct vmm_shell *base, struct call_state *state)
{
    struct registers registers;
    enter((struct process_shell *)base, state, &registers);
}

static void interrupt(struct vmm_shell *base)
{
    struct process_shell *shell = (struct process_shell *)base;
    pthread_mutex_lock(&shell->lock);
    if (shell->is_running) {
        shell->is_interrupted = true;
        shutdown(shell->socket, SHUT_RDWR);
    }
    pthread_mutex_unlock(&shell->lock);
}

static void forget(struct vmm_image *image)
{
    (void)image;
}

static int refuse(const struct vmm_outcome *outcome, struct error *err)
{
    if (outcome->end == VMM_END_TIMEOUT) {
        return error_set(err, ERROR_TIMEOUT,
                         "the function's initialisation took longer than its limit");
    }
    if (outcome->end == VMM_END_EXIT) {
        return error_set(err, ERROR_TRAP, "the function's initialisation ended with exit status %u",
                         outcome->exit_code);
    }
    return error_set(err, ERROR_TRAP, "the function's initialisation failed: %s", outcome->reason);
}

/* What was written of a window from `begin` to `end`.  The rest is not looked at: reading a page of
 * a memfd that nobody wrote allocates it, and a linear memory may have 4 GiB of them. */
static void collect(const struct process_shell *shell, struct vmm_image *image, enum window window,
                    uint64_t begin, uint64_t end)
{
    const uint64_t window_begin = (uint64_t)(window_at(shell, window) - shell->memory);
    const off_t last = (off_t)(window_begin + end);
    off_t at = lseek(shell->memory_fd, (off_t)(window_begin + begin), SEEK_DATA);
    while (at >= 0 && at < last) {
        off_t hole = lseek(shell->memory_fd, at, SEEK_HOLE);
        CHECK(hole > at); /* there is always one at the end of a file */
        uint64_t length = (uint64_t)((hole < last ? hole : last) - at);
        image_add_pages(image, window, (uint64_t)at - window_begin, shell->memory + at, length);
        at = lseek(shell->memory_fd, hole, SEEK_DATA);
    }
    CHECK(at >= 0 || errno == ENXIO); /* nothing is behind it */
}

static int initialise(struct process_shell *shell, struct vmm_image *image,
                      const struct elf_view *elf, const struct vmm_sink *sink, struct error *err)
{
    const uint64_t data_at = ABI_IMAGE_DATA - ABI_DATA_BASE;
    struct vmm_call call = {0};
    if (sink != NULL) {
        call.sink = (struct vmm_sink){.log = sink->log, .context = sink->context};
    }
    struct vmm_outcome outcome = {0};
    struct call_state state = {.call = &call,
                               .limits = &image->limits,
                               .outcome = &outcome,
                               .is_building = true,
                               .begins_late = image->vmm->begins_late};
    memcpy(window_at(shell, WINDOW_TEXT), elf->text, elf->text_bytes);
    if (elf->data_bytes > 0) {
        memcpy(window_at(shell, WINDOW_DATA) + data_at, elf->data, elf->data_bytes);
    }
    if (enter(shell, &state, &image->registers) != READY) {
        return refuse(&outcome, err);
    }
    image->registers.rflags = 2;
    image->info.is_handler = block_of(shell)->is_handler != 0;
    image->info.init_ns = outcome.run_ns;
    image->info.memory_bytes = shell->memory_now;
    image_add_pages(image, WINDOW_TEXT, 0, elf->text, elf->text_bytes);
    collect(shell, image, WINDOW_DATA, data_at, elf->data_end);
    collect(shell, image, WINDOW_STACK, 0, ABI_STACK_BYTES);
    collect(shell, image, WINDOW_MEMORY, 0, shell->memory_now);
    collect(shell, image, WINDOW_FILES, 0, shell->files_now);
    image->info.files_bytes = shell->files_now;
    return 0;
}

static int snapshot(struct vmm_image *image, const struct elf_view *elf,
                    const struct vmm_sink *sink, struct error *err)
{
    const struct registers start = {
        .rip = elf->entry, .rsp = ABI_STACK_BASE + ABI_STACK_BYTES - 64, .rflags = 2};
    struct process_shell shell = {
        .host = image->vmm->state, .socket = -1, .memory_fd = -1, .is_building = true};
    pthread_mutex_init(&shell.lock, NULL);
    int r = start_child(&shell, image, &start, err);
    if (r == 0) {
        r = initialise(&shell, image, elf, sink, err);
    }
    end_child(&shell);
    pthread_mutex_destroy(&shell.lock);
    return r;
}

const struct backend backend_process = {
    .open = backend_open,
    .close = backend_close,
    .snapshot = snapshot,
    .forget = forget,
    .shell_new = shell_new,
    .shell_free = shell_free,
    .attach = attach,
    .run = run,
    .reset = reset,
    .interrupt = interrupt,
};
