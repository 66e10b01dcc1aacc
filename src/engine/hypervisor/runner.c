/*
 * The runner driver: a machine is a program that becomes its VMM, as microvm.nix makes them.
 *
 * Which VMM that is, and how it is spoken to, is the program's affair: it is started, asked to end
 * by a program of its own, and killed.  It is confined as the other VMMs are (user, empty root,
 * control group), but for the network: it opens its taps by their names, and has the user-mode
 * network where it brings one.  It may write in one folder, where it makes its volumes and its
 * sockets, and finds those of its shares.
 */
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "base/error.h"
#include "base/file.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "engine/hypervisor/driver.h"
#include "engine/hypervisor/share.h"

/* ---- Finding it ---- */

static void probe(const struct hypervisor_options *options, struct hypervisor_driver_info *info,
                  char **ret_program)
{
    const char *folders = options->runner_folders != NULL ? options->runner_folders : "";
    *ret_program = NULL;
    info->needs_runner = true;
    info->has_user_network = true;
    info->can_vsock = file_exists("/dev/vhost-vsock");
    info->can_pass_devices = true;
    info->can_share = false; /* by its own list, not by --share */
    snprintf(info->share_problem, sizeof(info->share_problem), "a runner brings its own");
    snprintf(info->accelerator, sizeof(info->accelerator), "%s",
             options->kvm_boots_linux ? "kvm" : "tcg");
    if (folders[0] == '\0') {
        snprintf(info->problem, sizeof(info->problem),
                 "the option machine_runner_folders names no folder (on NixOS: /nix/store)");
        return;
    }
    info->is_usable = true;
    snprintf(info->problem, sizeof(info->problem), "%s%.200s",
             options->kvm_boots_linux ? "" : "no KVM that Linux boots on: ",
             options->kvm_boots_linux ? "" : options->kvm_reason);
}

/* Its command line names its devices: it has no use for others, nor do they come by themselves. */
static int check_passed(const struct hypervisor_spec *spec, struct error *err)
{
    const struct hypervisor_runner *runner = spec->runner;
    for (size_t i = 0; i < runner->device_count; i++) {
        bool has = false;
        for (size_t k = 0; k < spec->device_count; k++) {
            has = has || strcmp(spec->devices[k].address, runner->devices[i]) == 0;
        }
        if (!has) {
            return error_set(err, ERROR_INVALID,
                             "its runner passes the PCI device %s on, which it is to ask for "
                             "(--device %s)",
                             runner->devices[i], runner->devices[i]);
        }
    }
    return runner->device_count > 0 || spec->device_count == 0
        ? 0
        : error_set(err, ERROR_INVALID, "devices: its runner passes none on (microvm.devices)");
}

static int check(const struct hypervisor_driver_info *info, const struct hypervisor_spec *spec,
                 struct error *err)
{
    const struct hypervisor_runner *runner = spec->runner;
    size_t taps = 0;
    (void)info;
    if (runner == NULL) {
        return error_set(err, ERROR_INVALID, "the driver runner is for machines with a runner");
    }
    if (spec->is_incoming || spec->memory != HYPERVISOR_MEMORY_OWN) {
        return error_set(err, ERROR_UNSUPPORTED,
                         "a runner begins by booting: its memory is not kept or moved");
    }
    if (check_passed(spec, err) < 0) {
        return -(int)err->kind;
    }
    for (size_t i = 0; i < spec->nic_count; i++) {
        taps += spec->nics[i].tap != NULL;
    }
    if (taps != runner->tap_count) {
        return error_set(err, ERROR_INVALID,
                         "its runner opens %zu tap%s, and it is in %zu network%s: it has to be in "
                         "one for each (--network NETWORK,mac=M, in the order of the taps)",
                         runner->tap_count, runner->tap_count == 1 ? "" : "s", taps,
                         taps == 1 ? "" : "s");
    }
    if (runner->vsock_cid != 0 && !info->can_vsock) {
        return error_set(err, ERROR_UNSUPPORTED,
                         "its runner has a vsock, and this node no /dev/vhost-vsock");
    }
    MEMORY_OWNED char *program = runner->share_count > 0 ? share_find_program() : NULL;
    return runner->share_count == 0 || program != NULL
        ? 0
        : error_set(err, ERROR_UNSUPPORTED,
                    "its runner has shares, and this node no virtiofsd (Debian: qemu-system-common "
                    "or virtiofsd)");
}

/* ---- Starting ---- */

/* What many share is nobody's to write. */
static bool is_of_store(const struct hypervisor_runner *runner, const char *path)
{
    size_t length = strlen(runner->folder);
    return strcmp(path, "/nix/store") == 0 ||
        (strncmp(path, runner->folder, length) == 0 &&
         (path[length] == '\0' || path[length] == '/'));
}

/* What its script and its VMM are made of. */
static void add_mounts(const struct hypervisor_runner *runner, const char *state,
                       struct order *order)
{
    static const char *const programs[] = {
        "/usr", "/bin", "/lib", "/lib64", "/etc/ld.so.cache", "/nix/store", "/run/current-system"};
    for (size_t i = 0; i < sizeof(programs) / sizeof(programs[0]); i++) {
        order_add_mount(order, programs[i], false);
    }
    order_add_mount(order, runner->folder, false);
    order_add_mount(order, state, true);
}

