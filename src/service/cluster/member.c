/*
 * The nodes: rows of the state, and what is known of each beside.  Read anew after each change of
 * the state that may concern them; who is not here any more is cut off at once.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/hash.h"
#include "base/text.h"

#include "service/cluster/parts.h"

struct loading {
    struct member *members;
    size_t count;
    struct buffer digest; /* of all columns */
};

static void copy_column(sqlite3_stmt *row, int index, char *ret_text, size_t size)
{
    const char *text = (const char *)sqlite3_column_text(row, index);
    snprintf(ret_text, size, "%s", text != NULL ? text : "");
}

static uint64_t number(sqlite3_stmt *row, int index)
{
    return (uint64_t)sqlite3_column_int64(row, index);
}

/* They are shown as they are: what is no object is none. */
static char *copy_labels(sqlite3_stmt *row, int index)
{
    JSON_OWNED json_t *labels = NULL;
    struct error ignored = {0};
    const char *text = (const char *)sqlite3_column_text(row, index);
    bool is_good = text != NULL && json_read(text, strlen(text), &labels, &ignored) == 0 &&
        json_is_object(labels);
    return memory_copy_string(is_good ? text : "{}");
}

/* Columns since version 8; what a node wrote is shown as it is, where it is JSON. */
static char *copy_json(sqlite3_stmt *row, int index, const char *otherwise)
{
    JSON_OWNED json_t *value = NULL;
    struct error ignored = {0};
    const char *text = (const char *)sqlite3_column_text(row, index);
    bool is_good = text != NULL && json_read(text, strlen(text), &value, &ignored) == 0;
    return is_good          ? memory_copy_string(text)
        : otherwise != NULL ? memory_copy_string(otherwise)
                            : NULL;
}

/* Where it is: a label says it rather than its own settings, as in placement. */
static void take_place(struct member *member)
{
    JSON_OWNED json_t *labels = NULL;
    JSON_OWNED json_t *attributes = NULL;
    struct error ignored = {0};
    json_read(member->labels, strlen(member->labels), &labels, &ignored);
    json_read(member->attributes, strlen(member->attributes), &attributes, &ignored);
    const json_t *topology = json_object_get(attributes, "topology");
    const char *zone = json_text(labels, "zone");
    const char *rack = json_text(labels, "rack");
    snprintf(member->zone, sizeof(member->zone), "%s",
             zone[0] != '\0' ? zone : json_text(topology, "zone"));
    snprintf(member->rack, sizeof(member->rack), "%s",
             rack[0] != '\0' ? rack : json_text(topology, "rack"));
}

static void take_duty(sqlite3_stmt *row, struct member *member)
{
    copy_column(row, 12, member->pool, sizeof(member->pool));
    member->duty = duty_parse((const char *)sqlite3_column_text(row, 13));
    member->taints = copy_json(row, 14, "[]");
    member->attributes = copy_json(row, 15, "{}");
    member->drain = copy_json(row, 16, NULL);
    take_place(member);
}

static bool take_row(sqlite3_stmt *row, void *context)
{
    struct loading *loading = context;
    const char *name = (const char *)sqlite3_column_text(row, 0);
    if (sqlite3_column_int64(row, 1) <= 0 || name == NULL || !text_is_name(name)) {
        return true; /* no node wrote this of itself, and none could be called that */
    }
    if (loading->count % 16 == 0) {
        loading->members =
            memory_resize(loading->members, (loading->count + 16) * sizeof(struct member));
    }
    struct member *member = &loading->members[loading->count++];
    *member = (struct member){0};
    copy_column(row, 0, member->name, sizeof(member->name));
    member->id = number(row, 1);
    copy_column(row, 2, member->address, sizeof(member->address));
    copy_column(row, 3, member->gateway, sizeof(member->gateway));
    member->wanted_server = strcmp((const char *)sqlite3_column_text(row, 4), "server") == 0;
    member->is_eligible = sqlite3_column_int(row, 5) != 0;
    copy_column(row, 6, member->failure_domain, sizeof(member->failure_domain));
    member->labels = copy_labels(row, 7);
    copy_column(row, 8, member->version, sizeof(member->version));
    member->schema = (unsigned)sqlite3_column_int(row, 9);
    member->expires_ms = number(row, 10);
    member->joined_ms = number(row, 11);
    take_duty(row, member);
    buffer_append_format(
        &loading->digest,
        "%" PRIu64 "\n%s\n%s\n%s\n%d%d\n%s\n%s\n%s\n%u\n%" PRIu64 "\n%s\n%d\n%s\n%s\n%s\n",
        member->id, member->name, member->address, member->gateway, member->wanted_server,
        member->is_eligible, member->failure_domain, member->labels, member->version,
        member->schema, member->expires_ms, member->pool, (int)member->duty, member->taints,
        member->attributes, member->drain != NULL ? member->drain : "");
    return loading->count < CLUSTER_PEERS_MAX;
}

