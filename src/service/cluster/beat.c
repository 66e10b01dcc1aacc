/*
 * Heartbeats.  Twice a second each node tells the leader how it does; the answer says what the
 * leader knows of all and whether this node has a lease.  Who leads is what the store says; a node
 * whose store does not know asks the others in turn.
 */
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/statvfs.h>

#include "base/clock.h"
#include "base/json.h"

#include "service/cluster/parts.h"

enum {
    DISK_LOW_MIB = 1024,
    DISK_LOW_PERCENT = 5,
    PING_EVERY_MS = 3000,
    UNREACHED_SAID = 2,
    LOAD_MAX = 1000000,
    SCHEMA_WITH_LOAD = 9, /* nodes that do not know it refuse what they do not know */
};

struct beat {
    struct cluster *cluster;
    uint64_t target;
    uint64_t sent_ns;
};

/* ---- What is wrong ---- */

void problems_add(struct problems *problems, const char *format, ...)
{
    if (problems->count < CLUSTER_PROBLEMS_MAX) {
        va_list arguments;
        va_start(arguments, format);
        char *text = problems->texts[problems->count++];
        vsnprintf(text, CLUSTER_PROBLEM_SIZE, format, arguments);
        va_end(arguments);
        text_make_printable(text, false);
    }
}

void problems_write(const struct problems *problems, struct json_writer *writer)
{
    json_write_begin_array(writer);
    for (size_t i = 0; i < problems->count; i++) {
        json_write_string(writer, problems->texts[i]);
    }
    json_write_end_array(writer);
}

void problems_take(struct problems *problems, const json_t *list)
{
    problems->count = 0;
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *text = json_string_value(json_array_get(list, i));
        if (text != NULL) {
            problems_add(problems, "%s", text);
        }
    }
}

/* ---- Load ---- */

/* Nothing where nothing is known. */
void load_write(const struct cluster_load *load, struct json_writer *writer)
{
    if (load->cpus > 0) {
        json_write_key(writer, "load");
        json_write_begin_object(writer);
        json_write_field_u64(writer, "running", load->running);
        json_write_field_u64(writer, "waiting", load->waiting);
        json_write_field_u64(writer, "cpus", load->cpus);
        json_write_end_object(writer);
    }
}

static uint32_t bounded(const json_t *object, const char *key)
{
    uint64_t value = 0;
    return message_take_u64(object, key, &value) && value < LOAD_MAX ? (uint32_t)value : LOAD_MAX;
}

/* A number that no node has is as much as any has. */
static void load_take(struct cluster_load *load, const json_t *object)
{
    *load = (struct cluster_load){0};
    if (json_is_object(object)) {
        load->running = bounded(object, "running");
        load->waiting = bounded(object, "waiting");
        load->cpus = bounded(object, "cpus");
    }
}

void cluster_set_load(struct cluster *cluster,
                      void (*read)(struct cluster_load *ret_load, void *context), void *context)
{
    cluster->read_load = read;
    cluster->load_context = context;
}

static void find_own_facts(struct cluster *cluster, struct facts *facts)
{
    struct store_status status;
    struct statvfs disk;
    store_status(cluster->store, &status);
    facts->is_known = true;
    facts->is_server = status.role == STORE_SERVER;
    facts->has_voted = cluster->identity.has_voted;
    facts->is_ready = status.ready;
    facts->index = status.index;
    facts->clock = cluster->clock;
    snprintf(facts->isolation, sizeof(facts->isolation), "%s", cluster->isolation);
    facts->load = (struct cluster_load){0};
    if (cluster->read_load != NULL) {
        cluster->read_load(&facts->load, cluster->load_context);
    }
    facts->reported.count = 0;
    if (cluster->problem != NULL) {
        problems_add(&facts->reported, "%s", cluster->problem);
    }
    if (statvfs(cluster->folder, &disk) == 0) {
        uint64_t left_mib = disk.f_bavail * (disk.f_frsize >> 10) >> 10;
        /* Of a big disk 5 % is plenty, of a small one it is little. */
        if (left_mib < DISK_LOW_MIB &&
            disk.f_bavail * 100 < disk.f_blocks * (uint64_t)DISK_LOW_PERCENT) {
            problems_add(&facts->reported, "its disk is almost full: %" PRIu64 " MiB are left",
                         left_mib);
        }
    }
}

