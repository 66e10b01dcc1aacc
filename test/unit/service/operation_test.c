#include "service/operation/operation.h"

#include <uv.h>

#include "base/buffer.h"
#include "base/json.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "engine/store/store.h"

#include "test/lib/test.h"

struct scene {
    struct loop *loop;
    struct store *store;
    struct operation_service *service;
    char id[OPERATION_ID_SIZE];
    struct error error;
    unsigned told;
    unsigned waits;
    unsigned cancels;
    unsigned proposals_max;
};

static void open_scene(struct scene *scene)
{
    struct error err = {0};
    const struct store_options options = {.folder = test_folder(),
                                          .proposals_max = scene->proposals_max};
    EXPECT(loop_new("test", &scene->loop, &err) == 0);
    EXPECT(store_open(scene->loop, &options, &scene->store, &err) == 0);
    EXPECT(operation_service_new(scene->loop, scene->store, &scene->service, &err) == 0);
}

static void close_scene(struct scene *scene)
{
    operation_service_free(scene->service);
    store_close(scene->store);
    loop_free(scene->loop);
}

static void on_begun(const struct error *error, uint64_t index, void *context)
{
    struct scene *scene = context;
    (void)index;
    scene->told++;
    scene->error = error != NULL ? *error : (struct error){0};
}

static void begin_with(struct scene *scene, const char *request, const char *digest)
{
    const struct operation_start start = {.kind = "test.kind",
                                          .project = "default",
                                          .resource = "functions/a/versions/1",
                                          .request = request,
                                          .request_digest = digest};
    struct store_command *command = store_command_new();
    operation_add(scene->service, command, &start, scene->id);
    store_propose(scene->store, command, on_begun, scene);
    store_settle(scene->store);
    if (scene->error.kind != ERROR_NONE) {
        operation_drop(scene->service, scene->id);
    }
}

static void begin(struct scene *scene)
{
    begin_with(scene, NULL, NULL);
    EXPECT(scene->error.kind == ERROR_NONE && strlen(scene->id) == OPERATION_ID_SIZE - 1);
}

static json_t *look(struct scene *scene)
{
    BUFFER_OWNED struct buffer out = {0};
    struct error err = {0};
    json_t *value = NULL;
    EXPECT(operation_write(scene->service, scene->id, &out, &err) == 0);
    EXPECT(json_read(out.data, out.used, &value, &err) == 0);
    return value;
}

static void expect_field(struct scene *scene, const char *name, const char *expected)
{
    JSON_OWNED json_t *value = look(scene);
    EXPECT_STRING(json_string_value(json_object_get(value, name)), expected);
}

TEST(operation, is_there_when_begun_and_keeps_its_result)
{
    struct scene scene = {0};
    open_scene(&scene);
    begin(&scene);
    expect_field(&scene, "state", "running");
    expect_field(&scene, "resource", "functions/a/versions/1");
    operation_progress(scene.service, scene.id, 40, "half way");
    expect_field(&scene, "text", "half way"); /* at once, written or not */
    operation_succeed(scene.service, scene.id, "{\"version\":1}");
    store_settle(scene.store);
    JSON_OWNED json_t *value = look(&scene);
    EXPECT_STRING(json_string_value(json_object_get(value, "state")), "succeeded");
    EXPECT(json_integer_value(json_object_get(value, "progress")) == 100);
    EXPECT(json_integer_value(json_object_get(json_object_get(value, "result"), "version")) == 1);
    close_scene(&scene);
}

TEST(operation, ends_once)
{
    struct scene scene = {0};
    struct error late = {0};
    open_scene(&scene);
    begin(&scene);
    operation_succeed(scene.service, scene.id, NULL);
    error_set(&late, ERROR_INVALID, "too late");
    operation_fail(scene.service, scene.id, &late);
    operation_progress(scene.service, scene.id, 10, "too late");
    store_settle(scene.store);
    expect_field(&scene, "state", "succeeded");
    close_scene(&scene);
}

TEST(operation, tells_why_it_failed_and_that_it_was_cancelled)
{
    struct scene scene = {0};
    struct error why = {0};
    open_scene(&scene);
    begin(&scene);
    error_set(&why, ERROR_INVALID, "no such instruction");
    operation_fail(scene.service, scene.id, &why);
    store_settle(scene.store);
    expect_field(&scene, "state", "failed");
    expect_field(&scene, "error", "no such instruction");
    expect_field(&scene, "error_code", "invalid");
    begin(&scene);
    error_set(&why, ERROR_CANCELLED, "cancelled");
    operation_fail(scene.service, scene.id, &why);
    store_settle(scene.store);
    expect_field(&scene, "state", "cancelled");
    close_scene(&scene);
}

