/*
 * Those who let in: a node that joins with a token, a client that logs in.  Any node may be asked;
 * a server does it, because it can sign.  Who asks is a stranger until its secret was found right.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/certificate.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/text.h"

#include "service/cluster/parts.h"

/* ---- To a server ---- */

struct carried {
    struct cluster *cluster;
    struct cluster_reply reply;
};

static void on_carried(const json_t *answer, const struct error *error, void *context)
{
    struct carried *carried = context;
    BUFFER_OWNED struct buffer text = {0};
    if (error != NULL) {
        reply_error(carried->cluster, carried->reply, error);
    } else {
        char *dumped = json_dumps(answer, JSON_COMPACT);
        buffer_append_string(&text, dumped != NULL ? dumped : "{}");
        free(dumped);
        reply_with(carried->cluster, carried->reply, &text);
    }
    free(carried);
}

/* A server that has it in its row, but no key yet, carries nothing on: no circles. */
static void carry(struct cluster *cluster, const char *target, const json_t *body,
                  struct cluster_reply reply)
{
    struct error err = {0};
    const struct member *self = member_self(cluster);
    uint64_t signer = member_signer(cluster, cluster->renew_attempts++);
    if (signer == 0 || (self != NULL && self->wanted_server)) {
        error_set(&err, ERROR_UNAVAILABLE, "no server is known that could do it: try again");
        reply_error(cluster, reply, &err);
        return;
    }
    char *dumped = json_dumps(body, JSON_COMPACT);
    CHECK(dumped != NULL);
    BUFFER_OWNED struct buffer text = {0};
    buffer_append_string(&text, dumped);
    free(dumped);
    struct carried *carried = NEW(struct carried);
    *carried = (struct carried){cluster, reply};
    call_node(cluster, signer, "POST", target, &text, on_carried, carried);
}

static int check_member(const struct cluster *cluster, struct error *err)
{
    return cluster->is_member && cluster->store != NULL
        ? 0
        : error_set(err, ERROR_UNAVAILABLE, "this node is in no cluster");
}

/* ---- A node ---- */

struct token_row {
    bool is_there;
    bool is_server;
    char digest[65];
    uint64_t uses;
    uint64_t expires_ms;
};

static bool take_token(sqlite3_stmt *row, void *context)
{
    struct token_row *token = context;
    token->is_there = true;
    token->is_server = strcmp((const char *)sqlite3_column_text(row, 0), "server") == 0;
    snprintf(token->digest, sizeof(token->digest), "%s", sqlite3_column_text(row, 1));
    token->uses = (uint64_t)sqlite3_column_int64(row, 2);
    token->expires_ms = (uint64_t)sqlite3_column_int64(row, 3);
    return false;
}

/* Who does not know the secret learns nothing about the token. */
static int check_token(struct cluster *cluster, const json_t *join, bool is_again,
                       struct token_row *token, struct error *err)
{
    int r = store_query(cluster->store, err, take_token, token,
                        "SELECT role, digest, uses, expires_ms FROM join_token WHERE key = ?", "t",
                        json_text(join, "token"));
    if (r < 0) {
        return r;
    }
    if (!token->is_there || !cluster_token_is_secret(json_text(join, "secret"), token->digest)) {
        return error_set(err, ERROR_DENIED,
                         "the token is not known here, or was revoked: make another with `blixard "
                         "node token create`");
    }
    if (token->expires_ms <= clock_real_ms()) {
        return error_set(err, ERROR_DENIED,
                         "the token has expired: make another with `blixard "
                         "node token create`");
    }
    if (token->uses == 0 && !is_again) {
        return error_set(err, ERROR_DENIED,
                         "the token is used up: make another with `blixard "
                         "node token create`");
    }
    return 0;
}

static bool is_short(const json_t *join, const char *key, size_t size)
{
    const char *text = json_text(join, key);
    return strlen(text) < size && text_is_printable(text);
}

