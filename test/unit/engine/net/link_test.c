/* Links, in a network namespace of the test's own. */
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/memory.h"

#include "engine/net/net.h"

#include "../../../lib/test.h"
#include "world.h"

static const uint8_t gateway_mac[NET_MAC_SIZE] = {0x02, 0xb1, 0, 0, 0, 1};

static struct net_bridge usual_bridge(void)
{
    return (struct net_bridge){.owner = NET_OWNER,
                               .name = "bx0",
                               .mac = gateway_mac,
                               .mtu = 1400,
                               .address = 0x0a4d0001,
                               .prefix = 24};
}

static struct net_tap usual_tap(void)
{
    return (struct net_tap){.owner = NET_OWNER, .name = "bxt0", .bridge = "bx0", .mtu = 1400};
}

static void make_world(void)
{
    struct error err = {0};
    world_enter();
    const struct net_bridge bridge = usual_bridge();
    if (net_bridge_ensure(&bridge, &err) == -ERROR_UNSUPPORTED) {
        SKIP("this kernel has no bridges");
    }
    EXPECT(err.kind == ERROR_NONE);
}

static void need_taps(void)
{
    if (access("/dev/net/tun", R_OK | W_OK) < 0) {
        SKIP("needs /dev/net/tun");
    }
}

/* Goal: what was asked for is so, also when it is asked for again or differently.
 * Method: ip(8) tells. */
TEST(net_bridge, is_as_described)
{
    struct error err = {0};
    make_world();
    struct net_bridge bridge = usual_bridge();
    EXPECT(world_says("ip -d link show bx0", "mtu 1400"));
    EXPECT(world_says("ip -d link show bx0", "02:b1:00:00:00:01"));
    EXPECT(world_says("ip -d link show bx0", "alias blixard"));
    EXPECT(world_says("ip -d link show bx0", "<NO-CARRIER,BROADCAST,MULTICAST,UP>"));
    EXPECT(world_says("ip addr show bx0", "inet 10.77.0.1/24 brd 10.77.0.255"));

    EXPECT(net_bridge_ensure(&bridge, &err) == 0);
    bridge.mtu = 0;
    bridge.address = 0x0a4d0101;
    EXPECT(net_bridge_ensure(&bridge, &err) == 0);
    EXPECT(world_says("ip -d link show bx0", "mtu 1500"));
    EXPECT(world_says("ip addr show bx0", "inet 10.77.1.1/24"));
    EXPECT(!world_says("ip addr show bx0", "inet 10.77.0.1/24"));
    bridge.address = 0;
    EXPECT(net_bridge_ensure(&bridge, &err) == 0);
    EXPECT(!world_says("ip addr show bx0", "inet "));

    EXPECT(net_link_delete(NET_OWNER, "bx0", &err) == 0);
    EXPECT(world_run("ip link show bx0") != 0);
    EXPECT(net_link_delete(NET_OWNER, "bx0", &err) == 0);
}

TEST(net_bridge, shows_the_packet_filter_what_it_forwards_when_asked_to)
{
    struct error err = {0};
    make_world();
    struct net_bridge bridge = usual_bridge();
    EXPECT(world_says("ip -d link show bx0", "nf_call_iptables 0"));
    bridge.is_filtered = true;
    int r = net_bridge_ensure(&bridge, &err);
    if (r == -ERROR_UNSUPPORTED) {
        SKIP("needs br_netfilter");
    }
    EXPECT(r == 0);
    EXPECT(world_says("ip -d link show bx0", "nf_call_iptables 1"));
}

/* Goal: what is not ours is never touched, whatever its name. */
TEST(net_bridge, a_foreign_link_is_left_alone)
{
    struct error err = {0};
    make_world();
    struct net_bridge bridge = usual_bridge();
    EXPECT(world_run("ip link add bx1 type bridge") == 0);
    bridge.name = "bx1";
    EXPECT(net_bridge_ensure(&bridge, &err) == -ERROR_EXISTS);
    EXPECT(strstr(err.text, "bx1") != NULL);
    EXPECT(net_link_delete(NET_OWNER, "bx1", &err) == -ERROR_EXISTS);
    EXPECT(world_run("ip link show bx1") == 0);
    /* Nor what is another daemon's. */
    bridge.name = "bx0";
    bridge.owner = "blixard-other";
    EXPECT(net_bridge_ensure(&bridge, &err) == -ERROR_EXISTS);
    EXPECT(net_link_delete("blixard-other", "bx0", &err) == -ERROR_EXISTS);
}

