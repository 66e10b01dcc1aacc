/*
 * The Firecracker driver, by its published API (src/firecracker/swagger/firecracker.yaml, 1.7 and
 * later) over the unix socket.
 *
 * Our own jail stands in for Firecracker's jailer; the system call filters are Firecracker's.  What
 * it has not: a user-mode network, qcow2, shares, hotplug, a power button that powers off.  Its
 * guest ends the machine by a reboot, and a panic is only to be read on the console.
 */
#include <stdio.h>
#include <string.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/json.h"
#include "base/memory.h"

#include "engine/hypervisor/bundle.h"
#include "engine/hypervisor/rest.h"
#include "engine/hypervisor/rest_vmm.h"

enum { CPUS_MAX = 32, GUEST_CID = 3 };

#define STATE_FILE  "state"
#define MEMORY_FILE "memory"

static const char *const state_files[] = {STATE_FILE, MEMORY_FILE, NULL};
static const char *const small_files[] = {STATE_FILE, NULL};

/* ---- Finding it ---- */

/* network_overrides of /snapshot/load. */
static bool can_move_taps(const struct hypervisor_driver_info *info)
{
    unsigned major = 0;
    unsigned minor = 0;
    return sscanf(info->version, "%u.%u", &major, &minor) == 2 &&
        (major > 1 || (major == 1 && minor >= 12));
}

static void probe(const struct hypervisor_options *options, struct hypervisor_driver_info *info,
                  char **ret_program)
{
    rest_vmm_probe("firecracker", options, info, ret_program);
    info->can_snapshot = true;
    info->can_clone = true; /* it maps the file of its memory privately */
    if (!can_move_taps(info)) {
        snprintf(info->clone_problem, sizeof(info->clone_problem),
                 "firecracker %.40s keeps the interfaces of the machine that a state is of; 1.12 "
                 "and later do not",
                 info->version);
    }
    info->page_bytes_max = HYPERVISOR_PAGE_2M;
    snprintf(info->huge_problem, sizeof(info->huge_problem),
             "firecracker reads no state with huge pages from a file");
    info->can_vsock = true;
    info->ends_by_reboot = true;
    info->agent_by_vsock = true;
}

static int check(const struct hypervisor_driver_info *info, const struct hypervisor_spec *spec,
                 struct error *err)
{
    if (spec->cpus > CPUS_MAX) {
        return error_set(err, ERROR_UNSUPPORTED, "firecracker gives a machine at most %d cpus",
                         CPUS_MAX);
    }
    return rest_vmm_check(info, spec, err);
}

/* Firecracker exits with 0 when its guest reboots, which after a panic the kernel does. */
static enum hypervisor_end judge(const struct launch_exit *exit, bool has_panicked)
{
    if (exit->signal != 0 || exit->code != 0) {
        return HYPERVISOR_END_FAILED;
    }
    return has_panicked ? HYPERVISOR_END_PANIC : HYPERVISOR_END_SHUTDOWN;
}

/* ---- The plan of a start ---- */