static const struct member *find_at(const struct cluster *cluster, const char *address)
{
    for (size_t i = 0; i < cluster->member_count; i++) {
        if (strcmp(cluster->members[i].address, address) == 0) {
            return &cluster->members[i];
        }
    }
    return NULL;
}

static int check_newcomer(struct cluster *cluster, const json_t *join, uint64_t id, bool *is_again,
                          struct error *err)
{
    const char *name = json_text(join, "name");
    if (!text_is_name(name)) {
        return error_set(err, ERROR_INVALID,
                         "node_name: \"%.64s\" is no name: a letter, then letters, digits and '-'",
                         name);
    }
    if (!cluster_token_is_address(json_text(join, "address"))) {
        return error_set(err, ERROR_INVALID, "$.address: \"%.64s\" is no HOST:PORT",
                         json_text(join, "address"));
    }
    if (!is_short(join, "gateway", CLUSTER_ADDRESS_SIZE) || !is_short(join, "version", 64) ||
        !is_short(join, "failure_domain", 64)) {
        return error_set(err, ERROR_INVALID,
                         "gateway, version and failure_domain are printable and short");
    }
    member_look(cluster);
    const struct member *same = member_find_name(cluster, name);
    *is_again = same != NULL && same->id == id; /* its answer was lost on the way */
    if (same != NULL && !*is_again) {
        return error_set(err, ERROR_EXISTS,
                         "there is a node %s already: take another node_name, or remove that one "
                         "first with `blixard node remove %s`",
                         name, name);
    }
    const struct member *there = find_at(cluster, json_text(join, "address"));
    if (there != NULL && there->id != id) {
        return error_set(err, ERROR_EXISTS,
                         "node %s is at %s: say at which address the others reach this one with "
                         "--advertise-address, or remove that one first with `blixard node remove "
                         "%s`",
                         there->name, there->address, there->name);
    }
    if (cluster->member_count >= CLUSTER_PEERS_MAX) {
        return error_set(err, ERROR_LIMIT, "a cluster has at most %d nodes", CLUSTER_PEERS_MAX);
    }
    return 0;
}

static int check_schema(struct cluster *cluster, const json_t *join, uint64_t *ret_schema,
                        struct error *err)
{
    unsigned now = store_schema_now(cluster->store);
    if (!message_take_u64(join, "schema", ret_schema) || *ret_schema > 1000000) {
        return error_set(err, ERROR_INVALID, "$.schema is a version of the state");
    }
    return *ret_schema >= now
        ? 0
        : error_set(err, ERROR_UNSUPPORTED,
                    "the cluster's state is of schema %u, Blixard %.32s knows %" PRIu64
                    ": upgrade the node first",
                    now, json_text(join, "version"), *ret_schema);
}

struct admission {
    struct cluster *cluster;
    struct cluster_reply reply;
    struct buffer answer;
};

static void on_admitted(const struct error *error, uint64_t index, void *context)
{
    struct admission *admission = context;
    (void)index;
    if (error != NULL) {
        reply_error(admission->cluster, admission->reply, error);
    } else {
        reply_with(admission->cluster, admission->reply, &admission->answer);
    }
    buffer_done(&admission->answer);
    free(admission);
}

static void write_joined(struct cluster *cluster, uint64_t id, const char *certificate,
                         struct buffer *out)
{
    struct json_writer writer = json_writer_to(out);
    json_write_begin_object(&writer);
    json_write_field_string(&writer, "cluster", cluster->identity.cluster);
    json_write_field_string(&writer, "cluster_name", cluster->identity.cluster_name);
    describe_id(&writer, "id", id);
    /* Everybody begins as a worker: it has the state at once, and the leader makes it a server
     * when one is needed. */
    json_write_field_string(&writer, "role", "worker");
    json_write_field_string(&writer, "certificate", certificate);
    json_write_field_string(&writer, "authority", cluster->identity.authority);
    json_write_key(&writer, "peers");
    describe_peers(cluster, &writer, id);
    json_write_end_object(&writer);
}

