/*
 * One end of a TLS connection, without a socket: bytes received go into `in`, bytes to send come
 * out of `out`.  OpenSSL reaches both through a BIO of our own, which copies nothing twice.
 */
#include <arpa/inet.h>
#include <limits.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <pthread.h>
#include <string.h>
#include <time.h>

#include "base/check.h"
#include "base/hash.h"
#include "base/memory.h"
#include "base/stream/inside.h"

/* What a record has beyond what is said in it, and a little. */
enum { RECORD_SLACK = 64 };

/* ---- The BIO ---- */

static BIO_METHOD *method;
static pthread_once_t method_once = PTHREAD_ONCE_INIT;

static int on_bio_read(BIO *bio, char *bytes, size_t size, size_t *ret_got)
{
    struct tls_session *session = BIO_get_data(bio);
    size_t left = session->in.used - session->taken;
    BIO_clear_retry_flags(bio);
    if (left == 0) {
        BIO_set_retry_read(bio);
        return 0;
    }
    *ret_got = left < size ? left : size;
    memcpy(bytes, session->in.data + session->taken, *ret_got);
    session->taken += *ret_got;
    return 1;
}

static int on_bio_write(BIO *bio, const char *bytes, size_t length, size_t *ret_written)
{
    struct tls_session *session = BIO_get_data(bio);
    BIO_clear_retry_flags(bio);
    buffer_append(&session->out, bytes, length);
    *ret_written = length;
    return 1;
}

static long on_bio_control(BIO *bio, int command, long number, void *pointer)
{
    (void)bio, (void)number, (void)pointer;
    return command == BIO_CTRL_FLUSH ? 1 : 0;
}

static void make_method(void)
{
    method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "blixard session");
    CHECK(method != NULL);
    BIO_meth_set_read_ex(method, on_bio_read);
    BIO_meth_set_write_ex(method, on_bio_write);
    BIO_meth_set_ctrl(method, on_bio_control);
}

static void attach(struct tls_session *session)
{
    pthread_once(&method_once, make_method);
    BIO *bio = BIO_new(method);
    CHECK(bio != NULL);
    BIO_set_data(bio, session);
    BIO_set_init(bio, 1);
    SSL_set_bio(session->ssl, bio, bio); /* one reference for both */
}

/* ---- Protocols (ALPN, RFC 7301) ---- */

/* "h2 http/1.1" as lengths and names. */
static int take_protocols(struct tls_session *session, const char *protocols, struct error *err)
{
    struct buffer wire = {0};
    while (protocols != NULL && *protocols != '\0') {
        size_t length = strcspn(protocols, " ");
        if (length == 0 || length > 31) {
            buffer_done(&wire);
            return error_set(err, ERROR_INVALID, "\"%s\" is not a list of protocols", protocols);
        }
        buffer_append_byte(&wire, (uint8_t)length);
        buffer_append(&wire, protocols, length);
        protocols += length + (protocols[length] == ' ');
    }
    session->protocols_length = wire.used;
    session->protocols = wire.used > 0 ? buffer_take(&wire) : NULL;
    return 0;
}

/* ---- Life ---- */

static bool is_ip(const char *name)
{
    unsigned char bytes[16];
    return inet_pton(AF_INET, name, bytes) == 1 || inet_pton(AF_INET6, name, bytes) == 1;
}

