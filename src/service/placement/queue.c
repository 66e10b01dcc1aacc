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

enum { ANSWER_BYTES_MAX = 65536, MOVE_TIMEOUT_MS = 30000, RETRY_MS = 5000 };

void queue_wake_all(struct placement_service *service)
{
    LIST_EACH(node, &service->waiting)
    {
        LIST_ITEM(node, struct waiting, link)->is_due = true;
    }
    service_post(service);
}

static struct waiting *find(struct placement_service *service, const char *id)
{
    LIST_EACH(node, &service->waiting)
    {
        struct waiting *waiting = LIST_ITEM(node, struct waiting, link);
        if (strcmp(waiting->id, id) == 0) {
            return waiting;
        }
    }
    return NULL;
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
    struct waiting *waiting = find(service, placing->id);
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
        for (size_t i = 0; i < placing->victim_count; i++) {
            picture_reload(service, placing->victims[i].id);
        }
        if (waiting != NULL) {
            waiting->is_due = is_beaten;
        }
        if (is_beaten) {
            service_post(service);
        } else {
            log_warn("placement: machine %s could not be placed: %s", placing->id, error->text);
            loop_timer_start(service->timer, RETRY_MS);
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
    store_propose(service->options.store, command, NULL, NULL);
}

/* ---- One whose disk is at a node that has no room, while another one has ---- */

static void on_move_asked(const struct error *error, int status, struct buffer *answer,
                          void *context)
{
    struct placing *placing = context;
    struct placement_service *service = placing->service;
    struct waiting *waiting = find(service, placing->id);
    (void)answer;
    service->pending--;
    if (error != NULL || status / 100 != 2) {
        log_warn("placement: machine %s does not move: %s (%d)", placing->id,
                 error != NULL ? error->text : "its node refuses", status);
        if (waiting != NULL) {
            waiting->is_under_way = false;
        }
    }
    free(placing); /* its row says where it is when it has come, and it is looked at then */
}

static void on_moving(const struct error *error, const char *operation, void *context)
{
    (void)operation;
    on_move_asked(error, 200, NULL, context);
}

static void move(struct placement_service *service, struct waiting *waiting, const char *target)
{
    static const char *const fields[] = {PEER_FIELD_HOP ": 1", "Content-Type: application/json",
                                         NULL};
    struct placing *placing = NEW(struct placing);
    struct cluster_view *view = peer_view(service->options.peers);
    JSON_OWNED json_t *body = json_pack("{s:s, s:b}", "to", target, "live", 0);
    uint64_t id = 0;
    *placing = (struct placing){.service = service};
    snprintf(placing->id, sizeof(placing->id), "%s", waiting->id);
    for (size_t i = 0; view != NULL && i < view->count; i++) {
        id = strcmp(view->nodes[i].name, waiting->node) == 0 ? view->nodes[i].id : id;
    }
    if (view != NULL) {
        cluster_view_unref(view);
    }
    struct store_command *command = store_command_new();
    decision_add(service, command, waiting->project, waiting->name, waiting->id, DECISION_MOVED,
                 target, "it was displaced, and there is room here: its disk comes over");
    store_propose(service->options.store, command, NULL, NULL);
    waiting->is_under_way = true;
    service->pending++;
    if (strcmp(waiting->node, service->node_name) == 0) {
        machine_migrate(service->options.machines, waiting->project, waiting->name, body, on_moving,
                        placing);
        return;
    }
    MEMORY_OWNED char *text = json_dumps(body, JSON_COMPACT);
    MEMORY_OWNED char *path =
        memory_format("/v1/machines/%s/migrate?project=%s", waiting->name, waiting->project);
    const struct peer_request request = {.node = id,
                                         .method = "POST",
                                         .target = path,
                                         .body = text,
                                         .body_length = strlen(text),
                                         .answer_bytes_max = ANSWER_BYTES_MAX,
                                         .timeout_ms = MOVE_TIMEOUT_MS,
                                         .fields = fields};
    peer_call_new(service->options.peers, &request, on_move_asked, placing);
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
    if (r == 0) {
        snprintf(asked->id, sizeof(asked->id), "move/%s", waiting->id);
        asked->request.may_displace = false;
        r = measured_decide(service, asked, waiting->project, &decision, &err);
        asked_done(asked);
    }
    bool moves = r == 0 && decision.is_placed && strcmp(decision.node_name, waiting->node) != 0;
    if (moves) {
        move(service, waiting, decision.node_name);
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

static void wake_later(struct placement_service *service, uint64_t wake_ms)
{
    uint64_t now_ms = clock_real_ms();
    if (wake_ms != 0) {
        loop_timer_start(service->timer, wake_ms > now_ms ? wake_ms - now_ms + 1 : 1);
    }
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

static void look_at(struct placement_service *service, struct waiting *waiting)
{
    struct placement_decision decision = {0};
    struct error err = {0};
    const struct asked_of of = {.project = waiting->project,
                                .name = waiting->name,
                                .id = waiting->id,
                                .config = waiting->config,
                                .bound = waiting->node[0] != '\0' ? waiting->node : NULL};
    if (waiting->is_blocked) {
        asked_done(&waiting->asked);
        placement_decision_done(&waiting->blocked);
        waiting->is_blocked = false;
    }
    bool had_disk = waiting->node[0] != '\0';
    int r = asked_init(&waiting->asked, service, &of, &err);
    if (r == 0 && had_disk) { /* that is counted already, by its id */
        snprintf(waiting->asked.id, sizeof(waiting->asked.id), "return/%s", waiting->id);
        waiting->asked.request.demand.amounts.of[PLACEMENT_DISK] = 0;
        waiting->asked.request.demand.port_count = 0;
    }
    r = r < 0 ? r : measured_decide(service, &waiting->asked, waiting->project, &decision, &err);
    if (r < 0) {
        asked_done(&waiting->asked);
        keep_reason(service, waiting, err.text);
        return;
    }
    if (decision.is_placed) {
        place(service, waiting, &waiting->asked, &decision);
        asked_done(&waiting->asked);
    } else {
        bool moves = had_disk && try_elsewhere(service, waiting);
        service->decided[DECISION_PENDING]++;
        if (!moves) {
            keep_reason(service, waiting, decision.reason);
        }
        wake_later(service, decision.wake_ms);
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

void queue_run(struct placement_service *service)
{
    size_t count = 0;
    size_t most = 0;
    picture_update(service);
    if (!service_is_known(service) || !cluster_owns(service->options.cluster, "placement")) {
        return;
    }
    LIST_EACH(node, &service->waiting)
    {
        most++;
    }
    struct waiting **due = memory_new(most + 1, sizeof(struct waiting *));
    LIST_EACH(node, &service->waiting)
    {
        struct waiting *waiting = LIST_ITEM(node, struct waiting, link);
        if (waiting->is_due && !waiting->is_under_way && is_stopped(service, waiting)) {
            due[count++] = waiting;
        }
    }
    qsort(due, count, sizeof(struct waiting *), compare);
    for (size_t i = 0; i < count; i++) {
        due[i]->is_due = false;
        look_at(service, due[i]);
    }
    free(due);
}
