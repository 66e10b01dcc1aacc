/*
 * Rules of placement: what a machine, function or job asks of the node that is to run it.
 *
 * Rules are read once (from JSON, or from one line each, as people type them), checked for
 * contradictions, and are a value from then on: immutable, counted by references, compared by
 * their canonical text.  Nothing here looks at a clock, a file or a locale, so every replica reads
 * the same rules in the same way.
 *
 *   {"constraints": [{"attribute": "${label.disk}", "operator": "=", "value": "ssd"}],
 *    "affinities":  [{"attribute": "${node.zone}", "operator": "=", "value": "a", "weight": 50}],
 *    "spread":      [{"attribute": "${node.zone}", "weight": 50, "targets": {"a": 60, "b": 40}}],
 *    "tolerations": [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}],
 *    "pool": "default"}
 *
 * In place of each object its line may stand:
 *
 *   constraint   ATTRIBUTE OPERATOR [VALUE]      ${label.disk} = ssd        distinct_hosts
 *   affinity     WEIGHT ATTRIBUTE OPERATOR [VALUE]              -50 ${attr.arch} != x86_64
 *   spread       [WEIGHT] ATTRIBUTE [VALUE=PERCENT ...]         ${node.zone} a=60 b=40
 *   toleration   KEY[=VALUE][:EFFECT[:SECONDS]] or `*`          gpu=yes:NoSchedule
 *   taint        KEY[=VALUE]:EFFECT                             gpu=yes:NoSchedule
 *
 * Attributes: ${node.id} ${node.name} ${node.pool} ${node.region} ${node.zone} ${node.rack},
 * ${attr.X} (what the node found of itself) and ${label.X} (what people wrote on it).  `${` and `}`
 * may be left out, and `node`, `zone`, `rack`, `region`, `pool` stand for the ones of node.
 *
 * Operators, where an attribute that is not set makes all false but `!=` and is_not_set:
 *   = !=              the text
 *   > >= < <=         as numbers where both are numbers, or else as texts
 *   regexp            somewhere in the text; see regexp.h for the syntax.  Matching takes time
 *                     linear in the text, whatever the pattern is
 *   version           a list as `>= 1.2, < 2`; operators = != > >= < <= ~> ; see rules_version.c
 *   set_contains      the attribute is a list `a,b,c` that has all of the value's
 *   set_contains_any  ... any of the value's
 *   is_set is_not_set
 *   distinct_hosts    no two of one job (placement_request.job) at one node
 *   distinct_property at most VALUE (1 when left out) of one job where the attribute is equal
 *
 * Texts are UTF-8 without control characters: a newline in one is refused.
 * Sources: Nomad "constraint", "affinity", "spread" blocks; Kubernetes "Taints and Tolerations".
 */
#ifndef ENGINE_PLACEMENT_RULES_H
#define ENGINE_PLACEMENT_RULES_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/text.h"

struct error;
struct json_writer;

enum {
    PLACEMENT_CONSTRAINTS_MAX = 64,
    PLACEMENT_AFFINITIES_MAX = 64,
    PLACEMENT_SPREADS_MAX = 8,
    PLACEMENT_TARGETS_MAX = 64,
    PLACEMENT_TOLERATIONS_MAX = 32,
    PLACEMENT_NAME_MAX = 127,   /* bytes of an attribute's name, a taint's key, a pool */
    PLACEMENT_VALUE_MAX = 511,  /* bytes of a value */
    PLACEMENT_WEIGHT_MAX = 100, /* affinities: from -100; spread: from 1 */
};

