/* What the drivers of VMMs with an HTTP API share beyond HTTP: see rest.h. */
#ifndef ENGINE_HYPERVISOR_REST_VMM_H
#define ENGINE_HYPERVISOR_REST_VMM_H

#include "engine/hypervisor/rest.h"

/* Its program in PATH, and whether Linux boots under KVM here: these VMMs emulate no processor. */
void rest_vmm_probe(const char *program, const struct hypervisor_options *options,
                    struct hypervisor_driver_info *info, char **ret_program);

/* UNSUPPORTED: a user-mode network, a disk that is not raw, memory from a template; INVALID: a path
 * that is too long for a socket. */
int rest_vmm_check(const struct hypervisor_driver_info *info, const struct hypervisor_spec *spec,
                   struct error *err);

/* The first word of a command line, and what the VMM is to see; returns its scratch folder, the
 * caller's. */
char *rest_vmm_begin_order(const char *program, const struct hypervisor_spec *spec,
                           struct order *order);

/* ---- A driver's control: one VMM, and the one thing that takes several requests ---- */

struct rest_vmm {
    struct rest *rest;
    bool is_busy;
    int fd;
    uint64_t balloon_bytes;
    hypervisor_done done;
    void *context;
};

struct rest_vmm *rest_vmm_open(struct loop *loop, const char *folder,
                               const struct rest_dialect *dialect,
                               const struct driver_events *events, void *context,
                               struct error *err);
void rest_vmm_close(void *vmm);

/* `owned_fd` may be -1.  Nothing else is under way: vm.c sees to that. */
void rest_vmm_begin(struct rest_vmm *vmm, int owned_fd, hypervisor_done done, void *context);
int rest_vmm_take_fd(struct rest_vmm *vmm);
void rest_vmm_done(struct rest_vmm *vmm, const struct error *error);
/* The same as a hypervisor_done. */
void rest_vmm_finish(const struct error *error, void *vmm);

#endif
