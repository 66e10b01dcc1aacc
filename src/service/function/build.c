/*
 * Builds: from a version row to something that can be called.
 *
 * The module comes from another node when it is not here (obtain.c).  A builder thread (one for the
 * fast tier alone, so that a deploy does not wait for what is made better behind it) reads it and
 * compiles it, unless another node has done so with the same toolchain; the loop does the rest:
 * tries the initialisation, marks the version ready, moves `live` and ends the operation in one
 * command, then asks for the optimised tier, which replaces the fast one when it has been tried
 * too.  Ready versions take the same way after a restart, and on the other nodes, without being
 * written again; there the optimised tier is left to a node that is at it.
 *
 * What is written about a version expects it to be `building` and its operation to be this node's
 * still: where another node goes on, nothing of this one's comes into the state.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "engine/image/image.h"

#include "service/function/parts.h"
#include "service/telemetry/telemetry.h"

enum { STOP_TIMEOUT_MS = 10000, STEP_TEXT_SIZE = 96 };

/* ---- Builder threads ---- */

/* To be asked of others first: compiling is what takes long. */
static bool is_left_to_others(struct build *build)
{
    struct wasm_image image;
    struct wasm *wasm = build->service->options.wasm;
    if ((!build->asks_others && build->compiles) ||
        wasm_find(wasm, build->module, build->tier, &image) ||
        (build->code[0] != '\0' && wasm_find(wasm, build->code, build->tier, &image))) {
        return false;
    }
    build->must_ask = build->asks_others;
    return true;
}

/* After a start: where the fast code went from the cache, the better one has no need of it. */
static void take_better(struct build *build)
{
    struct wasm *wasm = build->service->options.wasm;
    struct wasm_image image;
    if (build->was_ready && build->tier == WASM_TIER_FAST &&
        !wasm_find(wasm, build->module, WASM_TIER_FAST, &image) &&
        wasm_find(wasm, build->module, WASM_TIER_OPTIMIZED, &image)) {
        build->tier = WASM_TIER_OPTIMIZED;
    }
}

static bool is_linux(const struct build *build)
{
    return build->config.linux_settings != NULL;
}

/* Code is better than what was there before: what fails then changes nothing. */
static bool is_improvement(const struct build *build)
{
    return build->tier == WASM_TIER_OPTIMIZED && build->was_ready && !is_linux(build);
}

/* There is nothing to compile: of these, one machine is the image of one version. */
static void name_machine(struct build *build)
{
    BUFFER_OWNED struct buffer text = {0};
    buffer_append_format(&text, "%s\n%s\n%" PRIu64 "\n%s", build->module, build->key,
                         build->created_ms, build->config.linux_settings);
    hash_bytes(text.data, text.used, build->result.image_id);
    build->info.abi = WASM_ABI_HANDLER;
}

/* Before on_compiled(), which is posted behind it. */
static void show_step(void *argument)
{
    struct build *build = argument;
    char text[STEP_TEXT_SIZE];
    if (build->operation[0] != '\0' && !build->service->stopping) {
        build->steps_shown++;
        unsigned percent = 10 + 10 * build->steps_shown;
        snprintf(text, sizeof(text), "%s tier: %s", wasm_tier_text(build->tier), build->step);
        operation_progress(build->service->options.operations, build->operation,
                           percent < 55 ? percent : 55, text);
    }
}

static void note_step(const char *what, void *context)
{
    struct build *build = context;
    build->step = what;
    loop_post(build->service->options.loop, show_step, build);
}

static int compile(struct build *build)
{
    const struct function_options *options = &build->service->options;
    BUFFER_OWNED struct buffer module = {0};
    build->must_ask = false;
    if (is_linux(build)) {
        name_machine(build);
        return obtain_check(build, &build->err);
    }
    int r = image_read(options->images, build->module, FUNCTION_MODULE_MAX, &module, &build->err);
    if (r < 0) {
        return r;
    }
    r = wasm_inspect(module.data, module.used, &build->info, &build->err);
    if (r < 0) {
        return r;
    }
    r = wasm_code_id(module.data, module.used, build->code, &build->err);
    if (r < 0) {
        return r;
    }
    take_better(build);
    if (is_left_to_others(build)) {
        return error_set(&build->err, ERROR_UNAVAILABLE, "no other node has compiled it yet");
    }
    const struct wasm_watch watch = {
        .cancelled = &build->cancelled, .on_tool = note_step, .context = build};
    return wasm_compile(options->wasm, module.data, module.used, build->tier, &watch,
                        &build->result, &build->err);
}

