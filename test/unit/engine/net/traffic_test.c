/*
 * Two networks of machines, and somebody outside, in network namespaces: real packets through real
 * rules, with DHCP by a client that is not ours.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/file.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "engine/net/dhcp.h"
#include "engine/net/dns.h"
#include "engine/net/flows.h"
#include "engine/net/rules.h"

#include "../../../lib/test.h"
#include "world.h"

enum { UPSTREAM_PORT = 21053, HOST_PORT = 21054 };

/* ---- Who is there ---- */

static const struct net_segment segments[] = {
    {.bridge = "bx0", .address = 0x0a4d0001, .prefix = 24, .zone = 1},
    {.bridge = "bx1", .address = 0x0a4d0101, .prefix = 24, .zone = 2},
};

enum { WEB, DATABASE, OTHER, STRANGER, PORT_COUNT }; /* the last is in the other network */

static struct net_port ports[PORT_COUNT] = {
    [WEB] = {.tap = "bxt0", .mac = {0x52, 0x54, 0, 0, 0, 2}, .address = 0x0a4d0002},
    [DATABASE] = {.tap = "bxt1", .mac = {0x52, 0x54, 0, 0, 0, 3}, .address = 0x0a4d0003},
    [OTHER] = {.tap = "bxt2", .mac = {0x52, 0x54, 0, 0, 0, 4}, .address = 0x0a4d0004},
    [STRANGER] = {.tap = "bxt3", .mac = {0x52, 0x54, 0, 0, 0, 5}, .address = 0x0a4d0102},
};

static const struct net_published published[] = {
    {.host_port = 8080, .address = 0x0a4d0003, .port = 80}};

static struct net_rules rules = {.owner = NET_OWNER,
                                 .segments = segments,
                                 .segment_count = 2,
                                 .ports = ports,
                                 .port_count = PORT_COUNT,
                                 .published = published,
                                 .published_count = 1};

static pid_t machines[PORT_COUNT];
static pid_t outside;

static bool find_lease(const uint8_t mac[NET_MAC_SIZE], struct net_lease *ret_lease, void *context)
{
    const struct net_segment *segment = context;
    for (size_t i = 0; i < PORT_COUNT; i++) {
        if (memcmp(ports[i].mac, mac, NET_MAC_SIZE) == 0 &&
            ((ports[i].address ^ segment->address) & net_mask(segment->prefix)) == 0) {
            *ret_lease = (struct net_lease){.address = ports[i].address,
                                            .prefix = segment->prefix,
                                            .router = segment->address,
                                            .dns = segment->address,
                                            .mtu = 1400,
                                            .hostname = "web",
                                            .domain = "blue.vm.internal"};
            return true;
        }
    }
    return false;
}

static size_t find_address(const char *name, uint32_t *ret_addresses, void *context)
{
    (void)context;
    ret_addresses[0] = ports[WEB].address;
    return strcmp(name, "web.blue") == 0;
}

static bool find_name(uint32_t address, char ret_name[NET_DNS_NAME_SIZE], void *context)
{
    (void)context;
    snprintf(ret_name, NET_DNS_NAME_SIZE, "web.blue." NET_DNS_DOMAIN);
    return address == ports[WEB].address;
}

/* ---- The world ---- */

static void apply(void)
{
    struct error err = {0};
    int r = net_rules_apply(&rules, &err);
    if (r == -ERROR_UNSUPPORTED) {
        SKIP(err.text);
    }
    EXPECT(r == 0);
}

static void make_bridges(void)
{
    struct error err = {0};
    static const uint8_t macs[2][NET_MAC_SIZE] = {{2, 0, 0, 0, 0, 1}, {2, 0, 0, 0, 1, 1}};
    for (size_t i = 0; i < 2; i++) {
        const struct net_bridge bridge = {.owner = NET_OWNER,
                                          .name = segments[i].bridge,
                                          .mac = macs[i],
                                          .address = segments[i].address,
                                          .prefix = segments[i].prefix,
                                          .is_filtered = true};
        int r = net_bridge_ensure(&bridge, &err);
        if (r == -ERROR_UNSUPPORTED) {
            SKIP(err.text);
        }
        EXPECT(r == 0);
        EXPECT(net_forwarding_ensure(bridge.name, &err) == 0);
    }
}

