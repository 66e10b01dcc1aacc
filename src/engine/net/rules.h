/*
 * The packet filter of machines' networks: one description, made true in one transaction.
 *
 * What is allowed follows from the description alone, so it is always given whole: at the start of
 * the daemon, and whenever something changes.  There is one table of family `inet` and one of
 * family `bridge`, named like the owner with '_' for '-'; they are ours alone, and nobody else's
 * rules are touched.
 *
 *   - A machine sends from its own MAC and IPv4 address and nothing else; no IPv6; it is no DHCP
 *     server.  (Family bridge, at its tap.)
 *   - Machines of one network reach each other; of two networks only where both are in one zone.
 *   - A network reaches the world by translation (NAT) or by routes of its own, or not at all.
 *   - Of this host a machine reaches DHCP, DNS, ping, and the ports that are named.
 *   - A published port leads from the host's addresses (also 127.0.0.1, and also for machines, by
 *     way of the host) to a machine, past zones; the machine's own rules still hold.
 *   - A port with rules takes (gives) only what one of them allows, and what answers that.  What
 *     the host itself sends is always taken.
 *
 * When a rule is taken back, what it let in ends: nothing of who began it comes through any more.
 * With a published port so does what came by it, and who began a TCP connection is told by a reset.
 * Whoever translates to machines by rules of his own finds them closed: in by published ports only.
 *
 * Addresses are in host byte order; networks of one host do not overlap.
 * Sources: nft(8), RFC 5735, linux/Documentation/networking/bridge.rst.
 */
#ifndef ENGINE_NET_RULES_H
#define ENGINE_NET_RULES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/net/net.h"

struct buffer;
struct error;

enum {
    NET_SEGMENTS_MAX = 1024,
    NET_PORTS_MAX = 8192,
    NET_PORT_RULES_MAX = 256,
    NET_GROUPS_MAX = 1024,
    NET_PUBLISHED_MAX = 8192,
    NET_HOST_PORTS_MAX = 64,
};

enum net_mode {
    NET_TRANSLATED, /* out by the host's address; in by published ports only */
    NET_ROUTED,     /* out and in by its own addresses: others have a route to this host */
    NET_CLOSED,     /* neither; published ports are reachable still */
};

struct net_segment { /* a network, as it is on this host */
    const char *bridge;
    const char *vxlan;  /* NULL: it is on this host alone */
    const uint8_t *mac; /* the gateway's; needed with a vxlan */
    uint32_t address;   /* the gateway's */
    unsigned prefix;
    enum net_mode mode;
    unsigned zone; /* equal ones, but 0, reach each other */
};

enum net_protocol { NET_ANY, NET_TCP, NET_UDP, NET_ICMP };

struct net_rule { /* what is allowed */
    enum net_protocol protocol;
    uint16_t port_first; /* at the receiver; 0: any.  Of TCP and UDP. */
    uint16_t port_last;  /* 0: port_first alone */
    uint32_t address;    /* the other end */
    unsigned prefix;     /* 0: anybody */
    const char *group;   /* NULL, or the name of a group that the other end is in */
};

struct net_group {
    const char *name; /* 1 to 63 of a-z 0-9 '-' */
    const uint32_t *members;
    size_t member_count;
};

struct net_port { /* a machine's */
    const char *tap;
    uint8_t mac[NET_MAC_SIZE];
    uint32_t address;
    bool may_spoof;   /* it is a router of its own: any source */
    bool has_ingress; /* or all is taken */
    const struct net_rule *ingress;
    size_t ingress_count;
    bool has_egress; /* or all may go */
    const struct net_rule *egress;
    size_t egress_count;
};

struct net_published {
    uint32_t host_address; /* 0: all of the host's */
    uint16_t host_port;
    bool is_udp;
    uint32_t address; /* the machine's */
    uint16_t port;
};

struct net_rules {
    const char *owner;
    const struct net_segment *segments;
    size_t segment_count;
    const struct net_port *ports; /* on this host */
    size_t port_count;
    const struct net_group *groups;
    size_t group_count;
    const struct net_published *published;
    size_t published_count;
    const uint16_t *host_ports; /* TCP, on the host, that machines may reach */
    size_t host_port_count;
};

/* The input of nft(8) that makes it so, from whatever was before.  No segments: only the removal.
 * Pure.  INVALID, LIMIT. */
int net_rules_render(const struct net_rules *rules, struct buffer *out, struct error *err);

/* Make it so: all of it or, on failure, nothing.  Blocks for some tens of milliseconds; any thread,
 * one at a time.  DENIED (not root), UNSUPPORTED (the kernel lacks a part of nftables), INVALID. */
int net_rules_apply(const struct net_rules *rules, struct error *err);

/* Take all of the owner's away, what counts (flows.h) included. */
int net_rules_remove(const char *owner, struct error *err);

/* What the owner's tables are called. */
void net_rules_table_name(const char *owner, char ret_name[NET_OWNER_SIZE]);

/* Are both tables there?  Blocks for some milliseconds. */
bool net_rules_are_there(const char *owner);

/*
 * Rules can be thrown away by others (`nft flush ruleset`, as nftables.service does when it is
 * restarted): then nothing is refused any more.  on_lost is called when that has happened, within a
 * second; apply them again.  Loop thread.  DENIED.
 */
struct loop;
struct net_rules_watch;
int net_rules_watch(struct loop *loop, const char *owner, void (*on_lost)(void *context),
                    void *context, struct net_rules_watch **ret_watch, struct error *err);
void net_rules_unwatch(struct net_rules_watch *watch); /* accepts NULL */

/*
 * What passes our rules still has to pass everybody else's.  Is there a chain that drops what is
 * forwarded and not named, as Docker's is (iptables -P FORWARD DROP)?  *ret_name is then "table ip
 * filter, chain FORWARD".  The second is of nft's "list chains", and pure.
 */
bool net_rules_find_foreign(char *ret_name, size_t size);
bool net_rules_read_foreign(const char *listing, char *ret_name, size_t size);

#endif
