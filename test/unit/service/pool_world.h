/* The world around a pool, for its tests.  Included once by each of them. */
#ifndef TEST_UNIT_SERVICE_POOL_WORLD_H
#define TEST_UNIT_SERVICE_POOL_WORLD_H

#include "base/check.h"
#include "base/memory.h"

#include "service/instance/pool.h"

#include "test/lib/test.h"

/*
 * A world around the pool that does what the pool says: it starts runners and loads images at once
 * (unless told to hold them back), notes which call runs where, and checks what must hold.
 */
enum { CALLS_MAX = 400, RUNNERS = 3, SLOTS = 8, TRACE_MAX = 4096 };

enum call_state { CALL_FREE, CALL_WAITING, CALL_RUNNING, CALL_FAILED, CALL_PREPARED };

struct call {
    struct pool_call pool;
    enum call_state state;
    unsigned function;
    unsigned order; /* of arrival */
    unsigned concurrency_max;
    unsigned runner, slot;
    bool is_warm;
    uint64_t arrived_ms;
    enum error_kind failed;
};

struct world {
    struct pool *pool;
    uint64_t now_ms;
    bool holds_loads; /* do not answer POOL_LOAD */
    bool refuses_start;
    bool loaded_image_fails;
    struct call calls[CALLS_MAX];
    struct call *on_slot[RUNNERS][SLOTS];
    bool is_alive[RUNNERS];
    struct {
        unsigned runner;
        struct pool_image *image;
    } loads[64];
    unsigned load_count;
    unsigned order;
    unsigned starts, ends, unloads, loads_seen, releases, warmed, cooled;
    unsigned last_started[16]; /* per function: order of the last started call + 1 */
    unsigned trace[TRACE_MAX]; /* functions in the order their calls started */
    unsigned trace_length;
};

static inline struct world *world_new(unsigned slots, unsigned runners)
{
    CHECK(slots <= SLOTS && runners <= RUNNERS);
    struct world *world = NEW(struct world);
    world->now_ms = 1000;
    world->pool =
        pool_new(&(struct pool_options){.slots_per_runner = slots, .runners_max = runners});
    return world;
}

static inline void ignore_release(struct pool_image *image)
{
    (void)image;
}

static inline void world_free(struct world *world)
{
    pool_free(world->pool, ignore_release);
    free(world);
}

static inline void perform_start(struct world *world, unsigned runner)
{
    world->starts++;
    EXPECT(!world->is_alive[runner]);
    if (world->refuses_start) {
        struct error error;
        error_set(&error, ERROR_NOT_FOUND, "no program");
        pool_runner_refused(world->pool, runner, &error, world->now_ms);
        return;
    }
    world->is_alive[runner] = true;
    pool_runner_started(world->pool, runner, world->now_ms);
}

static inline void perform_load(struct world *world, unsigned runner, struct pool_image *image)
{
    world->loads_seen++;
    if (world->holds_loads) {
        world->loads[world->load_count].runner = runner;
        world->loads[world->load_count++].image = image;
    } else if (world->loaded_image_fails) {
        struct error error;
        error_set(&error, ERROR_TRAP, "trap: unreachable");
        pool_load_failed(world->pool, runner, image, &error);
    } else {
        pool_loaded(world->pool, runner, image);
    }
}

static inline unsigned count_running(const struct world *world, unsigned function)
{
    unsigned count = 0;
    for (unsigned i = 0; i < CALLS_MAX; i++) {
        const struct call *call = &world->calls[i];
        count += call->state == CALL_RUNNING && call->function == function;
    }
    return count;
}

static inline void perform_invoke(struct world *world, const struct pool_effect *effect)
{
    struct call *call = (struct call *)effect->call;
    EXPECT(call->state == CALL_WAITING);
    EXPECT(world->is_alive[effect->runner]);
    EXPECT(world->on_slot[effect->runner][effect->slot] == NULL);
    /* FIFO within a function. */
    EXPECT(call->order >= world->last_started[call->function]);
    world->last_started[call->function] = call->order + 1;
    world->on_slot[effect->runner][effect->slot] = call;
    call->state = CALL_RUNNING;
    call->runner = effect->runner;
    call->slot = effect->slot;
    call->is_warm = effect->is_warm;
    EXPECT(call->concurrency_max == 0 ||
           count_running(world, call->function) <= call->concurrency_max);
    if (world->trace_length < TRACE_MAX) {
        world->trace[world->trace_length++] = call->function;
    }
}

