/* Filters: does a node refuse the request, and in which words? */
#include <string.h>

#include "base/check.h"

#include "engine/placement/parts.h"

static struct refusal refuse(enum placement_filter filter, size_t which)
{
    return (struct refusal){filter, (unsigned)which};
}

struct refusal filter_state(const struct node *node)
{
    if (!node->is_ready) {
        return refuse(PLACEMENT_NOT_READY, 0);
    }
    return refuse(node->is_eligible ? PLACEMENT_PASSED : PLACEMENT_NOT_ELIGIBLE, 0);
}

struct refusal filter_class(const struct probe *probe, const struct class *class)
{
    const struct verdict *verdict = shape_verdict(probe->shape, class);
    return refuse(verdict->filter, verdict->which);
}

/* Could the class's nodes, empty, have room at all? */
bool class_may_have_room(const struct probe *probe, const struct class *class)
{
    uint64_t cores = cores_cost(class, probe->cores);
    for (size_t i = 0; i < PLACEMENT_RESOURCE_COUNT; i++) {
        uint64_t need = probe->need.of[i] + (i == PLACEMENT_CPU_MILLI ? cores : 0);
        if (need > class->limit.of[i]) {
            return false;
        }
    }
    return probe->devices <= class->devices && probe->cores <= class->core_count;
}

/* ---- What depends on the node's name, and on who is where ---- */

static struct refusal filter_names(const struct probe *probe, const struct node *node)
{
    const struct placement_rules *rules = probe->shape->rules;
    for (size_t i = 0; i < rules->constraint_count; i++) {
        const struct rule *rule = &rules->constraints[i];
        if (rule_is_distinct(rule->op)) {
            continue;
        }
        bool is_id = strcmp(rule->attribute, "node.id") == 0;
        bool is_name = strcmp(rule->attribute, "node.name") == 0;
        if ((is_id && !rule_holds(rule, node->id->text)) ||
            (is_name && !rule_holds(rule, node->name->text))) {
            return refuse(PLACEMENT_CONSTRAINT, i);
        }
    }
    return refuse(PLACEMENT_PASSED, 0);
}

static bool group_refuses(const struct probe *probe, const struct node *node)
{
    const struct placement_group *group = &probe->request->group;
    if (probe->over == NULL || group->rigor != PLACEMENT_STRICT) {
        return false;
    }
    const struct word *value = node_value(probe->cluster, node, probe->over);
    if (value == NULL) {
        return true; /* nobody can tell what it is together with */
    }
    uint32_t here = tally_of(probe->over_tally, value);
    if (group->policy == PLACEMENT_GROUP_SPREAD) {
        return here > 0;
    }
    return here == 0 && probe->group != NULL && probe->group->count > 0;
}

struct refusal filter_rules(const struct probe *probe, const struct node *node)
{
    if (probe->shape->has_unique_constraints) {
        struct refusal refusal = filter_names(probe, node);
        if (refusal.filter != PLACEMENT_PASSED) {
            return refusal;
        }
    }
    for (size_t i = 0; i < probe->distinct_count; i++) {
        const struct distinct *distinct = &probe->distincts[i];
        const struct word *value = node_value(probe->cluster, node, distinct->attribute);
        if (value == NULL || tally_of(distinct->tally, value) >= distinct->limit) {
            return refuse(PLACEMENT_DISTINCT, i);
        }
    }
    return refuse(group_refuses(probe, node) ? PLACEMENT_GROUP : PLACEMENT_PASSED, 0);
}

/* ---- Room ---- */

struct refusal filter_room(const struct probe *probe, const struct node *node)
{
    const struct class *class = node->class;
    for (size_t i = 0; i < PLACEMENT_RESOURCE_COUNT; i++) {
        uint64_t need = probe->need.of[i];
        if (i == PLACEMENT_CPU_MILLI && probe->cores > 0) {
            need += cores_cost(class, probe->cores);
        }
        uint64_t limit = class->limit.of[i], used = node->used.of[i];
        if (used > limit || need > limit - used) {
            return refuse(PLACEMENT_RESOURCE, i);
        }
    }
    enum placement_filter lacking;
    unsigned which;
    grant_find(probe, node, NULL, &lacking, &which);
    if (lacking == PLACEMENT_PASSED && hold_refuses(probe, node)) {
        return refuse(PLACEMENT_HELD, 0);
    }
    return refuse(lacking, which);
}

struct refusal filter_node(const struct probe *probe, const struct node *node)
{
    struct refusal refusal = filter_state(node);
    if (refusal.filter == PLACEMENT_PASSED) {
        refusal = filter_class(probe, node->class);
    }
    if (refusal.filter == PLACEMENT_PASSED) {
        refusal = filter_rules(probe, node);
    }
    return refusal.filter == PLACEMENT_PASSED ? filter_room(probe, node) : refusal;
}

/* ---- Words ---- */

/* 8 GiB, 1536 MiB, 3 CPUs: in the unit that people use for it, and never rounded, for what is too
 * little may be so by a little. */
