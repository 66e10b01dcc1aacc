/*
 * What the state wants of this node, compared with what it has: after each change of the tables, at
 * a start, and when something is to be tried again.
 *
 *   ready, and an alias points to it    it can be called here, too
 *   ready, no alias                     what its module is here for at a start, and what was called
 *   building, by this node              it is being built
 *   building, by a node that is lost    the leader goes on with it
 *   gone                                nothing of it is left here
 *
 * Where the node is alone this is what a start does, and little else.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "engine/image/image.h"

#include "service/function/parts.h"
#include "service/telemetry/telemetry.h"

enum { RETRY_EVERY_MS = 2000 };

/* A function that there was: its log is here until it is gone. */
struct known {
    uint64_t seen;
};

/* ---- This node and the others ---- */

uint64_t service_node(const struct function_service *service)
{
    struct store_status status;
    store_status(service->options.store, &status);
    return status.node_id;
}

bool service_has_others(const struct function_service *service)
{
    struct cluster_view *view =
        service->options.peers != NULL ? peer_view(service->options.peers) : NULL;
    bool has = view != NULL && view->tls != NULL && view->count > 1;
    if (view != NULL) {
        cluster_view_unref(view);
    }
    return has;
}

bool service_is_owner(const struct function_service *service)
{
    return service->options.cluster == NULL || cluster_is_owner(service->options.cluster);
}

/* ---- Versions ---- */

void local_forget(struct function_service *service, const char *key)
{
    struct local *local = map_remove(&service->locals, key);
    if (local != NULL) {
        local_free(service, local);
    }
}

static bool has_failed_lately(const struct local *local)
{
    uint64_t rest_ms = local->was_absent ? FUNCTION_ABSENT_RETRY_MS : FUNCTION_RETRY_MS;
    return local->problem_ms != 0 && clock_monotonic_ms() - local->problem_ms < rest_ms;
}

/* One that could not be built is tried again: others may have got further meanwhile, a disk may
 * have room again, or somebody has uploaded the module. */
static bool is_to_be_tried(const struct function_service *service, const struct local *local)
{
    return local->problem[0] == '\0' ||
        (!has_failed_lately(local) && (!local->is_hopeless || service_has_others(service)));
}

/* Most say nothing of it: their settings are not read for that. */
static enum function_place place_of(const struct function_service *service,
                                    const struct version_row *row)
{
    enum function_place place = FUNCTION_HERE;
    JSON_OWNED json_t *config = NULL;
    struct error ignored = {0};
    if (service->options.place == NULL || strstr(row->config, "\"placement\":{") == NULL ||
        json_read(row->config, strlen(row->config), &config, &ignored) < 0) {
        return place;
    }
    const json_t *placement = json_object_get(config, "placement");
    MEMORY_OWNED char *text = json_is_object(placement) ? json_dumps(placement, 0) : NULL;
    return text != NULL ? service->options.place(row->key, text, service->options.place_context)
                        : place;
}

/* What is on others that suit better goes from here: calls are passed on. */
static bool is_superfluous(struct function_service *service, const struct version_row *row,
                           const struct local *local, enum function_place place)
{
    uint64_t node = 0;
    bool stays = place == FUNCTION_HERE || (place == FUNCTION_WHEN_CALLED && local->is_wanted);
    return !stays && local->target != NULL && local->held[0] != '\0' &&
        holders_of(service, row->key, false, &node, 1) > 0;
}

static void reconcile_ready(struct function_service *service, const struct version_row *row,
                            struct local *local)
{
    enum function_place place = place_of(service, row);
    if (local->build != NULL) {
        return;
    }
    if (local->target == NULL) {
        bool is_wanted = (row->has_alias && place == FUNCTION_HERE) ||
            (local->is_wanted && place != FUNCTION_NOT_HERE) ||
            (place == FUNCTION_HERE && service->is_starting &&
             image_exists(service->options.images, row->module));
        if (is_wanted && is_to_be_tried(service, local)) {
            build_resume(service, row, service->is_starting && row->has_alias);
        } else if (is_wanted && (!local->is_hopeless || service_has_others(service))) {
            service->is_unfinished = true;
        }
        return;
    }
    if (is_superfluous(service, row, local, place)) {
        log_info("function: %s is on other nodes, as its placement says", row->key);
        local_retire(service, local);
        return;
    }
    if (local->waits_for_better) {
        service->is_unfinished = true;
        uint64_t node;
        bool is_late = clock_monotonic_ms() - local->waits_since_ms >= FUNCTION_BETTER_MS;
        if (is_late || holders_of(service, row->key, true, &node, 1) > 0) {
            local->waits_for_better = false;
            build_better(service, row, is_late);
        }
    }
}

