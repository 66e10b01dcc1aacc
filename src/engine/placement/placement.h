/*
 * Placement: where something runs, and why.
 *
 * A pure function from (cluster, request, options, now) to a decision with reasons.  It has no
 * clock, does no I/O and keeps no global state; the same calls in the same order give the same
 * answers on every machine, so that it runs in the daemon, in `blixard plan` and in the simulator
 * unchanged.  Randomness comes from a seed in the options.
 *
 *   1. A `placement_cluster` is told of nodes and of allocations (what runs, or was promised room)
 *      as they come, change and go.  Being told costs about the same in small and large clusters.
 *   2. placement_decide() answers one request: filter, then score, then a choice within the best
 *      band.  It changes nothing (but caches).
 *   3. placement_commit() checks the decision again, against whatever the cluster has become since,
 *      and adds the allocation.  Several deciders may run; the one that comes second gets CONFLICT.
 *
 * Filters, in this order: the node is ready and eligible, pool, taints, constraints, the job's
 * distinctness, the placement group, resources (with NUMA nodes, devices, ports); and, of a node
 * that has room, that it is not held for another one that waits.
 *
 * Costs: nodes that do not differ in what rules can see (attributes but the name, taints, pool,
 * size) are one class, and rules are judged once for a class.  Within a class nodes are ordered
 * by what is free.  Past `sample_max` candidates, only the most promising ones are scored; that
 * nothing fits is never said before every node was looked at.
 *
 * Threads: a cluster belongs to one thread at a time.  Memory: everything given is copied; texts
 * and arrays in results are lent until the decision is done, or until the next call that changes
 * the cluster, as said there.
 * Sources: Nomad "Scheduling"; Kubernetes "Scheduling Framework"; "Protean" (OSDI 2020); "Beware of
 * Fragmentation" (ATC 2023); "Dominant Resource Fairness" (NSDI 2011).
 */
#ifndef ENGINE_PLACEMENT_PLACEMENT_H
#define ENGINE_PLACEMENT_PLACEMENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/placement/rules.h"

struct error;

#define PLACEMENT_POOL_DEFAULT "default"

enum {
    PLACEMENT_ID_MAX = 255, /* bytes of ids, names, jobs and groups */
    PLACEMENT_ATTRIBUTES_MAX = 256,
    PLACEMENT_TAINTS_MAX = 32,
    PLACEMENT_NODES_MAX = 100000,
    PLACEMENT_ALLOCATIONS_MAX = 2000000,
    PLACEMENT_NUMA_MAX = 16,
    PLACEMENT_CORES_MAX = 1024,
    PLACEMENT_DEVICE_KINDS_MAX = 32, /* at a node, and in a request */
    PLACEMENT_DEVICES_MAX = 64,      /* of one kind */
    PLACEMENT_PORTS_MAX = 64,        /* in a request */
    PLACEMENT_HINTS_MAX = 64,
    PLACEMENT_TALKS_MAX = 16,
    PLACEMENT_GANG_MAX = 1024,
    PLACEMENT_VICTIMS_MAX = 64,
    PLACEMENT_PRIORITY_DEFAULT = 50,
    PLACEMENT_PRIORITY_MAX = 100,
    PLACEMENT_REASON_MAX = 256,
    PLACEMENT_SHARE_WHOLE = 1000, /* a device, in thousandths */
};

/* ---- What there is, and what is wanted of it ---- */

enum placement_resource {
    PLACEMENT_CPU_MILLI, /* thousandths of a CPU */
    PLACEMENT_MEMORY,    /* bytes */
    PLACEMENT_DISK,      /* bytes */
    PLACEMENT_HUGE_2M,   /* pages */
    PLACEMENT_HUGE_1G,   /* pages */
    PLACEMENT_ADDRESSES, /* of the node's networks */
    PLACEMENT_SLOTS,     /* how many may run at all; 0 at a node: unlimited */
    PLACEMENT_RESOURCE_COUNT,
};
#define PLACEMENT_PAGE_2M (UINT64_C(2) << 20)
#define PLACEMENT_PAGE_1G (UINT64_C(1) << 30)

