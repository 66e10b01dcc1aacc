/* Rendering of the packet filter's rules: see rules.h.  What each means is said where it is made.
 */
#include "engine/net/rules.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/error.h"

/* ---- What is asked for must be possible ---- */

static int check_segment(const struct net_segment *segment, struct error *err)
{
    if (!net_name_is_valid(segment->bridge) ||
        (segment->vxlan != NULL && !net_name_is_valid(segment->vxlan))) {
        return error_set(err, ERROR_INVALID, "\"%s\" cannot be the name of a bridge",
                         segment->bridge);
    }
    if (segment->address == 0 || segment->prefix < 8 || segment->prefix > 30) {
        return error_set(err, ERROR_INVALID, "network %s: its prefix has 8 to 30 bits, not %u",
                         segment->bridge, segment->prefix);
    }
    if (segment->vxlan != NULL && segment->mac == NULL) {
        return error_set(err, ERROR_INVALID,
                         "network %s: over several nodes its gateway has one MAC", segment->bridge);
    }
    return 0;
}

static int check_segments(const struct net_rules *rules, struct error *err)
{
    for (size_t i = 0; i < rules->segment_count; i++) {
        const struct net_segment *one = &rules->segments[i];
        int r = check_segment(one, err);
        if (r < 0) {
            return r;
        }
        for (size_t k = 0; k < i; k++) {
            const struct net_segment *other = &rules->segments[k];
            uint32_t mask = net_mask(one->prefix < other->prefix ? one->prefix : other->prefix);
            if (((one->address ^ other->address) & mask) == 0) {
                return error_set(err, ERROR_CONFLICT, "the networks %s and %s overlap", one->bridge,
                                 other->bridge);
            }
        }
    }
    return 0;
}

static const struct net_group *find_group(const struct net_rules *rules, const char *name)
{
    for (size_t i = 0; i < rules->group_count; i++) {
        if (strcmp(rules->groups[i].name, name) == 0) {
            return &rules->groups[i];
        }
    }
    return NULL;
}

static int check_rule(const struct net_rules *rules, const struct net_rule *rule, struct error *err)
{
    bool has_ports = rule->protocol == NET_TCP || rule->protocol == NET_UDP;
    if (rule->group != NULL && find_group(rules, rule->group) == NULL) {
        return error_set(err, ERROR_INVALID, "a rule names the group \"%s\", which is not there",
                         rule->group);
    }
    if (rule->prefix > 32) {
        return error_set(err, ERROR_INVALID, "a prefix has at most 32 bits, not %u", rule->prefix);
    }
    if (!has_ports && rule->port_first != 0) {
        return error_set(err, ERROR_INVALID, "only rules of tcp and udp have ports");
    }
    if (rule->port_last != 0 && rule->port_last < rule->port_first) {
        return error_set(err, ERROR_INVALID, "ports %u-%u: the first is above the last",
                         rule->port_first, rule->port_last);
    }
    return 0;
}

static int check_port(const struct net_rules *rules, const struct net_port *port, struct error *err)
{
    int r = 0;
    if (!net_name_is_valid(port->tap)) {
        return error_set(err, ERROR_INVALID, "\"%s\" cannot be the name of a tap", port->tap);
    }
    if (port->ingress_count > NET_PORT_RULES_MAX || port->egress_count > NET_PORT_RULES_MAX) {
        return error_set(err, ERROR_LIMIT, "tap %s: at most %d rules each way", port->tap,
                         NET_PORT_RULES_MAX);
    }
    for (size_t i = 0; r == 0 && i < port->ingress_count; i++) {
        r = check_rule(rules, &port->ingress[i], err);
    }
    for (size_t i = 0; r == 0 && i < port->egress_count; i++) {
        r = check_rule(rules, &port->egress[i], err);
    }
    return r < 0 ? error_wrap(err, "tap %s", port->tap) : 0;
}

