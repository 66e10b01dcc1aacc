/*
 * Scores: parts from -1 to 1, weighted by the options.
 *
 * The shape part asks what a placement leaves behind.  Where devices are, it is the growth of
 * fragmentation as "Beware of Fragmentation" (ATC 2023) has it: the free share of devices that the
 * demands which come often could not use.  Which ones come often is learnt from what was placed.
 * Elsewhere it is how well the demand is aligned with what is free (the dot product of "Multi-
 * resource Packing for Cluster Schedulers", SIGCOMM 2014, without the lengths).
 */
#include <math.h>
#include <string.h>

#include "base/check.h"

#include "engine/placement/parts.h"

static double clamp(double value)
{
    return value < -1 ? -1 : (value > 1 ? 1 : value);
}

/* ---- Fit ---- */

struct shares { /* of what the node has, after the placement */
    double of[3];
    size_t count;
};

static struct shares shares_after(const struct probe *probe, const struct node *node)
{
    struct shares shares = {.count = 0};
    for (enum placement_resource i = PLACEMENT_CPU_MILLI; i <= PLACEMENT_MEMORY; i++) {
        uint64_t need = probe->need.of[i];
        if (i == PLACEMENT_CPU_MILLI && probe->cores > 0) {
            need += cores_cost(node->class, probe->cores);
        }
        uint64_t limit = node->class->limit.of[i];
        if (limit > 0) {
            shares.of[shares.count++] = (double)(node->used.of[i] + need) / (double)limit;
        }
    }
    if (probe->devices > 0 && node->class->devices > 0) {
        shares.of[shares.count++] =
            (double)(node->devices_used + probe->devices) / node->class->devices;
    }
    return shares;
}

static double part_fit(const struct probe *probe, const struct node *node)
{
    struct shares shares = shares_after(probe, node);
    double sum = 0, most = 0, least = 1;
    for (size_t i = 0; i < shares.count; i++) {
        sum += shares.of[i];
        most = shares.of[i] > most ? shares.of[i] : most;
        least = shares.of[i] < least ? shares.of[i] : least;
    }
    double mean = shares.count > 0 ? sum / (double)shares.count : 0;
    switch (probe->options->strategy) {
    case PLACEMENT_SPREAD:
        return clamp(1 - mean);
    case PLACEMENT_BALANCED:
        return clamp(1 - most - (most - least) / 2);
    case PLACEMENT_BINPACK:
    case PLACEMENT_LEAST_COST:
    case PLACEMENT_DATA_LOCAL:
    case PLACEMENT_STRATEGY_COUNT:
        break;
    }
    return clamp(mean);
}

/* ---- Shape ---- */

void habit_learn(struct placement_cluster *cluster, const struct placement_demand *demand)
{
    if (demand->device_count != 1) {
        return;
    }
    const struct placement_device_demand *device = &demand->devices[0];
    uint32_t share = device->share == 0 ? PLACEMENT_SHARE_WHOLE : device->share;
    struct habit *rarest = &cluster->habits[0];
    for (size_t i = 0; i < HABITS; i++) {
        struct habit *habit = &cluster->habits[i];
        if (habit->class_name != NULL && habit->cpu == demand->amounts.of[PLACEMENT_CPU_MILLI] &&
            habit->memory == demand->amounts.of[PLACEMENT_MEMORY] &&
            habit->count == device->count && habit->share == share &&
            strcmp(habit->class_name->text, device->class_name) == 0) {
            habit->weight += 1;
            return;
        }
        rarest = habit->weight < rarest->weight ? habit : rarest;
    }
    /* A new one takes the place of the rarest, and its weight: "space saving" (Metwally, 2005). */
    word_unref(cluster, rarest->class_name);
    *rarest = (struct habit){
        .cpu = demand->amounts.of[PLACEMENT_CPU_MILLI],
        .memory = demand->amounts.of[PLACEMENT_MEMORY],
        .count = device->count,
        .share = share,
        .class_name = word_get(cluster, device->class_name),
        .weight = rarest->weight + 1,
    };
}

