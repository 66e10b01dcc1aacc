/* Inside service/replica: who is to have a copy.  Pure: every node comes to the same. */
#ifndef SERVICE_REPLICA_CHOOSE_H
#define SERVICE_REPLICA_CHOOSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct choose_node {
    const char *name;
    const char
        *domain;    /* what it shares a fate with others by: zone, or failure domain; "": none */
    bool has;       /* the blob */
    bool may;       /* have a copy counted: it answers, and takes work */
    bool cannot;    /* it has said so lately */
    bool is_chosen; /* set: it is to fetch the blob */
};

/*
 * Mark those that are to fetch, so that `copies` nodes have the blob; fewer when there are not so
 * many.  First those of a domain that has no copy; among equals by rendezvous hashing (Thaler and
 * Ravishankar, 1998), so that the blobs spread over the nodes, and few are chosen anew when a node
 * comes or goes.
 */
void choose(struct choose_node *nodes, size_t count, const char *blob, uint64_t copies);

#endif
