/* Which node is to have a machine that leaves another: see parts.h. */
#include <stdio.h>
#include <string.h>

#include "service/node/parts.h"

enum { NODES_MAX = 1024 };

static const char *why_not(const struct target_node *node, const struct target_wish *wish)
{
    if (strcmp(node->name, wish->but) == 0) {
        return "is the one that it leaves";
    }
    if (!node->takes_work) {
        return "takes no work";
    }
    if (strcmp(node->pool, wish->pool) != 0) {
        return "is of another pool";
    }
    if (!node->has_driver) {
        return "has no such driver";
    }
    bool fits = node->memory_limit == 0 ||
        (node->memory_used <= node->memory_limit &&
         wish->memory_bytes <= node->memory_limit - node->memory_used);
    return fits ? NULL : "has too little memory left";
}

static bool is_better(const struct target_node *a, const struct target_node *b)
{
    if (a->is_avoided != b->is_avoided) {
        return b->is_avoided;
    }
    uint64_t free_a = a->memory_limit > a->memory_used ? a->memory_limit - a->memory_used : 0;
    uint64_t free_b = b->memory_limit > b->memory_used ? b->memory_limit - b->memory_used : 0;
    return free_a > free_b;
}

int node_pick_target(const struct target_node *nodes, size_t count, const struct target_wish *wish,
                     char *ret_reason, size_t size)
{
    int best = -1;
    size_t used = 0;
    ret_reason[0] = '\0';
    for (size_t i = 0; i < count; i++) {
        const char *why = why_not(&nodes[i], wish);
        if (why == NULL) {
            best = best < 0 || is_better(&nodes[i], &nodes[best]) ? (int)i : best;
        } else if (used < size) {
            int wrote = snprintf(ret_reason + used, size - used, "%s%s %s", used > 0 ? ", " : "",
                                 nodes[i].name, why);
            used += wrote > 0 ? (size_t)wrote : 0;
        }
    }
    return best;
}

/* ---- Of the state ---- */

struct looking {
    const struct cluster_view *view;
    const char *driver;
    struct target_node *nodes;
    size_t count;
};

static bool has_driver(const json_t *attributes, const char *driver)
{
    const json_t *drivers = json_object_get(attributes, "drivers");
    size_t index = 0;
    json_t *item = NULL;
    json_array_foreach(drivers, index, item)
    {
        if (driver[0] == '\0' || strcmp(json_text(item, "name"), driver) == 0) {
            return true;
        }
    }
    return false;
}

static uint64_t limit_of(const json_t *attributes)
{
    uint64_t has = json_u64(attributes, "memory_bytes");
    uint64_t reserved = json_u64(json_object_get(attributes, "reserved"), "memory_bytes");
    uint64_t percent = json_u64(json_object_get(attributes, "overcommit"), "memory_percent");
    uint64_t left = has > reserved ? has - reserved : 0;
    return left / 100 * (percent >= 100 && percent <= 1000 ? percent : 100);
}

static bool has_taint(const json_t *taints, const char *effect)
{
    size_t index = 0;
    json_t *taint = NULL;
    json_array_foreach(taints, index, taint)
    {
        if (strcmp(json_text(taint, "effect"), effect) == 0) {
            return true;
        }
    }
    return false;
}

static bool is_well(const struct cluster_view *view, const char *name)
{
    for (size_t i = 0; i < view->count; i++) {
        if (strcmp(view->nodes[i].name, name) == 0) {
            return view->nodes[i].is_self || view->nodes[i].health == CLUSTER_HEALTHY;
        }
    }
    return false;
}

static bool take_node(sqlite3_stmt *row, void *context)
{
    struct looking *looking = context;
    struct target_node *node = &looking->nodes[looking->count++];
    JSON_OWNED json_t *attributes = NULL;
    JSON_OWNED json_t *taints = NULL;
    struct error ignored = {0};
    const char *name = store_text(row, 0);
    json_read(store_text(row, 3), strlen(store_text(row, 3)), &taints, &ignored);
    json_read(store_text(row, 4), strlen(store_text(row, 4)), &attributes, &ignored);
    *node = (struct target_node){
        .name = memory_copy_string(name),
        .pool = memory_copy_string(store_text(row, 1)),
        .takes_work = strcmp(store_text(row, 2), "active") == 0 && is_well(looking->view, name) &&
            !has_taint(taints, "NoSchedule") && !has_taint(taints, "NoExecute"),
        .is_avoided = has_taint(taints, "PreferNoSchedule"),
        .has_driver = has_driver(attributes, looking->driver),
        .memory_limit = limit_of(attributes),
        .memory_used = (uint64_t)sqlite3_column_int64(row, 5),
    };
    return looking->count < NODES_MAX;
}

struct machine_facts {
    char driver[32];
    char pool[64];
    uint64_t memory_bytes;
};

static bool take_machine(sqlite3_stmt *row, void *context)
{
    struct machine_facts *facts = context;
    snprintf(facts->driver, sizeof(facts->driver), "%.31s", store_text(row, 0));
    facts->memory_bytes = (uint64_t)sqlite3_column_int64(row, 1);
    snprintf(facts->pool, sizeof(facts->pool), "%.63s", store_text(row, 2));
    return false;
}

/* What is on its way there counts as being there. */
#define NODES                                                                                  \
    "SELECT n.key, n.pool, n.duty, n.taints, n.attributes, (SELECT coalesce(sum(m.config ->> " \
    "'$.memory_bytes'), 0) FROM machine m WHERE m.desired IN ('running', 'paused') AND "       \
    "(m.node = n.key OR m.id IN (SELECT v.key FROM machine_move v WHERE v.target = n.key))) "  \
    "FROM node n ORDER BY n.key"

int node_find_target(struct node_service *service, const char *id, const char *but,
                     char ret_name[NODE_NAME_SIZE], struct error *err)
{
    struct machine_facts facts = {.pool = "default"};
    char reason[512];
    struct looking looking = {.view = cluster_view_ref(service->options.cluster)};
    looking.nodes = memory_new(NODES_MAX, sizeof(struct target_node));
    looking.driver = facts.driver;
    int r = store_query(service->options.store, err, take_machine, &facts,
                        "SELECT coalesce(m.config ->> '$.driver', ''), m.config ->> "
                        "'$.memory_bytes', n.pool FROM machine m JOIN node n ON n.key = m.node "
                        "WHERE m.id = ?",
                        "t", id);
    r = r < 0 ? r : store_query(service->options.store, err, take_node, &looking, NODES, "");
    if (r == 0) {
        const struct target_wish wish = {facts.pool, facts.memory_bytes, but};
        int best = node_pick_target(looking.nodes, looking.count, &wish, reason, sizeof(reason));
        if (best >= 0) {
            snprintf(ret_name, NODE_NAME_SIZE, "%.63s", looking.nodes[best].name);
        } else {
            r = error_set(err, ERROR_UNAVAILABLE, "no node takes it: %s", reason);
        }
    }
    for (size_t i = 0; i < looking.count; i++) {
        free((char *)(uintptr_t)looking.nodes[i].name);
        free((char *)(uintptr_t)looking.nodes[i].pool);
    }
    free(looking.nodes);
    cluster_view_unref((struct cluster_view *)(uintptr_t)looking.view);
    return r;
}
