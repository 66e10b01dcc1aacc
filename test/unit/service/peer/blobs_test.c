/* Blobs from nodes that have them, have not, break off, or send something else. */
#include <string.h>

#include "base/error.h"

#include "engine/image/image.h"

#include "service/peer/inside.h"

#include "test/lib/test.h"
#include "test/unit/service/peer/support.h"

enum { BLOB_BYTES = 200000 };

static uint8_t blob[BLOB_BYTES];
static uint8_t other_blob[BLOB_BYTES];
static char id[HASH_TEXT_SIZE];

struct outcome {
    struct scene *scene;
    unsigned told;
    struct error error;
};

static void on_done(const struct error *error, void *context)
{
    struct outcome *outcome = context;
    outcome->told++;
    outcome->error = error != NULL ? *error : (struct error){0};
    scene_wake(outcome->scene);
}

static void begin(struct scene *scene)
{
    for (size_t i = 0; i < sizeof(blob); i++) {
        blob[i] = (uint8_t)(i * 7 + i / 256);
        other_blob[i] = (uint8_t)~blob[i];
    }
    hash_bytes(blob, sizeof(blob), id);
    scene_open(scene);
}

static void give(struct other *other, const uint8_t *bytes)
{
    other->blob = bytes;
    other->blob_length = BLOB_BYTES;
}

static void fetch(struct scene *scene, struct outcome *outcome, const uint64_t *first, size_t count)
{
    *outcome = (struct outcome){.scene = scene};
    const struct peer_wanted wanted = {
        .id = id, .bytes_max = BLOB_BYTES, .first = first, .first_count = count};
    peer_fetch_new(scene->blobs, &wanted, on_done, outcome);
    EXPECT(outcome->told == 0);
    run_until(scene, &outcome->told, 1);
}

TEST(peer_blobs, come_from_the_nearest_that_has_them)
{
    struct scene scene;
    struct outcome outcome;
    begin(&scene);
    give(&scene.others[1], blob);
    give(&scene.others[2], blob);
    fetch(&scene, &outcome, NULL, 0);
    EXPECT(outcome.error.kind == ERROR_NONE && image_exists(scene.images, id));
    EXPECT(scene.others[0].requests == 1 && scene.others[1].requests == 1);
    EXPECT(scene.others[2].requests == 0);
    fetch(&scene, &outcome, NULL, 0); /* it is there */
    EXPECT(outcome.error.kind == ERROR_NONE && scene.others[0].requests == 1);
    scene_close(&scene);
}

TEST(peer_blobs, come_first_from_who_is_said_to_have_them)
{
    struct scene scene;
    struct outcome outcome;
    const uint64_t first[] = {99, 1, 4};
    begin(&scene);
    give(&scene.others[2], blob);
    fetch(&scene, &outcome, first, 3);
    EXPECT(outcome.error.kind == ERROR_NONE && scene.others[2].requests == 1);
    EXPECT(scene.others[0].requests + scene.others[1].requests == 0);
    scene_close(&scene);
}

/* Goal: what has come before the connection broke is not sent again, by whoever goes on. */
TEST(peer_blobs, go_on_where_they_were_broken_off)
{
    struct scene scene;
    struct outcome outcome;
    begin(&scene);
    give(&scene.others[0], blob);
    scene.others[0].break_at = 70000;
    give(&scene.others[1], blob);
    fetch(&scene, &outcome, NULL, 0);
    EXPECT(outcome.error.kind == ERROR_NONE);
    uint64_t from = 0;
    struct text range = text_of(scene.others[1].last_range, strlen(scene.others[1].last_range));
    EXPECT(text_parse_u64(text_of(range.data + 6, range.length - 7), &from));
    EXPECT(from > 0 && from <= 70000);
    scene_close(&scene);
}

TEST(peer_blobs, are_gone_on_with_by_a_later_fetch)
{
    struct scene scene;
    struct outcome outcome;
    begin(&scene);
    give(&scene.others[0], blob);
    scene.others[0].break_at = 70000;
    fetch(&scene, &outcome, NULL, 0);
    EXPECT(outcome.error.kind == ERROR_UNAVAILABLE && !image_exists(scene.images, id));
    EXPECT(strstr(outcome.error.text, "node b") != NULL);
    give(&scene.others[2], blob);
    scene.others[2].knows_no_range = true; /* it sends all of it */
    scene.others[0].blob = NULL;
    fetch(&scene, &outcome, NULL, 0);
    EXPECT(outcome.error.kind == ERROR_NONE);
    EXPECT(strncmp(scene.others[2].last_range, "bytes=", 6) == 0);
    scene_close(&scene);
}