/* "cpu", "memory", ... as in options and reasons. */
const char *placement_resource_name(enum placement_resource resource);

struct placement_amounts {
    uint64_t of[PLACEMENT_RESOURCE_COUNT];
};

struct placement_numa { /* cores are numbered through all of a node's NUMA nodes, from 0 */
    uint32_t cores;
    uint64_t memory_bytes;
    uint64_t huge_2m, huge_1g;
};

/* Devices of one kind at a node: "gpu" of model "A100"; "sriov"; "usb". */
struct placement_device {
    const char *class_name;
    const char *model; /* "": none */
    uint32_t count;
};

struct placement_attribute {
    const char *name; /* "label.disk", "attr.arch" */
    const char *value;
};

struct placement_node {
    const char *id;
    const char *name;                 /* unique as well; what reasons call it */
    const char *pool;                 /* "" or NULL: PLACEMENT_POOL_DEFAULT */
    const char *region, *zone, *rack; /* NULL or "": not set */
    const struct placement_attribute *attributes;
    size_t attribute_count;
    const struct placement_taint *taints;
    size_t taint_count;
    struct placement_amounts capacity; /* as the node has it */
    struct placement_amounts reserved; /* for the system; out of capacity */
    /* Percent of what is left that may be given away; 0 and 100: as much as there is.  Of CPU,
     * memory and disk alone; dedicated cores are never overcommitted. */
    uint32_t overcommit[PLACEMENT_RESOURCE_COUNT];
    const struct placement_numa *numa; /* none: nothing is known, strict requests do not fit */
    size_t numa_count;
    const struct placement_device *devices;
    size_t device_count;
    uint16_t port_first, port_last; /* for ports that may be any; 0, 0: 20000 to 32000 */
    uint32_t cost;                  /* per hour, in any unit, for least-cost; 0: free */
    bool is_ready;                  /* it answers, and may run things */
    bool is_eligible;               /* nobody cordoned or drains it */
};

enum placement_numa_policy {
    PLACEMENT_NUMA_ANY,
    PLACEMENT_NUMA_PREFERRED, /* dedicated cores of one NUMA node where one has them */
    PLACEMENT_NUMA_STRICT,    /* cores and memory of one NUMA node, or not here */
};

struct placement_device_demand {
    const char *class_name;
    const char *models; /* NULL or "": any; or `A100|V100` */
    uint32_t count;
    uint32_t share; /* thousandths of each; 0 and PLACEMENT_SHARE_WHOLE: all of it */
};

struct placement_demand {
    struct placement_amounts amounts; /* CPU without the dedicated cores */
    uint32_t dedicated_cores;         /* whole ones, that nobody else runs on */
    enum placement_numa_policy numa;
    const struct placement_device_demand *devices;
    size_t device_count;
    const uint16_t *ports; /* that have to be free at the node */
    size_t port_count;
    uint32_t any_ports; /* and so many that may be any */
};

/* ---- The cluster ---- */

struct placement_cluster;

struct placement_cluster *placement_cluster_new(void);
void placement_cluster_free(struct placement_cluster *cluster); /* accepts NULL */

/*
 * What changed, in the words of what may help a request that found no place: see
 * placement_helps().
 */
enum placement_wake {
    PLACEMENT_WAKE_NODE = 1 << 0,        /* a node came, became ready or eligible */
    PLACEMENT_WAKE_ATTRIBUTES = 1 << 1,  /* attributes, pool */
    PLACEMENT_WAKE_TAINTS = 1 << 2,      /* a taint went */
    PLACEMENT_WAKE_RESOURCES = 1 << 3,   /* something became free at a node */
    PLACEMENT_WAKE_DISTINCT = 1 << 4,    /* one of the job went or moved */
    PLACEMENT_WAKE_GROUP = 1 << 5,       /* one of the placement group went or moved */
    PLACEMENT_WAKE_RESERVATION = 1 << 6, /* a reservation went, or expires at wake_ms */
};

