/*
 * USB devices in sysfs: see device.h.
 *
 * Of what kind a device is its descriptors say (USB 2.0, 9.6), which the kernel keeps as it read
 * them: who has it just now, the host or a guest, makes no difference.
 */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/text.h"

#include "engine/device/parts.h"

#define PREFIX "usb:"

enum {
    DESCRIPTORS_MAX_BYTES = 65536,
    MOUNTS_MAX_BYTES = 1 << 20,
    STACK_MAX = 4, /* LVM over LUKS over RAID */
    DEVICE_DESCRIPTOR = 1,
    DEVICE_DESCRIPTOR_BYTES = 18,
    INTERFACE_DESCRIPTOR = 4,
    INTERFACE_DESCRIPTOR_BYTES = 9,
    CLASS_STORAGE = 0x08,
    CLASS_HUB = 0x09,
    CLASS_OF_VENDOR = 0xff,
    ANY = -1,
};

/* What people call a device by the interfaces that it has; of several the one that stands first
 * here names it: a camera has a microphone, a sound card has keys. */
static const struct {
    const char *name;
    int class, subclass, protocol;
} kinds[] = {
    {"network", 0x02, 0x06, ANY},  /* CDC ECM */
    {"network", 0x02, 0x0d, ANY},  /* CDC NCM */
    {"network", 0x02, 0x0e, ANY},  /* CDC MBIM */
    {"network", 0x02, 0x02, 0xff}, /* RNDIS, in its three ways */
    {"network", 0xe0, 0x01, 0x03},
    {"network", 0xef, 0x04, 0x01},
    {"serial", 0x02, 0x02, ANY}, /* CDC ACM */
    {"bluetooth", 0xe0, 0x01, 0x01},
    {"camera", 0x0e, ANY, ANY},
    {"storage", CLASS_STORAGE, ANY, ANY},
    {"printer", 0x07, ANY, ANY},
    {"smartcard", 0x0b, ANY, ANY},
    {"audio", 0x01, ANY, ANY},
    {"input", 0x03, ANY, ANY},
    {"other", ANY, ANY, ANY},
};
enum { KINDS = sizeof(kinds) / sizeof(kinds[0]), KIND_OTHER = KINDS - 1, KIND_SERIAL = 6 };

/* Makers of serial adapters, which have no class of their own: FTDI, Silicon Labs, WCH, Prolific.
 */
static const unsigned serial_makers[] = {0x0403, 0x10c4, 0x1a86, 0x067b};

/* ---- Words ---- */

/* "1-2.3": a bus, the port of its root hub, and of the hubs behind it. */
static bool is_path(const char *text)
{
    size_t parts = 0;
    for (const char *at = text;; at++, parts++) {
        size_t digits = strspn(at, "0123456789");
        if (digits == 0 || digits > 3 || *at == '0') {
            return false;
        }
        at += digits;
        if (*at == '\0') {
            return parts > 0 && strlen(text) < DEVICE_ADDRESS_SIZE - strlen(PREFIX);
        }
        if (*at != (parts == 0 ? '-' : '.')) {
            return false;
        }
    }
}

bool device_is_usb(const char *word)
{
    return text_starts_with(word, PREFIX);
}

bool usb_is_address(const char *text)
{
    return device_is_usb(text) && is_path(text + strlen(PREFIX));
}

bool usb_is_class(const char *text)
{
    bool is_one = false;
    for (size_t i = 0; i < KINDS && device_is_usb(text); i++) {
        is_one = is_one || strcmp(kinds[i].name, text + strlen(PREFIX)) == 0;
    }
    return is_one;
}

/* ---- Descriptors ---- */

static size_t kind_of(const uint8_t *interface, unsigned vendor)
{
    size_t kind = 0;
    for (; kind < KIND_OTHER; kind++) {
        if (kinds[kind].class == interface[5] &&
            (kinds[kind].subclass == ANY || kinds[kind].subclass == interface[6]) &&
            (kinds[kind].protocol == ANY || kinds[kind].protocol == interface[7])) {
            break;
        }
    }
    for (size_t i = 0; i < sizeof(serial_makers) / sizeof(serial_makers[0]); i++) {
        if (kind > KIND_SERIAL && interface[5] == CLASS_OF_VENDOR && vendor == serial_makers[i]) {
            kind = KIND_SERIAL;
        }
    }
    return kind;
}

struct usb_interfaces usb_read_descriptors(const uint8_t *data, size_t length, unsigned vendor)
{
    struct usb_interfaces found = {.kind = KIND_OTHER};
    for (size_t at = 0; length - at > 2 && data[at] >= 2 && data[at] <= length - at;
         at += data[at]) {
        const uint8_t *one = data + at;
        if (one[1] == DEVICE_DESCRIPTOR && one[0] >= DEVICE_DESCRIPTOR_BYTES) {
            found.is_hub = found.is_hub || one[4] == CLASS_HUB;
        } else if (one[1] == INTERFACE_DESCRIPTOR && one[0] >= INTERFACE_DESCRIPTOR_BYTES) {
            size_t kind = kind_of(one, vendor);
            found.kind = kind < found.kind ? kind : found.kind;
            found.is_hub = found.is_hub || one[5] == CLASS_HUB;
            found.is_disk = found.is_disk || one[5] == CLASS_STORAGE;
        }
    }
    found.name = kinds[found.kind].name;
    return found;
}

