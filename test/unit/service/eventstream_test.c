/* Streams through their door, on a store of their own, in virtual time. */
#include "service/eventstream/eventstream.h"

#include <string.h>
#include <uv.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/loop/loop.h"

#include "engine/store/store.h"

#include "test/lib/test.h"

struct scene {
    struct loop *loop;
    struct store *store;
    struct eventstream_service *service;
    bool is_over;
    struct error error; /* of the last call */
    struct eventstream_place places[16];
    struct buffer got; /* bodies that were read, with their places: "0/1 body, " */
    unsigned woken;
};

static uint64_t now_ms;

static uint64_t now(void)
{
    return now_ms;
}

static void wait_for(struct scene *scene)
{
    while (!scene->is_over) {
        uv_run(loop_uv(scene->loop), UV_RUN_ONCE);
    }
    scene->is_over = false;
}

static void on_reply(const struct error *error, void *context)
{
    struct scene *scene = context;
    scene->error = error != NULL ? *error : (struct error){0};
    scene->is_over = true;
}

static void open_scene(struct scene *scene, unsigned partitions)
{
    struct error err = {0};
    const struct store_options options = {.folder = test_folder()};
    now_ms = 1000000;
    EXPECT(loop_new("test", &scene->loop, &err) == 0);
    EXPECT(store_open(scene->loop, &options, &scene->store, &err) == 0);
    const struct eventstream_options streams = {scene->loop, scene->store, now};
    EXPECT(eventstream_service_new(&streams, &scene->service, &err) == 0);
    struct eventstream_settings settings;
    eventstream_settings_init(&settings);
    settings.partitions = partitions;
    settings.retention_ms = 10000;
    eventstream_create(scene->service, "default", "log", &settings,
                       (struct eventstream_reply){on_reply, scene});
    wait_for(scene);
    EXPECT(scene->error.kind == ERROR_NONE);
}

static void close_scene(struct scene *scene)
{
    buffer_done(&scene->got);
    eventstream_service_free(scene->service);
    store_close(scene->store);
    loop_free(scene->loop);
}

static void on_appended(const struct error *error, const struct eventstream_place *places,
                        size_t count, void *context)
{
    struct scene *scene = context;
    if (error == NULL) {
        memcpy(scene->places, places, count * sizeof(*places));
    }
    on_reply(error, scene);
}

static enum error_kind append(struct scene *scene, const char *key, const char *body)
{
    const struct eventstream_outgoing record = {.body = body, .length = strlen(body), .key = key};
    eventstream_append(scene->service, "default", "log", &record, 1, on_appended, scene);
    wait_for(scene);
    return scene->error.kind;
}

static void take(const struct eventstream_record *record, void *context)
{
    struct scene *scene = context;
    buffer_append_format(&scene->got, "%u/%llu %.*s, ", record->partition,
                         (unsigned long long)record->sequence, (int)record->length,
                         (const char *)record->body);
}

static const char *read_on(struct scene *scene, struct eventstream_cursor *cursor, size_t max)
{
    struct error err = {0};
    scene->got.used = 0;
    EXPECT(eventstream_read(scene->service, "default", "log", cursor, max, take, scene, &err) == 0);
    return buffer_string(&scene->got);
}

static struct eventstream_cursor begin(struct scene *scene, enum eventstream_start start,
                                       uint64_t time_ms)
{
    struct eventstream_cursor cursor = {0};
    struct error err = {0};
    EXPECT(eventstream_begin(scene->service, "default", "log", start, time_ms, &cursor, &err) == 0);
    return cursor;
}

