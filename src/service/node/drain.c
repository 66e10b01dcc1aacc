/*
 * Drains: what a node has leaves it; and back again.
 *
 * Its row says `draining` and how (column `drain`), a row of `machine_move` says what is to leave
 * (move.c), and column `home` of these machines where they came from.  The node that was asked has
 * the operation, and tells how it goes; the drained node looks on as well, so that the drain goes
 * on after any of them was restarted, though its operation has failed then.  When all have left,
 * the calls of functions that it runs have ended and others can run these, the node says that it is
 * `drained`: it alone knows of its calls.  `restore` makes it `active`, and brings back whose home
 * it is.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"

#include "service/node/parts.h"

enum { RESTORE_MS = 3600000, NAMES_SIZE = 512, CALLS_EVERY_MS = 250, GRACE_MS = 3000 };

struct drain {
    struct list_node link;
    struct node_service *service;
    char node[NODE_NAME_SIZE];
    bool is_restore;
    bool is_rebalance; /* of no node */
    bool is_forced;
    bool is_beginning; /* its row is on its way */
    bool is_ending;
    bool has_stopped;     /* what did not leave is told to stop */
    unsigned parallel;    /* how many leave at once */
    uint64_t total;       /* machines, when it began */
    uint64_t deadline_ms; /* by the boot clock */
    uint64_t failing_ms;  /* since when it is to fail; 0: it is not */
    struct error failure; /* decided, and written until that works */
    struct loop_timer *timer;
    struct loop_timer *calls;          /* when they are counted again */
    char operation[OPERATION_ID_SIZE]; /* "": the daemon was restarted since */
    char said[NAMES_SIZE];
    node_begun *done;
    void *context;
};

static void drain_free(struct drain *drain)
{
    list_remove(&drain->link);
    loop_timer_free(drain->timer);
    loop_timer_free(drain->calls);
    free(drain);
}

/* ---- What is under way ---- */

struct standing {
    uint64_t open; /* wait, or move */
    uint64_t failed;
    uint64_t stopping; /* that were told to */
    uint64_t arrived;  /* have no move yet: they were on their way here; known there alone */
    uint64_t settled;  /* of these: that can be told to leave */
    char now[96];      /* one that moves */
    char problems[NAMES_SIZE];
    char duty[16];    /* of the node */
    bool is_lost;     /* the node */
    uint64_t calls;   /* of functions, that it runs */
    size_t functions; /* that only it can run; known there alone */
    char names[128];  /* of some of them */
};

static bool take_move(sqlite3_stmt *row, void *context)
{
    struct standing *standing = context;
    const char *state = store_text(row, 0);
    const char *key = store_text(row, 1);
    const char *problem = store_text(row, 2);
    standing->open += strcmp(state, "failed") != 0;
    standing->failed += strcmp(state, "failed") == 0;
    if (strcmp(state, "moving") == 0) {
        snprintf(standing->now, sizeof(standing->now), "%.80s", key);
    }
    size_t used = strlen(standing->problems);
    if (problem[0] != '\0' && used < sizeof(standing->problems) - 2) {
        snprintf(standing->problems + used, sizeof(standing->problems) - used, "%s%.60s: %.200s",
                 used > 0 ? "; " : "", key, problem);
    }
    return true;
}

static bool take_duty(sqlite3_stmt *row, void *context)
{
    struct standing *standing = context;
    snprintf(standing->duty, sizeof(standing->duty), "%s", store_text(row, 0));
    return false;
}

static bool is_own(const struct drain *drain)
{
    return !drain->is_rebalance && strcmp(drain->node, drain->service->node_name) == 0;
}

/* Nothing comes once the log has the drain, but what came just before was not seen by who began it.
 * A machine that a drain has stopped stays. */
#define HAS_ARRIVED                                                                       \
    "m.node = ?1 AND " DRAIN_STRATEGY                                                     \
    " <> 'none' AND m.desired IN ('running', 'stopped') AND NOT (m.desired = 'stopped' "  \
    "AND m.home IS m.node) AND instr(coalesce((SELECT n.drain FROM node n WHERE n.key = " \
    "m.node), ''), '\"' || m.key || '\"') = 0 AND NOT EXISTS (SELECT 1 FROM "             \
    "machine_move v WHERE v.key = m.id AND v.node = m.node AND v.reason = 'drain')"