/* Machines are on one end of a veth here; the rules know the other end by its name, as a tap. */
static void make_world(void)
{
    char mac[NET_MAC_TEXT_SIZE];
    world_enter();
    for (size_t i = 0; i < PORT_COUNT; i++) {
        machines[i] = world_add_machine();
    }
    outside = world_add_machine();
    make_bridges();
    /* Off for the host at large: ours must ask for itself. */
    world_run("sysctl -q -w net.bridge.bridge-nf-call-iptables=0");
    for (size_t i = 0; i < PORT_COUNT; i++) {
        world_plug(machines[i], net_mac_format(ports[i].mac, mac), ports[i].tap,
                   segments[i == STRANGER].bridge);
    }
    world_plug(outside, "52:54:00:00:00:99", "out0", NULL);
    EXPECT(world_run("ip addr add 198.51.100.1/24 dev out0") == 0);
    EXPECT(world_run_in(outside, "ip addr add 198.51.100.2/24 dev eth0") == 0);
    apply();
}

static void give_addresses(void)
{
    char text[NET_ADDRESS_TEXT_SIZE];
    for (size_t i = 0; i < PORT_COUNT; i++) {
        MEMORY_OWNED char *add =
            memory_format("ip addr add %s/24 dev eth0", net_address_format(ports[i].address, text));
        MEMORY_OWNED char *route =
            memory_format("ip route add default via %s",
                          net_address_format(segments[i == STRANGER].address, text));
        EXPECT(world_run_in(machines[i], add) == 0);
        EXPECT(world_run_in(machines[i], route) == 0);
    }
}

/* ---- DHCP and DNS ---- */

static void write_script(const char *path)
{
    static const char text[] =
        "#!/bin/sh\n"
        "test \"$1\" = bound || exit 0\n"
        "ip addr add $ip/$mask dev $interface && ip route add default via $router &&\n"
        "echo \"$ip/$mask $router $dns $mtu $hostname $domain $lease\" > ${0%/*}/lease\n";
    struct error err = {0};
    EXPECT(file_write(path, text, strlen(text), 0700, &err) == 0);
    EXPECT(chmod(path, 0700) == 0);
}

