/* The drivers that are here, and what they are asked before anything runs. */
#include "engine/hypervisor/hypervisor.h"

#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <x86intrin.h>

#include "base/error.h"
#include "base/file.h"
#include "base/memory.h"

#include "engine/hypervisor/driver.h"
#include "engine/hypervisor/share.h"
#include "engine/net/net.h"

static const struct driver *const drivers[] = {&driver_qemu, &driver_cloud_hypervisor,
                                               &driver_firecracker, &driver_runner};
enum { DRIVERS = sizeof(drivers) / sizeof(drivers[0]), TSC_MS = 50 };

/* ---- The clock of the processor ---- */

static uint64_t raw_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC_RAW, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* Since the daemon began: only a machine that is started at once has to wait for it. */
static uint64_t first_ns;
static uint64_t first_tsc;

uint64_t hypervisor_tsc_khz(void)
{
    static uint64_t khz;
    if (khz == 0) {
        uint64_t now_ns = raw_ns();
        while (now_ns - first_ns < (uint64_t)TSC_MS * 1000000) {
            now_ns = raw_ns();
        }
        khz = (uint64_t)((double)(__rdtsc() - first_tsc) * 1e6 / (double)(now_ns - first_ns));
    }
    return khz;
}

/* ---- Life ---- */

struct hypervisor *hypervisor_open(struct loop *loop, const struct hypervisor_options *options)
{
    struct hypervisor *hypervisor = NEW(struct hypervisor);
    hypervisor->loop = loop;
    first_ns = raw_ns();
    first_tsc = __rdtsc();
    hypervisor->monitor = options->monitor != NULL ? memory_copy_string(options->monitor)
                                                   : file_find_companion("blixard-monitor");
    hypervisor->found = memory_new(DRIVERS, sizeof(*hypervisor->found));
    hypervisor->found_count = DRIVERS;
    char limits_text[sizeof(hypervisor->found[0].info.limits)];
    unsigned limits = jail_group_probe(limits_text, sizeof(limits_text));
    for (size_t i = 0; i < DRIVERS; i++) {
        struct found *found = &hypervisor->found[i];
        found->driver = drivers[i];
        found->info.name = drivers[i]->name;
        drivers[i]->probe(options, &found->info, &found->program);
        found->info.can_limit_cpu = (limits & JAIL_GROUP_CPU) != 0;
        snprintf(found->info.limits, sizeof(found->info.limits), "%s", limits_text);
        if (hypervisor->monitor == NULL && found->info.is_usable) {
            found->info.is_usable = false;
            snprintf(
                found->info.problem, sizeof(found->info.problem),
                "there is no blixard-monitor beside blixard, in ../libexec/blixard or in PATH");
        }
    }
    return hypervisor;
}

void hypervisor_close(struct hypervisor *hypervisor)
{
    if (hypervisor == NULL) {
        return;
    }
    for (size_t i = 0; i < hypervisor->found_count; i++) {
        free(hypervisor->found[i].program);
    }
    free(hypervisor->found);
    free(hypervisor->monitor);
    free(hypervisor);
}

size_t hypervisor_driver_count(const struct hypervisor *hypervisor)
{
    return hypervisor->found_count;
}

const struct hypervisor_driver_info *hypervisor_driver_at(const struct hypervisor *hypervisor,
                                                          size_t index)
{
    return &hypervisor->found[index].info;
}

const struct found *hypervisor_find(const struct hypervisor *hypervisor, const char *name)
{
    for (size_t i = 0; i < hypervisor->found_count; i++) {
        const struct found *found = &hypervisor->found[i];
        if (name == NULL ? found->info.is_usable && !found->info.needs_runner
                         : strcmp(found->info.name, name) == 0) {
            return found;
        }
    }
    return NULL;
}

bool hypervisor_passes_usb(const struct hypervisor *hypervisor)
{
    bool passes = false;
    for (size_t i = 0; i < hypervisor_driver_count(hypervisor); i++) {
        const struct hypervisor_driver_info *info = hypervisor_driver_at(hypervisor, i);
        passes = passes || (info->is_usable && info->can_pass_usb);
    }
    return passes;
}

