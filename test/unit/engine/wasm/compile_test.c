/* wasm_compile() with the real tools: the cache, its damage, limits, cancellation. */
#include <dirent.h>
#include <pthread.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/text.h"

#include "engine/image/image.h"
#include "engine/wasm/assets.h"
#include "engine/wasm/private.h"

#include "support.h"
#include "test/lib/test.h"

struct scene {
    struct image_store *images;
    struct wasm *wasm;
    char work_folder[128];
};

/* With the limits of `options`; what is in the folders stays from one to the next. */
static void open_scene(struct scene *scene, struct wasm_options options)
{
    struct error err = {0};
    MEMORY_OWNED char *blobs = memory_format("%s/blobs", test_folder());
    /* Compilers of another user must reach it. */
    EXPECT(chmod(test_folder(), 0711) == 0);
    snprintf(scene->work_folder, sizeof(scene->work_folder), "%s/work", test_folder());
    EXPECT(file_make_folder(scene->work_folder, 0711, &err) == 0);
    EXPECT(image_store_open(blobs, &scene->images, &err) == 0);
    options.work_folder = scene->work_folder;
    options.images = scene->images;
    EXPECT(wasm_open(&options, &scene->wasm, &err) == 0);
    if (wasm_problem(scene->wasm) != NULL) {
        SKIP(wasm_problem(scene->wasm)->text);
    }
}

static void close_scene(struct scene *scene)
{
    wasm_close(scene->wasm);
    image_store_close(scene->images);
}

/* Entries of the work folder whose name begins so. */
static unsigned count_folders(const struct scene *scene, const char *prefix)
{
    unsigned count = 0;
    DIR *folder = opendir(scene->work_folder);
    EXPECT(folder != NULL);
    for (struct dirent *entry = readdir(folder); entry != NULL; entry = readdir(folder)) {
        count += text_starts_with(entry->d_name, prefix);
    }
    closedir(folder);
    return count;
}

static struct wasm_result compile(struct scene *scene, enum wasm_tier tier)
{
    struct wasm_result result = {0};
    struct error err = {0};
    int r = wasm_compile(scene->wasm, module, sizeof(module), tier, NULL, &result, &err);
    if (r < 0) {
        fprintf(stderr, "%s\n", err.text);
    }
    EXPECT(r == 0 && result.tier == tier);
    EXPECT(image_exists(scene->images, result.image_id));
    EXPECT(count_folders(scene, "job-") == 0);
    return result;
}

static char *entry_path(const struct scene *scene, enum wasm_tier tier)
{
    char id[HASH_TEXT_SIZE];
    char key[HASH_TEXT_SIZE];
    hash_bytes(module, sizeof(module), id);
    cache_key(id, tier, key);
    return memory_format("%s/cache/%s.json", scene->work_folder, key);
}

TEST(wasm_compile, keeps_what_it_made)
{
    struct scene scene;
    open_scene(&scene, (struct wasm_options){0});
    struct wasm_result first = compile(&scene, WASM_TIER_FAST);
    EXPECT(!first.from_cache && first.elf_bytes > 4096);
    EXPECT(first.max_rss_kib > 0);
    struct wasm_result second = compile(&scene, WASM_TIER_FAST);
    EXPECT(second.from_cache && second.elf_bytes == first.elf_bytes);
    EXPECT_STRING(second.image_id, first.image_id);
    EXPECT(second.wall_ms == first.wall_ms && second.max_rss_kib == first.max_rss_kib);

    struct wasm_result optimized = compile(&scene, WASM_TIER_OPTIMIZED);
    EXPECT(!optimized.from_cache && strcmp(optimized.image_id, first.image_id) != 0);
    close_scene(&scene);

    open_scene(&scene, (struct wasm_options){0});
    EXPECT(compile(&scene, WASM_TIER_OPTIMIZED).from_cache);
    close_scene(&scene);
}

