#include <string.h>

#include "test/unit/service/pool_world.h"

TEST(instance_pool, starts_a_runner_and_loads_once_for_the_calls_that_wait)
{
    struct world *world = world_new(4, 1);
    world->holds_loads = true;
    struct call *a = call_function(world, 1);
    struct call *b = call_function(world, 1);
    EXPECT(world->starts == 1 && world->loads_seen == 1);
    EXPECT(a->state == CALL_WAITING && b->state == CALL_WAITING);
    pool_loaded(world->pool, world->loads[0].runner, world->loads[0].image);
    pump(world);
    EXPECT(a->state == CALL_RUNNING && b->state == CALL_RUNNING);
    EXPECT(!a->is_warm && world->loads_seen == 1 && pool_instances(world->pool) == 2);
    finish(world, a);
    finish(world, b);
    world_free(world);
}

TEST(instance_pool, prefers_the_most_recently_used_warm_slot)
{
    struct world *world = world_new(4, 1);
    struct call *a = call_function(world, 1);
    struct call *b = call_function(world, 1);
    unsigned slot_a = a->slot;
    EXPECT(a->slot != b->slot);
    finish(world, b);
    finish(world, a);
    struct call *c = call_function(world, 1);
    EXPECT(c->is_warm && c->slot == slot_a);
    world_free(world);
}

TEST(instance_pool, takes_an_empty_slot_before_it_evicts_and_evicts_the_longest_idle)
{
    struct world *world = world_new(2, 1);
    struct call *a = call_function(world, 1);
    unsigned slot_a = a->slot;
    finish(world, a);
    struct call *b = call_function(world, 2); /* the empty one, though 1 is idle */
    EXPECT(b->slot != slot_a);
    finish(world, b);
    struct call *c = call_function(world, 3); /* none empty: the slot of 1 is idle for longest */
    EXPECT(c->slot == slot_a && !c->is_warm);
    finish(world, c);
    struct call *d = call_function(world, 2);
    EXPECT(d->is_warm);
    world_free(world);
}

/* Goal: the instances of a project are bounded, whoever's they are; what waits takes an idle one.
 */
TEST(instance_pool, has_as_many_instances_as_its_quota_says)
{
    struct world *world = world_new(4, 2);
    pool_set_instances_max(world->pool, 2);
    struct call *a = call_function(world, 1);
    struct call *b = call_function(world, 2);
    struct call *c = arrive(world, (struct wish){.function = 3, .queue_max = 10});
    EXPECT(a->state == CALL_RUNNING && b->state == CALL_RUNNING && c->state == CALL_WAITING);
    EXPECT(pool_instances(world->pool) == 2);
    finish(world, a);
    EXPECT(c->state == CALL_RUNNING && pool_instances(world->pool) == 2);
    struct call *d = arrive(world, (struct wish){.function = 1, .queue_max = 10});
    EXPECT(d->state == CALL_WAITING);
    pool_set_instances_max(world->pool, 0); /* no bound any more: it goes on at once */
    pump(world);
    EXPECT(d->state == CALL_RUNNING && pool_instances(world->pool) == 3);
    pool_set_instances_max(world->pool, 1); /* below what there is: nothing ends for it */
    pump(world);
    EXPECT(pool_instances(world->pool) == 3);
    struct call *e = arrive(world, (struct wish){.function = 4, .queue_max = 10});
    EXPECT(e->state == CALL_WAITING);
    finish(world, b);
    EXPECT(e->state == CALL_RUNNING && pool_instances(world->pool) == 3);
    world_free(world);
}

TEST(instance_pool, respects_concurrency_max_and_the_order_of_calls)
{
    struct world *world = world_new(4, 1);
    struct wish wish = {.function = 1, .concurrency_max = 1, .queue_max = 10};
    struct call *a = arrive(world, wish);
    struct call *b = arrive(world, wish);
    struct call *c = arrive(world, wish);
    EXPECT(a->state == CALL_RUNNING && b->state == CALL_WAITING && c->state == CALL_WAITING);
    struct call *other = call_function(world, 2); /* is not held up by it */
    EXPECT(other->state == CALL_RUNNING);
    finish(world, a);
    EXPECT(b->state == CALL_RUNNING && c->state == CALL_WAITING);
    finish(world, b);
    EXPECT(c->state == CALL_RUNNING);
    world_free(world);
}

