/*
 * Rules from JSON: each list is read member by member into what matching needs, and written again
 * in the canonical form on the way.  See rules.h.
 */
#include <string.h>

#include "base/check.h"
#include "base/error.h"
#include "base/json.h"
#include "base/memory.h"

#include "engine/placement/rule.h"

/* ---- Members of objects ---- */

/* Unknown members are errors: a misspelt rule would ask nothing. */
static int check_members(json_t *object, const char *const *known, const char *what,
                         struct error *err)
{
    const char *key;
    json_t *value;
    json_object_foreach(object, key, value)
    {
        size_t i = 0;
        while (known[i] != NULL && strcmp(known[i], key) != 0) {
            i++;
        }
        if (known[i] == NULL) {
            return error_set(err, ERROR_INVALID, "%s has no member %.64s", what,
                             text_is_printable(key) ? key : "of this name");
        }
    }
    return 0;
}

/* A member that is a text of at most PLACEMENT_VALUE_MAX bytes; "" when it is absent. */
static int read_text(json_t *object, const char *key, const char **ret_text, struct error *err)
{
    json_t *value = json_object_get(object, key);
    *ret_text = "";
    if (value == NULL || json_is_null(value)) {
        return 0;
    }
    if (!json_is_string(value)) {
        return error_set(err, ERROR_INVALID, "%s has to be a text", key);
    }
    *ret_text = json_string_value(value);
    return placement_check_value(*ret_text, err);
}

static int read_integer(json_t *object, const char *key, json_int_t least, json_int_t most,
                        json_int_t *ret_value, struct error *err)
{
    json_t *value = json_object_get(object, key);
    if (value == NULL) {
        return 0;
    }
    if (!json_is_integer(value) || json_integer_value(value) < least ||
        json_integer_value(value) > most) {
        return error_set(err, ERROR_INVALID, "%s has to be a whole number from %lld to %lld", key,
                         (long long)least, (long long)most);
    }
    *ret_value = json_integer_value(value);
    return 0;
}

static void set_attribute(json_t *object, const char *attribute)
{
    MEMORY_OWNED char *text = memory_format("${%s}", attribute);
    json_object_set_new(object, "attribute", json_string(text));
}

/* ---- Constraints and affinities ---- */

static void rule_done(struct rule *rule)
{
    free(rule->attribute);
    free(rule->value);
    regexp_free(rule->regexp);
}

static int prepare_value(struct rule *rule, struct error *err)
{
    bool has_value = rule->value[0] != 0;
    uint64_t limit = 1;
    switch (rule->op) {
    case PLACEMENT_REGEXP:
        return regexp_new(rule->value, &rule->regexp, err);
    case PLACEMENT_VERSION:
        return version_read_bounds(rule->value, rule, err);
    case PLACEMENT_IS_SET:
    case PLACEMENT_IS_NOT_SET:
    case PLACEMENT_DISTINCT_HOSTS:
        return has_value
            ? error_set(err, ERROR_INVALID, "%s takes no value", placement_operator_name(rule->op))
            : 0;
    case PLACEMENT_DISTINCT_PROPERTY:
        if (has_value &&
            (!text_parse_u64(text_of(rule->value, strlen(rule->value)), &limit) || limit == 0 ||
             limit > UINT32_MAX)) {
            return error_set(err, ERROR_INVALID,
                             "the value of distinct_property is how many, from 1, not %.32s",
                             rule->value);
        }
        rule->limit = (uint32_t)limit;
        return 0;
    default:
        break;
    }
    rule->is_number = rule_read_number(rule->value, &rule->number);
    bool is_order = rule->op >= PLACEMENT_GREATER && rule->op <= PLACEMENT_LESS_EQUAL;
    bool is_set_of = rule->op == PLACEMENT_SET_CONTAINS || rule->op == PLACEMENT_SET_CONTAINS_ANY;
    return !has_value && (is_order || is_set_of)
        ? error_set(err, ERROR_INVALID, "%s needs a value", placement_operator_name(rule->op))
        : 0;
}

/* What constraints and affinities have in common. */
static int read_rule(json_t *object, struct rule *rule, json_t *canonical, struct error *err)
{
    const char *attribute, *name, *value;
    int r = read_text(object, "attribute", &attribute, err);
    r = r < 0 ? r : read_text(object, "operator", &name, err);
    r = r < 0 ? r : read_text(object, "value", &value, err);
    r = r < 0 ? r : rule_parse_operator(name[0] != 0 ? name : "=", &rule->op, err);
    if (r < 0) {
        return r;
    }
    rule->value = memory_copy_string(value);
    if (rule->op == PLACEMENT_DISTINCT_HOSTS) {
        rule->attribute = memory_copy_string("");
        if (attribute[0] != 0) {
            return error_set(err, ERROR_INVALID, "distinct_hosts takes no attribute");
        }
    } else {
        r = rule_canonical_attribute(attribute, &rule->attribute, err);
        if (r < 0) {
            return r;
        }
        set_attribute(canonical, rule->attribute);
    }
    json_object_set_new(canonical, "operator", json_string(placement_operator_name(rule->op)));
    if (value[0] != 0) {
        json_object_set_new(canonical, "value", json_string(value));
    }
    return prepare_value(rule, err);
}

