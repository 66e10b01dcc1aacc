/* The process beside a VMM: see monitor.h. */
#include "engine/hypervisor/monitor.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"

#include "engine/hypervisor/console.h"
#include "engine/hypervisor/launch.h"
#include "engine/hypervisor/share.h"
#include "engine/jail/jail.h"
#include "engine/net/net.h"

enum { WORDS_BYTES = 2048, CHILDREN_BYTES = 4096, LEASE_LOOK_MS = 2000 };

struct monitor {
    struct launch launch;
    const char *name; /* of the folder, and of the VMM's control group */
    int folder;
    int lock;
    int given[LAUNCH_FD_END]; /* what the VMM is to find open, by its number; -1: nothing */
    int words;                /* the VMM's standard error */
    int signals;
    pid_t vmm;
    int lease;                       /* LAUNCH_LEASE */
    uint64_t lease_until_ms;         /* as it was read last */
    bool is_fenced;                  /* its time was over */
    pid_t shares[LAUNCH_SHARES_MAX]; /* their virtiofsd; 0: none */
    pid_t shutter;                   /* asks a runner's guest to end; 0: nobody does */
    const struct launch_share *lost_share;
    char last_words[WORDS_BYTES + 1];
    size_t last_length;
    struct console console;
};

/* ---- Sockets ---- */

static int listen_at(const struct monitor *monitor, const char *name, int *ret_fd,
                     struct error *err)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int length = snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d/%s",
                          monitor->folder, name);
    if (length < 0 || (size_t)length >= sizeof(address.sun_path)) {
        return error_set(err, ERROR_INVALID, "the socket's name %s is too long", name);
    }
    FD_OWNED int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    unlinkat(monitor->folder, name, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 ||
        listen(fd, 16) < 0) {
        return error_os(err, errno, "listening at %s", name);
    }
    *ret_fd = fd_take(&fd);
    return 0;
}

static int open_sockets(struct monitor *monitor, int *ret_console, struct error *err)
{
    int r = listen_at(monitor, LAUNCH_CONSOLE, ret_console, err);
    for (size_t i = 0; i < monitor->launch.socket_count && r == 0; i++) {
        r = listen_at(monitor, monitor->launch.sockets[i], &monitor->given[LAUNCH_FD_SOCKETS + i],
                      err);
    }
    return r;
}

/* As root, before the VMM is confined: it can neither open nor make one. */
static int open_taps(struct monitor *monitor, struct error *err)
{
    int r = 0;
    for (size_t i = 0; i < monitor->launch.tap_count && r == 0; i++) {
        const char *name = monitor->launch.taps[i];
        int *given = &monitor->given[LAUNCH_FD_TAPS + i];
        r = name[0] != '\0' ? net_tap_open(name, given, err) : net_tap_open_spare(given, err);
        if (r == 0 && monitor->launch.vhost) {
            int fd = open("/dev/vhost-net", O_RDWR | O_CLOEXEC);
            if (fd < 0) {
                return error_os(err, errno, "opening /dev/vhost-net");
            }
            monitor->given[LAUNCH_FD_VHOST + i] = fd;
        }
    }
    return r;
}

/* ---- Runners ---- */

static bool is_runner(const struct monitor *monitor)
{
    return monitor->launch.runner.state != NULL;
}

/* Its program opens them by the names that it knows. */
static int lend_taps(struct monitor *monitor, struct error *err)
{
    const struct launch_runner *runner = &monitor->launch.runner;
    int r = 0;
    for (size_t i = 0; i < runner->tap_count && r == 0; i++) {
        r = net_tap_lend(runner->taps[i].tap, runner->taps[i].name, monitor->launch.jail.uid,
                         runner->has_queues, err);
    }
    return r;
}

static void take_taps_back(const struct monitor *monitor)
{
    const struct launch_runner *runner = &monitor->launch.runner;
    for (size_t i = 0; i < runner->tap_count; i++) {
        net_tap_take_back(runner->taps[i].tap, runner->taps[i].name);
    }
}

/* Other owners of links on this host have other machines. */
static char *owner_of(const struct monitor *monitor)
{
    return memory_format("machine-%.20s", monitor->name);
}