static void on_compiled(void *argument);

/* What waits for an answer now never waits for what is only made better. */
static struct build *next_build(struct function_service *service, bool is_first_only)
{
    struct build *build = NULL;
    pthread_mutex_lock(&service->builds_lock);
    while (!service->stopping && build == NULL) {
        build = LIST_FIRST(&service->builds_first, struct build, link);
        if (build == NULL && !is_first_only) {
            build = LIST_FIRST(&service->builds_later, struct build, link);
        }
        if (build == NULL) {
            pthread_cond_wait(&service->builds_ready, &service->builds_lock);
        }
    }
    if (build != NULL) {
        list_remove(&build->link);
    }
    pthread_mutex_unlock(&service->builds_lock);
    return build;
}

static void build_until_stopped(struct function_service *service, bool is_first_only)
{
    struct build *build = NULL;
    while ((build = next_build(service, is_first_only)) != NULL) {
        build->err = (struct error){0};
        build->status = compile(build);
        loop_post(service->options.loop, on_compiled, build);
    }
}

static void *builder(void *service)
{
    build_until_stopped(service, false);
    return NULL;
}

static void *first_builder(void *service)
{
    build_until_stopped(service, true);
    return NULL;
}

static void enqueue(struct build *build, enum wasm_tier tier)
{
    struct function_service *service = build->service;
    build->tier = tier;
    pthread_mutex_lock(&service->builds_lock);
    list_push_back(tier == WASM_TIER_FAST || is_linux(build) ? &service->builds_first
                                                             : &service->builds_later,
                   &build->link);
    pthread_cond_broadcast(&service->builds_ready); /* not every builder takes it */
    pthread_mutex_unlock(&service->builds_lock);
}

/* ---- Ends ---- */

static void leave_operation(struct build *build)
{
    if (build->operation[0] != '\0') {
        operation_on_cancel(build->service->options.operations, build->operation, NULL, NULL);
        build->operation[0] = '\0';
    }
}

static void arrive(struct build *build)
{
    if (build->is_awaited) {
        build->is_awaited = false;
        service_arrived(build->service);
    }
}

static void build_free(struct build *build)
{
    struct function_service *service = build->service;
    struct local *local = map_get(&service->locals, build->key);
    if (local != NULL && local->build == build) {
        local->build = NULL;
    }
    CHECK(build->fetch == NULL && build->ask == NULL);
    spread_stop(build);
    leave_operation(build);
    arrive(build);
    list_remove(&build->known);
    if (build->target != NULL) {
        target_forget(service, build->target); /* it may be loaded, and is nobody's */
    }
    function_config_done(&build->config);
    if (build->cancelled && !service->stopping) {
        /* Its version may be gone since: then nobody else takes away what it made. */
        module_collect(service, build->module);
    }
    free(build);
    if (!service->stopping) {
        images_trim(service);
    }
    if (service->stopping && list_is_empty(&service->builds_known)) {
        loop_stop(service->options.loop);
    }
}

static void on_failure_written(const struct error *error, uint64_t index, void *context)
{
    struct build *build = context;
    (void)index;
    if (error != NULL) {
        log_error("function: %s: its failure could not be written: %s", build->key, error->text);
    }
    if (build->operation[0] != '\0' && !build->service->stopping) {
        operation_fail(build->service->options.operations, build->operation, &build->err);
    }
    build_free(build);
}

/* Of a version of which another node, or a later try, may have better luck. */
static void note_problem(struct build *build)
{
    struct local *local = map_get(&build->service->locals, build->key);
    if (local != NULL && local->build == build) {
        snprintf(local->problem, sizeof(local->problem), "%s", build->err.text);
        local->problem_ms = clock_monotonic_ms();
        local->was_absent =
            build->err.kind == ERROR_NOT_FOUND || build->err.kind == ERROR_UNAVAILABLE;
        local->is_hopeless =
            build->err.kind == ERROR_INVALID || build->err.kind == ERROR_UNSUPPORTED;
        reconcile_later(build->service);
    }
    routes_mark_stale(build->service);
}

