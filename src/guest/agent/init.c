/*
 * PID 1: it begins the server, runs the entrypoint if there is one, reaps what nobody else does,
 * and takes the machine down in order.
 *
 * A kernel whose PID 1 dies panics, so this process does as little as it can; all the talking is
 * the server's.
 */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/input.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "base/version.h"

#include "guest/agent/private.h"

enum {
    BUTTONS_MAX = 8,
    PATIENCE_MS = 10000,
    TELL_MS = 2000,
    TELL_END_MS = 30000,
    STEP_MS = 10,
    KEY_RELEASES = 0
};

struct init {
    struct serve_options options;
    pid_t server;
    pid_t entry;
    int signals;
    int buttons[BUTTONS_MAX];
    unsigned button_count;
};

/* ---- Power ---- */

static void open_buttons(struct init *init)
{
    for (int i = 0; i < BUTTONS_MAX; i++) {
        char path[32];
        snprintf(path, sizeof(path), "/dev/input/event%d", i);
        int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
        if (fd >= 0) {
            init->buttons[init->button_count++] = fd;
        }
    }
}

static void want_power(enum agent_power power)
{
    unsigned none = 0;
    atomic_compare_exchange_strong(&shared->power, &none, 1U + power);
}

static void look_at_button(int fd)
{
    struct input_event event;
    while (read(fd, &event, sizeof(event)) == (ssize_t)sizeof(event)) {
        if (event.type == EV_KEY && event.code == KEY_POWER && event.value != KEY_RELEASES) {
            want_power(AGENT_POWER_OFF);
        }
    }
}

/* Programs besides us, the server and the kernel's threads, which have no command line.  Neither
 * has one that is about to end: the entrypoint counts until it was reaped, for its end is told. */
static bool is_somebody_left(const struct init *init)
{
    DIR *folder = opendir("/proc");
    const struct dirent *entry = NULL;
    bool is_one = init->entry != 0;
    while (folder != NULL && !is_one && (entry = readdir(folder)) != NULL) {
        char path[300];
        char line[16];
        long pid = isdigit((unsigned char)entry->d_name[0]) ? strtol(entry->d_name, NULL, 10) : 0;
        if (pid <= 1 || pid == init->server) {
            continue;
        }
        snprintf(path, sizeof(path), "/proc/%s/cmdline", entry->d_name);
        read_line(path, line, sizeof(line));
        is_one = line[0] != '\0';
    }
    if (folder != NULL) {
        closedir(folder);
    }
    return is_one;
}

/* There is news in the page. */
static void tell_server(const struct init *init)
{
    atomic_fetch_add(&shared->news, 1);
    if (init->server > 1) {
        kill(init->server, SIGUSR1); /* it looks at the page */
    }
}

static void note_end(struct init *init, pid_t pid, int status)
{
    if (pid == init->entry) {
        init->entry = 0;
        atomic_store(&shared->entry_status, status);
        atomic_store(&shared->entry_ended, 1U);
        tell_server(init);
    } else if (pid == init->server) {
        init->server = 0;
    }
}

static void reap(struct init *init)
{
    int status = 0;
    pid_t pid;
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        note_end(init, pid, status);
    }
}

static bool note_path(const struct mounted *mounted, void *context)
{
    struct buffer *paths = context;
    buffer_append(paths, mounted->path, strlen(mounted->path) + 1);
    return true;
}

/* From the last one mounted to the first; what is in use is at least not written to any more. */
static void unmount_all(void)
{
    BUFFER_OWNED struct buffer paths = {0};
    mounted_each(note_path, &paths);
    size_t end = paths.used;
    while (end > 0) {
        size_t begin = end - 1;
        while (begin > 0 && paths.data[begin - 1] != 0) {
            begin--;
        }
        const char *path = (const char *)paths.data + begin;
        bool is_kernel =
            strcmp(path, "/proc") == 0 || strcmp(path, "/sys") == 0 || strcmp(path, "/dev") == 0;
        if (!is_kernel && (strcmp(path, "/") == 0 || umount2(path, 0) < 0)) {
            mount(NULL, path, NULL, MS_REMOUNT | MS_RDONLY, NULL);
        }
        end = begin;
    }
}

/* Without ACPI nothing turns the power off: the kernel would halt, and the VMM would not know.  A
 * reboot it does know, and it was told not to boot again. */
static int power_command(enum agent_power power)
{
    bool has_power = file_exists("/sys/firmware/acpi/tables");
    return power == AGENT_POWER_REBOOT || !has_power ? RB_AUTOBOOT : RB_POWER_OFF;
}

/* How a program has ended nobody finds out afterwards: the host may be a while in coming. */
static void wait_until_told(const struct init *init)
{
    int most_ms = atomic_load(&shared->entry_ended) != 0 ? TELL_END_MS : TELL_MS;
    tell_server(init);
    for (int waited_ms = 0;
         waited_ms < most_ms && atomic_load(&shared->told) != atomic_load(&shared->news);
         waited_ms += STEP_MS) {
        usleep(STEP_MS * 1000);
    }
}

