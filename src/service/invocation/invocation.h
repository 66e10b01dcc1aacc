/*
 * Asynchronous invocations: accepted now, run soon, asked about later.
 *
 * What was accepted is a row of the state, committed before `done` says so; it runs at least once,
 * whatever node dies.  The node that accepts runs it at once when it has room; what has no owner is
 * claimed by the node to which its key belongs (cluster_owns("invocation/ID")).  A claim is a
 * command, and its index the epoch: an owner that was given up for lost cannot write an end.
 *
 *     pending -> running -> succeeded | failed        failed and expired are the dead letters
 *        ^---------'  retry                           cancelled: by a client
 *        '-> expired  (max_age)
 *
 * An attempt fails when the function traps, times out, cannot be reached, or answers 5xx, 408 or
 * 429; another answer that is no 2xx or 3xx is final.  Attempts that no function has seen do not
 * count as such, but come later, too.  Results are kept for keep_ms, dead letters for
 * INVOCATION_DEAD_KEEP_MS.
 *
 * With an idempotency key the same request again gets the same invocation for as long as it is
 * kept; its end, and what its destination is told, are one command: recorded once.
 *
 * Main loop thread.  Every `done` is called later, once.
 *
 * Sources: RFC 7240 (Prefer); the IETF's draft of the Idempotency-Key field; AWS Lambda Developer
 * Guide, asynchronous invocation.
 */
#ifndef SERVICE_INVOCATION_INVOCATION_H
#define SERVICE_INVOCATION_INVOCATION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/text.h"

struct buffer;
struct cluster;
struct destination_service;
struct error;
struct function_policy;
struct function_service;
struct gateway;
struct gateway_origin;
struct http_exchange;
struct invocation_service;
struct loop;
struct store;

enum {
    INVOCATION_BODY_MAX = 256 << 10,
    INVOCATION_ANSWER_MAX = 256 << 10,
    INVOCATION_LIVE_MAX = 100000,                    /* of a project: beyond it LIMIT */
    INVOCATION_BYTES_MAX = 256 << 20,                /* of their bodies: beyond it LIMIT */
    INVOCATION_KEPT_MAX = 20000,                     /* that have ended, of all projects */
    INVOCATION_DEAD_KEEP_MS = 14 * 24 * 3600 * 1000, /* failed and expired ones */
    INVOCATION_SWEEP = 250,                          /* rows removed at a time */
    INVOCATION_RUNS_MAX = 128,                       /* at once on a node, of all projects */
    INVOCATION_ID_SIZE = 33,
    INVOCATION_TEXT_SIZE = 129,
};

struct invocation_options {
    struct loop *loop;
    struct store *store;
    struct cluster *cluster; /* NULL: this node is alone */
    struct function_service *functions;
    struct gateway *gateway;
    struct destination_service *destinations; /* NULL: only functions are told */
};

int invocation_service_new(const struct invocation_options *options,
                           struct invocation_service **ret_service, struct error *err);
/* Begins nothing any more, breaks off what runs (it goes on elsewhere, or after the next start). */
void invocation_service_free(struct invocation_service *service);

/* What a Prefer field (RFC 7240) asks for, over what is in *policy: "respond-async, retries=3,
 * max-age=1h"; preferences of others are passed over.  False: not respond-async.  INVALID names
 * what is wrong. */
int invocation_read_preferences(struct text prefer, struct function_policy *policy,
                                bool *ret_is_async, struct error *err);

struct invocation_request { /* lent for the call */
    const char *project;
    const char *function; /* NAME[:WHICH] */
    const char *method;   /* NULL: POST */
    const char *path;     /* after the function's; NULL: none; of a route: all of it */
    const struct gateway_origin *origin; /* NULL: nobody was asked for, and no route led here */
    const char *query;                   /* NULL: none */
    const char *const *fields;           /* "Name: value" lines, NULL at the end; or NULL */
    const void *body;
    size_t body_length;
    const char *idempotency; /* NULL: none */
    const struct function_policy *policy;
};

/* `is_repeated`: nothing was added.  NOT_FOUND, TOO_LARGE, LIMIT, UNSUPPORTED (the key was of
 * another request), INVALID, and what store_propose() says. */
void invocation_create(struct invocation_service *service, const struct invocation_request *request,
                       void (*done)(const struct error *error, const char *id, bool is_repeated,
                                    void *context),
                       void *context);

/* Does a client want it so (Prefer: respond-async)? */
bool invocation_is_wanted(const struct http_exchange *exchange);

/* Accept what an HTTP client asks for: 202 with Location, or why not.  The reference is taken;
 * `path` is what is left of the exchange's path after the function's; of a route: all of it. */
void invocation_serve(struct invocation_service *service, struct http_exchange *owned_exchange,
                      const char *project, struct text name, struct text path,
                      const struct gateway_origin *origin_or_null);

struct invocation_filter {
    const char *function; /* NULL: all of the project */
    const char *state;    /* NULL: any */
    bool only_dead;
    uint64_t count_max;
};
/* Types Invocation and InvocationList; NOT_FOUND. */
int invocation_write(struct invocation_service *service, const char *project, const char *id,
                     struct buffer *out, struct error *err);
int invocation_write_list(struct invocation_service *service, const char *project,
                          const struct invocation_filter *filter, struct buffer *out,
                          struct error *err);

/* CONFLICT: it has ended (cancel), it is no dead letter (redrive). */
void invocation_cancel(struct invocation_service *service, const char *project, const char *id,
                       void (*done)(const struct error *error, void *context), void *context);
void invocation_redrive(struct invocation_service *service, const char *project, const char *id,
                        void (*done)(const struct error *error, void *context), void *context);

/* `done` when it has ended, or the time is over: which, its state says.  The wait is the caller's
 * to free, after `done`, or before it: then nothing is called.  Accepts NULL. */
struct invocation_wait;
struct invocation_wait *invocation_wait_new(struct invocation_service *service, const char *id,
                                            uint64_t timeout_ms, void (*done)(void *context),
                                            void *context);
void invocation_wait_free(struct invocation_wait *wait);

#endif
