#include "service/cluster/cluster.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/stream/tls.h"
#include "base/version.h"

#include "service/cluster/parts.h"

enum { STEP_DOWN_MS = 2000 };

const char *cluster_health_text(enum cluster_health health)
{
    static const char *const texts[] = {"healthy", "suspect", "lost"};
    CHECK(health < CLUSTER_HEALTH_COUNT);
    return texts[health];
}

bool cluster_is_member(const struct cluster *cluster)
{
    return cluster->is_member;
}

const char *cluster_id(const struct cluster *cluster)
{
    return cluster->identity.cluster;
}

const char *cluster_name(const struct cluster *cluster)
{
    return cluster->identity.cluster_name;
}

uint16_t cluster_port(const struct cluster *cluster)
{
    return cluster->port;
}

/* ---- Being told ---- */

struct cluster_listener *cluster_listen(struct cluster *cluster,
                                        const struct cluster_events *events, void *context)
{
    struct cluster_listener *listener = NEW(struct cluster_listener);
    listener->events = *events;
    listener->context = context;
    list_push_back(&cluster->listeners, &listener->link);
    return listener;
}

void cluster_unlisten(struct cluster_listener *listener)
{
    if (listener != NULL) {
        list_remove(&listener->link);
        free(listener);
    }
}

void cluster_tell_view(struct cluster *cluster)
{
    LIST_EACH(node, &cluster->listeners)
    {
        struct cluster_listener *listener = LIST_ITEM(node, struct cluster_listener, link);
        if (listener->events.on_view != NULL) {
            listener->events.on_view(listener->context);
        }
    }
}

void cluster_tell_lost(struct cluster *cluster, uint64_t id)
{
    LIST_EACH(node, &cluster->listeners)
    {
        struct cluster_listener *listener = LIST_ITEM(node, struct cluster_listener, link);
        if (listener->events.on_lost != NULL) {
            listener->events.on_lost(id, listener->context);
        }
    }
}

/*
 * Nobody else is there who could take over.  A state that is being built anew after a start has
 * fewer nodes than there are: it does not count before it is as new as it was.
 */
static bool is_alone(const struct cluster *cluster)
{
    struct store_status status;
    if (cluster->store == NULL || cluster->member_count != 1 ||
        cluster->members[0].id != cluster->identity.id) {
        return false;
    }
    store_status(cluster->store, &status);
    return status.ready;
}

bool cluster_is_owner(const struct cluster *cluster)
{
    return !cluster->is_member || is_alone(cluster) ||
        liveness_holds(&cluster->liveness, clock_boot_ms());
}

uint64_t cluster_owns_until(const struct cluster *cluster)
{
    return !cluster->is_member || is_alone(cluster) ? UINT64_MAX : cluster->liveness.until_ms;
}

static void on_lease_timer(void *context)
{
    cluster_check_lease(context);
}

void cluster_check_lease(struct cluster *cluster)
{
    uint64_t now_ms = clock_boot_ms();
    if (cluster->store != NULL) {
        liveness_applied(&cluster->liveness, store_index(cluster->store));
    }
    bool holds = cluster_is_owner(cluster);
    uint64_t left_ms = liveness_left(&cluster->liveness, now_ms);
    if (left_ms > 0) {
        loop_timer_start(cluster->lease_timer, left_ms + 1);
    }
    if (holds == cluster->held) {
        return;
    }
    cluster->held = holds;
    log_write(holds ? LOG_LEVEL_INFO : LOG_LEVEL_WARN, "cluster: %s",
              holds ? "this node owns what it runs"
                    : "no lease: this node does not own what it runs any more");
    LIST_EACH(node, &cluster->listeners)
    {
        struct cluster_listener *listener = LIST_ITEM(node, struct cluster_listener, link);
        if (listener->events.on_lease != NULL) {
            listener->events.on_lease(holds, listener->context);
        }
    }
}

