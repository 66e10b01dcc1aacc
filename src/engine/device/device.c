/* Words for devices, and PCI devices in sysfs: see device.h. */
#include <ctype.h>
#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/error.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/text.h"

#include "engine/device/parts.h"

enum { LINE_MAX_BYTES = 4096, FOUND_MAX = 4096 };

/* The upper 16 bits of a PCI class, as people call what is of it.  Of a group with several the one
 * that stands first here names it. */
static const struct {
    unsigned class;
    unsigned mask;
    const char *name;
} classes[DEVICE_CLASSES] = {
    {0x0300, 0xff00, "gpu"},    {0x1200, 0xff00, "accelerator"}, {0x0200, 0xff00, "network"},
    {0x0108, 0xffff, "nvme"},   {0x0100, 0xff00, "storage"},     {0x0c03, 0xffff, "usb-controller"},
    {0x0b40, 0xffff, "crypto"},
};

size_t device_class_of(unsigned class)
{
    size_t i = 0;
    while (i < DEVICE_CLASSES && (class & classes[i].mask) != classes[i].class) {
        i++;
    }
    return i;
}

const char *device_class_name(size_t which)
{
    CHECK(which < DEVICE_CLASSES);
    return classes[which].name;
}

/* ---- Words ---- */

bool device_has_form(const char *text, const char *form)
{
    size_t i = 0;
    for (; form[i] != '\0' && text[i] != '\0'; i++) {
        bool is_digit = isdigit((unsigned char)text[i]) || (text[i] >= 'a' && text[i] <= 'f');
        if (form[i] == 'x' ? !is_digit : text[i] != form[i]) {
            return false;
        }
    }
    return form[i] == '\0' && text[i] == '\0';
}

static bool is_class(const char *name)
{
    bool is_one = usb_is_class(name);
    for (size_t i = 0; i < DEVICE_CLASSES; i++) {
        is_one = is_one || strcmp(classes[i].name, name) == 0;
    }
    return is_one;
}

static int ask_what(const char *word, struct device_ask *ret_ask, struct error *err)
{
    const char *what = strcmp(word, "nic") == 0 ? "network" : word;
    if (device_has_form(what, "xxxx:xx:xx.x") || usb_is_address(what)) {
        ret_ask->kind = DEVICE_ASK_ADDRESS;
    } else if (device_has_form(what, "xxxx:xxxx") || device_has_form(what, "usb:xxxx:xxxx")) {
        ret_ask->kind = DEVICE_ASK_MODEL;
    } else if (is_class(what)) {
        ret_ask->kind = DEVICE_ASK_CLASS;
    } else if (device_is_usb(what)) {
        return error_set(err, ERROR_INVALID,
                         "\"%.40s\" is no USB device: usb:CLASS (network, serial, bluetooth, "
                         "camera, storage, printer, smartcard, audio, input, other), "
                         "usb:VENDOR:PRODUCT (usb:0403:6001) or usb:BUS-PORT (usb:1-2.3)",
                         word);
    } else {
        return error_set(err, ERROR_INVALID,
                         "\"%.40s\" is no device: a class (gpu, accelerator, network or nic, nvme, "
                         "storage, usb-controller, crypto), VENDOR:DEVICE (10de:2204) or an "
                         "address (0000:01:00.0); on USB usb:serial, usb:0403:6001, usb:1-2.3",
                         word);
    }
    snprintf(ret_ask->what, sizeof(ret_ask->what), "%s", what);
    return 0;
}

int device_ask_parse(const char *text, struct device_ask *ret_ask, struct error *err)
{
    size_t length = strcspn(text, "=");
    uint64_t count = 1;
    if (text[length] == '=' &&
        (!text_parse_u64(text_of(text + length + 1, strlen(text + length + 1)), &count) ||
         count == 0 || count > DEVICE_ASK_COUNT_MAX)) {
        return error_set(err, ERROR_INVALID, "device \"%.60s\": 1 to %d of one kind", text,
                         DEVICE_ASK_COUNT_MAX);
    }
    MEMORY_OWNED char *word = memory_copy_text(text, length);
    int r = ask_what(word, ret_ask, err);
    ret_ask->count = (unsigned)count;
    if (r == 0 && ret_ask->kind == DEVICE_ASK_ADDRESS && count > 1) {
        r = error_set(err, ERROR_INVALID, "device %s: there is one at an address", ret_ask->what);
    }
    return r;
}

