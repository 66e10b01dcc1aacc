/* Rules of the packet filter: rendered, and taken by the kernel. */
#include "engine/net/rules.h"

#include <unistd.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "engine/net/flows.h"

#include "../../../lib/test.h"
#include "world.h"

static const uint8_t gateway[NET_MAC_SIZE] = {0x02, 0xb1, 0, 0, 0, 1};

static const struct net_segment two[] = {
    {.bridge = "bx0", .address = 0x0a4d0001, .prefix = 24, .zone = 1},
    {.bridge = "bx1",
     .vxlan = "bxv1",
     .mac = gateway,
     .address = 0x0a4d0101,
     .prefix = 24,
     .mode = NET_CLOSED,
     .zone = 2},
};

static const uint32_t members[] = {0x0a4d0002, 0x0a4d0003};
static const struct net_group groups[] = {{"web-servers", members, 2}, {"empty", NULL, 0}};

static const struct net_rule ingress[] = {
    {.protocol = NET_TCP, .port_first = 80},
    {.protocol = NET_UDP,
     .port_first = 1000,
     .port_last = 2000,
     .address = 0xc0000201,
     .prefix = 24},
    {.protocol = NET_ICMP},
    {.group = "web-servers"},
};
static const struct net_rule egress[] = {{.protocol = NET_TCP, .group = "empty"}};

static const struct net_port ports[] = {
    {.tap = "bxt0", .mac = {0x52, 0x54, 0, 0, 0, 2}, .address = 0x0a4d0002},
    {.tap = "bxt1",
     .mac = {0x52, 0x54, 0, 0, 0, 3},
     .address = 0x0a4d0003,
     .has_ingress = true,
     .ingress = ingress,
     .ingress_count = 4,
     .has_egress = true,
     .egress = egress,
     .egress_count = 1},
    {.tap = "bxt2", .mac = {0x52, 0x54, 0, 0, 0, 4}, .address = 0x0a4d0104, .may_spoof = true},
};
static const struct net_published published[] = {
    {.host_port = 8080, .address = 0x0a4d0002, .port = 80},
    {.host_address = 0xc0000202,
     .host_port = 53,
     .is_udp = true,
     .address = 0x0a4d0104,
     .port = 5353},
};
static const uint16_t host_ports[] = {7480};

static struct net_rules usual(void)
{
    return (struct net_rules){.owner = "blixard-7",
                              .segments = two,
                              .segment_count = 2,
                              .ports = ports,
                              .port_count = 3,
                              .groups = groups,
                              .group_count = 2,
                              .published = published,
                              .published_count = 2,
                              .host_ports = host_ports,
                              .host_port_count = 1};
}

static bool renders(const struct net_rules *rules, const char *part)
{
    struct error err = {0};
    BUFFER_OWNED struct buffer out = {0};
    EXPECT(net_rules_render(rules, &out, &err) == 0);
    return strstr(buffer_string(&out), part) != NULL;
}

TEST(net_rules, say_what_was_described)
{
    const struct net_rules rules = usual();
    EXPECT(renders(&rules, "delete table inet blixard_7\n"));
    EXPECT(renders(&rules, "tcp . 8080 : 10.77.0.2 . 80 }"));
    EXPECT(renders(&rules, "192.0.2.2 . udp . 53 : 10.77.1.4 . 5353 }"));
    EXPECT(renders(&rules, "\"bx0\" . \"bx0\",\n      \"bx1\" . \"bx1\" }")); /* two zones */
    EXPECT(renders(&rules,
                   "    tcp dport 80-80 return\n"
                   "    ip saddr 192.0.2.0/24 udp dport 1000-2000 return\n"
                   "    meta l4proto icmp return\n"
                   "    ip saddr @group_web_servers return\n"
                   "    drop\n"));
    EXPECT(renders(&rules, "    ip daddr @group_empty meta l4proto tcp return\n    drop\n"));
    EXPECT(renders(&rules, "    elements = { 10.77.0.3 : jump to_1 };"));
    EXPECT(renders(&rules, "\"bxt0\" : jump from_0,\n      \"bxt1\" : jump from_1 }"));
    EXPECT(!renders(&rules, "from_2"));
    EXPECT(renders(&rules, "ip saddr 10.77.0.0/24 ip daddr != @subnets"));
    EXPECT(!renders(&rules, "ip saddr 10.77.1.0/24 ip daddr != @subnets")); /* it is closed */
    EXPECT(renders(&rules, "    tcp dport 7480 accept\n"));
}

TEST(net_rules, zones_are_the_only_way_to_another_network)
{
    struct net_segment segments[3] = {two[0], two[0], two[0]};
    const struct net_rules rules = {.owner = "blixard", .segments = segments, .segment_count = 3};
    segments[1].bridge = "bx1";
    segments[1].address = 0x0a4d0101;
    segments[2].bridge = "bx2";
    segments[2].address = 0x0a4d0201;
    segments[2].zone = segments[1].zone = 0;
    EXPECT(!renders(&rules, "\"bx1\" . \"bx2\"") && !renders(&rules, "\"bx0\" . \"bx1\""));
    segments[2].zone = 1;
    EXPECT(renders(&rules, "\"bx0\" . \"bx2\"") && renders(&rules, "\"bx2\" . \"bx0\""));
    EXPECT(!renders(&rules, "\"bx1\" . \"bx2\""));
}

