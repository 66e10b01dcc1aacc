/* What people say of networks, rules and ports, as text.  Pure. */
#include <arpa/inet.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/text.h"

#include "service/network/parts.h"

/* ---- Networks ---- */

static const char *const modes[] = {
    [NET_TRANSLATED] = "nat", [NET_ROUTED] = "routed", [NET_CLOSED] = "closed"};

const char *settings_mode_text(enum net_mode mode)
{
    return modes[mode];
}

bool settings_mode_parse(const char *text, enum net_mode *ret_mode)
{
    for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
        if (strcmp(text, modes[i]) == 0) {
            *ret_mode = (enum net_mode)i;
            return true;
        }
    }
    return false;
}

static bool overlaps(const struct network_range *a, const struct network_range *b)
{
    return a->address <= range_last(b) && b->address <= range_last(a);
}

/* Loopback, link-local, multicast and above: of these no host can be a neighbour. */
static bool is_for_machines(const struct network_range *range)
{
    static const struct network_range never[] = {
        {0, 8}, {UINT32_C(0x7f000000), 8}, {UINT32_C(0xa9fe0000), 16}, {UINT32_C(0xe0000000), 3}};
    for (size_t i = 0; i < sizeof(never) / sizeof(never[0]); i++) {
        if (overlaps(range, &never[i])) {
            return false;
        }
    }
    return true;
}

int settings_check_subnet(struct network_settings *settings, struct error *err)
{
    const struct network_range *subnet = &settings->subnet;
    if (subnet->prefix < NETWORK_PREFIX_MIN || subnet->prefix > NETWORK_PREFIX_MAX) {
        return error_set(err, ERROR_INVALID, "a subnet is a /%d to a /%d, not a /%u",
                         NETWORK_PREFIX_MIN, NETWORK_PREFIX_MAX, subnet->prefix);
    }
    if (!is_for_machines(subnet)) {
        return error_set(err, ERROR_INVALID,
                         "machines cannot have these addresses: take some of 10.0.0.0/8, "
                         "172.16.0.0/12 or 192.168.0.0/16");
    }
    if (settings->gateway == 0) {
        settings->gateway = subnet->address + 1;
    }
    return settings->gateway > subnet->address && settings->gateway < range_last(subnet)
        ? 0
        : error_set(err, ERROR_INVALID, "the gateway is no host of the subnet");
}

/* Any but what only this host, or a whole network, would answer at. */
static bool is_resolver(const char *text)
{
    struct in6_addr six;
    uint32_t four = 0;
    if (net_address_parse(text, &four)) {
        return four >> 24 != 0 && four >> 24 != 127 && four < UINT32_C(0xe0000000);
    }
    return inet_pton(AF_INET6, text, &six) == 1 && !IN6_IS_ADDR_UNSPECIFIED(&six) &&
        !IN6_IS_ADDR_LOOPBACK(&six) && !IN6_IS_ADDR_MULTICAST(&six) &&
        !IN6_IS_ADDR_LINKLOCAL(&six) && !IN6_IS_ADDR_V4MAPPED(&six);
}

static int parse_more(const json_t *create, struct network_settings *settings, struct error *err)
{
    size_t index = 0;
    json_t *value = NULL;
    const json_t *dns = json_object_get(create, "dns");
    const char *description = json_text(create, "description");
    if (json_array_size(dns) > NET_DNS_RESOLVERS_MAX) {
        return error_set(err, ERROR_INVALID, "a network has at most %d resolvers",
                         NET_DNS_RESOLVERS_MAX);
    }
    json_array_foreach(dns, index, value)
    {
        size_t used = strlen(settings->dns);
        if (!json_is_string(value) || !is_resolver(json_string_value(value))) {
            return error_set(err, ERROR_INVALID,
                             "dns \"%.60s\" is no address of a resolver that the nodes could reach",
                             json_is_string(value) ? json_string_value(value) : "");
        }
        snprintf(settings->dns + used, sizeof(settings->dns) - used, "%s%s", used > 0 ? " " : "",
                 json_string_value(value));
    }
    if (strlen(description) >= sizeof(settings->description) || !text_is_printable(description)) {
        return error_set(err, ERROR_INVALID,
                         "a description is one line of at most %zu bytes of text",
                         sizeof(settings->description) - 1);
    }
    snprintf(settings->description, sizeof(settings->description), "%s", description);
    return 0;
}

