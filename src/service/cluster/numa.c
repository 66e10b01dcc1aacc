/*
 * What machines with CPUs of their own leave of a node's NUMA nodes.
 *
 * The node says what it has (its attributes) and, in `machine_cpus`, which CPUs it has given to
 * whom.  Memory counts where all of a machine's CPUs are: that is where it is bound.
 */
#include <string.h>

#include "base/buffer.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"

#include "engine/store/store.h"

#include "service/cluster/parts.h"

enum { CPUS_MAX = 1024, NODES_MAX = 64 };

struct left {
    unsigned number;
    bool has[CPUS_MAX];
    uint64_t memory_bytes;
};

struct leaving {
    struct left *nodes;
    size_t count;
};

/* "0-3,8" */
static void read_list(const char *list, bool *ret_has)
{
    unsigned long first = 0;
    unsigned long last = 0;
    while (text_take_range(&list, &first, &last)) {
        for (unsigned long cpu = first; cpu <= last && cpu < CPUS_MAX; cpu++) {
            ret_has[cpu] = true;
        }
    }
}

static bool take_machine(sqlite3_stmt *row, void *context)
{
    const struct leaving *leaving = context;
    bool taken[CPUS_MAX] = {false};
    uint64_t memory_bytes = (uint64_t)sqlite3_column_int64(row, 1);
    struct left *only = NULL;
    size_t nodes = 0;
    read_list(store_text(row, 0), taken);
    for (size_t i = 0; i < leaving->count; i++) {
        struct left *node = &leaving->nodes[i];
        bool is_of = false;
        for (size_t cpu = 0; cpu < CPUS_MAX; cpu++) {
            is_of = is_of || (taken[cpu] && node->has[cpu]);
            node->has[cpu] = node->has[cpu] && !taken[cpu];
        }
        only = is_of ? node : only;
        nodes += is_of;
    }
    if (nodes == 1) {
        only->memory_bytes -= memory_bytes < only->memory_bytes ? memory_bytes : only->memory_bytes;
    }
    return true;
}

static void write_list(const bool *has, struct buffer *out, uint64_t *ret_count)
{
    *ret_count = 0;
    for (size_t cpu = 0; cpu < CPUS_MAX; cpu++) {
        size_t first = cpu;
        while (cpu < CPUS_MAX && has[cpu]) {
            cpu++;
        }
        if (cpu == first) {
            continue;
        }
        *ret_count += cpu - first;
        buffer_append_format(out, "%s%zu", out->used > 0 ? "," : "", first);
        if (cpu - first > 1) {
            buffer_append_format(out, "-%zu", cpu - 1);
        }
    }
}

static void write_left(const struct left *node, struct json_writer *writer)
{
    BUFFER_OWNED struct buffer list = {0};
    uint64_t count = 0;
    write_list(node->has, &list, &count);
    json_write_begin_object(writer);
    json_write_field_u64(writer, "number", node->number);
    json_write_field_string(writer, "cpus", buffer_string(&list));
    json_write_field_u64(writer, "cpu_count", count);
    json_write_field_u64(writer, "memory_bytes", node->memory_bytes);
    json_write_end_object(writer);
}

void describe_numa(struct cluster *cluster, struct json_writer *writer, const char *node,
                   const char *attributes)
{
    JSON_OWNED json_t *has = NULL;
    struct error ignored = {0};
    size_t index = 0;
    json_t *numa = NULL;
    if (attributes == NULL || json_read(attributes, strlen(attributes), &has, &ignored) < 0) {
        return;
    }
    const json_t *list = json_object_get(has, "numa");
    size_t count = json_array_size(list) < NODES_MAX ? json_array_size(list) : NODES_MAX;
    if (count == 0) {
        return;
    }
    MEMORY_OWNED struct left *nodes = memory_new(count, sizeof(*nodes));
    struct leaving leaving = {nodes, count};
    json_array_foreach(list, index, numa)
    {
        if (index < count) {
            const json_t *number = json_object_get(numa, "number");
            nodes[index].number =
                json_is_integer(number) ? (unsigned)json_integer_value(number) : (unsigned)index;
            nodes[index].memory_bytes = json_u64(numa, "memory_bytes");
            read_list(json_text(numa, "cpus"), nodes[index].has);
        }
    }
    store_query(
        cluster->store, &ignored, take_machine, &leaving,
        "SELECT c.cpus, iif((m.desired = 'running' OR m.desired = 'paused') AND coalesce(m.config "
        "->> '$.huge_pages', '') = '', m.config ->> '$.memory_bytes', 0) FROM machine_cpus c JOIN "
        "machine m ON m.id = c.key AND m.node "
        "= c.node WHERE c.node = ?",
        "t", node);
    json_write_key(writer, "numa");
    json_write_begin_array(writer);
    for (size_t i = 0; i < count; i++) {
        write_left(&nodes[i], writer);
    }
    json_write_end_array(writer);
}
