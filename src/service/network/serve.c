/*
 * DHCP and names on each bridge of this node, asked by machines and answered from the state.
 *
 * A network answers for the machines of its own project: NAME.PROJECT.vm.internal, and
 * NAME.NETWORK.PROJECT.vm.internal for one of its addresses.  Those in the network that is asked
 * come first; only where there is none there the others are told.
 */
#include <stdio.h>
#include <string.h>

#include "base/buffer.h"
#include "base/log.h"
#include "base/memory.h"

#include "engine/net/dhcp.h"
#include "engine/net/dns.h"
#include "engine/store/store.h"

#include "service/network/parts.h"

struct served {
    struct list_node link;
    struct network_service *service;
    char key[160];
    char project[64];
    char bridge[NET_NAME_SIZE];
    uint32_t gateway;
    enum net_mode mode;
    char resolvers[NET_DNS_RESOLVERS_SIZE];
    struct net_dhcp *dhcp;
    struct net_dns *dns;
    bool is_wanted;
};

/* ---- DHCP ---- */

struct leasing {
    struct net_lease *lease;
    bool is_there;
};

static bool take_lease(sqlite3_stmt *row, void *context)
{
    struct leasing *leasing = context;
    struct net_lease *lease = leasing->lease;
    leasing->is_there = true;
    *lease = (struct net_lease){.address = (uint32_t)sqlite3_column_int64(row, 0),
                                .prefix = (unsigned)sqlite3_column_int(row, 1),
                                .router = (uint32_t)sqlite3_column_int64(row, 2),
                                .dns = (uint32_t)sqlite3_column_int64(row, 2),
                                .mtu = (unsigned)sqlite3_column_int(row, 3)};
    if (strcmp(store_text(row, 6), "closed") == 0) {
        lease->router = 0;
    }
    snprintf(lease->hostname, sizeof(lease->hostname), "%.63s", store_text(row, 4));
    snprintf(lease->domain, sizeof(lease->domain), "%.63s." NET_DNS_DOMAIN, store_text(row, 5));
    return false;
}

static bool find_lease(const uint8_t mac[NET_MAC_SIZE], struct net_lease *ret_lease, void *context)
{
    const struct served *served = context;
    struct leasing leasing = {.lease = ret_lease};
    struct error ignored = {0};
    char text[NET_MAC_TEXT_SIZE];
    store_query(served->service->options.store, &ignored, take_lease, &leasing,
                "SELECT l.address, n.prefix, n.gateway, n.mtu, m.name, m.project, n.mode FROM "
                "network_lease l JOIN network n ON n.key = l.network JOIN machine m ON m.id = "
                "l.machine WHERE l.network = ? AND l.mac = ? AND m.node = ?",
                "ttt", served->key, net_mac_format(mac, text), served->service->node_name);
    return leasing.is_there;
}

/* ---- Names ---- */

struct addresses {
    const char *network; /* that is asked */
    uint32_t *list;
    size_t count;
    bool are_near;
};

/* Near ones come first. */
static bool take_address(sqlite3_stmt *row, void *context)
{
    struct addresses *addresses = context;
    bool is_near = strcmp(store_text(row, 1), addresses->network) == 0;
    if (addresses->count == NET_DNS_ADDRESSES_MAX || (addresses->are_near && !is_near)) {
        return false;
    }
    addresses->are_near = is_near;
    addresses->list[addresses->count++] = (uint32_t)sqlite3_column_int64(row, 0);
    return true;
}

/* NOLINTNEXTLINE(readability-non-const-parameter): net_dns_options has it so */
static size_t find_addresses(const char *name, uint32_t *ret_addresses, void *context)
{
    const struct served *served = context;
    struct addresses addresses = {.network = served->key, .list = ret_addresses};
    struct error ignored = {0};
    size_t length = strlen(name);
    size_t tail = strlen(served->project);
    if (length < tail + 2 || name[length - tail - 1] != '.' ||
        strcmp(name + length - tail, served->project) != 0) {
        return 0;
    }
    MEMORY_OWNED char *rest = memory_copy_text(name, length - tail - 1);
    char *dot = strchr(rest, '.');
    const char *network = NULL;
    if (dot != NULL) {
        *dot = '\0';
        network = dot + 1;
    }
    store_query(served->service->options.store, &ignored, take_address, &addresses,
                "SELECT l.address, l.network FROM network_lease l JOIN machine m ON m.id = "
                "l.machine JOIN network n ON n.key = l.network WHERE m.key = ?1 || '/' || ?2 AND "
                "(?3 IS NULL OR n.name = ?3) ORDER BY l.network <> ?4, l.nic",
                "tttt", served->project, rest, network, served->key);
    return addresses.count;
}

