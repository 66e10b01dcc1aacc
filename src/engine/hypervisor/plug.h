/* Inside engine/hypervisor: volumes of a VMM that is to go on from a state, plugged in before. */
#ifndef ENGINE_HYPERVISOR_PLUG_H
#define ENGINE_HYPERVISOR_PLUG_H

#include "engine/hypervisor/hypervisor.h"

struct plug;

/* Copies spec->volumes, whose descriptors stay the caller's. */
struct plug *plug_new(const struct hypervisor_spec *spec);
/* Accepts NULL; closes and wipes. */
void plug_free(struct plug *plug);

/* `done` once, unless the VMM is freed before. */
void plug_all(struct plug *plug, struct hypervisor_vm *vm, hypervisor_done done, void *context);

#endif