TEST(instance_pool, versions_have_a_concurrency_and_a_queue_of_their_own)
{
    struct world *world = world_new(4, 1);
    struct wish one = {.function = 1, .version = 1, .concurrency_max = 1, .queue_max = 9};
    struct wish two = {.function = 1, .version = 2, .queue_max = 9};
    struct call *calls[4] = {arrive(world, one), arrive(world, two), arrive(world, one)};
    EXPECT(calls[0]->state == CALL_RUNNING && calls[1]->state == CALL_RUNNING);
    EXPECT(calls[2]->state == CALL_WAITING);
    calls[2]->function = 2; /* the world looks at the order in a function */
    calls[3] = arrive(world, two);
    EXPECT(calls[3]->state == CALL_RUNNING && calls[2]->state == CALL_WAITING);
    finish(world, calls[1]);
    EXPECT(calls[2]->state == CALL_WAITING);
    finish(world, calls[0]);
    EXPECT(calls[2]->state == CALL_RUNNING);
    world_free(world);
}

TEST(instance_pool, refuses_the_call_after_queue_max)
{
    struct world *world = world_new(1, 1);
    struct wish wish = {.function = 1, .queue_max = 2};
    EXPECT(arrive(world, wish)->state == CALL_RUNNING);
    EXPECT(arrive(world, wish)->state == CALL_WAITING);
    EXPECT(arrive(world, wish)->state == CALL_WAITING);
    struct call *refused = arrive(world, wish);
    EXPECT(refused->state == CALL_FAILED && refused->failed == ERROR_OVERLOADED);
    EXPECT(pool_waiting(world->pool) == 2);
    world_free(world);
}

/*
 * Goal: a function without a queue can be called: the first call waits for loading, and one that
 * finds an idle slot does not need the queue.
 */
TEST(instance_pool, runs_a_function_without_a_queue)
{
    struct world *world = world_new(1, 1);
    struct wish wish = {.function = 1, .queue_max = 0};
    struct call *a = arrive(world, wish);
    EXPECT(a->state == CALL_RUNNING);
    EXPECT(arrive(world, wish)->failed == ERROR_OVERLOADED);
    finish(world, a);
    EXPECT(arrive(world, wish)->state == CALL_RUNNING);
    world_free(world);
}

/*
 * Goal: functions that wait take turns; a slot goes on with the same function for a while only.
 * Method: one slot, a hundred waiting calls of one function, then one call of another.
 */
TEST(instance_pool, lets_no_function_starve_another)
{
    struct world *world = world_new(1, 1);
    struct call *running = call_function(world, 1);
    struct call *flood[60];
    for (int i = 0; i < 60; i++) {
        flood[i] = call_function(world, 1);
    }
    struct call *late = call_function(world, 2);
    finish(world, running);
    unsigned ended = 0;
    while (late->state != CALL_RUNNING) {
        EXPECT(ended <= POOL_STREAK_MAX);
        EXPECT(flood[ended]->state == CALL_RUNNING);
        finish(world, flood[ended++]);
    }
    EXPECT(ended >= 1);
    world_free(world);
}

TEST(instance_pool, fails_the_calls_of_an_image_that_does_not_load)
{
    struct world *world = world_new(2, 1);
    struct call *good = call_function(world, 2);
    world->holds_loads = true;
    struct call *a = call_function(world, 1);
    struct call *b = call_function(world, 1);
    struct error error;
    error_set(&error, ERROR_TRAP, "trap: unreachable");
    pool_load_failed(world->pool, world->loads[0].runner, world->loads[0].image, &error);
    pump(world);
    EXPECT(a->state == CALL_FAILED && a->failed == ERROR_TRAP);
    EXPECT(b->state == CALL_FAILED && good->state == CALL_RUNNING);
    EXPECT(world->releases == 1);
    world_free(world);
}

