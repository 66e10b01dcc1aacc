/* What has ended and is forgotten: all of it, and not as much as a period of the sweep lets go. */
#include <uv.h>

#include "base/error.h"
#include "base/loop/loop.h"

#include "engine/store/store.h"

#include "service/invocation/invocation.h"

#include "test/lib/test.h"

enum { OLD_COUNT = 8000, AT_ONCE = 1000, PATIENCE_MS = 30000 };

static void on_proposed(const struct error *error, uint64_t index, void *context)
{
    (void)index;
    EXPECT_STRING(error != NULL ? error->text : "", "");
    (void)context;
}

static void add_old(struct store *store, unsigned first)
{
    struct store_command *command = store_command_new();
    for (unsigned i = first; i < first + AT_ONCE; i++) {
        char id[INVOCATION_ID_SIZE];
        snprintf(id, sizeof(id), "%032u", i);
        store_command_add(
            command,
            "INSERT INTO invocation (key, project, function, name, state, request, policy, "
            "attempts, due_ms, deadline_ms, owner, epoch, size, history, expires_ms, created_ms, "
            "updated_ms, revision) VALUES (?, 'default', 'f', 'f', 'succeeded', '{}', '{}', 1, 0, "
            "0, 0, 0, 0, '[]', 1, 0, 0, 0)",
            "t", id);
    }
    store_propose(store, command, on_proposed, NULL);
}

static void on_timer(void *context)
{
    *(bool *)context = true;
}

static uint64_t count_rows(struct store *store)
{
    struct error err = {0};
    uint64_t count = 0;
    EXPECT(store_query(store, &err, store_take_u64, &count, "SELECT count(*) FROM invocation",
                       "") == 0);
    return count;
}

/*
 * Goal: a project that ends thousands a second piles up nothing beyond its time.
 * Method: 8000 rows that are over; at 250 every two seconds they would be there for a minute.
 */
TEST(invocation_clear, goes_on_until_nothing_old_is_left)
{
    struct loop *loop = NULL;
    struct store *store = NULL;
    struct invocation_service *service = NULL;
    struct error err = {0};
    bool is_late = false;
    const struct store_options options = {.folder = test_folder()};
    EXPECT(loop_new("test", &loop, &err) == 0);
    EXPECT(store_open(loop, &options, &store, &err) == 0);
    for (unsigned i = 0; i < OLD_COUNT; i += AT_ONCE) {
        add_old(store, i);
    }
    while (count_rows(store) < OLD_COUNT) {
        uv_run(loop_uv(loop), UV_RUN_ONCE);
    }
    const struct invocation_options invocations = {.loop = loop, .store = store};
    EXPECT(invocation_service_new(&invocations, &service, &err) == 0);
    struct loop_timer *timer = loop_timer_new(loop, on_timer, &is_late);
    loop_timer_start(timer, PATIENCE_MS);
    while (!is_late && count_rows(store) > 0) {
        uv_run(loop_uv(loop), UV_RUN_ONCE);
    }
    EXPECT(count_rows(store) == 0);
    loop_timer_free(timer);
    invocation_service_free(service);
    store_close(store);
    loop_free(loop);
}