/* ---- The leader: taking, judging, answering ---- */

static void set_voters(struct cluster *cluster, const struct store_status *status)
{
    uint64_t voters[LIVENESS_VOTERS_MAX];
    size_t count = 0;
    for (size_t i = 0; i < status->server_count && count < LIVENESS_VOTERS_MAX; i++) {
        if (status->servers[i].votes) {
            voters[count++] = status->servers[i].id;
        }
    }
    liveness_leader_voters(&cluster->leader, status->term, voters, count);
}

static void hear(struct cluster *cluster, const struct liveness_beat *beat,
                 struct liveness_answer *ret_answer)
{
    struct store_status status;
    store_status(cluster->store, &status);
    set_voters(cluster, &status);
    liveness_hear(&cluster->leader, beat, status.index, clock_boot_ms(), ret_answer);
    if (ret_answer->ticket != 0) {
        lead_readmit(cluster, beat->node, ret_answer->ticket);
    }
}

static void find_problems(struct cluster *cluster, struct member *member, int64_t clock_wrong_ms)
{
    struct facts *facts = &member->facts;
    uint64_t now_ms = clock_real_ms();
    facts->problems = facts->reported;
    if (facts->health != CLUSTER_HEALTHY) {
        problems_add(&facts->problems, "it was not heard for %" PRIu64 " s",
                     facts->silent_ms / 1000);
    } else if (facts->is_known && facts->was_heard && !facts->is_ready) {
        problems_add(&facts->problems, "its state is not current yet");
    }
    if (facts->health == CLUSTER_HEALTHY && member->unreached >= UNREACHED_SAID) {
        problems_add(&facts->problems,
                     "it lives, but the leader does not reach it at %.80s: see its "
                     "advertise_address",
                     member->address);
    }
    if (clock_wrong_ms != 0) {
        problems_add(&facts->problems, "its clock is %" PRIu64 " ms %s: see to its time server",
                     (uint64_t)llabs(clock_wrong_ms), clock_wrong_ms > 0 ? "ahead" : "behind");
    }
    if (member->expires_ms < now_ms) {
        problems_add(&facts->problems, "its certificate has ended: remove it and let it join anew");
    } else if (member->expires_ms - now_ms < cluster->certificate_lifetime_ms / 6) {
        problems_add(&facts->problems, "its certificate ends in %" PRIu64 " h",
                     (member->expires_ms - now_ms) / 3600000);
    }
    if (strcmp(member->version, cluster->version) != 0) {
        problems_add(&facts->problems, "it runs Blixard %s, the leader %s", member->version,
                     cluster->version);
    }
}

static void judge(struct cluster *cluster, struct member *member, uint64_t now_ms)
{
    struct facts *facts = &member->facts;
    enum cluster_health before = facts->health;
    bool is_new = now_ms - member->appeared_ms < LIVENESS_LOST_MS;
    if (is_new && liveness_silent(&cluster->leader, member->id, now_ms) == UINT64_MAX) {
        return; /* it has just joined: no beat of it can be missing yet */
    }
    facts->health = liveness_judge(&cluster->leader, member->id, now_ms);
    uint64_t silent_ms = liveness_silent(&cluster->leader, member->id, now_ms);
    facts->was_heard = silent_ms != UINT64_MAX;
    facts->silent_ms = facts->was_heard ? silent_ms : now_ms - cluster->leader.begun_ms;
    facts->noted_ms = now_ms;
    if (facts->health != before) {
        log_write(facts->health == CLUSTER_LOST ? LOG_LEVEL_WARN : LOG_LEVEL_INFO,
                  "cluster: node %s is %s", member->name, cluster_health_text(facts->health));
    }
}

