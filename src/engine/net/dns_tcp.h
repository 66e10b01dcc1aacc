/* Inside engine/net: DNS over TCP (RFC 7766), for answers that are too large for a datagram. */
#ifndef ENGINE_NET_DNS_TCP_H
#define ENGINE_NET_DNS_TCP_H

#include <stdbool.h>

#include "engine/net/dns.h"

struct dns_tcp;

/* `resolver` gives the n-th address to pass on to, as "HOST:PORT"; false: there is none (any more).
 */
int dns_tcp_open(struct loop *loop, const struct net_dns_options *options,
                 bool (*resolver)(unsigned n, char ret_address[64], void *context), void *context,
                 struct dns_tcp **ret_tcp, struct error *err);
void dns_tcp_close(struct dns_tcp *tcp); /* accepts NULL */

#endif