static void mount_for_runner(struct monitor *monitor, const char *owned_source,
                             const char *owned_target, bool is_writable)
{
    if (monitor->launch.jail.mount_count < LAUNCH_MOUNTS_MAX) {
        monitor->launch.mounts[monitor->launch.jail.mount_count++] =
            (struct jail_mount){.source = owned_source,
                                .target = owned_target,
                                .writable = is_writable,
                                .optional = true};
    }
}

/* Its program asks /sys for its number, and opens the device of that number. */
static int give_macvtap(struct monitor *monitor, const struct hypervisor_runner_macvtap *macvtap,
                        const char *path, struct error *err)
{
    char text[16];
    unsigned index = 0;
    dev_t device = 0;
    uid_t uid = monitor->launch.jail.uid;
    MEMORY_OWNED char *owner = owner_of(monitor);
    MEMORY_OWNED char *number = memory_format("%s/index-%s", path, macvtap->name);
    MEMORY_OWNED char *node = memory_format("dev-%s", macvtap->name);
    struct net_macvtap wanted = {.owner = owner,
                                 .name = macvtap->name,
                                 .link = macvtap->link,
                                 .mode = macvtap->mode,
                                 .queues = monitor->launch.runner.queue_count};
    net_mac_parse(macvtap->mac, wanted.mac);
    int r = net_macvtap_make(&wanted, &index, &device, err);
    int length = snprintf(text, sizeof(text), "%u\n", index);
    r = r < 0 ? r : file_write(number, text, (size_t)length, 0644, err);
    if (r < 0) {
        return r;
    }
    unlinkat(monitor->folder, node, 0);
    if (mknodat(monitor->folder, node, S_IFCHR | 0600, device) < 0 ||
        fchownat(monitor->folder, node, uid, (gid_t)uid, AT_SYMLINK_NOFOLLOW) < 0) {
        return error_os(err, errno, "making the device of the macvtap %s", macvtap->name);
    }
    mount_for_runner(monitor, memory_format("%s/%s", path, node),
                     memory_format("/dev/tap%u", index), true);
    mount_for_runner(monitor, memory_copy_string(number),
                     memory_format("/sys/class/net/%s/ifindex", macvtap->name), false);
    return 0;
}

static int give_macvtaps(struct monitor *monitor, const char *path, struct error *err)
{
    const struct launch_runner *runner = &monitor->launch.runner;
    int r = 0;
    for (size_t i = 0; i < runner->macvtap_count && r == 0; i++) {
        r = give_macvtap(monitor, &runner->macvtaps[i], path, err);
    }
    return r;
}

static void end_macvtaps(const struct monitor *monitor)
{
    const struct launch_runner *runner = &monitor->launch.runner;
    MEMORY_OWNED char *owner = owner_of(monitor);
    struct error ignored = {0};
    for (size_t i = 0; i < runner->macvtap_count; i++) {
        MEMORY_OWNED char *node = memory_format("dev-%s", runner->macvtaps[i].name);
        MEMORY_OWNED char *number = memory_format("index-%s", runner->macvtaps[i].name);
        unlinkat(monitor->folder, node, 0);
        unlinkat(monitor->folder, number, 0);
        net_link_delete(owner, runner->macvtaps[i].name, &ignored);
    }
}

static char *device_name(const char *device)
{
    return memory_format("dev-%s", strrchr(device, '/') + 1);
}

/* A node of its own user's, whoever may open the system's; false: none can be made here. */
static bool make_device(const struct monitor *monitor, const char *device, const char *name)
{
    struct stat status;
    struct statvfs file_system;
    uid_t uid = monitor->launch.jail.uid;
    unlinkat(monitor->folder, name, 0);
    return uid != 0 && stat(device, &status) == 0 && S_ISCHR(status.st_mode) &&
        fstatvfs(monitor->folder, &file_system) == 0 && (file_system.f_flag & ST_NODEV) == 0 &&
        mknodat(monitor->folder, name, S_IFCHR | 0600, status.st_rdev) == 0 &&
        fchownat(monitor->folder, name, uid, (gid_t)uid, AT_SYMLINK_NOFOLLOW) == 0;
}

