/* The machine's end, from inside: through whoever is PID 1. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/reboot.h>
#include <unistd.h>

#include "base/file.h"

#include "guest/agent/private.h"

/* systemd(1), "Signals": SIGRTMIN+4 begins poweroff.target, SIGRTMIN+5 reboot.target.  SIGRTMIN is
 * what glibc, which systemd is built with, makes of it. */
enum { GLIBC_SIGRTMIN = 34, SYSTEMD_POWER_OFF = GLIBC_SIGRTMIN + 4, SYSTEMD_REBOOT };

/* sysvinit, OpenRC and busybox come with a program; where there is none, nobody is to be asked. */
static void ask_program(enum agent_power power)
{
    static const char *const folders[] = {"/sbin/", "/usr/sbin/", "/bin/", "/usr/bin/"};
    const char *name = power == AGENT_POWER_REBOOT ? "reboot" : "poweroff";
    pid_t pid = fork();
    if (pid != 0) {
        return;
    }
    exec_begin_child();
    for (size_t i = 0; i < sizeof(folders) / sizeof(folders[0]); i++) {
        char path[64];
        snprintf(path, sizeof(path), "%s%s", folders[i], name);
        execl(path, name, (char *)NULL);
    }
    sync();
    reboot(power == AGENT_POWER_REBOOT ? RB_AUTOBOOT : RB_POWER_OFF);
    _exit(EXIT_FAILURE);
}

int power_begin(struct agent_reader request, struct error *err)
{
    uint64_t number = request_number(request, AGENT_POWER, AGENT_POWERS);
    uint64_t patience_ms = request_number(request, AGENT_TIMEOUT_MS, 0);
    if (number >= AGENT_POWERS) {
        return error_set(err, ERROR_INVALID, "neither power off nor reboot is asked for");
    }
    enum agent_power power = (enum agent_power)number;
    if (atomic_load(&shared->init) != AGENT_INIT_OTHER) {
        atomic_store(&shared->patience_ms, (unsigned)(patience_ms < 600000 ? patience_ms : 600000));
        atomic_store(&shared->power, 1U + power);
        return kill(1, SIGUSR1) == 0 ? 0 : fail_os(err, errno, "telling init");
    }
    if (file_exists("/run/systemd/system")) {
        int sent = power == AGENT_POWER_REBOOT ? SYSTEMD_REBOOT : SYSTEMD_POWER_OFF;
        return kill(1, sent) == 0 ? 0 : fail_os(err, errno, "telling systemd");
    }
    ask_program(power);
    return 0;
}