/* The row of the move that brought it is gone. */
#define HAS_SETTLED                                                                 \
    " AND NOT EXISTS (SELECT 1 FROM machine_move v WHERE v.key = m.id AND (v.node " \
    "<> m.node OR v.state = 'moving'))"

/* What a node that is drained still does for functions: by its own count, or by what it tells. */
static void look_at_node(const struct drain *drain, struct standing *standing)
{
    const struct node_options *options = &drain->service->options;
    if (is_own(drain)) {
        if (!drain->is_restore && options->look_at_functions != NULL) {
            standing->functions =
                options->look_at_functions(options->functions_context, &standing->calls,
                                           standing->names, sizeof(standing->names));
        }
        return;
    }
    struct cluster_view *view = cluster_view_ref(options->cluster);
    const struct cluster_node *node = cluster_view_find_name(view, drain->node);
    if (node != NULL) {
        standing->calls = drain->is_restore ? 0 : node->load.running + node->load.waiting;
        standing->is_lost = node->health == CLUSTER_LOST;
    }
    cluster_view_unref(view);
}

/* Rows of moves that it waits for.  A node that is restored ends those that were cancelled, unless
 * it is lost: then when it is back. */
#define SELECT_MOVES \
    "SELECT v.state, m.key, v.problem FROM machine_move v JOIN machine m ON m.id = v.key WHERE "

static const char *moves_of(const struct drain *drain, bool is_lost)
{
    if (drain->is_rebalance) {
        return SELECT_MOVES "v.reason = 'rebalance' AND ?1 = ''";
    }
    if (!drain->is_restore) {
        return SELECT_MOVES "v.node = ?1 AND v.reason = 'drain'";
    }
    return is_lost ? SELECT_MOVES "v.target = ?1 AND v.reason = 'restore'"
                   : SELECT_MOVES "v.target = ?1 AND v.reason = 'restore' OR v.node = ?1 AND "
                                  "v.reason = 'drain' AND v.state = 'cancelled'";
}

static struct standing look(const struct drain *drain)
{
    struct standing standing = {0};
    struct node_service *service = drain->service;
    struct error err = {0};
    look_at_node(drain, &standing);
    int r = store_query(service->options.store, &err, take_move, &standing,
                        moves_of(drain, standing.is_lost), "t", drain->node);
    r = r < 0 ? r
              : store_query(service->options.store, &err, store_take_u64, &standing.stopping,
                            "SELECT count(*) FROM machine WHERE node = ?1 AND home = ?1 AND "
                            "desired = 'stopped' AND state NOT IN ('stopped', 'failed')",
                            "t", drain->node);
    r = r < 0 ? r
              : store_query(service->options.store, &err, take_duty, &standing,
                            "SELECT duty FROM node WHERE key = ?", "t", drain->node);
    if (r == 0 && is_own(drain) && !drain->is_restore) {
        r = store_query(service->options.store, &err, store_take_u64, &standing.arrived,
                        "SELECT count(*) FROM machine m WHERE " HAS_ARRIVED, "t", drain->node);
        r = r < 0 ? r
                  : store_query(service->options.store, &err, store_take_u64, &standing.settled,
                                "SELECT count(*) FROM machine m WHERE " HAS_ARRIVED HAS_SETTLED,
                                "t", drain->node);
    }
    if (r < 0) {
        log_error("reading moves: %s", err.text);
        standing.open++; /* it is not over */
    }
    return standing;
}

/* ---- The end ---- */

static void on_ended(const struct error *error, uint64_t index, void *context)
{
    struct drain *drain = context;
    struct node_service *service = drain->service;
    (void)index;
    service->pending--;
    drain->is_ending = false;
    if (service->is_over) {
        return;
    }
    bool is_failure = drain->failure.kind != ERROR_NONE; /* it may have come behind a success */
    if (error != NULL && (error->kind != ERROR_CONFLICT || is_failure)) {
        log_warn("the end of a drain is not written: %s", error->text);
        loop_timer_start(drain->timer, 1000);
        return;
    }
    drain_free(drain);
}

