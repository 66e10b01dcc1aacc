/*
 * Where in this node the VMMs run.  Who has CPUs of its own has one for each vCPU, and nobody else
 * of this node runs there; placement says which (machine_pin()), each time that it changes.
 *
 * A VMM is told on a thread of the pool, one at a time: of two that tell it different things, the
 * later one is not to be overtaken.
 */
#include <string.h>

#include "base/json.h"
#include "base/log.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "service/machine/parts.h"

struct texts {
    char *cpus;
    char *others;
    char *nodes;
    bool is_own;
};

struct pin {
    struct texts place;
    struct hypervisor_pinned pinned; /* how: NULL: its VMM was not told */
    bool is_busy;                    /* a thread tells it */
    bool is_late;                    /* and is to tell it again */
};

struct pinning {
    struct machine_service *service;
    char id[MACHINE_ID_SIZE];
    char *folder;
    uint64_t memory_bytes;
    uint64_t page_bytes;
    struct texts place;
    struct hypervisor_pinned pinned;
    struct error error;
};

static void texts_copy(struct texts *to, const struct texts *from)
{
    *to = (struct texts){memory_copy_string(from->cpus), memory_copy_string(from->others),
                         memory_copy_string(from->nodes), from->is_own};
}

static void texts_done(struct texts *texts)
{
    free(texts->cpus);
    free(texts->others);
    free(texts->nodes);
}

void pin_free(struct machine *machine)
{
    if (machine->pin != NULL) {
        texts_done(&machine->pin->place);
        free(machine->pin);
        machine->pin = NULL;
    }
}

static void tell(void *context)
{
    struct pinning *pinning = context;
    const struct hypervisor_place place = {.cpus = pinning->place.cpus,
                                           .is_own = pinning->place.is_own,
                                           .others = pinning->place.others,
                                           .nodes = pinning->place.nodes,
                                           .memory_bytes = pinning->memory_bytes,
                                           .page_bytes = pinning->page_bytes};
    hypervisor_pin(pinning->folder, &place, &pinning->pinned, &pinning->error);
}

static void on_told(void *context)
{
    struct pinning *pinning = context;
    struct machine *machine = state_find_id(pinning->service, pinning->id);
    struct pin *pin = machine != NULL ? machine->pin : NULL;
    pinning->service->pending--;
    if (pinning->pinned.how == NULL && pinning->error.kind != ERROR_NOT_FOUND) {
        log_warn("machine %s: it runs on any CPU, and is to run on %s: %s", pinning->id,
                 pinning->place.cpus, pinning->error.text);
    }
    if (pin != NULL) {
        pin->is_busy = false;
        pin->pinned = machine->vm != NULL ? pinning->pinned : (struct hypervisor_pinned){0};
        if (pin->is_late) {
            pin_apply(machine);
        }
    }
    texts_done(&pinning->place);
    free(pinning->folder);
    free(pinning);
}

void pin_apply(struct machine *machine)
{
    struct pin *pin = machine->pin;
    if (pin == NULL) {
        return;
    }
    pin->pinned = (struct hypervisor_pinned){0};
    pin->is_late = pin->is_busy;
    if (pin->is_busy || machine->vm == NULL || machine->service->is_over) {
        return;
    }
    JSON_OWNED json_t *booted = change_booted_config(machine);
    struct pinning *pinning = NEW(struct pinning);
    pinning->service = machine->service;
    snprintf(pinning->id, sizeof(pinning->id), "%s", machine->id);
    pinning->folder = memory_copy_string(machine->folder);
    pinning->memory_bytes = json_u64(booted, "memory_bytes");
    pinning->page_bytes = machine_config_page_bytes(booted);
    texts_copy(&pinning->place, &pin->place);
    pin->is_busy = true;
    machine->service->pending++;
    loop_work(machine->service->options.loop, tell, on_told, pinning);
}

bool machine_pin(struct machine_service *service, const char *id, const struct machine_place *place)
{
    struct machine *machine = state_find_id(service, id);
    if (machine == NULL) {
        return false;
    }
    struct pin *pin = machine->pin;
    if (pin != NULL && pin->place.is_own == place->is_own &&
        strcmp(pin->place.cpus, place->cpus) == 0 &&
        strcmp(pin->place.others, place->others) == 0 &&
        strcmp(pin->place.nodes, place->nodes) == 0) {
        return true;
    }
    if (pin == NULL) {
        pin = NEW(struct pin);
        machine->pin = pin;
    } else {
        texts_done(&pin->place);
    }
    pin->place = (struct texts){memory_copy_string(place->cpus), memory_copy_string(place->others),
                                memory_copy_string(place->nodes), place->is_own};
    pin_apply(machine);
    return true;
}

/* Whoever is not to have any more has them until placement has seen that, too. */
const char *pin_own_cpus(const struct machine *machine)
{
    bool is_owner = machine->pin != NULL && machine->pin->place.is_own &&
        json_is_true(json_object_get(machine->config, "dedicated_cpus"));
    return is_owner ? machine->pin->place.cpus : "";
}

const char *pin_nodes(const struct machine *machine)
{
    return machine->pin != NULL ? machine->pin->place.nodes : "";
}

static void write_vcpus(struct json_writer *writer, const struct hypervisor_standing *standing)
{
    json_write_key(writer, "vcpus");
    json_write_begin_array(writer);
    for (size_t i = 0; i < standing->vcpu_count; i++) {
        json_write_begin_object(writer);
        json_write_field_u64(writer, "vcpu", standing->vcpus[i].number);
        json_write_field_string(writer, "cpus", standing->vcpus[i].cpus);
        json_write_end_object(writer);
    }
    json_write_end_array(writer);
}

/* Of one with its own CPUs the first thread is none of a vCPU's: it is where the others are. */
static void write_own(struct json_writer *writer, const struct hypervisor_standing *standing,
                      const struct pin *pin)
{
    bool are_known = standing->vcpu_count > 0;
    json_write_field_string(writer, "runs_on_cpus", are_known ? pin->place.cpus : standing->cpus);
    if (are_known) {
        write_vcpus(writer, standing);
        json_write_field_string(writer, "emulator_cpus", standing->cpus);
    }
    if (pin->pinned.memory[0] != '\0') {
        bool by_itself = strcmp(pin->pinned.memory, HYPERVISOR_BOUND_ITSELF) == 0;
        json_write_field_string(writer, "memory_nodes",
                                by_itself ? pin->place.nodes : standing->nodes);
        json_write_field_string(writer, "memory_binding", pin->pinned.memory);
    }
}

/* As the kernel has it, which is what holds. */
void pin_write(struct json_writer *writer, const struct machine *machine)
{
    const struct pin *pin = machine->pin;
    if (pin == NULL || pin->pinned.how == NULL) {
        return;
    }
    MEMORY_OWNED struct hypervisor_standing *standing = NEW(struct hypervisor_standing);
    if (!hypervisor_read_standing(machine->folder, standing)) {
        return;
    }
    if (pin->place.is_own) {
        write_own(writer, standing, pin);
    } else {
        json_write_field_string(writer, "runs_on_cpus", standing->cpus);
    }
    json_write_field_string(writer, "pinned_by", pin->pinned.how);
    json_write_field_bool(writer, "has_own_cpus", pin->place.is_own);
}