const struct hypervisor_driver_info *hypervisor_driver_info(const struct hypervisor *hypervisor,
                                                            const char *name)
{
    const struct found *found =
        hypervisor_find(hypervisor, name != NULL && name[0] != '\0' ? name : NULL);
    found = found != NULL ? found : hypervisor_find(hypervisor, NULL);
    return found != NULL ? &found->info : &hypervisor->found[0].info;
}

/* ---- Before it runs ---- */

static int check_driver(const struct found *found, const char *name, struct error *err)
{
    if (found == NULL && name != NULL) {
        return error_set(
            err, ERROR_INVALID,
            "there is no driver \"%.40s\"; there are: qemu, cloud-hypervisor, firecracker, runner",
            name);
    }
    if (found == NULL || !found->info.is_usable) {
        return error_set(err, ERROR_UNSUPPORTED, "this node cannot run machines%s%.40s: %s",
                         found != NULL ? " by " : "", found != NULL ? found->info.name : "",
                         found != NULL ? found->info.problem : "no driver is usable");
    }
    return 0;
}

bool hypervisor_rates_are_set(const struct hypervisor_rates *rates)
{
    const struct hypervisor_rates none = {0};
    return memcmp(rates, &none, sizeof(none)) != 0;
}

static int check_rates(const struct found *found, const struct hypervisor_rates *rates,
                       struct error *err)
{
    bool is_each = rates->iops.reads > 0 || rates->iops.writes > 0 || rates->bytes.reads > 0 ||
        rates->bytes.writes > 0;
    return !is_each || found->info.can_rate_each
        ? 0
        : error_set(err, ERROR_UNSUPPORTED,
                    "%s has one rate for reading and writing together: limit both in one "
                    "(disk_iops, disk_bandwidth)",
                    found->info.name);
}

static bool is_serial(const char *serial)
{
    size_t length = strlen(serial);
    return length > 0 && length <= 20 &&
        strspn(serial, "abcdefghijklmnopqrstuvwxyz0123456789-") == length;
}

/* Paths become JSON and words of a command line: they are ours, and still looked at. */
static bool is_path(const char *path)
{
    return path[0] == '/' && strlen(path) < 1024 && strpbrk(path, "\"\\\n") == NULL;
}

static int check_parts(const struct hypervisor_spec *spec, struct error *err)
{
    if (spec->disk_count > HYPERVISOR_DISKS_MAX || spec->nic_count > HYPERVISOR_NICS_MAX) {
        return error_set(err, ERROR_INVALID, "a machine has at most %d disks and %d networks",
                         HYPERVISOR_DISKS_MAX, HYPERVISOR_NICS_MAX);
    }
    for (size_t i = 0; i < spec->disk_count; i++) {
        const struct hypervisor_disk *disk = &spec->disks[i];
        if (!is_path(disk->path) || (disk->base != NULL && !is_path(disk->base)) ||
            (disk->below != NULL && !is_path(disk->below)) || !is_serial(disk->serial)) {
            return error_set(err, ERROR_INVALID, "disk %zu (%.100s) has no good path or serial", i,
                             disk->path);
        }
    }
    for (size_t i = 0; i < spec->nic_count; i++) {
        const struct hypervisor_nic *nic = &spec->nics[i];
        if (nic->tap != NULL && (!net_name_is_valid(nic->tap) || nic->forward_count > 0)) {
            return error_set(err, ERROR_INVALID,
                             "network %zu: the tap's name is no name, or ports are published by "
                             "the VMM, which cannot at a tap",
                             i);
        }
        if (nic->forward_count > HYPERVISOR_FORWARDS_MAX) {
            return error_set(err, ERROR_INVALID, "a network has at most %d published ports",
                             HYPERVISOR_FORWARDS_MAX);
        }
    }
    if (spec->runner != NULL) {
        return 0;
    }
    if (spec->kernel == NULL && spec->board == HYPERVISOR_MICROVM) {
        return error_set(err, ERROR_INVALID,
                         "a disk that brings its own boot loader needs the machine type q35");
    }
    bool has_files = (spec->kernel == NULL || is_path(spec->kernel)) &&
        (spec->initrd == NULL || is_path(spec->initrd)) &&
        (spec->memory_file == NULL || is_path(spec->memory_file));
    return has_files && strlen(spec->cmdline) < 1024
        ? 0
        : error_set(err, ERROR_INVALID, "the kernel's path or command line is not usable");
}