static void judge_all(struct cluster *cluster)
{
    size_t count = cluster->member_count;
    uint64_t now_ms = clock_boot_ms();
    struct liveness_clock *clocks = memory_new(count + 1, sizeof(struct liveness_clock));
    for (size_t i = 0; i < count; i++) {
        judge(cluster, &cluster->members[i], now_ms);
        clocks[i] = cluster->members[i].facts.clock;
    }
    for (size_t i = 0; i < count; i++) {
        find_problems(cluster, &cluster->members[i], liveness_clock_wrong(clocks, count, i));
    }
    free(clocks);
    for (size_t i = 0; i < cluster->member_count; i++) {
        struct member *member = &cluster->members[i];
        bool is_lost = liveness_may_move(&cluster->leader, member->id);
        bool is_news = is_lost && !member->was_told_lost;
        member->was_told_lost = is_lost;
        if (is_news) {
            cluster_tell_lost(cluster, member->id);
        }
    }
}

static bool is_in_configuration(const struct store_status *status, uint64_t id)
{
    for (size_t i = 0; i < status->server_count; i++) {
        if (status->servers[i].id == id) {
            return true;
        }
    }
    return false;
}

static void write_answer(struct cluster *cluster, const struct member *member,
                         const struct liveness_answer *answer, struct buffer *out)
{
    struct json_writer writer = json_writer_to(out);
    struct store_status status;
    store_status(cluster->store, &status);
    json_write_begin_object(&writer);
    json_write_field_bool(&writer, "leads", true);
    describe_id(&writer, "leader", cluster->identity.id);
    json_write_field_u64(&writer, "sequence", answer->sequence);
    json_write_field_u64(&writer, "reign", answer->reign);
    json_write_field_u64(&writer, "stamp_ms", answer->stamp_ms);
    json_write_field_u64(&writer, "proven_ms", answer->proven_ms);
    json_write_field_u64(&writer, "index", answer->index);
    json_write_field_bool(&writer, "granted", answer->granted);
    json_write_field_u64(&writer, "clock_ms", clock_real_ms());
    json_write_field_bool(&writer, "votes", is_in_configuration(&status, member->id));
    json_write_field_string(&writer, "wanted_role", member->wanted_server ? "server" : "worker");
    if (!member->facts.is_ready) {
        json_write_key(&writer, "peers");
        describe_peers(cluster, &writer, member->id);
    }
    json_write_key(&writer, "facts");
    json_write_begin_array(&writer);
    for (size_t i = 0; i < cluster->member_count; i++) {
        describe_facts(&writer, &cluster->members[i]);
    }
    json_write_end_array(&writer);
    json_write_end_object(&writer);
}

static void take_facts(struct facts *facts, uint64_t own_index, const json_t *beat)
{
    facts->is_known = true;
    facts->is_server = strcmp(json_text(beat, "role"), "server") == 0;
    facts->has_voted = json_is_true(json_object_get(beat, "voted"));
    facts->is_ready = json_is_true(json_object_get(beat, "ready"));
    message_take_u64(beat, "index", &facts->index);
    facts->lag = own_index > facts->index ? own_index - facts->index : 0;
    message_copy(beat, "isolation", facts->isolation, sizeof(facts->isolation));
    load_take(&facts->load, json_object_get(beat, "load"));
    problems_take(&facts->reported, json_object_get(beat, "problems"));
    double offset_ms = json_number_value(json_object_get(beat, "offset_ms"));
    struct liveness_clock clock = {0};
    clock.is_known =
        message_take_u64(beat, "offset_error_ms", &clock.error_ms) && fabs(offset_ms) < 1e15;
    clock.offset_ms = clock.is_known ? (int64_t)offset_ms : 0;
    facts->clock = clock;
}

/* One whose state is old may not know who leads, nor any way to it. */
static void write_no_leader(struct cluster *cluster, uint64_t node, bool is_ready,
                            struct buffer *out)
{
    struct json_writer writer = json_writer_to(out);
    struct store_status status;
    store_status(cluster->store, &status);
    uint64_t leader = status.leader_id != 0 ? status.leader_id : cluster->leader_id;
    json_write_begin_object(&writer);
    json_write_field_bool(&writer, "leads", false);
    if (leader != 0 && leader != cluster->identity.id) {
        describe_id(&writer, "leader", leader);
    }
    if (!is_ready) {
        json_write_key(&writer, "peers");
        describe_peers(cluster, &writer, node);
    }
    json_write_end_object(&writer);
}

