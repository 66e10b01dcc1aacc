/*
 * DHCPv4 for one bridge: each machine is told the address that is its own anyway.
 *
 * There is no pool and no state: whose MAC has which address is somebody else's table, which is
 * asked for every request.  So a lease is never refused for being old, the daemon may be away for
 * half a lease, and of two nodes that have the same network both answer the same.  Who is not in
 * the table gets no answer.
 *
 * Loop thread only.  Sources: RFC 2131, RFC 2132, RFC 3442, RFC 4361 (whose client identifiers are
 * not looked at: a MAC cannot be feigned here, see rules.h).
 */
#ifndef ENGINE_NET_DHCP_H
#define ENGINE_NET_DHCP_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/net/net.h"

struct error;
struct loop;
struct net_dhcp;

enum { NET_HOSTNAME_SIZE = 64, NET_DOMAIN_SIZE = 128, NET_LEASE_S = 24 * 3600 };

struct net_lease { /* addresses in host byte order */
    uint32_t address;
    unsigned prefix;
    uint32_t router;                  /* 0: none, the network is closed */
    uint32_t dns;                     /* 0: none */
    unsigned mtu;                     /* 0: not said */
    uint32_t lease_s;                 /* 0: NET_LEASE_S */
    char hostname[NET_HOSTNAME_SIZE]; /* "": not said */
    char domain[NET_DOMAIN_SIZE];
};

struct net_dhcp_options {
    const char *bridge;
    uint32_t address; /* the bridge's */
    /* Whose is it?  false: nobody's here. */
    bool (*find)(const uint8_t mac[NET_MAC_SIZE], struct net_lease *ret_lease, void *context);
    void *context;
};

/* Answer on this bridge, which exists.  DENIED; UNAVAILABLE: somebody else does so already. */
int net_dhcp_open(struct loop *loop, const struct net_dhcp_options *options,
                  struct net_dhcp **ret_dhcp, struct error *err);
void net_dhcp_close(struct net_dhcp *dhcp); /* accepts NULL */

#endif
