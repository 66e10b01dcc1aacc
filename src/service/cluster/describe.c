/* The cluster as JSON: types of spec/types.def. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"

#include "service/cluster/parts.h"

void describe_id(struct json_writer *writer, const char *key, uint64_t id)
{
    char text[24];
    snprintf(text, sizeof(text), "%" PRIu64, id);
    json_write_field_string(writer, key, text);
}

static const char *role_text(bool is_server)
{
    return is_server ? "server" : "worker";
}

/* ---- Between nodes ---- */

void describe_peers(struct cluster *cluster, struct json_writer *writer, uint64_t but)
{
    json_write_begin_array(writer);
    for (size_t i = 0; i < cluster->member_count; i++) {
        const struct member *member = &cluster->members[i];
        if (member->id != but) {
            json_write_begin_object(writer);
            describe_id(writer, "id", member->id);
            json_write_field_string(writer, "name", member->name);
            json_write_field_string(writer, "address", member->address);
            json_write_field_bool(writer, "server", member->wanted_server);
            json_write_end_object(writer);
        }
    }
    json_write_end_array(writer);
}

void describe_facts(struct json_writer *writer, const struct member *member)
{
    const struct facts *facts = &member->facts;
    json_write_begin_object(writer);
    describe_id(writer, "id", member->id);
    json_write_field_string(writer, "health", cluster_health_text(facts->health));
    if (facts->is_known) {
        json_write_field_string(writer, "role", role_text(facts->is_server));
    }
    json_write_field_bool(writer, "votes", member->part == MEMBERSHIP_VOTER);
    json_write_field_u64(writer, "index", facts->index);
    json_write_field_u64(writer, "lag", facts->lag);
    if (facts->was_heard) {
        json_write_field_u64(writer, "seen_ms", facts->silent_ms);
    }
    if (facts->clock.is_known) {
        json_write_field_double(writer, "offset_ms", (double)facts->clock.offset_ms);
    }
    json_write_field_string(writer, "isolation", facts->isolation);
    load_write(&facts->load, writer);
    json_write_key(writer, "problems");
    problems_write(&facts->problems, writer);
    json_write_end_object(writer);
}

/* ---- What a node has, and what of it is taken ---- */

static void write_attributes(struct json_writer *writer, const char *attributes)
{
    const char *text = attributes != NULL ? attributes : "{}";
    json_write_key(writer, "attributes");
    json_write_raw(writer, text, strlen(text));
}

enum { ALLOCATED = 5, PAGE_SIZES = 2 };

struct allocated {
    uint64_t values[ALLOCATED + PAGE_SIZES];
};

static bool take_allocated(sqlite3_stmt *row, void *context)
{
    struct allocated *allocated = context;
    for (int i = 0; i < ALLOCATED + PAGE_SIZES; i++) {
        allocated->values[i] = (uint64_t)sqlite3_column_int64(row, i);
    }
    return false;
}

static bool take_holder(sqlite3_stmt *row, void *context)
{
    json_write_field_string(context, "held_for", store_text(row, 0));
    return false;
}

static void describe_holder(struct cluster *cluster, struct json_writer *writer, const char *node)
{
    enum { SCHEMA_WITH_HOLDS = 10 };
    struct error ignored = {0};
    if (store_schema_now(cluster->store) >= SCHEMA_WITH_HOLDS) {
        store_query(cluster->store, &ignored, take_holder, writer,
                    "SELECT m.key FROM placement_hold h JOIN machine m ON m.id = h.key WHERE "
                    "h.node = ? AND m.pending_ms IS NOT NULL",
                    "t", node);
    }
}

static bool write_device(sqlite3_stmt *row, void *context)
{
    struct json_writer *writer = context;
    json_write_begin_object(writer);
    json_write_field_string(writer, "address", store_text(row, 0));
    json_write_field_string(writer, "machine", store_text(row, 1));
    json_write_end_object(writer);
    return true;
}

static void write_devices(struct cluster *cluster, struct json_writer *writer, const char *node)
{
    enum { SCHEMA_WITH_DEVICES = 12 };
    struct error ignored = {0};
    if (store_schema_now(cluster->store) >= SCHEMA_WITH_DEVICES) {
        json_write_key(writer, "devices");
        json_write_begin_array(writer);
        store_query(cluster->store, &ignored, write_device, writer,
                    "SELECT d.address, m.key FROM machine_device d JOIN machine m ON m.id = "
                    "d.machine WHERE d.node = ? ORDER BY d.address",
                    "t", node);
        json_write_end_array(writer);
    }
}