struct placement_change {
    uint32_t wakes;                  /* enum placement_wake, or'd; 0: it helps nobody */
    char node[PLACEMENT_ID_MAX + 1]; /* where */
    char job[PLACEMENT_ID_MAX + 1];  /* of what went */
    char group[PLACEMENT_ID_MAX + 1];
};

/*
 * Add a node, or replace what is known of it.  Sizes are believed only within reason: INVALID for
 * sizes that no machine has, for reserved above capacity, NUMA nodes that do not add up, and names
 * and values that may not be; LIMIT.  A node that has become smaller than what it runs keeps that,
 * and gets nothing new.  *ret_change may be NULL.
 */
int placement_cluster_set_node(struct placement_cluster *cluster, const struct placement_node *node,
                               struct placement_change *ret_change, struct error *err);

/* Ready and eligible alone, which change more often.  NOT_FOUND. */
int placement_cluster_set_state(struct placement_cluster *cluster, const char *node, bool is_ready,
                                bool is_eligible, struct placement_change *ret_change,
                                struct error *err);

/*
 * What the node is expected to use at its peak (measured, or forecast): it makes the node less
 * attractive, in PLACEMENT_PART_LOAD; it refuses nothing.  NOT_FOUND.
 */
int placement_cluster_set_load(struct placement_cluster *cluster, const char *node,
                               uint64_t cpu_milli, uint64_t memory_bytes, struct error *err);

/* The node, and every allocation at it.  NOT_FOUND. */
int placement_cluster_remove_node(struct placement_cluster *cluster, const char *node,
                                  struct error *err);

enum placement_group_policy {
    PLACEMENT_GROUP_NONE,
    PLACEMENT_GROUP_SPREAD,
    PLACEMENT_GROUP_COMPACT
};
enum placement_rigor { PLACEMENT_PERMISSIVE, PLACEMENT_STRICT };

/* A placement group: members apart from each other, or together. */
struct placement_group {
    const char *name; /* unique in the cluster, as PROJECT/NAME; NULL or "": none */
    enum placement_group_policy policy;
    enum placement_rigor rigor;
    const char *over; /* the attribute that is to differ or agree; NULL: ${node.id} */
};

/* Which parts of the node were given; all may be 0. */
struct placement_grant {
    const uint16_t *ports; /* in the order of the demand: the fixed ones, then those of any_ports */
    size_t port_count;
    const uint16_t *cores; /* ascending */
    size_t core_count;
    int32_t numa; /* the NUMA node, or -1 */
    /* For each device: the demand's device, which of the node's kinds, and which of that kind. */
    const struct placement_grant_device {
        uint16_t demand, kind, index;
    } * devices;
    size_t device_count;
};

/* Data exchanged with something that runs, wherever that is at the moment, or with a node. */
struct placement_talk {
    const char *with;          /* id of an allocation (one that is not there counts for nothing), */
    const char *node;          /* or, when that is NULL, id of a node */
    uint64_t bytes_per_second; /* both ways */
};

/*
 * What runs at a node, or has room promised there.  The same struct is the request for one, with
 * `node`, `grant` and `expires_ms` left zero.
 */
struct placement_request {
    const char *id;
    struct placement_rules *rules; /* NULL: it asks nothing; a reference is kept */
    struct placement_demand demand;
    const char *job; /* whose members distinct_* and spread count; NULL or "": it stands alone */
    struct placement_group group;
    uint32_t priority; /* 0 to PLACEMENT_PRIORITY_MAX */
    uint64_t since_ms; /* it waits since then; 0: it has just come */
    bool may_displace; /* others of lower priority, when there is no room */
    bool is_displaceable;
    bool may_be_moved; /* by placement_rebalance() */
    /* Where its data is: bytes of it that need not be fetched there. */
    const struct placement_hint {
        const char *node; /* id */
        uint64_t bytes;
    } * hints;
    size_t hint_count;
    /* Whom it exchanges data with, as was learnt.  Of what runs it is kept: rebalancing needs it.
     */
    const struct placement_talk *talks;
    size_t talk_count;
    const char *const *avoid; /* ids of nodes where it failed lately: less attractive */
    size_t avoid_count;
    const char *reservation; /* id of a reservation that it may take the place of; NULL */
};

