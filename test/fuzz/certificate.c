/*
 * certificate_read() and certificate_sign(): whatever the PEM, they end; what is read fits and is
 * text; what is signed has the name that the signer gave it.  Input that does not begin with '-' is
 * DER, which is put into PEM here, so that the fuzzer changes what is read and not its Base64.
 */
#include "base/certificate.h"

#include <openssl/evp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/memory.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

static void must(bool holds)
{
    if (!holds) {
        abort();
    }
}

static void read_one(const char *text)
{
    struct error err = {0};
    struct certificate_info info = {0};
    if (certificate_read(text, &info, &err) < 0) {
        must(err.kind == ERROR_INVALID && err.text[0] != '\0');
        return;
    }
    must(strnlen(info.common_name, sizeof(info.common_name)) < sizeof(info.common_name));
    must(strnlen(info.uri, sizeof(info.uri)) < sizeof(info.uri));
    must(strlen(info.fingerprint) == 64);
}

static void sign_one(const char *request)
{
    static struct buffer authority;
    static struct buffer key;
    struct error err = {0};
    if (authority.used == 0) {
        must(certificate_make_authority("c", "spiffe://c", 3650, &authority, &key, &err) == 0);
    }
    struct certificate_terms terms = {.common_name = "n",
                                      .uri = "spiffe://c/node/1",
                                      .now_ms = 1800000000000,
                                      .lifetime_ms = 3600000};
    BUFFER_OWNED struct buffer certificate = {0};
    if (certificate_sign(request, buffer_string(&authority), buffer_string(&key), &terms,
                         &certificate, &err) < 0) {
        must(err.kind == ERROR_INVALID && err.text[0] != '\0' && certificate.used == 0);
        return;
    }
    struct certificate_info info = {0};
    must(certificate_read(buffer_string(&certificate), &info, &err) == 0);
    must(strcmp(info.uri, terms.uri) == 0 && !info.is_authority);
}

static void wrap(const char *label, const uint8_t *bytes, size_t length, struct buffer *ret_text)
{
    BUFFER_OWNED struct buffer lines = {0};
    EVP_ENCODE_CTX *context = EVP_ENCODE_CTX_new();
    int more = 0;
    int end = 0;
    uint8_t *out = buffer_reserve(&lines, length * 2 + 128);
    EVP_EncodeInit(context);
    EVP_EncodeUpdate(context, out, &more, bytes, (int)length);
    EVP_EncodeFinal(context, out + more, &end);
    EVP_ENCODE_CTX_free(context);
    lines.used = (size_t)(more + end);
    buffer_append_format(ret_text, "-----BEGIN %s-----\n%s-----END %s-----\n", label,
                         buffer_string(&lines), label);
}

static void try_der(const uint8_t *bytes, size_t length)
{
    BUFFER_OWNED struct buffer certificate = {0};
    BUFFER_OWNED struct buffer request = {0};
    wrap("CERTIFICATE", bytes, length, &certificate);
    read_one(buffer_string(&certificate));
    wrap("CERTIFICATE REQUEST", bytes, length, &request);
    sign_one(buffer_string(&request));
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    if (length > 0 && bytes[0] != '-') {
        try_der(bytes, length);
        return 0;
    }
    MEMORY_OWNED char *text = memory_copy_text((const char *)bytes, length);
    read_one(text);
    sign_one(text);
    return 0;
}
