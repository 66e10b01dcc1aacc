/* USB devices in a folder that stands for sysfs. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/memory.h"

#include "engine/device/device.h"

#include "test/lib/test.h"

static char root[] = "/tmp/usb-XXXXXX";

static void make_folder(const char *path)
{
    MEMORY_OWNED char *folder = memory_format("%s/%s", root, path);
    for (char *at = folder + strlen(root) + 1; (at = strchr(at, '/')) != NULL; at++) {
        *at = '\0';
        mkdir(folder, 0700);
        *at = '/';
    }
    EXPECT(mkdir(folder, 0700) == 0);
}

static void put(const char *port, const char *name, const void *bytes, size_t length)
{
    struct error err = {0};
    MEMORY_OWNED char *path = memory_format("%s/bus/usb/devices/%s/%s", root, port, name);
    EXPECT(file_write(path, bytes, length, 0600, &err) == 0);
}

static void put_line(const char *port, const char *name, const char *text)
{
    put(port, name, text, strlen(text));
}

static void begin(void)
{
    snprintf(root, sizeof(root), "/tmp/usb-XXXXXX");
    EXPECT(mkdtemp(root) != NULL);
    make_folder("bus/usb/devices");
}

static void end(void)
{
    struct error err = {0};
    EXPECT(file_remove_tree(root, &err) == 0);
}

/* With as many interfaces as are given: class, subclass, protocol each. */
static void plug(const char *port, const char *vendor, const char *product,
                 const uint8_t (*interfaces)[3], size_t count)
{
    uint8_t bytes[256] = {18, 1};
    size_t used = 18;
    MEMORY_OWNED char *folder = memory_format("bus/usb/devices/%s", port);
    make_folder(folder);
    bytes[used] = 9;
    bytes[used + 1] = 2;
    used += 9;
    for (size_t i = 0; i < count; i++, used += 9) {
        const uint8_t one[] = {
            9, 4, (uint8_t)i, 0, 0, interfaces[i][0], interfaces[i][1], interfaces[i][2]};
        memcpy(bytes + used, one, sizeof(one));
    }
    put(port, "descriptors", bytes, used);
    put_line(port, "idVendor", vendor);
    put_line(port, "idProduct", product);
    put_line(port, "busnum", "1\n");
    put_line(port, "devnum", "12\n");
}

#define PLUG(port, vendor, product, ...)                                 \
    do {                                                                 \
        static const uint8_t interfaces[][3] = {__VA_ARGS__};            \
        plug(port, vendor, product, interfaces, sizeof(interfaces) / 3); \
    } while (0)

/*
 * Goal: what is plugged in is listed by its port, with what it says of itself; hubs and interfaces
 * are not; what it says may be anything.
 * Method: an adapter behind a hub, one whose product is no text, and the folders of root hubs and
 * interfaces.
 */
TEST(usb, what_is_plugged_in_is_listed_by_its_port)
{
    struct device devices[DEVICE_LIST_MAX];
    begin();
    PLUG("1-2", "05e3\n", "0610\n", {9, 0, 1});
    PLUG("1-2.3", "0403\n", "6001\n", {0xff, 0xff, 0xff});
    PLUG("1-10.1", "046d\n", "c31c\n", {3, 1, 1});
    make_folder("bus/usb/devices/usb1");
    make_folder("bus/usb/devices/1-2.3:1.0");
    MEMORY_OWNED char *driver = memory_format("%s/bus/usb/devices/1-2.3:1.0/driver", root);
    EXPECT(symlink("../../../bus/usb/drivers/ftdi_sio", driver) == 0);
    put_line("1-2.3", "bConfigurationValue", "1\n");
    put_line("1-2.3", "manufacturer", "FTDI\n");
    put_line("1-2.3", "product", "FT232R USB UART\n");
    put_line("1-2.3", "serial", "A5\033[2J\n");
    put_line("1-10.1", "manufacturer", "M\xfcller\n");
    put_line("1-10.1", "product", "M?ller \"Keys\"\n");
    EXPECT(device_list(root, "usb", devices) == 2);
    EXPECT_STRING(devices[0].address, "usb:1-10.1");
    EXPECT_STRING(devices[0].name, "M?ller \"Keys\"");
    EXPECT_STRING(devices[0].class_name, "usb:input");
    EXPECT_STRING(devices[0].serial, "");
    EXPECT_STRING(devices[1].address, "usb:1-2.3");
    EXPECT_STRING(devices[1].model, "usb:0403:6001");
    EXPECT_STRING(devices[1].class_name, "usb:serial");
    EXPECT_STRING(devices[1].name, "FTDI FT232R USB UART");
    EXPECT_STRING(devices[1].serial, "A5?[2J");
    EXPECT_STRING(devices[1].driver, "ftdi_sio");
    EXPECT_STRING(devices[1].problem, "");
    EXPECT(devices[1].bus == 1 && devices[1].number == 12 && devices[1].numa == -1);
    end();
}

