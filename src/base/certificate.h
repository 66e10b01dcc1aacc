/*
 * X.509 certificates with ECDSA P-256 keys: an own authority, requests, what it signs.
 *
 * Texts are PEM (RFC 7468), appended to the caller's buffers.  Any thread.  OpenSSL 3.
 */
#ifndef BASE_CERTIFICATE_H
#define BASE_CERTIFICATE_H

#include <stdbool.h>
#include <stdint.h>

struct buffer;
struct error;

/* A self-signed authority: CA:TRUE, pathlen 0, keyCertSign and cRLSign, the URI name given. */
int certificate_make_authority(const char *common_name, const char *uri, uint64_t days,
                               struct buffer *ret_certificate, struct buffer *ret_key,
                               struct error *err);

/* A new key, and a request to have it certified (PKCS #10).  What names it gets the signer says. */
int certificate_make_request(struct buffer *ret_request, struct buffer *ret_key, struct error *err);

struct certificate_terms {
    const char *common_name;  /* 1 to 64 bytes */
    const char *uri;          /* SPIFFE id; one URI name */
    const char *const *names; /* DNS names and IP addresses, NULL-terminated; may be NULL */
    uint64_t now_ms;
    uint64_t lifetime_ms;
    bool is_server; /* serverAuth beside clientAuth */
};

/*
 * Sign what a request asks for.  The request's own signature is checked; of it only the key is
 * used.  Valid from an hour before now (clocks differ), and no longer than the authority.  INVALID:
 * not a request, a key that is not P-256 or Ed25519, an authority that is none or has expired.
 */
int certificate_sign(const char *request, const char *authority, const char *authority_key,
                     const struct certificate_terms *terms, struct buffer *ret_certificate,
                     struct error *err);

struct certificate_info {
    char common_name[256];
    char uri[256];
    char fingerprint[65]; /* SHA-256 of the DER, hex */
    uint64_t not_before_ms;
    uint64_t not_after_ms;
    bool is_authority;
};
/* The first certificate of a text.  INVALID: none, more than one URI, a name that does not fit. */
int certificate_read(const char *certificate, struct certificate_info *ret_info, struct error *err);

#endif
