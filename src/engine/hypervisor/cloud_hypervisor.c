/*
 * The Cloud Hypervisor driver, by its published API (vmm/src/api/openapi/cloud-hypervisor.yaml, v1;
 * releases from 40 on) over the unix socket.
 *
 * The system call filters are Cloud Hypervisor's; the rest of the confinement is ours.  It powers
 * off and reboots as a PC does, and has no user-mode network.  Its reboots are not told.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"

#include "engine/hypervisor/bundle.h"
#include "engine/hypervisor/rest_vmm.h"

enum { GUEST_CID = 3, CONFIG_BYTES_MAX = 1 << 20 };
#define CONFIG_FILE "config.json"
#define ROOT        "/api/v1"

/* What it writes a state into, and reads it from. */
static const char *const state_files[] = {CONFIG_FILE, "state.json", "memory-ranges", NULL};

static void probe(const struct hypervisor_options *options, struct hypervisor_driver_info *info,
                  char **ret_program)
{
    rest_vmm_probe("cloud-hypervisor", options, info, ret_program);
    info->can_snapshot = true;
    info->page_bytes_max = HYPERVISOR_PAGE_1G;
    info->can_vsock = true;
    info->can_pass_devices = true;
    info->has_cells = true;
    info->agent_by_vsock = true;
}

static enum hypervisor_end judge(const struct launch_exit *exit, bool has_panicked)
{
    (void)has_panicked;
    return exit->signal == 0 && exit->code == 0 ? HYPERVISOR_END_SHUTDOWN : HYPERVISOR_END_FAILED;
}

/* ---- The plan of a start: a VmConfig ---- */

static json_t *disks_of(const struct hypervisor_spec *spec)
{
    json_t *list = json_array();
    for (size_t i = 0; i < spec->disk_count; i++) {
        const struct hypervisor_disk *disk = &spec->disks[i];
        json_t *one =
            json_pack("{s:s, s:s, s:b, s:s, s:s}", "id", disk->serial, "path", disk->path,
                      "readonly", disk->read_only, "serial", disk->serial, "image_type", "Raw");
        rest_vmm_add_rates(one, "rate_limiter_config", &disk->rates);
        json_array_append_new(list, one);
    }
    return list;
}

static json_t *nics_of(const struct hypervisor_spec *spec)
{
    json_t *list = json_array();
    for (size_t i = 0; i < spec->nic_count; i++) {
        json_array_append_new(list,
                              json_pack("{s:o, s:s, s:s}", "id", json_sprintf("eth%zu", i), "tap",
                                        spec->nics[i].tap, "mac", spec->nics[i].mac));
    }
    return list;
}

static json_t *devices_of(const struct hypervisor_spec *spec)
{
    json_t *list = json_array();
    for (size_t i = 0; i < spec->device_count; i++) {
        json_array_append_new(
            list,
            json_pack("{s:o, s:o}", "id", json_sprintf("device%zu", i), "path",
                      json_sprintf("/sys/bus/pci/devices/%s", spec->devices[i].address)));
    }
    return list;
}

static json_t *payload_of(const struct hypervisor_spec *spec)
{
    json_t *payload =
        json_pack("{s:s, s:o}", "kernel", spec->kernel, "cmdline",
                  json_sprintf("console=ttyS0 panic=-1 quiet cryptomgr.notests %s", spec->cmdline));
    if (spec->initrd != NULL) {
        json_object_set_new(payload, "initramfs", json_string(spec->initrd));
    }
    return payload;
}

/* Huge pages are asked for when it begins (prefault), so that their lack is told then. */
static void add_pages(json_t *memory, uint64_t page_bytes)
{
    if (page_bytes > 0) {
        json_object_set_new(memory, "hugepages", json_true());
        json_object_set_new(memory, "hugepage_size", json_integer((json_int_t)page_bytes));
        json_object_set_new(memory, "prefault", json_true());
    }
}

/* A total of 0 says that all of it is in zones (docs/memory.md), each of which has a size. */
static json_t *memory_of(const struct hypervisor_spec *spec)
{
    json_t *memory = json_pack("{s:I}", "size", (json_int_t)spec->memory_bytes);
    if (spec->cell_count == 0) {
        add_pages(memory, spec->page_bytes);
        return memory;
    }
    json_t *zones = rest_vmm_describe_cells(spec);
    size_t index = 0;
    json_t *zone = NULL;
    json_array_foreach(zones, index, zone)
    {
        json_object_set_new(zone, "size",
                            json_integer((json_int_t)spec->cells[index].memory_bytes));
        add_pages(zone, spec->page_bytes);
    }
    json_object_set_new(memory, "size", json_integer(0));
    json_object_set_new(memory, "zones", zones);
    return memory;
}

