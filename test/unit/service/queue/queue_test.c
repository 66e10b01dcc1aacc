/* Queues through their door: what was accepted is received until it is acknowledged. */
#include "service/queue/queue.h"

#include "base/buffer.h"
#include "base/memory.h"

#include "test/unit/service/queue/scene.h"

static void open_with(struct scene *scene, bool is_fifo, uint64_t receives_max)
{
    struct queue_settings settings;
    scene_open(scene);
    queue_settings_init(&settings);
    settings.is_fifo = is_fifo;
    EXPECT(scene_create(scene, "dead", &settings) == ERROR_NONE);
    settings.receives_max = receives_max;
    settings.dead_letter = receives_max > 0 ? "dead" : NULL;
    EXPECT(scene_create(scene, "work", &settings) == ERROR_NONE);
}

static void send_to_group(struct scene *scene, const char *text, const char *group)
{
    const struct queue_outgoing message = {
        .body = text, .length = strlen(text), .group = group, .delay_ms = QUEUE_DEFAULT};
    EXPECT(scene_send(scene, "work", &message) == ERROR_NONE);
}

TEST(queue, hands_a_message_to_one_receiver_until_its_time_is_over)
{
    struct scene scene = {0};
    open_with(&scene, false, 0);
    EXPECT(scene_send_text(&scene, "work", "one") == ERROR_NONE);
    EXPECT(scene_receive(&scene, "work", 10) == 1);
    EXPECT_STRING(scene.got[0].body, "one");
    EXPECT(scene.got[0].receives == 1);
    EXPECT(scene_receive(&scene, "work", 10) == 0);
    scene_now_ms += 29999;
    EXPECT(scene_receive(&scene, "work", 10) == 0);
    scene_now_ms += 1;
    EXPECT(scene_receive(&scene, "work", 10) == 1);
    EXPECT(scene.got[0].receives == 2);
    EXPECT(scene_settle(&scene, "work", QUEUE_ACK, scene.got[0].receipt, 0) == ERROR_NONE);
    scene_now_ms += 100000;
    EXPECT(scene_receive(&scene, "work", 10) == 0);
    EXPECT(scene_status(&scene, "work").depth == 0 && scene_status(&scene, "work").bytes == 0);
    scene_close(&scene);
}

/* The defect that others had: a receiver that was too slow ends what another one works on. */
TEST(queue, refuses_a_late_receipt_of_an_earlier_delivery)
{
    struct scene scene = {0};
    open_with(&scene, false, 0);
    EXPECT(scene_send_text(&scene, "work", "one") == ERROR_NONE);
    EXPECT(scene_receive(&scene, "work", 1) == 1);
    struct got first = scene.got[0];
    scene_now_ms += 30000;
    EXPECT(scene_receive(&scene, "work", 1) == 1);
    struct got second = scene.got[0];
    EXPECT(scene_settle(&scene, "work", QUEUE_ACK, first.receipt, 0) == ERROR_CONFLICT);
    EXPECT(scene_settle(&scene, "work", QUEUE_NACK, first.receipt, 0) == ERROR_CONFLICT);
    EXPECT(scene_settle(&scene, "work", QUEUE_EXTEND, first.receipt, 1000) == ERROR_CONFLICT);
    EXPECT(scene_status(&scene, "work").in_flight == 1);
    EXPECT(scene_settle(&scene, "work", QUEUE_ACK, second.receipt, 0) == ERROR_NONE);
    EXPECT(scene_settle(&scene, "work", QUEUE_ACK, second.receipt, 0) == ERROR_CONFLICT);
    EXPECT(scene_settle(&scene, "work", QUEUE_ACK, "nonsense", 0) == ERROR_INVALID);
    scene_close(&scene);
}

