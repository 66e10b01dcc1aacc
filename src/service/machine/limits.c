/* What control groups allow machines, as metrics. */
#include <inttypes.h>
#include <stdio.h>

#include "base/buffer.h"
#include "base/memory.h"

#include "service/machine/parts.h"

static const struct {
    const char *name;
    const char *kind;
    const char *help;
} metrics[] = {
    {"blixard_machine_cpu_throttled_seconds", "counter", "How long a machine was not let run."},
    {"blixard_machine_group_memory_bytes", "gauge",
     "Memory of a machine's control group, with files that the kernel keeps for it."},
    {"blixard_machine_group_memory_max_bytes", "gauge", "What that group may have."},
};
enum { METRICS = sizeof(metrics) / sizeof(metrics[0]) };

static void write_value(size_t metric, const struct machine *machine,
                        const struct hypervisor_limited *limited, struct buffer *out)
{
    const uint64_t values[METRICS] = {0, limited->memory_bytes, limited->memory_bytes_max};
    buffer_append_format(out, "%s%s{project=\"%s\",machine=\"%s\"} ", metrics[metric].name,
                         metric == 0 ? "_total" : "", machine->project, machine->name);
    if (metric == 0) {
        buffer_append_format(out, "%.3f\n", (double)limited->throttled_ms / 1000);
    } else {
        buffer_append_format(out, "%" PRIu64 "\n", values[metric]);
    }
}

void limits_write_metrics(struct machine_service *service, bool is_openmetrics, struct buffer *out)
{
    for (size_t i = 0; i < METRICS; i++) {
        const char *ending = i == 0 && !is_openmetrics ? "_total" : "";
        buffer_append_format(out, "# HELP %s%s %s\n# TYPE %s%s %s\n", metrics[i].name, ending,
                             metrics[i].help, metrics[i].name, ending, metrics[i].kind);
        LIST_EACH(node, &service->machines)
        {
            const struct machine *machine = LIST_ITEM(node, struct machine, link);
            struct hypervisor_limited limited;
            if (machine_state_is_alive(machine->state) &&
                hypervisor_read_limited(machine->folder, &limited)) {
                write_value(i, machine, &limited, out);
            }
        }
    }
}
