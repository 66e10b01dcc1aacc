/*
 * A machine that runs: its monitor is watched for the end, its driver's connection for the rest.
 *
 * The order of an end: the connection is lost, or not; then the monitor goes, having written how
 * the VMM ended.  What the driver told before (on_ending) says more than an exit status.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "engine/hypervisor/driver.h"
#include "engine/hypervisor/plug.h"

enum { PROC_BYTES_MAX = 4096, PROCESSES_MAX = 512 };

struct hypervisor_vm {
    struct hypervisor *hypervisor;
    const struct found *found;
    char *folder;
    struct order order;
    struct jail_group_limits limits;
    uid_t uid;
    struct hypervisor_events events;
    void *context;
    struct error error; /* of the start */
    void *control;      /* of the driver; NULL: not connected */
    int watch_fd;
    uv_poll_t watch;
    bool is_watching;
    bool is_ready;
    bool is_starting; /* a thread has it */
    bool is_full;     /* see hypervisor_is_full() */
    bool is_freed;
    bool has_ending;
    bool was_killed;
    bool is_transferring;
    enum hypervisor_end ending;
    unsigned posts;
    hypervisor_done transfer_done;
    void *transfer_context;
    char *state_file; /* it is to begin with, or NULL */
    bool uses_state_up;
    bool is_resuming; /* it does not run yet */
    bool without_memory;
    struct plug *plug; /* volumes that it has before it goes on, or NULL */
};

/* ---- The end ---- */

static void release(struct hypervisor_vm *vm)
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
    release(vm);
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
    disconnect(vm);
    if (vm->is_watching && !uv_is_closing((uv_handle_t *)&vm->watch)) {
        uv_close((uv_handle_t *)&vm->watch, on_watch_closed);
    }
    release(vm);
}

static void describe(const struct hypervisor_vm *vm, const struct launch_exit *exit,
                     struct hypervisor_exit *ret_exit)
{
    enum hypervisor_end end = vm->has_ending ? vm->ending
        : vm->was_killed                     ? HYPERVISOR_END_KILLED
                                             : vm->found->driver->judge(vm->folder, exit);
    *ret_exit = (struct hypervisor_exit){.end = end, .at_ms = exit->at_ms};
    const char *text = hypervisor_end_text(end);
    if (end == HYPERVISOR_END_FAILED && exit->signal != 0) {
        snprintf(ret_exit->text, sizeof(ret_exit->text),
                 "the VMM was killed by signal %d (%s)%s%.300s", exit->signal,
                 sigdescr_np(exit->signal), exit->text[0] != '\0' ? ": " : "", exit->text);
    } else if (end == HYPERVISOR_END_FAILED) {
        snprintf(ret_exit->text, sizeof(ret_exit->text), "the VMM ended with status %d%s%.320s",
                 exit->code, exit->text[0] != '\0' ? ": " : "", exit->text);
    } else {
        snprintf(ret_exit->text, sizeof(ret_exit->text), "%s", text);
    }
}

static const char *group_of(const char *folder)
{
    const char *slash = strrchr(folder, '/');
    return slash != NULL ? slash + 1 : folder;
}

