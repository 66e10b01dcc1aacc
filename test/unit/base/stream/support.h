/* An authority with its certificates, and two ends of a stream on one loop. */
#ifndef TEST_UNIT_BASE_STREAM_SUPPORT_H
#define TEST_UNIT_BASE_STREAM_SUPPORT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/loop/loop.h"
#include "base/stream/stream.h"
#include "base/stream/tls.h"

#include "test/lib/test.h"

struct authority {
    struct buffer certificate;
    struct buffer key;
    char fingerprint[65];
};

struct holder {
    struct buffer certificate;
    struct buffer key;
};

void authority_make(struct authority *authority);
void authority_done(struct authority *authority);

/* Of "spiffe://test/NAME", for `localhost` and 127.0.0.1; expired yesterday when not valid. */
void holder_make(struct holder *holder, struct authority *authority, const char *name,
                 bool is_server, bool is_valid);
void holder_done(struct holder *holder);

/* `holder` and `authority` may be NULL; with PIN the authority's fingerprint is the pin. */
struct tls_context *context_make(struct holder *holder, struct authority *authority,
                                 enum tls_verify verify);
struct tls_context_options context_options(struct holder *holder, struct authority *authority,
                                           enum tls_verify verify);

/* What one end has heard. */
struct end {
    struct stream *stream;
    struct buffer heard;
    size_t heard_bytes;
    bool keeps; /* in `heard`, or only counts */
    bool ended;
    size_t drained;
    struct error error; /* of the end, or of the dial */
    bool done;          /* the dial is over */
    size_t pause_after; /* bytes heard: then paused */
};

/* A listener that gives its next stream to `server`, and starts it. */
struct pair {
    struct loop *loop;
    struct stream_listener *listener;
    uint16_t port;
    char address[128];
    struct end server;
    struct end client;
    size_t accepted;
};

void pair_begin(struct pair *pair, struct tls_context *server, const char *protocols);
void pair_dial(struct pair *pair, const struct stream_dial_options *options);
void pair_end(struct pair *pair);
/* Close both ends; their records stay. */
void pair_hang_up(struct pair *pair);

/* Dial and wait until the dial is over and, when it went well, the server has its stream. */
void pair_connect(struct pair *pair, const struct stream_dial_options *options);

void end_done(struct end *end);

#define RUN_UNTIL(pair, condition)                  \
    while (!(condition)) {                          \
        uv_run(loop_uv((pair)->loop), UV_RUN_ONCE); \
    }

#endif
