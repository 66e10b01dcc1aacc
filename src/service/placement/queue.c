/*
 * Machines that wait for room.  One node, the owner of the queue, looks at those that something may
 * have helped, the highest priority first and then who waits longest; two that both believe to be
 * the owner are told apart by the log, whose commands expect the machine to be pending still.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "service/cluster/cluster.h"
#include "service/machine/machine.h"
#include "service/peer/peer.h"
#include "service/placement/parts.h"

enum {
    ANSWER_BYTES_MAX = 65536,
    MOVE_TIMEOUT_MS = 30000,
    MOVED_TIMEOUT_MS = 24 * 3600000,
    MOVE_AGAIN_MS = 30000,
    AHEAD_MS = 1000, /* so far clocks of nodes may be apart */
};

void queue_wake_all(struct placement_service *service)
{
    LIST_EACH(node, &service->waiting)
    {
        LIST_ITEM(node, struct waiting, link)->is_due = true;
    }
    service_post(service);
}

struct waiting *waiting_find(struct placement_service *service, const char *id)
{
    return map_get(&service->waiters, id);
}

static bool take_said(sqlite3_stmt *row, void *context)
{
    struct waiting *waiting = context;
    waiting->since_ms = (uint64_t)sqlite3_column_int64(row, 0);
    free(waiting->reason);
    waiting->reason = memory_copy_string(store_text(row, 1));
    waiting->is_due = true;
    return false;
}

void queue_read_again(struct placement_service *service)
{
    struct error ignored = {0};
    LIST_EACH(node, &service->waiting)
    {
        struct waiting *waiting = LIST_ITEM(node, struct waiting, link);
        store_query(service->options.store, &ignored, take_said, waiting,
                    "SELECT pending_ms, pending_reason FROM machine WHERE id = ? AND pending_ms IS "
                    "NOT NULL",
                    "t", waiting->id);
    }
}

/* ---- Moments at which somebody is looked at, whatever changes ---- */

static uint64_t sooner(uint64_t a, uint64_t b)
{
    return a == 0 || (b != 0 && b < a) ? b : a;
}

/* By the clock of the day: a reservation that expires may make room. */
static bool waits_for_clock(const struct waiting *waiting)
{
    return waiting->is_blocked && waiting->blocked.wake_ms != 0 && !waiting->is_due &&
        !waiting->is_under_way;
}

uint64_t queue_next_ms(const struct placement_service *service, uint64_t boot_ms, uint64_t real_ms)
{
    uint64_t first_ms = service->holds_at_ms; /* by the boot clock */
    LIST_EACH(node, &service->waiting)
    {
        const struct waiting *waiting = LIST_ITEM(node, struct waiting, link);
        first_ms = sooner(first_ms, waiting->retry_at_ms);
        if (waits_for_clock(waiting)) {
            uint64_t wake_ms = waiting->blocked.wake_ms;
            uint64_t in_ms = wake_ms > real_ms ? wake_ms - real_ms + 1 : 1;
            first_ms = sooner(first_ms,
                              boot_ms + (in_ms < PLACEMENT_CLOCK_MS ? in_ms : PLACEMENT_CLOCK_MS));
        }
    }
    return first_ms;
}

/* One timer: for the first of all of them. */
static void start_timer(struct placement_service *service)
{
    uint64_t boot_ms = clock_boot_ms();
    uint64_t first_ms = queue_next_ms(service, boot_ms, clock_real_ms());
    if (first_ms != 0) {
        loop_timer_start(service->timer, first_ms > boot_ms ? first_ms - boot_ms : 1);
    }
}

void queue_wake_late(struct placement_service *service, uint64_t boot_ms, uint64_t real_ms)
{
    LIST_EACH(node, &service->waiting)
    {
        struct waiting *waiting = LIST_ITEM(node, struct waiting, link);
        bool has_retry = waiting->retry_at_ms != 0 && waiting->retry_at_ms <= boot_ms;
        if (has_retry) {
            waiting->retry_at_ms = 0;
        }
        /* What has expired makes room without being told of; or the next one is waited for. */
        if (has_retry || (waits_for_clock(waiting) && waiting->blocked.wake_ms <= real_ms)) {
            waiting->is_due = true;
        }
    }
}