void cluster_take_heartbeat(struct cluster *cluster, uint64_t node, const json_t *heartbeat,
                            struct cluster_reply reply)
{
    BUFFER_OWNED struct buffer answer = {0};
    struct member *member = member_find(cluster, node);
    if (!lead_leads(cluster) || member == NULL) {
        write_no_leader(cluster, node, json_is_true(json_object_get(heartbeat, "ready")), &answer);
        reply_with(cluster, reply, &answer);
        return;
    }
    struct liveness_beat beat = {.node = node};
    struct liveness_answer given = {0};
    message_take_u64(heartbeat, "sequence", &beat.sequence);
    message_take_u64(heartbeat, "term", &beat.term);
    message_take_u64(heartbeat, "reign", &beat.reign);
    message_take_u64(heartbeat, "echo_ms", &beat.echo_ms);
    take_facts(&member->facts, store_index(cluster->store), heartbeat);
    hear(cluster, &beat, &given);
    write_answer(cluster, member, &given, &answer);
    reply_with(cluster, reply, &answer);
}

/* ---- Every node: what comes back ---- */

static void take_their_facts(struct cluster *cluster, const json_t *list)
{
    uint64_t now_ms = clock_boot_ms();
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *object = json_array_get(list, i);
        uint64_t id = 0;
        struct member *member =
            message_take_id(object, "id", &id) ? member_find(cluster, id) : NULL;
        if (member == NULL) {
            continue;
        }
        struct facts *facts = &member->facts;
        const char *health = json_text(object, "health");
        const char *role = json_text(object, "role");
        facts->health = strcmp(health, "lost") == 0 ? CLUSTER_LOST
            : strcmp(health, "suspect") == 0        ? CLUSTER_SUSPECT
                                                    : CLUSTER_HEALTHY;
        facts->is_known = role[0] != '\0';
        facts->is_server = strcmp(role, "server") == 0;
        facts->votes = json_is_true(json_object_get(object, "votes"));
        facts->was_heard = message_take_u64(object, "seen_ms", &facts->silent_ms);
        facts->noted_ms = now_ms;
        message_take_u64(object, "index", &facts->index);
        message_take_u64(object, "lag", &facts->lag);
        const json_t *offset = json_object_get(object, "offset_ms");
        facts->clock.is_known = json_is_number(offset);
        facts->clock.offset_ms =
            fabs(json_number_value(offset)) < 1e15 ? (int64_t)json_number_value(offset) : 0;
        message_copy(object, "isolation", facts->isolation, sizeof(facts->isolation));
        load_take(&facts->load, json_object_get(object, "load"));
        problems_take(&facts->problems, json_object_get(object, "problems"));
    }
}

/* Until the own state is current: what others know.  Afterwards the rows say it. */
static void take_their_peers(struct cluster *cluster, const json_t *list)
{
    struct identity *identity = &cluster->identity;
    size_t count = json_array_size(list);
    struct store_status status;
    store_status(cluster->store, &status);
    if (status.ready || count == 0 || count > CLUSTER_PEERS_MAX) {
        return;
    }
    struct identity_peer *peers = memory_new(count, sizeof(struct identity_peer));
    size_t taken = 0;
    for (size_t i = 0; i < count; i++) {
        struct identity_peer *peer = &peers[taken];
        const json_t *object = json_array_get(list, i);
        if (message_take_id(object, "id", &peer->id) &&
            message_copy(object, "name", peer->name, sizeof(peer->name)) &&
            message_copy(object, "address", peer->address, sizeof(peer->address))) {
            peer->is_server = json_is_true(json_object_get(object, "server"));
            taken++;
        }
    }
    free(identity->peers);
    identity->peers = peers;
    identity->peer_count = taken;
}

static void note_round_trip(struct cluster *cluster, uint64_t target, uint64_t rtt_us)
{
    struct member *member = member_find(cluster, target);
    if (member != NULL) {
        member->rtt_us = member->rtt_us == 0 ? rtt_us : (member->rtt_us * 7 + rtt_us) / 8;
    }
}

