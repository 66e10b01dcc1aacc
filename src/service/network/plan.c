/* What this node is to have, read from the state in one go: links, rules, published ports. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"

#include "engine/store/store.h"

#include "service/cluster/cluster.h"
#include "service/network/parts.h"

/* ---- Names ---- */

void plan_tap_name(const char *machine_id, unsigned nic, char ret_name[NET_NAME_SIZE])
{
    snprintf(ret_name, NET_NAME_SIZE, "bt%.10s%u", machine_id, nic % 10);
}

/* The same on each node, so that a machine that moves finds its gateway where it was. */
void plan_gateway_mac(uint32_t vni, uint8_t ret_mac[NET_MAC_SIZE])
{
    const uint8_t mac[NET_MAC_SIZE] = {
        0x02, 0x62, 0x78, (uint8_t)(vni >> 16), (uint8_t)(vni >> 8), (uint8_t)vni};
    memcpy(ret_mac, mac, sizeof(mac));
}

/* ---- Growing ---- */

/* One more item, zeroed. */
static void *grow(void *list_slot, size_t *count, size_t size)
{
    void **list = list_slot;
    *list = memory_resize(*list, (*count + 1) * size);
    void *item = (char *)*list + *count * size;
    memset(item, 0, size);
    ++*count;
    return item;
}

/* ---- Leases ---- */

struct reading {
    struct network_service *service;
    struct plan *plan;
    const struct cluster_view *view;
};

/* HOST of HOST:PORT, when it is an IPv4 address that others can send to. */
static bool parse_host(const char *text, uint32_t *ret_address)
{
    char host[NET_ADDRESS_TEXT_SIZE];
    size_t length = strcspn(text, ":");
    if (length >= sizeof(host)) {
        return false;
    }
    memcpy(host, text, length);
    host[length] = '\0';
    return net_address_parse(host, ret_address) && *ret_address != 0 && (*ret_address >> 24) != 127;
}

static uint32_t address_of(const struct cluster_view *view, const char *node)
{
    uint32_t address = 0;
    const struct cluster_node *found = cluster_view_find_name(view, node);
    return found != NULL && parse_host(found->address, &address) ? address : 0;
}

enum {
    AT_NETWORK,
    AT_ADDRESS,
    AT_MAC,
    AT_GROUPS,
    AT_MACHINE,
    AT_NIC,
    AT_NODE,
    AT_PROJECT,
    AT_CONFIG,
    AT_VNI,
    AT_SUBNET,
    AT_PREFIX,
    AT_GATEWAY,
    AT_MODE,
    AT_MTU,
    AT_PEERING,
    AT_DNS,
};

/* Rows come by network. */
static struct plan_segment *take_segment(struct plan *plan, sqlite3_stmt *row)
{
    const char *key = store_text(row, AT_NETWORK);
    if (plan->segment_count > 0 && strcmp(plan->segments[plan->segment_count - 1].key, key) == 0) {
        return &plan->segments[plan->segment_count - 1];
    }
    struct plan_segment *segment =
        grow(&plan->segments, &plan->segment_count, sizeof(*plan->segments));
    unsigned zone = (unsigned)(hash_stable(store_text(row, AT_PROJECT)) & INT32_MAX);
    snprintf(segment->key, sizeof(segment->key), "%s", key);
    segment->vni = (uint32_t)sqlite3_column_int64(row, AT_VNI);
    snprintf(segment->bridge, sizeof(segment->bridge), "bx%06x", segment->vni & NETWORK_VNI_MAX);
    snprintf(segment->vxlan, sizeof(segment->vxlan), "vx%06x", segment->vni & NETWORK_VNI_MAX);
    plan_gateway_mac(segment->vni, segment->mac);
    segment->subnet.address = (uint32_t)sqlite3_column_int64(row, AT_SUBNET);
    segment->subnet.prefix = (unsigned)sqlite3_column_int(row, AT_PREFIX);
    segment->gateway = (uint32_t)sqlite3_column_int64(row, AT_GATEWAY);
    settings_mode_parse(store_text(row, AT_MODE), &segment->mode);
    segment->mtu = (unsigned)sqlite3_column_int(row, AT_MTU);
    snprintf(segment->dns, sizeof(segment->dns), "%s", store_text(row, AT_DNS));
    segment->zone = sqlite3_column_int(row, AT_PEERING) != 0 ? zone + 1 : 0;
    return segment;
}

