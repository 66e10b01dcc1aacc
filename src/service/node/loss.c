/*
 * Lost nodes: on the leader, what may start elsewhere does so.
 *
 * A node is judged LOST by its silence (liveness.h).  Its daemon does not act as an owner any more
 * then, and the monitors of its machines end those that may start elsewhere CLUSTER_FENCE_MS after
 * its lease, whether a daemon is there or not.  CLUSTER_FENCED_MS after the judgement nothing of
 * them runs, and a command that expects this leader's reign gives them to other nodes.
 *
 * That is for machines with node_loss restart-fresh: their disk is on the lost node alone, and they
 * start from their image.  All others wait for their node, and say so.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"

#include "service/machine/machine.h"
#include "service/node/parts.h"

enum { LOST_MAX = 1024, LOOK_MS = 2000, AT_ONCE = 64, LOOKED_AT_ONCE = 256 };

struct lost {
    uint64_t id;
    uint64_t since_ms;
    bool was_told;   /* its machines say that they wait */
    uint64_t passed; /* of those that found no place: where the next look goes on */
};

struct losses {
    struct lost items[LOST_MAX];
    size_t count;
};

/* ---- What it had ---- */

struct evacuation {
    struct node_service *service;
    const char *node;
    uint64_t reign;
    size_t begun;
    size_t looked;
};

static bool take_machine(sqlite3_stmt *row, void *context)
{
    struct evacuation *evacuation = context;
    struct node_service *service = evacuation->service;
    const char *id = store_text(row, 0);
    char target[NODE_NAME_SIZE] = "";
    struct error err = {0};
    JSON_OWNED json_t *config = NULL;
    evacuation->looked++;
    json_read(store_text(row, 2), strlen(store_text(row, 2)), &config, &err);
    if (service->options.find_other(service->options.find_context, id, evacuation->node, target,
                                    &err) < 0) {
        MEMORY_OWNED char *reason =
            memory_format(CLUSTER_LOST_REASON "%.250s", evacuation->node, err.text);
        if (strcmp(store_text(row, 3), reason) == 0) {
            return true; /* it is said already */
        }
        struct store_command *command = store_command_new();
        store_command_add(command,
                          "UPDATE machine SET reason = ?1, revision = ?2 WHERE id = ?3 AND node = "
                          "?4 AND reason IS NOT ?1",
                          "trtt", reason, id, evacuation->node);
        node_propose(service, command, "why a machine waits");
        return true;
    }
    MEMORY_OWNED char *reason =
        memory_format("started anew from its image: node %s was lost", evacuation->node);
    struct store_command *command = store_command_new();
    log_warn("machine %s: starts anew on node %s, because node %s is lost", store_text(row, 1),
             target, evacuation->node);
    store_command_add_expecting(
        command, ERROR_CONFLICT, "the node is back, or another one leads",
        "UPDATE machine SET node = ?1, state = 'creating', reason = ?2, restarts = restarts + 1, "
        "started_ms = NULL, health = NULL, health_reason = NULL, home = NULL, revision = ?3 WHERE "
        "id = ?4 AND node = ?5 AND desired = 'running' AND EXISTS (SELECT 1 FROM cluster WHERE "
        "reign = ?6) AND EXISTS (SELECT 1 FROM node WHERE key = ?1 AND duty = 'active')",
        "ttrttu", target, reason, id, evacuation->node, evacuation->reign);
    store_command_add(command, "DELETE FROM machine_move WHERE key = ?", "t", id);
    machine_add_devices(service->options.machines, command, id, config, target);
    node_propose(service, command, "that a machine starts elsewhere");
    evacuation->begun++;
    return evacuation->begun < AT_ONCE;
}

/* What cloud-init was given and volumes are of the lost node alone, too. */
#define MAY_START                                                                                \
    "(m.desired = 'running' AND coalesce(m.config ->> '$.node_loss', '') = 'restart-fresh' AND " \
    "m.config -> '$.user_data_digest' IS NULL AND NOT EXISTS (SELECT 1 FROM volume w WHERE "     \
    "w.project = m.project AND w.machine = m.name))"

/* So many are looked at in one go: the rest comes next, and those that found no place again after
 * all others. */
