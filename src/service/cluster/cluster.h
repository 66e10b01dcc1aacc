/*
 * The cluster: who the nodes are, which of them are servers, who lives, and how they trust.
 *
 * A node that was started alone is its own cluster of one.  cluster_init() gives it an authority of
 * its own (P-256), a name and a listener with mutual TLS; others join with a token.  From then on:
 *
 *   identity   FOLDER: node.json (cluster, id, name, role, peers last seen), ca.pem, node.pem,
 *              node.key, and on servers servers.key (opens the sealed CA key).  All 0600.
 *   names      spiffe://CLUSTER/node/ID and spiffe://CLUSTER/client/NAME in certificates
 *   life       every node tells the leader twice a second that it lives, how it does and what time
 *              it has; the leader answers with what it knows of all, and with a lease (liveness.h)
 *   servers    the leader keeps as many as are wanted, spread over failure domains (membership.h)
 *
 * Main loop thread, except cluster_view_*(): any thread.  Decisions are pure functions of what was
 * seen and the time (liveness.h, membership.h), so that the simulator runs them as they are.
 */
#ifndef SERVICE_CLUSTER_CLUSTER_H
#define SERVICE_CLUSTER_CLUSTER_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buffer;
struct cluster;
struct cluster_load;
struct cluster_view;
struct error;
struct http_client;
struct http_exchange;
struct loop;
struct store;
struct store_options;
struct stream;
struct tls_context;

enum cluster_health { CLUSTER_HEALTHY, CLUSTER_SUSPECT, CLUSTER_LOST, CLUSTER_HEALTH_COUNT };
const char *cluster_health_text(enum cluster_health health);

/* Whether a node takes work: what is new goes to active ones alone. */
enum cluster_duty {
    CLUSTER_ACTIVE,
    CLUSTER_CORDONED, /* what it has stays */
    CLUSTER_DRAINING, /* what it has leaves */
    CLUSTER_DRAINED,  /* what was to leave has left */
    CLUSTER_DUTY_COUNT
};
const char *cluster_duty_text(enum cluster_duty duty);

/* ---- Life: open, store, attach, (the services), announce; stop, (store), close ---- */

struct cluster_options {
    struct loop *loop;
    const char *folder;    /* of the identity; the texts are copied */
    const char *node_name; /* of a node that joins or begins a cluster */
    const char *address;   /* where to listen */
    const char *advertise; /* HOST or HOST:PORT for the others; "": found out */
    const char
        *join_addresses; /* HOST:PORT with commas, instead of those of the token; "" or NULL */
    const char *failure_domain;
    const char *version; /* of Blixard */
    const char *isolation;
    const char *gateway; /* HOST:PORT as configured: what a joining node says of itself */
    uint64_t certificate_lifetime_ms; /* of those that this node signs */
    /* Once: the node must end (it was removed: DENIED), with the error. */
    void (*on_end)(const struct error *error, void *context);
    void *context;
};

/*
 * Read the identity; with a token and without an identity, join (runs the loop until the cluster
 * has answered, at most two minutes).  Where there is an identity, listen.  DENIED, EXISTS (the
 * identity of another cluster), UNAVAILABLE, CORRUPT, INVALID, OS.
 */
int cluster_open(const struct cluster_options *options, const char *token_or_null,
                 struct cluster **ret_cluster, struct error *err);

/* Role, id and network of the store that is to be opened next. */
void cluster_fill_store_options(struct cluster *cluster, struct store_options *options);

/* The store is open: heartbeats begin, streams are taken. */
void cluster_attach(struct cluster *cluster, struct store *store);

/* Requests of peers and remote clients go to `handler` (before: 503); NULL: no more, the listener
 * is closed and connections are told. */
void cluster_set_handler(struct cluster *cluster,
                         void (*handler)(struct http_exchange *exchange, void *context),
                         void *context);

/* This node serves, `gateway` is where: its row says so from now on. */
void cluster_announce(struct cluster *cluster, const char *gateway);

/* Of the store: who leads has changed. */
void cluster_leader_changed(struct cluster *cluster);

