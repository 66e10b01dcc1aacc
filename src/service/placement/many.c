/*
 * Machines that come by a command of this node: gangs, and those that displace others.  Their rows,
 * the rows of whom they displace and their operations are one command: all of it is there, or
 * nothing.  What their nodes make of them ends the operations.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/random.h"

#include "service/cluster/cluster.h"
#include "service/machine/machine.h"
#include "service/placement/parts.h"

enum {
    GANG_MAX = 64,
    DECISIONS_KEPT = 1000,
    DECISIONS_PER_TRIM = 64,
    KEY_BYTES = 16,
    REASON_SIZE = 512
};

/* ---- Decisions that are kept ---- */

static const char *const kinds[] = {"placed", "pending", "displaced", "moved"};

void decision_add(struct placement_service *service, struct store_command *command,
                  const char *project, const char *machine, const char *id, enum decision_kind kind,
                  const char *node, const char *text)
{
    char key[KEY_BYTES * 2 + 1];
    if (!service_is_known(service)) {
        return;
    }
    random_hex(key, sizeof(key) - 1);
    store_command_add(command,
                      "INSERT INTO placement_decision (key, project, machine, machine_id, kind, "
                      "node, text, at_ms, revision) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                      "tttttttur", key, project, machine, id, kinds[kind], node, text,
                      clock_real_ms());
    service->decided[kind]++;
    if (service->kept_decisions++ % DECISIONS_PER_TRIM != 0) {
        return;
    }
    store_command_add(command,
                      "DELETE FROM placement_decision WHERE key IN (SELECT key FROM "
                      "placement_decision ORDER BY at_ms DESC, key LIMIT -1 OFFSET ?)",
                      "i", (int64_t)DECISIONS_KEPT);
}

struct victim_row {
    char project[64];
    char name[64];
    char node[64];
};

static bool take_victim(sqlite3_stmt *row, void *context)
{
    struct victim_row *victim = context;
    snprintf(victim->project, sizeof(victim->project), "%s", store_text(row, 0));
    snprintf(victim->name, sizeof(victim->name), "%s", store_text(row, 1));
    snprintf(victim->node, sizeof(victim->node), "%s", store_text(row, 2));
    return false;
}

void victims_add(struct placement_service *service, struct store_command *command,
                 const struct placement_decision *decision, const char *for_whom)
{
    for (size_t i = 0; i < decision->victim_count; i++) {
        const struct placement_victim *victim = &decision->victims[i];
        struct victim_row row = {0};
        struct error ignored = {0};
        char reason[REASON_SIZE];
        store_query(service->options.store, &ignored, take_victim, &row,
                    "SELECT project, name, node FROM machine WHERE id = ?", "t", victim->id);
        if (row.name[0] == '\0') {
            continue; /* it has gone by itself */
        }
        snprintf(reason, sizeof(reason), "displaced by machine %s: %s", for_whom, victim->reason);
        log_info("placement: machine %s/%s is %s", row.project, row.name, reason);
        const struct machine_displaced displaced = {.project = row.project,
                                                    .name = row.name,
                                                    .id = victim->id,
                                                    .node = row.node,
                                                    .reason = reason};
        machine_add_displacement(service->options.machines, command, &displaced);
        decision_add(service, command, row.project, row.name, victim->id, DECISION_DISPLACED,
                     row.node, reason);
    }
}

/* ---- Operations that end when machines run ---- */

struct making {
    struct list_node link;
    char operation[OPERATION_ID_SIZE];
    char id[PLACEMENT_MACHINE_ID_SIZE];
    char key[192]; /* of its row, once that was seen */
};

struct looking {
    bool is_there;
    char state[16];
    char desired[16];
    bool is_pending;
    char reason[ERROR_TEXT_MAX / 2];
    char key[192];
    char node[64];
};

static bool take_state(sqlite3_stmt *row, void *context)
{
    struct looking *looking = context;
    looking->is_there = true;
    snprintf(looking->state, sizeof(looking->state), "%s", store_text(row, 0));
    snprintf(looking->desired, sizeof(looking->desired), "%s", store_text(row, 1));
    snprintf(looking->reason, sizeof(looking->reason), "%s", store_text(row, 2));
    looking->is_pending = sqlite3_column_type(row, 3) != SQLITE_NULL;
    snprintf(looking->key, sizeof(looking->key), "%s", store_text(row, 4));
    snprintf(looking->node, sizeof(looking->node), "%s", store_text(row, 5));
    return false;
}

