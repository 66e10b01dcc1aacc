/*
 * Classes: nodes that rules and sizes cannot tell apart.  The key is a text of everything that
 * they can see; a node whose key changes moves to another class.
 */
#include <string.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/error.h"
#include "base/memory.h"

#include "engine/placement/parts.h"

enum { NODE_ATTRIBUTES = 4 }; /* pool, region, zone, rack */

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct placement_attribute *)a)->name,
                  ((const struct placement_attribute *)b)->name);
}

/* All that is set, by name. */
static int gather(const struct placement_node *node, struct placement_attribute *ret_sorted,
                  size_t *ret_count, struct error *err)
{
    const struct placement_attribute own[NODE_ATTRIBUTES] = {
        {"node.pool",
         node->pool != NULL && node->pool[0] != 0 ? node->pool : PLACEMENT_POOL_DEFAULT},
        {"node.region", node->region},
        {"node.zone", node->zone},
        {"node.rack", node->rack},
    };
    size_t count = 0;
    for (size_t i = 0; i < NODE_ATTRIBUTES; i++) {
        if (own[i].value != NULL && own[i].value[0] != 0) {
            ret_sorted[count++] = own[i];
        }
    }
    for (size_t i = 0; i < node->attribute_count; i++) {
        ret_sorted[count++] = node->attributes[i];
    }
    qsort(ret_sorted, count, sizeof(*ret_sorted), by_name);
    for (size_t i = 1; i < count; i++) {
        if (strcmp(ret_sorted[i - 1].name, ret_sorted[i].name) == 0) {
            return error_set(err, ERROR_INVALID, "the attribute %s is there twice",
                             ret_sorted[i].name);
        }
    }
    *ret_count = count;
    return 0;
}

static void write_key(struct buffer *key, const struct placement_node *node,
                      const struct placement_attribute *attributes, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        buffer_append_format(key, "%s=%s\n", attributes[i].name, attributes[i].value);
    }
    for (size_t i = 0; i < node->taint_count; i++) {
        buffer_append_format(key, "%s=%s:%d\n", node->taints[i].key, node->taints[i].value,
                             (int)node->taints[i].effect);
    }
    for (size_t i = 0; i < PLACEMENT_RESOURCE_COUNT; i++) {
        buffer_append_format(key, "%llu,%llu,%u\n", (unsigned long long)node->capacity.of[i],
                             (unsigned long long)node->reserved.of[i], node->overcommit[i]);
    }
    for (size_t i = 0; i < node->numa_count; i++) {
        buffer_append_format(key, "numa %u,%llu,%llu,%llu\n", node->numa[i].cores,
                             (unsigned long long)node->numa[i].memory_bytes,
                             (unsigned long long)node->numa[i].huge_2m,
                             (unsigned long long)node->numa[i].huge_1g);
    }
    for (size_t i = 0; i < node->device_count; i++) {
        buffer_append_format(key, "%s\n%s\n%u\n", node->devices[i].class_name,
                             node->devices[i].model != NULL ? node->devices[i].model : "",
                             node->devices[i].count);
    }
    buffer_append_format(key, "%u %u %u\n", node->cost, node->port_first, node->port_last);
}

static int by_address(const void *a, const void *b)
{
    uintptr_t left = (uintptr_t)((const struct attribute *)a)->name;
    uintptr_t right = (uintptr_t)((const struct attribute *)b)->name;
    return left < right ? -1 : left > right;
}

static void set_limits(struct class *class, const struct placement_node *node)
{
    class->capacity = node->capacity;
    class->reserved = node->reserved;
    for (size_t i = 0; i < PLACEMENT_RESOURCE_COUNT; i++) {
        uint64_t percent = node->overcommit[i] != 0 ? node->overcommit[i] : 100;
        uint64_t usable = node->capacity.of[i] - node->reserved.of[i];
        /* In this order: bytes times percent are below 2^64 (see check.c), and nothing is lost. */
        class->limit.of[i] = usable / 100 * percent + usable % 100 * percent / 100;
    }
    if (node->capacity.of[PLACEMENT_SLOTS] == 0) {
        class->limit.of[PLACEMENT_SLOTS] = UINT64_MAX / 2;
    }
    uint32_t percent = node->overcommit[PLACEMENT_CPU_MILLI];
    class->cpu_percent = percent != 0 ? percent : 100;
    class->cores_reserved = (uint32_t)((node->reserved.of[PLACEMENT_CPU_MILLI] + 999) / 1000);
    class->core_count = (uint32_t)(node->capacity.of[PLACEMENT_CPU_MILLI] / 1000);
    if (node->numa_count > 0) {
        class->core_count = 0;
    }
    for (size_t i = 0; i < node->numa_count; i++) {
        class->core_count += node->numa[i].cores;
        if (node->numa[i].cores > class->numa_cores_most) {
            class->numa_cores_most = node->numa[i].cores;
        }
    }
    if (class->core_count > PLACEMENT_CORES_MAX) {
        class->core_count = PLACEMENT_CORES_MAX;
    }
}