static void fail(struct build *build)
{
    struct function_service *service = build->service;
    if (build->was_ready) {
        if (!build->cancelled) {
            log_error("function: %s: %s", build->key, build->err.text);
            note_problem(build);
        }
        build_free(build);
        return;
    }
    log_info("function: %s failed: %s", build->key, build->err.text);
    struct store_command *command = store_command_new();
    store_command_add(command,
                      "UPDATE version SET state = 'failed', error = ?, build_ms = ?, revision = ? "
                      "WHERE key = ? AND state = 'building' AND EXISTS (SELECT 1 FROM operation o "
                      "WHERE o.key = ? AND o.state = 'running' AND o.node = ?)",
                      "turttu", build->err.text, clock_real_ms() - build->started_ms, build->key,
                      build->operation, service_node(service));
    store_propose(service->options.store, command, on_failure_written, build);
}

static void fail_cancelled(struct build *build)
{
    build->err = (struct error){.kind = ERROR_CANCELLED, .text = "cancelled"};
    build->service->stopping ? build_free(build) : fail(build);
}

/* Who made the version ready makes its code better; on the other nodes it is waited for. */
static void succeed(struct build *build, bool is_first)
{
    struct function_service *service = build->service;
    uint64_t node;
    routes_mark_stale(service);
    routes_refresh(service);
    leave_operation(build);
    build->was_ready = true;
    build->compiles = is_first || holders_of(service, build->key, false, &node, 1) == 0;
    /* Other modules may have the same code and other assets, as functions in JavaScript do. */
    build->asks_others =
        !build->compiles || (build->code[0] != '\0' && service_has_others(service));
    arrive(build);
    if (is_linux(build) || service->options.stays_fast) {
        build_free(build); /* it is as good as it gets */
        return;
    }
    enqueue(build, WASM_TIER_OPTIMIZED);
}

/* ---- The fast tier is compiled and tried ---- */

static void on_ready_written(const struct error *error, uint64_t index, void *context)
{
    struct build *build = context;
    struct function_service *service = build->service;
    (void)index;
    if (service->stopping) {
        build_free(build);
        return;
    }
    if (error == NULL) {
        succeed(build, true);
        return;
    }
    /* Deleted meanwhile, another node's by now, or the store is out of order: if it is to be here
     * all the same, reconciling finds out. */
    struct local *local = map_get(&service->locals, build->key);
    if (local != NULL && local->build == build) {
        local_retire(service, local);
    }
    build->err = *error;
    note_problem(build);
    operation_fail(service->options.operations, build->operation, error);
    build_free(build);
}

/* `live` moves forward only: of two deploys at once, the newer version wins. */
static void write_ready(struct build *build)
{
    struct function_service *service = build->service;
    char function[FUNCTION_KEY_SIZE];
    char result[64];
    snprintf(function, sizeof(function), "%s/%s", build->project, build->name);
    snprintf(result, sizeof(result), "{\"version\":%" PRIu64 "}", build->number);
    struct store_command *command = store_command_new();
    store_command_add_expecting(
        command, ERROR_CONFLICT, "the version was deleted while it was being built",
        "UPDATE version SET state = 'ready', error = NULL, abi = ?, build_ms = ?, revision = ? "
        "WHERE key = ? AND state = 'building'",
        "turt", wasm_abi_text(build->info.abi), clock_real_ms() - build->started_ms, build->key);
    const struct function_alias live = {.parts = {{build->number, 100}}, .count = 1};
    alias_add(service, command, function, "live", &live, true);
    holder_add(service, command, build->key, wasm_tier_text(build->tier));
    operation_add_success(service->options.operations, command, build->operation, result);
    store_propose(service->options.store, command, on_ready_written, build);
}

/* It can be called, and its module is where it should be: everybody may know. */
static void finish_first(struct build *build)
{
    struct function_service *service = build->service;
    struct local *local = map_get(&service->locals, build->key);
    int spread = spread_status(build, &build->err);
    if (spread == 1) {
        build->is_prepared = true; /* spread_ended() comes */
    } else if (spread == 0 && service_is_owner(service)) {
        routes_mark_stale(service); /* other nodes may hear of it first */
        write_ready(build);
    } else if (spread == 0) {
        /* The leader gives it to another node, or it is begun again here. */
        error_set(&build->err, ERROR_UNAVAILABLE, "this node has lost touch with the cluster");
        local_retire(service, local);
        note_problem(build);
        build_free(build);
    } else {
        local_retire(service, local);
        fail(build);
    }
}