/* Whatever was begun for it did not work, and nothing may change by which it would be looked at. */
static void look_again(struct placement_service *service, struct waiting *waiting,
                       uint64_t after_ms)
{
    waiting->is_under_way = false;
    waiting->retry_at_ms = clock_boot_ms() + after_ms;
    service->are_holds_stale = true;
    start_timer(service);
    service_post(service); /* what has woken it meanwhile counts */
}

/* ---- One that found a place ---- */

struct placing {
    struct placement_service *service;
    char id[PLACEMENT_MACHINE_ID_SIZE];
    char *kept; /* its place in the picture */
    size_t victim_count;
    struct placement_victim *victims;
};

static void on_placed(const struct error *error, uint64_t index, void *context)
{
    struct placing *placing = context;
    struct placement_service *service = placing->service;
    struct waiting *waiting = waiting_find(service, placing->id);
    (void)index;
    service->pending--;
    picture_give_back(service, placing->kept); /* its row is here now, or is as before */
    if (waiting != NULL) {
        waiting->is_under_way = false;
    }
    if (error != NULL && !service->is_over) {
        bool is_beaten = error->kind == ERROR_CONFLICT;
        service->conflicts += is_beaten;
        service->retries++;
        service->are_holds_stale = true;
        for (size_t i = 0; i < placing->victim_count; i++) {
            picture_reload(service, placing->victims[i].id);
        }
        if (!is_beaten) {
            log_warn("placement: machine %s could not be placed: %s", placing->id, error->text);
        }
        if (waiting != NULL && is_beaten && ++waiting->beaten < PLACEMENT_TRIES_MAX) {
            waiting->is_due = true;
            service_post(service);
        } else if (waiting != NULL) { /* or the picture and the log do not agree: not at once */
            waiting->beaten = 0;
            look_again(service, waiting, PLACEMENT_RETRY_MS);
        }
    }
    free(placing->victims);
    free(placing);
}

static void place(struct placement_service *service, struct waiting *waiting, struct asked *asked,
                  const struct placement_decision *decision)
{
    struct placing *placing = NEW(struct placing);
    struct store_command *command = store_command_new();
    *placing = (struct placing){.service = service, .victim_count = decision->victim_count};
    snprintf(placing->id, sizeof(placing->id), "%s", waiting->id);
    placing->victims = memory_new(decision->victim_count + 1, sizeof(*placing->victims));
    for (size_t i = 0; i < decision->victim_count; i++) {
        placing->victims[i] = decision->victims[i];
    }
    hold_forget(service, waiting); /* what it held is its own now */
    placing->kept = picture_keep(service, waiting->project, asked, decision);
    victims_add(service, command, decision, waiting->name);
    if (waiting->node[0] == '\0') {
        machine_add_assignment(service->options.machines, command, waiting->project, waiting->id,
                               waiting->config, decision->node_name);
    } else {
        machine_add_return(service->options.machines, command, waiting->project, waiting->id,
                           waiting->config, waiting->node);
    }
    decision_add(service, command, waiting->project, waiting->name, waiting->id, DECISION_PLACED,
                 decision->node_name, decision->reason);
    log_info("placement: machine %s/%s gets node %s", waiting->project, waiting->name,
             decision->node_name);
    waiting->is_under_way = true;
    service->pending++;
    store_propose(service->options.store, command, on_placed, placing);
}

/* ---- One that does not ---- */

/* Its row says why, when that is news. */
static void keep_reason(struct placement_service *service, struct waiting *waiting,
                        const char *reason)
{
    if (strcmp(waiting->reason, reason) == 0) {
        return;
    }
    struct store_command *command = store_command_new();
    store_command_add(command,
                      "UPDATE machine SET pending_reason = ?1, revision = ?2 WHERE id = ?3 AND "
                      "pending_ms IS NOT NULL",
                      "trt", reason, waiting->id);
    free(waiting->reason);
    waiting->reason = memory_copy_string(reason);
    service_write(service, command, &service->are_waiting_stale);
}