static bool group_name_is_valid(const char *name)
{
    size_t length = strlen(name);
    return length > 0 && length < 64 &&
        strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-") == length;
}

static bool owner_is_valid(const char *owner)
{
    return group_name_is_valid(owner) && strlen(owner) < NET_OWNER_SIZE && owner[0] >= 'a';
}

static int check_counts(const struct net_rules *rules, struct error *err)
{
    const struct {
        const char *name;
        size_t count;
        size_t max;
    } counts[] = {{"networks", rules->segment_count, NET_SEGMENTS_MAX},
                  {"ports", rules->port_count, NET_PORTS_MAX},
                  {"groups", rules->group_count, NET_GROUPS_MAX},
                  {"published ports", rules->published_count, NET_PUBLISHED_MAX},
                  {"ports of the host", rules->host_port_count, NET_HOST_PORTS_MAX}};
    for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
        if (counts[i].count > counts[i].max) {
            return error_set(err, ERROR_LIMIT, "%zu %s on one host; %zu are possible",
                             counts[i].count, counts[i].name, counts[i].max);
        }
    }
    return 0;
}

static int check_rules(const struct net_rules *rules, struct error *err)
{
    if (!owner_is_valid(rules->owner)) {
        return error_set(err, ERROR_INVALID, "\"%s\" cannot be the owner of a table", rules->owner);
    }
    int r = check_counts(rules, err);
    r = r < 0 ? r : check_segments(rules, err);
    for (size_t i = 0; r == 0 && i < rules->group_count; i++) {
        if (!group_name_is_valid(rules->groups[i].name)) {
            r = error_set(err, ERROR_INVALID, "\"%s\" cannot be the name of a group",
                          rules->groups[i].name);
        }
    }
    for (size_t i = 0; r == 0 && i < rules->port_count; i++) {
        r = check_port(rules, &rules->ports[i], err);
    }
    for (size_t i = 0; r == 0 && i < rules->published_count; i++) {
        const struct net_published *one = &rules->published[i];
        if (one->host_port == 0 || one->port == 0 || one->address == 0) {
            r = error_set(err, ERROR_INVALID, "a published port is not 0");
        }
    }
    return r;
}

/* ---- Sets: the part that grows ---- */

struct list_writer {
    struct buffer *out;
    bool has_items;
};

static void begin_set(struct list_writer *writer, struct buffer *out, const char *head,
                      const char *type)
{
    *writer = (struct list_writer){out, false};
    buffer_append_format(out, "  %s {\n    %s;\n", head, type);
}

/* An empty list is a mistake of syntax, so there is none until there is an item. */
__attribute__((format(printf, 2, 3))) static void add_item(struct list_writer *writer,
                                                           const char *format, ...)
{
    char text[192];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    CHECK(length >= 0 && length < (int)sizeof(text));
    buffer_append_string(writer->out, writer->has_items ? ",\n      " : "    elements = { ");
    buffer_append_string(writer->out, text);
    writer->has_items = true;
}

static void end_set(struct list_writer *writer)
{
    buffer_append_string(writer->out, writer->has_items ? " };\n  }\n" : "  }\n");
}

static void add_names(const struct net_rules *rules, struct buffer *out, const char *name,
                      bool (*belongs)(const struct net_segment *segment))
{
    char head[32];
    struct list_writer writer;
    snprintf(head, sizeof(head), "set %s", name);
    begin_set(&writer, out, head, "type ifname");
    for (size_t i = 0; i < rules->segment_count; i++) {
        if (belongs(&rules->segments[i])) {
            add_item(&writer, "\"%s\"", rules->segments[i].bridge);
        }
    }
    end_set(&writer);
}

static bool is_any(const struct net_segment *segment)
{
    (void)segment;
    return true;
}

static bool is_closed(const struct net_segment *segment)
{
    return segment->mode == NET_CLOSED;
}

static bool is_hidden(const struct net_segment *segment)
{
    return segment->mode != NET_ROUTED;
}