TEST(net_rules, none_are_only_a_removal)
{
    const struct net_rules rules = {.owner = "blixard"};
    BUFFER_OWNED struct buffer out = {0};
    struct error err = {0};
    EXPECT(net_rules_render(&rules, &out, &err) == 0);
    EXPECT_STRING(buffer_string(&out),
                  "add table inet blixard\ndelete table inet blixard\n"
                  "add table bridge blixard\ndelete table bridge blixard\n");
}

static int render(const struct net_rules *rules)
{
    struct error err = {0};
    BUFFER_OWNED struct buffer out = {0};
    int r = net_rules_render(rules, &out, &err);
    EXPECT(out.used == 0 || r == 0);
    return r;
}

TEST(net_rules, what_cannot_be_is_refused)
{
    struct net_segment segments[2] = {two[0], two[1]};
    struct net_port port = ports[1];
    struct net_rule rule = {.protocol = NET_TCP, .port_first = 80};
    struct net_rules rules = usual();
    rules.segments = segments;
    rules.ports = &port;
    rules.port_count = 1;
    port.ingress = &rule;
    port.ingress_count = 1;
    EXPECT(render(&rules) == 0);
    segments[1].address = 0x0a4d00f1;
    EXPECT(render(&rules) == -ERROR_CONFLICT); /* they overlap */
    segments[1] = two[1];
    segments[1].mac = NULL;
    EXPECT(render(&rules) == -ERROR_INVALID);
    segments[1] = two[1];
    segments[1].bridge = "a\" } ; flush ruleset";
    EXPECT(render(&rules) == -ERROR_INVALID);
    segments[1] = two[1];
    port.tap = "*";
    EXPECT(render(&rules) == -ERROR_INVALID);
    port.tap = "bxt1";
    rule.group = "unheard-of";
    EXPECT(render(&rules) == -ERROR_INVALID);
    rule.group = NULL;
    rule.port_last = 79;
    EXPECT(render(&rules) == -ERROR_INVALID);
    rule.port_last = 80;
    EXPECT(render(&rules) == 0);
    rule.protocol = NET_ICMP;
    EXPECT(render(&rules) == -ERROR_INVALID);
    rule = (struct net_rule){.prefix = 33};
    EXPECT(render(&rules) == -ERROR_INVALID);
    rule = (struct net_rule){0};
    port.ingress_count = NET_PORT_RULES_MAX + 1;
    EXPECT(render(&rules) == -ERROR_LIMIT);
    port.ingress_count = 0;
    rules.owner = "7";
    EXPECT(render(&rules) == -ERROR_INVALID);
    rules.owner = "blixard";
    rules.port_count = NET_PORTS_MAX + 1;
    EXPECT(render(&rules) == -ERROR_LIMIT);
}

TEST(net_rules, others_that_drop_are_seen)
{
    char name[160] = "";
    EXPECT(net_rules_read_foreign("table ip nat {\n\tchain FORWARD {\n\t}\n}\n"
                                  "table ip filter {\n\tchain INPUT {\n"
                                  "\t\ttype filter hook input priority filter; policy drop;\n\t}\n"
                                  "\tchain FORWARD {\n"
                                  "\t\ttype filter hook forward priority filter; policy drop;\n",
                                  name, sizeof(name)));
    EXPECT_STRING(name, "table ip filter, chain FORWARD");
    EXPECT(!net_rules_read_foreign("", name, sizeof(name)));
    EXPECT(!net_rules_read_foreign(
        "table ip6 filter {\n\tchain FORWARD {\n"
        "\t\ttype filter hook forward priority filter; policy drop;\n\t}\n}\n"
        "table inet blixard {\n\tchain forward {\n"
        "\t\ttype filter hook forward priority filter; policy accept;\n",
        name, sizeof(name)));
}

/* Goal: it is found where it is, as the kernel lists it. */
TEST(net_rules, others_that_drop_are_found)
{
    char name[160] = "";
    world_enter();
    if (world_run("nft add table inet foreign") != 0) {
        SKIP("needs nf_tables");
    }
    EXPECT(!net_rules_find_foreign(name, sizeof(name)));
    /* Words, as nft joins its arguments. */
    EXPECT(world_run("nft add chain inet foreign fw { type filter hook forward priority 0 ; policy "
                     "drop ; }") == 0);
    EXPECT(net_rules_find_foreign(name, sizeof(name)));
    EXPECT_STRING(name, "table inet foreign, chain fw");
}

