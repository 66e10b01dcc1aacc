/* Private to the server's end of HTTP/2: its connections and streams from inside. */
#ifndef BASE_HTTP_H2_SERVER_H
#define BASE_HTTP_H2_SERVER_H

#include "base/http/connection.h"
#include "base/http/h2.h"

/* What a connection's streams may hold back together, roughly: then each of them holds less, and no
 * request is begun.  A client first reads what it asked for. */
enum { H2_OUT_HIGH = 4 << 20, H2_OUT_LEAST = 16384 };

struct h2_stream {
    struct list_node link;  /* in streams */
    struct list_node event; /* in dirty */
    struct h2_server *h2;
    int32_t id;
    struct http_exchange *exchange; /* NULL: not yet, refused, or over */
    struct buffer in;               /* not read yet */
    const uint8_t *lent;            /* what is being received, instead of `in`; or NULL */
    size_t lent_length;
    struct h2_body out; /* not on the wire yet */
    int status;
    uint64_t length;
    bool is_new;       /* the handler has not seen it */
    bool was_taken;    /* it had an exchange */
    bool remote_ended; /* the request is whole */
    bool is_cut;       /* the rest of the body is not wanted */
    bool head_waits;   /* the answer's head is known, and not submitted */
    bool answer_ended; /* all of it was written */
    bool end_sent;
    bool is_ours; /* we broke it off */
    bool is_closed;
    size_t dropped;           /* after the answer's end */
    uint64_t linger_since_ms; /* the answer has ended, its request has not, or 0 */
    uint64_t body_since_ms;   /* waits for the body's next piece since, or 0 */
    uint64_t write_since_ms;  /* the peer takes nothing since, or 0 */
};

struct h2_server {
    struct http_server *server;
    struct h2_link link;
    char peer[64];
    const struct stream *stream; /* or NULL */
    struct parse_limits limits;
    struct list streams;
    struct list dirty;
    size_t stream_count;
    bool has_lent;    /* what was received is to be looked at before more is */
    size_t out_bytes; /* of all streams: what handlers wrote and the peer has not taken */
    bool has_waiting; /* requests that are not begun until it is less */
    size_t requests;
    struct h2_head head;
    struct h2_fields fields; /* scratch */
    struct h2_guard guard;
    uint64_t now_ms;
    uint64_t head_since_ms;  /* a block of fields, or the preface, is under way since, or 0 */
    uint64_t frame_ms;       /* the last frame began */
    uint64_t drain_since_ms; /* the peer was told that we will end, or 0 */
    unsigned depth;          /* we are in run() or about to */
    bool goaway_sent;        /* the last one */
    bool is_posted;          /* run() will be called by the loop */
    bool is_finished;
    bool is_freed;
};

/* Bytes of the answer that are not on the wire yet. */
static inline size_t h2_stream_left(const struct h2_stream *stream)
{
    return h2_body_left(&stream->out);
}

/* Bytes of the request's body that nobody has read; they are dropped. */
static inline size_t h2_stream_unread(const struct h2_stream *stream)
{
    return stream->in.used + stream->lent_length;
}
void h2_stream_drop(struct h2_stream *stream);

/* Something happened: run() will act on it. */
void h2_stream_mark(struct h2_stream *stream);

/* The stream is broken off, or closed: its exchange is told. */
void h2_stream_lose(struct h2_stream *stream);

/* A handler did something: what can go out goes, what has to be told is told by the loop. */
void h2_server_touch(struct h2_server *h2);

/* What is lent to the streams' bodies goes out now, as far as the wire and the windows let it. */
void h2_server_pull(struct h2_server *h2);

#endif