static _Noreturn void go_down(struct init *init, enum agent_power power)
{
    unsigned asked_ms = atomic_load(&shared->patience_ms);
    unsigned patience_ms = asked_ms > 0 ? asked_ms : PATIENCE_MS;
    say("%s", power == AGENT_POWER_REBOOT ? "reboot" : "power off");
    kill(-1, SIGTERM);
    kill(-1, SIGCONT);
    for (unsigned waited_ms = 0; waited_ms < patience_ms; waited_ms += STEP_MS) {
        reap(init);
        if (!is_somebody_left(init)) {
            break;
        }
        usleep(STEP_MS * 1000);
    }
    if (init->server > 0) {
        wait_until_told(init);
    }
    int command = power_command(power);
    kill(-1, SIGKILL);
    reap(init);
    sync();
    unmount_all();
    sync();
    reboot(command);
    for (;;) {
        pause();
    }
}

/* ---- The entrypoint ---- */

static void begin_entrypoint(struct init *init)
{
    BUFFER_OWNED struct buffer bytes = {0};
    struct error error = {0};
    read_file(entrypoint_path(), &bytes);
    struct agent_reader request = agent_reader_of(bytes.data, bytes.used);
    pid_t pid = fork();
    if (pid == 0) {
        exec_begin_child();
        int fd = open("/dev/null", O_RDONLY);
        dup2(fd, STDIN_FILENO);
        exec_become(request, false, &error);
        say("the entrypoint: %s", error.text);
        _exit(127);
    }
    if (pid < 0) {
        say("the entrypoint: %s", strerror(errno));
        return;
    }
    init->entry = pid;
    atomic_store(&shared->entry_pid, pid);
    tell_server(init);
}

/* ---- The life of PID 1 ---- */

static int take_on_signals(void)
{
    static const int numbers[] = {SIGCHLD, SIGTERM, SIGINT, SIGUSR1, SIGUSR2};
    sigset_t signals;
    sigemptyset(&signals);
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
        sigaddset(&signals, numbers[i]);
    }
    sigprocmask(SIG_BLOCK, &signals, NULL);
    reboot(RB_DISABLE_CAD); /* three keys are SIGINT, which is a reboot in order */
    return signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
}

static void take_signals(struct init *init)
{
    struct signalfd_siginfo info;
    while (read(init->signals, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
        if (info.ssi_signo == SIGTERM || info.ssi_signo == SIGUSR2) {
            want_power(AGENT_POWER_OFF);
        } else if (info.ssi_signo == SIGINT) {
            want_power(AGENT_POWER_REBOOT);
        }
    }
    reap(init);
}

static void turn(struct init *init)
{
    struct pollfd polls[BUTTONS_MAX + 1] = {{.fd = init->signals, .events = POLLIN}};
    for (unsigned i = 0; i < init->button_count; i++) {
        polls[i + 1] = (struct pollfd){.fd = init->buttons[i], .events = POLLIN};
    }
    poll(polls, init->button_count + 1, -1);
    take_signals(init);
    for (unsigned i = 0; i < init->button_count; i++) {
        look_at_button(init->buttons[i]);
    }
}

/* Beside the distribution's init: somebody has to begin the server again if it falls. */
static _Noreturn void guard(const struct serve_options *options)
{
    setsid();
    signal(SIGTERM, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    for (;;) {
        int status = 0;
        pid_t pid = serve_begin(options);
        if (pid < 0 || waitpid(pid, &status, 0) < 0 || WIFEXITED(status)) {
            _exit(EXIT_FAILURE);
        }
        usleep(200000);
    }
}

int init_main(char **argv)
{
    static struct init init = {.options = {.port_name = AGENT_PORT, .has_vsock = true}};
    const char *distribution = boot();
    if (distribution != NULL) {
        if (fork() == 0) {
            argv[0][0] = '@'; /* systemd spares those whose name begins so, to the very end */
            guard(&init.options);
        }
        char *const arguments[] = {(char *)(uintptr_t)distribution, NULL};
        execv(distribution, arguments);
        atomic_store(&shared->init, AGENT_INIT_RESCUE);
        snprintf(shared->problem, sizeof(shared->problem), "%s: %s", distribution, strerror(errno));
        say("%s", shared->problem);
    }
    init.signals = take_on_signals();
    open_buttons(&init);
    if (distribution == NULL) {
        init.server = serve_begin(&init.options);
    }
    if (atomic_load(&shared->init) == AGENT_INIT_ENTRYPOINT) {
        begin_entrypoint(&init);
    }
    say("agent %s", blixard_version);
    for (;;) {
        turn(&init);
        unsigned power = atomic_load(&shared->power);
        if (init.entry == 0 && atomic_load(&shared->entry_ended) != 0 && power == 0) {
            want_power(AGENT_POWER_OFF); /* the machine is there for its program */
            power = atomic_load(&shared->power);
        }
        if (power != 0) {
            go_down(&init, (enum agent_power)(power - 1));
        }
        if (init.server == 0 && distribution == NULL) {
            usleep(200000);
            init.server = serve_begin(&init.options);
        }
    }
}
