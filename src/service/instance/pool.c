/* What the pool does next, and facts about it.  See pool.h. */
#include "base/check.h"

#include "service/instance/pool_parts.h"

static unsigned runner_index(const struct pool *pool, const struct pool_runner *runner)
{
    return (unsigned)(runner - pool->runners);
}

/* ---- What to do ---- */

static void slot_take(struct pool *pool, struct pool_slot *slot, struct pool_image *image)
{
    CHECK(slot->call == NULL && list_contains_node(&slot->link));

    list_remove(&slot->link);
    list_remove(&slot->idle_link);
    struct residency *residency = pool_residency_find(image, slot->runner);
    CHECK(residency != NULL && residency->is_loaded);
    if (slot->residency != residency) {
        pool_slot_hold(pool, slot, residency);
    }
    residency->busy++;
    image->busy++;
    slot->runner->busy++;
    pool->busy++;
    list_remove(&slot->residency->runner_link);
    list_push_front(&slot->runner->residencies, &slot->residency->runner_link);
}

static void start_call(struct pool *pool, struct pool_slot *slot, struct pool_call *call,
                       struct pool_effect *ret_effect)
{
    struct pool_function *function = call->function;
    const struct pool_settings *settings = &call->image->settings;
    bool is_warm = slot->residency != NULL && slot->residency->image == call->image;

    pool_wait_end(pool, call);
    CHECK(call->image->waiting > 0);
    call->image->waiting--;
    /* Who learns from the past alone has what is busy, what it has learnt, and what was used a
     * moment ago. */
    bool is_foreseen = is_warm && call->image->is_foreseen &&
        call->image->busy >= call->image->learnt && call->image->busy >= settings->instances_min &&
        (slot->calls == 0 || pool->now_ms - slot->idle_ms >= POOL_SURPLUS_MS);
    slot_take(pool, slot, call->image);
    slot->call = call;
    call->slot = slot;
    slot->calls++;
    slot->is_last = (settings->recycle_calls > 0 && slot->calls >= settings->recycle_calls) ||
        pool_slot_is_old(slot, pool->now_ms);
    pool->counts.warm += is_warm;
    pool->counts.cold += !is_warm;
    pool->counts.foreseen += is_foreseen;
    pool->keeps_due = pool->keeps_due || pool->keep_ms == UINT64_MAX;
    function->running++;
    list_remove(&function->ring_link); /* to the end of the ring: the others are next */
    pool_ring_update(pool, function);
    *ret_effect = (struct pool_effect){
        .kind = POOL_INVOKE,
        .runner = runner_index(pool, slot->runner),
        .slot = (unsigned)(slot - slot->runner->slots),
        .is_warm = is_warm,
        .is_last = slot->is_last,
        .image = call->image,
        .call = call,
    };
}

static bool next_failed(struct pool *pool, struct pool_effect *ret_effect)
{
    struct pool_call *call = LIST_FIRST(&pool->failed, struct pool_call, link);
    if (call == NULL) {
        return false;
    }
    const struct error *error = pool_image_presence(call->image) == PRESENCE_LOADING
        ? &pool->load_error
        : &pool->wait_error;
    if (call->failure == FAILURE_LOAD) {
        error = &call->image->error;
    } else if (call->failure == FAILURE_START) {
        error = &pool->start_error;
    }
    *ret_effect = (struct pool_effect){
        .kind = call->function != NULL ? POOL_FAIL : POOL_PREPARED,
        .call = call,
        .error = error,
    };
    list_remove(&call->link);
    pool_call_drop(pool, call);
    return true;
}

void pool_unload(struct pool *pool, struct residency *residency, struct pool_effect *ret_effect)
{
    *ret_effect = (struct pool_effect){
        .kind = POOL_UNLOAD,
        .runner = runner_index(pool, residency->runner),
        .image = residency->image,
    };
    if (pool->again != NULL && pool->again->residency == residency) {
        pool->again = NULL;
    }
    pool_residency_free(pool, residency);
}

