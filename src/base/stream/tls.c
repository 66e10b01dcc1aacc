/*
 * TLS contexts: from PEM to SSL_CTX, and whom to believe.
 *
 * What a handshake needs of the options lives in the SSL_CTX (its rules are ex_data), so that
 * tls_context_update() is the exchange of one counted pointer: sessions keep the one they began
 * with.
 */
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <strings.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/hash.h"
#include "base/memory.h"
#include "base/stream/inside.h"

/* The peer's chain: a few certificates of ours are under 1 KiB each. */
enum { CHAIN_BYTES_MAX = 16384, CHAIN_DEPTH_MAX = 3, OTHERS_CHAIN_BYTES_MAX = 65536 };

/* For everybody: what HTTP/2 allows of TLS 1.2 (RFC 9113, 9.2.2). */
static const char ciphers[] = "ECDHE+AESGCM:ECDHE+CHACHA20";

struct rules {
    enum tls_verify verify;
    char pin[HASH_TEXT_SIZE];
    bool (*asks)(const char *name, void *context);
    void *context;
};

struct tls_context {
    atomic_uint references;
    pthread_mutex_t lock; /* guards ssl */
    SSL_CTX *ssl;
};

static int rules_slot;
static pthread_once_t rules_once = PTHREAD_ONCE_INIT;

static void free_rules(void *parent, void *rules, CRYPTO_EX_DATA *data, int slot, long number,
                       void *argument)
{
    (void)parent, (void)data, (void)slot, (void)number, (void)argument;
    free(rules);
}

static void make_slot(void)
{
    rules_slot = SSL_CTX_get_ex_new_index(0, NULL, NULL, NULL, free_rules);
    CHECK(rules_slot >= 0);
}

/* ---- PEM ---- */

/* A key that wants a passphrase is no key: never ask the terminal. */
/* NOLINTNEXTLINE(readability-non-const-parameter): the type is OpenSSL's. */
int tls_no_passphrase(char *buffer, int size, int writing, void *context)
{
    (void)buffer, (void)size, (void)writing, (void)context;
    return -1;
}

static BIO *bio_of(const char *text)
{
    BIO *bio = BIO_new_mem_buf(text, -1);
    CHECK(bio != NULL);
    return bio;
}

static X509 *read_certificate(const char *text)
{
    BIO *bio = bio_of(text);
    X509 *certificate = PEM_read_bio_X509(bio, NULL, tls_no_passphrase, NULL);
    BIO_free(bio);
    return certificate;
}

static EVP_PKEY *read_key(const char *text)
{
    BIO *bio = bio_of(text);
    EVP_PKEY *key = PEM_read_bio_PrivateKey(bio, NULL, tls_no_passphrase, NULL);
    BIO_free(bio);
    return key;
}

/* ---- Whom to believe ---- */

static void fingerprint(X509 *certificate, char ret_text[HASH_TEXT_SIZE])
{
    unsigned char *der = NULL;
    int length = i2d_X509(certificate, &der);
    CHECK(length > 0);
    hash_bytes(der, (size_t)length, ret_text);
    OPENSSL_free(der);
}

/* The certificate of the chain shown whose fingerprint is the pin becomes the one authority. */
static bool trust_pinned(X509_STORE_CTX *store, const char *pin, STACK_OF(X509) * trusted)
{
    STACK_OF(X509) *shown = X509_STORE_CTX_get0_untrusted(store);
    for (int i = 0; i < sk_X509_num(shown); i++) {
        X509 *certificate = sk_X509_value(shown, i);
        char text[HASH_TEXT_SIZE];
        fingerprint(certificate, text);
        if (strcasecmp(text, pin) == 0 && X509_check_ca(certificate) > 0 &&
            X509_self_signed(certificate, 1) == 1) {
            sk_X509_push(trusted, certificate);
            X509_STORE_CTX_set0_trusted_stack(store, trusted);
            return true;
        }
    }
    return false;
}

