/*
 * Byte streams: TCP and unix sockets, in the clear or through TLS, behind one door.
 *
 * A stream belongs to one loop; everything here is called on that loop's thread, and no callback
 * comes from inside a call of this door.  What is written is copied and goes out in order.  Nagle
 * is off; over TCP a peer that gives no sign of life, or takes nothing of what waits for it, for
 * STREAM_DEAD_MS is gone (UNAVAILABLE), sooner where stream_set_dead() says so.
 *
 * A stream through TLS ends in order only with TLS's own notice of the end (RFC 8446, 6.1): one
 * that is cut off is told as UNAVAILABLE, never as an end.  In the clear the two look the same.
 */
#ifndef BASE_STREAM_STREAM_H
#define BASE_STREAM_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

struct error;
struct loop;
struct stream;
struct stream_dial;
struct stream_listener;
struct tls_context;
struct tls_peer;

enum { STREAM_DEAD_MS = 30000 };

struct stream_events {
    void (*on_data)(const void *bytes, size_t length, void *context); /* lent */
    void (*on_drained)(void *context); /* something waited, nothing does now; may be NULL */
    /* Once: the peer has ended its half (NULL; ours goes on, and what then cannot be written is
     * dropped), or UNAVAILABLE, PROTOCOL, OS, or DENIED (a server that does not take our
     * certificate says so only after the handshake).  The owner still calls stream_close(). */
    void (*on_end)(const struct error *error, void *context);
};

/* Of a connected unix socket, which is taken; never fails: its end is told as any. */
struct stream *stream_adopt(struct loop *loop, int owned_fd);

/* Begin to read; what came before it (after the handshake) is kept until then. */
void stream_start(struct stream *stream, const struct stream_events *events, void *context);

/* The bytes are copied.  Failures are told by on_end. */
void stream_write(struct stream *stream, const void *bytes, size_t length);

/* The same, of something that a stream_write() ends (if only of no bytes) before the turn does:
 * with TLS, large pieces are enciphered from where they are, and records are full all the same. */
void stream_append(struct stream *stream, const void *bytes, size_t length);

/* Bytes that the peer's kernel has not taken. */
size_t stream_waiting(const struct stream *stream);

/*
 * A peer that has confirmed nothing of what was sent to it for so long is gone, also if all of it
 * is with the kernel: TCP sends it again after ever longer pauses, and where the cable was out for
 * a quarter of a minute and is in again, that is as long once more.  Of unix sockets: nothing.
 */
void stream_set_dead(struct stream *stream, unsigned dead_ms);

/* Back-pressure: stop and continue the flow of on_data (and of on_end, which comes after it). */
void stream_pause(struct stream *stream);
void stream_resume(struct stream *stream);

/* End our half after what was written; nothing may be written afterwards. */
void stream_shutdown(struct stream *stream);

/* At once, and what waits is lost: an orderly end is stream_shutdown() first.  No callback comes
 * afterwards.  Accepts NULL. */
void stream_close(struct stream *stream);

/* Who the peer is by its certificate; NULL: it has shown none, or there is no TLS.  Lent. */
const struct tls_peer *stream_peer(const struct stream *stream);

/* Was the peer asked for a certificate?  False also when there is no TLS. */
bool stream_asked(const struct stream *stream);

/* The protocol that TLS agreed on (ALPN, RFC 7301), "" when none. */
const char *stream_protocol(const struct stream *stream);

/* The peer's: "127.0.0.1:4711", "[::1]:4711" or "unix". */
const char *stream_address(const struct stream *stream);

struct loop *stream_loop(const struct stream *stream);

/* "HOST:PORT" or "unix:PATH", taken apart. */
struct stream_address {
    bool is_unix;
    char path[108];
    char host[254]; /* without the brackets of IPv6 */
    uint16_t port;
    struct sockaddr_storage socket; /* ss_family is 0 when the host is a name to be looked up */
};
int stream_address_parse(const char *address, struct stream_address *ret_address,
                         struct error *err);

/* "127.0.0.1:4711" or "[::1]:4711" into 64 bytes; "" for another family. */
void stream_address_format(const struct sockaddr_storage *socket, char ret_text[64]);

/* Texts are copied. */
struct stream_dial_options {
    struct tls_context *tls; /* NULL: in the clear; a reference is taken */
    const char *protocols;   /* ALPN, in order of preference: "h2 http/1.1"; NULL: none */
    /* SNI, and the name or IP address that the certificate must have; NULL: not compared. */
    const char *server_name;
    const char *identity; /* the URI name that the certificate must have; NULL: any the CA signed */
    uint64_t timeout_ms;  /* until connected and shaken hands; 0: 10 s */
};

/*
 * Connect to "HOST:PORT" (names are looked up, their addresses tried in turn) or "unix:PATH".
 * `done` is called later, once: with a stream that is the callee's, or with UNAVAILABLE, TIMEOUT,
 * DENIED (the peer is not who it should be: why), PROTOCOL (it does not speak TLS 1.3, or none of
 * `protocols`) or INVALID.  The dial is gone then.
 */
struct stream_dial *
stream_dial(struct loop *loop, const char *address, const struct stream_dial_options *options,
            void (*done)(struct stream *owned_stream, const struct error *error, void *context),
            void *context);

/* `done` will not be called.  Only before it was. */
void stream_dial_cancel(struct stream_dial *dial);

/*
 * Listen on "HOST:PORT"; each peer that has shaken hands is given to `on_stream`, which owns it.
 * `protocols` as above: a peer that asks for others only is refused, one that asks for none is not.
 * At most STREAM_HANDSHAKES_MAX shake hands at a time: one more ends the one that has taken
 * longest, so that peers who connect and say nothing keep nobody out.  EXISTS, INVALID, OS.
 */
enum { STREAM_HANDSHAKES_MAX = 256, STREAM_HANDSHAKE_MS = 10000 };
int stream_listen(struct loop *loop, const char *address, struct tls_context *tls_or_null,
                  const char *protocols,
                  void (*on_stream)(struct stream *owned_stream, void *context), void *context,
                  struct stream_listener **ret_listener, uint16_t *ret_port, struct error *err);
void stream_listener_close(struct stream_listener *listener);

#endif
