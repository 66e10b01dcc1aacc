/* Private to the room: TLS sessions without sockets, and streams before they are handed out. */
#ifndef BASE_STREAM_INSIDE_H
#define BASE_STREAM_INSIDE_H

#include <openssl/ssl.h>
#include <uv.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/list.h"
#include "base/stream/stream.h"
#include "base/stream/tls.h"

/* ---- tls.c ---- */

/* A new connection of this context.  What it must know to judge the peer travels with it. */
SSL *tls_context_connection(struct tls_context *context);

/* Why OpenSSL does not believe a certificate (X509_V_ERR_...): DENIED. */
int tls_say_why(int reason, struct error *err);

/* A passphrase is never asked for: what wants one cannot be read. */
int tls_no_passphrase(char *buffer, int size, int writing, void *context);

/* ---- chain.c ---- */

/* What a peer shows during its handshake. */
struct tls_chain *tls_chain_new(X509_STORE_CTX *store);

/* ---- session.c: one end of a TLS connection; bytes in, bytes out, no sockets ---- */

struct tls_session {
    SSL *ssl;
    bool is_server;
    bool is_shaken;
    char *protocols; /* ALPN, wire format */
    size_t protocols_length;
    char *identity;       /* that the peer must have, or NULL */
    struct error why;     /* the peer was not believed */
    struct error failure; /* of reading */
    struct tls_peer peer;
    bool has_peer;
    struct buffer in; /* received, still enciphered */
    size_t taken;     /* of `in`, by OpenSSL */
    struct buffer out;
};

struct tls_session_terms {
    bool is_server;
    const char *protocols;
    const char *server_name;
    const char *identity;
};

int tls_session_new(struct tls_context *context, const struct tls_session_terms *terms,
                    struct tls_session **ret_session, struct error *err);
void tls_session_free(struct tls_session *session);

/* 1: hands are shaken, 0: more must come in, or -ERROR.  What is in `out` must go out in any case,
 * so here and below. */
int tls_session_shake(struct tls_session *session, struct error *err);

enum { TLS_SESSION_ENDED = 0, TLS_SESSION_WAITS = -1000 };

/* Bytes > 0, TLS_SESSION_ENDED (in order), TLS_SESSION_WAITS for more to come in, or -ERROR.  An
 * end and an error are said again and again. */
int tls_session_read(struct tls_session *session, void *bytes, size_t size, struct error *err);
int tls_session_write(struct tls_session *session, const void *bytes, size_t length,
                      struct error *err);
void tls_session_end(struct tls_session *session);

/* OpenSSL took all of `in`: forget it.  A part stays where it is. */
void tls_session_tidy(struct tls_session *session);

/* Judging the peer, while hands are shaken: from tls.c, which knows whom to believe. */
int tls_session_judge(struct tls_session *session, X509 *certificate);

/* ---- listen.c ---- */

/* In place of STREAM_HANDSHAKE_MS, for those who come from now on (tests have no 10 s). */
void stream_listener_hurry(struct stream_listener *listener, uint64_t handshake_ms);

/* ---- stream.c ---- */

enum stream_state { STREAM_SHAKING, STREAM_READY, STREAM_STARTED };

struct stream {
    struct list_node link; /* of its listener, while shaking hands */
    struct loop *loop;
    union {
        uv_handle_t handle;
        uv_stream_t stream;
        uv_tcp_t tcp;
        uv_pipe_t pipe;
    } uv;
    struct tls_session *session; /* NULL: in the clear */
    enum stream_state state;
    uint64_t deadline_ms; /* of the handshake */
    struct buffer in;     /* in the clear: what is being lent */
    struct buffer out;
    struct buffer writing; /* lent to uv_write */
    uv_write_t write;
    uv_shutdown_t shutdown;
    uv_connect_t connect;
    bool write_runs;
    bool reading;
    bool paused;
    bool shut;       /* by us */
    bool shut_sent;  /* and the kernel knows */
    bool at_eof;     /* the peer's kernel has ended its half */
    bool is_refused; /* the handshake failed; lingers so that the peer hears why */
    bool ended;      /* on_end was called */
    bool closing;
    bool is_closed;     /* libuv is through with it */
    int broken;         /* libuv's status of the write that failed */
    struct error fault; /* to be told */
    bool pump_posted;
    unsigned holds; /* posts under way */
    struct stream_events events;
    void *context;
    char address[64];
    char protocol[32];

    /* Hands are shaken, or will not be, or (again, after stream_refuse()) the peer is gone: whoever
     * made the stream decides what becomes of it. */
    void (*on_ready)(struct stream *stream, const struct error *error, void *context);
    void *ready_context;
};

/* A stream around a handle that is not open yet: of a TCP family, or AF_UNIX. */
struct stream *stream_new(struct loop *loop, int family);

/* Connected: shake hands (`session` is taken; NULL: there is nothing to shake), then on_ready.
 * In the clear on_ready is called from here. */
void stream_shake(struct stream *stream, struct tls_session *owned_session,
                  void (*on_ready)(struct stream *stream, const struct error *error, void *context),
                  void *context);

/*
 * The handshake failed.  Closing while the peer still sends would have its kernel throw our alert
 * away: half-close, drop what comes, and at its end call on_ready again.
 */
void stream_refuse(struct stream *stream);

#endif
