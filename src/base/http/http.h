/*
 * The HTTP core: one server and one client for REST, gateway and event streams.
 *
 * HTTP/1.1 (RFC 9110, RFC 9112), HTTP/2 (RFC 9113) and the nodes' own over TCP, with and without
 * TLS, and unix sockets; handlers need not know which.  A server belongs to one loop; to use
 * several threads, make one server per loop on the same address (SO_REUSEPORT).  Everything here is
 * called on that loop's thread, except http_exchange_post().
 *
 * Where there is TLS, its ALPN chooses; in the clear a client speaks HTTP/2 from the first byte, or
 * never.  Limits are the same; what belongs to a connection of 1.1 belongs to a stream of 2, of
 * which one connection has at most 256.  A client that costs and does nothing (streams reset at
 * once, heads without end, floods of PING and the like) is left with ENHANCE_YOUR_CALM.
 *
 * A server calls its handler once per request, when the head is complete and found to be well
 * formed.  The handler may answer at once or keep the exchange and answer later; an exchange lives
 * until http_exchange_unref() (the handler starts with one reference) AND the answer has ended.
 * When the client goes away first, `on_close` is called once; every call on the exchange stays
 * legal afterwards and does nothing.
 */
#ifndef BASE_HTTP_HTTP_H
#define BASE_HTTP_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/text.h"

struct buffer;
struct error;
struct stream;
struct tls_context;
struct tls_peer;
struct http_server;
struct http_exchange;
struct http_call;
struct loop;

enum http_method {
    HTTP_GET,
    HTTP_HEAD,
    HTTP_POST,
    HTTP_PUT,
    HTTP_PATCH,
    HTTP_DELETE,
    HTTP_OPTIONS,
    HTTP_OTHER, /* any other token: see http_exchange_method_text() */
    HTTP_METHOD_COUNT,
};

const char *http_method_text(enum http_method method);
const char *http_status_text(int status);

/* ---- Server ---- */

/* All limits have defaults: start from http_server_defaults(). */
struct http_server_options {
    size_t head_bytes_max;     /* request line + fields; beyond: 431 */
    size_t field_count_max;    /* beyond: 431 */
    size_t target_bytes_max;   /* beyond: 414 */
    uint64_t body_bytes_max;   /* beyond: 413; http_exchange_set_body_max() lowers or raises it */
    size_t connections_max;    /* beyond: accepted and closed with 503 */
    uint64_t head_timeout_ms;  /* first byte to end of head; beyond: 408 */
    uint64_t idle_timeout_ms;  /* between requests */
    uint64_t body_timeout_ms;  /* no progress in a body while it is being read; beyond: 408 */
    uint64_t write_timeout_ms; /* no progress in writing; beyond: closed */
    size_t write_bytes_high;   /* http_exchange_write() returns false above this */
    size_t requests_per_connection_max; /* 0: no limit */
    bool is_for_nodes; /* whoever shows a certificate may speak the nodes' protocol */
};

struct http_server_options http_server_defaults(void);

typedef void (*http_handler)(struct http_exchange *exchange, void *context);

int http_server_new(struct loop *loop, const struct http_server_options *options,
                    http_handler handler, void *context, struct http_server **ret_server,
                    struct error *err);

/*
 * Listen on "HOST:PORT" ("127.0.0.1:0" picks a port, "[::1]:80") or "unix:PATH" (made with mode
 * 0600; a socket nobody listens on is replaced, a living one gives EXISTS).  May be called several
 * times.  Fails with EXISTS (address in use), INVALID or OS.  *ret_port (may be NULL): the TCP
 * port.
 */
int http_server_listen(struct http_server *server, const char *address, uint16_t *ret_port,
                       struct error *err);

/*
 * Listen on "HOST:PORT" with TLS.  By ALPN a peer speaks h2 or http/1.1; one that speaks another
 * protocol of `others` ("blixard-store/1", NULL: none) is given to `on_other` after the handshake,
 * and is no concern of the server any more.
 */