static bool expect_name(SSL *ssl, const char *name)
{
    X509_VERIFY_PARAM *terms = SSL_get0_param(ssl);
    X509_VERIFY_PARAM_set_hostflags(
        terms, X509_CHECK_FLAG_NEVER_CHECK_SUBJECT | X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    if (is_ip(name)) {
        return X509_VERIFY_PARAM_set1_ip_asc(terms, name) == 1;
    }
    /* SSL_set_tlsext_host_name(), whose macro would drop the const (it copies the name). */
    return SSL_ctrl(ssl, SSL_CTRL_SET_TLSEXT_HOSTNAME, TLSEXT_NAMETYPE_host_name,
                    (void *)(uintptr_t)name) == 1 &&
        X509_VERIFY_PARAM_set1_host(terms, name, 0) == 1;
}

int tls_session_new(struct tls_context *context, const struct tls_session_terms *terms,
                    struct tls_session **ret_session, struct error *err)
{
    struct tls_session *session = NEW(struct tls_session);
    session->is_server = terms->is_server;
    session->ssl = tls_context_connection(context);
    SSL_set_app_data(session->ssl, session);
    attach(session);
    int r = take_protocols(session, terms->protocols, err);
    if (r == 0 && terms->server_name != NULL && !expect_name(session->ssl, terms->server_name)) {
        r = error_set(err, ERROR_INVALID, "\"%s\" is not a host's name", terms->server_name);
    }
    if (r < 0) {
        tls_session_free(session);
        return r;
    }
    if (terms->identity != NULL) {
        session->identity = memory_copy_string(terms->identity);
    }
    if (terms->is_server) {
        SSL_set_accept_state(session->ssl);
    } else {
        SSL_set_connect_state(session->ssl);
        SSL_set_alpn_protos(session->ssl, (const unsigned char *)session->protocols,
                            (unsigned)session->protocols_length);
    }
    *ret_session = session;
    return 0;
}

void tls_session_free(struct tls_session *session)
{
    if (session == NULL) {
        return;
    }
    SSL_free(session->ssl);
    tls_chain_unref(session->peer.chain);
    buffer_done(&session->in);
    buffer_done(&session->out);
    free(session->protocols);
    free(session->identity);
    free(session);
}

/* ---- The peer ---- */

/* Its one URI name; "" when it has none, several, or one that is too long or holds a NUL. */
static void read_identity(X509 *certificate, char *ret_identity, size_t size)
{
    GENERAL_NAMES *names = X509_get_ext_d2i(certificate, NID_subject_alt_name, NULL, NULL);
    int found = 0;
    ret_identity[0] = '\0';
    for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) {
        const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, i);
        if (name->type != GEN_URI) {
            continue;
        }
        const unsigned char *text = ASN1_STRING_get0_data(name->d.uniformResourceIdentifier);
        size_t length = (size_t)ASN1_STRING_length(name->d.uniformResourceIdentifier);
        if (found++ == 0 && length < size && memchr(text, '\0', length) == NULL) {
            memcpy(ret_identity, text, length);
            ret_identity[length] = '\0';
        }
    }
    if (found > 1) {
        ret_identity[0] = '\0';
    }
    GENERAL_NAMES_free(names);
}

static uint64_t expiry_ms(X509 *certificate)
{
    struct tm parts = {0};
    if (ASN1_TIME_to_tm(X509_get0_notAfter(certificate), &parts) != 1) {
        return 0;
    }
    time_t seconds = timegm(&parts);
    return seconds > 0 ? (uint64_t)seconds * 1000 : 0;
}

int tls_session_judge(struct tls_session *session, X509 *certificate)
{
    struct tls_peer *peer = &session->peer;
    unsigned char *der = NULL;
    read_identity(certificate, peer->identity, sizeof(peer->identity));
    peer->expires_ms = expiry_ms(certificate);
    int length = i2d_X509(certificate, &der);
    CHECK(length > 0);
    hash_bytes(der, (size_t)length, peer->fingerprint);
    OPENSSL_free(der);
    if (session->identity != NULL && strcmp(session->identity, peer->identity) != 0) {
        return error_set(&session->why, ERROR_DENIED, "the peer is %s, not %s",
                         peer->identity[0] != '\0' ? peer->identity : "nobody by name",
                         session->identity);
    }
    session->has_peer = true;
    return 0;
}

/* ---- Bytes ---- */