static int read_constraint(struct placement_rules *rules, json_t *object, json_t *canonical,
                           struct error *err)
{
    static const char *const known[] = {"attribute", "operator", "value", NULL};
    int r = check_members(object, known, "a constraint", err);
    return r < 0
        ? r
        : read_rule(object, &rules->constraints[rules->constraint_count++], canonical, err);
}

static int read_affinity(struct placement_rules *rules, json_t *object, json_t *canonical,
                         struct error *err)
{
    static const char *const known[] = {"attribute", "operator", "value", "weight", NULL};
    struct rule *rule = &rules->affinities[rules->affinity_count++];
    json_int_t weight = 50;
    int r = check_members(object, known, "an affinity", err);
    r = r < 0
        ? r
        : read_integer(object, "weight", -PLACEMENT_WEIGHT_MAX, PLACEMENT_WEIGHT_MAX, &weight, err);
    r = r < 0 ? r : read_rule(object, rule, canonical, err);
    if (r < 0) {
        return r;
    }
    if (rule_is_distinct(rule->op)) {
        return error_set(err, ERROR_INVALID, "%s is no affinity: spread says it by degrees",
                         placement_operator_name(rule->op));
    }
    rule->weight = (int)weight;
    json_object_set_new(canonical, "weight", json_integer(weight));
    return 0;
}

/* ---- Spread ---- */

static int read_target(struct rule_spread *spread, const char *value, json_t *percent,
                       struct error *err)
{
    int r = placement_check_value(value, err);
    if (r < 0) {
        return r;
    }
    if (!json_is_integer(percent) || json_integer_value(percent) < 0 ||
        json_integer_value(percent) > 100) {
        return error_set(err, ERROR_INVALID, "a spread's target is a percentage, from 0 to 100");
    }
    spread->targets[spread->target_count++] =
        (struct rule_target){memory_copy_string(value), (uint32_t)json_integer_value(percent)};
    return 0;
}

static int read_targets(struct rule_spread *spread, json_t *targets, json_t *canonical,
                        struct error *err)
{
    const char *key;
    json_t *percent;
    uint32_t sum = 0;
    if (!json_is_object(targets) || json_object_size(targets) > PLACEMENT_TARGETS_MAX) {
        return error_set(err, ERROR_INVALID,
                         "targets are an object of at most %d percentages, as in {\"north\": 60}",
                         PLACEMENT_TARGETS_MAX);
    }
    spread->targets = memory_new(json_object_size(targets) + 1, sizeof(*spread->targets));
    json_object_foreach(targets, key, percent)
    {
        int r = read_target(spread, key, percent, err);
        if (r < 0) {
            return r;
        }
        sum += spread->targets[spread->target_count - 1].percent;
    }
    if (sum > 100) {
        return error_set(err, ERROR_INVALID, "the targets of ${%s} add up to %u percent",
                         spread->attribute, sum);
    }
    json_object_set(canonical, "targets", targets);
    return 0;
}

static int read_spread(struct placement_rules *rules, json_t *object, json_t *canonical,
                       struct error *err)
{
    static const char *const known[] = {"attribute", "weight", "targets", NULL};
    struct rule_spread *spread = &rules->spreads[rules->spread_count++];
    const char *attribute;
    json_int_t weight = 50;
    int r = check_members(object, known, "a spread", err);
    r = r < 0 ? r : read_integer(object, "weight", 1, PLACEMENT_WEIGHT_MAX, &weight, err);
    r = r < 0 ? r : read_text(object, "attribute", &attribute, err);
    r = r < 0 ? r : rule_canonical_attribute(attribute, &spread->attribute, err);
    if (r < 0) {
        return r;
    }
    for (size_t i = 0; i + 1 < rules->spread_count; i++) {
        if (strcmp(rules->spreads[i].attribute, spread->attribute) == 0) {
            return error_set(err, ERROR_INVALID, "two spreads over ${%s}", spread->attribute);
        }
    }
    spread->weight = (uint32_t)weight;
    set_attribute(canonical, spread->attribute);
    json_object_set_new(canonical, "weight", json_integer(weight));
    json_t *targets = json_object_get(object, "targets");
    return targets != NULL ? read_targets(spread, targets, canonical, err) : 0;
}

