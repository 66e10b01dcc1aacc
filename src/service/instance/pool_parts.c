/* The pool's state and the small steps on it.  See pool_parts.h. */
#include "service/instance/pool_parts.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "base/memory.h"
#include "base/text.h"

struct pool *pool_new(const struct pool_options *options)
{
    CHECK(options->slots_per_runner > 0 && options->slots_per_runner <= POOL_SLOTS_MAX);
    CHECK(options->runners_max > 0 && options->runners_max <= POOL_RUNNERS_MAX);

    struct pool *pool = NEW(struct pool);
    pool->options = *options;
    list_init(&pool->ring);
    list_init(&pool->prepares);
    list_init(&pool->failed);
    list_init(&pool->forgotten);
    list_init(&pool->orphans);
    pool->earliest_deadline_ms = UINT64_MAX;
    pool->keep_ms = UINT64_MAX;
    for (unsigned i = 0; i < options->runners_max; i++) {
        struct pool_runner *runner = &pool->runners[i];
        list_init(&runner->residencies);
        list_init(&runner->empty);
        list_init(&runner->idle);
        runner->slots = memory_new(options->slots_per_runner, sizeof(struct pool_slot));
        for (unsigned k = 0; k < options->slots_per_runner; k++) {
            runner->slots[k].runner = runner;
        }
    }
    return pool;
}

void pool_free_function(const char *name, void *value, void *context)
{
    (void)name;
    (void)context;
    struct pool_function *function = value;
    free(function->key);
    free(function->name);
    free(function);
}

static void free_variants(const char *id, void *value, void *context)
{
    (void)id;
    void (*release)(struct pool_image *) = *(void (**)(struct pool_image *))context;
    for (struct pool_image *image = value, *next; image != NULL; image = next) {
        next = image->next_variant;
        release(image);
        free(image->id);
        free(image->owner);
        free(image);
    }
}

void pool_free_released(struct pool *pool)
{
    if (pool->released != NULL) {
        free(pool->released->id);
        free(pool->released->owner);
        free(pool->released);
        pool->released = NULL;
    }
}

void pool_free(struct pool *pool, void (*release)(struct pool_image *image))
{
    for (unsigned i = 0; i < pool->options.runners_max; i++) {
        LIST_EACH(node, &pool->runners[i].residencies)
        {
            free(LIST_ITEM(node, struct residency, runner_link));
        }
        free(pool->runners[i].slots);
    }
    pool_free_released(pool);
    map_each(&pool->images, free_variants, &release);
    map_done(&pool->images);
    map_each(&pool->functions, pool_free_function, NULL);
    map_done(&pool->functions);
    free(pool);
}

/* ---- Small parts ---- */

bool pool_runner_has_room(const struct pool *pool, const struct pool_runner *runner)
{
    return runner->state == RUNNER_ALIVE && runner->busy < pool->options.slots_per_runner;
}

bool pool_has_room(const struct pool *pool)
{
    for (unsigned i = 0; i < pool->options.runners_max; i++) {
        if (pool_runner_has_room(pool, &pool->runners[i])) {
            return true;
        }
    }
    return false;
}

bool pool_function_may_run(const struct pool_function *function)
{
    return function->concurrency_max == 0 || function->running < function->concurrency_max;
}

void pool_ring_update(struct pool *pool, struct pool_function *function)
{
    bool belongs = function->queued > 0 && pool_function_may_run(function);
    bool is_in = list_contains_node(&function->ring_link);
    if (belongs && !is_in) {
        list_push_back(&pool->ring, &function->ring_link);
    } else if (is_in && !belongs) {
        list_remove(&function->ring_link);
    }
}

struct pool_call *pool_function_head(const struct pool_function *function)
{
    return LIST_FIRST(&function->queue, struct pool_call, link);
}

enum { NAME_MAX_BYTES = 63, KEY_SIZE = NAME_MAX_BYTES + 1 + TEXT_U64_SIZE + 1 };