TEST(queue, hides_longer_when_asked_and_comes_back_when_returned)
{
    struct scene scene = {0};
    open_with(&scene, false, 0);
    EXPECT(scene_send_text(&scene, "work", "one") == ERROR_NONE);
    EXPECT(scene_receive(&scene, "work", 1) == 1);
    EXPECT(scene_settle(&scene, "work", QUEUE_EXTEND, scene.got[0].receipt, 60000) == ERROR_NONE);
    scene_now_ms += 59999;
    char receipt[QUEUE_RECEIPT_SIZE];
    memcpy(receipt, scene.got[0].receipt, sizeof(receipt));
    EXPECT(scene_receive(&scene, "work", 1) == 0);
    EXPECT(scene_settle(&scene, "work", QUEUE_NACK, receipt, 5000) == ERROR_NONE);
    EXPECT(scene_receive(&scene, "work", 1) == 0);
    EXPECT(scene_status(&scene, "work").delayed == 1);
    scene_now_ms += 5000;
    EXPECT(scene_receive(&scene, "work", 1) == 1);
    EXPECT(scene_settle(&scene, "work", QUEUE_NACK, scene.got[0].receipt, 0) == ERROR_NONE);
    EXPECT(scene_receive(&scene, "work", 1) == 1);
    scene_close(&scene);
}

TEST(queue, a_group_has_one_message_in_flight_and_keeps_its_order_when_one_returns)
{
    struct scene scene = {0};
    open_with(&scene, true, 0);
    send_to_group(&scene, "a1", "a");
    send_to_group(&scene, "a2", "a");
    send_to_group(&scene, "b1", "b");
    EXPECT(scene_status(&scene, "work").blocked == 1);
    EXPECT(scene_receive(&scene, "work", 10) == 2);
    EXPECT_STRING(scene.got[0].body, "a1");
    EXPECT_STRING(scene.got[1].body, "b1");
    struct got a1 = scene.got[0];
    EXPECT(scene_receive(&scene, "work", 10) == 0);
    EXPECT(scene_settle(&scene, "work", QUEUE_NACK, a1.receipt, 0) == ERROR_NONE);
    EXPECT(scene_receive(&scene, "work", 10) == 1);
    EXPECT_STRING(scene.got[0].body, "a1");
    EXPECT(scene_settle(&scene, "work", QUEUE_ACK, scene.got[0].receipt, 0) == ERROR_NONE);
    EXPECT(scene_receive(&scene, "work", 10) == 1);
    EXPECT_STRING(scene.got[0].body, "a2");
    scene_close(&scene);
}

TEST(queue, what_was_received_too_often_is_a_dead_letter_and_can_be_brought_back)
{
    struct scene scene = {0};
    open_with(&scene, false, 2);
    EXPECT(scene_send_text(&scene, "work", "poison") == ERROR_NONE);
    EXPECT(scene_receive(&scene, "work", 1) == 1);
    scene_now_ms += 30000;
    EXPECT(scene_receive(&scene, "work", 1) == 1);
    scene_now_ms += 30000;
    EXPECT(scene_receive(&scene, "work", 1) == 0);
    EXPECT(scene_status(&scene, "work").depth == 0 && scene_status(&scene, "work").dead == 1);
    EXPECT(scene_status(&scene, "work").died == 1 && scene_status(&scene, "dead").depth == 1);
    EXPECT(scene_receive(&scene, "dead", 1) == 1);
    EXPECT_STRING(scene.got[0].source, "work");
    EXPECT(scene_settle(&scene, "dead", QUEUE_RETURN, scene.got[0].receipt, 0) == ERROR_NONE);
    queue_redrive(scene.service, "default", "work", 0, scene_on_count, &scene);
    scene_wait(&scene);
    EXPECT(scene.error.kind == ERROR_NONE && scene.count == 1);
    EXPECT(scene_status(&scene, "dead").depth == 0);
    EXPECT(scene_receive(&scene, "work", 1) == 1);
    EXPECT(scene.got[0].receives == 1);
    /* A delivery that was none leads nowhere. */
    EXPECT(scene_settle(&scene, "work", QUEUE_RETURN, scene.got[0].receipt, 0) == ERROR_NONE);
    EXPECT(scene_receive(&scene, "work", 1) == 1);
    EXPECT(scene.got[0].receives == 1);
    /* Given back for the last time, it does not wait for anybody to look. */
    EXPECT(scene_settle(&scene, "work", QUEUE_NACK, scene.got[0].receipt, 0) == ERROR_NONE);
    EXPECT(scene_receive(&scene, "work", 1) == 1);
    EXPECT(scene_settle(&scene, "work", QUEUE_NACK, scene.got[0].receipt, 0) == ERROR_NONE);
    EXPECT(scene_status(&scene, "work").dead == 1);
    scene_close(&scene);
}

