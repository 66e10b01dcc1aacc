/* QEMU's command line, and what is refused before there is one. */
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "engine/hypervisor/qemu.h"

#include "test/lib/test.h"

static const struct hypervisor_driver_info emulated = {
    .name = "qemu", .is_usable = true, .accelerator = "tcg"};

static bool has_word(const struct order *order, const char *text)
{
    for (size_t i = 0; i < order->word_count; i++) {
        if (strstr(order->words[i], text) != NULL) {
            return true;
        }
    }
    return false;
}

static bool has_mount(const struct order *order, const char *path)
{
    bool has = false;
    for (size_t i = 0; i < order->mount_count; i++) {
        has = has || strcmp(order->mounts[i].path, path) == 0;
    }
    return has;
}

static struct hypervisor_spec small(void)
{
    return (struct hypervisor_spec){.name = "default/web",
                                    .folder = "/f",
                                    .cpus = 2,
                                    .memory_bytes = UINT64_C(256) << 20,
                                    .kernel = "/k",
                                    .initrd = "/i",
                                    .cmdline = "quiet"};
}

TEST(hypervisor, memory_is_not_merged_with_that_of_others)
{
    static const enum hypervisor_board boards[] = {HYPERVISOR_MICROVM, HYPERVISOR_Q35};
    for (size_t i = 0; i < sizeof(boards) / sizeof(boards[0]); i++) {
        struct hypervisor_spec spec = small();
        struct order order = {0};
        spec.board = boards[i];
        qemu_make_order(&emulated, "/usr/bin/qemu", &spec, &order);
        EXPECT(has_word(&order, "mem-merge=off"));
        order_done(&order);
    }
}

TEST(hypervisor, a_command_line_has_what_a_machine_is)
{
    const struct hypervisor_disk disk = {
        .path = "/a,b", .format = "raw", .read_only = true, .serial = "root"};
    const struct hypervisor_forward forward = {
        .address = "127.0.0.1", .host_port = 8080, .guest_port = 80};
    const struct hypervisor_nic nic = {
        .mac = "02:00:00:00:00:01", .forwards = &forward, .forward_count = 1};
    struct hypervisor_spec spec = small();
    struct order order = {0};
    spec.disks = &disk;
    spec.disk_count = 1;
    spec.nics = &nic;
    spec.nic_count = 1;
    qemu_make_order(&emulated, "/usr/bin/qemu", &spec, &order);
    EXPECT(strcmp(order.words[0], "/usr/bin/qemu") == 0);
    EXPECT(has_word(&order, "tsc_early_khz=")); /* without it Linux may hang under emulation */
    EXPECT(has_word(&order, "\"filename\":\"/a,b\"") || has_word(&order, "\"filename\": \"/a,b\""));
    EXPECT(has_word(&order, "tcp:127.0.0.1:8080-:80"));
    EXPECT(has_word(&order, "spawn=deny"));
    EXPECT(order.network);
    EXPECT(order.socket_count == 2);
    order_done(&order);
}

/* Two NUMA nodes are two words; where the control group binds (and with files that others share),
 * QEMU is not told. */
TEST(hypervisor, memory_is_bound_by_the_driver_where_it_is_asked_to)
{
    struct hypervisor_driver_info binding = emulated;
    struct hypervisor_spec spec = small();
    struct order order = {0};
    struct order plain = {0};
    struct order any = {0};
    binding.can_bind = true;
    spec.memory_bytes = UINT64_C(1) << 20;
    spec.memory_nodes = "0,1";
    qemu_make_order(&binding, "/usr/bin/qemu", &spec, &order);
    EXPECT(has_word(&order, "id=memory,size=1M,host-nodes=0,host-nodes=1,policy=bind"));
    qemu_make_order(&emulated, "/usr/bin/qemu", &spec, &plain);
    EXPECT(!has_word(&plain, "policy=bind"));
    spec.memory_nodes = "";
    qemu_make_order(&binding, "/usr/bin/qemu", &spec, &any);
    EXPECT(!has_word(&any, "policy=bind"));
    order_done(&order);
    order_done(&plain);
    order_done(&any);
}

/* All are taken at the start, of the NUMA nodes that are said, whoever binds what else there is;
 * and none is given back, which might not come again. */