static void say(struct order *order, json_t *owned_body, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static void say(struct order *order, json_t *owned_body, const char *format, ...)
{
    char path[64];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(path, sizeof(path), format, arguments);
    va_end(arguments);
    json_array_append_new(order->plan, json_pack("[s, s, o]", "PUT", path, owned_body));
}

/* Its disks have no serial number of ours: the guest is told which is which.  i8042 is the only
 * device that its reset and its Ctrl-Alt-Del come by. */
static void plan_boot(const struct hypervisor_spec *spec, struct order *order)
{
    BUFFER_OWNED struct buffer words = {0};
    buffer_append_string(&words,
                         "console=ttyS0 reboot=k panic=-1 quiet i8042.noaux i8042.nomux "
                         "i8042.dumbkbd cryptomgr.notests");
    for (size_t i = 0; i < spec->disk_count; i++) {
        buffer_append_format(&words, "%s%s", i == 0 ? " blixard.disks=" : ",",
                             spec->disks[i].serial);
    }
    buffer_append_format(&words, " %s", spec->cmdline);
    json_t *body = json_pack("{s:s, s:s}", "kernel_image_path", spec->kernel, "boot_args",
                             buffer_string(&words));
    if (spec->initrd != NULL) {
        json_object_set_new(body, "initrd_path", json_string(spec->initrd));
    }
    say(order, body, "/boot-source");
}

static json_t *machine_config(const struct hypervisor_spec *spec)
{
    json_t *config = json_pack("{s:I, s:I}", "vcpu_count", (json_int_t)spec->cpus, "mem_size_mib",
                               (json_int_t)(spec->memory_bytes >> 20));
    if (spec->page_bytes > 0) {
        json_object_set_new(config, "huge_pages", json_string("2M"));
    }
    return config;
}

static void make_order(const struct hypervisor_driver_info *info, const char *program,
                       const struct hypervisor_spec *spec, struct order *order)
{
    struct rest_vmm_seen seen;
    rest_vmm_begin_order(program, spec, order, &seen);
    order_add(order, "--api-sock");
    order_add(order, REST_VMM_SCRATCH "/" REST_SOCKET);
    order_add(order, "--id");
    order_add(order, "blixard");
    order_add(order, "--level");
    order_add(order, "Error");
    if (spec->is_incoming) {
        if (!can_move_taps(info)) {
            json_object_del(order->incoming, "taps");
        }
        return; /* hypervisor_load() says the rest */
    }
    order->plan = json_array();
    say(order, machine_config(spec), "/machine-config");
    plan_boot(&seen.spec, order);
    for (size_t i = 0; i < spec->disk_count; i++) {
        const struct hypervisor_disk *disk = &seen.disks[i];
        json_t *drive =
            json_pack("{s:s, s:b, s:b, s:s}", "drive_id", disk->serial, "is_root_device", 0,
                      "is_read_only", disk->read_only, "path_on_host", disk->path);
        rest_vmm_add_rates(drive, "rate_limiter", &disk->rates);
        say(order, drive, "/drives/%s", disk->serial);
    }
    for (size_t i = 0; i < spec->nic_count; i++) {
        const struct hypervisor_nic *nic = &spec->nics[i];
        say(order,
            json_pack("{s:o, s:s, s:s}", "iface_id", json_sprintf("eth%zu", i), "host_dev_name",
                      nic->tap, "guest_mac", nic->mac),
            "/network-interfaces/eth%zu", i);
    }
    say(order,
        json_pack("{s:i, s:s}", "guest_cid", GUEST_CID, "uds_path",
                  REST_VMM_SCRATCH "/" HYPERVISOR_AGENT_SOCKET),
        "/vsock");
    if (spec->page_bytes == 0) { /* huge pages and a balloon exclude each other */
        say(order,
            json_pack("{s:i, s:b, s:i}", "amount_mib", 0, "deflate_on_oom", 1,
                      "stats_polling_interval_s", 0),
            "/balloon");
    }
    say(order, json_object(), "/entropy");
    say(order, json_pack("{s:s}", "action_type", "InstanceStart"), "/actions");
}

/* ---- Control ---- */

static int read_state(int status, const json_t *answer, enum rest_state *ret_state,
                      struct error *err)
{
    static const struct {
        const char *text;
        enum rest_state state;
    } rows[] = {
        {"Not started", REST_NOT_STARTED}, {"Running", REST_RUNNING}, {"Paused", REST_PAUSED}};
    const char *text = json_string_value(json_object_get(answer, "state"));
    for (size_t i = 0; text != NULL && status == 200 && i < sizeof(rows) / sizeof(rows[0]); i++) {
        if (strcmp(text, rows[i].text) == 0) {
            *ret_state = rows[i].state;
            return 0;
        }
    }
    return error_set(err, ERROR_PROTOCOL, "firecracker does not say in which state it is");
}

static const char *read_fault(const json_t *answer)
{
    return json_string_value(json_object_get(answer, "fault_message"));
}

static uint64_t read_size(const json_t *answer)
{
    return json_u64(answer, "mem_size_mib") << 20;
}

static json_t *make_balloon(uint64_t bytes)
{
    return json_pack("{s:I}", "amount_mib", (json_int_t)((bytes + (1 << 20) - 1) >> 20));
}

static json_t *make_save(const char *scratch)
{
    return json_pack("{s:s, s:o, s:o}", "snapshot_type", "Full", "snapshot_path",
                     json_sprintf("%s/" STATE_FILE, scratch), "mem_file_path",
                     json_sprintf("%s/" MEMORY_FILE, scratch));
}

static json_t *make_load(const char *scratch, const json_t *incoming)
{
    const char *shared = json_text(incoming, "memory");
    size_t index = 0;
    json_t *tap = NULL;
    json_t *overrides = json_array();
    json_t *load = json_pack(
        "{s:o, s:{s:s, s:o}, s:b}", "snapshot_path", json_sprintf("%s/" STATE_FILE, scratch),
        "mem_backend", "backend_type", "File", "backend_path",
        shared[0] != '\0' ? json_string(shared) : json_sprintf("%s/" MEMORY_FILE, scratch),
        "resume_vm", 0);
    json_array_foreach(json_object_get(incoming, "taps"), index, tap)
    {
        json_array_append_new(overrides,
                              json_pack("{s:o, s:O}", "iface_id", json_sprintf("eth%zu", index),
                                        "host_dev_name", tap));
    }
    if (json_array_size(overrides) > 0) {
        json_object_set(load, "network_overrides", overrides);
    }
    json_decref(overrides);
    return load;
}

/* ---- Templates ---- */

static int stamp(int fd, uint64_t memory_bytes, int state_fd, int memory_fd, struct error *err)
{
    uint64_t bytes = 0;
    int r = bundle_split(fd, state_files, MEMORY_FILE, state_fd, memory_fd, &bytes, err);
    return r < 0 || bytes == memory_bytes
        ? r
        : error_set(err, ERROR_CORRUPT,
                    "firecracker has written %llu MiB of memory of a machine that has %llu",
                    (unsigned long long)(bytes >> 20), (unsigned long long)(memory_bytes >> 20));
}

static int try_state(int state_fd, struct error *err)
{
    return bundle_check(state_fd, small_files, err);
}

static void *connect_control(struct loop *loop, const char *folder,
                             const struct driver_events *events, void *context, struct error *err)
{
    static const struct rest_vmm_dialect dialect = {
        .rest = {"/", read_state, read_fault},
        .pause = {"PATCH", "/vm", "{\"state\":\"Paused\"}"},
        .resume = {"PATCH", "/vm", "{\"state\":\"Resumed\"}"},
        .power_down = {"PUT", "/actions", "{\"action_type\":\"SendCtrlAltDel\"}"},
        .size_path = "/machine-config",
        .read_size = read_size,
        .balloon = {"PATCH", "/balloon", NULL},
        .make_balloon = make_balloon,
        .state_files = state_files,
        .small_files = small_files,
        .save = {"PUT", "/snapshot/create", NULL},
        .load = {"PUT", "/snapshot/load", NULL},
        .make_save = make_save,
        .make_load = make_load,
    };
    return rest_vmm_open(loop, folder, &dialect, events, context, err);
}

const struct driver driver_firecracker = {
    .name = "firecracker",
    .probe = probe,
    .check = check,
    .make_order = make_order,
    .judge = judge,
    .connect = connect_control,
    .disconnect = rest_vmm_close,
    .pause = rest_vmm_pause,
    .resume = rest_vmm_resume,
    .power_down = rest_vmm_power_down,
    .balloon = rest_vmm_balloon,
    .save = rest_vmm_save,
    .load = rest_vmm_load,
    .stamp = stamp,
    .try_state = try_state,
};