/* SSL_get_error() looks at what the thread's queue holds; to empty it is dearer than to look. */
static void forget_errors(void)
{
    if (ERR_peek_error() != 0) {
        ERR_clear_error();
    }
}

/* Why OpenSSL failed: the peer's alert, our own verdict on it, or bytes that are not TLS. */
static int explain(struct tls_session *session, struct error *err)
{
    unsigned long code = ERR_get_error();
    ERR_clear_error();
    if (session->why.kind != ERROR_NONE) {
        *err = session->why;
        return -(int)err->kind;
    }
    const char *reason = code != 0 ? ERR_reason_error_string(code) : NULL;
    reason = reason != NULL ? reason : "no reason given";
    switch (ERR_GET_REASON(code)) {
    case SSL_R_TLSV13_ALERT_CERTIFICATE_REQUIRED:
    case SSL_R_SSLV3_ALERT_BAD_CERTIFICATE:
    case SSL_R_SSLV3_ALERT_CERTIFICATE_EXPIRED:
    case SSL_R_SSLV3_ALERT_CERTIFICATE_REVOKED:
    case SSL_R_SSLV3_ALERT_CERTIFICATE_UNKNOWN:
    case SSL_R_SSLV3_ALERT_UNSUPPORTED_CERTIFICATE:
    case SSL_R_TLSV1_ALERT_UNKNOWN_CA:
    case SSL_R_TLSV1_ALERT_ACCESS_DENIED:
        return error_set(err, ERROR_DENIED, "the peer does not take our certificate: %s", reason);
    case SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE:
        return error_set(err, ERROR_DENIED, "the peer shows no certificate");
    default:
        return error_set(err, ERROR_PROTOCOL, "TLS: %s", reason);
    }
}

int tls_session_shake(struct tls_session *session, struct error *err)
{
    CHECK(!session->is_shaken);
    forget_errors();
    int r = SSL_do_handshake(session->ssl);
    if (r == 1) {
        session->is_shaken = true;
        return 1;
    }
    return SSL_get_error(session->ssl, r) == SSL_ERROR_WANT_READ ? 0 : explain(session, err);
}

int tls_session_read(struct tls_session *session, void *bytes, size_t size, struct error *err)
{
    CHECK(session->is_shaken && size <= INT_MAX);
    if (session->failure.kind != ERROR_NONE) {
        *err = session->failure;
        return -(int)err->kind;
    }
    if (session->taken == session->in.used && SSL_get_shutdown(session->ssl) == 0 &&
        !SSL_has_pending(session->ssl)) {
        return TLS_SESSION_WAITS; /* without asking OpenSSL, for which that is a failure */
    }
    forget_errors();
    int r = SSL_read(session->ssl, bytes, (int)size);
    if (r > 0) {
        return r;
    }
    switch (SSL_get_error(session->ssl, r)) {
    case SSL_ERROR_ZERO_RETURN:
        return TLS_SESSION_ENDED;
    case SSL_ERROR_WANT_READ:
        return TLS_SESSION_WAITS;
    default:
        explain(session, &session->failure);
        *err = session->failure;
        return -(int)err->kind;
    }
}

int tls_session_write(struct tls_session *session, const void *bytes, size_t length,
                      struct error *err)
{
    CHECK(session->is_shaken);
    size_t written = 0;
    buffer_reserve(&session->out, length + (length / SSL3_RT_MAX_PLAIN_LENGTH + 1) * RECORD_SLACK);
    forget_errors();
    if (length == 0 || SSL_write_ex(session->ssl, bytes, length, &written) == 1) {
        CHECK(written == length); /* a BIO that takes everything */
        return 0;
    }
    return explain(session, err);
}

void tls_session_end(struct tls_session *session)
{
    forget_errors();
    SSL_shutdown(session->ssl);
    forget_errors();
}

void tls_session_tidy(struct tls_session *session)
{
    if (session->taken == session->in.used) {
        session->taken = session->in.used = 0;
    }
}
