/* Private to the room: servers, connections and exchanges from inside. */
#ifndef BASE_HTTP_CONNECTION_H
#define BASE_HTTP_CONNECTION_H

#include <uv.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/http/http.h"
#include "base/http/parse.h"
#include "base/list.h"
#include "base/stream/stream.h"

struct connection;
struct h2_stream;
struct mux_stream;

struct http_server {
    struct loop *loop;
    struct http_server_options options;
    http_handler handler;
    void *context;
    struct list listeners;
    struct list secure_listeners;
    struct list connections;
    struct loop_timer *tick;
    struct http_server_counters counters;
    struct parse_head head; /* scratch */
    char date[40];
    uint64_t date_second;
    bool draining;
    bool freed;
    void (*drained)(void *context);
    void *drained_context;
    uint64_t drain_deadline_ms;
    unsigned handles; /* what must be gone before the server is: handles, connections, posts */
};

/* BODY_RAW: after an upgrade, all that comes. */
enum body_kind { BODY_NONE, BODY_LENGTH, BODY_CHUNKED, BODY_RAW };

/*
 * What carries an exchange: a connection of HTTP/1.1 or a stream of one that has many.  Called only
 * while the exchange has it; after flush, end and abort the exchange may be gone.
 */
struct exchange_carrier {
    void (*take_body)(struct http_exchange *exchange); /* reading began, or goes on */
    void (*cut_body)(struct http_exchange *exchange);  /* the rest of the body is not wanted */
    void (*begin)(struct http_exchange *exchange, int status, uint64_t length);
    void (*write)(struct http_exchange *exchange, const void *bytes, size_t length);
    void (*flush)(struct http_exchange *exchange);
    void (*end)(struct http_exchange *exchange); /* `ended` is set; flushes */
    void (*abort)(struct http_exchange *exchange);
    size_t (*waiting)(const struct http_exchange *exchange); /* bytes to be written */
    bool flush_is_dear; /* a system call: what is little waits for the end of the loop's turn */
};

struct http_exchange {
    const struct exchange_carrier *carrier; /* NULL: gone, or the answer has ended */
    struct connection *connection;          /* HTTP/1.1 */
    struct h2_stream *stream;               /* HTTP/2 */
    struct mux_stream *mux_stream;          /* between nodes */
    struct loop *loop;
    unsigned references;

    /* The request; texts point into `bytes`. */
    struct buffer bytes;
    struct text method;
    struct text path;
    struct text query;
    struct text protocol;
    struct parse_field *fields;
    size_t field_count;
    size_t field_size;
    int minor;
    char peer[64];
    bool is_tls;
    bool was_asked;               /* for a certificate */
    struct tls_peer *certificate; /* ours, or NULL */

    enum body_kind body;
    uint64_t body_length; /* announced */
    uint64_t body_left;
    uint64_t body_taken;
    uint64_t body_max;
    struct parse_chunks chunks;
    bool body_done;             /* all of it was taken off the connection */
    bool body_told;             /* on_end was called */
    enum error_kind body_fault; /* what on_end was told, or NONE */
    bool expects_continue;
    bool reading;
    bool paused;
    void (*on_data)(const void *bytes, size_t length, void *context);
    void (*on_body_end)(const struct error *error, void *context);
    void *body_context;

    /* http_exchange_read_all() */
    struct buffer whole;
    void (*on_whole)(struct buffer *body, const struct error *error, void *context);
    void *whole_context;

    /* The answer. */
    struct buffer answer_fields;
    bool begun;
    bool ended;
    bool is_head; /* HEAD: no body goes out */
    bool is_chunked;
    const char *upgrade;  /* lent while the head is written: the protocol; or NULL */
    bool until_close;     /* HTTP/1.0: only the end tells the end */
    bool has_no_body;     /* 1xx, 204, 304 */
    bool needs_client;    /* who ends its half is gone */
    bool is_patient;      /* no time limit waits for the request's body */
    uint64_t answer_left; /* of an announced length */
    size_t write_high;
    bool wants_drain;
    bool flush_is_posted;
    void (*on_drain)(void *context);
    void (*on_close)(void *context);
    void *context;
};

/* A protocol whose connections carry many exchanges at a time; `ends` is our end of it. */
struct multiplexer {
    void (*receive)(void *ends, const void *bytes, size_t length, uint64_t now_ms);
    void (*flush)(void *ends, uint64_t now_ms); /* there is room again */
    void (*tick)(void *ends, uint64_t now_ms);  /* a few times a second: time limits */
    void (*drain)(void *ends);                  /* no exchange after those in flight */
    size_t (*count)(const void *ends);          /* in flight */
    void (*free)(void *ends);
};

