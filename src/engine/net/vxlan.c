/*
 * VXLAN devices and their forwarding tables: see net.h (RFC 7348, bridge(8) "fdb").
 *
 * What is for a MAC that the table does not have goes to each entry of the MAC zero, one copy each:
 * no multicast of the underlay is needed.
 */
#include <errno.h>
#include <linux/if_link.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/error.h"
#include "base/memory.h"

#include "engine/net/netlink.h"

enum { VXLAN_PORT = 4789, VNI_MAX = (1 << 24) - 1 };

/* ---- The device ---- */

static int check_vxlan(const struct net_vxlan *vxlan, struct error *err)
{
    if (!net_name_is_valid(vxlan->name)) {
        return error_set(err, ERROR_INVALID, "\"%s\" cannot be the name of a link", vxlan->name);
    }
    if (vxlan->local == 0) {
        return error_set(err, ERROR_INVALID, "%s: this node has no address for other nodes",
                         vxlan->name);
    }
    if (vxlan->remote_count > NET_REMOTES_MAX || vxlan->entry_count > NET_ENTRIES_MAX) {
        return error_set(err, ERROR_LIMIT, "%s: at most %d nodes and %d machines elsewhere",
                         vxlan->name, NET_REMOTES_MAX, NET_ENTRIES_MAX);
    }
    int r = error_check_range("vni", vxlan->vni, 1, VNI_MAX, err);
    return r < 0 || vxlan->mtu == 0
        ? r
        : error_check_range("mtu", vxlan->mtu, NET_MTU_MIN, NET_MTU_MAX, err);
}

static int make_device(struct netlink *netlink, const struct net_vxlan *vxlan, uint16_t port,
                       struct error *err)
{
    struct nl_msg *message = netlink_begin(NLM_F_CREATE | NLM_F_EXCL, vxlan->name);
    struct nlattr *info = nla_nest_start(message, IFLA_LINKINFO);
    nla_put_string(message, IFLA_INFO_KIND, "vxlan");
    struct nlattr *data = nla_nest_start(message, IFLA_INFO_DATA);
    CHECK(info != NULL && data != NULL);
    nla_put_u32(message, IFLA_VXLAN_ID, vxlan->vni);
    nla_put_u32(message, IFLA_VXLAN_LOCAL, __builtin_bswap32(vxlan->local));
    nla_put_u16(message, IFLA_VXLAN_PORT, __builtin_bswap16(port));
    nla_put_u8(message, IFLA_VXLAN_LEARNING, 1);
    nla_nest_end(message, data);
    nla_nest_end(message, info);
    int number = netlink_send(netlink, message);
    if (number == -EEXIST) {
        return error_set(err, ERROR_EXISTS, "another VXLAN device of this host has the number %u",
                         vxlan->vni);
    }
    return number < 0 ? netlink_error(number, err, "making the VXLAN device %s", vxlan->name) : 0;
}

/* What it was made with cannot be changed: then it is made again. */
static int ensure_device(struct netlink *netlink, const struct net_vxlan *vxlan,
                         struct link_seen *ret_seen, struct error *err)
{
    uint16_t port = vxlan->port != 0 ? vxlan->port : VXLAN_PORT;
    int r = netlink_find_own(netlink, vxlan->owner, vxlan->name, "vxlan", ret_seen, err);
    bool is_other =
        ret_seen->vni != vxlan->vni || ret_seen->local != vxlan->local || ret_seen->port != port;
    if (r == 0 && ret_seen->index != 0 && is_other) {
        r = net_link_delete(vxlan->owner, vxlan->name, err);
        ret_seen->index = 0;
    }
    if (r < 0 || ret_seen->index != 0) {
        return r;
    }
    r = make_device(netlink, vxlan, port, err);
    return r < 0 ? r : netlink_find_own(netlink, vxlan->owner, vxlan->name, "vxlan", ret_seen, err);
}

/* ---- Its table ---- */

struct entries {
    unsigned index;
    struct net_vxlan_entry *items;
    size_t count;
    size_t size;
};

static void add_entry(struct entries *entries, const uint8_t *mac, uint32_t remote)
{
    if (entries->count == entries->size) {
        entries->size = entries->size != 0 ? entries->size * 2 : 64;
        entries->items = memory_resize(entries->items, entries->size * sizeof(entries->items[0]));
    }
    struct net_vxlan_entry *entry = &entries->items[entries->count++];
    memset(entry, 0, sizeof(*entry)); /* they are compared as bytes, with what is between */
    memcpy(entry->mac, mac, NET_MAC_SIZE);
    entry->remote = remote;
}

static int compare_entries(const void *a, const void *b)
{
    return memcmp(a, b, sizeof(struct net_vxlan_entry));
}

static void sort_entries(struct entries *entries)
{
    if (entries->count > 1) {
        qsort(entries->items, entries->count, sizeof(entries->items[0]), compare_entries);
    }
}