/* Which reach which: each itself, and those of its zone. */
static void add_reach(const struct net_rules *rules, struct buffer *out)
{
    struct list_writer writer;
    begin_set(&writer, out, "set reach", "type ifname . ifname");
    for (size_t i = 0; i < rules->segment_count; i++) {
        for (size_t k = 0; k < rules->segment_count; k++) {
            const struct net_segment *from = &rules->segments[i];
            const struct net_segment *to = &rules->segments[k];
            if (i == k || (from->zone != 0 && from->zone == to->zone)) {
                add_item(&writer, "\"%s\" . \"%s\"", from->bridge, to->bridge);
            }
        }
    }
    end_set(&writer);
}

static void add_subnets(const struct net_rules *rules, struct buffer *out)
{
    char text[NET_ADDRESS_TEXT_SIZE];
    struct list_writer writer;
    begin_set(&writer, out, "set subnets", "type ipv4_addr; flags interval");
    for (size_t i = 0; i < rules->segment_count; i++) {
        const struct net_segment *one = &rules->segments[i];
        add_item(&writer, "%s/%u", net_address_format(one->address & net_mask(one->prefix), text),
                 one->prefix);
    }
    end_set(&writer);
}

/* A name of nft begins with a letter and holds no '-'. */
static const char *group_set(const char *name, char ret_text[72])
{
    snprintf(ret_text, 72, "group_%s", name);
    for (char *at = ret_text; *at != '\0'; at++) {
        *at = *at == '-' ? '_' : *at;
    }
    return ret_text;
}

static void add_groups(const struct net_rules *rules, struct buffer *out)
{
    char text[NET_ADDRESS_TEXT_SIZE];
    for (size_t i = 0; i < rules->group_count; i++) {
        const struct net_group *group = &rules->groups[i];
        char name[72];
        char head[80];
        struct list_writer writer;
        snprintf(head, sizeof(head), "set %s", group_set(group->name, name));
        begin_set(&writer, out, head, "type ipv4_addr");
        for (size_t k = 0; k < group->member_count; k++) {
            add_item(&writer, "%s", net_address_format(group->members[k], text));
        }
        end_set(&writer);
    }
}

/* Two maps: what is published at one address goes before what is at all. */
static void add_published(const struct net_rules *rules, struct buffer *out, bool at_address)
{
    char host[NET_ADDRESS_TEXT_SIZE];
    char text[NET_ADDRESS_TEXT_SIZE];
    struct list_writer writer;
    begin_set(&writer, out, at_address ? "map published_at" : "map published",
              at_address ? "type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service"
                         : "type inet_proto . inet_service : ipv4_addr . inet_service");
    for (size_t i = 0; i < rules->published_count; i++) {
        const struct net_published *one = &rules->published[i];
        if ((one->host_address != 0) != at_address) {
            continue;
        }
        add_item(&writer, "%s%s%s . %u : %s . %u",
                 at_address ? net_address_format(one->host_address, host) : "",
                 at_address ? " . " : "", one->is_udp ? "udp" : "tcp", one->host_port,
                 net_address_format(one->address, text), one->port);
    }
    end_set(&writer);
}

static bool leads_to_same(const struct net_published *one, const struct net_published *other)
{
    return one->address == other->address && one->port == other->port &&
        one->is_udp == other->is_udp;
}

static bool is_first_there(const struct net_rules *rules, size_t index)
{
    for (size_t i = 0; i < index; i++) {
        if (leads_to_same(&rules->published[i], &rules->published[index])) {
            return false;
        }
    }
    return true;
}

/*
 * The other way round, for connections that have come by one of them: is it published still?  For
 * each place that a port leads to, a chain of the ports that do.  (What a connection was sent to
 * has no type that a set could be of.)
 */
