/*
 * Private to the room: exchanges between nodes, many at a time on a connection ("blixard-call/1").
 *
 * Both ends are nodes of one cluster that have shown each other certificates; TLS's ALPN chose the
 * protocol.  Heads travel as the text of HTTP/1.1 that they are (RFC 9112, empty line included),
 * bodies without their framing.  Neither end knows what carries its bytes: whoever has a connection
 * gives what it received, is given what to send, and says what time it is (not 0).
 *
 * A frame is a header of MUX_HEADER_BYTES, little-endian, and a payload:
 *
 *   u32 length of the payload | u32 stream | u8 kind | u8 flags | u16 0
 *
 *   HEAD    of a request, which opens a stream with a number larger than all before; of an answer;
 *           of an interim one.  At most MUX_HEAD_BYTES.  MUX_END: no body follows.
 *   DATA    of a body, at most MUX_FRAME_BYTES.  MUX_END: these are the last ones.
 *   CREDIT  u32: so many bytes of bodies were read, of the stream and of the connection (stream 0).
 *           An end may send MUX_STREAM_WINDOW and MUX_WINDOW bytes ahead of it.
 *   RESET   u32: a mux_code.  Nothing follows on the stream, either way.
 *   PING, PONG   are you alive; yes.
 *   GOAWAY  of the server: no stream that is opened after it was read is served.
 *
 * What the protocol does not allow ends the connection.
 */
#ifndef BASE_HTTP_MUX_H
#define BASE_HTTP_MUX_H

#include "base/buffer.h"
#include "base/http/parse.h"
#include "base/http/wire.h"
#include "base/list.h"

struct error;
struct http_server;
struct loop;
struct mux;
struct mux_call;
struct mux_stream;
struct stream;

#define MUX_PROTOCOL "blixard-call/1"

enum {
    MUX_HEADER_BYTES = 12,
    MUX_FRAME_BYTES = 262144,
    MUX_HEAD_BYTES = 262144, /* that can be sent; ends take less, and say so */
    MUX_STREAM_WINDOW = 1 << 20,
    MUX_WINDOW = 16 << 20,
    MUX_STREAMS_MAX = 256, /* that a client has open at a time */
};

enum mux_kind {
    MUX_HEAD = 1,
    MUX_DATA,
    MUX_CREDIT,
    MUX_RESET,
    MUX_PING,
    MUX_PONG,
    MUX_GOAWAY,
};

enum { MUX_END = 1 };

enum mux_code {
    MUX_UNWANTED,  /* the answer is whole; the rest of the request is not needed */
    MUX_CANCELLED, /* nobody waits for it any more */
    MUX_REFUSED,   /* nothing of it was processed */
    MUX_MALFORMED, /* a head, or a body of another length than was said */
    MUX_FAILED,    /* broken off in the middle */
    MUX_CODES,
};

/* ---- A client's connection ---- */

struct mux_call_events {
    /* The final answer's head; its texts point into *bytes, which may be taken. */
    void (*on_head)(const struct parse_head *head, struct buffer *bytes, void *context);
    void (*on_data)(const void *bytes, size_t length, void *context);
    void (*on_room)(void *context); /* of a streamed body: nothing of it waits */
    /* Once, last; the call is gone.  `untouched`: the server has certainly not processed it. */
    void (*on_end)(const struct error *error, bool untouched, void *context);
};

/*
 * `changed`: there is room for a call again, or never will be.  All events come from the loop,
 * never from inside a call.
 */
struct mux *mux_client_new(struct loop *loop, const struct http_wire *wire,
                           void (*changed)(void *context), void *context, size_t head_bytes_max,
                           uint64_t now_ms);
/* A few times a second.  A silent server is asked for a sign of life; without one it is gone. */
void mux_client_tick(struct mux *mux, uint64_t now_ms);
void mux_client_lose(struct mux *mux, const struct error *error); /* the wire is gone */
bool mux_client_is_over(const struct mux *mux);                   /* takes no calls any more */
bool mux_client_has_room(const struct mux *mux);                  /* for one more call, now */
/* Calls under way end with `error`; NULL: the server is told, and calls end as CANCELLED. */
void mux_client_free(struct mux *mux, const struct error *error);

/*
 * `request`: a head of HTTP/1.1 as text, and behind it the body, or the beginning of one that is
 * streamed, without the framing of chunks.  Copied.  Only when there is room.
 */
struct mux_call *mux_client_call(struct mux *mux, const void *request, size_t length,
                                 bool is_streaming, const struct mux_call_events *events,
                                 void *context);
bool mux_call_write(struct mux_call *call, const void *bytes, size_t length); /* false: enough */
void mux_call_finish(struct mux_call *call);
bool mux_call_was_sent(const struct mux_call *call);
void mux_call_pause(struct mux_call *call);
void mux_call_resume(struct mux_call *call);
void mux_call_cancel(struct mux_call *call); /* no event comes any more */

/* ---- A server's connection ---- */

/*
 * Exchanges go to the server's handler, under its limits; who asks is said by the stream, or by
 * `peer` as in http_exchange_peer().  What is called by the loop (receive, flush, tick) calls
 * handlers; what handlers call does not.
 */
struct mux *mux_server_new(struct http_server *server, const struct http_wire *wire, void *context,
                           const char *peer, const struct stream *stream_or_null, uint64_t now_ms);
void mux_server_tick(struct mux *mux, uint64_t now_ms); /* a few times a second: time limits */
/* No new requests; `finish` when those in flight are answered. */
void mux_server_drain(struct mux *mux);
void mux_server_free(struct mux *mux); /* what is in flight sees on_close */

