/* Inside engine/hypervisor: a QEMU machine goes to another QEMU while it runs.  See
 * hypervisor_leave(). */
#ifndef ENGINE_HYPERVISOR_QEMU_LIVE_H
#define ENGINE_HYPERVISOR_QEMU_LIVE_H

#include <jansson.h>

#include "engine/hypervisor/hypervisor.h"

struct loop;
struct qemu_live;
struct qmp;

struct qemu_live *qemu_live_new(struct loop *loop, struct qmp *qmp);
/* After qmp_close(); no callback comes any more. */
void qemu_live_free(struct qemu_live *live);

void qemu_live_event(struct qemu_live *live, const char *name, const json_t *data);
void qemu_live_end(struct qemu_live *live, const struct error *error); /* of the connection */

void qemu_live_leave(struct qemu_live *live, const struct hypervisor_leaving *leaving,
                     const struct hypervisor_leaving_events *events, void *context);
/* No callback comes any more; what QEMU still does of it is cancelled. */
void qemu_live_abandon(struct qemu_live *live);
void qemu_live_receive(struct qemu_live *live, const struct hypervisor_moving *disks,
                       size_t disk_count, int disk_listener, int state_fd,
                       const struct hypervisor_receiving_events *events, void *context);

#endif