void cluster_end(struct cluster *cluster, const struct error *error)
{
    if (!cluster->has_ended && !cluster->is_stopping) {
        cluster->has_ended = true;
        log_error("cluster: %s", error->text);
        change_end_own_removal(cluster);
        cluster->on_end(error, cluster->context);
    }
}

void cluster_set_problem(struct cluster *cluster, const char *problem_or_null)
{
    free(cluster->problem);
    cluster->problem = problem_or_null != NULL ? memory_copy_string(problem_or_null) : NULL;
}

void cluster_set_handler(struct cluster *cluster,
                         void (*handler)(struct http_exchange *exchange, void *context),
                         void *context)
{
    cluster->handler = handler;
    cluster->handler_context = context;
    if (handler == NULL) {
        network_begin_drain(cluster);
    }
}

/* ---- The own row ---- */

static void on_announced(const struct error *error, uint64_t index, void *context)
{
    struct cluster *cluster = context;
    (void)index;
    cluster->announces = false;
    cluster->is_announced = error == NULL;
    if (error != NULL) {
        log_debug("cluster: the own row is not written yet: %s", error->text);
    }
}

/* What this node is may have changed while it did not run: another address, another program. */
static void announce(struct cluster *cluster)
{
    const struct member *self = member_self(cluster);
    struct store_status status;
    store_status(cluster->store, &status);
    if (!cluster->was_announced || cluster->is_announced || cluster->announces || self == NULL ||
        !status.ready) {
        return;
    }
    const char *domain =
        cluster->failure_domain[0] != '\0' ? cluster->failure_domain : self->failure_domain;
    if (strcmp(self->address, cluster->own_address) == 0 &&
        strcmp(self->gateway, cluster->gateway) == 0 &&
        strcmp(self->version, cluster->version) == 0 && self->schema == store_schema_version() &&
        strcmp(self->failure_domain, domain) == 0) {
        cluster->is_announced = true;
        return;
    }
    struct store_command *command = store_command_new();
    cluster->announces = true;
    store_command_add_expecting(command, ERROR_NOT_FOUND, "the node has no row",
                                "UPDATE node SET address = ?, gateway = ?, version = ?, schema = "
                                "?, failure_domain = ?, revision = ? WHERE id = ?",
                                "tttutru", cluster->own_address, cluster->gateway, cluster->version,
                                (uint64_t)store_schema_version(), domain, self->id);
    store_propose(cluster->store, command, on_announced, cluster);
}

void cluster_announce(struct cluster *cluster, const char *gateway)
{
    free(cluster->gateway);
    cluster->gateway = memory_copy_string(gateway);
    cluster->was_announced = true;
    if (cluster->is_member) {
        announce(cluster);
    }
}

/* ---- The version of the state ---- */

static int check_schema(unsigned schema, struct error *err)
{
    return schema <= store_schema_version()
        ? 0
        : error_set(
              err, ERROR_UNSUPPORTED,
              "the cluster's state is of schema %u, and this Blixard, %s, knows %u: start the "
              "newer Blixard that this node ran before, or the others run",
              schema, blixard_version, store_schema_version());
}

/* Written down, so that an older program which is started by mistake is refused before it opens
 * the log; one that runs while the others go on without it ends here. */
static void note_schema(struct cluster *cluster)
{
    struct error err = {0};
    unsigned now = store_schema_now(cluster->store);
    if (now > cluster->identity.schema) {
        cluster->identity.schema = now;
        if (identity_write_facts(cluster->folder, &cluster->identity, &err) < 0) {
            cluster->identity.schema = 0; /* at the next beat again */
            log_warn("cluster: %s", err.text);
        }
    }
    if (check_schema(now, &err) < 0) {
        cluster_end(cluster, &err);
    }
}

/* ---- The beat of it all ---- */