/*
 * Goal: of several interfaces the one that people name the device by gives the class.
 * Method: a device of each class, with what else such devices have.
 */
TEST(usb, a_device_is_of_the_class_that_people_name_it_by)
{
    struct device devices[DEVICE_LIST_MAX];
    static const char *const classes[] = {
        "usb:network", "usb:network", "usb:serial", "usb:bluetooth", "usb:camera",
        "usb:storage", "usb:printer", "usb:audio",  "usb:smartcard", "usb:other"};
    begin();
    PLUG("1-1", "0bda\n", "8153\n", {0x02, 0x02, 0x01}, {0x02, 0x0d, 0x00});
    PLUG("1-2", "18d1\n", "4ee3\n", {0xe0, 0x01, 0x03}, {0x0a, 0, 0});
    PLUG("1-3", "2341\n", "0043\n", {0x02, 0x02, 0x01}, {0x0a, 0, 0});
    PLUG("1-4", "8087\n", "0029\n", {0xe0, 0x01, 0x01});
    PLUG("1-5", "046d\n", "0825\n", {0x01, 1, 0}, {0x0e, 1, 0});
    PLUG("1-6", "0781\n", "5583\n", {0x08, 6, 0x50});
    PLUG("1-7", "04f9\n", "0042\n", {0x07, 1, 2});
    PLUG("1-8", "0d8c\n", "0014\n", {0x01, 1, 0}, {0x03, 0, 0});
    PLUG("1-9", "1050\n", "0407\n", {0x03, 1, 1}, {0x0b, 0, 0});
    PLUG("2-1", "1d50\n", "607f\n", {0xff, 0, 0});
    EXPECT(device_list(root, "none", devices) == 10);
    for (size_t i = 0; i < 10; i++) {
        EXPECT_STRING(devices[i].class_name, classes[i]);
    }
    end();
}

/* Each cut, and a descriptor that is longer than what is there, or of no length. */
TEST(usb, descriptors_may_be_anything)
{
    static const uint8_t whole[] = {18, 1, 0, 2, 0, 0, 0, 64, 0, 0, 0, 0,    0, 0,
                                    1,  2, 3, 1, 9, 4, 0, 0,  0, 8, 6, 0x50, 0};
    struct device devices[DEVICE_LIST_MAX];
    begin();
    PLUG("1-1", "0781\n", "5583\n", {0x08, 6, 0x50});
    for (size_t length = 0; length <= sizeof(whole); length++) {
        put("1-1", "descriptors", whole, length);
        EXPECT(device_list(root, "none", devices) == 1);
        EXPECT_STRING(devices[0].class_name, length == sizeof(whole) ? "usb:storage" : "usb:other");
    }
    put("1-1", "descriptors", "\0\0\0\0", 4);
    EXPECT(device_list(root, "none", devices) == 1);
    end();
}

/*
 * Goal: of what is plugged in, machines may have what the option names, and nothing by "all"; nor a
 * disk that the node uses itself.
 * Method: each way to name a device; a disk that carries what this process has mounted.
 */
TEST(usb, only_what_is_named_is_offered_and_not_in_use)
{
    static const struct {
        const char *offered;
        bool serial, disk;
    } cases[] = {
        {"all", false, false},
        {"none", false, false},
        {"", false, false},
        {"usb", true, true},
        {"all,usb", true, true},
        {"usb:serial", true, false},
        {"usb:0781:5583", false, true},
        {"usb:1-1", true, false},
        {"gpu,usb:storage", false, true},
        {"usb:0781:5584", false, false},
        {"usb:1-1.1", false, false},
    };
    struct device devices[DEVICE_LIST_MAX];
    struct error err = {0};
    struct stat status;
    begin();
    PLUG("1-1", "0403\n", "6001\n", {0xff, 0xff, 0xff});
    PLUG("1-4", "0781\n", "5583\n", {0x08, 6, 0x50});
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        EXPECT(device_list(root, cases[i].offered, devices) == 2);
        EXPECT((devices[0].problem[0] == '\0') == cases[i].serial);
        EXPECT((devices[1].problem[0] == '\0') == cases[i].disk);
        EXPECT(device_check_offered(cases[i].offered, &err) == 0);
    }
    EXPECT(device_check_offered("usb:toaster", &err) == -ERROR_INVALID);
    EXPECT(stat("/proc/self", &status) == 0); /* /proc is mounted: as if from what lies over 1-4 */
    MEMORY_OWNED char *slaves =
        memory_format("dev/block/%u:%u/slaves", major(status.st_dev), minor(status.st_dev));
    make_folder(slaves);
    MEMORY_OWNED char *partition = memory_format("%s/%s/sda1", root, slaves);
    EXPECT(symlink("../../devices/pci0000:00/usb1/1-4/1-4:1.0/host2/block/sda/sda1", partition) ==
           0);
    EXPECT(device_list(root, "usb", devices) == 2);
    EXPECT_STRING(devices[0].problem, "");
    EXPECT_STRING(devices[1].problem, "the node has a file system on it");
    end();
}

