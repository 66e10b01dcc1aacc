/*
 * A machine that runs: its monitor is watched for the end, its driver's connection for the rest.
 *
 * The order of an end: the connection is lost, or not; then the monitor goes, having written how
 * the VMM ended.  What the driver told before (on_ending) says more than an exit status.
 *
 * A VMM that has closed its connection and has not ended a moment later is connected to anew, and
 * on_started comes once more.  One that does not take that, or was only about to run, is ended.
 */
#include "engine/hypervisor/vm.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "engine/hypervisor/plug.h"

enum {
    PROCESSES_MAX = 512,
    AGAIN_MS = 1000,         /* a VMM that ends has ended by then, mostly */
    LOSSES_MAX = 3,          /* in a row, with less than */
    LOSSES_APART_MS = 60000, /* between them */
    LOOK_NS = 10000000,
};

/* ---- The end ---- */

void vm_release(struct hypervisor_vm *vm)
{
    if (vm->is_freed && !vm->is_starting && !vm->is_watching && vm->posts == 0) {
        order_done(&vm->order);
        plug_free(vm->plug);
        free(vm->state_file);
        free(vm->folder);
        free(vm);
    }
}

static void on_watch_closed(uv_handle_t *handle)
{
    struct hypervisor_vm *vm = handle->data;
    fd_close_slot(&vm->watch_fd);
    vm->is_watching = false;
    vm_release(vm);
}

static void disconnect(struct hypervisor_vm *vm)
{
    if (vm->control != NULL) {
        vm->found->driver->disconnect(vm->control);
        vm->control = NULL;
    }
}

void hypervisor_free(struct hypervisor_vm *vm)
{
    if (vm == NULL || vm->is_freed) {
        return;
    }
    vm->is_freed = true;
    loop_timer_free(vm->again);
    vm->again = NULL;
    disconnect(vm);
    if (vm->is_watching && !uv_is_closing((uv_handle_t *)&vm->watch)) {
        uv_close((uv_handle_t *)&vm->watch, on_watch_closed);
    }
    vm_release(vm);
}

/* In one line.  QEMU warns each time of what emulation lacks: that is no reason to end. */
static void join_words(const char *text, char *ret_words, size_t size)
{
    size_t used = 0;
    ret_words[0] = '\0';
    for (const char *at = text; *at != '\0' && used < size;) {
        size_t length = strcspn(at, "\n");
        if (length > 0 && memmem(at, length, "warning: ", 9) == NULL) {
            used += (size_t)snprintf(ret_words + used, size - used, "%s%.*s",
                                     used > 0 ? "; " : ": ", (int)length, at);
        }
        at += length + (at[length] == '\n' ? 1 : 0);
    }
}

static void describe(const struct hypervisor_vm *vm, const struct launch_exit *exit,
                     struct hypervisor_exit *ret_exit)
{
    char words[sizeof(exit->text) + 2];
    char why[PANIC_SIZE] = "";
    bool is_told = vm->has_ending ? vm->ending != HYPERVISOR_END_PANIC : vm->was_killed;
    bool has_panicked = !is_told && panic_since(vm->folder, &vm->boot, why);
    enum hypervisor_end end = vm->has_ending ? vm->ending
        : vm->was_killed                     ? HYPERVISOR_END_KILLED
                                             : vm->found->driver->judge(exit, has_panicked);
    *ret_exit = (struct hypervisor_exit){.end = end, .at_ms = exit->at_ms};
    const char *text = hypervisor_end_text(end);
    join_words(exit->text, words, sizeof(words));
    if (end == HYPERVISOR_END_FAILED && exit->signal != 0) {
        snprintf(ret_exit->text, sizeof(ret_exit->text),
                 "the VMM was killed by signal %d (%s)%.300s", exit->signal,
                 sigdescr_np(exit->signal), words);
    } else if (end == HYPERVISOR_END_FAILED) {
        snprintf(ret_exit->text, sizeof(ret_exit->text), "the VMM ended with status %d%.320s",
                 exit->code, words);
    } else if (end == HYPERVISOR_END_PANIC && why[0] != '\0') {
        snprintf(ret_exit->text, sizeof(ret_exit->text), "%s: %s", text, why);
    } else {
        snprintf(ret_exit->text, sizeof(ret_exit->text), "%s", text);
    }
}

const char *vm_group_of(const char *folder)
{
    const char *slash = strrchr(folder, '/');
    return slash != NULL ? slash + 1 : folder;
}

static void remove_group(void *context)
{
    jail_group_remove(context);
}

/* As its monitor would have done. */
static void end_group(const struct hypervisor_vm *vm)
{
    const char *name = vm_group_of(vm->folder);
    jail_group_kill(name);
    loop_work(vm->hypervisor->loop, remove_group, free, memory_copy_string(name));
}