static int check_shares(const struct found *found, const struct hypervisor_spec *spec,
                        struct error *err)
{
    if (!found->info.can_share) {
        return error_set(err, ERROR_UNSUPPORTED, "shares: %s",
                         found->info.share_problem[0] != '\0' ? found->info.share_problem
                                                              : "this driver has none");
    }
    if (spec->board != HYPERVISOR_MICROVM) {
        return error_set(err, ERROR_UNSUPPORTED,
                         "shares: a disk that boots by itself is not told what to mount");
    }
    if (spec->memory != HYPERVISOR_MEMORY_OWN || spec->is_incoming) {
        return error_set(err, ERROR_UNSUPPORTED,
                         "a machine with shares begins by booting: what virtiofsd knows of it is "
                         "not saved");
    }
    for (size_t i = 0; i < spec->share_count; i++) {
        if (!is_path(spec->shares[i].path)) {
            return error_set(err, ERROR_INVALID, "share %.200s is no good path",
                             spec->shares[i].path);
        }
    }
    return error_check_range("shares", spec->share_count, 0, HYPERVISOR_SHARES_MAX, err);
}

/* What is shared with a file, or with clones, is of pages as files have them. */
static int check_pages(const struct found *found, const struct hypervisor_spec *spec,
                       struct error *err)
{
    uint64_t page = spec->page_bytes;
    const char *size = page == HYPERVISOR_PAGE_2M ? "2MiB" : "1GiB";
    if (page != HYPERVISOR_PAGE_2M && page != HYPERVISOR_PAGE_1G) {
        return error_set(err, ERROR_INVALID, "huge pages are of 2MiB or of 1GiB");
    }
    if (page > found->info.page_bytes_max) {
        return error_set(err, ERROR_UNSUPPORTED, "%.40s gives machines %s", found->info.name,
                         found->info.page_bytes_max == 0 ? "no huge pages"
                                                         : "huge pages of 2MiB alone");
    }
    if (spec->memory_bytes % page != 0) {
        return error_set(err, ERROR_INVALID,
                         "huge pages of %s: memory is to be a multiple of that, and %llu MiB is "
                         "not",
                         size, (unsigned long long)(spec->memory_bytes >> 20));
    }
    return spec->memory == HYPERVISOR_MEMORY_OWN
        ? 0
        : error_set(err, ERROR_UNSUPPORTED, "memory of huge pages is not shared with clones");
}

static int check_devices(const struct found *found, const struct hypervisor_spec *spec,
                         struct error *err)
{
    if (spec->device_count > 0 && !found->info.can_pass_devices) {
        return error_set(err, ERROR_UNSUPPORTED,
                         "devices: the driver %.40s passes none through; qemu and "
                         "cloud-hypervisor do",
                         found->info.name);
    }
    if (spec->has_usb && !found->info.can_pass_usb) {
        return error_set(err, ERROR_UNSUPPORTED,
                         "devices: the driver %.40s passes none on USB; qemu does, where it has "
                         "usb-host",
                         found->info.name);
    }
    return spec->device_count <= HYPERVISOR_DEVICES_MAX
        ? 0
        : error_set(err, ERROR_INVALID, "a machine has at most %d functions of devices",
                    HYPERVISOR_DEVICES_MAX);
}

static int check_cells(const struct found *found, const struct hypervisor_spec *spec,
                       struct error *err)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < spec->cell_count; i++) {
        bytes += spec->cells[i].memory_bytes;
    }
    if (!found->info.has_cells || (found->info.has_pc && spec->board != HYPERVISOR_Q35) ||
        spec->memory != HYPERVISOR_MEMORY_OWN) {
        return error_set(
            err, ERROR_UNSUPPORTED,
            "a guest sees NUMA nodes under cloud-hypervisor, or under qemu in a machine of type "
            "q35, with memory that no clone shares");
    }
    return spec->cell_count <= HYPERVISOR_CELLS_MAX && bytes == spec->memory_bytes
        ? 0
        : error_set(err, ERROR_INVALID, "the NUMA nodes of a guest are not all of its memory");
}

