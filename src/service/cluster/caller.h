/*
 * Who asks, and what it may: certificates and secrets against the rows of the state.
 *
 * A node is believed while it has a row in `node`, a client while it has one in `client` that names
 * this very certificate, or the digest of this secret, and has not ended.  Revoking is deleting the
 * row: the next request is refused, also on a connection that stands.  The store's loop thread.
 */
#ifndef SERVICE_CLUSTER_CALLER_H
#define SERVICE_CLUSTER_CALLER_H

#include <stdbool.h>
#include <stdint.h>

struct error;
struct store;
struct tls_peer;

/* In the text of the error that a node which was removed is refused with: it then ends. */
#define CALLER_REMOVED_TEXT "was removed from the cluster"

enum caller_kind {
    CALLER_NOBODY, /* showed nothing */
    CALLER_LOCAL,  /* came over loopback or the unix socket: the administrator */
    CALLER_CLIENT,
    CALLER_NODE,
    CALLER_KIND_COUNT,
};

struct caller {
    enum caller_kind kind;
    uint64_t node; /* id of a node */
    char name[64]; /* of a node or a client */
};

/*
 * The certificate has been found to be one of the cluster's authority.  DENIED: a node that was
 * removed (it is told so) or is not known, an identity of something else.  UNAUTHENTICATED: a
 * client that is to log in again.  UNAVAILABLE: not found, but the state is not as new yet as what
 * was acknowledged before the node started.
 */
int caller_by_certificate(struct store *store, const struct tls_peer *peer, uint64_t now_ms,
                          struct caller *ret_caller, struct error *err);

/* A bearer token (RFC 6750): the secret, or the text that has it.  UNAUTHENTICATED, UNAVAILABLE. */
int caller_by_secret(struct store *store, const char *token, uint64_t now_ms,
                     struct caller *ret_caller, struct error *err);

/*
 * A permission of spec/operations.def: "public" anybody; "peer" nodes; what ends in ":admin" local
 * callers and clients; the rest local callers, clients and nodes, which carry requests on for
 * others.  UNAUTHENTICATED for nobody, DENIED for the others.
 */
int caller_may(const struct caller *caller, const char *permission, struct error *err);

#endif
