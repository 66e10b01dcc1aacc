/*
 * Rebalancing: the engine plans moves from full nodes to empty ones (engine/placement), and each
 * becomes a row of `machine_move`, as in a drain.  Asked for by a person, or by the leader from
 * time to time (rebalance_every_ms), one batch at a time.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/map.h"

#include "engine/placement/placement.h"

#include "service/node/parts.h"

enum {
    THRESHOLD_PERCENT = 20,
    BATCH = 4,
    GAIN_PERCENT = 5,
    TRAFFIC_PERCENT = 30,
    PERCENT_MAX = 100
};

/* ---- Who may move ---- */

static bool take_movable(sqlite3_stmt *row, void *context)
{
    map_set(context, store_text(row, 0), context);
    return true;
}

static bool is_movable(const char *id, void *context)
{
    return map_get(context, id) != NULL;
}

/* Volumes and folders of a node hold who has them there. */
#define MOVABLE                                                                               \
    "SELECT m.id FROM machine m WHERE m.desired = 'running' AND m.state = 'running' AND "     \
    "coalesce(m.config ->> '$.rebalance', '') <> 'never' AND coalesce(m.config ->> "          \
    "'$.eviction_strategy', '') <> 'none' AND coalesce(json_array_length(m.config -> "        \
    "'$.shares'), 0) = 0 AND NOT EXISTS (SELECT 1 FROM volume w WHERE w.project = m.project " \
    "AND w.machine = m.name) AND NOT EXISTS (SELECT 1 FROM machine_move v WHERE v.key = m.id) "

/* Who was moved lately, by whomever, had better not move again: the state says when it was. */
#define MOVED_SINCE                                                                              \
    "FROM machine m JOIN machine_event e ON e.machine_id = m.id AND e.type = 'vm.migrated' AND " \
    "e.at_ms > ?1 "

static uint64_t moved_since_ms(const struct node_service *service)
{
    uint64_t now_ms = clock_real_ms();
    return now_ms > service->options.rebalance_cooldown_ms
        ? now_ms - service->options.rebalance_cooldown_ms
        : 0;
}

static int plan(struct node_service *service, const struct placement_rebalance_options *options,
                struct placement_rebalance *ret_plan, struct error *err)
{
    struct map movable = {0};
    struct placement_rebalance_options asked = *options;
    asked.may_move = is_movable;
    asked.context = &movable;
    int r = store_query(service->options.store, err, take_movable, &movable,
                        MOVABLE "AND m.id NOT IN (SELECT m.id " MOVED_SINCE ")", "u",
                        moved_since_ms(service));
    r = r < 0 ? r
              : service->options.plan_moves(service->options.find_context, &asked, ret_plan, err);
    map_done(&movable);
    return r;
}

/* ---- What comes of it ---- */

static bool take_key(sqlite3_stmt *row, void *context)
{
    snprintf(context, 160, "%.159s", store_text(row, 0));
    return false;
}

static bool write_resting(sqlite3_stmt *row, void *context)
{
    struct json_writer *writer = context;
    json_write_begin_object(writer);
    json_write_field_string(writer, "machine", store_text(row, 0));
    json_write_field_time_ms(writer, "moved_at", (uint64_t)sqlite3_column_int64(row, 1));
    json_write_field_time_ms(writer, "rests_until", (uint64_t)sqlite3_column_int64(row, 2));
    json_write_end_object(writer);
    return true;
}

static void describe_resting(struct node_service *service, struct json_writer *writer)
{
    struct error ignored = {0};
    json_write_key(writer, "resting");
    json_write_begin_array(writer);
    store_query(service->options.store, &ignored, write_resting, writer,
                "SELECT m.key, max(e.at_ms), max(e.at_ms) + ?2 " MOVED_SINCE
                "WHERE m.desired = 'running' GROUP BY m.key ORDER BY m.key",
                "uu", moved_since_ms(service), service->options.rebalance_cooldown_ms);
    json_write_end_array(writer);
}

static void describe(struct node_service *service, const struct placement_rebalance *plan,
                     const char *operation, struct buffer *out)
{
    struct json_writer writer = json_writer_to(out);
    json_write_begin_object(&writer);
    json_write_field_double(&writer, "spread_before", plan->spread_before);
    json_write_field_double(&writer, "spread_after", plan->spread_after);
    json_write_field_string(&writer, "reason", plan->reason);
    if (operation != NULL) {
        json_write_field_string(&writer, "operation", operation);
    }
    json_write_key(&writer, "moves");
    json_write_begin_array(&writer);
    for (size_t i = 0; i < plan->move_count; i++) {
        const struct placement_move *move = &plan->moves[i];
        char key[160] = "";
        struct error ignored = {0};
        store_query(service->options.store, &ignored, take_key, key,
                    "SELECT key FROM machine WHERE id = ?", "t", move->id);
        json_write_begin_object(&writer);
        json_write_field_string(&writer, "machine", key);
        json_write_field_string(&writer, "from", move->from);
        json_write_field_string(&writer, "to", move->to);
        json_write_field_double(&writer, "gain", move->gain);
        json_write_field_string(&writer, "reason", move->reason);
        json_write_end_object(&writer);
    }
    json_write_end_array(&writer);
    describe_resting(service, &writer);
    json_write_end_object(&writer);
}