bool device_ask_takes(const struct device_ask *ask, const char *class_name, const char *model,
                      const char *address)
{
    switch (ask->kind) {
    case DEVICE_ASK_CLASS:
        return strcmp(ask->what, class_name) == 0;
    case DEVICE_ASK_MODEL:
        return strcmp(ask->what, model) == 0;
    case DEVICE_ASK_ADDRESS:
        return strcmp(ask->what, address) == 0;
    }
    CHECK(false);
    return false;
}

/* "all" is what vfio-pci has: on USB nobody has given anything away by that. */
static int match_word(const char *word, const struct device *device, bool *ret_is_offered,
                      struct error *err)
{
    struct device_ask ask = {0};
    bool is_usb = device != NULL && device_is_usb(device->address);
    if (strcmp(word, "all") == 0 || strcmp(word, "usb") == 0) {
        *ret_is_offered = device != NULL && is_usb == (strcmp(word, "usb") == 0);
        return 0;
    }
    int r = ask_what(word, &ask, err);
    *ret_is_offered = r == 0 && device != NULL &&
        device_ask_takes(&ask, device->class_name, device->model, device->address);
    return r;
}

int device_match_offered(const char *offered, const struct device *device, bool *ret_is_offered,
                         struct error *err)
{
    int r = 0;
    *ret_is_offered = false;
    if (strcmp(offered, "none") == 0) {
        return 0;
    }
    for (const char *at = offered; r == 0 && *at != '\0';) {
        bool is_this = false;
        size_t length = strcspn(at, ",");
        MEMORY_OWNED char *word = memory_copy_text(at, length);
        r = match_word(word, device, &is_this, err);
        *ret_is_offered = *ret_is_offered || is_this;
        at += length + (at[length] == ',');
    }
    return r;
}

int device_check_offered(const char *offered, struct error *err)
{
    bool unused = false;
    return device_match_offered(offered, NULL, &unused, err);
}

/* ---- One function of PCI ---- */

struct found {
    struct device device;
    size_t rank; /* DEVICE_CLASSES: of no class that machines ask for */
};

bool device_read_line(const char *folder, const char *name, char *ret_line, size_t size)
{
    BUFFER_OWNED struct buffer text = {0};
    struct error ignored = {0};
    MEMORY_OWNED char *path = memory_format("%s/%s", folder, name);
    ret_line[0] = '\0';
    if (file_read(path, LINE_MAX_BYTES, &text, &ignored) < 0) {
        return false;
    }
    snprintf(ret_line, size, "%.*s", (int)strcspn(buffer_string(&text), "\n"),
             buffer_string(&text));
    text_make_printable(ret_line, false);
    return true;
}

void device_read_link(const char *folder, const char *name, char *ret_last, size_t size)
{
    char target[PATH_MAX];
    MEMORY_OWNED char *path = memory_format("%s/%s", folder, name);
    ssize_t length = readlink(path, target, sizeof(target) - 1);
    target[length > 0 ? length : 0] = '\0';
    const char *slash = strrchr(target, '/');
    snprintf(ret_last, size, "%.*s", (int)size - 1, slash != NULL ? slash + 1 : target);
    text_make_printable(ret_last, false);
}

static unsigned read_hex(const char *folder, const char *name)
{
    char line[32];
    return device_read_line(folder, name, line, sizeof(line)) ? (unsigned)strtoul(line, NULL, 16)
                                                              : 0;
}

static void read_one(const char *sys, const char *address, struct found *ret_found)
{
    struct device *device = &ret_found->device;
    char numa[16];
    MEMORY_OWNED char *folder = memory_format("%s/bus/pci/devices/%s", sys, address);
    ret_found->rank = device_class_of(read_hex(folder, "class") >> 8);
    snprintf(device->address, sizeof(device->address), "%.12s", address);
    snprintf(device->class_name, sizeof(device->class_name), "%s",
             ret_found->rank < DEVICE_CLASSES ? classes[ret_found->rank].name : "");
    snprintf(device->model, sizeof(device->model), "%04x:%04x", read_hex(folder, "vendor") & 0xffff,
             read_hex(folder, "device") & 0xffff);
    device_read_link(folder, "driver", device->driver, sizeof(device->driver));
    device_read_link(folder, "physfn", device->parent, sizeof(device->parent));
    device_read_link(folder, "iommu_group", device->group, sizeof(device->group));
    device->numa = device_read_line(folder, "numa_node", numa, sizeof(numa))
        ? (int)strtol(numa, NULL, 10)
        : -1;
}

static int compare(const void *a, const void *b)
{
    return strcmp(((const struct found *)a)->device.address,
                  ((const struct found *)b)->device.address);
}

