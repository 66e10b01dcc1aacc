/*
 * Who lives, and who may act as the owner of what it runs.  Pure: no clock, no socket; the same
 * code runs in the simulator.
 *
 * Every node beats: twice a second it sends a `liveness_beat` to the leader (the leader to itself
 * as well, without a network) and gets a `liveness_answer`.  From these the leader judges, and the
 * node knows whether it holds a lease.  A node acts as an owner only while liveness_holds(), asked
 * at the moment of acting; what a LOST node owned may be moved to another by a command of the
 * leader.
 *
 * Never are two nodes owners of one thing, whatever the network delays, loses or reorders, however
 * long a process is stopped, whatever wall clocks say, as long as no clock runs faster or slower
 * than LIVENESS_DRIFT_PERMILLE.  Why:
 *
 *  1. A lease is counted from when the node SENT the beat, on its own clock, for LIVENESS_HOLD_MS.
 *     The leader counts LIVENESS_LOST_MS from the last beat that it granted one for, and that it
 *     heard later than it was sent:
 *
 *         (HOLD + STOP) * (1000 + DRIFT)  <  LOST * (1000 - DRIFT)
 *
 *     STOP is what the owner has for ending what it runs once its lease is over.
 *  2. A leader may have been deposed without knowing it, and its leases must not outlive what the
 *     next one assumes.  So every answer has a `stamp` (the leader's clock) and says up to which of
 *     its stamps it is PROVEN that nobody else was elected: a majority of the voters sent back such
 *     a stamp while they were still in the leader's term, hence had voted for no other.  The lease
 *     is counted from the latest beat whose answer has a proven stamp: one beat back.
 *  3. A leader knows nothing of before it was one: nobody is LOST before it has led for LOST, nor a
 *     node that is new before it was expected for LOST.  By 1 and 2 what earlier leaders granted,
 *     or the node under another id, is over then.
 *  4. A move must not come into the state after another leader granted the old owner a lease again.
 *     So a leader first writes its term into the state (row `cluster`, column `reign`, where that
 *     is not greater, expecting a row) and grants only when this is applied
 * (liveness_leader_ready); a move EXPECTS `reign` to be that of the leader that judged, in the same
 * command; and every grant carries the index of the leader's state, which the node must have
 * applied before it acts.
 *  5. For the same reason a LOST node that is heard again is barred until a barrier of the store,
 *     begun after its last possible move was proposed, is through (`ticket`, liveness_readmit).
 *
 * The clock for all of this is clock_boot_ms(): it goes on while the machine sleeps, which
 * CLOCK_MONOTONIC does not.  No clock tells a virtual machine that it was paused by a hypervisor
 * which stops the guest's clocks too; such a node can act for the rest of its lease after it wakes,
 * HOLD at most, until what it writes is refused by 4.  Where that matters, writes carry the
 * revision they were decided on.
 */
#ifndef SERVICE_CLUSTER_LIVENESS_H
#define SERVICE_CLUSTER_LIVENESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "service/cluster/cluster.h"

/*
 * A node is heard when a beat comes that echoes a stamp of this reign which is younger than
 * LIVENESS_SUSPECT_MS: the way there works as well.  One that can be heard and cannot hear gets no
 * lease, so it must count as silent, or what it owns would be nobody's.
 */
enum {
    LIVENESS_BEAT_MS = 500,        /* between two beats of a node */
    LIVENESS_SUSPECT_MS = 2000,    /* silent for so long: SUSPECT */
    LIVENESS_LOST_MS = 8000,       /* silent for so long: LOST, on the leader's clock */
    LIVENESS_HOLD_MS = 6000,       /* a lease, on the node's clock, from the sending of the beat */
    LIVENESS_STOP_MS = 1000,       /* after it: to end what the node runs */
    LIVENESS_DRIFT_PERMILLE = 10,  /* how much faster or slower than real time a clock may run */
    LIVENESS_CLOCK_LIMIT_MS = 500, /* a wall clock that is further away from the others is wrong */
    LIVENESS_NODES_MAX = 1024,
    LIVENESS_VOTERS_MAX = 16,
    LIVENESS_KEPT_MAX = 16, /* beats that a node remembers */
};
_Static_assert((LIVENESS_HOLD_MS + LIVENESS_STOP_MS) * (1000 + LIVENESS_DRIFT_PERMILLE) <
                   LIVENESS_LOST_MS * (1000 - LIVENESS_DRIFT_PERMILLE),
               "a node stops to be an owner before the leader lets others take over");
