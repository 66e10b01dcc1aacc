/*
 * The cluster from the inside.  Of the room alone.
 *
 *   word     a text that exists once; words are compared by their address
 *   class    nodes that do not differ in what rules and sizes can tell; in it, nodes are ordered by
 *            what is free, in BUCKETS steps (order)
 *   crowd    the allocations of a job, or of a placement group, counted by attributes (tally)
 *   shape    rules, judged once for every class
 *   probe    a request, made ready to be held against nodes
 */
#ifndef ENGINE_PLACEMENT_PARTS_H
#define ENGINE_PLACEMENT_PARTS_H

#include "base/list.h"
#include "base/map.h"

#include "engine/placement/placement.h"
#include "engine/placement/rule.h"

enum {
    BUCKETS = 64, /* as many as an order has bits */
    ORDERS = 2,   /* by CPU and memory; by devices */
    SHAPES_MAX = 256,
    CORE_WORDS = PLACEMENT_CORES_MAX / 64,
    MODELS_MAX = 16, /* named in one demand */
    HABITS = 16,
    CLASSES_SCANNED_MAX = 512,
    PORT_FIRST_DEFAULT = 20000,
    PORT_LAST_DEFAULT = 32000,
};

/* ---- Words (word.c) ---- */

struct word {
    uint32_t refs;
    char text[];
};

struct word *word_get(struct placement_cluster *cluster, const char *text); /* a reference */
struct word *word_find(const struct placement_cluster *cluster, const char *text,
                       size_t length);    /* lent; NULL: nobody has it */
struct word *word_ref(struct word *word); /* NULL is accepted by both */
void word_unref(struct placement_cluster *cluster, struct word *word);

/* ---- Nodes ---- */

struct attribute {
    struct word *name, *value;
};

struct numa {
    uint32_t core_first, core_count, cores_free;
    uint64_t memory, memory_used, huge_2m, huge_2m_used, huge_1g, huge_1g_used;
};

struct kind { /* devices of one kind at a node */
    struct word *class_name, *model;
    uint16_t count;
    uint16_t whole; /* of which nothing is used */
    uint32_t used;  /* thousandths of all */
    uint16_t *used_of;
};

struct node {
    struct word *id, *name;
    uint32_t index; /* in cluster->nodes */
    struct class *class;
    bool is_ready, is_eligible, is_over; /* more is used than there is */
    uint8_t lowest; /* priority of what could be displaced; UINT8_MAX: nothing */
    struct placement_amounts used;
    uint32_t cores_dedicated, cores_free;
    uint64_t core_used[CORE_WORDS];
    struct numa *numa;
    size_t numa_count;
    struct kind *kinds;
    size_t kind_count;
    uint32_t devices_used; /* thousandths */
    uint16_t *ports;       /* ascending */
    size_t port_count, port_room;
    uint64_t load_cpu, load_memory;
    struct list allocations;
    size_t allocation_count;
    struct allocation *hold; /* for whom the node is held, not attached; or NULL */
    uint8_t bucket[ORDERS];
    uint32_t slot[ORDERS];
    bool is_ordered;
    uint64_t mark; /* of the last decision that looked at it */
};

struct bucket {
    struct node **items;
    uint32_t count, room;
};

struct order {
    uint64_t filled; /* a bit for each bucket that is not empty */
    struct bucket buckets[BUCKETS];
};

struct class
{
    char *key;
    uint32_t slot;   /* in cluster->classes */
    uint64_t serial; /* never given again */
    size_t node_count, ordered_count;
    struct attribute *attributes; /* by address of the name; without id and name */
    size_t attribute_count;
    struct placement_taint *taints;
    size_t taint_count;
    struct word *pool;
    struct placement_amounts capacity, reserved;
    struct placement_amounts limit; /* what may be used */
    uint32_t cpu_percent;           /* overcommit */
    uint32_t core_count, cores_reserved;
    uint32_t numa_cores_most;
    struct kind *kinds; /* without used_of */
    size_t kind_count;
    uint32_t devices; /* thousandths */
    uint32_t cost;
    uint16_t port_first, port_last;
    struct order orders[ORDERS];
};

