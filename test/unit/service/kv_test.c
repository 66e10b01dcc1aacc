/* Keys and values: conditions, times to live, quotas. */
#include "service/kv/kv.h"

#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/loop/loop.h"

#include "engine/store/store.h"

#include "test/lib/test.h"

static uint64_t now = 1000000;

static uint64_t clock_of_test(void)
{
    return now;
}

struct scene {
    struct loop *loop;
    struct store *store;
    struct kv_service *kv;
    struct error error;
    uint64_t revision;
    unsigned told;
    char text[4096];
};

static void open_scene(struct scene *scene, uint64_t bytes_max, uint64_t keys_max)
{
    struct error err = {0};
    const struct store_options options = {.folder = test_folder()};
    EXPECT(loop_new("test", &scene->loop, &err) == 0);
    EXPECT(store_open(scene->loop, &options, &scene->store, &err) == 0);
    for (unsigned i = store_schema_now(scene->store); i < store_schema_version(); i++) {
        store_upgrade(scene->store, i + 1, NULL, NULL);
        store_settle(scene->store);
    }
    const struct kv_options kv = {.loop = scene->loop,
                                  .store = scene->store,
                                  .now_ms = clock_of_test,
                                  .project_bytes_max = bytes_max,
                                  .project_keys_max = keys_max};
    scene->kv = kv_service_new(&kv);
}

static void close_scene(struct scene *scene)
{
    kv_service_free(scene->kv);
    store_close(scene->store);
    loop_free(scene->loop);
}

static void on_written(const struct error *error, uint64_t revision, void *context)
{
    struct scene *scene = context;
    scene->told++;
    scene->error = error != NULL ? *error : (struct error){0};
    scene->revision = revision;
}

static enum error_kind settle(struct scene *scene)
{
    unsigned told = scene->told;
    store_settle(scene->store);
    loop_flush(scene->loop);
    EXPECT(scene->told == told + 1);
    return scene->error.kind;
}

static enum error_kind set(struct scene *scene, const char *key, const char *value,
                           enum kv_condition condition, uint64_t revision, uint64_t ttl_ms)
{
    const struct kv_write write = {key, value, strlen(value), ttl_ms, condition, revision};
    kv_set(scene->kv, "default", &write, on_written, scene);
    return settle(scene);
}

static enum error_kind delete (struct scene *scene, const char *key, uint64_t revision) {
    kv_delete(scene->kv, "default", key, revision, on_written, scene); return settle(scene);
}

static void take(const struct kv_entry *entry, void *context)
{
    struct scene *scene = context;
    size_t used = strlen(scene->text);
    snprintf(scene->text + used, sizeof(scene->text) - used, "%s%s=%.*s", used > 0 ? " " : "",
             entry->key, (int)entry->length,
             entry->value != NULL ? (const char *)entry->value : "");
}

static const char *get(struct scene *scene, const char *key)
{
    struct error err = {0};
    scene->text[0] = '\0';
    return kv_read(scene->kv, "default", key, take, scene, &err) == 0 ? scene->text
                                                                      : error_kind_name(err.kind);
}

static const char *list(struct scene *scene, const char *prefix, const char *after, size_t max)
{
    struct error err = {0};
    bool more = false;
    const struct kv_listing listing = {prefix, after, max, true};
    scene->text[0] = '\0';
    EXPECT(kv_list(scene->kv, "default", &listing, take, scene, &more, &err) == 0);
    size_t used = strlen(scene->text);
    snprintf(scene->text + used, sizeof(scene->text) - used, "%s", more ? " +" : "");
    return scene->text;
}

static struct kv_usage usage(struct scene *scene)
{
    struct error err = {0};
    struct kv_usage usage = {0};
    EXPECT(kv_read_usage(scene->kv, "default", &usage, &err) == 0);
    return usage;
}

TEST(kv, writes_and_removals_may_have_a_condition)
{
    struct scene scene = {0};
    open_scene(&scene, 0, 0);
    EXPECT(set(&scene, "a", "1", KV_IF_ABSENT, 0, 0) == ERROR_NONE);
    uint64_t first = scene.revision;
    EXPECT(set(&scene, "a", "2", KV_IF_ABSENT, 0, 0) == ERROR_CONFLICT);
    EXPECT_STRING(get(&scene, "a"), "a=1");
    EXPECT(set(&scene, "a", "2", KV_IF_REVISION, first, 0) == ERROR_NONE);
    EXPECT(scene.revision > first);
    uint64_t second = scene.revision;
    EXPECT(set(&scene, "a", "3", KV_IF_REVISION, first, 0) == ERROR_CONFLICT);
    EXPECT(set(&scene, "b", "3", KV_IF_REVISION, 0, 0) == ERROR_CONFLICT);
    EXPECT(delete (&scene, "a", first) == ERROR_CONFLICT);
    EXPECT_STRING(get(&scene, "a"), "a=2");
    EXPECT(delete (&scene, "a", second) == ERROR_NONE);
    EXPECT(delete (&scene, "a", 0) == ERROR_NOT_FOUND);
    EXPECT_STRING(get(&scene, "a"), "not_found");
    EXPECT(usage(&scene).keys == 0 && usage(&scene).bytes == 0);
    close_scene(&scene);
}