static void give_devices(struct monitor *monitor, const char *path)
{
    for (size_t i = 0; i < monitor->launch.device_count; i++) {
        const char *device = monitor->launch.devices[i];
        MEMORY_OWNED char *name = device_name(device);
        bool is_own = make_device(monitor, device, name);
        mount_for_runner(monitor,
                         is_own ? memory_format("%s/%s", path, name) : memory_copy_string(device),
                         memory_copy_string(device), true);
    }
}

static void take_devices(const struct monitor *monitor)
{
    for (size_t i = 0; i < monitor->launch.device_count; i++) {
        MEMORY_OWNED char *name = device_name(monitor->launch.devices[i]);
        unlinkat(monitor->folder, name, 0);
    }
}

/* Its programs are not ours: what the daemon was told by its environment is not theirs to read. */
static int execute_runner(const struct launch_runner *runner, const char *program)
{
    MEMORY_OWNED char *home = memory_format("HOME=%s", runner->state);
    MEMORY_OWNED char *temporary = memory_format("TMPDIR=%s", runner->state);
    char *const argv[] = {(char *)(uintptr_t)program, NULL};
    char *const environment[] = {
        (char *)(uintptr_t) "PATH=/run/current-system/sw/bin:/usr/sbin:/usr/bin:/sbin:/bin", home,
        temporary, NULL};
    return chdir(runner->state) < 0 ? -1 : execve(program, argv, environment);
}

/* As confined as the VMM that it speaks to.  What it says is heard by nobody. */
static _Noreturn void become_shutter(const struct monitor *monitor)
{
    struct error err = {0};
    unsigned achieved = 0;
    sigset_t none;
    sigemptyset(&none);
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null >= 0 && dup2(null, STDIN_FILENO) >= 0 && dup2(null, STDOUT_FILENO) >= 0 &&
        dup2(null, STDERR_FILENO) >= 0 && sigprocmask(SIG_SETMASK, &none, NULL) == 0) {
        close_range(STDERR_FILENO + 1, ~0U, CLOSE_RANGE_CLOEXEC);
        if (jail_enter(&monitor->launch.jail, &achieved, &err) == 0 &&
            prctl(PR_SET_PDEATHSIG, SIGKILL) == 0) {
            execute_runner(&monitor->launch.runner, monitor->launch.runner.shut_down);
        }
    }
    _exit(127);
}

/* A runner that has no program for it has a VMM that SIGTERM ends. */
static void shut_down(struct monitor *monitor)
{
    monitor->console.wants_shut_down = false;
    if (!is_runner(monitor) || monitor->shutter > 0) {
        return;
    }
    if (monitor->launch.runner.shut_down[0] == '\0') {
        kill(monitor->vmm, SIGTERM);
        return;
    }
    monitor->shutter = jail_group_fork(monitor->name, &monitor->launch.limits);
    if (monitor->shutter == 0) {
        become_shutter(monitor);
    }
}

static void look_at_shutter(struct monitor *monitor)
{
    if (monitor->shutter > 0 && waitpid(monitor->shutter, NULL, WNOHANG) > 0) {
        monitor->shutter = 0;
    }
}

/* ---- The VMM ---- */

/* Each to its number, whatever that was before. */
static bool arrange_fds(const struct monitor *monitor, int report)
{
    int moved[LAUNCH_FD_END];
    if (fcntl(report, F_GETFD) < 0) {
        return false;
    }
    for (int i = 0; i < LAUNCH_FD_END; i++) {
        moved[i] =
            monitor->given[i] < 0 ? -1 : fcntl(monitor->given[i], F_DUPFD_CLOEXEC, LAUNCH_FD_END);
        if (monitor->given[i] >= 0 && moved[i] < 0) {
            return false;
        }
    }
    close_range(LAUNCH_FD_SOCKETS, LAUNCH_FD_END - 1, CLOSE_RANGE_CLOEXEC);
    for (int i = 0; i < LAUNCH_FD_END; i++) {
        if (moved[i] >= 0 && dup2(moved[i], i) < 0) {
            return false;
        }
    }
    return true;
}

static void give_up(int report, const struct error *err)
{
    ssize_t wrote = write(report, err->text, strlen(err->text));
    (void)wrote;
    _exit(127);
}