TEST(hypervisor, memory_of_huge_pages_is_taken_at_once_and_kept)
{
    struct hypervisor_driver_info binding = emulated;
    struct hypervisor_spec spec = small();
    struct order plain = {0};
    struct order order = {0};
    struct order trial = {0};
    binding.can_bind_huge = true;
    spec.memory_bytes = UINT64_C(1) << 30;
    spec.memory_nodes = "0";
    qemu_make_order(&binding, "/usr/bin/qemu", &spec, &plain);
    EXPECT(!has_word(&plain, "hugetlb") && has_word(&plain, "virtio-balloon"));
    spec.page_bytes = HYPERVISOR_PAGE_1G;
    qemu_make_order(&binding, "/usr/bin/qemu", &spec, &order);
    EXPECT(has_word(&order,
                    "memory-backend-memfd,id=memory,size=1024M,hugetlb=on,hugetlbsize=1024M,"
                    "share=on,prealloc=on,prealloc-threads=2"));
    EXPECT(!has_word(&order, "balloon"));
    EXPECT(has_word(&order, "policy=bind") == pin_has_room("0", 1 << 30, HYPERVISOR_PAGE_1G));
    spec.is_trial = true; /* it has the same devices, and takes no pages */
    qemu_make_order(&binding, "/usr/bin/qemu", &spec, &trial);
    EXPECT(has_word(&trial, "memory-backend-ram") && !has_word(&trial, "balloon"));
    order_done(&plain);
    order_done(&order);
    order_done(&trial);
}

static void put(const char *node, const char *cpus)
{
    struct error err = {0};
    MEMORY_OWNED char *folder = memory_format("%s/devices/system/node/%s", test_folder(), node);
    MEMORY_OWNED char *path = memory_format("%s/cpulist", folder);
    EXPECT(file_make_folder(folder, 0700, &err) == 0);
    EXPECT(file_write(path, cpus, strlen(cpus), 0600, &err) == 0);
}

/*
 * Goal: a guest sees the NUMA nodes that its CPUs are of, whatever their numbers are, with its
 * memory in proportion; none where there is one, or one of its CPUs is of no node that is known.
 * Method: a tree of a host with two nodes whose CPUs take turns.
 */
TEST(hypervisor, a_guest_lies_as_its_cpus_do)
{
    struct hypervisor_cell cells[HYPERVISOR_CELLS_MAX];
    struct hypervisor_spec spec = small();
    put("node0", "0,2,4,6\n");
    put("node3", "1,3,5,7\n");
    spec.cpus = 3;
    spec.memory_bytes = UINT64_C(100) << 20;
    EXPECT(hypervisor_lay_out(test_folder(), &spec, "2-4", cells) == 2);
    EXPECT(strcmp(cells[0].cpus, "0,2") == 0 && strcmp(cells[1].cpus, "1") == 0);
    EXPECT(cells[0].memory_bytes == UINT64_C(66) << 20);
    EXPECT(cells[1].memory_bytes == UINT64_C(34) << 20);
    spec.page_bytes = HYPERVISOR_PAGE_2M;
    EXPECT(hypervisor_lay_out(test_folder(), &spec, "2-4", cells) == 2);
    EXPECT(cells[0].memory_bytes == UINT64_C(66) << 20);
    spec.page_bytes = UINT64_C(64) << 20; /* one of them would have no page */
    EXPECT(hypervisor_lay_out(test_folder(), &spec, "2-4", cells) == 0);
    spec.page_bytes = 0;
    EXPECT(hypervisor_lay_out(test_folder(), &spec, "0,2,4", cells) == 0);
    EXPECT(hypervisor_lay_out(test_folder(), &spec, "0,1,8", cells) == 0);
    EXPECT(hypervisor_lay_out(test_folder(), &spec, "0,1", cells) == 0);
    EXPECT(hypervisor_lay_out(test_folder(), &spec, "", cells) == 0);
    hypervisor_lay_out(test_folder(), &spec, "2-4", cells);
    hypervisor_place_cells(test_folder(), "1,3,5", cells, 2); /* it has come to other CPUs */
    EXPECT(strcmp(cells[0].host_nodes, "3") == 0 && strcmp(cells[1].host_nodes, "3") == 0);
    hypervisor_place_cells(test_folder(), "0,2,3", cells, 2);
    EXPECT(strcmp(cells[0].host_nodes, "0,3") == 0 && strcmp(cells[1].host_nodes, "0") == 0);
    hypervisor_place_cells(test_folder(), "", cells, 2);
    EXPECT(cells[0].host_nodes[0] == '\0');
}