enum placement_operator {
    PLACEMENT_EQUAL,
    PLACEMENT_NOT_EQUAL,
    PLACEMENT_GREATER,
    PLACEMENT_GREATER_EQUAL,
    PLACEMENT_LESS,
    PLACEMENT_LESS_EQUAL,
    PLACEMENT_REGEXP,
    PLACEMENT_VERSION,
    PLACEMENT_SET_CONTAINS,
    PLACEMENT_SET_CONTAINS_ANY,
    PLACEMENT_IS_SET,
    PLACEMENT_IS_NOT_SET,
    PLACEMENT_DISTINCT_HOSTS,
    PLACEMENT_DISTINCT_PROPERTY,
    PLACEMENT_OPERATOR_COUNT,
};

/* The operator as it is written. */
const char *placement_operator_name(enum placement_operator op);

enum placement_effect {
    PLACEMENT_ANY_EFFECT,         /* in tolerations */
    PLACEMENT_NO_SCHEDULE,        /* nothing new comes */
    PLACEMENT_PREFER_NO_SCHEDULE, /* only where nothing else has room, or weights say so */
    PLACEMENT_NO_EXECUTE,         /* nothing new comes, and what is there has to leave */
};

/* As Kubernetes writes it: "NoSchedule"; "" for ANY. */
const char *placement_effect_name(enum placement_effect effect);

struct placement_taint {
    char key[PLACEMENT_NAME_MAX + 1];
    char value[PLACEMENT_VALUE_MAX + 1]; /* may be "" */
    enum placement_effect effect;
};

struct placement_toleration {
    char key[PLACEMENT_NAME_MAX + 1]; /* "": every taint */
    bool has_value;                   /* or any value */
    char value[PLACEMENT_VALUE_MAX + 1];
    enum placement_effect effect;
    bool has_limit; /* of a NoExecute: it may stay for so long, and no longer */
    uint32_t limit_s;
};

struct placement_rules;

/*
 * Read rules; NULL or {} gives rules that ask nothing.  Fails with INVALID (syntax, an unknown
 * member or operator, a pattern that cannot be, weights and percentages beyond their limits, and
 * contradictions: the text names the pair) or LIMIT.  The caller ends *ret_rules with
 * placement_rules_unref().
 */
int placement_rules_read(const json_t *value, struct placement_rules **ret_rules,
                         struct error *err);

/* NULL is accepted by both. */
struct placement_rules *placement_rules_ref(struct placement_rules *rules);
void placement_rules_unref(struct placement_rules *rules);

/* The canonical JSON: what was read, with every attribute in its `${}` form.  Lent; never NULL. */
const char *placement_rules_text(const struct placement_rules *rules);

/* Into the place where a value is expected: the same text. */
void placement_rules_write(const struct placement_rules *rules, struct json_writer *out);

/* The pool that they name, or "" (then it is PLACEMENT_POOL_DEFAULT). */
const char *placement_rules_pool(const struct placement_rules *rules);

/* One line each, as above.  *ret_object is the object of the canonical JSON; the caller ends it
 * with json_decref().  INVALID.  `kind` is "constraint", "affinity", "spread" or "toleration". */
int placement_rule_parse(const char *kind, const char *line, json_t **ret_object,
                         struct error *err);

int placement_taint_parse(const char *line, struct placement_taint *ret_taint, struct error *err);
/* KEY[=VALUE]:EFFECT into ret_text, which holds `size` bytes; longer ones are cut. */
void placement_taint_text(const struct placement_taint *taint, char *ret_text, size_t size);

/*
 * Does one of the tolerations bear the taint?  *ret_limit_s, where given, is UINT32_MAX for ever,
 * or how long (the shortest that applies) a NoExecute is borne.
 */
bool placement_rules_tolerate(const struct placement_rules *rules,
                              const struct placement_taint *taint, uint32_t *ret_limit_s);

/* May this be an attribute's name (without `label.` and `attr.`): 1 to 63 of A-Z a-z 0-9 - _ . / ?
 * And a value: at most PLACEMENT_VALUE_MAX bytes of UTF-8 without control characters?  INVALID. */
int placement_check_name(const char *name, struct error *err);
int placement_check_value(const char *value, struct error *err);

#endif
