#include "service/cluster/caller.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "base/error.h"
#include "base/stream/tls.h"
#include "base/text.h"

#include "engine/store/store.h"

#include "service/cluster/token.h"

/* ---- Rows ---- */

struct found {
    bool found;
    char text[128];
    char name[64];
    uint64_t expires_ms;
};

/* Columns: a text, a name, when it ends. */
static bool take_row(sqlite3_stmt *row, void *context)
{
    struct found *found = context;
    const char *text = (const char *)sqlite3_column_text(row, 0);
    const char *name = (const char *)sqlite3_column_text(row, 1);
    snprintf(found->text, sizeof(found->text), "%s", text != NULL ? text : "");
    snprintf(found->name, sizeof(found->name), "%s", name != NULL ? name : "");
    found->expires_ms = (uint64_t)sqlite3_column_int64(row, 2);
    found->found = true;
    return false;
}

/* Who is not found in a state that is old may be in the one that others have. */
static int judge_absent(struct store *store, int r, struct error *err)
{
    struct store_status status;
    if (r != -ERROR_DENIED && r != -ERROR_UNAUTHENTICATED) {
        return r;
    }
    store_status(store, &status);
    return status.ready ? r
                        : error_set(err, ERROR_UNAVAILABLE,
                                    "this node has just started and does not know yet who is let "
                                    "in: ask another, or again soon");
}

/* ---- By certificate ---- */

/* What follows "spiffe://CLUSTER/" in an identity; NULL: it is not of this cluster. */
static const char *inside_cluster(const char *identity, const char *cluster)
{
    static const char scheme[] = "spiffe://";
    size_t length = strlen(cluster);
    if (length == 0 || !text_starts_with(identity, scheme)) {
        return NULL;
    }
    const char *at = identity + strlen(scheme);
    return strncmp(at, cluster, length) == 0 && at[length] == '/' ? at + length + 1 : NULL;
}

/* One way to write an id: no leading zeros. */
static bool parse_id(const char *text, uint64_t *ret_id)
{
    return text_parse_u64(text_of(text, strlen(text)), ret_id) &&
        (text[0] != '0' || text[1] == '\0');
}

static int find_node(struct store *store, const char *id_text, struct caller *ret_caller,
                     struct error *err)
{
    uint64_t id = 0;
    struct found node = {0};
    struct found removed = {0};
    if (!parse_id(id_text, &id)) {
        return error_set(err, ERROR_DENIED, "the certificate names no node");
    }
    int r = store_query(store, err, take_row, &node, "SELECT '', key, 0 FROM node WHERE id = ?1",
                        "u", id);
    if (r == 0 && !node.found) {
        r = store_query(store, err, take_row, &removed,
                        "SELECT '', name, 0 FROM removed_node WHERE key = ?1", "t", id_text);
    }
    if (r < 0) {
        return r;
    }
    if (removed.found) {
        return error_set(err, ERROR_DENIED,
                         "node %s (%" PRIu64 ") " CALLER_REMOVED_TEXT ": to let it in again, "
                         "empty its data folder and join with a new token",
                         removed.name, id);
    }
    if (!node.found) {
        return error_set(err, ERROR_DENIED, "the cluster knows no node with id %" PRIu64, id);
    }
    *ret_caller = (struct caller){.kind = CALLER_NODE, .node = id};
    snprintf(ret_caller->name, sizeof(ret_caller->name), "%s", node.name);
    return 0;
}

static int find_client(struct store *store, const char *name, const char *fingerprint,
                       uint64_t now_ms, struct caller *ret_caller, struct error *err)
{
    struct found client = {0};
    int r = store_query(store, err, take_row, &client,
                        "SELECT fingerprint, key, expires_ms FROM client "
                        "WHERE key = ?1 AND kind = 'certificate'",
                        "t", name);
    if (r < 0) {
        return r;
    }
    if (!client.found || strcmp(client.text, fingerprint) != 0) {
        return error_set(err, ERROR_UNAUTHENTICATED,
                         "the certificate of client %.63s was revoked or replaced: log in again",
                         name);
    }
    if (client.expires_ms <= now_ms) {
        return error_set(err, ERROR_UNAUTHENTICATED, "client %.63s has ended: log in again", name);
    }
    *ret_caller = (struct caller){.kind = CALLER_CLIENT};
    snprintf(ret_caller->name, sizeof(ret_caller->name), "%s", client.name);
    return 0;
}

