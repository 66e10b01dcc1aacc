/* Counting who exchanges how much with whom: see flows.h. */
#include "engine/net/flows.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/error.h"
#include "base/json.h"
#include "base/memory.h"

#include "engine/net/nft.h"
#include "engine/net/rules.h"

enum { TABLE_NAME_SIZE = NET_OWNER_SIZE + 8 };

static const char *table_of(const char *owner, char ret_name[TABLE_NAME_SIZE])
{
    char table[NET_OWNER_SIZE];
    net_rules_table_name(owner, table);
    snprintf(ret_name, TABLE_NAME_SIZE, "%s_seen", table);
    return ret_name;
}

/* ---- Making the table ---- */

static void add_near(const struct net_rules *rules, const uint32_t *nodes, size_t node_count,
                     struct buffer *out)
{
    char text[NET_ADDRESS_TEXT_SIZE];
    buffer_append_string(
        out, "  set near {\n    type ipv4_addr; flags interval; auto-merge;\n    elements = { ");
    for (size_t i = 0; i < rules->segment_count; i++) {
        const struct net_segment *one = &rules->segments[i];
        buffer_append_format(out, "%s%s/%u", i > 0 ? ", " : "",
                             net_address_format(one->address & net_mask(one->prefix), text),
                             one->prefix);
    }
    for (size_t i = 0; i < node_count; i++) {
        buffer_append_format(out, ", %s", net_address_format(nodes[i], text));
    }
    buffer_append_string(out, " }\n  }\n");
}

/* The kernel refuses an element beyond the size, and the packet goes on uncounted. */
static void add_port(const struct net_port *port, struct buffer *out)
{
    static const struct {
        const char *set, *chain, *side;
    } ways[] = {{"of", "sends", "daddr"}, {"to", "takes", "saddr"}};
    for (size_t i = 0; i < 2; i++) {
        buffer_append_format(out,
                             "  set %s_%08x {\n"
                             "    type ipv4_addr; size %d; flags dynamic, timeout; timeout 10m;\n"
                             "  }\n"
                             "  chain %s_%08x {\n"
                             "    ip %s @near update @%s_%08x { ip %s counter }\n"
                             "  }\n",
                             ways[i].set, port->address, NET_FLOW_PEERS_MAX, ways[i].chain,
                             port->address, ways[i].side, ways[i].set, port->address, ways[i].side);
    }
}

static void add_map(const struct net_rules *rules, const char *name, const char *chain,
                    struct buffer *out)
{
    buffer_append_format(out, "  map %s {\n    type ifname : verdict;\n    elements = { ", name);
    for (size_t i = 0; i < rules->port_count; i++) {
        buffer_append_format(out, "%s\"%s\" : jump %s_%08x", i > 0 ? ", " : "", rules->ports[i].tap,
                             chain, rules->ports[i].address);
    }
    buffer_append_string(out, " }\n  }\n");
}

/* Several ports of one address, as of a machine that is about to come, would be one set twice. */
static bool is_first(const struct net_rules *rules, size_t index)
{
    for (size_t i = 0; i < index; i++) {
        if (rules->ports[i].address == rules->ports[index].address) {
            return false;
        }
    }
    return true;
}

int net_flows_render(const struct net_rules *rules, const uint32_t *nodes, size_t node_count,
                     struct buffer *out, struct error *err)
{
    char table[TABLE_NAME_SIZE];
    if (node_count > NET_FLOW_NODES_MAX || rules->port_count > NET_PORTS_MAX) {
        return error_set(err, ERROR_LIMIT, "%zu other hosts and %zu ports are too many to count",
                         node_count, rules->port_count);
    }
    table_of(rules->owner, table);
    buffer_append_format(out, "add table bridge %s\ndelete table bridge %s\n", table, table);
    if (rules->segment_count == 0 || rules->port_count == 0) {
        return 0;
    }
    buffer_append_format(out, "table bridge %s {\n", table);
    add_near(rules, nodes, node_count, out);
    for (size_t i = 0; i < rules->port_count; i++) {
        if (is_first(rules, i)) {
            add_port(&rules->ports[i], out);
        }
    }
    add_map(rules, "senders", "sends", out);
    add_map(rules, "takers", "takes", out);
    /* After the rules have dropped what pretends to be from somebody else (-300), and, on the way
     * out, what they keep on their node (0). */
    buffer_append_string(out,
                         "  chain sent {\n"
                         "    type filter hook prerouting priority -290; policy accept;\n"
                         "    iifname vmap @senders\n"
                         "  }\n"
                         "  chain received {\n"
                         "    type filter hook postrouting priority 10; policy accept;\n"
                         "    oifname vmap @takers\n"
                         "  }\n"
                         "}\n");
    return 0;
}

