/*
 * Nodes, join tokens and clients: written as rows, on any node.  What rows want the leader brings
 * about (lead.c).
 */
#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/certificate.h"
#include "base/clock.h"
#include "base/text.h"

#include "service/cluster/parts.h"

enum {
    LABELS_MAX = 64,
    LABEL_VALUE_MAX = 128,
    USES_MAX = 1024,
    TOKEN_TTL_MS = 3 * 3600 * 1000,
};
#define TOKEN_TTL_MAX_MS  (UINT64_C(30) * 24 * 3600 * 1000)
#define CLIENT_TTL_MS     (UINT64_C(30) * 24 * 3600 * 1000)
#define CLIENT_TTL_MAX_MS (UINT64_C(3650) * 24 * 3600 * 1000)

struct change {
    struct cluster *cluster;
    struct cluster_reply reply;
    char node[CLUSTER_NAME_SIZE]; /* answered as it is then; "": `answer` */
    struct buffer answer;         /* empty: none */
    bool is_answered;
};

static struct change *change_new(struct cluster *cluster, struct cluster_reply reply)
{
    struct change *change = NEW(struct change);
    change->cluster = cluster;
    change->reply = reply;
    return change;
}

static void on_written(const struct error *error, uint64_t index, void *context)
{
    struct change *change = context;
    struct cluster *cluster = change->cluster;
    struct error err = {0};
    (void)index;
    if (cluster->own_removal == change) {
        cluster->own_removal = NULL;
    }
    if (error != NULL) {
        err = *error;
    } else if (change->node[0] != '\0') {
        member_reload(cluster);
        cluster_write_node(cluster, change->node, &change->answer, &err);
    }
    if (change->is_answered) {
        log_debug("cluster: the removal of this node: %s", error != NULL ? error->text : "done");
    } else if (err.kind != ERROR_NONE) {
        reply_error(cluster, change->reply, &err);
    } else {
        reply_with(cluster, change->reply, change->answer.used > 0 ? &change->answer : NULL);
    }
    buffer_done(&change->answer);
    free(change);
}

struct change *change_of_node(struct cluster *cluster, const char *name, struct cluster_reply reply)
{
    struct change *change = change_new(cluster, reply);
    snprintf(change->node, sizeof(change->node), "%s", name);
    return change;
}

void change_propose(struct change *change, struct store_command *owned_command)
{
    store_propose(change->cluster->store, owned_command, on_written, change);
}

static int check_member(const struct cluster *cluster, struct error *err)
{
    return cluster->is_member
        ? 0
        : error_set(err, ERROR_INVALID,
                    "this node is in no cluster: make one with `blixard cluster init --name NAME`");
}

static int find_node(struct cluster *cluster, const char *name, struct member **ret_member,
                     struct error *err)
{
    member_look(cluster);
    int r = check_member(cluster, err);
    struct member *member = r == 0 ? member_find_name(cluster, name) : NULL;
    if (r == 0 && member == NULL) {
        r = error_set(err, ERROR_NOT_FOUND, "there is no node %.64s", name);
    }
    *ret_member = member;
    return r;
}

int change_find_node(struct cluster *cluster, const char *name, struct member **ret_member,
                     struct error *err)
{
    return find_node(cluster, name, ret_member, err);
}

/* ---- Nodes ---- */

static int check_update(struct cluster *cluster, const struct member *member, const char *role,
                        const char *domain, struct error *err)
{
    if (role != NULL && strcmp(role, "server") != 0 && strcmp(role, "worker") != 0) {
        return error_set(err, ERROR_INVALID, "$.role is server or worker, not \"%.32s\"", role);
    }
    if (domain != NULL && strlen(domain) >= sizeof(member->failure_domain)) {
        return error_set(err, ERROR_INVALID, "$.failure_domain has more than %zu bytes",
                         sizeof(member->failure_domain) - 1);
    }
    if (domain != NULL && !text_is_printable(domain)) {
        return error_set(err, ERROR_INVALID, "$.failure_domain has a control character");
    }
    if (role == NULL || strcmp(role, "worker") != 0) {
        return 0;
    }
    for (size_t i = 0; i < cluster->member_count; i++) {
        const struct member *other = &cluster->members[i];
        if (other->id != member->id && other->wanted_server) {
            return 0;
        }
    }
    return error_set(err, ERROR_CONFLICT, "%s is the only server: promote another first",
                     member->name);
}

