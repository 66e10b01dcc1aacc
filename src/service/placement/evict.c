/*
 * Machines that this node's taints drive away (NoExecute): each becomes a move, as a drain's are
 * (service/node), to a node that suits; it does not come back by itself.
 *
 * Since when one is driven away is in the state (machine_leaving), so that the time that it
 * tolerates does not begin anew with the daemon.  What is to be is read from the state each time,
 * and written again when it is not there: a write may fail.
 */
#include <stdio.h>
#include <string.h>

#include "service/placement/parts.h"

enum {
    PRIORITY = 50,
    SCHEMA_WITH_LEAVING = 9,
    WRITE_AGAIN_MS = 5000,
    MOVE_AGAIN_MS = 60000, /* nobody took it, and it is tried anew */
};

struct evicting {
    struct placement_service *service;
    struct store_command *command; /* NULL: nothing is to be written */
    size_t written;
    bool is_kept; /* the state has machine_leaving */
    bool has_leavers;
    uint64_t now_ms;
    uint64_t boot_ms;
    uint64_t next_ms; /* when somebody's time is over, by boot_ms; UINT64_MAX: nobody's */
};

struct facts {
    bool is_there;
    bool is_to_leave; /* once its time is over */
    bool is_live;
    bool is_by_taint; /* the move */
    char move[16];    /* its state; "": there is none */
    uint64_t from_ms; /* since when; 0: the state does not say */
};

static bool take_facts(sqlite3_stmt *row, void *context)
{
    struct facts *facts = context;
    const char *strategy = store_text(row, 1);
    facts->is_there = true;
    facts->is_to_leave =
        strcmp(store_text(row, 0), "running") == 0 && strcmp(strategy, "none") != 0;
    facts->is_live = strcmp(strategy, "migrate") == 0;
    snprintf(facts->move, sizeof(facts->move), "%s", store_text(row, 2));
    facts->is_by_taint = strcmp(store_text(row, 3), "taint") == 0;
    facts->from_ms = (uint64_t)sqlite3_column_int64(row, 4);
    return false;
}

#define FACTS(from)                                                                            \
    "SELECT m.desired, coalesce(m.config ->> '$.eviction_strategy', 'migrate'), v.state, "     \
    "v.reason, " from " FROM machine m LEFT JOIN machine_move v ON v.key = m.id WHERE m.id = " \
    "?1 AND m.node = ?2"

static struct facts facts_of(const struct evicting *evicting, const struct known *known)
{
    struct placement_service *service = evicting->service;
    struct facts facts = {0};
    struct error err = {0};
    if (store_query(service->options.store, &err, take_facts, &facts,
                    evicting->is_kept ? FACTS("(SELECT l.since_ms FROM machine_leaving l WHERE "
                                              "l.key = m.id AND l.node = m.node)")
                                      : FACTS("0"),
                    "tt", known->id, service->node_name) < 0) {
        log_warn("placement: machine %s: %s", known->key, err.text);
    }
    return facts;
}

static struct store_command *command_of(struct evicting *evicting)
{
    if (evicting->command == NULL) {
        evicting->command = store_command_new();
    }
    evicting->written++;
    return evicting->command;
}

static void wake_in(struct evicting *evicting, uint64_t after_ms)
{
    evicting->next_ms = after_ms < evicting->next_ms ? after_ms : evicting->next_ms;
}

/* ---- Who has to leave ---- */

/* A moment that is still to come was of a clock that was set back since. */
static void take_from(struct evicting *evicting, struct known *known, const struct facts *facts)
{
    bool is_kept = facts->from_ms != 0 && facts->from_ms <= evicting->now_ms;
    if (is_kept) {
        known->leaves_from_ms = facts->from_ms;
    } else if (known->leaves_from_ms == 0 || known->leaves_from_ms > evicting->now_ms) {
        known->leaves_from_ms = evicting->now_ms;
    }
    if (!is_kept && evicting->is_kept) {
        store_command_add(command_of(evicting),
                          "INSERT INTO machine_leaving (key, node, since_ms, revision) SELECT id, "
                          "node, ?1, ?2 FROM machine WHERE id = ?3 AND node = ?4 ON CONFLICT (key) "
                          "DO UPDATE SET node = excluded.node, since_ms = excluded.since_ms, "
                          "revision = excluded.revision",
                          "urtt", known->leaves_from_ms, known->id, evicting->service->node_name);
    }
}

