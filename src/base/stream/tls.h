/*
 * TLS 1.3 contexts: what we show, whom we believe.
 *
 * A context is counted and may be shared between loops and threads.  tls_context_update() gives new
 * handshakes another certificate without a restart; connections that stand go on.  OpenSSL 3; no
 * session tickets, no renegotiation, no early data.
 *
 * A certificate is believed when the one authority given signed it, it has not expired and its
 * extended key usage says what it is used for: serverAuth for who is dialled, clientAuth for who
 * dials.  There are no revocation lists: whoever accepts a stream looks up the peer's identity.
 */
#ifndef BASE_STREAM_TLS_H
#define BASE_STREAM_TLS_H

#include <stdbool.h>
#include <stdint.h>

struct error;
struct tls_context;

enum tls_verify {
    TLS_VERIFY_REQUIRED, /* the peer shows a certificate that the CA signed */
    TLS_VERIFY_OPTIONAL, /* servers only: a peer without one is let in, and has no tls_peer */
    TLS_VERIFY_PIN,      /* clients only: the chain's root has the fingerprint `pin` (joining) */
};

/* Texts in PEM, copied. */
struct tls_context_options {
    const char *certificate; /* ours, or NULL (a client that has none) */
    const char *key;
    const char *authority; /* the CA, shown behind ours to peers that PIN it; further ones are
                            * believed, too; NULL with PIN */
    enum tls_verify verify;
    const char *pin; /* SHA-256 of the CA's DER, 64 hex digits */
};

/* INVALID: not PEM, a key that is not the certificate's, a pin that is no fingerprint. */
int tls_context_new(const struct tls_context_options *options, struct tls_context **ret_context,
                    struct error *err);
int tls_context_update(struct tls_context *context, const struct tls_context_options *options,
                       struct error *err);
struct tls_context *tls_context_ref(struct tls_context *context);
void tls_context_unref(struct tls_context *context);

/* Who the other side is. */
struct tls_peer {
    char identity[256];   /* its one URI name: "spiffe://CLUSTER/node/ID", "" if none or several */
    char fingerprint[65]; /* SHA-256 of its certificate's DER */
    uint64_t expires_ms;  /* Unix time */
};

#endif
