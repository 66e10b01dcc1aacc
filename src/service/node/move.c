/*
 * Machines that are to be elsewhere: rows of `machine_move`, brought about by the node that has the
 * machine.
 *
 *   live   it moves while it runs; where its driver or the machine cannot, it goes on as cold
 *   cold   it is stopped for it and, where it ran, started by the node that then has it
 *
 * The node that has got the machine ends the row, so that nobody has to know how far the other one
 * came.  A daemon that was restarted in the middle finds its rows, and begins again: moving what is
 * still here harms nothing.  A row that is `cancelled` is ended by the
 * node that has the machine, once that runs again.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"

#include "service/machine/machine.h"
#include "service/node/parts.h"

enum { AGAIN_MS = 10000, WAIT_MS = 24 * 3600000, REASON_SIZE = 512 };

enum stage { MOVE_CLAIMING, MOVE_MIGRATING, MOVE_RESTING };

/* A row of this node that is under way, or rests before it is tried again. */
struct move {
    struct list_node link;
    bool is_seen; /* its row, in this step */
    struct node_service *service;
    char id[NODE_ID_SIZE];
    char project[64];
    char name[64];
    char target[NODE_NAME_SIZE];
    bool is_live;
    bool is_cancelled;
    unsigned attempts;
    enum stage stage;
    uint64_t rests_until_ms;
    char operation[OPERATION_ID_SIZE];
    struct operation_wait *wait;
    struct error error; /* why it did not work */
};

static void release(struct move *move)
{
    list_remove(&move->link);
    operation_wait_free(move->wait);
    free(move);
}

static struct move *find(struct node_service *service, const char *id)
{
    LIST_EACH(node, &service->moves)
    {
        struct move *move = LIST_ITEM(node, struct move, link);
        if (strcmp(move->id, id) == 0) {
            return move;
        }
    }
    return NULL;
}

static size_t count_active(const struct node_service *service)
{
    size_t count = 0;
    LIST_EACH(node, &service->moves)
    {
        count += LIST_ITEM(node, struct move, link)->stage != MOVE_RESTING;
    }
    return count;
}

/* ---- The end of one try ---- */

/* The machine is still here, and does what it did before. */
static void rest(struct move *move)
{
    struct node_service *service = move->service;
    bool is_last = move->attempts >= NODE_ATTEMPTS_MAX;
    struct store_command *command = store_command_new();
    if (move->is_cancelled) {
        store_command_add(command,
                          "DELETE FROM machine_move WHERE key = ? AND node = ? AND state = "
                          "'cancelled'",
                          "tt", move->id, service->node_name);
    } else {
        log_warn("machine %s/%s does not leave: %s", move->project, move->name, move->error.text);
        store_command_add(
            command,
            "UPDATE machine_move SET state = ?, problem = ?, operation = NULL, "
            "target = iif(reason IN ('drain', 'taint'), '', target), revision = ? WHERE key = "
            "? AND node = ? AND state = 'moving'",
            "ttrtt", is_last ? "failed" : "waiting", move->error.text, move->id,
            service->node_name);
    }
    node_propose(service, command, "how a move went");
    if (is_last || move->is_cancelled) {
        release(move);
        return;
    }
    move->stage = MOVE_RESTING;
    move->rests_until_ms = clock_boot_ms() + AGAIN_MS;
    move->operation[0] = '\0';
    move->error = (struct error){0};
}

/* ---- An operation of the machine, which is waited for ---- */

static void migrate(struct move *move);

static void on_migrated(struct move *move, const struct error *error)
{
    if (error == NULL) {
        struct node_service *service = move->service;
        release(move); /* the other node ends the row, or has done so: the next one has room now */
        node_step_soon(service);
    } else if (move->is_live && !move->is_cancelled &&
               (error->kind == ERROR_UNSUPPORTED || error->kind == ERROR_CONFLICT)) {
        log_info("machine %s/%s goes cold: %s", move->project, move->name, error->text);
        move->is_live = false;
        migrate(move);
    } else {
        move->error = *error;
        rest(move);
    }
}

static void on_waited(void *context)
{
    struct move *move = context;
    BUFFER_OWNED struct buffer text = {0};
    JSON_OWNED json_t *operation = NULL;
    struct error err = {0};
    operation_wait_free(move->wait);
    move->wait = NULL;
    if (operation_write(move->service->options.operations, move->operation, &text, &err) == 0) {
        json_read(text.data, text.used, &operation, &err);
    }
    const char *state = json_text(operation, "state");
    if (strcmp(state, "succeeded") == 0) {
        on_migrated(move, NULL);
        return;
    }
    enum error_kind kind = error_kind_parse(json_text(operation, "error_code"));
    error_set(&err, kind != ERROR_NONE ? kind : ERROR_CANCELLED, "%.300s",
              json_text(operation, "error")[0] != '\0' ? json_text(operation, "error")
                                                       : "it was cancelled");
    on_migrated(move, &err);
}

