/*
 * Windows of maintenance, carried out: before one opens its node is drained, when it has closed or
 * is gone the node is restored.
 *
 * Which window is open follows from its row and the clock (cluster_windows_each()), and that a node
 * was drained for it stands in the node's row; so there is nothing to hand over when the node that
 * sees to it ends.  That is the owner of "maintenance/NODE"; two that believe to be it cannot drain
 * twice, because the command expects that the opening was not begun.  One drain or restore is begun
 * at a time, the next one at once after it.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"

#include "service/node/parts.h"

enum { LOOK_MS = 10000, RETRY_MS = 10000, SOON_MS = 20, DEADLINE_LEAST_MS = 1000 };
#define PROJECT "default" /* of the operations */

struct look {
    struct node_service *service;
    uint64_t now_ms;
    uint64_t next_ms; /* when there is something to do */
    bool begins;      /* what was found is being done */
};

struct beginning {
    struct node_service *service;
    char *key; /* NODE/WINDOW */
    bool is_restore;
};

/* ---- Beginning ---- */

static bool owns(const struct look *look, const char *node)
{
    MEMORY_OWNED char *key = memory_format("maintenance/%s", node);
    return cluster_owns(look->service->options.cluster, key);
}

static void expect_at(struct look *look, uint64_t at_ms)
{
    if (at_ms > look->now_ms && at_ms < look->next_ms) {
        look->next_ms = at_ms;
    }
}

/* What was refused lately is not asked for again at once. */
static bool was_tried(struct look *look, const char *key)
{
    const char *text = map_get(&look->service->windows_tried, key);
    uint64_t tried_ms = text != NULL ? strtoull(text, NULL, 10) : 0;
    if (tried_ms == 0 || look->now_ms >= tried_ms + RETRY_MS || look->now_ms < tried_ms) {
        return false;
    }
    expect_at(look, tried_ms + RETRY_MS);
    return true;
}

static void note_tried(struct node_service *service, const char *key, bool is_refused)
{
    free(map_remove(&service->windows_tried, key));
    if (is_refused) {
        map_set(&service->windows_tried, key, memory_format("%" PRIu64, clock_real_ms()));
    }
}

static void on_begun(const struct error *error, const char *operation, void *context)
{
    struct beginning *beginning = context;
    struct node_service *service = beginning->service;
    (void)operation;
    service->windows_are_busy = false;
    bool is_problem = error != NULL && error->kind != ERROR_CONFLICT;
    if (!service->is_over) {
        note_tried(service, beginning->key, error != NULL);
    }
    if (error != NULL && !service->is_over) {
        log_write(is_problem ? LOG_LEVEL_WARN : LOG_LEVEL_INFO, "maintenance window %s: %s: %s",
                  beginning->key, beginning->is_restore ? "restoring" : "draining", error->text);
        struct store_command *command = store_command_new();
        store_command_add(command,
                          "UPDATE node_window SET problem = ?1, revision = ?2 WHERE key = ?3 AND "
                          "problem <> ?1",
                          "trt", error->text, beginning->key);
        node_propose(service, command, "what is wrong with a window");
    }
    if (!service->is_over) {
        windows_look_soon(service);
    }
    free(beginning->key);
    free(beginning);
}

static struct beginning *beginning_new(struct look *look, const char *key, bool is_restore)
{
    struct beginning *beginning = NEW(struct beginning);
    *beginning = (struct beginning){look->service, memory_copy_string(key), is_restore};
    look->service->windows_are_busy = true;
    look->begins = true;
    return beginning;
}

/* It has until the window opens; one that is late has as long as it would have had. */
static void drain_for(struct look *look, const struct cluster_window *window)
{
    uint64_t left_ms =
        window->opens_ms > look->now_ms ? window->opens_ms - look->now_ms : window->deadline_ms;
    left_ms = left_ms < DEADLINE_LEAST_MS ? DEADLINE_LEAST_MS : left_ms;
    const struct drain_window of = {window->name, window->opens_ms};
    JSON_OWNED json_t *body =
        json_pack("{s:I, s:b}", "deadline_ms", (json_int_t)left_ms, "force", window->is_forced);
    MEMORY_OWNED char *key = memory_format("%s/%s", window->node, window->name);
    struct beginning *beginning = beginning_new(look, key, false);
    log_info("maintenance window %s: node %s is drained", beginning->key, window->node);
    drain_begin(look->service, PROJECT, window->node, body, &of, on_begun, beginning);
}

/* ---- Nodes that were drained for a window ---- */

struct drained {
    char node[NODE_NAME_SIZE];
    char window[NODE_NAME_SIZE];
    bool was_cordoned;
    bool is_kept; /* its window, as it is now, has not closed */
};

struct finding {
    struct look *look;
    struct drained *drained;
    size_t count;
};

static bool take_drained(sqlite3_stmt *row, void *context)
{
    struct finding *finding = context;
    JSON_OWNED json_t *drain = NULL;
    struct error ignored = {0};
    const char *text = store_text(row, 1);
    if (json_read(text, strlen(text), &drain, &ignored) < 0 ||
        json_text(drain, "window")[0] == '\0') {
        return true;
    }
    finding->drained =
        memory_resize(finding->drained, (finding->count + 1) * sizeof(*finding->drained));
    struct drained *drained = &finding->drained[finding->count++];
    *drained =
        (struct drained){.was_cordoned = json_is_true(json_object_get(drain, "was_cordoned"))};
    snprintf(drained->node, sizeof(drained->node), "%s", store_text(row, 0));
    snprintf(drained->window, sizeof(drained->window), "%s", json_text(drain, "window"));
    return true;
}