TEST(instance_pool, moves_waiting_calls_to_a_new_runner_when_theirs_dies)
{
    struct world *world = world_new(1, 1);
    struct call *started = call_function(world, 1);
    struct call *waiting = call_function(world, 1);
    struct call *other = call_function(world, 2);
    die(world, 0);
    EXPECT(started->state == CALL_FREE);
    EXPECT(world->starts == 2);
    EXPECT(waiting->state == CALL_RUNNING && !waiting->is_warm);
    EXPECT(other->state == CALL_WAITING);
    finish(world, waiting);
    EXPECT(other->state == CALL_RUNNING);
    world_free(world);
}

/*
 * Goal: a runner that dies again and again is started ever more slowly, and calls are refused
 * meanwhile; a long life makes good.
 */
TEST(instance_pool, backs_off_from_a_runner_that_keeps_dying)
{
    struct world *world = world_new(1, 1);
    call_function(world, 1);
    die(world, 0);
    EXPECT(call_function(world, 1)->state == CALL_RUNNING); /* the first death is free */
    struct call *waiting = call_function(world, 1);
    die(world, 0);
    EXPECT(waiting->state == CALL_WAITING && world->starts == 2);
    EXPECT(call_function(world, 1)->failed == ERROR_OVERLOADED);
    EXPECT(pool_wake_ms(world->pool) == world->now_ms + POOL_BACKOFF_MS);
    advance(world, POOL_BACKOFF_MS - 1);
    EXPECT(world->starts == 2);
    advance(world, 1);
    EXPECT(world->starts == 3 && waiting->state == CALL_RUNNING);
    die(world, 0);
    waiting = call_function(world, 1);
    EXPECT(waiting->failed == ERROR_OVERLOADED);
    EXPECT(pool_wake_ms(world->pool) == UINT64_MAX); /* nobody waits: nothing to wake for */
    advance(world, 2 * POOL_BACKOFF_MS);
    EXPECT(call_function(world, 1)->state == CALL_RUNNING);
    world->now_ms += POOL_SHORT_LIFE_MS;
    die(world, 0);
    EXPECT(call_function(world, 1)->state == CALL_RUNNING);
    world_free(world);
}

TEST(instance_pool, blames_an_image_whose_loading_kills_runners)
{
    struct world *world = world_new(2, 1);
    world->holds_loads = true;
    struct call *call = call_function(world, 1);
    die(world, 0);
    EXPECT(call->state == CALL_WAITING && world->loads_seen == 2);
    die(world, 0);
    EXPECT(call->state == CALL_FAILED && call->failed == ERROR_UNAVAILABLE);
    world_free(world);
}

TEST(instance_pool, fails_what_waits_when_no_runner_can_be_started)
{
    struct world *world = world_new(2, 1);
    world->refuses_start = true;
    struct call *call = call_function(world, 1);
    EXPECT(call->state == CALL_FAILED && call->failed == ERROR_NOT_FOUND);
    EXPECT(call_function(world, 1)->failed == ERROR_OVERLOADED);
    EXPECT(world->starts == 1);
    world->refuses_start = false;
    advance(world, POOL_BACKOFF_MS);
    EXPECT(call_function(world, 1)->state == CALL_RUNNING);
    world_free(world);
}

TEST(instance_pool, times_out_calls_that_wait_too_long_and_only_those)
{
    struct world *world = world_new(1, 1);
    call_function(world, 1);
    struct call *brief = arrive(world, (struct wish){.function = 1, .queue_max = 9, .wait_ms = 50});
    struct call *patient =
        arrive(world, (struct wish){.function = 1, .queue_max = 9, .wait_ms = 500});
    EXPECT(pool_wake_ms(world->pool) == world->now_ms + 50);
    advance(world, 49);
    EXPECT(brief->state == CALL_WAITING);
    advance(world, 1);
    EXPECT(brief->state == CALL_FAILED && brief->failed == ERROR_TIMEOUT);
    EXPECT(patient->state == CALL_WAITING);
    EXPECT(pool_wake_ms(world->pool) == patient->arrived_ms + 500);
    world_free(world);
}

