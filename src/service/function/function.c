/*
 * Changes: each is decided from what the store says now and proposed as one command that expects
 * it to be so still.
 */
#include "service/function/function.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/json.h"
#include "base/log.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "engine/image/guest.h"
#include "engine/image/image.h"

#include "service/function/parts.h"
#include "service/telemetry/telemetry.h"

static const char changed_meanwhile[] = "the function was changed at the same moment; retry";

/* ---- Deleting ---- */

struct removed {
    char key[FUNCTION_KEY_SIZE];
    char module[HASH_TEXT_SIZE];
    char image[sizeof(GUEST_IMAGE_PREFIX) + GUEST_IMAGE_DIGITS]; /* made of its runner, or "" */
};

struct removal {
    struct function_service *service;
    char project[64];
    char name[64];
    bool whole; /* the function with its log */
    struct removed *versions;
    size_t count;
    void (*done)(const struct error *error, uint64_t index, void *context);
    void *context;
};

static void note_removed(const struct version_row *row, void *context)
{
    struct removal *removal = context;
    removal->versions =
        memory_resize(removal->versions, (removal->count + 1) * sizeof(*removal->versions));
    struct removed *removed = &removal->versions[removal->count++];
    memcpy(removed->key, row->key, sizeof(removed->key));
    memcpy(removed->module, row->module, sizeof(removed->module));
    removed->image[0] = '\0';
    JSON_OWNED json_t *config = NULL;
    struct error ignored = {0};
    if (json_read(row->config, strlen(row->config), &config, &ignored) == 0) {
        const char *image = json_text(json_object_get(config, "linux"), "image");
        if (guest_image_is_made(image)) {
            memcpy(removed->image, image, sizeof(removed->image));
        }
    }
}

/* A deploy has made them, and nobody else knows them: they go with the last that has them. */
static void add_images(struct store_command *command, const struct removal *removal)
{
    for (size_t i = 0; i < removal->count; i++) {
        const char *image = removal->versions[i].image;
        MEMORY_OWNED char *key = memory_format("%s/%s", removal->project, image);
        if (image[0] != '\0') {
            store_command_add(command,
                              "DELETE FROM machine_image WHERE key = ? AND NOT EXISTS (SELECT 1 "
                              "FROM function f JOIN version v ON v.function = f.key WHERE "
                              "f.project = ? AND v.state <> 'failed' AND instr(v.config, ?) > 0)",
                              "ttt", key, removal->project, image);
        }
    }
}

/* A module goes, with all that was made of it, when no version has it and no deploy is about to. */
void module_collect(struct function_service *service, const char *module)
{
    if (deploy_runs_of(service, module) || build_runs_of(service, module) ||
        module_is_used(service, module)) {
        return;
    }
    struct error err = {0};
    if (image_exists(service->options.images, module) &&
        image_remove(service->options.images, module, &err) < 0) {
        log_warn("function: module %s stays on disk: %s", module, err.text);
    }
    wasm_forget(service->options.wasm, module, image_is_used, service);
}

static void on_removed(const struct error *error, uint64_t index, void *context)
{
    struct removal *removal = context;
    struct function_service *service = removal->service;
    for (size_t i = 0; error == NULL && i < removal->count; i++) {
        local_forget(service, removal->versions[i].key);
        module_collect(service, removal->versions[i].module);
    }
    if (error == NULL) {
        images_trim(service);
    }
    struct error err = {0};
    if (error == NULL && removal->whole &&
        telemetry_remove(service->options.telemetry, removal->project, removal->name, &err) < 0) {
        log_warn("function: the log of %s stays on disk: %s", removal->name, err.text);
    }
    if (error == NULL) {
        reconcile_soon(service); /* which sees one that was made under its name meanwhile */
        routes_mark_stale(service);
        routes_refresh(service);
    }
    removal->done(error, index, removal->context);
    free(removal->versions);
    free(removal);
}

