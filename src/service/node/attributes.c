/*
 * What this node has, as JSON.  Only what stays the same while it runs: what is used of it is not
 * here, so that its row is written when a disk was added, not when a file was.  (But for huge pages
 * that programs of others have: such a program takes them once.)
 *
 *   {"cpus": N, "numa": [{"number": N, "cpus": "0-3", "memory_bytes": N, "hugepages": [...]}],
 *    "memory_bytes": N, "disk_bytes": N, "kvm": "...", "hugepages": [{"name": "2048kB", "count":
 *    N, "others": N}], "drivers": [{"name", "version", "accelerator"}], "architecture": "x86_64",
 *    "kernel": "6.1.0", "blixard": "1.0", "devices": [{"name": "gpu", "count": 1}, ...],
 *    "passthrough": [{"address", "class", "model", "driver", "iommu_group", "numa", "function_of",
 *    "together", "name", "serial", "problem"}], "reserved": {"cpu_millis", "memory_bytes",
 * "disk_bytes"}, "overcommit": {"cpu_percent", "memory_percent", "disk_percent"}, "topology":
 * {"region", "zone", "rack"}}
 */
#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "base/file.h"
#include "base/text.h"
#include "base/version.h"

#include "engine/device/device.h"
#include "engine/hypervisor/hypervisor.h"
#include "engine/jail/jail.h"

#include "service/machine/machine.h"
#include "service/node/parts.h"

enum { FILE_MAX = 65536, DEVICES_MAX = 4096, NAME_MAX_SHOWN = 64 };

/* One line of a file, without its end; false: it is not there. */
static bool read_line(const char *path, char *ret_line, size_t size)
{
    BUFFER_OWNED struct buffer text = {0};
    struct error ignored = {0};
    if (file_read(path, FILE_MAX, &text, &ignored) < 0) {
        return false;
    }
    snprintf(ret_line, size, "%.*s", (int)strcspn(buffer_string(&text), "\n"),
             buffer_string(&text));
    text_make_printable(ret_line, false);
    return true;
}

static uint64_t read_number(const char *path, int base)
{
    char line[64];
    return read_line(path, line, sizeof(line)) ? strtoull(line, NULL, base) : 0;
}

/* "Node 0 MemTotal:  1234 kB", "MemTotal: 1234 kB" */
static uint64_t read_memory(const char *path)
{
    BUFFER_OWNED struct buffer text = {0};
    struct error ignored = {0};
    if (file_read(path, FILE_MAX, &text, &ignored) < 0) {
        return 0;
    }
    const char *at = strstr(buffer_string(&text), "MemTotal:");
    return at != NULL ? strtoull(at + strlen("MemTotal:"), NULL, 10) << 10 : 0;
}

static void write_count(struct json_writer *writer, const char *name, uint64_t count)
{
    json_write_begin_object(writer);
    json_write_field_string(writer, "name", name);
    json_write_field_u64(writer, "count", count);
    json_write_end_object(writer);
}

static void write_numa(struct json_writer *writer, const char *sys)
{
    MEMORY_OWNED struct jail_numa *nodes = memory_new(JAIL_NUMA_MAX, sizeof(*nodes));
    size_t count = jail_read_numa(sys, nodes, JAIL_NUMA_MAX);
    json_write_key(writer, "numa");
    json_write_begin_array(writer);
    for (size_t i = 0; i < count; i++) {
        json_write_begin_object(writer);
        json_write_field_u64(writer, "number", nodes[i].number);
        json_write_field_string(writer, "cpus", nodes[i].cpus);
        json_write_field_u64(writer, "memory_bytes", nodes[i].memory_bytes);
        json_write_key(writer, "hugepages");
        json_write_begin_array(writer);
        if (nodes[i].huge_2m > 0) {
            write_count(writer, "2048kB", nodes[i].huge_2m);
        }
        if (nodes[i].huge_1g > 0) {
            write_count(writer, "1048576kB", nodes[i].huge_1g);
        }
        json_write_end_array(writer);
        json_write_end_object(writer);
    }
    json_write_end_array(writer);
}

struct node_pages attributes_read_pages(const struct node_options *options, const char *sys)
{
    static const uint64_t sizes[PAGES_SIZES] = {HYPERVISOR_PAGE_2M, HYPERVISOR_PAGE_1G};
    struct node_pages others = {0};
    for (size_t i = 0; i < PAGES_SIZES; i++) {
        struct jail_huge huge = jail_read_huge(sys, sizes[i]);
        uint64_t own =
            options->machines != NULL ? machine_huge_pages(options->machines, sizes[i]) : 0;
        uint64_t taken = huge.count > huge.free ? huge.count - huge.free : 0;
        others.set_aside[i] = huge.count;
        others.taken[i] = taken > own ? taken - own : 0;
    }
    return others;
}