int http_server_listen_tls(struct http_server *server, const char *address, struct tls_context *tls,
                           const char *others,
                           void (*on_other)(struct stream *owned_stream, void *context),
                           void *context, uint16_t *ret_port, struct error *err);

/*
 * Graceful end: stop accepting, answer what is in flight with "Connection: close", close idle
 * connections, and call `drained` once none is left or after `timeout_ms`.
 */
void http_server_drain(struct http_server *server, uint64_t timeout_ms,
                       void (*drained)(void *context), void *context);

/* Close everything now and free.  Exchanges still held see on_close. */
void http_server_free(struct http_server *server);

struct http_server_counters {
    uint64_t connections_accepted;
    uint64_t connections_open;
    uint64_t requests;
    uint64_t requests_refused; /* malformed or beyond a limit */
    uint64_t bytes_in;
    uint64_t bytes_out;
};
void http_server_counters(const struct http_server *server, struct http_server_counters *ret);

/* ---- The request ---- */

enum http_method http_exchange_method(const struct http_exchange *exchange);
/* 0 or 1: HTTP/1.0, or HTTP/1.1 and HTTP/2. */
int http_exchange_minor_version(const struct http_exchange *exchange);
struct text http_exchange_method_text(const struct http_exchange *exchange);

/* The target's path as sent, still percent-encoded, always beginning with '/' (also of "OPTIONS
 * *"); and its query without the '?', empty when there is none.  The authority of an absolute-form
 * is the same as Host, or the request was refused. */
struct text http_exchange_path(const struct http_exchange *exchange);
struct text http_exchange_query(const struct http_exchange *exchange);

/* Value of a field (name in any case), or {NULL, 0}.  Several fields of one name: the first. */
struct text http_exchange_field(const struct http_exchange *exchange, const char *name);
size_t http_exchange_field_count(const struct http_exchange *exchange);
void http_exchange_field_at(const struct http_exchange *exchange, size_t index,
                            struct text *ret_name, struct text *ret_value);

/* "127.0.0.1:4711" or "unix". */
const char *http_exchange_peer(const struct http_exchange *exchange);

/* Who asks, by the certificate of its TLS connection; NULL: in the clear, or none was shown. */
const struct tls_peer *http_exchange_certificate(const struct http_exchange *exchange);
/* Was it asked for one, when the connection began? */
bool http_exchange_was_asked(const struct http_exchange *exchange);
bool http_exchange_is_tls(const struct http_exchange *exchange);

/* Is a body announced; and its length, or UINT64_MAX when it was not said. */
bool http_exchange_has_body(const struct http_exchange *exchange);
uint64_t http_exchange_body_length(const struct http_exchange *exchange);

/* Only before the body is read. */
void http_exchange_set_body_max(struct http_exchange *exchange, uint64_t bytes_max);

/*
 * Stream the body: `on_data` per piece (lent), then `on_end` once: error NULL when the body is
 * complete; TOO_LARGE, TIMEOUT, PROTOCOL or CANCELLED otherwise.  "Expect: 100-continue" is
 * answered when reading begins.  A body nobody reads is drained or the connection closed.
 */
void http_exchange_read(struct http_exchange *exchange,
                        void (*on_data)(const void *bytes, size_t length, void *context),
                        void (*on_end)(const struct error *error, void *context), void *context);

/* Back-pressure: stop and continue the flow of on_data.  Pausing inside on_data takes effect at
 * once (what has been received already is kept). */
void http_exchange_pause(struct http_exchange *exchange);
void http_exchange_resume(struct http_exchange *exchange);

/* The whole body in one buffer (lent), for control-plane requests. */
void http_exchange_read_all(struct http_exchange *exchange, uint64_t bytes_max,
                            void (*on_end)(struct buffer *body, const struct error *error,
                                           void *context),
                            void *context);

/* ---- The answer ---- */

