/* Inside service/machine: another name for a machine.  Main loop thread. */
#ifndef SERVICE_MACHINE_RENAME_H
#define SERVICE_MACHINE_RENAME_H

#include <jansson.h>

#include "service/machine/machine.h"

struct machine;

/* The `name` of a MachineUpdate, which stands alone.  INVALID, EXISTS. */
void rename_machine(struct machine *machine, const json_t *update, machine_changed *done,
                    void *context);

#endif