void cluster_tick(struct cluster *cluster)
{
    if (!cluster->is_member || cluster->store == NULL || cluster->is_stopping) {
        return;
    }
    note_schema(cluster);
    member_reload(cluster);
    lead_tick(cluster);
    beat_send(cluster);
    beat_ping(cluster);
    announce(cluster);
    duty_announce(cluster);
    role_tick(cluster);
    authority_tick(cluster);
    cluster_check_lease(cluster);
}

static void on_beat(void *context)
{
    struct cluster *cluster = context;
    loop_timer_start(cluster->beat_timer, LIVENESS_BEAT_MS);
    cluster_tick(cluster);
}

static void on_change(const struct store_event *event, void *context)
{
    struct cluster *cluster = context;
    if (event->operation == 'R' || strcmp(event->table, "node") == 0 ||
        strcmp(event->table, "cluster") == 0) {
        member_reload_later(cluster);
    }
}

/* Later: this may come from the inside of the store. */
void cluster_leader_changed(struct cluster *cluster)
{
    if (cluster->store != NULL && !cluster->is_stopping) {
        loop_timer_start(cluster->beat_timer, 0);
    }
}

/* ---- Life ---- */

int cluster_begin(struct cluster *cluster, struct error *err)
{
    int r = network_make_tls(cluster, err);
    r = r < 0 ? r : authority_note_life(cluster, err);
    r = r < 0 ? r : network_listen(cluster, err);
    if (r == 0) {
        cluster->is_member = true;
        cluster->held = false;
        liveness_node_init(&cluster->liveness, cluster->identity.id);
    }
    return r;
}

static struct cluster *cluster_new(const struct cluster_options *options)
{
    struct cluster *cluster = NEW(struct cluster);
    cluster->loop = options->loop;
    cluster->folder = memory_copy_string(options->folder);
    cluster->node_name = memory_copy_string(options->node_name);
    cluster->address = memory_copy_string(options->address);
    cluster->advertise = memory_copy_string(options->advertise);
    cluster->join_addresses =
        memory_copy_string(options->join_addresses != NULL ? options->join_addresses : "");
    cluster->failure_domain = memory_copy_string(options->failure_domain);
    cluster->version = memory_copy_string(options->version);
    cluster->isolation = memory_copy_string(options->isolation);
    cluster->gateway = memory_copy_string(options->gateway);
    cluster->certificate_lifetime_ms = options->certificate_lifetime_ms;
    cluster->on_end = options->on_end;
    cluster->context = options->context;
    cluster->held = true;
    list_init(&cluster->dials);
    list_init(&cluster->peers);
    list_init(&cluster->retired);
    list_init(&cluster->listeners);
    pthread_mutex_init(&cluster->view_mutex, NULL);
    cluster->beat_timer = loop_timer_new(cluster->loop, on_beat, cluster);
    cluster->lease_timer = loop_timer_new(cluster->loop, on_lease_timer, cluster);
    view_update(cluster);
    return cluster;
}

int cluster_open(const struct cluster_options *options, const char *token_or_null,
                 struct cluster **ret_cluster, struct error *err)
{
    struct cluster *cluster = cluster_new(options);
    bool has_identity = file_exists(cluster->folder);
    int r = 0;
    if (has_identity) {
        r = identity_read(cluster->folder, &cluster->identity, err);
        r = r < 0 ? r : check_schema(cluster->identity.schema, err);
        r = r == 0 && token_or_null != NULL ? join_check_token(cluster, token_or_null, err) : r;
    } else if (token_or_null != NULL) {
        r = join_cluster(cluster, token_or_null, err);
        has_identity = r == 0;
    }
    if (r == 0 && has_identity) {
        r = cluster_begin(cluster, err);
        r = r < 0 ? r
                  : network_own_address(cluster, cluster->advertise, cluster->port,
                                        cluster->own_address, err);
    }
    if (r < 0) {
        cluster_stop(cluster);
        cluster_close(cluster);
        return r;
    }
    *ret_cluster = cluster;
    return 0;
}