static void end_making(struct placement_service *service, struct making *making,
                       const struct error *error)
{
    if (error != NULL) {
        operation_fail(service->options.operations, making->operation, error);
    } else {
        operation_succeed(service->options.operations, making->operation, NULL);
    }
    list_remove(&making->link);
    free(making);
}

/* Its node is lost, and nobody knows whether that comes back. */
static bool waits_for_lost(const struct looking *looking)
{
    MEMORY_OWNED char *lost = memory_format(CLUSTER_LOST_REASON, looking->node);
    return strncmp(looking->reason, lost, strlen(lost)) == 0;
}

static void look_at(struct placement_service *service, struct making *making,
                    const char *key_or_null)
{
    struct looking looking = {0};
    struct error err = {0};
    if (key_or_null != NULL && making->key[0] != '\0' && strcmp(key_or_null, making->key) != 0) {
        return;
    }
    int r = store_query(
        service->options.store, &err, take_state, &looking,
        "SELECT state, desired, reason, pending_ms, key, node FROM machine WHERE id = ?", "t",
        making->id);
    if (r < 0 ||
        (key_or_null != NULL && looking.is_there && strcmp(key_or_null, looking.key) != 0)) {
        return;
    }
    snprintf(making->key, sizeof(making->key), "%s", looking.key);
    bool is_wanted = strcmp(looking.desired, "running") == 0;
    if (!looking.is_there) {
        error_set(&err, ERROR_CANCELLED, "the machine was deleted meanwhile");
        end_making(service, making, &err);
    } else if (strcmp(looking.state, "failed") == 0 || waits_for_lost(&looking)) {
        error_set(&err, ERROR_UNAVAILABLE, "machine %s: %s", looking.key, looking.reason);
        end_making(service, making, &err);
    } else if (looking.is_pending || strcmp(looking.state, "running") == 0 ||
               (!is_wanted && strcmp(looking.state, "stopped") == 0)) {
        end_making(service, making, NULL);
    } else {
        operation_progress(service->options.operations, making->operation, 50, looking.state);
    }
}

void making_look(struct placement_service *service, const char *key_or_null)
{
    LIST_EACH(node, &service->making)
    {
        look_at(service, LIST_ITEM(node, struct making, link), key_or_null);
    }
}

void making_watch(struct placement_service *service, const char *operation, const char *id)
{
    struct making *making = NEW(struct making);
    snprintf(making->operation, sizeof(making->operation), "%s", operation);
    snprintf(making->id, sizeof(making->id), "%s", id);
    list_push_back(&service->making, &making->link);
    look_at(service, making, NULL);
}

void making_abandon(struct placement_service *service)
{
    LIST_EACH(node, &service->making)
    {
        struct making *making = LIST_ITEM(node, struct making, link);
        list_remove(&making->link);
        free(making);
    }
}

/* ---- Several at once ---- */

struct member {
    char name[64];
    char operation[OPERATION_ID_SIZE];
    struct machine_draft draft;
    struct asked asked;
    bool is_asked;
    char *kept; /* its place in the picture */
    struct placement_decision decision;
};

struct gang {
    struct placement_service *service;
    char *project;
    size_t count;
    bool is_all_or_nothing;
    placement_gang_begun *done;
    placement_begun *done_one;
    void *context;
    struct member members[];
};

static struct gang *gang_new(struct placement_service *service, const char *project, size_t count)
{
    struct gang *gang = memory_new(1, sizeof(struct gang) + count * sizeof(struct member));
    gang->service = service;
    gang->project = memory_copy_string(project);
    gang->count = count;
    return gang;
}

static void gang_free(struct gang *gang)
{
    for (size_t i = 0; i < gang->count; i++) {
        struct member *member = &gang->members[i];
        machine_draft_done(&member->draft);
        placement_decision_done(&member->decision);
        if (member->is_asked) {
            asked_done(&member->asked);
        }
    }
    free(gang->project);
    free(gang);
}

static void take_back(struct gang *gang)
{
    for (size_t i = 0; i < gang->count; i++) {
        struct member *member = &gang->members[i];
        picture_give_back(gang->service, member->kept);
        member->kept = NULL;
        for (size_t j = 0; j < member->decision.victim_count; j++) {
            picture_reload(gang->service, member->decision.victims[j].id);
        }
    }
}

