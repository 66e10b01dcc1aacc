/*
 * Instances that nobody calls at this moment: made before they are needed, ended when they are not
 * any more.  Every POOL_KEEP_MS, and when something has changed that matters, all images are looked
 * at; one effect per question, until nothing is left to do.
 */
#include "base/check.h"

#include "service/instance/pool_parts.h"

struct looking {
    struct pool *pool;
    uint64_t now_ms;
    bool needs_more_looks; /* something is kept: it is to be thought over again */
    bool is_done;          /* *effect is what is to be done */
    struct pool_effect *effect;
    struct pool_slot *cools;
    bool is_recycled;
    /* Under pressure: the idle slot that was used least recently. */
    struct pool_slot *victim;
};

/* How many instances an image is to have when nobody calls. */
static unsigned target_of(struct pool_image *image, uint64_t now_ms)
{
    const struct pool_settings *settings = &image->settings;
    unsigned target = image->is_wanted ? settings->instances_min : 0;
    bool is_used = image->last_call_ms > 0 &&
        (settings->idle_ms == 0 || now_ms - image->last_call_ms < settings->idle_ms);
    image->learnt = is_used ? demand_target(&image->demand, now_ms) : 0;
    unsigned wanted = image->learnt;
    if (image->is_foreseen) {
        unsigned now = demand_now(&image->demand, now_ms);
        wanted = image->foreseen > now ? image->foreseen : now;
    }
    target = wanted > target ? wanted : target;
    if (settings->instances_max > 0 && target > settings->instances_max) {
        target = settings->instances_max;
    }
    return target;
}

/* Idle ones that the image can do without; `surplus`: there are more than it wants. */
static void look_for_idle(struct looking *looking, const struct pool_image *image, unsigned target)
{
    const struct pool_settings *settings = &image->settings;
    LIST_EACH(node, &image->residencies)
    {
        const struct residency *residency = LIST_ITEM(node, struct residency, image_link);
        for (struct list_node *at = residency->idle.head.previous; at != &residency->idle.head;
             at = at->previous) {
            struct pool_slot *slot = LIST_ITEM(at, struct pool_slot, link);
            uint64_t idle_ms = looking->now_ms - slot->idle_ms;
            bool is_old = pool_slot_is_old(slot, looking->now_ms);
            bool is_surplus = settings->idle_ms > 0 && image->instances > target &&
                ((target == 0 && !image->is_foreseen) || idle_ms >= POOL_SURPLUS_MS);
            if (is_old || is_surplus) {
                looking->cools = slot;
                looking->is_recycled = is_old;
                return;
            }
            bool may_go = image->instances > settings->instances_min || !image->is_wanted ||
                looking->pool->pressure == POOL_PRESSURE_HIGH;
            if (may_go && (looking->victim == NULL || slot->idle_ms < looking->victim->idle_ms)) {
                looking->victim = slot;
            }
        }
    }
}

/* Where it is loaded and a slot is empty: nobody else's instance is taken for it. */
static bool warm(struct pool *pool, struct pool_image *image, struct pool_effect *ret_effect)
{
    LIST_EACH(node, &image->residencies)
    {
        struct residency *residency = LIST_ITEM(node, struct residency, image_link);
        struct pool_runner *runner = residency->runner;
        struct pool_slot *slot = LIST_FIRST(&runner->empty, struct pool_slot, link);
        if (!residency->is_loaded || runner->state != RUNNER_ALIVE || slot == NULL) {
            continue;
        }
        list_remove(&slot->link);
        pool_slot_hold(pool, slot, residency);
        slot->idle_ms = pool->now_ms;
        list_push_back(&residency->idle, &slot->link);
        list_push_back(&runner->idle, &slot->idle_link);
        pool->counts.warmed++;
        *ret_effect = (struct pool_effect){
            .kind = POOL_WARM,
            .runner = (unsigned)(runner - pool->runners),
            .slot = (unsigned)(slot - runner->slots),
            .image = image,
        };
        return true;
    }
    return false;
}

/* Where it is loaded all slots are taken: it is loaded beside an empty one, or a runner started. */
static bool widen(struct looking *looking, struct pool_image *image)
{
    struct pool *pool = looking->pool;
    struct pool_runner *target = NULL;
    for (unsigned i = 0; i < pool->options.runners_max; i++) {
        struct pool_runner *runner = &pool->runners[i];
        if (runner->state != RUNNER_ALIVE || list_is_empty(&runner->empty)) {
            continue;
        }
        if (pool_residency_find(image, runner) != NULL) {
            return false; /* it is being loaded there: wait */
        }
        target = target == NULL ? runner : target;
    }
    return target != NULL ? pool_load_into(pool, target, image, looking->effect)
                          : pool_start_runner(pool, looking->now_ms, looking->effect);
}

static bool warm_or_load(struct looking *looking, struct pool_image *image)
{
    struct pool *pool = looking->pool;
    return !pool_is_full(pool) &&
        (warm(pool, image, looking->effect) || widen(looking, image) ||
         (pool_image_presence(image) == PRESENCE_NONE &&
          pool_bring_image(pool, image, false, looking->now_ms, looking->effect)));
}