/* Published ports lead to the first interface. */
static void take_published(struct plan *plan, sqlite3_stmt *row, uint32_t address)
{
    size_t index = 0;
    json_t *value = NULL;
    struct error ignored = {0};
    JSON_OWNED json_t *config = NULL;
    const char *text = store_text(row, AT_CONFIG);
    if (sqlite3_column_int(row, AT_NIC) != 0 ||
        json_read(text, strlen(text), &config, &ignored) < 0) {
        return;
    }
    json_array_foreach(json_object_get(config, "publish"), index, value)
    {
        struct network_publish publish;
        const char *words = json_string_value(value);
        if (words == NULL || network_publish_parse(words, &publish, &ignored) < 0) {
            continue;
        }
        struct net_published *published =
            grow(&plan->published, &plan->published_count, sizeof(*plan->published));
        *published = (struct net_published){.host_port = publish.host_port,
                                            .is_udp = publish.is_udp,
                                            .address = address,
                                            .port = publish.guest_port};
        if (publish.address[0] != '\0') {
            net_address_parse(publish.address, &published->host_address);
        }
    }
}

static bool take_lease(sqlite3_stmt *row, void *context)
{
    const struct reading *reading = context;
    struct plan *plan = reading->plan;
    struct plan_segment *segment = take_segment(plan, row);
    uint32_t address = (uint32_t)sqlite3_column_int64(row, AT_ADDRESS);
    uint8_t mac[NET_MAC_SIZE] = {0};
    struct plan_home *home = grow(&plan->homes, &plan->home_count, sizeof(*plan->homes));
    snprintf(home->machine, sizeof(home->machine), "%s", store_text(row, AT_MACHINE));
    home->node = hash_stable(store_text(row, AT_NODE));
    net_mac_parse(store_text(row, AT_MAC), mac);
    bool is_here = strcmp(store_text(row, AT_NODE), reading->service->node_name) == 0;
    if (!is_here) {
        uint32_t remote = address_of(reading->view, store_text(row, AT_NODE));
        if (remote != 0) {
            struct net_vxlan_entry *entry =
                grow(&segment->entries, &segment->entry_count, sizeof(*segment->entries));
            memcpy(entry->mac, mac, sizeof(mac));
            entry->remote = remote;
        }
    }
    if (!is_here && !come_is_expected(reading->service, store_text(row, AT_MACHINE))) {
        return true;
    }
    struct plan_port *port = grow(&plan->ports, &plan->port_count, sizeof(*plan->ports));
    snprintf(port->machine, sizeof(port->machine), "%s", store_text(row, AT_MACHINE));
    plan_tap_name(port->machine, (unsigned)sqlite3_column_int(row, AT_NIC), port->tap);
    port->segment = plan->segment_count - 1;
    memcpy(port->mac, mac, sizeof(mac));
    port->address = address;
    snprintf(port->groups, sizeof(port->groups), "%s", store_text(row, AT_GROUPS));
    snprintf(port->project, sizeof(port->project), "%s", store_text(row, AT_PROJECT));
    segment->has_groups = segment->has_groups || strcmp(port->groups, " ") != 0;
    if (is_here) {
        take_published(plan, row, address);
    }
    return true;
}

