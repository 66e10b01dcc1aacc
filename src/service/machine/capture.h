/*
 * Taking the content of a machine as it is at one moment (content.h), while it may run.
 *
 * With memory: the VMM writes its state and stands still; its disks are copied; it goes on; then
 * the state is stamped into a template and all is sealed.  Without: the agent freezes the file
 * systems for the copy.  A machine that does not run is copied as it lies there.
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

/* After capture_check(): into `folder`, which is made.  `done` once, later. */
void capture_begin(struct machine *machine, enum capture_kind kind, const char *folder,
                   capture_done *done, void *context);

/* Does it stand still for one at this moment? */
bool capture_holds_still(const struct machine *machine);

/* Its VMM is not spoken to any more: from run.c. */
void capture_lose_vm(struct machine *machine);

#endif