static void add_leads(const struct net_rules *rules, struct buffer *out)
{
    char text[NET_ADDRESS_TEXT_SIZE];
    struct list_writer writer;
    buffer_append_string(out,
                         "  chain ended {\n"
                         "    meta l4proto tcp reject with tcp reset\n"
                         "    drop\n"
                         "  }\n");
    for (size_t i = 0; i < rules->published_count; i++) {
        if (!is_first_there(rules, i)) {
            continue;
        }
        buffer_append_format(out, "  chain lead_%zu {\n", i);
        for (size_t k = i; k < rules->published_count; k++) {
            const struct net_published *one = &rules->published[k];
            if (leads_to_same(&rules->published[i], one)) {
                buffer_append_format(
                    out, "    meta l4proto %s %s%s ct original proto-dst %u return\n",
                    one->is_udp ? "udp" : "tcp",
                    one->host_address != 0 ? "ct original ip daddr " : "",
                    one->host_address != 0 ? net_address_format(one->host_address, text) : "",
                    one->host_port);
            }
        }
        buffer_append_string(out, "    goto ended\n  }\n");
    }
    begin_set(&writer, out, "map leads", "type inet_proto . ipv4_addr . inet_service : verdict");
    for (size_t i = 0; i < rules->published_count; i++) {
        const struct net_published *one = &rules->published[i];
        if (is_first_there(rules, i)) {
            add_item(&writer, "%s . %s . %u : goto lead_%zu", one->is_udp ? "udp" : "tcp",
                     net_address_format(one->address, text), one->port, i);
        }
    }
    end_set(&writer);
}

/* ---- What a machine takes and gives ---- */

static void add_rule(const struct net_rule *rule, const char *side, struct buffer *out)
{
    char text[NET_ADDRESS_TEXT_SIZE];
    char name[72];
    buffer_append_string(out, "    ");
    if (rule->prefix > 0) {
        buffer_append_format(out, "ip %s %s/%u ", side,
                             net_address_format(rule->address & net_mask(rule->prefix), text),
                             rule->prefix);
    }
    if (rule->group != NULL) {
        buffer_append_format(out, "ip %s @%s ", side, group_set(rule->group, name));
    }
    switch (rule->protocol) {
    case NET_ANY:
        break;
    case NET_ICMP:
        buffer_append_string(out, "meta l4proto icmp ");
        break;
    case NET_TCP:
    case NET_UDP:
        if (rule->port_first == 0) {
            buffer_append_format(out, "meta l4proto %s ",
                                 rule->protocol == NET_TCP ? "tcp" : "udp");
        } else {
            buffer_append_format(out, "%s dport %u-%u ", rule->protocol == NET_TCP ? "tcp" : "udp",
                                 rule->port_first,
                                 rule->port_last != 0 ? rule->port_last : rule->port_first);
        }
        break;
    }
    buffer_append_string(out, "return\n");
}

/* Not `accept`: of two machines' rules both must allow it. */
static void add_port_chain(size_t index, bool is_ingress, const struct net_rule *list, size_t count,
                           struct buffer *out)
{
    buffer_append_format(out, "  chain %s_%zu {\n", is_ingress ? "to" : "of", index);
    for (size_t i = 0; i < count; i++) {
        add_rule(&list[i], is_ingress ? "saddr" : "daddr", out);
    }
    buffer_append_string(out, "    drop\n  }\n");
}

static void add_port_chains(const struct net_rules *rules, struct buffer *out)
{
    char text[NET_ADDRESS_TEXT_SIZE];
    struct list_writer writer;
    for (size_t i = 0; i < rules->port_count; i++) {
        const struct net_port *port = &rules->ports[i];
        if (port->has_ingress) {
            add_port_chain(i, true, port->ingress, port->ingress_count, out);
        }
        if (port->has_egress) {
            add_port_chain(i, false, port->egress, port->egress_count, out);
        }
    }
    for (int is_ingress = 0; is_ingress <= 1; is_ingress++) {
        begin_set(&writer, out, is_ingress ? "map ingress" : "map egress",
                  "type ipv4_addr : verdict");
        for (size_t i = 0; i < rules->port_count; i++) {
            const struct net_port *port = &rules->ports[i];
            if (is_ingress ? port->has_ingress : port->has_egress) {
                add_item(&writer, "%s : jump %s_%zu", net_address_format(port->address, text),
                         is_ingress ? "to" : "of", i);
            }
        }
        end_set(&writer);
    }
}