/* ---- Reading what it has counted ---- */

struct flows {
    struct net_flow *list;
    size_t count, room;
};

static void add_flow(struct flows *flows, uint32_t address, uint32_t peer, uint64_t bytes)
{
    for (size_t i = 0; i < flows->count; i++) { /* the other way */
        struct net_flow *one = &flows->list[flows->count - 1 - i];
        if (one->address != address) {
            break;
        }
        if (one->peer == peer) {
            one->bytes += bytes;
            return;
        }
    }
    if (flows->count == flows->room) {
        flows->room = flows->room == 0 ? 64 : 2 * flows->room;
        flows->list = memory_resize(flows->list, flows->room * sizeof(*flows->list));
    }
    flows->list[flows->count++] =
        (struct net_flow){.address = address, .peer = peer, .bytes = bytes};
}

/* {"elem": {"val": "10.64.0.3", "expires": 594, "counter": {"packets": 6, "bytes": 6168}}} */
static void take_element(struct flows *flows, uint32_t address, const json_t *item)
{
    const json_t *element = json_object_get(item, "elem");
    uint64_t bytes = json_u64(json_object_get(element, "counter"), "bytes");
    uint32_t peer = 0;
    if (bytes > 0 && net_address_parse(json_text(element, "val"), &peer) && peer != address) {
        add_flow(flows, address, peer, bytes);
    }
}

static void take_set(struct flows *flows, const json_t *set, const char *prefix)
{
    const char *name = json_text(set, "name");
    char *end = NULL;
    size_t index = 0;
    json_t *item = NULL;
    if (strncmp(name, prefix, 3) != 0) {
        return;
    }
    unsigned long address = strtoul(name + 3, &end, 16);
    if (*end != '\0' || address == 0 || address > UINT32_MAX) {
        return;
    }
    json_array_foreach(json_object_get(set, "elem"), index, item)
    {
        take_element(flows, (uint32_t)address, item);
    }
}

/* By machine, and those with one peer together: the sets of one come one after the other. */
int net_flows_parse(const char *json, struct net_flow **ret_flows, size_t *ret_count,
                    struct error *err)
{
    JSON_OWNED json_t *document = NULL;
    struct flows flows = {0};
    size_t index = 0;
    json_t *item = NULL;
    int r = json_read(json, strlen(json), &document, err);
    const json_t *list = json_object_get(document, "nftables");
    if (r < 0 || !json_is_array(list)) {
        return error_set(err, ERROR_PROTOCOL, "the packet filter's list of sets is none");
    }
    json_array_foreach(list, index, item)
    {
        const json_t *set = json_object_get(item, "set");
        take_set(&flows, set, "of_");
        take_set(&flows, set, "to_");
    }
    *ret_flows = flows.list;
    *ret_count = flows.count;
    return 0;
}

/* ---- Doing ---- */

int net_flows_read(const char *owner, struct net_flow **ret_flows, size_t *ret_count,
                   struct error *err)
{
    char table[TABLE_NAME_SIZE];
    MEMORY_OWNED char *said = NULL;
    MEMORY_OWNED char *command = memory_format("list table bridge %s", table_of(owner, table));
    *ret_flows = NULL;
    *ret_count = 0;
    int r = nft_ask(command, true, &said, err);
    if (r == -ERROR_UNSUPPORTED) { /* nft's word for what is not there */
        return 0;
    }
    return r < 0 ? r : net_flows_parse(said, ret_flows, ret_count, err);
}

int net_flows_restart(const struct net_rules *rules, const uint32_t *nodes, size_t node_count,
                      struct net_flow **ret_flows, size_t *ret_count, struct error *err)
{
    BUFFER_OWNED struct buffer commands = {0};
    struct error ignored = {0};
    net_flows_read(rules->owner, ret_flows, ret_count, &ignored);
    int r = net_flows_render(rules, nodes, node_count, &commands, err);
    return r < 0 ? r : nft_do(buffer_string(&commands), err);
}

int net_flows_remove(const char *owner, struct error *err)
{
    BUFFER_OWNED struct buffer commands = {0};
    const struct net_rules none = {.owner = owner};
    int r = net_flows_render(&none, NULL, 0, &commands, err);
    return r < 0 ? r : nft_do(buffer_string(&commands), err);
}