/* A resolver of the host's: it says of each question that it does not want to (7). */
static void start_upstream(void)
{
    const struct sockaddr_in at = {.sin_family = AF_INET,
                                   .sin_port = htons(UPSTREAM_PORT),
                                   .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    EXPECT(bind(fd, (const struct sockaddr *)&at, sizeof(at)) == 0);
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    EXPECT(bind(listener, (const struct sockaddr *)&at, sizeof(at)) == 0);
    EXPECT(listen(listener, 4) == 0);
    if (fork() == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (;;) {
            uint8_t bytes[512];
            int one = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
            ssize_t got = recv(one, bytes, sizeof(bytes), 0);
            bytes[4] |= 0x80;
            bytes[5] = 8;
            ssize_t sent = got > 0 ? send(one, bytes, (size_t)got, MSG_NOSIGNAL) : 0;
            (void)sent;
            close(one);
        }
    }
    close(listener);
    if (fork() == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (;;) {
            uint8_t bytes[512];
            struct sockaddr_in from;
            socklen_t length = sizeof(from);
            ssize_t got = recvfrom(fd, bytes, sizeof(bytes), 0, (struct sockaddr *)&from, &length);
            bytes[2] |= 0x80;
            bytes[3] = 7;
            ssize_t sent = sendto(fd, bytes, (size_t)got, 0, (struct sockaddr *)&from, length);
            (void)sent;
        }
    }
    close(fd);
}

static void check_names(pid_t machine)
{
    static const uint8_t elsewhere[] = "\x12\x34\1\0\0\1\0\0\0\0\0\0\7example\3org\0\0\1\0";
    uint8_t answer[512];
    size_t length = sizeof(elsewhere); /* with the NUL: the class's last byte */
    uint8_t query[sizeof(elsewhere)];
    memcpy(query, elsewhere, sizeof(query));
    query[length - 1] = 1;
    EXPECT(world_exchange(machine, "10.77.0.1", 53, query, length, answer, sizeof(answer)) ==
           length);
    EXPECT(memcmp(answer, "\x12\x34", 2) == 0 && answer[3] == 7);
    /* By TCP: two questions in one go, one for elsewhere and one of ours. */
    static const uint8_t own[] = "\x12\x35\1\0\0\1\0\0\0\0\0\0\2vm\10internal\0\0\1\0";
    uint8_t both[2 * sizeof(own) + sizeof(query)];
    size_t used = 0;
    both[used++] = 0;
    both[used++] = (uint8_t)length;
    memcpy(both + used, query, length);
    used += length;
    both[used++] = 0;
    both[used++] = (uint8_t)sizeof(own);
    memcpy(both + used, own, sizeof(own));
    used += sizeof(own);
    both[used - 1] = 1;
    EXPECT(world_converse(machine, "10.77.0.1", 53, both, used, answer, used) == used);
    EXPECT(memcmp(answer + 2, "\x12\x34", 2) == 0 && answer[5] == 8);
    EXPECT(memcmp(answer + 4 + length, "\x12\x35", 2) == 0 && (answer[7 + length] & 15) == 0);
    MEMORY_OWNED char *ask = memory_format(
        "nsenter --net=/proc/%d/ns/net busybox nslookup web.blue.vm.internal 10.77.0.1", machine);
    EXPECT(world_says(ask, "10.77.0.2"));
    MEMORY_OWNED char *reverse = memory_format(
        "nsenter --net=/proc/%d/ns/net busybox nslookup 10.77.0.2 10.77.0.1", machine);
    EXPECT(world_says(reverse, "web.blue.vm.internal"));
}

/* Goal: a machine that knows nothing gets its address and finds the others by name. */
TEST(net_traffic, addresses_and_names_are_had_from_the_bridge)
{
    struct error err = {0};
    struct loop *loop = NULL;
    struct net_dhcp *dhcp = NULL;
    struct net_dns *dns = NULL;
    BUFFER_OWNED struct buffer lease = {0};
    MEMORY_OWNED char *script = memory_format("%s/script", test_folder());
    MEMORY_OWNED char *resolv_conf = memory_format("%s/resolv.conf", test_folder());
    make_world();
    start_upstream();
    write_script(script);
    EXPECT(file_write(resolv_conf, "nameserver 127.0.0.1\n", 21, 0600, &err) == 0);
    EXPECT(loop_new("test", &loop, &err) == 0);
    const struct net_dhcp_options dhcp_options = {.bridge = "bx0",
                                                  .address = segments[0].address,
                                                  .find = find_lease,
                                                  .context = (void *)(uintptr_t)&segments[0]};
    const struct net_dns_options dns_options = {.bridge = "bx0",
                                                .address = segments[0].address,
                                                .resolv_conf = resolv_conf,
                                                .upstream_port = UPSTREAM_PORT,
                                                .find = find_address,
                                                .find_name = find_name};
    EXPECT(net_dhcp_open(loop, &dhcp_options, &dhcp, &err) == 0);
    EXPECT(net_dns_open(loop, &dns_options, &dns, &err) == 0);
    EXPECT(loop_start(loop, &err) == 0);

    MEMORY_OWNED char *ask =
        memory_format("busybox udhcpc -i eth0 -f -n -q -t 20 -T 1 -s %s", script);
    EXPECT(world_run_in(machines[WEB], ask) == 0);
    MEMORY_OWNED char *path = memory_format("%s/lease", test_folder());
    EXPECT(file_read(path, 4096, &lease, &err) == 0);
    EXPECT_STRING(buffer_string(&lease),
                  "10.77.0.2/24 10.77.0.1 10.77.0.1 1400 web blue.vm.internal 86400\n");
    check_names(machines[WEB]);
    EXPECT_STRING(world_hear(machines[WEB], NULL, "198.51.100.2", 80), "198.51.100.1");
    /* In the other network nobody answers: there it is of no server's. */
    MEMORY_OWNED char *once =
        memory_format("busybox udhcpc -i eth0 -f -n -q -t 1 -T 1 -s %s", script);
    EXPECT(world_run_in(machines[STRANGER], once) != 0);

    loop_stop(loop);
    loop_join(loop);
    net_dhcp_close(dhcp);
    net_dns_close(dns);
    loop_free(loop);
}

/* ---- Packets ---- */

TEST(net_traffic, machines_reach_their_network_and_the_world)
{
    make_world();
    give_addresses();
    EXPECT_STRING(world_hear(machines[WEB], NULL, "10.77.0.3", 80), "10.77.0.2");
    EXPECT_STRING(world_hear(machines[DATABASE], NULL, "198.51.100.2", 80), "198.51.100.1");
    EXPECT_STRING(world_hear(0, NULL, "10.77.0.2", 80), "10.77.0.1");
    /* Another network, and from outside past the published ports: not. */
    EXPECT(world_hears_nothing(machines[WEB], NULL, "10.77.1.2", 80));
    EXPECT(world_hears_nothing(machines[STRANGER], NULL, "10.77.0.2", 80));
    EXPECT(world_run_in(outside, "ip route add 10.77.0.0/16 via 198.51.100.1") == 0);
    EXPECT(world_hears_nothing(outside, NULL, "10.77.0.2", 80));
    /* Nor by a name and number that are not its own. */
    EXPECT(world_run_in(machines[WEB], "ip addr add 10.77.0.50/24 dev eth0") == 0);
    EXPECT(world_hears_nothing(machines[WEB], "10.77.0.50", "10.77.0.3", 80));
    EXPECT(world_run_in(machines[OTHER], "ip link set eth0 address 52:54:00:00:00:02") == 0);
    EXPECT(world_hears_nothing(machines[OTHER], NULL, "10.77.0.3", 80));
    /* Nothing is left of it. */
    struct error err = {0};
    EXPECT(net_rules_remove(NET_OWNER, &err) == 0);
    EXPECT(net_link_delete(NET_OWNER, "bx0", &err) == 0);
    EXPECT(net_link_delete(NET_OWNER, "bx1", &err) == 0);
    EXPECT(!world_says("nft list ruleset", "table"));
}

/*
 * Goal: no rule is got round by IPv6, which none of them speaks of.
 * Method: two neighbours that have it; without the rules it is what works between them.
 */
TEST(net_traffic, machines_reach_nobody_by_the_sixth_version)
{
    static const char ping[] = "busybox ping -6 -c 1 -W 1 fd00::3";
    struct error err = {0};
    make_world();
    give_addresses();
    EXPECT(world_run_in(machines[WEB], "ip -6 addr add fd00::2/64 dev eth0 nodad") == 0);
    EXPECT(world_run_in(machines[DATABASE], "ip -6 addr add fd00::3/64 dev eth0 nodad") == 0);
    EXPECT(world_run_in(machines[WEB], ping) != 0);
    EXPECT(!world_says("ip -6 addr show dev bx0", "inet6"));
    EXPECT(net_rules_remove(NET_OWNER, &err) == 0);
    /* The neighbour was asked for in vain until now, and is asked for again once a second. */
    bool reached = false;
    for (int i = 0; i < 30 && !reached; i++) {
        reached = world_run_in(machines[WEB], ping) == 0;
    }
    EXPECT(reached);
}

static uint64_t bytes_between(const struct net_flow *flows, size_t count, uint32_t address,
                              uint32_t peer)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < count; i++) {
        bytes += flows[i].address == address && flows[i].peer == peer ? flows[i].bytes : 0;
    }
    return bytes;
}

