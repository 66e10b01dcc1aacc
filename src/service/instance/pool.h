/*
 * The pool of one project, as a pure policy: which call runs on which slot of which runner, what is
 * loaded where, when a runner is started or ended, who is refused.
 *
 * No clock, no process, no socket.  Events are functions (pool_arrive() ...); they change the state
 * and nothing else.  Then pool_next() is asked, again and again until it returns false, what is to
 * be done; the effect counts as done when it was returned.  Time is an argument, and never goes
 * back.
 *
 *   - A slot runs one call at a time.
 *   - Calls of one version of a function start in the order they came, and wait for none of another
 *     one, which has a concurrency_max and a queue_max of its own.  Versions with waiting calls
 *     take turns; a slot that just ran a call of one may run POOL_STREAK_MAX more of it while
 *     others wait, because a warm start is cheaper than a cold one.
 *   - A call gets: the most recently used idle slot that holds its image, else an empty one, else
 *     the one that has been idle for longest.
 *   - An image has at most its instances_max slots; beyond that its calls wait for one of them.
 *   - Instances are kept warm as demand.h has learnt, at least instances_min, until nothing was
 *     called for idle_ms; or as was foreseen (pool_expect()), however long ago the last call was.
 *   - An instance that has served recycle_calls calls, or is older than recycle_ms, begins anew;
 *     what has state does before the call that finds it too old.
 *   - Under memory pressure idle ones go, those beyond instances_min first.
 *   - Versions and functions with the same image, limits and settings have their instances in
 *     common; but what has state (is_sticky) or a bound (instances_min, instances_max) is one
 *     version's of one function.
 *   - A runner is started when there is none, when all slots have been busy for a while, or when
 *     what is to be kept has no room.  It ends when it had no instance for POOL_SURPLUS_MS and
 *     others have what it has loaded, or when no image is left.
 *   - Calls that had not started survive the death of a runner.
 *
 * The structs are the pool's own affair but for the fields said to be the caller's.
 */
#ifndef SERVICE_INSTANCE_POOL_H
#define SERVICE_INSTANCE_POOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/list.h"
#include "base/map.h"

#include "engine/vmm/vmm.h"

#include "service/instance/demand.h"

enum {
    POOL_RUNNERS_MAX = 256, /* as the option runners_max has it */
    POOL_SLOTS_MAX = 64,    /* per runner */
    POOL_IMAGES_MAX = 256,  /* loaded in one runner; beyond it the least recently used goes */
    POOL_STREAK_MAX = 8,    /* warm calls in a row while other functions wait */
    POOL_LOAD_ATTEMPTS = 2, /* runners that may die while loading an image, before it is blamed */
    POOL_SHORT_LIFE_MS = 10000, /* a runner that dies younger makes the next one wait */
    POOL_BACKOFF_MS = 200,      /* before the third start in a row; doubled for each further */
    POOL_BACKOFF_MS_MAX = 10000,
    POOL_KEEP_MS = 5000,     /* how often what is kept warm is thought over */
    POOL_SURPLUS_MS = 10000, /* what is beyond what was learnt goes when it was idle for so long,
                              * and so does a runner without instances */
    POOL_GROW_MS = 100, /* a call must have waited so long for one more runner to be worth it */
};

struct pool_options {
    unsigned slots_per_runner; /* 1..POOL_SLOTS_MAX */
    unsigned runners_max;      /* 1..POOL_RUNNERS_MAX */
};

struct pool_function;
struct pool_slot;

/* How instances of an image are kept; zeroed: no bounds, until somebody needs their slots. */
struct pool_settings {
    bool is_sticky;         /* memory is kept from one call to the next */
    unsigned instances_min; /* there before anybody calls */
    unsigned instances_max; /* 0: what the slots give */
    uint64_t idle_ms;       /* 0: no end */
    uint64_t recycle_calls; /* 0: never */
    uint64_t recycle_ms;    /* 0: never */
};

