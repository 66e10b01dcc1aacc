/*
 * Inside service/cluster: the cluster from within.
 *
 *   cluster.c    life, and who is told what
 *   identity.c   the folder
 *   message.c    JSON in, answers out; call.c: to another node and back
 *   member.c     the rows of `node`, and what is known of each
 *   network.c    the listener, and streams for the store
 *   beat.c       heartbeats: sent, taken, answered
 *   lead.c       what the leader does: the reign, who votes, the schema
 *   role.c       what a node does when it is to be another
 *   authority.c  signing, renewing
 *   found.c      the first node of a cluster
 *   join.c       a new node, before its store opens; admit.c: those who let it in
 *   recover.c    a server goes on alone, offline
 *   change.c     nodes, tokens, clients: written
 *   describe.c   all of it as JSON
 *   view.c       the picture for other threads
 */
#ifndef SERVICE_CLUSTER_PARTS_H
#define SERVICE_CLUSTER_PARTS_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/error.h"
#include "base/http/http.h"
#include "base/json.h"
#include "base/list.h"
#include "base/log.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "engine/store/store.h"

#include "service/cluster/caller.h"
#include "service/cluster/cluster.h"
#include "service/cluster/identity.h"
#include "service/cluster/liveness.h"
#include "service/cluster/membership.h"
#include "service/cluster/token.h"

enum {
    CLUSTER_PROBLEMS_MAX = 8,
    CLUSTER_PROBLEM_SIZE = 160,
    CLUSTER_BEATS_OPEN_MAX = 16, /* that were not answered yet */
    CLUSTER_MESSAGE_MAX = 4 << 20,
};