/* ---- Family inet ---- */

/*
 * 127.0.0.0/8 is reachable by way of a bridge since ports are published there (route_localnet):
 * machines must not use that (CVE-2020-8558).  Output has its priority as a number because nft
 * knows the name for prerouting alone.
 */
static void add_translation(const struct net_rules *rules, struct buffer *out)
{
    char text[NET_ADDRESS_TEXT_SIZE];
    buffer_append_string(out,
                         "  chain first {\n"
                         "    type filter hook prerouting priority raw; policy accept;\n"
                         "    iifname @bridges ip daddr 127.0.0.0/8 drop\n"
                         "    iifname @bridges ip saddr 127.0.0.0/8 drop\n"
                         "  }\n"
                         "  chain publish {\n"
                         "    dnat ip to ip daddr . meta l4proto . th dport map @published_at\n"
                         "    dnat ip to meta l4proto . th dport map @published\n"
                         "  }\n"
                         "  chain arriving {\n"
                         "    type nat hook prerouting priority dstnat; policy accept;\n"
                         "    meta l4proto { tcp, udp } fib daddr type local jump publish\n"
                         "  }\n"
                         "  chain sending {\n"
                         "    type nat hook output priority -100; policy accept;\n"
                         "    meta l4proto { tcp, udp } fib daddr type local jump publish\n"
                         "  }\n"
                         "  chain leaving {\n"
                         "    type nat hook postrouting priority srcnat; policy accept;\n"
                         "    oifname @bridges ct status dnat fib saddr type local masquerade\n"
                         "    oifname @closed ct status dnat masquerade\n");
    for (size_t i = 0; i < rules->segment_count; i++) {
        const struct net_segment *one = &rules->segments[i];
        net_address_format(one->address & net_mask(one->prefix), text);
        /* One that reaches its neighbour by way of the host must get its answer that way, too. */
        buffer_append_format(out, "    ip saddr %s/%u ip daddr %s/%u ct status dnat masquerade\n",
                             text, one->prefix, text, one->prefix);
        if (one->mode == NET_TRANSLATED) {
            buffer_append_format(
                out, "    ip saddr %s/%u ip daddr != @subnets oifname != @bridges masquerade\n",
                text, one->prefix);
        }
    }
    buffer_append_string(out, "  }\n");
}

/*
 * A bridge that shows what it forwards (br_netfilter) does so in `forward`, as from itself to
 * itself.  What a connection's beginner sends is judged packet by packet, so that a connection ends
 * with what allowed it; of the other end only answers come this far.  (To delete its entry would
 * not end it: one in the middle is taken up again by its next packet, also by an answer, and has to
 * be, where a machine comes from another node.)  A published port that was taken back resets what
 * came by it: who began it is to know.  The host's own connections do not come by `forward`.
 */
static void add_forward(struct buffer *out)
{
    buffer_append_string(out,
                         "  chain between {\n"
                         "    iifname . oifname @reach return\n"
                         "    ct status dnat return\n"
                         "    iifname @bridges oifname @bridges drop\n"
                         "    iifname @closed drop\n"
                         "    oifname @hidden drop\n"
                         "  }\n"
                         "  chain still_published {\n"
                         "    meta l4proto . ip daddr . th dport vmap @leads\n"
                         "    goto ended\n"
                         "  }\n"
                         "  chain own {\n"
                         "    type filter hook output priority filter; policy accept;\n"
                         "    ct status dnat ct direction original ip daddr @subnets meta l4proto "
                         "{ tcp, udp } jump still_published\n"
                         "  }\n"
                         "  chain forward {\n"
                         "    type filter hook forward priority filter; policy accept;\n"
                         "    iifname != @bridges oifname != @bridges accept\n"
                         "    meta nfproto ipv6 drop\n"
                         "    ct state related accept\n"
                         "    ct state established ct direction reply accept\n"
                         "    oifname @bridges ct status dnat meta l4proto { tcp, udp } jump "
                         "still_published\n"
                         "    jump between\n"
                         "    iifname @bridges ip saddr vmap @egress\n"
                         "    oifname @bridges ip daddr vmap @ingress\n"
                         "  }\n");
}