/*
 * Goal: dead letters come back in their order, also where a later one would fit and an earlier one
 * does not.
 * Method: a queue of 1 MiB with room for the second of two letters of one group alone.
 */
TEST(queue, a_dead_letter_that_finds_no_room_is_overtaken_by_none)
{
    struct scene scene = {0};
    struct queue_settings settings;
    char *large = memory_new(1, 250 << 10);
    const struct queue_outgoing first = {.body = large, .length = 250 << 10, .group = "a"};
    const struct queue_outgoing second = {.body = "2", .length = 1, .group = "a"};
    const struct queue_outgoing other = {.body = large, .length = 250 << 10, .group = "b"};
    open_with(&scene, true, 1);
    queue_settings_init(&settings);
    settings.is_fifo = true;
    settings.receives_max = 1;
    settings.dead_letter = "dead";
    settings.bytes_max = 1 << 20;
    queue_update(scene.service, "default", "work", &settings,
                 (struct queue_reply){scene_on_reply, &scene});
    scene_wait(&scene);
    EXPECT(scene.error.kind == ERROR_NONE);
    EXPECT(scene_send(&scene, "work", &first) == ERROR_NONE);
    EXPECT(scene_send(&scene, "work", &second) == ERROR_NONE);
    for (int i = 0; i < 2; i++) {
        EXPECT(scene_receive(&scene, "work", 1) == 1);
        EXPECT(scene_settle(&scene, "work", QUEUE_NACK, scene.got[0].receipt, 0) == ERROR_NONE);
    }
    EXPECT(scene_status(&scene, "work").dead == 2);
    for (int i = 0; i < 4; i++) {
        EXPECT(scene_send(&scene, "work", &other) == ERROR_NONE);
    }
    queue_redrive(scene.service, "default", "work", 0, scene_on_count, &scene);
    scene_wait(&scene);
    EXPECT(scene.error.kind == ERROR_LIMIT && scene.count == 0);
    EXPECT(scene_status(&scene, "work").dead == 2);
    EXPECT(scene_receive(&scene, "work", 1) == 1);
    EXPECT(scene_settle(&scene, "work", QUEUE_ACK, scene.got[0].receipt, 0) == ERROR_NONE);
    queue_redrive(scene.service, "default", "work", 0, scene_on_count, &scene);
    scene_wait(&scene);
    EXPECT(scene.error.kind == ERROR_NONE && scene.count == 2);
    free(large);
    scene_close(&scene);
}

TEST(queue, takes_what_has_the_same_dedup_id_once_in_its_window)
{
    struct scene scene = {0};
    open_with(&scene, false, 0);
    const struct queue_outgoing message = {.body = "x", .length = 1, .dedup = "order-1"};
    EXPECT(scene_send(&scene, "work", &message) == ERROR_NONE);
    uint64_t id = scene.sent[0].id;
    EXPECT(!scene.sent[0].is_duplicate);
    scene_now_ms += 299999;
    EXPECT(scene_send(&scene, "work", &message) == ERROR_NONE);
    EXPECT(scene.sent[0].is_duplicate && scene.sent[0].id == id);
    EXPECT(scene_status(&scene, "work").depth == 1);
    scene_now_ms += 1;
    EXPECT(scene_send(&scene, "work", &message) == ERROR_NONE);
    EXPECT(!scene.sent[0].is_duplicate && scene.sent[0].id != id);
    EXPECT(scene_status(&scene, "work").depth == 2);
    scene_close(&scene);
}

