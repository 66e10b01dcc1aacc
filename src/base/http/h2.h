/*
 * Private to the room: a server's end of HTTP/2 (RFC 9113) as bytes in and bytes out.
 *
 * It does not know what carries its bytes: whoever has a connection gives what it received, is
 * given what to send, and says what time it is (not 0).  libnghttp2 does the framing; what it
 * reports is noted in its callbacks and acted upon when it has returned, so that nothing of ours is
 * called from inside of it and everything may be called from everywhere.
 */
#ifndef BASE_HTTP_H2_H
#define BASE_HTTP_H2_H

#include <nghttp2/nghttp2.h>

#include "base/buffer.h"
#include "base/http/parse.h"
#include "base/http/wire.h"

struct error;
struct loop;
struct stream;
struct http_server;
struct http_exchange;
struct h2_server;

/* What a peer may have open, and have sent that nobody has read: of a stream, of a connection. */
enum { H2_STREAMS_MAX = 256, H2_STREAM_WINDOW = 262144, H2_WINDOW = 4 << 20 };

/* The longest frame that is taken (SETTINGS_MAX_FRAME_SIZE), and sent where the peer takes it:
 * large bodies then come in as few pieces as they are read in. */
enum { H2_FRAME_BYTES = 262144 };

/* The first bytes of every client (RFC 9113, 3.4). */
enum { H2_PREFACE_LENGTH = 24 };
extern const char h2_preface[];

/* A session of the library on its wire. */
struct h2_link {
    struct http_wire wire;
    void *context;
    nghttp2_session *session;
    struct buffer out; /* scratch */
    size_t appended;   /* to the wire, and to be followed */
    bool is_dead;      /* the library is not asked any more */
};

/* From the library to the wire, as much as that takes without piling up.  0, or the library's
 * error. */
int h2_link_pull(struct h2_link *link);
/* The library cannot go on: the peer is told, nothing comes afterwards. */
void h2_link_die(struct h2_link *link, uint32_t code);
void h2_link_done(struct h2_link *link);

/*
 * A body on its way out: what was written and is in no frame yet.  It goes straight into the link's
 * buffer, behind its frame's header (the library would copy it once more).
 */
struct h2_body {
    struct h2_link *link;
    struct buffer bytes; /* from `at` */
    size_t at;
    const uint8_t *lent; /* instead of them, or NULL */
    size_t lent_length;
};

size_t h2_body_left(const struct h2_body *body);
void h2_body_append(struct h2_body *body, const void *bytes, size_t length);
/* Where nothing is left: what a pull now takes is not copied here; then the rest is kept. */
void h2_body_lend(struct h2_body *body, const void *bytes, size_t length);
void h2_body_keep(struct h2_body *body);
void h2_body_done(struct h2_body *body);
/* Callbacks for data sources that are bodies. */
void h2_body_set_callbacks(nghttp2_session_callbacks *callbacks);

/* ---- A server's connection ---- */

/*
 * Exchanges go to the server's handler, under its limits; who asks is said by the stream, or by
 * `peer` as in http_exchange_peer().  What is called by the loop (receive, flush, tick) calls
 * handlers; what handlers call does not.
 */
struct h2_server *h2_server_new(struct http_server *server, const struct http_wire *wire,
                                void *context, const char *peer,
                                const struct stream *stream_or_null, uint64_t now_ms);
void h2_server_receive(struct h2_server *h2, const void *bytes, size_t length, uint64_t now_ms);
void h2_server_flush(struct h2_server *h2);                 /* the wire has room again */
void h2_server_tick(struct h2_server *h2, uint64_t now_ms); /* a few times a second: time limits */
/* No new requests; `finish` when those in flight are answered. */
void h2_server_drain(struct h2_server *h2);
size_t h2_server_streams(const struct h2_server *h2);
void h2_server_free(struct h2_server *h2); /* what is in flight sees on_close */

/* ---- What it is made of (h2.c) ---- */

/* A block of fields on its way in. */
struct h2_head {
    struct buffer bytes;
    struct buffer cookie; /* its crumbs, joined again (RFC 9113, 8.2.3) */
    struct h2_span {
        size_t name;
        size_t name_length;
        size_t value;
        size_t value_length;
    } fields[PARSE_FIELDS_MAX];
    size_t field_count;
    struct h2_span method;
    struct h2_span path;
    struct h2_span authority;
    struct h2_span scheme;
    struct h2_span status;
    struct h2_span protocol; /* RFC 8441 */
    size_t list_bytes;       /* as SETTINGS_MAX_HEADER_LIST_SIZE counts */
    int refusal;             /* status to refuse it with, or 0 */
};

void h2_head_clear(struct h2_head *head);
void h2_head_done(struct h2_head *head);
void h2_head_add(struct h2_head *head, struct text name, struct text value,
                 const struct parse_limits *limits);

/* For nghttp2_on_invalid_header_callback: the library would leave such a field out and go on. */
int h2_refuse_field(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name,
                    size_t name_length, const uint8_t *value, size_t value_length, uint8_t flags,
                    void *context);

/*
 * What was collected as the parser of 1.1 would show it; texts point into head->bytes.  0, or the
 * negative status to refuse it with, or -1: it is malformed.
 */
int h2_head_request(struct h2_head *head, bool has_body, const struct parse_limits *limits,
                    struct parse_head *ret_head);

/*
 * Frames that cost us work and move nothing are counted per span of time; so are blocks of fields
 * that do not end.  A peer beyond a limit is told ENHANCE_YOUR_CALM, and left.
 */
struct h2_guard {
    uint64_t since_ms;
    unsigned idle_frames;  /* PING, SETTINGS, PRIORITY, unknown, DATA without data */
    unsigned windows;      /* WINDOW_UPDATE */
    unsigned faults;       /* streams that were reset or refused before their answer ended */
    unsigned data_sent;    /* DATA frames, which WINDOW_UPDATE may follow */
    size_t block_bytes;    /* of the open block of fields */
    unsigned block_frames; /* CONTINUATION in it */
};

void h2_guard_tick(struct h2_guard *guard, uint64_t now_ms);
/* False: it is too much. */
bool h2_guard_frame(struct h2_guard *guard, const nghttp2_frame_hd *frame, size_t head_bytes_max);
bool h2_guard_empty(struct h2_guard *guard);
bool h2_guard_fault(struct h2_guard *guard);

/* "Name: value" lines as fields of HTTP/2: names become lower case in place, what belongs to the
 * connection is left out.  The texts point into `lines`; the array is the caller's to free(). */
struct h2_fields {
    nghttp2_nv *at;
    size_t count;
    size_t size;
};
void h2_fields_add(struct h2_fields *fields, struct text name, struct text value);
void h2_fields_add_lines(struct h2_fields *fields, struct buffer *lines);

bool h2_is_of_connection(struct text name);

/* An error of the library, as a code for the peer. */
uint32_t h2_code_of(int library_error);

#endif