static bool was_removed(struct function_service *service, uint64_t node)
{
    bool found = false;
    struct error ignored = {0};
    char id[24];
    snprintf(id, sizeof(id), "%" PRIu64, node);
    store_query(service->options.store, &ignored, store_take_any, &found,
                "SELECT 1 FROM removed_node WHERE key = ?", "t", id);
    return found;
}

/* On the leader: does `node` build nothing any more?  Where it was judged so by the leader of a
 * reign, what comes of it is to be of that reign (*ret_reign; 0: whoever leads). */
static bool is_gone(struct function_service *service, uint64_t node, uint64_t *ret_reign)
{
    struct store_status status;
    store_status(service->options.store, &status);
    *ret_reign = 0;
    if (!status.is_leader || service->options.cluster == NULL) {
        return false;
    }
    return was_removed(service, node) ||
        cluster_may_move(service->options.cluster, node, ret_reign);
}

static void reconcile_building(struct function_service *service, const struct version_row *row,
                               struct local *local)
{
    struct builder builder;
    if (local->build != NULL || deploy_runs_for(service, row->key) ||
        !builder_of(service, row, &builder)) {
        return;
    }
    if (has_failed_lately(local)) {
        service->is_unfinished = true;
        return;
    }
    if (builder.node == 0 || builder.node == service_node(service)) {
        /* At a start the operation is about to be failed; later, it goes on. */
        bool goes_on = builder.is_running && !service->is_starting;
        deploy_resume(service, row, builder.operation, goes_on ? builder.node : 0, 0);
        return;
    }
    uint64_t reign;
    if (is_gone(service, builder.node, &reign)) {
        log_info("function: %s was being built by a node that is gone: going on here", row->key);
        deploy_resume(service, row, builder.operation, builder.is_running ? builder.node : 0,
                      reign);
    }
}

static void reconcile_version(const struct version_row *row, void *context)
{
    struct function_service *service = context;
    struct local *local = map_get(&service->locals, row->key);
    bool is_another = local != NULL && local->module[0] != '\0' &&
        (strcmp(local->module, row->module) != 0 || local->created_ms != row->created_ms);
    if (is_another) {
        char module[HASH_TEXT_SIZE];
        memcpy(module, local->module, sizeof(module));
        local_forget(service, row->key);
        module_collect(service, module);
    }
    local = local_of(service, row->key);
    local->seen = service->round;
    local->created_ms = row->created_ms;
    memcpy(local->module, row->module, sizeof(local->module));
    if (strcmp(row->state, "ready") == 0) {
        reconcile_ready(service, row, local);
    } else if (strcmp(row->state, "building") == 0) {
        reconcile_building(service, row, local);
    }
}

/* ---- What is gone ---- */

struct gone {
    struct function_service *service;
    char **keys;
    size_t count;
};

static void note_gone(struct gone *gone, const char *key)
{
    gone->keys = memory_resize(gone->keys, (gone->count + 1) * sizeof(*gone->keys));
    gone->keys[gone->count++] = memory_copy_string(key);
}

static void look_for_gone(const char *key, void *value, void *context)
{
    struct gone *gone = context;
    const struct local *local = value;
    if (local->seen != gone->service->round) {
        note_gone(gone, key);
    }
}

static void forget_gone_versions(struct function_service *service)
{
    struct gone gone = {.service = service};
    map_each(&service->locals, look_for_gone, &gone);
    for (size_t i = 0; i < gone.count; i++) {
        struct local *local = map_get(&service->locals, gone.keys[i]);
        char module[HASH_TEXT_SIZE];
        memcpy(module, local->module, sizeof(module));
        local_forget(service, gone.keys[i]);
        module_collect(service, module);
        free(gone.keys[i]);
    }
    free(gone.keys);
}