static void look_at_variant(struct looking *looking, struct pool_image *image)
{
    unsigned target = target_of(image, looking->now_ms);
    const struct pool_settings *settings = &image->settings;
    bool has_rules = settings->idle_ms + settings->recycle_ms + settings->instances_min > 0;
    if (has_rules && (image->instances > 0 || target > 0)) {
        looking->needs_more_looks = true;
    }
    look_for_idle(looking, image, target);
    bool is_gone = list_contains_node(&image->forgotten_link);
    if (looking->cools == NULL && has_rules && image->instances < target && !is_gone &&
        looking->pool->pressure == POOL_PRESSURE_NONE) {
        looking->is_done = warm_or_load(looking, image);
    }
}

static void look_at_image(const char *id, void *value, void *context)
{
    struct looking *looking = context;
    (void)id;
    for (struct pool_image *image = value;
         image != NULL && looking->cools == NULL && !looking->is_done;
         image = image->next_variant) {
        look_at_variant(looking, image);
    }
}

void pool_cool(struct pool *pool, struct pool_slot *slot, struct pool_effect *ret_effect)
{
    *ret_effect = (struct pool_effect){
        .kind = POOL_COOL,
        .runner = (unsigned)(slot->runner - pool->runners),
        .slot = (unsigned)(slot - slot->runner->slots),
        .image = slot->residency->image,
    };
    if (pool->again == slot) {
        pool->again = NULL;
    }
    pool_slot_empty(pool, slot);
}

/* Under high pressure an image that nobody has or wants is not kept either. */
static bool next_unload(struct pool *pool, struct pool_effect *ret_effect)
{
    for (unsigned i = 0; i < pool->options.runners_max; i++) {
        struct pool_runner *runner = &pool->runners[i];
        LIST_EACH(node, &runner->residencies)
        {
            struct residency *residency = LIST_ITEM(node, struct residency, runner_link);
            if (residency->is_loaded && residency->busy == 0 && residency->image->waiting == 0 &&
                list_is_empty(&residency->idle)) {
                pool_unload(pool, residency, ret_effect);
                return true;
            }
        }
    }
    return false;
}

static bool is_elsewhere(const struct residency *residency)
{
    LIST_EACH(node, &residency->image->residencies)
    {
        const struct residency *other = LIST_ITEM(node, struct residency, image_link);
        if (other != residency && other->is_loaded && other->runner->state == RUNNER_ALIVE) {
            return true;
        }
    }
    return false;
}

/* Nobody has needed its slots for a while, and nothing is to be loaded again for want of it. */
static bool is_superfluous(const struct pool *pool, const struct pool_runner *runner,
                           uint64_t now_ms)
{
    LIST_EACH(node, &runner->residencies)
    {
        const struct residency *residency = LIST_ITEM(node, struct residency, runner_link);
        if (!residency->is_loaded || residency->image->waiting > 0 || !is_elsewhere(residency)) {
            return false;
        }
    }
    return pool->waiting == 0 && now_ms - runner->emptied_ms >= POOL_SURPLUS_MS;
}

/* Of several runners those without any instance go; what is loaded stays on one of them. */
static bool next_surplus_runner(struct looking *looking)
{
    struct pool *pool = looking->pool;
    for (unsigned i = 0; pool->alive > 1 && i < pool->options.runners_max; i++) {
        struct pool_runner *runner = &pool->runners[i];
        if (runner->state != RUNNER_ALIVE || runner->busy > 0 || !list_is_empty(&runner->idle)) {
            continue;
        }
        if (is_superfluous(pool, runner, looking->now_ms)) {
            pool_end_runner(pool, runner, looking->effect);
            return true;
        }
        looking->needs_more_looks |= looking->now_ms - runner->emptied_ms < POOL_SURPLUS_MS;
    }
    return false;
}

bool pool_next_keep(struct pool *pool, uint64_t now_ms, struct pool_effect *ret_effect)
{
    if (!pool->keeps_due) {
        return false;
    }
    struct looking looking = {.pool = pool, .now_ms = now_ms, .effect = ret_effect};
    map_each(&pool->images, look_at_image, &looking);
    if (looking.is_done) {
        return true;
    }
    if (looking.cools != NULL) {
        pool->counts.recycled += looking.is_recycled;
        pool->counts.cooled += !looking.is_recycled;
        pool_cool(pool, looking.cools, ret_effect);
        return true;
    }
    if (pool->may_evict && looking.victim != NULL) {
        /* Some pressure takes one at a time, and looks whether it was enough. */
        pool->may_evict = pool->pressure == POOL_PRESSURE_HIGH;
        pool->counts.evicted++;
        pool_cool(pool, looking.victim, ret_effect);
        return true;
    }
    if (pool->may_evict && pool->pressure == POOL_PRESSURE_HIGH && next_unload(pool, ret_effect)) {
        return true;
    }
    if (next_surplus_runner(&looking)) {
        return true;
    }
    pool->may_evict = false;
    pool->keeps_due = false;
    pool->keep_ms = looking.needs_more_looks ? now_ms + POOL_KEEP_MS : UINT64_MAX;
    return false;
}
