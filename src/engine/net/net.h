/*
 * Networks of machines, as the kernel has them: bridges, taps, VXLAN.  (Rules of the packet filter:
 * rules.h.  Addresses for those who ask: dhcp.h.  Names: dns.h.)
 *
 * Who is in which network is decided elsewhere; here it is made true.  Everything is idempotent:
 * "ensure" makes a link, or makes an existing one of ours be as described, and deleting what is not
 * there is a success.  A link is its owner's by its alias (ip-link(8)); one of that name with
 * another belongs to somebody else and is never touched: EXISTS.  So several daemons can share a
 * host.
 *
 * IPv4 addresses are in host byte order.  Any thread; a call blocks for some milliseconds
 * (rtnetlink takes one lock for the whole system), so use a thread of the pool.  Each has a socket
 * of its own and works in the network namespace of its thread.
 *
 * Errors of all: DENIED (not root: CAP_NET_ADMIN), UNSUPPORTED (this kernel lacks it), EXISTS
 * (the name is a foreign link's), INVALID, LIMIT, OS.
 *
 * Sources: rtnetlink(7), linux/if_link.h, linux/neighbour.h, linux/if_tun.h; RFC 7348, RFC 5227.
 */
#ifndef ENGINE_NET_NET_H
#define ENGINE_NET_NET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct error;

#define NET_OWNER "blixard" /* the usual owner; of several on one host each needs its own */

enum {
    NET_OWNER_SIZE = 32, /* with the NUL; a-z 0-9 '-' */
    NET_NAME_SIZE = 16,  /* of a link, with the NUL: IFNAMSIZ */
    NET_MAC_SIZE = 6,
    NET_MAC_TEXT_SIZE = 18,
    NET_ADDRESS_TEXT_SIZE = 16,
    NET_MTU_MIN = 576,
    NET_MTU_MAX = 65521, /* a tap's */
    NET_REMOTES_MAX = 1024,
    NET_ENTRIES_MAX = 65536,
};

/* ---- Addresses ---- */

/* Strict dotted decimal; false on anything else. */
bool net_address_parse(const char *text, uint32_t *ret_address);
const char *net_address_format(uint32_t address, char ret_text[NET_ADDRESS_TEXT_SIZE]);

/* "10.1.0.0/16".  False also where bits beyond the prefix are set. */
bool net_subnet_parse(const char *text, uint32_t *ret_address, unsigned *ret_prefix);
uint32_t net_mask(unsigned prefix);

/* Six pairs of hex digits with colons; false also for a group (multicast) address and for zero. */
bool net_mac_parse(const char *text, uint8_t ret_mac[NET_MAC_SIZE]);
const char *net_mac_format(const uint8_t mac[NET_MAC_SIZE], char ret_text[NET_MAC_TEXT_SIZE]);

/* Can it be the name of a link: 1 to 15 of a-z A-Z 0-9 '-' '_' '.', not "." or "..". */
bool net_name_is_valid(const char *name);

/* ---- What works here ---- */

struct net_probe {
    bool can_link; /* links can be made: bridges */
    bool can_tap;  /* /dev/net/tun */
    bool can_vxlan;
    bool can_rules;     /* nftables: tables inet and bridge, address translation */
    bool can_filter;    /* the packet filter sees what a bridge forwards: br_netfilter */
    bool has_vhost;     /* /dev/vhost-net */
    char problem[256];  /* the first thing that is missing, and what to do about it; "" */
    char conflict[160]; /* a table of somebody else's that drops what machines send; "" */
};

/* Tries each in a network namespace of its own, in a thread that ends: nothing of the host changes.
 * Blocks for some tens of milliseconds. */
void net_probe(struct net_probe *ret_probe);

/* ---- Bridges ---- */

struct net_bridge {
    const char *owner;
    const char *name;
    const uint8_t
        *mac;     /* the gateway's, the same on each node, so that machines may move; NULL: any */
    unsigned mtu; /* 0: 1500 */
    uint32_t address; /* the gateway's; 0: none */
    unsigned prefix;
    bool is_filtered; /* what it forwards between its ports goes by rules.h, too */
};

/* Make it, give it the address (taking away others), bring it up. */
int net_bridge_ensure(const struct net_bridge *bridge, struct error *err);

/* Is this range of addresses free here?  CONFLICT names the link that has some of it; those of the
 * owner are left out, as its own list knows better. */
int net_subnet_check(const char *owner, uint32_t address, unsigned prefix, struct error *err);

/* ---- Taps: ports of machines ---- */

