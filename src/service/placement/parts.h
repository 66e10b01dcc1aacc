/*
 * What the files of this room share.
 *
 *   service.c   life; what changes in the state
 *   picture.c   machines and reservations for the engine; nodes.c: nodes
 *   asked.c     a machine's settings as the engine's request
 *   create.c    machines that are asked for: decide, send there, decide again
 *   many.c      machines that come by a command of this node: gangs, and those that displace
 *   queue.c     machines that wait for room
 *   hold.c      nodes that are held for them
 *   cpus.c      CPUs of machines' own
 *   devices.c   devices of the host that machines have
 *   explain.c   why
 *   preview.c   where what is to be would go
 *   show.c      lists; group.c, reserve.c, strategy.c: what people set
 *   measure.c   metrics
 */
#ifndef SERVICE_PLACEMENT_PARTS_H
#define SERVICE_PLACEMENT_PARTS_H

#include <sqlite3.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/json.h"
#include "base/list.h"
#include "base/log.h"
#include "base/loop/loop.h"
#include "base/map.h"
#include "base/memory.h"

#include "engine/placement/placement.h"
#include "engine/store/store.h"

#include "service/operation/operation.h"
#include "service/placement/placement.h"
#include "service/traffic/traffic.h"

enum {
    PLACEMENT_TRIES_MAX = 5, /* decisions for one machine, when others come first */
    PLACEMENT_HINTED_MAX = 32,
    PLACEMENT_BUCKETS = 8,
    PLACEMENT_MACHINE_ID_SIZE = 17,
    PLACEMENT_CLOCK_MS = 10000, /* the clock of the day is looked at so often: it jumps */
    PLACEMENT_RETRY_MS = 5000,  /* what was not written is written again */
};

/* ---- asked.c ---- */

/* A machine as the engine is asked for it; what the request points into is here. */
struct asked {
    struct placement_request request;
    char id[PLACEMENT_ID_MAX + 1];
    char job[PLACEMENT_ID_MAX + 1];
    char group[PLACEMENT_ID_MAX + 1];
    char reservation[PLACEMENT_ID_MAX + 1];
    uint16_t ports[PLACEMENT_PORTS_MAX];
    struct placement_device_demand devices[PLACEMENT_DEVICE_KINDS_MAX];
    struct asked_device {
        char class_name[32];
        char models[128];
    } found[PLACEMENT_DEVICE_KINDS_MAX]; /* what these point to */
    char hinted[PLACEMENT_HINTED_MAX][64];
    struct placement_hint hints[PLACEMENT_HINTED_MAX];
    char away[PLACEMENT_REASON_MAX]; /* why its image can be had nowhere; "": it can */
    const char *avoided[PLACEMENT_TRIES_MAX];
    struct traffic_peer peers[TRAFFIC_PEERS_MAX];
    struct placement_talk talks[TRAFFIC_PEERS_MAX];
};

struct asked_of {
    const char *project;
    const char *name;
    const char *id;
    const json_t *config;
    const char *bound;    /* node that it must be on, or NULL */
    const char *leaves;   /* node that it must not be on: its volumes go with it; or NULL */
    const char *home;     /* of such a one: where it goes back to some day; or "" */
    bool is_idle;         /* it is stopped: its disk alone counts */
    bool is_only_counted; /* where it is matters, what it asks does not */
    bool is_explained;    /* and not placed */
};
/* INVALID, NOT_FOUND (a group, reservation or volume); UNAVAILABLE (its image is away), unless it
 * is to be explained: then asked->away says so. */
int asked_init(struct asked *asked, struct placement_service *service, const struct asked_of *of,
               struct error *err);
void asked_done(struct asked *asked);
/* What was learnt of whom one talks with, as the engine has it; it lends from `peers`. */
void asked_talks(const struct traffic_peer *peers, size_t count, struct placement_talk *ret_talks);
/* The name without the number at its end: "db" of "db-2"; into `out` of 64. */
void asked_base_name(const char *name, char out[64]);
/* "reservation/PROJECT/NAME": the engine's name of one. */
char *asked_reservation_id(const char *project, const char *name);

/* ---- picture.c ---- */

struct waiting;

