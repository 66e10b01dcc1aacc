/*
 * TLS contexts: what we show, whom we believe.  TLS 1.3; a server for everybody takes 1.2 as well.
 *
 * A context is counted and may be shared between loops and threads.  tls_context_update() gives new
 * handshakes another certificate without a restart; connections that stand go on.  OpenSSL 3; no
 * session tickets, no renegotiation, no early data.
 *
 * A certificate is believed when the one authority given signed it, it has not expired and its
 * extended key usage says what it is used for: serverAuth for who is dialled, clientAuth for who
 * dials.  There are no revocation lists: whoever accepts a stream looks up the peer's identity.
 *
 * A server for everybody (TLS_VERIFY_LATER) does not know at the handshake whom to believe: what is
 * asked for says it.  It keeps the chain that was shown, and whoever knows judges it then.
 */
#ifndef BASE_STREAM_TLS_H
#define BASE_STREAM_TLS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct error;
struct tls_authority;
struct tls_chain;
struct tls_context;

enum tls_verify {
    TLS_VERIFY_REQUIRED, /* the peer shows a certificate that the CA signed */
    TLS_VERIFY_OPTIONAL, /* servers only: a peer without one is let in, and has no tls_peer */
    TLS_VERIFY_PIN,      /* clients only: the chain's root has the fingerprint `pin` (joining) */
    TLS_VERIFY_LATER,    /* servers only: with any certificate or none; see tls_authority_judge() */
};

/* Texts in PEM, copied. */
struct tls_context_options {
    const char *certificate; /* ours, and those that lead to its authority; or NULL (a client that
                              * has none) */
    const char *key;
    const char *authority; /* the CA, shown behind ours to peers that PIN it; further ones are
                            * believed, too; NULL with PIN and LATER */
    enum tls_verify verify;
    const char *pin; /* SHA-256 of the CA's DER, 64 hex digits */
    /* LATER: is a client that wants to speak to `name` (SNI; "": it did not say) asked for a
     * certificate?  On the thread of the connection's loop.  NULL: nobody is. */
    bool (*asks)(const char *name, void *context);
    void *context;
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
    struct tls_chain *chain; /* LATER: what it showed, believed by nobody yet; else NULL.  Lent */
};

/* ---- Judging later ---- */

enum { TLS_SUBJECT_SIZE = 512, TLS_AUTHORITIES_MAX = 64 };

/* Counted; any thread.  Both accept NULL. */
struct tls_chain *tls_chain_ref(struct tls_chain *chain);
void tls_chain_unref(struct tls_chain *chain);

/* Whom a chain must lead to: certificates in PEM, each of which is believed (so that an authority
 * below a root does, too).  INVALID: none, more than TLS_AUTHORITIES_MAX, one that cannot be read,
 * or a private key among them. */
int tls_authority_new(const char *certificates, struct tls_authority **ret_authority,
                      struct error *err);
void tls_authority_free(struct tls_authority *authority); /* accepts NULL */

/*
 * Any thread: does the chain lead to `authority`, now, as one of a client?  Then its subject
 * (RFC 4514, in ASCII) is in `ret_subject`.  DENIED with why not: also when its subject is empty or
 * does not fit.
 */
int tls_authority_judge(const struct tls_authority *authority, const struct tls_chain *chain,
                        char ret_subject[TLS_SUBJECT_SIZE], struct error *err);

#endif
