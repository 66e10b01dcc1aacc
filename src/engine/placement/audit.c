/* What must be true at every moment, asked of the whole cluster. */
#include <stdarg.h>
#include <string.h>

#include "base/error.h"

#include "engine/placement/parts.h"

struct audit {
    struct placement_cluster *cluster;
    void (*wrong)(const char *text, void *context);
    void *context;
};

static void report(const struct audit *audit, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

static void report(const struct audit *audit, const char *format, ...)
{
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    audit->wrong(text, audit->context);
}

static void audit_sums(const struct audit *audit, const struct node *node)
{
    struct placement_amounts used = {0};
    uint32_t devices = 0;
    LIST_EACH(link, &node->allocations)
    {
        const struct allocation *allocation = LIST_ITEM(link, struct allocation, at_node);
        for (size_t i = 0; i < PLACEMENT_RESOURCE_COUNT; i++) {
            used.of[i] += allocation->charged.of[i];
        }
        used.of[PLACEMENT_CPU_MILLI] +=
            cores_cost(node->class, allocation->request.demand.dedicated_cores);
    }
    for (enum placement_resource i = 0; i < PLACEMENT_RESOURCE_COUNT; i++) {
        if (used.of[i] != node->used.of[i]) {
            report(audit, "node %s: %s is counted wrongly", node->name->text,
                   placement_resource_name(i));
        }
        if (used.of[i] > node->class->limit.of[i]) {
            report(audit, "node %s: more %s is used than there is", node->name->text,
                   placement_resource_name(i));
        }
    }
    for (size_t i = 0; i < node->kind_count; i++) {
        for (size_t k = 0; k < node->kinds[i].count; k++) {
            devices += node->kinds[i].used_of[k];
            if (node->kinds[i].used_of[k] > PLACEMENT_SHARE_WHOLE) {
                report(audit, "node %s: the device %s %zu is given more than once",
                       node->name->text, node->kinds[i].class_name->text, k);
            }
        }
    }
    if (devices != node->devices_used) {
        report(audit, "node %s: devices are counted wrongly", node->name->text);
    }
    for (size_t i = 1; i < node->port_count; i++) {
        if (node->ports[i - 1] == node->ports[i]) {
            report(audit, "node %s: the port %u is given twice", node->name->text, node->ports[i]);
        }
    }
}

static void audit_rules(const struct audit *audit, struct allocation *allocation)
{
    enum placement_filter filter;
    uint32_t leave_s;
    char reason[PLACEMENT_REASON_MAX];
    struct error ignored;
    int r = placement_may_stay(audit->cluster, allocation->id, &filter, &leave_s, reason, &ignored);
    if (r == 0 && filter != PLACEMENT_PASSED) {
        report(audit, "%s at %s: %s", allocation->id, allocation->node->name->text, reason);
    }
}

void placement_cluster_audit(const struct placement_cluster *cluster,
                             void (*wrong)(const char *text, void *context), void *context)
{
    /* Asking whether something may stay takes it away for a moment; nobody sees that. */
    struct audit audit = {(struct placement_cluster *)(uintptr_t)cluster, wrong, context};
    size_t attached = 0;
    for (size_t i = 0; i < cluster->node_count; i++) {
        const struct node *node = cluster->nodes[i];
        audit_sums(&audit, node);
        size_t count = node->allocation_count;
        attached += count;
        /* The one that is asked about moves to the end of the list: each comes first once. */
        for (size_t k = 0; k < count; k++) {
            struct list *list = &audit.cluster->nodes[i]->allocations;
            audit_rules(&audit, LIST_FIRST(list, struct allocation, at_node));
        }
    }
    LIST_EACH(link, &cluster->reservations)
    {
        attached += !LIST_ITEM(link, struct allocation, in_reservations)->is_attached;
    }
    if (attached != cluster->allocation_count) {
        report(&audit, "%zu allocations are at nodes, and %zu are known", attached,
               cluster->allocation_count);
    }
}
