#include "service/cluster/token.h"

#include <jansson.h>
#include <openssl/crypto.h>
#include <stdint.h>
#include <string.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/error.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/random.h"
#include "base/text.h"

static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/* ---- Secrets ---- */

void cluster_token_make_id(char ret_id[CLUSTER_TOKEN_ID_SIZE])
{
    random_hex(ret_id, CLUSTER_TOKEN_ID_SIZE - 1);
}

void cluster_token_make_secret(char ret_secret[CLUSTER_TOKEN_SECRET_SIZE])
{
    random_hex(ret_secret, CLUSTER_TOKEN_SECRET_SIZE - 1);
}

void cluster_token_digest(const char *secret, char ret_digest[65])
{
    hash_bytes(secret, strlen(secret), ret_digest);
}

bool cluster_token_is_secret(const char *secret, const char *digest)
{
    char own[HASH_TEXT_SIZE];
    cluster_token_digest(secret, own);
    return strlen(digest) == HASH_TEXT_SIZE - 1 && CRYPTO_memcmp(own, digest, sizeof(own) - 1) == 0;
}

/* ---- base64url ---- */

static void encode(const uint8_t *bytes, size_t length, struct buffer *out)
{
    uint32_t bits = 0;
    unsigned count = 0;
    for (size_t i = 0; i < length; i++) {
        bits = bits << 8 | bytes[i];
        count += 8;
        while (count >= 6) {
            count -= 6;
            buffer_append_byte(out, (uint8_t)digits[bits >> count & 63]);
        }
    }
    if (count > 0) {
        buffer_append_byte(out, (uint8_t)digits[bits << (6 - count) & 63]);
    }
}

/* One text for the same bytes: bits that say nothing must be 0. */
static bool decode(struct text text, struct buffer *out)
{
    uint32_t bits = 0;
    unsigned count = 0;
    for (size_t i = 0; i < text.length; i++) {
        const char *digit = text.data[i] != '\0' ? strchr(digits, text.data[i]) : NULL;
        if (digit == NULL) {
            return false;
        }
        bits = bits << 6 | (uint32_t)(digit - digits);
        count += 6;
        if (count >= 8) {
            count -= 8;
            buffer_append_byte(out, (uint8_t)(bits >> count));
        }
    }
    return count < 6 && (bits & ((1U << count) - 1)) == 0;
}

/* ---- Parts ---- */

static bool is_hex(const char *text, size_t length)
{
    return strlen(text) == length && strspn(text, "0123456789abcdef") == length;
}

