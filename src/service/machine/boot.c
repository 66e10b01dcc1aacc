/*
 * From a machine's settings to its VMM: what that is made of (the image, the machine's own disk,
 * what it goes on from), and the ways it is begun: to run, to wait for a state of another node, and
 * not to run at all, for a template.
 */
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"

#include "engine/hypervisor/template.h"
#include "engine/image/image.h"

#include "service/machine/capture.h"
#include "service/machine/content.h"
#include "service/machine/devices.h"
#include "service/machine/kept.h"
#include "service/machine/parts.h"
#include "service/machine/volumes.h"

/* ---- What it is made of ---- */

struct parts {
    char *kernel;
    char *initrd;
    char *root;
    char *disk;
    char *base; /* that it is laid over */
    char *state;
    char *memory;
    char cmdline[1000]; /* hypervisor_check(): below 1024 */
    char *seed;
    char *variables;
    char *firmware;
    struct hypervisor_disk disks[3];
    struct hypervisor_cell cells[HYPERVISOR_CELLS_MAX];
    size_t own; /* which of them the machine writes in */
    struct nics nics;
    struct machine_devices devices;
    struct error error;
};

static void parts_done(struct parts *parts)
{
    free(parts->kernel);
    free(parts->initrd);
    free(parts->root);
    free(parts->disk);
    free(parts->base);
    free(parts->state);
    free(parts->memory);
    free(parts->seed);
    free(parts->variables);
    free(parts->firmware);
}

/* True: it is laid over parts->base. */
static bool find_disk(const char *folder, struct parts *parts)
{
    parts->base = memory_format("%s/base.raw", folder);
    parts->disk = memory_format("%s/disk.qcow2", folder);
    if (file_exists(parts->disk)) {
        return true;
    }
    free(parts->disk);
    parts->disk = memory_format("%s/disk.raw", folder);
    return false;
}

/* The image's root, shared, with the machine's own disk laid over it by its agent. */
static size_t describe_kernel(const struct machine *machine, struct parts *parts)
{
    struct image_store *images = machine->service->options.images;
    const json_t *config = machine->config;
    size_t disks = 0;
    parts->kernel = image_path(images, json_text(config, "kernel"));
    parts->initrd = memory_format("%s/initrd", machine->folder);
    bool is_overlaid = find_disk(machine->folder, parts);
    if (json_text(config, "root")[0] != '\0') {
        parts->root = image_path(images, json_text(config, "root"));
        parts->disks[disks++] = (struct hypervisor_disk){
            .path = parts->root, .format = "raw", .read_only = true, .serial = "root"};
    }
    parts->disks[disks++] = (struct hypervisor_disk){.path = parts->disk,
                                                     .format = is_overlaid ? "qcow2" : "raw",
                                                     .base = is_overlaid ? parts->base : NULL,
                                                     .serial = "data"};
    snprintf(parts->cmdline, sizeof(parts->cmdline), "%s%s%s",
             parts->root != NULL ? "blixard.root=serial:root blixard.overlay=serial:data" : "",
             json_text(config, "cmdline")[0] != '\0' ? " " : "", json_text(config, "cmdline"));
    machine_volumes_add_words(machine, parts->cmdline, sizeof(parts->cmdline));
    return disks;
}

/* Over its image's; what was cloned or restored, over another one between. */
static void take_whole_disk(const struct machine *machine, const char *folder, struct parts *parts,
                            struct hypervisor_disk *own)
{
    const char *format = json_text(machine->config, "disk_format");
    parts->disk = memory_format("%s/disk.qcow2", folder);
    parts->base = memory_format("%s/" CONTENT_BASE, folder);
    bool is_between = file_exists(parts->base);
    own->path = parts->disk;
    own->base = is_between ? parts->base : parts->root;
    own->base_format = is_between ? "qcow2" : format;
    own->below = is_between ? parts->root : NULL;
    own->below_format = is_between ? format : NULL;
}

/* The image's disk, with the machine's own laid over it by its VMM. */
static size_t describe_disk(const struct machine *machine, struct parts *parts,
                            struct hypervisor_spec *spec)
{
    const json_t *config = machine->config;
    char code[PATH_MAX];
    char unused[PATH_MAX];
    struct error ignored = {0};
    parts->root = image_path(machine->service->options.images, json_text(config, "disk"));
    parts->disks[0] = (struct hypervisor_disk){.format = "qcow2", .serial = "root"};
    take_whole_disk(machine, machine->folder, parts, &parts->disks[0]);
    if (strcmp(json_text(config, "firmware"), "uefi") == 0) {
        parts->variables = memory_format("%s/" CONTENT_FIRMWARE, machine->folder);
        spec->firmware_variables = parts->variables;
        if (hypervisor_find_firmware(code, unused, &ignored) == 0) {
            parts->firmware = memory_copy_string(code);
            spec->firmware = parts->firmware;
        }
    }
    return 1;
}