/* The keys a, b, c, d belong to the partitions 0, 1, 2, 3 of four. */
TEST(eventstream, reads_all_partitions_the_oldest_record_first)
{
    static const char *const keys[] = {"b", "a", "a", "d", "b", "c"};
    struct scene scene = {0};
    open_scene(&scene, 4);
    for (size_t i = 0; i < 6; i++) {
        now_ms += 10;
        EXPECT(append(&scene, keys[i], (char[2]){(char)('1' + i)}) == ERROR_NONE);
    }
    struct eventstream_cursor cursor = begin(&scene, EVENTSTREAM_OLDEST, 0);
    EXPECT(cursor.first == 0 && cursor.count == 4);
    EXPECT_STRING(read_on(&scene, &cursor, 4), "1/1 1, 0/1 2, 0/2 3, 3/1 4, ");
    EXPECT_STRING(read_on(&scene, &cursor, 100), "1/2 5, 2/1 6, ");
    EXPECT_STRING(read_on(&scene, &cursor, 100), "");
    EXPECT(append(&scene, "d", "7") == ERROR_NONE);
    EXPECT_STRING(read_on(&scene, &cursor, 100), "3/2 7, ");
    cursor = begin(&scene, EVENTSTREAM_SINCE, 1000031);
    EXPECT_STRING(read_on(&scene, &cursor, 100), "3/1 4, 1/2 5, 2/1 6, 3/2 7, ");
    cursor = begin(&scene, EVENTSTREAM_LATEST, 0);
    EXPECT_STRING(read_on(&scene, &cursor, 100), "");
    cursor = (struct eventstream_cursor){.first = 1, .count = 1, .next = {2}};
    EXPECT_STRING(read_on(&scene, &cursor, 100), "1/2 5, ");
    close_scene(&scene);
}

/* Records of one moment: none is lost or comes twice, whatever the size of the pages. */
TEST(eventstream, reads_records_of_one_moment_once)
{
    struct scene scene = {0};
    open_scene(&scene, 4);
    for (int i = 0; i < 12; i++) {
        EXPECT(append(&scene, (char[2]){(char)('a' + i % 4)}, "x") == ERROR_NONE);
    }
    for (size_t page = 1; page < 14; page++) {
        struct eventstream_cursor cursor = begin(&scene, EVENTSTREAM_OLDEST, 0);
        size_t bytes = 0;
        while (strlen(read_on(&scene, &cursor, page)) > 0) {
            bytes += scene.got.used;
        }
        EXPECT(bytes == 12 * strlen("0/1 x, "));
        for (unsigned i = 0; i < 4; i++) {
            EXPECT(cursor.next[i] == 4);
        }
    }
    close_scene(&scene);
}

static void on_woken(void *context)
{
    struct scene *scene = context;
    scene->woken++;
    scene->is_over = true;
}

static void trim_to(struct scene *scene, uint64_t first)
{
    for (;;) {
        struct eventstream_cursor cursor = begin(scene, EVENTSTREAM_OLDEST, 0);
        if (cursor.next[0] >= first) {
            return;
        }
        uv_run(loop_uv(scene->loop), UV_RUN_ONCE);
    }
}

/*
 * Goal: who reads on before what was trimmed waits for the next record, and is not told at once
 * that there is one: a trigger would ask again and again.
 */
TEST(eventstream, a_wait_before_what_was_trimmed_is_for_the_next_record)
{
    struct scene scene = {0};
    open_scene(&scene, 1);
    EXPECT(append(&scene, NULL, "old") == ERROR_NONE);
    EXPECT(append(&scene, NULL, "old") == ERROR_NONE);
    struct eventstream_cursor cursor = begin(&scene, EVENTSTREAM_OLDEST, 0);
    now_ms += 20000;
    trim_to(&scene, 3);
    eventstream_wait_new(scene.service, "default", "log", &cursor, 60000, on_woken, &scene);
    /* A command is answered after whatever is due at once. */
    eventstream_set_checkpoint(scene.service, "default", "log", "group", 0, 2, 0,
                               (struct eventstream_reply){on_reply, &scene});
    wait_for(&scene);
    EXPECT(scene.woken == 0);
    EXPECT_STRING(read_on(&scene, &cursor, 10), "");
    EXPECT(cursor.next[0] == 3);
    EXPECT(append(&scene, NULL, "new") == ERROR_NONE);
    while (scene.woken == 0) {
        uv_run(loop_uv(scene.loop), UV_RUN_ONCE);
    }
    EXPECT_STRING(read_on(&scene, &cursor, 10), "0/3 new, ");
    close_scene(&scene);
}

