/*
 * The pool's state and the small steps on it, shared by its three files: pool_parts.c (these),
 * pool_events.c (what happened) and pool.c (what to do).  Private to the pool; see pool.h.
 *
 * What must stay true (pool_check() has it as code):
 *   - a slot is either busy, or in exactly one of its runner's `empty` and its residency's `idle`;
 *   - a function is in the ring if and only if it has waiting calls and may run one more;
 *   - an image exists as long as a runner has it or a call waits for it.
 */
#ifndef SERVICE_INSTANCE_POOL_PARTS_H
#define SERVICE_INSTANCE_POOL_PARTS_H

#include "service/instance/pool.h"

enum runner_state {
    RUNNER_NONE,
    RUNNER_STARTING,
    RUNNER_ALIVE,
    RUNNER_BROKEN, /* a call said so; its death is on the way */
};

enum failure { FAILURE_NONE, FAILURE_WAIT, FAILURE_LOAD, FAILURE_START };

/* How much of the ring the next pool_next() must look at. */
enum walk { WALK_NOTHING, WALK_WHILE_IDLE, WALK_ALL };

struct pool_runner {
    enum runner_state state;
    unsigned busy;
    unsigned residency_count;
    uint64_t started_ms;
    uint64_t emptied_ms;     /* when a slot became empty last */
    struct list residencies; /* most recently used first */
    struct list empty;       /* slots without an image */
    struct list idle;        /* slots with one, most recently used first */
    struct pool_slot *slots;
};

/* An image in a runner. */
struct residency {
    struct list_node runner_link;
    struct list_node image_link;
    struct pool_runner *runner;
    struct pool_image *image;
    struct list idle; /* slots that hold it, most recently used first */
    unsigned busy;
    bool is_loaded;
};

struct pool_slot {
    struct list_node link; /* in runner->empty or residency->idle */
    struct list_node idle_link;
    struct pool_runner *runner;
    struct residency *residency;
    struct pool_call *call;
    unsigned streak;
    bool is_last; /* it ends with the call that runs */
    uint64_t calls;
    uint64_t attached_ms;
    uint64_t idle_ms; /* since when */
};

/* A version of a function: what it may run at once is its own, and so is its queue. */
struct pool_function {
    char *key;
    char *name;
    struct list queue;
    struct list_node ring_link;
    unsigned queued;
    unsigned running;
    unsigned concurrency_max;
    unsigned peak;  /* of queued and running, since pool_take_load() */
    uint64_t calls; /* since then */
};

struct pool {
    struct pool_options options;
    struct pool_runner runners[POOL_RUNNERS_MAX];
    struct map functions; /* by NAME and version */
    struct map images;    /* id -> first variant */
    struct list ring;     /* functions that wait and may run, the next one first */
    struct list prepares; /* calls of pool_prepare() */
    struct list failed;
    struct list forgotten;
    struct list orphans;
    unsigned alive;
    unsigned starting;
    unsigned waiting;
    unsigned busy;
    unsigned instances;

    enum walk walk;
    struct pool_function *arrived; /* look at this one first */
    struct pool_slot *again;       /* just idle, and `again_function` has more for it */
    struct pool_function *again_function;
    struct pool_image *released; /* freed by the next pool_next() */

    uint64_t now_ms;  /* the latest that was told */
    bool keeps_due;   /* what is kept is to be thought over */
    uint64_t keep_ms; /* when it will be */
    enum pool_pressure pressure;
    unsigned instances_max; /* of all images; 0: what the slots give */
    bool may_evict;         /* once per thought */
    struct pool_counts counts;

    uint64_t earliest_deadline_ms;
    unsigned deaths; /* short lives in a row */
    uint64_t start_not_before_ms;
    char death_text[160];
    struct error start_error;
    struct error wait_error;
    struct error load_error; /* of those that wait for an image that is being loaded */
};

/* Which waiting calls are to fail. */
struct failing {
    struct pool *pool;
    const struct pool_image *image; /* NULL: of any */
    uint64_t now_ms;                /* for FAILURE_WAIT */
    enum failure failure;
    uint64_t earliest_ms;
};

enum presence { PRESENCE_NONE, PRESENCE_LOADING, PRESENCE_LOADED };

void pool_free_function(const char *name, void *value, void *context);
void pool_free_released(struct pool *pool);
bool pool_runner_has_room(const struct pool *pool, const struct pool_runner *runner);
bool pool_has_room(const struct pool *pool);
bool pool_function_may_run(const struct pool_function *function);
void pool_ring_update(struct pool *pool, struct pool_function *function);
struct pool_call *pool_function_head(const struct pool_function *function);
struct pool_function *pool_function_find(struct pool *pool, const struct pool_request *request);
struct pool_image *pool_image_find(struct pool *pool, const struct pool_request *request);
struct pool_image *pool_image_look(const struct pool *pool, const struct pool_request *request);
bool pool_image_is_full(const struct pool_image *image);
void pool_slot_hold(struct pool *pool, struct pool_slot *slot, struct residency *residency);
void pool_slot_empty(struct pool *pool, struct pool_slot *slot);
bool pool_slot_is_old(const struct pool_slot *slot, uint64_t now_ms);
void pool_image_consider_orphan(struct pool *pool, struct pool_image *image);
void pool_image_remove(struct pool *pool, struct pool_image *image);
struct residency *pool_residency_find(const struct pool_image *image,
                                      const struct pool_runner *runner);
struct residency *pool_residency_new(struct pool_runner *runner, struct pool_image *image);
void pool_residency_free(struct pool *pool, struct residency *residency);
void pool_wait_end(struct pool *pool, struct pool_call *call);
void pool_fail_waiting(struct pool *pool, struct failing *failing);
enum presence pool_image_presence(const struct pool_image *image);
bool pool_is_full(const struct pool *pool); /* it has as many instances as it may */
struct pool_slot *pool_choose_slot(const struct pool *pool, const struct pool_image *image);
void pool_call_drop(struct pool *pool, struct pool_call *call);
void pool_runner_empty(struct pool *pool, struct pool_runner *runner, const char *reason);
bool pool_load_into(struct pool *pool, struct pool_runner *runner, struct pool_image *image,
                    struct pool_effect *ret_effect);
bool pool_start_runner(struct pool *pool, uint64_t now_ms, struct pool_effect *ret_effect);
void pool_end_runner(struct pool *pool, struct pool_runner *runner, struct pool_effect *ret_effect);
bool pool_bring_image(struct pool *pool, struct pool_image *image, bool may_grow, uint64_t now_ms,
                      struct pool_effect *ret_effect);
void pool_unload(struct pool *pool, struct residency *residency, struct pool_effect *ret_effect);

/* pool_keep.c: instances that nobody calls now. */
bool pool_next_keep(struct pool *pool, uint64_t now_ms, struct pool_effect *ret_effect);
void pool_cool(struct pool *pool, struct pool_slot *slot, struct pool_effect *ret_effect);

#endif
