/*
 * QEMU's command line (qemu-system-x86_64(1), docs/system/i386/microvm.rst of QEMU 7.2).
 *
 * Machine type microvm: no BIOS worth the name, no PCI, virtio-mmio found by ACPI, a kernel entered
 * by PVH.  Machine type q35: a PC, whose devices are on PCI; what its disk brings is booted by its
 * BIOS or by UEFI.  The devices, their order and so their addresses follow from the spec alone: a
 * state that was saved with one is read with another.  What each word is for is said where it was
 * dearly bought.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"

#include "engine/hypervisor/qemu.h"
#include "engine/hypervisor/qemu_usb.h"
#include "engine/hypervisor/share.h"

/* virtio-blk is called virtio-blk-device or virtio-blk-pci. */
static const char *bus_of(const struct hypervisor_spec *spec)
{
    return spec->board == HYPERVISOR_Q35 ? "pci" : "device";
}

/* A file that holds UEFI's code or variables, as JSON: a path may hold commas. */
static void add_flash(const char *node, const char *path, bool read_only, struct order *order)
{
    JSON_OWNED json_t *block =
        json_pack("{s:s, s:s, s:b, s:{s:s, s:s, s:b, s:s}}", "driver", "raw", "node-name", node,
                  "read-only", read_only, "file", "driver", "file", "filename", path, "read-only",
                  read_only, "locking", read_only ? "off" : "auto");
    MEMORY_OWNED char *text = json_dumps(block, JSON_COMPACT);
    order_add(order, "-blockdev");
    order_add(order, text);
    order_add_mount(order, path, !read_only);
}

/*
 * microvm: rtc=on: without it rtc_cmos spins for more than a second.  acpi=on: Debian's kernels
 * find virtio-mmio in no other way; it also gives the power button.  q35: graphics=off has the
 * BIOS speak on the serial line.  mem-merge=off: by itself QEMU offers all memory to the kernel's
 * same-page merging, where the host has that on; what two machines have in common could then be
 * told by how long a write takes.
 */
static void add_board(const struct hypervisor_spec *spec, struct order *order)
{
    bool has_uefi = spec->board == HYPERVISOR_Q35 && spec->firmware != NULL;
    if (has_uefi) {
        add_flash("firmware", spec->firmware, true, order);
        add_flash("variables", spec->firmware_variables, spec->is_trial, order);
    }
    order_add(order, "-machine");
    switch (spec->board) {
    case HYPERVISOR_MICROVM:
        order_add(order,
                  "microvm,x-option-roms=off,rtc=on,acpi=on,isa-serial=on,mem-merge=off,"
                  "memory-backend=memory");
        order_add(order, "-global");
        order_add(order, "virtio-mmio.force-legacy=off");
        break;
    case HYPERVISOR_Q35:
        order_add_format(order, "q35,graphics=off,vmport=off,mem-merge=off%s%s",
                         spec->cell_count == 0 ? ",memory-backend=memory" : "",
                         has_uefi ? ",pflash0=firmware,pflash1=variables" : "");
        break;
    }
}

static void add_machine(const struct hypervisor_driver_info *info,
                        const struct hypervisor_spec *spec, struct order *order)
{
    bool is_kvm = strcmp(info->accelerator, "kvm") == 0;
    add_board(spec, order);
    order_add(order, "-accel");
    order_add(order, is_kvm ? "kvm" : "tcg");
    order_add(order, "-cpu");
    order_add(order, is_kvm ? "host" : "Nehalem"); /* x86-64-v2, and quicker to boot than max */
    order_add(order, "-smp");                      /* what is of one socket is of one NUMA node */
    if (spec->cell_count > 0) {
        order_add_format(order, "%u,sockets=%u,cores=1,threads=1", spec->cpus, spec->cpus);
    } else {
        order_add_format(order, "%u", spec->cpus);
    }
    order_add(order, "-m");
    order_add_format(order, "%" PRIu64 "M", spec->memory_bytes >> 20);
}

