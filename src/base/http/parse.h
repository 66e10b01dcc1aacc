/*
 * Private to the room: heads and chunks of HTTP/1.1, as RFC 9112 has them and no laxer.
 *
 * Pure functions on bytes.  What smuggling lives from is refused: two lengths, a length and a
 * coding, obs-fold, space before a colon, bare CR or LF, control bytes, codings other than exactly
 * "chunked".
 */
#ifndef BASE_HTTP_PARSE_H
#define BASE_HTTP_PARSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/text.h"

enum { PARSE_FIELDS_MAX = 256 };

struct parse_field {
    struct text name;
    struct text value;
};

struct parse_head {
    struct text method;   /* request */
    struct text target;   /* request, as sent */
    struct text protocol; /* HTTP/2: what a CONNECT asks for (RFC 8441), or {NULL, 0} */
    int status;           /* answer */
    int minor;            /* HTTP/1.minor */
    bool has_length;
    uint64_t length;
    bool is_chunked;
    bool expects_continue;
    bool wants_close;      /* Connection: close */
    bool wants_keep_alive; /* Connection: keep-alive */
    size_t field_count;
    struct parse_field fields[PARSE_FIELDS_MAX]; /* last: see parse_copy() */
};

struct parse_limits {
    size_t head_bytes_max;
    size_t field_count_max; /* at most PARSE_FIELDS_MAX */
    size_t target_bytes_max;
};

/*
 * Parse a request's head at the start of `bytes`.  Returns its length, 0 when more is needed, or
 * the negative HTTP status to refuse it with (400, 414, 431, 501, 505).  Texts point into `bytes`.
 */
long parse_request(const uint8_t *bytes, size_t length, const struct parse_limits *limits,
                   struct parse_head *ret_head);

/* The same for an answer; negative: it is malformed. */
long parse_answer(const uint8_t *bytes, size_t length, const struct parse_limits *limits,
                  struct parse_head *ret_head);

/* The authority of an absolute-form target; {NULL, 0} of another form.  The target was parsed. */
struct text parse_authority(struct text target);

/* Value of the first field of that name (any case), or {NULL, 0}. */
struct text parse_find(const struct parse_head *head, const char *name);

/* A decoder of the chunked coding (RFC 9112, 7.1).  A zeroed struct is at the start. */
struct parse_chunks {
    int state;
    uint64_t left;   /* of the chunk */
    unsigned digits; /* of its size, so far */
    size_t trailer;  /* bytes of extensions and trailers */
    uint8_t before;  /* in an extension: the byte before, or 0 when it was escaped */
    bool is_quoted;
};

/*
 * Take bytes: *ret_used of them were used, *ret_data of which (the last ones) are content.  Returns
 * 1 when the body is complete, 0 to go on, -1 when it is malformed.  Call again with the rest.
 */
int parse_chunk(struct parse_chunks *chunks, const uint8_t *bytes, size_t length, size_t *ret_used,
                struct text *ret_data);

/* For heads that do not come as text: empty one, and add to it.  0, or the negative status. */
void parse_clear(struct parse_head *head);
void parse_copy(const struct parse_head *head, struct parse_head *ret_copy); /* as long as it is */
int parse_add_field(struct parse_head *head, struct text name, struct text value,
                    size_t field_count_max);

bool parse_is_token(struct text text);

/* origin-form, absolute-form or asterisk-form (RFC 9112, 3.2). */
bool parse_is_target(struct text target, struct text method);

/* No other bytes than those of a host and a port. */
bool parse_is_host(struct text text);

/* No CR, LF, NUL or other control byte but tab. */
bool parse_is_value(struct text text);

#endif