static void on_begun(const struct error *error, const char *operation, void *context)
{
    struct move *move = context;
    struct node_service *service = move->service;
    service->pending--;
    if (service->is_over) {
        return; /* the row is found at the next start */
    }
    if (error != NULL) {
        on_migrated(move, error);
        return;
    }
    snprintf(move->operation, sizeof(move->operation), "%s", operation);
    struct store_command *command = store_command_new();
    store_command_add(
        command,
        "UPDATE machine_move SET operation = ?, revision = ? WHERE key = ? AND node = "
        "?",
        "trtt", operation, move->id, service->node_name);
    node_propose(service, command, "which operation moves a machine");
    move->wait =
        operation_wait_new(service->options.operations, operation, WAIT_MS, on_waited, move);
}

static void migrate(struct move *move)
{
    JSON_OWNED json_t *body = json_pack("{s:s, s:b}", "to", move->target, "live", move->is_live);
    move->stage = MOVE_MIGRATING;
    move->service->pending++;
    machine_migrate(move->service->options.machines, move->project, move->name, body, on_begun,
                    move);
}

/* ---- Beginning ---- */

static void on_claimed(const struct error *error, uint64_t index, void *context)
{
    struct move *move = context;
    struct node_service *service = move->service;
    (void)index;
    service->pending--;
    if (service->is_over) {
        return;
    }
    if (error != NULL) {
        release(move); /* something else was decided meanwhile */
        node_step_soon(service);
    } else if (move->error.kind != ERROR_NONE) {
        rest(move);
    } else {
        migrate(move);
    }
}

static void claim(struct move *move)
{
    struct node_service *service = move->service;
    if (move->target[0] == '\0') {
        service->options.find_other(service->options.find_context, move->id, service->node_name,
                                    move->target, &move->error);
    }
    struct store_command *command = store_command_new();
    store_command_add_expecting(
        command, ERROR_CONFLICT, "something else was decided",
        "UPDATE machine_move SET state = 'moving', target = ?, attempts = attempts + 1, revision = "
        "? WHERE key = ? AND node = ? AND state IN ('waiting', 'moving')",
        "trtt", move->target, move->id, service->node_name);
    move->stage = MOVE_CLAIMING;
    move->attempts++;
    service->pending++;
    store_propose(service->options.store, command, on_claimed, move);
}

/* ---- Rows ---- */

struct row {
    struct move move;
    char node[NODE_NAME_SIZE];   /* that had it when this was decided */
    char holder[NODE_NAME_SIZE]; /* that has it; "": it is gone */
    char state[16];
};

struct rows {
    struct row *items;
    size_t count;
};

enum { ROWS_MAX = 4096 };

static void copy(char *ret_text, size_t size, sqlite3_stmt *row, int column)
{
    snprintf(ret_text, size, "%.*s", (int)size - 1, store_text(row, column));
}

static bool take_row(sqlite3_stmt *from, void *context)
{
    struct rows *rows = context;
    if (rows->count % 16 == 0) {
        rows->items = memory_resize(rows->items, (rows->count + 16) * sizeof(struct row));
    }
    struct row *row = &rows->items[rows->count++];
    *row = (struct row){0};
    copy(row->move.id, sizeof(row->move.id), from, 0);
    copy(row->node, sizeof(row->node), from, 1);
    copy(row->move.target, sizeof(row->move.target), from, 2);
    row->move.is_live = strcmp(store_text(from, 3), "live") == 0;
    copy(row->state, sizeof(row->state), from, 4);
    row->move.attempts = (unsigned)sqlite3_column_int(from, 5);
    copy(row->move.project, sizeof(row->move.project), from, 6);
    copy(row->move.name, sizeof(row->move.name), from, 7);
    copy(row->holder, sizeof(row->holder), from, 8);
    return rows->count < ROWS_MAX;
}

/* It was cancelled when it could not be held up any more.  Where its home takes machines again, who
 * restored that has not seen that it is here: it goes back. */