static void finish(struct hypervisor_vm *vm)
{
    struct launch_exit exit = {0};
    struct hypervisor_exit told = {0};
    struct error err = {0};
    disconnect(vm);
    if (vm->error.kind != ERROR_NONE) {
        told = (struct hypervisor_exit){.end = HYPERVISOR_END_FAILED, .at_ms = clock_real_ms()};
        snprintf(told.text, sizeof(told.text), "%.380s", vm->error.text);
    } else if (launch_read_exit(vm->folder, &exit, &err) == 0) {
        describe(vm, &exit, &told);
    } else {
        jail_group_kill(group_of(vm->folder)); /* as its monitor would have done */
        jail_group_remove(group_of(vm->folder));
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
    vm->is_ready = true;
    vm->events.on_started(vm->context);
    if (!is_running && !vm->is_freed) {
        vm->events.on_paused(true, vm->context);
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
    vm->events.on_reboot(vm->context);
}

static void on_ending(enum hypervisor_end end, void *context)
{
    struct hypervisor_vm *vm = context;
    vm->has_ending = true;
    vm->ending = end;
}

/* A VMM that does not speak any more, and has not ended, is of no use. */
static void on_lost(const struct error *error, void *context)
{
    struct hypervisor_vm *vm = context;
    disconnect(vm);
    if (error->kind != ERROR_UNAVAILABLE) {
        vm->error = *error;
        launch_kill(vm->folder);
    }
}

/* ---- Connecting ---- */

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
    static const struct driver_events events = {on_ready,  on_paused, on_reboot,
                                                on_ending, on_lost,   on_full};
    struct error err = {0};
    if (watch(vm, &err) < 0) {
        finish(vm); /* it has ended: how is written, or nobody knows */
        return;
    }
    vm->control = vm->found->driver->connect(vm->hypervisor->loop, vm->folder, &events, vm, &err);
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
        release(vm);
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
    return vm;
}

/* The guest's memory and what a VMM needs besides: emulation translates into a cache.  It is no
 * budget, but the end of one that leaks, or that a guest has taken over. */
static struct jail_group_limits limits_of(const struct found *found,
                                          const struct hypervisor_spec *spec)
{
    bool is_emulated = strcmp(found->info.accelerator, "tcg") == 0 || spec->runner != NULL;
    uint64_t besides = (UINT64_C(512) + (is_emulated ? 1024 : 0)) << 20;
    return (struct jail_group_limits){
        .cpu_percent = spec->cpu_limit_percent,
        .memory_bytes = spec->memory_bytes + spec->memory_bytes / 4 + besides,
        .processes = PROCESSES_MAX,
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
        release(vm);
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

/* ---- Orders to it ---- */

struct refusal {
    struct hypervisor_vm *vm;
    struct error error;
    hypervisor_done done;
    void *context;
};

static void on_refusal(void *argument)
{
    struct refusal *refusal = argument;
    struct hypervisor_vm *vm = refusal->vm;
    vm->posts--;
    if (!vm->is_freed) {
        refusal->done(&refusal->error, refusal->context);
    }
    free(refusal);
    release(vm);
}

static void refuse(struct hypervisor_vm *vm, enum error_kind kind, const char *text,
                   hypervisor_done done, void *context)
{
    struct refusal *refusal = NEW(struct refusal);
    *refusal = (struct refusal){.vm = vm, .done = done, .context = context};
    error_set(&refusal->error, kind, "%s", text);
    vm->posts++;
    loop_post(vm->hypervisor->loop, on_refusal, refusal);
}

static bool is_there(struct hypervisor_vm *vm, hypervisor_done done, void *context)
{
    if (vm->control == NULL) {
        refuse(vm, ERROR_UNAVAILABLE, "the machine does not run", done, context);
    }
    return vm->control != NULL;
}

void hypervisor_pause(struct hypervisor_vm *vm, hypervisor_done done, void *context)
{
    if (is_there(vm, done, context)) {
        vm->found->driver->pause(vm->control, done, context);
    }
}

bool hypervisor_is_full(const struct hypervisor_vm *vm)
{
    return vm->is_full;
}

void hypervisor_resume(struct hypervisor_vm *vm, hypervisor_done done, void *context)
{
    if (is_there(vm, done, context)) {
        vm->found->driver->resume(vm->control, done, context);
    }
}

static bool can(struct hypervisor_vm *vm, bool has, hypervisor_done done, void *context)
{
    char text[96];
    if (!has) {
        snprintf(text, sizeof(text), "the driver %.40s cannot do that", vm->found->info.name);
        refuse(vm, ERROR_UNSUPPORTED, text, done, context);
    }
    return has;
}

void hypervisor_reset(struct hypervisor_vm *vm, hypervisor_done done, void *context)
{
    if (can(vm, vm->found->driver->reset != NULL, done, context) && is_there(vm, done, context)) {
        vm->found->driver->reset(vm->control, done, context);
    }
}

void hypervisor_power_down(struct hypervisor_vm *vm, hypervisor_done done, void *context)
{
    if (is_there(vm, done, context)) {
        vm->found->driver->power_down(vm->control, done, context);
    }
}

void hypervisor_resize_disk(struct hypervisor_vm *vm, size_t index, uint64_t bytes,
                            hypervisor_done done, void *context)
{
    if (can(vm, vm->found->driver->resize_disk != NULL, done, context) &&
        is_there(vm, done, context)) {
        vm->found->driver->resize_disk(vm->control, index, bytes, done, context);
    }
}

void hypervisor_throttle_disk(struct hypervisor_vm *vm, size_t index,
                              const struct hypervisor_rates *rates, hypervisor_done done,
                              void *context)
{
    if (can(vm, vm->found->driver->throttle_disk != NULL, done, context) &&
        is_there(vm, done, context)) {
        vm->found->driver->throttle_disk(vm->control, index, rates, done, context);
    }
}

void hypervisor_kill(struct hypervisor_vm *vm)
{
    vm->was_killed = true;
    launch_kill(vm->folder);
}

void hypervisor_end(const char *folder)
{
    MEMORY_OWNED char *path = memory_format("%s/" LAUNCH_LOCK, folder);
    FD_OWNED int fd = open(path, O_RDONLY | O_CLOEXEC);
    launch_kill(folder);
    while (fd >= 0 && flock(fd, LOCK_SH) < 0 && errno == EINTR) {
    }
}

static void on_transferred(const struct error *error, void *context)
{
    struct hypervisor_vm *vm = context;
    vm->is_transferring = false;
    vm->transfer_done(error, vm->transfer_context);
}

static bool begin_transfer(struct hypervisor_vm *vm, int owned_fd, hypervisor_done done,
                           void *context)
{
    if (vm->is_transferring) {
        refuse(vm, ERROR_CONFLICT, "something else is being done to the machine", done, context);
    } else if (is_there(vm, done, context)) {
        vm->is_transferring = true;
        vm->transfer_done = done;
        vm->transfer_context = context;
        return true;
    }
    if (owned_fd >= 0) {
        close(owned_fd);
    }
    return false;
}

void hypervisor_balloon(struct hypervisor_vm *vm, uint64_t bytes, hypervisor_done done,
                        void *context)
{
    if (begin_transfer(vm, -1, done, context)) {
        vm->found->driver->balloon(vm->control, bytes, on_transferred, vm);
    }
}

/* Memory that is a file of its own is the template's of clones. */
static bool can_transfer(struct hypervisor_vm *vm, int owned_fd, bool without_memory,
                         hypervisor_done done, void *context)
{
    const struct hypervisor_driver_info *info = &vm->found->info;
    bool has = without_memory ? info->can_clone : info->can_snapshot;
    if (!can(vm, has, done, context)) {
        close(owned_fd);
        return false;
    }
    return begin_transfer(vm, owned_fd, done, context);
}

void hypervisor_save(struct hypervisor_vm *vm, int owned_fd, bool without_memory,
                     hypervisor_done done, void *context)
{
    if (without_memory && !can(vm, vm->found->driver->stamp == NULL, done, context)) {
        close(owned_fd);
    } else if (can_transfer(vm, owned_fd, without_memory, done, context)) {
        vm->found->driver->save(vm->control, owned_fd, without_memory, on_transferred, vm);
    }
}

void hypervisor_load(struct hypervisor_vm *vm, int owned_fd, bool without_memory,
                     hypervisor_done done, void *context)
{
    if (can_transfer(vm, owned_fd, without_memory, done, context)) {
        vm->found->driver->load(vm->control, owned_fd, without_memory, on_transferred, vm);
    }
}

/* ---- To another VMM ---- */

void hypervisor_leave(struct hypervisor_vm *vm, const struct hypervisor_leaving *leaving,
                      const struct hypervisor_leaving_events *events, void *context)
{
    if (can(vm, vm->found->info.can_migrate, events->on_end, context) &&
        is_there(vm, events->on_end, context)) {
        vm->found->driver->leave(vm->control, leaving, events, context);
        return;
    }
    for (size_t i = 0; i < leaving->disk_count; i++) {
        close(leaving->disk_fds[i]);
    }
    close(leaving->state_fd);
}

void hypervisor_stay(struct hypervisor_vm *vm, hypervisor_done done, void *context)
{
    if (can(vm, vm->found->info.can_migrate, done, context) && is_there(vm, done, context)) {
        vm->found->driver->stay(vm->control, done, context);
    }
}

void hypervisor_receive(struct hypervisor_vm *vm, const struct hypervisor_moving *disks,
                        size_t disk_count, int disk_listener, int state_fd,
                        const struct hypervisor_receiving_events *events, void *context)
{
    if (can(vm, vm->found->info.can_migrate, events->on_end, context) &&
        is_there(vm, events->on_end, context)) {
        vm->found->driver->receive(vm->control, disks, disk_count, disk_listener, state_fd, events,
                                   context);
        return;
    }
    close(disk_listener);
    close(state_fd);
}

void hypervisor_announce(struct hypervisor_vm *vm)
{
    if (vm->control != NULL && vm->found->driver->announce != NULL) {
        vm->found->driver->announce(vm->control);
    }
}

/* ---- Volumes ---- */

static bool takes_volumes(struct hypervisor_vm *vm, hypervisor_done done, void *context)
{
    if (!vm->found->info.can_hotplug) {
        refuse(vm, ERROR_UNSUPPORTED, "this driver does not know volumes", done, context);
        return false;
    }
    return is_there(vm, done, context);
}

void hypervisor_attach_volume(struct hypervisor_vm *vm, const struct hypervisor_volume *volume,
                              hypervisor_done done, void *context)
{
    if (takes_volumes(vm, done, context)) {
        vm->found->driver->attach_volume(vm->control, volume, done, context);
    }
}

void hypervisor_detach_volume(struct hypervisor_vm *vm, const char *id, const char *const *layers,
                              size_t layer_count, hypervisor_done done, void *context)
{
    if (takes_volumes(vm, done, context)) {
        vm->found->driver->detach_volume(vm->control, id, layers, layer_count, done, context);
    }
}

void hypervisor_resize_volume(struct hypervisor_vm *vm, const char *id, uint64_t bytes,
                              hypervisor_done done, void *context)
{
    if (takes_volumes(vm, done, context)) {
        vm->found->driver->resize_volume(vm->control, id, bytes, done, context);
    }
}

void hypervisor_throttle_volume(struct hypervisor_vm *vm, const char *id,
                                const struct hypervisor_rates *rates, hypervisor_done done,
                                void *context)
{
    if (takes_volumes(vm, done, context)) {
        vm->found->driver->throttle_volume(vm->control, id, rates, done, context);
    }
}

void hypervisor_lay_over(struct hypervisor_vm *vm, const char *id, const char *below,
                         const struct hypervisor_layer *layer, hypervisor_done done, void *context)
{
    if (takes_volumes(vm, done, context)) {
        vm->found->driver->lay_over(vm->control, id, below, layer, done, context);
    }
}

/* ---- Looking at it from outside ---- */

static uint64_t value_of(const char *text, const char *name)
{
    const char *at = strstr(text, name);
    return at != NULL ? strtoull(at + strlen(name), NULL, 10) : 0;
}

static void read_io(pid_t pid, struct hypervisor_usage *usage)
{
    BUFFER_OWNED struct buffer text = {0};
    struct error err = {0};
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/io", pid);
    if (file_read(path, PROC_BYTES_MAX, &text, &err) == 0) {
        usage->read_bytes = value_of(buffer_string(&text), "\nread_bytes: ");
        usage->write_bytes = value_of(buffer_string(&text), "\nwrite_bytes: ");
    }
}

bool hypervisor_is_alive(const char *folder)
{
    return launch_is_alive(folder, NULL, NULL);
}

/* /proc/PID/stat (proc(5)): fields 14, 15 and 24, behind the name, which may hold anything. */
bool hypervisor_read_limited(const char *folder, struct hypervisor_limited *ret_limited)
{
    struct jail_group_usage usage;
    if (!jail_group_read(group_of(folder), &usage)) {
        return false;
    }
    *ret_limited =
        (struct hypervisor_limited){usage.throttled_ms, usage.memory_bytes, usage.memory_bytes_max};
    return true;
}

bool hypervisor_read_usage(const char *folder, struct hypervisor_usage *ret_usage)
{
    BUFFER_OWNED struct buffer text = {0};
    struct error err = {0};
    char path[64];
    pid_t pid = 0;
    unsigned long long user = 0;
    unsigned long long system = 0;
    long long pages = 0;
    if (!launch_is_alive(folder, NULL, &pid) || pid <= 0) {
        return false;
    }
    snprintf(path, sizeof(path), "/proc/%d/stat", pid);
    if (file_read(path, PROC_BYTES_MAX, &text, &err) < 0) {
        return false;
    }
    const char *rest = strrchr(buffer_string(&text), ')');
    if (rest == NULL ||
        sscanf(rest,
               ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu %*d %*d %*d %*d %*d %*d "
               "%*u %*u %lld",
               &user, &system, &pages) != 3) {
        return false;
    }
    uint64_t ticks = (uint64_t)sysconf(_SC_CLK_TCK);
    *ret_usage = (struct hypervisor_usage){
        .cpu_user_ms = user * 1000 / ticks,
        .cpu_system_ms = system * 1000 / ticks,
        .memory_bytes = (uint64_t)pages * (uint64_t)sysconf(_SC_PAGESIZE),
        .pid = pid,
    };
    read_io(pid, ret_usage);
    return true;
}

int hypervisor_console(const char *folder, size_t history, int *ret_fd, struct error *err)
{
    char line[32];
    FD_OWNED int fd = -1;
    int length = snprintf(line, sizeof(line), "attach %zu\n", history);
    if (launch_connect(folder, LAUNCH_CONSOLE, &fd, err) < 0) {
        return error_set(err, ERROR_UNAVAILABLE, "the machine does not run: it has no console");
    }
    if (send(fd, line, (size_t)length, MSG_NOSIGNAL) != length) {
        return error_os(err, errno, "attaching to the console");
    }
    *ret_fd = fd_take(&fd);
    return 0;
}

int hypervisor_console_log(const char *folder, size_t max, struct buffer *out, struct error *err)
{
    static const char *const names[] = {"console.log.1", "console.log"};
    size_t before = out->used;
    for (size_t i = 0; i < 2; i++) {
        MEMORY_OWNED char *path = memory_format("%s/%s", folder, names[i]);
        struct error missing = {0};
        if (file_exists(path) && file_read(path, SIZE_MAX / 4, out, &missing) < 0 &&
            missing.kind != ERROR_NOT_FOUND) {
            *err = missing;
            return -(int)err->kind;
        }
    }
    if (out->used - before > max) {
        size_t extra = out->used - before - max;
        memmove(out->data + before, out->data + before + extra, max);
        out->used = before + max;
    }
    return 0;
}
