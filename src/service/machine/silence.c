/*
 * Agents that say nothing any more: stopped by somebody in the guest, or with a guest that hangs.
 *
 * A program that runs in a machine may be silent for days, so its silence says nothing, and whoever
 * has begun one would wait for ever.  So an agent that was spoken to is asked now and then.  One
 * that does not answer, in a machine that runs all the while, is given up: what was asked of it
 * ends, the machine's reason says so, and its next word brings it back.
 */
#include "base/log.h"
#include "base/loop/loop.h"

#include "service/machine/parts.h"

enum { ASK_EVERY_MS = 15000, SILENT_MS = 45000 };

/* Nothing has it stand still, or may. */
static bool is_itself(const struct machine *machine)
{
    return machine->state == MACHINE_RUNNING && !machine->is_busy && machine->held == 0 &&
        machine->capture == NULL && machine->restore == NULL && machine->migration == NULL;
}

static void on_answered(const struct error *error, const struct agent_result *result, void *context)
{
    struct machine *machine = context;
    (void)result;
    if (error != NULL && error->kind == ERROR_CANCELLED) {
        return; /* its agent is closed */
    }
    if (error != NULL && error->kind == ERROR_TIMEOUT && agent_is_up(machine->agent) &&
        is_itself(machine) && machine->stills == machine->stills_asked) {
        log_warn("machine %s: its agent has said nothing for %d s", machine->key, SILENT_MS / 1000);
        agent_forsake(machine->agent);
        machine_set_state(machine, MACHINE_RUNNING, "its agent does not answer");
        return;
    }
    silence_watch(machine);
}

static void ask(void *context)
{
    struct machine *machine = context;
    if (machine->agent == NULL || !agent_is_up(machine->agent)) {
        return; /* its next word begins anew */
    }
    if (!is_itself(machine)) {
        silence_watch(machine);
        return;
    }
    machine->stills_asked = machine->stills;
    agent_ping(machine->agent, SILENT_MS, on_answered, machine);
}

void silence_watch(struct machine *machine)
{
    if (machine->silence == NULL) {
        machine->silence = loop_timer_new(machine->service->options.loop, ask, machine);
    }
    loop_timer_start(machine->silence, ASK_EVERY_MS);
}

void silence_end(struct machine *machine)
{
    loop_timer_free(machine->silence);
    machine->silence = NULL;
}