TEST(kv, an_expired_key_is_not_there)
{
    struct scene scene = {0};
    open_scene(&scene, 0, 0);
    EXPECT(set(&scene, "a", "1", KV_ALWAYS, 0, 500) == ERROR_NONE);
    uint64_t revision = scene.revision;
    now += 499;
    EXPECT_STRING(get(&scene, "a"), "a=1");
    EXPECT(set(&scene, "a", "2", KV_IF_ABSENT, 0, 0) == ERROR_CONFLICT);
    now += 1;
    EXPECT_STRING(get(&scene, "a"), "not_found");
    EXPECT_STRING(list(&scene, "", "", 10), "");
    EXPECT(set(&scene, "a", "2", KV_IF_REVISION, revision, 0) == ERROR_CONFLICT);
    EXPECT(delete (&scene, "a", 0) == ERROR_NOT_FOUND);
    EXPECT(set(&scene, "a", "2", KV_IF_ABSENT, 0, 0) == ERROR_NONE);
    EXPECT_STRING(get(&scene, "a"), "a=2");
    EXPECT(usage(&scene).keys == 1 && usage(&scene).bytes == 2);
    close_scene(&scene);
}

/* Goal: what has expired is removed for good, and no longer counts; what was written again stays.
 * Method: wait for the sweeper's own timer. */
TEST(kv, what_has_expired_is_swept)
{
    struct scene scene = {0};
    char key[16];
    open_scene(&scene, 0, 0);
    for (int i = 0; i < KV_SWEEP + 5; i++) {
        snprintf(key, sizeof(key), "k%03d", i);
        EXPECT(set(&scene, key, "x", KV_ALWAYS, 0, 10) == ERROR_NONE);
    }
    EXPECT(set(&scene, "k000", "stays", KV_ALWAYS, 0, 0) == ERROR_NONE);
    EXPECT(usage(&scene).keys == KV_SWEEP + 5);
    now += 10;
    while (usage(&scene).keys > 1) {
        uv_run(loop_uv(scene.loop), UV_RUN_ONCE);
    }
    EXPECT(usage(&scene).bytes == 9);
    EXPECT_STRING(list(&scene, "", "", 10), "k000=stays");
    close_scene(&scene);
}

TEST(kv, lists_go_page_by_page_and_keep_to_their_prefix)
{
    struct scene scene = {0};
    open_scene(&scene, 0, 0);
    static const char *const keys[] = {"a", "a/", "a/1", "a/2", "a/\xc3\xa9", "a0", "b"};
    for (size_t i = 0; i < 7; i++) {
        EXPECT(set(&scene, keys[i], "", KV_ALWAYS, 0, 0) == ERROR_NONE);
    }
    EXPECT_STRING(list(&scene, "a/", "", 10), "a/= a/1= a/2= a/\xc3\xa9=");
    EXPECT_STRING(list(&scene, "a/", "", 2), "a/= a/1= +");
    EXPECT_STRING(list(&scene, "a/", "a/1", 2), "a/2= a/\xc3\xa9=");
    EXPECT_STRING(list(&scene, "", "a0", 2), "b=");
    EXPECT_STRING(list(&scene, "c", "", 2), "");
    EXPECT_STRING(list(&scene, "b", "a", 1), "b=");
    close_scene(&scene);
}

TEST(kv, a_project_has_a_quota)
{
    struct scene scene = {0};
    open_scene(&scene, 10, 3);
    EXPECT(set(&scene, "a", "123456789", KV_ALWAYS, 0, 0) == ERROR_NONE);
    EXPECT(set(&scene, "b", "", KV_ALWAYS, 0, 0) == ERROR_LIMIT);
    EXPECT(set(&scene, "a", "1234567890", KV_ALWAYS, 0, 0) == ERROR_LIMIT);
    EXPECT_STRING(get(&scene, "a"), "a=123456789");
    EXPECT(set(&scene, "a", "1", KV_ALWAYS, 0, 0) == ERROR_NONE);
    EXPECT(set(&scene, "b", "", KV_ALWAYS, 0, 0) == ERROR_NONE);
    EXPECT(set(&scene, "c", "", KV_ALWAYS, 0, 0) == ERROR_NONE);
    EXPECT(set(&scene, "d", "", KV_ALWAYS, 0, 0) == ERROR_LIMIT);
    EXPECT(usage(&scene).keys == 3 && usage(&scene).bytes == 4);
    close_scene(&scene);
}