/* Each has a memory of its own, bound for itself, and sockets of its own. */
TEST(hypervisor, cells_are_nodes_of_a_pc)
{
    const struct hypervisor_cell cells[] = {
        {.cpus = "0,2", .memory_bytes = 1 << 20, .host_nodes = "0"},
        {.cpus = "1", .memory_bytes = 2 << 20, .host_nodes = "0"}};
    struct hypervisor_driver_info binding = emulated;
    struct hypervisor_spec spec = small();
    struct order order = {0};
    binding.can_bind_huge = true;
    spec.board = HYPERVISOR_Q35;
    spec.cpus = 3;
    spec.memory_bytes = 3 << 20;
    spec.cells = cells;
    spec.cell_count = 2;
    qemu_make_order(&binding, "/q", &spec, &order);
    EXPECT(has_word(&order, "memory-backend-ram,id=cell0,size=1M,host-nodes=0,policy=bind"));
    EXPECT(has_word(&order, "memory-backend-ram,id=cell1,size=2M,host-nodes=0,policy=bind"));
    EXPECT(has_word(&order, "node,nodeid=0,memdev=cell0,cpus=0-0,cpus=2-2"));
    EXPECT(has_word(&order, "node,nodeid=1,memdev=cell1,cpus=1-1"));
    EXPECT(has_word(&order, "3,sockets=3,cores=1,threads=1"));
    EXPECT(!has_word(&order, "memory-backend=memory"));
    order_done(&order);
}

TEST(hypervisor, a_tap_is_given_open_and_needs_no_network)
{
    const struct hypervisor_nic nics[] = {{.mac = "02:00:00:00:00:01", .tap = "bxt1"},
                                          {.mac = "02:00:00:00:00:02", .tap = "bxt2"}};
    struct hypervisor_spec spec = small();
    struct order order = {0};
    spec.nics = nics;
    spec.nic_count = 2;
    qemu_make_order(&emulated, "/usr/bin/qemu", &spec, &order);
    EXPECT(has_word(&order, "tap,id=net0,fd=7,vhost=off"));
    EXPECT(has_word(&order, "tap,id=net1,fd=8,vhost=off"));
    EXPECT(has_word(&order, "netdev=net1,id=nic1,mac=02:00:00:00:00:02"));
    EXPECT(!order.network);
    EXPECT(order.tap_count == 2 && order.taps[2] == NULL);
    EXPECT(strcmp(order.taps[0], "bxt1") == 0);
    order_done(&order);
}

TEST(hypervisor, a_machine_with_kvm_has_another_clock)
{
    struct hypervisor_driver_info info = emulated;
    struct hypervisor_spec spec = small();
    struct order order = {0};
    snprintf(info.accelerator, sizeof(info.accelerator), "kvm");
    qemu_make_order(&info, "/q", &spec, &order);
    EXPECT(!has_word(&order, "tsc_early_khz="));
    EXPECT(has_word(&order, "host"));
    EXPECT(!order.network);
    order_done(&order);
}

TEST(hypervisor, a_disk_that_boots_by_itself_is_in_a_pc)
{
    const struct hypervisor_disk disk = {
        .path = "/d", .format = "qcow2", .base = "/b", .base_format = "qcow2", .serial = "root"};
    const struct hypervisor_nic nic = {.mac = "02:00:00:00:00:01"};
    struct hypervisor_spec spec = small();
    struct order order = {0};
    spec.board = HYPERVISOR_Q35;
    spec.kernel = NULL;
    spec.disks = &disk;
    spec.disk_count = 1;
    spec.nics = &nic;
    spec.nic_count = 1;
    qemu_make_order(&emulated, "/q", &spec, &order);
    EXPECT(has_word(&order, "q35"));
    EXPECT(has_word(&order, "virtio-blk-pci") && has_word(&order, "bootindex=0"));
    EXPECT(has_word(&order, "virtio-net-pci") && has_word(&order, "virtio-serial-pci"));
    EXPECT(!has_word(&order, "-kernel") && !has_word(&order, "virtio-blk-device"));
    EXPECT(has_word(&order, "\"backing\":null")); /* whatever the head of the image says */
    EXPECT(!has_word(&order, "pflash0"));
    order_done(&order);

    const struct hypervisor_disk between = {.path = "/d",
                                            .format = "qcow2",
                                            .base = "/b",
                                            .base_format = "qcow2",
                                            .below = "/image",
                                            .below_format = "raw",
                                            .serial = "root"};
    order = (struct order){0};
    spec.disks = &between;
    qemu_make_order(&emulated, "/q", &spec, &order);
    EXPECT(has_word(&order, "\"backing\":{\"driver\":\"raw\""));
    EXPECT(has_word(&order, "\"filename\":\"/image\""));
    order_done(&order);

    order = (struct order){0};
    spec.firmware = "/code";
    spec.firmware_variables = "/variables";
    qemu_make_order(&emulated, "/q", &spec, &order);
    EXPECT(has_word(&order, "pflash0=firmware,pflash1=variables"));
    order_done(&order);
}