static bool next_forgotten(struct pool *pool, struct pool_effect *ret_effect)
{
    LIST_EACH(node, &pool->forgotten)
    {
        struct pool_image *image = LIST_ITEM(node, struct pool_image, forgotten_link);
        if (image->waiting > 0) {
            continue;
        }
        LIST_EACH(inner, &image->residencies)
        {
            struct residency *residency = LIST_ITEM(inner, struct residency, image_link);
            if (residency->is_loaded && residency->busy == 0) {
                pool_unload(pool, residency, ret_effect);
                return true;
            }
        }
    }
    return false;
}

/* No call is to find memory that is older than its function wants it; where none is kept from one
 * call to the next, the call that notices goes first. */
static bool is_stale(const struct pool *pool, const struct pool_slot *slot,
                     const struct pool_image *image)
{
    return slot->residency != NULL && slot->residency->image == image &&
        image->settings.is_sticky && pool_slot_is_old(slot, pool->now_ms);
}

/* The slot that just became idle goes on with its function, if that is not too greedy. */
static bool next_again(struct pool *pool, struct pool_effect *ret_effect)
{
    struct pool_slot *slot = pool->again;
    pool->again = NULL;
    if (slot == NULL || slot->call != NULL || slot->streak >= POOL_STREAK_MAX ||
        slot->runner->state != RUNNER_ALIVE) {
        return false;
    }
    struct pool_function *function = pool->again_function;
    struct pool_call *call = pool_function_head(function);
    if (!list_contains_node(&function->ring_link) || call->image != slot->residency->image ||
        is_stale(pool, slot, call->image)) {
        return false;
    }
    slot->streak++;
    start_call(pool, slot, call, ret_effect);
    return true;
}

/* The image to make room with: not used, and least recently so. */
static struct residency *choose_unload(const struct pool_runner *runner)
{
    for (struct list_node *node = runner->residencies.head.previous;
         node != &runner->residencies.head; node = node->previous) {
        struct residency *residency = LIST_ITEM(node, struct residency, runner_link);
        if (residency->is_loaded && residency->busy == 0) {
            return residency;
        }
    }
    return NULL;
}

bool pool_load_into(struct pool *pool, struct pool_runner *runner, struct pool_image *image,
                    struct pool_effect *ret_effect)
{
    if (runner->residency_count >= POOL_IMAGES_MAX) {
        struct residency *victim = choose_unload(runner);
        if (victim == NULL) {
            return false;
        }
        pool_unload(pool, victim, ret_effect);
        return true;
    }
    pool_residency_new(runner, image);
    *ret_effect = (struct pool_effect){
        .kind = POOL_LOAD, .runner = runner_index(pool, runner), .image = image};
    return true;
}

/* One after the other; -1: none. */
static int runner_to_start(const struct pool *pool)
{
    for (unsigned i = 0; pool->starting == 0 && i < pool->options.runners_max; i++) {
        if (pool->runners[i].state == RUNNER_NONE) {
            return (int)i;
        }
    }
    return -1;
}

bool pool_start_runner(struct pool *pool, uint64_t now_ms, struct pool_effect *ret_effect)
{
    int index = runner_to_start(pool);
    if (index < 0 || now_ms < pool->start_not_before_ms) {
        return false;
    }
    pool->runners[index].state = RUNNER_STARTING;
    pool->starting++;
    *ret_effect = (struct pool_effect){.kind = POOL_START_RUNNER, .runner = (unsigned)index};
    return true;
}

/*
 * Bring the image nearer to a slot: load it where there is room, or, when it is nowhere, anywhere;
 * or start a runner.
 */
bool pool_bring_image(struct pool *pool, struct pool_image *image, bool may_grow, uint64_t now_ms,
                      struct pool_effect *ret_effect)
{
    struct pool_runner *target = NULL;
    for (unsigned i = 0; i < pool->options.runners_max; i++) {
        struct pool_runner *runner = &pool->runners[i];
        if (runner->state != RUNNER_ALIVE) {
            continue;
        }
        bool has_it = pool_residency_find(image, runner) != NULL;
        if (has_it && pool_runner_has_room(pool, runner)) {
            return false; /* it is being loaded there: wait */
        }
        if (!has_it && (target == NULL || runner->busy < target->busy)) {
            target = runner;
        }
    }
    if (target != NULL &&
        (pool_runner_has_room(pool, target) || pool_image_presence(image) == PRESENCE_NONE)) {
        return pool_load_into(pool, target, image, ret_effect);
    }
    if (pool->alive == 0 || (may_grow && !pool_has_room(pool))) {
        return pool_start_runner(pool, now_ms, ret_effect);
    }
    return false;
}

