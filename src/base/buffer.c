#include "base/buffer.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "base/memory.h"
#include "base/text.h"

enum {
    FIRST_SIZE = 256, /* a head of HTTP, a short answer: most never grow beyond it */
    FORMAT_STEP = 64, /* most of what is printed is shorter */
};

void buffer_done(struct buffer *buffer)
{
    free(buffer->data);
    *buffer = (struct buffer){0};
}

void buffer_wipe(struct buffer *buffer)
{
    if (buffer->data != NULL) {
        explicit_bzero(buffer->data, buffer->size);
    }
    buffer_done(buffer);
}

uint8_t *buffer_reserve(struct buffer *buffer, size_t extra)
{
    CHECK(extra <= SIZE_MAX / 4 - buffer->used);

    size_t wanted = buffer->used + extra;
    if (wanted > buffer->size) {
        size_t size = buffer->size > 0 ? buffer->size : FIRST_SIZE;
        while (size < wanted) {
            size *= 2;
        }
        buffer->data = memory_resize(buffer->data, size);
        buffer->size = size;
    }
    return buffer->data + buffer->used;
}

void buffer_append(struct buffer *buffer, const void *bytes, size_t length)
{
    if (length > 0) {
        memcpy(buffer_reserve(buffer, length), bytes, length);
        buffer->used += length;
    }
}

void buffer_append_string(struct buffer *buffer, const char *string)
{
    buffer_append(buffer, string, strlen(string));
}

void buffer_append_byte(struct buffer *buffer, uint8_t byte)
{
    *buffer_reserve(buffer, 1) = byte;
    buffer->used++;
}

void buffer_append_decimal(struct buffer *buffer, uint64_t value)
{
    char *at = (char *)buffer_reserve(buffer, TEXT_U64_SIZE);
    buffer->used += text_write_u64(value, at);
}

void buffer_append_format(struct buffer *buffer, const char *format, ...)
{
    CHECK(format != NULL); /* and gcc's sanitizer build knows it too */

    char *at = (char *)buffer_reserve(buffer, FORMAT_STEP);
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(at, buffer->size - buffer->used, format, arguments);
    va_end(arguments);
    CHECK(length >= 0);

    if ((size_t)length >= buffer->size - buffer->used) { /* again, where it fits */
        at = (char *)buffer_reserve(buffer, (size_t)length + 1);
        va_start(arguments, format);
        vsnprintf(at, (size_t)length + 1, format, arguments);
        va_end(arguments);
    }
    buffer->used += (size_t)length;
}

void buffer_append_u32(struct buffer *buffer, uint32_t value)
{
    for (int i = 0; i < 4; i++) {
        buffer_append_byte(buffer, (uint8_t)(value >> (8 * i)));
    }
}

void buffer_append_u64(struct buffer *buffer, uint64_t value)
{
    buffer_append_u32(buffer, (uint32_t)value);
    buffer_append_u32(buffer, (uint32_t)(value >> 32));
}

void buffer_consume(struct buffer *buffer, size_t length)
{
    CHECK(length <= buffer->used);
    if (length > 0) {
        memmove(buffer->data, buffer->data + length, buffer->used - length);
        buffer->used -= length;
    }
}

void buffer_clear(struct buffer *buffer)
{
    buffer->used = 0;
}

const char *buffer_string(struct buffer *buffer)
{
    *buffer_reserve(buffer, 1) = '\0';
    return (const char *)buffer->data;
}

char *buffer_take(struct buffer *buffer)
{
    buffer_string(buffer);
    char *taken = (char *)buffer->data;
    *buffer = (struct buffer){0};
    return taken;
}