static struct removal *
removal_new(struct function_service *service, const char *project, const char *name,
            void (*done)(const struct error *error, uint64_t index, void *context), void *context)
{
    struct removal *removal = NEW(struct removal);
    removal->service = service;
    snprintf(removal->project, sizeof(removal->project), "%s", project);
    snprintf(removal->name, sizeof(removal->name), "%s", name);
    removal->done = done;
    removal->context = context;
    return removal;
}

void function_delete(struct function_service *service, const char *project, const char *name,
                     void (*done)(const struct error *error, uint64_t index, void *context),
                     void *context)
{
    struct error err = {0};
    uint64_t last = 0;
    if (name_check("function", name, &err) < 0 ||
        function_find(service, project, name, &last, &err) < 0) {
        done(&err, 0, context);
        return;
    }
    char key[FUNCTION_KEY_SIZE];
    snprintf(key, sizeof(key), "%s/%s", project, name);
    struct removal *removal = removal_new(service, project, name, done, context);
    removal->whole = true;
    if (version_each(service, key, note_removed, removal, &err) < 0) {
        on_removed(&err, 0, removal);
        return;
    }
    /* Row by row from the leaves, so that watchers hear of each. */
    struct store_command *command = store_command_new();
    if (aliases_have_weights(service)) {
        store_command_add(command,
                          "DELETE FROM alias_history WHERE alias IN (SELECT key FROM alias WHERE "
                          "function = ?)",
                          "t", key);
        store_command_add(command, "DELETE FROM alias_split WHERE function = ?", "t", key);
    }
    store_command_add(command, "DELETE FROM alias WHERE function = ?", "t", key);
    store_command_add(command,
                      "DELETE FROM holder WHERE version IN (SELECT key FROM version WHERE function "
                      "= ?)",
                      "t", key);
    store_command_add(command, "DELETE FROM version WHERE function = ?", "t", key);
    add_images(command, removal);
    store_command_add_expecting(command, ERROR_CONFLICT, changed_meanwhile,
                                "DELETE FROM function WHERE key = ? AND last_version = ?", "tu",
                                key, last);
    store_propose(service->options.store, command, on_removed, removal);
}

static const char pointed_to[] =
    "an alias points to this version; point it to another one first, or delete the function";

void function_delete_version(struct function_service *service, const char *project,
                             const char *name, uint64_t version,
                             void (*done)(const struct error *error, uint64_t index, void *context),
                             void *context)
{
    struct error err = {0};
    struct version_row row;
    if (name_check("function", name, &err) < 0 ||
        version_find(service, project, name, version, &row, &err) < 0) {
        done(&err, 0, context);
        return;
    }
    struct removal *removal = removal_new(service, project, name, done, context);
    note_removed(&row, removal);
    struct store_command *command = store_command_new();
    if (aliases_have_weights(service)) {
        store_command_add(command,
                          "DELETE FROM alias_split WHERE function = (SELECT function FROM version "
                          "WHERE key = ?) AND version = ? AND weight = 0",
                          "tu", row.key, version);
        store_command_add_expecting(
            command, ERROR_CONFLICT, pointed_to,
            "UPDATE version SET revision = revision WHERE key = ? AND NOT EXISTS (SELECT 1 FROM "
            "alias_split s WHERE s.function = version.function AND s.version = number)",
            "t", row.key);
    }
    store_command_add_expecting(
        command, ERROR_CONFLICT, pointed_to,
        "DELETE FROM version WHERE key = ? AND NOT EXISTS (SELECT 1 FROM alias WHERE "
        "alias.function = version.function AND alias.version = version.number)",
        "t", row.key);
    store_command_add(command, "DELETE FROM holder WHERE version = ?", "t", row.key);
    add_images(command, removal);
    store_propose(service->options.store, command, on_removed, removal);
    version_row_done(&row);
}

/* ---- Life ---- */

int function_service_new(const struct function_options *options,
                         struct function_service **ret_service, struct error *err)
{
    struct function_service *service = NEW(struct function_service);
    service->options = *options;
    list_init(&service->deploys);
    list_init(&service->builds_first);
    list_init(&service->builds_later);
    list_init(&service->builds_known);
    pthread_mutex_init(&service->builds_lock, NULL);
    pthread_cond_init(&service->builds_ready, NULL);
    int r = builders_start(service, err);
    r = r < 0 ? r : reconcile_at_start(service, err);
    if (r < 0) {
        function_service_free(service);
        return r;
    }
    *ret_service = service;
    return 0;
}