static void become_vmm(const struct monitor *monitor, int io, int words, int low_report)
{
    struct error err = {0};
    unsigned achieved = 0;
    sigset_t none;
    sigemptyset(&none);
    int report = fcntl(low_report, F_DUPFD_CLOEXEC, 2 * LAUNCH_FD_END);
    if (dup2(io, STDIN_FILENO) < 0 || dup2(io, STDOUT_FILENO) < 0 ||
        dup2(words, STDERR_FILENO) < 0 || !arrange_fds(monitor, report) ||
        sigprocmask(SIG_SETMASK, &none, NULL) < 0) {
        error_os(&err, errno, "arranging what the VMM has open");
        give_up(report, &err);
    }
    if (jail_enter(&monitor->launch.jail, &achieved, &err) < 0) {
        give_up(report, &err);
    }
    close_range(LAUNCH_FD_END, ~0U, CLOSE_RANGE_CLOEXEC);
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0) { /* after the change of user, which clears it */
        error_os(&err, errno, "tying the VMM to its monitor");
        give_up(report, &err);
    }
    if (is_runner(monitor)) {
        execute_runner(&monitor->launch.runner, monitor->launch.argv[0]);
    } else {
        execv(monitor->launch.argv[0], monitor->launch.argv);
    }
    error_os(&err, errno, "executing %s", monitor->launch.argv[0]);
    give_up(report, &err);
}

/* The report ends without a word when the program was executed. */
static int wait_for_exec(int report, struct error *err)
{
    char text[ERROR_TEXT_MAX] = "";
    size_t used = 0;
    ssize_t got = 0;
    do {
        got = read(report, text + used, sizeof(text) - 1 - used);
        used += got > 0 ? (size_t)got : 0;
    } while ((got > 0 && used < sizeof(text) - 1) || (got < 0 && errno == EINTR));
    return used == 0 ? 0 : error_set(err, ERROR_OS, "%s", text);
}

static int start_shares(struct monitor *monitor, const char *path, int words, struct error *err)
{
    int r = 0;
    if ((monitor->launch.share_count > 0 || is_runner(monitor)) &&
        prctl(PR_SET_CHILD_SUBREAPER, 1) < 0) {
        return error_os(err, errno, "becoming the parent of what others leave behind");
    }
    for (size_t i = 0; i < monitor->launch.share_count && r == 0; i++) {
        monitor->launch.shares[i].group = monitor->name;
        if (monitor->launch.shares[i].socket != NULL) {
            r = share_start_at(monitor->launch.share_program, &monitor->launch.shares[i],
                               &monitor->launch.runner, monitor->launch.jail.uid, path, words,
                               &monitor->shares[i], err);
            continue;
        }
        r = share_start(monitor->launch.share_program, &monitor->launch.shares[i], monitor->folder,
                        path, words, &monitor->given[LAUNCH_FD_SHARES + i], &monitor->shares[i],
                        err);
    }
    return r;
}

static int start_vmm(struct monitor *monitor, const char *path, int console_listener,
                     struct error *err)
{
    int io[2];
    int words[2];
    int report[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, io) < 0 || pipe2(words, O_CLOEXEC) < 0 ||
        pipe2(report, O_CLOEXEC) < 0) {
        return error_os(err, errno, "making the VMM's pipes");
    }
    int started = start_shares(monitor, path, words[1], err);
    if (started < 0) {
        return started;
    }
    monitor->vmm = jail_group_fork(monitor->name, &monitor->launch.limits);
    if (monitor->vmm < 0) {
        return error_os(err, errno, "starting a process");
    }
    if (monitor->vmm == 0) {
        become_vmm(monitor, io[1], words[1], report[1]);
    }
    close(io[1]);
    close(words[1]);
    close(report[1]);
    for (size_t i = 0; i < LAUNCH_FD_END; i++) {
        fd_close_slot(&monitor->given[i]); /* the VMM's alone: when it ends, so do they */
    }
    fcntl(io[0], F_SETFL, O_NONBLOCK);
    fcntl(words[0], F_SETFL, O_NONBLOCK);
    fcntl(console_listener, F_SETFL, O_NONBLOCK);
    monitor->words = words[0];
    console_init(&monitor->console, monitor->folder, console_listener, io[0]);
    int r = wait_for_exec(report[0], err);
    close(report[0]);
    return r;
}

/* ---- Until it ends ---- */