static struct usb_interfaces read_interfaces(const char *folder, unsigned vendor)
{
    BUFFER_OWNED struct buffer bytes = {0};
    struct error ignored = {0};
    MEMORY_OWNED char *path = memory_format("%s/descriptors", folder);
    file_read(path, DESCRIPTORS_MAX_BYTES, &bytes, &ignored);
    return usb_read_descriptors((const uint8_t *)buffer_string(&bytes), bytes.used, vendor);
}

/* ---- Is it the host's? ---- */

/* Where a block device comes from is in its path: ".../usb1/1-2/1-2:1.0/host2/.../block/sda".  What
 * lies over others names them in a folder. */
static bool comes_from(const char *block, const char *interface, unsigned depth)
{
    char target[PATH_MAX];
    ssize_t length = readlink(block, target, sizeof(target) - 1);
    target[length > 0 ? length : 0] = '\0';
    bool does = strstr(target, interface) != NULL;
    MEMORY_OWNED char *path = memory_format("%s/slaves", block);
    DIR *folder = does || depth == STACK_MAX ? NULL : opendir(path);
    const struct dirent *entry = NULL;
    while (folder != NULL && !does && (entry = readdir(folder)) != NULL) {
        if (entry->d_name[0] != '.') {
            MEMORY_OWNED char *below = memory_format("%s/%s", path, entry->d_name);
            does = comes_from(below, interface, depth + 1);
        }
    }
    if (folder != NULL) {
        closedir(folder);
    }
    return does;
}

/* proc(5): the third word of a line is MAJOR:MINOR. */
static bool is_mounted_in(const char *mountinfo, const char *sys, const char *interface)
{
    BUFFER_OWNED struct buffer mounts = {0};
    struct error ignored = {0};
    bool is = false;
    file_read(mountinfo, MOUNTS_MAX_BYTES, &mounts, &ignored);
    for (const char *line = buffer_string(&mounts); *line != '\0' && !is;) {
        unsigned major = 0;
        unsigned minor = 0;
        size_t length = strcspn(line, "\n");
        if (sscanf(line, "%*u %*u %u:%u", &major, &minor) == 2) { /* NOLINT(cert-err34-c) */
            MEMORY_OWNED char *block = memory_format("%s/dev/block/%u:%u", sys, major, minor);
            is = comes_from(block, interface, 0);
        }
        line += length + (line[length] == '\n');
    }
    return is;
}

/* A unit may hide folders from the daemon (ProtectHome=), and with them what is mounted there. */
static bool is_mounted(const char *sys, const char *port)
{
    MEMORY_OWNED char *interface = memory_format("/%s:", port);
    return is_mounted_in("/proc/self/mountinfo", sys, interface) ||
        is_mounted_in("/proc/1/mountinfo", sys, interface);
}

/* ---- One device ---- */

static unsigned read_number(const char *folder, const char *name, int base)
{
    char line[32];
    return device_read_line(folder, name, line, sizeof(line)) ? (unsigned)strtoul(line, NULL, base)
                                                              : 0;
}

/* What a device says of itself may be anything, and be cut in the middle of a character. */
static void read_label(const char *folder, const char *name, char ret_label[DEVICE_LABEL_SIZE])
{
    device_read_line(folder, name, ret_label, DEVICE_LABEL_SIZE);
    bool is_text = text_is_utf8(ret_label, strlen(ret_label));
    for (char *at = ret_label; *at != '\0' && !is_text; at++) {
        *at = isascii((unsigned char)*at) ? *at : '?';
    }
}

/* As it calls itself: "FTDI FT232R USB UART". */
static void read_name(const char *folder, char *ret_name, size_t size)
{
    char maker[DEVICE_LABEL_SIZE];
    char product[DEVICE_LABEL_SIZE];
    read_label(folder, "manufacturer", maker);
    read_label(folder, "product", product);
    bool has_both = maker[0] != '\0' && product[0] != '\0' && !text_starts_with(product, maker);
    snprintf(ret_name, size, "%.63s%s%.63s", has_both || product[0] == '\0' ? maker : "",
             has_both ? " " : "", product);
}

static void judge(const char *sys, const char *port, bool is_disk, const char *offered,
                  struct device *device)
{
    bool is_offered = false;
    struct error ignored = {0};
    device_match_offered(offered, device, &is_offered, &ignored);
    if (is_disk && is_mounted(sys, port)) {
        snprintf(device->problem, sizeof(device->problem), "the node has a file system on it");
    } else if (!is_offered) {
        snprintf(device->problem, sizeof(device->problem),
                 "the node's option machine_devices does not name it");
    }
}

