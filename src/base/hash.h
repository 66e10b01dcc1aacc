/* SHA-256, and SHA-1 where a protocol wants it, by OpenSSL. */
#ifndef BASE_HASH_H
#define BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

enum { HASH_BYTES = 32, HASH_TEXT_SIZE = 65 };

/* The digest as 64 lower-case hex digits and a NUL. */
void hash_bytes(const void *bytes, size_t length, char ret_text[HASH_TEXT_SIZE]);

/* SHA-1 of the text, for handshakes that nobody is to be kept out by (RFC 6455, 4.2.2). */
enum { HASH_SHA1_BYTES = 20 };
void hash_sha1(const char *text, uint8_t ret_digest[HASH_SHA1_BYTES]);

/* FNV-1a of a text: the same on every machine and in every release, and nothing to rely on where
 * somebody chooses the text to meet another's. */
uint64_t hash_stable(const char *text);

/* In pieces: new, any number of adds, then finish (which frees it). */
struct hash;
struct hash *hash_new(void);
void hash_add(struct hash *hash, const void *bytes, size_t length);
void hash_finish(struct hash *hash, char ret_text[HASH_TEXT_SIZE]);

#endif
