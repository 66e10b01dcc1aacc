/*
 * Machines that are asked for.  This node decides, and sends the request to the node that it has
 * chosen, which makes the machine: that one's command fails when there is no room there by then,
 * and it is decided again.  Until the machine's row is here the picture has a place kept for it.
 */
#include <stdio.h>
#include <string.h>

#include "base/http/http.h"

#include "service/cluster/cluster.h"
#include "service/machine/machine.h"
#include "service/peer/peer.h"
#include "service/placement/parts.h"

enum { ANSWER_BYTES_MAX = 65536, SEND_TIMEOUT_MS = 30000, TEXT_SIZE = 320 };

struct creating {
    struct placement_service *service;
    char *project;
    json_t *create; /* as it was asked for */
    json_t *config; /* complete */
    char *kept;     /* the engine's id of the place that is kept for it; NULL: none */
    char node[64];  /* where it was sent */
    char reason[PLACEMENT_REASON_MAX];
    char operation[OPERATION_ID_SIZE]; /* of the node's answer */
    char *avoided[PLACEMENT_TRIES_MAX];
    unsigned tries;
    bool waits;
    bool asks_to_wait; /* whatever it is for */
    bool is_pending;   /* it was sent to wait: nobody can be before it */
    placement_begun *done;
    void *context;
};

static void decide(struct creating *creating);
static void make_pending(struct creating *creating, const char *reason);

static void give_back(struct creating *creating)
{
    picture_give_back(creating->service, creating->kept);
    creating->kept = NULL;
}

static void creating_free(struct creating *creating)
{
    give_back(creating);
    for (unsigned i = 0; i < PLACEMENT_TRIES_MAX; i++) {
        free(creating->avoided[i]);
    }
    json_decref(creating->create);
    json_decref(creating->config);
    free(creating->project);
    free(creating);
}

static void finish(struct creating *creating, const struct error *error, const char *operation)
{
    creating->done(error, operation, creating->context);
    creating_free(creating);
}

static void refuse(struct creating *creating, const struct error *error)
{
    answer_begun_later(creating->service, error, creating->done, creating->context);
    creating_free(creating);
}

/* ---- The node's answer ---- */

static void keep_decision(struct creating *creating)
{
    struct placement_service *service = creating->service;
    struct store_command *command = store_command_new();
    if (!service_is_known(service)) {
        store_command_free(command);
        return;
    }
    decision_add(service, command, creating->project, json_text(creating->config, "name"), "",
                 DECISION_PLACED, creating->node, creating->reason);
    store_propose(service->options.store, command, NULL, NULL);
}

/* What its node alone has does not wait: see machine_draft(). */
static bool may_wait(const struct creating *creating)
{
    return creating->waits && json_object_get(creating->create, "user_data") == NULL &&
        json_array_size(json_object_get(creating->create, "shares")) == 0;
}

static void on_made(const struct error *error, const char *operation, void *context)
{
    struct creating *creating = context;
    struct placement_service *service = creating->service;
    service->pending--;
    bool is_beaten = error != NULL && error->kind == ERROR_CONFLICT;
    bool goes_on =
        is_beaten && !creating->is_pending && !service->is_over && service->nodes.count > 1;
    service->conflicts += is_beaten;
    if (goes_on && creating->tries < PLACEMENT_TRIES_MAX) {
        creating->avoided[creating->tries - 1] = memory_copy_string(creating->node);
        service->retries++;
        give_back(creating);
        decide(creating);
        return;
    }
    if (goes_on && may_wait(creating)) { /* the queue tries on */
        give_back(creating);
        make_pending(creating, error->text);
        return;
    }
    if (error == NULL) {
        keep_decision(creating);
    }
    finish(creating, error, operation);
}

/* What a node refused (RFC 9457), as an error here. */
static void take_refusal(const json_t *answer, int status, struct error *err)
{
    const char *text = json_text(answer, "detail");
    const char *code = json_text(answer, "code");
    enum error_kind kind = ERROR_UNAVAILABLE;
    for (int i = 1; i < ERROR_KIND_COUNT; i++) {
        kind = strcmp(error_kind_name((enum error_kind)i), code) == 0 ? (enum error_kind)i : kind;
    }
    if (text[0] != '\0') {
        error_set(err, kind, "%s", text);
    } else {
        error_set(err, kind, "the node answered %d", status);
    }
}

/* Whoever is told of the operation finds it at this node, too. */
static void on_current(const struct error *error, void *context)
{
    struct creating *creating = context;
    (void)error; /* then it is found a moment later */
    on_made(NULL, creating->operation, creating);
}