/* ---- One whose disk is at a node that has no room, while another one has ---- */

struct moving {
    struct list_node link;
    struct placement_service *service;
    char id[PLACEMENT_MACHINE_ID_SIZE];
    char operation[OPERATION_ID_SIZE];
    struct operation_wait *wait;
    char *kept; /* its place there, in the picture */
};

static void moving_free(struct moving *moving)
{
    operation_wait_free(moving->wait);
    picture_give_back(moving->service, moving->kept);
    list_remove(&moving->link);
    free(moving);
}

void queue_abandon(struct placement_service *service)
{
    LIST_EACH(node, &service->moving)
    {
        moving_free(LIST_ITEM(node, struct moving, link));
    }
}

static void stay(struct moving *moving, const char *why)
{
    struct waiting *waiting = waiting_find(moving->service, moving->id);
    log_warn("placement: machine %s does not move: %s", moving->id, why);
    if (waiting != NULL && !moving->service->is_over) {
        look_again(moving->service, waiting, MOVE_AGAIN_MS);
    }
    moving_free(moving);
}

/* It is there, or is where it was; either way it waits there from now on. */
static void on_moved(void *context)
{
    struct moving *moving = context;
    struct placement_service *service = moving->service;
    BUFFER_OWNED struct buffer text = {0};
    JSON_OWNED json_t *operation = NULL;
    struct error err = {0};
    if (operation_write(service->options.operations, moving->operation, &text, &err) == 0) {
        json_read(text.data, text.used, &operation, &err);
    }
    if (strcmp(json_text(operation, "state"), "succeeded") != 0) {
        const char *why = json_text(operation, "error");
        stay(moving, why[0] != '\0' ? why : "its move did not end");
        return;
    }
    struct waiting *waiting = waiting_find(service, moving->id);
    if (waiting != NULL) {
        waiting->is_under_way = false;
        waiting->is_due = true;
        service_post(service);
    }
    moving_free(moving);
}

static void follow_move(struct moving *moving)
{
    moving->wait = operation_wait_new(moving->service->options.operations, moving->operation,
                                      MOVED_TIMEOUT_MS, on_moved, moving);
}

static void on_current(const struct error *error, void *context)
{
    struct moving *moving = context;
    moving->service->pending--;
    (void)error; /* nobody leads: what is here is all that is known of it */
    follow_move(moving);
}

/* The operation that another node has begun may not be here yet, and what is not here is over. */
static void follow_there(struct moving *moving)
{
    moving->service->pending++;
    store_barrier(moving->service->options.store, on_current, moving);
}

static void on_move_asked(const struct error *error, int status, struct buffer *answer,
                          void *context)
{
    struct moving *moving = context;
    JSON_OWNED json_t *document = NULL;
    struct error ignored = {0};
    moving->service->pending--;
    if (error == NULL) {
        json_read(answer->data, answer->used, &document, &ignored);
    }
    const char *operation = json_text(document, "operation");
    if (error != NULL || status / 100 != 2 || operation[0] == '\0') {
        const char *detail = json_text(document, "detail");
        stay(moving, error != NULL ? error->text : detail[0] != '\0' ? detail : "its node refuses");
    } else {
        snprintf(moving->operation, sizeof(moving->operation), "%s", operation);
        follow_there(moving);
    }
}

static void on_moving(const struct error *error, const char *operation, void *context)
{
    struct moving *moving = context;
    moving->service->pending--;
    if (error != NULL) {
        stay(moving, error->text);
    } else {
        snprintf(moving->operation, sizeof(moving->operation), "%s", operation);
        follow_move(moving);
    }
}

