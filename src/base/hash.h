/* SHA-256, by OpenSSL. */
#ifndef BASE_HASH_H
#define BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

enum { HASH_BYTES = 32, HASH_TEXT_SIZE = 65 };

/* The digest as 64 lower-case hex digits and a NUL. */
void hash_bytes(const void *bytes, size_t length, char ret_text[HASH_TEXT_SIZE]);

/* In pieces: new, any number of adds, then finish (which frees it). */
struct hash;
struct hash *hash_new(void);
void hash_add(struct hash *hash, const void *bytes, size_t length);
void hash_finish(struct hash *hash, char ret_text[HASH_TEXT_SIZE]);

#endif