static void end(struct drain *drain, struct store_command *command)
{
    drain->is_ending = true;
    drain->service->pending++;
    store_propose(drain->service->options.store, command, on_ended, drain);
}

static void succeed(struct drain *drain)
{
    struct node_service *service = drain->service;
    struct store_command *command = store_command_new();
    MEMORY_OWNED char *result = memory_format("{\"machines\":%" PRIu64 "}", drain->total);
    if (!drain->is_restore && !drain->is_rebalance) {
        store_command_add(command,
                          "UPDATE node SET duty = 'drained', revision = ? WHERE key = ? AND duty = "
                          "'draining'",
                          "rt", drain->node);
    } else {
        store_command_add(command, "UPDATE node SET revision = ? WHERE key = ?", "rt", drain->node);
    }
    if (drain->operation[0] != '\0') {
        operation_add_success(service->options.operations, command, drain->operation, result);
    }
    end(drain, command);
}

static bool take_window(sqlite3_stmt *row, void *context)
{
    JSON_OWNED json_t *settings = NULL;
    struct error ignored = {0};
    const char *text = store_text(row, 0);
    if (json_read(text, strlen(text), &settings, &ignored) == 0) {
        snprintf(context, NODE_NAME_SIZE, "%s", json_text(settings, "window"));
    }
    return false;
}

static void note_problem(const struct drain *drain, struct store_command *command,
                         const char *problem)
{
    char window[NODE_NAME_SIZE] = "";
    store_query(drain->service->options.store, &(struct error){0}, take_window, window,
                "SELECT drain FROM node WHERE key = ? AND duty = 'draining'", "t", drain->node);
    if (window[0] != '\0') {
        MEMORY_OWNED char *key = memory_format("%s/%s", drain->node, window);
        store_command_add(command,
                          "UPDATE node_window SET problem = ?1, revision = ?2 WHERE key = ?3",
                          "trt", problem, key);
    }
}

/* What has left stays where it is; the node takes nothing.  The window it was for says why. */
static void write_failure(struct drain *drain)
{
    struct store_command *command = store_command_new();
    store_command_add(
        command,
        drain->is_rebalance
            ? "UPDATE machine_move SET state = 'cancelled', revision = ? WHERE reason = "
              "'rebalance' AND ? = ''"
            : drain->is_restore
            ? "UPDATE machine_move SET state = 'cancelled', revision = ? WHERE target "
              "= ? AND reason = 'restore'"
            : "UPDATE machine_move SET state = 'cancelled', revision = ? WHERE node = "
              "? AND reason = 'drain'",
        "rt", drain->node);
    if (!drain->is_restore && !drain->is_rebalance) {
        note_problem(drain, command, drain->failure.text);
        store_command_add(command,
                          "UPDATE node SET duty = 'cordoned', revision = ? WHERE key = ? AND duty "
                          "= 'draining'",
                          "rt", drain->node);
    }
    end(drain, command);
}

static void fail(struct drain *drain, const struct error *error)
{
    struct operation_service *operations = drain->service->options.operations;
    drain->failure = *error;
    if (drain->operation[0] != '\0') {
        operation_on_cancel(operations, drain->operation, NULL, NULL);
        operation_fail(operations, drain->operation, error);
        drain->operation[0] = '\0';
    }
    if (!drain->is_ending) { /* else behind what is being written */
        write_failure(drain);
    }
}

static void on_changed(const struct error *error, uint64_t index, void *context)
{
    struct drain *drain = context;
    struct node_service *service = drain->service;
    (void)index;
    service->pending--;
    drain->is_ending = false;
    if (service->is_over) {
        return;
    }
    if (error != NULL) {
        log_info("what a drain stops or tells to leave is not written: %s", error->text);
        drain->has_stopped = false;
    }
    loop_timer_start(drain->calls, error == NULL ? 0 : 1000);
}

/* Nothing else is decided before it is written. */
static void change(struct drain *drain, struct store_command *command)
{
    drain->is_ending = true;
    drain->service->pending++;
    store_propose(drain->service->options.store, command, on_changed, drain);
}

