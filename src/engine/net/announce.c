/* Telling a network where an address is now: see net.h (RFC 826, RFC 5227 3). */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <netinet/if_ether.h>
#include <string.h>
#include <sys/socket.h>

#include "base/error.h"
#include "base/fd.h"

#include "engine/net/net.h"

struct frame {
    struct ethhdr head;
    struct ether_arp arp;
} __attribute__((packed));

/* Both the sender's and the target's address are the one that is announced. */
static struct frame make_frame(uint16_t operation, const uint8_t mac[NET_MAC_SIZE],
                               uint32_t address)
{
    struct frame frame = {.head.h_proto = htons(ETH_P_ARP)};
    const uint32_t order = htonl(address);
    memset(frame.head.h_dest, 0xff, NET_MAC_SIZE);
    memcpy(frame.head.h_source, mac, NET_MAC_SIZE);
    frame.arp.ea_hdr = (struct arphdr){.ar_hrd = htons(ARPHRD_ETHER),
                                       .ar_pro = htons(ETH_P_IP),
                                       .ar_hln = NET_MAC_SIZE,
                                       .ar_pln = 4,
                                       .ar_op = htons(operation)};
    memcpy(frame.arp.arp_sha, mac, NET_MAC_SIZE);
    memcpy(frame.arp.arp_spa, &order, sizeof(order));
    memcpy(frame.arp.arp_tpa, &order, sizeof(order));
    return frame;
}

/* As a request and as a reply: there are systems that look at one of the two alone. */
int net_announce(const char *bridge, const uint8_t mac[NET_MAC_SIZE], uint32_t address,
                 struct error *err)
{
    unsigned index = if_nametoindex(bridge);
    if (index == 0) {
        return error_set(err, ERROR_NOT_FOUND, "there is no bridge %s", bridge);
    }
    const struct sockaddr_ll to = {.sll_family = AF_PACKET,
                                   .sll_protocol = htons(ETH_P_ARP),
                                   .sll_ifindex = (int)index,
                                   .sll_halen = NET_MAC_SIZE,
                                   .sll_addr = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff}};
    FD_OWNED int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return error_os(err, errno, "announcing an address needs root (CAP_NET_RAW)");
    }
    const uint16_t operations[] = {ARPOP_REQUEST, ARPOP_REPLY};
    for (size_t i = 0; i < 2; i++) {
        const struct frame frame = make_frame(operations[i], mac, address);
        if (sendto(fd, &frame, sizeof(frame), 0, (const struct sockaddr *)&to, sizeof(to)) < 0) {
            return error_os(err, errno, "announcing an address on %s", bridge);
        }
    }
    return 0;
}
