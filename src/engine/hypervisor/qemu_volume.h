/* Inside engine/hypervisor: volumes of a running QEMU.  See hypervisor.h for what each means. */
#ifndef ENGINE_HYPERVISOR_QEMU_VOLUME_H
#define ENGINE_HYPERVISOR_QEMU_VOLUME_H

#include <jansson.h>

#include "engine/hypervisor/hypervisor.h"

/* The controller that every machine has is "volumes". */
#define QEMU_VOLUMES_BUS "volumes.0"

struct error;
struct qemu_volumes;
struct qmp;

struct qemu_volumes *qemu_volumes_new(struct qmp *qmp);
/* What is under way is forgotten, and not told.  Accepts NULL. */
void qemu_volumes_free(struct qemu_volumes *volumes);
void qemu_volumes_event(struct qemu_volumes *volumes, const char *event, const json_t *data);
/* The VMM is gone: what is under way has failed. */
void qemu_volumes_end(struct qemu_volumes *volumes, const struct error *error);

void qemu_volume_attach(struct qemu_volumes *volumes, const struct hypervisor_volume *volume,
                        hypervisor_done done, void *context);
void qemu_volume_detach(struct qemu_volumes *volumes, const char *id, const char *const *layers,
                        size_t layer_count, hypervisor_done done, void *context);
void qemu_volume_resize(struct qemu_volumes *volumes, const char *id, uint64_t bytes,
                        hypervisor_done done, void *context);
void qemu_volume_throttle(struct qemu_volumes *volumes, const char *id,
                          const struct hypervisor_rates *rates, hypervisor_done done,
                          void *context);
void qemu_volume_lay_over(struct qemu_volumes *volumes, const char *id, const char *below,
                          const struct hypervisor_layer *layer, hypervisor_done done,
                          void *context);

#endif
