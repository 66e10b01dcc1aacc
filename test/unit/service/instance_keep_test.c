#include "base/error.h"
#include "base/file.h"
#include "base/memory.h"

#include "service/instance/pressure.h"

#include "test/unit/service/pool_world.h"

/* ---- Instances that nobody calls ---- */

static struct call *call_with(struct world *world, unsigned function, struct pool_settings settings)
{
    return arrive(world,
                  (struct wish){.function = function, .queue_max = 100, .settings = settings});
}

static void want_version(struct world *world, uint64_t version, struct pool_settings settings,
                         bool is_wanted)
{
    pool_want(world->pool,
              &(struct pool_request){
                  .function = "f1", .image_id = "i1", .version = version, .settings = settings},
              is_wanted, world->now_ms);
    pump(world);
}

static void want(struct world *world, struct pool_settings settings)
{
    want_version(world, 1, settings, true);
}

TEST(instance_keep, instances_min_are_there_before_anybody_calls)
{
    struct world *world = world_new(4, 1);
    want(world, (struct pool_settings){.instances_min = 2, .idle_ms = 60000});
    EXPECT(world->starts == 1 && world->loads_seen == 1 && world->warmed == 2);
    EXPECT(pool_instances(world->pool) == 2);
    struct pool_settings settings = {.instances_min = 2, .idle_ms = 60000};
    EXPECT(call_with(world, 1, settings)->is_warm);
    die(world, 0); /* and again on the next runner */
    advance(world, POOL_KEEP_MS);
    EXPECT(pool_instances(world->pool) == 2 && world->starts == 2);
    advance(world, 10 * 3600 * 1000); /* nobody calls for hours */
    EXPECT(pool_instances(world->pool) == 2);
    forget(world, "f1", "i1", settings);
    EXPECT(pool_is_empty(world->pool));
    EXPECT(pool_wake_ms(world->pool) == UINT64_MAX || pool_wake_ms(world->pool) > 0);
    world_free(world);
}

TEST(instance_keep, instances_max_holds_and_calls_wait_for_one_of_them)
{
    struct world *world = world_new(4, 2);
    struct pool_settings settings = {.instances_max = 2};
    struct call *first = call_with(world, 1, settings);
    struct call *second = call_with(world, 1, settings);
    struct call *third = call_with(world, 1, settings);
    struct call *other = call_function(world, 2);
    EXPECT(first->state == CALL_RUNNING && second->state == CALL_RUNNING);
    EXPECT(third->state == CALL_WAITING && other->state == CALL_RUNNING);
    advance(world, 10 * POOL_GROW_MS);
    EXPECT(third->state == CALL_WAITING && world->starts == 1);
    finish(world, first);
    EXPECT(third->state == CALL_RUNNING && third->is_warm);
    world_free(world);
}

TEST(instance_keep, instances_min_holds_beyond_one_runner_and_beside_others_instances)
{
    struct world *world = world_new(4, 3);
    struct pool_settings settings = {.instances_min = 6, .idle_ms = 60000};
    finish(world, call_function(world, 2)); /* it keeps a slot of the first runner */
    want(world, settings);
    EXPECT(pool_instances(world->pool) == 7 && world->starts == 2);
    pool_set_instances_max(world->pool, 8);
    want(world, settings);
    want_version(world, 2, settings, true); /* the quota is held all the same */
    EXPECT(pool_instances(world->pool) == 8 && world->starts == 2);
    world_free(world);
}

TEST(instance_keep, after_a_burst_runners_go_and_what_is_loaded_stays_on_one)
{
    struct world *world = world_new(2, 3);
    struct pool_settings settings = {.idle_ms = 1000};
    struct call *calls[6];
    for (unsigned i = 0; i < 6; i++) {
        calls[i] = call_with(world, 1, settings);
        advance(world, POOL_GROW_MS);
    }
    EXPECT(world->starts == 3);
    for (unsigned i = 0; i < 6; i++) {
        finish(world, calls[i]);
    }
    advance(world, POOL_KEEP_MS);
    EXPECT(pool_instances(world->pool) == 0 && world->ends == 0); /* they may come again soon */
    finish(world, call_with(world, 2, settings)); /* it is loaded in the first one alone */
    EXPECT(pool_runner_images(world->pool, 0) == 2);
    advance(world, POOL_KEEP_MS);
    advance(world, POOL_SURPLUS_MS);
    EXPECT(world->ends == 2 && pool_runner_images(world->pool, 0) == 2);
    EXPECT(pool_wake_ms(world->pool) == UINT64_MAX);
    EXPECT(call_with(world, 1, settings)->state == CALL_RUNNING);
    world_free(world);
}

