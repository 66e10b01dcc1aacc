/* Taps: see net.h (linux/if_tun.h, Documentation/networking/tuntap.rst). */
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/check.h"
#include "base/error.h"
#include "base/fd.h"

#include "engine/net/netlink.h"

enum { TAP_FLAGS = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR, MTU_USUAL = 1500 };

static int open_device(struct error *err)
{
    int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0 && (errno == ENOENT || errno == ENODEV || errno == ENXIO)) {
        return error_set(err, ERROR_UNSUPPORTED,
                         "/dev/net/tun is not here: load the kernel module tun");
    }
    if (fd < 0) {
        return error_os(err, errno, "opening /dev/net/tun");
    }
    return fd;
}

static int attach_as(int fd, const char *name, short flags, struct ifreq *ret_request)
{
    *ret_request = (struct ifreq){.ifr_flags = flags};
    snprintf(ret_request->ifr_name, sizeof(ret_request->ifr_name), "%s", name);
    return ioctl(fd, TUNSETIFF, ret_request);
}

static int attach(int fd, const char *name, struct ifreq *ret_request)
{
    return attach_as(fd, name, TAP_FLAGS, ret_request);
}

static int refuse(int number, const char *name, struct error *err)
{
    if (number == EBUSY) {
        return error_set(err, ERROR_CONFLICT, "the tap %s is in use by a machine that runs", name);
    }
    return netlink_error(number, err, "the tap %s", name);
}

static int settle(struct netlink *netlink, const struct net_tap *tap, unsigned master,
                  struct error *err)
{
    struct link_seen seen = {0};
    const struct link_wanted wanted = {
        .owner = tap->owner, .master = master, .mtu = tap->mtu != 0 ? tap->mtu : MTU_USUAL};
    int r = netlink_find(netlink, tap->name, &seen, err);
    r = r < 0 ? r : net_sysctl_write("1", err, "ipv6/conf/%s/disable_ipv6", tap->name);
    r = r < 0 ? r : netlink_settle(netlink, seen.index, &wanted, err);
    r = r < 0 ? r : netlink_set_port(netlink, seen.index, tap->is_isolated, err);
    return r < 0 ? error_wrap(err, "tap %s", tap->name) : 0;
}

/* It persists last: until then it vanishes with whoever makes it. */
static int make_tap(struct netlink *netlink, const struct net_tap *tap, short flags,
                    unsigned master, struct error *err)
{
    struct ifreq request;
    FD_OWNED int fd = open_device(err);
    if (fd < 0) {
        return fd;
    }
    if (attach_as(fd, tap->name, flags, &request) < 0 ||
        ioctl(fd, TUNSETOWNER, (unsigned long)tap->uid) < 0) {
        return refuse(errno, tap->name, err);
    }
    int r = settle(netlink, tap, master, err);
    if (r == 0 && ioctl(fd, TUNSETPERSIST, 1UL) < 0) {
        return error_os(err, errno, "keeping the tap %s", tap->name);
    }
    return r;
}

int net_tap_ensure(const struct net_tap *tap, struct error *err)
{
    NETLINK_OWNED struct netlink netlink = {0};
    struct link_seen seen = {0};
    struct link_seen bridge = {0};
    if (!net_name_is_valid(tap->name)) {
        return error_set(err, ERROR_INVALID, "\"%s\" cannot be the name of a tap", tap->name);
    }
    int r = tap->mtu == 0 ? 0 : error_check_range("mtu", tap->mtu, NET_MTU_MIN, NET_MTU_MAX, err);
    r = r < 0 ? r : netlink_open(&netlink, err);
    r = r < 0 ? r : netlink_find_bridge(&netlink, tap->owner, tap->bridge, &bridge, err);
    r = r < 0 ? r : netlink_find_own(&netlink, tap->owner, tap->name, "tun", &seen, err);
    if (r < 0) {
        return r;
    }
    return seen.index != 0 ? settle(&netlink, tap, bridge.index, err)
                           : make_tap(&netlink, tap, TAP_FLAGS, bridge.index, err);
}

int net_tap_open(const char *name, int *ret_fd, struct error *err)
{
    struct ifreq request;
    if (!net_name_is_valid(name) || if_nametoindex(name) == 0) {
        return error_set(err, ERROR_NOT_FOUND, "there is no tap %s", name);
    }
    FD_OWNED int fd = open_device(err);
    if (fd < 0) {
        return fd;
    }
    if (attach(fd, name, &request) < 0) {
        return refuse(errno, name, err);
    }
    /* One that went away in the meantime was made anew by asking for it. */
    if (ioctl(fd, TUNGETIFF, &request) < 0 || (request.ifr_flags & IFF_PERSIST) == 0) {
        return error_set(err, ERROR_NOT_FOUND, "there is no tap %s", name);
    }
    *ret_fd = fd_take(&fd);
    return 0;
}

