/* Inside service/machine: volumes that were kept with a machine's memory, for VMMs that read it. */
#ifndef SERVICE_MACHINE_KEPT_H
#define SERVICE_MACHINE_KEPT_H

#include <jansson.h>

#include "service/machine/parts.h"
#include "service/volume/volume.h"

/* What hypervisor_spec.volumes points into. */
struct kept {
    struct hypervisor_volume volumes[HYPERVISOR_VOLUMES_MAX];
    struct volume_open open[HYPERVISOR_VOLUMES_MAX];
    size_t count;
    size_t open_count;
};

/* Empty ones of the same form, for a VMM that never runs; `list` (lent) is a manifest's. */
struct kept *kept_blank(const json_t *list);

/*
 * Those that FOLDER/resume/volumes names, open.  Each is to hold exactly what was put there for
 * this start: a memory that goes on with another disk would destroy it.  *ret_kept is the caller's;
 * NULL: there are none.  CONFLICT, CORRUPT.
 */
int kept_open(const struct machine *machine, struct kept **ret_kept, struct error *err);
void kept_free(struct kept *kept); /* accepts NULL */
void kept_describe(const struct kept *kept, struct hypervisor_spec *spec);

/* Was it in the memory that the machine has gone on from?  Then the guest has it as it was. */
bool kept_is_mounted(const struct machine *machine, const char *name);
/* The guest boots anew, and finds them as it finds others. */
void kept_forget(const struct machine *machine);

/* Each entry gets a layer of its own, and as clones of `machine` (NULL: the same ones) an id and a
 * name.  A new reference. */
int kept_begin(const json_t *list, const char *machine, json_t **ret_list, struct error *err);

#endif