TEST(instance_pool, adds_a_runner_only_after_calls_have_waited_a_while)
{
    struct world *world = world_new(1, 2);
    call_function(world, 1);
    struct call *second = call_function(world, 1);
    EXPECT(world->starts == 1);
    EXPECT(pool_wake_ms(world->pool) == world->now_ms + POOL_GROW_MS);
    advance(world, POOL_GROW_MS);
    EXPECT(world->starts == 2 && second->state == CALL_RUNNING && second->runner == 1);
    struct call *third = call_function(world, 1);
    advance(world, POOL_GROW_MS);
    EXPECT(world->starts == 2 && third->state == CALL_WAITING);
    EXPECT(pool_wake_ms(world->pool) > world->now_ms); /* a deadline, no start */
    world_free(world);
}

TEST(instance_pool, forgets_an_image_when_its_last_call_has_ended_and_then_ends_the_runner)
{
    struct world *world = world_new(2, 1);
    struct call *call = call_function(world, 1);
    forget(world, "f1", "i1", (struct pool_settings){0});
    EXPECT(world->unloads == 0 && world->ends == 0);
    finish(world, call);
    EXPECT(world->unloads == 1 && world->releases == 1 && world->ends == 1);
    EXPECT(pool_is_empty(world->pool));
    EXPECT(call_function(world, 1)->state == CALL_RUNNING); /* and it can be had again */
    world_free(world);
}

TEST(instance_pool, keeps_images_with_other_limits_apart)
{
    struct world *world = world_new(2, 1);
    struct error error = {0};
    struct call *calls = world->calls;
    struct pool_request requests[2];
    for (unsigned i = 0; i < 2; i++) {
        requests[i] = (struct pool_request){
            .function = "f", .image_id = "i", .queue_max = 1, .wait_ms_max = 1000};
        requests[i].limits.memory_bytes = 65536 * (i + 1);
        EXPECT(pool_arrive(world->pool, &calls[i].pool, &requests[i], world->now_ms, &error) == 0);
        calls[i].state = CALL_WAITING;
        calls[i].order = i;
        pump(world);
    }
    EXPECT(world->loads_seen == 2);
    EXPECT(calls[0].pool.image != calls[1].pool.image);
    finish(world, &calls[0]);
    finish(world, &calls[1]);
    EXPECT(!pool_requests_share(&requests[0], &requests[1]));
    pool_forget(world->pool, &requests[0]);
    pool_forget(world->pool, &requests[1]);
    pump(world);
    EXPECT(world->unloads == 2 && pool_is_empty(world->pool));
    world_free(world);
}

TEST(instance_pool, prepares_an_image_without_a_call)
{
    struct world *world = world_new(2, 1);
    struct vmm_limits limits = {0};
    struct call *prepare = &world->calls[0];
    prepare->state = CALL_WAITING;
    pool_prepare(world->pool, &prepare->pool,
                 &(struct pool_request){.function = "f", .image_id = "i1", .limits = limits});
    pump(world);
    EXPECT(prepare->state == CALL_PREPARED && world->starts == 1 && world->loads_seen == 1);
    struct call *call = call_function(world, 1);
    EXPECT(call->state == CALL_RUNNING && world->loads_seen == 1);

    struct call *failing = &world->calls[10];
    failing->state = CALL_WAITING;
    world->loaded_image_fails = true;
    pool_prepare(world->pool, &failing->pool,
                 &(struct pool_request){.function = "f", .image_id = "i2", .limits = limits});
    pump(world);
    EXPECT(failing->state == CALL_FAILED && failing->failed == ERROR_TRAP);
    world_free(world);
}