static bool take_cluster(sqlite3_stmt *row, void *context)
{
    struct cluster *cluster = context;
    cluster->servers_wanted = (unsigned)sqlite3_column_int(row, 0);
    cluster->written_reign = number(row, 1);
    return false;
}

/* ---- What changed ---- */

static const struct member *find_in(const struct member *members, size_t count, uint64_t id)
{
    for (size_t i = 0; i < count; i++) {
        if (members[i].id == id) {
            return &members[i];
        }
    }
    return NULL;
}

static void keep_what_was_known(struct member *now, const struct member *before, size_t count)
{
    const struct member *same = find_in(before, count, now->id);
    if (same != NULL) {
        now->facts = same->facts;
        now->rtt_us = same->rtt_us;
        now->unreached = strcmp(now->address, same->address) == 0 ? same->unreached : 0;
        now->part = same->part;
        now->part_since_ms = same->part_since_ms;
        now->was_told_lost = same->was_told_lost;
        now->appeared_ms = same->appeared_ms;
    } else {
        now->appeared_ms = clock_boot_ms();
    }
}

static void free_members(struct member *members, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        free(members[i].labels);
        free(members[i].taints);
        free(members[i].attributes);
        free(members[i].drain);
    }
    free(members);
}

static bool is_current(struct cluster *cluster)
{
    struct store_status status = {0};
    if (cluster->store != NULL) {
        store_status(cluster->store, &status);
    }
    return status.ready;
}

static bool are_same_peers(const struct identity *identity, const struct identity_peer *peers,
                           size_t count)
{
    bool same = identity->peer_count == count;
    for (size_t i = 0; same && i < count; i++) {
        const struct identity_peer *now = &peers[i];
        const struct identity_peer *before = &identity->peers[i];
        same = now->id == before->id && now->is_server == before->is_server &&
            strcmp(now->name, before->name) == 0 && strcmp(now->address, before->address) == 0;
    }
    return same;
}

/* For the next start, when the state is not there yet.  Written only when it is news: a disk waits
 * for it. */
static void remember_peers(struct cluster *cluster)
{
    if (!is_current(cluster) || cluster->member_count == 0) {
        return; /* what was remembered is newer than these rows */
    }
    struct identity *identity = &cluster->identity;
    struct identity_peer *peers =
        memory_new(cluster->member_count + 1, sizeof(struct identity_peer));
    size_t count = 0;
    for (size_t i = 0; i < cluster->member_count; i++) {
        const struct member *member = &cluster->members[i];
        if (member->id == identity->id) {
            continue;
        }
        struct identity_peer *peer = &peers[count++];
        peer->id = member->id;
        peer->is_server = member->wanted_server;
        snprintf(peer->name, sizeof(peer->name), "%s", member->name);
        snprintf(peer->address, sizeof(peer->address), "%s", member->address);
    }
    if (are_same_peers(identity, peers, count)) {
        free(peers);
        return;
    }
    free(identity->peers);
    identity->peers = peers;
    identity->peer_count = count;
    struct error err = {0};
    if (identity_write_facts(cluster->folder, identity, &err) < 0) {
        log_warn("cluster: the other nodes cannot be remembered: %s", err.text);
    }
}

/* All servers, the nearest first: the picture is in that order. */
void member_tell_servers(struct cluster *cluster)
{
    uint64_t ids[64];
    size_t count = 0;
    if (cluster->store == NULL || cluster->member_count == 0) {
        return;
    }
    const struct cluster_view *view = cluster->view;
    for (size_t i = 0; i < view->count && count < sizeof(ids) / sizeof(ids[0]); i++) {
        if (view->nodes[i].is_server && !view->nodes[i].is_self) {
            ids[count++] = view->nodes[i].id;
        }
    }
    store_set_servers(cluster->store, ids, count);
}

static void cut_off_the_removed(struct cluster *cluster, const struct member *before, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (before[i].id != cluster->identity.id &&
            find_in(cluster->members, cluster->member_count, before[i].id) == NULL) {
            log_info("cluster: node %s (%" PRIu64 ") is not in the cluster any more",
                     before[i].name, before[i].id);
            liveness_forget(&cluster->leader, before[i].id);
            store_forget_node(cluster->store, before[i].id);
        }
    }
}

static bool take_count(sqlite3_stmt *row, void *context)
{
    *(uint64_t *)context = number(row, 0);
    return false;
}

bool member_was_removed(struct cluster *cluster, uint64_t id)
{
    struct error ignored = {0};
    uint64_t count = 0;
    char key[24];
    snprintf(key, sizeof(key), "%" PRIu64, id);
    return cluster->store != NULL &&
        store_query(cluster->store, &ignored, take_count, &count,
                    "SELECT count(*) FROM removed_node WHERE key = ?", "t", key) == 0 &&
        count > 0;
}

#define ALL_COLUMNS                                                                       \
    "SELECT key, id, address, gateway, role, eligible, failure_domain, labels, version, " \
    "schema, expires_ms, joined_ms"