static void take_answer(struct cluster *cluster, const struct beat *beat, const json_t *answer)
{
    struct liveness_answer given = {0};
    uint64_t their_clock_ms = 0;
    uint64_t rtt_us = (clock_monotonic_ns() - beat->sent_ns) / 1000;
    cluster->leader_id = beat->target;
    cluster->denied_id = 0;
    cluster->beaten_ms = clock_boot_ms();
    message_take_u64(answer, "sequence", &given.sequence);
    message_take_u64(answer, "reign", &given.reign);
    message_take_u64(answer, "stamp_ms", &given.stamp_ms);
    message_take_u64(answer, "proven_ms", &given.proven_ms);
    message_take_u64(answer, "index", &given.index);
    given.granted = json_is_true(json_object_get(answer, "granted"));
    liveness_answered(&cluster->liveness, &given, store_index(cluster->store));
    if (message_take_u64(answer, "clock_ms", &their_clock_ms)) {
        cluster->clock =
            liveness_clock_estimate(clock_real_ms(), their_clock_ms, (rtt_us + 999) / 1000);
    }
    cluster->votes = json_is_true(json_object_get(answer, "votes"));
    cluster->wanted_server = strcmp(json_text(answer, "wanted_role"), "server") == 0;
    cluster->wish_is_known = true;
    take_their_facts(cluster, json_object_get(answer, "facts"));
    note_round_trip(cluster, beat->target, rtt_us);
    view_update(cluster);
    cluster_check_lease(cluster);
}

static void on_answer(const json_t *answer, const struct error *error, void *context)
{
    struct beat *beat = context;
    struct cluster *cluster = beat->cluster;
    uint64_t leader = 0;
    cluster->open_beats--;
    if (cluster->is_stopping) {
        free(beat);
        return;
    }
    /* A server that the configuration does not have is told by nobody that another leads. */
    cluster->denied_id = beat->target;
    if (error == NULL) {
        take_their_peers(cluster, json_object_get(answer, "peers"));
    }
    if (error != NULL) {
        log_debug("cluster: a heartbeat to %s: %s", member_name(cluster, beat->target),
                  error->text);
        cluster->leader_id = cluster->leader_id == beat->target ? 0 : cluster->leader_id;
        if (error->kind == ERROR_DENIED && strstr(error->text, CALLER_REMOVED_TEXT) != NULL) {
            cluster_end(cluster, error);
        }
    } else if (json_is_true(json_object_get(answer, "leads"))) {
        take_answer(cluster, beat, answer);
    } else if (message_take_id(answer, "leader", &leader) && leader != cluster->identity.id) {
        cluster->leader_id = leader;
    } else {
        cluster->leader_id = cluster->leader_id == beat->target ? 0 : cluster->leader_id;
    }
    free(beat);
}

/* ---- Every node: sending ---- */

static void beat_to_self(struct cluster *cluster, const struct store_status *status)
{
    struct liveness_beat beat;
    struct liveness_answer answer = {0};
    struct member *self = member_self(cluster);
    uint64_t now_ms = clock_boot_ms();
    cluster->clock = (struct liveness_clock){.is_known = true};
    cluster->leader_id = cluster->identity.id;
    cluster->beaten_ms = now_ms;
    if (self != NULL) {
        find_own_facts(cluster, &self->facts);
        cluster->wanted_server = self->wanted_server;
    }
    cluster->votes = true;
    cluster->wish_is_known = self != NULL;
    liveness_beat(&cluster->liveness, status->term, now_ms, &beat);
    hear(cluster, &beat, &answer);
    liveness_answered(&cluster->liveness, &answer, status->index);
    judge_all(cluster);
    view_update(cluster);
    cluster_check_lease(cluster);
}

/* Who leads, or somebody who may know: the nodes in turn. */
static uint64_t choose_target(struct cluster *cluster, const struct store_status *status)
{
    bool knows = status->leader_id != 0 && status->leader_id != cluster->identity.id;
    if (knows && status->leader_id != cluster->denied_id) {
        return status->leader_id;
    }
    if (cluster->leader_id != 0 && cluster->leader_id != cluster->identity.id) {
        return cluster->leader_id;
    }
    size_t count = cluster->identity.peer_count;
    return count > 0 ? cluster->identity.peers[cluster->asked++ % count].id : 0;
}

