/*
 * WebSocket (RFC 6455) at the gateway: the handshake, and one call of a function for the life of
 * the connection, which hears messages on its standard input and says them on its standard output
 * (records, see frame.h).  Private to the room.
 *
 * Frames, fragments, ping, pong, close and masks are the gateway's; the function sees messages. One
 * that comes is whole and within the limit; while the function does not read, neither does the
 * gateway, and while the client does not read, the function waits.  A client that is silent for
 * WEBSOCKET_SILENCE_MS in spite of pings is gone.  Whoever closes: the client hears a close, and
 * the function a record of it and the end of its input; it has WEBSOCKET_GRACE_MS to end itself.
 *
 * Where the function is not here, another node runs the call: the handshake is the gateway's that
 * was asked, which then passes on the connection's bytes, both ways, as the bodies of a POST; all
 * else is the other node's, which is told what was agreed upon (PEER_FIELD_WEBSOCKET).
 *
 * Over HTTP/1.1 a connection becomes one, over HTTP/2 a stream does (RFC 8441).  Messages may be
 * packed (deflate.h), and a subprotocol of the route's is chosen.
 */
#ifndef SERVICE_GATEWAY_WEBSOCKET_H
#define SERVICE_GATEWAY_WEBSOCKET_H

#include <stdbool.h>
#include <stddef.h>

#include "base/text.h"

struct call;
struct error;
struct lane;

enum {
    WEBSOCKET_MESSAGE_DEFAULT = 1 << 20, /* bytes of a message, where the route says nothing */
    WEBSOCKET_MESSAGE_MAX = 16 << 20,
    WEBSOCKET_PING_MS = 20000, /* of silence: the client is asked for a sign of life */
    WEBSOCKET_SILENCE_MS = 40000,
    WEBSOCKET_GRACE_MS = 5000,
    WEBSOCKET_TICK_MS = 5000,
    WEBSOCKET_PROTOCOL_SIZE = 64,
    WEBSOCKET_TERMS_SIZE = 96,
};

/* What a handshake agrees upon. */
struct websocket_terms {
    size_t message_max;
    bool packs;
    bool tells_window;                      /* only while it is answered */
    char protocol[WEBSOCKET_PROTOCOL_SIZE]; /* "": none */
};

/* The call's route is one for WebSocket: is the handshake good, and what is agreed upon?  False: it
 * was answered, and call_settle() is next. */
bool websocket_agree(struct call *call);
/* It was, or another node did, and the target is found: answer, and run. */
void websocket_serve(struct call *call);
/* The fields of an answer that agrees (another node runs it). */
void websocket_add_fields(struct call *call);

/* As nodes say it: "MESSAGE_MAX PACKS PROTOCOL". */
void websocket_write_terms(const struct websocket_terms *terms,
                           char ret_text[WEBSOCKET_TERMS_SIZE]);
bool websocket_read_terms(struct text text, struct websocket_terms *ret_terms);

/* What goes on with it; of a call that has one. */
void websocket_received(struct call *call, const void *bytes, size_t length);
void websocket_body_ended(struct call *call);
void websocket_writable(struct call *call); /* the function reads again */
void websocket_drained(struct call *call);  /* the client does */
void websocket_output(struct call *call, const void *bytes, size_t length);
void websocket_run_ended(struct call *call, const struct error *error_or_null);
void websocket_free(struct call *call); /* a call that has none: nothing happens */

/* All of a lane: say that the node stops. */
void websocket_drain(struct lane *lane);
void websocket_tick(void *lane); /* of the lane's timer */

#endif
