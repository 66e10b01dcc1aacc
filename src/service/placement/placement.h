/*
 * Placement at work: which node a machine is made on, what waits for room, and why.
 *
 * Every node keeps a picture of the cluster for the engine (engine/placement): nodes, machines and
 * reservations as the state has them.  Whoever is asked for a machine decides from its own picture;
 * the command that says where the machine is fails with CONFLICT when there is no room there any
 * more, and it is decided again.  A machine that fits nowhere is made and pending: one of the nodes
 * (the owner of the queue) looks at it again when something changes that can help, and at nothing
 * else.
 *
 * Main loop thread.  Every `done` is called once; it may be called before the function returns.
 */
#ifndef SERVICE_PLACEMENT_PLACEMENT_H
#define SERVICE_PLACEMENT_PLACEMENT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buffer;
struct cluster;
struct error;
struct loop;
struct machine_service;
struct operation_service;
struct peer_clients;
struct placement_rebalance;
struct placement_rebalance_options;
struct placement_service;
struct store;

struct placement_service_options {
    struct loop *loop;
    struct store *store;
    struct cluster *cluster;
    struct peer_clients *peers;
    struct machine_service *machines;
    struct operation_service *operations;
    const char *node_name;
    uint64_t displaced_max; /* machines that one may displace; 0: preemption is off */
    uint64_t hold_after_ms; /* who has waited so long has a node held; 0: nobody has */
    uint64_t holds_max;     /* nodes of a pool */
};

int placement_service_new(const struct placement_service_options *options,
                          struct placement_service **ret_service, struct error *err);
/* The operations of what it began go on at other nodes, or are interrupted. */
void placement_service_free(struct placement_service *service);

/* ---- Machines ---- */

typedef void placement_begun(const struct error *error, const char *operation, void *context);

/*
 * Make a machine where it suits; a body of type MachineCreate.  As machine_create() of
 * service/machine, and: NOT_FOUND (the node, group or reservation that it names), LIMIT (it fits
 * nowhere and is not to wait).  The operation ends when it runs, or is pending.
 */
void placement_service_create(struct placement_service *service, const char *project,
                              const json_t *create, placement_begun *done, void *context);

/* Of another node, which has found no room for it: it is made here, and pending. */
void placement_service_create_pending(struct placement_service *service, const char *project,
                                      const json_t *create, const char *reason,
                                      placement_begun *done, void *context);

/* A body of type MachineGang; each has an operation of its own, in the order of names. */
typedef void placement_gang_begun(const struct error *error, const char *const *names,
                                  const char *const *operations, size_t count, void *context);
void placement_service_create_gang(struct placement_service *service, const char *project,
                                   const json_t *gang, placement_gang_begun *done, void *context);

/*
 * Another node for a machine that has to leave `but`, volumes and all, by all of its rules; room is
 * kept there for two minutes, or until it has come.  UNAVAILABLE: nobody takes it, and why.
 */
int placement_service_find_other(struct placement_service *service, const char *machine_id,
                                 const char *but, char ret_node[64], struct error *err);

/* Moves that even out the nodes, by all rules of what is moved: placement_rebalance() of the
 * engine. UNAVAILABLE: the nodes are not known yet. */
int placement_service_plan_moves(struct placement_service *service,
                                 const struct placement_rebalance_options *options,
                                 struct placement_rebalance *ret_plan, struct error *err);

/* As JSON: PlacementExplanation, PlacementList.  NOT_FOUND. */
int placement_service_explain(struct placement_service *service, const char *project,
                              const char *name, struct buffer *out, struct error *err);
int placement_service_write_list(struct placement_service *service, const char *project,
                                 struct buffer *out, struct error *err);

/* Where what a PlacementPreviewAsk has would go, in its order and as if each had come, as a
 * PlacementPreview: decided against this node's picture, and nothing is done.  LIMIT. */
enum { PLACEMENT_PREVIEW_MAX = 1000 };
int placement_service_preview(struct placement_service *service, const char *project,
                              const json_t *ask, struct buffer *out, struct error *err);

/* ---- Groups, reservations, strategies ---- */

typedef void placement_done(const struct error *error, uint64_t index, void *context);

/* A body of type PlacementGroupCreate.  EXISTS, INVALID. */
void placement_service_group_create(struct placement_service *service, const char *project,
                                    const json_t *create, placement_done *done, void *context);
/* NOT_FOUND; CONFLICT: a machine is in it. */
void placement_service_group_delete(struct placement_service *service, const char *project,
                                    const char *name, placement_done *done, void *context);
int placement_service_group_write(struct placement_service *service, const char *project,
                                  const char *name, struct buffer *out, struct error *err);
int placement_service_group_write_list(struct placement_service *service, const char *project,
                                       struct buffer *out, struct error *err);

/* A body of type ReservationCreate.  EXISTS, INVALID, LIMIT (there is no such room). */
void placement_service_reserve(struct placement_service *service, const char *project,
                               const json_t *create, placement_done *done, void *context);
void placement_service_release(struct placement_service *service, const char *project,
                               const char *name, placement_done *done, void *context);
int placement_service_reservation_write(struct placement_service *service, const char *project,
                                        const char *name, struct buffer *out, struct error *err);
int placement_service_reservation_write_list(struct placement_service *service, const char *project,
                                             struct buffer *out, struct error *err);

/* Of a project, or ("") of those that say nothing; a body of type PlacementStrategy.  INVALID. */
void placement_service_set_strategy(struct placement_service *service, const char *project,
                                    const json_t *strategy, placement_done *done, void *context);
/* What the project says itself, as a NamedStrategy (NOT_FOUND: nothing), and NamedStrategyList. */
int placement_service_strategy_write(struct placement_service *service, const char *project,
                                     const char *name, struct buffer *out, struct error *err);
int placement_service_strategy_write_list(struct placement_service *service, const char *project,
                                          struct buffer *out, struct error *err);
/* NOT_FOUND. */
void placement_service_strategy_delete(struct placement_service *service, const char *project,
                                       placement_done *done, void *context);
int placement_service_write_strategy(struct placement_service *service, const char *project,
                                     struct buffer *out, struct error *err);

/* ---- Functions ---- */

/* Is a version of a function to be on this node?  `placement`: its FunctionPlacement, as JSON. */
enum placement_function_place {
    PLACEMENT_FUNCTION_NOT_HERE,
    PLACEMENT_FUNCTION_WHEN_CALLED,
    PLACEMENT_FUNCTION_HERE
};
enum placement_function_place placement_service_function(struct placement_service *service,
                                                         const char *version,
                                                         const char *placement);

/* May another node that takes work run it? */
bool placement_service_suits_others(struct placement_service *service, const char *placement);

/* ---- Facts ---- */

void placement_service_write_metrics(struct placement_service *service, bool is_openmetrics,
                                     struct buffer *out);

#endif