void spread_ended(struct build *build)
{
    if (build->is_prepared) {
        build->is_prepared = false;
        build->cancelled ? fail_cancelled(build) : finish_first(build);
    }
}

static void adopt(struct build *build)
{
    struct local *local = map_get(&build->service->locals, build->key);
    CHECK(local != NULL && local->build == build);
    struct instance_target *old = local->target;
    local->target = build->target;
    build->target = NULL;
    local->problem[0] = '\0';
    local->image_bytes = build->result.elf_bytes;
    if (build->image.class_bytes > 0) {
        local->snapshot_bytes = build->image.snapshot_bytes;
    }
    if (old != NULL) {
        target_forget(build->service, old);
    }
    if (build->was_ready) {
        holders_mark_stale(build->service);
    }
}

static void on_prepared(const struct error *error, const struct vmm_image_info *info, void *context)
{
    struct build *build = context;
    if (build->service->stopping || build->cancelled) {
        fail_cancelled(build);
        return;
    }
    if (error != NULL && is_improvement(build) &&
        local_of(build->service, build->key)->target != NULL) {
        log_warn("function: %s stays with its fast code: %s", build->key, error->text);
        build_free(build);
        return;
    }
    if (error != NULL) {
        build->err = *error;
        fail(build);
        return;
    }
    build->image = *info;
    adopt(build);
    if (build->tier == WASM_TIER_OPTIMIZED && build->was_ready) {
        struct local *local = local_of(build->service, build->key);
        local->optimize_ms = build->result.wall_ms;
        local->waits_for_better = false;
        routes_mark_stale(build->service);
        if (build->is_awaited) {
            routes_refresh(build->service);
        }
        build_free(build);
    } else if (build->was_ready) {
        succeed(build, false);
    } else {
        finish_first(build);
    }
}

static struct instance_target *make_target(const struct build *build)
{
    struct instance_target *target = NEW(struct instance_target);
    target->references = 1;
    snprintf(target->image_id, sizeof(target->image_id), "%s", build->result.image_id);
    snprintf(target->project, sizeof(target->project), "%s", build->project);
    snprintf(target->function, sizeof(target->function), "%s", build->name);
    target->version = build->number;
    target->is_handler = build->info.abi == WASM_ABI_HANDLER;
    snprintf(target->tier, sizeof(target->tier), "%s", wasm_tier_text(build->tier));
    target->limits = (struct vmm_limits){
        .memory_bytes = build->config.memory_bytes,
        .files_bytes = build->config.tmp_bytes_max,
        .timeout_ms = build->config.timeout_ms,
        .output_bytes_max = build->config.output_bytes_max,
        .log_bytes_max = build->config.log_bytes_max,
    };
    target->concurrency_max = build->config.concurrency_max;
    target->queue_max = build->config.queue_max;
    target->is_sticky = build->config.is_sticky;
    target->instances_min = build->config.instances_min;
    target->instances_max = build->config.instances_max;
    target->idle_ms = build->config.idle_ms;
    target->recycle_calls = build->config.recycle_requests;
    target->recycle_ms = build->config.recycle_ms;
    if (build->config.environment_length > 0) {
        target->environment = memory_new(1, build->config.environment_length);
        memcpy(target->environment, build->config.environment, build->config.environment_length);
        target->environment_length = build->config.environment_length;
    }
    if (build->config.fetch_allow_length > 0) {
        target->fetch_allow = memory_new(1, build->config.fetch_allow_length);
        memcpy(target->fetch_allow, build->config.fetch_allow, build->config.fetch_allow_length);
        target->fetch_allow_length = build->config.fetch_allow_length;
    }
    if (is_linux(build)) {
        target->linux_settings = function_linux_settings(
            &build->config, build->project, build->name, build->number, build->result.image_id);
        snprintf(target->code_id, sizeof(target->code_id), "%s", build->module);
    }
    if (build->config.secrets_length > 0) {
        target->secrets = memory_new(1, build->config.secrets_length);
        memcpy(target->secrets, build->config.secrets, build->config.secrets_length);
        target->secrets_length = build->config.secrets_length;
    }
    return target;
}

