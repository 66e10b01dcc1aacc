/*
 * System call filters, seccomp(2) by libseccomp.
 *
 * TOOL is for compilers, which use a wide and changing set of calls: what reaches out of the jail
 * or deep into the kernel is refused, the rest is theirs.  RUNNER is for our own code, whose calls
 * are known: what is not listed kills the process.
 */
#include "engine/jail/filter.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/kvm.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <seccomp.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/fd.h"

#define SCAN_IOCTL _IOWR('f', 16, uint64_t[12]) /* PAGEMAP_SCAN, linux/fs.h of 6.7 */

static const int tool_refused[] = {
    SCMP_SYS(socket),
    SCMP_SYS(ptrace),
    SCMP_SYS(process_vm_readv),
    SCMP_SYS(process_vm_writev),
    SCMP_SYS(mount),
    SCMP_SYS(umount2),
    SCMP_SYS(move_mount),
    SCMP_SYS(open_tree),
    SCMP_SYS(fsopen),
    SCMP_SYS(fsmount),
    SCMP_SYS(mount_setattr),
    SCMP_SYS(pivot_root),
    SCMP_SYS(chroot),
    SCMP_SYS(unshare),
    SCMP_SYS(setns),
    SCMP_SYS(bpf),
    SCMP_SYS(perf_event_open),
    SCMP_SYS(userfaultfd),
    SCMP_SYS(io_uring_setup),
    SCMP_SYS(io_uring_enter),
    SCMP_SYS(io_uring_register),
    SCMP_SYS(keyctl),
    SCMP_SYS(add_key),
    SCMP_SYS(request_key),
    SCMP_SYS(kexec_load),
    SCMP_SYS(kexec_file_load),
    SCMP_SYS(init_module),
    SCMP_SYS(finit_module),
    SCMP_SYS(delete_module),
    SCMP_SYS(open_by_handle_at),
    SCMP_SYS(name_to_handle_at),
    SCMP_SYS(personality),
    SCMP_SYS(reboot),
    SCMP_SYS(swapon),
    SCMP_SYS(swapoff),
    SCMP_SYS(acct),
    SCMP_SYS(quotactl),
    SCMP_SYS(settimeofday),
    SCMP_SYS(clock_settime),
    SCMP_SYS(adjtimex),
    SCMP_SYS(clock_adjtime),
    SCMP_SYS(iopl),
    SCMP_SYS(ioperm),
    SCMP_SYS(syslog),
    SCMP_SYS(vhangup),
    SCMP_SYS(fanotify_init),
    SCMP_SYS(lookup_dcookie),
    SCMP_SYS(nfsservctl),
    SCMP_SYS(sethostname),
    SCMP_SYS(setdomainname),
};

static const int runner_allowed[] = {
    SCMP_SYS(read),
    SCMP_SYS(write),
    SCMP_SYS(readv),
    SCMP_SYS(writev),
    SCMP_SYS(pread64),
    SCMP_SYS(pwrite64),
    SCMP_SYS(close),
    SCMP_SYS(fstat),
    SCMP_SYS(newfstatat),
    SCMP_SYS(lseek),
    SCMP_SYS(fcntl),
    SCMP_SYS(ftruncate),
    SCMP_SYS(memfd_create),
    SCMP_SYS(recvmsg),
    SCMP_SYS(sendmsg),
    SCMP_SYS(recvfrom),
    SCMP_SYS(sendto),
    SCMP_SYS(shutdown),
    SCMP_SYS(poll),
    SCMP_SYS(ppoll),
    SCMP_SYS(mmap),
    SCMP_SYS(munmap),
    SCMP_SYS(mprotect),
    SCMP_SYS(mremap),
    SCMP_SYS(madvise),
    SCMP_SYS(brk),
    SCMP_SYS(futex),
    SCMP_SYS(set_robust_list),
    SCMP_SYS(rseq),
    SCMP_SYS(membarrier),
    SCMP_SYS(sched_yield),
    SCMP_SYS(sched_getaffinity),
    SCMP_SYS(getpid),
    SCMP_SYS(gettid),
    SCMP_SYS(tgkill),
    SCMP_SYS(getrandom),
    SCMP_SYS(clock_gettime),
    SCMP_SYS(clock_nanosleep),
    SCMP_SYS(nanosleep),
    SCMP_SYS(gettimeofday),
    SCMP_SYS(rt_sigaction),
    SCMP_SYS(rt_sigprocmask),
    SCMP_SYS(rt_sigreturn),
    SCMP_SYS(sigaltstack),
    SCMP_SYS(restart_syscall),
    SCMP_SYS(prctl),
    SCMP_SYS(exit),
    SCMP_SYS(exit_group),
};

/* For the process sandbox: children, their filter, and their end. */
static const int fork_allowed[] = {
    SCMP_SYS(clone),     SCMP_SYS(fork),        SCMP_SYS(vfork),      SCMP_SYS(wait4),
    SCMP_SYS(kill),      SCMP_SYS(seccomp),     SCMP_SYS(socketpair), SCMP_SYS(setpgid),
    SCMP_SYS(prlimit64), SCMP_SYS(close_range),
};

static const unsigned long runner_ioctls[] = {
    KVM_GET_API_VERSION,
    KVM_CHECK_EXTENSION,
    KVM_GET_VCPU_MMAP_SIZE,
    KVM_CREATE_VM,
    KVM_CREATE_VCPU,
    KVM_SET_USER_MEMORY_REGION,
    KVM_RUN,
    KVM_GET_REGS,
    KVM_SET_REGS,
    KVM_GET_SREGS,
    KVM_SET_SREGS,
    KVM_SET_XSAVE,
    KVM_GET_TSC_KHZ,
    SCAN_IOCTL,
};