static struct class *class_new(struct placement_cluster *cluster, const struct placement_node *node,
                               const struct placement_attribute *attributes, size_t count)
{
    struct class *class = NEW(struct class);
    class->attributes = memory_new(count + 1, sizeof(*class->attributes));
    class->attribute_count = count;
    for (size_t i = 0; i < count; i++) {
        class->attributes[i] = (struct attribute){
            word_get(cluster, attributes[i].name),
            word_get(cluster, attributes[i].value),
        };
    }
    qsort(class->attributes, count, sizeof(*class->attributes), by_address);
    class->taints = memory_new(node->taint_count + 1, sizeof(*class->taints));
    class->taint_count = node->taint_count;
    if (node->taint_count > 0) {
        memcpy(class->taints, node->taints, node->taint_count * sizeof(*class->taints));
    }
    bool has_pool = node->pool != NULL && node->pool[0] != 0;
    class->pool = word_get(cluster, has_pool ? node->pool : PLACEMENT_POOL_DEFAULT);
    set_limits(class, node);
    class->kinds = memory_new(node->device_count + 1, sizeof(*class->kinds));
    class->kind_count = node->device_count;
    for (size_t i = 0; i < node->device_count; i++) {
        const struct placement_device *device = &node->devices[i];
        class->kinds[i] = (struct kind){
            .class_name = word_get(cluster, device->class_name),
            .model = word_get(cluster, device->model != NULL ? device->model : ""),
            .count = (uint16_t)device->count,
        };
        class->devices += device->count * PLACEMENT_SHARE_WHOLE;
    }
    class->cost = node->cost;
    class->port_first = node->port_first != 0 ? node->port_first : PORT_FIRST_DEFAULT;
    class->port_last = node->port_last != 0 ? node->port_last : PORT_LAST_DEFAULT;
    return class;
}

static void class_register(struct placement_cluster *cluster, struct class *class)
{
    uint32_t slot = 0;
    while (slot < cluster->class_room && cluster->classes[slot] != NULL) {
        slot++;
    }
    if (slot == cluster->class_room) {
        size_t room = cluster->class_room != 0 ? cluster->class_room * 2 : 16;
        cluster->classes = memory_resize(cluster->classes, room * sizeof(struct class *));
        memset(cluster->classes + cluster->class_room, 0,
               (room - cluster->class_room) * sizeof(struct class *));
        cluster->class_room = room;
    }
    cluster->classes[slot] = class;
    class->slot = slot;
    class->serial = ++cluster->class_serial;
    cluster->class_epoch++;
}

/* A reference, which the node holds: class->node_count. */
int class_obtain(struct placement_cluster *cluster, const struct placement_node *node,
                 struct class **ret_class, struct error *err)
{
    struct placement_attribute attributes[PLACEMENT_ATTRIBUTES_MAX + NODE_ATTRIBUTES];
    size_t count = 0;
    int r = gather(node, attributes, &count, err);
    if (r < 0) {
        return r;
    }
    BUFFER_OWNED struct buffer key = {0};
    write_key(&key, node, attributes, count);
    struct class *class = map_get(&cluster->classes_by_key, buffer_string(&key));
    if (class == NULL) {
        class = class_new(cluster, node, attributes, count);
        class->key = buffer_take(&key);
        map_set(&cluster->classes_by_key, class->key, class);
        class_register(cluster, class);
    }
    class->node_count++;
    *ret_class = class;
    return 0;
}

void class_unref(struct placement_cluster *cluster, struct class *class)
{
    CHECK(class->node_count > 0);
    if (--class->node_count > 0) {
        return;
    }
    CHECK(class->ordered_count == 0);
    map_remove(&cluster->classes_by_key, class->key);
    cluster->classes[class->slot] = NULL;
    cluster->class_epoch++;
    for (size_t i = 0; i < class->attribute_count; i++) {
        word_unref(cluster, class->attributes[i].name);
        word_unref(cluster, class->attributes[i].value);
    }
    for (size_t i = 0; i < class->kind_count; i++) {
        word_unref(cluster, class->kinds[i].class_name);
        word_unref(cluster, class->kinds[i].model);
    }
    for (size_t order = 0; order < ORDERS; order++) {
        for (size_t i = 0; i < BUCKETS; i++) {
            free(class->orders[order].buckets[i].items);
        }
    }
    word_unref(cluster, class->pool);
    free(class->kinds);
    free(class->attributes);
    free(class->taints);
    free(class->key);
    free(class);
}

struct word *class_value(const struct class *class, const struct word *name)
{
    size_t low = 0, high = class->attribute_count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if ((uintptr_t) class->attributes[middle].name < (uintptr_t)name) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    bool found = low < class->attribute_count && class->attributes[low].name == name;
    return found ? class->attributes[low].value : NULL;
}
