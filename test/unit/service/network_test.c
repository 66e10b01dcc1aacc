/* What people may say of networks, rules and ports; and which subnet is chosen. */
#include <string.h>

#include "base/error.h"
#include "base/json.h"

#include "service/network/parts.h"

#include "test/lib/test.h"

static int parse(const char *text, struct network_settings *ret_settings)
{
    struct error err = {0};
    JSON_OWNED json_t *create = NULL;
    EXPECT(json_read(text, strlen(text), &create, &err) == 0);
    return settings_parse_network(create, ret_settings, &err);
}

TEST(network, has_defaults_for_all_but_its_name)
{
    struct network_settings settings;
    EXPECT(parse("{\"name\":\"back\"}", &settings) == 0);
    EXPECT(settings.subnet.prefix == 0 && settings.mode == NET_TRANSLATED);
    EXPECT(settings.mtu == NETWORK_MTU_DEFAULT && !settings.is_peering);
    EXPECT(parse("{\"name\":\"back\",\"subnet\":\"10.1.0.0/16\"}", &settings) == 0);
    EXPECT(settings.gateway == 0x0a010001);
    EXPECT(parse("{\"name\":\"back\",\"subnet\":\"10.1.0.0/16\",\"gateway\":\"10.1.9.9\"}",
                 &settings) == 0);
    EXPECT(settings.gateway == 0x0a010909);
    EXPECT(settings.dns[0] == '\0' && settings.description[0] == '\0');
    EXPECT(
        parse("{\"name\":\"back\",\"dns\":[\"9.9.9.9\",\"2620:fe::fe\"],\"description\":\"of the "
              "shop\"}",
              &settings) == 0);
    EXPECT_STRING(settings.dns, "9.9.9.9 2620:fe::fe");
    EXPECT_STRING(settings.description, "of the shop");
}

TEST(network, refuses_what_cannot_be_one)
{
    static const char *const wrong[] = {
        "{\"name\":\"\"}",
        "{\"name\":\"user\"}",
        "{\"name\":\"b\",\"dns\":[\"127.0.0.1\"]}",
        "{\"name\":\"b\",\"dns\":[\"::1\"]}",
        "{\"name\":\"b\",\"dns\":[\"::ffff:127.0.0.1\"]}",
        "{\"name\":\"b\",\"dns\":[\"9.9.9.9 1.1.1.1\"]}",
        "{\"name\":\"b\",\"dns\":[\"9.9.9.9\",\"9.9.9.9\",\"9.9.9.9\",\"9.9.9.9\"]}",
        "{\"name\":\"b\",\"description\":\"two\\nlines\"}",
        "{\"name\":\"Back\"}",
        "{\"name\":\"b\",\"subnet\":\"10.1.0.1/16\"}",
        "{\"name\":\"b\",\"subnet\":\"10.1.0.0/30\"}",
        "{\"name\":\"b\",\"subnet\":\"8.0.0.0/7\"}",
        "{\"name\":\"b\",\"subnet\":\"127.1.0.0/16\"}",
        "{\"name\":\"b\",\"subnet\":\"224.0.0.0/24\"}",
        "{\"name\":\"b\",\"subnet\":\"169.254.1.0/24\"}",
        "{\"name\":\"b\",\"gateway\":\"10.1.0.1\"}",
        "{\"name\":\"b\",\"subnet\":\"10.1.0.0/24\",\"gateway\":\"10.1.0.0\"}",
        "{\"name\":\"b\",\"subnet\":\"10.1.0.0/24\",\"gateway\":\"10.1.0.255\"}",
        "{\"name\":\"b\",\"subnet\":\"10.1.0.0/24\",\"gateway\":\"10.1.1.1\"}",
        "{\"name\":\"b\",\"mode\":\"open\"}",
        "{\"name\":\"b\",\"mtu\":100}",
        "{\"name\":\"b\",\"mtu\":-1}",
        "{\"name\":\"b\",\"mtu\":70000}",
    };
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        struct network_settings settings = {.mtu = 7};
        EXPECT(parse(wrong[i], &settings) == -ERROR_INVALID);
        EXPECT(settings.mtu == 7);
    }
}

TEST(network, gets_the_first_subnet_that_overlaps_no_other)
{
    struct network_range range;
    struct error err = {0};
    const struct network_range taken[] = {{0x0a400000, 24}, {0x0a400280, 25}, {0x0a400200, 26}};
    EXPECT(settings_choose_subnet(taken, 0, 0, &range, &err) == 0 && range.address == 0x0a400000);
    EXPECT(settings_choose_subnet(taken, 3, 0, &range, &err) == 0 && range.address == 0x0a400100);
    EXPECT(settings_choose_subnet(taken, 3, 1, &range, &err) == 0 && range.address == 0x0a400300);
    const struct network_range all = {0x0a000000, 8};
    EXPECT(settings_choose_subnet(&all, 1, 0, &range, &err) == -ERROR_LIMIT);
}