/*
 * Goal: versions and functions of one module do not take each other's instances, nor what is said
 * of them.
 * Method: a new version of the same code, as a change of the environment is one; a function beside
 * it that wants none; and one that is called.
 */
TEST(instance_keep, instances_min_holds_of_each_version_and_function_of_one_module)
{
    struct world *world = world_new(8, 1);
    struct pool_settings settings = {.instances_min = 2, .idle_ms = 60000};
    want_version(world, 1, settings, true);
    want_version(world, 2, settings, true);
    want_version(world, 1, settings, false); /* the alias has moved */
    advance(world, POOL_KEEP_MS);
    EXPECT(pool_instances(world->pool) == 2);
    struct call *other = arrive(world, (struct wish){.function = 2, .image = "i1", .queue_max = 9});
    EXPECT(!other->is_warm); /* one of its own */
    advance(world, POOL_KEEP_MS);
    EXPECT(pool_instances(world->pool) == 3);
    EXPECT(
        arrive(
            world,
            (struct wish){
                .function = 1, .image = "i1", .version = 2, .queue_max = 9, .settings = settings})
            ->is_warm);
    want_version(world, 3, settings, false); /* of which nothing is known */
    world_free(world);
}

TEST(instance_keep, functions_of_one_module_are_forgotten_one_by_one)
{
    struct world *world = world_new(8, 1);
    struct pool_settings least = {.instances_min = 2, .idle_ms = 60000};
    struct pool_settings plain = {.idle_ms = 60000};
    want(world, least);
    struct call *other = arrive(
        world, (struct wish){.function = 2, .image = "i1", .queue_max = 9, .settings = plain});
    EXPECT(pool_instances(world->pool) == 3);
    forget(world, "f1", "i1", least);
    EXPECT(pool_instances(world->pool) == 1 && world->unloads == 1 && world->ends == 0);
    forget(world, "f2", "i1", plain);
    struct call *late = arrive(
        world, (struct wish){.function = 2, .image = "i1", .queue_max = 9, .settings = plain});
    EXPECT(late->state == CALL_RUNNING); /* it was on its way, and keeps nothing here */
    finish(world, other);
    finish(world, late);
    EXPECT(pool_is_empty(world->pool) && world->ends == 1);
    world_free(world);
}

/* One more runner would not help them: nobody wakes for it again and again. */
TEST(instance_keep, calls_at_a_bound_while_all_slots_are_busy_wait_for_an_end)
{
    struct world *world = world_new(4, 2);
    struct pool_settings settings = {.instances_max = 4};
    struct call *calls[5];
    for (unsigned i = 0; i < 5; i++) {
        calls[i] = call_with(world, 1, settings);
    }
    advance(world, POOL_GROW_MS);
    EXPECT(calls[4]->state == CALL_WAITING && world->starts == 1);
    struct call *other = call_function(world, 2); /* it would help this one, behind them */
    EXPECT(pool_wake_ms(world->pool) == world->now_ms + POOL_GROW_MS);
    pool_set_instances_max(world->pool, 4); /* but not beyond the quota */
    advance(world, POOL_GROW_MS);
    EXPECT(other->state == CALL_WAITING && world->starts == 1);
    pool_set_instances_max(world->pool, 5);
    pump(world);
    EXPECT(other->state == CALL_RUNNING && world->starts == 2);
    finish(world, calls[0]);
    EXPECT(calls[4]->state == CALL_RUNNING);
    world_free(world);
}