static void on_answer(const struct error *error, int status, struct buffer *answer, void *context)
{
    JSON_OWNED json_t *document = NULL;
    struct error err = {0};
    if (error != NULL) {
        on_made(error, NULL, context);
        return;
    }
    json_read(answer->data, answer->used, &document, &err);
    const char *operation = json_text(document, "operation");
    if (status / 100 == 2 && operation[0] != '\0') {
        struct creating *creating = context;
        snprintf(creating->operation, sizeof(creating->operation), "%s", operation);
        store_barrier(creating->service->options.store, on_current, creating);
        return;
    }
    err = (struct error){0};
    take_refusal(document, status, &err);
    on_made(&err, NULL, context);
}

/* ---- Sending it there ---- */

/* `pending`: it is not to start there, but to wait for room. */
static void send_there(struct creating *creating, const char *pending)
{
    static const char *const fields[] = {PEER_FIELD_HOP ": 1", "Content-Type: application/json",
                                         NULL};
    struct placement_service *service = creating->service;
    BUFFER_OWNED struct buffer target = {0};
    MEMORY_OWNED char *body = json_dumps(creating->create, JSON_COMPACT);
    struct error err = {0};
    uint64_t node = nodes_id(service, creating->node);
    if (node == 0) {
        error_set(&err, ERROR_UNAVAILABLE, "node %s is not there any more", creating->node);
        refuse(creating, &err);
        return;
    }
    buffer_append_format(&target, "/v1/machines?project=%s", creating->project);
    if (pending != NULL) {
        buffer_append_string(&target, "&pending=");
        http_percent_encode(&target, text_of(pending, strlen(pending)));
    }
    const struct peer_request request = {.node = node,
                                         .method = "POST",
                                         .target = buffer_string(&target),
                                         .body = body,
                                         .body_length = strlen(body),
                                         .answer_bytes_max = ANSWER_BYTES_MAX,
                                         .timeout_ms = SEND_TIMEOUT_MS,
                                         .fields = fields};
    service->pending++;
    peer_call_new(service->options.peers, &request, on_answer, creating);
}

static void make(struct creating *creating)
{
    struct placement_service *service = creating->service;
    if (strcmp(creating->node, service->node_name) == 0) {
        service->pending++;
        machine_create(service->options.machines, creating->project, creating->create, on_made,
                       creating);
    } else {
        send_there(creating, NULL);
    }
}

/* ---- Deciding ---- */

/* Volumes are known at their node alone: it waits there. */
static void make_pending(struct creating *creating, const char *reason)
{
    struct placement_service *service = creating->service;
    bool has_volumes = json_array_size(json_object_get(creating->config, "volumes")) > 0;
    struct error err = {0};
    creating->is_pending = true;
    if (!creating->waits) {
        error_set(&err, ERROR_LIMIT, "machine %s fits nowhere: %s",
                  json_text(creating->config, "name"), reason);
        refuse(creating, &err);
    } else if (has_volumes && creating->node[0] != '\0' &&
               strcmp(creating->node, service->node_name) != 0) {
        send_there(creating, reason);
    } else {
        service->pending++;
        snprintf(creating->node, sizeof(creating->node), "%s", "");
        placement_service_create_pending(service, creating->project, creating->create, reason,
                                         creating->done, creating->context);
        service->pending--;
        creating_free(creating);
    }
}

/* Where every node that could is refused by its ports alone, the node says whose they are. */
static bool is_of_ports(const struct placement_decision *decision)
{
    return decision->refused[PLACEMENT_PORT] > 0;
}

static bool take_text(sqlite3_stmt *row, void *context)
{
    char *node = context;
    snprintf(node, 64, "%s", store_text(row, 0));
    return false;
}

static void find_volume_node(struct creating *creating)
{
    const json_t *volumes = json_object_get(creating->config, "volumes");
    const char *use = json_string_value(json_array_get(volumes, 0));
    struct error ignored = {0};
    creating->node[0] = '\0';
    if (use != NULL) {
        MEMORY_OWNED char *name = memory_copy_text(use, strcspn(use, ":"));
        MEMORY_OWNED char *key = memory_format("%s/%s", creating->project, name);
        store_query(creating->service->options.store, &ignored, take_text, creating->node,
                    "SELECT node FROM volume WHERE key = ?", "t", key);
    }
}