/* How short memory is on the node. */
enum pool_pressure { POOL_PRESSURE_NONE, POOL_PRESSURE_SOME, POOL_PRESSURE_HIGH };

/* An image with the limits it is loaded with, and how it is kept: the same code with others is
 * another one. */
struct pool_image {
    void *user; /* the caller's, set when it finds it NULL after an event that names the image */

    char *id;
    struct vmm_limits limits;
    char *owner; /* "FUNCTION:VERSION"; "": it may be in common */
    struct pool_settings settings;
    struct demand demand;
    unsigned instances; /* slots that hold it, idle or busy */
    unsigned busy;
    bool is_wanted;    /* pool_want(): instances_min holds */
    bool is_foreseen;  /* pool_expect(): of what comes is known: */
    unsigned foreseen; /* so many at once */
    unsigned learnt;   /* from the past, when it was last thought over */
    uint64_t last_call_ms;
    struct pool_image *next_variant; /* same id, other limits, settings or owner */
    struct list residencies;         /* the runners that have it, or are loading it */
    struct list_node forgotten_link;
    struct list_node orphan_link;
    unsigned waiting; /* calls that hold on to it and have not started */
    unsigned load_deaths;
    struct error error; /* why the last load failed */
};

/* Embedded in the caller's call; zeroed before its first use. */
struct pool_call {
    struct list_node link;
    struct pool_function *function;
    struct pool_image *image;
    struct pool_slot *slot;
    uint64_t arrived_ms;
    uint64_t deadline_ms;
    int failure;
};

struct pool_request {
    const char *function;
    const char *image_id;
    struct vmm_limits limits;
    uint64_t version;
    struct pool_settings settings;
    unsigned concurrency_max; /* 0: what the slots give */
    unsigned queue_max;
    uint64_t wait_ms_max;
};

enum pool_effect_kind {
    POOL_START_RUNNER, /* then pool_runner_started() or pool_runner_refused() */
    POOL_END_RUNNER, /* `runner` is idle and not wanted: it is forgotten, with what it had loaded */
    POOL_LOAD,       /* `image` into `runner`; then pool_loaded() or pool_load_failed() */
    POOL_UNLOAD,     /* nobody uses `image` on `runner` */
    POOL_RELEASE,    /* `image` is gone for the pool: free image->user, nothing else */
    POOL_INVOKE,     /* `call` on `slot` of `runner`; then pool_ended() */
    POOL_WARM,       /* make `slot` of `runner` an instance of `image`, without a call */
    POOL_COOL,       /* `slot` of `runner` holds nothing any more: give its memory back */
    POOL_FAIL,       /* `call` was waiting and ends with `error` */
    POOL_PREPARED,   /* `call`, from pool_prepare(): `image` is loaded, or `error` says why not */
};

struct pool_effect {
    enum pool_effect_kind kind;
    unsigned runner;
    unsigned slot;
    bool is_warm;
    bool is_last; /* of POOL_INVOKE: the instance ends with the call */
    struct pool_image *image;
    struct pool_call *call;
    const struct error *error; /* valid until the next call of the pool */
};

struct pool;

struct pool *pool_new(const struct pool_options *options);
/* Calls still known are dropped: end them first.  Images' `user` is handed to `release`. */
void pool_free(struct pool *pool, void (*release)(struct pool_image *image));

/* ---- Events ---- */

/* A call.  OVERLOADED when the queue is full, or the project's runner keeps dying. */
int pool_arrive(struct pool *pool, struct pool_call *call, const struct pool_request *request,
                uint64_t now_ms, struct error *err);

/* Load without a call.  Ends by POOL_PREPARED. */
void pool_prepare(struct pool *pool, struct pool_call *call, const struct pool_request *request);

/* A version that is to have its instances_min, or not any more.  NULL: none that is known. */
struct pool_image *pool_want(struct pool *pool, const struct pool_request *request, bool is_wanted,
                             uint64_t now_ms);

/* So many calls at once are foreseen: instances are there for them, and not for what demand.h has
 * learnt.  Until it is said anew; `is_known` false takes it back.  NULL: none that is known. */