struct placement_allocation {
    struct placement_request request;
    const char *node; /* id */
    struct placement_grant grant;
    uint64_t expires_ms; /* a reservation: it counts until then; 0: no reservation */
};

/*
 * Add what runs, as the state says: it is believed, even where it breaks limits (the state is older
 * than the node's last word); then the node gets nothing new.  Fails with INVALID, NOT_FOUND (the
 * node), EXISTS (the id), LIMIT.
 */
int placement_cluster_add(struct placement_cluster *cluster,
                          const struct placement_allocation *allocation, struct error *err);

/*
 * The cores of an allocation with dedicated ones: those that it has, or else cores that are free at
 * its node are given to it (what the state tells of may come without).  The numbers are the
 * engine's, ascending; lent until the cluster is changed.  NOT_FOUND, LIMIT (not so many are free).
 */
int placement_cluster_give_cores(struct placement_cluster *cluster, const char *id,
                                 const uint16_t **ret_cores, size_t *ret_count, struct error *err);

/* Something else was learnt of whom it exchanges data with.  NOT_FOUND, LIMIT. */
int placement_cluster_set_talks(struct placement_cluster *cluster, const char *id,
                                const struct placement_talk *talks, size_t count,
                                struct error *err);

/* NOT_FOUND. */
int placement_cluster_remove(struct placement_cluster *cluster, const char *id,
                             struct placement_change *ret_change, struct error *err);

/* Remove the reservations that have expired, and say which; `each` may be NULL. */
void placement_cluster_expire(struct placement_cluster *cluster, uint64_t now_ms,
                              void (*each)(const char *id, const struct placement_change *change,
                                           void *context),
                              void *context);

size_t placement_cluster_node_count(const struct placement_cluster *cluster);
size_t placement_cluster_allocation_count(const struct placement_cluster *cluster);

/* The allocation's node id, or NULL.  Lent until the cluster is changed. */
const char *placement_cluster_where(const struct placement_cluster *cluster, const char *id);

/* What a node has, could give and has given. */
struct placement_usage {
    const char *id, *name;
    bool is_ready, is_eligible;
    struct placement_amounts limit; /* after reserved and overcommit */
    struct placement_amounts used;
    uint32_t cores_dedicated;
    uint64_t devices_milli, devices_used_milli; /* thousandths of all devices together */
    size_t allocation_count;
    bool is_overcommitted; /* more is used than the limit */
};

int placement_cluster_usage(const struct placement_cluster *cluster, const char *node,
                            struct placement_usage *ret_usage, struct error *err);

/* All nodes, in the order in which they came; and what is at one. */
void placement_cluster_each(const struct placement_cluster *cluster,
                            void (*visit)(const struct placement_usage *usage, void *context),
                            void *context);
void placement_cluster_each_at(const struct placement_cluster *cluster, const char *node,
                               void (*visit)(const char *id, uint32_t priority, void *context),
                               void *context);

/*
 * Say what is wrong: every node beyond its limits, every strict rule that what runs breaks.  It
 * visits everything; for tests and `blixard doctor`.
 */
void placement_cluster_audit(const struct placement_cluster *cluster,
                             void (*wrong)(const char *text, void *context), void *context);

/* ---- Deciding ---- */

enum placement_strategy {
    PLACEMENT_BINPACK,  /* the fullest node that has room */
    PLACEMENT_SPREAD,   /* the emptiest */
    PLACEMENT_BALANCED, /* where the largest share of any resource stays smallest (DRF), and even */
    PLACEMENT_LEAST_COST, /* the cheapest node, then the fullest */
    PLACEMENT_DATA_LOCAL, /* where most of the data and of whom it talks with is, then the fullest
                           */
    PLACEMENT_STRATEGY_COUNT,
};

