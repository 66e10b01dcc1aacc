/* What machines use now: of their VMMs as the kernel counts, of their links as their agents say. */
#include <string.h>

#include "base/buffer.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "service/machine/parts.h"

enum { AGENT_MS = 1000 };

struct gathering {
    struct machine_service *service;
    json_t *machines;
    size_t pending;
    machine_used *done;
    void *context;
};

struct asking {
    struct gathering *gathering;
    json_t *shown;
};

static void release(struct gathering *gathering)
{
    if (--gathering->pending > 0) {
        return;
    }
    JSON_OWNED json_t *document =
        json_pack("{s:s, s:I, s:o}", "node", gathering->service->node_name, "measured_ms",
                  (json_int_t)clock_monotonic_ms(), "machines", gathering->machines);
    gathering->service->pending--;
    gathering->done(document, gathering->context);
    free(gathering);
}

static void on_metrics(const struct error *error, const struct agent_result *result, void *context)
{
    struct asking *asking = context;
    if (error == NULL) {
        uint64_t received = 0;
        uint64_t sent = 0;
        for (unsigned i = 0; i < result->metrics->link_count; i++) {
            const struct agent_link *link = &result->metrics->links[i];
            bool is_loopback = strcmp(link->name, "lo") == 0;
            received += is_loopback ? 0 : link->received_bytes;
            sent += is_loopback ? 0 : link->sent_bytes;
        }
        json_set_u64(asking->shown, "received_bytes", received);
        json_set_u64(asking->shown, "sent_bytes", sent);
    }
    json_decref(asking->shown);
    release(asking->gathering);
    free(asking);
}

static void look_at(struct gathering *gathering, const struct machine *machine)
{
    struct hypervisor_usage usage;
    json_t *shown =
        json_pack("{s:s, s:s}", "name", machine->name, "state", machine_state_text(machine->state));
    json_set_u64(shown, "cpus", json_u64(machine->config, "cpus"));
    json_set_u64(shown, "memory_bytes", json_u64(machine->config, "memory_bytes"));
    if (machine_state_is_alive(machine->state) && hypervisor_read_usage(machine->folder, &usage)) {
        json_set_u64(shown, "cpu_ms", usage.cpu_user_ms + usage.cpu_system_ms);
        json_set_u64(shown, "resident_bytes", usage.memory_bytes);
        json_set_u64(shown, "read_bytes", usage.read_bytes);
        json_set_u64(shown, "written_bytes", usage.write_bytes);
    }
    if (machine->state == MACHINE_RUNNING && machine->agent != NULL &&
        agent_is_up(machine->agent)) {
        struct asking *asking = NEW(struct asking);
        *asking = (struct asking){gathering, json_incref(shown)};
        gathering->pending++;
        agent_metrics(machine->agent, AGENT_MS, on_metrics, asking);
    }
    json_array_append_new(gathering->machines, shown);
}

static void on_begun(void *context)
{
    release(context);
}

void machine_usage(struct machine_service *service, const char *project, machine_used *done,
                   void *context)
{
    struct gathering *gathering = NEW(struct gathering);
    *gathering = (struct gathering){service, json_array(), 1, done, context};
    service->pending++;
    LIST_EACH(node, &service->machines)
    {
        const struct machine *machine = LIST_ITEM(node, struct machine, link);
        if (!machine->is_gone && strcmp(machine->project, project) == 0) {
            look_at(gathering, machine);
        }
    }
    loop_post(service->options.loop, on_begun, gathering);
}

void machine_each_cpu(struct machine_service *service,
                      void (*visit)(const char *id, uint64_t cpu_ms, void *context), void *context)
{
    LIST_EACH(node, &service->machines)
    {
        const struct machine *machine = LIST_ITEM(node, struct machine, link);
        struct hypervisor_usage usage;
        if (machine_state_is_alive(machine->state) &&
            hypervisor_read_usage(machine->folder, &usage)) {
            visit(machine->id, usage.cpu_user_ms + usage.cpu_system_ms, context);
        }
    }
}