/* Two nodes may decide the same, and one of them after the drain was ended, or undone. */
static struct store_command *command_while_draining(const struct drain *drain)
{
    struct store_command *command = store_command_new();
    store_command_add_expecting(command, ERROR_CONFLICT, "the drain has ended",
                                "UPDATE node SET revision = ? WHERE key = ? AND duty = 'draining'",
                                "rt", drain->node);
    return command;
}

/* With --force: what cannot leave, or was too slow, stops here, and is started by a restore. */
static void stop_rest(struct drain *drain)
{
    struct store_command *command = command_while_draining(drain);
    drain->has_stopped = true;
    store_command_add(
        command,
        "UPDATE machine SET desired = 'stopped', home = node, revision = ? WHERE "
        "node = ? AND desired IN ('running', 'paused') AND instr(coalesce((SELECT drain "
        "FROM node WHERE key = machine.node), ''), '\"' || key || '\"') = 0",
        "rt", drain->node);
    store_command_add(command,
                      "UPDATE machine_move SET state = 'cancelled', runs_after = 0, revision = ? "
                      "WHERE node = ? AND reason = 'drain'",
                      "rt", drain->node);
    change(drain, command);
}

/* ---- Rows of moves ---- */

/* Whoever is to move: a row for each, in which `live` is what is tried first.  What commands may do
 * with JSON is nothing, so that settings are read here. */
struct moving {
    struct store_command *command;
    const char *target;
    const char *reason;
    uint64_t now_ms;
};

static bool add_move(sqlite3_stmt *row, void *context)
{
    const struct moving *moving = context;
    store_command_add(moving->command,
                      "INSERT OR REPLACE INTO machine_move (key, node, target, reason, way, "
                      "runs_after, priority, state, attempts, created_ms, revision) SELECT id, "
                      "node, ?1, ?2, iif(desired = 'running' AND ?3 = 'migrate', 'live', 'cold'), "
                      "desired = 'running', ?4, 'waiting', 0, ?5, ?6 FROM machine WHERE id = ?7 "
                      "AND node = ?8 AND desired IN ('running', 'stopped')",
                      "tttuurtt", moving->target, moving->reason, store_text(row, 2),
                      (uint64_t)sqlite3_column_int64(row, 3), moving->now_ms, store_text(row, 0),
                      store_text(row, 1));
    return true;
}

#define SELECT_MACHINES                    \
    "SELECT m.id, m.node, " DRAIN_STRATEGY \
    ", coalesce(m.config ->> '$.priority', 50) FROM machine m WHERE "

/* Those leave, too. */
static void add_arrived(struct drain *drain)
{
    struct store_command *command = command_while_draining(drain);
    const struct moving moving = {command, "", "drain", clock_real_ms()};
    struct error err = {0};
    drain->has_stopped = false; /* not these */
    store_query(drain->service->options.store, &err, add_move, (void *)(uintptr_t)&moving,
                SELECT_MACHINES HAS_ARRIVED HAS_SETTLED, "t", drain->node);
    store_command_add(command,
                      "UPDATE machine SET home = coalesce(home, node) WHERE node = ?1 AND id IN "
                      "(SELECT key FROM machine_move WHERE node = ?1 AND reason = 'drain')",
                      "t", drain->node);
    change(drain, command);
}

/* ---- Steps ---- */

/* "; 3 calls run there; default/web/1 is nowhere else yet" */
static void write_rest(const struct standing *standing, char *ret_text, size_t size)
{
    ret_text[0] = '\0';
    if (standing->is_lost) {
        snprintf(ret_text, size, "; the node is lost: what may start elsewhere does so by itself");
        return;
    }
    if (standing->calls > 0) {
        snprintf(ret_text, size, "; %" PRIu64 " call%s still run%s there", standing->calls,
                 standing->calls == 1 ? "" : "s", standing->calls == 1 ? "s" : "");
    }
    size_t used = strlen(ret_text);
    if (standing->functions > 0) {
        snprintf(ret_text + used, size - used, "; nowhere else yet: %zu function%s (%.100s)",
                 standing->functions, standing->functions == 1 ? "" : "s", standing->names);
    }
}