/* What another node is at is looked for again when that says so, or takes too long. */
static void leave_to_others(struct build *build)
{
    struct local *local = map_get(&build->service->locals, build->key);
    if (local != NULL && local->build == build && !local->waits_for_better) {
        local->waits_for_better = true;
        local->waits_since_ms = clock_monotonic_ms();
        reconcile_later(build->service);
    }
    build_free(build);
}

/* What is damaged is as good as none where others have it. */
static bool is_to_be_fetched_again(struct build *build)
{
    struct error ignored = {0};
    if (build->status != -ERROR_CORRUPT || build->was_refetched ||
        !service_has_others(build->service)) {
        return false;
    }
    build->was_refetched = true;
    log_warn("function: %s: %s", build->key, build->err.text);
    if (!is_linux(build)) { /* a machine's have been put aside */
        image_remove(build->service->options.images, build->module, &ignored);
    }
    return true;
}

static void on_not_compiled(struct build *build)
{
    if (build->cancelled) {
        is_improvement(build) ? build_free(build) : fail_cancelled(build);
    } else if (build->must_ask) {
        obtain_image(build);
    } else if (is_to_be_fetched_again(build)) {
        obtain_module(build);
    } else if (build->tier == WASM_TIER_OPTIMIZED && !build->compiles) {
        leave_to_others(build);
    } else if (build->tier == WASM_TIER_OPTIMIZED) {
        log_warn("function: %s stays with its fast code: %s", build->key, build->err.text);
        build_free(build);
    } else {
        fail(build);
    }
}

static void on_compiled(void *argument)
{
    struct build *build = argument;
    struct function_service *service = build->service;
    if (service->stopping) {
        build_free(build);
        return;
    }
    if (!build->must_ask && !is_linux(build) && (build->status == 0 || build->compiles)) {
        telemetry_add(service->options.telemetry,
                      build->status < 0              ? TELEMETRY_COMPILES_FAILED
                          : build->result.from_cache ? TELEMETRY_COMPILES_CACHED
                                                     : TELEMETRY_COMPILES,
                      1);
    }
    if (build->status < 0) {
        on_not_compiled(build);
        return;
    }
    if (build->operation[0] != '\0') {
        char text[STEP_TEXT_SIZE] = "booting its machine and starting the handler";
        if (!is_linux(build)) {
            snprintf(text, sizeof(text), "%s tier: initialising", wasm_tier_text(build->tier));
        }
        operation_progress(service->options.operations, build->operation, 60, text);
    }
    if (build->config.is_sticky && build->info.abi != WASM_ABI_HANDLER) {
        error_set(
            &build->err, ERROR_UNSUPPORTED,
            "reuse: instance needs a handler, which is called again and again: export handle() "
            "(blixard.h), or leave reuse: request; a program with main() ends with its call");
        build->tier == WASM_TIER_OPTIMIZED ? build_free(build) : fail(build);
        return;
    }
    build->target = make_target(build);
    if (is_linux(build) && build->was_ready) {
        on_prepared(NULL, &build->image, build); /* its machine boots when it is called */
        return;
    }
    instance_prepare(service->options.instances, build->target, service->options.loop, on_prepared,
                     build);
}

void build_go_on(struct build *build)
{
    if (build->service->stopping) {
        build_free(build);
    } else if (build->cancelled) {
        fail_cancelled(build);
    } else if (build->status < 0) {
        fail(build);
    } else {
        if (!build->was_ready && build->spread == NULL) {
            spread_begin(build);
        }
        enqueue(build, build->tier);
    }
}

/* ---- Starting and stopping ---- */

static void on_cancel(void *context)
{
    struct build *build = context;
    build->cancelled = true;
    obtain_cancel(build);
    spread_cancel(build);
}