static void write_pages(struct json_writer *writer, const char *name, uint64_t count,
                        const struct node_pages *others)
{
    static const char *const names[PAGES_SIZES] = {"2048kB", "1048576kB"};
    json_write_begin_object(writer);
    json_write_field_string(writer, "name", name);
    json_write_field_u64(writer, "count", count);
    for (size_t i = 0; i < PAGES_SIZES; i++) {
        if (strcmp(name, names[i]) == 0 && others->taken[i] > 0) {
            json_write_field_u64(writer, "others", others->taken[i]);
        }
    }
    json_write_end_object(writer);
}

static void write_hugepages(struct json_writer *writer, const char *sys,
                            const struct node_pages *others)
{
    MEMORY_OWNED char *path = memory_format("%s/kernel/mm/hugepages", sys);
    DIR *folder = opendir(path);
    const struct dirent *entry = NULL;
    json_write_key(writer, "hugepages");
    json_write_begin_array(writer);
    while (folder != NULL && (entry = readdir(folder)) != NULL) {
        if (text_starts_with(entry->d_name, "hugepages-")) {
            MEMORY_OWNED char *count = memory_format("%s/%s/nr_hugepages", path, entry->d_name);
            write_pages(writer, entry->d_name + strlen("hugepages-"), read_number(count, 10),
                        others);
        }
    }
    if (folder != NULL) {
        closedir(folder);
    }
    json_write_end_array(writer);
}

/* What carries others is counted too: "sriov" are functions that can still be made of it. */
static void count_device(const char *folder, const char *name, uint64_t *counts, uint64_t *sriov)
{
    MEMORY_OWNED char *class_path = memory_format("%s/%s/class", folder, name);
    MEMORY_OWNED char *functions = memory_format("%s/%s/sriov_totalvfs", folder, name);
    size_t class = device_class_of((unsigned)(read_number(class_path, 16) >> 8));
    if (class < DEVICE_CLASSES) {
        counts[class]++;
    }
    *sriov += read_number(functions, 10);
}

static void write_devices(struct json_writer *writer, const char *sys)
{
    uint64_t counts[DEVICE_CLASSES] = {0};
    uint64_t sriov = 0;
    MEMORY_OWNED char *path = memory_format("%s/bus/pci/devices", sys);
    DIR *folder = opendir(path);
    const struct dirent *entry = NULL;
    for (int i = 0; folder != NULL && i < DEVICES_MAX && (entry = readdir(folder)) != NULL; i++) {
        if (entry->d_name[0] != '.') {
            count_device(path, entry->d_name, counts, &sriov);
        }
    }
    if (folder != NULL) {
        closedir(folder);
    }
    json_write_key(writer, "devices");
    json_write_begin_array(writer);
    for (size_t i = 0; i < DEVICE_CLASSES; i++) {
        if (counts[i] > 0) {
            write_count(writer, device_class_name(i), counts[i]);
        }
    }
    if (sriov > 0) {
        write_count(writer, "sriov-function", sriov);
    }
    json_write_end_array(writer);
}

static void write_on_pci(struct json_writer *writer, const struct device *device)
{
    json_write_field_string(writer, "iommu_group", device->group);
    if (device->numa >= 0) {
        json_write_field_u64(writer, "numa", (uint64_t)device->numa);
    }
    if (device->parent[0] != '\0') {
        json_write_field_string(writer, "function_of", device->parent);
    }
    json_write_key(writer, "together");
    json_write_begin_array(writer);
    for (size_t k = 0; k < device->together_count; k++) {
        json_write_string(writer, device->together[k]);
    }
    json_write_end_array(writer);
}

static const char *problem_of(const struct node_options *options, const struct device *device)
{
    bool lacks_vmm = device_is_usb(device->address) && options->hypervisor != NULL &&
        !hypervisor_passes_usb(options->hypervisor);
    return lacks_vmm ? "no VMM of this node passes USB on: qemu with usb-host is to"
                     : device->problem;
}

static void write_passed(struct json_writer *writer, const struct node_options *options,
                         const struct device *devices, size_t count)
{
    json_write_begin_array(writer);
    for (size_t i = 0; i < count; i++) {
        const struct device *device = &devices[i];
        bool is_usb = device_is_usb(device->address);
        if (device->group[0] == '\0' && !is_usb) {
            continue;
        }
        json_write_begin_object(writer);
        json_write_field_string(writer, "address", device->address);
        json_write_field_string(writer, "class", device->class_name);
        json_write_field_string(writer, "model", device->model);
        json_write_field_string(writer, "driver", device->driver);
        if (is_usb) {
            json_write_field_string(writer, "name", device->name);
            json_write_field_string(writer, "serial", device->serial);
        } else {
            write_on_pci(writer, device);
        }
        json_write_field_string(writer, "problem", problem_of(options, device));
        json_write_end_object(writer);
    }
    json_write_end_array(writer);
}

