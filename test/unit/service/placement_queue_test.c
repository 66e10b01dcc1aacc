/* Machines that wait: when they are looked at, and what is believed of their rows. */
#include <string.h>

#include "service/placement/parts.h"

#include "test/lib/test.h"

struct scene {
    struct placement_service service;
    struct waiting waiting;
};

static void open_scene(struct scene *scene)
{
    *scene = (struct scene){0};
    list_init(&scene->service.waiting);
    list_push_back(&scene->service.waiting, &scene->waiting.link);
    snprintf(scene->waiting.id, sizeof(scene->waiting.id), "%s", "0123456789abcdef");
}

static uint64_t next_ms(const struct scene *scene, uint64_t boot_ms, uint64_t real_ms)
{
    return queue_next_ms(&scene->service, boot_ms, real_ms);
}

/*
 * Goal: a reservation that expires wakes who waits, once.
 * Method: the moment before it, the moment itself, and what is waited for afterwards.
 */
TEST(placement_queue, what_expires_wakes_once)
{
    struct scene scene;
    open_scene(&scene);
    scene.waiting.is_blocked = true;
    scene.waiting.blocked.wake_ms = 5000;
    EXPECT(next_ms(&scene, 70, 4000) == 70 + 1001);
    queue_wake_late(&scene.service, 70, 4999);
    EXPECT(!scene.waiting.is_due);
    queue_wake_late(&scene.service, 70, 5000);
    EXPECT(scene.waiting.is_due);
    EXPECT(next_ms(&scene, 70, 5000) == 0); /* it is looked at by then, and waits for another one */
    scene.waiting.is_due = false;
    scene.waiting.is_under_way = true;
    EXPECT(next_ms(&scene, 70, 9000) == 0);
    list_remove(&scene.waiting.link);
}

TEST(placement_queue, the_clock_of_the_day_is_looked_at_every_now_and_then)
{
    struct scene scene;
    open_scene(&scene);
    scene.waiting.is_blocked = true;
    scene.waiting.blocked.wake_ms = UINT64_C(1) << 50;
    EXPECT(next_ms(&scene, 70, 4000) == 70 + PLACEMENT_CLOCK_MS);
    scene.waiting.retry_at_ms = 90;
    EXPECT(next_ms(&scene, 70, 4000) == 90);
    queue_wake_late(&scene.service, 90, 4000);
    EXPECT(scene.waiting.is_due && scene.waiting.retry_at_ms == 0);
    list_remove(&scene.waiting.link);
}

/* ---- With a state ---- */

static void on_done(const struct error *error, uint64_t index, void *context)
{
    struct error *kept = context;
    (void)index;
    *kept = error != NULL ? *error : (struct error){0};
}

/*
 * Goal: what could not be written is not believed to be written.
 * Method: a store that takes one command at a time, and has one already.
 */
TEST(placement_queue, what_was_not_written_is_read_again)
{
    struct scene scene;
    struct error err = {0};
    struct placement_service *service = &scene.service;
    const struct store_options options = {.folder = test_folder(), .proposals_max = 1};
    open_scene(&scene);
    EXPECT(loop_new("test", &service->options.loop, &err) == 0);
    EXPECT(store_open(service->options.loop, &options, &service->options.store, &err) == 0);
    service->look = loop_timer_new(service->options.loop, NULL, NULL);
    struct store_command *command = store_command_new();
    store_command_add(command,
                      "INSERT INTO machine (key, project, name, id, node, config, desired, state, "
                      "restarts, created_ms, revision, pending_ms, pending_reason) VALUES "
                      "('default/m', 'default', 'm', ?, '', '{}', 'running', 'pending', 0, 1, ?, "
                      "7, 'as it was')",
                      "tr", scene.waiting.id);
    store_propose(service->options.store, command, on_done, &err);
    store_settle(service->options.store);
    EXPECT(err.kind == ERROR_NONE);

    bool is_first_stale = false;
    bool is_second_stale = false;
    scene.waiting.reason = memory_copy_string("as it is");
    scene.waiting.since_ms = 9;
    for (int i = 0; i < 2; i++) {
        command = store_command_new();
        store_command_add(command, "UPDATE machine SET revision = ? WHERE id = ?", "rt",
                          scene.waiting.id);
        service_write(service, command, i == 0 ? &is_first_stale : &is_second_stale);
    }
    store_settle(service->options.store);
    while (service->pending > 0) {
        uv_run(loop_uv(service->options.loop), UV_RUN_ONCE);
    }
    EXPECT(!is_first_stale && is_second_stale);
    queue_read_again(service);
    EXPECT_STRING(scene.waiting.reason, "as it was");
    EXPECT(scene.waiting.since_ms == 7 && scene.waiting.is_due);

    list_remove(&scene.waiting.link);
    free(scene.waiting.reason);
    loop_timer_free(service->look);
    store_close(service->options.store);
    loop_free(service->options.loop);
}
