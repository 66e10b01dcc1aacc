/*
 * CGI 1.1 (RFC 3875): the environment of a request, and the head of an answer.  Pure; both sides
 * are input: the client chose the request's fields, the function its answer.
 *
 * Environment: the meta-variables of section 4.1, REQUEST_URI (the target as sent) and
 * BLIXARD_REQUEST_ID; each header field as HTTP_NAME.  Not passed on:
 *   - Proxy, which would become HTTP_PROXY (the "httpoxy" hole),
 *   - hop-by-hop fields (RFC 9110, 7.6.1) and those named by Connection, and Expect,
 *   - fields whose names have anything but letters, digits and '-': '_' would make two fields one
 *     variable.
 *   - traceparent: the function is told where in the trace it is, as HTTP_TRACEPARENT and
 *     TRACEPARENT; tracestate is passed on, as TRACESTATE too.
 * A route's path parameters are PATH_PARAM_NAME, decoded, and who showed a token is REMOTE_USER.
 * Who showed a certificate is REMOTE_USER and SSL_CLIENT_S_DN by its subject, and
 * SSL_CLIENT_FINGERPRINT (SHA-256).  BLIXARD_WEBSOCKET=1: what is said is messages.  REQUEST_SCHEME
 * is http or https; HTTPS is "on" or not there. Fields of one name are joined by ", " (Cookie by ";
 * ").  Then the function's own environment, which cannot replace any of these: names beginning with
 * HTTP_ or listed here are skipped.
 *
 * Answer: if the output begins with a CGI head (field lines up to an empty line, within
 * CGI_HEAD_BYTES_MAX, at least one of Content-Type, Location and Status among them), that is the
 * head.  Otherwise all of it is the body.  Location without Status means 302, also for a path:
 * there are no local redirects.
 */
#ifndef SERVICE_GATEWAY_CGI_H
#define SERVICE_GATEWAY_CGI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/text.h"

struct buffer;
struct error;

enum {
    CGI_HEAD_BYTES_MAX = 16384,
    CGI_FIELDS_MAX = 64,
    CGI_NAME_BYTES_MAX = 256, /* beyond: no name, and no head */
    CGI_PARAMETERS_MAX = 8,
};

struct cgi_field {
    struct text name;
    struct text value;
};

struct cgi_request {
    struct text method;
    struct text path;     /* of the target, as sent */
    struct text query;    /* of the target, without '?' */
    size_t script_length; /* how much of `path` led to the function; the rest is PATH_INFO */
    struct text host;     /* the Host field, may be empty */
    const char *protocol; /* "HTTP/1.1", "HTTP/1.0" */
    const char *address;  /* where the server listens, when there is no Host */
    uint16_t port;
    const char *peer; /* "127.0.0.1:4711", "[::1]:4711" or "unix" */
    const char *request_id;
    const char *traceparent; /* in place of the client's; NULL: none */
    bool has_body;
    uint64_t body_length; /* UINT64_MAX: not known, there is no CONTENT_LENGTH then */
    const struct cgi_field *fields;
    size_t field_count;
    const char *environment; /* the function's own: "NAME=value\0..." */
    size_t environment_length;
    const char *user;    /* "" or NULL: nobody was asked for */
    const char *subject; /* of a certificate that was believed; "" or NULL: none was asked for */
    const char *fingerprint;
    bool is_secure; /* the client speaks HTTPS */
    bool is_websocket;
    const char *websocket_protocol; /* that was chosen; "" or NULL: none */
    size_t parameter_count;         /* of the path: PATH_PARAM_NAME */
    struct cgi_field parameters[CGI_PARAMETERS_MAX];
};

/*
 * Append the environment.  Fails with INVALID (the path is badly percent-encoded or holds a NUL) or
 * TOO_LARGE (more than `bytes_max`); `out` may then hold a part of it.
 */
int cgi_write_environment(const struct cgi_request *request, size_t bytes_max, struct buffer *out,
                          struct error *err);

struct cgi_head {
    int status;
    size_t length; /* of the head, with its empty line: the body follows */
    bool has_content_type;
    bool has_content_length;
    uint64_t content_length;
    size_t field_count;
    struct cgi_field fields[CGI_FIELDS_MAX]; /* to be passed on; they point into the output */
};

enum cgi_verdict {
    CGI_MORE, /* cannot be told yet */
    CGI_HEAD, /* *ret_head is filled */
    CGI_BODY, /* no head */
    CGI_BAD,  /* a head that cannot be honoured: *err says why (PROTOCOL) */
};

/* Look at the beginning of the output; `is_whole`: nothing will follow (never CGI_MORE). */
enum cgi_verdict cgi_parse_head(const void *bytes, size_t length, bool is_whole,
                                struct cgi_head *ret_head, struct error *err);

/* What to call a body nobody named: text when it is UTF-8 (a character cut at the end is forgiven
 * unless `is_whole`). */
const char *cgi_guess_type(const void *bytes, size_t length, bool is_whole);

#endif
