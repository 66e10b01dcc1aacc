/* See rest_vmm.h. */
#include "engine/hypervisor/rest_vmm.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/process.h"

enum { VERSION_BYTES = 4096, ASK_MS_MAX = 10000, SOCKET_PATH_MAX = 107 };

/* ---- Finding it ---- */

/* "Firecracker v1.7.0", "cloud-hypervisor v41.0.0". */
static void ask_version(const char *program, char *ret_version, size_t size)
{
    struct error err = {0};
    struct process_result result = {0};
    BUFFER_OWNED struct buffer out = {0};
    const char *argv[] = {program, "--version", NULL};
    const struct process_options options = {
        .argv = argv, .output_max = VERSION_BYTES, .timeout_ms = ASK_MS_MAX};
    if (process_run(&options, &out, NULL, &result, &err) < 0 || result.exit_code != 0) {
        return;
    }
    const char *at = strstr(buffer_string(&out), " v");
    snprintf(ret_version, size, "%.*s", at != NULL ? (int)strcspn(at + 2, " \n") : 0,
             at != NULL ? at + 2 : "");
}

void rest_vmm_probe(const char *program, const struct hypervisor_options *options,
                    struct hypervisor_driver_info *info, char **ret_program)
{
    *ret_program = file_find_program(program);
    if (*ret_program == NULL) {
        snprintf(info->problem, sizeof(info->problem), "there is no %s in PATH", program);
        return;
    }
    ask_version(*ret_program, info->version, sizeof(info->version));
    if (info->version[0] == '\0') {
        snprintf(info->problem, sizeof(info->problem), "%.200s does not say its version",
                 *ret_program);
    } else if (!options->kvm_boots_linux) {
        snprintf(info->problem, sizeof(info->problem), "no KVM that Linux boots on: %.200s",
                 options->kvm_reason);
    } else {
        info->is_usable = true;
        snprintf(info->accelerator, sizeof(info->accelerator), "kvm");
    }
}

/* ---- What it is given ---- */

int rest_vmm_check(const struct hypervisor_driver_info *info, const struct hypervisor_spec *spec,
                   struct error *err)
{
    size_t path = strlen(spec->folder) + strlen("/" LAUNCH_SCRATCH "/" HYPERVISOR_AGENT_SOCKET);
    if (path > SOCKET_PATH_MAX) {
        return error_set(err, ERROR_INVALID,
                         "the data folder's path is too long for a socket in it: %.200s",
                         spec->folder);
    }
    if (spec->memory != HYPERVISOR_MEMORY_OWN) {
        return error_set(err, ERROR_UNSUPPORTED, "%s has no memory that clones share", info->name);
    }
    for (size_t i = 0; i < spec->nic_count; i++) {
        if (spec->nics[i].tap == NULL) {
            return error_set(err, ERROR_UNSUPPORTED,
                             "%s has no user-mode network: the machine has to be on a network of "
                             "the cluster's (blixard network create, --network)",
                             info->name);
        }
    }
    for (size_t i = 0; i < spec->disk_count; i++) {
        if (strcmp(spec->disks[i].format, "raw") != 0) {
            return error_set(err, ERROR_UNSUPPORTED, "%s takes raw disks, and \"%s\" is %s",
                             info->name, spec->disks[i].serial, spec->disks[i].format);
        }
    }
    return 0;
}

char *rest_vmm_begin_order(const char *program, const struct hypervisor_spec *spec,
                           struct order *order)
{
    static const char *const places[] = {"/usr", "/lib", "/lib64", "/etc/ld.so.cache",
                                         "/nix/store"};
    char *scratch = memory_format("%s/" LAUNCH_SCRATCH, spec->folder);
    order_add(order, program);
    for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
        order_add_mount(order, places[i], false);
    }
    order_add_mount(order, program, false);
    order_add_mount(order, "/dev/kvm", true);
    order_add_mount(order, scratch, true);
    order_add_mount(order, spec->kernel, false);
    if (spec->initrd != NULL) {
        order_add_mount(order, spec->initrd, false);
    }
    for (size_t i = 0; i < spec->disk_count; i++) {
        order_add_mount(order, spec->disks[i].path, !spec->disks[i].read_only);
    }
    if (spec->nic_count > 0) {
        order_add_mount(order, "/dev/net/tun", true);
    }
    order->network = spec->nic_count > 0;
    order->has_scratch = true;
    return scratch;
}

/* ---- Control ---- */

struct rest_vmm *rest_vmm_open(struct loop *loop, const char *folder,
                               const struct rest_dialect *dialect,
                               const struct driver_events *events, void *context, struct error *err)
{
    struct rest *rest = rest_open(loop, folder, dialect, events, context, err);
    if (rest == NULL) {
        return NULL;
    }
    struct rest_vmm *vmm = NEW(struct rest_vmm);
    vmm->rest = rest;
    vmm->fd = -1;
    return vmm;
}

void rest_vmm_close(void *argument)
{
    struct rest_vmm *vmm = argument;
    rest_close(vmm->rest);
    fd_close_slot(&vmm->fd);
    free(vmm);
}

void rest_vmm_begin(struct rest_vmm *vmm, int owned_fd, hypervisor_done done, void *context)
{
    CHECK(!vmm->is_busy);
    vmm->is_busy = true;
    vmm->fd = owned_fd;
    vmm->done = done;
    vmm->context = context;
}

int rest_vmm_take_fd(struct rest_vmm *vmm)
{
    return fd_take(&vmm->fd);
}

void rest_vmm_done(struct rest_vmm *vmm, const struct error *error)
{
    vmm->is_busy = false;
    fd_close_slot(&vmm->fd);
    vmm->done(error, vmm->context);
}

void rest_vmm_finish(const struct error *error, void *vmm)
{
    rest_vmm_done(vmm, error);
}