int settings_parse_network(const json_t *create, struct network_settings *ret_settings,
                           struct error *err)
{
    const char *name = json_text(create, "name");
    const char *subnet = json_text(create, "subnet");
    const char *gateway = json_text(create, "gateway");
    const char *mode = json_text(create, "mode");
    json_int_t mtu = json_integer_value(json_object_get(create, "mtu"));
    struct network_settings settings = {
        .mode = NET_TRANSLATED,
        .mtu = mtu > 0 && mtu <= UINT16_MAX ? (unsigned)mtu
            : mtu == 0                      ? (unsigned)NETWORK_MTU_DEFAULT
                                            : 0U,
        .is_peering = json_is_true(json_object_get(create, "peering")),
    };
    if (!text_is_name(name) || strcmp(name, "user") == 0) {
        return error_set(err, ERROR_INVALID,
                         "\"%.64s\" is no name of a network: 1 to 63 of a-z, 0-9 and '-', "
                         "beginning with a letter; and not user",
                         name);
    }
    if (subnet[0] != '\0' &&
        !net_subnet_parse(subnet, &settings.subnet.address, &settings.subnet.prefix)) {
        return error_set(err, ERROR_INVALID,
                         "subnet \"%.40s\" is no range of addresses such as 10.1.0.0/24 (no bits "
                         "beyond the prefix)",
                         subnet);
    }
    if (gateway[0] != '\0' &&
        (subnet[0] == '\0' || !net_address_parse(gateway, &settings.gateway))) {
        return error_set(err, ERROR_INVALID, "gateway \"%.40s\" is no address of a given subnet",
                         gateway);
    }
    if (mode[0] != '\0' && !settings_mode_parse(mode, &settings.mode)) {
        return error_set(err, ERROR_INVALID, "mode \"%.20s\" is none of nat, routed, closed", mode);
    }
    int r = error_check_range("mtu", settings.mtu, NET_MTU_MIN, NET_MTU_MAX, err);
    r = r < 0 || subnet[0] == '\0' ? r : settings_check_subnet(&settings, err);
    r = r < 0 ? r : parse_more(create, &settings, err);
    if (r == 0) {
        *ret_settings = settings;
    }
    return r;
}

int settings_choose_subnet(const struct network_range *taken, size_t count, unsigned skip,
                           struct network_range *ret_range, struct error *err)
{
    enum { PREFIX = 24, SUBNETS = 1 << (PREFIX - 10) };
    for (uint32_t i = 0; i < SUBNETS; i++) {
        const struct network_range range = {UINT32_C(0x0a400000) + i * 256, PREFIX};
        bool is_free = true;
        for (size_t t = 0; t < count && is_free; t++) {
            is_free = !overlaps(&range, &taken[t]);
        }
        if (is_free && skip-- == 0) {
            *ret_range = range;
            return 0;
        }
    }
    return error_set(err, ERROR_LIMIT,
                     "no /24 of 10.64.0.0/10 is free: name another range, as in --subnet "
                     "192.168.77.0/24");
}

/* ---- Rules ---- */

static bool parse_port(struct text text, uint16_t *ret_port)
{
    uint64_t port = 0;
    if (!text_parse_u64(text, &port) || port == 0 || port > UINT16_MAX) {
        return false;
    }
    *ret_port = (uint16_t)port;
    return true;
}

static bool parse_ports(const char *text, struct net_rule *rule)
{
    const char *dash = strchr(text, '-');
    size_t length = dash != NULL ? (size_t)(dash - text) : strlen(text);
    if (!parse_port(text_of(text, length), &rule->port_first)) {
        return false;
    }
    rule->port_last = rule->port_first;
    return dash == NULL ||
        (parse_port(text_of(dash + 1, strlen(dash + 1)), &rule->port_last) &&
         rule->port_first <= rule->port_last);
}