static void add_node(struct store_command *command, const json_t *join, uint64_t id,
                     uint64_t schema, const struct token_row *token,
                     const struct certificate_info *info)
{
    store_command_add_schema_limit(command, (unsigned)schema);
    /* Used once less, in the same command: of two at once one fails. */
    store_command_add_expecting(
        command, ERROR_DENIED,
        "the token is used up: make another with `blixard node token create`",
        "UPDATE join_token SET uses = uses - 1, revision = ? WHERE key = ? AND uses > 0 AND digest "
        "= ?",
        "rtt", json_text(join, "token"), token->digest);
    store_command_add_expecting(
        command, ERROR_EXISTS, "there is a node of that name already",
        "INSERT INTO node (key, id, address, gateway, role, eligible, failure_domain, labels, "
        "version, schema, fingerprint, expires_ms, joined_ms, revision) SELECT ?1, ?2, ?3, ?4, "
        "'worker', ?5, ?6, '{}', ?7, ?8, ?9, ?10, ?11, ?12 WHERE NOT EXISTS (SELECT 1 FROM node "
        "WHERE key = ?1 OR id = ?2) AND NOT EXISTS (SELECT 1 FROM removed_node WHERE key = CAST(?2 "
        "AS TEXT))",
        "tuttittutuur", json_text(join, "name"), id, json_text(join, "address"),
        json_text(join, "gateway"), (int64_t)token->is_server, json_text(join, "failure_domain"),
        json_text(join, "version"), schema, info->fingerprint, info->not_after_ms, clock_real_ms());
}

static int join(struct cluster *cluster, const json_t *body, struct cluster_reply reply,
                struct error *err)
{
    const char *request = json_text(body, "request");
    uint64_t id = authority_id_of(request);
    uint64_t schema = 0;
    bool is_again = false;
    struct token_row token = {0};
    struct error newcomer = {0};
    struct certificate_info info;
    BUFFER_OWNED struct buffer certificate = {0};
    char uri[128];
    identity_format_uri(cluster->identity.cluster, id, uri, sizeof(uri));
    const struct authority_subject subject = {.request = request,
                                              .common_name = json_text(body, "name"),
                                              .uri = uri,
                                              .address = json_text(body, "address"),
                                              .lifetime_ms = cluster->certificate_lifetime_ms};
    int found = check_newcomer(cluster, body, id, &is_again, &newcomer);
    int r = check_token(cluster, body, is_again, &token, err);
    if (r == 0 && found < 0) {
        *err = newcomer;
        r = found;
    }
    r = r < 0 ? r : check_schema(cluster, body, &schema, err);
    r = r < 0 ? r : authority_sign(cluster, &subject, &certificate, err);
    r = r < 0 ? r : certificate_read(buffer_string(&certificate), &info, err);
    if (r < 0) {
        return r;
    }
    struct admission *admission = NEW(struct admission);
    admission->cluster = cluster;
    admission->reply = reply;
    write_joined(cluster, id, buffer_string(&certificate), &admission->answer);
    struct store_command *command = store_command_new();
    if (is_again) {
        store_command_add_expecting(command, ERROR_NOT_FOUND, "the node was removed meanwhile",
                                    "UPDATE node SET fingerprint = ?, expires_ms = ?, revision = ? "
                                    "WHERE id = ?",
                                    "turu", info.fingerprint, info.not_after_ms, id);
    } else {
        log_info("cluster: node %s asks to join with token %s", json_text(body, "name"),
                 json_text(body, "token"));
        add_node(command, body, id, schema, &token, &info);
    }
    store_propose(cluster->store, command, on_admitted, admission);
    return 0;
}