static void on_cancel(void *context)
{
    struct scene *scene = context;
    scene->cancels++;
}

TEST(operation, is_cancelled_only_by_who_can_and_while_it_runs)
{
    struct scene scene = {0};
    struct error err = {0};
    open_scene(&scene);
    EXPECT(operation_cancel(scene.service, "nothing", &err) == -ERROR_NOT_FOUND);
    begin(&scene);
    EXPECT(operation_cancel(scene.service, scene.id, &err) == -ERROR_CONFLICT);
    operation_on_cancel(scene.service, scene.id, on_cancel, &scene);
    EXPECT(operation_cancel(scene.service, scene.id, &err) == 0 && scene.cancels == 1);
    operation_succeed(scene.service, scene.id, NULL);
    store_settle(scene.store);
    EXPECT(operation_cancel(scene.service, scene.id, &err) == -ERROR_CONFLICT);
    EXPECT(scene.cancels == 1);
    close_scene(&scene);
}

static void on_wait(void *context)
{
    struct scene *scene = context;
    scene->waits++;
    uv_stop(loop_uv(scene->loop));
}

static void run_until_waits(struct scene *scene, unsigned wanted)
{
    while (scene->waits < wanted) {
        loop_run(scene->loop);
    }
}

TEST(operation, waits_end_with_it_or_with_their_time)
{
    struct scene scene = {0};
    open_scene(&scene);
    begin(&scene);
    struct operation_wait *brief = operation_wait_new(scene.service, scene.id, 1, on_wait, &scene);
    run_until_waits(&scene, 1);
    expect_field(&scene, "state", "running");
    operation_wait_free(brief);

    struct operation_wait *patient =
        operation_wait_new(scene.service, scene.id, 600000, on_wait, &scene);
    operation_succeed(scene.service, scene.id, NULL);
    run_until_waits(&scene, 2);
    expect_field(&scene, "state", "succeeded");
    operation_wait_free(patient);

    struct operation_wait *late =
        operation_wait_new(scene.service, scene.id, 600000, on_wait, &scene);
    run_until_waits(&scene, 3); /* over already */
    operation_wait_free(late);
    close_scene(&scene);
}

/*
 * Goal: whoever waits for an operation is told, although its end could not be written at first.
 * Method: the store takes one proposal at a time, and is full when the operation ends; and a result
 * that no command has room for, which can never be written.
 */
TEST(operation, an_end_that_could_not_be_written_is_written_again)
{
    enum { LARGE = 2 << 20, WAIT_MS = 60000 };
    struct scene scene = {.proposals_max = 1};
    open_scene(&scene);
    begin(&scene);
    struct operation_wait *wait =
        operation_wait_new(scene.service, scene.id, WAIT_MS, on_wait, &scene);
    struct store_command *command = store_command_new();
    store_command_add(command, "DELETE FROM operation WHERE key = ?", "t", "nobody");
    store_propose(scene.store, command, NULL, NULL);
    operation_succeed(scene.service, scene.id, NULL);
    run_until_waits(&scene, 1);
    expect_field(&scene, "state", "succeeded");
    operation_wait_free(wait);

    begin(&scene);
    wait = operation_wait_new(scene.service, scene.id, WAIT_MS, on_wait, &scene);
    char *result = memory_new(LARGE + 1, 1);
    memset(result, '1', LARGE);
    operation_succeed(scene.service, scene.id, result);
    free(result);
    run_until_waits(&scene, 2);
    expect_field(&scene, "state", "failed");
    expect_field(&scene, "error_code", "too_large");
    operation_wait_free(wait);
    close_scene(&scene);
}

TEST(operation, what_ran_when_the_node_ended_is_failed)
{
    struct scene scene = {0};
    open_scene(&scene);
    begin(&scene);
    close_scene(&scene);
    char id[OPERATION_ID_SIZE];
    memcpy(id, scene.id, sizeof(id));
    open_scene(&scene);
    store_settle(scene.store);
    memcpy(scene.id, id, sizeof(id));
    expect_field(&scene, "state", "failed");
    JSON_OWNED json_t *value = look(&scene);
    EXPECT(strstr(json_string_value(json_object_get(value, "error")), "restart") != NULL);
    close_scene(&scene);
}

