/* What the cluster says of its nodes, as the engine takes it. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "service/cluster/cluster.h"
#include "service/peer/peer.h"
#include "service/placement/parts.h"

enum { MILLI = 1000, TEXT_SIZE = 512, LOOK_MS = 500, VALUES_MAX = 32 };

/* What a node that has not said what it has is believed to have. */
#define UNKNOWN_CPUS   1024
#define UNKNOWN_MEMORY (UINT64_C(16) << 40)
#define UNKNOWN_DISK   (UINT64_C(1) << 50)

struct described {
    struct placement_node node;
    struct placement_attribute attributes[PLACEMENT_ATTRIBUTES_MAX];
    char values[VALUES_MAX][TEXT_SIZE]; /* of attributes that are put together */
    size_t value_count;
    char names[PLACEMENT_ATTRIBUTES_MAX][80];
    struct placement_taint taints[PLACEMENT_TAINTS_MAX];
    struct placement_numa numa[PLACEMENT_NUMA_MAX];
    struct placement_device devices[PLACEMENT_DEVICE_KINDS_MAX];
};

static void add(struct described *described, const char *prefix, const char *name,
                const char *value)
{
    size_t at = described->node.attribute_count;
    struct error ignored = {0};
    if (at >= PLACEMENT_ATTRIBUTES_MAX || value == NULL || value[0] == '\0' ||
        placement_check_name(name, &ignored) < 0 || placement_check_value(value, &ignored) < 0) {
        return;
    }
    snprintf(described->names[at], sizeof(described->names[at]), "%s%s", prefix, name);
    described->attributes[at] = (struct placement_attribute){described->names[at], value};
    described->node.attribute_count++;
}

static char *take_value(struct described *described)
{
    CHECK(described->value_count < VALUES_MAX);
    return described->values[described->value_count++];
}

static void add_u64(struct described *described, const char *name, uint64_t number)
{
    char *value = take_value(described);
    snprintf(value, TEXT_SIZE, "%" PRIu64, number);
    add(described, "attr.", name, value);
}

/* Those that can run machines; one that has said nothing may have any. */
static void add_drivers(struct described *described, const json_t *attributes)
{
    char *value = take_value(described);
    const json_t *drivers = json_object_get(attributes, "drivers");
    size_t index = 0;
    size_t used = 0;
    json_t *driver = NULL;
    snprintf(value, TEXT_SIZE, "%s",
             drivers != NULL ? "none" : "qemu,cloud-hypervisor,firecracker");
    json_array_foreach(drivers, index, driver)
    {
        const char *name = json_text(driver, "name");
        if (used + strlen(name) + 2 < TEXT_SIZE) {
            used +=
                (size_t)snprintf(value + used, TEXT_SIZE - used, "%s%s", used > 0 ? "," : "", name);
        }
    }
    add(described, "attr.", "drivers", value);
}

/* How many it has of each: "device.gpu", "hugepages.2048kB". */
static void add_counts(struct described *described, const char *what, const json_t *list)
{
    size_t index = 0;
    json_t *item = NULL;
    json_array_foreach(list, index, item)
    {
        MEMORY_OWNED char *name = memory_format("%s.%.40s", what, json_text(item, "name"));
        if (described->value_count < VALUES_MAX) {
            add_u64(described, name, json_u64(item, "count"));
        }
    }
}

static void take_attributes(struct described *described, const json_t *node,
                            const json_t *attributes)
{
    const char *name = NULL;
    json_t *value = NULL;
    json_object_foreach(json_object_get(node, "labels"), name, value)
    {
        add(described, "label.", name, json_string_value(value));
    }
    add(described, "attr.", "arch", json_text(attributes, "architecture"));
    add(described, "attr.", "kernel", json_text(attributes, "kernel"));
    add(described, "attr.", "kvm", json_text(attributes, "kvm"));
    add(described, "attr.", "blixard", json_text(node, "version"));
    add(described, "attr.", "role", json_text(node, "role"));
    add(described, "attr.", "failure_domain", json_text(node, "failure_domain"));
    if (json_u64(attributes, "cpus") > 0) {
        add_u64(described, "cpus", json_u64(attributes, "cpus"));
        add_u64(described, "memory_bytes", json_u64(attributes, "memory_bytes"));
        add_u64(described, "disk_bytes", json_u64(attributes, "disk_bytes"));
    }
    add_drivers(described, attributes);
    add_counts(described, "device", json_object_get(attributes, "devices"));
    add_counts(described, "hugepages", json_object_get(attributes, "hugepages"));
    described->node.attributes = described->attributes;
}

