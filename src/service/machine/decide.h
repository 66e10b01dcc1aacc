/*
 * What is to be done with a machine next: pure functions of what is wanted and what is.
 *
 * Run strategies are those of KubeVirt: Always (it runs again whatever ended it), RerunOnFailure
 * (unless the guest powered off), Once (it runs to its end), Manual (only people start it, not even
 * the node's start), Halted (it is made, and not started).
 */
#ifndef SERVICE_MACHINE_DECIDE_H
#define SERVICE_MACHINE_DECIDE_H

#include <stdbool.h>
#include <stdint.h>

enum machine_strategy {
    MACHINE_ALWAYS,
    MACHINE_RERUN_ON_FAILURE,
    MACHINE_ONCE,
    MACHINE_MANUAL,
    MACHINE_HALTED,
    MACHINE_STRATEGIES,
};
/* False: there is none of this name. */
bool machine_strategy_parse(const char *text, enum machine_strategy *ret_strategy);

enum machine_desired {
    MACHINE_DESIRED_RUNNING,
    MACHINE_DESIRED_PAUSED,
    MACHINE_DESIRED_STOPPED,
    MACHINE_DESIRED_DELETED,
    MACHINE_DESIREDS,
};
const char *machine_desired_text(enum machine_desired desired);
bool machine_desired_parse(const char *text, enum machine_desired *ret_desired);

enum machine_state {
    MACHINE_CREATING,  /* its disks are not there yet */
    MACHINE_PREPARING, /* they are being made */
    MACHINE_STOPPED,
    MACHINE_STARTING, /* its VMM is; the agent has not spoken yet */
    MACHINE_RUNNING,
    MACHINE_PAUSED,
    MACHINE_STOPPING,
    MACHINE_BACKOFF, /* it failed, and is started again in a moment */
    MACHINE_FAILED,  /* it could not be made or started, and is not tried again by itself */
    MACHINE_DELETING,
    MACHINE_STATES,
};
const char *machine_state_text(enum machine_state state);
bool machine_state_parse(const char *text, enum machine_state *ret_state);

/* Does a VMM run in this state? */
bool machine_state_is_alive(enum machine_state state);

enum machine_action {
    MACHINE_DO_NOTHING, /* it is as wanted, or what is under way has to end first */
    MACHINE_DO_PREPARE,
    MACHINE_DO_START,
    MACHINE_DO_PAUSE,
    MACHINE_DO_RESUME,
    MACHINE_DO_SHUT_DOWN,
    MACHINE_DO_KILL,
    MACHINE_DO_SETTLE, /* it is stopped, and stays so */
    MACHINE_DO_REMOVE,
};
enum machine_action machine_decide(enum machine_desired desired, enum machine_state state);

/* Has it come to where it is wanted? */
bool machine_is_settled(enum machine_desired desired, enum machine_state state);

/* Its VMM has ended by itself: is it started again?  False: it is stopped now, as wanted. */
bool machine_runs_again(enum machine_strategy strategy, enum machine_desired desired,
                        bool has_failed);

/* Health, where it is checked. */
enum machine_health {
    MACHINE_HEALTH_NONE,     /* it is not checked, or does not run */
    MACHINE_HEALTH_STARTING, /* no check was good yet */
    MACHINE_HEALTH_HEALTHY,
    MACHINE_HEALTH_UNHEALTHY,
    MACHINE_HEALTHS,
};
const char *machine_health_text(enum machine_health health); /* NONE: "" */

struct machine_health_rule {
    unsigned retries;         /* so many bad checks in a row make it unhealthy */
    uint64_t start_period_ms; /* which do not count so long, until the first good one */
};

/* After a check; `failures` in a row with this one, `age_ms` since the checks began. */
enum machine_health machine_health_after(enum machine_health health, bool is_good,
                                         unsigned failures, uint64_t age_ms,
                                         const struct machine_health_rule *rule);

/* Which wait comes before the `attempt`-th start in a row (from 1): 1 s, doubled up to 60 s. */
uint64_t machine_backoff_ms(unsigned attempt);

#endif
