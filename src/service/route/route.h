/*
 * Routes: which requests at the gateway call which function, and what is asked of them before.
 *
 * A route is a row of the state; every node compiles all of them to one immutable table when a row
 * changes, and gateway threads look requests up in it.  A request is a route's when host, path and
 * method fit.  Of several the most specific path is taken (pattern.h), then the one that names the
 * host, and a host before a wildcard.
 *
 * Main loop thread, except route_find() and what takes a struct http_route: any thread.
 */
#ifndef SERVICE_ROUTE_ROUTE_H
#define SERVICE_ROUTE_ROUTE_H

#include <jansson.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/stream/tls.h"
#include "base/text.h"

#include "service/route/pattern.h"

struct buffer;
struct event_filter;
struct json_writer;
struct error;
struct loop;
struct route_limiter;
struct route_meter;
struct route_service;
struct store;

struct route_service *route_service_new(struct loop *loop, struct store *store);
void route_service_free(struct route_service *service); /* no look-up comes after it */

/* ---- Changing and looking: `done` later, once ---- */

typedef void route_done(const struct error *error, uint64_t index, void *context);

/*
 * Make a route, or, with `replaces`, change all of one that there is (else it is EXISTS, as for the
 * name of a trigger of another kind); `settings` is a body of type RouteSet (spec/types.def),
 * checked further here: INVALID names the setting.  NOT_FOUND: there is no such function.
 */
void route_set(struct route_service *service, const char *project, const char *name,
               const json_t *settings, bool replaces, route_done *done, void *context);
/* Could it be made or changed so, once its function is there? */
int route_check(struct route_service *service, const char *project, const char *name,
                const json_t *settings, struct error *err);
/* While paused it is answered with 503. */
void route_set_paused(struct route_service *service, const char *project, const char *name,
                      bool is_paused, route_done *done, void *context);
void route_delete(struct route_service *service, const char *project, const char *name,
                  route_done *done, void *context);

/* As JSON: types RouteList, Route; NOT_FOUND names the nearest. */
int route_write_list(struct route_service *service, const char *project, struct buffer *out,
                     struct error *err);
int route_write(struct route_service *service, const char *project, const char *name,
                struct buffer *out, struct error *err);

/* ---- As triggers: type Trigger, of kind http ---- */

bool route_exists(struct route_service *service, const char *project, const char *name);
/* One that is there: an object; all of a project: the elements of an array that was begun. */
int route_write_trigger(struct route_service *service, const char *project, const char *name,
                        struct json_writer *writer, struct error *err);
int route_write_triggers(struct route_service *service, const char *project,
                         struct json_writer *writer, struct error *err);
/* Does a RouteSet say where a Trigger has the member itself, beside its settings? */
bool route_is_trigger_member(const char *key);

/* What came, at this node since it started: requests that were let in, those of them that the
 * filter wanted, those that were answered below 500, the others, and those under way. */
struct route_counts {
    uint64_t seen, matched, delivered, failed, flying, last_ms;
};
/* `is_open`: as OpenMetrics, where a counter's family has no _total. */
void route_write_metrics(struct route_service *service, bool is_open, struct buffer *out);

/* ---- The table: any thread ---- */

enum route_auth { ROUTE_AUTH_NONE, ROUTE_AUTH_TOKEN, ROUTE_AUTH_MTLS };

/* Of one route; immutable but for what counts.  Texts are "" when there are none. */
struct http_route {
    _Atomic unsigned references;
    char *project;
    char *name;
    char *function; /* NAME, NAME:ALIAS or NAME:VERSION */
    char *path;
    json_t *settings; /* owns the texts of the lists below */
    char **hosts;     /* NULL at the end; none: any */
    char **methods;   /* NULL at the end; none: any */
    bool is_paused;
    enum route_auth auth;
    struct tls_authority *authority; /* MTLS: of clients */
    bool caches;
    bool is_websocket;             /* and nothing else */
    char **subprotocols;           /* of it; NULL at the end */
    bool streams;                  /* the function runs before the body of the request is there */
    uint64_t body_bytes_max;       /* 0: the gateway's */
    uint64_t timeout_ms;           /* of a call; 0: the function's */
    uint64_t concurrency_max;      /* at each node; 0: any */
    struct event_filter *filter;   /* NULL: all */
    struct route_limiter *limiter; /* NULL: no limit */
    struct route_meter *meter;
    bool has_cors;
    char **cors_origins;
    char *cors_methods; /* as the answer says them */
    char *cors_fields;
    char *cors_exposed;
    bool cors_credentials;
    uint64_t cors_max_age_s;
    uint64_t revision;
};
void http_route_unref(struct http_route *route);

struct route_match {
    struct http_route *route; /* a reference is the caller's; NULL: none */
    bool is_other_method;     /* the path is a route's, but not with this method */
    char allowed[1024]; /* then: the methods it has, each once; what has no room is left out */
};

/*
 * Find the route of a request: `host` as sent, maybe with a port.  OPTIONS with a method asked for
 * (a CORS preflight) finds the route of that method.
 */
void route_find(struct route_service *service, struct text host, struct text path,
                struct text method, struct route_match *ret_match);

/* The client that a bearer token is of; false: of none, or its time is over. */
bool route_find_client(struct route_service *service, const char *token, uint64_t now_ms,
                       char ret_name[64]);

/* May a client that wants to speak to this host ("": it does not say) be asked for its certificate:
 * is there a route with MTLS for it? */
bool route_asks_for_certificate(struct route_service *service, struct text host);

/* Does what a client showed lead to the authority of this route (MTLS)?  As tls_authority_judge().
 */
int http_route_judge(const struct http_route *route, const struct tls_chain *chain,
                     char ret_subject[TLS_SUBJECT_SIZE], struct error *err);

/* May this client call now?  False: *ret_wait_ms until it may again. */
bool http_route_admit(struct http_route *route, const char *client, uint64_t now_ms,
                      uint64_t *ret_wait_ms);

/* Does the filter want a request of this head (an event's document)?  Counts it as seen. */
bool http_route_wants(struct http_route *route, const json_t *document);
/* One more call, which is over with http_route_leave() and the status of its answer (0: none).
 * False: there are concurrency_max. */
bool http_route_enter(struct http_route *route);
void http_route_leave(struct http_route *route, int status);
/* A call was taken that runs later. */
void http_route_accept(struct http_route *route);

/* Is this origin one of the route's CORS origins? */
bool http_route_allows_origin(const struct http_route *route, struct text origin);

#endif