static bool is_since(const char *version, unsigned major, unsigned minor)
{
    unsigned have[2] = {0, 0};
    sscanf(version, "%u.%u", &have[0], &have[1]);
    return have[0] > major || (have[0] == major && have[1] >= minor);
}

/* ",host-nodes=0,host-nodes=1,policy=bind"; "": it is not bound.  A control group binds later than
 * huge pages are taken, and not each cell by itself. */
static char *binding_of(const struct hypervisor_driver_info *info,
                        const struct hypervisor_spec *spec, const char *nodes, uint64_t bytes)
{
    bool is_ours = spec->page_bytes > 0 || spec->cell_count > 0;
    bool can_bind = is_ours ? info->can_bind_huge && !spec->is_trial : info->can_bind;
    return can_bind && nodes != NULL && nodes[0] != '\0' &&
            pin_has_room(nodes, bytes, spec->page_bytes)
        ? pin_memory_words(nodes)
        : memory_copy_string("");
}

/* Memory of its own. */
static void add_own_memory(const struct hypervisor_driver_info *info,
                           const struct hypervisor_spec *spec, const char *id, const char *nodes,
                           uint64_t bytes, struct order *order)
{
    uint64_t mib = bytes >> 20;
    MEMORY_OWNED char *binding = binding_of(info, spec, nodes, bytes);
    order_add(order, "-object");
    if (spec->page_bytes > 0 && !spec->is_trial) {
        order_add_format(order,
                         "memory-backend-memfd,id=%s,size=%" PRIu64
                         "M,hugetlb=on,hugetlbsize=%" PRIu64
                         "M,share=on,prealloc=on,prealloc-threads=%u%s",
                         id, mib, spec->page_bytes >> 20, spec->cpus, binding);
    } else if (spec->share_count > 0) { /* virtiofsd reads and writes it, too */
        order_add_format(order, "memory-backend-memfd,id=%s,size=%" PRIu64 "M,share=on%s", id, mib,
                         binding);
    } else {
        order_add_format(order, "memory-backend-ram,id=%s,size=%" PRIu64 "M%s", id, mib, binding);
    }
}

/* "0,1" as words of QEMU's. */
static void add_cell(const struct hypervisor_driver_info *info, const struct hypervisor_spec *spec,
                     size_t index, struct order *order)
{
    BUFFER_OWNED struct buffer words = {0};
    const struct hypervisor_cell *cell = &spec->cells[index];
    const char *cpus = cell->cpus;
    unsigned long first = 0;
    unsigned long last = 0;
    char id[32];
    snprintf(id, sizeof(id), "cell%zu", index);
    add_own_memory(info, spec, id, cell->host_nodes, cell->memory_bytes, order);
    while (text_take_range(&cpus, &first, &last)) {
        buffer_append_format(&words, ",cpus=%lu-%lu", first, last);
    }
    order_add(order, "-numa");
    order_add_format(order, "node,nodeid=%zu,memdev=%s%s", index, id, buffer_string(&words));
}

/* Huge pages are all taken at the start: where there are too few, QEMU says so and ends, instead of
 * being killed (SIGBUS) when its guest touches one that is not there.
 *
 * The same id in all of them, so that a state saved with one is read with another.  What a guest
 * gives back, by its balloon or as free pages, QEMU punches out of the memory's file, even where
 * that is mapped privately (ram_block_discard_range() in softmmu/physmem.c): a template would lose
 * what other clones still read. */
static void add_memory(const struct hypervisor_driver_info *info,
                       const struct hypervisor_spec *spec, struct order *order)
{
    bool is_shared = spec->memory == HYPERVISOR_MEMORY_SHARED;
    /* Before 8.2 a file that is mapped privately is opened for writing all the same. */
    bool is_read_only = !is_shared && is_since(info->version, 8, 2);
    order->keeps_files = spec->memory == HYPERVISOR_MEMORY_COPY;
    for (size_t i = 0; i < spec->cell_count; i++) {
        add_cell(info, spec, i, order);
    }
    if (spec->cell_count > 0) {
        return;
    }
    switch (spec->memory) {
    case HYPERVISOR_MEMORY_OWN:
        add_own_memory(info, spec, "memory", spec->memory_nodes, spec->memory_bytes, order);
        break;
    case HYPERVISOR_MEMORY_SHARED:
    case HYPERVISOR_MEMORY_COPY:
        order_add(order, "-object");
        order_add_format(order,
                         "{\"qom-type\":\"memory-backend-file\",\"id\":\"memory\",\"size\":%" PRIu64
                         ",\"mem-path\":\"%s\",\"share\":%s%s}",
                         spec->memory_bytes, spec->memory_file, is_shared ? "true" : "false",
                         is_read_only ? ",\"readonly\":true,\"rom\":\"off\"" : "");
        order_add_mount(order, spec->memory_file, !is_read_only);
        break;
    }
}