struct net_tap {
    const char *owner;
    const char *name;
    const char *bridge;
    unsigned mtu;     /* 0: 1500 */
    uid_t uid;        /* who may open it besides root; 0: nobody */
    bool is_isolated; /* talks to the gateway and to ports that are not isolated, no other */
};

/* Make a persistent tap (without packet information, with virtio-net headers, one queue) and plug
 * it in.  Its link is up at once; it carries nothing until net_tap_open(). */
int net_tap_ensure(const struct net_tap *tap, struct error *err);

/* Open an existing one, for a VMM: the caller's, non-blocking.  NOT_FOUND; CONFLICT: it is open
 * elsewhere, in a machine that still runs. */
int net_tap_open(const char *name, int *ret_fd, struct error *err);

/*
 * For a program that opens its tap itself, by `name`: an existing tap gets that name besides its
 * own (IFLA_ALT_IFNAME), and `uid` may open it.  Whether it has several queues is said when a tap
 * is made: one that is not so is made anew at its place.  CONFLICT: another link has that name, or
 * it is open; NOT_FOUND.  net_tap_take_back(): it has it no more.
 */
int net_tap_lend(const char *tap, const char *name, uid_t uid, bool has_queues, struct error *err);
void net_tap_take_back(const char *tap, const char *name);

/* One that is in no bridge and goes when it is closed: for a VMM that only looks at a state. */
int net_tap_open_spare(int *ret_fd, struct error *err);

/* ---- Macvtaps: a machine on a link of the host ---- */

struct net_macvtap {
    const char *owner; /* of this one alone: what it has left is made anew */
    const char *name;
    const char *link; /* the host's, that it is on */
    const char *mode; /* "private", "vepa", "bridge", "passthru" */
    uint8_t mac[NET_MAC_SIZE];
    unsigned queues;
};

bool net_macvtap_mode_is_valid(const char *word);

/* Make it, and say which link and which character device it is; net_link_delete() ends it.
 * NOT_FOUND: there is no such link; CONFLICT: the link takes none. */
int net_macvtap_make(const struct net_macvtap *macvtap, unsigned *ret_index, dev_t *ret_device,
                     struct error *err);

/* ---- VXLAN: a network over several nodes ---- */

struct net_vxlan_entry {
    uint8_t mac[NET_MAC_SIZE]; /* of a machine */
    uint32_t remote;           /* the node it is on */
};

struct net_vxlan {
    const char *owner;
    const char *name;
    const char *bridge;
    uint32_t vni;            /* 24 bits */
    uint16_t port;           /* 0: 4789 */
    uint32_t local;          /* this node's address: what the others have as remote */
    unsigned mtu;            /* 0: the bridge's.  Underneath, 50 bytes more are needed. */
    const uint32_t *remotes; /* the other nodes: what is for nobody known goes to each */
    size_t remote_count;
    const struct net_vxlan_entry *entries; /* machines elsewhere */
    size_t entry_count;
};

/* Make it, plug it in, and make its table be exactly `remotes` and `entries`.  Addresses are also
 * learned from what arrives.  Cheap when little changed: call it whenever a node comes or goes.
 * Not encrypted: the underlay must be trusted. */
int net_vxlan_ensure(const struct net_vxlan *vxlan, struct error *err);

/* ---- All of them ---- */

/* Delete one of the owner's (a tap's machine loses its carrier).  EXISTS: it is not its. */
int net_link_delete(const char *owner, const char *name, struct error *err);

enum net_kind { NET_BRIDGE, NET_TAP, NET_VXLAN };

struct net_link {
    char name[NET_NAME_SIZE];
    enum net_kind kind;
    char bridge[NET_NAME_SIZE]; /* that it is plugged into; "" */
    bool is_up;                 /* of a tap: a VMM has it open */
    uint64_t receive_bytes;     /* as the link sees it: what a machine sent */
    uint64_t receive_packets;
    uint64_t receive_dropped;
    uint64_t send_bytes;
    uint64_t send_packets;
    uint64_t send_dropped;
};

/* All of the owner's, by name: for counting, and for deleting what is not wanted any more.  The
 * caller ends *ret_links with free(). */
int net_links(const char *owner, struct net_link **ret_links, size_t *ret_count, struct error *err);

/* Let this host forward IPv4 between its links (net.ipv4.ip_forward), and a bridge reach
 * 127.0.0.1 for ports published there.  Needed once per bridge that is not closed. */
int net_forwarding_ensure(const char *bridge, struct error *err);

/* Tell a network where an address is now (gratuitous ARP, RFC 5227): for a machine that has
 * moved here; `mac` and `address` are the machine's.  Packets get lost: say it some times. */
int net_announce(const char *bridge, const uint8_t mac[NET_MAC_SIZE], uint32_t address,
                 struct error *err);

#endif
