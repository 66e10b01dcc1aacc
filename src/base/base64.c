#include "base/base64.h"

#include <stdint.h>
#include <string.h>

#include "base/buffer.h"

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

void base64_write(struct buffer *out, const void *bytes, size_t length)
{
    const uint8_t *at = bytes;
    uint8_t *to = buffer_reserve(out, (length + 2) / 3 * 4 + 1);
    for (size_t i = 0; i < length; i += 3) {
        uint32_t group = (uint32_t)at[i] << 16;
        group |= i + 1 < length ? (uint32_t)at[i + 1] << 8 : 0;
        group |= i + 2 < length ? at[i + 2] : 0;
        *to++ = (uint8_t)alphabet[group >> 18];
        *to++ = (uint8_t)alphabet[group >> 12 & 63];
        *to++ = i + 1 < length ? (uint8_t)alphabet[group >> 6 & 63] : '=';
        *to++ = i + 2 < length ? (uint8_t)alphabet[group & 63] : '=';
        out->used += 4;
    }
}

static int value_of(char c)
{
    return c >= 'A' && c <= 'Z' ? c - 'A'
        : c >= 'a' && c <= 'z'  ? c - 'a' + 26
        : c >= '0' && c <= '9'  ? c - '0' + 52
        : c == '+'              ? 62
        : c == '/'              ? 63
                                : -1;
}

bool base64_read(const char *text, size_t length, struct buffer *ret_bytes)
{
    size_t begun = ret_bytes->used;
    size_t padding = 0;
    while (padding < 2 && padding < length && text[length - 1 - padding] == '=') {
        padding++;
    }
    bool is_good = length % 4 == 0;
    uint32_t group = 0;
    for (size_t i = 0; is_good && i < length; i++) {
        int value = i + padding < length ? value_of(text[i]) : 0;
        is_good = value >= 0;
        group = group << 6 | (uint32_t)value;
        if (i % 4 == 3) {
            size_t bytes = i + 1 == length ? 3 - padding : 3;
            const uint8_t three[3] = {(uint8_t)(group >> 16), (uint8_t)(group >> 8),
                                      (uint8_t)group};
            buffer_append(ret_bytes, three, bytes);
            group = 0;
        }
    }
    ret_bytes->used = is_good ? ret_bytes->used : begun;
    return is_good;
}
