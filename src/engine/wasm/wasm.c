/* The door: open, compile with the cache in front, close. */
#include "engine/wasm/wasm.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/text.h"

#include "engine/image/image.h"
#include "engine/jail/jail.h"
#include "engine/wasm/private.h"

/* What a compiler may take is CPU time: others have their part of a busy machine.  The clock is for
 * one that waits for ever. */
enum { CPU_SECONDS_MAX = 120, TIMEOUT_MS = 15 * CPU_SECONDS_MAX * 1000 };

static const uint64_t memory_bytes_default = UINT64_C(2) << 30;

const char *wasm_tier_text(enum wasm_tier tier)
{
    CHECK(tier < WASM_TIER_COUNT);
    return tier == WASM_TIER_FAST ? "fast" : "optimized";
}

const char *wasm_abi_text(enum wasm_abi abi)
{
    static const char *const texts[] = {"command", "handler", "exports"};
    return texts[abi];
}

/* Folders of compilations that a killed daemon left, and toolchains of the versions before this. */
static void remove_old_folders(const struct wasm *wasm)
{
    const char *now = wasm->toolchain.folder;
    DIR *folder = opendir(wasm->work_folder);
    for (struct dirent *entry = folder != NULL ? readdir(folder) : NULL; entry != NULL;
         entry = readdir(folder)) {
        MEMORY_OWNED char *path = memory_format("%s/%s", wasm->work_folder, entry->d_name);
        bool is_old = text_starts_with(entry->d_name, "job-") ||
            (text_starts_with(entry->d_name, "toolchain-") && now != NULL &&
             strcmp(path, now) != 0);
        if (is_old) {
            struct error ignored = {0};
            file_remove_tree(path, &ignored);
        }
    }
    if (folder != NULL) {
        closedir(folder);
    }
}

int wasm_open(const struct wasm_options *options, struct wasm **ret_wasm, struct error *err)
{
    CHECK(options->images != NULL);

    struct wasm *wasm = NEW(struct wasm);
    wasm->work_folder = realpath(options->work_folder, NULL);
    if (wasm->work_folder == NULL) {
        wasm->work_folder = memory_copy_string(options->work_folder);
    }
    wasm->cache_folder = memory_format("%s/cache", wasm->work_folder);
    wasm->images = options->images;
    wasm->cpu_seconds_max =
        options->cpu_seconds_max > 0 ? options->cpu_seconds_max : CPU_SECONDS_MAX;
    wasm->timeout_ms = options->timeout_ms > 0 ? options->timeout_ms : TIMEOUT_MS;
    wasm->memory_bytes_max =
        options->memory_bytes_max > 0 ? options->memory_bytes_max : memory_bytes_default;
    wasm->on_tool = options->on_tool;
    pthread_mutex_init(&wasm->lock, NULL);
    pthread_cond_init(&wasm->built, NULL);

    toolchain_runtime(wasm->runtime);
    jail_open();
    int r = file_make_folder(wasm->cache_folder, 0700, err);
    if (r == 0) {
        r = toolchain_open(wasm->work_folder, &wasm->toolchain, err);
    }
    if (r == -ERROR_UNSUPPORTED) {
        wasm->problem = *err;
        r = 0;
    }
    if (r < 0) {
        wasm_close(wasm);
        return r;
    }
    if (!options->shares_folder) {
        remove_old_folders(wasm);
        recency_open(wasm);
    }
    *ret_wasm = wasm;
    return 0;
}

const struct error *wasm_problem(const struct wasm *wasm)
{
    return wasm->problem.kind != ERROR_NONE ? &wasm->problem : NULL;
}

void wasm_close(struct wasm *wasm)
{
    if (wasm == NULL) {
        return;
    }
    CHECK(wasm->building.count == 0);
    toolchain_done(&wasm->toolchain);
    map_done(&wasm->building);
    recency_close(wasm);
    pthread_cond_destroy(&wasm->built);
    pthread_mutex_destroy(&wasm->lock);
    free(wasm->work_folder);
    free(wasm->cache_folder);
    free(wasm);
}