static void tell(struct gang *gang, const struct error *error)
{
    const char *names[GANG_MAX];
    const char *operations[GANG_MAX];
    for (size_t i = 0; i < gang->count; i++) {
        names[i] = gang->members[i].name;
        operations[i] = gang->members[i].operation;
    }
    if (gang->done_one != NULL) {
        gang->done_one(error, error == NULL ? operations[0] : NULL, gang->context);
    } else {
        gang->done(error, names, operations, error == NULL ? gang->count : 0, gang->context);
    }
}

static void on_written(const struct error *error, uint64_t index, void *context)
{
    struct gang *gang = context;
    struct placement_service *service = gang->service;
    (void)index;
    service->pending--;
    take_back(gang); /* the rows are here now, or are not to come */
    if (error != NULL) {
        service->conflicts += error->kind == ERROR_CONFLICT;
        for (size_t i = 0; i < gang->count; i++) {
            operation_drop(service->options.operations, gang->members[i].operation);
        }
    }
    tell(gang, error);
    for (size_t i = 0; error == NULL && i < gang->count; i++) {
        making_watch(service, gang->members[i].operation, gang->members[i].draft.id);
    }
    gang_free(gang);
    service_post(service);
}

struct later {
    struct gang *gang;
    struct error error;
};

static void on_later(void *argument)
{
    struct later *later = argument;
    struct gang *gang = later->gang;
    gang->service->pending--;
    tell(gang, &later->error);
    gang_free(gang);
    free(later);
}

static void refuse(struct gang *gang, const struct error *error)
{
    struct later *later = NEW(struct later);
    *later = (struct later){gang, *error};
    gang->service->pending++;
    loop_post(gang->service->options.loop, on_later, later);
}

static int add_member(struct gang *gang, struct member *member, struct store_command *command,
                      struct error *err)
{
    struct placement_service *service = gang->service;
    const struct placement_decision *decision = &member->decision;
    MEMORY_OWNED char *resource = memory_format("machines/%s", member->name);
    const struct operation_start start = {
        .kind = "machine.create", .project = gang->project, .resource = resource};
    operation_add(service->options.operations, command, &start, member->operation);
    victims_add(service, command, decision, member->name);
    int r = machine_draft_add(service->options.machines, gang->project, &member->draft,
                              decision->is_placed ? decision->node_name : NULL, decision->reason,
                              command, err);
    decision_add(service, command, gang->project, member->name, member->draft.id,
                 decision->is_placed ? DECISION_PLACED : DECISION_PENDING,
                 decision->is_placed ? decision->node_name : "", decision->reason);
    return r;
}

static void propose(struct gang *gang)
{
    struct placement_service *service = gang->service;
    struct store_command *command = store_command_new();
    struct error err = {0};
    int r = 0;
    for (size_t i = 0; i < gang->count && r == 0; i++) {
        struct member *member = &gang->members[i];
        r = add_member(gang, member, command, &err);
        if (r == 0 && member->decision.is_placed && member->kept == NULL) {
            member->kept = /* who decides next counts it */
                picture_keep(service, gang->project, &member->asked, &member->decision);
        }
    }
    if (r < 0) {
        store_command_free(command);
        take_back(gang);
        for (size_t i = 0; i < gang->count; i++) {
            operation_drop(service->options.operations, gang->members[i].operation);
        }
        refuse(gang, &err);
        return;
    }
    service->pending++;
    store_propose(service->options.store, command, on_written, gang);
}

static int draft_member(struct gang *gang, struct member *member, const json_t *create,
                        struct error *err)
{
    struct placement_service *service = gang->service;
    snprintf(member->name, sizeof(member->name), "%s", json_text(create, "name"));
    int r = machine_draft(service->options.machines, gang->project, create, &member->draft, err);
    const struct asked_of of = {.project = gang->project,
                                .name = member->name,
                                .id = member->draft.id,
                                .config = member->draft.config};
    r = r < 0 ? r : asked_init(&member->asked, service, &of, err);
    member->is_asked = r == 0;
    return r;
}

static int draft_all(struct gang *gang, const json_t *machine, struct error *err)
{
    const char *name = json_text(machine, "name");
    int r = 0;
    for (size_t i = 0; i < gang->count && r == 0; i++) {
        JSON_OWNED json_t *create = json_deep_copy(machine);
        MEMORY_OWNED char *numbered = memory_format("%s-%zu", name, i + 1);
        json_object_set_new(create, "name", json_string(numbered));
        r = draft_member(gang, &gang->members[i], create, err);
    }
    return r;
}

/* Whom nodes refused; the others would only have had to wait for it. */
static const struct member *member_without_place(const struct gang *gang)
{
    for (size_t i = 0; i < gang->count; i++) {
        for (int filter = 0; filter < PLACEMENT_FILTER_COUNT; filter++) {
            if (gang->members[i].decision.refused[filter] > 0) {
                return &gang->members[i];
            }
        }
    }
    return &gang->members[0];
}