_Static_assert((LIVENESS_HOLD_MS + CLUSTER_FENCE_MS + LIVENESS_STOP_MS) *
                       (1000 + LIVENESS_DRIFT_PERMILLE) <
                   (LIVENESS_LOST_MS + CLUSTER_FENCED_MS) * (1000 - LIVENESS_DRIFT_PERMILLE),
               "what monitors end has ended before it is started elsewhere");
_Static_assert(LIVENESS_SUSPECT_MS >= 3 * LIVENESS_BEAT_MS, "one lost beat is no suspicion");

/* What a node sends.  To the leader it is input: any value is possible. */
struct liveness_beat {
    uint64_t node;     /* from the certificate of the sender, not from the message */
    uint64_t sequence; /* comes back in the answer */
    uint64_t term;     /* store_status().term when it is sent; a worker: anything */
    uint64_t reign;    /* of the last answer; 0: none */
    uint64_t echo_ms;  /* `stamp_ms` of that answer */
};

/* What the leader answers.  To the node it is input as well. */
struct liveness_answer {
    uint64_t sequence;
    uint64_t reign;     /* the term of the leader */
    uint64_t stamp_ms;  /* the leader's clock */
    uint64_t proven_ms; /* until this stamp nobody else was leader */
    uint64_t index;     /* to be applied before the node acts as an owner */
    bool granted;       /* there is a lease */
    uint64_t ticket;    /* not sent: other than 0 if a barrier is needed, see liveness_readmit() */
};

/* ---- The leader ---- */

struct liveness_seen {
    uint64_t id;
    uint64_t heard_ms;          /* or when the reign began */
    uint64_t echo_ms;           /* the latest stamp it sent back in the leader's term; 0: none */
    uint64_t since_ms;          /* of `health` */
    enum cluster_health health; /* as it was judged last */
    bool is_known;              /* it was heard in this reign */
    bool is_barred;             /* it was LOST: no lease before it is readmitted */
    uint64_t ticket;            /* of the readmission under way; 0: none */
};

struct liveness_leader {
    uint64_t reign;    /* 0: this node does not lead */
    uint64_t begun_ms; /* when it saw that it leads */
    bool is_ready;     /* the reign is written, and applied here */
    bool is_over;      /* this node is in a later term */
    uint64_t tickets;  /* given so far */
    uint64_t voters[LIVENESS_VOTERS_MAX];
    size_t voter_count;
    struct liveness_seen seen[LIVENESS_NODES_MAX];
    size_t seen_count;
};

/* This node has begun to lead in term `reign`: all that was known before is void. */
void liveness_leader_begin(struct liveness_leader *leader, uint64_t reign, uint64_t now_ms);

/* `reign` is written into the state and applied here: leases may be granted. */
void liveness_leader_ready(struct liveness_leader *leader, uint64_t reign);
void liveness_leader_end(struct liveness_leader *leader); /* it leads no more */

/*
 * The term that this node is in and who votes, both of one store_status(), before every
 * liveness_hear(): in a later term the reign is over, whether the caller has noticed or not. Beyond
 * LIVENESS_VOTERS_MAX is our mistake.
 */
void liveness_leader_voters(struct liveness_leader *leader, uint64_t term, const uint64_t *ids,
                            size_t count);

/*
 * A beat was received; the caller has checked that the node is one of the cluster.  `index` is that
 * of the leader's state.  Where answer->ticket is not 0 the caller begins a store_barrier() and
 * calls liveness_readmit() with it when that succeeded, liveness_readmit_failed() otherwise; the
 * caller proposes no move of what the node owns after that (liveness_may_move() is false).  When
 * LIVENESS_NODES_MAX nodes are known already, nothing is granted to others.
 */
void liveness_hear(struct liveness_leader *leader, const struct liveness_beat *beat, uint64_t index,
                   uint64_t now_ms, struct liveness_answer *ret_answer);