TEST(instance_keep, without_calls_for_idle_ms_nothing_is_kept)
{
    struct world *world = world_new(4, 1);
    struct pool_settings settings = {.idle_ms = 60000};
    finish(world, call_with(world, 1, settings));
    advance(world, 59000);
    EXPECT(pool_instances(world->pool) == 1 && world->cooled == 0);
    advance(world, 1000 + POOL_KEEP_MS);
    EXPECT(pool_instances(world->pool) == 0 && world->cooled == 1);
    EXPECT(pool_wake_ms(world->pool) == UINT64_MAX); /* nothing ticks when nothing is kept */
    EXPECT(!call_with(world, 1, settings)->is_warm);
    world_free(world);
}

static void burst(struct world *world, struct pool_settings settings, unsigned calls,
                  unsigned *ret_cold)
{
    struct call *running[8];
    *ret_cold = 0;
    for (unsigned i = 0; i < calls; i++) {
        running[i] = call_with(world, 1, settings);
        *ret_cold += !running[i]->is_warm;
    }
    for (unsigned i = 0; i < calls; i++) {
        finish(world, running[i]);
    }
}

/*
 * Goal: what is taken away between two bursts is there again before the second one.
 * Method: another function takes all slots after the first burst, and goes; then they are warmed.
 */
TEST(instance_keep, what_was_learnt_is_warm_before_the_next_burst)
{
    struct world *world = world_new(4, 1);
    struct pool_settings settings = {.idle_ms = 600000};
    struct pool_settings short_lived = {.idle_ms = 1000};
    unsigned cold = 0;
    burst(world, settings, 4, &cold);
    EXPECT(cold == 4);
    struct call *others[4];
    for (unsigned i = 0; i < 4; i++) {
        others[i] = call_with(world, 2, short_lived);
    }
    for (unsigned i = 0; i < 4; i++) {
        finish(world, others[i]);
    }
    for (unsigned i = 0; i < 12; i++) {
        advance(world, POOL_KEEP_MS);
    }
    burst(world, settings, 4, &cold);
    EXPECT(cold == 0 && world->warmed == 4);
    world_free(world);
}

static void expect(struct world *world, struct pool_settings settings, bool is_known,
                   unsigned count)
{
    pool_expect(world->pool,
                &(struct pool_request){
                    .function = "f1", .image_id = "i1", .version = 1, .settings = settings},
                is_known, count, world->now_ms);
    pump(world);
}

TEST(instance_keep, what_is_foreseen_is_there_before_it_comes_and_goes_when_nothing_is)
{
    struct world *world = world_new(4, 1);
    struct pool_settings settings = {.idle_ms = 600000, .instances_max = 3};
    expect(world, settings, true, 2); /* nobody has ever called it */
    EXPECT(pool_instances(world->pool) == 2 && world->warmed == 2);
    struct call *one = call_with(world, 1, settings);
    struct call *two = call_with(world, 1, settings);
    EXPECT(one->is_warm && two->is_warm && pool_counts(world->pool)->foreseen == 2);
    finish(world, one);
    finish(world, two);
    one = call_with(world, 1, settings);
    EXPECT(one->is_warm && pool_counts(world->pool)->foreseen == 2); /* was used a moment ago */
    finish(world, one);
    expect(world, settings, true, 9); /* never beyond instances_max */
    advance(world, POOL_KEEP_MS);
    EXPECT(pool_instances(world->pool) == 3);
    expect(world, settings, true, 0);
    advance(world, POOL_SURPLUS_MS + (uint64_t)DEMAND_INTERVAL_MS);
    advance(world, POOL_KEEP_MS);
    EXPECT(pool_instances(world->pool) == 0); /* whatever the last hour was */
    world_free(world);
}

TEST(instance_keep, a_forecast_that_is_taken_back_leaves_what_was_learnt)
{
    struct world *world = world_new(4, 1);
    struct pool_settings settings = {.idle_ms = 600000};
    struct call *calls[2] = {call_with(world, 1, settings), call_with(world, 1, settings)};
    advance(world, DEMAND_INTERVAL_MS);
    finish(world, calls[0]);
    finish(world, calls[1]);
    expect(world, settings, true, 4);
    EXPECT(pool_instances(world->pool) == 4);
    expect(world, settings, false, 0);
    advance(world, POOL_SURPLUS_MS + POOL_KEEP_MS);
    EXPECT(pool_instances(world->pool) == 2);
    forget(world, "f1", "i1", settings);
    expect(world, settings, true, 0); /* nothing is made or kept for it */
    EXPECT(pool_instances(world->pool) == 0);
    world_free(world);
}