/* What looks like a bad certificate is a bad clock more often than not. */
int tls_say_why(int reason, struct error *err)
{
    char now[CLOCK_TEXT_SIZE];
    const char *text = X509_verify_cert_error_string(reason);
    if (reason == X509_V_ERR_CERT_NOT_YET_VALID || reason == X509_V_ERR_CERT_HAS_EXPIRED) {
        clock_format_ms(clock_real_ms(), now);
        return error_set(err, ERROR_DENIED,
                         "the peer's certificate: %s (by the clock of this machine, which says %s: "
                         "is it right?)",
                         text, now);
    }
    return error_set(err, ERROR_DENIED, "the peer's certificate: %s", text);
}

/* Called by OpenSSL in place of X509_verify_cert(): 1 when the peer is believed. */
static int judge(X509_STORE_CTX *store, void *context)
{
    SSL *ssl = X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx());
    struct tls_session *session = SSL_get_app_data(ssl);
    const struct rules *rules = SSL_CTX_get_ex_data(SSL_get_SSL_CTX(ssl), rules_slot);
    STACK_OF(X509) *trusted = sk_X509_new_null(); /* borrows what it holds */
    (void)context;
    CHECK(trusted != NULL && session != NULL && rules != NULL);
    int believed = 0;
    if (rules->verify == TLS_VERIFY_LATER) {
        believed = tls_session_judge(session, X509_STORE_CTX_get0_cert(store)) == 0;
        session->peer.chain = tls_chain_new(store);
    } else if (rules->verify == TLS_VERIFY_PIN && !trust_pinned(store, rules->pin, trusted)) {
        error_set(&session->why, ERROR_DENIED,
                  "the peer's authority is not the one expected (SHA-256 %.16s...)", rules->pin);
        X509_STORE_CTX_set_error(store, X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN);
    } else if (X509_verify_cert(store) != 1) {
        tls_say_why(X509_STORE_CTX_get_error(store), &session->why);
    } else if (tls_session_judge(session, X509_STORE_CTX_get0_cert(store)) < 0) {
        X509_STORE_CTX_set_error(store, X509_V_ERR_APPLICATION_VERIFICATION);
    } else {
        believed = 1;
    }
    sk_X509_free(trusted);
    return believed;
}

/* A server for everybody asks for a certificate where somebody will look at it. */
static int on_hello(SSL *ssl, void *context)
{
    const struct rules *rules = context;
    const char *name = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name);
    if (rules->asks != NULL && rules->asks(name != NULL ? name : "", rules->context)) {
        SSL_set_verify(ssl, SSL_VERIFY_PEER, NULL);
    }
    return 1;
}

/* ---- Contexts ---- */

/* The first of ours that the client offers. */
static int on_protocols(SSL *ssl, const unsigned char **ret_name, unsigned char *ret_length,
                        const unsigned char *offered, unsigned offered_length, void *context)
{
    const struct tls_session *session = SSL_get_app_data(ssl);
    unsigned char *name = NULL;
    (void)context;
    if (session->protocols == NULL) {
        return SSL_TLSEXT_ERR_NOACK;
    }
    int r = SSL_select_next_proto(&name, ret_length, (const unsigned char *)session->protocols,
                                  (unsigned)session->protocols_length, offered, offered_length);
    *ret_name = name;
    return r == OPENSSL_NPN_NEGOTIATED ? SSL_TLSEXT_ERR_OK : SSL_TLSEXT_ERR_ALERT_FATAL;
}

static int invalid(struct error *err, const char *what)
{
    ERR_clear_error();
    return error_set(err, ERROR_INVALID, "%s", what);
}

/* All of them are believed.  What OpenSSL derives of a certificate when it is first looked at is
 * derived here, before threads share it. */