TEST(net_bridge, one_whose_maker_died_is_taken_up)
{
    struct error err = {0};
    make_world();
    struct net_bridge bridge = usual_bridge();
    bridge.name = "bx2";
    bridge.address = 0x0a4d0201;
    EXPECT(world_run("ip link add bx2 group 45338 type bridge") == 0);
    EXPECT(net_bridge_ensure(&bridge, &err) == 0);
    EXPECT(world_says("ip -d link show bx2", "alias blixard"));
}

TEST(net_bridge, what_cannot_be_is_refused)
{
    struct error err = {0};
    make_world();
    struct net_bridge bridge = usual_bridge();
    bridge.name = "much-too-long-a-name";
    EXPECT(net_bridge_ensure(&bridge, &err) == -ERROR_INVALID);
    bridge = usual_bridge();
    bridge.mtu = NET_MTU_MIN - 1;
    EXPECT(net_bridge_ensure(&bridge, &err) == -ERROR_INVALID);
    bridge = usual_bridge();
    bridge.prefix = 33;
    EXPECT(net_bridge_ensure(&bridge, &err) == -ERROR_INVALID);
}

TEST(net_bridge, needs_root)
{
    struct error err = {0};
    make_world();
    EXPECT(seteuid(65534) == 0);
    struct net_bridge bridge = usual_bridge();
    bridge.name = "bx3";
    EXPECT(net_bridge_ensure(&bridge, &err) == -ERROR_DENIED);
    EXPECT(strstr(err.text, "root") != NULL);
    EXPECT(seteuid(0) == 0); /* a leak checker needs it */
}

TEST(net_bridge, a_range_in_use_is_found)
{
    struct error err = {0};
    make_world();
    EXPECT(world_run("ip link add foreign type bridge") == 0);
    EXPECT(world_run("ip addr add 192.0.2.130/25 dev foreign") == 0);
    EXPECT(net_subnet_check(NET_OWNER, 0xc0000200, 24, &err) == -ERROR_CONFLICT);
    EXPECT(strstr(err.text, "192.0.2.130/25 on foreign") != NULL);
    EXPECT(net_subnet_check(NET_OWNER, 0xc0000280, 26, &err) == -ERROR_CONFLICT);
    EXPECT(net_subnet_check(NET_OWNER, 0xc0000200, 25, &err) == 0);
    EXPECT(net_subnet_check(NET_OWNER, 0x0a4d0000, 24, &err) == 0); /* our own */
    EXPECT(net_subnet_check("blixard-other", 0x0a4d0000, 24, &err) == -ERROR_CONFLICT);
}

/* Goal: a tap stays, is plugged in, and is a machine's when a VMM opens it. */
TEST(net_tap, is_made_opened_and_deleted)
{
    struct error err = {0};
    int fd = -1;
    int again = -1;
    need_taps();
    make_world();
    struct net_tap tap = usual_tap();
    EXPECT(net_tap_open("bxt0", &fd, &err) == -ERROR_NOT_FOUND);
    EXPECT(world_run("ip link show bxt0") != 0); /* asking did not make it */
    EXPECT(net_tap_ensure(&tap, &err) == 0);
    EXPECT(net_tap_ensure(&tap, &err) == 0);
    EXPECT(world_says("ip -d link show bxt0", "master bx0"));
    EXPECT(world_says("ip -d link show bxt0", "mtu 1400"));
    EXPECT(world_says("ip -d link show bxt0", "vnet_hdr on persist on"));
    EXPECT(world_says("ip -d link show bxt0", "NO-CARRIER"));
    EXPECT(world_says("ip -d link show bxt0", "isolated off"));
    EXPECT(world_says("ip -d link show bxt0", "hairpin on"));

    EXPECT(net_tap_open("bxt0", &fd, &err) == 0);
    EXPECT(!world_says("ip -d link show bxt0", "NO-CARRIER"));
    EXPECT(net_tap_open("bxt0", &again, &err) == -ERROR_CONFLICT);
    tap.is_isolated = true;
    EXPECT(net_tap_ensure(&tap, &err) == 0); /* also while it is open */
    EXPECT(world_says("ip -d link show bxt0", "isolated on"));
    close(fd);
    EXPECT(world_run("ip link show bxt0") == 0);
    EXPECT(net_link_delete(NET_OWNER, "bxt0", &err) == 0);
    EXPECT(world_run("ip link show bxt0") != 0);

    tap.bridge = "bx9";
    EXPECT(net_tap_ensure(&tap, &err) == -ERROR_NOT_FOUND);
    tap.bridge = "bx0";
    tap.name = "bx0";
    EXPECT(net_tap_ensure(&tap, &err) == -ERROR_EXISTS);
}

