/*
 * Events of Linux functions, and their answers.  Pure; both sides are input.
 *
 * What came by HTTP is an event of API Gateway's payload format 2.0, which function URLs have too.
 * What did not (a trigger, an asynchronous call, `fn invoke`) is the event itself: its body as
 * JSON, null when there is none, a text when it is no JSON.
 *
 * The answer to HTTP: an object with `statusCode` says status, headers, cookies and body
 * (isBase64Encoded); anything else is the body of a 200, a text as it is.
 */
#ifndef ENGINE_CLONE_EVENT_H
#define ENGINE_CLONE_EVENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buffer;
struct error;

/* Of a CGI environment ("NAME=value\0..."), or NULL. */
const char *clone_event_variable(const char *environment, size_t length, const char *name);

bool clone_event_is_http(const char *environment, size_t length);

/* Append the event as JSON.  `now_ms`: since 1970. */
void clone_event_write(const char *environment, size_t length, const void *body, size_t body_length,
                       uint64_t now_ms, struct buffer *out);

/* Append CGI output: a head, an empty line, the body. */
void clone_event_write_answer(bool is_http, const void *answer, size_t length, struct buffer *out);

/*
 * An answer that comes in pieces.  Where its content type is CLONE_EVENT_PRELUDE_TYPE it begins
 * with a prelude: JSON as in an answer to HTTP, without `body`, and eight zeros behind it;
 * otherwise all of it is the body of a 200 of that type.
 */
#define CLONE_EVENT_PRELUDE_TYPE "application/vnd.awslambda.http-integration-response"
enum { CLONE_EVENT_PRELUDE_MAX = 65536 };

/* Append the CGI head of one without a prelude. */
void clone_event_write_head(const char *content_type, struct buffer *out);
/* Append that of `begun`, what has come so far; *ret_taken bytes of it are the prelude.  1: it is
 * not whole yet.  INVALID: it makes no sense, TOO_LARGE: it has no end. */
int clone_event_take_prelude(bool is_http, const void *begun, size_t length, struct buffer *out,
                             size_t *ret_taken, struct error *err);
/* "Type: message" of what a handler says behind such an answer (agent.h: failure); printable. */
void clone_event_failure_text(const void *failure, size_t length, char *ret_text, size_t size);

/* "Type: message" of an error's JSON ({errorType, errorMessage}), or the beginning of whatever it
 * is; printable. */
void clone_event_error_text(const void *json, size_t length, char *ret_text, size_t size);

#endif