static bool add_authorities(SSL_CTX *ssl, BIO *pem)
{
    bool good = true;
    X509 *authority = PEM_read_bio_X509(pem, NULL, tls_no_passphrase, NULL);
    while (authority != NULL) {
        X509_check_purpose(authority, -1, 0);
        good = good && X509_STORE_add_cert(SSL_CTX_get_cert_store(ssl), authority) == 1;
        X509_free(authority);
        authority = PEM_read_bio_X509(pem, NULL, tls_no_passphrase, NULL);
    }
    ERR_clear_error(); /* the end of the text is told as an error */
    return good;
}

static int use_authority(SSL_CTX *ssl, const char *text, bool show_it, struct error *err)
{
    X509 *authority = read_certificate(text);
    BIO *pem = bio_of(text);
    if (authority == NULL) {
        BIO_free(pem);
        return invalid(err, "the authority is not a certificate in PEM");
    }
    bool good = add_authorities(ssl, pem) && SSL_CTX_add_client_CA(ssl, authority) == 1 &&
        (!show_it || SSL_CTX_add1_chain_cert(ssl, authority) == 1);
    X509_free(authority);
    BIO_free(pem);
    return good ? 0 : invalid(err, "the authority's certificate cannot be used");
}

/* Those behind the first one lead to its authority. */
static bool add_others(SSL_CTX *ssl, const char *text)
{
    BIO *pem = bio_of(text);
    bool good = true;
    X509 *first = PEM_read_bio_X509(pem, NULL, tls_no_passphrase, NULL);
    X509 *other = PEM_read_bio_X509(pem, NULL, tls_no_passphrase, NULL);
    X509_free(first);
    while (other != NULL) {
        good = good && SSL_CTX_add1_chain_cert(ssl, other) == 1;
        X509_free(other);
        other = PEM_read_bio_X509(pem, NULL, tls_no_passphrase, NULL);
    }
    BIO_free(pem);
    ERR_clear_error(); /* the end of the text is told as an error */
    return good;
}

static int use_certificate(SSL_CTX *ssl, const struct tls_context_options *options,
                           struct error *err)
{
    X509 *certificate = read_certificate(options->certificate);
    EVP_PKEY *key = options->key != NULL ? read_key(options->key) : NULL;
    int r = 0;
    if (certificate == NULL) {
        r = invalid(err, "the certificate is not one in PEM");
    } else if (key == NULL) {
        r = invalid(err, "the certificate's key is none in PEM, or has a passphrase");
    } else if (SSL_CTX_use_certificate(ssl, certificate) != 1 ||
               SSL_CTX_use_PrivateKey(ssl, key) != 1 || SSL_CTX_check_private_key(ssl) != 1) {
        r = invalid(err, "the key is not the certificate's");
    } else if (!add_others(ssl, options->certificate)) {
        r = invalid(err, "the certificates behind the first one cannot be used");
    }
    X509_free(certificate);
    EVP_PKEY_free(key);
    return r;
}

static int use_rules(SSL_CTX *ssl, const struct tls_context_options *options, struct error *err)
{
    static const int modes[] = {
        [TLS_VERIFY_REQUIRED] = SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT,
        [TLS_VERIFY_OPTIONAL] = SSL_VERIFY_PEER,
        [TLS_VERIFY_PIN] = SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT,
        [TLS_VERIFY_LATER] = SSL_VERIFY_NONE, /* but see on_hello() */
    };
    struct rules *rules = NEW(struct rules);
    rules->verify = options->verify;
    rules->asks = options->asks;
    rules->context = options->context;
    int set = SSL_CTX_set_ex_data(ssl, rules_slot, rules);
    CHECK(set == 1);
    SSL_CTX_set_verify(ssl, modes[options->verify], NULL);
    SSL_CTX_set_cert_verify_callback(ssl, judge, NULL);
    if (options->verify == TLS_VERIFY_LATER) {
        SSL_CTX_set_cert_cb(ssl, on_hello, rules);
        return 0;
    }
    if (options->verify != TLS_VERIFY_PIN) {
        CHECK(options->authority != NULL);
        return use_authority(ssl, options->authority, options->certificate != NULL, err);
    }
    size_t length = options->pin != NULL ? strlen(options->pin) : 0;
    if (length != HASH_TEXT_SIZE - 1 ||
        strspn(options->pin, "0123456789abcdefABCDEF") != HASH_TEXT_SIZE - 1) {
        return invalid(err, "the authority's fingerprint is not 64 hex digits");
    }
    memcpy(rules->pin, options->pin, HASH_TEXT_SIZE);
    return 0;
}