int hypervisor_check(const struct hypervisor *hypervisor, const struct hypervisor_spec *spec,
                     struct error *err)
{
    const struct found *found = hypervisor_find(hypervisor, spec->driver);
    int r = check_driver(found, spec->driver, err);
    r = r < 0 ? r : error_check_range("cpus", spec->cpus, 1, HYPERVISOR_CPUS_MAX, err);
    r = r < 0 ? r
              : error_check_range("memory", spec->memory_bytes, HYPERVISOR_MEMORY_MIN,
                                  HYPERVISOR_MEMORY_MAX, err);
    if (r == 0 && spec->board == HYPERVISOR_Q35 && !found->info.has_pc) {
        return error_set(err, ERROR_UNSUPPORTED,
                         "the driver %.40s has no machine type q35, which disk images need",
                         found->info.name);
    }
    r = r < 0 ? r : check_parts(spec, err);
    for (size_t i = 0; i < spec->disk_count && r == 0; i++) {
        r = check_rates(found, &spec->disks[i].rates, err);
    }
    r = r < 0 || spec->share_count == 0 ? r : check_shares(found, spec, err);
    r = r < 0 || spec->page_bytes == 0 ? r : check_pages(found, spec, err);
    r = r < 0 ? r : check_devices(found, spec, err);
    r = r < 0 || spec->cell_count == 0 ? r : check_cells(found, spec, err);
    if (r == 0 && spec->cpu_limit_percent > 0 && !found->info.can_limit_cpu) {
        return error_set(err, ERROR_UNSUPPORTED, "cpu limit: this node limits %s",
                         found->info.limits);
    }
    return r < 0 ? r : found->driver->check(&found->info, spec, err);
}

/* QEMU brings one where it is not the distribution's: PREFIX/bin beside PREFIX/share/qemu. */
static bool find_beside_qemu(char ret_code[PATH_MAX], char ret_variables[PATH_MAX])
{
    MEMORY_OWNED char *program = file_find_program("qemu-system-x86_64");
    char *real = program != NULL ? realpath(program, NULL) : NULL;
    const char *folder = real != NULL ? dirname(dirname(real)) : NULL;
    if (folder != NULL) {
        snprintf(ret_code, PATH_MAX, "%s/share/qemu/edk2-x86_64-code.fd", folder);
        snprintf(ret_variables, PATH_MAX, "%s/share/qemu/edk2-i386-vars.fd", folder);
    }
    free(real);
    return folder != NULL && file_exists(ret_code) && file_exists(ret_variables);
}

int hypervisor_find_firmware(char ret_code[PATH_MAX], char ret_variables[PATH_MAX],
                             struct error *err)
{
    static const char *const places[][2] = {
        {"/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"},
        {"/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"},
        {"/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"},
        {"/run/libvirt/nix-ovmf/OVMF_CODE.fd", "/run/libvirt/nix-ovmf/OVMF_VARS.fd"},
    };
    for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
        if (file_exists(places[i][0]) && file_exists(places[i][1])) {
            snprintf(ret_code, PATH_MAX, "%s", places[i][0]);
            snprintf(ret_variables, PATH_MAX, "%s", places[i][1]);
            return 0;
        }
    }
    return find_beside_qemu(ret_code, ret_variables)
        ? 0
        : error_set(err, ERROR_NOT_FOUND,
                    "this node has no UEFI firmware (Debian: ovmf; elsewhere what QEMU brings, "
                    "share/qemu/edk2-x86_64-code.fd)");
}

char *hypervisor_find_share_daemon(void)
{
    return share_find_program();
}

int hypervisor_set_lease(const char *folder, uint64_t until_ms, struct error *err)
{
    return launch_write_lease(folder, until_ms, err);
}

bool hypervisor_has_lease(const char *folder)
{
    return launch_has_lease(folder);
}

const char *hypervisor_end_text(enum hypervisor_end end)
{
    static const char *const texts[] = {
        [HYPERVISOR_END_SHUTDOWN] = "the guest powered off",
        [HYPERVISOR_END_RESET] = "the guest rebooted",
        [HYPERVISOR_END_PANIC] = "the guest's kernel panicked",
        [HYPERVISOR_END_KILLED] = "it was ended",
        [HYPERVISOR_END_FAILED] = "its VMM failed",
    };
    return texts[end];
}
