/* Inside engine/net: one rtnetlink request and its answer (rtnetlink(7)). */
#ifndef ENGINE_NET_NETLINK_H
#define ENGINE_NET_NETLINK_H

#include <netlink/attr.h>
#include <netlink/msg.h>
#include <netlink/netlink.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/net/net.h"

/* A connection.  End it with netlink_close(); NETLINK_OWNED does. */
struct netlink {
    struct nl_sock *socket;
    int number; /* errno of the last request, as the kernel said it */
};

int netlink_open(struct netlink *netlink, struct error *err);
void netlink_close(struct netlink *netlink);
#define NETLINK_OWNED __attribute__((cleanup(netlink_close)))

/* A message with a family's header behind the usual one; never NULL.  netlink_send() frees it. */
struct nl_msg *netlink_message(int type, int flags, const void *head, size_t head_size);

/* Send it and wait for the acknowledgement.  0, or the kernel's errno, negative. */
int netlink_send(struct netlink *netlink, struct nl_msg *owned_message);

/* Send it and hand each message of the answer to `visit`.  0, or negative errno. */
int netlink_ask(struct netlink *netlink, struct nl_msg *owned_message,
                void (*visit)(struct nlmsghdr *message, void *context), void *context);

/* What the kernel's errno means to who wanted `what` done. */
int netlink_error(int number, struct error *err, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* ---- Links ---- */

struct link_seen {
    unsigned index; /* 0: there is none */
    unsigned master;
    unsigned mtu;
    unsigned flags; /* IFF_* */
    char name[NET_NAME_SIZE];
    char kind[16]; /* "bridge", "tun", "vxlan"; "" */
    char alias[256];
    unsigned group;
    uint8_t mac[NET_MAC_SIZE];
    uint32_t vni; /* of a vxlan */
    uint32_t local;
    uint16_t port;
    uint64_t counters[6]; /* received and sent: bytes, packets, dropped */
};

void netlink_parse_link(struct nlmsghdr *message, struct link_seen *ret_seen);

/* A link is marked when it is made: an alias can only be given to one that is there, and whoever
 * made it may die in between. */
enum { LINK_GROUP = 0xb11a };

/* Is it this owner's? */
bool netlink_is_own(const struct link_seen *seen, const char *owner);

/* Begin a request to make (NLM_F_CREATE) or to change a link. */
struct nl_msg *netlink_begin(int flags, const char *name);

/* By name; index 0 where there is none. */
int netlink_find(struct netlink *netlink, const char *name, struct link_seen *ret_seen,
                 struct error *err);

/* The same, of this kind and this owner's, or none: EXISTS. */
int netlink_find_own(struct netlink *netlink, const char *owner, const char *name, const char *kind,
                     struct link_seen *ret_seen, struct error *err);

/* Say whose it is, what it is plugged into (0: nothing), its MTU, its address (NULL: any), and
 * bring it up. */
struct link_wanted {
    const char *owner;
    unsigned master;
    unsigned mtu;
    const uint8_t *mac;
};
int netlink_settle(struct netlink *netlink, unsigned index, const struct link_wanted *wanted,
                   struct error *err);

/* Find the bridge that a port is for; NOT_FOUND. */
int netlink_find_bridge(struct netlink *netlink, const char *owner, const char *name,
                        struct link_seen *ret_seen, struct error *err);

/* Write a file of /proc/sys/net; it may be missing. */
int net_sysctl_write(const char *value, struct error *err, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Of a port of a bridge. */
int netlink_set_port(struct netlink *netlink, unsigned index, bool is_isolated, struct error *err);

#endif