/* A row of `machine`, as the picture has it. */
struct known {
    char *key;
    char id[PLACEMENT_MACHINE_ID_SIZE];
    uint64_t digest;
    bool is_placed;          /* the engine has it */
    uint64_t leaves_from_ms; /* since when a taint of this node drives it away; 0: it may stay */
    uint64_t asked_ms;       /* when this was last written, by the boot clock */
    uint64_t stays_ms;       /* when that it does no more was, by the boot clock; 0: it need not */
    struct waiting *waiting; /* or NULL */
    uint32_t own_cpus;       /* so many, at the node where it is */
    char *cpus;              /* which ones, as the state has it; "": it does not say, or NULL */
    bool is_here;            /* at this node */
};

/* A machine that waits for room. */
struct waiting {
    struct list_node link;
    char *project;
    char *name;
    char id[PLACEMENT_MACHINE_ID_SIZE];
    char node[64]; /* that has its disk, or "" */
    json_t *config;
    char *reason; /* as the row has it */
    uint64_t since_ms;
    uint64_t priority;
    bool is_at_rest; /* it is made where there is room, and not started: nobody leaves for it */
    bool is_due;
    bool is_under_way;
    unsigned beaten; /* times in a row that the log refused its place */
    bool is_blocked; /* `asked` and `blocked` are there */
    uint64_t
        retry_at_ms; /* what was begun for it failed: looked at then, by the boot clock; 0: no */
    struct asked asked;
    struct placement_decision blocked;
    struct placement_hold hold; /* as the state has it, or soon will */
    bool had_hold;              /* before the state was read */
};

struct placement_service {
    struct placement_service_options options;
    char *node_name;
    struct placement_cluster *cluster;
    struct map nodes;    /* name -> digest, as a text */
    struct map machines; /* key -> struct known */
    struct map kept;     /* key of a reservation -> its engine id */
    struct map talking;  /* ids of machines of which something else was learnt */
    struct map dirty;    /* keys of machines whose rows changed */
    struct list waiting;
    struct map waiters; /* the same by id */
    struct list making; /* struct making: operations that end when machines run */
    struct list moving; /* struct moving: machines that wait and whose disks move (queue.c) */
    bool are_nodes_stale;
    bool is_all_stale;
    bool are_kept_stale;
    bool are_holds_stale;
    bool has_old_holds;                    /* of machines that do not wait any more */
    uint64_t holds_looked_ms, holds_at_ms; /* last and next time, by the boot clock; 0: none */
    size_t holds_from;
    bool are_peaks_stale;
    bool is_room_stale;     /* the state may not say what this node gives away */
    bool room_has_pages;    /* what it says tells of huge pages */
    bool are_waiting_stale; /* nor of who waits what we believe it says */
    bool drives_away;       /* this node has a taint with the effect NoExecute */
    bool drove_away;        /* it had one, or may have had: somebody may stay by now */
    struct map devices;     /* node -> its devices, in the engine's order: devices.c */
    struct map cpus;        /* node -> its CPUs in the engine's order: cpus.c */
    bool pins_stale;        /* what is at this node has changed */
    bool has_pins;          /* machines were told on which CPUs they may run */
    bool is_posted;
    bool is_over;
    char *room;       /* of this node, as its row has it */
    unsigned pending; /* answers on their way */
    struct store_watch *watch;
    struct cluster_listener *listener;
    struct loop_timer *timer;  /* the next reservation that expires, or a retry */
    struct loop_timer *look;   /* at nodes that have joined and not spoken yet */
    struct loop_timer *leaves; /* when somebody's time at this node is over */
    uint64_t kept_decisions;
    uint64_t decided[4]; /* placed, pending, displaced, moved */
    uint64_t refused[PLACEMENT_FILTER_COUNT];
    uint64_t conflicts;
    uint64_t retries;
    uint64_t buckets[PLACEMENT_BUCKETS + 1];
    uint64_t decision_ns;
    uint64_t decisions;
};

