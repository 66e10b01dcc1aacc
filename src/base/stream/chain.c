/*
 * Certificates that are judged after the handshake, by whoever knows whom to believe.
 *
 * A chain is what a client showed, whose key it has proved to hold, and nothing more.  Certificates
 * of OpenSSL are counted and keep what they derive of themselves under locks of its own, so a chain
 * may be judged on any thread.
 */
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdatomic.h>
#include <string.h>

#include "base/check.h"
#include "base/memory.h"
#include "base/stream/inside.h"

/* Of client certificates: RSA from 2048 bits on, no SHA-1 (as OpenSSL's own level for peers). */
enum { STRENGTH = 2, DEPTH_MAX = 8 };

struct tls_chain {
    atomic_uint references;
    X509 *certificate;
    STACK_OF(X509) * others;
};

struct tls_authority {
    X509_STORE *store;
};

/* ---- Chains ---- */

struct tls_chain *tls_chain_new(X509_STORE_CTX *store)
{
    struct tls_chain *chain = NEW(struct tls_chain);
    atomic_init(&chain->references, 1);
    chain->certificate = X509_STORE_CTX_get0_cert(store);
    X509_up_ref(chain->certificate);
    chain->others = X509_chain_up_ref(X509_STORE_CTX_get0_untrusted(store));
    CHECK(chain->others != NULL);
    return chain;
}

struct tls_chain *tls_chain_ref(struct tls_chain *chain)
{
    if (chain != NULL) {
        atomic_fetch_add(&chain->references, 1);
    }
    return chain;
}

void tls_chain_unref(struct tls_chain *chain)
{
    if (chain == NULL || atomic_fetch_sub(&chain->references, 1) > 1) {
        return;
    }
    X509_free(chain->certificate);
    sk_X509_pop_free(chain->others, X509_free);
    free(chain);
}

/* ---- Authorities ---- */

static int refuse(struct tls_authority *authority, struct error *err, const char *why)
{
    tls_authority_free(authority);
    ERR_clear_error();
    return error_set(err, ERROR_INVALID, "%s", why);
}

/* 1: one more, 0: that was all, -1: something that cannot be read or used. */
static int add_next(struct tls_authority *authority, BIO *pem)
{
    X509 *certificate = PEM_read_bio_X509(pem, NULL, tls_no_passphrase, NULL);
    if (certificate == NULL) {
        bool is_end = ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;
        ERR_clear_error();
        return is_end ? 0 : -1;
    }
    X509_check_purpose(certificate, -1, 0); /* derived before threads share it */
    int added = X509_STORE_add_cert(authority->store, certificate);
    X509_free(certificate);
    return added == 1 ? 1 : -1;
}

int tls_authority_new(const char *certificates, struct tls_authority **ret_authority,
                      struct error *err)
{
    struct tls_authority *authority = NEW(struct tls_authority);
    authority->store = X509_STORE_new();
    CHECK(authority->store != NULL);
    if (strstr(certificates, "PRIVATE KEY-----") != NULL) {
        return refuse(authority, err, "there is a private key in it: give certificates only");
    }
    BIO *pem = BIO_new_mem_buf(certificates, -1);
    CHECK(pem != NULL);
    int count = 0;
    int r = add_next(authority, pem);
    while (r == 1 && ++count <= TLS_AUTHORITIES_MAX) {
        r = add_next(authority, pem);
    }
    BIO_free(pem);
    if (r < 0) {
        return refuse(authority, err, "a certificate in it cannot be read");
    }
    if (count == 0) {
        return refuse(authority, err, "there is no certificate in PEM in it");
    }
    if (count > TLS_AUTHORITIES_MAX) {
        return refuse(authority, err, "there are more than 64 certificates in it");
    }
    *ret_authority = authority;
    return 0;
}

void tls_authority_free(struct tls_authority *authority)
{
    if (authority != NULL) {
        X509_STORE_free(authority->store);
        free(authority);
    }
}

/* ---- Judging ---- */

/* A name that was cut could be another one's. */
static int write_subject(X509 *certificate, char ret_subject[TLS_SUBJECT_SIZE], struct error *err)
{
    BIO *text = BIO_new(BIO_s_mem());
    CHECK(text != NULL);
    char *bytes = NULL;
    int written = X509_NAME_print_ex(text, X509_get_subject_name(certificate), 0, XN_FLAG_RFC2253);
    long length = BIO_get_mem_data(text, &bytes);
    bool fits = written >= 0 && length > 0 && length < TLS_SUBJECT_SIZE &&
        memchr(bytes, '\0', (size_t)length) == NULL;
    if (fits) {
        memcpy(ret_subject, bytes, (size_t)length);
        ret_subject[length] = '\0';
    }
    BIO_free(text);
    return fits
        ? 0
        : error_set(err, ERROR_DENIED, "the peer's certificate: its subject is empty or too long");
}

int tls_authority_judge(const struct tls_authority *authority, const struct tls_chain *chain,
                        char ret_subject[TLS_SUBJECT_SIZE], struct error *err)
{
    X509_STORE_CTX *context = X509_STORE_CTX_new();
    CHECK(context != NULL);
    int r = 0;
    if (X509_STORE_CTX_init(context, authority->store, chain->certificate, chain->others) != 1 ||
        X509_STORE_CTX_set_default(context, "ssl_client") != 1) {
        r = error_set(err, ERROR_OS, "OpenSSL cannot judge a certificate");
    } else {
        X509_VERIFY_PARAM *terms = X509_STORE_CTX_get0_param(context);
        X509_VERIFY_PARAM_set_flags(terms, X509_V_FLAG_PARTIAL_CHAIN);
        X509_VERIFY_PARAM_set_auth_level(terms, STRENGTH);
        X509_VERIFY_PARAM_set_depth(terms, DEPTH_MAX);
        if (X509_verify_cert(context) != 1) {
            r = tls_say_why(X509_STORE_CTX_get_error(context), err);
        } else {
            r = write_subject(chain->certificate, ret_subject, err);
        }
    }
    X509_STORE_CTX_free(context);
    ERR_clear_error();
    return r;
}
