/*
 * A call of service/instance from any of the gateway's loops.
 *
 * On the instances' own loop it is a direct call; from another loop each step is posted, and what
 * the function does is posted back.  The same promises either way: events come on the home loop,
 * on_end once and last.  After on_end no step may be taken; after on_gone nothing
 * refers to the relay any more (steps taken before the end was known may still be under way).
 */
#ifndef SERVICE_GATEWAY_RELAY_H
#define SERVICE_GATEWAY_RELAY_H

#include "service/instance/instance.h"

/* Embedded in the gateway's call, which must live until on_gone. */
struct relay {
    struct instance_service *instances;
    struct loop *home;
    const struct instance_events *events;
    void (*on_gone)(void *context);
    void *context;
    bool is_local;
    /* Of the first output, for the head of a streamed answer; home loop. */
    bool has_place;
    uint64_t queue_ns;
    char instance[INSTANCE_NAME_SIZE];
    /* The instances' loop only. */
    struct instance_call *call;
    struct instance_invocation invocation;
};

/*
 * Begin.  What the invocation points to (but not its target, which is referenced) must stay until
 * on_gone.  A refusal is given at once (-ERROR_*, no events) when local, by on_end otherwise.
 */
int relay_start(struct relay *relay, const struct instance_invocation *invocation,
                struct error *err);

/* As instance_call_*(). */
bool relay_write(struct relay *relay, const void *bytes, size_t length);
void relay_finish_input(struct relay *relay);
void relay_pause(struct relay *relay);
void relay_resume(struct relay *relay);
void relay_cancel(struct relay *relay);

#endif
