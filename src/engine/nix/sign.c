/* Keys "NAME:BASE64" and signatures of paths: Ed25519 (RFC 8032), as Nix has them. */
#include <inttypes.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>

#include "base/base64.h"
#include "base/buffer.h"
#include "base/check.h"
#include "base/error.h"
#include "base/random.h"
#include "base/text.h"

#include "engine/nix/cache.h"

enum { SEED_BYTES = 32, SIGNATURE_BYTES = 64, KEY_TEXT_MAX = 512 };

/* ---- Keys ---- */

static bool name_is_good(struct text name)
{
    bool good = name.length > 0 && name.length <= NIX_KEY_NAME_MAX;
    for (size_t i = 0; good && i < name.length; i++) {
        good = name.data[i] > ' ' && name.data[i] < 127 && name.data[i] != ':';
    }
    return good;
}

static EVP_PKEY *key_of_seed(const uint8_t *seed)
{
    return EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, NULL, seed, SEED_BYTES);
}

int nix_key_make(const char *name, struct nix_key *ret_key, struct error *err)
{
    struct nix_key key = {0};
    size_t length = NIX_KEY_PUBLIC_BYTES;
    if (!name_is_good(text_of(name, strlen(name)))) {
        return error_set(err, ERROR_INVALID, "\"%.80s\" is no name of a key", name);
    }
    snprintf(key.name, sizeof(key.name), "%s", name);
    random_bytes(key.secret, SEED_BYTES);
    EVP_PKEY *pair = key_of_seed(key.secret);
    bool good =
        pair != NULL && EVP_PKEY_get_raw_public_key(pair, key.secret + SEED_BYTES, &length) == 1;
    EVP_PKEY_free(pair);
    if (!good) {
        OPENSSL_cleanse(&key, sizeof(key));
        return error_set(err, ERROR_OS, "OpenSSL makes no Ed25519 key");
    }
    *ret_key = key;
    OPENSSL_cleanse(&key, sizeof(key));
    return 0;
}

void nix_key_write_secret(const struct nix_key *key, struct buffer *out)
{
    buffer_append_format(out, "%s:", key->name);
    base64_write(out, key->secret, NIX_KEY_SECRET_BYTES);
}

void nix_key_write_public(const struct nix_key *key, struct buffer *out)
{
    buffer_append_format(out, "%s:", key->name);
    base64_write(out, key->secret + SEED_BYTES, NIX_KEY_PUBLIC_BYTES);
}

/* "NAME:BASE64" of exactly so many bytes; the name's length, or 0. */
static size_t read_pair(struct text text, uint8_t *ret_bytes, size_t size)
{
    const char *colon = text.length > KEY_TEXT_MAX ? NULL : memchr(text.data, ':', text.length);
    BUFFER_WIPED struct buffer bytes = {0};
    if (colon == NULL) {
        return 0;
    }
    size_t name = (size_t)(colon - text.data);
    buffer_reserve(&bytes, KEY_TEXT_MAX);
    if (!name_is_good(text_of(text.data, name)) ||
        !base64_read(colon + 1, text.length - name - 1, &bytes) || bytes.used != size) {
        return 0;
    }
    memcpy(ret_bytes, bytes.data, size);
    return name;
}

int nix_key_read(const char *text, struct nix_key *ret_key, struct error *err)
{
    struct nix_key key = {0};
    struct text line = text_trim(text_of(text, strcspn(text, "\n")));
    size_t name = read_pair(line, key.secret, NIX_KEY_SECRET_BYTES);
    if (name == 0) {
        return error_set(err, ERROR_INVALID, "it is no secret key of Nix: NAME:BASE64");
    }
    memcpy(key.name, line.data, name);
    *ret_key = key;
    OPENSSL_cleanse(&key, sizeof(key));
    return 0;
}

/* The next word of a list, or an empty text. */
static struct text next_word(const char **at)
{
    *at += strspn(*at, " \t\n");
    struct text word = text_of(*at, strcspn(*at, " \t\n"));
    *at += word.length;
    return word;
}