/* Labels go before what the node's options say; a failure domain is a zone where nothing is. */
static void take_place(struct described *described, const json_t *node, const json_t *attributes)
{
    static const char *const keys[] = {"region", "zone", "rack"};
    const char *places[3];
    const json_t *topology = json_object_get(attributes, "topology");
    for (size_t i = 0; i < 3; i++) {
        places[i] = json_text(json_object_get(node, "labels"), keys[i]);
        places[i] = places[i][0] != '\0' ? places[i] : json_text(topology, keys[i]);
    }
    described->node.region = places[0];
    described->node.zone = places[1][0] != '\0' ? places[1] : json_text(node, "failure_domain");
    described->node.rack = places[2];
}

static void take_taints(struct described *described, const json_t *taints)
{
    size_t index = 0;
    json_t *taint = NULL;
    json_array_foreach(taints, index, taint)
    {
        struct error ignored = {0};
        const char *value = json_text(taint, "value");
        MEMORY_OWNED char *line =
            memory_format("%s%s%s:%s", json_text(taint, "key"), value[0] != '\0' ? "=" : "", value,
                          json_text(taint, "effect"));
        size_t at = described->node.taint_count;
        if (at < PLACEMENT_TAINTS_MAX &&
            placement_taint_parse(line, &described->taints[at], &ignored) == 0) {
            described->node.taint_count++;
        }
    }
    described->node.taints = described->taints;
}

/* How many of "0-3,8". */
static uint32_t count_cpus(const char *list)
{
    uint32_t count = 0;
    unsigned long first = 0;
    unsigned long last = 0;
    while (text_take_range(&list, &first, &last) && last >= first &&
           last - first < PLACEMENT_CORES_MAX) {
        count += (uint32_t)(last - first + 1);
    }
    return count;
}

#define NAME_2M "2048kB" /* as the kernel calls it */
#define NAME_1G "1048576kB"

/* Those that programs of others do not have. */
static uint64_t pages_of(const json_t *pages, const char *name)
{
    size_t index = 0;
    json_t *page = NULL;
    json_array_foreach(pages, index, page)
    {
        if (strcmp(json_text(page, "name"), name) == 0) {
            uint64_t count = json_u64(page, "count");
            uint64_t others = json_u64(page, "others");
            return count > others ? count - others : 0;
        }
    }
    return 0;
}

/* Memory that was not set aside for huge pages. */
static uint64_t plain_memory(const json_t *has)
{
    uint64_t bytes = json_u64(has, "memory_bytes");
    uint64_t aside = 0;
    size_t index = 0;
    json_t *page = NULL;
    json_array_foreach(json_object_get(has, "hugepages"), index, page)
    {
        uint64_t kib = strtoull(json_text(page, "name"), NULL, 10);
        aside += json_u64(page, "count") * (kib << 10);
    }
    return bytes > aside ? bytes - aside : 0;
}

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* Of which NUMA nodes those pages are that others have is not known: together there are no more
 * than of the whole node. */
static void take_numa(struct described *described, const json_t *list)
{
    size_t index = 0;
    json_t *numa = NULL;
    uint64_t left_2m = described->node.capacity.of[PLACEMENT_HUGE_2M];
    uint64_t left_1g = described->node.capacity.of[PLACEMENT_HUGE_1G];
    json_array_foreach(list, index, numa)
    {
        if (described->node.numa_count < PLACEMENT_NUMA_MAX) {
            const json_t *pages = json_object_get(numa, "hugepages");
            struct placement_numa *to = &described->numa[described->node.numa_count++];
            *to = (struct placement_numa){.cores = count_cpus(json_text(numa, "cpus")),
                                          .memory_bytes = plain_memory(numa),
                                          .huge_2m = least(pages_of(pages, NAME_2M), left_2m),
                                          .huge_1g = least(pages_of(pages, NAME_1G), left_1g)};
            left_2m -= to->huge_2m;
            left_1g -= to->huge_1g;
        }
    }
    described->node.numa = described->numa;
}

