/* Taps: see net.h (linux/if_tun.h, Documentation/networking/tuntap.rst). */
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

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

static int attach(int fd, const char *name, struct ifreq *ret_request)
{
    *ret_request = (struct ifreq){.ifr_flags = TAP_FLAGS};
    snprintf(ret_request->ifr_name, sizeof(ret_request->ifr_name), "%s", name);
    return ioctl(fd, TUNSETIFF, ret_request);
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
static int make_tap(struct netlink *netlink, const struct net_tap *tap, unsigned master,
                    struct error *err)
{
    struct ifreq request;
    FD_OWNED int fd = open_device(err);
    if (fd < 0) {
        return fd;
    }
    if (attach(fd, tap->name, &request) < 0 ||
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
                           : make_tap(&netlink, tap, bridge.index, err);
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