bool cluster_token_is_address(const char *text)
{
    const char *colon = strrchr(text, ':');
    uint64_t port = 0;
    if (colon == NULL || colon == text || strlen(text) >= CLUSTER_TOKEN_ADDRESS_SIZE ||
        !text_parse_u64(text_of(colon + 1, strlen(colon + 1)), &port) || port == 0 ||
        port > UINT16_MAX) {
        return false;
    }
    size_t length = (size_t)(colon - text);
    if (text[0] == '[') {
        return length > 3 && text[length - 1] == ']' &&
            strspn(text + 1, "0123456789abcdefABCDEF:.") == length - 2;
    }
    return strspn(text, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-_") ==
        length;
}

static const char *string_of(const json_t *document, const char *key)
{
    const json_t *value = json_object_get(document, key);
    const char *text = json_string_value(value);
    return text != NULL && strlen(text) == json_string_length(value) ? text : NULL;
}

static bool take_hex(const json_t *document, const char *key, char *ret_text, size_t size)
{
    const char *text = string_of(document, key);
    if (text == NULL || !is_hex(text, size - 1)) {
        return false;
    }
    memcpy(ret_text, text, size);
    return true;
}

static bool take_addresses(const json_t *document, struct cluster_token *token)
{
    const json_t *list = json_object_get(document, "a");
    size_t count = json_array_size(list);
    if (count == 0 || count > CLUSTER_TOKEN_ADDRESSES_MAX) {
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        const json_t *item = json_array_get(list, i);
        const char *text = json_string_value(item);
        if (text == NULL || strlen(text) != json_string_length(item) ||
            !cluster_token_is_address(text)) {
            return false;
        }
        memcpy(token->addresses[i], text, strlen(text) + 1);
    }
    token->address_count = count;
    return true;
}

/* For one thing: to join, to log in, or to be shown. */
static bool take_purpose(const json_t *document, struct cluster_token *token)
{
    if (json_object_get(document, "t") != NULL) {
        return take_hex(document, "t", token->id, sizeof(token->id));
    }
    token->is_bearer = json_object_get(document, "b") != NULL;
    const char *client = string_of(document, token->is_bearer ? "b" : "n");
    if (client == NULL || !text_is_name(client)) {
        return false;
    }
    memcpy(token->client, client, strlen(client) + 1);
    return true;
}

/* ---- The text ---- */

void cluster_token_write(const struct cluster_token *token, struct buffer *ret_text)
{
    CHECK(token->address_count > 0 && token->address_count <= CLUSTER_TOKEN_ADDRESSES_MAX);
    CHECK((token->id[0] == '\0') != (token->client[0] == '\0'));
    BUFFER_OWNED struct buffer document = {0};
    struct json_writer writer = json_writer_to(&document);
    json_write_begin_object(&writer);
    json_write_field_string(&writer, "c", token->cluster);
    json_write_field_string(&writer, "f", token->fingerprint);
    json_write_key(&writer, "a");
    json_write_begin_array(&writer);
    for (size_t i = 0; i < token->address_count; i++) {
        json_write_string(&writer, token->addresses[i]);
    }
    json_write_end_array(&writer);
    if (token->id[0] != '\0') {
        json_write_field_string(&writer, "t", token->id);
    } else {
        json_write_field_string(&writer, token->is_bearer ? "b" : "n", token->client);
    }
    json_write_field_string(&writer, "s", token->secret);
    json_write_end_object(&writer);
    buffer_append_string(ret_text, CLUSTER_TOKEN_PREFIX);
    encode(document.data, document.used, ret_text);
}

static int parse(struct text text, struct cluster_token *ret_token, struct error *err)
{
    static const char damaged[] = "the token is damaged: paste it as a whole";
    BUFFER_OWNED struct buffer bytes = {0};
    JSON_OWNED json_t *document = NULL;
    struct error ignored = {0}; /* it could quote the secret */
    if (!decode(text, &bytes) || json_read(bytes.data, bytes.used, &document, &ignored) < 0) {
        return error_set(err, ERROR_INVALID, "%s", damaged);
    }
    struct cluster_token token = {0};
    /* What a newer Blixard says besides is not for us: what we must understand has a prefix of its
     * own. */
    if (!take_hex(document, "c", token.cluster, sizeof(token.cluster)) ||
        !take_hex(document, "f", token.fingerprint, sizeof(token.fingerprint)) ||
        !take_hex(document, "s", token.secret, sizeof(token.secret)) ||
        !take_addresses(document, &token) || !take_purpose(document, &token)) {
        return error_set(err, ERROR_INVALID, "%s", damaged);
    }
    *ret_token = token;
    return 0;
}

/* blx2. and so on */
static bool is_newer(const char *text)
{
    size_t count = text_starts_with(text, "blx") ? strspn(text + 3, "0123456789") : 0;
    return count > 0 && count < 4 && text[3 + count] == '.' && strncmp(text + 3, "1.", 2) != 0 &&
        text[3] != '0';
}

int cluster_token_read(const char *text, struct cluster_token *ret_token, struct error *err)
{
    static const char blanks[] = " \t\r\n";
    text += strspn(text, blanks);
    size_t length = strnlen(text, CLUSTER_TOKEN_TEXT_MAX + 1);
    while (length > 0 && strchr(blanks, text[length - 1]) != NULL) {
        length--;
    }
    size_t skip = strlen(CLUSTER_TOKEN_PREFIX);
    if (length == 0) {
        return error_set(
            err, ERROR_INVALID,
            "there is no token: put there what `blixard node token create` prints on a "
            "node of the cluster");
    }
    if (length <= skip || memcmp(text, CLUSTER_TOKEN_PREFIX, skip) != 0) {
        return is_newer(text)
            ? error_set(err, ERROR_INVALID,
                        "this is a token of a newer Blixard: upgrade this one first")
            : error_set(err, ERROR_INVALID,
                        "this is no token: one begins with " CLUSTER_TOKEN_PREFIX);
    }
    if (length > CLUSTER_TOKEN_TEXT_MAX) {
        return error_set(err, ERROR_INVALID, "a token has at most %d bytes",
                         CLUSTER_TOKEN_TEXT_MAX);
    }
    return parse(text_of(text + skip, length - skip), ret_token, err);
}