int nix_keys_check(const char *keys, struct error *err)
{
    uint8_t key[NIX_KEY_PUBLIC_BYTES];
    for (struct text word = next_word(&keys); word.length > 0; word = next_word(&keys)) {
        if (read_pair(word, key, sizeof(key)) == 0) {
            return error_set(err, ERROR_INVALID, "\"%.*s\" is no public key of Nix: NAME:BASE64",
                             (int)(word.length < 120 ? word.length : 120), word.data);
        }
    }
    return 0;
}

/* ---- Signatures ---- */

/* References are sorted, as Nix has them. */
static void write_fingerprint(const struct nix_info *info, const char *folder, struct buffer *out)
{
    char text[NIX_TEXT_SIZE];
    char hash[NIX_HASH_TEXT_SIZE];
    nix_path_text(&info->path, folder, text);
    nix_base32_write(info->nar_hash, hash);
    buffer_append_format(out, "1;%s;sha256:%s;%" PRIu64 ";", text, hash, info->nar_size_bytes);
    for (size_t i = 0; i < info->references.count; i++) {
        nix_path_text(&info->references.items[i], folder, text);
        buffer_append_format(out, "%s%s", i > 0 ? "," : "", text);
    }
}

int nix_sign(const struct nix_key *key, const struct nix_info *info, const char *folder,
             struct buffer *out, struct error *err)
{
    BUFFER_OWNED struct buffer said = {0};
    uint8_t signature[SIGNATURE_BYTES];
    size_t length = sizeof(signature);
    write_fingerprint(info, folder, &said);
    EVP_PKEY *pair = key_of_seed(key->secret);
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    bool good = pair != NULL && context != NULL &&
        EVP_DigestSignInit(context, NULL, NULL, NULL, pair) == 1 &&
        EVP_DigestSign(context, signature, &length, said.data, said.used) == 1;
    EVP_MD_CTX_free(context);
    EVP_PKEY_free(pair);
    if (!good) {
        return error_set(err, ERROR_OS, "OpenSSL does not sign");
    }
    buffer_append_format(out, "%s:", key->name);
    base64_write(out, signature, sizeof(signature));
    return 0;
}

static bool verifies(const uint8_t *public_key, const uint8_t *signature, const struct buffer *said)
{
    EVP_PKEY *key =
        EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, NULL, public_key, NIX_KEY_PUBLIC_BYTES);
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    bool good = key != NULL && context != NULL &&
        EVP_DigestVerifyInit(context, NULL, NULL, NULL, key) == 1 &&
        EVP_DigestVerify(context, signature, SIGNATURE_BYTES, said->data, said->used) == 1;
    EVP_MD_CTX_free(context);
    EVP_PKEY_free(key);
    return good;
}

/* By the key that has the signature's name: Nix looks no further either. */
static bool signature_is_good(struct text signature, const char *keys, const struct buffer *said)
{
    uint8_t bytes[SIGNATURE_BYTES];
    uint8_t key[NIX_KEY_PUBLIC_BYTES];
    size_t name = read_pair(signature, bytes, sizeof(bytes));
    for (struct text word = next_word(&keys); name > 0 && word.length > 0;
         word = next_word(&keys)) {
        if (word.length > name && memcmp(word.data, signature.data, name + 1) == 0 &&
            read_pair(word, key, sizeof(key)) == name && verifies(key, bytes, said)) {
            return true;
        }
    }
    return false;
}

bool nix_is_signed(const struct nix_info *info, const char *folder, const char *keys)
{
    BUFFER_OWNED struct buffer said = {0};
    const char *at = info->signatures;
    CHECK(at != NULL && keys != NULL);
    write_fingerprint(info, folder, &said);
    for (struct text word = next_word(&at); word.length > 0; word = next_word(&at)) {
        if (signature_is_good(word, keys, &said)) {
            return true;
        }
    }
    return false;
}
