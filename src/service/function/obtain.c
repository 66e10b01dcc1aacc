/*
 * What a build gets from other nodes: the module, the blobs of a Linux function's machine, and code
 * that was compiled already.
 *
 * Compiled code is asked of the nodes that can run the version, then of the nearest ones; it is
 * taken when our own compilers would make the same (or there are none), fetched as a blob and put
 * into the cache, where the builder finds it.  What others do not have is no error: then it is
 * compiled here.  Of a module with assets the code without them is asked for as well: functions in
 * JavaScript are one engine with different files.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "base/log.h"
#include "base/loop/loop.h"

#include "engine/image/image.h"

#include "service/function/parts.h"

enum { ASK_TIMEOUT_MS = 3000, ANSWER_BYTES_MAX = 4096 };

static void go_on(struct build *build, int status)
{
    build->status = status;
    build_go_on(build);
}

/* ---- The module, and a Linux function's machine ---- */

static const char *const blobs[] = {"the module", "kernel", "initrd", "root"};
enum { BLOB_COUNT = sizeof(blobs) / sizeof(blobs[0]) };

/* "": it has none. */
static void blob_of(const struct build *build, unsigned index, char ret_id[HASH_TEXT_SIZE])
{
    const char *text = build->config.linux_settings;
    JSON_OWNED json_t *settings = NULL;
    struct error ignored = {0};
    ret_id[0] = '\0';
    if (index == 0) {
        memcpy(ret_id, build->module, HASH_TEXT_SIZE);
    } else if (text != NULL && json_read(text, strlen(text), &settings, &ignored) == 0) {
        const char *id = json_string_value(json_object_get(settings, blobs[index]));
        if (id != NULL && image_id_is_good(id)) {
            memcpy(ret_id, id, HASH_TEXT_SIZE);
        }
    }
}

int obtain_check(const struct build *build, struct error *err)
{
    struct image_store *images = build->service->options.images;
    char id[HASH_TEXT_SIZE];
    for (unsigned i = 1; i < BLOB_COUNT; i++) {
        blob_of(build, i, id);
        if (id[0] != '\0' && image_verify(images, id, err) < 0) {
            return error_wrap(err, "the machine image's %s (import the image again)", blobs[i]);
        }
    }
    return 0;
}

static void blob_next(struct build *build);

static void on_blob(const struct error *error, void *context)
{
    struct build *build = context;
    build->fetch = NULL;
    if (error != NULL) {
        build->err = *error;
        error_wrap(&build->err, "%s%s", build->blob_at > 0 ? "the machine image's " : "",
                   blobs[build->blob_at]);
        go_on(build, -(int)error->kind);
        return;
    }
    build->blob_at++;
    blob_next(build);
}

static void blob_next(struct build *build)
{
    const struct function_options *options = &build->service->options;
    uint64_t holders[FUNCTION_ASKED_MAX];
    char id[HASH_TEXT_SIZE];
    for (; build->blob_at < BLOB_COUNT; build->blob_at++) {
        blob_of(build, build->blob_at, id);
        if (id[0] != '\0' && !image_exists(options->images, id)) {
            break;
        }
    }
    if (build->blob_at == BLOB_COUNT || build->cancelled || build->service->stopping) {
        go_on(build, 0);
    } else if (service_has_others(build->service)) {
        if (build->operation[0] != '\0') {
            operation_progress(options->operations, build->operation, 5,
                               build->blob_at > 0 ? "fetching the machine image"
                                                  : "fetching the module");
        }
        size_t count = holders_of(build->service, build->key, false, holders, FUNCTION_ASKED_MAX);
        const struct peer_wanted wanted = {.id = id,
                                           .bytes_max =
                                               build->blob_at == 0 ? FUNCTION_MODULE_MAX : 0,
                                           .first = holders,
                                           .first_count = count};
        build->fetch = peer_fetch_new(options->blobs, &wanted, on_blob, build);
    } else if (build->blob_at > 0) {
        go_on(build,
              error_set(&build->err, ERROR_NOT_FOUND, "the machine image's %s is not on this node",
                        blobs[build->blob_at]));
    } else {
        go_on(build, 0); /* what reads it says so */
    }
}

void obtain_module(struct build *build)
{
    build->blob_at = 0;
    blob_next(build);
}

/* ---- Compiled code ---- */

static void ask_next(struct build *build);
static void choose_asked(struct build *build);

/* Nobody has it, or it is here now: the builder will see. */
static void asked_all(struct build *build)
{
    build->is_code_asked = false;
    build->asks_others = false;
    go_on(build, 0);
}

static void adopt_work(void *context)
{
    struct build *build = context;
    struct wasm *wasm = build->service->options.wasm;
    build->status = build->is_code_asked
        ? wasm_adopt_code(wasm, build->code, build->tier, &build->offered, &build->err)
        : wasm_adopt(wasm, build->module, build->tier, &build->offered, &build->err);
}

