/*
 * Calling a function without an HTTP client: for triggers, asynchronous invocations, and functions
 * that call functions.
 *
 * The same way as a request to the gateway: the routing table and its weights, this node or
 * another one that can run it, the same environment (cgi.h), the same limits and metrics.  Another
 * node is tried once, and only when no function has seen the call.  The answer is collected whole.
 *
 * Main loop thread, which is the instances' loop.  Before gateway_stop() every invocation has
 * ended or was freed.
 */
#ifndef SERVICE_GATEWAY_INVOKE_H
#define SERVICE_GATEWAY_INVOKE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/text.h"

struct error;
struct gateway;
struct gateway_invoke;
struct gateway_origin;

enum {
    GATEWAY_INVOKE_ANSWER_DEFAULT = 1 << 20,
    GATEWAY_INVOKE_FIELDS_MAX = 64, /* of a request, and of an answer */
};

/* Everything is copied. */
struct gateway_invocation {
    const char *project;
    const char *name;          /* "NAME", "NAME:ALIAS" or "NAME:VERSION" */
    const char *method;        /* NULL: POST */
    const char *path;          /* of PATH_INFO: NULL, "" or beginning with '/', percent-encoded; of
                                * a route: all of the request's */
    const char *query;         /* NULL: none */
    const char *const *fields; /* "Name: value" lines, NULL at the end; or NULL */
    const void *body;
    size_t body_length;
    uint64_t timeout_ms;                 /* for all of it; 0: the function's own for its run */
    size_t answer_bytes_max;             /* of the body; 0: GATEWAY_INVOKE_ANSWER_DEFAULT */
    const char *request_id;              /* NULL: one is made */
    const char *traceparent;             /* NULL: a trace begins */
    const struct gateway_origin *origin; /* NULL: no route led to it, and nobody was asked for */
    const char *caller;                  /* REMOTE_ADDR ("trigger", ...); NULL: "blixard" */
    const char *what;                    /* its span's name ("trigger orders"); NULL: "invoke" */
    unsigned trigger;                    /* enum telemetry_trigger, for the metrics */
};

struct gateway_field {
    struct text name;
    struct text value;
};

/* Lent for the call of `done`. */
struct gateway_result {
    int status; /* what the function answered; 0: there is an error */
    size_t field_count;
    const struct gateway_field *fields;
    const void *body;
    size_t body_length;
    const char *request_id;
    const char *function; /* NAME:VERSION that was chosen; "" when none was */
    const char *trace;    /* the trace's id, 32 hex digits */
    bool is_untouched;    /* an error, and no function has seen the call */
};

/*
 * Call; `done` once, later, never from inside this.  `error` NULL: the function has answered,
 * whatever its status is.  Otherwise NOT_FOUND (no such function), INVALID (a field or path that
 * cannot be), OVERLOADED, UNAVAILABLE, TIMEOUT, TRAP (it failed without an answer), TOO_LARGE (its
 * answer), PROTOCOL.
 */
struct gateway_invoke *gateway_invoke_new(
    struct gateway *gateway, const struct gateway_invocation *invocation,
    void (*done)(const struct error *error, const struct gateway_result *result, void *context),
    void *context);

/* Break off, before `done`, which is not called then.  Accepts NULL. */
void gateway_invoke_free(struct gateway_invoke *invoke);

#endif