TEST(instance_pool, unloads_the_least_recently_used_image_beyond_the_bound)
{
    struct world *world = world_new(1, 1);
    for (unsigned i = 0; i <= POOL_IMAGES_MAX; i++) {
        char image[16];
        snprintf(image, sizeof(image), "image%u", i);
        struct call *call =
            arrive(world, (struct wish){.function = 1, .image = image, .queue_max = 1});
        finish(world, call);
    }
    EXPECT(world->unloads == 1 && world->releases == 1);
    EXPECT(pool_runner_images(world->pool, 0) == POOL_IMAGES_MAX);
    unsigned loads = world->loads_seen;
    finish(world, arrive(world, (struct wish){.function = 1, .image = "image1", .queue_max = 1}));
    EXPECT(world->loads_seen == loads); /* still there */
    finish(world, arrive(world, (struct wish){.function = 1, .image = "image0", .queue_max = 1}));
    EXPECT(world->loads_seen == loads + 1); /* was the one to go */
    world_free(world);
}

TEST(instance_pool, takes_a_cancelled_call_out_of_the_queue)
{
    struct world *world = world_new(1, 1);
    struct call *a = call_function(world, 1);
    struct call *b = call_function(world, 1);
    struct call *c = call_function(world, 1);
    pool_cancel(world->pool, &b->pool);
    b->state = CALL_FREE;
    pump(world);
    finish(world, a);
    EXPECT(c->state == CALL_RUNNING && pool_waiting(world->pool) == 0);
    world_free(world);
}

/* ---- Random sequences ---- */

static unsigned random_below(uint64_t *state, unsigned bound)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (unsigned)((*state >> 33) % bound);
}

static struct call *random_call(struct world *world, uint64_t *seed, enum call_state state)
{
    unsigned start = random_below(seed, CALLS_MAX);
    for (unsigned i = 0; i < CALLS_MAX; i++) {
        struct call *call = &world->calls[(start + i) % CALLS_MAX];
        if (call->state == state) {
            return call;
        }
    }
    return NULL;
}

static void forget_failed(struct world *world)
{
    for (unsigned i = 0; i < CALLS_MAX; i++) {
        enum call_state state = world->calls[i].state;
        if (state == CALL_FAILED || state == CALL_PREPARED) {
            world->calls[i].state = CALL_FREE;
        }
    }
}

static void random_load(struct world *world, uint64_t *seed)
{
    if (world->load_count == 0) {
        return;
    }
    unsigned i = random_below(seed, world->load_count);
    unsigned runner = world->loads[i].runner;
    struct pool_image *image = world->loads[i].image;
    world->loads[i] = world->loads[--world->load_count];
    if (random_below(seed, 8) == 0) {
        struct error error;
        error_set(&error, ERROR_TRAP, "trap");
        pool_load_failed(world->pool, runner, image, &error);
    } else {
        pool_loaded(world->pool, runner, image);
    }
    pump(world);
}

/* As a function of its number, that all its calls have the same. */
static struct pool_settings settings_of(unsigned function)
{
    static const struct pool_settings settings[] = {
        {0},
        {.idle_ms = 1000},
        {.idle_ms = 300, .instances_max = 2},
        {.idle_ms = 2000, .instances_min = 2, .recycle_calls = 3},
        {.is_sticky = true, .recycle_ms = 700},
        {.instances_min = 5},
    };
    return settings[function % (sizeof(settings) / sizeof(settings[0]))];
}

static void random_word(struct world *world, uint64_t *seed)
{
    unsigned number = random_below(seed, 8);
    char function[16];
    char image[16];
    snprintf(function, sizeof(function), "f%u", number);
    snprintf(image, sizeof(image), "i%u", number);
    const struct pool_request request = {
        .function = function, .image_id = image, .version = 1, .settings = settings_of(number)};
    switch (random_below(seed, 6)) {
    case 0:
    case 1:
        pool_want(world->pool, &request, random_below(seed, 2) == 0, world->now_ms);
        break;
    case 2:
        pool_expect(world->pool, &request, random_below(seed, 2) == 0, random_below(seed, 9),
                    world->now_ms);
        break;
    case 3:
        pool_set_instances_max(world->pool, random_below(seed, 2 * SLOTS));
        break;
    case 4:
        pool_set_pressure(world->pool, (enum pool_pressure)random_below(seed, 3));
        break;
    default:
        pool_forget(world->pool, &request);
        break;
    }
    pump(world);
}

