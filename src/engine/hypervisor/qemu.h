/* What the two files of the QEMU driver share. */
#ifndef ENGINE_HYPERVISOR_QEMU_H
#define ENGINE_HYPERVISOR_QEMU_H

#include "engine/hypervisor/driver.h"

#define QEMU_CONTROL_SOCKET "qmp.sock"

/* Pure but for the time-stamp counter's frequency. */
void qemu_make_order(const struct hypervisor_driver_info *info, const char *program,
                     const struct hypervisor_spec *spec, struct order *order);

#endif
