/* May a node be drained, and how is it asked for? */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"

#include "service/node/parts.h"

enum { DEADLINE_MS = 3600000, NAMES_SIZE = 512, LEAST_DEADLINE_MS = 1000 };
#define DEADLINE_MAX_MS (UINT64_C(7) * 24 * 3600000)

struct blocking {
    char names[NAMES_SIZE];
};

static bool take_blocking(sqlite3_stmt *row, void *context)
{
    struct blocking *blocking = context;
    size_t used = strlen(blocking->names);
    snprintf(blocking->names + used, sizeof(blocking->names) - used, "%s%.80s %s",
             used > 0 ? "; " : "", store_text(row, 0), store_text(row, 1));
    return used < sizeof(blocking->names) - 2;
}

int drain_check_machines(struct node_service *service, const char *name, const char *ignore,
                         struct error *err)
{
    struct blocking blocking = {0};
    int r = store_query(
        service->options.store, err, take_blocking, &blocking,
        "SELECT key, why FROM (SELECT m.key, CASE WHEN m.desired = 'paused' THEN 'is paused' WHEN "
        "" DRAIN_STRATEGY
        " = 'none' THEN 'has the eviction strategy none' END AS why FROM machine m "
        "WHERE m.node = ?1 AND m.desired IN ('running', 'paused') AND NOT " DRAIN_IS_IGNORED
        ") WHERE why NOT NULL",
        "tt", name, ignore);
    if (r == 0 && blocking.names[0] != '\0') {
        r = error_set(err, ERROR_CONFLICT,
                      "%.400s: these do not leave; --force stops them here, --ignore PROJECT/NAME "
                      "leaves them alone",
                      blocking.names);
    }
    return r;
}

int drain_check_others(struct node_service *service, const char *name, struct error *err)
{
    bool is_there = false;
    struct cluster_view *view = cluster_view_ref(service->options.cluster);
    for (size_t i = 0; i < view->count; i++) {
        const struct cluster_node *node = &view->nodes[i];
        is_there = is_there ||
            (strcmp(node->name, name) != 0 && node->health == CLUSTER_HEALTHY &&
             node->duty == CLUSTER_ACTIVE);
    }
    cluster_view_unref(view);
    return is_there ? 0
                    : error_set(err, ERROR_CONFLICT,
                                "node %s is the last one that takes work: nobody could take what "
                                "it has; add a node, `blixard node uncordon` another, or say "
                                "--force to stop what runs here",
                                name);
}

/* A name that is mistyped would let leave what was to stay. */
static int check_is_there(struct node_service *service, const char *key, struct error *err)
{
    bool is_there = false;
    int r = store_query(service->options.store, err, store_take_any, &is_there,
                        "SELECT 1 FROM machine WHERE key = ?", "t", key);
    return r < 0 || is_there ? r
                             : error_set(err, ERROR_NOT_FOUND,
                                         "there is no machine %.127s that could be ignored; see "
                                         "`blixard vm list`",
                                         key);
}

/* "web" is "default/web". */
int drain_take_ignored(struct node_service *service, const json_t *body, const char *project,
                       json_t *ignored, struct error *err)
{
    int r = 0;
    size_t index = 0;
    json_t *item = NULL;
    json_array_foreach(json_object_get(body, "ignore"), index, item)
    {
        const char *name = json_string_value(item);
        if (name == NULL || strlen(name) > 127) {
            return error_set(err, ERROR_INVALID, "ignore names machines: NAME or PROJECT/NAME");
        }
        MEMORY_OWNED char *key = strchr(name, '/') != NULL ? memory_copy_string(name)
                                                           : memory_format("%s/%s", project, name);
        json_array_append_new(ignored, json_string(key));
        r = r < 0 ? r : check_is_there(service, key, err);
    }
    return r;
}

int drain_take_settings(const json_t *body, uint64_t moves_max, json_t *settings, struct error *err)
{
    uint64_t deadline_ms = json_u64(body, "deadline_ms");
    uint64_t parallel = json_u64(body, "parallel");
    if (deadline_ms == 0) {
        deadline_ms = DEADLINE_MS;
    }
    if (deadline_ms < LEAST_DEADLINE_MS || deadline_ms > DEADLINE_MAX_MS) {
        return error_set(err, ERROR_INVALID, "the deadline is from one second to a week");
    }
    if (parallel > NODE_PARALLEL_MAX) {
        return error_set(err, ERROR_INVALID, "parallel is at most %d", NODE_PARALLEL_MAX);
    }
    json_object_set_new(settings, "began_at_ms", json_integer((json_int_t)clock_real_ms()));
    json_object_set_new(settings, "deadline_ms", json_integer((json_int_t)deadline_ms));
    json_object_set_new(settings, "force",
                        json_boolean(json_is_true(json_object_get(body, "force"))));
    json_object_set_new(settings, "parallel",
                        json_integer((json_int_t)(parallel > 0 ? parallel : moves_max)));
    return 0;
}

int drain_check_node(const struct node_service *service, const char *name, bool is_drain,
                     bool stays, struct error *err)
{
    enum cluster_health health = CLUSTER_HEALTH_COUNT;
    bool is_drained = false;
    struct cluster_view *view = cluster_view_ref(service->options.cluster);
    const struct cluster_node *node = cluster_view_find_name(view, name);
    if (node != NULL) {
        health = node->is_self ? CLUSTER_HEALTHY : node->health;
    }
    cluster_view_unref(view);
    if (health == CLUSTER_HEALTH_COUNT) {
        return error_set(err, ERROR_NOT_FOUND, "there is no node %.63s", name);
    }
    int r = store_query(service->options.store, err, store_take_any, &is_drained,
                        "SELECT 1 FROM node WHERE key = ? AND duty IN ('draining', 'drained')", "t",
                        name);
    if (r < 0 || (is_drained && is_drain)) {
        return r < 0 ? r : error_set(err, ERROR_CONFLICT, "%s", DRAIN_IS_UNDER_WAY);
    }
    if (health == CLUSTER_LOST && !is_drain && !stays) {
        return error_set(err, ERROR_UNAVAILABLE,
                         "node %.63s is lost: nothing can come back to it; with --stay it takes "
                         "work again when it is back, and what has left it stays where it is",
                         name);
    }
    return health != CLUSTER_LOST || !is_drain
        ? 0
        : error_set(err, ERROR_UNAVAILABLE,
                    "node %.63s is lost: what of its machines may start elsewhere does so by "
                    "itself; `blixard node cordon` keeps it from new work when it is back",
                    name);
}

int drain_check_state(const struct node_service *service, struct error *err)
{
    if (!cluster_is_member(service->options.cluster)) {
        return error_set(err, ERROR_INVALID,
                         "this node is in no cluster: nobody could take what it has");
    }
    return node_state_is_there(service)
        ? 0
        : error_set(err, ERROR_UNSUPPORTED, "not all nodes know this yet: upgrade them first");
}