/* The last of what it says is kept: the reason of a failed start. */
static void take_words(struct monitor *monitor)
{
    char piece[512];
    ssize_t got = read(monitor->words, piece, sizeof(piece));
    for (ssize_t i = 0; i < got; i++) {
        if (monitor->last_length == WORDS_BYTES) {
            size_t half = WORDS_BYTES / 2;
            memmove(monitor->last_words, monitor->last_words + half, half);
            monitor->last_length = half;
        }
        monitor->last_words[monitor->last_length++] = piece[i];
    }
    if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) {
        fd_close_slot(&monitor->words);
    }
}

static bool vmm_has_ended(const struct monitor *monitor, int *ret_status)
{
    return waitpid(monitor->vmm, ret_status, WNOHANG) == monitor->vmm;
}

static void take_signals(const struct monitor *monitor)
{
    struct signalfd_siginfo info;
    while (read(monitor->signals, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
        if (info.ssi_signo == SIGTERM) {
            kill(monitor->vmm, SIGKILL);
        }
    }
}

/* A guest waits for ever for a share that is gone: the machine ends with it. */
static void look_at_shares(struct monitor *monitor)
{
    for (size_t i = 0; i < monitor->launch.share_count; i++) {
        if (monitor->shares[i] > 0 && waitpid(monitor->shares[i], NULL, WNOHANG) > 0) {
            monitor->shares[i] = 0;
            monitor->lost_share = &monitor->launch.shares[i];
            kill(monitor->vmm, SIGKILL);
        }
    }
}

/* What a virtiofsd leaves behind, the process that it has confined, has become ours by then. */
static void kill_orphans(void)
{
    char path[64];
    BUFFER_OWNED struct buffer text = {0};
    struct error ignored = {0};
    snprintf(path, sizeof(path), "/proc/self/task/%d/children", getpid());
    if (file_read(path, CHILDREN_BYTES, &text, &ignored) < 0) {
        return;
    }
    char *rest = NULL;
    for (const char *word = strtok_r((char *)(uintptr_t)buffer_string(&text), " \n", &rest);
         word != NULL; word = strtok_r(NULL, " \n", &rest)) {
        long pid = strtol(word, NULL, 10);
        if (pid > 1) {
            kill((pid_t)pid, SIGKILL);
            waitpid((pid_t)pid, NULL, 0);
        }
    }
}

/* All of them are gone afterwards: the control group is empty. */
static void end_shares(struct monitor *monitor)
{
    for (size_t i = 0; i < monitor->launch.share_count; i++) {
        if (monitor->shares[i] > 0) {
            kill(monitor->shares[i], SIGKILL);
            waitpid(monitor->shares[i], NULL, 0);
        }
    }
    if (is_runner(monitor)) {
        jail_group_kill(monitor->name); /* whoever left its session is in its group still */
    }
    if (monitor->launch.share_count > 0 || is_runner(monitor)) {
        kill_orphans();
    }
}

/*
 * Milliseconds until the lease is to be looked at; when it is over, the VMM is killed.  Nobody else
 * may be there to do it: another node starts this machine when this time, and a margin, have gone
 * by.
 */
static int look_at_lease(struct monitor *monitor)
{
    uint64_t now_ms = clock_boot_ms();
    launch_read_lease(monitor->lease, &monitor->lease_until_ms);
    if (now_ms < monitor->lease_until_ms) {
        uint64_t left_ms = monitor->lease_until_ms - now_ms;
        return left_ms < LEASE_LOOK_MS ? (int)left_ms : LEASE_LOOK_MS;
    }
    monitor->is_fenced = true;
    kill(monitor->vmm, SIGKILL);
    return LEASE_LOOK_MS;
}

/* Returns how it ended, as waitpid(2) says. */
static int watch(struct monitor *monitor)
{
    int status = 0;
    struct pollfd fds[2 + CONSOLE_FDS];
    while (!vmm_has_ended(monitor, &status)) {
        fds[0] = (struct pollfd){.fd = monitor->signals, .events = POLLIN};
        fds[1] = (struct pollfd){.fd = monitor->words, .events = POLLIN};
        size_t count = console_prepare(&monitor->console, fds + 2);
        if (poll(fds, (nfds_t)(2 + count), look_at_lease(monitor)) < 0) {
            continue;
        }
        if (fds[0].revents != 0) {
            take_signals(monitor);
            look_at_shares(monitor);
            look_at_shutter(monitor);
        }
        if (fds[1].revents != 0) {
            take_words(monitor);
        }
        console_serve(&monitor->console, fds + 2, count);
        if (monitor->console.wants_shut_down) {
            shut_down(monitor);
        }
    }
    while (monitor->words >= 0) { /* what it said last */
        size_t before = monitor->last_length;
        take_words(monitor);
        if (monitor->last_length == before) {
            break;
        }
    }
    console_drain(&monitor->console);
    return status;
}

static void write_exit(struct monitor *monitor, int status)
{
    BUFFER_OWNED struct buffer text = {0};
    MEMORY_OWNED char *path = memory_format("/proc/self/fd/%d/" LAUNCH_EXIT, monitor->folder);
    struct error err = {0};
    struct json_writer writer = json_writer_to(&text);
    monitor->last_words[monitor->last_length] = '\0';
    text_make_printable(monitor->last_words, true);
    json_write_begin_object(&writer);
    json_write_field_u64(&writer, "code", WIFEXITED(status) ? (uint64_t)WEXITSTATUS(status) : 0);
    json_write_field_u64(&writer, "signal", WIFSIGNALED(status) ? (uint64_t)WTERMSIG(status) : 0);
    json_write_field_u64(&writer, "at_ms", clock_real_ms());
    json_write_field_string(&writer, "text", monitor->last_words);
    json_write_end_object(&writer);
    file_write(path, text.data, text.used, 0600, &err); /* there is nobody to tell */
}

/* What virtiofsd has said is kept behind it, as far as it fits. */
static void note_lost_share(struct monitor *monitor)
{
    char said[256];
    if (monitor->lost_share != NULL) {
        monitor->last_words[monitor->last_length] = '\0';
        snprintf(said, sizeof(said), "%.255s", monitor->last_words);
        monitor->last_length = (size_t)snprintf(monitor->last_words, sizeof(monitor->last_words),
                                                "the virtiofsd of its share %.200s has ended: %s",
                                                monitor->lost_share->path, said);
    }
}

/* The kernel kills without a word: its count of them says why. */
static void note_kill(struct monitor *monitor, int status)
{
    struct jail_group_usage usage;
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL &&
        jail_group_read(monitor->name, &usage) && usage.kills > 0) {
        monitor->last_length = (size_t)snprintf(
            monitor->last_words, sizeof(monitor->last_words),
            "it wanted more memory than the %llu MiB that its control group may have",
            (unsigned long long)(usage.memory_bytes_max >> 20));
    }
}