/*
 * Goal: a class, a model and a port are asked for; anything else is refused.
 * Method: each, and what nearly is one.
 */
TEST(usb, asks_are_classes_models_and_ports)
{
    struct device_ask ask;
    struct error err = {0};
    EXPECT(device_ask_parse("usb:serial=2", &ask, &err) == 0);
    EXPECT(ask.kind == DEVICE_ASK_CLASS && ask.count == 2);
    EXPECT(device_ask_takes(&ask, "usb:serial", "usb:0403:6001", "usb:1-2"));
    EXPECT(device_ask_parse("usb:0403:6001", &ask, &err) == 0);
    EXPECT(ask.kind == DEVICE_ASK_MODEL);
    EXPECT(!device_ask_takes(&ask, "network", "0403:6001", "0000:01:00.0"));
    EXPECT(device_ask_parse("usb:1-2.3.4.1.1", &ask, &err) == 0);
    EXPECT(ask.kind == DEVICE_ASK_ADDRESS);
    EXPECT(!device_ask_takes(&ask, "usb:serial", "usb:0403:6001", "usb:1-2.3.4.1"));
    static const char *const wrong[] = {"usb",
                                        "usb:",
                                        "usb:toaster",
                                        "usb:403:6001",
                                        "usb:0403:6001:",
                                        "usb:1",
                                        "usb:1-",
                                        "usb:1-2.",
                                        "usb:0-1",
                                        "usb:1-02",
                                        "usb:1-2-3",
                                        "usb:1.2",
                                        "usb:1-2=2",
                                        "usb:1-2:1.0",
                                        "1-2",
                                        "usb:1-2.3.4.55.66.77.88.99",
                                        "usb:serial=0"};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        EXPECT(device_ask_parse(wrong[i], &ask, &err) == -ERROR_INVALID);
    }
}

/*
 * Goal: the node of a device is opened, and of no other one that has come to its number.
 * Method: files that stand for usbfs, with the descriptors of this one, of another, and of nothing.
 */
TEST(usb, the_node_of_this_very_device_is_opened)
{
    const struct device device = {
        .address = "usb:1-2", .model = "usb:0403:6001", .bus = 1, .number = 7};
    uint8_t bytes[18] = {18, 1, 0, 2, 0, 0, 0, 8, 0x03, 0x04, 0x01, 0x60};
    struct error err = {0};
    FD_OWNED int fd = -1;
    begin();
    make_folder("bus/usb/001");
    MEMORY_OWNED char *path = memory_format("%s/bus/usb/001/007", root);
    EXPECT(device_open_usb(root, &device, &fd, &err) == -ERROR_UNAVAILABLE);
    EXPECT(file_write(path, bytes, sizeof(bytes), 0600, &err) == 0);
    EXPECT(device_open_usb(root, &device, &fd, &err) == 0);
    EXPECT(fd >= 0);
    fd_close_slot(&fd);
    bytes[10] = 0x10;
    EXPECT(file_write(path, bytes, sizeof(bytes), 0600, &err) == 0);
    EXPECT(device_open_usb(root, &device, &fd, &err) == -ERROR_UNAVAILABLE);
    EXPECT(file_write(path, bytes, 10, 0600, &err) == 0);
    EXPECT(device_open_usb(root, &device, &fd, &err) == -ERROR_UNAVAILABLE);
    EXPECT(fd < 0);
    end();
}

/*
 * Goal: interfaces that nobody has go back to the host's drivers; those that somebody has do not,
 * nor those of another port. Method: a file that stands for what the kernel is told by, read after
 * each.
 */
TEST(usb, interfaces_that_nobody_has_go_back_to_the_host)
{
    struct error err = {0};
    BUFFER_OWNED struct buffer told = {0};
    begin();
    make_folder("bus/usb/devices/1-2:1.0");
    make_folder("bus/usb/devices/1-4:1.1");
    MEMORY_OWNED char *driver = memory_format("%s/bus/usb/devices/1-4:1.1/driver", root);
    EXPECT(symlink("../../../bus/usb/drivers/usbfs", driver) == 0);
    MEMORY_OWNED char *path = memory_format("%s/bus/usb/drivers_probe", root);
    device_release_usb(root, "usb:1-2"); /* the kernel has no such file: nothing happens */
    EXPECT(!file_exists(path));
    EXPECT(file_write(path, "", 0, 0600, &err) == 0);
    device_release_usb(root, "usb:1-4");
    device_release_usb(root, "usb:1-2.1");
    EXPECT(file_read(path, 100, &told, &err) == 0 && told.used == 0);
    device_release_usb(root, "usb:1-2");
    EXPECT(file_read(path, 100, &told, &err) == 0);
    EXPECT_STRING(buffer_string(&told), "1-2:1.0");
    end();
}