bool service_is_known(const struct placement_service *service);      /* has the state version 8? */
bool picture_knows_cpus(const struct placement_service *service);    /* and 9? */
bool picture_knows_devices(const struct placement_service *service); /* and 12? */
bool picture_knows_kept_pages(const struct placement_service *service); /* and 13? */
/* "page_bytes" of a reservation, or what stands for it where there is none. */
const char *picture_page_column(const struct placement_service *service);
/* Bring the picture up to the state. */
void picture_update(struct placement_service *service);
void picture_done(struct placement_service *service);
void waiting_free(struct placement_service *service, struct waiting *waiting);
/* Something changed: those that it may help are looked at again. */
void picture_tell(struct placement_service *service, const struct placement_change *change);
/* nodes.c */
void nodes_update(struct placement_service *service);
/* What they foresee that they will use. */
void nodes_update_peaks(struct placement_service *service);
/* For peers; 0: nobody is called so. */
uint64_t nodes_id(const struct placement_service *service, const char *name);
/* Keep the place of a decision until its row is here: it is counted under an id of its own, which
 * is returned; NULL: it is gone. */
char *picture_keep(struct placement_service *service, const char *project, struct asked *asked,
                   const struct placement_decision *decision);
void picture_give_back(struct placement_service *service, char *owned_id_or_null);
/* What the picture was told of a machine is not so: its row is read again. */
void picture_reload(struct placement_service *service, const char *machine_id);
/* A machine is not counted until the next picture_update(), and nobody is told. */
void picture_take_out(struct placement_service *service, const char *key);
bool picture_has_node(const struct placement_service *service, const char *name);
/* Later, once. */
void service_post(struct placement_service *service);
/* Propose what is believed already; *is_stale (of the service) is set when it does not come to be,
 * and the picture is brought up to the state soon. */
void service_write(struct placement_service *service, struct store_command *owned_command,
                   bool *is_stale);

/* ---- strategy.c ---- */
void strategy_of(struct placement_service *service, const char *project,
                 struct placement_options *ret_options, const char **ret_source);

/* evict.c: who may not stay at this node any more leaves it. */
void evict_look(struct placement_service *service);
/* When a taint drives a machine away from its node, wherever that is; 0: none does. */
uint64_t evict_when(struct placement_service *service, const char *machine_id);

/* cpus.c: machines with CPUs of their own. */
void cpus_take(struct placement_service *service, const char *node, const json_t *attributes,
               bool has_numa);
/* The grant of one that has "2,3" there; `cores` is PLACEMENT_CORES_MAX and lent by the caller. */
void cpus_grant(const struct placement_service *service, const char *node, const char *cpus,
                uint32_t count, uint16_t *cores, struct placement_grant *ret_grant);
/* Beside cores of the engine's numbers: CPUs that nobody has for its own, of the same NUMA nodes
 * where there are such ("": there are none); and these NUMA nodes, by the kernel's numbers ("":
 * memory is not to be bound).  The caller's. */
struct cpus_beside {
    char *others;
    char *nodes;
};
struct cpus_beside cpus_beside(const struct placement_service *service, const char *node,
                               const uint16_t *cores, size_t count, const bool *is_taken);
/* Give CPUs to those here that have none, and tell all which ones they may run on. */
void cpus_look(struct placement_service *service);

/* devices.c: what a node says, of NodeDevice; returns how many kinds (lent from `list`), of at most
 * PLACEMENT_DEVICE_KINDS_MAX. */
size_t devices_take(struct placement_service *service, const char *node, const json_t *list,
                    struct placement_device *ret_kinds);
/* The grant of one that has "0000:01:00.0,..." there; `devices` is DEVICE_LIST_MAX, and lent. */
void devices_grant(const struct placement_service *service, const char *node, const char *addresses,
                   struct placement_grant_device *devices, struct placement_grant *ret_grant);
/* What it asks for, as demands; where it names one, a rule is added. */
void devices_ask(struct asked *asked, struct placement_service *service, const struct asked_of *of,
                 json_t *rules_or_null);

/* leave.c: a machine has come where it was to go, or goes elsewhere. */
void leave_forget(struct placement_service *service, const char *machine_id);

/* ---- measure.c ---- */
/* placement_decide(), measured. */
int measured_decide(struct placement_service *service, const struct asked *asked,
                    const char *project, struct placement_decision *ret_decision,
                    struct error *err);

