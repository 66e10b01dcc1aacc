/*
 * Who votes: the leader keeps the wanted number of servers, spread over failure domains.  Pure.
 *
 * The leader asks membership_decide() whenever something changed and every second, performs the one
 * action it gets, and tells when the change is over.  What is decided depends on what is seen only:
 * a new leader goes on where the last one stopped.
 *
 * The rules, in the order of their weight:
 *  - a leader first looks around for MEMBERSHIP_LOOK_MS: until then nobody is SUSPECT for it;
 *  - one change at a time; none that leaves fewer healthy voters than a majority of all voters;
 *  - a node that is leaving, or that a person wants to be a worker, leaves; whoever leads transfers
 *    the leadership first;
 *  - a server that is LOST keeps its place for `lost_grace_ms`, and longer when nobody can take it;
 *  - add first, then remove;
 *  - those whom a person made servers come first, then domains with fewer servers, then those who
 *    are servers already: so that what is good enough is left alone;
 *  - a second or a fourth voter is not added unless a third or fifth can be: it makes nothing safer
 *    to reach.  One that is there is left alone;
 *  - what is not urgent (too many, better spread) waits until every voter is well and nothing was
 *    changed for MEMBERSHIP_CALM_MS.
 */
#ifndef SERVICE_CLUSTER_MEMBERSHIP_H
#define SERVICE_CLUSTER_MEMBERSHIP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "service/cluster/cluster.h"
#include "service/cluster/liveness.h"

enum {
    MEMBERSHIP_LOST_GRACE_MS = 60000, /* a machine may start anew meanwhile */
    MEMBERSHIP_STABLE_MS = 2000,      /* HEALTHY for so long: fit to be a server */
    MEMBERSHIP_SPREAD_MS = 30000, /* HEALTHY for so long: fit to take the place of a healthy one */
    MEMBERSHIP_CALM_MS = 10000,
    MEMBERSHIP_LOOK_MS = LIVENESS_SUSPECT_MS + LIVENESS_BEAT_MS,
    MEMBERSHIP_ENLIST_MS = 60000,  /* a node that does not become a server by then is passed over */
    MEMBERSHIP_WAITING_MS = 30000, /* a server that is not needed becomes a worker after that */
    MEMBERSHIP_NODES_MAX = 1024,
    MEMBERSHIP_REASON_MAX = 160,
};

/* What part a node has now. */
enum membership_role {
    MEMBERSHIP_WORKER,   /* follows; or its row says worker, and it is about to be one */
    MEMBERSHIP_ENLISTED, /* its row says server, its store is a worker's still */
    MEMBERSHIP_WAITING,  /* its store is a server's, the configuration does not have it */
    MEMBERSHIP_STANDBY,  /* in the configuration, without a vote: a change that was cut off */
    MEMBERSHIP_VOTER,
};

/*
 * What a person wants.  Of a row of `node`: eligible: AUTO; not eligible: what `role` says, and
 * nobody changes it unasked.
 */
enum membership_wish { MEMBERSHIP_AUTO, MEMBERSHIP_WANTED_SERVER, MEMBERSHIP_WANTED_WORKER };

struct membership_node {
    uint64_t id;
    const char *name; /* for reasons */
    enum membership_role role;
    enum membership_wish wish;
    enum cluster_health health;
    uint64_t health_since_ms; /* on the leader's clock, as now_ms */
    uint64_t role_since_ms;   /* since when the leader sees `role`; matters for ENLISTED, WAITING */
    bool is_leader;
    bool is_leaving; /* drained, or removed: in the configuration without a row */
    bool is_unfit; /* its disk is full, its store fails: no candidate, and replaced if it can be */
    const char *failure_domain; /* "": one of its own */
    unsigned schema;            /* the newest that its program knows */
    uint64_t lag;               /* entries behind the leader */
};

struct membership_input {
    const struct membership_node
        *nodes;             /* every node of the cluster, and all in the configuration */
    size_t count;           /* at most MEMBERSHIP_NODES_MAX */
    unsigned wanted;        /* voters: 1, 3 or 5 */
    bool is_changing;       /* a change of the configuration or of the leader runs */
    uint64_t begun_ms;      /* when this node began to lead */
    uint64_t changed_ms;    /* when the last one ended; else as begun_ms */
    unsigned schema;        /* of the state: a server must know it */
    uint64_t lost_grace_ms; /* MEMBERSHIP_LOST_GRACE_MS */
    uint64_t now_ms;
};

enum membership_action {
    MEMBERSHIP_NONE,
    MEMBERSHIP_ENLIST,   /* write role = server into its row: it becomes WAITING by itself.  As for
                            DISMISS the command expects `reign` to be the leader's (liveness.h):
                            or that of an earlier leader could undo what a later one relies on */
    MEMBERSHIP_ADD,      /* store_add_server() */
    MEMBERSHIP_REMOVE,   /* store_remove_server() */
    MEMBERSHIP_TRANSFER, /* store_transfer_leadership() */
    MEMBERSHIP_DISMISS,  /* write role = worker into its row */
};
const char *membership_action_text(enum membership_action action);

struct membership_decision {
    enum membership_action action;
    uint64_t id;                        /* whom; 0 for NONE */
    char reason[MEMBERSHIP_REASON_MAX]; /* a sentence for the log; of NONE: why not, or "" */
};

void membership_decide(const struct membership_input *input,
                       struct membership_decision *ret_decision);

/*
 * The version to which the schema may be raised: the highest that every node of the cluster knows,
 * lost ones as well (they come back), at most `known` (that this program knows) and never below
 * `now`.  *ret_holding is the id of a node that stands in the way of `known`, or 0.
 */
unsigned membership_schema(const struct membership_node *nodes, size_t count, unsigned now,
                           unsigned known, uint64_t *ret_holding);

#endif