static void write_pages(struct json_writer *writer, const uint64_t bytes[PAGE_SIZES])
{
    static const struct {
        const char *name; /* as the kernel calls them */
        uint64_t bytes;
    } pages[PAGE_SIZES] = {{"2048kB", UINT64_C(2) << 20}, {"1048576kB", UINT64_C(1) << 30}};
    json_write_key(writer, "hugepages");
    json_write_begin_array(writer);
    for (size_t i = 0; i < PAGE_SIZES; i++) {
        if (bytes[i] > 0) {
            json_write_begin_object(writer);
            json_write_field_string(writer, "name", pages[i].name);
            json_write_field_u64(writer, "count", bytes[i] / pages[i].bytes);
            json_write_end_object(writer);
        }
    }
    json_write_end_array(writer);
}

/* A machine that is stopped keeps its disk and its devices, and nothing else. */
#define IS_WANTED "(desired = 'running' OR desired = 'paused')"
#define MEMORY(pages)                                                                      \
    "coalesce(sum(iif(" IS_WANTED " AND coalesce(config ->> '$.huge_pages', '') = '" pages \
    "', config ->> '$.memory_bytes', 0)), 0)"
void describe_allocated(struct cluster *cluster, struct json_writer *writer, const char *node,
                        const char *attributes)
{
    static const char *const keys[] = {"machines", "running", "cpus", "memory_bytes", "disk_bytes"};
    struct allocated allocated = {0};
    struct error ignored = {0};
    store_query(
        cluster->store, &ignored, take_allocated, &allocated,
        "SELECT count(*), coalesce(sum(desired = 'running'), 0), coalesce(sum(iif(" IS_WANTED
        ", config ->> '$.cpus', 0)), 0), " MEMORY(
            "") ", coalesce(sum(config ->> "
                "'$.disk_bytes'), 0), " MEMORY("2MiB") ", " MEMORY("1GiB") " FROM machine WHERE "
                                                                           "node = ?",
        "t", node);
    json_write_key(writer, "allocated");
    json_write_begin_object(writer);
    for (int i = 0; i < ALLOCATED; i++) {
        json_write_field_u64(writer, keys[i], allocated.values[i]);
    }
    write_pages(writer, allocated.values + ALLOCATED);
    describe_numa(cluster, writer, node, attributes);
    write_devices(cluster, writer, node);
    json_write_end_object(writer);
    describe_holder(cluster, writer, node);
}

/* ---- For people: a node that is alone ---- */

static void write_alone(struct cluster *cluster, struct json_writer *writer)
{
    struct store_status status;
    store_status(cluster->store, &status);
    json_write_begin_object(writer);
    json_write_field_string(writer, "name", cluster->node_name);
    describe_id(writer, "id", status.node_id);
    json_write_field_string(writer, "role", "server");
    json_write_field_bool(writer, "votes", true);
    json_write_field_string(writer, "wanted_role", "server");
    json_write_field_bool(writer, "leader", true);
    json_write_field_bool(writer, "self", true);
    json_write_field_string(writer, "health", "healthy");
    json_write_field_string(writer, "address", "");
    json_write_field_string(writer, "gateway", cluster->gateway);
    json_write_field_string(writer, "failure_domain", cluster->failure_domain);
    json_write_key(writer, "labels");
    json_write_raw(writer, "{}", 2);
    json_write_field_string(writer, "pool", "default");
    json_write_field_string(writer, "duty", cluster_duty_text(CLUSTER_ACTIVE));
    json_write_field_bool(writer, "schedulable", true);
    json_write_key(writer, "taints");
    json_write_raw(writer, "[]", 2);
    write_attributes(writer, cluster->attributes);
    describe_allocated(cluster, writer, cluster->node_name, cluster->attributes);
    json_write_key(writer, "windows");
    json_write_raw(writer, "[]", 2);
    json_write_field_string(writer, "version", cluster->version);
    json_write_field_u64(writer, "schema", store_schema_version());
    json_write_field_string(writer, "isolation", cluster->isolation);
    json_write_field_u64(writer, "index", status.index);
    json_write_field_u64(writer, "lag", 0);
    json_write_field_u64(writer, "last_seen_ms", 0);
    json_write_field_time_ms(writer, "certificate_expires_at", 0);
    json_write_field_time_ms(writer, "joined_at", 0);
    json_write_key(writer, "problems");
    json_write_raw(writer, "[]", 2);
    json_write_end_object(writer);
}

/* ---- For people: a node of many ---- */

