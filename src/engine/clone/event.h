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

/* Of a CGI environment ("NAME=value\0..."), or NULL. */
const char *clone_event_variable(const char *environment, size_t length, const char *name);

bool clone_event_is_http(const char *environment, size_t length);

/* Append the event as JSON.  `now_ms`: since 1970. */
void clone_event_write(const char *environment, size_t length, const void *body, size_t body_length,
                       uint64_t now_ms, struct buffer *out);

/* Append CGI output: a head, an empty line, the body. */
void clone_event_write_answer(bool is_http, const void *answer, size_t length, struct buffer *out);

/* "Type: message" of an error's JSON ({errorType, errorMessage}), or the beginning of whatever it
 * is; printable. */
void clone_event_error_text(const void *json, size_t length, char *ret_text, size_t size);

#endif