TEST(wasm_compile, makes_again_what_was_damaged)
{
    struct scene scene;
    struct error err = {0};
    open_scene(&scene, (struct wasm_options){0});
    struct wasm_result first = compile(&scene, WASM_TIER_FAST);
    MEMORY_OWNED char *blob =
        memory_format("%s/blobs/%.2s/%s", test_folder(), first.image_id, first.image_id);
    MEMORY_OWNED char *entry = entry_path(&scene, WASM_TIER_FAST);

    EXPECT(file_write(blob, "ELF?", 4, 0600, &err) == 0);
    struct wasm_result again = compile(&scene, WASM_TIER_FAST);
    EXPECT(!again.from_cache && compile(&scene, WASM_TIER_FAST).from_cache);
    EXPECT(unlink(blob) == 0 || strcmp(again.image_id, first.image_id) != 0);
    compile(&scene, WASM_TIER_FAST);

    static const char *const damages[] = {"",
                                          "{",
                                          "[]",
                                          "{\"image\": 7}",
                                          "{\"image\": \"../x\"}",
                                          "{\"image\": \"nothing\", \"toolchain\": \"x\"}"};
    for (size_t i = 0; i < sizeof(damages) / sizeof(damages[0]); i++) {
        EXPECT(file_write(entry, damages[i], strlen(damages[i]), 0600, &err) == 0);
        EXPECT(!compile(&scene, WASM_TIER_FAST).from_cache);
        EXPECT(compile(&scene, WASM_TIER_FAST).from_cache);
    }
    close_scene(&scene);
}

TEST(wasm_compile, replaces_what_another_toolchain_made)
{
    struct scene scene;
    struct error err = {0};
    open_scene(&scene, (struct wasm_options){0});
    char old[HASH_TEXT_SIZE];
    EXPECT(image_put(scene.images, "an older image", 14, old, &err) == 0);
    MEMORY_OWNED char *entry = entry_path(&scene, WASM_TIER_FAST);
    MEMORY_OWNED char *text =
        memory_format("{\"image\": \"%s\", \"toolchain\": \"older\", \"elf_bytes\": 14}", old);
    EXPECT(file_write(entry, text, strlen(text), 0600, &err) == 0);

    struct wasm_result result = compile(&scene, WASM_TIER_FAST);
    EXPECT(!result.from_cache && strcmp(result.image_id, old) != 0);
    EXPECT(!image_exists(scene.images, old)); /* nobody names it any more */
    close_scene(&scene);

    /* And its unpacked files go when the next one opens. */
    MEMORY_OWNED char *folder = memory_format("%s/toolchain-0123456789abcdef", scene.work_folder);
    MEMORY_OWNED char *job = memory_format("%s/job-0123456789abcdef", scene.work_folder);
    EXPECT(file_make_folder(folder, 0700, &err) == 0 && file_make_folder(job, 0700, &err) == 0);
    open_scene(&scene, (struct wasm_options){0});
    EXPECT(count_folders(&scene, "toolchain-") == 1 && count_folders(&scene, "job-") == 0);
    EXPECT(compile(&scene, WASM_TIER_FAST).from_cache);
    close_scene(&scene);
}

static void expect_module(const char *module_id, void *context)
{
    char id[HASH_TEXT_SIZE];
    hash_bytes(module, sizeof(module), id);
    EXPECT_STRING(module_id, id);
    ++*(unsigned *)context;
}

/*
 * Goal: what another node compiled is as good as one's own when the same toolchain made it, and
 * what another one made is refused; a node without compilers takes what its runtime fits.
 */