/* Which its VMM opens itself: no more than it has a use for. */
static void add_devices(const struct hypervisor_runner *runner, struct order *order)
{
    order_add_device(order, "/dev/kvm");
    if (runner->tap_count > 0) {
        order_add_device(order, "/dev/net/tun");
    }
    if (runner->tap_count > 0 || runner->macvtap_count > 0) {
        order_add_device(order, "/dev/vhost-net");
    }
    if (runner->vsock_cid != 0) {
        order_add_device(order, "/dev/vhost-vsock");
    }
}

static void make_order(const struct hypervisor_driver_info *info, const char *program,
                       const struct hypervisor_spec *spec, struct order *order)
{
    const struct hypervisor_runner *runner = spec->runner;
    MEMORY_OWNED char *state = memory_format("%s/" HYPERVISOR_RUNNER_STATE, spec->folder);
    (void)info;
    (void)program;
    order_add(order, runner->run);
    order->network = true;
    add_mounts(runner, state, order);
    order->runner = (struct launch_runner){
        .state = memory_copy_string(state),
        .shut_down = memory_copy_string(runner->shut_down),
        .file_bytes_max = spec->runner_file_bytes_max,
        .has_queues = runner->has_queues,
    };
    add_devices(runner, order);
    order_add_passed(order, spec);
    for (size_t i = 0; i < runner->tap_count; i++) {
        CHECK(i < spec->nic_count && spec->nics[i].tap != NULL);
        order->runner.taps[order->runner.tap_count++] = (struct launch_tap){
            memory_copy_string(spec->nics[i].tap), memory_copy_string(runner->taps[i])};
    }
    for (size_t i = 0; i < runner->macvtap_count; i++) {
        order->runner.macvtaps[order->runner.macvtap_count++] = runner->macvtaps[i];
    }
    order->runner.queue_count = runner->has_queues ? spec->cpus : 1;
    for (size_t i = 0; i < runner->share_count; i++) {
        order->shares[order->share_count++] =
            (struct launch_share){.path = memory_copy_string(runner->shares[i].source),
                                  .tag = memory_format("share%zu", i),
                                  .read_only = is_of_store(runner, runner->shares[i].source),
                                  .socket = memory_copy_string(runner->shares[i].socket)};
    }
    order->share_program = runner->share_count > 0 ? share_find_program() : NULL;
}

static enum hypervisor_end judge(const struct launch_exit *exit, bool has_panicked)
{
    (void)has_panicked;
    return exit->signal == 0 && exit->code == 0 ? HYPERVISOR_END_SHUTDOWN : HYPERVISOR_END_FAILED;
}

/* ---- Control: there is none but its monitor ---- */

struct control {
    struct loop *loop;
    char *folder;
    const struct driver_events *events;
    void *context;
    unsigned posts;
    bool is_closed;
};

struct answer {
    struct control *control;
    struct error error;
    hypervisor_done done;
    void *context;
};

static void release(struct control *control)
{
    if (control->is_closed && control->posts == 0) {
        free(control->folder);
        free(control);
    }
}

static void on_connected(void *context)
{
    struct control *control = context;
    control->posts--;
    if (!control->is_closed) {
        control->events->on_ready(true, control->context);
    }
    release(control);
}

static void *connect_control(struct loop *loop, const char *folder,
                             const struct driver_events *events, void *context, struct error *err)
{
    struct control *control = NEW(struct control);
    (void)err;
    *control = (struct control){.loop = loop,
                                .folder = memory_copy_string(folder),
                                .events = events,
                                .context = context,
                                .posts = 1};
    loop_post(loop, on_connected, control);
    return control;
}

static void disconnect(void *argument)
{
    struct control *control = argument;
    control->is_closed = true;
    release(control);
}

static void on_answer(void *context)
{
    struct answer *answer = context;
    struct control *control = answer->control;
    control->posts--;
    if (!control->is_closed && answer->done != NULL) {
        answer->done(answer->error.kind != ERROR_NONE ? &answer->error : NULL, answer->context);
    }
    free(answer);
    release(control);
}

static void answer_later(struct control *control, const struct error *error, hypervisor_done done,
                         void *context)
{
    struct answer *answer = NEW(struct answer);
    *answer =
        (struct answer){.control = control, .error = *error, .done = done, .context = context};
    control->posts++;
    loop_post(control->loop, on_answer, answer);
}

static void refuse_pause(void *argument, hypervisor_done done, void *context)
{
    struct error error = {0};
    error_set(&error, ERROR_UNSUPPORTED, "a runner's VMM is not told to stand still");
    answer_later(argument, &error, done, context);
}

static void power_down(void *argument, hypervisor_done done, void *context)
{
    struct control *control = argument;
    struct error error = {0};
    launch_shut_down(control->folder, &error);
    answer_later(control, &error, done, context);
}

const struct driver driver_runner = {
    .name = "runner",
    .probe = probe,
    .check = check,
    .make_order = make_order,
    .judge = judge,
    .connect = connect_control,
    .disconnect = disconnect,
    .pause = refuse_pause,
    .resume = refuse_pause,
    .power_down = power_down,
};