/* The sweeper's timer does not run here. */
TEST(kv, what_has_expired_makes_room)
{
    struct scene scene = {0};
    open_scene(&scene, 10, 3);
    EXPECT(set(&scene, "a", "12", KV_ALWAYS, 0, 10) == ERROR_NONE);
    EXPECT(set(&scene, "b", "12", KV_ALWAYS, 0, 20) == ERROR_NONE);
    EXPECT(set(&scene, "c", "12", KV_ALWAYS, 0, 0) == ERROR_NONE);
    now += 9;
    EXPECT(set(&scene, "d", "", KV_ALWAYS, 0, 0) == ERROR_LIMIT);
    now += 1;
    EXPECT(set(&scene, "d", "1", KV_IF_ABSENT, 0, 0) == ERROR_NONE); /* by keys */
    EXPECT(usage(&scene).keys == 3 && usage(&scene).bytes == 8);
    now += 10;
    EXPECT(set(&scene, "c", "123456", KV_ALWAYS, 0, 0) == ERROR_NONE); /* by bytes */
    EXPECT(usage(&scene).keys == 2 && usage(&scene).bytes == 9);
    EXPECT(set(&scene, "e", "1", KV_ALWAYS, 0, 0) == ERROR_LIMIT);
    EXPECT_STRING(list(&scene, "", "", 10), "c=123456 d=1");
    close_scene(&scene);
}

TEST(kv, keys_and_values_have_limits)
{
    struct scene scene = {0};
    static char value[KV_VALUE_MAX + 2];
    char key[KV_KEY_MAX + 2];
    open_scene(&scene, 0, 0);
    memset(key, 'k', sizeof(key));
    key[KV_KEY_MAX + 1] = '\0';
    EXPECT(set(&scene, key, "", KV_ALWAYS, 0, 0) == ERROR_INVALID);
    key[KV_KEY_MAX] = '\0';
    EXPECT(set(&scene, key, "", KV_ALWAYS, 0, 0) == ERROR_NONE);
    EXPECT(set(&scene, "", "", KV_ALWAYS, 0, 0) == ERROR_INVALID);
    EXPECT(set(&scene, "a\nb", "", KV_ALWAYS, 0, 0) == ERROR_INVALID);
    EXPECT(set(&scene, "a\xff", "", KV_ALWAYS, 0, 0) == ERROR_INVALID);
    EXPECT(set(&scene, "a", "", KV_ALWAYS, 0, KV_TTL_MAX_MS + 1) == ERROR_INVALID);
    memset(value, 'v', sizeof(value) - 1);
    EXPECT(set(&scene, "a", value, KV_ALWAYS, 0, 0) == ERROR_TOO_LARGE);
    value[KV_VALUE_MAX] = '\0';
    EXPECT(set(&scene, "a", value, KV_ALWAYS, 0, 0) == ERROR_NONE);
    close_scene(&scene);
}

static void on_got(const struct error *error, const struct kv_entry *entry, void *context)
{
    struct scene *scene = context;
    scene->told++;
    scene->error = error != NULL ? *error : (struct error){0};
    scene->text[0] = '\0';
    if (entry != NULL) {
        take(entry, scene);
    }
}

TEST(kv, reads_are_answered_later_also_linearizable_ones)
{
    struct scene scene = {0};
    open_scene(&scene, 0, 0);
    EXPECT(set(&scene, "a", "1", KV_ALWAYS, 0, 0) == ERROR_NONE);
    for (int linearizable = 0; linearizable < 2; linearizable++) {
        scene.told = 0;
        kv_get(scene.kv, "default", "a", linearizable == 1, on_got, &scene);
        EXPECT(scene.told == 0);
        while (scene.told == 0) {
            uv_run(loop_uv(scene.loop), UV_RUN_ONCE);
        }
        EXPECT_STRING(scene.text, "a=1");
    }
    scene.told = 0;
    kv_get(scene.kv, "default", "b", false, on_got, &scene);
    kv_get(scene.kv, "default", "", true, on_got, &scene);
    close_scene(&scene);
    EXPECT(scene.told == 2 && scene.error.kind != ERROR_NONE);
}