/* ---- Allocations and crowds ---- */

struct tally { /* how many have which value of the attribute */
    struct word *attribute;
    size_t count, room; /* slots in use, a power of two of them */
    struct tally_slot {
        struct word *value;
        uint32_t number;
    } * slots;
};

struct crowd {
    char *name;
    size_t refs;         /* allocations that are of it, attached or not */
    struct list members; /* those that count */
    size_t count;
    struct tally **tallies;
    size_t tally_count;
};

struct member { /* an allocation's place in a crowd */
    struct list_node link;
    struct allocation *of;
};

struct want {                /* a demand for devices, in words */
    struct word *class_name; /* NULL: nobody has such */
    struct word *models[MODELS_MAX];
    size_t model_count;
    bool any_model;
    uint16_t count, share;
};

struct allocation {
    char *id;
    struct placement_request request; /* a copy of its own; no hints, avoid or reservation */
    struct placement_grant grant;     /* of its own */
    struct placement_amounts charged;
    struct node *node;
    struct crowd *job, *group;
    struct word *over; /* the group's attribute */
    uint64_t serial;   /* who came later has more */
    uint64_t expires_ms;
    bool is_attached; /* it counts */
    struct list_node at_node, in_reservations;
    struct member in_job, in_group;
};

/* ---- The cluster ---- */

struct verdict { /* of rules on a class */
    uint64_t serial;
    enum placement_filter filter;
    uint16_t which;    /* constraint or taint */
    float affinity;    /* sum of the weights that hold */
    uint16_t disliked; /* PreferNoSchedule taints that are not tolerated */
};

struct shape {
    struct placement_rules *rules; /* NULL: none */
    struct verdict *verdicts;      /* by the class's slot */
    size_t verdict_room;
    uint64_t epoch; /* of the classes, when `passed` was made */
    struct class **passed;
    size_t passed_count;
    float affinity_all;          /* sum of all weights, without signs */
    bool has_unique_constraints; /* of id or name: to be judged at each node */
    bool has_unique_affinities;
    const struct rule *pin; /* `=` of id or name: only there; NULL */
};

struct habit { /* a demand with devices that comes often */
    uint64_t cpu, memory;
    uint32_t count, share;
    struct word *class_name;
    double weight;
};

struct placement_cluster {
    struct map words;
    struct map nodes_by_id, nodes_by_name;
    struct node **nodes; /* in the order in which they came */
    size_t node_count, node_room;
    struct map classes_by_key;
    struct class **classes; /* by slot; NULL: free */
    size_t class_room;
    uint64_t class_serial, class_epoch;
    uint32_t cost_most;
    uint64_t cost_epoch;
    struct map allocations;
    size_t allocation_count;
    uint64_t allocation_serial;
    struct map holds; /* id -> struct allocation */
    struct list reservations;
    struct map jobs, groups;
    struct map shapes;
    struct shape *bare; /* of requests without rules */
    struct habit habits[HABITS];
    uint64_t mark;
    struct word *id_name, *name_name; /* "node.id", "node.name" */
    struct choice *choices;           /* scratch of decisions */
    size_t choice_room;
};

/* node.c */
struct node *node_by_id(const struct placement_cluster *cluster, const char *id);
const char *node_attribute(const struct placement_cluster *cluster, const struct node *node,
                           const struct word *name); /* NULL: not set */
struct word *node_value(const struct placement_cluster *cluster, const struct node *node,
                        const struct word *name);
struct word *class_value(const struct class *class, const struct word *name);
void node_order(struct node *node); /* put it where it belongs now */
void node_disorder(struct node *node);
double node_free_share(const struct node *node); /* of the scarcer of CPU and memory, 0 to 1 */
int class_obtain(struct placement_cluster *cluster, const struct placement_node *node,
                 struct class **ret_class, struct error *err);
void class_unref(struct placement_cluster *cluster, struct class *class);

