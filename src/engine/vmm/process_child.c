/*
 * The zygote, and what runs in its children.
 *
 * A child maps its windows, gives up every system call but four, waits for a word from the host and
 * jumps to the guest.  Its filter allows read and write of its socket, exit_group, and mprotect to
 * exactly PROT_READ | PROT_WRITE in the 8 GiB at ABI_MEMORY_BASE: so that memory can grow.  Hostile
 * code gains nothing by that: what is mapped there is its own memory up to its limit, and no page
 * can be both new and executable.
 * Nothing is mapped behind the limit and no system call could map anything: the 8 GiB hole is a
 * hole.
 */
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include "engine/vmm/process.h"

/* Of this process, once it is a child. */
static int child_socket;
static uint64_t child_memory;
static uint8_t signal_stack[65536] __attribute__((aligned(16)));

/* ---- Calls to the host ---- */

static void tell(const struct child_note *note)
{
    if (write(child_socket, note, sizeof(*note)) != (ssize_t)sizeof(*note)) {
        _exit(1);
    }
}

/* What the filter allows is shorter than 4 GiB. */
static void open_memory(uint64_t bytes)
{
    const uint64_t most = UINT64_C(2) << 30;
    while (child_memory < bytes) {
        uint64_t part = bytes - child_memory < most ? bytes - child_memory : most;
        if (mprotect((void *)(ABI_MEMORY_BASE + child_memory), part, PROT_READ | PROT_WRITE) < 0) {
            _exit(1);
        }
        child_memory += part;
    }
}

/* Wait for the host's word and do it. */
static struct child_answer await_answer(void)
{
    struct child_answer answer;
    if (read(child_socket, &answer, sizeof(answer)) != (ssize_t)sizeof(answer)) {
        _exit(1);
    }
    open_memory(answer.memory_accessible);
    return answer;
}

/* The order in which process_gate pushes, from low to high addresses. */
struct gate_frame {
    uint64_t r15, r14, r13, r12, rbx, rbp, rip;
};

__attribute__((used)) void process_gate_served(const struct gate_frame *frame);

void process_gate_served(const struct gate_frame *frame)
{
    const struct child_note note = {
        .kind = NOTE_CALL,
        .registers = {.rbx = frame->rbx,
                      .rbp = frame->rbp,
                      .r12 = frame->r12,
                      .r13 = frame->r13,
                      .r14 = frame->r14,
                      .r15 = frame->r15,
                      .rip = frame->rip,
                      .rsp = (uint64_t)(frame + 1)},
    };
    tell(&note);
    await_answer();
}

/* clang-format off */
__asm__(".text\n"
        ".globl process_gate\n"
        ".type process_gate, @function\n"
        "process_gate:\n"
        "    push %rbp\n    push %rbx\n    push %r12\n"
        "    push %r13\n    push %r14\n    push %r15\n"
        "    mov %rsp, %rdi\n"
        "    mov %rsp, %rbp\n"
        "    and $-16, %rsp\n"
        "    call process_gate_served\n"
        "    mov %rbp, %rsp\n"
        "    pop %r15\n    pop %r14\n    pop %r13\n"
        "    pop %r12\n    pop %rbx\n    pop %rbp\n"
        "    ret\n"
        ".size process_gate, . - process_gate\n");

/* Load what a snapshot holds; everything else is zero. */
_Noreturn void process_jump(const struct registers *registers);
__asm__(".text\n"
        ".globl process_jump\n"
        ".type process_jump, @function\n"
        "process_jump:\n"
        "    mov 8(%rdi), %rbx\n"
        "    mov 48(%rdi), %rsp\n"
        "    mov 56(%rdi), %rbp\n"
        "    mov 96(%rdi), %r12\n"
        "    mov 104(%rdi), %r13\n"
        "    mov 112(%rdi), %r14\n"
        "    mov 120(%rdi), %r15\n"
        "    mov 128(%rdi), %r11\n"
        "    xor %eax, %eax\n    xor %ecx, %ecx\n    xor %edx, %edx\n"
        "    xor %esi, %esi\n    mov 40(%rdi), %rdi\n    xor %r8d, %r8d\n"
        "    xor %r9d, %r9d\n    xor %r10d, %r10d\n    cld\n"
        "    jmp *%r11\n"
        ".size process_jump, . - process_jump\n");
/* clang-format on */

_Static_assert(offsetof(struct registers, rsp) == 48 && offsetof(struct registers, rdi) == 40 &&
                   offsetof(struct registers, r12) == 96 && offsetof(struct registers, rip) == 128,
               "as process_jump has them");

static void on_fault(int number, siginfo_t *info, void *context)
{
    const greg_t *registers = ((const ucontext_t *)context)->uc_mcontext.gregs;
    (void)number;
    (void)info;
    const struct child_note note = {
        .kind = NOTE_FAULT,
        .vector = (uint64_t)registers[REG_TRAPNO],
        .address = (uint64_t)registers[REG_CR2],
        .registers = {.rip = (uint64_t)registers[REG_RIP]},
    };
    tell(&note);
    const struct child_answer answer = await_answer();
    if (answer.recovery.rip != 0) {
        process_jump(&answer.recovery); /* without a return from the handler: no call is needed */
    }
    _exit(1);
}

/* ---- Becoming a sandbox ---- */