void cluster_update_node(struct cluster *cluster, const char *name, const char *role_or_null,
                         const char *failure_domain_or_null, const char *pool_or_null,
                         struct cluster_reply reply)
{
    struct error err = {0};
    struct member *member = NULL;
    int r = find_node(cluster, name, &member, &err);
    r = r < 0 ? r : check_update(cluster, member, role_or_null, failure_domain_or_null, &err);
    if (r == 0 && pool_or_null != NULL) {
        r = duty_is_known(cluster)
            ? duty_check_pool(pool_or_null, &err)
            : error_set(&err, ERROR_UNSUPPORTED, "not all nodes know pools: upgrade them first");
    }
    if (r < 0) {
        reply_error(cluster, reply, &err);
        return;
    }
    struct change *change = change_new(cluster, reply);
    struct store_command *command = store_command_new();
    snprintf(change->node, sizeof(change->node), "%s", name);
    /* A role that somebody asked for is kept: nobody else decides it any more. */
    store_command_add_expecting(
        command, ERROR_NOT_FOUND, "the node was removed meanwhile",
        "UPDATE node SET role = ifnull(?1, role), eligible = CASE WHEN ?1 IS NULL THEN eligible "
        "ELSE 0 END, failure_domain = ifnull(?2, failure_domain), revision = ?3 WHERE id = ?4",
        "ttru", role_or_null, failure_domain_or_null, member->id);
    if (pool_or_null != NULL) {
        store_command_add(command, "UPDATE node SET pool = ? WHERE id = ?", "tu", pool_or_null,
                          member->id);
    }
    store_propose(cluster->store, command, on_written, change);
}

/* What a rule could not name would be a label without an effect; of before, one may be taken off.
 */
static int check_label(const char *label, const char *value, struct error *err)
{
    uint64_t cost = 0;
    if (!text_is_key(label) || strlen(value) > LABEL_VALUE_MAX || !text_is_printable(value)) {
        return error_set(err, ERROR_INVALID,
                         "a label is 1 to 63 of A-Z a-z 0-9 - _ . and /, and its value at most %d "
                         "bytes of UTF-8 without control characters",
                         LABEL_VALUE_MAX);
    }
    bool is_cost = strcmp(label, "cost") == 0;
    return is_cost && (!text_parse_u64(text_of(value, strlen(value)), &cost) || cost > UINT32_MAX)
        ? error_set(
              err, ERROR_INVALID,
              "the label cost is what a node costs, in any unit: a whole number up to %" PRIu32
              ", not \"%s\"",
              UINT32_MAX, value)
        : 0;
}

static int change_labels(const struct member *member, const char *label, const char *value,
                         struct buffer *ret_labels, struct error *err)
{
    JSON_OWNED json_t *labels = NULL;
    if (value != NULL && check_label(label, value, err) < 0) {
        return -(int)err->kind;
    }
    if (json_read(member->labels, strlen(member->labels), &labels, err) < 0) {
        return error_wrap(err, "the labels of node %s", member->name);
    }
    if (value == NULL && json_object_get(labels, label) == NULL) {
        return error_set(err, ERROR_NOT_FOUND, "node %s has no label %.64s", member->name, label);
    }
    if (value != NULL) {
        json_object_set_new(labels, label, json_string(value));
    } else {
        json_object_del(labels, label);
    }
    if (json_object_size(labels) > LABELS_MAX) {
        return error_set(err, ERROR_LIMIT, "a node has at most %d labels", LABELS_MAX);
    }
    char *text = json_dumps(labels, JSON_COMPACT | JSON_SORT_KEYS);
    CHECK(text != NULL);
    buffer_append_string(ret_labels, text);
    free(text);
    return 0;
}

void cluster_label_node(struct cluster *cluster, const char *name, const char *label,
                        const char *value_or_null, struct cluster_reply reply)
{
    struct error err = {0};
    struct member *member = NULL;
    BUFFER_OWNED struct buffer labels = {0};
    int r = find_node(cluster, name, &member, &err);
    r = r < 0 ? r : change_labels(member, label, value_or_null, &labels, &err);
    if (r < 0) {
        reply_error(cluster, reply, &err);
        return;
    }
    struct change *change = change_new(cluster, reply);
    struct store_command *command = store_command_new();
    if (value_or_null != NULL) {
        snprintf(change->node, sizeof(change->node), "%s", name);
    }
    store_command_add_expecting(command, ERROR_CONFLICT, "the labels were changed meanwhile",
                                "UPDATE node SET labels = ?, revision = ? WHERE id = ? AND labels "
                                "= ?",
                                "trut", buffer_string(&labels), member->id, member->labels);
    store_propose(cluster->store, command, on_written, change);
}

