/* Bridges, and what all links have in common: see net.h. */
#include <errno.h>
#include <fcntl.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/check.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/process.h"

#include "engine/net/netlink.h"

enum {
    MTU_USUAL = 1500,
    MODPROBE_MS_MAX = 10000,
    LOWER_UP = 1 << 16, /* IFF_LOWER_UP of linux/if.h, which net/if.h does not go with */
};

#define BRIDGE_FILTER "/proc/sys/net/bridge/bridge-nf-call-iptables"

int net_sysctl_write(const char *value, struct error *err, const char *format, ...)
{
    char path[128] = "/proc/sys/net/";
    size_t used = strlen(path);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(path + used, sizeof(path) - used, format, arguments);
    va_end(arguments);
    FD_OWNED int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT) {
        return 0;
    }
    if (fd < 0 || write(fd, value, strlen(value)) < 0) {
        return error_os(err, errno, "writing %s to %s", value, path);
    }
    return 0;
}

/* ---- What a bridge shows the packet filter ---- */

/*
 * br_netfilter is a module in most kernels.  Loading it makes all bridges of the host show their
 * packets, others' too, which may be none of their plan: that is undone, and ours asks for itself.
 */
static int load_bridge_filter(struct error *err)
{
    struct error ignored;
    struct process_result result = {0};
    static const char *const argv[] = {"modprobe", "br_netfilter", NULL};
    const struct process_options options = {.argv = argv, .timeout_ms = MODPROBE_MS_MAX};
    if (file_exists(BRIDGE_FILTER)) {
        return 0;
    }
    (void)process_run(&options, NULL, NULL, &result, &ignored);
    if (!file_exists(BRIDGE_FILTER)) {
        return error_set(err, ERROR_UNSUPPORTED,
                         "the packet filter does not see what bridges forward: load the kernel "
                         "module br_netfilter");
    }
    int r = net_sysctl_write("0", err, "bridge/bridge-nf-call-iptables");
    r = r < 0 ? r : net_sysctl_write("0", err, "bridge/bridge-nf-call-ip6tables");
    return r < 0 ? r : net_sysctl_write("0", err, "bridge/bridge-nf-call-arptables");
}

/* No spanning tree: there are no loops, and a machine would wait for its port.  No snooping: of
 * multicast there is little, and what is snooped is lost when nobody asks. */
static void put_options(struct nl_msg *message, bool is_filtered)
{
    struct nlattr *info = nla_nest_start(message, IFLA_LINKINFO);
    nla_put_string(message, IFLA_INFO_KIND, "bridge");
    struct nlattr *data = nla_nest_start(message, IFLA_INFO_DATA);
    CHECK(info != NULL && data != NULL);
    nla_put_u32(message, IFLA_BR_FORWARD_DELAY, 0);
    nla_put_u32(message, IFLA_BR_STP_STATE, 0);
    nla_put_u8(message, IFLA_BR_MCAST_SNOOPING, 0);
    nla_put_u8(message, IFLA_BR_NF_CALL_IPTABLES, is_filtered);
    nla_nest_end(message, data);
    nla_nest_end(message, info);
}

/* ---- Its address ---- */

struct address_seen {
    unsigned index;
    uint32_t address;
    unsigned prefix;
};

enum { ADDRESSES_MAX = 4096 };

struct addresses {
    struct address_seen *items;
    size_t count;
};

static void take_address(struct nlmsghdr *message, void *context)
{
    struct addresses *addresses = context;
    struct nlattr *fields[IFA_MAX + 1] = {0};
    const struct ifaddrmsg *head = nlmsg_data(message);
    if (message->nlmsg_type != RTM_NEWADDR || head->ifa_family != AF_INET ||
        addresses->count >= ADDRESSES_MAX ||
        nlmsg_parse(message, sizeof(*head), fields, IFA_MAX, NULL) < 0 ||
        fields[IFA_LOCAL] == NULL) {
        return;
    }
    addresses->items =
        memory_resize(addresses->items, (addresses->count + 1) * sizeof(addresses->items[0]));
    addresses->items[addresses->count++] = (struct address_seen){
        head->ifa_index, __builtin_bswap32(nla_get_u32(fields[IFA_LOCAL])), head->ifa_prefixlen};
}

static int list_addresses(struct netlink *netlink, struct addresses *ret_addresses,
                          struct error *err)
{
    struct ifaddrmsg head = {.ifa_family = AF_INET};
    int number = netlink_ask(netlink, netlink_message(RTM_GETADDR, NLM_F_DUMP, &head, sizeof(head)),
                             take_address, ret_addresses);
    return number < 0 ? netlink_error(number, err, "listing addresses") : 0;
}