/* ---- Tolerations ---- */

static int read_toleration(struct placement_rules *rules, json_t *object, json_t *canonical,
                           struct error *err)
{
    static const char *const known[] = {"key", "value", "effect", "seconds", NULL};
    struct placement_toleration *toleration = &rules->tolerations[rules->toleration_count++];
    const char *key, *value, *effect;
    json_int_t limit = -1;
    int r = check_members(object, known, "a toleration", err);
    r = r < 0 ? r : read_text(object, "key", &key, err);
    r = r < 0 ? r : read_text(object, "value", &value, err);
    r = r < 0 ? r : read_text(object, "effect", &effect, err);
    r = r < 0 ? r : rule_parse_effect(effect, &toleration->effect, err);
    r = r < 0 ? r : read_integer(object, "seconds", 0, UINT32_MAX, &limit, err);
    r = r < 0 || key[0] == 0 ? r : placement_check_name(key, err);
    if (r < 0) {
        return r;
    }
    toleration->has_value = json_object_get(object, "value") != NULL;
    toleration->has_limit = limit >= 0;
    toleration->limit_s = limit >= 0 ? (uint32_t)limit : 0;
    if (key[0] == 0 && toleration->has_value) {
        return error_set(err, ERROR_INVALID, "a toleration with a value needs a key");
    }
    if (limit >= 0 && toleration->effect != PLACEMENT_NO_EXECUTE) {
        return error_set(err, ERROR_INVALID, "seconds are of a toleration of NoExecute");
    }
    snprintf(toleration->key, sizeof(toleration->key), "%s", key);
    snprintf(toleration->value, sizeof(toleration->value), "%s", value);
    return json_object_update(canonical, object) == 0
        ? 0
        : error_set(err, ERROR_LIMIT, "out of memory");
}

/* ---- All ---- */

typedef int read_member(struct placement_rules *rules, json_t *object, json_t *canonical,
                        struct error *err);

static int read_one(struct placement_rules *rules, const char *kind, json_t *value,
                    read_member *read, json_t *canonical, struct error *err)
{
    JSON_OWNED json_t *parsed = NULL;
    if (json_is_string(value)) {
        int r = placement_rule_parse(kind, json_string_value(value), &parsed, err);
        if (r < 0) {
            return r;
        }
        value = parsed;
    }
    if (!json_is_object(value)) {
        return error_set(err, ERROR_INVALID, "a %s is an object or a text", kind);
    }
    return read(rules, value, canonical, err);
}

static int read_list(struct placement_rules *rules, json_t *object, const char *key,
                     const char *kind, size_t most, read_member *read, json_t *canonical,
                     struct error *err)
{
    json_t *list = json_object_get(object, key);
    if (list == NULL) {
        return 0;
    }
    if (!json_is_array(list)) {
        return error_set(err, ERROR_INVALID, "%s are a list", key);
    }
    if (json_array_size(list) > most) {
        return error_set(err, ERROR_LIMIT, "%s: at most %zu, not %zu", key, most,
                         json_array_size(list));
    }
    json_t *out = json_array();
    for (size_t i = 0; i < json_array_size(list); i++) {
        json_t *one = json_object();
        json_array_append_new(out, one);
        int r = read_one(rules, kind, json_array_get(list, i), read, one, err);
        if (r < 0) {
            json_decref(out);
            return error_wrap(err, "%s %zu", kind, i + 1);
        }
    }
    if (json_array_size(out) > 0) {
        json_object_set(canonical, key, out);
    }
    json_decref(out);
    return 0;
}

static int read_pool(struct placement_rules *rules, json_t *object, json_t *canonical,
                     struct error *err)
{
    const char *pool;
    int r = read_text(object, "pool", &pool, err);
    r = r < 0 || pool[0] == 0 ? r : placement_check_name(pool, err);
    if (r < 0) {
        return error_wrap(err, "pool");
    }
    rules->pool = memory_copy_string(pool);
    if (pool[0] != 0) {
        json_object_set_new(canonical, "pool", json_string(pool));
    }
    return 0;
}

static int read_all(struct placement_rules *rules, json_t *object, json_t *canonical,
                    struct error *err)
{
    static const char *const known[] = {"constraints", "affinities", "spread",
                                        "tolerations", "pool",       NULL};
    int r = check_members(object, known, "placement", err);
    r = r < 0 ? r
              : read_list(rules, object, "constraints", "constraint", PLACEMENT_CONSTRAINTS_MAX,
                          read_constraint, canonical, err);
    r = r < 0 ? r
              : read_list(rules, object, "affinities", "affinity", PLACEMENT_AFFINITIES_MAX,
                          read_affinity, canonical, err);
    r = r < 0 ? r
              : read_list(rules, object, "spread", "spread", PLACEMENT_SPREADS_MAX, read_spread,
                          canonical, err);
    r = r < 0 ? r
              : read_list(rules, object, "tolerations", "toleration", PLACEMENT_TOLERATIONS_MAX,
                          read_toleration, canonical, err);
    r = r < 0 ? r : read_pool(rules, object, canonical, err);
    return r < 0 ? r : rules_check(rules, err);
}