TEST(wasm_compile, takes_what_an_equal_toolchain_made)
{
    struct scene scene;
    struct error err = {0};
    char id[HASH_TEXT_SIZE];
    struct wasm_image image = {0};
    hash_bytes(module, sizeof(module), id);
    open_scene(&scene, (struct wasm_options){0});
    EXPECT(!wasm_find(scene.wasm, id, WASM_TIER_FAST, &image));
    struct wasm_result made = compile(&scene, WASM_TIER_FAST);
    EXPECT(wasm_find(scene.wasm, id, WASM_TIER_FAST, &image));
    EXPECT_STRING(image.image_id, made.image_id);
    EXPECT(image.elf_bytes == made.elf_bytes && wasm_accepts(scene.wasm, &image));

    unsigned modules = 0;
    wasm_each_module(scene.wasm, expect_module, &modules);
    EXPECT(modules == 1);
    EXPECT(!wasm_find(scene.wasm, id, WASM_TIER_OPTIMIZED, &image));
    EXPECT(wasm_find(scene.wasm, id, WASM_TIER_FAST, &image));
    EXPECT(wasm_adopt(scene.wasm, id, WASM_TIER_OPTIMIZED, &image, &err) == 0);
    EXPECT(compile(&scene, WASM_TIER_OPTIMIZED).from_cache);

    struct wasm_image other = image;
    other.toolchain[0] ^= 1;
    EXPECT(wasm_adopt(scene.wasm, id, WASM_TIER_FAST, &other, &err) == -ERROR_INVALID);
    scene.wasm->problem.kind = ERROR_UNSUPPORTED; /* as if there were none */
    EXPECT(wasm_adopt(scene.wasm, id, WASM_TIER_FAST, &other, &err) == 0);
    other.runtime[0] ^= 1;
    EXPECT(wasm_adopt(scene.wasm, id, WASM_TIER_FAST, &other, &err) == -ERROR_INVALID);
    memset(image.image_id, '0', sizeof(image.image_id) - 1); /* one that is not here */
    EXPECT(wasm_adopt(scene.wasm, id, WASM_TIER_FAST, &image, &err) == -ERROR_NOT_FOUND);
    close_scene(&scene);
}

struct said {
    const char *last;
    unsigned count;
};

static void hear(const char *what, void *context)
{
    struct said *said = context;
    said->last = what;
    said->count++;
}

static int try_compile(struct scene *scene, const volatile bool *cancel, struct error *err)
{
    struct wasm_result result = {0};
    struct said said = {0};
    const struct wasm_watch watch = {.cancelled = cancel, .on_tool = hear, .context = &said};
    int r = wasm_compile(scene->wasm, module, sizeof(module), WASM_TIER_OPTIMIZED, &watch, &result,
                         err);
    EXPECT(r < 0 || (said.count >= 3 && strcmp(said.last, "linking") == 0));
    MEMORY_OWNED char *entry = entry_path(scene, WASM_TIER_OPTIMIZED);
    EXPECT(count_folders(scene, "job-") == 0);
    EXPECT(file_exists(entry) == (r == 0)); /* a failure is not kept */
    return r;
}

TEST(wasm_compile, ends_tools_that_take_too_long)
{
    struct scene scene;
    struct error err = {0};
    open_scene(&scene, (struct wasm_options){.timeout_ms = 1});
    EXPECT(try_compile(&scene, NULL, &err) == -ERROR_TIMEOUT);
    EXPECT(strstr(err.text, "took longer") != NULL);
    close_scene(&scene);
}

/*
 * Goal: what counts is the CPU time of a tool, and it is told as such.
 * Method: a tool that never ends, and a module whose C is more than gcc's parts manage in a second.
 */
TEST(wasm_compile, ends_tools_that_take_too_much_cpu_time)
{
    struct scene scene;
    struct error err = {0};
    open_scene(&scene, (struct wasm_options){.cpu_seconds_max = 1});
    free(scene.wasm->toolchain.path[TOOL_VALIDATE]);
    scene.wasm->toolchain.path[TOOL_VALIDATE] = memory_copy_string("/usr/bin/yes");
    EXPECT(try_compile(&scene, NULL, &err) == -ERROR_TIMEOUT);
    EXPECT(strstr(err.text, "s of CPU") != NULL);
    close_scene(&scene);
}

