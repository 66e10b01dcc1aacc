#include "test/unit/service/queue/scene.h"

#include <uv.h>

uint64_t scene_now_ms = 1000000;

static uint64_t now(void)
{
    return scene_now_ms;
}

void scene_open(struct scene *scene)
{
    struct error err = {0};
    const struct store_options options = {.folder = test_folder()};
    EXPECT(loop_new("test", &scene->loop, &err) == 0);
    EXPECT(store_open(scene->loop, &options, &scene->store, &err) == 0);
    const struct queue_options queues = {scene->loop, scene->store, now};
    EXPECT(queue_service_new(&queues, &scene->service, &err) == 0);
}

void scene_close(struct scene *scene)
{
    queue_service_free(scene->service);
    store_close(scene->store);
    loop_free(scene->loop);
}

void scene_wait(struct scene *scene)
{
    while (!scene->is_over) {
        uv_run(loop_uv(scene->loop), UV_RUN_ONCE);
    }
    scene->is_over = false;
}

static void take_error(struct scene *scene, const struct error *error)
{
    scene->error = error != NULL ? *error : (struct error){0};
    scene->is_over = true;
}

void scene_on_reply(const struct error *error, void *context)
{
    take_error(context, error);
}

void scene_on_count(const struct error *error, uint64_t count, void *context)
{
    struct scene *scene = context;
    scene->count = count;
    take_error(scene, error);
}

enum error_kind scene_create(struct scene *scene, const char *name,
                             const struct queue_settings *settings)
{
    queue_create(scene->service, "default", name, settings,
                 (struct queue_reply){scene_on_reply, scene});
    scene_wait(scene);
    return scene->error.kind;
}

static void on_sent(const struct error *error, const struct queue_sent *sent, size_t count,
                    void *context)
{
    struct scene *scene = context;
    for (size_t i = 0; i < count && i < GOT_MAX; i++) {
        scene->sent[i] = sent[i];
    }
    take_error(scene, error);
}

enum error_kind scene_send(struct scene *scene, const char *name,
                           const struct queue_outgoing *message)
{
    queue_send(scene->service, "default", name, message, 1, on_sent, scene);
    scene_wait(scene);
    return scene->error.kind;
}

enum error_kind scene_send_text(struct scene *scene, const char *name, const char *text)
{
    const struct queue_outgoing message = {
        .body = text, .length = strlen(text), .delay_ms = QUEUE_DEFAULT};
    return scene_send(scene, name, &message);
}

void scene_on_received(const struct error *error, const struct queue_message *messages,
                       size_t count, void *context)
{
    struct scene *scene = context;
    scene->got_count = count;
    for (size_t i = 0; i < count; i++) {
        struct got *got = &scene->got[i];
        got->id = messages[i].id;
        got->receives = messages[i].receives;
        snprintf(got->receipt, sizeof(got->receipt), "%s", messages[i].receipt);
        snprintf(got->group, sizeof(got->group), "%s",
                 messages[i].group != NULL ? messages[i].group : "");
        snprintf(got->source, sizeof(got->source), "%s",
                 messages[i].source != NULL ? messages[i].source : "");
        snprintf(got->body, sizeof(got->body), "%.*s", (int)messages[i].length,
                 (const char *)messages[i].body);
    }
    take_error(scene, error);
}

size_t scene_receive(struct scene *scene, const char *name, size_t max)
{
    const struct queue_receive_options options = {.max = max, .visibility_ms = QUEUE_DEFAULT};
    queue_receive_new(scene->service, "default", name, &options, scene_on_received, scene);
    scene_wait(scene);
    return scene->got_count;
}

static void on_settled(const struct error *error, const struct error *errors, size_t count,
                       void *context)
{
    struct scene *scene = context;
    for (size_t i = 0; i < count; i++) {
        scene->errors[i] = errors[i];
    }
    take_error(scene, error != NULL ? error : &errors[0]);
}

enum error_kind scene_settle(struct scene *scene, const char *name, enum queue_settling settling,
                             const char *receipt, uint64_t time_ms)
{
    queue_settle(scene->service, "default", name, settling, &receipt, 1, time_ms, on_settled,
                 scene);
    scene_wait(scene);
    return scene->error.kind;
}

struct queue_status scene_status(struct scene *scene, const char *name)
{
    struct queue_status status;
    struct error err = {0};
    EXPECT(queue_read_status(scene->service, "default", name, &status, &err) == 0);
    return status;
}