void habits_done(struct placement_cluster *cluster)
{
    for (size_t i = 0; i < HABITS; i++) {
        word_unref(cluster, cluster->habits[i].class_name);
        cluster->habits[i] = (struct habit){0};
    }
}

struct leftover { /* of a node */
    uint64_t cpu, memory;
    const struct kind *kinds;
    size_t kind_count;
};

/* The free thousandths of devices that this habit cannot use. */
static double fragments_for(const struct habit *habit, const struct leftover *left)
{
    double all = 0, useless = 0;
    uint32_t fitting = 0;
    for (size_t i = 0; i < left->kind_count; i++) {
        const struct kind *kind = &left->kinds[i];
        if (kind->class_name != habit->class_name) {
            continue;
        }
        for (size_t k = 0; k < kind->count; k++) {
            uint32_t is_free = PLACEMENT_SHARE_WHOLE - kind->used_of[k];
            all += is_free;
            if (is_free >= habit->share) {
                fitting++;
            } else {
                useless += is_free;
            }
        }
    }
    bool has_room =
        left->cpu >= habit->cpu && left->memory >= habit->memory && fitting >= habit->count;
    return has_room ? useless : all;
}

static double fragments(const struct placement_cluster *cluster, const struct leftover *left)
{
    double sum = 0, weights = 0;
    for (size_t i = 0; i < HABITS; i++) {
        const struct habit *habit = &cluster->habits[i];
        if (habit->class_name != NULL) {
            sum += habit->weight * fragments_for(habit, left);
            weights += habit->weight;
        }
    }
    return weights > 0 ? sum / weights : 0;
}

static uint64_t left_of(const struct node *node, enum placement_resource resource, uint64_t taken)
{
    uint64_t limit = node->class->limit.of[resource];
    uint64_t used = node->used.of[resource] + taken;
    return limit > used ? limit - used : 0;
}

static double part_fragments(const struct probe *probe, const struct node *node)
{
    uint64_t cores = cores_cost(node->class, probe->cores);
    struct leftover before = {
        .cpu = left_of(node, PLACEMENT_CPU_MILLI, 0),
        .memory = left_of(node, PLACEMENT_MEMORY, 0),
        .kinds = node->kinds,
        .kind_count = node->kind_count,
    };
    struct kind kinds[PLACEMENT_DEVICE_KINDS_MAX];
    uint16_t used[PLACEMENT_DEVICE_KINDS_MAX][PLACEMENT_DEVICES_MAX];
    for (size_t i = 0; i < node->kind_count; i++) {
        kinds[i] = node->kinds[i];
        memcpy(used[i], kinds[i].used_of, kinds[i].count * sizeof(used[i][0]));
        kinds[i].used_of = used[i];
    }
    struct placement_grant grant;
    enum placement_filter lacking;
    unsigned which;
    if (probe->want_count > 0 && grant_find(probe, node, &grant, &lacking, &which)) {
        for (size_t i = 0; i < grant.device_count; i++) {
            const struct placement_grant_device *device = &grant.devices[i];
            used[device->kind][device->index] =
                (uint16_t)(used[device->kind][device->index] + probe->wants[device->demand].share);
        }
        grant_done(&grant);
    }
    struct leftover after = {
        .cpu = left_of(node, PLACEMENT_CPU_MILLI, probe->need.of[PLACEMENT_CPU_MILLI] + cores),
        .memory = left_of(node, PLACEMENT_MEMORY, probe->need.of[PLACEMENT_MEMORY]),
        .kinds = kinds,
        .kind_count = node->kind_count,
    };
    double growth = fragments(probe->cluster, &after) - fragments(probe->cluster, &before);
    return -growth / (PLACEMENT_SHARE_WHOLE + fabs(growth));
}

static double part_alignment(const struct probe *probe, const struct node *node)
{
    double dot = 0, need_square = 0, free_square = 0;
    for (enum placement_resource i = PLACEMENT_CPU_MILLI; i <= PLACEMENT_DISK; i++) {
        uint64_t limit = node->class->limit.of[i];
        if (limit == 0) {
            continue;
        }
        double need = (double)probe->need.of[i] / (double)limit;
        double is_free = (double)left_of(node, i, 0) / (double)limit;
        dot += need * is_free;
        need_square += need * need;
        free_square += is_free * is_free;
    }
    /* A quarter: to strand a device costs more than to leave a corner of memory. */
    return need_square > 0 && free_square > 0 ? dot / sqrt(need_square * free_square) / 4 : 0;
}