static void note_load(const char *function, unsigned peak, uint64_t calls, void *context)
{
    uint64_t *seen = context;
    EXPECT_STRING(function, "f1");
    seen[0] = peak;
    seen[1] = calls;
}

TEST(instance_keep, load_is_the_most_at_once_since_it_was_taken)
{
    struct world *world = world_new(2, 1);
    struct pool_settings settings = {.idle_ms = 600000};
    uint64_t seen[2] = {0};
    struct call *calls[3];
    for (int i = 0; i < 3; i++) {
        calls[i] = call_with(world, 1, settings); /* the third one waits */
    }
    pool_take_load(world->pool, note_load, seen);
    EXPECT(seen[0] == 3 && seen[1] == 3);
    finish(world, calls[0]);
    pool_take_load(world->pool, note_load, seen);
    EXPECT(seen[0] == 3 && seen[1] == 0); /* as it was when it was taken */
    finish(world, calls[1]);
    pool_take_load(world->pool, note_load, seen);
    EXPECT(seen[0] == 2);
    finish(world, calls[2]);
    pool_take_load(world->pool, note_load, seen);
    pool_take_load(world->pool, note_load, seen);
    EXPECT(seen[0] == 0);
    world_free(world);
}

static struct pool_look look_at(const struct world *world, uint64_t version,
                                struct pool_settings settings)
{
    struct pool_look look;
    pool_look(world->pool,
              &(struct pool_request){
                  .function = "f1", .image_id = "i1", .version = version, .settings = settings},
              &look);
    return look;
}

/* Goal: what runs and waits is a version's own; instances are those that it shares with others. */
TEST(instance_keep, how_it_stands_with_a_version)
{
    struct world *world = world_new(2, 1);
    struct pool_settings settings = {.idle_ms = 600000};
    struct pool_look look = look_at(world, 1, settings);
    EXPECT(look.running == 0 && look.waiting == 0 && look.idle == 0 && look.image == NULL);
    struct call *a = call_with(world, 1, settings);
    struct call *b = call_with(world, 1, settings);
    struct call *c = call_with(world, 1, settings);
    look = look_at(world, 1, settings);
    EXPECT(look.running == 2 && look.waiting == 1 && look.idle == 0);
    finish(world, a);
    finish(world, b);
    look = look_at(world, 1, settings);
    EXPECT(look.running == 1 && look.waiting == 0 && look.idle == 1);
    const struct pool_image *image = look.image;
    look = look_at(world, 2, settings);
    EXPECT(look.running == 0 && look.idle == 1 && look.image == image && image != NULL);
    look = look_at(world, 2, (struct pool_settings){.idle_ms = 1});
    EXPECT(look.idle == 0 && look.image == NULL);
    finish(world, c);
    world_free(world);
}

TEST(instance_keep, an_instance_ends_after_recycle_calls_and_recycle_ms)
{
    struct world *world = world_new(2, 1);
    struct pool_settings settings = {.recycle_calls = 2, .recycle_ms = 100000};
    struct call *call = call_with(world, 1, settings);
    finish(world, call);
    call = call_with(world, 1, settings);
    EXPECT(call->is_warm);
    finish(world, call);
    EXPECT(pool_instances(world->pool) == 0);
    call = call_with(world, 1, settings);
    EXPECT(!call->is_warm);
    finish(world, call);
    advance(world, 100000 + POOL_KEEP_MS);
    EXPECT(pool_instances(world->pool) == 1 && pool_counts(world->pool)->recycled == 2);
    world_free(world);
}