static bool next_of_function(struct pool *pool, struct pool_function *function, uint64_t now_ms,
                             struct pool_effect *ret_effect)
{
    struct pool_call *call = pool_function_head(function);
    struct pool_slot *slot = pool_choose_slot(pool, call->image);
    if (slot != NULL && is_stale(pool, slot, call->image)) {
        pool->counts.recycled++;
        pool_cool(pool, slot, ret_effect);
        return true;
    }
    if (slot != NULL) {
        slot->streak = 0;
        start_call(pool, slot, call, ret_effect);
        return true;
    }
    if (pool_image_is_full(call->image)) {
        return false; /* one of its own will end */
    }
    bool may_grow = now_ms - call->arrived_ms >= POOL_GROW_MS && !pool_is_full(pool);
    return pool_bring_image(pool, call->image, may_grow, now_ms, ret_effect);
}

static bool next_arrived(struct pool *pool, uint64_t now_ms, struct pool_effect *ret_effect)
{
    struct pool_function *function = pool->arrived;
    pool->arrived = NULL;
    if (function == NULL || !list_contains_node(&function->ring_link)) {
        return false;
    }
    bool found = next_of_function(pool, function, now_ms, ret_effect);
    if (found && (ret_effect->kind == POOL_UNLOAD || ret_effect->kind == POOL_COOL)) {
        pool->arrived = function; /* only room was made */
    }
    return found;
}

static bool next_prepare(struct pool *pool, uint64_t now_ms, struct pool_effect *ret_effect)
{
    LIST_EACH(node, &pool->prepares)
    {
        struct pool_call *call = LIST_ITEM(node, struct pool_call, link);
        struct pool_image *image = call->image;
        if (pool_image_presence(image) == PRESENCE_LOADED) {
            *ret_effect = (struct pool_effect){.kind = POOL_PREPARED, .call = call, .image = image};
            list_remove(&call->link);
            pool_call_drop(pool, call);
            return true;
        }
        if (pool_image_presence(image) == PRESENCE_NONE &&
            pool_bring_image(pool, image, false, now_ms, ret_effect)) {
            return true;
        }
    }
    return false;
}

static bool next_of_ring(struct pool *pool, uint64_t now_ms, struct pool_effect *ret_effect)
{
    LIST_EACH(node, &pool->ring)
    {
        if (pool->walk == WALK_WHILE_IDLE && !pool_has_room(pool)) {
            break;
        }
        struct pool_function *function = LIST_ITEM(node, struct pool_function, ring_link);
        if (next_of_function(pool, function, now_ms, ret_effect)) {
            return true;
        }
    }
    return false;
}

static bool next_orphan(struct pool *pool, struct pool_effect *ret_effect)
{
    struct pool_image *image = LIST_FIRST(&pool->orphans, struct pool_image, orphan_link);
    if (image == NULL) {
        return false;
    }
    pool_image_remove(pool, image);
    pool->released = image;
    *ret_effect = (struct pool_effect){.kind = POOL_RELEASE, .image = image};
    return true;
}

void pool_end_runner(struct pool *pool, struct pool_runner *runner, struct pool_effect *ret_effect)
{
    CHECK(runner->state == RUNNER_ALIVE && runner->busy == 0);
    pool_runner_empty(pool, runner, "");
    pool->alive--;
    *ret_effect =
        (struct pool_effect){.kind = POOL_END_RUNNER, .runner = runner_index(pool, runner)};
}

/* Nothing is left that a runner could be for. */
static bool next_end_runner(struct pool *pool, struct pool_effect *ret_effect)
{
    if (pool->images.count > 0) {
        return false;
    }
    for (unsigned i = 0; pool->alive > 0 && i < pool->options.runners_max; i++) {
        struct pool_runner *runner = &pool->runners[i];
        if (runner->state == RUNNER_ALIVE) {
            CHECK(runner->residency_count == 0);
            pool_end_runner(pool, runner, ret_effect);
            return true;
        }
    }
    return false;
}

