/*
 * Nodes that are held for machines that wait (engine/placement, holding): rows of `placement_hold`.
 *
 * The owner of the queue writes them, everybody's picture has them, and so every decider refuses
 * the same.  A row goes with the waiting of its machine; what no machine waits for is cleared away
 * by the owner, and counts nowhere before.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "service/placement/parts.h"

enum {
    LOOK_EVERY_MS = 1000,
    NEW_LOOKED_MAX = 16, /* of those that wait and hold nothing, in one look */
    HELD_READ_MAX = 4096,
};

static bool knows_holds(const struct placement_service *service)
{
    enum { SCHEMA_WITH_HOLDS = 10 };
    return store_schema_now(service->options.store) >= SCHEMA_WITH_HOLDS;
}

/* ---- The picture ---- */

static void let_go(struct placement_service *service, const char *id)
{
    struct placement_change change;
    placement_cluster_let_go(service->cluster, id, &change);
    picture_tell(service, &change);
}

void hold_forget(struct placement_service *service, const struct waiting *waiting)
{
    char id[PLACEMENT_ID_MAX + 1];
    snprintf(id, sizeof(id), "return/%s", waiting->id);
    let_go(service, waiting->id);
    let_go(service, id);
    service->are_holds_stale = true;
}

/* The engine is told what the machine holds. */
static void tell(struct placement_service *service, struct waiting *waiting,
                 const struct asked *asked)
{
    const char *held = placement_cluster_holds_at(service->cluster, asked->id);
    struct placement_change change = {0};
    struct error ignored = {0};
    if (waiting->hold.node[0] == '\0') {
        let_go(service, asked->id);
    } else if (held == NULL || strcmp(held, waiting->hold.node) != 0) {
        placement_cluster_hold(service->cluster, &asked->request, waiting->hold.node, &change,
                               &ignored);
        picture_tell(service, &change);
    }
}

struct reading {
    struct placement_service *service;
    size_t count;
};

static bool take_row(sqlite3_stmt *row, void *context)
{
    struct reading *reading = context;
    struct waiting *waiting = waiting_find(reading->service, store_text(row, 0));
    if (waiting == NULL) {
        reading->service->has_old_holds = true;
    } else {
        snprintf(waiting->hold.node, sizeof(waiting->hold.node), "%s", store_text(row, 1));
        waiting->hold.lacking = (uint32_t)sqlite3_column_int64(row, 2);
        waiting->hold.turns = (uint32_t)sqlite3_column_int64(row, 3);
        waiting->hold.moved_ms = (uint64_t)sqlite3_column_int64(row, 4);
    }
    return ++reading->count < HELD_READ_MAX;
}

void holds_update(struct placement_service *service)
{
    struct reading reading = {service, 0};
    struct error err = {0};
    if (!knows_holds(service)) {
        return;
    }
    LIST_EACH(node, &service->waiting)
    {
        struct waiting *waiting = LIST_ITEM(node, struct waiting, link);
        waiting->had_hold = waiting->hold.node[0] != '\0';
        waiting->hold = (struct placement_hold){0};
    }
    if (store_query(service->options.store, &err, take_row, &reading,
                    "SELECT key, node, lacking, turns, moved_ms FROM placement_hold ORDER BY key",
                    "") < 0) {
        log_error("placement: reading what is held: %s", err.text);
    }
    LIST_EACH(node, &service->waiting)
    {
        struct waiting *waiting = LIST_ITEM(node, struct waiting, link);
        bool is_concerned = waiting->had_hold || waiting->hold.node[0] != '\0';
        if (!is_concerned || waiting->is_under_way) {
            continue;
        }
        struct asked *asked = NEW(struct asked);
        if (waiting_ask(service, waiting, asked, &err) == 0) {
            tell(service, waiting, asked);
            asked_done(asked);
        }
        free(asked);
    }
}

/* ---- The owner of the queue ---- */

static void write_hold(struct placement_service *service, const struct waiting *waiting)
{
    const struct placement_hold *hold = &waiting->hold;
    struct store_command *command = store_command_new();
    if (hold->node[0] == '\0' && hold->turns == 0) {
        store_command_add(command, "DELETE FROM placement_hold WHERE key = ?", "t", waiting->id);
    } else {
        store_command_add(command,
                          "INSERT OR REPLACE INTO placement_hold (key, node, lacking, turns, "
                          "moved_ms, revision) SELECT id, ?1, ?2, ?3, ?4, ?5 FROM machine WHERE id "
                          "= ?6 AND pending_ms IS NOT NULL",
                          "tuuurt", hold->node, (uint64_t)hold->lacking, (uint64_t)hold->turns,
                          hold->moved_ms, waiting->id);
    }
    service_write(service, command, &service->are_holds_stale);
}