static void add_return(struct node_service *service, const struct row *row,
                       struct store_command *command)
{
    store_command_add(command,
                      "INSERT INTO machine_move (key, node, target, reason, way, runs_after, "
                      "priority, state, attempts, created_ms, revision) SELECT m.id, m.node, "
                      "m.home, 'restore', ?1, m.desired = 'running', 50, 'waiting', 0, ?2, ?3 FROM "
                      "machine m JOIN node n ON n.key = m.home WHERE m.id = ?4 AND m.node = ?5 AND "
                      "m.home <> m.node AND n.duty = 'active' AND m.desired IN ('running', "
                      "'stopped')",
                      "turtt", row->move.is_live ? "live" : "cold", clock_real_ms(), row->move.id,
                      service->node_name);
}

static void end_row(struct node_service *service, const struct row *row)
{
    struct store_command *command = store_command_new();
    store_command_add(command, "UPDATE machine SET home = NULL WHERE id = ? AND node = home", "t",
                      row->move.id);
    store_command_add(command, "DELETE FROM machine_move WHERE key = ? AND node = ?", "tt",
                      row->move.id, row->node);
    if (strcmp(row->state, "cancelled") == 0 && strcmp(row->holder, service->node_name) == 0) {
        add_return(service, row, command);
    }
    node_propose(service, command, "the end of a move");
}

static void cancel(struct move *move)
{
    struct error ignored = {0};
    if (!move->is_cancelled && move->stage == MOVE_MIGRATING && move->operation[0] != '\0') {
        operation_cancel(move->service->options.operations, move->operation, &ignored);
    }
    move->is_cancelled = true;
}

static void begin(struct node_service *service, const struct row *row, struct move *resting)
{
    struct move *move = resting;
    if (move == NULL) {
        move = NEW(struct move);
        *move = row->move;
        move->service = service;
        list_push_back(&service->moves, &move->link);
    }
    snprintf(move->target, sizeof(move->target), "%s", row->move.target);
    move->is_live = row->move.is_live;
    move->attempts = row->move.attempts;
    claim(move);
}

static void step_own(struct node_service *service, const struct row *row)
{
    struct move *move = find(service, row->move.id);
    bool is_resting = move != NULL && move->stage == MOVE_RESTING;
    if (move != NULL) {
        move->is_seen = true;
    }
    if (strcmp(row->state, "cancelled") == 0) {
        if (move != NULL && !is_resting) {
            cancel(move);
            return;
        }
        if (is_resting) {
            release(move);
        }
        end_row(service, row);
        return;
    }
    if (strcmp(row->state, "failed") == 0 || (move != NULL && !is_resting) ||
        (is_resting && clock_boot_ms() < move->rests_until_ms) ||
        count_active(service) >= drains_parallel(service)) {
        return;
    }
    begin(service, row, move);
}

void moves_step(struct node_service *service)
{
    struct rows rows = {0};
    struct error err = {0};
    bool waits = false;
    if (!node_state_is_there(service)) {
        return;
    }
    int r = store_query(service->options.store, &err, take_row, &rows,
                        "SELECT v.key, v.node, v.target, v.way, v.state, v.attempts, m.project, "
                        "m.name, m.node FROM machine_move v LEFT JOIN machine m ON m.id = v.key "
                        "WHERE v.node = ?1 OR m.node = ?1 ORDER BY "
                        "v.priority DESC, v.created_ms, v.key",
                        "t", service->node_name);
    if (r < 0) {
        log_error("reading moves: %s", err.text);
    }
    for (size_t i = 0; i < rows.count; i++) {
        struct row *row = &rows.items[i];
        bool was_ours = strcmp(row->node, service->node_name) == 0;
        bool is_ours = strcmp(row->holder, service->node_name) == 0;
        if (row->holder[0] == '\0' || (is_ours && !was_ours)) {
            end_row(service, row);
        } else if (is_ours) {
            step_own(service, row);
        }
    }
    service->has_moves = !list_is_empty(&service->drains);
    store_query(service->options.store, &err, store_take_any, &service->has_moves,
                "SELECT 1 FROM machine_move LIMIT 1", "");
    LIST_EACH(node, &service->moves)
    {
        struct move *move = LIST_ITEM(node, struct move, link);
        bool is_resting = move->stage == MOVE_RESTING;
        if (is_resting && !move->is_seen && r == 0 && rows.count < ROWS_MAX) {
            release(move); /* its machine was deleted, or is another node's */
            continue;
        }
        move->is_seen = false;
        waits = waits || is_resting;
    }
    if (waits) {
        loop_timer_start(service->step, AGAIN_MS / 4);
    }
    free(rows.items);
}

void moves_abandon(struct node_service *service)
{
    LIST_EACH(node, &service->moves)
    {
        release(LIST_ITEM(node, struct move, link));
    }
}
