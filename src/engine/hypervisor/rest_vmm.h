/* What the drivers of VMMs with an HTTP API share beyond HTTP: see rest.h. */
#ifndef ENGINE_HYPERVISOR_REST_VMM_H
#define ENGINE_HYPERVISOR_REST_VMM_H

#include "engine/hypervisor/rest.h"

/* Its program in PATH, and whether Linux boots under KVM here: these VMMs emulate no processor. */
void rest_vmm_probe(const char *program, const struct hypervisor_options *options,
                    struct hypervisor_driver_info *info, char **ret_program);

/* UNSUPPORTED: a user-mode network, a disk that is not raw, memory that others are to share, or
 * (where it cannot: info.can_clone) share; INVALID: a path that is too long for a socket. */
int rest_vmm_check(const struct hypervisor_driver_info *info, const struct hypervisor_spec *spec,
                   struct error *err);

/* The machine as its VMM sees it: its files have places of their own in there, so that what it
 * saves can be read by another VMM, of another folder and on another node. */
#define REST_VMM_PLACE   "/machine"
#define REST_VMM_SCRATCH REST_VMM_PLACE "/" LAUNCH_SCRATCH
#define REST_VMM_MEMORY  REST_VMM_PLACE "/memory"
struct rest_vmm_seen {
    struct hypervisor_spec spec;
    struct hypervisor_disk disks[HYPERVISOR_DISKS_MAX];
    char paths[HYPERVISOR_DISKS_MAX][sizeof(REST_VMM_PLACE) + 16];
};
/* The first word of a command line, and what the VMM is to see; the texts of *ret_seen are the
 * spec's. */
void rest_vmm_begin_order(const char *program, const struct hypervisor_spec *spec,
                          struct order *order, struct rest_vmm_seen *ret_seen);

/* The cells of a guest as {"id": "cell0", "host_numa_node": N}: which node of the host its memory
 * is bound to, where that is one and has room for it. */
json_t *rest_vmm_describe_cells(const struct hypervisor_spec *spec);

/* ---- A driver's control of one VMM ---- */

struct rest_vmm_order {
    const char *method;
    const char *path;
    const char *body; /* JSON; NULL: none */
};

/* What one of these VMMs is told, and how. */
struct rest_vmm_dialect {
    struct rest_dialect rest;
    struct rest_vmm_order pause;
    struct rest_vmm_order resume;
    struct rest_vmm_order reset;
    struct rest_vmm_order power_down;

    /* The balloon's size is what the guest does without. */
    const char *size_path;
    uint64_t (*read_size)(const json_t *answer); /* the machine's memory, bytes */
    struct rest_vmm_order balloon;               /* its body: */
    json_t *(*make_balloon)(uint64_t bytes);

    /* A state is written into files of the scratch folder, and read from there. */
    const char *const *state_files;
    const char *const *small_files; /* without the memory, where that is a file that many share */
    struct rest_vmm_order save;
    struct rest_vmm_order load;
    json_t *(*make_save)(const char *scratch);
    /* `incoming` (NULL: of an older daemon): {"memory": its place or none, "taps": of its
     * interfaces in their order, "cells": as rest_vmm_describe_cells()}. */
    json_t *(*make_load)(const char *scratch, const json_t *incoming);
    rest_prepare *prepare; /* the files that are to be read; may be NULL */
};

struct rest_vmm *rest_vmm_open(struct loop *loop, const char *folder,
                               const struct rest_vmm_dialect *dialect,
                               const struct driver_events *events, void *context,
                               struct error *err);

/* Rows of a struct driver; `vmm` is a struct rest_vmm. */
void rest_vmm_close(void *vmm);
void rest_vmm_pause(void *vmm, hypervisor_done done, void *context);
void rest_vmm_resume(void *vmm, hypervisor_done done, void *context);
void rest_vmm_reset(void *vmm, hypervisor_done done, void *context);
void rest_vmm_power_down(void *vmm, hypervisor_done done, void *context);
/* Put what a disk may do, as token buckets of a second, into its description as `key`. */
void rest_vmm_add_rates(json_t *disk, const char *key, const struct hypervisor_rates *rates);

void rest_vmm_balloon(void *vmm, uint64_t bytes, hypervisor_done done, void *context);
/* Reading without memory: that is a template's file, which the machine was started with. */
void rest_vmm_save(void *vmm, int owned_fd, bool without_memory, hypervisor_done done,
                   void *context);
void rest_vmm_load(void *vmm, int owned_fd, bool without_memory, hypervisor_done done,
                   void *context);

#endif
