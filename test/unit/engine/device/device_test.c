/* PCI devices in a folder that stands for sysfs. */
#include "engine/device/device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file.h"
#include "base/memory.h"

#include "test/lib/test.h"

static char root[] = "/tmp/device-XXXXXX";

struct function {
    const char *address, *class, *vendor, *device, *driver, *group;
};

static void make_folders(const char *path)
{
    MEMORY_OWNED char *folder = memory_copy_string(path);
    for (char *at = folder + strlen(root) + 1; (at = strchr(at, '/')) != NULL; at++) {
        *at = '\0';
        mkdir(folder, 0700);
        *at = '/';
    }
    EXPECT(mkdir(folder, 0700) == 0);
}

static void put(const char *folder, const char *name, const char *text)
{
    struct error err = {0};
    MEMORY_OWNED char *path = memory_format("%s/%s", folder, name);
    EXPECT(file_write(path, text, strlen(text), 0600, &err) == 0);
}

static void link_to(const char *folder, const char *name, const char *what)
{
    MEMORY_OWNED char *path = memory_format("%s/%s", folder, name);
    MEMORY_OWNED char *target = memory_format("../../somewhere/%s", what);
    EXPECT(symlink(target, path) == 0);
}

static void make(const struct function *functions, size_t count)
{
    snprintf(root, sizeof(root), "/tmp/device-XXXXXX");
    EXPECT(mkdtemp(root) != NULL);
    for (size_t i = 0; i < count; i++) {
        const struct function *function = &functions[i];
        MEMORY_OWNED char *folder = memory_format("%s/bus/pci/devices/%s", root, function->address);
        make_folders(folder);
        put(folder, "class", function->class);
        put(folder, "vendor", function->vendor);
        put(folder, "device", function->device);
        put(folder, "numa_node", "1\n");
        if (function->driver != NULL) {
            link_to(folder, "driver", function->driver);
        }
        if (function->group != NULL) {
            link_to(folder, "iommu_group", function->group);
        }
    }
}

static size_t list(const char *offered, struct device *devices)
{
    struct error err = {0};
    size_t count = device_list(root, offered, devices);
    EXPECT(file_remove_tree(root, &err) == 0);
    return count;
}

#define GPU    "0x030000\n", "0x10de\n", "0x2204\n"
#define AUDIO  "0x040300\n", "0x10de\n", "0x1aef\n"
#define NIC    "0x020000\n", "0x8086\n", "0x10d3\n"
#define BRIDGE "0x060400\n", "0x8086\n", "0x0001\n"

/*
 * Goal: what vfio-pci has can be given, and its group comes with it: once, by the one of the first
 * class; what the host has cannot, and it is said who has it; bridges do no harm.
 * Method: a card of two functions behind a bridge, a NIC of the host, one that nobody has.
 */
TEST(device, what_vfio_has_is_given_with_its_group)
{
    static const struct function functions[] = {
        {"0000:00:01.0", BRIDGE, "pcieport", "7"}, {"0000:01:00.0", AUDIO, "vfio-pci", "7"},
        {"0000:01:00.1", GPU, "vfio-pci", "7"},    {"0000:02:00.0", NIC, "e1000e", "8"},
        {"0000:03:00.0", NIC, NULL, "9"},          {"0000:04:00.0", NIC, "vfio-pci", NULL},
    };
    struct device devices[DEVICE_LIST_MAX];
    make(functions, 6);
    EXPECT(list("all", devices) == 4);
    EXPECT_STRING(devices[0].address, "0000:01:00.1");
    EXPECT_STRING(devices[0].class_name, "gpu");
    EXPECT_STRING(devices[0].model, "10de:2204");
    EXPECT_STRING(devices[0].group, "7");
    EXPECT_STRING(devices[0].problem, "");
    EXPECT(devices[0].numa == 1);
    EXPECT(devices[0].together_count == 1);
    EXPECT_STRING(devices[0].together[0], "0000:01:00.0");
    EXPECT_STRING(devices[1].problem, "driver e1000e has it, not vfio-pci");
    EXPECT_STRING(devices[2].problem, "no driver has it: vfio-pci is to");
    EXPECT_STRING(devices[3].problem, "it has no IOMMU group: the IOMMU is off, or there is none");
}