static void map_windows(const struct zygote_request *request, int memory_fd)
{
    static const int access[WINDOW_COUNT] = {
        [WINDOW_TEXT] = PROT_READ | PROT_EXEC,   [WINDOW_DATA] = PROT_READ | PROT_WRITE,
        [WINDOW_STACK] = PROT_READ | PROT_WRITE, [WINDOW_MEMORY] = PROT_NONE,
        [WINDOW_FILES] = PROT_READ | PROT_WRITE,
    };
    off_t at = 0;
    for (int window = 0; window < WINDOW_COUNT; window++) {
        void *wanted = (void *)window_base[window];
        uint64_t bytes = request->bytes[window];
        if (bytes > 0 &&
            mmap(wanted, bytes, access[window], MAP_SHARED | MAP_FIXED_NOREPLACE, memory_fd, at) !=
                wanted) {
            _exit(1);
        }
        at += (off_t)bytes;
    }
    open_memory(request->memory_accessible);
}

static void catch_faults(void)
{
    static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP};
    const stack_t stack = {.ss_sp = signal_stack, .ss_size = sizeof(signal_stack)};
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    bool is_done = sigaltstack(&stack, NULL) == 0;
    for (size_t i = 0; i < sizeof(faults) / sizeof(faults[0]); i++) {
        struct sigaction action = {.sa_sigaction = on_fault,
                                   .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
        is_done = is_done && sigaction(faults[i], &action, NULL) == 0;
    }
    if (!is_done) {
        _exit(1);
    }
}

/* The 32 bits above tell linear memory from all else, with offsets and lengths below 4 GiB. */
_Static_assert((ABI_MEMORY_BASE & UINT32_MAX) == 0, "as the filter compares it");

static void enter_filter(void)
{
#define LOAD(field) \
    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)offsetof(struct seccomp_data, field))
#define LOAD_HIGH(field) \
    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)offsetof(struct seccomp_data, field) + 4)
#define IF_EQUAL(value, then, otherwise) \
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)(value), then, otherwise)
    struct sock_filter code[] = {
        LOAD(arch),
        IF_EQUAL(AUDIT_ARCH_X86_64, 0, 13), /* kill */
        LOAD(nr),
        IF_EQUAL(SYS_exit_group, 12, 0), /* allow */
        IF_EQUAL(SYS_mprotect, 4, 0),
        IF_EQUAL(SYS_read, 1, 0),
        IF_EQUAL(SYS_write, 0, 8), /* kill */
        LOAD(args[0]),
        IF_EQUAL(child_socket, 7, 6),
        LOAD_HIGH(args[0]), /* mprotect: begins in linear memory and is no longer than it */
        IF_EQUAL(ABI_MEMORY_BASE >> 32, 0, 4),
        LOAD_HIGH(args[1]),
        IF_EQUAL(0, 0, 2),
        LOAD(args[2]),
        IF_EQUAL(PROT_READ | PROT_WRITE, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
#undef LOAD
#undef LOAD_HIGH
#undef IF_EQUAL
    const struct sock_fprog program = {.len = sizeof(code) / sizeof(code[0]), .filter = code};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0) {
        _exit(1);
    }
}

static _Noreturn void child_main(const struct zygote_request *request, int memory_fd)
{
    const struct rlimit nothing = {0, 0};
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    setrlimit(RLIMIT_CORE, &nothing);
    map_windows(request, memory_fd);
    close(memory_fd);
    catch_faults();
    enter_filter();
    await_answer();
    process_jump(&request->registers);
}

/* ---- The zygote ---- */

static int32_t spawn(int socket, const struct zygote_request *request, const int fds[2])
{
    pid_t pid = fork();
    if (pid == 0) {
        close(socket);
        child_socket = fds[1];
        child_main(request, fds[0]);
    }
    return pid < 0 ? -errno : pid;
}

/* One request with its descriptors; false when the host is gone. */
static bool take_request(int socket, struct zygote_request *ret_request, int ret_fds[2])
{
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(2 * sizeof(int))];
    } control = {0};
    struct iovec piece = {.iov_base = ret_request, .iov_len = sizeof(*ret_request)};
    struct msghdr message = {.msg_iov = &piece,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = sizeof(control)};
    ssize_t got;
    do {
        got = recvmsg(socket, &message, 0);
    } while (got < 0 && errno == EINTR);
    const struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    if (header != NULL && header->cmsg_len == CMSG_LEN(2 * sizeof(int))) {
        memcpy(ret_fds, CMSG_DATA(header), 2 * sizeof(int));
    }
    return got == (ssize_t)sizeof(*ret_request);
}

void zygote_main(int socket)
{
    /* It owns nothing but its socket: what the host has open is none of the children's business. */
    if (socket > 0) {
        close_range(0, (unsigned)socket - 1, 0);
    }
    close_range((unsigned)socket + 1, ~0U, 0);
    for (;;) {
        struct zygote_request request;
        int fds[2] = {-1, -1};
        if (!take_request(socket, &request, fds)) {
            _exit(0); /* its children die with it */
        }
        struct zygote_reply reply = {.pid = -EINVAL};
        if (request.wish == ZYGOTE_END && request.pid > 0) {
            /* Only here children are reaped: the number cannot have become another's. */
            kill(request.pid, SIGKILL);
            reply.pid = waitpid(request.pid, NULL, 0);
        } else if (request.wish == ZYGOTE_SPAWN && fds[0] >= 0) {
            reply.pid = spawn(socket, &request, fds);
        }
        for (int i = 0; i < 2; i++) {
            if (fds[i] >= 0) {
                close(fds[i]);
            }
        }
        if (write(socket, &reply, sizeof(reply)) != (ssize_t)sizeof(reply)) {
            _exit(0);
        }
    }
}