static void move(struct placement_service *service, struct waiting *waiting, const char *target,
                 char *owned_kept)
{
    static const char *const fields[] = {PEER_FIELD_HOP ": 1", "Content-Type: application/json",
                                         NULL};
    struct moving *moving = NEW(struct moving);
    JSON_OWNED json_t *body = json_pack("{s:s, s:b}", "to", target, "live", 0);
    moving->service = service;
    moving->kept = owned_kept;
    snprintf(moving->id, sizeof(moving->id), "%s", waiting->id);
    list_push_back(&service->moving, &moving->link);
    struct store_command *command = store_command_new();
    decision_add(service, command, waiting->project, waiting->name, waiting->id, DECISION_MOVED,
                 target, "it was displaced, and there is room here: its disk comes over");
    store_propose(service->options.store, command, NULL, NULL);
    waiting->is_under_way = true;
    service->pending++;
    if (strcmp(waiting->node, service->node_name) == 0) {
        machine_migrate(service->options.machines, waiting->project, waiting->name, body, on_moving,
                        moving);
        return;
    }
    MEMORY_OWNED char *text = json_dumps(body, JSON_COMPACT);
    MEMORY_OWNED char *path =
        memory_format("/v1/machines/%s/migrate?project=%s", waiting->name, waiting->project);
    const struct peer_request request = {.node = nodes_id(service, waiting->node),
                                         .method = "POST",
                                         .target = path,
                                         .body = text,
                                         .body_length = strlen(text),
                                         .answer_bytes_max = ANSWER_BYTES_MAX,
                                         .timeout_ms = MOVE_TIMEOUT_MS,
                                         .fields = fields};
    peer_call_new(service->options.peers, &request, on_move_asked, moving);
}

/* Is its place at another node, where it is not by now?  It neither displaces anybody there, nor
 * does its disk move for nothing. */
static bool try_elsewhere(struct placement_service *service, struct waiting *waiting)
{
    struct placement_decision decision = {0};
    struct asked *asked = NEW(struct asked);
    struct error err = {0};
    const struct asked_of of = {.project = waiting->project,
                                .name = waiting->name,
                                .id = waiting->id,
                                .config = waiting->config};
    int r = asked_init(asked, service, &of, &err);
    bool is_asked = r == 0;
    if (r == 0) {
        snprintf(asked->id, sizeof(asked->id), "move/%s", waiting->id);
        asked->request.may_displace = false;
        asked->request.since_ms = waiting->since_ms;
        r = measured_decide(service, asked, waiting->project, &decision, &err);
    }
    bool moves = r == 0 && decision.is_placed && strcmp(decision.node_name, waiting->node) != 0;
    if (moves) { /* who is decided meanwhile does not get its room */
        move(service, waiting, decision.node_name,
             picture_keep(service, waiting->project, asked, &decision));
    }
    if (is_asked) {
        asked_done(asked);
    }
    placement_decision_done(&decision);
    free(asked);
    return moves;
}

/* ---- Looking ---- */

static void block(struct waiting *waiting, struct placement_decision *decision)
{
    waiting->is_blocked = true;
    waiting->blocked = *decision;
    *decision = (struct placement_decision){0};
}

static bool take_idle(sqlite3_stmt *row, void *context)
{
    *(bool *)context =
        strcmp(store_text(row, 0), "stopped") == 0 || strcmp(store_text(row, 0), "failed") == 0;
    return false;
}

/* One that was displaced goes on when its node has stopped it. */
static bool is_stopped(struct placement_service *service, const struct waiting *waiting)
{
    bool is_idle = waiting->node[0] == '\0';
    struct error ignored = {0};
    if (!is_idle) {
        store_query(service->options.store, &ignored, take_idle, &is_idle,
                    "SELECT state FROM machine WHERE id = ?", "t", waiting->id);
    }
    return is_idle;
}

int waiting_ask(struct placement_service *service, const struct waiting *waiting,
                struct asked *asked, struct error *err)
{
    bool has_disk = waiting->node[0] != '\0';
    const struct asked_of of = {.project = waiting->project,
                                .name = waiting->name,
                                .id = waiting->id,
                                .config = waiting->config,
                                .bound = has_disk ? waiting->node : NULL};
    int r = asked_init(asked, service, &of, err);
    if (r == 0 && has_disk) { /* that is counted already, by its id */
        snprintf(asked->id, sizeof(asked->id), "return/%s", waiting->id);
        asked->request.demand.amounts.of[PLACEMENT_DISK] = 0;
        asked->request.demand.port_count = 0;
    }
    asked->request.since_ms = waiting->since_ms;
    asked->request.may_displace = asked->request.may_displace && !waiting->is_at_rest;
    return r;
}

