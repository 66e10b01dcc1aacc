/* What the files of this room share. */
#ifndef ENGINE_DEVICE_PARTS_H
#define ENGINE_DEVICE_PARTS_H

#include <stdint.h>

#include "engine/device/device.h"

/* Does the text look like this ("xxxx:xx:xx.x")?  x stands for a digit of base 16. */
bool device_has_form(const char *text, const char *form);

/* Without what a terminal would take for an order; false, or "": it is not there. */
bool device_read_line(const char *folder, const char *name, char *ret_line, size_t size);
/* The last part of where a link leads. */
void device_read_link(const char *folder, const char *name, char *ret_last, size_t size);

/* Is it offered by one of these words?  Without a device: is each of them one?  INVALID. */
int device_match_offered(const char *offered, const struct device *device, bool *ret_is_offered,
                         struct error *err);

/* ---- usb.c ---- */

/* "usb:1-2.3", "usb:serial". */
bool usb_is_address(const char *text);
bool usb_is_class(const char *text);

/* What a device's descriptors say, one behind the other, each with its length and its type. */
struct usb_interfaces {
    size_t kind;
    const char *name; /* "serial" */
    bool is_hub;
    bool is_disk;
};
struct usb_interfaces usb_read_descriptors(const uint8_t *data, size_t length, unsigned vendor);

#endif