/* Fields first, in order.  Names are tokens, values have no CR, LF or NUL: CHECKed, so filter what
 * a guest chose with http_field_is_clean().  Content-Length, Transfer-Encoding, Connection and Date
 * belong to the core. */
void http_exchange_add_field(struct http_exchange *exchange, const char *name, const char *value);
void http_exchange_add_field_text(struct http_exchange *exchange, struct text name,
                                  struct text value);
/* One of an answer that is passed on: whoever read it found it clean. */
void http_exchange_add_field_of(struct http_exchange *exchange, const struct http_call *call,
                                size_t index);
bool http_field_is_clean(struct text name, struct text value);

/* The whole answer.  The body is copied.  Right also for HEAD, 204 and 304. */
void http_exchange_respond(struct http_exchange *exchange, int status, const void *body,
                           size_t length);

/* Streamed: begin, write..., end.  `length` may be UINT64_MAX (chunked, or until close for 1.0). */
void http_exchange_begin(struct http_exchange *exchange, int status, uint64_t length);

/* Copied.  Returns false when more than write_bytes_high are waiting: stop until `on_drain`. */
bool http_exchange_write(struct http_exchange *exchange, const void *bytes, size_t length);
void http_exchange_end(struct http_exchange *exchange);

/*
 * Change to another protocol (RFC 9110, 7.8): answer 101 with the fields that were added, of which
 * Upgrade and Connection belong to the core.  From then on the connection's bytes are the body,
 * both ways, until http_exchange_end(), and no time limit waits for them; what the client has sent
 * behind its request comes first.  The end of the client's half ends the exchange (on_close).
 * False, and nothing was done: HTTP/1.0, a request with a body, or it was answered; of HTTP/2, what
 * is no CONNECT with a :protocol (RFC 8441), whose stream goes on so behind an answer 200.
 */
bool http_exchange_can_upgrade(const struct http_exchange *exchange);
bool http_exchange_upgrade(struct http_exchange *exchange, const char *protocol);

/* What a CONNECT of HTTP/2 wants its stream to be: "websocket"; of any other request {NULL, 0}. */
struct text http_exchange_protocol(const struct http_exchange *exchange);

/* Begin an answer of unknown length while the request's body goes on, and let both take as long and
 * be as much as they like. */
void http_exchange_converse(struct http_exchange *exchange, int status);

/* Break off: the client sees a truncated answer (or nothing), never a complete one. */
void http_exchange_abort(struct http_exchange *exchange);

bool http_exchange_has_begun(const struct http_exchange *exchange);

/* Either may be NULL.  on_close: the client is gone (one that only ended its own half is so, too,
 * when nothing was written to it for a second), or the server is being freed. */
void http_exchange_on(struct http_exchange *exchange, void (*on_drain)(void *context),
                      void (*on_close)(void *context), void *context);

/* From now on a client of HTTP/1.1 that ends its own half counts as gone at once, without that
 * second: for an answer that is given once, and would be lost with it. */
void http_exchange_need_client(struct http_exchange *exchange);

struct http_exchange *http_exchange_ref(struct http_exchange *exchange);
void http_exchange_unref(struct http_exchange *exchange);

/* Any thread that holds a reference: run `call(argument)` on the exchange's loop. */
void http_exchange_post(struct http_exchange *exchange, void (*call)(void *argument),
                        void *argument);
struct loop *http_exchange_loop(const struct http_exchange *exchange);

/* An error as application/problem+json (RFC 9457): type, title, status, detail, code, retryable,
 * and instance when `request_id` is not NULL.  Adds Retry-After: 1 to 503 and 429, unless one was
 * added.  The error a
 * request's body ended with is the client's: 400 for PROTOCOL, 408 for TIMEOUT. */
void http_exchange_respond_error(struct http_exchange *exchange, const struct error *error,
                                 const char *request_id);

/* ---- Text of requests ---- */

/* Value of `name` in a query (application/x-www-form-urlencoded), decoded into ret_value (size
 * bytes, NUL at the end).  False when absent, too long, or badly encoded. */