const char *placement_strategy_name(enum placement_strategy strategy); /* "least-cost" */
int placement_strategy_parse(const char *name, enum placement_strategy *ret, struct error *err);

/* The parts of a score; each is from -1 (bad) to 1, and is multiplied by its weight. */
enum placement_part {
    PLACEMENT_PART_FIT,      /* how full the node is, as the strategy likes it */
    PLACEMENT_PART_SHAPE,    /* what stays free stays usable */
    PLACEMENT_PART_AFFINITY, /* weights of affinities that hold, of all their weights */
    PLACEMENT_PART_SPREAD,   /* nearer to (1) or farther from (-1) the spread's targets */
    PLACEMENT_PART_GROUP,    /* a permissive placement group */
    PLACEMENT_PART_LOCAL,    /* its data that is there, of the most that a node has */
    PLACEMENT_PART_TRAFFIC,  /* share of what it exchanges that would stay there; little: less */
    PLACEMENT_PART_COST,     /* cheap (1) to dear (0), among all nodes */
    PLACEMENT_PART_TAINT,    /* -1: a PreferNoSchedule that is not tolerated */
    PLACEMENT_PART_LOAD,     /* the expected peak, 0 to -1 */
    PLACEMENT_PART_AVOID,    /* -1: it failed there lately */
    PLACEMENT_PART_NUMA,     /* 1: its own cores and its memory are of one NUMA node; -1: they are
                                not; 0: it has no cores of its own */
    PLACEMENT_PART_COUNT,
};

const char *placement_part_name(enum placement_part part); /* "affinity" */

struct placement_options {
    enum placement_strategy strategy;
    uint32_t weights[PLACEMENT_PART_COUNT]; /* percent, 0 to 1000 */
    uint32_t sample_max;                    /* candidates that are scored; 0: all */
    uint32_t band_percent; /* choose at random among those whose scores are less than so many
                              hundredths below the best; 0: the best */
    uint64_t seed;
    bool may_displace;      /* preemption is on */
    uint32_t displaced_max; /* budget: victims of one decision, at most PLACEMENT_VICTIMS_MAX */
    uint32_t priority_gap;  /* a victim's priority is lower by at least so much */
};

/* What suits the strategy; band 1 %, sample 96, preemption on: 8 victims, a gap of 10. */
void placement_options_init(struct placement_options *options, enum placement_strategy strategy);

enum placement_filter {
    PLACEMENT_PASSED,
    PLACEMENT_NOT_READY,
    PLACEMENT_NOT_ELIGIBLE,
    PLACEMENT_POOL,
    PLACEMENT_TAINT,
    PLACEMENT_CONSTRAINT,
    PLACEMENT_DISTINCT,
    PLACEMENT_GROUP,
    PLACEMENT_HELD, /* there is room, and it is kept for one that waits longer */
    PLACEMENT_RESOURCE,
    PLACEMENT_NUMA,
    PLACEMENT_DEVICE,
    PLACEMENT_PORT,
    PLACEMENT_FILTER_COUNT,
};

const char *placement_filter_name(enum placement_filter filter); /* "constraint" */

struct placement_victim {
    char id[PLACEMENT_ID_MAX + 1];
    uint32_t priority;
    char reason[PLACEMENT_REASON_MAX];
};

struct placement_decision {
    bool is_placed;
    char node[PLACEMENT_ID_MAX + 1]; /* id */
    char node_name[PLACEMENT_ID_MAX + 1];
    double score;
    double parts[PLACEMENT_PART_COUNT]; /* before the weights */
    struct placement_grant grant;       /* owned */
    struct placement_victim *victims;   /* owned: end these first */
    size_t victim_count;
    bool takes_reservation;
    /* How it came about. */
    uint32_t nodes_passed;                      /* candidates that were scored */
    uint32_t nodes_looked;                      /* nodes whose resources were compared */
    uint32_t refused[PLACEMENT_FILTER_COUNT];   /* nodes, when it found no place */
    uint32_t lacking[PLACEMENT_RESOURCE_COUNT]; /* those refused for resources, by the first */
    char reason[PLACEMENT_REASON_MAX];          /* for people: why there, or why nowhere */
    uint32_t wakes;   /* enum placement_wake: what can help; when not placed */
    uint64_t wake_ms; /* the next reservation expires then; 0: none */
};