TEST(operation, is_found_by_the_request_that_began_it)
{
    struct scene scene = {0};
    struct error err = {0};
    char id[OPERATION_ID_SIZE];
    char first[OPERATION_ID_SIZE];
    char resource[OPERATION_RESOURCE_SIZE];
    struct operation_start start = {
        .project = "default", .request = "key-1", .request_digest = "abc"};
    open_scene(&scene);
    EXPECT(operation_find(scene.service, &start, id, resource, &err) == 0 && id[0] == '\0');
    begin_with(&scene, "key-1", "abc");
    EXPECT(scene.error.kind == ERROR_NONE);
    memcpy(first, scene.id, sizeof(first));
    EXPECT(operation_find(scene.service, &start, id, resource, &err) == 0);
    EXPECT_STRING(id, first);
    EXPECT_STRING(resource, "functions/a/versions/1");

    begin_with(&scene, "key-1", "abc"); /* a second one cannot be */
    EXPECT(scene.error.kind == ERROR_EXISTS);
    start.request_digest = "abd";
    EXPECT(operation_find(scene.service, &start, id, resource, &err) == -ERROR_INVALID);
    start.project = "other"; /* keys are a project's own */
    EXPECT(operation_find(scene.service, &start, id, resource, &err) == 0 && id[0] == '\0');
    begin(&scene);
    begin(&scene); /* without a key: as many as wanted */
    close_scene(&scene);
}

static void give_to(struct scene *scene, uint64_t node)
{
    struct store_command *command = store_command_new();
    store_command_add(command, "UPDATE operation SET node = ? WHERE key = ?", "ut", node,
                      scene->id);
    store_propose(scene->store, command, NULL, NULL);
    store_settle(scene->store);
}

static uint64_t own_id(struct scene *scene)
{
    struct store_status status;
    store_status(scene->store, &status);
    return status.node_id;
}

/*
 * Goal: what other nodes run is theirs: neither a start here nor anything written here touches it.
 * Method: the row is given to another node, by id.
 */
TEST(operation, of_another_node_is_left_alone)
{
    struct scene scene = {0};
    struct error err = {0};
    uint64_t node = 0;
    open_scene(&scene);
    begin(&scene);
    operation_on_cancel(scene.service, scene.id, on_cancel, &scene);
    give_to(&scene, 4711);
    EXPECT(scene.cancels == 1); /* who was at it here is told */
    EXPECT(operation_node(scene.service, scene.id, &node, &err) == 0 && node == 4711);
    operation_succeed(scene.service, scene.id, NULL);
    operation_progress(scene.service, scene.id, 50, "mine");
    EXPECT(operation_cancel(scene.service, scene.id, &err) == -ERROR_CONFLICT);
    store_settle(scene.store);
    expect_field(&scene, "state", "running");
    char id[OPERATION_ID_SIZE];
    memcpy(id, scene.id, sizeof(id));
    close_scene(&scene);
    open_scene(&scene);
    store_settle(scene.store);
    memcpy(scene.id, id, sizeof(id));
    expect_field(&scene, "state", "running");
    close_scene(&scene);
}

TEST(operation, is_gone_on_with_by_one_node_at_a_time)
{
    struct scene scene = {0};
    open_scene(&scene);
    begin(&scene);
    give_to(&scene, 4711);
    struct store_command *command = store_command_new();
    operation_adopt(scene.service, command, scene.id, 4712);
    store_propose(scene.store, command, on_begun, &scene);
    store_settle(scene.store);
    EXPECT(scene.error.kind == ERROR_CONFLICT); /* it is not that one's */
    operation_drop(scene.service, scene.id);
    command = store_command_new();
    operation_adopt(scene.service, command, scene.id, 4711);
    store_propose(scene.store, command, on_begun, &scene);
    store_settle(scene.store);
    EXPECT(scene.error.kind == ERROR_NONE);
    command = store_command_new();
    operation_add_success(scene.service, command, scene.id, "{}");
    store_propose(scene.store, command, on_begun, &scene);
    store_settle(scene.store);
    EXPECT(scene.error.kind == ERROR_NONE);
    expect_field(&scene, "state", "succeeded");
    command = store_command_new();
    operation_add_success(scene.service, command, scene.id, "{}");
    store_propose(scene.store, command, on_begun, &scene);
    store_settle(scene.store);
    EXPECT(scene.error.kind == ERROR_CONFLICT); /* it has ended */
    close_scene(&scene);
}

TEST(operation, of_a_lost_node_is_failed_unless_somebody_goes_on_with_it)
{
    struct scene scene = {0};
    struct error err = {0};
    uint64_t node = 0;
    open_scene(&scene);
    begin(&scene);
    give_to(&scene, 4711);
    operation_fail_all_of(scene.service, 4711, "node b was lost", "test.kind");
    operation_fail_all_of(scene.service, own_id(&scene), "not this one", NULL);
    store_settle(scene.store);
    expect_field(&scene, "state", "running");
    operation_fail_all_of(scene.service, 4711, "node b was lost", NULL);
    store_settle(scene.store);
    expect_field(&scene, "state", "failed");
    expect_field(&scene, "error", "node b was lost");
    EXPECT(operation_node(scene.service, "nothing", &node, &err) == -ERROR_NOT_FOUND);
    close_scene(&scene);
}