static inline void pump(struct world *world)
{
    struct pool_effect effect;
    for (unsigned steps = 0; pool_next(world->pool, world->now_ms, &effect); steps++) {
        EXPECT(steps < 100000);
        struct call *call = (struct call *)effect.call;
        switch (effect.kind) {
        case POOL_START_RUNNER:
            perform_start(world, effect.runner);
            break;
        case POOL_END_RUNNER:
            world->ends++;
            world->is_alive[effect.runner] = false;
            break;
        case POOL_LOAD:
            perform_load(world, effect.runner, effect.image);
            break;
        case POOL_UNLOAD:
            world->unloads++;
            break;
        case POOL_RELEASE:
            world->releases++;
            break;
        case POOL_INVOKE:
            perform_invoke(world, &effect);
            break;
        case POOL_WARM:
            world->warmed++;
            EXPECT(world->on_slot[effect.runner][effect.slot] == NULL);
            break;
        case POOL_COOL:
            world->cooled++;
            EXPECT(world->on_slot[effect.runner][effect.slot] == NULL);
            break;
        case POOL_PREPARED:
            call->state = effect.error == NULL ? CALL_PREPARED : CALL_FAILED;
            call->failed = effect.error == NULL ? ERROR_NONE : effect.error->kind;
            break;
        case POOL_FAIL:
            EXPECT(call->state == CALL_WAITING);
            call->state = CALL_FAILED;
            call->failed = effect.error->kind;
            break;
        }
        pool_check(world->pool);
    }
    pool_check(world->pool);
}

struct wish {
    unsigned function;
    const char *image;
    unsigned concurrency_max;
    unsigned queue_max;
    uint64_t wait_ms;
    struct pool_settings settings;
    uint64_t version; /* 0: 1 */
};

static inline struct call *arrive(struct world *world, struct wish wish)
{
    struct call *call = world->calls;
    while (call->state != CALL_FREE) {
        call++;
        EXPECT(call < world->calls + CALLS_MAX);
    }
    char name[16];
    snprintf(name, sizeof(name), "f%u", wish.function);
    char image[16];
    snprintf(image, sizeof(image), "i%u", wish.function);
    struct pool_request request = {
        .function = name,
        .image_id = wish.image != NULL ? wish.image : image,
        .version = wish.version > 0 ? wish.version : 1,
        .settings = wish.settings,
        .concurrency_max = wish.concurrency_max,
        .queue_max = wish.queue_max,
        .wait_ms_max = wish.wait_ms > 0 ? wish.wait_ms : 30000,
    };
    struct error error = {0};
    *call = (struct call){
        .function = wish.function,
        .concurrency_max = wish.concurrency_max,
        .arrived_ms = world->now_ms,
    };
    if (pool_arrive(world->pool, &call->pool, &request, world->now_ms, &error) < 0) {
        call->state = CALL_FAILED;
        call->failed = error.kind;
    } else {
        call->state = CALL_WAITING;
        call->order = world->order++;
    }
    pump(world);
    return call;
}

static inline struct call *call_function(struct world *world, unsigned function)
{
    return arrive(world, (struct wish){.function = function, .queue_max = 100});
}

static inline void forget(struct world *world, const char *function, const char *image,
                          struct pool_settings settings)
{
    pool_forget(world->pool,
                &(struct pool_request){
                    .function = function, .image_id = image, .version = 1, .settings = settings});
    pump(world);
}

static inline void finish(struct world *world, struct call *call)
{
    EXPECT(call->state == CALL_RUNNING);
    world->on_slot[call->runner][call->slot] = NULL;
    call->state = CALL_FREE;
    pool_ended(world->pool, &call->pool, false, world->now_ms);
    pump(world);
}

static inline void die(struct world *world, unsigned runner)
{
    for (unsigned slot = 0; slot < SLOTS; slot++) {
        struct call *call = world->on_slot[runner][slot];
        if (call != NULL) {
            world->on_slot[runner][slot] = NULL;
            call->state = CALL_FREE;
            pool_ended(world->pool, &call->pool, true, world->now_ms);
            pump(world); /* nothing may start on the dying one */
        }
    }
    for (unsigned i = 0; i < world->load_count;) {
        if (world->loads[i].runner == runner) {
            world->loads[i] = world->loads[--world->load_count];
        } else {
            i++;
        }
    }
    world->is_alive[runner] = false;
    pool_runner_died(world->pool, runner, "killed by signal 9", world->now_ms);
    pump(world);
}

static inline void advance(struct world *world, uint64_t ms)
{
    world->now_ms += ms;
    pool_tick(world->pool, world->now_ms);
    pump(world);
    EXPECT(pool_wake_ms(world->pool) > world->now_ms); /* else the loop would do nothing else */
}

#endif
