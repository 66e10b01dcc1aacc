/* Slots: a clone that waits for a call, or serves one.  See parts.h. */
#include "base/check.h"
#include "base/log.h"

#include "engine/clone/parts.h"

static void on_failed(const struct error *error, void *context)
{
    struct slot *slot = context;
    struct runner_call *call = slot->call;
    log_info("clone: %s", error->text);
    slot_end(slot);
    if (call != NULL) {
        call_failed(call, error->text);
    }
}

/* One that has the random numbers of all others serves nobody. */
static void on_renewed(const struct error *error, const struct agent_result *result, void *context)
{
    struct slot *slot = context;
    (void)result;
    if (error != NULL && error->kind == ERROR_CANCELLED) {
        return; /* the slot has ended it */
    }
    if (error != NULL) {
        struct error told = *error;
        error_wrap(&told, "a clone did not become one");
        on_failed(&told, slot);
        return;
    }
    slot->is_ready = true;
    machine_ready(slot->machine);
    if (slot->call != NULL) {
        call_go_on(slot->call);
    }
}

static void on_up(void *context)
{
    struct slot *slot = context;
    if (!slot->is_ready) {
        agent_renew(slot->machine->agent, NULL, NULL, on_renewed, slot);
    }
}

void slot_begin(struct slot *slot, struct template *template)
{
    static const struct machine_events events = {on_up, on_failed};
    struct error err = {0};
    struct template_spec parts;
    CHECK(slot->machine == NULL && template->is_ready);
    slot->machine = machine_new(slot->runner->service, &events, slot, &err);
    if (slot->machine == NULL) {
        log_error("clone: %s", err.text);
        if (slot->call != NULL) {
            call_failed(slot->call, err.text);
        }
        return;
    }
    slot->template = template;
    template->users++;
    template_describe(template, &parts);
    parts.spec.memory = HYPERVISOR_MEMORY_COPY;
    parts.spec.is_incoming = true;
    parts.spec.state_file = parts.state_file;
    machine_start(slot->machine, &parts.spec, CLONE_START_MS);
    template_spec_done(&parts);
}

void slot_end(struct slot *slot)
{
    struct template *template = slot->template;
    struct clone_machine *machine = slot->machine;
    slot->machine = NULL;
    slot->template = NULL;
    slot->is_ready = false;
    machine_end(machine);
    if (template != NULL) {
        template_unuse(template);
    }
}
