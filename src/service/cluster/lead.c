/*
 * What the leader does for all: it writes its reign, keeps as many servers as are wanted, raises
 * the schema when every node knows the next, and clears away what has ended.  Wanted is what rows
 * say, actual what the store says; one change at a time.  A new leader goes on where the last one
 * stopped, because everything that is decided on lies in the state or is seen again.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"

#include "service/cluster/parts.h"

enum { PURGE_EVERY_MS = 600000, TOKEN_KEPT_MS = 24 * 3600 * 1000 };

bool lead_leads(struct cluster *cluster)
{
    struct store_status status;
    store_status(cluster->store, &status);
    return status.is_leader && status.ready && cluster->leader.reign == status.term;
}

/* ---- The reign ---- */

struct reign {
    struct cluster *cluster;
    uint64_t term;
};

static void on_reign_written(const struct error *error, uint64_t index, void *context)
{
    struct reign *reign = context;
    struct cluster *cluster = reign->cluster;
    (void)index;
    cluster->leading.writes_reign = false;
    if (error == NULL) {
        liveness_leader_ready(&cluster->leader, reign->term);
    } else {
        log_warn("cluster: this node leads, but could not write so: %s", error->text);
    }
    free(reign);
}

static void write_reign(struct cluster *cluster)
{
    struct store_command *command = store_command_new();
    struct reign *reign = NEW(struct reign);
    reign->cluster = cluster;
    reign->term = cluster->leader.reign;
    cluster->leading.writes_reign = true;
    store_command_add_expecting(command, ERROR_CONFLICT, "another node led later",
                                "UPDATE cluster SET reign = ?, revision = ? WHERE reign <= ?",
                                "uru", reign->term, reign->term);
    store_propose(cluster->store, command, on_reign_written, reign);
}

struct readmission {
    struct cluster *cluster;
    uint64_t id;
    uint64_t ticket;
};

static void on_readmitted(const struct error *error, void *context)
{
    struct readmission *readmission = context;
    struct liveness_leader *leader = &readmission->cluster->leader;
    if (error == NULL) {
        liveness_readmit(leader, readmission->id, readmission->ticket);
    } else {
        liveness_readmit_failed(leader, readmission->id, readmission->ticket);
    }
    free(readmission);
}

void lead_readmit(struct cluster *cluster, uint64_t id, uint64_t ticket)
{
    struct readmission *readmission = NEW(struct readmission);
    *readmission = (struct readmission){cluster, id, ticket};
    store_barrier(cluster->store, on_readmitted, readmission);
}

bool cluster_may_move(const struct cluster *cluster, uint64_t id, uint64_t *ret_reign)
{
    *ret_reign = cluster->leader.reign;
    return cluster->leader.reign != 0 && liveness_may_move(&cluster->leader, id);
}

/* ---- Who votes ---- */

static const struct store_server *find_server(const struct store_status *status, uint64_t id)
{
    for (size_t i = 0; i < status->server_count; i++) {
        if (status->servers[i].id == id) {
            return &status->servers[i];
        }
    }
    return NULL;
}

static enum membership_role part_of(const struct member *member, const struct store_server *server)
{
    if (server != NULL) {
        return server->votes ? MEMBERSHIP_VOTER : MEMBERSHIP_STANDBY;
    }
    if (!member->wanted_server) {
        return MEMBERSHIP_WORKER; /* or about to be: what it says of itself may be old */
    }
    bool is_server = member->facts.is_known && member->facts.is_server;
    return is_server ? MEMBERSHIP_WAITING : MEMBERSHIP_ENLISTED;
}

