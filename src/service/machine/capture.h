/*
 * Taking the content of a machine as it is at one moment (content.h), while it may run.
 *
 * With memory: the VMM writes its state and stands still; its disks are copied; it goes on; then
 * the state is stamped into a template and all is sealed.  Without: the agent freezes the file
 * systems for the copy.  A machine that does not run is copied as it lies there.
 *
 * Its volumes are kept with it (service/volume: volume_keep()), where that is asked for: it stands
 * still, they are laid over, and then the rest is taken.
 *
 * A machine is captured once at a time, and is held until the end; deleting it meanwhile makes the
 * capture fail.
 */
#ifndef SERVICE_MACHINE_CAPTURE_H
#define SERVICE_MACHINE_CAPTURE_H

#include <stdbool.h>
#include <stdint.h>

struct error;
struct machine;

enum capture_kind { CAPTURE_MEMORY, CAPTURE_DISK };

/* Can it be captured now?  CONFLICT, with what to do. */
int capture_check(const struct machine *machine, enum capture_kind kind, struct error *err);

/* NULL: it is there, and takes `bytes`; else nothing is left of it. */
typedef void capture_done(const struct error *error, uint64_t bytes, void *context);

/* Can its volumes be kept by that name?  CONFLICT, EXISTS, LIMIT. */
int capture_check_volumes(const struct machine *machine, const char *snapshot, struct error *err);

/* After capture_check(): into `folder`, which is made.  `volumes`: the name of the snapshots of its
 * volumes; NULL: they are not kept.  `done` once, later. */
void capture_begin(struct machine *machine, enum capture_kind kind, const char *folder,
                   const char *volumes, capture_done *done, void *context);

/* Of one that was just begun with its volumes: what they held is part of the content. */
void capture_carry_volumes(struct machine *machine);

/* Does it stand still for one at this moment?  And are its volumes being kept? */
bool capture_holds_still(const struct machine *machine);
bool capture_keeps_volumes(const struct machine *machine);

/* Its VMM is not spoken to any more: from run.c. */
void capture_lose_vm(struct machine *machine);

#endif
