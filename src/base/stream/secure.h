/*
 * What a listener shows over TLS: a certificate and its key, from files that may change.
 *
 * Files are looked at every two seconds; when one has changed, both are read, and connections that
 * begin afterwards see the new certificate.  What cannot be used (a certificate whose key is still
 * the old one) changes nothing, and is said in the log.  The thread of the loop.
 */
#ifndef BASE_STREAM_SECURE_H
#define BASE_STREAM_SECURE_H

#include <stdbool.h>

struct error;
struct loop;
struct secure;
struct tls_context;

struct secure_options {
    const char *certificate_file; /* PEM: the certificate, then those that lead to its authority */
    const char *key_file;         /* PEM, without a passphrase */
    const char *who;              /* whose they are, in the log */
    /* As in struct tls_context_options. */
    bool (*asks)(const char *name, void *context);
    void *context;
};

/* Texts are copied.  Fails with what file_read() and tls_context_new() say, and the file's name. */
int secure_new(struct loop *loop, const struct secure_options *options, struct secure **ret_secure,
               struct error *err);
void secure_free(struct secure *secure); /* accepts NULL */

/* Lent: whoever keeps it takes a reference. */
struct tls_context *secure_context(const struct secure *secure);

/* Read the files now, whether they seem to have changed or not. */
void secure_reload(struct secure *secure);

#endif
