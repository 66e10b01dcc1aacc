/*
 * Rules from the inside: parsed, with everything that matching needs made once.
 * Of the room alone.
 */
#ifndef ENGINE_PLACEMENT_RULE_H
#define ENGINE_PLACEMENT_RULE_H

#include "engine/placement/regexp.h"
#include "engine/placement/rules.h"

enum { VERSION_PARTS_MAX = 8, VERSION_BOUNDS_MAX = 8, VERSION_PRE_MAX = 31 };

struct version {
    uint64_t parts[VERSION_PARTS_MAX];
    size_t count;
    char pre[VERSION_PRE_MAX + 1]; /* "rc1"; "": a release, which is above its pre-releases */
};

struct version_bound {
    enum placement_operator op; /* = != > >= < <= */
    struct version version;
};

struct rule {
    enum placement_operator op;
    char *attribute; /* "label.disk"; "" for distinct_hosts */
    char *value;     /* "" where there is none */
    bool is_number;
    double number;
    uint32_t limit; /* of distinct_property */
    int weight;     /* of an affinity */
    struct regexp *regexp;
    struct version_bound bounds[VERSION_BOUNDS_MAX]; /* all hold */
    size_t bound_count;
};

struct rule_target {
    char *value;
    uint32_t percent;
};

struct rule_spread {
    char *attribute;
    uint32_t weight;
    struct rule_target *targets;
    size_t target_count;
};

struct placement_rules {
    unsigned refs;
    char *text; /* canonical */
    char *pool;
    struct rule *constraints;
    size_t constraint_count;
    struct rule *affinities;
    size_t affinity_count;
    struct rule_spread *spreads;
    size_t spread_count;
    struct placement_toleration *tolerations;
    size_t toleration_count;
};

/* rules_match.c: is the rule true where the attribute has this text; NULL: it is not set.  Of every
 * operator but the distinct ones. */
bool rule_holds(const struct rule *rule, const char *text);
bool rule_read_number(const char *text, double *ret_number);

/* rules_version.c: whole texts; false: it is no version, or no list of bounds. */
bool version_read(const char *text, struct version *ret_version);
int version_compare(const struct version *a, const struct version *b);
int version_read_bounds(const char *text, struct rule *rule, struct error *err);
bool version_within(const struct version *version, const struct rule *rule);

/* rules_line.c */
int rule_canonical_attribute(const char *name, char **ret_attribute, struct error *err);
int rule_parse_operator(const char *name, enum placement_operator *ret_operator, struct error *err);
bool rule_is_distinct(enum placement_operator op);
int rule_parse_effect(const char *name, enum placement_effect *ret_effect, struct error *err);

/* rules_check.c: INVALID, naming the two that cannot both hold. */
int rules_check(const struct placement_rules *rules, struct error *err);

#endif