/* False: it is gone, or a hub. */
static bool read_one(const char *sys, const char *port, const char *offered,
                     struct device *ret_device)
{
    MEMORY_OWNED char *folder = memory_format("%s/bus/usb/devices/%s", sys, port);
    unsigned vendor = read_number(folder, "idVendor", 16) & 0xffff;
    struct usb_interfaces interfaces = read_interfaces(folder, vendor);
    MEMORY_OWNED char *first =
        memory_format("%s:%u.0", folder, read_number(folder, "bConfigurationValue", 10));
    *ret_device = (struct device){.numa = -1};
    ret_device->bus = read_number(folder, "busnum", 10);
    ret_device->number = read_number(folder, "devnum", 10);
    snprintf(ret_device->address, sizeof(ret_device->address), PREFIX "%.19s", port);
    snprintf(ret_device->class_name, sizeof(ret_device->class_name), PREFIX "%s", interfaces.name);
    snprintf(ret_device->model, sizeof(ret_device->model), PREFIX "%04x:%04x", vendor,
             read_number(folder, "idProduct", 16) & 0xffff);
    read_name(folder, ret_device->name, sizeof(ret_device->name));
    read_label(folder, "serial", ret_device->serial);
    device_read_link(first, "driver", ret_device->driver, sizeof(ret_device->driver));
    judge(sys, port, interfaces.is_disk, offered, ret_device);
    return ret_device->bus > 0 && ret_device->number > 0 && !interfaces.is_hub;
}

static int compare(const void *a, const void *b)
{
    return strcmp(((const struct device *)a)->address, ((const struct device *)b)->address);
}

/* Root hubs ("usb1") and interfaces ("1-2:1.0") stand in the same folder. */
size_t device_list_usb(const char *sys, const char *offered, struct device *ret_devices,
                       size_t count_max)
{
    size_t count = 0;
    MEMORY_OWNED char *path = memory_format("%s/bus/usb/devices", sys);
    DIR *folder = opendir(path);
    const struct dirent *entry = NULL;
    while (folder != NULL && count < count_max && (entry = readdir(folder)) != NULL) {
        if (is_path(entry->d_name) && read_one(sys, entry->d_name, offered, &ret_devices[count])) {
            count++;
        }
    }
    if (folder != NULL) {
        closedir(folder);
    }
    qsort(ret_devices, count, sizeof(*ret_devices), compare);
    return count;
}

/* ---- Its node ---- */

int device_open_usb(const char *dev, const struct device *device, int *ret_fd, struct error *err)
{
    uint8_t bytes[DEVICE_DESCRIPTOR_BYTES] = {0};
    char model[DEVICE_MODEL_SIZE];
    MEMORY_OWNED char *path =
        memory_format("%s/bus/usb/%03u/%03u", dev, device->bus, device->number);
    FD_OWNED int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) {
        return error_set(err, ERROR_UNAVAILABLE, "the device %s cannot be opened (%s): %s",
                         device->address, path, strerror(errno));
    }
    /* Another one may have come to that number since it was looked at. */
    ssize_t length = read(fd, bytes, sizeof(bytes));
    snprintf(model, sizeof(model), PREFIX "%02x%02x:%02x%02x", bytes[9], bytes[8], bytes[11],
             bytes[10]);
    if (length != (ssize_t)sizeof(bytes) || strcmp(model, device->model) != 0) {
        return error_set(err, ERROR_UNAVAILABLE, "the device %s has been unplugged",
                         device->address);
    }
    *ret_fd = fd_take(&fd);
    return 0;
}

/* sysfs-bus-usb says of it what the driver core does: a driver is looked for that takes it. */
static void probe(const char *sys, const char *interface)
{
    MEMORY_OWNED char *path = memory_format("%s/bus/usb/drivers_probe", sys);
    FD_OWNED int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd >= 0) {
        file_write_all(fd, interface, strlen(interface));
    }
}

void device_release_usb(const char *sys, const char *address)
{
    CHECK(device_is_usb(address));
    char driver[DEVICE_NAME_SIZE];
    MEMORY_OWNED char *path = memory_format("%s/bus/usb/devices", sys);
    MEMORY_OWNED char *begin = memory_format("%s:", address);
    DIR *folder = opendir(path);
    const struct dirent *entry = NULL;
    while (folder != NULL && (entry = readdir(folder)) != NULL) {
        MEMORY_OWNED char *interface = memory_format("%s/%s", path, entry->d_name);
        device_read_link(interface, "driver", driver, sizeof(driver));
        if (text_starts_with(entry->d_name, begin + strlen(PREFIX)) && driver[0] == '\0') {
            probe(sys, entry->d_name);
        }
    }
    if (folder != NULL) {
        closedir(folder);
    }
}
