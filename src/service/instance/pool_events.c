/* What happens to the pool: each event changes the state, and says how far pool_next() must look.
 */
#include <inttypes.h>
#include <stdio.h>

#include "base/check.h"

#include "service/instance/pool_parts.h"

static int refuse_while_dying(const struct pool *pool, uint64_t now_ms, struct error *err)
{
    if (pool->alive > 0 || pool->starting > 0 || now_ms >= pool->start_not_before_ms) {
        return 0;
    }
    return error_set(err, ERROR_OVERLOADED,
                     "this project has no runner now (%u failures in a row, the last: %s); the "
                     "next start is in %" PRIu64 " ms",
                     pool->deaths, pool->death_text, pool->start_not_before_ms - now_ms);
}

/*
 * Calls that only wait for the image to be loaded are not the function's queue yet: up to a
 * runner's slots (or what the function may run at once) come on top, or a function with a short
 * queue could never be called first.
 */
static int refuse_when_full(const struct pool *pool, const struct pool_function *function,
                            const struct pool_image *image, const struct pool_request *request,
                            struct error *err)
{
    unsigned bound = request->queue_max;
    if (pool_image_presence(image) != PRESENCE_LOADED) {
        unsigned extra = pool->options.slots_per_runner;
        if (request->concurrency_max > 0 && request->concurrency_max < extra) {
            extra = request->concurrency_max;
        }
        bound = bound > UINT32_MAX - extra ? UINT32_MAX : bound + extra;
    }
    if (function->queued < bound) {
        return 0;
    }
    if (function->queued == 0 && pool_function_may_run(function) &&
        pool_choose_slot(pool, image) != NULL) {
        return 0;
    }
    return error_set(err, ERROR_OVERLOADED,
                     "function %s has %u calls running and %u waiting, its queue_max; try again "
                     "later",
                     function->name, function->running, function->queued);
}

int pool_arrive(struct pool *pool, struct pool_call *call, const struct pool_request *request,
                uint64_t now_ms, struct error *err)
{
    CHECK(!list_contains_node(&call->link) && call->slot == NULL);

    int r = refuse_while_dying(pool, now_ms, err);
    if (r < 0) {
        return r;
    }
    struct pool_function *function = pool_function_find(pool, request);
    struct pool_image *image = pool_image_find(pool, request);
    pool->now_ms = now_ms;
    function->concurrency_max = request->concurrency_max;
    r = refuse_when_full(pool, function, image, request, err);
    if (r < 0) {
        pool_image_consider_orphan(pool, image);
        pool_ring_update(pool, function); /* concurrency_max may have changed */
        return r;
    }
    *call = (struct pool_call){
        .function = function,
        .image = image,
        .arrived_ms = now_ms,
        .deadline_ms =
            request->wait_ms_max > UINT64_MAX - now_ms ? UINT64_MAX : now_ms + request->wait_ms_max,
    };
    list_push_back(&function->queue, &call->link);
    function->queued++;
    function->calls++;
    function->peak = function->queued + function->running > function->peak
        ? function->queued + function->running
        : function->peak;
    pool->waiting++;
    image->waiting++;
    image->last_call_ms = now_ms;
    demand_note(&image->demand, image->busy + image->waiting, now_ms);
    if (call->deadline_ms < pool->earliest_deadline_ms) {
        pool->earliest_deadline_ms = call->deadline_ms;
    }
    pool_ring_update(pool, function);
    pool->arrived = function;
    return 0;
}

void pool_prepare(struct pool *pool, struct pool_call *call, const struct pool_request *request)
{
    struct pool_image *image = pool_image_find(pool, request);
    list_remove(&image->forgotten_link);
    *call = (struct pool_call){.image = image, .deadline_ms = UINT64_MAX};
    image->waiting++;
    list_push_back(&pool->prepares, &call->link);
    pool->walk = WALK_ALL;
}

/* What is said of an image; that nothing is known of one is nothing to be noted. */
static struct pool_image *image_for(struct pool *pool, const struct pool_request *request,
                                    bool is_said)
{
    struct pool_image *image =
        is_said ? pool_image_find(pool, request) : pool_image_look(pool, request);
    if (image != NULL && is_said) {
        list_remove(&image->forgotten_link);
    }
    pool->keeps_due = pool->keeps_due || image != NULL;
    return image;
}

