/* Making a clone somebody else: calls sent at once, and one end for all of them. */
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"

#include "engine/agent/agent.h"

struct renewal {
    unsigned waiting;
    struct error error; /* the first */
    agent_done *done;
    void *context;
};

static void on_part(const struct error *error, const struct agent_result *result, void *context)
{
    struct renewal *renewal = context;
    if (error != NULL && renewal->error.kind == ERROR_NONE) {
        renewal->error = *error;
    }
    if (--renewal->waiting > 0) {
        return;
    }
    bool has_failed = renewal->error.kind != ERROR_NONE;
    renewal->done(has_failed ? &renewal->error : NULL, has_failed ? NULL : result,
                  renewal->context);
    free(renewal);
}

static void write_machine_id(struct agent *agent, const char *machine_id, struct renewal *renewal)
{
    static const struct agent_put put = {
        .path = "/etc/machine-id", .mode = 0444, .timeout_ms = AGENT_CALL_TIMEOUT_MS};
    static const struct agent_call_events events = {.on_end = on_part};
    char line[64];
    int length = snprintf(line, sizeof(line), "%.32s\n", machine_id);
    struct agent_call *call = agent_put(agent, &put, &events, renewal);
    agent_call_write(call, line, (size_t)length);
    agent_call_finish_input(call);
}

void agent_renew(struct agent *agent, const char *machine_id, const struct agent_network *network,
                 agent_done *done, void *context)
{
    struct renewal *renewal = NEW(struct renewal);
    *renewal = (struct renewal){
        .waiting = 2U + (machine_id != NULL) + (network != NULL), .done = done, .context = context};
    agent_reseed(agent, on_part, renewal); /* first: keys may be drawn at any moment */
    agent_set_time(agent, 0, on_part, renewal);
    if (network != NULL) {
        agent_network(agent, network, on_part, renewal);
    }
    if (machine_id != NULL) {
        write_machine_id(agent, machine_id, renewal);
    }
}