/* A zeroed decision is empty.  Frees what it owns. */
void placement_decision_done(struct placement_decision *decision);

/*
 * Decide.  That nothing fits is an answer (is_placed false, with refused and reason), not an error.
 * Reservations expired at now_ms do not count.  INVALID (the request), LIMIT.
 */
int placement_decide(struct placement_cluster *cluster, const struct placement_request *request,
                     const struct placement_options *options, uint64_t now_ms,
                     struct placement_decision *ret_decision, struct error *err);

/*
 * A gang: all or none.  Each is decided as if the ones before it were committed.  Where one finds
 * no place, no decision is_placed, and each says why.  ret_decisions holds `count`.
 */
int placement_decide_gang(struct placement_cluster *cluster,
                          const struct placement_request *requests, size_t count,
                          const struct placement_options *options, uint64_t now_ms,
                          struct placement_decision *ret_decisions, struct error *err);

/*
 * Does a decision that was made from an older cluster still hold: does the node exist and pass
 * every filter, are its parts still free, are the victims still there (those that are gone already
 * are no hindrance)?  CONFLICT, naming what changed.
 */
int placement_check(struct placement_cluster *cluster, const struct placement_request *request,
                    const struct placement_decision *decision, uint64_t now_ms, struct error *err);

/* placement_check(), then remove the victims and the reservation, and add the allocation. */
int placement_commit(struct placement_cluster *cluster, const struct placement_request *request,
                     const struct placement_decision *decision, uint64_t now_ms, struct error *err);

/* As placement_commit(), adding a reservation that counts until expires_ms. */
int placement_reserve(struct placement_cluster *cluster, const struct placement_request *request,
                      const struct placement_decision *decision, uint64_t now_ms,
                      uint64_t expires_ms, struct error *err);

/*
 * Can the change help this request, whose decision was not placed?  Exact but for two cases, where
 * it says yes and the request may stay blocked: members of its job or group that went, and
 * preemption.
 */
bool placement_helps(struct placement_cluster *cluster, const struct placement_request *request,
                     const struct placement_decision *blocked,
                     const struct placement_change *change);

/* ---- Holding a node for one that waits ---- */

/*
 * A node is held for a request that waits: others of its priority or a lower one that came later
 * are refused there (PLACEMENT_HELD), unless they fit beside it.  `since_ms` of the request says
 * when it came.  One node for a request, one request for a node: what the request held before is
 * let go, as *ret_change says.  INVALID, NOT_FOUND (the node), CONFLICT (it is held for another).
 */
int placement_cluster_hold(struct placement_cluster *cluster,
                           const struct placement_request *request, const char *node,
                           struct placement_change *ret_change, struct error *err);

/* It holds nothing any more; a change without wakes: it held nothing. */
void placement_cluster_let_go(struct placement_cluster *cluster, const char *id,
                              struct placement_change *ret_change);

/* Ids, lent until the cluster is changed; NULL: none. */
const char *placement_cluster_holds_at(const struct placement_cluster *cluster, const char *id);
const char *placement_cluster_held_for(const struct placement_cluster *cluster, const char *node);
size_t placement_cluster_hold_count(const struct placement_cluster *cluster);

struct placement_hold_options {
    uint64_t after_ms;  /* who has waited so long holds a node; also one turn.  0: nobody does */
    uint32_t holds_max; /* nodes of a pool; never more than half of them, rounded up */
};

