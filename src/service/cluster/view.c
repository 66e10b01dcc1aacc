/*
 * The picture of the cluster for everybody else: immutable, counted, exchanged when something has
 * changed.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/stream/tls.h"

#include "service/cluster/parts.h"

struct cluster_view *cluster_view_ref(struct cluster *cluster)
{
    pthread_mutex_lock(&cluster->view_mutex);
    struct cluster_view *view = cluster->view;
    view->references++;
    pthread_mutex_unlock(&cluster->view_mutex);
    return view;
}

void cluster_view_unref(struct cluster_view *view)
{
    if (view != NULL && --view->references == 0) {
        if (view->tls != NULL) {
            tls_context_unref(view->tls);
        }
        free(view);
    }
}

int cluster_client_new(struct loop *loop, const struct cluster_view *view,
                       const struct cluster_node *node, uint64_t answer_timeout_ms,
                       struct http_client **ret_client, struct error *err)
{
    if (view->tls == NULL) {
        return error_set(err, ERROR_UNAVAILABLE, "this node is in no cluster");
    }
    const struct http_client_options options = {.tls = view->tls,
                                                .identity = node->identity,
                                                .is_to_node = true,
                                                .answer_timeout_ms = answer_timeout_ms};
    return http_client_new(loop, node->address, &options, ret_client, err);
}

/* ---- Making one ---- */

struct cluster_load view_load(const struct member *member, uint64_t now_ms, bool is_self)
{
    const struct facts *facts = &member->facts;
    uint64_t age_ms = is_self ? 0 : facts->silent_ms + (now_ms - facts->noted_ms);
    bool is_of_now = is_self || (facts->was_heard && age_ms <= CLUSTER_LOAD_MS);
    return is_of_now ? facts->load : (struct cluster_load){0};
}

static void fill(struct cluster *cluster, struct member *member, uint64_t leader,
                 struct cluster_node *node)
{
    node->id = member->id;
    snprintf(node->name, sizeof(node->name), "%s", member->name);
    snprintf(node->address, sizeof(node->address), "%s", member->address);
    snprintf(node->gateway, sizeof(node->gateway), "%s", member->gateway);
    snprintf(node->failure_domain, sizeof(node->failure_domain), "%s", member->failure_domain);
    identity_format_uri(cluster->identity.cluster, member->id, node->identity,
                        sizeof(node->identity));
    node->is_server = member->facts.is_known ? member->facts.is_server : member->wanted_server;
    node->is_leader = member->id == leader;
    node->is_self = member->id == cluster->identity.id;
    node->health = member->facts.health;
    uint64_t now_ms = clock_boot_ms();
    uint64_t lost_ms = member->lost_ms != 0 ? member->lost_ms : now_ms;
    member->lost_ms = node->health == CLUSTER_LOST ? lost_ms : 0;
    node->lost_ms = member->lost_ms;
    node->duty = member->duty;
    snprintf(node->pool, sizeof(node->pool), "%s", member->pool);
    snprintf(node->zone, sizeof(node->zone), "%s", member->zone);
    snprintf(node->rack, sizeof(node->rack), "%s", member->rack);
    node->rtt_us = member->rtt_us;
    node->load = view_load(member, now_ms, node->is_self);
    if (node->is_self && cluster->read_load != NULL) {
        cluster->read_load(&node->load, cluster->load_context);
    }
}

/* Coarse, or the order would change with every measurement. */
static unsigned distance(const struct cluster_node *node)
{
    static const uint64_t limits_us[] = {3000, 15000, 60000, UINT64_MAX};
    unsigned step = 0;
    while (node->rtt_us > limits_us[step]) {
        step++;
    }
    return node->rtt_us == 0 ? 2 : step;
}

/* Among equals each node has an order of its own, so that not all of them lean on the same one. */
static uint64_t lot(uint64_t self, uint64_t id)
{
    uint64_t mixed = (self ^ id) * UINT64_C(0x9e3779b97f4a7c15);
    return mixed ^ mixed >> 29;
}

static int compare(const void *a, const void *b, void *context)
{
    const struct cluster_node *x = a;
    const struct cluster_node *y = b;
    const uint64_t *self = context;
    if (x->is_self != y->is_self) {
        return x->is_self ? -1 : 1;
    }
    unsigned dx = distance(x);
    unsigned dy = distance(y);
    if (dx != dy) {
        return dx < dy ? -1 : 1;
    }
    return lot(*self, x->id) < lot(*self, y->id) ? -1 : 1;
}

static struct cluster_view *make(struct cluster *cluster)
{
    struct store_status status = {0};
    if (cluster->store != NULL) {
        store_status(cluster->store, &status);
    }
    uint64_t leader = status.leader_id != 0 ? status.leader_id : cluster->leader_id;
    struct cluster_view *view = memory_new(
        1, sizeof(struct cluster_view) + cluster->member_count * sizeof(struct cluster_node));
    view->references = 1;
    view->self_id = cluster->is_member ? cluster->identity.id : status.node_id;
    view->tls = cluster->dial_tls != NULL ? tls_context_ref(cluster->dial_tls) : NULL;
    view->count = cluster->member_count;
    for (size_t i = 0; i < cluster->member_count; i++) {
        fill(cluster, &cluster->members[i], leader, &view->nodes[i]);
    }
    qsort_r(view->nodes, view->count, sizeof(view->nodes[0]), compare, &view->self_id);
    return view;
}

/* A measured time by itself is no news. */
static bool is_same_node(const struct cluster_node *a, const struct cluster_node *b)
{
    return a->id == b->id && a->health == b->health && a->duty == b->duty &&
        strcmp(a->pool, b->pool) == 0 && strcmp(a->zone, b->zone) == 0 &&
        strcmp(a->rack, b->rack) == 0 && a->is_server == b->is_server &&
        a->is_leader == b->is_leader && a->is_self == b->is_self && strcmp(a->name, b->name) == 0 &&
        strcmp(a->address, b->address) == 0 && strcmp(a->gateway, b->gateway) == 0 &&
        strcmp(a->identity, b->identity) == 0 && strcmp(a->failure_domain, b->failure_domain) == 0;
}

static bool is_same(const struct cluster_view *a, const struct cluster_view *b)
{
    bool same = a->count == b->count && a->tls == b->tls && a->self_id == b->self_id;
    for (size_t i = 0; same && i < a->count; i++) {
        same = is_same_node(&a->nodes[i], &b->nodes[i]);
    }
    return same;
}

void view_update(struct cluster *cluster)
{
    struct cluster_view *now = make(cluster);
    struct cluster_view *before = cluster->view;
    bool is_news = before == NULL || !is_same(before, now);
    pthread_mutex_lock(&cluster->view_mutex);
    cluster->view = now;
    pthread_mutex_unlock(&cluster->view_mutex);
    cluster_view_unref(before);
    if (is_news) {
        member_tell_servers(cluster);
        cluster_tell_view(cluster);
    }
}
