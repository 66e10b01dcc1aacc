/* What the files of this room share. */
#ifndef SERVICE_NODE_PARTS_H
#define SERVICE_NODE_PARTS_H

#include <sqlite3.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/error.h"
#include "base/json.h"
#include "base/list.h"
#include "base/log.h"
#include "base/loop/loop.h"
#include "base/map.h"
#include "base/memory.h"

#include "engine/store/store.h"

#include "service/cluster/cluster.h"
#include "service/node/node.h"
#include "service/operation/operation.h"

enum {
    NODE_NAME_SIZE = 64,
    NODE_ID_SIZE = 17, /* of a machine */
    NODE_PARALLEL_MAX = 64,
    NODE_ATTEMPTS_MAX = 3,
    NODE_PRIORITY = 50, /* of a machine that says nothing */
};

struct drain;
struct losses;

/* Huge pages of 2 MiB and of 1 GiB: how many there are, and how many of these somebody has who is
 * no machine of this node. */
enum { PAGES_SIZES = 2 };
struct node_pages {
    uint64_t set_aside[PAGES_SIZES];
    uint64_t taken[PAGES_SIZES];
};

struct node_service {
    struct node_options options;
    char *node_name;
    struct loop_timer *rebalance;
    struct loop_timer *look;       /* at what this node has */
    struct loop_timer *look_often; /* at what comes and goes while it runs */
    struct buffer usb;             /* attributes_write_usb() */
    struct node_pages pages;       /* as they were written */
    struct node_pages pages_seen;  /* and as they were last looked at */
    struct loop_timer *step;       /* of moves, soon or after a while */
    struct store_watch *watch;
    struct cluster_listener *listener;
    struct list moves;  /* of machines of this node, under way */
    struct list drains; /* operations that are told how it goes */
    struct losses *losses;
    struct loop_timer *windows; /* when one is to be looked at */
    struct map windows_tried;   /* key -> when a drain for it was refused, as a text */
    bool windows_are_busy;      /* a drain or a restore is being begun */
    struct loop_timer *loss;    /* when what a lost node ran may start elsewhere */
    bool has_looked;            /* for a drain from before the start */
    bool has_moves;             /* somewhere in the cluster, or a drain here */
    unsigned pending;           /* answers on their way */
    bool is_over;
};

/* The state has what this room needs (version 8). */
bool node_state_is_there(const struct node_service *service);
/* Look at moves soon. */
void node_step_soon(struct node_service *service);
/* Propose, and log what went wrong; `what` is a constant text. */
void node_propose(struct node_service *service, struct store_command *owned_command,
                  const char *what);

/* ---- attributes.c: what this node has; reads /proc and /sys, some hundred microseconds ---- */

/* Folders that are read, so that a test has its own. */
struct attributes_roots {
    const char *proc; /* "/proc" */
    const char *sys;  /* "/sys" */
};
struct node_pages attributes_read_pages(const struct node_options *options, const char *sys);
/* The part that tells of USB, alone. */
void attributes_write_usb(const struct node_options *options, const char *sys, struct buffer *out);
void attributes_write(const struct node_options *options, const struct attributes_roots *roots,
                      const struct node_pages *others, struct buffer *out);

/* ---- move.c ---- */
void moves_step(struct node_service *service);
void moves_abandon(struct node_service *service);

/* ---- drain_check.c ---- */
/* Names have no quotation marks in them. */
#define DRAIN_IS_IGNORED "instr(?2, '\"' || m.key || '\"') > 0"
#define DRAIN_STRATEGY   "coalesce(m.config ->> '$.eviction_strategy', 'migrate')"

/* CONFLICT, naming those that do not leave. */
int drain_check_machines(struct node_service *service, const char *name, const char *ignore,
                         struct error *err);
/* CONFLICT: nobody else takes work. */
int drain_check_others(struct node_service *service, const char *name, struct error *err);
/* NOT_FOUND; UNAVAILABLE: it is lost, and to be drained, or something is to come back to it (not
 * `stays`); CONFLICT: it is drained already. */
int drain_check_node(const struct node_service *service, const char *name, bool is_drain,
                     bool stays, struct error *err);
#define DRAIN_IS_UNDER_WAY "the node is drained, or being drained: `blixard node restore` ends that"
/* A NodeDrain, as it is kept in the node's row.  NOT_FOUND: a machine to be ignored. */
int drain_take_ignored(struct node_service *service, const json_t *body, const char *project,
                       json_t *ignored, struct error *err);
int drain_take_settings(const json_t *body, uint64_t moves_max, json_t *settings,
                        struct error *err);

/* ---- drain.c ---- */
/* For which window a node is drained; NULL: for none. */
struct drain_window {
    const char *name;
    uint64_t opens_ms;
};
/* node_drain(); CONFLICT, too: it was drained for that opening. */
void drain_begin(struct node_service *service, const char *project, const char *name,
                 const json_t *body, const struct drain_window *window_or_null, node_begun *done,
                 void *context);
/* node_restore(); the node is cordoned then, or takes work. */
void drain_restore(struct node_service *service, const char *project, const char *name,
                   const json_t *body, bool stays_cordoned, node_begun *done, void *context);
/* How many machines leave this node at once. */
size_t drains_parallel(const struct node_service *service);
void drains_step(struct node_service *service);
/* INVALID, UNSUPPORTED: there is no cluster, or one of older nodes. */
int drain_check_state(const struct node_service *service, struct error *err);
/* The operation of a command that adds moves with the reason `rebalance`. */
void drain_begin_rebalance(struct node_service *service, struct store_command *owned_command,
                           const char *project, node_begun *done, void *context,
                           char ret_operation[OPERATION_ID_SIZE]);
/* One that was under way when the daemon ended. */
void drains_resume(struct node_service *service);
void drains_abandon(struct node_service *service);

/* ---- window.c ---- */
void windows_open(struct node_service *service);
void windows_look_soon(struct node_service *service);
void windows_close(struct node_service *service);

/* ---- loss.c ---- */
void loss_open(struct node_service *service);
void loss_close(struct node_service *service);

/* ---- rebalance.c ---- */
void rebalance_tick(struct node_service *service);

#endif