TEST(wasm_compile, ends_tools_that_take_too_much)
{
    if (getenv("ASAN_OPTIONS") != NULL) {
        SKIP("the sanitizer's own memory is beyond the limit");
    }
    struct scene scene;
    struct error err = {0};
    open_scene(&scene, (struct wasm_options){.memory_bytes_max = 24 << 20});
    EXPECT(try_compile(&scene, NULL, &err) == -ERROR_LIMIT);
    close_scene(&scene);
}

TEST(wasm_compile, can_be_cancelled)
{
    struct scene scene;
    struct error err = {0};
    volatile bool cancel = true;
    open_scene(&scene, (struct wasm_options){0});
    EXPECT(try_compile(&scene, &cancel, &err) == -ERROR_CANCELLED);
    cancel = false;
    EXPECT(try_compile(&scene, &cancel, &err) == 0);
    close_scene(&scene);
}

TEST(wasm_compile, says_what_is_wrong_with_a_module)
{
    struct scene scene;
    struct error err = {0};
    struct wasm_result result = {0};
    uint8_t changed[sizeof(module)];
    open_scene(&scene, (struct wasm_options){0});
    memcpy(changed, module, sizeof(module));
    changed[0x97 - 3] = 0x50; /* i64.eq becomes i64.eqz: it leaves a value on the stack */
    int r = wasm_compile(scene.wasm, changed, sizeof(changed), WASM_TIER_FAST, NULL, &result, &err);
    EXPECT(r == -ERROR_INVALID && strstr(err.text, "type mismatch") != NULL);
    EXPECT(count_folders(&scene, "job-") == 0);
    close_scene(&scene);
}

/* ---- Several threads ---- */

enum { THREADS = 4 };

struct builder {
    pthread_t thread;
    struct scene *scene;
    struct wasm_result result;
};

static void *builder_main(void *argument)
{
    struct builder *builder = argument;
    struct error err = {0};
    EXPECT(wasm_compile(builder->scene->wasm, module, sizeof(module), WASM_TIER_FAST, NULL,
                        &builder->result, &err) == 0);
    return NULL;
}

TEST(wasm_compile, builds_once_for_all_who_ask)
{
    struct scene scene;
    struct builder builders[THREADS];
    unsigned built = 0;
    open_scene(&scene, (struct wasm_options){0});
    for (int i = 0; i < THREADS; i++) {
        builders[i].scene = &scene;
        EXPECT(pthread_create(&builders[i].thread, NULL, builder_main, &builders[i]) == 0);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(builders[i].thread, NULL);
        built += !builders[i].result.from_cache;
    }
    EXPECT(built == 1);
    close_scene(&scene);
}

static bool keep_named(const char *image_id, void *context)
{
    return strcmp(image_id, context) == 0;
}

TEST(wasm_compile, forgets_a_module_but_not_what_others_use)
{
    struct scene scene;
    char id[HASH_TEXT_SIZE];
    open_scene(&scene, (struct wasm_options){0});
    struct wasm_result fast = compile(&scene, WASM_TIER_FAST);
    struct wasm_result optimized = compile(&scene, WASM_TIER_OPTIMIZED);
    hash_bytes(module, sizeof(module), id);
    wasm_forget(scene.wasm, id, keep_named, fast.image_id);
    EXPECT(image_exists(scene.images, fast.image_id));
    EXPECT(!image_exists(scene.images, optimized.image_id));
    EXPECT(!compile(&scene, WASM_TIER_FAST).from_cache);
    close_scene(&scene);
}

static unsigned count_entries(const struct scene *scene)
{
    MEMORY_OWNED char *path = memory_format("%s/cache", scene->work_folder);
    unsigned count = 0;
    DIR *folder = opendir(path);
    for (struct dirent *entry = readdir(folder); entry != NULL; entry = readdir(folder)) {
        count += text_ends_with(entry->d_name, ".json");
    }
    closedir(folder);
    return count;
}