static double part_shape(const struct probe *probe, const struct node *node)
{
    return node->class->devices > 0 ? part_fragments(probe, node) : part_alignment(probe, node);
}

/* ---- What rules say ---- */

static double part_affinity(const struct probe *probe, const struct node *node,
                            const struct class *class)
{
    const struct shape *shape = probe->shape;
    if (shape->affinity_all <= 0) {
        return 0;
    }
    double sum = shape_verdict(probe->shape, class)->affinity;
    for (size_t i = 0;
         node != NULL && shape->has_unique_affinities && i < shape->rules->affinity_count; i++) {
        const struct rule *rule = &shape->rules->affinities[i];
        bool is_id = strcmp(rule->attribute, "node.id") == 0;
        bool is_name = strcmp(rule->attribute, "node.name") == 0;
        if ((is_id && rule_holds(rule, node->id->text)) ||
            (is_name && rule_holds(rule, node->name->text))) {
            sum += rule->weight;
        }
    }
    return clamp(sum / shape->affinity_all);
}

/* 1 for none more than the least, and from there down: one more always makes a difference. */
static double score_more(double more)
{
    return 1 - 2 * more / (more + 1);
}

double score_leaning(const struct probe *probe, const struct leaning *leaning, uint32_t count,
                     const struct word *value)
{
    const struct rule_spread *rule = leaning->rule;
    if (value == NULL) {
        return -1;
    }
    if (rule->target_count == 0) {
        return score_more(count > leaning->least ? count - leaning->least : 0);
    }
    uint32_t rest = 100, percent = UINT32_MAX;
    for (size_t i = 0; i < rule->target_count; i++) {
        rest -= rule->targets[i].percent;
        if (strcmp(rule->targets[i].value, value->text) == 0) {
            percent = rule->targets[i].percent;
        }
    }
    percent = percent == UINT32_MAX ? rest : percent;
    double total = (probe->job != NULL ? (double)probe->job->count : 0) + 1;
    double over = count + 1 - total * percent / 100; /* the target, once it is there */
    return percent == 0 ? -1 : score_more(over > 0 ? over : 0);
}

static double part_spread(const struct probe *probe, const struct node *node,
                          const struct class *class)
{
    if (probe->leaning_count == 0) {
        return 0;
    }
    double sum = 0;
    for (size_t i = 0; i < probe->leaning_count; i++) {
        const struct leaning *leaning = &probe->leanings[i];
        if (leaning->is_unique && node == NULL) {
            continue;
        }
        const struct word *value = node != NULL
            ? node_value(probe->cluster, node, leaning->attribute)
            : class_value(class, leaning->attribute);
        uint32_t count = tally_of(leaning->tally, value);
        sum += leaning->rule->weight * score_leaning(probe, leaning, count, value);
    }
    return sum / probe->leaning_weight;
}

static double part_group(const struct probe *probe, const struct node *node,
                         const struct class *class)
{
    if (probe->over == NULL || (probe->over_is_unique && node == NULL)) {
        return 0;
    }
    const struct word *value = node != NULL ? node_value(probe->cluster, node, probe->over)
                                            : class_value(class, probe->over);
    uint32_t here = tally_of(probe->over_tally, value);
    if (probe->request->group.policy == PLACEMENT_GROUP_SPREAD) {
        return score_more(here);
    }
    size_t members = probe->group != NULL ? probe->group->count : 0;
    return members > 0 ? 2.0 * here / (double)members - 1 : 0;
}

uint64_t hinted_bytes(const struct placement_request *request, const char *node)
{
    uint64_t bytes = 0;
    for (size_t i = 0; node != NULL && i < request->hint_count; i++) {
        const struct placement_hint *hint = &request->hints[i];
        if (hint->node != NULL && strcmp(hint->node, node) == 0) {
            bytes += hint->bytes;
        }
    }
    return bytes;
}