/* Goal: what is exchanged is counted by who with whom, and outlives new rules.  Method: a
 * connection between two, one to the world; one that speaks to all its neighbours. */
TEST(net_traffic, who_exchanges_how_much_with_whom_is_counted)
{
    static const uint32_t nodes[] = {0xc6336402}; /* `outside` is another node */
    struct error err = {0};
    struct net_flow *flows = NULL;
    size_t count = 0;
    uint32_t web = ports[WEB].address;
    uint32_t database = ports[DATABASE].address;
    make_world();
    give_addresses();
    EXPECT(net_flows_read(NET_OWNER, &flows, &count, &err) == 0 && count == 0);
    EXPECT(net_flows_restart(&rules, nodes, 1, &flows, &count, &err) == 0 && count == 0);
    EXPECT_STRING(world_hear(machines[WEB], NULL, "10.77.0.3", 80), "10.77.0.2");
    EXPECT_STRING(world_hear(machines[OTHER], NULL, "198.51.100.2", 80), "198.51.100.1");
    apply(); /* rules are made anew, the counters stay */
    EXPECT(net_flows_read(NET_OWNER, &flows, &count, &err) == 0);
    uint64_t before = bytes_between(flows, count, web, database);
    EXPECT(before > 200 && before == bytes_between(flows, count, database, web));
    EXPECT(bytes_between(flows, count, ports[OTHER].address, nodes[0]) > 200);
    EXPECT(bytes_between(flows, count, ports[STRANGER].address, web) == 0);
    free(flows);
    /* A datagram to each neighbour: those who are not there are in the set that has no more room.
     */
    int fd = world_socket(machines[STRANGER], SOCK_DGRAM);
    EXPECT(world_run_in(machines[STRANGER], "ip neigh flush all") == 0);
    for (uint32_t i = 1; i < 255; i++) {
        const struct sockaddr_in to = {
            .sin_family = AF_INET, .sin_port = htons(9), .sin_addr.s_addr = htonl(0x0a4d0000 + i)};
        sendto(fd, "x", 1, 0, (const struct sockaddr *)&to, sizeof(to)); /* by its gateway */
    }
    EXPECT(net_flows_restart(&rules, nodes, 1, &flows, &count, &err) == 0);
    size_t of_stranger = 0;
    for (size_t i = 0; i < count; i++) {
        of_stranger += flows[i].address == ports[STRANGER].address ? 1 : 0;
    }
    EXPECT(of_stranger > 100 && of_stranger <= 2 * NET_FLOW_PEERS_MAX);
    EXPECT(bytes_between(flows, count, web, database) == before);
    free(flows);
    EXPECT(net_flows_read(NET_OWNER, &flows, &count, &err) == 0 && count == 0);
    close(fd);
    EXPECT(net_rules_remove(NET_OWNER, &err) == 0);
    EXPECT(!world_says("nft list ruleset", "table"));
}