static struct found *read_all(const char *sys, size_t *ret_count)
{
    struct found *all = memory_new(FOUND_MAX, sizeof(*all));
    size_t count = 0;
    MEMORY_OWNED char *path = memory_format("%s/bus/pci/devices", sys);
    DIR *folder = opendir(path);
    const struct dirent *entry = NULL;
    while (folder != NULL && count < FOUND_MAX && (entry = readdir(folder)) != NULL) {
        if (device_has_form(entry->d_name, "xxxx:xx:xx.x")) {
            read_one(sys, entry->d_name, &all[count++]);
        }
    }
    if (folder != NULL) {
        closedir(folder);
    }
    qsort(all, count, sizeof(*all), compare);
    *ret_count = count;
    return all;
}

/* ---- Groups ---- */

/* vfio-pci, and what makers have made of it: mlx5_vfio_pci. */
static bool is_vfio(const char *driver)
{
    return text_ends_with(driver, "vfio-pci") || text_ends_with(driver, "vfio_pci");
}

/* What the kernel lets be beside devices that a guest has (vfio_dev_driver_allowed()). */
static bool is_harmless(const char *driver)
{
    return driver[0] == '\0' || strcmp(driver, "pcieport") == 0 || strcmp(driver, "pci-stub") == 0;
}

static void judge(struct device *device, const char *offered)
{
    bool is_offered = false;
    struct error ignored = {0};
    device_match_offered(offered, device, &is_offered, &ignored);
    if (device->group[0] == '\0') {
        snprintf(device->problem, sizeof(device->problem),
                 "it has no IOMMU group: the IOMMU is off, or there is none");
    } else if (device->driver[0] == '\0') {
        snprintf(device->problem, sizeof(device->problem), "no driver has it: vfio-pci is to");
    } else if (!is_vfio(device->driver)) {
        snprintf(device->problem, sizeof(device->problem), "driver %.31s has it, not vfio-pci",
                 device->driver);
    } else if (!is_offered) {
        snprintf(device->problem, sizeof(device->problem),
                 "the node's option machine_devices leaves it out");
    }
}

static void add_together(struct device *device, const char *address)
{
    if (device->together_count == DEVICE_TOGETHER_MAX) {
        snprintf(device->problem, sizeof(device->problem), "more than %d are in its IOMMU group",
                 DEVICE_TOGETHER_MAX + 1);
        return;
    }
    snprintf(device->together[device->together_count++], DEVICE_ADDRESS_SIZE, "%s", address);
}

/* The others of its group: they come with it, do no harm, or are in its way. */
static void take_group(struct found *all, size_t count, struct found *own)
{
    struct device *device = &own->device;
    for (size_t i = 0; i < count && device->group[0] != '\0'; i++) {
        const struct device *other = &all[i].device;
        if (&all[i] == own || strcmp(other->group, device->group) != 0) {
            continue;
        }
        if (is_vfio(other->driver)) {
            add_together(device, other->address);
        } else if (!is_harmless(other->driver) && device->problem[0] == '\0') {
            snprintf(
                device->problem, sizeof(device->problem),
                "driver %.31s has %s, which is in its IOMMU group %s: all of that is given away, "
                "or nothing",
                other->driver, other->address, device->group);
        }
    }
}

/* One of a group stands for it: the one of the first class, and of these the first one. */
static bool stands_for_group(const struct found *all, size_t count, const struct found *own)
{
    for (size_t i = 0; i < count && own->device.group[0] != '\0'; i++) {
        const struct found *other = &all[i];
        bool is_of = other != own && strcmp(other->device.group, own->device.group) == 0 &&
            is_vfio(other->device.driver) == is_vfio(own->device.driver);
        if (is_of && (other->rank < own->rank || (other->rank == own->rank && other < own))) {
            return false;
        }
    }
    return true;
}

size_t device_list(const char *sys, const char *offered, struct device *ret_devices)
{
    size_t found = 0;
    size_t count = 0;
    MEMORY_OWNED struct found *all = read_all(sys, &found);
    for (size_t i = 0; i < found && count < DEVICE_LIST_MAX; i++) {
        if (all[i].rank < DEVICE_CLASSES && stands_for_group(all, found, &all[i])) {
            judge(&all[i].device, offered);
            take_group(all, found, &all[i]);
            ret_devices[count++] = all[i].device;
        }
    }
    return count + device_list_usb(sys, offered, ret_devices + count, DEVICE_LIST_MAX - count);
}