static void tell(struct drain *drain, const struct standing *standing)
{
    char text[NAMES_SIZE];
    char functions[192];
    write_rest(standing, functions, sizeof(functions));
    uint64_t left = drain->total -
        (standing->open + standing->failed < drain->total ? standing->open + standing->failed
                                                          : drain->total);
    snprintf(text, sizeof(text), "%" PRIu64 " of %" PRIu64 " machines are %s%s%.90s%s%.150s%.190s",
             left, drain->total,
             drain->is_restore         ? "back"
                 : drain->is_rebalance ? "moved"
                                       : "elsewhere",
             standing->now[0] != '\0' ? ", now " : "", standing->now,
             standing->problems[0] != '\0' ? "; " : "", standing->problems, functions);
    if (drain->operation[0] != '\0' && strcmp(text, drain->said) != 0) {
        snprintf(drain->said, sizeof(drain->said), "%s", text);
        operation_progress(drain->service->options.operations, drain->operation,
                           drain->total > 0 ? (unsigned)(left * 100 / drain->total) : 99, text);
    }
}

/* A drain, whose machines have left: the node says itself when its calls are over. */
static bool is_quiet(const struct drain *drain, const struct standing *standing)
{
    return is_own(drain) ? standing->calls == 0 && (standing->functions == 0 || drain->is_forced)
                         : strcmp(standing->duty, "drained") == 0;
}

static void be_late(struct drain *drain, const struct standing *standing)
{
    struct error err = {0};
    char functions[192];
    uint64_t left = standing->open + standing->failed;
    write_rest(standing, functions, sizeof(functions));
    error_set(&err, ERROR_TIMEOUT, "%" PRIu64 " %s still here at the deadline%s%.300s%.190s", left,
              left == 1 ? "machine was" : "machines were",
              standing->problems[0] != '\0' ? ": " : "", standing->problems, functions);
    fail(drain, &err);
}

/* Who has the operation says why it fails; where nobody does, this node ends it a little later. */
static bool is_left_to_others(struct drain *drain)
{
    uint64_t now_ms = clock_boot_ms();
    drain->failing_ms = drain->failing_ms == 0 ? now_ms : drain->failing_ms;
    bool is_left = drain->operation[0] == '\0' && now_ms - drain->failing_ms < GRACE_MS;
    if (is_left) {
        loop_timer_start(drain->calls, CALLS_EVERY_MS);
    }
    return is_left;
}

static void step(struct drain *drain)
{
    struct standing standing = look(drain);
    bool is_late = clock_boot_ms() >= drain->deadline_ms;
    bool is_drain = !drain->is_restore && !drain->is_rebalance;
    struct error err = {0};
    if (drain->is_ending || drain->is_beginning) {
        return;
    }
    if (drain->failure.kind != ERROR_NONE) {
        write_failure(drain);
        return;
    }
    if (is_drain && drain->operation[0] == '\0' && strcmp(standing.duty, "draining") != 0) {
        drain_free(drain); /* another node has seen to its end */
        return;
    }
    if (is_drain && strncmp(standing.duty, "drain", 5) != 0) {
        error_set(&err, ERROR_CANCELLED, "the node is %s: it was restored, or its drain was ended",
                  standing.duty);
        fail(drain, &err);
        return;
    }
    tell(drain, &standing);
    bool have_left = standing.open == 0 && standing.failed == 0 && standing.arrived == 0 &&
        (!is_drain || standing.stopping == 0);
    if (is_drain && is_late && standing.is_lost) { /* nothing of it can be stopped, either */
        be_late(drain, &standing);
    } else if (standing.settled > 0) {
        add_arrived(drain);
    } else if (drain->is_forced && !drain->has_stopped && (is_late || standing.open == 0)) {
        stop_rest(drain);
    } else if (have_left &&
               (!is_drain || (drain->is_forced && is_late) || is_quiet(drain, &standing))) {
        succeed(drain);
    } else if (!drain->is_forced && (is_late || (standing.open == 0 && standing.failed > 0)) &&
               is_left_to_others(drain)) {
        return;
    } else if (!drain->is_forced && standing.open == 0 && standing.failed > 0) {
        error_set(&err, ERROR_UNAVAILABLE, "%" PRIu64 " machine%s did not move: %.400s",
                  standing.failed, standing.failed == 1 ? "" : "s", standing.problems);
        fail(drain, &err);
    } else if (!drain->is_forced && is_late) {
        be_late(drain, &standing);
    } else if (have_left) {
        loop_timer_start(drain->calls, CALLS_EVERY_MS);
    }
}

