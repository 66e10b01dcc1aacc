/* See rest_vmm.h. */
#include "engine/hypervisor/rest_vmm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/json.h"
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
    if (spec->memory == HYPERVISOR_MEMORY_SHARED ||
        (spec->memory == HYPERVISOR_MEMORY_COPY && !info->can_clone)) {
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

/* What these VMMs save names its files: at places that are the same for every machine, on every
 * node. */
static void add_machine(const struct hypervisor_spec *spec, struct order *order,
                        struct rest_vmm_seen *seen)
{
    MEMORY_OWNED char *scratch = memory_format("%s/" LAUNCH_SCRATCH, spec->folder);
    seen->spec = *spec;
    order_add_mount_at(order, scratch, REST_VMM_SCRATCH, true);
    order_add_mount_at(order, spec->kernel, REST_VMM_PLACE "/kernel", false);
    seen->spec.kernel = REST_VMM_PLACE "/kernel";
    if (spec->initrd != NULL) {
        order_add_mount_at(order, spec->initrd, REST_VMM_PLACE "/initrd", false);
        seen->spec.initrd = REST_VMM_PLACE "/initrd";
    }
    for (size_t i = 0; i < spec->disk_count && i < HYPERVISOR_DISKS_MAX; i++) {
        snprintf(seen->paths[i], sizeof(seen->paths[i]), REST_VMM_PLACE "/disk%zu", i);
        order_add_mount_at(order, spec->disks[i].path, seen->paths[i], !spec->disks[i].read_only);
        seen->disks[i] = spec->disks[i];
        seen->disks[i].path = seen->paths[i];
    }
    seen->spec.disks = seen->disks;
    if (spec->memory == HYPERVISOR_MEMORY_COPY) {
        order_add_mount_at(order, spec->memory_file, REST_VMM_MEMORY, false);
    }
}

json_t *rest_vmm_describe_cells(const struct hypervisor_spec *spec)
{
    json_t *list = json_array();
    for (size_t i = 0; i < spec->cell_count; i++) {
        const struct hypervisor_cell *cell = &spec->cells[i];
        char *end = NULL;
        unsigned long node = strtoul(cell->host_nodes, &end, 10);
        json_t *one = json_pack("{s:o}", "id", json_sprintf("cell%zu", i));
        if (end != cell->host_nodes && *end == '\0' &&
            pin_has_room(cell->host_nodes, cell->memory_bytes, spec->page_bytes)) {
            json_object_set_new(one, PIN_ZONE_NODE, json_integer((json_int_t)node));
        }
        json_array_append_new(list, one);
    }
    return list;
}

/* What it has to be told when it reads a state, which may be another machine's. */
static json_t *describe_incoming(const struct hypervisor_spec *spec)
{
    json_t *taps = json_array();
    for (size_t i = 0; i < spec->nic_count; i++) {
        json_array_append_new(taps, json_string(spec->nics[i].tap));
    }
    json_t *incoming = json_pack("{s:o}", "taps", taps);
    if (spec->memory == HYPERVISOR_MEMORY_COPY) {
        json_object_set_new(incoming, "memory", json_string(REST_VMM_MEMORY));
    }
    if (spec->cell_count > 0) {
        json_object_set_new(incoming, "cells", rest_vmm_describe_cells(spec));
    }
    return incoming;
}

void rest_vmm_begin_order(const char *program, const struct hypervisor_spec *spec,
                          struct order *order, struct rest_vmm_seen *ret_seen)
{
    static const char *const places[] = {"/usr", "/lib", "/lib64", "/etc/ld.so.cache",
                                         "/nix/store"};
    order_add(order, program);
    for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
        order_add_mount(order, places[i], false);
    }
    order_add_mount(order, program, false);
    order_add_mount(order, "/dev/kvm", true);
    add_machine(spec, order, ret_seen);
    if (spec->nic_count > 0) {
        order_add_mount(order, "/dev/net/tun", true);
    }
    order->network = spec->nic_count > 0;
    order->has_scratch = true;
    if (spec->is_incoming) {
        order->incoming = describe_incoming(spec);
    }
}

/* ---- Control ---- */