/* ---- One at a time per key ---- */

static void claim(struct wasm *wasm, const char *key)
{
    pthread_mutex_lock(&wasm->lock);
    while (map_get(&wasm->building, key) != NULL) {
        pthread_cond_wait(&wasm->built, &wasm->lock);
    }
    map_set(&wasm->building, key, wasm);
    pthread_mutex_unlock(&wasm->lock);
}

/* Without waiting: false when somebody is at work on it. */
static bool claim_now(struct wasm *wasm, const char *key)
{
    pthread_mutex_lock(&wasm->lock);
    bool is_free = map_get(&wasm->building, key) == NULL;
    if (is_free) {
        map_set(&wasm->building, key, wasm);
    }
    pthread_mutex_unlock(&wasm->lock);
    return is_free;
}

static void release(struct wasm *wasm, const char *key)
{
    pthread_mutex_lock(&wasm->lock);
    map_remove(&wasm->building, key);
    pthread_cond_broadcast(&wasm->built);
    pthread_mutex_unlock(&wasm->lock);
}

static int run_job(struct job *job, struct wasm_result *result, struct error *err)
{
    MEMORY_OWNED char *image_path = job_path(job, "image.elf");
    BUFFER_OWNED struct buffer image = {0};
    int r = pipeline_run(job, err);
    if (r == 0) {
        r = file_read(image_path, WASM_IMAGE_BYTES_MAX, &image, err);
    }
    if (r == 0) {
        r = image_put(job->wasm->images, image.data, image.used, result->image_id, err);
    }
    result->elf_bytes = image.used;
    result->max_rss_kib = job->max_rss_kib;
    return r;
}

static int build(struct job *job, struct wasm_result *ret_result, struct error *err)
{
    struct wasm_result result = {.tier = job->tier};
    uint64_t begin_ms = clock_monotonic_ms();
    int r = job_begin(job, err);
    if (r == 0) {
        r = run_job(job, &result, err);
    }
    job_end(job);
    if (r == 0) {
        result.wall_ms = clock_monotonic_ms() - begin_ms;
        *ret_result = result;
    }
    return r;
}

static void tell(const struct wasm_image *image, enum wasm_tier tier,
                 struct wasm_result *ret_result)
{
    *ret_result = (struct wasm_result){
        .tier = tier,
        .from_cache = true,
        .elf_bytes = image->elf_bytes,
        .wall_ms = image->wall_ms,
        .max_rss_kib = image->max_rss_kib,
    };
    memcpy(ret_result->image_id, image->image_id, sizeof(image->image_id));
}

static int enter(struct wasm *wasm, const char *key, const struct cache_names *names,
                 const struct wasm_result *result, struct error *err)
{
    struct wasm_image image = {
        .elf_bytes = result->elf_bytes,
        .wall_ms = result->wall_ms,
        .max_rss_kib = result->max_rss_kib,
    };
    memcpy(image.image_id, result->image_id, sizeof(image.image_id));
    memcpy(image.toolchain, wasm->toolchain.fingerprint, sizeof(image.toolchain));
    memcpy(image.runtime, wasm->runtime, sizeof(image.runtime));
    return cache_put(wasm, key, names, &image, err);
}

/* Under the key's claim: what is in the cache is some module's from now on. */
static int take_over(struct wasm *wasm, const char *key, const struct cache_names *names,
                     const struct wasm_image *image, struct error *err)
{
    struct cache_names before;
    cache_names(wasm, key, &before);
    bool is_nobodys = before.module[0] == '\0' && names->module[0] != '\0';
    return is_nobodys ? cache_put(wasm, key, names, image, err) : 0;
}

