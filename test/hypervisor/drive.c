/*
 * A driver of engine/hypervisor, told what to do by lines on standard input:
 *
 *   drive MONITOR start|attach DRIVER FOLDER KERNEL DISK TAP
 *
 * Lines: pause, resume, reset, power-down, kill, balloon BYTES, save FILE, load FILE, leave.  It
 * prints "started", "paused", "resumed", "done", "error KIND TEXT" and "exit END TEXT", a line
 * each. KVM is said to boot Linux: what is driven is a stand-in, or the real program where there is
 * one.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/loop/loop.h"

#include "engine/hypervisor/hypervisor.h"

static struct loop *loop;
static struct hypervisor_vm *vm;
static char line[1024];
static size_t used;

static void on_started(void *context)
{
    (void)context;
    puts("started");
}

static void on_paused(bool is_paused, void *context)
{
    (void)context;
    puts(is_paused ? "paused" : "resumed");
}

static void on_reboot(void *context)
{
    (void)context;
    puts("reboot");
}

static void on_exit_seen(const struct hypervisor_exit *exit, void *context)
{
    (void)context;
    printf("exit %d %s\n", (int)exit->end, exit->text);
    loop_stop(loop);
}

static void on_done(const struct error *error, void *context)
{
    (void)context;
    if (error == NULL) {
        puts("done");
    } else {
        printf("error %s %s\n", error_kind_name(error->kind), error->text);
    }
}

static void obey(const char *order, const char *argument)
{
    if (strcmp(order, "pause") == 0) {
        hypervisor_pause(vm, on_done, NULL);
    } else if (strcmp(order, "resume") == 0) {
        hypervisor_resume(vm, on_done, NULL);
    } else if (strcmp(order, "reset") == 0) {
        hypervisor_reset(vm, on_done, NULL);
    } else if (strcmp(order, "power-down") == 0) {
        hypervisor_power_down(vm, on_done, NULL);
    } else if (strcmp(order, "balloon") == 0) {
        hypervisor_balloon(vm, strtoull(argument, NULL, 10), on_done, NULL);
    } else if (strcmp(order, "save") == 0) {
        hypervisor_save(vm, open(argument, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600), false,
                        on_done, NULL);
    } else if (strcmp(order, "load") == 0) {
        hypervisor_load(vm, open(argument, O_RDONLY | O_CLOEXEC), false, on_done, NULL);
    } else if (strcmp(order, "kill") == 0) {
        hypervisor_kill(vm);
    } else {
        loop_stop(loop);
    }
}

static void on_input(uv_poll_t *poll, int status, int events)
{
    (void)poll;
    (void)status;
    (void)events;
    ssize_t got = read(STDIN_FILENO, line + used, sizeof(line) - 1 - used);
    if (got <= 0) {
        loop_stop(loop);
        return;
    }
    used += (size_t)got;
    char *end = NULL;
    while ((end = memchr(line, '\n', used)) != NULL) {
        *end = '\0';
        char *argument = strchr(line, ' ');
        if (argument != NULL) {
            *argument++ = '\0';
        }
        obey(line, argument != NULL ? argument : "");
        used -= (size_t)(end + 1 - line);
        memmove(line, end + 1, used);
    }
}

static void on_closed(uv_handle_t *handle)
{
    (void)handle;
}

static int begin(struct hypervisor *hypervisor, char **argv, struct error *err)
{
    static const struct hypervisor_events events = {on_started, on_paused, on_reboot, on_exit_seen};
    const struct hypervisor_disk disk = {.path = argv[6],
                                         .format = "raw",
                                         .serial = "data",
                                         .rates = {.iops.both = 4321, .bytes.both = 7654321}};
    const struct hypervisor_nic nic = {.mac = "02:00:00:00:00:01", .tap = argv[7]};
    /* "device 0000:01:00.0" */
    struct hypervisor_device device = {.group = "0"};
    bool has_device = strncmp(argv[2], "device ", 7) == 0;
    snprintf(device.address, sizeof(device.address), "%s", has_device ? argv[2] + 7 : "");
    const struct hypervisor_cell cells[] = {{.cpus = "0", .memory_bytes = UINT64_C(48) << 20},
                                            {.cpus = "1", .memory_bytes = UINT64_C(80) << 20}};
    const struct hypervisor_spec spec = {
        .driver = argv[3],
        .name = "default/web",
        .folder = argv[4],
        .uid = 2100000001,
        .cpus = 2,
        .memory_bytes = UINT64_C(128) << 20,
        .page_bytes = strcmp(argv[2], "huge") == 0 ? HYPERVISOR_PAGE_2M : 0,
        .cells = cells,
        .cell_count = strcmp(argv[2], "cells") == 0 ? 2 : 0,
        .devices = &device,
        .device_count = has_device,
        .kernel = argv[5],
        .cmdline = "word",
        .disks = &disk,
        .disk_count = 1,
        .nics = &nic,
        .nic_count = argv[7][0] != '\0',
        .is_incoming = strcmp(argv[2], "incoming") == 0,
    };
    if (strcmp(argv[2], "attach") == 0) {
        vm = hypervisor_attach(hypervisor, argv[3], argv[4], &events, NULL);
        return 0;
    }
    int r = hypervisor_check(hypervisor, &spec, err);
    if (r == 0) {
        vm = hypervisor_start(hypervisor, &spec, &events, NULL);
    }
    return r;
}

int main(int argc, char **argv)
{
    struct error err = {0};
    uv_poll_t input;
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc != 8 || loop_new("drive", &loop, &err) < 0) {
        fputs("usage: drive MONITOR start|incoming|attach DRIVER FOLDER KERNEL DISK TAP\n", stderr);
        return 64;
    }
    const struct hypervisor_options options = {
        .monitor = argv[1], .kvm_boots_linux = true, .kvm_reason = ""};
    struct hypervisor *hypervisor = hypervisor_open(loop, &options);
    if (begin(hypervisor, argv, &err) < 0) {
        on_done(&err, NULL);
    } else {
        uv_poll_init(loop_uv(loop), &input, STDIN_FILENO);
        uv_poll_start(&input, UV_READABLE, on_input);
        loop_run(loop);
        uv_close((uv_handle_t *)&input, on_closed);
    }
    hypervisor_free(vm);
    loop_flush(loop);
    hypervisor_close(hypervisor);
    loop_free(loop);
    return 0;
}
