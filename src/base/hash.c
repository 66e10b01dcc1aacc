#include "base/hash.h"

#include <openssl/evp.h>
#include <string.h>

#include "base/check.h"

void hash_bytes(const void *bytes, size_t length, char ret_text[HASH_TEXT_SIZE])
{
    struct hash *hash = hash_new();
    hash_add(hash, bytes, length);
    hash_finish(hash, ret_text);
}

void hash_sha1(const char *text, uint8_t ret_digest[HASH_SHA1_BYTES])
{
    unsigned length = 0;
    int ok = EVP_Digest(text, strlen(text), ret_digest, &length, EVP_sha1(), NULL);
    CHECK(ok == 1 && length == HASH_SHA1_BYTES);
}

struct hash *hash_new(void)
{
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    CHECK(context != NULL);
    int ok = EVP_DigestInit_ex(context, EVP_sha256(), NULL);
    CHECK(ok == 1);
    return (struct hash *)context;
}

void hash_add(struct hash *hash, const void *bytes, size_t length)
{
    int ok = EVP_DigestUpdate((EVP_MD_CTX *)hash, bytes, length);
    CHECK(ok == 1);
}

void hash_finish(struct hash *hash, char ret_text[HASH_TEXT_SIZE])
{
    static const char digits[] = "0123456789abcdef";
    uint8_t digest[HASH_BYTES];
    unsigned length = 0;
    int ok = EVP_DigestFinal_ex((EVP_MD_CTX *)hash, digest, &length);
    CHECK(ok == 1 && length == HASH_BYTES);
    for (size_t i = 0; i < HASH_BYTES; i++) {
        ret_text[2 * i] = digits[digest[i] >> 4];
        ret_text[2 * i + 1] = digits[digest[i] & 15];
    }
    ret_text[HASH_TEXT_SIZE - 1] = '\0';
    EVP_MD_CTX_free((EVP_MD_CTX *)hash);
}

uint64_t hash_stable(const char *text)
{
    uint64_t hash = UINT64_C(14695981039346656037);
    for (const char *at = text; *at != '\0'; at++) {
        hash = (hash ^ (uint8_t)*at) * UINT64_C(1099511628211);
    }
    return hash;
}