static void note_fence(struct monitor *monitor)
{
    if (monitor->is_fenced) {
        monitor->last_length = (size_t)snprintf(
            monitor->last_words, sizeof(monitor->last_words),
            "its node was cut off from the cluster for so long that it may run elsewhere by now");
    }
}

/* ---- Life ---- */

/* Whoever looks whether somebody has it (launch_is_alive()) has it for a moment. */
static bool take_lock(const struct monitor *monitor)
{
    enum { TRIES = 20, MOMENT_NS = 5000000 };
    const struct timespec moment = {.tv_nsec = MOMENT_NS};
    bool is_taken = false;
    for (int i = 0; i < TRIES && !is_taken; i++) {
        is_taken = flock(monitor->lock, LOCK_EX | LOCK_NB) == 0;
        if (!is_taken) {
            nanosleep(&moment, NULL);
        }
    }
    return is_taken;
}

static int open_folder(struct monitor *monitor, const char *path, struct error *err)
{
    monitor->folder = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (monitor->folder < 0) {
        return error_os(err, errno, "opening %s", path);
    }
    monitor->lock = openat(monitor->folder, LAUNCH_LOCK, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (monitor->lock < 0) {
        return error_os(err, errno, "opening %s/" LAUNCH_LOCK, path);
    }
    if (!take_lock(monitor)) {
        return error_set(err, ERROR_EXISTS, "a monitor runs in %s already", path);
    }
    /* Of an earlier monitor: its number may be somebody else's by now. */
    if (ftruncate(monitor->lock, 0) < 0) {
        return error_os(err, errno, "emptying %s/" LAUNCH_LOCK, path);
    }
    unlinkat(monitor->folder, LAUNCH_EXIT, 0);
    return 0;
}

static int note_processes(const struct monitor *monitor, struct error *err)
{
    char text[64];
    int length = snprintf(text, sizeof(text), "%d %d\n", getpid(), monitor->vmm);
    if (file_write_all(monitor->lock, text, (size_t)length) < 0) {
        return error_os(err, errno, "writing " LAUNCH_LOCK);
    }
    return 0;
}

/* SIGCHLD wakes poll(); a closed socket is an answer of write(2). */
static int take_over_signals(struct monitor *monitor, struct error *err)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigaddset(&set, SIGTERM);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    signal(SIGINT, SIG_IGN);
    if (sigprocmask(SIG_BLOCK, &set, NULL) < 0 ||
        (monitor->signals = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC)) < 0) {
        return error_os(err, errno, "taking signals");
    }
    return 0;
}

