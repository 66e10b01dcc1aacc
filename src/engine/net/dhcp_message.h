/* Inside engine/net: a DHCP message and what is answered to it, without any socket. */
#ifndef ENGINE_NET_DHCP_MESSAGE_H
#define ENGINE_NET_DHCP_MESSAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/net/dhcp.h"

enum { DHCP_MESSAGE_MAX = 1500, DHCP_CLIENT_PORT = 68, DHCP_SERVER_PORT = 67 };

struct dhcp_answer {
    uint8_t bytes[DHCP_MESSAGE_MAX];
    size_t length;
    uint32_t to;      /* UINT32_MAX: to all, as whom it is for has no address yet */
    bool needs_entry; /* `to` is the machine's, which cannot answer ARP yet */
    uint8_t mac[NET_MAC_SIZE];
};

/* False: there is nothing to say (not DHCP, not for us, not known). */
bool dhcp_answer(const struct net_dhcp_options *options, const uint8_t *request, size_t length,
                 struct dhcp_answer *ret_answer);

#endif