/* tsc_early_khz: without it Linux may hang for ever under TCG when it calibrates its clock.  The
 * rest saves time: drivers that wait for what a microvm has not, tests of ciphers. */
static void add_kernel(const struct hypervisor_driver_info *info,
                       const struct hypervisor_spec *spec, struct order *order)
{
    bool is_tcg = strcmp(info->accelerator, "tcg") == 0;
    char clock[96] = "";
    uint64_t khz = is_tcg ? hypervisor_tsc_khz() : 0;
    if (spec->kernel == NULL) {
        return;
    }
    if (khz > 0) {
        snprintf(clock, sizeof(clock), " tsc=reliable no_timer_check tsc_early_khz=%" PRIu64, khz);
    }
    order_add(order, "-kernel");
    order_add(order, spec->kernel);
    order_add_mount(order, spec->kernel, false);
    if (spec->initrd != NULL) {
        order_add(order, "-initrd");
        order_add(order, spec->initrd);
        order_add_mount(order, spec->initrd, false);
    }
    order_add(order, "-append");
    order_add_format(
        order,
        "console=ttyS0 reboot=t panic=-1 quiet initcall_blacklist=cmos_init,i8042_init "
        "edd=off cryptomgr.notests%s%s%s%s",
        is_tcg ? " nokaslr mitigations=off" : "", clock, spec->cmdline[0] != '\0' ? " " : "",
        spec->cmdline);
}

/* What is only read.  Whatever the head of a file says lies below it is not believed. */
static json_t *lower_node(const char *path, const char *format, json_t *owned_backing,
                          struct order *order)
{
    bool is_raw = format == NULL || strcmp(format, "raw") == 0;
    json_t *node = json_pack("{s:s, s:b, s:{s:s, s:s, s:s, s:b}}", "driver",
                             is_raw ? "raw" : "qcow2", "read-only", 1, "file", "driver", "file",
                             "filename", path, "locking", "off", "read-only", 1);
    if (!is_raw) {
        json_object_set(node, "backing", owned_backing);
    }
    json_decref(owned_backing);
    order_add_mount(order, path, false);
    return node;
}

/* As JSON: a path may hold commas. */
static void add_disk(const struct hypervisor_spec *spec, size_t index, struct order *order)
{
    const struct hypervisor_disk *disk = &spec->disks[index];
    bool boots = spec->kernel == NULL && index == 0;
    char node[32];
    snprintf(node, sizeof(node), "disk%zu", index);
    JSON_OWNED json_t *file =
        json_pack("{s:s, s:s, s:s, s:b}", "driver", "file", "filename", disk->path, "locking",
                  disk->read_only ? "off" : "auto", "read-only", disk->read_only);
    JSON_OWNED json_t *block =
        json_pack("{s:s, s:s, s:O, s:b, s:s}", "driver", disk->format, "node-name", node, "file",
                  file, "read-only", disk->read_only, "discard", "unmap");
    if (disk->base != NULL) {
        json_t *below = disk->below != NULL
            ? lower_node(disk->below, disk->below_format, json_null(), order)
            : json_null();
        json_object_set_new(block, "backing",
                            lower_node(disk->base, disk->base_format, below, order));
    }
    MEMORY_OWNED char *text = json_dumps(block, JSON_COMPACT);
    order_add(order, "-blockdev");
    order_add(order, text);
    order_add(order, "-device");
    order_add_format(order, "virtio-blk-%s,drive=%s,id=blk%zu,serial=%s,werror=enospc%s",
                     bus_of(spec), node, index, disk->serial, boots ? ",bootindex=0" : "");
    order_add_mount(order, disk->path, !disk->read_only);
}