static void finish(struct hypervisor_vm *vm)
{
    struct launch_exit exit = {0};
    struct hypervisor_exit told = {0};
    struct error err = {0};
    if (vm->again != NULL) {
        loop_timer_stop(vm->again);
    }
    disconnect(vm);
    if (vm->error.kind != ERROR_NONE) {
        told = (struct hypervisor_exit){.end = HYPERVISOR_END_FAILED, .at_ms = clock_real_ms()};
        snprintf(told.text, sizeof(told.text), "%.380s", vm->error.text);
    } else if (launch_read_exit(vm->folder, &exit, &err) == 0) {
        describe(vm, &exit, &told);
        if (vm->is_deaf && exit.signal == SIGKILL) {
            told.end = HYPERVISOR_END_FAILED;
            snprintf(told.text, sizeof(told.text),
                     "the VMM had closed its control socket, and was ended");
        }
    } else {
        end_group(vm);
        told = (struct hypervisor_exit){.end = HYPERVISOR_END_FAILED, .at_ms = clock_real_ms()};
        snprintf(told.text, sizeof(told.text), "the VMM's monitor was killed, and the VMM with it");
    }
    if (!vm->is_freed) {
        vm->events.on_exit(&told, vm->context);
    }
}

/* Nothing is ever said on a watch: it ends. */
static void on_watch(uv_poll_t *poll, int status, int events)
{
    struct hypervisor_vm *vm = poll->data;
    char byte = 0;
    (void)events;
    ssize_t got = status < 0 ? 0 : recv(vm->watch_fd, &byte, 1, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
        return;
    }
    uv_close((uv_handle_t *)&vm->watch, on_watch_closed);
    finish(vm);
}

/* ---- Beginning in the middle ---- */

static void on_ready(bool is_running, void *context);

static void fail_state(struct hypervisor_vm *vm, const struct error *error)
{
    vm->error = *error;
    launch_kill(vm->folder);
}

static void on_state_resumed(const struct error *error, void *context)
{
    struct hypervisor_vm *vm = context;
    if (error != NULL) {
        fail_state(vm, error);
        return;
    }
    vm->is_resuming = false;
    vm->is_ready = true;
    vm->events.on_started(vm->context);
}

static void on_state_read(const struct error *error, void *context)
{
    struct hypervisor_vm *vm = context;
    struct error err = {0};
    MEMORY_OWNED char *used = memory_format("%s.used", vm->state_file);
    if (error != NULL) {
        fail_state(vm, error);
    } else if (vm->uses_state_up && rename(vm->state_file, used) < 0) {
        error_os(&err, errno, "using up %s", vm->state_file);
        fail_state(vm, &err);
    } else {
        hypervisor_resume(vm, on_state_resumed, vm);
    }
}

static void read_state(struct hypervisor_vm *vm)
{
    struct error err = {0};
    int fd = open(vm->state_file, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) {
        error_os(&err, errno, "reading %s", vm->state_file);
        fail_state(vm, &err);
        return;
    }
    hypervisor_load(vm, fd, vm->without_memory, on_state_read, vm);
}

static void on_plugged(const struct error *error, void *context)
{
    struct hypervisor_vm *vm = context;
    plug_free(vm->plug);
    vm->plug = NULL;
    if (error != NULL) {
        fail_state(vm, error);
    } else {
        on_ready(false, vm);
    }
}

static void on_ready(bool is_running, void *context)
{
    struct hypervisor_vm *vm = context;
    if (vm->plug != NULL) {
        plug_all(vm->plug, vm, on_plugged, vm);
        return;
    }
    if (vm->is_resuming) {
        read_state(vm);
        return;
    }
    bool is_again = vm->is_ready;
    vm->is_ready = true;
    vm->events.on_started(vm->context);
    if ((is_again || !is_running) && !vm->is_freed) { /* it may be otherwise by now */
        vm->events.on_paused(!is_running, vm->context);
    }
}

static void on_full(void *context)
{
    struct hypervisor_vm *vm = context;
    vm->is_full = true;
}

static void on_paused(bool is_paused, void *context)
{
    struct hypervisor_vm *vm = context;
    vm->is_full = vm->is_full && is_paused;
    if (vm->is_ready) {
        vm->events.on_paused(is_paused, vm->context);
    }
}

static void on_reboot(void *context)
{
    struct hypervisor_vm *vm = context;
    vm->has_panicked = panic_since(vm->folder, &vm->boot, vm->panic);
    vm->boot = panic_mark_now(vm->folder);
    vm->events.on_reboot(vm->context);
}

