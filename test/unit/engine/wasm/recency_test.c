/* Which compiled images go when there is no room for all. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/memory.h"

#include "engine/image/image.h"
#include "engine/wasm/private.h"

#include "test/lib/test.h"

enum { BYTES = 100 };

struct scene {
    char work_folder[512];
    struct image_store *images;
    struct wasm *wasm;
};

static void open_cache(struct scene *scene)
{
    struct error err = {0};
    const struct wasm_options options = {.work_folder = scene->work_folder,
                                         .images = scene->images};
    EXPECT(wasm_open(&options, &scene->wasm, &err) == 0);
}

static void scene_init(struct scene *scene)
{
    struct error err = {0};
    MEMORY_OWNED char *blobs = memory_format("%s/blobs", test_folder());
    EXPECT(image_store_open(blobs, &scene->images, &err) == 0);
    snprintf(scene->work_folder, sizeof(scene->work_folder), "%s/work", test_folder());
    EXPECT(mkdir(scene->work_folder, 0711) == 0);
    open_cache(scene);
}

static void scene_done(struct scene *scene)
{
    wasm_close(scene->wasm);
    image_store_close(scene->images);
}

/* An entry whose image is BYTES times `content`, last used at that second. */
static void add(struct scene *scene, const char *module, int content, long used_s,
                char ret_image[HASH_TEXT_SIZE])
{
    char bytes[BYTES];
    char key[HASH_TEXT_SIZE];
    struct error err = {0};
    struct wasm_image image = {.elf_bytes = BYTES};
    const struct cache_names names = {0};
    memset(bytes, content, sizeof(bytes));
    EXPECT(image_put(scene->images, bytes, sizeof(bytes), image.image_id, &err) == 0);
    cache_key(module, WASM_TIER_FAST, key);
    EXPECT(cache_put(scene->wasm, key, &names, &image, &err) == 0);
    MEMORY_OWNED char *path = memory_format("%s/%s.json", scene->wasm->cache_folder, key);
    const struct timespec times[2] = {{.tv_sec = used_s}, {.tv_sec = used_s}};
    EXPECT(utimensat(AT_FDCWD, path, times, 0) == 0);
    memcpy(ret_image, image.image_id, HASH_TEXT_SIZE);
}

static bool is_kept(const char *image_id, void *context)
{
    return strcmp(image_id, context) == 0;
}

/* Goal: the order outlasts the process.  Method: the times are of files, read at the next start. */
TEST(wasm_recency, what_was_not_used_for_longest_goes_and_what_is_in_use_stays)
{
    struct scene scene = {0};
    struct wasm_cache_status status;
    char oldest[HASH_TEXT_SIZE];
    char middle[HASH_TEXT_SIZE];
    char newest[HASH_TEXT_SIZE];
    scene_init(&scene);
    add(&scene, "middle", 'm', 2000, middle);
    add(&scene, "newest", 'n', 3000, newest);
    add(&scene, "oldest", 'o', 1000, oldest);
    wasm_close(scene.wasm);
    open_cache(&scene);

    wasm_trim(scene.wasm, 3 * BYTES, is_kept, oldest);
    wasm_cache_status(scene.wasm, &status);
    EXPECT(status.bytes == 3 * BYTES && status.images == 3 && status.evictions == 0);

    wasm_trim(scene.wasm, 3 * BYTES - 1, is_kept, oldest);
    wasm_cache_status(scene.wasm, &status);
    EXPECT(status.bytes == 2 * BYTES && status.images == 2 && status.evictions == 1);
    EXPECT(image_exists(scene.images, oldest));
    EXPECT(!image_exists(scene.images, middle));
    EXPECT(image_exists(scene.images, newest));

    wasm_trim(scene.wasm, 0, is_kept, newest);
    EXPECT(image_exists(scene.images, newest));
    EXPECT(!image_exists(scene.images, oldest));
    scene_done(&scene);
}

TEST(wasm_recency, an_image_of_two_entries_counts_once_and_goes_with_the_last)
{
    struct scene scene = {0};
    struct wasm_cache_status status;
    char first[HASH_TEXT_SIZE];
    char second[HASH_TEXT_SIZE];
    char other[HASH_TEXT_SIZE];
    char nobody[1] = "";
    scene_init(&scene);
    add(&scene, "first", 's', 1000, first);
    add(&scene, "other", 'o', 2000, other);
    add(&scene, "second", 's', 3000, second);
    wasm_close(scene.wasm);
    open_cache(&scene);
    wasm_cache_status(scene.wasm, &status);
    EXPECT(status.bytes == 2 * BYTES && status.images == 2);

    /* The entry of `first` goes, its image does not: room is made by `other`. */
    wasm_trim(scene.wasm, BYTES, is_kept, nobody);
    EXPECT(image_exists(scene.images, second));
    EXPECT(!image_exists(scene.images, other));
    wasm_cache_status(scene.wasm, &status);
    EXPECT(status.bytes == BYTES && status.images == 1 && status.evictions == 1);
    scene_done(&scene);
}