static void send_away(struct evicting *evicting, struct known *known, const struct facts *facts)
{
    struct placement_service *service = evicting->service;
    if (facts->move[0] == '\0') {
        store_command_add(
            command_of(evicting),
            "INSERT OR IGNORE INTO machine_move (key, node, target, reason, way, runs_after, "
            "priority, state, attempts, created_ms, revision) SELECT id, node, '', 'taint', ?1, 1, "
            "?2, 'waiting', 0, ?3, ?4 FROM machine WHERE id = ?5 AND node = ?6 AND desired = "
            "'running'",
            "tuurtt", facts->is_live ? "live" : "cold", (uint64_t)PRIORITY, evicting->now_ms,
            known->id, service->node_name);
    } else if (facts->is_by_taint && strcmp(facts->move, "failed") == 0) {
        store_command_add(command_of(evicting),
                          "UPDATE machine_move SET state = 'waiting', attempts = 0, revision = ? "
                          "WHERE key = ? AND node = ? AND reason = 'taint' AND state = 'failed'",
                          "rtt", known->id, service->node_name);
    }
}

static void leave(struct evicting *evicting, struct known *known, uint32_t leave_s)
{
    struct facts facts = facts_of(evicting, known);
    bool has_failed = facts.is_by_taint && strcmp(facts.move, "failed") == 0;
    uint64_t pause_ms = has_failed ? MOVE_AGAIN_MS : WRITE_AGAIN_MS;
    size_t written = evicting->written;
    evicting->has_leavers = true;
    known->stays_ms = 0;
    if (!facts.is_there) {
        return;
    }
    bool is_early = known->asked_ms != 0 && evicting->boot_ms < known->asked_ms + pause_ms;
    bool is_new = facts.from_ms == 0 || facts.from_ms > evicting->now_ms;
    if (is_new && is_early) { /* it is being written */
        wake_in(evicting, known->asked_ms + pause_ms - evicting->boot_ms);
    } else {
        take_from(evicting, known, &facts);
    }
    uint64_t end_ms = known->leaves_from_ms + (uint64_t)leave_s * 1000;
    bool is_over = end_ms <= evicting->now_ms;
    bool is_asked = facts.move[0] != '\0' && !has_failed;
    if (!is_over) {
        uint64_t in_ms = end_ms - evicting->now_ms;
        wake_in(evicting, in_ms < PLACEMENT_CLOCK_MS ? in_ms : PLACEMENT_CLOCK_MS);
    } else if (facts.is_to_leave && !is_asked) {
        if (is_early) {
            wake_in(evicting, known->asked_ms + pause_ms - evicting->boot_ms);
        } else {
            send_away(evicting, known, &facts);
            wake_in(evicting, pause_ms);
        }
    }
    if (evicting->written > written) {
        known->asked_ms = evicting->boot_ms;
    }
}

/* ---- Who may stay ---- */

/* One that its taint has asked for, and that has not begun. */
static bool has_move(const struct facts *facts)
{
    return facts->is_by_taint &&
        (strcmp(facts->move, "waiting") == 0 || strcmp(facts->move, "failed") == 0);
}

/* What is left in the state of one that left before; it is looked at until nothing is. */
static void forget_leaving(struct evicting *evicting, const struct known *known,
                           const struct facts *facts)
{
    const struct placement_service *service = evicting->service;
    if (facts->from_ms != 0) {
        store_command_add(command_of(evicting),
                          service->drives_away
                              ? "DELETE FROM machine_leaving WHERE key = ?1 AND node = ?2"
                              : "DELETE FROM machine_leaving WHERE key = ?1 AND node = ?2 AND NOT "
                                "EXISTS (SELECT 1 FROM node n WHERE n.key = ?2 AND "
                                "instr(n.taints, '\"NoExecute\"') > 0)",
                          "tt", known->id, service->node_name);
    }
    if (has_move(facts)) {
        store_command_add(command_of(evicting),
                          "UPDATE machine_move SET state = 'cancelled', revision = ?1 WHERE key = "
                          "?2 AND node = ?3 AND reason = 'taint' AND state IN ('waiting', "
                          "'failed')",
                          "rtt", known->id, service->node_name);
    }
}