#define ORDER " FROM node ORDER BY key"

void member_reload(struct cluster *cluster)
{
    struct error ignored = {0}; /* the tables come with the state */
    struct loading loading = {0};
    if (cluster->store == NULL || !cluster->is_member) {
        return;
    }
    store_query(cluster->store, &ignored, take_cluster, cluster,
                "SELECT servers, reign FROM cluster", "");
    store_query(cluster->store, &ignored, take_row, &loading,
                duty_is_known(cluster) ? ALL_COLUMNS ", pool, duty, taints, attributes, drain" ORDER
                                       : ALL_COLUMNS
                    ", 'default', 'active', '[]', '{}', NULL" ORDER,
                "");
    char digest[HASH_TEXT_SIZE];
    hash_bytes(loading.digest.data, loading.digest.used, digest);
    buffer_done(&loading.digest);
    if (loading.count == 0 || strcmp(digest, cluster->rows_digest) == 0) {
        free_members(loading.members, loading.count);
        remember_peers(cluster);
        return;
    }
    memcpy(cluster->rows_digest, digest, sizeof(digest));
    struct member *before = cluster->members;
    size_t count_before = cluster->member_count;
    cluster->members = loading.members;
    cluster->member_count = loading.count;
    for (size_t i = 0; i < loading.count; i++) {
        keep_what_was_known(&loading.members[i], before, count_before);
    }
    cut_off_the_removed(cluster, before, count_before);
    free_members(before, count_before);
    remember_peers(cluster);
    view_update(cluster);
    if (member_self(cluster) == NULL && member_was_removed(cluster, cluster->identity.id)) {
        struct error err = {0};
        error_set(&err, ERROR_DENIED, "node %s " CALLER_REMOVED_TEXT " %s", cluster->identity.name,
                  cluster->identity.cluster_name);
        cluster_end(cluster, &err);
    }
}

static void on_reload(void *context)
{
    struct cluster *cluster = context;
    cluster->reload_is_posted = false;
    member_reload(cluster);
}

void member_reload_later(struct cluster *cluster)
{
    if (!cluster->reload_is_posted && !cluster->is_stopping) {
        cluster->reload_is_posted = true;
        loop_post(cluster->loop, on_reload, cluster);
    }
}

void member_look(struct cluster *cluster)
{
    if (cluster->reload_is_posted) {
        member_reload(cluster);
    }
}

void member_free(struct cluster *cluster)
{
    free_members(cluster->members, cluster->member_count);
    cluster->members = NULL;
    cluster->member_count = 0;
}

/* ---- Looking ---- */

struct member *member_find(struct cluster *cluster, uint64_t id)
{
    return (struct member *)(uintptr_t)find_in(cluster->members, cluster->member_count, id);
}

struct member *member_find_name(struct cluster *cluster, const char *name)
{
    for (size_t i = 0; i < cluster->member_count; i++) {
        if (strcmp(cluster->members[i].name, name) == 0) {
            return &cluster->members[i];
        }
    }
    return NULL;
}

struct member *member_self(struct cluster *cluster)
{
    return member_find(cluster, cluster->identity.id);
}

static const struct identity_peer *find_peer(const struct cluster *cluster, uint64_t id)
{
    for (size_t i = 0; i < cluster->identity.peer_count; i++) {
        if (cluster->identity.peers[i].id == id) {
            return &cluster->identity.peers[i];
        }
    }
    return NULL;
}

const char *member_address(struct cluster *cluster, uint64_t id)
{
    const struct member *member = member_find(cluster, id);
    const struct identity_peer *peer = find_peer(cluster, id);
    if (peer != NULL && !is_current(cluster)) {
        return peer->address; /* others may have told it since */
    }
    return member != NULL ? member->address : peer != NULL ? peer->address : NULL;
}

const char *member_name(struct cluster *cluster, uint64_t id)
{
    const struct member *member = member_find(cluster, id);
    const struct identity_peer *peer = find_peer(cluster, id);
    return member != NULL ? member->name : peer != NULL ? peer->name : "";
}

/*
 * A node whose state is not there yet knows the others from its last life, or from when it joined;
 * then the rows say it, and only they.
 */
bool member_is_known(struct cluster *cluster, uint64_t id)
{
    if (member_find(cluster, id) != NULL) {
        return true;
    }
    return !is_current(cluster) && find_peer(cluster, id) != NULL &&
        !member_was_removed(cluster, id);
}

uint64_t member_signer(struct cluster *cluster, unsigned attempt)
{
    if (cluster->identity.has_servers_key) {
        return cluster->identity.id;
    }
    uint64_t ids[CLUSTER_PEERS_MAX];
    size_t count = 0;
    for (size_t i = 0; i < cluster->member_count; i++) {
        const struct member *member = &cluster->members[i];
        if (member->wanted_server && member->facts.health != CLUSTER_LOST) {
            ids[count++] = member->id;
        }
    }
    return count > 0 ? ids[attempt % count] : 0;
}