#define LEASES_OF(dns)                                                                        \
    "SELECT l.network, l.address, l.mac, l.groups, l.machine, l.nic, m.node, n.project, "     \
    "m.config, "                                                                              \
    "n.vni, n.address, n.prefix, n.gateway, n.mode, n.mtu, n.is_peering, " dns                \
    " FROM network_lease l JOIN machine m ON m.id = l.machine JOIN network n ON n.key = "     \
    "l.network "                                                                              \
    "WHERE l.network IN (SELECT l2.network FROM network_lease l2 JOIN machine m2 ON m2.id = " \
    "l2.machine WHERE m2.node = ? OR instr(?, ' ' || m2.id || ' ') > 0) ORDER BY l.network, " \
    "l.address"

static int read_leases(const struct reading *reading, struct error *err)
{
    struct store *store = reading->service->options.store;
    bool has_dns = store_schema_now(store) >= NETWORK_SETTINGS_SCHEMA;
    MEMORY_OWNED char *expected = come_list(reading->service);
    return store_query(store, err, take_lease, (void *)(uintptr_t)reading,
                       has_dns ? LEASES_OF("n.dns") : LEASES_OF("''"), "tt",
                       reading->service->node_name, expected);
}

/* ---- Tunnels ---- */

static void add_remotes(const struct reading *reading)
{
    struct plan *plan = reading->plan;
    const struct cluster_view *view = reading->view;
    for (size_t i = 0; i < view->count; i++) {
        uint32_t address = 0;
        const struct cluster_node *node = &view->nodes[i];
        bool is_known = parse_host(node->address, &address);
        bool is_good = is_known && node->health != CLUSTER_LOST;
        plan->has_others = plan->has_others || !node->is_self;
        if (is_known) {
            uint32_t *one = grow(&plan->nodes, &plan->node_count, sizeof(*plan->nodes));
            *one = address;
        }
        if (node->is_self) {
            plan->local = is_good ? address : 0;
            snprintf(plan->problem, sizeof(plan->problem),
                     "no tunnel leads to other nodes: this one is known as \"%.60s\", and an IPv4 "
                     "address is needed (--advertise-address)",
                     node->address);
            continue;
        }
        for (size_t s = 0; s < plan->segment_count && is_good; s++) {
            struct plan_segment *segment = &plan->segments[s];
            uint32_t *remote =
                grow(&segment->remotes, &segment->remote_count, sizeof(*segment->remotes));
            *remote = address;
        }
    }
}

/* ---- Security groups ---- */

struct collecting {
    struct reading *reading;
    struct plan_port *port;
    size_t index;
    struct error *err;
    int r;
};

static bool take_member(sqlite3_stmt *row, void *context)
{
    struct net_group *group = context;
    uint32_t *members = (uint32_t *)(uintptr_t)group->members;
    uint32_t *member = grow(&members, &group->member_count, sizeof(*members));
    *member = (uint32_t)sqlite3_column_int64(row, 0);
    group->members = members;
    return true;
}

/* Groups of engine/net have no projects: "p/g" is found by its place. */
static const char *find_group(const struct collecting *collecting, const char *name,
                              struct error *err)
{
    struct plan *plan = collecting->reading->plan;
    const char *project = collecting->port->project;
    uint64_t number = hash_stable(project);
    MEMORY_OWNED char *unique = memory_format("%016llx-%.40s", (unsigned long long)number, name);
    MEMORY_OWNED char *pattern = memory_format(" %s ", name);
    for (size_t i = 0; i < plan->group_count; i++) {
        if (strcmp(plan->groups[i].name, unique) == 0) {
            return plan->groups[i].name;
        }
    }
    struct net_group *group = grow(&plan->groups, &plan->group_count, sizeof(*plan->groups));
    group->name = memory_copy_string(unique);
    const char *kept = group->name;
    store_query(collecting->reading->service->options.store, err, take_member, group,
                "SELECT DISTINCT l.address FROM network_lease l JOIN machine m ON m.id = l.machine "
                "WHERE m.project = ? AND instr(l.groups, ?) > 0 ORDER BY l.address",
                "tt", project, pattern);
    return kept;
}