/* The code of job->bytes, which have no assets; `names` are those of its entry, claimed. */
static int compile_code(struct wasm *wasm, struct job *job, const char *key,
                        const struct cache_names *names, struct wasm_result *ret_result,
                        struct error *err)
{
    struct wasm_image image;
    int r = 0;
    if (cache_get(wasm, key, &image)) {
        tell(&image, job->tier, ret_result);
        r = take_over(wasm, key, names, &image, err);
    } else if (wasm->problem.kind != ERROR_NONE) {
        *err = wasm->problem;
        r = -(int)err->kind;
    } else {
        r = build(job, ret_result, err);
        r = r < 0 ? r : enter(wasm, key, names, ret_result, err);
    }
    return r;
}

/* ---- With assets ---- */

static int link_assets(struct wasm *wasm, const struct section_view *assets,
                       struct wasm_result *result, struct error *err)
{
    BUFFER_OWNED struct buffer bare = {0};
    BUFFER_OWNED struct buffer image = {0};
    int r = image_read(wasm->images, result->image_id, WASM_IMAGE_BYTES_MAX, &bare, err);
    if (r == 0) {
        r = assets_link(&bare, assets->content, assets->content_length, &image, err);
    }
    if (r == 0) {
        r = image_put(wasm->images, image.data, image.used, result->image_id, err);
    }
    result->elf_bytes = image.used;
    return r;
}

/* The module's key is claimed; its code's is until the module's entry names it. */
static int compile_and_link(struct wasm *wasm, struct job *job, const char *key,
                            const struct cache_names *names, const struct section_view *assets,
                            struct wasm_result *ret_result, struct error *err)
{
    static const struct cache_names nobodys = {0};
    char code_key[HASH_TEXT_SIZE];
    cache_key(names->code, job->tier, code_key);
    claim(wasm, code_key);
    int r = compile_code(wasm, job, code_key, &nobodys, ret_result, err);
    r = r < 0 ? r : link_assets(wasm, assets, ret_result, err);
    r = r < 0 ? r : enter(wasm, key, names, ret_result, err);
    release(wasm, code_key);
    return r;
}

/* What is compiled is what is left of job->bytes, the whole module. */
static int compile_with_assets(struct wasm *wasm, struct job *job, const char *key,
                               struct cache_names *names, const struct section_view *assets,
                               struct wasm_result *ret_result, struct error *err)
{
    BUFFER_OWNED struct buffer code = {0};
    struct wasm_image image;
    if (cache_get(wasm, key, &image)) {
        tell(&image, job->tier, ret_result);
        return 0;
    }
    assets_remove(job->bytes, job->length, assets, &code);
    hash_bytes(code.data, code.used, names->code);
    job->bytes = code.data;
    job->length = code.used;
    return compile_and_link(wasm, job, key, names, assets, ret_result, err);
}

int wasm_compile(struct wasm *wasm, const void *bytes, size_t length, enum wasm_tier tier,
                 const struct wasm_watch *watch, struct wasm_result *ret_result, struct error *err)
{
    struct wasm_module_info info;
    struct section_view assets = {0};
    struct cache_names names = {0};
    struct job job = {.wasm = wasm,
                      .info = &info,
                      .bytes = bytes,
                      .length = length,
                      .tier = tier,
                      .watch = watch};
    int r = wasm_inspect(bytes, length, &info, err);
    if (r == 0) {
        r = assets_find(bytes, length, &assets, err);
    }
    if (r < 0) {
        return r;
    }
    char key[HASH_TEXT_SIZE];
    hash_bytes(bytes, length, names.module);
    cache_key(names.module, tier, key);
    claim(wasm, key);
    r = assets.length > 0 ? compile_with_assets(wasm, &job, key, &names, &assets, ret_result, err)
                          : compile_code(wasm, &job, key, &names, ret_result, err);
    release(wasm, key);
    return r;
}