struct situation {
    struct store_status status;
    uint64_t leader; /* 0: none is known */
    uint64_t index;  /* of the leader, as far as it is known */
    uint64_t now_ms;
    bool is_current; /* what is known of the others is of these seconds */
};

static struct situation find_situation(struct cluster *cluster)
{
    struct situation situation = {.now_ms = clock_boot_ms()};
    member_look(cluster);
    store_status(cluster->store, &situation.status);
    situation.leader = situation.status.leader_id != 0 ? situation.status.leader_id
        : situation.status.role == STORE_WORKER        ? cluster->leader_id
                                                       : 0;
    situation.is_current =
        cluster->beaten_ms != 0 && situation.now_ms - cluster->beaten_ms < LIVENESS_SUSPECT_MS;
    const struct member *leader = member_find(cluster, situation.leader);
    situation.index = situation.status.index;
    if (leader != NULL && leader->facts.index > situation.index) {
        situation.index = leader->facts.index;
    }
    return situation;
}

static void write_seen(struct json_writer *writer, const struct member *member,
                       const struct situation *situation, bool is_self)
{
    const struct facts *facts = &member->facts;
    uint64_t own = situation->status.index;
    uint64_t own_lag = situation->index > own ? situation->index - own : 0;
    bool is_known = is_self || facts->is_known;
    if (is_known && facts->isolation[0] != '\0') {
        json_write_field_string(writer, "isolation", facts->isolation);
    }
    if (is_known) {
        json_write_field_u64(writer, "index", is_self ? own : facts->index);
        json_write_field_u64(writer, "lag", is_self ? own_lag : facts->lag);
    }
    if (facts->was_heard) {
        json_write_field_u64(writer, "last_seen_ms",
                             facts->silent_ms + situation->now_ms - facts->noted_ms);
    }
    if (facts->clock.is_known) {
        json_write_field_double(writer, "clock_offset_ms", (double)facts->clock.offset_ms);
    }
    if (member->rtt_us != 0) {
        json_write_field_u64(writer, "rtt_us", member->rtt_us);
    }
    const struct cluster_load load = view_load(member, situation->now_ms, is_self);
    load_write(&load, writer);
}

static bool is_voter(const struct member *member, const struct situation *situation)
{
    if (situation->status.role != STORE_SERVER) {
        return member->facts.votes;
    }
    for (size_t i = 0; i < situation->status.server_count; i++) {
        if (situation->status.servers[i].id == member->id) {
            return situation->status.servers[i].votes;
        }
    }
    return false;
}

static void write_member(struct cluster *cluster, struct json_writer *writer,
                         const struct member *member, const struct situation *situation)
{
    const struct facts *facts = &member->facts;
    bool is_self = member->id == cluster->identity.id;
    bool is_server = is_self ? situation->status.role == STORE_SERVER
        : facts->is_known    ? facts->is_server
                             : member->wanted_server;
    bool is_seen = facts->is_known || facts->was_heard || facts->health != CLUSTER_HEALTHY;
    json_write_begin_object(writer);
    json_write_field_string(writer, "name", member->name);
    describe_id(writer, "id", member->id);
    json_write_field_string(writer, "role", role_text(is_server));
    json_write_field_bool(writer, "votes", is_voter(member, situation));
    json_write_field_string(writer, "wanted_role", role_text(member->wanted_server));
    json_write_field_bool(writer, "leader", member->id == situation->leader);
    json_write_field_bool(writer, "self", is_self);
    json_write_field_string(writer, "health",
                            is_self ? "healthy"
                                : is_seen && situation->is_current
                                ? cluster_health_text(facts->health)
                                : "unknown");
    json_write_field_string(writer, "address", member->address);
    json_write_field_string(writer, "gateway", member->gateway);
    json_write_field_string(writer, "failure_domain", member->failure_domain);
    json_write_key(writer, "labels");
    json_write_raw(writer, member->labels, strlen(member->labels));
    json_write_field_string(writer, "pool", member->pool);
    json_write_field_string(writer, "duty", cluster_duty_text(member->duty));
    json_write_field_bool(writer, "schedulable", member->duty == CLUSTER_ACTIVE);
    json_write_key(writer, "taints");
    json_write_raw(writer, member->taints, strlen(member->taints));
    write_attributes(writer, member->attributes);
    describe_allocated(cluster, writer, member->name, member->attributes);
    window_describe(cluster, writer, member->name);
    if (member->drain != NULL) {
        json_write_key(writer, "drain");
        json_write_raw(writer, member->drain, strlen(member->drain));
    }
    json_write_field_string(writer, "version", member->version);
    json_write_field_u64(writer, "schema", member->schema);
    write_seen(writer, member, situation, is_self);
    json_write_field_time_ms(writer, "certificate_expires_at", member->expires_ms);
    json_write_field_time_ms(writer, "joined_at", member->joined_ms);
    json_write_key(writer, "problems");
    problems_write(&facts->problems, writer);
    json_write_end_object(writer);
}