/* What one that waits holds; zeroed: nothing yet.  It is kept by the caller, as it is. */
struct placement_hold {
    char node[PLACEMENT_ID_MAX + 1]; /* id; "": none */
    uint32_t lacking;                /* what has to leave there, in millionths; 0: it fits */
    uint32_t turns;                  /* in which nothing left */
    uint64_t moved_ms;               /* something left, or the node was chosen; one to come: now */
};

/*
 * What is it to hold now?  Changes *hold, and the cluster not: placement_cluster_hold() does.
 * Costs a look at every node; for those that have waited alone.  1: it changed, 0: it did not, or
 * an error (of the request).
 */
int placement_hold_step(struct placement_cluster *cluster, const struct placement_request *request,
                        const struct placement_hold_options *options, uint64_t now_ms,
                        struct placement_hold *hold, struct error *err);

/* ---- Explaining ---- */

struct placement_verdict {
    const char *node, *node_name; /* lent during the visit */
    enum placement_filter filter; /* PASSED: it was scored */
    const char *reason;           /* "" when it passed */
    double score;
    double parts[PLACEMENT_PART_COUNT];
};

/* Every node: which filter refused it, or its score with all parts.  The same filters and parts as
 * placement_decide(), without sampling.  `request` may be of something that runs (its own
 * allocation does not count).  INVALID. */
int placement_explain(struct placement_cluster *cluster, const struct placement_request *request,
                      const struct placement_options *options, uint64_t now_ms,
                      void (*visit)(const struct placement_verdict *verdict, void *context),
                      void *context, struct error *err);

/*
 * May what runs stay where it is, now that rules, labels or taints changed?  PASSED, or the filter
 * that refuses it (resources do not: it has them).  *ret_leave_s: how long a NoExecute lets it stay
 * (UINT32_MAX: for ever; 0: it has to leave now).  NOT_FOUND.
 */
int placement_may_stay(struct placement_cluster *cluster, const char *id,
                       enum placement_filter *ret_filter, uint32_t *ret_leave_s,
                       char ret_reason[PLACEMENT_REASON_MAX], struct error *err);

/* ---- Rebalancing ---- */

struct placement_rebalance_options {
    struct placement_options options; /* strategy and weights that the moves are judged by */
    uint32_t threshold_percent; /* nothing is done while the fullest and the emptiest node differ by
                                   less, in the share of their scarcest resource */
    uint32_t batch_max;         /* moves of one plan, at most PLACEMENT_MOVES_MAX */
    uint32_t gain_min_percent;  /* a move has to better the two nodes' difference by so much */
    /* Then those move whose traffic part is better by so much elsewhere, as long as the nodes do
     * not differ by more than the threshold, or than before; 0: none does for that. */
    uint32_t traffic_min_percent;
    /* Besides may_be_moved of the allocation; NULL: all may.  Nothing of the cluster is changed. */
    bool (*may_move)(const char *id, void *context);
    void *context;
};

enum { PLACEMENT_MOVES_MAX = 256 };

struct placement_move {
    char id[PLACEMENT_ID_MAX + 1];
    char from[PLACEMENT_ID_MAX + 1]; /* ids */
    char to[PLACEMENT_ID_MAX + 1];
    double
        gain; /* by how much the two nodes' difference shrinks, or the traffic part grows: to 1 */
    bool is_for_traffic;
    char reason[PLACEMENT_REASON_MAX];
};

struct placement_rebalance {
    double spread_before, spread_after; /* fullest minus emptiest, 0 to 1 */
    struct placement_move *moves;       /* owned: free() */
    size_t move_count;
    char reason[PLACEMENT_REASON_MAX]; /* why these, or why none */
};

/*
 * Plan moves from full nodes to empty ones, and then to where those are that are talked with, in
 * the order in which they are to be done.  Only what
 * says may_be_moved moves, every filter holds at its new node, and the cluster is as before
 * afterwards.
 */
int placement_rebalance(struct placement_cluster *cluster,
                        const struct placement_rebalance_options *options, uint64_t now_ms,
                        struct placement_rebalance *ret_plan, struct error *err);

#endif