TEST(net_traffic, a_published_port_is_reached_from_everywhere)
{
    make_world();
    give_addresses();
    EXPECT_STRING(world_hear(outside, NULL, "198.51.100.1", 8080), "198.51.100.2");
    EXPECT_STRING(world_hear(0, NULL, "198.51.100.1", 8080), "10.77.0.1");
    EXPECT_STRING(world_hear(0, NULL, "127.0.0.1", 8080), "10.77.0.1");
    EXPECT_STRING(world_hear(machines[STRANGER], NULL, "198.51.100.1", 8080), "10.77.1.2");
    /* From its own network, and from itself: by way of the host. */
    EXPECT_STRING(world_hear(machines[WEB], NULL, "198.51.100.1", 8080), "10.77.0.1");
    EXPECT_STRING(world_hear(machines[DATABASE], NULL, "198.51.100.1", 8080), "10.77.0.1");
    EXPECT(world_hears_nothing(outside, NULL, "198.51.100.1", 8081));
    rules.published_count = 0;
    apply();
    EXPECT(world_hears_nothing(outside, NULL, "198.51.100.1", 8080));
}

TEST(net_traffic, machines_keep_to_the_rules_of_both_ends)
{
    static const uint32_t members[] = {0x0a4d0002};
    static const struct net_group group = {"web-servers", members, 1};
    static const struct net_rule from_group[] = {
        {.protocol = NET_TCP, .port_first = 80, .group = "web-servers"}};
    static const struct net_rule from_both[] = {
        {.protocol = NET_TCP, .port_first = 80, .group = "web-servers"},
        {.protocol = NET_TCP, .port_first = 80, .address = 0xc6336400, .prefix = 24}};
    static const struct net_rule to_network[] = {{.address = 0x0a4d0000, .prefix = 24}};
    make_world();
    give_addresses();
    rules.groups = &group;
    rules.group_count = 1;
    ports[DATABASE].has_ingress = true;
    ports[DATABASE].ingress = from_group;
    ports[DATABASE].ingress_count = 1;
    apply();
    EXPECT_STRING(world_hear(machines[WEB], NULL, "10.77.0.3", 80), "10.77.0.2");
    EXPECT(world_hears_nothing(machines[WEB], NULL, "10.77.0.3", 81));
    EXPECT(world_hears_nothing(machines[OTHER], NULL, "10.77.0.3", 80));
    EXPECT_STRING(world_hear(0, NULL, "10.77.0.3", 81), "10.77.0.1"); /* the host's own */
    EXPECT_STRING(world_hear(machines[DATABASE], NULL, "10.77.0.4", 80), "10.77.0.3");
    /* Being published, or coming by way of the host, is no way around them. */
    EXPECT(world_hears_nothing(outside, NULL, "198.51.100.1", 8080));
    EXPECT(world_hears_nothing(machines[OTHER], NULL, "198.51.100.1", 8080));
    EXPECT_STRING(world_hear(machines[WEB], NULL, "198.51.100.1", 8080), "10.77.0.1");
    ports[DATABASE].ingress = from_both;
    ports[DATABASE].ingress_count = 2;
    ports[WEB].has_egress = true;
    ports[WEB].egress = to_network;
    ports[WEB].egress_count = 1;
    apply();
    EXPECT_STRING(world_hear(outside, NULL, "198.51.100.1", 8080), "198.51.100.2");
    EXPECT(world_hears_nothing(machines[WEB], NULL, "198.51.100.2", 80));
    EXPECT_STRING(world_hear(machines[WEB], NULL, "10.77.0.4", 80), "10.77.0.2");
}