/*
 * Goal: a group of which the host still has a part is not given, and the part is named; the host's
 * part stands for itself.
 * Method: the same card, whose sound the host plays.
 */
TEST(device, a_group_is_given_whole_or_not_at_all)
{
    static const struct function functions[] = {
        {"0000:01:00.0", GPU, "vfio-pci", "7"},
        {"0000:01:00.1", AUDIO, "snd_hda_intel", "7"},
        {"0000:01:00.2", NIC, "mlx5_vfio_pci", "9"},
    };
    struct device devices[DEVICE_LIST_MAX];
    make(functions, 3);
    EXPECT(list("all", devices) == 2);
    EXPECT_STRING(devices[0].problem,
                  "driver snd_hda_intel has 0000:01:00.1, which is in its IOMMU group 7: all of "
                  "that is given away, or nothing");
    EXPECT(devices[0].together_count == 0);
    EXPECT_STRING(devices[1].problem, "");
}

/*
 * Goal: of what vfio-pci has, the option says what machines may have.
 * Method: each way to name a device, and all, none and nothing.
 */
TEST(device, the_option_says_which_are_offered)
{
    static const struct function functions[] = {
        {"0000:01:00.0", GPU, "vfio-pci", "7"},
        {"0000:02:00.0", NIC, "vfio-pci", "8"},
    };
    static const struct {
        const char *offered;
        bool gpu, nic;
    } cases[] = {
        {"all", true, true},         {"none", false, false},        {"", false, false},
        {"gpu", true, false},        {"nic", false, true},          {"8086:10d3", false, true},
        {"gpu,network", true, true}, {"0000:01:00.0", true, false}, {"10de:2205", false, false},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct device devices[DEVICE_LIST_MAX];
        struct error err = {0};
        make(functions, 2);
        EXPECT(list(cases[i].offered, devices) == 2);
        EXPECT((devices[0].problem[0] == '\0') == cases[i].gpu);
        EXPECT((devices[1].problem[0] == '\0') == cases[i].nic);
        EXPECT(device_check_offered(cases[i].offered, &err) == 0);
    }
    struct error err = {0};
    EXPECT(device_check_offered("gpu,toaster", &err) == -ERROR_INVALID);
}

/*
 * Goal: what is asked for is a class, a model or an address, of the first two several; anything
 * else is refused.
 * Method: each, and what nearly is one.
 */
TEST(device, asks_are_classes_models_and_addresses)
{
    struct device_ask ask;
    struct error err = {0};
    EXPECT(device_ask_parse("gpu=2", &ask, &err) == 0);
    EXPECT(ask.kind == DEVICE_ASK_CLASS && ask.count == 2);
    EXPECT(device_ask_takes(&ask, "gpu", "10de:2204", "0000:01:00.0"));
    EXPECT(!device_ask_takes(&ask, "network", "10de:2204", "0000:01:00.0"));
    EXPECT(device_ask_parse("10de:2204", &ask, &err) == 0);
    EXPECT(ask.kind == DEVICE_ASK_MODEL && ask.count == 1);
    EXPECT(device_ask_takes(&ask, "gpu", "10de:2204", "0000:01:00.0"));
    EXPECT(device_ask_parse("0000:01:00.0", &ask, &err) == 0);
    EXPECT(ask.kind == DEVICE_ASK_ADDRESS);
    EXPECT(!device_ask_takes(&ask, "gpu", "10de:2204", "0000:01:00.1"));
    static const char *const wrong[] = {"",          "toaster",        "gpu=0",       "gpu=17",
                                        "gpu=x",     "gpu=",           "10de:220",    "10de:2204:",
                                        "10DE:2204", "0000:01:00.0=2", "0000:01:00.g"};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        EXPECT(device_ask_parse(wrong[i], &ask, &err) == -ERROR_INVALID);
    }
}
