/* Fields and methods of requests, and those of responses.  Pure. */
#ifndef SERVICE_FETCH_FIELDS_H
#define SERVICE_FETCH_FIELDS_H

#include <stdbool.h>
#include <stddef.h>

#include "base/buffer.h"
#include "base/text.h"

struct error;

/* A token (RFC 9110, 5.6.2) of at most FETCH_METHOD_MAX bytes, and none that is not a request to a
 * server: CONNECT, TRACE, TRACK.  INVALID. */
int fields_check_method(struct text method, struct error *err);

/*
 * The fields of a guest as "Name: value" strings, each with its NUL, appended to `out`.  Those of
 * the connection (Host, Content-Length, Transfer-Encoding, ...) are left out, and traceparent,
 * which is the node's.  INVALID: a line that is no field, a CR, LF or NUL in one, too many.
 */
int fields_read(struct text fields, struct buffer *out, struct error *err);

/* Does this belong to a connection, or to how a message is framed on it? */
bool fields_is_of_connection(struct text name);

/* A field of such a list ("Name: value\0..."), or {NULL, 0}. */
struct text fields_find(const struct buffer *fields, const char *name);

/* Cut a line at its colon, blanks around the value left out; false: it is none. */
bool fields_split(struct text line, struct text *ret_name, struct text *ret_value);

#endif