/* Goal: taking a rule back ends what it had let in, and nothing else. */
TEST(net_traffic, a_connection_ends_with_the_rule_that_allowed_it)
{
    static const struct net_rule web_only[] = {
        {.protocol = NET_TCP, .port_first = 82, .address = 0x0a4d0002, .prefix = 32}};
    const struct sockaddr_in at = {
        .sin_family = AF_INET, .sin_port = htons(82), .sin_addr.s_addr = htonl(0x0a4d0003)};
    make_world();
    give_addresses();
    apply();
    int listener = world_socket(machines[DATABASE], SOCK_STREAM);
    int web = world_socket(machines[WEB], SOCK_STREAM);
    int other = world_socket(machines[OTHER], SOCK_STREAM);
    EXPECT(bind(listener, (const struct sockaddr *)&at, sizeof(at)) == 0);
    EXPECT(listen(listener, 4) == 0);
    EXPECT(connect(web, (const struct sockaddr *)&at, sizeof(at)) == 0);
    int of_web = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    EXPECT(connect(other, (const struct sockaddr *)&at, sizeof(at)) == 0);
    int of_other = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    EXPECT(send(web, "a", 1, 0) == 1 && world_comes(of_web));
    EXPECT(send(other, "a", 1, 0) == 1 && world_comes(of_other));
    ports[DATABASE].has_ingress = true;
    ports[DATABASE].ingress = web_only;
    ports[DATABASE].ingress_count = 1;
    apply();
    EXPECT(send(web, "b", 1, 0) == 1 && world_comes(of_web));
    EXPECT(send(of_web, "b", 1, 0) == 1 && world_comes(web));
    EXPECT(send(other, "b", 1, 0) == 1 && world_comes_nothing(of_other));
    /* What the machine begins itself is answered as before. */
    EXPECT_STRING(world_hear(machines[DATABASE], NULL, "10.77.0.4", 80), "10.77.0.3");
    ports[DATABASE].has_ingress = false;
    apply();
    EXPECT(world_comes(of_other)); /* it was sent again and again */
    close(listener);
    close(web);
    close(other);
    close(of_web);
    close(of_other);
}

/* Two ends of a connection to that port of the host, of which the machine has the other. */
struct ends {
    int near;
    int far;
};

static struct ends connect_to(pid_t from, int listener, uint16_t port)
{
    const struct sockaddr_in to = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(0xc6336401)};
    struct ends ends = {.near = world_socket(from, SOCK_STREAM)};
    EXPECT(connect(ends.near, (const struct sockaddr *)&to, sizeof(to)) == 0);
    ends.far = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    EXPECT(send(ends.near, "a", 1, 0) == 1 && world_comes(ends.far));
    return ends;
}

static bool is_reset(const struct ends *ends)
{
    return send(ends->near, "b", 1, 0) == 1 && !world_comes(ends->near) && errno == ECONNRESET &&
        world_comes_nothing(ends->far);
}