/* As a VMM that opens its tap by a name does it. */
static int open_by_name(const char *name, short flags)
{
    struct ifreq request = {.ifr_flags = (short)(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | flags)};
    int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
    snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", name);
    EXPECT(fd >= 0);
    if (ioctl(fd, TUNSETIFF, &request) < 0) {
        close(fd);
        return -1;
    }
    EXPECT(strcmp(request.ifr_name, "bxt0") == 0);
    return fd;
}

/*
 * Goal: a program finds its tap by the name that it knows, with as many queues as it asks for, at
 * the place that it was plugged into; and no longer than it is lent.
 * Method: open it as QEMU does; ip(8) tells the rest.
 */
TEST(net_tap, is_lent_by_another_name)
{
    struct error err = {0};
    need_taps();
    make_world();
    const struct net_tap tap = usual_tap();
    EXPECT(net_tap_lend("bxt0", "vm-a", 1234, false, &err) == -ERROR_NOT_FOUND);
    EXPECT(net_tap_ensure(&tap, &err) == 0);
    EXPECT(net_tap_lend("bxt0", "a/b", 1234, false, &err) == -ERROR_INVALID);
    EXPECT(net_tap_lend("bxt0", "bx0", 1234, false, &err) == -ERROR_CONFLICT);
    EXPECT(net_tap_lend("bx0", "vm-a", 1234, false, &err) == -ERROR_NOT_FOUND);

    EXPECT(net_tap_lend("bxt0", "vm-a", 1234, false, &err) == 0);
    EXPECT(net_tap_lend("bxt0", "vm-a", 1234, false, &err) == 0);
    EXPECT(world_says("ip -d link show bxt0", "altname vm-a"));
    EXPECT(world_says("ip -d link show bxt0", "user 1234"));
    EXPECT(open_by_name("vm-a", IFF_MULTI_QUEUE) < 0);
    int fd = open_by_name("vm-a", 0);
    EXPECT(fd >= 0);
    EXPECT(net_tap_lend("bxt0", "vm-a", 1234, true, &err) == -ERROR_CONFLICT); /* it is open */
    close(fd);

    EXPECT(net_tap_lend("bxt0", "vm-a", 1234, true, &err) == 0);
    EXPECT(world_says("ip -d link show bxt0", "multi_queue numqueues"));
    EXPECT(world_says("ip -d link show bxt0", "master bx0"));
    EXPECT(world_says("ip -d link show bxt0", "mtu 1400"));
    EXPECT(world_says("ip -d link show bxt0", "user 1234"));
    fd = open_by_name("vm-a", IFF_MULTI_QUEUE);
    EXPECT(fd >= 0);
    close(fd);
    EXPECT(net_tap_ensure(&tap, &err) == 0);
    EXPECT(world_says("ip -d link show bxt0", "multi_queue numqueues"));

    net_tap_take_back("bxt0", "vm-a");
    EXPECT(!world_says("ip -d link show bxt0", "vm-a"));
    net_tap_take_back("bxt0", "vm-a");
    net_tap_take_back("bxt0", "bxt0");
    EXPECT(world_run("ip link show bxt0") == 0);
}

TEST(net_links, are_listed_by_name_and_owner)
{
    struct error err = {0};
    struct net_link *links = NULL;
    size_t count = 0;
    int fd = -1;
    need_taps();
    make_world();
    struct net_tap tap = usual_tap();
    EXPECT(net_tap_ensure(&tap, &err) == 0);
    tap.name = "bxs0";
    EXPECT(net_tap_ensure(&tap, &err) == 0);
    EXPECT(net_tap_open("bxs0", &fd, &err) == 0);
    EXPECT(world_run("ip link add foreign type bridge") == 0);
    EXPECT(net_links(NET_OWNER, &links, &count, &err) == 0);
    EXPECT(count == 3);
    EXPECT_STRING(links[0].name, "bx0");
    EXPECT(links[0].kind == NET_BRIDGE && links[0].bridge[0] == '\0');
    EXPECT_STRING(links[1].name, "bxs0");
    EXPECT_STRING(links[1].bridge, "bx0");
    EXPECT(links[1].kind == NET_TAP && links[1].is_up && !links[2].is_up);
    free(links);
    EXPECT(net_links("blixard-other", &links, &count, &err) == 0 && count == 0);
    free(links);
    close(fd);
}

