/*
 * Blixard for C and C++: write a handler.  Header only.
 *
 *     #include "blixard.h"
 *
 *     BLIXARD_HANDLER
 *     {
 *         char name[64];
 *         if (blixard_request_get("QUERY_STRING", name, sizeof(name)) < 0) { name[0] = 0; }
 *         blixard_response_header("Content-Type", "text/plain");
 *         blixard_response_text("Hello, ");
 *         blixard_response_text(name);
 *     }
 *
 * Build a reactor that exports `handle`:
 *
 *     clang --target=wasm32-wasi -O2 -mexec-model=reactor -o hello.wasm hello.c
 *
 * What runs before the first request (static constructors, and wizer.initialize if you export it)
 * runs once, when the function is deployed; every request starts from the memory it left.
 * Nothing a request changes is seen by the next.
 */
#ifndef BLIXARD_H
#define BLIXARD_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __cplusplus
#define BLIXARD_C_ extern "C"
#else
#define BLIXARD_C_
#endif

#define BLIXARD_IMPORT_(name) \
    BLIXARD_C_ __attribute__((import_module("blixard_v1"), import_name(#name)))

/* Defines the function that answers one request. */
#define BLIXARD_HANDLER BLIXARD_C_ __attribute__((export_name("handle"))) void blixard_handle(void)

/* ---- The imports as they are ---- */

BLIXARD_IMPORT_(request_get)
int32_t blixard_v1_request_get(const char *name, size_t name_length, char *value, size_t value_max);
BLIXARD_IMPORT_(request_read) int32_t blixard_v1_request_read(void *bytes, size_t length);
BLIXARD_IMPORT_(response_status) int32_t blixard_v1_response_status(int32_t status);
BLIXARD_IMPORT_(response_header)
int32_t blixard_v1_response_header(const char *name, size_t name_length, const char *value,
                                   size_t value_length);
BLIXARD_IMPORT_(response_write) int32_t blixard_v1_response_write(const void *bytes, size_t length);
BLIXARD_IMPORT_(log) void blixard_v1_log(int32_t level, const char *text, size_t length);
BLIXARD_IMPORT_(deadline_ms) int64_t blixard_v1_deadline_ms(void);

/* ---- The request ---- */

/*
 * A CGI variable (RFC 3875): REQUEST_METHOD, PATH_INFO, QUERY_STRING, CONTENT_TYPE, HTTP_ACCEPT ...
 * At most value_max - 1 bytes and a NUL go to `value`.  Returns the full length, -1 when it is not
 * set.
 */
static inline int32_t blixard_request_get(const char *name, char *value, size_t value_max)
{
    if (value_max == 0) {
        return blixard_v1_request_get(name, strlen(name), value, 0);
    }
    int32_t length = blixard_v1_request_get(name, strlen(name), value, value_max - 1);
    value[length < 0 ? 0 : (size_t)length < value_max ? (size_t)length : value_max - 1] = 0;
    return length;
}

/* More of the request body: the number of bytes, 0 at its end. */
static inline int32_t blixard_request_read(void *bytes, size_t length)
{
    return blixard_v1_request_read(bytes, length);
}

/* ---- The response: status and headers first (both optional), then the body ---- */

/* 0, or -1: not 200..599, or the body has begun. */
static inline int32_t blixard_response_status(int32_t status)
{
    return blixard_v1_response_status(status);
}

/* 0, or -1: not a header, too much (8 KiB in all), or the body has begun. */
static inline int32_t blixard_response_header(const char *name, const char *value)
{
    return blixard_v1_response_header(name, strlen(name), value, strlen(value));
}

static inline int32_t blixard_response_write(const void *bytes, size_t length)
{
    return blixard_v1_response_write(bytes, length);
}

static inline int32_t blixard_response_text(const char *text)
{
    return blixard_v1_response_write(text, strlen(text));
}

/* ---- The rest ---- */

enum blixard_level {
    BLIXARD_ERROR = 3,
    BLIXARD_WARNING = 4,
    BLIXARD_INFO = 6,
    BLIXARD_DEBUG = 7,
};

/* One line of the function's log. */
static inline void blixard_log(enum blixard_level level, const char *text)
{
    blixard_v1_log(level, text, strlen(text));
}

/* Milliseconds until this request is broken off. */
static inline int64_t blixard_deadline_ms(void)
{
    return blixard_v1_deadline_ms();
}

#endif