static double part_local(const struct probe *probe, const struct node *node)
{
    uint64_t bytes = hinted_bytes(probe->request, node->id->text);
    return probe->hint_bytes > 0 ? (double)bytes / (double)probe->hint_bytes : 0;
}

static double part_traffic(const struct probe *probe, const struct node *node)
{
    return ties_score(probe->ties, probe->tie_count, probe->tie_rate, node);
}

static double part_cost(const struct probe *probe, const struct class *class)
{
    return probe->cost_most > 0 ? 1 - (double)class->cost / probe->cost_most : 0;
}

static double part_load(const struct node *node)
{
    uint64_t cpu = node->class->capacity.of[PLACEMENT_CPU_MILLI];
    uint64_t memory = node->class->capacity.of[PLACEMENT_MEMORY];
    double cpu_share = cpu > 0 ? (double)node->load_cpu / (double)cpu : 0;
    double memory_share = memory > 0 ? (double)node->load_memory / (double)memory : 0;
    return clamp(-(cpu_share > memory_share ? cpu_share : memory_share));
}

static double part_avoid(const struct probe *probe, const struct node *node)
{
    for (size_t i = 0; i < probe->request->avoid_count; i++) {
        if (strcmp(probe->request->avoid[i], node->id->text) == 0) {
            return -1;
        }
    }
    return 0;
}

/* A node with one NUMA node, or whose are not known, keeps everything together. */
static double part_numa(const struct probe *probe, const struct node *node)
{
    if (probe->cores == 0 || probe->request->demand.numa == PLACEMENT_NUMA_ANY) {
        return 0;
    }
    return node->numa_count < 2 || numa_keeps_together(probe, node) ? 1 : -1;
}

/* ---- All ---- */

static double weigh(const struct probe *probe, const double parts[PLACEMENT_PART_COUNT])
{
    double sum = 0;
    for (size_t i = 0; i < PLACEMENT_PART_COUNT; i++) {
        sum += parts[i] * probe->options->weights[i] / 100;
    }
    return sum;
}

double score_class(const struct probe *probe, const struct class *class)
{
    double parts[PLACEMENT_PART_COUNT] = {
        [PLACEMENT_PART_AFFINITY] = part_affinity(probe, NULL, class),
        [PLACEMENT_PART_SPREAD] = part_spread(probe, NULL, class),
        [PLACEMENT_PART_GROUP] = part_group(probe, NULL, class),
        [PLACEMENT_PART_COST] = part_cost(probe, class),
        [PLACEMENT_PART_TAINT] = shape_verdict(probe->shape, class)->disliked > 0 ? -1 : 0,
    };
    return weigh(probe, parts);
}

double score_node(const struct probe *probe, const struct node *node,
                  double ret_parts[PLACEMENT_PART_COUNT])
{
    const struct class *class = node->class;
    const uint32_t *weights = probe->options->weights;
    double parts[PLACEMENT_PART_COUNT] = {
        [PLACEMENT_PART_FIT] = part_fit(probe, node),
        [PLACEMENT_PART_SHAPE] = weights[PLACEMENT_PART_SHAPE] > 0 ? part_shape(probe, node) : 0,
        [PLACEMENT_PART_AFFINITY] = part_affinity(probe, node, class),
        [PLACEMENT_PART_SPREAD] = part_spread(probe, node, class),
        [PLACEMENT_PART_GROUP] = part_group(probe, node, class),
        [PLACEMENT_PART_LOCAL] = part_local(probe, node),
        [PLACEMENT_PART_TRAFFIC] = part_traffic(probe, node),
        [PLACEMENT_PART_COST] = part_cost(probe, class),
        [PLACEMENT_PART_TAINT] = shape_verdict(probe->shape, class)->disliked > 0 ? -1 : 0,
        [PLACEMENT_PART_LOAD] = part_load(node),
        [PLACEMENT_PART_AVOID] = part_avoid(probe, node),
        [PLACEMENT_PART_NUMA] = part_numa(probe, node),
    };
    memcpy(ret_parts, parts, sizeof(parts));
    return weigh(probe, parts);
}