static void add_input(const struct net_rules *rules, struct buffer *out)
{
    buffer_append_string(
        out,
        "  chain input {\n"
        "    type filter hook input priority filter; policy accept;\n"
        "    iifname != @bridges iifname != \"lo\" ip daddr @subnets tcp dport 53 drop\n"
        "    iifname != @bridges accept\n"
        "    meta nfproto ipv6 drop\n"
        "    ct state established,related accept\n"
        "    udp dport { 53, 67 } accept\n"
        "    tcp dport 53 accept\n"
        "    icmp type echo-request accept\n");
    for (size_t i = 0; i < rules->host_port_count; i++) {
        buffer_append_format(out, "    tcp dport %u accept\n", rules->host_ports[i]);
    }
    buffer_append_string(out, "    drop\n  }\n");
}

/* ---- Family bridge ---- */

static void add_tap_chain(size_t index, const struct net_port *port, struct buffer *out)
{
    char mac[NET_MAC_TEXT_SIZE];
    char text[NET_ADDRESS_TEXT_SIZE];
    net_mac_format(port->mac, mac);
    net_address_format(port->address, text);
    /* 0.0.0.0 in ARP asks whether an address is taken (RFC 5227), and in IP is who has none yet. */
    buffer_append_format(out,
                         "  chain from_%zu {\n"
                         "    ether saddr != %s drop\n"
                         "    arp saddr ether != %s drop\n"
                         "    arp saddr ip { %s, 0.0.0.0 } return\n"
                         "    udp sport 67 drop\n"
                         "    ip saddr %s return\n"
                         "    ip saddr 0.0.0.0 udp sport 68 udp dport 67 return\n"
                         "    drop\n"
                         "  }\n",
                         index, mac, mac, text, text);
}

/*
 * Each node has a gateway of the same two addresses, so that a machine that moves finds its own:
 * what they say stays on their node.  DHCP is answered by the host, and goes to nobody else.
 * What a machine says to all would come back to it by its own port, which sends back (hairpin).
 */
static void add_tunnels(const struct net_rules *rules, struct buffer *out)
{
    char mac[NET_MAC_TEXT_SIZE];
    char text[NET_ADDRESS_TEXT_SIZE];
    struct list_writer writer;
    begin_set(&writer, out, "set ports", "type ifname");
    for (size_t i = 0; i < rules->port_count; i++) {
        add_item(&writer, "\"%s\"", rules->ports[i].tap);
    }
    for (size_t i = 0; i < rules->segment_count; i++) {
        if (rules->segments[i].vxlan != NULL) {
            add_item(&writer, "\"%s\"", rules->segments[i].vxlan);
        }
    }
    end_set(&writer);
    begin_set(&writer, out, "set own", "type ifname . ether_addr");
    for (size_t i = 0; i < rules->port_count; i++) {
        add_item(&writer, "\"%s\" . %s", rules->ports[i].tap,
                 net_mac_format(rules->ports[i].mac, mac));
    }
    end_set(&writer);
    buffer_append_string(out, "  chain tunnels_in {\n");
    for (size_t i = 0; i < rules->segment_count; i++) {
        const struct net_segment *one = &rules->segments[i];
        if (one->vxlan != NULL) {
            net_mac_format(one->mac, mac);
            net_address_format(one->address, text);
            buffer_append_format(out,
                                 "    iifname \"%s\" ether saddr %s drop\n"
                                 "    iifname \"%s\" ether daddr %s drop\n"
                                 "    iifname \"%s\" arp daddr ip %s drop\n"
                                 "    iifname \"%s\" arp saddr ip %s drop\n",
                                 one->vxlan, mac, one->vxlan, mac, one->vxlan, text, one->vxlan,
                                 text);
        }
    }
    buffer_append_string(out,
                         "  }\n  chain leaving {\n"
                         "    type filter hook postrouting priority 0; policy accept;\n"
                         "    oifname . ether saddr @own oifname . ether daddr != @own drop\n");
    for (size_t i = 0; i < rules->segment_count; i++) {
        const struct net_segment *one = &rules->segments[i];
        if (one->vxlan != NULL) {
            buffer_append_format(out,
                                 "    oifname \"%s\" ether saddr %s drop\n"
                                 "    oifname \"%s\" arp daddr ip %s drop\n",
                                 one->vxlan, net_mac_format(one->mac, mac), one->vxlan,
                                 net_address_format(one->address, text));
        }
    }
    buffer_append_string(out, "  }\n");
}

