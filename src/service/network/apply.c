/*
 * A plan made true: bridges, then the rules, then the taps, so that nothing is plugged in that is
 * not filtered; last goes what is not wanted any more.  On a thread of the pool.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/hash.h"
#include "base/memory.h"

#include "service/network/parts.h"

static bool is_there(const struct net_link *links, size_t count, const char *name)
{
    for (size_t i = 0; i < count; i++) {
        if (strcmp(links[i].name, name) == 0) {
            return true;
        }
    }
    return false;
}

/* Other nodes, and an address that they reach this one at. */
static bool has_tunnel(const struct plan *plan)
{
    return plan->has_others && plan->local != 0;
}

static int make_tunnel(const struct plan *plan, const struct plan_segment *segment,
                       struct error *err)
{
    const struct net_vxlan vxlan = {
        .owner = plan->owner,
        .name = segment->vxlan,
        .bridge = segment->bridge,
        .vni = segment->vni,
        .local = plan->local,
        .mtu = segment->mtu,
        .remotes = segment->remotes,
        .remote_count = segment->remote_count,
        .entries = segment->entries,
        .entry_count = segment->entry_count,
    };
    return net_vxlan_ensure(&vxlan, err);
}

static void make_segment(const struct plan *plan, struct plan_segment *segment, bool is_new)
{
    struct error *err = &segment->error;
    const struct net_bridge bridge = {
        .owner = plan->owner,
        .name = segment->bridge,
        .mac = segment->mac,
        .mtu = segment->mtu,
        .address = segment->gateway,
        .prefix = segment->subnet.prefix,
        .is_filtered = segment->has_groups,
    };
    int r = is_new
        ? net_subnet_check(plan->owner, segment->subnet.address, segment->subnet.prefix, err)
        : 0;
    r = r < 0 ? r : net_bridge_ensure(&bridge, err);
    r = r < 0 ? r : net_forwarding_ensure(segment->bridge, err);
    if (r == 0 && has_tunnel(plan)) {
        make_tunnel(plan, segment, err);
    }
}

/* Counting goes on as it is, unless ports or nodes have come or gone. */
static void count_flows(struct plan *plan, const struct net_rules *rules)
{
    BUFFER_OWNED struct buffer text = {0};
    if (net_flows_render(rules, plan->nodes, plan->node_count, &text, &plan->flows_problem) < 0) {
        return;
    }
    uint64_t digest = hash_stable(buffer_string(&text));
    if (digest != plan->flows_digest) {
        int r = net_flows_restart(rules, plan->nodes, plan->node_count, &plan->flows,
                                  &plan->flow_count, &plan->flows_problem);
        plan->are_flows_new = r == 0; /* else what counts goes on, and is read as before */
        plan->flows_digest = r == 0 ? digest : 0;
    }
}

static void make_rules(struct plan *plan)
{
    struct net_segment *segments = memory_new(plan->segment_count + 1, sizeof(*segments));
    struct net_port *ports = memory_new(plan->port_count + 1, sizeof(*ports));
    for (size_t i = 0; i < plan->segment_count; i++) {
        const struct plan_segment *segment = &plan->segments[i];
        segments[i] = (struct net_segment){.bridge = segment->bridge,
                                           .vxlan = has_tunnel(plan) ? segment->vxlan : NULL,
                                           .mac = segment->mac,
                                           .address = segment->gateway,
                                           .prefix = segment->subnet.prefix,
                                           .mode = segment->mode,
                                           .zone = segment->zone};
    }
    for (size_t i = 0; i < plan->port_count; i++) {
        const struct plan_port *port = &plan->ports[i];
        ports[i] = (struct net_port){.tap = port->tap,
                                     .address = port->address,
                                     .has_ingress = strcmp(port->groups, " ") != 0,
                                     .ingress = plan->ingress[i],
                                     .ingress_count = plan->ingress_count[i],
                                     .has_egress = plan->egress_count[i] > 0,
                                     .egress = plan->egress[i],
                                     .egress_count = plan->egress_count[i]};
        memcpy(ports[i].mac, port->mac, sizeof(port->mac));
    }
    const struct net_rules rules = {.owner = plan->owner,
                                    .segments = segments,
                                    .segment_count = plan->segment_count,
                                    .ports = ports,
                                    .port_count = plan->port_count,
                                    .groups = plan->groups,
                                    .group_count = plan->group_count,
                                    .published = plan->published,
                                    .published_count = plan->published_count};
    net_rules_apply(&rules, &plan->error);
    if (plan->error.kind == ERROR_NONE && plan->counts_flows) {
        count_flows(plan, &rules);
    }
    free(segments);
    free(ports);
}

static void make_port(const struct plan *plan, struct plan_port *port)
{
    const struct plan_segment *segment = &plan->segments[port->segment];
    const struct net_tap tap = {
        .owner = plan->owner, .name = port->tap, .bridge = segment->bridge, .mtu = segment->mtu};
    if (segment->error.kind == ERROR_NONE) {
        net_tap_ensure(&tap, &port->error);
    }
}

static bool is_wanted(const struct plan *plan, const char *name)
{
    for (size_t i = 0; i < plan->segment_count; i++) {
        const struct plan_segment *segment = &plan->segments[i];
        if (strcmp(segment->bridge, name) == 0 ||
            (has_tunnel(plan) && strcmp(segment->vxlan, name) == 0)) {
            return true;
        }
    }
    for (size_t i = 0; i < plan->port_count; i++) {
        if (strcmp(plan->ports[i].tap, name) == 0) {
            return true;
        }
    }
    return false;
}

/* Bridges last: taps are unplugged by then. */
static void remove_others(struct plan *plan, const struct net_link *links, size_t count)
{
    for (int turn = 0; turn < 2; turn++) {
        for (size_t i = 0; i < count; i++) {
            bool is_bridge = links[i].kind == NET_BRIDGE;
            if (is_bridge == (turn == 1) && !is_wanted(plan, links[i].name)) {
                net_link_delete(plan->owner, links[i].name, &plan->error);
            }
        }
    }
}

void plan_apply(struct plan *plan)
{
    struct net_link *links = NULL;
    size_t count = 0;
    if (plan->error.kind != ERROR_NONE || (plan->segment_count == 0 && geteuid() != 0)) {
        return;
    }
    if (net_links(plan->owner, &links, &count, &plan->error) < 0) {
        return;
    }
    if (plan->segment_count == 0 && count == 0) {
        free(links);
        return;
    }
    for (size_t i = 0; i < plan->segment_count; i++) {
        make_segment(plan, &plan->segments[i], !is_there(links, count, plan->segments[i].bridge));
    }
    make_rules(plan);
    for (size_t i = 0; i < plan->port_count && plan->error.kind == ERROR_NONE; i++) {
        make_port(plan, &plan->ports[i]);
    }
    if (plan->error.kind == ERROR_NONE) {
        remove_others(plan, links, count);
    }
    free(links);
}