static void start_elsewhere(struct node_service *service, struct lost *lost, const char *node,
                            uint64_t reign)
{
    struct evacuation evacuation = {service, node, reign, 0, 0};
    struct error err = {0};
    if (store_query(
            service->options.store, &err, take_machine, &evacuation,
            "SELECT m.id, m.key, m.config, coalesce(m.reason, '') FROM machine m WHERE m.node = ? "
            "AND " MAY_START
            " ORDER BY coalesce(m.config ->> '$.priority', 50) DESC, m.created_ms LIMIT ? "
            "OFFSET ?",
            "tuu", node, (uint64_t)LOOKED_AT_ONCE, lost->passed) < 0) {
        log_error("reading machines of a lost node: %s", err.text);
    }
    bool is_whole = evacuation.looked < LOOKED_AT_ONCE && evacuation.begun < AT_ONCE;
    lost->passed = is_whole ? 0 : lost->passed + evacuation.looked - evacuation.begun;
}

struct telling {
    struct store_command *command;
    const char *node;
    uint64_t reign;
    size_t count;
};

static bool tell_machine(sqlite3_stmt *row, void *context)
{
    struct telling *telling = context;
    telling->count++;
    bool may_start = sqlite3_column_int(row, 1) != 0;
    MEMORY_OWNED char *reason = may_start
        ? memory_format("node %s is lost: it starts anew elsewhere, once nothing of it can run "
                        "there any more",
                        telling->node)
        : memory_format(CLUSTER_LOST_REASON "has its disk: it waits for it", telling->node);
    store_command_add(telling->command,
                      "UPDATE machine SET reason = ?1, revision = ?2 WHERE id = ?3 AND node = ?4 "
                      "AND EXISTS (SELECT 1 FROM cluster WHERE reign = ?5)",
                      "trttu", reason, store_text(row, 0), telling->node, telling->reign);
    return true;
}

static void tell_waiting(struct node_service *service, const char *node, uint64_t reign)
{
    struct error err = {0};
    struct telling telling = {store_command_new(), node, reign, 0};
    store_query(service->options.store, &err, tell_machine, &telling,
                "SELECT m.id, " MAY_START " FROM machine m WHERE m.node = ? AND m.desired IN "
                "('running', 'paused')",
                "t", node);
    if (telling.count > 0) {
        node_propose(service, telling.command, "that machines wait for their node");
    } else {
        store_command_free(telling.command);
    }
}

/* ---- Which nodes ---- */

static const char *name_of(const struct cluster_view *view, uint64_t id)
{
    const struct cluster_node *node = cluster_view_find(view, id);
    return node != NULL ? node->name : NULL;
}

static void look(void *context)
{
    struct node_service *service = context;
    struct losses *losses = service->losses;
    uint64_t now_ms = clock_boot_ms();
    struct cluster_view *view = cluster_view_ref(service->options.cluster);
    size_t kept = 0;
    for (size_t i = 0; i < losses->count; i++) {
        struct lost *lost = &losses->items[i];
        uint64_t reign = 0;
        const char *name = name_of(view, lost->id);
        if (name == NULL || !cluster_may_move(service->options.cluster, lost->id, &reign)) {
            continue; /* it is back, was removed, or this node leads no more */
        }
        if (!lost->was_told) {
            tell_waiting(service, name, reign);
            lost->was_told = true;
        }
        if (now_ms >= lost->since_ms + CLUSTER_FENCED_MS + service->options.loss_wait_ms) {
            start_elsewhere(service, lost, name, reign);
        }
        losses->items[kept++] = *lost;
    }
    losses->count = kept;
    cluster_view_unref(view);
    if (kept > 0) {
        loop_timer_start(service->loss, LOOK_MS);
    }
}

static void on_lost(uint64_t id, void *context)
{
    struct node_service *service = context;
    struct losses *losses = service->losses;
    if (!node_state_is_there(service) || losses->count == LOST_MAX) {
        return;
    }
    for (size_t i = 0; i < losses->count; i++) {
        if (losses->items[i].id == id) { /* it was heard between */
            losses->items[i].since_ms = clock_boot_ms();
            return;
        }
    }
    losses->items[losses->count++] = (struct lost){.id = id, .since_ms = clock_boot_ms()};
    loop_timer_start(service->loss, 0);
}

void loss_open(struct node_service *service)
{
    static const struct cluster_events events = {.on_lost = on_lost};
    service->losses = NEW(struct losses);
    service->loss = loop_timer_new(service->options.loop, look, service);
    service->listener = cluster_listen(service->options.cluster, &events, service);
}

void loss_close(struct node_service *service)
{
    cluster_unlisten(service->listener);
    loop_timer_free(service->loss);
    free(service->losses);
}