static void follow(struct creating *creating, struct asked *asked,
                   struct placement_decision *decision)
{
    struct placement_service *service = creating->service;
    struct error err = {0};
    snprintf(creating->reason, sizeof(creating->reason), "%s", decision->reason);
    if (decision->is_placed && decision->victim_count > 0) {
        many_create_one(service, creating->project, creating->create, decision, creating->done,
                        creating->context);
        creating_free(creating);
    } else if (decision->is_placed) {
        snprintf(creating->node, sizeof(creating->node), "%.63s", decision->node_name);
        creating->kept = picture_keep(service, creating->project, asked, decision);
        make(creating);
    } else if (is_of_ports(decision) && service->nodes.count == 1) {
        snprintf(creating->node, sizeof(creating->node), "%.63s", service->node_name);
        make(creating);
    } else if (machine_runner_check(service->options.machines, creating->config, &err) < 0) {
        refuse(creating, &err);
    } else if (drivers_explain(service, json_text(creating->config, "driver"), creating->reason) &&
               !creating->asks_to_wait) {
        error_set(&err, ERROR_UNSUPPORTED, "machine %s: %s", json_text(creating->config, "name"),
                  creating->reason);
        refuse(creating, &err);
    } else {
        find_volume_node(creating);
        make_pending(creating, creating->reason);
    }
}

/* Folders of a node are those of the one that is asked, unless another one is named. */
static const char *bound_to(const struct creating *creating)
{
    bool has_shares = json_array_size(json_object_get(creating->config, "shares")) > 0;
    const char *node = json_text(creating->create, "node");
    return !has_shares ? NULL : node[0] != '\0' ? node : creating->service->node_name;
}

static void decide(struct creating *creating)
{
    struct placement_service *service = creating->service;
    struct placement_decision decision = {0};
    struct error err = {0};
    struct asked *asked = NEW(struct asked);
    const struct asked_of of = {.project = creating->project,
                                .name = json_text(creating->config, "name"),
                                .config = creating->config,
                                .bound = bound_to(creating)};
    creating->tries++;
    picture_update(service);
    int r = asked_init(asked, service, &of, &err);
    if (r < 0) {
        free(asked);
        refuse(creating, &err);
        return;
    }
    for (size_t i = 0; i < PLACEMENT_TRIES_MAX && creating->avoided[i] != NULL; i++) {
        asked->avoided[asked->request.avoid_count++] = creating->avoided[i];
    }
    asked->request.avoid = asked->avoided;
    if (strcmp(json_text(creating->config, "strategy"), "Halted") == 0) {
        asked->request.may_displace = false; /* it is not started */
    }
    r = measured_decide(service, asked, creating->project, &decision, &err);
    if (r < 0) {
        refuse(creating, &err);
    } else {
        follow(creating, asked, &decision);
    }
    placement_decision_done(&decision);
    asked_done(asked);
    free(asked);
}

static int check_names(struct placement_service *service, const struct creating *creating,
                       struct error *err)
{
    const char *node = json_text(creating->create, "node");
    const char *reservation = json_text(creating->config, "reservation");
    char found[64] = "";
    if (node[0] != '\0' && !picture_has_node(service, node)) {
        return error_set(err, ERROR_NOT_FOUND, "there is no node %.80s", node);
    }
    if (reservation[0] == '\0') {
        return 0;
    }
    MEMORY_OWNED char *key = memory_format("%s/%s", creating->project, reservation);
    int r = store_query(service->options.store, err, take_text, found,
                        "SELECT node FROM placement_reservation WHERE key = ? AND expires_ms > ?",
                        "tu", key, clock_real_ms());
    return r < 0 || found[0] != '\0'
        ? r
        : error_set(err, ERROR_NOT_FOUND,
                    "there is no reservation %.64s in project %s, or it has expired; see `blixard "
                    "placement list --reservations`",
                    reservation, creating->project);
}

void placement_service_create(struct placement_service *service, const char *project,
                              const json_t *create, placement_begun *done, void *context)
{
    struct error err = {0};
    const json_t *waits = json_object_get(create, "wait_for_room");
    struct creating *creating = NEW(struct creating);
    *creating = (struct creating){.service = service,
                                  .project = memory_copy_string(project),
                                  .create = json_deep_copy(create),
                                  .waits = !json_is_false(waits),
                                  .asks_to_wait = json_is_true(waits),
                                  .done = done,
                                  .context = context};
    picture_update(service);
    int r = machine_complete(create, &creating->config, &err);
    r = r < 0 || !service_is_known(service) ? r : check_names(service, creating, &err);
    if (r < 0) {
        refuse(creating, &err);
    } else if (!service_is_known(service)) { /* as before there was placement */
        const char *node = json_text(create, "node");
        snprintf(creating->node, sizeof(creating->node), "%s",
                 node[0] != '\0' ? node : service->node_name);
        make(creating);
    } else {
        decide(creating);
    }
}