struct pool_image *pool_expect(struct pool *pool, const struct pool_request *request, bool is_known,
                               unsigned count, uint64_t now_ms);

/* At most so many instances, of all images; 0: what the slots give.  What is beyond it stays, until
 * it is not needed; calls that would make another one wait, or take an idle one's place. */
void pool_set_instances_max(struct pool *pool, unsigned instances_max);

/* How short memory is now. */
void pool_set_pressure(struct pool *pool, enum pool_pressure pressure);

/* A call that has not started is taken out again. */
void pool_cancel(struct pool *pool, struct pool_call *call);

/* A started call has ended.  `is_broken`: the runner failed, do not use it until it is replaced. */
void pool_ended(struct pool *pool, struct pool_call *call, bool is_broken, uint64_t now_ms);

void pool_loaded(struct pool *pool, unsigned runner, struct pool_image *image);
void pool_load_failed(struct pool *pool, unsigned runner, struct pool_image *image,
                      const struct error *error);

void pool_runner_started(struct pool *pool, unsigned runner, uint64_t now_ms);
void pool_runner_refused(struct pool *pool, unsigned runner, const struct error *error,
                         uint64_t now_ms);
/* Its calls have ended before, by pool_ended(). */
void pool_runner_died(struct pool *pool, unsigned runner, const char *reason, uint64_t now_ms);

/* Nobody has what is asked for here any more: it goes when its calls have ended, unless it is
 * prepared, wanted or foreseen again. */
void pool_forget(struct pool *pool, const struct pool_request *request);

/* Do both have their instances in common? */
bool pool_requests_share(const struct pool_request *a, const struct pool_request *b);

/* Everything that waits fails with `error`. */
void pool_fail_all(struct pool *pool, const struct error *error);

/* Time has come: see pool_wake_ms(). */
void pool_tick(struct pool *pool, uint64_t now_ms);

/* ---- What to do ---- */

bool pool_next(struct pool *pool, uint64_t now_ms, struct pool_effect *ret_effect);

/* When to call pool_tick(); UINT64_MAX: nothing to wait for. */
uint64_t pool_wake_ms(const struct pool *pool);

/* ---- Facts ---- */

static inline bool pool_call_has_started(const struct pool_call *call)
{
    return call->slot != NULL;
}

/* No runner, no image, no call: nothing would be lost with it. */
bool pool_is_empty(const struct pool *pool);
unsigned pool_waiting(const struct pool *pool);
unsigned pool_busy(const struct pool *pool);
unsigned pool_instances(const struct pool *pool); /* slots that hold an image */
/* Since the beginning. */
struct pool_counts {
    uint64_t warm; /* calls that found an instance */
    uint64_t cold; /* calls for which one was made */
    uint64_t
        foreseen;     /* calls that found one because they were foreseen, and else would not have */
    uint64_t warmed;  /* instances made before a call */
    uint64_t cooled;  /* instances that ended because nobody needed them */
    uint64_t evicted; /* under memory pressure */
    uint64_t recycled;
};
const struct pool_counts *pool_counts(const struct pool *pool);

/* What each version of a function had since this was asked before: the most calls at once, waiting
 * and running, and how many came. */
void pool_take_load(struct pool *pool,
                    void (*visit)(const char *function, unsigned peak, uint64_t calls,
                                  void *context),
                    void *context);

/* How it stands with a version of a function. */
struct pool_look {
    unsigned running; /* calls */
    unsigned waiting;
    unsigned idle; /* instances that it may use; others may, too, where they are in common */
    const struct pool_image *image; /* NULL: none is known */
};
void pool_look(const struct pool *pool, const struct pool_request *request,
               struct pool_look *ret_look);

unsigned pool_runner_busy(const struct pool *pool, unsigned runner);
unsigned pool_runner_images(const struct pool *pool, unsigned runner);

/* CHECKs everything that must hold between the parts; walks all of it, for tests. */
void pool_check(const struct pool *pool);

#endif
