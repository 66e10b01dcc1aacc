#include "base/seal.h"

#include <limits.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <string.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/error.h"
#include "base/random.h"

enum {
    VERSION = 1,
    NONCE_SIZE = 12,
    TAG_SIZE = 16,
    HEAD_SIZE = 1 + NONCE_SIZE,
    VALUE_MAX = 1 << 30, /* lengths are int below */
};

static void cipher_free(EVP_CIPHER_CTX **cipher)
{
    EVP_CIPHER_CTX_free(*cipher);
}
#define CIPHER_OWNED __attribute__((cleanup(cipher_free)))

void seal_key_make(uint8_t ret_key[SEAL_KEY_SIZE])
{
    random_bytes(ret_key, SEAL_KEY_SIZE);
}

void seal_close(const uint8_t key[SEAL_KEY_SIZE], const char *context, const void *value,
                size_t length, struct buffer *ret_sealed)
{
    CHECK(length <= VALUE_MAX);
    CHECK(strlen(context) <= INT_MAX);

    uint8_t *sealed = buffer_reserve(ret_sealed, HEAD_SIZE + length + TAG_SIZE);
    sealed[0] = VERSION;
    random_bytes(sealed + 1, NONCE_SIZE);

    CIPHER_OWNED EVP_CIPHER_CTX *cipher = EVP_CIPHER_CTX_new();
    CHECK(cipher != NULL);
    int written = 0;
    int ok = EVP_EncryptInit_ex2(cipher, EVP_aes_256_gcm(), key, sealed + 1, NULL);
    CHECK(ok == 1);
    ok = EVP_EncryptUpdate(cipher, NULL, &written, (const uint8_t *)context, (int)strlen(context));
    CHECK(ok == 1);
    if (length > 0) {
        ok = EVP_EncryptUpdate(cipher, sealed + HEAD_SIZE, &written, value, (int)length);
        CHECK(ok == 1 && (size_t)written == length);
    }
    ok = EVP_EncryptFinal_ex(cipher, sealed + HEAD_SIZE + length, &written);
    CHECK(ok == 1 && written == 0);
    ok = EVP_CIPHER_CTX_ctrl(cipher, EVP_CTRL_AEAD_GET_TAG, TAG_SIZE, sealed + HEAD_SIZE + length);
    CHECK(ok == 1);
    ret_sealed->used += HEAD_SIZE + length + TAG_SIZE;
}

/* Decrypts to `value`, which has `length` bytes; false when it is not what was sealed. */
static bool open_value(const uint8_t key[SEAL_KEY_SIZE], const char *context, const uint8_t *sealed,
                       size_t length, uint8_t *value)
{
    CIPHER_OWNED EVP_CIPHER_CTX *cipher = EVP_CIPHER_CTX_new();
    CHECK(cipher != NULL);
    uint8_t tag[TAG_SIZE];
    memcpy(tag, sealed + HEAD_SIZE + length, TAG_SIZE);
    int written = 0;
    int ok = EVP_DecryptInit_ex2(cipher, EVP_aes_256_gcm(), key, sealed + 1, NULL);
    CHECK(ok == 1);
    ok = EVP_CIPHER_CTX_ctrl(cipher, EVP_CTRL_AEAD_SET_TAG, TAG_SIZE, tag);
    CHECK(ok == 1);
    ok = EVP_DecryptUpdate(cipher, NULL, &written, (const uint8_t *)context, (int)strlen(context));
    CHECK(ok == 1);
    if (length > 0) {
        ok = EVP_DecryptUpdate(cipher, value, &written, sealed + HEAD_SIZE, (int)length);
        CHECK(ok == 1 && (size_t)written == length);
    }
    return EVP_DecryptFinal_ex(cipher, value + length, &written) == 1;
}

int seal_open(const uint8_t key[SEAL_KEY_SIZE], const char *context, const void *sealed,
              size_t length, struct buffer *ret_value, struct error *err)
{
    CHECK(strlen(context) <= INT_MAX);
    if (length < HEAD_SIZE + TAG_SIZE || length - HEAD_SIZE - TAG_SIZE > VALUE_MAX) {
        return error_set(err, ERROR_CORRUPT, "the sealed %s has %zu bytes", context, length);
    }
    const uint8_t *bytes = sealed;
    if (bytes[0] != VERSION) {
        return error_set(err, ERROR_CORRUPT, "the sealed %s has version %u, not %u", context,
                         bytes[0], VERSION);
    }

    size_t value_length = length - HEAD_SIZE - TAG_SIZE;
    uint8_t *value = buffer_reserve(ret_value, value_length + 1);
    if (!open_value(key, context, bytes, value_length, value)) {
        /* What was decrypted is not authentic: nobody may see it. */
        OPENSSL_cleanse(value, value_length);
        return error_set(err, ERROR_CORRUPT,
                         "the sealed %s cannot be opened: another key, or it "
                         "was changed",
                         context);
    }
    ret_value->used += value_length;
    return 0;
}
