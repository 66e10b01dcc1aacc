/*
 * What a bootstrap sends to the Runtime API: HTTP/1.1 requests, taken apart.  Pure; what comes is
 * input of whatever runs in the guest, and bounded.
 */
#ifndef GUEST_AGENT_RUNTIME_HTTP_H
#define GUEST_AGENT_RUNTIME_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    RUNTIME_HEAD_MAX = 16384,
    RUNTIME_BODY_MAX = 6 << 20, /* as Lambda has it */
};

struct runtime_request {
    bool is_post; /* otherwise GET */
    char path[256];
    bool closes; /* the connection is to be closed behind the answer */
    bool expects_continue;
    bool is_streaming; /* an answer to be passed on as it comes; its body may be of any length */
    bool is_chunked;
    char content_type[128]; /* "": none, or a longer one */
    size_t head_length;     /* 0: the head is not whole yet */
    size_t body_at;         /* where the body is in the bytes, once whole */
    size_t body_length;     /* of it, chunks put together */
    size_t whole_length;    /* of all of the request */
};

enum runtime_verdict {
    RUNTIME_MORE,
    RUNTIME_WHOLE,
    RUNTIME_BAD,       /* 400 */
    RUNTIME_TOO_LARGE, /* 413 */
};

/*
 * Look at the first `length` bytes of a connection.  Chunks of a whole body are put together in
 * place.  *ret_request is set as far as it is known.
 */
enum runtime_verdict runtime_http_read(uint8_t *bytes, size_t length,
                                       struct runtime_request *ret_request);

/*
 * The body of a request with is_streaming, piece by piece as it comes.  Behind its last chunk it
 * may say that it failed after all: the trailer fields Lambda-Runtime-Function-Error-Type and
 * -Body (base64 of the error's JSON).
 */
struct runtime_stream {
    enum { RUNTIME_SIZE, RUNTIME_DATA, RUNTIME_DATA_END, RUNTIME_TRAILER } state;
    bool is_chunked;
    uint64_t left; /* of the chunk, or of the body */
    char error_type[128];
    char error_body[RUNTIME_HEAD_MAX]; /* as it came; "": none */
};

void runtime_stream_begin(const struct runtime_request *request, struct runtime_stream *ret_stream);

/*
 * Look at the next bytes: *ret_used of them are done with, of which *ret_piece (*ret_length bytes,
 * maybe 0) is content.  MORE: call again with what is left, when there is more than that, if
 * nothing was used.  WHOLE: the body is over.
 */
enum runtime_verdict runtime_stream_take(struct runtime_stream *stream, const uint8_t *bytes,
                                         size_t length, size_t *ret_used, const uint8_t **ret_piece,
                                         size_t *ret_length);

/* ".../invocation/ID/TAIL": the ID, or false.  `tail` is "response" or "error". */
bool runtime_http_path_id(const char *path, const char *tail, char *ret_id, size_t size);

#endif
