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
 * Such a call runs at the node that was asked, or nowhere (503); it is HTTP/1.1's.
 */
#ifndef SERVICE_GATEWAY_WEBSOCKET_H
#define SERVICE_GATEWAY_WEBSOCKET_H

#include <stddef.h>

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
};

/* The call's route is one for WebSocket, and its target is found: answer, and run. */
void websocket_serve(struct call *call);

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
