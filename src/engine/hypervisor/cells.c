/*
 * NUMA nodes that a guest sees: see hypervisor.h.
 *
 * A machine has one for each of the host's nodes that its vCPUs run on, in the order of these, with
 * as much of its memory as it has of the vCPUs.
 */
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "base/text.h"

#include "engine/hypervisor/driver.h"

/* "2-3,8": is it one of these? */
static bool has_number(const char *list, unsigned long number)
{
    unsigned long first = 0;
    unsigned long last = 0;
    while (text_take_range(&list, &first, &last)) {
        if (number >= first && number <= last) {
            return true;
        }
    }
    return false;
}

/* Each vCPU's node, by its place in the list; the count of nodes: of none. */
static size_t find_nodes(const struct jail_numa *nodes, size_t node_count, const char *cpus,
                         size_t ret_nodes[HYPERVISOR_CPUS_MAX])
{
    unsigned long first = 0;
    unsigned long last = 0;
    size_t count = 0;
    while (text_take_range(&cpus, &first, &last)) {
        for (unsigned long cpu = first; cpu <= last && count < HYPERVISOR_CPUS_MAX; cpu++) {
            size_t at = 0;
            while (at < node_count && !has_number(nodes[at].cpus, cpu)) {
                at++;
            }
            ret_nodes[count++] = at;
        }
    }
    return count;
}

static void add_number(char *list, size_t size, unsigned long number)
{
    size_t used = strlen(list);
    snprintf(list + used, size - used, "%s%lu", used > 0 ? "," : "", number);
}

/* Those vCPUs that are of a node; how many. */
static size_t take_vcpus(const size_t *of, size_t vcpus, size_t node, struct hypervisor_cell *cell)
{
    size_t count = 0;
    *cell = (struct hypervisor_cell){.cpus = ""};
    for (size_t i = 0; i < vcpus; i++) {
        if (of[i] == node) {
            add_number(cell->cpus, sizeof(cell->cpus), i);
            count++;
        }
    }
    return count;
}

/* In proportion, in whole units; the last one gets what is left.  False: one would have none. */
static bool share_out(uint64_t units, uint64_t unit, const size_t *vcpus_of, size_t vcpus,
                      struct hypervisor_cell *cells, size_t count)
{
    uint64_t left = units;
    bool has_all = true;
    for (size_t i = 0; i < count; i++) {
        uint64_t share = i + 1 < count ? units * vcpus_of[i] / vcpus : left;
        cells[i].memory_bytes = share * unit;
        left -= share;
        has_all = has_all && share > 0;
    }
    return has_all;
}

size_t hypervisor_lay_out(const char *sys, const struct hypervisor_spec *spec, const char *cpus,
                          struct hypervisor_cell ret_cells[HYPERVISOR_CELLS_MAX])
{
    size_t of[HYPERVISOR_CPUS_MAX];
    size_t vcpus_of[HYPERVISOR_CELLS_MAX];
    size_t count = 0;
    size_t placed = 0;
    uint64_t unit = spec->page_bytes > 0 ? spec->page_bytes : UINT64_C(1) << 20;
    MEMORY_OWNED struct jail_numa *nodes = memory_new(JAIL_NUMA_MAX, sizeof(*nodes));
    size_t node_count = jail_read_numa(sys, nodes, JAIL_NUMA_MAX);
    size_t vcpus = find_nodes(nodes, node_count, cpus, of);
    for (size_t node = 0; node < node_count && count < HYPERVISOR_CELLS_MAX; node++) {
        size_t has = take_vcpus(of, vcpus, node, &ret_cells[count]);
        if (has > 0) {
            placed += has;
            vcpus_of[count++] = has;
        }
    }
    return count > 1 && placed == spec->cpus && vcpus == spec->cpus &&
            share_out(spec->memory_bytes / unit, unit, vcpus_of, vcpus, ret_cells, count)
        ? count
        : 0;
}

void hypervisor_place_cells(const char *sys, const char *cpus, struct hypervisor_cell *cells,
                            size_t count)
{
    size_t of[HYPERVISOR_CPUS_MAX];
    MEMORY_OWNED struct jail_numa *nodes = memory_new(JAIL_NUMA_MAX, sizeof(*nodes));
    size_t node_count = jail_read_numa(sys, nodes, JAIL_NUMA_MAX);
    size_t vcpus = find_nodes(nodes, node_count, cpus, of);
    for (size_t i = 0; i < count; i++) {
        cells[i].host_nodes[0] = '\0';
        for (size_t node = 0; node < node_count; node++) {
            bool is_of = false;
            for (size_t vcpu = 0; vcpu < vcpus; vcpu++) {
                is_of = is_of || (of[vcpu] == node && has_number(cells[i].cpus, vcpu));
            }
            if (is_of) {
                add_number(cells[i].host_nodes, sizeof(cells[i].host_nodes), nodes[node].number);
            }
        }
    }
}
