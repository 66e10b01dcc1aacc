/* What is asked of agents waits for those that are spoken to anew: see machine_agent_await(). */
#include "base/memory.h"

#include "service/machine/machine.h"

#include "surface/api/parts.h"

struct awaiting {
    struct request *request;
    struct machine_waiting *waiting;
    void (*then)(struct request *request);
};

static void go_on(void *context)
{
    struct awaiting *awaiting = context;
    struct request *request = awaiting->request;
    void (*then)(struct request *) = awaiting->then;
    http_exchange_on(request->exchange, NULL, NULL, NULL);
    request->stop = NULL;
    request->state = NULL;
    free(awaiting);
    then(request);
}

static void on_gone(void *context)
{
    struct awaiting *awaiting = context;
    machine_waiting_cancel(awaiting->waiting);
    go_on(awaiting);
}

static void on_stop(struct request *request)
{
    on_gone(request->state);
}

void api_machine_with_agent(struct request *request, void (*then)(struct request *request))
{
    struct awaiting *awaiting = NEW(struct awaiting);
    awaiting->request = request;
    awaiting->then = then;
    awaiting->waiting = machine_agent_await(request->api->options.machines, request->project,
                                            request->parameters[0], go_on, awaiting);
    if (awaiting->waiting == NULL) {
        free(awaiting);
        then(request);
        return;
    }
    request->state = awaiting;
    request->stop = on_stop;
    http_exchange_on(request->exchange, NULL, on_gone, awaiting);
}