/*
 * Goal: each device of the host is behind a port of its own, its functions are together and
 * numbered from 0, and the VMM finds what it opens: its groups once each, the folders of sysfs, and
 * the right to pin the guest's memory. Method: a card of two functions (of which the guest gets
 * those with the numbers 1 and 2) and a virtual function of another one.
 */
TEST(hypervisor, devices_of_the_host_are_behind_ports)
{
    const struct hypervisor_device devices[] = {
        {.address = "0000:01:00.1", .group = "7", .has_rom = true},
        {.address = "0000:02:10.3", .group = "12"},
        {.address = "0000:01:00.2", .group = "7", .has_rom = true},
    };
    struct hypervisor_spec spec = small();
    struct order order = {0};
    spec.board = HYPERVISOR_Q35;
    spec.memory_bytes = UINT64_C(2) << 30;
    spec.devices = devices;
    spec.device_count = 3;
    qemu_make_order(&emulated, "/q", &spec, &order);
    EXPECT(has_word(&order, "pcie-root-port,id=port0,chassis=1"));
    EXPECT(has_word(&order, "pcie-root-port,id=port1,chassis=2"));
    EXPECT(!has_word(&order, "pcie-root-port,id=port2"));
    EXPECT(has_word(
        &order, "vfio-pci,host=0000:01:00.1,id=device0,bus=port0,addr=0x0.0x0,multifunction=on"));
    EXPECT(has_word(&order, "vfio-pci,host=0000:01:00.2,id=device2,bus=port0,addr=0x0.0x1"));
    EXPECT(
        has_word(&order, "vfio-pci,host=0000:02:10.3,id=device1,bus=port1,addr=0x0.0x0,rombar=0"));
    EXPECT(order.device_count == 3);
    EXPECT_STRING(order.devices[0], "/dev/vfio/vfio");
    EXPECT_STRING(order.devices[1], "/dev/vfio/7");
    EXPECT_STRING(order.devices[2], "/dev/vfio/12");
    EXPECT(has_mount(&order, "/sys/bus/pci/devices/0000:02:10.3"));
    EXPECT(order.locked_bytes_max == UINT64_C(3) << 30);
    order_done(&order);

    order = (struct order){0};
    spec.device_count = 0;
    qemu_make_order(&emulated, "/q", &spec, &order);
    EXPECT(!has_word(&order, "vfio-pci") && order.device_count == 0);
    EXPECT(!has_word(&order, "qemu-xhci"));
    EXPECT(order.locked_bytes_max == 0);
    order_done(&order);
}

/* The devices are plugged in later: nothing of the host's is shown to the VMM for them. */
TEST(hypervisor, a_machine_with_usb_has_a_controller)
{
    struct hypervisor_spec spec = small();
    struct order order = {0};
    spec.board = HYPERVISOR_Q35;
    spec.has_usb = true;
    qemu_make_order(&emulated, "/q", &spec, &order);
    EXPECT(has_word(&order, "qemu-xhci,id=usb,"));
    EXPECT(order.device_count == 0 && !has_mount(&order, "/sys/bus/usb"));
    order_done(&order);
}

/*
 * Goal: a command line has room for as many devices as a machine may have, beside all else.
 * Method: each is behind a port of its own and in a group of its own, which takes most words.
 */
TEST(hypervisor, a_command_line_has_room_for_all_devices)
{
    struct hypervisor_device devices[HYPERVISOR_DEVICES_MAX] = {0};
    const struct hypervisor_disk disk = {.path = "/d", .format = "raw", .serial = "data"};
    const struct hypervisor_disk disks[] = {disk, disk, disk};
    const struct hypervisor_nic nic = {.mac = "02:00:00:00:00:01", .tap = "bxt1"};
    const struct hypervisor_nic nics[HYPERVISOR_NICS_MAX] = {nic, nic, nic, nic};
    struct hypervisor_spec spec = small();
    struct order order = {0};
    for (size_t i = 0; i < HYPERVISOR_DEVICES_MAX; i++) {
        snprintf(devices[i].address, sizeof(devices[i].address), "0000:%02zx:00.0", i);
        snprintf(devices[i].group, sizeof(devices[i].group), "%zu", i);
    }
    spec.board = HYPERVISOR_Q35;
    spec.disks = disks;
    spec.disk_count = 3;
    spec.nics = nics;
    spec.nic_count = HYPERVISOR_NICS_MAX;
    spec.is_incoming = true;
    spec.devices = devices;
    spec.device_count = HYPERVISOR_DEVICES_MAX;
    qemu_make_order(&emulated, "/q", &spec, &order);
    EXPECT(has_word(&order, "host=0000:1f:00.0"));
    EXPECT(order.device_count == HYPERVISOR_DEVICES_MAX + 1);
    EXPECT(order.mount_count + order.device_count <= LAUNCH_MOUNTS_MAX);
    order_done(&order);
}

