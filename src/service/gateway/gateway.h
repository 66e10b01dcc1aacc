/*
 * The gateway: HTTP in, a function call, HTTP out.
 *
 *     http://HOST:7480/fn/NAME/rest?query      and      Host: NAME.fn.anything
 *
 * The request becomes a CGI environment (RFC 3875) and standard input; the answer is standard
 * output, with optional CGI header fields (Status, Content-Type, Location, any other) before it.
 * Every answer has X-Request-Id and Server-Timing; failures are problem+json (RFC 9457).
 */
#ifndef SERVICE_GATEWAY_GATEWAY_H
#define SERVICE_GATEWAY_GATEWAY_H

#include <stddef.h>
#include <stdint.h>

#include "base/text.h"

struct error;
struct function_service;
struct gateway;
struct http_exchange;
struct instance_service;
struct telemetry;

struct gateway_options {
    const char *address;     /* "127.0.0.1:7480" */
    unsigned threads;        /* loops; the first one is the instances' loop */
    uint64_t body_bytes_max; /* default 64 MiB */
    struct function_service *functions;
    struct instance_service *instances;
    struct telemetry *telemetry;
};

/* Starts listening.  Fails with EXISTS when the port is in use. */
int gateway_start(const struct gateway_options *options, struct gateway **ret_gateway,
                  struct error *err);
uint16_t gateway_port(const struct gateway *gateway);

/* Drain: answer what is in flight, then stop; blocks at most timeout_ms. */
void gateway_stop(struct gateway *gateway, uint64_t timeout_ms);

/*
 * Serve one exchange as a call of `name` (see function_route_find()), on whatever loop it lives;
 * the exchange's reference is taken.  The API's invocations use it too.  `path` is what is left of
 * the path for PATH_INFO.
 */
void gateway_serve(struct gateway *gateway, struct http_exchange *owned_exchange,
                   const char *project, struct text name, struct text path);

#endif
