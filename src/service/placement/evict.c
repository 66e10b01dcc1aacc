/*
 * Machines that this node's taints drive away (NoExecute): each becomes a move, as a drain's are
 * (service/node), to a node that suits; it does not come back by itself.
 */
#include <stdio.h>
#include <string.h>

#include "service/placement/parts.h"

enum { PRIORITY = 50 };

struct evicting {
    struct placement_service *service;
    struct store_command *command; /* NULL: nobody leaves */
    uint64_t now_ms;
    uint64_t next_ms; /* when somebody's time is over; UINT64_MAX: nobody's */
};

struct facts {
    bool is_there;
    bool is_to_leave;
    bool is_live;
};

static bool take_facts(sqlite3_stmt *row, void *context)
{
    struct facts *facts = context;
    const char *strategy = store_text(row, 1);
    facts->is_there = true;
    facts->is_to_leave = strcmp(store_text(row, 0), "running") == 0 &&
        strcmp(strategy, "none") != 0 && sqlite3_column_int(row, 2) == 0;
    facts->is_live = strcmp(strategy, "migrate") == 0;
    return false;
}

static void send_away(struct evicting *evicting, struct known *known)
{
    struct placement_service *service = evicting->service;
    struct facts facts = {false};
    struct error err = {0};
    int r = store_query(service->options.store, &err, take_facts, &facts,
                        "SELECT desired, coalesce(config ->> '$.eviction_strategy', 'migrate'), "
                        "EXISTS (SELECT 1 FROM machine_move WHERE key = id) FROM machine WHERE id "
                        "= ?",
                        "t", known->id);
    if (r < 0 || !facts.is_to_leave) {
        return;
    }
    if (evicting->command == NULL) {
        evicting->command = store_command_new();
    }
    known->is_leaving = true;
    store_command_add(evicting->command,
                      "INSERT OR IGNORE INTO machine_move (key, node, target, reason, way, "
                      "runs_after, priority, state, attempts, created_ms, revision) SELECT id, "
                      "node, '', 'taint', ?1, 1, ?2, 'waiting', 0, ?3, ?4 FROM machine WHERE id = "
                      "?5 AND node = ?6 AND desired = 'running'",
                      "tuurtt", facts.is_live ? "live" : "cold", (uint64_t)PRIORITY,
                      evicting->now_ms, known->id, service->node_name);
}

static void look_at(const char *key, void *value, void *context)
{
    struct evicting *evicting = context;
    struct placement_service *service = evicting->service;
    struct known *known = value;
    enum placement_filter filter = PLACEMENT_PASSED;
    uint32_t leave_s = UINT32_MAX;
    char reason[PLACEMENT_REASON_MAX];
    struct error ignored = {0};
    const char *where =
        known->is_placed ? placement_cluster_where(service->cluster, known->id) : NULL;
    (void)key;
    if (where == NULL || strcmp(where, service->node_name) != 0 ||
        placement_may_stay(service->cluster, known->id, &filter, &leave_s, reason, &ignored) < 0) {
        return;
    }
    if (filter != PLACEMENT_TAINT || leave_s == UINT32_MAX) {
        known->leaves_at_ms = 0;
        known->is_leaving = false;
        return;
    }
    if (known->leaves_at_ms == 0) {
        known->leaves_at_ms = evicting->now_ms + (uint64_t)leave_s * 1000;
    }
    if (known->leaves_at_ms > evicting->now_ms) {
        evicting->next_ms =
            known->leaves_at_ms < evicting->next_ms ? known->leaves_at_ms : evicting->next_ms;
    } else if (!known->is_leaving) {
        send_away(evicting, known);
    }
}

void evict_look(struct placement_service *service)
{
    struct evicting evicting = {
        .service = service, .now_ms = clock_real_ms(), .next_ms = UINT64_MAX};
    if (!service_is_known(service)) {
        return;
    }
    map_each(&service->machines, look_at, &evicting);
    if (evicting.command != NULL) {
        store_propose(service->options.store, evicting.command, NULL, NULL);
    }
    if (evicting.next_ms != UINT64_MAX) {
        loop_timer_start(service->look, evicting.next_ms - evicting.now_ms + 1);
    }
}