TEST(queue, refuses_at_its_limit_and_loses_nothing)
{
    struct scene scene = {0};
    struct queue_settings settings;
    scene_open(&scene);
    queue_settings_init(&settings);
    settings.depth_max = 2;
    EXPECT(scene_create(&scene, "work", &settings) == ERROR_NONE);
    EXPECT(scene_send_text(&scene, "work", "one") == ERROR_NONE);
    EXPECT(scene_send_text(&scene, "work", "two") == ERROR_NONE);
    EXPECT(scene_send_text(&scene, "work", "three") == ERROR_LIMIT);
    EXPECT(scene_status(&scene, "work").depth == 2 && scene_status(&scene, "work").sent == 2);
    BUFFER_OWNED struct buffer metrics = {0};
    queue_write_metrics(scene.service, &metrics);
    EXPECT(strstr(buffer_string(&metrics), "\nblixard_queue_refused_total 1\n") != NULL);
    EXPECT(scene_receive(&scene, "work", 1) == 1);
    EXPECT(scene_settle(&scene, "work", QUEUE_ACK, scene.got[0].receipt, 0) == ERROR_NONE);
    EXPECT(scene_send_text(&scene, "work", "three") == ERROR_NONE);
    scene_close(&scene);
}

TEST(queue, takes_bodies_up_to_256_KiB_and_no_byte_more)
{
    struct scene scene = {0};
    open_with(&scene, false, 0);
    MEMORY_OWNED char *body = memory_new(QUEUE_BODY_MAX + 1, 1);
    struct queue_outgoing message = {.body = body, .length = QUEUE_BODY_MAX};
    EXPECT(scene_send(&scene, "work", &message) == ERROR_NONE);
    message.length++;
    EXPECT(scene_send(&scene, "work", &message) == ERROR_TOO_LARGE);
    EXPECT(scene_status(&scene, "work").bytes == QUEUE_BODY_MAX);
    scene_close(&scene);
}

TEST(queue, gives_the_urgent_first_and_the_delayed_when_they_are_due)
{
    struct scene scene = {0};
    open_with(&scene, false, 0);
    struct queue_outgoing message = {.body = "low", .length = 3};
    EXPECT(scene_send(&scene, "work", &message) == ERROR_NONE);
    message = (struct queue_outgoing){.body = "high", .length = 4, .priority = 9};
    EXPECT(scene_send(&scene, "work", &message) == ERROR_NONE);
    message = (struct queue_outgoing){.body = "late", .length = 4, .delay_ms = 1000, .priority = 9};
    EXPECT(scene_send(&scene, "work", &message) == ERROR_NONE);
    EXPECT(scene_receive(&scene, "work", 10) == 2);
    EXPECT_STRING(scene.got[0].body, "high");
    EXPECT_STRING(scene.got[1].body, "low");
    scene_now_ms += 1000;
    EXPECT(scene_receive(&scene, "work", 10) == 1);
    EXPECT_STRING(scene.got[0].body, "late");
    scene_close(&scene);
}

/* Who waits hears of a message that is sent meanwhile; who no longer waits takes none along. */
TEST(queue, a_receiver_waits_and_one_that_leaves_gives_back_what_it_would_have_got)
{
    struct scene scene = {0};
    const struct queue_receive_options options = {
        .max = 1, .wait_ms = 30000, .visibility_ms = QUEUE_DEFAULT};
    open_with(&scene, false, 0);
    queue_receive_new(scene.service, "default", "work", &options, scene_on_received, &scene);
    struct scene other = scene;
    EXPECT(scene_send_text(&other, "work", "one") == ERROR_NONE);
    scene_wait(&scene);
    EXPECT(scene.got_count == 1);
    EXPECT(scene_settle(&scene, "work", QUEUE_NACK, scene.got[0].receipt, 0) == ERROR_NONE);
    struct queue_receive *receive =
        queue_receive_new(scene.service, "default", "work", &options, scene_on_received, &scene);
    loop_flush(scene.loop); /* it has claimed; the answer is on its way */
    queue_receive_free(receive);
    store_settle(scene.store);
    EXPECT(scene_receive(&scene, "work", 1) == 1);
    EXPECT(scene.got[0].receives == 2);
    scene_close(&scene);
}