/* NAME:VERSION; each call asks: no printf(). */
static void write_key(const struct pool_request *request, char ret_key[KEY_SIZE])
{
    size_t length = strlen(request->function);
    CHECK(length <= NAME_MAX_BYTES);
    memcpy(ret_key, request->function, length);
    ret_key[length++] = ':';
    length += text_write_u64(request->version, ret_key + length);
    ret_key[length] = '\0';
}

struct pool_function *pool_function_find(struct pool *pool, const struct pool_request *request)
{
    char key[KEY_SIZE];
    write_key(request, key);
    struct pool_function *function = map_get(&pool->functions, key);
    if (function == NULL) {
        function = NEW(struct pool_function);
        function->key = memory_copy_string(key);
        function->name = memory_copy_string(request->function);
        list_init(&function->queue);
        map_set(&pool->functions, key, function);
    }
    return function;
}

static bool limits_equal(const struct vmm_limits *a, const struct vmm_limits *b)
{
    return a->memory_bytes == b->memory_bytes && a->files_bytes == b->files_bytes &&
        a->timeout_ms == b->timeout_ms && a->output_bytes_max == b->output_bytes_max &&
        a->log_bytes_max == b->log_bytes_max;
}

static bool settings_equal(const struct pool_settings *a, const struct pool_settings *b)
{
    return a->is_sticky == b->is_sticky && a->instances_min == b->instances_min &&
        a->instances_max == b->instances_max && a->idle_ms == b->idle_ms &&
        a->recycle_calls == b->recycle_calls && a->recycle_ms == b->recycle_ms;
}

enum { OWNER_SIZE = 96 };

/* What one function keeps in memory, and how many instances it has, is nothing to another one, nor
 * to another version of it. */
static void write_owner(const struct pool_request *request, char ret_owner[OWNER_SIZE])
{
    const struct pool_settings *settings = &request->settings;
    ret_owner[0] = '\0';
    if (settings->is_sticky || settings->instances_min > 0 || settings->instances_max > 0) {
        snprintf(ret_owner, OWNER_SIZE, "%s:%" PRIu64, request->function, request->version);
    }
}

bool pool_requests_share(const struct pool_request *a, const struct pool_request *b)
{
    char owner_a[OWNER_SIZE];
    char owner_b[OWNER_SIZE];
    write_owner(a, owner_a);
    write_owner(b, owner_b);
    return strcmp(a->image_id, b->image_id) == 0 && limits_equal(&a->limits, &b->limits) &&
        settings_equal(&a->settings, &b->settings) && strcmp(owner_a, owner_b) == 0;
}

struct pool_image *pool_image_look(const struct pool *pool, const struct pool_request *request)
{
    char owner[OWNER_SIZE];
    write_owner(request, owner);
    struct pool_image *image = map_get(&pool->images, request->image_id);
    while (image != NULL &&
           (!limits_equal(&image->limits, &request->limits) ||
            !settings_equal(&image->settings, &request->settings) ||
            strcmp(image->owner, owner) != 0)) {
        image = image->next_variant;
    }
    return image;
}

void pool_look(const struct pool *pool, const struct pool_request *request,
               struct pool_look *ret_look)
{
    char key[KEY_SIZE];
    write_key(request, key);
    const struct pool_function *function = map_get(&pool->functions, key);
    const struct pool_image *image = pool_image_look(pool, request);
    *ret_look = (struct pool_look){.image = image};
    if (function != NULL) {
        ret_look->running = function->running;
        ret_look->waiting = function->queued;
    }
    if (image != NULL) {
        CHECK(image->busy <= image->instances);
        ret_look->idle = image->instances - image->busy;
    }
}

struct pool_image *pool_image_find(struct pool *pool, const struct pool_request *request)
{
    struct pool_image *image = pool_image_look(pool, request);
    if (image == NULL) {
        char owner[OWNER_SIZE];
        write_owner(request, owner);
        image = NEW(struct pool_image);
        image->id = memory_copy_string(request->image_id);
        image->owner = memory_copy_string(owner);
        image->limits = request->limits;
        image->settings = request->settings;
        image->next_variant = map_get(&pool->images, request->image_id);
        list_init(&image->residencies);
        map_set(&pool->images, request->image_id, image);
    }
    list_remove(&image->orphan_link);
    return image;
}