static bool see_function(sqlite3_stmt *row, void *context)
{
    struct function_service *service = context;
    const char *key = (const char *)sqlite3_column_text(row, 0);
    struct known *known = map_get(&service->functions, key);
    if (known == NULL) {
        known = NEW(struct known);
        map_set(&service->functions, key, known);
    }
    known->seen = service->round;
    char project[FUNCTION_KEY_SIZE];
    char name[FUNCTION_KEY_SIZE];
    project_of(key, project, name, sizeof(project));
    telemetry_expect(service->options.telemetry, project, name);
    return true;
}

static void look_for_gone_function(const char *key, void *value, void *context)
{
    struct gone *gone = context;
    const struct known *known = value;
    if (known->seen != gone->service->round) {
        note_gone(gone, key);
    }
}

static void remove_log(struct function_service *service, const char *function_key)
{
    struct error err = {0};
    char project[FUNCTION_KEY_SIZE];
    char name[FUNCTION_KEY_SIZE];
    project_of(function_key, project, name, sizeof(project));
    if (telemetry_remove(service->options.telemetry, project, name, &err) < 0) {
        log_warn("function: the log of %s stays on disk: %s", name, err.text);
    }
}

static void forget_gone_functions(struct function_service *service)
{
    struct gone gone = {.service = service};
    struct error err = {0};
    if (store_query(service->options.store, &err, see_function, service, "SELECT key FROM function",
                    "") < 0) {
        return;
    }
    map_each(&service->functions, look_for_gone_function, &gone);
    for (size_t i = 0; i < gone.count; i++) {
        remove_log(service, gone.keys[i]);
        free(map_remove(&service->functions, gone.keys[i]));
        free(gone.keys[i]);
    }
    free(gone.keys);
}

/* ---- What went while this node was not there ---- */

static void look_at_module(const char *module, void *context)
{
    struct gone *gone = context;
    note_gone(gone, module);
}

static void look_at_log(const char *project, const char *function, void *context)
{
    struct gone *gone = context;
    MEMORY_OWNED char *key = memory_format("%s/%s", project, function);
    note_gone(gone, key);
}

/* At a start: what was compiled here of modules that no version has any more, and the logs of
 * functions that are no more. */
static void sweep(struct function_service *service)
{
    struct gone modules = {.service = service};
    struct gone logs = {.service = service};
    wasm_each_module(service->options.wasm, look_at_module, &modules);
    for (size_t i = 0; i < modules.count; i++) {
        module_collect(service, modules.keys[i]);
        free(modules.keys[i]);
    }
    free(modules.keys);
    telemetry_each_log(service->options.telemetry, look_at_log, &logs);
    for (size_t i = 0; i < logs.count; i++) {
        if (map_get(&service->functions, logs.keys[i]) == NULL) {
            remove_log(service, logs.keys[i]);
        }
        free(logs.keys[i]);
    }
    free(logs.keys);
}

/* ---- One round ---- */

static int reconcile(struct function_service *service, struct error *err)
{
    service->round++;
    service->is_unfinished = false;
    int r = version_each(service, NULL, reconcile_version, service, err);
    if (r == 0) {
        forget_gone_versions(service);
        forget_gone_functions(service);
    }
    routes_mark_stale(service);
    if (service->holders_are_stale || service->round == 1) {
        holders_mark_stale(service);
    }
    if (service->is_unfinished) {
        reconcile_later(service);
    }
    return r;
}

static void reconcile_posted(void *argument)
{
    struct function_service *service = argument;
    struct error err = {0};
    service->reconcile_is_posted = false;
    if (!service->stopping && reconcile(service, &err) < 0) {
        log_error("function: the state could not be read: %s", err.text);
    }
    routes_refresh(service);
}

void reconcile_soon(struct function_service *service)
{
    if (!service->reconcile_is_posted && !service->stopping) {
        service->reconcile_is_posted = true;
        loop_post(service->options.loop, reconcile_posted, service);
    }
}

static void on_later(void *context)
{
    reconcile_soon(context);
}

void reconcile_later(struct function_service *service)
{
    loop_timer_start(service->later, RETRY_EVERY_MS);
}

/* ---- Changes ---- */

static void on_changed(const struct store_event *event, void *context)
{
    static const char *const tables[] = {"version",      "alias", "function",        "holder",
                                         "removed_node", "node",  "function_traffic"};
    for (size_t i = 0; i < sizeof(tables) / sizeof(tables[0]); i++) {
        if (strcmp(event->table, tables[i]) == 0) {
            reconcile_soon(context);
        }
    }
}

