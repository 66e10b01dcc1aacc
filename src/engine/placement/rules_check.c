/*
 * Contradictions: two constraints that no node can satisfy both.
 *
 * Pairs on one attribute are judged.  `=` against anything: does the other hold of the value?
 * Otherwise: set against not set, and ranges (of numbers, of texts, of versions) that have nothing
 * in common.  A regexp against another regexp is not judged.
 */
#include <string.h>

#include "base/error.h"

#include "engine/placement/rule.h"

static bool needs_it_set(enum placement_operator op)
{
    return op != PLACEMENT_NOT_EQUAL && op != PLACEMENT_IS_NOT_SET &&
        op != PLACEMENT_DISTINCT_HOSTS && op != PLACEMENT_DISTINCT_PROPERTY;
}

static bool is_lower(enum placement_operator op)
{
    return op == PLACEMENT_GREATER || op == PLACEMENT_GREATER_EQUAL;
}

static bool is_upper(enum placement_operator op)
{
    return op == PLACEMENT_LESS || op == PLACEMENT_LESS_EQUAL;
}

/* Is there nothing from a lower to an upper bound?  `order` is of lower to upper. */
static bool is_empty(int order, enum placement_operator lower, enum placement_operator upper)
{
    return order > 0 || (order == 0 && (lower == PLACEMENT_GREATER || upper == PLACEMENT_LESS));
}

static bool ranges_conflict(const struct rule *lower, const struct rule *upper)
{
    if (!is_lower(lower->op) || !is_upper(upper->op)) {
        return false;
    }
    if (lower->is_number != upper->is_number) {
        return false; /* one is compared as text sometimes */
    }
    int order = lower->is_number
        ? (lower->number < upper->number ? -1 : lower->number > upper->number)
        : strcmp(lower->value, upper->value);
    return is_empty(order, lower->op, upper->op);
}

/* Bounds of two lists, or of one. */
static bool versions_conflict(const struct rule *a, const struct rule *b)
{
    for (size_t i = 0; i < a->bound_count; i++) {
        for (size_t k = 0; k < b->bound_count; k++) {
            const struct version_bound *lower = &a->bounds[i], *upper = &b->bounds[k];
            int order = version_compare(&lower->version, &upper->version);
            bool both_equal = lower->op == PLACEMENT_EQUAL && upper->op == PLACEMENT_EQUAL;
            bool from_below = (is_lower(lower->op) || lower->op == PLACEMENT_EQUAL) &&
                (is_upper(upper->op) || upper->op == PLACEMENT_EQUAL);
            if ((both_equal && order != 0) ||
                (!both_equal && from_below && is_empty(order, lower->op, upper->op))) {
                return true;
            }
        }
    }
    return false;
}

static bool conflict(const struct rule *a, const struct rule *b)
{
    if (a->op == PLACEMENT_EQUAL && !rule_is_distinct(b->op)) {
        return !rule_holds(b, a->value);
    }
    if (a->op == PLACEMENT_IS_NOT_SET) {
        return needs_it_set(b->op);
    }
    if (a->op == PLACEMENT_VERSION && b->op == PLACEMENT_VERSION) {
        return versions_conflict(a, b) || versions_conflict(b, a);
    }
    return ranges_conflict(a, b);
}

int rules_check(const struct placement_rules *rules, struct error *err)
{
    for (size_t i = 0; i < rules->constraint_count; i++) {
        const struct rule *a = &rules->constraints[i];
        if (a->op == PLACEMENT_VERSION && versions_conflict(a, a)) {
            return error_set(err, ERROR_INVALID,
                             "the constraint ${%s} version %s: no version is so", a->attribute,
                             a->value);
        }
        for (size_t k = 0; k < rules->constraint_count; k++) {
            const struct rule *b = &rules->constraints[k];
            if (i != k && strcmp(a->attribute, b->attribute) == 0 && conflict(a, b)) {
                const struct rule *first = i < k ? a : b, *second = i < k ? b : a;
                return error_set(
                    err, ERROR_INVALID,
                    "these constraints contradict each other: ${%s} %s %.100s and ${%s} %s %.100s",
                    first->attribute, placement_operator_name(first->op), first->value,
                    second->attribute, placement_operator_name(second->op), second->value);
            }
        }
    }
    return 0;
}