static bool take_rule(sqlite3_stmt *row, void *context)
{
    struct collecting *collecting = context;
    struct plan *plan = collecting->reading->plan;
    size_t at = collecting->index;
    struct network_rule rule;
    if (settings_parse_rule(store_text(row, 0), store_text(row, 1), store_text(row, 2), &rule,
                            collecting->err) < 0) {
        return true; /* of a newer version: what is not understood allows nothing */
    }
    struct net_rule *made = rule.is_out
        ? grow(&plan->egress[at], &plan->egress_count[at], sizeof(*made))
        : grow(&plan->ingress[at], &plan->ingress_count[at], sizeof(*made));
    *made = rule.rule;
    made->group =
        rule.rule.group != NULL ? memory_copy_string(rule.rule.group) : NULL; /* named later */
    return true;
}

/* A query runs inside no other: groups of rules are looked up when all rules are read. */
static void name_groups(struct collecting *collecting, struct net_rule *rules, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (rules[i].group != NULL) {
            char *name = (char *)(uintptr_t)rules[i].group;
            rules[i].group = find_group(collecting, name, collecting->err);
            free(name);
        }
    }
}

static int read_groups(struct reading *reading, struct error *err)
{
    struct plan *plan = reading->plan;
    int r = 0;
    plan->ingress = memory_new(plan->port_count + 1, sizeof(struct net_rule *));
    plan->ingress_count = memory_new(plan->port_count + 1, sizeof(plan->ingress_count[0]));
    plan->egress = memory_new(plan->port_count + 1, sizeof(struct net_rule *));
    plan->egress_count = memory_new(plan->port_count + 1, sizeof(plan->egress_count[0]));
    for (size_t i = 0; i < plan->port_count && r == 0; i++) {
        struct collecting collecting = {reading, &plan->ports[i], i, err, 0};
        if (strcmp(plan->ports[i].groups, " ") == 0) {
            continue;
        }
        r = store_query(reading->service->options.store, err, take_rule, &collecting,
                        "SELECT DISTINCT r.direction, r.allow, r.peer FROM security_group_rule r "
                        "JOIN security_group g ON g.key = r.grp WHERE g.project = ? AND instr(?, ' "
                        "' || g.name || ' ') > 0 ORDER BY r.direction, r.allow, r.peer",
                        "tt", plan->ports[i].project, plan->ports[i].groups);
        name_groups(&collecting, plan->ingress[i], plan->ingress_count[i]);
        name_groups(&collecting, plan->egress[i], plan->egress_count[i]);
    }
    return r;
}

struct plan *plan_new(struct network_service *service, struct error *err)
{
    struct plan *plan = NEW(struct plan);
    snprintf(plan->owner, sizeof(plan->owner), "%s", service->owner);
    if (store_schema_now(service->options.store) < NETWORK_SCHEMA) {
        return plan;
    }
    struct cluster_view *view = cluster_view_ref(service->options.cluster);
    struct reading reading = {service, plan, view};
    if (read_leases(&reading, err) == 0) {
        add_remotes(&reading);
        read_groups(&reading, err);
    }
    cluster_view_unref(view);
    return plan;
}

void plan_free(struct plan *plan)
{
    if (plan == NULL) {
        return;
    }
    for (size_t i = 0; i < plan->segment_count; i++) {
        free(plan->segments[i].remotes);
        free(plan->segments[i].entries);
    }
    for (size_t i = 0; i < plan->port_count && plan->ingress != NULL; i++) {
        free(plan->ingress[i]);
        free(plan->egress[i]);
    }
    for (size_t i = 0; i < plan->group_count; i++) {
        free((void *)(uintptr_t)plan->groups[i].name);
        free((void *)(uintptr_t)plan->groups[i].members);
    }
    free(plan->ingress);
    free(plan->ingress_count);
    free(plan->egress);
    free(plan->egress_count);
    free(plan->groups);
    free(plan->published);
    free(plan->nodes);
    free(plan->flows);
    free(plan->homes);
    free(plan->ports);
    free(plan->segments);
    free(plan);
}