/* Nobody has it and nobody waits for it: let it go. */
void pool_image_consider_orphan(struct pool *pool, struct pool_image *image)
{
    bool is_foreseen = image->is_foreseen && image->foreseen > 0;
    if (list_is_empty(&image->residencies) && image->waiting == 0 && !image->is_wanted &&
        !is_foreseen && !list_contains_node(&image->orphan_link)) {
        list_push_back(&pool->orphans, &image->orphan_link);
    }
}

void pool_image_remove(struct pool *pool, struct pool_image *image)
{
    list_remove(&image->orphan_link);
    list_remove(&image->forgotten_link);
    struct pool_image *first = map_get(&pool->images, image->id);
    if (first != image) {
        while (first->next_variant != image) {
            first = first->next_variant;
        }
        first->next_variant = image->next_variant;
    } else if (image->next_variant != NULL) {
        map_set(&pool->images, image->id, image->next_variant);
    } else {
        map_remove(&pool->images, image->id);
    }
}

struct residency *pool_residency_find(const struct pool_image *image,
                                      const struct pool_runner *runner)
{
    LIST_EACH(node, &image->residencies)
    {
        struct residency *residency = LIST_ITEM(node, struct residency, image_link);
        if (residency->runner == runner) {
            return residency;
        }
    }
    return NULL;
}

struct residency *pool_residency_new(struct pool_runner *runner, struct pool_image *image)
{
    struct residency *residency = NEW(struct residency);
    residency->runner = runner;
    residency->image = image;
    list_init(&residency->idle);
    list_push_front(&runner->residencies, &residency->runner_link);
    list_push_back(&image->residencies, &residency->image_link);
    list_remove(&image->orphan_link); /* it was about to go, and is kept warm instead */
    runner->residency_count++;
    return residency;
}

bool pool_image_is_full(const struct pool_image *image)
{
    return image->settings.instances_max > 0 && image->instances >= image->settings.instances_max;
}

/* A slot that is in no list begins to be an instance. */
void pool_slot_hold(struct pool *pool, struct pool_slot *slot, struct residency *residency)
{
    if (slot->residency != NULL) {
        slot->residency->image->instances--;
        pool->instances--;
    }
    slot->residency = residency;
    slot->calls = 0;
    slot->attached_ms = pool->now_ms;
    residency->image->instances++;
    pool->instances++;
}

bool pool_slot_is_old(const struct pool_slot *slot, uint64_t now_ms)
{
    uint64_t recycle_ms = slot->residency->image->settings.recycle_ms;
    return recycle_ms > 0 && now_ms - slot->attached_ms >= recycle_ms;
}

/* An idle instance, or one whose last call has ended, is none any more. */
void pool_slot_empty(struct pool *pool, struct pool_slot *slot)
{
    struct pool_image *image = slot->residency->image;
    CHECK(slot->call == NULL && image->instances > 0);
    list_remove(&slot->link);
    list_remove(&slot->idle_link);
    slot->residency = NULL;
    slot->is_last = false;
    slot->runner->emptied_ms = pool->now_ms;
    list_push_back(&slot->runner->empty, &slot->link);
    image->instances--;
    pool->instances--;
}

/* Its idle slots become empty. */
void pool_residency_free(struct pool *pool, struct residency *residency)
{
    CHECK(residency->busy == 0);

    struct pool_runner *runner = residency->runner;
    struct pool_image *image = residency->image;
    LIST_EACH(node, &residency->idle)
    {
        struct pool_slot *slot = LIST_ITEM(node, struct pool_slot, link);
        pool_slot_empty(pool, slot);
    }
    list_remove(&residency->runner_link);
    list_remove(&residency->image_link);
    CHECK(runner->residency_count > 0);
    runner->residency_count--;
    free(residency);
    pool_image_consider_orphan(pool, image);
}

/* ---- Calls that wait ---- */

void pool_wait_end(struct pool *pool, struct pool_call *call)
{
    CHECK(call->slot == NULL);
    list_remove(&call->link);
    if (call->function != NULL && call->failure == FAILURE_NONE) {
        CHECK(call->function->queued > 0 && pool->waiting > 0);
        call->function->queued--;
        pool->waiting--;
        pool_ring_update(pool, call->function);
    }
}

