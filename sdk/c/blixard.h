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
 * `blixard fn build` finds it; in C++, blixard.hpp is this with strings and containers.  By hand,
 * build a reactor that exports `handle`:
 *
 *     clang --target=wasm32-wasi -O2 -mexec-model=reactor -o hello.wasm hello.c
 *
 * What runs before the first request (static constructors, and wizer.initialize if you export it)
 * runs once, when the function is deployed; every request starts from the memory it left.
 * Nothing a request changes is seen by the next.
 */
#ifndef BLIXARD_H
#define BLIXARD_H

#include <stdarg.h>
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

/* Of the request being answered; with `reuse: instance` the one before has left its own.  One for
 * all files of a program: the linker keeps one of them. */
__attribute__((weak)) struct blixard_state_ {
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

/* ---- The host (docs/user-guide/host-api.md) ----
 *
 * Only while a request is answered, not during initialisation.  Results are 0, a length or a
 * number; or negative: -errno, of which blixard_error() has the text.  A length may be more than
 * the buffer took: blixard_reply_read() has the rest until the next question.
 */

#define BLIXARD_IMPORT_(name) \
    __attribute__((import_module("blixard_v1"), import_name(#name))) blixard_v1_##name##_

BLIXARD_C_ int32_t BLIXARD_IMPORT_(log)(int32_t, const char *, size_t, const char *, size_t);
BLIXARD_C_ int32_t BLIXARD_IMPORT_(kv_get)(const char *, size_t, void *, size_t, uint64_t *);
BLIXARD_C_ int32_t BLIXARD_IMPORT_(kv_set)(const char *, size_t, const void *, size_t, uint64_t,
                                           uint64_t *);
BLIXARD_C_ int32_t BLIXARD_IMPORT_(kv_cas)(const char *, size_t, const void *, size_t, uint64_t,
                                           uint64_t, uint64_t *);
BLIXARD_C_ int32_t BLIXARD_IMPORT_(kv_delete)(const char *, size_t, uint64_t);
BLIXARD_C_ int32_t BLIXARD_IMPORT_(kv_list)(const char *, size_t, const char *, size_t, uint32_t,
                                            void *, size_t);
BLIXARD_C_ int32_t BLIXARD_IMPORT_(secret_get)(const char *, size_t, void *, size_t);
BLIXARD_C_ int32_t BLIXARD_IMPORT_(queue_send)(const char *, size_t, const void *, size_t,
                                               const char *, size_t, const char *, size_t,
                                               const char *, size_t, uint64_t, uint32_t, void *,
                                               size_t);
BLIXARD_C_ int32_t BLIXARD_IMPORT_(stream_append)(const char *, size_t, const char *, size_t,
                                                  const void *, size_t, const char *, size_t,
                                                  const char *, size_t, uint64_t *);
BLIXARD_C_ int32_t BLIXARD_IMPORT_(invoke)(const char *, size_t, const char *, size_t, const char *,
                                           size_t, const char *, size_t, const void *, size_t,
                                           uint32_t, void *, size_t);
BLIXARD_C_ int32_t BLIXARD_IMPORT_(fetch)(const char *, size_t, const char *, size_t, const char *,
                                          size_t, const void *, size_t, uint32_t, uint32_t, void *,
                                          size_t, uint32_t *);
BLIXARD_C_ int32_t BLIXARD_IMPORT_(fetch_wait)(uint32_t, uint32_t);
BLIXARD_C_ int32_t BLIXARD_IMPORT_(fetch_take)(int32_t, void *, size_t, uint32_t *);
BLIXARD_C_ int32_t BLIXARD_IMPORT_(fetch_read)(int32_t, void *, size_t);
BLIXARD_C_ int32_t BLIXARD_IMPORT_(fetch_close)(int32_t);
BLIXARD_C_ uint64_t BLIXARD_IMPORT_(deadline_ms)(void);
BLIXARD_C_ int32_t BLIXARD_IMPORT_(metadata)(uint32_t, char *, size_t);
BLIXARD_C_ int32_t BLIXARD_IMPORT_(span_begin)(const char *, size_t);
BLIXARD_C_ int32_t BLIXARD_IMPORT_(span_attribute)(int32_t, const char *, size_t, const char *,
                                                   size_t);
BLIXARD_C_ int32_t BLIXARD_IMPORT_(span_end)(int32_t, const char *, size_t);
BLIXARD_C_ int32_t BLIXARD_IMPORT_(flush)(void);
BLIXARD_C_ int32_t BLIXARD_IMPORT_(reply_read)(uint32_t, void *, size_t);
BLIXARD_C_ int32_t BLIXARD_IMPORT_(error_message)(char *, size_t);

static inline size_t blixard_length_(const char *text)
{
    return text != NULL ? strlen(text) : 0;
}

/* Why the last question failed, a sentence for people; "" when it did not. */
static inline const char *blixard_error(void)
{
    static char text[512];
    int32_t length = blixard_v1_error_message_(text, sizeof(text) - 1);
    text[length < (int32_t)sizeof(text) - 1 ? length : (int32_t)sizeof(text) - 1] = 0;
    return text;
}

/* More of the last result, from byte `from`: how many bytes. */
static inline int32_t blixard_reply_read(uint32_t from, void *bytes, size_t size)
{
    return blixard_v1_reply_read_(from, bytes, size);
}

/*
 * One line of the log with fields: name, value, name, value, ..., NULL.  At most 4 KiB of fields;
 * what goes beyond is left out.
 */
static inline int32_t blixard_log_with(enum blixard_level level, const char *text, ...)
{
    char fields[4096];
    size_t used = 0;
    va_list list;
    va_start(list, text);
    for (const char *name = va_arg(list, const char *); name != NULL;
         name = va_arg(list, const char *)) {
        const char *value = va_arg(list, const char *);
        size_t name_size = strlen(name) + 1;
        size_t value_size = strlen(value) + 1;
        if (name_size + value_size <= sizeof(fields) - used) {
            memcpy(fields + used, name, name_size);
            memcpy(fields + used + name_size, value, value_size);
            used += name_size + value_size;
        }
    }
    va_end(list);
    return blixard_v1_log_((int32_t)level, text, strlen(text), fields, used);
}

/* Milliseconds until this request must be answered. */
static inline uint64_t blixard_deadline_ms(void)
{
    return blixard_v1_deadline_ms_();
}

enum blixard_fact {
    BLIXARD_PROJECT,
    BLIXARD_FUNCTION,
    BLIXARD_VERSION,
    BLIXARD_REQUEST_ID,
    BLIXARD_TRACEPARENT,
};

/* At most text_max - 1 bytes and a NUL; the full length. */
static inline int32_t blixard_metadata(enum blixard_fact fact, char *text, size_t text_max)
{
    int32_t length = blixard_v1_metadata_((uint32_t)fact, text, text_max);
    if (text_max > 0) {
        text[length < 0 ? 0 : (size_t)length < text_max ? (size_t)length : text_max - 1] = 0;
    }
    return length;
}

/* What was written of the response goes to the client now. */
static inline int32_t blixard_response_flush(void)
{
    if (!blixard_.head_is_sent && blixard_send_head_() < 0) {
        return -1;
    }
    return blixard_v1_flush_();
}

/* ---- WebSocket: on routes with `websocket: true` requests and responses are messages ---- */

enum blixard_message_kind {
    BLIXARD_TEXT = 1,
    BLIXARD_BINARY = 2,
    BLIXARD_CLOSE = 8, /* received last, when the connection was not just cut off */
};

/* 0, or -1: it ended before. */
static inline int blixard_read_all_(void *bytes, size_t length)
{
    size_t got = 0;
    while (got < length) {
        ssize_t part = read(0, (char *)bytes + got, length - got);
        if (part <= 0) {
            return -1;
        }
        got += (size_t)part;
    }
    return 0;
}

/*
 * The next message, which is waited for: its length, and its first `size` bytes (what is beyond is
 * dropped).  -1: there will be none; the function is to end.  A close is a message, too:
 * BLIXARD_CLOSE, of a u16 code and the reason, or of nothing.
 */
static inline int32_t blixard_websocket_receive(void *bytes, size_t size, int *ret_kind)
{
    uint32_t head[2];
    char rest[256];
    if (blixard_read_all_(head, sizeof(head)) < 0) {
        return -1;
    }
    size_t kept = head[1] < size ? head[1] : size;
    size_t left = head[1] - kept;
    int r = blixard_read_all_(bytes, kept);
    while (r == 0 && left > 0) {
        size_t part = left < sizeof(rest) ? left : sizeof(rest);
        r = blixard_read_all_(rest, part);
        left -= part;
    }
    *ret_kind = (int)head[0];
    return r < 0 ? -1 : (int32_t)head[1];
}

/* A message to the client; at once.  0, or -1. */
static inline int32_t blixard_websocket_send(enum blixard_message_kind kind, const void *bytes,
                                             size_t length)
{
    uint32_t head[2] = {(uint32_t)kind, (uint32_t)length};
    if (blixard_write_all_(1, head, sizeof(head)) < 0 || blixard_write_all_(1, bytes, length) < 0) {
        return -1;
    }
    return blixard_v1_flush_() < 0 ? -1 : 0;
}

/* End it, with a code (1000, or 3000 to 4999 of one's own) and why: at most 123 bytes. */
static inline int32_t blixard_websocket_close(uint16_t code, const char *reason)
{
    char payload[125];
    size_t length = strlen(reason) < sizeof(payload) - 2 ? strlen(reason) : sizeof(payload) - 2;
    memcpy(payload, &code, 2);
    memcpy(payload + 2, reason, length);
    return blixard_websocket_send(BLIXARD_CLOSE, payload, 2 + length);
}

/* ---- Keys and values of the project; a revision of 0 is none ---- */

/* The value's length; ret_revision may be NULL. */
static inline int32_t blixard_kv_get(const char *key, void *value, size_t value_max,
                                     uint64_t *ret_revision)
{
    return blixard_v1_kv_get_(key, strlen(key), value, value_max, ret_revision);
}

/* ttl_ms 0: for good. */
static inline int32_t blixard_kv_set(const char *key, const void *value, size_t length,
                                     uint64_t ttl_ms, uint64_t *ret_revision)
{
    return blixard_v1_kv_set_(key, strlen(key), value, length, ttl_ms, ret_revision);
}

/* Only when the key has this revision, or, with 0, is not there; -EBUSY otherwise. */
static inline int32_t blixard_kv_cas(const char *key, const void *value, size_t length,
                                     uint64_t ttl_ms, uint64_t expected, uint64_t *ret_revision)
{
    return blixard_v1_kv_cas_(key, strlen(key), value, length, ttl_ms, expected, ret_revision);
}

/* expected 0: whatever its revision is. */
static inline int32_t blixard_kv_delete(const char *key, uint64_t expected)
{
    return blixard_v1_kv_delete_(key, strlen(key), expected);
}

/* Keys that begin with `prefix` and come after `after` (NULL: all), at most `max`: into `list`,
 * each as u32 length and bytes; blixard_kv_next() walks them. */
static inline int32_t blixard_kv_list(const char *prefix, const char *after, uint32_t max,
                                      void *list, size_t list_max)
{
    return blixard_v1_kv_list_(prefix, blixard_length_(prefix), after, blixard_length_(after), max,
                               list, list_max);
}

/* The key at *position, which moves on; NULL at the end.  Not NUL-terminated. */
static inline const char *blixard_kv_next(const void *list, size_t list_length, size_t *position,
                                          size_t *ret_length)
{
    uint32_t length;
    const char *at = (const char *)list + *position;
    if (*position >= list_length || list_length - *position < sizeof(length)) {
        return NULL;
    }
    memcpy(&length, at, sizeof(length));
    if (length > list_length - *position - sizeof(length)) {
        return NULL;
    }
    *position += sizeof(length) + length;
    *ret_length = length;
    return at + sizeof(length);
}

/* ---- Secrets that the function's configuration names (`secrets:` of blixard.yaml) ---- */

/* The value as it is now: its length, of any bytes, without a NUL behind them.  -EACCES: the
 * configuration does not name it. */
static inline int32_t blixard_secret_get(const char *name, void *value, size_t value_max)
{
    return blixard_v1_secret_get_(name, strlen(name), value, value_max);
}

/* ---- Messages ---- */

struct blixard_message {
    const void *body;
    size_t length;
    const char *content_type; /* NULL: application/octet-stream */
    const char *attributes;   /* a JSON object of strings, or NULL */
    const char *group;        /* of a FIFO queue; a record's key in a stream; or NULL */
    uint64_t delay_ms;        /* of a queue; 0: the queue's */
    uint32_t priority;        /* of a queue, 0 to 9 */
};

/* `id` gets the message's id. */
static inline int32_t blixard_queue_send(const char *queue, const struct blixard_message *message,
                                         char *id, size_t id_max)
{
    int32_t length = blixard_v1_queue_send_(
        queue, strlen(queue), message->body, message->length, message->content_type,
        blixard_length_(message->content_type), message->attributes,
        blixard_length_(message->attributes), message->group, blixard_length_(message->group),
        message->delay_ms, message->priority, id, id_max);
    if (id_max > 0) {
        id[length < 0 ? 0 : (size_t)length < id_max ? (size_t)length : id_max - 1] = 0;
    }
    return length;
}

/* The partition; ret_sequence may be NULL. */
static inline int32_t blixard_stream_append(const char *stream,
                                            const struct blixard_message *record,
                                            uint64_t *ret_sequence)
{
    return blixard_v1_stream_append_(
        stream, strlen(stream), record->group, blixard_length_(record->group), record->body,
        record->length, record->content_type, blixard_length_(record->content_type),
        record->attributes, blixard_length_(record->attributes), ret_sequence);
}

/* ---- Requests ---- */

struct blixard_request {
    const char *method; /* NULL: POST */
    const char *fields; /* "Name: value\r\n" each, or NULL */
    const void *body;
    size_t length;
    uint32_t timeout_ms; /* 0: what is left of this request's own time */
    uint32_t how;        /* of fetches: BLIXARD_FETCH_... */
};

struct blixard_response {
    int status;
    const char *fields; /* "Name: value\r\n" each */
    size_t fields_length;
    const uint8_t *body;
    size_t length;
    int32_t
        rest; /* of a fetch: which one has the rest of the body for blixard_fetch_read(), or 0 */
};

/* -EMSGSIZE would hide a good answer: it is told by a length beyond the buffer. */
static inline int32_t blixard_take_response_(int32_t length, const void *buffer, size_t buffer_max,
                                             struct blixard_response *ret_response)
{
    uint32_t head[2];
    size_t there = length < 0 ? 0 : (size_t)length < buffer_max ? (size_t)length : buffer_max;
    memset(ret_response, 0, sizeof(*ret_response));
    if (length < 0 || there < sizeof(head)) {
        return length;
    }
    memcpy(head, buffer, sizeof(head));
    size_t fields_length = head[1] < there - sizeof(head) ? head[1] : there - sizeof(head);
    ret_response->status = (int)head[0];
    ret_response->fields = (const char *)buffer + sizeof(head);
    ret_response->fields_length = fields_length;
    ret_response->body = (const uint8_t *)ret_response->fields + fields_length;
    ret_response->length = there - sizeof(head) - fields_length;
    return length;
}

/* Another function of the project: "NAME", "NAME:ALIAS" or "NAME:VERSION"; `path` with its query.
 */
static inline int32_t blixard_invoke(const char *function, const char *path,
                                     const struct blixard_request *request, void *buffer,
                                     size_t buffer_max, struct blixard_response *ret_response)
{
    const char *method = request->method != NULL ? request->method : "POST";
    int32_t length =
        blixard_v1_invoke_(function, strlen(function), method, strlen(method), path,
                           blixard_length_(path), request->fields, blixard_length_(request->fields),
                           request->body, request->length, request->timeout_ms, buffer, buffer_max);
    return blixard_take_response_(length, buffer, buffer_max, ret_response);
}

/* ---- Elsewhere (docs/user-guide/fetch.md): what fetch.allow in blixard.yaml lists ---- */

enum {
    BLIXARD_FETCH_HEAD = 1,        /* come back when the head is there */
    BLIXARD_FETCH_MANUAL = 4,      /* redirects are responses */
    BLIXARD_FETCH_NO_REDIRECT = 8, /* redirects are errors */
    BLIXARD_FETCH_LATER_ = 2,
};

static inline int32_t blixard_fetch_(const char *url, const struct blixard_request *request_or_null,
                                     uint32_t how, void *buffer, size_t buffer_max,
                                     uint32_t *ret_rest)
{
    const struct blixard_request none = {NULL, NULL, NULL, 0, 0, 0};
    const struct blixard_request *request = request_or_null != NULL ? request_or_null : &none;
    const char *method = request->method != NULL ? request->method
        : request->length > 0                    ? "POST"
                                                 : "GET";
    return blixard_v1_fetch_(method, strlen(method), url, blixard_length_(url), request->fields,
                             blixard_length_(request->fields), request->body, request->length,
                             request->timeout_ms, request->how | how, buffer, buffer_max, ret_rest);
}

/*
 * Get a URL; `request` NULL: GET, without a body.  A method of NULL is GET, or POST with a body.
 * Any status is a response.  Negative: none came; blixard_error() begins with one word for why
 * ("not_allowed: ...", "timeout: ...").  A body that is not all here goes on by
 * blixard_fetch_read(response->rest).
 */
static inline int32_t blixard_fetch(const char *url, const struct blixard_request *request_or_null,
                                    void *buffer, size_t buffer_max,
                                    struct blixard_response *ret_response)
{
    uint32_t rest = 0;
    int32_t length = blixard_fetch_(url, request_or_null, 0, buffer, buffer_max, &rest);
    length = blixard_take_response_(length, buffer, buffer_max, ret_response);
    ret_response->rest = (int32_t)rest;
    return length;
}

/* Begin, and go on with something else: its number. */
static inline int32_t blixard_fetch_begin(const char *url,
                                          const struct blixard_request *request_or_null)
{
    return blixard_fetch_(url, request_or_null, BLIXARD_FETCH_LATER_, NULL, 0, NULL);
}

/* Until this one (0: any) can be taken or read, at most so long: its number; 0: not yet. */
static inline int32_t blixard_fetch_wait(int32_t which, uint32_t most_ms)
{
    return blixard_v1_fetch_wait_(which > 0 && which <= 32 ? 1U << (which - 1) : 0, most_ms);
}

/* The response of one that was begun; it is waited for. */
static inline int32_t blixard_fetch_take(int32_t which, void *buffer, size_t buffer_max,
                                         struct blixard_response *ret_response)
{
    uint32_t rest = 0;
    int32_t length = blixard_v1_fetch_take_(which, buffer, buffer_max, &rest);
    length = blixard_take_response_(length, buffer, buffer_max, ret_response);
    ret_response->rest = (int32_t)rest;
    return length;
}

/* More of the body, as it comes: how many bytes; 0: that was all, and the number is free. */
static inline int32_t blixard_fetch_read(int32_t which, void *bytes, size_t size)
{
    return blixard_v1_fetch_read_(which, bytes, size);
}

/* Break it off. */
static inline int32_t blixard_fetch_close(int32_t which)
{
    return blixard_v1_fetch_close_(which);
}

/* ---- Spans of the request's trace ---- */

static inline int32_t blixard_span_begin(const char *name)
{
    return blixard_v1_span_begin_(name, strlen(name));
}

static inline int32_t blixard_span_attribute(int32_t span, const char *name, const char *value)
{
    return blixard_v1_span_attribute_(span, name, strlen(name), value, strlen(value));
}

/* failure NULL: it went well. */
static inline int32_t blixard_span_end(int32_t span, const char *failure_or_null)
{
    return blixard_v1_span_end_(span, failure_or_null, blixard_length_(failure_or_null));
}

#endif