int placement_rules_read(const json_t *value, struct placement_rules **ret_rules, struct error *err)
{
    JSON_OWNED json_t *canonical = json_object();
    JSON_OWNED json_t *object =
        value == NULL || json_is_null(value) ? json_object() : json_deep_copy(value);
    if (!json_is_object(object)) {
        return error_set(err, ERROR_INVALID, "placement is an object");
    }
    struct placement_rules *rules = NEW(struct placement_rules);
    rules->refs = 1;
    rules->constraints = memory_new(PLACEMENT_CONSTRAINTS_MAX, sizeof(struct rule));
    rules->affinities = memory_new(PLACEMENT_AFFINITIES_MAX, sizeof(struct rule));
    rules->spreads = memory_new(PLACEMENT_SPREADS_MAX, sizeof(struct rule_spread));
    rules->tolerations = memory_new(PLACEMENT_TOLERATIONS_MAX, sizeof(*rules->tolerations));
    int r = read_all(rules, object, canonical, err);
    if (r < 0) {
        placement_rules_unref(rules);
        return r;
    }
    rules->text = json_dumps(canonical, JSON_COMPACT | JSON_SORT_KEYS);
    CHECK(rules->text != NULL);
    rules->constraints =
        memory_resize(rules->constraints, (rules->constraint_count + 1) * sizeof(struct rule));
    rules->affinities =
        memory_resize(rules->affinities, (rules->affinity_count + 1) * sizeof(struct rule));
    rules->tolerations = memory_resize(rules->tolerations,
                                       (rules->toleration_count + 1) * sizeof(*rules->tolerations));
    *ret_rules = rules;
    return 0;
}

struct placement_rules *placement_rules_ref(struct placement_rules *rules)
{
    if (rules != NULL) {
        CHECK(rules->refs > 0);
        rules->refs++;
    }
    return rules;
}

void placement_rules_unref(struct placement_rules *rules)
{
    if (rules == NULL || --rules->refs > 0) {
        return;
    }
    for (size_t i = 0; i < rules->constraint_count; i++) {
        rule_done(&rules->constraints[i]);
    }
    for (size_t i = 0; i < rules->affinity_count; i++) {
        rule_done(&rules->affinities[i]);
    }
    for (size_t i = 0; i < rules->spread_count; i++) {
        for (size_t k = 0; k < rules->spreads[i].target_count; k++) {
            free(rules->spreads[i].targets[k].value);
        }
        free(rules->spreads[i].targets);
        free(rules->spreads[i].attribute);
    }
    free(rules->constraints);
    free(rules->affinities);
    free(rules->spreads);
    free(rules->tolerations);
    free(rules->pool);
    free(rules->text);
    free(rules);
}

const char *placement_rules_text(const struct placement_rules *rules)
{
    return rules != NULL ? rules->text : "{}";
}

void placement_rules_write(const struct placement_rules *rules, struct json_writer *out)
{
    const char *text = placement_rules_text(rules);
    json_write_raw(out, text, strlen(text));
}

const char *placement_rules_pool(const struct placement_rules *rules)
{
    return rules != NULL ? rules->pool : "";
}

static bool bears(const struct placement_toleration *toleration,
                  const struct placement_taint *taint)
{
    return (toleration->key[0] == 0 || strcmp(toleration->key, taint->key) == 0) &&
        (!toleration->has_value || strcmp(toleration->value, taint->value) == 0) &&
        (toleration->effect == PLACEMENT_ANY_EFFECT || toleration->effect == taint->effect);
}

bool placement_rules_tolerate(const struct placement_rules *rules,
                              const struct placement_taint *taint, uint32_t *ret_limit_s)
{
    uint32_t limit = UINT32_MAX;
    bool is_borne = false;
    for (size_t i = 0; rules != NULL && i < rules->toleration_count; i++) {
        const struct placement_toleration *toleration = &rules->tolerations[i];
        if (bears(toleration, taint)) {
            is_borne = true;
            limit =
                toleration->has_limit && toleration->limit_s < limit ? toleration->limit_s : limit;
        }
    }
    if (ret_limit_s != NULL) {
        *ret_limit_s = limit;
    }
    return is_borne;
}