/* Compile the module with one asset; *ret_id is what that makes of it. */
static struct wasm_result compile_with(struct scene *scene, const char *content,
                                       char ret_id[HASH_TEXT_SIZE])
{
    struct error err = {0};
    struct wasm_result result = {0};
    BUFFER_OWNED struct buffer with = {0};
    struct wasm_assets *assets = wasm_assets_new();
    EXPECT(wasm_assets_add(assets, "/script", content, strlen(content), &err) == 0);
    EXPECT(wasm_assets_attach(assets, module, sizeof(module), &with, &err) == 0);
    wasm_assets_free(assets);
    hash_bytes(with.data, with.used, ret_id);
    EXPECT(wasm_compile(scene->wasm, with.data, with.used, WASM_TIER_FAST, NULL, &result, &err) ==
           0);
    return result;
}

static bool keep_nothing(const char *image_id, void *context)
{
    (void)image_id;
    (void)context;
    return false;
}

/* Goal: code is compiled once, whatever its assets, and goes with the last module that has it. */
TEST(wasm_compile, compiles_code_once_for_all_its_assets)
{
    struct scene scene;
    struct error err = {0};
    char one[HASH_TEXT_SIZE];
    char two[HASH_TEXT_SIZE];
    open_scene(&scene, (struct wasm_options){0});
    struct wasm_result first = compile_with(&scene, "one", one);
    EXPECT(!first.from_cache && count_entries(&scene) == 2);

    /* Without tools nothing can be compiled, and nothing needs to be. */
    scene.wasm->problem.kind = ERROR_UNSUPPORTED;
    struct wasm_result second = compile_with(&scene, "two", two);
    EXPECT(strcmp(first.image_id, second.image_id) != 0 && count_entries(&scene) == 3);
    EXPECT(compile_with(&scene, "one", one).from_cache);
    struct wasm_result bare = {0};
    EXPECT(wasm_compile(scene.wasm, module, sizeof(module), WASM_TIER_FAST, NULL, &bare, &err) ==
           0);
    EXPECT(bare.from_cache);
    scene.wasm->problem.kind = ERROR_NONE;

    char id[HASH_TEXT_SIZE];
    hash_bytes(module, sizeof(module), id);
    wasm_forget(scene.wasm, one, keep_nothing, NULL);
    EXPECT(count_entries(&scene) == 2 && !image_exists(scene.images, first.image_id));
    wasm_forget(scene.wasm, id, keep_nothing, NULL);
    EXPECT(count_entries(&scene) == 2 && image_exists(scene.images, bare.image_id));
    wasm_forget(scene.wasm, two, keep_nothing, NULL);
    EXPECT(count_entries(&scene) == 0 && !image_exists(scene.images, bare.image_id));
    close_scene(&scene);
}

TEST(wasm_translate, makes_the_base_a_constant)
{
    BUFFER_OWNED struct buffer source = {0};
    buffer_append_string(&source, "a(&mem->data[x], &mem->data[y]); mem->data;");
    translate_memory_base(&source);
    EXPECT_STRING(buffer_string(&source),
                  "a(&((u8*)0x2000000000ull)[x], &((u8*)0x2000000000ull)[y]); mem->data;");
}

TEST(wasm_translate, calls_what_the_module_has)
{
    BUFFER_OWNED struct buffer glue = {0};
    struct wasm_module_info info = {.abi = WASM_ABI_HANDLER, .has_wizer_initialize = true};
    translate_glue(&info, &glue);
    EXPECT(strstr(buffer_string(&glue), "Z_fnZ_handle(&glue_instance)") != NULL);
    EXPECT(strstr(buffer_string(&glue), "Z_fnZ_wizerZ2Einitialize(&glue_instance)") != NULL);
    EXPECT(strstr(buffer_string(&glue), "Z_fnZ__initialize") == NULL);
    EXPECT(strstr(buffer_string(&glue), "Z_fnZ__start") == NULL);
}