TEST(network, a_rule_has_one_way_to_be_said)
{
    static const struct {
        const char *direction;
        const char *allow;
        const char *peer;
        const char *ret_allow;
        const char *ret_peer;
    } rules[] = {
        {"", "tcp/80", "", "tcp/80", ""},
        {"in", "tcp/080-0080", "10.1.2.3", "tcp/80", "10.1.2.3/32"},
        {"out", "udp/1-65535", "10.0.0.0/8", "udp/1-65535", "10.0.0.0/8"},
        {"", "any", "0.0.0.0/0", "any", ""},
        {"", "icmp", "group:web", "icmp", "group:web"},
    };
    for (size_t i = 0; i < sizeof(rules) / sizeof(rules[0]); i++) {
        struct network_rule rule;
        struct error err = {0};
        EXPECT(settings_parse_rule(rules[i].direction, rules[i].allow, rules[i].peer, &rule,
                                   &err) == 0);
        EXPECT(strcmp(rule.allow, rules[i].ret_allow) == 0);
        EXPECT(strcmp(rule.peer, rules[i].ret_peer) == 0);
        EXPECT(rule.is_out == (strcmp(rules[i].direction, "out") == 0));
    }
}

TEST(network, a_rule_that_is_not_understood_is_refused)
{
    static const char *const wrong[][3] = {
        {"up", "any", ""},         {"", "", ""},          {"", "sctp", ""},
        {"", "icmp/8", ""},        {"", "any/1", ""},     {"", "tcp/", ""},
        {"", "tcp/0", ""},         {"", "tcp/65536", ""}, {"", "tcp/9-8", ""},
        {"", "tcp/1-", ""},        {"", "tcp/-1", ""},    {"", "tcp/1-2-3", ""},
        {"", "tcp", "10.0.0.1/8"}, {"", "tcp", "group:"}, {"", "tcp", "group:Web"},
        {"", "tcp", "web"},        {"", "tcp", "1.2.3"},  {"", "TCP/80", ""},
    };
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        struct network_rule rule;
        struct error err = {0};
        EXPECT(settings_parse_rule(wrong[i][0], wrong[i][1], wrong[i][2], &rule, &err) ==
               -ERROR_INVALID);
    }
}

TEST(network, ports_are_published_at_an_address_or_at_all)
{
    struct network_publish publish;
    struct error err = {0};
    EXPECT(network_publish_parse("127.0.0.1:8080:80", &publish, &err) == 0);
    EXPECT(strcmp(publish.address, "127.0.0.1") == 0 && publish.host_port == 8080);
    EXPECT(publish.guest_port == 80 && !publish.is_udp);
    EXPECT(network_publish_parse("53:5353/udp", &publish, &err) == 0);
    EXPECT(publish.address[0] == '\0' && publish.is_udp);
    static const char *const wrong[] = {"80",    ":80",     "80:",           "0:80",
                                        "1:2:3", "a:1:2",   "1.2.3.4.5:1:2", "1.2.3.256:1:2",
                                        "1:2/x", "1:65536", "01.2.3.4:1:2",  "::1:1:2"};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        EXPECT(network_publish_parse(wrong[i], &publish, &err) == -ERROR_INVALID);
    }
    EXPECT(network_publish_parse("[::1]:8080:80", &publish, &err) == -ERROR_INVALID &&
           strstr(err.text, "IPv4") != NULL);
}

TEST(network, names_of_links_fit_and_differ)
{
    char first[NET_NAME_SIZE];
    char second[NET_NAME_SIZE];
    plan_tap_name("0123456789abcdef", 0, first);
    plan_tap_name("0123456789abcdef", 3, second);
    EXPECT(net_name_is_valid(first) && strcmp(first, second) != 0);
    uint8_t mac[NET_MAC_SIZE];
    uint8_t other[NET_MAC_SIZE];
    char text[NET_MAC_TEXT_SIZE];
    plan_gateway_mac(NETWORK_VNI_MAX, mac);
    plan_gateway_mac(NETWORK_VNI_MIN, other);
    EXPECT(net_mac_parse(net_mac_format(mac, text), mac) && memcmp(mac, other, sizeof(mac)) != 0);
}