static void on_timer(void *context)
{
    step(context);
}

void drains_step(struct node_service *service)
{
    LIST_EACH(node, &service->drains)
    {
        step(LIST_ITEM(node, struct drain, link));
    }
}

size_t drains_parallel(const struct node_service *service)
{
    LIST_EACH(node, &service->drains)
    {
        const struct drain *drain = LIST_ITEM(node, struct drain, link);
        if (drain->parallel > 0 && strcmp(drain->node, service->node_name) == 0) {
            return drain->parallel;
        }
    }
    return service->options.moves_max;
}

void drains_abandon(struct node_service *service)
{
    LIST_EACH(node, &service->drains)
    {
        drain_free(LIST_ITEM(node, struct drain, link));
    }
}

static struct drain *drain_new(struct node_service *service, const char *name, bool is_restore)
{
    struct drain *drain = NEW(struct drain);
    drain->service = service;
    drain->is_restore = is_restore;
    snprintf(drain->node, sizeof(drain->node), "%s", name);
    drain->is_beginning = true;
    drain->timer = loop_timer_new(service->options.loop, on_timer, drain);
    drain->calls = loop_timer_new(service->options.loop, on_timer, drain);
    list_push_back(&service->drains, &drain->link);
    return drain;
}

static void on_cancel(void *context)
{
    struct drain *drain = context;
    struct error err = {0};
    error_set(&err, ERROR_CANCELLED,
              drain->is_restore || drain->is_rebalance
                  ? "it was cancelled; what has moved stays where it is"
                  : "it was cancelled; the node is cordoned, and `blixard node "
                    "restore` brings back what has left");
    fail(drain, &err);
}

static void on_written(const struct error *error, uint64_t index, void *context)
{
    struct drain *drain = context;
    struct node_service *service = drain->service;
    (void)index;
    service->pending--;
    drain->is_beginning = false;
    if (!operation_tell(service->options.operations, drain->operation, error, drain->done,
                        drain->context) ||
        service->is_over) {
        drain_free(drain);
        return;
    }
    operation_on_cancel(service->options.operations, drain->operation, on_cancel, drain);
    uint64_t now_ms = clock_boot_ms();
    loop_timer_start(drain->timer, drain->deadline_ms > now_ms ? drain->deadline_ms - now_ms : 0);
    store_query(service->options.store, &(struct error){0}, store_take_u64, &drain->total,
                drain->is_rebalance
                    ? "SELECT count(*) FROM machine_move WHERE reason = 'rebalance' AND ? = ''"
                    : drain->is_restore
                    ? "SELECT count(*) FROM machine_move WHERE target = ? AND reason = 'restore'"
                    : "SELECT count(*) FROM machine_move WHERE node = ? AND reason = 'drain'",
                "t", drain->node);
    node_step_soon(service);
}

/* ---- Beginning ---- */

static void begin(struct drain *drain, struct store_command *command, const char *kind,
                  const char *project, node_begun *done, void *context)
{
    struct node_service *service = drain->service;
    MEMORY_OWNED char *resource = drain->is_rebalance ? memory_copy_string("cluster")
                                                      : memory_format("nodes/%s", drain->node);
    const struct operation_start start = {.kind = kind, .project = project, .resource = resource};
    operation_add(service->options.operations, command, &start, drain->operation);
    drain->done = done;
    drain->context = context;
    service->pending++;
    store_propose(service->options.store, command, on_written, drain);
}

/* What a drain for a window leaves in the rows: whoever ends it finds it there. */
static void note_window(struct store_command *command, const char *name,
                        const struct drain_window *window)
{
    MEMORY_OWNED char *key = memory_format("%s/%s", name, window->name);
    store_command_add_expecting(
        command, ERROR_CONFLICT, "it was drained for this opening of the window, or that is gone",
        "UPDATE node_window SET begun_ms = ?1, problem = '', revision = ?2 WHERE key = ?3 AND "
        "begun_ms <> ?1",
        "urt", window->opens_ms, key);
}

static bool take_cordoned(sqlite3_stmt *row, void *context)
{
    *(bool *)context = strcmp(store_text(row, 0), "cordoned") == 0;
    return false;
}