/* Those that were set; what it learned goes by itself. */
static void take_entry(struct nlmsghdr *message, void *context)
{
    struct entries *entries = context;
    struct nlattr *fields[NDA_MAX + 1] = {0};
    const struct ndmsg *head = nlmsg_data(message);
    if (message->nlmsg_type != RTM_NEWNEIGH || head->ndm_family != AF_BRIDGE ||
        (unsigned)head->ndm_ifindex != entries->index || (head->ndm_flags & NTF_SELF) == 0 ||
        (head->ndm_state & NUD_PERMANENT) == 0 ||
        nlmsg_parse(message, sizeof(*head), fields, NDA_MAX, NULL) < 0 ||
        fields[NDA_LLADDR] == NULL || nla_len(fields[NDA_LLADDR]) != NET_MAC_SIZE ||
        fields[NDA_DST] == NULL || nla_len(fields[NDA_DST]) != 4) {
        return;
    }
    add_entry(entries, nla_data(fields[NDA_LLADDR]),
              __builtin_bswap32(nla_get_u32(fields[NDA_DST])));
}

static int change_entry(struct netlink *netlink, int type, unsigned index,
                        const struct net_vxlan_entry *entry)
{
    static const uint8_t everybody[NET_MAC_SIZE];
    struct ndmsg head = {.ndm_family = AF_BRIDGE,
                         .ndm_ifindex = (int)index,
                         .ndm_state = NUD_PERMANENT | NUD_NOARP,
                         .ndm_flags = NTF_SELF};
    bool is_for_all = memcmp(entry->mac, everybody, NET_MAC_SIZE) == 0;
    int flags = type == RTM_DELNEIGH ? 0
        : is_for_all                 ? NLM_F_CREATE | NLM_F_APPEND
                                     : NLM_F_CREATE | NLM_F_REPLACE;
    struct nl_msg *message = netlink_message(type, flags, &head, sizeof(head));
    nla_put(message, NDA_LLADDR, NET_MAC_SIZE, entry->mac);
    nla_put_u32(message, NDA_DST, __builtin_bswap32(entry->remote));
    return netlink_send(netlink, message);
}

/* Both are in order: what only one has is to be taken away or added.  Away first, or of two nodes
 * for one MAC the old one would stay. */
static int make_equal(struct netlink *netlink, const struct entries *seen,
                      const struct entries *wanted, int type, struct error *err)
{
    const struct entries *from = type == RTM_DELNEIGH ? seen : wanted;
    const struct entries *in = type == RTM_DELNEIGH ? wanted : seen;
    int r = 0;
    for (size_t i = 0; i < from->count && r == 0; i++) {
        const struct net_vxlan_entry *entry = &from->items[i];
        bool is_in_both = in->count > 0 &&
            bsearch(entry, in->items, in->count, sizeof(*entry), compare_entries) != NULL;
        if (!is_in_both) {
            int number = change_entry(netlink, type, seen->index, entry);
            r = number < 0 && number != -ENOENT
                ? netlink_error(number, err, "changing the table of a VXLAN device")
                : 0;
        }
    }
    return r;
}

static void collect_wanted(const struct net_vxlan *vxlan, struct entries *wanted)
{
    static const uint8_t everybody[NET_MAC_SIZE];
    for (size_t i = 0; i < vxlan->remote_count; i++) {
        if (vxlan->remotes[i] != vxlan->local) {
            add_entry(wanted, everybody, vxlan->remotes[i]);
        }
    }
    for (size_t i = 0; i < vxlan->entry_count; i++) {
        if (vxlan->entries[i].remote != vxlan->local) {
            add_entry(wanted, vxlan->entries[i].mac, vxlan->entries[i].remote);
        }
    }
    sort_entries(wanted);
}

static int settle_table(struct netlink *netlink, const struct net_vxlan *vxlan, unsigned index,
                        struct error *err)
{
    struct entries seen = {.index = index};
    struct entries wanted = {.index = index};
    struct ndmsg head = {.ndm_family = AF_BRIDGE, .ndm_ifindex = (int)index};
    int number = netlink_ask(
        netlink, netlink_message(RTM_GETNEIGH, NLM_F_DUMP, &head, sizeof(head)), take_entry, &seen);
    int r = number < 0 ? netlink_error(number, err, "reading the table of %s", vxlan->name) : 0;
    sort_entries(&seen);
    collect_wanted(vxlan, &wanted);
    r = r < 0 ? r : make_equal(netlink, &seen, &wanted, RTM_DELNEIGH, err);
    r = r < 0 ? r : make_equal(netlink, &seen, &wanted, RTM_NEWNEIGH, err);
    free(seen.items);
    free(wanted.items);
    return r;
}

int net_vxlan_ensure(const struct net_vxlan *vxlan, struct error *err)
{
    NETLINK_OWNED struct netlink netlink = {0};
    struct link_seen seen = {0};
    struct link_seen bridge = {0};
    int r = check_vxlan(vxlan, err);
    r = r < 0 ? r : netlink_open(&netlink, err);
    r = r < 0 ? r : netlink_find_bridge(&netlink, vxlan->owner, vxlan->bridge, &bridge, err);
    r = r < 0 ? r : ensure_device(&netlink, vxlan, &seen, err);
    r = r < 0 ? r : net_sysctl_write("1", err, "ipv6/conf/%s/disable_ipv6", vxlan->name);
    const struct link_wanted wanted = {.owner = vxlan->owner,
                                       .master = bridge.index,
                                       .mtu = vxlan->mtu != 0 ? vxlan->mtu : bridge.mtu};
    r = r < 0 ? r : netlink_settle(&netlink, seen.index, &wanted, err);
    r = r < 0 ? r : settle_table(&netlink, vxlan, seen.index, err);
    return r < 0 ? error_wrap(err, "network %s", vxlan->bridge) : 0;
}
