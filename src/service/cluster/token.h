/*
 * Tokens: what a person pastes to let a node join the cluster or a client log in.
 *
 * Text: "blx1." and, in base64url without padding (RFC 4648, 5), compact JSON:
 *   c  id of the cluster            f  SHA-256 of its authority's certificate
 *   a  addresses, HOST:PORT         s  secret
 *   t  id of the join token, or     n  name of the client that may log in, or
 *                                   b  name of the client whose bearer token it is
 * Who has the text may use it; the state holds the digest of the secret only.  Any thread.
 */
#ifndef SERVICE_CLUSTER_TOKEN_H
#define SERVICE_CLUSTER_TOKEN_H

#include <stdbool.h>
#include <stddef.h>

struct buffer;
struct error;

#define CLUSTER_TOKEN_PREFIX "blx1."

enum {
    CLUSTER_TOKEN_TEXT_MAX = 4096,
    CLUSTER_TOKEN_ADDRESSES_MAX = 8,
    CLUSTER_TOKEN_ADDRESS_SIZE = 128,
    CLUSTER_TOKEN_ID_SIZE = 13,     /* 12 hex digits */
    CLUSTER_TOKEN_SECRET_SIZE = 41, /* 40 hex digits: 160 bits */
};

struct cluster_token {
    char cluster[33];
    char fingerprint[65];
    char addresses[CLUSTER_TOKEN_ADDRESSES_MAX][CLUSTER_TOKEN_ADDRESS_SIZE];
    size_t address_count;           /* at least 1 */
    char id[CLUSTER_TOKEN_ID_SIZE]; /* of a join token, else "" */
    char client[64];                /* of a login or bearer token, else "" */
    bool is_bearer;                 /* shown with each request, not to log in with */
    char secret[CLUSTER_TOKEN_SECRET_SIZE];
};

void cluster_token_make_id(char ret_id[CLUSTER_TOKEN_ID_SIZE]);
void cluster_token_make_secret(char ret_secret[CLUSTER_TOKEN_SECRET_SIZE]);

/* What the state keeps: SHA-256 of a secret, 64 hex digits. */
void cluster_token_digest(const char *secret, char ret_digest[65]);

/* Whether `secret` (any text) is the one of a digest; takes as long whether it is or not. */
bool cluster_token_is_secret(const char *secret, const char *digest);

/* Appended.  The token is one that cluster_token_read() takes. */
void cluster_token_write(const struct cluster_token *token, struct buffer *ret_text);

/* Strict; blanks and newlines around it are those of a paste.  INVALID does not repeat the text. */
int cluster_token_read(const char *text, struct cluster_token *ret_token, struct error *err);

/* Is it HOST:PORT, as addresses of nodes are written? */
bool cluster_token_is_address(const char *text);

#endif
