/*
 * NUMA nodes that a guest sees, where its own CPUs are of several of its node's.
 *
 * They are laid out when it boots, and are a part of what its VMM began with (`booted`
 * of change.c, and so of snapshots, clones and moves): memory that was saved with some is read with
 * the same.  [{"cpus": "0,1", "memory_bytes": N}]
 */
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"

#include "service/machine/parts.h"

json_t *cells_lay_out(const struct machine *machine)
{
    struct hypervisor_cell cells[HYPERVISOR_CELLS_MAX];
    const json_t *config = machine->config;
    const char *cpus = pin_own_cpus(machine);
    const struct hypervisor_driver_info *driver =
        hypervisor_driver_info(machine->service->options.hypervisor, json_text(config, "driver"));
    if (runner_is(config) || cpus[0] == '\0' || !driver->has_cells ||
        (driver->has_pc && settings_board(config) != HYPERVISOR_Q35)) {
        return NULL;
    }
    const struct hypervisor_spec spec = boot_spec(config, machine->key, machine->folder);
    size_t count = hypervisor_lay_out("/sys", &spec, cpus, cells);
    json_t *list = count > 0 ? json_array() : NULL;
    for (size_t i = 0; i < count; i++) {
        json_array_append_new(list,
                              json_pack("{s:s, s:I}", "cpus", cells[i].cpus, "memory_bytes",
                                        (json_int_t)cells[i].memory_bytes));
    }
    return list;
}

size_t cells_describe(const struct machine *machine,
                      struct hypervisor_cell ret_cells[HYPERVISOR_CELLS_MAX])
{
    size_t index = 0;
    size_t count = 0;
    json_t *cell = NULL;
    json_array_foreach(json_object_get(machine->config, "cells"), index, cell)
    {
        if (count < HYPERVISOR_CELLS_MAX) {
            struct hypervisor_cell *to = &ret_cells[count++];
            *to = (struct hypervisor_cell){.memory_bytes = json_u64(cell, "memory_bytes")};
            snprintf(to->cpus, sizeof(to->cpus), "%s", json_text(cell, "cpus"));
        }
    }
    if (count > 0) {
        hypervisor_place_cells("/sys", pin_own_cpus(machine), ret_cells, count);
    }
    return count;
}

void cells_write(struct json_writer *writer, const struct machine *machine)
{
    json_t *cells = json_object_get(machine->booted, "cells");
    if (json_array_size(cells) > 0) {
        JSON_OWNED json_t *members = json_pack("{s:O}", "guest_numa", cells);
        json_write_members(writer, members);
    }
}