/* Goal: the kernel takes all of it, again and again, and nothing is left when there is nothing. */
TEST(net_rules, are_taken_by_the_kernel)
{
    struct error err = {0};
    struct net_rules rules = usual();
    world_enter();
    int r = net_rules_apply(&rules, &err);
    if (r == -ERROR_UNSUPPORTED) {
        SKIP(err.text);
    }
    EXPECT(r == 0);
    EXPECT(net_rules_apply(&rules, &err) == 0);
    EXPECT(world_says("nft list ruleset", "table inet blixard_7"));
    EXPECT(world_says("nft list ruleset", "table bridge blixard_7"));
    EXPECT(world_run("nft add table inet foreign") == 0);
    EXPECT(net_rules_remove("blixard-7", &err) == 0);
    EXPECT(net_rules_remove("blixard-7", &err) == 0);
    EXPECT(!world_says("nft list ruleset", "blixard"));
    EXPECT(world_says("nft list ruleset", "table inet foreign"));
}

static void count_lost(void *context)
{
    struct watched {
        struct loop *loop;
        unsigned lost;
    } *watched = context;
    watched->lost++;
    loop_stop(watched->loop);
}

static void stop(void *context)
{
    loop_stop(context);
}

/* Goal: rules that somebody throws away are missed, and our own replacing is not taken for that.
 * Method: replace them and see nothing for a while; flush, and wait to be called. */
TEST(net_rules, are_missed_when_others_throw_them_away)
{
    struct {
        struct loop *loop;
        unsigned lost;
    } watched = {0};
    struct error err = {0};
    struct net_rules_watch *watch = NULL;
    const struct net_rules rules = usual();
    world_enter();
    int r = net_rules_apply(&rules, &err);
    if (r == -ERROR_UNSUPPORTED) {
        SKIP(err.text);
    }
    EXPECT(r == 0 && net_rules_are_there("blixard-7") && !net_rules_are_there("blixard"));
    EXPECT(loop_new("test", &watched.loop, &err) == 0);
    EXPECT(net_rules_watch(watched.loop, "blixard-7", count_lost, &watched, &watch, &err) == 0);
    struct loop_timer *timer = loop_timer_new(watched.loop, stop, watched.loop);
    EXPECT(net_rules_apply(&rules, &err) == 0);
    loop_timer_start(timer, 600);
    loop_run(watched.loop);
    EXPECT(watched.lost == 0);
    EXPECT(world_run("nft flush ruleset") == 0);
    EXPECT(!net_rules_are_there("blixard-7"));
    loop_run(watched.loop); /* until it is noticed */
    EXPECT(watched.lost == 1);
    net_rules_unwatch(watch);
    loop_timer_free(timer);
    loop_free(watched.loop);
}

/* Goal: what fails changes nothing.  Method: an ordinary user asks. */
TEST(net_flows, what_the_filter_says_is_read_and_nothing_else_is_believed)
{
    struct error err = {0};
    struct net_flow *flows = NULL;
    size_t count = 0;
    static const char said[] =
        "{\"nftables\": [{\"metainfo\": {}}, {\"set\": {\"name\": \"near\", \"elem\": "
        "[{\"prefix\": "
        "{\"addr\": \"10.77.0.0\", \"len\": 24}}]}}, {\"set\": {\"name\": \"of_0a4d0002\", "
        "\"elem\": "
        "[{\"elem\": {\"val\": \"10.77.0.3\", \"counter\": {\"packets\": 2, \"bytes\": 100}}}, "
        "{\"elem\": {\"val\": \"10.77.0.2\", \"counter\": {\"packets\": 2, \"bytes\": 7}}}, "
        "{\"elem\": {\"val\": 7}}, \"10.77.0.9\", 5]}}, {\"set\": {\"name\": \"to_0a4d0002\", "
        "\"elem\": [{\"elem\": {\"val\": \"10.77.0.3\", \"counter\": {\"bytes\": 11}}}]}}, "
        "{\"set\": "
        "{\"name\": \"of_x\"}}, {\"set\": {\"name\": \"o\"}}, {\"set\": {\"name\": \"to_0\", "
        "\"elem\": 3}}]}";
    EXPECT(net_flows_parse(said, &flows, &count, &err) == 0 && count == 1);
    EXPECT(flows[0].address == 0x0a4d0002 && flows[0].peer == 0x0a4d0003);
    EXPECT(flows[0].bytes == 111);
    free(flows);
    EXPECT(net_flows_parse("{\"nftables\": 3}", &flows, &count, &err) == -ERROR_PROTOCOL);
    EXPECT(net_flows_parse("nonsense", &flows, &count, &err) == -ERROR_PROTOCOL);
}

TEST(net_rules, all_or_nothing)
{
    struct error err = {0};
    struct net_rules rules = usual();
    world_enter();
    int r = net_rules_apply(&rules, &err);
    if (r == -ERROR_UNSUPPORTED) {
        SKIP(err.text);
    }
    EXPECT(r == 0);
    EXPECT(seteuid(65534) == 0);
    EXPECT(net_rules_remove("blixard-7", &err) == -ERROR_DENIED);
    EXPECT(strstr(err.text, "root") != NULL);
    EXPECT(seteuid(0) == 0);
    EXPECT(world_says("nft list ruleset", "table inet blixard_7"));
}
