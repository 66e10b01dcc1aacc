/* Triggers on a store of their own, with a source that the test holds; no function is called. */
#include "service/trigger/trigger.h"

#include <string.h>
#include <uv.h>

#include "base/error.h"
#include "base/json.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "engine/store/store.h"

#include "service/event/event.h"
#include "service/schema/schema.h"
#include "service/trigger/driver.h"
#include "service/trigger/parts.h"

#include "test/lib/test.h"

enum { TRIGGERS = 1000, BETWEEN_MS = 10 };

struct scene {
    struct loop *loop;
    struct store *store;
    struct trigger_service *service;
    struct trigger_source *sources[TRIGGERS];
    size_t count;  /* that run */
    size_t pushed; /* to as many */
    struct loop_timer *timer;
};

static int check(const json_t *settings, struct error *err)
{
    (void)settings;
    (void)err;
    return 0;
}

static int start(struct trigger_source *source, void *context, void **ret_state, struct error *err)
{
    struct scene *scene = context;
    (void)err;
    *ret_state = scene;
    scene->sources[scene->count++] = source;
    return 0;
}

static void stop(void *state)
{
    (void)state;
}

static const struct trigger_driver driver = {
    .kind = "probe", .check = check, .start = start, .stop = stop};

static void on_proposed(const struct error *error, uint64_t index, void *context)
{
    (void)index;
    (void)context;
    EXPECT_STRING(error != NULL ? error->text : "", "");
}

static void scene_open(struct scene *scene)
{
    struct error err = {0};
    const struct store_options options = {.folder = test_folder()};
    EXPECT(loop_new("test", &scene->loop, &err) == 0);
    EXPECT(store_open(scene->loop, &options, &scene->store, &err) == 0);
    const struct trigger_options triggers = {.loop = scene->loop, .store = scene->store};
    EXPECT(trigger_service_new(&triggers, &scene->service, &err) == 0);
    trigger_driver_add(scene->service, &driver, scene);
    trigger_service_start(scene->service);
    /* Nothing passes the filter, so that no function is called. */
    struct store_command *command = store_command_new();
    for (unsigned i = 0; i < TRIGGERS; i++) {
        char key[32];
        snprintf(key, sizeof(key), "default/t%u", i);
        store_command_add(
            command,
            "INSERT INTO trigger_row (key, project, name, kind, function, paused, config, "
            "created_ms, updated_ms, revision) VALUES (?, 'default', ?, 'probe', 'f', 0, ?, 0, 0, "
            "0)",
            "ttt", key, key + strlen("default/"),
            "{\"kind\": \"probe\", \"function\": \"f\", \"filter\": \"type = 'none'\"}");
        store_command_add(command, "INSERT INTO trigger_count (trigger) VALUES (?)", "t", key);
    }
    store_propose(scene->store, command, on_proposed, scene);
    while (scene->count < TRIGGERS) {
        uv_run(loop_uv(scene->loop), UV_RUN_ONCE);
    }
}

static void scene_close(struct scene *scene)
{
    loop_timer_free(scene->timer);
    trigger_service_free(scene->service);
    store_close(scene->store);
    loop_free(scene->loop);
}

static uint64_t written(struct scene *scene)
{
    struct error err = {0};
    uint64_t sum = 0;
    EXPECT(store_query(scene->store, &err, store_take_u64, &sum,
                       "SELECT sum(seen) FROM trigger_count", "") == 0);
    return sum;
}

static void push_next(void *context)
{
    struct scene *scene = context;
    struct event event = {0};
    event_init(&event, "1", "/probe", "probe", NULL, "", 0);
    trigger_push(scene->sources[scene->pushed], &(struct trigger_push){.event = &event});
    if (++scene->pushed < TRIGGERS) {
        loop_timer_start(scene->timer, BETWEEN_MS);
    }
}

