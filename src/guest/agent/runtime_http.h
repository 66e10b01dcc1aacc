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
    size_t head_length;  /* 0: the head is not whole yet */
    size_t body_at;      /* where the body is in the bytes, once whole */
    size_t body_length;  /* of it, chunks put together */
    size_t whole_length; /* of all of the request */
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

/* ".../invocation/ID/TAIL": the ID, or false.  `tail` is "response" or "error". */
bool runtime_http_path_id(const char *path, const char *tail, char *ret_id, size_t size);

#endif
