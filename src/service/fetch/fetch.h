/*
 * What functions fetch from elsewhere: HTTP and HTTPS requests of theirs, by libcurl on the node's
 * loop.
 *
 * Off until a function's version has an allow-list (allow.h); every URL is held against it, that of
 * each redirect too.  Names are resolved here, and the addresses that were checked are those that
 * are connected to: a name whose answer changes in between (DNS rebinding) changes nothing.
 * Addresses that are not public need an entry of their own; the node's own API and what the
 * operator refuses are out of reach whatever the list says.  No proxies, no cookies, no .netrc,
 * nothing of the environment.
 *
 * A guest chooses all of a request: input.  Each failure is one of FETCH_REASONS; its text is
 * "NAME: a sentence", it is counted by its name, and it is in the span.
 *
 * Connections are kept for the next request of the same version of a function, never for another.
 *
 * The thread of the loop.  Nothing here calls back from inside a call of this door.
 *
 * Sources: RFC 9110 (methods, redirects, fields of a connection); RFC 6890 (addresses that are not
 * public); the Fetch standard (what a redirect makes of POST, of Authorization and Cookie).
 */
#ifndef SERVICE_FETCH_FETCH_H
#define SERVICE_FETCH_FETCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/text.h"

#include "service/telemetry/telemetry.h"
#include "service/telemetry/trace.h"

struct buffer;
struct error;
struct fetch;
struct fetch_service;
struct loop;

/* REASON(name, text of it, error kind) */
#define FETCH_REASONS(REASON)                                                                   \
    REASON(NOT_ALLOWED, "not_allowed", DENIED) /* not on the list, or an address that is not */ \
    REASON(INVALID, "invalid", INVALID)        /* no URL, method or field */                    \
    REASON(BUSY, "busy", OVERLOADED)           /* too many at once */                           \
    REASON(RESOLVE, "resolve", UNAVAILABLE)    /* no such name, or no answer */                 \
    REASON(CONNECT, "connect", UNAVAILABLE)    /* nobody there */                               \
    REASON(TLS, "tls", PROTOCOL)               /* a certificate that is not believed, ... */    \
    REASON(TIMEOUT, "timeout", TIMEOUT)        /* its time or the call's */                     \
    REASON(TOO_LARGE, "too_large", TOO_LARGE)  /* head or body beyond the bound */              \
    REASON(REDIRECT, "redirect", PROTOCOL)     /* too many, to nowhere, or not wanted */        \
    REASON(CLOSED, "closed", UNAVAILABLE)      /* the connection ended too early */             \
    REASON(PROTOCOL, "protocol", PROTOCOL)     /* what came was not HTTP */                     \
    REASON(CANCELLED, "cancelled", CANCELLED)  /* the node is stopping */                       \
    REASON(FAILED, "failed", OS)               /* anything else */

enum fetch_reason {
#define REASON(name, text, kind) FETCH_##name,
    FETCH_REASONS(REASON)
#undef REASON
        FETCH_REASON_COUNT,
};

enum {
    FETCH_ALLOW_MAX = 64,          /* entries of a list */
    FETCH_ALLOW_BYTES_MAX = 16384, /* of them together */
    FETCH_ENTRY_MAX = 300,
    FETCH_METHOD_MAX = 32,
    FETCH_FIELDS_MAX = 100,
    FETCH_HEAD_BYTES_MAX = 65536, /* of a response */
    FETCH_REDIRECTS_MAX = 10,
    FETCH_BUFFER_BYTES = 917504, /* of a body that nobody has taken yet; then it waits */
};

struct fetch_options {
    struct loop *loop;
    struct telemetry *telemetry;
    const char *authority_file; /* PEM: whom to believe; NULL, "": the system's */
    const char *refused;        /* addresses and networks, with commas, nobody reaches; or NULL */
    uint64_t fetches_max;       /* at once on this node; 0: there is no fetching here */
    uint64_t function_max;      /* at once of one version of a function */
    uint64_t body_bytes_max;    /* of a response, decoded */
};

/* INVALID: `refused` has an entry that is no address; what reading the file failed with. */
int fetch_service_new(const struct fetch_options *options, struct fetch_service **ret_service,
                      struct error *err);
/* What is under way ends as CANCELLED; what is not freed yet stays readable. */
void fetch_service_free(struct fetch_service *service);