/*
 * Goal: counts of one trigger are written while others go on to change.
 * Method: one trigger after the other sees its first event; the first counts are there before the
 * last one has seen its own.
 */
TEST(trigger, counts_are_written_while_other_triggers_go_on_to_change)
{
    struct scene scene = {0};
    scene_open(&scene);
    scene.timer = loop_timer_new(scene.loop, push_next, &scene);
    loop_timer_start(scene.timer, 0);
    while (written(&scene) == 0 && scene.pushed < TRIGGERS) {
        uv_run(loop_uv(scene.loop), UV_RUN_ONCE);
    }
    EXPECT(written(&scene) > 0);
    scene_close(&scene);
}

static uint64_t half_past_ten(void)
{
    return 10 * 3600000 + 1800000;
}

/*
 * Goal: a slot that was passed over is counted once, whoever sees that it was.
 * Method: two services that both think to own a schedule of every hour; of 7:00 to 10:00 nothing
 * was run, and they are to be skipped.
 */
TEST(trigger, slots_that_are_passed_over_are_counted_once_whoever_sees_them)
{
    struct scene scene = {0};
    struct trigger_service *services[2];
    struct error err = {0};
    uint64_t next_ms = 0;
    uint64_t skipped = 0;
    const struct store_options options = {.folder = test_folder()};
    EXPECT(loop_new("test", &scene.loop, &err) == 0);
    EXPECT(store_open(scene.loop, &options, &scene.store, &err) == 0);
    struct store_command *command = store_command_new();
    store_command_add(
        command,
        "INSERT INTO trigger_row (key, project, name, kind, function, paused, config, created_ms, "
        "updated_ms, revision) VALUES ('default/t', 'default', 't', 'cron', 'f', 0, ?, 0, 0, 0)",
        "t",
        "{\"kind\": \"cron\", \"function\": \"f\", \"settings\": {\"schedule\": \"@every 1h\", "
        "\"misfire\": \"skip\"}}");
    store_command_add(command, "INSERT INTO trigger_count (trigger) VALUES ('default/t')", "");
    store_command_add(
        command, "INSERT INTO cron_next (trigger, slot_ms, since_ms) VALUES ('default/t', ?, 0)",
        "u", (uint64_t)7 * 3600000);
    store_propose(scene.store, command, on_proposed, NULL);
    for (unsigned i = 0; i < 2; i++) {
        const struct trigger_options triggers = {
            .loop = scene.loop, .store = scene.store, .now_ms = half_past_ten};
        EXPECT(trigger_service_new(&triggers, &services[i], &err) == 0);
        trigger_service_start(services[i]);
    }
    while (next_ms != (uint64_t)11 * 3600000) {
        uv_run(loop_uv(scene.loop), UV_RUN_ONCE);
        store_query(scene.store, &err, store_take_u64, &next_ms, "SELECT slot_ms FROM cron_next",
                    "");
    }
    trigger_service_free(services[0]);
    trigger_service_free(services[1]);
    store_query(scene.store, &err, store_take_u64, &skipped, "SELECT skipped FROM trigger_count",
                "");
    EXPECT(skipped == 4);
    store_close(scene.store);
    loop_free(scene.loop);
}

/* A default is told in words where the type is described, and in force in the trigger's own table.
 */
TEST(trigger_config, defaults_are_those_that_the_types_tell)
{
    JSON_OWNED json_t *document = json_object();
    const char *key = NULL;
    json_t *value = NULL;
    trigger_config_complete(document);
    EXPECT(json_object_size(document) >= 5);
    json_object_foreach(document, key, value)
    {
        const struct schema_field *field = schema_find("TriggerSpec", key);
        EXPECT(field != NULL);
        MEMORY_OWNED char *told =
            memory_format("(default %lld)", (long long)json_integer_value(value));
        EXPECT(strstr(field->text, told) != NULL);
        field = schema_find("Trigger", key);
        EXPECT(field != NULL && strstr(field->text, told) != NULL);
    }
}