/* By a server, which can sign; another node carries it to one. */
static void admit(struct cluster *cluster, const char *path, const json_t *body,
                  struct cluster_reply reply,
                  int (*decide)(struct cluster *cluster, const json_t *body,
                                struct cluster_reply reply, struct error *err))
{
    struct error err = {0};
    int r = check_member(cluster, &err);
    if (r == 0 && !cluster->identity.has_servers_key) {
        carry(cluster, path, body, reply);
        return;
    }
    r = r < 0 ? r : decide(cluster, body, reply, &err);
    if (r < 0) {
        reply_error(cluster, reply, &err);
    }
}

void cluster_join(struct cluster *cluster, const json_t *body, struct cluster_reply reply)
{
    admit(cluster, "/v1/join", body, reply, join);
}

/* ---- A client ---- */

struct client_row {
    bool is_there;
    char digest[65];
    uint64_t expires_ms;
};

static bool take_client(sqlite3_stmt *row, void *context)
{
    struct client_row *client = context;
    const char *digest = (const char *)sqlite3_column_text(row, 0);
    client->is_there = digest != NULL;
    snprintf(client->digest, sizeof(client->digest), "%s", digest != NULL ? digest : "");
    client->expires_ms = (uint64_t)sqlite3_column_int64(row, 1);
    return false;
}

static void write_logged_in(struct cluster *cluster, const char *certificate, struct buffer *out)
{
    struct json_writer writer = json_writer_to(out);
    json_write_begin_object(&writer);
    json_write_field_string(&writer, "cluster", cluster->identity.cluster);
    json_write_field_string(&writer, "cluster_name", cluster->identity.cluster_name);
    json_write_field_string(&writer, "certificate", certificate);
    json_write_field_string(&writer, "authority", cluster->identity.authority);
    json_write_key(&writer, "peers");
    describe_peers(cluster, &writer, 0);
    json_write_end_object(&writer);
}

static int login(struct cluster *cluster, const json_t *body, struct cluster_reply reply,
                 struct error *err)
{
    const char *name = json_text(body, "client");
    uint64_t now_ms = clock_real_ms();
    struct client_row client = {0};
    int r = store_query(cluster->store, err, take_client, &client,
                        "SELECT digest, expires_ms FROM client WHERE key = ? AND kind = "
                        "'certificate'",
                        "t", name);
    if (r == 0 &&
        (!client.is_there || !cluster_token_is_secret(json_text(body, "secret"), client.digest))) {
        r = error_set(err, ERROR_DENIED,
                      "the login token is not known, was used or revoked: make another with "
                      "`blixard client create`");
    } else if (r == 0 && client.expires_ms <= now_ms) {
        r = error_set(err, ERROR_DENIED, "the client has ended: make it anew");
    }
    if (r < 0) {
        return r;
    }
    char uri[192];
    struct certificate_info info;
    BUFFER_OWNED struct buffer certificate = {0};
    snprintf(uri, sizeof(uri), "spiffe://%s/client/%.63s", cluster->identity.cluster, name);
    const struct authority_subject subject = {.request = json_text(body, "request"),
                                              .common_name = name,
                                              .uri = uri,
                                              .lifetime_ms = client.expires_ms - now_ms};
    r = authority_sign(cluster, &subject, &certificate, err);
    r = r < 0 ? r : certificate_read(buffer_string(&certificate), &info, err);
    if (r < 0) {
        return r;
    }
    struct admission *admission = NEW(struct admission);
    admission->cluster = cluster;
    admission->reply = reply;
    write_logged_in(cluster, buffer_string(&certificate), &admission->answer);
    struct store_command *command = store_command_new();
    store_command_add_expecting(command, ERROR_DENIED,
                                "the login token was used: make another with `blixard client "
                                "create`",
                                "UPDATE client SET digest = NULL, fingerprint = ?, revision = ? "
                                "WHERE key = ? AND digest = ?",
                                "trtt", info.fingerprint, name, client.digest);
    store_propose(cluster->store, command, on_admitted, admission);
    return 0;
}

void cluster_login(struct cluster *cluster, const json_t *body, struct cluster_reply reply)
{
    admit(cluster, "/v1/login", body, reply, login);
}