static struct membership_node describe(struct cluster *cluster, struct member *member,
                                       const struct store_status *status, uint64_t now_ms)
{
    const struct store_server *server = find_server(status, member->id);
    enum membership_role part = part_of(member, server);
    if (part != member->part || member->part_since_ms == 0) {
        member->part = part;
        member->part_since_ms = now_ms;
    }
    uint64_t since_ms = liveness_since(&cluster->leader, member->id);
    return (struct membership_node){
        .id = member->id,
        .name = member->name,
        .role = part,
        .wish = member->is_eligible ? MEMBERSHIP_AUTO
            : member->wanted_server ? MEMBERSHIP_WANTED_SERVER
                                    : MEMBERSHIP_WANTED_WORKER,
        .health = member->facts.health,
        .health_since_ms = since_ms != 0 ? since_ms : now_ms,
        .role_since_ms = member->part_since_ms,
        .is_leader = member->id == status->node_id,
        .is_unfit = member->facts.reported.count > 0,
        .failure_domain = member->failure_domain,
        .schema = member->schema,
        .lag = status->index > member->facts.index ? status->index - member->facts.index : 0,
    };
}

/* Every node, and those of the configuration that have no row any more: they are leaving. */
static size_t describe_all(struct cluster *cluster, const struct store_status *status,
                           uint64_t now_ms, struct membership_node *nodes)
{
    size_t count = 0;
    for (size_t i = 0; i < cluster->member_count; i++) {
        nodes[count++] = describe(cluster, &cluster->members[i], status, now_ms);
    }
    for (size_t i = 0; i < status->server_count; i++) {
        const struct store_server *server = &status->servers[i];
        if (member_find(cluster, server->id) == NULL) {
            nodes[count++] = (struct membership_node){
                .id = server->id,
                .name = "without a row",
                .role = server->votes ? MEMBERSHIP_VOTER : MEMBERSHIP_STANDBY,
                .wish = MEMBERSHIP_WANTED_WORKER,
                .health = CLUSTER_LOST,
                .health_since_ms = now_ms,
                .role_since_ms = now_ms,
                .is_leader = server->id == status->node_id,
                .is_leaving = true,
                .failure_domain = "",
            };
        }
    }
    return count;
}

static void end_change(struct cluster *cluster, const struct error *error)
{
    cluster->leading.is_under_way = false;
    cluster->leading.changed_ms = clock_boot_ms();
    cluster->leading.said[0] = '\0';
    if (error != NULL) {
        log_warn("cluster: the change of the servers failed: %s", error->text);
    }
}

static void on_changed(const struct error *error, void *context)
{
    end_change(context, error);
}

static void on_row_written(const struct error *error, uint64_t index, void *context)
{
    (void)index;
    end_change(context, error);
}

static void write_role(struct cluster *cluster, uint64_t id, const char *role)
{
    struct store_command *command = store_command_new();
    /* Of an earlier leader it could undo what a later one relies on: see membership.h. */
    store_command_add_expecting(command, ERROR_CONFLICT, "another node leads by now",
                                "UPDATE cluster SET reign = reign WHERE reign = ?", "u",
                                cluster->leader.reign);
    store_command_add_expecting(
        command, ERROR_CONFLICT, "somebody else changed the node's role meanwhile",
        "UPDATE node SET role = ?, revision = ? WHERE id = ? AND role <> ? AND eligible", "trut",
        role, id, role);
    store_propose(cluster->store, command, on_row_written, cluster);
}

static void perform(struct cluster *cluster, const struct membership_decision *decision)
{
    struct store *store = cluster->store;
    if (decision->action == MEMBERSHIP_NONE) {
        if (strcmp(cluster->leading.said, decision->reason) != 0) {
            snprintf(cluster->leading.said, sizeof(cluster->leading.said), "%s", decision->reason);
            log_debug("cluster: %s", decision->reason);
        }
        return;
    }
    const char *name = member_name(cluster, decision->id);
    log_info("cluster: %s node %s (%" PRIu64 "): %s", membership_action_text(decision->action),
             name[0] != '\0' ? name : "without a name", decision->id, decision->reason);
    cluster->leading.is_under_way = true;
    switch (decision->action) {
    case MEMBERSHIP_NONE:
        break;
    case MEMBERSHIP_ENLIST:
        write_role(cluster, decision->id, "server");
        break;
    case MEMBERSHIP_DISMISS:
        write_role(cluster, decision->id, "worker");
        break;
    case MEMBERSHIP_ADD:
        store_add_server(store, decision->id, on_changed, cluster);
        break;
    case MEMBERSHIP_REMOVE:
        store_remove_server(store, decision->id, on_changed, cluster);
        break;
    case MEMBERSHIP_TRANSFER:
        store_transfer_leadership(store, decision->id, on_changed, cluster);
        break;
    }
}