/* A move that has begun goes on.  That the taint is gone is asked once more by the log: this node's
 * state may be of before it came. */
static void stay(struct evicting *evicting, struct known *known)
{
    struct facts facts = facts_of(evicting, known);
    bool is_early = known->stays_ms != 0 && evicting->boot_ms < known->stays_ms + WRITE_AGAIN_MS;
    known->leaves_from_ms = 0;
    known->asked_ms = 0;
    if (facts.is_by_taint && strcmp(facts.move, "moving") == 0) { /* it may fail yet */
        evicting->has_leavers = true;
        wake_in(evicting, MOVE_AGAIN_MS);
    }
    if (facts.from_ms == 0 && !has_move(&facts)) {
        known->stays_ms = 0;
        return;
    }
    evicting->has_leavers = true;
    if (is_early) { /* it is being written */
        wake_in(evicting, known->stays_ms + WRITE_AGAIN_MS - evicting->boot_ms);
        return;
    }
    forget_leaving(evicting, known, &facts);
    known->stays_ms = evicting->boot_ms;
    wake_in(evicting, WRITE_AGAIN_MS);
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
    (void)key;
    if (!known->is_here ||
        placement_may_stay(service->cluster, known->id, &filter, &leave_s, reason, &ignored) < 0) {
        return;
    }
    if (leave_s != UINT32_MAX) { /* of one that tolerates it for a while, the filter lets it pass */
        leave(evicting, known, leave_s);
    } else if (service->drove_away || known->leaves_from_ms != 0) {
        stay(evicting, known);
    }
}

void evict_look(struct placement_service *service)
{
    struct evicting evicting = {
        .service = service,
        .is_kept = store_schema_now(service->options.store) >= SCHEMA_WITH_LEAVING,
        .now_ms = clock_real_ms(),
        .boot_ms = clock_boot_ms(),
        .next_ms = UINT64_MAX,
    };
    map_each(&service->machines, look_at, &evicting);
    service->drove_away = evicting.has_leavers;
    if (evicting.command != NULL) {
        if (evicting.is_kept) { /* of machines that are gone, or elsewhere */
            store_command_add(evicting.command,
                              "DELETE FROM machine_leaving WHERE NOT EXISTS (SELECT 1 FROM machine "
                              "m WHERE m.id = machine_leaving.key AND m.node = "
                              "machine_leaving.node)",
                              "");
        }
        store_propose(service->options.store, evicting.command, NULL, NULL);
    }
    if (evicting.next_ms != UINT64_MAX) {
        loop_timer_start(service->leaves, evicting.next_ms + 1);
    }
}

uint64_t evict_when(struct placement_service *service, const char *machine_id)
{
    enum placement_filter filter = PLACEMENT_PASSED;
    uint32_t leave_s = UINT32_MAX;
    uint64_t since_ms = 0;
    char reason[PLACEMENT_REASON_MAX];
    struct error ignored = {0};
    if (store_schema_now(service->options.store) < SCHEMA_WITH_LEAVING ||
        store_query(service->options.store, &ignored, store_take_u64, &since_ms,
                    "SELECT l.since_ms FROM machine_leaving l JOIN machine m ON m.id = l.key AND "
                    "m.node = l.node WHERE l.key = ?",
                    "t", machine_id) < 0 ||
        since_ms == 0 ||
        placement_may_stay(service->cluster, machine_id, &filter, &leave_s, reason, &ignored) < 0 ||
        leave_s == UINT32_MAX) {
        return 0;
    }
    return since_ms + (uint64_t)leave_s * 1000;
}
