/* What the files of this room share: who is spoken to. */
#ifndef SERVICE_PEER_INSIDE_H
#define SERVICE_PEER_INSIDE_H

#include "base/error.h"
#include "base/list.h"

#include "service/cluster/cluster.h"
#include "service/peer/peer.h"

struct http_client;

/* A node as it was when its client was made.  One whose address or name in certificates has
 * changed since is kept until its last call has ended. */
struct peer_client {
    struct list_node link;
    struct http_client *http;
    uint64_t node;
    unsigned calls;
    bool is_old;
    char name[64];
    char address[128];
    char identity[128];
};

struct peer_clients {
    struct loop *loop;
    struct cluster *cluster;
    struct list known;
    struct loop_timer *sweep; /* ends the old ones; not from inside their callbacks */
};

/* The client of a node, with one call more: peer_client_leave() when that has ended.  UNAVAILABLE
 * when there is no such node. */
int peer_client_enter(struct peer_clients *clients, uint64_t node, struct peer_client **ret_client,
                      struct error *err);
void peer_client_leave(struct peer_clients *clients, struct peer_client *client);

/* How much of such a blob is taken: what is known of it counts, however much that is. */
uint64_t peer_wanted_bytes(const struct peer_wanted *wanted);

/* Errors name the node. */
void peer_name_error(const struct peer_client *client, const struct error *error,
                     struct error *ret_error);

#endif