static void on_adopted(void *context)
{
    struct build *build = context;
    if (build->status < 0) {
        log_warn("function: %s: compiled code of another node: %s", build->key, build->err.text);
    }
    asked_all(build);
}

static void on_image(const struct error *error, void *context)
{
    struct build *build = context;
    build->fetch = NULL;
    if (error != NULL) {
        log_warn("function: %s: compiled code of another node: %s", build->key, error->text);
        asked_all(build);
    } else if (build->cancelled || build->service->stopping) {
        go_on(build, 0);
    } else {
        loop_work(build->service->options.loop, adopt_work, on_adopted, build);
    }
}

static bool take_digest(const json_t *object, const char *name, char ret_digest[HASH_TEXT_SIZE])
{
    const char *digest = json_string_value(json_object_get(object, name));
    if (digest == NULL || !image_id_is_good(digest)) {
        return false;
    }
    memcpy(ret_digest, digest, HASH_TEXT_SIZE);
    return true;
}

static bool read_offer(struct build *build, const struct buffer *answer)
{
    struct error err = {0};
    JSON_OWNED json_t *object = NULL;
    struct wasm_image image = {0};
    if (json_read(answer->data, answer->used, &object, &err) < 0 ||
        !take_digest(object, "image", image.image_id) ||
        !take_digest(object, "toolchain", image.toolchain) ||
        !take_digest(object, "runtime", image.runtime)) {
        return false;
    }
    image.wall_ms = (uint64_t)json_integer_value(json_object_get(object, "wall_ms"));
    image.max_rss_kib = (uint64_t)json_integer_value(json_object_get(object, "max_rss_kib"));
    build->offered = image;
    return wasm_accepts(build->service->options.wasm, &image);
}

static void on_answer(const struct error *error, int status, struct buffer *answer, void *context)
{
    struct build *build = context;
    uint64_t node = build->asked[build->asked_at];
    build->ask = NULL;
    build->asked_at++;
    if (error != NULL) {
        log_warn("function: %s: asking for compiled code: %s", build->key, error->text);
    }
    if (error != NULL || status != 200 || !read_offer(build, answer)) {
        ask_next(build);
        return;
    }
    const struct peer_wanted wanted = {.id = build->offered.image_id,
                                       .bytes_max = WASM_IMAGE_BYTES_MAX,
                                       .first = &node,
                                       .first_count = 1};
    build->fetch = peer_fetch_new(build->service->options.blobs, &wanted, on_image, build);
}

static void ask_next(struct build *build)
{
    if (build->asked_at >= build->asked_count && build->code[0] != '\0' && !build->is_code_asked) {
        build->is_code_asked = true;
        choose_asked(build);
    }
    if (build->asked_at >= build->asked_count) {
        asked_all(build);
        return;
    }
    char target[sizeof("/v1/peer/images//optimized") + HASH_TEXT_SIZE];
    snprintf(target, sizeof(target), "/v1/peer/images/%s/%s",
             build->is_code_asked ? build->code : build->module, wasm_tier_text(build->tier));
    const struct peer_request request = {
        .node = build->asked[build->asked_at],
        .method = "GET",
        .target = target,
        .answer_bytes_max = ANSWER_BYTES_MAX,
        .timeout_ms = ASK_TIMEOUT_MS,
    };
    build->ask = peer_call_new(build->service->options.peers, &request, on_answer, build);
}

static void add_asked(struct build *build, uint64_t node)
{
    bool is_new = build->asked_count < FUNCTION_ASKED_MAX;
    for (size_t i = 0; i < build->asked_count && is_new; i++) {
        is_new = build->asked[i] != node;
    }
    if (is_new) {
        build->asked[build->asked_count++] = node;
    }
}

/* Those that can run the version; anybody may have compiled the same module of another one, or the
 * same code of another module. */
static void choose_asked(struct build *build)
{
    bool is_optimized = build->tier == WASM_TIER_OPTIMIZED;
    struct cluster_view *view = peer_view(build->service->options.peers);
    build->asked_at = 0;
    build->asked_count =
        holders_of(build->service, build->key, is_optimized, build->asked, FUNCTION_ASKED_MAX);
    for (size_t i = 0; view != NULL && (!is_optimized || build->is_code_asked) && i < view->count;
         i++) {
        if (!view->nodes[i].is_self && view->nodes[i].health == CLUSTER_HEALTHY) {
            add_asked(build, view->nodes[i].id);
        }
    }
    if (view != NULL) {
        cluster_view_unref(view);
    }
}

void obtain_image(struct build *build)
{
    build->is_code_asked = false;
    choose_asked(build);
    ask_next(build);
}

/* ---- Breaking off ---- */

static void on_broken_off(void *argument)
{
    build_go_on(argument);
}

void obtain_cancel(struct build *build)
{
    if (build->fetch == NULL && build->ask == NULL) {
        return; /* it is elsewhere, or has come to its end */
    }
    peer_fetch_free(build->fetch);
    peer_call_free(build->ask);
    build->fetch = NULL;
    build->ask = NULL;
    loop_post(build->service->options.loop, on_broken_off, build);
}