/* What is of one socket is of one NUMA node: each vCPU is a socket. */
static void add_cells(const struct hypervisor_spec *spec, json_t *config)
{
    json_t *nodes = json_array();
    for (size_t i = 0; i < spec->cell_count; i++) {
        const char *list = spec->cells[i].cpus;
        unsigned long first = 0;
        unsigned long last = 0;
        json_t *cpus = json_array();
        while (text_take_range(&list, &first, &last)) {
            for (unsigned long cpu = first; cpu <= last && cpu < spec->cpus; cpu++) {
                json_array_append_new(cpus, json_integer((json_int_t)cpu));
            }
        }
        json_array_append_new(nodes,
                              json_pack("{s:I, s:o, s:[o]}", "guest_numa_id", (json_int_t)i, "cpus",
                                        cpus, "memory_zones", json_sprintf("cell%zu", i)));
    }
    json_object_set_new(config, "numa", nodes);
    json_object_set_new(json_object_get(config, "cpus"), "topology",
                        json_pack("{s:i, s:i, s:i, s:I}", "threads_per_core", 1, "cores_per_die", 1,
                                  "dies_per_package", 1, "packages", (json_int_t)spec->cpus));
}

/* A balloon gives back small pages: there is none beside huge ones. */
static json_t *config_of(const struct hypervisor_spec *spec)
{
    json_t *config = json_pack(
        "{s:{s:I, s:I}, s:o, s:o, s:o, s:o, s:{s:s}, s:{s:s}, s:{s:s}, s:{s:i, s:s}}", "cpus",
        "boot_vcpus", (json_int_t)spec->cpus, "max_vcpus", (json_int_t)spec->cpus, "memory",
        memory_of(spec), "payload", payload_of(spec), "disks", disks_of(spec), "net", nics_of(spec),
        "rng", "src", "/dev/urandom", "serial", "mode", "Tty", "console", "mode", "Off", "vsock",
        "cid", GUEST_CID, "socket", REST_VMM_SCRATCH "/" HYPERVISOR_AGENT_SOCKET);
    if (spec->cell_count > 0) {
        add_cells(spec, config);
    }
    /* What a device writes in stays where it is. */
    if (spec->page_bytes == 0 && spec->device_count == 0) {
        json_object_set_new(
            config, "balloon",
            json_pack("{s:i, s:b, s:b}", "size", 0, "deflate_on_oom", 1, "free_page_reporting", 1));
    }
    if (spec->device_count > 0) {
        json_object_set_new(config, "devices", devices_of(spec));
    }
    return config;
}

static void make_order(const struct hypervisor_driver_info *info, const char *program,
                       const struct hypervisor_spec *spec, struct order *order)
{
    (void)info;
    struct rest_vmm_seen seen;
    rest_vmm_begin_order(program, spec, order, &seen);
    order_add(order, "--api-socket");
    order_add(order, REST_VMM_SCRATCH "/" REST_SOCKET);
    order_add_passed(order, spec);
    if (!spec->is_incoming) { /* else hypervisor_load() says the rest */
        order->plan = json_pack("[[s, s, o], [s, s]]", "PUT", ROOT "/vm.create",
                                config_of(&seen.spec), "PUT", ROOT "/vm.boot");
    }
}

/* ---- Control ---- */

/* There is none before vm.create: 404, and in older releases 500. */
static int read_state(int status, const json_t *answer, enum rest_state *ret_state,
                      struct error *err)
{
    static const struct {
        const char *text;
        enum rest_state state;
    } rows[] = {{"Created", REST_MADE},
                {"Shutdown", REST_MADE},
                {"Running", REST_RUNNING},
                {"BreakPoint", REST_RUNNING},
                {"Paused", REST_PAUSED}};
    const char *text = json_string_value(json_object_get(answer, "state"));
    if (status != 200) {
        *ret_state = REST_NOT_STARTED;
        return 0;
    }
    for (size_t i = 0; text != NULL && i < sizeof(rows) / sizeof(rows[0]); i++) {
        if (strcmp(text, rows[i].text) == 0) {
            *ret_state = rows[i].state;
            return 0;
        }
    }
    return error_set(err, ERROR_PROTOCOL, "cloud-hypervisor does not say in which state it is");
}

/* The errors from the outermost to its cause: the last says most. */
static const char *read_fault(const json_t *answer)
{
    size_t count = json_array_size(answer);
    return count > 0 ? json_string_value(json_array_get(answer, count - 1)) : NULL;
}

static uint64_t read_size(const json_t *answer)
{
    const json_t *memory = json_object_get(json_object_get(answer, "config"), "memory");
    uint64_t bytes = json_u64(memory, "size");
    size_t index = 0;
    const json_t *zone = NULL;
    json_array_foreach(json_object_get(memory, "zones"), index, zone)
    {
        bytes += json_u64(zone, "size");
    }
    return bytes;
}