/* Goal: a node that sends something else is not believed, and does not spoil what others send. */
TEST(peer_blobs, are_believed_by_their_digest_alone)
{
    struct scene scene;
    struct outcome outcome;
    begin(&scene);
    give(&scene.others[0], other_blob);
    give(&scene.others[1], other_blob);
    scene.others[1].break_at = 1000; /* what it leaves is wrong, too */
    give(&scene.others[2], blob);
    fetch(&scene, &outcome, NULL, 0);
    EXPECT(outcome.error.kind == ERROR_NONE && image_exists(scene.images, id));
    EXPECT(scene.others[0].requests == 1 && scene.others[1].requests == 1);
    EXPECT(scene.others[2].requests == 2); /* behind the wrong beginning, then all of it */
    scene_close(&scene);

    begin(&scene);
    EXPECT(image_remove(scene.images, id, &outcome.error) == 0);
    give(&scene.others[0], other_blob);
    fetch(&scene, &outcome, NULL, 0);
    EXPECT(outcome.error.kind == ERROR_CORRUPT && !image_exists(scene.images, id));
    EXPECT(strstr(outcome.error.text, "node b") != NULL);
    scene_close(&scene);
}

/* Goal: an archive of a machine, or an image, of which is known how large it is, comes whole. */
TEST(peer_blobs, may_be_as_large_as_is_known_of_them)
{
    struct peer_wanted wanted = {.bytes_max = PEER_BLOB_BYTES_MAX + 1};
    EXPECT(peer_wanted_bytes(&wanted) == PEER_BLOB_BYTES_MAX + 1);
    wanted.bytes_max = 1;
    EXPECT(peer_wanted_bytes(&wanted) == 1);
    wanted.bytes_max = 0;
    EXPECT(peer_wanted_bytes(&wanted) == PEER_BLOB_BYTES_MAX);
}

/* Goal: a node that sends more than there is fills nobody's disk, and the next one is asked. */
TEST(peer_blobs, are_no_larger_than_they_can_be)
{
    static uint8_t longer[2 * BLOB_BYTES];
    struct scene scene;
    struct outcome outcome;
    begin(&scene);
    give(&scene.others[0], longer);
    scene.others[0].blob_length = sizeof(longer);
    fetch(&scene, &outcome, NULL, 0);
    EXPECT(outcome.error.kind == ERROR_TOO_LARGE && !image_exists(scene.images, id));
    EXPECT(strstr(outcome.error.text, "node b") != NULL);

    give(&scene.others[1], blob);
    fetch(&scene, &outcome, NULL, 0);
    EXPECT(outcome.error.kind == ERROR_NONE && image_exists(scene.images, id));
    EXPECT(scene.others[0].requests == 2 && scene.others[1].requests >= 1);
    scene_close(&scene);
}

TEST(peer_blobs, are_fetched_once_for_all_that_wait)
{
    struct scene scene;
    struct outcome outcomes[3];
    begin(&scene);
    give(&scene.others[0], blob);
    for (unsigned i = 0; i < 3; i++) {
        outcomes[i] = (struct outcome){.scene = &scene};
    }
    const struct peer_wanted wanted = {.id = id};
    peer_fetch_new(scene.blobs, &wanted, on_done, &outcomes[0]);
    struct peer_fetch *left = peer_fetch_new(scene.blobs, &wanted, on_done, &outcomes[1]);
    peer_fetch_new(scene.blobs, &wanted, on_done, &outcomes[2]);
    peer_fetch_free(left);
    run_until(&scene, &outcomes[0].told, 1);
    EXPECT(outcomes[2].told == 1 && outcomes[1].told == 0 && scene.others[0].requests == 1);
    scene_close(&scene);
}

TEST(peer_blobs, that_no_node_has_are_not_found)
{
    struct scene scene;
    struct outcome outcome;
    begin(&scene);
    fetch(&scene, &outcome, NULL, 0);
    EXPECT(outcome.error.kind == ERROR_NOT_FOUND);
    other_stop(&scene.others[1]); /* it might have had it */
    fetch(&scene, &outcome, NULL, 0);
    EXPECT(outcome.error.kind == ERROR_UNAVAILABLE);
    EXPECT(strstr(outcome.error.text, "node c") != NULL);
    scene_close(&scene);
}

/* Goal: nobody waits at the end for a node that does not answer. */
TEST(peer_blobs, are_given_up_at_the_end)
{
    struct scene scene;
    struct outcome outcome = {.scene = &scene};
    begin(&scene);
    scene.others[0].holds = true;
    const struct peer_wanted wanted = {.id = id};
    struct peer_fetch *fetch_left = peer_fetch_new(scene.blobs, &wanted, on_done, &outcome);
    while (scene.others[0].held == NULL) {
        uv_run(loop_uv(scene.loop), UV_RUN_ONCE);
    }
    peer_fetch_free(fetch_left);
    http_exchange_unref(scene.others[0].held);
    scene_close(&scene);
    EXPECT(outcome.told == 0);
}