/* ---- Removing a node ---- */

#define HAS_MACHINES                                                                   \
    "the node still has machines: let them leave with `blixard node drain`; those of " \
    "a lost node are given up with `blixard vm delete NAME --force`"

static void remove_row(struct cluster *cluster, uint64_t id, const char *name,
                       struct cluster_reply reply)
{
    char key[24];
    snprintf(key, sizeof(key), "%" PRIu64, id);
    struct store_command *command = store_command_new();
    store_command_add_expecting(command, ERROR_NOT_FOUND, "the node was removed meanwhile",
                                "DELETE FROM node WHERE id = ?", "u", id);
    store_command_add_expecting(
        command, ERROR_CONFLICT, HAS_MACHINES,
        "INSERT INTO removed_node (key, name, removed_ms) SELECT ?1, ?2, ?3 WHERE NOT EXISTS "
        "(SELECT 1 FROM machine WHERE node = ?2)",
        "ttu", key, name, clock_real_ms());
    store_command_add(command, "DELETE FROM holder WHERE node = ?", "u", id);
    struct change *change = change_new(cluster, reply);
    if (id == cluster->identity.id && cluster->own_removal == NULL) {
        cluster->own_removal = change;
    }
    store_propose(cluster->store, command, on_written, change);
}

/* It will not see the command applied: the others have cut it off by then. */
void change_end_own_removal(struct cluster *cluster)
{
    if (cluster->own_removal != NULL) {
        cluster->own_removal->is_answered = true;
        reply_with(cluster, cluster->own_removal->reply, NULL);
        cluster->own_removal = NULL;
    }
}

struct departure {
    struct cluster *cluster;
    struct cluster_reply reply;
    uint64_t id;
    char name[CLUSTER_NAME_SIZE];
};

/* Who leads must not be the one that all others have cut off already. */
static void on_leader_moved(const struct error *error, void *context)
{
    struct departure *departure = context;
    if (error != NULL) {
        reply_error(departure->cluster, departure->reply, error);
    } else {
        remove_row(departure->cluster, departure->id, departure->name, departure->reply);
    }
    free(departure);
}

static bool is_only_server(const struct cluster *cluster, const struct member *member)
{
    struct store_status status;
    store_status(cluster->store, &status);
    size_t voters = 0;
    bool votes = false;
    for (size_t i = 0; i < status.server_count; i++) {
        voters += status.servers[i].votes;
        votes = votes || (status.servers[i].votes && status.servers[i].id == member->id);
    }
    return votes && voters == 1;
}

/* The command asks again; who leads is not moved for one that is refused. */
static int check_is_empty(struct cluster *cluster, const char *name, struct error *err)
{
    bool has_machines = false;
    int r = store_query(cluster->store, err, store_take_any, &has_machines,
                        "SELECT 1 FROM machine WHERE node = ? LIMIT 1", "t", name);
    return r < 0 || !has_machines ? r : error_set(err, ERROR_CONFLICT, HAS_MACHINES);
}

void cluster_remove_node(struct cluster *cluster, const char *name, struct cluster_reply reply)
{
    struct error err = {0};
    struct member *member = NULL;
    struct store_status status;
    int r = find_node(cluster, name, &member, &err);
    store_status(cluster->store, &status);
    r = r < 0 ? r : check_is_empty(cluster, name, &err);
    if (r == 0 && is_only_server(cluster, member)) {
        r = error_set(&err, ERROR_CONFLICT,
                      "%s is the only server: promote another first, or stop the cluster", name);
    }
    if (r < 0) {
        reply_error(cluster, reply, &err);
        return;
    }
    if (member->id != status.leader_id) {
        remove_row(cluster, member->id, name, reply);
        return;
    }
    struct departure *departure = NEW(struct departure);
    departure->cluster = cluster;
    departure->reply = reply;
    departure->id = member->id;
    snprintf(departure->name, sizeof(departure->name), "%s", name);
    store_transfer_leadership(cluster->store, 0, on_leader_moved, departure);
}

