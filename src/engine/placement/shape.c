/*
 * Shapes: rules, judged for classes of nodes.  A verdict holds as long as the class lives, and its
 * serial says whether it does; so a decision looks at rules only where a class is new.
 */
#include <string.h>

#include "base/check.h"
#include "base/memory.h"

#include "engine/placement/parts.h"

static bool is_unique(const char *attribute)
{
    return strcmp(attribute, "node.id") == 0 || strcmp(attribute, "node.name") == 0;
}

static const char *text_in(const struct placement_cluster *cluster, const struct class *class,
                           const char *attribute)
{
    const struct word *name = word_find(cluster, attribute, strlen(attribute));
    const struct word *value = name != NULL ? class_value(class, name) : NULL;
    return value != NULL ? value->text : NULL;
}

static const char *pool_of(const struct shape *shape)
{
    const char *pool = placement_rules_pool(shape->rules);
    return pool[0] != 0 ? pool : PLACEMENT_POOL_DEFAULT;
}

/* Filters of rules that are the same for the whole class. */
static void judge_filters(const struct placement_cluster *cluster, const struct shape *shape,
                          const struct class *class, struct verdict *verdict)
{
    verdict->filter = PLACEMENT_PASSED;
    if (strcmp(class->pool->text, pool_of(shape)) != 0) {
        verdict->filter = PLACEMENT_POOL;
        return;
    }
    for (size_t i = 0; i < class->taint_count; i++) {
        const struct placement_taint *taint = &class->taints[i];
        bool is_borne = placement_rules_tolerate(shape->rules, taint, NULL);
        if (!is_borne && taint->effect == PLACEMENT_PREFER_NO_SCHEDULE) {
            verdict->disliked++;
        } else if (!is_borne) {
            verdict->filter = PLACEMENT_TAINT;
            verdict->which = (uint16_t)i;
            return;
        }
    }
    for (size_t i = 0; shape->rules != NULL && i < shape->rules->constraint_count; i++) {
        const struct rule *rule = &shape->rules->constraints[i];
        if (!rule_is_distinct(rule->op) && !is_unique(rule->attribute) &&
            !rule_holds(rule, text_in(cluster, class, rule->attribute))) {
            verdict->filter = PLACEMENT_CONSTRAINT;
            verdict->which = (uint16_t)i;
            return;
        }
    }
}

static void judge(const struct placement_cluster *cluster, const struct shape *shape,
                  const struct class *class, struct verdict *verdict)
{
    *verdict = (struct verdict){.serial = class->serial};
    judge_filters(cluster, shape, class, verdict);
    for (size_t i = 0; shape->rules != NULL && i < shape->rules->affinity_count; i++) {
        const struct rule *rule = &shape->rules->affinities[i];
        if (!is_unique(rule->attribute) &&
            rule_holds(rule, text_in(cluster, class, rule->attribute))) {
            verdict->affinity += (float)rule->weight;
        }
    }
}

const struct verdict *shape_verdict(struct shape *shape, const struct class *class)
{
    CHECK(class->slot < shape->verdict_room);
    CHECK(shape->verdicts[class->slot].serial == class->serial);
    return &shape->verdicts[class->slot];
}

void shape_refresh(struct placement_cluster *cluster, struct shape *shape)
{
    if (shape->epoch == cluster->class_epoch && shape->passed != NULL) {
        return;
    }
    if (shape->verdict_room < cluster->class_room) {
        shape->verdicts =
            memory_resize(shape->verdicts, cluster->class_room * sizeof(*shape->verdicts));
        memset(shape->verdicts + shape->verdict_room, 0,
               (cluster->class_room - shape->verdict_room) * sizeof(*shape->verdicts));
        shape->verdict_room = cluster->class_room;
    }
    shape->passed =
        memory_resize(shape->passed, (cluster->class_room + 1) * sizeof(struct class *));
    shape->passed_count = 0;
    for (size_t i = 0; i < cluster->class_room; i++) {
        struct class *class = cluster->classes[i];
        if (class == NULL) {
            continue;
        }
        if (shape->verdicts[i].serial != class->serial) {
            judge(cluster, shape, class, &shape->verdicts[i]);
        }
        if (shape->verdicts[i].filter == PLACEMENT_PASSED) {
            shape->passed[shape->passed_count++] = class;
        }
    }
    shape->epoch = cluster->class_epoch;
}

static void shape_free(struct shape *shape)
{
    placement_rules_unref(shape->rules);
    free(shape->verdicts);
    free(shape->passed);
    free(shape);
}

static void free_one(const char *key, void *value, void *context)
{
    (void)key;
    (void)context;
    shape_free(value);
}

void shapes_clear(struct placement_cluster *cluster)
{
    map_each(&cluster->shapes, free_one, NULL);
    map_done(&cluster->shapes);
    cluster->shapes = (struct map){0};
    if (cluster->bare != NULL) {
        shape_free(cluster->bare);
        cluster->bare = NULL;
    }
}

static struct shape *shape_new(struct placement_rules *rules)
{
    struct shape *shape = NEW(struct shape);
    shape->rules = placement_rules_ref(rules);
    for (size_t i = 0; rules != NULL && i < rules->constraint_count; i++) {
        const struct rule *rule = &rules->constraints[i];
        if (!rule_is_distinct(rule->op) && is_unique(rule->attribute)) {
            shape->has_unique_constraints = true;
            shape->pin = rule->op == PLACEMENT_EQUAL ? rule : shape->pin;
        }
    }
    for (size_t i = 0; rules != NULL && i < rules->affinity_count; i++) {
        const struct rule *rule = &rules->affinities[i];
        shape->affinity_all += (float)(rule->weight < 0 ? -rule->weight : rule->weight);
        shape->has_unique_affinities = shape->has_unique_affinities || is_unique(rule->attribute);
    }
    return shape;
}

struct shape *shape_get(struct placement_cluster *cluster, struct placement_rules *rules)
{
    struct shape *shape = rules == NULL ? cluster->bare : map_get(&cluster->shapes, rules->text);
    if (shape == NULL) {
        if (cluster->shapes.count >= SHAPES_MAX) {
            shapes_clear(cluster);
        }
        shape = shape_new(rules);
        if (rules == NULL) {
            cluster->bare = shape;
        } else {
            map_set(&cluster->shapes, rules->text, shape);
        }
    }
    shape_refresh(cluster, shape);
    return shape;
}