/* check.c */
int check_node(const struct placement_node *node, struct error *err);
int check_request(const struct placement_request *request, struct error *err);

/* crowd.c */
struct crowd *crowd_find(const struct map *crowds, const char *name); /* NULL: nobody yet */
/* A reference; NULL for no name.  The last one gone, the crowd is. */
struct crowd *crowd_get(struct map *crowds, const char *name);
void crowd_unref(struct placement_cluster *cluster, struct map *crowds, struct crowd *crowd);
void crowd_join(struct placement_cluster *cluster, struct crowd *crowd, struct member *member);
void crowd_leave(struct placement_cluster *cluster, struct crowd *crowd, struct member *member);
/* The tally over an attribute; made at the first time. */
struct tally *crowd_tally(struct placement_cluster *cluster, struct crowd *crowd,
                          struct word *attribute);
uint32_t tally_of(const struct tally *tally, const struct word *value); /* 0 for NULL ones */

/* allocation.c */
struct allocation *allocation_new(struct placement_cluster *cluster,
                                  const struct placement_request *request,
                                  const struct placement_grant *grant, struct node *node);
void allocation_free(struct placement_cluster *cluster, struct allocation *allocation);
/* Begin, and stop, to count: at the node and in crowds.  What is detached keeps its id. */
void allocation_attach(struct placement_cluster *cluster, struct allocation *allocation);
void allocation_detach(struct placement_cluster *cluster, struct allocation *allocation);
struct allocation *allocation_find(const struct placement_cluster *cluster, const char *id);
void grant_copy(struct placement_grant *to, const struct placement_grant *from);
void grant_done(struct placement_grant *grant);

/* charge.c: what an allocation takes of its node, and gives back.  Crowds are not concerned. */
void node_charge(struct node *node, const struct allocation *allocation);
void node_discharge(struct node *node, const struct allocation *allocation);
uint64_t cores_cost(const struct class *class, uint32_t cores); /* in thousandths of a CPU */
bool node_has_port(const struct node *node, uint16_t port);

/* shape.c */
struct shape *shape_get(struct placement_cluster *cluster, struct placement_rules *rules);
void shape_refresh(struct placement_cluster *cluster, struct shape *shape);
const struct verdict *shape_verdict(struct shape *shape, const struct class *class);
void shapes_clear(struct placement_cluster *cluster);

/* ---- Requests against nodes ---- */

struct distinct {
    struct word *attribute;
    const struct tally *tally; /* NULL: nobody counts yet */
    uint32_t limit;
    bool is_unique; /* the attribute is the node's id or name */
};

struct leaning { /* a spread */
    const struct rule_spread *rule;
    struct word *attribute;
    const struct tally *tally;
    bool is_unique;
    uint32_t least; /* the least count among the values that can be reached */
};

struct tie { /* what a request exchanges with what is at a node */
    const struct node *node;
    double rate;
};

struct probe {
    struct placement_cluster *cluster;
    const struct placement_request *request;
    const struct placement_options *options; /* may be NULL for filters alone */
    struct shape *shape;
    struct placement_amounts need; /* without dedicated cores */
    uint32_t cores;
    struct want wants[PLACEMENT_DEVICE_KINDS_MAX];
    size_t want_count;
    uint32_t devices; /* thousandths wanted */
    struct distinct distincts[PLACEMENT_CONSTRAINTS_MAX];
    size_t distinct_count;
    struct leaning leanings[PLACEMENT_SPREADS_MAX];
    size_t leaning_count;
    double leaning_weight; /* of all */
    struct crowd *job, *group;
    struct word *over;
    const struct tally *over_tally;
    bool over_is_unique;
    uint64_t hint_bytes; /* the most that a node has */
    struct tie ties[PLACEMENT_TALKS_MAX];
    size_t tie_count;
    double tie_rate; /* of all */
    uint32_t cost_most;
};

struct refusal {
    enum placement_filter filter;
    unsigned which; /* resource, constraint, distinct, taint, want or port */
};