/* Its key is nobody's module's, so it is never found as a function's. */
static int compile_exports(struct wasm *wasm, struct job *job, struct wasm_result *ret_result,
                           struct error *err)
{
    static const struct cache_names nobodys = {0};
    struct wasm_module_info info;
    struct section_view assets;
    BUFFER_OWNED struct buffer code = {0};
    char code_id[HASH_TEXT_SIZE];
    char key[HASH_TEXT_SIZE];
    int r = inspect_form(job->bytes, job->length, WASM_FORM_EXPORTS, &info, err);
    if (r == 0) {
        r = assets_find(job->bytes, job->length, &assets, err);
    }
    if (r < 0) {
        return r;
    }
    assets_remove(job->bytes, job->length, &assets, &code);
    hash_bytes(code.data, code.used, code_id);
    MEMORY_OWNED char *name = memory_format("exports of %s", code_id);
    job->info = &info;
    job->bytes = code.data;
    job->length = code.used;
    cache_key(name, job->tier, key);
    claim(wasm, key);
    r = compile_code(wasm, job, key, &nobodys, ret_result, err);
    release(wasm, key);
    job->info = NULL; /* it ends here, as the code does */
    job->bytes = NULL;
    job->length = 0;
    return r;
}

/* Of names and modules, each with its length. */
static void linked_key(const struct wasm_linked *modules, size_t count, enum wasm_tier tier,
                       char ret_key[HASH_TEXT_SIZE])
{
    BUFFER_OWNED struct buffer all = {0};
    for (size_t i = 0; i < count; i++) {
        char id[HASH_TEXT_SIZE];
        hash_bytes(modules[i].bytes, modules[i].length, id);
        buffer_append_format(&all, "linked %zu %s %s\n", strlen(modules[i].name), modules[i].name,
                             id);
    }
    cache_key(buffer_string(&all), tier, ret_key);
}

int wasm_compile_linked(struct wasm *wasm, const struct wasm_linked *modules, size_t count,
                        enum wasm_tier tier, struct wasm_result *ret_result, struct error *err)
{
    static const struct cache_names nobodys = {0};
    struct wasm_module_info info = {.abi = WASM_ABI_EXPORTS};
    struct link link = {0};
    struct job job = {.wasm = wasm,
                      .info = &info,
                      .tier = tier,
                      .form = WASM_FORM_LINKED,
                      .modules = modules,
                      .link = &link};
    char key[HASH_TEXT_SIZE];
    int r = link_read(modules, count, &link, err);
    if (r == 0) {
        linked_key(modules, count, tier, key);
        claim(wasm, key);
        r = compile_code(wasm, &job, key, &nobodys, ret_result, err);
        release(wasm, key);
    }
    link_done(&link);
    return r;
}

int wasm_compile_form(struct wasm *wasm, const void *bytes, size_t length, enum wasm_form form,
                      enum wasm_tier tier, struct wasm_result *ret_result, struct error *err)
{
    if (form == WASM_FORM_FUNCTION) {
        return wasm_compile(wasm, bytes, length, tier, NULL, ret_result, err);
    }
    struct job job = {.wasm = wasm, .bytes = bytes, .length = length, .tier = tier, .form = form};
    return compile_exports(wasm, &job, ret_result, err);
}

bool wasm_find(struct wasm *wasm, const char *module_id, enum wasm_tier tier,
               struct wasm_image *ret_image)
{
    char key[HASH_TEXT_SIZE];
    cache_key(module_id, tier, key);
    return cache_get(wasm, key, ret_image); /* who compiles it now is not waited for */
}

bool wasm_accepts(const struct wasm *wasm, const struct wasm_image *image)
{
    return wasm->problem.kind == ERROR_NONE
        ? strcmp(image->toolchain, wasm->toolchain.fingerprint) == 0
        : strcmp(image->runtime, wasm->runtime) == 0;
}

int wasm_code_id(const void *bytes, size_t length, char ret_id[HASH_TEXT_SIZE], struct error *err)
{
    struct section_view assets = {0};
    BUFFER_OWNED struct buffer code = {0};
    int r = assets_find(bytes, length, &assets, err);
    if (r < 0) {
        return r;
    }
    ret_id[0] = '\0';
    if (assets.length > 0) {
        assets_remove(bytes, length, &assets, &code);
        hash_bytes(code.data, code.used, ret_id);
    }
    return 0;
}

