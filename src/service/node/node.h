/*
 * What becomes of a node, and with it of its machines: what it has, drains, losses, rebalancing.
 *
 * What a node has is told in its row, on change only.  A machine that is to be elsewhere is a row
 * of `machine_move`: whoever wants it writes it, and the node that has the machine brings it about
 * (move.c), so that nothing is lost when a daemon ends in the middle.
 *
 * Main loop thread.
 */
#ifndef SERVICE_NODE_NODE_H
#define SERVICE_NODE_NODE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

struct buffer;
struct cluster;
struct error;
struct hypervisor;
struct loop;
struct machine_service;
struct node_service;
struct operation_service;
struct placement_rebalance;
struct placement_rebalance_options;
struct store;

struct node_options {
    struct loop *loop;
    struct store *store;
    struct cluster *cluster;
    struct operation_service *operations;
    struct machine_service *machines;
    struct hypervisor *hypervisor;
    const char *node_name;
    const char *data_folder; /* its disk is what machines have */
    const char *kvm;         /* "hardware", "nested", ...: what isolates functions; for people */
    const char *devices;     /* which machines may have: see device_list(); NULL: none */
    const char *region;      /* "" when it is not said; the same of the others */
    const char *zone;
    const char *rack;
    uint64_t reserved_cpu_millis;
    uint64_t reserved_memory_bytes;
    uint64_t reserved_disk_bytes;
    uint64_t overcommit_cpu_percent;
    uint64_t overcommit_memory_percent;
    uint64_t overcommit_disk_percent;
    uint64_t loss_wait_ms; /* beyond what is safe, before machines of a lost node start elsewhere */
    uint64_t rebalance_every_ms; /* 0: not by itself */
    uint64_t rebalance_threshold_percent;
    uint64_t rebalance_batch;
    uint64_t rebalance_cooldown_ms; /* who was moved does not move again before */
    uint64_t moves_max;             /* machines that leave this node at once */
    /* Another node for machine `id`, which has to leave node `but`: placement's word.  UNAVAILABLE:
     * nobody takes it. */
    int (*find_other)(void *context, const char *id, const char *but, char ret_node[64],
                      struct error *err);
    /* Moves that even out the nodes, by all rules of what is moved: placement's word, too. */
    int (*plan_moves)(void *context, const struct placement_rebalance_options *options,
                      struct placement_rebalance *ret_plan, struct error *err);
    void *find_context; /* of both */
    /* Calls of functions that this node runs or lets wait; how many functions only it can run
     * though others may, and the names of some.  NULL: there are none. */
    size_t (*look_at_functions)(void *context, uint64_t *ret_calls, char *ret_names, size_t size);
    void *functions_context;
};

/* INVALID: `devices` names none. */
int node_service_new(const struct node_options *options, struct node_service **ret_service,
                     struct error *err);
void node_service_free(struct node_service *service);

/* With the id of the operation that ends when it is so, or an error. */
typedef void node_begun(const struct error *error, const char *operation, void *context);

/*
 * Let what node `name` has leave it: a body of type NodeDrain.  It takes nothing from then on.
 * CONFLICT: nobody could take it, a machine cannot leave, or it is drained already; NOT_FOUND,
 * UNAVAILABLE (it is lost).  Cancelled, it
 * stays cordoned, and what has left stays where it is.
 */
void node_drain(struct node_service *service, const char *project, const char *name,
                const json_t *body, node_begun *done, void *context);

/* Let node `name` take work again, and what has left it come back: a body of type NodeRestore.
 * CONFLICT: there is nothing to restore. */
void node_restore(struct node_service *service, const char *project, const char *name,
                  const json_t *body, node_begun *done, void *context);

/*
 * Even out what nodes have: a body of type ClusterRebalance.  A RebalancePlan as JSON, lent: with
 * its operation, or without one where nothing is moved.
 */
typedef void node_planned(const struct error *error, struct buffer *plan, void *context);
void node_rebalance(struct node_service *service, const char *project, const json_t *body,
                    node_planned *done, void *context);

#endif
