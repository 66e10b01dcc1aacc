/* Decisions about machines: tables and pure functions.  See decide.h. */
#include "service/machine/decide.h"

#include <stddef.h>
#include <string.h>

#include "base/check.h"

enum { BACKOFF_FIRST_MS = 1000, BACKOFF_MOST_MS = 60000 };

static const char *const strategies[MACHINE_STRATEGIES] = {
    [MACHINE_ALWAYS] = "Always", [MACHINE_RERUN_ON_FAILURE] = "RerunOnFailure",
    [MACHINE_ONCE] = "Once",     [MACHINE_MANUAL] = "Manual",
    [MACHINE_HALTED] = "Halted",
};

static const char *const desireds[MACHINE_DESIREDS] = {
    [MACHINE_DESIRED_RUNNING] = "running",
    [MACHINE_DESIRED_PAUSED] = "paused",
    [MACHINE_DESIRED_STOPPED] = "stopped",
    [MACHINE_DESIRED_DELETED] = "deleted",
};

static const char *const states[MACHINE_STATES] = {
    [MACHINE_CREATING] = "creating", [MACHINE_PREPARING] = "preparing",
    [MACHINE_STOPPED] = "stopped",   [MACHINE_STARTING] = "starting",
    [MACHINE_RUNNING] = "running",   [MACHINE_PAUSED] = "paused",
    [MACHINE_STOPPING] = "stopping", [MACHINE_BACKOFF] = "backoff",
    [MACHINE_FAILED] = "failed",     [MACHINE_DELETING] = "deleting",
};

static bool parse(const char *const *texts, size_t count, const char *text, size_t *ret_index)
{
    for (size_t i = 0; i < count; i++) {
        if (strcmp(texts[i], text) == 0) {
            *ret_index = i;
            return true;
        }
    }
    return false;
}

bool machine_strategy_parse(const char *text, enum machine_strategy *ret_strategy)
{
    size_t index = 0;
    bool is_one = parse(strategies, MACHINE_STRATEGIES, text, &index);
    *ret_strategy = (enum machine_strategy)index;
    return is_one;
}

const char *machine_desired_text(enum machine_desired desired)
{
    return desireds[desired];
}

bool machine_desired_parse(const char *text, enum machine_desired *ret_desired)
{
    size_t index = 0;
    bool is_one = parse(desireds, MACHINE_DESIREDS, text, &index);
    *ret_desired = (enum machine_desired)index;
    return is_one;
}

const char *machine_state_text(enum machine_state state)
{
    return states[state];
}

bool machine_state_parse(const char *text, enum machine_state *ret_state)
{
    size_t index = 0;
    bool is_one = parse(states, MACHINE_STATES, text, &index);
    *ret_state = (enum machine_state)index;
    return is_one;
}

bool machine_state_is_alive(enum machine_state state)
{
    return state == MACHINE_STARTING || state == MACHINE_RUNNING || state == MACHINE_PAUSED ||
        state == MACHINE_STOPPING;
}

/* By what is wanted, then by what is. */
static const enum machine_action actions[MACHINE_DESIREDS][MACHINE_STATES] = {
    [MACHINE_DESIRED_RUNNING] = {[MACHINE_CREATING] = MACHINE_DO_PREPARE,
                                 [MACHINE_STOPPED] = MACHINE_DO_START,
                                 [MACHINE_PAUSED] = MACHINE_DO_RESUME},
    [MACHINE_DESIRED_PAUSED] = {[MACHINE_CREATING] = MACHINE_DO_PREPARE,
                                [MACHINE_STOPPED] = MACHINE_DO_START,
                                [MACHINE_RUNNING] = MACHINE_DO_PAUSE},
    /* One that is paused cannot go down in order before it runs again. */
    [MACHINE_DESIRED_STOPPED] = {[MACHINE_CREATING] = MACHINE_DO_PREPARE,
                                 [MACHINE_STARTING] = MACHINE_DO_KILL,
                                 [MACHINE_RUNNING] = MACHINE_DO_SHUT_DOWN,
                                 [MACHINE_PAUSED] = MACHINE_DO_RESUME,
                                 [MACHINE_BACKOFF] = MACHINE_DO_SETTLE,
                                 [MACHINE_FAILED] = MACHINE_DO_NOTHING},
    [MACHINE_DESIRED_DELETED] = {[MACHINE_CREATING] = MACHINE_DO_REMOVE,
                                 [MACHINE_STOPPED] = MACHINE_DO_REMOVE,
                                 [MACHINE_STARTING] = MACHINE_DO_KILL,
                                 [MACHINE_RUNNING] = MACHINE_DO_KILL,
                                 [MACHINE_PAUSED] = MACHINE_DO_KILL,
                                 [MACHINE_STOPPING] = MACHINE_DO_KILL,
                                 [MACHINE_BACKOFF] = MACHINE_DO_REMOVE,
                                 [MACHINE_FAILED] = MACHINE_DO_REMOVE},
};

enum machine_action machine_decide(enum machine_desired desired, enum machine_state state)
{
    CHECK(desired < MACHINE_DESIREDS && state < MACHINE_STATES);
    return actions[desired][state];
}

bool machine_is_settled(enum machine_desired desired, enum machine_state state)
{
    switch (desired) {
    case MACHINE_DESIRED_RUNNING:
        return state == MACHINE_RUNNING;
    case MACHINE_DESIRED_PAUSED:
        return state == MACHINE_PAUSED;
    case MACHINE_DESIRED_STOPPED:
        return state == MACHINE_STOPPED;
    case MACHINE_DESIRED_DELETED:
    case MACHINE_DESIREDS:
        break;
    }
    return false; /* what is deleted is not there any more */
}

bool machine_runs_again(enum machine_strategy strategy, enum machine_desired desired,
                        bool has_failed)
{
    if (desired == MACHINE_DESIRED_STOPPED || desired == MACHINE_DESIRED_DELETED) {
        return false;
    }
    return strategy == MACHINE_ALWAYS || (strategy == MACHINE_RERUN_ON_FAILURE && has_failed);
}

const char *machine_health_text(enum machine_health health)
{
    static const char *const texts[MACHINE_HEALTHS] = {
        [MACHINE_HEALTH_NONE] = "",
        [MACHINE_HEALTH_STARTING] = "starting",
        [MACHINE_HEALTH_HEALTHY] = "healthy",
        [MACHINE_HEALTH_UNHEALTHY] = "unhealthy",
    };
    CHECK(health < MACHINE_HEALTHS);
    return texts[health];
}

enum machine_health machine_health_after(enum machine_health health, bool is_good,
                                         unsigned failures, uint64_t age_ms,
                                         const struct machine_health_rule *rule)
{
    if (is_good) {
        return MACHINE_HEALTH_HEALTHY;
    }
    bool is_early = health == MACHINE_HEALTH_STARTING && age_ms < rule->start_period_ms;
    return is_early || failures < rule->retries ? health : MACHINE_HEALTH_UNHEALTHY;
}

uint64_t machine_backoff_ms(unsigned attempt)
{
    uint64_t wait_ms = BACKOFF_FIRST_MS;
    for (unsigned i = 1; i < attempt && wait_ms < BACKOFF_MOST_MS; i++) {
        wait_ms *= 2;
    }
    return wait_ms < BACKOFF_MOST_MS ? wait_ms : BACKOFF_MOST_MS;
}
