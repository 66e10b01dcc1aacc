/*
 * Frames of the WebSocket protocol (RFC 6455, 5), as a server reads and writes them.  Pure; what
 * comes in is a client's: bounded and checked.
 *
 *     u8 FIN, three bits of extensions, opcode    u8 MASK, length    [u16 or u64 length]   [u32
 * key]
 *
 * Messages are collected whole, up to a limit.  Where it was agreed upon they may be packed
 * (deflate.h): then the first bit of extensions of a message's first frame says so.
 *
 * What the gateway and a function say to each other is the same in a simpler form, on the
 * function's standard streams, both ways: *records* of
 *
 *     u8 kind (FRAME_TEXT, FRAME_BINARY, FRAME_CLOSE)    u8[3] zero    u32 length, little-endian
 *
 * and so many bytes.  A message is one record; that of a close has a u16 code, little-endian, and
 * the reason, or nothing.
 */
#ifndef SERVICE_GATEWAY_FRAME_H
#define SERVICE_GATEWAY_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"

struct deflater;

enum frame_kind {
    FRAME_CONTINUATION = 0,
    FRAME_TEXT = 1,
    FRAME_BINARY = 2,
    FRAME_CLOSE = 8,
    FRAME_PING = 9,
    FRAME_PONG = 10,
};

/* Why a connection ends (7.4.1). */
enum frame_code {
    FRAME_CODE_NORMAL = 1000,
    FRAME_CODE_GOING = 1001,
    FRAME_CODE_PROTOCOL = 1002,
    FRAME_CODE_NONE = 1005, /* said by nobody: a close without a code */
    FRAME_CODE_DATA = 1007,
    FRAME_CODE_LARGE = 1009,
    FRAME_CODE_INTERNAL = 1011,
    FRAME_CODE_LATER = 1013,
};

enum { FRAME_CONTROL_MAX = 125, FRAME_RECORD_HEAD = 8 };

/* May this code be sent? */
bool frame_code_is_good(unsigned code);

/* ---- From a client ---- */

/* A zeroed struct with its limit; end it with frame_reader_done(). */
struct frame_reader {
    size_t message_max;
    struct deflater *deflater; /* NULL: nothing is packed; lent */
    uint8_t head[14];
    size_t head_used;
    bool in_frame;       /* the head is whole */
    uint64_t left;       /* of the frame's payload */
    uint64_t at;         /* of it, read */
    uint8_t message;     /* its kind; 0: none is under way */
    bool is_closed;      /* nothing after a close is read */
    bool is_packed;      /* the message under way is */
    struct buffer bytes; /* of the message */
    struct buffer plain; /* of one that was packed */
    uint8_t control[FRAME_CONTROL_MAX];
};

void frame_reader_done(struct frame_reader *reader);

/*
 * Take what has come.  `on_frame` gets whole messages (TEXT, BINARY) and control frames (CLOSE,
 * PING, PONG), lent; false stops.  0, or the code that the connection is to be failed with:
 * PROTOCOL, DATA (no UTF-8), LARGE.
 */
int frame_reader_take(struct frame_reader *reader, const uint8_t *bytes, size_t length,
                      bool (*on_frame)(enum frame_kind kind, const uint8_t *bytes, size_t length,
                                       void *context),
                      void *context);

/* ---- To a client ---- */

void frame_write(struct buffer *out, enum frame_kind kind, const void *bytes, size_t length);

/* A message, packed where that makes it smaller; `deflater` NULL: as it is. */
void frame_write_message(struct buffer *out, enum frame_kind kind, const void *bytes, size_t length,
                         struct deflater *deflater);

/* A close; `reason` is cut at a character so that it fits.  FRAME_CODE_NONE: without a code. */
void frame_write_close(struct buffer *out, unsigned code, const char *reason, size_t length);

/* ---- Records ---- */

void record_write(struct buffer *out, enum frame_kind kind, const void *bytes, size_t length);

/* As above, from a function: TEXT, BINARY and CLOSE.  False: what it wrote is no record, or larger
 * than the limit, or no UTF-8 where it is a text. */
struct record_reader {
    size_t message_max;
    struct buffer bytes;
};
void record_reader_done(struct record_reader *reader);
bool record_reader_take(struct record_reader *reader, const uint8_t *bytes, size_t length,
                        bool (*on_record)(enum frame_kind kind, const uint8_t *bytes, size_t length,
                                          void *context),
                        void *context);

#endif
