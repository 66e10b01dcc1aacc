/*
 * A cluster that has lost the majority of its servers for good: one that is left goes on alone.
 *
 * What was acknowledged is in the logs of a majority; one log alone may lack some of it.  So the
 * other nodes are asked, as far as they still answer, before anything is changed.
 */
#ifndef SERVICE_CLUSTER_RECOVER_H
#define SERVICE_CLUSTER_RECOVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct error;
struct loop;

enum { CLUSTER_RECOVERY_NODES_MAX = 64 };

struct cluster_recovery {
    char cluster[64];
    char node[64];
    uint64_t end; /* index that this node's log leads to */
    struct cluster_recovery_node {
        char name[64];
        char address[128];
        bool is_server;
        bool answers;
        bool has_leader;   /* it knows one: the cluster is not lost */
        uint64_t index;    /* that it has applied: acknowledged for certain */
        char problem[128]; /* why it does not answer */
    } others[CLUSTER_RECOVERY_NODES_MAX];
    size_t other_count;
};

/*
 * Look at the data folder of a server that does not run, and ask the others (for at most a few
 * seconds each).  Nothing is changed.  Blocks by running the loop.  Fails with EXISTS (the node
 * runs), NOT_FOUND (no cluster in the folder), INVALID (a worker has no log), CORRUPT, OS.
 */
int cluster_recovery_look(struct loop *loop, const char *data_folder,
                          struct cluster_recovery *ret_recovery, struct error *err);

/* Would going on with this log lose something, or is there no need?  CONFLICT, and why. */
int cluster_recovery_judge(const struct cluster_recovery *recovery, struct error *err);

/*
 * Make this server the only one: its log is all there is, the other servers are removed from the
 * cluster (they are told so when they come back, and may join anew), workers follow it.
 */
int cluster_recovery_carry_out(struct loop *loop, const char *data_folder,
                               struct cluster_recovery *recovery, struct error *err);

#endif