static json_t *make_balloon(uint64_t bytes)
{
    return json_pack("{s:I}", "desired_balloon", (json_int_t)bytes);
}

static json_t *make_save(const char *scratch)
{
    return json_pack("{s:o}", "destination_url", json_sprintf("file://%s", scratch));
}

static json_t *make_load(const char *scratch, const json_t *incoming)
{
    (void)incoming;
    return json_pack("{s:o, s:b}", "source_url", json_sprintf("file://%s", scratch), "prefault", 0);
}

/* Bound to what are the nodes of its CPUs now: it may be on another host, too. */
static void move_zones(json_t *config, const json_t *incoming)
{
    size_t index = 0;
    json_t *zone = NULL;
    json_array_foreach(json_object_get(json_object_get(config, "memory"), "zones"), index, zone)
    {
        json_t *cell = json_array_get(json_object_get(incoming, "cells"), index);
        json_object_del(zone, "host_numa_node");
        json_object_update(zone, cell);
    }
}

/*
 * Its configuration lies beside a state, to be changed where a machine is to be another one
 * (docs/snapshot_restore.md): interfaces by the names that they were made with.
 */
static int prepare(const char *scratch, const json_t *incoming, struct error *err)
{
    BUFFER_OWNED struct buffer text = {0};
    JSON_OWNED json_t *config = NULL;
    MEMORY_OWNED char *path = memory_format("%s/" CONFIG_FILE, scratch);
    size_t index = 0;
    json_t *nic = NULL;
    int r = file_read(path, CONFIG_BYTES_MAX, &text, err);
    if (r == 0 && json_read(text.data, text.used, &config, err) < 0) {
        return error_set(err, ERROR_CORRUPT, "the state's " CONFIG_FILE " is no JSON");
    }
    const json_t *taps = json_object_get(incoming, "taps");
    if (r < 0 || taps == NULL) {
        return r;
    }
    json_array_foreach(json_object_get(config, "net"), index, nic)
    {
        json_object_set(nic, "tap", json_array_get(taps, index));
    }
    move_zones(config, incoming);
    if (json_array_size(json_object_get(config, "net")) != json_array_size(taps)) {
        return error_set(err, ERROR_CORRUPT, "the state is of a machine with other interfaces");
    }
    MEMORY_OWNED char *changed = json_dumps(config, JSON_COMPACT);
    FD_OWNED int fd = open(path, O_WRONLY | O_TRUNC | O_CLOEXEC | O_NOFOLLOW);
    return fd >= 0 && file_write_all(fd, changed, strlen(changed)) == 0
        ? 0
        : error_os(err, errno, "writing %s", path);
}

/* ---- Templates: no memory is shared ---- */

static int stamp(int fd, uint64_t memory_bytes, int state_fd, int memory_fd, struct error *err)
{
    uint64_t none = 0;
    (void)memory_bytes;
    return bundle_split(fd, state_files, NULL, state_fd, memory_fd, &none, err);
}

static int try_state(int state_fd, struct error *err)
{
    return bundle_check(state_fd, state_files, err);
}

static void *connect_control(struct loop *loop, const char *folder,
                             const struct driver_events *events, void *context, struct error *err)
{
    static const struct rest_vmm_dialect dialect = {
        .rest = {ROOT "/vm.info", read_state, read_fault},
        .pause = {"PUT", ROOT "/vm.pause", NULL},
        .resume = {"PUT", ROOT "/vm.resume", NULL},
        .reset = {"PUT", ROOT "/vm.reboot", NULL},
        .power_down = {"PUT", ROOT "/vm.power-button", NULL},
        .size_path = ROOT "/vm.info",
        .read_size = read_size,
        .balloon = {"PUT", ROOT "/vm.resize", NULL},
        .make_balloon = make_balloon,
        .state_files = state_files,
        .save = {"PUT", ROOT "/vm.snapshot", NULL},
        .load = {"PUT", ROOT "/vm.restore", NULL},
        .make_save = make_save,
        .make_load = make_load,
        .prepare = prepare,
    };
    return rest_vmm_open(loop, folder, &dialect, events, context, err);
}

const struct driver driver_cloud_hypervisor = {
    .name = "cloud-hypervisor",
    .probe = probe,
    .check = rest_vmm_check,
    .make_order = make_order,
    .judge = judge,
    .connect = connect_control,
    .disconnect = rest_vmm_close,
    .pause = rest_vmm_pause,
    .resume = rest_vmm_resume,
    .reset = rest_vmm_reset,
    .power_down = rest_vmm_power_down,
    .balloon = rest_vmm_balloon,
    .save = rest_vmm_save,
    .load = rest_vmm_load,
    .stamp = stamp,
    .try_state = try_state,
};
