/*
 * Devices of this machine that a guest can have whole: on PCI (VFIO), and on USB.
 *
 * On PCI what can be given is an IOMMU group: the kernel isolates no less than that (Documentation/
 * driver-api/vfio.rst).  A device stands here for its group, and `together` are the others of the
 * group that go with it.  A device is given away by whoever runs the machine, who binds it to
 * vfio-pci (driverctl(8), vfio-pci.ids=): nothing here takes one from the host.
 *
 * On USB a device is given that is offered by name, and hubs never: its interfaces are taken from
 * the host's drivers when a guest gets it.  Its address is where it is plugged in.
 *
 * Read from sysfs (Documentation/ABI/testing/sysfs-bus-pci, sysfs-bus-usb): files of one line,
 * links.  All of it is input.
 */
#ifndef ENGINE_DEVICE_DEVICE_H
#define ENGINE_DEVICE_DEVICE_H

#include <stdbool.h>
#include <stddef.h>

struct error;

enum {
    DEVICE_ADDRESS_SIZE = 24, /* "0000:01:00.0", "usb:1-2.3": bus and ports */
    DEVICE_MODEL_SIZE = 14,   /* "10de:2204", "usb:0403:6001": vendor and device */
    DEVICE_NAME_SIZE = 32,    /* of a driver or a class */
    DEVICE_LABEL_SIZE = 64,
    DEVICE_GROUP_SIZE = 12,
    DEVICE_TOGETHER_MAX = 15,
    DEVICE_PROBLEM_SIZE = 160,
    DEVICE_LIST_MAX = 128,
    DEVICE_ASK_COUNT_MAX = 16,
};

struct device {
    char address[DEVICE_ADDRESS_SIZE];
    char class_name[DEVICE_NAME_SIZE]; /* "gpu", "usb:serial" */
    char model[DEVICE_MODEL_SIZE];
    char driver[DEVICE_NAME_SIZE];                           /* "": none has it */
    char parent[DEVICE_ADDRESS_SIZE];                        /* of an SR-IOV virtual function */
    char group[DEVICE_GROUP_SIZE];                           /* number of its IOMMU group, or "" */
    int numa;                                                /* or -1 */
    char together[DEVICE_TOGETHER_MAX][DEVICE_ADDRESS_SIZE]; /* bound to vfio-pci as well */
    size_t together_count;
    char name[DEVICE_LABEL_SIZE * 2]; /* on USB, by its maker; the same of the serial number */
    char serial[DEVICE_LABEL_SIZE];
    unsigned bus, number;              /* on USB, of its node */
    char problem[DEVICE_PROBLEM_SIZE]; /* why it cannot be given; "": it can */
};

/* Is a word, an address, a class or a model of USB's? */
bool device_is_usb(const char *word);

/* Which of the classes that machines ask for ("gpu", "network", ...) the upper 16 bits of a PCI
 * class are of; DEVICE_CLASSES: of none. */
enum { DEVICE_CLASSES = 7 };
size_t device_class_of(unsigned class);
const char *device_class_name(size_t which);

/*
 * The devices of machines' classes below `sys` ("/sys"), in the order of their addresses, and those
 * on USB; the first DEVICE_LIST_MAX.  `offered`, as the option says it: "none", or, with commas,
 * "all" that vfio-pci has, "usb" for all that is plugged in, classes, models and addresses.
 * Returns how many.
 */
size_t device_list(const char *sys, const char *offered, struct device *ret_devices);
size_t device_list_usb(const char *sys, const char *offered, struct device *ret_devices,
                       size_t count_max);

/* Of one on USB, its node below `dev` ("/dev").  UNAVAILABLE: it is gone. */
int device_open_usb(const char *dev, const struct device *device, int *ret_fd, struct error *err);

/* Whoever had it has ended, without giving its interfaces back to the host's drivers: these may
 * have them again.  Those that somebody has are left alone. */
void device_release_usb(const char *sys, const char *address);

/* What a machine asks for: "gpu", "10de:2204", "0000:01:00.0", "usb:serial", "usb:0403:6001",
 * "usb:1-2.3"; with "=2" two of them. */
enum device_ask_kind { DEVICE_ASK_CLASS, DEVICE_ASK_MODEL, DEVICE_ASK_ADDRESS };
struct device_ask {
    enum device_ask_kind kind;
    char what[DEVICE_NAME_SIZE]; /* as devices have it: nic is network */
    unsigned count;
};
/* INVALID. */
int device_ask_parse(const char *text, struct device_ask *ret_ask, struct error *err);
bool device_ask_takes(const struct device_ask *ask, const char *class_name, const char *model,
                      const char *address);

/* Is a comma-separated `offered` one that device_list() takes?  INVALID. */
int device_check_offered(const char *offered, struct error *err);

#endif