static void amount_text(enum placement_resource resource, uint64_t amount, char *ret, size_t size)
{
    if (resource == PLACEMENT_CPU_MILLI) {
        snprintf(ret, size, "%llu.%03u CPUs", (unsigned long long)(amount / 1000),
                 (unsigned)(amount % 1000));
    } else if (resource == PLACEMENT_MEMORY || resource == PLACEMENT_DISK) {
        bool is_whole = amount > 0 && amount % (UINT64_C(1) << 30) == 0;
        snprintf(ret, size, "%llu %s of %s", (unsigned long long)(amount >> (is_whole ? 30 : 20)),
                 is_whole ? "GiB" : "MiB", placement_resource_name(resource));
    } else {
        snprintf(ret, size, "%llu %s", (unsigned long long)amount,
                 placement_resource_name(resource));
    }
}

/* What was set aside for them is a setting of the node's kernel: how it is changed is said. */
static void pages_text(const struct probe *probe, const struct node *node, unsigned which,
                       char *ret_text)
{
    bool is_2m = which == PLACEMENT_HUGE_2M;
    uint64_t need = probe->need.of[which];
    uint64_t limit = node->class->limit.of[which], used = node->used.of[which];
    uint64_t left = used < limit ? limit - used : 0;
    snprintf(ret_text, PLACEMENT_REASON_MAX,
             "not enough huge pages of %s: %llu wanted, %llu free of %llu; %llu more would do (%s)",
             is_2m ? "2MiB" : "1GiB", (unsigned long long)need, (unsigned long long)left,
             (unsigned long long)limit, (unsigned long long)(need + used - limit),
             is_2m ? "sysctl vm.nr_hugepages"
                   : "/sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages");
}

static void resource_text(const struct probe *probe, const struct node *node, unsigned which,
                          char *ret_text)
{
    if (which == PLACEMENT_HUGE_2M || which == PLACEMENT_HUGE_1G) {
        pages_text(probe, node, which, ret_text);
        return;
    }
    uint64_t need = probe->need.of[which];
    if (which == PLACEMENT_CPU_MILLI) {
        need += cores_cost(node->class, probe->cores);
    }
    uint64_t limit = node->class->limit.of[which], used = node->used.of[which];
    char wanted[48], there[48], all[48];
    amount_text(which, need, wanted, sizeof(wanted));
    amount_text(which, used < limit ? limit - used : 0, there, sizeof(there));
    amount_text(which, limit, all, sizeof(all));
    snprintf(ret_text, PLACEMENT_REASON_MAX, "%s: %s wanted, %s free of %s",
             used > limit ? "more is used than there is" : "not enough", wanted, there, all);
}

static void constraint_text(const struct probe *probe, const struct node *node, unsigned which,
                            char *ret_text)
{
    const struct rule *rule = &probe->shape->rules->constraints[which];
    const struct word *name = word_find(probe->cluster, rule->attribute, strlen(rule->attribute));
    const char *value = node_attribute(probe->cluster, node, name);
    snprintf(ret_text, PLACEMENT_REASON_MAX, "${%.48s} %s %.48s: here it is %s%.48s%s",
             rule->attribute, placement_operator_name(rule->op), rule->value,
             value != NULL ? "\"" : "not set", value != NULL ? value : "",
             value != NULL ? "\"" : "");
}

static void distinct_text(const struct probe *probe, const struct node *node, unsigned which,
                          char *ret_text)
{
    const struct distinct *distinct = &probe->distincts[which];
    const struct word *value = node_value(probe->cluster, node, distinct->attribute);
    if (value == NULL) {
        snprintf(ret_text, PLACEMENT_REASON_MAX, "${%.64s} is not set, and has to be distinct",
                 distinct->attribute->text);
        return;
    }
    snprintf(ret_text, PLACEMENT_REASON_MAX,
             "%u of %.64s where ${%.40s} is \"%.40s\", and at most %u may be",
             tally_of(distinct->tally, value),
             probe->request->job != NULL ? probe->request->job : "", distinct->attribute->text,
             value->text, distinct->limit);
}

static void group_text(const struct probe *probe, const struct node *node, char *ret_text)
{
    const struct placement_group *group = &probe->request->group;
    const struct word *value = node_value(probe->cluster, node, probe->over);
    const char *why = value == NULL               ? "it is not set here"
        : group->policy == PLACEMENT_GROUP_SPREAD ? "another member is there"
                                                  : "its members are elsewhere";
    snprintf(ret_text, PLACEMENT_REASON_MAX, "the group %.64s (%s, strict) over ${%.40s}: %s",
             group->name, group->policy == PLACEMENT_GROUP_SPREAD ? "spread" : "compact",
             probe->over->text, why);
}