static int change_address(struct netlink *netlink, int type, const struct address_seen *address)
{
    struct ifaddrmsg head = {.ifa_family = AF_INET,
                             .ifa_prefixlen = (uint8_t)address->prefix,
                             .ifa_index = address->index};
    int flags = type == RTM_NEWADDR ? NLM_F_CREATE | NLM_F_REPLACE : 0;
    struct nl_msg *message = netlink_message(type, flags, &head, sizeof(head));
    nla_put_u32(message, IFA_LOCAL, __builtin_bswap32(address->address));
    nla_put_u32(message, IFA_ADDRESS, __builtin_bswap32(address->address));
    if (type == RTM_NEWADDR && address->prefix < 31) {
        nla_put_u32(message, IFA_BROADCAST,
                    __builtin_bswap32(address->address | ~net_mask(address->prefix)));
    }
    return netlink_send(netlink, message);
}

static int settle_address(struct netlink *netlink, const struct address_seen *wanted,
                          struct error *err)
{
    struct addresses seen = {0};
    int r = list_addresses(netlink, &seen, err);
    for (size_t i = 0; r == 0 && i < seen.count; i++) {
        const struct address_seen *one = &seen.items[i];
        if (one->index == wanted->index &&
            (one->address != wanted->address || one->prefix != wanted->prefix)) {
            int number = change_address(netlink, RTM_DELADDR, one);
            r = number < 0 && number != -EADDRNOTAVAIL
                ? netlink_error(number, err, "taking an old address away")
                : 0;
        }
    }
    free(seen.items);
    if (r < 0 || wanted->address == 0) {
        return r;
    }
    int number = change_address(netlink, RTM_NEWADDR, wanted);
    return number < 0 ? netlink_error(number, err, "giving a bridge its address") : 0;
}

/* ---- The bridge ---- */

static int check_bridge(const struct net_bridge *bridge, struct error *err)
{
    if (!net_name_is_valid(bridge->name)) {
        return error_set(err, ERROR_INVALID, "\"%s\" cannot be the name of a bridge", bridge->name);
    }
    if (bridge->prefix > 32 || (bridge->address != 0 && bridge->prefix == 0)) {
        return error_set(err, ERROR_INVALID, "a prefix has 1 to 32 bits, not %u", bridge->prefix);
    }
    return bridge->mtu == 0 ? 0
                            : error_check_range("mtu", bridge->mtu, NET_MTU_MIN, NET_MTU_MAX, err);
}

static int make(struct netlink *netlink, const struct net_bridge *bridge, bool is_there,
                struct error *err)
{
    int flags = is_there ? 0 : NLM_F_CREATE | NLM_F_EXCL;
    struct nl_msg *message = netlink_begin(flags, bridge->name);
    put_options(message, bridge->is_filtered);
    int number = netlink_send(netlink, message);
    return number < 0 ? netlink_error(number, err, "making the bridge %s", bridge->name) : 0;
}

int net_bridge_ensure(const struct net_bridge *bridge, struct error *err)
{
    NETLINK_OWNED struct netlink netlink = {0};
    struct link_seen seen = {0};
    int r = check_bridge(bridge, err);
    r = r < 0 || !bridge->is_filtered ? r : load_bridge_filter(err);
    r = r < 0 ? r : netlink_open(&netlink, err);
    r = r < 0 ? r : netlink_find_own(&netlink, bridge->owner, bridge->name, "bridge", &seen, err);
    r = r < 0 ? r : make(&netlink, bridge, seen.index != 0, err);
    r = r < 0 ? r : netlink_find_bridge(&netlink, bridge->owner, bridge->name, &seen, err);
    r = r < 0 ? r : net_sysctl_write("1", err, "ipv6/conf/%s/disable_ipv6", bridge->name);
    if (r < 0) {
        return r;
    }
    /* Given explicitly, or it would be that of its lowest port, and change with them. */
    const struct link_wanted wanted = {.owner = bridge->owner,
                                       .mtu = bridge->mtu != 0 ? bridge->mtu : MTU_USUAL,
                                       .mac = bridge->mac != NULL ? bridge->mac : seen.mac};
    const struct address_seen address = {seen.index, bridge->address, bridge->prefix};
    r = netlink_settle(&netlink, seen.index, &wanted, err);
    r = r < 0 ? r : settle_address(&netlink, &address, err);
    return r < 0 ? error_wrap(err, "bridge %s", bridge->name) : 0;
}

/* ---- All of them ---- */

int net_link_delete(const char *owner, const char *name, struct error *err)
{
    NETLINK_OWNED struct netlink netlink = {0};
    struct link_seen seen = {0};
    int r = netlink_open(&netlink, err);
    r = r < 0 ? r : netlink_find_own(&netlink, owner, name, NULL, &seen, err);
    if (r < 0 || seen.index == 0) {
        return r;
    }
    struct ifinfomsg head = {.ifi_family = AF_UNSPEC, .ifi_index = (int)seen.index};
    int number = netlink_send(&netlink, netlink_message(RTM_DELLINK, 0, &head, sizeof(head)));
    return number < 0 && number != -ENODEV
        ? netlink_error(number, err, "deleting the link %s", name)
        : 0;
}