struct hypervisor_spec boot_spec(const json_t *config, const char *name, const char *folder)
{
    return (struct hypervisor_spec){
        .name = name,
        .folder = folder,
        .cpus = (unsigned)json_u64(config, "cpus"),
        .cpu_limit_percent = (unsigned)json_u64(config, "cpu_limit_percent"),
        .memory_bytes = json_u64(config, "memory_bytes"),
        .page_bytes = machine_config_page_bytes(config),
        .cmdline = "",
    };
}

static void describe(const struct machine *machine, struct parts *parts,
                     struct hypervisor_spec *ret_spec)
{
    const json_t *config = machine->config;
    *parts = (struct parts){0};
    *ret_spec = boot_spec(config, machine->key, machine->folder);
    size_t disks = json_text(config, "disk")[0] != '\0' ? describe_disk(machine, parts, ret_spec)
                                                        : describe_kernel(machine, parts);
    parts->own = disks - 1;
    parts->disks[parts->own].rates = change_disk_rates(machine);
    if (seed_is_wanted(config)) {
        parts->seed = memory_format("%s/" SEED_FILE, machine->folder);
        parts->disks[disks++] = (struct hypervisor_disk){
            .path = parts->seed, .format = "raw", .read_only = true, .serial = "seed"};
    }
    nics_describe(machine, &parts->nics, &parts->error);
    if (parts->error.kind == ERROR_NONE) {
        devices_describe(machine, &parts->devices, &parts->error);
    }
    ret_spec->driver = json_text(config, "driver")[0] != '\0' ? json_text(config, "driver") : NULL;
    ret_spec->uid = disk_uid(machine);
    ret_spec->memory_nodes = pin_nodes(machine);
    ret_spec->cells = parts->cells;
    ret_spec->cell_count = cells_describe(machine, parts->cells);
    ret_spec->board = settings_board(config);
    ret_spec->kernel = parts->kernel;
    ret_spec->initrd = parts->initrd;
    ret_spec->cmdline = parts->cmdline;
    ret_spec->disks = parts->disks;
    ret_spec->disk_count = disks;
    ret_spec->nics = parts->nics.list;
    ret_spec->nic_count = parts->nics.count;
    ret_spec->devices = parts->devices.list;
    ret_spec->device_count = parts->devices.count;
    ret_spec->has_usb = devices_want_usb(config);
}

/* What it is to go on from, if there is something. */
static void begin_in_the_middle(const struct machine *machine, struct parts *parts,
                                struct hypervisor_spec *spec)
{
    parts->state = memory_format("%s/" CONTENT_RESUME "/" CONTENT_STATE, machine->folder);
    parts->memory = memory_format("%s/" CONTENT_RESUME "/" CONTENT_MEMORY, machine->folder);
    if (machine_run_goes_on(machine)) {
        bool is_shared = file_exists(parts->memory);
        spec->memory = is_shared ? HYPERVISOR_MEMORY_COPY : HYPERVISOR_MEMORY_OWN;
        spec->memory_file = is_shared ? parts->memory : NULL;
        spec->is_incoming = true;
        spec->state_file = parts->state;
        spec->uses_state_up = true;
    }
}

static void take_overlay_of(const char *folder, struct parts *parts, struct hypervisor_disk *own)
{
    free(parts->disk);
    free(parts->base);
    bool is_overlaid = find_disk(folder, parts);
    own->path = parts->disk;
    own->format = is_overlaid ? "qcow2" : "raw";
    own->base = is_overlaid ? parts->base : NULL;
}

/* For a VMM that never runs: the disk is a snapshot's; a seed that was never written here is
 * anything. */
static void take_disk_of(const struct machine *machine, const char *folder, struct parts *parts,
                         struct hypervisor_spec *spec)
{
    struct hypervisor_disk *own = &parts->disks[parts->own];
    if (spec->kernel == NULL) {
        free(parts->disk);
        free(parts->base);
        free(parts->variables);
        take_whole_disk(machine, folder, parts, own);
        parts->variables = memory_format("%s/" CONTENT_FIRMWARE, folder);
        spec->firmware_variables = spec->firmware != NULL ? parts->variables : NULL;
    } else {
        take_overlay_of(folder, parts, own);
    }
    if (parts->seed != NULL && !file_exists(parts->seed)) {
        parts->disks[parts->own + 1].path = parts->disk;
    }
}