/* Whether anything is wrong with this node, told with each heartbeat; NULL: no more. */
void cluster_set_problem(struct cluster *cluster, const char *problem_or_null);

/* Another server leads from now on, if there is one; runs the loop, for two seconds at most. */
void cluster_step_down(struct cluster *cluster);

/* No more heartbeats, no more streams, no more listening; then store_close(), cluster_close(). */
void cluster_stop(struct cluster *cluster);
void cluster_close(struct cluster *cluster);

/* ---- Looking ---- */

bool cluster_is_member(const struct cluster *cluster); /* false: alone */
const char *cluster_id(const struct cluster *cluster); /* "" when alone */
const char *cluster_name(const struct cluster *cluster);
uint16_t cluster_port(const struct cluster *cluster); /* of the listener, or 0 */

/* A Cluster, NodeList or Node of spec/types.def, as JSON. */
int cluster_write(struct cluster *cluster, struct buffer *out, struct error *err);
int cluster_write_nodes(struct cluster *cluster, struct buffer *out, struct error *err);
int cluster_write_node(struct cluster *cluster, const char *name, struct buffer *out,
                       struct error *err);
int cluster_write_tokens(struct cluster *cluster, struct buffer *out, struct error *err);
int cluster_write_clients(struct cluster *cluster, struct buffer *out, struct error *err);

/* ---- Changing: `done` once, later, with the answer as JSON (lent; NULL: none) or an error ---- */

struct cluster_reply {
    void (*done)(const struct error *error, struct buffer *answer, void *context);
    void *context;
};

/* `servers` 0: 3.  `address` NULL: as the options say. */
void cluster_init(struct cluster *cluster, const char *name, unsigned servers, const char *address,
                  struct cluster_reply reply);
/* NULL: the server that is furthest. */
void cluster_set_leader(struct cluster *cluster, const char *node_or_null,
                        struct cluster_reply reply);

/* NULL: as it is. */
void cluster_update_node(struct cluster *cluster, const char *name, const char *role_or_null,
                         const char *failure_domain_or_null, const char *pool_or_null,
                         struct cluster_reply reply);
/* `value` NULL: take it off. */
void cluster_label_node(struct cluster *cluster, const char *name, const char *label,
                        const char *value_or_null, struct cluster_reply reply);
void cluster_remove_node(struct cluster *cluster, const char *name, struct cluster_reply reply);

/* Takes it nothing new from now on (true), or again (false)?  CONFLICT: it is drained, and is to be
 * restored. */
void cluster_cordon_node(struct cluster *cluster, const char *name, bool is_cordoned,
                         struct cluster_reply reply);
/* A taint of `key`: the one that it has is replaced.  `effect` is NoSchedule, PreferNoSchedule or
 * NoExecute; NULL: take it off. */
void cluster_taint_node(struct cluster *cluster, const char *name, const char *key,
                        const char *value_or_null, const char *effect_or_null,
                        struct cluster_reply reply);
/*
 * Say when a node is maintained: a body of type NodeWindowSet; one of that name is replaced.
 * INVALID, LIMIT; of the deletion NOT_FOUND.  Who carries it out is service/node.
 */
void cluster_set_window(struct cluster *cluster, const char *name, const char *window,
                        const json_t *body, struct cluster_reply reply);
void cluster_delete_window(struct cluster *cluster, const char *name, const char *window,
                           struct cluster_reply reply);

/* A window, with its opening that is now or next; lent for the visit. */
struct cluster_window {
    const char *node;
    const char *name;
    uint64_t opens_ms; /* 0: it will not open any more; Unix time */
    uint64_t closes_ms;
    uint64_t drains_ms;   /* when its node begins to be drained */
    uint64_t deadline_ms; /* how long before that is */
    uint64_t begun_ms;    /* the opening for which its node was drained last; 0: none was */
    bool is_forced;
    const char *problem;
};
int cluster_windows_each(struct cluster *cluster, uint64_t now_ms,
                         void (*visit)(const struct cluster_window *window, void *context),
                         void *context, struct error *err);