static void clear_old(struct placement_service *service)
{
    struct store_command *command = store_command_new();
    service->has_old_holds = false;
    store_command_add(command,
                      "DELETE FROM placement_hold WHERE NOT EXISTS (SELECT 1 FROM machine WHERE id "
                      "= placement_hold.key AND pending_ms IS NOT NULL)",
                      "");
    service_write(service, command, &service->are_holds_stale);
}

static void advance(struct placement_service *service, struct waiting *waiting)
{
    const struct placement_hold_options options = {service->options.hold_after_ms,
                                                   (uint32_t)service->options.holds_max};
    struct placement_hold before = waiting->hold;
    struct asked *asked = NEW(struct asked);
    struct error err = {0};
    if (waiting_ask(service, waiting, asked, &err) == 0) {
        int r = 1;
        if (waiting->is_at_rest) {
            waiting->hold = (struct placement_hold){0};
        } else {
            r = placement_hold_step(service->cluster, &asked->request, &options, clock_real_ms(),
                                    &waiting->hold, &err);
        }
        if (r == 1) {
            write_hold(service, waiting);
            tell(service, waiting, asked);
        }
        if (r == 1 && strcmp(before.node, waiting->hold.node) != 0) {
            log_info("placement: %s/%s waits, and %s%s", waiting->project, waiting->name,
                     waiting->hold.node[0] != '\0' ? "holds node " : "holds no node any more",
                     waiting->hold.node);
        }
        asked_done(asked);
    }
    free(asked);
}

static uint64_t next_of(const struct placement_service *service, const struct waiting *waiting,
                        uint64_t now_ms)
{
    uint64_t from_ms = waiting->hold.moved_ms != 0 ? waiting->hold.moved_ms : waiting->since_ms;
    uint64_t turn_ms = service->options.hold_after_ms;
    uint64_t left_ms = from_ms + turn_ms > now_ms ? from_ms + turn_ms - now_ms : turn_ms;
    return left_ms < turn_ms ? left_ms : turn_ms; /* clocks can be set back */
}

void holds_look(struct placement_service *service, struct waiting *const *waiting, size_t count)
{
    uint64_t boot_ms = clock_boot_ms(), now_ms = clock_real_ms(), next_ms = 0;
    size_t first = 0, looked = 0;
    if (!knows_holds(service)) {
        return;
    }
    if (boot_ms < service->holds_looked_ms + LOOK_EVERY_MS && service->holds_looked_ms != 0) {
        service->holds_at_ms = service->holds_looked_ms + LOOK_EVERY_MS;
        return;
    }
    service->holds_looked_ms = boot_ms;
    if (service->has_old_holds) {
        clear_old(service);
    }
    /* More than one look can do begin where the last one ended. */
    first = count > NEW_LOOKED_MAX ? service->holds_from % count : 0;
    for (size_t i = 0; i < count; i++) {
        struct waiting *one = waiting[(first + i) % count];
        bool holds = one->hold.node[0] != '\0' || one->hold.turns > 0;
        bool is_due = service->options.hold_after_ms > 0 && !one->is_at_rest &&
            now_ms >= one->since_ms + service->options.hold_after_ms;
        if (one->is_under_way) {
            continue;
        }
        if (holds || (is_due && looked++ < NEW_LOOKED_MAX)) {
            advance(service, one);
        }
        if (service->options.hold_after_ms > 0 && !one->is_at_rest) {
            uint64_t in_ms = next_of(service, one, now_ms);
            next_ms = next_ms == 0 || in_ms < next_ms ? in_ms : next_ms;
        }
    }
    service->holds_from = first + NEW_LOOKED_MAX;
    next_ms = next_ms > 0 && next_ms < LOOK_EVERY_MS ? LOOK_EVERY_MS : next_ms;
    service->holds_at_ms = next_ms > 0 ? boot_ms + next_ms : 0;
}

/* ---- For people ---- */

const char *hold_columns(const struct placement_service *service)
{
    return knows_holds(service) ? "(SELECT nullif(h.node, '') FROM placement_hold h WHERE h.key = "
                                  "machine.id) "
                                : "NULL ";
}

static bool take_holder(sqlite3_stmt *row, void *context)
{
    snprintf(context, PLACEMENT_REASON_MAX,
             "there is room, and it is held for machine %.63s of project %.63s, which waits longer",
             store_text(row, 1), store_text(row, 0));
    return false;
}

void hold_find_reason(struct placement_service *service, const char *node, char *ret_reason)
{
    const char *id = placement_cluster_held_for(service->cluster, node);
    struct error ignored = {0};
    if (id != NULL) {
        id = strncmp(id, "return/", 7) == 0 ? id + 7 : id;
        store_query(service->options.store, &ignored, take_holder, ret_reason,
                    "SELECT project, name FROM machine WHERE id = ?", "t", id);
    }
}