static int adopt(struct wasm *wasm, const char *id, const struct cache_names *names,
                 enum wasm_tier tier, const struct wasm_image *image, struct error *err)
{
    char key[HASH_TEXT_SIZE];
    struct wasm_image taken = *image;
    FD_OWNED int fd = -1;
    if (!wasm_accepts(wasm, image)) {
        return error_set(err, ERROR_INVALID, "the image %.16s... was made by another toolchain",
                         image->image_id);
    }
    int r = image_open(wasm->images, image->image_id, &fd, &taken.elf_bytes, err);
    if (r < 0) {
        return r;
    }
    cache_key(id, tier, key);
    claim(wasm, key);
    r = cache_put(wasm, key, names, &taken, err);
    release(wasm, key);
    return r;
}

int wasm_adopt(struct wasm *wasm, const char *module_id, enum wasm_tier tier,
               const struct wasm_image *image, struct error *err)
{
    struct cache_names names = {0};
    snprintf(names.module, sizeof(names.module), "%s", module_id);
    return adopt(wasm, module_id, &names, tier, image, err);
}

/* An entry that is there is as good, and may be a module's as well. */
int wasm_adopt_code(struct wasm *wasm, const char *code_id, enum wasm_tier tier,
                    const struct wasm_image *image, struct error *err)
{
    static const struct cache_names nobodys = {0};
    struct wasm_image found;
    return wasm_find(wasm, code_id, tier, &found)
        ? 0
        : adopt(wasm, code_id, &nobodys, tier, image, err);
}

struct keeping {
    bool (*keep)(const char *image_id, void *context);
    void *context;
};

static void drop_entry(struct wasm *wasm, const char *key, const struct keeping *keeping)
{
    char image[HASH_TEXT_SIZE];
    if (cache_take(wasm, key, image) && !keeping->keep(image, keeping->context)) {
        struct error ignored = {0}; /* it stays on disk, and harms nobody */
        image_remove(wasm->images, image, &ignored);
    }
}

/* Others may have it as their code: then it stays, as nobody's module. */
static bool is_left_as_code(struct wasm *wasm, const char *module_id, const char *key)
{
    static const struct cache_names nobodys = {0};
    struct wasm_image image;
    struct error ignored = {0}; /* then it stays named, and goes another time */
    if (!cache_code_is_used(wasm, module_id)) {
        return false;
    }
    if (cache_get(wasm, key, &image)) {
        cache_put(wasm, key, &nobodys, &image, &ignored);
    }
    return true;
}

static void forget_code(struct wasm *wasm, const char *code_id, enum wasm_tier tier,
                        const struct keeping *keeping)
{
    struct cache_names names;
    char key[HASH_TEXT_SIZE];
    cache_key(code_id, tier, key);
    if (!claim_now(wasm, key)) {
        return; /* it is about to be somebody's code again */
    }
    cache_names(wasm, key, &names);
    if (names.module[0] == '\0' && !cache_code_is_used(wasm, code_id)) {
        drop_entry(wasm, key, keeping);
    }
    release(wasm, key);
}

static void forget(struct wasm *wasm, const char *module_id, enum wasm_tier tier,
                   const struct keeping *keeping)
{
    struct cache_names names;
    char key[HASH_TEXT_SIZE];
    cache_key(module_id, tier, key);
    claim(wasm, key);
    cache_names(wasm, key, &names);
    if (names.code[0] != '\0' || !is_left_as_code(wasm, module_id, key)) {
        drop_entry(wasm, key, keeping);
    }
    release(wasm, key);
    if (names.code[0] != '\0') {
        forget_code(wasm, names.code, tier, keeping);
    }
}

void wasm_forget(struct wasm *wasm, const char *module_id,
                 bool (*keep)(const char *image_id, void *context), void *context)
{
    const struct keeping keeping = {keep, context};
    for (int tier = 0; tier < WASM_TIER_COUNT; tier++) {
        forget(wasm, module_id, (enum wasm_tier)tier, &keeping);
    }
}