bool pool_next(struct pool *pool, uint64_t now_ms, struct pool_effect *ret_effect)
{
    pool_free_released(pool);
    pool->now_ms = now_ms;
    if (next_failed(pool, ret_effect) || next_forgotten(pool, ret_effect) ||
        next_again(pool, ret_effect) || next_arrived(pool, now_ms, ret_effect)) {
        return true;
    }
    if (pool->walk != WALK_NOTHING &&
        (next_prepare(pool, now_ms, ret_effect) || next_of_ring(pool, now_ms, ret_effect))) {
        return true;
    }
    pool->walk = WALK_NOTHING;
    if (pool_next_keep(pool, now_ms, ret_effect)) {
        return true;
    }
    return next_orphan(pool, ret_effect) || next_end_runner(pool, ret_effect);
}

/* Since when a call has waited that one more runner would help; UINT64_MAX: there is none. */
static uint64_t waiting_since_ms(const struct pool *pool)
{
    uint64_t since_ms = UINT64_MAX;
    LIST_EACH(node, &pool->ring)
    {
        const struct pool_call *call =
            pool_function_head(LIST_ITEM(node, struct pool_function, ring_link));
        if (!pool_image_is_full(call->image) && call->arrived_ms < since_ms) {
            since_ms = call->arrived_ms;
        }
    }
    return since_ms;
}

/* When pool_bring_image() would start a runner that it does not start now. */
static uint64_t start_wake_ms(const struct pool *pool)
{
    if (runner_to_start(pool) < 0 ||
        (pool->alive > 0 && (pool_has_room(pool) || pool_is_full(pool)))) {
        return UINT64_MAX;
    }
    uint64_t since_ms = waiting_since_ms(pool);
    if (pool->alive == 0) {
        bool is_wanted = since_ms != UINT64_MAX || !list_is_empty(&pool->prepares);
        return is_wanted ? pool->start_not_before_ms : UINT64_MAX;
    }
    if (since_ms == UINT64_MAX) {
        return UINT64_MAX;
    }
    uint64_t grow_ms = since_ms + POOL_GROW_MS;
    return grow_ms > pool->start_not_before_ms ? grow_ms : pool->start_not_before_ms;
}

uint64_t pool_wake_ms(const struct pool *pool)
{
    uint64_t deadline_ms = pool->waiting > 0 ? pool->earliest_deadline_ms : UINT64_MAX;
    uint64_t start_ms = start_wake_ms(pool);
    uint64_t wake_ms = deadline_ms < start_ms ? deadline_ms : start_ms;
    return wake_ms < pool->keep_ms ? wake_ms : pool->keep_ms;
}

/* ---- Facts ---- */

bool pool_is_empty(const struct pool *pool)
{
    for (unsigned i = 0; i < pool->options.runners_max; i++) {
        if (pool->runners[i].state != RUNNER_NONE) {
            return false;
        }
    }
    return pool->images.count == 0 && pool->busy == 0 && pool->waiting == 0;
}

unsigned pool_waiting(const struct pool *pool)
{
    return pool->waiting;
}

unsigned pool_busy(const struct pool *pool)
{
    return pool->busy;
}

unsigned pool_instances(const struct pool *pool)
{
    return pool->instances;
}

struct taking {
    void (*visit)(const char *function, unsigned peak, uint64_t calls, void *context);
    void *context;
};

static void take_load(const char *key, void *value, void *context)
{
    struct pool_function *function = value;
    const struct taking *taking = context;
    (void)key;
    taking->visit(function->name, function->peak, function->calls, taking->context);
    function->peak = function->queued + function->running;
    function->calls = 0;
}

void pool_take_load(struct pool *pool,
                    void (*visit)(const char *function, unsigned peak, uint64_t calls,
                                  void *context),
                    void *context)
{
    struct taking taking = {visit, context};
    map_each(&pool->functions, take_load, &taking);
}

const struct pool_counts *pool_counts(const struct pool *pool)
{
    return &pool->counts;
}

unsigned pool_runner_busy(const struct pool *pool, unsigned runner)
{
    return pool->runners[runner].busy;
}

unsigned pool_runner_images(const struct pool *pool, unsigned runner)
{
    return pool->runners[runner].residency_count;
}
