/* What control groups allow machines, as metrics; and what all of them together may have. */
#include <inttypes.h>
#include <stdio.h>
#include <sys/sysinfo.h>

#include "base/buffer.h"
#include "base/json.h"
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

/* ---- Memory of all machines together ---- */

int limits_admit(uint64_t total, uint64_t percent, uint64_t others, uint64_t wanted,
                 struct error *err)
{
    enum { MIB_SHIFT = 20 };
    uint64_t limit = total / 100 * percent;
    if (percent == 0 || (others <= limit && wanted <= limit - others)) {
        return 0;
    }
    return error_set(
        err, ERROR_LIMIT,
        "it needs %" PRIu64 " MiB, and of the %" PRIu64
        " MiB that machines may have here (machine_memory_percent: %" PRIu64 " %% of %" PRIu64
        " MiB) the others have %" PRIu64 " MiB: stop one, make it smaller or move it",
        wanted >> MIB_SHIFT, limit >> MIB_SHIFT, percent, total >> MIB_SHIFT, others >> MIB_SHIFT);
}

/* What a balloon has taken does not count: the guest may have it again. */
static uint64_t memory_most(const struct machine *machine)
{
    uint64_t booted = json_u64(machine->booted, "memory_bytes");
    return booted > 0 ? booted : json_u64(machine->config, "memory_bytes");
}

int limits_check_memory(const struct machine *machine, struct error *err)
{
    uint64_t others = 0;
    struct sysinfo info;
    if (machine->service->options.memory_percent == 0 || sysinfo(&info) < 0) {
        return 0;
    }
    LIST_EACH(node, &machine->service->machines)
    {
        const struct machine *other = LIST_ITEM(node, struct machine, link);
        if (other != machine && machine_state_is_alive(other->state)) {
            others += memory_most(other);
        }
    }
    return limits_admit((uint64_t)info.totalram * info.mem_unit,
                        machine->service->options.memory_percent, others,
                        json_u64(machine->config, "memory_bytes"), err);
}
