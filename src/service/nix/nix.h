/*
 * The Nix stores of the nodes, shared: each serves what it has, signed by a key of the cluster, and
 * takes what it lacks from the nearest node that has it.
 *
 * Whoever has a path has all that it refers to: so Nix keeps its stores.  One question per node is
 * enough to know where a whole closure is, and nobody keeps lists of what others have (see decision
 * 0041).  What comes is checked twice: its signature and its hash here, and both again by Nix, when
 * it takes it.
 *
 * Real clients of Nix are served on a listener of their own (http_address), off by default, in the
 * clear or by TLS with a certificate of its own: GET and HEAD of nix-cache-info, HASH.narinfo and
 * what is in nar/, PUT of the same with a token.
 *
 * A node without Nix answers all of it with UNSUPPORTED.  Main loop thread.  Every `done` comes
 * once, later, never from within the call.
 */
#ifndef SERVICE_NIX_NIX_H
#define SERVICE_NIX_NIX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/nix/nix.h"

struct buffer;
struct cluster;
struct error;
struct image_store;
struct loop;
struct nix_service;
struct operation_service;
struct peer_blobs;
struct peer_clients;
struct secret_service;
struct store;

struct nix_service_options {
    struct loop *loop;
    struct store *store;
    struct operation_service *operations;
    struct secret_service *secrets;
    struct image_store *images; /* where packed paths are kept, as blobs */
    struct cluster *cluster;    /* NULL: there are no other nodes; so are the next two */
    struct peer_clients *peers;
    struct peer_blobs *blobs;
    const char *folder; /* DATA/nix; made; the texts are copied */
    const char *node_name;
    const char *http_address;    /* "": no listener */
    const char *tls_certificate; /* files (base/stream/secure.h); both "": in the clear */
    const char *tls_key;
    const char *upload_token_file; /* "": nobody uploads */
    const char *read_token_file;   /* "": whoever reaches the listener may read */
    const char *trusted_keys;  /* public keys, "NAME:BASE64" with blanks; beside the cluster's */
    uint64_t packed_bytes_max; /* of packed paths on the disk */
};

/* INVALID: an option; EXISTS: the address is in use.  That there is no Nix is no failure. */
int nix_service_new(const struct nix_service_options *options, struct nix_service **ret_service,
                    struct error *err);
/* The node ends: what was asked and is not answered is, soon, with CANCELLED where it is not done.
 */
void nix_service_hurry(struct nix_service *service);
/* Ends what is under way (it runs the loop).  Accepts NULL. */
void nix_service_free(struct nix_service *service);
/* The listener's certificate is read now, whether it seems to have changed or not. */
void nix_reload(struct nix_service *service);
/* For /metrics: blixard_nix_... */
void nix_write_metrics(struct nix_service *service, bool is_openmetrics, struct buffer *out);
/* 0: there is no listener. */
uint16_t nix_service_port(const struct nix_service *service);

/* Which store, for engine/nix; UNSUPPORTED, saying what to install.  Where there was none, that is
 * asked again beside the loop, at most every 5 s: who asks after Nix has come to this node may be
 * told once that there is none. */
int nix_service_store(struct nix_service *service, struct nix_store *ret_store, struct error *err);

/* ---- For what is deployed: have a path, keep it ---- */

struct nix_wish {
    const char *path;     /* "/nix/store/HASH-NAME", or without the folder */
    const uint64_t *from; /* nodes that are asked first */
    size_t from_count;
    bool only_from;   /* and no others */
    const char *root; /* keep it by a root of this name ("machine-ab12"), or NULL */
};

/*
 * Make a path valid here with all that it refers to: it is already; or from the nearest node that
 * has it (same rack, zone, region, then by time of answers), the next one when that fails; or, when
 * no node has it, by what Nix itself is configured with.  NOT_FOUND; UNAVAILABLE (nodes that may
 * have it did not answer), CORRUPT and DENIED (not what was signed, or by nobody trusted), LIMIT,
 * FULL, INVALID with Nix's words.
 */
struct nix_fetch;
struct nix_fetch *nix_fetch_new(struct nix_service *service, const struct nix_wish *wish,
                                void (*done)(const struct error *error, void *context),
                                void *context);
/* Before `done`: it is given up.  Accepts NULL. */
void nix_fetch_free(struct nix_fetch *fetch);
/* What is under way, for people; lent until the next turn of the loop. */
const char *nix_fetch_text(const struct nix_fetch *fetch);
unsigned nix_fetch_percent(const struct nix_fetch *fetch);

/*
 * Roots of this node, by name (a-z 0-9 - . _, 1 to 100): what keeps paths from the collector, until
 * released.  Names of deployments have a prefix and a dash ("machine-ID"); people's pins are
 * "pin-NAME".  keep: NOT_FOUND (the path is not valid here).
 */
enum { NIX_ROOT_NAME_MAX = 100 };
void nix_keep(struct nix_service *service, const char *root, const char *path,
              void (*done)(const struct error *error, void *context), void *context);
/* One that is not there is success. */
int nix_release(struct nix_service *service, const char *root, struct error *err);
/* Is there a root of this name? */
bool nix_is_kept(const struct nix_service *service, const char *root);

/* ---- For people: what the API answers, as JSON of spec/types.def ---- */

typedef void nix_done(const struct error *error, struct buffer *json, void *context);

/* NixPathList: paths in the order of their hashes behind `after` (NULL), `limit` of them at most,
 * whose names have `match` (NULL: any). */
void nix_list(struct nix_service *service, const char *after, uint64_t limit, const char *match,
              nix_done *done, void *context);
/* NixPath; NOT_FOUND. */
void nix_show(struct nix_service *service, const char *path, nix_done *done, void *context);
/* NixRootList: all roots that this service keeps. */
void nix_roots(struct nix_service *service, nix_done *done, void *context);
/* NixKey: the cluster's public key, which is made now if there is none. */
void nix_key(struct nix_service *service, nix_done *done, void *context);
/* The same, or "" while there is none; lent until the loop's next turn. */
const char *nix_public_key(struct nix_service *service);

typedef void nix_begun(const struct error *error, const char *operation, void *context);
/* Operations: collect garbage; read paths (NULL: all) again, which fails with CORRUPT and names
 * what is damaged; have a path from a node (NULL: any). */
void nix_begin_gc(struct nix_service *service, const char *project, uint64_t bytes_max,
                  bool is_trial, nix_begun *begun, void *context);
void nix_begin_verify(struct nix_service *service, const char *project, const char *path,
                      nix_begun *begun, void *context);
void nix_begin_copy(struct nix_service *service, const char *project, const char *path,
                    const char *from_node, nix_begun *begun, void *context);

/* ---- For other nodes ---- */

/* The narinfos of a path and all that it refers to, signed, an empty line behind each. */
void nix_give_closure(struct nix_service *service, const char *hash, nix_done *done, void *context);
/* One narinfo, with the FileHash of its packed NAR, which is a blob of this node from now on. */
void nix_give_packed(struct nix_service *service, const char *hash, nix_done *done, void *context);

#endif
