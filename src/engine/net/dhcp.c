/* The DHCP server of a bridge: see dhcp.h. */
#include <arpa/inet.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "base/error.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "engine/net/datagram.h"
#include "engine/net/dhcp_message.h"

enum { PER_TURN_MAX = 32 }; /* then others have their turn */

struct net_dhcp {
    struct net_dhcp_options options;
    char bridge[NET_NAME_SIZE];
    struct datagram_watch *watch;
};

/* The kernel would ask the machine where its address is, which it does not know itself yet; what is
 * told to the kernel is what the table says, not the request. */
static bool tell_kernel(const struct net_dhcp *dhcp, int fd, const struct dhcp_answer *answer)
{
    struct arpreq entry = {.arp_flags = ATF_COM};
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(answer->to)};
    memcpy(&entry.arp_pa, &address, sizeof(address));
    entry.arp_ha.sa_family = ARPHRD_ETHER;
    memcpy(entry.arp_ha.sa_data, answer->mac, NET_MAC_SIZE);
    snprintf(entry.arp_dev, sizeof(entry.arp_dev), "%s", dhcp->bridge);
    return ioctl(fd, SIOCSARP, &entry) == 0;
}

/* One that cannot be sent is as one that got lost: it will ask again. */
static void send_answer(const struct net_dhcp *dhcp, int fd, struct dhcp_answer *answer)
{
    if (answer->needs_entry && !tell_kernel(dhcp, fd, answer)) {
        answer->to = UINT32_MAX;
    }
    const struct sockaddr_in to = {.sin_family = AF_INET,
                                   .sin_port = htons(DHCP_CLIENT_PORT),
                                   .sin_addr.s_addr = htonl(answer->to)};
    ssize_t sent = sendto(fd, answer->bytes, answer->length, MSG_DONTWAIT,
                          (const struct sockaddr *)&to, sizeof(to));
    (void)sent;
}

static void on_readable(int fd, void *context)
{
    const struct net_dhcp *dhcp = context;
    uint8_t request[DHCP_MESSAGE_MAX];
    struct dhcp_answer answer;
    for (int i = 0; i < PER_TURN_MAX; i++) {
        ssize_t got = recv(fd, request, sizeof(request), MSG_DONTWAIT);
        if (got < 0) {
            return;
        }
        if (dhcp_answer(&dhcp->options, request, (size_t)got, &answer)) {
            send_answer(dhcp, fd, &answer);
        }
    }
}

int net_dhcp_open(struct loop *loop, const struct net_dhcp_options *options,
                  struct net_dhcp **ret_dhcp, struct error *err)
{
    int fd = -1;
    int r = datagram_bind(options->bridge, 0, DHCP_SERVER_PORT, &fd, err);
    if (r < 0) {
        return error_wrap(err, "answering DHCP");
    }
    /* The kernel leaves the checksum to the device, and a virtual one to nobody; clients that read
     * the frame itself then see a wrong one.  None at all (zero) is right everywhere. */
    const int yes = 1;
    int ignored = setsockopt(fd, SOL_SOCKET, SO_NO_CHECK, &yes, sizeof(yes));
    (void)ignored;
    struct net_dhcp *dhcp = NEW(struct net_dhcp);
    dhcp->options = *options;
    snprintf(dhcp->bridge, sizeof(dhcp->bridge), "%s", options->bridge);
    dhcp->options.bridge = dhcp->bridge;
    dhcp->watch = datagram_watch(loop, fd, on_readable, dhcp);
    *ret_dhcp = dhcp;
    return 0;
}

void net_dhcp_close(struct net_dhcp *dhcp)
{
    if (dhcp != NULL) {
        datagram_unwatch(dhcp->watch);
        free(dhcp);
    }
}