const char *hypervisor_panic(const struct hypervisor_vm *vm)
{
    return vm->has_panicked ? vm->panic : NULL;
}

static void on_ending(enum hypervisor_end end, void *context)
{
    struct hypervisor_vm *vm = context;
    vm->has_ending = true;
    vm->ending = end;
}

/* A VMM that says what is no answer is of no use; one that is silent ends, mostly. */
static void on_lost(const struct error *error, void *context)
{
    struct hypervisor_vm *vm = context;
    disconnect(vm);
    if (error->kind != ERROR_UNAVAILABLE) {
        vm->error = *error;
        launch_kill(vm->folder);
    } else if (!vm->is_freed) {
        loop_timer_start(vm->again, AGAIN_MS);
    }
}

/* ---- Connecting ---- */

static const struct driver_events control_events = {on_ready,  on_paused, on_reboot,
                                                    on_ending, on_lost,   on_full};

/* It has not ended: whoever ends is not watched any more. */
static void connect_again(void *context)
{
    struct hypervisor_vm *vm = context;
    struct error ignored = {0};
    uint64_t now_ms = clock_monotonic_ms();
    if (vm->control != NULL || !vm->is_watching) {
        return;
    }
    vm->losses = now_ms - vm->lost_ms < LOSSES_APART_MS ? vm->losses + 1 : 1;
    vm->lost_ms = now_ms;
    if (vm->is_ready && !vm->was_killed && vm->losses <= LOSSES_MAX) {
        vm->control = vm->found->driver->connect(vm->hypervisor->loop, vm->folder, &control_events,
                                                 vm, &ignored);
    }
    if (vm->control == NULL) {
        vm->is_deaf = !vm->was_killed;
        launch_kill(vm->folder);
        loop_timer_start(vm->again, AGAIN_MS);
    }
}

static int watch(struct hypervisor_vm *vm, struct error *err)
{
    static const char word[] = "watch\n";
    FD_OWNED int fd = -1;
    if (launch_connect(vm->folder, LAUNCH_CONSOLE, &fd, err) < 0) {
        return -(int)err->kind;
    }
    if (send(fd, word, sizeof(word) - 1, MSG_NOSIGNAL) != (ssize_t)sizeof(word) - 1) {
        return error_os(err, errno, "watching the monitor");
    }
    vm->watch_fd = fd_take(&fd);
    uv_poll_init(loop_uv(vm->hypervisor->loop), &vm->watch, vm->watch_fd);
    vm->watch.data = vm;
    vm->is_watching = true;
    uv_poll_start(&vm->watch, UV_READABLE, on_watch);
    return 0;
}

/* The watch first: whatever happens to the rest, the end is seen. */
static void connect_all(struct hypervisor_vm *vm)
{
    struct error err = {0};
    if (watch(vm, &err) < 0) {
        finish(vm); /* it has ended: how is written, or nobody knows */
        return;
    }
    vm->control =
        vm->found->driver->connect(vm->hypervisor->loop, vm->folder, &control_events, vm, &err);
    if (vm->control == NULL) {
        launch_kill(vm->folder); /* no control socket: it ends, or has */
    }
}

/* ---- Starting ---- */

/* A group of its own, or that of /dev/kvm, where only this may open it (as Debian has it). */
static gid_t gid_of(const struct hypervisor_vm *vm)
{
    struct stat kvm;
    bool needs_kvm = strcmp(vm->found->info.accelerator, "kvm") == 0;
    bool is_groups = needs_kvm && stat("/dev/kvm", &kvm) == 0 && kvm.st_gid != 0 &&
        (kvm.st_mode & (S_IWGRP | S_IWOTH)) == S_IWGRP;
    return is_groups ? kvm.st_gid : vm->uid;
}

static void start(void *context)
{
    struct hypervisor_vm *vm = context;
    const struct launch_order order = {
        .folder = vm->folder,
        .monitor = vm->hypervisor->monitor,
        .argv = (const char *const *)vm->order.words,
        .sockets = vm->order.sockets,
        .taps = vm->order.taps,
        .vhost = vm->order.vhost,
        .mounts = vm->order.mounts,
        .mount_count = vm->order.mount_count,
        .devices = vm->order.devices,
        .device_count = vm->order.device_count,
        .locked_bytes_max = vm->order.locked_bytes_max,
        .uid = vm->uid,
        .gid = gid_of(vm),
        .network = vm->order.network,
        .limits = vm->limits,
        .shares = vm->order.shares,
        .share_count = vm->order.share_count,
        .share_program = vm->order.share_program,
        .keeps_files = vm->order.keeps_files,
        .has_scratch = vm->order.has_scratch,
        .plan = vm->order.plan,
        .incoming = vm->order.incoming,
        .runner = vm->order.runner.state != NULL ? &vm->order.runner : NULL,
    };
    launch_start(&order, &vm->error);
}