struct pool_image *pool_want(struct pool *pool, const struct pool_request *request, bool is_wanted,
                             uint64_t now_ms)
{
    struct pool_image *image = image_for(pool, request, is_wanted);
    pool->now_ms = now_ms;
    if (image != NULL) {
        image->is_wanted = is_wanted;
        pool_image_consider_orphan(pool, image);
    }
    return image;
}

struct pool_image *pool_expect(struct pool *pool, const struct pool_request *request, bool is_known,
                               unsigned count, uint64_t now_ms)
{
    struct pool_image *image = image_for(pool, request, is_known);
    pool->now_ms = now_ms;
    if (image != NULL) {
        image->is_foreseen = is_known;
        image->foreseen = is_known ? count : 0;
        pool_image_consider_orphan(pool, image);
    }
    return image;
}

void pool_set_pressure(struct pool *pool, enum pool_pressure pressure)
{
    pool->pressure = pressure;
    pool->may_evict = pressure != POOL_PRESSURE_NONE;
    pool->keeps_due = pool->keeps_due || pool->may_evict;
}

void pool_set_instances_max(struct pool *pool, unsigned instances_max)
{
    if (pool->instances_max != instances_max) {
        pool->instances_max = instances_max;
        pool->keeps_due = true;
        pool->walk = WALK_ALL;
    }
}

void pool_cancel(struct pool *pool, struct pool_call *call)
{
    CHECK(call->slot == NULL && call->image != NULL);
    pool_wait_end(pool, call);
    pool_call_drop(pool, call);
    /* The call behind it may need something else. */
    pool->walk = WALK_ALL;
}

static void slot_give_back(struct pool *pool, struct pool_slot *slot)
{
    slot->call = NULL;
    slot->residency->busy--;
    slot->residency->image->busy--;
    slot->runner->busy--;
    pool->busy--;
    slot->idle_ms = pool->now_ms;
    slot->residency->image->last_call_ms = pool->now_ms;
    if (slot->is_last) {
        pool->counts.recycled++;
        pool_slot_empty(pool, slot);
        return;
    }
    list_push_front(&slot->residency->idle, &slot->link);
    list_push_front(&slot->runner->idle, &slot->idle_link);
}

void pool_ended(struct pool *pool, struct pool_call *call, bool is_broken, uint64_t now_ms)
{
    struct pool_slot *slot = call->slot;
    CHECK(slot != NULL && slot->call == call);
    pool->now_ms = now_ms;

    struct pool_function *function = call->function;
    slot_give_back(pool, slot);
    CHECK(function->running > 0);
    function->running--;
    pool_ring_update(pool, function);
    *call = (struct pool_call){0};

    if (is_broken && slot->runner->state == RUNNER_ALIVE) {
        slot->runner->state = RUNNER_BROKEN;
        pool->alive--;
        pool->walk = WALK_ALL;
        return;
    }
    pool->again = function->queued > 0 && slot->residency != NULL ? slot : NULL;
    pool->again_function = function;
    if (pool->walk == WALK_NOTHING) {
        pool->walk = WALK_WHILE_IDLE;
    }
}

void pool_loaded(struct pool *pool, unsigned runner, struct pool_image *image)
{
    struct residency *residency = pool_residency_find(image, &pool->runners[runner]);
    CHECK(residency != NULL && !residency->is_loaded);
    residency->is_loaded = true;
    pool->keeps_due = pool->keeps_due || image->settings.instances_min > 0;
    image->load_deaths = 0;
    pool->walk = WALK_ALL;
}

void pool_load_failed(struct pool *pool, unsigned runner, struct pool_image *image,
                      const struct error *error)
{
    struct residency *residency = pool_residency_find(image, &pool->runners[runner]);
    CHECK(residency != NULL && !residency->is_loaded);
    image->error = *error;
    pool_residency_free(pool, residency);
    /* Where it is loaded already, calls go on there. */
    if (pool_image_presence(image) != PRESENCE_LOADED) {
        pool_fail_waiting(pool, &(struct failing){.image = image, .failure = FAILURE_LOAD});
    }
    pool->walk = WALK_ALL;
}

void pool_runner_started(struct pool *pool, unsigned index, uint64_t now_ms)
{
    struct pool_runner *runner = &pool->runners[index];
    CHECK(runner->state == RUNNER_STARTING);
    runner->state = RUNNER_ALIVE;
    runner->started_ms = now_ms;
    runner->emptied_ms = now_ms;
    pool->starting--;
    pool->alive++;
    pool->keeps_due = true;
    pool->now_ms = now_ms;
    for (unsigned i = 0; i < pool->options.slots_per_runner; i++) {
        list_push_back(&runner->empty, &runner->slots[i].link);
    }
    pool->walk = WALK_ALL;
}