static void random_arrival(struct world *world, uint64_t *seed)
{
    struct wish wish = {
        .function = random_below(seed, 8),
        .queue_max = random_below(seed, 12),
        .wait_ms = 1 + random_below(seed, 3000),
    };
    wish.concurrency_max = wish.function % 3; /* 0 (none), 1, 2 */
    wish.settings = settings_of(wish.function);
    if (random_below(seed, 6) == 0) {
        wish.image = "shared";
    }
    arrive(world, wish);
}

static void random_event(struct world *world, uint64_t *seed)
{
    unsigned dice = random_below(seed, 100);
    struct call *running = random_call(world, seed, CALL_RUNNING);
    struct call *waiting = random_call(world, seed, CALL_WAITING);
    if (dice < 45) {
        random_arrival(world, seed);
    } else if (dice < 80 && running != NULL) {
        finish(world, running);
    } else if (dice < 84 && waiting != NULL) {
        pool_cancel(world->pool, &waiting->pool);
        waiting->state = CALL_FREE;
        pump(world);
    } else if (dice < 88) {
        random_word(world, seed);
    } else if (dice < 90) {
        unsigned runner = random_below(seed, RUNNERS);
        if (world->is_alive[runner]) {
            die(world, runner);
        }
    } else if (dice < 97) {
        random_load(world, seed);
    } else {
        advance(world, random_below(seed, random_below(seed, 8) == 0 ? 20000 : 400));
    }
}

static bool anything_left(const struct world *world)
{
    return pool_waiting(world->pool) + pool_busy(world->pool) > 0;
}

/* With nothing more arriving, every call must come to its end, by events and the pool's own
 * wake-ups. */
static void run_dry(struct world *world, uint64_t *seed)
{
    for (unsigned steps = 0; anything_left(world); steps++) {
        EXPECT(steps < 20000);
        struct call *running = random_call(world, seed, CALL_RUNNING);
        if (running != NULL) {
            finish(world, running);
        } else if (world->load_count > 0) {
            random_load(world, seed);
        } else {
            uint64_t wake_ms = pool_wake_ms(world->pool);
            EXPECT(wake_ms != UINT64_MAX);
            advance(world, wake_ms > world->now_ms ? wake_ms - world->now_ms : 1);
        }
    }
}

/* What a node can be told to have is what a pool can have. */
TEST(instance_pool, takes_what_the_options_of_a_node_allow)
{
    static const struct {
        const char *name;
        uint64_t most;
    } options[] = {
#define OPTION_TEXT(name, otherwise, text)
#define OPTION_U64(name, otherwise, least, most, unit, text) {#name, most},
#include "options.def"
#undef OPTION_U64
#undef OPTION_TEXT
    };
    unsigned seen = 0;
    for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++) {
        if (strcmp(options[i].name, "runners_max") == 0) {
            EXPECT(options[i].most == POOL_RUNNERS_MAX);
            seen++;
        } else if (strcmp(options[i].name, "slots_per_runner") == 0) {
            EXPECT(options[i].most == POOL_SLOTS_MAX);
            seen++;
        }
    }
    EXPECT(seen == 2);
}

/*
 * Goal: whatever happens in whatever order, two calls never share a slot, functions keep their
 * order, the pool's parts agree with each other (pool_check() after each effect), and every call
 * ends.
 * Method: random events from fixed seeds, with calls, loads, deaths, cancellations and time mixed.
 */
TEST(instance_pool, holds_its_invariants_in_random_sequences)
{
    for (uint64_t round = 1; round <= 60; round++) {
        uint64_t seed = round * 7919;
        struct world *world =
            world_new(1 + (unsigned)(round % SLOTS), 1 + (unsigned)(round % RUNNERS));
        world->holds_loads = round % 2 == 0;
        for (unsigned step = 0; step < 1500; step++) {
            random_event(world, &seed);
            forget_failed(world);
        }
        run_dry(world, &seed);
        world_free(world);
    }
}