struct problems {
    char texts[CLUSTER_PROBLEMS_MAX][CLUSTER_PROBLEM_SIZE];
    size_t count;
};
void problems_add(struct problems *problems, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void problems_write(const struct problems *problems, struct json_writer *writer);
void load_write(const struct cluster_load *load, struct json_writer *writer);
void problems_take(struct problems *problems, const json_t *list);

/* What a node says of itself, or the leader of it. */
struct facts {
    bool is_known;
    bool is_server;
    bool has_voted;
    bool votes; /* not on servers: these look into the configuration */
    bool is_ready;
    enum cluster_health health;
    uint64_t index;
    uint64_t lag;
    bool was_heard;
    uint64_t silent_ms; /* at `noted_ms` of the own boot clock */
    uint64_t noted_ms;
    struct liveness_clock clock;
    char isolation[16];
    struct cluster_load load; /* as old as what else was heard */
    struct problems problems; /* all that is known */
    struct problems reported; /* on the leader: what the node itself said */
};

/* A row of `node`, and what is known of it. */
struct member {
    uint64_t id;
    char name[CLUSTER_NAME_SIZE];
    char address[CLUSTER_ADDRESS_SIZE];
    char gateway[CLUSTER_ADDRESS_SIZE];
    char failure_domain[64];
    char version[64];
    char *labels; /* JSON */
    char pool[64];
    enum cluster_duty duty;
    char *taints;     /* JSON */
    char *attributes; /* JSON */
    char *drain;      /* JSON, or NULL */
    char zone[64];
    char rack[64];
    bool wanted_server;
    bool is_eligible;
    unsigned schema;
    uint64_t expires_ms;
    uint64_t joined_ms;

    struct facts facts;
    uint64_t rtt_us;
    unsigned unreached;        /* pings from here that failed since one that did not */
    enum membership_role part; /* on the leader, as it saw it last */
    uint64_t part_since_ms;
    bool was_told_lost;
    uint64_t appeared_ms; /* here, by the own boot clock */
    uint64_t lost_ms;     /* since when it is, here, by the own boot clock; 0: it is not */
};

struct cluster_listener {
    struct list_node link;
    struct cluster_events events;
    void *context;
};

/* What the leader keeps of its leading. */
struct leading {
    bool is_under_way; /* a change of the configuration or of who leads */
    bool writes_reign;
    bool writes_row;
    bool upgrades;
    uint64_t changed_ms;
    uint64_t purged_ms;
    char said[MEMBERSHIP_REASON_MAX]; /* the last reason in the log */
};

struct cluster {
    struct loop *loop;
    char *folder;
    char *node_name;
    char *address;
    char *advertise;
    char *join_addresses;
    char *failure_domain;
    char *version;
    char *isolation;
    char *gateway;
    void (*on_end)(const struct error *error, void *context);
    void *context;
    bool has_ended;
    bool is_stopping;
    bool is_draining;
    bool is_drained;
    bool steps_down;
    char *problem; /* of this node */

    bool is_member;
    bool is_founding;
    struct identity identity;
    char own_address[CLUSTER_ADDRESS_SIZE]; /* as others reach it */

    /* network.c */
    struct tls_context *listen_tls;
    struct tls_context *dial_tls;
    struct http_server *server;
    uint16_t port;
    http_handler handler;
    void *handler_context;
    struct list dials;
    struct list peers; /* clients of other nodes, kept */
    struct list retired;
    struct loop_timer *retire_timer;

    /* The state */
    struct store *store;
    struct store_watch *watch;
    bool reload_is_posted;
    unsigned servers_wanted;
    uint64_t written_reign; /* column `reign` */
    struct member *members; /* by name */
    size_t member_count;
    char rows_digest[65];

    /* beat.c */
    struct loop_timer *beat_timer;
    struct loop_timer *lease_timer;
    struct liveness_node liveness;
    struct liveness_leader leader;
    uint64_t leader_id; /* as the last answer had it; 0: unknown */
    uint64_t denied_id; /* did not answer as the leader, whatever the store says; 0: none */
    size_t asked;       /* which node is asked who leads */
    unsigned open_beats;
    size_t pinged; /* which server's distance is measured next */
    uint64_t ping_ms;
    uint64_t beaten_ms; /* when the leader answered last */
    struct liveness_clock clock;
    bool votes; /* the leader has this node in the configuration */
    bool wanted_server;
    bool wish_is_known;
    bool held; /* the lease, as was told last */

    struct leading leading;
    struct change *own_removal; /* somebody asks this node to remove itself */

    /* role.c, authority.c */
    bool changes_role;
    uint64_t role_retry_ms;
    bool renews;
    unsigned renew_attempts;
    uint64_t renew_retry_ms;
    uint64_t certificate_starts_ms;
    uint64_t certificate_ends_ms;
    uint64_t certificate_lifetime_ms; /* of those that this node signs */
    bool is_announced;
    bool announces;
    bool was_announced;
    char *attributes;                                                /* of this node, or NULL */
    void (*read_load)(struct cluster_load *ret_load, void *context); /* or NULL */
    void *load_context;
    bool announces_attributes;

    pthread_mutex_t view_mutex;
    struct cluster_view *view;
    struct list listeners;
};

/* ---- cluster.c ---- */
void cluster_end(struct cluster *cluster, const struct error *error);
void cluster_tick(struct cluster *cluster); /* with every beat */
void cluster_tell_view(struct cluster *cluster);
void cluster_check_lease(struct cluster *cluster);
/* The node has an identity: contexts, listener. */
int cluster_begin(struct cluster *cluster, struct error *err);
void cluster_tell_lost(struct cluster *cluster, uint64_t id);

/* ---- message.c: JSON in, answers out ---- */
bool message_take_id(const json_t *object, const char *key, uint64_t *ret_id);
bool message_take_u64(const json_t *object, const char *key, uint64_t *ret_value);
const char *message_text(const json_t *object, const char *key); /* "" when absent */
/* Copied; false when it is too long or no text. */
bool message_copy(const json_t *object, const char *key, char *ret_text, size_t size);
/* `done`, later and from the loop. */
void reply_with(struct cluster *cluster, struct cluster_reply reply, struct buffer *answer_or_null);
void reply_error(struct cluster *cluster, struct cluster_reply reply, const struct error *error);

/* ---- call.c ---- */
typedef void (*call_done)(const json_t *answer, const struct error *error, void *context);
/* `done` once, later.  The body is copied. */
void call_send(struct http_client *client, const char *method, const char *target,
               const struct buffer *body_or_null, call_done done, void *context);
/* The same at node `id`; TIMEOUT and UNAVAILABLE make the next call connect anew. */
void call_node(struct cluster *cluster, uint64_t id, const char *method, const char *target,
               const struct buffer *body_or_null, call_done done, void *context);
/* Connections that stand show the certificate that was ours when they began: make new ones. */
void call_forget(struct cluster *cluster);
void call_close(struct cluster *cluster); /* what runs ends with CANCELLED */

/* ---- member.c ---- */
void member_reload(struct cluster *cluster); /* tells of what has changed */
void member_reload_later(struct cluster *cluster);
void member_look(struct cluster *cluster); /* before an answer: it is of the state's own index */
void member_free(struct cluster *cluster);
/* Whom a worker may follow. */
void member_tell_servers(struct cluster *cluster);
struct member *member_find(struct cluster *cluster, uint64_t id);
struct member *member_find_name(struct cluster *cluster, const char *name);
struct member *member_self(struct cluster *cluster); /* NULL: its row is not there */
/* Its address by the rows, or as it was last seen; NULL: no such node. */
const char *member_address(struct cluster *cluster, uint64_t id);
const char *member_name(struct cluster *cluster, uint64_t id); /* "" */
/* Is it a node of the cluster, as far as this one can tell? */
bool member_is_known(struct cluster *cluster, uint64_t id);
/* A server that can sign and knows the key: this one (its own id), or the nearest; 0: none. */
uint64_t member_signer(struct cluster *cluster, unsigned attempt);
bool member_was_removed(struct cluster *cluster, uint64_t id);

/* ---- network.c ---- */
int network_listen(struct cluster *cluster, struct error *err);
int network_make_tls(struct cluster *cluster, struct error *err);
int network_update_tls(struct cluster *cluster, struct error *err);
void network_dial(uint64_t id, unsigned lane, void *context);
bool network_may_lead(uint64_t id, void *context);
/* What was answered goes out; runs the loop, for a second at most. */
void network_begin_drain(struct cluster *cluster);
void network_drain(struct cluster *cluster); /* and wait, a moment */
void network_close_listener(struct cluster *cluster);
void network_close(struct cluster *cluster);
/* Where others reach the listener: by the options, else as this host's addresses suggest. */
int network_own_address(struct cluster *cluster, const char *advertise, uint16_t port,
                        char ret_address[CLUSTER_ADDRESS_SIZE], struct error *err);

/* ---- beat.c ---- */
void beat_send(struct cluster *cluster);
void beat_ping(struct cluster *cluster); /* how far the servers are, one by one */

/* ---- lead.c ---- */
void lead_tick(struct cluster *cluster);
void lead_readmit(struct cluster *cluster, uint64_t id, uint64_t ticket);
bool lead_leads(struct cluster *cluster); /* and its state is current */

/* ---- role.c ---- */
void role_tick(struct cluster *cluster);

/* ---- authority.c ---- */
/* Sign for a node or a client; the CA key is opened for it and wiped.  UNAVAILABLE: not here. */
struct authority_subject {
    const char *request;
    const char *common_name;
    const char *uri;
    const char *address; /* of a node: its host is a name of the certificate; NULL: a client */
    uint64_t lifetime_ms;
};
int authority_sign(struct cluster *cluster, const struct authority_subject *subject,
                   struct buffer *ret_certificate, struct error *err);
#define AUTHORITY_SEAL "blixard cluster authority key"
void authority_tick(struct cluster *cluster); /* renews what is due */
/* By its clock this node's certificate begins later: nobody it speaks to is believed, nor it. */
bool authority_is_early(const struct cluster *cluster);
int authority_note_life(struct cluster *cluster, struct error *err);
/* The id of a node that sends this request: whoever repeats it is the same, and nobody else. */
uint64_t authority_id_of(const char *request);
/* The servers' key as hex. */
void authority_write_key(struct cluster *cluster, struct json_writer *writer, const char *key);
bool authority_take_key(const char *text, uint8_t ret_key[SEAL_KEY_SIZE]);
/* A new key and certificate, perhaps under another id; `done` later. */
void authority_renew(struct cluster *cluster, bool renumber,
                     void (*done)(const struct error *error, void *context), void *context);

/* ---- change.c ---- */
struct change;
/* The answer is the node of that name as it is then; "": nothing. */
struct change *change_of_node(struct cluster *cluster, const char *name,
                              struct cluster_reply reply);
void change_propose(struct change *change, struct store_command *owned_command);
int change_find_node(struct cluster *cluster, const char *name, struct member **ret_member,
                     struct error *err);

/* ---- duty.c ---- */
bool duty_is_known(struct cluster *cluster); /* the state has these columns (version 8) */
enum cluster_duty duty_parse(const char *text);
int duty_check_pool(const char *pool, struct error *err);
void duty_announce(struct cluster *cluster);

/* ---- again change.c ---- */
/* This node is removed: whoever asked it for that gets the answer. */
void change_end_own_removal(struct cluster *cluster);

/* ---- join.c ---- */
int join_cluster(struct cluster *cluster, const char *token, struct error *err);
/* A token that is not needed any more: EXISTS when it is another cluster's. */
int join_check_token(struct cluster *cluster, const char *token, struct error *err);

/* ---- describe.c ---- */
void describe_peers(struct cluster *cluster, struct json_writer *writer, uint64_t but);
void describe_id(struct json_writer *writer, const char *key, uint64_t id);
/* What its machines want of it. */
void describe_allocated(struct cluster *cluster, struct json_writer *writer, const char *node,
                        const char *attributes);
/* numa.c: a member `numa`, where the node has said which ones it has. */
void describe_numa(struct cluster *cluster, struct json_writer *writer, const char *node,
                   const char *attributes);
void describe_facts(struct json_writer *writer, const struct member *member);

/* ---- window.c ---- */
/* The array of NodeWindow of a node. */
void window_describe(struct cluster *cluster, struct json_writer *writer, const char *node);

/* ---- view.c ---- */
void view_update(struct cluster *cluster); /* and tells, when it is another */
/* What is known of it, and not too old. */
struct cluster_load view_load(const struct member *member, uint64_t now_ms, bool is_self);

#endif