/* ---- Who leads ---- */

struct transfer {
    struct cluster *cluster;
    struct cluster_reply reply;
};

static void on_transferred(const struct error *error, void *context)
{
    struct transfer *transfer = context;
    BUFFER_OWNED struct buffer answer = {0};
    struct error err = {0};
    if (error != NULL) {
        reply_error(transfer->cluster, transfer->reply, error);
    } else {
        cluster_write(transfer->cluster, &answer, &err);
        reply_with(transfer->cluster, transfer->reply, &answer);
    }
    free(transfer);
}

void cluster_set_leader(struct cluster *cluster, const char *node_or_null,
                        struct cluster_reply reply)
{
    struct error err = {0};
    struct member *member = NULL;
    int r = node_or_null != NULL ? find_node(cluster, node_or_null, &member, &err)
                                 : check_member(cluster, &err);
    if (r < 0) {
        reply_error(cluster, reply, &err);
        return;
    }
    struct transfer *transfer = NEW(struct transfer);
    *transfer = (struct transfer){cluster, reply};
    store_transfer_leadership(cluster->store, member != NULL ? member->id : 0, on_transferred,
                              transfer);
}

/* ---- Tokens ---- */

/* This node first: it answers now. */
static void fill_token(struct cluster *cluster, struct cluster_token *token)
{
    struct certificate_info info = {0};
    struct error ignored = {0};
    certificate_read(cluster->identity.authority, &info, &ignored);
    snprintf(token->cluster, sizeof(token->cluster), "%s", cluster->identity.cluster);
    snprintf(token->fingerprint, sizeof(token->fingerprint), "%s", info.fingerprint);
    cluster_token_make_secret(token->secret);
    const struct member *self = member_self(cluster);
    snprintf(token->addresses[token->address_count++], sizeof(token->addresses[0]), "%s",
             self != NULL ? self->address : cluster->own_address);
    for (int servers = 1; servers >= 0; servers--) {
        for (size_t i = 0; i < cluster->member_count; i++) {
            const struct member *member = &cluster->members[i];
            if (member != self && member->wanted_server == (servers == 1) &&
                token->address_count < CLUSTER_TOKEN_ADDRESSES_MAX &&
                member->facts.health != CLUSTER_LOST && cluster_token_is_address(member->address)) {
                snprintf(token->addresses[token->address_count++], sizeof(token->addresses[0]),
                         "%s", member->address);
            }
        }
    }
}

static void write_token(const struct cluster_token *token, const char *role, uint64_t uses,
                        uint64_t now_ms, uint64_t ends_ms, struct buffer *out)
{
    BUFFER_OWNED struct buffer text = {0};
    struct json_writer writer = json_writer_to(out);
    cluster_token_write(token, &text);
    json_write_begin_object(&writer);
    json_write_field_string(&writer, "id", token->id);
    json_write_field_string(&writer, "role", role);
    json_write_field_u64(&writer, "uses", uses);
    json_write_field_time_ms(&writer, "created_at", now_ms);
    json_write_field_time_ms(&writer, "expires_at", ends_ms);
    json_write_field_string(&writer, "token", buffer_string(&text));
    json_write_end_object(&writer);
}

void cluster_create_token(struct cluster *cluster, const char *role_or_null, uint64_t ttl_ms,
                          uint64_t uses, struct cluster_reply reply)
{
    struct error err = {0};
    const char *role = role_or_null != NULL ? role_or_null : "server";
    uint64_t count = uses != 0 ? uses : 1;
    uint64_t life_ms = ttl_ms != 0 ? ttl_ms : TOKEN_TTL_MS;
    int r = check_member(cluster, &err);
    if (r == 0 && strcmp(role, "server") != 0 && strcmp(role, "worker") != 0) {
        r = error_set(&err, ERROR_INVALID, "$.role is server or worker, not \"%.32s\"", role);
    } else if (r == 0 && count > USES_MAX) {
        r = error_set(&err, ERROR_INVALID, "$.uses is at most %d", USES_MAX);
    } else if (r == 0 && life_ms > TOKEN_TTL_MAX_MS) {
        r = error_set(&err, ERROR_INVALID, "$.ttl is at most 720h");
    }
    if (r < 0) {
        reply_error(cluster, reply, &err);
        return;
    }
    char digest[65];
    uint64_t now_ms = clock_real_ms();
    struct cluster_token token = {0};
    fill_token(cluster, &token);
    cluster_token_make_id(token.id);
    cluster_token_digest(token.secret, digest);
    struct change *change = change_new(cluster, reply);
    write_token(&token, role, count, now_ms, now_ms + life_ms, &change->answer);
    explicit_bzero(&token.secret, sizeof(token.secret));
    struct store_command *command = store_command_new();
    store_command_add(command,
                      "INSERT INTO join_token (key, role, digest, uses, created_ms, expires_ms, "
                      "revision) VALUES (?, ?, ?, ?, ?, ?, ?)",
                      "tttuuur", token.id, role, digest, count, now_ms, now_ms + life_ms);
    store_propose(cluster->store, command, on_written, change);
}

