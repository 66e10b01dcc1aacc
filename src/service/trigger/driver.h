/*
 * Trigger drivers: where events come from.  One table of functions per kind; the framework
 * (trigger.h) decides when a trigger runs on this node, filters, transforms, batches, delivers,
 * retries and counts.
 *
 * A driver takes from its source only as much as there is room for: trigger_room() says how many
 * events may be pushed now, and `resume` is called when there is room again.  Each event that was
 * pushed is answered once, with what became of it, unless the trigger is stopped before: what has
 * no answer then is the source's again.
 *
 * Main loop thread.  Drivers are added before trigger_service_start().
 */
#ifndef SERVICE_TRIGGER_DRIVER_H
#define SERVICE_TRIGGER_DRIVER_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

struct error;
struct event;
struct store_command;
struct trigger_service;
struct trigger_source; /* one running trigger, as its driver sees it */

/* What became of an event. */
enum trigger_outcome {
    TRIGGER_DELIVERED, /* or filtered out: forget it */
    TRIGGER_DEAD,      /* given up: it is at the on-failure destination or counted as dropped */
    TRIGGER_FAILED,    /* only with retries_itself: give it back to the source, which retries */
    TRIGGER_RETURNED,  /* the function has no room, or the trigger is to end: the source's again */
};

struct trigger_plan {
    const char *key; /* PROJECT/NAME */
    const json_t *settings;
    const json_t *before; /* with which it goes on until then; NULL: it does not */
    uint64_t now_ms;
};

struct trigger_driver {
    const char *kind;
    /* The source delivers again by itself and gives up by itself (queues): a failure is answered
     * FAILED at once, and trigger_retry_delay_ms() says when it is to come again.  Otherwise the
     * framework retries with back-off as the trigger says, keeps the order within a key meanwhile,
     * and answers DELIVERED or DEAD. */
    bool retries_itself;
    /* Are these settings (an object; may be empty) good?  INVALID names the key.  No side effects;
     * called at create and before each start. */
    int (*check)(const json_t *settings, struct error *err);
    /* Add to the command that makes, changes or resumes a trigger, after its row; may be NULL.
     * INVALID: it is of no use (a schedule in the past). */
    int (*plan)(const struct trigger_plan *plan, struct store_command *command, void *context,
                struct error *err);
    /* Begin.  *ret_state is the driver's.  Failing, it is tried again later (30 s at most). */
    int (*start)(struct trigger_source *source, void *context, void **ret_state, struct error *err);
    /* End: no push after it, no answer comes after it.  Also at a pause, a change of the row, a
     * loss of the lease, and the end of the node. */
    void (*stop)(void *state);
    /* There is room again; may be NULL when the driver never fills it. */
    void (*resume)(void *state);
    /* How many events wait at the source; false: not known.  May be NULL. */
    bool (*lag)(void *state, uint64_t *ret_lag);
    /* "connected", "broker refused: ..." for people; may be NULL.  Lent. */
    const char *(*describe)(void *state);
};

void trigger_driver_add(struct trigger_service *service, const struct trigger_driver *driver,
                        void *context);

/* Of a source; lent until `stop`. */
const char *trigger_source_project(const struct trigger_source *source);
const char *trigger_source_name(const struct trigger_source *source);
const json_t *trigger_source_settings(const struct trigger_source *source);
uint64_t trigger_source_batch_size(const struct trigger_source *source);

/* How long to wait after a failed attempt, the `attempts`th of its event: longer each time, as the
 * trigger says, with chance in it. */
uint64_t trigger_retry_delay_ms(const struct trigger_source *source, uint64_t attempts);

/* How many events may be pushed now. */
uint64_t trigger_room(const struct trigger_source *source);

struct trigger_push {
    struct event *event;         /* moved out of: the framework's from now on */
    const struct error *refusal; /* why it cannot be delivered: it is given up at once; or NULL */
    const char *order; /* events of one order are delivered one batch at a time, in order; NULL:
                          in any order.  Copied. */
    /* Later, once, unless `stop` comes before.  `reason` is lent, NULL when it went well. */
    void (*done)(enum trigger_outcome outcome, const struct error *reason, void *context);
    void *context;
};

/* More than there is room for is taken too, but should not be. */
void trigger_push(struct trigger_source *source, const struct trigger_push *push);

/* What was pushed with this context is not to be delivered any more, and has no answer.  False: it
 * is not on its way. */
bool trigger_cancel(struct trigger_source *source, const void *context);

/* Something is wrong, or well again (NULL), at the source: shown by `trigger get`. */
void trigger_source_problem(struct trigger_source *source, const char *text_or_null);

#endif
