/* Inside engine/hypervisor: USB devices of the host in a running QEMU.  See hypervisor.h. */
#ifndef ENGINE_HYPERVISOR_QEMU_USB_H
#define ENGINE_HYPERVISOR_QEMU_USB_H

#include "engine/hypervisor/hypervisor.h"

#define QEMU_USB_CONTROLLER "usb"

struct qemu_usb;
struct qmp;

struct qemu_usb *qemu_usb_new(struct qmp *qmp);
/* What is under way is forgotten, and not told: after qmp_close().  Accepts NULL. */
void qemu_usb_free(struct qemu_usb *usb);
void qemu_usb_set(struct qemu_usb *usb, const struct hypervisor_usb *devices, size_t count,
                  struct hypervisor_usb_set *ret_set, hypervisor_done done, void *context);

#endif