/* ---- explain.c ---- */
struct verdict {
    char name[64];
    enum placement_filter filter;
    char reason[PLACEMENT_REASON_MAX];
    double score;
    double parts[PLACEMENT_PART_COUNT];
};
struct verdicts { /* zeroed: empty */
    struct verdict *all;
    size_t count;
    size_t room;
};
/* Every node: those that fit first, the best before the others.  The caller ends it. */
int verdicts_of(struct placement_service *service, const struct placement_request *request,
                const struct placement_options *options, struct verdicts *ret_verdicts,
                struct error *err);
void verdicts_done(struct verdicts *verdicts);
/* The engine knows that nothing new goes to a node; the state may say why.  It is asked. */
void verdict_find_reason(struct placement_service *service, struct verdict *verdict);
/* functions.c: what a version with this FunctionPlacement (NULL: none) may be on, and, as a text,
 * which of these have it before anybody calls. */
int functions_preview(struct placement_service *service, const char *version,
                      const json_t *placement_or_null, struct verdicts *ret_verdicts,
                      char ret_nodes[PLACEMENT_REASON_MAX], struct error *err);
/* Member "decisions": the last ones of a project, or of a machine. */
void decisions_write(struct placement_service *service, const char *project,
                     const char *machine_or_null, struct json_writer *writer);

/* ---- drivers.c ---- */

/* Whether no node has it, though all have spoken; then what they have and what to do about it.  "",
 * which is any: false. */
bool drivers_explain(struct placement_service *service, const char *driver,
                     char ret_reason[PLACEMENT_REASON_MAX]);

/* ---- many.c ---- */
enum decision_kind { DECISION_PLACED, DECISION_PENDING, DECISION_DISPLACED, DECISION_MOVED };
/* Add the row, and those that are too many go. */
void decision_add(struct placement_service *service, struct store_command *command,
                  const char *project, const char *machine, const char *id, enum decision_kind kind,
                  const char *node, const char *text);
/* Whom the decision displaces: their rows, and why. */
void victims_add(struct placement_service *service, struct store_command *command,
                 const struct placement_decision *decision, const char *for_whom);
/* An operation that ends when the machine runs, has failed or is pending. */
void making_watch(struct placement_service *service, const char *operation, const char *id);
void making_look(struct placement_service *service, const char *key_or_null);
void making_abandon(struct placement_service *service);
/* A machine by a command of this node, with those that it displaces. */
void many_create_one(struct placement_service *service, const char *project, const json_t *create,
                     const struct placement_decision *decision, placement_begun *done,
                     void *context);

/* ---- queue.c ---- */
void queue_run(struct placement_service *service);
void queue_wake_all(struct placement_service *service);
/* When somebody is to be looked at though nothing changes, by the boot clock; 0: nobody. */
uint64_t queue_next_ms(const struct placement_service *service, uint64_t boot_ms, uint64_t real_ms);
/* Those whose moment has come. */
void queue_wake_late(struct placement_service *service, uint64_t boot_ms, uint64_t real_ms);
/* What rows say of those that wait. */
void queue_read_again(struct placement_service *service);
void queue_abandon(struct placement_service *service);

struct waiting *waiting_find(struct placement_service *service, const char *machine_id);
/* What one that waits asks: at the node that has its disk, or anywhere.  asked_done() ends it. */
int waiting_ask(struct placement_service *service, const struct waiting *waiting,
                struct asked *asked, struct error *err);

/* ---- hold.c ---- */
void holds_update(struct placement_service *service);
/* Who waits, the most important first: the owner of the queue gives them nodes to hold. */
void holds_look(struct placement_service *service, struct waiting *const *waiting, size_t count);
/* In the picture it holds nothing until the rows are read again. */
void hold_forget(struct placement_service *service, const struct waiting *waiting);
/* SQL: the node that a row of `machine` holds, or NULL. */
const char *hold_columns(const struct placement_service *service);
void hold_find_reason(struct placement_service *service, const char *node, char *ret_reason);

/* ---- group.c ---- */
/* *ret_policy: of the engine.  NOT_FOUND. */
int group_find(struct placement_service *service, const char *project, const char *name,
               struct placement_group *ret_group, struct error *err);
void answer_later(struct placement_service *service, const struct error *error,
                  placement_done *done, void *context);
void answer_begun_later(struct placement_service *service, const struct error *error,
                        placement_begun *done, void *context);

#endif