struct connection {
    struct list_node link;
    struct http_server *server;
    struct stream *stream; /* with TLS; NULL: in the clear, by the handle */
    union {
        uv_handle_t handle;
        uv_stream_t stream;
        uv_tcp_t tcp;
        uv_pipe_t pipe;
    } uv;
    char peer[64];
    struct buffer in;
    struct buffer out;
    struct buffer writing; /* lent to uv_write */
    uv_write_t write;
    bool write_runs;
    bool closing;
    bool reading;
    bool processing;
    bool close_after; /* this answer */
    bool is_cut;      /* the peer may still send what nobody reads */
    bool lingering;   /* half-closed by us: what comes is dropped */
    bool at_eof;      /* half-closed by the peer, or all of it is gone: that looks the same */
    uint64_t silent_since_ms; /* at_eof: when it was seen, or when something was written last */
    uv_shutdown_t shutdown;
    const struct multiplexer *many; /* or NULL: what follows is HTTP/1.1's */
    void *ends;
    struct http_exchange *exchange;
    struct http_exchange *spare;
    size_t requests;
    uint64_t deadline_ms; /* 0: none */
    enum { WAIT_IDLE, WAIT_HEAD, WAIT_BODY, WAIT_NOTHING } wait;
    uint64_t write_progress_ms;
    size_t write_left; /* seen last */
};

/* server.c */
void server_release(struct http_server *server); /* one of `handles` is gone */

/* listen.c */
void server_close_listeners(struct http_server *server);

/* connection.c */
void connection_accept(struct http_server *server, uv_stream_t *listener);
void connection_adopt(struct http_server *server, struct stream *owned_stream);
void connection_process(struct connection *connection);
void connection_flush(struct connection *connection);
/* More to be flushed: copied, but for what the socket or TLS takes at once of what is large. */
void connection_write(struct connection *connection, const void *bytes, size_t length);
/* With TLS, past what is to be flushed.  What is appended a connection_send(), if only of no bytes,
 * ends before the turn does: large pieces are enciphered from where they are. */
void connection_append(struct connection *connection, const void *bytes, size_t length);
void connection_send(struct connection *connection, const void *bytes, size_t length);
void connection_close(struct connection *connection);
void connection_drain(struct connection *connection); /* no request after those in flight */
size_t connection_waiting(const struct connection *connection);
void connection_tick(struct connection *connection, uint64_t now_ms); /* time limits */

/* h1.c */
extern const struct exchange_carrier h1_carrier;
void h1_feed(struct http_exchange *exchange); /* what has been received, as far as it is wanted */

/* many.c: connections that carry many exchanges */
void connection_begin_h2(struct connection *connection);
void connection_begin_mux(struct connection *connection);
/* Does what came begin as HTTP/2 does?  1: it does, 0: it may, -1: it does not. */
int connection_sounds_like_h2(const struct connection *connection);
void connection_process_many(struct connection *connection); /* what was received */
void connection_receive_many(struct connection *connection, const void *bytes, size_t length);

/* h2_server.c */
extern const struct exchange_carrier h2_carrier;

/* mux_server.c */
extern const struct exchange_carrier mux_carrier;

/* exchange.c */
struct http_exchange *exchange_new(struct http_server *server, struct http_exchange *spare_or_null);
void exchange_take_head(struct http_exchange *exchange, const struct parse_head *head,
                        const uint8_t *bytes, size_t length);
/* A piece of the body: to the reader, or nowhere.  False: it was too much and the body failed. */
bool exchange_give(struct http_exchange *exchange, const void *bytes, size_t length);
void exchange_take_end(struct http_exchange *exchange); /* tells the reader when the body is done */
void exchange_fail_body(struct http_exchange *exchange, int kind, const char *text);
void exchange_end_body(struct http_exchange *exchange); /* not at its end: the rest is not read */
void exchange_lose(struct http_exchange *exchange);     /* the carrier is gone: it is told */
void exchange_part(struct http_exchange *exchange);     /* the same in silence, after the end */
void exchange_release(struct http_exchange *exchange);
/* Its stream is gone: it is told what there is to tell, and the carrier's reference goes; the
 * handler's, too, of one that the handler has not seen (`is_new`). */
void exchange_drop(struct http_exchange *exchange, bool is_new);
/* Who asks, by the stream it came over. */
void exchange_take_peer(struct http_exchange *exchange, const struct stream *stream);
void exchange_date(struct http_server *server); /* brings server->date up to date */
/* An answer's head as HTTP/1.1 has it, without what says how its body ends, and without the end. */
void exchange_write_head(const struct http_exchange *exchange, struct http_server *server,
                         int status, struct buffer *out);
/* Has a condition that was looked at again and again held for so long?  0: there is no limit. */
bool limit_is_over(uint64_t *since_ms, bool holds, uint64_t now_ms, uint64_t limit_ms);

#endif