static void write_nodes(struct cluster *cluster, struct json_writer *writer,
                        const struct situation *situation)
{
    json_write_begin_array(writer);
    if (!cluster->is_member) {
        write_alone(cluster, writer);
    }
    for (size_t i = 0; i < cluster->member_count; i++) {
        write_member(cluster, writer, &cluster->members[i], situation);
    }
    json_write_end_array(writer);
}

/* ---- The whole ---- */

static size_t count_voters(struct cluster *cluster, const struct situation *situation,
                           size_t *ret_reached)
{
    size_t voters = 0;
    *ret_reached = 0;
    if (situation->status.role == STORE_SERVER) {
        for (size_t i = 0; i < situation->status.server_count; i++) {
            const struct store_server *server = &situation->status.servers[i];
            const struct member *member = member_find(cluster, server->id);
            voters += server->votes;
            *ret_reached += server->votes &&
                (server->id == cluster->identity.id ||
                 (member != NULL && member->facts.health != CLUSTER_LOST));
        }
        return voters;
    }
    for (size_t i = 0; i < cluster->member_count; i++) {
        const struct facts *facts = &cluster->members[i].facts;
        voters += facts->votes;
        *ret_reached += facts->votes && facts->health != CLUSTER_LOST;
    }
    return voters;
}

static void find_problems(struct cluster *cluster, const struct situation *situation, size_t voters,
                          size_t reached, struct problems *problems)
{
    uint64_t holding = 0;
    if (authority_is_early(cluster)) {
        char now[CLOCK_TEXT_SIZE];
        clock_format_ms(clock_real_ms(), now);
        problems_add(problems,
                     "this node's clock says %s, when its certificate was not made yet: the others "
                     "do not believe it; see to its time server",
                     now);
    } else if (situation->leader == 0) {
        problems_add(problems,
                     "no leader is known: nothing is written while no majority of the servers "
                     "is reached; if they are gone for good: blixard cluster recover");
    } else if (!situation->is_current) {
        problems_add(problems, "the leader, %s, does not answer this node",
                     member_name(cluster, situation->leader));
    }
    if (situation->is_current && voters != cluster->servers_wanted) {
        problems_add(problems, "%zu server%s, %u wanted", voters, voters == 1 ? "" : "s",
                     cluster->servers_wanted);
    }
    if (situation->is_current && voters > 1 && reached == voters / 2 + 1) {
        problems_add(problems, "%zu of %zu servers live: none more may fail", reached, voters);
    }
    for (size_t i = 0; i < cluster->member_count; i++) {
        if (cluster->members[i].schema < store_schema_version()) {
            holding = cluster->members[i].id;
        }
    }
    if (holding != 0 && store_schema_now(cluster->store) < store_schema_version()) {
        problems_add(problems, "the state is of schema %u until node %s is upgraded",
                     store_schema_now(cluster->store), member_name(cluster, holding));
    }
}

static bool write_key_row(sqlite3_stmt *row, void *context)
{
    json_write_field_string(context, "store_key", store_text(row, 0));
    return false;
}

/* Of the Nix stores, once there is one: who configures clients looks for it here. */
static void write_store_key(struct cluster *cluster, struct json_writer *writer)
{
    enum { KEY_SCHEMA = 9 };
    struct error ignored = {0};
    if (store_schema_now(cluster->store) >= KEY_SCHEMA) {
        store_query(cluster->store, &ignored, write_key_row, writer, "SELECT public FROM nix_key",
                    "");
    }
}