/* Trimming changes a partition, too: it is no record. */
TEST(eventstream, a_wait_goes_on_while_a_stream_is_trimmed)
{
    struct scene scene = {0};
    open_scene(&scene, 1);
    EXPECT(append(&scene, NULL, "old") == ERROR_NONE);
    struct eventstream_cursor cursor = begin(&scene, EVENTSTREAM_LATEST, 0);
    eventstream_wait_new(scene.service, "default", "log", &cursor, 60000, on_woken, &scene);
    now_ms += 20000;
    trim_to(&scene, 2);
    eventstream_set_checkpoint(scene.service, "default", "log", "group", 0, 1, 0,
                               (struct eventstream_reply){on_reply, &scene});
    wait_for(&scene);
    EXPECT(scene.woken == 0);
    eventstream_delete(scene.service, "default", "log",
                       (struct eventstream_reply){on_reply, &scene});
    wait_for(&scene);
    while (scene.woken == 0) {
        uv_run(loop_uv(scene.loop), UV_RUN_ONCE);
    }
    close_scene(&scene);
}

static void on_reply_of_many(const struct error *error, const struct eventstream_place *places,
                             size_t count, void *context)
{
    (void)places;
    (void)count;
    on_reply(error, context);
}

static void append_many(struct scene *scene, const char *name, size_t count)
{
    static const struct eventstream_outgoing none[EVENTSTREAM_BATCH_MAX];
    eventstream_append(scene->service, "default", name, none, count, on_reply_of_many, scene);
    wait_for(scene);
    EXPECT(scene->error.kind == ERROR_NONE);
}

static uint64_t oldest_of(struct scene *scene, const char *name)
{
    struct eventstream_cursor cursor = {0};
    struct error err = {0};
    EXPECT(eventstream_begin(scene->service, "default", name, EVENTSTREAM_OLDEST, 0, &cursor,
                             &err) == 0);
    return cursor.next[0];
}

/* One that has more to be trimmed than a command does not go first until it has none. */
TEST(eventstream, a_stream_with_much_to_trim_does_not_keep_the_others_from_it)
{
    struct scene scene = {0};
    struct eventstream_settings settings;
    open_scene(&scene, 1);
    eventstream_settings_init(&settings);
    settings.partitions = 1;
    settings.retention_ms = 10000;
    eventstream_create(scene.service, "default", "small", &settings,
                       (struct eventstream_reply){on_reply, &scene});
    wait_for(&scene);
    append_many(&scene, "small", 1);
    for (int i = 0; i < 3; i++) {
        append_many(&scene, "log", 1000);
    }
    now_ms += 20000;
    while (oldest_of(&scene, "small") == 1) {
        uv_run(loop_uv(scene.loop), UV_RUN_ONCE);
    }
    EXPECT(oldest_of(&scene, "log") < 3001);
    trim_to(&scene, 3001); /* all the same */
    close_scene(&scene);
}

/* They take room in memory, too: a stream of them is no larger than it was to be. */
TEST(eventstream, records_without_content_go_by_size_too)
{
    struct scene scene = {0};
    struct eventstream_settings settings;
    open_scene(&scene, 1);
    eventstream_settings_init(&settings);
    settings.partitions = 1;
    settings.retention_bytes = 1 << 20;
    eventstream_update(scene.service, "default", "log", &settings,
                       (struct eventstream_reply){on_reply, &scene});
    wait_for(&scene);
    size_t most = (1 << 20) / EVENTSTREAM_OVERHEAD;
    for (size_t count = 0; count <= most; count += 1000) {
        append_many(&scene, "log", 1000);
    }
    trim_to(&scene, 2);
    close_scene(&scene);
}