static void wait_fail(struct pool *pool, struct pool_call *call, enum failure failure)
{
    pool_wait_end(pool, call);
    call->failure = (int)failure;
    list_push_back(&pool->failed, &call->link);
}

static bool failing_matches(const struct failing *failing, const struct pool_call *call)
{
    if (failing->failure == FAILURE_WAIT) {
        return call->deadline_ms <= failing->now_ms;
    }
    return failing->image == NULL || failing->image == call->image;
}

static void fail_in_list(struct failing *failing, struct list *list)
{
    LIST_EACH(node, list)
    {
        struct pool_call *call = LIST_ITEM(node, struct pool_call, link);
        if (failing_matches(failing, call)) {
            wait_fail(failing->pool, call, failing->failure);
        } else if (call->deadline_ms < failing->earliest_ms) {
            failing->earliest_ms = call->deadline_ms;
        }
    }
}

static void fail_in_function(const char *name, void *value, void *context)
{
    (void)name;
    struct pool_function *function = value;
    fail_in_list(context, &function->queue);
}

void pool_fail_waiting(struct pool *pool, struct failing *failing)
{
    failing->pool = pool;
    failing->earliest_ms = UINT64_MAX;
    map_each(&pool->functions, fail_in_function, failing);
    fail_in_list(failing, &pool->prepares);
    pool->earliest_deadline_ms = failing->earliest_ms;
}

/* On runners that live. */
enum presence pool_image_presence(const struct pool_image *image)
{
    enum presence presence = PRESENCE_NONE;
    LIST_EACH(node, &image->residencies)
    {
        const struct residency *residency = LIST_ITEM(node, struct residency, image_link);
        if (residency->runner->state == RUNNER_ALIVE) {
            if (residency->is_loaded) {
                return PRESENCE_LOADED;
            }
            presence = PRESENCE_LOADING;
        }
    }
    return presence;
}

/* Warm if there is one, else an empty one, else the one idle for longest; NULL: none now. */
bool pool_is_full(const struct pool *pool)
{
    return pool->instances_max > 0 && pool->instances >= pool->instances_max;
}

struct pool_slot *pool_choose_slot(const struct pool *pool, const struct pool_image *image)
{
    struct pool_slot *empty = NULL;
    struct pool_slot *oldest = NULL;
    LIST_EACH(node, &image->residencies)
    {
        struct residency *residency = LIST_ITEM(node, struct residency, image_link);
        struct pool_runner *runner = residency->runner;
        if (!residency->is_loaded || runner->state != RUNNER_ALIVE) {
            continue;
        }
        if (!list_is_empty(&residency->idle)) {
            return LIST_FIRST(&residency->idle, struct pool_slot, link);
        }
        if (pool_image_is_full(image)) {
            continue; /* one of its own, or none */
        }
        if (empty == NULL && !pool_is_full(pool)) {
            empty = LIST_FIRST(&runner->empty, struct pool_slot, link);
        }
        if (oldest == NULL && !list_is_empty(&runner->idle)) {
            oldest = LIST_ITEM(runner->idle.head.previous, struct pool_slot, idle_link);
        }
    }
    return empty != NULL ? empty : oldest;
}

void pool_call_drop(struct pool *pool, struct pool_call *call)
{
    struct pool_image *image = call->image;
    CHECK(image->waiting > 0);
    image->waiting--;
    pool_image_consider_orphan(pool, image);
    *call = (struct pool_call){0};
}

/* All that was known of a runner is void.  What was loading is tried again elsewhere, not for ever.
 */
void pool_runner_empty(struct pool *pool, struct pool_runner *runner, const char *reason)
{
    LIST_EACH(node, &runner->residencies)
    {
        struct residency *residency = LIST_ITEM(node, struct residency, runner_link);
        struct pool_image *image = residency->image;
        bool was_loading = !residency->is_loaded;
        pool_residency_free(pool, residency);
        if (was_loading && ++image->load_deaths >= POOL_LOAD_ATTEMPTS) {
            error_set(&image->error, ERROR_UNAVAILABLE,
                      "the runner ended %u times while loading this image, last: %s",
                      image->load_deaths, reason);
            image->load_deaths = 0;
            pool_fail_waiting(pool, &(struct failing){.image = image, .failure = FAILURE_LOAD});
        }
    }
    list_init(&runner->empty);
    list_init(&runner->idle);
    for (unsigned i = 0; i < pool->options.slots_per_runner; i++) {
        runner->slots[i] = (struct pool_slot){.runner = runner};
    }
    runner->state = RUNNER_NONE;
}