TEST(hypervisor, what_no_vmm_can_be_told_is_refused)
{
    struct loop *loop = NULL;
    struct error err = {0};
    const struct hypervisor_options options = {.monitor = "/bin/true", .kvm_reason = "a test"};
    EXPECT(loop_new("test", &loop, &err) == 0);
    struct hypervisor *hypervisor = hypervisor_open(loop, &options);
    if (hypervisor_driver_at(hypervisor, 0)->is_usable) {
        struct hypervisor_spec spec = small();
        EXPECT(hypervisor_check(hypervisor, &spec, &err) == 0);
        spec.cpus = 0;
        EXPECT(hypervisor_check(hypervisor, &spec, &err) == -ERROR_INVALID);
        spec = small();
        spec.memory_bytes++;
        EXPECT(hypervisor_check(hypervisor, &spec, &err) == -ERROR_INVALID);
        spec = small();
        spec.page_bytes = HYPERVISOR_PAGE_2M;
        EXPECT(hypervisor_check(hypervisor, &spec, &err) == 0);
        spec.memory = HYPERVISOR_MEMORY_COPY;
        spec.memory_file = "/m";
        EXPECT(hypervisor_check(hypervisor, &spec, &err) == -ERROR_UNSUPPORTED);
        spec.memory = HYPERVISOR_MEMORY_OWN;
        spec.memory_bytes += 1 << 20;
        EXPECT(hypervisor_check(hypervisor, &spec, &err) == -ERROR_INVALID);
        spec = small();
        spec.page_bytes = 4096;
        EXPECT(hypervisor_check(hypervisor, &spec, &err) == -ERROR_INVALID);
        spec = small();
        spec.kernel = "/k\",evil";
        EXPECT(hypervisor_check(hypervisor, &spec, &err) == -ERROR_INVALID);
        spec = small();
        const struct hypervisor_forward forward = {
            .address = "", .host_port = 8080, .guest_port = 80};
        struct hypervisor_nic nic = {.mac = "02:00:00:00:00:01", .tap = "bxt1"};
        spec = small();
        spec.nics = &nic;
        spec.nic_count = 1;
        EXPECT(hypervisor_check(hypervisor, &spec, &err) == 0);
        nic.tap = "bxt1,script=/evil";
        EXPECT(hypervisor_check(hypervisor, &spec, &err) == -ERROR_INVALID);
        nic.tap = "bxt1";
        nic.forwards = &forward;
        nic.forward_count = 1;
        EXPECT(hypervisor_check(hypervisor, &spec, &err) == -ERROR_INVALID);
        spec = small();
        spec.driver = "nothing";
        EXPECT(hypervisor_check(hypervisor, &spec, &err) == -ERROR_INVALID);
        spec = small();
        spec.kernel = NULL;
        EXPECT(hypervisor_check(hypervisor, &spec, &err) == -ERROR_INVALID);
        spec.board = HYPERVISOR_Q35;
        EXPECT(hypervisor_check(hypervisor, &spec, &err) == 0);
        const struct hypervisor_cell half = {.cpus = "0,1", .memory_bytes = spec.memory_bytes / 2};
        const struct hypervisor_cell halves[] = {half, half};
        spec.cells = halves;
        spec.cell_count = 1;
        EXPECT(hypervisor_check(hypervisor, &spec, &err) == -ERROR_INVALID);
        spec.cell_count = 2;
        EXPECT(hypervisor_check(hypervisor, &spec, &err) == 0);
        spec.board = HYPERVISOR_MICROVM;
        spec.kernel = "/k";
        EXPECT(hypervisor_check(hypervisor, &spec, &err) == -ERROR_UNSUPPORTED);
    }
    hypervisor_close(hypervisor);
    loop_free(loop);
}