static bool parse_allow(const char *text, struct network_rule *ret_rule)
{
    static const struct {
        const char *name;
        enum net_protocol protocol;
        bool has_ports;
    } protocols[] = {{"any", NET_ANY, false},
                     {"icmp", NET_ICMP, false},
                     {"tcp", NET_TCP, true},
                     {"udp", NET_UDP, true}};
    struct net_rule *rule = &ret_rule->rule;
    size_t length = strcspn(text, "/");
    for (size_t i = 0; i < sizeof(protocols) / sizeof(protocols[0]); i++) {
        const char *name = protocols[i].name;
        if (!text_equal(text_of(text, length), name)) {
            continue;
        }
        rule->protocol = protocols[i].protocol;
        if (text[length] == '\0') {
            snprintf(ret_rule->allow, sizeof(ret_rule->allow), "%s", name);
            return true;
        }
        if (!protocols[i].has_ports || !parse_ports(text + length + 1, rule)) {
            return false;
        }
        bool is_one = rule->port_first == rule->port_last;
        snprintf(ret_rule->allow, sizeof(ret_rule->allow), is_one ? "%s/%u" : "%s/%u-%u", name,
                 rule->port_first, rule->port_last);
        return true;
    }
    return false;
}

static bool parse_peer(const char *text, struct network_rule *ret_rule)
{
    static const char group[] = "group:";
    struct net_rule *rule = &ret_rule->rule;
    char address[NET_ADDRESS_TEXT_SIZE];
    if (text[0] == '\0' || strcmp(text, "0.0.0.0/0") == 0) {
        return true;
    }
    if (text_starts_with(text, group)) {
        const char *name = text + sizeof(group) - 1;
        if (!text_is_name(name)) {
            return false;
        }
        snprintf(ret_rule->peer, sizeof(ret_rule->peer), "%s%.63s", group, name);
        rule->group = ret_rule->peer + sizeof(group) - 1;
        return true;
    }
    if (net_address_parse(text, &rule->address)) {
        rule->prefix = 32;
    } else if (!net_subnet_parse(text, &rule->address, &rule->prefix) || rule->prefix == 0) {
        return false;
    }
    snprintf(ret_rule->peer, sizeof(ret_rule->peer), "%s/%u",
             net_address_format(rule->address, address), rule->prefix);
    return true;
}

int settings_parse_rule(const char *direction, const char *allow, const char *peer,
                        struct network_rule *ret_rule, struct error *err)
{
    *ret_rule = (struct network_rule){.is_out = strcmp(direction, "out") == 0};
    if (!ret_rule->is_out && direction[0] != '\0' && strcmp(direction, "in") != 0) {
        return error_set(err, ERROR_INVALID, "direction \"%.20s\" is neither in nor out",
                         direction);
    }
    if (!parse_allow(allow, ret_rule)) {
        return error_set(err, ERROR_INVALID,
                         "\"%.40s\" is none of any, icmp, tcp, udp, tcp/PORT, tcp/FIRST-LAST",
                         allow);
    }
    return parse_peer(peer, ret_rule)
        ? 0
        : error_set(err, ERROR_INVALID,
                    "\"%.80s\" is no address, no range as 10.0.0.0/8, and no group:NAME", peer);
}

/* ---- Published ports ---- */

static bool parse_publish(const char *text, struct network_publish *ret_publish)
{
    size_t length = strlen(text);
    uint32_t address = 0;
    *ret_publish = (struct network_publish){0};
    if (text_ends_with(text, "/udp") || text_ends_with(text, "/tcp")) {
        ret_publish->is_udp = text[length - 3] == 'u';
        length -= 4;
    }
    const char *last = memrchr(text, ':', length);
    if (last == NULL) {
        return false;
    }
    const char *first = memrchr(text, ':', (size_t)(last - text));
    const char *host = first != NULL ? first + 1 : text;
    if (first != NULL) {
        if (first - text >= (ptrdiff_t)sizeof(ret_publish->address)) {
            return false;
        }
        memcpy(ret_publish->address, text, (size_t)(first - text));
        if (!net_address_parse(ret_publish->address, &address)) {
            return false;
        }
    }
    return parse_port(text_of(host, (size_t)(last - host)), &ret_publish->host_port) &&
        parse_port(text_of(last + 1, length - (size_t)(last + 1 - text)), &ret_publish->guest_port);
}

int network_publish_parse(const char *text, struct network_publish *ret_publish, struct error *err)
{
    if (text[0] == '[') {
        return error_set(err, ERROR_INVALID,
                         "publish \"%.60s\" is an IPv6 address: ports are published at IPv4 "
                         "addresses alone; without an address, at all of them",
                         text);
    }
    return parse_publish(text, ret_publish)
        ? 0
        : error_set(err, ERROR_INVALID,
                    "publish \"%.60s\" is not [ADDRESS:]HOST-PORT:GUEST-PORT[/udp], as in 8080:80 "
                    "or 127.0.0.1:8080:80",
                    text);
}
