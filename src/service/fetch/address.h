/* Addresses and networks, and which of them are not the public internet.  Pure. */
#ifndef SERVICE_FETCH_ADDRESS_H
#define SERVICE_FETCH_ADDRESS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/text.h"

struct sockaddr;

enum { FETCH_ADDRESS_TEXT_SIZE = 46 };

/* IPv4 is kept as IPv6 maps it (::ffff:a.b.c.d), so that one address has one form. */
struct fetch_address {
    uint8_t bytes[16];
};

struct fetch_network {
    struct fetch_address address;
    unsigned bits; /* of the 128 */
};

/* "192.0.2.1" (four decimal numbers, nothing else) or "2001:db8::1", without brackets or zones. */
bool fetch_address_parse(struct text text, struct fetch_address *ret_address);

/* "10.0.0.0/8", "fc00::/7", or one address.  False also when bits behind the prefix are set, and
 * for IPv6 networks that hold mapped IPv4: those are written as IPv4. */
bool fetch_network_parse(struct text text, struct fetch_network *ret_network);

/* False: neither IPv4 nor IPv6. */
bool fetch_address_of(const struct sockaddr *address, struct fetch_address *ret_address,
                      uint16_t *ret_port);

bool fetch_address_is_v4(const struct fetch_address *address);
bool fetch_network_has(const struct fetch_network *network, const struct fetch_address *address);
void fetch_address_write(const struct fetch_address *address,
                         char ret_text[FETCH_ADDRESS_TEXT_SIZE]);

/*
 * What an address is when it is not globally reachable ("loopback", "private", "link-local", ...);
 * NULL: it is (IANA's special-purpose registries, RFC 6890).  What NAT64 (64:ff9b::/96) wraps is
 * judged by the IPv4 inside.
 */
const char *fetch_address_special(const struct fetch_address *address);

#endif