static void free_local(const char *key, void *value, void *context)
{
    struct local *local = value;
    (void)key;
    (void)context;
    if (local->target != NULL) {
        instance_target_unref(local->target);
    }
    free(local);
}

void function_service_free(struct function_service *service)
{
    if (service == NULL) {
        return;
    }
    deploys_stop(service);
    store_settle(service->options.store); /* no deploy is half way to its build */
    bool ended = builders_stop(service);
    store_settle(service->options.store); /* what the builds wrote at their end */
    reconcile_done(service);
    loop_flush(service->options.loop); /* what was posted before this refers to the service */
    if (!ended) {
        /* Somebody still refers to it: better a leak at the end than a use after free. */
        log_warn("function: a build did not end when it was broken off");
        return;
    }
    map_each(&service->locals, free_local, NULL);
    map_done(&service->locals);
    routes_done(service);
    pthread_cond_destroy(&service->builds_ready);
    pthread_mutex_destroy(&service->builds_lock);
    free(service->gateway_url);
    free(service);
}

/* ---- Compiled code, for other nodes ---- */

struct finding {
    struct function_service *service;
    char module[HASH_TEXT_SIZE];
    enum wasm_tier tier;
    bool found;
    struct wasm_image image;
    void (*done)(const struct error *error, struct buffer *json, void *context);
    void *context;
};

static void find_work(void *context)
{
    struct finding *finding = context;
    finding->found =
        wasm_find(finding->service->options.wasm, finding->module, finding->tier, &finding->image);
}

static void on_found(void *context)
{
    struct finding *finding = context;
    struct function_service *service = finding->service;
    BUFFER_OWNED struct buffer json = {0};
    struct error err = {0};
    service->at_work--;
    if (service->stopping) {
        loop_stop(service->options.loop);
    }
    if (finding->found) {
        const struct wasm_image *image = &finding->image;
        struct json_writer writer = json_writer_to(&json);
        json_write_begin_object(&writer);
        json_write_field_string(&writer, "image", image->image_id);
        json_write_field_string(&writer, "toolchain", image->toolchain);
        json_write_field_string(&writer, "runtime", image->runtime);
        json_write_field_u64(&writer, "size_bytes", image->elf_bytes);
        json_write_field_u64(&writer, "wall_ms", image->wall_ms);
        json_write_field_u64(&writer, "max_rss_kib", image->max_rss_kib);
        json_write_end_object(&writer);
        finding->done(NULL, &json, finding->context);
    } else {
        error_set(&err, ERROR_NOT_FOUND, "this node has not compiled module %.16s...",
                  finding->module);
        finding->done(&err, NULL, finding->context);
    }
    free(finding);
}

void function_find_image(struct function_service *service, const char *module, const char *tier,
                         void (*done)(const struct error *error, struct buffer *json,
                                      void *context),
                         void *context)
{
    struct error err;
    bool is_fast = strcmp(tier, wasm_tier_text(WASM_TIER_FAST)) == 0;
    if (!image_id_is_good(module) ||
        (!is_fast && strcmp(tier, wasm_tier_text(WASM_TIER_OPTIMIZED)) != 0)) {
        error_set(&err, ERROR_INVALID, "a module is 64 hex digits, a tier fast or optimized");
        done(&err, NULL, context);
        return;
    }
    struct finding *finding = NEW(struct finding);
    finding->service = service;
    memcpy(finding->module, module, sizeof(finding->module));
    finding->tier = is_fast ? WASM_TIER_FAST : WASM_TIER_OPTIMIZED;
    finding->done = done;
    finding->context = context;
    service->at_work++;
    loop_work(service->options.loop, find_work, on_found, finding);
}

/* ---- The gateway's address ---- */

void function_set_gateway(struct function_service *service, const char *url)
{
    free(service->gateway_url);
    service->gateway_url = memory_copy_string(url);
}