static void add_user_network(const struct hypervisor_nic *nic, size_t index, struct order *order)
{
    JSON_OWNED json_t *forwards = json_array();
    for (size_t i = 0; i < nic->forward_count; i++) {
        const struct hypervisor_forward *forward = &nic->forwards[i];
        json_array_append_new(
            forwards,
            json_pack("{s:o}", "str",
                      json_sprintf("%s:%s:%u-:%u", forward->is_udp ? "udp" : "tcp",
                                   forward->address, forward->host_port, forward->guest_port)));
    }
    JSON_OWNED json_t *network = json_pack("{s:s, s:o, s:O}", "type", "user", "id",
                                           json_sprintf("net%zu", index), "hostfwd", forwards);
    MEMORY_OWNED char *text = json_dumps(network, JSON_COMPACT);
    order_add(order, "-netdev");
    order_add(order, text);
    order->network = true;
}

/* Opened by the monitor: QEMU needs no privilege for it, and stays without the host's network. */
static void add_tap(const struct hypervisor_nic *nic, size_t index, struct order *order)
{
    int fd = order_add_tap(order, nic->tap);
    order_add(order, "-netdev");
    if (order->vhost) {
        order_add_format(order, "tap,id=net%zu,fd=%d,vhost=on,vhostfd=%d", index, fd,
                         fd - LAUNCH_FD_TAPS + LAUNCH_FD_VHOST);
    } else {
        order_add_format(order, "tap,id=net%zu,fd=%d,vhost=off", index, fd);
    }
}

static void add_nic(const struct hypervisor_spec *spec, size_t index, struct order *order)
{
    const struct hypervisor_nic *nic = &spec->nics[index];
    if (nic->tap != NULL) {
        add_tap(nic, index, order);
    } else {
        add_user_network(nic, index, order);
    }
    order_add(order, "-device");
    /* romfile: nothing is booted from a network. */
    order_add_format(order, "virtio-net-%s,netdev=net%zu,id=nic%zu,mac=%s%s", bus_of(spec), index,
                     index, nic->mac, spec->board == HYPERVISOR_Q35 ? ",romfile=" : "");
}

static void add_share(const struct hypervisor_share *share, size_t index, struct order *order)
{
    int fd = order_add_share(order, share);
    order_add(order, "-chardev");
    order_add_format(order, "socket,id=fs%zu,fd=%d", index, fd);
    order_add(order, "-device");
    order_add_format(order, "vhost-user-fs-device,chardev=fs%zu,id=share%zu,tag=%s", index, index,
                     share->tag);
}

/*
 * Each device of the host (what has its bus and number) is behind a port of its own, as it is on
 * boards: drivers look for the port.  Its functions are numbered anew, since a slot without a
 * function 0 is empty for a guest.  rombar: firmware runs no program of a network card.
 */
static void add_devices(const struct hypervisor_spec *spec, struct order *order)
{
    enum { SLOT_LENGTH = sizeof("0000:01:00") - 1 };
    for (size_t i = 0; i < spec->device_count; i++) {
        size_t function = 0;
        size_t port = i;
        bool has_more = false;
        for (size_t k = 0; k < spec->device_count; k++) {
            bool is_same =
                strncmp(spec->devices[k].address, spec->devices[i].address, SLOT_LENGTH) == 0;
            function += is_same && k < i;
            has_more = has_more || (is_same && k > i);
            port = is_same && k < port ? k : port;
        }
        if (port == i) {
            order_add(order, "-device");
            order_add_format(order, "pcie-root-port,id=port%zu,chassis=%zu", port, port + 1);
        }
        order_add(order, "-device");
        order_add_format(order, "vfio-pci,host=%s,id=device%zu,bus=port%zu,addr=0x0.0x%zx%s%s",
                         spec->devices[i].address, i, port, function,
                         function == 0 && has_more ? ",multifunction=on" : "",
                         spec->devices[i].has_rom ? "" : ",rombar=0");
    }
    order_add_passed(order, spec);
    if (spec->has_usb) { /* more ports than a machine has devices: QEMU lays a hub at the last */
        order_add(order, "-device");
        order_add(order, "qemu-xhci,id=" QEMU_USB_CONTROLLER ",p2=15,p3=15");
    }
}