/* Goal: with state, no call finds what is older than recycle_ms.  Method: calls on either side. */
TEST(instance_keep, a_call_finds_no_state_that_is_older_than_recycle_ms)
{
    struct world *world = world_new(2, 1);
    struct pool_settings settings = {.is_sticky = true, .recycle_ms = 700, .instances_max = 1};
    finish(world, call_with(world, 1, settings));
    advance(world, 699);
    struct call *call = call_with(world, 1, settings);
    EXPECT(call->is_warm);
    struct call *next = call_with(world, 1, settings);
    advance(world, 1);
    finish(world, call); /* another one waits for the same slot */
    EXPECT(next->state == CALL_RUNNING && !next->is_warm &&
           pool_counts(world->pool)->recycled == 1);
    finish(world, next);
    advance(world, 700);
    call = call_with(world, 1, settings);
    EXPECT(!call->is_warm && pool_instances(world->pool) == 1);
    EXPECT(pool_counts(world->pool)->recycled == 2);
    finish(world, call);
    world_free(world);
}

TEST(instance_keep, state_is_not_shared_between_functions_and_versions)
{
    struct world *world = world_new(4, 1);
    struct pool_settings sticky = {.is_sticky = true};
    finish(world,
           arrive(world,
                  (struct wish){.function = 1, .image = "i", .queue_max = 9, .settings = sticky}));
    EXPECT(!arrive(world,
                   (struct wish){.function = 2, .image = "i", .queue_max = 9, .settings = sticky})
                ->is_warm);
    EXPECT(arrive(world,
                  (struct wish){.function = 1, .image = "i", .queue_max = 9, .settings = sticky})
               ->is_warm);
    EXPECT(!arrive(world, (struct wish){.function = 3, .image = "i", .queue_max = 9})->is_warm);
    world_free(world);
}

TEST(instance_keep, under_pressure_idle_instances_go)
{
    struct world *world = world_new(4, 1);
    struct pool_settings settings = {.instances_min = 1, .idle_ms = 600000};
    unsigned cold = 0;
    want(world, settings);
    burst(world, settings, 3, &cold);
    EXPECT(pool_instances(world->pool) == 3);
    pool_set_pressure(world->pool, POOL_PRESSURE_SOME);
    pump(world);
    EXPECT(pool_instances(world->pool) == 2); /* one, and look again */
    pool_set_pressure(world->pool, POOL_PRESSURE_SOME);
    pump(world);
    pool_set_pressure(world->pool, POOL_PRESSURE_SOME);
    pump(world);
    EXPECT(pool_instances(world->pool) == 1 && pool_counts(world->pool)->evicted == 2);
    pool_set_pressure(world->pool, POOL_PRESSURE_HIGH);
    pump(world);
    EXPECT(pool_instances(world->pool) == 0);
    pool_set_pressure(world->pool, POOL_PRESSURE_NONE);
    advance(world, POOL_KEEP_MS);
    EXPECT(pool_instances(world->pool) == 3);
    world_free(world);
}

/* Goal: an image whose only runner died is about to go; when it is kept warm it stays. */
TEST(instance_keep, what_is_kept_warm_survives_its_runner)
{
    struct world *world = world_new(4, 1);
    struct pool_settings settings = {.idle_ms = 600000};
    finish(world, call_with(world, 1, settings));
    die(world, 0);
    EXPECT(world->starts == 2 && pool_instances(world->pool) == 1 && world->warmed == 1);
    EXPECT(call_with(world, 1, settings)->is_warm);
    world_free(world);
}

/* ---- Demand ---- */

TEST(instance_demand, learns_peaks_and_leaves_out_what_is_rare)
{
    struct demand demand = {0};
    uint64_t now_ms = 5000;
    EXPECT(demand_target(&demand, now_ms) == 0);
    demand_note(&demand, 7, now_ms);
    EXPECT(demand_target(&demand, now_ms) == 7); /* at once */
    for (unsigned i = 0; i < DEMAND_INTERVALS; i++) {
        now_ms += DEMAND_INTERVAL_MS;
        demand_note(&demand, i % 6 == 0 ? 10 : 1, now_ms);
        if (i == 100 || i == 200 || i == 300) {
            demand_note(&demand, 200, now_ms);
        }
    }
    now_ms += DEMAND_INTERVAL_MS;
    EXPECT(demand_target(&demand, now_ms) == 10); /* three of 360 are left out */
    now_ms += (uint64_t)DEMAND_INTERVAL_MS * DEMAND_INTERVALS;
    EXPECT(demand_target(&demand, now_ms) == 0); /* an hour later nothing is known */
}

