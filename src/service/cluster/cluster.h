/*
 * The cluster: who the nodes are, which of them are servers, who lives, and how they trust.
 *
 * A node that was started alone is its own cluster of one.  cluster_init() gives it an authority of
 * its own (P-256), a name and a listener with mutual TLS; others join with a token.  From then on:
 *
 *   identity    FOLDER/cluster: node.json (cluster, id, name, role, peers last seen), ca.pem,
 *               node.pem, node.key, and on servers servers.key (opens the sealed CA key).  All
 * 0600. names       spiffe://CLUSTER/node/ID and spiffe://CLUSTER/client/NAME in certificates life
 * every node tells the leader twice a second that it lives, how it does and what time it has; the
 * leader answers with what it knows of all, and with a lease (liveness.h) servers     the leader
 * keeps as many as are wanted, spread over failure domains (membership.h)
 *
 * Main loop thread, except cluster_view_*(): any thread.  Decisions are pure functions of what was
 * seen and the time (liveness.h, membership.h), so that the simulator runs them as they are.
 */
#ifndef SERVICE_CLUSTER_CLUSTER_H
#define SERVICE_CLUSTER_CLUSTER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buffer;
struct cluster;
struct cluster_view;
struct error;
struct http_client;
struct loop;
struct store;
struct stream;
struct tls_context;

enum cluster_health { CLUSTER_HEALTHY, CLUSTER_SUSPECT, CLUSTER_LOST, CLUSTER_HEALTH_COUNT };
const char *cluster_health_text(enum cluster_health health);

/* ---- The nodes, as far as this one knows: an immutable picture, counted; any thread ---- */

struct cluster_node {
    uint64_t id;
    char name[64];
    char address[128]; /* HOST:PORT of its TLS listener */
    char gateway[128];
    char identity[128]; /* spiffe://CLUSTER/node/ID */
    char failure_domain[64];
    bool is_server;
    bool is_leader;
    bool is_self;
    enum cluster_health health;
    uint64_t rtt_us; /* from here, smoothed; 0: unknown */
};

struct cluster_view {
    _Atomic unsigned references;
    struct tls_context *tls; /* for clients of other nodes; NULL: there is no cluster */
    uint64_t self_id;
    size_t count;
    struct cluster_node nodes[]; /* self first, then the nearest first */
};

struct cluster_view *cluster_view_ref(struct cluster *cluster); /* never NULL */
void cluster_view_unref(struct cluster_view *view);

/* NULL: no such node. */
const struct cluster_node *cluster_view_find(const struct cluster_view *view, uint64_t id);

/*
 * An HTTP/2 client of another node, mutual TLS, for the calling loop; end it with
 * http_client_free().  Its calls go to the API of that node as this node: permission `node`.
 */
int cluster_client_new(struct loop *loop, const struct cluster_view *view,
                       const struct cluster_node *node, uint64_t answer_timeout_ms,
                       struct http_client **ret_client, struct error *err);

/* ---- Owning: may this node act as the owner of what it runs? ---- */

/* True while its lease holds; always where there is one node.  See liveness.h. */
bool cluster_is_owner(const struct cluster *cluster);

struct cluster_events {
    void (*on_view)(void *context);              /* another picture; may be NULL */
    void (*on_lease)(bool holds, void *context); /* the lease was lost or is back; may be NULL */
    /* On the leader: node `id` is lost, and its lease is over: what it ran may start elsewhere. */
    void (*on_lost)(uint64_t id, void *context); /* may be NULL */
};
struct cluster_listener;
struct cluster_listener *cluster_listen(struct cluster *cluster,
                                        const struct cluster_events *events, void *context);
void cluster_unlisten(struct cluster_listener *listener);

#endif
