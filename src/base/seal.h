/*
 * Sealed values: AES-256-GCM under a key that is kept elsewhere.
 *
 * Format: u8 version 1, 12 bytes nonce (random), ciphertext, 16 bytes tag; `context` (what the
 * value is) is authenticated with it, so that one value cannot be put in the place of another.
 */
#ifndef BASE_SEAL_H
#define BASE_SEAL_H

#include <stddef.h>
#include <stdint.h>

struct buffer;
struct error;

enum { SEAL_KEY_SIZE = 32 };

void seal_key_make(uint8_t ret_key[SEAL_KEY_SIZE]);
void seal_close(const uint8_t key[SEAL_KEY_SIZE], const char *context, const void *value,
                size_t length, struct buffer *ret_sealed);
/* CORRUPT: another key, another context, or changed. */
int seal_open(const uint8_t key[SEAL_KEY_SIZE], const char *context, const void *sealed,
              size_t length, struct buffer *ret_value, struct error *err);

#endif