void liveness_readmit(struct liveness_leader *leader, uint64_t id, uint64_t ticket);
void liveness_readmit_failed(struct liveness_leader *leader, uint64_t id, uint64_t ticket);

/*
 * Judge.  A node that was not heard in this reign counts as heard when it was judged first: all are
 * to be judged when the reign begins, and often after that.  Judging a node LOST bars it, so that
 * every judgement is to be made by this function.
 */
enum cluster_health liveness_judge(struct liveness_leader *leader, uint64_t id, uint64_t now_ms);

/* Since when it is what it was judged last; 0: it was not judged yet. */
uint64_t liveness_since(const struct liveness_leader *leader, uint64_t id);

/* Milliseconds since it was heard; UINT64_MAX: never in this reign. */
uint64_t liveness_silent(const struct liveness_leader *leader, uint64_t id, uint64_t now_ms);

/*
 * May what `id` owns be given to another now, by a command that expects `reign`?  True from the
 * judgement LOST until the node is heard again.
 */
bool liveness_may_move(const struct liveness_leader *leader, uint64_t id);

/* It was removed from the cluster; its id is never used again. */
void liveness_forget(struct liveness_leader *leader, uint64_t id);

/* The latest stamp until which nobody else was leader; 0: none. */
uint64_t liveness_proven(const struct liveness_leader *leader);

/* ---- Every node ---- */

struct liveness_kept {
    uint64_t sequence;
    uint64_t sent_ms;
    uint64_t stamp_ms; /* 0: not answered */
};

struct liveness_grant {
    uint64_t until_ms; /* 0: none */
    uint64_t index;
};

struct liveness_node {
    uint64_t self;
    uint64_t sequence;
    uint64_t reign;               /* of the last answer */
    uint64_t stamp_ms;            /* the latest of that reign */
    uint64_t until_ms;            /* the lease holds before; 0: there was none */
    struct liveness_grant next;   /* waits for its index */
    struct liveness_grant newest; /* behind it: or a node that lags by a beat never got one */
    struct liveness_kept kept[LIVENESS_KEPT_MAX];
};

/* A process begins without a lease. */
void liveness_node_init(struct liveness_node *node, uint64_t self);

/* What to send now; `term` is store_status().term of this moment. */
void liveness_beat(struct liveness_node *node, uint64_t term, uint64_t now_ms,
                   struct liveness_beat *ret_beat);

/* The answer to a beat, in any order, late, or never asked for.  `index` is that of the own state.
 */
void liveness_answered(struct liveness_node *node, const struct liveness_answer *answer,
                       uint64_t index);

/* The own state has come to `index`: to be called when it changes, or just before liveness_holds().
 */
void liveness_applied(struct liveness_node *node, uint64_t index);

/* May the node act as an owner at this moment? */
bool liveness_holds(const struct liveness_node *node, uint64_t now_ms);

/* Milliseconds until it may not, if nothing is heard: for a timer.  0: it does not hold. */
uint64_t liveness_left(const struct liveness_node *node, uint64_t now_ms);

/* ---- Wall clocks: shown and judged, never used for the above ---- */

struct liveness_clock {
    bool is_known;
    int64_t offset_ms; /* positive: the node's clock is ahead of the leader's */
    uint64_t error_ms; /* at most so wrong is the estimate: half of the round trip */
};

/*
 * The node's estimate when an answer comes: the own wall clock now, the leader's wall clock in the
 * answer, the round trip by the monotonic clock.
 */
struct liveness_clock liveness_clock_estimate(uint64_t own_real_ms, uint64_t leader_real_ms,
                                              uint64_t round_trip_ms);

/*
 * By how much the clock of clocks[which] is certainly wrong: its distance to the median of all that
 * are known (the leader's own is among them, with 0: so a leader with a wrong clock is found, not
 * everybody else).  Of fewer than three, and of two halves that differ, the leader's is taken for
 * right.  0: it is right within LIVENESS_CLOCK_LIMIT_MS, or nobody can tell.  Positive: it is
 * ahead.
 */
int64_t liveness_clock_wrong(const struct liveness_clock *clocks, size_t count, size_t which);

#endif