static void note_death(struct pool *pool, uint64_t lived_ms, const char *reason, uint64_t now_ms)
{
    pool->deaths = lived_ms < POOL_SHORT_LIFE_MS ? pool->deaths + 1 : 1;
    uint64_t delay_ms = 0;
    if (pool->deaths > 1) {
        unsigned doublings = pool->deaths - 2 < 16 ? pool->deaths - 2 : 16;
        delay_ms = (uint64_t)POOL_BACKOFF_MS << doublings;
        delay_ms = delay_ms < POOL_BACKOFF_MS_MAX ? delay_ms : POOL_BACKOFF_MS_MAX;
    }
    pool->start_not_before_ms = now_ms + delay_ms;
    snprintf(pool->death_text, sizeof(pool->death_text), "%.150s", reason);
}

void pool_runner_refused(struct pool *pool, unsigned index, const struct error *error,
                         uint64_t now_ms)
{
    struct pool_runner *runner = &pool->runners[index];
    CHECK(runner->state == RUNNER_STARTING);
    runner->state = RUNNER_NONE;
    pool->starting--;
    if (pool->deaths == 0) {
        pool->deaths = 1; /* what cannot start once will hardly start at once again */
    }
    note_death(pool, 0, error->text, now_ms);
    if (pool->alive == 0) {
        pool->start_error = *error;
        pool_fail_waiting(pool, &(struct failing){.failure = FAILURE_START});
    }
}

void pool_runner_died(struct pool *pool, unsigned index, const char *reason, uint64_t now_ms)
{
    struct pool_runner *runner = &pool->runners[index];
    CHECK(runner->state == RUNNER_ALIVE || runner->state == RUNNER_BROKEN);
    CHECK(runner->busy == 0);

    if (runner->state == RUNNER_ALIVE) {
        pool->alive--;
    }
    if (pool->again != NULL && pool->again->runner == runner) {
        pool->again = NULL;
    }
    note_death(pool, now_ms - runner->started_ms, reason, now_ms);
    pool_runner_empty(pool, runner, reason);
    pool->keeps_due = true;
    pool->walk = WALK_ALL;
}

static void collect_idle_function(const char *name, void *value, void *context)
{
    (void)name;
    struct pool_function *function = value;
    struct pool_function **first = context;
    if (function->queued == 0 && function->running == 0 && function->calls == 0 && *first == NULL) {
        *first = function;
    }
}

/* A deleted function leaves no trace, once its load was taken; one that lives is made anew by its
 * next call. */
static void drop_idle_functions(struct pool *pool)
{
    pool->again = NULL;
    for (;;) {
        struct pool_function *function = NULL;
        map_each(&pool->functions, collect_idle_function, &function);
        if (function == NULL) {
            return;
        }
        if (pool->arrived == function) {
            pool->arrived = NULL;
        }
        map_remove(&pool->functions, function->key);
        pool_free_function(NULL, function, NULL);
    }
}

void pool_forget(struct pool *pool, const struct pool_request *request)
{
    struct pool_image *image = pool_image_look(pool, request);
    if (image != NULL) {
        image->is_wanted = false;
        image->is_foreseen = false;
        pool_image_consider_orphan(pool, image);
        if (!list_contains_node(&image->forgotten_link)) {
            list_push_back(&pool->forgotten, &image->forgotten_link);
        }
    }
    drop_idle_functions(pool);
}

void pool_fail_all(struct pool *pool, const struct error *error)
{
    pool->start_error = *error;
    pool_fail_waiting(pool, &(struct failing){.failure = FAILURE_START});
}

void pool_tick(struct pool *pool, uint64_t now_ms)
{
    pool->now_ms = now_ms;
    if (now_ms >= pool->keep_ms) {
        pool->keeps_due = true;
    }
    if (now_ms >= pool->earliest_deadline_ms) {
        error_set(&pool->wait_error, ERROR_TIMEOUT,
                  "no instance became free within the function's timeout");
        error_set(&pool->load_error, ERROR_TIMEOUT,
                  "the function is still being loaded, which takes longer than its timeout: call "
                  "it again in a moment");
        pool_fail_waiting(pool, &(struct failing){.failure = FAILURE_WAIT, .now_ms = now_ms});
    }
    pool->walk = WALK_ALL;
}