/* probe.c.  The probe lends from cluster and request. */
int probe_init(struct probe *probe, struct placement_cluster *cluster,
               const struct placement_request *request, const struct placement_options *options,
               struct error *err);
void probe_done(struct probe *probe);
void wants_read(struct placement_cluster *cluster, const struct placement_demand *demand,
                struct want *ret_wants);

/* hold.c: is the node, which has room, held for another? */
bool hold_refuses(const struct probe *probe, const struct node *node);
void hold_end(struct placement_cluster *cluster, struct node *node);

/* filter.c */
struct refusal filter_state(const struct node *node);
struct refusal filter_class(const struct probe *probe, const struct class *class);
struct refusal filter_rules(const struct probe *probe, const struct node *node); /* names, jobs */
struct refusal filter_room(const struct probe *probe, const struct node *node);
struct refusal filter_node(const struct probe *probe, const struct node *node); /* all of them */
bool class_may_have_room(const struct probe *probe, const struct class *class);
void refusal_text(const struct probe *probe, const struct node *node, struct refusal refusal,
                  char ret_text[PLACEMENT_REASON_MAX]);
uint32_t refusal_wakes(enum placement_filter filter);

bool numa_keeps_together(const struct probe *probe, const struct node *node);
/* grant.c: cores and the NUMA node alone. */
bool grant_cores(const struct probe *probe, const struct node *node,
                 struct placement_grant *ret_grant);
/* grant.c: which parts of the node; true when it can be had.  ret_grant may be NULL. */
bool kind_is_of(const struct want *want, const struct kind *kind);
bool grant_find(const struct probe *probe, const struct node *node,
                struct placement_grant *ret_grant, enum placement_filter *ret_lacking,
                unsigned *ret_which);

/* ties.c: who is where of those it talks with; each node once.  How many; *ret_rate: of all. */
size_t ties_find(const struct placement_cluster *cluster, const struct placement_request *request,
                 struct tie ret_ties[PLACEMENT_TALKS_MAX], double *ret_rate);
/* The traffic part at a node. */
double ties_score(const struct tie *ties, size_t count, double rate, const struct node *node);
void talks_copy(struct placement_request *to, const struct placement_talk *talks, size_t count);
void talks_done(struct placement_request *request);

/* score.c: parts are written, the weighted sum is returned. */
double score_node(const struct probe *probe, const struct node *node,
                  double ret_parts[PLACEMENT_PART_COUNT]);
/* The parts that all nodes of a class have in common. */
double score_class(const struct probe *probe, const struct class *class);
/* Of its data, what is at a node; NULL: nothing. */
uint64_t hinted_bytes(const struct placement_request *request, const char *node);
double score_leaning(const struct probe *probe, const struct leaning *leaning, uint32_t count,
                     const struct word *value);
void habit_learn(struct placement_cluster *cluster, const struct placement_demand *demand);
void habits_done(struct placement_cluster *cluster);

/* decide.c: placement_decide() without checking options; the gang and the planner use it too. */
/* Victims are looked for at so many nodes, from a random one on, until so many have some. */
enum { DISPLACE_NODES_MAX = 512, DISPLACE_FOUND_MAX = 16 };
struct choice {
    struct node *node;
    double score;
    double parts[PLACEMENT_PART_COUNT];
};
int decide_one(struct placement_cluster *cluster, const struct placement_request *request,
               const struct placement_options *options, uint64_t now_ms,
               struct placement_decision *ret_decision, struct error *err);
void compare_spreads(struct probe *probe); /* find what spreads without targets compare with */
uint64_t reservations_lapse(struct placement_cluster *cluster, uint64_t now_ms);
uint64_t mix_bits(uint64_t value);
int check_options(const struct placement_options *options, struct error *err);

/* gang.c: is what was granted still free at the node? */
bool grant_holds(const struct probe *probe, const struct node *node,
                 const struct placement_grant *grant);

/* displace.c: fill the decision with the victims and the grant; NULL: there are none. */
struct node *find_displaceable(const struct probe *probe, struct node *const *nodes, size_t count,
                               struct placement_decision *decision);

#endif
