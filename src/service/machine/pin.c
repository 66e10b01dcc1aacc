/*
 * On which CPUs the VMMs of this node run.  Who has CPUs of its own runs on those, and nobody else
 * of this node does; placement says which (machine_pin()), each time that it changes.
 */
#include <string.h>

#include "base/json.h"
#include "base/log.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "service/machine/parts.h"

struct pinning {
    struct machine_service *service;
    char id[MACHINE_ID_SIZE];
    char *folder;
    char *cpus;
    const char *how; /* NULL: it failed */
    struct error error;
};

static void pin(void *context)
{
    struct pinning *pinning = context;
    hypervisor_pin(pinning->folder, pinning->cpus, &pinning->how, &pinning->error);
}

static void on_pinned(void *context)
{
    struct pinning *pinning = context;
    struct machine *machine = state_find_id(pinning->service, pinning->id);
    pinning->service->pending--;
    if (machine != NULL && machine->vm != NULL) {
        machine->pinned_by = pinning->how;
    }
    if (pinning->how == NULL && pinning->error.kind != ERROR_NOT_FOUND) {
        log_warn("machine %s: it runs on any CPU, and is to run on %s: %s", pinning->id,
                 pinning->cpus, pinning->error.text);
    }
    free(pinning->folder);
    free(pinning->cpus);
    free(pinning);
}

void pin_apply(struct machine *machine)
{
    machine->pinned_by = NULL;
    if (machine->cpus == NULL || machine->vm == NULL || machine->service->is_over) {
        return;
    }
    struct pinning *pinning = NEW(struct pinning);
    pinning->service = machine->service;
    snprintf(pinning->id, sizeof(pinning->id), "%s", machine->id);
    pinning->folder = memory_copy_string(machine->folder);
    pinning->cpus = memory_copy_string(machine->cpus);
    machine->service->pending++;
    loop_work(machine->service->options.loop, pin, on_pinned, pinning);
}

bool machine_pin(struct machine_service *service, const char *id, const char *cpus, bool is_own)
{
    struct machine *machine = state_find_id(service, id);
    if (machine == NULL) {
        return false;
    }
    machine->has_own_cpus = is_own;
    if (machine->cpus == NULL || strcmp(machine->cpus, cpus) != 0) {
        free(machine->cpus);
        machine->cpus = memory_copy_string(cpus);
        pin_apply(machine);
    }
    return true;
}

/* As the kernel has it, which is what holds. */
void pin_write(struct json_writer *writer, const struct machine *machine)
{
    char cpus[256];
    if (machine->pinned_by != NULL && hypervisor_read_cpus(machine->folder, cpus, sizeof(cpus))) {
        json_write_field_string(writer, "runs_on_cpus", cpus);
        json_write_field_string(writer, "pinned_by", machine->pinned_by);
        json_write_field_bool(writer, "has_own_cpus", machine->has_own_cpus);
    }
}