static int begin(struct monitor *monitor, const char *path, struct error *err)
{
    int console_listener = -1;
    memset(monitor->given, -1, sizeof(monitor->given));
    const char *slash = strrchr(path, '/');
    monitor->name = slash != NULL ? slash + 1 : path;
    int r = open_folder(monitor, path, err);
    r = r < 0 ? r : launch_read(monitor->folder, &monitor->launch, err);
    r = r < 0 ? r : take_over_signals(monitor, err);
    r = r < 0 ? r : launch_open_lease(monitor->folder, &monitor->lease, err);
    r = r < 0 ? r : open_sockets(monitor, &console_listener, err);
    r = r < 0 ? r : open_taps(monitor, err);
    r = r < 0 ? r : lend_taps(monitor, err);
    r = r < 0 ? r : give_macvtaps(monitor, path, err);
    if (r == 0) {
        give_devices(monitor, path);
    }
    r = r < 0 ? r : start_vmm(monitor, path, console_listener, err);
    return r < 0 ? r : note_processes(monitor, err);
}

static void leave_terminal(void)
{
    FD_OWNED int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int fd = 0; fd < 3 && null >= 0; fd++) {
        dup2(null, fd);
    }
}

/* The child: tells `report` how the start went, and stays.  Until then it ends with its parent,
 * which whoever started that ends when it takes too long. */
static void stay(const char *path, int report, pid_t parent)
{
    static struct monitor monitor;
    struct error err = {0};
    setsid();
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != parent) {
        _exit(1);
    }
    if (begin(&monitor, path, &err) < 0) {
        take_taps_back(&monitor);
        end_macvtaps(&monitor);
        if (monitor.vmm > 0) { /* it was in its group, and could not be executed */
            jail_group_remove(monitor.name);
        }
        give_up(report, &err);
    }
    prctl(PR_SET_PDEATHSIG, 0);
    close(report);
    leave_terminal();
    int status = watch(&monitor);
    end_shares(&monitor);
    take_taps_back(&monitor);
    end_macvtaps(&monitor);
    take_devices(&monitor);
    note_lost_share(&monitor);
    note_kill(&monitor, status);
    note_fence(&monitor);
    jail_group_remove(monitor.name);
    write_exit(&monitor, status);
    for (size_t i = 0; i < monitor.launch.socket_count; i++) {
        unlinkat(monitor.folder, monitor.launch.sockets[i], 0);
    }
    unlinkat(monitor.folder, LAUNCH_CONSOLE, 0);
    _exit(0);
}

int monitor_main(int argc, char **argv)
{
    int report[2];
    struct error err = {0};
    if (argc != 2 || argv[1][0] == '-') {
        fputs("blixard-monitor is started by the daemon, beside a machine's VMM.\n", stderr);
        return 64;
    }
    if (pipe2(report, O_CLOEXEC) < 0) {
        perror("blixard-monitor: pipe");
        return 1;
    }
    pid_t parent = getpid();
    pid_t pid = fork();
    if (pid == 0) {
        close(report[0]);
        stay(argv[1], report[1], parent);
    }
    close(report[1]);
    if (pid < 0 || wait_for_exec(report[0], &err) < 0) {
        fputs(pid < 0 ? "no process could be started" : err.text, stderr);
        return 1;
    }
    return 0;
}