static void put_group(const char *folder, const char *name, const char *text)
{
    struct error err = {0};
    MEMORY_OWNED char *place = memory_format("%s/%s", test_folder(), folder);
    MEMORY_OWNED char *path = memory_format("%s/%s", place, name);
    EXPECT(file_make_folder(place, 0755, &err) == 0);
    EXPECT(file_write(path, text, strlen(text), 0644, &err) == 0);
}

/* Goal: a limit of a service, or of what it is in, is seen before it ends the node.  Method: trees
 * of both versions. */
TEST(instance_pressure, the_tightest_group_counts)
{
    struct pressure_facts facts = {.total_bytes = 1000000, .available_bytes = 900000};
    put_group("system.slice", "memory.max", "max\n");
    put_group("system.slice", "memory.current", "700000\n");
    pressure_read_groups(test_folder(), "0::/system.slice/node.service\n", &facts);
    EXPECT(facts.total_bytes == 1000000 && facts.available_bytes == 900000);
    put_group("system.slice/node.service", "memory.max", "400000\n");
    put_group("system.slice/node.service", "memory.current", "390000\n");
    put_group("system.slice/node.service", "memory.stat",
              "anon 1\nactive_file 2\ninactive_file 50000\n");
    pressure_read_groups(test_folder(), "0::/system.slice/node.service\n", &facts);
    EXPECT(facts.total_bytes == 400000 && facts.available_bytes == 60000);
    put_group("system.slice", "memory.max", "500000\n");
    put_group("system.slice", "memory.current", "499000\n");
    facts = (struct pressure_facts){.total_bytes = 1000000, .available_bytes = 900000};
    pressure_read_groups(test_folder(), "0::/system.slice/node.service\n", &facts);
    EXPECT(facts.total_bytes == 500000 && facts.available_bytes == 1000);
    facts = (struct pressure_facts){.total_bytes = 1000000, .available_bytes = 900000};
    put_group("memory", "memory.limit_in_bytes", "9223372036854771712\n");
    put_group("memory/a", "memory.limit_in_bytes", "300000\n");
    put_group("memory/a", "memory.usage_in_bytes", "290000\n");
    put_group("memory/a", "memory.stat", "inactive_file 1\ntotal_inactive_file 5000\n");
    pressure_read_groups(test_folder(), "5:cpu,cpuacct:/x\n4:memory:/a/b\n0::/\n", &facts);
    EXPECT(facts.total_bytes == 300000 && facts.available_bytes == 15000);
    EXPECT(pressure_judge(&facts) == POOL_PRESSURE_HIGH);
    pressure_read_groups(test_folder(), "nonsense\n:\n::\n4:memory\n", &facts);
    EXPECT(facts.available_bytes == 15000);
}

TEST(instance_pressure, is_judged_by_what_is_left_and_by_who_waits)
{
    struct pressure_facts facts = {.total_bytes = 100000000, .available_bytes = 50000000};
    EXPECT(pressure_judge(&(struct pressure_facts){0}) == POOL_PRESSURE_NONE);
    EXPECT(pressure_judge(&facts) == POOL_PRESSURE_NONE);
    facts.stalled_permille = 900; /* by others' doing: there is enough */
    EXPECT(pressure_judge(&facts) == POOL_PRESSURE_NONE);
    facts.available_bytes = 20000000;
    EXPECT(pressure_judge(&facts) == POOL_PRESSURE_SOME);
    facts.stalled_permille = 0;
    EXPECT(pressure_judge(&facts) == POOL_PRESSURE_NONE);
    facts.available_bytes = 9000000;
    EXPECT(pressure_judge(&facts) == POOL_PRESSURE_SOME);
    facts.available_bytes = 4000000;
    EXPECT(pressure_judge(&facts) == POOL_PRESSURE_HIGH);
}