/* With the one thing under way that takes several requests: vm.c sees to it that it is one. */
struct rest_vmm {
    struct rest *rest;
    const struct rest_vmm_dialect *dialect;
    char *scratch;
    json_t *incoming;
    const char *const *loading; /* files of a state that is being read */
    bool is_busy;
    int fd;
    uint64_t balloon_bytes;
    hypervisor_done done;
    void *context;
};

/* As it sees it: one that an older daemon started, at its own path. */
static char *find_scratch(const char *folder)
{
    BUFFER_OWNED struct buffer text = {0};
    struct error ignored = {0};
    MEMORY_OWNED char *path = memory_format("%s/" LAUNCH_FILE, folder);
    bool is_here = file_read(path, LAUNCH_BYTES_MAX, &text, &ignored) == 0 &&
        strstr(buffer_string(&text), "\"" REST_VMM_SCRATCH "\"") != NULL;
    return is_here ? memory_copy_string(REST_VMM_SCRATCH)
                   : memory_format("%s/" LAUNCH_SCRATCH, folder);
}

struct rest_vmm *rest_vmm_open(struct loop *loop, const char *folder,
                               const struct rest_vmm_dialect *dialect,
                               const struct driver_events *events, void *context, struct error *err)
{
    json_t *incoming = NULL;
    if (launch_read_incoming(folder, &incoming, err) < 0) {
        return NULL;
    }
    struct rest *rest = rest_open(loop, folder, &dialect->rest, events, context, err);
    if (rest == NULL) {
        json_decref(incoming);
        return NULL;
    }
    struct rest_vmm *vmm = NEW(struct rest_vmm);
    *vmm = (struct rest_vmm){.rest = rest,
                             .dialect = dialect,
                             .scratch = find_scratch(folder),
                             .incoming = incoming,
                             .fd = -1};
    return vmm;
}

void rest_vmm_close(void *argument)
{
    struct rest_vmm *vmm = argument;
    rest_close(vmm->rest);
    fd_close_slot(&vmm->fd);
    json_decref(vmm->incoming);
    free(vmm->scratch);
    free(vmm);
}

static void begin(struct rest_vmm *vmm, int owned_fd, hypervisor_done done, void *context)
{
    CHECK(!vmm->is_busy);
    vmm->is_busy = true;
    vmm->fd = owned_fd;
    vmm->done = done;
    vmm->context = context;
}

static void finish(const struct error *error, void *context)
{
    struct rest_vmm *vmm = context;
    vmm->is_busy = false;
    fd_close_slot(&vmm->fd);
    vmm->done(error, vmm->context);
}

/* ---- In one request ---- */

static json_t *body_of(const struct rest_vmm_order *order)
{
    return order->body != NULL ? json_loads(order->body, 0, NULL) : NULL;
}

void rest_vmm_pause(void *argument, hypervisor_done done, void *context)
{
    const struct rest_vmm *vmm = argument;
    const struct rest_vmm_order *order = &vmm->dialect->pause;
    rest_order_pause(vmm->rest, true, order->method, order->path, body_of(order), done, context);
}

void rest_vmm_resume(void *argument, hypervisor_done done, void *context)
{
    const struct rest_vmm *vmm = argument;
    const struct rest_vmm_order *order = &vmm->dialect->resume;
    rest_order_pause(vmm->rest, false, order->method, order->path, body_of(order), done, context);
}

static void give(const struct rest_vmm *vmm, const struct rest_vmm_order *order,
                 hypervisor_done done, void *context)
{
    rest_order(vmm->rest, order->method, order->path, body_of(order), done, context);
}

void rest_vmm_reset(void *argument, hypervisor_done done, void *context)
{
    const struct rest_vmm *vmm = argument;
    give(vmm, &vmm->dialect->reset, done, context);
}

void rest_vmm_power_down(void *argument, hypervisor_done done, void *context)
{
    const struct rest_vmm *vmm = argument;
    give(vmm, &vmm->dialect->power_down, done, context);
}

/* ---- Disks ---- */

static void add_bucket(json_t *rates, const char *key, uint64_t per_second)
{
    if (per_second > 0) {
        json_object_set_new(
            rates, key,
            json_pack("{s:I, s:i}", "size", (json_int_t)per_second, "refill_time", 1000));
    }
}

