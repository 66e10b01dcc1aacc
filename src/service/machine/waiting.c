/* Those who wait until the agent of a machine that runs is spoken to again. */
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "service/machine/parts.h"

enum { WAIT_MS = 15000 };

struct machine_waiting {
    struct list_node link;
    struct machine_service *service;
    char id[MACHINE_ID_SIZE];
    struct loop_timer *timer;
    void (*done)(void *context);
    void *context;
};

void machine_waiting_cancel(struct machine_waiting *waiting)
{
    list_remove(&waiting->link);
    loop_timer_free(waiting->timer);
    free(waiting);
}

static void finish(void *context)
{
    struct machine_waiting *waiting = context;
    void (*done)(void *context) = waiting->done;
    void *argument = waiting->context;
    machine_waiting_cancel(waiting);
    done(argument);
}

/* Later: whoever says it may be the agent. */
void waiting_look(const struct machine *machine)
{
    LIST_EACH(node, &machine->service->waiting)
    {
        struct machine_waiting *waiting = LIST_ITEM(node, struct machine_waiting, link);
        if (strcmp(waiting->id, machine->id) == 0) {
            loop_timer_start(waiting->timer, 0);
        }
    }
}

void waiting_end(struct machine_service *service)
{
    while (!list_is_empty(&service->waiting)) {
        finish(LIST_FIRST(&service->waiting, struct machine_waiting, link));
    }
}

struct machine_waiting *machine_agent_await(struct machine_service *service, const char *project,
                                            const char *name, void (*done)(void *context),
                                            void *context)
{
    const struct machine *machine = state_find(service, project, name);
    bool may_come = machine != NULL && !service->is_over &&
        machine->desired == MACHINE_DESIRED_RUNNING &&
        (machine->state == MACHINE_RUNNING ||
         (machine->state == MACHINE_STARTING && machine->was_found)) &&
        !json_is_true(json_object_get(machine->config, "without_agent"));
    if (!may_come ||
        (machine->state == MACHINE_RUNNING && machine->agent != NULL &&
         agent_is_up(machine->agent))) {
        return NULL;
    }
    struct machine_waiting *waiting = NEW(struct machine_waiting);
    waiting->service = service;
    snprintf(waiting->id, sizeof(waiting->id), "%s", machine->id);
    waiting->timer = loop_timer_new(service->options.loop, finish, waiting);
    waiting->done = done;
    waiting->context = context;
    list_push_back(&service->waiting, &waiting->link);
    loop_timer_start(waiting->timer, WAIT_MS);
    return waiting;
}