/* Each sees those before it; where all have to find room, all are asked for together. */
static int decide(struct gang *gang, struct error *err)
{
    struct placement_service *service = gang->service;
    struct placement_options options;
    struct placement_request *requests = memory_new(gang->count, sizeof(*requests));
    struct placement_decision *decisions = memory_new(gang->count, sizeof(*decisions));
    strategy_of(service, gang->project, &options, NULL);
    options.may_displace = false; /* a gang takes what is free */
    options.seed = service->decisions++;
    for (size_t i = 0; i < gang->count; i++) {
        requests[i] = gang->members[i].asked.request;
    }
    int r = placement_decide_gang(service->cluster, requests, gang->count, &options,
                                  clock_real_ms(), decisions, err);
    bool is_placed = r == 0;
    for (size_t i = 0; i < gang->count; i++) {
        gang->members[i].decision = decisions[i];
        is_placed = is_placed && decisions[i].is_placed;
    }
    if (r == 0 && !is_placed) {
        const struct member *without = member_without_place(gang);
        r = error_set(err, ERROR_LIMIT, "not all %zu find room, so that none is made: %s: %s",
                      gang->count, without->name, without->decision.reason);
    }
    free(requests);
    free(decisions);
    return r;
}

static int decide_one_by_one(struct gang *gang, struct error *err)
{
    int r = 0;
    for (size_t i = 0; i < gang->count && r == 0; i++) {
        struct member *member = &gang->members[i];
        r = measured_decide(gang->service, &member->asked, gang->project, &member->decision, err);
        if (r == 0 && member->decision.is_placed) {
            member->kept =
                picture_keep(gang->service, gang->project, &member->asked, &member->decision);
        }
    }
    return r;
}

void placement_service_create_gang(struct placement_service *service, const char *project,
                                   const json_t *body, placement_gang_begun *done, void *context)
{
    struct error err = {0};
    uint64_t count = json_u64(body, "count");
    int r = error_check_range("count", count, 1, GANG_MAX, &err);
    if (r == 0 && !service_is_known(service)) {
        r = error_set(&err, ERROR_UNSUPPORTED, "not all nodes know placement: upgrade them first");
    }
    struct gang *gang = gang_new(service, project, r == 0 ? count : 0);
    gang->done = done;
    gang->context = context;
    gang->is_all_or_nothing = json_is_true(json_object_get(body, "all_or_nothing"));
    picture_update(service);
    r = r < 0 ? r : draft_all(gang, json_object_get(body, "machine"), &err);
    r = r < 0 ? r : gang->is_all_or_nothing ? decide(gang, &err) : decide_one_by_one(gang, &err);
    if (r < 0) {
        take_back(gang);
        refuse(gang, &err);
    } else {
        propose(gang);
    }
}

/* ---- One, with those that it displaces; or pending ---- */

static void create_one(struct placement_service *service, const char *project, const json_t *create,
                       const struct placement_decision *decision, const char *reason,
                       placement_begun *done, void *context)
{
    struct gang *gang = gang_new(service, project, 1);
    struct member *member = &gang->members[0];
    struct error err = {0};
    gang->done_one = done;
    gang->context = context;
    int r = draft_member(gang, member, create, &err);
    if (r == 0 && decision != NULL) {
        /* Its place is the same; the victims are copied, the parts of the node are its node's. */
        member->decision = *decision;
        member->decision.grant = (struct placement_grant){.numa = -1};
        member->decision.victims =
            memory_new(decision->victim_count + 1, sizeof(struct placement_victim));
        for (size_t i = 0; i < decision->victim_count; i++) {
            member->decision.victims[i] = decision->victims[i];
        }
    } else if (r == 0) {
        snprintf(member->decision.reason, sizeof(member->decision.reason), "%.190s", reason);
    }
    if (r < 0) {
        refuse(gang, &err);
    } else {
        propose(gang);
    }
}

void many_create_one(struct placement_service *service, const char *project, const json_t *create,
                     const struct placement_decision *decision, placement_begun *done,
                     void *context)
{
    create_one(service, project, create, decision, NULL, done, context);
}

void placement_service_create_pending(struct placement_service *service, const char *project,
                                      const json_t *create, const char *reason,
                                      placement_begun *done, void *context)
{
    create_one(service, project, create, NULL, reason, done, context);
}