static const char *offered_of(const struct node_options *options)
{
    return options->devices != NULL ? options->devices : "none";
}

/* What a machine can be given, or could be if its operator let it. */
static void write_passthrough(struct json_writer *writer, const struct node_options *options,
                              const char *sys)
{
    MEMORY_OWNED struct device *devices = memory_new(DEVICE_LIST_MAX, sizeof(*devices));
    json_write_key(writer, "passthrough");
    write_passed(writer, options, devices, device_list(sys, offered_of(options), devices));
}

void attributes_write_usb(const struct node_options *options, const char *sys, struct buffer *out)
{
    struct json_writer writer = json_writer_to(out);
    MEMORY_OWNED struct device *devices = memory_new(DEVICE_LIST_MAX, sizeof(*devices));
    write_passed(&writer, options, devices,
                 device_list_usb(sys, offered_of(options), devices, DEVICE_LIST_MAX));
}

static void write_drivers(struct json_writer *writer, const struct hypervisor *hypervisor)
{
    size_t count = hypervisor != NULL ? hypervisor_driver_count(hypervisor) : 0;
    json_write_key(writer, "drivers");
    json_write_begin_array(writer);
    for (size_t i = 0; i < count; i++) {
        const struct hypervisor_driver_info *info = hypervisor_driver_at(hypervisor, i);
        if (info->is_usable) {
            json_write_begin_object(writer);
            json_write_field_string(writer, "name", info->name);
            json_write_field_string(writer, "version", info->version);
            json_write_field_string(writer, "accelerator", info->accelerator);
            json_write_field_bool(writer, "live_migration", info->can_migrate);
            json_write_end_object(writer);
        }
    }
    json_write_end_array(writer);
}

static void write_system(struct json_writer *writer, const struct node_options *options)
{
    struct utsname system;
    bool is_known = uname(&system) == 0;
    json_write_field_string(writer, "kvm", options->kvm);
    json_write_field_string(writer, "architecture", is_known ? system.machine : "");
    json_write_field_string(writer, "kernel", is_known ? system.release : "");
    json_write_field_string(writer, "blixard", blixard_version);
}

static void write_settings(struct json_writer *writer, const struct node_options *options)
{
    json_write_key(writer, "reserved");
    json_write_begin_object(writer);
    json_write_field_u64(writer, "cpu_millis", options->reserved_cpu_millis);
    json_write_field_u64(writer, "memory_bytes", options->reserved_memory_bytes);
    json_write_field_u64(writer, "disk_bytes", options->reserved_disk_bytes);
    json_write_end_object(writer);
    json_write_key(writer, "overcommit");
    json_write_begin_object(writer);
    json_write_field_u64(writer, "cpu_percent", options->overcommit_cpu_percent);
    json_write_field_u64(writer, "memory_percent", options->overcommit_memory_percent);
    json_write_field_u64(writer, "disk_percent", options->overcommit_disk_percent);
    json_write_end_object(writer);
    json_write_key(writer, "topology");
    json_write_begin_object(writer);
    json_write_field_string(writer, "region", options->region);
    json_write_field_string(writer, "zone", options->zone);
    json_write_field_string(writer, "rack", options->rack);
    json_write_end_object(writer);
}

void attributes_write(const struct node_options *options, const struct attributes_roots *roots,
                      const struct node_pages *others, struct buffer *out)
{
    struct json_writer writer = json_writer_to(out);
    struct statvfs disk;
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    MEMORY_OWNED char *memory = memory_format("%s/meminfo", roots->proc);
    json_write_begin_object(&writer);
    json_write_field_u64(&writer, "cpus", cpus > 0 ? (uint64_t)cpus : 1);
    json_write_field_u64(&writer, "memory_bytes", read_memory(memory));
    json_write_field_u64(
        &writer, "disk_bytes",
        statvfs(options->data_folder, &disk) == 0 ? (uint64_t)disk.f_blocks * disk.f_frsize : 0);
    write_numa(&writer, roots->sys);
    write_hugepages(&writer, roots->sys, others);
    write_devices(&writer, roots->sys);
    write_passthrough(&writer, options, roots->sys);
    write_drivers(&writer, options->hypervisor);
    write_system(&writer, options);
    write_settings(&writer, options);
    json_write_end_object(&writer);
}