/* ---- Not to run ---- */

void boot_try(struct machine *machine, const char *content, const json_t *manifest,
              hypervisor_done done, void *context)
{
    struct parts parts;
    struct hypervisor_spec spec;
    json_t *config = machine->config;
    machine->config = json_object_get(manifest, "config"); /* as it was then */
    describe(machine, &parts, &spec);
    take_disk_of(machine, content, &parts, &spec);
    if (spec.initrd != NULL && !file_exists(spec.initrd)) {
        spec.initrd = NULL; /* it never ran here: and what never runs has no use for it */
    }
    struct kept *kept = kept_blank(json_object_get(manifest, "volumes"));
    kept_describe(kept, &spec);
    template_try(machine->service->options.hypervisor, &spec, content, done, context);
    kept_free(kept);
    parts_done(&parts);
    machine->config = config;
}

void boot_stamp(struct machine *machine, const struct stamping *stamping, hypervisor_done done,
                void *context)
{
    struct parts parts;
    struct hypervisor_spec spec;
    json_t *config = machine->config;
    machine->config = change_booted_config(machine); /* what the state is of */
    describe(machine, &parts, &spec);
    take_disk_of(machine, stamping->folder, &parts, &spec);
    struct kept *kept = kept_blank(stamping->volumes);
    kept_describe(kept, &spec);
    template_stamp(machine->service->options.hypervisor, &spec, stamping->fd, stamping->folder,
                   done, context);
    kept_free(kept);
    parts_done(&parts);
    json_decref(machine->config);
    machine->config = config;
}

/* ---- To run, and to wait ---- */

static struct hypervisor_vm *
start_image(struct machine *machine, const struct hypervisor_events *events, struct error *error)
{
    struct parts parts;
    struct hypervisor_spec spec;
    struct shares shares;
    struct hypervisor_vm *vm = NULL;
    if (shares_describe(machine, &shares, error) < 0) {
        return NULL;
    }
    JSON_OWNED json_t *booted = change_booted_config(machine);
    struct machine begun = *machine;
    begun.config = booted;
    describe(&begun, &parts, &spec);
    size_t used = strlen(parts.cmdline);
    int added = snprintf(parts.cmdline + used, sizeof(parts.cmdline) - used, " %s", shares.word);
    spec.shares = shares.items;
    spec.share_count = shares.count;
    begin_in_the_middle(machine, &parts, &spec);
    *error = parts.error;
    struct kept *kept = NULL;
    if (spec.is_incoming && error->kind == ERROR_NONE && kept_open(machine, &kept, error) == 0) {
        kept_describe(kept, &spec);
    }
    if (error->kind == ERROR_NONE && (size_t)added >= sizeof(parts.cmdline) - used) {
        error_set(error, ERROR_TOO_LARGE, "cmdline, volumes and shares are too long together");
    }
    if (error->kind == ERROR_NONE && machine_volumes_check(machine, error) == 0 &&
        hypervisor_check(machine->service->options.hypervisor, &spec, error) == 0) {
        vm = hypervisor_start(machine->service->options.hypervisor, &spec, events, machine);
    }
    kept_free(kept);
    parts_done(&parts);
    shares_done(&shares);
    return vm;
}

struct hypervisor_vm *boot_start(struct machine *machine, const struct hypervisor_events *events,
                                 struct error *err)
{
    return runner_is(machine->config) ? runner_boot(machine, events, err)
                                      : start_image(machine, events, err);
}

struct hypervisor_vm *boot_await(const struct machine *machine,
                                 const struct hypervisor_events *events, void *context,
                                 size_t *ret_disk, struct error *err)
{
    struct parts parts;
    struct hypervisor_spec spec;
    struct hypervisor *hypervisor = machine->service->options.hypervisor;
    JSON_OWNED json_t *booted = change_booted_config(machine);
    struct machine copy = *machine;
    copy.config = booted;
    describe(&copy, &parts, &spec);
    spec.is_incoming = true;
    *ret_disk = parts.own;
    *err = parts.error;
    struct hypervisor_vm *vm =
        err->kind == ERROR_NONE && hypervisor_check(hypervisor, &spec, err) == 0
        ? hypervisor_start(hypervisor, &spec, events, context)
        : NULL;
    parts_done(&parts);
    return vm;
}