/* What nobody can have stays that, and does not wrap to what one could. */
static uint64_t milli_of(uint64_t cpus)
{
    return cpus < UINT64_MAX / MILLI ? cpus * MILLI : UINT64_MAX;
}

static void take_size(struct described *described, const json_t *attributes)
{
    const json_t *reserved = json_object_get(attributes, "reserved");
    const json_t *overcommit = json_object_get(attributes, "overcommit");
    struct placement_node *node = &described->node;
    bool is_known = json_u64(attributes, "memory_bytes") > 0;
    uint64_t *capacity = node->capacity.of;
    capacity[PLACEMENT_CPU_MILLI] =
        milli_of(is_known ? json_u64(attributes, "cpus") : UNKNOWN_CPUS);
    capacity[PLACEMENT_MEMORY] = is_known ? plain_memory(attributes) : UNKNOWN_MEMORY;
    capacity[PLACEMENT_DISK] = is_known ? json_u64(attributes, "disk_bytes") : UNKNOWN_DISK;
    capacity[PLACEMENT_HUGE_2M] = pages_of(json_object_get(attributes, "hugepages"), NAME_2M);
    capacity[PLACEMENT_HUGE_1G] = pages_of(json_object_get(attributes, "hugepages"), NAME_1G);
    node->reserved.of[PLACEMENT_CPU_MILLI] = json_u64(reserved, "cpu_millis");
    node->reserved.of[PLACEMENT_MEMORY] = json_u64(reserved, "memory_bytes");
    node->reserved.of[PLACEMENT_DISK] = json_u64(reserved, "disk_bytes");
    for (size_t i = 0; i < PLACEMENT_RESOURCE_COUNT; i++) { /* of a node smaller than that: all */
        if (node->reserved.of[i] > capacity[i]) {
            node->reserved.of[i] = capacity[i];
        }
    }
    node->overcommit[PLACEMENT_CPU_MILLI] = (uint32_t)json_u64(overcommit, "cpu_percent");
    node->overcommit[PLACEMENT_MEMORY] = (uint32_t)json_u64(overcommit, "memory_percent");
    node->overcommit[PLACEMENT_DISK] = (uint32_t)json_u64(overcommit, "disk_percent");
}

static bool pages_are_known(const struct placement_service *service)
{
    enum { SCHEMA_WITH_PAGES = 12 };
    return store_schema_now(service->options.store) >= SCHEMA_WITH_PAGES;
}

/* What the log counts with: see draft_add_check() of service/machine. */
static void write_room(struct placement_service *service, const struct placement_node *node)
{
    struct placement_usage usage;
    struct error ignored = {0};
    uint64_t percent = node->overcommit[PLACEMENT_CPU_MILLI];
    if (!service_is_known(service) ||
        placement_cluster_usage(service->cluster, node->id, &usage, &ignored) < 0) {
        return;
    }
    const uint64_t *limit = usage.limit.of;
    bool knows_pages = pages_are_known(service);
    MEMORY_OWNED char *room = memory_format(
        "%" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %d %" PRIu64 " %" PRIu64,
        limit[PLACEMENT_CPU_MILLI], percent, limit[PLACEMENT_MEMORY], limit[PLACEMENT_DISK],
        knows_pages, limit[PLACEMENT_HUGE_2M], limit[PLACEMENT_HUGE_1G]);
    if (!service->is_room_stale && service->room != NULL && strcmp(service->room, room) == 0) {
        return;
    }
    free(service->room);
    service->room = room;
    room = NULL;
    struct store_command *command = store_command_new();
    store_command_add(command,
                      "INSERT INTO placement_room (key, cpu_millis, cpu_percent, memory_bytes, "
                      "disk_bytes, revision) VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (key) DO "
                      "UPDATE SET cpu_millis = excluded.cpu_millis, cpu_percent = "
                      "excluded.cpu_percent, memory_bytes = excluded.memory_bytes, disk_bytes = "
                      "excluded.disk_bytes, revision = excluded.revision",
                      "tuuuur", node->id, limit[PLACEMENT_CPU_MILLI], percent > 0 ? percent : 100,
                      limit[PLACEMENT_MEMORY], limit[PLACEMENT_DISK]);
    if (knows_pages) {
        store_command_add(command,
                          "UPDATE placement_room SET huge_2m_bytes = ?, huge_1g_bytes = ? WHERE "
                          "key = ?",
                          "uut", limit[PLACEMENT_HUGE_2M] * PLACEMENT_PAGE_2M,
                          limit[PLACEMENT_HUGE_1G] * PLACEMENT_PAGE_1G, node->id);
    }
    service->room_has_pages = knows_pages;
    service_write(service, command, &service->is_room_stale);
}