/* What this node has, as JSON: its row has it soon, when that is news. */
void cluster_set_attributes(struct cluster *cluster, const char *attributes);
/* Who knows this node's load, which is told with each heartbeat and is in no log: `read` is asked
 * on the loop; NULL: nobody, from now on. */
void cluster_set_load(struct cluster *cluster,
                      void (*read)(struct cluster_load *ret_load, void *context), void *context);

/* NULL and 0: the defaults, "server", three hours, one use. */
void cluster_create_token(struct cluster *cluster, const char *role_or_null, uint64_t ttl_ms,
                          uint64_t uses, struct cluster_reply reply);
void cluster_delete_token(struct cluster *cluster, const char *id, struct cluster_reply reply);
void cluster_create_client(struct cluster *cluster, const char *name, const char *kind,
                           uint64_t ttl_ms, struct cluster_reply reply);
void cluster_delete_client(struct cluster *cluster, const char *name, struct cluster_reply reply);

/* ---- What peers and newcomers ask: a body that is of its type, checked further here ---- */

void cluster_join(struct cluster *cluster, const json_t *join, struct cluster_reply reply);
void cluster_login(struct cluster *cluster, const json_t *login, struct cluster_reply reply);
/* `node`: who asks, by its certificate (caller.h). */
void cluster_take_heartbeat(struct cluster *cluster, uint64_t node, const json_t *heartbeat,
                            struct cluster_reply reply);
void cluster_renew_certificate(struct cluster *cluster, uint64_t node, const json_t *request,
                               struct cluster_reply reply);
void cluster_give_key(struct cluster *cluster, uint64_t node, struct cluster_reply reply);

/* ---- The nodes, as far as this one knows: an immutable picture, counted; any thread ---- */

/* Calls of functions at a node, and what it has for them. */
struct cluster_load {
    uint32_t running;
    uint32_t waiting;
    uint32_t cpus; /* 0: nothing is known of it, or only what is too old */
};

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
    uint64_t lost_ms; /* since when it is LOST, by the boot clock and as seen from here; or 0 */
    enum cluster_duty duty;
    char pool[64];
    char zone[64]; /* "": it does not say */
    char rack[64];
    uint64_t rtt_us; /* from here, smoothed; 0: unknown */
    /* As it was when it was heard last, at most CLUSTER_LOAD_MS ago when this picture was made. */
    struct cluster_load load;
};

enum { CLUSTER_LOAD_MS = 3000 };

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
const struct cluster_node *cluster_view_find_name(const struct cluster_view *view,
                                                  const char *name);

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

/* Until when, by the boot clock, if nothing is heard from now on; UINT64_MAX: for ever (one node);
 * 0: there was none since the start. */
uint64_t cluster_owns_until(const struct cluster *cluster);

/*
 * What is ended by somebody who outlives the daemon (the monitors of machines) has a longer time
 * for it: CLUSTER_FENCE_MS after that.  The leader moves such things no earlier than
 * CLUSTER_FENCED_MS after it judged a node LOST, by the same reasoning as in liveness.h.
 */
enum { CLUSTER_FENCE_MS = 15000, CLUSTER_FENCED_MS = 16000 };

/* How the reason of a machine begins (column of its row) that waits for its lost node, or for
 * another one to have room: whoever waits for the machine need not wait for that. */
#define CLUSTER_LOST_REASON "node %s is lost, and "

/*
 * Is the work of `key` ("trigger/default/nightly", ...) this node's: does its lease hold, and is it
 * the one of the live nodes to which the key belongs (ownership.h)?  Two nodes may think so for as
 * long as their pictures differ: what must happen once is made so by a command.  Ask again when the
 * picture or the lease changes.
 */
bool cluster_owns(struct cluster *cluster, const char *key);

/* On the leader: may what node `id` owned be given to another, by a command that expects
 * cluster.reign to be *ret_reign? */
bool cluster_may_move(const struct cluster *cluster, uint64_t id, uint64_t *ret_reign);

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