/* Sockets are opened by the monitor, so that the VMM needs no folder that it may write in. */
static void add_channels(const struct hypervisor_spec *spec, struct order *order)
{
    int control = order_add_socket(order, QEMU_CONTROL_SOCKET);
    int agent = order_add_socket(order, HYPERVISOR_AGENT_SOCKET);
    order_add(order, "-chardev");
    order_add_format(order, "socket,id=control,fd=%d,server=on,wait=off", control);
    order_add(order, "-mon");
    order_add(order, "chardev=control,mode=control");
    order_add(order, "-chardev");
    order_add(order, "stdio,id=console,signal=off");
    order_add(order, "-serial");
    order_add(order, "chardev:console");
    order_add(order, "-device");
    order_add_format(order, "virtio-serial-%s,id=channels", bus_of(spec));
    order_add(order, "-chardev");
    order_add_format(order, "socket,id=agent,fd=%d,server=on,wait=off", agent);
    order_add(order, "-device");
    order_add(order, "virtserialport,bus=channels.0,nr=1,chardev=agent,name=blixard.agent");
}

void qemu_make_order(const struct hypervisor_driver_info *info, const char *program,
                     const struct hypervisor_spec *spec, struct order *order)
{
    static const char *const places[] = {
        "/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/resolv.conf", "/nix/store"};
    order_add(order, program);
    order_add(order, "-name");
    order_add_format(order, "%s,debug-threads=on", spec->name);
    order_add(order, "-nodefaults");
    order_add(order, "-no-user-config");
    order_add(order, "-display");
    order_add(order, "none");
    add_machine(info, spec, order);
    add_memory(info, spec, order);
    add_kernel(info, spec, order);
    add_channels(spec, order);
    for (size_t i = 0; i < spec->disk_count; i++) {
        add_disk(spec, i, order);
    }
    /* It needs the processor's events, which emulation does not have. */
    order->vhost =
        strcmp(info->accelerator, "kvm") == 0 && access("/dev/vhost-net", R_OK | W_OK) == 0;
    for (size_t i = 0; i < spec->nic_count; i++) {
        add_nic(spec, i, order);
    }
    order_add(order, "-device");
    order_add_format(order, "virtio-scsi-%s,id=volumes", bus_of(spec)); /* see qemu_volume.c */
    add_devices(spec, order);
    for (size_t i = 0; i < spec->share_count; i++) {
        add_share(&spec->shares[i], i, order);
    }
    order->share_program = spec->share_count > 0 ? share_find_program() : NULL;
    order_add(order, "-object");
    order_add(order, "rng-random,id=random,filename=/dev/urandom");
    order_add(order, "-device");
    order_add_format(order, "virtio-rng-%s,rng=random", bus_of(spec));
    if (spec->page_bytes == 0) { /* a huge page that was given back may be gone */
        order_add(order, "-device");
        order_add_format(order,
                         "virtio-balloon-%s,id=balloon,deflate-on-oom=on,free-page-reporting=on",
                         bus_of(spec));
    }
    order_add(order, "-device");
    order_add(order, "pvpanic");
    order_add(order, "-action");
    order_add(order, "panic=exit-failure");
    order_add(order, "-sandbox");
    order_add(order, "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
    if (spec->is_incoming) {
        order_add(order, "-S");
        order_add(order, "-incoming");
        order_add(order, "defer");
    }
    for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
        order_add_mount(order, places[i], false);
    }
    order_add_mount(order, program, false);
    if (strcmp(info->accelerator, "kvm") == 0) {
        order_add_mount(order, "/dev/kvm", true);
    }
}
