/* Private to the room: what carries the bytes of a protocol that knows nothing of sockets. */
#ifndef BASE_HTTP_WIRE_H
#define BASE_HTTP_WIRE_H

#include <stddef.h>

/* None of these may call back before it returns, but they may free. */
struct http_wire {
    void (*write)(const void *bytes, size_t length, void *context); /* lent */
    size_t (*waiting)(void *context); /* bytes written that are not gone yet */
    void (*finish)(void *context);    /* once: all is said, end after what was written */
    /* As `write`, which follows; NULL: pieces are put together before they are written. */
    void (*append)(const void *bytes, size_t length, void *context);
};

/* Pieces of a body that are at least as long are not copied before they are framed. */
enum { WIRE_LENT_LEAST = 16384 };

/* Nothing more is given to a wire in which so much waits; so much is given to it at once. */
enum { WIRE_HIGH = 262144, WIRE_PIECE = 65536 };

#endif