/* Name -> struct cluster_node of the view, lent from that. */
static struct map nodes_of(const struct cluster_view *view)
{
    struct map nodes = {0};
    for (size_t i = 0; view != NULL && i < view->count; i++) {
        map_set(&nodes, view->nodes[i].name, (void *)(uintptr_t)&view->nodes[i]);
    }
    return nodes;
}

static bool is_alive(const struct map *nodes, const char *name, bool is_self)
{
    const struct cluster_node *node = map_get(nodes, name);
    return node != NULL ? node->is_self || node->health == CLUSTER_HEALTHY : is_self;
}

static bool has_effect(const json_t *taints, const char *effect)
{
    size_t index = 0;
    json_t *taint = NULL;
    json_array_foreach(taints, index, taint)
    {
        if (strcmp(json_text(taint, "effect"), effect) == 0) {
            return true;
        }
    }
    return false;
}

static uint32_t cost_of(const json_t *node)
{
    const char *label = json_text(json_object_get(node, "labels"), "cost");
    uint64_t cost = 0;
    text_parse_u64(text_of(label, strlen(label)), &cost);
    return cost < UINT32_MAX ? (uint32_t)cost : UINT32_MAX;
}

static void set_node(struct placement_service *service, const json_t *node, bool is_alive_now)
{
    struct described *described = NEW(struct described);
    const json_t *attributes = json_object_get(node, "attributes");
    const char *name = json_text(node, "name");
    const char *duty = json_text(node, "duty");
    struct placement_change change = {0};
    struct error err = {0};
    if (strcmp(name, service->node_name) == 0) {
        service->drives_away = has_effect(json_object_get(node, "taints"), "NoExecute");
    }
    described->node.id = name;
    described->node.name = name;
    described->node.pool = json_text(node, "pool");
    described->node.is_ready = is_alive_now;
    described->node.is_eligible = duty[0] == '\0' || strcmp(duty, "active") == 0;
    described->node.cost = cost_of(node);
    take_attributes(described, node, attributes);
    take_place(described, node, attributes);
    take_taints(described, json_object_get(node, "taints"));
    take_size(described, attributes);
    take_numa(described, json_object_get(attributes, "numa"));
    described->node.devices = described->devices;
    described->node.device_count =
        devices_take(service, name, json_object_get(attributes, "passthrough"), described->devices);
    int r = placement_cluster_set_node(service->cluster, &described->node, &change, &err);
    if (r < 0) { /* what does not add up is left out: what is known of the rest holds */
        err = (struct error){0};
        described->node.numa_count = 0;
        described->node.device_count = 0;
        r = placement_cluster_set_node(service->cluster, &described->node, &change, &err);
    }
    cpus_take(service, name, attributes, described->node.numa_count > 0);
    if (r < 0) { /* what was known of it before is not what it has now, nor is it known to live */
        struct error ignored = {0};
        log_warn("placement: node %s gets nothing: %s", name, err.text);
        placement_cluster_set_state(service->cluster, name, false, false, NULL, &ignored);
    } else {
        picture_tell(service, &change);
    }
    if (r == 0 && strcmp(name, service->node_name) == 0 &&
        json_u64(attributes, "memory_bytes") > 0) {
        write_room(service, &described->node);
    }
    free(described);
}

/* One that has just joined has a row, and runs nothing yet: it is heard first, and says what it
 * has. */
static bool has_spoken(const json_t *node)
{
    const json_t *index = json_object_get(node, "index");
    return index != NULL && !json_is_null(index) &&
        json_object_size(json_object_get(node, "attributes")) > 0;
}