static struct build *build_new(struct function_service *service, const struct version_row *row)
{
    struct build *build = NEW(struct build);
    char project[FUNCTION_KEY_SIZE];
    char name[FUNCTION_KEY_SIZE];
    project_of(row->key, project, name, sizeof(project));
    build->service = service;
    build->number = row->number;
    build->started_ms = clock_real_ms();
    snprintf(build->key, sizeof(build->key), "%s", row->key);
    snprintf(build->project, sizeof(build->project), "%.63s", project);
    snprintf(build->name, sizeof(build->name), "%.63s", name);
    snprintf(build->module, sizeof(build->module), "%s", row->module);
    build->compiles = true;
    build->asks_others = service_has_others(service);
    list_push_back(&service->builds_known, &build->known);
    struct local *local = local_of(service, row->key);
    CHECK(local->build == NULL);
    local->build = build;
    memcpy(local->module, row->module, sizeof(local->module));
    local->created_ms = row->created_ms;
    build->created_ms = row->created_ms;
    return build;
}

static void begin(struct build *build, const struct version_row *row)
{
    build->status = config_read(row->config, &build->config, &build->err);
    if (build->status < 0) {
        fail(build);
        return;
    }
    if (is_linux(build)) {
        build->tier = WASM_TIER_OPTIMIZED;
    }
    obtain_module(build);
}

void build_start(struct function_service *service, const struct version_row *row,
                 const char *operation)
{
    struct local *local = local_of(service, row->key);
    if (local->build != NULL) { /* of a version of that key that was deleted */
        local_forget(service, row->key);
    }
    struct build *build = build_new(service, row);
    snprintf(build->operation, sizeof(build->operation), "%s", operation);
    operation_on_cancel(service->options.operations, build->operation, on_cancel, build);
    operation_progress(service->options.operations, build->operation, 10, "waiting for a compiler");
    begin(build, row); /* may be the end of it, when the row is damaged */
}

void build_resume(struct function_service *service, const struct version_row *row, bool is_awaited)
{
    struct build *build = build_new(service, row);
    build->was_ready = true;
    build->is_awaited = is_awaited;
    service->awaited += is_awaited;
    begin(build, row);
}

void build_better(struct function_service *service, const struct version_row *row, bool compiles)
{
    struct build *build = build_new(service, row);
    build->was_ready = true;
    build->compiles = compiles;
    build->tier = WASM_TIER_OPTIMIZED;
    begin(build, row);
}

bool build_runs_of(struct function_service *service, const char *module)
{
    LIST_EACH(node, &service->builds_known)
    {
        if (strcmp(LIST_ITEM(node, struct build, known)->module, module) == 0) {
            return true;
        }
    }
    return false;
}

int builders_start(struct function_service *service, struct error *err)
{
    unsigned count = service->options.build_threads > 0 ? service->options.build_threads : 1;
    service->builders = memory_new(count + 1, sizeof(*service->builders));
    for (unsigned i = 0; i <= count; i++) {
        int r =
            pthread_create(&service->builders[i], NULL, i == 0 ? first_builder : builder, service);
        if (r != 0) {
            return error_os(err, r, "starting a builder thread");
        }
        service->builder_count++;
    }
    return 0;
}

static void free_queue(struct list *queue)
{
    LIST_EACH(node, queue)
    {
        struct build *build = LIST_ITEM(node, struct build, link);
        list_remove(node);
        build_free(build);
    }
}

static void on_too_long(void *context)
{
    struct function_service *service = context;
    service->gives_up = true;
    loop_stop(service->options.loop);
}

/* What is on its way (posted, being tried, being written) is waited for by running the loop. */
bool builders_stop(struct function_service *service)
{
    LIST_EACH(node, &service->builds_known)
    {
        struct build *build = LIST_ITEM(node, struct build, known);
        build->cancelled = true;
        obtain_cancel(build);
        spread_cancel(build);
    }
    pthread_mutex_lock(&service->builds_lock);
    service->stopping = true;
    pthread_cond_broadcast(&service->builds_ready);
    pthread_mutex_unlock(&service->builds_lock);
    for (unsigned i = 0; i < service->builder_count; i++) {
        pthread_join(service->builders[i], NULL);
    }
    free(service->builders);
    free_queue(&service->builds_first);
    free_queue(&service->builds_later);

    struct loop_timer *timer = loop_timer_new(service->options.loop, on_too_long, service);
    loop_timer_start(timer, STOP_TIMEOUT_MS);
    while ((!list_is_empty(&service->builds_known) || service->at_work > 0) && !service->gives_up) {
        loop_run(service->options.loop);
    }
    loop_timer_free(timer);
    return !service->gives_up;
}