TEST(queue, purging_and_deleting_leave_nothing)
{
    struct scene scene = {0};
    open_with(&scene, false, 3);
    for (int i = 0; i < 600; i++) {
        EXPECT(scene_send_text(&scene, "work", "x") == ERROR_NONE);
    }
    EXPECT(scene_receive(&scene, "work", 5) == 5);
    queue_purge(scene.service, "default", "work", scene_on_count, &scene);
    scene_wait(&scene);
    EXPECT(scene.error.kind == ERROR_NONE && scene.count == 600);
    EXPECT(scene_status(&scene, "work").depth == 0 && scene_status(&scene, "work").bytes == 0);
    queue_delete(scene.service, "default", "dead", (struct queue_reply){scene_on_reply, &scene});
    scene_wait(&scene);
    EXPECT(scene.error.kind == ERROR_CONFLICT);
    queue_delete(scene.service, "default", "work", (struct queue_reply){scene_on_reply, &scene});
    scene_wait(&scene);
    EXPECT(scene.error.kind == ERROR_NONE);
    EXPECT(scene_send_text(&scene, "work", "x") == ERROR_NOT_FOUND);
    EXPECT(scene_receive(&scene, "work", 1) == 0 && scene.error.kind == ERROR_NOT_FOUND);
    scene_close(&scene);
}

TEST(queue, settings_that_make_no_sense_are_refused)
{
    struct scene scene = {0};
    struct queue_settings settings;
    scene_open(&scene);
    queue_settings_init(&settings);
    EXPECT(scene_create(&scene, "Bad_Name", &settings) == ERROR_INVALID);
    settings.receives_max = 3;
    EXPECT(scene_create(&scene, "work", &settings) == ERROR_INVALID);
    settings.dead_letter = "missing";
    EXPECT(scene_create(&scene, "work", &settings) == ERROR_NOT_FOUND);
    settings.dead_letter = "work";
    EXPECT(scene_create(&scene, "work", &settings) == ERROR_INVALID);
    queue_settings_init(&settings);
    EXPECT(scene_create(&scene, "work", &settings) == ERROR_NONE);
    EXPECT(scene_create(&scene, "work", &settings) == ERROR_NONE);
    settings.delay_ms = 1;
    EXPECT(scene_create(&scene, "work", &settings) == ERROR_EXISTS);
    scene_close(&scene);
}

/* ---- No statement of the hot paths walks a table ---- */

static bool take_plan(sqlite3_stmt *row, void *context)
{
    const char *detail = (const char *)sqlite3_column_text(row, 3);
    if (strncmp(detail, "SCAN", 4) == 0 && strncmp(detail, "SCAN CONSTANT", 13) != 0) {
        *(bool *)context = true;
    }
    return true;
}

static void expect_index(struct scene *scene, const char *sql)
{
    bool scans = false;
    struct error err = {0};
    MEMORY_OWNED char *explain = memory_format("EXPLAIN QUERY PLAN %s", sql);
    EXPECT(store_query(scene->store, &err, take_plan, &scans, explain, "") == 0);
    if (scans) {
        fprintf(stderr, "walks a table: %s\n", sql);
    }
    EXPECT(!scans);
}

TEST(queue, statements_use_indexes)
{
    struct scene scene = {0};
    scene_open(&scene);
    expect_index(
        &scene,
        "SELECT id, claimed, visible_ms, receives, size FROM queue_message WHERE queue = 1 "
        "AND blocked = 0 AND priority = 2 AND visible_ms <= 3 ORDER BY visible_ms, id");
    expect_index(&scene,
                 "SELECT max(priority) FROM queue_message WHERE queue = 1 AND blocked = 0 "
                 "AND priority < 3");
    expect_index(&scene,
                 "SELECT o.id FROM queue_message m CROSS JOIN queue_message o WHERE m.id = "
                 "1 AND m.blocked = 0 AND o.queue = m.queue AND o.message_group = "
                 "m.message_group AND o.id <> m.id ORDER BY o.id LIMIT 1");
    expect_index(&scene,
                 "SELECT id FROM queue_message WHERE queue = 1 AND entered_ms <= 2 ORDER "
                 "BY entered_ms, id LIMIT 3");
    expect_index(&scene, "SELECT id FROM queue_message WHERE source = 1 AND id > 2 ORDER BY id");
    expect_index(&scene,
                 "SELECT count(*) FROM queue_message WHERE queue = 1 AND claimed > 0 AND "
                 "visible_ms > 2");
    expect_index(&scene, "SELECT 1 FROM queue o WHERE o.dead_letter = 3");
    expect_index(&scene,
                 "SELECT queue, dedup FROM queue_dedup WHERE expires_ms <= 3 ORDER BY "
                 "expires_ms, queue, dedup LIMIT 3");
    scene_close(&scene);
}
