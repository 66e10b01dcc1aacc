/* A growable run of bytes with one owner. */
#ifndef BASE_BUFFER_H
#define BASE_BUFFER_H

#include <stddef.h>
#include <stdint.h>

struct buffer {
    uint8_t *data;
    size_t used;
    size_t size;
};

/* A zeroed struct is an empty buffer.  End it with buffer_done(), which may be called twice. */
void buffer_done(struct buffer *buffer);

#define BUFFER_OWNED __attribute__((cleanup(buffer_done)))

/* The same for what nobody may find in memory afterwards: a key, a secret.  What the buffer left
 * behind where it grew is not wiped, so reserve all of it first. */
void buffer_wipe(struct buffer *buffer);

#define BUFFER_WIPED __attribute__((cleanup(buffer_wipe)))

/* Make room for `extra` more bytes and return where they go; buffer->used is not moved. */
uint8_t *buffer_reserve(struct buffer *buffer, size_t extra);

void buffer_append(struct buffer *buffer, const void *bytes, size_t length);
void buffer_append_string(struct buffer *buffer, const char *string);
void buffer_append_byte(struct buffer *buffer, uint8_t byte);
void buffer_append_decimal(struct buffer *buffer, uint64_t value);
void buffer_append_format(struct buffer *buffer, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Little-endian integers, for formats of our own. */
void buffer_append_u32(struct buffer *buffer, uint32_t value);
void buffer_append_u64(struct buffer *buffer, uint64_t value);

/* Drop `length` bytes from the front; length <= used. */
void buffer_consume(struct buffer *buffer, size_t length);

/* Forget the content, keep the memory. */
void buffer_clear(struct buffer *buffer);

/* Put a NUL behind the content (not counted in used) and return it as a string. */
const char *buffer_string(struct buffer *buffer);

/* Give the memory away, with a NUL behind the content; the buffer is empty afterwards. */
char *buffer_take(struct buffer *buffer);

#endif
