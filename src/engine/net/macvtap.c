/* Macvtaps: see net.h (linux/if_link.h, drivers/net/macvtap.c of Linux). */
#include <errno.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <stdio.h>
#include <string.h>
#include <sys/sysmacros.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/error.h"
#include "base/file.h"
#include "base/memory.h"

#include "engine/net/netlink.h"

enum { DEVICE_BYTES_MAX = 64 };

static const struct {
    const char *word;
    uint32_t mode;
} modes[] = {
    {"private", MACVLAN_MODE_PRIVATE},
    {"vepa", MACVLAN_MODE_VEPA},
    {"bridge", MACVLAN_MODE_BRIDGE},
    {"passthru", MACVLAN_MODE_PASSTHRU},
};

/* 0: there is no such word. */
static uint32_t mode_of(const char *word)
{
    for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
        if (strcmp(modes[i].word, word) == 0) {
            return modes[i].mode;
        }
    }
    return 0;
}

bool net_macvtap_mode_is_valid(const char *word)
{
    return mode_of(word) != 0;
}

static int make_link(struct netlink *netlink, const struct net_macvtap *macvtap, unsigned link,
                     struct error *err)
{
    struct nl_msg *message = netlink_begin(NLM_F_CREATE | NLM_F_EXCL, macvtap->name);
    nla_put_u32(message, IFLA_LINK, link);
    nla_put(message, IFLA_ADDRESS, NET_MAC_SIZE, macvtap->mac);
    nla_put_u32(message, IFLA_NUM_TX_QUEUES, macvtap->queues);
    nla_put_u32(message, IFLA_NUM_RX_QUEUES, macvtap->queues);
    struct nlattr *info = nla_nest_start(message, IFLA_LINKINFO);
    nla_put_string(message, IFLA_INFO_KIND, "macvtap");
    struct nlattr *data = nla_nest_start(message, IFLA_INFO_DATA);
    CHECK(info != NULL && data != NULL);
    nla_put_u32(message, IFLA_MACVLAN_MODE, mode_of(macvtap->mode));
    nla_nest_end(message, data);
    nla_nest_end(message, info);
    int number = netlink_send(netlink, message);
    if (number == -EBUSY || number == -EINVAL) {
        return error_set(err, ERROR_CONFLICT,
                         "the link %s takes no macvtap %s: it is in a bridge, or another one has "
                         "it whole (mode %s)",
                         macvtap->link, macvtap->name, macvtap->mode);
    }
    return number < 0 ? netlink_error(number, err, "making the macvtap %s", macvtap->name) : 0;
}

/* "254:3": of the character device that its frames are read from. */
static int read_device(const struct net_macvtap *macvtap, unsigned index, dev_t *ret_device,
                       struct error *err)
{
    unsigned numbers[2] = {0, 0};
    BUFFER_OWNED struct buffer text = {0};
    MEMORY_OWNED char *path =
        memory_format("/sys/class/net/%s/macvtap/tap%u/dev", macvtap->name, index);
    if (file_read(path, DEVICE_BYTES_MAX, &text, err) < 0) {
        return error_wrap(err, "the macvtap %s", macvtap->name);
    }
    if (sscanf(buffer_string(&text), "%u:%u", &numbers[0], &numbers[1]) != 2) {
        return error_set(err, ERROR_CORRUPT, "%s says no number", path);
    }
    *ret_device = makedev(numbers[0], numbers[1]);
    return 0;
}

static int make(struct netlink *netlink, const struct net_macvtap *macvtap, unsigned *ret_index,
                dev_t *ret_device, struct error *err)
{
    struct link_seen link = {0};
    struct link_seen seen = {0};
    struct link_wanted wanted = {.owner = macvtap->owner};
    int r = netlink_find(netlink, macvtap->link, &link, err);
    if (r == 0 && link.index == 0) {
        return error_set(err, ERROR_NOT_FOUND, "this node has no link %s for the macvtap %s",
                         macvtap->link, macvtap->name);
    }
    wanted.mtu = link.mtu;
    r = r < 0 ? r : make_link(netlink, macvtap, link.index, err);
    r = r < 0 ? r : netlink_find(netlink, macvtap->name, &seen, err);
    r = r < 0 ? r : net_sysctl_write("1", err, "ipv6/conf/%s/disable_ipv6", macvtap->name);
    r = r < 0 ? r : netlink_settle(netlink, seen.index, &wanted, err);
    *ret_index = seen.index;
    return r < 0 ? r : read_device(macvtap, seen.index, ret_device, err);
}

int net_macvtap_make(const struct net_macvtap *macvtap, unsigned *ret_index, dev_t *ret_device,
                     struct error *err)
{
    NETLINK_OWNED struct netlink netlink = {0};
    struct error ignored = {0};
    if (!net_name_is_valid(macvtap->name) || !net_name_is_valid(macvtap->link) ||
        mode_of(macvtap->mode) == 0) {
        return error_set(err, ERROR_INVALID, "\"%s\" on \"%s\" cannot be a macvtap", macvtap->name,
                         macvtap->link);
    }
    /* One of a VMM whose monitor was killed: nobody has it open any more. */
    int r = net_link_delete(macvtap->owner, macvtap->name, err);
    r = r < 0 ? r : netlink_open(&netlink, err);
    if (r < 0) {
        return r;
    }
    r = make(&netlink, macvtap, ret_index, ret_device, err);
    if (r < 0) {
        net_link_delete(macvtap->owner, macvtap->name, &ignored);
    }
    return r;
}