/* ---- The schema ---- */

static void on_upgraded(const struct error *error, void *context)
{
    struct cluster *cluster = context;
    cluster->leading.upgrades = false;
    if (error != NULL) {
        log_warn("cluster: the schema could not be raised: %s", error->text);
    } else {
        log_info("cluster: the schema is at version %u now", store_schema_now(cluster->store));
    }
}

/* Whether it is still so that every node knows it is judged again when the step is applied. */
static void raise_schema(struct cluster *cluster, const struct membership_node *nodes, size_t count)
{
    uint64_t holding = 0;
    unsigned now = store_schema_now(cluster->store);
    unsigned wanted = membership_schema(nodes, count, now, store_schema_version(), &holding);
    if (wanted > now && !cluster->leading.upgrades) {
        cluster->leading.upgrades = true;
        store_upgrade(cluster->store, wanted, on_upgraded, cluster);
    }
}

/* ---- What has ended ---- */

static void purge(struct cluster *cluster, uint64_t now_ms)
{
    if (cluster->leading.purged_ms != 0 && now_ms - cluster->leading.purged_ms < PURGE_EVERY_MS) {
        return;
    }
    cluster->leading.purged_ms = now_ms;
    struct store_command *command = store_command_new();
    store_command_add(command, "DELETE FROM join_token WHERE expires_ms < ?", "u",
                      clock_real_ms() - TOKEN_KEPT_MS);
    store_propose(cluster->store, command, NULL, NULL);
}

/* ---- All of it ---- */

static void reconcile(struct cluster *cluster, const struct store_status *status, uint64_t now_ms)
{
    size_t most = cluster->member_count + STORE_SERVERS_MAX;
    struct membership_node *nodes = memory_new(most, sizeof(struct membership_node));
    struct membership_input input = {
        .nodes = nodes,
        .count = describe_all(cluster, status, now_ms, nodes),
        .wanted = cluster->servers_wanted,
        .is_changing = cluster->leading.is_under_way,
        .begun_ms = cluster->leader.begun_ms,
        .changed_ms = cluster->leading.changed_ms,
        .schema = store_schema_now(cluster->store),
        .lost_grace_ms = MEMBERSHIP_LOST_GRACE_MS,
        .now_ms = now_ms,
    };
    struct membership_decision decision = {0};
    if (input.count <= MEMBERSHIP_NODES_MAX && !cluster->leading.is_under_way) {
        membership_decide(&input, &decision);
        perform(cluster, &decision);
    }
    raise_schema(cluster, nodes, input.count);
    free(nodes);
}

void lead_tick(struct cluster *cluster)
{
    struct store_status status;
    uint64_t now_ms = clock_boot_ms();
    store_status(cluster->store, &status);
    if (!status.is_leader || !status.ready) {
        if (cluster->leader.reign != 0) {
            log_info("cluster: this node does not lead any more");
            liveness_leader_end(&cluster->leader);
        }
        return;
    }
    if (cluster->leader.reign != status.term) {
        log_info("cluster: this node leads (term %" PRIu64 ")", status.term);
        liveness_leader_begin(&cluster->leader, status.term, now_ms);
        cluster->leading = (struct leading){.changed_ms = now_ms,
                                            .is_under_way = cluster->leading.is_under_way,
                                            .writes_reign = cluster->leading.writes_reign,
                                            .upgrades = cluster->leading.upgrades};
    }
    if (!cluster->leader.is_ready) {
        if (!cluster->leading.writes_reign) {
            write_reign(cluster);
        }
        return;
    }
    reconcile(cluster, &status, now_ms);
    purge(cluster, now_ms);
}