/* ---- Either end ---- */

void mux_receive(struct mux *mux, const void *bytes, size_t length, uint64_t now_ms);
void mux_flush(struct mux *mux, uint64_t now_ms); /* the wire has room again */
size_t mux_stream_count(const struct mux *mux);   /* under way */

/* ---- What both ends are made of (mux.c) ---- */

/* An end's own struct begins with it. */
struct mux_stream {
    struct list_node link;   /* in streams, or gone */
    struct list_node event;  /* in dirty */
    struct list_node ready;  /* in ready: something of it may be sent */
    struct mux_stream *next; /* in its slot */
    struct mux *mux;
    uint32_t id;
    struct buffer out; /* from out_at: the rest of a head, then of a body */
    size_t out_at;
    size_t head_left;
    struct buffer in; /* came, and was not told yet */
    uint64_t in_left; /* of an announced length; UINT64_MAX: of none */
    size_t window_out;
    size_t window_in;
    size_t unreturned; /* read, and no credit given for it yet */
    bool has_head;     /* a body may come */
    bool is_cut;       /* what comes is not wanted: no credit for it */
    bool head_sent;
    bool out_ended; /* nothing is written behind what was */
    bool end_sent;
    bool in_ended;
    bool is_closed;
    enum mux_code code; /* is_closed: why */
};

/* Called with depth > 0: what is freed meanwhile is there until they have returned. */
struct mux_end {
    /* `stream`: of that number, or NULL: it is new (of a server), or over. */
    void (*on_head)(struct mux *mux, struct mux_stream *stream, uint32_t id, const uint8_t *bytes,
                    size_t length, bool is_end);
    /* May a body's bytes be told now?  They are kept until mux_feed(). */
    bool (*takes)(const struct mux_stream *stream);
    void (*on_data)(struct mux_stream *stream, const uint8_t *bytes, size_t length);
    void (*on_event)(struct mux_stream *stream); /* it was marked */
    void (*on_control)(struct mux *mux, enum mux_kind kind);
    void (*on_turn)(struct mux *mux); /* all that was marked is done */
    void (*on_dead)(struct mux *mux); /* before its streams are told */
    void (*free)(struct mux *mux);
};

/* An end's own struct begins with it, too. */
struct mux {
    const struct mux_end *end;
    struct loop *loop;
    struct http_wire wire;
    void *context;
    struct list streams;
    struct list dirty;
    struct list ready;
    struct list gone;  /* freed when nobody is at work */
    struct list spare; /* streams that were: their memory is the next ones' */
    size_t spare_count;
    struct mux_stream *slots[MUX_STREAMS_MAX];
    size_t stream_count;
    uint32_t last_id;
    size_t window_out;
    size_t window_in;
    size_t unreturned;
    size_t out_bytes;  /* of all streams: what was written and is in no frame yet */
    struct buffer out; /* frames for the wire */
    size_t appended;   /* to the wire, and to be followed */
    uint8_t header[MUX_HEADER_BYTES];
    size_t header_used;
    size_t frame_left; /* of the payload that is under way */
    struct buffer payload;
    uint64_t now_ms;
    uint64_t alive_ms; /* something came */
    uint64_t asked_ms; /* for a sign of life since, or 0 */
    unsigned depth;    /* we are at work, or about to be */
    bool is_server;
    bool ends_when_idle;
    bool is_dead;
    bool is_posted; /* the loop will see to it */
    bool is_finished;
    bool is_freed;
};

void mux_begin(struct mux *mux, const struct mux_end *end, struct loop *loop,
               const struct http_wire *wire, void *context, uint64_t now_ms);
void mux_done(struct mux *mux); /* the buffers, not the struct */

/* Do what there is to do; nothing while somebody is at work, who will. */
void mux_run(struct mux *mux);
/* The same by the loop: a head, a body and its end that come one after the other are one write. */
void mux_touch(struct mux *mux);
void mux_pump(struct mux *mux); /* from the streams to the wire, as much as it and windows take */
void mux_die(struct mux *mux);  /* all streams are closed, FAILED */

/* Cleared memory of `size`, always the same one of an end, for a struct that begins with a stream.
 */
void *mux_stream_new(struct mux *mux, size_t size, uint32_t id);
void mux_stream_free(struct mux_stream *stream); /* its struct as well */
void mux_mark(struct mux_stream *stream);        /* on_event() comes */

/* A frame of control, and of what little there is. */
void mux_send(struct mux *mux, enum mux_kind kind, uint8_t flags, uint32_t id, const void *payload,
              size_t length);

/* The same with a number. */
void mux_send_number(struct mux *mux, enum mux_kind kind, uint32_t id, uint32_t number);

/* The head first, once.  A last piece may be empty.  Large pieces are framed from where they are.
 */
void mux_write_head(struct mux_stream *stream, const void *bytes, size_t length);
void mux_write(struct mux_stream *stream, const void *bytes, size_t length, bool is_last);
size_t mux_left(const struct mux_stream *stream); /* written, and in no frame yet */

/* A head has come, whose body has `length` bytes, or UINT64_MAX.  False: they cannot come any more,
 * and the stream was reset. */
bool mux_expect(struct mux_stream *stream, uint64_t length, bool is_end);
void mux_feed(struct mux_stream *stream); /* what came, as far as it takes it */
void mux_close(struct mux_stream *stream, enum mux_code code);
/* The peer, if it knows of it, is told. */
void mux_reset(struct mux_stream *stream, enum mux_code code);

#endif