struct links {
    const char *owner;
    struct link_seen *items;
    size_t count;
};

static void take_own(struct nlmsghdr *message, void *context)
{
    struct links *links = context;
    struct link_seen seen;
    netlink_parse_link(message, &seen);
    if (seen.index != 0 && netlink_is_own(&seen, links->owner)) {
        links->items = memory_resize(links->items, (links->count + 1) * sizeof(links->items[0]));
        links->items[links->count++] = seen;
    }
}

static int list_links(struct netlink *netlink, struct links *links, struct error *err)
{
    struct ifinfomsg head = {.ifi_family = AF_UNSPEC};
    int number = netlink_ask(netlink, netlink_message(RTM_GETLINK, NLM_F_DUMP, &head, sizeof(head)),
                             take_own, links);
    return number < 0 ? netlink_error(number, err, "listing links") : 0;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(((const struct link_seen *)a)->name, ((const struct link_seen *)b)->name);
}

static void describe_link(const struct links *links, const struct link_seen *seen,
                          struct net_link *ret_link)
{
    ret_link->kind = strcmp(seen->kind, "bridge") == 0 ? NET_BRIDGE
        : strcmp(seen->kind, "tun") == 0               ? NET_TAP
                                                       : NET_VXLAN;
    snprintf(ret_link->name, sizeof(ret_link->name), "%s", seen->name);
    for (size_t i = 0; i < links->count; i++) {
        if (links->items[i].index == seen->master) {
            snprintf(ret_link->bridge, sizeof(ret_link->bridge), "%s", links->items[i].name);
        }
    }
    ret_link->is_up = (seen->flags & LOWER_UP) != 0;
    ret_link->receive_bytes = seen->counters[0];
    ret_link->receive_packets = seen->counters[1];
    ret_link->receive_dropped = seen->counters[2];
    ret_link->send_bytes = seen->counters[3];
    ret_link->send_packets = seen->counters[4];
    ret_link->send_dropped = seen->counters[5];
}

int net_links(const char *owner, struct net_link **ret_links, size_t *ret_count, struct error *err)
{
    NETLINK_OWNED struct netlink netlink = {0};
    struct links links = {.owner = owner};
    int r = netlink_open(&netlink, err);
    r = r < 0 ? r : list_links(&netlink, &links, err);
    if (r == 0) {
        *ret_links = memory_new(links.count + 1, sizeof(**ret_links));
        *ret_count = links.count;
        if (links.count > 1) {
            qsort(links.items, links.count, sizeof(links.items[0]), compare_names);
        }
        for (size_t i = 0; i < links.count; i++) {
            describe_link(&links, &links.items[i], &(*ret_links)[i]);
        }
    }
    free(links.items);
    return r;
}

static bool links_have(const struct links *links, unsigned index)
{
    for (size_t i = 0; i < links->count; i++) {
        if (links->items[i].index == index) {
            return true;
        }
    }
    return false;
}

int net_subnet_check(const char *owner, uint32_t address, unsigned prefix, struct error *err)
{
    NETLINK_OWNED struct netlink netlink = {0};
    struct links own = {.owner = owner};
    struct addresses seen = {0};
    int r = netlink_open(&netlink, err);
    r = r < 0 ? r : list_links(&netlink, &own, err);
    r = r < 0 ? r : list_addresses(&netlink, &seen, err);
    for (size_t i = 0; r == 0 && i < seen.count; i++) {
        const struct address_seen *one = &seen.items[i];
        uint32_t mask = net_mask(one->prefix < prefix ? one->prefix : prefix);
        if (((one->address ^ address) & mask) == 0 && !links_have(&own, one->index)) {
            char name[IF_NAMESIZE] = "?";
            char text[NET_ADDRESS_TEXT_SIZE];
            if_indextoname(one->index, name);
            r = error_set(err, ERROR_CONFLICT, "this host has %s/%u on %s, which is in the range",
                          net_address_format(one->address, text), one->prefix, name);
        }
    }
    free(seen.items);
    free(own.items);
    return r;
}

int net_forwarding_ensure(const char *bridge, struct error *err)
{
    int r = net_sysctl_write("1", err, "ipv4/ip_forward");
    r = r < 0 ? r : net_sysctl_write("1", err, "ipv4/conf/%s/forwarding", bridge);
    return r < 0 ? r : net_sysctl_write("1", err, "ipv4/conf/%s/route_localnet", bridge);
}