bool http_query_get(struct text query, const char *name, char *ret_value, size_t size);

/* Percent-decode; false when malformed, too long for `size`, or holding a NUL.  Of a form: '+' is a
 * space, too. */
bool http_percent_decode(struct text text, char *ret_text, size_t size);
bool http_form_decode(struct text text, char *ret_text, size_t size);

/* Percent-encode everything but unreserved characters (RFC 3986, 2.3). */
void http_percent_encode(struct buffer *out, struct text text);

/* ---- Client ---- */

/*
 * A client keeps connections to one address ("HOST:PORT", where HOST may be a name, or "unix:PATH")
 * and reuses them.  A request that fails on a reused connection before any byte of the answer is
 * sent again once, when its method is idempotent (RFC 9110, 9.2.2) and its body was given whole.
 *
 * Calls to a node share a connection, and open another one only beyond what one may carry.  It is
 * kept, and asked for a sign of life when it is silent: a server gone without a word ends its calls
 * within 15 s.  What the server says that it has not processed is sent again, whatever its method,
 * when its body was given whole.  A server that does not speak the nodes' protocol
 * ("blixard-call/1", see mux.h) is spoken to in HTTP/1.1.
 */
struct http_client;
struct http_call;

struct http_client_options {
    struct tls_context *tls;    /* NULL: in the clear; a reference is taken */
    const char *server_name;    /* as in stream_dial(), which see; copied */
    const char *identity;       /* as in stream_dial() */
    bool is_to_node;            /* with TLS: offer the nodes' protocol first */
    uint64_t answer_timeout_ms; /* from the call to the head of its answer; 0: none */
    size_t connections_max;     /* 0: 64; calls beyond it wait */
    size_t head_bytes_max;      /* 0: 65536 */
};

int http_client_new(struct loop *loop, const char *address,
                    const struct http_client_options *options, struct http_client **ret_client,
                    struct error *err);
void http_client_free(struct http_client *client); /* ends calls with CANCELLED */

struct http_call_events {
    /* Status and fields; interim (1xx) answers are not shown. */
    void (*on_head)(struct http_call *call, int status, void *context);
    void (*on_data)(struct http_call *call, const void *bytes, size_t length, void *context);
    /* Exactly once, last; the call is gone afterwards.  With TLS also DENIED: the server is not who
     * it should be, or does not take our certificate. */
    void (*on_end)(struct http_call *call, const struct error *error, void *context);
};

/* `fields`: "Name: value" lines, NULL-terminated array, or NULL.  The body is copied.  on_end gets
 * INVALID for a target with blanks or control characters. */
struct http_call *http_client_call(struct http_client *client, const char *method,
                                   const char *target, const char *const *fields, const void *body,
                                   size_t body_length, const struct http_call_events *events,
                                   void *context);

/*
 * As http_client_call(), with the body streamed: `length` or UINT64_MAX (chunked).  `on_writable`
 * is called when the connection is there and each time it can take more.
 */
struct http_call *
http_client_call_streaming(struct http_client *client, const char *method, const char *target,
                           const char *const *fields, uint64_t length,
                           void (*on_writable)(struct http_call *call, void *context),
                           const struct http_call_events *events, void *context);
bool http_call_write(struct http_call *call, const void *bytes, size_t length);
void http_call_finish(struct http_call *call);

/* Whether anything of the call has been given to the network: while not, no server has seen it. */
bool http_call_was_sent(const struct http_call *call);

/* In on_head and later. */
struct text http_call_field(const struct http_call *call, const char *name);
size_t http_call_field_count(const struct http_call *call);
void http_call_field_at(const struct http_call *call, size_t index, struct text *ret_name,
                        struct text *ret_value);
void http_call_pause(struct http_call *call);
void http_call_resume(struct http_call *call);
void http_call_cancel(struct http_call *call); /* on_end with CANCELLED */

#endif
