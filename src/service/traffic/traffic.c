/* Learning who exchanges data with whom: life, looks, and what addresses are. */
#include "service/traffic/traffic.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/net/net.h"

#include "service/cluster/cluster.h"
#include "service/fetch/fetch.h"
#include "service/network/network.h"
#include "service/traffic/parts.h"

enum { SCHEMA_WITH_TRAFFIC = 10 };

bool traffic_is_known(struct store *store)
{
    return store_schema_now(store) >= SCHEMA_WITH_TRAFFIC;
}

/* ---- What addresses are ---- */

struct resolving {
    struct traffic_service *service;
    struct map known; /* "0a400002" -> "machine ID" or "node NAME" */
    struct map here;  /* those of machines of this node */
};

static void set_address(struct map *map, uint32_t address, const char *kind, const char *id)
{
    char key[12];
    snprintf(key, sizeof(key), "%08x", address);
    free(map_set(map, key, memory_format("%s%s", kind, id)));
}

static const char *get_address(const struct map *map, uint32_t address)
{
    char key[12];
    snprintf(key, sizeof(key), "%08x", address);
    return map_get(map, key);
}

static bool take_lease(sqlite3_stmt *row, void *context)
{
    struct resolving *resolving = context;
    uint32_t address = (uint32_t)sqlite3_column_int64(row, 0);
    set_address(&resolving->known, address, KIND_MACHINE, store_text(row, 1));
    if (strcmp(store_text(row, 2), resolving->service->options.node_name) == 0) {
        set_address(&resolving->here, address, KIND_MACHINE, store_text(row, 1));
    }
    return true;
}

/* Of the networks that are on this node: nobody here reaches another one by its addresses. */
#define LEASES                                                                                  \
    "SELECT l.address, l.machine, m.node FROM network_lease l JOIN machine m ON m.id = "        \
    "l.machine WHERE l.network IN (SELECT l2.network FROM network_lease l2 JOIN machine m2 ON " \
    "m2.id = l2.machine WHERE m2.node = ?)"

static void add_nodes(struct resolving *resolving)
{
    struct cluster_view *view = cluster_view_ref(resolving->service->options.cluster);
    for (size_t i = 0; i < view->count; i++) {
        const struct cluster_node *node = &view->nodes[i];
        MEMORY_OWNED char *host = memory_copy_text(node->address, strcspn(node->address, ":"));
        uint32_t address = 0;
        if (net_address_parse(host, &address)) {
            set_address(&resolving->known, address, KIND_NODE, node->name);
        }
    }
    cluster_view_unref(view);
}

static void resolving_init(struct resolving *resolving, struct traffic_service *service)
{
    struct error err = {0};
    *resolving = (struct resolving){.service = service};
    add_nodes(resolving);
    if (store_query(service->options.store, &err, take_lease, resolving, LEASES, "t",
                    service->options.node_name) < 0) {
        log_warn("traffic: whose addresses these are cannot be read: %s", err.text);
    }
}

static void free_value(const char *key, void *value, void *context)
{
    (void)key;
    (void)context;
    free(value);
}

static void resolving_done(struct resolving *resolving)
{
    map_each(&resolving->known, free_value, NULL);
    map_each(&resolving->here, free_value, NULL);
    map_done(&resolving->known);
    map_done(&resolving->here);
}

/* ---- Published ports ---- */

struct publisher {
    uint16_t port;
    char machine[TRAFFIC_PEER_SIZE];
};

static bool take_publisher(sqlite3_stmt *row, void *context)
{
    struct publisher *publisher = context;
    struct network_publish publish;
    struct error ignored;
    if (network_publish_parse(store_text(row, 1), &publish, &ignored) == 0 &&
        publish.host_port == publisher->port && !publish.is_udp) {
        snprintf(publisher->machine, sizeof(publisher->machine), KIND_MACHINE "%s",
                 store_text(row, 0));
        return false;
    }
    return true;
}

/* The machine that a node's port leads to. */
static bool find_publisher(struct traffic_service *service, const char *node,
                           struct publisher *publisher)
{
    struct error ignored = {0};
    store_query(service->options.store, &ignored, take_publisher, publisher,
                "SELECT m.id, p.value FROM machine m, json_each(m.config, '$.publish') p WHERE "
                "m.node = ?",
                "t", node);
    return publisher->machine[0] != '\0';
}

/* ---- What was exchanged ---- */

static void take_flows(struct resolving *resolving, const struct network_flow *flows, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const char *subject = get_address(&resolving->here, flows[i].address);
        const char *peer = get_address(&resolving->known, flows[i].peer);
        if (subject != NULL && peer != NULL) {
            learn_add(&resolving->service->learner, subject, peer, flows[i].bytes);
        }
    }
}

static void take_reached(const char *function, const struct fetch_reached *reached, void *context)
{
    struct resolving *resolving = context;
    struct traffic_service *service = resolving->service;
    MEMORY_OWNED char *subject = memory_format(KIND_FUNCTION "%s", function);
    struct publisher publisher = {.port = reached->port};
    MEMORY_OWNED char *self = memory_format(KIND_NODE "%s", service->options.node_name);
    const char *peer =
        reached->address >> 24 == 127 ? self : get_address(&resolving->known, reached->address);
    if (peer != NULL && strncmp(peer, KIND_NODE, strlen(KIND_NODE)) == 0 &&
        find_publisher(service, peer + strlen(KIND_NODE), &publisher)) {
        peer = publisher.machine;
    }
    if (peer != NULL) {
        learn_add(&service->learner, subject, peer, reached->bytes);
    }
}

/* ---- Looks ---- */

static void on_flows(const struct network_flow *flows, size_t count, void *context)
{
    struct traffic_service *service = context;
    struct resolving resolving;
    uint64_t now_ms = clock_monotonic_ms();
    service->pending--;
    if (service->is_over) {
        return;
    }
    resolving_init(&resolving, service);
    take_flows(&resolving, flows, count);
    if (service->fetches != NULL) {
        fetch_take_reached(service->fetches, take_reached, &resolving);
    }
    resolving_done(&resolving);
    learn_step(&service->learner, now_ms - service->looked_ms);
    service->looked_ms = now_ms;
    service->looks++;
    publish_news(service);
    loop_timer_start(service->timer, service->options.every_ms);
}

static void on_timer(void *context)
{
    struct traffic_service *service = context;
    service->pending++;
    network_read_flows(service->options.networks, on_flows, service);
}

/* ---- Life ---- */

struct traffic_service *traffic_service_new(const struct traffic_options *options)
{
    struct traffic_service *service = NEW(struct traffic_service);
    service->options = *options;
    service->learner.memory_ms = TRAFFIC_MEMORY_LOOKS * options->every_ms;
    service->looked_ms = clock_monotonic_ms();
    service->timer = loop_timer_new(options->loop, on_timer, service);
    if (options->every_ms > 0) {
        loop_timer_start(service->timer, options->every_ms);
    }
    return service;
}

void traffic_service_free(struct traffic_service *service)
{
    if (service == NULL) {
        return;
    }
    service->is_over = true;
    loop_timer_free(service->timer);
    store_settle(service->options.store);
    while (service->pending > 0) {
        uv_run(loop_uv(service->options.loop), UV_RUN_ONCE);
    }
    publish_done(service);
    learner_done(&service->learner);
    free(service);
}

void traffic_set_fetches(struct traffic_service *service, struct fetch_service *fetches)
{
    service->fetches = fetches;
}