static void set_window(struct node_service *service, const char *name,
                       const struct drain_window *window, json_t *settings)
{
    bool was_cordoned = false;
    struct error ignored = {0};
    store_query(service->options.store, &ignored, take_cordoned, &was_cordoned,
                "SELECT duty FROM node WHERE key = ?", "t", name);
    json_object_set_new(settings, "window", json_string(window->name));
    json_object_set_new(settings, "was_cordoned", json_boolean(was_cordoned));
}

void node_drain(struct node_service *service, const char *project, const char *name,
                const json_t *body, node_begun *done, void *context)
{
    drain_begin(service, project, name, body, NULL, done, context);
}

void drain_begin(struct node_service *service, const char *project, const char *name,
                 const json_t *body, const struct drain_window *window_or_null, node_begun *done,
                 void *context)
{
    struct error err = {0};
    JSON_OWNED json_t *settings = json_object();
    json_t *ignored = json_array();
    bool is_forced = json_is_true(json_object_get(body, "force"));
    json_object_set_new(settings, "ignore", ignored);
    int r = drain_check_state(service, &err);
    r = r < 0 ? r : drain_check_node(service, name, true, false, &err);
    r = r < 0 ? r : drain_take_ignored(service, body, project, ignored, &err);
    r = r < 0 ? r : drain_take_settings(body, service->options.moves_max, settings, &err);
    MEMORY_OWNED char *ignore = json_dumps(ignored, JSON_COMPACT);
    r = r < 0 || is_forced ? r : drain_check_others(service, name, &err);
    r = r < 0 || is_forced ? r : drain_check_machines(service, name, ignore, &err);
    if (r < 0) {
        done(&err, NULL, context);
        return;
    }
    if (window_or_null != NULL) {
        set_window(service, name, window_or_null, settings);
    }
    MEMORY_OWNED char *text = json_dumps(settings, JSON_COMPACT | JSON_SORT_KEYS);
    struct drain *drain = drain_new(service, name, false);
    drain->is_forced = is_forced;
    drain->parallel = (unsigned)json_u64(settings, "parallel");
    drain->deadline_ms = clock_boot_ms() + json_u64(settings, "deadline_ms");
    struct store_command *command = store_command_new();
    store_command_add_expecting(
        command, ERROR_CONFLICT, DRAIN_IS_UNDER_WAY,
        "UPDATE node SET duty = 'draining', drain = ?, revision = ? WHERE key = ? AND duty IN "
        "('active', 'cordoned')",
        "trt", text, name);
    if (window_or_null != NULL) {
        note_window(command, name, window_or_null);
    }
    const struct moving moving = {command, "", "drain", clock_real_ms()};
    store_query(service->options.store, &err, add_move, (void *)(uintptr_t)&moving,
                SELECT_MACHINES "m.node = ?1 AND " DRAIN_STRATEGY
                                " <> 'none' AND NOT " DRAIN_IS_IGNORED,
                "tt", name, ignore);
    store_command_add(command,
                      "UPDATE machine SET home = iif(home IN (SELECT key FROM node WHERE duty <> "
                      "'active'), home, node) WHERE node = ?1 AND id IN (SELECT key FROM "
                      "machine_move WHERE node = ?1 AND reason = 'drain')",
                      "t", name);
    begin(drain, command, "node.drain", project, done, context);
}

void node_restore(struct node_service *service, const char *project, const char *name,
                  const json_t *body, node_begun *done, void *context)
{
    drain_restore(service, project, name, body, false, done, context);
}