static bool take_machine(sqlite3_stmt *row, void *context)
{
    snprintf(context, NET_DNS_NAME_SIZE, "%.63s.%.63s." NET_DNS_DOMAIN, store_text(row, 0),
             store_text(row, 1));
    return false;
}

static bool find_name(uint32_t address, char ret_name[NET_DNS_NAME_SIZE], void *context)
{
    const struct served *served = context;
    struct error ignored = {0};
    ret_name[0] = '\0';
    store_query(served->service->options.store, &ignored, take_machine, ret_name,
                "SELECT m.name, m.project FROM network_lease l JOIN machine m ON m.id = l.machine "
                "WHERE l.address = ? AND m.project = ?",
                "ut", (uint64_t)address, served->project);
    return ret_name[0] != '\0';
}

/* ---- Life ---- */

static void end(struct served *served)
{
    list_remove(&served->link);
    net_dhcp_close(served->dhcp);
    net_dns_close(served->dns);
    free(served);
}

static struct served *find(struct network_service *service, const struct plan_segment *segment)
{
    LIST_EACH(node, &service->served)
    {
        struct served *served = LIST_ITEM(node, struct served, link);
        if (strcmp(served->key, segment->key) == 0 &&
            strcmp(served->bridge, segment->bridge) == 0) {
            return served;
        }
    }
    return NULL;
}

static struct served *begin(struct network_service *service, const struct plan_segment *segment)
{
    struct served *served = NEW(struct served);
    served->service = service;
    served->gateway = segment->gateway;
    served->mode = segment->mode;
    snprintf(served->resolvers, sizeof(served->resolvers), "%s", segment->dns);
    snprintf(served->key, sizeof(served->key), "%s", segment->key);
    snprintf(served->project, sizeof(served->project), "%.*s", (int)strcspn(segment->key, "/"),
             segment->key);
    snprintf(served->bridge, sizeof(served->bridge), "%s", segment->bridge);
    list_push_back(&service->served, &served->link);
    return served;
}

static int open_both(struct served *served, struct error *err)
{
    struct loop *loop = served->service->options.loop;
    const struct net_dhcp_options dhcp = {.bridge = served->bridge,
                                          .address = served->gateway,
                                          .find = find_lease,
                                          .context = served};
    const struct net_dns_options dns = {.bridge = served->bridge,
                                        .address = served->gateway,
                                        .is_closed = served->mode == NET_CLOSED,
                                        .resolvers = served->resolvers,
                                        .find = find_addresses,
                                        .find_name = find_name,
                                        .context = served};
    int r = served->dhcp != NULL ? 0 : net_dhcp_open(loop, &dhcp, &served->dhcp, err);
    return r < 0 || served->dns != NULL ? r : net_dns_open(loop, &dns, &served->dns, err);
}

/* Names are answered anew where the network has changed in what it passes on, and to whom. */
static void settle(struct served *served, const struct plan_segment *segment)
{
    if (served->mode == segment->mode && served->gateway == segment->gateway &&
        strcmp(served->resolvers, segment->dns) == 0) {
        return;
    }
    if (served->gateway != segment->gateway) {
        net_dhcp_close(served->dhcp);
        served->dhcp = NULL;
    }
    net_dns_close(served->dns);
    served->dns = NULL;
    served->gateway = segment->gateway;
    served->mode = segment->mode;
    snprintf(served->resolvers, sizeof(served->resolvers), "%s", segment->dns);
}

void serve_update(struct network_service *service, struct plan *plan)
{
    LIST_EACH(node, &service->served)
    {
        LIST_ITEM(node, struct served, link)->is_wanted = false;
    }
    for (size_t i = 0; i < plan->segment_count; i++) {
        struct plan_segment *segment = &plan->segments[i];
        struct served *served = find(service, segment);
        if (segment->error.kind != ERROR_NONE || plan->error.kind != ERROR_NONE) {
            if (served != NULL) {
                served->is_wanted = true; /* it may get better */
            }
            continue;
        }
        served = served != NULL ? served : begin(service, segment);
        served->is_wanted = true;
        settle(served, segment);
        open_both(served, &segment->error);
    }
    LIST_EACH(node, &service->served)
    {
        struct served *served = LIST_ITEM(node, struct served, link);
        if (!served->is_wanted) {
            end(served);
        }
    }
}

void serve_end(struct network_service *service)
{
    LIST_EACH(node, &service->served)
    {
        end(LIST_ITEM(node, struct served, link));
    }
}