static void on_start(void *context)
{
    struct hypervisor_vm *vm = context;
    vm->is_starting = false;
    if (vm->is_freed) {
        vm_release(vm);
    } else if (vm->error.kind != ERROR_NONE) {
        finish(vm);
    } else {
        if (vm->was_killed) { /* while there was nothing yet that could be */
            launch_kill(vm->folder);
        }
        connect_all(vm);
    }
}

static struct hypervisor_vm *new_vm(struct hypervisor *hypervisor, const struct found *found,
                                    const char *folder, const struct hypervisor_events *events,
                                    void *context)
{
    struct hypervisor_vm *vm = NEW(struct hypervisor_vm);
    vm->hypervisor = hypervisor;
    vm->found = found;
    vm->folder = memory_copy_string(folder);
    vm->events = *events;
    vm->context = context;
    vm->watch_fd = -1;
    vm->again = loop_timer_new(hypervisor->loop, connect_again, vm);
    return vm;
}

/* The guest's memory and what a VMM needs besides: emulation translates into a cache.  It is no
 * budget, but the end of one that leaks, or that a guest has taken over. */
static struct jail_group_limits limits_of(const struct found *found,
                                          const struct hypervisor_spec *spec)
{
    bool is_emulated = strcmp(found->info.accelerator, "tcg") == 0 || spec->runner != NULL;
    /* Who comes from another node while he runs there: where both are on one host, so is the group.
     */
    bool comes_alive = spec->is_incoming && spec->state_file == NULL;
    uint64_t huge_bytes = spec->memory_bytes * (comes_alive ? 2 : 1);
    uint64_t besides = (UINT64_C(512) + (is_emulated ? 1024 : 0)) << 20;
    return (struct jail_group_limits){
        .cpu_percent = spec->cpu_limit_percent,
        .memory_bytes = spec->memory_bytes + spec->memory_bytes / 4 + besides,
        .processes = PROCESSES_MAX,
        .bounds_huge_pages = spec->runner == NULL, /* else it says itself what it takes */
        .huge_2m_bytes = spec->page_bytes == HYPERVISOR_PAGE_2M ? huge_bytes : 0,
        .huge_1g_bytes = spec->page_bytes == HYPERVISOR_PAGE_1G ? huge_bytes : 0,
    };
}

struct hypervisor_vm *hypervisor_start(struct hypervisor *hypervisor,
                                       const struct hypervisor_spec *spec,
                                       const struct hypervisor_events *events, void *context)
{
    const struct found *found = hypervisor_find(hypervisor, spec->driver);
    CHECK(found != NULL && found->info.is_usable);
    struct hypervisor_vm *vm = new_vm(hypervisor, found, spec->folder, events, context);
    vm->uid = geteuid() == 0 ? spec->uid : 0;
    vm->limits = limits_of(found, spec);
    found->driver->make_order(&found->info, found->program, spec, &vm->order);
    vm->boot = panic_mark_now(vm->folder);
    vm->is_starting = true;
    vm->is_resuming = spec->is_incoming && spec->state_file != NULL;
    vm->state_file = vm->is_resuming ? memory_copy_string(spec->state_file) : NULL;
    vm->uses_state_up = spec->uses_state_up;
    vm->without_memory = spec->memory == HYPERVISOR_MEMORY_COPY;
    vm->plug = spec->is_incoming && spec->volume_count > 0 ? plug_new(spec) : NULL;
    loop_work(hypervisor->loop, start, on_start, vm);
    return vm;
}

static void on_attach(void *context)
{
    struct hypervisor_vm *vm = context;
    vm->posts--;
    if (vm->is_freed) {
        vm_release(vm);
    } else {
        connect_all(vm);
    }
}

struct hypervisor_vm *hypervisor_attach(struct hypervisor *hypervisor, const char *driver,
                                        const char *folder, const struct hypervisor_events *events,
                                        void *context)
{
    const struct found *found = hypervisor_find(hypervisor, driver);
    CHECK(found != NULL);
    struct hypervisor_vm *vm = new_vm(hypervisor, found, folder, events, context);
    vm->posts++;
    loop_post(hypervisor->loop, on_attach, vm);
    return vm;
}

/* ---- Ending it ---- */

void hypervisor_kill(struct hypervisor_vm *vm)
{
    vm->was_killed = true;
    launch_kill(vm->folder);
}

void hypervisor_end(const char *folder)
{
    const struct timespec moment = {.tv_nsec = LOOK_NS};
    while (launch_is_alive(folder, NULL, NULL)) {
        launch_kill(folder);
        nanosleep(&moment, NULL);
    }
}