static int add_all(scmp_filter_ctx context, uint32_t action, const int *calls, size_t count)
{
    int r = 0;
    for (size_t i = 0; i < count && r == 0; i++) {
        r = seccomp_rule_add(context, action, calls[i], 0);
        if (r == -EDOM || r == -EEXIST) {
            r = 0; /* this architecture has no such call */
        }
    }
    return r;
}

#define COUNT(list) (sizeof(list) / sizeof((list)[0]))

static int add_tool_rules(scmp_filter_ctx context)
{
    /* New namespaces by clone(2) as well; clone3's flags cannot be seen, so it does not exist. */
    const uint32_t refuse = SCMP_ACT_ERRNO(EPERM);
    static const uint64_t new_namespaces[] = {CLONE_NEWUSER,  CLONE_NEWNS,  CLONE_NEWPID,
                                              CLONE_NEWNET,   CLONE_NEWIPC, CLONE_NEWUTS,
                                              CLONE_NEWCGROUP};
    int r = add_all(context, refuse, tool_refused, COUNT(tool_refused));
    for (size_t i = 0; i < COUNT(new_namespaces) && r == 0; i++) {
        r = seccomp_rule_add(context, refuse, SCMP_SYS(clone), 1,
                             SCMP_A0(SCMP_CMP_MASKED_EQ, new_namespaces[i], new_namespaces[i]));
    }
    return r < 0 ? r : seccomp_rule_add(context, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
}

static int add_runner_rules(scmp_filter_ctx context, bool with_fork)
{
    int r = add_all(context, SCMP_ACT_ALLOW, runner_allowed, COUNT(runner_allowed));
    for (size_t i = 0; i < COUNT(runner_ioctls) && r == 0; i++) {
        /* The kernel takes 32 bits of it; SCMP_A1_32 leaves a field out, which clang refuses. */
        const struct scmp_arg_cmp is_this = {
            .arg = 1,
            .op = SCMP_CMP_MASKED_EQ,
            .datum_a = UINT32_MAX,
            .datum_b = (uint32_t)runner_ioctls[i],
        };
        r = seccomp_rule_add_array(context, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1, &is_this);
    }
    if (r == 0) {
        r = seccomp_rule_add(context, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
    }
    if (r == 0) {
        /* libc's allocator asks /sys for the number of CPUs; it takes no for an answer. */
        r = seccomp_rule_add(context, SCMP_ACT_ERRNO(EACCES), SCMP_SYS(openat), 0);
    }
    if (r == 0 && with_fork) {
        r = add_all(context, SCMP_ACT_ALLOW, fork_allowed, COUNT(fork_allowed));
    } else if (r == 0) {
        /* Threads of its own and nothing else. */
        const uint64_t thread = CLONE_VM | CLONE_THREAD | CLONE_SIGHAND;
        r = seccomp_rule_add(context, SCMP_ACT_ALLOW, SCMP_SYS(clone), 1,
                             SCMP_A0(SCMP_CMP_MASKED_EQ, thread, thread));
    }
    return r;
}

static int add_rules(scmp_filter_ctx context, enum jail_filter filter)
{
    switch (filter) {
    case JAIL_FILTER_NONE:
        break;
    case JAIL_FILTER_TOOL:
        return add_tool_rules(context);
    case JAIL_FILTER_RUNNER:
    case JAIL_FILTER_RUNNER_FORK:
        return add_runner_rules(context, filter == JAIL_FILTER_RUNNER_FORK);
    case JAIL_FILTER_NO_HOLES:
        return seccomp_rule_add(context, SCMP_ACT_ERRNO(EOPNOTSUPP), SCMP_SYS(fallocate), 0);
    }
    return 0;
}

static int make_context(enum jail_filter filter, scmp_filter_ctx *ret_context)
{
    bool is_runner = filter == JAIL_FILTER_RUNNER || filter == JAIL_FILTER_RUNNER_FORK;
    scmp_filter_ctx context = seccomp_init(is_runner ? SCMP_ACT_KILL_PROCESS : SCMP_ACT_ALLOW);
    if (context == NULL) {
        return -ENOMEM;
    }
    int r = add_rules(context, filter);
    if (r < 0) {
        seccomp_release(context);
        return r;
    }
    *ret_context = context;
    return 0;
}

/* The program of the tools' filter, as the kernel takes it; length 0: not made. */
static struct sock_filter tool_instructions[BPF_MAXINSNS];
static struct sock_fprog tool_program = {.filter = tool_instructions};

static void make_tool_program(void)
{
    scmp_filter_ctx context = NULL;
    FD_OWNED int fd = memfd_create("filter", MFD_CLOEXEC);
    if (fd < 0 || make_context(JAIL_FILTER_TOOL, &context) < 0) {
        return; /* filter_load() makes it then */
    }
    ssize_t got = -1;
    if (seccomp_export_bpf(context, fd) == 0) {
        got = pread(fd, tool_instructions, sizeof(tool_instructions), 0);
    }
    seccomp_release(context);
    if (got > 0 && (size_t)got < sizeof(tool_instructions)) {
        tool_program.len = (unsigned short)((size_t)got / sizeof(tool_instructions[0]));
    }
}

void filter_prepare_tools(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, make_tool_program);
}

int filter_load(enum jail_filter filter)
{
    if (filter == JAIL_FILTER_TOOL && tool_program.len > 0) {
        int r = prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        r = r < 0 ? r : prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &tool_program);
        return r < 0 ? -errno : 0;
    }
    scmp_filter_ctx context = NULL;
    int r = make_context(filter, &context);
    if (r == 0) {
        r = seccomp_load(context);
        seccomp_release(context);
    }
    return r;
}