static int find_peer(struct store *store, const struct tls_peer *peer, uint64_t now_ms,
                     struct caller *ret_caller, struct error *err)
{
    struct found cluster = {0};
    int r = store_query(store, err, take_row, &cluster, "SELECT id, name, 0 FROM cluster", "");
    if (r < 0) {
        return r;
    }
    const char *inside = inside_cluster(peer->identity, cluster.text);
    if (inside != NULL && text_starts_with(inside, "node/")) {
        return find_node(store, inside + strlen("node/"), ret_caller, err);
    }
    if (inside != NULL && text_starts_with(inside, "client/")) {
        return find_client(store, inside + strlen("client/"), peer->fingerprint, now_ms, ret_caller,
                           err);
    }
    return error_set(err, ERROR_DENIED, "the certificate is of nobody in this cluster");
}

int caller_by_certificate(struct store *store, const struct tls_peer *peer, uint64_t now_ms,
                          struct caller *ret_caller, struct error *err)
{
    int r = find_peer(store, peer, now_ms, ret_caller, err);
    return judge_absent(store, r, err);
}

/* ---- By secret ---- */

/* Found by its digest: how long that takes tells about digests, from which no secret follows. */
static int find_secret(struct store *store, const char *secret, uint64_t now_ms,
                       struct caller *ret_caller, struct error *err)
{
    char digest[65];
    struct found client = {0};
    cluster_token_digest(secret, digest);
    int r = store_query(store, err, take_row, &client,
                        "SELECT digest, key, expires_ms FROM client "
                        "WHERE kind = 'token' AND digest = ?1",
                        "t", digest);
    if (r < 0) {
        return r;
    }
    if (!client.found || !cluster_token_is_secret(secret, client.text)) {
        return error_set(err, ERROR_UNAUTHENTICATED, "the token is not known, or was revoked");
    }
    if (client.expires_ms <= now_ms) {
        return error_set(err, ERROR_UNAUTHENTICATED, "the token of client %s has ended",
                         client.name);
    }
    *ret_caller = (struct caller){.kind = CALLER_CLIENT};
    snprintf(ret_caller->name, sizeof(ret_caller->name), "%s", client.name);
    return 0;
}

int caller_by_secret(struct store *store, const char *token, uint64_t now_ms,
                     struct caller *ret_caller, struct error *err)
{
    struct cluster_token parsed;
    struct error problem = {0};
    const char *secret = token;
    if (text_starts_with(token, CLUSTER_TOKEN_PREFIX)) {
        if (cluster_token_read(token, &parsed, &problem) < 0) {
            return error_set(err, ERROR_UNAUTHENTICATED, "%s", problem.text);
        }
        secret = parsed.secret;
    }
    int r = find_secret(store, secret, now_ms, ret_caller, err);
    return judge_absent(store, r, err);
}

/* ---- What it may ---- */

int caller_may(const struct caller *caller, const char *permission, struct error *err)
{
    CHECK(caller->kind < CALLER_KIND_COUNT);
    if (strcmp(permission, "public") == 0) {
        return 0;
    }
    bool is_node = caller->kind == CALLER_NODE;
    if (caller->kind == CALLER_NOBODY) {
        return error_set(err, ERROR_UNAUTHENTICATED,
                         "who asks? Show a client certificate (blixard login) or a bearer token");
    }
    if (strcmp(permission, "peer") == 0 && !is_node) {
        return error_set(err, ERROR_DENIED, "this operation is one between nodes");
    }
    if (text_ends_with(permission, ":admin") && is_node) {
        return error_set(err, ERROR_DENIED, "node %s may not do this: it needs %s", caller->name,
                         permission);
    }
    return 0;
}
