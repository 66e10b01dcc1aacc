/* What control groups allow machines, as metrics; and what all of them together may have. */
#include <inttypes.h>
#include <stdio.h>
#include <sys/sysinfo.h>

#include "base/buffer.h"
#include "base/json.h"
#include "base/memory.h"

#include "service/machine/parts.h"
#include "service/machine/visit.h"

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

/* What a balloon has taken does not count: the guest may have it again.  `page_bytes`: of those
 * whose memory is of such pages (0: of none). */
static uint64_t memory_of(const struct machine *machine, uint64_t page_bytes)
{
    JSON_OWNED json_t *booted = change_booted_config(machine);
    return machine_config_page_bytes(booted) == page_bytes ? json_u64(booted, "memory_bytes") : 0;
}

static uint64_t memory_of_others(const struct machine_service *service,
                                 const struct machine *but_or_null, uint64_t page_bytes)
{
    uint64_t bytes = 0;
    LIST_EACH(node, &service->machines)
    {
        const struct machine *other = LIST_ITEM(node, struct machine, link);
        if (other != but_or_null && machine_state_is_alive(other->state)) {
            bytes += memory_of(other, page_bytes);
        }
    }
    return bytes;
}

/* ---- Huge pages ---- */

uint64_t machine_huge_pages(const struct machine_service *service, uint64_t page_bytes)
{
    uint64_t bytes = memory_of_others(service, NULL, page_bytes);
    LIST_EACH(node, &service->visits)
    {
        const struct machine_visit *visit = LIST_ITEM(node, struct machine_visit, link);
        bytes += visit->vm != NULL ? memory_of(&visit->machine, page_bytes) : 0;
    }
    return bytes / page_bytes;
}

int limits_check_pages(const struct machine_service *service, const json_t *config,
                       struct error *err)
{
    uint64_t page = machine_config_page_bytes(config);
    if (page == 0) {
        return 0;
    }
    struct hypervisor_pages pages = hypervisor_read_pages(page);
    uint64_t wanted = json_u64(config, "memory_bytes") / page;
    uint64_t lacking = wanted > pages.free ? wanted - pages.free : 0;
    MEMORY_OWNED char *how = page == HYPERVISOR_PAGE_2M
        ? memory_format("sysctl vm.nr_hugepages=%" PRIu64, pages.count + lacking)
        : memory_format("echo %" PRIu64 " > "
                        "/sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages",
                        pages.count + lacking);
    return lacking == 0
        ? 0
        : error_set(err, ERROR_LIMIT,
                    "it asks for %" PRIu64 " huge pages of %s, and of the %" PRIu64
                    " of node %s %" PRIu64 " are free: set more aside there (%s), or stop what has "
                    "them",
                    wanted, json_text(config, "huge_pages"), pages.count, service->node_name,
                    pages.free, how);
}

/* What is set aside for huge pages is no memory for anything else. */
static uint64_t plain_memory(const struct sysinfo *info)
{
    uint64_t total = (uint64_t)info->totalram * info->mem_unit;
    uint64_t aside = hypervisor_read_pages(HYPERVISOR_PAGE_2M).count * HYPERVISOR_PAGE_2M +
        hypervisor_read_pages(HYPERVISOR_PAGE_1G).count * HYPERVISOR_PAGE_1G;
    return total > aside ? total - aside : 0;
}

int limits_check_memory(const struct machine *machine, struct error *err)
{
    struct sysinfo info;
    if (machine_config_page_bytes(machine->config) > 0) {
        return limits_check_pages(machine->service, machine->config, err);
    }
    if (machine->service->options.memory_percent == 0 || sysinfo(&info) < 0) {
        return 0;
    }
    return limits_admit(plain_memory(&info), machine->service->options.memory_percent,
                        memory_of_others(machine->service, machine, 0),
                        json_u64(machine->config, "memory_bytes"), err);
}