static int take_settings(const json_t *body, struct placement_rebalance_options *options,
                         struct error *err)
{
    uint64_t threshold = json_u64(body, "threshold_percent");
    uint64_t batch = json_u64(body, "batch");
    if (threshold > PERCENT_MAX || batch > PLACEMENT_MOVES_MAX) {
        return error_set(err, ERROR_INVALID,
                         "the threshold is at most 100 percent, a batch at most %d moves",
                         PLACEMENT_MOVES_MAX);
    }
    *options = (struct placement_rebalance_options){
        .threshold_percent = threshold > 0 ? (uint32_t)threshold : THRESHOLD_PERCENT,
        .batch_max = batch > 0 ? (uint32_t)batch : BATCH,
        .gain_min_percent = GAIN_PERCENT,
        .traffic_min_percent = TRAFFIC_PERCENT};
    placement_options_init(&options->options, PLACEMENT_BALANCED);
    return 0;
}

#define IS_UNDER_WAY \
    "machines are being moved to even out the nodes: see `blixard operation list`, and try later"

/* Whoever cancels one, or hears of its end, means all moves of that reason. */
static int check_is_first(const struct node_service *service, struct error *err)
{
    bool is_under_way = false;
    int r = store_query(service->options.store, err, store_take_any, &is_under_way,
                        "SELECT 1 FROM machine_move WHERE reason = 'rebalance' AND state IN "
                        "('waiting', 'moving') LIMIT 1",
                        "");
    return r < 0 || !is_under_way ? r : error_set(err, ERROR_CONFLICT, IS_UNDER_WAY);
}

struct asked {
    struct node_service *service;
    struct buffer answer;
    node_planned *done;
    void *context;
};

static void on_begun(const struct error *error, const char *operation, void *context)
{
    struct asked *asked = context;
    (void)operation;
    asked->done(error, error == NULL ? &asked->answer : NULL, asked->context);
    buffer_done(&asked->answer);
    free(asked);
}

void node_rebalance(struct node_service *service, const char *project, const json_t *body,
                    node_planned *done, void *context)
{
    struct error err = {0};
    struct placement_rebalance_options options;
    struct placement_rebalance found = {0};
    bool is_tried = json_is_true(json_object_get(body, "dry_run"));
    int r = drain_check_state(service, &err);
    r = r < 0 ? r : take_settings(body, &options, &err);
    r = r < 0 || is_tried ? r : check_is_first(service, &err);
    r = r < 0 ? r : plan(service, &options, &found, &err);
    if (r < 0) {
        done(&err, NULL, context);
        return;
    }
    if (is_tried || found.move_count == 0) {
        BUFFER_OWNED struct buffer answer = {0};
        describe(service, &found, NULL, &answer);
        free(found.moves);
        done(NULL, &answer, context);
        return;
    }
    struct asked *asked = NEW(struct asked);
    *asked = (struct asked){.service = service, .done = done, .context = context};
    struct store_command *command = store_command_new();
    store_command_add_expecting(command, ERROR_CONFLICT, IS_UNDER_WAY,
                                "UPDATE node SET revision = ?1 WHERE key = ?2 AND NOT EXISTS "
                                "(SELECT 1 FROM machine_move WHERE reason = 'rebalance' AND state "
                                "IN ('waiting', 'moving'))",
                                "rt", service->node_name);
    for (size_t i = 0; i < found.move_count; i++) {
        store_command_add(command,
                          "INSERT INTO machine_move (key, node, target, reason, way, runs_after, "
                          "priority, state, attempts, created_ms, revision) SELECT id, node, ?1, "
                          "'rebalance', 'live', 1, ?2, 'waiting', 0, ?3, ?4 FROM machine WHERE id "
                          "= ?5 AND node = ?6 AND desired = 'running' AND NOT EXISTS (SELECT 1 "
                          "FROM machine_move WHERE key = ?5)",
                          "tuurtt", found.moves[i].to, (uint64_t)NODE_PRIORITY, clock_real_ms(),
                          found.moves[i].id, found.moves[i].from);
    }
    char operation[OPERATION_ID_SIZE];
    drain_begin_rebalance(service, command, project, on_begun, asked, operation);
    describe(service, &found, operation, &asked->answer);
    free(found.moves);
}

/* ---- By itself: on the leader, one batch after the other ---- */

static void on_planned(const struct error *error, struct buffer *plan, void *context)
{
    (void)plan;
    (void)context;
    if (error != NULL) {
        log_warn("rebalancing: %s", error->text);
    }
}

/* Those that gave up, when whoever began the rebalancing is not there any more to say so, are
 * ended: they would keep their machines from moving for ever. */
static bool is_idle(struct node_service *service)
{
    bool has_open = !list_is_empty(&service->drains);
    bool has_failed = false;
    struct error ignored = {0};
    store_query(service->options.store, &ignored, store_take_any, &has_open,
                "SELECT 1 FROM machine_move WHERE state <> 'failed' LIMIT 1", "");
    store_query(service->options.store, &ignored, store_take_any, &has_failed,
                "SELECT 1 FROM machine_move WHERE state = 'failed' AND reason = 'rebalance' LIMIT "
                "1",
                "");
    if (!has_open && has_failed) {
        struct store_command *command = store_command_new();
        store_command_add(command,
                          "UPDATE machine_move SET state = 'cancelled', revision = ? WHERE state = "
                          "'failed' AND reason = 'rebalance'",
                          "r");
        node_propose(service, command, "the end of moves that failed");
    }
    return !has_open && !has_failed;
}

void rebalance_tick(struct node_service *service)
{
    struct store_status status;
    store_status(service->options.store, &status);
    if (status.is_leader && status.ready && node_state_is_there(service) &&
        cluster_is_member(service->options.cluster) && is_idle(service)) {
        JSON_OWNED json_t *body =
            json_pack("{s:I, s:I}", "threshold_percent",
                      (json_int_t)service->options.rebalance_threshold_percent, "batch",
                      (json_int_t)service->options.rebalance_batch);
        node_rebalance(service, "default", body, on_planned, NULL);
    }
}
