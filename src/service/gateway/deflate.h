/*
 * Messages of a WebSocket, packed (permessage-deflate, RFC 7692), each for itself: no window is
 * kept from one message to the next (`server_no_context_takeover`, `client_no_context_takeover`),
 * so that one packer serves all connections of a thread and a silent one holds nothing.
 *
 * What comes is a client's: what it unpacks to is bounded.  By zlib.
 */
#ifndef SERVICE_GATEWAY_DEFLATE_H
#define SERVICE_GATEWAY_DEFLATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/text.h"

struct buffer;
struct deflater;

enum {
    DEFLATE_WINDOW_BITS = 12, /* of what we pack: 4 KiB, 32 KiB of memory */
    DEFLATE_LEAST = 64,       /* bytes of a message that is worth it */
};

struct deflater *deflater_new(void);
void deflater_free(struct deflater *deflater); /* accepts NULL */

/* Appends the message, packed.  False: it would not be smaller, and nothing was appended. */
bool deflater_pack(struct deflater *deflater, const void *bytes, size_t length, struct buffer *out);

/* Appends what it was.  0; or the code (enum frame_code) that the connection fails with: PROTOCOL
 * (it was not packed so), LARGE (it is more than `most`). */
int deflater_unpack(struct deflater *deflater, const void *bytes, size_t length, size_t most,
                    struct buffer *out);

/* Is this list of offers (Sec-WebSocket-Extensions, 7.1) one that we can take?  What is answered is
 * always DEFLATE_ANSWER. */
#define DEFLATE_ANSWER "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
bool deflate_is_offered(struct text list, bool *ret_wants_window);
/* Where the offer says how large our window may be, the answer says how large it is. */
#define DEFLATE_ANSWER_WINDOW DEFLATE_ANSWER "; server_max_window_bits=12"

#endif