/* A port of this machine that nobody may fetch from: the API's, the cluster's. */
void fetch_forbid_own_port(struct fetch_service *service, uint16_t port);

/* Families blixard_fetch... of the text for Prometheus. */
void fetch_write_metrics(const struct fetch_service *service, enum telemetry_format format,
                         struct buffer *out);

/*
 * What functions have exchanged with IPv4 addresses since this was asked last: bodies, both ways,
 * and all of tunnels.  `function` is PROJECT/NAME.  Of more functions and addresses than this
 * nothing is known; NULL: forget it.
 */
enum { FETCH_REACHED_MAX = 64, FETCH_REACHED_FUNCTIONS_MAX = 4096 };
struct fetch_reached {
    uint32_t address; /* in host byte order */
    uint16_t port;
    uint64_t bytes;
};
void fetch_take_reached(struct fetch_service *service,
                        void (*visit)(const char *function, const struct fetch_reached *reached,
                                      void *context),
                        void *context);

/* An entry of an allow-list; INVALID says what is wrong.  Pure, any thread. */
int fetch_allow_check(const char *entry, struct error *err);

enum fetch_redirects { FETCH_FOLLOW, FETCH_MANUAL, FETCH_NO_REDIRECT };

/* All lent for the call. */
struct fetch_request {
    const char *project;
    const char *function;
    uint64_t version;
    const char *allow; /* "ENTRY\0ENTRY\0": the same for all requests of a version */
    size_t allow_length;
    struct text method; /* empty: GET */
    struct text url;
    struct text fields; /* "Name: value\r\n" each; those of the connection are left out */
    struct text body;
    uint64_t timeout_ms; /* of all of it, up to the end of the body */
    enum fetch_redirects redirects;
    struct trace_context trace; /* the span is below it */
};

/* A request.  NULL: *err says why not.  `changed` is called, never from inside this door, when the
 * head has come, when there is more of the body, and at its end. */
struct fetch *fetch_new(struct fetch_service *service, const struct fetch_request *request,
                        void (*changed)(void *context), void *context, struct error *err);

/*
 * A connection to where the request's URL ("https://HOST:PORT/") leads, for who speaks TLS, HTTP or
 * anything else through it; of the request, method, fields, body and redirects say nothing.  It is
 * allowed when the list has that host and port with either scheme.  `changed` as above, and when
 * it is connected, or more can be written; what comes is its body.  The peer's end is its end.
 */
struct fetch *fetch_tunnel_new(struct fetch_service *service, const struct fetch_request *request,
                               void (*changed)(void *context), void *context, struct error *err);
/* Copied, kept until it is connected.  False: more than FETCH_BUFFER_BYTES wait. */
bool fetch_tunnel_write(struct fetch *fetch, const void *bytes, size_t length);
bool fetch_tunnel_is_full(const struct fetch *fetch);
/* Nothing more will be written. */
void fetch_tunnel_finish(struct fetch *fetch);

/* The ports that a list's entries name, and those of http and https: at most `max`; how many.
 * Pure. */
size_t fetch_allow_ports(const char *allow, size_t length, uint16_t *ret_ports, size_t max);

/* What is refused before there is a fetch, in the same words, and counted.  Returns the error. */
int fetch_refuse(struct fetch_service *service, enum fetch_reason reason, const char *sentence,
                 struct error *err);

/* Break it off, whatever it is at. */
void fetch_free(struct fetch *fetch);

/* Why it failed, or NULL.  What has come before is still there. */
const struct error *fetch_error(const struct fetch *fetch);
/* Nothing more will come. */
bool fetch_is_over(const struct fetch *fetch);

/* 0 until the head has come; then the status, and "Name: value\r\n" of each field.  Of a decoded
 * body Content-Encoding and Content-Length are gone; after redirects there is Blixard-Url. */
int fetch_status(const struct fetch *fetch);
struct text fetch_fields(const struct fetch *fetch);

/* Bytes of the body that can be taken now; is it so many that the server waits; and append at most
 * so many to `out`, which lets the server go on. */
size_t fetch_waiting(const struct fetch *fetch);
bool fetch_is_full(const struct fetch *fetch);
void fetch_take(struct fetch *fetch, size_t most, struct buffer *out);

#endif