TEST(net_links, forwarding_is_switched_on)
{
    struct error err = {0};
    make_world();
    EXPECT(net_forwarding_ensure("bx0", &err) == 0);
    EXPECT(world_says("cat /proc/sys/net/ipv4/ip_forward", "1"));
    EXPECT(world_says("cat /proc/sys/net/ipv4/conf/bx0/route_localnet", "1"));
}

static bool has_entry(const char *entry)
{
    return world_says("bridge fdb show dev bxv0", entry);
}

/* Goal: the table is what was said last, whatever it was before. */
TEST(net_vxlan, has_the_nodes_and_machines_that_it_is_told)
{
    struct error err = {0};
    uint32_t remotes[] = {0xc0000201, 0xc0000202, 0xc0000203};
    struct net_vxlan_entry entries[] = {{{0x52, 0x54, 0, 0, 0, 9}, 0xc0000202},
                                        {{0x52, 0x54, 0, 0, 0, 8}, 0xc0000203}};
    make_world();
    struct net_vxlan vxlan = {.owner = NET_OWNER,
                              .name = "bxv0",
                              .bridge = "bx0",
                              .vni = 77,
                              .local = 0xc0000201,
                              .remotes = remotes,
                              .remote_count = 3,
                              .entries = entries,
                              .entry_count = 2};
    int r = net_vxlan_ensure(&vxlan, &err);
    if (r == -ERROR_UNSUPPORTED) {
        SKIP(err.text);
    }
    EXPECT(r == 0);
    EXPECT(net_vxlan_ensure(&vxlan, &err) == 0);
    EXPECT(world_says("ip -d link show bxv0", "vxlan id 77 local 192.0.2.1"));
    EXPECT(world_says("ip -d link show bxv0", "master bx0"));
    EXPECT(world_says("ip -d link show bxv0", "mtu 1400"));
    EXPECT(has_entry("00:00:00:00:00:00 dst 192.0.2.2"));
    EXPECT(has_entry("00:00:00:00:00:00 dst 192.0.2.3"));
    EXPECT(!has_entry("dst 192.0.2.1")); /* itself */
    EXPECT(has_entry("52:54:00:00:00:09 dst 192.0.2.2"));
    EXPECT(has_entry("52:54:00:00:00:08 dst 192.0.2.3"));

    remotes[2] = 0xc0000204; /* a node went, another came, a machine moved */
    entries[0].remote = 0xc0000204;
    vxlan.entry_count = 1;
    EXPECT(net_vxlan_ensure(&vxlan, &err) == 0);
    EXPECT(has_entry("00:00:00:00:00:00 dst 192.0.2.2"));
    EXPECT(!has_entry("dst 192.0.2.3"));
    EXPECT(has_entry("00:00:00:00:00:00 dst 192.0.2.4"));
    EXPECT(has_entry("52:54:00:00:00:09 dst 192.0.2.4"));
    EXPECT(!has_entry("52:54:00:00:00:09 dst 192.0.2.2"));
    EXPECT(!has_entry("52:54:00:00:00:08"));

    vxlan.local = 0xc0000202; /* the node has another address */
    vxlan.remote_count = vxlan.entry_count = 0;
    EXPECT(net_vxlan_ensure(&vxlan, &err) == 0);
    EXPECT(world_says("ip -d link show bxv0", "local 192.0.2.2"));
    EXPECT(!has_entry("dst "));
    vxlan.name = "bxv1";
    EXPECT(net_vxlan_ensure(&vxlan, &err) == -ERROR_EXISTS); /* the same number twice */
    vxlan.vni = 1 << 24;
    EXPECT(net_vxlan_ensure(&vxlan, &err) == -ERROR_INVALID);
}

TEST(net_probe, changes_nothing)
{
    struct net_probe probe;
    struct error err = {0};
    struct net_link *links = NULL;
    size_t count = 0;
    world_enter();
    net_probe(&probe);
    EXPECT((probe.problem[0] == '\0') ==
           (probe.can_link && probe.can_tap && probe.can_rules && probe.can_vxlan &&
            probe.can_filter));
    EXPECT(net_links(NET_OWNER, &links, &count, &err) == 0 && count == 0);
    EXPECT(!world_says("nft list ruleset", "blixard"));
    free(links);
}

TEST(net_probe, says_that_root_is_needed)
{
    struct net_probe probe;
    if (seteuid(65534) < 0) {
        SKIP("needs root, to be somebody else");
    }
    net_probe(&probe);
    EXPECT(!probe.can_link && !probe.can_rules && strstr(probe.problem, "root") != NULL);
    EXPECT(seteuid(0) == 0);
}
