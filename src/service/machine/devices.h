/* Devices that machines have whole: see devices.c. */
#ifndef SERVICE_MACHINE_DEVICES_H
#define SERVICE_MACHINE_DEVICES_H

#include "engine/device/device.h"

#include "service/machine/parts.h"

enum { MACHINE_DEVICES_MAX = 16 };

bool devices_are_wanted(const json_t *config);
uint64_t devices_count(const json_t *config); /* that it asks for */
bool devices_want_usb(const json_t *config);
/* Does it ask for one of this class, of this model, or at this address? */
bool devices_fit(const json_t *config, const char *class_name, const char *model,
                 const char *address);
/* Are they devices at all, and does it have PCI?  Its machine type follows from them.  INVALID,
 * UNSUPPORTED. */
int devices_complete(json_t *config, struct error *err);
/* UNSUPPORTED: "... cannot be `what`". */
int devices_refuse(const json_t *config, const char *what, struct error *err);
bool devices_are_known(const struct machine_service *service); /* has the state version 12? */
int devices_check_known(const struct machine_service *service, const json_t *config,
                        struct error *err);

/* Would that node have them, for the machine with this id ("": one that is not there yet)?
 * CONFLICT. */
int devices_check(const struct machine_service *service, const json_t *config, const char *id,
                  const char *node, struct error *err);

/* What of this node's machines may have: see device_list(). */
const char *devices_offered(const struct machine_service *service);

/* Its own at this node; with what comes with those on PCI, as they are now.  UNAVAILABLE. */
struct machine_devices {
    char own[MACHINE_DEVICES_MAX][DEVICE_ADDRESS_SIZE];
    size_t own_count;
    struct hypervisor_device list[HYPERVISOR_DEVICES_MAX];
    size_t count;
};
int devices_describe(const struct machine *machine, struct machine_devices *ret_devices,
                     struct error *err);

/* Of one with a runner, before it has them: at most MACHINE_DEVICES_MAX. */
size_t devices_named(const json_t *config, struct hypervisor_device *ret_devices);

/* Members "has_devices", "missing_devices". */
void devices_write(const struct machine_service *service, const char *id,
                   struct json_writer *writer);

/* ---- usb.c ---- */

/* Its VMM obeys: its USB devices are plugged in, and again whenever they are. */
void usb_watch(struct machine *machine);
/* It has ended. */
void usb_end(struct machine *machine);
/* And is not started again: the node's drivers may have its devices. */
void usb_release(struct machine *machine);

#endif
