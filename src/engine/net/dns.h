/*
 * Names for the machines of one bridge: their own are answered, all others passed to the host's
 * resolvers.
 *
 * Over UDP, and over TCP where port 53 of the bridge's address is free.  What is under the domain,
 * and the reverse of an address that the table knows, is answered from the table and never passed
 * on; names are asked for in lower case and without the domain: "web.blue" for
 * web.blue.vm.internal.  What is passed on is passed as it is, each query from a port and with an
 * identifier of its own, and only an answer to that question comes back. At most
 * NET_DNS_WAITING_MAX wait at a time; then SERVFAIL.
 *
 * Loop thread only.  Sources: RFC 1034, RFC 1035, RFC 2308, RFC 5452, RFC 6891, resolv.conf(5).
 */
#ifndef ENGINE_NET_DNS_H
#define ENGINE_NET_DNS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct error;
struct loop;
struct net_dns;

enum { NET_DNS_NAME_SIZE = 256, NET_DNS_ADDRESSES_MAX = 16, NET_DNS_WAITING_MAX = 256 };
enum { NET_DNS_RESOLVERS_MAX = 3, NET_DNS_RESOLVERS_SIZE = NET_DNS_RESOLVERS_MAX * 46 };

#define NET_DNS_DOMAIN "vm.internal"

struct net_dns_options {
    const char *bridge;
    uint32_t address;        /* the bridge's, where it is asked */
    const char *domain;      /* NULL: NET_DNS_DOMAIN */
    const char *resolv_conf; /* NULL: /etc/resolv.conf; read anew when it has changed */
    const char *resolvers;   /* NULL: of that file; else addresses with blanks between: instead */
    bool is_closed;          /* nothing is passed on */
    uint16_t upstream_port;  /* 0: 53 */
    /* The addresses of a name, at most NET_DNS_ADDRESSES_MAX; 0: there is no such name. */
    size_t (*find)(const char *name, uint32_t *ret_addresses, void *context);
    /* The name of an address, with the domain; false: not known here. */
    bool (*find_name)(uint32_t address, char ret_name[NET_DNS_NAME_SIZE], void *context);
    void *context;
};

/* Answer on this bridge, which has the address.  DENIED; UNAVAILABLE: somebody else does so. */
int net_dns_open(struct loop *loop, const struct net_dns_options *options, struct net_dns **ret_dns,
                 struct error *err);
void net_dns_close(struct net_dns *dns); /* accepts NULL */

#endif