static bool goes_on(const struct ends *ends)
{
    return send(ends->near, "b", 1, 0) == 1 && world_comes(ends->far) &&
        send(ends->far, "b", 1, 0) == 1 && world_comes(ends->near);
}

/*
 * Goal: a port that is published no more ends what came by it, from outside and of the host itself;
 * what comes by another one goes on.
 */
TEST(net_traffic, a_connection_ends_with_the_port_that_published_it)
{
    static const struct net_published both[] = {
        {.host_port = 8082, .address = 0x0a4d0003, .port = 82},
        {.host_address = 0xc6336401, .host_port = 8083, .address = 0x0a4d0003, .port = 82}};
    const struct sockaddr_in at = {
        .sin_family = AF_INET, .sin_port = htons(82), .sin_addr.s_addr = htonl(0x0a4d0003)};
    struct ends ended[2];
    struct ends others[2];
    make_world();
    give_addresses();
    rules.published = both;
    rules.published_count = 2;
    apply();
    int listener = world_socket(machines[DATABASE], SOCK_STREAM);
    EXPECT(bind(listener, (const struct sockaddr *)&at, sizeof(at)) == 0);
    EXPECT(listen(listener, 4) == 0);
    for (int i = 0; i < 2; i++) {
        pid_t from = i == 0 ? outside : 0; /* the host's own */
        ended[i] = connect_to(from, listener, 8082);
        others[i] = connect_to(from, listener, 8083);
    }
    rules.published = &both[1];
    rules.published_count = 1;
    apply();
    for (int i = 0; i < 2; i++) {
        EXPECT(is_reset(&ended[i]));
        EXPECT(goes_on(&others[i]));
        close(ended[i].near);
        close(ended[i].far);
        close(others[i].near);
        close(others[i].far);
    }
    close(listener);
}

/* Goal: of the host a machine reaches what it was given, and nothing by the way of 127.0.0.1. */
TEST(net_traffic, the_host_is_not_the_machines)
{
    static const uint16_t host_ports[] = {HOST_PORT};
    const struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(HOST_PORT)};
    make_world();
    give_addresses();
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    EXPECT(bind(fd, (const struct sockaddr *)&at, sizeof(at)) == 0 && listen(fd, 16) == 0);
    if (fork() == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (;;) {
            int one = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
            ssize_t sent = send(one, "host", 4, MSG_NOSIGNAL);
            (void)sent;
            close(one);
        }
    }
    EXPECT(world_hears_nothing(machines[WEB], NULL, "10.77.0.1", HOST_PORT));
    EXPECT(world_hears_nothing(machines[WEB], NULL, "198.51.100.1", HOST_PORT));
    EXPECT_STRING(world_hear(outside, NULL, "198.51.100.1", HOST_PORT), "host");
    EXPECT(world_run_in(machines[WEB], "sysctl -q -w net.ipv4.conf.eth0.route_localnet=1") == 0);
    EXPECT(world_run_in(machines[WEB], "ip addr del 127.0.0.1/8 dev lo") == 0);
    EXPECT(world_run_in(machines[WEB], "ip route add 127.0.0.1/32 via 10.77.0.1") == 0);
    EXPECT(world_hears_nothing(machines[WEB], "10.77.0.2", "127.0.0.1", HOST_PORT));
    rules.host_ports = host_ports;
    rules.host_port_count = 1;
    apply();
    EXPECT_STRING(world_hear(machines[WEB], NULL, "10.77.0.1", HOST_PORT), "host");
    EXPECT(world_hears_nothing(machines[WEB], "10.77.0.2", "127.0.0.1", HOST_PORT));
}

/* ---- Two nodes ---- */

static const uint8_t gateway[NET_MAC_SIZE] = {2, 0, 0, 0, 0, 1};

static struct net_port far_port = {
    .tap = "bxt1", .mac = {0x52, 0x54, 0, 0, 0, 3}, .address = 0x0a4d0003};

