/* A request, made ready: names become words, rules a shape, and what is counted is looked up. */
#include <string.h>

#include "base/check.h"
#include "base/error.h"

#include "engine/placement/parts.h"

static void want_models(struct placement_cluster *cluster, const char *models, struct want *want)
{
    want->any_model = models == NULL || models[0] == 0;
    while (!want->any_model) {
        size_t length = strcspn(models, "|");
        struct word *model = word_find(cluster, models, length);
        if (model != NULL && want->model_count < MODELS_MAX) {
            want->models[want->model_count++] = model;
        }
        if (models[length] == 0) {
            return;
        }
        models += length + 1;
    }
}

void wants_read(struct placement_cluster *cluster, const struct placement_demand *demand,
                struct want *ret_wants)
{
    for (size_t i = 0; i < demand->device_count; i++) {
        const struct placement_device_demand *device = &demand->devices[i];
        ret_wants[i] = (struct want){
            .class_name = word_find(cluster, device->class_name, strlen(device->class_name)),
            .count = (uint16_t)device->count,
            .share = (uint16_t)(device->share == 0 ? PLACEMENT_SHARE_WHOLE : device->share),
        };
        want_models(cluster, device->models, &ret_wants[i]);
    }
}

static bool is_unique(const struct placement_cluster *cluster, const struct word *attribute)
{
    return attribute == cluster->id_name || attribute == cluster->name_name;
}

static const struct tally *tally_for(struct placement_cluster *cluster, struct crowd *crowd,
                                     struct word *attribute)
{
    return crowd != NULL ? crowd_tally(cluster, crowd, attribute) : NULL;
}

/* Attributes are counted also where no node has them yet: the words are kept until probe_done(). */
static void read_distincts(struct probe *probe, const struct placement_rules *rules)
{
    struct placement_cluster *cluster = probe->cluster;
    for (size_t i = 0; i < rules->constraint_count; i++) {
        const struct rule *rule = &rules->constraints[i];
        if (!rule_is_distinct(rule->op)) {
            continue;
        }
        bool is_hosts = rule->op == PLACEMENT_DISTINCT_HOSTS;
        struct word *attribute =
            is_hosts ? word_ref(cluster->id_name) : word_get(cluster, rule->attribute);
        probe->distincts[probe->distinct_count++] = (struct distinct){
            .attribute = attribute,
            .tally = tally_for(cluster, probe->job, attribute),
            .limit = is_hosts ? 1 : rule->limit,
            .is_unique = is_unique(cluster, attribute),
        };
    }
}

static void read_leanings(struct probe *probe, const struct placement_rules *rules)
{
    struct placement_cluster *cluster = probe->cluster;
    for (size_t i = 0; i < rules->spread_count; i++) {
        struct word *attribute = word_get(cluster, rules->spreads[i].attribute);
        probe->leanings[probe->leaning_count++] = (struct leaning){
            .rule = &rules->spreads[i],
            .attribute = attribute,
            .tally = tally_for(cluster, probe->job, attribute),
            .is_unique = is_unique(cluster, attribute),
        };
        probe->leaning_weight += rules->spreads[i].weight;
    }
}

/* As users write it: "zone", "${node.rack}"; or as rules have it inside. */
static int read_group(struct probe *probe, const struct placement_group *group, struct error *err)
{
    struct placement_cluster *cluster = probe->cluster;
    if (group->policy == PLACEMENT_GROUP_NONE || group->name == NULL || group->name[0] == 0) {
        return 0;
    }
    char *attribute = NULL;
    bool is_default = group->over == NULL || group->over[0] == 0;
    int r = rule_canonical_attribute(is_default ? "node.id" : group->over, &attribute, err);
    if (r < 0) {
        return error_wrap(err, "placement group %s", group->name);
    }
    probe->over = word_get(cluster, attribute);
    free(attribute);
    probe->group = crowd_find(&cluster->groups, group->name);
    probe->over_tally = tally_for(cluster, probe->group, probe->over);
    probe->over_is_unique = is_unique(cluster, probe->over);
    return 0;
}

int probe_init(struct probe *probe, struct placement_cluster *cluster,
               const struct placement_request *request, const struct placement_options *options,
               struct error *err)
{
    int r = check_request(request, err);
    if (r < 0) {
        return r;
    }
    memset(probe, 0, offsetof(struct probe, wants));
    probe->want_count = probe->distinct_count = probe->leaning_count = 0;
    probe->devices = 0;
    probe->leaning_weight = 0;
    probe->group = NULL;
    probe->over = NULL;
    probe->over_tally = NULL;
    probe->over_is_unique = false;
    probe->hint_bytes = 0;
    probe->cluster = cluster;
    probe->request = request;
    probe->options = options;
    probe->need = request->demand.amounts;
    probe->need.of[PLACEMENT_SLOTS]++;
    probe->cores = request->demand.dedicated_cores;
    wants_read(cluster, &request->demand, probe->wants);
    probe->want_count = request->demand.device_count;
    for (size_t i = 0; i < probe->want_count; i++) {
        probe->devices += (uint32_t)probe->wants[i].count * probe->wants[i].share;
    }
    probe->job = crowd_find(&cluster->jobs, request->job);
    r = read_group(probe, &request->group, err);
    if (r < 0) {
        return r;
    }
    if (request->rules != NULL) {
        read_distincts(probe, request->rules);
        read_leanings(probe, request->rules);
    }
    for (size_t i = 0; i < request->hint_count; i++) { /* copies of the same are no more of it */
        uint64_t bytes = hinted_bytes(request, request->hints[i].node);
        probe->hint_bytes = bytes > probe->hint_bytes ? bytes : probe->hint_bytes;
    }
    probe->tie_count = ties_find(cluster, request, probe->ties, &probe->tie_rate);
    if (cluster->cost_epoch != cluster->class_epoch) {
        cluster->cost_epoch = cluster->class_epoch;
        cluster->cost_most = 0;
        for (size_t i = 0; i < cluster->class_room; i++) {
            const struct class *class = cluster->classes[i];
            if (class != NULL && class->cost > cluster->cost_most) {
                cluster->cost_most = class->cost;
            }
        }
    }
    probe->cost_most = cluster->cost_most;
    probe->shape = shape_get(cluster, request->rules);
    return 0;
}

void probe_done(struct probe *probe)
{
    for (size_t i = 0; i < probe->distinct_count; i++) {
        word_unref(probe->cluster, probe->distincts[i].attribute);
    }
    for (size_t i = 0; i < probe->leaning_count; i++) {
        word_unref(probe->cluster, probe->leanings[i].attribute);
    }
    word_unref(probe->cluster, probe->over);
    probe->distinct_count = probe->leaning_count = 0;
    probe->over = NULL;
}