void cluster_fill_store_options(struct cluster *cluster, struct store_options *options)
{
    options->network = (struct store_network){
        .dial = network_dial, .may_lead = network_may_lead, .context = cluster};
    if (cluster->is_member) {
        options->role = cluster->identity.is_server ? STORE_SERVER : STORE_WORKER;
        options->node_id = cluster->identity.id;
        options->joins = true;
        options->exists = cluster->identity.is_server && cluster->identity.has_log;
    }
}

void cluster_attach(struct cluster *cluster, struct store *store)
{
    cluster->store = store;
    cluster->watch = store_watch_new(store, NULL, on_change, cluster);
    if (cluster->is_member) {
        uint64_t servers[64];
        size_t count = 0;
        for (size_t i = 0; i < cluster->identity.peer_count && count < 64; i++) {
            if (cluster->identity.peers[i].is_server) {
                servers[count++] = cluster->identity.peers[i].id;
            }
        }
        store_set_servers(store, servers, count);
    }
    view_update(cluster);
    on_beat(cluster);
}

static void on_late(void *context)
{
    struct cluster *cluster = context;
    cluster->steps_down = false;
    uv_stop(loop_uv(cluster->loop));
}

static void on_stepped_down(const struct error *error, void *context)
{
    struct cluster *cluster = context;
    if (error != NULL) {
        log_warn("cluster: nobody took the leadership over: %s", error->text);
    }
    cluster->steps_down = false;
    uv_stop(loop_uv(cluster->loop));
}

void cluster_step_down(struct cluster *cluster)
{
    struct store_status status;
    size_t voters = 0;
    store_status(cluster->store, &status);
    for (size_t i = 0; i < status.server_count; i++) {
        voters += status.servers[i].votes;
    }
    if (!cluster->is_member || !status.is_leader || voters < 2) {
        return;
    }
    cluster->steps_down = true;
    struct loop_timer *late = loop_timer_new(cluster->loop, on_late, cluster);
    loop_timer_start(late, STEP_DOWN_MS);
    store_transfer_leadership(cluster->store, 0, on_stepped_down, cluster);
    while (cluster->steps_down) {
        loop_run(cluster->loop);
    }
    loop_timer_free(late);
}

void cluster_stop(struct cluster *cluster)
{
    cluster->is_stopping = true;
    if (cluster->is_member && cluster->store != NULL) {
        note_schema(cluster);
    }
    cluster->handler = NULL;
    loop_timer_free(cluster->beat_timer);
    loop_timer_free(cluster->lease_timer);
    cluster->beat_timer = NULL;
    cluster->lease_timer = NULL;
    call_close(cluster);
    network_drain(cluster);
    network_close(cluster);
    if (cluster->store != NULL) {
        store_watch_free(cluster->watch);
        cluster->watch = NULL;
    }
    loop_flush(cluster->loop); /* what was posted before this refers to the cluster */
}

void cluster_close(struct cluster *cluster)
{
    if (cluster == NULL) {
        return;
    }
    CHECK(list_is_empty(&cluster->listeners));
    cluster->store = NULL;     /* it was closed before */
    loop_flush(cluster->loop); /* what was posted before this refers to the cluster */
    member_free(cluster);
    cluster_view_unref(cluster->view);
    tls_context_unref(cluster->listen_tls);
    tls_context_unref(cluster->dial_tls);
    identity_done(&cluster->identity);
    pthread_mutex_destroy(&cluster->view_mutex);
    free(cluster->folder);
    free(cluster->node_name);
    free(cluster->address);
    free(cluster->advertise);
    free(cluster->join_addresses);
    free(cluster->failure_domain);
    free(cluster->version);
    free(cluster->isolation);
    free(cluster->gateway);
    free(cluster->problem);
    free(cluster->attributes);
    free(cluster);
}
