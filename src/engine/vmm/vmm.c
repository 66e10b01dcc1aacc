/* The door: dispatch to a back end, and finding out what this machine can do. */
#include "engine/vmm/vmm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/memory.h"

#include "engine/vmm/private.h"

const char *vmm_isolation_text(enum vmm_isolation isolation)
{
    return isolation == VMM_ISOLATION_MICROVM ? "microvm" : "process";
}

int vmm_open(const struct vmm_options *options, struct vmm **ret_vmm, struct error *err)
{
    const struct backend *backend =
        options->isolation == VMM_ISOLATION_MICROVM ? &backend_microvm : &backend_process;
    struct vmm *vmm = NEW(struct vmm);
    vmm->isolation = options->isolation;
    vmm->backend = backend;
    vmm->begins_late = options->begins_late;
    int r = vmm->backend->open(vmm, options, err);
    if (r < 0) {
        free(vmm);
        return r;
    }
    *ret_vmm = vmm;
    return 0;
}

void vmm_close(struct vmm *vmm)
{
    if (vmm != NULL) {
        vmm->backend->close(vmm);
        free(vmm);
    }
}

enum vmm_isolation vmm_isolation(const struct vmm *vmm)
{
    return vmm->isolation;
}

/* A pool's shells fit functions with the usual memory limit. */
static const uint64_t POOL_MEMORY_BYTES = MIB(128);

int vmm_shell_new(struct vmm *vmm, uint64_t class_bytes, struct vmm_shell **ret_shell,
                  struct error *err)
{
    struct size_class class;
    bool is_for_pool = class_bytes == 0;
    bool found = is_for_pool ? class_for(0, 0, POOL_MEMORY_BYTES, &class)
                             : class_from_total(class_bytes, &class);
    if (!found) {
        return error_set(err, ERROR_INVALID, "no function VM has %llu bytes",
                         (unsigned long long)class_bytes);
    }
    struct vmm_shell *shell = NULL;
    int r = vmm->backend->shell_new(vmm, &class, &shell, err);
    if (r == 0 && is_for_pool) {
        r = vmm->backend->attach(shell, NULL, err);
        if (r < 0) {
            vmm->backend->shell_free(shell);
        }
    }
    if (r < 0) {
        return r;
    }
    *ret_shell = shell;
    return 0;
}

void vmm_shell_free(struct vmm_shell *shell)
{
    if (shell != NULL) {
        struct vmm_image *image = shell->image;
        shell->vmm->backend->shell_free(shell);
        vmm_image_unref(image);
    }
}

bool vmm_shell_fits(const struct vmm_shell *shell, const struct vmm_image *image)
{
    for (int window = 0; window < WINDOW_COUNT; window++) {
        if (image->class.bytes[window] > shell->class.bytes[window]) {
            return false;
        }
    }
    return true;
}

int vmm_shell_attach(struct vmm_shell *shell, struct vmm_image *image, struct error *err)
{
    CHECK(image == NULL || vmm_shell_fits(shell, image));

    struct vmm_image *before = shell->image;
    int r = shell->vmm->backend->attach(shell, image, err);
    shell->image = r == 0 && image != NULL ? vmm_image_ref(image) : NULL;
    shell->fresh = r == 0;
    vmm_image_unref(before);
    return r;
}

void vmm_shell_run(struct vmm_shell *shell, const struct vmm_call *call,
                   struct vmm_outcome *ret_outcome)
{
    CHECK(shell->image != NULL);
    CHECK(shell->fresh);

    *ret_outcome = (struct vmm_outcome){0};
    struct call_state state = {
        .call = call, .limits = &shell->image->limits, .outcome = ret_outcome};
    shell->fresh = false;
    shell->vmm->backend->run(shell, &state);
    call_done(&state);
}

int vmm_shell_reset(struct vmm_shell *shell, uint64_t *ret_pages, struct error *err)
{
    CHECK(shell->image != NULL);

    uint64_t pages = 0;
    int r = shell->vmm->backend->reset(shell, &pages, err);
    shell->fresh = r == 0;
    if (ret_pages != NULL) {
        *ret_pages = pages;
    }
    return r;
}

bool vmm_shell_keep(struct vmm_shell *shell)
{
    const struct backend *backend = shell->vmm->backend;
    CHECK(shell->image != NULL && !shell->fresh);
    if (backend->keep == NULL) {
        return false;
    }
    backend->keep(shell);
    shell->fresh = true;
    return true;
}

int vmm_shell_rest(struct vmm_shell *shell, struct error *err)
{
    const struct backend *backend = shell->vmm->backend;
    CHECK(shell->image != NULL && shell->fresh);
    return backend->rest != NULL ? backend->rest(shell, err) : 0;
}

void vmm_shell_interrupt(struct vmm_shell *shell)
{
    shell->vmm->backend->interrupt(shell);
}

/* ---- Probing ---- */

static bool cpu_has_virtualisation(void)
{
    struct error err = {0};
    BUFFER_OWNED struct buffer text = {0};
    if (file_read("/proc/cpuinfo", 4 << 20, &text, &err) < 0) {
        return false;
    }
    const char *all = buffer_string(&text);
    return strstr(all, " vmx") != NULL || strstr(all, " svm") != NULL;
}

static bool kernel_has_pagemap_scan(void)
{
    FD_OWNED int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    uint64_t request[12] = {sizeof(request)}; /* an empty range: succeeds where it is known */
    return fd >= 0 && ioctl(fd, _IOWR('f', 16, uint64_t[12]), request) >= 0;
}

void vmm_probe(struct vmm_probe *ret_probe)
{
    struct vmm_probe probe = {
        .kvm_exists = file_exists("/dev/kvm"),
        .pagemap_scan = kernel_has_pagemap_scan(),
    };
    FD_OWNED int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    probe.kvm_accessible = fd >= 0;
    if (!probe.kvm_exists) {
        snprintf(probe.kvm_reason, sizeof(probe.kvm_reason), "there is no /dev/kvm");
    } else if (fd < 0) {
        snprintf(probe.kvm_reason, sizeof(probe.kvm_reason), "/dev/kvm: %s",
                 strerrordesc_np(errno));
    } else {
        struct error err = {0};
        struct vmm *vmm = NULL;
        struct vmm_options options = {.isolation = VMM_ISOLATION_MICROVM, .kvm_fd = fd};
        probe.kvm_usable = vmm_open(&options, &vmm, &err) == 0;
        snprintf(probe.kvm_reason, sizeof(probe.kvm_reason), "%.255s", err.text);
        vmm_close(vmm);
        probe.kvm_paravirtual = probe.kvm_usable && !cpu_has_virtualisation();
    }
    *ret_probe = probe;
}