static void add_bridge_table(const struct net_rules *rules, const char *table, struct buffer *out)
{
    struct list_writer writer;
    buffer_append_format(out, "table bridge %s {\n", table);
    for (size_t i = 0; i < rules->port_count; i++) {
        if (!rules->ports[i].may_spoof) {
            add_tap_chain(i, &rules->ports[i], out);
        }
    }
    begin_set(&writer, out, "map taps", "type ifname : verdict");
    for (size_t i = 0; i < rules->port_count; i++) {
        if (!rules->ports[i].may_spoof) {
            add_item(&writer, "\"%s\" : jump from_%zu", rules->ports[i].tap, i);
        }
    }
    end_set(&writer);
    add_tunnels(rules, out);
    buffer_append_string(out,
                         "  chain arriving {\n"
                         "    type filter hook prerouting priority -300; policy accept;\n"
                         "    iifname vmap @taps\n"
                         "    jump tunnels_in\n"
                         "  }\n"
                         "  chain forward {\n"
                         "    type filter hook forward priority 0; policy accept;\n"
                         "    iifname @ports udp dport 67 drop\n"
                         "  }\n"
                         "}\n");
}

/* ---- All ---- */

static void add_inet_table(const struct net_rules *rules, const char *table, struct buffer *out)
{
    buffer_append_format(out, "table inet %s {\n", table);
    add_names(rules, out, "bridges", is_any);
    add_names(rules, out, "closed", is_closed);
    add_names(rules, out, "hidden", is_hidden);
    add_reach(rules, out);
    add_subnets(rules, out);
    add_groups(rules, out);
    add_published(rules, out, true);
    add_published(rules, out, false);
    add_leads(rules, out);
    add_port_chains(rules, out);
    add_translation(rules, out);
    add_forward(out);
    add_input(rules, out);
    buffer_append_string(out, "}\n");
}

/* A name of nft holds no '-'. */
void net_rules_table_name(const char *owner, char ret_name[NET_OWNER_SIZE])
{
    snprintf(ret_name, NET_OWNER_SIZE, "%s", owner);
    for (char *at = ret_name; *at != '\0'; at++) {
        *at = *at == '-' ? '_' : *at;
    }
}

int net_rules_render(const struct net_rules *rules, struct buffer *out, struct error *err)
{
    char table[NET_OWNER_SIZE];
    int r = check_rules(rules, err);
    if (r < 0) {
        return r;
    }
    net_rules_table_name(rules->owner, table);
    /* Deleting what is not there is a mistake, so it is added before. */
    buffer_append_format(out,
                         "add table inet %s\ndelete table inet %s\n"
                         "add table bridge %s\ndelete table bridge %s\n",
                         table, table, table, table);
    if (rules->segment_count > 0) {
        add_inet_table(rules, table, out);
        add_bridge_table(rules, table, out);
    }
    return 0;
}
