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
#include <unistd.h>
#include <wasi/api.h>

#ifdef __cplusplus
#define BLIXARD_C_ extern "C"
#else
#define BLIXARD_C_
#endif

enum { BLIXARD_ENVIRONMENT_MAX_ = 65536, BLIXARD_VARIABLES_MAX_ = 2048, BLIXARD_HEAD_MAX_ = 8192 };

/* Of the request being answered; with `reuse: instance` the one before has left its own. */
static struct {
    int environment_is_read;
    __wasi_size_t variable_count;
    uint8_t *variables[BLIXARD_VARIABLES_MAX_];
    uint8_t environment[BLIXARD_ENVIRONMENT_MAX_];
    int status;
    int head_is_begun;
    int head_is_sent;
    size_t head_length;
    char head[BLIXARD_HEAD_MAX_];
} blixard_;

static inline int blixard_write_all_(int fd, const void *bytes, size_t length)
{
    const char *at = (const char *)bytes;
    while (length > 0) {
        ssize_t wrote = write(fd, at, length);
        if (wrote < 0) {
            return -1;
        }
        at += wrote;
        length -= (size_t)wrote;
    }
    return 0;
}

static inline int blixard_send_head_(void)
{
    char line[] = "Status: 200\r\n";
    if (blixard_.status != 0) {
        line[8] = (char)('0' + blixard_.status / 100);
        line[9] = (char)('0' + blixard_.status / 10 % 10);
        line[10] = (char)('0' + blixard_.status % 10);
    }
    blixard_.head_is_sent = 1;
    if (blixard_write_all_(1, line, sizeof(line) - 1) < 0 ||
        blixard_write_all_(1, blixard_.head, blixard_.head_length) < 0) {
        return -1;
    }
    return blixard_write_all_(1, "\r\n", 2);
}

static inline void blixard_begin_(void)
{
    blixard_.environment_is_read = 0;
    blixard_.variable_count = 0;
    blixard_.status = 0;
    blixard_.head_is_begun = blixard_.head_is_sent = 0;
    blixard_.head_length = 0;
}

/* Defines the function that answers one request. */
#define BLIXARD_HANDLER                                                          \
    static void blixard_answer_(void);                                           \
    BLIXARD_C_ __attribute__((export_name("handle"))) void blixard_handle_(void) \
    {                                                                            \
        blixard_begin_();                                                        \
        blixard_answer_();                                                       \
        if (blixard_.head_is_begun && !blixard_.head_is_sent) {                  \
            blixard_send_head_();                                                \
        }                                                                        \
    }                                                                            \
    static void blixard_answer_(void)

/* ---- The request ---- */

/* Asked of the host anew: libc may have kept the environment it saw before the first request. */
static inline void blixard_read_environment_(void)
{
    __wasi_size_t count = 0;
    __wasi_size_t bytes = 0;
    if (blixard_.environment_is_read) {
        return;
    }
    blixard_.environment_is_read = 1;
    if (__wasi_environ_sizes_get(&count, &bytes) == 0 && count <= BLIXARD_VARIABLES_MAX_ &&
        bytes <= BLIXARD_ENVIRONMENT_MAX_ &&
        __wasi_environ_get(blixard_.variables, blixard_.environment) == 0) {
        blixard_.variable_count = count;
    }
}

/*
 * A CGI variable (RFC 3875): REQUEST_METHOD, PATH_INFO, QUERY_STRING, CONTENT_TYPE, HTTP_ACCEPT ...
 * At most value_max - 1 bytes and a NUL go to `value`.  Returns the full length, -1 when it is not
 * set.
 */
static inline int32_t blixard_request_get(const char *name, char *value, size_t value_max)
{
    size_t name_length = strlen(name);
    blixard_read_environment_();
    if (value_max > 0) {
        value[0] = 0;
    }
    for (__wasi_size_t i = 0; i < blixard_.variable_count; i++) {
        const char *variable = (const char *)blixard_.variables[i];
        if (strncmp(variable, name, name_length) == 0 && variable[name_length] == '=') {
            const char *found = variable + name_length + 1;
            size_t length = strlen(found);
            if (value_max > 0) {
                size_t kept = length < value_max - 1 ? length : value_max - 1;
                memcpy(value, found, kept);
                value[kept] = 0;
            }
            return (int32_t)length;
        }
    }
    return -1;
}

/* More of the request body: the number of bytes, 0 at its end, -1 on failure. */
static inline int32_t blixard_request_read(void *bytes, size_t length)
{
    return (int32_t)read(0, bytes, length);
}

/* ---- The response: status and headers first (both optional), then the body ---- */

/* 0, or -1: not 200..599, or the body has begun. */
static inline int32_t blixard_response_status(int32_t status)
{
    if (blixard_.head_is_sent || status < 200 || status > 599) {
        return -1;
    }
    blixard_.status = status;
    blixard_.head_is_begun = 1;
    return 0;
}

/* Neither a control character nor, in a name, anything a token (RFC 9110, 5.6.2) may not have. */
static inline int blixard_is_field_(const char *text, int is_name)
{
    if (is_name && text[0] == 0) {
        return 0;
    }
    for (const char *at = text; *at != 0; at++) {
        unsigned char c = (unsigned char)*at;
        if ((c < ' ' && c != '\t') || c == 0x7f) {
            return 0;
        }
        if (is_name && (c <= ' ' || c > 0x7e || strchr("\"(),/:;<=>?@[\\]{}", c) != NULL)) {
            return 0;
        }
    }
    return 1;
}

/* 0, or -1: not a header, too much (8 KiB in all), or the body has begun. */
static inline int32_t blixard_response_header(const char *name, const char *value)
{
    size_t name_length = strlen(name);
    size_t value_length = strlen(value);
    size_t left = BLIXARD_HEAD_MAX_ - blixard_.head_length;
    char *at = blixard_.head + blixard_.head_length;
    if (blixard_.head_is_sent || !blixard_is_field_(name, 1) || !blixard_is_field_(value, 0) ||
        name_length > left || value_length > left || name_length + value_length + 4 > left) {
        return -1;
    }
    memcpy(at, name, name_length);
    memcpy(at + name_length, ": ", 2);
    memcpy(at + name_length + 2, value, value_length);
    memcpy(at + name_length + 2 + value_length, "\r\n", 2);
    blixard_.head_length += name_length + value_length + 4;
    blixard_.head_is_begun = 1;
    return 0;
}

/* 0, or -1 when nobody takes it. */
static inline int32_t blixard_response_write(const void *bytes, size_t length)
{
    if (!blixard_.head_is_sent && blixard_send_head_() < 0) {
        return -1;
    }
    return blixard_write_all_(1, bytes, length);
}

static inline int32_t blixard_response_text(const char *text)
{
    return blixard_response_write(text, strlen(text));
}

/* ---- The rest ---- */

enum blixard_level {
    BLIXARD_ERROR = 3,
    BLIXARD_WARNING = 4,
    BLIXARD_INFO = 6,
    BLIXARD_DEBUG = 7,
};

/* One line of the function's log; the level goes in front as <3>, <4> ...: sd-daemon(3). */
static inline void blixard_log(enum blixard_level level, const char *text)
{
    char prefix[] = "<6>";
    prefix[1] = (char)('0' + (int)level);
    blixard_write_all_(2, prefix, sizeof(prefix) - 1);
    blixard_write_all_(2, text, strlen(text));
    blixard_write_all_(2, "\n", 1);
}

#endif