/* ---- Other names ---- */

static int change_name(struct netlink *netlink, int type, const char *tap, const char *name)
{
    struct ifinfomsg head = {.ifi_family = AF_UNSPEC, .ifi_index = (int)if_nametoindex(tap)};
    int flags = type == RTM_NEWLINKPROP ? NLM_F_CREATE | NLM_F_EXCL : 0;
    struct nl_msg *message = netlink_message(type, flags, &head, sizeof(head));
    struct nlattr *list = nla_nest_start(message, IFLA_PROP_LIST | NLA_F_NESTED);
    CHECK(list != NULL);
    nla_put_string(message, IFLA_ALT_IFNAME, name);
    nla_nest_end(message, list);
    return netlink_send(netlink, message);
}

/* Queues are a matter of how it was made: with the others of that name it is refused. */
static int try_queues(const char *tap, bool has_queues, uid_t uid, bool *ret_fits,
                      struct error *err)
{
    struct ifreq request;
    const short flags = (short)(TAP_FLAGS | (has_queues ? IFF_MULTI_QUEUE : 0));
    FD_OWNED int fd = open_device(err);
    if (fd < 0) {
        return fd;
    }
    *ret_fits = attach_as(fd, tap, flags, &request) == 0;
    if (!*ret_fits && errno != EINVAL) {
        return refuse(errno, tap, err);
    }
    return !*ret_fits || ioctl(fd, TUNSETOWNER, (unsigned long)uid) == 0
        ? 0
        : error_os(err, errno, "giving the tap %s to its VMM", tap);
}

static int make_anew(struct netlink *netlink, const struct link_seen *seen, bool has_queues,
                     uid_t uid, struct error *err)
{
    const short flags = (short)(TAP_FLAGS | (has_queues ? IFF_MULTI_QUEUE : 0));
    const struct net_tap tap = {
        .owner = seen->alias, .name = seen->name, .mtu = seen->mtu, .uid = uid};
    if ((seen->flags & IFF_RUNNING) != 0) {
        return refuse(EBUSY, seen->name, err);
    }
    int r = net_link_delete(seen->alias, seen->name, err);
    return r < 0 ? r : make_tap(netlink, &tap, flags, seen->master, err);
}

int net_tap_lend(const char *tap, const char *name, uid_t uid, bool has_queues, struct error *err)
{
    NETLINK_OWNED struct netlink netlink = {0};
    struct link_seen seen = {0};
    bool fits = false;
    if (!net_name_is_valid(name) || !net_name_is_valid(tap)) {
        return error_set(err, ERROR_INVALID, "\"%s\" cannot be the name of a tap", name);
    }
    int r = netlink_open(&netlink, err);
    r = r < 0 ? r : netlink_find(&netlink, tap, &seen, err);
    if (r == 0 && (seen.index == 0 || strcmp(seen.kind, "tun") != 0)) {
        return error_set(err, ERROR_NOT_FOUND, "there is no tap %s", tap);
    }
    r = r < 0 ? r : try_queues(tap, has_queues, uid, &fits, err);
    r = r < 0 || fits ? r : make_anew(&netlink, &seen, has_queues, uid, err);
    if (r < 0) {
        return r;
    }
    unsigned has = if_nametoindex(name);
    if (has != 0 && has == if_nametoindex(tap)) {
        return 0; /* of a VMM whose monitor was killed */
    }
    int number = change_name(&netlink, RTM_NEWLINKPROP, tap, name);
    if (number == -EEXIST) {
        return error_set(err, ERROR_CONFLICT,
                         "another network link of this node is called %s, as the runner's tap is",
                         name);
    }
    return number < 0 ? netlink_error(number, err, "naming the tap %s", tap) : 0;
}

void net_tap_take_back(const char *tap, const char *name)
{
    NETLINK_OWNED struct netlink netlink = {0};
    struct error ignored = {0};
    unsigned has = if_nametoindex(name);
    if (has != 0 && has == if_nametoindex(tap) && strcmp(tap, name) != 0 &&
        netlink_open(&netlink, &ignored) == 0) {
        change_name(&netlink, RTM_DELLINKPROP, tap, name);
    }
}

int net_tap_open_spare(int *ret_fd, struct error *err)
{
    struct ifreq request;
    FD_OWNED int fd = open_device(err);
    if (fd < 0) {
        return fd;
    }
    if (attach(fd, "spare%d", &request) < 0) { /* the kernel finds a number */
        return refuse(errno, "spare", err);
    }
    *ret_fd = fd_take(&fd);
    return 0;
}