void drain_restore(struct node_service *service, const char *project, const char *name,
                   const json_t *body, bool stays_cordoned, node_begun *done, void *context)
{
    struct error err = {0};
    bool stays = json_is_true(json_object_get(body, "stay"));
    if (drain_check_state(service, &err) < 0 ||
        drain_check_node(service, name, false, stays, &err) < 0) {
        done(&err, NULL, context);
        return;
    }
    LIST_EACH(node, &service->drains)
    {
        struct drain *other = LIST_ITEM(node, struct drain, link);
        if (!other->is_restore && other->failure.kind == ERROR_NONE && !other->is_beginning &&
            strcmp(other->node, name) == 0) {
            on_cancel(other);
        }
    }
    struct drain *drain = drain_new(service, name, true);
    drain->deadline_ms = clock_boot_ms() + RESTORE_MS;
    struct store_command *command = store_command_new();
    store_command_add_expecting(
        command, ERROR_CONFLICT, "the node is active, and nothing has left it",
        "UPDATE node SET duty = ?1, drain = NULL, revision = ?2 WHERE key = ?3 AND (duty <> "
        "'active' OR EXISTS (SELECT 1 FROM machine WHERE home = ?3))",
        "trt", stays_cordoned ? "cordoned" : "active", name);
    store_command_add(command,
                      "UPDATE machine_move SET state = 'cancelled', revision = ? WHERE node = ? "
                      "AND reason = 'drain'",
                      "rt", name);
    store_command_add(command,
                      "UPDATE machine SET desired = 'running', home = NULL, revision = ?1 WHERE "
                      "node = ?2 AND home = ?2 AND desired = 'stopped' AND NOT EXISTS (SELECT 1 "
                      "FROM machine_move WHERE key = machine.id)",
                      "rt", name);
    if (stays) {
        store_command_add(command,
                          "UPDATE machine SET home = NULL WHERE home = ? AND (node <> home OR id "
                          "IN (SELECT key FROM machine_move WHERE state = 'cancelled'))",
                          "t", name);
    } else {
        const struct moving moving = {command, name, "restore", clock_real_ms()};
        store_query(service->options.store, &err, add_move, (void *)(uintptr_t)&moving,
                    SELECT_MACHINES "m.home = ?1 AND m.node <> ?1", "t", name);
    }
    begin(drain, command, "node.restore", project, done, context);
}

void drain_begin_rebalance(struct node_service *service, struct store_command *owned_command,
                           const char *project, node_begun *done, void *context,
                           char ret_operation[OPERATION_ID_SIZE])
{
    struct drain *drain = drain_new(service, "", false);
    drain->is_rebalance = true;
    drain->deadline_ms = clock_boot_ms() + RESTORE_MS;
    begin(drain, owned_command, "cluster.rebalance", project, done, context);
    snprintf(ret_operation, OPERATION_ID_SIZE, "%s", drain->operation);
}

/* ---- After a restart of the daemon ---- */

static bool take_drain(sqlite3_stmt *row, void *context)
{
    struct error ignored = {0};
    json_t **settings = context;
    json_read(store_text(row, 0), strlen(store_text(row, 0)), settings, &ignored);
    return false;
}

static bool is_led_here(const struct node_service *service)
{
    LIST_EACH(node, &service->drains)
    {
        const struct drain *drain = LIST_ITEM(node, struct drain, link);
        if (!drain->is_restore && strcmp(drain->node, service->node_name) == 0) {
            return true;
        }
    }
    return false;
}

void drains_resume(struct node_service *service)
{
    JSON_OWNED json_t *settings = NULL;
    struct error ignored = {0};
    bool is_new_start = !service->has_looked;
    service->has_looked = true;
    if (!node_state_is_there(service) || is_led_here(service) ||
        store_query(service->options.store, &ignored, take_drain, &settings,
                    "SELECT drain FROM node WHERE key = ? AND duty = 'draining'", "t",
                    service->node_name) < 0 ||
        settings == NULL) {
        return;
    }
    uint64_t deadline_ms = json_u64(settings, "deadline_ms");
    uint64_t ends_ms = json_u64(settings, "began_at_ms") + deadline_ms;
    uint64_t now_ms = clock_real_ms();
    uint64_t left_ms = ends_ms > now_ms ? ends_ms - now_ms : 0;
    left_ms = left_ms < deadline_ms ? left_ms : deadline_ms; /* the clock can have been set back */
    if (!is_new_start) { /* it has just begun, by whatever clock */
        left_ms = deadline_ms;
    }
    struct drain *drain = drain_new(service, service->node_name, false);
    drain->is_beginning = false;
    drain->is_forced = json_is_true(json_object_get(settings, "force"));
    drain->parallel = (unsigned)json_u64(settings, "parallel");
    drain->deadline_ms = clock_boot_ms() + left_ms;
    loop_timer_start(drain->timer, left_ms > 0 ? left_ms : 1);
}