void cluster_delete_token(struct cluster *cluster, const char *id, struct cluster_reply reply)
{
    struct store_command *command = store_command_new();
    store_command_add_expecting(command, ERROR_NOT_FOUND, "there is no such token",
                                "DELETE FROM join_token WHERE key = ?", "t", id);
    store_propose(cluster->store, command, on_written, change_new(cluster, reply));
}

/* ---- Clients ---- */

static int check_client(const struct cluster *cluster, const char *name, const char *kind,
                        uint64_t ttl_ms, struct error *err)
{
    int r = check_member(cluster, err);
    if (r == 0 && !text_is_name(name)) {
        r = error_set(err, ERROR_INVALID,
                      "$.name: \"%.64s\" is no name: a letter, then letters, digits and '-'", name);
    } else if (r == 0 && strcmp(kind, "certificate") != 0 && strcmp(kind, "token") != 0) {
        r = error_set(err, ERROR_INVALID, "$.kind is certificate or token, not \"%.32s\"", kind);
    } else if (r == 0 && ttl_ms > CLIENT_TTL_MAX_MS) {
        r = error_set(err, ERROR_INVALID, "$.ttl is at most 87600h");
    }
    return r;
}

void cluster_create_client(struct cluster *cluster, const char *name, const char *kind,
                           uint64_t ttl_ms, struct cluster_reply reply)
{
    struct error err = {0};
    if (check_client(cluster, name, kind, ttl_ms, &err) < 0) {
        reply_error(cluster, reply, &err);
        return;
    }
    char digest[65];
    uint64_t now_ms = clock_real_ms();
    uint64_t ends_ms = now_ms + (ttl_ms != 0 ? ttl_ms : CLIENT_TTL_MS);
    struct cluster_token token = {.is_bearer = strcmp(kind, "token") == 0};
    BUFFER_OWNED struct buffer text = {0};
    fill_token(cluster, &token);
    snprintf(token.client, sizeof(token.client), "%s", name);
    cluster_token_digest(token.secret, digest);
    cluster_token_write(&token, &text);
    explicit_bzero(&token.secret, sizeof(token.secret));
    struct change *change = change_new(cluster, reply);
    struct json_writer writer = json_writer_to(&change->answer);
    json_write_begin_object(&writer);
    json_write_field_string(&writer, "name", name);
    json_write_field_string(&writer, "kind", kind);
    json_write_field_bool(&writer, "logged_in", false);
    json_write_field_time_ms(&writer, "created_at", now_ms);
    json_write_field_time_ms(&writer, "expires_at", ends_ms);
    json_write_field_string(&writer, "token", buffer_string(&text));
    json_write_end_object(&writer);
    struct store_command *command = store_command_new();
    store_command_add_expecting(
        command, ERROR_EXISTS, "there is a client of that name: delete it first",
        "INSERT INTO client (key, kind, digest, created_ms, expires_ms, revision) SELECT ?1, ?2, "
        "?3, ?4, ?5, ?6 WHERE NOT EXISTS (SELECT 1 FROM client WHERE key = ?1)",
        "tttuur", name, kind, digest, now_ms, ends_ms);
    store_propose(cluster->store, command, on_written, change);
}

void cluster_delete_client(struct cluster *cluster, const char *name, struct cluster_reply reply)
{
    struct store_command *command = store_command_new();
    store_command_add_expecting(command, ERROR_NOT_FOUND, "there is no such client",
                                "DELETE FROM client WHERE key = ?", "t", name);
    store_propose(cluster->store, command, on_written, change_new(cluster, reply));
}