int cluster_write(struct cluster *cluster, struct buffer *out, struct error *err)
{
    (void)err;
    struct situation situation = find_situation(cluster);
    struct problems problems = {0};
    struct json_writer writer = json_writer_to(out);
    size_t reached = 1;
    size_t voters = 1;
    const char *leader = member_name(cluster, situation.leader);
    if (cluster->is_member) {
        voters = count_voters(cluster, &situation, &reached);
        find_problems(cluster, &situation, voters, reached, &problems);
    }
    json_write_begin_object(&writer);
    json_write_field_string(&writer, "name",
                            cluster->is_member ? cluster->identity.cluster_name : NULL);
    json_write_field_string(&writer, "id", cluster->is_member ? cluster->identity.cluster : NULL);
    json_write_field_u64(&writer, "index", situation.status.index);
    json_write_field_u64(&writer, "term", situation.status.term);
    json_write_field_string(&writer, "leader",
                            !cluster->is_member     ? cluster->node_name
                                : leader[0] != '\0' ? leader
                                                    : NULL);
    json_write_field_u64(&writer, "servers_wanted",
                         cluster->is_member ? cluster->servers_wanted : 1);
    json_write_field_u64(&writer, "servers", voters);
    json_write_field_u64(&writer, "schema", store_schema_now(cluster->store));
    write_store_key(cluster, &writer);
    json_write_key(&writer, "problems");
    problems_write(&problems, &writer);
    json_write_key(&writer, "nodes");
    write_nodes(cluster, &writer, &situation);
    json_write_end_object(&writer);
    return 0;
}

int cluster_write_nodes(struct cluster *cluster, struct buffer *out, struct error *err)
{
    (void)err;
    struct situation situation = find_situation(cluster);
    struct json_writer writer = json_writer_to(out);
    json_write_begin_object(&writer);
    json_write_key(&writer, "nodes");
    write_nodes(cluster, &writer, &situation);
    json_write_end_object(&writer);
    return 0;
}

int cluster_write_node(struct cluster *cluster, const char *name, struct buffer *out,
                       struct error *err)
{
    struct situation situation = find_situation(cluster);
    struct json_writer writer = json_writer_to(out);
    const struct member *member = member_find_name(cluster, name);
    if (!cluster->is_member && strcmp(name, cluster->node_name) == 0) {
        write_alone(cluster, &writer);
        return 0;
    }
    if (member == NULL) {
        return error_set(err, ERROR_NOT_FOUND, "there is no node %.64s", name);
    }
    write_member(cluster, &writer, member, &situation);
    return 0;
}

/* ---- Tokens and clients ---- */

static const char *column(sqlite3_stmt *row, int index)
{
    return (const char *)sqlite3_column_text(row, index);
}

static bool write_token_row(sqlite3_stmt *row, void *context)
{
    struct json_writer *writer = context;
    json_write_begin_object(writer);
    json_write_field_string(writer, "id", column(row, 0));
    json_write_field_string(writer, "role", column(row, 1));
    json_write_field_u64(writer, "uses", (uint64_t)sqlite3_column_int64(row, 2));
    json_write_field_time_ms(writer, "created_at", (uint64_t)sqlite3_column_int64(row, 3));
    json_write_field_time_ms(writer, "expires_at", (uint64_t)sqlite3_column_int64(row, 4));
    json_write_end_object(writer);
    return true;
}

int cluster_write_tokens(struct cluster *cluster, struct buffer *out, struct error *err)
{
    struct json_writer writer = json_writer_to(out);
    json_write_begin_object(&writer);
    json_write_key(&writer, "tokens");
    json_write_begin_array(&writer);
    int r = store_query(cluster->store, err, write_token_row, &writer,
                        "SELECT key, role, uses, created_ms, expires_ms FROM join_token ORDER BY "
                        "created_ms DESC, key LIMIT 1000",
                        "");
    json_write_end_array(&writer);
    json_write_end_object(&writer);
    return r;
}

static bool write_client_row(sqlite3_stmt *row, void *context)
{
    struct json_writer *writer = context;
    json_write_begin_object(writer);
    json_write_field_string(writer, "name", column(row, 0));
    json_write_field_string(writer, "kind", column(row, 1));
    json_write_field_bool(writer, "logged_in", sqlite3_column_type(row, 2) != SQLITE_NULL);
    json_write_field_time_ms(writer, "created_at", (uint64_t)sqlite3_column_int64(row, 3));
    json_write_field_time_ms(writer, "expires_at", (uint64_t)sqlite3_column_int64(row, 4));
    json_write_end_object(writer);
    return true;
}

int cluster_write_clients(struct cluster *cluster, struct buffer *out, struct error *err)
{
    struct json_writer writer = json_writer_to(out);
    json_write_begin_object(&writer);
    json_write_key(&writer, "clients");
    json_write_begin_array(&writer);
    int r = store_query(cluster->store, err, write_client_row, &writer,
                        "SELECT key, kind, fingerprint, created_ms, expires_ms FROM client ORDER "
                        "BY key LIMIT 1000",
                        "");
    json_write_end_array(&writer);
    json_write_end_object(&writer);
    return r;
}
