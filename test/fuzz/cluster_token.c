/* cluster_token_read(): whatever the text, it ends; a token that is written again is the same. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/memory.h"

#include "service/cluster/token.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

static void must(bool holds)
{
    if (!holds) {
        abort();
    }
}

/* The document of a token as bytes: the fuzzer changes JSON better than its base64url. */
static void wrap(const uint8_t *bytes, size_t length, struct buffer *ret_text)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    buffer_append_string(ret_text, CLUSTER_TOKEN_PREFIX);
    for (size_t bit = 0; bit < length * 8; bit += 6) {
        unsigned value = (unsigned)bytes[bit / 8] << 8;
        value |= bit / 8 + 1 < length ? bytes[bit / 8 + 1] : 0;
        buffer_append_byte(ret_text, (uint8_t)digits[value >> (10 - bit % 8) & 63]);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    BUFFER_OWNED struct buffer text = {0};
    if (length > 0 && bytes[0] == '{') {
        wrap(bytes, length, &text);
    } else {
        buffer_append(&text, bytes, length);
    }
    struct error err = {0};
    struct cluster_token token = {0};
    if (cluster_token_read(buffer_string(&text), &token, &err) < 0) {
        must(err.kind == ERROR_INVALID && err.text[0] != '\0');
        return 0;
    }
    BUFFER_OWNED struct buffer again = {0};
    struct cluster_token back = {0};
    cluster_token_write(&token, &again);
    must(cluster_token_read(buffer_string(&again), &back, &err) == 0);
    must(memcmp(&token, &back, sizeof(token)) == 0);
    return 0;
}