/* ---- What must hold ---- */

static unsigned list_length(const struct list *list)
{
    unsigned length = 0;
    LIST_EACH(node, list)
    {
        length++;
    }
    return length;
}

static void check_residencies(const struct pool_runner *runner, unsigned *busy, unsigned *idle)
{
    CHECK(list_length(&runner->residencies) == runner->residency_count);
    LIST_EACH(node, &runner->residencies)
    {
        const struct residency *residency = LIST_ITEM(node, struct residency, runner_link);
        CHECK(residency->runner == runner);
        CHECK_IMPLIES(!residency->is_loaded, residency->busy == 0);
        *busy += residency->busy;
        *idle += list_length(&residency->idle);
    }
}

static void check_runner(const struct pool *pool, const struct pool_runner *runner)
{
    unsigned busy = 0;
    unsigned idle = 0;
    check_residencies(runner, &busy, &idle);
    CHECK(runner->residency_count <= POOL_IMAGES_MAX);
    CHECK(busy == runner->busy);
    CHECK(idle == list_length(&runner->idle));
    LIST_EACH(node, &runner->idle)
    {
        CHECK(!LIST_ITEM(node, struct pool_slot, idle_link)->is_last);
    }

    bool has_slots = runner->state == RUNNER_ALIVE || runner->state == RUNNER_BROKEN;
    unsigned slots = busy + idle + list_length(&runner->empty);
    CHECK(slots == (has_slots ? pool->options.slots_per_runner : 0));
    for (unsigned i = 0; i < pool->options.slots_per_runner; i++) {
        const struct pool_slot *slot = &runner->slots[i];
        CHECK_IMPLIES(slot->call != NULL, slot->call->slot == slot);
        CHECK_IMPLIES(slot->call != NULL, !list_contains_node(&slot->link));
        CHECK_IMPLIES(slot->call != NULL, slot->residency->image == slot->call->image);
    }
}

static void check_image(const char *id, void *value, void *context)
{
    (void)id;
    for (const struct pool_image *image = value; image != NULL; image = image->next_variant) {
        unsigned busy = 0;
        unsigned idle = 0;
        LIST_EACH(node, &image->residencies)
        {
            const struct residency *residency = LIST_ITEM(node, struct residency, image_link);
            busy += residency->busy;
            idle += list_length(&residency->idle);
        }
        CHECK(image->busy == busy && image->instances == busy + idle);
        CHECK_IMPLIES(image->settings.instances_max > 0,
                      image->instances <= image->settings.instances_max);
        *(unsigned *)context += image->instances;
    }
}

struct function_sums {
    unsigned queued;
    unsigned running;
};

static void check_function(const char *name, void *value, void *context)
{
    (void)name;
    const struct pool_function *function = value;
    struct function_sums *sums = context;
    bool belongs = function->queued > 0 && pool_function_may_run(function);
    CHECK(list_contains_node(&function->ring_link) == belongs);
    CHECK(list_length(&function->queue) == function->queued);
    sums->queued += function->queued;
    sums->running += function->running;
}

void pool_check(const struct pool *pool)
{
    unsigned busy = 0;
    for (unsigned i = 0; i < pool->options.runners_max; i++) {
        check_runner(pool, &pool->runners[i]);
        busy += pool->runners[i].busy;
    }
    struct function_sums sums = {0};
    map_each(&pool->functions, check_function, &sums);
    CHECK(sums.queued == pool->waiting);
    CHECK(sums.running == pool->busy);
    CHECK(busy == pool->busy);
    unsigned instances = 0;
    map_each(&pool->images, check_image, &instances);
    CHECK(instances == pool->instances);
}