static void write_beat(struct cluster *cluster, const struct store_status *status,
                       struct buffer *out)
{
    struct liveness_beat beat;
    struct facts facts = {0};
    struct json_writer writer = json_writer_to(out);
    liveness_beat(&cluster->liveness, status->term, clock_boot_ms(), &beat);
    find_own_facts(cluster, &facts);
    json_write_begin_object(&writer);
    json_write_field_u64(&writer, "sequence", beat.sequence);
    json_write_field_u64(&writer, "term", beat.term);
    json_write_field_u64(&writer, "reign", beat.reign);
    json_write_field_u64(&writer, "echo_ms", beat.echo_ms);
    json_write_field_string(&writer, "role", facts.is_server ? "server" : "worker");
    json_write_field_bool(&writer, "voted", facts.has_voted);
    json_write_field_string(&writer, "version", cluster->version);
    json_write_field_u64(&writer, "schema", store_schema_version());
    json_write_field_u64(&writer, "index", facts.index);
    if (facts.clock.is_known) {
        json_write_field_double(&writer, "offset_ms", (double)facts.clock.offset_ms);
        json_write_field_u64(&writer, "offset_error_ms", facts.clock.error_ms);
    }
    json_write_field_bool(&writer, "ready", facts.is_ready);
    json_write_field_string(&writer, "isolation", facts.isolation);
    if (store_schema_now(cluster->store) >= SCHEMA_WITH_LOAD) {
        load_write(&facts.load, &writer);
    }
    json_write_key(&writer, "problems");
    problems_write(&facts.reported, &writer);
    json_write_end_object(&writer);
}

void beat_send(struct cluster *cluster)
{
    struct store_status status;
    store_status(cluster->store, &status);
    if (lead_leads(cluster)) {
        beat_to_self(cluster, &status);
        return;
    }
    uint64_t target = choose_target(cluster, &status);
    if (target == 0 || cluster->open_beats >= CLUSTER_BEATS_OPEN_MAX) {
        return;
    }
    BUFFER_OWNED struct buffer body = {0};
    struct beat *beat = NEW(struct beat);
    beat->cluster = cluster;
    beat->target = target;
    beat->sent_ns = clock_monotonic_ns();
    write_beat(cluster, &status, &body);
    cluster->open_beats++;
    call_node(cluster, target, "POST", "/v1/peer/heartbeat", &body, on_answer, beat);
}

/* ---- How far the servers are: a worker follows a near one; and, on the leader, who is not where
 * it says, which is not seen by what it tells itself ---- */

static void on_pong(const json_t *answer, const struct error *error, void *context)
{
    struct beat *ping = context;
    struct member *member = member_find(ping->cluster, ping->target);
    (void)answer;
    if (member != NULL) {
        bool is_somewhere = error == NULL ||
            (error->kind != ERROR_UNAVAILABLE && error->kind != ERROR_TIMEOUT &&
             error->kind != ERROR_DENIED);
        member->unreached = is_somewhere ? 0 : member->unreached + 1;
    }
    if (error == NULL && !ping->cluster->is_stopping) {
        note_round_trip(ping->cluster, ping->target, (clock_monotonic_ns() - ping->sent_ns) / 1000);
    }
    free(ping);
}

void beat_ping(struct cluster *cluster)
{
    uint64_t now_ms = clock_boot_ms();
    if (cluster->member_count < 2 || now_ms < cluster->ping_ms) {
        return;
    }
    const struct member *member = &cluster->members[cluster->pinged++ % cluster->member_count];
    if ((!member->wanted_server && !lead_leads(cluster)) || member->id == cluster->identity.id) {
        return;
    }
    cluster->ping_ms = now_ms + PING_EVERY_MS;
    struct beat *ping = NEW(struct beat);
    *ping = (struct beat){cluster, member->id, clock_monotonic_ns()};
    MEMORY_OWNED char *target = memory_format("/v1/nodes/%s", member->name);
    call_node(cluster, member->id, "GET", target, NULL, on_pong, ping);
}