static struct drained *find_drained(const struct finding *finding,
                                    const struct cluster_window *window)
{
    for (size_t i = 0; i < finding->count; i++) {
        struct drained *drained = &finding->drained[i];
        if (strcmp(drained->node, window->node) == 0 &&
            strcmp(drained->window, window->name) == 0) {
            return drained;
        }
    }
    return NULL;
}

/* One that was changed while its node is drained for it is the same opening, at other times. */
static void note_begun(const struct look *look, const struct cluster_window *window)
{
    MEMORY_OWNED char *key = memory_format("%s/%s", window->node, window->name);
    struct store_command *command = store_command_new();
    store_command_add(command,
                      "UPDATE node_window SET begun_ms = ?1, problem = '', revision = ?2 WHERE key "
                      "= ?3 AND begun_ms <> ?1",
                      "urt", window->opens_ms, key);
    node_propose(look->service, command, "that a window has begun");
}

static void visit_kept(const struct cluster_window *window, void *context)
{
    const struct finding *finding = context;
    struct drained *drained = find_drained(finding, window);
    if (drained == NULL || window->opens_ms == 0 || finding->look->now_ms < window->drains_ms) {
        return;
    }
    drained->is_kept = true;
    expect_at(finding->look, window->closes_ms);
    if (window->begun_ms != window->opens_ms && owns(finding->look, window->node)) {
        note_begun(finding->look, window);
    }
}

static bool is_healthy(const struct node_service *service, const char *name)
{
    bool is_healthy = false;
    struct cluster_view *view = cluster_view_ref(service->options.cluster);
    for (size_t i = 0; i < view->count; i++) {
        const struct cluster_node *node = &view->nodes[i];
        is_healthy = is_healthy ||
            (strcmp(node->name, name) == 0 && (node->is_self || node->health == CLUSTER_HEALTHY));
    }
    cluster_view_unref(view);
    return is_healthy;
}

/* One that is not back yet is restored when it is. */
static void restore(struct look *look, const struct drained *drained)
{
    struct node_service *service = look->service;
    MEMORY_OWNED char *key = memory_format("%s/%s", drained->node, drained->window);
    if (look->begins || !owns(look, drained->node) || was_tried(look, key)) {
        return;
    }
    if (is_healthy(service, drained->node)) {
        JSON_OWNED json_t *body = json_object();
        log_info("maintenance window %s: node %s is restored", key, drained->node);
        drain_restore(service, PROJECT, drained->node, body, drained->was_cordoned, on_begun,
                      beginning_new(look, key, true));
    } else {
        expect_at(look, look->now_ms + SOON_MS * 50);
    }
}

/* ---- Looking ---- */

static void visit_window(const struct cluster_window *window, void *context)
{
    const struct finding *finding = context;
    struct look *look = finding->look;
    MEMORY_OWNED char *key = memory_format("%s/%s", window->node, window->name);
    if (window->opens_ms == 0 || look->begins || find_drained(finding, window) != NULL ||
        !owns(look, window->node)) {
        return;
    }
    if (look->now_ms < window->drains_ms) {
        expect_at(look, window->drains_ms);
    } else if (window->begun_ms != window->opens_ms && !was_tried(look, key)) {
        drain_for(look, window);
    }
}

static void look_at_all(struct look *look)
{
    struct node_service *service = look->service;
    struct cluster *cluster = service->options.cluster;
    struct finding finding = {.look = look};
    struct error err = {0};
    int r = store_query(service->options.store, &err, take_drained, &finding,
                        "SELECT key, drain FROM node WHERE drain IS NOT NULL", "");
    r = r < 0 ? r : cluster_windows_each(cluster, look->now_ms, visit_kept, &finding, &err);
    for (size_t i = 0; r == 0 && i < finding.count; i++) {
        if (!finding.drained[i].is_kept) {
            restore(look, &finding.drained[i]);
        }
    }
    r = r < 0 ? r : cluster_windows_each(cluster, look->now_ms, visit_window, &finding, &err);
    free(finding.drained);
    if (r < 0) {
        log_error("maintenance windows: %s", err.text);
    }
}

static void on_timer(void *context)
{
    struct node_service *service = context;
    struct look look = {.service = service, .now_ms = clock_real_ms()};
    look.next_ms = look.now_ms + LOOK_MS;
    if (service->is_over || service->windows_are_busy) {
        return; /* on_begun() looks again */
    }
    if (node_state_is_there(service) && cluster_is_member(service->options.cluster)) {
        look_at_all(&look);
    }
    if (look.begins) { /* and was refused at once, or on_begun() looks again */
        look.next_ms = look.now_ms + SOON_MS;
    }
    loop_timer_start(service->windows, look.next_ms - look.now_ms);
}

/* ---- Life ---- */

void windows_look_soon(struct node_service *service)
{
    loop_timer_start(service->windows, SOON_MS);
}

void windows_open(struct node_service *service)
{
    service->windows = loop_timer_new(service->options.loop, on_timer, service);
    windows_look_soon(service);
}

static void free_text(const char *key, void *value, void *context)
{
    (void)key;
    (void)context;
    free(value);
}

void windows_close(struct node_service *service)
{
    loop_timer_free(service->windows);
    service->windows = NULL;
    map_each(&service->windows_tried, free_text, NULL);
    map_done(&service->windows_tried);
}