static int make(const struct tls_context_options *options, SSL_CTX **ret_ssl, struct error *err)
{
    pthread_once(&rules_once, make_slot);
    SSL_CTX *ssl = SSL_CTX_new(TLS_method());
    if (ssl == NULL) {
        return error_set(err, ERROR_OS, "OpenSSL cannot begin");
    }
    bool is_for_all = options->verify == TLS_VERIFY_LATER;
    SSL_CTX_set_min_proto_version(ssl, is_for_all ? TLS1_2_VERSION : TLS1_3_VERSION);
    SSL_CTX_set_cipher_list(ssl, ciphers);
    SSL_CTX_set_options(ssl, SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
    SSL_CTX_set_num_tickets(ssl, 0);
    SSL_CTX_set_session_cache_mode(ssl, SSL_SESS_CACHE_OFF);
    /* Nodes are few and talk all the time: what a record needs stays. */
    SSL_CTX_set_mode(ssl, SSL_MODE_NO_AUTO_CHAIN | (is_for_all ? SSL_MODE_RELEASE_BUFFERS : 0));
    SSL_CTX_set_alpn_select_cb(ssl, on_protocols, NULL);
    SSL_CTX_set_max_cert_list(ssl, is_for_all ? OTHERS_CHAIN_BYTES_MAX : CHAIN_BYTES_MAX);
    SSL_CTX_set_verify_depth(ssl, CHAIN_DEPTH_MAX);
    /* In this order: the authority goes behind the certificate that is there. */
    int r = options->certificate != NULL ? use_certificate(ssl, options, err) : 0;
    if (r == 0) {
        r = use_rules(ssl, options, err);
    }
    if (r < 0) {
        SSL_CTX_free(ssl);
        return r;
    }
    *ret_ssl = ssl;
    return 0;
}

int tls_context_new(const struct tls_context_options *options, struct tls_context **ret_context,
                    struct error *err)
{
    SSL_CTX *ssl = NULL;
    int r = make(options, &ssl, err);
    if (r < 0) {
        return r;
    }
    struct tls_context *context = NEW(struct tls_context);
    atomic_init(&context->references, 1);
    pthread_mutex_init(&context->lock, NULL);
    context->ssl = ssl;
    *ret_context = context;
    return 0;
}

int tls_context_update(struct tls_context *context, const struct tls_context_options *options,
                       struct error *err)
{
    SSL_CTX *ssl = NULL;
    int r = make(options, &ssl, err);
    if (r < 0) {
        return r;
    }
    pthread_mutex_lock(&context->lock);
    SSL_CTX *old = context->ssl;
    context->ssl = ssl;
    pthread_mutex_unlock(&context->lock);
    SSL_CTX_free(old);
    return 0;
}

struct tls_context *tls_context_ref(struct tls_context *context)
{
    atomic_fetch_add(&context->references, 1);
    return context;
}

void tls_context_unref(struct tls_context *context)
{
    if (context == NULL || atomic_fetch_sub(&context->references, 1) > 1) {
        return;
    }
    SSL_CTX_free(context->ssl);
    pthread_mutex_destroy(&context->lock);
    free(context);
}

SSL *tls_context_connection(struct tls_context *context)
{
    pthread_mutex_lock(&context->lock);
    SSL *ssl = SSL_new(context->ssl);
    pthread_mutex_unlock(&context->lock);
    CHECK(ssl != NULL);
    return ssl;
}