/* Who is there, and whether this node leads; distances change all the time. */
static uint64_t digest_of(const struct cluster_view *view)
{
    uint64_t digest = view->count;
    for (size_t i = 0; i < view->count; i++) {
        const struct cluster_node *node = &view->nodes[i];
        uint64_t state = (uint64_t)node->health * 4 + node->is_leader * 2u + node->is_self;
        digest ^= (node->id + state) * UINT64_C(0x9e3779b97f4a7c15); /* whatever their order is */
    }
    return digest;
}

static void on_view(void *context)
{
    struct function_service *service = context;
    struct cluster_view *view = peer_view(service->options.peers);
    if (view != NULL) {
        uint64_t digest = digest_of(view);
        cluster_view_unref(view);
        if (digest != service->view_digest) {
            service->view_digest = digest;
            reconcile_soon(service);
        }
    }
}

/* On the leader.  What it built goes on here, whatever else it did is over. */
static void on_lost(uint64_t id, void *context)
{
    struct function_service *service = context;
    operation_fail_all_of(service->options.operations, id, "the node that carried it out was lost",
                          "function.deploy");
    reconcile_soon(service);
}

/* ---- Life ---- */

static void become_ready(struct function_service *service, const struct error *error)
{
    if (!service->is_ready && !service->stopping) {
        service->is_ready = true;
        loop_timer_stop(service->ready_timer);
        service->options.on_ready(error, service->options.context);
        holders_mark_stale(service);
        images_trim(service);
    }
}

void service_arrived(struct function_service *service)
{
    CHECK(service->awaited > 0);
    service->awaited--;
    if (service->stopping || service->is_ready) {
        return;
    }
    if (service->awaited == 0) {
        become_ready(service, NULL);
    } else {
        service->options.on_progress(service->awaited, service->options.context);
    }
}

static void on_ready_timer(void *context)
{
    struct function_service *service = context;
    log_warn("function: ready, although %u functions cannot run here yet: calls go to other nodes",
             service->awaited);
    become_ready(service, NULL);
}

static void on_default_project(const struct error *error, uint64_t index, void *context)
{
    struct function_service *service = context;
    (void)index;
    if (error != NULL) {
        become_ready(service, error); /* awaited stays: no other */
        return;
    }
    service_arrived(service);
}

static void project_is_there(void *service)
{
    service_arrived(service);
}

static void add_default_project(struct function_service *service)
{
    bool found = false;
    struct error ignored = {0};
    service->awaited++;
    store_query(service->options.store, &ignored, store_take_any, &found,
                "SELECT 1 FROM project WHERE key = 'default'", "");
    if (found) {
        loop_post(service->options.loop, project_is_there, service);
        return;
    }
    struct store_command *command = store_command_new();
    store_command_add(command,
                      "INSERT INTO project (key, created_ms) VALUES ('default', ?) ON CONFLICT "
                      "(key) DO NOTHING",
                      "u", clock_real_ms());
    store_propose(service->options.store, command, on_default_project, service);
}

int reconcile_at_start(struct function_service *service, struct error *err)
{
    static const struct cluster_events events = {.on_view = on_view, .on_lost = on_lost};
    service->later = loop_timer_new(service->options.loop, on_later, service);
    service->ready_timer = loop_timer_new(service->options.loop, on_ready_timer, service);
    service->watch = store_watch_new(service->options.store, NULL, on_changed, service);
    if (service->options.cluster != NULL) {
        service->listener = cluster_listen(service->options.cluster, &events, service);
    }
    add_default_project(service);
    service->is_starting = true;
    int r = reconcile(service, err);
    service->is_starting = false;
    if (r == 0) {
        sweep(service);
    }
    if (service_has_others(service)) {
        loop_timer_start(service->ready_timer, FUNCTION_READY_MAX_MS);
    }
    routes_refresh(service);
    return r;
}

static void free_known(const char *key, void *value, void *context)
{
    (void)key;
    (void)context;
    free(value);
}

void reconcile_done(struct function_service *service)
{
    if (service->listener != NULL) {
        cluster_unlisten(service->listener);
    }
    store_watch_free(service->watch);
    loop_timer_free(service->later);
    loop_timer_free(service->ready_timer);
    map_each(&service->functions, free_known, NULL);
    map_done(&service->functions);
}