static void look_at(struct placement_service *service, struct waiting *waiting)
{
    struct placement_decision decision = {0};
    struct error err = {0};
    if (waiting->is_blocked) {
        asked_done(&waiting->asked);
        placement_decision_done(&waiting->blocked);
        waiting->is_blocked = false;
    }
    bool had_disk = waiting->node[0] != '\0';
    int r = waiting_ask(service, waiting, &waiting->asked, &err);
    r = r < 0 ? r : measured_decide(service, &waiting->asked, waiting->project, &decision, &err);
    if (r < 0) {
        asked_done(&waiting->asked);
        keep_reason(service, waiting, err.text);
        waiting->retry_at_ms = clock_boot_ms() + MOVE_AGAIN_MS; /* what it names may come */
        return;
    }
    if (decision.is_placed) {
        place(service, waiting, &waiting->asked, &decision);
        asked_done(&waiting->asked);
    } else {
        bool moves = had_disk && try_elsewhere(service, waiting);
        service->decided[DECISION_PENDING]++;
        if (!moves) {
            drivers_explain(service, json_text(waiting->config, "driver"), decision.reason);
            keep_reason(service, waiting, decision.reason);
        }
        block(waiting, &decision);
    }
    placement_decision_done(&decision);
}

static int compare(const void *a, const void *b)
{
    const struct waiting *x = *(struct waiting *const *)a;
    const struct waiting *y = *(struct waiting *const *)b;
    if (x->priority != y->priority) {
        return x->priority > y->priority ? -1 : 1;
    }
    if (x->since_ms != y->since_ms) {
        return x->since_ms < y->since_ms ? -1 : 1;
    }
    return strcmp(x->id, y->id);
}

static struct waiting **sort_all(struct placement_service *service, size_t *ret_count)
{
    size_t count = 0;
    LIST_EACH(node, &service->waiting)
    {
        count++;
    }
    struct waiting **all = memory_new(count + 1, sizeof(struct waiting *));
    *ret_count = count;
    count = 0;
    LIST_EACH(node, &service->waiting)
    {
        all[count++] = LIST_ITEM(node, struct waiting, link);
    }
    qsort(all, count, sizeof(struct waiting *), compare);
    return all;
}

/* One that is said to wait from a moment to come on was made by a clock that was ahead: it would
 * be the last of all until then, and hold no node.  It waits from now on. */
static void mend_since(struct placement_service *service, struct waiting *waiting, uint64_t now_ms)
{
    if (waiting->since_ms <= now_ms + AHEAD_MS) {
        return;
    }
    struct store_command *command = store_command_new();
    store_command_add(command,
                      "UPDATE machine SET pending_ms = ?1, revision = ?2 WHERE id = ?3 AND "
                      "pending_ms = ?4",
                      "urtu", now_ms, waiting->id, waiting->since_ms);
    waiting->since_ms = now_ms;
    service_write(service, command, &service->are_waiting_stale);
}

void queue_run(struct placement_service *service)
{
    uint64_t now_ms = clock_real_ms();
    size_t count = 0;
    picture_update(service);
    if (!service_is_known(service) || !cluster_owns(service->options.cluster, "placement")) {
        return;
    }
    LIST_EACH(node, &service->waiting)
    {
        mend_since(service, LIST_ITEM(node, struct waiting, link), now_ms);
    }
    struct waiting **all = sort_all(service, &count);
    for (size_t i = 0; i < count; i++) {
        if (all[i]->is_due && !all[i]->is_under_way && is_stopped(service, all[i])) {
            all[i]->is_due = false;
            all[i]->retry_at_ms = 0;
            look_at(service, all[i]);
        }
    }
    holds_look(service, all, count);
    free(all);
    start_timer(service);
}