/* What of it matters here, as a text. */
static char *digest_of(const json_t *node, bool is_alive_now)
{
    static const char *const keys[] = {"labels", "failure_domain", "pool",   "duty",
                                       "taints", "attributes",     "version"};
    JSON_OWNED json_t *parts = json_array();
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
        json_t *part = json_object_get(node, keys[i]);
        json_array_append_new(parts, part != NULL ? json_incref(part) : json_null());
    }
    json_array_append_new(parts, json_boolean(is_alive_now));
    return json_dumps(parts, JSON_COMPACT | JSON_SORT_KEYS);
}

struct sweep {
    const json_t *seen;
    struct list_of_names {
        const char *names[256];
        size_t count;
    } gone;
};

static void find_gone(const char *name, void *value, void *context)
{
    struct sweep *sweep = context;
    (void)value;
    if (json_object_get(sweep->seen, name) == NULL && sweep->gone.count < 256) {
        sweep->gone.names[sweep->gone.count++] = name;
    }
}

static void remove_gone(struct placement_service *service, const json_t *seen)
{
    struct sweep sweep = {.seen = seen};
    struct error ignored = {0};
    map_each(&service->nodes, find_gone, &sweep);
    for (size_t i = 0; i < sweep.gone.count; i++) {
        MEMORY_OWNED char *name = memory_copy_string(sweep.gone.names[i]);
        placement_cluster_remove_node(service->cluster, name, &ignored);
        free(map_remove(&service->nodes, name));
        free(map_remove(&service->cpus, name));
        free(map_remove(&service->devices, name));
    }
    service->is_all_stale = service->is_all_stale || sweep.gone.count > 0;
}

void nodes_update(struct placement_service *service)
{
    BUFFER_OWNED struct buffer text = {0};
    JSON_OWNED json_t *document = NULL;
    JSON_OWNED json_t *seen = json_object();
    struct error err = {0};
    struct cluster_view *view = peer_view(service->options.peers);
    struct map alive = nodes_of(view);
    size_t index = 0;
    json_t *node = NULL;
    if (cluster_write_nodes(service->options.cluster, &text, &err) < 0 ||
        json_read(text.data, text.used, &document, &err) < 0) {
        log_warn("placement: the nodes could not be read: %s", err.text);
    }
    json_array_foreach(json_object_get(document, "nodes"), index, node)
    {
        const char *name = json_text(node, "name");
        bool is_self = json_is_true(json_object_get(node, "self"));
        bool is_alive_now = is_alive(&alive, name, is_self);
        if (is_alive_now && !is_self && !has_spoken(node)) {
            is_alive_now = false;
            loop_timer_start(service->look, LOOK_MS);
        }
        char *digest = digest_of(node, is_alive_now);
        const char *before = map_get(&service->nodes, name);
        bool is_room_old = service->is_room_stale ||
            (service->room != NULL && service->room_has_pages != pages_are_known(service));
        json_object_set_new(seen, name, json_true());
        if (before == NULL || strcmp(before, digest) != 0 || (is_self && is_room_old)) {
            service->is_all_stale = service->is_all_stale || before == NULL;
            set_node(service, node, is_alive_now);
        }
        free(map_set(&service->nodes, name, digest));
    }
    map_done(&alive);
    if (view != NULL) {
        cluster_view_unref(view);
    }
    if (document != NULL) {
        remove_gone(service, seen);
    }
}

static bool take_peak(sqlite3_stmt *row, void *context)
{
    struct placement_service *service = context;
    struct error ignored = {0}; /* a node that has left */
    placement_cluster_set_load(service->cluster, store_text(row, 0),
                               (uint64_t)sqlite3_column_int64(row, 1), 0, &ignored);
    return true;
}

void nodes_update_peaks(struct placement_service *service)
{
    struct error err = {0};
    if (store_query(service->options.store, &err, take_peak, service,
                    "SELECT key, cpu_millis FROM node_peak", "") < 0) {
        log_warn("placement: what nodes foresee could not be read: %s", err.text);
    }
}

uint64_t nodes_id(const struct placement_service *service, const char *name)
{
    struct cluster_view *view = peer_view(service->options.peers);
    const struct cluster_node *node = view != NULL ? cluster_view_find_name(view, name) : NULL;
    uint64_t id = node != NULL ? node->id : 0;
    if (view != NULL) {
        cluster_view_unref(view);
    }
    return id;
}