void rest_vmm_add_rates(json_t *disk, const char *key, const struct hypervisor_rates *rates)
{
    JSON_OWNED json_t *buckets = json_object();
    add_bucket(buckets, "bandwidth", rates->bytes.both);
    add_bucket(buckets, "ops", rates->iops.both);
    if (json_object_size(buckets) > 0) {
        json_object_set(disk, key, buckets);
    }
}

/* ---- The balloon ---- */

static void on_size(const struct error *error, const json_t *answer, void *context)
{
    struct rest_vmm *vmm = context;
    const struct rest_vmm_order *order = &vmm->dialect->balloon;
    if (error != NULL) {
        finish(error, vmm);
        return;
    }
    uint64_t size = vmm->dialect->read_size(answer);
    uint64_t without = size > vmm->balloon_bytes ? size - vmm->balloon_bytes : 0;
    rest_order(vmm->rest, order->method, order->path, vmm->dialect->make_balloon(without), finish,
               vmm);
}

void rest_vmm_balloon(void *argument, uint64_t bytes, hypervisor_done done, void *context)
{
    struct rest_vmm *vmm = argument;
    begin(vmm, -1, done, context);
    vmm->balloon_bytes = bytes;
    rest_send(vmm->rest, "GET", vmm->dialect->size_path, NULL, on_size, vmm);
}

/* ---- States ---- */

static void on_written(const struct error *error, void *context)
{
    struct rest_vmm *vmm = context;
    if (error != NULL) {
        finish(error, vmm);
    } else {
        rest_pack(vmm->rest, vmm->dialect->state_files, fd_take(&vmm->fd), finish, vmm);
    }
}

static void on_held(const struct error *error, void *context)
{
    struct rest_vmm *vmm = context;
    const struct rest_vmm_order *order = &vmm->dialect->save;
    if (error != NULL) {
        finish(error, vmm);
    } else {
        rest_order(vmm->rest, order->method, order->path, vmm->dialect->make_save(vmm->scratch),
                   on_written, vmm);
    }
}

/* One that is paused is not paused once more: Cloud Hypervisor refuses that. */
static void on_state(const struct error *error, const json_t *answer, void *context)
{
    struct rest_vmm *vmm = context;
    struct error err = {0};
    enum rest_state state = REST_NOT_STARTED;
    if (error != NULL || vmm->dialect->rest.read_state(200, answer, &state, &err) < 0) {
        finish(error != NULL ? error : &err, vmm);
    } else if (state == REST_PAUSED) {
        on_held(NULL, vmm);
    } else {
        rest_vmm_pause(vmm, on_held, vmm);
    }
}

void rest_vmm_save(void *argument, int owned_fd, bool without_memory, hypervisor_done done,
                   void *context)
{
    struct rest_vmm *vmm = argument;
    (void)without_memory;
    begin(vmm, owned_fd, done, context);
    rest_send(vmm->rest, "GET", vmm->dialect->rest.status, NULL, on_state, vmm);
}

/* Its files have served: of what it has mapped it keeps its own hold, and what it writes next must
 * not be written over that. */
static void on_loaded(const struct error *error, void *context)
{
    struct rest_vmm *vmm = context;
    if (error == NULL) {
        rest_forget(vmm->rest, vmm->loading);
    }
    finish(error, vmm);
}

static void on_unpacked(const struct error *error, void *context)
{
    struct rest_vmm *vmm = context;
    const struct rest_vmm_order *order = &vmm->dialect->load;
    if (error != NULL) {
        finish(error, vmm);
    } else {
        rest_order_pause(vmm->rest, true, order->method, order->path,
                         vmm->dialect->make_load(vmm->scratch, vmm->incoming), on_loaded, vmm);
    }
}

void rest_vmm_load(void *argument, int owned_fd, bool without_memory, hypervisor_done done,
                   void *context)
{
    struct rest_vmm *vmm = argument;
    const struct rest_vmm_dialect *dialect = vmm->dialect;
    begin(vmm, -1, done, context);
    vmm->loading = without_memory ? dialect->small_files : dialect->state_files;
    const struct rest_unpacking unpacking = {.names = vmm->loading,
                                             .owned_fd = owned_fd,
                                             .prepare = dialect->prepare,
                                             .incoming = vmm->incoming};
    rest_unpack(vmm->rest, &unpacking, on_unpacked, vmm);
}
