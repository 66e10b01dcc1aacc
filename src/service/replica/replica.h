/*
 * Copies of what machines start from: which nodes have which blob, and that enough do.
 *
 * An image that somebody imports is on the node that it was imported at.  So that what starts from
 * it can start when that node is gone, each blob of an image, and of a machine that starts
 * elsewhere when its node is lost (node_loss restart-fresh), is kept on `copies` nodes that take
 * work (the minimal replicas of images of other systems).  Nobody decides that for others: each
 * node reads the rows of `blob_replica` and the picture of the cluster, computes who is to have a
 * blob (choose.h), and fetches what it is itself to have, one blob at a time.  A node that is lost,
 * drained or removed counts for nothing: another one takes its part.
 *
 * What no image, and no machine of that kind, names any more is removed in time.
 *
 * Each node writes its own rows: of what it has, and of what it could not take, with the reason
 * (a full disk), so that another one does for some time.
 *
 * Main loop thread.
 */
#ifndef SERVICE_REPLICA_REPLICA_H
#define SERVICE_REPLICA_REPLICA_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct cluster;
struct image_store;
struct json_writer;
struct loop;
struct peer_blobs;
struct replica_service;
struct store;

struct replica_options {
    struct loop *loop;
    struct store *store;
    struct cluster *cluster;
    struct image_store *images;
    struct peer_blobs *blobs;
    const char *node_name; /* lent for good */
    uint64_t copies;       /* that there are to be; 1: none are made */
    uint64_t unused_ms;    /* that nobody needs something, until it is removed */
};

struct replica_service *replica_service_new(const struct replica_options *options);
void replica_service_free(struct replica_service *service); /* accepts NULL */

/*
 * Blobs that nothing wanted for `unused_ms` are removed from this node, when `needs` says that
 * nobody else needs them; NULL: none are, from now on.  Of what this node has said that it has;
 * others' files are left alone.
 */
void replica_set_needs(struct replica_service *service,
                       bool (*needs)(const char *blob, void *context), void *context);

/*
 * The blob was uploaded to this node, and somebody is about to name it: it stays for an hour even
 * if it was here before and is about to be removed.  What nobody has named by then goes as what
 * nobody needs any more does.
 */
void replica_expect(struct replica_service *service, const char *blob);

/* ---- Of the state: on any node ---- */

enum { REPLICA_SCHEMA = 11, REPLICA_PARTS = 4 };
/* Keys of the settings of an image or a machine that name a blob: kernel, initrd, root, disk. */
extern const char *const replica_parts[REPLICA_PARTS];

/* The largest of them, by what it is: the disk, or the root, or the kernel; "": there is none.
 * Lent. */
const char *replica_main(const json_t *config);

/* Visit the names of the nodes that say they have the blob, in their order, until visit returns
 * false; none may be known of one that was imported a moment ago. */
void replica_each(struct store *store, const char *blob,
                  bool (*visit)(const char *node, void *context), void *context);

/* Members "nodes" and "node_problems" of a MachineImage with these settings. */
void replica_write(struct store *store, const json_t *config, struct json_writer *writer);

#endif