/* The same network on each; what differs is who they are, and whose machine is there. */
static void make_node(uint32_t local, uint32_t remote, const struct net_port *port)
{
    struct error err = {0};
    const struct net_bridge bridge = {.owner = NET_OWNER,
                                      .name = "bx0",
                                      .mac = gateway,
                                      .mtu = 1400,
                                      .address = 0x0a4d0001,
                                      .prefix = 24};
    const struct net_vxlan vxlan = {.owner = NET_OWNER,
                                    .name = "bxv0",
                                    .bridge = "bx0",
                                    .vni = 77,
                                    .local = local,
                                    .remotes = &remote,
                                    .remote_count = 1};
    const struct net_segment segment = {
        .bridge = "bx0", .vxlan = "bxv0", .mac = gateway, .address = 0x0a4d0001, .prefix = 24};
    const struct net_rules both = {.owner = NET_OWNER,
                                   .segments = &segment,
                                   .segment_count = 1,
                                   .ports = port,
                                   .port_count = 1};
    EXPECT(net_bridge_ensure(&bridge, &err) == 0);
    EXPECT(net_vxlan_ensure(&vxlan, &err) == 0);
    EXPECT(net_rules_apply(&both, &err) == 0);
}

static void make_far_node(void)
{
    make_node(0xc0000202, 0xc0000201, &far_port);
}

static void announce_far(void)
{
    struct error err = {0};
    EXPECT(net_announce("bx0", far_port.mac, far_port.address, &err) == 0);
}

static void plug_far(pid_t node, pid_t machine)
{
    MEMORY_OWNED char *add = memory_format(
        "ip link add bxt1 type veth peer name eth0 address 52:54:00:00:00:03 netns %d", machine);
    EXPECT(world_run_in(node, add) == 0);
    EXPECT(world_run_in(node, "ip link set bxt1 master bx0 up") == 0);
    EXPECT(world_run_in(machine, "ip link set eth0 up") == 0);
    EXPECT(world_run_in(machine, "ip addr add 10.77.0.3/24 dev eth0") == 0);
}

/* Goal: machines of one network meet across nodes, and each keeps the gateway of its own node; one
 * that moved is found when it was announced. */
TEST(net_traffic, a_network_goes_over_nodes)
{
    struct net_probe probe;
    world_enter();
    net_probe(&probe);
    if (!probe.can_vxlan || !probe.can_rules) {
        SKIP(probe.problem);
    }
    pid_t near_machine = world_add_machine();
    pid_t far_machine = world_add_machine();
    pid_t far_node = world_add_machine();
    world_plug(far_node, "52:54:00:00:01:02", "under0", NULL);
    EXPECT(world_run("ip addr add 192.0.2.1/24 dev under0") == 0);
    EXPECT(world_run_in(far_node, "ip addr add 192.0.2.2/24 dev eth0") == 0);
    make_node(0xc0000201, 0xc0000202, &ports[WEB]);
    world_call_in(far_node, make_far_node);
    world_plug(near_machine, "52:54:00:00:00:02", ports[WEB].tap, "bx0");
    EXPECT(world_run_in(near_machine, "ip addr add 10.77.0.2/24 dev eth0") == 0);
    plug_far(far_node, far_machine);

    EXPECT_STRING(world_hear(near_machine, NULL, "10.77.0.3", 80), "10.77.0.2");
    EXPECT_STRING(world_hear(far_machine, NULL, "10.77.0.2", 80), "10.77.0.3");
    EXPECT_STRING(world_hear(0, NULL, "10.77.0.2", 80), "10.77.0.1");
    EXPECT(world_says("bridge fdb show br bx0", "52:54:00:00:00:03 dev bxv0 master"));
    EXPECT(!world_says("bridge fdb show dev bxv0", "02:00:00:00:00:01"));

    /* It moves: the same machine is plugged in here, and the far node hears of it by the
     * announcement alone. */
    EXPECT(world_run_in(far_node, "ip link del bxt1") == 0);
    world_plug(far_machine, "52:54:00:00:00:03", "bxt1", "bx0");
    announce_far();
    MEMORY_OWNED char *far =
        memory_format("nsenter --net=/proc/%d/ns/net bridge fdb show", far_node);
    for (int i = 0; i < 100 && !world_says(far, "52:54:00:00:00:03 dev bxv0 master"); i++) {
        announce_far();
    }
    EXPECT(world_says(far, "52:54:00:00:00:03 dev bxv0 master"));
    EXPECT(world_says(far, "52:54:00:00:00:03 dev bxv0 dst 192.0.2.1"));
}
