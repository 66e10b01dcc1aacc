/*
 * URLs of requests: read once, strictly, and what is sent is made of what was understood.  Pure.
 *
 * Readers of URLs that differ are how one is asked for and another is reached.  So a host is a name
 * of letters, digits, '-' and '_', four decimal numbers, or IPv6 in brackets; nothing has a user, a
 * backslash, a blank or a control character; a name that another reader could take for a number
 * ("127.1", "0x7f000001", "2130706433") is none.
 */
#ifndef SERVICE_FETCH_URL_H
#define SERVICE_FETCH_URL_H

#include <stdbool.h>
#include <stdint.h>

#include "service/fetch/address.h"

struct buffer;
struct error;

enum { FETCH_URL_MAX = 8192 };

struct fetch_url {
    bool is_https;
    bool is_address; /* the host is `address` */
    uint16_t port;
    char host[254]; /* lower case; an address without brackets */
    struct fetch_address address;
    char *target; /* path and query, owned */
};

/* `from` NULL: an absolute URL; else a reference (RFC 3986, 5), as in Location.  A fragment is left
 * out.  INVALID.  End it with fetch_url_done(). */
int fetch_url_parse(struct text text, const struct fetch_url *from, struct fetch_url *ret_url,
                    struct error *err);
void fetch_url_done(struct fetch_url *url);

/* "https://host/path?query"; the port where it is not the scheme's. */
void fetch_url_write(const struct fetch_url *url, struct buffer *out);
/* "host", "[::1]", with ":port" where it is not the scheme's. */
void fetch_url_write_authority(const struct fetch_url *url, struct buffer *out);

bool fetch_url_is_same_origin(const struct fetch_url *a, const struct fetch_url *b);

/* A DNS name, in lower case and without a dot at its end in ret_name. */
bool fetch_host_is_name(struct text text, char ret_name[254]);

#endif
