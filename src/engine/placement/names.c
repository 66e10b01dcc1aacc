/* The words of placement, as they are written in JSON, options and reasons. */
#include <string.h>

#include "base/check.h"
#include "base/error.h"

#include "engine/placement/placement.h"

const char *placement_operator_name(enum placement_operator op)
{
    static const char *const names[PLACEMENT_OPERATOR_COUNT] = {
        [PLACEMENT_EQUAL] = "=",
        [PLACEMENT_NOT_EQUAL] = "!=",
        [PLACEMENT_GREATER] = ">",
        [PLACEMENT_GREATER_EQUAL] = ">=",
        [PLACEMENT_LESS] = "<",
        [PLACEMENT_LESS_EQUAL] = "<=",
        [PLACEMENT_REGEXP] = "regexp",
        [PLACEMENT_VERSION] = "version",
        [PLACEMENT_SET_CONTAINS] = "set_contains",
        [PLACEMENT_SET_CONTAINS_ANY] = "set_contains_any",
        [PLACEMENT_IS_SET] = "is_set",
        [PLACEMENT_IS_NOT_SET] = "is_not_set",
        [PLACEMENT_DISTINCT_HOSTS] = "distinct_hosts",
        [PLACEMENT_DISTINCT_PROPERTY] = "distinct_property",
    };
    CHECK(op < PLACEMENT_OPERATOR_COUNT);
    return names[op];
}

const char *placement_effect_name(enum placement_effect effect)
{
    static const char *const names[] = {
        [PLACEMENT_ANY_EFFECT] = "",
        [PLACEMENT_NO_SCHEDULE] = "NoSchedule",
        [PLACEMENT_PREFER_NO_SCHEDULE] = "PreferNoSchedule",
        [PLACEMENT_NO_EXECUTE] = "NoExecute",
    };
    CHECK(effect <= PLACEMENT_NO_EXECUTE);
    return names[effect];
}

const char *placement_resource_name(enum placement_resource resource)
{
    static const char *const names[PLACEMENT_RESOURCE_COUNT] = {
        [PLACEMENT_CPU_MILLI] = "cpu",
        [PLACEMENT_MEMORY] = "memory",
        [PLACEMENT_DISK] = "disk",
        [PLACEMENT_HUGE_2M] = "hugepages-2m",
        [PLACEMENT_HUGE_1G] = "hugepages-1g",
        [PLACEMENT_ADDRESSES] = "addresses",
        [PLACEMENT_SLOTS] = "slots",
    };
    CHECK(resource < PLACEMENT_RESOURCE_COUNT);
    return names[resource];
}

static const char *const strategy_names[PLACEMENT_STRATEGY_COUNT] = {
    [PLACEMENT_BINPACK] = "binpack",       [PLACEMENT_SPREAD] = "spread",
    [PLACEMENT_BALANCED] = "balanced",     [PLACEMENT_LEAST_COST] = "least-cost",
    [PLACEMENT_DATA_LOCAL] = "data-local",
};

const char *placement_strategy_name(enum placement_strategy strategy)
{
    CHECK(strategy < PLACEMENT_STRATEGY_COUNT);
    return strategy_names[strategy];
}

int placement_strategy_parse(const char *name, enum placement_strategy *ret, struct error *err)
{
    for (enum placement_strategy i = 0; i < PLACEMENT_STRATEGY_COUNT; i++) {
        if (strcmp(strategy_names[i], name) == 0) {
            *ret = i;
            return 0;
        }
    }
    return error_set(
        err, ERROR_INVALID,
        "%.64s is no placement strategy: binpack, spread, balanced, least-cost or data-local",
        name);
}

const char *placement_part_name(enum placement_part part)
{
    static const char *const names[PLACEMENT_PART_COUNT] = {
        [PLACEMENT_PART_FIT] = "fit",           [PLACEMENT_PART_SHAPE] = "shape",
        [PLACEMENT_PART_AFFINITY] = "affinity", [PLACEMENT_PART_SPREAD] = "spread",
        [PLACEMENT_PART_GROUP] = "group",       [PLACEMENT_PART_LOCAL] = "local",
        [PLACEMENT_PART_COST] = "cost",         [PLACEMENT_PART_TAINT] = "taint",
        [PLACEMENT_PART_LOAD] = "load",         [PLACEMENT_PART_AVOID] = "avoid",
        [PLACEMENT_PART_NUMA] = "numa",         [PLACEMENT_PART_TRAFFIC] = "traffic",
    };
    CHECK(part < PLACEMENT_PART_COUNT);
    return names[part];
}

const char *placement_filter_name(enum placement_filter filter)
{
    static const char *const names[PLACEMENT_FILTER_COUNT] = {
        [PLACEMENT_PASSED] = "passed",
        [PLACEMENT_NOT_READY] = "not-ready",
        [PLACEMENT_NOT_ELIGIBLE] = "cordoned",
        [PLACEMENT_POOL] = "pool",
        [PLACEMENT_TAINT] = "taint",
        [PLACEMENT_CONSTRAINT] = "constraint",
        [PLACEMENT_DISTINCT] = "distinct",
        [PLACEMENT_GROUP] = "placement-group",
        [PLACEMENT_HELD] = "held",
        [PLACEMENT_RESOURCE] = "resources",
        [PLACEMENT_NUMA] = "numa",
        [PLACEMENT_DEVICE] = "device",
        [PLACEMENT_PORT] = "port",
    };
    CHECK(filter < PLACEMENT_FILTER_COUNT);
    return names[filter];
}
