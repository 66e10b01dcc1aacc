/*
 * The gateway: HTTP in, a function call, HTTP out.
 *
 *     http://HOST:7480/fn/NAME/rest?query      and      Host: NAME.fn.anything
 *
 * and whatever a route fits (service/route/route.h), which is asked first.
 *
 * With a certificate there is HTTPS (HTTP/1.1 and HTTP/2, TLS 1.2 and 1.3) at an address of its
 * own, on the first loop.  A client is asked for a certificate when the name it wants (SNI) may be
 * that of a route with `auth: mtls`, and the route judges it.
 *
 * The request becomes a CGI environment (RFC 3875, see cgi.h) and standard input; the answer is
 * standard output, with optional CGI header fields (Status, Content-Type, Location, any other)
 * before it.  Every answer has X-Request-Id (the client's own, if it is harmless), Server-Timing
 * (milliseconds: queue, cold, run, total; what is known when the head goes out) and
 * X-Blixard-Instance, X-Blixard-Isolation and X-Blixard-Node, which names who ran it.
 *
 * Where a function cannot run here (yet) the request is passed on to a node that can run it, to the
 * API at its TLS listener, as it came: same method, path, query and fields, with X-Blixard-Hop: 1,
 * X-Blixard-Function: PROJECT/NAME:VERSION, X-Blixard-Script: how many bytes of the path led to the
 * function, X-Blixard-Host: the Host, X-Blixard-Client: who asks, and X-Blixard-Deadline-Ms: how
 * long it may take.  Such a request is taken from nodes only, and runs there or nowhere: it is
 * never passed on again.  Another node is tried once, when no function has seen the request.  A
 * client may send X-Blixard-Deadline-Ms, too; the other fields are taken off what clients send.
 *
 * Failures are problem+json (RFC 9457): 404 no such function, 413 body too large, 502 the function
 * trapped, wrote too much, or failed without a word, 503 (Retry-After) queue full or the runner
 * died, 504 timeout.  A failure after the answer's head has gone out breaks the connection off.
 * As with every CGI server, what a function wrote is the answer whatever its exit status.
 */
#ifndef SERVICE_GATEWAY_GATEWAY_H
#define SERVICE_GATEWAY_GATEWAY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/stream/tls.h"
#include "base/text.h"

#include "service/route/route.h"

struct cluster;
struct error;
struct function_service;
struct gateway;
struct http_exchange;
struct instance_service;
struct quota_service;
struct telemetry;

/* Who asks, as far as the route wanted to know; texts are "" where it did not. */
struct gateway_caller {
    char user[64];                  /* whose token it is */
    char subject[TLS_SUBJECT_SIZE]; /* of the certificate that leads to the route's authority */
    char fingerprint[65];           /* its SHA-256 */
};

/* How a request came to its function: by a route, or ("") by the function's name. */
struct gateway_origin {
    char pattern[PATTERN_BYTES_MAX + 1]; /* the route's path; all of the request's is PATH_INFO */
    bool is_secure;                      /* by HTTPS */
    struct gateway_caller caller;
};

struct gateway_options {
    const char *address;         /* "127.0.0.1:7480" */
    const char *tls_address;     /* "127.0.0.1:7443" */
    const char *tls_certificate; /* files, see secure.h; NULL or "": no HTTPS */
    const char *tls_key;
    unsigned threads;        /* loops; the first one is the instances' loop */
    uint64_t body_bytes_max; /* default 64 MiB */
    struct function_service *functions;
    struct instance_service *instances;
    struct telemetry *telemetry;
    struct quota_service *quotas; /* NULL: none */
    struct route_service *routes; /* NULL: none */
    uint64_t cache_bytes_max;     /* of answers that routes keep; 0: 32 MiB */
    struct cluster *cluster;      /* NULL: there are no other nodes */
    const char *node_name;        /* while there is no cluster; copied */
};

/* Starts listening; before the instances' loop runs, or on its thread.  Fails with EXISTS when the
 * port is in use. */
int gateway_start(const struct gateway_options *options, struct gateway **ret_gateway,
                  struct error *err);
uint16_t gateway_port(const struct gateway *gateway);
uint16_t gateway_tls_port(const struct gateway *gateway); /* 0: there is no HTTPS */

/* Read the certificate and its key anew; failures are logged.  The instances' loop. */
void gateway_reload(struct gateway *gateway);

/*
 * Drain: answer what is in flight, for at most timeout_ms, then cancel the rest, stop and free.
 * Called by the thread of the instances' loop, after loop_run() has returned and before the
 * services are freed: it runs that loop again until it is done.
 */
void gateway_stop(struct gateway *gateway, uint64_t timeout_ms);

/*
 * Serve one exchange as a call of `name` (see function_route_find()); the exchange's reference is
 * taken.  The API's invocations use it too.  The exchange lives on one of the gateway's loops (the
 * instances' loop is one).  `path` is what is left of the exchange's path for PATH_INFO: its end,
 * empty or beginning with '/'.  `node`: the name of the one that is to run it, whatever others can;
 * NULL: any.
 */
void gateway_serve(struct gateway *gateway, struct http_exchange *owned_exchange,
                   const char *project, struct text name, struct text path,
                   const char *node_or_null);

/*
 * Requests for a function that are not to be answered by it now (Prefer: respond-async): `take` is
 * asked of each that a client sends and may send, on its lane; true: it has taken the exchange.
 * NULL: nobody.  The origin is lent.
 */
typedef bool gateway_take_later(struct http_exchange *exchange, const char *project,
                                struct text name, struct text path,
                                const struct gateway_origin *origin, void *context);
void gateway_set_later(struct gateway *gateway, gateway_take_later *take, void *context);

/* A request from outside for a project: false, and it is answered (not unreferenced), when its
 * quota lets no more in now.  Any of the gateway's loops. */
bool gateway_admit(struct gateway *gateway, struct http_exchange *exchange, const char *project);

/* Serve what another node passed on; the caller has made sure that it is a node that asks. */
void gateway_serve_hop(struct gateway *gateway, struct http_exchange *owned_exchange);

#endif