static void device_text(const struct probe *probe, const struct node *node, unsigned which,
                        char *ret_text)
{
    const struct placement_device_demand *demand = &probe->request->demand.devices[which];
    const struct want *want = &probe->wants[which];
    bool any = demand->models == NULL || demand->models[0] == 0;
    char has[64] = "it has none";
    unsigned count = 0;
    unsigned whole = 0;
    for (size_t i = 0; i < node->kind_count; i++) {
        bool is_of = want->class_name != NULL && kind_is_of(want, &node->kinds[i]);
        count += is_of ? node->kinds[i].count : 0;
        whole += is_of ? node->kinds[i].whole : 0;
    }
    if (count > 0) {
        snprintf(has, sizeof(has), "it has %u, %u of them free", count, whole);
    }
    snprintf(ret_text, PLACEMENT_REASON_MAX, "not enough devices: %u %.40s%s%.60s%s%s wanted, %s",
             demand->count, demand->class_name, any ? "" : " (", any ? "" : demand->models,
             any ? "" : ")", want->share < PLACEMENT_SHARE_WHOLE ? ", a share of each," : "", has);
}

static void port_text(const struct probe *probe, unsigned which, char *ret_text)
{
    const struct placement_demand *demand = &probe->request->demand;
    if (which < demand->port_count) {
        snprintf(ret_text, PLACEMENT_REASON_MAX, "the port %u is taken", demand->ports[which]);
    } else {
        snprintf(ret_text, PLACEMENT_REASON_MAX, "no %u ports are free", demand->any_ports);
    }
}

static void numa_text(const struct probe *probe, const struct node *node, char *ret_text)
{
    if (probe->request->demand.numa == PLACEMENT_NUMA_STRICT) {
        snprintf(ret_text, PLACEMENT_REASON_MAX,
                 node->numa_count == 0 ? "its NUMA nodes are not known"
                                       : "no NUMA node has all of it free");
        return;
    }
    snprintf(ret_text, PLACEMENT_REASON_MAX, "%u dedicated cores wanted, %u free", probe->cores,
             node->cores_free);
}

void refusal_text(const struct probe *probe, const struct node *node, struct refusal refusal,
                  char ret_text[PLACEMENT_REASON_MAX])
{
    char taint[PLACEMENT_REASON_MAX / 2];
    ret_text[0] = 0;
    switch (refusal.filter) {
    case PLACEMENT_PASSED:
    case PLACEMENT_FILTER_COUNT:
        return;
    case PLACEMENT_NOT_READY:
        snprintf(ret_text, PLACEMENT_REASON_MAX, "the node is not ready");
        return;
    case PLACEMENT_NOT_ELIGIBLE:
        snprintf(ret_text, PLACEMENT_REASON_MAX, "the node is cordoned or drains");
        return;
    case PLACEMENT_POOL:
        snprintf(ret_text, PLACEMENT_REASON_MAX, "the node is of the pool %.64s",
                 node->class->pool->text);
        return;
    case PLACEMENT_TAINT:
        placement_taint_text(&node->class->taints[refusal.which], taint, sizeof(taint));
        snprintf(ret_text, PLACEMENT_REASON_MAX, "the taint %s is not tolerated", taint);
        return;
    case PLACEMENT_CONSTRAINT:
        constraint_text(probe, node, refusal.which, ret_text);
        return;
    case PLACEMENT_DISTINCT:
        distinct_text(probe, node, refusal.which, ret_text);
        return;
    case PLACEMENT_GROUP:
        group_text(probe, node, ret_text);
        return;
    case PLACEMENT_HELD:
        snprintf(ret_text, PLACEMENT_REASON_MAX, "it is held for %.64s, which waits longer",
                 node->hold->id);
        return;
    case PLACEMENT_RESOURCE:
        resource_text(probe, node, refusal.which, ret_text);
        return;
    case PLACEMENT_NUMA:
        numa_text(probe, node, ret_text);
        return;
    case PLACEMENT_DEVICE:
        device_text(probe, node, refusal.which, ret_text);
        return;
    case PLACEMENT_PORT:
        port_text(probe, refusal.which, ret_text);
        return;
    }
    CHECK_UNREACHABLE();
}

uint32_t refusal_wakes(enum placement_filter filter)
{
    static const uint32_t wakes[PLACEMENT_FILTER_COUNT] = {
        [PLACEMENT_PASSED] = 0,
        [PLACEMENT_NOT_READY] = PLACEMENT_WAKE_NODE,
        [PLACEMENT_NOT_ELIGIBLE] = PLACEMENT_WAKE_NODE,
        [PLACEMENT_POOL] = PLACEMENT_WAKE_ATTRIBUTES,
        [PLACEMENT_TAINT] = PLACEMENT_WAKE_TAINTS,
        [PLACEMENT_CONSTRAINT] = PLACEMENT_WAKE_ATTRIBUTES,
        [PLACEMENT_DISTINCT] = PLACEMENT_WAKE_DISTINCT,
        [PLACEMENT_GROUP] = PLACEMENT_WAKE_GROUP,
        [PLACEMENT_HELD] = PLACEMENT_WAKE_RESOURCES,
        [PLACEMENT_RESOURCE] = PLACEMENT_WAKE_RESOURCES,
        [PLACEMENT_NUMA] = PLACEMENT_WAKE_RESOURCES,
        [PLACEMENT_DEVICE] = PLACEMENT_WAKE_RESOURCES,
        [PLACEMENT_PORT] = PLACEMENT_WAKE_RESOURCES,
    };
    return wakes[filter];
}
