/*
 * Secrets: named values of a project that functions, triggers and the daemon's own rooms use, and
 * that nobody gets to see again.
 *
 * A value is in the state only sealed (base/seal.h), bound to its project and its name.  The key is
 * in no database: it lies in FOLDER/secrets.key (32 bytes, 0600) of each node.  The node that is
 * asked to keep the first secret makes it; the others fetch it from one that has it, over mutual
 * TLS (/v1/peer/secrets-key).  The row of `secret_key` proves which key it is: a known text, sealed
 * with it.  A node with another file says so, uses nothing, and leaves the file alone; one without
 * a file asks on and looks for the file again.
 *
 * No value is acknowledged before its key is on as many nodes as the cluster can lose and one more
 * (rows of `secret_holder`).  A backup has the sealed values and not the key.
 *
 * Names are those of functions (text_is_name()).  Main loop thread.  Every `done` is called once,
 * later, never from within the call; its contexts must live until then.  Times are milliseconds
 * since 1970.
 */
#ifndef SERVICE_SECRET_SECRET_H
#define SERVICE_SECRET_SECRET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buffer;
struct cluster;
struct error;
struct json_writer;
struct loop;
struct peer_clients;
struct secret_service;
struct store;

enum {
    SECRET_VALUE_MAX = 65536,  /* bytes */
    SECRET_PROJECT_MAX = 1000, /* secrets of a project */
    SECRET_WAIT_MS = 10000,    /* for the key to be where it must be */
    SECRET_KEY_BYTES = 32,
};

/* ---- Life ---- */

struct secret_options {
    struct loop *loop;
    struct store *store;
    const char *folder;         /* where secrets.key lies; copied */
    struct cluster *cluster;    /* NULL: there are no other nodes */
    struct peer_clients *peers; /* of this loop; NULL as well */
};

struct secret_service *secret_service_new(const struct secret_options *options);
/* Waits for what was asked (it runs the loop); the store is still open.  Accepts NULL. */
void secret_service_free(struct secret_service *service);

/* ---- Changing ---- */

/*
 * Make a secret, or give it another value (which is copied, and wiped).  INVALID (name, an empty
 * value), TOO_LARGE, LIMIT, UNSUPPORTED (some node of the cluster is too old), UNAVAILABLE (the key
 * is not here, or not on enough nodes), CORRUPT (another key is here), and what store_propose()
 * says.
 */
void secret_set(struct secret_service *service, const char *project, const char *name,
                const void *value, size_t length,
                void (*done)(const struct error *error, uint64_t index, void *context),
                void *context);

/* NOT_FOUND; CONFLICT while versions of functions or triggers name it, which the error lists. */
void secret_delete(struct secret_service *service, const char *project, const char *name,
                   void (*done)(const struct error *error, uint64_t index, void *context),
                   void *context);

/* ---- Looking: of this node's replica, and never a value ---- */

/* As JSON (types SecretList, Secret).  NOT_FOUND. */
int secret_write_list(struct secret_service *service, const char *project, struct buffer *out,
                      struct error *err);
int secret_write(struct secret_service *service, const char *project, const char *name,
                 struct buffer *out, struct error *err);

/* ---- Using ---- */

/*
 * Append the value as it is now to an empty buffer, which the caller ends with buffer_wipe(), also
 * after a failure.  NOT_FOUND says how to make it; UNAVAILABLE, CORRUPT: why this node cannot.
 */
int secret_read(struct secret_service *service, const char *project, const char *name,
                struct buffer *ret_value, struct error *err);

/* For a node that asks: the key, which the caller wipes.  UNAVAILABLE: it is not here either. */
int secret_give_key(struct secret_service *service, uint8_t ret_key[SECRET_KEY_BYTES],
                    struct error *err);

#endif
