/* Base64 with its usual alphabet and padding (RFC 4648, section 4). */
#ifndef BASE_BASE64_H
#define BASE_BASE64_H

#include <stdbool.h>
#include <stddef.h>

struct buffer;

void base64_write(struct buffer *out, const void *bytes, size_t length);

/* Append what the text stands for; false, and nothing is appended, when it is no base64: other
 * characters, a length that is no multiple of 4, padding that is not at the end. */
bool base64_read(const char *text, size_t length, struct buffer *ret_bytes);

#endif
